//! What belongs to a thread: its lanes.
//!
//! A thread has a lane for itself and one for a signal handler that interrupts it inside a hook. Lanes of threads that
//! ended are given to new ones. The thread's memory is in the initial TLS block: reaching it never allocates.

use crate::process::{self, State};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, compiler_fence};
use counterfoil_lane::clock;
use counterfoil_lane::writer::{Lane, Shortage};

const LANES_PER_THREAD: usize = 2;
const FREE_LANES: usize = 1 << 14;
/// Small lanes made before none can be made any more.
const SPARE_LANES: usize = 3;
/// After a lane couldn't be made, for how long no new attempt is made.
const RETRY_AFTER_NS: u64 = 1_000_000_000;

/// Lies in [`TLS_BYTES`] zero bytes of every thread.
#[repr(C)]
struct Thread {
    lanes: [*mut Lane; LANES_PER_THREAD],
    /// The process's epoch when they were made.
    epoch: u64,
    /// How many hooks this thread is in.
    depth: u32,
}

const TLS_BYTES: usize = 64;
const _: () = assert!(
    size_of::<Thread>() <= TLS_BYTES,
    "the assembly below reserves that much"
);

// A `thread_local!` would be reached through `__tls_get_addr`, which may allocate. Initial-exec is for libraries that
// are loaded with the program, which a preloaded one is.
core::arch::global_asm!(
    ".section .tbss,\"awT\",@nobits",
    ".balign 16",
    ".globl counterfoil_interposer_thread",
    ".hidden counterfoil_interposer_thread",
    ".type counterfoil_interposer_thread, %object",
    ".size counterfoil_interposer_thread, {bytes}",
    "counterfoil_interposer_thread:",
    ".zero {bytes}",
    ".text",
    bytes = const TLS_BYTES,
);

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn this() -> *mut Thread {
    let address: *mut Thread;
    // SAFETY: reads the thread pointer and a constant that the loader filled in.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr fs:[0]",
            "add {0}, qword ptr [rip + counterfoil_interposer_thread@GOTTPOFF]",
            out(reg) address,
            options(nostack, pure, readonly)
        );
    }
    address
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn this() -> *mut Thread {
    let address: *mut Thread;
    // SAFETY: reads the thread pointer and a constant that the loader filled in.
    unsafe {
        core::arch::asm!(
            "adrp {1}, :gottprel:counterfoil_interposer_thread",
            "ldr {1}, [{1}, :gottprel_lo12:counterfoil_interposer_thread]",
            "mrs {0}, tpidr_el0",
            "add {0}, {0}, {1}",
            out(reg) address,
            out(reg) _,
            options(nostack, pure, readonly)
        );
    }
    address
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the interposer knows x86-64 and aarch64");

static FREE: [AtomicPtr<Lane>; FREE_LANES] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; FREE_LANES];
/// One past the last slot of [`FREE`] that was ever used.
static FREE_END: AtomicU64 = AtomicU64::new(0);
/// Clock before which no lane is made.
static RETRY_AT: AtomicU64 = AtomicU64::new(0);
static KEY: AtomicU64 = AtomicU64::new(u64::MAX);

/// The right to use one of the thread's lanes, until [`Ticket::done`].
pub(crate) struct Ticket {
    /// The lane.
    pub(crate) lane: &'static mut Lane,
}

/// Prepares for threads that end. For the constructor.
pub(crate) fn start() -> bool {
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: `key` is ours; the destructor is a function that lives as long as the library, which is never unloaded.
    let result = unsafe { libc::pthread_key_create(&mut key, Some(ended)) };
    if result == 0 {
        KEY.store(u64::from(key), Ordering::Relaxed);
    }
    result == 0
}

/// Takes one of the calling thread's lanes. `None` when there is none to be had: the caller marks a gap.
#[inline(always)]
pub(crate) fn enter(state: &'static State) -> Option<Ticket> {
    let this = this();
    // SAFETY: the thread's own memory. A signal handler may come between any two lines, but leaves as it found.
    unsafe {
        let depth = (*this).depth;
        (&raw mut (*this).depth).write_volatile(depth.wrapping_add(1));
        compiler_fence(Ordering::SeqCst);
        let lane = if (*this).epoch == state.epoch {
            (*this)
                .lanes
                .get(depth as usize)
                .copied()
                .unwrap_or(core::ptr::null_mut())
        } else {
            core::ptr::null_mut()
        };
        let lane = if lane.is_null() {
            obtain(state, this, depth as usize)
        } else {
            lane
        };
        if lane.is_null() {
            (&raw mut (*this).depth).write_volatile(depth);
            return None;
        }
        Some(Ticket { lane: &mut *lane })
    }
}

impl Ticket {
    /// Gives the lane back. Not a destructor: cancellation unwinds past functions without any.
    #[inline(always)]
    pub(crate) fn done(self) {
        let this = this();
        compiler_fence(Ordering::SeqCst);
        let (lane_of, began) = (self.lane.process(), self.lane.entered());
        // SAFETY: the thread's own memory.
        unsafe {
            let depth = (*this).depth;
            (&raw mut (*this).depth).write_volatile(depth.saturating_sub(1));
        }
        process::after_call(lane_of, began);
    }
}

/// Whether the frame of a call with so many bytes of data surely fits into the lane that the next call will get.
#[inline(always)]
pub(crate) fn has_room(state: &State, bytes: usize) -> bool {
    let this = this();
    // SAFETY: the thread's own memory; its lanes are mapped for good.
    unsafe {
        (*this).epoch == state.epoch
            && (*this)
                .lanes
                .get((*this).depth as usize)
                .is_some_and(|lane| lane.as_ref().is_some_and(|lane| lane.has_room(bytes)))
    }
}

