//! Pruners: which running trials are stopped early.

use serde::{Deserialize, Serialize};

/// Which trials are stopped early.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Pruner {
    /// None
    #[default]
    None,
}
