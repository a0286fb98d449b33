//! Closing and duplicating: keeping the table of descriptors right.

use super::policies::{self, Bytes, Refusal};
use super::{Cancel, append, captured, close_unseen, operation, posix_locks, uncaptured};
use crate::descriptors::{self, Released};
use crate::kernel::{self, Args};
use crate::process::{self, State};
use crate::{cancellation, files, thread};
use counterfoil_lane::clock;
use counterfoil_lane::frame::{CLOSE_KEEPS_LOCKS, Kind};
use counterfoil_lane::writer::{Operation, Target};
use libc::{c_int, c_long, c_uint};

const CLOSE_RANGE_CLOEXEC: c_uint = 4;

/// `close`.
#[inline(always)]
pub(crate) fn close(fd: c_int, cancel: Cancel) -> isize {
    let args = [fd as usize, 0, 0, 0, 0, 0];
    posix_locks::give_up(fd);
    if descriptors::of(fd) == 0 {
        // SAFETY: the call touches no memory.
        return unsafe { uncaptured(cancel, libc::SYS_close, args) };
    }
    close_captured(fd, args, cancel)
}

fn close_captured(fd: c_int, args: Args, cancel: Cancel) -> isize {
    let state = process::current().filter(|state| !process::is_borrowed(state));
    let Some(state) = state else {
        // SAFETY: the call touches no memory.
        return unsafe { uncaptured(cancel, libc::SYS_close, args) };
    };
    if cancel == Cancel::Point {
        cancellation::test();
    }
    captured(fd);
    // Before the call: after it another thread may be given the same number.
    let released = descriptors::forget(fd);
    // SAFETY: the call touches no memory.
    let call = || unsafe { kernel::call(libc::SYS_close, args) };
    let Some(released) = released else {
        return call();
    };
    let result = closing(state, released, call);
    files::release(released.name);
    result
}

/// Makes the call that gives up a description. The frame's time is before it: what the close gives up (locks), others
/// may take at once, and their frames must come later.
fn closing(state: &'static State, released: Released, call: impl Fn() -> isize) -> isize {
    if !released.is_used {
        return call();
    }
    let Some((name, group)) = files::get(released.name) else {
        return call();
    };
    let (group_of, nothing) = (|| Some(group), Bytes::UpTo(0));
    let admitted = policies::admit(state, group_of, nothing, Cancel::Never, Refusal::Impossible);
    let Some(ticket) = thread::enter(admitted.unwrap_or(state)) else {
        return call();
    };
    let begin = ticket.lane.enter(&Target {
        device: name.device,
        inode: name.inode,
        offset: 0,
        extent: 0,
        group,
    });
    let end = clock::now();
    let result = call();
    if result != -(libc::EBADF as isize) {
        let operation = Operation {
            begin,
            end,
            flags: if released.is_locked {
                0
            } else {
                CLOSE_KEEPS_LOCKS
            },
            ..operation(Kind::Close, 0, 0)
        };
        append(
            admitted.unwrap_or(state),
            ticket.lane,
            &name,
            &operation,
            &[],
        );
    }
    ticket.lane.leave();
    ticket.done();
    result
}

/// `close_range`.
pub(crate) fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> isize {
    let is_closing = flags & CLOSE_RANGE_CLOEXEC == 0 && first <= last;
    if is_closing && let Some(state) = process::current() {
        forget_range(state, first, last);
    }
    // SAFETY: the call touches no memory.
    let result = unsafe {
        kernel::call(
            libc::SYS_close_range,
            [first as usize, last as usize, flags as usize, 0, 0, 0],
        )
    };
    if is_closing
        && kernel::failed(result)
        && let Some(state) = process::current()
        && !process::is_borrowed(state)
    {
        super::opening::adopt_all(state, None);
    }
    result
}

/// Ends the capture of a range of descriptors that are about to be closed.
pub(crate) fn forget_range(state: &'static State, first: c_uint, last: c_uint) {
    let mut checked = false;
    for fd in descriptors::captured_in(first, last) {
        if !checked && process::is_borrowed(state) {
            return;
        }
        checked = true;
        if let Some(released) = descriptors::forget(fd) {
            close_unseen(released);
        }
    }
}

/// `dup`, `dup2`, `dup3` and `fcntl(F_DUPFD)`: makes the call and copies the capture of `old` to what it returns.
///
/// # Safety
/// The call must be one of these.
#[inline(always)]
pub(crate) unsafe fn duplicate(old: c_int, number: c_long, args: Args) -> isize {
    // SAFETY: no memory is passed.
    let result = unsafe { kernel::call(number, args) };
    if !kernel::failed(result) {
        let new = result as c_int;
        if old != new && (descriptors::of(old) != 0 || descriptors::of(new) != 0) {
            duplicated(old, new);
        }
    }
    result
}

fn duplicated(old: c_int, new: c_int) {
    let Some(state) = process::current().filter(|state| !process::is_borrowed(state)) else {
        return;
    };
    captured(old);
    if let Some(released) = descriptors::duplicate(old, new) {
        close_unseen(released);
    }
    if descriptors::of(old) != 0 && descriptors::of(new) == 0 {
        // Beyond the table.
        let view = descriptors::view(descriptors::of(old));
        if let Some((name, _)) = view.and_then(|view| files::get(view.name)) {
            state.process.board.mark_gap(name.path);
        }
    }
}

/// `fcntl(F_SETFL)`.
pub(crate) fn set_flags(fd: c_int, flags: usize) -> isize {
    // SAFETY: no memory is passed.
    let result = unsafe {
        kernel::call(
            libc::SYS_fcntl,
            [fd as usize, libc::F_SETFL as usize, flags, 0, 0, 0],
        )
    };
    let description = descriptors::of(fd);
    if result == 0 && description != 0 {
        descriptors::set_append(description, flags & libc::O_APPEND as usize != 0);
    }
    result
}
