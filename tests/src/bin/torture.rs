//! What `cargo xtask torture` runs: rounds of programs, operations and faults, as long as it is told. See `counterfoil_tests::torture`.

use clap::Parser;
use counterfoil_tests::torture::{Options, torture};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    minutes: f64,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 0)]
    round: u64,
    #[arg(long)]
    rounds: Option<u64>,
    #[arg(long)]
    round_ms: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
    });
    println!("seed {seed}");
    let (tally, result) = torture(&Options {
        seed,
        round: arguments.round,
        limit: Duration::from_secs_f64(arguments.minutes * 60.0),
        rounds: arguments.rounds.unwrap_or(u64::MAX),
        round_length: Duration::from_millis(arguments.round_ms),
    });
    print!("{tally}");
    match result {
        Ok(()) => {
            println!("everything was equal");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}
