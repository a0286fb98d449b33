//! The few system calls the shared code makes, past libc: its own entry points may be replaced by the
//! interposer, are cancellation points, and change `errno`. Results are the kernel's: `-errno` on failure.

/// Makes a system call. Returns what the kernel does: a negative number is `-errno`.
///
/// # Safety
/// The arguments must be right for the call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the clobbers are those of the kernel's ABI.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// Makes a system call. Returns what the kernel does: a negative number is `-errno`.
///
/// # Safety
/// The arguments must be right for the call.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the clobbers are those of the kernel's ABI.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack)
        );
    }
    result
}

/// Makes a system call. Returns what the kernel does: a negative number is `-errno`.
///
/// # Safety
/// The arguments must be right for the call.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> isize {
    // SAFETY: errno is the calling thread's own; the caller vouches for the arguments.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let result = libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
        let result = if result == -1 {
            -(*errno as isize)
        } else {
            result as isize
        };
        *errno = before;
        result
    }
}

/// `openat(AT_FDCWD, path, flags | O_CLOEXEC, mode)`; `path` ends with a NUL byte.
pub fn open(path: &[u8], flags: i32, mode: u32) -> isize {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// `openat(directory, path, flags | O_CLOEXEC, mode)`; `path` ends with a NUL byte.
pub fn open_at(directory: i32, path: &[u8], flags: i32, mode: u32) -> isize {
    debug_assert_eq!(path.last(), Some(&0));
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe {
        syscall(
            libc::SYS_openat,
            [
                directory as isize as usize,
                path.as_ptr() as usize,
                (flags | libc::O_CLOEXEC) as usize,
                mode as usize,
                0,
                0,
            ],
        )
    }
}

/// The user that owns the regular file behind a descriptor.
pub fn owner(fd: i32) -> Option<u32> {
    let status = status(fd)?;
    (status.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(status.st_uid)
}

/// Device and inode of the file behind a descriptor.
pub fn identity(fd: i32) -> Option<(u64, u64)> {
    Some(identity_in(&status(fd)?))
}

fn status(fd: i32) -> Option<libc::stat> {
    let mut status = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure when it succeeds.
    unsafe {
        let result = syscall(
            libc::SYS_fstat,
            [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0],
        );
        (result == 0).then(|| status.assume_init())
    }
}

/// Device and inode of what is at `path`, which ends with a NUL byte, or `-errno`.
pub fn identity_at(path: &[u8]) -> Result<(u64, u64), isize> {
    debug_assert_eq!(path.last(), Some(&0));
    let mut status = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path is NUL-terminated; the kernel fills the structure when it succeeds.
    unsafe {
        let result = syscall(
            libc::SYS_newfstatat,
            [
                libc::AT_FDCWD as isize as usize,
                path.as_ptr() as usize,
                status.as_mut_ptr() as usize,
                libc::AT_SYMLINK_NOFOLLOW as usize,
                0,
                0,
            ],
        );
        match result {
            0 => Ok(identity_in(&status.assume_init())),
            error => Err(error),
        }
    }
}

fn identity_in(status: &libc::stat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

/// Sleeps for so long, or until a signal comes.
pub fn pause(nanoseconds: u64) {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as _,
        tv_nsec: (nanoseconds % 1_000_000_000) as _,
    };
    // SAFETY: the time outlives the call; what is left of it isn't asked for.
    unsafe {
        syscall(
            libc::SYS_nanosleep,
            [(&raw const time) as usize, 0, 0, 0, 0, 0],
        )
    };
}

/// `close(fd)`.
pub fn close(fd: i32) -> isize {
    // SAFETY: closing a descriptor touches no memory.
    unsafe { syscall(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) }
}

/// `unlink(path)`; `path` ends with a NUL byte.
pub fn unlink(path: &[u8]) -> isize {
    debug_assert_eq!(path.last(), Some(&0));
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe {
        syscall(
            libc::SYS_unlinkat,
            [
                libc::AT_FDCWD as isize as usize,
                path.as_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        )
    }
}

/// Makes sure that `len` bytes from the beginning have blocks, so that writing to a mapping of them can't
/// raise SIGBUS for want of space, and that their pages are in memory: a first touch of a mapped page costs
/// microseconds on a disk file system, writing zeros beforehand a tenth of that.
pub fn allocate(fd: i32, len: u64) -> isize {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    // SAFETY: no memory is passed.
    let result = unsafe { syscall(libc::SYS_fallocate, [fd as usize, 0, 0, len as usize, 0, 0]) };
    if result < 0 && result != -(libc::EOPNOTSUPP as isize) {
        return result;
    }
    let mut at = 0;
    while at < len {
        let chunk = (len - at).min(ZEROS.len() as u64);
        // SAFETY: `ZEROS` is at least `chunk` long.
        let written = unsafe {
            syscall(
                libc::SYS_pwrite64,
                [
                    fd as usize,
                    ZEROS.as_ptr() as usize,
                    chunk as usize,
                    at as usize,
                    0,
                    0,
                ],
            )
        };
        if written <= 0 {
            return written.min(-1);
        }
        at += written as u64;
    }
    0
}

/// Size of the file behind a descriptor, or `-errno`.
pub fn file_size(fd: i32) -> i64 {
    // SAFETY: lseek touches no memory; the descriptor is our own, so its offset is nobody else's.
    unsafe {
        syscall(
            libc::SYS_lseek,
            [fd as usize, 0, libc::SEEK_END as usize, 0, 0, 0],
        ) as i64
    }
}

/// The longest file that this process may write (`RLIMIT_FSIZE`); no limit when that can't be told.
pub fn file_size_limit() -> u64 {
    let mut limit = [u64::MAX; 2];
    // SAFETY: the kernel fills two numbers: the limit in force and the highest that may be set.
    unsafe {
        syscall(
            libc::SYS_prlimit64,
            [
                0,
                libc::RLIMIT_FSIZE as usize,
                0,
                limit.as_mut_ptr() as usize,
                0,
                0,
            ],
        )
    };
    limit[0]
}

/// Maps `len` bytes of a file from its beginning, shared. Null on failure.
pub fn map_shared(fd: i32, len: usize, writable: bool) -> *mut u8 {
    let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let map = || map(fd, len, prot, libc::MAP_SHARED);
    #[cfg(schedules)]
    return crate::sync::checked::map_file(identity(fd), len, map);
    #[cfg(not(schedules))]
    map()
}

/// Maps `len` zero bytes of private memory. Null on failure.
pub fn map_private(len: usize) -> *mut u8 {
    let address = map(
        -1,
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    #[cfg(schedules)]
    let address = crate::sync::checked::map_private(address, len);
    address
}

fn map(fd: i32, len: usize, prot: i32, flags: i32) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice harms nothing.
    let address = unsafe {
        syscall(
            libc::SYS_mmap,
            [
                0,
                len,
                prot as usize,
                flags as usize,
                fd as isize as usize,
                0,
            ],
        )
    };
    if (-4095..0).contains(&address) {
        core::ptr::null_mut()
    } else {
        address as *mut u8
    }
}

/// Unmaps what [`map_shared`] or [`map_private`] gave.
///
/// # Safety
/// Nothing may use the mapping any more.
pub unsafe fn unmap(address: *mut u8, len: usize) {
    // A model's memory is given back when its run ends.
    #[cfg(not(schedules))]
    // SAFETY: the caller gives up the mapping.
    unsafe {
        unmap_now(address, len);
    }
    #[cfg(schedules)]
    let _ = (address, len);
}

/// As [`unmap`].
///
/// # Safety
/// Nothing may use the mapping any more.
pub(crate) unsafe fn unmap_now(address: *mut u8, len: usize) {
    // SAFETY: the caller gives up the mapping.
    unsafe { syscall(libc::SYS_munmap, [address as usize, len, 0, 0, 0, 0]) };
}

/// `madvise(address, len, advice)`.
///
/// # Safety
/// The advice must not take memory away that is still used.
pub unsafe fn advise(address: *mut u8, len: usize, advice: i32) -> isize {
    // SAFETY: see above.
    unsafe {
        syscall(
            libc::SYS_madvise,
            [address as usize, len, advice as usize, 0, 0, 0],
        )
    }
}

/// Puts zero bytes that are the process's own where nothing is mapped: false when something is there.
pub fn fill_hole(address: *mut u8, len: usize) -> bool {
    let wanted = address as usize;
    // SAFETY: nothing that is mapped is replaced. Kernels that don't know the flag take the address as a wish.
    let result = unsafe {
        syscall(
            libc::SYS_mmap,
            [
                wanted,
                len,
                (libc::PROT_READ | libc::PROT_WRITE) as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as usize,
                usize::MAX,
                0,
            ],
        )
    };
    if result as usize != wanted && !(-4095..0).contains(&result) {
        // SAFETY: it was mapped just now, and nobody knows of it.
        unsafe { unmap(result as *mut u8, len) };
    }
    result as usize == wanted
}

/// Puts zeros of the process's own in the place of the page, of so many bytes, that holds this address. False when that is
/// impossible.
pub(crate) fn put_zeros(address: usize, page: usize) -> bool {
    // SAFETY: the caller's mapping is replaced in part, with what may be read and written likewise.
    let result = unsafe {
        syscall(
            libc::SYS_mmap,
            [
                address & !(page - 1),
                page,
                (libc::PROT_READ | libc::PROT_WRITE) as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as usize,
                usize::MAX,
                0,
            ],
        )
    };
    !(-4095..0).contains(&result)
}

/// Signals held back from the calling thread. Not a destructor: cancellation unwinds past functions without any.
pub struct HeldSignals(u64);

/// Holds all signals back: for what a handler that forks must not come in between. A child would go on with it as well,
/// in its parent's name.
pub fn hold_signals() -> HeldSignals {
    HeldSignals(set_signal_mask(u64::MAX))
}

impl HeldSignals {
    /// Lets those come again that came before.
    pub fn release(self) {
        set_signal_mask(self.0);
    }
}

/// Sets which signals are held back, and gives which were.
fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both masks outlive the call, and are as long as said.
    unsafe {
        syscall(
            libc::SYS_rt_sigprocmask,
            [
                libc::SIG_SETMASK as usize,
                (&raw const mask) as usize,
                (&raw mut before) as usize,
                size_of::<u64>(),
                0,
                0,
            ],
        )
    };
    before
}

/// The calling thread's id.
pub fn thread_id() -> u32 {
    // SAFETY: gettid has no arguments.
    unsafe { syscall(libc::SYS_gettid, [0; 6]) as u32 }
}

/// The calling process's id, from the kernel (never a cached one: `vfork` and `clone` are not seen by libc).
pub fn process_id() -> u32 {
    // SAFETY: getpid has no arguments.
    unsafe { syscall(libc::SYS_getpid, [0; 6]) as u32 }
}
