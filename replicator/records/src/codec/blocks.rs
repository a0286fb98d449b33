//! Any file as blocks of one size, numbered from 0.
//!
//! A whole block of zero bytes is empty (a hole). The last block may be short: it is content, so it
//! is a record with fewer bytes, all zero or not, and the file's length is not lost.

use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, no_rest};
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

    fn decode(
        &self,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        let (mut id, mut offset) = (self.id_at(offset), offset);
        let mut taken = 0;
        for data in bytes.chunks(self.size) {
            let whole = data.len() == self.size;
            if !whole && !at_end {
                break;
            }
            let kind = if whole && all_zero(data) {
                PieceKind::Empty
            } else {
                PieceKind::Record { data, rest: &[] }
            };
            out(Piece {
                id,
                offset,
                len: data.len() as u64,
                kind,
            });
            id = id.saturating_add(1);
            offset = offset.saturating_add(data.len() as u64);
            taken += data.len();
        }
        taken
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
