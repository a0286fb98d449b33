//! Frames: how everything lies in the files of `.counterfoil/`, each with a length and a checksum.
//!
//! ```text
//! file   = magic (8 bytes, the last one is the version), frame*
//! frame  = length of the payload (u32), kind (u8), payload, CRC-32 of all of these (u32)
//! ```
//! Numbers are little-endian. docs/files.md has every payload.

use std::io::{self, Read, Write};

/// The longest payload in bytes: what a reader must be ready to hold.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// How long a magic is in bytes.
pub(super) const MAGIC_BYTES: usize = 8;

/// Appends a frame.
pub(super) fn write_frame(out: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)
        .ok_or_else(|| io::Error::other("a frame would be longer than any reader takes"))?;
    let mut sum = crc32fast::Hasher::new();
    let mut head = [0; 5];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4] = kind;
    sum.update(&head);
    sum.update(payload);
    out.write_all(&head)?;
    out.write_all(payload)?;
    out.write_all(&sum.finalize().to_le_bytes())
}

/// Why a file can't be read on.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The system refuses.
    Io(io::Error),
    /// What is at this offset isn't what was written there.
    Damaged { offset: u64, reason: String },
}

/// Reads the frames of a file one after the other.
pub(super) struct FrameReader<R> {
    input: R,
    offset: u64,
    payload: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Begins with a file's magic. The version is the caller's to look at: other versions are no damage.
    pub(super) fn begin(mut input: R, magic: &[u8; MAGIC_BYTES]) -> Result<Self, Unreadable> {
        let mut found = [0; MAGIC_BYTES];
        let read = fill(&mut input, &mut found).map_err(Unreadable::Io)?;
        let damaged = |reason: String| Unreadable::Damaged { offset: 0, reason };
        if read < MAGIC_BYTES || found[..MAGIC_BYTES - 1] != magic[..MAGIC_BYTES - 1] {
            return Err(damaged("it isn't one of Counterfoil's files".to_owned()));
        }
        let (version, known) = (found[MAGIC_BYTES - 1], magic[MAGIC_BYTES - 1]);
        if version != known {
            return Err(damaged(format!(
                "it has version {version} of its format, this Counterfoil knows {known}"
            )));
        }
        Ok(FrameReader {
            input,
            offset: MAGIC_BYTES as u64,
            payload: Vec::new(),
        })
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame: its kind and payload. `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &[u8])>, Unreadable> {
        let damaged = |reason: &str| Unreadable::Damaged {
            offset: self.offset,
            reason: reason.to_owned(),
        };
        let mut head = [0; 5];
        match fill(&mut self.input, &mut head).map_err(Unreadable::Io)? {
            0 => return Ok(None),
            5 => {}
            _ => return Err(damaged("it ends within a frame")),
        }
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(damaged("the length of a frame makes no sense"));
        }
        self.payload.resize(len + 4, 0);
        if fill(&mut self.input, &mut self.payload).map_err(Unreadable::Io)? < len + 4 {
            return Err(damaged("it ends within a frame"));
        }
        let (payload, stored) = self.payload.split_at(len);
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head);
        sum.update(payload);
        if sum.finalize().to_le_bytes() != stored {
            return Err(damaged("the checksum of a frame is wrong"));
        }
        self.offset += (len + 9) as u64;
        Ok(Some((head[4], payload)))
    }
}

/// Reads until the buffer is full or the input ends; returns how much there was.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The fields of a payload, being written.
#[derive(Default)]
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length (u32) and the bytes. (They are names and descriptions: far below 4 GiB.)
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    /// 0, or 1 and the value.
    pub(super) fn option<T>(
        &mut self,
        value: Option<T>,
        put: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => put(self.u8(1), value),
        }
    }
}

/// The fields of a payload, being read. `None` where they end too early.
pub(super) struct Taken<'a>(pub(super) &'a [u8]);

impl<'a> Taken<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    #[expect(
        clippy::option_option,
        reason = "the outer one is an early end, the inner one the field's"
    )]
    pub(super) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => take(self).map(Some),
            _ => None,
        }
    }

    /// Everything was taken.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
