//! IBM's descriptor words: the 4 bytes before a record, a segment of one, or a block.

use crate::DescriptorWord;

/// Which part of a record a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Last,
    Middle,
}

impl DescriptorWord {
    /// Bytes of a word.
    pub(crate) const LEN: usize = 4;

    /// The longest that a block's word can say without the bit that makes it one of 31 bits.
    const SHORT_BLOCK_MAX: usize = 0x7fff;

    /// What the word itself adds to a length.
    fn itself(self) -> usize {
        if self.is_exclusive { 0 } else { Self::LEN }
    }

    /// The two bytes of the length, and the other two.
    fn halves(self, word: &[u8; 4]) -> (usize, [u8; 2]) {
        let &[a, b, c, d] = word;
        if self.is_little {
            (usize::from(u16::from_le_bytes([c, d])), [a, b])
        } else {
            (usize::from(u16::from_be_bytes([a, b])), [c, d])
        }
    }

    /// The inverse of [`DescriptorWord::halves`].
    fn joined(self, len: usize, [a, b]: [u8; 2]) -> [u8; 4] {
        let len = len as u16;
        if self.is_little {
            let [low, high] = len.to_le_bytes();
            [a, b, low, high]
        } else {
            let [high, low] = len.to_be_bytes();
            [high, low, a, b]
        }
    }

    /// The longest record that it can say.
    pub(crate) fn record_max(self) -> usize {
        usize::from(u16::MAX) - self.itself()
    }

    /// How many bytes of a record follow the word, if it is one.
    pub(crate) fn read_record(self, word: &[u8; 4]) -> Option<usize> {
        match self.halves(word) {
            (len, [0, 0]) => len.checked_sub(self.itself()),
            _ => None,
        }
    }

    /// The word of a record of at most [`DescriptorWord::record_max`] bytes.
    pub(crate) fn of_record(self, len: usize) -> [u8; 4] {
        self.joined(len + self.itself(), [0, 0])
    }

    /// How many bytes of a segment follow the word, if it is one, and which part of a record they are.
    pub(super) fn read_segment(self, word: &[u8; 4]) -> Option<(usize, Part)> {
        let (len, rest) = self.halves(word);
        let part = match rest {
            [0, 0] => Part::Whole,
            [1, 0] => Part::First,
            [2, 0] => Part::Last,
            [3, 0] => Part::Middle,
            _ => return None,
        };
        Some((len.checked_sub(self.itself())?, part))
    }

    /// How many bytes of a block follow the word, if it is one: of 15 bits, or of 31 with the first bit set.
    pub(crate) fn read_block(self, word: &[u8; 4]) -> Option<usize> {
        let long = if self.is_little {
            u32::from_le_bytes(*word)
        } else {
            u32::from_be_bytes(*word)
        };
        let len = if long >> 31 == 1 {
            usize::try_from(long & 0x7fff_ffff).ok()?
        } else {
            match self.halves(word) {
                (len, [0, 0]) => len,
                _ => return None,
            }
        };
        len.checked_sub(self.itself())
    }

    /// The word of a block of so many bytes, less than 2 GiB.
    pub(super) fn of_block(self, len: usize) -> [u8; 4] {
        let len = len + self.itself();
        if len <= Self::SHORT_BLOCK_MAX {
            return self.joined(len, [0, 0]);
        }
        let long = len as u32 | 1 << 31;
        if self.is_little {
            long.to_le_bytes()
        } else {
            long.to_be_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for word in DescriptorWord::ALL {
            for len in [0, 1, 255, 256, 30_000, 32_763, 32_764, 40_000, 65_531] {
                assert_eq!(word.read_record(&word.of_record(len)), Some(len));
                assert_eq!(
                    word.read_segment(&word.of_record(len)),
                    Some((len, Part::Whole))
                );
                assert_eq!(word.read_block(&word.of_block(len)), Some(len));
            }
            assert_eq!(word.read_block(&word.of_block(1 << 20)), Some(1 << 20));
        }
    }

    #[test]
    fn words_are_as_documented() {
        let [big, big_exclusive, little, little_exclusive] = DescriptorWord::ALL;
        assert_eq!(big.of_record(3), [0, 7, 0, 0]);
        assert_eq!(big_exclusive.of_record(3), [0, 3, 0, 0]);
        assert_eq!(little.of_record(3), [0, 0, 7, 0]);
        assert_eq!(little_exclusive.of_record(3), [0, 0, 3, 0]);
        assert_eq!(big.of_block(32_763), [0x7f, 0xff, 0, 0]);
        assert_eq!(big.of_block(32_764), [0x80, 0, 0x80, 0]);
        assert_eq!(big.read_segment(&[0, 5, 1, 0]), Some((1, Part::First)));
        assert_eq!(big.read_segment(&[0, 5, 4, 0]), None);
        assert_eq!(big.read_record(&[0, 3, 0, 0]), None);
    }
}
