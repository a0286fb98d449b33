//! What becomes of the tables in a file's records when something happens to the file.

use crate::event::{Change, Event};
use counterfoil_sinks::plan::rows::{RowTables, Rows};
use std::sync::Arc;

/// The events of the tables in the records of a file, and in their rows, for an event of the file. `from`: where it is
/// renamed, the tables under the name it had, which are alike.
///
/// # Errors
/// In words: rows can't have a number.
pub(super) fn of_tables(
    event: &Event,
    tables: &RowTables,
    from: Option<&RowTables>,
) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    if tables.tables().is_empty() {
        return Ok(events);
    }
    let cleared = |from: u64, to: u64, rows: &Rows| {
        let (from, to) = rows.identities(from, to);
        Change::Cleared { from, to }
    };
    for (at, rows) in tables.tables().iter().enumerate() {
        let change = match &event.change {
            Change::Created => Change::Created,
            Change::Removed => Change::Removed,
            Change::Renamed { .. } => match from.and_then(|from| from.tables().get(at)) {
                Some(from) => Change::Renamed {
                    from: Arc::clone(&from.file),
                },
                None => continue,
            },
            Change::Cleared { from, to } => cleared(*from, *to, rows),
            Change::Residue { id, .. } | Change::Absent { id } => {
                cleared(*id, id.saturating_add(1), rows)
            }
            Change::Put { .. } | Change::Attributes(_) | Change::Checksum(_) => continue,
        };
        let inner = from.and_then(|from| from.tables().get(at));
        let event = made(event, rows, change);
        let more = of_tables(&event, &rows.inner, inner.map(|rows| &rows.inner))?;
        events.push(event);
        events.extend(more);
    }
    if let Change::Put { id, data, .. } = &event.change {
        put(event, *id, data, tables, &mut events)?;
    }
    Ok(events)
}

/// A record's rows take the place of those it had.
fn put(
    event: &Event,
    id: u64,
    data: &[u8],
    tables: &RowTables,
    events: &mut Vec<Event>,
) -> Result<(), String> {
    for (rows, of_it) in tables.tables().iter().zip(tables.rows(id, data)?) {
        let (from, to) = rows.identities(id, id.saturating_add(1));
        let keeps_all = rows
            .file
            .plan
            .as_ref()
            .is_some_and(|plan| plan.is_history());
        // Where every change is kept, one row has one at a position.
        let from = match of_it.last() {
            Some((last, _)) if keeps_all => last + 1,
            _ => from,
        };
        let change = Change::Cleared { from, to };
        let clear = made(event, rows, change);
        events.extend(of_tables(&clear, &rows.inner, None)?);
        events.push(clear);
        for (row, record) in of_it {
            let change = Change::Put {
                id: row,
                data: record,
                rest: Vec::new(),
            };
            let row = made(event, rows, change);
            let more = of_tables(&row, &rows.inner, None)?;
            events.push(row);
            events.extend(more);
        }
    }
    Ok(())
}

fn made(event: &Event, rows: &Rows, change: Change) -> Event {
    Event {
        file: Arc::clone(&rows.file),
        size: 0,
        change,
        before: None,
        ..*event
    }
}
