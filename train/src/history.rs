//! One row an epoch: what `history.csv` and the `TensorBoard` file hold.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use shared::files::{self, FileError};

use crate::events;

/// Numbers of one epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Mean training loss in nats, with smoothing and weights if there are any, while the weights moved
    pub loss: f64,
    /// Training accuracy at 0.5, while the weights moved
    pub accuracy: f64,
    /// Mean validation loss in nats: plain cross-entropy, whatever the training minimises
    pub val_loss: f64,
    /// Validation accuracy at 0.5
    pub val_accuracy: f64,
    /// Validation F1 of the main track at the threshold that is best there
    pub val_f1: f64,
    /// When it ended, in seconds since 1970; not in `history.csv`
    pub time: f64,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Write all epochs into a trial's folder: `history.csv`, and a file for `TensorBoard`.
///
/// # Errors
/// [`FileError::Write`]
pub fn write(folder: &Path, history: &[Epoch]) -> Result<(), FileError> {
    files::write_bytes(&folder.join("history.csv"), csv(history).as_bytes())?;
    files::write_bytes(&folder.join(events::FILE), &events::encode(history))
}

fn csv(history: &[Epoch]) -> String {
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
    text
}
