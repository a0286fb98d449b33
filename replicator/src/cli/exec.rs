//! `counterfoil exec`: run a program with its writes captured.

use anyhow::Context;
use counterfoil::config::{Config, Unavailable};
use counterfoil::coverage::obstacle;
use counterfoil::state::{self, For, prepare_lanes};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Says on standard error that the program may come to wait for a replicator, when none runs: it can't say so itself.
fn tell_who_may_wait(config: &Config) {
    let waiting: Vec<&str> = config
        .groups
        .iter()
        .filter(|group| {
            group.policy.waits_for_room || group.policy.unavailable == Unavailable::Block
        })
        .map(|group| group.name.as_str())
        .collect();
    if !waiting.is_empty() && state::running(config).is_none() {
        eprintln!(
            "counterfoil: no replicator runs; a program that fills its lane ({} bytes for each thread) with changes of {} waits until one does (`counterfoil run`)",
            config.site.lane_bytes_max,
            waiting.join(", ")
        );
    }
}

/// Run a program with its writes captured.
///
/// The program, and every program it starts, runs as it would without; what it writes to configured files goes into
/// lanes, whether or not a replicator runs. Its exit code is this command's. Where there can be no lanes, that is said, and
/// the program runs all the same, unless a group has `on_unavailable` "block" or "fail".
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    let library = crate::interposer_library()?;
    let prepared = if state::is_anothers(&config.site.lanes) {
        state::join_lanes(&config.site.lanes)
    } else {
        prepare_lanes(&config, For::Programs)
    };
    match prepared {
        Ok(_) => tell_who_may_wait(&config),
        // Whoever asks for nothing else wants the program to run.
        Err(error)
            if config
                .groups
                .iter()
                .all(|group| group.policy.unavailable == Unavailable::Continue) =>
        {
            eprintln!("counterfoil: the program runs, but isn't captured: {error}");
        }
        Err(error) => return Err(error.into()),
    }
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
