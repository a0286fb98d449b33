//! Records of varying length, one after the other: a length prefix, that many bytes, perhaps padding.
//!
//! Where a record may be empty (its prefix alone), a row of zero bytes reads as empty records, but
//! where [`RESIDUE_ALIGN`] or more of them follow each other, each `RESIDUE_ALIGN` bytes are one
//! empty piece (a hole; the piece is a whole number of prefixes, so nothing behind it shifts).
//!
//! Nothing marks where a record begins, so a prefix that makes no sense can't be stepped over: the
//! bytes up to the next multiple of `RESIDUE_ALIGN` are residue, or empty if they are all zero, and
//! reading goes on there.

use super::{
    Boundaries, Codec, EncodeError, Found, MfHeader, Piece, PieceKind, Within, decode_addressed,
    malformed,
};
use crate::{DescriptorWord, RESIDUE_ALIGN, VarseqFormat};

/// Bytes of a VMS disk block.
const VMS_BLOCK: u64 = 512;

/// How a record's length is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// GnuCOBOL's, without padding.
    Varseq(VarseqFormat),
    /// IBM's record descriptor word. (One that is big-endian and doesn't count itself is GnuCOBOL's prefix of format 0.)
    Rdw(DescriptorWord),
    /// VMS: u16 little-endian, then the record, then a byte where it takes one to an even address.
    /// `FFFF` says that the next record begins with the next block of 512 bytes.
    Vms,
    /// Micro Focus sequential: a header with a type, then the record, then spaces that take the next one to a multiple
    /// of 4, of at least 8 bytes together.
    MicroFocus(MfHeader),
    /// NonStop FUP's VAROUT: u16 big-endian, then the record, then a byte where it takes one to an even address. `FFFF`
    /// says that the next record begins with the next block. No record goes on in another block.
    Varout {
        /// Bytes of a block, even.
        block: u64,
    },
}

/// What stands where a record should begin.
pub(crate) enum Prefix {
    /// A record of this many bytes.
    Record(usize),
    /// So many bytes that are no record, for this reason, with padding as behind a record.
    Other(usize, &'static str),
    /// No record any more in this block; so many bytes are left of it.
    Skip(usize),
    /// No prefix.
    Bad,
}

impl Framing {
    /// Bytes of the prefix.
    pub(crate) fn prefix_len(self) -> usize {
        match self {
            Framing::Varseq(format) => format.prefix_len(),
            Framing::Rdw(_) => DescriptorWord::LEN,
            Framing::Vms | Framing::Varout { .. } => 2,
            Framing::MicroFocus(header) => header.len(),
        }
    }

    /// The longest record that a prefix can say.
    pub(crate) fn len_max(self) -> u64 {
        match self {
            Framing::Varseq(format) => format.prefix_max(),
            Framing::Rdw(word) => word.record_max() as u64,
            // FFFF is no length. RMS itself ends at 32767, or 65534 in stream formats.
            Framing::Vms => u64::from(u16::MAX) - 1,
            Framing::MicroFocus(header) => header.record_max() as u64,
            Framing::Varout { block } => (block - 2).min(u64::from(u16::MAX) - 1),
        }
    }

    /// What the prefix says that `bytes`, which are no shorter than one, begin with.
    pub(crate) fn read(self, offset: u64, bytes: &[u8]) -> Prefix {
        let len = match self {
            Framing::Varseq(format) => format.read(bytes),
            Framing::Rdw(word) => bytes
                .first_chunk()
                .and_then(|bytes| word.read_record(bytes)),
            Framing::Vms => match bytes.first_chunk::<2>() {
                Some([0xFF, 0xFF]) => {
                    return Prefix::Skip((VMS_BLOCK - offset % VMS_BLOCK) as usize);
                }
                Some(&prefix) => Some(usize::from(u16::from_le_bytes(prefix))),
                None => None,
            },
            Framing::MicroFocus(header) => match header.read(bytes) {
                Some((MfHeader::USER, len)) => Some(len),
                Some((MfHeader::DELETED, len)) => return Prefix::Other(len, "deleted record"),
                Some((MfHeader::SYSTEM, len)) => return Prefix::Other(len, "system record"),
                _ => None,
            },
            Framing::Varout { block } => {
                let left = (block - offset % block) as usize;
                match bytes.first_chunk::<2>() {
                    Some([0xFF, 0xFF]) => return Prefix::Skip(left),
                    Some(&prefix) => Some(usize::from(u16::from_be_bytes(prefix)))
                        .filter(|len| 2 + len + self.padding(*len) <= left),
                    None => None,
                }
            }
        };
        len.map_or(Prefix::Bad, Prefix::Record)
    }

    /// Appends the prefix of a record of `len` bytes; `len` is at most [`Framing::len_max`].
    fn write(self, len: usize, out: &mut Vec<u8>) {
        let short = len as u16;
        match self {
            Framing::Varseq(format) => format.write(len, out),
            Framing::Rdw(word) => out.extend_from_slice(&word.of_record(len)),
            Framing::Vms => out.extend_from_slice(&short.to_le_bytes()),
            Framing::MicroFocus(header) => header.write(MfHeader::USER, len, out),
            Framing::Varout { .. } => out.extend_from_slice(&short.to_be_bytes()),
        }
    }

