//! IBM's blocked and spanned records: blocks with a block descriptor word (BDW), in them records with a record descriptor
//! word (RDW), or segments of records with a segment descriptor word (SDW).
//!
//! A record's identity is the address of the first of its bytes: of its first word, or of the BDW of its block if it is the
//! first there. Where the words aren't those of a record that is alone in its block, which is how a record is written
//! that says nothing of them, they are kept beside the record, in the order in which they lie in the file: an even number
//! if the first one is a BDW, an odd one otherwise. That goes for the words in the middle of a spanned record too.
//!
//! Nothing tells a BDW from an RDW but that one was due, so how much of its block is left goes with a boundary.

use super::words::Part;
use super::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within, malformed};
use crate::bytes::all_zero;
use crate::{DescriptorWord, RESIDUE_ALIGN};

const WORD: usize = DescriptorWord::LEN;

/// The longest block, without its word: larger ones are no blocks. The largest that z/OS writes to any device has 256 KiB.
const BLOCK_MAX: usize = 1 << 20;

/// Codec of blocks, and of spanned records with and without them.
#[derive(Debug)]
pub(crate) struct Blocked {
    /// The word before a block; `None`: there are no blocks, only segments.
    bdw: Option<DescriptorWord>,
    /// The word before a record or segment.
    rdw: DescriptorWord,
    is_spanned: bool,
    /// Longest record, without words, that is taken for one.
    len_max: usize,
}

/// What stands at a boundary.
struct Found {
    len: usize,
    /// What is left of the block at its end.
    left: usize,
    what: What,
}

enum What {
    /// A record of one segment; its content begins here.
    Record(usize),
    /// The words before it go without saying.
    PlainRecord(usize),
    /// A record of several segments, which are in `Spanned`.
    Spanned,
    Residue(&'static str),
    Empty,
}

/// A spanned record put together.
#[derive(Default)]
struct Spanned {
    data: Vec<u8>,
    words: Vec<u8>,
}

/// The word at a place, if it is there.
fn word(bytes: &[u8], at: usize) -> Option<&[u8; WORD]> {
    bytes.get(at..)?.first_chunk()
}

impl Blocked {
    /// Blocks of whole records of at most `len_max` bytes, which `rdw` can say.
    pub(crate) fn of_records(bdw: DescriptorWord, rdw: DescriptorWord, len_max: usize) -> Blocked {
        Blocked {
            bdw: Some(bdw),
            rdw,
            is_spanned: false,
            len_max,
        }
    }

    /// Records of at most `len_max` bytes in segments, with or without blocks.
    pub(crate) fn of_segments(bdw: Option<DescriptorWord>, len_max: usize) -> Blocked {
        Blocked {
            bdw,
            rdw: DescriptorWord::NATIVE,
            is_spanned: true,
            len_max,
        }
    }

    /// How many bytes a spanned record may take with its words: segments may be as short as nothing, but not all of them.
    fn span_max(&self) -> usize {
        2 * self.len_max + 4 * RESIDUE_ALIGN
    }

    /// The words of a record that is alone in its block.
    fn plain_words(&self, len: usize) -> Vec<u8> {
        let bdw = self.bdw.map(|bdw| bdw.of_block(WORD + len));
        [
            bdw.as_ref().map_or(&[][..], |word| word),
            &self.rdw.of_record(len),
        ]
        .concat()
    }

    fn read_segment(&self, word: &[u8; WORD]) -> Option<(usize, Part)> {
        if self.is_spanned {
            self.rdw.read_segment(word)
        } else {
            Some((self.rdw.read_record(word)?, Part::Whole))
        }
    }

    /// The size of the block that a word begins, if it may be one.
    fn read_block(&self, word: &[u8; WORD]) -> Option<usize> {
        let size = self.bdw?.read_block(word)?;
        (size <= BLOCK_MAX).then_some(size)
    }

