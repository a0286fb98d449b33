//! fanotify: tells what happens in a directory, and which process did it. It takes CAP_SYS_ADMIN, and a file system with
//! file handles.
//!
//! Directories are told apart by their file handle: it is asked for when a directory is marked, and comes with each event.
//! Nothing is ever opened by handle.

use super::inbox::{Inbox, Told};
use super::toucher::Touchers;
use super::{Interest, Key};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

const NAMES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF
    | libc::FAN_ONDIR;
const CONTENT: u64 =
    libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB | libc::FAN_EVENT_ON_CHILD;
/// Of a single file in a warm directory. Without FAN_MODIFY: it costs its writers nothing.
const CLOSES: u64 = libc::FAN_CLOSE_WRITE;

/// `AT_HANDLE_FID`: a handle to tell things apart by, also where it can't be used to open them. Linux 6.5.
const AT_HANDLE_FID: libc::c_int = 0x200;
/// `MAX_HANDLE_SZ`.
const HANDLE_BYTES_MAX: usize = 128;
const METADATA_BYTES: usize = 24;

/// One group of marks.
pub(super) struct Fanotify {
    descriptor: OwnedFd,
    touchers: Mutex<Touchers>,
}

/// `struct file_handle` with room for any handle.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: [u8; 4],
    data: [u8; HANDLE_BYTES_MAX],
}

