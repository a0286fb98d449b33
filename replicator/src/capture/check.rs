//! The thread that looks at files: which there are, what changed, and what is in them.
//!
//! It looks where the kernel says that something happened (`looking`, with `capture::watch`), through all directories at
//! the start, now and then, and whenever something may have been missed; it reads what isn't in the journal yet, compares,
//! and settles what is in doubt (`reading`, in `turns`). It reads in bounded chunks and hands each to the sequencer
//! with the clock before and after, which orders it among the programs' operations. It never holds a lock on a file and
//! never blocks a writer.

mod asked;
mod entries;
mod loads;
mod looking;
mod reading;
mod turns;
mod verifying;

use super::operation::{self, Attributes, FileKind};
use super::watch::{Inbox, Toucher, Watch};
use crate::progress::{Progress, Pulse};
use crate::requests::{self, Requests};
use loads::{Loads, Waiting};
use looking::Directories;
use reading::Reading;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use turns::{Next, Turns};
use twox_hash::XxHash3_128;
use verifying::Verifying;

/// Bytes read at once: of a comparison, and of content.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// Files longer than this are refused: 32 TiB, twice what ext4 can hold.
pub const FILE_BYTES_MAX: u64 = 1 << 45;

/// How long the thread sleeps at most.
const NAP: Duration = requests::LOOK;

