//! Status: what a running replicator says of itself, and how others read it.
//!
//! The replicator replaces `status.json` in its state directory a few times a second while it has news, else once. That needs no port and no
//! permission beyond reading the directory, and it tells even of a replicator that is no more.

use crate::config::Config;
use crate::coverage::{FILES_MAX as OPEN_FILES_MAX, padded_text};
use crate::progress::{CapturedProgram, Load, Progress, SinkProgress, UnitProgress, Way};
use crate::verification::Summary;
use counterfoil_lane::clock;
use counterfoil_lane::reader::Segment;
use counterfoil_lane::segment::MODE_PATCHED;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A status older than this is of a replicator that hangs.
pub const FRESH_NS: i64 = 5_000_000_000;

/// Files listed; the status is written several times a second.
pub const FILES_MAX: usize = 1000;

/// Captured programs listed.
pub const PROGRAMS_MAX: usize = 200;

/// A program that changed a file uncaptured is a problem for so long after it last did.
pub const UNCAPTURED_RECENT_NS: i64 = 300_000_000_000;
/// Units of work listed, and files of each.
pub const UNITS_MAX: usize = 100;
/// See [`UNITS_MAX`].
pub const UNIT_FILES_MAX: usize = 10;
/// How long a unit is open before it is worth a line.
const LONG_UNIT_NS: i64 = 1_000_000_000;

/// What a replicator says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the site.
    pub site: String,
    /// Process id.
    pub pid: u32,
    /// When it started, nanoseconds since 1970.
    pub started_ns: i64,
    /// When this was written, nanoseconds since 1970.
    pub written_ns: i64,
    /// It has stopped.
    pub stopped: bool,
    /// Captured programs that are known.
    pub programs: u64,
    /// Their lanes.
    pub lanes: u64,
    /// Bytes of the lanes' files.
    #[serde(default)]
    pub lane_bytes: u64,
    /// Programs that wait for room in their lanes (`on_backlog = "block"`).
    #[serde(default)]
    pub programs_waiting: u64,
    /// Operations taken from lanes since the start.
    pub operations: u64,
    /// Events published since the start.
    pub events: u64,
    /// Ranges of files read again because order or content was in doubt, since the start.
    pub rereads: u64,
    /// Files and ranges waiting to be read.
    pub reads_waiting: u64,
    /// Every file is being read again, since a target couldn't be brought up otherwise.
    #[serde(default)]
    pub refilling: bool,
    /// Units of work open.
    pub units_open: u64,
    /// Units of work cut because they were too long or too large, since the start.
    pub units_cut: u64,
    /// Units of work that have been open for longer than a second, the oldest first; at most [`UNITS_MAX`].
    #[serde(default)]
    pub units: Vec<UnitStatus>,
    /// Those cut last.
    #[serde(default)]
    pub units_cut_last: Vec<UnitStatus>,
    /// Bytes in the journal.
    pub journal_bytes: u64,
    /// First lsn that isn't in the journal.
    pub journal_end: u64,
    /// First lsn that isn't published.
    pub published_end: u64,
    /// By which way changes came, and who writes.
    #[serde(default)]
    pub coverage: Coverage,
    /// Files that are being read for the first time, or again from the beginning; at most [`FILES_MAX`].
    #[serde(default)]
    pub loads: Vec<LoadStatus>,
    /// What the last rounds of verification have found: files as compared with what was captured of them.
    #[serde(default)]
    pub verified: Summary,
    /// Each target.
    pub sinks: BTreeMap<String, SinkStatus>,
    /// Files that something happened to since the start, the most recently changed first; at most [`FILES_MAX`].
    #[serde(default)]
    pub files: Vec<FileStatus>,
    /// What is wrong at present.
    pub problems: Vec<String>,
    /// Those of them that keep data from flowing.
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// Where metrics are served, as URLs.
    #[serde(default)]
    pub metrics: Vec<String>,
}

