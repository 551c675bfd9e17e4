//! The row groups of a split, read in any order and by several threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::part::{ImageReader, OpenPart};
use super::{Images, MOST_PIXELS, Split, SplitError, SplitFolder};

/// The row groups of a split; the footers of its parts were read, and have the rows that the manifest says.
#[derive(Debug)]
pub struct RowGroups {
    parts: Vec<OpenPart>,
    spans: Vec<Span>,
    columns: Vec<Vec<usize>>,
    block_rows: usize,
    pixels: usize,
}

/// Row groups that follow each other in a part and are read together.
#[derive(Debug, Clone)]
struct Span {
    part: usize,
    groups: Range<usize>,
    rows: usize,
    first_row: usize,
}

/// Rows that follow each other in a split.
#[derive(Debug)]
pub struct Block {
    /// Place of the first one in the split
    pub first_row: usize,
    /// Their images
    pub images: Images,
    /// The other columns that were asked for, in the order of the schema
    pub columns: RecordBatch,
}

/// The rows of one entry of [`RowGroups`], block after block.
pub struct Blocks {
    columns: ParquetRecordBatchReader,
    images: ImageReader,
    part: OpenPart,
    pixels: usize,
    next_row: usize,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("next_row", &self.next_row).finish_non_exhaustive()
    }
}

impl RowGroups {
    /// - `columns`: what is read of each row beside its image
    /// - `block_rows`: rows of a block at most; smaller row groups are read together
    pub(super) fn new(
        folder: &SplitFolder,
        split: Split,
        columns: &[&str],
        block_rows: usize,
    ) -> Result<Self, SplitError> {
        let (height, width) = (folder.manifest().height, folder.manifest().width);
        let pixels = height * width;
        if pixels > MOST_PIXELS {
            return Err(SplitError::TooLarge { path: folder.path().to_owned(), height, width });
        }
        let block_rows = block_rows.max(1);
        let mut found =
            Self { parts: Vec::new(), spans: Vec::new(), columns: Vec::new(), block_rows, pixels };
        for part in folder.parts(split)? {
            let opened = OpenPart::open(folder.path().join(split.name()).join(&part.name))?;
            let roots = columns.iter().map(|name| opened.column(name)).collect::<Result<_, _>>()?;
            opened.check_images(pixels)?;
            let (rows, expected) = (opened.group_rows().sum::<usize>() as u64, part.rows);
            if rows != expected {
                return Err(SplitError::RowCount { path: opened.path().to_owned(), found: rows, expected });
            }
            found.add_spans(&opened);
            found.columns.push(roots);
            found.parts.push(opened);
        }
        Ok(found)
    }

    fn add_spans(&mut self, opened: &OpenPart) {
        let part = self.parts.len();
        for (number, rows) in opened.group_rows().enumerate() {
            let first_row = self.spans.last().map_or(0, |last| last.first_row + last.rows);
            match self.spans.last_mut() {
                Some(last) if last.part == part && last.rows + rows <= self.block_rows => {
                    last.rows += rows;
                    last.groups.end += 1;
                }
                _ => self.spans.push(Span { part, groups: number..number + 1, rows, first_row }),
            }
        }
    }

    /// Number of entries that [`RowGroups::open`] knows.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Start to read an entry, from 0 in the order of the split.
    ///
    /// # Errors
    /// [`SplitError::Open`], [`SplitError::Parquet`]
    pub fn open(&self, at: usize) -> Result<Blocks, SplitError> {
        let Span { part, groups, first_row, .. } = self.spans[at].clone();
        let (part, roots) = (&self.parts[part], &self.columns[part]);
        let groups: Vec<usize> = groups.collect();
        Ok(Blocks {
            columns: part.columns(roots, &groups, 0, self.block_rows)?,
            images: part.images(groups, self.pixels)?,
            part: part.clone(),
            pixels: self.pixels,
            next_row: first_row,
        })
    }

    /// Make something of each block on all cores, and hand it over in the order of the split until `take` says no.
    ///
    /// # Errors
    /// [`SplitError`]; the first in the order of the split of those that were met.
    pub(super) fn each<T: Send>(
        &self,
        make: impl Fn(Block, &Path) -> Result<T, SplitError> + Sync,
        take: impl FnMut(T) -> bool + Send,
    ) -> Result<(), SplitError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let order = Mutex::new(InOrder { take, wanted: true, next: 0, waiting: BTreeMap::new() });
        let work = || {
            while !stopped.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= self.len() {
                    break;
                }
                let path = self.parts[self.spans[at].part].path();
                let made = self.open(at).and_then(|blocks| blocks.map(|block| make(block?, path)).collect());
                stopped.fetch_or(made.is_err(), Ordering::Relaxed);
                let wanted = order.lock().unwrap_or_else(PoisonError::into_inner).add(at, made);
                stopped.fetch_or(!wanted, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..cores.min(self.len()) {
                scope.spawn(work);
            }
            work();
        });
        let waiting = order.into_inner().unwrap_or_else(PoisonError::into_inner).waiting;
        waiting.into_values().find_map(Result::err).map_or(Ok(()), Err)
    }
}

