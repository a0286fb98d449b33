//! The publisher: from the journal's operations to events.
//!
//! This file is the thread: reading, sending, checkpoints. What an operation does is in [`handle`], what becomes of it in
//! [`emit`], when in [`open`]; files of trees are in [`statics`], what only compares, and what mends, in [`verified`].

mod emit;
mod handle;
mod open;
mod statics;
mod verified;

use super::former::Former;
use super::images::{AppliedPositions, Image, Images, ImagesError, StoredUnit};
use super::pieces::{Parse, Span, walk};
use super::units::{After, Dirty, Held, Lingering, Open, Published, RECOVERY, Unit};
use crate::capture::check::{CHUNK_BYTES, Task, Tasks, checksum};
use crate::capture::operation::{Action, Attributes, Operation};
use crate::config::{Config, UnitOfWork};
use crate::event::{Change, Event, Parcel, RecordImage};
use crate::progress::{FileProgress, Progress, Pulse, UnitProgress, Way};
use crate::transport::Outlet;
use counterfoil_journal::{Cursors, JournalReader};
use counterfoil_proto::{Position, path_text};
use counterfoil_records::{Boundaries, Codec, PieceKind};
use counterfoil_sinks::FileDescription;
use std::collections::{HashMap, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Events in a parcel, at about which it is sent.
const PARCEL_EVENTS: usize = 2048;
/// Bytes of images in a parcel, at about which it is sent.
const PARCEL_BYTES: usize = 2 << 20;
/// How long to wait before a disk that is full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Blocks in which content that was read is compared with the image.
const COMPARE_BYTES: usize = 4096;
/// Operations at once after which more are looked for without a pause.
const BUSY_OPERATIONS: u64 = 2000;
/// How many operations are handled between two signs of life.
const BEAT_OPERATIONS: u64 = 256;
const PAUSE: Duration = Duration::from_millis(4);
/// Files above which places of files that are gone are used again.
const TRACKED_KEPT_MIN: usize = 1024;
/// How often units are looked through for overdue ones.
const CUT_INTERVAL_NS: i64 = 100_000_000;
/// How often the status is told what happened to files.
const TELL_INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait for the journal before looking at anything else.
const JOURNAL_WAIT: Duration = Duration::from_millis(20);

/// Limits of a publisher.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// How often the images are made durable, so that the journal before can go.
    pub checkpoint_interval: Duration,
    /// Operations before this lsn may have reached the images already: they are repeated without comparing.
    pub redo_end: u64,
    /// Sinks may hold anything: what there is of a file is cleared as it is loaded.
    pub refill: bool,
}

/// Name of the publisher's cursor in the journal.
pub const CURSOR: &str = "publisher";

/// What events are about: a file, and its group, whatever operation led to the event.
#[derive(Clone)]
struct Subject {
    group: u16,
    file: Arc<FileDescription>,
}

/// A file with its image.
struct Tracked {
    subject: Subject,
    codec: Box<dyn Codec>,
    parse: Parse,
    number: u64,
    image: Image,
    /// Pieces before this offset may be known to sinks.
    emitted_end: u64,
    /// What happened to it, for the status, and whether that was told.
    activity: FileProgress,
    told: bool,
    /// It was last read to load it, not to find differences.
    loading: bool,
    /// What was there before, where the group asks for it.
    former: Option<Former>,
    /// Lowest offset changed by operations that were repeated.
    redone_from: Option<u64>,
}

struct Group {
    policy: UnitOfWork,
    timeout_ns: i64,
    /// Open units by process.
    units: HashMap<u64, Unit>,
    /// Which of them waits for the very next step.
    lingering: Option<Lingering>,
    /// Unfinished pieces by thread: process and lane.
    held: HashMap<(u64, u32), Held>,
    /// Attributes of files, to follow what is held back of them.
    attributes: Vec<(usize, Attributes)>,
}

/// The thread's state.
pub struct Publisher {
    config: Arc<Config>,
    options: PublisherOptions,
    reader: JournalReader,
    cursors: Cursors,
    images: Images,
    tracked: Vec<Option<Tracked>>,
    by_path: HashMap<Arc<[u8]>, usize>,
    groups: Vec<Group>,
    /// What was published and sinks don't have yet, where that began before it was published; by lsn.
    published: VecDeque<Published>,
    /// Units to be opened again, as the checkpoint knows them, the latest first.
    reopened: Vec<StoredUnit>,
    /// What was found of files of trees that isn't complete.
    findings: HashMap<Arc<[u8]>, statics::Finding>,
    trees: Vec<statics::Tree>,
    tasks: Tasks,
    outlet: Outlet,
    progress: Arc<Progress>,
    pulse: Arc<Pulse>,
    parcel: Parcel,
    parcel_bytes: usize,
    at: At,
    last_checkpoint: Instant,
    last_told: Instant,
    /// Clock of the operation at which units were last looked through for overdue ones.
    last_cut_ns: i64,
    refill: Refill,
}

