//! Who changed a file, as far as it can be found out while the process is there.

use crate::capture::processes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A process of which the kernel said that it changed a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toucher {
    /// Its id as we see it; 0 when it is of a namespace we can't see into.
    pub pid: u32,
    /// Field 22 of its `stat`, 0 when it had ended before it was looked at.
    pub started: u64,
    /// Inode of its id namespace, 0 when not known.
    pub namespace: u64,
    /// Its id in that namespace.
    pub inner: u32,
    /// The id of its parent, as we see it; 0 when not known.
    pub parent: u32,
    /// Name of the program, empty when it had ended.
    pub program: String,
    /// The file it runs from.
    pub executable: Option<PathBuf>,
}

/// How long a process is taken to be what it was; ids are used again.
const KEPT: Duration = Duration::from_millis(500);
/// Processes remembered at once.
const KEPT_MAX: usize = 1024;

/// Processes looked at lately.
#[derive(Default)]
pub(super) struct Touchers {
    kept: HashMap<u32, (Instant, Arc<Toucher>)>,
}

impl Touchers {
    /// The process with this id.
    pub(super) fn of(&mut self, pid: u32) -> Arc<Toucher> {
        let now = Instant::now();
        if let Some((at, toucher)) = self.kept.get(&pid)
            && now.duration_since(*at) < KEPT
        {
            return Arc::clone(toucher);
        }
        if self.kept.len() >= KEPT_MAX {
            self.kept.clear();
        }
        let toucher = Arc::new(look_at(pid));
        self.kept.insert(pid, (now, Arc::clone(&toucher)));
        toucher
    }
}

fn look_at(pid: u32) -> Toucher {
    let known = Toucher {
        pid,
        inner: pid,
        ..Toucher::default()
    };
    if pid == 0 {
        return known;
    }
    let Some(process) = processes::look_at(pid) else {
        return known;
    };
    Toucher {
        started: process.started,
        namespace: process.namespace,
        inner: process.inner,
        parent: process.parent,
        program: process.program,
        executable: std::fs::read_link(format!("/proc/{pid}/exe")).ok(),
        ..known
    }
}
