//! What the threads tell each other and the status about how far they are.

use crate::coverage::Look;
use crate::verification::{Summary, Verification};
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_proto::Position;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Counters shared by all threads of a replicator. Those that decide whether everything captured was applied are
/// sequentially consistent.
#[derive(Debug, Default)]
pub struct Progress {
    stopping: AtomicBool,
    failed: Mutex<Option<String>>,
    restart: Mutex<Option<String>>,
    read_again: AtomicBool,
    problems: Mutex<BTreeMap<String, Vec<String>>>,
    obstacles: Mutex<BTreeMap<String, Vec<String>>>,
    pulses: Mutex<BTreeMap<String, Arc<Pulse>>>,
    pending: Mutex<BTreeMap<String, Pending>>,
    /// Tasks asked of the checker and not finished.
    pub tasks: AtomicU64,
    /// Findings of the checker not yet in the journal or dismissed.
    pub findings: AtomicU64,
    /// Sinks need every file to be read again, and that is not through.
    pub refilling: AtomicBool,
    /// Complete looks through all directories.
    pub scans: AtomicU64,
    /// How many of them somebody waits for; until then they follow one another.
    pub scans_wanted: AtomicU64,
    /// Passes of the sequencer in which every lane was empty, and nothing was waiting.
    pub drained_passes: AtomicU64,
    /// Passes of the sequencer.
    pub passes: AtomicU64,
    /// First lsn that isn't in the journal.
    pub journal_end: AtomicU64,
    /// First lsn the publisher has not handled.
    pub published_end: AtomicU64,
    /// Operations taken from lanes.
    pub operations: Operations,
    /// Ranges read again because order or content was in doubt.
    pub rereads: Rereads,
    /// Ranges that were read again and are as they were known.
    pub compared_equal: AtomicU64,
    /// Ranges that were read again and differed from what was known.
    pub compared_different: AtomicU64,
    /// By which way records came.
    pub records: Ways,
    /// Events published.
    pub events: AtomicU64,
    /// Bytes in the journal's segments.
    pub journal_bytes: AtomicU64,
    /// Wall clock of the last operation put in the journal, nanoseconds since 1970.
    pub captured_ns: AtomicI64,
    /// Programs with lanes.
    pub programs: AtomicU64,
    /// Lanes.
    pub lanes: AtomicU64,
    /// Bytes of all lanes' files.
    pub lane_bytes: AtomicU64,
    /// Wall clock when the next unit of work is to be cut, nanoseconds since 1970; 0 when none is open.
    pub unit_due_ns: AtomicI64,
    /// Programs that wait for room in their lanes.
    pub programs_waiting: AtomicU64,
    /// Units of work cut because they were too long or too large.
    pub units_cut: AtomicU64,
    units: Mutex<Units>,
    sinks: Mutex<BTreeMap<String, SinkProgress>>,
    files: Mutex<AllFiles>,
    uncaptured: Mutex<BTreeMap<(String, String), UncapturedWriter>>,
    look: Mutex<(i64, Look)>,
    captured_programs: Mutex<Vec<CapturedProgram>>,
    loads: Mutex<BTreeMap<String, Load>>,
    /// Bytes of loads that are in the journal, or on their way there, and aren't published.
    loads_waiting: AtomicU64,
    verification: Mutex<Verification>,
    /// Something was verified since it was asked for.
    verified: AtomicBool,
    summaries: Mutex<Summaries>,
}

/// What rounds of verification have found, in numbers, when those were made, and how long that took.
type Summaries = (
    Option<(Instant, Duration)>,
    (Summary, BTreeMap<String, Summary>),
);

/// Operations by kind. Only the sequencer counts.
#[derive(Debug, Default)]
pub struct Operations([AtomicU64; KINDS_MAX]);

/// Above the number of any [`Kind`]; one that isn't known is counted under 0.
const KINDS_MAX: usize = 32;

impl Operations {
    /// Counts one.
    pub fn count(&self, kind: Kind) {
        let slot = self.0.get(kind as usize).unwrap_or(&self.0[0]);
        slot.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).sum()
    }

    /// How many there were of each kind there was any of, by its name.
    pub fn by_kind(&self) -> BTreeMap<String, u64> {
        (0u16..)
            .zip(&self.0)
            .map(|(number, slot)| (Kind::from_number(number), slot.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| (format!("{kind:?}").to_lowercase(), count))
            .collect()
    }
}

