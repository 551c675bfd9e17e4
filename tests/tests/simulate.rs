//! What a simulated production promises: bytes, layouts, labels, matches, repeats.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use ndarray::{Array2, Array3, Axis};
use ndarray_npy::ReadNpyExt as _;
use simulator::{Compression, Layout, Options, Plane};

/// A small production: 6 files of 12 events a plane.
fn small(output: &Path) -> Options {
    Options { output: output.into(), files: Some(6), events_per_file: 12, threads: 1, ..Options::default() }
}

/// All files below `folder` of one plane (or of all planes for `*`), sorted.
fn files(folder: &Path, plane: char) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["es", "cc"]
        .iter()
        .flat_map(|kind| fs::read_dir(folder.join(kind)).expect("the folder is there"))
        .map(|entry| entry.expect("the entry can be read").path())
        .filter(|path| plane == '*' || path.to_string_lossy().ends_with(&format!("_plane{plane}.npz")))
        .collect();
    found.sort();
    found
}

fn read(path: &Path) -> (Array3<f32>, Array2<f32>) {
    let mut zip = zip::ZipArchive::new(File::open(path).expect("the file opens")).expect("it is an archive");
    let images = Array3::read_npy(zip.by_name("images.npy").expect("it has images")).expect("they are 3-D");
    let metadata =
        Array2::read_npy(zip.by_name("metadata.npy").expect("it has metadata")).expect("they are 2-D");
    (images, metadata)
}

fn same(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * b.abs()
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let written: Vec<BTreeMap<PathBuf, Vec<u8>>> = [1, 2, 3]
        .map(|threads| {
            let folder = tempfile::tempdir().unwrap();
            let options = Options {
                threads,
                planes: Plane::ALL.to_vec(),
                compress: Compression::Mixed,
                ..small(folder.path())
            };
            simulator::run(&options).unwrap();
            files(folder.path(), '*')
                .into_iter()
                .map(|path| (path.strip_prefix(folder.path()).unwrap().into(), fs::read(&path).unwrap()))
                .collect()
        })
        .into();
    assert_eq!(written[0].len(), 18);
    assert!(written[0] == written[1] && written[0] == written[2]);
}

#[test]
fn another_seed_gives_other_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    for seed in [1, 2] {
        simulator::run(&Options { seed, ..small(folder.path()) }).unwrap();
        for path in files(folder.path(), 'X') {
            assert!(seen.insert(fs::read(path).unwrap()));
        }
    }
}

#[test]
fn a_plane_looks_the_same_with_and_without_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for planes in [vec![Plane::X], Plane::ALL.to_vec()] {
        simulator::run(&Options { planes, ..small(folder.path()) }).unwrap();
        images.push(files(folder.path(), 'X').iter().map(|path| read(path).0).collect::<Vec<_>>());
    }
    assert_eq!(images[0], images[1]);
}

#[test]
fn every_layout_holds_the_same_clusters_in_its_own_columns() {
    let folder = tempfile::tempdir().unwrap();
    let mut first: Option<Vec<Array3<f32>>> = None;
    for columns in Layout::ALL {
        simulator::run(&Options { columns, ..small(folder.path()) }).unwrap();
        let mut images = Vec::new();
        for path in files(folder.path(), 'X') {
            let (image, metadata) = read(&path);
            assert_eq!(metadata.dim(), (image.len_of(Axis(0)), columns.columns()));
            let is_es = path.to_string_lossy().contains("/es/");
            metadata.rows().into_iter().for_each(|row| check_row(columns, &row.to_vec(), is_es));
            images.push(image);
        }
        assert_eq!(first.get_or_insert_with(|| images.clone()), &images);
    }
}

