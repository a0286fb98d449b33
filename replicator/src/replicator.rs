//! The whole way in one process: threads, how they start, and how they stop.
//!
//! ```text
//! checker ──findings──► sequencer ──journal──► publisher ──parcels──► applier (one per sink)
//!    ▲                      │                      │
//!    └──────── tasks ───────┴──────────────────────┘
//! ```
//!
//! Stopping goes the same way: the sequencer ends after its pass, the publisher leaves a checkpoint, and each applier
//! applies what it was given.

use crate::apply::{Applier, attach, positions};
use crate::capture::check::{Checker, Tasks};
use crate::capture::{Parts, Sequencer, SequencerOptions, journaled_frames};
use crate::config::{Config, SinkConfig, Target};
use crate::progress::Progress;
use crate::publish::images::Images;
use crate::publish::{CURSOR, Publisher, PublisherOptions, PublisherParts};
use crate::state::{self, Start, State};
use crate::transport;
use anyhow::{Context, Result, bail};
use counterfoil_journal::{DiskStorage, Journal};
use counterfoil_proto::Position;
use counterfoil_sinks::{Sink, SqliteSink};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// Findings under way from the checker to the sequencer; each holds at most a chunk.
const FINDINGS_MAX: usize = 64;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// A running replicator.
pub struct Replicator {
    state: State,
    config: Arc<Config>,
    progress: Arc<Progress>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
}

/// Opens a sink for applying.
pub fn open_sink(sink: &SinkConfig) -> Result<Box<dyn Sink>> {
    match &sink.target {
        Target::Sqlite(config) => {
            let opened = SqliteSink::open(config).with_context(|| format!("sink {}", sink.name))?;
            Ok(Box::new(opened))
        }
    }
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
    }
}

impl Replicator {
    /// Starts all threads.
    pub fn start(config: Config) -> Result<Replicator> {
        allow_many_files();
        let config = Arc::new(config);
        let progress = Arc::new(Progress::default());
        let (state, start) = State::lock(&config)?;
        let board = state::prepare_lanes(&config, state::For::Replicator)?;
        let mut sinks = Vec::new();
        for sink in &config.sinks {
            sinks.push((sink.name.clone(), open_sink(sink)?));
        }
        let storage = DiskStorage::open(config.site.journal_dir()).with_context(|| {
            format!(
                "opening the journal in {}",
                config.site.journal_dir().display()
            )
        })?;
        let options = counterfoil_journal::Options {
            segment_bytes: config.journal.segment_bytes,
            ..Default::default()
        };
        let (mut journal, recovery) =
            Journal::open(Arc::new(storage), options).with_context(|| {
                format!(
                    "opening the journal in {}",
                    config.site.journal_dir().display()
                )
            })?;
        if let Some(torn) = &recovery.torn_tail {
            tracing::warn!(
                "the journal's end was torn: {} bytes cut off {} ({})",
                torn.bytes,
                torn.segment,
                torn.reason
            );
        }
        let journaled = journaled_frames(&journal)?;

        let mut images = Images::open(&config.site.images_dir())?;
        let mut applied = Vec::new();
        for (name, sink) in &mut sinks {
            applied
                .push(positions(&config, sink.as_mut()).with_context(|| format!("sink {name}"))?);
        }
        let refill = refill_reason(&config, &recovery, &images, &applied);
        // The epoch grows at every unclean start, and above all that a target has ever seen.
        let seen_epoch = applied
            .iter()
            .flatten()
            .flatten()
            .map(|position| position.epoch)
            .max()
            .unwrap_or(0);
        let unclean =
            !start.clean || !recovery.clean || refill.is_some() || seen_epoch > recovery.last_epoch;
        if unclean {
            journal.begin_epoch(recovery.last_epoch.max(seen_epoch) + 1)?;
        }
        if let Some(reason) = refill {
            tracing::warn!("{reason}: every file is read again");
            Images::wipe(&config.site.images_dir())?;
            images = Images::open(&config.site.images_dir())?;
            images.set_refilling(true);
            progress.refilling.store(true, Ordering::SeqCst);
        }
        let is_new = images.cursor() == 0;
        let from = if is_new {
            recovery.next_lsn
        } else {
            images.cursor().max(recovery.first_lsn)
        };
        let refilled = refill.is_some();
        let mut known = images.paths()?;
        let start_position = Position {
            epoch: journal.epoch(),
            lsn: from.saturating_sub(1),
            index: u32::MAX,
        };
        for ((name, sink), applied) in sinks.iter_mut().zip(&mut applied) {
            if is_new {
                for group in 0..config.groups.len() {
                    let files = sink
                        .files(&config.stream(group))
                        .with_context(|| format!("sink {name}"))?;
                    known.extend(
                        files
                            .into_iter()
                            .map(|file| Arc::from(file.description.path)),
                    );
                }
                attach(&config, sink.as_mut(), start_position)
                    .with_context(|| format!("sink {name}"))?;
                *applied =
                    positions(&config, sink.as_mut()).with_context(|| format!("sink {name}"))?;
            }
            progress.update_sink(name, |progress| {
                progress.applied_end = from;
                progress.positions = (0..config.groups.len())
                    .filter_map(|group| Some((config.stream(group), applied[group]?)))
                    .collect();
            });
        }
        if is_new && !refilled {
            // From here on the journal has everything that sinks get; a start without a checkpoint has to read all again.
            images.checkpoint(from, from, std::iter::empty())?;
        }
        journal.cursors().set(CURSOR, from)?;
        report_start(start, unclean, &journal);

        let (tasks, task_queue) = Tasks::channel(Arc::clone(&progress));
        let (finding_sender, findings) = sync_channel(FINDINGS_MAX);
        let (outlet, inlets) = transport::channel(sinks.len());
        let publisher = Publisher::new(
            PublisherParts {
                config: Arc::clone(&config),
                reader: journal.reader(from)?,
                cursors: journal.cursors(),
                images,
                tasks: tasks.clone(),
                outlet,
                progress: Arc::clone(&progress),
            },
            PublisherOptions {
                checkpoint_interval: CHECKPOINT_INTERVAL,
                redo_end: recovery.next_lsn,
                refill: refilled,
            },
        );
        let has_image: HashSet<Arc<[u8]>> = if refilled {
            HashSet::new()
        } else {
            known.clone()
        };
        let checker = Checker::new(
            Arc::clone(&config),
            task_queue,
            finding_sender,
            Arc::clone(&progress),
            has_image,
        );
        let sequencer = Sequencer::new(
            Parts {
                config: Arc::clone(&config),
                board,
                journal,
                journaled,
                tasks,
                findings,
                known,
                progress: Arc::clone(&progress),
            },
            SequencerOptions {
                stuck_after: STUCK_AFTER,
                sync_interval: config.journal.sync_interval,
                journal_bytes_max: config.journal.bytes_max,
            },
        );
        let mut threads = Vec::new();
        for (((name, sink), inlet), applied) in sinks.into_iter().zip(inlets).zip(applied) {
            let applier = Applier::new(
                Arc::clone(&config),
                name,
                sink,
                inlet,
                applied,
                Arc::clone(&progress),
            );
            threads.push(("apply", spawn("apply", &progress, move || applier.run())?));
        }
        threads.push((
            "publish",
            spawn("publish", &progress, move || publisher.run())?,
        ));
        threads.push((
            "sequence",
            spawn("sequence", &progress, move || sequencer.run())?,
        ));
        threads.push(("check", spawn("check", &progress, move || checker.run())?));
        Ok(Replicator {
            state,
            config,
            progress,
            threads,
        })
    }

