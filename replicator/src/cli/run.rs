//! `counterfoil run`: capture and apply in one process.

use super::loads::Bars;
use super::reload::Reload;
use anyhow::Context;
use counterfoil::config::Config;
use counterfoil::console::{Console, Phase, View};
use counterfoil::coverage::Lookout;
use counterfoil::replicator::{Idle, Replicator, Role, StartOptions};
use counterfoil::status::{Coverage, Status};
use counterfoil_lane::clock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STATUS_EVERY: u32 = 10;
/// Without news it is only to be seen that the replicator is well.
const STATUS_REPEATED_EVERY: u32 = 5 * STATUS_EVERY;
/// `--until-idle` doesn't wait for ever for what somebody has to mend.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// How often it is told what rounds of verification have found.
const VERIFICATION_EVERY: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(20);

/// Capture and apply in one process, until it is told to stop (SIGTERM, SIGINT).
///
/// With [kafka] in the configuration, what is captured goes to Kafka, and what is there is applied.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    until_idle: UntilIdle,
    /// Read every file again and publish all that is in them
    #[arg(long)]
    read_again: bool,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct UntilIdle {
    /// Stop with exit code 0 once all that was captured (with `apply`: all that Kafka has) is applied; with 2 if nothing
    /// moves for half a minute before that
    #[arg(long)]
    until_idle: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let options = StartOptions {
        role: Role::Both,
        read_again: args.read_again,
    };
    replicate(args.until_idle, options, config)
}

/// Runs until all that is captured, and all that is asked, is applied.
pub(super) fn until_idle(config: &Path) -> anyhow::Result<()> {
    let options = StartOptions {
        role: Role::Both,
        read_again: false,
    };
    replicate(UntilIdle { until_idle: true }, options, config).map(drop)
}

