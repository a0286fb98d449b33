//! A batch, as one transaction.

use super::catalogue::{File, Work};
use super::dialect::{Statement, one_of};
use super::error::{Doing, Fault, transient};
use super::history::{self, Stamp};
use super::rows::{self, Record};
use super::session::{Kind, Session, Value};
use crate::sql::{bounds, integer, permanent, unsigned};
use crate::{Batch, FileChanges, FileFate, FileKind, Image, LoggedChange, SinkError};
use counterfoil_proto::{Position, path_text};
use std::collections::BTreeMap;
use std::ops::Range;

/// Identities per statement about residue.
const RESIDUE_IDS_MAX: usize = 500;

/// Does all of the batch but the commit, in a transaction that has the stream's position locked, which is `stored`. After
/// an error what is known is to be thrown away.
pub(super) fn apply(
    work: &mut Work<'_>,
    batch: &Batch,
    stored: Option<Position>,
) -> Result<(), SinkError> {
    batch.check_follows(stored)?;
    work.known.refresh(stored);
    advance(work.session, batch, stored, work.now_ns)?;
    let paths: Vec<&[u8]> = batch
        .files
        .iter()
        .flat_map(|changes| {
            let renamed_from = changes.renamed_from.as_deref();
            renamed_from.into_iter().chain([&*changes.file.path])
        })
        .collect();
    work.look_up(&paths)?;
    work.require_tables(&batch.files)?;
    for changes in &batch.files {
        change_file(work, batch, changes)?;
    }
    work.known.position = Some(batch.position);
    Ok(())
}

pub(super) fn applying(batch: &Batch) -> String {
    format!(
        "applying a batch up to {} of {}",
        batch.position, batch.stream
    )
}

/// The stored position of a stream. Nobody else changes it until the transaction ends: a row that is changed is locked,
/// whatever the database is.
pub(super) fn locked_position(
    session: &mut Session,
    stream: &str,
) -> Result<Option<Position>, SinkError> {
    let lock = session
        .sql
        .own("UPDATE {position} SET idx = idx WHERE stream = ?");
    session
        .change(&lock, &[Value::Text(Some(stream))])
        .doing(|| format!("locking the position of {stream}"))?;
    position(session, stream)
}

/// The stored position of a stream.
pub(super) fn position(session: &mut Session, stream: &str) -> Result<Option<Position>, SinkError> {
    let reading = || format!("reading the position of {stream}");
    let select = session
        .sql
        .own("SELECT epoch, lsn, idx FROM {position} WHERE stream = ?");
    let row = session
        .first(&select, &[Value::Text(Some(stream))], &[Kind::Number; 3])
        .doing(reading)?;
    let Some(mut row) = row else {
        return Ok(None);
    };
    let epoch = unsigned(row.known_number(0).doing(reading)?);
    let lsn = unsigned(row.known_number(1).doing(reading)?);
    let index = u32::try_from(row.known_number(2).doing(reading)?).unwrap_or_default();
    Ok(Some(Position { epoch, lsn, index }))
}

/// Moves the stream's position to the batch's. Where there is none yet nothing was locked, so it is inserted and never
/// replaced: of two writers that are the first, one is refused.
fn advance(
    session: &mut Session,
    batch: &Batch,
    stored: Option<Position>,
    now_ns: i64,
) -> Result<(), SinkError> {
    let storing = || format!("storing position {} of {}", batch.position, batch.stream);
    let sql = session.sql.own(match stored {
        None => "INSERT INTO {position} (epoch, lsn, idx, captured_ns, applied_ns, stream) VALUES (?, ?, ?, ?, ?, ?)",
        Some(_) => {
            "UPDATE {position} SET epoch = ?, lsn = ?, idx = ?, captured_ns = ?, applied_ns = ? WHERE stream = ?"
        }
    });
    let values = [
        Value::Number(Some(integer(
            batch.position.epoch,
            "the database",
            storing,
        )?)),
        Value::Number(Some(integer(batch.position.lsn, "the database", storing)?)),
        Value::Number(Some(i64::from(batch.position.index))),
        Value::Number(Some(batch.captured_ns)),
        Value::Number(Some(now_ns)),
        Value::Text(Some(&batch.stream)),
    ];
    match session.change(&sql, &values) {
        Ok(_) => Ok(()),
        Err(fault) if stored.is_none() && fault.is_duplicate() => Err(transient(
            storing(),
            "another writer has begun this stream meanwhile",
        )),
        Err(fault) => Err(fault.at(storing())),
    }
}

