//! POSIX locks, which a process loses with whichever descriptor of the file it closes: also with one that was never locked,
//! or isn't captured. While there are any, each close is looked at.

use super::{operation, report};
use crate::process::{self, State};
use crate::{files, kernel};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use counterfoil_lane::frame::Kind;
use libc::c_int;

/// Files that may be locked at once and are remembered.
const FILES_MAX: usize = 64;

/// Locked files: epoch of the process in the upper half, number of the file's name in the lower; 0 is free. A child has
/// none of its parent's locks, and takes entries of another epoch for free ones.
static LOCKED: [AtomicU64; FILES_MAX] = [const { AtomicU64::new(0) }; FILES_MAX];
/// One past the last entry that was ever used.
static END: AtomicU32 = AtomicU32::new(0);

fn entry_of(state: &State, name: u32) -> u64 {
    state.epoch << 32 | u64::from(name)
}

fn entries() -> &'static [AtomicU64] {
    LOCKED
        .get(..END.load(Ordering::Acquire) as usize)
        .unwrap_or_default()
}

/// Notes that the process has a lock on a file. False when there is no room for that.
pub(crate) fn hold(state: &State, name: u32) -> bool {
    let wanted = entry_of(state, name);
    if entries()
        .iter()
        .any(|entry| entry.load(Ordering::Acquire) == wanted)
    {
        return true;
    }
    if !files::retain(name) {
        return false;
    }
    for (at, entry) in LOCKED.iter().enumerate() {
        let there = entry.load(Ordering::Acquire);
        let is_free = there == 0 || there >> 32 != wanted >> 32;
        let taken = is_free
            && entry
                .compare_exchange(there, wanted, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if taken {
            END.fetch_max(at as u32 + 1, Ordering::AcqRel);
            if there != 0 {
                files::release(there as u32);
            }
            return true;
        }
    }
    files::release(name);
    false
}

/// Notes that the process has no lock on a file any more.
pub(crate) fn forget(state: &State, name: u32) {
    let known = entry_of(state, name);
    for entry in entries() {
        take(entry, known);
    }
}

/// Empties an entry. True when it was there.
fn take(entry: &AtomicU64, known: u64) -> bool {
    let taken = entry
        .compare_exchange(known, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok();
    if taken {
        files::release(known as u32);
    }
    taken
}

/// A descriptor is about to be closed: tells of the locks that go with it.
#[inline(always)]
pub(crate) fn give_up(fd: c_int) {
    let is_any = |entry: &AtomicU64| entry.load(Ordering::Relaxed) != 0;
    if entries().iter().any(is_any) {
        give_up_on(fd);
    }
}

#[cold]
fn give_up_on(fd: c_int) {
    let Some(state) = process::current().filter(|state| !process::is_borrowed(state)) else {
        return;
    };
    let is_own = |known: u64| known as u32 != 0 && known >> 32 == entry_of(state, 0) >> 32;
    if !entries()
        .iter()
        .any(|entry| is_own(entry.load(Ordering::Relaxed)))
    {
        return;
    }
    let Some(status) = kernel::status(fd) else {
        return;
    };
    for entry in entries() {
        let known = entry.load(Ordering::Acquire);
        if !is_own(known) {
            continue;
        }
        let number = known as u32;
        let is_it = files::get(number)
            .is_some_and(|(name, _)| name.device == status.st_dev && name.inode == status.st_ino);
        if is_it {
            report(
                state,
                number,
                &operation(Kind::Unlock, 0, u64::MAX),
                None,
                &[],
            );
            take(entry, known);
        }
    }
}
