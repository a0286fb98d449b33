//! The thread that reads files: to load what isn't in the journal yet, to compare, and to settle what is in doubt.
//!
//! It reads in bounded chunks and hands each to the sequencer with the clock before and after, which orders it among the
//! programs' operations. It never holds a lock on a file and never blocks a writer.

mod entries;

use super::operation::{self, Attributes, FileKind};
use crate::progress::Progress;
use counterfoil_lane::clock;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use twox_hash::XxHash3_128;

/// Bytes read at once: of a comparison, and of content.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// Files longer than this are refused: 32 TiB, twice what ext4 can hold.
pub const FILE_BYTES_MAX: u64 = 1 << 45;

/// How often directories are looked through for new files.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);

/// What the thread is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A file that may not be in the journal: all of its content if it is new, else its checksums.
    Check {
        /// The file.
        path: Arc<[u8]>,
    },
    /// Blocks of an entry of a tree whose checksums were not as expected.
    Blocks {
        /// The file.
        path: Arc<[u8]>,
        /// Which blocks.
        blocks: Vec<u64>,
    },
    /// Content of a range; `u64::MAX` as extent for all that follows.
    Read {
        /// The file.
        path: Arc<[u8]>,
        /// First byte.
        offset: u64,
        /// How many bytes.
        extent: u64,
    },
}

/// What was found, between two readings of the clock.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub path: Arc<[u8]>,
    /// Clock before the read.
    pub begin: u64,
    /// Clock after it.
    pub end: u64,
    /// What it is.
    pub what: What,
}

/// The kinds of [`Finding`].
#[derive(Debug)]
pub enum What {
    /// Content.
    Content {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
        /// The file ends right behind.
        at_end: bool,
        /// Nothing is known of the file yet.
        load: bool,
    },
    /// A checksum.
    Sum {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// XXH3, 128 bits.
        sum: u128,
        /// The file ends right behind.
        at_end: bool,
    },
    /// The file is there, with this identity and these attributes.
    Seen {
        /// Device.
        device: u64,
        /// Inode.
        inode: u64,
        /// Kind, permissions, owner and time.
        attributes: Attributes,
        /// Size in bytes.
        size: u64,
        /// Last change of content or attributes, nanoseconds since 1970; unlike the time of modification it can't be set.
        changed_ns: i64,
    },
    /// All of an entry of a tree was read, as it was at one moment, and this is what it is.
    Complete {
        /// Device.
        device: u64,
        /// Inode.
        inode: u64,
        /// Kind, permissions, owner and time.
        attributes: Attributes,
        /// Size in bytes.
        size: u64,
        /// Last change of content or attributes, nanoseconds since 1970.
        changed_ns: i64,
    },
    /// What was read of an entry of a tree so far doesn't belong together.
    Abandoned,
    /// There is no such file.
    Missing,
    /// It can't be read; the reason is for people.
    Unreadable(String),
    /// All directories were looked through.
    Scanned,
}

