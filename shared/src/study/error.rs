//! What can go wrong with a study.

use std::path::PathBuf;

use super::journal::JournalError;
use super::space::SpaceError;
use crate::files::FileError;
use crate::network::NetworkError;

/// A study that can't be made, read or gone on with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum StudyError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error("`{}` is no study; make one with `search create --config CONFIG --study {}`", path.display(), path.display())]
    NoStudy { path: PathBuf },
    #[error("`{}` is no trial folder; give one such as `STUDY/trials/0007`", path.display())]
    NoTrialFolder { path: PathBuf },
    #[error("study `{}` has no trial {number}; ask for one with `search ask`", study.display())]
    NoTrial { study: PathBuf, number: u64 },
    #[error(
        "study `{}` exists with another configuration:\n{}\nput the configuration back, or make a new study that starts from this one: `search create --from {}`",
        path.display(), differences.join("\n"), path.display()
    )]
    Changed { path: PathBuf, differences: Vec<String> },
    #[error("the journal of `{}` has no study named `{name}`; was it replaced?", path.display())]
    OtherJournal { path: PathBuf, name: String },
    #[error(
        "study `{}` was trained on other data (digest {recorded}, these have {given}); give the same split folder, or make a new study",
        path.display()
    )]
    OtherData { path: PathBuf, recorded: String, given: String },
    #[error("no network of this space can exist: {reason}")]
    Impossible { reason: String },
    #[error("the network of trial {number} can't exist")]
    Network {
        number: u64,
        #[source]
        source: NetworkError,
    },
    #[error("parameter `{key}`: {reason}")]
    Param { key: String, reason: String },
    #[error(
        "every point of the space has been tried; widen the space in a new study, or look at `search best`"
    )]
    Exhausted,
    #[error("trial {number} was given to another worker, since this one was silent for too long")]
    Lost { number: u64 },
    #[error("{failed} trials of study `{}` failed, more than {limit}; see the reasons with `search status`, mend the cause, and make a new study", path.display())]
    TooManyFailures { path: PathBuf, failed: u64, limit: u64 },
    #[error("`{key}`: {reason}")]
    Setting { key: &'static str, reason: String },
}

impl StudyError {
    /// Whether only this trial is lost to this worker, which should go on with another one.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}
