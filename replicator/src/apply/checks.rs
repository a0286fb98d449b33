//! Checks: a target compares itself with the checksums that come in the stream, each at its very position.
//!
//! A checksum waits for what came before it, and nothing of its range may come after it before it is compared; what else is
//! there joins the batch as ever. So comparing costs no batches of its own, however many checksums come.

use super::applier::Applier;
use crate::digest::{Digest, Digester};
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
    /// Whether checksums are to be compared before these events are taken, or since there are many.
    pub(super) fn is_check_due<'e>(&self, mut unit: impl Iterator<Item = &'e Event>) -> bool {
        let changes = |event: &Event| self.checks.iter().any(|check| check.is_before(event));
        self.checks.len() >= CHECKS_MAX || unit.any(changes)
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
            let mut compared = Vec::with_capacity(checks.len());
            for ranges in checks.chunk_by(Check::goes_on_with) {
                let of = streams
                    .get(ranges[0].stream)
                    .zip(applied.get(ranges[0].stream));
                // Another process may have applied something since.
                let found = match of {
                    Some((stream, applied)) if snapshot.position(stream)? == *applied => {
                        compare(snapshot.as_mut(), stream, ranges)
                    }
                    _ => Ok(ranges.iter().map(|_| Compared::NotNow).collect()),
                };
                match found {
                    Ok(found) => compared.extend(found),
                    Err(error) if error.is_transient() => return Err(error),
                    // What can't be read isn't what it should be. The others are another round's.
                    Err(error) => {
                        let damaged = |_: &Check| Compared::Damaged(error.to_string());
                        compared.extend(ranges.iter().map(damaged));
                        break;
                    }
                }
            }
            compared.resize_with(checks.len(), || Compared::NotNow);
            Ok(compared)
        });
        let compared = compared.unwrap_or_else(|error: SinkError| {
            tracing::info!("sink {}: comparing with it: {error}", self.name);
            checks.iter().map(|_| Compared::NotNow).collect()
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
            Compared::Damaged(why) => {
                tracing::warn!("sink {}: comparing {path} with it: {why}", self.name);
                Ok((Leg::Different, 0))
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
    /// What the target has can't be read, and that won't change by itself.
    Damaged(String),
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

    /// Whether another is about what follows in the same file.
    fn goes_on_with(&self, next: &Check) -> bool {
        self.stream == next.stream
            && self.checksum.to == next.checksum.from
            && self.file.path == next.file.path
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

/// Compares ranges of a file that follow one another with what a target has of them: it is asked once for all.
fn compare(
    snapshot: &mut dyn Snapshot,
    stream: &str,
    ranges: &[Check],
) -> Result<Vec<Compared>, SinkError> {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Ok(Vec::new());
    };
    let path = &first.file.path;
    match snapshot.file(stream, path)? {
        Some(stored) if !stored.shape.raw => {
            let never = |_: &Check| Compared::Never(NO_RAW.to_owned());
            return Ok(ranges.iter().map(never).collect());
        }
        Some(_) => {}
        // Not even that it is there.
        None => return Ok(ranges.iter().map(|_| Compared::Different(0)).collect()),
    }
    let mut digesters: Vec<Digester> = ranges.iter().map(|_| Digester::default()).collect();
    let mut at = 0;
    let ids = first.checksum.from..last.checksum.to;
    snapshot.pieces_in(stream, path, ids, &mut |piece| {
        while at + 1 < ranges.len() && piece.id >= ranges[at].checksum.to {
            at += 1;
        }
        digesters[at].image(piece.id, &piece.image);
        true
    })?;
    let found = digesters.into_iter().map(Digester::finish);
    let of = |(check, found): (&Check, Digest)| match check.checksum.digest {
        None => Compared::NotNow,
        Some(expected) if found == expected => Compared::Equal(found.records),
        Some(_) => Compared::Different(found.records),
    };
    Ok(ranges.iter().zip(found).map(of).collect())
}
