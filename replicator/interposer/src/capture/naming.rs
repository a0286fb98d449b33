//! Calls on paths: rename, unlink and truncate.

use super::opening::{Reached, adopt_all};
use super::policies::{self, Bytes, Refusal};
use super::{Cancel, UNKNOWN, append, operation};
use crate::kernel::{self, Args};
use crate::process::{self, State};
use crate::scratch::{self, Scratch};
use crate::{descriptors, files, paths, thread};
use counterfoil_lane::board::Board;
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::writer::{Operation, Target};
use libc::{c_char, c_int, c_long, c_uint};

const RENAME_EXCHANGE: c_uint = 2;

/// `renameat2`, and with it `rename` and `renameat`.
///
/// # Safety
/// The paths must be what the program gave.
pub(crate) unsafe fn rename(
    old_directory: usize,
    old: *const c_char,
    new_directory: usize,
    new: *const c_char,
    flags: c_uint,
) -> isize {
    let (number, args): (c_long, Args) = if flags == 0 {
        (
            RENAMEAT,
            [
                old_directory,
                old as usize,
                new_directory,
                new as usize,
                0,
                0,
            ],
        )
    } else {
        (
            libc::SYS_renameat2,
            [
                old_directory,
                old as usize,
                new_directory,
                new as usize,
                flags as usize,
                0,
            ],
        )
    };
    // SAFETY: handed on to our caller.
    unsafe {
        let Some(board) = process::board() else {
            return kernel::call(number, args);
        };
        process::look_at_rules();
        let reported = scratch::with(|scratch| {
            let old = (old_directory, old);
            let new = (new_directory, new);
            rename_in(board, old, new, flags, scratch, &|| {
                kernel::call(number, args)
            })
        });
        match reported.flatten() {
            Some(result) => result,
            None => kernel::call(number, args),
        }
    }
}

/// The call number of a rename without flags; newer machines only have the one with.
#[cfg(target_arch = "x86_64")]
const RENAMEAT: c_long = libc::SYS_renameat;
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: c_long = libc::SYS_renameat2;

/// Renames and reports it. `None`: it is none of our business, and the call wasn't made.
///
/// # Safety
/// As [`rename`].
unsafe fn rename_in(
    board: &Board,
    old: (usize, *const c_char),
    new: (usize, *const c_char),
    flags: c_uint,
    scratch: &mut Scratch,
    call: &dyn Fn() -> isize,
) -> Option<isize> {
    let rules = process::rules();
    // SAFETY: handed on to our caller.
    let (old_text, new_text, status, replaced) = unsafe {
        (
            paths::absolute(old.0, old.1, &mut scratch.text)?,
            paths::absolute(new.0, new.1, &mut scratch.other)?,
            kernel::status_at(old.0, old.1, libc::AT_SYMLINK_NOFOLLOW)?,
            (flags & RENAME_EXCHANGE != 0)
                .then(|| kernel::status_at(new.0, new.1, libc::AT_SYMLINK_NOFOLLOW))
                .flatten(),
        )
    };
    let is_known = |status: &libc::stat| {
        kernel::is_regular(status) && board.has_inode(status.st_dev, status.st_ino)
    };
    let may_match = rules.may_match(old_text) || rules.may_match(new_text);
    if !may_match && !is_known(&status) && !replaced.is_some_and(|status| is_known(&status)) {
        return None;
    }
    let (old_group, new_group) = (rules.group_of(old_text), rules.group_of(new_text));
    let is_directory = status.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let concerns_us = old_group.is_some()
        || new_group.is_some()
        || is_known(&status)
        || replaced.is_some_and(|status| is_known(&status))
        || is_directory && may_match;
    if !concerns_us {
        return None;
    }
    let state = process::current()?;
    let ruled = || new_group.or(old_group);
    let names = Bytes::UpTo(2 * scratch::PATH_BYTES_MAX + 1);
    let state = match policies::admit(state, ruled, names, Cancel::Never, Refusal::Possible) {
        Ok(state) => state,
        Err(refused) => return Some(refused),
    };
    let pair_len = old_text.len() + 1 + new_text.len();
    let pair = scratch.pair.get_mut(..pair_len)?;
    pair.get_mut(..old_text.len())?.copy_from_slice(old_text);
    *pair.get_mut(old_text.len())? = 0;
    pair.get_mut(old_text.len() + 1..)?
        .copy_from_slice(new_text);

    let group = new_group.or(old_group).unwrap_or(0);
    let name_number = files::acquire(status.st_dev, status.st_ino, new_text, group);
    let name = name_number.and_then(files::get);
    let (Some((name, _)), Some(ticket)) = (name, thread::enter(state)) else {
        let result = call();
        if result == 0 {
            board.mark_gap(old_text);
            board.mark_gap(new_text);
        }
        if let Some(number) = name_number {
            files::release(number);
        }
        return Some(result);
    };
    let begin = ticket.lane.enter(&Target {
        device: status.st_dev,
        inode: status.st_ino,
        offset: 0,
        extent: UNKNOWN,
        group,
    });
    let result = call();
    if result == 0 {
        let operation = Operation {
            begin,
            end: clock::now(),
            ..operation(Kind::Rename, 0, 0)
        };
        append(state, ticket.lane, &name, &operation, pair);
        if let Some(replaced) = replaced {
            exchanged(
                state,
                ticket.lane,
                &replaced,
                (old_text, new_text),
                group,
                begin,
            );
        }
    }
    ticket.lane.leave();
    ticket.done();
    if result == 0 && new_group.is_some() && !process::is_borrowed(state) {
        descriptors::rename(status.st_dev, status.st_ino, name.number);
        if old_group.is_none() && kernel::is_regular(&status) {
            let file = Reached {
                device: status.st_dev,
                inode: status.st_ino,
                path: (new_text, group),
            };
            adopt_all(state, Some(file));
        }
    }
    files::release(name.number);
    Some(result)
}

