//! Atomics of what programs and the sequencer share, and what else a model checker of schedules has to see.
//!
//! Ordinarily these are core's, and the rest is nothing at all. Built with `--cfg schedules`, as only `replicator/lane/schedules`
//! does, every access goes to the checker, which tries all orders in which threads, caches and compilers may make them.

#[cfg(schedules)]
#[path = "../schedules/src/checked.rs"]
pub mod checked;

#[cfg(schedules)]
pub use checked::{AtomicU32, AtomicU64, fence, publish, reads, writes};
pub use core::sync::atomic::Ordering;
#[cfg(not(schedules))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, fence};

/// Stores a value that everybody sees before anything that follows happens, reading the clock included.
#[cfg(not(schedules))]
#[inline(always)]
pub fn publish(cell: &AtomicU64, value: u64) {
    cell.swap(value, Ordering::SeqCst);
    // A locked instruction of x86-64 is a full barrier. Elsewhere a swap lets what follows pass its store.
    #[cfg(not(target_arch = "x86_64"))]
    fence(Ordering::SeqCst);
}

/// Says that these bytes are being written, which are in no atomic.
#[cfg(not(schedules))]
#[inline(always)]
pub fn writes(_address: *const u8, _len: usize) {}

/// Says that these bytes are being read, which are in no atomic.
#[cfg(not(schedules))]
#[inline(always)]
pub fn reads(_address: *const u8, _len: usize) {}
