//! Writing rows: what is set-based, and what may be trusted.
//!
//! A record replaces the row with its identity, and never another one. MySQL has no such statement:
//! `REPLACE` and `ON DUPLICATE KEY UPDATE` take a row that is met by *any* unique index, so also by one
//! that somebody else added. Here the latter says what to do if the row it met is another one: set its
//! identity to NULL, which can't be, so the statement fails and the batch is refused.
//!
//! Rows beyond the last one of their table are new, and are loaded (`LOAD DATA LOCAL`) if there are
//! many. A load goes on after a row that it can't take, so what it says is checked: anything but all
//! rows without a warning is an error.

use super::columns::Columns;
use super::error::{
    DUPLICATE, Doing, NO_LOCAL_INFILE, complaint, duplicate, is_code, is_null_identity,
};
use super::schema::rows_table;
use super::session::{PACKET_REST_BYTES, Session, column};
use crate::SinkError;
use crate::plan::{CellRoom, Shape};
use crate::sql::{permanent, utc_micros};
use bytes::Bytes;
use counterfoil_proto::Position;
use mysql_async::Value;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// Rows per statement, the largest that fits first. Few different ones, for each is prepared once per table.
const STATEMENT_ROWS: [usize; 4] = [256, 64, 8, 1];

/// Values per statement: the protocol counts them in 16 bits.
const STATEMENT_VALUES_MAX: usize = 65_535;

/// Bytes of records per statement, if one record isn't more.
const STATEMENT_BYTES_MAX: usize = 4 << 20;

/// From so many new rows on a load is faster than statements.
const LOAD_ROWS_MIN: usize = 64;

/// Bytes of a load; what is more goes into the next one.
const LOAD_BYTES_MAX: usize = 4 << 20;

/// Bytes of a load that are sent at once.
const LOAD_CHUNK_BYTES: usize = 128 << 10;

/// Identities per statement that deletes: an optimizer that is given too many reads the whole table instead.
const DELETE_IDS_MAX: usize = 500;

/// The rows of a file: all of a table, or those of a shared one.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Of the table.
    pub(super) number: u64,
    /// The file, if the table is shared.
    pub(super) file_id: Option<u64>,
    /// What the table has beside the images of records, or instead of them.
    pub(super) columns: Option<Arc<Columns>>,
}

/// A record to write.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) id: u64,
    pub(super) data: &'a [u8],
    pub(super) rest: &'a [u8],
    /// Of a history's row.
    pub(super) stamp: Option<Stamp>,
}

/// When a record became what a history's row says, and whether it was deleted then.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub(super) position: Position,
    pub(super) captured_ns: i64,
    pub(super) is_delete: bool,
}

impl Record<'_> {
    fn bytes(&self) -> usize {
        self.data.len() + self.rest.len()
    }

    fn is_delete(&self) -> bool {
        self.stamp.is_some_and(|stamp| stamp.is_delete)
    }
}

impl Rows {
    pub(super) fn table(&self) -> String {
        rows_table(self.number)
    }

    /// What the table is.
    pub(super) fn shape(&self) -> Shape {
        let columns = self.columns.as_ref();
        columns.map_or_else(Shape::default, |columns| columns.shape.clone())
    }

    /// Whether there are the bytes of records.
    pub(super) fn has_raw(&self) -> bool {
        self.columns
            .as_ref()
            .is_none_or(|columns| columns.shape.raw)
    }

    pub(super) fn is_history(&self) -> bool {
        self.columns
            .as_ref()
            .is_some_and(|columns| columns.is_history())
    }

    /// The beginning of a condition that holds for this file's rows only.
    fn of_file(&self) -> String {
        self.file_id
            .map_or(String::new(), |file| format!("file_id = {file} AND "))
    }

