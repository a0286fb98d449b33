//! Mappings: which parts of captured files are in memory, shared, so that the program changes them without any call.
//!
//! A table of address ranges; atomics, no locks. A call that takes a range away first marks what it concerns as leaving,
//! split off from what stays, since afterwards another thread may be given the same addresses. Then it either is gone, or
//! stays after all. The sequencer counts mappings by process, so every entry that was told counts one there.

use crate::files;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

const MAPPINGS_MAX: usize = 1 << 12;

const FREE: u32 = 0;
/// Somebody is writing to the entry.
const BUSY: u32 = 1;
const LIVE: u32 = 2;
/// A call is about to take it away: the one whose ticket it has.
const LEAVING: u32 = 3;

struct Entry {
    state: AtomicU32,
    name: AtomicU32,
    /// Whether a frame spoke of it: it is writable, or was.
    told: AtomicU32,
    /// How many entries were split off when it was marked as leaving.
    heirs: AtomicU32,
    ticket: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    offset: AtomicU64,
}

/// A part of a file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Number of the file's name; the entry is its user.
    pub(crate) name: u32,
    /// Where it begins in memory.
    pub(crate) start: usize,
    /// One past its last byte in memory.
    pub(crate) end: usize,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Whether a frame spoke of it.
    pub(crate) is_told: bool,
    /// How many parts of the same mapping stay when it leaves.
    pub(crate) heirs: u32,
}

static TABLE: [Entry; MAPPINGS_MAX] = [const {
    Entry {
        state: AtomicU32::new(FREE),
        name: AtomicU32::new(0),
        told: AtomicU32::new(0),
        heirs: AtomicU32::new(0),
        ticket: AtomicU64::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        offset: AtomicU64::new(0),
    }
}; MAPPINGS_MAX];

/// Entries that aren't free.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// One past the last entry that was ever used.
static TABLE_END: AtomicUsize = AtomicUsize::new(0);
static TICKETS: AtomicU64 = AtomicU64::new(1);

impl Part {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        (self.end - self.start) as u64
    }

    /// What of it lies in a range of memory.
    pub(crate) fn within(&self, start: usize, end: usize) -> Option<Part> {
        let (from, to) = (self.start.max(start), self.end.min(end));
        (from < to).then(|| Part {
            start: from,
            end: to,
            offset: self.offset + (from - self.start) as u64,
            ..*self
        })
    }
}

impl Entry {
    /// As it is now. Only sure for who has its ticket or holds it busy.
    fn part(&self) -> Part {
        let start = self.start.load(Ordering::Relaxed);
        Part {
            name: self.name.load(Ordering::Relaxed),
            start,
            end: self.end.load(Ordering::Relaxed).max(start),
            offset: self.offset.load(Ordering::Relaxed),
            is_told: self.told.load(Ordering::Relaxed) != 0,
            heirs: self.heirs.load(Ordering::Relaxed),
        }
    }

    fn fill(&self, part: &Part) {
        self.name.store(part.name, Ordering::Relaxed);
        self.told.store(u32::from(part.is_told), Ordering::Relaxed);
        self.heirs.store(part.heirs, Ordering::Relaxed);
        self.start.store(part.start, Ordering::Relaxed);
        self.end.store(part.end, Ordering::Relaxed);
        self.offset.store(part.offset, Ordering::Relaxed);
    }

