//! The system calls of the hooks, past libc. Results are the kernel's: `-errno` on failure.

use counterfoil_lane::sys;
use libc::{c_int, c_long};

/// Arguments of a system call.
pub(crate) type Args = [usize; 6];

/// `AT_FDCWD` as an argument.
pub(crate) const HERE: usize = libc::AT_FDCWD as isize as usize;

/// Makes a call that touches no memory but what its arguments point to.
///
/// # Safety
/// Those pointers must be the program's own, or valid.
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, args: Args) -> isize {
    // SAFETY: handed on to the caller.
    unsafe { sys::syscall(number, args) }
}

/// Whether a result is an error.
#[inline(always)]
pub(crate) fn failed(result: isize) -> bool {
    (-4095..0).contains(&result)
}

/// What `fstat` says about a descriptor.
pub(crate) fn status(fd: c_int) -> Option<libc::stat> {
    let mut status = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure when it succeeds.
    unsafe {
        let result = call(
            libc::SYS_fstat,
            [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0],
        );
        (result == 0).then(|| status.assume_init())
    }
}

/// What `fstatat` says about a path. `flags` as of `fstatat`.
///
/// # Safety
/// `path` must be what the program gave as a path.
pub(crate) unsafe fn status_at(
    directory: usize,
    path: *const libc::c_char,
    flags: c_int,
) -> Option<libc::stat> {
    let mut status = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel checks the path and fills the structure when it succeeds.
    unsafe {
        let result = call(
            libc::SYS_newfstatat,
            [
                directory,
                path as usize,
                status.as_mut_ptr() as usize,
                flags as usize,
                0,
                0,
            ],
        );
        (result == 0).then(|| status.assume_init())
    }
}

/// Whether this is a regular file.
pub(crate) fn is_regular(status: &libc::stat) -> bool {
    status.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// The descriptor's file offset, or `None` where there is no such thing.
#[inline(always)]
pub(crate) fn position(fd: c_int) -> Option<u64> {
    // SAFETY: no memory is passed; nothing moves.
    let result = unsafe {
        call(
            libc::SYS_lseek,
            [fd as usize, 0, libc::SEEK_CUR as usize, 0, 0, 0],
        )
    };
    u64::try_from(result).ok()
}

/// The descriptor's flags as of `fcntl(F_GETFL)`.
pub(crate) fn flags_of(fd: c_int) -> Option<c_int> {
    // SAFETY: no memory is passed.
    let result = unsafe {
        call(
            libc::SYS_fcntl,
            [fd as usize, libc::F_GETFL as usize, 0, 0, 0, 0],
        )
    };
    (result >= 0).then_some(result as c_int)
}

/// Reads up to `buffer.len()` bytes.
pub(crate) fn read(fd: c_int, buffer: &mut [u8]) -> isize {
    // SAFETY: the buffer is ours and that long.
    unsafe {
        call(
            libc::SYS_read,
            [
                fd as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
                0,
            ],
        )
    }
}

/// Reads the link `path`, which ends with a NUL byte. The target must fit.
pub(crate) fn read_link<'a>(path: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    debug_assert_eq!(path.last(), Some(&0));
    // SAFETY: the path ends with NUL, the buffer is ours and that long.
    let result = unsafe {
        call(
            libc::SYS_readlinkat,
            [
                HERE,
                path.as_ptr() as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
            ],
        )
    };
    let len = usize::try_from(result).ok()?;
    if len == buffer.len() {
        return None;
    }
    buffer.get(..len)
}

/// Sets what the program will find in `errno`. Only for the failure of the call it made itself.
#[cold]
pub(crate) fn set_errno(number: c_int) {
    // SAFETY: errno is the calling thread's own.
    unsafe { *libc::__errno_location() = number };
}
