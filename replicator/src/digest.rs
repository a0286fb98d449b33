//! What a range of a file's pieces amounts to, for comparing a file with a target without sending it again.
//!
//! The algorithm is called `xxh3-128/pieces`: XXH3 with 128 bits over what follows, for each record and each residue whose
//! identity is in the range, in order of identity (all numbers little-endian):
//!
//! | bytes | field |
//! |---|---|
//! | 8 | the identity |
//! | 1 | 1 for a record, 2 for residue |
//! | 8 | length of its content |
//! | 8 | length of what else belongs to it (`Image.rest`); 0 for residue |
//! | 16 | XXH3, 128 bits, of its content |
//! | n | what else belongs to it |
//!
//! Places without content have no part in it. Whoever holds the records can make the same digest: the sides need neither the
//! same layout on disk nor the same page size.

use crate::capture::check::checksum;
use counterfoil_sinks::Image;
use twox_hash::XxHash3_128;

/// The name of the algorithm, as events give it.
pub const ALGORITHM: &str = "xxh3-128/pieces";

/// What a range of pieces amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The sum.
    pub sum: u128,
    /// Records in the range.
    pub records: u64,
    /// Pieces of residue in it.
    pub residues: u64,
}

/// A digest in the making; pieces are added in order of identity.
#[derive(Default)]
pub struct Digester {
    hash: XxHash3_128,
    records: u64,
    residues: u64,
}

impl Digester {
    /// Adds a record.
    pub fn record(&mut self, id: u64, data: &[u8], rest: &[u8]) {
        self.records += 1;
        self.add(id, 1, data, rest);
    }

    /// Adds residue.
    pub fn residue(&mut self, id: u64, bytes: &[u8]) {
        self.residues += 1;
        self.add(id, 2, bytes, &[]);
    }

    /// Adds what a target has.
    pub fn image(&mut self, id: u64, image: &Image) {
        match image {
            Image::Record { data, rest } => self.record(id, data, rest),
            Image::Residue { bytes, .. } => self.residue(id, bytes),
            Image::Absent => {}
        }
    }

    fn add(&mut self, id: u64, kind: u8, content: &[u8], rest: &[u8]) {
        let mut head = [0; 41];
        head[..8].copy_from_slice(&id.to_le_bytes());
        head[8] = kind;
        head[9..17].copy_from_slice(&(content.len() as u64).to_le_bytes());
        head[17..25].copy_from_slice(&(rest.len() as u64).to_le_bytes());
        head[25..].copy_from_slice(&checksum(content).to_le_bytes());
        self.hash.write(&head);
        self.hash.write(rest);
    }

    /// What all of it amounts to.
    pub fn finish(self) -> Digest {
        Digest {
            sum: self.hash.finish_128(),
            records: self.records,
            residues: self.residues,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[(u64, Image)]) -> Digest {
        let mut digester = Digester::default();
        for (id, image) in pieces {
            digester.image(*id, image);
        }
        digester.finish()
    }

    fn record(data: &[u8], rest: &[u8]) -> Image {
        Image::Record {
            data: data.to_vec(),
            rest: rest.to_vec(),
        }
    }

    fn residue(bytes: &[u8]) -> Image {
        Image::Residue {
            bytes: bytes.to_vec(),
            reason: "why".to_owned(),
        }
    }

    /// Consumers make the same sum, so it never changes under its name.
    #[test]
    fn its_value_is_fixed() {
        let digest = of(&[(1, record(b"ada", b"\r")), (7, residue(b"\0\0"))]);
        assert_eq!((digest.records, digest.residues), (1, 1));
        let mut bytes = Vec::new();
        for (id, kind, content, rest) in [
            (1u64, 1, &b"ada"[..], &b"\r"[..]),
            (7, 2, &b"\0\0"[..], &[]),
        ] {
            bytes.extend(id.to_le_bytes());
            bytes.push(kind);
            bytes.extend((content.len() as u64).to_le_bytes());
            bytes.extend((rest.len() as u64).to_le_bytes());
            bytes.extend(XxHash3_128::oneshot(content).to_le_bytes());
            bytes.extend(rest);
        }
        assert_eq!(digest.sum, XxHash3_128::oneshot(&bytes));
    }

    #[test]
    fn whatever_differs_makes_another() {
        let first = of(&[(1, record(b"ab", b"c")), (2, record(b"", b""))]);
        for other in [
            &[(1, record(b"a", b"bc")), (2, record(b"", b""))][..],
            &[(1, record(b"ab", b"c"))],
            &[(1, record(b"ab", b"c")), (3, record(b"", b""))],
            &[(1, record(b"ab", b"c")), (2, residue(b""))],
            &[(1, record(b"aB", b"c")), (2, record(b"", b""))],
        ] {
            assert_ne!(of(other), first, "{other:?}");
        }
        // What is nowhere is in no digest.
        assert_eq!(
            of(&[(1, Image::Absent)]),
            of(&[]),
            "an empty place has no part in it"
        );
    }
}
