//! Nothing malformed gets through: every kind of bad file, with its exact message.

mod support;

use support::{Clusters, Member, Npy, Sandbox, npz, stderr, zip};

/// Put a bad file beside a good one, and check what is said of it, skipped or not.
fn refused(bytes: &[u8], reason: &str) {
    let sandbox = Sandbox::new();
    sandbox.write("in/bad_planeX.npz", bytes);
    check_refused(&sandbox, reason);
}

fn check_refused(sandbox: &Sandbox, reason: &str) {
    sandbox.write("in/good_planeX.npz", &Clusters::new(20, 1).npz());
    let manifest = sandbox.prepared("out", &["--only", "test"]);
    let bad = &manifest["preparation"]["bad_files"];
    assert_eq!(bad.as_array().map(Vec::len), Some(1), "{bad}");
    assert_eq!(
        (bad[0]["source"].as_str(), bad[0]["reason"].as_str()),
        (Some("in/bad_planeX.npz"), Some(reason))
    );
    assert_eq!(manifest["splits"]["test"]["rows"], 20);

    let output = sandbox.prepare("strict", &["--only", "test", "--on-bad-file", "fail"]);
    assert_eq!(output.status.code(), Some(1));
    let path = sandbox.path("in").canonicalize().expect("a path");
    let path = std::path::absolute(sandbox.path("in")).unwrap_or(path).join("bad_planeX.npz");
    let message =
        format!("error: can't use `{}`: {reason}; leave it out with `--on-bad-file skip`\n", path.display());
    assert_eq!(stderr(&output), message);
    assert!(!sandbox.path("strict").exists());
}

fn good() -> Clusters {
    Clusters::new(10, 2)
}

/// The bytes of a good file whose images are replaced.
fn with_images(images: &Npy) -> Vec<u8> {
    npz(images, &good().metadata())
}

#[test]
fn empty_file() {
    refused(b"", "it is empty (0 bytes)");
}

#[test]
fn file_cut_in_half() {
    let bytes = good().npz();
    refused(
        &bytes[..bytes.len() / 2],
        "it is cut off: the directory at the end of the zip archive is missing",
    );
}

#[test]
fn tail_missing() {
    let bytes = good().npz();
    refused(
        &bytes[..bytes.len() - 1],
        "it is cut off: the directory at the end of the zip archive is missing",
    );
}

#[test]
fn middle_missing() {
    let mut bytes = good().npz();
    bytes.drain(5000..5100);
    refused(&bytes, "its zip directory is damaged: it points past the end of the file");
}

#[test]
fn wrong_crc_of_stored_images() {
    let mut bytes = good().npz();
    bytes[5000] ^= 1;
    let found = {
        let mut images = good().images().bytes();
        images[5000 - 40] ^= 1;
        crc32fast::hash(&images)
    };
    let expected = crc32fast::hash(&good().images().bytes());
    refused(
        &bytes,
        &format!("member `images.npy` fails its CRC check: {found:08x}, the directory says {expected:08x}"),
    );
}

#[test]
fn wrong_crc_of_deflated_metadata() {
    let mut metadata = Member::deflated("metadata.npy", &good().metadata().bytes());
    let found = metadata.crc;
    metadata.crc = 0x1234;
    let bytes = zip(&[Member::deflated("images.npy", &good().images().bytes()), metadata]);
    refused(
        &bytes,
        &format!("member `metadata.npy` fails its CRC check: {found:08x}, the directory says 00001234"),
    );
}

#[test]
fn not_a_zip() {
    refused(b"\x93NUMPY\x01\0 not a zip", "it is no NPZ file: it does not start like a zip archive");
}

#[test]
fn images_missing() {
    let metadata = Member::stored("metadata.npy", &good().metadata().bytes());
    refused(&zip(&[metadata]), "array `images` is missing; it has `metadata.npy`");
}

#[test]
fn metadata_missing() {
    let images = Member::stored("images.npy", &good().images().bytes());
    let other = Member::stored("labels.npy", &good().metadata().bytes());
    refused(&zip(&[images, other]), "array `metadata` is missing; it has `images.npy`, `labels.npy`");
}

#[test]
fn no_members() {
    refused(&zip(&[]), "array `images` is missing; it has no arrays");
}

#[test]
fn duplicate_members() {
    let images = Member::stored("images.npy", &good().images().bytes());
    let metadata = Member::stored("metadata.npy", &good().metadata().bytes());
    refused(&zip(&[images.clone(), metadata, images]), "two members are named `images.npy`");
}

