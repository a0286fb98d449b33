//! `syscall`: calls that programs make by number. Those that are hooked by name go where the names go, but for being
//! cancellation points. All others are made here and now, with nothing of ours on the stack: they may return twice, on
//! another stack, or never.

use super::{
    allocate, answer, attributes, control, control_device, directory, link_at, symbolic_link,
    transfer_between,
};
use crate::capture::attributes::{of_descriptor, of_path};
use crate::capture::{Cancel, arriving, closing, leaving, locks, memory, naming, opening, writing};
use crate::descriptors;
use crate::kernel;
use libc::{c_char, c_int, c_long, c_uint};

const NUMBERS_MAX: usize = 512;
/// Made as it is.
const PLAIN: u8 = 0;
/// Goes to [`by_number`].
const HOOKED: u8 = 1;
/// Made as it is, after taking note that another process will share what is open.
const SHARING: u8 = 2;

static KINDS: [u8; NUMBERS_MAX] = {
    let mut kinds = [PLAIN; NUMBERS_MAX];
    let mut at = 0;
    while at < HOOKED_NUMBERS.len() {
        kinds[HOOKED_NUMBERS[at] as usize] = HOOKED;
        at += 1;
    }
    let mut at = 0;
    while at < SHARING_NUMBERS.len() {
        kinds[SHARING_NUMBERS[at] as usize] = SHARING;
        at += 1;
    }
    kinds
};

#[cfg(target_arch = "x86_64")]
const SHARING_NUMBERS: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
];
#[cfg(not(target_arch = "x86_64"))]
const SHARING_NUMBERS: &[c_long] = &[libc::SYS_clone, libc::SYS_clone3];

/// Newer than the table of `libc`: `fchmodat` with flags.
const SYS_FCHMODAT2: c_long = 452;

/// `syscall`.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn syscall() -> c_long {
    core::arch::naked_asm!(
        "endbr64",
        "cmp rdi, {max}",
        "jae 3f",
        "lea r11, [rip + {kinds}]",
        "movzx r11d, byte ptr [r11 + rdi]",
        "cmp r11d, {hooked}",
        "jb 3f",
        "ja 2f",
        "jmp {by_number}",
        "2:",
        "lock inc dword ptr [rip + {forks}]",
        "3:",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, qword ptr [rsp + 8]",
        "syscall",
        "cmp rax, -4095",
        "jae 4f",
        "ret",
        "4:",
        "neg eax",
        "push rax",
        "call {errno}",
        "pop rcx",
        "mov dword ptr [rax], ecx",
        "mov rax, -1",
        "ret",
        max = const NUMBERS_MAX,
        hooked = const HOOKED,
        kinds = sym KINDS,
        by_number = sym by_number,
        forks = sym descriptors::FORKS,
        errno = sym libc::__errno_location,
    )
}

/// `syscall`. An increment lost to another thread's does no harm: the count has changed.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn syscall() -> c_long {
    core::arch::naked_asm!(
        "hint #34", // bti c
        "cmp x0, #{max}",
        "b.hs 3f",
        "adrp x9, {kinds}",
        "add x9, x9, :lo12:{kinds}",
        "ldrb w10, [x9, x0]",
        "cmp w10, #{hooked}",
        "b.lo 3f",
        "b.hi 2f",
        "b {by_number}",
        "2:",
        "adrp x9, {forks}",
        "ldr w10, [x9, :lo12:{forks}]",
        "add w10, w10, #1",
        "str w10, [x9, :lo12:{forks}]",
        "3:",
        "mov x8, x0",
        "mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "mov x3, x4",
        "mov x4, x5",
        "mov x5, x6",
        "svc 0",
        "cmn x0, #4095",
        "b.hs 4f",
        "ret",
        "4:",
        "stp x29, x30, [sp, #-32]!",
        "str x0, [sp, #16]",
        "bl {errno}",
        "ldr x1, [sp, #16]",
        "neg w1, w1",
        "str w1, [x0]",
        "mov x0, #-1",
        "ldp x29, x30, [sp], #32",
        "ret",
        max = const NUMBERS_MAX,
        hooked = const HOOKED,
        kinds = sym KINDS,
        by_number = sym by_number,
        forks = sym descriptors::FORKS,
        errno = sym libc::__errno_location,
    )
}

