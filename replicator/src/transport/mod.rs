//! Transport: carries parcels of events from the publisher to appliers, in order, with a bound on what is under way.
//!
//! Within one process that is a bounded queue per sink ([`channel`]); where there are several sinks, what waits for one
//! that is behind goes to a [`spool`], so that the others go on. A parcel holds whole units, so an applier never sees part
//! of one. Past one process events have the form of [`wire`], and [`merge`] makes whole units of them again.

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod merge;
pub mod spool;
pub mod wire;

use crate::event::Parcel;
use crate::progress::Progress;
use spool::Spool;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel as unbounded};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Parcels in memory on their way to one sink; with their size this bounds memory.
const PARCELS_MAX: usize = 8;
/// After how long a disk that refused a parcel is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The publisher's end: what is sent reaches every sink.
pub struct Outlet(Vec<Arc<Queue>>);

/// A sink's end.
pub struct Inlet {
    queue: Arc<Queue>,
    refusals: Option<Sender<u16>>,
}

/// Streams that a sink takes no more of until it is asked anew where it stands, because another process applied something.
pub struct Refusals(Receiver<u16>);

/// The other end is gone.
#[derive(Debug)]
pub struct Closed;

/// What is under way to one sink: the older part in memory, the younger in the spool.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    parcels: VecDeque<Arc<Parcel>>,
    spool: Option<Spooling>,
    /// Why the spool can't be read: what was in it is gone.
    lost: Option<String>,
    closed: bool,
}

/// A sink's spool, and where to tell of it.
pub struct Spooling {
    /// Where what has no room in memory waits.
    pub spool: Spool,
    /// The sink.
    pub sink: String,
    /// Shared counters.
    pub progress: Arc<Progress>,
}

/// A way to each of `sinks` sinks. What is sent waits until all have room.
pub fn channel(sinks: usize) -> (Outlet, Vec<Inlet>) {
    connect((0..sinks).map(|_| None))
}

/// A way to each of some sinks, with a spool for each: what is sent waits only while one of them is full.
pub fn spooled(spools: Vec<Spooling>) -> (Outlet, Vec<Inlet>) {
    connect(spools.into_iter().map(Some))
}

fn connect(spools: impl Iterator<Item = Option<Spooling>>) -> (Outlet, Vec<Inlet>) {
    let queues: Vec<Arc<Queue>> = spools.map(|spool| Arc::new(Queue::new(spool))).collect();
    let inlet = |queue: &Arc<Queue>| Inlet {
        queue: Arc::clone(queue),
        refusals: None,
    };
    let inlets = queues.iter().map(inlet).collect();
    (Outlet(queues), inlets)
}

/// A way to one sink that other processes may feed too.
pub fn shared_channel() -> (Outlet, Inlet, Refusals) {
    let queue = Arc::new(Queue::new(None));
    let (refuse, refusals) = unbounded();
    let inlet = Inlet {
        queue: Arc::clone(&queue),
        refusals: Some(refuse),
    };
    (Outlet(vec![queue]), inlet, Refusals(refusals))
}

impl Outlet {
    /// Sends a parcel; waits while a sink has too many under way.
    pub fn send(&self, parcel: Parcel) -> Result<(), Closed> {
        let parcel = Arc::new(parcel);
        self.0.iter().try_for_each(|queue| queue.push(&parcel))
    }

    /// Sends a parcel to the one sink there is, if it has room; gives it back otherwise.
    pub fn try_send(&self, parcel: Parcel) -> Result<Option<Parcel>, Closed> {
        match self.0.first() {
            Some(queue) => queue.try_push(parcel),
            None => Err(Closed),
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.iter().for_each(|queue| queue.close());
    }
}

impl Refusals {
    /// The next stream, if there is one.
    pub fn take(&self) -> Option<u16> {
        self.0.try_recv().ok()
    }
}

impl Inlet {
    /// Says that nothing more is taken of a stream until somebody asks anew. False: nobody would.
    pub fn refuse(&self, stream: u16) -> bool {
        self.refusals
            .as_ref()
            .is_some_and(|refusals| refusals.send(stream).is_ok())
    }

    /// The next parcel, if there is one within the time.
    pub fn receive(&self, limit: Duration) -> Result<Option<Arc<Parcel>>, Closed> {
        self.queue.pop(limit)
    }

    /// Why what was sent didn't all come, where that is the reason for which nothing more comes.
    pub fn lost(&self) -> Option<String> {
        self.queue.lock().lost.clone()
    }

