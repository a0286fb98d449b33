//! Records of one length, back to back.
//!
//! A record of only zero bytes is taken as never written: a program can't tell it from the hole
//! that writing a later record leaves. A part of a record at the end of the file is residue.

use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within, decode_pitched, no_rest};
use crate::bytes::all_zero;

/// What numbers the records of a file of fixed-length records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Record number, from 1.
    Number,
    /// Byte address, from 0.
    Address,
}

/// Codec of fixed-length records.
#[derive(Debug)]
pub(crate) struct Fixed {
    size: usize,
    identity: Identity,
}

impl Fixed {
    /// `size` is at least 1.
    pub(crate) fn new(size: usize, identity: Identity) -> Fixed {
        Fixed {
            size: size.max(1),
            identity,
        }
    }
}

impl Codec for Fixed {
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
        let step = match self.identity {
            Identity::Number => 1,
            Identity::Address => self.size as u64,
        };
        let ids = (self.id_at(offset), step);
        decode_pitched(self.size, ids, offset, bytes, at_end, out, |data| {
            if data.len() < self.size {
                PieceKind::Residue {
                    bytes: data,
                    reason: "partial record at the end",
                }
            } else if all_zero(data) {
                PieceKind::Empty
            } else {
                PieceKind::Record { data, rest: &[] }
            }
        })
    }

    fn id_at(&self, offset: u64) -> u64 {
        match self.identity {
            Identity::Number => (offset / self.size as u64).saturating_add(1),
            Identity::Address => offset,
        }
    }

    fn offset_of(&self, id: u64) -> u64 {
        match self.identity {
            Identity::Number => id.saturating_sub(1).saturating_mul(self.size as u64),
            Identity::Address => id,
        }
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        no_rest(id, rest)?;
        if data.len() != self.size {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, but records of this file have {}",
                    data.len(),
                    self.size
                ),
            ));
        }
        out.extend_from_slice(data);
        Ok(())
    }
}
