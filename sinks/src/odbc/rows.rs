//! Writing rows: arrays of parameters, and what may be trusted.
//!
//! A record replaces the row with its identity, and never another one. Where a dialect has no statement
//! for that, it is found out first which rows are there: those are changed, the others inserted.
//!
//! Rows that were changed are counted where the driver counts them (see `arrays`), and a batch with too
//! few isn't committed.

use super::arrays::Arrays;
use super::columns::{Cell, add_cells};
use super::dialect::{Dialect, Rows, Statement};
use super::error::{Doing, Fault, transient};
use super::history::{OWN_VALUES, Stamp, own_kinds, own_value};
use super::session::{Kind, Session, Value};
use crate::SinkError;
use crate::plan::{CellRoom, Plan, Shape};
use std::collections::HashSet;

/// Identities that are asked for at once.
const ASKED_MAX: usize = 500;

/// Records whose values are worked out at once.
const RECORDS_MAX: usize = 1000;

/// Rows, and bytes of them, that are read at once to be written into another table.
const REFILLED_ROWS: usize = 256;
const REFILLED_BYTES: usize = 4 << 20;

/// A record to write.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) id: i64,
    pub(super) data: &'a [u8],
    pub(super) rest: &'a [u8],
    /// Of a history's row.
    pub(super) stamp: Option<&'a Stamp>,
}

/// What becomes of records: their table, and the plan that fills it.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) rows: &'a Rows,
    pub(super) shape: &'a Shape,
    pub(super) plan: Option<&'a Plan>,
}

/// The highest identity that has a row.
pub(super) fn last(session: &mut Session, rows: &Rows) -> Result<Option<i64>, SinkError> {
    let select = session.sql.last(rows);
    let row = session.first(&select, &[], &[Kind::Number]).doing(|| {
        format!(
            "looking for the last row of {}",
            session.sql.rows_table(rows.number)
        )
    })?;
    Ok(row.and_then(|mut row| row.number(0)))
}

/// Deletes the rows with these identities; there need be none.
pub(super) fn delete(session: &mut Session, rows: &Rows, ids: &[i64]) -> Result<(), Fault> {
    let statement = session.sql.delete(rows);
    session.array(&statement, &[Kind::Number], ids.len(), |row, _| {
        Value::Number(Some(ids[row]))
    })?;
    Ok(())
}

