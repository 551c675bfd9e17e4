//! Who may touch a GPU while a graph is captured: nobody else.
//!
//! ONNX Runtime captures in CUDA's global mode, in which an allocation or a copy by any other thread of the process fails, or
//! makes the capture fail. Trainings that share a process therefore take turns here.

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use shared::runtime::Device;

static GPU: RwLock<()> = RwLock::new(());

/// How long [`until`] waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Held by every use of a GPU that captures nothing; nothing for the CPU.
///
/// Once somebody waits to capture, nobody gets it any more until all that have it give it back: hold it briefly, never for work
/// of the CPU, never twice, and not while waiting for another thread that needs it.
pub(crate) fn use_of(device: Device) -> Option<RwLockReadGuard<'static, ()>> {
    match device {
        Device::Cpu => None,
        Device::Cuda(_) => Some(GPU.read().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Held while steps may be captured.
pub(super) fn capture() -> RwLockWriteGuard<'static, ()> {
    GPU.write().unwrap_or_else(PoisonError::into_inner)
}

/// Wait until a device is done with something; others may capture meanwhile.
pub(super) fn until<E>(device: Device, mut is_done: impl FnMut() -> Result<bool, E>) -> Result<(), E> {
    loop {
        let calm = use_of(device);
        if is_done()? {
            return Ok(());
        }
        drop(calm);
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Something on a device that is freed as calmly as it is used.
pub(crate) struct Calmly<T> {
    value: Option<T>,
    device: Device,
}

impl<T> Calmly<T> {
    pub fn new(device: Device, value: T) -> Self {
        Self { value: Some(value), device }
    }
}

impl<T> Deref for Calmly<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("there until it is dropped")
    }
}

impl<T> DerefMut for Calmly<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("there until it is dropped")
    }
}

impl<T> Drop for Calmly<T> {
    fn drop(&mut self) {
        let _calm = use_of(self.device);
        self.value = None;
    }
}