fn change_file(work: &mut Work<'_>, batch: &Batch, changes: &FileChanges) -> Result<(), SinkError> {
    let path = &changes.file.path;
    if let Some(from) = &changes.renamed_from
        && from != path
    {
        work.rename(from, &changes.file, &moment_of_renaming(changes, batch)?)?;
    }
    if changes.fate == FileFate::Removed {
        end_history(work, batch, changes)?;
        let end = work.end.clone();
        return work.remove(path, &end);
    }
    work.ensure(&changes.file, &changes.attributes)?;
    let (session, file) = work.at(path)?;
    if file.is_history() {
        history::write(session, file, changes, batch.is_amendment())?;
    }
    for range in &changes.cleared {
        clear(session, file, range)?;
    }
    write_images(session, file, &changes.images)?;
    set_attributes(session, file, changes)
}

/// When a file got its path; of what the log says nothing, the batch's end.
fn moment_of_renaming(changes: &FileChanges, batch: &Batch) -> Result<Stamp, SinkError> {
    let mut log = changes.log.iter();
    match log.find(|logged| logged.change == LoggedChange::Renamed) {
        Some(logged) => Stamp::of(logged.position, logged.captured_ns),
        None => Stamp::of(batch.position, batch.captured_ns),
    }
}

/// Adds to the history of a file that goes what happened to it before. It may come and go in one batch.
fn end_history(work: &mut Work<'_>, batch: &Batch, changes: &FileChanges) -> Result<(), SinkError> {
    let path = &changes.file.path;
    match work.is_history(path)? {
        Some(false) => return Ok(()),
        None if !changes.logs_records() => return Ok(()),
        _ => work.ensure(&changes.file, &changes.attributes)?,
    }
    let number = work.at(path)?.1.rows.number;
    let is_missing = work.structure.is_missing(number);
    let (session, file) = work.at(path)?;
    if file.is_history()
        && !is_missing
        && let Err(error) = history::write(session, file, changes, batch.is_amendment())
    {
        work.structure.suspect = Some(number);
        return Err(error);
    }
    Ok(())
}

/// Deletes the rows and the residue of a range of identities. (A history's rows are never deleted.)
fn clear(session: &mut Session, file: &mut File, range: &Range<u64>) -> Result<(), SinkError> {
    // There is nothing beyond what the database's integers hold.
    let Some((begin, last)) = bounds(range) else {
        return Ok(());
    };
    let path = || path_text(&file.description.path);
    if file.last != Some(None) && !file.is_history() {
        let clear = session.sql.clear(&file.rows, (begin, last));
        session
            .change(&clear, &[])
            .doing(|| format!("clearing {}..{} of {}", range.start, range.end, path()))?;
        file.last = match file.last {
            // What is left may have any end.
            Some(Some(id)) if (begin..=last).contains(&id) || last == i64::MAX => {
                if (begin, last) == (0, i64::MAX) {
                    Some(None)
                } else {
                    None
                }
            }
            known => known,
        };
    }
    if file.has_residue != Some(false) {
        let delete = session.sql.own(&format!(
            "DELETE FROM {{residue}} WHERE file_id = {} AND id BETWEEN {begin} AND {last}",
            file.file_id
        ));
        session
            .change(&delete, &[])
            .doing(|| format!("clearing residue of {}", path_text(&file.description.path)))?;
        if (begin, last) == (0, i64::MAX) {
            file.has_residue = Some(false);
        }
    }
    Ok(())
}

/// Writes the last images; of a history, whose rows are written already, the residue.
fn write_images(
    session: &mut Session,
    file: &mut File,
    images: &BTreeMap<u64, Image>,
) -> Result<(), SinkError> {
    let is_history = file.is_history();
    if images.is_empty() || (is_history && !file.shape.raw) {
        return Ok(());
    }
    let place = format!(
        "{} (table {})",
        path_text(&file.description.path),
        file.table
    );
    let writing = |id: i64| format!("writing record {id} of {place}");
    let mut records = Vec::with_capacity(images.len());
    let mut gone = Vec::new();
    let mut residue = Vec::new();
    let mut ids = Vec::with_capacity(images.len());
    for (&number, image) in images {
        let id = integer(number, "the database", || {
            format!("writing record {number} of {place}")
        })?;
        ids.push(id);
        match image {
            Image::Record { .. } if is_history => {}
            Image::Record { data, rest } => {
                if file.rows.file_id.is_some() && !rest.is_empty() {
                    return Err(permanent(
                        writing(id),
                        "a block of a static file has nothing beside its content",
                        "report this: it is a fault of Counterfoil",
                    ));
                }
                records.push(Record {
                    id,
                    data,
                    rest,
                    stamp: None,
                });
            }
            Image::Residue { bytes, reason } => {
                gone.push(id);
                // A table without the bytes of records has none of what isn't a record either.
                if file.shape.raw {
                    residue.push((id, bytes.as_slice(), reason.as_str()));
                }
            }
            Image::Absent => gone.push(id),
        }
    }
    let last = match file.last {
        _ if is_history => None,
        Some(last) => last,
        None => rows::last(session, &file.rows)?,
    };
    if !is_history {
        file.last = Some(last);
        // What lies beyond the last row has none.
        gone.truncate(last.map_or(0, |last| gone.partition_point(|&id| id <= last)));
        rows::delete(session, &file.rows, &gone)
            .doing(|| format!("deleting records of {place}"))?;
    }
    if file.has_residue != Some(false) {
        delete_residue(session, file, &ids, &place)?;
    }
    if let Some((first, ..)) = residue.first() {
        put_residue(session, file.file_id, &residue)
            .map_err(|fault| fault.of_rows(writing(*first)))?;
        file.has_residue = Some(true);
    }
    let target = rows::Target {
        rows: &file.rows,
        shape: &file.shape,
        plan: file.description.plan.as_deref(),
    };
    rows::write(session, target, &records, last, writing)?;
    if let Some(record) = records.last() {
        file.last = Some(last.max(Some(record.id)));
    }
    Ok(())
}