/// How far reading every file again is, for sinks that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refill {
    /// Not everything has been read.
    Reading,
    /// Everything had been read before this pass of the sequencer.
    Read { pass: u64 },
    /// What was read lies before this lsn.
    Journaled { end: u64 },
    /// Sinks have it.
    Done,
}

/// What the publisher works with.
pub struct PublisherParts {
    /// The configuration.
    pub config: Arc<Config>,
    /// A reader that stands at the images' cursor.
    pub reader: JournalReader,
    /// Where the journal keeps cursors.
    pub cursors: Cursors,
    /// The images.
    pub images: Images,
    /// To ask for reads.
    pub tasks: Tasks,
    /// The way to the sinks.
    pub outlet: Outlet,
    /// Shared counters.
    pub progress: Arc<Progress>,
}

/// Which operation is being handled.
#[derive(Clone, Copy, Default)]
struct At {
    position: Position,
    group: usize,
    process: u64,
    lane: u32,
    captured_ns: i64,
    pid: u32,
    program: [u8; 16],
    snapshot: bool,
    /// It is what was found in a file, for the first time: no part of anything else.
    is_found: bool,
}

/// Why a publisher can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error("reading the journal: {0}")]
    Journal(#[from] counterfoil_journal::Error),
    #[error("{0}")]
    Images(#[from] ImagesError),
    #[error(
        "the journal entry with lsn {lsn} can't be used: {reason}; it was written by another version: use that version to drain the journal, or move the state directory away to have every file read again"
    )]
    Malformed { lsn: u64, reason: String },
    #[error("stopping")]
    Stopped,
}

impl PublishError {
    fn is_retryable(&self) -> bool {
        match self {
            PublishError::Journal(error) => error.is_retryable(),
            PublishError::Images(error) => error.is_retryable(),
            PublishError::Malformed { .. } | PublishError::Stopped => false,
        }
    }
}

impl From<crate::transport::Closed> for PublishError {
    fn from(_: crate::transport::Closed) -> PublishError {
        PublishError::Stopped
    }
}

impl Publisher {
    /// Sets the thread up.
    pub fn new(parts: PublisherParts, options: PublisherOptions) -> Publisher {
        let PublisherParts {
            config,
            reader,
            cursors,
            images,
            tasks,
            outlet,
            progress,
        } = parts;
        let groups = config
            .groups
            .iter()
            .map(|group| Group {
                policy: group.unit_of_work,
                timeout_ns: group.unit_timeout.as_nanos() as i64,
                units: Publisher::recovery(group.unit_of_work, &reader, &options),
                lingering: None,
                held: HashMap::new(),
                attributes: Vec::new(),
            })
            .collect();
        progress
            .published_end
            .store(reader.next_lsn(), Ordering::SeqCst);
        let mut reopened = images.units().to_vec();
        reopened.sort_by_key(|unit| std::cmp::Reverse(unit.lsn));
        Publisher {
            published: VecDeque::new(),
            reopened,
            findings: HashMap::new(),
            trees: statics::Tree::all(&config, &images),
            config,
            options,
            reader,
            cursors,
            images,
            tracked: Vec::new(),
            by_path: HashMap::new(),
            groups,
            tasks,
            outlet,
            pulse: progress.pulse("publish"),
            progress,
            parcel: Parcel::default(),
            parcel_bytes: 0,
            at: At::default(),
            last_checkpoint: Instant::now(),
            refill: Refill::Reading,
            last_told: Instant::now(),
            last_cut_ns: 0,
        }
    }

    /// Works until everything is to stop; then leaves a checkpoint.
    pub fn run(mut self) {
        let result = loop {
            if self.progress.is_stopping() {
                break Ok(());
            }
            let before = self.reader.next_lsn();
            if let Err(error) = self.step() {
                break Err(error);
            }
            // One operation at a time would cost a small machine more processor time in wake-ups than in work.
            if self.reader.next_lsn() - before < BUSY_OPERATIONS {
                std::thread::sleep(PAUSE);
            }
        };
        let result = match result {
            Err(PublishError::Stopped) => Ok(()),
            other => other,
        };
        match result.and_then(|()| self.checkpoint()) {
            Ok(()) => {}
            // The next start repeats more of the journal, that is all.
            Err(error) if error.is_retryable() => tracing::warn!("{error}"),
            Err(error) => self.progress.fail(format!("publishing: {error}")),
        }
    }

