//! The sequencer: merges what the lanes hold and what the checker found into one order, and puts it into the journal.
//!
//! Order is by the end of each call. A pass reads the clock (T), then every lane's in-flight slot, then its frames. A call
//! that it could not see yet publishes its slot, and so takes its end time, after T; so every frame whose end is not after
//! T and not after the oldest call in flight is safe to release. Each group has its own limit, and a call that takes
//! longer than [`SequencerOptions::stuck_after`] no longer holds its group back.
//!
//! Where two changes of the same bytes overlap in time, order can't be known, so the bytes are read from the file. A read
//! is an operation like any other: it has a begin and an end, waits for its turn, and is repeated when a change of the
//! same bytes overlapped it.
//!
//! Frames stay in their lanes until they are in the journal. A journal that takes nothing (disk full, backlog limit)
//! leaves them there; programs go on, and past a lane's limit the files concerned are marked to be read again.

use super::check::{CHUNK_BYTES, FILE_BYTES_MAX, Finding, Task, Tasks, What};
use super::directories::{Directories, Fate};
use super::files::Files;
use super::lanes::{Journaled, Lanes, Name, Queued};
use super::operation::{Action, Operation, Origin};
use super::processes::Processes;
use crate::config::Config;
use crate::progress::Progress;
use counterfoil_journal::Journal;
use counterfoil_lane::board::{Board, path_hash};
use counterfoil_lane::clock;
use counterfoil_lane::frame::{self, Kind};
use counterfoil_lane::reader::Writer;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Bytes of operations put into the journal with one write.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Findings taken over in one pass; together with the bound of their channel this limits memory.
const FINDINGS_MAX: usize = 16;
/// How often processes are looked after.
const PROCESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often journal segments that nobody needs are removed.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);
/// How much later than the last captured change a file may have been changed, by its time: clocks are coarse.
const UNEXPLAINED_NS: i64 = 50_000_000;
/// How often a file that others than captured programs write to is compared.
const COMPARE_INTERVAL_NS: i64 = 1_000_000_000;
/// Quiet time after which what waits for its second half is published.
const SETTLE_AFTER_NS: u64 = 20_000_000;
/// How long lanes are left alone at least, unless so much came that more is waiting already: looking at them more often
/// costs captured programs cache lines, and on a small machine processor time.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(8);
/// Operations in a pass after which the next follows at once.
const BUSY_OPERATIONS: u64 = 2000;

/// Limits of a sequencer.
#[derive(Clone, Debug)]
pub struct SequencerOptions {
    /// A call in flight for longer holds nothing back any more.
    pub stuck_after: Duration,
    /// How long appended operations may wait to be synchronised.
    pub sync_interval: Duration,
    /// Bytes of journal above which nothing is taken from lanes.
    pub journal_bytes_max: u64,
}

/// The thread's state.
pub struct Sequencer {
    options: SequencerOptions,
    board: &'static Board,
    lanes: Lanes,
    files: Files,
    journal: Journal,
    journal_dir: std::path::PathBuf,
    tasks: Tasks,
    findings: Receiver<Finding>,
    waiting: VecDeque<Finding>,
    progress: Arc<Progress>,
    outbox: Outbox,
    groups: Vec<Group>,
    gaps: u64,
    /// Files that had an image when this started and have not been seen yet.
    expected: HashSet<Arc<[u8]>>,
    seen: HashSet<Arc<[u8]>>,
    last_sync: Instant,
    last_release: Instant,
    last_processes: Instant,
    /// Processes were looked after since anything was done, and none had ended.
    processes_quiet: bool,
    broken_lanes: usize,
    directories: Directories,
    /// Files of which nobody can say whether they were removed.
    lost: HashMap<Arc<[u8]>, String>,
    /// Captured paths that are links to another captured file.
    links: HashMap<Arc<[u8]>, String>,
    unreadable: HashMap<Arc<[u8]>, String>,
    complaints: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Group {
    /// Clock of the last thing that happened, 0 when it is settled.
    active: u64,
}

/// Operations encoded and not yet in the journal.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    fn push(&mut self, operation: &Operation<'_>) {
        let bulk = operation.encode_head(&mut self.bytes);
        self.bytes.extend_from_slice(bulk);
        self.ends.push(self.bytes.len());
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES_MAX
    }
}

