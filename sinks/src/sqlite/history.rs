//! Tables that keep every change: a row for each, and the last of a record's rows says what is current.

use super::apply::Moment;
use super::columns::{self, Filler, captured_at};
use super::error::Doing;
use super::file::{File, Table};
use super::schema::integer;
use crate::sql::{bounds, quoted};
use crate::{FileChanges, Image, LoggedChange, SinkError};
use counterfoil_proto::path_text;
use rusqlite::{Connection, params};

/// What a row is of: `alias` is a history's table, and its row is the last one of its record, and no deletion.
pub(super) fn is_current(table: &Table, alias: &str) -> String {
    let (name, id) = (quoted(&table.name), quoted(&table.identity));
    format!(
        "{alias}.op = 'put' AND NOT EXISTS (
             SELECT 1 FROM {name} AS later WHERE later.{id} = {alias}.{id}
             AND (later.epoch, later.lsn, later.idx) > ({alias}.epoch, {alias}.lsn, {alias}.idx))"
    )
}

/// Adds a row for each logged change.
pub(super) fn write_log(
    connection: &Connection,
    file: &File,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    let table = &file.table;
    let place = format!(
        "{} (table {})",
        path_text(&file.description.path),
        table.name
    );
    let preparing = || format!("preparing to write {place}");
    let mut insert = connection.prepare_cached(&table.upsert).doing(preparing)?;
    let (name, identity) = (quoted(&table.name), quoted(&table.identity));
    let mut delete = connection
        .prepare_cached(&format!(
            "INSERT INTO {name} ({identity}, epoch, lsn, idx, op, captured_at)
             SELECT ?1, ?2, ?3, ?4, 'delete', {}
             WHERE (SELECT op FROM {name} WHERE {identity} = ?1 ORDER BY epoch DESC, lsn DESC, idx DESC LIMIT 1) = 'put'
             ON CONFLICT ({identity}, epoch, lsn, idx) DO NOTHING",
            captured_at("?5")
        ))
        .doing(preparing)?;
    let mut filler = Filler::new(changes.file.plan.as_deref());
    for logged in &changes.log {
        let moment = Moment::of(logged.position, logged.captured_ns)?;
        match &logged.change {
            LoggedChange::Image { id, image } => {
                let writing = || format!("writing record {id} of {place}");
                let id = integer(*id, writing)?;
                let [epoch, lsn, idx] = moment.position;
                let mut write = || match image {
                    Image::Record { data, rest } => {
                        insert.raw_bind_parameter(1, id)?;
                        for (at, number) in (2..).zip(moment.position) {
                            insert.raw_bind_parameter(at, number)?;
                        }
                        insert.raw_bind_parameter(5, "put")?;
                        insert.raw_bind_parameter(6, moment.captured_ns)?;
                        let rest = (!rest.is_empty()).then_some(rest.as_slice());
                        table.bind_content(&mut insert, 7, (data, rest), &mut filler)?;
                        insert.raw_execute()
                    }
                    Image::Residue { .. } | Image::Absent => {
                        delete.execute(params![id, epoch, lsn, idx, moment.captured_ns])
                    }
                };
                write().doing(writing)?;
            }
            LoggedChange::Cleared(range) => {
                if let Some(bounds) = bounds(range) {
                    delete_current(connection, table, bounds, moment)
                        .doing(|| format!("clearing records of {place}"))?;
                }
            }
            // What comes and goes with it did so when the file was renamed.
            LoggedChange::Renamed => {}
        }
    }
    Ok(())
}

/// A row of its deletion for each current record in a range, both ends included, but for those of this very moment.
pub(super) fn delete_current(
    connection: &Connection,
    table: &Table,
    (begin, last): (i64, i64),
    moment: Moment,
) -> rusqlite::Result<()> {
    let (name, identity) = (quoted(&table.name), quoted(&table.identity));
    let [epoch, lsn, idx] = moment.position;
    connection
        .prepare_cached(&format!(
            "INSERT INTO {name} ({identity}, epoch, lsn, idx, op, captured_at)
             SELECT {identity}, ?3, ?4, ?5, 'delete', {} FROM {name} AS r
             WHERE r.{identity} BETWEEN ?1 AND ?2 AND (r.epoch, r.lsn, r.idx) <> (?3, ?4, ?5) AND {}",
            captured_at("?6"),
            is_current(table, "r"),
        ))?
        .execute(params![begin, last, epoch, lsn, idx, moment.captured_ns])?;
    Ok(())
}

/// Gives one table the current rows of another, with the columns that both have; in a history, as changes of this moment.
pub(super) fn copy_current(
    connection: &Connection,
    from: &Table,
    to: &Table,
    moment: Moment,
) -> rusqlite::Result<()> {
    let (source, target) = (quoted(&from.name), quoted(&to.name));
    let there: Vec<columns::Column<'_>> = columns::of_table(&from.identity, &from.shape).collect();
    let own = if to.is_history() { 6 } else { 1 };
    let mut names = vec![quoted(&to.identity)];
    let mut values = vec![format!("r.{}", quoted(&from.identity))];
    if to.is_history() {
        let [epoch, lsn, idx] = moment.position;
        names.push("epoch, lsn, idx, op, captured_at".into());
        let at = captured_at(&moment.captured_ns.to_string());
        values.push(format!("{epoch}, {lsn}, {idx}, 'put', {at}"));
    }
    for column in columns::of_table(&to.identity, &to.shape).skip(own) {
        let same = |there: &&columns::Column<'_>| there.name.eq_ignore_ascii_case(column.name);
        if let Some(there) = there.iter().find(same) {
            names.push(quoted(column.name));
            values.push(format!("r.{}", quoted(there.name)));
        }
    }
    let condition = if from.is_history() {
        is_current(from, "r")
    } else {
        "true".to_owned()
    };
    connection.execute_batch(&format!(
        "INSERT INTO {target} ({}) SELECT {} FROM {source} AS r WHERE {condition}",
        names.join(", "),
        values.join(", "),
    ))
}
