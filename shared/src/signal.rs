//! Stop requests: SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 set a flag that the long loops look at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    STOP.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// Watch for stop signals; a second Ctrl-C ends the process at once.
pub fn watch() {
    for signal in [SIGINT, SIGTERM, SIGUSR1, SIGUSR2] {
        // The order matters: the first signal must find the flag unset.
        let outcome = signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(crate::cli::EXIT_RESUMABLE),
            Arc::clone(flag()),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag())));
        if let Err(error) = outcome {
            tracing::warn!("can't watch signal {signal}: {error}");
        }
    }
}

/// Whether a stop was asked for.
pub fn stop_requested() -> bool {
    flag().load(Ordering::Relaxed)
}
