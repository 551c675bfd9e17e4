//! Progress bars on standard error, only where that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// A bar with rate and time left; hidden without a terminal.
///
/// - `what`: shown before the bar, such as `reading`
/// - `unit`: what is counted, such as `clusters`
pub fn bar(total: u64, what: &str, unit: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!(
        "{{msg:>12}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{per_sec:>12}} {{eta:>6}} left"
    );
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bars().add(ProgressBar::new(total).with_style(style).with_message(what.to_owned()))
}

/// A writer for log lines that doesn't tear the bars.
pub fn stderr_between_bars() -> impl Write {
    struct Stderr;
    impl Write for Stderr {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match BARS.get() {
                Some(bars) => bars.suspend(|| io::stderr().write(bytes)),
                None => io::stderr().write(bytes),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            io::stderr().flush()
        }
    }
    Stderr
}
