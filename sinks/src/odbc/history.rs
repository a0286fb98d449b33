//! Tables that keep every change: a row for each, and none is ever changed.
//!
//! What is current of a record is its last row, if that isn't one that says it was deleted. A history stays when its file goes:
//! `counterfoil_histories` has it then, and the next file of that path goes on with it. What is current of a file goes with it
//! when it is renamed.
//!
//! All of it is said in words that every SQL database has.

use super::apply::delete_all_residue;
use super::catalogue::{File, Work};
use super::columns::{CAPTURED, Columns};
use super::dialect::{Dialect, Rows, Sql, Statement, one_of};
use super::entry::hash;
use super::error::{Doing, Fault};
use super::rows::{self, Record};
use super::session::{Kind, Session, Value};
use crate::naming::wanted_name;
use crate::plan::{Plan, Shape};
use crate::sql::{bounds, integer, permanent, utc_micros};
use crate::{FileChanges, FileDescription, Image, LoggedChange, SinkError};
use counterfoil_proto::{Position, path_text};
use std::collections::HashMap;
use std::sync::Arc;

/// Identities per statement.
const IDS_MAX: usize = 500;

/// The columns of a history that say which change a row is of; with the identity they are its key.
pub(super) const POSITION: &str = "epoch, lsn, idx";

/// How many values of a history's row come before those of the record: its identity, its position, and its time.
pub(super) const OWN_VALUES: usize = 5;

/// Which change a row is of, and when that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) position: [i64; 3],
    /// In UTC, to the microsecond.
    pub(super) captured_at: String,
}

impl Stamp {
    pub(super) fn of(position: Position, captured_ns: i64) -> Result<Stamp, SinkError> {
        let storing = || format!("storing position {position}");
        Ok(Stamp {
            position: [
                integer(position.epoch, "the database", storing)?,
                integer(position.lsn, "the database", storing)?,
                position.index.into(),
            ],
            captured_at: utc_micros(captured_ns),
        })
    }
}

/// How the values of a history's row that come before those of the record are handed over.
pub(super) fn own_kinds(dialect: Dialect) -> [Kind; OWN_VALUES] {
    let number = Kind::Number;
    [number, number, number, number, dialect.kind_of(CAPTURED)]
}

/// These values.
pub(super) fn own_value<'v>(id: i64, stamp: Option<&'v Stamp>, column: usize) -> Value<'v> {
    match (column.checked_sub(1), stamp) {
        (None, _) => Value::Number(Some(id)),
        (Some(at @ 0..3), stamp) => Value::Number(stamp.map(|stamp| stamp.position[at])),
        (Some(_), stamp) => Value::Text(stamp.map(|stamp| stamp.captured_at.as_str())),
    }
}

impl Sql {
    /// A condition on a row of a history that is called `row` in the query: it is its record's last one, and not that it was
    /// deleted.
    fn is_current(&self, rows: &Rows, row: &str) -> String {
        let table = self.rows_table(rows.number);
        format!(
            "{row}.op = 'put' AND NOT EXISTS (SELECT 1 FROM {table} n WHERE n.id = {row}.id AND (n.epoch > {row}.epoch \
             OR (n.epoch = {row}.epoch AND (n.lsn > {row}.lsn OR (n.lsn = {row}.lsn AND n.idx > {row}.idx)))))"
        )
    }

    /// A moment, as it stands in SQL. (A marker there would have no type.)
    pub(super) fn moment(&self, captured_at: &str) -> String {
        match self.dialect {
            Dialect::Oracle => format!("TIMESTAMP '{captured_at}'"),
            Dialect::Sqlite | Dialect::Generic => format!("'{captured_at}'"),
            dialect => {
                let kind = dialect.type_of(CAPTURED, dialect.usual_types());
                format!("CAST('{captured_at}' AS {kind})")
            }
        }
    }

    /// What happened at a moment, as it stands in SQL: a position, an operation, and the time.
    fn happening(&self, op: &str, at: &Stamp) -> String {
        let [epoch, lsn, idx] = at.position;
        format!(
            "{epoch}, {lsn}, {idx}, '{op}', {}",
            self.moment(&at.captured_at)
        )
    }

