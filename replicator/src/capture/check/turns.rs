//! Whose turn it is: many files are read at the same time, a piece of each after the other, so that a long one keeps
//! nobody waiting.
//!
//! Short ranges come first, then what has not begun, then what goes on; but each kind gets its share, so that none can
//! starve another. A file is compared by one reading at a time, and after one rests for a multiple of what it took: one
//! that somebody unseen writes to all the time doesn't occupy the thread.

use super::{CHUNK_BYTES, Task};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file rests after a comparison, at least and at most; in between, a multiple of what it took.
const REST_MIN: Duration = Duration::from_millis(400);
const REST_MAX: Duration = Duration::from_secs(60);
/// With this, what is asked for again and again takes at most a fifth of the time.
const REST_FACTOR: u32 = 4;
/// With this, what is looked after without being asked takes at most a tenth of the time.
const IDLE_FACTOR: u32 = 9;
/// Files whose pace is remembered, above which those that had their rest are forgotten.
const PACES_MAX: usize = 4096;

/// What comes next.
pub(super) enum Next<R> {
    /// Something that has not begun.
    Begin(Task),
    /// Something that goes on.
    Continue(R),
}

/// Tasks to begin, and readings under way (`R`).
pub(super) struct Turns<R> {
    short: VecDeque<Task>,
    fresh: VecDeque<Task>,
    long: VecDeque<R>,
    /// Files to be compared that are in `fresh`, `resting` or `again`.
    waiting: HashSet<Arc<[u8]>>,
    resting: BinaryHeap<Reverse<(Instant, Arc<[u8]>)>>,
    /// Files to be compared once more when the present comparison has ended.
    again: HashSet<Arc<[u8]>>,
    /// Files that are being compared.
    comparing: HashSet<Arc<[u8]>>,
    paces: HashMap<Arc<[u8]>, Pace>,
    turn: u64,
}

/// The last comparison of a file.
struct Pace {
    ended: Instant,
    took: Duration,
}

impl Pace {
    fn rested(&self, factor: u32, at_least: Duration) -> Instant {
        let rest = self.took.saturating_mul(factor).min(REST_MAX);
        self.ended + rest.max(at_least)
    }
}

impl<R> Turns<R> {
    pub(super) fn new() -> Turns<R> {
        Turns {
            short: VecDeque::new(),
            fresh: VecDeque::new(),
            long: VecDeque::new(),
            waiting: HashSet::new(),
            resting: BinaryHeap::new(),
            again: HashSet::new(),
            comparing: HashSet::new(),
            paces: HashMap::new(),
            turn: 0,
        }
    }

    /// Takes a task. False when it is settled already: another does the same, or it may be left.
    pub(super) fn add(&mut self, task: Task, now: Instant) -> bool {
        match task {
            Task::Check { path }
            | Task::Read {
                path,
                offset: 0,
                extent: u64::MAX,
            } => {
                if !self.waiting.insert(Arc::clone(&path)) {
                    return false;
                }
                if self.comparing.contains(&path) {
                    self.again.insert(path);
                } else {
                    self.schedule(path, now);
                }
            }
            Task::Recheck { path, pause } => {
                let rested = self
                    .paces
                    .get(&path)
                    .is_none_or(|pace| pace.rested(IDLE_FACTOR, pause) <= now);
                if !rested
                    || self.comparing.contains(&path)
                    || !self.waiting.insert(Arc::clone(&path))
                {
                    return false;
                }
                self.fresh.push_back(Task::Check { path });
            }
            Task::Read { extent, .. } if extent <= CHUNK_BYTES => self.short.push_back(task),
            Task::Look { .. } | Task::Restate { .. } => self.short.push_back(task),
            // Rounds have a pace of their own.
            Task::Verify { .. } => return false,
            Task::Blocks { .. } | Task::Compare { .. } => self.fresh.push_back(task),
            Task::Read { .. } => self.fresh.push_back(task),
        }
        true
    }

