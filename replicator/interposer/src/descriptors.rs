//! Descriptors: which of them are captured, and the open file descriptions behind them.
//!
//! One table of numbers by descriptor, one of descriptions; atomics, no locks. A captured call reads what it needs of
//! the description before it begins, so that a concurrent close can't lend it another file's name.

use crate::files;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use libc::c_int;

const DESCRIPTORS_MAX: usize = 1 << 20;
const DESCRIPTIONS_MAX: usize = 1 << 16;

/// [`View::flags`]: opened with `O_APPEND`, or set since.
pub(crate) const APPEND: u32 = 1;
/// [`View::flags`]: a frame spoke of it, so its close is told as well.
pub(crate) const USED: u32 = 2;
/// [`View::flags`]: came from another process.
pub(crate) const INHERITED: u32 = 4;
/// [`View::flags`]: it was locked itself (`flock`, open file description locks), so its close gives that up.
pub(crate) const LOCKED: u32 = 8;

struct Description {
    /// How many descriptors of this process lead to it; 0 is a free entry.
    users: AtomicU32,
    name: AtomicU32,
    flags: AtomicU32,
    /// Count of forks when it was made.
    forks: AtomicU32,
    floor: AtomicU64,
}

/// What a captured call needs to know of a description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Number of the file's name.
    pub(crate) name: u32,
    /// [`APPEND`], [`USED`], [`INHERITED`].
    pub(crate) flags: u32,
    /// Whether other processes may have it too, and move its offset.
    pub(crate) is_shared: bool,
    /// Size of the file when it was opened: nothing is appended before it.
    pub(crate) floor: u64,
}

/// A description that no descriptor of this process leads to any more. Its name is to be released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Released {
    /// Number of the file's name.
    pub(crate) name: u32,
    /// Whether a frame spoke of it.
    pub(crate) is_used: bool,
    /// Whether it may have held a lock.
    pub(crate) is_locked: bool,
}

static TABLE: [AtomicU32; DESCRIPTORS_MAX] = [const { AtomicU32::new(0) }; DESCRIPTORS_MAX];
static DESCRIPTIONS: [Description; DESCRIPTIONS_MAX] = [const {
    Description {
        users: AtomicU32::new(0),
        name: AtomicU32::new(0),
        flags: AtomicU32::new(0),
        forks: AtomicU32::new(0),
        floor: AtomicU64::new(0),
    }
}; DESCRIPTIONS_MAX];

/// Where the search for a free description goes on.
static HAND: AtomicU32 = AtomicU32::new(1);
/// One past the highest descriptor ever captured.
static DESCRIPTORS_END: AtomicU32 = AtomicU32::new(0);
/// One past the highest description ever used.
static DESCRIPTIONS_END: AtomicU32 = AtomicU32::new(1);
/// Grows with everything that lets another process share what is open.
pub(crate) static FORKS: AtomicU32 = AtomicU32::new(0);

/// Number of the description behind a descriptor, 0 when it isn't captured.
#[inline(always)]
pub(crate) fn of(fd: c_int) -> u32 {
    TABLE
        .get(fd as u32 as usize)
        .map_or(0, |entry| entry.load(Ordering::Acquire))
}

/// Notes that another process may share all that is open now.
pub(crate) fn share_all() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// What is known of a description.
#[inline(always)]
pub(crate) fn view(description: u32) -> Option<View> {
    let entry = DESCRIPTIONS.get(description as usize)?;
    let flags = entry.flags.load(Ordering::Relaxed);
    let forks = entry.forks.load(Ordering::Relaxed);
    let view = View {
        name: entry.name.load(Ordering::Relaxed),
        flags,
        is_shared: flags & INHERITED != 0 || forks != FORKS.load(Ordering::Relaxed),
        floor: entry.floor.load(Ordering::Relaxed),
    };
    (entry.users.load(Ordering::Relaxed) != 0 && view.name != 0).then_some(view)
}

/// Notes that a frame speaks of the description.
#[inline(always)]
pub(crate) fn set_used(description: u32, view: View) {
    if view.flags & USED == 0
        && let Some(entry) = DESCRIPTIONS.get(description as usize)
    {
        entry.flags.fetch_or(USED, Ordering::Relaxed);
    }
}

/// Notes that the description itself was locked.
pub(crate) fn set_locked(description: u32) {
    if let Some(entry) = DESCRIPTIONS.get(description as usize) {
        entry.flags.fetch_or(LOCKED, Ordering::Relaxed);
    }
}

/// Follows `fcntl(F_SETFL)`.
pub(crate) fn set_append(description: u32, append: bool) {
    if let Some(entry) = DESCRIPTIONS.get(description as usize) {
        if append {
            entry.flags.fetch_or(APPEND, Ordering::Relaxed);
        } else {
            entry.flags.fetch_and(!APPEND, Ordering::Relaxed);
        }
    }
}

