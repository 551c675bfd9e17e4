//! Convolutions, pools and their gradients in the blocked layout, about three times as fast as the plain one.

use shared::onnx::AttributeProto;

use super::layout::Image;
use super::{BLOCKED, Lowering, MICROSOFT, dims, float, int, ints, text};
use crate::graph::{Id, Op};

/// A factor that makes every positive normal number at least 1.
const STEEP: f32 = 3e38;

impl Lowering<'_> {
    /// Emit the operators of one node in the blocked layout; false if the node is better off in the plain one.
    pub(super) fn blocked(&mut self, id: Id) -> bool {
        if self.block.is_none() {
            return false;
        }
        if self.part_count(id).is_some() {
            // Written by the convolution before it.
            return true;
        }
        let graph = self.graph;
        let node = graph.node(id);
        match (&node.op, node.inputs.as_slice()) {
            (Op::Conv, &[x, w, b]) => self.blocked_conv(id, x, w, b),
            (Op::Relu, &[x]) => self.blocked_relu(id, x),
            (Op::MaxPool, &[x]) => self.blocked_pool(id, x),
            (Op::MaxPoolGrad, &[dy, x, y]) => self.blocked_pool_grad(id, dy, x, y),
            (Op::ReluGrad, &[dy, y]) => self.blocked_relu_grad(id, dy, y),
            (Op::ConvInputGrad, &[dy, w]) => self.blocked_input_grad(id, dy, w),
            (Op::ConvKernelGrad, &[x, dy]) => self.blocked_kernel_grad(x, dy),
            (Op::ChannelSum, &[x]) => self.blocked_channel_sum(x),
            _ => None,
        }
        .is_some()
    }

    fn blocked_conv(&mut self, id: Id, x: Id, w: Id, b: Id) -> Option<()> {
        let image = self.image(x)?;
        let corners = self.has_corners(id);
        let count = if corners { 2 } else { self.wanted_parts(id) };
        let parts = self.input_parts(x, image, count);
        let kernel = if image.c == 1 { self.single_channel_kernel(w) } else { self.forward_kernel(w) };
        let filters = self.graph.shape(b)[0];
        let bias = self.plain(b);
        let filled = self.filled(filters);
        let bias = self.fill(&bias, 1, &[(0, filled - filters)], format!("v{}_bias", id.0));
        if corners {
            self.conv_corners(id, image, &parts, &kernel, &bias);
            return Some(());
        }
        // A relu that alone reads the convolution comes with it.
        let relu = match self.readers[id.0].as_slice() {
            &[only] if self.graph.node(only).op == Op::Relu && !self.outputs.contains(&id) => Some(only),
            _ => None,
        };
        let activation = relu.map(|_| text("activation", "Relu")).into_iter().collect::<Vec<_>>();
        let results = parts
            .iter()
            .enumerate()
            .map(|(part, x)| {
                let inputs = [x.clone(), kernel.clone(), bias.clone()];
                self.step_in(BLOCKED, "Conv", &inputs, activation.clone(), &format!("part{part}"))
            })
            .collect();
        self.parts.insert((relu.unwrap_or(id), count), results);
        Some(())
    }

    /// The parts that a convolution reads: blocked, or as they are if there is one channel.
    fn input_parts(&mut self, x: Id, image: Image, count: usize) -> Vec<String> {
        if image.c == 1 { self.single_channel_parts(x, image, count) } else { self.parts(x, image, count) }
    }

    /// Even rows and odd rows as two convolutions of stride 2, for even and for odd columns.
    fn conv_corners(&mut self, id: Id, x: Image, parts: &[String], kernel: &str, bias: &str) {
        let strides = || vec![ints("strides", &[1, 2])];
        let mut upper = Vec::new();
        let mut lower = Vec::new();
        for (column, part) in parts.iter().enumerate() {
            let inputs = [part.clone(), kernel.to_owned(), bias.to_owned()];
            upper.push(self.step_in(BLOCKED, "Conv", &inputs, strides(), &format!("upper{column}")));
            let later = self.without_first_row(part, x, &format!("v{}_later{column}", id.0));
            let inputs = [later, kernel.to_owned(), bias.to_owned()];
            lower.push(self.step_in(BLOCKED, "Conv", &inputs, strides(), &format!("lower{column}")));
        }
        let names: Vec<String> = upper.into_iter().chain(lower).collect();
        if let Ok(corners) = names.try_into() {
            self.corners.insert(id, corners);
        }
    }

    /// Rows 1 and up of one of two parts.
    fn without_first_row(&mut self, part: &str, Image { n, c, h, w }: Image, name: &str) -> String {
        if c == 1 {
            return self.cut(part, 3, 1, h, name.to_owned());
        }
        let (filled, block) = (self.filled(c), self.block.unwrap_or(1));
        let rows = self.shaped(part, &[n * filled / block * w / 2, h, block], format!("{name}_rows"));
        let cut = self.cut(&rows, 1, 1, h, format!("{name}_cut"));
        self.shaped(&cut, &[n, filled, w / 2, h - 1], name.to_owned())
    }

    fn blocked_relu(&mut self, id: Id, x: Id) -> Option<()> {
        let count = self.part_count(x)?;
        let image = self.image(x)?;
        let parts = self.parts(x, image, count);
        let results = parts
            .iter()
            .enumerate()
            .map(|(part, x)| self.step("Relu", std::slice::from_ref(x), vec![], &format!("part{part}")))
            .collect();
        self.parts.insert((id, count), results);
        Some(())
    }

    fn blocked_pool(&mut self, id: Id, x: Id) -> Option<()> {
        let result = if let Some([a, b, c, d]) = self.corners.get(&x).cloned() {
            let upper = self.step("Max", &[a, b], vec![], "upper");
            let lower = self.step("Max", &[c, d], vec![], "lower");
            self.step("Max", &[upper, lower], vec![], "part0")
        } else {
            let trained = |&reader: &Id| self.graph.node(reader).op == Op::MaxPoolGrad;
            if self.part_count(x).is_none() || self.readers[x.0].iter().any(trained) {
                return None;
            }
            let image = self.image(x)?;
            let whole = self.parts(x, image, 1).remove(0);
            let window = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
            self.step_in(BLOCKED, "MaxPool", &[whole], window, "part0")
        };
        self.parts.insert((id, 1), vec![result]);
        Some(())
    }

    /// The first corner that equals the maximum takes dy: each takes what those before it left.
    fn blocked_pool_grad(&mut self, id: Id, dy: Id, x: Id, y: Id) -> Option<()> {
        let corners = self.corners.get(&x).cloned()?;
        let (small, image) = (self.image(y)?, self.image(x)?);
        let mut rest = self.parts(dy, small, 1).remove(0);
        let most = self.parts(y, small, 1).remove(0);
        let mut taken = Vec::new();
        for (number, corner) in corners.into_iter().take(3).enumerate() {
            let equal = self.step("Equal", &[corner, most.clone()], vec![], &format!("equal{number}"));
            let to = vec![int("to", i64::from(shared::onnx::DataType::F32 as i32))];
            let mask = self.step("Cast", &[equal], to, &format!("mask{number}"));
            let share = self.step("Mul", &[rest.clone(), mask], vec![], &format!("share{number}"));
            rest = self.step("Sub", &[rest, share.clone()], vec![], &format!("rest{number}"));
            taken.push(share);
        }
        taken.push(rest);
        let parts =
            (0..2).map(|column| self.interleave(id, image, column, [&taken[column], &taken[column + 2]]));
        let parts = parts.collect();
        self.parts.insert((id, 2), parts);
        Some(())
    }

    /// Even and odd rows of one of two parts, together again.
    fn interleave(
        &mut self,
        id: Id,
        Image { n, c, h, w }: Image,
        column: usize,
        rows: [&String; 2],
    ) -> String {
        let (filled, block) = (self.filled(c), self.block.unwrap_or(1));
        let single = [n * filled * w / 2 * h / 2 / block, 1, block];
        let rows = rows.map(|row| self.shaped(row, &single, format!("{row}_rows")));
        let joined = self.step("Concat", &rows, vec![int("axis", 1)], &format!("joined{column}"));
        self.shaped(&joined, &[n, filled, w / 2, h], format!("v{}_part{column}", id.0))
    }

    fn blocked_relu_grad(&mut self, id: Id, dy: Id, y: Id) -> Option<()> {
        let image = self.image(y)?;
        let count = self.part_count(dy).or(self.part_count(y))?;
        let slopes = self.parts(y, image, count);
        let incoming = self.parts(dy, image, count);
        let mut results = Vec::new();
        for (part, (y, dy)) in slopes.into_iter().zip(incoming).enumerate() {
            // min(1, steep · y): the slope of relu, in one pass and without a comparison.
            let steep = vec![float("alpha", STEEP), float("beta", 0.0)];
            let slope = self.step("HardSigmoid", &[y], steep, &format!("slope{part}"));
            results.push(self.step("Mul", &[dy, slope], vec![], &format!("part{part}")));
        }
        self.parts.insert((id, count), results);
        Some(())
    }

    /// The flipped kernel with exchanged channels over a padded dy.
    fn blocked_input_grad(&mut self, id: Id, dy: Id, w: Id) -> Option<()> {
        let count = self.part_count(dy)?;
        let image = self.image(dy)?;
        let parts = self.parts(dy, image, count);
        let kernel = self.backward_kernel(w);
        let k = self.graph.shape(w)[2];
        let results = parts
            .iter()
            .enumerate()
            .map(|(part, dy)| {
                let pads: Vec<AttributeProto> = vec![ints("pads", &dims(&[0, k - 1, 0, k - 1]))];
                self.step_in(BLOCKED, "Conv", &[dy.clone(), kernel.clone()], pads, &format!("part{part}"))
            })
            .collect();
        self.parts.insert((id, count), results);
        Some(())
    }

    fn blocked_kernel_grad(&mut self, x: Id, dy: Id) -> Option<()> {
        let count = self.part_count(dy)?;
        let (from, to) = (self.image(x)?, self.image(dy)?);
        if from.c == 1 {
            self.stem_kernel_grad(x, from, dy, to, count);
        } else {
            self.products(x, from, dy, to, count);
        }
        self.plain.insert(Id(self.at));
        Some(())
    }

    /// One matrix product a kernel row and image: dy `[o, w·h]` times the shifted x `[i, w·h]`, summed over images.
    fn products(&mut self, x: Id, from: Image, dy: Id, to: Image, count: usize) {
        let taps = from.h - to.h + 1;
        let ticks = to.w / count * to.h;
        let xs = self.channel_major(x, from, count);
        let dys = self.channel_major(dy, to, count);
        let dys: Vec<String> =
            dys.iter().map(|dy| self.shaped(dy, &[to.n, to.c, ticks], format!("{dy}_flat"))).collect();
        let mut rows = Vec::new();
        for tap in 0..taps {
            let mut sums = Vec::new();
            for (part, (x, dy)) in xs.iter().zip(&dys).enumerate() {
                let name = format!("v{}_{tap}_{part}", self.at);
                let shifted = self.cut(x, 3, tap, tap + to.h, format!("{name}_shifted"));
                let flat = self.shaped(&shifted, &[from.n, from.c, ticks], format!("{name}_flat"));
                let product = format!("{name}_product");
                let transposed = vec![int("transB", 1)];
                self.write(MICROSOFT, "FusedMatMul", &[dy.clone(), flat], transposed, product.clone());
                let axis = self.int_constant(&[0]);
                sums.push(self.named(
                    "ReduceSum",
                    &[product, axis],
                    vec![int("keepdims", 0)],
                    format!("{name}_sum"),
                ));
            }
            let sum = self.total(&sums, &format!("sum{tap}"));
            rows.push(self.reshape_step(&sum, &[to.c, from.c, 1, 1], &format!("row{tap}")));
        }
        self.emit("Concat", &rows, vec![int("axis", 2)]);
    }

    /// With one channel: the shifted images `[k, w·h]` times dy as it lies, `[w·h, block]`; a row of ones below them
    /// gives the sum of dy, which the bias needs, in the same pass.
    fn stem_kernel_grad(&mut self, x: Id, from: Image, dy: Id, to: Image, count: usize) {
        let (taps, block, filled) = (from.h - to.h + 1, self.block.unwrap_or(1), self.filled(to.c));
        let ticks = to.w / count * to.h;
        let images = self.single_channel_parts(x, from, count);
        let dys = self.parts(dy, to, count);
        let ones = self.ones(&[to.n, 1, to.w / count, to.h]);
        let mut products = Vec::new();
        for (part, (image, dy)) in images.iter().zip(&dys).enumerate() {
            let name = format!("v{}_{part}", self.at);
            let mut shifted: Vec<String> = (0..taps)
                .map(|tap| self.cut(image, 3, tap, tap + to.h, format!("{name}_tap{tap}")))
                .collect();
            shifted.push(ones.clone());
            let rows = self.named("Concat", &shifted, vec![int("axis", 1)], format!("{name}_taps"));
            let rows = self.shaped(&rows, &[from.n, 1, taps + 1, ticks], format!("{name}_rows"));
            let dy = self.shaped(dy, &[to.n, filled / block, ticks, block], format!("{name}_dy"));
            products.push(self.named("MatMul", &[rows, dy], vec![], format!("{name}_product")));
        }
        let product = self.total(&products, "product");
        let axis = self.int_constant(&[0]);
        let sum = self.step("ReduceSum", &[product, axis], vec![int("keepdims", 0)], "sum");
        let of_dy = self.cut(&sum, 1, taps, taps + 1, format!("v{}_channel_sums", self.at));
        self.channel_sums.insert(dy, of_dy);
        let kernel = self.cut(&sum, 1, 0, taps, format!("v{}_kernel", self.at));
        let turned = self.step("Transpose", &[kernel], vec![ints("perm", &[0, 2, 1])], "turned");
        self.without_filling(&turned, &[filled, 1, taps, 1], to.c);
    }

    fn blocked_channel_sum(&mut self, x: Id) -> Option<()> {
        // A pool's gradient is dy at one corner of each window and zero at the others: the sum is that of dy.
        let node = self.graph.node(x);
        let x = if node.op == Op::MaxPoolGrad && self.corners.contains_key(&node.inputs[1]) {
            node.inputs[0]
        } else {
            x
        };
        let image = self.image(x)?;
        let (filled, block) = (self.filled(image.c), self.block.unwrap_or(1));
        if let Some(sum) = self.channel_sums.get(&x).cloned() {
            self.without_filling(&sum, &[filled], image.c);
            self.plain.insert(Id(self.at));
            return Some(());
        }
        let count = self.part_count(x)?;
        let ticks = image.w / count * image.h;
        let parts = self.parts(x, image, count);
        let ones = self.ones(&[1, ticks]);
        let mut sums = Vec::new();
        for (part, x) in parts.iter().enumerate() {
            let name = format!("v{}_{part}", self.at);
            let rows = self.shaped(x, &[image.n, filled / block, ticks, block], format!("{name}_rows"));
            sums.push(self.named("MatMul", &[ones.clone(), rows], vec![], format!("{name}_sums")));
        }
        let sum = self.total(&sums, "sums");
        let axis = self.int_constant(&[0]);
        let sum = self.step("ReduceSum", &[sum, axis], vec![int("keepdims", 0)], "sum");
        self.without_filling(&sum, &[filled], image.c);
        self.plain.insert(Id(self.at));
        Some(())
    }

    /// The sum of one or two values.
    fn total(&mut self, parts: &[String], suffix: &str) -> String {
        if parts.len() == 1 { parts[0].clone() } else { self.step("Add", parts, vec![], suffix) }
    }

    /// The node's value from x in a shape whose first axis ends with filling.
    fn without_filling(&mut self, x: &str, shape: &[usize], length: usize) {
        if shape[0] == length {
            return self.reshape(x, shape);
        }
        let all = self.reshape_step(x, shape, "all");
        self.slice(&all, &[(0, 0, length as i64, 1)], None);
    }

    /// w `[o, i, k, 1]` as the blocked convolution reads it: `[o / block, i / block, 1, k, i in block, o in block]`.
    ///
    /// Two transpositions that ONNX Runtime does quickly, since whole blocks stay together in the second.
    fn forward_kernel(&mut self, w: Id) -> String {
        let name = format!("v{}_forward", self.at);
        let (all, [outputs, inputs, k], block) = self.filled_kernel(w, &name);
        let split = self.shaped(&all, &[outputs / block, block, inputs * k], format!("{name}_split"));
        let last = self.named("Transpose", &[split], vec![ints("perm", &[0, 2, 1])], format!("{name}_last"));
        let shape = [outputs / block * inputs / block, block, k, block];
        let apart = self.shaped(&last, &shape, format!("{name}_apart"));
        let turned =
            self.named("Transpose", &[apart], vec![ints("perm", &[0, 2, 1, 3])], format!("{name}_turned"));
        self.shaped(&turned, &[outputs, inputs, 1, k], name)
    }

    /// The flipped w with exchanged channels: `[i / block, o / block, 1, k, o in block, i in block]`.
    fn backward_kernel(&mut self, w: Id) -> String {
        let name = format!("v{}_backward", self.at);
        let (all, [outputs, inputs, k], block) = self.filled_kernel(w, &name);
        let split = self.shaped(&all, &[outputs, inputs, k], format!("{name}_split"));
        let last = self.named("Transpose", &[split], vec![ints("perm", &[0, 2, 1])], format!("{name}_last"));
        let shape = [outputs / block, block, k, inputs / block, block];
        let apart = self.shaped(&last, &shape, format!("{name}_apart"));
        let turned =
            self.named("Transpose", &[apart], vec![ints("perm", &[3, 0, 2, 1, 4])], format!("{name}_turned"));
        let backwards: Vec<usize> = (0..k).rev().collect();
        let backwards = self.int_constant(&dims(&backwards));
        let flipped =
            self.named("Gather", &[turned, backwards], vec![int("axis", 2)], format!("{name}_flipped"));
        self.shaped(&flipped, &[inputs, outputs, 1, k], name)
    }

    /// w with its channels filled up, and its outputs, inputs and rows; the block.
    fn filled_kernel(&mut self, w: Id, name: &str) -> (String, [usize; 3], usize) {
        let plain = self.plain(w);
        let shape = self.graph.shape(w);
        let (o, i, k) = (shape[0], shape[1], shape[2]);
        let (outputs, inputs) = (self.filled(o), self.filled(i));
        let all = self.fill(&plain, 4, &[(0, outputs - o), (1, inputs - i)], format!("{name}_filled"));
        (all, [outputs, inputs, k], self.block.unwrap_or(1))
    }

    /// w `[o, 1, k, 1]` as the blocked convolution reads it: `[o / block, 1, 1, k, o in block]`.
    fn single_channel_kernel(&mut self, w: Id) -> String {
        let plain = self.plain(w);
        let name = format!("v{}_stem", self.at);
        let shape = self.graph.shape(w);
        let (o, k) = (shape[0], shape[2]);
        let (outputs, block) = (self.filled(o), self.block.unwrap_or(1));
        let all = self.fill(&plain, 4, &[(0, outputs - o)], format!("{name}_filled"));
        let split = self.shaped(&all, &[outputs / block, block, k], format!("{name}_split"));
        let turned =
            self.named("Transpose", &[split], vec![ints("perm", &[0, 2, 1])], format!("{name}_turned"));
        self.shaped(&turned, &[outputs, 1, 1, k], name)
    }
}