/// Why a range of a file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Two writers were at the same bytes at once: their order can't be known.
    Overlap,
    /// A process died in a call.
    Died,
    /// There was no room in a lane, or no lane.
    Gap,
    /// The kernel filled the range (`sendfile`, `copy_file_range`, ...), or where the bytes went can't be known.
    Kernel,
    /// The range was mapped, so it could be changed without a call.
    Mapped,
    /// The file was changed by somebody who isn't captured.
    Uncaptured,
    /// A later version's interposer told of something this one doesn't know.
    Unknown,
    /// A lane held what can't be.
    Damaged,
    /// A program told of a file that its user may not write, or in another's name.
    Unvouched,
    /// The range was changed while it was read.
    Busy,
}

impl Reason {
    /// All of them, in the order they are shown in.
    pub const ALL: [Reason; 10] = [
        Reason::Overlap,
        Reason::Died,
        Reason::Gap,
        Reason::Kernel,
        Reason::Mapped,
        Reason::Uncaptured,
        Reason::Unknown,
        Reason::Damaged,
        Reason::Unvouched,
        Reason::Busy,
    ];

    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Overlap => "overlap",
            Reason::Died => "died",
            Reason::Gap => "gap",
            Reason::Kernel => "kernel",
            Reason::Mapped => "mapped",
            Reason::Uncaptured => "uncaptured",
            Reason::Unknown => "unknown",
            Reason::Damaged => "damaged",
            Reason::Unvouched => "unvouched",
            Reason::Busy => "busy",
        }
    }
}

/// Ranges read again, by reason.
#[derive(Debug, Default)]
pub struct Rereads([AtomicU64; Reason::ALL.len()]);

impl Rereads {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).sum()
    }

    /// How many there were for each reason.
    pub fn by_reason(&self) -> BTreeMap<String, u64> {
        Reason::ALL
            .iter()
            .map(|&reason| {
                let count = self.0[reason as usize].load(Ordering::Relaxed);
                (reason.word().to_owned(), count)
            })
            .collect()
    }
}

/// The way by which a record came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A captured program wrote it.
    Captured,
    /// The file was read again, and it was other than known.
    Found,
    /// The file was read for the first time.
    Loaded,
}

/// Records by way.
#[derive(Debug, Default)]
pub struct Ways([AtomicU64; 3]);

impl Ways {
    /// Counts some.
    pub fn count(&self, way: Way, records: u64) {
        self.0[way as usize].fetch_add(records, Ordering::Relaxed);
    }

    /// How many came by this way.
    pub fn of(&self, way: Way) -> u64 {
        self.0[way as usize].load(Ordering::Relaxed)
    }
}

/// A program with lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedProgram {
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// Its name, NUL-padded.
    pub program: [u8; 16],
    /// Release of its interposer, NUL-padded.
    pub release: [u8; 16],
    /// Revision of its interposer.
    pub revision: u32,
    /// `MODE_` flags of its segments.
    pub mode: u32,
    /// How many lanes it has.
    pub lanes: u64,
    /// Operations taken from them since the start of the replicator.
    pub operations: u64,
    /// Wall clock of the last of them, nanoseconds since 1970; 0 for none.
    pub at_ns: i64,
}

/// Programs and files kept of changes that no lane told of: the most recent ones.
pub const UNCAPTURED_MAX: usize = 64;

/// A program that was seen changing a file without a lane telling of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UncapturedWriter {
    /// Its process id, of the most recent process if there were several.
    pub pid: u32,
    /// Its name, as the kernel has it; empty when it was gone before it could be asked.
    pub program: String,
    /// Path of its executable, or empty.
    pub executable: String,
    /// The file, as text for people.
    pub path: String,
    /// When it did so last, nanoseconds since 1970.
    pub at_ns: i64,
    /// How often it was seen doing so.
    pub count: u64,
}

/// A file that is being read for the first time, or again from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many bytes of it are read.
    pub read: u64,
    /// Its size in bytes when it was last looked at.
    pub size: u64,
    began: Instant,
    /// What was read before that.
    from: u64,
}

impl Load {
    /// One of which something was read already, from when on its pace is told.
    pub fn begun(read: u64) -> Load {
        Load {
            read,
            size: read,
            began: Instant::now(),
            from: read,
        }
    }

