//! The watcher: has the kernel tell which captured files were changed, by whomever and however.
//!
//! Each directory is watched in the best way it allows: by fanotify, which also says which process it was; else by
//! inotify; else it is looked at again and again. A thread of its own takes what the kernel tells ([`inbox`]), within a
//! moment of the first event after a pause, so that short-lived programs are still there to be named; then at most every
//! [`inbox::PAUSE`], so that events merge in the kernel.
//!
//! A watch costs those who write. Where files are written, their directory is made *warm*: only names that come and go are
//! told of then, and the files known in it are looked at instead. What that takes from a program, and why it is done, is in
//! `docs/watcher.md`.
//!
//! What is told is never taken for more than a hint to look: at the file's attributes, and where these don't settle it, at
//! its content. Nothing is lost when the kernel's queue overflows: everything is looked through again.

mod fanotify;
mod inbox;
mod inotify;
mod telling;
mod toucher;

pub(super) use inbox::{Inbox, Noted, Told};
pub use toucher::Toucher;

use crate::progress::Progress;
use fanotify::Fanotify;
use inotify::Inotify;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Which directory, as the kernel names it when it tells of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Number of a watch of inotify.
    Watch(i32),
    /// File system and file handle, as fanotify says them.
    Handle(Box<[u8]>),
}

/// How a directory is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The kernel tells.
    Told(Key),
    /// It doesn't, or can't be asked to: somebody has to look.
    Looked,
}

/// What to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Names that come and go, and what happens to files.
    All,
    /// Names that come and go.
    Names,
}

/// Which backends are to be used: `COUNTERFOIL_WATCH`, for tests and for when one of them misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Best,
    Fanotify,
    Inotify,
    Poll,
}

impl Wanted {
    fn of_environment() -> Wanted {
        match std::env::var("COUNTERFOIL_WATCH").as_deref() {
            Ok("fanotify") => Wanted::Fanotify,
            Ok("inotify") => Wanted::Inotify,
            Ok("poll") => Wanted::Poll,
            Ok("") | Err(_) => Wanted::Best,
            Ok(other) => {
                tracing::warn!(
                    "COUNTERFOIL_WATCH is {other:?}; fanotify, inotify and poll are known, the best that is there is used"
                );
                Wanted::Best
            }
        }
    }
}

/// The backends there are.
pub(super) struct Watch {
    fanotify: Option<Arc<Fanotify>>,
    inotify: Option<Arc<Inotify>>,
    progress: Arc<Progress>,
    /// Why directories could not be watched, and how many.
    refused: HashMap<String, u64>,
    /// Whether file systems tell of all changes, by device.
    tells: HashMap<u64, bool>,
}

impl Watch {
    /// Sets up what this system and this user's rights allow; says what there is.
    pub(super) fn start(progress: Arc<Progress>) -> Watch {
        let wanted = Wanted::of_environment();
        let mut problems = Vec::new();
        let mut fanotify = None;
        if matches!(wanted, Wanted::Best | Wanted::Fanotify) {
            match Fanotify::start() {
                Ok(backend) => fanotify = Some(Arc::new(backend)),
                Err(error) => {
                    let why = format!(
                        "fanotify isn't there ({error}; it takes CAP_SYS_ADMIN and Linux 5.9): inotify is used, which doesn't say who changed a file"
                    );
                    if wanted == Wanted::Fanotify {
                        problems.push(why);
                    } else {
                        tracing::info!("{why}");
                    }
                }
            }
        }
        let mut inotify = None;
        if wanted != Wanted::Poll {
            match Inotify::start() {
                Ok(backend) => inotify = Some(Arc::new(backend)),
                Err(error) if fanotify.is_none() => problems.push(format!(
                    "watching directories by inotify: {error}; raise fs.inotify.max_user_instances (sysctl); until then they are looked through again and again"
                )),
                Err(error) => tracing::debug!("inotify: {error}"),
            }
        }
        progress.set_problems("watch", &problems);
        tracing::info!(
            "directories are watched by {}",
            match (&fanotify, &inotify) {
                (Some(_), _) => "fanotify",
                (None, Some(_)) => "inotify",
                (None, None) => "looking at them again and again",
            }
        );
        Watch {
            fanotify,
            inotify,
            progress,
            refused: HashMap::new(),
            tells: HashMap::new(),
        }
    }

