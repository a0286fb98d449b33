//! The codec contract: bytes of a file to pieces, and pieces back to the same bytes.
//!
//! A file is a sequence of *pieces* that cover it without gaps. Each piece has an identity, which is
//! unique in the file and grows with the offset: a record number, a slot number, a byte address or
//! a block number. A piece is a record, or residue (bytes that are no record but must survive a
//! restore), or empty (all zero bytes that never were a record: a hole).
//!
//! **A piece depends on nothing before it.** What the piece at a boundary is follows from the bytes
//! from there on (and from where the file ends) alone. So pieces are the same however a caller cuts
//! a file into calls, and behind a change of the file, from the first boundary that old and new
//! pieces share, all pieces are as before. Of the bytes behind a piece it depends on few:
//! [`Boundaries`] says how far before a change decoding has to begin anew.
//!
//! **One thing may go with a boundary: how much of a block is left there** ([`Within`]). Where files
//! have blocks of any length with records in them ([`Codec::is_blocked`]), nothing at a record tells
//! whether the next word is that of a record or of a block. Then "boundary" above means the offset
//! together with its `Within`, which every piece has for its end.
//!
//! **Malformed regions are cut at absolute offsets.** Where a length prefix makes no sense or a line
//! is longer than any line may be, the bytes up to the next multiple of
//! [`RESIDUE_ALIGN`] become one residue piece, and decoding tries again there.
//! Memory is bounded for any input. The price: what follows in a malformed region can look like
//! records and then is given out as such. The bytes are exact all the same.

use crate::RESIDUE_ALIGN;
use crate::bytes::all_zero;

mod blocked;
mod blocks;
mod fixed;
mod headed;
mod lines;
mod marked;
mod micro_focus;
mod prefixed;
mod quoted;
mod relative;
mod slots;
mod words;

pub(crate) use blocked::Blocked;
pub(crate) use blocks::Blocks;
pub(crate) use fixed::{Fixed, Identity};
pub(crate) use headed::Headed;
pub(crate) use lines::Lines;
pub(crate) use marked::{Marked, Marker};
pub(crate) use micro_focus::{FileHeader, MfHeader, TypedSlots};
pub(crate) use prefixed::{Framing, Prefix, Prefixed};
pub(crate) use quoted::Quoted;
pub(crate) use relative::{Relative, SlotLength};

/// Where pieces may begin, which is what a reader needs to know to enter a file in the middle.
///
/// After a change at an offset (bytes from there on were written, or the file now ends there, or it
/// ended there and grew), pieces that lie before an *entry* are as before, and decoding begins anew
/// at the entry. [`Codec::entry`] finds one where that takes no knowledge of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundaries {
    /// Pieces have one size in bytes and begin at its multiples. The entry for a change is the last
    /// multiple that isn't behind it.
    Pitch(u64),
    /// A piece begins after every byte of this value (newline text), so a reader scans back to one.
    /// The entry for a change is behind the last such byte before it.
    ///
    /// Where none is near, the change is in a line that is too long or in a hole. The reader need not
    /// look further back than [`Codec::piece_len_max`] plus [`RESIDUE_ALIGN`]: where `q` is a
    /// multiple of `RESIDUE_ALIGN`, and the `piece_len_max` bytes from `q` on lie before the change
    /// and don't hold the value, an entry is at `q + RESIDUE_ALIGN`.
    After(u8),
    /// Boundaries are only found by reading forward from a known one (length prefixes). An entry
    /// for a change is any known boundary that is [`Codec::reach`] bytes or more before it, and
    /// the file's beginning. (A nearer one need not do: in a row of zero bytes, enough of them are a
    /// hole, fewer are empty records.) From such a boundary on, what decoding the bytes before the
    /// change takes when it isn't told that they are the last is settled too, and its end an entry.
    Forward,
}

/// How much of a block is left at a boundary, for layouts with blocks; for others, and between
/// blocks, the default. Opaque: it comes from a [`Piece`] and goes to [`Codec::decode_within`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Within(u64);

