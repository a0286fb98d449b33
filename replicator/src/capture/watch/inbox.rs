//! What the kernel told and nobody has looked at yet, and the thread that takes it from the kernel.

use super::fanotify::Fanotify;
use super::inotify::Inotify;
use super::{Key, Toucher};
use crate::progress::Progress;
use counterfoil_lane::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the kernel is left alone after something was taken: events merge meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the thread looks whether everything is to stop.
const IDLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// Names waiting, above which everything is looked through instead.
const NAMES_MAX: usize = 65_536;
/// Processes remembered per name.
const TOUCHERS_MAX: usize = 8;

/// What happened to a name, of several events the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::capture) struct Told {
    /// Its content or size was changed.
    pub(in crate::capture) wrote: bool,
    /// It was closed by somebody who could have written.
    pub(in crate::capture) closed: bool,
    /// It was made, removed or renamed.
    pub(in crate::capture) named: bool,
    /// It is a directory.
    pub(in crate::capture) is_directory: bool,
    /// The watched directory itself is gone or elsewhere.
    pub(in crate::capture) gone: bool,
}

impl Told {
    /// Both.
    pub(in crate::capture) fn and(self, other: Told) -> Told {
        Told {
            wrote: self.wrote || other.wrote,
            closed: self.closed || other.closed,
            named: self.named || other.named,
            is_directory: self.is_directory || other.is_directory,
            gone: self.gone || other.gone,
        }
    }
}

/// What was told of one name.
#[derive(Debug, Default)]
pub(in crate::capture) struct Noted {
    /// By anybody.
    pub(in crate::capture) told: Told,
    /// By whom; `None` is somebody of whom the kernel doesn't say who it is.
    pub(in crate::capture) by: Vec<(Option<Arc<Toucher>>, Told)>,
    /// Our clock when the first of it was told, 0 when nothing was.
    pub(in crate::capture) since: u64,
}

impl Noted {
    /// What was told later.
    pub(in crate::capture) fn merge(&mut self, later: &Noted) {
        for (who, told) in &later.by {
            self.add(*told, who.clone(), later.since);
        }
    }

    /// One more event.
    fn add(&mut self, told: Told, who: Option<Arc<Toucher>>, at: u64) {
        if self.since == 0 {
            self.since = at;
        }
        self.told = self.told.and(told);
        if let Some((_, before)) = self.by.iter_mut().find(|(known, _)| *known == who) {
            *before = before.and(told);
            return;
        }
        // Too many to name them all; that somebody did is kept.
        let who = who.filter(|_| self.by.len() < TOUCHERS_MAX);
        match self.by.iter_mut().find(|(known, _)| *known == who) {
            Some((_, before)) => *before = before.and(told),
            None => self.by.push((who, told)),
        }
    }
}

/// What was told, by directory and name.
type NotedNames = HashMap<(Key, Box<[u8]>), Noted>;

/// Names and what was told of them, by directory.
#[derive(Default)]
pub(in crate::capture) struct Inbox {
    noted: Mutex<NotedNames>,
    overflow: AtomicBool,
    mounts: AtomicBool,
}

impl Inbox {
    /// One event.
    pub(super) fn note(&self, key: Key, name: &[u8], told: Told, who: Option<Arc<Toucher>>) {
        let mut noted = lock(&self.noted);
        if noted.len() >= NAMES_MAX {
            noted.clear();
            drop(noted);
            self.overflow();
            return;
        }
        let noted = noted.entry((key, name.into())).or_default();
        noted.add(told, who, clock::now());
    }

    /// Something was told that nobody could keep.
    pub(super) fn overflow(&self) {
        self.overflow.store(true, Ordering::SeqCst);
    }

    /// Takes what was told.
    pub(in crate::capture) fn take(&self) -> NotedNames {
        std::mem::take(&mut *lock(&self.noted))
    }

    /// Whether something was lost, since this was last asked.
    pub(in crate::capture) fn take_overflow(&self) -> bool {
        self.overflow.swap(false, Ordering::SeqCst)
    }

    /// Whether a volume was mounted or unmounted, since this was last asked.
    pub(in crate::capture) fn take_mounts(&self) -> bool {
        self.mounts.swap(false, Ordering::SeqCst)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at any time, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread.
pub(super) fn listen(
    fanotify: Option<Arc<Fanotify>>,
    inotify: Option<Arc<Inotify>>,
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    wake: impl Fn() + Send + 'static,
) -> io::Result<()> {
    // Mounting is told as an exceptional condition of this file.
    let mounts = std::fs::File::open("/proc/self/mountinfo").ok();
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            crate::replicator::give_way("watch");
            let mut buffer = vec![0; 64 * 1024];
            while !progress.is_stopping() {
                let mut sources = Vec::new();
                if let Some(fanotify) = &fanotify {
                    sources.push(PollFd::from_borrowed_fd(
                        fanotify.descriptor(),
                        PollFlags::IN,
                    ));
                }
                if let Some(inotify) = &inotify {
                    sources.push(PollFd::from_borrowed_fd(
                        inotify.descriptor(),
                        PollFlags::IN,
                    ));
                }
                if let Some(mounts) = &mounts {
                    sources.push(PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI));
                }
                let has_mounts = mounts.is_some();
                match poll(&mut sources, Some(&IDLE)) {
                    Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!("waiting for what the kernel tells of files: {error}");
                        inbox.overflow();
                        std::thread::sleep(Duration::from_secs(1));
                        continue;
                    }
                }
                if has_mounts
                    && sources
                        .last()
                        .is_some_and(|mounts| mounts.revents().contains(PollFlags::PRI))
                {
                    inbox.mounts.store(true, Ordering::SeqCst);
                }
                let taken = fanotify
                    .as_ref()
                    .map_or(Ok(()), |fanotify| fanotify.take(&inbox, &mut buffer))
                    .and_then(|()| {
                        inotify
                            .as_ref()
                            .map_or(Ok(()), |inotify| inotify.take(&inbox))
                    });
                if let Err(error) = taken {
                    tracing::warn!("reading what the kernel tells of files: {error}");
                    inbox.overflow();
                }
                wake();
                std::thread::sleep(PAUSE);
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_name_adds_up_by_process() {
        let inbox = Inbox::default();
        let wrote = Told {
            wrote: true,
            ..Told::default()
        };
        let closed = Told {
            closed: true,
            ..Told::default()
        };
        let somebody = Some(Arc::new(Toucher {
            pid: 7,
            ..Toucher::default()
        }));
        inbox.note(Key::Watch(1), b"a", wrote, somebody.clone());
        inbox.note(Key::Watch(1), b"a", closed, somebody.clone());
        inbox.note(Key::Watch(1), b"a", wrote, None);
        let noted = inbox.take();
        let of_a = &noted[&(Key::Watch(1), Box::from(&b"a"[..]))];
        assert_eq!(of_a.by, [(somebody, wrote.and(closed)), (None, wrote)]);
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn more_names_than_are_kept_count_as_an_overflow() {
        let inbox = Inbox::default();
        for number in 0..=NAMES_MAX {
            inbox.note(
                Key::Watch(1),
                number.to_string().as_bytes(),
                Told::default(),
                None,
            );
        }
        assert!(inbox.take_overflow());
        assert!(!inbox.take_overflow());
        assert!(inbox.take().len() <= NAMES_MAX);
    }
}
