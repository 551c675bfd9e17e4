//! Tensors on the host or on a GPU, filled and read from the host.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{PrimitiveTensorElementType, Tensor};
use shared::onnx::DataType;
use shared::runtime::{self, Device, Settings};

use crate::engine::{EngineError, encode, failed};
use crate::graph::Graph;
use crate::graph::lower::Target;

/// Where tensors live.
pub(crate) struct Memory {
    /// The GPU's allocator; none on the CPU
    pub gpu: Option<Allocator>,
}

impl Memory {
    /// The memory of a device; on a GPU it is that of a session which stays for as long as the process runs.
    ///
    /// # Errors
    /// [`EngineError`] if the device can't be had.
    pub fn on(settings: &Settings) -> Result<Self, EngineError> {
        static HOMES: Mutex<BTreeMap<u32, Session>> = Mutex::new(BTreeMap::new());
        let Device::Cuda(number) = settings.device else { return Ok(Self { gpu: None }) };
        let mut homes = HOMES.lock().unwrap_or_else(PoisonError::into_inner);
        let home = match homes.entry(number) {
            Entry::Occupied(home) => home.into_mut(),
            Entry::Vacant(place) => {
                let mut g = Graph::default();
                let x = g.input("x", DataType::F32, &[1]);
                let settings = Settings::new(settings.device, 1);
                place.insert(runtime::session(&encode((g, vec![("y", x)]), Target::Stock), &settings)?)
            }
        };
        Self::of(home, settings.device).map_err(failed("reach the GPU's memory"))
    }

    fn of(session: &Session, device: Device) -> ort::Result<Self> {
        let gpu = match device {
            Device::Cpu => None,
            Device::Cuda(number) => {
                let number = i32::try_from(number).unwrap_or(i32::MAX);
                let info = MemoryInfo::new(
                    AllocationDevice::CUDA,
                    number,
                    AllocatorType::Device,
                    MemoryType::Default,
                )?;
                Some(Allocator::new(session, info)?)
            }
        };
        Ok(Self { gpu })
    }

    /// A tensor of this shape with these values.
    pub fn tensor<T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static>(
        &self,
        shape: &[usize],
        values: &[T],
    ) -> ort::Result<Tensor<T>> {
        let mut host = Tensor::<T>::new(&Allocator::default(), shape)?;
        host.extract_tensor_mut().1.copy_from_slice(values);
        let Some(gpu) = &self.gpu else { return Ok(host) };
        let mut device = Tensor::<T>::new(gpu, shape)?;
        host.copy_into(&mut device)?;
        Ok(device)
    }

    /// A tensor of this shape from these values, which the host keeps if they are to stay there.
    pub fn take<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        &self,
        shape: &[usize],
        values: Vec<T>,
    ) -> ort::Result<Tensor<T>> {
        let host = Tensor::from_array((shape, values))?;
        let Some(gpu) = &self.gpu else { return Ok(host) };
        let mut device = Tensor::<T>::new(gpu, shape)?;
        host.copy_into(&mut device)?;
        Ok(device)
    }

    /// A tensor of this shape with zeros.
    pub fn zeros<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static>(
        &self,
        shape: &[usize],
    ) -> ort::Result<Tensor<T>> {
        self.tensor(shape, &vec![T::default(); shape.iter().product()])
    }

    /// New values for an existing tensor; its address stays.
    pub fn fill<T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static>(
        &self,
        tensor: &mut Tensor<T>,
        values: &[T],
    ) -> ort::Result<()> {
        if self.gpu.is_none() {
            tensor.extract_tensor_mut().1.copy_from_slice(values);
            return Ok(());
        }
        let mut host = Tensor::<T>::new(&Allocator::default(), tensor.shape().clone())?;
        host.extract_tensor_mut().1.copy_from_slice(values);
        host.copy_into(tensor)
    }

    /// The values of a tensor on the host.
    pub fn read<T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static>(
        &self,
        tensor: &Tensor<T>,
    ) -> ort::Result<Vec<T>> {
        if self.gpu.is_none() {
            return Ok(tensor.extract_tensor().1.to_vec());
        }
        let mut host = Tensor::<T>::new(&Allocator::default(), tensor.shape().clone())?;
        tensor.copy_into(&mut host)?;
        Ok(host.extract_tensor().1.to_vec())
    }
}