/// By which way changes came since the start, and which programs write now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Operations taken from lanes, by kind.
    pub operations: BTreeMap<String, u64>,
    /// Records that captured programs wrote.
    pub records_captured: u64,
    /// Records in blocks that were found to be other than known when their file was read again.
    pub records_found: u64,
    /// Records from when their file was read for the first time.
    pub records_loaded: u64,
    /// Ranges that were to be read again, by reason.
    pub rereads: BTreeMap<String, u64>,
    /// Ranges read again that were as they were known.
    pub compared_equal: u64,
    /// Ranges read again that differed from what was known.
    pub compared_different: u64,
    /// Captured programs, the most recently active first; at most [`PROGRAMS_MAX`].
    pub programs: Vec<ProgramStatus>,
    /// Programs that have files open for writing, or changed some, without being captured.
    pub uncaptured: Vec<UncapturedStatus>,
    /// When running programs were last looked at, nanoseconds since 1970; 0 for never.
    pub looked_ns: i64,
    /// Processes that the replicator's user may not look into.
    pub processes_hidden: u64,
}

/// A captured program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Its process id, as it sees it itself (in a container, not what the host sees).
    pub pid: u32,
    /// Its name.
    pub program: String,
    /// Release of its interposer.
    pub release: String,
    /// Revision of its interposer.
    pub revision: u32,
    /// How it is captured: `patched` (all of libc) or `symbols` (what stdio flushes isn't seen).
    pub mode: String,
    /// How many lanes it has.
    pub lanes: u64,
    /// Operations taken from them since the start.
    pub operations: u64,
    /// Wall clock of the last of them, nanoseconds since 1970; 0 for none.
    pub last_ns: i64,
}

/// A program that isn't captured and has a file open for writing, or changed one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UncapturedStatus {
    /// Its process id; 0 when not known.
    pub pid: u32,
    /// Its name; empty when not known.
    pub program: String,
    /// Path of its executable, or empty.
    pub executable: String,
    /// Files it has open, or changed; not all if they are many.
    pub files: Vec<String>,
    /// How many more files.
    pub files_more: usize,
    /// It has them open for writing now.
    pub open: bool,
    /// Why it isn't captured, in one word, when that is known.
    pub reason: Option<String>,
    /// The same in words.
    pub why: Option<String>,
    /// How often it was seen changing a file.
    pub changes: u64,
    /// When it was last seen doing so, nanoseconds since 1970; 0 for never.
    pub last_ns: i64,
}

/// A unit of work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitStatus {
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
    /// Files it changed or locked, as text for people; at most [`UNIT_FILES_MAX`].
    pub files: Vec<String>,
}

/// What happened to a file since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The file, as text for people.
    pub path: String,
    /// Its consistency group.
    pub group: String,
    /// Operations on it.
    pub operations: u64,
    /// Events made of them.
    pub events: u64,
    /// Records that captured programs wrote.
    #[serde(default)]
    pub captured: u64,
    /// Records in blocks that were found to be other than known when it was read again.
    #[serde(default)]
    pub found: u64,
    /// Records from when it was read for the first time.
    #[serde(default)]
    pub loaded: u64,
    /// Ranges that were read again and compared with what is known.
    #[serde(default)]
    pub rereads: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Wall clock of the last operation, nanoseconds since 1970.
    pub changed_ns: i64,
}

/// A file that is being read for the first time, or again from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// The file, as text for people.
    pub path: String,
    /// How many bytes of it are read.
    pub read: u64,
    /// Its size in bytes.
    pub size: u64,
    /// How fast, on the whole, in bytes per second.
    pub bytes_per_second: u64,
    /// For how long it goes on at this pace, in seconds, once there is one.
    pub seconds_left: Option<u64>,
}

impl LoadStatus {
    fn of(progress: &Progress) -> Vec<LoadStatus> {
        let loads = progress.loads().into_iter().take(FILES_MAX);
        let of = |(path, load): (String, Load)| {
            let pace = load.bytes_per_second();
            LoadStatus {
                path,
                read: load.read,
                size: load.size,
                bytes_per_second: pace as u64,
                seconds_left: (pace > 1.0)
                    .then(|| ((load.size - load.read) as f64 / pace).ceil() as u64),
            }
        };
        loads.map(of).collect()
    }
}

