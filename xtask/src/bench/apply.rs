//! `bench apply`: rows a second that a sink applies, against what its database does best by itself, on the same server, in
//! turns.
//!
//! PostgreSQL's best is one `COPY` of all rows into a table with a primary key, and one upsert of all rows from a table that
//! they were copied into; MariaDB's is one `LOAD DATA` of all rows, and one that replaces all; SQLite's is a prepared statement
//! in transactions as large as the batches. A table with columns has the same columns, and values that were decoded before
//! the clock ran. Batches are made before it runs too, as the applier's are while the last one is applied.

use crate::cargo;
use crate::stats::{Aim, bounded, compare, median};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// A sink is at least so much of its database's best.
const AIM: f64 = 0.7;

/// What a process that does nothing but apply takes at most, in MiB: a batch of 10,000 rows of 500 bytes as it is given and as
/// it is sent, what a sink remembers, and the program.
const MEMORY_MIB_MAX: f64 = 128.0;

pub(crate) fn run(rows: u64, rounds: usize, only: &[String]) -> Result<bool> {
    cargo::run(
        &[
            "build",
            "--release",
            "--package",
            "counterfoil-sinks",
            "--example",
            "apply_leg",
        ],
        &[],
    )?;
    let leg = cargo::target_dir()?.join("release/examples/apply_leg");
    let running = || format!("running {}", leg.display());
    let mut child = Command::new(&leg)
        .args([rows.to_string(), rounds.max(1).to_string()])
        .args(only)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(running)?;
    let mut figures: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().with_context(running)?).lines() {
        let line = line.with_context(running)?;
        let words: Vec<&str> = line.split(' ').collect();
        let [case, whose, figure] = words[..] else {
            bail!("the benchmark says {line:?}");
        };
        let known = figures
            .entry((case.to_owned(), whose.to_owned()))
            .or_default();
        known.push(figure.parse().with_context(|| line.clone())?);
        println!("apply: {case}: {whose} {figure} (round {})", known.len());
    }
    let status = child.wait().with_context(running)?;
    if !status.success() {
        bail!("{} ended with {status}", leg.display());
    }
    let (mut met, mut peak) = (true, 0.0_f64);
    for ((case, whose), ours) in &figures {
        if whose == "memory" {
            let most = ours.iter().copied().fold(0.0, f64::max);
            println!("apply: {case}: at most {most:.0} MiB");
            peak = peak.max(most);
        }
        if whose != "ours" {
            continue;
        }
        let best = figures.get(&(case.clone(), "best".to_owned()));
        let best = best.with_context(|| format!("{case} has nothing to compare with"))?;
        let ratios: Vec<f64> = ours.iter().zip(best).map(|(a, b)| a / b).collect();
        println!(
            "apply: {case}: {:.0} rows/s through the sink, {:.0} rows/s by the database's best (medians of {})",
            median(ours),
            median(best),
            ours.len()
        );
        met &= compare(&format!("apply/{case}"), median(&ratios), Aim::AtLeast(AIM));
    }
    met &= bounded("apply/memory", peak, "MiB", MEMORY_MIB_MAX);
    Ok(met)
}