    /// The piece at the begin of `bytes`, which aren't empty, with `left` bytes of the block; `None` if that takes more of them.
    fn find(
        &self,
        offset: u64,
        bytes: &[u8],
        left: usize,
        at_end: bool,
        spanned: &mut Spanned,
    ) -> Option<Found> {
        let residue = |len: usize, left, reason| {
            Some(Found {
                len,
                left,
                what: What::Residue(reason),
            })
        };
        // What the end of the file cuts off.
        let cut = |reason| {
            let found = residue(bytes.len(), left.saturating_sub(bytes.len()), reason);
            found.filter(|_| at_end)
        };
        let bad = |reason| {
            malformed(offset, bytes, at_end, reason).map(|found| Found {
                len: found.len,
                left: 0,
                what: match found.kind {
                    PieceKind::Empty => What::Empty,
                    _ => What::Residue(reason),
                },
            })
        };
        // Where the record's word is, and what is left of the block there.
        let (begin, room) = match (self.bdw, left) {
            (None, _) => (0, usize::MAX),
            (Some(_), 1..) => (0, left),
            (Some(_), 0) => {
                let Some(word) = word(bytes, 0) else {
                    return cut("partial block descriptor word at the end");
                };
                match self.read_block(word) {
                    None => return bad("bad block descriptor word"),
                    Some(0) if *word == [0; WORD] => return bad("bad block descriptor word"),
                    Some(0) => return residue(WORD, 0, "a block without records"),
                    Some(size) => (WORD, size),
                }
            }
        };
        let end_of_block = begin.saturating_add(room);
        let rest_of_block = |reason| {
            if self.bdw.is_none() {
                return bad(reason);
            }
            if bytes.len() < end_of_block {
                return cut(reason);
            }
            let what = if all_zero(&bytes[..end_of_block]) {
                What::Empty
            } else {
                What::Residue(reason)
            };
            Some(Found {
                len: end_of_block,
                left: 0,
                what,
            })
        };
        if room < WORD {
            return rest_of_block("bytes behind the last record of a block");
        }
        let Some(first) = word(bytes, begin) else {
            return cut("partial record descriptor word at the end");
        };
        let content = begin + WORD;
        let (len, part) = match self.read_segment(first) {
            Some((len, part)) if len <= self.len_max && len <= room - WORD => (len, part),
            _ => return rest_of_block("bad record descriptor word"),
        };
        let end = content + len;
        let left = if self.bdw.is_some() {
            end_of_block - end
        } else {
            0
        };
        if bytes.len() < end {
            return cut("partial record at the end");
        }
        match part {
            Part::Whole => {
                let goes_without_saying = match self.bdw {
                    None => true,
                    Some(bdw) => {
                        begin > 0 && left == 0 && bytes[..WORD] == bdw.of_block(WORD + len)
                    }
                };
                Some(Found {
                    len: end,
                    left,
                    what: if goes_without_saying {
                        What::PlainRecord(content)
                    } else {
                        What::Record(content)
                    },
                })
            }
            Part::Middle | Part::Last => {
                residue(end, left, "a segment without the beginning of its record")
            }
            // It ends its block, or it goes on nowhere.
            Part::First if left > 0 => {
                residue(end, left, "a segment without the end of its record")
            }
            Part::First => match self.follow(bytes, (begin, content, end), spanned) {
                Following::Whole { end, left } => Some(Found {
                    len: end,
                    left,
                    what: What::Spanned,
                }),
                Following::Broken => residue(end, 0, "a segment without the end of its record"),
                Following::Cut => cut("partial record at the end"),
            },
        }
    }

    /// Puts together the record whose first segment has its words up to `content`, from `begin` on its own, and ends at `end`.
    fn follow(
        &self,
        bytes: &[u8],
        (begin, content, end): (usize, usize, usize),
        spanned: &mut Spanned,
    ) -> Following {
        spanned.data.clear();
        spanned.words.clear();
        spanned.words.extend_from_slice(&bytes[..begin + WORD]);
        spanned.data.extend_from_slice(&bytes[content..end]);
        let mut at = end;
        loop {
            let mut room = usize::MAX;
            let begin = at;
            if self.bdw.is_some() {
                let Some(word) = word(bytes, at) else {
                    return Following::Cut;
                };
                match self.read_block(word) {
                    Some(size) if size >= WORD => room = size,
                    _ => return Following::Broken,
                }
                at += WORD;
            }
            let Some(word) = word(bytes, at) else {
                return Following::Cut;
            };
            at += WORD;
            let (len, part) = match self.rdw.read_segment(word) {
                Some((len, part @ (Part::Middle | Part::Last))) if len <= room - WORD => {
                    (len, part)
                }
                _ => return Following::Broken,
            };
            let left = if self.bdw.is_some() {
                room - WORD - len
            } else {
                0
            };
            let is_last = part == Part::Last;
            if !is_last && left > 0
                || spanned.data.len() + len > self.len_max
                || at + len > self.span_max()
            {
                return Following::Broken;
            }
            let Some(segment) = bytes.get(at..at + len) else {
                return Following::Cut;
            };
            spanned.words.extend_from_slice(&bytes[begin..at]);
            spanned.data.extend_from_slice(segment);
            at += len;
            if is_last {
                return Following::Whole { end: at, left };
            }
        }
    }

