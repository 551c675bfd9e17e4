//! `evaluate predict`: scores for clusters without labels, one row in, one row out, in order.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Int32Array, RecordBatch, StringArray, UInt32Array,
};
use parquet::errors::ParquetError;
use shared::files;
use shared::split::{Images, column};

use crate::args::PredictArgs;
use crate::error::Error;
use crate::model::{self, Model, Scorers};
use crate::predictions::SCORE;
use crate::scorer::Scorer;
use crate::{npz, parquet_file};

/// Rows of a file that each session gets at a time, unless the model sees more.
const CHUNK: usize = 1024;

/// What was scored; displays as a line, and a second one for batches of one.
#[derive(Debug)]
pub struct Predicted {
    rows: usize,
    output: PathBuf,
    /// Time spent in the model
    scoring: Duration,
    /// Microseconds of each call, from the shortest, if every row was a call
    calls: Vec<f32>,
}

impl fmt::Display for Predicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.scoring.as_secs_f64() * 1e6 / self.rows.max(1) as f64;
        write!(f, "{} clusters scored, {each:.1} µs each: {}", self.rows, self.output.display())?;
        if let Some(longest) = self.calls.last() {
            let share = |q: f64| self.calls[((self.calls.len() - 1) as f64 * q).ceil() as usize];
            let (half, most) = (share(0.5), share(0.99));
            write!(
                f,
                "\nlatency of a batch of one: median {half:.0} µs, 99 % within {most:.0} µs, longest {longest:.0} µs"
            )?;
        }
        Ok(())
    }
}

/// All scores, file after file.
#[derive(Debug, Default)]
struct Scores {
    /// Files, in the order of the command line
    sources: Vec<String>,
    /// `[rows]`, index into the files
    source: Vec<u32>,
    /// `[rows]`, row in the file
    row: Vec<u32>,
    /// `[rows]`
    score: Vec<f32>,
}

impl Scores {
    /// Row of the newest file that comes next.
    fn next_row(&self) -> u32 {
        match (self.source.last(), self.row.last()) {
            (Some(&file), Some(&row)) if file as usize + 1 == self.sources.len() => row + 1,
            _ => 0,
        }
    }

    /// Append scores of the newest file, from this row on.
    fn extend(&mut self, first_row: u32, scores: &[f32]) {
        let file = self.sources.len() as u32 - 1;
        self.source.extend(scores.iter().map(|_| file));
        self.row.extend((first_row..).take(scores.len()));
        self.score.extend_from_slice(scores);
    }
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
    let bar = shared::progress::bar(args.input.len() as u64, "scoring", "files");
    let mut run = Run {
        args,
        model,
        opened: None,
        scores: Scores::default(),
        scoring: Duration::ZERO,
        calls: Vec::new(),
    };
    for path in &args.input {
        run.file(path)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Run { scores, scoring, mut calls, opened, .. } = run;
    if let Some((scorers, _)) = &opened {
        tracing::info!("{} clusters scored {}", scores.score.len(), scorers.way);
    }
    write(&args.output, &scores)?;
    calls.sort_unstable_by(f32::total_cmp);
    Ok(Predicted { rows: scores.score.len(), output: args.output.clone(), scoring, calls })
}

/// What goes from file to file.
struct Run<'a> {
    args: &'a PredictArgs,
    model: Model,
    /// Sessions for images of this height and width
    opened: Option<(Scorers, (usize, usize))>,
    scores: Scores,
    scoring: Duration,
    calls: Vec<f32>,
}

