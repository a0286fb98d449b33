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
    use crate::{cancellation, hooks, kernel};
    use core::ffi::CStr;
    use libc::{c_int, c_void};

    const TARGETS_MAX: usize = 64;

    /// An entry of libc and where it is to lead.
    struct Target {
        name: &'static CStr,
        hook: usize,
        /// Without it nothing is patched.
        is_essential: bool,
        is_private: bool,
    }

    fn targets() -> [Target; 36] {
        let essential = |name, hook| Target {
            name,
            hook,
            is_essential: true,
            is_private: false,
        };
        let other = |name, hook| Target {
            name,
            hook,
            is_essential: false,
            is_private: false,
        };
        let private = |name, hook| Target {
            name,
            hook,
            is_essential: false,
            is_private: true,
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
            private(
                c"__write_nocancel",
                hooks::write_nocancel as *const () as usize,
            ),
            private(
                c"__open_nocancel",
                hooks::open_nocancel as *const () as usize,
            ),
            private(
                c"__open64_nocancel",
                hooks::open_nocancel as *const () as usize,
            ),
            private(
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
        ]
    }

    /// Where code is to be written.
    #[derive(Clone, Copy, Default)]
    struct Site {
        address: usize,
        code: machine::Code,
    }

    /// What `dl_iterate_phdr` is to find: the executable segment around an address.
    struct Text {
        around: usize,
        start: usize,
        end: usize,
    }

    pub(super) fn patch() -> Option<()> {
        // With threads about, one could be just there.
        if !cancellation::is_single_threaded() {
            return None;
        }
        // SAFETY: the name ends with NUL; NOLOAD loads nothing.
        let libc_handle =
            unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if libc_handle.is_null() {
            return None;
        }
        // SAFETY: a handle that is open.
        let anchor = unsafe { libc::dlsym(libc_handle, c"write".as_ptr()) } as usize;
        let text = text_around(anchor)?;
        if !text_may_be_changed(anchor) {
            return None;
        }
        let mut sites = [Site::default(); TARGETS_MAX];
        let mut count = 0;
        for target in &targets() {
            match site_of(libc_handle, target, &text) {
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
        write_all(sites, &text)
    }

    fn site_of(libc_handle: *mut c_void, target: &Target, text: &Text) -> Option<Site> {
        // SAFETY: a handle that is open, names that end with NUL.
        let entry = unsafe {
            if target.is_private {
                libc::dlvsym(libc_handle, target.name.as_ptr(), c"GLIBC_PRIVATE".as_ptr())
            } else {
                libc::dlsym(libc_handle, target.name.as_ptr())
            }
        } as usize;
        if entry < text.start || entry + 64 > text.end {
            return None;
        }
        let size = size_of_symbol(entry)?;
        // SAFETY: the entry lies in libc's text, 64 bytes before its end at least.
        let begin = unsafe { core::slice::from_raw_parts(entry as *const u8, 8) };
        let address = entry + machine::landing_bytes(begin);
        let code = machine::jump(address, target.hook);
        (address + code.bytes().len() <= entry + size).then_some(Site { address, code })
    }

    fn size_of_symbol(address: usize) -> Option<usize> {
        const RTLD_DL_SYMENT: c_int = 1;
        unsafe extern "C" {
            fn dladdr1(
                address: *const c_void,
                info: *mut libc::Dl_info,
                extra: *mut *mut c_void,
                flags: c_int,
            ) -> c_int;
        }
        let mut info = core::mem::MaybeUninit::<libc::Dl_info>::uninit();
        let mut symbol: *mut c_void = core::ptr::null_mut();
        // SAFETY: both are ours; on success they are filled, and the symbol lives as long as libc.
        unsafe {
            let found = dladdr1(
                address as *const c_void,
                info.as_mut_ptr(),
                &mut symbol,
                RTLD_DL_SYMENT,
            );
            if found == 0 || symbol.is_null() {
                return None;
            }
            let info = info.assume_init();
            if info.dli_saddr as usize != address {
                return None;
            }
            usize::try_from((*symbol.cast::<libc::Elf64_Sym>()).st_size).ok()
        }
    }

    fn text_around(address: usize) -> Option<Text> {
        let mut text = Text {
            around: address,
            start: 0,
            end: 0,
        };
        // SAFETY: the callback gets our structure back.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut text).cast()) };
        (text.end > text.start).then_some(text)
    }

    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, text: *mut c_void) -> c_int {
        // SAFETY: the loader gives valid headers, and `text` is what text_around passed.
        unsafe {
            let text = &mut *text.cast::<Text>();
            let info = &*info;
            for at in 0..usize::from(info.dlpi_phnum) {
                let header = &*info.dlpi_phdr.add(at);
                let start = info.dlpi_addr as usize + header.p_vaddr as usize;
                let end = start + header.p_memsz as usize;
                let executable = header.p_type == libc::PT_LOAD
                    && header.p_flags & libc::PF_X != 0
                    && header.p_flags & libc::PF_W == 0;
                if executable && (start..end).contains(&text.around) {
                    text.start = start;
                    text.end = end;
                    return 1;
                }
            }
        }
        0
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
    fn write_all(sites: &[Site], text: &Text) -> Option<()> {
        // SAFETY: sysconf reads a constant.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let start = text.start & !(page - 1);
        let len = text.end.next_multiple_of(page) - start;
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
