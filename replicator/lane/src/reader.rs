//! The reading half of a lane: what runs in the sequencer. Nothing found in a lane is trusted.

use crate::frame::{self, Header, Kind};
use crate::guard::Guard;
use crate::segment::{self, STATE_FREE, STATE_FULL};
use crate::sync::{self, Ordering};
use crate::{VERSION, sys};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file isn't a segment this code can read.
#[derive(Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// It is being made: look again later.
    Unfinished,
    /// It can't be opened or mapped; the number is `errno`.
    Unreadable(i32),
    /// It was written by an interposer this code doesn't know.
    Version {
        /// The layout it has.
        version: u32,
        /// Process id of its program.
        pid: u32,
        /// Name of its program, NUL-padded.
        program: [u8; 16],
    },
    /// Its header contradicts itself.
    Damaged(&'static str),
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::Unfinished => write!(f, "it is still being made"),
            SegmentError::Unreadable(errno) => {
                write!(f, "{}", std::io::Error::from_raw_os_error(*errno))
            }
            SegmentError::Version {
                version,
                pid,
                program,
            } => write!(
                f,
                "{} (process {pid}) has an interposer that writes layout {version}, and this replicator knows layout {VERSION}: \
                 start the program again with the interposer of this release, or upgrade the replicator; until then its files \
                 are compared when they change",
                String::from_utf8_lossy(program).trim_end_matches('\0')
            ),
            SegmentError::Damaged(what) => write!(f, "its header is damaged ({what})"),
        }
    }
}

impl std::error::Error for SegmentError {}

/// A mapped segment of somebody's lane.
pub struct Segment {
    header: *mut segment::Header,
    bytes: usize,
    capacity: usize,
    path: PathBuf,
    owner: u32,
    /// Given up before the mapping is.
    guard: Option<Guard>,
}

// SAFETY: the mapping is shared memory accessed through atomics, or through copies bounded by `capacity`.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// Who writes a lane, as it says itself, but for `owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Number that only this process has.
    pub process: u64,
    /// Number of the lane within the process.
    pub lane: u32,
    /// Process id.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// The user whose file the lane is, as the kernel says.
    pub owner: u32,
    /// Field 22 of /proc/PID/stat.
    pub pid_started: u64,
    /// Inode of the process's id namespace, 0 when not known.
    pub pid_namespace: u64,
    /// Name of the program, NUL-padded.
    pub program: [u8; 16],
    /// [`crate::REVISION`] of its interposer.
    pub revision: u32,
    /// `MODE_` flags of [`segment`].
    pub mode: u32,
    /// Version of its interposer as text, NUL-padded.
    pub release: [u8; 16],
}

/// The call a thread is in, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Clock before the call.
    pub begin: u64,
    /// Device of the file, 0 when not known.
    pub device: u64,
    /// Inode of the file, 0 when not known.
    pub inode: u64,
    /// Where in the file, `u64::MAX` when not known.
    pub offset: u64,
    /// How many bytes, `u64::MAX` for all that follow.
    pub extent: u64,
    /// Which group the file is of.
    pub group: u16,
}

