//! Locks, which mark units of work. The frame of a lock is timed after the call that took it, that of an unlock before
//! the call that gives it up: so the writes it protects lie between, in every merge of several programs' frames.

use super::policies::{self, Bytes, Refusal};
use super::{Cancel, append, captured, operation, posix_locks, report, uncaptured};
use crate::descriptors;
use crate::kernel;
use crate::process;
use crate::{files, thread};
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::writer::{Operation, Target};
use libc::{c_int, c_long};

const WHOLE_FILE: (u64, u64) = (0, u64::MAX);

/// `fcntl` with `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK` and `F_OFD_SETLKW`.
///
/// # Safety
/// `lock` must be what the program gave.
pub(crate) unsafe fn record_lock(fd: c_int, command: c_int, lock: usize, cancel: Cancel) -> isize {
    let args = [fd as usize, command as usize, lock, 0, 0, 0];
    let waits = command == libc::F_SETLKW || command == libc::F_OFD_SETLKW;
    let cancel = if waits { cancel } else { Cancel::Never };
    // SAFETY: the structure is only read when it isn't null; the kernel checks it for itself.
    unsafe {
        if descriptors::of(fd) == 0 || captured(fd) == 0 || lock < 4096 {
            return uncaptured(cancel, libc::SYS_fcntl, args);
        }
        let lock = &*(lock as *const libc::flock);
        let is_unlock = c_int::from(lock.l_type) == libc::F_UNLCK;
        let range = range_of(fd, lock);
        around(fd, libc::SYS_fcntl, args, cancel, is_unlock, range)
    }
}

/// `flock`.
pub(crate) fn flock(fd: c_int, how: c_int) -> isize {
    let args = [fd as usize, how as usize, 0, 0, 0, 0];
    // SAFETY: no memory is passed.
    unsafe {
        if descriptors::of(fd) == 0 || captured(fd) == 0 {
            return kernel::call(libc::SYS_flock, args);
        }
        let is_unlock = how & !libc::LOCK_NB == libc::LOCK_UN;
        around(
            fd,
            libc::SYS_flock,
            args,
            Cancel::Never,
            is_unlock,
            WHOLE_FILE,
        )
    }
}

/// `lockf`, which is `fcntl` on the range from the file offset.
pub(crate) fn lockf(fd: c_int, command: c_int, len: i64) -> isize {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_CUR as _,
        l_start: 0,
        l_len: len,
        l_pid: 0,
    };
    let command = match command {
        libc::F_TEST => {
            lock.l_type = libc::F_RDLCK as _;
            // SAFETY: the structure is ours.
            let result = unsafe {
                kernel::call(
                    libc::SYS_fcntl,
                    [
                        fd as usize,
                        libc::F_GETLK as usize,
                        (&raw mut lock) as usize,
                        0,
                        0,
                        0,
                    ],
                )
            };
            let is_ours = c_int::from(lock.l_type) == libc::F_UNLCK
                || lock.l_pid as u32 == counterfoil_lane::sys::process_id();
            return match result {
                0 if is_ours => 0,
                0 => -(libc::EACCES as isize),
                error => error,
            };
        }
        libc::F_ULOCK => {
            lock.l_type = libc::F_UNLCK as _;
            libc::F_SETLK
        }
        libc::F_LOCK => libc::F_SETLKW,
        libc::F_TLOCK => libc::F_SETLK,
        _ => return -(libc::EINVAL as isize),
    };
    // SAFETY: the structure is ours and outlives the call.
    unsafe { record_lock(fd, command, (&raw const lock) as usize, Cancel::Point) }
}

/// The range that a lock speaks of, from the beginning of the file.
fn range_of(fd: c_int, lock: &libc::flock) -> (u64, u64) {
    let base = match c_int::from(lock.l_whence) {
        libc::SEEK_CUR => kernel::position(fd).unwrap_or(0),
        libc::SEEK_END => kernel::status(fd).map_or(0, |status| status.st_size as u64),
        _ => 0,
    };
    let start = (base as i64).saturating_add(lock.l_start);
    let (start, len) = if lock.l_len < 0 {
        (
            start.saturating_add(lock.l_len),
            lock.l_len.saturating_neg(),
        )
    } else {
        (start, lock.l_len)
    };
    let extent = if len == 0 { u64::MAX } else { len as u64 };
    (start.max(0) as u64, extent)
}

/// Makes the call and reports it.
///
/// # Safety
/// The call must be one of the above.
unsafe fn around(
    fd: c_int,
    number: c_long,
    args: kernel::Args,
    cancel: Cancel,
    is_unlock: bool,
    (offset, extent): (u64, u64),
) -> isize {
    let description = descriptors::of(fd);
    let view = descriptors::view(description);
    let parts = (
        process::current(),
        view.and_then(|view| files::get(view.name)),
    );
    if let Some(view) = view {
        descriptors::set_used(description, view);
    }
    // SAFETY: handed on to our caller.
    unsafe {
        let (Some(state), Some((name, group))) = parts else {
            return uncaptured(cancel, number, args);
        };
        let (group_of, nothing) = (|| Some(group), Bytes::UpTo(0));
        let admitted = policies::admit(state, group_of, nothing, cancel, Refusal::Impossible);
        let state = admitted.unwrap_or(state);
        if !is_unlock {
            // May wait long for somebody else: the slot isn't published meanwhile, as nothing changes.
            let begin = clock::now();
            let result = uncaptured(cancel, number, args);
            if result == 0 {
                let is_posix = number == libc::SYS_fcntl
                    && matches!(args[1] as c_int, libc::F_SETLK | libc::F_SETLKW);
                if !is_posix || !posix_locks::hold(state, name.number) {
                    descriptors::set_locked(description);
                }
                report(
                    state,
                    name.number,
                    &operation(Kind::Lock, offset, extent),
                    Some(begin),
                    &[],
                );
            }
            return result;
        }
        let Some(ticket) = thread::enter(state) else {
            return kernel::call(number, args);
        };
        let begin = ticket.lane.enter(&Target {
            device: name.device,
            inode: name.inode,
            offset: 0,
            extent: 0,
            group,
        });
        let end = clock::now();
        let result = kernel::call(number, args);
        if result == 0 {
            let operation = Operation {
                begin,
                end,
                ..operation(Kind::Unlock, offset, extent)
            };
            append(state, ticket.lane, &name, &operation, &[]);
            if (offset, extent) == WHOLE_FILE {
                posix_locks::forget(state, name.number);
            }
        }
        ticket.lane.leave();
        ticket.done();
        result
    }
}
