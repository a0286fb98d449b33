//! A row of `counterfoil_files`.

use super::error::Doing;
use super::schema::VERSION_WITH_SHAPES;
use super::session::Session;
use crate::plan::Shape;
use crate::sql::{FormatWords, kind_named, permanent, unsigned};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use tokio_postgres::Row;

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: i64,
    pub(super) description: FileDescription,
    pub(super) table: String,
    pub(super) table_made: bool,
    pub(super) attributes: Attributes,
    pub(super) has_residue: bool,
    pub(super) shape: Shape,
}

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
pub(super) fn select(session: &Session) -> String {
    format!(
        "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format,
             f.table_name, CASE WHEN f.tree_id IS NULL THEN f.table_configured ELSE t.table_configured END,
             f.size, f.mode, f.uid, f.gid, f.modified_ns, f.kind, t.root, f.table_made,
             EXISTS (SELECT 1 FROM {residue} AS r WHERE r.file_id = f.file_id), {shape}
         FROM {files} AS f LEFT JOIN {trees} AS t ON t.tree_id = f.tree_id",
        files = session.name("counterfoil_files"),
        trees = session.name("counterfoil_trees"),
        residue = session.name("counterfoil_residue"),
        // Who only reads may meet the tables of an older version.
        shape = if session.version < VERSION_WITH_SHAPES { "NULL::text" } else { "f.shape" },
    )
}

/// Reads a row of [`select`].
pub(super) fn read(row: &Row) -> Result<Entry, SinkError> {
    let reading = || "reading the catalogue of files".to_owned();
    let path: Vec<u8> = row.try_get(1).doing(reading)?;
    let words = FormatWords {
        organization: row.try_get(3).doing(reading)?,
        layout: row.try_get(4).doing(reading)?,
        record_size: row.try_get(5).doing(reading)?,
        varseq_format: row.try_get(6).doing(reading)?,
    };
    let format = words.format(|| format!("reading the catalogue entry of {}", path_text(&path)))?;
    let small = |column: usize| -> Result<Option<u32>, SinkError> {
        let number: Option<i64> = row.try_get(column).doing(reading)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    };
    let shape: Option<String> = row.try_get(18).doing(reading)?;
    let shape = Shape::parse(shape.as_deref()).map_err(|cause| {
        permanent(
            format!("reading the catalogue entry of {}", path_text(&path)),
            cause,
            "use the version of Counterfoil that wrote it, or a later one",
        )
    })?;
    let kind: Option<String> = row.try_get(14).doing(reading)?;
    Ok(Entry {
        file_id: row.try_get(0).doing(reading)?,
        description: FileDescription {
            path,
            group: row.try_get(2).doing(reading)?,
            format,
            table: row.try_get(8).doing(reading)?,
            tree: row.try_get(15).doing(reading)?,
            schema: None,
            plan: None,
        },
        table: row.try_get(7).doing(reading)?,
        table_made: row.try_get(16).doing(reading)?,
        attributes: Attributes {
            size: unsigned(row.try_get(9).doing(reading)?),
            mode: small(10)?,
            uid: small(11)?,
            gid: small(12)?,
            modified_ns: row.try_get(13).doing(reading)?,
            kind: kind.as_deref().and_then(kind_named),
        },
        has_residue: row.try_get(17).doing(reading)?,
        shape,
    })
}
