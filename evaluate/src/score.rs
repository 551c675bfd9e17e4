//! A split goes through a model, batch by batch and on all threads; images are dropped as soon as they are scored.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use indicatif::ProgressBar;
use shared::split::{Batches, Split, SplitFolder, column};

use crate::error::Error;
use crate::gallery::Gallery;
use crate::model::{Scorer, Scorers};
use crate::rows::{COLUMNS, Piece, Rows};

/// Rows that are decoded at a time.
const READ_BATCH: usize = 1024;

/// A split with its scores, and the images worth showing.
#[derive(Debug)]
pub struct Scored {
    /// All clusters in the order of the split
    pub rows: Rows,
    /// The most confident hits and errors
    pub gallery: Gallery,
}

/// Score a split. The result doesn't depend on the number of threads.
///
/// # Errors
/// [`Error::Empty`], [`Error::Inference`], [`Error::Score`], [`Error::Stopped`] and those of the split
pub fn score_split(folder: &SplitFolder, split: Split, scorers: &mut Scorers) -> Result<Scored, Error> {
    let path = folder.path().join(split.name());
    let names: Vec<&str> = COLUMNS.into_iter().chain([column::IMAGE]).collect();
    let manifest = folder.manifest();
    let shape = (manifest.height, manifest.width);
    let source = Source {
        batches: Mutex::new((folder.batches(split, &names, READ_BATCH)?, 0)),
        bar: shared::progress::bar(folder.rows(split), "scoring", "clusters"),
        path: &path,
        model: &scorers.path,
        width: shape.1,
    };
    let start = Instant::now();
    let workers: Vec<Result<Work, Error>> = std::thread::scope(|scope| {
        let started: Vec<_> = scorers
            .each
            .iter_mut()
            .map(|scorer| scope.spawn(|| source.work(scorer, Gallery::new(shape))))
            .collect();
        started
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    source.bar.finish_and_clear();
    let mut pieces = Vec::new();
    let mut gallery = Gallery::new(shape);
    for worker in workers {
        let worker = worker?;
        pieces.extend(worker.pieces);
        gallery.merge(worker.gallery);
    }
    pieces.sort_by_key(|(number, _)| *number);
    let mut rows = Rows::default();
    let mut starts = Vec::with_capacity(pieces.len());
    for (_, piece) in pieces {
        starts.push(rows.len());
        rows.extend(&piece, &path)?;
    }
    gallery.place(|at| starts[at / READ_BATCH] + at % READ_BATCH);
    if rows.is_empty() {
        return Err(Error::Empty { path });
    }
    check_scores(&mut rows, &scorers.path)?;
    let (n, seconds, device) = (rows.len(), start.elapsed().as_secs_f64(), scorers.device);
    tracing::info!("{split}: {n} clusters scored in {seconds:.2} s on {device}, {:.0}/s", n as f64 / seconds);
    Ok(Scored { rows, gallery })
}

/// Energies in MeV and labels of a split; no image is read.
///
/// # Errors
/// [`Error::Column`] and those of the split
pub fn energies(folder: &SplitFolder, split: Split) -> Result<(Vec<f32>, Vec<bool>), Error> {
    let path = folder.path().join(split.name());
    let mut rows = Rows::default();
    for batch in folder.batches(split, &COLUMNS, 1 << 16)? {
        rows.extend(&Piece { score: Vec::new(), channels: Vec::new(), batch: batch? }, &path)?;
    }
    Ok((rows.cluster_energy, rows.label))
}

/// What one worker has done: numbered batches and the images it would show.
struct Work {
    pieces: Vec<(usize, Piece)>,
    gallery: Gallery,
}

/// What the workers share.
struct Source<'a> {
    batches: Mutex<(Batches, usize)>,
    bar: ProgressBar,
    path: &'a Path,
    model: &'a Path,
    width: usize,
}

impl Source<'_> {
    /// Read and score batches until there are no more; another worker's error ends this one soon after.
    fn work(&self, scorer: &mut Scorer, gallery: Gallery) -> Result<Work, Error> {
        let mut work = Work { pieces: Vec::new(), gallery };
        while let Some((number, batch)) = self.next()? {
            let outcome = self.score(scorer, &batch, number, &mut work.gallery);
            if outcome.is_err() {
                self.stop();
            }
            work.pieces.push((number, outcome?));
        }
        Ok(work)
    }

    fn next(&self) -> Result<Option<(usize, RecordBatch)>, Error> {
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(batch) = batches.0.next() else { return Ok(None) };
        batches.1 += 1;
        Ok(Some((batches.1 - 1, batch?)))
    }

    fn stop(&self) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.0.by_ref().for_each(drop);
    }

    fn score(
        &self,
        scorer: &mut Scorer,
        batch: &RecordBatch,
        number: usize,
        gallery: &mut Gallery,
    ) -> Result<Piece, Error> {
        let images = images(batch, self.path)?;
        let mut score = Vec::with_capacity(batch.num_rows());
        let failed = |source| Error::Inference { path: self.model.to_owned(), source };
        scorer.score(images, &mut score).map_err(failed)?;
        let pixels = images.len() / batch.num_rows().max(1);
        let channels = images.chunks_exact(pixels.max(1)).map(|image| channels(image, self.width)).collect();
        if let Some(labels) = batch.column_by_name(column::IS_MAIN_TRACK).and_then(|c| c.as_boolean_opt()) {
            gallery.offer(number * READ_BATCH, &score, labels.values(), images);
        }
        self.bar.inc(batch.num_rows() as u64);
        let without_images: Vec<usize> = (0..batch.num_columns())
            .filter(|&at| batch.schema_ref().field(at).name() != column::IMAGE)
            .collect();
        let wrong =
            |_| Error::Column { path: self.path.to_owned(), column: column::IMAGE, found: "?".into() };
        let batch = batch.project(&without_images).map_err(wrong)?;
        Ok(Piece { score, channels, batch })
    }
}

