//! Records and residue: how images become rows.

use super::catalogue::File;
use super::cells::{self, Fields};
use super::error::{Doing, has_code};
use super::session::{Parameters, Session};
use super::table::{DELETE, PUT, Table};
use crate::plan::{CellRoom, Plan};
use crate::sql::{bounds, integer, permanent};
use crate::{FileChanges, Image, SinkError};
use bytes::{BufMut as _, Bytes, BytesMut};
use counterfoil_proto::path_text;
use futures_util::SinkExt as _;
use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use tokio_postgres::error::SqlState;

/// A statement takes so many rows at most,
const ROWS_MAX: usize = 16_384;
/// and so many bytes, unless one row alone has more.
const BYTES_MAX: usize = 8 << 20;

/// From so many new rows on, `COPY` is worth its further exchange with the server.
pub(super) const COPY_MIN: usize = 64;
/// Bytes of a `COPY` that are sent at a time.
const COPY_BYTES: usize = 256 << 10;

/// What a record may have at most, in bytes.
pub(super) const RECORD_BYTES_MAX: usize = 1_000_000_000;

/// What a binary `COPY` begins with: signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A row to be written.
#[derive(Clone, Copy)]
pub(super) struct Row<'b> {
    pub(super) id: i64,
    /// `None`: the record is gone, as a history says it.
    pub(super) data: Option<&'b [u8]>,
    pub(super) rest: Option<&'b [u8]>,
    /// In a history: which change this is.
    pub(super) change: Moment,
}

/// When a change was: its position, and its capture in microseconds as PostgreSQL counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    pub(super) epoch: i64,
    pub(super) lsn: i64,
    pub(super) index: i64,
    pub(super) captured_us: i64,
}

/// Writes rows of a table into fields.
pub(super) struct Writer<'t> {
    pub(super) table: &'t Table,
    pub(super) plan: Option<&'t Plan>,
    pub(super) room: CellRoom,
}

impl<'t> Writer<'t> {
    pub(super) fn new(table: &'t Table, plan: Option<&'t Plan>) -> Writer<'t> {
        Writer {
            table,
            plan,
            room: CellRoom::default(),
        }
    }

    /// Writes a row's fields, in the order of the table's columns.
    fn write(&mut self, row: &Row<'_>, fields: &mut Fields) -> Result<(), SinkError> {
        let shape = &self.table.shape;
        let mut next = 0;
        let mut column = || {
            next += 1;
            next - 1
        };
        cells::put_i64(row.id, fields.at(column()));
        if self.table.is_history() {
            let change = row.change;
            for number in [change.epoch, change.lsn, change.index] {
                cells::put_i64(number, fields.at(column()));
            }
            let op = if row.data.is_some() { PUT } else { DELETE };
            cells::put_bytes(op.as_bytes(), fields.at(column()));
            cells::put_i64(change.captured_us, fields.at(column()));
        }
        if shape.raw {
            put_field(fields.at(column()), row.data);
            put_field(fields.at(column()), row.rest);
        }
        let mut misfit = None;
        let mut columns = shape.columns.iter();
        let mut problem = None;
        if let (Some(plan), Some(data)) = (self.plan, row.data) {
            problem = plan.cells(data, false, &mut self.room, &mut |value| {
                if let Some(planned) = columns.next()
                    && let Err(wrong) = cells::put(planned.kind, &value, fields.at(column()))
                {
                    misfit = Some((&planned.name, wrong));
                }
            });
        }
        for _ in columns {
            cells::put_null(fields.at(column()));
        }
        if shape.decoded {
            put_field(fields.at(column()), problem.as_deref().map(str::as_bytes));
        }
        fields.rows += 1;
        match misfit {
            None => Ok(()),
            Some((name, wrong)) => Err(permanent(
                format!("writing record {} into {}", row.id, self.table.place),
                format!(
                    "a {} was to go into column {name}, which holds {}",
                    wrong.0, wrong.1
                ),
                "report this: it is a fault of Counterfoil",
            )),
        }
    }
}

/// Rows for the tables of trees, which many files share: they are written together.
#[derive(Default)]
pub(super) struct Pending<'b> {
    tables: HashMap<String, (Arc<Table>, Vec<Block<'b>>)>,
    bytes: usize,
    count: usize,
}

/// A block of a tree's file.
struct Block<'b> {
    file_id: i64,
    id: i64,
    data: &'b [u8],
}

