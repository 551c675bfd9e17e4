//! Layouts of an image and the ways between them.
//!
//! Plain is `[n, c, h, w]`. Blocked is what ONNX Runtime's `nchwc` operators take: `[n, c / block, w, h, block]`, with
//! zeros in the channels that fill the last block, declared as `[n, c, w, h]`. Time is the inner axis, since kernels
//! span time only. A blocked image is one tensor, or two: its even columns and its odd columns. So the columns of a
//! pool's windows lie in two tensors, and a pool is an element-wise maximum.

use shared::onnx::NodeProto;

use super::{BLOCKED, Lowering, int, ints, value};
use crate::graph::{Id, Op};

/// Shape of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image {
    /// Images
    pub n: usize,
    /// Channels
    pub c: usize,
    /// Rows: ticks of time
    pub h: usize,
    /// Columns
    pub w: usize,
}

impl Lowering<'_> {
    /// Shape of a value that is an image.
    pub(super) fn image(&self, id: Id) -> Option<Image> {
        match *self.graph.shape(id) {
            [n, c, h, w] => Some(Image { n, c, h, w }),
            _ => None,
        }
    }

    /// Channels with the last block filled.
    pub(super) fn filled(&self, channels: usize) -> usize {
        channels.next_multiple_of(self.block.unwrap_or(1))
    }

    /// Number of parts that a value's columns are dealt out to, if it has the blocked layout.
    pub(super) fn part_count(&self, id: Id) -> Option<usize> {
        [2, 1].into_iter().find(|&count| self.parts.contains_key(&(id, count)))
    }

    /// Name of a value in the plain layout.
    pub(super) fn plain(&mut self, id: Id) -> String {
        let name = value(id);
        if !self.plain.insert(id) {
            return name;
        }
        let (Some(image), Some(block)) = (self.image(id), self.block) else {
            unreachable!("only images have a layout other than the plain one")
        };
        let Image { n, c, h, w } = image;
        let filled = self.filled(c);
        let part = self.parts(id, image, 1).remove(0);
        let split = self.shaped(&part, &[n, filled / block, w, h, block], format!("{name}_split"));
        let turned =
            self.named("Transpose", &[split], vec![ints("perm", &[0, 1, 4, 3, 2])], format!("{name}_turned"));
        if filled == c {
            return self.shaped(&turned, &[n, c, h, w], name);
        }
        let all = self.shaped(&turned, &[n, filled, h, w], format!("{name}_filled"));
        self.cut(&all, 1, 0, c, name)
    }

    /// A value in the blocked layout; part j of `count` has every `count`-th column from j on.
    pub(super) fn parts(&mut self, id: Id, image: Image, count: usize) -> Vec<String> {
        if let Some(parts) = self.parts.get(&(id, count)) {
            return parts.clone();
        }
        let parts = if count == 2 {
            let whole = self.parts(id, image, 1).remove(0);
            self.deal(&whole, image, &value(id))
        } else if let Some(parts) = self.parts.get(&(id, 2)).cloned() {
            vec![self.collect(&parts, image, format!("{}_whole", value(id)))]
        } else {
            vec![self.block_up(id, image)]
        };
        self.parts.insert((id, count), parts.clone());
        parts
    }

    /// Plain to blocked.
    fn block_up(&mut self, id: Id, Image { n, c, h, w }: Image) -> String {
        let name = self.plain(id);
        let (filled, block) = (self.filled(c), self.block.unwrap_or(1));
        let all = self.fill(&name, 4, &[(1, filled - c)], format!("{name}_filled_up"));
        let split = self.shaped(&all, &[n, filled / block, block, h, w], format!("{name}_blocks"));
        let turned = self.named(
            "Transpose",
            &[split],
            vec![ints("perm", &[0, 1, 4, 3, 2])],
            format!("{name}_turned_up"),
        );
        self.shaped(&turned, &[n, filled, w, h], format!("{name}_blocked"))
    }

    /// One blocked tensor to two: even and odd columns.
    fn deal(&mut self, whole: &str, Image { n, c, h, w }: Image, name: &str) -> Vec<String> {
        let (filled, block) = (self.filled(c), self.block.unwrap_or(1));
        let pairs = self.shaped(whole, &[n * filled / block * w / 2, 2, h * block], format!("{name}_pairs"));
        let halves: Vec<String> = (0..2).map(|half| format!("{name}_half{half}")).collect();
        self.push(NodeProto {
            input: vec![pairs],
            output: halves.clone(),
            name: halves[0].clone(),
            op_type: "Split".into(),
            attribute: vec![int("axis", 1), int("num_outputs", 2)],
            domain: String::new(),
        });
        let shape = [n, filled, w / 2, h];
        halves.iter().map(|half| self.shaped(half, &shape, format!("{half}_part"))).collect()
    }

    /// Two blocked tensors to one.
    fn collect(&mut self, parts: &[String], Image { n, c, h, w }: Image, name: String) -> String {
        let (filled, block) = (self.filled(c), self.block.unwrap_or(1));
        let shape = [n * filled / block * w / 2, 1, h * block];
        let flat: Vec<String> =
            parts.iter().map(|part| self.shaped(part, &shape, format!("{part}_flat"))).collect();
        let pairs = self.named("Concat", &flat, vec![int("axis", 1)], format!("{name}_joined"));
        self.shaped(&pairs, &[n, filled, w, h], name)
    }

    /// The parts of an image with one channel, which is not blocked: `[n, 1, w / count, h]` each.
    pub(super) fn single_channel_parts(
        &mut self,
        id: Id,
        Image { n, h, w, .. }: Image,
        count: usize,
    ) -> Vec<String> {
        let name = self.plain(id);
        let first = format!("{name}_column0of{count}");
        let names: Vec<String> = (0..count).map(|part| format!("{name}_column{part}of{count}")).collect();
        if self.nodes.iter().any(|node| node.name == first) {
            return names;
        }
        let dealt = self.shaped(&name, &[n, h, w / count, count], format!("{name}_dealt{count}"));
        let turned = self.named(
            "Transpose",
            &[dealt],
            vec![ints("perm", &[3, 0, 2, 1])],
            format!("{name}_turned{count}"),
        );
        for (part, goal) in names.iter().enumerate() {
            let one = self.cut(&turned, 0, part, part + 1, format!("{goal}_cut"));
            self.shaped(&one, &[n, 1, w / count, h], goal.clone());
        }
        names
    }

    /// The parts of a value with channels one after another: `[n, c, w / count, h]` each.
    pub(super) fn channel_major(&mut self, id: Id, image: Image, count: usize) -> Vec<String> {
        let parts = self.parts(id, image, count);
        let channels = int("channels", image.c as i64);
        parts
            .iter()
            .map(|part| {
                let name = format!("{part}_channels");
                self.write(
                    BLOCKED,
                    "ReorderOutput",
                    std::slice::from_ref(part),
                    vec![channels.clone()],
                    name.clone(),
                );
                name
            })
            .collect()
    }

    /// Whether a convolution writes the corners of its pool's windows apart: only where all of them are needed.
    pub(super) fn has_corners(&self, conv: Id) -> bool {
        let Some(Image { h, w, .. }) = self.image(conv) else { return false };
        let readers = &self.readers[conv.0];
        let op = |reader: &Id| &self.graph.node(*reader).op;
        h % 2 == 0
            && w % 2 == 0
            && !self.outputs.contains(&conv)
            && readers.iter().all(|reader| matches!(op(reader), Op::MaxPool | Op::MaxPoolGrad))
            && readers.iter().any(|reader| matches!(op(reader), Op::MaxPoolGrad))
    }

    /// The number of parts in which a value's readers want it.
    pub(super) fn wanted_parts(&self, id: Id) -> usize {
        let two = self.readers[id.0].iter().any(|&reader| match self.graph.node(reader).op {
            Op::Relu => self.wanted_parts(reader) == 2,
            Op::Conv => self.has_corners(reader),
            _ => false,
        });
        if two { 2 } else { 1 }
    }

    /// Zeros behind the values along some of `rank` axes (axis, count).
    pub(super) fn fill(&mut self, x: &str, rank: usize, axes: &[(usize, usize)], name: String) -> String {
        if axes.iter().all(|&(_, count)| count == 0) {
            return x.to_owned();
        }
        let mut pads = vec![0; 2 * rank];
        for &(axis, count) in axes {
            pads[rank + axis] = count as i64;
        }
        let pads = self.int_constant(&pads);
        self.named("Pad", &[x.to_owned(), pads], vec![], name)
    }

    /// `start..end` of an axis.
    pub(super) fn cut(&mut self, x: &str, axis: usize, start: usize, end: usize, name: String) -> String {
        let inputs = [
            x.to_owned(),
            self.int_constant(&[start as i64]),
            self.int_constant(&[end as i64]),
            self.int_constant(&[axis as i64]),
        ];
        self.named("Slice", &inputs, vec![], name)
    }

    /// The same values in another shape, which costs nothing.
    pub(super) fn shaped(&mut self, x: &str, shape: &[usize], name: String) -> String {
        let goal = self.goal(shape);
        self.named("Reshape", &[x.to_owned(), goal], vec![], name)
    }
}
