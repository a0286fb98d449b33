//! Reading entries of trees: as wholes, and only as they were at one moment.
//!
//! Nobody reports what is written to such a file, so a read may meet a writer. Size, times and inode before and after tell:
//! when they differ, what was read is given up and read again. A file that is never still is taken as it was read, and its
//! next change has it read once more.
//!
//! A file that fits a block is sent with its content. Of a longer one that is mirrored already only checksums are sent;
//! the publisher asks for the blocks that it has otherwise ([`Task::Blocks`]), and gets these if the file still is the one
//! that was summed.

use super::reading::open;
use super::{CHUNK_BYTES, Checker, FILE_BYTES_MAX, Stopped, What, checksum, seen};
use counterfoil_lane::clock;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// How often a file that changes while it is read is read again before it is taken as it is.
const READS_MAX: u32 = 5;

/// What tells whether a file was changed: inode, size, and time of change, which can't be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &std::fs::Metadata) -> Version {
        Version {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How a read ended.
enum Read {
    /// It was sent, whole.
    Done,
    /// It was changed meanwhile.
    Changed,
}

impl Checker {
    /// Reads all of an entry, as a comparison has its turn.
    pub(super) fn check_entry(&mut self, path: &Arc<[u8]>) -> Result<(), Stopped> {
        let began = Instant::now();
        let read = self.read_entry(path, None);
        self.ended(path, true, began.elapsed());
        read
    }

    /// Reads an entry: all of it, or these blocks if it is still as it was summed.
    pub(super) fn read_entry(
        &mut self,
        path: &Arc<[u8]>,
        blocks: Option<&[u64]>,
    ) -> Result<(), Stopped> {
        let known = !self.known.insert(Arc::clone(path));
        // The first time after a start most files are as they were, however small.
        let sum_small = self.unchecked.remove(path);
        let mut blocks = blocks;
        for read in 1..=READS_MAX {
            let begin = clock::now();
            match self.try_entry(
                path,
                begin,
                (known, sum_small),
                blocks.take(),
                read == READS_MAX,
            ) {
                Ok(Ok(Read::Done)) => return Ok(()),
                Ok(Ok(Read::Changed)) => self.send(path, begin, What::Abandoned)?,
                Ok(Err(error)) if is_absent(&error) => {
                    self.known.remove(path);
                    self.summed.remove(path);
                    return self.send(path, begin, What::Missing);
                }
                Ok(Err(error)) => {
                    return self.send(path, begin, What::Unreadable(error.to_string()));
                }
                Err(Stopped) => return Err(Stopped),
            }
        }
        Ok(())
    }

    fn try_entry(
        &mut self,
        path: &Arc<[u8]>,
        begin: u64,
        (known, sum_small): (bool, bool),
        blocks: Option<&[u64]>,
        last: bool,
    ) -> Result<io::Result<Read>, Stopped> {
        let os_path = Path::new(std::ffi::OsStr::from_bytes(path));
        let metadata = match std::fs::symlink_metadata(os_path) {
            Ok(metadata) => metadata,
            Err(error) => return Ok(Err(error)),
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = match std::fs::read_link(os_path) {
                Ok(target) => target.into_os_string().into_vec(),
                // It became something else.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Ok(Ok(Read::Changed));
                }
                Err(error) => return Ok(Err(error)),
            };
            let after = std::fs::symlink_metadata(os_path).map(|after| Version::of(&after));
            if !last && !after.is_ok_and(|after| after == Version::of(&metadata)) {
                return Ok(Ok(Read::Changed));
            }
            let what = What::Content {
                offset: 0,
                bytes: target,
                at_end: true,
                load: false,
            };
            self.send(path, begin, what)?;
        } else if kind.is_file() {
            let file = match open(os_path) {
                Ok(file) => file,
                // It became a link.
                Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                    return Ok(Ok(Read::Changed));
                }
                Err(error) => return Ok(Err(error)),
            };
            return self.read_static(path, &file, (known, sum_small), blocks, last);
        } else if !kind.is_dir() {
            // What isn't mirrored took its place.
            return Ok(Err(io::ErrorKind::NotFound.into()));
        }
        self.complete(path, begin, &metadata)?;
        Ok(Ok(Read::Done))
    }

    fn read_static(
        &mut self,
        path: &Arc<[u8]>,
        file: &File,
        (known, sum_small): (bool, bool),
        blocks: Option<&[u64]>,
        last: bool,
    ) -> Result<io::Result<Read>, Stopped> {
        let begin = clock::now();
        let metadata = match file.metadata() {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                let reason = format!(
                    "it is longer than the {FILE_BYTES_MAX} bytes that a mirrored file may have"
                );
                return Ok(Err(io::Error::other(reason)));
            }
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(Ok(Read::Changed)),
            Err(error) => return Ok(Err(error)),
        };
        let version = Version::of(&metadata);
        // It stays: blocks may be asked for in several tasks, and each gets some until all are there.
        if blocks.is_some() && self.summed.get(path) != Some(&version) {
            return Ok(Ok(Read::Changed));
        }
        let small = metadata.len() <= CHUNK_BYTES;
        let sum = blocks.is_none() && if small { sum_small } else { known };
        let whole: Vec<u64>;
        let blocks = match blocks {
            Some(blocks) => blocks,
            None => {
                whole = (0..metadata.len().div_ceil(CHUNK_BYTES).max(1)).collect();
                &whole
            }
        };
        for &block in blocks {
            let begin = clock::now();
            let offset = block * CHUNK_BYTES;
            let (taken, at_end) = match self.fill(file, offset, CHUNK_BYTES) {
                Ok(found) => found,
                Err(error) => {
                    let error = io::Error::other(format!("at byte {offset}: {error}"));
                    return Ok(Err(error));
                }
            };
            let is_last = offset + CHUNK_BYTES >= metadata.len();
            if at_end != is_last && !last {
                return Ok(Ok(Read::Changed));
            }
            let at_end = at_end || is_last;
            // A small file is sent when it is known to be whole.
            if small && !last && !is_still(file, version) {
                return Ok(Ok(Read::Changed));
            }
            let bytes = &self.buffer[..taken];
            let what = if sum {
                What::Sum {
                    offset,
                    len: taken as u64,
                    sum: checksum(bytes),
                    at_end,
                }
            } else {
                What::Content {
                    offset,
                    bytes: bytes.to_vec(),
                    at_end,
                    load: false,
                }
            };
            self.send(path, begin, what)?;
            if self.progress.is_stopping() {
                return Err(Stopped);
            }
            if at_end {
                break;
            }
        }
        if !small && !last && !is_still(file, version) {
            return Ok(Ok(Read::Changed));
        }
        if sum {
            self.summed.insert(Arc::clone(path), version);
        }
        // As before the read: if it has changed since, the next look differs from this one.
        self.complete(path, begin, &metadata)?;
        Ok(Ok(Read::Done))
    }

    fn complete(
        &self,
        path: &Arc<[u8]>,
        begin: u64,
        metadata: &std::fs::Metadata,
    ) -> Result<(), Stopped> {
        let What::Seen {
            device,
            inode,
            attributes,
            size,
            changed_ns,
        } = seen(metadata)
        else {
            return Ok(());
        };
        let what = What::Complete {
            device,
            inode,
            attributes,
            size,
            changed_ns,
        };
        self.send(path, begin, what)
    }
}

/// Nothing is there, or a directory that it was in is something else.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    ) || error.kind() == io::ErrorKind::NotFound
}

fn is_still(file: &File, version: Version) -> bool {
    file.metadata()
        .is_ok_and(|metadata| Version::of(&metadata) == version)
}