    /// The columns that are written, as SQL wants them: the key, and the others.
    fn written(&self) -> (&'static [&'static str], Vec<&str>) {
        let Some(columns) = &self.columns else {
            return match self.file_id {
                Some(_) => (&["file_id", "id"], vec!["data"]),
                None => (&["id"], vec!["data", "rest"]),
            };
        };
        let (key, mut others): (&[&str], _) = if columns.is_history() {
            (&["id", "epoch", "lsn", "idx"], vec!["op", "captured_at"])
        } else {
            (&["id"], Vec::new())
        };
        if columns.shape.raw {
            others.extend(["data", "rest"]);
        }
        others.extend(columns.names.iter().map(String::as_str));
        (key, others)
    }

    /// The highest identity that has a row.
    pub(super) async fn last(&self, session: &mut Session) -> Result<Option<u64>, SinkError> {
        let looking = || format!("looking for the last row of {}", self.table());
        let sql = match self.file_id {
            Some(_) => format!("SELECT MAX(id) FROM {} WHERE file_id = ?", self.table()),
            None => format!("SELECT MAX(id) FROM {}", self.table()),
        };
        let params: Vec<Value> = self.file_id.into_iter().map(Value::from).collect();
        match session.first(&sql, params).await.doing(looking)? {
            Some(row) => column(&row, 0).doing(looking),
            None => Ok(None),
        }
    }

    /// Deletes the rows with these identities.
    pub(super) async fn delete(
        &self,
        session: &mut Session,
        ids: &[u64],
    ) -> Result<(), mysql_async::Error> {
        for ids in ids.chunks(DELETE_IDS_MAX) {
            let condition = format!("{}{}", self.of_file(), one_of(ids));
            let sql = format!("DELETE FROM {} WHERE {condition}", self.table());
            session.text(&sql).await?;
        }
        Ok(())
    }

    /// Deletes the rows of a range of identities; `u64::MAX` as end means all that follow.
    pub(super) async fn clear(
        &self,
        session: &mut Session,
        range: &Range<u64>,
    ) -> Result<(), mysql_async::Error> {
        let table = self.table();
        let condition = match (self.file_id, range.start, range.end) {
            (None, 0, u64::MAX) => String::new(),
            _ => format!(" WHERE {}{}", self.of_file(), within(range)),
        };
        session
            .text(&format!("DELETE FROM {table}{condition}"))
            .await
    }

    /// Writes records, in order of identity. `last` is the highest identity that may have a row so far.
    pub(super) async fn write(
        &self,
        session: &mut Session,
        records: &[Record<'_>],
        last: Option<u64>,
        doing: impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        for record in records {
            session.check_size(record.bytes(), || doing(record.id))?;
        }
        let known = last.map_or(0, |last| {
            records.partition_point(|record| record.id <= last)
        });
        let (maybe_there, new) = records.split_at(known);
        self.put(session, maybe_there, &doing).await?;
        self.append(session, new, &doing).await
    }

    /// Writes rows that are new.
    pub(super) async fn append(
        &self,
        session: &mut Session,
        new: &[Record<'_>],
        doing: &impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        if new.len() >= LOAD_ROWS_MIN && session.may_load {
            self.load(session, new, doing).await
        } else {
            self.put(session, new, doing).await
        }
    }

    /// Writes rows that may be there already.
    pub(super) async fn put(
        &self,
        session: &mut Session,
        records: &[Record<'_>],
        doing: &impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        let packet_max = session.packet_bytes_max.saturating_sub(PACKET_REST_BYTES);
        let bytes_max = packet_max.min(STATEMENT_BYTES_MAX);
        let (key, others) = self.written();
        let width = key.len() + others.len();
        let counts = STATEMENT_ROWS
            .into_iter()
            .filter(|&count| count == 1 || count * width <= STATEMENT_VALUES_MAX);
        let counts: Vec<usize> = counts.collect();
        let rows_max = counts.first().copied().unwrap_or(1);
        let mut room = CellRoom::default();
        // The values of rows that wait for their statement, and each row's identity and bytes.
        let mut values: Vec<Value> = Vec::with_capacity(rows_max.min(records.len()) * width);
        let mut waiting: VecDeque<(u64, usize)> = VecDeque::new();
        let mut bytes = 0;
        let mut records = records.iter();
        let mut is_over = false;
        while !is_over || !waiting.is_empty() {
            while !is_over && waiting.len() < rows_max && bytes <= bytes_max {
                let Some(record) = records.next() else {
                    is_over = true;
                    break;
                };
                let size = self.append_values(&mut values, record, &mut room);
                session.check_size(size, || doing(record.id))?;
                waiting.push_back((record.id, size));
                bytes += size;
            }
            let mut fitting = 0;
            let mut sum = 0;
            for (_, size) in &waiting {
                sum += size;
                if sum > bytes_max && fitting > 0 {
                    break;
                }
                fitting += 1;
            }
            let Some(&(first, _)) = waiting.front() else {
                break;
            };
            let fits = |count: &&usize| **count <= fitting;
            let count = counts.iter().find(fits).copied().unwrap_or(1);
            let later = values.split_off(count * width);
            let now = std::mem::replace(&mut values, later);
            bytes -= waiting.drain(..count).map(|(_, size)| size).sum::<usize>();
            let written = session.run(&self.upsert(count, key, &others), now).await;
            if let Err(error) = &written
                && is_null_identity(error)
            {
                return Err(self.another_index(session, doing(first)).await);
            }
            written.doing(|| doing(first))?;
        }
        Ok(())
    }

    /// Appends the values of a record's row, in the order of [`Rows::written`]. Returns how many bytes they have, about.
    fn append_values(
        &self,
        values: &mut Vec<Value>,
        record: &Record<'_>,
        room: &mut CellRoom,
    ) -> usize {
        // Beside their bytes the values have lengths, and identities.
        let mut bytes = 40;
        let mut append = |values: &mut Vec<Value>, of: Option<&[u8]>| {
            values.push(match of {
                Some(of) => {
                    bytes += of.len() + 4;
                    Value::Bytes(of.to_vec())
                }
                None => Value::NULL,
            });
        };
        values.extend(self.file_id.map(Value::from));
        values.push(record.id.into());
        if let Some(stamp) = record.stamp {
            values.push(stamp.position.epoch.into());
            values.push(stamp.position.lsn.into());
            values.push(stamp.position.index.into());
            append(values, Some(stamp.op().as_bytes()));
            append(values, Some(stamp.captured_at().as_bytes()));
        }
        if self.has_raw() {
            append(values, (!record.is_delete()).then_some(record.data));
            if self.file_id.is_none() {
                append(values, (!record.rest.is_empty()).then_some(record.rest));
            }
        }
        if let Some(columns) = &self.columns {
            let mut each = |cell: Option<&[u8]>| append(values, cell);
            if record.is_delete() {
                columns.nothing(&mut each);
            } else {
                columns.cells(record.data, room, &mut each);
            }
        }
        bytes
    }

    fn upsert(&self, count: usize, key: &[&str], others: &[&str]) -> String {
        let columns = [key, others].concat().join(", ");
        let row = format!("({}?)", "?,".repeat(key.len() + others.len() - 1));
        let mut sql = format!("INSERT INTO {} ({columns}) VALUES ", self.table());
        for n in 0..count {
            sql.push_str(if n == 0 { "" } else { "," });
            sql.push_str(&row);
        }
        for (n, column) in key.iter().enumerate() {
            let before = if n == 0 {
                " ON DUPLICATE KEY UPDATE id = IF("
            } else {
                " AND "
            };
            let _ = write!(sql, "{before}{column} = VALUES({column})");
        }
        sql.push_str(", id, NULL)");
        for column in others {
            let _ = write!(sql, ", {column} = VALUES({column})");
        }
        sql
    }

    /// The error where a record met another row.
    async fn another_index(&self, session: &mut Session, doing: String) -> SinkError {
        let found = session
            .first(
                "SELECT index_name FROM information_schema.statistics
                 WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 AND index_name <> 'PRIMARY' LIMIT 1",
                (self.table(),),
            )
            .await;
        let index = match found {
            Ok(Some(row)) => column::<String>(&row, 0).unwrap_or_default(),
            _ => String::new(),
        };
        duplicate(doing, &format!("for key '{index}'"))
    }

    /// Loads rows that are new.
    async fn load(
        &self,
        session: &mut Session,
        records: &[Record<'_>],
        doing: &impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        let (key, others) = self.written();
        let columns = [key, &others].concat().join(", ");
        let sql = format!(
            r"LOAD DATA LOCAL INFILE 'records' INTO TABLE {} CHARACTER SET binary
              FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' ({columns})",
            self.table()
        );
        let mut room = CellRoom::default();
        let chunk = LOAD_CHUNK_BYTES.min(session.packet_bytes_max / 2).max(1);
        let mut remaining = records;
        while let Some(first) = remaining.first() {
            let mut text =
                Vec::with_capacity(LOAD_BYTES_MAX.min(first.bytes() * remaining.len() * 2));
            let mut count = 0;
            for record in remaining {
                self.append_line(&mut text, record, &mut room);
                count += 1;
                if text.len() >= LOAD_BYTES_MAX {
                    break;
                }
            }
            let (now, later) = remaining.split_at(count);
            let mut text = Bytes::from(text);
            let mut chunks = Vec::with_capacity(text.len() / chunk + 1);
            while !text.is_empty() {
                chunks.push(text.split_to(chunk.min(text.len())));
            }
            let (loaded, complained) = match session.load(&sql, chunks).await {
                Err(error) if is_code(&error, &NO_LOCAL_INFILE) && !session.is_broken() => {
                    tracing::info!(
                        "the server doesn't allow LOAD DATA LOCAL; rows are inserted instead"
                    );
                    session.may_load = false;
                    return self.put(session, remaining, doing).await;
                }
                other => other.doing(|| doing(first.id))?,
            };
            match complained {
                None if loaded == now.len() as u64 => {}
                Some((DUPLICATE, message)) => return Err(duplicate(doing(first.id), &message)),
                Some((code, message)) => {
                    return Err(complaint(doing(first.id), code, &message));
                }
                None => {
                    return Err(permanent(
                        doing(first.id),
                        format!(
                            "{} rows were loaded, and the server took {loaded}",
                            now.len()
                        ),
                        "check whether something else changed the table",
                    ));
                }
            }
            remaining = later;
        }
        Ok(())
    }

    fn append_line(&self, text: &mut Vec<u8>, record: &Record<'_>, room: &mut CellRoom) {
        // Writing into memory doesn't fail.
        let number = |text: &mut Vec<u8>, number: u64| {
            text.extend_from_slice(number.to_string().as_bytes());
        };
        let append = |text: &mut Vec<u8>, of: Option<&[u8]>| {
            text.push(b'\t');
            match of {
                Some(of) => append_escaped(text, of),
                None => text.extend_from_slice(b"\\N"),
            }
        };
        if let Some(file_id) = self.file_id {
            number(text, file_id);
            text.push(b'\t');
        }
        number(text, record.id);
        if let Some(stamp) = record.stamp {
            for part in [
                stamp.position.epoch,
                stamp.position.lsn,
                stamp.position.index.into(),
            ] {
                text.push(b'\t');
                number(text, part);
            }
            append(text, Some(stamp.op().as_bytes()));
            append(text, Some(stamp.captured_at().as_bytes()));
        }
        if self.has_raw() {
            append(text, (!record.is_delete()).then_some(record.data));
            if self.file_id.is_none() {
                append(text, (!record.rest.is_empty()).then_some(record.rest));
            }
        }
        if let Some(columns) = &self.columns {
            let mut each = |cell: Option<&[u8]>| append(text, cell);
            if record.is_delete() {
                columns.nothing(&mut each);
            } else {
                columns.cells(record.data, room, &mut each);
            }
        }
        text.push(b'\n');
    }
}

impl Stamp {
    pub(super) fn op(self) -> &'static str {
        if self.is_delete { "delete" } else { "put" }
    }

    /// In UTC, to the microsecond.
    pub(super) fn captured_at(self) -> String {
        utc_micros(self.captured_ns)
    }
}

/// Bytes as a load takes them: all but four stand for themselves.
fn append_escaped(text: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\t' => text.extend_from_slice(b"\\t"),
            b'\n' => text.extend_from_slice(b"\\n"),
            0 => text.extend_from_slice(b"\\0"),
            other => text.push(other),
        }
    }
}

