//! What the stages of mt-identifier agree on; the stages depend on this crate and never on each other.

pub mod cli;
pub mod config;
pub mod files;
pub mod metrics;
pub mod model;
pub mod network;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod old_glibc;
pub mod onnx;
pub mod plane;
pub mod progress;
pub mod random;
pub mod runtime;
pub mod signal;
pub mod split;
pub mod study;

/// Version of every file format of the project; readers refuse a newer one.
pub const SCHEMA_VERSION: u32 = 1;