/// How a target is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Position per stream, as `epoch/lsn`.
    pub positions: BTreeMap<String, String>,
    /// First lsn that isn't applied.
    pub applied_end: u64,
    /// Record images applied since the start.
    pub images: u64,
    /// Batches applied since the start.
    pub batches: u64,
    /// Operations in the journal that aren't applied.
    pub operations_behind: u64,
    /// Time from the end of a program's call to the row, of the last batch, in milliseconds.
    pub lag_ms: f64,
    /// What waits for it on disk, in bytes, while others are further on.
    #[serde(default)]
    pub spooled_bytes: u64,
    /// For how long the oldest of what isn't applied has been waiting, in milliseconds, as far as this process has seen.
    #[serde(default)]
    pub pending_ms: f64,
    /// Why it doesn't go on, if it doesn't.
    pub error: Option<String>,
    /// By file, as text for people, how many of its records the target lacks because it refuses them; at most [`FILES_MAX`]
    /// files.
    #[serde(default)]
    pub lacking: BTreeMap<String, u64>,
    /// Records that it lacks because it refuses them, of all files.
    #[serde(default)]
    pub letters_open: u64,
    /// Records kept as dead letters since the start.
    #[serde(default)]
    pub letters_kept: u64,
    /// Dead letters that a later change made up for since the start.
    #[serde(default)]
    pub letters_made_up: u64,
    /// Files, as text for people, that are passed over because it refuses something of them.
    #[serde(default)]
    pub stopped: Vec<String>,
    /// What the last rounds of verification have found: what it has, compared with what was captured.
    #[serde(default)]
    pub verified: Summary,
    /// The route to Kafka that is used, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The streams that this process applies, where others may apply the rest; none: it is a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<String>>,
    /// Events in memory on their way to Kafka.
    #[serde(default)]
    pub queue_events: u64,
    /// Bytes sent to Kafka and not acknowledged.
    #[serde(default)]
    pub queue_bytes: u64,
}

impl Status {
    /// The status as of now.
    pub fn of(config: &Config, progress: &Progress, started_ns: i64) -> Status {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let journal_end = get(&progress.journal_end);
        let (open, cut) = progress.units();
        let now = clock::wall();
        let mut problems = progress.problems();
        problems.extend(progress.failure());
        let (verified, mut targets_verified) = progress.verified();
        Status {
            site: config.site.name.clone(),
            pid: std::process::id(),
            started_ns,
            written_ns: now,
            stopped: false,
            programs: get(&progress.programs),
            lanes: get(&progress.lanes),
            lane_bytes: get(&progress.lane_bytes),
            programs_waiting: get(&progress.programs_waiting),
            operations: progress.operations.total(),
            events: get(&progress.events),
            rereads: progress.rereads.total(),
            reads_waiting: get(&progress.tasks),
            refilling: progress.refilling.load(Ordering::Relaxed),
            units_open: open.len() as u64,
            units_cut: get(&progress.units_cut),
            units: UnitStatus::of(open, now - LONG_UNIT_NS),
            units_cut_last: UnitStatus::of(cut, now),
            journal_bytes: get(&progress.journal_bytes),
            journal_end,
            published_end: get(&progress.published_end),
            coverage: Coverage::of(progress),
            loads: LoadStatus::of(progress),
            verified,
            sinks: progress
                .sinks()
                .into_iter()
                .map(|(name, sink)| {
                    let pending = progress.pending(&name, &sink);
                    let verified = targets_verified.remove(&name).unwrap_or_default();
                    let of = SinkStatus::of(&sink, journal_end, pending);
                    (name, SinkStatus { verified, ..of })
                })
                .collect(),
            files: FileStatus::of(progress),
            problems,
            obstacles: progress.obstacles(),
            metrics: Vec::new(),
        }
    }

    /// Adds what another half says.
    pub fn join(&mut self, other: Status) {
        let Status {
            written_ns,
            events,
            sinks,
            problems,
            obstacles,
            metrics,
            ..
        } = other;
        self.written_ns = self.written_ns.max(written_ns);
        self.events += events;
        self.sinks.extend(sinks);
        self.problems.extend(problems);
        self.obstacles.extend(obstacles);
        self.metrics.extend(metrics);
    }

