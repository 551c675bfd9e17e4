//! A sandbox: small splits and small models, made in a fresh folder, and the real program run on them.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of this module")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Float32Array, Int8Array, Int32Array,
    Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType as ArrowType, Float32Type, Int32Type, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use rand::RngExt;
use shared::model::ModelCard;
use shared::onnx::{
    AttributeProto, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, attribute_type,
};
use shared::plane::Plane;

/// Height and width of the small images.
pub const SHAPE: (usize, usize) = (8, 4);

/// One cluster of a fixture.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub image: Vec<f32>,
    pub label: bool,
    pub event: Option<i64>,
    pub source: String,
    pub row: u32,
    pub is_es: bool,
}

impl Cluster {
    /// MeV in plane X.
    pub fn energy(&self) -> f32 {
        self.image.iter().sum::<f32>() / Plane::X.adc_per_mev()
    }
}

/// Clusters whose energy tells the classes apart, but not perfectly; about a seventh are main tracks.
pub fn clusters(n: usize, seed: u64) -> Vec<Cluster> {
    let mut random = shared::random::stream(seed, "test clusters", &[]);
    (0..n)
        .map(|at| {
            let label = random.random_bool(1.0 / 7.0);
            let total = if label { random.random_range(8.0..40.0) } else { random.random_range(2.0..11.0) };
            let adc = (total * 3600.0_f32 / 4.0).round();
            let mut image = vec![0.0; SHAPE.0 * SHAPE.1];
            let first = random.random_range(0..SHAPE.0 - 1) * SHAPE.1;
            image[first..first + 4].fill(adc);
            Cluster {
                image,
                label,
                event: Some((at / 3) as i64),
                source: format!("es/prod_{:04}_planeX.npz", at / 60),
                row: (at % 60) as u32,
                is_es: at % 2 == 0,
            }
        })
        .collect()
}

