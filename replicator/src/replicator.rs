//! What runs in a process: halves, how they start, and how they stop.
//!
//! ```text
//! checker ──findings──► sequencer ──journal──► publisher ──parcels──► applier (one per sink)
//!    ▲                      │                      │
//!    └──────── tasks ───────┴──────────────────────┘
//! ```
//!
//! Without Kafka that is one half (`capturing`). With it, the publisher's parcels go to topics, and each sink has a half of
//! its own (`applying`) that takes them from there; whether the halves are in one process makes no difference to them.
//!
//! Stopping goes the way of the data: the sequencer ends after its pass, the publisher leaves a checkpoint, and each applier
//! applies what it was given.

mod applying;
mod capturing;
mod destination;
mod selections;

use crate::config::{Config, SinkConfig, Target};
use crate::progress::Progress;
use crate::state::State;
use crate::status::Status;
use crate::verification::Verification;
use anyhow::{Context, Result, bail};
#[cfg(feature = "odbc")]
use counterfoil_sinks::OdbcSink;
use counterfoil_sinks::{FileDescription, FilesSink, MysqlSink, PostgresSink, Sink, SqliteSink};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// Which halves a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Both.
    Both,
    /// From programs to Kafka.
    Capture,
    /// From Kafka to targets.
    Apply,
}

/// How to start.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions {
    /// What to start.
    pub role: Role,
    /// Every file is read and published again.
    pub read_again: bool,
}

/// Threads as of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// For how long each hasn't gone on though it should have.
    pub silences: BTreeMap<String, Duration>,
    /// Those that have ended.
    pub ended: Vec<String>,
}

/// What runs.
pub struct Replicator {
    config: Arc<Config>,
    halves: Vec<Half>,
}

/// Threads that share counters.
struct Half {
    progress: Arc<Progress>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
    lock: Lock,
}

/// What a half holds as long as it runs.
enum Lock {
    State(State),
    /// The applying halves share one.
    #[cfg_attr(
        not(feature = "kafka"),
        allow(dead_code, reason = "nothing is applied from Kafka")
    )]
    Apply {
        _file: Arc<std::fs::File>,
    },
}