    /// Appends a record by its words; the error says what is wrong with them.
    fn encode_words(&self, data: &[u8], rest: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let (words, odd) = rest.as_chunks::<WORD>();
        if !odd.is_empty() {
            return Err("what is beside it isn't of descriptor words of 4 bytes".to_owned());
        }
        let mut left = data;
        let mut begins_block = self.bdw.is_some() && words.len().is_multiple_of(2);
        let mut words = words.iter();
        let (mut is_first, mut goes_on) = (true, true);
        while goes_on {
            let missing = || "a descriptor word is missing beside it".to_owned();
            let mut room = usize::MAX;
            if begins_block {
                let word = words.next().ok_or_else(missing)?;
                room = self
                    .read_block(word)
                    .filter(|&room| room >= WORD)
                    .ok_or("a word beside it is no block descriptor word")?;
                out.extend_from_slice(word);
            }
            let word = words.next().ok_or_else(missing)?;
            let (len, part) = self
                .read_segment(word)
                .ok_or("a word beside it is no record descriptor word")?;
            goes_on = matches!(part, Part::First | Part::Middle);
            let fits_place = is_first == matches!(part, Part::Whole | Part::First);
            // Of the block of a first segment in its middle nothing is known here.
            let fits_block = len <= room.saturating_sub(WORD)
                && (!goes_on || !begins_block || len == room - WORD);
            if !fits_place || !fits_block || len > left.len() {
                return Err("the descriptor words beside it don't fit it".to_owned());
            }
            let (segment, behind) = left.split_at(len);
            out.extend_from_slice(word);
            out.extend_from_slice(segment);
            left = behind;
            is_first = false;
            begins_block = self.bdw.is_some();
        }
        if !left.is_empty() || words.next().is_some() {
            return Err("the descriptor words beside it aren't those of its length".to_owned());
        }
        Ok(())
    }
}

/// What comes after the first segment of a record.
enum Following {
    /// The others, up to here; so much is left of the last one's block.
    Whole { end: usize, left: usize },
    /// Something else.
    Broken,
    /// The end of what there is.
    Cut,
}

impl Codec for Blocked {
    fn boundaries(&self) -> Boundaries {
        Boundaries::Forward
    }

    fn piece_len_max(&self) -> Option<u64> {
        let block = WORD + BLOCK_MAX;
        Some(if self.is_spanned {
            (self.span_max() + 2 * WORD).max(block) as u64
        } else {
            block.max(RESIDUE_ALIGN) as u64
        })
    }

    fn is_blocked(&self) -> bool {
        self.bdw.is_some()
    }

    fn reach(&self) -> u64 {
        if self.is_spanned {
            (self.span_max() + 2 * WORD) as u64
        } else {
            RESIDUE_ALIGN as u64
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
        let mut left = usize::try_from(within.0)
            .unwrap_or(usize::MAX)
            .min(BLOCK_MAX);
        let mut spanned = Spanned::default();
        let mut at = 0;
        while at < bytes.len() {
            let offset = offset.saturating_add(at as u64);
            let behind = &bytes[at..];
            let Some(found) = self.find(offset, behind, left, at_end, &mut spanned) else {
                break;
            };
            let piece = &behind[..found.len];
            let kind = match found.what {
                What::PlainRecord(content) => PieceKind::Record {
                    data: &piece[content..],
                    rest: &[],
                },
                What::Record(content) => PieceKind::Record {
                    data: &piece[content..],
                    rest: &piece[..content],
                },
                What::Spanned => PieceKind::Record {
                    data: &spanned.data,
                    rest: &spanned.words,
                },
                What::Residue(reason) => PieceKind::Residue {
                    bytes: piece,
                    reason,
                },
                What::Empty => PieceKind::Empty,
            };
            left = found.left;
            out(Piece {
                id: offset,
                offset,
                len: found.len as u64,
                kind,
                behind: Within(left as u64),
            });
            at += found.len;
        }
        at
    }

    fn id_at(&self, offset: u64) -> u64 {
        offset
    }

    fn offset_of(&self, id: u64) -> u64 {
        id
    }

    fn encode(
        &self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if data.len() > self.len_max {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, the longest record {}",
                    data.len(),
                    self.len_max
                ),
            ));
        }
        if !rest.is_empty() {
            let begin = out.len();
            let mut encoded = self.encode_words(data, rest, out);
            if encoded.is_ok() && out.len() - begin > self.span_max() {
                encoded = Err("its segments are too many".to_owned());
            }
            if encoded.is_ok() && rest == self.plain_words(data.len()) {
                encoded =
                    Err("the descriptor words beside it go without saying: give none".to_owned());
            }
            if encoded.is_err() {
                out.truncate(begin);
            }
            return encoded.map_err(|reason| EncodeError::new(id, reason));
        }
        if data.len() > self.rdw.record_max() {
            return Err(EncodeError::new(
                id,
                format!(
                    "it has {} bytes, a segment at most {}: give the descriptor words of its segments beside it",
                    data.len(),
                    self.rdw.record_max()
                ),
            ));
        }
        out.extend_from_slice(&self.plain_words(data.len()));
        out.extend_from_slice(data);
        Ok(())
    }
}
