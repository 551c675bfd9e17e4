//! `prepare inspect`: what is in NPZ files and split folders.

use crate::Error;
use crate::args::InspectArgs;

/// Describe the paths.
pub fn inspect(_args: &InspectArgs) -> Result<String, Error> {
    Ok(String::new())
}