    /// Writes it where others look for it. It need not survive a power cut, only never be half there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(path, &text)
    }

    /// Reads what a replicator wrote; `None` when none ever did, or it can't be read.
    pub fn read(path: &Path) -> io::Result<Option<Status>> {
        match std::fs::read(path) {
            // One that can't be read is of another version, or was damaged: the next replicator writes it anew.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything that is wrong, of the targets and of programs that aren't captured too.
    pub fn all_problems(&self) -> Vec<String> {
        let sinks = self.sinks.values().filter_map(|sink| sink.error.clone());
        let unequal = self.sinks.iter().filter_map(|(name, sink)| {
            let whose = format!("what sink {name} has of files");
            sink.verified.problem(&whose)
        });
        let problems = self.problems.iter().cloned().chain(sinks).chain(unequal);
        problems
            .chain(self.coverage.problems(self.written_ns))
            .collect()
    }
}

/// Puts other text into a file that is read by whoever likes, at any moment.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text)?;
    std::fs::rename(&beside, path)
}

impl Coverage {
    fn of(progress: &Progress) -> Coverage {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let programs = progress.captured_programs();
        let programs = programs.iter().take(PROGRAMS_MAX).map(ProgramStatus::of);
        let (looked_ns, look) = progress.look();
        Coverage {
            operations: progress.operations.by_kind(),
            records_captured: progress.records.of(Way::Captured),
            records_found: progress.records.of(Way::Found),
            records_loaded: progress.records.of(Way::Loaded),
            rereads: progress.rereads.by_reason(),
            compared_equal: get(&progress.compared_equal),
            compared_different: get(&progress.compared_different),
            programs: programs.collect(),
            processes_hidden: look.hidden,
            uncaptured: UncapturedStatus::of(progress, look),
            looked_ns,
        }
    }

    /// What is wrong with the programs that aren't captured, as of a time.
    fn problems(&self, now_ns: i64) -> Vec<String> {
        const TOLD_MAX: usize = 10;
        let current: Vec<&UncapturedStatus> = self
            .uncaptured
            .iter()
            .filter(|program| program.open || now_ns - program.last_ns < UNCAPTURED_RECENT_NS)
            .collect();
        let told = current
            .iter()
            .take(TOLD_MAX)
            .map(|program| program.problem());
        let more = current.len().saturating_sub(TOLD_MAX);
        let more = (more > 0).then(|| format!("and {more} more programs that aren't captured"));
        told.chain(more).collect()
    }
}

impl ProgramStatus {
    fn of(program: &CapturedProgram) -> ProgramStatus {
        let mode = if program.mode & MODE_PATCHED != 0 {
            "patched"
        } else {
            "symbols"
        };
        ProgramStatus {
            pid: program.pid,
            program: padded_text(&program.program),
            release: padded_text(&program.release),
            revision: program.revision,
            mode: mode.to_owned(),
            lanes: program.lanes,
            operations: program.operations,
            last_ns: program.at_ns,
        }
    }
}

impl UncapturedStatus {
    /// Programs that have files open, and those that were seen changing some, as one list: a program is in it once.
    fn of(progress: &Progress, look: crate::coverage::Look) -> Vec<UncapturedStatus> {
        let mut all: Vec<UncapturedStatus> = Vec::new();
        for program in look.programs {
            let Some(why) = program.uncaptured else {
                continue;
            };
            all.push(UncapturedStatus {
                pid: program.pid,
                program: program.name,
                executable: program.executable,
                files: program.files.into_iter().map(|file| file.path).collect(),
                files_more: program.files_more,
                open: true,
                reason: Some(why.word().to_owned()),
                why: Some(why.to_string()),
                changes: 0,
                last_ns: 0,
            });
        }
        for writer in progress.uncaptured() {
            let known = all
                .iter()
                .position(|known| known.pid == writer.pid && known.program == writer.program);
            let at = known.unwrap_or_else(|| {
                all.push(UncapturedStatus {
                    pid: writer.pid,
                    program: writer.program.clone(),
                    executable: writer.executable.clone(),
                    ..UncapturedStatus::default()
                });
                all.len() - 1
            });
            let program = &mut all[at];
            program.changes = program.changes.saturating_add(writer.count);
            program.last_ns = program.last_ns.max(writer.at_ns);
            if program.files.contains(&writer.path) {
                continue;
            }
            if program.files.len() < OPEN_FILES_MAX {
                program.files.push(writer.path);
            } else {
                program.files_more += 1;
            }
        }
        all.sort_by_key(|program| {
            (
                !program.open,
                std::cmp::Reverse(program.last_ns),
                program.pid,
            )
        });
        all
    }

