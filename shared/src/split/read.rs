//! Reading split folders: batch by batch, or what a training needs as a whole.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;

use super::{Batches, Block, Images, MANIFEST, Manifest, Part, RowGroups, Split, SplitError, column};
use crate::files;

/// Rows that [`SplitFolder::clusters`] decodes at a time: a row group of `prepare`.
const CLUSTER_BLOCK: usize = 2048;

/// A complete split folder: one with a manifest.
#[derive(Debug, Clone)]
pub struct SplitFolder {
    path: PathBuf,
    manifest: Manifest,
}

impl SplitFolder {
    /// Open a folder that `prepare` finished.
    ///
    /// # Errors
    /// [`SplitError::Unfinished`] without a manifest, [`SplitError::OneSplit`] for `DIR/test` and the like.
    pub fn open(data: &Path) -> Result<Self, SplitError> {
        let manifest = data.join(MANIFEST);
        if !manifest.is_file() {
            return Err(match parent_of_split(data) {
                Some((folder, _)) if folder.join(MANIFEST).is_file() => {
                    SplitError::OneSplit { path: data.to_owned(), folder }
                }
                _ => SplitError::Unfinished { path: data.to_owned() },
            });
        }
        Ok(Self { path: data.to_owned(), manifest: files::read_json(&manifest)? })
    }

    /// Open the folder of one split: `DIR/test` gives the folder `DIR` and [`Split::Test`].
    ///
    /// # Errors
    /// [`SplitError::NoSplit`] if the last name is no split's, [`SplitError::Missing`] if the folder lacks that split.
    pub fn open_split(dir: &Path) -> Result<(Self, Split), SplitError> {
        let (parent, split) =
            parent_of_split(dir).ok_or_else(|| SplitError::NoSplit { path: dir.to_owned() })?;
        let folder = Self::open(&parent)?;
        folder.parts(split)?;
        Ok((folder, split))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the folder holds and how it came about.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows of a split; 0 if the folder lacks it.
    pub fn rows(&self, split: Split) -> u64 {
        self.manifest.splits.get(&split).map_or(0, |summary| summary.rows)
    }

    /// The rows of a split, part after part, a part's in batches of at most `batch_rows`.
    ///
    /// Only the named columns are read; a batch has them in the order of [`super::schema`].
    ///
    /// # Errors
    /// [`SplitError::Missing`] if the folder lacks the split; a batch's errors come with the batch.
    pub fn batches(&self, split: Split, columns: &[&str], batch_rows: usize) -> Result<Batches, SplitError> {
        Batches::new(self, split, columns, batch_rows)
    }

    /// The row groups of a split, to be read in any order and by several threads; an image comes as its occupied pixels.
    ///
    /// - `columns`: what is read of each row beside its image
    /// - `block_rows`: rows of a [`Block`] at most; smaller row groups are read together
    ///
    /// # Errors
    /// [`SplitError::TooLarge`], [`SplitError::Missing`]; [`SplitError`] for a part that can't be read, that lacks a column, or has
    /// other rows than the manifest says
    pub fn row_groups(
        &self,
        split: Split,
        columns: &[&str],
        block_rows: usize,
    ) -> Result<RowGroups, SplitError> {
        RowGroups::new(self, split, columns, block_rows)
    }

    /// Everything a training needs of a split, in memory; all cores read.
    ///
    /// # Errors
    /// [`SplitError`]
    pub fn clusters(&self, split: Split) -> Result<Clusters, SplitError> {
        let mut all = Clusters::empty(self.manifest.height, self.manifest.width);
        self.each_clusters(split, |clusters| -> Result<(), SplitError> {
            all.append(&clusters);
            Ok(())
        })?;
        Ok(all)
    }

    /// The same, some thousand rows at a time in their order, decoded on all cores.
    ///
    /// # Errors
    /// [`SplitError`], or the first error of `take`, which ends the reading.
    pub fn each_clusters<E: From<SplitError> + Send>(
        &self,
        split: Split,
        mut take: impl FnMut(Clusters) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let (height, width) = (self.manifest.height, self.manifest.width);
        let names = [column::IS_MAIN_TRACK, column::CLUSTER_ENERGY];
        let groups = self.row_groups(split, &names, CLUSTER_BLOCK)?;
        let mut outcome = Ok(());
        groups.each(Clusters::of, |block| {
            outcome = take(Clusters { height, width, ..block });
            outcome.is_ok()
        })?;
        outcome
    }

    pub(super) fn parts(&self, split: Split) -> Result<&[Part], SplitError> {
        let summary = self.manifest.splits.get(&split).ok_or_else(|| {
            let found: Vec<_> = self.manifest.splits.keys().map(|split| split.name()).collect();
            SplitError::Missing { path: self.path.clone(), split, found: found.join(", ") }
        })?;
        Ok(&summary.parts)
    }
}

/// `DIR` and the split for `DIR/test` and the like, `None` for other names.
fn parent_of_split(dir: &Path) -> Option<(PathBuf, Split)> {
    let named = |path: &Path| {
        let split = path.file_name()?.to_str()?.parse().ok()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Some((parent.unwrap_or(Path::new(".")).to_owned(), split))
    };
    named(dir).or_else(|| named(&dir.canonicalize().ok()?))
}

/// Clusters in memory: what a training needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clusters {
    /// Raw ADC
    pub images: Images,
    /// Labels, `[rows]`
    pub is_main_track: Vec<bool>,
    /// Energies in MeV, `[rows]`
    pub cluster_energy: Vec<f32>,
    /// Ticks of an image
    pub height: usize,
    /// Channels of an image
    pub width: usize,
}

