//! Relative files whose slots have a length each and `size` bytes: GnuCOBOL's, and our own.
//!
//! Length 0 means that the slot holds no record. DELETE writes only the length, so the old content
//! stays behind it: that is residue, and so is what REWRITE puts into a slot without a record (the
//! runtime reports success, but no reader finds it). A slot of only zero bytes was never written.

use super::slots::{Slots, check_filled};
use super::{EncodeError, PieceKind, no_rest};
use crate::bytes::all_zero;

/// The length before each slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotLength {
    /// GnuCOBOL's: 8 bytes, little-endian.
    Long,
    /// The neutral layout's: 2 bytes, big-endian.
    Short,
}

impl SlotLength {
    fn bytes(self) -> usize {
        match self {
            SlotLength::Long => 8,
            SlotLength::Short => 2,
        }
    }

    /// The most that it can say.
    pub(crate) fn max(self) -> u64 {
        match self {
            SlotLength::Long => u64::MAX,
            SlotLength::Short => u64::from(u16::MAX),
        }
    }

    /// The length that a slot says, and the rest of the slot.
    fn split(self, slot: &[u8]) -> Option<(u64, &[u8])> {
        match self {
            SlotLength::Long => {
                let (length, content) = slot.split_first_chunk()?;
                Some((u64::from_le_bytes(*length), content))
            }
            SlotLength::Short => {
                let (length, content) = slot.split_first_chunk()?;
                Some((u64::from(u16::from_be_bytes(*length)), content))
            }
        }
    }
}

/// Codec of relative files with lengths.
#[derive(Debug)]
pub(crate) struct Relative {
    length: SlotLength,
    size: usize,
}

impl Relative {
    /// `size` is what a slot holds at most, without its length; at least 1, and no more than the length can say.
    pub(crate) fn new(length: SlotLength, size: usize) -> Relative {
        Relative { length, size }
    }
}

impl Slots for Relative {
    fn pitch(&self) -> usize {
        self.length.bytes() + self.size
    }

    fn slot<'a>(&self, bytes: &'a [u8]) -> PieceKind<'a> {
        let residue = |reason| PieceKind::Residue { bytes, reason };
        let whole = bytes.len() == self.pitch();
        let Some((len, content)) = self.length.split(bytes).filter(|_| whole) else {
            return residue("partial slot at the end");
        };
        match usize::try_from(len) {
            Ok(0) if all_zero(content) => PieceKind::Empty,
            Ok(0) => residue("deleted slot"),
            Ok(len) if len <= content.len() => {
                let (data, rest) = content.split_at(len);
                PieceKind::Record { data, rest }
            }
            _ => residue("slot length is more than the record size"),
        }
    }

    fn encode_slot(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if data.is_empty() {
            no_rest(id, rest)?;
            return Err(EncodeError::new(
                id,
                "it is empty, but a slot of length 0 holds no record",
            ));
        }
        if data.len() > self.size {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, but a slot holds at most {}",
                    data.len(),
                    self.size
                ),
            ));
        }
        check_filled(id, data, rest, self.size)?;
        match self.length {
            SlotLength::Long => out.extend_from_slice(&(data.len() as u64).to_le_bytes()),
            SlotLength::Short => out.extend_from_slice(&(data.len() as u16).to_be_bytes()),
        }
        out.extend_from_slice(data);
        out.extend_from_slice(rest);
        Ok(())
    }
}
