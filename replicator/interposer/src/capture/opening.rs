//! Opening: which files become captured, and under which path.

use super::policies::{self, Bytes, Refusal};
use super::{Cancel, UNKNOWN, append, close_unseen, operation, report, uncaptured};
use crate::descriptors::{self, APPEND, INHERITED, USED};
use crate::kernel;
use crate::process::{self, State};
use crate::scratch::{self, Scratch};
use crate::{cancellation, files, paths, thread};
use core::sync::atomic::{AtomicU64, Ordering};
use counterfoil_lane::board::{Board, path_hash};
use counterfoil_lane::clock;
use counterfoil_lane::frame::{Kind, OPEN_CREATED, OPEN_TRUNCATED};
use counterfoil_lane::writer::{Operation, Target};
use libc::{c_char, c_int};

/// Directories whose text is also their real path, by hash: a file made there needs no second look.
static PLAIN_DIRECTORIES: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// What such paths lead to is open already, here or elsewhere.
const LINKS_TO_OPEN: [&[u8]; 3] = [b"/proc/", b"/dev/fd/", b"/dev/std"];

/// A path as the program gave it.
#[derive(Clone, Copy)]
struct Given {
    directory: usize,
    path: *const c_char,
}

/// A frame to append after an open. Its name has been acquired.
struct Opened {
    name: u32,
    operation: Operation,
    /// Whether a description holds the name now; otherwise it is released after the frame.
    is_kept: bool,
}

/// `openat`, and with it `open` and `creat`. `flags` are those that go to the kernel.
///
/// # Safety
/// `path` must be what the program gave as a path.
pub(crate) unsafe fn open(
    directory: usize,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
    cancel: Cancel,
) -> isize {
    let args = [
        directory,
        path as usize,
        flags as usize,
        mode as usize,
        0,
        0,
    ];
    // SAFETY: handed on to our caller.
    unsafe { open_by((directory, path), flags, libc::SYS_openat, args, cancel) }
}

/// `openat2`, of whose `how` (24 bytes at least: flags, mode, what to resolve) the flags tell what it does.
///
/// # Safety
/// `path` and `how` must be what the program gave.
pub(crate) unsafe fn open_how(
    directory: usize,
    path: *const c_char,
    how: *const u64,
    len: usize,
    cancel: Cancel,
) -> isize {
    /// The path begins at `directory` whatever it looks like, so as text it says nothing.
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let args = [directory, path as usize, how as usize, len, 0, 0];
    // SAFETY: handed on to our caller; the kernel reads that much too.
    unsafe {
        if (how as usize) < 4096 || len < 24 {
            return uncaptured(cancel, libc::SYS_openat2, args);
        }
        let (flags, resolve) = (how.read_unaligned() as c_int, how.add(2).read_unaligned());
        if resolve & RESOLVE_IN_ROOT != 0 {
            let begin = clock::now();
            let fd = uncaptured(cancel, libc::SYS_openat2, args);
            if !kernel::failed(fd) {
                opened_somehow(fd as c_int, flags, begin);
            }
            return fd;
        }
        open_by((directory, path), flags, libc::SYS_openat2, args, cancel)
    }
}

/// Opens by this call.
///
/// # Safety
/// As [`open`].
unsafe fn open_by(
    (directory, path): (usize, *const c_char),
    flags: c_int,
    number: libc::c_long,
    args: kernel::Args,
    cancel: Cancel,
) -> isize {
    // SAFETY: handed on to our caller.
    unsafe {
        let Some(board) = process::board().filter(|_| concerns_us(flags)) else {
            let fd = uncaptured(cancel, number, args);
            if !kernel::failed(fd) {
                forget_stale(fd as c_int);
            }
            return fd;
        };
        process::look_at_rules();
        process::look_for_board(clock::now());
        let given = Given { directory, path };
        let may_match = may_match(given);
        if let Some(group) = may_match
            && flags & libc::O_TRUNC != 0
        {
            return open_truncating(given, flags, group, (number, args), cancel);
        }
        let begin = clock::now();
        let fd = uncaptured(cancel, number, args);
        if kernel::failed(fd) {
            return fd;
        }
        forget_stale(fd as c_int);
        if (may_match.is_some() || is_captured_elsewhere(board, fd as c_int, given, flags))
            && let Some(state) = process::current()
            && let Some(opened) = register(state, fd as c_int, Some(given), flags)
        {
            report(state, opened.name, &opened.operation, Some(begin), &[]);
            opened.finish();
        }
        fd
    }
}

