//! A row of `counterfoil_files`.

use super::columns::Columns;
use super::dialect::{Rows, Sql};
use super::error::Doing;
use super::session::{Kind, Row, Session, Value};
use crate::plan::Shape;
use crate::sql::{FormatWords, kind_named, permanent, unsigned};
use crate::{Attributes, FileDescription, SinkError, StoredFile};
use counterfoil_proto::path_text;
use std::sync::Arc;
use twox_hash::XxHash3_128;

/// What [`read`] reads, in its order; a condition on `f`, the catalogue, goes behind.
const SELECT: &str = "SELECT f.file_id, f.path, f.file_group, f.organization, f.layout, f.record_size, f.varseq_format, \
         f.table_name, f.table_configured, f.file_size, f.file_mode, f.owner_uid, f.owner_gid, f.modified_ns, f.file_kind, \
         f.rows_table, t.root, t.table_name, t.table_configured, t.rows_table, f.shape \
     FROM {files} f LEFT JOIN {trees} t ON t.tree_id = f.tree_id WHERE f.stream = ?";

const KINDS: [Kind; 21] = [
    Kind::Number,
    Kind::Bytes,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Text,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Number,
    Kind::Bytes,
    Kind::Text,
    Kind::Text,
    Kind::Number,
    Kind::Text,
];

/// A row of the catalogue.
pub(super) struct Entry {
    pub(super) file_id: i64,
    pub(super) description: FileDescription,
    /// The view.
    pub(super) table: String,
    pub(super) attributes: Attributes,
    /// Of the table with the rows.
    pub(super) number: i64,
    pub(super) shape: Shape,
}

impl Entry {
    /// The file's rows.
    pub(super) fn rows(&self, sql: &Sql) -> Rows {
        let is_shared = self.description.tree.is_some();
        Rows {
            number: self.number,
            file_id: is_shared.then_some(self.file_id),
            columns: Arc::new(match is_shared {
                true => Columns::shared(),
                false => Columns::of(&self.shape, sql),
            }),
        }
    }
}

impl From<Entry> for StoredFile {
    fn from(entry: Entry) -> StoredFile {
        StoredFile {
            description: entry.description,
            table: entry.table,
            attributes: entry.attributes,
            shape: entry.shape,
        }
    }
}

/// What a path is looked up by, for an index takes no path of any length. Two paths may have the same.
pub(super) fn hash(path: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(path))
}

/// The entries of a stream, in no order.
pub(super) fn all(session: &mut Session, stream: &str) -> Result<Vec<Entry>, SinkError> {
    let listing = || format!("listing the files of {stream}");
    let select = session.sql.own(SELECT);
    let rows = session
        .rows(&select, &[Value::Text(Some(stream))], &KINDS)
        .doing(listing)?;
    rows.into_iter().map(read).collect()
}

/// The entries of the files with these paths, as far as there are such; a few more may be among them.
pub(super) fn find(
    session: &mut Session,
    stream: &str,
    paths: &[&[u8]],
) -> Result<Vec<Entry>, SinkError> {
    let looking = || match paths {
        [path] => format!("looking up {}", path_text(path)),
        _ => "looking up files".to_owned(),
    };
    let markers = vec!["?"; paths.len()].join(", ");
    let select = session
        .sql
        .own(&format!("{SELECT} AND f.path_hash IN ({markers})"));
    let hashes: Vec<String> = paths.iter().map(|path| hash(path)).collect();
    let values: Vec<Value<'_>> = std::iter::once(stream)
        .chain(hashes.iter().map(String::as_str))
        .map(|text| Value::Text(Some(text)))
        .collect();
    let rows = session.rows(&select, &values, &KINDS).doing(looking)?;
    rows.into_iter().map(read).collect()
}

/// The entry of the file with this path, if there is one.
pub(super) fn find_one(
    session: &mut Session,
    stream: &str,
    path: &[u8],
) -> Result<Option<Entry>, SinkError> {
    let entries = find(session, stream, &[path])?;
    Ok(entries
        .into_iter()
        .find(|entry| entry.description.path == path))
}

fn read(mut row: Row) -> Result<Entry, SinkError> {
    let reading = || "reading the catalogue of files".to_owned();
    let file_id = row.known_number(0).doing(reading)?;
    let path = row.bytes(1);
    let words = FormatWords {
        organization: row.text(3).unwrap_or_default(),
        layout: row.text(4).unwrap_or_default(),
        record_size: row.number(5),
        varseq_format: row.number(6),
    };
    let format = words.format(|| format!("reading the catalogue entry of {}", path_text(&path)))?;
    let small = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let attributes = Attributes {
        size: unsigned(row.known_number(9).doing(reading)?),
        kind: row.text(14).as_deref().and_then(kind_named),
        mode: small(row.number(10)),
        uid: small(row.number(11)),
        gid: small(row.number(12)),
        modified_ns: row.number(13),
    };
    // What all files of a tree have in common is the tree's.
    let of_tree = row.number(19);
    let (table, configured) = match of_tree {
        Some(_) => (row.text(17), row.text(18)),
        None => (row.text(7), row.text(8)),
    };
    let number = match of_tree {
        Some(number) => number,
        None => row.known_number(15).doing(reading)?,
    };
    let shape = Shape::parse(row.text(20).as_deref()).map_err(|problem| {
        permanent(
            format!("reading the catalogue entry of {}", path_text(&path)),
            problem,
            "use the version of Counterfoil that wrote it, or a later one",
        )
    })?;
    Ok(Entry {
        file_id,
        description: FileDescription {
            path,
            group: row.text(2).unwrap_or_default(),
            format,
            table: configured,
            tree: of_tree.map(|_| row.bytes(16)),
            schema: None,
            plan: None,
        },
        table: table.unwrap_or_default(),
        attributes,
        number,
        shape,
    })
}
