//! Reading: one read transaction, so one consistent view, whatever writers do meanwhile.

use super::apply::{self, Lock};
use super::entry::{self, Entry};
use super::error::Doing;
use super::history::is_current;
use super::schema::rows_table;
use super::session::{Session, column};
use crate::plan::Mode;
use crate::{Image, SinkError, Snapshot, StoredFile, StoredPiece};
use counterfoil_proto::{Position, path_text};
use mysql_async::{Error, Row, Value};
use std::collections::VecDeque;
use std::ops::Range;
use tokio::runtime::Runtime;

/// Rows that are asked for at once. They are read one by one; when a reader has seen enough, the rest is dropped.
const PAGE_ROWS: usize = 4096;

/// Pieces of residue that are held at once, and bytes of them.
const RESIDUE_PAGE_ROWS: usize = 1024;
const RESIDUE_PAGE_BYTES: usize = 4 << 20;

/// A read transaction.
pub(super) struct MysqlSnapshot<'a> {
    runtime: &'a Runtime,
    session: &'a mut Session,
    select_entries: &'static str,
    place: &'a str,
}

/// Begins it. From here on nothing is dropped that was there; see `structure`.
pub(super) async fn begin(session: &mut Session) -> Result<(), SinkError> {
    let opening = || "opening a snapshot".to_owned();
    session
        .text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await
        .doing(opening)?;
    session
        .text("START TRANSACTION READ ONLY")
        .await
        .doing(opening)?;
    // The view is of the moment of the first read, and that is after this table is locked: so whoever finds it unlocked
    // later has no snapshot to mind that is older.
    session
        .text("SELECT * FROM counterfoil_readers")
        .await
        .doing(opening)
}

impl<'a> MysqlSnapshot<'a> {
    /// A snapshot that has begun.
    pub(super) fn new(
        runtime: &'a Runtime,
        session: &'a mut Session,
        select_entries: &'static str,
        place: &'a str,
    ) -> Self {
        MysqlSnapshot {
            runtime,
            session,
            select_entries,
            place,
        }
    }
}

impl Drop for MysqlSnapshot<'_> {
    fn drop(&mut self) {
        if !self.session.is_broken() {
            // If it can't be ended, the connection is useless, and says so.
            let _ = self.runtime.block_on(self.session.text("ROLLBACK"));
        }
    }
}

impl Snapshot for MysqlSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        let listing = || "listing the streams".to_owned();
        let rows = self
            .runtime
            .block_on(
                self.session
                    .rows("SELECT stream FROM counterfoil_position", ()),
            )
            .doing(listing);
        let streams = rows.and_then(|rows| {
            let mut streams = rows
                .iter()
                .map(|row| column::<String>(row, 0))
                .collect::<Result<Vec<_>, _>>()
                .doing(listing)?;
            streams.sort();
            Ok(streams)
        });
        streams.map_err(|error| error.at(self.place))
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        self.runtime
            .block_on(apply::position(self.session, stream, Lock::None))
            .map_err(|error| error.at(self.place))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let sql = format!("{} WHERE f.stream = ?", self.select_entries);
        let rows = self
            .runtime
            .block_on(self.session.rows(&sql, (stream,)))
            .doing(|| format!("listing the files of {stream}"));
        let files = rows.and_then(|rows| {
            let mut files = rows
                .iter()
                .map(|row| entry::read(row).map(StoredFile::from))
                .collect::<Result<Vec<_>, _>>()?;
            // Not by the server, which looks at the first kilobyte alone.
            files.sort_by(|a, b| a.description.path.cmp(&b.description.path));
            Ok(files)
        });
        files.map_err(|error| error.at(self.place))
    }

    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        match self
            .runtime
            .block_on(entry::find(self.session, self.select_entries, stream, path))
        {
            Ok(entry) => Ok(entry.map(StoredFile::from)),
            Err(error) => Err(error.at(self.place)),
        }
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        self.runtime
            .block_on(walk(
                self.session,
                self.select_entries,
                (stream, path),
                ids,
                each,
            ))
            .map_err(|error| error.at(self.place))
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

/// A connection gives one result at a time, so residue, of which there is little, is read a page at a time, and the
/// records between go by.
async fn walk(
    session: &mut Session,
    select_entries: &str,
    (stream, path): (&str, &[u8]),
    ids: Range<u64>,
    each: &mut dyn FnMut(StoredPiece) -> bool,
) -> Result<(), SinkError> {
    let Some(entry) = entry::find(session, select_entries, stream, path).await? else {
        return Ok(());
    };
    if !entry.shape.raw {
        return Ok(());
    }
    let place = format!("{} (table {})", path_text(path), entry.table);
    let mut records = Records::new(&entry, ids.start);
    let mut residue_from = Some(ids.start);
    let all = (ids.end != u64::MAX).then_some(ids.end);
    while let Some(from) = residue_from {
        let page = residue(session, entry.file_id, from..ids.end, &place).await?;
        residue_from = page.next;
        if !records
            .walk(session, page.pieces, page.next.or(all), &place, each)
            .await?
        {
            return Ok(());
        }
    }
    Ok(())
}

