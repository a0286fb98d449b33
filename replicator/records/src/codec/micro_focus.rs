//! Micro Focus files with a file header: the header, the header of a record, and the slots of relative files.
//!
//! (Vendor's documentation HRFLRHFILE05, 06 and 08, and what GnuCOBOL's `gc4` writes.) A record's header has a type in its first
//! four bits and the record's length in the others. It has 2 bytes, or 4 where the longest record takes 4095 bytes or
//! more; the file header begins with one of these itself, of a system record.

use super::slots::{Slots, check_filled};
use super::{EncodeError, Marker, PieceKind};
use crate::bytes::all_zero;

/// The header of a record, of one of two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MfHeader {
    /// 2 bytes, big-endian, 12 bits of them the length.
    Short,
    /// 4 bytes, big-endian, 28 bits of them the length.
    Long,
}

impl MfHeader {
    /// The type of a record that was deleted.
    pub(crate) const DELETED: u8 = 2;
    /// The type of what the file system keeps for itself.
    pub(crate) const SYSTEM: u8 = 3;
    /// The type of a program's record.
    pub(crate) const USER: u8 = 4;

    /// The header that files with a longest record of so many bytes have.
    pub(crate) fn of(record_size: u64) -> MfHeader {
        if record_size < 4095 {
            MfHeader::Short
        } else {
            MfHeader::Long
        }
    }

    /// Its bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            MfHeader::Short => 2,
            MfHeader::Long => 4,
        }
    }

    /// The longest record that it can say.
    pub(crate) fn record_max(self) -> usize {
        match self {
            MfHeader::Short => 0x0fff,
            MfHeader::Long => 0x0fff_ffff,
        }
    }

    /// The type and the length that `bytes` begin with; `None` if they are too few.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<(u8, usize)> {
        match self {
            MfHeader::Short => {
                let word = u16::from_be_bytes(*bytes.first_chunk()?);
                Some(((word >> 12) as u8, usize::from(word & 0x0fff)))
            }
            MfHeader::Long => {
                let word = u32::from_be_bytes(*bytes.first_chunk()?);
                Some(((word >> 28) as u8, (word & 0x0fff_ffff) as usize))
            }
        }
    }

    /// Appends the header of a record of at most [`MfHeader::record_max`] bytes.
    pub(crate) fn write(self, kind: u8, len: usize, out: &mut Vec<u8>) {
        match self {
            MfHeader::Short => {
                out.extend_from_slice(&(u16::from(kind) << 12 | len as u16).to_be_bytes());
            }
            MfHeader::Long => {
                out.extend_from_slice(&(u32::from(kind) << 28 | len as u32).to_be_bytes());
            }
        }
    }
}

/// What a file header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// The header of this file's records.
    pub(crate) records: MfHeader,
    /// 1 sequential, 2 indexed, 3 relative.
    pub(crate) organization: u8,
    /// Not 0 where records are compressed.
    pub(crate) compression: u8,
    /// 0 where records have one length, 1 where it varies.
    pub(crate) variable: u8,
    /// The longest record in bytes.
    pub(crate) record_max: u32,
    /// The shortest record in bytes.
    pub(crate) record_min: u32,
}

impl FileHeader {
    /// Its bytes.
    pub(crate) const LEN: usize = 128;

    /// The header that `bytes` begin with, if they do.
    pub(crate) fn read(bytes: &[u8]) -> Option<FileHeader> {
        let header = bytes.first_chunk::<{ FileHeader::LEN }>()?;
        let records = match header[..4] {
            [0x30, 0x7e, 0, 0] => MfHeader::Short,
            [0x30, 0, 0, 0x7c] => MfHeader::Long,
            _ => return None,
        };
        let number = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let found = FileHeader {
            records,
            organization: header[39],
            compression: header[41],
            variable: header[48],
            record_max: number(54),
            record_min: number(58),
        };
        let is_header = header[36..38] == [0, 0x3e] && (1..=3).contains(&found.organization);
        is_header.then_some(found)
    }

    /// The bytes of a new file's. Its times of creation are zeros: nobody reads them, and the same records give the same file.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut header = vec![0; FileHeader::LEN];
        header[..4].copy_from_slice(match self.records {
            MfHeader::Short => &[0x30, 0x7e, 0, 0],
            MfHeader::Long => &[0x30, 0, 0, 0x7c],
        });
        header[8..36].fill(b'0');
        header[37] = 0x3e;
        header[39] = self.organization;
        header[41] = self.compression;
        header[48] = self.variable;
        header[54..58].copy_from_slice(&self.record_max.to_be_bytes());
        header[58..62].copy_from_slice(&self.record_min.to_be_bytes());
        header
    }
}

impl MfHeader {
    /// The file header of a new file of records of varying length with such headers.
    pub(crate) fn file_header(self, is_relative: bool, record_size: Option<u64>) -> Vec<u8> {
        let header = FileHeader {
            records: self,
            organization: if is_relative { 3 } else { 1 },
            compression: 0,
            variable: 1,
            record_max: record_size.unwrap_or(0) as u32,
            record_min: 0,
        };
        header.write()
    }
}

/// Codec of slots with a record's header, the longest record's bytes, and a mark each, as they are behind the file header.
///
/// DELETE changes the type and the mark; length and content stay, and are residue. A slot of only zero bytes was never
/// written.
#[derive(Debug)]
pub(crate) struct TypedSlots {
    header: MfHeader,
    marker: Marker,
    size: usize,
}

impl TypedSlots {
    /// `size` is what a slot holds at most, without header and mark; at least 1, and no more than the header can say.
    pub(crate) fn new(header: MfHeader, marker: Marker, size: usize) -> TypedSlots {
        TypedSlots {
            header,
            marker,
            size,
        }
    }
}

impl Slots for TypedSlots {
    fn pitch(&self) -> usize {
        self.header.len() + self.size + self.marker.present().len()
    }

    fn slot<'a>(&self, bytes: &'a [u8]) -> PieceKind<'a> {
        let residue = |reason| PieceKind::Residue { bytes, reason };
        if bytes.len() < self.pitch() {
            return residue("partial slot at the end");
        }
        if all_zero(bytes) {
            return PieceKind::Empty;
        }
        let (content, mark) = bytes[self.header.len()..].split_at(self.size);
        match self.header.read(bytes) {
            Some((MfHeader::USER, len)) if len > self.size => {
                residue("slot length is more than the record size")
            }
            Some((MfHeader::USER, len)) if mark == self.marker.present() => {
                let (data, rest) = content.split_at(len);
                PieceKind::Record { data, rest }
            }
            Some((MfHeader::DELETED, _)) => residue("deleted slot"),
            _ if mark == self.marker.deleted() => residue("deleted slot"),
            Some((MfHeader::USER, _)) => residue("a slot without a mark"),
            _ => residue("a slot of another type"),
        }
    }

    fn encode_slot(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        check_filled(id, data, rest, self.size)?;
        self.header.write(MfHeader::USER, data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(rest);
        out.extend_from_slice(self.marker.present());
        Ok(())
    }
}
