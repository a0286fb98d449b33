//! What rounds of verification have found, of files and of targets.
//!
//! A round goes through a file range by range. Its first leg compares the file with what was captured of it, its second what
//! was captured with each target, both at the position of the range. The legs may be in different processes, which keep a
//! file each in the state directory; whoever asks puts them together.

use crate::event::Checksum;
use counterfoil_lane::clock;
use counterfoil_proto::Position;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Ranges that differ which are listed for a file; all are counted.
pub const RANGES_MAX: usize = 64;

/// Why a table can't be compared that keeps columns alone.
pub const NO_RAW: &str = "the target keeps no raw image of its records (`raw = false`, or a mask)";

/// How a range compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Both sides are the same.
    Equal,
    /// They aren't.
    Different,
    /// Something was changing it, so nothing can be said.
    Busy,
}

/// What is known of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Files, as text for people, as compared with what was captured of them.
    pub files: BTreeMap<String, Tally>,
    /// By sink: files as compared with what it has of them.
    pub targets: BTreeMap<String, BTreeMap<String, Tally>>,
}

/// What the last round through a file has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Which round; it is the wall clock, nanoseconds since 1970, when it was asked for.
    pub round: u64,
    /// Ranges compared.
    pub ranges: u64,
    /// Records in them.
    pub records: u64,
    /// Ranges that differ.
    pub different: u64,
    /// Ranges that something was changing.
    pub busy: u64,
    /// The first ranges that differ: first identity, and the first that isn't in it (`u64::MAX`: all that follow are).
    pub differing: Vec<(u64, u64)>,
    /// Where the last range was compared, as `epoch/lsn`.
    pub position: String,
    /// When the round was through with the file, nanoseconds since 1970; 0: it isn't.
    pub ended_ns: i64,
    /// A range was left out, since the way was interrupted; the round tells nothing of all of the file.
    pub incomplete: bool,
    /// Why nothing can be compared, where it can't.
    pub uncompared: Option<String>,
    /// Ranges of the file, since the start of the process, that weren't as they were captured when they were read again.
    #[serde(default)]
    pub mended: u64,
    /// The outcome of the last round before that went through all of the file.
    pub last: Option<Outcome>,
}

/// What a whole round through a file has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it was through, nanoseconds since 1970.
    pub ended_ns: i64,
    /// Ranges that differed.
    pub different: u64,
    /// Ranges that something was changing.
    pub busy: u64,
}

/// What the last rounds through all files have found, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Files that a round went through.
    pub files: u64,
    /// Those of them of which something differed.
    pub different: u64,
    /// Those of which something was being changed, so that not all of them was compared.
    pub busy: u64,
    /// Files of which nothing can be compared.
    pub uncompared: u64,
    /// When the round ended that is the longest ago, nanoseconds since 1970; 0: there was none.
    pub oldest_ns: i64,
    /// The first files of which something differed.
    pub differing: Vec<String>,
}

/// Files that differ which a summary names.
const NAMED_MAX: usize = 5;

impl Summary {
    fn of(files: &BTreeMap<String, Tally>) -> Summary {
        let mut summary = Summary::default();
        for (path, tally) in files {
            if tally.uncompared.is_some() {
                summary.uncompared += 1;
                continue;
            }
            let Some(outcome) = tally.latest() else {
                continue;
            };
            summary.files += 1;
            summary.busy += u64::from(outcome.busy > 0);
            if outcome.different > 0 {
                summary.different += 1;
                if summary.differing.len() < NAMED_MAX {
                    summary.differing.push(path.clone());
                }
            }
            if summary.oldest_ns == 0 || outcome.ended_ns < summary.oldest_ns {
                summary.oldest_ns = outcome.ended_ns;
            }
        }
        summary
    }

    /// That something differs, for people.
    pub fn problem(&self, whose: &str) -> Option<String> {
        if self.different == 0 {
            return None;
        }
        let more = match self.different.saturating_sub(self.differing.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{whose} differed when it was last verified: {}{more}; `counterfoil verify` tells the records, `--repair` mends them",
            self.differing.join(", ")
        ))
    }
}

impl Tally {
    /// Adds a range.
    fn note(&mut self, checksum: &Checksum, position: Position, leg: Leg, records: u64) {
        if self.round != checksum.round {
            *self = Tally {
                round: checksum.round,
                last: self.outcome().or(self.last),
                mended: self.mended,
                ..Tally::default()
            };
        }
        self.incomplete |= u64::from(checksum.number) != self.ranges;
        self.ranges += 1;
        self.records += records;
        self.position = format!("{}/{}", position.epoch, position.lsn);
        match leg {
            Leg::Equal => {}
            Leg::Busy => self.busy += 1,
            Leg::Different => {
                self.different += 1;
                if self.differing.len() < RANGES_MAX {
                    self.differing.push((checksum.from, checksum.to));
                }
            }
        }
        if checksum.last {
            self.ended_ns = clock::wall();
        }
    }

    /// What it found, if it went through all of the file.
    pub fn outcome(&self) -> Option<Outcome> {
        (self.ended_ns > 0 && !self.incomplete).then_some(Outcome {
            ended_ns: self.ended_ns,
            different: self.different,
            busy: self.busy,
        })
    }

