//! The pages in a real browser: nothing is fetched, nothing complains, light and dark and print look as meant.

#![expect(clippy::unwrap_used, reason = "a test may fail, and its fixtures are small")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Sandbox, card, shifted, succeeded};
use serde_json::{Value, json};

/// Chromium by one of its names; `None` (said on standard error) without one, but not in CI.
fn chromium() -> Option<PathBuf> {
    let folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|p| p.is_file());
    assert!(
        found.is_some() || std::env::var("CI").as_deref() != Ok("true"),
        "no Chromium, which CI must have; install the package `chromium`"
    );
    if found.is_none() {
        eprintln!("SKIPPED: no Chromium found; install the package `chromium`");
    }
    found
}

/// What browser.py finds on a page of the sandbox; the pictures lie in `look`.
fn look(sandbox: &Sandbox, chromium: &PathBuf, page: &str) -> Value {
    let python = std::env::var_os("MTID_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser.py");
    let mut command = Command::new(python);
    command.arg(script).arg(chromium).arg(sandbox.path(page)).arg(sandbox.path("look"));
    let output = command.output().unwrap();
    succeeded(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks what holds for every page.
fn check(sandbox: &Sandbox, found: &Value, figures: u32) {
    assert_eq!(found["requests"], json!([]), "a page that needs nothing asks for nothing");
    assert_eq!(found["complaints"], json!([]));
    assert_eq!(found["figures"], figures);
    assert_eq!(found["overflow"], 0, "wide tables scroll by themselves");
    assert_eq!(found["background"], json!({ "light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)" }));
    assert_eq!(found["text"], json!({ "light": "rgb(27, 31, 36)", "dark": "rgb(230, 237, 243)" }));
    for (file, magic) in [("light.png", "\u{89}PNG"), ("dark.png", "\u{89}PNG"), ("print.pdf", "%PDF")] {
        let bytes = std::fs::read(sandbox.path("look").join(file)).unwrap();
        let start: String = bytes[..4].iter().map(|&byte| char::from(byte)).collect();
        assert!(start == magic && bytes.len() > 20_000, "{file}: {} bytes", bytes.len());
    }
}

/// No address of a network in the page's markup: the names of the SVG standard aside.
fn assert_no_address(page: &str) {
    for (at, _) in page.match_indices("://") {
        let start = page[..at].rfind(['"', ' ', '(', '\'']).map_or(0, |start| start + 1);
        let address = page[start..].split(['"', ' ', ')', '\'']).next().unwrap_or_default();
        assert!(address.starts_with("http://www.w3.org/"), "{address}");
    }
    for tag in ["<script", "<link", "<iframe", "<img", "@import", "url("] {
        let own = page.match_indices(tag).filter(|(at, _)| !page[*at..].starts_with("url(#")).count();
        assert_eq!(own, 0, "{tag}");
    }
}

#[test]
fn report_and_comparison_open_without_network_in_light_dark_and_print() {
    let sandbox = Sandbox::new();
    sandbox.write_model("b.onnx", &shifted(-1.0), Some(&card()));
    succeeded(&sandbox.report(&["--also", "b.onnx"]));
    let other = ["--model", "b.onnx", "--data", "data/test", "--output", "b", "--device", "cpu"];
    succeeded(&sandbox.evaluate(&other));
    succeeded(&sandbox.evaluate(&["compare", "report", "b", "--output", "c"]));
    for page in ["report/report.html", "c/compare.html"] {
        assert_no_address(&sandbox.text(page));
    }
    let Some(chromium) = chromium() else { return };
    // Seven charts and three rows of clusters; two charts.
    check(&sandbox, &look(&sandbox, &chromium, "report/report.html"), 10);
    check(&sandbox, &look(&sandbox, &chromium, "c/compare.html"), 2);
}

#[test]
fn the_check_of_a_page_notices_a_page_that_asks_and_complains() {
    let Some(chromium) = chromium() else { return };
    let sandbox = Sandbox::empty();
    let page = "<body><figure><svg><text>x</text></svg></figure><img src='gone.png'><script>console.error('no')</script>";
    std::fs::write(sandbox.path("bad.html"), page).unwrap();
    let found = look(&sandbox, &chromium, "bad.html");
    assert!(found["requests"][0].as_str().unwrap().ends_with("/gone.png"), "{found}");
    assert!(found["complaints"].as_array().unwrap().len() >= 2, "{found}");
}
