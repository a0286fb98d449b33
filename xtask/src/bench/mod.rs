//! Benchmarks: one line per comparison after the figures it comes from; exit 1 when an aim is missed.

mod apply;
mod bench_site;
mod decode;
mod kafka;
mod load;
mod overhead;
mod pipeline;
mod tree;
mod verify;

use anyhow::Result;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Which {
    /// Rows a second that sinks apply, against what their databases do best by themselves.
    Apply {
        /// How many rows each measurement has.
        #[arg(long, default_value_t = 300_000)]
        rows: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only these databases and layouts: postgres, mariadb, sqlite; raw, typed, raw-100 and so on.
        #[arg(long)]
        only: Vec<String>,
    },
    /// What capture costs a program: the same program with and without, in turns.
    Overhead {
        /// How many rounds each comparison has.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// Only these comparisons: pwrite, files, threads, switch, uncaptured, tree.
        #[arg(long)]
        only: Vec<String>,
    },
    /// Publishing to Kafka against librdkafka's own performance, and from a write to its row against a bare round trip.
    Kafka {
        /// How many records are published in a round.
        #[arg(long, default_value_t = 400_000)]
        records: u64,
        /// How many changes are followed to their rows in a round.
        #[arg(long, default_value_t = 150)]
        changes: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Records a second from a program's write to an SQLite row, against a bare prepared statement.
    Pipeline {
        /// How many records the program writes.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Records a second from a file that was there before to rows, against the database's own bulk load.
    Load {
        /// How many records the file has.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Rows a second that are proven equal, against a plain SELECT, and what that costs live apply.
    Verify {
        /// How many records the file has.
        #[arg(long, default_value_t = 2_000_000)]
        records: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Bytes a second from records to typed values, against memcpy, rows without conversion, and what PostgreSQL's COPY takes.
    Decode {
        /// How many rounds.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
}

pub(crate) fn run(which: &Which) -> Result<ExitCode> {
    let met = match which {
        Which::Apply { rows, rounds, only } => apply::run(*rows, *rounds, only)?,
        Which::Overhead { rounds, only } => overhead::run(*rounds, only)?,
        Which::Kafka {
            records,
            changes,
            rounds,
        } => kafka::run(*records, *changes, *rounds)?,
        Which::Pipeline { records, rounds } => pipeline::run(*records, *rounds)?,
        Which::Load { records, rounds } => load::run(*records, *rounds)?,
        Which::Verify { records, rounds } => verify::run(*records, *rounds)?,
        Which::Decode { rounds } => decode::run(*rounds)?,
    };
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
