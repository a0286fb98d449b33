//! `bench pipeline`: records a second from a program's write to an SQLite row.
//!
//! A program appends records under capture while the replicator runs; the time is from its start until
//! the last row is there for a reader. Against it, in turns: the same rows put by a bare prepared
//! statement into a table of the same shape, in large transactions, on the same disk, with the same
//! journal mode and the same durability.

use super::bench_site::{BenchSite, sqlite_leg};
use crate::cargo::{self, Profile, With};
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use std::process::Command;
use std::time::Instant;

pub(crate) fn run(records: u64, rounds: usize) -> Result<bool> {
    let binaries = cargo::build(Profile::Release, With::Everything)?;
    let sqlite_leg = sqlite_leg()?;
    let count = records.to_string();
    let (mut piped, mut bare, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        let site = BenchSite::new(
            &binaries,
            &format!("pipeline-{round}"),
            "none",
            &[(
                "records.dat",
                "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100",
            )],
        )?;
        let program = site.compile("record_writer")?;
        let file = site.data().join("records.dat");
        let database = site.database();
        let mut replicator = site.replicator()?;

        let mut waiter = Command::new(&sqlite_leg);
        waiter.args([
            "wait".as_ref(),
            database.as_os_str(),
            "records_dat".as_ref(),
            count.as_ref(),
        ]);
        let begin = Instant::now();
        let (_, written) = site.run(true, &program, &[file.as_ref(), count.as_ref()])?;
        let status = waiter.status().context("waiting for the last row")?;
        if !status.success() {
            bail!("{} ended with {status}", sqlite_leg.display());
        }
        let elapsed = begin.elapsed().as_secs_f64();
        piped.push(records as f64 / elapsed);
        memory.push(replicator.memory_max_mib()?);
        println!(
            "pipeline: round {}: written after {:.2} s, in SQLite after {elapsed:.2} s, replicator at most {:.1} MiB",
            round + 1,
            written.as_secs_f64(),
            replicator.memory_max_mib()?
        );
        replicator.wait_idle()?;
        drop(replicator);

        let bare_database = site.scratch().join("bare.db");
        let begin = Instant::now();
        let status = Command::new(&sqlite_leg)
            .args(["insert".as_ref(), bare_database.as_os_str(), count.as_ref()])
            .status()
            .context("inserting rows")?;
        if !status.success() {
            bail!("{} ended with {status}", sqlite_leg.display());
        }
        let elapsed = begin.elapsed().as_secs_f64();
        bare.push(records as f64 / elapsed);
        println!(
            "pipeline: round {}: bare prepared statement {elapsed:.2} s",
            round + 1
        );
    }
    println!(
        "pipeline: {:.0} records/s from write to row, {:.0} rows/s bare (medians of {rounds})",
        median(&piped),
        median(&bare)
    );
    println!(
        "pipeline: replicator at most {:.1} MiB resident",
        memory.iter().copied().fold(0.0, f64::max)
    );
    Ok(compare(
        "pipeline/sqlite",
        median(&piped) / median(&bare),
        Aim::AtLeast(0.5),
    ))
}
