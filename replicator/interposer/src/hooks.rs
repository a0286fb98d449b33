//! The C entry points: what programs call instead of libc's, by symbol or through its own replaced entries.
//!
//! They turn arguments into those of the kernel and its answer into `errno`, and nothing else. Functions that may be
//! unwound by thread cancellation are `C-unwind`; all of them are, to be simple. What they call in libc is declared `C`:
//! see `cancellation`. Variadic functions take their last
//! argument always: on the supported machines it is passed alike, and ignored by the kernel where it is not given.

// They are exported by name, not by path, and promise what libc's functions of these names do.
#![allow(clippy::missing_safety_doc)]

use crate::capture::locks;
use crate::capture::naming::{self, Naming};
use crate::capture::{Cancel, closing, opening, writing};
use crate::kernel::{self, HERE};
use crate::{descriptors, patch, process};
use core::sync::atomic::{AtomicUsize, Ordering};
use libc::{c_char, c_int, c_uint, c_ulong, c_void, iovec, mode_t, off_t, size_t, ssize_t};

/// libc's way of saying what the kernel said.
#[inline(always)]
fn answer(result: isize) -> isize {
    if kernel::failed(result) {
        kernel::set_errno(-result as c_int);
        return -1;
    }
    result
}

#[inline(always)]
fn directory(fd: c_int) -> usize {
    fd as isize as usize
}

/// Defines a function under several names. The first is the one that libc's entries are led to.
macro_rules! hook {
    ($name:ident = ($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the program vouches for its arguments as it would to libc.
            #[allow(unused_unsafe)]
            let result: isize = unsafe { $body };
            answer(result) as $result
        }
    };
    ($name:ident, $($alias:ident),+ = $arguments:tt -> $result:ty $body:block) => {
        hook! { $name = $arguments -> $result $body }
        hook! { $($alias),+ = $arguments -> $result $body }
    };
}

/// Defines a function that takes note and goes on in libc. All arguments are words.
macro_rules! passing {
    ($name:ident, $real:ident ($($argument:ident),*) -> $result:ty, $note:expr, $missing:expr) => {
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C-unwind" fn $name($($argument: usize),*) -> $result {
            $note;
            let address = $real.address();
            if address == 0 {
                kernel::set_errno(libc::ENOSYS);
                return $missing;
            }
            // SAFETY: it is libc's function of this name, and gets what it was given.
            unsafe {
                let real: unsafe extern "C" fn($(passing!(@word $argument)),*) -> $result =
                    core::mem::transmute(address);
                real($($argument),*)
            }
        }
    };
    (@word $argument:ident) => { usize };
}

pub(crate) mod arriving;
pub(crate) mod attributes;
mod memory;
pub(crate) mod numbers;
pub(crate) mod privileges;

hook! { open, open64, __open, __open64 = (path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    opening::open(HERE, path, flags, mode, Cancel::Point)
} }

hook! { __open_2, __open64_2 = (path: *const c_char, flags: c_int) -> c_int {
    opening::open(HERE, path, flags, 0, Cancel::Point)
} }

hook! { openat, openat64 = (fd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    opening::open(directory(fd), path, flags, mode, Cancel::Point)
} }

hook! { __openat_2, __openat64_2 = (fd: c_int, path: *const c_char, flags: c_int) -> c_int {
    opening::open(directory(fd), path, flags, 0, Cancel::Point)
} }

hook! { creat, creat64 = (path: *const c_char, mode: mode_t) -> c_int {
    opening::open(HERE, path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, mode, Cancel::Point)
} }

hook! { write, __write = (fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    writing::write(fd, data, len, Cancel::Point)
} }

hook! { pwrite, pwrite64, __pwrite64 = (fd: c_int, data: *const c_void, len: size_t, offset: off_t) -> ssize_t {
    writing::pwrite(fd, data, len, offset, Cancel::Point)
} }

hook! { writev = (fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    writing::writev(fd, parts, count, Cancel::Point)
} }

hook! { pwritev, pwritev64 = (fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    writing::pwritev(fd, parts, count, offset, None, Cancel::Point)
} }

hook! { pwritev2, pwritev64v2 = (fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
    writing::pwritev(fd, parts, count, offset, Some(flags), Cancel::Point)
} }

hook! { ftruncate, ftruncate64 = (fd: c_int, size: off_t) -> c_int {
    writing::ftruncate(fd, size)
} }