/// Makes room for the frames of a call with so many bytes of data in the lane that the call will get. Where it gets none
/// at all, because it came in between two others, that is no shortage.
pub(crate) fn reserve(state: &'static State, bytes: usize) -> Result<(), Shortage> {
    // SAFETY: the thread's own memory.
    if unsafe { (*this()).depth } as usize >= LANES_PER_THREAD {
        return Ok(());
    }
    let ticket = enter(state).ok_or(Shortage::Unavailable)?;
    let reserved = ticket.lane.reserve(&state.process, bytes);
    ticket.done();
    reserved
}

/// Tells the replicator that the calling thread waits for room since then, or, with 0, not any more.
pub(crate) fn tell_waiting(state: &'static State, since: u64) {
    if let Some(ticket) = enter(state) {
        if since != 0 {
            ticket.lane.retire();
        }
        ticket.lane.tell_waiting(since);
        ticket.done();
    }
}

/// Makes lanes, and room in the calling thread's if it has one, for when that isn't possible any more.
pub(crate) fn provide(state: &'static State) {
    let this = this();
    // SAFETY: the thread's own memory.
    let has_lane = unsafe { (*this).epoch == state.epoch && !(*this).lanes[0].is_null() };
    if has_lane && let Some(ticket) = enter(state) {
        ticket.lane.provide(&state.process);
        ticket.done();
    }
    // Most programs that do this have one thread; it takes the first.
    if !has_lane && let Ok(lane) = Lane::create(&state.process) {
        lane.provide(&state.process);
        put_free(lane);
    }
    for _ in 0..SPARE_LANES {
        if let Ok(lane) = Lane::create_spare(&state.process) {
            put_free(lane);
        }
    }
}

/// In a forked child, or with another board: lanes that ended threads left belong to somebody else.
pub(crate) fn reset() {
    let end = FREE_END.load(Ordering::Relaxed) as usize;
    for slot in FREE.get(..end).unwrap_or_default() {
        slot.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
    RETRY_AT.store(0, Ordering::Relaxed);
}

#[cold]
fn obtain(state: &'static State, this: *mut Thread, depth: usize) -> *mut Lane {
    // SAFETY: the thread's own memory.
    unsafe {
        if (*this).epoch != state.epoch {
            (*this).lanes = [core::ptr::null_mut(); LANES_PER_THREAD];
            (*this).epoch = state.epoch;
        }
    }
    if depth >= LANES_PER_THREAD {
        return core::ptr::null_mut();
    }
    let mut lane = take_free(state.process.number);
    if lane.is_null() {
        let now = clock::now();
        if now < RETRY_AT.load(Ordering::Relaxed) {
            return core::ptr::null_mut();
        }
        match Lane::create(&state.process) {
            Ok(fresh) => lane = fresh,
            Err(_) => {
                RETRY_AT.store(now.saturating_add(RETRY_AFTER_NS), Ordering::Relaxed);
                process::look_for_board(now);
                return core::ptr::null_mut();
            }
        }
    }
    let key = KEY.load(Ordering::Relaxed) as libc::pthread_key_t;
    // SAFETY: the thread's own memory; the key exists, and any non-null value calls the destructor.
    unsafe {
        if let Some(slot) = (*this).lanes.get_mut(depth) {
            *slot = lane;
        }
        libc::pthread_setspecific(key, this.cast());
    }
    lane
}

/// The thread ends: others may have its lanes.
extern "C" fn ended(_: *mut libc::c_void) {
    let this = this();
    // SAFETY: the thread's own memory, until it is gone.
    unsafe {
        let of_this_process = crate::process::current().is_some_and(|s| s.epoch == (*this).epoch);
        let lanes = core::mem::replace(
            &mut (*this).lanes,
            [core::ptr::null_mut(); LANES_PER_THREAD],
        );
        (*this).depth = 0;
        if !of_this_process {
            return;
        }
        for lane in lanes {
            if let Some(lane) = lane.as_mut() {
                // A thread that was ended in the middle of a call left it published.
                lane.leave();
                put_free(lane);
            }
        }
    }
}

fn put_free(lane: *mut Lane) {
    for (at, slot) in FREE.iter().enumerate() {
        // First, so that a child of this moment clears the slot.
        if slot.load(Ordering::Relaxed).is_null() {
            FREE_END.fetch_max(at as u64 + 1, Ordering::AcqRel);
        }
        let placed = slot.load(Ordering::Relaxed).is_null()
            && slot
                .compare_exchange(
                    core::ptr::null_mut(),
                    lane,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok();
        if placed {
            return;
        }
    }
}

/// A lane of this process that an ended thread left. One that was put there while another board was joined is dropped.
fn take_free(process: u64) -> *mut Lane {
    let end = FREE_END.load(Ordering::Acquire) as usize;
    FREE.get(..end)
        .unwrap_or_default()
        .iter()
        .filter(|slot| !slot.load(Ordering::Relaxed).is_null())
        .map(|slot| slot.swap(core::ptr::null_mut(), Ordering::AcqRel))
        // SAFETY: lanes are mapped for good; whoever takes one out is its only user.
        .find(|lane| unsafe { lane.as_ref() }.is_some_and(|lane| lane.process() == process))
        .unwrap_or(core::ptr::null_mut())
}
