//! Paths as text: made absolute and normalised without asking the kernel more than it takes.

use crate::kernel;
use crate::scratch::PATH_BYTES_MAX;
use core::ffi::CStr;
use libc::{c_char, c_int};

const LINK_PREFIX: &[u8] = b"/proc/self/fd/";

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
    let start = if path.first() == Some(&b'/') {
        0
    } else if directory == kernel::HERE {
        working_directory(into)?
    } else {
        let len = of_descriptor(directory as c_int, into)?.len();
        (into.first() == Some(&b'/')).then_some(len)?
    };
    let end = start + path.len() + 1;
    *into.get_mut(start)? = b'/';
    into.get_mut(start + 1..end)?.copy_from_slice(path);
    let len = normalise(into.get_mut(..end)?);
    into.get(..len)
}

/// The kernel's path of a descriptor's file.
pub(crate) fn of_descriptor(fd: c_int, into: &mut [u8]) -> Option<&[u8]> {
    let mut link = [0u8; LINK_PREFIX.len() + 11];
    link.get_mut(..LINK_PREFIX.len())?
        .copy_from_slice(LINK_PREFIX);
    let mut digits = [0u8; 10];
    let digits = decimal(u64::try_from(fd).ok()?, &mut digits);
    link.get_mut(LINK_PREFIX.len()..LINK_PREFIX.len() + digits.len())?
        .copy_from_slice(digits);
    let end = LINK_PREFIX.len() + digits.len() + 1;
    kernel::read_link(link.get(..end)?, into)
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
    // SAFETY: the buffer is ours and that long.
    let result = unsafe {
        kernel::call(
            libc::SYS_getcwd,
            [into.as_mut_ptr() as usize, into.len(), 0, 0, 0, 0],
        )
    };
    // The kernel counts the NUL. A directory that can't be reached begins with "(unreachable)".
    let len = usize::try_from(result).ok()?.checked_sub(1)?;
    (into.first() == Some(&b'/')).then_some(len)
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