    /// Starts the thread that takes what the kernel tells; `wake` is called when there is something.
    pub(super) fn listen(
        &self,
        inbox: &Arc<Inbox>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        inbox::listen(
            self.fanotify.clone(),
            self.inotify.clone(),
            Arc::clone(inbox),
            Arc::clone(&self.progress),
            wake,
        )
    }

    /// Watches a directory.
    pub(super) fn add(&mut self, directory: &Path, device: u64) -> How {
        if !self.tells_all(directory, device) {
            return How::Looked;
        }
        let mut refusal = None;
        if let Some(fanotify) = &self.fanotify {
            match fanotify.add(directory, Interest::All) {
                Ok(key) => return How::Told(key),
                Err(error) => refusal = Some(fanotify::advice(&error)),
            }
        }
        if let Some(inotify) = &self.inotify {
            match inotify.add(directory, Interest::All) {
                Ok(key) => return How::Told(key),
                Err(error) if error.kind() == io::ErrorKind::NotFound => refusal = None,
                Err(error) => refusal = Some(inotify::advice(&error)),
            }
        }
        if let Some(refusal) = refusal {
            *self.refused.entry(refusal).or_default() += 1;
        }
        How::Looked
    }

    /// Changes what is to be told of a directory that is watched.
    pub(super) fn change(&self, directory: &Path, key: &Key, interest: Interest) -> io::Result<()> {
        let now = match (key, &self.fanotify, &self.inotify) {
            (Key::Handle(_), Some(fanotify), _) => match interest {
                Interest::All => fanotify.add(directory, Interest::All)?,
                Interest::Names => fanotify.narrow(directory)?,
            },
            (Key::Watch(_), _, Some(inotify)) => inotify.add(directory, interest)?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        if now == *key {
            Ok(())
        } else {
            // Another directory by now.
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Has a directory told of no more.
    pub(super) fn remove(&self, directory: &Path, key: &Key) {
        match (key, &self.fanotify, &self.inotify) {
            // What was removed or moved away can't be found by its path; the kernel forgets what is gone, and events of
            // what was only moved are of a directory that isn't known any more.
            (Key::Handle(_), Some(fanotify), _) => fanotify.remove(directory, key),
            (Key::Watch(number), _, Some(inotify)) => inotify.remove(*number),
            _ => {}
        }
    }

    /// In a warm directory: tells who closes this file after writing, where that costs its writers nothing. True when
    /// it will.
    pub(super) fn mark_file(&self, path: &Path, key: &Key) -> bool {
        match (key, &self.fanotify) {
            (Key::Handle(_), Some(fanotify)) => fanotify.mark_file(path).is_ok(),
            _ => false,
        }
    }

    /// Takes that back.
    pub(super) fn unmark_file(&self, path: &Path) {
        if let Some(fanotify) = &self.fanotify {
            fanotify.unmark_file(path);
        }
    }

    /// Forgets which directories were refused: all are about to be tried again.
    pub(super) fn forget_refused(&mut self) {
        self.refused.clear();
        self.tells.clear();
    }

    /// Says which directories can't be watched, if any.
    pub(super) fn tell_refused(&self) {
        let mut problems: Vec<String> = self
            .refused
            .iter()
            .map(|(advice, count)| format!("directories that can't be watched: {count}; {advice}"))
            .collect();
        problems.sort();
        self.progress.set_problems("watch limits", &problems);
    }

    /// Whether the file system a directory is on tells of every change, whoever makes it.
    fn tells_all(&mut self, directory: &Path, device: u64) -> bool {
        if self.fanotify.is_none() && self.inotify.is_none() {
            return false;
        }
        *self
            .tells
            .entry(device)
            .or_insert_with(|| telling::tells_all(directory))
    }
}

/// Which file stands at a path now: device and inode.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|there| (there.dev(), there.ino()))
}