/// A file was opened without a path.
pub(super) fn opened_somehow(fd: c_int, flags: c_int, begin: u64) {
    forget_stale(fd);
    if concerns_us(flags) {
        process::look_at_rules();
        if let Some(state) = process::current()
            && let Some(opened) = register(state, fd, None, flags)
        {
            report(state, opened.name, &opened.operation, Some(begin), &[]);
            opened.finish();
        }
    }
}

/// Opens with `O_TRUNC` under the cover of the in-flight slot: the file's content changes in the call.
///
/// # Safety
/// As [`open`].
unsafe fn open_truncating(
    given: Given,
    flags: c_int,
    group: u16,
    (number, args): (libc::c_long, kernel::Args),
    cancel: Cancel,
) -> isize {
    // SAFETY: handed on to our caller.
    unsafe {
        let before = kernel::status_at(given.directory, given.path, 0);
        let is_other_kind = before.is_some_and(|status| !kernel::is_regular(&status));
        let state = process::current().filter(|_| !is_other_kind);
        let Some(state) = state else {
            // A pipe may block for long, and nothing is emptied.
            let fd = uncaptured(cancel, number, args);
            if !kernel::failed(fd) {
                forget_stale(fd as c_int);
            }
            return fd;
        };
        let (ruled, nothing) = (|| ruled_group(given), Bytes::UpTo(0));
        let state = match policies::admit(state, ruled, nothing, cancel, Refusal::Possible) {
            Ok(state) => state,
            Err(refused) => return refused,
        };
        if cancel == Cancel::Point {
            cancellation::test();
        }
        let Some(ticket) = thread::enter(state) else {
            let fd = kernel::call(number, args);
            if !kernel::failed(fd) {
                forget_stale(fd as c_int);
                if let Some(opened) = register(state, fd as c_int, Some(given), flags) {
                    if let Some((name, _)) = files::get(opened.name) {
                        state.process.board.mark_gap(name.path);
                    }
                    opened.finish();
                }
            }
            return fd;
        };
        let begin = ticket.lane.enter(&Target {
            device: before.map_or(0, |status| status.st_dev),
            inode: before.map_or(0, |status| status.st_ino),
            offset: 0,
            extent: UNKNOWN,
            group,
        });
        let fd = kernel::call(number, args);
        let end = clock::now();
        if !kernel::failed(fd) {
            // Its frame, if there is one, goes to the thread's second lane.
            forget_stale(fd as c_int);
            if let Some(opened) = register(state, fd as c_int, Some(given), flags) {
                if let Some((name, _)) = files::get(opened.name) {
                    let operation = Operation {
                        begin,
                        end,
                        ..opened.operation
                    };
                    append(state, ticket.lane, &name, &operation, &[]);
                }
                opened.finish();
            }
        }
        ticket.lane.leave();
        ticket.done();
        fd
    }
}

impl Opened {
    fn finish(self) {
        if !self.is_kept {
            files::release(self.name);
        }
    }
}

/// A file that a call put in reach of the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached<'a> {
    /// Its device.
    pub(crate) device: u64,
    /// Its inode.
    pub(crate) inode: u64,
    /// Its path from now on, and the group of that.
    pub(crate) path: (&'a [u8], u16),
}

