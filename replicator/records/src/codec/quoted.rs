//! Delimited text with quotes (RFC 4180): a record is a line, but newlines between quotes are content.
//!
//! A quote begins where a field does, and ends at the next quote that isn't one of two; anywhere else it is a byte like
//! others. Line ends, holes and lines that are too long are as in [`super::Lines`].
//!
//! A quote that is never ended must not swallow the rest of the file: where a record with quotes has no end within `len_max`
//! bytes, its first line is a record by itself, and reading goes on behind it. So what a record is depends on `len_max`
//! bytes from its beginning at most.

use super::lines::{check, hole, line};
use super::{
    Boundaries, Codec, EncodeError, Found, Piece, PieceKind, Within, decode_addressed, residue_room,
};
use crate::RESIDUE_ALIGN;
use crate::bytes::position;

const LF: u8 = b'\n';

/// Codec of delimited text.
#[derive(Debug)]
pub(crate) struct Quoted {
    quote: u8,
    delimiter: u8,
    len_max: usize,
}

impl Quoted {
    /// `len_max` is how long a record may be with its line end; at least `2 * RESIDUE_ALIGN`.
    pub(crate) fn new(quote: u8, delimiter: u8, len_max: usize) -> Quoted {
        Quoted {
            quote,
            delimiter,
            len_max: len_max.max(2 * RESIDUE_ALIGN),
        }
    }

    /// Where the LF is that ends the record at the begin of `bytes`, if it is among them; `first` is their first LF.
    fn end(&self, bytes: &[u8], first: usize) -> Option<usize> {
        if position(&bytes[..first], self.quote).is_none() {
            return Some(first);
        }
        let mut at = 0;
        // At the begin of a field.
        loop {
            if bytes.get(at) == Some(&self.quote) {
                at += 1;
                loop {
                    at += position(bytes.get(at..)?, self.quote)? + 1;
                    if bytes.get(at) != Some(&self.quote) {
                        break;
                    }
                    at += 1;
                }
            }
            let field = bytes.get(at..)?;
            let end = field
                .iter()
                .position(|&byte| byte == LF || byte == self.delimiter)?;
            at += end;
            if field[end] == LF {
                return Some(at);
            }
            at += 1;
        }
    }

    /// The piece at the begin of `bytes`, which aren't empty, or `None` if that takes more of them.
    fn find<'a>(&self, offset: u64, bytes: &'a [u8], at_end: bool) -> Option<Found<'a>> {
        if let Some(hole) = hole(offset, bytes, at_end) {
            return hole;
        }
        let seen = &bytes[..self.len_max.min(bytes.len())];
        let first = position(seen, LF);
        if let Some(end) = first.and_then(|first| self.end(seen, first)) {
            return Some(line(bytes, end));
        }
        if seen.len() == self.len_max {
            return Some(match first {
                // Its quotes have no end.
                Some(first) => line(bytes, first),
                None => {
                    let room = residue_room(offset);
                    Found {
                        len: room,
                        kind: PieceKind::Residue {
                            bytes: &bytes[..room],
                            reason: "line longer than the longest line",
                        },
                    }
                }
            });
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

impl Codec for Quoted {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Forward
    }

    fn piece_len_max(&self) -> Option<u64> {
        Some(self.len_max as u64)
    }

    fn reach(&self) -> u64 {
        (self.len_max + 2 * RESIDUE_ALIGN) as u64
    }

    fn decode_within(
        &self,
        _within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        decode_addressed(offset, bytes, out, |offset, bytes, _| {
            self.find(offset, bytes, at_end)
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
        check(id, data, rest, self.len_max, "record")?;
        let begin = out.len();
        out.extend_from_slice(data);
        out.extend_from_slice(rest);
        out.push(LF);
        let record = &out[begin..];
        // A line whose quotes have no end is a record too, where none follows in the file.
        if let Some(first) = position(data, LF)
            && self.end(record, first) != Some(record.len() - 1)
        {
            out.truncate(begin);
            return Err(EncodeError::new(
                id,
                "a newline stands outside of quotes, where it ends the record",
            ));
        }
        Ok(())
    }
}