hook! { truncate, truncate64 = (path: *const c_char, size: off_t) -> c_int {
    naming::truncate(path, size)
} }

hook! { close, __close = (fd: c_int) -> c_int {
    closing::close(fd, Cancel::Point)
} }

hook! { close_range = (first: c_uint, last: c_uint, flags: c_int) -> c_int {
    closing::close_range(first, last, flags as c_uint)
} }

hook! { dup = (fd: c_int) -> c_int {
    closing::duplicate(fd, libc::SYS_dup, [fd as usize, 0, 0, 0, 0, 0])
} }

hook! { dup2, __dup2 = (old: c_int, new: c_int) -> c_int {
    duplicate_to(old, new)
} }

hook! { dup3 = (old: c_int, new: c_int, flags: c_int) -> c_int {
    closing::duplicate(old, libc::SYS_dup3, [old as usize, new as usize, flags as usize, 0, 0, 0])
} }

hook! { fcntl, fcntl64, __fcntl = (fd: c_int, command: c_int, argument: usize) -> c_int {
    // The number of a process group is negative and no error.
    if command == libc::F_GETOWN {
        return owner(fd);
    }
    control(fd, command, argument, Cancel::Point)
} }

hook! { flock = (fd: c_int, how: c_int) -> c_int {
    locks::flock(fd, how)
} }

hook! { lockf, lockf64 = (fd: c_int, command: c_int, len: off_t) -> c_int {
    locks::lockf(fd, command, len)
} }

hook! { rename = (old: *const c_char, new: *const c_char) -> c_int {
    naming::rename(HERE, old, HERE, new, 0)
} }

hook! { renameat = (old_fd: c_int, old: *const c_char, new_fd: c_int, new: *const c_char) -> c_int {
    naming::rename(directory(old_fd), old, directory(new_fd), new, 0)
} }

hook! { renameat2 = (old_fd: c_int, old: *const c_char, new_fd: c_int, new: *const c_char, flags: c_uint) -> c_int {
    naming::rename(directory(old_fd), old, directory(new_fd), new, flags)
} }

hook! { unlink = (path: *const c_char) -> c_int {
    naming::unlink(HERE, path, 0)
} }

hook! { unlinkat = (fd: c_int, path: *const c_char, flags: c_int) -> c_int {
    naming::unlink(directory(fd), path, flags)
} }

hook! { remove = (path: *const c_char) -> c_int {
    naming::remove(path)
} }

hook! { fsync = (fd: c_int) -> c_int {
    writing::sync(fd, libc::SYS_fsync, Cancel::Point)
} }

hook! { fdatasync = (fd: c_int) -> c_int {
    writing::sync(fd, libc::SYS_fdatasync, Cancel::Point)
} }

hook! { openat2 = (fd: c_int, path: *const c_char, how: *const u64, len: size_t) -> c_int {
    opening::open_how(directory(fd), path, how, len, Cancel::Point)
} }

hook! { link = (old: *const c_char, new: *const c_char) -> c_int {
    link_at(HERE, old, HERE, new, 0)
} }

hook! { linkat = (old_fd: c_int, old: *const c_char, new_fd: c_int, new: *const c_char, flags: c_int) -> c_int {
    link_at(directory(old_fd), old, directory(new_fd), new, flags)
} }

hook! { symlink = (target: *const c_char, path: *const c_char) -> c_int {
    symbolic_link(target, HERE, path)
} }

hook! { symlinkat = (target: *const c_char, fd: c_int, path: *const c_char) -> c_int {
    symbolic_link(target, directory(fd), path)
} }

hook! { copy_file_range = (from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, len: size_t, flags: c_uint) -> ssize_t {
    let args = [from as usize, from_offset as usize, to as usize, to_offset as usize, len, flags as usize];
    transfer_between(libc::SYS_copy_file_range, args, Cancel::Point)
} }

hook! { splice = (from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, len: size_t, flags: c_uint) -> ssize_t {
    let args = [from as usize, from_offset as usize, to as usize, to_offset as usize, len, flags as usize];
    transfer_between(libc::SYS_splice, args, Cancel::Point)
} }

hook! { sendfile, sendfile64 = (to: c_int, from: c_int, from_offset: *mut i64, len: size_t) -> ssize_t {
    let args = [to as usize, from as usize, from_offset as usize, len, 0, 0];
    writing::kernel_fills(to, None, None, libc::SYS_sendfile, args, Cancel::Never)
} }

