//! The frames of one segment, in order, in bounded memory.
//!
//! Used by recovery and by readers, which differ in what they make of a segment that ends in the middle of a frame.

use std::io;
use std::ops::Range;

use crate::error::Doing;
use crate::segment::{
    FRAME_BYTES, FrameHeader, HEADER_BYTES, PAYLOAD_BYTES_MAX, SegmentHeader, file_name, frame_crc,
};
use crate::storage::Storage;
use crate::{Error, Lsn, Result};

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// One step through a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A sound frame; its payload is there until the next step.
    Frame { payload: Range<usize> },
    /// The file ends where a frame would begin.
    End,
    /// There is something, but not a sound frame.
    Broken { reason: &'static str },
}

/// Reads the frames of one segment.
#[derive(Debug)]
pub(crate) struct Scanner {
    name: String,
    header: SegmentHeader,
    seed: u32,
    buffer: Vec<u8>,
    /// What of the buffer is not yet used.
    unused: Range<usize>,
    /// Where in the file the unused part begins.
    offset: u64,
    next_lsn: Lsn,
}

impl Scanner {
    /// Opens the segment that begins with `first_lsn`; `None` if there is none.
    pub(crate) fn open(storage: &dyn Storage, first_lsn: Lsn) -> Result<Option<Scanner>> {
        let name = file_name(first_lsn);
        let Some(header) = read_header(storage, &name)? else {
            return Ok(None);
        };
        Ok(Some(Scanner {
            name,
            header,
            seed: header.seed(),
            buffer: Vec::new(),
            unused: 0..0,
            offset: HEADER_BYTES as u64,
            next_lsn: header.first_lsn,
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The lsn the next frame must have.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// The bytes of a payload that the last step found.
    pub(crate) fn payload(&self, payload: Range<usize>) -> &[u8] {
        &self.buffer[payload]
    }

    /// Takes over the memory of a scanner that is no longer needed. Only before the first step.
    pub(crate) fn reuse(&mut self, old: Scanner) {
        self.buffer = old.buffer;
    }

    /// Forgets what was read ahead: the next step reads the file again.
    pub(crate) fn discard(&mut self) {
        self.unused = 0..0;
    }

    /// The error that says this segment is damaged where the scanner is.
    pub(crate) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged {
            segment: self.name.clone(),
            offset: self.offset,
            reason: reason.into(),
        }
    }

    /// Goes on by one frame. After anything but a frame the scanner stays where it is.
    pub(crate) fn step(&mut self, storage: &dyn Storage) -> Result<Step> {
        if self.unused.len() < FRAME_BYTES && !self.fill(storage, FRAME_BYTES)? {
            return Ok(match self.unused.len() {
                0 => Step::End,
                _ => Step::Broken {
                    reason: "a frame's header is cut off",
                },
            });
        }
        let frame =
            FrameHeader::decode(&self.buffer[self.unused.start..self.unused.start + FRAME_BYTES]);
        if frame.lsn != self.next_lsn {
            return Ok(Step::Broken {
                reason: "a frame does not have the lsn that is next",
            });
        }
        if frame.payload_bytes > PAYLOAD_BYTES_MAX {
            return Ok(Step::Broken {
                reason: "a frame's length is beyond the limit",
            });
        }
        let frame_bytes = frame.frame_bytes();
        if self.unused.len() < frame_bytes && !self.fill(storage, frame_bytes)? {
            return Ok(Step::Broken {
                reason: "a frame is cut off",
            });
        }
        let start = self.unused.start;
        if frame.crc != frame_crc(self.seed, &self.buffer[start..start + frame_bytes]) {
            return Ok(Step::Broken {
                reason: "a frame's checksum does not match",
            });
        }
        if frame.durable_end > frame.lsn {
            return Ok(Step::Broken {
                reason: "a frame calls itself durable before it was written",
            });
        }
        self.unused.start += frame_bytes;
        self.offset += frame_bytes as u64;
        self.next_lsn += 1;
        Ok(Step::Frame {
            payload: start + FRAME_BYTES..start + frame_bytes,
        })
    }

    /// Reads until at least `needed` bytes are there; false if the file ends before.
    fn fill(&mut self, storage: &dyn Storage, needed: usize) -> Result<bool> {
        if needed > self.buffer.len() && needed > READ_BYTES {
            // `needed` comes from the disk: no memory for bytes that are not there.
            let len = storage.len(&self.name).doing("measure", &self.name)?;
            if len < self.offset + needed as u64 {
                return Ok(false);
            }
        }
        if self.buffer.len() < needed.max(READ_BYTES) {
            // A new one, as the system gives zeroed memory for less than it takes to zero it.
            let mut larger = vec![0; needed.max(READ_BYTES)];
            larger[..self.unused.len()].copy_from_slice(&self.buffer[self.unused.clone()]);
            self.buffer = larger;
        } else {
            self.buffer.copy_within(self.unused.clone(), 0);
        }
        self.unused = 0..self.unused.len();
        while self.unused.end < needed {
            let at = self.offset + self.unused.end as u64;
            let count = storage
                .read_at(&self.name, at, &mut self.buffer[self.unused.end..])
                .doing("read", &self.name)?;
            if count == 0 {
                return Ok(false);
            }
            self.unused.end += count;
        }
        Ok(true)
    }

    /// Looks behind a broken frame for one that proves the broken one was durable, and says where it is.
    ///
    /// A crash may leave any part of what was not synced, so sound frames behind a broken one prove nothing by
    /// themselves. But each frame carries what was durable when it was written: if that includes the broken one, then the
    /// disk lost something it had promised to keep.
    pub(crate) fn find_witness(&self, storage: &dyn Storage) -> Result<Option<u64>> {
        let len = storage.len(&self.name).doing("measure", &self.name)?;
        let lost = self.next_lsn;
        let mut window = vec![0; READ_BYTES];
        // The frame at the scanner's own offset is the broken one.
        let mut base = self.offset + 1;
        while base + FRAME_BYTES as u64 <= len {
            let filled = read_full(storage, &self.name, base, &mut window)?;
            if filled < FRAME_BYTES {
                break;
            }
            let candidates = filled - FRAME_BYTES + 1;
            for at in 0..candidates {
                let offset = base + at as u64;
                let frame = FrameHeader::decode(&window[at..at + FRAME_BYTES]);
                // There is not room for more entries than this between the two.
                let lsn_max = lost.saturating_add((offset - self.offset) / FRAME_BYTES as u64 + 1);
                let plausible = frame.durable_end > lost
                    && frame.durable_end <= frame.lsn
                    && frame.lsn <= lsn_max
                    && frame.payload_bytes <= PAYLOAD_BYTES_MAX
                    && offset + frame.frame_bytes() as u64 <= len;
                if plausible && self.is_sound(storage, offset, &frame)? {
                    return Ok(Some(offset));
                }
            }
            base += candidates as u64;
        }
        Ok(None)
    }

    fn is_sound(&self, storage: &dyn Storage, offset: u64, frame: &FrameHeader) -> Result<bool> {
        let mut bytes = vec![0; frame.frame_bytes()];
        let filled = read_full(storage, &self.name, offset, &mut bytes)?;
        Ok(filled == bytes.len() && frame.crc == frame_crc(self.seed, &bytes))
    }
}

/// Reads a segment's header; `None` if there is no such file.
pub(crate) fn read_header(storage: &dyn Storage, name: &str) -> Result<Option<SegmentHeader>> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match storage.read_at(name, filled as u64, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing("read", name),
        }
    }
    SegmentHeader::decode(name, &bytes[..filled]).map(Some)
}

/// Fills `buffer` as far as the file goes.
pub(crate) fn read_full(
    storage: &dyn Storage,
    name: &str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match storage
            .read_at(name, offset + filled as u64, &mut buffer[filled..])
            .doing("read", name)?
        {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The first lsns of all segments, ascending.
pub(crate) fn list_segments(storage: &dyn Storage) -> Result<Vec<Lsn>> {
    let names = storage.list().doing("list", "the directory")?;
    let mut segments: Vec<Lsn> = names
        .iter()
        .filter_map(|name| crate::segment::parse_file_name(name))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}