/// The other half of an exchange: what was under the new path is now under the old one.
fn exchanged(
    state: &State,
    lane: &mut counterfoil_lane::writer::Lane,
    status: &libc::stat,
    (old_text, new_text): (&[u8], &[u8]),
    group: u16,
    begin: u64,
) {
    let number = files::acquire(status.st_dev, status.st_ino, old_text, group);
    let Some((name, _)) = number.and_then(files::get) else {
        state.process.board.mark_gap(old_text);
        return;
    };
    let parts = [new_text, b"\0", old_text].map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    let operation = Operation {
        begin,
        end: clock::now(),
        ..operation(Kind::Rename, 0, 0)
    };
    let len = old_text.len() + 1 + new_text.len();
    // SAFETY: the parts are whole slices.
    if !unsafe { lane.append(&state.process, Some(&name), &operation, &parts, len) } {
        state.process.board.mark_gap(old_text);
    }
    files::release(name.number);
}

/// Which call gives a file another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// A hard link, found as these flags of `fstatat` say.
    Hard(c_int),
    /// A symbolic link.
    Symbolic,
}

/// `link`, `linkat`, `symlink` and `symlinkat`: the file may get a captured path by it. `old` is ignored for symbolic
/// links, whose file is the one that the new path leads to.
///
/// # Safety
/// The paths must be what the program gave, and the call one of these.
pub(crate) unsafe fn link(
    old: (usize, *const c_char),
    new: (usize, *const c_char),
    naming: Naming,
    number: c_long,
    args: Args,
) -> isize {
    // SAFETY: handed on to our caller.
    let call = || unsafe { kernel::call(number, args) };
    if process::board().is_none() {
        return call();
    }
    process::look_at_rules();
    // SAFETY: handed on to our caller.
    let result = scratch::with(|scratch| unsafe { link_in(old, new, naming, scratch, &call) });
    match result.flatten() {
        Some(result) => result,
        None => call(),
    }
}

/// Links and reports it. `None`: it is none of our business, and the call wasn't made.
///
/// # Safety
/// As [`link`].
unsafe fn link_in(
    old: (usize, *const c_char),
    new: (usize, *const c_char),
    naming: Naming,
    scratch: &mut Scratch,
    call: &dyn Fn() -> isize,
) -> Option<isize> {
    // SAFETY: handed on to our caller.
    let text = unsafe { paths::absolute(new.0, new.1, &mut scratch.text)? };
    let group = process::rules().group_of(text)?;
    let state = process::current()?;
    let before = match naming {
        // SAFETY: handed on to our caller.
        Naming::Hard(flags) => Some(unsafe { kernel::status_at(old.0, old.1, flags)? }),
        Naming::Symbolic => None,
    };
    if before.is_some_and(|status| !kernel::is_regular(&status)) {
        return None;
    }
    let Some(ticket) = thread::enter(state) else {
        let result = call();
        if result == 0 {
            state.process.board.mark_gap(text);
        }
        return Some(result);
    };
    let begin = ticket.lane.enter(&Target {
        device: before.map_or(0, |status| status.st_dev),
        inode: before.map_or(0, |status| status.st_ino),
        offset: 0,
        extent: UNKNOWN,
        group,
    });
    let result = call();
    let status = match before {
        Some(status) => Some(status),
        // SAFETY: handed on to our caller.
        None => unsafe { kernel::status_at(new.0, new.1, 0) },
    };
    if result == 0
        && let Some(status) = status.filter(kernel::is_regular)
    {
        let file = Reached {
            device: status.st_dev,
            inode: status.st_ino,
            path: (text, group),
        };
        // Before the frame is timed: what is written unseen until then, the reader of the file still finds.
        if !process::is_borrowed(state) {
            adopt_all(state, Some(file));
        }
        linked(state, ticket.lane, &file, begin);
    }
    ticket.lane.leave();
    ticket.done();
    Some(result)
}