/// What the sequencer works with.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The board of the lanes directory.
    pub board: &'static Board,
    /// An opened journal whose epoch has begun.
    pub journal: Journal,
    /// Last frame of each lane that is in the journal already.
    pub journaled: Journaled,
    /// To ask for reads.
    pub tasks: Tasks,
    /// What was read.
    pub findings: Receiver<Finding>,
    /// Files with an image.
    pub known: HashSet<Arc<[u8]>>,
    /// Shared counters.
    pub progress: Arc<Progress>,
}

impl Sequencer {
    /// Sets the thread up.
    pub fn new(parts: Parts, options: SequencerOptions) -> Sequencer {
        let groups = vec![Group::default(); parts.config.groups.len()];
        let lanes = Lanes::new(&parts.config.site.lanes, parts.board, parts.journaled);
        let sequencer = Sequencer {
            options,
            board: parts.board,
            lanes,
            journal_dir: parts.config.site.journal_dir(),
            files: Files::new(Arc::clone(&parts.config), parts.board),
            journal: parts.journal,
            tasks: parts.tasks,
            findings: parts.findings,
            waiting: VecDeque::new(),
            progress: parts.progress,
            outbox: Outbox::default(),
            groups,
            gaps: 0,
            expected: parts.known,
            seen: HashSet::new(),
            last_sync: Instant::now(),
            last_release: Instant::now(),
            last_processes: Instant::now(),
            processes_quiet: false,
            broken_lanes: 0,
            directories: Directories::open(&parts.config.site.state),
            lost: HashMap::new(),
            links: HashMap::new(),
            unreadable: HashMap::new(),
            complaints: Vec::new(),
        };
        sequencer.publish_progress();
        sequencer
    }

    /// Works until everything is to stop; then closes the journal.
    pub fn run(mut self) {
        let mut pause = POLL_MIN;
        while !self.progress.is_stopping() {
            let before = self.progress.operations.load(Ordering::Relaxed);
            match self.pass() {
                Ok(worked) => {
                    let operations = self.progress.operations.load(Ordering::Relaxed) - before;
                    if operations < BUSY_OPERATIONS {
                        pause = if worked {
                            POLL_MIN
                        } else {
                            (pause * 2).min(POLL_MAX)
                        };
                        std::thread::sleep(pause);
                    }
                }
                Err(error) => {
                    self.progress.fail(format!("capture: {error}"));
                    return;
                }
            }
        }
        if let Err(error) = self.journal.close() {
            self.progress.fail(format!("closing the journal: {error}"));
        }
    }

    /// One round. True when something was done.
    fn pass(&mut self) -> Result<bool, counterfoil_journal::Error> {
        let now = clock::now();
        let mut worked = self.discover();
        // Nothing may be released while there is a lane that isn't known.
        let complete = self.lanes.knows_all();
        let limits = self.limits(now);
        self.read_lanes();
        self.tell_broken_lanes();
        self.take_findings();
        let mut room = self.flush()?;
        if complete && room && self.journal.stats().bytes < self.options.journal_bytes_max {
            worked |= self.release(&limits);
            room = self.flush()?;
        }
        if room {
            self.lanes.settle();
            self.load();
            self.take_gaps();
            if self.last_processes.elapsed() >= PROCESS_INTERVAL {
                self.last_processes = Instant::now();
                let ended = self.look_after_processes()?;
                self.processes_quiet = !ended && !worked;
                worked |= ended;
            }
            self.settle_groups(now);
            self.flush()?;
        }
        self.synchronise()?;
        self.publish_progress();
        self.processes_quiet &= !worked;
        let drained = complete
            && room
            && self.processes_quiet
            && self.outbox.ends.is_empty()
            && self.waiting.is_empty()
            && self.files.to_load.is_empty()
            && self.gaps == self.board.gaps.load(Ordering::SeqCst)
            && self.groups.iter().all(|group| group.active == 0)
            && self
                .lanes
                .lanes
                .iter()
                .all(|lane| lane.is_drained() && lane.in_flight().is_none());
        if drained {
            self.progress.drained_passes.fetch_add(1, Ordering::SeqCst);
        }
        self.progress.passes.fetch_add(1, Ordering::SeqCst);
        Ok(worked)
    }

    fn discover(&mut self) -> bool {
        let files = &self.files;
        match self.lanes.discover(&|path| files.group_of_reported(path)) {
            Ok(complaints) => {
                let some = !complaints.is_empty();
                self.complaints.extend(complaints);
                if some {
                    self.progress.set_problems("lanes", &self.complaints);
                }
                some
            }
            Err(error) => {
                let problem = format!(
                    "reading the lanes directory: {error}; captured programs can't be followed until it is there again"
                );
                self.progress.set_problems("lanes directory", &[problem]);
                false
            }
        }
    }

