//! A batch, as one transaction.

use super::catalogue::Catalogue;
use super::columns::Filler;
use super::error::Doing;
use super::file::File;
use super::history;
use super::schema::integer;
use crate::sql::{bounds, now_ns, permanent, unsigned};
use crate::{Batch, FileChanges, FileFate, Image, LoggedChange, SinkError};
use counterfoil_proto::{Position, path_text};
use rusqlite::{CachedStatement, Connection, OptionalExtension, TransactionBehavior, params};
use std::ops::Range;

const DELETE_RESIDUE: &str = "DELETE FROM counterfoil_residue WHERE file_id = ?1 AND id = ?2";

/// When something happened, in numbers that SQLite holds.
#[derive(Clone, Copy, Default)]
pub(super) struct Moment {
    /// Epoch, lsn and index.
    pub(super) position: [i64; 3],
    pub(super) captured_ns: i64,
}

impl Moment {
    pub(super) fn of(position: Position, captured_ns: i64) -> Result<Moment, SinkError> {
        let storing = || format!("storing position {position}");
        Ok(Moment {
            position: [
                integer(position.epoch, storing)?,
                integer(position.lsn, storing)?,
                position.index.into(),
            ],
            captured_ns: captured_ns.max(0),
        })
    }

    /// The end of the batch that is being applied.
    pub(super) fn of_batch(connection: &Connection, stream: &str) -> Result<Moment, SinkError> {
        connection
            .prepare_cached(
                "SELECT epoch, lsn, idx, captured_ns FROM counterfoil_position WHERE stream = ?1",
            )
            .and_then(|mut select| {
                select.query_row([stream], |row| {
                    Ok(Moment {
                        position: [row.get(0)?, row.get(1)?, row.get(2)?],
                        captured_ns: row.get::<_, i64>(3)?.max(0),
                    })
                })
            })
            .doing(|| format!("reading the position of {stream}"))
    }

    /// When a file got its path; of what the log says nothing, the batch's end.
    fn of_renaming(changes: &FileChanges, batch: &Batch) -> Result<Moment, SinkError> {
        let mut log = changes.log.iter();
        match log.find(|logged| logged.change == LoggedChange::Renamed) {
            Some(logged) => Moment::of(logged.position, logged.captured_ns),
            None => Moment::of(batch.position, batch.captured_ns),
        }
    }
}

/// What becomes of what a batch did, when all of it went well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    TakeBack,
}

/// Applies all of `batch`, or nothing. After an error, and when it is taken back, the catalogue is to be thrown away.
pub(super) fn apply(
    connection: &mut Connection,
    catalogue: &mut Catalogue,
    batch: &Batch,
    ending: Ending,
) -> Result<(), SinkError> {
    let applying = || {
        format!(
            "applying a batch up to {} of {}",
            batch.position, batch.stream
        )
    };
    // Immediate: a second writer is found out before anything is done, not in the middle.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .doing(applying)?;
    catalogue.refresh(&transaction)?;
    advance(&transaction, batch)?;
    for changes in &batch.files {
        change_file(&transaction, catalogue, batch, changes)?;
    }
    match ending {
        Ending::Commit => transaction.commit(),
        // (Nothing is checked later than at once: this connection doesn't enforce foreign keys.)
        Ending::TakeBack => transaction.rollback(),
    }
    .doing(applying)
}

/// The stored position of a stream.
pub(super) fn position(
    connection: &Connection,
    stream: &str,
) -> Result<Option<Position>, SinkError> {
    connection
        .prepare_cached("SELECT epoch, lsn, idx FROM counterfoil_position WHERE stream = ?1")
        .and_then(|mut select| {
            select
                .query_row([stream], |row| {
                    Ok(Position {
                        epoch: unsigned(row.get(0)?),
                        lsn: unsigned(row.get(1)?),
                        index: row.get(2)?,
                    })
                })
                .optional()
        })
        .doing(|| format!("reading the position of {stream}"))
}

/// Moves the stream's position to the batch's, which has to be after it.
fn advance(connection: &Connection, batch: &Batch) -> Result<(), SinkError> {
    batch.check_follows(position(connection, &batch.stream)?)?;
    let storing = || format!("storing position {} of {}", batch.position, batch.stream);
    let epoch = integer(batch.position.epoch, storing)?;
    let lsn = integer(batch.position.lsn, storing)?;
    connection
        .prepare_cached(
            "INSERT INTO counterfoil_position (stream, epoch, lsn, idx, captured_ns, applied_ns)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (stream) DO UPDATE
             SET epoch = excluded.epoch, lsn = excluded.lsn, idx = excluded.idx,
                 captured_ns = excluded.captured_ns, applied_ns = excluded.applied_ns",
        )
        .and_then(|mut upsert| {
            upsert.execute(params![
                batch.stream,
                epoch,
                lsn,
                batch.position.index,
                batch.captured_ns,
                now_ns()
            ])
        })
        .doing(storing)?;
    Ok(())
}

