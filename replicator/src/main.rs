//! The `counterfoil` binary: see `counterfoil --help`.

mod cli;

use clap::Parser;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    end_with_the_reader();
    let filter =
        EnvFilter::try_from_env("COUNTERFOIL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("counterfoil: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// `counterfoil status | head` should end quietly when `head` does, as other tools do.
fn end_with_the_reader() {
    // SAFETY: the default action for a signal, set before any thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The interposer's file, wherever this installation has it.
fn interposer_library() -> anyhow::Result<std::path::PathBuf> {
    counterfoil::state::interposer_library().map_err(anyhow::Error::msg)
}
