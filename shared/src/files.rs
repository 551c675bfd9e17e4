//! Files that appear whole or not at all, and their digests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file that can't be read, written or understood.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum FileError {
    #[error("can't read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not what it should be", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` has schema version {found}, this program knows {}; use a newer program", path.display(), crate::SCHEMA_VERSION)]
    Newer { path: PathBuf, found: u32 },
}

/// Write a file through a temporary neighbour and a rename: it is there whole, or as it was before.
///
/// # Errors
/// [`FileError::Write`]; the temporary file is then gone.
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let process = crate::study::host::Process::this();
    let attempt = || -> io::Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = tempfile::Builder::new()
            // The process, so that whoever finds the file knows whether its writer is gone.
            .prefix(&format!(
                ".{}.{}.",
                path.file_name().unwrap_or_default().to_string_lossy(),
                process.text()
            ))
            .suffix(".tmp")
            .permissions(permissions())
            .tempfile_in(folder)?;
        let mut writer = BufWriter::new(temporary.as_file());
        fill(&mut writer)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_data()?;
        temporary.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// What a plain `open` would give: read and write for all, less the umask.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// Write bytes whole or not at all.
///
/// # Errors
/// [`FileError::Write`]
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_atomic(path, |writer| writer.write_all(bytes))
}

/// Write a value as indented JSON, whole or not at all.
///
/// # Errors
/// [`FileError::Write`]; [`FileError::Json`] for a value that JSON can't hold.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| FileError::Json { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

/// Read a whole file.
///
/// # Errors
/// [`FileError::Read`]
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })
}

/// Read a JSON file; one with a newer `schema_version` is refused.
///
/// # Errors
/// [`FileError`]
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = read_bytes(path)?;
    let json = |source| FileError::Json { path: path.to_owned(), source };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(json)?;
    let found = value.get("schema_version").and_then(serde_json::Value::as_u64);
    if let Some(found) = found.filter(|&v| v > u64::from(crate::SCHEMA_VERSION)) {
        return Err(FileError::Newer { path: path.to_owned(), found: found as u32 });
    }
    serde_json::from_value(value).map_err(json)
}

/// BLAKE3 digest of bytes, as 32 hexadecimal digits (128 bits).
pub fn digest(bytes: &[u8]) -> String {
    short(&blake3::hash(bytes))
}

/// BLAKE3 digest of a file's bytes, as [`digest`] gives it.
///
/// # Errors
/// [`FileError::Read`]
pub fn digest_file(path: &Path) -> Result<String, FileError> {
    let attempt = || -> io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(short(&hasher.finalize())),
                n => hasher.update(&buffer[..n]),
            };
        }
    };
    attempt().map_err(|source| FileError::Read { path: path.to_owned(), source })
}

/// The first 128 bits of a hash in hexadecimal.
pub fn short(hash: &blake3::Hash) -> String {
    hash.to_hex()[..32].to_owned()
}
