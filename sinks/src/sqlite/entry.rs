//! A row of `counterfoil_files`.

use super::error::{Doing, permanent};
use super::schema::integer;
use crate::{Attributes, FileDescription, FileKind, SinkError};
use counterfoil_proto::path_text;
use counterfoil_records::RecordFormat;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::{Map, Value};

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
pub(super) const SELECT_ENTRIES: &str = "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format, \
         f.table_name, CASE WHEN f.tree_id IS NULL THEN f.table_configured ELSE t.table_configured END, \
         f.size, f.mode, f.uid, f.gid, f.modified_ns, f.kind, t.root \
     FROM counterfoil_files AS f LEFT JOIN counterfoil_trees AS t ON t.tree_id = f.tree_id";

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: i64,
    pub(super) description: FileDescription,
    pub(super) table: String,
    pub(super) attributes: Attributes,
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
    let mut format = Map::new();
    for (column, key) in [
        (3, "organization"),
        (4, "layout"),
        (5, "record_size"),
        (6, "varseq_format"),
    ] {
        match row.get_ref(column).doing(reading)? {
            ValueRef::Text(text) => {
                format.insert(
                    key.into(),
                    Value::String(String::from_utf8_lossy(text).into_owned()),
                );
            }
            ValueRef::Integer(number) => {
                format.insert(key.into(), Value::from(number));
            }
            _ => {}
        }
    }
    let format: RecordFormat = serde_json::from_value(Value::Object(format)).map_err(|error| {
        permanent(
            format!("reading the catalogue entry of {}", path_text(&path)),
            format!("the format in it is not one that this version knows: {error}"),
            "use the version of Counterfoil that wrote it",
        )
    })?;
    let size: i64 = row.get(9).doing(reading)?;
    let kind: Option<String> = row.get(14).doing(reading)?;
    let kind = kind.and_then(|name| FileKind::ALL.into_iter().find(|kind| kind.name() == name));
    Ok(Entry {
        file_id: row.get(0).doing(reading)?,
        description: FileDescription {
            path,
            group: row.get(2).doing(reading)?,
            format,
            table: row.get(8).doing(reading)?,
            tree: row.get(15).doing(reading)?,
            schema: None,
        },
        table: row.get(7).doing(reading)?,
        attributes: Attributes {
            size: u64::try_from(size).unwrap_or_default(),
            mode: row.get(10).doing(reading)?,
            uid: row.get(11).doing(reading)?,
            gid: row.get(12).doing(reading)?,
            modified_ns: row.get(13).doing(reading)?,
            kind,
        },
    })
}

/// A format as the catalogue has it: the words that a configuration uses.
pub(super) struct FormatColumns {
    pub(super) organization: Box<dyn ToSql>,
    pub(super) layout: Box<dyn ToSql>,
    pub(super) record_size: Box<dyn ToSql>,
    pub(super) varseq_format: Box<dyn ToSql>,
}

pub(super) fn format_columns(format: &RecordFormat) -> Result<FormatColumns, SinkError> {
    let describing = || "describing a record format".to_owned();
    let value = serde_json::to_value(format).map_err(|error| {
        permanent(
            describing(),
            error.to_string(),
            "report this: it is a fault of Counterfoil",
        )
    })?;
    let column = |key: &str| -> Result<Box<dyn ToSql>, SinkError> {
        Ok(match value.get(key) {
            Some(Value::String(text)) => Box::new(text.clone()),
            Some(Value::Number(number)) => {
                Box::new(integer(number.as_u64().unwrap_or_default(), describing)?)
            }
            _ => Box::new(None::<i64>),
        })
    };
    Ok(FormatColumns {
        organization: column("organization")?,
        layout: column("layout")?,
        record_size: column("record_size")?,
        varseq_format: column("varseq_format")?,
    })
}
