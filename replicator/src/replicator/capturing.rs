//! The capturing half: from what programs do to parcels, and those to every destination.

use super::destination::{Destination, KafkaTopics, LocalSink, Onward};
use super::selections::Selections;
use super::{Half, Lock, open_sink, spawn};
use crate::capture::check::{Checker, Tasks};
use crate::capture::{Parts, Sequencer, SequencerOptions, journaled_frames};
use crate::config::Config;
use crate::progress::Progress;
use crate::publish::images::Images;
use crate::publish::{CURSOR, Publisher, PublisherOptions, PublisherParts};
use crate::state::{self, Start, State};
use crate::transport::spool::Spool;
use crate::transport::{self, Inlet, Outlet, Spooling};
use crate::verification::Verification;
use anyhow::{Context, Result, bail};
use counterfoil_journal::{DiskStorage, Journal};
use counterfoil_proto::Position;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Findings under way from the checker to the sequencer; each holds at most a chunk.
const FINDINGS_MAX: usize = 64;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Where parcels go: to the cluster, or without one to each sink.
fn destinations(config: &Arc<Config>) -> Result<Vec<Box<dyn Destination>>> {
    if let Some(kafka) = &config.kafka {
        return Ok(vec![Box::new(KafkaTopics::new(config, kafka)?)]);
    }
    let mut destinations: Vec<Box<dyn Destination>> = Vec::new();
    for sink in &config.sinks {
        destinations.push(Box::new(LocalSink::new(
            config,
            &sink.name,
            open_sink(sink)?,
        )));
    }
    Ok(destinations)
}

/// The name of a destination that isn't there for the present, and why.
fn away(destinations: &mut [Box<dyn Destination>]) -> Result<Option<(String, String)>> {
    for destination in destinations {
        if let Some(why) = destination.away()? {
            return Ok(Some((destination.name().to_owned(), why)));
        }
    }
    Ok(None)
}

/// Starts the threads. `read_again`: every file is read and published again.
pub(super) fn start(config: &Arc<Config>, read_again: bool) -> Result<Half> {
    let config = Arc::clone(config);
    let progress = Arc::new(Progress::default());
    *progress.verification() = Verification::kept(&config.site.verification_path());
    let (state, start) = State::lock(&config)?;
    state::check_replaced(&config, read_again)?;
    let board = state::prepare_lanes(&config, state::For::Replicator)?;
    let mut destinations = destinations(&config)?;
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
    let (mut journal, recovery) = Journal::open(Arc::new(storage), options).with_context(|| {
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
    for destination in &mut destinations {
        applied.push(destination.positions(&images)?);
    }
    let names: Vec<String> = destinations
        .iter()
        .map(|destination| destination.name().to_owned())
        .collect();
    let selections = Selections::of(&config);
    let before = Selections::read(&config)?;
    let lacks = config.kafka.is_none() && selections.differ(&before);
    let marker = config.site.read_again_path();
    let wanted = if read_again || marker.exists() {
        Some("it was asked for")
    } else if lacks {
        Some("a sink is to have other files than it had")
    } else {
        None
    };
    let forced = refill_reason(&config, &names, &recovery, &images, &applied);
    let mut refill = wanted.or(forced);
    if let Some(reason) = refill
        && let Some((name, why)) = away(&mut destinations)?
    {
        // What is to be sent to all of them can't be sent to one that isn't here.
        if forced.is_some() {
            bail!("{reason}, so every file is to be read again; {why}");
        }
        tracing::warn!("{reason}: every file is read again as soon as all sinks are there; {why}");
        state::ask_to_read_again(&config)?;
        progress.update_sink(&name, |sink| sink.error = Some(why));
        refill = None;
    }
    // The epoch grows at every unclean start, and above all that a target has ever seen.
    let seen_epoch = applied
        .iter()
        .flatten()
        .flatten()
        .map(|position| position.epoch)
        .max()
        .unwrap_or(0);
    let mut had = HashSet::new();
    let unclean =
        !start.clean || !recovery.clean || refill.is_some() || seen_epoch > recovery.last_epoch;
    if unclean {
        journal.begin_epoch(recovery.last_epoch.max(seen_epoch) + 1)?;
    }
    if let Some(reason) = refill {
        tracing::warn!("{reason}: every file is read again");
        had = images.paths()?;
        Images::wipe(&config.site.images_dir())?;
        images = Images::open(&config.site.images_dir())?;
        images.set_refilling(true);
        // From here on a start knows by the images that everything is to be read.
        match std::fs::remove_file(&marker) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", marker.display()));
            }
            _ => {}
        }
        progress.refilling.store(true, Ordering::SeqCst);
        if read_again {
            state::forget_replaced(&config)?;
        }
    }
    selections.write(&config, before)?;
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
    for (destination, applied) in destinations.iter_mut().zip(&mut applied) {
        if is_new {
            known.extend(destination.files(&had)?);
            *applied = destination.begin(start_position)?;
        }
        progress.update_sink(destination.name(), |progress| {
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
    let journal_end = Position {
        epoch: journal.epoch(),
        lsn: journal.next_lsn().saturating_sub(1),
        index: u32::MAX,
    };

    let (tasks, task_queue) = Tasks::channel(Arc::clone(&progress));
    let (finding_sender, findings) = sync_channel(FINDINGS_MAX);
    let (outlet, inlets) = ways(&config, &names, &progress)?;
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
    for ((destination, inlet), applied) in destinations.into_iter().zip(inlets).zip(applied) {
        let onward = Onward {
            inlet,
            applied,
            journal_end,
            progress: Arc::clone(&progress),
        };
        threads.push((
            "apply",
            spawn("apply", &progress, destination.work(onward))?,
        ));
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
    Ok(Half {
        progress,
        threads,
        lock: Lock::State(state),
    })
}

/// The ways to destinations. Where there are several, none waits for another that is behind.
fn ways(
    config: &Config,
    names: &[String],
    progress: &Arc<Progress>,
) -> Result<(Outlet, Vec<Inlet>)> {
    if names.len() < 2 {
        return Ok(transport::channel(names.len()));
    }
    let spools = names.iter().map(|name| {
        let spool = Spool::new(&config.site.state, config.apply.spool_bytes_max)
            .with_context(|| format!("making a file in {}", config.site.state.display()))?;
        Ok(Spooling {
            spool,
            sink: name.clone(),
            progress: Arc::clone(progress),
        })
    });
    Ok(transport::spooled(spools.collect::<Result<_>>()?))
}

/// Why targets can't be brought up from the journal, if they can't.
fn refill_reason(
    config: &Config,
    names: &[String],
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
    if images.are_in_doubt() {
        return Some("the host stopped while files changed, and the journal may have lost its end");
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
    let is_behind = names.iter().zip(applied).any(|(name, positions)| {
        positions.iter().enumerate().any(|(group, position)| {
            let had = images.applied(name, &config.stream(group));
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