    /// The shared counters.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether, after this call began, there was a moment at which everything captured had been applied to every sink.
    /// Call it again and again with the same `since`.
    pub fn is_idle(&self, since: &mut Idle) -> bool {
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

    /// Whether a thread has ended, so that nothing goes on.
    pub fn has_ended(&self) -> bool {
        self.progress.is_stopping() || self.threads.iter().any(|(_, thread)| thread.is_finished())
    }

    /// Stops everything and waits for it.
    pub fn stop(self) -> Result<()> {
        self.progress.stop();
        for (name, thread) in self.threads.into_iter().rev() {
            if thread.join().is_err() {
                self.progress.fail(format!("the thread {name} panicked"));
            }
        }
        if let Some(failure) = self.progress.failure() {
            bail!(failure);
        }
        self.state.close()?;
        Ok(())
    }
}

/// What [`Replicator::is_idle`] remembers.
#[derive(Debug, Default)]
pub struct Idle {
    scans: Option<u64>,
    drained: u64,
    end: u64,
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

/// Why targets can't be brought up from the journal, if they can't.
fn refill_reason(
    config: &Config,
    recovery: &counterfoil_journal::Recovery,
    images: &Images,
    applied: &[Vec<Option<Position>>],
) -> Option<&'static str> {
    let cursor = images.cursor();
    let positions = || applied.iter().flatten();
    if cursor == 0 {
        return positions()
            .any(Option::is_some)
            .then_some("the state directory is new, while a target has rows");
    }
    if images.is_refilling() {
        return Some("reading every file again was interrupted");
    }
    if images.reach() > recovery.next_lsn {
        return Some("the journal has lost its end");
    }
    if cursor < recovery.first_lsn {
        return Some("the journal has lost its beginning");
    }
    let epoch = recovery.last_epoch;
    if positions().any(Option::is_none) {
        return Some("a target is new");
    }
    if positions()
        .flatten()
        .any(|position| position.epoch > epoch || position.lsn >= recovery.next_lsn)
    {
        return Some("a target is ahead of the journal");
    }
    // Not every operation leads to an event: a target may have all there is before the cursor, and stand well before it.
    let is_behind = config.sinks.iter().zip(applied).any(|(sink, positions)| {
        positions.iter().enumerate().any(|(group, position)| {
            let had = images.applied(&sink.name, &config.stream(group));
            position.is_some_and(|position| {
                position.lsn + 1 < cursor && had.is_none_or(|had| position < had)
            })
        })
    });
    if is_behind {
        return Some("a target is older than what the journal still holds");
    }
    None
}

fn report_start(start: Start, unclean: bool, journal: &Journal) {
    tracing::info!(
        epoch = journal.epoch(),
        next_lsn = journal.next_lsn(),
        "starting{}",
        if !start.clean && unclean && journal.next_lsn() > 1 {
            " after an unclean stop"
        } else {
            ""
        }
    );
}
