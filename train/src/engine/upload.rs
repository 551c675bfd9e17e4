//! Rows on their way to a GPU.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError};
use shared::runtime::Device;

use super::calm;
use super::gpu::{GpuError, failed};
use crate::sites::{Shard, Sites};

/// Rows on a GPU: their lists, as `sites::Shard` has them, and the order in which they are taken.
pub(super) struct DataSet {
    pub rows: usize,
    pub pixels: CudaSlice<f32>,
    pub taps: Vec<CudaSlice<u16>>,
    pub readers: Vec<CudaSlice<u16>>,
    pub places: CudaSlice<u16>,
    pub labels: CudaSlice<f32>,
    pub starts: Vec<CudaSlice<u32>>,
    pub order: CudaSlice<i32>,
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
        let _calm = calm::use_of(self.device);
        let (stream, shards, stages) = (&self.stream, sites.shards(), sites.geometry().stages());
        let put = || -> Result<DataSet, DriverError> {
            let each = |list: fn(&Shard, usize) -> &[u16]| -> Result<Vec<CudaSlice<u16>>, DriverError> {
                (0..stages)
                    .map(|stage| joined(stream, shards.iter().map(|shard| list(shard, stage))))
                    .collect()
            };
            let data = DataSet {
                rows: labels.len(),
                pixels: joined(stream, shards.iter().map(|shard| shard.pixels.as_slice()))?,
                taps: each(|shard, stage| &shard.taps[stage])?,
                readers: each(|shard, stage| &shard.readers[stage])?,
                places: joined(stream, shards.iter().map(|shard| shard.places.as_slice()))?,
                labels: joined(stream, std::iter::once(labels))?,
                starts: (0..=stages)
                    .map(|map| joined(stream, std::iter::once(starts(shards, map).as_slice())))
                    .collect::<Result<_, _>>()?,
                order: stream.alloc_zeros(labels.len().max(1))?,
            };
            stream.synchronize()?;
            Ok(data)
        };
        put().map_err(failed("put the data on the GPU"))
    }

    /// Take the rows in this order; numbers past those of the rows are padding.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn set_order(&self, data: &mut DataSet, order: &[i64]) -> Result<(), GpuError> {
        let _calm = calm::use_of(self.device);
        let order: Vec<i32> = order.iter().take(data.rows).map(|&row| row as i32).collect();
        let put = self.stream.memcpy_htod(&order, &mut data.order).and_then(|()| self.stream.synchronize());
        put.map_err(failed("put the order on the GPU"))
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

/// Lists one after another on the device; one element where there are none, so that there is an address.
fn joined<'a, T: DeviceRepr + cudarc::driver::ValidAsZeroBits + 'a>(
    stream: &Arc<CudaStream>,
    lists: impl Iterator<Item = &'a [T]> + Clone,
) -> Result<CudaSlice<T>, DriverError> {
    let length = lists.clone().map(<[T]>::len).sum::<usize>();
    let mut goal = stream.alloc_zeros(length.max(1))?;
    let mut start = 0;
    for list in lists.filter(|list| !list.is_empty()) {
        stream.memcpy_htod(list, &mut goal.slice_mut(start..start + list.len()))?;
        start += list.len();
    }
    Ok(goal)
}