/// What a piece of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind<'a> {
    /// A record. `data` is what the program would read; `rest` is what else lies in the record's
    /// bytes and can't be derived from the layout (slot bytes behind a short record, the CR of a
    /// CRLF). It is usually empty.
    Record {
        /// The record's content.
        data: &'a [u8],
        /// On-disk bytes that belong to the record, aren't content, and can't be derived.
        rest: &'a [u8],
    },
    /// Bytes that aren't a record: what is left in a deleted slot, a trailing partial record, a
    /// prefix that makes no sense. `reason` says why in a few words for people.
    Residue {
        /// All on-disk bytes of the piece.
        bytes: &'a [u8],
        /// Why this isn't a record.
        reason: &'static str,
    },
    /// Only zero bytes: a slot or record never written, or a hole.
    Empty,
}

/// One piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Identity, by organisation.
    pub id: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes it takes in the file, at least 1.
    pub len: u64,
    /// What it is.
    pub kind: PieceKind<'a>,
    /// What goes with the boundary at its end.
    pub behind: Within,
}

/// Bytes that can't be encoded in a layout (a record too long for its slot, say).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encoding record {id}: {reason}")]
pub struct EncodeError {
    /// Identity of the record.
    pub id: u64,
    /// What is wrong with it, for people.
    pub reason: String,
}

impl EncodeError {
    fn new(id: u64, reason: impl Into<String>) -> EncodeError {
        EncodeError {
            id,
            reason: reason.into(),
        }
    }
}

/// A layout's reader and writer.
pub trait Codec: Send + Sync + std::fmt::Debug {
    /// Where pieces may begin.
    fn boundaries(&self) -> Boundaries;

    /// The longest a piece's on-disk bytes can be, or `None` where nothing bounds it (every codec
    /// of this crate has a bound).
    ///
    /// Given at least this many bytes, [`Codec::decode`] always takes some. A buffer of twice the
    /// size keeps decoding linear even where no piece ends for long.
    fn piece_len_max(&self) -> Option<u64>;

    /// Decodes `bytes`, which lie at `offset` in the file; `offset` is a piece boundary, and `within` what goes with it.
    ///
    /// Calls `out` for every whole piece in order and returns how many bytes they took. With
    /// `at_end` nothing follows `bytes` in the file, so a trailing partial piece comes out as
    /// residue and everything is taken; without it, a partial piece is left for the next call,
    /// which goes on with what the last piece has behind it.
    /// Never panics, whatever the bytes are; offsets and identities past `u64::MAX` stop there.
    fn decode_within(
        &self,
        within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize;

    /// [`Codec::decode_within`] from a boundary that nothing goes with, as the beginning of the file.
    fn decode(
        &self,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        self.decode_within(Within::default(), offset, bytes, at_end, out)
    }

    /// Whether a boundary in the middle of the file may have something that goes with it.
    fn is_blocked(&self) -> bool {
        false
    }

    /// How many bytes behind a piece may decide what it is, at most (see [`Boundaries::Forward`]).
    fn reach(&self) -> u64 {
        RESIDUE_ALIGN as u64
    }

    /// What a program that writes a new file puts at `offset` before a record of `len` bytes, and which
    /// isn't part of it: a file's header, the rest of a block that it doesn't fit in. Usually nothing.
    fn lead(&self, _offset: u64, _len: usize) -> Vec<u8> {
        Vec::new()
    }

    /// The last entry for a change at the end of `before` (see [`Boundaries`]), as an offset in the
    /// file; `before` lies at `offset`. `None` if it takes bytes from further back to find one, or,
    /// with [`Boundaries::Forward`], a known boundary. The beginning of the file always is one.
    fn entry(&self, offset: u64, before: &[u8]) -> Option<u64> {
        let end = offset.saturating_add(before.len() as u64);
        let found = match (self.boundaries(), self.piece_len_max()) {
            (Boundaries::Pitch(pitch), _) => {
                Some(end - end % pitch.max(1)).filter(|&entry| entry >= offset)
            }
            (Boundaries::After(value), len_max) => {
                let after = before
                    .iter()
                    .rposition(|&byte| byte == value)
                    .map_or(0, |at| at + 1);
                let behind = offset.saturating_add(after as u64);
                let align = RESIDUE_ALIGN as u64;
                // The last multiple from which on there are enough bytes; they must not hold the value.
                let far = len_max
                    .and_then(|len_max| end.checked_sub(len_max))
                    .map(|from| from - from % align)
                    .filter(|&from| from >= behind)
                    .map(|from| from + align);
                far.or((after > 0).then_some(behind))
            }
            (Boundaries::Forward, _) => None,
        };
        found.or((offset == 0).then_some(0))
    }

    /// The identity of the piece that begins at `offset` (a boundary).
    fn id_at(&self, offset: u64) -> u64;

    /// Where the piece with this identity begins.
    fn offset_of(&self, id: u64) -> u64;

    /// Appends the on-disk bytes of a record to `out`: the inverse of [`Codec::decode`].
    ///
    /// What it accepts decodes to the same record again (all zero bytes, to an empty piece), at least
    /// where it was: in its block, before what followed it. Residue and empty pieces need no encoding:
    /// they are their bytes. On an error `out` is as before.
    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError>;
}

/// A piece of a layout whose pieces have no common size, as found at a boundary.
struct Found<'a> {
    /// On-disk length in bytes, at least 1.
    len: usize,
    kind: PieceKind<'a>,
}