impl Clusters {
    /// No clusters of `height` ticks and `width` channels.
    pub fn empty(height: usize, width: usize) -> Self {
        Self { height, width, ..Self::default() }
    }

    /// Add all clusters of `others`.
    pub fn append(&mut self, others: &Self) {
        self.images.append(&others.images);
        self.is_main_track.extend_from_slice(&others.is_main_track);
        self.cluster_energy.extend_from_slice(&others.cluster_energy);
    }

    /// Number of clusters.
    pub fn rows(&self) -> usize {
        self.is_main_track.len()
    }

    /// The clusters of a block, which is of this part; height and width are left open.
    fn of(block: Block, path: &Path) -> Result<Self, SplitError> {
        let columns = &block.columns;
        let wrong = |column: &'static str| {
            let found = columns.column_by_name(column).map_or("absent".into(), |c| c.data_type().to_string());
            SplitError::ColumnType { path: path.to_owned(), column, found }
        };
        let labels = columns
            .column_by_name(column::IS_MAIN_TRACK)
            .and_then(|c| c.as_boolean_opt())
            .ok_or_else(|| wrong(column::IS_MAIN_TRACK))?;
        let energies = columns
            .column_by_name(column::CLUSTER_ENERGY)
            .and_then(|c| c.as_primitive_opt::<Float32Type>())
            .ok_or_else(|| wrong(column::CLUSTER_ENERGY))?;
        Ok(Self {
            is_main_track: labels.values().iter().collect(),
            cluster_energy: energies.values().to_vec(),
            images: block.images,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch};
    use arrow::datatypes::Schema;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::plane::Plane;
    use crate::split::SplitSummary;

    /// A folder with a test split in two parts of 2 × 3 images; returns its path.
    fn folder(dir: &Path, said_rows: u64) -> PathBuf {
        let root = dir.join("data");
        std::fs::create_dir_all(root.join("test")).unwrap();
        let whole = crate::split::schema(2, 3);
        let indices = [column::IMAGE, column::IS_MAIN_TRACK, column::CLUSTER_ENERGY];
        let fields: Vec<_> =
            indices.iter().map(|name| whole.field_with_name(name).unwrap().clone()).collect();
        let schema = Arc::new(Schema::new(fields));
        for (part, first) in [("a.parquet", 0_u8), ("b.parquet", 4)] {
            let pixels = Float32Array::from_iter_values((0..24).map(|i| f32::from(first * 6 + i)));
            let arrow::datatypes::DataType::FixedSizeList(pixel, size) = schema.field(0).data_type() else {
                panic!()
            };
            let images = FixedSizeListArray::new(Arc::clone(pixel), *size, Arc::new(pixels), None);
            let labels = (0..4).map(|i| Some((first + i) % 3 == 0)).collect::<BooleanArray>();
            let energies = Float32Array::from_iter_values((0..4).map(|i| f32::from(first + i)));
            let columns: Vec<ArrayRef> = vec![Arc::new(images), Arc::new(labels), Arc::new(energies)];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            let file = File::create(root.join("test").join(part)).unwrap();
            let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
        let part = |name: &str, rows| Part { name: name.to_owned(), rows };
        let parts = vec![part("a.parquet", 4), part("b.parquet", said_rows)];
        let manifest = Manifest {
            schema_version: crate::SCHEMA_VERSION,
            plane: Plane::X,
            height: 2,
            width: 3,
            digest: "0".repeat(32),
            seed: 42,
            splits: BTreeMap::from([(
                Split::Test,
                SplitSummary { rows: 4 + said_rows, main_tracks: 3, parts },
            )]),
            preparation: serde_json::Map::new(),
        };
        files::write_json(&root.join(MANIFEST), &manifest).unwrap();
        root
    }

    #[test]
    fn clusters_of_all_parts_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SplitFolder::open(&folder(dir.path(), 4)).unwrap();
        let clusters = folder.clusters(Split::Test).unwrap();
        assert_eq!(clusters.images, Images::new(&(0..48_u8).map(f32::from).collect::<Vec<_>>(), 6));
        assert_eq!(clusters.cluster_energy, (0..8_u8).map(f32::from).collect::<Vec<_>>());
        assert_eq!(clusters.is_main_track, (0..8).map(|i| i % 3 == 0).collect::<Vec<_>>());
        assert_eq!((clusters.rows(), clusters.height, clusters.width), (8, 2, 3));
    }

    #[test]
    fn a_split_can_be_opened_by_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = folder(dir.path(), 4);
        let (folder, split) = SplitFolder::open_split(&root.join("test/")).unwrap();
        assert_eq!((folder.path(), split, folder.rows(split)), (root.as_path(), Split::Test, 8));
        let error = SplitFolder::open_split(&root.join("train")).unwrap_err().to_string();
        assert_eq!(error, format!("`{}` has no train split; its `manifest.json` lists test", root.display()));
        let error = SplitFolder::open_split(&root).unwrap_err().to_string();
        let help = "give a folder named train, validation or test in one that `prepare` made";
        assert_eq!(error, format!("`{}` is no split; {help}", root.display()));
        let error = SplitFolder::open(&root.join("test")).unwrap_err().to_string();
        let one = root.join("test");
        assert_eq!(
            error,
            format!("`{}` is one split of a folder; give `{}` itself", one.display(), root.display())
        );
    }