/// What the thread is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A file that may not be in the journal: all of its content if it is new, else its checksums.
    Check {
        /// The file.
        path: Arc<[u8]>,
    },
    /// A file that is in the journal, though this thread has not read it: its checksums.
    Compare {
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
    /// Like `Check`, but left when the file was compared within `pause`, or within a multiple of what that took.
    Recheck {
        /// The file.
        path: Arc<[u8]>,
        /// For how long one comparison is enough.
        pause: Duration,
    },
    /// A round of verification goes through the file.
    Verify {
        /// The file.
        path: Arc<[u8]>,
        /// Which round.
        round: u64,
    },
    /// Sinks are to be told again what is in a range of identities; `u64::MAX` as end: all that follow.
    Restate {
        /// The file.
        path: Arc<[u8]>,
        /// Which records.
        ids: std::ops::Range<u64>,
    },
    /// What a file is and how it looks, without its content.
    Look {
        /// The file.
        path: Arc<[u8]>,
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
    /// Device and inode of what was read; its path may stand for another file by now.
    pub file: Option<(u64, u64)>,
    /// With this, all of the file was read.
    pub completes: bool,
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
    /// A range as part of a round of verification.
    Verified(operation::Verified),
    /// Somebody asks for sinks to be told again what is in this range of identities.
    Restate(std::ops::Range<u64>),
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
    /// The kernel says that these did something to it.
    Touched {
        /// Who, and what.
        by: Vec<Touch>,
        /// Clock when the first of it was told.
        since: u64,
    },
    /// All directories were looked through.
    Scanned {
        /// The files that are there.
        present: HashSet<Arc<[u8]>>,
    },
}

/// What somebody did to a file, according to the kernel.
#[derive(Debug)]
pub struct Touch {
    /// Who it was, where the kernel says so.
    pub who: Option<Arc<Toucher>>,
    /// Changed its content or size.
    pub wrote: bool,
    /// Closed it, and could have written before.
    pub closed: bool,
    /// Made, removed or renamed it.
    pub named: bool,
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
    pulse: Arc<Pulse>,
    progress: Arc<Progress>,
    /// Files the publisher has an image of.
    known: HashSet<Arc<[u8]>>,
    /// Entries of trees among these that have not been looked at since the start.
    unchecked: HashSet<Arc<[u8]>>,
    /// Entries of trees of which checksums were sent, and of what these were.
    summed: HashMap<Arc<[u8]>, entries::Version>,
    buffer: Vec<u8>,
    turns: Turns<Reading>,
    inbox: Arc<Inbox>,
    /// A [`Message::Told`] is on its way.
    is_woken: Arc<AtomicBool>,
    directories: Directories,
    loads: Loads,
    verifying: Verifying,
    requests: Requests,
}

/// Hands tasks to the checker, and counts those not finished. When very many wait, further ranges of a file become one
/// comparison of all of it.
#[derive(Clone)]
pub struct Tasks {
    sender: Sender<Message>,
    /// Files whose ranges were put together, until the checker turns to them.
    whole: Arc<Mutex<HashSet<Arc<[u8]>>>>,
    progress: Arc<Progress>,
}

/// What wakes the checker.
enum Message {
    Task(Task),
    /// The kernel told something.
    Told,
}

/// The checker's end of [`Tasks`].
pub struct TaskQueue {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
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
            sender: Sender::clone(&sender),
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
        if self.sender.send(Message::Task(task)).is_err() {
            // The thread is gone: the replicator is stopping.
            self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
impl TaskQueue {
    /// The next task that was asked for.
    pub(crate) fn next(&self) -> Option<Task> {
        self.receiver.try_iter().find_map(|message| match message {
            Message::Task(task) => Some(task),
            Message::Told => None,
        })
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
        let directories = Directories::new(&config, Watch::start(Arc::clone(&progress)));
        let unchecked = known
            .iter()
            .filter(|path| config.is_static(path))
            .cloned()
            .collect();
        Checker {
            loads: Loads::new(
                Arc::clone(&progress),
                config.load.bytes_per_second,
                Instant::now(),
            ),
            verifying: Verifying::new(&config.verify, Instant::now()),
            requests: Requests::at(config.site.requests_path()),
            config,
            tasks,
            findings,
            pulse: progress.pulse("check"),
            progress,
            known,
            unchecked,
            summed: HashMap::new(),
            buffer: Vec::new(),
            turns: Turns::new(),
            inbox: Arc::default(),
            is_woken: Arc::default(),
            directories,
        }
    }

    /// Works until the sequencer is gone or everything is to stop.
    pub fn run(mut self) {
        let sender = Sender::clone(&self.tasks.sender);
        let is_woken = Arc::clone(&self.is_woken);
        let listening = self.directories.watch().listen(&self.inbox, move || {
            // Once is enough until it looks. Nobody is there to be woken once everything stops.
            if !is_woken.swap(true, Ordering::SeqCst) {
                let _ = sender.send(Message::Told);
            }
        });
        if let Err(error) = listening {
            self.progress.fail(format!(
                "starting the thread that listens to the kernel: {error}"
            ));
            return;
        }
        while !self.progress.is_stopping() {
            self.pulse.beat();
            if self.round().is_err() {
                return;
            }
        }
    }

    fn round(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        let nap = if self.turns.has_work(now) {
            Duration::ZERO
        } else {
            let until = [
                self.turns.next_rested(),
                self.verifying.due(),
                self.loads.due(now),
                Some(self.directories.next_look(now)),
            ];
            let until = until.into_iter().flatten().min();
            until.map_or(NAP, |until| until.saturating_duration_since(now).min(NAP))
        };
        self.receive(nap)?;
        self.heed_requests();
        match self.loads.next(Instant::now()) {
            Some(Waiting::First(path)) => self.check(&path)?,
            Some(Waiting::More(reading)) => self.turns.go_on(reading),
            None => {}
        }
        self.look()?;
        match self.turns.next(Instant::now()) {
            Some(Next::Begin(task)) => self.perform(&task)?,
            Some(Next::Continue(reading)) => self.go_on(reading)?,
            None => {}
        }
        self.verify_if_due()
    }

    /// Takes over what was asked; waits for that long if there is nothing.
    fn receive(&mut self, nap: Duration) -> Result<(), Stopped> {
        let mut message = match self.tasks.receiver.recv_timeout(nap) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
        };
        while let Some(received) = message {
            match received {
                Message::Task(task) => self.queue(task),
                // Before it looks, so that what is told from now on wakes it again.
                Message::Told => self.is_woken.store(false, Ordering::SeqCst),
            }
            message = self.tasks.receiver.try_recv().ok();
        }
        Ok(())
    }

    /// Takes over a task that is counted already.
    fn queue(&mut self, task: Task) {
        if let Task::Verify { path, round } = task {
            return self.verifying.add(path, round);
        }
        if !self.turns.add(task, Instant::now()) {
            self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Nothing is at a path any more: what comes there next is another file.
    fn forget(&mut self, path: &[u8]) {
        self.known.remove(path);
        self.unchecked.remove(path);
        self.summed.remove(path);
    }

    /// Gives itself a task.
    fn ask_itself(&mut self, task: Task) {
        self.progress.tasks.fetch_add(1, Ordering::SeqCst);
        self.queue(task);
    }

    fn perform(&mut self, task: &Task) -> Result<(), Stopped> {
        match task {
            Task::Blocks { path, blocks } => {
                let read = self.read_entry(path, Some(blocks));
                self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
                read
            }
            Task::Compare { path } => {
                self.known.insert(Arc::clone(path));
                self.begin(path, 0, u64::MAX, false, true)
            }
            Task::Check { path } | Task::Recheck { path, .. } => {
                let is_load = !self.config.is_static(path) && !self.known.contains(path);
                if is_load && self.loads.is_ahead(Instant::now()) {
                    self.loads.put_off(Waiting::First(Arc::clone(path)));
                    return Ok(());
                }
                self.check(path)
            }
            Task::Read {
                path,
                offset,
                extent,
            } => {
                // A long range is compared first: most of it is unchanged.
                self.begin(path, *offset, *extent, false, *extent > CHUNK_BYTES)
            }
            Task::Restate { path, ids } => {
                let restate = What::Restate(ids.clone());
                let sent = self.send(path, counterfoil_lane::clock::now(), restate);
                self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
                sent
            }
            // It has its own turn.
            Task::Verify { .. } => Ok(()),
            Task::Look { path } => {
                let looked = self.look_again(path);
                self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
                looked
            }
        }
    }

    /// Begins to compare a file with what is known of it, or to load it.
    fn check(&mut self, path: &Arc<[u8]>) -> Result<(), Stopped> {
        // What is asked from now on may be of changes that this look comes too early for.
        lock(&self.tasks.whole).remove(path);
        if self.config.is_static(path) {
            return self.check_entry(path);
        }
        let load = self.known.insert(Arc::clone(path));
        self.begin(path, 0, u64::MAX, load, !load)
    }

    /// Whether something of this kind is mirrored under this path.
    fn counts(&self, path: &[u8], kind: FileKind) -> bool {
        match self.config.rule_for(path) {
            Some((group, rule)) => {
                kind == FileKind::Regular || self.config.groups[group].files[rule].tree.is_some()
            }
            None => false,
        }
    }
}

fn seen(metadata: &std::fs::Metadata) -> What {
    What::Seen {
        device: metadata.dev(),
        inode: metadata.ino(),
        attributes: attributes_of(metadata),
        size: metadata.len(),
        changed_ns: changed_ns(metadata),
    }
}

fn attributes_of(metadata: &std::fs::Metadata) -> Attributes {
    Attributes {
        kind: kind_of(metadata),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    }
}

fn changed_ns(metadata: &std::fs::Metadata) -> i64 {
    metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()
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
    /// Behind the last byte that was read.
    pub(super) fn end(&self) -> Option<u64> {
        match self {
            What::Content { offset, bytes, .. } => Some(offset + bytes.len() as u64),
            What::Sum { offset, len, .. } => Some(offset + len),
            What::Verified(verified) => Some(verified.offset + verified.len),
            What::Seen { .. }
            | What::Missing
            | What::Unreadable(_)
            | What::Complete { .. }
            | What::Abandoned
            | What::Restate(_)
            | What::Scanned { .. }
            | What::Touched { .. } => None,
        }
    }

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
            What::Verified(verified) => operation::Action::Verified(verified),
            What::Restate(ref ids) => operation::Action::Restated {
                from: ids.start,
                to: ids.end,
            },
            What::Seen { .. }
            | What::Missing
            | What::Unreadable(_)
            | What::Touched { .. }
            | What::Scanned { .. } => return None,
            What::Complete { attributes, .. } => operation::Action::Attributes(attributes),
            What::Abandoned => operation::Action::Abandoned,
        })
    }
}
