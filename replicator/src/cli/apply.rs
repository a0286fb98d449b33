//! `counterfoil apply`: from Kafka to targets.

use super::run::{UntilIdle, replicate};
use counterfoil::replicator::{Role, StartOptions};
use std::path::Path;
use std::process::ExitCode;

/// Apply what is published to Kafka, until it is told to stop (SIGTERM, SIGINT).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    until_idle: UntilIdle,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let options = StartOptions {
        role: Role::Apply,
        read_again: false,
    };
    replicate(args.until_idle, options, config)
}
