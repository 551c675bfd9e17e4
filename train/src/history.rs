//! One row an epoch: what `history.csv` holds.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::files::{self, FileError};

/// Numbers of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of the epoch, from 1
    pub epoch: u32,
    /// Optimiser steps so far
    pub step: i64,
    /// Seconds of this epoch, validation included
    pub seconds: f64,
    /// Training rows a second, validation not counted
    pub samples_per_second: f64,
    /// Rate of the epoch's last step, without Adam's bias correction
    pub learning_rate: f64,
    /// Mean training loss in nats, while the weights moved
    pub loss: f64,
    /// Training accuracy at 0.5, while the weights moved
    pub accuracy: f64,
    /// Mean validation loss in nats
    pub val_loss: f64,
    /// Validation accuracy at 0.5
    pub val_accuracy: f64,
    /// Validation F1 of the main track at the threshold that is best there
    pub val_f1: f64,
}

/// Write all epochs as CSV.
///
/// # Errors
/// [`FileError::Write`]
pub fn write(path: &Path, history: &[Epoch]) -> Result<(), FileError> {
    let mut text = String::from(
        "epoch,step,seconds,samples_per_second,learning_rate,loss,accuracy,val_loss,val_accuracy,val_f1\n",
    );
    for e in history {
        let (loss, accuracy) = (e.loss, e.accuracy);
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{},{},{:.3},{:.1},{:e},{loss},{accuracy},{},{},{}",
            e.epoch,
            e.step,
            e.seconds,
            e.samples_per_second,
            e.learning_rate,
            e.val_loss,
            e.val_accuracy,
            e.val_f1
        );
    }
    files::write_bytes(path, text.as_bytes())
}