    fn schedule(&mut self, path: Arc<[u8]>, now: Instant) {
        match self.paces.get(&path) {
            Some(pace) if pace.rested(REST_FACTOR, REST_MIN) > now => {
                let rested = pace.rested(REST_FACTOR, REST_MIN);
                self.resting.push(Reverse((rested, path)));
            }
            _ => self.fresh.push_back(Task::Check { path }),
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next<R>> {
        while let Some(Reverse((rested, _))) = self.resting.peek()
            && *rested <= now
            && let Some(Reverse((_, path))) = self.resting.pop()
        {
            self.fresh.push_back(Task::Check { path });
        }
        self.turn += 1;
        let order = match self.turn % 8 {
            0 => [Kind::Long, Kind::Fresh, Kind::Short],
            4 => [Kind::Fresh, Kind::Short, Kind::Long],
            _ => [Kind::Short, Kind::Fresh, Kind::Long],
        };
        for kind in order {
            let task = match kind {
                Kind::Short => self.short.pop_front(),
                Kind::Fresh => self.fresh.pop_front(),
                Kind::Long => match self.long.pop_front() {
                    Some(reading) => return Some(Next::Continue(reading)),
                    None => None,
                },
            };
            if let Some(task) = task {
                if let Task::Check { path } = &task {
                    // What is asked from now on may be of changes that this reading comes too early for.
                    self.waiting.remove(path);
                    self.comparing.insert(Arc::clone(path));
                }
                return Some(Next::Begin(task));
            }
        }
        None
    }

    /// A reading that is to go on.
    pub(super) fn go_on(&mut self, reading: R) {
        self.long.push_back(reading);
    }

    /// A comparison has ended.
    pub(super) fn ended(&mut self, path: &Arc<[u8]>, took: Duration, now: Instant) {
        self.comparing.remove(path);
        if self.paces.len() >= PACES_MAX {
            self.paces
                .retain(|_, pace| pace.rested(IDLE_FACTOR, REST_MIN) > now);
        }
        self.paces
            .insert(Arc::clone(path), Pace { ended: now, took });
        if self.again.remove(path) {
            self.schedule(Arc::clone(path), now);
        }
    }

    /// Whether a file is being read, or as soon as it is its turn. One that rests until then isn't.
    pub(super) fn is_at(&self, path: &[u8]) -> bool {
        let rests = |Reverse((_, resting)): &Reverse<(Instant, Arc<[u8]>)>| **resting == *path;
        let waits = || self.waiting.contains(path) && !self.resting.iter().any(rests);
        self.comparing.contains(path) || waits()
    }

    /// Whether something could be done at once.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        !self.short.is_empty()
            || !self.fresh.is_empty()
            || !self.long.is_empty()
            || self
                .resting
                .peek()
                .is_some_and(|Reverse((rested, _))| *rested <= now)
    }

    /// When the next file has had its rest.
    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.peek().map(|Reverse((rested, _))| *rested)
    }
}

enum Kind {
    Short,
    Fresh,
    Long,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Task {
        Task::Check {
            path: name.as_bytes().into(),
        }
    }

    fn range(name: &str, extent: u64) -> Task {
        Task::Read {
            path: name.as_bytes().into(),
            offset: 0,
            extent,
        }
    }

    /// Begins what comes next, and says what it was; a reading under way goes on.
    fn step(turns: &mut Turns<&'static str>, now: Instant) -> Option<Result<Task, &'static str>> {
        match turns.next(now)? {
            Next::Begin(task) => Some(Ok(task)),
            Next::Continue(reading) => {
                turns.go_on(reading);
                Some(Err(reading))
            }
        }
    }

    #[test]
    fn short_ranges_and_new_files_do_not_wait_for_a_long_one_nor_it_for_them() {
        let now = Instant::now();
        let mut turns = Turns::new();
        turns.go_on("long");
        for number in 0..100 {
            assert!(turns.add(range(&format!("r{number}"), 100), now));
            assert!(turns.add(check(&format!("c{number}")), now));
        }
        let (mut ranges, mut checks, mut long) = (0, 0, 0);
        for _ in 0..80 {
            match step(&mut turns, now).unwrap() {
                Ok(Task::Read { .. }) => ranges += 1,
                Ok(_) => checks += 1,
                Err(_) => long += 1,
            }
        }
        assert_eq!((ranges, checks, long), (60, 10, 10));
    }

    #[test]
    fn what_is_asked_twice_is_done_once_until_it_begins() {
        let now = Instant::now();
        let mut turns = Turns::<&str>::new();
        assert!(turns.add(check("a"), now));
        assert!(!turns.add(check("a"), now));
        assert_eq!(step(&mut turns, now), Some(Ok(check("a"))));
        // It has begun: this one is of later changes, and waits for the end, and a rest.
        assert!(turns.add(check("a"), now));
        assert!(!turns.add(check("a"), now));
        assert!(step(&mut turns, now).is_none());
        turns.ended(&b"a"[..].into(), Duration::from_secs(1), now);
        assert!(step(&mut turns, now).is_none());
        assert!(!turns.has_work(now));
        let rested = turns.next_rested().unwrap();
        assert_eq!(rested, now + Duration::from_secs(4));
        assert_eq!(step(&mut turns, rested), Some(Ok(check("a"))));
    }

    #[test]
    fn what_is_only_looked_after_is_left_when_it_was_compared_lately() {
        let now = Instant::now();
        let pause = Duration::from_millis(500);
        let recheck = || Task::Recheck {
            path: b"a"[..].into(),
            pause,
        };
        let mut turns = Turns::<&str>::new();
        assert!(turns.add(recheck(), now));
        assert_eq!(step(&mut turns, now), Some(Ok(check("a"))));
        assert!(!turns.add(recheck(), now), "it is being compared");
        turns.ended(&b"a"[..].into(), Duration::from_millis(100), now);
        assert!(!turns.add(recheck(), now + pause));
        assert!(turns.add(recheck(), now + Duration::from_millis(900)));
    }
}