/// Captures descriptors that are open already: those that were inherited, those that new rules match, those of a file
/// that a rename or a link put in reach of the rules.
pub(crate) fn adopt_all(state: &'static State, file: Option<Reached<'_>>) {
    let directory =
        counterfoil_lane::sys::open(b"/proc/self/fd\0", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    if kernel::failed(directory) {
        return;
    }
    let directory = directory as c_int;
    let mut entries = Aligned([0; 1024]);
    loop {
        // SAFETY: the buffer is ours and that long.
        let len = unsafe {
            kernel::call(
                libc::SYS_getdents64,
                [
                    directory as usize,
                    (&raw mut entries) as usize,
                    size_of::<Aligned>(),
                    0,
                    0,
                    0,
                ],
            )
        };
        let Some(mut rest) = usize::try_from(len)
            .ok()
            .filter(|&len| len > 0)
            .and_then(|len| entries.0.get(..len))
        else {
            break;
        };
        // linux_dirent64: inode (8), offset (8), length (2, the machines are little-endian), type (1), name.
        while let (Some(&low), Some(&high), Some(name)) =
            (rest.get(16), rest.get(17), rest.get(19..))
        {
            if let Some(fd) = descriptor_of(name).filter(|&fd| fd != directory) {
                adopt(state, fd, file);
            }
            rest = rest
                .get(usize::from(u16::from_le_bytes([low, high])).max(19)..)
                .unwrap_or_default();
        }
    }
    counterfoil_lane::sys::close(directory);
}

#[repr(C, align(8))]
struct Aligned([u8; 1024]);

fn descriptor_of(name: &[u8]) -> Option<c_int> {
    let len = name.iter().position(|&byte| byte == 0)?;
    let digits = name.get(..len).filter(|digits| !digits.is_empty())?;
    digits.iter().try_fold(0, |value: c_int, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit < 10)?;
        value.checked_mul(10)?.checked_add(c_int::from(digit))
    })
}

/// Captures one descriptor that came to be without a call that opened it.
pub(crate) fn adopt(state: &'static State, fd: c_int, file: Option<Reached<'_>>) {
    if super::captured(fd) != 0 {
        return;
    }
    let Some(flags) = kernel::flags_of(fd) else {
        return;
    };
    if flags & libc::O_ACCMODE == libc::O_RDONLY || flags & libc::O_PATH != 0 {
        return;
    }
    let Some(status) = kernel::status(fd).filter(kernel::is_regular) else {
        return;
    };
    let opened = match file {
        None => register_as(state, fd, None, flags, INHERITED),
        Some(file) if (file.device, file.inode) == (status.st_dev, status.st_ino) => {
            let (path, group) = file.path;
            files::acquire(file.device, file.inode, path, group)
                .map(|name| capture(state, fd, name, status.st_size as u64, flags, INHERITED))
        }
        Some(_) => return,
    };
    if let Some(opened) = opened {
        opened.finish();
    }
}

/// Whether the call can make a descriptor for writing to a regular file, or empty one.
#[inline(always)]
fn concerns_us(flags: c_int) -> bool {
    (flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0)
        && flags & (libc::O_PATH | libc::O_DIRECTORY) == 0
}

/// The group to go by before the call, when the path as text may match a rule.
///
/// # Safety
/// The path must be what the program gave.
unsafe fn may_match(given: Given) -> Option<u16> {
    scratch::with(|scratch| {
        // SAFETY: handed on.
        let text = unsafe { paths::absolute(given.directory, given.path, &mut scratch.text) }?;
        let rules = process::rules();
        rules
            .may_match(text)
            .then(|| rules.group_of(text).unwrap_or(0))
    })
    .flatten()
}

/// The group of the path as text, when a rule names it.
///
/// # Safety
/// The path must be what the program gave.
unsafe fn ruled_group(given: Given) -> Option<u16> {
    scratch::with(|scratch| {
        // SAFETY: handed on.
        let text = unsafe { paths::absolute(given.directory, given.path, &mut scratch.text) }?;
        process::rules().group_of(text)
    })
    .flatten()
}

/// An entry that the new descriptor's number still has is of a close that wasn't seen.
#[inline(always)]
pub(super) fn forget_stale(fd: c_int) {
    if descriptors::of(fd) != 0
        && process::current().is_some_and(|state| !process::is_borrowed(state))
        && let Some(released) = descriptors::forget(fd)
    {
        close_unseen(released);
    }
}

