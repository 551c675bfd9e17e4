//! Kills, signals, full disks, forbidden files: the output is absent or complete, and the same command ends the job.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use support::{Clusters, Sandbox, stderr, tree};

/// A set whose preparation takes long enough to be interrupted: 16,000 clusters.
fn production() -> Sandbox {
    let sandbox = Sandbox::new();
    for number in 0..4 {
        sandbox.write(&format!("in/{number}_planeX.npz"), &Clusters::new(4000, number).deflated());
    }
    sandbox
}

fn command(sandbox: &Sandbox, output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prepare"));
    command
        .current_dir(sandbox.dir.path())
        .env_remove("MTID_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.args(["--config", "config.json", "--input", "in", "--output", output]);
    command
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// `MTID_KILLS=50 cargo test --release -p prepare --test faults killed_at -- --nocapture` kills fifty times.
#[test]
fn killed_at_random_moments_the_output_is_absent_or_complete() {
    let (kills, seed) = (setting("MTID_KILLS", 12), setting("MTID_KILL_SEED", 3));
    let mut rng = shared::random::stream(seed, "prepare kills", &[]);
    let sandbox = production();
    let start = Instant::now();
    sandbox.prepared("whole", &[]);
    let whole = start.elapsed();
    let expected = tree(&sandbox.path("whole"));
    let (mut absent, mut complete, mut finished) = (0, 0, 0);
    for kill in 0..kills {
        let moment = whole.mul_f64(rng.random_range(0.0..1.1));
        let mut child = command(&sandbox, "out").spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let is_there = sandbox.path("out").exists();
        assert!(
            !is_there || tree(&sandbox.path("out")) == expected,
            "kill {kill} of seed {seed} at {moment:?}"
        );
        complete += u64::from(is_there);
        absent += u64::from(!is_there);
        // Every other time what is left meets the next kill.
        if is_there || rng.random() || kill + 1 == kills {
            sandbox.prepared("out", &[]);
            assert!(tree(&sandbox.path("out")) == expected, "after kill {kill} of seed {seed} at {moment:?}");
            let left = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("out.partial");
            let names: Vec<_> =
                fs::read_dir(sandbox.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(!names.iter().any(left), "{names:?} after kill {kill} of seed {seed} at {moment:?}");
            fs::remove_dir_all(sandbox.path("out")).unwrap();
            finished += 1;
        }
    }
    eprintln!(
        "{kills} kills of seed {seed} within {:?}: {absent} times absent, {complete} times complete, {finished} times finished",
        whole.mul_f64(1.1)
    );
    assert!(absent * 4 >= kills, "the kills come too late to test anything");
}

#[test]
fn a_second_run_on_the_same_output_is_refused_while_the_first_is_at_work() {
    let sandbox = production();
    let mut first = command(&sandbox, "out").spawn().unwrap();
    let lock = sandbox.path("out.partial.lock");
    while !lock.exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first run ended before it was looked at");
    }
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &first.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    signal("-STOP");
    let whole = sandbox.prepare("out", &[]);
    let shard = sandbox.prepare("out", &["--phase", "scan", "--shard", "0/2"]);
    signal("-CONT");
    assert!(first.wait().unwrap().success());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let expected = format!(
        "error: process {} on `{}` is at work there, says `{}`; wait for it, or give another `--output`\n",
        first.id(),
        host.trim(),
        lock.display()
    );
    for refused in [whole, shard] {
        assert_eq!((refused.status.code(), stderr(&refused)), (Some(1), expected.clone()));
    }
    sandbox.prepared("whole", &[]);
    assert!(tree(&sandbox.path("out")) == tree(&sandbox.path("whole")));
    assert!(!lock.exists());
}

#[test]
fn a_killed_replacement_keeps_or_completes() {
    let sandbox = production();
    sandbox.prepared("new", &["--balance", "undersample"]);
    let new = tree(&sandbox.path("new"));
    for moment in 0..10 {
        sandbox.prepared("out", &["--overwrite"]);
        let old = tree(&sandbox.path("out"));
        let mut replace = command(&sandbox, "out");
        let mut child = replace.args(["--balance", "undersample", "--overwrite"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment * 12));
        child.kill().unwrap();
        child.wait().unwrap();
        if sandbox.path("out").exists() {
            let found = tree(&sandbox.path("out"));
            assert!(found == old || found == new, "moment {moment}");
        }
        sandbox.prepared("out", &["--balance", "undersample", "--overwrite"]);
        assert!(tree(&sandbox.path("out")) == new);
    }
}

#[test]
fn a_signal_says_what_is_kept_and_the_same_command_goes_on() {
    let sandbox = production();
    let mut seen = Vec::new();
    for moment in 0..12 {
        let child = command(&sandbox, "out").args(["--threads", "1"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + moment * 12));
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => break,
            code => assert_eq!(code, Some(75), "{} {killed}", stderr(&output)),
        }
        assert!(!sandbox.path("out").exists());
        seen.push(stderr(&output).replace(" INFO shard 0/1 is scanned already\n", ""));
    }
    let known = [
        "stopped: by a signal while looking at the files; nothing is kept; the same command goes on from there\n",
        "stopped: by a signal while scanning; nothing of the scan is kept; the same command goes on from there\n",
        "stopped: by a signal while writing; scan and plan are kept; the same command goes on from there\n",
    ];
    assert!(!seen.is_empty() && seen.iter().all(|text| known.contains(&text.as_str())), "{seen:?}");
    sandbox.prepared("out", &[]);
    sandbox.prepared("whole", &[]);
    assert!(tree(&sandbox.path("out")) == tree(&sandbox.path("whole")));
}

#[test]
fn a_full_disk_leaves_nothing_and_the_same_command_ends_the_job_once_there_is_room() {
    let sandbox = production();
    let disk = sandbox.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("size=400k") {
        eprintln!("skipped: this user can't mount a tmpfs");
        return;
    }
    let output = sandbox.prepare("disk/out", &[]);
    let is_there = disk.join("out").exists();
    let grown = mount("remount,size=64m");
    let again = sandbox.prepare("disk/out", &[]);
    let whole = sandbox.prepared("whole", &[]);
    let digest = disk.join("out").exists().then(|| sandbox.manifest("disk/out")["digest"].clone());
    Command::new("umount").arg(&disk).status().unwrap();

    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("error: can't write "), "{}", stderr(&output));
    assert!(!is_there);
    assert!(grown && again.status.success(), "{}", stderr(&again));
    assert_eq!(digest, Some(whole["digest"].clone()));
}

