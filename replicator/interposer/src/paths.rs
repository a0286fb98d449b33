//! Paths as text: made absolute and normalised without asking the kernel more than it takes.

use crate::arena;
use crate::kernel;
use crate::scratch::{PATH_BYTES_MAX, Scratch};
use core::ffi::CStr;
use core::sync::atomic::{AtomicPtr, Ordering};
use libc::{c_char, c_int};

const LINK_PREFIX: &[u8] = b"/proc/self/fd/";

/// Where this process's root is, as the host's root sees it: without a slash at its end, and empty where it is the same.
struct Root {
    path: &'static [u8],
}

static ROOT: AtomicPtr<Root> = AtomicPtr::new(core::ptr::null_mut());

fn root() -> &'static [u8] {
    // SAFETY: roots live for ever.
    unsafe { ROOT.load(Ordering::Acquire).as_ref() }.map_or(&[], |root| root.path)
}

/// What [`set_root`] is to be given if this path becomes the root; `None` when it can't be told.
///
/// # Safety
/// `path` must be null or what the program gave as a path.
pub(crate) unsafe fn future_root(
    path: *const c_char,
    scratch: &mut Scratch,
) -> Option<&'static [u8]> {
    let args = [
        kernel::HERE,
        path as usize,
        (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize,
        0,
        0,
        0,
    ];
    // SAFETY: handed on to our caller.
    let fd = unsafe { kernel::call(libc::SYS_openat, args) };
    if kernel::failed(fd) {
        return None;
    }
    let real = of_descriptor(fd as c_int, &mut scratch.link);
    let real = match real {
        Some(real) => Some(real),
        // Without /proc, as text.
        // SAFETY: handed on to our caller.
        None => unsafe { absolute(kernel::HERE, path, &mut scratch.text) },
    };
    counterfoil_lane::sys::close(fd as c_int);
    let real = real.filter(|real| real.first() == Some(&b'/'))?;
    arena::keep(real.strip_suffix(b"/").unwrap_or(real))
}

/// After `chroot`. With an unknown root nothing matches a rule as text.
pub(crate) fn set_root(root: Option<&'static [u8]>) {
    const UNKNOWN: &[u8] = b"/(unknown)";
    let memory = arena::take(size_of::<Root>()).cast::<Root>();
    if !memory.is_null() {
        let path = root.unwrap_or(UNKNOWN);
        // SAFETY: fresh memory, aligned to 16.
        unsafe { memory.write(Root { path }) };
        ROOT.store(memory, Ordering::Release);
    }
}

/// The path that the program means by `path` relative to `directory` (a descriptor or `AT_FDCWD`): absolute, without
/// `.`, `..` and double slashes. Symbolic links are not followed. `None` when it is empty, too long or unknowable.
///
/// # Safety
/// `path` must be null or what the program gave as a path.
pub(crate) unsafe fn absolute(
    directory: usize,
    path: *const c_char,
    into: &mut [u8],
) -> Option<&[u8]> {
    if (path as usize) < 4096 {
        return None;
    }
    // SAFETY: the program's path ends with NUL, or its own call would fail too.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.is_empty() || path.len() >= PATH_BYTES_MAX {
        return None;
    }
    let root = root();
    let start = if path.first() == Some(&b'/') {
        into.get_mut(..root.len())?.copy_from_slice(root);
        root.len()
    } else if directory == kernel::HERE {
        working_directory(into)?
    } else {
        let len = of_descriptor(directory as c_int, into)?.len();
        (into.first() == Some(&b'/')).then_some(len)?
    };
    let end = start + path.len() + 1;
    *into.get_mut(start)? = b'/';
    into.get_mut(start + 1..end)?.copy_from_slice(path);
    // There is nothing above the root. A directory outside of it was reached before it became that.
    let is_inside = into.starts_with(root) && into.get(root.len()) == Some(&b'/');
    let base = if is_inside { root.len() } else { 0 };
    let len = match base + normalise(into.get_mut(base..end)?) {
        len if base > 0 && len == base + 1 => base,
        len => len,
    };
    into.get(..len)
}