impl<'b> Pending<'b> {
    async fn add(
        &mut self,
        session: &mut Session,
        table: &Arc<Table>,
        block: Block<'b>,
    ) -> Result<(), SinkError> {
        self.bytes += block.data.len();
        self.count += 1;
        self.tables
            .entry(table.name.clone())
            .or_insert_with(|| (Arc::clone(table), Vec::new()))
            .1
            .push(block);
        if self.bytes >= BYTES_MAX || self.count >= ROWS_MAX {
            self.flush(session).await?;
        }
        Ok(())
    }

    /// Writes what is waiting.
    pub(super) async fn flush(&mut self, session: &mut Session) -> Result<(), SinkError> {
        for (_, (table, mut blocks)) in self.tables.drain() {
            // A statement can't write a row twice: the later one holds.
            blocks.reverse();
            blocks.sort_by_key(|block| (block.file_id, block.id));
            blocks.dedup_by_key(|block| (block.file_id, block.id));
            let files: Vec<i64> = blocks.iter().map(|block| block.file_id).collect();
            let ids: Vec<i64> = blocks.iter().map(|block| block.id).collect();
            let data: Vec<&[u8]> = blocks.iter().map(|block| block.data).collect();
            session
                .execute(&table.upsert, &[&files, &ids, &data])
                .await
                .doing(|| format!("writing {} blocks into table {}", blocks.len(), table.name))?;
        }
        self.bytes = 0;
        self.count = 0;
        Ok(())
    }
}

/// Deletes the rows and the residue of a range of identities. Of a history the residue alone: its rows follow its log.
pub(super) async fn clear(
    session: &mut Session,
    file: &mut File,
    range: &Range<u64>,
) -> Result<(), SinkError> {
    // There is nothing beyond what a bigint holds.
    let Some((begin, last)) = bounds(range) else {
        return Ok(());
    };
    let place = file.place();
    let clearing = || format!("clearing {}..{} of {place}", range.start, range.end);
    let is_known_empty = file.last_id.is_some_and(|last_id| begin > last_id);
    if !is_known_empty && !file.table.is_history() {
        let sql = &file.table.delete_range;
        if file.table.is_shared {
            session.execute(sql, &[&begin, &last, &file.file_id]).await
        } else {
            session.execute(sql, &[&begin, &last]).await
        }
        .doing(clearing)?;
    }
    // The rows of others come and go by other ways: a tree's blocks wait, and a history has its log.
    if last == i64::MAX && !file.table.is_shared && !file.table.is_history() {
        file.last_id = match file.last_id {
            Some(last_id) => Some(last_id.min(begin - 1)),
            None if begin == 0 => Some(-1),
            None => None,
        };
    }
    if file.has_residue {
        let sql = format!(
            "DELETE FROM {} WHERE file_id = $1 AND id BETWEEN $2 AND $3",
            session.name("counterfoil_residue")
        );
        session
            .execute(&sql, &[&file.file_id, &begin, &last])
            .await
            .doing(clearing)?;
        if (begin, last) == (0, i64::MAX) {
            file.has_residue = false;
        }
    }
    Ok(())
}