impl Segment {
    /// Maps a segment file.
    pub fn open(path: &Path) -> Result<Arc<Segment>, SegmentError> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        name.push(0);
        let fd = sys::open(&name, libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0);
        if fd < 0 {
            return Err(SegmentError::Unreadable(-fd as i32));
        }
        let fd = fd as i32;
        let Some(owner) = sys::owner(fd) else {
            sys::close(fd);
            return Err(SegmentError::Damaged("no regular file"));
        };
        let size = sys::file_size(fd);
        if size < segment::HEADER_BYTES as i64 {
            sys::close(fd);
            return Err(SegmentError::Unfinished);
        }
        let bytes = size as usize;
        let mapping = sys::map_shared(fd, bytes, true);
        sys::close(fd);
        if mapping.is_null() {
            return Err(SegmentError::Unreadable(libc::ENOMEM));
        }
        let header = mapping.cast::<segment::Header>();
        let mut this = Segment {
            header,
            bytes,
            capacity: 0,
            path: path.to_owned(),
            owner,
            guard: (!cfg!(schedules))
                .then(|| Guard::over(mapping, bytes))
                .flatten(),
        };
        // SAFETY: the mapping holds at least a header; the magic is written last by its maker.
        let magic = unsafe { (*header).magic.load(Ordering::Acquire) };
        if magic == 0 {
            return Err(SegmentError::Unfinished);
        }
        if magic != segment::MAGIC {
            return Err(SegmentError::Damaged("no lane segment"));
        }
        // SAFETY: as above: nobody changes these fields any more.
        let (version, capacity) = unsafe {
            sync::reads((&raw const (*header).version).cast(), 1);
            ((*header).version, (*header).capacity)
        };
        if version != VERSION {
            // SAFETY: as above. These two stay where they are in every layout.
            let (pid, program) = unsafe { ((*header).pid, (*header).program) };
            return Err(SegmentError::Version {
                version,
                pid,
                program,
            });
        }
        if capacity > (bytes - segment::HEADER_BYTES) as u64 {
            return Err(SegmentError::Damaged("capacity beyond the file"));
        }
        this.capacity = capacity as usize;
        Ok(Arc::new(this))
    }

    /// Whether its file was found shorter than it was: what was read of it since may be zeros.
    pub fn is_cut(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_cut)
    }

    /// Length of the segment's file.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// The segment's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who writes it.
    pub fn writer(&self) -> Writer {
        let header = self.header();
        Writer {
            process: header.process,
            lane: header.lane,
            pid: header.pid,
            uid: header.uid,
            owner: self.owner,
            pid_started: header.pid_started,
            pid_namespace: header.pid_namespace,
            program: header.program,
            revision: header.revision,
            mode: header.mode,
            release: header.release,
        }
    }

    /// Number of this file within its lane.
    pub fn index(&self) -> u32 {
        self.header().index
    }

    /// Where this use of the segment stands in the lane, from 1.
    pub fn sequence(&self) -> u64 {
        self.header().sequence.load(Ordering::Acquire)
    }

    /// Whether the writer went on to the next one.
    pub fn is_full(&self) -> bool {
        self.header().state.load(Ordering::Acquire) == STATE_FULL
    }

    /// Whether everything in it was consumed and it may be in use again at any time.
    pub fn is_free(&self) -> bool {
        self.header().state.load(Ordering::Acquire) == STATE_FREE
    }

    /// Hands the segment back to the writer.
    pub fn free(&self) {
        self.header().state.store(STATE_FREE, Ordering::Release);
    }

    /// Bytes of complete frames.
    pub fn tail(&self) -> usize {
        (self.header().tail.0.load(Ordering::Acquire) as usize).min(self.capacity)
    }

    /// Bytes of frames that are in the journal.
    pub fn consumed(&self) -> usize {
        (self.header().consumed.0.load(Ordering::Acquire) as usize).min(self.capacity)
    }

    /// Notes that frames up to here are in the journal.
    pub fn set_consumed(&self, bytes: usize) {
        self.header()
            .consumed
            .0
            .store(bytes as u64, Ordering::Release);
    }

    /// The call the lane's thread is in; only the lane's segment with index 0 tells.
    pub fn in_flight(&self) -> Option<InFlight> {
        let slot = &self.header().slot.0;
        loop {
            let begin = slot.begin.load(Ordering::SeqCst);
            if begin == 0 {
                return None;
            }
            let call = InFlight {
                begin,
                device: slot.device.load(Ordering::Relaxed),
                inode: slot.inode.load(Ordering::Relaxed),
                offset: slot.offset.load(Ordering::Relaxed),
                extent: slot.extent.load(Ordering::Relaxed),
                group: slot.group.load(Ordering::Relaxed) as u16,
            };
            sync::fence(Ordering::Acquire);
            if slot.begin.load(Ordering::SeqCst) == begin {
                return Some(call);
            }
        }
    }

    /// Clock since when the lane's thread waits for room before a call; only the lane's segment with index 0 tells.
    pub fn waiting_since(&self) -> Option<u64> {
        /// A waiting thread looks far more often than this; one that doesn't is no more.
        const FRESH_NS: u64 = 1_000_000_000;
        let waiting = &self.header().waiting.0;
        let since = waiting.since.load(Ordering::Acquire);
        let at = waiting.at.load(Ordering::Acquire);
        (since != 0 && crate::clock::now().saturating_sub(at) < FRESH_NS).then_some(since)
    }

    /// The frame at `at`, of the `tail` bytes that are complete. An error says what is wrong with it; nothing
    /// behind it can be read then.
    pub fn frame(&self, at: usize, tail: usize) -> Result<(Header, Kind, &[u8]), &'static str> {
        if !at.is_multiple_of(8) || tail > self.capacity || at + frame::HEADER_BYTES > tail {
            return Err("a frame that isn't whole");
        }
        // SAFETY: the header lies within the mapping; any bytes are a valid Header. The writer doesn't change what
        // lies before the tail.
        let (header, base) = unsafe {
            let base = self.header.cast::<u8>().add(segment::HEADER_BYTES + at);
            sync::reads(base, frame::HEADER_BYTES);
            (base.cast::<Header>().read(), base)
        };
        let len = header.len as usize;
        if !len.is_multiple_of(8)
            || len > tail - at
            || len < frame::frame_bytes(header.data_len as usize)
        {
            return Err("a frame longer than its segment");
        }
        let kind = Kind::from_number(header.kind);
        // SAFETY: the data lies within the frame, which lies within the mapping.
        let data = unsafe {
            sync::reads(base.add(frame::HEADER_BYTES), header.data_len as usize);
            std::slice::from_raw_parts(base.add(frame::HEADER_BYTES), header.data_len as usize)
        };
        Ok((header, kind, data))
    }

    fn header(&self) -> &segment::Header {
        // SAFETY: mapped until drop; the fields that change are atomics.
        unsafe { &*self.header }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: nobody borrows from a segment that is dropped.
        unsafe { sys::unmap(self.header.cast(), self.bytes) };
    }
}

/// The device, inode and path that a [`Kind::Name`] frame announces.
pub fn decode_name(data: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (header, path) = data.split_at_checked(size_of::<frame::NameHeader>())?;
    let field = |at: usize| {
        header[at..at + 8]
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    (!path.is_empty()).then(|| (host_order(field(0)), host_order(field(8)), path))
}

/// A number read as little-endian that was written in host order.
const fn host_order(value: u64) -> u64 {
    u64::from_le(value)
}
