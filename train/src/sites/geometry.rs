//! The maps of a network: what it makes of an image's height and width.

use shared::network::{ConvLayer, Layers};

/// Shape of a stage: a convolution and its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stage {
    /// Height of the map that comes in
    pub height: usize,
    /// Width of the map that comes in
    pub width: usize,
    /// Height of the map that goes out
    pub cells_high: usize,
    /// Width of the map that goes out
    pub cells_wide: usize,
}

/// What a network makes of an image's geometry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) kernel: usize,
    /// The convolutions after the stem
    pub(super) stages: Vec<Stage>,
}

impl Geometry {
    /// Geometry of a network with images of `height` × `width`.
    pub fn new(layers: &Layers, kernel: usize) -> Self {
        let ConvLayer { height, width, .. } = layers.convs[0];
        let stage = |layer: &ConvLayer| Stage {
            height: layer.height,
            width: layer.width,
            cells_high: (layer.height + 1 - kernel) / 2,
            cells_wide: layer.width / 2,
        };
        Self { height, width, kernel, stages: layers.convs[1..].iter().map(stage).collect() }
    }

    /// Number of convolutions after the stem, each with a pool.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Kernel height in ticks.
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Positions of the last map.
    pub fn positions(&self) -> usize {
        match self.stages.last() {
            Some(stage) => stage.cells_high * stage.cells_wide,
            None => (self.height + 1 - self.kernel) * self.width,
        }
    }
}
