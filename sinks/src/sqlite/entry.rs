//! A row of `counterfoil_files`.

use super::error::Doing;
use crate::plan::Shape;
use crate::sql::{FormatWords, kind_named, permanent, unsigned};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
pub(super) const SELECT_ENTRIES: &str = "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format, \
         f.table_name, CASE WHEN f.tree_id IS NULL THEN f.table_configured ELSE t.table_configured END, \
         f.size, f.mode, f.uid, f.gid, f.modified_ns, f.kind, t.root, f.shape \
     FROM counterfoil_files AS f LEFT JOIN counterfoil_trees AS t ON t.tree_id = f.tree_id";

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: i64,
    pub(super) description: FileDescription,
    pub(super) table: String,
    pub(super) attributes: Attributes,
    pub(super) shape: Shape,
}

/// The entry of the file with this path, if there is one.
pub(super) fn find(
    connection: &Connection,
    stream: &str,
    path: &[u8],
) -> Result<Option<Entry>, SinkError> {
    connection
        .prepare_cached(&format!(
            "{SELECT_ENTRIES} WHERE f.stream = ?1 AND f.path = ?2"
        ))
        .and_then(|mut select| {
            select
                .query_row(params![stream, path], |row| Ok(read(row)))
                .optional()
        })
        .doing(|| format!("looking up {}", path_text(path)))?
        .transpose()
}

/// Reads a row of [`SELECT_ENTRIES`].
pub(super) fn read(row: &Row<'_>) -> Result<Entry, SinkError> {
    let reading = || "reading the catalogue of files".to_owned();
    let path: Vec<u8> = row.get(1).doing(reading)?;
    let words = FormatWords {
        organization: row.get(3).doing(reading)?,
        layout: row.get(4).doing(reading)?,
        record_size: row.get(5).doing(reading)?,
        varseq_format: row.get(6).doing(reading)?,
    };
    let format = words.format(|| format!("reading the catalogue entry of {}", path_text(&path)))?;
    let size: i64 = row.get(9).doing(reading)?;
    let kind: Option<String> = row.get(14).doing(reading)?;
    let shape: Option<String> = row.get(16).doing(reading)?;
    let shape = shape_of(shape.as_deref(), || path_text(&path))?;
    Ok(Entry {
        file_id: row.get(0).doing(reading)?,
        description: FileDescription {
            path,
            group: row.get(2).doing(reading)?,
            format,
            table: row.get(8).doing(reading)?,
            tree: row.get(15).doing(reading)?,
            schema: None,
            plan: None,
        },
        table: row.get(7).doing(reading)?,
        attributes: Attributes {
            size: unsigned(size),
            mode: row.get(10).doing(reading)?,
            uid: row.get(11).doing(reading)?,
            gid: row.get(12).doing(reading)?,
            modified_ns: row.get(13).doing(reading)?,
            kind: kind.as_deref().and_then(kind_named),
        },
        shape,
    })
}

/// A shape by its text in the catalogue; `whose` is the file's, for the error.
pub(super) fn shape_of(
    text: Option<&str>,
    whose: impl FnOnce() -> String,
) -> Result<Shape, SinkError> {
    Shape::parse(text).map_err(|cause| {
        permanent(
            format!("reading the catalogue entry of {}", whose()),
            cause,
            "use the version of Counterfoil that wrote it, or a later one",
        )
    })
}

/// A shape's text in the catalogue; none for a mirror of raw images.
pub(super) fn shape_text(shape: &Shape) -> Option<String> {
    (*shape != Shape::default()).then(|| shape.text())
}