    /// Takes the entry for writing to it.
    fn seize(&self) -> bool {
        self.state
            .compare_exchange(LIVE, BUSY, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn set_free(&self) {
        let name = self.name.load(Ordering::Relaxed);
        self.state.store(FREE, Ordering::Release);
        COUNT.fetch_sub(1, Ordering::Release);
        files::release(name);
    }
}

/// Whether anything is mapped: one load, for all the calls that have nothing to do with files.
#[inline(always)]
pub(crate) fn any() -> bool {
    COUNT.load(Ordering::Acquire) != 0
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    let end = TABLE_END.load(Ordering::Acquire);
    TABLE.get(..end).unwrap_or_default().iter()
}

/// Notes a mapping. The caller's use of its name goes over to the table. False when that is full: the use stays with the
/// caller, and nobody will be told that the mapping ended.
pub(crate) fn add(part: &Part) -> bool {
    for (at, entry) in TABLE.iter().enumerate() {
        let claimed = entry.state.load(Ordering::Relaxed) == FREE
            && entry
                .state
                .compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if claimed {
            COUNT.fetch_add(1, Ordering::Relaxed);
            TABLE_END.fetch_max(at + 1, Ordering::AcqRel);
            entry.fill(part);
            entry.state.store(LIVE, Ordering::Release);
            return true;
        }
    }
    false
}

/// Marks what lies in a range of memory as leaving. The ticket is for [`leaving`], and one of [`gone`] and [`stay`].
pub(crate) fn leave(start: usize, end: usize) -> u64 {
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    for entry in entries() {
        if entry.part().within(start, end).is_none() || !entry.seize() {
            continue;
        }
        let whole = entry.part();
        let Some(middle) = whole.within(start, end) else {
            entry.state.store(LIVE, Ordering::Release);
            continue;
        };
        let mut heirs = 0;
        for rest in [
            whole.within(0, middle.start),
            whole.within(middle.end, usize::MAX),
        ]
        .into_iter()
        .flatten()
        {
            heirs += 1;
            // Where there is no room it stays in memory, counted and never taken back.
            if files::retain(rest.name) && !add(&rest) {
                files::release(rest.name);
            }
        }
        entry.fill(&Part { heirs, ..middle });
        entry.ticket.store(ticket, Ordering::Relaxed);
        entry.state.store(LEAVING, Ordering::Release);
    }
    ticket
}

/// What was marked under a ticket.
pub(crate) fn leaving(ticket: u64) -> impl Iterator<Item = Part> {
    with_ticket(ticket).map(Entry::part)
}

fn with_ticket(ticket: u64) -> impl Iterator<Item = &'static Entry> {
    entries().filter(move |entry| {
        entry.state.load(Ordering::Acquire) == LEAVING
            && entry.ticket.load(Ordering::Relaxed) == ticket
    })
}

/// Forgets what was marked.
pub(crate) fn gone(ticket: u64) {
    with_ticket(ticket).for_each(Entry::set_free);
}

/// It is there still: the call failed.
pub(crate) fn stay(ticket: u64) {
    for entry in with_ticket(ticket) {
        entry.heirs.store(0, Ordering::Relaxed);
        entry.state.store(LIVE, Ordering::Release);
    }
}

/// What is mapped in a range of memory, cut to it.
pub(crate) fn in_range(start: usize, end: usize) -> impl Iterator<Item = Part> {
    entries()
        .filter(|entry| entry.state.load(Ordering::Acquire) == LIVE)
        .filter_map(move |entry| entry.part().within(start, end))
}

/// Everything in a range of memory counts as told now: gives what wasn't before, as a whole.
pub(crate) fn tell_in_range(start: usize, end: usize) -> impl Iterator<Item = Part> {
    entries().filter_map(move |entry| {
        let is_new = entry.state.load(Ordering::Acquire) == LIVE
            && entry.part().within(start, end).is_some()
            && entry.told.swap(1, Ordering::AcqRel) == 0;
        is_new.then(|| entry.part())
    })
}

/// In a forked child: calls that other threads of the parent were in are none here.
pub(crate) fn reset() {
    for entry in entries() {
        if entry.state.load(Ordering::Relaxed) == LEAVING {
            entry.heirs.store(0, Ordering::Relaxed);
            entry.state.store(LIVE, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The table is one for the process, so all of it is one test.
    #[test]
    fn what_leaves_is_split_off_from_what_stays() {
        let name = files::acquire(1, 2, b"/mapped", 0).expect("room for a name");
        let page = 4096;
        let part = Part {
            name,
            start: 10 * page,
            end: 20 * page,
            offset: 4 * page as u64,
            is_told: true,
            heirs: 0,
        };
        assert!(!any());
        assert!(add(&part) && any());
        let all = || {
            let mut all: Vec<_> = in_range(0, usize::MAX)
                .map(|part| (part.start / page, part.end / page, part.offset / 4096))
                .collect();
            all.sort_unstable();
            all
        };
        let ticket = leave(13 * page, 15 * page);
        let parts: Vec<_> = leaving(ticket).collect();
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].offset, parts[0].heirs), (7 * page as u64, 2));
        assert_eq!(all(), [(10, 13, 4), (15, 20, 9)]);
        gone(ticket);
        let ticket = leave(0, 11 * page);
        assert_eq!(leaving(ticket).map(|part| part.heirs).sum::<u32>(), 1);
        stay(ticket);
        assert_eq!(all(), [(10, 11, 4), (11, 13, 5), (15, 20, 9)]);
        gone(leave(0, usize::MAX));
        assert_eq!(all(), []);
        assert!(!any());
    }
}