impl Fanotify {
    pub(super) fn start() -> io::Result<Fanotify> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME;
        // SAFETY: no pointers are passed.
        let descriptor = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Fanotify {
            descriptor,
            touchers: Mutex::new(Touchers::default()),
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Marks a directory for more.
    pub(super) fn add(&self, directory: &Path, interest: Interest) -> io::Result<Key> {
        let mask = match interest {
            Interest::All => NAMES | CONTENT,
            Interest::Names => NAMES,
        };
        let key = key(directory)?;
        self.mark(libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR, mask, directory)?;
        Ok(key)
    }

    /// Takes back what isn't about names.
    pub(super) fn narrow(&self, directory: &Path) -> io::Result<Key> {
        let key = key(directory)?;
        self.mark(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR,
            CONTENT,
            directory,
        )?;
        Ok(key)
    }

    /// Forgets a directory, if it is still there.
    pub(super) fn remove(&self, directory: &Path, known: &Key) {
        if key(directory).is_ok_and(|key| key == *known) {
            // One that is gone by now has no mark any more.
            let _ = self.mark(
                libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR,
                NAMES | CONTENT,
                directory,
            );
        }
    }

    /// Marks a file so that its closing is told.
    pub(super) fn mark_file(&self, file: &Path) -> io::Result<()> {
        self.mark(
            libc::FAN_MARK_ADD | libc::FAN_MARK_DONT_FOLLOW,
            CLOSES,
            file,
        )
    }

    /// Takes the mark of a file back.
    pub(super) fn unmark_file(&self, file: &Path) {
        // One that was removed has none.
        let _ = self.mark(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_DONT_FOLLOW,
            CLOSES,
            file,
        );
    }

    fn mark(&self, flags: libc::c_uint, mask: u64, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path ends with a NUL, and outlives the call.
        let marked = unsafe {
            libc::fanotify_mark(
                self.descriptor.as_raw_fd(),
                flags,
                mask,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Takes what there is.
    pub(super) fn take(&self, inbox: &Inbox, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let taken = match rustix::io::read(&self.descriptor, &mut *buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok(taken) => taken,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..taken];
            while let Some((event, behind)) = split_event(rest) {
                self.note(inbox, event);
                rest = behind;
            }
        }
    }

    fn note(&self, inbox: &Inbox, event: &[u8]) {
        let (Some(mask), Some(process)) = (flags(event, 8), word(event, 20)) else {
            return;
        };
        if mask & libc::FAN_Q_OVERFLOW != 0 {
            inbox.overflow();
            return;
        }
        if process == std::process::id() {
            return;
        }
        let has = |kinds: u64| mask & kinds != 0;
        let told = Told {
            wrote: has(libc::FAN_MODIFY),
            closed: has(libc::FAN_CLOSE_WRITE),
            named: has(libc::FAN_CREATE
                | libc::FAN_DELETE
                | libc::FAN_MOVED_FROM
                | libc::FAN_MOVED_TO),
            is_directory: has(libc::FAN_ONDIR),
            gone: has(libc::FAN_DELETE_SELF | libc::FAN_MOVE_SELF),
        };
        let Some((key, name)) = directory_and_name(event) else {
            return;
        };
        let who = (told.wrote || told.closed || told.named)
            .then(|| super::inbox::lock(&self.touchers).of(process));
        // The directory itself goes by the name of a point.
        let name = if name == b"." { b"" } else { name };
        inbox.note(key, name, told, who);
    }
}

/// The first event of a buffer, and what is behind it.
fn split_event(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(word(bytes, 0)?).ok()?;
    if len < METADATA_BYTES || len > bytes.len() {
        return None;
    }
    Some(bytes.split_at(len))
}

/// Which directory an event is of, and the name in it.
fn directory_and_name(event: &[u8]) -> Option<(Key, &[u8])> {
    let metadata = short(event, 6)?;
    let mut rest = event.get(metadata..)?;
    loop {
        let kind = *rest.first()?;
        let len = short(rest, 2)?;
        let record = rest.get(..len).filter(|record| record.len() >= 20)?;
        if kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME || kind == libc::FAN_EVENT_INFO_TYPE_DFID {
            let handle_bytes = usize::try_from(word(record, 12)?).ok()?;
            let handle = record.get(20..20 + handle_bytes)?;
            let kind_of_handle = record.get(16..20)?;
            let behind = record.get(20 + handle_bytes..)?;
            let name = if kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME {
                behind.split(|&byte| byte == 0).next().unwrap_or_default()
            } else {
                &[]
            };
            let key = [record.get(4..12)?, kind_of_handle, handle].concat();
            return Some((Key::Handle(key.into()), name));
        }
        rest = &rest[len..];
    }
}

/// The bytes of a field.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

// The kernel of this machine wrote these, in its own order.
fn short(bytes: &[u8], at: usize) -> Option<usize> {
    field(bytes, at).map(u16::from_ne_bytes).map(usize::from)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn flags(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_ne_bytes)
}

/// What events of a directory will call it.
fn key(directory: &Path) -> io::Result<Key> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let mut handle = FileHandle {
        bytes: HANDLE_BYTES_MAX as u32,
        kind: [0; 4],
        data: [0; HANDLE_BYTES_MAX],
    };
    let mut mount: libc::c_int = 0;
    let mut ask = |flags: libc::c_int| -> io::Result<()> {
        handle.bytes = HANDLE_BYTES_MAX as u32;
        // SAFETY: the path ends with a NUL; the handle has the room it says it has.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_SYMLINK_FOLLOW | flags,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    ask(AT_HANDLE_FID).or_else(|_| ask(0))?;
    // SAFETY: all zeroes is a valid statfs.
    let mut there: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a NUL, and the result has its type.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut there) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an fsid is two numbers of 32 bits, whose names are nobody's business.
    let system: [u8; 8] = unsafe { std::mem::transmute(there.f_fsid) };
    let used = (handle.bytes as usize).min(HANDLE_BYTES_MAX);
    Ok(Key::Handle(
        [&system[..], &handle.kind, &handle.data[..used]]
            .concat()
            .into(),
    ))
}

/// What to do about a directory that can't be marked.
pub(super) fn advice(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "the limit of marks is reached; raise fs.fanotify.max_user_marks (sysctl); until then they are looked through twice a second".to_owned(),
        _ => format!("fanotify: {error}; they are looked through twice a second"),
    }
}
