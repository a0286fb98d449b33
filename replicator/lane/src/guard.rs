//! Segments that somebody cuts short while the sequencer has them mapped.
//!
//! A lane's file is its program's user's, who may shorten it at any time; touching what is mapped behind its end raises
//! SIGBUS, which would end the replicator. So where that happens in a segment, zeros take the place of the page, and the
//! segment counts as cut from then on. SIGBUS of anything else takes its usual course.

use crate::sys;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Segments that are watched over at once.
const RANGES: usize = 1 << 14;
/// The start of a range that is being entered.
const CLAIMED: usize = 1;

struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
    is_cut: AtomicBool,
}

static ALL: [Range; RANGES] = [const {
    Range {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_cut: AtomicBool::new(false),
    }
}; RANGES];
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Bytes of a page.
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What was done about SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapping that is watched over until this is dropped, before it is unmapped.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Watches over a mapping. `None` when there are too many.
    pub(crate) fn over(address: *const u8, len: usize) -> Option<Guard> {
        BEFORE.get_or_init(install);
        let from = NEXT.load(Ordering::Relaxed);
        (0..RANGES).map(|n| (from + n) % RANGES).find_map(|at| {
            let range = &ALL[at];
            range
                .start
                .compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
                .ok()?;
            range.end.store(address as usize + len, Ordering::Relaxed);
            range.is_cut.store(false, Ordering::Relaxed);
            range.start.store(address as usize, Ordering::Release);
            NEXT.store(at + 1, Ordering::Relaxed);
            Some(Guard(at))
        })
    }

    /// Whether something of it was found missing.
    pub(crate) fn is_cut(&self) -> bool {
        ALL[self.0].is_cut.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        ALL[self.0].start.store(0, Ordering::Release);
    }
}

fn install() -> libc::sigaction {
    // SAFETY: only asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    PAGE.store(page.unwrap_or(4096).max(4096), Ordering::Relaxed);
    // SAFETY: zeros are a valid sigaction; the handler calls nothing that isn't async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        let mut before: libc::sigaction = core::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, &mut before);
        before
    }
}

extern "C" fn on_bus_error(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes what the signal is about.
    let address = unsafe { (*info).si_addr() } as usize;
    let range = ALL.iter().find(|range| {
        let start = range.start.load(Ordering::Acquire);
        start > CLAIMED && (start..range.end.load(Ordering::Relaxed)).contains(&address)
    });
    if let Some(range) = range {
        range.is_cut.store(true, Ordering::Release);
        if sys::put_zeros(address, PAGE.load(Ordering::Relaxed)) {
            return;
        }
    }
    // It comes again, and is dealt with as it was before.
    // SAFETY: what was in force before is put in force again.
    unsafe {
        match BEFORE.get() {
            Some(before) => libc::sigaction(libc::SIGBUS, before, ptr::null_mut()),
            None => libc::signal(libc::SIGBUS, libc::SIG_DFL) as i32,
        }
    };
}