/// Checks one row of plane X; the order of the columns is that of the project's design page.
fn check_row(columns: Layout, row: &[f32], file_is_es: bool) {
    let dated = usize::from(matches!(columns, Layout::C13 | Layout::C14 | Layout::C18));
    let old = columns == Layout::C15;
    let is_marley = row[dated] > 0.0;
    let is_es = if old { row[14] } else { row[2 + dated] };
    let position = &row[if old { 2 } else { 3 + dated }..][..3];
    let momentum = &row[if old { 8 } else { 6 + dated }..][..3];
    let energies = &row[if old { 11 } else { 9 + dated }..][..2];
    assert!([0.0, 1.0].contains(&row[dated]) && [0.0, 1.0].contains(&row[columns.label_column()]), "{row:?}");
    assert!(same(is_es, f32::from(u8::from(is_marley && file_is_es))), "{row:?}");
    if is_marley {
        assert!(
            position[0].abs() < 360.0 && position[1].abs() < 600.0 && (0.0..460.0).contains(&position[2])
        );
        let norm = momentum.iter().map(|p| p * p).sum::<f32>().sqrt();
        assert!((0.0005..0.08).contains(&norm), "{norm} GeV/c");
    } else {
        assert!(position.iter().chain(momentum).all(|value| *value == 0.0), "{row:?}");
        assert!(row[columns.label_column()] == 0.0);
    }
    let neutrino = |energy: f32| if is_marley { (2.0..100.0).contains(&energy) } else { same(energy, -1.0) };
    assert!(energies[1] >= 2.0);
    assert!(if dated == 1 { energies[0] > 1.9 } else { neutrino(energies[0]) }, "{row:?}");
    match columns {
        Layout::C11 => {}
        Layout::C12 => assert!(same(row[11], 2.0)),
        Layout::C13 => assert!(same(row[12], 2.0)),
        Layout::C14 => assert!(same(row[12], 2.0) && same(row[13], -1.0)),
        Layout::C15 => assert!(same(row[13], 2.0)),
        Layout::C18 => {
            assert!(same(row[12], 2.0) && neutrino(row[14]));
            let norm = row[15..].iter().map(|p| p * p).sum::<f32>().sqrt();
            assert!(same(1000.0 * norm, if is_marley { row[14] } else { 0.0 }), "{row:?}");
        }
    }
}

#[test]
fn pixels_are_empty_or_above_threshold_and_add_up_to_the_energy() {
    for width in [16, 32] {
        let folder = tempfile::tempdir().unwrap();
        simulator::run(&Options { width, planes: Plane::ALL.to_vec(), ..small(folder.path()) }).unwrap();
        for plane in Plane::ALL {
            for path in files(folder.path(), plane.letter()) {
                let (images, metadata) = read(&path);
                assert_eq!(images.shape()[1..], [128, width]);
                assert!(images.iter().all(|adc| *adc == 0.0 || (plane.threshold()..20_000.0).contains(adc)));
                for (image, row) in images.outer_iter().zip(metadata.outer_iter()) {
                    let energy = image.iter().map(|adc| f64::from(*adc)).sum::<f64>() / plane.gain();
                    assert!(same(row[10], energy as f32) && row[11] >= row[10] - 1e-5, "{energy} {row}");
                    assert!(f64::from(row[11]) >= simulator::ENERGY_CUT);
                    assert!(same(row[12], plane.number() as f32));
                }
            }
        }
    }
}

#[test]
fn the_main_track_is_the_most_energetic_neutrino_cluster_of_its_event_and_plane() {
    let folder = tempfile::tempdir().unwrap();
    simulator::run(&Options { planes: Plane::ALL.to_vec(), ..small(folder.path()) }).unwrap();
    let mut events_with_others = 0;
    for path in files(folder.path(), '*') {
        let (_, metadata) = read(&path);
        let mut events: HashMap<u32, Vec<(f32, bool)>> = HashMap::new();
        for row in metadata.outer_iter().filter(|row| row[1] > 0.0) {
            events.entry(row[0] as u32).or_default().push((row[11], row[2] > 0.0));
        }
        for clusters in events.values() {
            let most = clusters.iter().map(|(energy, _)| *energy).fold(0.0, f32::max);
            let mains: Vec<f32> =
                clusters.iter().filter(|(_, main)| *main).map(|(energy, _)| *energy).collect();
            assert_eq!(mains, [most]);
            events_with_others += usize::from(clusters.len() > 1);
        }
    }
    assert!(events_with_others > 10);
}

