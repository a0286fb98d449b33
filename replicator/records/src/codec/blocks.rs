//! Any file as blocks of one size, numbered from 0.
//!
//! A whole block of zero bytes is empty (a hole). The last block may be short: it is content, so it
//! is a record with fewer bytes, all zero or not, and the file's length is not lost.

use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within, decode_pitched, no_rest};
use crate::bytes::all_zero;

/// Codec of raw blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    size: usize,
}

impl Blocks {
    /// `size` is at least 1.
    pub(crate) fn new(size: usize) -> Blocks {
        Blocks { size: size.max(1) }
    }
}

impl Codec for Blocks {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Pitch(self.size as u64)
    }

    fn piece_len_max(&self) -> Option<u64> {
        Some(self.size as u64)
    }

    fn decode_within(
        &self,
        _within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        let ids = (self.id_at(offset), 1);
        decode_pitched(self.size, ids, offset, bytes, at_end, out, |data| {
            if data.len() == self.size && all_zero(data) {
                PieceKind::Empty
            } else {
                PieceKind::Record { data, rest: &[] }
            }
        })
    }

    fn id_at(&self, offset: u64) -> u64 {
        offset / self.size as u64
    }

    fn offset_of(&self, id: u64) -> u64 {
        id.saturating_mul(self.size as u64)
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        no_rest(id, rest)?;
        if data.is_empty() || data.len() > self.size {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, but a block of this file has {}, the last one perhaps fewer",
                    data.len(),
                    self.size
                ),
            ));
        }
        out.extend_from_slice(data);
        Ok(())
    }
}