    /// The next parcel, if there is one now.
    pub fn try_receive(&self) -> Option<Arc<Parcel>> {
        self.queue.pop(Duration::ZERO).ok().flatten()
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Queue {
    fn new(spool: Option<Spooling>) -> Queue {
        Queue {
            state: Mutex::new(State {
                spool,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, parcel: &Arc<Parcel>) -> Result<(), Closed> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(Closed);
            }
            if state.put(parcel) {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, RETRY_AFTER)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn try_push(&self, parcel: Parcel) -> Result<Option<Parcel>, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let parcel = Arc::new(parcel);
        if state.put(&parcel) {
            drop(state);
            self.changed.notify_all();
            return Ok(None);
        }
        Ok(Arc::into_inner(parcel))
    }

    fn pop(&self, limit: Duration) -> Result<Option<Arc<Parcel>>, Closed> {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(parcel) = state.next() {
                drop(state);
                self.changed.notify_all();
                return Ok(Some(parcel));
            }
            if state.closed {
                return Err(Closed);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    /// Puts a parcel behind the others, in memory or in the spool. `false`: there is no room.
    fn put(&mut self, parcel: &Arc<Parcel>) -> bool {
        let in_order = self.spool.as_ref().is_none_or(Spooling::is_empty);
        if in_order && self.parcels.len() < PARCELS_MAX {
            self.parcels.push_back(Arc::clone(parcel));
            return true;
        }
        self.spool
            .as_mut()
            .is_some_and(|spooling| spooling.push(parcel))
    }

    fn next(&mut self) -> Option<Arc<Parcel>> {
        if let Some(parcel) = self.parcels.pop_front() {
            return Some(parcel);
        }
        let spooling = self.spool.as_mut()?;
        match spooling.pop() {
            Ok(parcel) => parcel.map(Arc::new),
            Err(error) => {
                self.lost = Some(format!(
                    "reading what waits on disk, in the state directory: {error}; start again, and it is made anew from the journal"
                ));
                self.closed = true;
                None
            }
        }
    }
}

impl Spooling {
    fn is_empty(&self) -> bool {
        self.spool.is_empty()
    }

    fn push(&mut self, parcel: &Parcel) -> bool {
        let pushed = self.spool.push(parcel);
        let problem = match &pushed {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "others wait for the sink {}: {} bytes wait for it on disk, as much as apply.spool_bytes_max allows",
                self.sink,
                self.spool.bytes()
            )),
            Err(error) => Some(format!(
                "others wait for the sink {}: writing what waits for it to disk, in the state directory: {error}; make room there",
                self.sink
            )),
        };
        self.tell(problem);
        pushed.unwrap_or(false)
    }

    fn pop(&mut self) -> std::io::Result<Option<Parcel>> {
        let waited = !self.is_empty();
        let popped = self.spool.pop();
        if waited {
            self.tell(None);
        }
        popped
    }

    fn tell(&self, problem: Option<String>) {
        let bytes = self.spool.bytes();
        self.progress
            .update_sink(&self.sink, |sink| sink.spooled_bytes = bytes);
        let problems: Vec<String> = problem.into_iter().collect();
        self.progress
            .set_problems(&format!("spool of {}", self.sink), &problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn parcel(end: u64) -> Parcel {
        Parcel {
            end,
            ..Parcel::default()
        }
    }

    fn ends(inlet: &Inlet) -> Vec<u64> {
        std::iter::from_fn(|| inlet.try_receive())
            .map(|parcel| parcel.end)
            .collect()
    }

    fn spooling(directory: &TempDir, bytes_max: u64, sink: &str) -> Spooling {
        Spooling {
            spool: Spool::new(directory.path(), bytes_max).unwrap(),
            sink: sink.to_owned(),
            progress: Arc::default(),
        }
    }

    #[test]
    fn one_that_is_behind_holds_up_nobody_and_misses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let spools = ["slow", "quick"].map(|sink| spooling(&directory, 1 << 20, sink));
        let progress = spools.each_ref().map(|it| Arc::clone(&it.progress));
        let spooled_bytes = |at: usize, sink: &str| {
            let sinks = progress[at].sinks();
            sinks.get(sink).map_or(0, |sink| sink.spooled_bytes)
        };
        let (outlet, inlets) = spooled(Vec::from(spools));
        let mut slow = Vec::new();
        for end in 1..=200 {
            outlet.send(parcel(end)).unwrap();
            assert_eq!(ends(&inlets[1]), [end]);
            // Now and then the other takes some, so that memory has room while older ones are on disk.
            if end % 50 == 0 {
                slow.extend((0..3).filter_map(|_| inlets[0].try_receive()));
            }
        }
        assert!(spooled_bytes(0, "slow") > 0);
        assert_eq!(spooled_bytes(1, "quick"), 0);
        let mut all: Vec<u64> = slow.iter().map(|parcel| parcel.end).collect();
        all.extend(ends(&inlets[0]));
        assert_eq!(all, (1..=200).collect::<Vec<u64>>());
        assert_eq!(spooled_bytes(0, "slow"), 0);
    }

    #[test]
    fn a_full_spool_makes_the_sender_wait_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let spooling = spooling(&directory, 60, "slow");
        let progress = Arc::clone(&spooling.progress);
        let (outlet, inlets) = spooled(vec![spooling]);
        let room = PARCELS_MAX as u64 + 3;
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                for end in 1..=room + 1 {
                    outlet.send(parcel(end)).unwrap();
                }
            });
            while progress.problems().is_empty() {
                std::thread::yield_now();
            }
            assert!(!sending.is_finished());
            let mut all = Vec::new();
            while all.last() != Some(&(room + 1)) {
                all.extend(ends(&inlets[0]));
            }
            assert_eq!(all, (1..=room + 1).collect::<Vec<u64>>());
        });
        assert_eq!(progress.problems(), Vec::<String>::new());
    }

    #[test]
    fn either_end_notices_that_the_other_is_gone() {
        let (outlet, mut inlets) = channel(1);
        outlet.send(parcel(1)).unwrap();
        drop(outlet);
        let inlet = inlets.pop().unwrap();
        assert_eq!(ends(&inlet), [1]);
        assert!(inlet.receive(Duration::from_secs(60)).is_err());
        let (outlet, inlets) = channel(1);
        drop(inlets);
        assert!(outlet.send(parcel(1)).is_err());
    }
}
