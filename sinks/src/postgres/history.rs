//! Tables that keep every change: a row for each image of a record, and one for each time that a record went.
//!
//! Whether a record is there is what the last row of its identity says. A row's key is the identity with the change's
//! position, so what is written twice is there once.

use super::catalogue::File;
use super::error::Doing;
use super::rows::{self, COPY_MIN, Moment, Row, Writer};
use super::session::Session;
use super::table::{DELETE, Table, names};
use crate::sql::{bounds, integer, quoted};
use crate::{Batch, Image, Logged, LoggedChange, SinkError};
use bytes::{BufMut as _, BytesMut};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use tokio_postgres::types::{IsNull, ToSql, Type};

/// A timestamp as PostgreSQL counts: microseconds since 2000.
#[derive(Debug)]
pub(super) struct Micros(pub(super) i64);

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::TIMESTAMP
    }

    tokio_postgres::types::to_sql_checked!();
}

impl Moment {
    fn of(logged: &Logged, writing: impl Fn() -> String) -> Result<Moment, SinkError> {
        Ok(Moment {
            epoch: integer(logged.position.epoch, "PostgreSQL", &writing)?,
            lsn: integer(logged.position.lsn, "PostgreSQL", &writing)?,
            index: logged.position.index.into(),
            captured_us: super::cells::timestamp(logged.captured_ns),
        })
    }

    /// A moment for what happened to a file when the `at`th changes of a batch began. Their log says it of a file that was
    /// renamed; else it is before whatever is logged from there on, and after all that was before.
    pub(super) fn before(batch: &Batch, at: usize) -> Result<Moment, SinkError> {
        let naming = || format!("reading the changes of {}", batch.stream);
        let later = batch.files.get(at..).unwrap_or_default();
        if let Some(first) = later.first().and_then(|changes| changes.log.first())
            && first.change == LoggedChange::Renamed
        {
            return Moment::of(first, naming);
        }
        let logged = later.iter().filter_map(|changes| changes.log.first());
        let mut moment = match logged.min_by_key(|logged| logged.position) {
            None => {
                return Ok(Moment {
                    epoch: integer(batch.position.epoch, "PostgreSQL", naming)?,
                    lsn: integer(batch.position.lsn, "PostgreSQL", naming)?,
                    index: batch.position.index.into(),
                    captured_us: super::cells::timestamp(batch.captured_ns),
                });
            }
            Some(first) => Moment::of(first, naming)?,
        };
        if moment.index > 0 {
            moment.index -= 1;
        } else {
            moment.lsn -= 1;
            moment.index = u32::MAX.into();
        }
        Ok(moment)
    }
}

/// What becomes of a row that is there already.
pub(super) fn on_conflict(table: &Table) -> String {
    let key = table.key();
    let sets: Vec<String> = table
        .columns()
        .iter()
        .filter(|column| !key.contains(&column.name))
        .map(|column| format!("{0} = excluded.{0}", quoted(&column.name)))
        .collect();
    format!(
        "ON CONFLICT ({}) DO UPDATE SET {}",
        names(key.iter().map(String::as_str)),
        sets.join(", ")
    )
}

/// Writes what happened to a file's records.
pub(super) async fn write(
    session: &mut Session,
    file: &File,
    log: &[Logged],
) -> Result<(), SinkError> {
    let writing = || format!("writing the changes of {}", file.place());
    let mut changes = Changes::default();
    for logged in log {
        let change = Moment::of(logged, writing)?;
        match &logged.change {
            LoggedChange::Image { id, image } => {
                let id = integer(*id, "PostgreSQL", writing)?;
                let (data, rest) = match image {
                    Image::Record { data, rest } => {
                        rows::check_size(data.len() + rest.len(), writing)?;
                        (Some(&**data), Some(&**rest).filter(|rest| !rest.is_empty()))
                    }
                    Image::Residue { .. } | Image::Absent => (None, None),
                };
                let row = Row {
                    id,
                    data,
                    rest,
                    change,
                };
                match (data, changes.is_there.insert(id, data.is_some())) {
                    (Some(_), _) | (None, Some(true)) => changes.rows.push(row),
                    (None, Some(false)) => {}
                    (None, None) => changes.gone.push(row),
                }
            }
            // Its rows came and went when the changes began.
            LoggedChange::Renamed => {}
            LoggedChange::Cleared(range) => {
                changes.flush(session, file).await?;
                if let Some((begin, last)) = bounds(range) {
                    end(session, &file.table, begin, last, change, writing).await?;
                }
            }
        }
    }
    changes.flush(session, file).await
}

