//! Rows on their way to a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use shared::runtime::Device;

use super::calm;
use super::gpu::{GpuError, failed};
use crate::sites::{Shard, Sites};

/// Rows on a GPU: their lists, as `sites::Shard` has them. Trainings share them, so they are only read.
pub(super) struct DataSet {
    pub rows: usize,
    pub pixels: CudaSlice<f32>,
    pub taps: Vec<CudaSlice<u16>>,
    pub readers: Vec<CudaSlice<u16>>,
    pub places: CudaSlice<u16>,
    pub labels: CudaSlice<f32>,
    pub starts: Vec<CudaSlice<u32>>,
}

/// Puts rows on a GPU, on a stream of its own: beside the steps.
pub(super) struct Uploader {
    pub stream: Arc<CudaStream>,
    pub device: Device,
}

impl Uploader {
    /// Put the tables of these rows on the GPU; they are there when this returns.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn upload(&self, sites: &Sites, labels: &[f32]) -> Result<DataSet, GpuError> {
        let (shards, stages) = (sites.shards(), sites.geometry().stages());
        let put = || -> Result<DataSet, DriverError> {
            let each = |list: fn(&Shard, usize) -> &[u16]| -> Result<Vec<CudaSlice<u16>>, DriverError> {
                (0..stages).map(|stage| self.joined(shards.iter().map(|shard| list(shard, stage)))).collect()
            };
            let all_starts = |map| self.joined(std::iter::once(starts(shards, map).as_slice()));
            Ok(DataSet {
                rows: labels.len(),
                pixels: self.joined(shards.iter().map(|shard| shard.pixels.as_slice()))?,
                taps: each(|shard, stage| &shard.taps[stage])?,
                readers: each(|shard, stage| &shard.readers[stage])?,
                places: self.joined(shards.iter().map(|shard| shard.places.as_slice()))?,
                labels: self.joined(std::iter::once(labels))?,
                starts: (0..=stages).map(all_starts).collect::<Result<_, _>>()?,
            })
        };
        put().map_err(failed("put the data on the GPU"))
    }

    /// Put the order in which `rows` rows are taken on the GPU: that of their numbers at first.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn order(&self, rows: usize) -> Result<CudaSlice<i32>, GpuError> {
        let numbers: Vec<i32> = (0..rows.max(1)).map(|row| row as i32).collect();
        self.joined(std::iter::once(numbers.as_slice())).map_err(failed("put the order on the GPU"))
    }

    /// Take the rows in this order; numbers past those of the rows are padding.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn set_order(&self, goal: &mut CudaSlice<i32>, order: &[i64]) -> Result<(), GpuError> {
        let order: Vec<i32> = order.iter().take(goal.len()).map(|&row| row as i32).collect();
        let _calm = calm::use_of(self.device);
        let put = self.stream.memcpy_htod(&order, goal).and_then(|()| self.stream.synchronize());
        put.map_err(failed("put the order on the GPU"))
    }

    /// Lists one after another on the device; one element where there are none, so that there is an address.
    ///
    /// Each is a use of the GPU of its own, so that a capture waits for one of them and not for all.
    fn joined<'a, T: DeviceRepr + ValidAsZeroBits + 'a>(
        &self,
        lists: impl Iterator<Item = &'a [T]> + Clone,
    ) -> Result<CudaSlice<T>, DriverError> {
        let length = lists.clone().map(<[T]>::len).sum::<usize>();
        let _calm = calm::use_of(self.device);
        let mut goal = self.stream.alloc_zeros(length.max(1))?;
        let mut start = 0;
        for list in lists.filter(|list| !list.is_empty()) {
            self.stream.memcpy_htod(list, &mut goal.slice_mut(start..start + list.len()))?;
            start += list.len();
        }
        self.stream.synchronize()?;
        Ok(goal)
    }
}

/// The first site of each image in a map, over all shards, and the number of all.
fn starts(shards: &[Shard], map: usize) -> Vec<u32> {
    let mut all = vec![0];
    for shard in shards {
        let before = all[all.len() - 1];
        all.extend(shard.starts[map][1..].iter().map(|start| before + start));
    }
    all
}
