//! Permissions, owner and times. What they are now the file itself has; frames only say that they were changed.

use super::{naming, operation, report};
use crate::process;
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use libc::{c_char, c_int};

/// Makes a call that changes attributes of an open file.
#[inline(always)]
pub(crate) fn of_descriptor(fd: c_int, call: &dyn Fn() -> isize) -> isize {
    let description = super::captured(fd);
    if description == 0 {
        return call();
    }
    let begin = clock::now();
    let result = call();
    if result == 0
        && let Some(state) = process::current().filter(|state| state.knows(Kind::Attributes))
        && let Some(view) = crate::descriptors::view(description)
    {
        let operation = operation(Kind::Attributes, 0, 0);
        report(state, view.name, &operation, Some(begin), &[]);
    }
    result
}

/// Makes a call that changes attributes of the file at a path, found as these flags of `fstatat` say.
///
/// # Safety
/// The path must be what the program gave.
pub(crate) unsafe fn of_path(
    path: (usize, *const c_char),
    flags: c_int,
    call: &dyn Fn() -> isize,
) -> isize {
    if flags & libc::AT_EMPTY_PATH != 0 {
        // SAFETY: the program's path ends with NUL, or its own call would fail too.
        let is_empty = (path.1 as usize) < 4096 || unsafe { path.1.read() } == 0;
        if is_empty {
            return of_descriptor(path.0 as c_int, call);
        }
    }
    let is_wanted = process::board().is_some_and(|board| {
        board.revision.load(core::sync::atomic::Ordering::Relaxed) >= Kind::Attributes.revision()
    });
    if !is_wanted {
        return call();
    }
    let flags = flags & libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: handed on to our caller.
    unsafe { naming::changed(path, Kind::Attributes, flags, 0, call) }
}
