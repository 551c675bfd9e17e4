//! Shards of one phase that run at the same time, as the tasks of a batch array do.

mod support;

use std::process::Output;

use support::{Clusters, Sandbox, stderr};

const SHARDS: usize = 6;

fn production() -> Sandbox {
    let sandbox = Sandbox::new();
    for number in 1..=6 {
        sandbox.write(&format!("in/prod_{number}_planeX.npz"), &Clusters::new(60, number).npz());
    }
    sandbox
}

/// All shards of a phase at once.
fn together(sandbox: &Sandbox, output: &str, phase: &str, more: &[&str]) -> Vec<Output> {
    let one = |index: usize| {
        let shard = format!("{index}/{SHARDS}");
        sandbox.prepare(output, &[&["--phase", phase, "--shard", &shard, "--threads", "1"], more].concat())
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..SHARDS).map(|index| scope.spawn(move || one(index))).collect();
        jobs.into_iter().map(|job| job.join().expect("the job ends")).collect()
    })
}

fn succeed(outputs: &[Output]) {
    for output in outputs {
        assert!(output.status.success(), "{}", stderr(output));
    }
}

#[test]
fn shards_that_begin_and_end_together_disturb_none() {
    let sandbox = production();
    let whole = sandbox.prepared("whole", &[]);
    for round in 0..12 {
        let output = format!("out{round}");
        succeed(&together(&sandbox, &output, "scan", &[]));
        succeed(&[sandbox.prepare(&output, &["--phase", "plan"])]);
        succeed(&together(&sandbox, &output, "write", &[]));
        assert_eq!(sandbox.manifest(&output)["digest"], whole["digest"]);
        assert!(sandbox.path(&output).join("train/part-0000-0000.parquet").is_file());
    }
}

#[test]
fn shards_that_replace_a_finished_folder_together_leave_it_whole() {
    let sandbox = production();
    sandbox.prepared("out", &["--split-by", "cluster"]);
    let more = ["--overwrite"];
    succeed(&together(&sandbox, "out", "scan", &more));
    succeed(&[sandbox.prepare("out", &["--phase", "plan", "--overwrite"])]);
    let ended = together(&sandbox, "out", "write", &more);
    succeed(&ended);
    assert_eq!(sandbox.manifest("out")["preparation"]["settings"]["split_by"], "event");
    assert!(sandbox.path("out/train").is_dir());
}
