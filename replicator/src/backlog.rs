//! How full the journal and its disk are: told while there is time to do something about it.
//!
//! The limit of the journal is `bytes_max`, or what its disk still holds where that is less. What two segments take is no
//! backlog: a journal is deleted by segments, so that much is there although everything is applied.

use crate::words::{about, bytes};
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

/// Parts of a limit, in percent, from which on it is told that it comes nearer.
const LEVELS: [u64; 2] = [50, 80];
/// The growth of how long is taken for the present rate.
const RATE_OVER: Duration = Duration::from_secs(60);
/// How often figures in what is told change by themselves: each change is a line in the log.
const RETOLD_AFTER: Duration = Duration::from_secs(60);
/// A disk with less room than this is nearly full, unless this is more than a twentieth of it.
const ROOM_MIN: u64 = 1 << 30;

/// How many levels of a limit are reached by `used` of `limit`: 0, 1 or 2.
pub fn level(used: u64, limit: u64) -> usize {
    let reached =
        |&&percent: &&u64| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
    LEVELS.iter().filter(reached).count()
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes it has in all.
    pub size: u64,
}

impl Room {
    /// Where a path is; `None` if that can't be found out.
    pub fn at(path: &Path) -> Option<Room> {
        let space = rustix::fs::statvfs(path).ok()?;
        Some(Room {
            free: space.f_bavail.saturating_mul(space.f_frsize),
            size: space.f_blocks.saturating_mul(space.f_frsize),
        })
    }

    /// What is to be said of the disk that a path is on.
    pub fn problem(self, path: &Path) -> Option<String> {
        (self.free < ROOM_MIN.min(self.size / 20)).then(|| {
            // A figure that is another one each time would be told each time.
            let below = self.free.saturating_add(1).next_power_of_two();
            format!(
                "the disk of {} is nearly full: less than {} are free; make room, or nothing can be kept there soon",
                path.display(),
                bytes(below)
            )
        })
    }
}

/// What is remembered of a journal's growth.
#[derive(Debug)]
pub struct Backlog {
    bytes_max: u64,
    segment_bytes: u64,
    sizes: VecDeque<(Instant, u64)>,
    told: Option<(usize, Instant, String)>,
}

impl Backlog {
    /// A journal that may have `bytes_max` bytes, in segments of `segment_bytes`.
    pub fn new(bytes_max: u64, segment_bytes: u64) -> Backlog {
        Backlog {
            bytes_max,
            segment_bytes,
            sizes: VecDeque::new(),
            told: None,
        }
    }

    /// What is to be said now that it has `size` bytes, with this room on its disk.
    pub fn problem(&mut self, size: u64, room: Option<Room>, now: Instant) -> Option<String> {
        while self
            .sizes
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > RATE_OVER)
        {
            self.sizes.pop_front();
        }
        self.sizes.push_back((now, size));
        let on_disk = room.map_or(u64::MAX, |room| size.saturating_add(room.free));
        let limit = self.bytes_max.min(on_disk);
        let kept_always = self.segment_bytes.saturating_mul(2);
        let level = match limit.checked_sub(kept_always) {
            Some(room) if room > 0 => level(size.saturating_sub(kept_always), room),
            _ => 0,
        };
        if level == 0 {
            self.told = None;
            return None;
        }
        let is_told = |(told, at, _): &(usize, Instant, String)| {
            *told == level && now.duration_since(*at) < RETOLD_AFTER
        };
        if !self.told.as_ref().is_some_and(is_told) {
            let text = self.text(size, limit, now);
            self.told = Some((level, now, text));
        }
        self.told.as_ref().map(|(_, _, text)| text.clone())
    }

    fn text(&self, size: u64, limit: u64, now: Instant) -> String {
        let what = if limit < self.bytes_max {
            "its disk holds"
        } else {
            "journal.bytes_max allows for"
        };
        let when = match self.time_left(size, limit, now) {
            Some(left) => format!("at the present rate that is full in {}", about(left)),
            None => "it doesn't grow at present".to_owned(),
        };
        format!(
            "the journal has {} of the {} that {what}, since what is captured isn't all taken further; {when}, and then nothing is taken from captured programs: what doesn't fit their lanes is read again from the files later",
            bytes(size),
            bytes(limit)
        )
    }

    /// How long until the limit at the rate of the last minute.
    fn time_left(&self, size: u64, limit: u64, now: Instant) -> Option<Duration> {
        let (since, before) = *self.sizes.front()?;
        let elapsed = now.duration_since(since).as_secs_f64();
        let grown = size.checked_sub(before).filter(|grown| *grown > 0)?;
        if elapsed <= 0.0 {
            return None;
        }
        let seconds = limit.saturating_sub(size) as f64 * elapsed / grown as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_journal_that_fills_is_told_at_half_and_at_four_fifths_with_the_time_left() {
        let begin = Instant::now();
        // 2 MiB are always there; 100 MiB of room above them.
        let mut backlog = Backlog::new(102 * MIB, MIB);
        let mut problem = |second: u64, size: u64, room| {
            let problem = backlog.problem(size * MIB, room, begin + Duration::from_secs(second));
            problem.unwrap_or_default()
        };
        assert_eq!(problem(0, 2, None), "");
        assert_eq!(problem(30, 32, None), "");
        let half = problem(50, 52, None);
        assert!(
            half.contains("52.0 MiB of the 102.0 MiB that journal.bytes_max"),
            "{half}"
        );
        assert!(half.contains("full in 50 seconds"), "{half}");
        assert_eq!(problem(55, 57, None), half, "the same for a minute");
        let later = problem(80, 82, None);
        assert!(later.contains("full in 20 seconds"), "{later}");
        assert!(problem(200, 82, None).contains("doesn't grow"));
        // The disk is what limits.
        let room = |free| {
            Some(Room {
                free: free * MIB,
                size: 1000 * MIB,
            })
        };
        assert_eq!(problem(201, 40, room(80)), "");
        let disk = problem(202, 40, room(20));
        assert!(
            disk.contains("40.0 MiB of the 60.0 MiB that its disk holds"),
            "{disk}"
        );
    }

    #[test]
    fn what_two_segments_take_is_no_backlog() {
        let mut backlog = Backlog::new(2 * MIB, MIB);
        assert_eq!(backlog.problem(2 * MIB, None, Instant::now()), None);
    }

    #[test]
    fn a_disk_is_nearly_full_with_less_than_a_twentieth_or_a_gibibyte() {
        let is_full = |free, size| Room { free, size }.problem(Path::new("/x")).is_some();
        assert!(!is_full(2 << 30, 1 << 40));
        assert!(is_full(1 << 29, 1 << 40));
        assert!(!is_full(60 * MIB, 1000 * MIB));
        assert!(is_full(40 * MIB, 1000 * MIB));
    }
}
