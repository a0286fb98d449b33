//! The bytes of a segment: its header, its frames, its name.
//!
//! Pure: bytes in, values out. `docs/journal-format.md` is the same in words. All numbers are little-endian.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::{Error, Lsn, Result};

/// The version of the format this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The longest payload of an entry, in bytes: 16 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// The longest batch, in bytes, frame headers included: 64 MiB.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// The greatest lsn that a segment may begin with. No segment is long enough to count from it to where numbers end.
const FIRST_LSN_MAX: Lsn = i64::MAX as Lsn;

/// The length of a segment's header.
pub(crate) const HEADER_BYTES: usize = 64;

/// The length of what comes before a payload.
pub(crate) const FRAME_BYTES: usize = 24;

const MAGIC: [u8; 8] = *b"cfjournl";
const SUFFIX: &str = ".journal";

// A frame's length is a u32, and a batch can always take the longest payload.
const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(PAYLOAD_BYTES_MAX + FRAME_BYTES <= BATCH_BYTES_MAX);

/// The name of the segment whose first entry is `first_lsn`. Names sort like the segments.
pub(crate) fn file_name(first_lsn: Lsn) -> String {
    format!("{first_lsn:016x}{SUFFIX}")
}

/// The first lsn of the segment a file's name stands for; `None` for other files.
pub(crate) fn parse_file_name(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != 16
        || !digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    Lsn::from_str_radix(digits, 16).ok().filter(|&lsn| lsn > 0)
}

/// What a segment says about itself and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) epoch: u64,
    pub(crate) first_lsn: Lsn,
    /// The first lsn of the segment before; 0 for the very first.
    pub(crate) previous_first_lsn: Lsn,
    /// The length of the segment before, complete, in bytes.
    pub(crate) previous_bytes: u64,
    /// Differs from segment to segment, so that frames of another one, or inside a payload, are not taken for this one's.
    pub(crate) salt: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_first_lsn.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_bytes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the first bytes of the file `name`, up to [`HEADER_BYTES`] of them.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<SegmentHeader> {
        let damaged = |offset: u64, reason: &str| Error::Damaged {
            segment: name.to_owned(),
            offset,
            reason: reason.to_owned(),
        };
        // The magic and the version stay where they are in every version, so that a newer one can be told from damage.
        if bytes.len() < 12 {
            return Err(damaged(bytes.len() as u64, "the header is cut off"));
        }
        if bytes[0..8] != MAGIC {
            return Err(damaged(0, "the file does not begin like a journal segment"));
        }
        match u32_at(bytes, 8) {
            FORMAT_VERSION => {}
            0 => return Err(damaged(8, "there is no format version 0")),
            found => {
                return Err(Error::NewerVersion {
                    name: name.to_owned(),
                    found,
                    known: FORMAT_VERSION,
                });
            }
        }
        if bytes.len() < HEADER_BYTES {
            return Err(damaged(bytes.len() as u64, "the header is cut off"));
        }
        if u32_at(bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Err(damaged(0, "the header's checksum does not match"));
        }
        if u32_at(bytes, 12) as usize != HEADER_BYTES {
            return Err(damaged(12, "the header's length is wrong"));
        }
        let header = SegmentHeader {
            epoch: u64_at(bytes, 16),
            first_lsn: u64_at(bytes, 24),
            previous_first_lsn: u64_at(bytes, 32),
            previous_bytes: u64_at(bytes, 40),
            salt: u64_at(bytes, 48),
        };
        if parse_file_name(name) != Some(header.first_lsn) {
            return Err(damaged(
                24,
                "the first lsn is not the one in the file's name",
            ));
        }
        if header.first_lsn > FIRST_LSN_MAX {
            return Err(damaged(24, "no journal gets as far as its first lsn"));
        }
        Ok(header)
    }

    /// What the checksums of this segment's frames begin with.
    pub(crate) fn seed(&self) -> u32 {
        let encoded = self.encode();
        u32_at(&encoded, 60)
    }
}

/// A number that will hardly come twice.
pub(crate) fn salt() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What comes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) crc: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) lsn: Lsn,
    /// When this frame was written, all entries before this lsn were durable.
    pub(crate) durable_end: Lsn,
}

impl FrameHeader {
    /// Reads [`FRAME_BYTES`] bytes. Nothing in them is checked yet.
    pub(crate) fn decode(bytes: &[u8]) -> FrameHeader {
        FrameHeader {
            crc: u32_at(bytes, 0),
            payload_bytes: u32_at(bytes, 4) as usize,
            lsn: u64_at(bytes, 8),
            durable_end: u64_at(bytes, 16),
        }
    }

    /// The length of the frame, payload included.
    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_BYTES + self.payload_bytes
    }
}

/// Adds a frame to `buffer`; the payload is the concatenation of `parts`, at most [`PAYLOAD_BYTES_MAX`] long.
pub(crate) fn encode_frame(
    buffer: &mut Vec<u8>,
    seed: u32,
    lsn: Lsn,
    durable_end: Lsn,
    parts: &[&[u8]],
) {
    let start = buffer.len();
    let payload_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut header = [0; FRAME_BYTES];
    header[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    header[8..16].copy_from_slice(&lsn.to_le_bytes());
    header[16..24].copy_from_slice(&durable_end.to_le_bytes());
    buffer.extend_from_slice(&header);
    for part in parts {
        buffer.extend_from_slice(part);
    }
    let crc = frame_crc(seed, &buffer[start..]);
    buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The checksum of a whole frame, its own four bytes excepted.
pub(crate) fn frame_crc(seed: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&frame[4..]);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