#[test]
fn match_ids_join_the_planes_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    simulator::run(&Options { planes: Plane::ALL.to_vec(), ..small(folder.path()) }).unwrap();
    for path in files(folder.path(), 'X') {
        let stem = path.to_string_lossy().replace("X.npz", "");
        // Match id → for each plane that has it: event, is_marley, momentum.
        let mut matches: HashMap<i32, Vec<(char, Vec<f32>)>> = HashMap::new();
        for plane in ['U', 'V', 'X'] {
            let (_, metadata) = read(Path::new(&format!("{stem}{plane}.npz")));
            for row in metadata.outer_iter().filter(|row| row[13] >= 0.0) {
                let truth = [0, 1, 7, 8, 9].map(|column| row[column]).to_vec();
                matches.entry(row[13] as i32).or_default().push((plane, truth));
            }
        }
        assert!(matches.len() > 30);
        for found in matches.values() {
            let planes: HashSet<char> = found.iter().map(|(plane, _)| *plane).collect();
            assert!(planes.len() == found.len() && found.len() > 1, "{found:?}");
            assert!(found.iter().all(|(_, truth)| truth == &found[0].1), "{found:?}");
        }
    }
}

#[test]
fn repeated_backgrounds_have_one_twin_in_another_file() {
    for share in [0.0, 0.33, 0.6] {
        let folder = tempfile::tempdir().unwrap();
        let options =
            Options { repeat_share: share, files: Some(15), events_per_file: 20, ..small(folder.path()) };
        let summary = simulator::run(&options).unwrap();
        let mut homes: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
        for (file, path) in files(folder.path(), 'X').iter().enumerate() {
            let (images, metadata) = read(path);
            for (image, row) in images.outer_iter().zip(metadata.outer_iter()) {
                let home = homes.entry(image.iter().map(|adc| adc.to_bits()).collect()).or_default();
                home.push(file);
                assert!(home.len() == 1 || (row[1] == 0.0 && home.len() == 2 && home[0] != home[1]));
            }
        }
        let twins: usize = homes.values().filter(|home| home.len() == 2).map(Vec::len).sum();
        assert_eq!(twins, summary.repeated);
        let found = twins as f64 / summary.clusters as f64;
        assert!((found - share).abs() < 0.04, "{found} instead of {share}");
    }
}

#[test]
fn the_shares_of_main_tracks_and_interactions_are_as_asked() {
    for (main_share, es_share) in [(0.14, 0.5), (0.3, 0.2)] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            main_share,
            es_share,
            files: Some(20),
            events_per_file: 30,
            compress: Compression::Deflate,
            ..small(folder.path())
        };
        let summary = simulator::run(&options).unwrap();
        let found = summary.main_tracks as f64 / summary.clusters as f64;
        assert!((found / main_share - 1.0).abs() < 0.1, "{found} instead of {main_share}");
        assert_eq!(fs::read_dir(folder.path().join("es")).unwrap().count(), (20.0 * es_share) as usize);
    }
}

#[test]
fn the_number_of_clusters_decides_the_number_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { clusters: 3000, files: None, events_per_file: 30, ..small(folder.path()) };
    let summary = simulator::run(&options).unwrap();
    assert!((2800..3400).contains(&summary.clusters), "{summary}");
}

#[test]
fn the_command_prints_one_summary_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args([
            "--files",
            "2",
            "--events-per-file",
            "5",
            "--planes",
            "U,V,X",
            "--columns",
            "18",
            "--width",
            "32",
        ])
        .arg("--output")
        .arg(folder.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && stdout.lines().count() == 1 && stdout.starts_with("wrote 6 files"),
        "{stdout}"
    );
    assert_eq!(read(&folder.path().join("es/prod_es_0001_bg_matched_planeU.npz")).1.len_of(Axis(1)), 18);
}

#[test]
fn a_share_above_one_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error = simulator::run(&Options { es_share: 1.5, ..small(&out) }).unwrap_err();
    assert_eq!(error.to_string(), "`es-share` is 1.5, expected a share from 0 to 1");
    assert!(!out.exists());
}
