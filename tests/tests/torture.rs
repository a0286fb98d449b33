//! A little of what `cargo xtask torture` does for hours: a round on each way, with faults for some seconds.
//!
//! `COUNTERFOIL_SOAK` makes it longer, `COUNTERFOIL_SEED` replays a run.

use anyhow::{Result, ensure};
use counterfoil_tests::torture::{Options, torture};
use counterfoil_tests::{Chance, rounds};
use std::time::Duration;

#[test]
fn whatever_is_done_and_whatever_fails_every_sink_has_what_the_files_are() -> Result<()> {
    let (tally, result) = torture(&Options {
        seed: Chance::seed(),
        round: 0,
        limit: Duration::MAX,
        rounds: rounds(5) as u64,
        round_length: Duration::from_millis(2500),
    });
    print!("{tally}");
    result?;
    // It did try something, and compared something.
    ensure!(
        tally.rounds.len() == 5,
        "not all ways were taken: {:?}",
        tally.rounds
    );
    ensure!(tally.operations > 1000 && tally.records_compared > 1000);
    ensure!(
        tally.events > 100,
        "only {} events were on topics",
        tally.events
    );
    ensure!(tally.of("kills: programs") > 0 && tally.of("kills: replicators") > 0);
    ensure!(tally.duplicates == 0 && tally.lost == 0);
    Ok(())
}