    /// The program in words.
    pub fn who(&self) -> String {
        who(&self.program, self.pid)
    }

    fn problem(&self) -> String {
        let first = self.files.first().map_or("a file", String::as_str);
        let more = match self.files.len().saturating_sub(1) + self.files_more {
            0 => String::new(),
            1 => " and another file".to_owned(),
            more => format!(" and {more} more files"),
        };
        let what = match (self.open, self.last_ns != 0) {
            (true, true) => "changes",
            (true, false) => "has open for writing",
            (false, _) => "changed",
        };
        let who = self.who();
        let why = match &self.why {
            Some(why) => format!(": it {why}"),
            None => String::new(),
        };
        format!("{who} {what} {first}{more} without being captured{why}")
    }
}

impl UnitStatus {
    /// Units that began before a time.
    fn of(units: Vec<UnitProgress>, before_ns: i64) -> Vec<UnitStatus> {
        let mut units: Vec<UnitStatus> = units
            .into_iter()
            .filter(|unit| unit.began_ns <= before_ns)
            .map(|unit| UnitStatus {
                group: unit.group,
                pid: unit.pid,
                program: unit.program,
                began_ns: unit.began_ns,
                cuts: unit.cuts,
                files: unit.files.into_iter().take(UNIT_FILES_MAX).collect(),
            })
            .collect();
        units.sort_by_key(|unit| unit.began_ns);
        units.truncate(UNITS_MAX);
        units
    }
}

impl FileStatus {
    fn of(progress: &Progress) -> Vec<FileStatus> {
        progress
            .newest_files(FILES_MAX)
            .into_iter()
            .map(|(path, file)| FileStatus {
                path,
                group: file.group,
                operations: file.operations,
                events: file.events,
                captured: file.captured,
                found: file.found,
                loaded: file.loaded,
                rereads: file.rereads,
                size: file.size,
                changed_ns: file.changed_ns,
            })
            .collect()
    }
}

impl SinkStatus {
    fn of(sink: &SinkProgress, journal_end: u64, pending: Duration) -> SinkStatus {
        SinkStatus {
            positions: sink
                .positions
                .iter()
                .map(|(stream, position)| {
                    (
                        stream.clone(),
                        format!("{}/{}", position.epoch, position.lsn),
                    )
                })
                .collect(),
            applied_end: sink.applied_end,
            images: sink.images,
            batches: sink.batches,
            operations_behind: journal_end.saturating_sub(sink.applied_end),
            lag_ms: sink.lag_ns as f64 / 1e6,
            spooled_bytes: sink.spooled_bytes,
            pending_ms: pending.as_secs_f64() * 1e3,
            queue_events: sink.queue_events,
            queue_bytes: sink.queue_bytes,
            error: sink.error.clone(),
            lacking: sink
                .lacking
                .iter()
                .take(FILES_MAX)
                .map(|(file, &records)| (file.clone(), records))
                .collect(),
            letters_open: sink.lacking.values().sum(),
            letters_kept: sink.letters_kept,
            letters_made_up: sink.letters_made_up,
            stopped: sink.stopped.clone(),
            verified: Summary::default(),
            route: sink.route.clone(),
            streams: sink.streams.clone(),
        }
    }
}

/// Programs that wait for room in their lanes, for when no replicator runs.
pub fn waiting_programs(lanes: &Path) -> u64 {
    let entries = std::fs::read_dir(lanes).into_iter().flatten().flatten();
    let waiting: BTreeSet<u64> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "lane")
        })
        .filter_map(|path| Segment::open(&path).ok())
        .filter(|segment| segment.waiting_since().is_some())
        .map(|segment| segment.writer().process)
        .collect();
    waiting.len() as u64
}