fn change_file(
    connection: &Connection,
    catalogue: &mut Catalogue,
    batch: &Batch,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    let stream = &batch.stream;
    let path = &changes.file.path;
    if let Some(from) = &changes.renamed_from
        && from != path
    {
        let moment = Moment::of_renaming(changes, batch)?;
        catalogue.rename(connection, stream, from, &changes.file, moment)?;
    }
    if changes.fate == FileFate::Removed {
        if is_history_to_end(connection, catalogue, stream, changes)? {
            let file = catalogue.ensure(connection, stream, &changes.file, &changes.attributes)?;
            if file.table.is_history() {
                history::write_log(connection, file, changes)?;
            }
        }
        return catalogue.remove(connection, stream, path);
    }
    let file = catalogue.ensure(connection, stream, &changes.file, &changes.attributes)?;
    if file.table.is_history() {
        history::write_log(connection, file, changes)?;
    }
    for range in &changes.cleared {
        clear(connection, file, range)?;
    }
    write_images(connection, file, changes)?;
    file.set_attributes(connection, &changes.attributes)
}

/// Whether a file that goes leaves a history with something to add to it: it is there, or came and goes in one batch.
fn is_history_to_end(
    connection: &Connection,
    catalogue: &mut Catalogue,
    stream: &str,
    changes: &FileChanges,
) -> Result<bool, SinkError> {
    Ok(
        match catalogue.find(connection, stream, &changes.file.path)? {
            Some(file) => file.table.is_history(),
            None => changes.logs_records(),
        },
    )
}

/// Deletes the rows and the residue of a range of identities.
fn clear(connection: &Connection, file: &mut File, range: &Range<u64>) -> Result<(), SinkError> {
    // There is nothing beyond what SQLite's integers hold.
    let Some((begin, last)) = bounds(range) else {
        return Ok(());
    };
    let clearing = || {
        format!(
            "clearing {}..{} of {}",
            range.start,
            range.end,
            path_text(&file.description.path)
        )
    };
    match (begin, last) {
        _ if file.table.is_history() => Ok(()),
        (0, i64::MAX) => file.table.clear_all(connection, file.file_id),
        bounds => file.table.clear(connection, file.file_id, bounds),
    }
    .doing(clearing)?;
    if file.may_have_any_residue(connection)? {
        let clearing = || format!("clearing residue of {}", path_text(&file.description.path));
        connection
            .prepare_cached(
                "DELETE FROM counterfoil_residue WHERE file_id = ?1 AND id BETWEEN ?2 AND ?3",
            )
            .and_then(|mut delete| delete.execute([file.file_id, begin, last]))
            .doing(clearing)?;
        file.note_no_residue(begin, i64::try_from(range.end).ok());
    }
    Ok(())
}

/// Writes the last images, in order of identity.
fn write_images(
    connection: &Connection,
    file: &mut File,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    // (Without raw images there is no residue, and a history's rows are written already.)
    let (has_raw, is_history) = (file.table.shape.raw, file.table.is_history());
    if changes.images.is_empty() || (is_history && !has_raw) {
        return Ok(());
    }
    let mut filler = Filler::new(changes.file.plan.as_deref());
    let place = format!(
        "{} (table {})",
        path_text(&file.description.path),
        file.table.name
    );
    let preparing = || format!("preparing to write {place}");
    let mut upsert = connection
        .prepare_cached(&file.table.upsert)
        .doing(preparing)?;
    let mut delete: Option<CachedStatement<'_>> = None;
    let mut upsert_residue: Option<CachedStatement<'_>> = None;
    let mut delete_residue: Option<CachedStatement<'_>> = None;
    for (&number, image) in &changes.images {
        let writing = || format!("writing record {number} of {place}");
        let id = integer(number, writing)?;
        if is_history {
            // Its rows are written already.
        } else if let Image::Record { data, rest } = image {
            if file.table.is_shared() && !rest.is_empty() {
                return Err(permanent(
                    writing(),
                    "a block of a static file has nothing beside its content",
                    "report this: it is a fault of Counterfoil",
                ));
            }
            file.table
                .put(&mut upsert, (file.file_id, id), (data, rest), &mut filler)
                .doing(writing)?;
        } else {
            let delete = match &mut delete {
                Some(delete) => delete,
                None => delete.insert(
                    connection
                        .prepare_cached(&file.table.delete)
                        .doing(preparing)?,
                ),
            };
            file.table
                .remove(delete, (file.file_id, id))
                .doing(writing)?;
        }
        if !has_raw {
            continue;
        }
        if let Image::Residue { bytes, reason } = image {
            let upsert = match &mut upsert_residue {
                Some(upsert) => upsert,
                None => upsert_residue.insert(
                    connection
                        .prepare_cached(
                            "INSERT INTO counterfoil_residue (file_id, id, bytes, reason) VALUES (?1, ?2, ?3, ?4)
                             ON CONFLICT (file_id, id) DO UPDATE SET bytes = excluded.bytes, reason = excluded.reason",
                        )
                        .doing(preparing)?,
                ),
            };
            upsert
                .execute(params![file.file_id, id, bytes.as_slice(), reason])
                .doing(writing)?;
            file.note_residue(id);
        } else if file.may_have_residue(connection, id)? {
            let delete = match &mut delete_residue {
                Some(delete) => delete,
                None => delete_residue
                    .insert(connection.prepare_cached(DELETE_RESIDUE).doing(preparing)?),
            };
            delete.execute([file.file_id, id]).doing(writing)?;
            file.note_no_residue(id, Some(id.saturating_add(1)));
        }
    }
    Ok(())
}