/// Writes the last images of a file. Of a history the residue alone: its rows follow its log.
pub(super) async fn write<'b>(
    session: &mut Session,
    pending: &mut Pending<'b>,
    file: &mut File,
    changes: &'b FileChanges,
) -> Result<(), SinkError> {
    if changes.images.is_empty() {
        return Ok(());
    }
    let mut records = Vec::new();
    // Identities without a record, and those without residue.
    let (mut no_record, mut no_residue) = (Vec::new(), Vec::new());
    let mut residues: Vec<(i64, &[u8], String)> = Vec::new();
    for (&number, image) in &changes.images {
        let writing = || format!("writing record {number} of {}", file.place());
        let id = integer(number, "PostgreSQL", writing)?;
        match image {
            Image::Record { data, rest } => {
                check_size(data.len() + rest.len(), writing)?;
                if file.table.is_shared && !rest.is_empty() {
                    return Err(permanent(
                        writing(),
                        "a block of a static file has nothing beside its content",
                        "report this: it is a fault of Counterfoil",
                    ));
                }
                records.push(Row {
                    id,
                    data: Some(data),
                    rest: (!rest.is_empty()).then_some(rest),
                    change: Moment::default(),
                });
                no_residue.push(id);
            }
            Image::Residue { bytes, reason } => {
                check_size(bytes.len(), writing)?;
                if file.table.shape.raw {
                    // The one character that PostgreSQL's text doesn't hold.
                    residues.push((id, bytes, reason.replace('\0', "\u{fffd}")));
                }
                no_record.push(id);
            }
            Image::Absent => {
                no_record.push(id);
                no_residue.push(id);
            }
        }
    }
    let is_history = file.table.is_history();
    if !is_history {
        remove_records(session, pending, file, no_record).await?;
    }
    if file.has_residue && !no_residue.is_empty() {
        let sql = format!(
            "DELETE FROM {} WHERE file_id = $1 AND id = ANY($2::bigint[])",
            session.name("counterfoil_residue")
        );
        session
            .execute(&sql, &[&file.file_id, &no_residue])
            .await
            .doing(|| format!("removing residue of {}", file.place()))?;
    }
    if file.table.is_shared {
        for row in records {
            let block = Block {
                file_id: file.file_id,
                id: row.id,
                data: row.data.unwrap_or_default(),
            };
            pending.add(session, &file.table, block).await?;
        }
    } else if !is_history {
        put_records(session, file, &records).await?;
    }
    put_residue(session, file, &residues).await
}

/// Refuses what is more than a value may have.
pub(super) fn check_size(bytes: usize, doing: impl FnOnce() -> String) -> Result<(), SinkError> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    Err(permanent(
        doing(),
        format!("it has {bytes} bytes, and PostgreSQL takes {RECORD_BYTES_MAX}"),
        "leave the file out of this sink",
    ))
}

async fn remove_records(
    session: &mut Session,
    pending: &mut Pending<'_>,
    file: &File,
    mut ids: Vec<i64>,
) -> Result<(), SinkError> {
    if let Some(last_id) = file.last_id {
        ids.retain(|&id| id <= last_id);
    }
    if ids.is_empty() {
        return Ok(());
    }
    let removing = || format!("removing {} records of {}", ids.len(), file.place());
    let sql = &file.table.delete;
    if file.table.is_shared {
        pending.flush(session).await?;
        session.execute(sql, &[&ids, &file.file_id]).await
    } else {
        session.execute(sql, &[&ids]).await
    }
    .doing(removing)?;
    Ok(())
}