/// Deletes the residue of these identities.
fn delete_residue(
    session: &mut Session,
    file: &mut File,
    ids: &[i64],
    place: &str,
) -> Result<(), SinkError> {
    let looking = || format!("looking for residue of {place}");
    if file.has_residue.is_none() {
        let select = session
            .sql
            .own("SELECT COUNT(*) FROM {residue} WHERE file_id = ?");
        let row = session
            .first(
                &select,
                &[Value::Number(Some(file.file_id))],
                &[Kind::Number],
            )
            .doing(looking)?;
        file.has_residue = match row {
            Some(mut row) => Some(row.known_number(0).doing(looking)? > 0),
            None => None,
        };
    }
    if file.has_residue == Some(false) {
        return Ok(());
    }
    for ids in ids.chunks(RESIDUE_IDS_MAX) {
        let delete = session.sql.own(&format!(
            "DELETE FROM {{residue}} WHERE file_id = {} AND {}",
            file.file_id,
            one_of(ids)
        ));
        session
            .change(&delete, &[])
            .doing(|| format!("deleting residue of {place}"))?;
    }
    Ok(())
}

/// Deletes all residue of a file.
pub(super) fn delete_all_residue(session: &mut Session, file_id: i64) -> Result<(), Fault> {
    let delete = session.sql.own("DELETE FROM {residue} WHERE file_id = ?");
    session.change(&delete, &[Value::Number(Some(file_id))])?;
    Ok(())
}

/// Whatever had these identities is deleted already.
pub(super) fn put_residue(
    session: &mut Session,
    file_id: i64,
    residue: &[(i64, &[u8], &str)],
) -> Result<Option<usize>, Fault> {
    let insert = Statement {
        sql: session.sql.own(&format!(
            "INSERT INTO {{residue}} (file_id, id, residue, reason) VALUES ({file_id}, ?, ?, ?)"
        )),
        order: vec![0, 1, 2],
    };
    let kinds = [Kind::Number, Kind::Bytes, Kind::Text];
    session.array(&insert, &kinds, residue.len(), |row, column| {
        let (id, bytes, reason) = residue[row];
        match column {
            0 => Value::Number(Some(id)),
            1 => Value::Bytes(Some(bytes)),
            _ => Value::Text(Some(reason)),
        }
    })
}

/// Stores size and attributes, if they differ from what is stored.
fn set_attributes(
    session: &mut Session,
    file: &mut File,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    let attributes = &changes.attributes;
    if file.attributes == *attributes {
        return Ok(());
    }
    let storing = || {
        format!(
            "storing the attributes of {}",
            path_text(&file.description.path)
        )
    };
    let values = [
        Value::Number(Some(integer(attributes.size, "the database", storing)?)),
        Value::Number(attributes.mode.map(i64::from)),
        Value::Number(attributes.uid.map(i64::from)),
        Value::Number(attributes.gid.map(i64::from)),
        Value::Number(attributes.modified_ns),
        Value::Text(attributes.kind.map(FileKind::name)),
        Value::Number(Some(file.file_id)),
    ];
    let update = session.sql.own(
        "UPDATE {files} SET file_size = ?, file_mode = ?, owner_uid = ?, owner_gid = ?, modified_ns = ?, file_kind = ?
         WHERE file_id = ?",
    );
    session.change(&update, &values).doing(storing)?;
    file.attributes = *attributes;
    Ok(())
}