    fn read_lanes(&mut self) {
        let files = &self.files;
        self.lanes.read(&|path| files.group_of_reported(path));
    }

    /// A lane that can't be read on says nothing of what its program writes: all files are compared, now and when the
    /// program has ended.
    fn tell_broken_lanes(&mut self) {
        let broken: Vec<String> = self
            .lanes
            .lanes
            .iter()
            .filter_map(|lane| lane.broken.clone())
            .collect();
        if broken.len() > self.broken_lanes {
            for (path, _) in self.files.paths() {
                self.tasks.ask(Task::Check {
                    path: Arc::clone(path),
                });
            }
        }
        if broken.len() != self.broken_lanes {
            self.broken_lanes = broken.len();
            let problems: Vec<String> = broken
                .iter()
                .map(|what| {
                    format!(
                        "a lane can't be read on, restart its program to capture it again: {what}"
                    )
                })
                .collect();
            self.progress.set_problems("broken lanes", &problems);
        }
    }

    /// Up to which end each group's frames may be released.
    fn limits(&self, now: u64) -> Vec<u64> {
        let mut limits = vec![now; self.groups.len()];
        let stuck_after = self.options.stuck_after.as_nanos() as u64;
        for lane in &self.lanes.lanes {
            if let Some(call) = lane.in_flight()
                && now.saturating_sub(call.begin) < stuck_after
                && let Some(limit) = limits.get_mut(usize::from(call.group))
            {
                *limit = (*limit).min(call.begin);
            }
        }
        limits
    }

    /// Releases what is due, in order, until the outbox is full.
    fn release(&mut self, limits: &[u64]) -> bool {
        // No frame that is still unread ends before the last one read of its lane.
        let unread = self
            .lanes
            .lanes
            .iter()
            .filter_map(|lane| lane.read_limit())
            .min()
            .unwrap_or(u64::MAX);
        let mut heads: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        for lane in 0..self.lanes.lanes.len() {
            if let Some((end, _)) = self.head(lane, limits) {
                heads.push(Reverse((end, lane)));
            }
        }
        let mut released = false;
        while !self.outbox.is_full() {
            let next = heads.peek().map(|Reverse((end, _))| *end);
            if let Some(read) = self.waiting.front()
                && next.is_none_or(|next| read.end <= next)
                && read.end <= unread
                && limits.iter().all(|&limit| read.end <= limit)
            {
                if let Some(finding) = self.waiting.pop_front() {
                    self.release_finding(&finding);
                    released = true;
                }
                continue;
            }
            let Some(Reverse((end, lane))) = heads.pop() else {
                break;
            };
            if end > unread {
                break;
            }
            let Some((_, at)) = self.head(lane, limits) else {
                continue;
            };
            if let Some(frame) = self.lanes.lanes[lane].queue.remove(at) {
                self.release_frame(lane, &frame);
                released = true;
            }
            if let Some((end, _)) = self.head(lane, limits) {
                heads.push(Reverse((end, lane)));
            }
        }
        released
    }

    /// The first frame of a lane that may be released: its end, and its place in the queue. Frames of a group that is held
    /// back are passed over.
    fn head(&self, lane: usize, limits: &[u64]) -> Option<(u64, usize)> {
        let queue = &self.lanes.lanes[lane].queue;
        queue.iter().enumerate().find_map(|(at, frame)| {
            let limit = limits.get(usize::from(frame.group)).copied().unwrap_or(0);
            (frame.header.end <= limit).then_some((frame.header.end, at))
        })
    }

