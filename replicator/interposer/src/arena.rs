//! Memory for paths and the like: taken from the kernel in chunks, never given back, without a lock.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use counterfoil_lane::sys;

const CHUNK_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 16;

/// A chunk begins with how many of its bytes are taken, this header included.
struct Chunk {
    taken: AtomicUsize,
}

static CURRENT: AtomicPtr<Chunk> = AtomicPtr::new(core::ptr::null_mut());

/// `len` zero bytes, aligned to 16; null when there is no memory. `len` is at most 64 KiB.
pub(crate) fn take(len: usize) -> *mut u8 {
    let len = len.saturating_add(15) & !15;
    if len > CHUNK_BYTES / 16 {
        return core::ptr::null_mut();
    }
    loop {
        let chunk = CURRENT.load(Ordering::Acquire);
        // SAFETY: chunks are never unmapped.
        if let Some(header) = unsafe { chunk.as_ref() } {
            let at = header.taken.fetch_add(len, Ordering::Relaxed);
            if at.saturating_add(len) <= CHUNK_BYTES {
                // SAFETY: within the chunk.
                return unsafe { chunk.cast::<u8>().add(at) };
            }
        }
        let fresh = sys::map_private(CHUNK_BYTES);
        if fresh.is_null() {
            return fresh;
        }
        let fresh_chunk = fresh.cast::<Chunk>();
        // SAFETY: the memory is fresh, aligned to a page and long enough.
        unsafe { (*fresh_chunk).taken.store(HEADER_BYTES, Ordering::Relaxed) };
        let placed =
            CURRENT.compare_exchange(chunk, fresh_chunk, Ordering::AcqRel, Ordering::Acquire);
        if placed.is_err() {
            // SAFETY: nobody else knows of it.
            unsafe { sys::unmap(fresh, CHUNK_BYTES) };
        }
    }
}

/// A copy of `bytes` that lives for ever.
pub(crate) fn keep(bytes: &[u8]) -> Option<&'static [u8]> {
    let to = take(bytes.len().max(1));
    if to.is_null() {
        return None;
    }
    // SAFETY: `to` is fresh and long enough.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        Some(core::slice::from_raw_parts(to, bytes.len()))
    }
}
