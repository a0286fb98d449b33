//! Loads: files that are read for the first time, or again from the beginning, at the pace that the configuration allows.
//!
//! Several are read at once, a piece of each after the other (`turns`). How far each is, others can see.

use super::reading::Reading;
use crate::progress::{Load, Progress};
use counterfoil_proto::path_text;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files shorter than this are read before anybody could look.
const SHOWN_MIN: u64 = 1 << 20;

/// Readings that load.
pub(super) struct Loads {
    progress: Arc<Progress>,
    /// Of all files together; 0: as fast as may be.
    bytes_per_second: u64,
    /// Nothing goes on before.
    pace: Instant,
    waiting: VecDeque<Reading>,
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

    /// Puts a reading off that is ahead of its pace; gives back one that may go on at once.
    pub(super) fn put_off(&mut self, reading: Reading, now: Instant) -> Option<Reading> {
        if self.pace <= now {
            return Some(reading);
        }
        self.waiting.push_back(reading);
        None
    }

    /// One that may go on again.
    pub(super) fn next(&mut self, now: Instant) -> Option<Reading> {
        match self.pace <= now {
            true => self.waiting.pop_front(),
            false => None,
        }
    }

    /// When one may go on, if any waits.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.pace)
    }
}
