//! What the fuzz targets share: a bound for memory, and choices made by the first bytes of an input.
//!
//! `docs/decisions/0034-fuzzing-without-nightly.md` says how they are built and why so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most bytes that are allocated at once. The largest thing that any input may ask for is a record of 16 MiB, held a few times.
const BYTES_MAX: usize = 512 << 20;

/// The system's allocator, which ends the process where [`BYTES_MAX`] is passed: without a sanitizer, the fuzzer's own limits see
/// what is in use only now and then.
struct Bounded;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

impl Bounded {
    fn take(&self, bytes: usize) {
        let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed);
        if in_use.saturating_add(bytes) > BYTES_MAX {
            // Room for the message.
            IN_USE.store(0, Ordering::Relaxed);
            panic!("an input takes more memory than it may: {bytes} bytes beside {in_use}");
        }
    }

    fn give(&self, bytes: usize) {
        let less = |in_use: usize| Some(in_use.saturating_sub(bytes));
        let _ = IN_USE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

// SAFETY: it is the system's allocator; what is counted beside decides about nothing but when to end.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: the caller's promise is the system's allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.give(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.take(size);
        self.give(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// An input whose first bytes choose what is done with the rest. Past its end there are zeros.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        byte
    }

    /// The next two bytes, big-endian.
    pub fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes, big-endian.
    pub fn eight(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// One of some things, which are at least one.
    pub fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()].clone()
    }

    /// So many bytes, or what there is.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is before the next zero byte, as text. Bytes that are none are replaced.
    pub fn text(&mut self) -> String {
        let len = self.0.iter().position(|&byte| byte == 0);
        let taken = self.take(len.unwrap_or(self.0.len()));
        self.byte();
        String::from_utf8_lossy(taken).into_owned()
    }
}
