//! Reading: one read transaction, so one consistent view, whatever writers do meanwhile.

use super::apply;
use super::dialect::{Dialect, Rows};
use super::entry;
use super::error::{Doing, Fault};
use super::session::{Kind, Session, Value};
use crate::sql::{bounds, unsigned};
use crate::{Image, SinkError, Snapshot, StoredFile, StoredPiece};
use counterfoil_proto::{Position, path_text};
use std::collections::VecDeque;
use std::ops::Range;

/// Rows that are asked for at once: few first, then as many as have about so many bytes.
const PAGE_ROWS_FIRST: usize = 64;
const PAGE_ROWS_MAX: usize = 4096;
const PAGE_BYTES: usize = 4 << 20;

/// Pieces of residue that are held at once, and bytes of them.
const RESIDUE_PAGE_ROWS: usize = 256;
const RESIDUE_PAGE_BYTES: usize = 4 << 20;

/// A read transaction.
pub(super) struct OdbcSnapshot<'a> {
    session: &'a mut Session,
    place: &'a str,
}

/// Begins it.
pub(super) fn begin(session: &mut Session) -> Result<(), SinkError> {
    let opening = || "opening a snapshot".to_owned();
    session
        .isolate(session.sql.dialect.reading())
        .doing(opening)?;
    // The view is of the moment of the first read, so that has to be now.
    let select = session.sql.own("SELECT COUNT(*) FROM {position}");
    session
        .first(&select, &[], &[Kind::Number])
        .doing(opening)?;
    Ok(())
}

impl<'a> OdbcSnapshot<'a> {
    /// A snapshot that has begun.
    pub(super) fn new(session: &'a mut Session, place: &'a str) -> Self {
        OdbcSnapshot { session, place }
    }

    fn list_streams(&mut self) -> Result<Vec<String>, SinkError> {
        let select = self.session.sql.own("SELECT stream FROM {position}");
        let rows = self
            .session
            .rows(&select, &[], &[Kind::Text])
            .doing(|| "listing the streams".into())?;
        let mut streams: Vec<String> = rows.into_iter().filter_map(|mut row| row.text(0)).collect();
        streams.sort();
        Ok(streams)
    }

    fn list_files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let entries = entry::all(self.session, stream)?;
        let mut files: Vec<StoredFile> = entries.into_iter().map(StoredFile::from).collect();
        // Not by the database: not all of them sort bytes of any length.
        files.sort_by(|a, b| a.description.path.cmp(&b.description.path));
        Ok(files)
    }

    fn walk(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let Some(entry) = entry::find_one(self.session, stream, path)? else {
            return Ok(());
        };
        let place = format!("{} (table {})", path_text(path), entry.table);
        if !entry.shape.raw {
            return Ok(());
        }
        let Some((first, _)) = bounds(&ids) else {
            return Ok(());
        };
        // A page may go on behind the end.
        let each = &mut |piece: StoredPiece| piece.id < ids.end && each(piece);
        let mut records = Records {
            rows: entry.rows(&self.session.sql),
            page_rows: PAGE_ROWS_FIRST,
            next: Some(first),
            page: VecDeque::new(),
            bytes: 0,
        };
        let mut from = Some(first);
        // A connection gives one result at a time, so both are read a page at a time.
        while let Some(begin) = from {
            let page = residue(self.session, entry.file_id, begin)
                .doing(|| format!("reading residue of {place}"))?;
            from = page.next;
            if !records
                .walk(self.session, page, each)
                .doing(|| format!("reading {place}"))?
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Drop for OdbcSnapshot<'_> {
    fn drop(&mut self) {
        // If it can't be ended, the connection is useless, and says so.
        if self
            .session
            .isolate(self.session.sql.dialect.writing())
            .is_err()
        {
            self.session.spoil();
        }
    }
}

impl Snapshot for OdbcSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        self.list_streams().map_err(|error| error.at(self.place))
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        apply::position(self.session, stream).map_err(|error| error.at(self.place))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        self.list_files(stream)
            .map_err(|error| error.at(self.place))
    }

    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        match entry::find_one(self.session, stream, path) {
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
        self.walk(stream, path, ids, each)
            .map_err(|error| error.at(self.place))
    }
}

