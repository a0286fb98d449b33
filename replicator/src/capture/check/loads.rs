//! Loads: files that are read for the first time, or again from the beginning, at the pace that the configuration allows.
//!
//! Several are read at once, a piece of each after the other (`turns`). How far each is, others can see.

use super::reading::Reading;
use crate::progress::{Load, Progress};
use counterfoil_proto::path_text;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of loads that may wait in the journal. What programs do meanwhile comes behind them, so they are the lag of that; and
/// the journal is for what can't wait.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// When it is looked again whether less waits there.
const LATER: Duration = Duration::from_millis(5);
/// Files shorter than this are read before anybody could look.
const SHOWN_MIN: u64 = 1 << 20;

/// Readings that load.
pub(super) struct Loads {
    progress: Arc<Progress>,
    /// Of all files together; 0: as fast as may be.
    bytes_per_second: u64,
    /// Nothing goes on, or is begun, before.
    pace: Instant,
    waiting: VecDeque<Waiting>,
}

/// What waits for its pace.
pub(super) enum Waiting {
    /// A file of which nothing was read.
    First(Arc<[u8]>),
    /// One that goes on.
    More(Reading),
}

impl Loads {
    pub(super) fn new(progress: Arc<Progress>, bytes_per_second: u64, now: Instant) -> Loads {
        Loads {
            progress,
            bytes_per_second,
            pace: now,
            waiting: VecDeque::new(),
        }
    }

    /// Some of a file was read: how far it is.
    pub(super) fn note(&mut self, path: &[u8], (from, read): (u64, u64), size: u64, now: Instant) {
        let nanos = (read - from).saturating_mul(1_000_000_000);
        if let Some(nanos) = nanos.checked_div(self.bytes_per_second) {
            self.pace = self.pace.max(now) + Duration::from_nanos(nanos);
        }
        if size >= SHOWN_MIN {
            let shown = path_text(path);
            self.progress.update_loads(|loads| {
                let load = loads.entry(shown).or_insert_with(|| Load::begun(read));
                (load.read, load.size) = (read, size.max(read));
            });
        }
    }

    /// A file was read to its end, or can't be.
    pub(super) fn ended(&self, path: &[u8]) {
        let shown = path_text(path);
        self.progress.update_loads(|loads| {
            loads.remove(&shown);
        });
    }

    /// Whether more was read than the pace allows, or than targets have taken.
    pub(super) fn is_ahead(&self, now: Instant) -> bool {
        self.pace > now || self.is_backed_up()
    }

    fn is_backed_up(&self) -> bool {
        self.progress.loads_waiting() >= WAITING_BYTES_MAX
    }

    /// Takes what is to wait.
    pub(super) fn put_off(&mut self, what: Waiting) {
        self.waiting.push_back(what);
    }

    /// What may be done now of what was put off.
    pub(super) fn next(&mut self, now: Instant) -> Option<Waiting> {
        match self.is_ahead(now) {
            true => None,
            false => self.waiting.pop_front(),
        }
    }

    /// When something may be done, if anything waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let pace = match self.is_backed_up() {
            true => self.pace.max(now + LATER),
            false => self.pace,
        };
        (!self.waiting.is_empty()).then_some(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many short files take as long as a long one with all their bytes.
    #[test]
    fn short_files_have_the_same_pace() {
        let begin = Instant::now();
        let mut loads = Loads::new(Arc::default(), 1000, begin);
        let mut now = begin;
        let mut read = 0;
        let mut put_off = 0;
        for number in 0..10 {
            if loads.is_ahead(now) {
                let path = format!("/srv/{number}").into_bytes();
                loads.put_off(Waiting::First(path.as_slice().into()));
                put_off += 1;
                let due = loads.due(now).expect("something waits");
                assert!(loads.next(now).is_none(), "it is too early");
                now = due;
                let next = loads.next(now);
                assert!(matches!(next, Some(Waiting::First(of)) if *of == *path));
            }
            loads.note(b"/srv/file", (0, 500), 500, now);
            read += 500;
            let allowed = now.duration_since(begin).as_millis() as u64 + 500;
            assert!(read <= allowed, "{read} bytes after {allowed} ms");
        }
        assert_eq!(put_off, 9, "all but the first");
        assert_eq!(loads.due(now), None);
    }

    /// What targets don't take isn't read either: the journal is for what can't wait.
    #[test]
    fn what_waits_in_the_journal_holds_loads_back() {
        let now = Instant::now();
        let progress = Arc::new(Progress::default());
        let mut loads = Loads::new(Arc::clone(&progress), 0, now);
        let half = WAITING_BYTES_MAX as usize / 2;
        progress.load_journaled(half);
        assert!(!loads.is_ahead(now));
        progress.load_journaled(half);
        assert!(loads.is_ahead(now));
        loads.put_off(Waiting::First(b"/srv/a"[..].into()));
        assert!(loads.next(now).is_none());
        assert!(loads.due(now) > Some(now), "nobody spins");
        // More than was counted: a process before this one had begun.
        progress.load_published(half + 1);
        assert!(matches!(loads.next(now), Some(Waiting::First(_))));
        progress.load_published(usize::MAX);
        assert_eq!(progress.loads_waiting(), 0);
    }

    #[test]
    fn without_a_pace_nothing_waits() {
        let now = Instant::now();
        let mut loads = Loads::new(Arc::default(), 0, now);
        loads.note(b"/srv/a", (0, u64::MAX), 1, now);
        assert!(!loads.is_ahead(now));
    }
}
