//! Shared mappings: from when to when a file changes without calls. What was changed in them nobody sees; frames say
//! where to look, and for how long.

use super::{Cancel, captured_now, operation, report, uncaptured};
use crate::descriptors;
use crate::files;
use crate::kernel;
use crate::mappings::{self, Part};
use crate::process::{self, State};
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use libc::{c_int, c_long};

const MAP_TYPE: c_int = 0xf;
const PAGE_BYTES: usize = 4096;

/// Where a range of memory ends, in whole pages. Where pages are larger, what is left of a mapping counts on.
fn end_of(start: usize, len: usize) -> usize {
    let page = PAGE_BYTES - 1;
    start.saturating_add(len.saturating_add(page) & !page)
}

/// Says something of a part of a file; to a replicator that doesn't know of mappings, that it may have changed.
fn tell(state: &'static State, kind: Kind, part: &Part, begin: u64) {
    let kind = if state.knows(kind) {
        kind
    } else {
        Kind::Reread
    };
    let operation = operation(kind, part.offset, part.len());
    report(state, part.name, &operation, Some(begin), &[]);
}

/// `mmap`.
///
/// # Safety
/// As the program's own call.
#[inline(always)]
pub(crate) unsafe fn map(args: kernel::Args) -> isize {
    let [_, _, _, flags, fd, _] = args;
    let flags = flags as c_int;
    let is_shared = matches!(
        flags & MAP_TYPE,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE
    ) && flags & libc::MAP_ANONYMOUS == 0;
    let replaces = flags & libc::MAP_FIXED != 0 && mappings::any();
    let description = if is_shared {
        captured_now(fd as c_int)
    } else {
        0
    };
    // SAFETY: handed on to our caller.
    unsafe {
        if description == 0 && !replaces {
            return kernel::call(libc::SYS_mmap, args);
        }
        map_captured(args, description, replaces)
    }
}

/// # Safety
/// As [`map`].
#[cold]
unsafe fn map_captured(args: kernel::Args, description: u32, replaces: bool) -> isize {
    let [address, len, protection, _, _, offset] = args;
    // SAFETY: handed on to our caller.
    let call = || unsafe { kernel::call(libc::SYS_mmap, args) };
    let Some(state) = process::current() else {
        return call();
    };
    let begin = clock::now();
    let leaving = replaces.then(|| mappings::leave(address, end_of(address, len)));
    let result = call();
    if let Some(ticket) = leaving {
        settle(state, ticket, begin, !kernel::failed(result));
    }
    if kernel::failed(result) {
        return result;
    }
    if let Some(view) = descriptors::view(description)
        && files::retain(view.name)
    {
        let start = result as usize;
        add(
            state,
            Part {
                name: view.name,
                start,
                end: end_of(start, len),
                offset: offset as u64,
                is_told: protection as c_int & libc::PROT_WRITE != 0,
                heirs: 0,
            },
            begin,
        );
        descriptors::set_used(description, view);
    }
    result
}

/// Notes a mapping, whose name the caller retained, and tells of it when it is writable. One that doesn't fit into the
/// table is told in any case, as nobody will notice when it becomes writable.
fn add(state: &'static State, part: Part, begin: u64) {
    let added = mappings::add(&part);
    if part.is_told || !added {
        tell(state, Kind::Map, &part, begin);
    }
    if !added {
        files::release(part.name);
    }
}

/// Tells what became of the parts that were leaving.
fn settle(state: &'static State, ticket: u64, begin: u64, is_gone: bool) {
    if is_gone {
        for part in mappings::leaving(ticket).filter(|part| part.is_told) {
            ended(state, &part, begin);
        }
        mappings::gone(ticket);
    } else {
        for part in mappings::leaving(ticket).filter(|part| part.is_told) {
            // What was one mapping is counted as several from now on.
            for _ in 0..part.heirs {
                tell(state, Kind::Map, &part, begin);
            }
        }
        mappings::stay(ticket);
    }
}

/// A part ended: the mapping as a whole, or what is left of it counts on.
fn ended(state: &'static State, part: &Part, begin: u64) {
    match part.heirs {
        0 => tell(state, Kind::Unmap, part, begin),
        heirs => {
            for _ in 1..heirs {
                tell(state, Kind::Map, part, begin);
            }
            tell(state, Kind::Reread, part, begin);
        }
    }
}