/// Opens a sink for applying. One whose server can't be reached just now is connected to when it is first used.
pub fn open_sink(sink: &SinkConfig) -> Result<Box<dyn Sink>> {
    match &sink.target {
        Target::Sqlite(config) => {
            let opened = SqliteSink::open(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        Target::Files(config) => {
            let opened = FilesSink::open(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        Target::Mysql(config) => {
            let opened = match MysqlSink::open(config) {
                Err(error) if error.is_transient() => {
                    tracing::warn!("sink {}: {error}", sink.name);
                    MysqlSink::open_later(config)
                }
                opened => opened,
            };
            Ok(Box::new(
                opened.with_context(|| format!("sink {}", sink.name))?,
            ))
        }
        #[cfg(feature = "odbc")]
        Target::Odbc(config) => {
            let opened = match OdbcSink::open(config) {
                Err(error) if error.is_transient() => {
                    tracing::warn!("sink {}: {error}", sink.name);
                    Ok(OdbcSink::open_later(config))
                }
                opened => opened,
            };
            Ok(Box::new(
                opened.with_context(|| format!("sink {}", sink.name))?,
            ))
        }
        Target::Postgres(config) => {
            let opened = match PostgresSink::open(config) {
                Err(error) if error.is_transient() => {
                    tracing::warn!("sink {}: {error}", sink.name);
                    PostgresSink::open_later(config)
                }
                opened => opened,
            };
            Ok(Box::new(
                opened.with_context(|| format!("sink {}", sink.name))?,
            ))
        }
    }
}

/// The statements with which a sink's empty database gets the tables of these files.
pub fn schema_sql(sink: &SinkConfig, files: &[FileDescription]) -> Result<Vec<String>> {
    let statements = match &sink.target {
        Target::Sqlite(config) => counterfoil_sinks::sqlite::schema_sql(config, files),
        Target::Postgres(config) => counterfoil_sinks::postgres::schema_sql(config, files),
        Target::Mysql(config) => counterfoil_sinks::mysql::schema_sql(config, files),
        #[cfg(feature = "odbc")]
        Target::Odbc(config) => counterfoil_sinks::odbc::schema_sql(config, files),
        Target::Files(_) => bail!("sink {} writes files, which have no tables", sink.name),
    };
    Ok(statements?)
}

/// Opens a sink for looking only, beside a running replicator.
pub fn open_sink_read_only(sink: &SinkConfig) -> Result<Box<dyn Sink>> {
    match &sink.target {
        Target::Sqlite(config) => {
            if !config.path.exists() {
                bail!(
                    "sink {}: there is no {} yet: nothing has been mirrored; `counterfoil run` does",
                    sink.name,
                    config.path.display()
                );
            }
            let opened = SqliteSink::open_read_only(config)
                .with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        Target::Files(config) => {
            let opened =
                FilesSink::open_read_only(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        Target::Mysql(config) => {
            let opened =
                MysqlSink::open_read_only(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        #[cfg(feature = "odbc")]
        Target::Odbc(config) => {
            let opened =
                OdbcSink::open_read_only(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
        Target::Postgres(config) => {
            let opened = PostgresSink::open_read_only(config)
                .with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
    }
}

impl Replicator {
    /// Starts all threads.
    pub fn start(config: Config, options: StartOptions) -> Result<Replicator> {
        allow_many_files();
        let config = Arc::new(config);
        let mut halves = Vec::new();
        if config.kafka.is_none() && options.role != Role::Both {
            bail!(
                "{}: there is no [kafka], so capture and apply can't be processes of their own; add one, or use `counterfoil run`",
                config.path.display()
            );
        }
        if options.role != Role::Apply && !config.groups.is_empty() {
            halves.push(capturing::start(&config, options.read_again)?);
        } else if options.role == Role::Capture {
            bail!(
                "{}: there is no [[group]], so there is nothing to capture",
                config.path.display()
            );
        }
        if config.kafka.is_some() && options.role != Role::Capture {
            match applying::start(&config) {
                Ok(applying) => halves.extend(applying),
                Err(error) => {
                    // What runs already ends in order.
                    let started = Replicator { config, halves };
                    return match started.stop() {
                        Ok(()) => Err(error),
                        Err(also) => Err(error.context(format!("{also:#}"))),
                    };
                }
            }
        }
        Ok(Replicator { config, halves })
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The counters of the capturing half, if it has one.
    pub fn captured(&self) -> Option<&Arc<Progress>> {
        let is_capturing = |half: &&Half| matches!(half.lock, Lock::State(_));
        Some(&self.halves.iter().find(is_capturing)?.progress)
    }

    /// What there is to say of it at present, and where others look for it.
    pub fn statuses(&self, started_ns: i64) -> Vec<(PathBuf, Status)> {
        statuses(&self.config, &self.halves, started_ns)
    }

    /// What rounds of verification have found since this was asked last, and where others look for it.
    pub fn news_of_verification(&self) -> BTreeMap<PathBuf, Verification> {
        let site = &self.config.site;
        let path_of = |half: &Half| match &half.lock {
            Lock::State(_) => site.verification_path(),
            Lock::Apply { .. } => site.apply_verification_path(),
        };
        let mut news: BTreeMap<PathBuf, Verification> = BTreeMap::new();
        for half in &self.halves {
            if half.progress.has_news_of_verification() {
                news.entry(path_of(half)).or_default();
            }
        }
        // Halves that share a place stand there together, whichever of them has news.
        for half in &self.halves {
            if let Some(found) = news.get_mut(&path_of(half)) {
                found.join(half.progress.verification_so_far());
            }
        }
        news
    }

    /// Whether, after this call began, there was a moment at which everything captured had been applied to every sink.
    /// Call it again and again with the same `since`.
    pub fn is_idle(&self, since: &mut Idle) -> bool {
        since
            .halves
            .resize_with(self.halves.len(), HalfIdle::default);
        // What comes later can be idle only once what comes before it is.
        for (at, half) in self.halves.iter().enumerate() {
            if !half.is_idle(&mut since.halves[at]) {
                since.halves[at + 1..].fill_with(HalfIdle::default);
                return false;
            }
        }
        true
    }

    /// Whether a thread has ended, so that nothing goes on.
    pub fn has_ended(&self) -> bool {
        self.halves.iter().any(|half| {
            half.progress.is_stopping()
                || half.threads.iter().any(|(_, thread)| thread.is_finished())
        })
    }

    /// How its threads are.
    pub fn threads(&self) -> Threads {
        let mut threads = Threads::default();
        for half in &self.halves {
            threads.silences.extend(half.progress.silences());
            let ended = half
                .threads
                .iter()
                .filter(|(_, thread)| thread.is_finished());
            threads
                .ended
                .extend(ended.map(|(name, _)| (*name).to_owned()));
        }
        threads
    }

    /// Why everything is to be started again, if it is.
    pub fn restart_reason(&self) -> Option<String> {
        self.halves
            .iter()
            .find_map(|half| half.progress.restart_reason())
    }

    /// Whether a start again is to read every file.
    pub fn is_to_read_again(&self) -> bool {
        self.halves
            .iter()
            .any(|half| half.progress.is_to_read_again())
    }

    /// Stops everything, waits for it, and says how it was in the end.
    pub fn stop_with_statuses(self, started_ns: i64) -> (Vec<(PathBuf, Status)>, Result<()>) {
        let Replicator { config, mut halves } = self;
        let mut result = Ok(());
        for half in &mut halves {
            result = result.and(half.stop());
        }
        let statuses = statuses(&config, &halves, started_ns);
        for half in halves {
            if let Lock::State(state) = half.lock
                && half.progress.failure().is_none()
            {
                result = result.and(state.close().map_err(Into::into));
            }
        }
        (statuses, result)
    }

    /// Stops everything and waits for it.
    pub fn stop(self) -> Result<()> {
        self.stop_with_statuses(0).1
    }
}

fn statuses(config: &Config, halves: &[Half], started_ns: i64) -> Vec<(PathBuf, Status)> {
    let mut statuses: Vec<(PathBuf, Status)> = Vec::new();
    for half in halves {
        let path = match &half.lock {
            Lock::State(_) => config.site.status_path(),
            Lock::Apply { .. } => config.site.apply_status_path(),
        };
        let status = Status::of(config, &half.progress, started_ns);
        match statuses.iter_mut().find(|(before, _)| *before == path) {
            Some((_, before)) => before.join(status),
            None => statuses.push((path, status)),
        }
    }
    statuses
}

impl Half {
    fn is_idle(&self, since: &mut HalfIdle) -> bool {
        let progress = &self.progress;
        let scans = progress.scans.load(Ordering::SeqCst);
        let drained = progress.drained_passes.load(Ordering::SeqCst);
        let ends = (
            progress.journal_end.load(Ordering::SeqCst),
            progress.published_end.load(Ordering::SeqCst),
            progress.applied_end(),
        );
        let quiet = progress.tasks.load(Ordering::SeqCst) == 0
            && progress.findings.load(Ordering::SeqCst) == 0
            && !progress.refilling.load(Ordering::SeqCst)
            && ends.0 == ends.1
            && ends.1 == ends.2;
        let first_scan = *since.scans.get_or_insert(scans);
        progress
            .scans_wanted
            .fetch_max(first_scan + 2, Ordering::SeqCst);
        if !quiet || since.end != ends.0 {
            since.end = ends.0;
            since.drained = drained;
            return false;
        }
        // Quiet with the same end through whole passes, one of which began after a scan that began after us.
        scans >= first_scan + 2 && drained >= since.drained + 3
    }

    fn stop(&mut self) -> Result<()> {
        self.progress.stop();
        for (name, thread) in self.threads.drain(..).rev() {
            if thread.join().is_err() {
                self.progress.fail(format!("the thread {name} panicked"));
            }
        }
        let Some(failure) = self.progress.failure() else {
            return Ok(());
        };
        // Whoever needed something of it first only says what that was.
        if let Lock::State(state) = &self.lock
            && let Some(removed) = state.removed()
            && removed != failure
        {
            bail!("{removed} ({failure})");
        }
        bail!(failure);
    }
}

/// What [`Replicator::is_idle`] remembers.
#[derive(Debug, Default)]
pub struct Idle {
    halves: Vec<HalfIdle>,
}

#[derive(Debug, Default)]
struct HalfIdle {
    scans: Option<u64>,
    drained: u64,
    end: u64,
}

#[cfg(not(feature = "kafka"))]
fn built_without_kafka() -> anyhow::Error {
    anyhow::anyhow!(
        "this counterfoil was built without Kafka; build it with the feature `kafka`, or leave [kafka] out of the configuration"
    )
}

fn spawn(
    name: &'static str,
    progress: &Arc<Progress>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let progress = Arc::clone(progress);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            struct Guard(Arc<Progress>, &'static str);
            impl Drop for Guard {
                fn drop(&mut self) {
                    if std::thread::panicking() {
                        self.0.fail(format!("the thread {} panicked", self.1));
                    }
                }
            }
            let _guard = Guard(progress, name);
            give_way(name);
            work();
        })
        .with_context(|| format!("starting the thread {name}"))
}

/// Every image takes a descriptor; what the system allows at most is asked for.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::debug!("raising the limit of open files: {error}");
    }
}

/// Lets captured programs go first when there are too few processors for all: what waits, waits in lanes and journal. The
/// sequencer gives way least, since it is what empties the lanes.
pub(crate) fn give_way(thread: &str) {
    let nice = if thread == "sequence" { 5 } else { 15 };
    // For Linux "process 0" is the calling thread. Somebody may have asked for still less; that stays.
    let present = rustix::process::getpriority_process(None).unwrap_or(0);
    if present < nice && rustix::process::setpriority_process(None, nice).is_err() {
        tracing::debug!("the thread {thread} can't lower its priority");
    }
}