/// A condition: the identity is one of these.
pub(super) fn one_of(ids: &[u64]) -> String {
    let mut condition = String::with_capacity(8 + ids.len() * 8);
    condition.push_str("id IN (");
    for (n, id) in ids.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(condition, "{comma}{id}");
    }
    condition.push(')');
    condition
}

/// A condition: the identity is in this range; `u64::MAX` as end means all that follow.
pub(super) fn within(range: &Range<u64>) -> String {
    if range.end == u64::MAX {
        format!("id >= {}", range.start)
    } else {
        format!("id >= {} AND id < {}", range.start, range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_utc() {
        let told = |captured_ns| {
            let stamp = Stamp {
                position: Position::default(),
                captured_ns,
                is_delete: false,
            };
            stamp.captured_at()
        };
        assert_eq!(told(0), "1970-01-01 00:00:00.000000");
        assert_eq!(told(-1), "1969-12-31 23:59:59.999999");
        assert_eq!(told(951_782_400_123_456_789), "2000-02-29 00:00:00.123456");
        assert_eq!(
            told(1_700_000_000_000_000_000),
            "2023-11-14 22:13:20.000000"
        );
        assert_eq!(told(i64::MAX), "2262-04-11 23:47:16.854775");
        assert_eq!(told(i64::MIN), "1677-09-21 00:12:43.145224");
    }
}
