//! Why a file is not used.

use std::error::Error;
use std::io;

use crate::layout::LayoutError;
use crate::npz::NpzError;

/// Why a file is not used; the caller adds its name.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("it is a folder")]
    Folder,
    #[error("it is a link to nowhere")]
    DanglingLink,
    #[error("it is no regular file")]
    Special,
    #[error("its name is not UTF-8")]
    NameNotUtf8,
    #[error("the folder can't be read")]
    UnreadableFolder(#[source] io::Error),
    #[error("it can't be opened")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Npz(#[from] NpzError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("a pixel in row {row} of `images` is {value}; raw ADC is never negative")]
    Negative { value: f32, row: u64 },
    #[error("it has {0} rows, more than 2^32")]
    TooManyRows(u64),
    #[error("it changed after it was scanned")]
    Changed,
}

impl BadFile {
    /// The message and its causes in one line.
    pub fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
