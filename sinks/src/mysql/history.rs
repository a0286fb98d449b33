//! Tables that keep every change: a row for each, and none is ever changed.
//!
//! What is current of a record is its last row, if that isn't one that says it was deleted. A history stays when its file goes,
//! and goes on with the next file of its name; what is current of a file goes with it when it is renamed.

use super::catalogue::{File, Work};
use super::columns::stored_name;
use super::error::Doing;
use super::evolve::Pages;
use super::rows::{Record, Rows, Stamp, one_of, within};
use super::schema::quoted;
use super::session::{Session, column};
use crate::naming::wanted_name;
use crate::plan::UNDECODED;
use crate::{FileDescription, Image, Logged, LoggedChange, SinkError};
use counterfoil_proto::path_text;
use mysql_async::Error;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Identities per statement.
const IDS_MAX: usize = 500;

/// A condition on a row of a history that is called `row` in the query: it is its record's last one, and not that it was
/// deleted.
pub(super) fn is_current(table: &str, row: &str) -> String {
    format!(
        "{row}.op = 'put' AND NOT EXISTS (
             SELECT 1 FROM {table} AS n WHERE n.id = {row}.id AND (n.epoch > {row}.epoch OR (n.epoch = {row}.epoch
                 AND (n.lsn > {row}.lsn OR (n.lsn = {row}.lsn AND n.idx > {row}.idx)))))"
    )
}

/// Writes the rows of these changes.
pub(super) async fn write(
    session: &mut Session,
    file: &File,
    log: &[Logged],
    doing: &impl Fn(u64) -> String,
) -> Result<(), SinkError> {
    let rows = &file.rows;
    let mut gone: Vec<u64> = log
        .iter()
        .filter_map(|logged| match &logged.change {
            LoggedChange::Image { id, image } if !is_record(image) => Some(*id),
            _ => None,
        })
        .collect();
    gone.sort_unstable();
    gone.dedup();
    let mut is_there: HashMap<u64, bool> = gone.iter().map(|&id| (id, false)).collect();
    for ids in gone.chunks(IDS_MAX) {
        let sql = format!(
            "SELECT h.id FROM {table} AS h WHERE h.{} AND {}",
            one_of(ids),
            is_current(&rows.table(), "h"),
            table = rows.table()
        );
        let first = ids.first().copied().unwrap_or_default();
        for row in session.rows(&sql, ()).await.doing(|| doing(first))? {
            is_there.insert(column(&row, 0).doing(|| doing(first))?, true);
        }
    }
    let mut records: Vec<Record<'_>> = Vec::with_capacity(log.len());
    for logged in log {
        let stamp = |is_delete| Stamp {
            position: logged.position,
            captured_ns: logged.captured_ns,
            is_delete,
        };
        match &logged.change {
            LoggedChange::Image {
                id,
                image: Image::Record { data, rest },
            } => {
                records.push(Record {
                    id: *id,
                    data,
                    rest,
                    stamp: Some(stamp(false)),
                });
                is_there.entry(*id).and_modify(|there| *there = true);
            }
            LoggedChange::Image { id, .. } => {
                if is_there.insert(*id, false) == Some(true) {
                    records.push(Record {
                        id: *id,
                        data: &[],
                        rest: &[],
                        stamp: Some(stamp(true)),
                    });
                }
            }
            LoggedChange::Cleared(range) => {
                add(session, file, &records, doing).await?;
                records.clear();
                clear(session, rows, range, stamp(true))
                    .await
                    .doing(|| doing(range.start))?;
                for (id, there) in &mut is_there {
                    *there &= *id < range.start || (*id >= range.end && range.end != u64::MAX);
                }
            }
            // The rows that it takes are there already.
            LoggedChange::Renamed => {}
        }
    }
    add(session, file, &records, doing).await
}

fn is_record(image: &Image) -> bool {
    matches!(image, Image::Record { .. })
}

