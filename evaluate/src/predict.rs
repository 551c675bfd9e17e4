//! `evaluate predict`: scores for clusters without labels, one row in, one row out, in order.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Int32Array, RecordBatch, StringArray, UInt32Array,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use shared::files;
use shared::split::column;

use crate::args::PredictArgs;
use crate::error::Error;
use crate::model::{Model, Scorers};
use crate::npz;
use crate::predictions::SCORE;

/// What was scored; displays as one line.
#[derive(Debug)]
pub struct Predicted {
    rows: usize,
    output: PathBuf,
    /// Time spent in the model
    scoring: Duration,
}

impl fmt::Display for Predicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.scoring.as_secs_f64() * 1e6 / self.rows.max(1) as f64;
        write!(f, "{} clusters scored, {each:.1} µs each: {}", self.rows, self.output.display())
    }
}

/// Scores of one file.
#[derive(Debug)]
struct Scores {
    source: String,
    scores: Vec<f32>,
}

/// Score all files.
///
/// # Errors
/// [`Error::Exists`], [`Error::Npz`] and those of opening and running the model
pub fn run(args: &PredictArgs) -> Result<Predicted, Error> {
    shared::signal::watch();
    if args.output.exists() && !args.overwrite {
        return Err(Error::Exists { path: args.output.clone() });
    }
    let model = Model::read(&args.model)?;
    let mut scorers: Option<(Scorers, (usize, usize))> = None;
    let bar = shared::progress::bar(args.input.len() as u64, "scoring", "files");
    let (mut all, mut scoring) = (Vec::new(), Duration::ZERO);
    for path in &args.input {
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
        let images = npz::images(path)?;
        let (rows, height, width) = images.dim();
        let fits = scorers.as_ref().is_some_and(|(_, shape)| *shape == (height, width));
        if rows > 0 && !fits {
            scorers = Some((model.open((height, width), path, &args.inference)?, (height, width)));
        }
        let start = Instant::now();
        let mut scores = Vec::with_capacity(rows);
        if let (Some(pixels), Some((scorers, _))) =
            (images.as_slice().filter(|p| !p.is_empty()), &mut scorers)
        {
            scores = score(scorers, pixels, height * width)?;
        }
        scoring += start.elapsed();
        check(&scores, &args.model, path)?;
        all.push(Scores { source: path.display().to_string(), scores });
        bar.inc(1);
    }
    bar.finish_and_clear();
    write(&args.output, &all)?;
    let rows = all.iter().map(|file| file.scores.len()).sum();
    Ok(Predicted { rows, output: args.output.clone(), scoring })
}

/// Share the images among the sessions; the scores come back in order.
fn score(scorers: &mut Scorers, images: &[f32], pixels: usize) -> Result<Vec<f32>, Error> {
    let failed = |source| Error::Inference { path: scorers.path.clone(), source };
    let workers = scorers.each.len();
    let share = (images.len() / pixels).div_ceil(workers).max(1) * pixels;
    if images.len() <= share {
        let mut scores = Vec::new();
        scorers.each[0].score(images, &mut scores).map_err(failed)?;
        return Ok(scores);
    }
    let parts: Vec<ort::Result<Vec<f32>>> = std::thread::scope(|scope| {
        let work = |(scorer, images): (&'_ mut crate::model::Scorer, &'_ [f32])| {
            let mut scores = Vec::new();
            scorer.score(images, &mut scores).map(|()| scores)
        };
        let pairs = scorers.each.iter_mut().zip(images.chunks(share));
        let started: Vec<_> = pairs.map(|pair| scope.spawn(move || work(pair))).collect();
        started.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    let parts: ort::Result<Vec<Vec<f32>>> = parts.into_iter().collect();
    Ok(parts.map_err(failed)?.concat())
}

fn check(scores: &[f32], model: &Path, source: &Path) -> Result<(), Error> {
    let bad = |(_, score): &(usize, &f32)| !(-1e-5..=1.0 + 1e-5).contains(*score);
    match scores.iter().enumerate().find(bad) {
        None => Ok(()),
        Some((row, &score)) => Err(Error::Score {
            path: model.to_owned(),
            score,
            source_name: source.display().to_string(),
            row: row as u32,
        }),
    }
}

fn write(path: &Path, all: &[Scores]) -> Result<(), Error> {
    if path.extension().is_some_and(|extension| extension == "csv") {
        return Ok(files::write_atomic(path, |file| {
            writeln!(file, "source,row,score")?;
            for Scores { source, scores } in all {
                let source = crate::tables::field(source);
                for (row, score) in scores.iter().enumerate() {
                    writeln!(file, "{source},{row},{score}")?;
                }
            }
            Ok(())
        })?);
    }
    let bytes = encode(all).map_err(|source| Error::Parquet { path: path.to_owned(), source })?;
    Ok(files::write_bytes(path, &bytes)?)
}

fn encode(all: &[Scores]) -> Result<Vec<u8>, ParquetError> {
    let keys = all.iter().enumerate().flat_map(|(at, file)| file.scores.iter().map(move |_| Some(at as i32)));
    let names = StringArray::from_iter_values(all.iter().map(|file| &file.source));
    let source = DictionaryArray::new(keys.collect::<Int32Array>(), Arc::new(names));
    let rows = all.iter().flat_map(|file| (0..file.scores.len() as u32).map(Some));
    let scores = all.iter().flat_map(|file| file.scores.iter().copied().map(Some));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (column::SOURCE, Arc::new(source), false),
        (column::ROW, Arc::new(rows.collect::<UInt32Array>()), false),
        (SCORE, Arc::new(scores.collect::<Float32Array>()), false),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}
