//! The lines on standard output: the F1 that people ask for first, and where the rest is.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::compare::Compared;
use crate::predict::Predicted;
use crate::report::Report;
use crate::text;

/// What the program has done; displays as what goes to standard output.
#[derive(Debug)]
pub enum Done {
    /// A report
    Reported(Box<Summary>),
    /// A comparison of reports
    Compared(Compared),
    /// Scores without labels
    Predicted(Predicted),
    /// What a model says about itself
    Inspected(String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(done) => done.fmt(f),
            Self::Compared(done) => done.fmt(f),
            Self::Predicted(done) => done.fmt(f),
            Self::Inspected(text) => f.write_str(text),
        }
    }
}

/// What a run has made; displays as a few lines.
#[derive(Debug)]
pub struct Summary {
    /// The report
    pub report: Report,
    /// Its folder
    pub output: PathBuf,
    /// Whether it was there already
    pub up_to_date: bool,
}

impl Summary {
    /// A new report.
    pub fn new(report: Report, output: &Path) -> Self {
        Self { report, output: output.to_owned(), up_to_date: false }
    }

    /// A report that was there already.
    pub fn up_to_date(report: Report, output: &Path) -> Self {
        Self { up_to_date: true, ..Self::new(report, output) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for text::F1Row { name, f1, .. } in text::f1_table(&self.report) {
            let (main, macro_avg, weighted) = (f1.main_track, f1.macro_avg, f1.weighted);
            writeln!(f, "{name}: F1 main track {main:.4}, macro {macro_avg:.4}, weighted {weighted:.4}")?;
        }
        let word = if self.up_to_date { "up to date" } else { "report" };
        write!(f, "{word}: {}", self.output.join("report.html").display())
    }
}
