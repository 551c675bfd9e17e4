//! The flat gradient from its parts.

use shared::onnx::DataType;

use super::args::{Gradient, GradientPart, How, MOST_PARTS};
use super::head::HeadOut;
use super::network::Network;
use super::{Block, Done, Start, Work};
use crate::graph::{Graph, Id};
use crate::parameters::Parameter;

/// Numbers from which on several threads add them up, and length of a gradient that keeps the GPU busy without.
const MANY_SPLITS: usize = 12;
const LONG: usize = 100_000;

/// A part of the gradient: its parameter, how it comes about, and from what (value, offset).
pub(super) struct Part {
    pub parameter: usize,
    pub how: How,
    /// Elements past the parameter's own that come with it
    pub more: usize,
    pub from: (Id, usize),
    pub with: (Id, usize),
    pub count: usize,
    pub stride: usize,
    pub with_stride: usize,
    pub inner: usize,
}

impl Part {
    /// The sum over the first axis of a value.
    pub fn splits(parameter: usize, value: Id, count: usize) -> Self {
        Self {
            parameter,
            how: How::Splits,
            more: 0,
            from: (value, 0),
            with: (value, 0),
            count,
            stride: 0,
            with_stride: 0,
            inner: 1,
        }
    }
}

impl Network<'_> {
    pub fn gradient(&self, g: &mut Graph, start: &Start, head: &HeadOut, parts: Vec<Part>) -> Done {
        let sums = g.input("sums", DataType::F32, &[2]);
        let mut ids = vec![start.step, start.batch, sums, head.rows];
        ids.extend(start.scale);
        let mut number_of = |id: Id| {
            ids.iter().position(|&known| known == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            }) as u64
        };
        let mut args =
            Gradient { row_count: self.plan.batch as i32, number: parts.len() as i32, ..Gradient::default() };
        assert!(parts.len() <= MOST_PARTS, "`uncovered` lets no more layers through");
        let (mut places, mut blocks) = (Vec::new(), 0);
        for (goal, part) in args.parts.iter_mut().zip(parts) {
            let parameter = &self.parameters[part.parameter];
            let length = parameter.len() + part.more;
            let few = part.how == How::Splits && (part.count < MANY_SPLITS || length >= LONG);
            let how = if few { How::FewSplits } else { part.how };
            *goal = GradientPart {
                from: number_of(part.from.0),
                with: number_of(part.with.0),
                how: how as i32,
                start: parameter.start as i32,
                length: length as i32,
                count: part.count as i32,
                stride: part.stride as i32,
                with_stride: part.with_stride as i32,
                inner: part.inner as i32,
                first_block: blocks as i32,
            };
            places.push([part.from.1, part.with.1]);
            blocks += length.div_ceil(if few { 1024 } else { 64 });
        }
        let length: usize = self.parameters.iter().map(Parameter::len).sum();
        let mut outputs = vec![
            (DataType::F32, vec![length]),
            (DataType::I64, vec![1]),
            (DataType::I64, vec![1]),
            (DataType::F32, vec![2]),
        ];
        if start.scale.is_some() {
            outputs.push((DataType::F32, vec![crate::scale::START.len()]));
        }
        let work = Work::Gradient { args: Box::new(args), places };
        let block = Block { outputs, work, grid: [blocks, 1, 1] };
        let values = g.blocks(block, &ids);
        Done {
            gradient: values[0],
            step: values[1],
            batch: values[2],
            sums: values[3],
            scale: values.get(4).copied(),
        }
    }
}
