//! One Parquet row group: the image column page by page from its occupied pixels, the rest by `arrow`.

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::add_encoded_arrow_schema_to_metadata;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::SchemaDescriptor;
use shared::plane::Plane;

use crate::image::SparseImages;
use crate::page::Pages;
use crate::rows::Rows;

/// Rows of a row group: 16 MiB of images of 128 × 16.
///
/// The data alone decide it, so that the bytes depend on neither threads nor memory.
pub const GROUP_ROWS: usize = 2048;
const ZSTD_LEVEL: i32 = 1;

/// How the files of a split folder are written.
#[derive(Clone)]
pub struct Format {
    schema: SchemaRef,
    parquet: Arc<SchemaDescriptor>,
    properties: WriterPropertiesPtr,
    plane: Plane,
    pixels: usize,
}

/// An encoded row group.
pub struct Group {
    image: (Bytes, ColumnCloseResult),
    others: Vec<ArrowColumnChunk>,
    /// Its rows
    pub rows: u64,
}

impl Format {
    /// The format for images of `[height, width]`.
    pub fn new(plane: Plane, height: usize, width: usize) -> Result<Self> {
        let schema = shared::split::schema(height, width);
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true);
        // Truth and energies hardly repeat in a row group: a dictionary would only add to them.
        // Flags are a few hundred bytes: starting a compressor costs more than it saves.
        for field in schema.fields() {
            let column = || field.name().as_str().into();
            properties = match field.data_type() {
                DataType::Float32 => properties.set_column_dictionary_enabled(column(), false),
                DataType::Boolean => properties.set_column_compression(column(), Compression::UNCOMPRESSED),
                _ => properties,
            };
        }
        let mut properties = properties.build();
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let parquet = Arc::new(ArrowSchemaConverter::new().convert(&schema)?);
        Ok(Self { schema, parquet, properties: Arc::new(properties), plane, pixels: height * width })
    }

    /// Start a Parquet file.
    pub fn writer<W: Write + Send>(&self, sink: W) -> Result<SerializedFileWriter<W>> {
        SerializedFileWriter::new(sink, self.parquet.root_schema_ptr(), Arc::clone(&self.properties))
    }

    /// Encode rows as a row group.
    pub fn encode(&self, rows: &Rows) -> Result<Group> {
        // The column writers want a file to belong to; they only look at its properties.
        let nowhere = self.writer(std::io::sink())?;
        let factory = ArrowRowGroupWriterFactory::new(&nowhere, Arc::clone(&self.schema));
        let writers = factory.create_column_writers(0)?.into_iter().skip(1);
        let fields = self.schema.fields().iter().skip(1);
        let mut others = Vec::with_capacity(fields.len());
        for ((mut writer, field), column) in writers.zip(fields).zip(rows.columns(self.plane)) {
            for leaf in compute_leaves(field, &column)? {
                writer.write(&leaf)?;
            }
            others.push(writer.close()?);
        }
        Ok(Group { image: self.encode_images(&rows.images)?, others, rows: rows.len() as u64 })
    }

    fn encode_images(&self, images: &SparseImages) -> Result<(Bytes, ColumnCloseResult)> {
        let mut sink = TrackedWrite::new(Vec::with_capacity(images.pixels() * 5));
        let level = self.parquet.column(0).max_def_level() as u8;
        let mut pages = Pages::new(self.pixels, level, ZSTD_LEVEL)?;
        let mut uncompressed = 0;
        for start in (0..images.len()).step_by(pages.rows()) {
            let rows = start..images.len().min(start + pages.rows());
            let num_values = (rows.len() * self.pixels) as u32;
            let packed = pages.pack(images, rows)?;
            let page = Page::DataPage {
                buf: packed.bytes.into(),
                num_values,
                encoding: Encoding::PLAIN,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let page = CompressedPage::new(page, packed.plain);
            let spec = SerializedPageWriter::new(&mut sink).write_page(page)?;
            uncompressed += spec.uncompressed_size;
        }
        let bytes: Bytes = sink.into_inner()?.into();
        let close = self.close_images(images.len(), bytes.len(), uncompressed)?;
        Ok((bytes, close))
    }

    fn close_images(&self, rows: usize, bytes: usize, uncompressed: usize) -> Result<ColumnCloseResult> {
        let metadata = ColumnChunkMetaData::builder(self.parquet.column(0))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_num_values((rows * self.pixels).cast_signed() as i64)
            .set_total_compressed_size(bytes.cast_signed() as i64)
            .set_total_uncompressed_size(uncompressed.cast_signed() as i64)
            .set_data_page_offset(0)
            .build()?;
        Ok(ColumnCloseResult {
            bytes_written: bytes as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        })
    }
}

impl Group {
    /// Add the row group to a file.
    pub fn append<W: Write + Send>(self, writer: &mut SerializedFileWriter<W>) -> Result<()> {
        let mut group = writer.next_row_group()?;
        let (bytes, close) = self.image;
        group.append_column(&bytes, close)?;
        for column in self.others {
            column.append_to_row_group(&mut group)?;
        }
        group.close()?;
        Ok(())
    }
}
