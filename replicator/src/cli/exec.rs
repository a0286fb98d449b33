//! `counterfoil exec`: run a program with its writes captured.

use anyhow::Context;
use counterfoil::coverage::obstacle;
use counterfoil::state::prepare_lanes;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Run a program with its writes captured.
///
/// The program, and every program it starts, runs as it would without; what it writes to configured files goes into
/// lanes, whether or not a replicator runs. Its exit code is this command's.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    let library = crate::interposer_library()?;
    prepare_lanes(&config)?;
    let mut preload = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    // Ours last: it makes system calls, so a library behind it would see nothing of what it does.
    if !preload.is_empty() {
        preload.push(":");
    }
    preload.push(library);
    let (program, arguments) = args.command.split_first().context("no program given")?;
    if let Some(why) = obstacle(program) {
        eprintln!(
            "counterfoil: {} {why}: its writes can't be captured, a running replicator finds them by comparing the files",
            program.display()
        );
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LD_PRELOAD", preload)
        .env("COUNTERFOIL_LANES", &config.site.lanes);
    // SAFETY: what is done there is async-signal-safe.
    unsafe { command.pre_exec(super::broken_pipe::hand_on) };
    let error = command.exec();
    // As shells do: 127 for a program that isn't there, 126 for one that can't be run.
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    eprintln!("counterfoil: running {}: {error}", program.display());
    Ok(ExitCode::from(code))
}
