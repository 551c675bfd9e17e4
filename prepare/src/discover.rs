//! Finding the NPZ files of a plane, and naming them so that the names don't depend on the machine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::plane::Plane;

use crate::Error;
use crate::bad_file::BadFile;
use crate::settings::Settings;

/// An NPZ file that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Input folder's name and path below it
    pub source: String,
    /// `source` without what names the plane: the same for all planes of an event
    pub stem: String,
    /// Where it is
    pub path: PathBuf,
    /// Bytes
    pub size: u64,
    /// Why it can't be opened, if so
    pub bad: Option<String>,
}

/// All files of the plane below the input folders, ordered by source.
pub fn discover(inputs: &[PathBuf], settings: &Settings) -> Result<Vec<Found>, Error> {
    let mut files = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for (input, name) in inputs.iter().zip(input_names(inputs)?) {
        let mut walk = Walk { settings, found: Vec::new(), folders: Vec::new() };
        walk.folder(input).map_err(|source| Error::Read { path: input.clone(), source })?;
        for Entry { path, canonical, size, bad } in walk.found {
            if let Some(first) = seen.insert(canonical, path.clone()) {
                tracing::warn!(
                    "`{}` is found twice, first as `{}`; it is read once",
                    path.display(),
                    first.display()
                );
                continue;
            }
            let below = path.strip_prefix(input).unwrap_or(&path);
            let (source, stem) = names(&name, below, settings.plane);
            let file = Found { source, stem, path: path.clone(), size, bad };
            if let Some(other) = files.insert(file.source.clone(), file) {
                return Err(Error::SameSource { source_name: other.source, path, other: other.path });
            }
        }
    }
    Ok(files.into_values().collect())
}

/// The last name of each input folder, with as many parents as it takes to tell the folders apart.
fn input_names(inputs: &[PathBuf]) -> Result<Vec<String>, Error> {
    let mut parts = Vec::with_capacity(inputs.len());
    for input in inputs {
        let path = input.canonicalize().map_err(|source| Error::Read { path: input.clone(), source })?;
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        });
        parts.push(names.collect::<Vec<_>>());
    }
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let named = |depth: usize| {
        parts.iter().map(|parts| parts[parts.len().saturating_sub(depth)..].join("/")).collect::<Vec<_>>()
    };
    let mut unique = parts.clone();
    unique.sort();
    unique.dedup();
    let are_distinct = |names: &Vec<String>| {
        let mut names = names.clone();
        names.sort();
        names.dedup();
        names.len() == unique.len()
    };
    let depth = (1..=longest).find(|&depth| are_distinct(&named(depth))).unwrap_or(longest);
    Ok(named(depth))
}

/// Source and stem of a file.
fn names(input: &str, below: &Path, plane: Plane) -> (String, String) {
    let below: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    let source = format!("{input}/{}", below.join("/"));
    let stem = stem(&source, plane);
    (source, stem)
}

/// What all planes of a source have in common.
fn stem(source: &str, plane: Plane) -> String {
    let marker = format!("_plane{plane}");
    let (folder, file) = source.rsplit_once('/').unwrap_or(("", source));
    let file = file.strip_suffix(".npz").unwrap_or(file);
    let file = match file.rfind(&marker) {
        Some(at) => format!("{}{}", &file[..at], &file[at + marker.len()..]),
        None => file.to_owned(),
    };
    let folders = folder.split('/').filter(|&name| name != plane.letter());
    folders.chain([file.as_str()]).collect::<Vec<_>>().join("/")
}

/// Something that is named like a file of the plane.
struct Entry {
    path: PathBuf,
    /// Where it really is
    canonical: PathBuf,
    size: u64,
    bad: Option<String>,
}

/// A search through folders.
struct Walk<'a> {
    settings: &'a Settings,
    found: Vec<Entry>,
    /// Canonical paths of the folders above, so that a link to one of them ends the search
    folders: Vec<PathBuf>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let canonical = folder.canonicalize()?;
        if self.folders.contains(&canonical) {
            return Ok(());
        }
        self.folders.push(canonical.clone());
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.entry(&entry, &canonical);
        }
        self.folders.pop();
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, folder: &Path) {
        let path = entry.path();
        let is_npz = is_of_plane(&path, self.settings);
        let metadata = fs::metadata(&path);
        let size = metadata.as_ref().map_or(0, fs::Metadata::len);
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let bad = match metadata {
            Ok(metadata) if metadata.is_dir() && is_npz => Some(BadFile::Folder),
            Ok(metadata) if metadata.is_dir() => match self.folder(&path) {
                Ok(()) => return,
                Err(source) => Some(BadFile::UnreadableFolder(source)),
            },
            Ok(metadata) if is_npz && !metadata.is_file() => Some(BadFile::Special),
            Err(_) if is_npz && is_link => Some(BadFile::DanglingLink),
            Err(source) if is_npz => Some(BadFile::Open(source)),
            _ if is_npz && path.to_str().is_none() => Some(BadFile::NameNotUtf8),
            _ if is_npz => None,
            _ => return,
        };
        let linked = is_link.then(|| path.canonicalize().ok()).flatten();
        let canonical = linked.unwrap_or_else(|| folder.join(entry.file_name()));
        self.found.push(Entry { path, canonical, size, bad: bad.map(|bad| bad.reason()) });
    }
}

/// Whether a path is named like an NPZ file of the plane: by the config's pattern, as a batch file, or by
/// its folder.
fn is_of_plane(path: &Path, settings: &Settings) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let letter = settings.plane.letter();
    let patterns = [settings.batch_pattern.as_str(), "clusters_plane{plane}_batch*.npz"];
    if patterns.iter().any(|pattern| matches(&pattern.replace("{plane}", letter), &name)) {
        return true;
    }
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let names_a_plane = Plane::ALL.iter().any(|plane| name.contains(&format!("_plane{plane}")));
    folder == letter && name.ends_with(".npz") && !names_a_plane
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("*_planeX.npz", "a_planeX.npz", true),
            ("*_planeX.npz", "_planeX.npz", true),
            ("*_planeX.npz", "a_planeX.npz.bak", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("exact.npz", "exact.npz", true),
            ("exact.npz", "inexact.npz", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_planes_of_a_source_share_its_stem() {
        for (source, plane, expected) in [
            ("es/prod_0001_bg_matched_planeX.npz", Plane::X, "es/prod_0001_bg_matched"),
            ("es/prod_0001_bg_matched_planeU.npz", Plane::U, "es/prod_0001_bg_matched"),
            ("es/X/prod_0001.npz", Plane::X, "es/prod_0001"),
            ("es/V/prod_0001.npz", Plane::V, "es/prod_0001"),
            ("es/clusters_planeU_batch0003.npz", Plane::U, "es/clusters_batch0003"),
            ("X/prod_0001_planeX.npz", Plane::X, "prod_0001"),
        ] {
            assert_eq!(stem(source, plane), expected);
        }
    }
}