hook! { fallocate, fallocate64 = (fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
    allocate(fd, mode, offset, len, Cancel::Point)
} }

hook! { ioctl = (fd: c_int, request: c_ulong, argument: usize) -> c_int {
    control_device(fd, request, argument)
} }

unsafe fn link_at(
    old_directory: usize,
    old: *const c_char,
    new_directory: usize,
    new: *const c_char,
    flags: c_int,
) -> isize {
    // What `linkat` follows only when it is told to, `fstatat` follows unless it is told not to.
    let follow = if flags & libc::AT_SYMLINK_FOLLOW != 0 {
        0
    } else {
        libc::AT_SYMLINK_NOFOLLOW
    };
    let args = [
        old_directory,
        old as usize,
        new_directory,
        new as usize,
        flags as usize,
        0,
    ];
    // SAFETY: handed on.
    unsafe {
        naming::link(
            (old_directory, old),
            (new_directory, new),
            Naming::Hard(follow | flags & libc::AT_EMPTY_PATH),
            libc::SYS_linkat,
            args,
        )
    }
}

unsafe fn symbolic_link(target: *const c_char, directory: usize, path: *const c_char) -> isize {
    let args = [target as usize, directory, path as usize, 0, 0, 0];
    let new = (directory, path);
    // SAFETY: handed on.
    unsafe { naming::link(new, new, Naming::Symbolic, libc::SYS_symlinkat, args) }
}

/// `copy_file_range` and `splice`.
unsafe fn transfer_between(number: libc::c_long, args: kernel::Args, cancel: Cancel) -> isize {
    let [_, _, to, to_offset, _, _] = args;
    let to = to as c_int;
    // SAFETY: handed on.
    unsafe {
        let offset = offset_at(to, to_offset as *const i64);
        writing::kernel_fills(to, offset, None, number, args, cancel)
    }
}

unsafe fn allocate(fd: c_int, mode: c_int, offset: off_t, len: off_t, cancel: Cancel) -> isize {
    // Some modes move what follows.
    let moves = mode & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) != 0;
    let extent = if moves { u64::MAX } else { len as u64 };
    let args = [
        fd as usize,
        mode as usize,
        offset as usize,
        len as usize,
        0,
        0,
    ];
    // SAFETY: handed on.
    unsafe {
        writing::kernel_fills(
            fd,
            Some(offset as u64),
            Some(extent),
            libc::SYS_fallocate,
            args,
            cancel,
        )
    }
}

#[inline(always)]
unsafe fn control_device(fd: c_int, request: c_ulong, argument: usize) -> isize {
    let args = [fd as usize, request as usize, argument, 0, 0, 0];
    // SAFETY: handed on.
    unsafe {
        if FILLING_REQUESTS.contains(&(request as u32)) {
            let whole = Some(u64::MAX);
            writing::kernel_fills(fd, Some(0), whole, libc::SYS_ioctl, args, Cancel::Never)
        } else {
            kernel::call(libc::SYS_ioctl, args)
        }
    }
}

/// Requests of `ioctl` that share another file's blocks (`FICLONE`, `FICLONERANGE`, `FIDEDUPERANGE`), and those that
/// allocate, free or zero a range as `fallocate` does (`FS_IOC_RESVSP`, `FS_IOC_UNRESVSP`, each with its 64-bit twin, and
/// `FS_IOC_ZERO_RANGE`).
const FILLING_REQUESTS: [u32; 8] = [
    0x4004_9409,
    0x4020_940d,
    0xc018_9436,
    0x4030_5828,
    0x4030_582a,
    0x4030_5829,
    0x4030_582b,
    0x4030_5839,
];

/// The position that a call takes through a pointer, where it writes to a captured file.
unsafe fn offset_at(fd: c_int, offset: *const i64) -> Option<u64> {
    if descriptors::of(fd) == 0 || (offset as usize) < 4096 {
        return None;
    }
    // SAFETY: the program's own pointer, which the kernel reads too.
    Some(unsafe { offset.read() } as u64)
}

/// libc's `__open_nocancel`, which only libc calls.
pub(crate) unsafe extern "C-unwind" fn open_nocancel(
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: libc vouches for its arguments.
    answer(unsafe { opening::open(HERE, path, flags, mode, Cancel::Never) }) as c_int
}

/// libc's `__write_nocancel`.
pub(crate) unsafe extern "C-unwind" fn write_nocancel(
    fd: c_int,
    data: *const c_void,
    len: size_t,
) -> ssize_t {
    // SAFETY: libc vouches for its arguments.
    answer(unsafe { writing::write(fd, data, len, Cancel::Never) })
}

