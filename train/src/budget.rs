//! How much memory the data may take, on the host and on a GPU, and whether a training's tables fit.

use bytesize::ByteSize;
use shared::runtime::Device;
use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::engine::{EngineError, free_memory};
use crate::sites::{Geometry, Sites};
use crate::store::{Store, StoreError};

/// Share of free memory that the data may take if nothing is said.
const SHARE: f64 = 0.6;
/// Rows whose tables are made to see how long tables are.
const PROBE_ROWS: usize = 2048;

/// Bytes that tables of one training may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// On the host
    pub host: usize,
    /// On the GPU
    pub device: usize,
}

impl Room {
    /// Room for everything.
    pub const ALL: Self = Self { host: usize::MAX, device: usize::MAX };

    /// What is free, or what the user allows.
    ///
    /// # Errors
    /// [`EngineError`] if the GPU can't be asked.
    pub fn find(
        device: Device,
        host: Option<ByteSize>,
        on_device: Option<ByteSize>,
    ) -> Result<Self, EngineError> {
        let share = |bytes: u64| (bytes as f64 * SHARE) as usize;
        let host = host.map_or_else(|| share(free_on_host()), |size| size.0 as usize);
        let device = match (device, on_device) {
            (Device::Cpu, _) => usize::MAX,
            (Device::Cuda(_), Some(size)) => size.0 as usize,
            (Device::Cuda(number), None) => share(free_memory(number as usize)? as u64),
        };
        Ok(Self { host, device })
    }

    /// What is left of the host's room beside `bytes`, shared by some workers.
    #[must_use]
    pub fn beside(self, bytes: usize, workers: usize) -> Self {
        Self { host: self.host.saturating_sub(bytes) / workers, device: self.device / workers }
    }
}

/// Bytes free on this machine, or in this job's cgroup if that is less.
fn free_on_host() -> u64 {
    let mut system = match System::new() {
        Ok(system) => system,
        Err(error) => {
            tracing::warn!(
                "can't tell how much memory is free: {error}; data take what they need, unless `--memory` says how much"
            );
            return u64::MAX;
        }
    };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let machine = system.available_memory();
    let this = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[this]),
        false,
        ProcessRefreshKind::nothing(),
    );
    let job = system.process(this).and_then(sysinfo::Process::cgroup_limits);
    job.map_or(machine, |job| job.free_memory.min(machine))
}

/// Whether the tables of all rows are made once and stay, or again for each part of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// All of them stay
    Whole,
    /// Some tens of thousands at a time
    Parts,
}

impl Residence {
    /// Whether the tables of the training and the validation rows fit.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn of(
        room: Room,
        geometry: &Geometry,
        train: &Store,
        validation: &Store,
        device: Device,
    ) -> Result<Self, StoreError> {
        if room == Room::ALL {
            return Ok(Self::Whole);
        }
        let probe: Vec<usize> = (0..train.rows().min(PROBE_ROWS)).collect();
        let bytes = Sites::new(geometry, &train.read(&probe)?, 1.0, 1).bytes();
        let of = |rows: usize| (bytes as f64 / probe.len().max(1) as f64 * rows as f64) as usize;
        // A GPU has the validation tables as 32-bit numbers.
        let (host, on_gpu) = (of(train.rows() + validation.rows()), of(train.rows() + 2 * validation.rows()));
        let fits = host <= room.host && (device == Device::Cpu || on_gpu <= room.device);
        let size = |bytes: usize| ByteSize(bytes as u64);
        if !fits {
            tracing::info!(
                "tables of {} for {} rows are more than there is room for ({}{}): they are made for parts of an epoch",
                size(host),
                train.rows() + validation.rows(),
                size(room.host),
                if device == Device::Cpu {
                    String::new()
                } else {
                    format!(", on the GPU {}", size(room.device))
                }
            );
        }
        Ok(if fits { Self::Whole } else { Self::Parts })
    }
}

#[cfg(test)]
mod tests {
    use shared::network::SimpleCnn;
    use shared::split::Images;

    use super::*;

    #[test]
    fn this_machine_has_free_memory() {
        let free = free_on_host();
        assert!(free > 1 << 20 && free < 1 << 50, "{free}");
        let room = Room::find(Device::Cpu, None, None).unwrap();
        assert!(room.host as u64 <= free);
        let given = Room::find(Device::Cpu, Some("2G".parse().unwrap()), None).unwrap();
        assert_eq!(given, Room { host: 2_000_000_000, device: usize::MAX });
        assert_eq!(given.beside(500_000_000, 3).host, 500_000_000);
    }

    #[test]
    fn tables_stay_where_there_is_room() {
        let network = SimpleCnn {
            height: 16,
            width: 4,
            filters: 2,
            kernel: 3,
            conv_layers: 1,
            dense_layers: 0,
            units: 0,
            dropout: 0.0,
        };
        let geometry = Geometry::new(&network.layers().unwrap(), 3);
        let images = Images::new(&[1.0; 64 * 10], 64);
        let bytes = Sites::new(&geometry, &images, 1.0, 1).bytes();
        let store = Store::from(images);
        let of =
            |host, device, on| Residence::of(Room { host, device }, &geometry, &store, &store, on).unwrap();
        assert_eq!(of(2 * bytes, 0, Device::Cpu), Residence::Whole);
        assert_eq!(of(2 * bytes - 1, 0, Device::Cpu), Residence::Parts);
        assert_eq!(of(2 * bytes, 3 * bytes - 1, Device::Cuda(0)), Residence::Parts);
        assert_eq!(of(2 * bytes, 3 * bytes, Device::Cuda(0)), Residence::Whole);
    }
}
