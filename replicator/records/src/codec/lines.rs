//! Text lines, each ended by LF; the identity is the byte address of the line.
//!
//! One CR before the LF is kept beside the line. Every other byte is content, zero bytes too. A last
//! line without LF is residue until its LF arrives.
//!
//! Two things keep memory bounded. They cut at absolute multiples of [`RESIDUE_ALIGN`] and never
//! swallow an LF, so a piece begins after every LF whatever comes before it:
//! - A line with no LF in its first `len_max` bytes is cut: the bytes up to the next multiple are
//!   residue. So are the next ones, and so on until the LF is near enough; what is left of the line
//!   then comes out as a record.
//! - Zero bytes where a line should begin are a hole up to the next multiple if at least
//!   `RESIDUE_ALIGN` of them follow from there (or from the line's begin, when that is a multiple
//!   itself). This is what a log looks like that was truncated under a writer that doesn't append.

use super::{
    Boundaries, Codec, EncodeError, Found, Piece, PieceKind, Within, decode_addressed, residue_room,
};
use crate::RESIDUE_ALIGN;
use crate::bytes::{all_zero, position};

const LF: u8 = b'\n';
const CR: u8 = b'\r';

/// Codec of newline text.
#[derive(Debug)]
pub(crate) struct Lines {
    len_max: usize,
}

impl Lines {
    /// `len_max` is how long a line may be with its line end; at least `2 * RESIDUE_ALIGN`, so that
    /// neither cut can reach an LF behind `len_max`.
    pub(crate) fn new(len_max: usize) -> Lines {
        Lines {
            len_max: len_max.max(2 * RESIDUE_ALIGN),
        }
    }

    /// The piece at the begin of `bytes`, which aren't empty, or `None` if that takes more of them.
    ///
    /// The first `searched` bytes are known to hold no LF; it is moved on.
    fn find<'a>(
        &self,
        offset: u64,
        bytes: &'a [u8],
        at_end: bool,
        searched: &mut usize,
    ) -> Option<Found<'a>> {
        let room = residue_room(offset);
        if let Some(hole) = hole(offset, bytes, at_end) {
            return hole;
        }
        let limit = self.len_max.min(bytes.len());
        let from = (*searched).min(limit);
        if let Some(at) = position(&bytes[from..limit], LF) {
            return Some(line(bytes, from + at));
        }
        *searched = limit;
        if limit == self.len_max {
            let kind = PieceKind::Residue {
                bytes: &bytes[..room],
                reason: "line longer than the longest line",
            };
            return Some(Found { len: room, kind });
        }
        at_end.then_some(Found {
            len: bytes.len(),
            kind: PieceKind::Residue {
                bytes,
                reason: "unterminated last line",
            },
        })
    }
}

/// The line whose LF is at `end`.
pub(super) fn line(bytes: &[u8], end: usize) -> Found<'_> {
    let line = &bytes[..end];
    let (data, rest) = match line.split_last() {
        Some((&CR, data)) => (data, &line[data.len()..]),
        _ => (line, &[][..]),
    };
    Found {
        len: line.len() + 1,
        kind: PieceKind::Record { data, rest },
    }
}

/// The hole that begins with `bytes`, which aren't empty, if there is one; within, `None` if that takes more of them.
pub(super) fn hole<'a>(offset: u64, bytes: &'a [u8], at_end: bool) -> Option<Option<Found<'a>>> {
    if bytes[0] != 0 {
        return None;
    }
    let hole = hole_len(offset);
    let seen = &bytes[..hole.min(bytes.len())];
    if !all_zero(seen) || seen.len() < hole && at_end {
        return None;
    }
    Some((seen.len() == hole).then_some(Found {
        len: residue_room(offset),
        kind: PieceKind::Empty,
    }))
}

/// How many zero bytes from a boundary at `offset` make a hole.
fn hole_len(offset: u64) -> usize {
    let room = residue_room(offset);
    if room == RESIDUE_ALIGN {
        room
    } else {
        room + RESIDUE_ALIGN
    }
}

/// Refuses what would not be read as a line, or `what` it is called, with this content and line end.
pub(super) fn check(
    id: u64,
    data: &[u8],
    rest: &[u8],
    len_max: usize,
    what: &str,
) -> Result<(), EncodeError> {
    match rest {
        [] if data.last() == Some(&CR) => {
            return Err(EncodeError::new(
                id,
                "the CR at the end of the line is part of the line end: give it apart from the content",
            ));
        }
        [] | [CR] => {}
        _ => {
            return Err(EncodeError::new(
                id,
                "a line end is LF, or LF with one CR before it",
            ));
        }
    }
    let len = data.len() + rest.len() + 1;
    if len > len_max {
        return Err(EncodeError::new(
            id,
            format!("the {what} takes {len} bytes, the longest one {len_max}"),
        ));
    }
    if data.get(..hole_len(id)).is_some_and(all_zero) {
        return Err(EncodeError::new(
            id,
            format!("a {what} can't begin with this many zero bytes: that is a hole"),
        ));
    }
    Ok(())
}

impl Codec for Lines {
    fn boundaries(&self) -> Boundaries {
        Boundaries::After(LF)
    }

    fn piece_len_max(&self) -> Option<u64> {
        Some(self.len_max as u64)
    }

    fn decode_within(
        &self,
        _within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        decode_addressed(offset, bytes, out, |offset, bytes, searched| {
            self.find(offset, bytes, at_end, searched)
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
        if let Some(at) = position(data, LF) {
            return Err(EncodeError::new(
                id,
                format!("a line can't hold a newline, but byte {at} is one"),
            ));
        }
        check(id, data, rest, self.len_max, "line")?;
        out.extend_from_slice(data);
        out.extend_from_slice(rest);
        out.push(LF);
        Ok(())
    }
}
