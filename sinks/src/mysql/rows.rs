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

use super::error::{DUPLICATE, Doing, NO_LOCAL_INFILE, NULL_IDENTITY, duplicate, is_code};
use super::schema::rows_table;
use super::session::{PACKET_REST_BYTES, Session, column};
use crate::SinkError;
use crate::sql::permanent;
use bytes::Bytes;
use mysql_async::Value;
use std::fmt::Write as _;
use std::ops::Range;

/// Rows per statement, the largest that fits first. Few different ones, for each is prepared once per table.
const STATEMENT_ROWS: [usize; 4] = [256, 64, 8, 1];

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Of the table.
    pub(super) number: u64,
    /// The file, if the table is shared.
    pub(super) file_id: Option<u64>,
}

/// A record to write.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) id: u64,
    pub(super) data: &'a [u8],
    pub(super) rest: &'a [u8],
}

impl Record<'_> {
    fn bytes(&self) -> usize {
        self.data.len() + self.rest.len()
    }
}

impl Rows {
    fn table(self) -> String {
        rows_table(self.number)
    }

    /// The beginning of a condition that holds for this file's rows only.
    fn of_file(self) -> String {
        self.file_id
            .map_or(String::new(), |file| format!("file_id = {file} AND "))
    }

    /// The highest identity that has a row.
    pub(super) async fn last(self, session: &mut Session) -> Result<Option<u64>, SinkError> {
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
        self,
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
        self,
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
        self,
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
        if new.len() >= LOAD_ROWS_MIN && session.may_load {
            self.load(session, new, &doing).await
        } else {
            self.put(session, new, &doing).await
        }
    }

    /// Writes rows that may be there already.
    async fn put(
        self,
        session: &mut Session,
        mut records: &[Record<'_>],
        doing: &impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        let bytes_max = session
            .packet_bytes_max
            .saturating_sub(PACKET_REST_BYTES)
            .min(STATEMENT_BYTES_MAX);
        while let Some(first) = records.first() {
            let mut fitting = 0;
            let mut bytes = 0;
            for record in records.iter().take(STATEMENT_ROWS[0]) {
                // Beside their bytes the values have lengths, and identities.
                bytes += record.bytes() + 40;
                if bytes > bytes_max && fitting > 0 {
                    break;
                }
                fitting += 1;
            }
            let count = STATEMENT_ROWS
                .into_iter()
                .find(|&count| count <= fitting)
                .unwrap_or(1);
            let (now, later) = records.split_at(count);
            records = later;
            let mut params = Vec::with_capacity(count * 3);
            for record in now {
                params.extend(self.file_id.map(Value::from));
                params.push(record.id.into());
                params.push(Value::Bytes(record.data.to_vec()));
                if self.file_id.is_none() {
                    params.push(if record.rest.is_empty() {
                        Value::NULL
                    } else {
                        Value::Bytes(record.rest.to_vec())
                    });
                }
            }
            let written = session.run(&self.upsert(count), params).await;
            if let Err(error) = &written
                && is_code(error, &[NULL_IDENTITY])
            {
                return Err(self.another_index(session, doing(first.id)).await);
            }
            written.doing(|| doing(first.id))?;
        }
        Ok(())
    }

    fn upsert(self, count: usize) -> String {
        let (columns, row, same, rest) = match self.file_id {
            Some(_) => (
                "file_id, id, data",
                "(?,?,?)",
                "file_id = VALUES(file_id) AND id = VALUES(id)",
                "",
            ),
            None => (
                "id, data, rest",
                "(?,?,?)",
                "id = VALUES(id)",
                ", rest = VALUES(rest)",
            ),
        };
        let mut sql = format!("INSERT INTO {} ({columns}) VALUES ", self.table());
        for n in 0..count {
            sql.push_str(if n == 0 { "" } else { "," });
            sql.push_str(row);
        }
        let _ = write!(
            sql,
            " ON DUPLICATE KEY UPDATE id = IF({same}, id, NULL), data = VALUES(data){rest}"
        );
        sql
    }

    /// The error where a record met another row.
    async fn another_index(self, session: &mut Session, doing: String) -> SinkError {
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
        self,
        session: &mut Session,
        records: &[Record<'_>],
        doing: &impl Fn(u64) -> String,
    ) -> Result<(), SinkError> {
        let columns = match self.file_id {
            Some(_) => "file_id, id, data",
            None => "id, data, rest",
        };
        let sql = format!(
            r"LOAD DATA LOCAL INFILE 'records' INTO TABLE {} CHARACTER SET binary
              FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' ({columns})",
            self.table()
        );
        let chunk = LOAD_CHUNK_BYTES.min(session.packet_bytes_max / 2).max(1);
        let mut remaining = records;
        while let Some(first) = remaining.first() {
            let mut text =
                Vec::with_capacity(LOAD_BYTES_MAX.min(first.bytes() * remaining.len() * 2));
            let mut count = 0;
            for record in remaining {
                self.append_line(&mut text, record);
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
            let (loaded, complaint) = match session.load(&sql, chunks).await {
                Err(error) if is_code(&error, &NO_LOCAL_INFILE) && !session.is_broken() => {
                    tracing::info!(
                        "the server doesn't allow LOAD DATA LOCAL; rows are inserted instead"
                    );
                    session.may_load = false;
                    return self.put(session, remaining, doing).await;
                }
                other => other.doing(|| doing(first.id))?,
            };
            match complaint {
                None if loaded == now.len() as u64 => {}
                Some((DUPLICATE, message)) => return Err(duplicate(doing(first.id), &message)),
                Some((code, message)) => {
                    return Err(permanent(
                        doing(first.id),
                        format!("{message} (warning {code})"),
                        "check whether something else changed the table",
                    ));
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

    fn append_line(self, text: &mut Vec<u8>, record: &Record<'_>) {
        // Writing into memory doesn't fail.
        let number = |text: &mut Vec<u8>, number: u64| {
            text.extend_from_slice(number.to_string().as_bytes());
            text.push(b'\t');
        };
        if let Some(file_id) = self.file_id {
            number(text, file_id);
        }
        number(text, record.id);
        append_escaped(text, record.data);
        if self.file_id.is_none() {
            text.push(b'\t');
            if record.rest.is_empty() {
                text.extend_from_slice(b"\\N");
            } else {
                append_escaped(text, record.rest);
            }
        }
        text.push(b'\n');
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