struct ResiduePage {
    pieces: VecDeque<StoredPiece>,
    /// Where the next one begins, if there may be one.
    next: Option<u64>,
}

async fn residue(
    session: &mut Session,
    file_id: u64,
    ids: Range<u64>,
    place: &str,
) -> Result<ResiduePage, SinkError> {
    let reading = || format!("reading residue of {place}");
    let sql = format!(
        "SELECT id, bytes, reason FROM counterfoil_residue WHERE file_id = ? AND id >= ? AND id < ? ORDER BY id LIMIT {RESIDUE_PAGE_ROWS}"
    );
    let mut pieces = VecDeque::new();
    let mut bytes_held = 0;
    let walked = session
        .walk(
            &sql,
            (file_id, ids.start, ids.end),
            |row| -> Result<bool, Error> {
                let bytes: Vec<u8> = column(&row, 1)?;
                bytes_held += bytes.len();
                pieces.push_back(StoredPiece {
                    id: column(&row, 0)?,
                    image: Image::Residue {
                        bytes,
                        reason: column(&row, 2)?,
                    },
                });
                Ok(bytes_held < RESIDUE_PAGE_BYTES)
            },
        )
        .await
        .doing(reading)?;
    let all = walked.doing(reading)? && pieces.len() < RESIDUE_PAGE_ROWS;
    let next = match pieces.back() {
        Some(last) if !all => last.id.checked_add(1),
        _ => None,
    };
    Ok(ResiduePage { pieces, next })
}

/// The records of a file, in order of identity.
struct Records {
    /// Without the end of the range.
    sql: String,
    of_file: Option<u64>,
    /// The first identity that wasn't seen yet; `None`: all were.
    from: Option<u64>,
}

impl Records {
    fn new(entry: &Entry, from: u64) -> Records {
        let shared = entry.description.tree.is_some();
        let table = rows_table(entry.rows);
        let (rest, condition) = match (shared, entry.shape.mode) {
            (true, _) => ("NULL", "file_id = ? AND ".to_owned()),
            (false, Mode::Mirror) => ("rest", String::new()),
            (false, Mode::History) => ("rest", format!("{} AND ", is_current(&table, "h"))),
        };
        Records {
            sql: format!("SELECT id, data, {rest} FROM {table} AS h WHERE {condition}id >= ?"),
            of_file: shared.then_some(entry.file_id),
            from: Some(from),
        }
    }

    /// Hands over the records that come before `end` (all, if `None`), and with them this residue, which does too.
    /// `false` when the reader has seen enough.
    async fn walk(
        &mut self,
        session: &mut Session,
        mut residue: VecDeque<StoredPiece>,
        end: Option<u64>,
        place: &str,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<bool, SinkError> {
        let reading = || format!("reading {place}");
        let until = if end.is_some() { " AND id < ?" } else { "" };
        let sql = format!("{}{until} ORDER BY id LIMIT {PAGE_ROWS}", self.sql);
        while let Some(from) = self.from {
            let params: Vec<Value> = self
                .of_file
                .into_iter()
                .chain([from])
                .chain(end)
                .map(Value::from)
                .collect();
            let mut seen = 0;
            let mut last = from;
            let walked = session
                .walk(&sql, params, |row| -> Result<bool, Error> {
                    let id: u64 = column(&row, 0)?;
                    while residue.front().is_some_and(|piece| piece.id < id) {
                        if let Some(piece) = residue.pop_front()
                            && !each(piece)
                        {
                            return Ok(false);
                        }
                    }
                    seen += 1;
                    last = id;
                    Ok(each(StoredPiece {
                        id,
                        image: Image::Record {
                            data: bytes(&row, 1)?,
                            rest: bytes(&row, 2)?,
                        },
                    }))
                })
                .await
                .doing(reading)?;
            if !walked.doing(reading)? {
                return Ok(false);
            }
            if seen < PAGE_ROWS {
                break;
            }
            self.from = last.checked_add(1);
        }
        // What comes next begins there.
        self.from = self.from.and(end);
        Ok(residue.into_iter().all(each))
    }
}

/// NULL, which is no rest, counts as none.
fn bytes(row: &Row, index: usize) -> Result<Vec<u8>, Error> {
    Ok(column::<Option<Vec<u8>>>(row, index)?.unwrap_or_default())
}
