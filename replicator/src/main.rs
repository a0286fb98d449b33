//! The `counterfoil` binary: see `counterfoil --help`.

mod cli;

use clap::Parser;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("COUNTERFOIL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(|| cli::AboveBars)
        // What can't be written (the log's disk is full) is gone. To complain of it there would end the thread.
        .log_internal_errors(false)
        .init();
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "counterfoil: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The interposer's file, wherever this installation has it.
fn interposer_library() -> anyhow::Result<std::path::PathBuf> {
    counterfoil::state::interposer_library().map_err(anyhow::Error::msg)
}