/// Captures a descriptor. The caller's use of the name goes over to the description. When there is no room (false)
/// it stays with the caller. `replaced` gets what the entry held before: a close that wasn't seen.
pub(crate) fn capture(
    fd: c_int,
    name: u32,
    flags: u32,
    floor: u64,
    replaced: &mut Option<Released>,
) -> bool {
    let fd = fd as u32;
    let Some(slot) = TABLE.get(fd as usize) else {
        return false;
    };
    let Some(description) = claim() else {
        return false;
    };
    let Some(entry) = DESCRIPTIONS.get(description as usize) else {
        return false;
    };
    entry.name.store(name, Ordering::Relaxed);
    entry.flags.store(flags, Ordering::Relaxed);
    entry
        .forks
        .store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
    entry.floor.store(floor, Ordering::Relaxed);
    DESCRIPTORS_END.fetch_max(fd.saturating_add(1), Ordering::Relaxed);
    *replaced = release(slot.swap(description, Ordering::AcqRel));
    true
}

/// Makes `new` lead where `old` does, as `dup2` did in the kernel. Returns what `new` led to, when that was the last.
pub(crate) fn duplicate(old: c_int, new: c_int) -> Option<Released> {
    if old == new {
        return None;
    }
    let description = of(old);
    if description == 0 {
        return forget(new);
    }
    let slot = TABLE.get(new as u32 as usize)?;
    let entry = DESCRIPTIONS.get(description as usize)?;
    let retained = entry
        .users
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| {
            (users != 0 && users < u32::MAX).then(|| users + 1)
        });
    if retained.is_err() {
        return forget(new);
    }
    DESCRIPTORS_END.fetch_max((new as u32).saturating_add(1), Ordering::Relaxed);
    release(slot.swap(description, Ordering::AcqRel))
}

/// Ends the capture of a descriptor. Returns the description when that was its last.
pub(crate) fn forget(fd: c_int) -> Option<Released> {
    let slot = TABLE.get(fd as u32 as usize)?;
    if slot.load(Ordering::Relaxed) == 0 {
        return None;
    }
    release(slot.swap(0, Ordering::AcqRel))
}

/// Captured descriptors in a range, both ends included.
pub(crate) fn captured_in(first: u32, last: u32) -> impl Iterator<Item = c_int> {
    let end = DESCRIPTORS_END
        .load(Ordering::Relaxed)
        .min(last.saturating_add(1));
    (first..end).map(|fd| fd as c_int).filter(|&fd| of(fd) != 0)
}

/// Gives every description of this file a new name; for renames.
pub(crate) fn rename(device: u64, inode: u64, new_name: u32) {
    let end = DESCRIPTIONS_END.load(Ordering::Relaxed) as usize;
    for entry in DESCRIPTIONS.get(1..end).unwrap_or_default() {
        if entry.users.load(Ordering::Acquire) == 0 {
            continue;
        }
        let old_name = entry.name.load(Ordering::Relaxed);
        let same = files::get(old_name)
            .is_some_and(|(name, _)| name.device == device && name.inode == inode);
        if same && old_name != new_name && files::retain(new_name) {
            let swapped = entry.name.compare_exchange(
                old_name,
                new_name,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            files::release(if swapped.is_ok() { old_name } else { new_name });
        }
    }
}

fn release(description: u32) -> Option<Released> {
    if description == 0 {
        return None;
    }
    let entry = DESCRIPTIONS.get(description as usize)?;
    let flags = entry.flags.load(Ordering::Relaxed);
    let released = Released {
        name: entry.name.load(Ordering::Relaxed),
        is_used: flags & USED != 0,
        is_locked: flags & LOCKED != 0,
    };
    let before = entry
        .users
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| {
            users.checked_sub(1)
        });
    (before == Ok(1)).then_some(released)
}

/// Takes a free description, with one user.
fn claim() -> Option<u32> {
    (0..DESCRIPTIONS_MAX).find_map(|_| {
        // Stays near the beginning while few are open, so that few pages are touched.
        let hand = HAND.fetch_add(1, Ordering::Relaxed);
        let end = DESCRIPTIONS_END.load(Ordering::Relaxed);
        let span = end.saturating_add(8).min(DESCRIPTIONS_MAX as u32);
        let number = hand % span;
        let entry = DESCRIPTIONS.get(number as usize)?;
        let claimed = number != 0
            && entry
                .users
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        claimed.then(|| {
            DESCRIPTIONS_END.fetch_max(number + 1, Ordering::Relaxed);
            number
        })
    })
}
