//! A batch, as one transaction.

use super::catalogue::{File, Work};
use super::error::{Doing, transient};
use super::history;
use super::rows::{Record, Stamp, one_of, within};
use super::session::{Session, column};
use crate::{Batch, FileChanges, FileFate, FileKind, Image, Logged, LoggedChange, SinkError};
use counterfoil_proto::{Position, path_text};
use mysql_async::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// Identities per statement about residue.
const RESIDUE_IDS_MAX: usize = 500;

/// Does all of the batch in the transaction that has begun, but the commit. After an error what is known is to be thrown
/// away.
pub(super) async fn apply(work: &mut Work<'_>, batch: &Batch) -> Result<(), SinkError> {
    let stored = position(work.session, &batch.stream, Lock::Row).await?;
    batch.check_follows(stored)?;
    work.known.refresh(stored);
    advance(work.session, batch, stored, work.now_ns).await?;
    let paths: Vec<&[u8]> = batch
        .files
        .iter()
        .flat_map(|changes| {
            let renamed_from = changes.renamed_from.as_deref();
            renamed_from.into_iter().chain([&*changes.file.path])
        })
        .collect();
    work.look_up(&paths).await?;
    for changes in &batch.files {
        change_file(work, batch, changes).await?;
    }
    if let Some(structure) = work.structure {
        structure.check().await?;
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

/// Whether a row that is read is locked until the transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    None,
    Row,
}

/// The stored position of a stream.
pub(super) async fn position(
    session: &mut Session,
    stream: &str,
    lock: Lock,
) -> Result<Option<Position>, SinkError> {
    let reading = || format!("reading the position of {stream}");
    let sql = match lock {
        Lock::None => "SELECT epoch, lsn, idx FROM counterfoil_position WHERE stream = ?",
        Lock::Row => "SELECT epoch, lsn, idx FROM counterfoil_position WHERE stream = ? FOR UPDATE",
    };
    let Some(row) = session.first(sql, (stream,)).await.doing(reading)? else {
        return Ok(None);
    };
    Ok(Some(Position {
        epoch: column(&row, 0).doing(reading)?,
        lsn: column(&row, 1).doing(reading)?,
        index: column(&row, 2).doing(reading)?,
    }))
}

/// Moves the stream's position to the batch's. Where there is none yet nothing was locked, so it is inserted and never
/// replaced: of two writers that are the first, one is refused.
async fn advance(
    session: &mut Session,
    batch: &Batch,
    stored: Option<Position>,
    now_ns: i64,
) -> Result<(), SinkError> {
    let storing = || format!("storing position {} of {}", batch.position, batch.stream);
    let sql = match stored {
        None => {
            "INSERT INTO counterfoil_position (epoch, lsn, idx, captured_ns, applied_ns, stream) VALUES (?, ?, ?, ?, ?, ?)"
        }
        Some(_) => {
            "UPDATE counterfoil_position SET epoch = ?, lsn = ?, idx = ?, captured_ns = ?, applied_ns = ? WHERE stream = ?"
        }
    };
    let params = (
        batch.position.epoch,
        batch.position.lsn,
        batch.position.index,
        batch.captured_ns,
        now_ns,
        &batch.stream,
    );
    let stored_rows = session.run(sql, params).await.doing(storing)?;
    if stored_rows != 1 {
        return Err(transient(
            storing(),
            format!("{stored_rows} rows were changed, not one"),
        ));
    }
    Ok(())
}

async fn change_file(
    work: &mut Work<'_>,
    batch: &Batch,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    let path = &changes.file.path;
    if let Some(from) = &changes.renamed_from
        && from != path
    {
        let renamed = |logged: &&Logged| logged.change == LoggedChange::Renamed;
        let logged = changes.log.first().filter(renamed);
        work.rename(from, &changes.file, deleted(batch, logged))
            .await?;
    }
    let keeps_all = |change: &LoggedChange| {
        matches!(
            change,
            LoggedChange::Image {
                image: Image::Record { .. },
                ..
            }
        )
    };
    let is_removed = changes.fate == FileFate::Removed;
    // Of a file that comes and goes within a batch a history has every change all the same.
    if !is_removed || changes.log.iter().any(|logged| keeps_all(&logged.change)) {
        work.ensure(&changes.file, &changes.attributes).await?;
    }
    if !changes.log.is_empty() && work.is_history(path) {
        let (session, file) = work.at(path)?;
        let writing = |id: u64| {
            format!(
                "writing record {id} of {} (table {})",
                path_text(&file.description.path),
                file.table
            )
        };
        history::write(session, file, &changes.log, &writing).await?;
    }
    if is_removed {
        return work.remove(path, deleted(batch, changes.log.last())).await;
    }
    let (session, file) = work.at(path)?;
    for range in &changes.cleared {
        clear(session, file, range).await?;
    }
    write_images(session, file, &changes.images).await?;
    set_attributes(session, file, changes).await
}

/// What a history says of records that go with a change of their file, or with the batch where nothing else is known.
fn deleted(batch: &Batch, logged: Option<&Logged>) -> Stamp {
    Stamp {
        position: logged.map_or(batch.position, |logged| logged.position),
        captured_ns: logged.map_or(batch.captured_ns, |logged| logged.captured_ns),
        is_delete: true,
    }
}

/// Deletes the rows and the residue of a range of identities.
async fn clear(
    session: &mut Session,
    file: &mut File,
    range: &Range<u64>,
) -> Result<(), SinkError> {
    if range.start >= range.end {
        return Ok(());
    }
    let path = || path_text(&file.description.path);
    let clearing = || format!("clearing {}..{} of {}", range.start, range.end, path());
    // Of a history, its log says what was cleared.
    if file.last != Some(None) && !file.rows.is_history() {
        file.rows.clear(session, range).await.doing(clearing)?;
        let is_all = range.end == u64::MAX;
        file.last = match file.last {
            // What is left may have any end.
            Some(Some(last)) if range.contains(&last) || is_all => match (range.start, is_all) {
                (0, true) => Some(None),
                _ => None,
            },
            known => known,
        };
    }
    if file.has_residue != Some(false) && file.rows.has_raw() {
        let sql = format!(
            "DELETE FROM counterfoil_residue WHERE file_id = {} AND {}",
            file.file_id,
            within(range)
        );
        session
            .text(&sql)
            .await
            .doing(|| format!("clearing residue of {}", path_text(&file.description.path)))?;
        if range.start == 0 && range.end == u64::MAX {
            file.has_residue = Some(false);
        }
    }
    Ok(())
}

/// Writes the last images.
async fn write_images(
    session: &mut Session,
    file: &mut File,
    images: &BTreeMap<u64, Image>,
) -> Result<(), SinkError> {
    if images.is_empty() {
        return Ok(());
    }
    let place = format!(
        "{} (table {})",
        path_text(&file.description.path),
        file.table
    );
    let writing = |id: u64| format!("writing record {id} of {place}");
    let mut records = Vec::with_capacity(images.len());
    let mut gone = Vec::new();
    let mut residue = Vec::new();
    for (&id, image) in images {
        match image {
            Image::Record { data, rest } => {
                if file.rows.file_id.is_some() && !rest.is_empty() {
                    return Err(crate::sql::permanent(
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
                if file.rows.has_raw() {
                    residue.push((id, bytes.as_slice(), reason.as_str()));
                }
            }
            Image::Absent => gone.push(id),
        }
    }
    if file.has_residue != Some(false) && file.rows.has_raw() {
        delete_residue(session, file, images, &place).await?;
    }
    for &(id, bytes, reason) in &residue {
        put_residue(session, file.file_id, (id, bytes, reason), || writing(id)).await?;
        file.has_residue = Some(true);
    }
    if file.rows.is_history() {
        // Its log says what became of its records.
        return Ok(());
    }
    let last = match file.last {
        Some(last) => last,
        None => file.rows.last(session).await?,
    };
    file.last = Some(last);
    // What lies beyond the last row has none.
    gone.truncate(last.map_or(0, |last| gone.partition_point(|&id| id <= last)));
    file.rows
        .delete(session, &gone)
        .await
        .doing(|| format!("deleting records of {place}"))?;
    file.rows.write(session, &records, last, writing).await?;
    if let Some(record) = records.last() {
        file.last = Some(last.max(Some(record.id)));
    }
    Ok(())
}

/// Deletes the residue of every identity that has an image.
async fn delete_residue(
    session: &mut Session,
    file: &mut File,
    images: &BTreeMap<u64, Image>,
    place: &str,
) -> Result<(), SinkError> {
    let looking = || format!("looking for residue of {place}");
    if file.has_residue.is_none() {
        let row = session
            .first(
                "SELECT EXISTS (SELECT 1 FROM counterfoil_residue WHERE file_id = ?)",
                (file.file_id,),
            )
            .await
            .doing(looking)?;
        file.has_residue = match row {
            Some(row) => Some(column::<u8>(&row, 0).doing(looking)? != 0),
            None => None,
        };
    }
    if file.has_residue == Some(false) {
        return Ok(());
    }
    let ids: Vec<u64> = images.keys().copied().collect();
    for ids in ids.chunks(RESIDUE_IDS_MAX) {
        let sql = format!(
            "DELETE FROM counterfoil_residue WHERE file_id = {} AND {}",
            file.file_id,
            one_of(ids)
        );
        session
            .text(&sql)
            .await
            .doing(|| format!("deleting residue of {place}"))?;
    }
    Ok(())
}

/// Whatever had this identity is deleted already.
async fn put_residue(
    session: &mut Session,
    file_id: u64,
    (id, bytes, reason): (u64, &[u8], &str),
    doing: impl Fn() -> String,
) -> Result<(), SinkError> {
    session.check_size(bytes.len() + reason.len(), &doing)?;
    session
        .run(
            "INSERT INTO counterfoil_residue (file_id, id, bytes, reason) VALUES (?, ?, ?, ?)",
            (file_id, id, bytes, reason),
        )
        .await
        .doing(doing)?;
    Ok(())
}

/// Stores size and attributes, if they differ from what is stored.
async fn set_attributes(
    session: &mut Session,
    file: &mut File,
    changes: &FileChanges,
) -> Result<(), SinkError> {
    let attributes = &changes.attributes;
    if file.attributes == *attributes {
        return Ok(());
    }
    let params: Vec<Value> = vec![
        attributes.size.into(),
        attributes.mode.into(),
        attributes.uid.into(),
        attributes.gid.into(),
        attributes.modified_ns.into(),
        attributes.kind.map(FileKind::name).into(),
        file.file_id.into(),
    ];
    session
        .run(
            "UPDATE counterfoil_files SET size = ?, mode = ?, uid = ?, gid = ?, modified_ns = ?, kind = ? WHERE file_id = ?",
            params,
        )
        .await
        .doing(|| format!("storing the attributes of {}", path_text(&file.description.path)))?;
    file.attributes = *attributes;
    Ok(())
}