/// Checksum of a range, as in [`What::Sum`].
pub fn checksum(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// The thread's state.
pub struct Checker {
    config: Arc<crate::config::Config>,
    tasks: TaskQueue,
    findings: SyncSender<Finding>,
    progress: Arc<Progress>,
    /// Files the publisher has an image of.
    known: HashSet<Arc<[u8]>>,
    /// Entries of trees among these that have not been looked at since the start.
    unchecked: HashSet<Arc<[u8]>>,
    /// Entries of trees of which checksums were sent, and of what these were.
    summed: HashMap<Arc<[u8]>, entries::Version>,
    buffer: Vec<u8>,
}

/// Hands tasks to the checker, and counts those not finished. When very many wait, further ranges of a file become one
/// comparison of all of it.
#[derive(Clone)]
pub struct Tasks {
    sender: Sender<Task>,
    /// Files whose ranges were put together, until the checker turns to them.
    whole: Arc<Mutex<HashSet<Arc<[u8]>>>>,
    progress: Arc<Progress>,
}

/// The checker's end of [`Tasks`].
pub struct TaskQueue {
    receiver: Receiver<Task>,
    whole: Arc<Mutex<HashSet<Arc<[u8]>>>>,
}

/// Tasks waiting above which ranges are put together.
const TASKS_MAX: u64 = 4096;

impl Tasks {
    /// The two ends of a queue of tasks.
    pub fn channel(progress: Arc<Progress>) -> (Tasks, TaskQueue) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let whole = Arc::default();
        let queue = TaskQueue {
            receiver,
            whole: Arc::clone(&whole),
        };
        (
            Tasks {
                sender,
                whole,
                progress,
            },
            queue,
        )
    }

    /// Asks for a task.
    pub fn ask(&self, task: Task) {
        let task = match task {
            Task::Read { path, .. } if self.progress.tasks.load(Ordering::SeqCst) >= TASKS_MAX => {
                if !lock(&self.whole).insert(Arc::clone(&path)) {
                    return;
                }
                Task::Check { path }
            }
            task => task,
        };
        self.progress.tasks.fetch_add(1, Ordering::SeqCst);
        if self.sender.send(task).is_err() {
            // The thread is gone: the replicator is stopping.
            self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl TaskQueue {
    pub(crate) fn next(&self, limit: Duration) -> Result<Task, RecvTimeoutError> {
        let task = self.receiver.recv_timeout(limit)?;
        if let Task::Check { path } = &task {
            // What is asked from now on may be of changes that this look comes too early for.
            lock(&self.whole).remove(path);
        }
        Ok(task)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A set is whole at any time, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sequencer is gone: stop.
struct Stopped;

impl Checker {
    /// Sets the thread up; `known` are the files with an image.
    pub fn new(
        config: Arc<crate::config::Config>,
        tasks: TaskQueue,
        findings: SyncSender<Finding>,
        progress: Arc<Progress>,
        known: HashSet<Arc<[u8]>>,
    ) -> Checker {
        let unchecked = known
            .iter()
            .filter(|path| config.is_static(path))
            .cloned()
            .collect();
        Checker {
            config,
            tasks,
            findings,
            progress,
            known,
            unchecked,
            summed: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Works until the sequencer is gone or everything is to stop.
    pub fn run(mut self) {
        let mut next_scan = Instant::now();
        while !self.progress.is_stopping() {
            let done = if Instant::now() >= next_scan {
                let begun = Instant::now();
                let done = self.scan();
                // Where there is much to look at, what was found is read before the next look.
                next_scan = Instant::now() + SCAN_INTERVAL.max(4 * begun.elapsed());
                done
            } else {
                match self
                    .tasks
                    .next(next_scan.saturating_duration_since(Instant::now()))
                {
                    Ok(task) => {
                        let done = self.perform(&task);
                        self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
                        done
                    }
                    Err(RecvTimeoutError::Timeout) => Ok(()),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn send(&self, path: &Arc<[u8]>, begin: u64, what: What) -> Result<(), Stopped> {
        self.progress.findings.fetch_add(1, Ordering::SeqCst);
        let finding = Finding {
            path: Arc::clone(path),
            begin,
            end: clock::now(),
            what,
        };
        self.findings.send(finding).map_err(|_| Stopped)
    }

    /// Looks through all directories.
    fn scan(&mut self) -> Result<(), Stopped> {
        let config = Arc::clone(&self.config);
        let mut problems = Vec::new();
        for found in config.scan() {
            match found {
                Ok(found) => {
                    let begin = clock::now();
                    let path: Arc<[u8]> = found.path.as_os_str().as_bytes().into();
                    match std::fs::symlink_metadata(&found.path) {
                        Ok(metadata) => self.send(&path, begin, seen(&metadata))?,
                        // It was there a moment ago: the next look will tell.
                        Err(_) => continue,
                    }
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        self.progress.set_problems("scan", &problems);
        self.send(&Arc::from(&b""[..]), clock::now(), What::Scanned)
    }

    fn perform(&mut self, task: &Task) -> Result<(), Stopped> {
        match task {
            Task::Check { path } | Task::Read { path, .. } if self.config.is_static(path) => {
                self.read_entry(path, None)
            }
            Task::Blocks { path, blocks } => self.read_entry(path, Some(blocks)),
            Task::Check { path } => {
                let load = self.known.insert(Arc::clone(path));
                self.read(path, 0, u64::MAX, load, !load)
            }
            Task::Read {
                path,
                offset,
                extent,
            } => {
                // A long range is compared first: most of it is unchanged.
                self.read(path, *offset, *extent, false, *extent > CHUNK_BYTES)
            }
        }
    }

    fn read(
        &mut self,
        path: &Arc<[u8]>,
        offset: u64,
        extent: u64,
        load: bool,
        sum: bool,
    ) -> Result<(), Stopped> {
        let begin = clock::now();
        let file = match open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.known.remove(path);
                return self.send(path, begin, What::Missing);
            }
            Err(error) => return self.send(path, begin, What::Unreadable(error.to_string())),
        };
        match file.metadata() {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                let reason = format!(
                    "it is longer than the {FILE_BYTES_MAX} bytes that a mirrored file may have"
                );
                return self.send(path, begin, What::Unreadable(reason));
            }
            Ok(metadata) if metadata.is_file() => self.send(path, begin, seen(&metadata))?,
            Ok(_) => {
                return self.send(
                    path,
                    begin,
                    What::Unreadable("it isn't a regular file".to_owned()),
                );
            }
            Err(error) => return self.send(path, begin, What::Unreadable(error.to_string())),
        }
        let end = offset.saturating_add(extent);
        let mut at = offset;
        loop {
            let len = CHUNK_BYTES.min(end - at);
            let begin = clock::now();
            let (taken, at_end) = match self.fill(&file, at, len) {
                Ok(found) => found,
                Err(error) => {
                    return self.send(
                        path,
                        begin,
                        What::Unreadable(format!("at byte {at}: {error}")),
                    );
                }
            };
            let bytes = &self.buffer[..taken];
            let what = if sum {
                What::Sum {
                    offset: at,
                    len: taken as u64,
                    sum: checksum(bytes),
                    at_end,
                }
            } else {
                What::Content {
                    offset: at,
                    bytes: bytes.to_vec(),
                    at_end,
                    load,
                }
            };
            self.send(path, begin, what)?;
            at += taken as u64;
            if at_end || at >= end {
                return Ok(());
            }
            if self.progress.is_stopping() {
                return Err(Stopped);
            }
        }
    }

    /// Reads up to `len` bytes at `offset`; says how many there were, and whether the file ends behind them.
    fn fill(&mut self, file: &File, offset: u64, len: u64) -> io::Result<(usize, bool)> {
        // One byte more than asked for tells whether the file ends here.
        let wanted = len as usize + 1;
        self.buffer.resize(wanted, 0);
        let mut taken = 0;
        while taken < wanted {
            match file.read_at(&mut self.buffer[taken..], offset + taken as u64) {
                Ok(0) => break,
                Ok(more) => taken += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((taken.min(len as usize), taken < wanted))
    }
}

fn open(path: &[u8]) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOATIME)
        .open(Path::new(std::ffi::OsStr::from_bytes(path)))
        .or_else(|error| match error.raw_os_error() {
            // O_NOATIME is for the owner only.
            Some(libc::EPERM) => std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(Path::new(std::ffi::OsStr::from_bytes(path))),
            _ => Err(error),
        })
}

fn seen(metadata: &std::fs::Metadata) -> What {
    What::Seen {
        device: metadata.dev(),
        inode: metadata.ino(),
        attributes: Attributes {
            kind: kind_of(metadata),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        },
        size: metadata.len(),
        changed_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
    }
}

pub(super) fn kind_of(metadata: &std::fs::Metadata) -> FileKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Link
    } else {
        FileKind::Regular
    }
}

impl What {
    /// What the journal keeps of it, when it is kept.
    pub(super) fn action(&self) -> Option<operation::Action<'_>> {
        Some(match *self {
            What::Content {
                offset,
                ref bytes,
                at_end,
                load,
            } => operation::Action::Found {
                offset,
                bytes,
                at_end,
                load,
            },
            What::Sum {
                offset,
                len,
                sum,
                at_end,
            } => operation::Action::Summed {
                offset,
                len,
                sum,
                at_end,
            },
            What::Complete { attributes, .. } => operation::Action::Attributes(attributes),
            What::Abandoned => operation::Action::Abandoned,
            What::Seen { .. } | What::Missing | What::Unreadable(_) | What::Scanned => return None,
        })
    }
}
