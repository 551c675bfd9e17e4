//! Training on ONNX Runtime: one trial, or a study's trials one after another.

mod args;
pub mod blocks;
pub mod budget;
pub mod checkpoint;
pub mod data;
mod diverged;
mod dropout;
pub mod engine;
mod error;
pub mod events;
mod export;
pub mod forward;
pub mod graph;
pub mod history;
pub mod inference;
mod keeper;
pub mod loss;
mod memory;
pub mod optimizer;
pub mod parameters;
pub mod scale;
pub mod schedule;
pub mod scorer;
pub mod shelf;
pub mod sites;
pub mod step;
pub mod store;
pub mod training;
mod validation;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shared::runtime::{Device, Settings};
use shared::study::{Claim, Lease, Next, Outcome, State, Study, TrialFile};
use shared::{cli, signal};

pub use args::{Args, Precision};
pub use error::Error;

use budget::Room;
use data::{Data, Shelves};
use export::Provenance;
use loss::Loss;
use optimizer::Optimizer;
use schedule::Schedule;
use training::Setup;

/// How long a worker waits before it looks at a study again in which others still train.
const PATIENCE: Duration = Duration::from_secs(2);

/// Train what the arguments name; returns a line for the user.
///
/// # Errors
/// [`Error`]
pub fn run(args: &Args) -> Result<String, Error> {
    cli::start_logging(&args.log);
    signal::watch();
    match (&args.trial, &args.study) {
        (Some(folder), _) => one_trial(folder, args),
        (None, Some(folder)) => whole_study(folder, args),
        (None, None) => unreachable!("the argument group requires one of them"),
    }
}

fn one_trial(folder: &Path, args: &Args) -> Result<String, Error> {
    let (study, number) = Study::of_trial(folder)?;
    let lease = match study.claim(number)? {
        Claim::Run(lease) => lease,
        Claim::Finished(state) => return Ok(format!("trial {number} is up to date: {}", state.name())),
        Claim::Busy { worker } => return Err(Error::Busy { trial: number, worker }),
    };
    let session = match Session::start(args, &study, 1) {
        Ok(session) => session,
        Err(error) => {
            lease.give_back()?;
            return Err(error);
        }
    };
    let folder = lease.folder().to_owned();
    let value = session.train(lease)?;
    Ok(format!("trial {number}: {}\nmodel: {}", describe(value), folder.join("model.onnx").display()))
}

fn whole_study(folder: &Path, args: &Args) -> Result<String, Error> {
    let study = Study::open(folder)?;
    let session = Session::start(args, &study, usize::from(args.workers))?;
    let tally = Tally { left: AtomicU64::new(args.max_trials.unwrap_or(u64::MAX)), ..Tally::default() };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..args.workers).map(|_| scope.spawn(|| session.work(&study, &tally))).collect();
        let mut outcome = Ok(());
        for worker in workers {
            outcome = outcome.and(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcome
    })?;
    let failed = tally.failed.load(Ordering::Relaxed);
    if let Some(first) = tally.first_failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(Error::TrialsFailed { failed, first });
    }
    let trained = tally.trained.load(Ordering::Relaxed);
    let best = study.best()?;
    let best = best.and_then(|trial| Some(format!("best: trial {} with {}", trial.number, trial.value?)));
    let best = best.unwrap_or_else(|| "no trial is complete".into());
    Ok(match trained {
        0 => format!("study is up to date; {best}"),
        n => format!("{n} trials trained; {best}\nmodel: {}", study.dir().join("best.onnx").display()),
    })
}

/// What the workers of a process did together.
#[derive(Default)]
struct Tally {
    left: AtomicU64,
    trained: AtomicU64,
    failed: AtomicU64,
    first_failure: std::sync::Mutex<Option<String>>,
}

/// Data and device of a process, shared by its workers.
struct Session {
    data: Data,
    folder: std::path::PathBuf,
    settings: Settings,
    /// For the tables of one training
    room: Room,
    precision: Precision,
}

impl Session {
    fn start(args: &Args, study: &Study, workers: usize) -> Result<Self, Error> {
        let device = args.device.resolve()?;
        let precision = args.precision.unwrap_or(match device {
            Device::Cpu => Precision::F32,
            Device::Cuda(_) => Precision::Tf32,
        });
        if device == Device::Cpu && precision != Precision::F32 {
            return Err(Error::Precision { precision: precision.name(), device });
        }
        // Start ONNX Runtime before the data is read: a missing library should show at once.
        shared::runtime::builder(&Settings::new(device, 1))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let all_threads = args.threads.unwrap_or(cores);
        let threads = (all_threads / workers).max(1);
        let room = Room::find(device, args.memory, args.device_memory)?;
        let data = Data::read(&args.data, room.host, Shelves::new(workers, all_threads))?;
        study.check_data(&data.digest)?;
        let room = room.beside(data.bytes(), workers);
        let settings = Settings { tf32: precision == Precision::Tf32, ..Settings::new(device, threads) };
        Ok(Self { data, folder: args.data.clone(), settings, room, precision })
    }