/// Writes records, in order of identity. `last` is the highest identity that may have a row so far.
pub(super) fn write(
    session: &mut Session,
    target: Target<'_>,
    records: &[Record<'_>],
    last: Option<i64>,
    doing: impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let rows = target.rows;
    let known = last.map_or(0, |last| {
        records.partition_point(|record| record.id <= last)
    });
    let (maybe_there, new) = records.split_at(known);
    let insert = session.sql.insert(rows);
    if let Some(upsert) = session.sql.upsert(rows) {
        run(session, target, &upsert, maybe_there, &doing)?;
    } else if !maybe_there.is_empty() {
        let mut there = HashSet::with_capacity(maybe_there.len());
        let ids: Vec<i64> = maybe_there.iter().map(|record| record.id).collect();
        for ids in ids.chunks(ASKED_MAX) {
            let select = session.sql.which_are_there(rows, ids);
            session
                .walk(&select, &[], &[Kind::Number], |mut row| {
                    there.extend(row.number(0));
                    true
                })
                .doing(|| doing(ids.first().copied().unwrap_or_default()))?;
        }
        let (there, missing): (Vec<_>, Vec<_>) = maybe_there
            .iter()
            .copied()
            .partition(|record| there.contains(&record.id));
        if !rows.columns.filled().is_empty() {
            let update = session.sql.update(rows);
            run(session, target, &update, &there, &doing)?;
        }
        run(session, target, &insert, &missing, &doing)?;
    }
    run(session, target, &insert, new, &doing)
}

/// Adds records to a history.
pub(super) fn append(
    session: &mut Session,
    target: Target<'_>,
    records: &[Record<'_>],
    doing: impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let insert = session.sql.insert(target.rows);
    run(session, target, &insert, records, &doing)
}

/// Adds rows to a history that say that records were deleted.
pub(super) fn append_deletions(
    session: &mut Session,
    rows: &Rows,
    records: &[Record<'_>],
    doing: impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let insert = session.sql.insert_deletion(rows);
    let kinds = own_kinds(session.sql.dialect);
    for records in records.chunks(RECORDS_MAX) {
        let value = |row: usize, column| own_value(records[row].id, records[row].stamp, column);
        let doing = || doing(records.first().map_or(0, |first| first.id));
        let changed = session
            .array(&insert, &kinds, records.len(), value)
            .map_err(|fault| fault.of_rows(doing()))?;
        require_count(session, records.len(), changed, doing)?;
    }
    Ok(())
}

/// Refuses to go on where the driver counts fewer rows than it was given.
fn require_count(
    session: &mut Session,
    count: usize,
    changed: Option<usize>,
    doing: impl Fn() -> String,
) -> Result<(), SinkError> {
    let is_wrong = match session.arrays {
        Arrays::Counted => changed != Some(count),
        Arrays::Never => changed.is_some_and(|changed| changed < count),
        Arrays::Trusted => false,
    };
    if !is_wrong {
        return Ok(());
    }
    session.arrays = Arrays::Never;
    Err(transient(
        doing(),
        format!(
            "{count} rows were handed over, and the driver counts {}",
            changed.map_or("none".to_owned(), |changed| changed.to_string()),
        ),
    ))
}

fn run(
    session: &mut Session,
    target: Target<'_>,
    statement: &Statement,
    records: &[Record<'_>],
    doing: &impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let dialect = session.sql.dialect;
    let columns = &target.rows.columns;
    let mut kinds = own_kinds(dialect).to_vec();
    kinds.truncate(if columns.is_history() { OWN_VALUES } else { 1 });
    let own = kinds.len();
    kinds.extend(columns.kinds(dialect));
    let planned = columns.planned();
    // MySQL counts rows that it changed, which may be twice or not at all for an upsert.
    let is_counted = dialect != Dialect::Mysql || *statement == session.sql.insert(target.rows);
    let mut room = CellRoom::default();
    let mut cells = Vec::new();
    for records in records.chunks(RECORDS_MAX) {
        cells.clear();
        for record in records {
            let begin = cells.len();
            if let Some(plan) = target.plan {
                add_cells(
                    plan,
                    target.shape,
                    record.data,
                    &mut room,
                    dialect,
                    &mut cells,
                );
            }
            cells.resize(begin + planned, Cell::Null);
        }
        let value = |row: usize, column: usize| match column.checked_sub(own) {
            None => own_value(records[row].id, records[row].stamp, column),
            Some(at) if at < planned => value_of(&cells[row * planned + at], kinds[column]),
            Some(at) if at == planned => Value::Bytes(Some(records[row].data)),
            Some(_) => {
                let rest = records[row].rest;
                Value::Bytes((!rest.is_empty()).then_some(rest))
            }
        };
        let doing = || doing(records.first().map_or(0, |first| first.id));
        let changed = session
            .array(statement, &kinds, records.len(), value)
            .map_err(|fault| match fault.of_rows(doing()) {
                // Not all databases say of which column it is.
                SinkError::Refused { doing, cause } => SinkError::Refused {
                    doing,
                    cause: format!("{cause}; its columns are {}", columns.some_names()),
                },
                other => other,
            })?;
        if is_counted {
            require_count(session, records.len(), changed, doing)?;
        }
    }
    Ok(())
}

fn value_of(cell: &Cell, kind: Kind) -> Value<'_> {
    match cell {
        Cell::Number(number) => Value::Number(Some(*number)),
        Cell::Double(number) => Value::Double(Some(*number)),
        Cell::Text(text) => Value::Text(Some(text)),
        Cell::Bytes(bytes) => Value::Bytes(Some(bytes)),
        Cell::Null => match kind {
            Kind::Number => Value::Number(None),
            Kind::Double => Value::Double(None),
            Kind::Bytes => Value::Bytes(None),
            Kind::Text | Kind::As(_) => Value::Text(None),
        },
    }
}

/// Writes all records of a table into another one, with the values that its plan has for them; into a history, as changes
/// of a moment.
pub(super) fn fill(
    session: &mut Session,
    from: &Rows,
    to: Target<'_>,
    at: Option<&Stamp>,
    doing: impl Fn() -> String,
) -> Result<(), SinkError> {
    let insert = session.sql.insert(to.rows);
    let select = session.sql.page(from, REFILLED_ROWS);
    let kinds = [Kind::Number, Kind::Bytes, Kind::Bytes];
    let mut next = Some(0);
    while let Some(begin) = next {
        let mut page: Vec<(i64, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        session
            .walk(&select, &[Value::Number(Some(begin))], &kinds, |mut row| {
                if let Some(id) = row.number(0) {
                    let (data, rest) = (row.bytes(1), row.bytes(2));
                    bytes += data.len() + rest.len();
                    page.push((id, data, rest));
                }
                page.len() < REFILLED_ROWS && bytes < REFILLED_BYTES
            })
            .doing(&doing)?;
        let is_full = page.len() >= REFILLED_ROWS || bytes >= REFILLED_BYTES;
        next = match page.last() {
            Some((last, ..)) if is_full => last.checked_add(1),
            _ => None,
        };
        let records: Vec<Record<'_>> = page
            .iter()
            .map(|(id, data, rest)| Record {
                id: *id,
                data,
                rest,
                stamp: at,
            })
            .collect();
        run(session, to, &insert, &records, &|id| {
            format!("{}: record {id}", doing())
        })?;
    }
    Ok(())
}

/// Writes all rows of a history into another one, with the values that its plan has for them.
pub(super) fn fill_history(
    session: &mut Session,
    from: &Rows,
    to: Target<'_>,
    doing: impl Fn() -> String,
) -> Result<(), SinkError> {
    let copy = session.sql.copy_deletions(from, to.rows);
    session.change(&copy, &[]).doing(&doing)?;
    let insert = session.sql.insert(to.rows);
    let select = session.sql.changes_page(from, REFILLED_ROWS);
    let kinds = [
        Kind::Number,
        Kind::Bytes,
        Kind::Bytes,
        Kind::Number,
        Kind::Number,
        Kind::Number,
        Kind::Text,
    ];
    let mut behind = [-1; 4];
    loop {
        let [id, epoch, lsn, idx] = behind;
        let values = [id, id, epoch, epoch, lsn, lsn, idx].map(|key| Value::Number(Some(key)));
        let mut page: Vec<(i64, Vec<u8>, Vec<u8>, Stamp)> = Vec::new();
        let mut bytes = 0;
        session
            .walk(&select, &values, &kinds, |mut row| {
                if let Some(id) = row.number(0) {
                    let (data, rest) = (row.bytes(1), row.bytes(2));
                    bytes += data.len() + rest.len();
                    let stamp = Stamp {
                        position: [3, 4, 5].map(|at| row.number(at).unwrap_or_default()),
                        captured_at: row.text(6).unwrap_or_default(),
                    };
                    page.push((id, data, rest, stamp));
                }
                page.len() < REFILLED_ROWS && bytes < REFILLED_BYTES
            })
            .doing(&doing)?;
        let Some((id, .., last)) = page.last() else {
            return Ok(());
        };
        let [epoch, lsn, idx] = last.position;
        behind = [*id, epoch, lsn, idx];
        let records: Vec<Record<'_>> = page
            .iter()
            .map(|(id, data, rest, stamp)| Record {
                id: *id,
                data,
                rest,
                stamp: Some(stamp),
            })
            .collect();
        run(session, to, &insert, &records, &|id| {
            format!("{}: record {id}", doing())
        })?;
    }
}