    /// Bytes per second so far.
    pub fn bytes_per_second(&self) -> f64 {
        let seconds = self.began.elapsed().as_secs_f64();
        (self.read - self.from) as f64 / seconds.max(0.001)
    }
}

/// Units cut lately that are remembered.
const CUTS_KEPT: usize = 10;

#[derive(Debug, Default)]
struct Units {
    open: Vec<UnitProgress>,
    cut: VecDeque<UnitProgress>,
}

/// A unit of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitProgress {
    /// Its consistency group.
    pub group: String,
    /// Process id.
    pub pid: u32,
    /// Name of the program.
    pub program: String,
    /// Wall clock of its first operation, nanoseconds since 1970.
    pub began_ns: i64,
    /// How often it was cut.
    pub cuts: u64,
    /// Files it changed or locked.
    pub files: Vec<String>,
}

/// What happened to a file since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileProgress {
    /// Its consistency group.
    pub group: String,
    /// Operations on it.
    pub operations: u64,
    /// Events made of them.
    pub events: u64,
    /// Records that captured programs wrote.
    pub captured: u64,
    /// Records in blocks that were found to be other than known when it was read again.
    pub found: u64,
    /// Records from when it was read for the first time.
    pub loaded: u64,
    /// Ranges that were read again and compared with what is known.
    pub rereads: u64,
    /// Its size in bytes, as of the last operation handled.
    pub size: u64,
    /// Wall clock of the last operation, nanoseconds since 1970.
    pub changed_ns: i64,
}

/// All files that something happened to. There may be very many, and the status asks often for the newest.
#[derive(Debug, Default)]
struct AllFiles {
    all: BTreeMap<String, FileProgress>,
    /// The most recently changed, as many as were last asked for; empty when something has changed since.
    newest: Vec<(String, FileProgress)>,
}

/// How far a sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkProgress {
    /// Positions by stream.
    pub positions: BTreeMap<String, Position>,
    /// First lsn that isn't applied and durable in it.
    pub applied_end: u64,
    /// Images applied.
    pub images: u64,
    /// Batches applied.
    pub batches: u64,
    /// Capture time of the last event applied, nanoseconds since 1970.
    pub captured_ns: i64,
    /// Time from capture to row of the last batch, nanoseconds.
    pub lag_ns: i64,
    /// What waits for it on disk, in bytes, while others are further on.
    pub spooled_bytes: u64,
    /// Why it isn't going on, when it isn't.
    pub error: Option<String>,
    /// By file, how many of its records it lacks because it refuses them.
    pub lacking: BTreeMap<String, u64>,
    /// Files that are passed over because it refuses something of them.
    pub stopped: Vec<String>,
    /// Records kept as dead letters since the start.
    pub letters_kept: u64,
    /// Dead letters that a later change made up for since the start.
    pub letters_made_up: u64,
    /// The route to Kafka that is used, where there is one.
    pub route: Option<String>,
    /// The streams that this process applies to it, where other processes may apply others.
    pub streams: Option<Vec<String>>,
    /// Events that wait in memory to be sent to Kafka, or to be acknowledged by it.
    pub queue_events: u64,
    /// Bytes sent to Kafka and not acknowledged.
    pub queue_bytes: u64,
}

/// A thread's sign of life.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Monotonic clock of the last one.
    last_ns: AtomicU64,
    /// It waits for something that isn't ours, for as long as that takes.
    is_waiting: AtomicBool,
}

impl Pulse {
    /// The thread goes on.
    pub fn beat(&self) {
        self.last_ns.store(clock::now(), Ordering::Relaxed);
    }

    /// Does what may take as long as it takes, because of others: a target, a broker, a bounded channel.
    pub fn wait<T>(&self, work: impl FnOnce() -> T) -> T {
        self.is_waiting.store(true, Ordering::Relaxed);
        let done = work();
        self.beat();
        self.is_waiting.store(false, Ordering::Relaxed);
        done
    }

    /// For how long it hasn't gone on though it should have.
    fn silence(&self) -> Duration {
        if self.is_waiting.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let last = self.last_ns.load(Ordering::Relaxed);
        Duration::from_nanos(clock::now().saturating_sub(last))
    }
}