/// The path of a descriptor's file.
pub(crate) fn of_descriptor(fd: c_int, into: &mut [u8]) -> Option<&[u8]> {
    let mut link = [0u8; LINK_PREFIX.len() + 11];
    link.get_mut(..LINK_PREFIX.len())?
        .copy_from_slice(LINK_PREFIX);
    let mut digits = [0u8; 10];
    let digits = decimal(u64::try_from(fd).ok()?, &mut digits);
    link.get_mut(LINK_PREFIX.len()..LINK_PREFIX.len() + digits.len())?
        .copy_from_slice(digits);
    let end = LINK_PREFIX.len() + digits.len() + 1;
    let len = kernel::read_link(link.get(..end)?, into)?.len();
    let root = root();
    if !root.is_empty() && into.first() == Some(&b'/') && is_inside(fd, len, into) {
        into.copy_within(..len, root.len());
        into.get_mut(..root.len())?.copy_from_slice(root);
        return into.get(..root.len() + len);
    }
    into.get(..len)
}

/// Whether the path that the kernel gave for a descriptor is of this root; of what lies outside it gives the host's.
fn is_inside(fd: c_int, len: usize, path: &mut [u8]) -> bool {
    let root_len = root().len();
    // Room for the root, and for a NUL.
    if len + root_len + 1 >= path.len() {
        return false;
    }
    if let Some(end) = path.get_mut(len) {
        *end = 0;
    }
    // SAFETY: the path ends with NUL.
    let there = unsafe { kernel::status_at(kernel::HERE, path.as_ptr().cast(), 0) };
    matches!((there, kernel::status(fd)), (Some(a), Some(b)) if a.st_dev == b.st_dev && a.st_ino == b.st_ino)
}

/// Writes a number at the end of `digits` and returns it; digits that don't fit are cut.
pub(crate) fn decimal(mut value: u64, digits: &mut [u8]) -> &[u8] {
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        start = at;
        if value == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// Puts the working directory at the beginning of `into`; its length without a NUL.
fn working_directory(into: &mut [u8]) -> Option<usize> {
    /// What the kernel says of a directory outside of the root.
    const UNREACHABLE: &[u8] = b"(unreachable)";
    let root = root();
    let place = into.get_mut(root.len()..)?;
    // SAFETY: the buffer is ours and that long.
    let result = unsafe {
        kernel::call(
            libc::SYS_getcwd,
            [place.as_mut_ptr() as usize, place.len(), 0, 0, 0, 0],
        )
    };
    // The kernel counts the NUL.
    let len = usize::try_from(result).ok()?.checked_sub(1)?;
    if place.first() == Some(&b'/') {
        into.get_mut(..root.len())?.copy_from_slice(root);
        return Some(root.len() + len);
    }
    let outside = place.get(..len)?.strip_prefix(UNREACHABLE)?.len();
    let start = root.len() + len - outside;
    // Without a root of its own it is a directory that was unmounted.
    if root.is_empty() || into.get(start) != Some(&b'/') {
        return None;
    }
    into.copy_within(start..start + outside, 0);
    Some(outside)
}

/// Removes `.`, `..` and double slashes from an absolute path in place. Returns the new length, at least 1.
fn normalise(path: &mut [u8]) -> usize {
    let mut to = 0;
    let mut from = 0;
    while from < path.len() {
        // `from` is at a slash, or at the first byte of a component.
        while path.get(from) == Some(&b'/') {
            from += 1;
        }
        let rest = path.get(from..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len());
        match rest.get(..len).unwrap_or_default() {
            b"" | b"." => {}
            b".." => {
                let before = path.get(..to).unwrap_or_default();
                to = before.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            }
            _ => {
                if let Some(slash) = path.get_mut(to) {
                    *slash = b'/';
                }
                path.copy_within(from..from + len, to + 1);
                to += len + 1;
            }
        }
        from += len;
    }
    if to == 0 {
        if let Some(slash) = path.get_mut(0) {
            *slash = b'/';
        }
        to = 1;
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_text() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("/a//b", "/a/b"),
            ("//a/./b/.", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/../..", "/"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/...", "/a/..."),
            ("/a/.b", "/a/.b"),
        ] {
            let mut bytes = path.as_bytes().to_vec();
            let len = normalise(&mut bytes);
            assert_eq!(&bytes[..len], expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut digits = [0; 10];
        assert_eq!(decimal(0, &mut digits), b"0");
        assert_eq!(decimal(2_147_483_647, &mut digits), b"2147483647");
        assert_eq!(decimal(1024, &mut digits), b"1024");
    }
}