/// Writes records into a file's own table: those beyond its last identity are new, and need no look at what is there.
async fn put_records(
    session: &mut Session,
    file: &mut File,
    records: &[Row<'_>],
) -> Result<(), SinkError> {
    let Some(last) = records.last() else {
        return Ok(());
    };
    if file.last_id.is_none() && records.len() >= COPY_MIN && session.may_copy() {
        let found = session
            .query(&file.table.max, &[])
            .await
            .doing(|| format!("looking for the last record of {}", file.place()))?;
        file.last_id = found.first().map(|row| row.get(0));
    }
    let known = match file.last_id {
        Some(last_id) => records.partition_point(|row| row.id <= last_id),
        None => records.len(),
    };
    let (known, new) = if records.len() - known >= COPY_MIN && session.may_copy() {
        records.split_at(known)
    } else {
        (records, &records[..0])
    };
    let table = Arc::clone(&file.table);
    let description = Arc::clone(&file.description);
    let mut writer = Writer::new(&table, description.plan.as_deref());
    let place = file.place();
    replace(session, &mut writer, known, &place).await?;
    if !new.is_empty() {
        copy(session, &mut writer, new, &place).await?;
    }
    file.last_id = file.last_id.map(|last_id| last_id.max(last.id));
    Ok(())
}

/// Writes rows whether or not there are such already, a statement for thousands of them. `whose` is for errors.
pub(super) async fn replace(
    session: &mut Session,
    writer: &mut Writer<'_>,
    rows: &[Row<'_>],
    whose: &str,
) -> Result<(), SinkError> {
    let columns = writer.table.columns();
    let mut fields = Fields::in_columns(columns.len());
    let mut begin = 0;
    for (row, number) in rows.iter().zip(1..) {
        writer.write(row, &mut fields)?;
        let next: usize = rows.get(number).map_or(0, |row| {
            row.data.map_or(0, <[u8]>::len) + row.rest.map_or(0, <[u8]>::len)
        });
        if number < rows.len() && fields.rows < ROWS_MAX && fields.bytes() + next <= BYTES_MAX {
            continue;
        }
        let chunk = &rows[begin..number];
        begin = number;
        let writing = || {
            let (first, last) = (chunk.first(), chunk.last());
            let id = |row: Option<&Row<'_>>| row.map_or(0, |row| row.id);
            format!("writing records {} to {} of {whose}", id(first), id(last))
        };
        if writer.table.replaces {
            let ids: Vec<i64> = chunk.iter().map(|row| row.id).collect();
            let deleted = session.execute(&writer.table.delete, &[&ids]).await;
            deleted.doing(writing)?;
        }
        let arrays = fields.take_arrays(&columns);
        let parameters: Vec<_> = arrays
            .iter()
            .map(|array| -> &(dyn tokio_postgres::types::ToSql + Sync) { array })
            .collect();
        let parameters: Parameters<'_> = &parameters;
        let written = session.execute(&writer.table.upsert, parameters).await;
        written.doing(writing)?;
    }
    Ok(())
}

/// Copies rows that are new.
pub(super) async fn copy(
    session: &mut Session,
    writer: &mut Writer<'_>,
    rows: &[Row<'_>],
    whose: &str,
) -> Result<(), SinkError> {
    let copying = || format!("copying {} new records of {whose}", rows.len());
    let statement = session.prepare(&writer.table.copy).await.doing(copying)?;
    let copied = session.client.copy_in::<_, Bytes>(&statement).await;
    let mut sink = pin!(copied.doing(copying)?);
    let columns = writer.table.columns().len();
    let columns = i16::try_from(columns).unwrap_or(i16::MAX);
    let mut buffer = BytesMut::with_capacity(COPY_BYTES + (COPY_BYTES >> 2));
    buffer.put_slice(COPY_HEADER);
    let mut fields = Fields::in_rows(buffer);
    let mut outcome = Ok(());
    for row in rows {
        fields.at(0).put_i16(columns);
        writer.write(row, &mut fields)?;
        if fields.bytes() >= COPY_BYTES {
            outcome = sink.send(fields.at(0).split().freeze()).await;
            if outcome.is_err() {
                break;
            }
        }
    }
    if outcome.is_ok() {
        fields.at(0).put_i16(-1);
        outcome = sink.send(fields.at(0).split().freeze()).await;
    }
    if outcome.is_ok() {
        outcome = sink.finish().await.map(|_| ());
    }
    if let Err(error) = &outcome
        && has_code(error, &SqlState::UNIQUE_VIOLATION)
    {
        session.has_collided = true;
    }
    outcome.doing(copying)
}

fn put_field(buffer: &mut BytesMut, field: Option<&[u8]>) {
    match field {
        Some(bytes) => cells::put_bytes(bytes, buffer),
        None => cells::put_null(buffer),
    }
}

async fn put_residue(
    session: &mut Session,
    file: &mut File,
    residues: &[(i64, &[u8], String)],
) -> Result<(), SinkError> {
    if residues.is_empty() {
        return Ok(());
    }
    let table = session.name("counterfoil_residue");
    let sql = format!(
        "INSERT INTO {table} (file_id, id, bytes, reason)
         SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::text[])
         ON CONFLICT (file_id, id) DO UPDATE SET bytes = excluded.bytes, reason = excluded.reason"
    );
    let mut rest = residues;
    while !rest.is_empty() {
        let mut bytes = 0;
        let within = rest.iter().take(ROWS_MAX).take_while(|residue| {
            bytes += residue.1.len();
            bytes <= BYTES_MAX
        });
        let (chunk, after) = rest.split_at(within.count().max(1));
        rest = after;
        let ids: Vec<i64> = chunk.iter().map(|residue| residue.0).collect();
        let bytes: Vec<&[u8]> = chunk.iter().map(|residue| residue.1).collect();
        let reasons: Vec<&str> = chunk.iter().map(|residue| &*residue.2).collect();
        session
            .execute(&sql, &[&file.file_id, &ids, &bytes, &reasons])
            .await
            .doing(|| format!("writing residue of {}", file.place()))?;
    }
    file.has_residue = true;
    Ok(())
}

impl File {
    /// In words: the file and its table.
    pub(super) fn place(&self) -> String {
        format!(
            "{} (table {})",
            path_text(&self.description.path),
            self.table.name
        )
    }
}
