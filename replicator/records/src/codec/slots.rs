//! Relative files: numbered slots of one size. How a slot says whether it holds a record is each layout's own.

use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within, decode_pitched};
use std::fmt::Debug;

/// A layout of slots. Slot 1 begins at the beginning of the file, and they lie one behind the other.
pub(super) trait Slots: Debug + Send + Sync {
    /// Bytes of a slot.
    fn pitch(&self) -> usize;

    /// What a slot holds, whole or cut off by the end of the file.
    fn slot<'a>(&self, bytes: &'a [u8]) -> PieceKind<'a>;

    /// [`Codec::encode`].
    fn encode_slot(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError>;
}

/// Content and the bytes behind it have to fill the slot.
pub(super) fn check_filled(
    id: u64,
    data: &[u8],
    rest: &[u8],
    size: usize,
) -> Result<(), EncodeError> {
    if data.len() + rest.len() == size {
        return Ok(());
    }
    Err(EncodeError::new(
        id,
        format!(
            "content and the bytes behind it fill the slot, but {} and {} bytes were given for a slot of {size}",
            data.len(),
            rest.len(),
        ),
    ))
}

impl<S: Slots> Codec for S {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Pitch(self.pitch() as u64)
    }

    fn piece_len_max(&self) -> Option<u64> {
        Some(self.pitch() as u64)
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
        decode_pitched(self.pitch(), ids, offset, bytes, at_end, out, |slot| {
            self.slot(slot)
        })
    }

    fn id_at(&self, offset: u64) -> u64 {
        (offset / self.pitch() as u64).saturating_add(1)
    }

    fn offset_of(&self, id: u64) -> u64 {
        id.saturating_sub(1).saturating_mul(self.pitch() as u64)
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.encode_slot(id, data, rest, out)
    }
}