/// Defines which numbers are hooked, and what each does with its arguments.
macro_rules! numbers {
    ($($(#[$condition:meta])* $number:path = ($($argument:ident),*) $body:block)*) => {
        const HOOKED_NUMBERS: &[c_long] = &[$($(#[$condition])* $number),*];

        unsafe extern "C-unwind" fn by_number(
            number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize,
        ) -> c_long {
            let words = [a, b, c, d, e, f];
            // SAFETY: the program vouches for its arguments as it would to libc.
            let result = unsafe {
                match number {
                    $($(#[$condition])* $number => {
                        numbers!(@bind words; $($argument),*);
                        $body
                    })*
                    _ => kernel::call(number, words),
                }
            };
            answer(result) as c_long
        }
    };
    (@bind $words:ident; $($argument:ident),*) => {
        let [$($argument,)* ..] = $words;
    };
}

/// A path, as the kernel takes it.
fn at(path: usize) -> *const c_char {
    path as *const c_char
}

/// A directory's descriptor, of which the kernel takes the lower half.
fn dir(fd: usize) -> usize {
    directory(fd as c_int)
}

const NEVER: Cancel = Cancel::Never;

numbers! {
    libc::SYS_write = (fd, data, len) { writing::write(fd as c_int, data as *const _, len, NEVER) }
    libc::SYS_pwrite64 = (fd, data, len, offset) {
        writing::pwrite(fd as c_int, data as *const _, len, offset as i64, NEVER)
    }
    libc::SYS_writev = (fd, parts, count) {
        writing::writev(fd as c_int, parts as *const _, count as c_int, NEVER)
    }
    libc::SYS_pwritev = (fd, parts, count, offset) {
        writing::pwritev(fd as c_int, parts as *const _, count as c_int, offset as i64, None, NEVER)
    }
    libc::SYS_pwritev2 = (fd, parts, count, offset, _high, flags) {
        let flags = Some(flags as c_int);
        writing::pwritev(fd as c_int, parts as *const _, count as c_int, offset as i64, flags, NEVER)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open = (path, flags, mode) {
        opening::open(kernel::HERE, at(path), flags as c_int, mode as u32, NEVER)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat = (path, mode) {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        opening::open(kernel::HERE, at(path), flags, mode as u32, NEVER)
    }
    libc::SYS_openat = (fd, path, flags, mode) {
        opening::open(dir(fd), at(path), flags as c_int, mode as u32, NEVER)
    }
    libc::SYS_openat2 = (fd, path, how, len) {
        opening::open_how(dir(fd), at(path), how as *const u64, len, NEVER)
    }
    libc::SYS_open_by_handle_at = (mount, handle, flags) {
        arriving::open_by_handle(flags as c_int, [mount, handle, flags, 0, 0, 0], NEVER)
    }
    libc::SYS_close = (fd) { closing::close(fd as c_int, NEVER) }
    libc::SYS_close_range = (first, last, flags) {
        closing::close_range(first as c_uint, last as c_uint, flags as c_uint)
    }
    libc::SYS_dup = (fd) { closing::duplicate(fd as c_int, libc::SYS_dup, [fd, 0, 0, 0, 0, 0]) }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2 = (old, new) { super::duplicate_to(old as c_int, new as c_int) }
    libc::SYS_dup3 = (old, new, flags) {
        closing::duplicate(old as c_int, libc::SYS_dup3, [old, new, flags, 0, 0, 0])
    }
    libc::SYS_fcntl = (fd, command, argument) {
        control(fd as c_int, command as c_int, argument, NEVER)
    }
    libc::SYS_flock = (fd, how) { locks::flock(fd as c_int, how as c_int) }
    libc::SYS_ftruncate = (fd, size) { writing::ftruncate(fd as c_int, size as i64) }
    libc::SYS_truncate = (path, size) { naming::truncate(at(path), size as i64) }
    libc::SYS_fallocate = (fd, mode, offset, len) {
        allocate(fd as c_int, mode as c_int, offset as i64, len as i64, NEVER)
    }
    libc::SYS_copy_file_range = (from, from_offset, to, to_offset, len, flags) {
        let args = [from, from_offset, to, to_offset, len, flags];
        transfer_between(libc::SYS_copy_file_range, args, NEVER)
    }
    libc::SYS_splice = (from, from_offset, to, to_offset, len, flags) {
        transfer_between(libc::SYS_splice, [from, from_offset, to, to_offset, len, flags], NEVER)
    }
    libc::SYS_sendfile = (to, from, offset, len) {
        let args = [to, from, offset, len, 0, 0];
        writing::kernel_fills(to as c_int, None, None, libc::SYS_sendfile, args, NEVER)
    }
    libc::SYS_ioctl = (fd, request, argument) {
        control_device(fd as c_int, request as _, argument)
    }
    libc::SYS_fsync = (fd) { writing::sync(fd as c_int, libc::SYS_fsync, NEVER) }
    libc::SYS_fdatasync = (fd) { writing::sync(fd as c_int, libc::SYS_fdatasync, NEVER) }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename = (old, new) { naming::rename(kernel::HERE, at(old), kernel::HERE, at(new), 0) }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat = (old_fd, old, new_fd, new) {
        naming::rename(dir(old_fd), at(old), dir(new_fd), at(new), 0)
    }
    libc::SYS_renameat2 = (old_fd, old, new_fd, new, flags) {
        naming::rename(dir(old_fd), at(old), dir(new_fd), at(new), flags as c_uint)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link = (old, new) { link_at(kernel::HERE, at(old), kernel::HERE, at(new), 0) }
    libc::SYS_linkat = (old_fd, old, new_fd, new, flags) {
        link_at(dir(old_fd), at(old), dir(new_fd), at(new), flags as c_int)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink = (target, path) { symbolic_link(at(target), kernel::HERE, at(path)) }
    libc::SYS_symlinkat = (target, fd, path) { symbolic_link(at(target), dir(fd), at(path)) }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink = (path) { naming::unlink(kernel::HERE, at(path), 0) }
    libc::SYS_unlinkat = (fd, path, flags) { naming::unlink(dir(fd), at(path), flags as c_int) }
    libc::SYS_mmap = (address, len, protection, flags, fd, offset) {
        memory::map([address, len, protection, flags, fd, offset])
    }
    libc::SYS_munmap = (address, len) { memory::unmap(address, len) }
    libc::SYS_mremap = (old, old_len, new_len, flags, new) {
        memory::remap([old, old_len, new_len, flags, new, 0])
    }
    libc::SYS_mprotect = (address, len, protection) {
        memory::protect(libc::SYS_mprotect, [address, len, protection, 0, 0, 0])
    }
    libc::SYS_pkey_mprotect = (address, len, protection, key) {
        memory::protect(libc::SYS_pkey_mprotect, [address, len, protection, key, 0, 0])
    }
    libc::SYS_msync = (address, len, flags) { memory::sync(address, len, flags as c_int, NEVER) }
    libc::SYS_recvmsg = (fd, message, flags) {
        arriving::receive(fd as c_int, message as *mut _, flags as c_int, NEVER)
    }
    libc::SYS_recvmmsg = (fd, messages, count, flags, timeout) {
        arriving::receive_many(messages as *mut _, [fd, messages, count, flags, timeout, 0], NEVER)
    }
    libc::SYS_sendmsg = (fd, message, flags) {
        arriving::send(fd as c_int, message as *const _, flags as c_int, NEVER)
    }
    libc::SYS_sendmmsg = (fd, messages, count, flags) {
        let args = [fd, messages, count, flags, 0, 0];
        arriving::send_many(messages as *const _, count as c_uint as usize, args, NEVER)
    }
    libc::SYS_pidfd_getfd = (process, fd, flags) {
        arriving::fetch([process, fd, flags, 0, 0, 0])
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod = (path, mode) {
        of_path((kernel::HERE, at(path)), 0, &|| kernel::call(libc::SYS_chmod, [path, mode, 0, 0, 0, 0]))
    }
    libc::SYS_fchmod = (fd, mode) {
        of_descriptor(fd as c_int, &|| kernel::call(libc::SYS_fchmod, [fd, mode, 0, 0, 0, 0]))
    }
    libc::SYS_fchmodat = (fd, path, mode) {
        let args = [fd, path, mode, 0, 0, 0];
        of_path((dir(fd), at(path)), 0, &|| kernel::call(libc::SYS_fchmodat, args))
    }
    SYS_FCHMODAT2 = (fd, path, mode, flags) {
        let args = [fd, path, mode, flags, 0, 0];
        of_path((dir(fd), at(path)), flags as c_int, &|| kernel::call(SYS_FCHMODAT2, args))
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown = (path, owner, group) {
        attributes::own(kernel::HERE, at(path), owner as u32, group as u32, 0)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown = (path, owner, group) {
        attributes::own(kernel::HERE, at(path), owner as u32, group as u32, libc::AT_SYMLINK_NOFOLLOW)
    }
    libc::SYS_fchown = (fd, owner, group) {
        let args = [fd, owner, group, 0, 0, 0];
        of_descriptor(fd as c_int, &|| kernel::call(libc::SYS_fchown, args))
    }
    libc::SYS_fchownat = (fd, path, owner, group, flags) {
        attributes::own(dir(fd), at(path), owner as u32, group as u32, flags as c_int)
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime = (path, times) {
        of_path((kernel::HERE, at(path)), 0, &|| kernel::call(libc::SYS_utime, [path, times, 0, 0, 0, 0]))
    }
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes = (path, times) {
        of_path((kernel::HERE, at(path)), 0, &|| kernel::call(libc::SYS_utimes, [path, times, 0, 0, 0, 0]))
    }
    libc::SYS_utimensat = (fd, path, times, flags) {
        attributes::set_times(dir(fd), at(path), times as *const _, flags as c_int)
    }
    libc::SYS_chroot = (path) { leaving::chroot(at(path)) }
    libc::SYS_pivot_root = (new, old) { leaves(libc::SYS_pivot_root, [new, old, 0, 0, 0, 0]) }
    libc::SYS_setuid = (user) { leaves(libc::SYS_setuid, [user, 0, 0, 0, 0, 0]) }
    libc::SYS_setreuid = (a, b) { leaves(libc::SYS_setreuid, [a, b, 0, 0, 0, 0]) }
    libc::SYS_setresuid = (a, b, c) { leaves(libc::SYS_setresuid, [a, b, c, 0, 0, 0]) }
    libc::SYS_setfsuid = (user) { leaves(libc::SYS_setfsuid, [user, 0, 0, 0, 0, 0]) }
    libc::SYS_setgid = (group) { leaves(libc::SYS_setgid, [group, 0, 0, 0, 0, 0]) }
    libc::SYS_setregid = (a, b) { leaves(libc::SYS_setregid, [a, b, 0, 0, 0, 0]) }
    libc::SYS_setresgid = (a, b, c) { leaves(libc::SYS_setresgid, [a, b, c, 0, 0, 0]) }
    libc::SYS_setfsgid = (group) { leaves(libc::SYS_setfsgid, [group, 0, 0, 0, 0, 0]) }
    libc::SYS_setns = (fd, kind) { leaves(libc::SYS_setns, [fd, kind, 0, 0, 0, 0]) }
    libc::SYS_unshare = (flags) {
        leaving::reserve_for(flags);
        kernel::call(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0])
    }
}

/// Sets room aside and makes the call.
unsafe fn leaves(number: c_long, args: kernel::Args) -> isize {
    leaving::reserve();
    // SAFETY: handed on.
    unsafe { kernel::call(number, args) }
}
