//! Units of work: which changes become visible together.
//!
//! A unit belongs to a process. It gathers *what* was touched, not the bytes: when it ends, what is there then becomes the
//! events, one per record however often it was written. Changes outside any unit become events at once, except that a
//! piece whose bytes are not all written yet (a length without its data) waits for the thread's next step.

use super::pieces::Span;
use crate::config::UnitOfWork;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Spans a unit remembers of one file before it joins what lies close together.
const SPANS_COMPACT_AT: usize = 64 * 1024;

/// Bytes a unit may touch before it is cut: its events are made, folded and applied as one, which takes several times as
/// much memory.
pub(super) const UNIT_BYTES_MAX: u64 = 32 << 20;

/// The process whose unit holds everything back while a group is brought up again: nobody's.
///
/// Images may be ahead of the operations that are repeated, so what ended a unit then can't be told from what others had
/// begun. All of it becomes one unit, which ends when no other is open.
pub(super) const RECOVERY: u64 = 0;

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

    pub(super) fn join(&mut self, other: Dirty) {
        if let Some(boundary) = other.cleared_from {
            self.clear_from(boundary);
        }
        for span in other.spans {
            self.add(span);
        }
    }

    pub(super) fn clear_from(&mut self, boundary: u64) {
        self.cleared_from = Some(
            self.cleared_from
                .map_or(boundary, |before| before.min(boundary)),
        );
    }

    /// Whether some of the span is in it.
    pub(super) fn overlaps(&self, span: &Span) -> bool {
        self.cleared_from.is_some_and(|from| from < span.end)
            || self
                .spans
                .iter()
                .any(|own| own.start < span.end && span.start < own.end)
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
    /// The process's program, NUL-padded.
    pub(super) program: [u8; 16],
    /// Wall clock of its first operation.
    pub(super) began_ns: i64,
    /// How often it was cut.
    pub(super) cuts: u64,
    /// Lsn of its first operation, or of that at which it was cut: the journal must be kept from there on.
    pub(super) first_lsn: u64,
    /// Wall clock of that operation.
    pub(super) opened_ns: i64,
    /// What was open already at `first_lsn`, if anything was: nothing in the journal from there on tells of it.
    pub(super) before: Option<Open>,
    /// Bytes it touched; those touched again count again.
    bytes: u64,
    /// Touched files in the order they were first touched.
    pub(super) files: Vec<(usize, Dirty)>,
    /// Touched files that the process has closed since.
    closed: HashSet<usize>,
    /// What keeps it open.
    pub(super) open: Open,
}

/// What keeps a unit open, beside changes that are to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Locks that the process holds, by file.
    pub(super) locks: HashMap<usize, Vec<Range<u64>>>,
    /// How many units it has marked the beginning of, and not the end.
    pub(super) depth: u32,
}

impl Unit {
    pub(super) fn new(pid: u32, program: [u8; 16], first_lsn: u64, opened_ns: i64) -> Unit {
        Unit {
            pid,
            program,
            began_ns: opened_ns,
            cuts: 0,
            first_lsn,
            opened_ns,
            before: None,
            bytes: 0,
            files: Vec::new(),
            closed: HashSet::new(),
            open: Open::default(),
        }
    }

    /// Whether the process holds it open by what it did, so that its changes belong together.
    pub(super) fn is_held(&self, policy: UnitOfWork) -> bool {
        match policy {
            UnitOfWork::Lock => !self.open.locks.is_empty(),
            UnitOfWork::Api => self.open.depth > 0,
            UnitOfWork::None | UnitOfWork::Fsync | UnitOfWork::Close => false,
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

    /// Nothing of it waits to be published: from here on it is as good as a new one, but for what is open.
    pub(super) fn go_on(&mut self, first_lsn: u64, opened_ns: i64) {
        self.first_lsn = first_lsn;
        self.opened_ns = opened_ns;
        self.before = Some(self.open.clone());
        self.flushed();
    }

    /// Nothing of it waits: what it touches is counted anew.
    pub(super) fn flushed(&mut self) {
        self.bytes = 0;
    }

    pub(super) fn lock(&mut self, file: usize, range: Range<u64>) {
        self.open.lock(file, range);
    }

    /// Takes a range from the locks held on a file. True when no lock is left at all.
    pub(super) fn unlock(&mut self, file: usize, range: &Range<u64>) -> bool {
        self.open.unlock(file, range)
    }

    /// The file is no more: nothing of it is to be published, and nothing holds the unit open by it.
    pub(super) fn forget(&mut self, file: usize) {
        self.files.retain(|(touched, _)| *touched != file);
        self.open.locks.remove(&file);
        if let Some(before) = &mut self.before {
            before.locks.remove(&file);
        }
    }
}

impl Open {
    pub(super) fn lock(&mut self, file: usize, range: Range<u64>) {
        self.unlock(file, &range);
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
}

/// A unit that nothing holds open any more, or not yet: what the process does next may belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lingering {
    pub(super) process: u64,
    pub(super) file: usize,
    pub(super) after: After,
    /// Wall clock since when.
    pub(super) since_ns: i64,
}

/// What a lingering unit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The file was emptied as it was opened: the lock may follow, as with OPEN OUTPUT of libcob.
    Emptied,
    /// All of the file was unlocked: what was buffered may follow, and the close, as with CLOSE of libcob.
    Unlocked,
}

/// A unit that is published but for its sinks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    /// Lsn of the operation that it was published with.
    pub(super) lsn: u64,
    /// Lsn of its first operation: the journal must be kept from there on until sinks have what was published.
    pub(super) first_lsn: u64,
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
            let mut unit = Unit::new(1, [0; 16], 1, 0);
            let mut model = [[false; 32]; 3];
            for (lock, file, start, len) in steps {
                let range = start..start + len;
                for byte in range.clone() {
                    model[file][byte as usize] = lock;
                }
                if lock && len > 0 {
                    unit.lock(file, range);
                } else if !lock {
                    unit.unlock(file, &range);
                }
                prop_assert_eq!(unit.is_held(UnitOfWork::Lock), model.iter().flatten().any(|&held| held));
            }
        }
    }
}
