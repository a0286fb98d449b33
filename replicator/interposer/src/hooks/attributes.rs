//! Permissions, owner and times. What libc does itself beside the system call (old interfaces, flags that the kernel doesn't
//! have), it does still.

use super::{Real, answer, directory};
use crate::capture::attributes::{of_descriptor, of_path};
use crate::kernel::{self, HERE};
use libc::{c_char, c_int, c_uint, gid_t, mode_t, timespec, uid_t};

const NOFOLLOW: c_int = libc::AT_SYMLINK_NOFOLLOW;

hook! { chmod = (path: *const c_char, mode: mode_t) -> c_int {
    let args = [HERE, path as usize, mode as usize, 0, 0, 0];
    of_path((HERE, path), 0, &|| kernel::call(libc::SYS_fchmodat, args))
} }

hook! { fchmod = (fd: c_int, mode: mode_t) -> c_int {
    let args = [fd as usize, mode as usize, 0, 0, 0, 0];
    of_descriptor(fd, &|| kernel::call(libc::SYS_fchmod, args))
} }

hook! { fchmodat = (fd: c_int, path: *const c_char, mode: mode_t, flags: c_int) -> c_int {
    let words = [fd as usize, path as usize, mode as usize, flags as usize];
    of_path((directory(fd), path), flags, &|| {
        if flags == 0 {
            kernel::call(libc::SYS_fchmodat, [directory(fd), path as usize, mode as usize, 0, 0, 0])
        } else {
            CHMOD_AT.call(words)
        }
    })
} }

hook! { lchmod = (path: *const c_char, mode: mode_t) -> c_int {
    of_path((HERE, path), NOFOLLOW, &|| CHMOD_LINK.call([path as usize, mode as usize, 0, 0]))
} }

hook! { chown, __chown = (path: *const c_char, owner: uid_t, group: gid_t) -> c_int {
    own(HERE, path, owner, group, 0)
} }

hook! { lchown = (path: *const c_char, owner: uid_t, group: gid_t) -> c_int {
    own(HERE, path, owner, group, NOFOLLOW)
} }

hook! { fchown = (fd: c_int, owner: uid_t, group: gid_t) -> c_int {
    let args = [fd as usize, owner as usize, group as usize, 0, 0, 0];
    of_descriptor(fd, &|| kernel::call(libc::SYS_fchown, args))
} }

hook! { fchownat = (fd: c_int, path: *const c_char, owner: uid_t, group: gid_t, flags: c_int) -> c_int {
    own(directory(fd), path, owner, group, flags)
} }

pub(super) unsafe fn own(
    directory: usize,
    path: *const c_char,
    owner: uid_t,
    group: gid_t,
    flags: c_int,
) -> isize {
    let args = [
        directory,
        path as usize,
        owner as usize,
        group as usize,
        flags as usize,
        0,
    ];
    // SAFETY: handed on.
    unsafe {
        of_path((directory, path), flags, &|| {
            kernel::call(libc::SYS_fchownat, args)
        })
    }
}

hook! { futimens = (fd: c_int, times: *const timespec) -> c_int {
    set_times(fd as isize as usize, core::ptr::null(), times, 0)
} }

hook! { utimensat = (fd: c_int, path: *const c_char, times: *const timespec, flags: c_int) -> c_int {
    if path.is_null() {
        -(libc::EINVAL as isize)
    } else {
        set_times(directory(fd), path, times, flags)
    }
} }

/// Without a path: of the descriptor.
pub(super) unsafe fn set_times(
    directory: usize,
    path: *const c_char,
    times: *const timespec,
    flags: c_int,
) -> isize {
    let args = [
        directory,
        path as usize,
        times as usize,
        flags as usize,
        0,
        0,
    ];
    // SAFETY: handed on.
    let call = || unsafe { kernel::call(libc::SYS_utimensat, args) };
    if path.is_null() {
        return of_descriptor(directory as c_int, &call);
    }
    // SAFETY: handed on.
    unsafe { of_path((directory, path), flags, &call) }
}

hook! { utime = (path: *const c_char, times: usize) -> c_int {
    of_path((HERE, path), 0, &|| UTIME.call([path as usize, times, 0, 0]))
} }

hook! { utimes = (path: *const c_char, times: usize) -> c_int {
    of_path((HERE, path), 0, &|| UTIMES.call([path as usize, times, 0, 0]))
} }

hook! { lutimes = (path: *const c_char, times: usize) -> c_int {
    of_path((HERE, path), NOFOLLOW, &|| LUTIMES.call([path as usize, times, 0, 0]))
} }

hook! { futimes = (fd: c_int, times: usize) -> c_int {
    of_descriptor(fd, &|| FUTIMES.call([fd as usize, times, 0, 0]))
} }

hook! { futimesat = (fd: c_int, path: *const c_char, times: usize) -> c_int {
    let words = [fd as usize, path as usize, times, 0];
    if path.is_null() {
        of_descriptor(fd, &|| FUTIMES_AT.call(words))
    } else {
        of_path((directory(fd), path), 0, &|| FUTIMES_AT.call(words))
    }
} }

static CHMOD_AT: Real = Real::new(c"fchmodat");
static CHMOD_LINK: Real = Real::new(c"lchmod");
static UTIME: Real = Real::new(c"utime");
static UTIMES: Real = Real::new(c"utimes");
static LUTIMES: Real = Real::new(c"lutimes");
static FUTIMES: Real = Real::new(c"futimes");
static FUTIMES_AT: Real = Real::new(c"futimesat");

/// Looks the functions up while that is easy.
pub(super) fn start() {
    for real in [
        &CHMOD_AT,
        &CHMOD_LINK,
        &UTIME,
        &UTIMES,
        &LUTIMES,
        &FUTIMES,
        &FUTIMES_AT,
    ] {
        real.address();
    }
}

impl Real {
    /// Calls libc's function, whose failure comes back as the kernel says it.
    unsafe fn call(&self, words: [usize; 4]) -> isize {
        let address = self.address();
        if address == 0 {
            return -(libc::ENOSYS as isize);
        }
        let [a, b, c, d] = words;
        // SAFETY: it is libc's function of this name, which takes as many of these words as it needs; errno is the
        // calling thread's own, and set by a failure.
        unsafe {
            let real: unsafe extern "C" fn(usize, usize, usize, usize) -> c_int =
                core::mem::transmute(address);
            match real(a, b, c, d) {
                -1 => -(*libc::__errno_location() as isize),
                result => result as c_uint as isize,
            }
        }
    }
}
