//! Status: what a running replicator says of itself, and how others read it.
//!
//! The replicator replaces `status.json` in its state directory a few times a second. That needs no port and no
//! permission beyond reading the directory, and it tells even of a replicator that is no more.

use crate::config::Config;
use crate::progress::{Progress, SinkProgress};
use counterfoil_lane::clock;
use counterfoil_lane::reader::Segment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

/// A status older than this is of a replicator that hangs.
pub const FRESH_NS: i64 = 5_000_000_000;

/// Files listed; the status is written several times a second.
pub const FILES_MAX: usize = 1000;

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
    /// Operations taken from lanes since the start.
    pub operations: u64,
    /// Events published since the start.
    pub events: u64,
    /// Ranges of files read again because order or content was in doubt, since the start.
    pub rereads: u64,
    /// Files and ranges waiting to be read.
    pub reads_waiting: u64,
    /// Units of work open.
    pub units_open: u64,
    /// Units of work cut because they were too long or too large, since the start.
    pub units_cut: u64,
    /// Bytes in the journal.
    pub journal_bytes: u64,
    /// First lsn that isn't in the journal.
    pub journal_end: u64,
    /// First lsn that isn't published.
    pub published_end: u64,
    /// Each target.
    pub sinks: BTreeMap<String, SinkStatus>,
    /// Files that something happened to since the start, the most recently changed first; at most [`FILES_MAX`].
    #[serde(default)]
    pub files: Vec<FileStatus>,
    /// What is wrong at present.
    pub problems: Vec<String>,
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
    /// Its size in bytes.
    pub size: u64,
    /// Wall clock of the last operation, nanoseconds since 1970.
    pub changed_ns: i64,
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
    /// Why it doesn't go on, if it doesn't.
    pub error: Option<String>,
    /// The route to Kafka that is used, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

impl Status {
    /// The status as of now.
    pub fn of(config: &Config, progress: &Progress, started_ns: i64) -> Status {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let journal_end = get(&progress.journal_end);
        let mut problems = progress.problems();
        problems.extend(progress.failure());
        Status {
            site: config.site.name.clone(),
            pid: std::process::id(),
            started_ns,
            written_ns: clock::wall(),
            stopped: false,
            programs: get(&progress.programs),
            lanes: get(&progress.lanes),
            operations: get(&progress.operations),
            events: get(&progress.events),
            rereads: get(&progress.rereads),
            reads_waiting: get(&progress.tasks),
            units_open: get(&progress.units_open),
            units_cut: get(&progress.units_cut),
            journal_bytes: get(&progress.journal_bytes),
            journal_end,
            published_end: get(&progress.published_end),
            sinks: progress
                .sinks()
                .into_iter()
                .map(|(name, sink)| (name, SinkStatus::of(&sink, journal_end)))
                .collect(),
            files: FileStatus::of(progress),
            problems,
        }
    }

    /// Adds what another half says.
    pub fn join(&mut self, other: Status) {
        let Status {
            written_ns,
            events,
            sinks,
            problems,
            ..
        } = other;
        self.written_ns = self.written_ns.max(written_ns);
        self.events += events;
        self.sinks.extend(sinks);
        self.problems.extend(problems);
    }

    /// Writes it where others look for it. It need not survive a power cut, only never be half there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("json.new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        std::fs::rename(&beside, path)
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

    /// Everything that is wrong, of the targets too.
    pub fn all_problems(&self) -> Vec<String> {
        let sinks = self.sinks.values().filter_map(|sink| sink.error.clone());
        self.problems.iter().cloned().chain(sinks).collect()
    }
}

impl FileStatus {
    fn of(progress: &Progress) -> Vec<FileStatus> {
        let mut files: Vec<FileStatus> = progress
            .files()
            .into_iter()
            .map(|(path, file)| FileStatus {
                path,
                group: file.group,
                operations: file.operations,
                events: file.events,
                size: file.size,
                changed_ns: file.changed_ns,
            })
            .collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.changed_ns));
        files.truncate(FILES_MAX);
        files
    }
}

impl SinkStatus {
    fn of(sink: &SinkProgress, journal_end: u64) -> SinkStatus {
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
            error: sink.error.clone(),
            route: sink.route.clone(),
        }
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
