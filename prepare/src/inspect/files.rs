//! What is in NPZ files.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use shared::plane::Plane;

use super::picture::Picture;
use super::{spread, table};
use crate::Error;
use crate::bad_file::BadFile;
use crate::clusters::{Block, ClusterFile};
use crate::npz::{NpzFile, RetryingFile};
use crate::scan::stop_if_asked;

/// Images larger than this are not looked at: 1024 × 1024 pixels.
const MOST_PIXELS: u64 = 1 << 20;

/// What a file holds.
#[derive(Default)]
struct Found {
    image: String,
    kind: String,
    packing: &'static str,
    columns: usize,
    rows: u64,
    main_tracks: u64,
    marley: u64,
    elastic: u64,
    dropped: u64,
    energies: Vec<f32>,
    digests: Vec<[u8; 16]>,
}

/// A table of the files at or below a path.
pub fn describe(path: &Path) -> Result<String, Error> {
    let files = npz_files(path)?;
    let root = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let heads = ["file", "plane", "rows", "images", "packed", "columns", "main", "marley", "ES", "dropped"];
    let mut heads: Vec<String> = heads.map(str::to_owned).into();
    heads.extend(["repeated".to_owned(), "energy in MeV (least / median / greatest)".to_owned()]);
    let (mut rows, mut bad) = (vec![heads], Vec::new());
    let mut images: HashMap<[u8; 16], u64> = HashMap::new();
    let mut found = Vec::new();
    for path in &files {
        stop_if_asked("inspecting", "nothing is kept")?;
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let plane = plane_of(path);
        match look(path, plane) {
            Ok(file) => {
                file.digests.iter().for_each(|digest| *images.entry(*digest).or_default() += 1);
                found.push((name, plane, file));
            }
            Err(reason) => bad.push(format!("not usable: {name}: {}", reason.reason())),
        }
    }
    let mut total = Found::default();
    for (name, plane, mut file) in found {
        total.add(&file);
        let energies = std::mem::take(&mut file.energies);
        rows.push(file.cells(name, plane.letter(), repeated(&file.digests, &images), spread(energies)));
    }
    if rows.len() > 2 {
        let energies = spread(std::mem::take(&mut total.energies));
        let repeats = repeated(&total.digests, &images);
        rows.push(total.cells("all".to_owned(), "", repeats, energies));
    }
    let mut text = format!("{}: {} NPZ files, {} not usable", path.display(), files.len(), bad.len());
    if rows.len() > 1 {
        text = format!("{text}\n{}", table(&rows));
    }
    Ok([vec![text], bad].concat().join("\n"))
}

/// Rows whose image is in another row too.
fn repeated(digests: &[[u8; 16]], images: &HashMap<[u8; 16], u64>) -> usize {
    digests.iter().filter(|digest| images.get(*digest).is_some_and(|&count| count > 1)).count()
}

impl Found {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.main_tracks += other.main_tracks;
        self.marley += other.marley;
        self.elastic += other.elastic;
        self.dropped += other.dropped;
        self.energies.extend(&other.energies);
        self.digests.extend(&other.digests);
    }

    fn cells(&self, name: String, plane: &str, repeated: usize, energies: String) -> Vec<String> {
        let columns = if self.columns == 0 { String::new() } else { self.columns.to_string() };
        let mut cells = vec![name, plane.to_owned(), self.rows.to_string()];
        cells.extend([format!("{} {}", self.image, self.kind), self.packing.to_owned(), columns]);
        cells.extend([self.main_tracks, self.marley, self.elastic, self.dropped].map(|n| n.to_string()));
        cells.extend([repeated.to_string(), energies]);
        cells
    }
}

/// All `.npz` at or below a path, in order.
fn npz_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(read_error)? {
        entries.push(entry.map_err(read_error)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() && !entry.is_symlink() {
            files.extend(npz_files(&entry)?);
        } else if entry.extension().is_some_and(|end| end == "npz") {
            files.push(entry);
        }
    }
    Ok(files)
}

/// The plane that the name or the folder says; X if neither does.
fn plane_of(path: &Path) -> Plane {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let named = |plane: &Plane| name.contains(&format!("_plane{plane}"));
    let in_folder = |plane: &Plane| folder == plane.letter();
    let find = |is: &dyn Fn(&Plane) -> bool| Plane::ALL.into_iter().find(|plane| is(plane));
    find(&named).or_else(|| find(&in_folder)).unwrap_or(Plane::X)
}

/// Open a file with images of any size.
fn open(path: &Path, plane: Plane) -> Result<(ClusterFile<RetryingFile>, [usize; 2]), BadFile> {
    let file = RetryingFile::open(path).map_err(BadFile::Open)?;
    let shape = NpzFile::open(file)?.contents().images.shape.clone();
    let is_small = shape[1].checked_mul(shape[2]).is_some_and(|pixels| pixels <= MOST_PIXELS);
    let [height, width] = if is_small { [shape[1] as usize, shape[2] as usize] } else { [0, 0] };
    let file = RetryingFile::open(path).map_err(BadFile::Open)?;
    Ok((ClusterFile::from_source(file, plane, height, width)?, [height, width]))
}

fn look(path: &Path, plane: Plane) -> Result<Found, BadFile> {
    let (file, [height, width]) = open(path, plane)?;
    let contents = file.contents();
    let mut found = Found {
        image: format!("{height} × {width}"),
        kind: contents.images.kind.to_string(),
        packing: if contents.deflated { "deflated" } else { "stored" },
        columns: file.layout().columns,
        rows: contents.rows(),
        ..Found::default()
    };
    let mut scratch = Vec::new();
    file.read(true, |block| {
        found.count(&block, plane, &mut scratch);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

impl Found {
    fn count(&mut self, block: &Block, plane: Plane, scratch: &mut Vec<u8>) {
        for truth in &block.truths {
            self.dropped += u64::from(truth.is_none());
            let Some(truth) = truth else { continue };
            self.main_tracks += u64::from(truth.is_main_track);
            self.marley += u64::from(truth.is_marley);
            self.elastic += u64::from(truth.is_es);
        }
        for image in 0..block.images.len() {
            let image = block.images.get(image);
            self.energies.push(image.energy(plane));
            self.digests.push(image.digest(scratch));
        }
    }
}

/// The cluster in a row of a file.
pub fn picture(path: &Path, row: u64) -> Result<Picture, Error> {
    let plane = plane_of(path);
    let bad = |bad: BadFile| Error::Unusable { path: path.to_owned(), reason: bad.reason() };
    let (file, [height, width]) = open(path, plane).map_err(bad)?;
    let mut picture = None;
    let outcome = file.read(true, |block| {
        let Some(at) = row.checked_sub(block.first).filter(|&at| at < block.truths.len() as u64) else {
            return ControlFlow::Continue(());
        };
        let at = at as usize;
        if let Some(truth) = block.truths[at] {
            let image = block.images.get(block.truths[..at].iter().flatten().count());
            let event = truth.event.map_or(String::new(), |event| format!(", event {event}"));
            let class = if truth.is_main_track { "main track" } else { "background" };
            let energy = image.energy(plane);
            let caption = format!("{} row {row}{event}: {class}, {energy:.2} MeV", path.display());
            picture = Some(Picture::of(image, height, width, caption));
        }
        ControlFlow::Break(())
    });
    outcome.map_err(bad)?;
    picture.ok_or_else(|| Error::NoRow { path: path.to_owned(), row })
}
