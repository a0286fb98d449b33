//! What rows a file's bytes must become: a decoder of its own, as plain as can be.

use crate::operations::Shape;
use std::collections::BTreeMap;

/// The records of a file's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Content by identity.
    pub rows: BTreeMap<u64, Vec<u8>>,
    /// Where the first byte lies that this decoder has no opinion on (damage in a file without record
    /// marks), as an identity: rows from here on aren't compared.
    pub certain_to: Option<u64>,
}

/// Decodes `bytes` by the rules of `record-formats`: records of only zero bytes are holes; a trailing
/// part of a record, an unterminated last line and the content of an empty slot are no rows.
pub fn decode(shape: Shape, bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let rows = &mut decoded.rows;
    match shape {
        Shape::Fixed { size } => {
            for (number, record) in (1..).zip(bytes.chunks_exact(size)) {
                if record.iter().any(|&byte| byte != 0) {
                    rows.insert(number, record.to_vec());
                }
            }
        }
        Shape::Relative { size } => {
            for (number, slot) in (1..).zip(bytes.chunks_exact(8 + size)) {
                let (length, content) = slot.split_at(8);
                let length = length
                    .iter()
                    .rev()
                    .fold(0_u64, |so_far, &byte| so_far << 8 | u64::from(byte));
                if length > 0 && length <= size as u64 {
                    rows.insert(number, content[..length as usize].to_vec());
                }
            }
        }
        Shape::Variable {
            size,
            varseq_format,
        } => {
            let mut at = 0;
            while at < bytes.len() {
                let Some(length) = prefix(varseq_format, &bytes[at..]) else {
                    break;
                };
                let begin = at + if varseq_format == 3 { 2 } else { 4 };
                if length == 0 || length > size as u64 {
                    decoded.certain_to = Some(at as u64);
                    break;
                }
                let Some(record) = bytes.get(begin..begin + length as usize) else {
                    break;
                };
                rows.insert(at as u64, record.to_vec());
                at = begin + length as usize;
            }
        }
        Shape::Lines => {
            let mut at = 0;
            while let Some(len) = bytes[at..].iter().position(|&byte| byte == b'\n') {
                let line = &bytes[at..at + len];
                rows.insert(at as u64, line.strip_suffix(b"\r").unwrap_or(line).to_vec());
                at += len + 1;
            }
        }
        Shape::Blocks { size } => {
            for (number, block) in (0..).zip(bytes.chunks(size)) {
                if block.len() < size || block.iter().any(|&byte| byte != 0) {
                    rows.insert(number, block.to_vec());
                }
            }
        }
    }
    decoded
}

/// The length that a prefix gives; `None` where the file ends within it. Nonsense (the zero bytes of
/// format 0 aren't zero) is a length that no record has.
fn prefix(varseq_format: u8, bytes: &[u8]) -> Option<u64> {
    let big_endian = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |so_far, &byte| so_far << 8 | u64::from(byte))
    };
    Some(match varseq_format {
        0 => match bytes.get(..4)? {
            [high, low, 0, 0] => big_endian(&[*high, *low]),
            _ => u64::MAX,
        },
        1 => big_endian(bytes.get(..4)?),
        2 => big_endian(&bytes.get(..4)?.iter().rev().copied().collect::<Vec<_>>()),
        _ => big_endian(bytes.get(..2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_examples_decode() {
        let rows = |shape, bytes: &[u8]| decode(shape, bytes).rows.into_iter().collect::<Vec<_>>();
        assert_eq!(
            rows(Shape::Fixed { size: 2 }, b"ab\0\0cde"),
            [(1, b"ab".to_vec()), (3, b"cd".to_vec())]
        );
        let slots = b"\x02\0\0\0\0\0\0\0ab \0\0\0\0\0\0\0\0xyz";
        assert_eq!(
            rows(Shape::Relative { size: 3 }, slots),
            [(1, b"ab".to_vec())]
        );
        for (varseq_format, file) in [b"\0\x01\0\0a", b"\0\0\0\x01a", b"\x01\0\0\0a"]
            .into_iter()
            .enumerate()
        {
            let shape = Shape::Variable {
                size: 9,
                varseq_format: varseq_format as u8,
            };
            assert_eq!(rows(shape, file), [(0, b"a".to_vec())]);
        }
        assert_eq!(
            rows(Shape::Lines, b"a\r\n\nb"),
            [(0, b"a".to_vec()), (3, b"".to_vec())]
        );
        assert_eq!(
            rows(Shape::Blocks { size: 2 }, b"ab\0\0c"),
            [(0, b"ab".to_vec()), (2, b"c".to_vec())]
        );
    }
}
