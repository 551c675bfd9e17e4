//! A sandbox for the binary, and NPZ files made byte by byte.

#![allow(dead_code, clippy::allow_attributes, reason = "every test file uses another part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

/// A fresh folder with a config, an input folder `in`, and the binary.
pub struct Sandbox {
    pub dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("in")).expect("an input folder");
        let sandbox = Self { dir };
        sandbox.write("config.json", br#"{"model_parameters": {"input_shape": [128, 16, 1]}}"#);
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    pub fn command(&self) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::cargo_bin("prepare").expect("the binary");
        command.current_dir(self.dir.path()).env_remove("MTID_LOG");
        command
    }

    /// `prepare --config config.json --input in --output OUT …`
    pub fn prepare(&self, output: &str, more: &[&str]) -> Output {
        let mut command = self.command();
        command.args(["--config", "config.json", "--input", "in", "--output", output]).args(more);
        command.output().expect("the binary runs")
    }

    /// The same, which must succeed; returns the manifest.
    pub fn prepared(&self, output: &str, more: &[&str]) -> Value {
        let result = self.prepare(output, more);
        assert!(result.status.success(), "{}", stderr(&result));
        self.manifest(output)
    }

    pub fn manifest(&self, output: &str) -> Value {
        let bytes = fs::read(self.path(output).join("manifest.json")).expect("a manifest");
        serde_json::from_slice(&bytes).expect("JSON")
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All files below a folder, by their relative paths.
pub fn tree(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
                files.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

/// An array as it lies in an NPZ file.
#[derive(Clone)]
pub struct Npy {
    pub version: u8,
    pub descr: String,
    pub fortran: bool,
    pub shape: String,
    pub data: Vec<u8>,
}

impl Npy {
    pub fn f32(shape: &str, values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { version: 1, descr: "'<f4'".into(), fortran: false, shape: shape.into(), data }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let fortran = if self.fortran { "True" } else { "False" };
        let Self { descr, shape, .. } = self;
        let dictionary = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
        self.bytes_with(&dictionary)
    }

    pub fn bytes_with(&self, dictionary: &str) -> Vec<u8> {
        let mut text = dictionary.as_bytes().to_vec();
        let start = if self.version == 1 { 10 } else { 12 };
        while !(start + text.len() + 1).is_multiple_of(64) {
            text.push(b' ');
        }
        text.push(b'\n');
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([self.version, 0]);
        if self.version == 1 {
            bytes.extend((text.len() as u16).to_le_bytes());
        } else {
            bytes.extend((text.len() as u32).to_le_bytes());
        }
        bytes.extend(text);
        bytes.extend(&self.data);
        bytes
    }
}

/// A member of a zip archive; every size and checksum can be made wrong.
#[derive(Clone)]
pub struct Member {
    pub name: String,
    pub method: u16,
    pub flags: u16,
    pub crc: u32,
    pub size: u32,
    pub packed: Vec<u8>,
}

impl Member {
    pub fn stored(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            method: 0,
            flags: 0,
            crc: crc32fast::hash(bytes),
            size: bytes.len() as u32,
            packed: bytes.to_vec(),
        }
    }

    pub fn deflated(name: &str, bytes: &[u8]) -> Self {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("memory");
        Self { method: 8, packed: encoder.finish().expect("memory"), ..Self::stored(name, bytes) }
    }
}

pub fn zip(members: &[Member]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let offset = bytes.len() as u32;
        let mut fields = Vec::new();
        fields.extend(20_u16.to_le_bytes());
        fields.extend(member.flags.to_le_bytes());
        fields.extend(member.method.to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(member.crc.to_le_bytes());
        fields.extend((member.packed.len() as u32).to_le_bytes());
        fields.extend(member.size.to_le_bytes());
        fields.extend((member.name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(member.name.as_bytes());
        bytes.extend(&member.packed);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(member.name.as_bytes());
    }
    let at = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// Clusters of 14 columns in plane X; every value can be changed before they are written.
#[derive(Clone)]
pub struct Clusters {
    pub images: Vec<Vec<f32>>,
    pub metadata: Vec<Vec<f32>>,
}

pub const PIXELS: usize = 128 * 16;

impl Clusters {
    /// `rows` clusters with images that no other `seed` has; every seventh is a main track, ten to an event.
    pub fn new(rows: usize, seed: u32) -> Self {
        let image = |row: usize| {
            let mut image = vec![0.0; PIXELS];
            for k in 0..20 {
                image[(row * 31 + k * 97) % PIXELS] =
                    60.0 + (seed * 7919 + row as u32 * 13 + k as u32) as f32;
            }
            image
        };
        let images: Vec<_> = (0..rows).map(image).collect();
        let metadata = images.iter().enumerate().map(|(row, image)| {
            let energy = image.iter().sum::<f32>() / 3600.0;
            let is_main = row.is_multiple_of(7);
            let marley = f32::from(u8::from(is_main));
            let mut values = vec![(row / 10) as f32, marley, marley, 0.0];
            values.extend([
                marley * (row as f32 + seed as f32 * 1000.0),
                marley,
                marley,
                marley,
                marley,
                marley,
            ]);
            values.extend([energy, energy, 2.0, row as f32]);
            values
        });
        let metadata = metadata.collect();
        Self { images, metadata }
    }

    pub fn images(&self) -> Npy {
        let values: Vec<f32> = self.images.concat();
        Npy::f32(&format!("({}, 128, 16)", self.images.len()), &values)
    }

    pub fn metadata(&self) -> Npy {
        let columns = self.metadata.first().map_or(14, Vec::len);
        Npy::f32(&format!("({}, {columns})", self.metadata.len()), &self.metadata.concat())
    }

    pub fn npz(&self) -> Vec<u8> {
        npz(&self.images(), &self.metadata())
    }

    pub fn deflated(&self) -> Vec<u8> {
        zip(&[
            Member::deflated("images.npy", &self.images().bytes()),
            Member::deflated("metadata.npy", &self.metadata().bytes()),
        ])
    }
}

pub fn npz(images: &Npy, metadata: &Npy) -> Vec<u8> {
    zip(&[Member::stored("images.npy", &images.bytes()), Member::stored("metadata.npy", &metadata.bytes())])
}
