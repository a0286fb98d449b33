//! Buffers for paths. Not on the stack: a signal handler's may be two pages in all.

use crate::thread;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};
use counterfoil_lane::sys;

/// Longest path that is captured, in bytes, without a NUL.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// Room for joining a directory and a path before the result is shortened.
pub(crate) const TEXT_BYTES: usize = 2 * PATH_BYTES_MAX + 2;

/// Two paths as text, and what the kernel says about one.
#[repr(C)]
pub(crate) struct Scratch {
    /// A path made absolute and normalised.
    pub(crate) text: [u8; TEXT_BYTES],
    /// Another one.
    pub(crate) other: [u8; TEXT_BYTES],
    /// The kernel's path of a descriptor.
    pub(crate) link: [u8; PATH_BYTES_MAX + 16],
    /// Two paths and a NUL between them.
    pub(crate) pair: [u8; 2 * PATH_BYTES_MAX + 1],
}

const SHELVES: usize = 8;

struct Shelf {
    /// The thread that has it, 0 when nobody has.
    taken: AtomicUsize,
    scratch: UnsafeCell<Scratch>,
}

// SAFETY: `taken` lets one user in at a time.
unsafe impl Sync for Shelf {}

static POOL: [Shelf; SHELVES] = [const {
    Shelf {
        taken: AtomicUsize::new(0),
        scratch: UnsafeCell::new(Scratch {
            text: [0; TEXT_BYTES],
            other: [0; TEXT_BYTES],
            link: [0; PATH_BYTES_MAX + 16],
            pair: [0; 2 * PATH_BYTES_MAX + 1],
        }),
    }
}; SHELVES];

/// Runs `body` with a scratch; `None` when there is no memory for one. No cancellation point may lie in `body`.
pub(crate) fn with<T>(body: impl FnOnce(&mut Scratch) -> T) -> Option<T> {
    for shelf in &POOL {
        let mine =
            shelf
                .taken
                .compare_exchange(0, thread::token(), Ordering::Acquire, Ordering::Relaxed);
        if mine.is_ok() {
            // SAFETY: nobody had it, and it is ours now.
            let result = body(unsafe { &mut *shelf.scratch.get() });
            shelf.taken.store(0, Ordering::Release);
            return Some(result);
        }
    }
    let memory = sys::map_private(size_of::<Scratch>());
    if memory.is_null() {
        return None;
    }
    // SAFETY: fresh, zero, aligned, long enough, and nobody else's.
    unsafe {
        let result = body(&mut *memory.cast::<Scratch>());
        sys::unmap(memory, size_of::<Scratch>());
        Some(result)
    }
}

/// Makes scratches free again: in a forked child, whose other threads are gone. What its own thread has it keeps: a signal
/// handler may have forked.
pub(crate) fn reset() {
    for shelf in &POOL {
        if shelf.taken.load(Ordering::Relaxed) != thread::token() {
            shelf.taken.store(0, Ordering::Relaxed);
        }
    }
}
