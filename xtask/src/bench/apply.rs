//! `bench apply`: rows a second that a sink applies, against what its database does best by itself, on the same server, in
//! turns.
//!
//! PostgreSQL's best is one `COPY` of all rows into a table with a primary key, and one upsert of all rows from a table that
//! they were copied into; SQLite's is a prepared statement in transactions as large as the batches. Batches are made before
//! the clock runs, as the applier's are while the last one is applied.

use crate::cargo;
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// A sink is at least so much of its database's best.
const AIM: f64 = 0.7;

pub(crate) fn run(rows: u64, rounds: usize) -> Result<bool> {
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
    let output = Command::new(&leg)
        .args([rows.to_string(), rounds.max(1).to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", leg.display()))?;
    if !output.status.success() {
        bail!("{} ended with {}", leg.display(), output.status);
    }
    let text = String::from_utf8(output.stdout).context("reading what the benchmark says")?;
    let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [case, whose, figure] = words[..] else {
            bail!("the benchmark says {line:?}");
        };
        let figure = figure.parse().with_context(|| line.to_owned())?;
        figures.entry((case, whose)).or_default().push(figure);
    }
    let mut met = true;
    for ((case, whose), ours) in &figures {
        let Some(best) = figures.get(&(*case, "best")) else {
            println!("apply: {case}: at most {:.0} MiB", median(ours));
            continue;
        };
        if *whose == "ours" {
            let ratios: Vec<f64> = ours.iter().zip(best).map(|(a, b)| a / b).collect();
            println!(
                "apply: {case}: {:.0} rows/s through the sink, {:.0} rows/s by the database's best (medians of {})",
                median(ours),
                median(best),
                ours.len()
            );
            met &= compare(&format!("apply/{case}"), median(&ratios), Aim::AtLeast(AIM));
        }
    }
    Ok(met)
}
