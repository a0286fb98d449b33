//! The codec contract: bytes of a file to pieces, and pieces back to the same bytes.
//!
//! A file is a sequence of *pieces* that cover it without gaps. Each piece has an identity, which is
//! unique in the file and grows with the offset: a record number, a slot number, a byte address or
//! a block number. A piece is a record, or residue (bytes that are no record but must survive a
//! restore), or empty (all zero bytes that never were a record: a hole).

/// Where pieces may begin, which is what a reader needs to know to enter a file in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundaries {
    /// Pieces have one size in bytes: piece `n` begins at `(n - first_id) * pitch`.
    Pitch(u64),
    /// A piece begins after every byte of this value (newline text).
    After(u8),
    /// Boundaries are only found by reading forward from a known one (length prefixes).
    Forward,
}

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
    /// Only zero bytes: a slot or record never written.
    Empty,
}

/// One piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Identity, by organisation.
    pub id: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes it takes in the file.
    pub len: u64,
    /// What it is.
    pub kind: PieceKind<'a>,
}

/// Bytes that can't be encoded in a layout (a record too long for its slot, say).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {id}: {reason}")]
pub struct DecodeError {
    /// Identity of the record.
    pub id: u64,
    /// What is wrong with it, for people.
    pub reason: String,
}

/// A layout's reader and writer.
pub trait Codec: Send + Sync {
    /// Where pieces may begin.
    fn boundaries(&self) -> Boundaries;

    /// The longest a record's on-disk bytes can be where the layout bounds it, else `None`.
    fn piece_len_max(&self) -> Option<u64>;

    /// Decodes `bytes`, which lie at `offset` in the file; `offset` is a piece boundary.
    ///
    /// Calls `out` for every whole piece in order and returns how many bytes they took. With
    /// `at_end` nothing follows `bytes` in the file, so a trailing partial piece comes out as
    /// residue and everything is taken; without it, a partial piece is left for the next call.
    /// Never panics, whatever the bytes are.
    fn decode(&self, offset: u64, bytes: &[u8], at_end: bool, out: &mut dyn FnMut(Piece<'_>)) -> usize;

    /// The identity of the piece that begins at `offset` (a boundary).
    fn id_at(&self, offset: u64) -> u64;

    /// Where the piece with this identity begins.
    fn offset_of(&self, id: u64) -> u64;

    /// Appends the on-disk bytes of a record to `out`: the inverse of [`Codec::decode`].
    fn encode(&self, id: u64, data: &[u8], rest: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError>;
}
