//! The parameters of a network as one flat vector.

use std::ops::Range;

use rand::RngExt;
use shared::network::Layers;

/// A parameter tensor inside the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `conv0.weight`
    pub name: String,
    /// Shape
    pub shape: Vec<usize>,
    /// First element in the flat vector
    pub start: usize,
    /// Inputs and outputs that Glorot's bound counts; `None` for biases, which start at 0
    pub fans: Option<(usize, usize)>,
}

impl Parameter {
    /// Where it lies in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements, which no layer has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters in the order of the flat vector: convolutions, then dense layers, weight before bias.
///
/// Layouts are Keras's: convolution weights `[kernel, in, out]`, dense weights `[in, out]`, where the first dense layer's
/// inputs are ordered by tick, channel of the detector, filter.
pub fn parameters(layers: &Layers, kernel: usize) -> Vec<Parameter> {
    let mut found: Vec<Parameter> = Vec::new();
    let mut push = |name: String, shape: Vec<usize>, fans| {
        let start = found.last().map_or(0, |p| p.start + p.len());
        found.push(Parameter { name, shape, start, fans });
    };
    for layer in &layers.convs {
        let fans = Some((layer.inputs * kernel, layer.outputs * kernel));
        push(format!("{}.weight", layer.name), vec![kernel, layer.inputs, layer.outputs], fans);
        push(format!("{}.bias", layer.name), vec![layer.outputs], None);
    }
    for layer in &layers.denses {
        push(
            format!("{}.weight", layer.name),
            vec![layer.inputs, layer.outputs],
            Some((layer.inputs, layer.outputs)),
        );
        push(format!("{}.bias", layer.name), vec![layer.outputs], None);
    }
    found
}

/// Glorot-uniform weights and zero biases, the flat vector.
///
/// Bound: √(6 / (fan in + fan out)), Glorot & Bengio 2010, eq. 16. Stream `weights` of (seed, trial, parameter number).
pub fn initial_weights(parameters: &[Parameter], seed: u64, trial: u64) -> Vec<f32> {
    let mut flat = Vec::new();
    for (number, parameter) in parameters.iter().enumerate() {
        let Some((fan_in, fan_out)) = parameter.fans else {
            flat.extend(std::iter::repeat_n(0.0, parameter.len()));
            continue;
        };
        let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
        let mut random = shared::random::stream(seed, "weights", &[trial, number as u64]);
        flat.extend((0..parameter.len()).map(|_| (random.random_range(-1.0..1.0) * bound) as f32));
    }
    flat
}

/// Length of the flat vector.
pub fn length(parameters: &[Parameter]) -> usize {
    parameters.last().map_or(0, |p| p.range().end)
}

/// The parameters as ONNX's operators on images take them: shape and values of each, convolution weights
/// `[out, in, kernel, 1]`, the inputs of the first dense layer ordered by filter, tick, channel.
pub fn plain(layers: &Layers, parameters: &[Parameter], flat: &[f32]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let filters = layers.convs[layers.convs.len() - 1].outputs;
    let mut first_dense = true;
    parameters
        .iter()
        .map(|p| {
            let values = &flat[p.range()];
            match p.shape[..] {
                [kernel, inputs, outputs] => {
                    let turned = permuted(values, [kernel * inputs, outputs, 1], [1, 0, 2]);
                    (
                        vec![outputs, inputs, kernel, 1],
                        permuted(&turned, [outputs, kernel, inputs], [0, 2, 1]),
                    )
                }
                [inputs, outputs] if std::mem::take(&mut first_dense) => {
                    (p.shape.clone(), permuted(values, [inputs / filters, filters, outputs], [1, 0, 2]))
                }
                _ => (p.shape.clone(), values.to_vec()),
            }
        })
        .collect()
}

/// The flat vector of parameters that [`plain`] made; `None` if a shape or their number is another.
pub fn from_plain(
    layers: &Layers,
    parameters: &[Parameter],
    plain: &[(Vec<usize>, Vec<f32>)],
) -> Option<Vec<f32>> {
    if plain.len() != parameters.len() {
        return None;
    }
    let filters = layers.convs[layers.convs.len() - 1].outputs;
    let mut first_dense = true;
    let mut flat = Vec::new();
    for (p, (shape, values)) in parameters.iter().zip(plain) {
        match (&p.shape[..], &shape[..]) {
            (&[kernel, inputs, outputs], found) if found == [outputs, inputs, kernel, 1] => {
                let turned = permuted(values, [outputs, inputs, kernel], [0, 2, 1]);
                flat.extend(permuted(&turned, [outputs, kernel * inputs, 1], [1, 0, 2]));
            }
            (&[inputs, outputs], found) if found == p.shape && std::mem::take(&mut first_dense) => {
                flat.extend(permuted(values, [filters, inputs / filters, outputs], [1, 0, 2]));
            }
            (wanted, found) if wanted == found => flat.extend_from_slice(values),
            _ => return None,
        }
    }
    Some(flat)
}

/// `values` of this shape with the axes in another order.
fn permuted(values: &[f32], shape: [usize; 3], order: [usize; 3]) -> Vec<f32> {
    let strides = [shape[1] * shape[2], shape[2], 1];
    let [a, b, c] = order;
    let mut turned = Vec::with_capacity(values.len());
    for i in 0..shape[a] {
        for j in 0..shape[b] {
            turned.extend((0..shape[c]).map(|k| values[i * strides[a] + j * strides[b] + k * strides[c]]));
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_change_places() {
        let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let turned = permuted(&values, [2, 3, 4], [2, 0, 1]);
        assert_eq!(turned[..7], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 1.0]);
        assert_eq!(permuted(&turned, [4, 2, 3], [1, 2, 0]), values);
    }

    #[test]
    fn plain_parameters_come_back_to_the_last_bit() {
        for (height, width, filters, kernel, conv_layers, dense_layers) in
            [(8, 4, 3, 3, 1, 1), (31, 7, 5, 5, 1, 0), (24, 6, 4, 1, 2, 3), (12, 5, 2, 2, 0, 2)]
        {
            let network = shared::network::SimpleCnn {
                height,
                width,
                filters,
                kernel,
                conv_layers,
                dense_layers,
                units: 6,
                dropout: 0.0,
            };
            let layers = network.layers().unwrap();
            let parameters = parameters(&layers, kernel);
            let flat: Vec<f32> = (0..length(&parameters)).map(|at| at as f32 + 0.5).collect();
            let mut plain = plain(&layers, &parameters, &flat);
            assert_eq!(from_plain(&layers, &parameters, &plain).unwrap(), flat, "{network:?}");
            plain[0].0[3] = 2;
            assert_eq!(from_plain(&layers, &parameters, &plain), None, "a kernel of two channels");
            assert_eq!(from_plain(&layers, &parameters, &plain[1..]), None, "a tensor is missing");
        }
    }
}