    /// What the last whole round found, this one or the one before.
    pub fn latest(&self) -> Option<Outcome> {
        self.outcome().or(self.last)
    }
}

impl Verification {
    /// A range of a file was compared with what was captured of it.
    pub fn note_file(
        &mut self,
        path: &str,
        position: Position,
        checksum: &Checksum,
        leg: Leg,
        records: u64,
    ) {
        let tally = self.files.entry(path.to_owned()).or_default();
        tally.note(checksum, position, leg, records);
    }

    /// A range of a file was read again, and wasn't as it was captured; what it holds is sent.
    pub fn note_mended(&mut self, path: &str) {
        if let Some(tally) = self.files.get_mut(path) {
            tally.mended += 1;
        }
    }

    /// A range of a file was compared with what a target has of it.
    pub fn note_target(
        &mut self,
        (sink, path): (&str, &str),
        position: Position,
        checksum: &Checksum,
        compared: Result<(Leg, u64), String>,
    ) {
        let files = self.targets.entry(sink.to_owned()).or_default();
        let tally = files.entry(path.to_owned()).or_default();
        match compared {
            Ok((leg, records)) => tally.note(checksum, position, leg, records),
            Err(why) => {
                tally.note(checksum, position, Leg::Equal, 0);
                tally.uncompared = Some(why);
            }
        }
    }

    /// What there is to say of files in numbers, and of what each sink has of them.
    pub fn summaries(&self) -> (Summary, BTreeMap<String, Summary>) {
        let of_sink =
            |(sink, files): (&String, &BTreeMap<String, Tally>)| (sink.clone(), Summary::of(files));
        let targets = self.targets.iter().map(of_sink).collect();
        (Summary::of(&self.files), targets)
    }

    /// A file isn't there any more.
    pub fn forget(&mut self, path: &str) {
        self.files.remove(path);
        for files in self.targets.values_mut() {
            files.remove(path);
        }
    }

    /// What rounds found that have ended, of this one and of later ones.
    pub fn ended_since(&self, round: u64) -> Verification {
        let of = |files: &BTreeMap<String, Tally>| {
            let ended = files
                .iter()
                .filter(|(_, tally)| tally.round >= round && tally.ended_ns > 0);
            ended.map(|(path, it)| (path.clone(), it.clone())).collect()
        };
        let targets = self.targets.iter();
        Verification {
            files: of(&self.files),
            targets: targets.map(|(sink, it)| (sink.clone(), of(it))).collect(),
        }
    }

    /// The last round there was of any file; 0: there was none.
    pub fn last_round(&self) -> u64 {
        let targets = self.targets.values().flat_map(BTreeMap::values);
        let tallies = self.files.values().chain(targets);
        tallies.map(|tally| tally.round).max().unwrap_or(0)
    }

    /// What others know goes with it.
    pub fn join(&mut self, other: Verification) {
        self.files.extend(other.files);
        for (sink, files) in other.targets {
            self.targets.entry(sink).or_default().extend(files);
        }
    }

    /// What a process left, if anything.
    ///
    /// # Errors
    /// It can't be read, or isn't what a process leaves.
    pub fn read(path: &Path) -> io::Result<Verification> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Verification::default()),
            Err(error) => Err(error),
        }
    }

    /// What a process before this one found: what is known to differ is so until a later round finds it equal. What can't be
    /// read is found anew.
    pub(crate) fn kept(path: &Path) -> Verification {
        Verification::read(path).unwrap_or_else(|error| {
            tracing::warn!(
                "what rounds of verification have found is forgotten: reading {}: {error}",
                path.display()
            );
            Verification::default()
        })
    }

    /// Leaves it for others, in place of what was there.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        crate::status::replace(path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(round: u64, number: u32, last: bool) -> Checksum {
        Checksum {
            from: u64::from(number) * 10,
            to: u64::from(number) * 10 + 10,
            digest: None,
            round,
            number,
            last,
        }
    }

    #[test]
    fn a_round_tells_of_all_of_a_file_or_of_nothing() {
        let mut verification = Verification::default();
        let mut note = |round, number, last, leg| {
            let at = Position::default();
            verification.note_file("/a", at, &range(round, number, last), leg, 5);
            verification.files["/a"].clone()
        };
        note(7, 0, false, Leg::Equal);
        let tally = note(7, 1, true, Leg::Different);
        assert_eq!((tally.ranges, tally.records, tally.different), (2, 10, 1));
        assert_eq!(tally.differing, [(10, 20)]);
        let first = tally.outcome().expect("it went through");
        // One that isn't through, or has a gap, leaves what was known.
        let tally = note(8, 0, false, Leg::Equal);
        assert_eq!((tally.outcome(), tally.latest()), (None, Some(first)));
        let tally = note(9, 1, true, Leg::Equal);
        assert!(tally.incomplete);
        assert_eq!((tally.outcome(), tally.latest()), (None, Some(first)));
        let tally = note(10, 0, true, Leg::Busy);
        assert_eq!(tally.latest().map(|outcome| outcome.busy), Some(1));
    }
}
