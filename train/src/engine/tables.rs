//! A batch's tables as inputs of a session.

use ort::session::IoBinding;
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

use crate::forward::table_name;
use crate::memory::Memory;
use crate::sites::Batch;

/// Tables by the names of inputs.
pub(crate) type Inputs = Vec<(String, DynTensor)>;

/// Bind the tables of `batch`, made for kernels of `kernel` ticks, to a session; on a GPU it copies them there.
pub(crate) fn bind(binding: &mut IoBinding, batch: Batch, kernel: usize) -> ort::Result<()> {
    let host = Memory { gpu: None };
    bind_all(binding, &inputs(batch, kernel, |_| &host)?)
}

/// Bind tables.
pub(crate) fn bind_all<'a>(
    binding: &mut IoBinding,
    inputs: impl IntoIterator<Item = &'a (String, DynTensor)>,
) -> ort::Result<()> {
    inputs.into_iter().try_for_each(|(name, tensor)| binding.bind_input(name, tensor))
}

/// The tables of `batch`, made for kernels of `kernel` ticks, each in the memory that `memory` gives for its name.
pub(crate) fn inputs<'a>(
    batch: Batch,
    kernel: usize,
    memory: impl Fn(&str) -> &'a Memory,
) -> ort::Result<Inputs> {
    let Batch { pixels, stages, places, found, absent } = batch;
    let mut all = Adding { inputs: Vec::new(), memory };
    all.rows("pixels".into(), pixels, kernel + 1)?;
    for (number, stage) in stages.into_iter().enumerate() {
        let members = stage.taps.len() / kernel;
        all.rows(table_name("taps", number), stage.taps, kernel)?;
        all.rows(table_name("readers", number), stage.readers, kernel)?;
        all.rows(table_name("quiet", number), stage.quiet, members)?;
    }
    all.list("places", places)?;
    all.list("found", found)?;
    all.list("absent", absent)?;
    Ok(all.inputs)
}

/// Bind a list.
pub(crate) fn bind_list<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    binding: &mut IoBinding,
    name: &str,
    values: Vec<T>,
) -> ort::Result<()> {
    binding.bind_input(name, &Tensor::from_array(([values.len()], values))?)
}

/// Inputs as they are put together.
struct Adding<M> {
    inputs: Inputs,
    memory: M,
}

impl<'a, M: Fn(&str) -> &'a Memory> Adding<M> {
    fn list<T>(&mut self, name: &str, values: Vec<T>) -> ort::Result<()>
    where
        T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
    {
        let tensor = (self.memory)(name).take(&[values.len()], values)?;
        self.inputs.push((name.to_owned(), tensor.upcast()));
        Ok(())
    }

    fn rows<T>(&mut self, name: String, values: Vec<T>, columns: usize) -> ort::Result<()>
    where
        T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
    {
        let tensor = (self.memory)(&name).take(&[values.len() / columns, columns], values)?;
        self.inputs.push((name, tensor.upcast()));
        Ok(())
    }
}
