//! Against the real libraries: files that `NumPy` wrote, and splits that `pyarrow`, `DuckDB` and `Polars` read.

mod support;

use std::process::Command;

use support::{Sandbox, stderr, stdout};

/// The interpreter of the test environment; without one the test is skipped, but never on CI.
fn python() -> Option<String> {
    let python = std::env::var("MTID_TEST_PYTHON").ok();
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        python.is_some() || !is_ci,
        "MTID_TEST_PYTHON is not set; run the tests through `scripts/test.sh`"
    );
    if python.is_none() {
        eprintln!("skipped: MTID_TEST_PYTHON is not set");
    }
    python
}

fn run(sandbox: &Sandbox, python: &str, program: &str) -> String {
    let output = Command::new(python).args(["-c", program]).current_dir(sandbox.dir.path()).output();
    let output = output.expect("the interpreter runs");
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// Writes clusters in all layouts, types and packings.
const WRITE: &str = r#"
import numpy as np, os
rng = np.random.default_rng(1)
def clusters(n, columns, width, plane):
    images = np.where(rng.random((n, 128, width)) < 0.03, rng.integers(60, 7000, (n, 128, width)), 0).astype("<f4")
    metadata = rng.normal(size=(n, columns)).astype("<f4") * 100
    flags = {11: (0, 1, 2), 12: (0, 1, 2), 15: (0, 1, 14)}.get(columns, (1, 2, 3))
    for flag in flags:
        metadata[:, flag] = rng.random(n) < 0.4
    column = {12: 11, 13: 12, 14: 12, 18: 12, 15: 13}.get(columns)
    if column:
        metadata[:, column] = plane
    if columns in (13, 14, 18):
        metadata[:, 0] = np.arange(n) // 3
    if columns in (14, 18):
        metadata[:, 13] = np.arange(n) % 5 - 1
    return images, metadata
os.makedirs("in", exist_ok=True)
for columns in (11, 12, 13, 14, 15, 18):
    images, metadata = clusters(20, columns, 16, 2)
    for kind, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
        save(f"in/{columns}_{kind}_planeX.npz", images=images, metadata=metadata)
images, metadata = clusters(20, 14, 16, 2)
np.savez("in/f8_planeX.npz", images=images.astype("<f8"), metadata=metadata.astype("<f8"))
np.savez("in/u2_planeX.npz", images=images.astype("<u2"), metadata=metadata)
np.savez_compressed("in/big_planeX.npz", images=images.astype(">f4"), metadata=metadata.astype(">f8"))
np.savez("in/i4_planeX.npz", images=images.astype(">i4"), metadata=metadata)
np.savez("in/one_planeX.npz", images=images[:1], metadata=metadata[:1])
np.savez("in/extra_planeX.npz", images=images, metadata=metadata, note=np.array(["kept", "out"]))
with open("in/v2_planeX.npz", "wb") as file:
    import io, zipfile
    with zipfile.ZipFile(file, "w") as archive:
        for name, array, version in (("images", images, (2, 0)), ("metadata", metadata, (3, 0))):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=version)
            archive.writestr(f"{name}.npy", buffer.getvalue())
np.savez("in/bad_fortran_planeX.npz", images=np.asfortranarray(images), metadata=metadata)
np.savez("in/bad_object_planeX.npz", images=np.array([{}], dtype=object), metadata=metadata)
np.savez("in/bad_string_planeX.npz", images=np.array(["a", "b"]), metadata=metadata)
for plane, code in (("U", 0), ("V", 1)):
    images, metadata = clusters(20, 14, 32, code)
    np.savez(f"in/wide_plane{plane}.npz", images=images, metadata=metadata)
"#;

/// Compares every row of `out/test` with its source.
const READ: &str = r#"
import sys, numpy as np, pyarrow.parquet as pq
width, plane = int(sys.argv[1]), sys.argv[2]
table = pq.read_table("out/test")
images = table["image"].combine_chunks().to_numpy_ndarray()
assert images.shape == (len(table), 128, width), images.shape
assert images.dtype == np.float32
rows = table.to_pylist()
seen = set()
def near(a, b):
    return (a is None and (b is None or b == -1)) or (a is not None and abs(a - b) <= 1e-6 * abs(b))
