//! `counterfoil capture`: from programs to Kafka.

use super::run::{UntilIdle, replicate};
use counterfoil::replicator::{Role, StartOptions};
use std::path::Path;
use std::process::ExitCode;

/// Capture, and publish to Kafka, until it is told to stop (SIGTERM, SIGINT).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    until_idle: UntilIdle,
    /// Read every file again and publish all that is in them, for targets that Kafka has too little for
    #[arg(long)]
    read_again: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let options = StartOptions {
        role: Role::Capture,
        read_again: args.read_again,
    };
    replicate(args.until_idle, options, config)
}
