//! The publisher: from the journal's operations to events.

use super::images::{Image, Images, ImagesError};
use super::pieces::{Parse, Span, walk};
use super::units::{Dirty, Held, Unit};
use crate::capture::check::{CHUNK_BYTES, Task, Tasks, checksum};
use crate::capture::operation::{Action, Operation};
use crate::config::{Config, UnitOfWork};
use crate::event::{Change, Event, Parcel};
use crate::progress::{FileProgress, Progress};
use crate::transport::Outlet;
use counterfoil_journal::{Cursors, JournalReader};
use counterfoil_proto::{Position, path_text};
use counterfoil_records::{Boundaries, Codec, PieceKind};
use counterfoil_sinks::FileDescription;
use std::collections::HashMap;
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
    /// Lowest offset changed by operations that were repeated.
    redone_from: Option<u64>,
}

struct Group {
    policy: UnitOfWork,
    timeout_ns: i64,
    units: HashMap<u64, Unit>,
    held: HashMap<u64, Held>,
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
    tasks: Tasks,
    outlet: Outlet,
    progress: Arc<Progress>,
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
    captured_ns: i64,
    pid: u32,
    snapshot: bool,
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
                units: HashMap::new(),
                held: HashMap::new(),
            })
            .collect();
        progress
            .published_end
            .store(reader.next_lsn(), Ordering::SeqCst);
        Publisher {
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
        let mut payload = Vec::new();
        while let Some(entry) = self.reader.next()? {
            payload.clear();
            payload.extend_from_slice(entry.payload);
            let (lsn, epoch) = (entry.lsn, entry.epoch);
            let operation =
                Operation::decode(&payload).map_err(|error| PublishError::Malformed {
                    lsn,
                    reason: error.to_string(),
                })?;
            self.handle(lsn, epoch, &operation)?;
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
            self.outlet.send(parcel)?;
            self.progress.published_end.store(end, Ordering::SeqCst);
            self.progress.units_open.store(
                self.groups
                    .iter()
                    .map(|group| group.units.len() as u64)
                    .sum(),
                Ordering::Relaxed,
            );
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
        let open = self.groups.iter().flat_map(|group| {
            let units = group.units.values().map(|unit| unit.first_lsn);
            units.chain(group.held.values().map(|held| held.first_lsn))
        });
        let cursor = open
            .chain([
                self.progress.applied_end(),
                self.progress.published_end.load(Ordering::SeqCst),
            ])
            .min()
            .unwrap_or(0);
        if cursor <= self.images.cursor() {
            return Ok(());
        }
        // Read after the end that is applied, so no less than it. It may be less than the cursor in numbers: what lies
        // between led to no event.
        let sinks = self.progress.sinks().into_iter();
        self.images
            .set_applied(sinks.map(|(name, sink)| (name, sink.positions)).collect());
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

    fn handle(
        &mut self,
        lsn: u64,
        epoch: u64,
        operation: &Operation<'_>,
    ) -> Result<(), PublishError> {
        let Operation {
            group,
            origin,
            at_ns,
            path,
            action,
        } = *operation;
        let process = origin.process;
        self.at = At {
            position: Position {
                epoch,
                lsn,
                index: 0,
            },
            group: usize::from(group),
            process,
            captured_ns: at_ns,
            pid: origin.pid,
            snapshot: process == 0,
        };
        let index = usize::from(group);
        if index >= self.groups.len() {
            // The configuration lost a group since.
            return Ok(());
        }
        // By the clock of the operations, so that the same journal gives the same events.
        if (at_ns - self.last_cut_ns).abs() > CUT_INTERVAL_NS {
            self.last_cut_ns = at_ns;
            for group in 0..self.groups.len() {
                self.cut_overdue(group, at_ns);
            }
        }
        // What the process had not finished is as finished as it will be, unless this goes on with it.
        let goes_on = match (self.groups[index].held.get(&process), action) {
            (Some(held), Action::Write { offset, .. } | Action::Found { offset, .. }) => {
                held.upto == offset && self.by_path.get(path) == Some(&held.file)
            }
            (Some(_), Action::Synced | Action::Attributes { .. }) => true,
            _ => false,
        };
        if !goes_on {
            self.release_held(index, process);
        }
        match action {
            Action::Settled => {
                let waiting: Vec<u64> = self.groups[index].held.keys().copied().collect();
                for process in waiting {
                    self.release_held(index, process);
                }
                self.cut_overdue(index, at_ns);
                return Ok(());
            }
            Action::Ended => {
                self.commit(index, process);
                return Ok(());
            }
            _ => {}
        }
        // The configuration may have lost a rule since.
        if path.is_empty()
            || !self.by_path.contains_key(path) && self.config.rule_for(path).is_none()
        {
            return Ok(());
        }
        match action {
            Action::Removed => return self.removed(path),
            Action::Renamed { to } => return self.renamed(index, process, path, to),
            _ => {}
        }
        let file = self.track(path)?;
        if let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) {
            tracked.activity.operations += 1;
            tracked.activity.changed_ns = at_ns;
            tracked.told = false;
        }
        match action {
            Action::Opened { truncated, .. } => {
                if truncated
                    && (self.is_redo()
                        || self
                            .file(file)
                            .is_some_and(|tracked| tracked.image.size() > 0))
                {
                    self.resize(file, 0)?;
                }
            }
            Action::Write { offset, bytes } => {
                self.write(file, offset, bytes, false)?;
            }
            Action::Truncate { size } => self.resize(file, size)?,
            Action::Synced => {
                if self.groups[index].policy == UnitOfWork::Fsync {
                    self.release_held(index, process);
                    self.commit(index, process);
                }
            }
            Action::Locked { offset, extent } => {
                if self.groups[index].policy == UnitOfWork::Lock {
                    let unit = self.unit();
                    let range = offset..offset.saturating_add(extent);
                    unit.unlock(file, &range);
                    unit.lock(file, range);
                }
            }
            Action::Unlocked { offset, extent } => {
                let range = offset..offset.saturating_add(extent);
                if self.groups[index]
                    .units
                    .get_mut(&process)
                    .is_some_and(|unit| unit.unlock(file, &range))
                    && self.groups[index].policy == UnitOfWork::Lock
                {
                    self.commit(index, process);
                }
            }
            Action::Closed => self.closed(index, process, file),
            Action::Found {
                offset,
                bytes,
                at_end,
                load,
            } => {
                self.found(file, offset, bytes, at_end, load || self.is_redo())?;
            }
            Action::Summed {
                offset,
                len,
                sum,
                at_end,
            } => self.compare(file, offset, len, sum, at_end),
            Action::Attributes { mode, uid, gid } => {
                if let Some(tracked) = self.file(file) {
                    let (subject, size) = (tracked.subject.clone(), tracked.image.size());
                    self.event(&subject, size, Change::Attributes { mode, uid, gid });
                }
            }
            Action::Removed | Action::Renamed { .. } | Action::Settled | Action::Ended => {}
        }
        Ok(())
    }

    /// Whether the images may have the present operation, and later ones, already.
    fn is_redo(&self) -> bool {
        self.at.position.lsn < self.options.redo_end
    }

    /// Notes that a repeated operation changes a file from an offset on.
    fn note_redo(&mut self, file: usize, offset: u64) {
        if self.is_redo()
            && let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut)
        {
            tracked.redone_from = Some(
                tracked
                    .redone_from
                    .map_or(offset, |before| before.min(offset)),
            );
        }
    }

    fn file(&self, file: usize) -> Option<&Tracked> {
        self.tracked.get(file)?.as_ref()
    }

    /// The file at a path; one without an image gets an empty one.
    fn track(&mut self, path: &[u8]) -> Result<usize, PublishError> {
        if let Some(&file) = self.by_path.get(path) {
            return Ok(file);
        }
        let path: Arc<[u8]> = path.into();
        let (images, lsn) = (&mut self.images, self.at.position.lsn);
        let existing = retry(&self.progress, || images.existing(&path))?;
        let is_new = existing.is_none();
        let (number, image) = match existing {
            Some(existing) => existing,
            None => retry(&self.progress, || images.create(&path, lsn))?,
        };
        let Some((subject, codec)) = self.describe(&path) else {
            return Err(PublishError::Malformed {
                lsn: self.at.position.lsn,
                reason: "its file has no rule".to_owned(),
            });
        };
        let size = image.size();
        let emitted_end = if is_new && self.options.refill {
            u64::MAX
        } else {
            size
        };
        let tracked = Tracked {
            subject: subject.clone(),
            codec,
            parse: Parse::default(),
            number,
            image,
            emitted_end,
            activity: FileProgress {
                group: subject.file.group.clone(),
                ..FileProgress::default()
            },
            told: false,
            redone_from: None,
        };
        let file = match self.tracked.iter().position(Option::is_none) {
            Some(free) if self.tracked.len() > TRACKED_KEPT_MIN => free,
            _ => {
                self.tracked.push(None);
                self.tracked.len() - 1
            }
        };
        self.tracked[file] = Some(tracked);
        self.by_path.insert(path, file);
        self.event(&subject, size, Change::Created);
        Ok(file)
    }

    fn describe(&self, path: &[u8]) -> Option<(Subject, Box<dyn Codec>)> {
        let (group, rule) = self.config.rule_for(path)?;
        let rule = &self.config.groups[group].files[rule];
        let codec = rule.format.codec().ok()?;
        let description = FileDescription {
            path: path.to_vec(),
            group: self.config.groups[group].name.clone(),
            format: rule.format.clone(),
            table: rule.table.clone(),
        };
        let subject = Subject {
            group: group as u16,
            file: Arc::new(description),
        };
        Some((subject, codec))
    }

    fn unit(&mut self) -> &mut Unit {
        let at = self.at;
        self.groups[at.group]
            .units
            .entry(at.process)
            .or_insert_with(|| Unit::new(at.pid, at.position.lsn, at.captured_ns))
    }

    /// Whether what the process does now belongs to a unit.
    fn is_in_unit(&self) -> bool {
        let process = self.at.process;
        let group = &self.groups[self.at.group];
        match group.policy {
            _ if process == 0 => false,
            UnitOfWork::None => false,
            UnitOfWork::Fsync | UnitOfWork::Close => true,
            UnitOfWork::Lock => group.units.get(&process).is_some_and(Unit::holds_lock),
        }
    }

    fn write(
        &mut self,
        file: usize,
        offset: u64,
        bytes: &[u8],
        fresh: bool,
    ) -> Result<(), PublishError> {
        self.note_redo(file, offset);
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let range = offset..offset + bytes.len() as u64;
        let size = tracked.image.size();
        let tail = Parse::tail(tracked.codec.as_ref(), size).filter(|_| range.start > size);
        let mut span =
            tracked
                .parse
                .before_write(tracked.codec.as_ref(), tracked.image.bytes(), &range);
        retry_io(&self.progress, || tracked.image.write(offset, bytes))?;
        tracked
            .parse
            .after_write(tracked.codec.as_ref(), tracked.image.bytes(), &mut span);
        let moves = span.overwrites && !matches!(tracked.codec.boundaries(), Boundaries::Pitch(_));
        span.overwrites |= fresh;
        if moves {
            self.rebase(file, &span);
        }
        self.touched(file, tail, span, range.end);
        Ok(())
    }

    fn resize(&mut self, file: usize, size: u64) -> Result<(), PublishError> {
        self.note_redo(file, size);
        let redo = self.is_redo();
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let before = tracked.image.size();
        // A repeated operation finds the size that it, or a later one, made; what it cut off still has to be told.
        if size == before && !redo {
            return Ok(());
        }
        let codec = tracked.codec.as_ref();
        let entry = tracked.parse.entry(codec, tracked.image.bytes(), size);
        retry_io(&self.progress, || tracked.image.truncate(size))?;
        tracked.parse.resized(codec, entry, tracked.image.bytes());
        let pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        let grown = (size > before).then(|| match codec.boundaries() {
            // Pieces in between were never written. The first and the last may be cut short: by the old end, by the new.
            Boundaries::Pitch(pitch) => {
                let last = size - size % pitch.max(1);
                (
                    Parse::tail(codec, before),
                    Span {
                        start: last,
                        end: size,
                        overwrites: last < before,
                    },
                )
            }
            _ => (
                None,
                Span {
                    start: entry,
                    end: size,
                    overwrites: entry < before,
                },
            ),
        });
        if !pitched {
            self.rebase(
                file,
                &Span {
                    start: entry,
                    end: u64::MAX,
                    overwrites: true,
                },
            );
        }
        if let Some((tail, span)) = grown {
            self.touched(file, tail, span, size);
        } else if self.is_in_unit() {
            self.unit().dirty(file).clear_from(entry);
        } else {
            self.release_held(self.at.group, self.at.process);
            let mut dirty = Dirty::default();
            dirty.clear_from(entry);
            self.emit(file, dirty);
        }
        Ok(())
    }

    /// Notes what was touched in the process's unit, or publishes it as far as it is whole.
    fn touched(&mut self, file: usize, tail: Option<Span>, mut span: Span, upto: u64) {
        if self.is_in_unit() {
            let unit = self.unit();
            let dirty = unit.dirty(file);
            if let Some(tail) = tail {
                dirty.add(tail);
            }
            let bytes = upto.saturating_sub(span.start);
            dirty.add(span);
            if unit.grow(bytes) {
                self.progress.units_cut.fetch_add(1, Ordering::Relaxed);
                self.commit(self.at.group, self.at.process);
            }
            return;
        }
        if let Some(tail) = tail {
            self.emit(
                file,
                Dirty {
                    spans: vec![tail],
                    cleared_from: None,
                },
            );
        }
        let held = self.groups[self.at.group].held.remove(&self.at.process);
        let first_lsn = held
            .as_ref()
            .map_or(self.at.position.lsn, |held| held.first_lsn);
        if let Some(held) = held {
            span.join(&held.span);
        }
        let Some(tracked) = self.file(file) else {
            return;
        };
        let whole =
            tracked
                .parse
                .whole_until(tracked.codec.as_ref(), tracked.image.bytes(), &span, upto);
        if whole >= upto || span.end == u64::MAX {
            self.emit(
                file,
                Dirty {
                    spans: vec![span],
                    cleared_from: None,
                },
            );
            return;
        }
        if whole > span.start {
            let done = Span {
                start: span.start,
                end: whole,
                overwrites: span.overwrites,
            };
            self.emit(
                file,
                Dirty {
                    spans: vec![done],
                    cleared_from: None,
                },
            );
        }
        let rest = Span {
            start: whole.max(span.start),
            end: span.end.max(upto),
            overwrites: span.overwrites,
        };
        let held = Held {
            file,
            span: rest,
            upto,
            first_lsn,
            pid: self.at.pid,
        };
        self.groups[self.at.group]
            .held
            .insert(self.at.process, held);
    }

    /// Boundaries within a span may have moved: what waits to be published and begins there has to begin before it.
    fn rebase(&mut self, file: usize, moved: &Span) {
        let inside = |span: &Span| span.start > moved.start && span.start < moved.end;
        for group in &mut self.groups {
            for held in group
                .held
                .values_mut()
                .filter(|held| held.file == file && inside(&held.span))
            {
                held.span.start = moved.start;
                held.span.overwrites = true;
            }
            for (_, dirty) in group
                .units
                .values_mut()
                .flat_map(|unit| &mut unit.files)
                .filter(|(touched, _)| *touched == file)
            {
                for span in dirty.spans.iter_mut().filter(|span| inside(span)) {
                    span.start = moved.start;
                    span.overwrites = true;
                }
                dirty.cleared_from = dirty.cleared_from.map(|from| {
                    if from > moved.start && from < moved.end {
                        moved.start
                    } else {
                        from
                    }
                });
            }
        }
    }

    fn release_held(&mut self, group: usize, process: u64) {
        if let Some(held) = self.groups[group].held.remove(&process) {
            self.emit_for(
                held.pid,
                held.file,
                Dirty {
                    spans: vec![held.span],
                    cleared_from: None,
                },
            );
        }
    }

    /// Ends a process's unit: what it touched becomes events.
    fn commit(&mut self, group: usize, process: u64) {
        let Some(mut unit) = self.groups[group].units.remove(&process) else {
            return;
        };
        for (file, dirty) in std::mem::take(&mut unit.files) {
            self.emit_for(unit.pid, file, dirty);
        }
        // A unit that was cut goes on while its locks are held.
        if unit.holds_lock() && self.groups[group].policy == UnitOfWork::Lock {
            unit.go_on(self.at.position.lsn, self.at.captured_ns);
            self.groups[group].units.insert(process, unit);
        }
    }

    fn cut_overdue(&mut self, group: usize, now_ns: i64) {
        let timeout_ns = self.groups[group].timeout_ns;
        let overdue: Vec<u64> = self.groups[group]
            .units
            .iter()
            .filter(|(_, unit)| {
                !unit.files.is_empty() && now_ns.saturating_sub(unit.opened_ns) > timeout_ns
            })
            .map(|(&process, _)| process)
            .collect();
        for process in overdue {
            self.progress.units_cut.fetch_add(1, Ordering::Relaxed);
            self.commit(group, process);
        }
    }

    fn closed(&mut self, group: usize, process: u64, file: usize) {
        let policy = self.groups[group].policy;
        let Some(unit) = self.groups[group].units.get_mut(&process) else {
            return;
        };
        match policy {
            // A close gives up all of the process's locks on the file.
            UnitOfWork::Lock => {
                if unit.unlock(file, &(0..u64::MAX)) {
                    self.commit(group, process);
                }
            }
            UnitOfWork::Close => {
                if unit.close(file) {
                    self.commit(group, process);
                }
            }
            UnitOfWork::None | UnitOfWork::Fsync => {}
        }
    }

    /// [`Publisher::emit`], for what another process did.
    fn emit_for(&mut self, pid: u32, file: usize, dirty: Dirty) {
        let present = std::mem::replace(&mut self.at.pid, pid);
        self.emit(file, dirty);
        self.at.pid = present;
    }

    /// Turns what was touched into events, from what is there now.
    fn emit(&mut self, file: usize, mut dirty: Dirty) {
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return;
        };
        let bytes = tracked.image.bytes();
        let size = bytes.len() as u64;
        let codec = tracked.codec.as_ref();
        let pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        let mut changes = Vec::new();
        let mut volume = 0;
        if let Some(from) = dirty.cleared_from {
            changes.push(Change::Cleared {
                from: codec.id_at(from),
                to: u64::MAX,
            });
            tracked.emitted_end = tracked.emitted_end.min(from);
            dirty.spans.push(Span {
                start: from,
                end: size,
                overwrites: false,
            });
        }
        dirty.compact();
        for span in &dirty.spans {
            let clears = span.overwrites
                && (!pitched || self.at.snapshot)
                && span.start < tracked.emitted_end;
            let place = changes.len();
            let known_until = tracked.emitted_end;
            let mut emitted_end = tracked.emitted_end;
            let reached = walk(codec, bytes, span.start, span.end, &mut |piece| {
                volume += piece.len as usize;
                let id = piece.id;
                changes.push(match piece.kind {
                    PieceKind::Record { data, rest } => Change::Put {
                        id,
                        data: data.to_vec(),
                        rest: rest.to_vec(),
                    },
                    PieceKind::Residue { bytes, reason } => Change::Residue {
                        id,
                        bytes: bytes.to_vec(),
                        reason,
                    },
                    PieceKind::Empty if clears || piece.offset >= known_until => return,
                    PieceKind::Empty => Change::Absent { id },
                });
                emitted_end = emitted_end.max(piece.offset + piece.len);
            });
            tracked.emitted_end = emitted_end;
            if clears {
                let to = if span.end == u64::MAX || reached >= size {
                    u64::MAX
                } else {
                    codec.id_at(reached)
                };
                changes.insert(
                    place,
                    Change::Cleared {
                        from: codec.id_at(span.start),
                        to,
                    },
                );
            }
        }
        let subject = tracked.subject.clone();
        tracked.activity.events += changes.len() as u64;
        self.parcel_bytes += volume;
        if changes.is_empty() {
            // The size may have changed all the same.
            changes.push(Change::Created);
        }
        for change in changes {
            self.event(&subject, size, change);
        }
    }

    fn event(&mut self, subject: &Subject, size: u64, change: Change) {
        self.parcel.events.push(Event {
            position: self.at.position,
            group: subject.group,
            file: Arc::clone(&subject.file),
            size,
            change,
            captured_ns: self.at.captured_ns,
            pid: self.at.pid,
            snapshot: self.at.snapshot,
        });
        self.at.position.index += 1;
    }

    /// Content that was read: where it differs from the image, it is a change.
    fn found(
        &mut self,
        file: usize,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        fresh: bool,
    ) -> Result<(), PublishError> {
        let end = offset + bytes.len() as u64;
        if fresh {
            if !bytes.is_empty() {
                self.write(file, offset, bytes, true)?;
            }
        } else {
            for range in self.differences(file, offset, bytes) {
                let part = &bytes[range.clone()];
                self.write(file, offset + range.start as u64, part, false)?;
            }
        }
        if at_end
            && (self.is_redo()
                || self
                    .file(file)
                    .is_some_and(|tracked| tracked.image.size() != end))
        {
            self.release_held(self.at.group, self.at.process);
            self.resize(file, end)?;
        }
        if at_end
            && self
                .file(file)
                .is_some_and(|tracked| tracked.emitted_end == u64::MAX)
        {
            self.release_held(self.at.group, self.at.process);
            let from = self.boundary_at(file, end);
            self.emit(
                file,
                Dirty {
                    spans: Vec::new(),
                    cleared_from: Some(from),
                },
            );
        }
        Ok(())
    }

    /// The last boundary that isn't behind `at`.
    fn boundary_at(&mut self, file: usize, at: u64) -> u64 {
        let tracked = self.tracked.get_mut(file).and_then(Option::as_mut);
        tracked.map_or(at, |tracked| {
            tracked
                .parse
                .entry(tracked.codec.as_ref(), tracked.image.bytes(), at)
        })
    }

    /// Ranges of `bytes` that the image doesn't have at `offset`.
    fn differences(&self, file: usize, offset: u64, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
        let Some(tracked) = self.file(file) else {
            return Vec::new();
        };
        let image = tracked.image.bytes();
        let known = image
            .get(offset.min(image.len() as u64) as usize..)
            .unwrap_or(&[]);
        let mut differences: Vec<std::ops::Range<usize>> = Vec::new();
        for (index, block) in bytes.chunks(COMPARE_BYTES).enumerate() {
            let start = index * COMPARE_BYTES;
            if known.get(start..start + block.len()) == Some(block) {
                continue;
            }
            match differences.last_mut() {
                Some(last) if last.end == start => last.end = start + block.len(),
                _ => differences.push(start..start + block.len()),
            }
        }
        differences
    }

    /// A checksum of the file: where the image has another, the content is asked for.
    fn compare(&mut self, file: usize, offset: u64, len: u64, sum: u128, at_end: bool) {
        let Some(tracked) = self.file(file) else {
            return;
        };
        let image = tracked.image.bytes();
        let end = offset.saturating_add(len);
        tracked.image.note_touched(len);
        let same = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| image.get(start..end))
            .is_some_and(|known| checksum(known) == sum)
            && (!at_end || image.len() as u64 == end);
        if !same {
            let extent = if at_end { CHUNK_BYTES } else { len };
            let path = tracked.subject.file.path.as_slice().into();
            self.tasks.ask(Task::Read {
                path,
                offset,
                extent,
            });
        }
    }

    fn removed(&mut self, path: &[u8]) -> Result<(), PublishError> {
        let lsn = self.at.position.lsn;
        let subject = match self.by_path.remove(path) {
            Some(file) => {
                self.forget(file);
                self.tracked[file].take().map(|tracked| tracked.subject)
            }
            // It has an image that was not needed since the start, or sinks know it from before.
            None => self.describe(path).map(|(subject, _)| subject),
        };
        self.images.assign(&path.into(), None, lsn);
        self.progress.remove_file(&path_text(path));
        if let Some(subject) = subject {
            self.event(&subject, 0, Change::Removed);
        }
        Ok(())
    }

    /// Drops what units and unfinished pieces know of a file.
    fn forget(&mut self, file: usize) {
        for group in &mut self.groups {
            group.held.retain(|_, held| held.file != file);
            for unit in group.units.values_mut() {
                unit.files.retain(|(touched, _)| *touched != file);
                unit.unlock(file, &(0..u64::MAX));
            }
        }
    }

    /// Publishes what units and unfinished pieces know of a file.
    fn publish_pending(&mut self, file: usize) {
        for group in 0..self.groups.len() {
            let held: Vec<u64> = self.groups[group]
                .held
                .iter()
                .filter(|(_, held)| held.file == file)
                .map(|(&process, _)| process)
                .collect();
            for process in held {
                self.release_held(group, process);
            }
            let mut pending = Vec::new();
            for unit in self.groups[group].units.values_mut() {
                if let Some(at) = unit.files.iter().position(|(touched, _)| *touched == file) {
                    pending.push((unit.pid, unit.files.remove(at).1));
                }
            }
            for (pid, dirty) in pending {
                self.emit_for(pid, file, dirty);
            }
        }
    }

    fn renamed(
        &mut self,
        group: usize,
        process: u64,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), PublishError> {
        if from == to {
            return Ok(());
        }
        let file = self.track(from)?;
        self.release_held(group, process);
        self.publish_pending(file);
        let Some((subject, codec)) = self.describe(to) else {
            return self.removed(from);
        };
        let lsn = self.at.position.lsn;
        let to: Arc<[u8]> = to.into();
        if let Some(replaced) = self.by_path.remove(&to) {
            self.forget(replaced);
            self.tracked[replaced] = None;
        }
        self.by_path.remove(from);
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut tracked.subject, subject.clone());
        self.progress.remove_file(&path_text(from));
        self.images.assign(&from.into(), None, lsn);
        self.images.assign(&to, Some(tracked.number), lsn);
        self.by_path.insert(to, file);
        let size = tracked.image.size();
        if before.file.format == subject.file.format && before.group == subject.group {
            self.event(&subject, size, Change::Renamed { from: before.file });
            return Ok(());
        }
        // Other records than before, or another stream: gone there, new here.
        tracked.codec = codec;
        tracked.parse = Parse::default();
        tracked.emitted_end = 0;
        self.event(&before, 0, Change::Removed);
        self.event(&subject, size, Change::Removed);
        let all = Span {
            start: 0,
            end: u64::MAX,
            overwrites: false,
        };
        self.emit(
            file,
            Dirty {
                spans: vec![all],
                cleared_from: None,
            },
        );
        Ok(())
    }

    /// All operations that may have reached the images before the start have been repeated: the images are right again.
    /// Where boundaries of pieces depend on content, what was decoded in between need not be.
    fn finish_redo(&mut self) -> Result<(), PublishError> {
        // Nobody else knows of the files that the repeated operations made: they may be gone meanwhile.
        let known = self.images.paths();
        for path in self.by_path.keys().filter(|&path| !known.contains(path)) {
            self.tasks.ask(Task::Check {
                path: Arc::clone(path),
            });
        }
        for file in 0..self.tracked.len() {
            let Some(tracked) = self.tracked[file].as_mut() else {
                continue;
            };
            let Some(from) = tracked.redone_from.take() else {
                continue;
            };
            // How long the file was at each operation isn't known any more, so neither is which pieces were cut short.
            let from = from.min(tracked.image.smallest_size());
            let size = tracked.image.size();
            if let Boundaries::Pitch(pitch) = tracked.codec.boundaries() {
                let from = tracked.image.smallest_size().min(size);
                let span = Span {
                    start: from - from % pitch.max(1),
                    end: size,
                    overwrites: true,
                };
                self.emit(
                    file,
                    Dirty {
                        spans: vec![span],
                        cleared_from: None,
                    },
                );
                continue;
            }
            tracked.parse = Parse::default();
            let from = tracked
                .parse
                .entry(tracked.codec.as_ref(), tracked.image.bytes(), from);
            self.emit(
                file,
                Dirty {
                    spans: Vec::new(),
                    cleared_from: Some(from),
                },
            );
        }
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
                    progress.set_problems("images", &[]);
                }
                return Ok(done);
            }
            Err(error) if error.is_retryable() => {
                failed = true;
                let problem =
                    format!("{error}; the journal keeps what comes, and it is tried again");
                progress.set_problems("images", &[problem]);
                if progress.is_stopping() {
                    return Err(PublishError::Stopped);
                }
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
