//! inotify: tells what happens in a directory, to anybody who may read it, but not who did it.

use super::inbox::{Inbox, Told};
use super::{Interest, Key};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
const CONTENT: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB);

/// One instance.
pub(super) struct Inotify {
    descriptor: OwnedFd,
}

impl Inotify {
    pub(super) fn start() -> io::Result<Inotify> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Inotify { descriptor })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Watches a directory, or changes what it is watched for.
    pub(super) fn add(&self, directory: &Path, interest: Interest) -> io::Result<Key> {
        let flags = match interest {
            Interest::All => NAMES | CONTENT,
            Interest::Names => NAMES,
        };
        let number = inotify::add_watch(&self.descriptor, directory, flags)?;
        Ok(Key::Watch(number))
    }

    pub(super) fn remove(&self, number: i32) {
        // One that is gone already isn't worth a word.
        let _ = inotify::remove_watch(&self.descriptor, number);
    }

    /// Takes what there is.
    pub(super) fn take(&self, inbox: &Inbox) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 64 * 1024];
        let mut reader = inotify::Reader::new(&self.descriptor, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                inbox.overflow();
                continue;
            }
            let told = Told {
                wrote: flags.contains(ReadFlags::MODIFY),
                closed: flags.contains(ReadFlags::CLOSE_WRITE),
                named: flags.intersects(
                    ReadFlags::CREATE
                        | ReadFlags::DELETE
                        | ReadFlags::MOVED_FROM
                        | ReadFlags::MOVED_TO,
                ),
                is_directory: flags.contains(ReadFlags::ISDIR),
                gone: flags.intersects(
                    ReadFlags::DELETE_SELF
                        | ReadFlags::MOVE_SELF
                        | ReadFlags::UNMOUNT
                        | ReadFlags::IGNORED,
                ),
            };
            let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
            inbox.note(Key::Watch(event.wd()), name, told, None);
        }
    }
}

/// What to do about a directory that can't be watched.
pub(super) fn advice(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "the limit of watches is reached; raise fs.inotify.max_user_watches (sysctl); until then they are looked through twice a second".to_owned(),
        Some(libc::EACCES) => "they can't be read by this user; give it leave to".to_owned(),
        _ => format!("inotify: {error}; they are looked through twice a second"),
    }
}
