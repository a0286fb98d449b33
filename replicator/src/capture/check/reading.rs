//! A file that is being read, piece by piece.

use super::super::operation::Verified;
use super::loads::Waiting;
use super::{CHUNK_BYTES, Checker, FILE_BYTES_MAX, Finding, Stopped, What, checksum, seen};
use counterfoil_lane::clock;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pieces read of a long file before others have their turn.
const CHUNKS_PER_TURN: usize = 4;

/// Where a reading is.
pub(super) struct Reading {
    path: Arc<[u8]>,
    file: File,
    inode: (u64, u64),
    at: u64,
    end: u64,
    load: bool,
    sum: bool,
    /// All of the file is read, from its begin to its end.
    whole: bool,
    /// It is read by a round of verification: which one, and how many ranges of the file came before.
    round: Option<(u64, u32)>,
    took: Duration,
}

impl Reading {
    /// The same, by a round of verification.
    pub(super) fn by_round(self, round: u64) -> Reading {
        Reading {
            round: Some((round, 0)),
            ..self
        }
    }

    /// Up to where it was read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// All of a file, as checksums.
    pub(super) fn of(path: &Arc<[u8]>, file: File, inode: (u64, u64)) -> Reading {
        Reading {
            path: Arc::clone(path),
            file,
            inode,
            at: 0,
            end: u64::MAX,
            load: false,
            sum: true,
            whole: true,
            round: None,
            took: Duration::ZERO,
        }
    }
}

/// A file, and its device and inode.
pub(super) type Opened = (File, (u64, u64));

/// How a turn ended.
pub(super) enum Turn {
    More,
    Done,
}

impl Checker {
    /// Begins with a file; reads all of it if it is short.
    pub(super) fn begin(
        &mut self,
        path: &Arc<[u8]>,
        offset: u64,
        extent: u64,
        load: bool,
        sum: bool,
    ) -> Result<(), Stopped> {
        let began = Instant::now();
        let whole = offset == 0 && extent == u64::MAX;
        let Some((file, inode)) = self.open(path)? else {
            self.ended(path, whole, began.elapsed());
            return Ok(());
        };
        let mut reading = Reading {
            at: offset,
            end: offset.saturating_add(extent),
            load,
            sum,
            whole,
            ..Reading::of(path, file, inode)
        };
        let turn = self.read_chunk(&mut reading)?;
        reading.took = began.elapsed();
        self.turn_over(reading, offset, &turn);
        Ok(())
    }

    /// Goes on with a file.
    pub(super) fn go_on(&mut self, mut reading: Reading) -> Result<(), Stopped> {
        let (began, from) = (Instant::now(), reading.at);
        let mut turn = self.look_before(&reading)?;
        for _ in 0..CHUNKS_PER_TURN {
            if matches!(turn, Turn::Done) {
                break;
            }
            if self.progress.is_stopping() {
                return Err(Stopped);
            }
            turn = self.read_chunk(&mut reading)?;
        }
        reading.took += began.elapsed();
        self.turn_over(reading, from, &turn);
        Ok(())
    }