/// libc's `__close_nocancel`.
pub(crate) unsafe extern "C-unwind" fn close_nocancel(fd: c_int) -> c_int {
    answer(closing::close(fd, Cancel::Never)) as c_int
}

#[cfg(target_arch = "x86_64")]
unsafe fn duplicate_to(old: c_int, new: c_int) -> isize {
    // SAFETY: the call touches no memory.
    unsafe {
        closing::duplicate(
            old,
            libc::SYS_dup2,
            [old as usize, new as usize, 0, 0, 0, 0],
        )
    }
}

/// There is no `dup2` call here, and `dup3` refuses equal descriptors.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn duplicate_to(old: c_int, new: c_int) -> isize {
    // SAFETY: the calls touch no memory.
    unsafe {
        if old == new {
            let result = kernel::call(
                libc::SYS_fcntl,
                [old as usize, libc::F_GETFD as usize, 0, 0, 0, 0],
            );
            return if kernel::failed(result) {
                result
            } else {
                new as isize
            };
        }
        closing::duplicate(
            old,
            libc::SYS_dup3,
            [old as usize, new as usize, 0, 0, 0, 0],
        )
    }
}

#[inline(always)]
unsafe fn control(fd: c_int, command: c_int, argument: usize, cancel: Cancel) -> isize {
    let args = [fd as usize, command as usize, argument, 0, 0, 0];
    // SAFETY: handed on.
    unsafe {
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => closing::duplicate(fd, libc::SYS_fcntl, args),
            libc::F_SETFL => closing::set_flags(fd, argument),
            libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
                locks::record_lock(fd, command, argument, cancel)
            }
            _ => kernel::call(libc::SYS_fcntl, args),
        }
    }
}

/// `F_GETOWN` can't tell a process group from an error; libc asks in another way too.
fn owner(fd: c_int) -> c_int {
    const F_GETOWN_EX: c_int = 16;
    const F_OWNER_PGRP: c_int = 2;
    let mut owner: [c_int; 2] = [0; 2];
    // SAFETY: the kernel fills the structure, which is two integers: kind and number.
    let result = unsafe {
        kernel::call(
            libc::SYS_fcntl,
            [
                fd as usize,
                F_GETOWN_EX as usize,
                owner.as_mut_ptr() as usize,
                0,
                0,
                0,
            ],
        )
    };
    let [kind, number] = owner;
    match result {
        0 if kind == F_OWNER_PGRP => number.wrapping_neg(),
        0 => number,
        error => answer(error) as c_int,
    }
}

/// How libc's own calls are seen: `patched` (all of them) or `symbols` (only those that programs make). A static text.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn counterfoil_interposer_mode() -> *const c_char {
    if patch::is_patched() {
        c"patched".as_ptr()
    } else {
        c"symbols".as_ptr()
    }
}

/// Functions of libc that are called after we took note: those that let other processes share what is open.
struct Real {
    name: &'static core::ffi::CStr,
    address: AtomicUsize,
}

impl Real {
    const fn new(name: &'static core::ffi::CStr) -> Real {
        Real {
            name,
            address: AtomicUsize::new(0),
        }
    }

    fn address(&self) -> usize {
        let known = self.address.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        // SAFETY: the name ends with NUL.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) } as usize;
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

static FORK_ALONE: Real = Real::new(c"_Fork");
static CLONE: Real = Real::new(c"clone");
static SPAWN: Real = Real::new(c"posix_spawn");
static SPAWN_PATH: Real = Real::new(c"posix_spawnp");
static SYSTEM: Real = Real::new(c"system");
static POPEN: Real = Real::new(c"popen");
static ALLOCATE: Real = Real::new(c"posix_fallocate");
static CLOSE_FROM: Real = Real::new(c"closefrom");

/// libc's `vfork`, which returns twice: nothing may be put around it, so the hook jumps there. 0 until it is known.
static VFORK: AtomicUsize = AtomicUsize::new(0);

/// Takes note and goes on in libc; `fork` does the same for the little that runs before the constructor.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    core::arch::naked_asm!(
        "lock inc dword ptr [rip + {forks}]",
        "mov rax, qword ptr [rip + {real}]",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2:",
        "jmp {fork}",
        forks = sym descriptors::FORKS,
        real = sym VFORK,
        fork = sym fork_instead,
    )
}