/// A file whose path as text matches nothing may be captured all the same: by another name, or through a link.
///
/// # Safety
/// The path must be what the program gave.
unsafe fn is_captured_elsewhere(board: &Board, fd: c_int, given: Given, flags: c_int) -> bool {
    let Some(status) = kernel::status(fd).filter(kernel::is_regular) else {
        return false;
    };
    if board.has_inode(status.st_dev, status.st_ino) {
        return true;
    }
    // SAFETY: the call succeeded, so the path ends with NUL.
    let text = unsafe { core::ffi::CStr::from_ptr(given.path) }.to_bytes();
    if LINKS_TO_OPEN.iter().any(|link| text.starts_with(link)) {
        return true;
    }
    // A file just made isn't on the board: has the path led through a symbolic link?
    if flags & libc::O_CREAT == 0 || status.st_size != 0 {
        return false;
    }
    let is_plain = scratch::with(|scratch| {
        // SAFETY: handed on.
        let text = unsafe { paths::absolute(given.directory, given.path, &mut scratch.text) }?;
        let slash = text.iter().rposition(|&byte| byte == b'/')?;
        let hash = path_hash(text.get(..slash)?);
        let known = PLAIN_DIRECTORIES.get((hash >> 32) as usize % PLAIN_DIRECTORIES.len())?;
        if known.load(Ordering::Relaxed) == hash {
            return Some(true);
        }
        let real = paths::of_descriptor(fd, &mut scratch.link)?;
        if real == text {
            known.store(hash, Ordering::Relaxed);
            return Some(true);
        }
        Some(false)
    });
    is_plain.flatten() == Some(false)
}

fn register(
    state: &'static State,
    fd: c_int,
    given: Option<Given>,
    flags: c_int,
) -> Option<Opened> {
    register_as(state, fd, given, flags, USED)
}

/// Captures a descriptor if the rules or the board say so.
fn register_as(
    state: &'static State,
    fd: c_int,
    given: Option<Given>,
    open_flags: c_int,
    flags: u32,
) -> Option<Opened> {
    let status = kernel::status(fd)?;
    if !kernel::is_regular(&status) || status.st_nlink == 0 {
        return None;
    }
    let name = scratch::with(|scratch| name_of(state, fd, given, &status, scratch)).flatten()?;
    let size = status.st_size as u64;
    Some(capture(state, fd, name, size, open_flags, flags))
}

/// Captures a descriptor of a file that has this name, which the caller acquired.
fn capture(
    state: &'static State,
    fd: c_int,
    name: u32,
    size: u64,
    open_flags: c_int,
    flags: u32,
) -> Opened {
    let flags = flags
        | if open_flags & libc::O_APPEND != 0 {
            APPEND
        } else {
            0
        };
    let mut operation = operation(Kind::Open, size, 0);
    if open_flags & libc::O_TRUNC != 0 {
        operation.flags |= OPEN_TRUNCATED;
    }
    if open_flags & libc::O_CREAT != 0 && size == 0 {
        operation.flags |= OPEN_CREATED;
    }
    let mut is_kept = false;
    if !process::is_borrowed(state) {
        let mut replaced = None;
        is_kept = descriptors::capture(fd, name, flags, size, &mut replaced);
        if let Some(replaced) = replaced {
            close_unseen(replaced);
        }
        if !is_kept && let Some((name, _)) = files::get(name) {
            state.process.board.mark_gap(name.path);
        }
    }
    Opened {
        name,
        operation,
        is_kept,
    }
}

/// The name of an open file that is to be captured: by its real path, the path as given, or what the board knows.
fn name_of(
    state: &State,
    fd: c_int,
    given: Option<Given>,
    status: &libc::stat,
    scratch: &mut Scratch,
) -> Option<u32> {
    let rules = process::rules();
    let real = paths::of_descriptor(fd, &mut scratch.link).filter(|real| real.starts_with(b"/"));
    // SAFETY: it is what the program gave.
    let text = given.and_then(|given| unsafe {
        paths::absolute(given.directory, given.path, &mut scratch.text)
    });
    let (path, group) = [real, text]
        .into_iter()
        .flatten()
        .find_map(|path| rules.group_of(path).map(|group| (path, group)))
        .or_else(|| {
            let known = state.process.board.has_inode(status.st_dev, status.st_ino);
            real.or(text).filter(|_| known).map(|path| (path, 0))
        })?;
    let name = files::acquire(status.st_dev, status.st_ino, path, group);
    if name.is_none() {
        state.process.board.mark_gap(path);
    }
    name
}
