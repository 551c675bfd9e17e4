//! The GPU's kernels on the CPU: C++ that stands in for CUDA runs them against plain loops; skipped, with a word, where there
//! is no C++ compiler.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::process::Command;

use train::Precision;

/// Random cases of each kernel; more of them with this variable.
const ROUNDS: &str = "4";
const ROUNDS_VARIABLE: &str = "MTID_KERNEL_ROUNDS";

fn agrees(precision: Precision) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if !cfg!(target_arch = "x86_64") || Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no C++ compiler for x86-64 here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("kernels");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/kernels.cpp");
    let compiled = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-mf16c", "-Wall", "-Wno-unknown-pragmas", "-Wno-sign-compare"])
        .arg(format!("-DPRECISION={}", precision as u8))
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success() && messages.is_empty(), "{messages}");
    let rounds = std::env::var(ROUNDS_VARIABLE).unwrap_or_else(|_| ROUNDS.into());
    let ran = Command::new(&program).arg(&rounds).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    assert_eq!(said, format!("{rounds} rounds, 0 failures\n"));
}

#[test]
fn the_kernels_agree_with_plain_loops_in_f32() {
    agrees(Precision::F32);
}

#[test]
fn the_kernels_agree_with_plain_loops_in_tf32() {
    agrees(Precision::Tf32);
}

#[test]
fn the_kernels_agree_with_plain_loops_in_halves() {
    agrees(Precision::Fp16);
}