impl Run<'_> {
    fn file(&mut self, path: &Path) -> Result<(), Error> {
        self.scores.sources.push(path.display().to_string());
        let chunk = |(scorers, _): &(Scorers, _)| scorers.each.len() * CHUNK.max(scorers.batch());
        let rows = self.opened.as_ref().map_or(CHUNK, chunk);
        let begin = |(n, height, width)| {
            self.open(n, (height, width), path)?;
            Ok((self, height * width))
        };
        npz::each_chunk(path, rows, begin, |(run, pixels), images| run.chunk(images, *pixels, path))?;
        Ok(())
    }

    /// Sessions for these images, unless those that are open fit; none for a file without rows.
    fn open(&mut self, rows: usize, shape: (usize, usize), path: &Path) -> Result<(), Error> {
        if rows > 0 && self.opened.as_ref().is_none_or(|(_, opened)| *opened != shape) {
            self.opened = Some((self.model.open(shape, path, &self.args.inference)?, shape));
        }
        Ok(())
    }

    fn chunk(&mut self, images: &[f32], pixels: usize, path: &Path) -> Result<(), Error> {
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
        let Some((scorers, _)) = &mut self.opened else { return Ok(()) };
        let start = Instant::now();
        let scores = if scorers.batch() == 1 {
            one_by_one(&mut scorers.each[0], images, pixels, &mut self.calls)
        } else {
            side_by_side(&mut scorers.each, images, pixels)
        };
        let mut scores =
            scores.map_err(|source| Error::Inference { path: self.args.model.clone(), source })?;
        self.scoring += start.elapsed();
        if let Some(mut reference) = scorers.reference.take_if(|_| !images.is_empty()) {
            model::compare(&self.args.model, &mut reference, &Images::new(images, pixels), &scores)?;
        }
        let first_row = self.scores.next_row();
        check(&mut scores, first_row, &self.args.model, path)?;
        self.scores.extend(first_row, &scores);
        Ok(())
    }
}

/// Each row by itself, as an online system has them; `calls` gets the microseconds of each.
fn one_by_one(
    scorer: &mut Scorer,
    images: &[f32],
    pixels: usize,
    calls: &mut Vec<f32>,
) -> ort::Result<Vec<f32>> {
    let mut scores = Vec::with_capacity(images.len() / pixels);
    for image in images.chunks_exact(pixels) {
        let start = Instant::now();
        scorer.score(image, pixels, &mut scores)?;
        calls.push(start.elapsed().as_secs_f32() * 1e6);
    }
    Ok(scores)
}

/// Share the images among the sessions; the scores come back in order.
fn side_by_side(scorers: &mut [Scorer], images: &[f32], pixels: usize) -> ort::Result<Vec<f32>> {
    let share = (images.len() / pixels).div_ceil(scorers.len()).max(1) * pixels;
    let work = |scorer: &mut Scorer, images: &[f32]| {
        let mut scores = Vec::with_capacity(images.len() / pixels);
        scorer.score(images, pixels, &mut scores).map(|()| scores)
    };
    if images.len() <= share {
        return work(&mut scorers[0], images);
    }
    let parts: Vec<ort::Result<Vec<f32>>> = std::thread::scope(|scope| {
        let pairs = scorers.iter_mut().zip(images.chunks(share));
        let started: Vec<_> =
            pairs.map(|(scorer, images)| scope.spawn(move || work(scorer, images))).collect();
        started.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    Ok(parts.into_iter().collect::<ort::Result<Vec<_>>>()?.concat())
}

/// Scores must be probabilities; what a softmax in f32 is above 1 is rounding, and is cut off as in a report.
fn check(scores: &mut [f32], first_row: u32, model: &Path, source: &Path) -> Result<(), Error> {
    for (row, score) in (first_row..).zip(scores) {
        if !(-1e-5..=1.0 + 1e-5).contains(score) {
            let source_name = source.display().to_string();
            return Err(Error::Score { path: model.to_owned(), score: *score, source_name, row });
        }
        *score = score.clamp(0.0, 1.0);
    }
    Ok(())
}

fn write(path: &Path, scores: &Scores) -> Result<(), Error> {
    if path.extension().is_none_or(|extension| extension != "csv") {
        return parquet_file::write(path, scores.score.len(), |at| batch(scores, at));
    }
    Ok(files::write_atomic(path, |file| {
        let sources: Vec<String> = scores.sources.iter().map(|name| crate::tables::field(name)).collect();
        writeln!(file, "source,row,score")?;
        for ((source, row), score) in scores.source.iter().zip(&scores.row).zip(&scores.score) {
            writeln!(file, "{},{row},{score}", sources[*source as usize])?;
        }
        Ok(())
    })?)
}

fn batch(scores: &Scores, at: Range<usize>) -> Result<RecordBatch, ParquetError> {
    let keys: Int32Array = scores.source[at.clone()].iter().map(|&key| Some(key as i32)).collect();
    let names = StringArray::from_iter_values(&scores.sources);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (column::SOURCE, Arc::new(DictionaryArray::new(keys, Arc::new(names))), false),
        (column::ROW, Arc::new(UInt32Array::from(scores.row[at.clone()].to_vec())), false),
        (SCORE, Arc::new(Float32Array::from(scores.score[at].to_vec())), false),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
