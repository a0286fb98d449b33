//! A row of `counterfoil_files`.

use super::error::Doing;
use super::session::{Session, column};
use crate::plan::Shape;
use crate::sql::{FormatWords, kind_named, permanent};
use crate::{Attributes, FileDescription, SinkError};
use counterfoil_proto::path_text;
use mysql_async::Row;

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
macro_rules! select_entries {
    ($shape:literal, $join:literal) => {
        concat!(
            "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format, \
                 COALESCE(t.table_name, f.table_name), \
                 CASE WHEN f.tree_id IS NULL THEN f.table_configured ELSE t.table_configured END, \
                 f.size, f.mode, f.uid, f.gid, f.modified_ns, f.kind, t.root, COALESCE(t.rows_table, f.rows_table), ",
            $shape,
            " FROM counterfoil_files AS f LEFT JOIN counterfoil_trees AS t ON t.tree_id = f.tree_id ",
            $join
        )
    };
}

pub(super) const SELECT_ENTRIES: &str = select_entries!(
    "s.shape",
    "LEFT JOIN counterfoil_shapes AS s ON s.rows_table = f.rows_table"
);

/// The same of tables of version 1, which have no shapes.
pub(super) const SELECT_FIRST_ENTRIES: &str = select_entries!("NULL", "");

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: u64,
    pub(super) description: FileDescription,
    /// The view.
    pub(super) table: String,
    pub(super) attributes: Attributes,
    /// The number of the table with the rows.
    pub(super) rows: u64,
    /// What that table is.
    pub(super) shape: Shape,
}

/// The entry of the file with this path, if there is one. `select_entries` is one of the above.
pub(super) async fn find(
    session: &mut Session,
    select_entries: &str,
    stream: &str,
    path: &[u8],
) -> Result<Option<Entry>, SinkError> {
    let sql = format!("{select_entries} WHERE f.stream = ? AND f.path_hash = UNHEX(SHA2(?, 256))");
    let row = session
        .first(&sql, (stream, path))
        .await
        .doing(|| format!("looking up {}", path_text(path)))?;
    row.as_ref().map(read).transpose()
}

/// Reads a row of [`SELECT_ENTRIES`].
pub(super) fn read(row: &Row) -> Result<Entry, SinkError> {
    let reading = || "reading the catalogue of files".to_owned();
    let path: Vec<u8> = column(row, 1).doing(reading)?;
    let words = FormatWords {
        organization: column(row, 3).doing(reading)?,
        layout: column(row, 4).doing(reading)?,
        record_size: column(row, 5).doing(reading)?,
        varseq_format: column(row, 6).doing(reading)?,
    };
    let format = words.format(|| format!("reading the catalogue entry of {}", path_text(&path)))?;
    let kind: Option<String> = column(row, 14).doing(reading)?;
    let shape: Option<String> = column(row, 17).doing(reading)?;
    let shape = read_shape(shape.as_deref(), || {
        format!("reading the catalogue entry of {}", path_text(&path))
    })?;
    Ok(Entry {
        file_id: column(row, 0).doing(reading)?,
        description: FileDescription {
            path,
            group: column(row, 2).doing(reading)?,
            format,
            table: column(row, 8).doing(reading)?,
            tree: column(row, 15).doing(reading)?,
            schema: None,
            plan: None,
        },
        table: column(row, 7).doing(reading)?,
        attributes: Attributes {
            size: column(row, 9).doing(reading)?,
            mode: column(row, 10).doing(reading)?,
            uid: column(row, 11).doing(reading)?,
            gid: column(row, 12).doing(reading)?,
            modified_ns: column(row, 13).doing(reading)?,
            kind: kind.as_deref().and_then(kind_named),
        },
        rows: column(row, 16).doing(reading)?,
        shape,
    })
}

/// A shape from its text.
pub(super) fn read_shape(
    text: Option<&str>,
    doing: impl FnOnce() -> String,
) -> Result<Shape, SinkError> {
    let next = "use the version of Counterfoil that wrote it, or a later one";
    Shape::parse(text).map_err(|cause| permanent(doing(), cause, next))
}