struct ResiduePage {
    pieces: VecDeque<StoredPiece>,
    /// Where the next one begins, if there may be one.
    next: Option<i64>,
}

fn residue(session: &mut Session, file_id: i64, from: i64) -> Result<ResiduePage, Fault> {
    let select = session.sql.residue_page(RESIDUE_PAGE_ROWS);
    let values = [Value::Number(Some(file_id)), Value::Number(Some(from))];
    let kinds = [Kind::Number, Kind::Bytes, Kind::Text];
    let mut pieces = VecDeque::new();
    let mut bytes_held = 0;
    let mut last = None;
    session.walk(&select, &values, &kinds, |mut row| {
        let Some(id) = row.number(0) else {
            return true;
        };
        let bytes = row.bytes(1);
        bytes_held += bytes.len();
        last = Some(id);
        pieces.push_back(StoredPiece {
            id: unsigned(id),
            image: Image::Residue {
                bytes,
                reason: row.text(2).unwrap_or_default(),
            },
        });
        bytes_held < RESIDUE_PAGE_BYTES && pieces.len() < RESIDUE_PAGE_ROWS
    })?;
    let may_be_more = bytes_held >= RESIDUE_PAGE_BYTES || pieces.len() >= RESIDUE_PAGE_ROWS;
    let next = last
        .filter(|_| may_be_more)
        .and_then(|last| last.checked_add(1));
    Ok(ResiduePage { pieces, next })
}

/// The records of a file, in order of identity.
struct Records {
    rows: Rows,
    page_rows: usize,
    /// Where the next page begins; `None`: there is none.
    next: Option<i64>,
    /// What is read and wasn't handed over yet.
    page: VecDeque<StoredPiece>,
    bytes: usize,
}

impl Records {
    /// Hands over this residue, and the records that come before the next page of it. `false` when the reader has seen
    /// enough.
    fn walk(
        &mut self,
        session: &mut Session,
        mut residue: ResiduePage,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<bool, Fault> {
        loop {
            if self.page.is_empty() && self.next.is_some() {
                self.read(session)?;
            }
            let record = self.page.front().map(|piece| piece.id);
            let end = residue.pieces.front().map(|piece| piece.id);
            let piece = match (record, end) {
                (Some(id), Some(end)) if id < end => self.page.pop_front(),
                (_, Some(_)) => residue.pieces.pop_front(),
                // What comes next may be residue.
                (Some(id), None) if residue.next.is_some_and(|next| id >= unsigned(next)) => {
                    return Ok(true);
                }
                (Some(_), None) => self.page.pop_front(),
                (None, None) => return Ok(true),
            };
            if let Some(piece) = piece
                && !each(piece)
            {
                return Ok(false);
            }
        }
    }

    fn read(&mut self, session: &mut Session) -> Result<(), Fault> {
        let Some(from) = self.next.take() else {
            return Ok(());
        };
        let select = session.sql.page(&self.rows, self.page_rows);
        let kinds = [Kind::Number, Kind::Bytes, Kind::Bytes];
        let kinds = match self.rows.file_id {
            Some(_) => &kinds[..2],
            None => &kinds[..],
        };
        let is_limited = session.sql.dialect != Dialect::Generic;
        let rows_max = self.page_rows;
        let mut last = None;
        self.bytes = 0;
        session.walk(&select, &[Value::Number(Some(from))], kinds, |mut row| {
            let Some(id) = row.number(0) else {
                return true;
            };
            let (data, rest) = (row.bytes(1), row.bytes(2));
            self.bytes += data.len() + rest.len();
            last = Some(id);
            self.page.push_back(StoredPiece {
                id: unsigned(id),
                image: Image::Record { data, rest },
            });
            self.page.len() < rows_max && (is_limited || self.bytes < PAGE_BYTES)
        })?;
        let is_full = self.page.len() >= rows_max || (!is_limited && self.bytes >= PAGE_BYTES);
        self.next = last
            .filter(|_| is_full)
            .and_then(|last| last.checked_add(1));
        let bytes_a_row = self.bytes / self.page.len().max(1) + 1;
        self.page_rows = (PAGE_BYTES / bytes_a_row)
            .min(self.page_rows.saturating_mul(4))
            .clamp(1, PAGE_ROWS_MAX);
        Ok(())
    }
}
