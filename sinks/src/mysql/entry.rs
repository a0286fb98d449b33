//! A row of `counterfoil_files`.

use super::error::{Doing, permanent};
use super::session::{Session, column};
use crate::{Attributes, FileDescription, FileKind, SinkError};
use counterfoil_proto::path_text;
use counterfoil_records::RecordFormat;
use mysql_async::{Row, Value};
use serde_json::Map;

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
pub(super) const SELECT_ENTRIES: &str = "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format, \
         COALESCE(t.table_name, f.table_name), \
         CASE WHEN f.tree_id IS NULL THEN f.table_configured ELSE t.table_configured END, \
         f.size, f.mode, f.uid, f.gid, f.modified_ns, f.kind, t.root, COALESCE(t.rows_table, f.rows_table) \
     FROM counterfoil_files AS f LEFT JOIN counterfoil_trees AS t ON t.tree_id = f.tree_id";

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: u64,
    pub(super) description: FileDescription,
    /// The view.
    pub(super) table: String,
    pub(super) attributes: Attributes,
    /// The number of the table with the rows.
    pub(super) rows: u64,
}

/// The entry of the file with this path, if there is one.
pub(super) async fn find(
    session: &mut Session,
    stream: &str,
    path: &[u8],
) -> Result<Option<Entry>, SinkError> {
    let sql = format!("{SELECT_ENTRIES} WHERE f.stream = ? AND f.path_hash = UNHEX(SHA2(?, 256))");
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
    let mut format = Map::new();
    for (index, key) in [(3, "organization"), (4, "layout")] {
        let text: String = column(row, index).doing(reading)?;
        format.insert(key.into(), text.into());
    }
    for (index, key) in [(5, "record_size"), (6, "varseq_format")] {
        if let Some(number) = column::<Option<u64>>(row, index).doing(reading)? {
            format.insert(key.into(), number.into());
        }
    }
    let format: RecordFormat = serde_json::from_value(format.into()).map_err(|error| {
        permanent(
            format!("reading the catalogue entry of {}", path_text(&path)),
            format!("the format in it is not one that this version knows: {error}"),
            "use the version of Counterfoil that wrote it",
        )
    })?;
    let kind: Option<String> = column(row, 14).doing(reading)?;
    let kind = kind.and_then(|name| FileKind::ALL.into_iter().find(|kind| kind.name() == name));
    Ok(Entry {
        file_id: column(row, 0).doing(reading)?,
        description: FileDescription {
            path,
            group: column(row, 2).doing(reading)?,
            format,
            table: column(row, 8).doing(reading)?,
            tree: column(row, 15).doing(reading)?,
        },
        table: column(row, 7).doing(reading)?,
        attributes: Attributes {
            size: column(row, 9).doing(reading)?,
            mode: column(row, 10).doing(reading)?,
            uid: column(row, 11).doing(reading)?,
            gid: column(row, 12).doing(reading)?,
            modified_ns: column(row, 13).doing(reading)?,
            kind,
        },
        rows: column(row, 16).doing(reading)?,
    })
}

/// Organisation, layout, record size and variant, as the catalogue has them: the words that a configuration uses.
pub(super) fn format_columns(format: &RecordFormat) -> Result<[Value; 4], SinkError> {
    let value = serde_json::to_value(format).map_err(|error| {
        permanent(
            "describing a record format",
            error.to_string(),
            "report this: it is a fault of Counterfoil",
        )
    })?;
    Ok(
        ["organization", "layout", "record_size", "varseq_format"].map(|key| {
            match value.get(key) {
                Some(serde_json::Value::String(text)) => Value::from(text.as_str()),
                Some(serde_json::Value::Number(number)) => Value::from(number.as_u64()),
                _ => Value::NULL,
            }
        }),
    )
}