/// A fresh folder.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// With splits `data/test` and `data/validation` and the model `model.onnx`.
    pub fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.write_splits(&[("test", clusters(600, 1)), ("validation", clusters(600, 2))]);
        sandbox.write_model("model.onnx", &logistic(), Some(&card()));
        sandbox
    }

    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write_splits(&self, splits: &[(&str, Vec<Cluster>)]) {
        write_splits(&self.path("data"), splits);
    }

    pub fn write_model(&self, name: &str, model: &ModelProto, card: Option<&ModelCard>) {
        let mut model = model.clone();
        if let Some(card) = card {
            shared::model::set_props(&mut model, card);
        }
        fs::write(self.path(name), model.encode_to_vec()).expect("a writable folder");
    }

    /// `evaluate ARGUMENTS`, run in the folder.
    pub fn evaluate(&self, arguments: &[&str]) -> Output {
        Command::new(assert_cmd::cargo::cargo_bin!("evaluate"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("MTID_LOG")
            .output()
            .expect("the program starts")
    }

    /// `evaluate --model model.onnx --data data/test --output report EXTRA`
    pub fn report(&self, extra: &[&str]) -> Output {
        let mut arguments = vec!["--model", "model.onnx", "--data", "data/test", "--output", "report"];
        arguments.extend(["--device", "cpu"]);
        arguments.extend(extra);
        self.evaluate(&arguments)
    }

    /// The report's JSON.
    pub fn json(&self) -> serde_json::Value {
        let bytes = fs::read(self.path("report/report.json")).expect("a report");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Source, row and score of each cluster of the report.
    pub fn predictions(&self) -> Vec<(String, u32, f32)> {
        let file = File::open(self.path("report/predictions.parquet")).expect("predictions");
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
        let mut all = Vec::new();
        for batch in reader.map(|batch| batch.expect("a batch")) {
            let column = |name: &str| batch.column_by_name(name).expect("a column");
            let sources = column("source").as_dictionary::<Int32Type>();
            let names = sources.values().as_string::<i32>();
            let keys = sources.keys().values().iter().map(|&key| names.value(key as usize).to_owned());
            let rows = column("row").as_primitive::<UInt32Type>().values().iter().copied();
            let scores = column("score").as_primitive::<Float32Type>().values().iter().copied();
            all.extend(keys.zip(rows).zip(scores).map(|((source, row), score)| (source, row, score)));
        }
        all
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a text file")
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails with what the program said unless it exited with 0.
pub fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "stdout:\n{}\nstderr:\n{}", stdout(output), stderr(output));
}

/// Python with NumPy, scikit-learn and pyarrow; `None` (said on standard error) without one, but not in CI.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("MTID_TEST_PYTHON").map(PathBuf::from);
    assert!(python.is_some() || std::env::var("CI").as_deref() != Ok("true"), "MTID_TEST_PYTHON is not set");
    if python.is_none() {
        eprintln!("SKIPPED: MTID_TEST_PYTHON is not set; scripts/test.sh sets it");
    }
    python
}

/// Run a Python program; fails with its words unless it exits with 0.
pub fn run_python(python: &Path, program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(python).arg("-c").arg(program).args(arguments).output().expect("python starts");
    succeeded(&output);
    stdout(&output)
}

/// Write a split folder as `prepare` does: parts, then the manifest.
pub fn write_splits(folder: &Path, splits: &[(&str, Vec<Cluster>)]) {
    let mut summaries = serde_json::Map::new();
    for (name, clusters) in splits {
        fs::create_dir_all(folder.join(name)).expect("a writable folder");
        let mut parts = Vec::new();
        for (number, rows) in clusters.chunks(250).enumerate() {
            let part = format!("part-0000-{number:04}.parquet");
            write_part(&folder.join(name).join(&part), rows);
            parts.push(serde_json::json!({ "name": part, "rows": rows.len() }));
        }
        let main = clusters.iter().filter(|c| c.label).count();
        summaries.insert(
            (*name).to_owned(),
            serde_json::json!({ "rows": clusters.len(), "main_tracks": main, "parts": parts }),
        );
    }
    let manifest = serde_json::json!({
        "schema_version": 1, "plane": "X", "height": SHAPE.0, "width": SHAPE.1,
        "digest": shared::files::digest(format!("{splits:?}").as_bytes()), "seed": 42, "splits": summaries,
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("a writable folder");
}

fn write_part(path: &Path, rows: &[Cluster]) {
    let schema = shared::split::schema(SHAPE.0, SHAPE.1);
    let pixels: Float32Array = rows.iter().flat_map(|c| c.image.iter().copied()).map(Some).collect();
    let ArrowType::FixedSizeList(element, size) = schema.field(0).data_type().clone() else {
        panic!("the image is a list")
    };
    let pixels = Float32Array::from(pixels.values().to_vec());
    let image = FixedSizeListArray::new(element, size, Arc::new(pixels), None);
    let mut sources: Vec<&str> = rows.iter().map(|c| c.source.as_str()).collect();
    sources.dedup();
    let key = |c: &Cluster| sources.iter().position(|s| *s == c.source).expect("a known source") as i32;
    let source = DictionaryArray::new(
        rows.iter().map(|c| Some(key(c))).collect::<Int32Array>(),
        Arc::new(StringArray::from(sources.clone())),
    );
    let plane =
        DictionaryArray::new(Int8Array::from(vec![0; rows.len()]), Arc::new(StringArray::from(vec!["X"])));
    let bools = |f: &dyn Fn(&Cluster) -> bool| -> ArrayRef {
        Arc::new(BooleanArray::from(rows.iter().map(f).collect::<Vec<_>>()))
    };
    let truth = || -> ArrayRef {
        Arc::new(Float32Array::from(rows.iter().map(|c| c.label.then(|| c.energy())).collect::<Vec<_>>()))
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(image),
        bools(&|c| c.label),
        bools(&|c| c.label),
        bools(&|c| c.is_es),
        Arc::new(plane),
        Arc::new(source),
        Arc::new(UInt32Array::from(rows.iter().map(|c| c.row).collect::<Vec<_>>())),
        Arc::new(Int64Array::from(rows.iter().map(|c| c.event).collect::<Vec<_>>())),
        Arc::new(Int32Array::from(vec![None; rows.len()])),
    ];
    columns.extend((0..8).map(|_| truth()));
    columns.push(Arc::new(Float32Array::from(rows.iter().map(Cluster::energy).collect::<Vec<_>>())));
    let batch = RecordBatch::try_new(schema, columns).expect("columns of the schema");
    let file = File::create(path).expect("a writable folder");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("a batch");
    writer.close().expect("a file");
}

/// [`logistic`] with another offset, so another threshold in effect.
pub fn shifted(offset: f32) -> ModelProto {
    let mut model = logistic();
    let graph = model.graph.as_mut().expect("a graph");
    let at = graph.initializer.iter().position(|t| t.name == "offset").expect("an offset");
    graph.initializer[at] = TensorProto::from_f32("offset", &[], &[offset]);
    model
}

/// What [`shifted`] gives for a cluster.
pub fn score(cluster: &Cluster, offset: f32) -> f32 {
    let sum: f32 = cluster.image.iter().sum();
    1.0 / (1.0 + (-offset - sum * 0.0001 - 0.5 * (sum * 0.001).sin()).exp())
}

/// F1 of the main-track class, counted; each background cluster counts `weight` times.
pub fn f1(rows: &[Cluster], weight: f64, called: impl Fn(&Cluster) -> bool) -> f64 {
    let count = |label: bool, is_called: bool| {
        rows.iter().filter(|c| c.label == label && called(c) == is_called).count() as f64
    };
    2.0 * count(true, true) / (2.0 * count(true, true) + weight * count(false, true) + count(true, false))
}

/// What `train` would say of [`logistic`].
pub fn card() -> ModelCard {
    ModelCard {
        schema_version: 1,
        plane: Plane::X,
        height: SHAPE.0,
        width: SHAPE.1,
        threshold: Some(0.5),
        energy_cut_mev: Some(10.0),
        trial: Some("0003".into()),
        data_digest: None,
        config_digest: None,
        versions: std::collections::BTreeMap::new(),
    }
}

/// Logistic regression on the image's sum, with a dent so that it isn't the energy cut again:
/// sigmoid(sum · 0.0001 + 0.5 · sin(sum / 1000) − 3.5).
pub fn logistic() -> ModelProto {
    let (h, w) = (SHAPE.0 as i64, SHAPE.1 as i64);
    model(
        &[-1, h, w],
        &[-1],
        vec![
            node("ReduceSum", &["image", "axes"], "sum", &[("keepdims", 0)]),
            node("Mul", &["sum", "slope"], "scaled", &[]),
            node("Mul", &["sum", "frequency"], "angle", &[]),
            node("Sin", &["angle"], "sine", &[]),
            node("Mul", &["sine", "height"], "dent", &[]),
            node("Add", &["scaled", "dent"], "both", &[]),
            node("Add", &["both", "offset"], "logit", &[]),
            node("Sigmoid", &["logit"], "probability", &[]),
        ],
    )
}

/// A model with the constants of [`logistic`].
pub fn model(input: &[i64], output: &[i64], node: Vec<NodeProto>) -> ModelProto {
    let axes: Vec<i64> = (1..input.len() as i64).collect();
    let mut initializer = vec![
        TensorProto::from_i64("axes", &axes),
        TensorProto::from_f32("slope", &[], &[0.0001]),
        TensorProto::from_f32("frequency", &[], &[0.001]),
        TensorProto::from_f32("height", &[], &[0.5]),
        TensorProto::from_f32("offset", &[], &[-3.5]),
    ];
    initializer.retain(|tensor| node.iter().any(|node| node.input.contains(&tensor.name)));
    let graph = GraphProto {
        node,
        name: "test".into(),
        initializer,
        input: vec![ValueInfoProto::tensor("image", DataType::F32, input)],
        output: vec![ValueInfoProto::tensor("probability", DataType::F32, output)],
    };
    ModelProto {
        ir_version: shared::onnx::IR_VERSION,
        producer_name: "test".into(),
        producer_version: String::new(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: shared::onnx::OPSET }],
        metadata_props: Vec::new(),
    }
}

/// What `train` exports for a network of [`SHAPE`] with this kernel and these convolutions after the first.
pub fn exported(kernel: usize, conv_layers: usize) -> ModelProto {
    use train::graph::lower::{Target, lower};
    use train::parameters::{initial_weights, parameters};
    let (height, width) = SHAPE;
    let network = shared::network::SimpleCnn {
        height,
        width,
        filters: 6,
        kernel,
        conv_layers,
        dense_layers: 2,
        units: 9,
        dropout: 0.2,
    };
    let layers = network.layers().expect("a network that fits");
    let mut weights = initial_weights(&parameters(&layers, kernel), 4, 0);
    weights.iter_mut().enumerate().for_each(|(at, weight)| *weight += 0.01 * (at as f32).sin());
    let (graph, outputs) =
        train::step::exported(&network, 1e-4, &layers, &weights).expect("a network that fits");
    lower(&graph, &outputs, Target::Export)
}

/// A node with integer attributes.
pub fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> NodeProto {
    let attribute = attributes
        .iter()
        .map(|&(name, value)| AttributeProto {
            name: name.into(),
            i: Some(value),
            r#type: attribute_type::INT,
            ..AttributeProto::default()
        })
        .collect();
    NodeProto {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: op.into(),
        attribute,
        domain: String::new(),
    }
}