    /// Whether what is read is still what its path stands for: it may have been replaced, or moved away.
    pub(super) fn look_before(&self, reading: &Reading) -> Result<Turn, Stopped> {
        let path = Path::new(std::ffi::OsStr::from_bytes(&reading.path));
        match std::fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == reading.inode => return Ok(Turn::More),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let reason = What::Unreadable(error.to_string());
                self.send(&reading.path, clock::now(), reason)?;
            }
            _ => {}
        }
        Ok(Turn::Done)
    }

    /// Something was read of a file, from `from` on.
    fn turn_over(&mut self, reading: Reading, from: u64, turn: &Turn) {
        let is_load = reading.load && reading.whole;
        let now = Instant::now();
        if is_load {
            let size = reading.file.metadata().map_or(reading.at, |it| it.len());
            self.loads
                .note(&reading.path, (from, reading.at), size, now);
        }
        match turn {
            Turn::More if is_load && self.loads.is_ahead(now) => {
                self.loads.put_off(Waiting::More(reading));
            }
            Turn::More => self.turns.go_on(reading),
            Turn::Done => {
                if is_load {
                    self.loads.ended(&reading.path);
                }
                self.ended(&reading.path, reading.whole, reading.took);
            }
        }
    }

    pub(super) fn ended(&mut self, path: &Arc<[u8]>, whole: bool, took: Duration) {
        if whole {
            self.turns.ended(path, took, Instant::now());
            self.directories.compared(took);
        }
        self.progress.tasks.fetch_sub(1, Ordering::SeqCst);
    }

    /// Opens what is to be read and says what it is. `None` when that is all there is to say.
    pub(super) fn open(&mut self, path: &Arc<[u8]>) -> Result<Option<Opened>, Stopped> {
        let begin = clock::now();
        let name = Path::new(std::ffi::OsStr::from_bytes(path));
        let unreadable = |this: &Checker, reason: String| {
            this.send(path, begin, What::Unreadable(reason))
                .map(|()| None)
        };
        let there = match std::fs::symlink_metadata(name) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(path);
                return self.send(path, begin, What::Missing).map(|()| None);
            }
            Err(error) => return unreadable(self, error.to_string()),
        };
        // Not opened unless it is one: opening a pipe or a device may do something to it.
        if !there.is_file() {
            return unreadable(self, "it isn't a regular file".to_owned());
        }
        let file = match open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(path);
                return self.send(path, begin, What::Missing).map(|()| None);
            }
            Err(error) => return unreadable(self, error.to_string()),
        };
        match file.metadata() {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => unreadable(
                self,
                format!(
                    "it is longer than the {FILE_BYTES_MAX} bytes that a mirrored file may have"
                ),
            ),
            Ok(metadata) if metadata.is_file() => {
                self.send(path, begin, seen(&metadata))?;
                Ok(Some((file, (metadata.dev(), metadata.ino()))))
            }
            Ok(_) => unreadable(self, "it isn't a regular file".to_owned()),
            Err(error) => unreadable(self, error.to_string()),
        }
    }

    pub(super) fn read_chunk(&mut self, reading: &mut Reading) -> Result<Turn, Stopped> {
        let path = Arc::clone(&reading.path);
        let at = reading.at;
        let len = CHUNK_BYTES.min(reading.end - at);
        let begin = clock::now();
        let (taken, at_end) = match self.fill(&reading.file, at, len) {
            Ok(found) => found,
            Err(error) => {
                let reason = format!("at byte {at}: {error}");
                self.send(&path, begin, What::Unreadable(reason))?;
                return Ok(Turn::Done);
            }
        };
        let bytes = &self.buffer[..taken];
        // Where nothing is, the file may have ended long before.
        let at = if taken == 0 {
            let size = reading.file.metadata().map_or(at, |there| there.len());
            size.min(at)
        } else {
            at
        };
        let what = if let Some((round, number)) = &mut reading.round {
            *number += 1;
            What::Verified(Verified {
                offset: at,
                len: taken as u64,
                sum: Some(checksum(bytes)),
                at_end,
                round: *round,
                number: *number - 1,
            })
        } else if reading.sum {
            What::Sum {
                offset: at,
                len: taken as u64,
                sum: checksum(bytes),
                at_end,
            }
        } else {
            What::Content {
                offset: at,
                bytes: bytes.to_vec(),
                at_end,
                load: reading.load,
            }
        };
        let completes = reading.whole && at_end;
        self.send_of(&path, begin, what, Some(reading.inode), completes)?;
        reading.at += taken as u64;
        if at_end || reading.at >= reading.end {
            Ok(Turn::Done)
        } else {
            Ok(Turn::More)
        }
    }

    /// Reads up to `len` bytes at `offset`; says how many there were, and whether the file ends behind them.
    pub(super) fn fill(&mut self, file: &File, offset: u64, len: u64) -> io::Result<(usize, bool)> {
        // One byte more than asked for tells whether the file ends here.
        let wanted = len as usize + 1;
        self.buffer.resize(wanted, 0);
        let mut taken = 0;
        while taken < wanted {
            match file.read_at(&mut self.buffer[taken..], offset + taken as u64) {
                Ok(0) => break,
                Ok(more) => taken += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((taken.min(len as usize), taken < wanted))
    }

    pub(super) fn send(&self, path: &Arc<[u8]>, begin: u64, what: What) -> Result<(), Stopped> {
        self.send_of(path, begin, what, None, false)
    }

    fn send_of(
        &self,
        path: &Arc<[u8]>,
        begin: u64,
        what: What,
        file: Option<(u64, u64)>,
        completes: bool,
    ) -> Result<(), Stopped> {
        self.progress.findings.fetch_add(1, Ordering::SeqCst);
        let finding = Finding {
            path: Arc::clone(path),
            begin,
            end: clock::now(),
            what,
            file,
            completes,
        };
        self.pulse
            .wait(|| self.findings.send(finding).map_err(|_| Stopped))
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let open = |flags| {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
    };
    open(flags | libc::O_NOATIME).or_else(|error| match error.raw_os_error() {
        // O_NOATIME is for the owner only.
        Some(libc::EPERM) => open(flags),
        _ => Err(error),
    })
}