/// See above. An increment lost to another thread's does no harm: the count has changed.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    core::arch::naked_asm!(
        "hint #34", // bti c
        "adrp x9, {forks}",
        "ldr w10, [x9, :lo12:{forks}]",
        "add w10, w10, #1",
        "str w10, [x9, :lo12:{forks}]",
        "adrp x9, {real}",
        "ldr x16, [x9, :lo12:{real}]",
        "cbz x16, 2f",
        "br x16",
        "2:",
        "b {fork}",
        forks = sym descriptors::FORKS,
        real = sym VFORK,
        fork = sym fork_instead,
    )
}

extern "C" fn fork_instead() -> c_int {
    // SAFETY: as the program asked for; what a `vfork` child may do, a forked one may too.
    unsafe { libc::fork() }
}

/// Looks up `vfork`, captured or not.
pub(crate) fn start_always() {
    // SAFETY: the name ends with NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"vfork".as_ptr()) } as usize;
    VFORK.store(found, Ordering::Relaxed);
}

/// Looks the functions up while that is easy.
pub(crate) fn start() {
    for real in [
        &FORK_ALONE,
        &CLONE,
        &SPAWN,
        &SPAWN_PATH,
        &SYSTEM,
        &POPEN,
        &ALLOCATE,
        &CLOSE_FROM,
    ] {
        real.address();
    }
    attributes::start();
    privileges::start();
}

/// Not a cancellation point, and the error is the result.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn posix_fallocate(
    fd: c_int,
    offset: off_t,
    len: off_t,
) -> c_int {
    if descriptors::of(fd) != 0 {
        let args = [fd as usize, 0, offset as usize, len as usize, 0, 0];
        // SAFETY: no memory is passed.
        let result = unsafe {
            writing::kernel_fills(
                fd,
                Some(offset as u64),
                Some(len as u64),
                libc::SYS_fallocate,
                args,
                Cancel::Never,
            )
        };
        if result != -(libc::EOPNOTSUPP as isize) {
            return -result as c_int;
        }
    }
    let address = ALLOCATE.address();
    if address == 0 {
        return libc::ENOSYS;
    }
    // SAFETY: it is libc's function of this name, and gets what it was given.
    unsafe {
        let real: unsafe extern "C" fn(c_int, off_t, off_t) -> c_int =
            core::mem::transmute(address);
        real(fd, offset, len)
    }
}

/// See [`posix_fallocate`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn posix_fallocate64(
    fd: c_int,
    offset: off_t,
    len: off_t,
) -> c_int {
    // SAFETY: as there.
    unsafe { posix_fallocate(fd, offset, len) }
}

passing!(_Fork, FORK_ALONE () -> c_int, descriptors::share_all(), -1);
passing!(clone, CLONE (body, stack, flags, argument, a, b, c) -> c_int, descriptors::share_all(), -1);
passing!(posix_spawn, SPAWN (pid, path, actions, attributes, arguments, environment) -> c_int, descriptors::share_all(), libc::ENOSYS);
passing!(posix_spawnp, SPAWN_PATH (pid, path, actions, attributes, arguments, environment) -> c_int, descriptors::share_all(), libc::ENOSYS);
passing!(system, SYSTEM (command) -> c_int, descriptors::share_all(), -1);
passing!(popen, POPEN (command, kind) -> usize, descriptors::share_all(), 0);
/// libc's own calls `close_range`, or `close` one by one.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn closefrom(first: c_int) {
    forget_from(first);
    let address = CLOSE_FROM.address();
    if address != 0 {
        // SAFETY: it is libc's function of this name, and gets what it was given.
        unsafe {
            let real: unsafe extern "C" fn(c_int) = core::mem::transmute(address);
            real(first);
        }
    }
}

fn forget_from(first: c_int) {
    if let Some(state) = process::current() {
        closing::forget_range(state, first.max(0) as c_uint, c_uint::MAX);
    }
}

/// Marks for programs: see `include/counterfoil.h`. They always return 0, as a program's own success may hang on it (the
/// RETURN-CODE of COBOL does), and change nothing.
macro_rules! marks {
    ($($name:ident: $kind:ident),+) => { $(
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name() -> c_int {
            crate::capture::units::mark(counterfoil_lane::frame::Kind::$kind);
            0
        }
    )+ };
}

marks! { counterfoil_begin: Begin, counterfoil_commit: Commit, counterfoil_abort: Abort }
