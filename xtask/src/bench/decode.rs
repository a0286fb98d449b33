//! `bench decode`: how fast records become typed values.
//!
//! The example `decode_speed` of the records crate measures, in one process and in turns: `memcpy` of the records, copying their
//! fields into typed rows without conversion, and decoding them into typed rows. After each of its rounds PostgreSQL takes the same
//! rows: one `COPY` of text that was made before, into an ordinary table without an index, on a server of its own that need not
//! wait for its disk. Decoding is to be so much faster that it is never what a target waits for.

use crate::cargo;
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use counterfoil_servers::Postgres;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Bytes of a record.
const RECORD_BYTES: f64 = 300.0;

/// The example, while it runs.
struct Measured {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Measured {
    fn start(program: &Path, copied: &Path) -> Result<Measured> {
        let running = || format!("running {}", program.display());
        let mut child = Command::new(program)
            .arg(copied)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(running)?;
        let input = child.stdin.take().with_context(running)?;
        let output = BufReader::new(child.stdout.take().with_context(running)?);
        Ok(Measured {
            child,
            input,
            output,
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the benchmark ended with {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Bytes a second: copied, put into rows without conversion, decoded.
    fn round(&mut self) -> Result<[f64; 3]> {
        writeln!(self.input)?;
        let line = self.line()?;
        let figures: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("reading {line:?}"))?;
        <[f64; 3]>::try_from(figures).map_err(|_| anyhow::anyhow!("{line:?} hasn't three figures"))
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let directory = cargo::target_dir()?;
    let copied = directory.join("bench/sale.copy");
    std::fs::create_dir_all(directory.join("bench"))
        .with_context(|| format!("making {}", directory.join("bench").display()))?;
    let copy = format!("\\copy sale from '{}'", copied.display());
    let mut measured = Measured::start(&directory.join("release/examples/decode_speed"), &copied)?;
    let (table, records) = (measured.line()?, measured.line()?);
    let records: f64 = records.parse().with_context(|| records.clone())?;
    let server = Postgres::start("shared_buffers = 256MB\nmax_wal_size = 2GB")?;
    server.sql("postgres", &table)?;
    let mut session = server.session("postgres")?;
    let rounds = rounds.max(1);
    // Figures of each round: the three speeds in GB/s, then rows a second that COPY takes.
    let mut figures: [Vec<f64>; 4] = Default::default();
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for round in 1..=rounds {
        let [memory, rows, decoded] = measured.round()?;
        let begin = Instant::now();
        session.run(&copy)?;
        let taken = records / begin.elapsed().as_secs_f64();
        let count = session.run("SELECT count(*) FROM sale; TRUNCATE sale; CHECKPOINT")?;
        if count.trim() != format!("{records}") {
            bail!("COPY left {} rows of {records}", count.trim());
        }
        println!(
            "decode: round {round}: memcpy {:.2} GB/s, rows without conversion {:.2} GB/s, decoded {:.3} GB/s; {:.0} rows/s \
             decoded, {taken:.0} rows/s taken by COPY",
            memory / 1e9,
            rows / 1e9,
            decoded / 1e9,
            decoded / RECORD_BYTES
        );
        for (all, figure) in
            figures
                .iter_mut()
                .zip([memory / 1e9, rows / 1e9, decoded / 1e9, taken])
        {
            all.push(figure);
        }
        let now = [
            decoded / memory,
            decoded / rows,
            decoded / RECORD_BYTES / taken,
        ];
        for (all, ratio) in ratios.iter_mut().zip(now) {
            all.push(ratio);
        }
    }
    let _ = std::fs::remove_file(&copied);
    let [memory, rows, decoded, taken] = figures.map(|all| median(&all));
    println!(
        "decode: memcpy {memory:.2} GB/s, rows without conversion {rows:.2} GB/s, decoded {decoded:.3} GB/s, {:.0} ns a record of \
         300 bytes and 20 fields (medians of {rounds})",
        RECORD_BYTES / decoded
    );
    println!(
        "decode: {:.0} rows/s decoded by one core, {taken:.0} rows/s taken by PostgreSQL's COPY (medians of {rounds})",
        decoded * 1e9 / RECORD_BYTES
    );
    // All: no comparison is left out when another misses its aim.
    let [of_memory, of_rows, of_copy] = ratios.map(|all| median(&all));
    let of_memory = compare("decode/memcpy", of_memory, Aim::AtLeast(0.03));
    let of_rows = compare("decode/rows", of_rows, Aim::AtLeast(0.12));
    let of_copy = compare("decode/copy", of_copy, Aim::AtLeast(5.0));
    Ok(of_memory && of_rows && of_copy)
}
