//! Writing rows: arrays of parameters, and what may be trusted.
//!
//! A record replaces the row with its identity, and never another one. Where a dialect has no statement
//! for that, it is found out first which rows are there: those are changed, the others inserted.
//!
//! Rows that were changed are counted where the driver counts them (see `arrays`), and a batch with too
//! few isn't committed.

use super::arrays::Arrays;
use super::dialect::{Dialect, Rows, Statement};
use super::error::{Doing, Fault, transient};
use super::session::{Kind, Session, Value};
use crate::SinkError;
use std::collections::HashSet;

/// Identities that are asked for at once.
const ASKED_MAX: usize = 500;

/// What a record's identity and values are.
const KINDS: [Kind; 3] = [Kind::Number, Kind::Bytes, Kind::Bytes];

/// A record to write.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) id: i64,
    pub(super) data: &'a [u8],
    pub(super) rest: &'a [u8],
}

impl<'a> Record<'a> {
    fn value(&self, column: usize) -> Value<'a> {
        match column {
            0 => Value::Number(Some(self.id)),
            1 => Value::Bytes(Some(self.data)),
            _ => Value::Bytes((!self.rest.is_empty()).then_some(self.rest)),
        }
    }
}

/// The highest identity that has a row.
pub(super) fn last(session: &mut Session, rows: Rows) -> Result<Option<i64>, SinkError> {
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
pub(super) fn delete(session: &mut Session, rows: Rows, ids: &[i64]) -> Result<(), Fault> {
    let statement = session.sql.delete(rows);
    session.array(&statement, &KINDS[..1], ids.len(), |row, _| {
        Value::Number(Some(ids[row]))
    })?;
    Ok(())
}

/// Writes records, in order of identity. `last` is the highest identity that may have a row so far.
pub(super) fn write(
    session: &mut Session,
    rows: Rows,
    records: &[Record<'_>],
    last: Option<i64>,
    doing: impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let known = last.map_or(0, |last| {
        records.partition_point(|record| record.id <= last)
    });
    let (maybe_there, new) = records.split_at(known);
    let insert = session.sql.insert(rows);
    if let Some(upsert) = session.sql.upsert(rows) {
        run(session, rows, &upsert, maybe_there, &doing)?;
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
        let update = session.sql.update(rows);
        run(session, rows, &update, &there, &doing)?;
        run(session, rows, &insert, &missing, &doing)?;
    }
    run(session, rows, &insert, new, &doing)
}

fn run(
    session: &mut Session,
    rows: Rows,
    statement: &Statement,
    records: &[Record<'_>],
    doing: &impl Fn(i64) -> String,
) -> Result<(), SinkError> {
    let Some(first) = records.first() else {
        return Ok(());
    };
    let kinds = &KINDS[..=rows.values().len()];
    let changed = session
        .array(statement, kinds, records.len(), |row, column| {
            records[row].value(column)
        })
        .doing(|| doing(first.id))?;
    // MySQL counts rows that it changed, which may be twice or not at all for an upsert.
    let is_counted =
        session.sql.dialect != Dialect::Mysql || *statement == session.sql.insert(rows);
    let is_wrong = match session.arrays {
        Arrays::Counted => changed != Some(records.len()),
        Arrays::Never => changed.is_some_and(|changed| changed < records.len()),
        Arrays::Trusted => false,
    };
    if is_counted && is_wrong {
        session.arrays = Arrays::Never;
        return Err(transient(
            doing(first.id),
            format!(
                "{} rows were handed over, and the driver counts {}",
                records.len(),
                changed.map_or("none".to_owned(), |changed| changed.to_string()),
            ),
        ));
    }
    Ok(())
}
