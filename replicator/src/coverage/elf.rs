//! What of an executable file says whether a library can be preloaded into it.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Program headers looked at; real executables have a dozen.
const HEADERS_MAX: u16 = 128;
/// As long as the path of a loader may be.
const LOADER_BYTES_MAX: u64 = 4096;

const PT_INTERP: u32 = 3;
const BITS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: u16 = 0;

/// An ELF executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Elf {
    /// For this kind of processor.
    Native {
        /// The dynamic loader it names; a static one names none.
        loader: Option<String>,
    },
    /// For another one.
    Foreign {
        /// 32 or 64.
        bits: u8,
    },
}

impl Elf {
    /// Looks at a file; `None` when it is no ELF file, or not a whole one.
    pub(super) fn read(file: &File) -> io::Result<Option<Elf>> {
        let mut header = [0; 64];
        let len = file.read_at(&mut header, 0)?;
        if len < header.len() || !header.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        if header[4] != BITS_64 {
            return Ok(Some(Elf::Foreign { bits: 32 }));
        }
        if header[5] != LITTLE_ENDIAN || half(&header, 18) != MACHINE && MACHINE != 0 {
            return Ok(Some(Elf::Foreign { bits: 64 }));
        }
        let (at, size, count) = (long(&header, 32), half(&header, 54), half(&header, 56));
        let mut entry = [0; 56];
        if usize::from(size) < entry.len() {
            return Ok(None);
        }
        for number in 0..count.min(HEADERS_MAX) {
            let at = at.saturating_add(u64::from(number) * u64::from(size));
            if file.read_at(&mut entry, at)? < entry.len() {
                return Ok(None);
            }
            if word(&entry, 0) != PT_INTERP {
                continue;
            }
            let (at, len) = (long(&entry, 8), long(&entry, 32).min(LOADER_BYTES_MAX));
            let mut loader = vec![0; len as usize];
            let len = file.read_at(&mut loader, at)?;
            let loader = loader[..len].split(|&byte| byte == 0).next();
            let loader = String::from_utf8_lossy(loader.unwrap_or_default()).into_owned();
            return Ok(Some(Elf::Native {
                loader: Some(loader),
            }));
        }
        Ok(Some(Elf::Native { loader: None }))
    }
}

/// The interpreter that the first line of a script names.
pub(super) fn interpreter(begin: &[u8]) -> Option<PathBuf> {
    let line = begin.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next()?;
    let path = line
        .trim_ascii()
        .split(|byte| byte.is_ascii_whitespace())
        .next()?;
    (!path.is_empty()).then(|| std::ffi::OsStr::from_bytes(path).into())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
