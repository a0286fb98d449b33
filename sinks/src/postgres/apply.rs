//! A batch, as one transaction.

use super::catalogue::Memory;
use super::error::Doing;
use super::history;
use super::rows::{self, Moment, Pending};
use super::session::{Parameters, Session};
use crate::sql::{integer, now_ns, unsigned};
use crate::{Batch, FileChanges, FileFate, Image, LoggedChange, SinkError};
use counterfoil_proto::Position;
use futures_util::future::join;
use tokio_postgres::Row;

/// How a transaction is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    TakeBack,
}

/// Applies all of `batch`; after an error the transaction is to be rolled back. Gives back what is to be remembered.
pub(super) async fn apply(
    session: &mut Session,
    mut memory: Memory,
    batch: &Batch,
    ending: Ending,
) -> Result<Memory, SinkError> {
    let applying = || {
        format!(
            "applying a batch up to {} of {}",
            batch.position, batch.stream
        )
    };
    let stored = begin(session, &batch.stream).await?;
    batch.check_follows(stored)?;
    if memory.position != stored {
        // Somebody else was here since, or this is the first time.
        memory = Memory::default();
    }
    let storing = || format!("storing position {} of {}", batch.position, batch.stream);
    let epoch = integer(batch.position.epoch, "PostgreSQL", storing)?;
    let lsn = integer(batch.position.lsn, "PostgreSQL", storing)?;
    memory.prepare(session, batch).await?;
    let mut pending = Pending::default();
    for at in 0..batch.files.len() {
        change_file(session, &mut memory, &mut pending, batch, at).await?;
    }
    pending.flush(session).await?;
    memory.flush(session, &batch.stream).await?;
    let update = format!(
        "UPDATE {} SET epoch = $2, lsn = $3, idx = $4, captured_ns = $5, applied_ns = $6 WHERE stream = $1",
        session.name("counterfoil_position")
    );
    let update = session.prepare(&update).await.doing(storing)?;
    let (index, now) = (i64::from(batch.position.index), now_ns());
    let parameters: Parameters<'_> = &[
        &batch.stream,
        &epoch,
        &lsn,
        &index,
        &batch.captured_ns,
        &now,
    ];
    if ending == Ending::TakeBack {
        session
            .client
            .execute(&update, parameters)
            .await
            .doing(storing)?;
        // What else would be looked at by COMMIT only.
        let last = "SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK";
        session.run(last).await.doing(applying)?;
        session.forget();
        return Ok(Memory::default());
    }
    // Sent together: where the first fails, the second commits nothing.
    let (stored, committed) = join(
        session.client.execute(&update, parameters),
        session.client.batch_execute("COMMIT"),
    )
    .await;
    stored.doing(storing)?;
    committed.doing(applying)?;
    memory.position = Some(batch.position);
    Ok(memory)
}

/// Begins the transaction. Gives the stored position of the stream, which nobody else can move until it ends.
async fn begin(session: &mut Session, stream: &str) -> Result<Option<Position>, SinkError> {
    let locking = || format!("locking the position of {stream}");
    let table = session.name("counterfoil_position");
    let select = format!("SELECT epoch, lsn, idx FROM {table} WHERE stream = $1 FOR UPDATE");
    let statement = session.prepare(&select).await.doing(locking)?;
    let parameters: Parameters<'_> = &[&stream];
    // Sent together.
    let (begun, rows) = join(
        session.client.batch_execute("BEGIN"),
        session.client.query(&statement, parameters),
    )
    .await;
    begun.doing(locking)?;
    if let Some(row) = rows.doing(locking)?.first() {
        return read_position(row).map(Some).doing(locking);
    }
    // There is no row to lock, so one is made. Another session that makes it too waits here for the end of this one.
    let insert =
        format!("INSERT INTO {table} VALUES ($1, 0, 0, 0, 0, 0) ON CONFLICT (stream) DO NOTHING");
    if session.execute(&insert, &[&stream]).await.doing(locking)? == 1 {
        return Ok(None);
    }
    let rows = session.query(&select, &[&stream]).await.doing(locking)?;
    rows.first().map(read_position).transpose().doing(locking)
}

/// A position from its three columns.
pub(super) fn read_position(row: &Row) -> Result<Position, tokio_postgres::Error> {
    let index: i64 = row.try_get(2)?;
    Ok(Position {
        epoch: unsigned(row.try_get(0)?),
        lsn: unsigned(row.try_get(1)?),
        index: u32::try_from(index).unwrap_or_default(),
    })
}

/// Does what the `at`th changes of a batch say.
async fn change_file<'b>(
    session: &mut Session,
    memory: &mut Memory,
    pending: &mut Pending<'b>,
    batch: &'b Batch,
    at: usize,
) -> Result<(), SinkError> {
    let Some(changes) = batch.files.get(at) else {
        return Ok(());
    };
    let (stream, path) = (&*batch.stream, &changes.file.path);
    let moment = Moment::before(batch, at)?;
    let is_moved = changes
        .renamed_from
        .as_ref()
        .is_some_and(|from| from != path);
    // Whatever does more to a tree's table than to put blocks there comes after the blocks that were put there before.
    if is_moved || changes.fate == FileFate::Removed || !changes.cleared.is_empty() {
        pending.flush(session).await?;
    }
    if let Some(from) = &changes.renamed_from
        && is_moved
    {
        memory
            .rename(session, stream, from, &changes.file, moment)
            .await?;
    }
    if changes.fate == FileFate::Removed {
        // A history says what was before, too.
        if has_images(changes) {
            let file = memory
                .ensure(session, stream, &changes.file, moment)
                .await?;
            if file.table.is_history() {
                history::write(session, file, &changes.log).await?;
            }
        }
        let end = Moment::before(batch, at + 1)?;
        return memory.remove(session, stream, path, end).await;
    }
    if memory.would_redescribe(&changes.file) {
        pending.flush(session).await?;
    }
    let file = memory
        .ensure(session, stream, &changes.file, moment)
        .await?;
    for range in &changes.cleared {
        rows::clear(session, file, range).await?;
    }
    rows::write(session, pending, file, changes).await?;
    if file.table.is_history() {
        history::write(session, file, &changes.log).await?;
    }
    file.set_attributes(changes.attributes);
    Ok(())
}

/// Whether records of a history were written.
fn has_images(changes: &FileChanges) -> bool {
    let images = changes
        .log
        .iter()
        .filter_map(|logged| match &logged.change {
            LoggedChange::Image { image, .. } => Some(image),
            LoggedChange::Cleared(_) | LoggedChange::Renamed => None,
        });
    let mut records = images.filter(|image| matches!(image, Image::Record { .. }));
    records.next().is_some()
}