    #[test]
    fn a_folder_without_a_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let error = SplitFolder::open(dir.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "`{path}` is no finished split folder: it has no `manifest.json`; make one with `prepare --config C \
                 --output {path}`"
            )
        );
    }

    #[test]
    fn a_part_with_other_rows_than_the_manifest_says_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = folder(dir.path(), 5);
        let error = SplitFolder::open(&root).unwrap().clusters(Split::Test).unwrap_err().to_string();
        let part = root.join("test/b.parquet");
        assert_eq!(
            error,
            format!(
                "part `{}` has 4 rows, the manifest says 5; make the folder again with `prepare --overwrite`",
                part.display()
            )
        );
    }

    #[test]
    fn a_column_that_is_not_there_is_an_error_and_ends_the_batches() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SplitFolder::open(&folder(dir.path(), 4)).unwrap();
        let mut batches = folder.batches(Split::Test, &["score"], 3).unwrap();
        assert!(
            batches.next().unwrap().unwrap_err().to_string().ends_with("a.parquet` has no column `score`")
        );
        assert!(batches.next().is_none());
        let sizes: Vec<_> = folder
            .batches(Split::Test, &["cluster_energy"], 3)
            .unwrap()
            .map(|b| b.unwrap().num_rows())
            .collect();
        assert_eq!(sizes, [3, 1, 3, 1]);
    }
}
