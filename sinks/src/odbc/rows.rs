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

fn run(
    session: &mut Session,
    target: Target<'_>,
    statement: &Statement,
    records: &[Record<'_>],
    doing: &impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let dialect = session.sql.dialect;
    let columns = &target.rows.columns;
    let mut kinds = vec![Kind::Number];
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
        let value = |row: usize, column: usize| match column.checked_sub(1) {
            None => Value::Number(Some(records[row].id)),
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
        let is_wrong = match session.arrays {
            Arrays::Counted => changed != Some(records.len()),
            Arrays::Never => changed.is_some_and(|changed| changed < records.len()),
            Arrays::Trusted => false,
        };
        if is_counted && is_wrong {
            session.arrays = Arrays::Never;
            return Err(transient(
                doing(),
                format!(
                    "{} rows were handed over, and the driver counts {}",
                    records.len(),
                    changed.map_or("none".to_owned(), |changed| changed.to_string()),
                ),
            ));
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

/// Writes all rows of a table into another one, with the values that its plan has for them.
pub(super) fn refill(
    session: &mut Session,
    from: &Rows,
    to: Target<'_>,
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
            })
            .collect();
        run(session, to, &insert, &records, &|id| {
            format!("{}: record {id}", doing())
        })?;
    }
    Ok(())
}