    /// Ask, train, tell until nothing is left.
    fn work(&self, study: &Study, tally: &Tally) -> Result<(), Error> {
        loop {
            if signal::stop_requested() {
                return Err(Error::StudyStopped);
            }
            if tally.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err() {
                return Ok(());
            }
            match study.next()? {
                Next::Spent => return Ok(()),
                Next::Wait => {
                    tally.left.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PATIENCE);
                }
                Next::Run(lease) => {
                    let number = lease.number();
                    match self.train(lease) {
                        Ok(_) => {
                            tally.trained.fetch_add(1, Ordering::Relaxed);
                        }
                        // One impossible trial must not end the others.
                        Err(error @ (Error::Diverged { .. } | Error::Network(_))) => {
                            tracing::error!("trial {number} failed: {error}");
                            tally.failed.fetch_add(1, Ordering::Relaxed);
                            let mut first =
                                tally.first_failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            first.get_or_insert_with(|| error.to_string());
                        }
                        // Another worker has it by now: this one was taken for dead.
                        Err(Error::Study(error)) if error.is_lost() => {
                            tracing::warn!("trial {number} was given to another worker: {error}");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Train a claimed trial and tell what came of it; returns its value unless it was pruned.
    fn train(&self, lease: Lease) -> Result<Option<f64>, Error> {
        let folder = lease.folder().to_owned();
        let outcome = self.train_inner(&lease, &folder);
        match outcome {
            Ok((value, pruned)) => {
                lease.tell(if pruned { Outcome::Pruned } else { Outcome::Complete { value } })?;
                Ok((!pruned).then_some(value))
            }
            Err(error @ Error::Stopped { .. }) => {
                lease.give_back()?;
                Err(error)
            }
            Err(error @ (Error::Diverged { .. } | Error::Network(_))) => {
                let reason = error.to_string();
                export::fail(&folder, lease.trial(), &reason)?;
                lease.tell(Outcome::Fail { reason })?;
                Err(error)
            }
            Err(Error::Study(error)) if error.is_lost() => Err(error.into()),
            // The machine's fault (disk full, library, GPU), not the trial's: another worker may train it.
            Err(error) => {
                if let Err(second) = lease.give_back() {
                    tracing::warn!("can't give the trial back: {second}");
                }
                Err(error)
            }
        }
    }

    /// What a trial's file says about the training on this data.
    fn setup(&self, trial: &TrialFile) -> Result<Setup, Error> {
        let identity = serde_json::to_value(trial)
            .map_err(|source| shared::files::FileError::Json { path: "trial.json".into(), source })?;
        let training = trial.training()?;
        let labels = &self.data.train.is_main_track;
        let main = labels.iter().filter(|&&main| main).count();
        let loss = Loss::new(&training, main, labels.len());
        Ok(Setup {
            network: trial.network()?,
            normalization: trial.normalization.factor(),
            batch_size: trial.batch_size()?,
            epochs: trial.epochs,
            schedule: Schedule {
                initial: trial.learning_rate()?,
                decay: trial.decay_rate()?,
                options: training.learning_rate_schedule.clone(),
            },
            loss: loss.ok_or_else(|| Error::OneClass { folder: self.folder.clone() })?,
            optimizer: Optimizer::new(&training),
            early_stopping: trial.early_stopping.clone(),
            objective: trial.objective,
            seed: trial.study_seed,
            trial: trial.number,
            precision: self.precision,
            identity,
        })
    }

    fn train_inner(&self, lease: &Lease, folder: &Path) -> Result<(f64, bool), Error> {
        let trial = lease.trial();
        let setup = self.setup(trial)?;
        self.data.check(&self.folder, &setup)?;
        let mut log = Log::open(folder)?;
        log.line(&format!(
            "trial {} on {} in {}, {} threads: {}",
            trial.number,
            self.settings.device,
            self.precision.name(),
            self.settings.threads,
            serde_json::Value::Object(trial.params.clone())
        ));
        let report = |epoch, row: &str, value| {
            log.line(row);
            Ok(lease.report(u64::from(epoch), value)?)
        };
        let trained = training::train(&setup, &self.data, folder, &self.settings, self.room, report)?;
        let provenance = Provenance {
            params: &trial.params,
            config_digest: &trial.config_digest,
            device: self.settings.device,
            precision: self.precision.name(),
        };
        let value = export::finish(folder, &setup, &self.data, &trained, &provenance)?;
        log.line(&format!("trial {} ended with {value}", trial.number));
        Ok((value, trained.pruned))
    }
}

/// `train.log`: what a trial's workers had to say, one after another.
struct Log(std::fs::File);

impl Log {
    fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("train.log");
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map(Self)
            .map_err(|source| shared::files::FileError::Write { path, source }.into())
    }

    fn line(&mut self, text: &str) {
        tracing::info!("{text}");
        if let Err(error) = writeln!(self.0, "{text}") {
            tracing::warn!("can't write train.log: {error}");
        }
    }
}

fn describe(value: Option<f64>) -> String {
    value.map_or_else(|| State::Pruned.name().to_lowercase(), |value| format!("objective {value:.5}"))
}