/// Ends seen and not reached that are remembered of a sink.
const PENDING_MAX: usize = 512;

/// Ends of the journal and when they were first seen, as far as a sink hasn't reached them. When they are many, those seen
/// within an interval become one, which makes what is told too long rather than too short, by no more than that.
#[derive(Debug, Default)]
struct Pending {
    ends: VecDeque<(Instant, u64)>,
    interval: Duration,
}

impl Pending {
    /// For how long the oldest of what isn't applied has been waiting.
    fn note(&mut self, now: Instant, end: u64, applied: u64) -> Duration {
        while self.ends.front().is_some_and(|&(_, seen)| seen <= applied) {
            self.ends.pop_front();
        }
        if self.ends.is_empty() {
            self.interval = Duration::ZERO;
        }
        if end > self.ends.back().map_or(applied, |&(_, seen)| seen) {
            self.add(now, end);
        }
        if self.ends.len() > PENDING_MAX {
            let (first, _) = self.ends[0];
            self.interval = now.saturating_duration_since(first) * 2 / PENDING_MAX as u32;
            for (seen, end) in std::mem::take(&mut self.ends) {
                self.add(seen, end);
            }
        }
        self.ends.front().map_or(Duration::ZERO, |&(since, _)| {
            now.saturating_duration_since(since)
        })
    }