async fn add(
    session: &mut Session,
    file: &File,
    records: &[Record<'_>],
    doing: &impl Fn(u64) -> String,
) -> Result<(), SinkError> {
    for record in records {
        session.check_size(record.data.len() + record.rest.len(), || doing(record.id))?;
    }
    file.rows.append(session, records, doing).await
}

/// Says of all that is current in a range that it was deleted; `u64::MAX` as end means all that follow.
pub(super) async fn clear(
    session: &mut Session,
    rows: &Rows,
    range: &Range<u64>,
    stamp: Stamp,
) -> Result<(), Error> {
    if range.start >= range.end {
        return Ok(());
    }
    delete_where(session, rows, &within(range).replace("id ", "h.id "), stamp).await
}

/// Says of all that is current and fulfils a condition that it was deleted.
async fn delete_where(
    session: &mut Session,
    rows: &Rows,
    condition: &str,
    stamp: Stamp,
) -> Result<(), Error> {
    let table = rows.table();
    let sql = format!(
        "INSERT INTO {table} (id, epoch, lsn, idx, op, captured_at)
         SELECT h.id, ?, ?, ?, 'delete', ? FROM {table} AS h WHERE {condition} AND {}",
        is_current(&table, "h")
    );
    let params = (
        stamp.position.epoch,
        stamp.position.lsn,
        stamp.position.index,
        stamp.captured_at(),
    );
    session.run(&sql, params).await?;
    Ok(())
}

impl Work<'_> {
    /// Moves a file whose table is a history to another path: what is current goes with it, and both histories stay.
    pub(super) async fn rename_history(
        &mut self,
        from: &[u8],
        description: &Arc<FileDescription>,
        stamp: Stamp,
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
        let stays_one = description
            .plan
            .as_ref()
            .is_some_and(|plan| plan.is_history());
        if same_name || !stays_one {
            self.remove(&description.path, stamp).await?;
            return self.redescribe(from, description).await;
        }
        let (rows, table) = match self.known.take(&description.path) {
            Some(there) if there.rows.is_history() => {
                self.forget(&there).await.doing(moving)?;
                let rows = self.fit(there.rows, description).await?;
                if self.may_define() {
                    self.structure().await?;
                    self.mark_stale(&there.table).await?;
                }
                (rows, there.table)
            }
            there => {
                self.known.put_back(&description.path, there);
                self.remove(&description.path, stamp).await?;
                self.take_table(description).await?
            }
        };
        let Some(mut file) = self.known.take(from) else {
            return Ok(());
        };
        let gone = format!(
            "NOT EXISTS (SELECT 1 FROM {old} AS o WHERE o.id = h.id AND {})",
            is_current(&file.rows.table(), "o"),
            old = file.rows.table()
        );
        delete_where(self.session, &rows, &gone, stamp)
            .await
            .doing(moving)?;
        let put = Stamp {
            is_delete: false,
            ..stamp
        };
        if file.rows.has_raw() {
            let condition = format!(" AND {}", is_current(&file.rows.table(), "h"));
            let mut pages = Pages::of(&file.rows, &condition);
            while let Some(page) = pages.next(self.session).await.doing(moving)? {
                let records: Vec<Record<'_>> = page
                    .iter()
                    .map(|row| Record {
                        stamp: Some(put),
                        ..row.record()
                    })
                    .collect();
                let writing = |id: u64| format!("{}, record {id}", moving());
                rows.append(self.session, &records, &writing).await?;
            }
        } else {
            copy_current(self.session, &file.rows, &rows, put)
                .await
                .doing(moving)?;
        }
        clear(self.session, &file.rows, &(0..u64::MAX), stamp)
            .await
            .doing(moving)?;
        self.keep(&file).await?;
        if !rows.has_raw() {
            self.delete_residue(file.file_id).await.doing(moving)?;
            file.has_residue = Some(false);
        }
        file.rows = rows;
        file.table = table;
        file.last = None;
        file.description = Arc::clone(description);
        self.store_entry(&file).await?;
        self.known.put_back(&description.path, Some(file));
        Ok(())
    }
}

/// Puts the current rows of one history into another, as far as they have the same columns.
async fn copy_current(
    session: &mut Session,
    from: &Rows,
    to: &Rows,
    stamp: Stamp,
) -> Result<(), Error> {
    let (old, new) = (from.shape(), to.shape());
    let same = old
        .columns
        .iter()
        .filter(|column| new.columns.contains(column));
    let mut names: Vec<String> = same.map(|c| quoted(&stored_name(&c.name))).collect();
    if old.decoded && new.decoded {
        names.push(UNDECODED.into());
    }
    let into: String = names.iter().map(|name| format!(", {name}")).collect();
    let of: String = names.iter().map(|name| format!(", h.{name}")).collect();
    let sql = format!(
        "INSERT INTO {} (id, epoch, lsn, idx, op, captured_at{into})
         SELECT h.id, ?, ?, ?, 'put', ?{of} FROM {old} AS h WHERE {}",
        to.table(),
        is_current(&from.table(), "h"),
        old = from.table(),
    );
    let params = (
        stamp.position.epoch,
        stamp.position.lsn,
        stamp.position.index,
        stamp.captured_at(),
    );
    session.run(&sql, params).await?;
    Ok(())
}
