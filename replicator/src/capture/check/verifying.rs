//! Rounds of verification: files are read from their beginning to their end, at a pace, and what was read becomes checksums
//! that travel the way of everything else.
//!
//! A round that somebody asks for is as quick as it can be without keeping other readings waiting: each has its turn. Rounds
//! that follow one another without being asked for have a budget of bytes per second. One file is read at a time; one that is
//! being read for another reason comes later.

use super::reading::{Reading, Turn};
use super::{Checker, Stopped, Task};
use crate::config::Verify;
use counterfoil_lane::clock;
use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long after the start the first round begins, unless rounds follow one another at once.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// When it is looked again whether there are files, if there were none.
const NOTHING_THERE: Duration = Duration::from_secs(1);
/// What a range costs a budget at least: opening and looking cost something too.
const PAID_MIN: u64 = 4096;
/// When a file that is read for another reason is looked at again.
const LATER: Duration = Duration::from_millis(20);

/// What is to be verified, and when.
pub(super) struct Verifying {
    /// Bytes per second of rounds that nobody asked for; 0: there are none.
    bytes_per_second: u64,
    /// From the beginning of one of them to that of the next, at least.
    interval: Duration,
    asked: VecDeque<Job>,
    budgeted: VecDeque<Job>,
    reading: Option<(Reading, Job)>,
    /// One with a budget that goes on when nobody waits any more.
    parked: Option<(Reading, Job)>,
    /// Nothing budgeted is done before.
    pace: Instant,
    /// Nothing that was asked for is begun before.
    asked_after: Instant,
    next_round: Instant,
    last_round: u64,
}

/// A file that a round is to go through.
struct Job {
    path: Arc<[u8]>,
    round: u64,
    /// Somebody waits for it.
    is_asked: bool,
}

impl Verifying {
    pub(super) fn new(config: &Verify, now: Instant) -> Verifying {
        Verifying {
            bytes_per_second: config.bytes_per_second,
            interval: config.interval,
            asked: VecDeque::new(),
            budgeted: VecDeque::new(),
            reading: None,
            parked: None,
            pace: now,
            asked_after: now,
            next_round: now + FIRST_AFTER.min(config.interval),
            last_round: 0,
        }
    }

    /// Takes a file that somebody asked for, which is counted as a task.
    pub(super) fn add(&mut self, path: Arc<[u8]>, round: u64) {
        self.last_round = self.last_round.max(round);
        // It proves as much, and one round of a file at a time can be told of.
        let is_same = |(_, job): &mut (Reading, Job)| !job.is_asked && job.path == path;
        self.reading.take_if(is_same);
        self.parked.take_if(is_same);
        self.budgeted.retain(|job| job.path != path);
        self.asked.push_back(Job {
            path,
            round,
            is_asked: true,
        });
    }

    /// When something is to be done, if anything is.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.reading {
            Some((_, job)) if job.is_asked => return Some(self.asked_after),
            _ if !self.asked.is_empty() => return Some(self.asked_after),
            _ => {}
        }
        if self.bytes_per_second == 0 {
            return None;
        }
        let is_under_way =
            self.reading.is_some() || self.parked.is_some() || !self.budgeted.is_empty();
        Some(if is_under_way {
            self.pace
        } else {
            self.next_round.max(self.pace)
        })
    }

    /// A number for a round, greater than those before.
    fn number(&mut self) -> u64 {
        let now = u64::try_from(clock::wall()).unwrap_or(0);
        self.last_round = now.max(self.last_round + 1);
        self.last_round
    }

    fn pay(&mut self, bytes: u64, now: Instant) {
        let nanos = bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1);
        self.pace = self.pace.max(now) + Duration::from_nanos(nanos);
    }
}

impl Checker {
    /// Goes on with a round, if it is time for that.
    pub(super) fn verify_if_due(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        if self.verifying.due().is_none_or(|due| due > now) {
            return Ok(());
        }
        // Who asked waits for nothing but the range that is being read.
        let is_budgeted = |(_, job): &mut (Reading, Job)| !job.is_asked;
        if !self.verifying.asked.is_empty()
            && let Some(parked) = self.verifying.reading.take_if(is_budgeted)
        {
            self.verifying.parked = Some(parked);
        }
        let Some((reading, job)) = self.verifying.reading.take() else {
            return self.verify_next(now);
        };
        let turn = self.look_before(&reading)?;
        self.verify_on(reading, job, turn, now)
    }

    /// Reads the next range of a file.
    fn verify_on(
        &mut self,
        mut reading: Reading,
        job: Job,
        mut turn: Turn,
        now: Instant,
    ) -> Result<(), Stopped> {
        if matches!(turn, Turn::More) {
            let from = reading.at();
            turn = self.read_chunk(&mut reading)?;
            if !job.is_asked {
                self.verifying.pay((reading.at() - from).max(PAID_MIN), now);
            }
        }
        match turn {
            Turn::More => self.verifying.reading = Some((reading, job)),
            Turn::Done => self.verified(&job),
        }
        Ok(())
    }

    /// Begins with the next file, or with the next round.
    fn verify_next(&mut self, now: Instant) -> Result<(), Stopped> {
        let verifying = &mut self.verifying;
        let next = verifying.asked.pop_front();
        if next.is_none()
            && let Some(parked) = verifying.parked.take()
        {
            verifying.reading = Some(parked);
            return Ok(());
        }
        let Some(job) = next.or_else(|| verifying.budgeted.pop_front()) else {
            if now >= verifying.next_round {
                self.begin_round(now);
            }
            return Ok(());
        };
        if self.config.is_static(&job.path) {
            // Its blocks are compared with what is known of them; nothing is sent of it.
            self.ask_itself(Task::Check {
                path: Arc::clone(&job.path),
            });
            self.verified(&job);
            return Ok(());
        }
        // What is being loaded, or compared, would be found to differ.
        if self.turns.is_at(&job.path) {
            let verifying = &mut self.verifying;
            if job.is_asked {
                verifying.asked_after = now + LATER;
                verifying.asked.push_back(job);
            } else {
                verifying.pace = verifying.pace.max(now + LATER);
                verifying.budgeted.push_back(job);
            }
            return Ok(());
        }
        match self.open(&job.path)? {
            Some((file, inode)) => {
                let reading = Reading::of(&job.path, file, inode).by_round(job.round);
                self.verify_on(reading, job, Turn::More, now)
            }
            None => {
                self.verified(&job);
                Ok(())
            }
        }
    }

    fn verified(&mut self, job: &Job) {
        if job.is_asked {
            self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A round through all files that nobody asked for.
    fn begin_round(&mut self, now: Instant) {
        let round = self.verifying.number();
        let paths = self.files_there();
        let verifying = &mut self.verifying;
        verifying.next_round = now + verifying.interval;
        verifying.budgeted = paths
            .into_iter()
            .map(|path| Job {
                path,
                round,
                is_asked: false,
            })
            .collect();
        if verifying.budgeted.is_empty() {
            verifying.next_round = now + verifying.interval.max(NOTHING_THERE);
        }
    }

    /// The record files that are there, in order of path.
    pub(super) fn files_there(&self) -> Vec<Arc<[u8]>> {
        let found = self.config.scan().filter_map(|found| found.ok());
        let paths = found.map(|found| Arc::<[u8]>::from(found.path.as_os_str().as_bytes()));
        let is_of_records =
            |path: &Arc<[u8]>| self.config.rule_for(path).is_some() && !self.config.is_static(path);
        let mut paths: Vec<_> = paths.filter(is_of_records).collect();
        paths.sort();
        paths.dedup();
        paths
    }
}