/// Hands over what comes in any order in the right one, up to the first error or no.
struct InOrder<T, F> {
    take: F,
    wanted: bool,
    next: usize,
    waiting: BTreeMap<usize, Result<Vec<T>, SplitError>>,
}

impl<T, F: FnMut(T) -> bool> InOrder<T, F> {
    /// Returns whether more is wanted.
    fn add(&mut self, at: usize, made: Result<Vec<T>, SplitError>) -> bool {
        self.waiting.insert(at, made);
        while let Some(entry) =
            self.waiting.first_entry().filter(|e| *e.key() == self.next && e.get().is_ok())
        {
            for one in entry.remove().into_iter().flatten() {
                self.wanted = self.wanted && (self.take)(one);
            }
            self.next += 1;
        }
        self.wanted
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let columns = match self.columns.next()? {
            Ok(columns) => columns,
            Err(source) => return Some(Err(SplitError::Rows { path: self.part.path().to_owned(), source })),
        };
        let (rows, mut images) = (columns.num_rows(), Images::default());
        if let Err(error) = self.images.read(rows, &mut |bytes| images.extend_bytes(bytes, self.pixels)) {
            return Some(Err(error));
        }
        let first_row = self.next_row;
        self.next_row += rows;
        Some(Ok(Block { first_row, images, columns }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array};
    use arrow::datatypes::{DataType, Field, Float32Type, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};

    use super::*;
    use crate::files;
    use crate::plane::Plane;
    use crate::split::{MANIFEST, Manifest, Part, SplitSummary, column};

    const SHAPE: (usize, usize) = (8, 5);
    const PIXELS: usize = 40;

    /// Some hundred images, of which the first half has few different values and no two pixels of the rest are the same.
    fn pixels(rows: usize) -> Vec<f32> {
        let value = |at: usize| if at < rows * PIXELS / 2 { (at % 7) as f32 } else { at as f32 };
        (0..rows * PIXELS).map(|at| if at % 3 == 0 { value(at) } else { 0.0 }).collect()
    }

    /// A folder with a test split of parts of so many rows, written in one way; negative pixels are null.
    fn folder(dir: &Path, pixels: &[f32], parts: &[usize], properties: &WriterPropertiesBuilder) -> PathBuf {
        std::fs::create_dir_all(dir.join("test")).unwrap();
        let whole = crate::split::schema(SHAPE.0, SHAPE.1);
        let fields: Vec<Field> = [column::IS_MAIN_TRACK, column::IMAGE]
            .map(|name| whole.field_with_name(name).unwrap().clone())
            .into();
        let schema = Arc::new(Schema::new(fields));
        let DataType::FixedSizeList(pixel, size) = schema.field(1).data_type() else { panic!() };
        let name = |part: usize| format!("part-{part}.parquet");
        for (part, count) in parts.iter().enumerate() {
            let first: usize = parts[..part].iter().sum();
            let rows = first..first + count;
            let labels = rows.clone().map(|row| Some(row % 3 == 0)).collect::<BooleanArray>();
            let values = &pixels[rows.start * PIXELS..rows.end * PIXELS];
            let values: Float32Array = values.iter().map(|&adc| (adc >= 0.0).then_some(adc)).collect();
            let images = FixedSizeListArray::new(Arc::clone(pixel), *size, Arc::new(values), None);
            let columns: Vec<ArrayRef> = vec![Arc::new(labels), Arc::new(images)];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            let file = File::create(dir.join("test").join(name(part))).unwrap();
            let properties = Some(properties.clone().build());
            let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), properties).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
        let parts: Vec<Part> =
            parts.iter().enumerate().map(|(at, &rows)| Part { name: name(at), rows: rows as u64 }).collect();
        let rows = parts.iter().map(|part| part.rows).sum();
        let manifest = Manifest {
            schema_version: crate::SCHEMA_VERSION,
            plane: Plane::X,
            height: SHAPE.0,
            width: SHAPE.1,
            digest: "0".repeat(32),
            seed: 42,
            splits: BTreeMap::from([(Split::Test, SplitSummary { rows, main_tracks: 0, parts })]),
            preparation: serde_json::Map::new(),
        };
        files::write_json(&dir.join(MANIFEST), &manifest).unwrap();
        dir.to_owned()
    }

    fn ways() -> [(&'static str, WriterPropertiesBuilder); 5] {
        let plain = || WriterProperties::builder().set_dictionary_enabled(false);
        let groups = |builder: WriterPropertiesBuilder| builder.set_max_row_group_row_count(Some(64));
        [
            ("plain", groups(plain())),
            (
                "plain, several pages",
                groups(plain().set_data_page_row_count_limit(10).set_write_batch_size(PIXELS)),
            ),
            ("compressed", groups(plain().set_compression(Compression::ZSTD(ZstdLevel::default())))),
            ("pages of version 2", groups(plain().set_writer_version(WriterVersion::PARQUET_2_0))),
            // Its dictionary gets full in the middle of a row group: some pages have indices, the others values.
            (
                "dictionary",
                WriterProperties::builder()
                    .set_max_row_group_row_count(Some(256))
                    .set_dictionary_page_size_limit(2000)
                    .set_write_batch_size(PIXELS)
                    .set_data_page_row_count_limit(10),
            ),
        ]
    }

    #[test]
    fn all_ways_to_write_a_part_give_the_same_rows() {
        let pixels = pixels(500);
        let expected = Images::new(&pixels, PIXELS);
        for (way, properties) in ways() {
            let dir = tempfile::tempdir().unwrap();
            let root = folder(dir.path(), &pixels, &[300, 1, 199], &properties);
            let folder = SplitFolder::open(&root).unwrap();
            let mut dense = Vec::new();
            for batch in folder.batches(Split::Test, &[column::IMAGE, column::IS_MAIN_TRACK], 23).unwrap() {
                let batch = batch.unwrap();
                assert_eq!(batch.schema().field(1).metadata().len(), 2, "{way}");
                dense.extend_from_slice(
                    batch.column(1).as_fixed_size_list().values().as_primitive::<Float32Type>().values(),
                );
            }
            assert_eq!(dense, pixels, "{way}");
            for block_rows in [1, 23, 130, 1000] {
                let groups = folder.row_groups(Split::Test, &[column::IS_MAIN_TRACK], block_rows).unwrap();
                let (mut images, mut sizes) = (Images::default(), Vec::new());
                for block in (0..groups.len()).flat_map(|at| groups.open(at).unwrap()) {
                    let block = block.unwrap();
                    assert_eq!(block.first_row, images.rows(), "{way}");
                    let labels = block.columns.column(0).as_boolean();
                    assert!(
                        (0..labels.len()).all(|at| labels.value(at) == ((block.first_row + at) % 3 == 0))
                    );
                    images.append(&block.images);
                    sizes.push(labels.len());
                }
                assert_eq!(images, expected, "{way}");
                assert!(sizes.iter().all(|&rows| rows <= block_rows), "{way}: {sizes:?}");
            }
        }
    }

    #[test]
    fn plain_pages_do_without_the_general_decoder() {
        let pixels = pixels(100);
        for ((way, properties), expected) in ways().into_iter().zip([true, true, true, false, false]) {
            let dir = tempfile::tempdir().unwrap();
            let folder = SplitFolder::open(&folder(dir.path(), &pixels, &[100], &properties)).unwrap();
            let groups = folder.row_groups(Split::Test, &[], 10).unwrap();
            let mut blocks = groups.open(0).unwrap();
            assert_eq!(blocks.next().unwrap().unwrap().images.rows(), 10, "{way}");
            assert_eq!(blocks.images.is_by_pages(), expected, "{way}");
        }
    }

    #[test]
    fn a_page_of_another_kind_in_the_middle_of_a_row_group_is_read_too() {
        let mut pixels = pixels(100);
        pixels[57 * PIXELS + 3] = -1.0; // null, as `prepare` never writes
        let dir = tempfile::tempdir().unwrap();
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(10)
            .set_write_batch_size(PIXELS);
        let folder = SplitFolder::open(&folder(dir.path(), &pixels, &[100], &properties)).unwrap();
        let groups = folder.row_groups(Split::Test, &[], 23).unwrap();
        let (mut images, mut by_pages) = (Images::default(), Vec::new());
        let mut blocks = groups.open(0).unwrap();
        while let Some(block) = blocks.next() {
            images.append(&block.unwrap().images);
            by_pages.push(blocks.images.is_by_pages());
        }
        pixels[57 * PIXELS + 3] = 0.0;
        assert_eq!(images, Images::new(&pixels, PIXELS));
        assert_eq!(by_pages, [true, true, false, false, false]);
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = folder(dir.path(), &pixels(3), &[3], &WriterProperties::builder());
        let mut manifest: Manifest = files::read_json(&root.join(MANIFEST)).unwrap();
        manifest.width = 6;
        files::write_json(&root.join(MANIFEST), &manifest).unwrap();
        let folder = SplitFolder::open(&root).unwrap();
        let error = folder.row_groups(Split::Test, &[], 10).unwrap_err().to_string();
        let part = root.join("test/part-0.parquet");
        let start = format!("part `{}` has a column `image` of another type: FixedSizeList(", part.display());
        assert!(error.starts_with(&start), "{error}");
        // Who reads batches looks at the type.
        assert!(folder.batches(Split::Test, &[column::IMAGE], 2).unwrap().all(|batch| batch.is_ok()));
    }
}
