//! How far the writer has come, for everybody else in the process.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Lsn;

/// How far the writer has come. Shared by the journal, its readers and its cursors; see
/// [`Journal::progress`](crate::Journal::progress).
#[derive(Debug)]
pub struct Progress {
    written_end: AtomicU64,
    durable_end: AtomicU64,
    epoch: AtomicU64,
    /// How many threads wait; the writer pays for waking only if there are any.
    waiting: AtomicUsize,
    gate: Mutex<()>,
    grown: Condvar,
}

impl Progress {
    pub(crate) fn new(end: Lsn, epoch: u64) -> Progress {
        Progress {
            written_end: AtomicU64::new(end),
            durable_end: AtomicU64::new(end),
            epoch: AtomicU64::new(epoch),
            waiting: AtomicUsize::new(0),
            gate: Mutex::new(()),
            grown: Condvar::new(),
        }
    }

    /// All entries before this lsn are completely written.
    pub fn written_end(&self) -> Lsn {
        self.written_end.load(Ordering::Acquire)
    }

    /// All entries before this lsn survive a power cut. Never more than the written end.
    pub fn durable_end(&self) -> Lsn {
        self.durable_end.load(Ordering::Acquire)
    }

    /// The journal's epoch; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Waits until the entry `lsn` is written, for at most `limit`; says whether it is.
    pub fn wait_for(&self, lsn: Lsn, limit: Duration) -> bool {
        if self.written_end() > lsn {
            return true;
        }
        let deadline = Instant::now() + limit;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // Sequentially consistent with the writer's store and its look at `waiting`: one of the two sees the other.
        let written = loop {
            if self.written_end.load(Ordering::SeqCst) > lsn {
                break true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            gate = self
                .grown
                .wait_timeout(gate, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        written
    }

    pub(crate) fn set_written_end(&self, end: Lsn) {
        self.written_end.store(end, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Taken and left, so that a waiter is either before its check or already waiting.
            drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.grown.notify_all();
        }
    }

    pub(crate) fn set_durable_end(&self, end: Lsn) {
        self.durable_end.store(end, Ordering::Release);
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }
}
