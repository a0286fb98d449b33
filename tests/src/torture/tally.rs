//! What a run counts.

use super::Way;
use std::collections::BTreeMap;
use std::fmt;

/// Of all rounds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations that programs said they had done.
    pub operations: u64,
    /// Bytes of files that were compared, at the ends of rounds, for each sink.
    pub bytes_compared: u64,
    /// Records, or files of a files sink, that were compared.
    pub records_compared: u64,
    /// Events read from topics.
    pub events: u64,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Ranges of files that replicators read again.
    pub rereads: u64,
    /// Records that a history was told again after a start.
    pub told_again: u64,
    /// Changes that a sink, or a consumer of a topic, saw twice, and positions that went back.
    pub duplicates: u64,
    /// What a program had done and is neither in its file nor in a sink, and events missing on a topic.
    pub lost: u64,
    /// Rounds by transport and sink.
    pub rounds: BTreeMap<Way, u64>,
}

impl Tally {
    /// Counts a fault.
    pub fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// How many there were of a fault.
    pub fn of(&self, name: &str) -> u64 {
        self.faults.get(name).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: u64| writeln!(f, "{name:30} {count:>12}");
        line("operations", self.operations)?;
        for (name, count) in &self.faults {
            line(name, *count)?;
        }
        line("ranges re-read", self.rereads)?;
        line("bytes compared", self.bytes_compared)?;
        line("records compared", self.records_compared)?;
        line("events read from topics", self.events)?;
        line("told again after a start", self.told_again)?;
        line("duplicates", self.duplicates)?;
        line("lost", self.lost)?;
        for (way, count) in &self.rounds {
            line(&format!("rounds: {way}"), *count)?;
        }
        Ok(())
    }
}