#[test]
fn path_traversal() {
    for name in ["../images.npy", "/etc/images.npy", "a/../../images.npy", "..\\images.npy"] {
        let evil = Member::stored(name, b"x");
        let images = Member::stored("images.npy", &good().images().bytes());
        let metadata = Member::stored("metadata.npy", &good().metadata().bytes());
        let bytes = zip(&[images, metadata, evil]);
        refused(&bytes, &format!("member name `{name}` points outside the archive"));
    }
}

#[test]
fn encrypted_member() {
    let mut images = Member::stored("images.npy", &good().images().bytes());
    images.flags = 1;
    refused(&zip(&[images]), "member `images.npy` is encrypted");
}

#[test]
fn unknown_packing() {
    let mut images = Member::stored("images.npy", &good().images().bytes());
    images.method = 14;
    refused(
        &zip(&[images]),
        "member `images.npy` is packed in a way (zip method 14) that NPZ files don't have; save it with `np.savez`",
    );
}

#[test]
fn rows_differ() {
    let bytes = npz(&good().images(), &Clusters::new(9, 2).metadata());
    refused(&bytes, "`images` has 10 rows, `metadata` has 9");
}

#[test]
fn wrong_height_or_width() {
    for shape in ["(10, 64, 16)", "(10, 128, 32)", "(10, 16, 128)"] {
        let extents: Vec<usize> =
            shape.trim_matches(['(', ')']).split(", ").map(|extent| extent.parse().unwrap()).collect();
        let values = vec![0.0; extents.iter().product()];
        let found = shape.replace('(', "[").replace(')', "]");
        let reason = format!("array `images` has shape {found}, the config says [N, 128, 16]");
        refused(&with_images(&Npy::f32(shape, &values)), &reason);
    }
}

#[test]
fn the_config_decides_the_size_and_not_the_first_file() {
    let sandbox = Sandbox::new();
    sandbox.write("config.json", br#"{"model_parameters": {"input_shape": [128, 32, 1]}}"#);
    sandbox.write("in/a_planeX.npz", &good().npz());
    let wide = Npy::f32("(10, 128, 32)", &vec![60.0; 10 * 128 * 32]);
    sandbox.write("in/b_planeX.npz", &with_images(&wide));
    let manifest = sandbox.prepared("out", &["--only", "test", "--duplicates", "keep"]);
    assert_eq!(manifest["splits"]["test"]["rows"], 10);
    let bad = &manifest["preparation"]["bad_files"];
    assert_eq!(bad[0]["source"], "in/a_planeX.npz");
    assert_eq!(bad[0]["reason"], "array `images` has shape [10, 128, 16], the config says [N, 128, 32]");
}

#[test]
fn images_of_two_and_four_axes() {
    let values = good().images.concat();
    let images = Npy::f32("(10, 2048)", &values);
    refused(
        &with_images(&images),
        "array `images` has no valid npy header: its shape is [10, 2048], expected [N, H, W]",
    );
    let images = Npy::f32("(10, 128, 16, 1)", &values);
    refused(
        &with_images(&images),
        "array `images` has no valid npy header: its shape is [10, 128, 16, 1], expected [N, H, W]",
    );
}

#[test]
fn metadata_of_one_axis() {
    let metadata = Npy::f32("(140,)", &good().metadata.concat());
    refused(&npz(&good().images(), &metadata), "array `metadata` has shape [140], expected [N, columns]");
}

#[test]
fn fortran_order() {
    let images = Npy { fortran: true, ..good().images() };
    refused(&with_images(&images), "array `images` is in Fortran order; save `np.ascontiguousarray(images)`");
}

#[test]
fn strings_objects_and_other_types() {
    for (descr, shown) in [
        ("'<U5'", "<U5"),
        ("'|O'", "|O"),
        ("'|S4'", "|S4"),
        ("'<c8'", "<c8"),
        ("'<f2'", "<f2"),
        ("'|b1'", "|b1"),
        ("'f4'", "f4"),
        ("[('a', '<f4'), ('b', '<i8')]", "[('a', '<f4'), ('b', '<i8')]"),
    ] {
        let images = Npy { descr: descr.into(), ..good().images() };
        let reason = format!(
            "array `images` has elements of type `{shown}`, expected numbers such as `<f4`; object and string \
             arrays are never read"
        );
        refused(&with_images(&images), &reason);
    }
}

#[test]
fn headers_that_are_no_headers() {
    let images = good().images();
    let shape = "(10, 128, 16)";
    let cases = [
        (format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}"), "`,` is missing"),
        (format!("{{'descr': '<f4', 'shape': {shape}, }}"), "key `fortran_order` is missing"),
        (
            format!("{{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"),
            "key `descr` is unknown or comes twice",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-10, 128, 16), }".to_owned(),
            "shape (-10, 128, 16) is not made of sizes",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 1, 1), }".to_owned(),
            "shape (99999999999999999999, 1, 1) is not made of sizes",
        ),
        (
            format!("{{'descr': '<f4', 'fortran_order': 0, 'shape': {shape}, }}"),
            "`fortran_order` is neither True nor False",
        ),
        (
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }} + exit()"),
            "something follows the dictionary",
        ),
        ("__import__('os').abort()".to_owned(), "`{` is missing"),
    ];
    let metadata = Member::stored("metadata.npy", &good().metadata().bytes());
    for (dictionary, reason) in cases {
        let images = Member::stored("images.npy", &images.bytes_with(&dictionary));
        let reason = format!("array `images` has no valid npy header: {reason}");
        refused(&zip(&[images, metadata.clone()]), &reason);
    }
}

