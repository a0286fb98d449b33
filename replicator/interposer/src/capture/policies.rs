//! What a call does when it couldn't be told: goes on (as everywhere by default), waits, or fails, as its group wants.
//!
//! All of that is before the call, before its slot is published and with nothing held, so that a thread that waits holds
//! back nobody, signal handlers run, and order is kept. While it waits it looks at lane, rules and board again and again.

use super::Cancel;
use crate::process::{self, State};
use crate::{cancellation, kernel, thread};
use counterfoil_lane::frame::DATA_BYTES_MAX;
use counterfoil_lane::rules::{Policy, Unavailable};
use counterfoil_lane::writer::Shortage;
use counterfoil_lane::{clock, sys};
use libc::{c_int, iovec};

const PAUSE_MIN_NS: u64 = 1_000_000;
const PAUSE_MAX_NS: u64 = 50_000_000;

/// How much data a call's frames will have.
#[derive(Clone, Copy)]
pub(crate) enum Bytes {
    /// So much, at most.
    UpTo(usize),
    /// What these parts hold: the program's own array, which may be anywhere.
    Parts(*const iovec, usize),
}

/// Whether a call can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It changes a file, and nothing has happened yet.
    Possible,
    /// It gives something up, or only tells.
    Impossible,
}

/// Lets a call of a group through, now or later. Gives the process it is to be made as, which may have changed meanwhile,
/// or what the call is to return instead of being made.
///
/// `group` is asked for only where it matters; none means that nobody has said anything about the file.
#[inline(always)]
pub(crate) fn admit(
    state: &'static State,
    group: impl Fn() -> Option<u16>,
    bytes: Bytes,
    cancel: Cancel,
    refusal: Refusal,
) -> Result<&'static State, isize> {
    if !process::has_policies() {
        return Ok(state);
    }
    if let Bytes::UpTo(bytes) = bytes
        && thread::has_room(state, bytes)
        && !process::is_gone()
    {
        return Ok(state);
    }
    match group() {
        Some(group) => admit_when_possible(state, group, bytes, cancel, refusal),
        None => Ok(state),
    }
}

#[cold]
fn admit_when_possible(
    before: &'static State,
    group: u16,
    bytes: Bytes,
    cancel: Cancel,
    refusal: Refusal,
) -> Result<&'static State, isize> {
    let mut since = 0;
    let mut pause = PAUSE_MIN_NS;
    let mut state = before;
    loop {
        process::look_for_board(clock::now());
        process::look_at_rules();
        state = process::current().unwrap_or(state);
        let policy = process::rules().policy_of(group);
        let shortage = if policy == Policy::default() {
            None
        } else if process::is_gone() {
            Some(Shortage::Unavailable)
        } else {
            thread::reserve(state, bytes.count()).err()
        };
        if shortage == Some(Shortage::Unavailable) {
            process::look_for_board_now();
        }
        let waits = match (shortage, policy.unavailable) {
            (None | Some(Shortage::TooLong), _) => false,
            (Some(Shortage::Backlog), _) => policy.waits_for_room,
            (Some(Shortage::Unavailable), Unavailable::Block) => true,
            (Some(Shortage::Unavailable), Unavailable::Fail) => {
                if refusal == Refusal::Possible {
                    return Err(-(libc::EIO as isize));
                }
                false
            }
            (Some(Shortage::Unavailable), Unavailable::Continue) => false,
        };
        if !waits {
            if since != 0 {
                thread::tell_waiting(state, 0);
            }
            return Ok(state);
        }
        if since == 0 {
            since = clock::now();
        }
        if shortage == Some(Shortage::Backlog) {
            thread::tell_waiting(state, since);
        }
        sys::pause(pause);
        pause = (pause * 2).min(PAUSE_MAX_NS);
        if cancel == Cancel::Point {
            cancellation::test();
        }
    }
}

impl Bytes {
    fn count(self) -> usize {
        match self {
            Bytes::UpTo(bytes) => bytes,
            Bytes::Parts(parts, count) => total(parts, count),
        }
    }
}

/// Sums up the program's parts, read by the kernel, which doesn't mind bad addresses. Where it refuses, one frame is
/// expected; a longer write is then read again in the worst case.
fn total(parts: *const iovec, count: usize) -> usize {
    const AT_ONCE: usize = 16;
    let mut sum = 0usize;
    let mut done = 0;
    // The kernel refuses more parts.
    let count = count.min(libc::UIO_MAXIOV as usize);
    while done < count {
        let mut copies = [const {
            iovec {
                iov_base: core::ptr::null_mut(),
                iov_len: 0,
            }
        }; AT_ONCE];
        let take = (count - done).min(AT_ONCE);
        let local = iovec {
            iov_base: copies.as_mut_ptr().cast(),
            iov_len: take * size_of::<iovec>(),
        };
        let remote = iovec {
            iov_base: parts.wrapping_add(done).cast_mut().cast(),
            iov_len: local.iov_len,
        };
        // SAFETY: the kernel writes to `copies` only, and reads what the program's address leads to, or fails.
        let result = unsafe {
            kernel::call(
                libc::SYS_process_vm_readv,
                [
                    sys::process_id() as usize,
                    (&raw const local) as usize,
                    1,
                    (&raw const remote) as usize,
                    1,
                    0,
                ],
            )
        };
        if c_int::try_from(result).ok() != c_int::try_from(local.iov_len).ok() {
            return DATA_BYTES_MAX;
        }
        for part in copies.iter().take(take) {
            sum = sum.saturating_add(part.iov_len);
        }
        done += take;
    }
    sum
}