/// [`Codec::decode`] of a layout whose pieces have no common size and are identified by their byte address.
///
/// `find` gives the piece at the begin of some bytes, or `None` if that takes more of them. It is told, and moves on, how
/// many of these bytes it has been through already without finding an end.
fn decode_addressed<'a>(
    offset: u64,
    bytes: &'a [u8],
    out: &mut dyn FnMut(Piece<'_>),
    find: impl Fn(u64, &'a [u8], &mut usize) -> Option<Found<'a>>,
) -> usize {
    let (mut at, mut seen) = (0, 0);
    while at < bytes.len() {
        let offset = offset.saturating_add(at as u64);
        let Some(found) = find(offset, &bytes[at..], &mut seen) else {
            break;
        };
        out(Piece {
            id: offset,
            offset,
            len: found.len as u64,
            kind: found.kind,
            behind: Within::default(),
        });
        at += found.len;
        seen = seen.saturating_sub(found.len);
    }
    at
}

/// [`Codec::decode`] of a layout whose pieces have one size in bytes. `id` and `step`: the identity of the first piece, and how
/// far the next ones' are apart; `kind`: what a piece is, which only at the end of the file has fewer bytes than that.
fn decode_pitched<'a>(
    pitch: usize,
    (mut id, step): (u64, u64),
    mut offset: u64,
    bytes: &'a [u8],
    at_end: bool,
    out: &mut dyn FnMut(Piece<'_>),
    kind: impl Fn(&'a [u8]) -> PieceKind<'a>,
) -> usize {
    let mut taken = 0;
    for piece in bytes.chunks(pitch) {
        if piece.len() < pitch && !at_end {
            break;
        }
        let len = piece.len() as u64;
        out(Piece {
            id,
            offset,
            len,
            kind: kind(piece),
            behind: Within::default(),
        });
        id = id.saturating_add(step);
        offset = offset.saturating_add(len);
        taken += piece.len();
    }
    taken
}

/// What stands where no record can be made out: the bytes to the next multiple of [`RESIDUE_ALIGN`], or `None` if that takes
/// more of them.
fn malformed<'a>(
    offset: u64,
    bytes: &'a [u8],
    at_end: bool,
    reason: &'static str,
) -> Option<Found<'a>> {
    let room = residue_room(offset);
    if !at_end && bytes.len() < room {
        return None;
    }
    let len = room.min(bytes.len());
    let bytes = &bytes[..len];
    // Cut short by the end it may still become something else, and only residue may do that.
    let kind = if len == room && all_zero(bytes) {
        PieceKind::Empty
    } else {
        PieceKind::Residue { bytes, reason }
    };
    Some(Found { len, kind })
}

/// Bytes from `offset` to the next multiple of [`RESIDUE_ALIGN`], at least 1.
fn residue_room(offset: u64) -> usize {
    RESIDUE_ALIGN - (offset % RESIDUE_ALIGN as u64) as usize
}

/// Refuses on-disk bytes beside the content for layouts that have none.
fn no_rest(id: u64, rest: &[u8]) -> Result<(), EncodeError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(EncodeError::new(
        id,
        format!(
            "this layout keeps nothing beside the record's content, but {} bytes were given",
            rest.len()
        ),
    ))
}

#[cfg(test)]
mod tests;