    /// Bytes of padding behind a record.
    pub(crate) fn padding(self, len: usize) -> usize {
        match self {
            Framing::Varseq(_) | Framing::Rdw(_) => 0,
            Framing::Vms | Framing::Varout { .. } => len % 2,
            Framing::MicroFocus(header) => {
                let len = header.len() + len;
                len.next_multiple_of(4).max(8) - len
            }
        }
    }

    /// The most that [`Framing::padding`] can be.
    fn padding_max(self) -> usize {
        match self {
            Framing::Varseq(_) | Framing::Rdw(_) => 0,
            Framing::Vms | Framing::Varout { .. } => 1,
            Framing::MicroFocus(_) => 6,
        }
    }

    /// What padding consists of.
    fn filler(self) -> u8 {
        match self {
            Framing::MicroFocus(_) => b' ',
            _ => 0,
        }
    }

    /// Bytes of a block, behind which all goes on whatever is in it.
    fn block(self) -> usize {
        match self {
            Framing::Varseq(_) | Framing::Rdw(_) | Framing::MicroFocus(_) => 0,
            Framing::Vms => VMS_BLOCK as usize,
            Framing::Varout { block } => block as usize,
        }
    }

    /// Whether a record may be empty and its prefix zero, so that a hole reads as records.
    fn has_zero_prefix(self) -> bool {
        match self {
            Framing::Varseq(_) | Framing::Vms | Framing::Varout { .. } => true,
            Framing::Rdw(word) => word.is_exclusive,
            Framing::MicroFocus(_) => false,
        }
    }
}

/// Codec of records with length prefixes.
#[derive(Debug)]
pub(crate) struct Prefixed {
    framing: Framing,
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

impl Prefixed {
    /// Records of at most `len_max` bytes, which the framing can say.
    pub(crate) fn new(framing: Framing, len_max: usize) -> Prefixed {
        Prefixed { framing, len_max }
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
        let prefix_len = self.framing.prefix_len();
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
        let len = match self.framing.read(offset, bytes) {
            Prefix::Record(len) if len <= self.len_max => len,
            Prefix::Other(len, reason) if len <= self.len_max => {
                let whole = prefix_len + len + self.framing.padding(len);
                return (at_end || bytes.len() >= whole)
                    .then(|| residue(whole.min(bytes.len()), reason));
            }
            Prefix::Record(_) | Prefix::Other(..) | Prefix::Bad => {
                return malformed(offset, bytes, at_end, "bad length prefix");
            }
            Prefix::Skip(room) => {
                return (at_end || bytes.len() >= room)
                    .then(|| residue(room.min(bytes.len()), "rest of a block without records"));
            }
        };
        if len == 0 && self.framing.has_zero_prefix() && *zeros < prefix_len {
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
        let padding = self.framing.padding(len);
        if let Some(record) = bytes.get(prefix_len..prefix_len + len + padding) {
            let (data, rest) = record.split_at(len);
            // The usual padding goes without saying.
            let filler = self.framing.filler();
            let rest = if rest.iter().all(|&byte| byte == filler) {
                &[]
            } else {
                rest
            };
            return Some(Found {
                len: prefix_len + record.len(),
                kind: PieceKind::Record { data, rest },
            });
        }
        at_end.then(|| residue(bytes.len(), "partial record at the end"))
    }
}

impl Codec for Prefixed {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Forward
    }

    fn piece_len_max(&self) -> Option<u64> {
        let longest = self.framing.prefix_len() + self.len_max + self.framing.padding_max();
        Some(longest.max(RESIDUE_ALIGN).max(self.framing.block()) as u64)
    }

    fn decode_within(
        &self,
        _within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        decode_addressed(offset, bytes, out, |offset, bytes, zeros| {
            self.find(offset, bytes, at_end, zeros)
        })
    }

    fn lead(&self, offset: u64, len: usize) -> Vec<u8> {
        let Framing::Varout { block } = self.framing else {
            return Vec::new();
        };
        let left = (block - offset % block) as usize;
        if 2 + len + self.framing.padding(len) <= left || left == block as usize {
            return Vec::new();
        }
        let mut end = vec![0; left];
        end[..2].fill(0xFF);
        end
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
        let padding = self.framing.padding(data.len());
        if !rest.is_empty() && rest.len() != padding {
            return Err(EncodeError::new(
                id,
                format!(
                    "this layout has {padding} bytes of padding behind a record of {}, but {} bytes were given",
                    data.len(),
                    rest.len()
                ),
            ));
        }
        let filler = self.framing.filler();
        if !rest.is_empty() && rest.iter().all(|&byte| byte == filler) {
            return Err(EncodeError::new(
                id,
                "the padding beside it is the usual one, which goes without saying: give none",
            ));
        }
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
        if let Framing::Varout { block } = self.framing
            && (2 + data.len() + padding) as u64 > block - id % block
        {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, more than are left of the block of {block} at this address",
                    data.len()
                ),
            ));
        }
        self.framing.write(data.len(), out);
        out.extend_from_slice(data);
        if rest.is_empty() {
            out.resize(out.len() + padding, filler);
        }
        out.extend_from_slice(rest);
        Ok(())
    }
}