#[test]
fn header_of_an_unknown_version_or_length() {
    let images = Npy { version: 4, ..good().images() };
    refused(
        &with_images(&images),
        "array `images` has no valid npy header: its version is 4, known are 1, 2 and 3",
    );
    let mut bytes = Npy { version: 2, ..good().images() }.bytes();
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let metadata = Member::stored("metadata.npy", &good().metadata().bytes());
    refused(
        &zip(&[Member::stored("images.npy", &bytes), metadata.clone()]),
        "array `images` has no valid npy header: it claims to be 4294967295 bytes long",
    );
    refused(
        &zip(&[Member::stored("images.npy", b"\x93NUMPY"), metadata.clone()]),
        "array `images` has no valid npy header: it is too short",
    );
    refused(
        &zip(&[Member::stored("images.npy", b"something else"), metadata]),
        "array `images` has no valid npy header: it does not start with `\\x93NUMPY`",
    );
}

#[test]
fn header_that_claims_terabytes_or_overflows() {
    let held = good().images().bytes().len();
    let huge = Npy { shape: "(10, 1048576, 1048576)".into(), ..good().images() };
    refused(
        &with_images(&huge),
        &format!("array `images` claims 43980465111168 bytes in its header, its member holds {held}"),
    );
    let images = Npy { shape: "(9223372036854775807, 128, 16)".into(), ..good().images() };
    refused(
        &with_images(&images),
        &format!(
            "array `images` claims more than 2^64 bytes in its header, its member holds {}",
            images.bytes().len()
        ),
    );
}

#[test]
fn deflated_members_of_another_size() {
    let metadata = Member::deflated("metadata.npy", &good().metadata().bytes());
    let bytes = good().images().bytes();
    let honest = Member::deflated("images.npy", &bytes);
    let longer = Member::deflated("images.npy", &[bytes.clone(), vec![0; 1000]].concat());
    let longer = Member { size: honest.size, crc: honest.crc, ..longer };
    refused(
        &zip(&[longer, metadata.clone()]),
        "member `images.npy` inflates to more than the directory says",
    );
    let shorter = Member::deflated("images.npy", &bytes[..bytes.len() - 1000]);
    let shorter = Member { size: honest.size, crc: honest.crc, ..shorter };
    refused(
        &zip(&[shorter, metadata.clone()]),
        "member `images.npy` inflates to less than the directory says",
    );
    let mut garbage = honest;
    garbage.packed = vec![0xff; 400];
    refused(
        &zip(&[garbage, metadata]),
        "member `images.npy` can't be inflated: deflate decompression error: invalid block type",
    );
}

#[test]
fn deflate_bomb() {
    // 1 GiB of zeros in 1 MB that claim to be ten images.
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let header = good().images();
    std::io::Write::write_all(&mut encoder, &header.bytes()).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &vec![0; 1 << 20]).unwrap();
    }
    let honest = Member::deflated("images.npy", &header.bytes());
    let bomb = Member { packed: encoder.finish().unwrap(), ..honest };
    let metadata = Member::deflated("metadata.npy", &good().metadata().bytes());
    refused(&zip(&[bomb, metadata]), "member `images.npy` inflates to more than the directory says");
}

#[test]
fn labels_other_than_0_and_1() {
    let mut clusters = good();
    clusters.metadata[3][2] = 2.0;
    refused(&clusters.npz(), "`is_main` is 2 in row 3 of `metadata`, expected 0 or 1");
}

#[test]
fn negative_adc() {
    let mut clusters = good();
    clusters.images[4][77] = -3.5;
    refused(&clusters.npz(), "a pixel in row 4 of `images` is -3.5; raw ADC is never negative");
}

#[test]
fn event_that_is_no_integer() {
    let mut clusters = good();
    clusters.metadata[5][0] = 1.5;
    refused(&clusters.npz(), "event 1.5 in row 5 of `metadata` is no integer");
}

