//! The sequencer: merges what the lanes hold and what the checker found into one order, and puts it into the journal.
//!
//! Order is by the end of each call. A pass reads the clock (T), then every lane's in-flight slot, then looks for new
//! segments, then reads frames. A call that it could not see yet publishes its slot, and so takes its end time, after T; so
//! every frame whose end is not after T and not after the oldest call in flight is safe to release, and a segment that such
//! a frame went to was there when new ones were looked for. Each group has its own limit, and a call that takes
//! longer than [`SequencerOptions::stuck_after`] no longer holds its group back.
//!
//! Where two changes of the same bytes overlap in time, order can't be known, so the bytes are read from the file. A read
//! is an operation like any other: it has a begin and an end, waits for its turn, and is repeated when a change of the
//! same bytes overlapped it.
//!
//! Frames stay in their lanes until they are in the journal. A journal that takes nothing (disk full, backlog limit)
//! leaves them there; programs go on, and past a lane's limit the files concerned are marked to be read again.

mod entries;
mod findings;
mod release;
mod vouching;
mod writers;

use super::check::{CHUNK_BYTES, FILE_BYTES_MAX, Finding, Task, Tasks, What};
use super::directories::{Directories, Fate};
use super::entries::Entries;
use super::files::Files;
use super::lanes::{Journaled, Lanes, Name, Queued};
use super::operation::{Action, Operation, Origin, Verified};
use super::order::{self, Look, Merge};
use super::processes::{self, Processes};
use crate::backlog::{Backlog, Room};
use crate::config::{Config, UnitOfWork};
use crate::progress::{CapturedProgram, Progress, Reason};
use crate::state::{For, prepare_lanes, removed};
use counterfoil_journal::{Journal, SEGMENTS_KEPT};
use counterfoil_lane::board::{Board, path_hash};
use counterfoil_lane::clock;
use counterfoil_lane::frame::{self, Kind};
use counterfoil_lane::reader::Writer;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Bytes of operations put into the journal with one write.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Findings taken over before they are released, and bytes in them; together with the bound of their channel this limits
/// memory.
const FINDINGS_MAX: usize = 512;
const FINDINGS_BYTES_MAX: usize = 8 << 20;
/// Findings under way with which the next pass follows at once.
const FINDINGS_BUSY: u64 = 32;
/// How often the bytes of all lanes are counted anew.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// How often processes are looked after.
const PROCESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is said that time goes on, while a unit of work lasts too long.
const DUE_INTERVAL: Duration = Duration::from_millis(500);
/// How often journal segments that nobody needs are removed.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);
/// How much later than the last captured change a file may have been changed, by its time. The kernel's time is never
/// ahead, and what is being captured at this moment is looked for, so this is for steps of the clock only.
const UNEXPLAINED_NS: i64 = 5_000_000;
/// How often files are compared that captured programs have mapped: nobody says when they store something.
const MAPPED_INTERVAL: Duration = Duration::from_millis(500);
/// How often paths that are links to another captured file are looked at.
const LINKS_INTERVAL: Duration = Duration::from_millis(500);
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
    config: Arc<Config>,
    lanes: Lanes,
    files: Files,
    entries: Entries,
    journal: Journal,
    journal_dir: std::path::PathBuf,
    backlog: Backlog,
    tasks: Tasks,
    findings: Receiver<Finding>,
    waiting: VecDeque<Finding>,
    progress: Arc<Progress>,
    outbox: Outbox,
    groups: Vec<Group>,
    gaps: u64,
    /// Files that had an image when this started and have not been seen yet.
    expected: HashSet<Arc<[u8]>>,
    last_sync: Instant,
    last_release: Instant,
    last_processes: Instant,
    last_due: Instant,
    /// The wall clock at the last pass.
    last_wall_ns: i64,
    last_count: Instant,
    /// Clock when the last pass began that found all lanes there were.
    last_pass: u64,
    /// The state directory's lock, to tell whether the directory is still the same.
    lock: Option<(u64, u64)>,
    last_mapped: Instant,
    last_links: Instant,
    /// Processes whose lanes are gone, for a while.
    ended: VecDeque<writers::Ended>,
    /// Programs and files of which it was said that the one changes the other uncaptured.
    warned: HashSet<(String, String)>,
    /// Inode of our id namespace.
    own_namespace: u64,
    /// Our user, who may do to files whatever it likes.
    own_user: u32,
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
        let marked = parts.config.groups.iter().zip(0..);
        let marked = marked
            .filter(|(group, _)| group.unit_of_work == UnitOfWork::Api)
            .map(|(_, number)| number);
        let lanes = Lanes::new(
            &parts.config.site.lanes,
            parts.board,
            marked.collect(),
            parts.journaled,
        );
        let sequencer = Sequencer {
            options,
            board: parts.board,
            lanes,
            entries: Entries::default(),
            journal_dir: parts.config.site.journal_dir(),
            backlog: Backlog::new(
                parts.config.journal.bytes_max,
                parts.config.journal.segment_bytes,
            ),
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
            last_sync: Instant::now(),
            last_release: Instant::now(),
            last_processes: Instant::now(),
            last_due: Instant::now(),
            last_wall_ns: 0,
            // The first time soon: who counted before may have been wrong.
            last_count: Instant::now()
                .checked_sub(COUNT_INTERVAL)
                .unwrap_or_else(Instant::now),
            last_pass: 0,
            lock: identity(&parts.config.site.lock_path()),
            last_mapped: Instant::now(),
            last_links: Instant::now(),
            ended: VecDeque::new(),
            warned: HashSet::new(),
            own_namespace: processes::namespace("self"),
            own_user: rustix::process::geteuid().as_raw(),
            processes_quiet: false,
            broken_lanes: 0,
            directories: Directories::open(&parts.config.site.state),
            config: parts.config,
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
        let pulse = self.progress.pulse("sequence");
        while !self.progress.is_stopping() {
            pulse.beat();
            let before = self.progress.operations.total();
            match self.pass() {
                Ok(worked) => {
                    let operations = self.progress.operations.total() - before;
                    // A tree of very many small files takes as long as its findings are waited with.
                    let read = self.progress.findings.load(Ordering::SeqCst);
                    if operations < BUSY_OPERATIONS && read < FINDINGS_BUSY {
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
        let mut worked = false;
        let (groups, last) = (self.groups.len(), self.last_pass);
        let stuck_after = self.options.stuck_after.as_nanos() as u64;
        let discover = |this: &mut Sequencer| {
            let (some, complete) = this.discover();
            worked = some;
            complete
        };
        let Look {
            now,
            limits,
            complete,
        } = order::look(
            self,
            |this| &this.lanes,
            groups,
            stuck_after,
            last,
            discover,
        );
        if complete {
            self.last_pass = now;
        }
        self.read_lanes();
        self.tell_broken_lanes();
        self.take_findings();
        let mut room = self.flush()?;
        if complete && room && !self.is_journal_full() {
            worked |= self.release(&limits);
            room = self.flush()?;
        }
        if self.progress.tasks.load(Ordering::SeqCst) == 0
            && self.progress.findings.load(Ordering::SeqCst) == 0
        {
            self.files.no_doubts();
        }
        if room {
            self.lanes.settle();
            self.load();
            self.take_gaps();
            self.look_after_mapped();
            self.look_after_links();
            if self.last_processes.elapsed() >= PROCESS_INTERVAL {
                self.last_processes = Instant::now();
                self.look_after_directories();
                self.tell_waiting();
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
            && self.lanes.knows_all()
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

    /// Finds new lanes. Whether that was of note, and whether all are known now that there were when it began.
    fn discover(&mut self) -> (bool, bool) {
        let files = &self.files;
        let known = self.lanes.lanes.len();
        match self.lanes.discover(&|path| files.group_of_reported(path)) {
            Ok(complaints) => {
                self.look_at_new_lanes(known);
                self.progress.set_obstacles("lanes directory", &[]);
                let some = !complaints.is_empty();
                self.complaints.extend(complaints);
                if some {
                    self.progress.set_problems("lanes", &self.complaints);
                    // Nobody says what such a program has written so far.
                    self.compare_all(None);
                }
                (some, true)
            }
            Err(error) => {
                let problem = format!(
                    "reading the lanes directory: {error}; captured programs can't be followed until it is there again"
                );
                self.progress.set_obstacles("lanes directory", &[problem]);
                (false, false)
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
            self.compare_all(None);
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

    /// Somebody may have removed what this runs on. Without its state directory nothing can go on; a lanes directory is made
    /// anew, and programs join it by themselves and mark what they did meanwhile.
    fn look_after_directories(&mut self) {
        let site = &self.config.site;
        if self.lock.is_some() && identity(&site.lock_path()) != self.lock {
            self.progress.fail(removed(&site.state));
            return;
        }
        let board = site.lanes.join(counterfoil_lane::board::FILE_NAME);
        if identity(&board) == Some(self.board.identity()) {
            self.progress.set_obstacles("lanes board", &[]);
            return;
        }
        let problem = match prepare_lanes(&self.config, For::Replicator) {
            Ok(board) => {
                tracing::warn!(
                    "the lanes directory {} was removed or replaced: captured programs join it again, and every file is compared",
                    site.lanes.display()
                );
                self.board = board;
                self.lanes.move_to(board);
                self.files.move_to(board);
                self.gaps = 0;
                self.compare_all(None);
                None
            }
            Err(error) => Some(format!(
                "the lanes directory was removed or replaced: {error}"
            )),
        };
        self.progress
            .set_obstacles("lanes board", problem.as_slice());
    }

    /// Tells of programs that wait for this.
    fn tell_waiting(&self) {
        let waiting = self.lanes.waiting();
        self.progress
            .programs_waiting
            .store(waiting.len() as u64, Ordering::Relaxed);
        let problems: Vec<String> = waiting
            .into_iter()
            .map(|(name, pid, _)| {
                format!(
                    "{name} (process {pid}) waits, as its lane is full and its group has on_backlog = \"block\": it goes on when the journal has taken what is in the lane"
                )
            })
            .collect();
        self.progress.set_problems("waiting programs", &problems);
    }

    /// Finds processes that are gone and settles what they left.
    fn look_after_processes(&mut self) -> Result<bool, counterfoil_journal::Error> {
        let mut processes: HashMap<u64, (Writer, bool)> = HashMap::new();
        for lane in &self.lanes.lanes {
            let writer = &lane.writer;
            let entry = processes.entry(writer.process).or_insert((*writer, true));
            entry.1 &= lane.is_drained();
        }
        self.tell_programs();
        self.progress
            .programs
            .store(processes.len() as u64, Ordering::Relaxed);
        self.progress
            .lanes
            .store(self.lanes.lanes.len() as u64, Ordering::Relaxed);
        let mut alive = Processes::now();
        // Sorted by number, so that what is asked for and told of many has some order.
        let mut ended: BTreeMap<u64, Writer> = processes
            .into_iter()
            .filter(|(_, (writer, drained))| *drained && !alive.may_live(writer))
            .map(|(process, (writer, _))| (process, writer))
            .collect();
        if !ended.is_empty() {
            // They can't write any more, so what their lanes hold now is all there will be.
            self.read_lanes();
            for lane in &self.lanes.lanes {
                if !lane.is_drained() {
                    ended.remove(&lane.writer.process);
                }
            }
            let mut doubtful: Vec<Option<u16>> = Vec::new();
            for lane in &self.lanes.lanes {
                if !ended.contains_key(&lane.writer.process) {
                    continue;
                }
                if let Some(call) = lane.in_flight() {
                    self.progress.rereads.count(Reason::Died);
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
                            doubtful.push(Some(call.group));
                        }
                    }
                }
                if lane.broken.is_some() {
                    self.progress.rereads.count(Reason::Damaged);
                    doubtful.push(None);
                }
            }
            for group in doubtful {
                self.compare_all(group);
            }
            // The kernel wrote back what they had mapped, without a word.
            let mut mapped = Vec::new();
            for file in &mut self.files.files {
                let before = file.mapped.len();
                file.mapped
                    .retain(|process, _| !ended.contains_key(process));
                if file.mapped.len() < before {
                    mapped.extend(file.path.clone());
                }
            }
            for path in &mapped {
                self.progress.rereads.count(Reason::Mapped);
                self.compare(path);
            }
        }
        for (&process, writer) in &ended {
            let at_ns = clock::wall();
            for (group, state) in self.groups.iter_mut().enumerate() {
                let origin = Origin {
                    process,
                    pid: writer.pid,
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
            self.lanes
                .remove_processes(&ended.keys().copied().collect());
            for (&process, writer) in &ended {
                self.remember_ended(process, *writer);
            }
        }
        if self.lanes.knows_all() && self.last_count.elapsed() >= COUNT_INTERVAL {
            self.last_count = Instant::now();
            self.lanes.correct_bytes();
        }
        self.tell_full_lanes();
        Ok(!ended.is_empty())
    }

    /// Tells that no program can have a further lane.
    fn tell_full_lanes(&self) {
        let problem = self.lanes.are_full().then(|| {
            format!(
                "all lanes together are at their limit (site.lanes_bytes_max, {} bytes): what programs without a lane change is marked and read again",
                self.config.site.lanes_bytes_max
            )
        });
        self.progress.set_problems("lanes size", problem.as_slice());
    }

    /// Tells the status which programs are captured, and how.
    fn tell_programs(&self) {
        let mut programs: HashMap<u64, CapturedProgram> = HashMap::new();
        for lane in &self.lanes.lanes {
            let writer = &lane.writer;
            let program = programs.entry(writer.process).or_insert(CapturedProgram {
                pid: writer.pid,
                program: writer.program,
                release: writer.release,
                revision: writer.revision,
                mode: writer.mode,
                lanes: 0,
                operations: 0,
                at_ns: 0,
            });
            program.lanes += 1;
            program.operations += lane.released;
            if lane.released > 0 {
                program.at_ns = program.at_ns.max(wall_at(lane.released_end));
            }
        }
        self.progress
            .set_captured_programs(programs.into_values().collect());
    }

    /// Says of groups where nothing happens that nothing happens; of all when a unit of work lasts too long.
    fn settle_groups(&mut self, now: u64) {
        let due_ns = self.progress.unit_due_ns.load(Ordering::Relaxed);
        let wall_ns = clock::wall();
        // Set back, the clock says nothing of when a unit is due until the publisher has heard of it.
        let is_set_back = wall_ns < self.last_wall_ns;
        self.last_wall_ns = wall_ns;
        let is_due = self.last_due.elapsed() >= DUE_INTERVAL && wall_ns > due_ns;
        if due_ns != 0 && (is_due || is_set_back) {
            self.last_due = Instant::now();
            for state in &mut self.groups {
                // Not in the past of a moment ago.
                state.active = state.active.max(1);
            }
        }
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
                self.progress.set_obstacles("journal", &[]);
                Ok(true)
            }
            Err(error) if error.is_retryable() => {
                let problem = format!(
                    "the journal in {} takes nothing: {error}; captured programs go on, and it is tried again",
                    self.journal_dir.display()
                );
                self.progress.set_obstacles("journal", &[problem]);
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
            let size = self.journal.stats().bytes;
            let room = Room::at(&self.journal_dir);
            let filling = self.backlog.problem(size, room, self.last_release);
            let mut problems = Vec::new();
            if let Err(error) = released {
                problems.push(format!("removing journal segments nobody needs: {error}"));
            }
            let full = self.is_journal_full();
            if !full && self.journal.stats().segments > SEGMENTS_KEPT {
                // The last segments stay although everything in them is applied.
                problems.extend(filling);
            }
            problems.extend(room.and_then(|room| room.problem(&self.journal_dir)));
            self.progress.set_problems("journal size", &problems);
            let full = full.then(|| {
                "the journal is at its limit (journal.bytes_max): nothing is taken from captured programs until a sink catches up"
                    .to_owned()
            });
            self.progress.set_obstacles("journal size", full.as_slice());
        }
        Ok(())
    }

    /// Whether the journal is at its limit. The last segments always stay, and a batch may make one larger than it should
    /// be: where nothing in them waits for anybody, nobody would ever make room.
    fn is_journal_full(&self) -> bool {
        let stats = self.journal.stats();
        let is_applied = self.progress.applied_end() >= self.journal.next_lsn();
        stats.bytes >= self.options.journal_bytes_max
            && (stats.segments > SEGMENTS_KEPT || !is_applied)
    }

    fn publish_progress(&self) {
        let stats = self.journal.stats();
        self.progress
            .journal_bytes
            .store(stats.bytes, Ordering::Relaxed);
        self.progress.lane_bytes.store(
            self.board.lanes_bytes.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        self.progress
            .journal_end
            .store(self.journal.next_lsn(), Ordering::SeqCst);
    }
}

/// Device and inode of what is at a path.
fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
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
    files.renamed_in(file, to);
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
