//! What the threads tell each other and the status about how far they are.

use counterfoil_proto::Position;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Counters shared by all threads of a replicator. Those that decide whether everything captured was applied are
/// sequentially consistent.
#[derive(Debug, Default)]
pub struct Progress {
    stopping: AtomicBool,
    failed: Mutex<Option<String>>,
    restart: Mutex<Option<String>>,
    problems: Mutex<BTreeMap<String, Vec<String>>>,
    /// Tasks asked of the checker and not finished.
    pub tasks: AtomicU64,
    /// Findings of the checker not yet in the journal or dismissed.
    pub findings: AtomicU64,
    /// Sinks need every file to be read again, and that is not through.
    pub refilling: AtomicBool,
    /// Complete looks through all directories.
    pub scans: AtomicU64,
    /// Passes of the sequencer in which every lane was empty, and nothing was waiting.
    pub drained_passes: AtomicU64,
    /// Passes of the sequencer.
    pub passes: AtomicU64,
    /// First lsn that isn't in the journal.
    pub journal_end: AtomicU64,
    /// First lsn the publisher has not handled.
    pub published_end: AtomicU64,
    /// Operations taken from lanes.
    pub operations: AtomicU64,
    /// Ranges read again because order or content was in doubt.
    pub rereads: AtomicU64,
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
    /// Units of work open.
    pub units_open: AtomicU64,
    /// Units of work cut because they were too long or too large.
    pub units_cut: AtomicU64,
    sinks: Mutex<BTreeMap<String, SinkProgress>>,
    files: Mutex<BTreeMap<String, FileProgress>>,
    uncaptured: Mutex<BTreeMap<(String, String), UncapturedWriter>>,
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

/// What happened to a file since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileProgress {
    /// Its consistency group.
    pub group: String,
    /// Operations on it.
    pub operations: u64,
    /// Events made of them.
    pub events: u64,
    /// Its size in bytes, as of the last operation handled.
    pub size: u64,
    /// Wall clock of the last operation, nanoseconds since 1970.
    pub changed_ns: i64,
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
    /// Why it isn't going on, when it isn't.
    pub error: Option<String>,
    /// The route to Kafka that is used, where there is one.
    pub route: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding these locks, and what they guard is whole at any time.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
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

    /// Why everything stopped, if it is to be started again.
    pub fn restart_reason(&self) -> Option<String> {
        lock(&self.restart).clone()
    }

    /// Why everything stopped, if it was for a failure.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    /// Replaces what `subject` has to complain about at present.
    pub fn set_problems(&self, subject: &str, problems: &[String]) {
        let mut all = lock(&self.problems);
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

    /// What is wrong at present.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.problems).values().flatten().cloned().collect()
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
        lock(&self.files).extend(files);
    }

    /// Forgets a file that is no more.
    pub fn remove_file(&self, path: &str) {
        lock(&self.files).remove(path);
    }

    /// All files that something happened to since the start.
    pub fn files(&self) -> BTreeMap<String, FileProgress> {
        lock(&self.files).clone()
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
}
