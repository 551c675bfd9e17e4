//! The columns of a split: names, types, and the tensor shape of the images.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Names of the columns.
pub mod column {
    /// Raw ADC, `FixedSizeList<Float32>[height · width]`
    pub const IMAGE: &str = "image";
    /// The label
    pub const IS_MAIN_TRACK: &str = "is_main_track";
    /// Whether the cluster comes from the neutrino
    pub const IS_MARLEY: &str = "is_marley";
    /// Whether the interaction is elastic scattering
    pub const IS_ES: &str = "is_es";
    /// U, V or X
    pub const PLANE: &str = "plane";
    /// Input folder's name and path below it
    pub const SOURCE: &str = "source";
    /// Row in the source
    pub const ROW: &str = "row";
    /// Event in the source
    pub const EVENT: &str = "event";
    /// Cluster of the same particle in the event's other planes
    pub const MATCH_ID: &str = "match_id";
    /// True position in cm
    pub const POSITION: [&str; 3] = ["position_x", "position_y", "position_z"];
    /// True momentum in GeV/c
    pub const MOMENTUM: [&str; 3] = ["momentum_x", "momentum_y", "momentum_z"];
    /// True neutrino energy in MeV
    pub const NEUTRINO_ENERGY: &str = "neutrino_energy";
    /// True particle energy in MeV
    pub const PARTICLE_ENERGY: &str = "particle_energy";
    /// Energy of the image in MeV
    pub const CLUSTER_ENERGY: &str = "cluster_energy";
}

/// The schema of every part for images of `[height, width]`.
pub fn schema(height: usize, width: usize) -> SchemaRef {
    let dictionary = |key| DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8));
    let required = |name, kind| Field::new(name, kind, false);
    let truth = |name| Field::new(name, DataType::Float32, true);
    let mut fields = vec![
        image_field(height, width),
        required(column::IS_MAIN_TRACK, DataType::Boolean),
        required(column::IS_MARLEY, DataType::Boolean),
        required(column::IS_ES, DataType::Boolean),
        required(column::PLANE, dictionary(DataType::Int8)),
        required(column::SOURCE, dictionary(DataType::Int32)),
        required(column::ROW, DataType::UInt32),
        Field::new(column::EVENT, DataType::Int64, true),
        Field::new(column::MATCH_ID, DataType::Int32, true),
    ];
    fields.extend(column::POSITION.map(truth));
    fields.extend(column::MOMENTUM.map(truth));
    fields.push(truth(column::NEUTRINO_ENERGY));
    fields.push(truth(column::PARTICLE_ENERGY));
    fields.push(required(column::CLUSTER_ENERGY, DataType::Float32));
    Arc::new(Schema::new(fields))
}

/// The image column, an `arrow.fixed_shape_tensor` of `[height, width]`.
fn image_field(height: usize, width: usize) -> Field {
    let pixel = Arc::new(Field::new("element", DataType::Float32, true));
    let pixels = i32::try_from(height * width).expect("an image has fewer than 2^31 pixels");
    Field::new(column::IMAGE, DataType::FixedSizeList(pixel, pixels), false).with_metadata(HashMap::from([
        ("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned()),
        ("ARROW:extension:metadata".to_owned(), format!(r#"{{"shape":[{height},{width}]}}"#)),
    ]))
}
