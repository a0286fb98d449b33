//! Leading libc's own calls to the hooks.
//!
//! libc calls its `write`, `open64`, `close` and others past every symbol (stdio does), so their first bytes are
//! replaced by a jump at load time. The original bytes are never needed again: the hooks make the system calls
//! themselves. All or nothing: where one of the essential entries can't be replaced, none is, the hooks are reached by
//! symbol only, and [`is_patched`] says no for good.
//!
//! While the bytes are written the text is writable and not executable; nothing of libc is called and signals are held
//! back meanwhile.

#[cfg(target_arch = "aarch64")]
#[path = "patch/aarch64.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "patch/x86_64.rs"]
mod machine;
#[cfg(target_env = "gnu")]
#[path = "patch/symbols.rs"]
mod symbols;

use core::sync::atomic::{AtomicBool, Ordering};

static PATCHED: AtomicBool = AtomicBool::new(false);

/// Whether libc's own calls come to the hooks.
#[inline(always)]
pub(crate) fn is_patched() -> bool {
    PATCHED.load(Ordering::Relaxed)
}

/// Replaces what can be replaced. For the constructor.
pub(crate) fn start() {
    // SAFETY: the name ends with NUL; constructors may read the environment.
    let wish = unsafe { libc::getenv(c"COUNTERFOIL_PATCH".as_ptr()) };
    // SAFETY: getenv gives a string that ends with NUL.
    if !wish.is_null() && unsafe { core::ffi::CStr::from_ptr(wish) } == c"0" {
        return;
    }
    #[cfg(target_env = "gnu")]
    PATCHED.store(glibc::patch().is_some(), Ordering::Relaxed);
}

#[cfg(target_env = "gnu")]
mod glibc {
    use super::machine;
    use super::symbols::{Object, object_around};
    use crate::{cancellation, hooks, kernel};
    use core::ffi::CStr;
    use libc::{c_int, c_void};

    const TARGETS_MAX: usize = 96;

    /// An entry of libc and where it is to lead.
    struct Target {
        name: &'static CStr,
        hook: usize,
        /// Without it nothing is patched.
        is_essential: bool,
    }

