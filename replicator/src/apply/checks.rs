//! Checks: a target compares itself with the checksums that come in the stream, each at its very position.
//!
//! A checksum waits for what came before it, and nothing of its range may come after it before it is compared; what else is
//! there joins the batch as ever. So comparing costs no batches of its own, however many checksums come.

use super::applier::Applier;
use crate::digest::Digester;
use crate::event::{Change, Checksum, Event};
use crate::verification::{Leg, NO_RAW};
use counterfoil_proto::{Position, path_text};
use counterfoil_sinks::{FileDescription, SinkError, Snapshot};
use std::sync::Arc;

/// Checksums that wait, at which they are compared.
const CHECKS_MAX: usize = 64;

/// A checksum that waits to be compared.
pub(super) struct Check {
    stream: usize,
    position: Position,
    file: Arc<FileDescription>,
    checksum: Checksum,
}

impl Applier {
    /// Whether checksums are to be compared before this event is taken, or since there are many.
    pub(super) fn is_check_due(&self, event: &Event) -> bool {
        self.checks.len() >= CHECKS_MAX || self.checks.iter().any(|check| check.is_before(event))
    }

    /// Compares what waits; all that came before is applied.
    pub(super) fn check(&mut self) {
        let checks = std::mem::take(&mut self.checks);
        if checks.is_empty() {
            return;
        }
        let (sink, streams, applied) = (&mut self.sink, &self.streams, &self.applied);
        let compared = self.pulse.wait(|| {
            let mut snapshot = sink.snapshot()?;
            let compare = |check: &Check| {
                let (Some(stream), Some(applied)) =
                    (streams.get(check.stream), applied.get(check.stream))
                else {
                    return Ok(Compared::NotNow);
                };
                // Another process may have applied something since.
                match snapshot.position(stream)? == *applied {
                    true => compare(snapshot.as_mut(), stream, check),
                    false => Ok(Compared::NotNow),
                }
            };
            checks.iter().map(compare).collect::<Result<Vec<_>, _>>()
        });
        let compared = compared.unwrap_or_else(|error: SinkError| {
            tracing::info!("sink {}: comparing with it: {error}", self.name);
            let of_each = |_: &Check| match error.is_transient() {
                true => Compared::NotNow,
                false => Compared::Never(error.to_string()),
            };
            checks.iter().map(of_each).collect()
        });
        for (check, compared) in checks.iter().zip(compared) {
            self.note(check, compared);
        }
    }

    fn note(&self, check: &Check, compared: Compared) {
        let path = path_text(&check.file.path);
        let outcome = match compared {
            Compared::Equal(records) => Ok((Leg::Equal, records)),
            Compared::Different(records) => {
                let (epoch, lsn) = (check.position.epoch, check.position.lsn);
                tracing::warn!(
                    "sink {}: of {path}, what it has from {} on isn't what was captured up to {epoch}/{lsn}; \
                     `counterfoil verify` tells the records, `counterfoil verify --repair` mends them",
                    self.name,
                    check.checksum.from,
                );
                Ok((Leg::Different, records))
            }
            Compared::NotNow => Ok((Leg::Busy, 0)),
            Compared::Never(why) => Err(why),
        };
        let of = (self.name.as_str(), path.as_str());
        let mut known = self.progress.verification();
        known.note_target(of, check.position, &check.checksum, outcome);
    }

    /// A file is gone from its path, and what is known of it with it.
    pub(super) fn forget_checks(&self, event: &Event) {
        let gone = match &event.change {
            Change::Removed => &event.file.path,
            Change::Renamed { from } => &from.path,
            _ => return,
        };
        self.progress.forget_verification(&path_text(gone));
    }
}

/// How a range compared.
enum Compared {
    Equal(u64),
    Different(u64),
    /// Nothing can be said now; another round tells.
    NotNow,
    /// There is nothing to compare it with.
    Never(String),
}

impl Check {
    /// One of a stream, by its number.
    pub(super) fn new(stream: usize, event: &Event, checksum: Checksum) -> Check {
        Check {
            stream,
            position: event.position,
            file: Arc::clone(&event.file),
            checksum,
        }
    }

    pub(super) fn stream(&self) -> usize {
        self.stream
    }

    /// Whether an event that comes behind it changes its range.
    fn is_before(&self, event: &Event) -> bool {
        let ids = self.checksum.from..self.checksum.to;
        let is_its = self.file.path == event.file.path;
        match &event.change {
            Change::Created | Change::Attributes(_) | Change::Checksum(_) => false,
            Change::Put { id, .. } | Change::Residue { id, .. } | Change::Absent { id } => {
                is_its && ids.contains(id)
            }
            Change::Cleared { from, to } => is_its && *from < ids.end && ids.start < *to,
            Change::Removed => is_its,
            Change::Renamed { from } => is_its || from.path == self.file.path,
        }
    }
}

/// Compares a range with what a target has of it.
fn compare(
    snapshot: &mut dyn Snapshot,
    stream: &str,
    check: &Check,
) -> Result<Compared, SinkError> {
    let Some(expected) = check.checksum.digest else {
        return Ok(Compared::NotNow);
    };
    let path = &check.file.path;
    match snapshot.file(stream, path)? {
        Some(stored) if !stored.shape.raw => return Ok(Compared::Never(NO_RAW.to_owned())),
        _ => {}
    }
    let mut digester = Digester::default();
    let ids = check.checksum.from..check.checksum.to;
    snapshot.pieces_in(stream, path, ids, &mut |piece| {
        digester.image(piece.id, &piece.image);
        true
    })?;
    let found = digester.finish();
    Ok(match found == expected {
        true => Compared::Equal(found.records),
        false => Compared::Different(found.records),
    })
}