    /// Handles what the journal holds at present, or waits for more.
    pub(super) fn step(&mut self) -> Result<(), PublishError> {
        self.pulse.beat();
        let mut payload = Vec::new();
        while let Some(entry) = self.reader.next()? {
            payload.clear();
            payload.extend_from_slice(entry.payload);
            let (lsn, epoch) = (entry.lsn, entry.epoch);
            let images = &mut self.images;
            if !images.is_ahead() {
                retry(&self.progress, || images.go_ahead())?;
            }
            if lsn.is_multiple_of(BEAT_OPERATIONS) {
                self.pulse.beat();
            }
            let operation =
                Operation::decode(&payload).map_err(|error| PublishError::Malformed {
                    lsn,
                    reason: error.to_string(),
                })?;
            self.handle(lsn, epoch, &operation)?;
            if let Action::Found {
                bytes, load: true, ..
            } = operation.action
            {
                self.progress.load_published(bytes.len());
            }
            if lsn + 1 == self.options.redo_end {
                self.finish_redo()?;
            }
            self.parcel.end = lsn + 1;
            if self.parcel.events.len() >= PARCEL_EVENTS || self.parcel_bytes >= PARCEL_BYTES {
                self.send()?;
                if self.progress.is_stopping() {
                    return Ok(());
                }
            }
        }
        self.send()?;
        self.tell_activity();
        self.checkpoint_if_due()?;
        self.reader.wait(JOURNAL_WAIT);
        Ok(())
    }

    fn send(&mut self) -> Result<(), PublishError> {
        let end = self.parcel.end;
        if end > self.progress.published_end.load(Ordering::SeqCst) {
            let parcel = std::mem::take(&mut self.parcel);
            self.parcel_bytes = 0;
            self.progress
                .events
                .fetch_add(parcel.events.len() as u64, Ordering::Relaxed);
            self.pulse.wait(|| self.outlet.send(parcel))?;
            self.progress.published_end.store(end, Ordering::SeqCst);
            self.forget_published();
        }
        self.follow_refill();
        self.tell_activity();
        self.checkpoint_if_due()?;
        Ok(())
    }

    /// Tells the status what happened to files.
    fn tell_activity(&mut self) {
        if self.last_told.elapsed() < TELL_INTERVAL {
            return;
        }
        self.last_told = Instant::now();
        let news = self
            .tracked
            .iter_mut()
            .flatten()
            .filter(|tracked| !tracked.told)
            .map(|tracked| {
                tracked.told = true;
                tracked.activity.size = tracked.image.size();
                (
                    path_text(&tracked.subject.file.path),
                    tracked.activity.clone(),
                )
            });
        self.progress.update_files(news);
        let news = self.tree_news();
        self.progress.update_files(news.into_iter());
        self.tell_units();
    }

    /// Tells the status which units are open.
    pub(super) fn tell_units(&self) {
        let units = self.groups.iter().enumerate().flat_map(|(group, state)| {
            let units = state.units.values();
            units.map(move |unit| self.unit_progress(group, unit))
        });
        self.progress.set_units(units.collect());
        let due = self.groups.iter().flat_map(|group| {
            let opened = group.units.values().map(|unit| unit.opened_ns);
            opened.map(|opened_ns| opened_ns.saturating_add(group.timeout_ns))
        });
        self.progress
            .unit_due_ns
            .store(due.min().unwrap_or(0), Ordering::Relaxed);
    }

    fn unit_progress(&self, group: usize, unit: &Unit) -> UnitProgress {
        let mut files: Vec<usize> = unit.files.iter().map(|&(file, _)| file).collect();
        files.extend(unit.open.locks.keys());
        files.sort_unstable();
        files.dedup();
        let paths = files.into_iter().filter_map(|file| self.file(file));
        let mut paths: Vec<String> = paths
            .map(|tracked| path_text(&tracked.subject.file.path))
            .collect();
        paths.sort();
        let program = unit.program.split(|&byte| byte == 0).next();
        UnitProgress {
            group: self.config.groups[group].name.clone(),
            pid: unit.pid,
            program: String::from_utf8_lossy(program.unwrap_or_default()).into_owned(),
            began_ns: unit.began_ns,
            cuts: unit.cuts,
            files: paths,
        }
    }

    /// Forgets what sinks have.
    fn forget_published(&mut self) {
        let end = self.progress.applied_end();
        let applied = self.published.iter().take_while(|unit| unit.lsn < end);
        self.published.drain(..applied.count());
    }

