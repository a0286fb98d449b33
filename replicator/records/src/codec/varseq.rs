//! GnuCOBOL variable sequential files: a length prefix, then as many bytes, without padding.
//!
//! A record may be empty: its prefix alone. A row of zero bytes therefore reads as empty records,
//! but where [`RESIDUE_ALIGN`] or more of them follow each other, each `RESIDUE_ALIGN` bytes are one
//! empty piece (a hole; the piece is a whole number of prefixes, so nothing behind it shifts).
//!
//! Nothing marks where a record begins, so a prefix that makes no sense can't be stepped over: the
//! bytes up to the next multiple of `RESIDUE_ALIGN` are residue, and reading goes on there.

use super::{
    Boundaries, Codec, EncodeError, Found, Piece, PieceKind, decode_addressed, no_rest,
    residue_room,
};
use crate::{RESIDUE_ALIGN, VarseqFormat};

/// Codec of variable sequential records.
#[derive(Debug)]
pub(crate) struct Varseq {
    format: VarseqFormat,
    /// Longest record, without its prefix, that is not taken for a bad prefix.
    len_max: usize,
}

impl VarseqFormat {
    /// Bytes of the prefix.
    pub(crate) fn prefix_len(self) -> usize {
        match self {
            VarseqFormat::BigEndian16 => 2,
            VarseqFormat::BigEndian16Padded
            | VarseqFormat::BigEndian32
            | VarseqFormat::Native32 => 4,
        }
    }

    /// The longest length that a prefix can say.
    pub(crate) fn prefix_max(self) -> u64 {
        match self {
            VarseqFormat::BigEndian16Padded | VarseqFormat::BigEndian16 => u64::from(u16::MAX),
            VarseqFormat::BigEndian32 | VarseqFormat::Native32 => u64::from(u32::MAX),
        }
    }

    /// The length that the prefix at the begin of `bytes` says, or `None` if it isn't a whole one.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<usize> {
        let len = match self {
            VarseqFormat::BigEndian16Padded => match bytes.first_chunk::<4>()? {
                &[high, low, 0, 0] => u32::from(u16::from_be_bytes([high, low])),
                _ => return None,
            },
            VarseqFormat::BigEndian32 => u32::from_be_bytes(*bytes.first_chunk()?),
            VarseqFormat::Native32 => u32::from_le_bytes(*bytes.first_chunk()?),
            VarseqFormat::BigEndian16 => u32::from(u16::from_be_bytes(*bytes.first_chunk()?)),
        };
        usize::try_from(len).ok()
    }

    /// Appends the prefix of a record of `len` bytes; `len` is at most [`VarseqFormat::prefix_max`].
    fn write(self, len: usize, out: &mut Vec<u8>) {
        let be = (len as u32).to_be_bytes();
        match self {
            VarseqFormat::BigEndian16Padded => out.extend_from_slice(&[be[2], be[3], 0, 0]),
            VarseqFormat::BigEndian32 => out.extend_from_slice(&be),
            VarseqFormat::Native32 => out.extend_from_slice(&(len as u32).to_le_bytes()),
            VarseqFormat::BigEndian16 => out.extend_from_slice(&be[2..]),
        }
    }
}

impl Varseq {
    /// Records of at most `len_max` bytes, which the format's prefix can say.
    pub(crate) fn new(format: VarseqFormat, len_max: usize) -> Varseq {
        Varseq { format, len_max }
    }

    /// The piece at the begin of `bytes`, which aren't empty, or `None` if that takes more of them.
    ///
    /// The first `zeros` bytes are known to be zero and to be followed by something else; it is set
    /// anew where nothing is known, so that a row of empty records is looked through only once.
    fn find<'a>(
        &self,
        offset: u64,
        bytes: &'a [u8],
        at_end: bool,
        zeros: &mut usize,
    ) -> Option<Found<'a>> {
        let prefix_len = self.format.prefix_len();
        let residue = |len: usize, reason| Found {
            len,
            kind: PieceKind::Residue {
                bytes: &bytes[..len],
                reason,
            },
        };
        if bytes.len() < prefix_len {
            return at_end.then(|| residue(bytes.len(), "partial length prefix at the end"));
        }
        let Some(len) = self.format.read(bytes).filter(|&len| len <= self.len_max) else {
            let room = residue_room(offset);
            return (at_end || bytes.len() >= room)
                .then(|| residue(room.min(bytes.len()), "bad length prefix"));
        };
        if len == 0 && *zeros < prefix_len {
            let seen = &bytes[..RESIDUE_ALIGN.min(bytes.len())];
            match seen.iter().position(|&byte| byte != 0) {
                Some(at) => *zeros = at,
                None if seen.len() == RESIDUE_ALIGN => {
                    return Some(Found {
                        len: RESIDUE_ALIGN,
                        kind: PieceKind::Empty,
                    });
                }
                None if !at_end => return None,
                // The zero bytes end with the file.
                None => *zeros = seen.len(),
            }
        }
        let end = prefix_len + len;
        if let Some(data) = bytes.get(prefix_len..end) {
            return Some(Found {
                len: end,
                kind: PieceKind::Record { data, rest: &[] },
            });
        }
        at_end.then(|| residue(bytes.len(), "partial record at the end"))
    }
}

impl Codec for Varseq {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Forward
    }

    fn piece_len_max(&self) -> Option<u64> {
        Some((self.format.prefix_len() + self.len_max).max(RESIDUE_ALIGN) as u64)
    }

    fn decode(
        &self,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        decode_addressed(offset, bytes, out, |offset, bytes, zeros| {
            self.find(offset, bytes, at_end, zeros)
        })
    }

    fn id_at(&self, offset: u64) -> u64 {
        offset
    }

    fn offset_of(&self, id: u64) -> u64 {
        id
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        no_rest(id, rest)?;
        if data.len() > self.len_max {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, the longest record {}",
                    data.len(),
                    self.len_max
                ),
            ));
        }
        self.format.write(data.len(), out);
        out.extend_from_slice(data);
        Ok(())
    }
}