    fn targets() -> [Target; 62] {
        let essential = |name, hook| Target {
            name,
            hook,
            is_essential: true,
        };
        let other = |name, hook| Target {
            name,
            hook,
            is_essential: false,
        };
        [
            essential(c"write", hooks::write as *const () as usize),
            essential(c"open", hooks::open as *const () as usize),
            essential(c"open64", hooks::open as *const () as usize),
            essential(c"close", hooks::close as *const () as usize),
            essential(c"writev", hooks::writev as *const () as usize),
            essential(c"fcntl", hooks::fcntl as *const () as usize),
            essential(c"dup2", hooks::dup2 as *const () as usize),
            essential(c"dup3", hooks::dup3 as *const () as usize),
            other(
                c"__write_nocancel",
                hooks::write_nocancel as *const () as usize,
            ),
            other(
                c"__open_nocancel",
                hooks::open_nocancel as *const () as usize,
            ),
            other(
                c"__open64_nocancel",
                hooks::open_nocancel as *const () as usize,
            ),
            other(
                c"__close_nocancel",
                hooks::close_nocancel as *const () as usize,
            ),
            other(c"fcntl64", hooks::fcntl as *const () as usize),
            other(c"pwrite", hooks::pwrite as *const () as usize),
            other(c"pwrite64", hooks::pwrite as *const () as usize),
            other(c"pwritev", hooks::pwritev as *const () as usize),
            other(c"pwritev64", hooks::pwritev as *const () as usize),
            other(c"pwritev2", hooks::pwritev2 as *const () as usize),
            other(c"pwritev64v2", hooks::pwritev2 as *const () as usize),
            other(c"openat", hooks::openat as *const () as usize),
            other(c"openat64", hooks::openat as *const () as usize),
            other(c"creat", hooks::creat as *const () as usize),
            other(c"creat64", hooks::creat as *const () as usize),
            other(c"close_range", hooks::close_range as *const () as usize),
            other(c"dup", hooks::dup as *const () as usize),
            other(c"ftruncate", hooks::ftruncate as *const () as usize),
            other(c"ftruncate64", hooks::ftruncate as *const () as usize),
            other(c"truncate", hooks::truncate as *const () as usize),
            other(c"truncate64", hooks::truncate as *const () as usize),
            other(c"rename", hooks::rename as *const () as usize),
            other(c"renameat", hooks::renameat as *const () as usize),
            other(c"renameat2", hooks::renameat2 as *const () as usize),
            other(c"unlink", hooks::unlink as *const () as usize),
            other(c"unlinkat", hooks::unlinkat as *const () as usize),
            other(c"fsync", hooks::fsync as *const () as usize),
            other(c"fdatasync", hooks::fdatasync as *const () as usize),
            other(c"syscall", hooks::numbers::syscall as *const () as usize),
            other(c"link", hooks::link as *const () as usize),
            other(c"linkat", hooks::linkat as *const () as usize),
            other(c"symlink", hooks::symlink as *const () as usize),
            other(c"symlinkat", hooks::symlinkat as *const () as usize),
            other(
                c"copy_file_range",
                hooks::copy_file_range as *const () as usize,
            ),
            other(c"sendfile", hooks::sendfile as *const () as usize),
            other(c"sendfile64", hooks::sendfile as *const () as usize),
            other(c"splice", hooks::splice as *const () as usize),
            other(c"fallocate", hooks::fallocate as *const () as usize),
            other(c"fallocate64", hooks::fallocate as *const () as usize),
            other(c"flock", hooks::flock as *const () as usize),
            other(c"recvmsg", hooks::arriving::recvmsg as *const () as usize),
            other(c"recvmmsg", hooks::arriving::recvmmsg as *const () as usize),
            other(c"sendmsg", hooks::arriving::sendmsg as *const () as usize),
            other(c"sendmmsg", hooks::arriving::sendmmsg as *const () as usize),
            other(
                c"open_by_handle_at",
                hooks::arriving::open_by_handle_at as *const () as usize,
            ),
            other(c"chmod", hooks::attributes::chmod as *const () as usize),
            other(c"fchmod", hooks::attributes::fchmod as *const () as usize),
            other(c"chown", hooks::attributes::chown as *const () as usize),
            other(c"lchown", hooks::attributes::lchown as *const () as usize),
            other(c"fchown", hooks::attributes::fchown as *const () as usize),
            other(
                c"fchownat",
                hooks::attributes::fchownat as *const () as usize,
            ),
            other(
                c"utimensat",
                hooks::attributes::utimensat as *const () as usize,
            ),
            other(
                c"futimens",
                hooks::attributes::futimens as *const () as usize,
            ),
            other(c"chroot", hooks::privileges::chroot as *const () as usize),
        ]
    }

    /// Where code is to be written.
    #[derive(Clone, Copy, Default)]
    struct Site {
        address: usize,
        code: machine::Code,
    }

    pub(super) fn patch() -> Option<()> {
        // With threads about, one could be just there.
        if !cancellation::is_single_threaded() {
            return None;
        }
        // Nobody interposes this one.
        let anchor = libc::gnu_get_libc_version as *const () as usize;
        let object = object_around(anchor)?;
        if !text_may_be_changed(anchor) {
            return None;
        }
        let mut sites = [Site::default(); TARGETS_MAX];
        let mut count = 0;
        for target in &targets() {
            match site_of(&object, target) {
                Some(site) => {
                    let same = sites
                        .get(..count)?
                        .iter()
                        .any(|other| other.address == site.address);
                    if !same {
                        *sites.get_mut(count)? = site;
                        count += 1;
                    }
                }
                None if target.is_essential => return None,
                None => {}
            }
        }
        let sites = sites.get(..count)?;
        let overlaps = sites.iter().any(|site| {
            let end = site.address + site.code.bytes().len();
            sites
                .iter()
                .any(|other| other.address > site.address && other.address < end)
        });
        if overlaps {
            return None;
        }
        write_all(sites, &object)
    }