    /// A row that says that a record was deleted.
    pub(super) fn insert_deletion(&self, rows: &Rows) -> Statement {
        Statement {
            sql: format!(
                "INSERT INTO {} (id, {POSITION}, op, captured_at) VALUES (?, ?, ?, ?, 'delete', ?)",
                self.rows_table(rows.number)
            ),
            order: (0..OWN_VALUES).collect(),
        }
    }

    /// No row of this record and position.
    pub(super) fn delete_change(&self, rows: &Rows) -> Statement {
        Statement {
            sql: format!(
                "DELETE FROM {} WHERE id = ? AND epoch = ? AND lsn = ? AND idx = ?",
                self.rows_table(rows.number)
            ),
            order: (0..4).collect(),
        }
    }

    /// No row of this position with an identity from `begin` to `last`, which is included.
    pub(super) fn delete_changes(&self, rows: &Rows, bounds: (i64, i64), at: &Stamp) -> String {
        let [epoch, lsn, idx] = at.position;
        format!(
            "DELETE FROM {} WHERE id BETWEEN {} AND {} AND epoch = {epoch} AND lsn = {lsn} AND idx = {idx}",
            self.rows_table(rows.number),
            bounds.0,
            bounds.1
        )
    }

    /// Which of these identities have a record.
    pub(super) fn which_are_current(&self, rows: &Rows, ids: &[i64]) -> String {
        format!(
            "SELECT h.id FROM {} h WHERE h.{} AND {}",
            self.rows_table(rows.number),
            one_of(ids),
            self.is_current(rows, "h")
        )
    }

    /// Says of all records from `begin` to `last`, which is included, that they were deleted.
    pub(super) fn end(&self, rows: &Rows, (begin, last): (i64, i64), at: &Stamp) -> String {
        let range = match (begin, last) {
            (0, i64::MAX) => String::new(),
            _ => format!("h.id BETWEEN {begin} AND {last} AND "),
        };
        self.end_where(rows, &range, at)
    }

    /// Says of all records that another history hasn't that they were deleted.
    pub(super) fn end_others(&self, rows: &Rows, there: &Rows, at: &Stamp) -> String {
        let condition = format!(
            "NOT EXISTS (SELECT 1 FROM {} o WHERE o.id = h.id AND {}) AND ",
            self.rows_table(there.number),
            self.is_current(there, "o")
        );
        self.end_where(rows, &condition, at)
    }

    fn end_where(&self, rows: &Rows, condition: &str, at: &Stamp) -> String {
        let table = self.rows_table(rows.number);
        format!(
            "INSERT INTO {table} (id, {POSITION}, op, captured_at) SELECT h.id, {} FROM {table} h WHERE {condition}{}",
            self.happening("delete", at),
            self.is_current(rows, "h")
        )
    }

    /// Puts the current records of one history into another, as far as they have the same columns.
    pub(super) fn copy_current(&self, from: &Rows, to: &Rows, at: &Stamp) -> String {
        let names = to.columns.common(&from.columns);
        let into: String = names.iter().map(|name| format!(", {name}")).collect();
        let of: String = names.iter().map(|name| format!(", h.{name}")).collect();
        format!(
            "INSERT INTO {} (id, {POSITION}, op, captured_at{into}) SELECT h.id, {}{of} FROM {} h WHERE {}",
            self.rows_table(to.number),
            self.happening("put", at),
            self.rows_table(from.number),
            self.is_current(from, "h")
        )
    }

    /// Puts the deletions of one history into another.
    pub(super) fn copy_deletions(&self, from: &Rows, to: &Rows) -> String {
        format!(
            "INSERT INTO {} (id, {POSITION}, op, captured_at) SELECT id, {POSITION}, op, captured_at FROM {} WHERE op = 'delete'",
            self.rows_table(to.number),
            self.rows_table(from.number)
        )
    }

    /// Current records from an identity on, in order: so many at most, where that can be said.
    pub(super) fn current_page(&self, rows: &Rows, count: usize) -> String {
        self.limited_to(
            &format!(
                "h.id, h.data, h.rest FROM {} h WHERE h.id >= ? AND {} ORDER BY h.id",
                self.rows_table(rows.number),
                self.is_current(rows, "h")
            ),
            count,
        )
    }

