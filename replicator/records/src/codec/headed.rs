//! What is no record by a file's settings: bytes at its beginning, its first record, records that begin in a certain way.
//!
//! All of it is residue, so it comes back with the file. It is judged by where it lies or by its own bytes alone, never by
//! what is elsewhere: a file may change in any place while it is mirrored. (That is why neither "the first three records"
//! nor "the last record" can be said: after a record was added, or one that is a line became two, others would be those.)

use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within};
use crate::RESIDUE_ALIGN;

/// Codec of a file that has more than the records of another one.
#[derive(Debug)]
pub(crate) struct Headed {
    inner: Box<dyn Codec>,
    /// What a new file begins with; any bytes of this length are the header. Empty: it has none.
    header: Vec<u8>,
    /// The first record is none.
    without_first: bool,
    /// Records that begin with one of these are none.
    skip: Vec<Vec<u8>>,
    /// Identities are numbers of records; the header's is 0. Otherwise they are addresses.
    is_numbered: bool,
}

impl Headed {
    /// The same as `inner`.
    pub(crate) fn new(inner: Box<dyn Codec>, is_numbered: bool) -> Headed {
        Headed {
            inner,
            header: Vec::new(),
            without_first: false,
            skip: Vec::new(),
            is_numbered,
        }
    }

    /// Its records behind a header of this length, of which a new file has this one.
    pub(crate) fn behind(self, header: Vec<u8>) -> Headed {
        Headed { header, ..self }
    }

    /// Without the record that the file begins with.
    pub(crate) fn without_first(self) -> Headed {
        Headed {
            without_first: true,
            ..self
        }
    }

    /// Without records that begin with one of these.
    pub(crate) fn skipping(self, skip: Vec<Vec<u8>>) -> Headed {
        Headed { skip, ..self }
    }

    fn header_len(&self) -> u64 {
        self.header.len() as u64
    }

    /// Where the other codec's offset 0 is. Pieces of one size begin behind the header; others have the file's own addresses.
    fn shift(&self) -> u64 {
        match self.inner.boundaries() {
            Boundaries::Pitch(_) => self.header_len(),
            Boundaries::After(_) | Boundaries::Forward => 0,
        }
    }

    /// Why a header's bytes are no record.
    fn reason(&self, bytes: &[u8]) -> &'static str {
        if bytes.len() < self.header.len() {
            "part of a file header"
        } else if self.header.iter().all(|&byte| byte == 0) || bytes[..4] == self.header[..4] {
            "file header"
        } else {
            "no file header of a file with these settings"
        }
    }

    /// Why a record at this offset of the file is none, if it isn't one.
    fn objection(&self, offset: u64, data: &[u8]) -> Option<&'static str> {
        if self.without_first && offset == 0 {
            Some("header record")
        } else if self.skip.iter().any(|begin| data.starts_with(begin)) {
            Some("a record to skip")
        } else {
            None
        }
    }
}

impl Codec for Headed {
    fn boundaries(&self) -> Boundaries {
        if self.header.is_empty() {
            self.inner.boundaries()
        } else {
            Boundaries::Forward
        }
    }

    fn piece_len_max(&self) -> Option<u64> {
        let inner = self.inner.piece_len_max()?;
        Some(inner.max(self.header_len()))
    }

    fn is_blocked(&self) -> bool {
        self.inner.is_blocked()
    }

    fn reach(&self) -> u64 {
        match self.inner.boundaries() {
            // A line that is too long, or a hole.
            Boundaries::After(_) => {
                let line = self.inner.piece_len_max().unwrap_or(u64::MAX / 2);
                line + 2 * RESIDUE_ALIGN as u64
            }
            Boundaries::Pitch(_) | Boundaries::Forward => self.inner.reach(),
        }
    }

    fn decode_within(
        &self,
        within: Within,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> usize {
        let mut taken = 0;
        if offset < self.header_len() && !bytes.is_empty() {
            let len = bytes.len().min((self.header_len() - offset) as usize);
            if offset + (len as u64) < self.header_len() && !at_end {
                return 0;
            }
            let header = &bytes[..len];
            out(Piece {
                id: 0,
                offset,
                len: len as u64,
                kind: PieceKind::Residue {
                    bytes: header,
                    reason: self.reason(header),
                },
                behind: Within::default(),
            });
            taken = len;
        }
        let (shift, bytes) = (self.shift(), &bytes[taken..]);
        let offset = offset.saturating_add(taken as u64);
        if bytes.is_empty() {
            return taken;
        }
        let inner = offset - shift.min(offset);
        let used = self
            .inner
            .decode_within(within, inner, bytes, at_end, &mut |piece| {
                let at = piece.offset.saturating_sub(inner) as usize;
                let offset = piece.offset.saturating_add(shift);
                let objection = match piece.kind {
                    PieceKind::Record { data, .. } => self.objection(offset, data),
                    _ => None,
                };
                let kind = match (objection, bytes.get(at..at + piece.len as usize)) {
                    (Some(reason), Some(bytes)) => PieceKind::Residue { bytes, reason },
                    _ => piece.kind,
                };
                out(Piece {
                    id: self.id_at(offset),
                    offset,
                    kind,
                    ..piece
                });
            });
        taken + used
    }

    fn lead(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut lead = Vec::new();
        if offset == 0 {
            lead.extend_from_slice(&self.header);
        }
        let behind = offset.saturating_add(lead.len() as u64);
        lead.extend(self.inner.lead(behind - self.shift().min(behind), len));
        lead
    }

    fn entry(&self, offset: u64, before: &[u8]) -> Option<u64> {
        if self.header.is_empty() {
            self.inner.entry(offset, before)
        } else {
            (offset == 0).then_some(0)
        }
    }

    fn id_at(&self, offset: u64) -> u64 {
        match offset.checked_sub(self.header_len()) {
            None => 0,
            Some(_) if !self.is_numbered => offset,
            Some(behind) if self.shift() > 0 => self.inner.id_at(behind),
            Some(_) => self.inner.id_at(offset),
        }
    }

    fn offset_of(&self, id: u64) -> u64 {
        if !self.is_numbered {
            id
        } else if id == 0 {
            0
        } else {
            self.inner.offset_of(id).saturating_add(self.shift())
        }
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let offset = self.offset_of(id);
        let refuse = |reason: &str| Err(EncodeError::new(id, reason));
        if offset < self.header_len() {
            return refuse("the file's header is there, and no record");
        }
        match self.objection(offset, data) {
            None => {}
            Some("header record") => {
                return refuse(
                    "what the file begins with is its header, and no record (header=record in the layout)",
                );
            }
            Some(_) => {
                return refuse("it begins as the records do that are none (skip= in the layout)");
            }
        }
        let inner = if self.is_numbered {
            id
        } else {
            offset - self.shift()
        };
        self.inner.encode(inner, data, rest, out)
    }
}