#[test]
fn unknown_column_count() {
    let mut clusters = good();
    clusters.metadata.iter_mut().for_each(|row| row.truncate(10));
    refused(&clusters.npz(), "`metadata` has 10 columns, known are 11, 12, 13, 14, 15 or 18");
}

#[test]
fn plane_of_the_column_against_that_of_the_name() {
    let mut clusters = good();
    clusters.metadata.iter_mut().for_each(|row| row[12] = 0.0);
    refused(&clusters.npz(), "the name says plane X, column 12 of `metadata` says U in row 0");
}

#[test]
fn folder_named_npz() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("in/bad_planeX.npz")).unwrap();
    check_refused(&sandbox, "it is a folder");
}

#[test]
fn link_to_nowhere() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("nowhere", sandbox.path("in/bad_planeX.npz")).unwrap();
    check_refused(&sandbox, "it is a link to nowhere");
}

#[test]
fn rows_with_nan_or_infinity_are_dropped_and_counted() {
    for (duplicates, more) in [("held-out", 0), ("keep", 1)] {
        let sandbox = Sandbox::new();
        let mut clusters = good();
        clusters.images[2][5] = f32::NAN;
        clusters.images[3][6] = f32::INFINITY;
        clusters.metadata[4][2] = f32::NAN;
        clusters.metadata[5][1] = f32::NEG_INFINITY;
        clusters.metadata[6][4] = f32::NAN; // a position is only unknown then
        sandbox.write("in/a_planeX.npz", &clusters.npz());
        let output = sandbox.prepare("out", &["--only", "test", "--duplicates", duplicates]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), more, "{}", stderr(&output));
        let manifest = sandbox.manifest("out");
        assert_eq!(manifest["preparation"]["dropped_rows"]["in/a_planeX.npz"], 4);
        assert_eq!(manifest["splits"]["test"]["rows"], 6);
        assert!(support::stdout(&output).contains("4 rows dropped: a flag or a pixel is not finite"));
    }
}

#[test]
fn nothing_usable_fails() {
    let sandbox = Sandbox::new();
    sandbox.write("in/a_planeX.npz", b"");
    sandbox.write("in/b_planeX.npz", b"abc");
    let output = sandbox.prepare("out", &[]);
    assert_eq!(output.status.code(), Some(1));
    let path = sandbox.path("in/a_planeX.npz");
    let message = format!(
        "error: none of 2 files is usable; the first is `{}`: it is empty (0 bytes)\n",
        path.display()
    );
    assert_eq!(stderr(&output), message);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn more_bad_files_than_allowed_fail() {
    let sandbox = Sandbox::new();
    sandbox.write("in/a_planeX.npz", b"");
    sandbox.write("in/b_planeX.npz", b"");
    sandbox.write("in/good_planeX.npz", &good().npz());
    let output = sandbox.prepare("out", &["--only", "test", "--max-bad", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let path = sandbox.path("in/a_planeX.npz");
    let message = format!(
        "error: 2 files are not usable, more than `--max-bad 1`; the first is `{}`: it is empty (0 bytes)\n",
        path.display()
    );
    assert_eq!(stderr(&output), message);
    sandbox.prepared("out", &["--only", "test", "--max-bad", "2"]);
}

#[test]
fn empty_arrays_are_legal() {
    let sandbox = Sandbox::new();
    sandbox.write("in/empty_planeX.npz", &Clusters::new(0, 1).npz());
    let output = sandbox.prepare("out", &["--only", "test"]);
    assert_eq!(stderr(&output), "error: the 1 files of plane X hold no clusters\n");
    sandbox.write("in/good_planeX.npz", &good().npz());
    let manifest = sandbox.prepared("out", &["--only", "test"]);
    assert_eq!(manifest["splits"]["test"]["rows"], 10);
    assert_eq!(manifest["preparation"]["bad_files"].as_array().map(Vec::len), Some(0));
}

#[test]
fn names_of_all_kinds() {
    let sandbox = Sandbox::new();
    let names = ["with space", "with 'quotes' \"too\"", "<b>bold", "ünïcödé–中"];
    for (name, seed) in names.iter().zip(1..) {
        sandbox.write(&format!("in/{name}_planeX.npz"), &Clusters::new(5, seed).npz());
    }
    let manifest = sandbox.prepared("out", &["--only", "test"]);
    assert_eq!(manifest["splits"]["test"]["rows"], 20);
    let folder = shared::split::SplitFolder::open(&sandbox.path("out")).unwrap();
    let batch =
        folder.batches(shared::split::Split::Test, &["source"], 100).unwrap().next().unwrap().unwrap();
    let sources = arrow::util::display::array_value_to_string(batch.column(0), 19).unwrap();
    assert_eq!(sources, "in/ünïcödé–中_planeX.npz");
}
