//! Many writers at once: nothing coordinates them, and the mirror still ends up as the file is.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Chance, Group, Shape, Site, c, rounds};

const RECORD: Shape = Shape::Fixed { size: 64 };

fn writers_end_in_equality(
    name: &str,
    shape: Shape,
    processes: &str,
    threads: &str,
    live: bool,
) -> Result<()> {
    let seed = Chance::seed();
    let program = c("concurrent_writer")?;
    for round in 0..rounds(3) as u64 {
        let site = Site::with(
            name,
            &[Group::new("group", "none").file("shared.dat", shape)],
        )?;
        let replicator = if live { Some(site.replicator()?) } else { None };
        let seed = seed.wrapping_add(round).to_string();
        site.exec_to_end(&program, &["shared.dat", processes, threads, "2000", &seed])?;
        if let Some(replicator) = replicator {
            site.stop(replicator)?;
        }
        site.assert_mirrored()
            .with_context(|| format!("seed {seed}, {}", site.root().display()))?;
        site.finish();
    }
    Ok(())
}

#[test]
fn threads_that_overwrite_each_other_end_in_equality() -> Result<()> {
    writers_end_in_equality("threads", RECORD, "1", "6", false)
}

#[test]
fn processes_and_threads_that_overwrite_each_other_end_in_equality_while_the_replicator_runs()
-> Result<()> {
    writers_end_in_equality("processes", RECORD, "3", "3", true)
}

#[test]
fn concurrent_writes_that_keep_to_no_record_end_in_equality() -> Result<()> {
    writers_end_in_equality("no-records", Shape::Lines, "2", "3", true)
}

#[test]
fn a_program_killed_among_many_threads_ends_in_equality() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    let site = Site::with(
        "killed-threads",
        &[Group::new("group", "none").file("shared.dat", RECORD)],
    )?;
    for round in 0..rounds(8) {
        let seed = chance.number().to_string();
        let mut program = site.exec(
            &c("concurrent_writer")?,
            &["shared.dat", "1", "6", "100000000", &seed],
        )?;
        let replicator = if chance.percent(50) {
            Some(site.replicator()?)
        } else {
            None
        };
        // Until it has written something more: then it is in the middle of its work.
        let size =
            || std::fs::metadata(site.path("shared.dat")).map_or(0, |metadata| metadata.len());
        let (before, more) = (size(), chance.below(20_000));
        counterfoil_tests::wait_until("the writers to write", || match size() {
            now if now > before + more => Ok(()),
            now => Err(format!("{now} bytes")),
        })?;
        program.kill()?;
        if let Some(mut replicator) = replicator {
            replicator.kill()?;
        }
        site.assert_mirrored()
            .with_context(|| format!("round {round}, {}", site.root().display()))?;
    }
    site.finish();
    Ok(())
}