    fn checkpoint_if_due(&mut self) -> Result<(), PublishError> {
        if self.last_checkpoint.elapsed() < self.options.checkpoint_interval {
            return Ok(());
        }
        match self.checkpoint() {
            Ok(()) => self.progress.set_problems("checkpoint", &[]),
            // Nothing is lost: the journal is kept from the last checkpoint on until one succeeds.
            Err(error) if error.is_retryable() => {
                let problem =
                    format!("{error}; the journal is kept meanwhile, and it is tried again");
                self.progress.set_problems("checkpoint", &[problem]);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Notes when all files were read again, and sinks have it. Until that is in a checkpoint, a start begins anew with it.
    fn follow_refill(&mut self) {
        if !self.options.refill || self.refill == Refill::Done {
            return;
        }
        let progress = &self.progress;
        let pass = progress.passes.load(Ordering::SeqCst);
        self.refill = match self.refill {
            // The first look names all files, and its pass asks for them. A task is done once its findings are counted.
            Refill::Reading
                if progress.scans.load(Ordering::SeqCst) >= 2
                    && progress.tasks.load(Ordering::SeqCst) == 0
                    && progress.findings.load(Ordering::SeqCst) == 0 =>
            {
                Refill::Read { pass }
            }
            // What a pass takes from the checker is in the journal when the next has ended.
            Refill::Read { pass: read } if pass >= read + 2 => Refill::Journaled {
                end: progress.journal_end.load(Ordering::SeqCst),
            },
            Refill::Journaled { end } if progress.applied_end() >= end => {
                self.images.set_refilling(false);
                progress.refilling.store(false, Ordering::SeqCst);
                Refill::Done
            }
            unchanged => unchanged,
        };
    }

    /// Makes images durable and says from where on the journal is still needed.
    pub(super) fn checkpoint(&mut self) -> Result<(), PublishError> {
        self.last_checkpoint = Instant::now();
        self.forget_published();
        let open = self.groups.iter().flat_map(|group| {
            let units = group.units.values().map(|unit| unit.first_lsn);
            units.chain(group.held.values().map(|held| held.first_lsn))
        });
        // What a unit touched before the journal is read again would not be published with it.
        let published = self.published.iter();
        let found = self.findings.values().map(|finding| finding.first_lsn);
        let cursor = open
            .chain(published.map(|unit| unit.first_lsn))
            .chain(found)
            .chain([
                self.progress.applied_end(),
                self.progress.published_end.load(Ordering::SeqCst),
            ])
            .min()
            .unwrap_or(0);
        // Read after the end that is applied, so no less than it. It may be less than the cursor in numbers: what lies
        // between led to no event.
        let sinks = self.progress.sinks().into_iter();
        let applied: AppliedPositions = sinks.map(|(name, sink)| (name, sink.positions)).collect();
        // As long as nothing is known of a target, no start does without it, so that is worth a checkpoint by itself.
        let is_first_of_some = applied.iter().any(|(sink, streams)| {
            let mut streams = streams.keys();
            streams.any(|stream| self.images.applied(sink, stream).is_none())
        });
        let known = self.images.cursor();
        if cursor < known || cursor == known && !is_first_of_some {
            // The last checkpoint put all of it on disk, and nothing has changed since.
            if self.images.is_ahead() && known == self.reader.next_lsn() && self.reader.is_durable()
            {
                self.images.settle();
            }
            return Ok(());
        }
        self.images.set_applied(applied);
        self.store_units();
        let open = self
            .tracked
            .iter_mut()
            .flatten()
            .map(|tracked| (tracked.number, &mut tracked.image));
        self.images
            .checkpoint(cursor, self.reader.next_lsn(), open)?;
        self.cursors.set(CURSOR, cursor)?;
        Ok(())
    }
}

/// Repeats what fails for want of space until it succeeds, and says so meanwhile.
fn retry<T>(
    progress: &Progress,
    mut attempt: impl FnMut() -> Result<T, ImagesError>,
) -> Result<T, PublishError> {
    let mut failed = false;
    loop {
        match attempt() {
            Ok(done) => {
                if failed {
                    progress.set_obstacles("images", &[]);
                }
                return Ok(done);
            }
            Err(error) if error.is_retryable() => {
                failed = true;
                let problem =
                    format!("{error}; the journal keeps what comes, and it is tried again");
                progress.set_obstacles("images", &[problem]);
                if progress.is_stopping() {
                    return Err(PublishError::Stopped);
                }
                progress.pulse("publish").beat();
                std::thread::sleep(RETRY_AFTER);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn retry_io<T>(
    progress: &Progress,
    mut attempt: impl FnMut() -> std::io::Result<T>,
) -> Result<T, PublishError> {
    retry(progress, || {
        attempt().map_err(|source| ImagesError::Io {
            doing: "writing an image in",
            path: "the images directory".into(),
            source,
        })
    })
}
