//! The reference network `simple_cnn`: its layers and their shapes, known before anything is built.

use serde::{Deserialize, Serialize};

/// What makes one `simple_cnn`.
///
/// Conv(`filters`, (`kernel`, 1), valid) relu; for i < `conv_layers`: Conv(`filters` / (i + 1), (`kernel`, 1),
/// valid) relu, `MaxPool` 2×2; Flatten; for i < `dense_layers`: Dense(`units` / (i + 1)) relu, Dropout; Dense(1)
/// sigmoid. Integer division throughout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimpleCnn {
    /// Image height in ticks
    pub height: usize,
    /// Image width in channels
    pub width: usize,
    /// Filters of the first convolution
    pub filters: usize,
    /// Kernel height in ticks; kernels are 1 channel wide
    pub kernel: usize,
    /// Convolutions after the first, each followed by a pool
    pub conv_layers: usize,
    /// Dense layers before the output
    pub dense_layers: usize,
    /// Units of the first dense layer
    pub units: usize,
    /// Share of dense activations dropped while training, in `0.0..1.0`
    pub dropout: f64,
}

/// A convolution: `[batch, inputs, height, width]` to `[batch, outputs, height - kernel + 1, width]`, then, if
/// `pooled`, halved in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvLayer {
    /// Name of its weights, such as `conv1`
    pub name: String,
    /// Channels in
    pub inputs: usize,
    /// Channels out
    pub outputs: usize,
    /// Height of the map that comes in
    pub height: usize,
    /// Width of the map that comes in
    pub width: usize,
    /// Whether a 2×2 pool follows
    pub pooled: bool,
}

/// A dense layer: `[batch, inputs]` to `[batch, outputs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseLayer {
    /// Name of its weights, such as `dense0` or `output`
    pub name: String,
    /// Features in
    pub inputs: usize,
    /// Features out
    pub outputs: usize,
}

/// All layers with their shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Convolutions in order, the stem first
    pub convs: Vec<ConvLayer>,
    /// Dense layers in order, the output last
    pub denses: Vec<DenseLayer>,
}

/// A network that can't exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum NetworkError {
    #[error(
        "layer `{layer}`: a kernel of {kernel} ticks does not fit a map of {height} x {width}; use fewer conv layers or a smaller kernel"
    )]
    KernelTooHigh { layer: String, kernel: usize, height: usize, width: usize },
    #[error("layer `{layer}`: pooling a map of {height} x {width} leaves nothing; use fewer conv layers")]
    PooledAway { layer: String, height: usize, width: usize },
    #[error("layer `{layer}` has no outputs; raise `{parameter}`")]
    NoOutputs { layer: String, parameter: &'static str },
    #[error("dropout rate {0} is outside 0 (included) to 1 (excluded)")]
    Dropout(String),
}

impl SimpleCnn {
    /// The layers and their shapes.
    ///
    /// # Errors
    /// [`NetworkError`] names the layer that has no room or no outputs.
    pub fn layers(&self) -> Result<Layers, NetworkError> {
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(NetworkError::Dropout(self.dropout.to_string()));
        }
        let mut map = Map { channels: 1, height: self.height, width: self.width };
        let mut convs = vec![map.conv("conv0".into(), self.filters, self.kernel, false)?];
        for i in 0..self.conv_layers {
            convs.push(map.conv(format!("conv{}", i + 1), self.filters / (i + 1), self.kernel, true)?);
        }
        let mut inputs = map.channels * map.height * map.width;
        let mut denses = Vec::new();
        for i in 0..self.dense_layers {
            let (name, outputs) = (format!("dense{i}"), self.units / (i + 1));
            if outputs == 0 {
                return Err(NetworkError::NoOutputs { layer: name, parameter: "n_dense_units" });
            }
            denses.push(DenseLayer { name, inputs, outputs });
            inputs = outputs;
        }
        denses.push(DenseLayer { name: "output".into(), inputs, outputs: 1 });
        Ok(Layers { convs, denses })
    }
}

impl Layers {
    /// Number of trainable parameters.
    pub fn parameters(&self, kernel: usize) -> usize {
        let conv: usize = self.convs.iter().map(|l| l.outputs * (l.inputs * kernel + 1)).sum();
        let dense: usize = self.denses.iter().map(|l| l.outputs * (l.inputs + 1)).sum();
        conv + dense
    }
}

/// Shape of the map between two convolutions.
struct Map {
    channels: usize,
    height: usize,
    width: usize,
}

impl Map {
    fn conv(
        &mut self,
        layer: String,
        outputs: usize,
        kernel: usize,
        pooled: bool,
    ) -> Result<ConvLayer, NetworkError> {
        let Self { channels: inputs, height, width } = *self;
        if outputs == 0 {
            return Err(NetworkError::NoOutputs { layer, parameter: "n_filters" });
        }
        if kernel == 0 || height < kernel || width == 0 {
            return Err(NetworkError::KernelTooHigh { layer, kernel, height, width });
        }
        *self = Self { channels: outputs, height: height - kernel + 1, width };
        if pooled {
            if self.height < 2 || self.width < 2 {
                return Err(NetworkError::PooledAway { layer, height: self.height, width: self.width });
            }
            self.height /= 2;
            self.width /= 2;
        }
        Ok(ConvLayer { name: layer, inputs, outputs, height, width, pooled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_deepest() -> SimpleCnn {
        SimpleCnn {
            height: 128,
            width: 16,
            filters: 256,
            kernel: 5,
            conv_layers: 4,
            dense_layers: 3,
            units: 64,
            dropout: 0.1,
        }
    }

    #[test]
    fn the_smallest_map_of_v1_to_v4_is_four_by_one() {
        let layers = v4_deepest().layers().unwrap();
        let last = layers.convs.last().unwrap();
        // Heights 128, 124, 60, 28, 12 come in; (12 - 4) / 2 = 4 comes out.
        assert_eq!((last.height, last.width, last.outputs), (12, 2, 64));
        assert_eq!(layers.denses[0].inputs, 64 * 4);
    }

    #[test]
    fn a_map_that_is_pooled_away_names_its_layer() {
        let network = SimpleCnn { conv_layers: 5, ..v4_deepest() };
        let error = network.layers().unwrap_err().to_string();
        assert_eq!(
            error,
            "layer `conv5`: a kernel of 5 ticks does not fit a map of 4 x 1; use fewer conv layers or a smaller kernel"
        );
    }
}
