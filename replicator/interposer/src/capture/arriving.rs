//! Descriptors that come from elsewhere: from other processes, and by handle.

use super::opening::{self, adopt};
use super::{Cancel, uncaptured};
use crate::descriptors;
use crate::kernel::{self, Args};
use crate::process;
use core::mem::{offset_of, size_of};
use counterfoil_lane::clock;
use libc::{c_int, cmsghdr, mmsghdr, msghdr};

/// `recvmsg`.
///
/// # Safety
/// As the program's own call.
#[inline(always)]
pub(crate) unsafe fn receive(
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
    cancel: Cancel,
) -> isize {
    let args = [fd as usize, message as usize, flags as usize, 0, 0, 0];
    // SAFETY: handed on to our caller; the kernel has used the message when it succeeded.
    unsafe {
        let result = uncaptured(cancel, libc::SYS_recvmsg, args);
        if result >= 0 && (*message).msg_controllen != 0 {
            received(&*message);
        }
        result
    }
}

/// `recvmmsg`.
///
/// # Safety
/// As the program's own call.
pub(crate) unsafe fn receive_many(messages: *mut mmsghdr, args: Args, cancel: Cancel) -> isize {
    // SAFETY: as above; the kernel has used as many as it returns.
    unsafe {
        let result = uncaptured(cancel, libc::SYS_recvmmsg, args);
        for at in 0..result.max(0) as usize {
            let message = &(*messages.add(at)).msg_hdr;
            if message.msg_controllen != 0 {
                received(message);
            }
        }
        result
    }
}

/// What is sent along is shared with the receiver from now on.
///
/// # Safety
/// `message` must be what the program gave.
#[inline(always)]
pub(crate) unsafe fn send(
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
    cancel: Cancel,
) -> isize {
    let args = [fd as usize, message as usize, flags as usize, 0, 0, 0];
    // SAFETY: handed on to our caller.
    unsafe {
        if message as usize >= 4096 && (*message).msg_controllen != 0 {
            descriptors::share_all();
        }
        uncaptured(cancel, libc::SYS_sendmsg, args)
    }
}

/// As [`send`], for `sendmmsg`.
///
/// # Safety
/// `messages` must be what the program gave.
pub(crate) unsafe fn send_many(
    messages: *const mmsghdr,
    count: usize,
    args: Args,
    cancel: Cancel,
) -> isize {
    // SAFETY: handed on to our caller.
    unsafe {
        let carries = |at| (*messages.add(at)).msg_hdr.msg_controllen != 0;
        if messages as usize >= 4096 && (0..count).any(carries) {
            descriptors::share_all();
        }
        uncaptured(cancel, libc::SYS_sendmmsg, args)
    }
}

/// Captures the descriptors that came with a message.
///
/// # Safety
/// The kernel must have filled it.
#[cold]
unsafe fn received(message: &msghdr) {
    /// Most descriptors that one message carries (`SCM_MAX_FD` of the kernel).
    const DESCRIPTORS_MAX: usize = 253;
    let Some(state) = process::current() else {
        return;
    };
    if process::is_borrowed(state) {
        return;
    }
    process::look_at_rules();
    let (start, len) = (message.msg_control as usize, message.msg_controllen);
    let header_bytes = size_of::<cmsghdr>().next_multiple_of(size_of::<usize>());
    let mut at = 0;
    while at + header_bytes <= len {
        // SAFETY: it lies within what the kernel filled; nothing is assumed of how that is aligned.
        let header = unsafe { ((start + at) as *const cmsghdr).read_unaligned() };
        let header_len = header.cmsg_len;
        if header_len < header_bytes || header_len > len - at {
            return;
        }
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            let count = (header_len - header_bytes) / size_of::<c_int>();
            for number in 0..count.min(DESCRIPTORS_MAX) {
                let place = start + at + header_bytes + number * size_of::<c_int>();
                // SAFETY: as above.
                arrived(state, unsafe { (place as *const c_int).read_unaligned() });
            }
        }
        at += header_len.next_multiple_of(size_of::<usize>());
    }
}

const _: () = assert!(
    offset_of!(cmsghdr, cmsg_len) == 0 && size_of::<cmsghdr>() == 16,
    "laid out as the kernel does"
);

/// `pidfd_getfd`: another process's descriptor.
///
/// # Safety
/// As the program's own call.
pub(crate) unsafe fn fetch(args: Args) -> isize {
    // SAFETY: handed on to our caller.
    let result = unsafe { kernel::call(libc::SYS_pidfd_getfd, args) };
    if result >= 0
        && let Some(state) = process::current()
        && !process::is_borrowed(state)
    {
        process::look_at_rules();
        arrived(state, result as c_int);
    }
    result
}

fn arrived(state: &'static process::State, fd: c_int) {
    opening::forget_stale(fd);
    adopt(state, fd, None);
}

/// `open_by_handle_at`: a file that is opened without a path. Without one nothing can be said before the call, so what it
/// empties is found by the frame of the open.
///
/// # Safety
/// As the program's own call.
pub(crate) unsafe fn open_by_handle(flags: c_int, args: Args, cancel: Cancel) -> isize {
    let begin = clock::now();
    // SAFETY: handed on to our caller.
    let result = unsafe { uncaptured(cancel, libc::SYS_open_by_handle_at, args) };
    if result >= 0 {
        opening::opened_somehow(result as c_int, flags, begin);
    }
    result
}
