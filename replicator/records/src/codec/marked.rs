//! Micro Focus relative files of fixed length: slots of `size` bytes and a mark each, without a file header.
//!
//! The mark says whether the slot holds a record. DELETE changes only the mark, so the old content
//! stays: that is residue. A slot of only zero bytes was never written.

use super::slots::Slots;
use super::{EncodeError, PieceKind, no_rest};
use crate::bytes::all_zero;

/// The mark behind each slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// One byte, as on Unix: `0A`, or `00` where the record was deleted.
    Byte,
    /// Two bytes: `0D0A`, or `0D00` where the record was deleted.
    Pair,
}

impl Marker {
    pub(super) fn present(self) -> &'static [u8] {
        match self {
            Marker::Byte => b"\n",
            Marker::Pair => b"\r\n",
        }
    }

    pub(super) fn deleted(self) -> &'static [u8] {
        match self {
            Marker::Byte => b"\0",
            Marker::Pair => b"\r\0",
        }
    }
}

/// Codec of slots with marks.
#[derive(Debug)]
pub(crate) struct Marked {
    marker: Marker,
    size: usize,
}

impl Marked {
    /// `size` is what a slot holds, without its mark; at least 1.
    pub(crate) fn new(marker: Marker, size: usize) -> Marked {
        Marked { marker, size }
    }
}

impl Slots for Marked {
    fn pitch(&self) -> usize {
        self.size + self.marker.present().len()
    }

    fn slot<'a>(&self, bytes: &'a [u8]) -> PieceKind<'a> {
        let residue = |reason| PieceKind::Residue { bytes, reason };
        let Some((data, mark)) = bytes.split_at_checked(self.size) else {
            return residue("partial slot at the end");
        };
        if mark == self.marker.present() {
            PieceKind::Record { data, rest: &[] }
        } else if all_zero(bytes) && bytes.len() == self.pitch() {
            PieceKind::Empty
        } else if mark == self.marker.deleted() {
            residue("deleted slot")
        } else if bytes.len() < self.pitch() {
            residue("partial slot at the end")
        } else {
            residue("a slot without a mark")
        }
    }

    fn encode_slot(
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
                    "it has {} bytes, but slots of this file hold {}",
                    data.len(),
                    self.size
                ),
            ));
        }
        out.extend_from_slice(data);
        out.extend_from_slice(self.marker.present());
        Ok(())
    }
}