    fn add(&mut self, seen: Instant, end: u64) {
        match self.ends.back_mut() {
            Some((last, until)) if seen.saturating_duration_since(*last) < self.interval => {
                *until = end;
            }
            _ => self.ends.push_back((seen, end)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding these locks, and what they guard is whole at any time.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Replaces what a subject says, and logs what it didn't say before.
fn replace(said: &Mutex<BTreeMap<String, Vec<String>>>, subject: &str, problems: &[String]) {
    let mut all = lock(said);
    let before = if problems.is_empty() {
        all.remove(subject)
    } else {
        all.insert(subject.to_owned(), problems.to_vec())
    };
    for problem in problems.iter().filter(|problem| {
        before
            .as_ref()
            .is_none_or(|before| !before.contains(problem))
    }) {
        tracing::warn!("{problem}");
    }
}

impl Progress {
    /// Asks every thread to finish.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether every thread was asked to finish.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A thread can't go on: everything stops, and this is why. The first reason stays.
    pub fn fail(&self, reason: String) {
        lock(&self.failed).get_or_insert(reason);
        self.stop();
    }

    /// What was decided at the start isn't right any more: everything stops, and is started again.
    pub fn restart(&self, reason: String) {
        lock(&self.restart).get_or_insert(reason);
        self.stop();
    }

    /// Like [`Progress::restart`], and every file is to be read and published again.
    pub fn restart_reading_again(&self, reason: String) {
        self.read_again.store(true, Ordering::SeqCst);
        self.restart(reason);
    }

    /// Whether a start again is to read every file.
    pub fn is_to_read_again(&self) -> bool {
        self.read_again.load(Ordering::SeqCst)
    }

    /// Why everything stopped, if it is to be started again.
    pub fn restart_reason(&self) -> Option<String> {
        lock(&self.restart).clone()
    }

    /// Why everything stopped, if it was for a failure.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    /// Replaces what `subject` has to complain about at present, while data flows all the same.
    pub fn set_problems(&self, subject: &str, problems: &[String]) {
        replace(&self.problems, subject, problems);
    }

    /// Replaces what keeps data from flowing at present, as far as `subject` knows.
    pub fn set_obstacles(&self, subject: &str, obstacles: &[String]) {
        replace(&self.obstacles, subject, obstacles);
    }

    /// What is wrong at present, first what keeps data from flowing.
    pub fn problems(&self) -> Vec<String> {
        let mut all = self.obstacles();
        all.extend(lock(&self.problems).values().flatten().cloned());
        all
    }

    /// What keeps data from flowing at present.
    pub fn obstacles(&self) -> Vec<String> {
        lock(&self.obstacles).values().flatten().cloned().collect()
    }

    /// The signs of life of a thread, under a name that no other thread of the half has.
    pub fn pulse(&self, thread: &str) -> Arc<Pulse> {
        let pulse = Arc::clone(lock(&self.pulses).entry(thread.to_owned()).or_default());
        pulse.beat();
        pulse
    }

    /// For how long each thread hasn't gone on though it should have.
    pub fn silences(&self) -> BTreeMap<String, Duration> {
        let pulses = lock(&self.pulses);
        let silences = pulses
            .iter()
            .map(|(name, pulse)| (name.clone(), pulse.silence()));
        silences.collect()
    }

    /// For how long the oldest of what a sink hasn't applied has been waiting, as seen by calls of this: zero when it has all.
    pub fn pending(&self, sink: &str, progress: &SinkProgress) -> Duration {
        let end = self.journal_end.load(Ordering::SeqCst);
        let mut pending = lock(&self.pending);
        let pending = pending.entry(sink.to_owned()).or_default();
        pending.note(Instant::now(), end, progress.applied_end)
    }

    /// Replaces the units of work that are open.
    pub fn set_units(&self, units: Vec<UnitProgress>) {
        lock(&self.units).open = units;
    }

    /// A unit of work was cut.
    pub fn note_cut(&self, unit: UnitProgress) {
        self.units_cut.fetch_add(1, Ordering::Relaxed);
        let cut = &mut lock(&self.units).cut;
        cut.push_back(unit);
        if cut.len() > CUTS_KEPT {
            cut.pop_front();
        }
    }

    /// Units of work that are open, and those cut lately.
    pub fn units(&self) -> (Vec<UnitProgress>, Vec<UnitProgress>) {
        let units = lock(&self.units);
        (units.open.clone(), units.cut.iter().cloned().collect())
    }

    /// So many bytes of a load are on their way into the journal.
    pub fn load_journaled(&self, bytes: usize) {
        self.loads_waiting.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    /// So many of them are published. (What a process before this one left in the journal was never counted: less than what
    /// waits may be known then, and never more.)
    pub fn load_published(&self, bytes: usize) {
        let left = |waiting: u64| Some(waiting.saturating_sub(bytes as u64));
        let _ = self
            .loads_waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
    }

    /// Bytes of loads that wait in the journal.
    pub fn loads_waiting(&self) -> u64 {
        self.loads_waiting.load(Ordering::SeqCst)
    }

    /// Changes what is known of files that are being loaded.
    pub fn update_loads(&self, change: impl FnOnce(&mut BTreeMap<String, Load>)) {
        change(&mut lock(&self.loads));
    }

    /// Files that are being loaded.
    pub fn loads(&self) -> BTreeMap<String, Load> {
        lock(&self.loads).clone()
    }

    /// What rounds of verification have found, to add to it. Holding it holds others up.
    pub fn verification(&self) -> MutexGuard<'_, Verification> {
        self.verified.store(true, Ordering::SeqCst);
        lock(&self.verification)
    }

    /// Whether it has changed since this was asked last.
    pub fn has_news_of_verification(&self) -> bool {
        self.verified.swap(false, Ordering::SeqCst)
    }

    /// The same in numbers. Of very many files they are made anew only now and then.
    pub fn verified(&self) -> (Summary, BTreeMap<String, Summary>) {
        let mut summaries = lock(&self.summaries);
        let is_old = |(at, took): &(Instant, Duration)| at.elapsed() > *took * 50;
        if summaries.0.as_ref().is_none_or(is_old) {
            let began = Instant::now();
            summaries.1 = lock(&self.verification).summaries();
            summaries.0 = Some((Instant::now(), began.elapsed()));
        }
        summaries.1.clone()
    }

    /// What they have found so far.
    pub fn verification_so_far(&self) -> Verification {
        lock(&self.verification).clone()
    }

    /// Forgets what was found of a file that is no more.
    pub fn forget_verification(&self, path: &str) {
        lock(&self.verification).forget(path);
    }

    /// Changes what is known of a sink.
    pub fn update_sink(&self, name: &str, change: impl FnOnce(&mut SinkProgress)) {
        change(lock(&self.sinks).entry(name.to_owned()).or_default());
    }

    /// All sinks.
    pub fn sinks(&self) -> BTreeMap<String, SinkProgress> {
        lock(&self.sinks).clone()
    }

    /// Replaces what is known of files.
    pub fn update_files(&self, files: impl Iterator<Item = (String, FileProgress)>) {
        let mut files = files.peekable();
        if files.peek().is_some() {
            let mut known = lock(&self.files);
            known.all.extend(files);
            known.newest.clear();
        }
    }

    /// Forgets a file that is no more.
    pub fn remove_file(&self, path: &str) {
        let mut known = lock(&self.files);
        known.all.remove(path);
        known.newest.clear();
    }

    /// The files that something happened to since the start, the most recently changed first; at most `max`.
    pub fn newest_files(&self, max: usize) -> Vec<(String, FileProgress)> {
        let mut known = lock(&self.files);
        if known.newest.len() != known.all.len().min(max) {
            let newest_first = |a: &(&String, &FileProgress), b: &(&String, &FileProgress)| {
                b.1.changed_ns.cmp(&a.1.changed_ns)
            };
            let mut files: Vec<(&String, &FileProgress)> = known.all.iter().collect();
            if files.len() > max {
                files.select_nth_unstable_by(max, newest_first);
                files.truncate(max);
            }
            files.sort_by(newest_first);
            known.newest = files
                .into_iter()
                .map(|(path, file)| (path.clone(), file.clone()))
                .collect();
        }
        known.newest.clone()
    }

    /// A program was seen changing a file without a lane telling of it. What the same program did to the same file is
    /// added up.
    pub fn note_uncaptured(&self, writer: UncapturedWriter) {
        let mut all = lock(&self.uncaptured);
        let key = (writer.program.clone(), writer.path.clone());
        let before = all.get(&key).map_or(0, |before| before.count);
        let count = before.saturating_add(writer.count);
        all.insert(key, UncapturedWriter { count, ..writer });
        if all.len() > UNCAPTURED_MAX
            && let Some(oldest) = all
                .iter()
                .min_by_key(|(_, writer)| writer.at_ns)
                .map(|(key, _)| key.clone())
        {
            all.remove(&oldest);
        }
    }

    /// Programs seen changing files without a lane telling of it, the most recent first.
    pub fn uncaptured(&self) -> Vec<UncapturedWriter> {
        let mut all: Vec<_> = lock(&self.uncaptured).values().cloned().collect();
        all.sort_by_key(|writer| std::cmp::Reverse(writer.at_ns));
        all
    }

    /// What a look at the running programs saw, now.
    pub fn set_look(&self, look: Look) {
        let mut last = lock(&self.look);
        for program in &look.programs {
            let is_known = |before: &crate::coverage::Program| {
                (before.pid, before.started) == (program.pid, program.started)
                    && before.uncaptured.is_some()
            };
            if let Some(why) = &program.uncaptured
                && !last.1.programs.iter().any(is_known)
            {
                tracing::warn!(
                    "{} (process {}) has {} open for writing and isn't captured: it {why}",
                    program.name,
                    program.pid,
                    program.files_text()
                );
            }
        }
        *last = (clock::wall(), look);
    }

    /// When running programs were last looked at, in nanoseconds since 1970 (0 for never), and what was seen.
    pub fn look(&self) -> (i64, Look) {
        lock(&self.look).clone()
    }

    /// Replaces what is known of programs with lanes.
    pub fn set_captured_programs(&self, programs: Vec<CapturedProgram>) {
        *lock(&self.captured_programs) = programs;
    }

    /// Programs with lanes, the most recently active first.
    pub fn captured_programs(&self) -> Vec<CapturedProgram> {
        let mut all = lock(&self.captured_programs).clone();
        all.sort_by_key(|program| std::cmp::Reverse((program.at_ns, program.pid)));
        all
    }

    /// First lsn that some sink still needs.
    pub fn applied_end(&self) -> u64 {
        lock(&self.sinks)
            .values()
            .map(|sink| sink.applied_end)
            .min()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncaptured_writers_are_added_up_by_program_and_file_and_the_oldest_are_forgotten() {
        let progress = Progress::default();
        let writer = |program: &str, pid, at_ns| UncapturedWriter {
            pid,
            program: program.to_owned(),
            path: "/srv/a.dat".to_owned(),
            at_ns,
            count: 2,
            ..UncapturedWriter::default()
        };
        progress.note_uncaptured(writer("vi", 7, 10));
        progress.note_uncaptured(writer("vi", 8, 20));
        let seen = progress.uncaptured();
        assert_eq!(
            seen.iter().map(|w| (w.pid, w.count)).collect::<Vec<_>>(),
            [(8, 4)]
        );
        for i in 0..UNCAPTURED_MAX as u32 {
            progress.note_uncaptured(writer(&format!("p{i}"), i, 30 + i64::from(i)));
        }
        let seen = progress.uncaptured();
        assert_eq!(seen.len(), UNCAPTURED_MAX);
        assert!(seen.iter().all(|writer| writer.program != "vi"));
        assert_eq!(seen[0].pid, UNCAPTURED_MAX as u32 - 1);
    }

    #[test]
    fn the_newest_of_many_files_are_told_and_a_change_is_noticed() {
        let progress = Progress::default();
        let file = |number: i64, changed_ns| {
            let file = FileProgress {
                changed_ns,
                ..FileProgress::default()
            };
            (format!("/srv/{number}"), file)
        };
        progress.update_files((0..100).map(|number| file(number, number)));
        let told = |max| -> Vec<String> {
            let files = progress.newest_files(max);
            files.into_iter().map(|(path, _)| path).collect()
        };
        assert_eq!(told(3), ["/srv/99", "/srv/98", "/srv/97"]);
        progress.update_files(std::iter::once(file(5, 1000)));
        assert_eq!(told(3), ["/srv/5", "/srv/99", "/srv/98"]);
        progress.remove_file("/srv/99");
        assert_eq!(told(2), ["/srv/5", "/srv/98"]);
        assert_eq!(told(1000).len(), 99);
    }

    #[test]
    fn what_waits_is_told_by_its_oldest_whatever_comes_after() {
        let mut pending = Pending::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pending.note(at(0), 5, 5), Duration::ZERO);
        assert_eq!(pending.note(at(1), 10, 5), Duration::ZERO);
        assert_eq!(pending.note(at(4), 20, 5), Duration::from_secs(3));
        // The first ten are applied; what came later has waited for less.
        assert_eq!(pending.note(at(6), 20, 10), Duration::from_secs(2));
        assert_eq!(pending.note(at(7), 20, 20), Duration::ZERO);
        for second in 8..5000 {
            pending.note(at(second), second * 10, 20);
            assert!(pending.ends.len() <= PENDING_MAX);
        }
        let oldest = pending.note(at(5000), 49_990, 20);
        assert_eq!(oldest, Duration::from_secs(4992));
        // What was put together counts from the first of it.
        let waited = pending.note(at(5000), 49_990, 25_000);
        let expected = Duration::from_secs(2499);
        assert!(
            waited >= expected && waited < expected + Duration::from_secs(40),
            "{waited:?}"
        );
    }

    #[test]
    fn what_keeps_data_from_flowing_is_a_problem_too() {
        let progress = Progress::default();
        progress.set_problems("route", &["another route is used".to_owned()]);
        assert!(progress.obstacles().is_empty());
        progress.set_obstacles("journal", &["it is full".to_owned()]);
        assert_eq!(progress.problems(), ["it is full", "another route is used"]);
        progress.set_obstacles("journal", &[]);
        assert_eq!(progress.problems(), ["another route is used"]);
    }

    #[test]
    fn a_thread_that_waits_for_others_is_not_silent() {
        let progress = Progress::default();
        let pulse = progress.pulse("apply");
        pulse.last_ns.store(0, Ordering::Relaxed);
        assert!(progress.silences()["apply"] > Duration::ZERO);
        pulse.wait(|| assert_eq!(progress.silences()["apply"], Duration::ZERO));
        assert!(progress.silences()["apply"] < Duration::from_secs(10));
    }

    #[test]
    fn operations_and_rereads_are_counted_by_kind_and_reason() {
        let progress = Progress::default();
        for kind in [Kind::Write, Kind::Write, Kind::Abort, Kind::Unknown] {
            progress.operations.count(kind);
        }
        assert_eq!(progress.operations.total(), 4);
        let by_kind = progress.operations.by_kind();
        let expected = [("abort", 1), ("unknown", 1), ("write", 2)];
        assert_eq!(
            by_kind,
            expected.map(|(kind, n)| (kind.to_owned(), n)).into()
        );
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "counters are indexed by it");
        }
        progress.rereads.count(Reason::Gap);
        progress.rereads.count(Reason::Busy);
        assert_eq!(progress.rereads.total(), 2);
        assert_eq!(progress.rereads.by_reason()["gap"], 1);
        assert_eq!(progress.rereads.by_reason()["died"], 0);
    }
}