    /// Rows with a record's bytes behind one with this identity and position, in order. The identity is the first and second
    /// parameter, the epoch the third and fourth, the lsn the fifth and sixth, and the index the last.
    pub(super) fn changes_page(&self, rows: &Rows, count: usize) -> String {
        self.limited_to(
            &format!(
                "id, data, rest, {POSITION}, captured_at FROM {} WHERE op = 'put' AND (id > ? OR (id = ? AND (epoch > ? OR \
                 (epoch = ? AND (lsn > ? OR (lsn = ? AND idx > ?)))))) ORDER BY id, {POSITION}",
                self.rows_table(rows.number)
            ),
            count,
        )
    }
}

/// Writes a row for each logged change. `is_late` says that some of them may be there already.
pub(super) fn write(
    session: &mut Session,
    file: &File,
    changes: &FileChanges,
    is_late: bool,
) -> Result<(), SinkError> {
    let place = format!(
        "{} (table {})",
        path_text(&file.description.path),
        file.table
    );
    let writing = |id: i64| format!("writing record {id} of {place}");
    let id_of = |number: u64| {
        integer(number, "the database", || {
            format!("writing record {number} of {place}")
        })
    };
    let log = &changes.log;
    let mut stamps = Vec::with_capacity(log.len());
    let mut gone = Vec::new();
    for logged in log {
        stamps.push(Stamp::of(logged.position, logged.captured_ns)?);
        if let LoggedChange::Image { id, image } = &logged.change
            && !matches!(image, Image::Record { .. })
        {
            gone.push(id_of(*id)?);
        }
    }
    gone.sort_unstable();
    gone.dedup();
    let mut is_there: HashMap<i64, bool> = gone.iter().map(|&id| (id, false)).collect();
    for ids in gone.chunks(IDS_MAX) {
        let select = session.sql.which_are_current(&file.rows, ids);
        session
            .walk(&select, &[], &[Kind::Number], |mut row| {
                if let Some(id) = row.number(0) {
                    is_there.insert(id, true);
                }
                true
            })
            .doing(|| writing(ids.first().copied().unwrap_or_default()))?;
    }
    let mut added = Added::default();
    for (logged, stamp) in log.iter().zip(&stamps) {
        match &logged.change {
            LoggedChange::Image { id, image } => {
                let id = id_of(*id)?;
                let record = |data, rest| Record {
                    id,
                    data,
                    rest,
                    stamp: Some(stamp),
                };
                match image {
                    Image::Record { data, rest } => {
                        added.puts.push(record(data, rest));
                        is_there.entry(id).and_modify(|there| *there = true);
                    }
                    Image::Residue { .. } | Image::Absent => {
                        if is_there.insert(id, false) == Some(true) {
                            added.deletions.push(record(&[], &[]));
                        }
                    }
                }
            }
            LoggedChange::Cleared(range) => {
                added.flush(session, file, is_late, writing)?;
                let Some((begin, last)) = bounds(range) else {
                    continue;
                };
                let clearing = || format!("clearing records of {place}");
                if is_late {
                    let again = session.sql.delete_changes(&file.rows, (begin, last), stamp);
                    session.change(&again, &[]).doing(clearing)?;
                }
                end(session, &file.rows, (begin, last), stamp).doing(clearing)?;
                for (id, there) in &mut is_there {
                    *there &= !(begin..=last).contains(id);
                }
            }
            // What comes and goes with it did so when the file was renamed.
            LoggedChange::Renamed => {}
        }
    }
    added.flush(session, file, is_late, writing)
}

/// Rows that are to be added.
#[derive(Default)]
struct Added<'a> {
    puts: Vec<Record<'a>>,
    deletions: Vec<Record<'a>>,
}

impl Added<'_> {
    fn flush(
        &mut self,
        session: &mut Session,
        file: &File,
        is_late: bool,
        writing: impl Fn(i64) -> String,
    ) -> Result<(), SinkError> {
        let Added { puts, deletions } = std::mem::take(self);
        if is_late {
            let again = session.sql.delete_change(&file.rows);
            for records in [&puts, &deletions] {
                let first = records.first().map_or(0, |record| record.id);
                let value = |row: usize, column| {
                    let Record { id, stamp, .. } = records[row];
                    own_value(id, stamp, column)
                };
                session
                    .array(&again, &[Kind::Number; 4], records.len(), value)
                    .doing(|| writing(first))?;
            }
        }
        let target = rows::Target {
            rows: &file.rows,
            shape: &file.shape,
            plan: file.description.plan.as_deref(),
        };
        rows::append(session, target, &puts, &writing)?;
        rows::append_deletions(session, &file.rows, &deletions, &writing)
    }
}