/// A program that may not be known, in words.
fn who(program: &str, pid: u32) -> String {
    match pid {
        0 => "a program that isn't known".to_owned(),
        _ => format!("{program} (process {pid})"),
    }
}

/// Bytes of captured operations that wait in lanes, for when no replicator runs.
pub fn waiting_bytes(lanes: &Path) -> u64 {
    let entries = std::fs::read_dir(lanes).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "lane")
        })
        .filter_map(|path| Segment::open(&path).ok())
        .filter(|segment| !segment.is_free())
        .map(|segment| segment.tail().saturating_sub(segment.consumed()) as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::{Look, OpenFile, Program, Why};
    use crate::progress::UncapturedWriter;

    fn open(pid: u32, uncaptured: Option<Why>) -> Program {
        Program {
            pid,
            started: 5,
            name: "loader".to_owned(),
            executable: "/bin/loader".to_owned(),
            uid: 0,
            files: vec![OpenFile {
                path: "/srv/a.dat".to_owned(),
                is_mapping: false,
            }],
            files_more: 0,
            uncaptured,
        }
    }

    fn wrote(pid: u32, path: &str, at_ns: i64) -> UncapturedWriter {
        UncapturedWriter {
            pid,
            program: "loader".to_owned(),
            path: path.to_owned(),
            at_ns,
            count: 1,
            ..UncapturedWriter::default()
        }
    }

    #[test]
    fn who_has_files_open_and_who_changed_some_become_one_list() {
        let progress = Progress::default();
        progress.set_look(Look {
            programs: vec![open(7, Some(Why::Static)), open(8, None)],
            hidden: 2,
        });
        progress.note_uncaptured(wrote(7, "/srv/a.dat", 1000));
        progress.note_uncaptured(wrote(7, "/srv/b.dat", 2000));
        progress.note_uncaptured(wrote(9, "/srv/c.dat", 500));
        let coverage = Coverage::of(&progress);
        let seen: Vec<_> = coverage
            .uncaptured
            .iter()
            .map(|program| (program.pid, program.open, program.changes, program.last_ns))
            .collect();
        assert_eq!(seen, [(7, true, 2, 2000), (9, false, 1, 500)]);
        assert_eq!(coverage.uncaptured[0].files, ["/srv/a.dat", "/srv/b.dat"]);
        assert_eq!(coverage.processes_hidden, 2);
    }

    #[test]
    fn a_writer_is_a_problem_while_it_has_a_file_open_and_for_a_while_after_its_last_change() {
        let progress = Progress::default();
        progress.note_uncaptured(wrote(9, "/srv/c.dat", 500));
        let problems = Coverage::of(&progress).problems(500 + UNCAPTURED_RECENT_NS - 1);
        assert_eq!(
            problems,
            ["loader (process 9) changed /srv/c.dat without being captured"]
        );
        let late = 500 + UNCAPTURED_RECENT_NS;
        assert!(Coverage::of(&progress).problems(late).is_empty());
        progress.set_look(Look {
            programs: vec![open(7, Some(Why::Static))],
            hidden: 0,
        });
        let problems = Coverage::of(&progress).problems(late);
        assert!(problems.len() == 1 && problems[0].contains("it is statically linked"));
        // Many become few lines.
        progress.set_look(Look {
            programs: (1..=30).map(|pid| open(pid, Some(Why::Static))).collect(),
            hidden: 0,
        });
        let problems = Coverage::of(&progress).problems(late);
        assert!(
            problems.len() == 11 && problems[10].contains("20 more"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_status_of_an_earlier_release_can_be_read() {
        let progress = Progress::default();
        let coverage = serde_json::to_value(Coverage::of(&progress)).unwrap();
        let mut status = serde_json::to_value(Status::default()).unwrap();
        status.as_object_mut().unwrap().remove("coverage");
        let status: Status = serde_json::from_value(status).unwrap();
        assert_eq!(status.coverage, Coverage::default());
        assert!(coverage["rereads"]["overlap"].is_u64());
    }
}
