//! Studies that can't be written, read or gone on with: read-only folders, full disks, newer formats, spent time.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{CONFIG, folder, search};
use shared::study::{Claim, Next, Outcome, Study};

/// A user who owns nothing.
const NOBODY: u32 = 65_534;

/// Whether a test runs as root, whom no permission stops.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Run `search` as a user who may only read; none if that user can't even start it.
fn search_as_reader(folder: &Path, args: &[&str]) -> Option<(i32, String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_search"));
    command.current_dir(folder).args(args);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
        output => output.expect("search runs"),
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Some((output.status.code().expect("no signal"), text(output.stdout), text(output.stderr)))
}

fn set_mode(path: &Path, folder_mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(folder_mode)).expect("it is ours");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable").flatten() {
            let is_dir = entry.path().is_dir();
            set_mode(&entry.path(), if is_dir { folder_mode } else { folder_mode & 0o666 });
        }
    }
}

#[test]
fn a_read_only_study_is_shown_and_never_written() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T"]);
    run(&["ask", "--study", "T"]);
    let before = fs::read(folder.path().join("T/journal.log")).unwrap();
    set_mode(folder.path(), 0o555);
    let shown = search_as_reader(folder.path(), &["status", "--study", "T"]);
    let asked = search_as_reader(folder.path(), &["ask", "--study", "T"]);
    let noted = search_as_reader(folder.path(), &["notes", "--study", "T"]);
    set_mode(folder.path(), 0o755);
    let Some((code, out, err)) = shown else {
        eprintln!(
            "SKIPPED a_read_only_study_is_shown_and_never_written: another user can't reach the program"
        );
        return;
    };
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.ends_with("T: 1 waiting (budget 3)\n"), "{out}");
    assert_eq!(noted.unwrap().0, 0);
    assert_eq!(
        asked.unwrap(),
        (
            1,
            String::new(),
            "error: can't write journal `T/journal.log`; nothing was added to it\n  caused by: Permission denied (os error 13)\n"
                .into()
        )
    );
    assert_eq!(fs::read(folder.path().join("T/journal.log")).unwrap(), before);
}

#[test]
fn a_full_disk_loses_no_trial() {
    let folder = folder(CONFIG);
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED a_full_disk_loses_no_trial: only root can mount a small disk");
        return;
    }
    let unmount = Unmount(disk.clone());
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "disk/T", "--budget", "20"]);
    fs::write(disk.join("filler"), vec![1; 1 << 20]).unwrap_err();

    // The journal's last block may still have room: then only the trial's own file is missing.
    let full = "  caused by: No space left on device (os error 28)\n";
    let mut kept = 0;
    loop {
        let (code, out, err) = run(&["ask", "--study", "disk/T"]);
        assert_eq!((code, out.as_str()), (1, ""));
        if err == format!("error: can't write journal `disk/T/journal.log`; nothing was added to it\n{full}")
        {
            break;
        }
        assert_eq!(err, format!("error: can't write `disk/T/trials/{kept:04}/trial.json`\n{full}"));
        kept += 1;
        assert!(kept < 20, "the disk is not full");
    }
    let text = fs::read_to_string(disk.join("T/journal.log")).unwrap();
    assert!(text.ends_with("}\n"), "no half line stays behind");
    let study = Study::open(&disk.join("T")).unwrap();
    assert_eq!(study.trials().unwrap().len(), kept);

    fs::remove_file(disk.join("filler")).unwrap();
    assert_eq!(run(&["ask", "--study", "disk/T"]), (0, format!("disk/T/trials/{kept:04}\n"), String::new()));
    let Claim::Run(lease) = study.claim(0).unwrap() else { panic!("the trial waits") };
    assert!(lease.folder().join("trial.json").exists());
    lease.tell(Outcome::Complete { value: 0.5 }).unwrap();
    drop(study);
    drop(unmount);
}

/// Unmounts when a test ends.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn files_of_a_newer_program_are_refused() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T"]);
    let journal = folder.path().join("T/journal.log");
    let old = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, format!("{old}{{\"op_code\":11,\"worker_id\":\"x\"}}\n")).unwrap();
    for command in ["status", "ask", "best", "importance", "notes"] {
        assert_eq!(
            run(&[command, "--study", "T"]),
            (
                1,
                String::new(),
                "error: line 4 of journal `T/journal.log` has operation 11, which this program does not know; use a newer program\n"
                    .into()
            )
        );
    }
    fs::write(&journal, old).unwrap();
    let file = folder.path().join("T/study.json");
    let newer = fs::read_to_string(&file).unwrap().replace("\"schema_version\": 1", "\"schema_version\": 2");
    fs::write(&file, newer).unwrap();
    assert_eq!(
        run(&["status", "--study", "T"]),
        (
            1,
            String::new(),
            "error: `T/study.json` has schema version 2, this program knows 1; use a newer program\n".into()
        )
    );
}

#[test]
fn no_trial_comes_after_the_time_budget_until_it_is_raised() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    let create = |hours: &str| run(&["create", "--config", "c.json", "--study", "T", "--time-budget", hours]);
    create("0.00025"); // 0.9 s
    let study = Study::open(&folder.path().join("T")).unwrap();
    let Next::Run(lease) = study.next().unwrap() else { panic!("no time was spent") };
    lease.tell(Outcome::Complete { value: 0.5 }).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(matches!(study.next().unwrap(), Next::Spent));
    assert_eq!(
        run(&["ask", "--study", "T"]),
        (
            0,
            String::new(),
            " WARN 0 of 1 trials added: the time budget is spent; `search create` with a larger `--time-budget` raises it\n"
                .into()
        )
    );
    assert_eq!(create("1").1, "study `T` exists; changed time_budget_s: 0.9 → 3600.0\n");
    assert_eq!(run(&["ask", "--study", "T"]).1, "T/trials/0001\n");
    let refused = "error: `time_budget_s`: 0 is not above 0\n";
    assert_eq!(create("0"), (1, String::new(), refused.into()));
}
