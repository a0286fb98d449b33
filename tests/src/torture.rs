//! Torture: programs, operations and faults from a seed, against the whole way, on every transport and sink.
//!
//! A run has rounds. Each is a site of its own with one way to one sink (round robin), some programs that work on files of
//! every organisation, and a timetable of faults ([`Plan`]); both follow from the run's seed and the round's number. While the
//! faults last, the positions of sinks are watched, which must never go back. Then everything is healed, and the replicator
//! that runs has to bring each sink to what the files are.
//!
//! What is right is decided without Counterfoil: what programs did is known from the scripts they were given and from how far
//! they say they got (`workers`); what sinks have is read by plain SQL, or from the files sink's files, and compared with the
//! files byte by byte (`targets`); what is on a topic is read by a consumer of the test's own (`topic`).
//!
//! The seed decides what is tried. Which moment of a process a fault meets depends on the machine, so repeating a run that
//! failed may take a few attempts.

mod full_disk;
mod plan;
mod round;
mod tally;
mod targets;
mod topic;
mod workers;

pub use plan::{Plan, Sink, Transport, Way};
pub use tally::Tally;

use crate::Chance;
use anyhow::{Context as _, Result};
use round::Round;
use std::time::{Duration, Instant};
use targets::Servers;

/// How long, and from what.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything that is decided.
    pub seed: u64,
    /// The first round.
    pub round: u64,
    /// When no further round is begun.
    pub limit: Duration,
    /// How many rounds at most.
    pub rounds: u64,
    /// How long faults happen in a round.
    pub round_length: Duration,
}

/// Runs rounds, and gives what was counted. The error of a round that failed says how to repeat it, and where its evidence is.
pub fn torture(options: &Options) -> (Tally, Result<()>) {
    let mut tally = Tally::default();
    let result = rounds(options, &mut tally);
    (tally, result)
}

fn rounds(options: &Options, tally: &mut Tally) -> Result<()> {
    let begin = Instant::now();
    let mut servers = Servers::default();
    servers.has_own_mounts = full_disk::have_own_mounts();
    if !servers.has_own_mounts {
        println!("disks aren't filled: mounting one takes root, or the right to");
    }
    for number in (options.round..).take(usize::try_from(options.rounds).unwrap_or(usize::MAX)) {
        if number > options.round && begin.elapsed() >= options.limit {
            break;
        }
        let plan = Plan::new(options.seed, number, options.round_length);
        println!("round {number}: {}", plan.way);
        let seed = options.seed;
        let ms = options.round_length.as_millis();
        Round::run(&plan, &mut servers, tally).with_context(|| {
            format!(
                "round {number} of seed {seed} failed ({}); repeat it with \
                 `cargo xtask torture --seed {seed} --round {number} --rounds 1 --round-ms {ms}`",
                plan.way
            )
        })?;
    }
    Ok(())
}

/// The choices of one part of a round, whatever the others choose.
fn chance_of(seed: u64, parts: &[u64]) -> Chance {
    let mut chance = Chance::new(seed);
    for part in parts {
        chance = Chance::new(chance.number() ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    chance
}
