//! Reverse-mode differentiation: a table of rules, applied from the loss back to the inputs.

use shared::onnx::DataType;

use super::{Graph, GraphError, Id, OPEN, Op, is_float};

/// Rows from which on a sum of halves is a product: ONNX Runtime adds the partial sums of its blocks in halves.
const LONG_SUM: usize = 1024;

impl Graph {
    /// Gradients of the single number `loss` with respect to `targets`, added to the graph.
    ///
    /// A target that the loss does not depend on gets zeros.
    ///
    /// # Errors
    /// [`GraphError::NoGradient`] for an operation on the way that has no rule; never a silent zero.
    pub fn gradients(&mut self, loss: Id, targets: &[Id]) -> Result<Vec<Id>, GraphError> {
        if self.shape(loss) != [1] {
            return Err(GraphError::NotScalar(self.shape(loss).to_vec()));
        }
        let needed = self.depends_on(loss, targets);
        let mut gradients: Vec<Option<Id>> = vec![None; loss.0 + 1];
        gradients[loss.0] = Some(self.float(1.0));
        for at in (0..=loss.0).rev() {
            let (Some(dy), true) = (gradients[at], needed[at]) else { continue };
            let inputs = self.nodes[at].inputs.clone();
            if !inputs.iter().any(|input| needed[input.0]) {
                continue;
            }
            let contributions = self.rule(Id(at), dy, &needed)?;
            for (input, contribution) in inputs.into_iter().zip(contributions) {
                let (Some(d), true) = (contribution, needed[input.0]) else { continue };
                let d = self.sum_to(d, input)?;
                gradients[input.0] = Some(match gradients[input.0] {
                    Some(sum) => self.add(sum, d)?,
                    None => d,
                });
            }
        }
        let mut found = Vec::with_capacity(targets.len());
        for &target in targets {
            found.push(if let Some(gradient) = gradients.get(target.0).copied().flatten() {
                gradient
            } else {
                let shape = self.shape(target).to_vec();
                let zeros = vec![0.0; shape.iter().product()];
                self.floats_of(self.kind(target), &shape, zeros)
            });
        }
        Ok(found)
    }

    /// The table: gradient of the loss with respect to each input of a node, before broadcasting is undone.
    fn rule(&mut self, node: Id, dy: Id, needed: &[bool]) -> Result<Vec<Option<Id>>, GraphError> {
        let op = self.node(node).op.clone();
        let inputs = self.node(node).inputs.clone();
        Ok(match (op, inputs.as_slice()) {
            (Op::Add, _) => vec![Some(dy), Some(dy)],
            (Op::Sum, all) => vec![Some(dy); all.len()],
            (Op::Sub, _) => {
                let minus = self.number(-1.0, dy);
                vec![Some(dy), Some(self.mul(dy, minus)?)]
            }
            (Op::Mul, &[a, b]) => vec![
                if needed[a.0] { Some(self.mul(dy, b)?) } else { None },
                if needed[b.0] { Some(self.mul(dy, a)?) } else { None },
            ],
            (Op::Div, &[_, b]) => {
                let da = self.div(dy, b)?;
                let db = if needed[b.0] {
                    let scaled = self.mul(da, node)?;
                    let minus = self.number(-1.0, dy);
                    Some(self.mul(scaled, minus)?)
                } else {
                    None
                };
                vec![Some(da), db]
            }
            (Op::Relu, _) => vec![Some(self.apply(Op::ReluGrad, &[dy, node])?)],
            (Op::Sigmoid, _) => {
                let one = self.number(1.0, dy);
                let rest = self.sub(one, node)?;
                let slope = self.mul(node, rest)?;
                vec![Some(self.mul(dy, slope)?)]
            }
            (Op::Softplus, &[x]) => {
                let slope = self.sigmoid(x)?;
                vec![Some(self.mul(dy, slope)?)]
            }
            (Op::Exp, _) => vec![Some(self.mul(dy, node)?)],
            (Op::Sqrt, _) => {
                let half = self.number(0.5, dy);
                let scaled = self.mul(dy, half)?;
                vec![Some(self.div(scaled, node)?)]
            }
            (Op::Cast, &[x]) => vec![Some(self.cast(dy, self.kind(x)))],
            (Op::Reshape, &[x]) => {
                let shape = self.shape(x).to_vec();
                vec![Some(self.reshape(dy, &shape)?)]
            }
            (Op::Slice { axis, start, end }, &[x]) => vec![Some(self.pad(dy, x, axis, start, end)?)],
            (Op::Concat { axis }, parts) => {
                let mut start = 0;
                let mut gradients = Vec::new();
                for &part in parts {
                    let end = start + self.shape(part)[axis];
                    gradients.push(Some(self.apply(Op::Slice { axis, start, end }, &[dy])?));
                    start = end;
                }
                gradients
            }
            (Op::ReduceSum { .. }, &[x]) => {
                let shape = self.shape(x).to_vec();
                let ones = vec![1.0; shape.iter().product()];
                let ones = self.floats_of(self.kind(dy), &shape, ones);
                vec![Some(self.mul(dy, ones)?)]
            }
            (Op::MatMul { transpose_a: false, transpose_b: false }, &[a, b]) => vec![
                if needed[a.0] {
                    Some(self.apply(Op::MatMul { transpose_a: false, transpose_b: true }, &[dy, b])?)
                } else {
                    None
                },
                Some(self.apply(Op::MatMul { transpose_a: true, transpose_b: false }, &[a, dy])?),
            ],
            (Op::SiteConv, &[patches, x, w, readers, quiet]) => {
                self.site_conv_rule(dy, patches, needed[x.0].then_some(x), w, readers, quiet)?
            }
            (Op::CellPool, &[x, _]) => {
                let d = self.apply(Op::ReluGrad, &[dy, node])?;
                vec![Some(self.apply(Op::CellMaxGrad, &[d, x])?), Some(d)]
            }
            (Op::CrossEntropy, &[logits, labels, weights]) => {
                vec![Some(self.apply(Op::CrossEntropyGrad, &[dy, logits, labels, weights])?), None, None]
            }
            (Op::Place, &[_, places, found, absent]) => {
                // Each row stands at one place; the background at all the others.
                let (count, channels) = (self.shape(places)[0], self.shape(dy)[1]);
                let absent = self.reshape(absent, &[1, count])?;
                let background = self.matmul(absent, dy)?;
                let zeros = self.floats_of(self.kind(dy), &[1, channels], vec![0.0; channels]);
                let all = self.apply(Op::Concat { axis: 0 }, &[dy, background, zeros])?;
                vec![Some(self.gather(all, found)?), None, None, None]
            }
            (Op::Conv, &[x, w, _]) => vec![
                // The images themselves need no gradient: this saves the most expensive product of the stem.
                if needed[x.0] { Some(self.apply(Op::ConvInputGrad, &[dy, w])?) } else { None },
                Some(self.conv_kernel_grad(x, dy)?),
                Some(self.apply(Op::ChannelSum, &[dy])?),
            ],
            (Op::MaxPool, &[x]) => vec![Some(self.apply(Op::MaxPoolGrad, &[dy, x, node])?)],
            (op, _) => return Err(GraphError::NoGradient { op: format!("{op:?}") }),
        })
    }