#[test]
fn a_file_that_may_not_be_read_is_a_bad_file() {
    let sandbox = Sandbox::new();
    sandbox.write("in/good_planeX.npz", &Clusters::new(20, 1).npz());
    sandbox.write("in/bad_planeX.npz", &Clusters::new(20, 2).npz());
    fs::set_permissions(sandbox.path("in/bad_planeX.npz"), fs::Permissions::from_mode(0o0)).unwrap();
    let binary = env!("CARGO_BIN_EXE_prepare");
    let arguments = ["--config", "config.json", "--input", "in", "--output", "out", "--only", "test"];
    let is_root = fs::read(sandbox.path("in/bad_planeX.npz")).is_ok();
    let mut command = if is_root {
        // Root may read everything, so become nobody, in a copy that nobody may run.
        fs::copy(binary, sandbox.path("prepare")).unwrap();
        for (path, mode) in [(".", 0o777), ("in", 0o755), ("prepare", 0o755)] {
            fs::set_permissions(sandbox.path(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(sandbox.path("prepare"));
        command
    } else {
        Command::new(binary)
    };
    let Ok(output) = command.current_dir(sandbox.dir.path()).args(arguments).output() else {
        eprintln!("skipped: there is no `setpriv`");
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let bad = &sandbox.manifest("out")["preparation"]["bad_files"];
    assert_eq!(bad[0]["reason"], "it can't be opened: Permission denied (os error 13)");
}

#[test]
fn bombs_and_lies_do_not_grow_the_memory() {
    let sandbox = Sandbox::new();
    sandbox.write("in/good_planeX.npz", &Clusters::new(20, 1).npz());
    let rows = 200_000; // 1.6 GB of empty images in 1.6 MB
    let mut clusters = Clusters::new(1, 2);
    let metadata = vec![clusters.metadata.remove(0); rows];
    let metadata = support::Npy::f32(&format!("({rows}, 14)"), &metadata.concat()).bytes();
    let mut images = support::Npy::f32(&format!("({rows}, 128, 16)"), &[]);
    images.data = vec![0; rows * support::PIXELS * 4];
    let bomb = support::zip(&[
        support::Member::deflated("images.npy", &images.bytes()),
        support::Member::deflated("metadata.npy", &metadata),
    ]);
    drop(images);
    assert!(bomb.len() < 8 << 20);
    sandbox.write("in/bomb_planeX.npz", &bomb);
    let mut lie =
        support::Member::stored("images.npy", &support::Npy::f32("(1, 128, 16)", &[0.0; 2048]).bytes());
    lie.size = u32::MAX - 1;
    lie.method = 8;
    sandbox.write("in/lie_planeX.npz", &support::zip(&[lie]));
    let limited =
        "ulimit -v 700000; exec \"$0\" --config config.json --input in --output out --only test --threads 2";
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_prepare")]).env("MALLOC_ARENA_MAX", "2");
    let output = command.current_dir(sandbox.dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(sandbox.manifest("out")["splits"]["test"]["rows"], 20 + rows);
}