/// Says of all records in a range, both ends included, that they were deleted.
pub(super) fn end(
    session: &mut Session,
    rows: &Rows,
    bounds: (i64, i64),
    at: &Stamp,
) -> Result<(), Fault> {
    let end = session.sql.end(rows, bounds, at);
    session.change(&end, &[])?;
    Ok(())
}

/// A history whose file isn't there any more.
pub(super) struct Kept {
    pub(super) rows: Rows,
    pub(super) table: String,
    pub(super) shape: Shape,
    identity: String,
}

/// A history that a file goes on with: what it is, in a table that has what its plan wants.
struct Continued {
    rows: Rows,
    table: String,
    shape: Shape,
}

impl Work<'_> {
    /// The history that a file of this path had when it was there.
    pub(super) fn find_kept(
        &mut self,
        description: &FileDescription,
    ) -> Result<Option<Kept>, SinkError> {
        let looking = || {
            format!(
                "looking for the history of {}",
                path_text(&description.path)
            )
        };
        let select = self.session.sql.own(
            "SELECT rows_table, path, table_name, table_configured, identity_name, shape FROM {histories}
             WHERE stream = ? AND path_hash = ? ORDER BY rows_table",
        );
        let kinds = [
            Kind::Number,
            Kind::Bytes,
            Kind::Text,
            Kind::Text,
            Kind::Text,
            Kind::Text,
        ];
        let hash = hash(&description.path);
        let values = [Value::Text(Some(self.stream)), Value::Text(Some(&hash))];
        let rows = self.session.rows(&select, &values, &kinds).doing(looking)?;
        for mut row in rows {
            let number = row.known_number(0).doing(looking)?;
            if row.bytes(1) != description.path {
                continue;
            }
            let table = row.text(2).unwrap_or_default();
            if row.text(3) != description.table {
                continue;
            }
            let identity = row.text(4).unwrap_or_default();
            let shape = Shape::parse(row.text(5).as_deref()).map_err(|problem| {
                permanent(
                    looking(),
                    problem,
                    "use the version of Counterfoil that wrote it, or a later one",
                )
            })?;
            let columns = Arc::new(Columns::of(&shape, &self.session.sql));
            return Ok(Some(Kept {
                rows: Rows {
                    number,
                    file_id: None,
                    columns,
                },
                table,
                shape,
                identity,
            }));
        }
        Ok(None)
    }

    /// Takes the history that a file of this path had.
    pub(super) fn take_kept(
        &mut self,
        description: &FileDescription,
    ) -> Result<Option<Kept>, SinkError> {
        let Some(kept) = self.find_kept(description)? else {
            return Ok(None);
        };
        self.structure
            .use_table(&kept.rows, || path_text(&description.path));
        self.structure.require_checks()?;
        let delete = self
            .session
            .sql
            .own("DELETE FROM {histories} WHERE rows_table = ?");
        self.session
            .change(&delete, &[Value::Number(Some(kept.rows.number))])
            .doing(|| format!("going on with the table {}", kept.table))?;
        if kept.identity != description.format.identity_name() {
            self.structure
                .mark(self.session, self.stream, &kept.table)?;
        }
        Ok(Some(kept))
    }

    /// Notes the history of a file that isn't in the catalogue any more.
    pub(super) fn keep(&mut self, file: &File) -> Result<(), SinkError> {
        let path = &file.description.path;
        let path_text = path_text(path);
        let path_hash = hash(path);
        let shape = file.shape.text();
        let insert = self.session.sql.own(
            "INSERT INTO {histories} (rows_table, stream, path_hash, path, path_text, table_name, table_configured,
                 identity_name, shape) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let values = [
            Value::Number(Some(file.rows.number)),
            Value::Text(Some(self.stream)),
            Value::Text(Some(&path_hash)),
            Value::Bytes(Some(path)),
            Value::Text(Some(&path_text)),
            Value::Text(Some(&file.table)),
            Value::Text(file.description.table.as_deref()),
            Value::Text(Some(file.description.format.identity_name())),
            Value::Text(Some(&shape)),
        ];
        self.session
            .change(&insert, &values)
            .doing(|| format!("keeping the history of {path_text}"))?;
        Ok(())
    }

    /// Says of all records of a file that goes that they were deleted, and keeps its table.
    pub(super) fn end_history(&mut self, file: &File, at: &Stamp) -> Result<(), SinkError> {
        if self.structure.is_missing(file.rows.number) {
            self.structure
                .release_name(self.session, self.stream, &file.table)?;
            return self.structure.forget_table(self.session, &file.rows);
        }
        if let Err(fault) = end(self.session, &file.rows, (0, i64::MAX), at) {
            self.structure.suspect = Some(file.rows.number);
            return Err(fault.at(format!("removing {}", path_text(&file.description.path))));
        }
        self.keep(file)
    }

    /// Moves a file whose table is a history to another path: what is current goes with it, and both histories stay.
    pub(super) fn rename_history(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
        at: &Stamp,
    ) -> Result<(), SinkError> {
        let moving = || {
            format!(
                "moving {} to {}",
                path_text(from),
                path_text(&description.path)
            )
        };
        let (_, file) = self.at(from)?;
        let same_name = wanted_name(&file.description)? == wanted_name(description)?;
        let plan = match description.plan.clone() {
            Some(plan) if plan.is_history() && description.tree.is_none() && !same_name => plan,
            _ => {
                self.remove(&description.path, at)?;
                self.redescribe(from, description)?;
                return self.reshape(description);
            }
        };
        let to = self.continued(description, &plan, at)?;
        let Some(mut file) = self.take_known(from) else {
            return Ok(());
        };
        let end_others = self.session.sql.end_others(&to.rows, &file.rows, at);
        self.session.change(&end_others, &[]).doing(moving)?;
        if file.shape.raw {
            let target = rows::Target {
                rows: &to.rows,
                shape: &to.shape,
                plan: Some(&plan),
            };
            rows::fill(self.session, &file.rows, target, Some(at), moving)?;
        } else {
            let copy = self.session.sql.copy_current(&file.rows, &to.rows, at);
            self.session.change(&copy, &[]).doing(moving)?;
        }
        end(self.session, &file.rows, (0, i64::MAX), at).doing(moving)?;
        self.keep(&file)?;
        if !to.shape.raw {
            delete_all_residue(self.session, file.file_id).doing(moving)?;
            file.has_residue = Some(false);
        }
        file.rows = to.rows;
        file.table = to.table;
        file.shape = to.shape;
        file.last = None;
        self.store(file, description)
    }

    /// The history that a path has, or had, or a new one; nobody has it then.
    fn continued(
        &mut self,
        description: &Arc<FileDescription>,
        plan: &Plan,
        at: &Stamp,
    ) -> Result<Continued, SinkError> {
        let is_history = self
            .find(&description.path)?
            .is_some_and(|there| there.is_history());
        let there = if is_history {
            self.take_known(&description.path)
        } else {
            self.remove(&description.path, at)?;
            None
        };
        let (rows, table, shape) = match there {
            Some(there) => {
                self.forget(&there)?;
                if there.description.format.identity_name() != description.format.identity_name() {
                    self.structure
                        .mark(self.session, self.stream, &there.table)?;
                }
                (there.rows, there.table, there.shape)
            }
            None => match self.take_kept(description)? {
                Some(kept) => (kept.rows, kept.table, kept.shape),
                None => {
                    let shape = plan.shape().clone();
                    let columns = Arc::new(Columns::of(&shape, &self.session.sql));
                    let table = self.take_name(description)?;
                    let number = self
                        .structure
                        .take_table(self.session, self.stream, &columns)?;
                    let rows = Rows {
                        number,
                        file_id: None,
                        columns,
                    };
                    (rows, table, shape)
                }
            },
        };
        let fitted = self.fit(&rows, &shape, &table, description)?;
        let (rows, shape) = fitted.map_or((rows, shape), |fitted| (fitted.rows, fitted.shape));
        Ok(Continued { rows, table, shape })
    }
}
