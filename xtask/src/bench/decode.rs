//! `bench decode`: how fast records become typed values.
//!
//! The example `decode_speed` of the records crate measures, in one process and in turns: `memcpy` of the records, copying their
//! fields into typed rows without conversion, and decoding them into typed rows.

use crate::cargo;
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

pub(crate) fn run(rounds: usize) -> Result<bool> {
    cargo::run(
        &[
            "build",
            "--release",
            "--package",
            "counterfoil-records",
            "--example",
            "decode_speed",
        ],
        &[],
    )?;
    let program = cargo::target_dir()?.join("release/examples/decode_speed");
    let output = Command::new(&program)
        .arg(rounds.max(1).to_string())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let (mut memory, mut rows) = (Vec::new(), Vec::new());
    let mut speeds = [Vec::new(), Vec::new(), Vec::new()];
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let figures: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("reading {line:?}"))?;
        let &[copied, unconverted, decoded] = figures.as_slice() else {
            bail!("{line:?} hasn't three figures");
        };
        println!(
            "decode: round {}: memcpy {:.2} GB/s, rows without conversion {:.2} GB/s, decoded {:.3} GB/s",
            memory.len() + 1,
            copied / 1e9,
            unconverted / 1e9,
            decoded / 1e9
        );
        for (all, figure) in speeds.iter_mut().zip([copied, unconverted, decoded]) {
            all.push(figure / 1e9);
        }
        memory.push(decoded / copied);
        rows.push(decoded / unconverted);
    }
    println!(
        "decode: memcpy {:.2} GB/s, rows without conversion {:.2} GB/s, decoded {:.3} GB/s, {:.0} ns a record of 300 bytes and 20 \
         fields (medians of {rounds})",
        median(&speeds[0]),
        median(&speeds[1]),
        median(&speeds[2]),
        300.0 / median(&speeds[2])
    );
    // Both: no comparison is left out when the first misses its aim.
    let of_memory = compare("decode/memcpy", median(&memory), Aim::AtLeast(0.05));
    let of_rows = compare("decode/rows", median(&rows), Aim::AtLeast(0.25));
    Ok(of_memory && of_rows)
}