/// The images of a batch, `[rows, height, width]`.
///
/// # Errors
/// [`Error::Column`]
pub fn images<'a>(batch: &'a RecordBatch, path: &Path) -> Result<&'a [f32], Error> {
    let column = batch.column_by_name(column::IMAGE);
    let wrong = || Error::Column {
        path: path.to_owned(),
        column: column::IMAGE,
        found: column.map_or("absent".into(), |c| c.data_type().to_string()),
    };
    let list = column.and_then(|c| c.as_fixed_size_list_opt()).ok_or_else(wrong)?;
    let values = list.values().as_primitive_opt::<Float32Type>().ok_or_else(wrong)?;
    let pixels = list.value_length() as usize;
    Ok(&values.values()[list.offset() * pixels..(list.offset() + list.len()) * pixels])
}

/// Channels from the first to the last with a signal.
fn channels(image: &[f32], width: usize) -> u16 {
    let mut hit = vec![false; width];
    for tick in image.chunks_exact(width) {
        for (hit, &adc) in hit.iter_mut().zip(tick) {
            *hit |= adc > 0.0;
        }
    }
    let first = hit.iter().position(|&hit| hit);
    let last = hit.iter().rposition(|&hit| hit);
    first.zip(last).map_or(0, |(first, last)| (last - first + 1) as u16)
}

/// Scores must be probabilities; what a softmax in f32 is above 1 is rounding.
fn check_scores(rows: &mut Rows, model: &Path) -> Result<(), Error> {
    for at in 0..rows.len() {
        let score = rows.score[at];
        if !(-1e-5..=1.0 + 1e-5).contains(&score) {
            let source_name = rows.source_name(at).to_owned();
            return Err(Error::Score { path: model.to_owned(), score, source_name, row: rows.row[at] });
        }
        rows.score[at] = score.clamp(0.0, 1.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn track_length_counts_from_the_first_to_the_last_channel() {
        let mut image = vec![0.0; 4 * 8];
        assert_eq!(channels(&image, 8), 0);
        image[2] = 60.0; // tick 0, channel 2
        image[8 + 5] = 60.0; // tick 1, channel 5
        assert_eq!(channels(&image, 8), 4);
    }
}