fn linked(
    state: &State,
    lane: &mut counterfoil_lane::writer::Lane,
    file: &Reached<'_>,
    begin: u64,
) {
    let (path, group) = file.path;
    let number = files::acquire(file.device, file.inode, path, group);
    let Some((name, _)) = number.and_then(files::get) else {
        state.process.board.mark_gap(path);
        return;
    };
    let is_known = state.knows(Kind::Link);
    let operation = Operation {
        begin,
        end: clock::now(),
        ..if is_known {
            operation(Kind::Link, 0, 0)
        } else {
            // Under this name it is a file that wasn't seen before, or one to be read again.
            operation(Kind::Reread, 0, UNKNOWN)
        }
    };
    append(
        state,
        lane,
        &name,
        &operation,
        if is_known { path } else { &[] },
    );
    files::release(name.number);
}

/// `unlinkat`, and with it `unlink`; removing a directory is not ours.
///
/// # Safety
/// `path` must be what the program gave.
pub(crate) unsafe fn unlink(directory: usize, path: *const c_char, flags: c_int) -> isize {
    let args = [directory, path as usize, flags as usize, 0, 0, 0];
    // SAFETY: handed on to our caller.
    unsafe {
        let call = || kernel::call(libc::SYS_unlinkat, args);
        if flags & libc::AT_REMOVEDIR != 0 {
            return call();
        }
        changed(
            (directory, path),
            Kind::Unlink,
            libc::AT_SYMLINK_NOFOLLOW,
            0,
            &call,
        )
    }
}

/// `remove`: a file, or else an empty directory.
///
/// # Safety
/// `path` must be what the program gave.
pub(crate) unsafe fn remove(path: *const c_char) -> isize {
    // SAFETY: handed on to our caller.
    unsafe {
        match unlink(kernel::HERE, path, 0) {
            result if result == -(libc::EISDIR as isize) => {
                unlink(kernel::HERE, path, libc::AT_REMOVEDIR)
            }
            result => result,
        }
    }
}

/// `truncate`.
///
/// # Safety
/// `path` must be what the program gave.
pub(crate) unsafe fn truncate(path: *const c_char, size: i64) -> isize {
    let args = [path as usize, size as usize, 0, 0, 0, 0];
    // SAFETY: handed on to our caller.
    unsafe {
        let call = || kernel::call(libc::SYS_truncate, args);
        changed((kernel::HERE, path), Kind::Truncate, 0, size as u64, &call)
    }
}

/// Makes a call that changes the file at a path and reports it when the file is captured.
///
/// # Safety
/// The path must be what the program gave.
pub(super) unsafe fn changed(
    path: (usize, *const c_char),
    kind: Kind,
    status_flags: c_int,
    offset: u64,
    call: &dyn Fn() -> isize,
) -> isize {
    let Some(board) = process::board() else {
        return call();
    };
    process::look_at_rules();
    let result = scratch::with(|scratch| {
        // SAFETY: handed on to our caller.
        let text = unsafe { paths::absolute(path.0, path.1, &mut scratch.text)? };
        // Removing another link leaves the captured one as it is. (One that leads to it through a symbolic link is
        // found missing by the replicator's next look at its directories.) That finds attributes too, and uncaptured changes
        // of them should cost little.
        let by_path = matches!(kind, Kind::Unlink | Kind::Attributes);
        if by_path && !process::rules().may_match(text) {
            return None;
        }
        // SAFETY: as above.
        let status = unsafe { kernel::status_at(path.0, path.1, status_flags)? };
        if !kernel::is_regular(&status) {
            return None;
        }
        let is_known = || board.has_inode(status.st_dev, status.st_ino);
        let group = process::rules()
            .group_of(text)
            .or_else(|| is_known().then_some(0))?;
        let state = process::current()?;
        let (ruled, data) = (|| Some(group), Bytes::UpTo(text.len()));
        let admitted = policies::admit(state, ruled, data, Cancel::Never, Refusal::Possible);
        let state = match admitted {
            Ok(state) => state,
            Err(refused) => return Some(refused),
        };
        let number = files::acquire(status.st_dev, status.st_ino, text, group);
        let (Some((name, _)), Some(ticket)) = (number.and_then(files::get), thread::enter(state))
        else {
            let result = call();
            if result == 0 {
                state.process.board.mark_gap(text);
            }
            if let Some(number) = number {
                files::release(number);
            }
            return Some(result);
        };
        let begin = ticket.lane.enter(&Target {
            device: status.st_dev,
            inode: status.st_ino,
            offset: 0,
            extent: UNKNOWN,
            group,
        });
        let result = call();
        if result == 0 {
            let operation = Operation {
                begin,
                end: clock::now(),
                ..operation(kind, offset, 0)
            };
            let data = if kind == Kind::Unlink { text } else { &[] };
            append(state, ticket.lane, &name, &operation, data);
        }
        ticket.lane.leave();
        ticket.done();
        files::release(name.number);
        Some(result)
    });
    match result.flatten() {
        Some(result) => result,
        None => call(),
    }
}
