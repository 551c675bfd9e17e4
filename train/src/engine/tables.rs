//! A batch's tables as inputs of a session.

use ort::session::IoBinding;
use ort::value::{PrimitiveTensorElementType, Tensor};

use crate::forward::table_name;
use crate::sites::Batch;

/// Bind the tables of `batch`, made for kernels of `kernel` ticks, to a session on the CPU.
pub(crate) fn bind(binding: &mut IoBinding, batch: Batch, kernel: usize) -> ort::Result<()> {
    let Batch { pixels, stages, places, found, absent } = batch;
    bind_rows(binding, "pixels", pixels, kernel + 1)?;
    for (number, stage) in stages.into_iter().enumerate() {
        let members = stage.taps.len() / kernel;
        bind_rows(binding, &table_name("taps", number), stage.taps, kernel)?;
        bind_rows(binding, &table_name("readers", number), stage.readers, kernel)?;
        bind_rows(binding, &table_name("quiet", number), stage.quiet, members)?;
    }
    bind_list(binding, "places", places)?;
    bind_list(binding, "found", found)?;
    bind_list(binding, "absent", absent)
}

/// Bind a list.
pub(crate) fn bind_list<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    binding: &mut IoBinding,
    name: &str,
    values: Vec<T>,
) -> ort::Result<()> {
    binding.bind_input(name, &Tensor::from_array(([values.len()], values))?)
}

fn bind_rows<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    binding: &mut IoBinding,
    name: &str,
    values: Vec<T>,
    columns: usize,
) -> ort::Result<()> {
    binding.bind_input(name, &Tensor::from_array(([values.len() / columns, columns], values))?)
}