/// Changes that are to be written.
#[derive(Default)]
struct Changes<'b> {
    rows: Vec<Row<'b>>,
    /// Records that aren't there any more, if they were in the target so far; each is the first change of its record.
    gone: Vec<Row<'b>>,
    /// Which records are there by these changes, and which aren't.
    is_there: HashMap<i64, bool>,
}

impl Changes<'_> {
    async fn flush(&mut self, session: &mut Session, file: &File) -> Result<(), SinkError> {
        let table: &Table = &file.table;
        let writing = || format!("writing the changes of {}", file.place());
        if !self.gone.is_empty() {
            let each = |number: fn(&Row<'_>) -> i64| -> Vec<i64> {
                self.gone.iter().map(number).collect()
            };
            let (ids, epochs) = (each(|row| row.id), each(|row| row.change.epoch));
            let (lsns, indexes) = (each(|row| row.change.lsn), each(|row| row.change.index));
            let captured: Vec<Micros> = self
                .gone
                .iter()
                .map(|row| Micros(row.change.captured_us))
                .collect();
            let insert = format!(
                "INSERT INTO {place} ({id}, epoch, lsn, idx, op, captured_at)
                 SELECT g.id, g.epoch, g.lsn, g.idx, '{DELETE}', g.captured_at
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamp[])
                     AS g (id, epoch, lsn, idx, captured_at)
                 WHERE (SELECT t.op FROM {place} AS t WHERE t.{id} = g.id
                     ORDER BY t.epoch DESC, t.lsn DESC, t.idx DESC LIMIT 1) <> '{DELETE}'
                 {conflict}",
                place = table.place,
                id = quoted(&table.identity),
                conflict = on_conflict(table)
            );
            session
                .execute(&insert, &[&ids, &epochs, &lsns, &indexes, &captured])
                .await
                .doing(writing)?;
        }
        let description = Arc::clone(&file.description);
        let mut writer = Writer::new(table, description.plan.as_deref());
        let place = file.place();
        if self.rows.len() >= COPY_MIN && session.may_copy() {
            rows::copy(session, &mut writer, &self.rows, &place).await?;
        } else {
            rows::replace(session, &mut writer, &self.rows, &place).await?;
        }
        *self = Changes::default();
        Ok(())
    }
}

/// Says that the records with these identities that are there now are gone.
pub(super) async fn end(
    session: &mut Session,
    table: &Table,
    begin: i64,
    last: i64,
    at: Moment,
    doing: impl FnOnce() -> String,
) -> Result<(), SinkError> {
    let id = quoted(&table.identity);
    let insert = format!(
        "INSERT INTO {} ({id}, epoch, lsn, idx, op, captured_at)
         SELECT {id}, $3::bigint, $4::bigint, $5::bigint, '{DELETE}', $6::timestamp
         FROM ({}) AS s WHERE {id} BETWEEN $1 AND $2
         {}",
        table.place,
        table.current(&id),
        on_conflict(table)
    );
    let captured = Micros(at.captured_us);
    session
        .execute(
            &insert,
            &[&begin, &last, &at.epoch, &at.lsn, &at.index, &captured],
        )
        .await
        .doing(doing)?;
    Ok(())
}
