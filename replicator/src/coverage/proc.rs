//! Files of `/proc/PID`, taken apart. Nothing in them is trusted to be whole: a process may end while it is read.

use counterfoil_lane::clock;
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// All processes that can be seen.
pub fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A line of `maps`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    /// What is written to it gets into the file.
    pub(super) is_shared_writable: bool,
    /// Major and minor number of the file's device.
    pub(super) device: (u32, u32),
    /// Inode of the file, 0 for none.
    pub(super) inode: u64,
    /// Its path, empty for none. Where it has a newline, `\012`.
    pub(super) path: &'a [u8],
}

/// The mappings of files that `maps` lists.
pub(super) fn mappings(maps: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    maps.split(|&byte| byte == b'\n').filter_map(mapping)
}

fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    // Addresses, permissions, offset, device, inode, then blanks and the path.
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|&byte| byte == b' ');
        let (field, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = behind.get(1..).unwrap_or_default();
        field
    };
    let (_, permissions, _, device, inode) = (field(), field(), field(), field(), field());
    let path = rest.trim_ascii_start();
    if path.first() != Some(&b'/') {
        return None;
    }
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    Some(Mapping {
        is_shared_writable: permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's'),
        device: (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
        ),
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        path,
    })
}

/// A variable of `environ`: what the program was started with.
pub(super) fn variable<'e>(environ: &'e [u8], name: &[u8]) -> Option<&'e [u8]> {
    environ
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
}

/// Whether `auxv` says that the loader was not to heed the environment.
pub(super) fn is_secure(auxv: &[u8]) -> bool {
    const AT_SECURE: u64 = 23;
    let word = |bytes: &[u8]| {
        // The kernel's own order, so the host's.
        bytes
            .try_into()
            .map_or(0, |bytes| u64::from_le(u64::from_le_bytes(bytes)))
    };
    auxv.chunks_exact(16)
        .any(|pair| word(&pair[..8]) == AT_SECURE && word(&pair[8..]) != 0)
}

/// The real user id in `status`.
pub(super) fn real_user(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().next()?.parse().ok()
}

/// The wall clock when a process started, from its start in clock ticks since boot; as exact as a tick.
pub(super) fn started_wall_ns(ticks: u64) -> Option<i64> {
    // SAFETY: only asks for a number.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks_per_second = u64::try_from(ticks_per_second).ok()?.max(1);
    let up = clock_gettime(ClockId::Boottime);
    let up_ns = up.tv_sec.checked_mul(1_000_000_000)? + up.tv_nsec;
    let started_ns = ticks.checked_mul(1_000_000_000)? / ticks_per_second;
    Some(clock::wall() - (up_ns - i64::try_from(started_ns).ok()?))
}