    fn site_of(object: &Object, target: &Target) -> Option<Site> {
        let function = object.function(target.name)?;
        let entry = function.address;
        if entry < object.text_start || entry + 64 > object.text_end {
            return None;
        }
        // SAFETY: the entry lies in libc's text, 64 bytes before its end at least.
        let begin = unsafe { core::slice::from_raw_parts(entry as *const u8, 8) };
        let address = entry + machine::landing_bytes(begin);
        let code = machine::jump(address, target.hook);
        (address + code.bytes().len() <= entry + function.size).then_some(Site { address, code })
    }

    /// Whether changed text may be executed here at all (a security module may forbid it): tried on a page of libc's
    /// file that nobody uses, because a failure half way would leave libc without its code.
    fn text_may_be_changed(anchor: usize) -> bool {
        const PAGE_BYTES: usize = 4096;
        let mut info = core::mem::MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: `info` is filled on success; the file's name ends with NUL; the page is ours alone.
        unsafe {
            if libc::dladdr(anchor as *const c_void, info.as_mut_ptr()) == 0 {
                return false;
            }
            let file = kernel::call(
                libc::SYS_openat,
                [
                    kernel::HERE,
                    info.assume_init().dli_fname as usize,
                    (libc::O_RDONLY | libc::O_CLOEXEC) as usize,
                    0,
                    0,
                    0,
                ],
            );
            if kernel::failed(file) {
                return false;
            }
            let page = kernel::call(
                libc::SYS_mmap,
                [
                    0,
                    PAGE_BYTES,
                    (libc::PROT_READ | libc::PROT_WRITE) as usize,
                    libc::MAP_PRIVATE as usize,
                    file as usize,
                    0,
                ],
            );
            counterfoil_lane::sys::close(file as c_int);
            if kernel::failed(page) {
                return false;
            }
            (page as *mut u8).write_volatile(0);
            let allowed = protect(page as usize, PAGE_BYTES, libc::PROT_READ | libc::PROT_EXEC);
            counterfoil_lane::sys::unmap(page as *mut u8, PAGE_BYTES);
            allowed
        }
    }

    fn protect(start: usize, len: usize, protection: c_int) -> bool {
        // SAFETY: the callers pass pages whose protection may change.
        unsafe {
            kernel::call(
                libc::SYS_mprotect,
                [start, len, protection as usize, 0, 0, 0],
            ) == 0
        }
    }

    fn set_signal_mask(mask: u64, before: &mut u64) {
        // SAFETY: both are ours, of the kernel's size.
        unsafe {
            kernel::call(
                libc::SYS_rt_sigprocmask,
                [
                    libc::SIG_SETMASK as usize,
                    (&raw const mask) as usize,
                    core::ptr::from_mut(before) as usize,
                    8,
                    0,
                    0,
                ],
            );
        }
    }

    /// Writes all jumps. From the first change of protection to the last nothing of libc may run, not even the `memcpy`
    /// that a compiler likes to put in: that part is assembly.
    fn write_all(sites: &[Site], object: &Object) -> Option<()> {
        // SAFETY: sysconf reads a constant.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let start = object.text_start & !(page - 1);
        let len = object.text_end.next_multiple_of(page) - start;
        let mut addresses = [0usize; TARGETS_MAX * 16];
        let mut values = [0u8; TARGETS_MAX * 16];
        let bytes = sites.iter().flat_map(|site| {
            let addresses = site.address..;
            addresses.zip(site.code.bytes().iter().copied())
        });
        let mut count = 0;
        for ((to_address, to_value), (address, value)) in
            addresses.iter_mut().zip(&mut values).zip(bytes)
        {
            (*to_address, *to_value) = (address, value);
            count += 1;
        }
        let mut mask = 0;
        set_signal_mask(u64::MAX, &mut mask);
        // SAFETY: `start` and `len` are libc's text in whole pages, the addresses lie in it, and there are `count` of
        // each; signals are held back and there are no other threads.
        let (writable, executable) =
            unsafe { machine::write(start, len, addresses.as_ptr(), values.as_ptr(), count) };
        if writable && executable {
            for site in sites {
                machine::make_visible(site.address, site.code.bytes().len());
            }
        }
        let mut ours = 0;
        set_signal_mask(mask, &mut ours);
        (writable && executable).then_some(())
    }
}
