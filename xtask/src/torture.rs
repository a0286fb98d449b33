//! `torture`: builds what is tortured and the program that does it, and runs that as long as it is told.

use crate::cargo::{self, Profile, With};
use anyhow::Result;
use std::process::{Command, ExitCode};

/// What is asked for.
pub(crate) struct Options {
    pub(crate) minutes: f64,
    pub(crate) seed: Option<u64>,
    pub(crate) round: u64,
    pub(crate) rounds: Option<u64>,
    pub(crate) round_ms: u64,
}

/// Runs it; 1 if anything differed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    crate::packages::install_missing()?;
    crate::packages::install_broker()?;
    let dir = cargo::build(Profile::Dev, With::Odbc)?;
    let arguments = [
        "build",
        "--package",
        "counterfoil-tests",
        "--bin",
        "torture",
    ];
    cargo::run(&arguments, &[])?;
    let mut command = Command::new(dir.join("torture"));
    command.args(["--minutes", &options.minutes.to_string()]);
    command.args(["--round", &options.round.to_string()]);
    command.args(["--round-ms", &options.round_ms.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    Ok(match cargo::shown(&mut command)?.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
