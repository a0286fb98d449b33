//! What happens around a call: deciding whether it concerns a captured file, making it, reporting it.
//!
//! Every function here takes what the C function of its name takes and returns what the kernel does. Calls on captured
//! files publish the thread's in-flight slot before and append a frame after; the order of the steps (slot, begin,
//! call, position, end, frame, slot cleared) is what the sequencer's merge relies on.
//!
//! Functions that are cancellation points keep nothing across the call that would have to be dropped.

pub(crate) mod arriving;
pub(crate) mod attributes;
pub(crate) mod closing;
pub(crate) mod leaving;
pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod naming;
pub(crate) mod opening;
pub(crate) mod policies;
pub(crate) mod posix_locks;
pub(crate) mod units;
pub(crate) mod writing;

use crate::descriptors::{self, Released};
use crate::kernel::{self, Args};
use crate::process::{self, State};
use crate::{cancellation, files, patch, thread};
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::writer::{Lane, Name, Operation, Target};
use libc::{c_int, c_long};

/// Not known before the call, or: to the end of the file.
const UNKNOWN: u64 = u64::MAX;

/// Whether an entry of libc is a cancellation point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It is one.
    Point,
    /// libc uses it where it must not be cancelled.
    Never,
}

/// Makes an uncaptured call.
///
/// # Safety
/// As [`kernel::call`].
#[inline(always)]
unsafe fn uncaptured(cancel: Cancel, number: c_long, args: Args) -> isize {
    // SAFETY: handed on.
    unsafe {
        match cancel {
            Cancel::Point => cancellation::call(number, args),
            Cancel::Never => kernel::call(number, args),
        }
    }
}

/// The description behind a descriptor, 0 when it isn't captured; where closes may go unseen the file is compared.
#[inline(always)]
fn captured(fd: c_int) -> u32 {
    let description = descriptors::of(fd);
    if description != 0 && !patch::is_patched() && !is_still(fd, description) {
        forget(fd);
        return 0;
    }
    description
}

/// As [`captured`], by the rules that are in force now.
#[inline(always)]
fn captured_now(fd: c_int) -> u32 {
    match captured(fd) {
        0 if process::look_at_rules() => captured(fd),
        description => description,
    }
}

#[cold]
fn is_still(fd: c_int, description: u32) -> bool {
    let name = descriptors::view(description).and_then(|view| files::get(view.name));
    match (name, kernel::status(fd)) {
        (Some((name, _)), Some(status)) => {
            name.device == status.st_dev && name.inode == status.st_ino
        }
        _ => false,
    }
}

/// Ends the capture of a descriptor whose close wasn't seen.
#[cold]
fn forget(fd: c_int) {
    if let Some(released) = descriptors::forget(fd) {
        close_unseen(released);
    }
}

/// Tells that a description is closed, after the fact.
fn close_unseen(released: Released) {
    if released.is_used
        && let Some(state) = process::current()
    {
        report(
            state,
            released.name,
            &operation(Kind::Close, 0, 0),
            None,
            &[],
        );
    }
    files::release(released.name);
}

fn operation(kind: Kind, offset: u64, extent: u64) -> Operation {
    Operation {
        kind,
        flags: 0,
        begin: 0,
        end: 0,
        offset,
        extent,
    }
}

/// Appends a frame for what has happened already: its times are now, but for `begin` when that is known.
fn report(
    state: &'static State,
    name_number: u32,
    operation: &Operation,
    begin: Option<u64>,
    data: &[u8],
) {
    let Some((name, group)) = files::get(name_number) else {
        return;
    };
    let Some(ticket) = thread::enter(state) else {
        state.process.board.mark_gap(name.path);
        return;
    };
    let target = Target {
        device: name.device,
        inode: name.inode,
        offset: 0,
        extent: 0,
        group,
    };
    let entered = ticket.lane.enter(&target);
    let operation = Operation {
        begin: begin.unwrap_or(entered),
        end: clock::now(),
        ..*operation
    };
    append(state, ticket.lane, &name, &operation, data);
    ticket.lane.leave();
    ticket.done();
}

/// Appends a frame whose times are set; a gap when there is no room.
fn append(state: &State, lane: &mut Lane, name: &Name<'_>, operation: &Operation, data: &[u8]) {
    let parts = [libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    }];
    // SAFETY: the part is `data`.
    let appended =
        unsafe { lane.append(&state.process, Some(name), operation, &parts, data.len()) };
    if !appended {
        state.process.board.mark_gap(name.path);
    }
}
