//! `counterfoil run`: capture and apply in one process.

use anyhow::Context;
use counterfoil::coverage::Lookout;
use counterfoil::replicator::{Idle, Replicator};
use counterfoil::status::{Coverage, Status};
use counterfoil_lane::clock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STATUS_EVERY: u32 = 10;
/// Without news it is only to be seen that the replicator is well.
const STATUS_REPEATED_EVERY: u32 = 5 * STATUS_EVERY;
/// `--until-idle` doesn't wait for ever for what somebody has to mend.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

/// Capture and apply in one process, until it is told to stop (SIGTERM, SIGINT).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Stop with exit code 0 once all that was captured is applied; with 2 if nothing moves for half a minute before that
    #[arg(long)]
    until_idle: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&asked))
            .context("handling signals")?;
        signal_hook::flag::register(signal, Arc::clone(&asked)).context("handling signals")?;
    }
    let config = super::load(config)?;
    let started_ns = clock::wall();
    let replicator = Replicator::start(config)?;
    let status_path = replicator.config().site.status_path();
    let mut idle = Idle::default();
    let mut lookout = Lookout::default();
    let mut told = Status::default();
    let mut last_moved = (Status::default(), Instant::now());
    let mut stuck = None;
    let mut ticks = 0u32;
    while !asked.load(Ordering::SeqCst) && !replicator.has_ended() {
        if ticks.is_multiple_of(STATUS_EVERY) {
            lookout.look_if_due(replicator.config(), replicator.progress());
            let status = Status::of(replicator.config(), replicator.progress(), started_ns);
            // Its time alone is no news.
            told.written_ns = status.written_ns;
            if ticks.is_multiple_of(STATUS_REPEATED_EVERY) || told != status {
                write_status(&status, &status_path);
                told = status;
            }
        }
        if args.until_idle {
            if replicator.is_idle(&mut idle) {
                break;
            }
            let moved = Status {
                written_ns: 0,
                // Programs that come and go move nothing here.
                coverage: Coverage::default(),
                ..Status::of(replicator.config(), replicator.progress(), started_ns)
            };
            if moved != last_moved.0 {
                last_moved = (moved, Instant::now());
            } else if last_moved.1.elapsed() > GIVE_UP_AFTER {
                stuck = Some(moved.all_problems());
                break;
            }
        }
        ticks = ticks.wrapping_add(1);
        std::thread::sleep(TICK);
    }
    let (config, progress) = (
        Arc::clone(replicator.config()),
        Arc::clone(replicator.progress()),
    );
    let result = replicator.stop();
    let status = Status {
        stopped: true,
        ..Status::of(&config, &progress, started_ns)
    };
    write_status(&status, &status_path);
    result?;
    if let Some(problems) = stuck {
        let why = if problems.is_empty() {
            "a program is in the middle of a call".to_owned()
        } else {
            problems.join("; ")
        };
        anyhow::bail!(
            "nothing has moved for {} s, and not everything captured is applied: {why}",
            GIVE_UP_AFTER.as_secs()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn write_status(status: &Status, path: &Path) {
    // A full disk must not stop anything; whoever looks sees that the status is old.
    if let Err(error) = status.write(path) {
        tracing::debug!("writing {}: {error}", path.display());
    }
}
