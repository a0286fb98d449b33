//! Mapping files into memory.

use super::answer;
use crate::capture::{Cancel, memory};
use libc::{c_int, c_void, off_t, size_t};

hook! { mmap, mmap64 = (address: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void {
    memory::map([address as usize, len, protection as usize, flags as usize, fd as usize, offset as usize])
} }

hook! { munmap = (address: *mut c_void, len: size_t) -> c_int {
    memory::unmap(address as usize, len)
} }

hook! { mremap = (old: *mut c_void, old_len: size_t, new_len: size_t, flags: c_int, new: *mut c_void) -> *mut c_void {
    memory::remap([old as usize, old_len, new_len, flags as usize, new as usize, 0])
} }

hook! { mprotect = (address: *mut c_void, len: size_t, protection: c_int) -> c_int {
    memory::protect(libc::SYS_mprotect, [address as usize, len, protection as usize, 0, 0, 0])
} }

hook! { pkey_mprotect = (address: *mut c_void, len: size_t, protection: c_int, key: c_int) -> c_int {
    memory::protect(libc::SYS_pkey_mprotect, [address as usize, len, protection as usize, key as usize, 0, 0])
} }

hook! { msync = (address: *mut c_void, len: size_t, flags: c_int) -> c_int {
    memory::sync(address as usize, len, flags, Cancel::Point)
} }