/// `munmap`.
///
/// # Safety
/// As the program's own call.
#[inline(always)]
pub(crate) unsafe fn unmap(address: usize, len: usize) -> isize {
    // SAFETY: handed on to our caller.
    let call = || unsafe { kernel::call(libc::SYS_munmap, [address, len, 0, 0, 0, 0]) };
    if !mappings::any() {
        return call();
    }
    let Some(state) = process::current() else {
        return call();
    };
    let begin = clock::now();
    let ticket = mappings::leave(address, end_of(address, len));
    let result = call();
    settle(state, ticket, begin, result == 0);
    result
}

/// `mremap`.
///
/// # Safety
/// As the program's own call.
pub(crate) unsafe fn remap(args: kernel::Args) -> isize {
    let [old, old_len, new_len, flags, new, _] = args;
    // SAFETY: handed on to our caller.
    let call = || unsafe { kernel::call(libc::SYS_mremap, args) };
    if !mappings::any() {
        return call();
    }
    let Some(state) = process::current() else {
        return call();
    };
    let flags = flags as c_int;
    let begin = clock::now();
    // The old way to have a mapping twice: a length of 0.
    let is_copy = old_len == 0 || flags & MREMAP_DONTUNMAP != 0;
    let old_end = end_of(old, old_len.max(1));
    let replaced =
        (flags & libc::MREMAP_FIXED != 0).then(|| mappings::leave(new, end_of(new, new_len)));
    let ticket = mappings::leave(old, old_end);
    let result = call();
    let moved = !kernel::failed(result);
    if let Some(ticket) = replaced {
        settle(state, ticket, begin, moved);
    }
    if moved {
        let start = result as usize;
        let end = end_of(start, new_len);
        for part in mappings::leaving(ticket) {
            let from = start.saturating_add(part.start - old);
            // The last part grows with the mapping, or all of it when it is a copy.
            let to = if part.end == old_end || is_copy {
                end
            } else {
                start.saturating_add(part.end - old).min(end)
            };
            if from < to && files::retain(part.name) {
                let part = Part {
                    start: from,
                    end: to,
                    heirs: 0,
                    ..part
                };
                add(state, part, begin);
            }
        }
    }
    settle(state, ticket, begin, moved && !is_copy);
    result
}

const MREMAP_DONTUNMAP: c_int = 4;

/// `mprotect` and `pkey_mprotect`: what wasn't writable may become so.
///
/// # Safety
/// As the program's own call.
#[inline(always)]
pub(crate) unsafe fn protect(number: c_long, args: kernel::Args) -> isize {
    let [address, len, protection, ..] = args;
    // SAFETY: handed on to our caller.
    let result = unsafe { kernel::call(number, args) };
    if result == 0
        && mappings::any()
        && protection as c_int & libc::PROT_WRITE != 0
        && let Some(state) = process::current()
    {
        let begin = clock::now();
        for part in mappings::tell_in_range(address, end_of(address, len)) {
            tell(state, Kind::Map, &part, begin);
        }
    }
    result
}

/// `msync`. What is in the range is read now; `MS_SYNC` is as durable as `fsync`.
///
/// # Safety
/// As the program's own call.
pub(crate) unsafe fn sync(address: usize, len: usize, flags: c_int, cancel: Cancel) -> isize {
    let begin = if mappings::any() { clock::now() } else { 0 };
    let args = [address, len, flags as usize, 0, 0, 0];
    // SAFETY: handed on to our caller.
    let result = unsafe { uncaptured(cancel, libc::SYS_msync, args) };
    if result == 0
        && begin != 0
        && flags & (libc::MS_SYNC | libc::MS_ASYNC) != 0
        && let Some(state) = process::current()
    {
        let parts =
            || mappings::in_range(address, end_of(address, len)).filter(|part| part.is_told);
        for part in parts() {
            tell(state, Kind::Reread, &part, begin);
        }
        if flags & libc::MS_SYNC != 0 {
            for part in parts() {
                report(
                    state,
                    part.name,
                    &operation(Kind::Sync, 0, 0),
                    Some(begin),
                    &[],
                );
            }
        }
    }
    result
}

/// Tells of everything that is mapped: in a forked child, which has it too.
pub(crate) fn tell_all(state: &'static State) {
    if mappings::any() {
        let begin = clock::now();
        for part in mappings::in_range(0, usize::MAX).filter(|part| part.is_told) {
            tell(state, Kind::Map, &part, begin);
        }
    }
}