/// Runs until it is told to stop, or is idle if that is asked for.
pub(super) fn replicate(
    until_idle: UntilIdle,
    mut options: StartOptions,
    config: &Path,
) -> anyhow::Result<ExitCode> {
    let asked = Arc::new(AtomicBool::new(false));
    let reload_asked = Arc::new(AtomicBool::new(false));
    // Of a terminal that goes, it means to stop.
    let is_daemon = !std::io::stdin().is_terminal();
    if is_daemon {
        signal_hook::flag::register(SIGHUP, Arc::clone(&reload_asked))
            .context("handling signals")?;
    }
    let stopping = [SIGTERM, SIGINT, SIGHUP];
    for &signal in &stopping[..if is_daemon { 2 } else { 3 }] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&asked))
            .context("handling signals")?;
        signal_hook::flag::register(signal, Arc::clone(&asked)).context("handling signals")?;
    }
    let mut config = super::load(config)?;
    let mut reload = Reload::new(&config, reload_asked);
    let started_ns = clock::wall();
    // What ends by itself must not keep a port from what goes on.
    let console =
        (!until_idle.until_idle).then(|| Console::start(&config, options.role, started_ns));
    let console = console.as_ref();
    let mut before: Option<Config> = None;
    loop {
        show_phase(console, Phase::Starting);
        let replicator = match (Replicator::start(config.clone(), options), before.take()) {
            (Ok(replicator), _) => replicator,
            (Err(error), None) => return Err(error),
            // Sound as it is, the new configuration is of no use: the one before was.
            (Err(error), Some(previous)) => {
                reload.refuse(&previous, &config, &error);
                config = previous;
                continue;
            }
        };
        let end = follow(
            &replicator,
            until_idle,
            &asked,
            started_ns,
            console,
            &mut reload,
        );
        show_phase(console, Phase::Stopping);
        let restart = replicator.restart_reason();
        let read_again = replicator.is_to_read_again();
        let (statuses, result) = replicator.stop_with_statuses(started_ns);
        for (path, status) in statuses {
            let stopped = true;
            write_status(&Status { stopped, ..status }, &path);
        }
        result?;
        match (end, restart) {
            (End::Stuck(why), _) => anyhow::bail!(
                "nothing has moved for {} s, and not everything captured is applied: {why}",
                GIVE_UP_AFTER.as_secs()
            ),
            (End::Changed(new), _) => {
                before = Some(std::mem::replace(&mut config, *new));
                options.read_again = read_again;
            }
            (End::Ended, Some(reason)) if !asked.load(Ordering::SeqCst) => {
                tracing::warn!("{reason}: starting again");
                options.read_again = read_again;
            }
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn show_phase(console: Option<&Console>, phase: Phase) {
    if let Some(console) = console {
        console.show_phase(phase);
    }
}

/// Why nothing goes on.
enum End {
    /// That was asked for.
    Asked,
    /// By itself.
    Ended,
    /// Nothing moves.
    Stuck(String),
    /// To go on with another configuration.
    Changed(Box<Config>),
}

fn follow(
    replicator: &Replicator,
    until_idle: UntilIdle,
    asked: &AtomicBool,
    started_ns: i64,
    console: Option<&Console>,
    reload: &mut Reload,
) -> End {
    let mut idle = Idle::default();
    let mut lookout = Lookout::default();
    let mut told: Vec<(PathBuf, Status)> = Vec::new();
    let mut verification = VerificationNews::default();
    let mut bars = Bars::default();
    let mut last_moved = (Vec::new(), Instant::now());
    let mut ticks = 0u32;
    while !asked.load(Ordering::SeqCst) {
        if replicator.has_ended() {
            return End::Ended;
        }
        if !until_idle.until_idle
            && let Some(new) = reload.look(replicator.config())
        {
            return End::Changed(Box::new(new));
        }
        if ticks.is_multiple_of(STATUS_EVERY) {
            if let Some(progress) = replicator.captured() {
                lookout.look_if_due(replicator.config(), progress);
            }
            let mut statuses = replicator.statuses(started_ns);
            if let (Some(problem), Some((_, status))) = (reload.problem(), statuses.first_mut()) {
                status.problems.push(problem.to_owned());
            }
            if let Some(console) = console {
                tell(console, replicator, &mut statuses);
            }
            let repeated = ticks.is_multiple_of(STATUS_REPEATED_EVERY);
            for (path, status) in &statuses {
                // Its time alone is no news.
                let is_told = told.iter().any(|(before, old)| {
                    before == path
                        && *status
                            == Status {
                                written_ns: status.written_ns,
                                ..old.clone()
                            }
                });
                if repeated || !is_told {
                    write_status(status, path);
                }
            }
            if let Some((_, status)) = statuses.first() {
                bars.draw(&status.loads);
            }
            told = statuses;
        }
        verification.tell_if_due(replicator);
        if until_idle.until_idle {
            if replicator.is_idle(&mut idle) {
                return End::Asked;
            }
            let mut moved: Vec<Status> = Vec::new();
            for (_, mut status) in replicator.statuses(started_ns) {
                for sink in status.sinks.values_mut() {
                    // What waits for longer hasn't moved.
                    sink.pending_ms = 0.0;
                }
                moved.push(Status {
                    written_ns: 0,
                    // Programs that come and go move nothing here; comparing a long file does.
                    coverage: Coverage {
                        programs: Vec::new(),
                        uncaptured: Vec::new(),
                        looked_ns: 0,
                        processes_hidden: 0,
                        ..status.coverage
                    },
                    ..status
                });
            }
            if moved != last_moved.0 {
                last_moved = (moved, Instant::now());
            } else if last_moved.1.elapsed() > GIVE_UP_AFTER {
                let problems: Vec<String> = moved.iter().flat_map(Status::all_problems).collect();
                return End::Stuck(if problems.is_empty() {
                    "a program is in the middle of a call".to_owned()
                } else {
                    problems.join("; ")
                });
            }
        }
        ticks = ticks.wrapping_add(1);
        std::thread::sleep(TICK);
    }
    End::Asked
}

/// Tells the console how things are, and the statuses where it is.
fn tell(console: &Console, replicator: &Replicator, statuses: &mut [(PathBuf, Status)]) {
    // Who reads both reads them as one.
    if let Some((_, status)) = statuses.first_mut() {
        let address = console.address();
        status.metrics = address
            .iter()
            .map(|address| format!("http://{address}/metrics"))
            .collect();
        status.problems.extend(console.problem());
    }
    let site = &replicator.config().site;
    let of = |path: PathBuf| {
        let found = statuses.iter().find(|(at, _)| *at == path);
        found.map(|(_, status)| status.clone())
    };
    console.show(View {
        phase: Phase::Running,
        shown: Instant::now(),
        captured: of(site.status_path()),
        applied: of(site.apply_status_path()),
        threads: replicator.threads(),
    });
}

/// Leaves what rounds of verification have found for whoever asks.
struct VerificationNews {
    due: Instant,
}

impl Default for VerificationNews {
    fn default() -> VerificationNews {
        VerificationNews {
            due: Instant::now(),
        }
    }
}

impl VerificationNews {
    /// Of very many files it is long, so it is told the less often the longer that takes.
    fn tell_if_due(&mut self, replicator: &Replicator) {
        let began = Instant::now();
        if began < self.due {
            return;
        }
        for (path, found) in replicator.news_of_verification() {
            if let Err(error) = found.write(&path) {
                tracing::debug!("writing {}: {error}", path.display());
            }
        }
        self.due = Instant::now() + VERIFICATION_EVERY.max(began.elapsed() * 20);
    }
}

fn write_status(status: &Status, path: &Path) {
    // A full disk must not stop anything; whoever looks sees that the status is old.
    if let Err(error) = status.write(path) {
        tracing::debug!("writing {}: {error}", path.display());
    }
}