for row, image in zip(rows, images):
    with np.load(row["source"]) as file:
        data, m = file["images"][row["row"]], file["metadata"][row["row"]].astype("f8")
    seen.add((row["source"], row["row"]))
    assert np.array_equal(image, data.astype("<f4")), row["source"]
    assert row["plane"] == plane
    c = len(m)
    base = {11: 0, 12: 0, 13: 1, 14: 1, 18: 1}.get(c)
    if c == 15:
        flags, position, momentum, neutrino, particle = (m[0], m[1], m[14]), m[2:5], m[8:11], m[11], m[12]
    else:
        flags, position, momentum = m[base:base + 3], m[base + 3:base + 6], m[base + 6:base + 9]
        neutrino, particle = (m[14] if c == 18 else m[base + 9]), m[base + 10]
    assert [row["is_marley"], row["is_main_track"], row["is_es"]] == [bool(f) for f in flags]
    for name, values in (("position", position), ("momentum", momentum)):
        for axis, value in zip("xyz", values):
            assert near(row[f"{name}_{axis}"], value), (row["source"], name)
    assert near(row["neutrino_energy"], neutrino) and near(row["particle_energy"], particle), row["source"]
    assert row["event"] == (int(m[0]) if base == 1 else None)
    assert row["match_id"] == (int(m[13]) if c in (14, 18) and m[13] != -1 else None)
    energy = data.astype("f8").sum() / (3600 if plane == "X" else 900)
    assert abs(row["cluster_energy"] - energy) <= 1e-5 * energy
assert len(seen) == len(rows)
print(len(rows))
"#;

#[test]
fn every_layout_and_type_that_numpy_writes_comes_through() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    run(&sandbox, &python, WRITE);
    let manifest = sandbox.prepared("out", &["--only", "test", "--duplicates", "keep"]);
    let read = |width: &str, plane: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", READ, width, plane]).current_dir(sandbox.dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).trim().parse::<u64>().unwrap()
    };
    assert_eq!(read("16", "X"), 12 * 20 + 6 * 20 + 1);
    let bad = manifest["preparation"]["bad_files"].as_array().unwrap().clone();
    let reasons: Vec<_> = bad.iter().map(|bad| bad["reason"].as_str().unwrap()).collect();
    let object = "array `images` has elements of type `|O`, expected numbers such as `<f4`; object and string arrays are never read";
    assert_eq!(
        reasons,
        [
            "array `images` is in Fortran order; save `np.ascontiguousarray(images)`",
            object,
            &object.replace("|O", "<U1"),
        ]
    );
    assert_eq!(manifest["preparation"]["files"]["without_event"], 6);

    sandbox.write("config.json", br#"{"model_parameters": {"input_shape": [128, 32, 1]}}"#);
    for plane in ["U", "V"] {
        sandbox.prepared("out", &["--only", "test", "--plane", plane, "--overwrite"]);
        assert_eq!(read("32", plane), 20);
    }
}

#[test]
fn the_cluster_energy_is_not_mistaken_for_the_neutrinos() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    let program = r#"
import numpy as np
rng = np.random.default_rng(1)
images = np.where(rng.random((40, 128, 16)) < 0.05, rng.random((40, 128, 16)) * 7000 + 60, 0).astype("<f4")
metadata = np.ones((40, 13), "<f4")
metadata[:, 0], metadata[:, 12] = np.arange(40), 2
metadata[:, 10] = images.sum(axis=(1, 2)) / 3600
metadata[20:, 10] = 15.5
np.savez("in/a_planeX.npz", images=images, metadata=metadata)
"#;
    run(&sandbox, &python, program);
    sandbox.prepared("out", &["--only", "test"]);
    let check = r#"
import pyarrow.parquet as pq
energies = pq.read_table("out/test", columns=["neutrino_energy"])["neutrino_energy"].to_pylist()
assert energies == [None] * 20 + [15.5] * 20, energies
"#;
    run(&sandbox, &python, check);
}

#[test]
fn duckdb_and_polars_query_a_split_in_one_line() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    run(&sandbox, &python, WRITE);
    sandbox.prepared("out", &["--only", "test", "--duplicates", "keep"]);
    let program = r#"
import duckdb, polars as pl, pyarrow.dataset as ds
n = ds.dataset("out/test", format="parquet").count_rows()
total = duckdb.sql("SELECT is_main_track, count(*) AS n, avg(cluster_energy) AS mev FROM 'out/test/*.parquet' GROUP BY ALL ORDER BY ALL").fetchall()
assert sum(row[1] for row in total) == n, total
frame = pl.scan_parquet("out/test/*.parquet").group_by("is_main_track").agg(pl.len(), pl.mean("cluster_energy")).sort("is_main_track").collect()
assert frame["len"].to_list() == [row[1] for row in total], frame
assert all(abs(a - b[2]) < 1e-3 for a, b in zip(frame["cluster_energy"], total))
image = duckdb.sql("SELECT image, cluster_energy FROM 'out/test/*.parquet' LIMIT 1").fetchall()[0]
assert len(image[0]) == 2048 and abs(sum(image[0]) / 3600 - image[1]) < 1e-3
image = pl.read_parquet("out/test", columns=["image", "source", "plane"])
assert len(image["image"][0]) == 2048 and image["plane"][0] == "X", image.schema
"#;
    run(&sandbox, &python, program);
}
