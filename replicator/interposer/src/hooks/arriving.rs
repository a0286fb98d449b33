//! Calls that bring descriptors from elsewhere, or take them there.

use super::answer;
use crate::capture::{Cancel, arriving};
use libc::{c_int, c_uint, c_void, mmsghdr, msghdr, ssize_t};

hook! { recvmsg = (fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    arriving::receive(fd, message, flags, Cancel::Point)
} }

hook! { recvmmsg = (fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut libc::timespec) -> c_int {
    let args = [fd as usize, messages as usize, count as usize, flags as usize, timeout as usize, 0];
    arriving::receive_many(messages, args, Cancel::Point)
} }

hook! { sendmsg = (fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    arriving::send(fd, message, flags, Cancel::Point)
} }

hook! { sendmmsg = (fd: c_int, messages: *const mmsghdr, count: c_uint, flags: c_int) -> c_int {
    let args = [fd as usize, messages as usize, count as usize, flags as usize, 0, 0];
    arriving::send_many(messages, count as usize, args, Cancel::Point)
} }

hook! { pidfd_getfd = (process: c_int, fd: c_int, flags: c_uint) -> c_int {
    arriving::fetch([process as usize, fd as usize, flags as usize, 0, 0, 0])
} }

hook! { open_by_handle_at = (mount: c_int, handle: *mut c_void, flags: c_int) -> c_int {
    let args = [mount as usize, handle as usize, flags as usize, 0, 0, 0];
    arriving::open_by_handle(flags, args, Cancel::Point)
} }
