//! Who changed a file: a captured program, whose frames say what it did, or somebody unseen.
//!
//! The kernel says which process it was (fanotify) or only that somebody did (inotify). A process explains a change if it
//! has lanes and reported something on that file at the time, or is just about to. What nobody explains is compared,
//! whatever the file's times say: a captured write soon after may have covered the traces.

use super::*;
use crate::capture::check::Touch;
use crate::capture::lanes::Lane;
use crate::capture::watch::Toucher;
use crate::progress::UncapturedWriter;
use counterfoil_proto::path_text;

/// How long before the kernel told of it a change may have been reported.
const REPORTED_NS: u64 = 1_000_000_000;
/// How long ended processes are remembered: what they did may be told after they are gone.
const ENDED_KEPT: Duration = Duration::from_secs(30);
const ENDED_MAX: usize = 4096;
/// Pairs of program and file that are warned of.
const WARNINGS_MAX: usize = 1024;

/// A process whose lanes are gone.
pub(super) struct Ended {
    at: Instant,
    process: u64,
    writer: Writer,
}

impl Sequencer {
    /// The kernel says that these did something to a file.
    pub(super) fn touched(&mut self, path: &Arc<[u8]>, by: &[Touch], since: u64) {
        let since = since.saturating_sub(REPORTED_NS);
        let mut is_unexplained = false;
        for touch in by {
            let Some(who) = touch.who.as_deref().filter(|who| who.pid != 0) else {
                // Somebody: whether that was a captured program, the file's times say (`seen_as`). One that closed it
                // without any report of anybody may have mapped it.
                is_unexplained |= touch.closed && !self.is_reported(path, None, since);
                continue;
            };
            let processes = self.processes_of(who);
            let parent = self.processes_with_id(who.parent);
            let reported = |process: &u64| self.is_reported(path, Some(*process), since);
            if processes.iter().any(reported) || parent.iter().any(reported) {
                continue;
            }
            let has_lanes = !processes.is_empty();
            // A captured program reports what it opens, closes and renames, but not that it ended with the file open.
            if has_lanes && !touch.wrote {
                continue;
            }
            // Of a process of which nothing is known but its id, in a world with several namespaces, nothing can be said.
            if who.started == 0 && self.has_foreign_lanes() && self.is_reported(path, None, since) {
                continue;
            }
            is_unexplained |= touch.wrote || touch.closed;
            self.note_uncaptured(path, who, has_lanes);
        }
        if is_unexplained && self.files.at_path(path).is_some() {
            self.progress.rereads.count(Reason::Uncaptured);
            self.compare(path);
        }
    }

    /// Remembers who changed a file uncaptured, for the status, and warns of it the first time.
    fn note_uncaptured(&mut self, path: &[u8], who: &Toucher, has_lanes: bool) {
        let executable = who.executable.as_ref();
        let writer = UncapturedWriter {
            pid: who.pid,
            program: who.program.clone(),
            executable: executable
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            path: path_text(path),
            at_ns: clock::wall(),
            count: 1,
        };
        let key = (writer.program.clone(), writer.path.clone());
        if self.warned.len() < WARNINGS_MAX && self.warned.insert(key) {
            let name = if who.program.is_empty() {
                "a program that ended at once"
            } else {
                who.program.as_str()
            };
            let (path, pid) = (&writer.path, who.pid);
            if has_lanes {
                tracing::warn!(
                    "{path} was changed by {name} (process {pid}) in a way that isn't captured; the watcher noticed"
                );
            } else {
                tracing::warn!(
                    "{path} was changed by {name} (process {pid}), which isn't captured; the watcher noticed. `counterfoil exec` captures each of its changes"
                );
            }
        }
        self.progress.note_uncaptured(writer);
    }

    /// Whether a process, or anybody at all, reported something on the file at a path since then, or is about to.
    pub(super) fn is_reported(&self, path: &[u8], process: Option<u64>, since: u64) -> bool {
        let is_it = |other: u64| process.is_none_or(|process| process == other);
        if self
            .files
            .reports(path)
            .any(|&(process, end)| is_it(process) && end >= since)
        {
            return true;
        }
        let file = self.files.at_path(path);
        self.lanes
            .lanes
            .iter()
            .filter(|lane| is_it(lane.writer.process))
            .any(|lane| self.is_about_to_report(lane, file))
    }

    /// Whether a lane has something on a file that wasn't its turn yet.
    fn is_about_to_report(&self, lane: &Lane, file: Option<usize>) -> bool {
        let is_it = |device: u64, inode: u64| {
            // A call that has not found out its file yet may be on this one.
            device == 0 && inode == 0 || self.files.at_inode(device, inode) == file
        };
        lane.in_flight()
            .is_some_and(|call| is_it(call.device, call.inode))
            || lane.queue.iter().any(|frame| {
                frame.kind != Kind::Name
                    && lane
                        .names
                        .get(&frame.name)
                        .is_none_or(|name| is_it(name.device, name.inode))
            })
    }

    /// Numbers of the captured processes that a process is or was: each program it executed has one.
    fn processes_of(&self, who: &Toucher) -> Vec<u64> {
        let own = self.own_namespace;
        self.writers()
            .filter(|(_, writer)| {
                let namespace = match writer.pid_namespace {
                    0 => own,
                    namespace => namespace,
                };
                if who.started == 0 {
                    // It has ended: only its id is known.
                    return namespace == own && writer.pid == who.pid;
                }
                (namespace, writer.pid, writer.pid_started)
                    == (
                        if who.namespace == 0 {
                            own
                        } else {
                            who.namespace
                        },
                        who.inner,
                        who.started,
                    )
            })
            .map(|(process, _)| process)
            .collect()
    }

    /// The same for an id as we see it.
    fn processes_with_id(&self, pid: u32) -> Vec<u64> {
        if pid <= 1 {
            return Vec::new();
        }
        let own = self.own_namespace;
        self.writers()
            .filter(|(_, writer)| {
                (writer.pid_namespace == 0 || writer.pid_namespace == own) && writer.pid == pid
            })
            .map(|(process, _)| process)
            .collect()
    }

    /// All captured processes that are there, or were lately.
    fn writers(&self) -> impl Iterator<Item = (u64, &Writer)> {
        let present = self.lanes.lanes.iter().map(|lane| &lane.writer);
        let ended = self
            .ended
            .iter()
            .map(|ended| (ended.process, &ended.writer));
        present.map(|writer| (writer.process, writer)).chain(ended)
    }

    fn has_foreign_lanes(&self) -> bool {
        let own = self.own_namespace;
        self.writers()
            .any(|(_, writer)| writer.pid_namespace != 0 && writer.pid_namespace != own)
    }

    /// A process has ended, and its lanes are gone.
    pub(super) fn remember_ended(&mut self, process: u64, writer: Writer) {
        while self.ended.len() >= ENDED_MAX
            || self
                .ended
                .front()
                .is_some_and(|ended| ended.at.elapsed() > ENDED_KEPT)
        {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended {
            at: Instant::now(),
            process,
            writer,
        });
    }
}
