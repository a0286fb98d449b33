//! Names: the files this process speaks of in its frames.
//!
//! A name is a number for (device, inode, path). Opening the same file again gives the same number, so lanes don't
//! announce it again. A name that nobody uses is given to another file when all numbers are taken. No locks: whoever
//! holds a reference may read, whoever claimed an unused name may write.

use crate::arena;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use counterfoil_lane::writer::{NAMES_MAX, Name};

/// Longest path that is captured, in bytes.
const PATH_BYTES_MAX: usize = crate::scratch::PATH_BYTES_MAX;
/// The value of `users` of a name that is being written.
const CLAIMED: u32 = u32::MAX;
const INDEX_SLOTS: usize = 1 << 17;
const PROBES_MAX: usize = 8;

struct Entry {
    users: AtomicU32,
    body: UnsafeCell<Body>,
}

struct Body {
    generation: u32,
    group: u16,
    device: u64,
    inode: u64,
    path: *mut u8,
    path_len: usize,
    /// Bytes of memory at `path`.
    room: usize,
}

impl Body {
    #[inline(always)]
    fn path(&self) -> &'static [u8] {
        if self.path.is_null() {
            return &[];
        }
        // SAFETY: memory of the arena, at least that long, which nobody writes to while there are users.
        unsafe { core::slice::from_raw_parts(self.path, self.path_len) }
    }
}

// SAFETY: `users` says who may touch the body; see above.
unsafe impl Sync for Entry {}

static ENTRIES: [Entry; NAMES_MAX] = [const {
    Entry {
        users: AtomicU32::new(0),
        body: UnsafeCell::new(Body {
            generation: 0,
            group: 0,
            device: 0,
            inode: 0,
            path: core::ptr::null_mut(),
            path_len: 0,
            room: 0,
        }),
    }
}; NAMES_MAX];

/// How many numbers were ever given out; number 0 means "none".
static USED: AtomicU32 = AtomicU32::new(1);
/// Where the search for an unused name goes on.
static HAND: AtomicU32 = AtomicU32::new(1);
/// Numbers by hash: a cache. What isn't found gets a new number, which costs one more announcement.
static INDEX: [AtomicU32; INDEX_SLOTS] = [const { AtomicU32::new(0) }; INDEX_SLOTS];

/// Gives the number of a file's name and counts the caller as a user. `None` when there is no room for it.
pub(crate) fn acquire(device: u64, inode: u64, path: &[u8], group: u16) -> Option<u32> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return None;
    }
    let start = hash(device, inode, path) % INDEX_SLOTS;
    let mut vacant = start;
    for probe in 0..PROBES_MAX {
        let at = (start + probe) % INDEX_SLOTS;
        let number = INDEX.get(at)?.load(Ordering::Acquire);
        if number == 0 {
            vacant = at;
            break;
        }
        if retain(number) {
            // SAFETY: we are a user now.
            let body = unsafe { &*ENTRIES.get(number as usize)?.body.get() };
            let same = body.device == device
                && body.inode == inode
                && body.path() == path
                && body.group == group;
            if same {
                return Some(number);
            }
            release(number);
        }
    }
    let number = claim()?;
    let entry = ENTRIES.get(number as usize)?;
    // SAFETY: claimed by us.
    let body = unsafe { &mut *entry.body.get() };
    let stored = store(body, path);
    if stored {
        body.generation = body.generation.wrapping_add(1).max(1);
        body.group = group;
        body.device = device;
        body.inode = inode;
    }
    entry.users.store(u32::from(stored), Ordering::Release);
    if !stored {
        return None;
    }
    INDEX.get(vacant)?.store(number, Ordering::Release);
    Some(number)
}

/// Counts another user of a name. False when it is being written.
pub(crate) fn retain(number: u32) -> bool {
    let Some(entry) = ENTRIES.get(number as usize) else {
        return false;
    };
    entry
        .users
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| {
            (users < CLAIMED - 1).then_some(users + 1)
        })
        .is_ok()
}

/// Ends a use.
pub(crate) fn release(number: u32) {
    if let Some(entry) = ENTRIES.get(number as usize) {
        let _ = entry
            .users
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| {
                (users != 0 && users != CLAIMED).then(|| users - 1)
            });
    }
}

/// The name with this number, for a user of it, and its group.
#[inline(always)]
pub(crate) fn get(number: u32) -> Option<(Name<'static>, u16)> {
    let entry = ENTRIES.get(number as usize)?;
    // SAFETY: the caller is a user, so nobody writes to it.
    let body = unsafe { &*entry.body.get() };
    let name = Name {
        number,
        generation: body.generation,
        device: body.device,
        inode: body.inode,
        path: body.path(),
    };
    (body.generation != 0).then_some((name, body.group))
}

/// Shows every name that was ever given out and not taken back.
pub(crate) fn each(mut show: impl FnMut(&Name<'static>)) {
    let end = USED.load(Ordering::Relaxed);
    for number in 1..end {
        if retain(number) {
            if let Some((name, _)) = get(number) {
                show(&name);
            }
            release(number);
        }
    }
}

fn claim() -> Option<u32> {
    let fresh = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        ((used as usize) < NAMES_MAX).then_some(used + 1)
    });
    if let Ok(number) = fresh {
        return Some(number);
    }
    (1..NAMES_MAX).find_map(|_| {
        let number = HAND.fetch_add(1, Ordering::Relaxed) % NAMES_MAX as u32;
        let users = &ENTRIES.get(number as usize)?.users;
        let claimed = number != 0
            && users
                .compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        claimed.then_some(number)
    })
}

fn store(body: &mut Body, path: &[u8]) -> bool {
    if body.room < path.len() {
        let room = path.len().next_multiple_of(64);
        let memory = arena::take(room);
        if memory.is_null() {
            return false;
        }
        body.path = memory;
        body.room = room;
    }
    // SAFETY: the memory is the entry's own, from the arena, and long enough; no user reads it now.
    unsafe { core::ptr::copy_nonoverlapping(path.as_ptr(), body.path, path.len()) };
    body.path_len = path.len();
    true
}

fn hash(device: u64, inode: u64, path: &[u8]) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ device.rotate_left(32) ^ inode;
    for &byte in path {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash ^ hash >> 32) as usize
}
