//! Which lanes directory a program joins, if any.
//!
//! The environment decides where it says something: `COUNTERFOIL_LANES` names the directory, or is empty for "none". Where
//! it says nothing, as with `/etc/ld.so.preload`, `/etc/counterfoil/lanes` does, except for the programs that
//! `/etc/counterfoil/except` names and the first process of the system. Programs that run with privileges their user doesn't
//! have ignore the environment. The files count only if root alone can have written them.

use crate::kernel;
use counterfoil_lane::sys;
use counterfoil_lane::writer::DIRECTORY_BYTES_MAX;
use libc::c_int;

/// Bytes that [`directory`] needs.
pub(crate) const DIRECTORY_BYTES: usize = DIRECTORY_BYTES_MAX + 2;

const SETTINGS: &[u8] = b"/etc/counterfoil\0";
const LANES_FILE: &[u8] = b"/etc/counterfoil/lanes\0";
const EXCEPT_FILE: &[u8] = b"/etc/counterfoil/except\0";
const EXCEPT_BYTES_MAX: usize = 4096;
/// Counterfoil's own binary, whose files are never anybody's records.
const OWN_NAME: &[u8] = b"counterfoil";

/// The absolute path of the lanes directory. For the constructor.
pub(crate) fn directory(buffer: &mut [u8; DIRECTORY_BYTES]) -> Option<&[u8]> {
    // SAFETY: getauxval only reads what the kernel gave the process.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // SAFETY: the name ends with NUL; nobody changes the environment while constructors run.
    let named = unsafe { libc::getenv(c"COUNTERFOIL_LANES".as_ptr()) };
    let path = if is_secure || named.is_null() {
        by_system(buffer)?
    } else {
        // SAFETY: getenv gives a string that ends with NUL.
        unsafe { core::ffi::CStr::from_ptr(named) }.to_bytes()
    };
    (path.first() == Some(&b'/') && path.len() <= DIRECTORY_BYTES_MAX).then_some(path)
}

fn by_system(buffer: &mut [u8; DIRECTORY_BYTES]) -> Option<&[u8]> {
    let directory = sys::open(SETTINGS, libc::O_PATH | libc::O_DIRECTORY, 0);
    let directory = c_int::try_from(directory).ok().filter(|&fd| fd >= 0)?;
    let is_trusted = kernel::status(directory).is_some_and(|status| is_roots(&status));
    sys::close(directory);
    if !is_trusted || sys::process_id() == 1 || is_excepted() {
        return None;
    }
    let len = read_trusted(LANES_FILE, buffer)?;
    // One that fills the buffer may go on behind it.
    let text = buffer
        .get(..len)
        .filter(|text| text.len() < DIRECTORY_BYTES)?;
    Some(text.split(|&byte| byte == b'\n').next()?.trim_ascii())
}

fn is_excepted() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    unsafe {
        kernel::call(
            libc::SYS_prctl,
            [
                libc::PR_GET_NAME as usize,
                name.as_mut_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        )
    };
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    if name == OWN_NAME {
        return true;
    }
    let mut text = [0u8; EXCEPT_BYTES_MAX];
    let len = read_trusted(EXCEPT_FILE, &mut text).unwrap_or(0);
    is_named_in(name, text.get(..len).unwrap_or_default())
}

/// Whether a list of names, one in a line, has this one. A `*` at the end of a line stands for whatever follows.
fn is_named_in(name: &[u8], list: &[u8]) -> bool {
    // The kernel keeps no more of a name.
    const NAME_BYTES_MAX: usize = 15;
    list.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .any(|line| match line.strip_suffix(b"*") {
            Some(start) => name.starts_with(start),
            None => name == line.get(..NAME_BYTES_MAX).unwrap_or(line),
        })
}

/// Reads the beginning of a file that only root can have written.
fn read_trusted(path: &[u8], into: &mut [u8]) -> Option<usize> {
    let fd = sys::open(
        path,
        libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK,
        0,
    );
    let fd = c_int::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    let is_trusted =
        kernel::status(fd).is_some_and(|status| kernel::is_regular(&status) && is_roots(&status));
    let len = if is_trusted {
        kernel::read(fd, into)
    } else {
        -1
    };
    sys::close(fd);
    usize::try_from(len).ok()
}

fn is_roots(status: &libc::stat) -> bool {
    status.st_uid == 0 && status.st_mode & (libc::S_IWGRP | libc::S_IWOTH) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_names_one_in_a_line() {
        let list = b"# never these\nsshd\n systemd* \na-name-longer-than-the-kernel-keeps\n\n";
        for (name, expected) in [
            (&b"sshd"[..], true),
            (b"sshd2", false),
            (b"ssh", false),
            (b"systemd-journal", true),
            (b"a-name-longer-t", true),
            (b"payroll", false),
            (b"# never these", false),
            (b"", false),
        ] {
            assert_eq!(is_named_in(name, list), expected, "{name:?}");
        }
    }
}
