//! Units of work: which changes become visible together.
//!
//! A unit belongs to a process. It gathers *what* was touched, not the bytes: when it ends, what is there then becomes the
//! events, one per record however often it was written. Changes outside any unit become events at once, except that a
//! piece whose bytes are not all written yet (a length without its data) waits for the process's next step.

use super::pieces::Span;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Spans a unit remembers of one file before it joins what lies close together.
const SPANS_COMPACT_AT: usize = 64 * 1024;

/// Bytes a unit may touch before it is cut: its events are made, folded and applied as one, which takes several times as
/// much memory.
pub(super) const UNIT_BYTES_MAX: u64 = 32 << 20;

/// What a unit touched in a file.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) spans: Vec<Span>,
    /// From here on everything was cut off at some time.
    pub(super) cleared_from: Option<u64>,
}

impl Dirty {
    pub(super) fn add(&mut self, span: Span) {
        match self.spans.last_mut() {
            Some(last) if last.touches(&span) => last.join(&span),
            _ => self.spans.push(span),
        }
    }

    pub(super) fn clear_from(&mut self, boundary: u64) {
        self.cleared_from = Some(
            self.cleared_from
                .map_or(boundary, |before| before.min(boundary)),
        );
    }

    /// Spans in order, none touching another.
    pub(super) fn compact(&mut self) {
        self.spans.sort_unstable_by_key(|span| span.start);
        self.spans.dedup_by(|later, earlier| {
            let touches = earlier.touches(later);
            if touches {
                earlier.join(later);
            }
            touches
        });
    }
}

/// A process's open unit.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) pid: u32,
    /// Lsn of its first operation: the journal must be kept from there on.
    pub(super) first_lsn: u64,
    /// Wall clock of its first operation.
    pub(super) opened_ns: i64,
    /// Bytes it touched; those touched again count again.
    bytes: u64,
    /// Touched files in the order they were first touched.
    pub(super) files: Vec<(usize, Dirty)>,
    /// Touched files that the process has closed since.
    closed: HashSet<usize>,
    /// Locks it holds, by file.
    locks: HashMap<usize, Vec<Range<u64>>>,
}

impl Unit {
    pub(super) fn new(pid: u32, first_lsn: u64, opened_ns: i64) -> Unit {
        Unit {
            pid,
            first_lsn,
            opened_ns,
            bytes: 0,
            files: Vec::new(),
            closed: HashSet::new(),
            locks: HashMap::new(),
        }
    }

    /// What it touched of a file, to add to.
    pub(super) fn dirty(&mut self, file: usize) -> &mut Dirty {
        self.closed.remove(&file);
        let at = match self.files.iter().position(|(touched, _)| *touched == file) {
            Some(at) => at,
            None => {
                self.files.push((file, Dirty::default()));
                self.files.len() - 1
            }
        };
        &mut self.files[at].1
    }

    /// Notes how much more was touched. True when that is too much for one unit: too many bytes, or too many places.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.bytes > UNIT_BYTES_MAX
            || self.files.iter_mut().any(|(_, dirty)| {
                if dirty.spans.len() >= SPANS_COMPACT_AT {
                    dirty.compact();
                }
                dirty.spans.len() >= SPANS_COMPACT_AT
            })
    }

    /// The process closed a file. True when it has closed all that it touched.
    pub(super) fn close(&mut self, file: usize) -> bool {
        self.closed.insert(file);
        self.files
            .iter()
            .all(|(touched, _)| self.closed.contains(touched))
    }

    /// It was cut: what comes is counted anew.
    pub(super) fn go_on(&mut self, first_lsn: u64, opened_ns: i64) {
        self.first_lsn = first_lsn;
        self.opened_ns = opened_ns;
        self.bytes = 0;
    }

    pub(super) fn lock(&mut self, file: usize, range: Range<u64>) {
        self.locks.entry(file).or_default().push(range);
    }

    /// Takes a range from the locks held on a file. True when no lock is left at all.
    pub(super) fn unlock(&mut self, file: usize, range: &Range<u64>) -> bool {
        if let Some(held) = self.locks.get_mut(&file) {
            let before = std::mem::take(held);
            for lock in before {
                if lock.start < range.start {
                    held.push(lock.start..lock.end.min(range.start));
                }
                if lock.end > range.end {
                    held.push(lock.start.max(range.end)..lock.end);
                }
            }
            if held.is_empty() {
                self.locks.remove(&file);
            }
        }
        self.locks.is_empty()
    }

    pub(super) fn holds_lock(&self) -> bool {
        !self.locks.is_empty()
    }
}

/// A piece that isn't written to its end.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) file: usize,
    pub(super) span: Span,
    /// Where the process's next write goes on if it is the rest of the piece.
    pub(super) upto: u64,
    pub(super) first_lsn: u64,
    pub(super) pid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Locks by ranges, against a model of single bytes.
        #[test]
        fn locks_are_what_was_locked_and_not_unlocked(
            steps in proptest::collection::vec((any::<bool>(), 0..3usize, 0..20u64, 0..8u64), 1..40)
        ) {
            let mut unit = Unit::new(1, 1, 0);
            let mut model = [[false; 32]; 3];
            for (lock, file, start, len) in steps {
                let range = start..start + len;
                for byte in range.clone() {
                    model[file][byte as usize] = lock;
                }
                if lock && len > 0 {
                    unit.unlock(file, &range);
                    unit.lock(file, range);
                } else if !lock {
                    unit.unlock(file, &range);
                }
                prop_assert_eq!(unit.holds_lock(), model.iter().flatten().any(|&held| held));
            }
        }
    }
}