    /// Gradients of a convolution at active sites; that of `x` only if it is wanted.
    ///
    /// dx is a product too: each row gathers the dy of the members that read it. What reads the background is summed first:
    /// its gradient is linear in dy, so that one row of sums for each tap stands for them all.
    fn site_conv_rule(
        &mut self,
        dy: Id,
        patches: Id,
        x: Option<Id>,
        w: Id,
        readers: Id,
        quiet: Id,
    ) -> Result<Vec<Option<Id>>, GraphError> {
        let (taps, outputs) = (self.shape(readers)[1], self.shape(w)[1]);
        let dw = self.apply(Op::MatMul { transpose_a: true, transpose_b: false }, &[patches, dy])?;
        let dx = match x {
            None => None,
            Some(x) => {
                let (rows, inputs) = (self.shape(x)[0], self.shape(x)[1]);
                let sums = self.matmul(quiet, dy)?;
                let zeros = self.floats_of(self.kind(dy), &[1, outputs], vec![0.0; outputs]);
                let found = self.apply(Op::Concat { axis: 0 }, &[dy, sums, zeros])?;
                let near = self.gather(found, readers)?;
                let near = self.reshape(near, &[rows, taps * outputs])?;
                let split = self.reshape(w, &[taps, inputs, outputs])?;
                let swapped = self.apply(Op::Transpose(vec![0, 2, 1]), &[split])?;
                let turned = self.reshape(swapped, &[taps * outputs, inputs])?;
                Some(self.matmul(near, turned)?)
            }
        };
        Ok(vec![None, dx, Some(dw), None, None])
    }

    /// Which values up to `loss` depend on a target.
    fn depends_on(&self, loss: Id, targets: &[Id]) -> Vec<bool> {
        let mut needed = vec![false; loss.0 + 1];
        for at in 0..=loss.0 {
            let node = &self.nodes[at];
            let floats = is_float(node.kind) && node.inputs.iter().all(|&input| is_float(self.kind(input)));
            let through = match node.op {
                Op::AtLeast | Op::DropoutMask { .. } => false,
                Op::Cast => floats,
                _ => true,
            };
            needed[at] =
                targets.contains(&Id(at)) || (through && node.inputs.iter().any(|input| needed[input.0]));
        }
        needed
    }

    /// Undo broadcasting: sum `d` to the shape of `like`.
    fn sum_to(&mut self, d: Id, like: Id) -> Result<Id, GraphError> {
        let wanted = self.shape(like).to_vec();
        let found = self.shape(d).to_vec();
        if wanted == found {
            return Ok(d);
        }
        if let ([rows, columns], DataType::F16) = (found[..].as_ref(), self.kind(d))
            && (LONG_SUM..OPEN).contains(rows)
            && wanted == [*columns]
        {
            let ones = self.floats_of(DataType::F16, &[1, *rows], vec![1.0; *rows]);
            let sum = self.matmul(ones, d)?;
            return self.reshape(sum, &wanted);
        }
        let lead = found.len() - wanted.len();
        let axes: Vec<usize> =
            (0..found.len()).filter(|&i| i < lead || (wanted[i - lead] == 1 && found[i] != 1)).collect();
        let sum = self.apply(Op::ReduceSum { axes }, &[d])?;
        self.reshape(sum, &wanted)
    }

    /// Zeros of the shape of `like` with `d` at `start..end` of `axis`.
    fn pad(&mut self, d: Id, like: Id, axis: usize, start: usize, end: usize) -> Result<Id, GraphError> {
        let shape = self.shape(like).to_vec();
        let mut parts = Vec::new();
        for (length, value) in [(start, None), (end - start, Some(d)), (shape[axis] - end, None)] {
            if let Some(value) = value {
                parts.push(value);
            } else if length > 0 {
                let zeros = super::with(&shape, axis, length);
                let count = zeros.iter().product();
                parts.push(self.floats_of(self.kind(d), &zeros, vec![0.0; count]));
            }
        }
        if parts.len() == 1 { Ok(d) } else { self.apply(Op::Concat { axis }, &parts) }
    }
}