    fn release_frame(&mut self, lane: usize, frame: &Queued) {
        let header = frame.header;
        if frame.kind == Kind::Name {
            let lane = &mut self.lanes.lanes[lane];
            if let Some(name) = Name::decode(lane.data(frame)) {
                lane.names.insert(header.name, name);
            }
            return;
        }
        let Some(file) = self.file_of(lane, frame) else {
            return;
        };
        if frame.kind == Kind::Open {
            self.forget_replaced(wall_at(header.end));
        }
        let lane = &self.lanes.lanes[lane];
        let writer = lane.writer;
        let data = lane.data(frame);
        let program_len = writer
            .program
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(writer.program.len());
        let origin = Origin {
            process: writer.process,
            pid: writer.pid,
            lane: writer.lane,
            frame: header.number,
            program: &writer.program[..program_len],
        };
        let at_ns = wall_at(header.end);
        self.progress.operations.fetch_add(1, Ordering::Relaxed);
        self.progress.captured_ns.store(at_ns, Ordering::Relaxed);
        let range = match frame.kind {
            Kind::Write => {
                Some(header.offset..header.offset.saturating_add(u64::from(header.data_len)))
            }
            Kind::Truncate => Some(header.offset..u64::MAX),
            Kind::Open if header.flags & frame::OPEN_TRUNCATED != 0 => Some(0..u64::MAX),
            _ => None,
        };
        // What no file can be isn't what the program did: its lane was damaged, and only the file knows.
        let possible = header.offset <= FILE_BYTES_MAX
            && range
                .as_ref()
                .is_none_or(|range| range.end == u64::MAX || range.end <= FILE_BYTES_MAX);
        if !possible
            && matches!(
                frame.kind,
                Kind::Open | Kind::Write | Kind::Truncate | Kind::Reread
            )
        {
            if let Some(path) = self.files.files[file].path.clone() {
                self.progress.rereads.fetch_add(1, Ordering::Relaxed);
                self.tasks.ask(Task::Check { path });
            }
            return;
        }
        let registered = &mut self.files.files[file];
        let group = registered.group;
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            group.active = clock::now();
        }
        if matches!(frame.kind, Kind::Open | Kind::Rename | Kind::Reread) {
            registered.changed_ns = at_ns;
        }
        if let Some(range) = range {
            registered.changed_ns = at_ns;
            let doubtful = registered.changed_since(header.begin, &range);
            registered.note_change(header.end, range);
            if let (Some(range), Some(path)) = (doubtful, registered.path.clone()) {
                self.progress.rereads.fetch_add(1, Ordering::Relaxed);
                reread(&self.tasks, path, range);
            }
        }
        let Some(path) = registered.path.clone() else {
            // It has no captured path (any more): only a rename can give it one.
            if frame.kind == Kind::Rename {
                rename_in(&mut self.files, file, data);
            }
            return;
        };
        let action = match frame.kind {
            Kind::Open => Action::Opened {
                truncated: header.flags & frame::OPEN_TRUNCATED != 0,
                size: header.offset,
            },
            Kind::Write => Action::Write {
                offset: header.offset,
                bytes: data,
            },
            Kind::Truncate => Action::Truncate {
                size: header.offset,
            },
            Kind::Reread => {
                self.progress.rereads.fetch_add(1, Ordering::Relaxed);
                let end = header.offset.saturating_add(header.extent);
                registered.note_change(header.end, header.offset..end);
                return reread(&self.tasks, path, header.offset..end);
            }
            Kind::Rename => {
                let Some((_, to)) = split_rename(data) else {
                    return;
                };
                let to = self.files.configured(to).into_owned();
                self.files.renamed(file, &to);
                let action = match self.files.group_of(&to) {
                    Some(_) => Action::Renamed { to: &to },
                    None => Action::Removed,
                };
                let operation = Operation {
                    group,
                    origin,
                    at_ns,
                    path: &path,
                    action,
                };
                return self.outbox.push(&operation);
            }
            Kind::Unlink => {
                if *self.files.configured(data) != *path || self.files.removed(&path).is_none() {
                    // Another link of the file was removed.
                    return;
                }
                Action::Removed
            }
            Kind::Sync => Action::Synced,
            Kind::Lock => Action::Locked {
                offset: header.offset,
                extent: header.extent,
            },
            Kind::Unlock => Action::Unlocked {
                offset: header.offset,
                extent: header.extent,
            },
            Kind::Close => Action::Closed,
            Kind::Name => return,
        };
        self.outbox.push(&Operation {
            group,
            origin,
            at_ns,
            path: &path,
            action,
        });
    }

    /// A program made an empty file. What the path stood for before, now or when this started, is gone. (That a file was
    /// empty when it was opened says nothing by itself: others may have written to it before this frame's turn.)
    fn forget_replaced(&mut self, at_ns: i64) {
        let Some((path, replaced)) = self.files.made.take() else {
            return;
        };
        if (self.expected.remove(&path) || replaced)
            && let Some(group) = self.files.group_of(&path)
        {
            let origin = Origin::default();
            self.outbox.push(&Operation {
                group,
                origin,
                at_ns,
                path: &path,
                action: Action::Removed,
            });
        }
    }

    /// Which file a frame is about.
    fn file_of(&mut self, lane: usize, frame: &Queued) -> Option<usize> {
        let name = self.lanes.lanes[lane].names.get_mut(&frame.header.name)?;
        if frame.kind == Kind::Open {
            let empty = frame.header.offset == 0;
            name.file = Some(
                self.files
                    .opened(name.device, name.inode, &name.path, empty),
            );
        } else {
            // A file that lost its path may have turned up under another, if somebody unseen renamed it: what is written
            // through descriptors opened before goes there.
            let moved = |file: usize| self.files.files[file].path.is_none();
            if name.file.is_none_or(moved) {
                name.file = Some(self.files.named(name.device, name.inode, &name.path));
            }
        }
        name.file
    }

    fn take_findings(&mut self) {
        while self.waiting.len() < FINDINGS_MAX {
            match self.findings.try_recv() {
                Ok(finding) => self.waiting.push_back(finding),
                Err(_) => break,
            }
        }
    }

    fn release_finding(&mut self, finding: &Finding) {
        self.consider(finding);
        // Only now: until then the finding itself, and then what became of it, keep everything from looking idle.
        self.progress.findings.fetch_sub(1, Ordering::SeqCst);
    }

    fn consider(&mut self, finding: &Finding) {
        let path = &finding.path;
        match &finding.what {
            What::Scanned => return self.scanned(),
            What::Missing => return self.missing(path),
            What::Unreadable(reason) => {
                let problem = format!(
                    "reading {}: {reason}; its table is not complete until it can be read (see `counterfoil check`)",
                    String::from_utf8_lossy(path)
                );
                self.unreadable.insert(Arc::clone(path), problem);
                return self.tell_unreadable();
            }
            What::Seen {
                device,
                inode,
                size,
                changed_ns,
                ..
            } => {
                self.seen.insert(Arc::clone(path));
                self.expected.remove(path);
                self.directories.note(path, *device);
                if !self.seen_as((*device, *inode), path, (*size, *changed_ns)) {
                    return;
                }
            }
            What::Content {
                offset,
                bytes,
                at_end,
                ..
            } => {
                let end = if *at_end {
                    u64::MAX
                } else {
                    offset + bytes.len() as u64
                };
                let changed = self
                    .files
                    .at_path(path)
                    .map(|file| &self.files.files[file])
                    .and_then(|file| {
                        file.changed_since(finding.begin, &(*offset..end.max(*offset + 1)))
                    });
                if let Some(changed) = changed {
                    return self.read_again(path, *offset, bytes.len() as u64, *at_end, changed);
                }
                if self.unreadable.remove(path).is_some() {
                    self.tell_unreadable();
                }
            }
            What::Sum { .. } => {}
        }
        let Some(file) = self.files.at_path(path) else {
            return;
        };
        let group = self.files.files[file].group;
        // A scan sees every file again and again: attributes are kept when they changed.
        if let What::Seen { mode, uid, gid, .. } = finding.what
            && !self.files.files[file].note_attributes(mode, uid, gid)
        {
            return;
        }
        if let Some(action) = finding.what.action() {
            if let Some(group) = self.groups.get_mut(usize::from(group)) {
                group.active = clock::now();
            }
            let at_ns = wall_at(finding.end);
            self.outbox.push(&Operation {
                group,
                origin: Origin::default(),
                at_ns,
                path,
                action,
            });
        }
    }

    /// A file is at a path. False when the path is a link to another captured file.
    fn seen_as(&mut self, (device, inode): (u64, u64), path: &Arc<[u8]>, look: (u64, i64)) -> bool {
        let known = self.files.at_inode(device, inode);
        let other = known
            .and_then(|file| self.files.files[file].path.clone())
            .filter(|other| other != path);
        if let Some(other) = other
            && self.files.is_at(&other, device, inode)
        {
            let problem = format!(
                "{} and {} are links to one file, which is mirrored as the latter only",
                String::from_utf8_lossy(path),
                String::from_utf8_lossy(&other)
            );
            if self.links.insert(Arc::clone(path), problem).is_none() {
                self.progress
                    .set_problems("links", &self.links.values().cloned().collect::<Vec<_>>());
            }
            return false;
        }
        if self.links.remove(path).is_some() {
            self.progress
                .set_problems("links", &self.links.values().cloned().collect::<Vec<_>>());
        }
        let Some(file) = known.filter(|&file| self.files.files[file].path.as_ref() == Some(path))
        else {
            // New, or another file than before under this path.
            let file = self.files.place(device, inode, path, false);
            self.files.files[file].look = Some(look);
            return true;
        };
        let file = &mut self.files.files[file];
        if file.look == Some(look) {
            return true;
        }
        // Changed later than by any captured change: by whom, we didn't see. One that is written to all the time is
        // compared again and again, with a pause.
        let now = clock::wall();
        if look.1 > file.changed_ns + UNEXPLAINED_NS {
            if now - file.compared_ns >= COMPARE_INTERVAL_NS {
                file.compared_ns = now;
                file.look = Some(look);
                self.progress.rereads.fetch_add(1, Ordering::Relaxed);
                self.tasks.ask(Task::Check {
                    path: Arc::clone(path),
                });
            }
        } else {
            file.look = Some(look);
        }
        true
    }

    /// A read overlapped changes of the same bytes. What they left alone is read again with it, in halves: short reads
    /// find a gap between changes.
    fn read_again(
        &self,
        path: &Arc<[u8]>,
        offset: u64,
        len: u64,
        at_end: bool,
        changed: Range<u64>,
    ) {
        self.progress.rereads.fetch_add(1, Ordering::Relaxed);
        let ask = |offset, extent| {
            self.tasks.ask(Task::Read {
                path: Arc::clone(path),
                offset,
                extent,
            });
        };
        if len > 4096 && changed.start < offset + len {
            let half = (len / 2).next_multiple_of(4096);
            ask(offset, half);
            ask(offset + half, if at_end { CHUNK_BYTES } else { len - half });
        } else {
            ask(offset, if at_end { CHUNK_BYTES } else { len });
        }
    }

    fn tell_unreadable(&self) {
        self.progress.set_problems(
            "unreadable",
            &self.unreadable.values().cloned().collect::<Vec<_>>(),
        );
    }

    fn scanned(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        let unseen: Vec<Arc<[u8]>> = self
            .files
            .paths()
            .map(|(path, _)| path)
            .filter(|path| !seen.contains(*path))
            .cloned()
            .chain(self.expected.iter().cloned())
            .collect();
        // Those of which nobody can say are looked at again next time.
        let lost_before = std::mem::take(&mut self.lost);
        for path in unseen {
            self.missing(&path);
        }
        self.expected.retain(|path| self.lost.contains_key(path));
        if !lost_before.is_empty() || !self.lost.is_empty() {
            self.tell_lost();
        }
        self.directories.save();
        self.progress.scans.fetch_add(1, Ordering::SeqCst);
    }

    /// A file isn't where it was.
    fn missing(&mut self, path: &Arc<[u8]>) {
        if self.unreadable.remove(path).is_some() {
            self.tell_unreadable();
        }
        match self.directories.fate(path) {
            Fate::There => {}
            Fate::Unknown(why) => {
                let problem = format!(
                    "{}: {why}; its rows are kept until it is known whether it was removed",
                    String::from_utf8_lossy(path)
                );
                self.lost.insert(Arc::clone(path), problem);
            }
            Fate::Removed => {
                self.files.removed(path);
                if let Some(group) = self.files.group_of(path) {
                    let at_ns = clock::wall();
                    let origin = Origin::default();
                    self.outbox.push(&Operation {
                        group,
                        origin,
                        at_ns,
                        path,
                        action: Action::Removed,
                    });
                }
            }
        }
    }

    /// Says which files are neither there nor known to be removed; many of one directory need no line each.
    fn tell_lost(&self) {
        const TOLD_MAX: usize = 5;
        let mut problems: Vec<String> = self.lost.values().take(TOLD_MAX).cloned().collect();
        if self.lost.len() > TOLD_MAX {
            problems.push(format!(
                "and {} more files that are not there",
                self.lost.len() - TOLD_MAX
            ));
        }
        self.progress.set_problems("lost files", &problems);
    }

    /// Has new files read.
    fn load(&mut self) {
        for path in self.files.to_load.drain(..) {
            self.tasks.ask(Task::Check { path });
        }
    }

    /// Has files read that programs could not report on.
    fn take_gaps(&mut self) {
        let gaps = self.board.gaps.load(Ordering::SeqCst);
        if gaps == self.gaps {
            return;
        }
        self.gaps = gaps;
        let mut hashes = HashSet::new();
        let everything = self.board.take_gaps(|hash| {
            hashes.insert(hash);
        });
        let mut marked = Vec::new();
        for (path, _) in self.files.paths() {
            if everything || hashes.contains(&path_hash(path)) {
                marked.push(Arc::clone(path));
            }
        }
        // A mark that fits no known path is of a file by another name: a link, or a directory that is one.
        if everything || marked.len() < hashes.len() {
            marked = self
                .files
                .paths()
                .map(|(path, _)| Arc::clone(path))
                .collect();
        }
        for path in marked {
            self.progress.rereads.fetch_add(1, Ordering::Relaxed);
            self.tasks.ask(Task::Check { path });
        }
    }

    /// Finds processes that are gone and settles what they left.
    fn look_after_processes(&mut self) -> Result<bool, counterfoil_journal::Error> {
        let mut processes: HashMap<u64, (Writer, bool)> = HashMap::new();
        for lane in &self.lanes.lanes {
            let writer = &lane.writer;
            let entry = processes.entry(writer.process).or_insert((*writer, true));
            entry.1 &= lane.is_drained();
        }
        self.progress
            .programs
            .store(processes.len() as u64, Ordering::Relaxed);
        self.progress
            .lanes
            .store(self.lanes.lanes.len() as u64, Ordering::Relaxed);
        let mut ended = Vec::new();
        let mut alive = Processes::now();
        for (process, (writer, drained)) in processes {
            if alive.may_live(&writer) {
                continue;
            }
            // It can't write any more, so what its lanes hold now is all there will be.
            self.read_lanes();
            if drained
                && self
                    .lanes
                    .lanes
                    .iter()
                    .all(|lane| lane.writer.process != process || lane.is_drained())
            {
                ended.push((process, writer.pid));
            }
        }
        for &(process, pid) in &ended {
            for lane in self
                .lanes
                .lanes
                .iter()
                .filter(|lane| lane.writer.process == process)
            {
                if let Some(call) = lane.in_flight() {
                    self.progress.rereads.fetch_add(1, Ordering::Relaxed);
                    let path = self
                        .files
                        .at_inode(call.device, call.inode)
                        .and_then(|file| self.files.files[file].path.clone());
                    match path {
                        Some(path) => {
                            let start = if call.offset == u64::MAX {
                                0
                            } else {
                                call.offset
                            };
                            let end = if call.offset == u64::MAX {
                                u64::MAX
                            } else {
                                start.saturating_add(call.extent)
                            };
                            reread(&self.tasks, path, start..end);
                        }
                        None => {
                            // It died while opening or renaming something of this group.
                            for (path, _) in self
                                .files
                                .paths()
                                .filter(|(_, file)| file.group == call.group)
                            {
                                self.tasks.ask(Task::Check {
                                    path: Arc::clone(path),
                                });
                            }
                        }
                    }
                }
                if lane.broken.is_some() {
                    for (path, _) in self.files.paths() {
                        self.tasks.ask(Task::Check {
                            path: Arc::clone(path),
                        });
                    }
                }
            }
            let at_ns = clock::wall();
            for (group, state) in self.groups.iter_mut().enumerate() {
                let origin = Origin {
                    process,
                    pid,
                    ..Origin::default()
                };
                state.active = clock::now();
                self.outbox.push(&Operation {
                    group: group as u16,
                    origin,
                    at_ns,
                    path: b"",
                    action: Action::Ended,
                });
            }
        }
        if self.files.are_many() {
            let names = self.lanes.lanes.iter().flat_map(|lane| lane.names.values());
            self.files
                .forget(&names.filter_map(|name| name.file).collect());
        }
        if !ended.is_empty() && self.flush()? {
            for &(process, _) in &ended {
                self.lanes.remove_process(process);
            }
        }
        Ok(!ended.is_empty())
    }

    /// Says of groups where nothing happens that nothing happens.
    fn settle_groups(&mut self, now: u64) {
        for (group, state) in self.groups.iter_mut().enumerate() {
            if state.active != 0 && now.saturating_sub(state.active) > SETTLE_AFTER_NS {
                state.active = 0;
                let operation = Operation {
                    group: group as u16,
                    origin: Origin::default(),
                    at_ns: clock::wall(),
                    path: b"",
                    action: Action::Settled,
                };
                self.outbox.push(&operation);
            }
        }
    }

    /// Puts the outbox into the journal. False when the journal takes nothing at present; nothing is lost then.
    fn flush(&mut self) -> Result<bool, counterfoil_journal::Error> {
        if self.outbox.ends.is_empty() {
            return Ok(true);
        }
        let outbox = &self.outbox;
        let appended = self.journal.append_batch(|batch| {
            let mut start = 0;
            for &end in &outbox.ends {
                batch.push(&outbox.bytes[start..end])?;
                start = end;
            }
            Ok(())
        });
        match appended {
            Ok(_) => {
                self.outbox.bytes.clear();
                self.outbox.ends.clear();
                self.progress.set_problems("journal", &[]);
                Ok(true)
            }
            Err(error) if error.is_retryable() => {
                let problem = format!(
                    "the journal in {} takes nothing: {error}; captured programs go on, and it is tried again",
                    self.journal_dir.display()
                );
                self.progress.set_problems("journal", &[problem]);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn synchronise(&mut self) -> Result<(), counterfoil_journal::Error> {
        let interval = self.options.sync_interval;
        if self.last_sync.elapsed() >= interval {
            self.last_sync = Instant::now();
            match self.journal.sync() {
                Ok(_) => {}
                // Something a failed append left could not be cut off yet; appending tries again, too.
                Err(error) if error.is_retryable() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.last_release.elapsed() >= RELEASE_INTERVAL {
            self.last_release = Instant::now();
            let released = self.journal.release();
            let full = self.journal.stats().bytes >= self.options.journal_bytes_max;
            let mut problems = Vec::new();
            if let Err(error) = released {
                problems.push(format!("removing journal segments nobody needs: {error}"));
            }
            if full {
                problems.push(
                    "the journal is at its limit (journal.bytes_max): nothing is taken from captured programs until a sink catches up"
                        .to_owned(),
                );
            }
            self.progress.set_problems("journal size", &problems);
        }
        Ok(())
    }

    fn publish_progress(&self) {
        let stats = self.journal.stats();
        self.progress
            .journal_bytes
            .store(stats.bytes, Ordering::Relaxed);
        self.progress
            .journal_end
            .store(self.journal.next_lsn(), Ordering::SeqCst);
    }
}

fn reread(tasks: &Tasks, path: Arc<[u8]>, range: Range<u64>) {
    let extent = if range.end == u64::MAX {
        u64::MAX
    } else {
        range.end - range.start
    };
    tasks.ask(Task::Read {
        path,
        offset: range.start,
        extent,
    });
}

/// The two paths of a rename.
fn split_rename(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = data.iter().position(|&byte| byte == 0)?;
    Some((&data[..nul], &data[nul + 1..]))
}

/// A file without a captured path was renamed: if the new path is captured, it takes the place of what was there.
fn rename_in(files: &mut Files, file: usize, data: &[u8]) {
    let Some((_, to)) = split_rename(data) else {
        return;
    };
    files.renamed(file, to);
    if let Some(path) = files.files[file].path.clone() {
        files.to_load.push(path);
    }
}

/// The wall clock when the monotonic clock showed `at`.
fn wall_at(at: u64) -> i64 {
    static OFFSET: AtomicU64 = AtomicU64::new(0);
    static CHECKED: AtomicU64 = AtomicU64::new(0);
    // Looked up now and then, since the wall clock may be stepped; a call each would cost as much as the rest.
    if at.saturating_sub(CHECKED.load(Ordering::Relaxed)) > 100_000_000
        || OFFSET.load(Ordering::Relaxed) == 0
    {
        OFFSET.store(
            (clock::wall() as u64).wrapping_sub(clock::now()),
            Ordering::Relaxed,
        );
        CHECKED.store(at, Ordering::Relaxed);
    }
    at.wrapping_add(OFFSET.load(Ordering::Relaxed)) as i64
}

/// The last frame of each lane that the journal's segments hold: those need not be taken from the lanes again.
///
/// By group: frames of a group that was held back were passed over.
pub fn journaled_frames(journal: &Journal) -> Result<Journaled, counterfoil_journal::Error> {
    let mut last = Journaled::new();
    let mut reader = journal.reader(journal.first_lsn())?;
    while let Some(entry) = reader.next()? {
        if let Ok(operation) = Operation::decode(entry.payload)
            && operation.origin.frame != 0
        {
            let lane = (operation.origin.process, operation.origin.lane);
            let frame = last
                .entry(lane)
                .or_default()
                .entry(operation.group)
                .or_insert(0);
            *frame = operation.origin.frame.max(*frame);
        }
    }
    Ok(last)
}
