//! Reading: one read transaction, so one consistent view, whatever the writer does meanwhile.

use super::apply;
use super::entry::{self, Entry, SELECT_ENTRIES};
use super::error::Doing;
use super::file::Table;
use super::history;
use crate::plan::Mode;
use crate::sql::{permanent, quoted, readable};
use crate::{Image, SinkError, Snapshot, StoredFile, StoredPiece};
use counterfoil_proto::{Position, path_text};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows, Transaction, TransactionBehavior};
use std::ops::Range;

/// A read transaction.
pub(super) struct SqliteSnapshot<'a> {
    transaction: Transaction<'a>,
    place: String,
}

impl<'a> SqliteSnapshot<'a> {
    pub(super) fn open(connection: &'a mut Connection, place: String) -> Result<Self, SinkError> {
        let opening = || "opening a snapshot".to_owned();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .doing(opening)?;
        // The view is of the moment of the first read, so that has to be now.
        transaction
            .query_row("SELECT count(*) FROM counterfoil_position", [], |_| Ok(()))
            .doing(opening)?;
        Ok(SqliteSnapshot { transaction, place })
    }

    fn list_streams(&self) -> Result<Vec<String>, SinkError> {
        self.transaction
            .prepare_cached("SELECT stream FROM counterfoil_position ORDER BY stream")
            .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
            .doing(|| "listing the streams".into())
    }

    fn list_files(&self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let listing = || format!("listing the files of {stream}");
        let sql = format!("{SELECT_ENTRIES} WHERE f.stream = ?1 ORDER BY f.path");
        let mut select = self.transaction.prepare_cached(&sql).doing(listing)?;
        let mut rows = select.query([stream]).doing(listing)?;
        let mut files = Vec::new();
        while let Some(row) = rows.next().doing(listing)? {
            files.push(entry::read(row)?.into());
        }
        Ok(files)
    }

    fn walk(
        &self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let Some(entry) = entry::find(&self.transaction, stream, path)? else {
            return Ok(());
        };
        if !entry.shape.raw {
            return Ok(());
        }
        let place = format!("{} (table {})", path_text(path), entry.table);
        let reading = || format!("reading {place}");
        let identity = quoted(entry.description.format.identity_name());
        let table = quoted(&entry.table);
        let shared = entry.description.tree.is_some();
        // The first parameter is the file's number, whether its rows have one or not.
        let within = format!("?1 IS NOT NULL AND {identity} BETWEEN ?2 AND ?3");
        let Some((first, last)) = readable(&ids) else {
            return Ok(());
        };
        let sql = if shared {
            format!(
                "SELECT {identity}, data, NULL FROM {table} WHERE file_id = ?1 AND {within} ORDER BY {identity}"
            )
        } else if entry.shape.mode == Mode::History {
            let name = entry.description.format.identity_name();
            let own = Table::own(entry.table.clone(), name, entry.shape.clone());
            let is_current = history::is_current(&own, "r");
            format!(
                "SELECT {identity}, data, rest FROM {table} AS r WHERE {is_current} AND {within} ORDER BY {identity}"
            )
        } else {
            format!("SELECT {identity}, data, rest FROM {table} WHERE {within} ORDER BY {identity}")
        };
        let mut records = self.transaction.prepare_cached(&sql).doing(reading)?;
        let mut residue = self
            .transaction
            .prepare_cached(
                "SELECT id, bytes, reason FROM counterfoil_residue WHERE file_id = ?1 AND id BETWEEN ?2 AND ?3 ORDER BY id",
            )
            .doing(reading)?;
        let parameters = [entry.file_id, first, last];
        let mut records = Pieces {
            rows: records.query(parameters).doing(reading)?,
            read: record,
            place: &place,
        };
        let mut residue = Pieces {
            rows: residue.query(parameters).doing(reading)?,
            read: residue_of,
            place: &place,
        };
        let (mut next_record, mut next_residue) = (records.next()?, residue.next()?);
        loop {
            let take_record = match (&next_record, &next_residue) {
                (None, None) => return Ok(()),
                (Some(record), Some(residue)) => record.id <= residue.id,
                (record, _) => record.is_some(),
            };
            let piece = if take_record {
                std::mem::replace(&mut next_record, records.next()?)
            } else {
                std::mem::replace(&mut next_residue, residue.next()?)
            };
            if let Some(piece) = piece
                && !each(piece)
            {
                return Ok(());
            }
        }
    }
}

impl Snapshot for SqliteSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        self.list_streams().map_err(|error| error.at(&self.place))
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        apply::position(&self.transaction, stream).map_err(|error| error.at(&self.place))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        self.list_files(stream)
            .map_err(|error| error.at(&self.place))
    }

    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        match entry::find(&self.transaction, stream, path) {
            Ok(entry) => Ok(entry.map(StoredFile::from)),
            Err(error) => Err(error.at(&self.place)),
        }
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        self.walk(stream, path, ids, each)
            .map_err(|error| error.at(&self.place))
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

/// Rows in order of identity, turned into pieces one at a time.
struct Pieces<'a, 'stmt> {
    rows: Rows<'stmt>,
    read: fn(&Row<'_>) -> Result<Image, Unreadable>,
    place: &'a str,
}

/// A value that nobody but Counterfoil's neighbours can have put there.
enum Unreadable {
    Sqlite(rusqlite::Error),
    NotBytes,
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        Unreadable::Sqlite(error)
    }
}

impl Pieces<'_, '_> {
    fn next(&mut self) -> Result<Option<StoredPiece>, SinkError> {
        let place = self.place;
        let Some(row) = self.rows.next().doing(|| format!("reading {place}"))? else {
            return Ok(None);
        };
        let id: i64 = row.get(0).doing(|| format!("reading {place}"))?;
        let damaged = |cause: &str| {
            permanent(
                format!("reading record {id} of {place}"),
                cause,
                "something other than Counterfoil changed that row: delete it, then have the file read again",
            )
        };
        let image = match (self.read)(row) {
            Ok(image) => image,
            Err(Unreadable::NotBytes) => {
                return Err(damaged("a value in it is a number, not bytes"));
            }
            Err(Unreadable::Sqlite(error)) => {
                return Err(error).doing(|| format!("reading record {id} of {place}"));
            }
        };
        let id = u64::try_from(id).map_err(|_| damaged("its identity is negative"))?;
        Ok(Some(StoredPiece { id, image }))
    }
}

fn record(row: &Row<'_>) -> Result<Image, Unreadable> {
    Ok(Image::Record {
        data: bytes(row.get_ref(1)?)?,
        rest: bytes(row.get_ref(2)?)?,
    })
}

fn residue_of(row: &Row<'_>) -> Result<Image, Unreadable> {
    Ok(Image::Residue {
        bytes: bytes(row.get_ref(1)?)?,
        reason: row.get(2)?,
    })
}

/// Text is taken as bytes: an `UPDATE` by hand easily makes text of them.
fn bytes(value: ValueRef<'_>) -> Result<Vec<u8>, Unreadable> {
    match value {
        ValueRef::Null => Ok(Vec::new()),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes.to_vec()),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(Unreadable::NotBytes),
    }
}
