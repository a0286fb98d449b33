//! What was there before: a file's bytes as its last events had them, where they were changed since.
//!
//! Kept only for groups that ask for `before`. The image is changed with every operation, events are made when a unit of
//! work ends, so between the two the bytes that were changed are kept here, the oldest for each place. Not everything is
//! known: operations that are repeated after a crash may find what they made.

use crate::event::RecordImage;
use counterfoil_records::{Boundaries, Codec, PieceKind, Within};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Bytes kept of one file; above that, what was there counts as not known.
const BYTES_MAX: usize = 64 << 20;
/// The largest range looked through for records that were in it.
const RANGE_MAX: u64 = 64 << 20;
/// Bytes behind a range that decide what its last piece is.
const LOOK_AHEAD: u64 = 64;

/// Bytes as they were, by the offset of their first.
#[derive(Debug, Default)]
pub(super) struct Former {
    changed: BTreeMap<u64, Changed>,
    bytes: usize,
}

#[derive(Debug)]
struct Changed {
    end: u64,
    was: Was,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Was {
    /// These bytes.
    There(Vec<u8>),
    /// Nothing: the file ended before, or was cut off there since.
    Missing,
    /// Not known.
    Unknown,
}

impl Was {
    fn len(&self) -> usize {
        match self {
            Was::There(bytes) => bytes.len(),
            Was::Missing | Was::Unknown => 0,
        }
    }

    fn part(&self, range: Range<u64>) -> Was {
        match self {
            Was::There(bytes) => {
                Was::There(bytes[range.start as usize..range.end as usize].to_vec())
            }
            other => other.clone(),
        }
    }
}

impl Former {
    /// A range is about to be changed; `content` is the whole file's. What was there `is_known`, or isn't.
    pub(super) fn note(&mut self, content: &[u8], range: &Range<u64>, is_known: bool) {
        let size = content.len() as u64;
        // A write behind the end fills what lies between.
        let range = range.start.min(size)..range.end;
        let mut at = self.covered_until(range.start);
        while at < range.end {
            let next = self.changed.range(at..).next().map(|(&start, _)| start);
            let end = next.map_or(range.end, |next| next.min(range.end));
            let there = end.min(size).max(at);
            if at < there {
                let bytes = &content[at as usize..there as usize];
                let fits = self.bytes + bytes.len() <= BYTES_MAX;
                let was = if is_known && fits {
                    Was::There(bytes.to_vec())
                } else {
                    Was::Unknown
                };
                self.insert(at, there, was);
            }
            if there < end {
                let was = if is_known { Was::Missing } else { Was::Unknown };
                self.insert(there, end, was);
            }
            at = self.covered_until(end);
        }
    }

    /// Everything from `from` on is cut off, of a file of this size.
    pub(super) fn cut(&mut self, from: u64, size: u64) {
        self.told(from..u64::MAX);
        if from < size {
            self.insert(from, size, Was::Missing);
        }
    }

    /// Events have said what is in a range now.
    pub(super) fn told(&mut self, range: Range<u64>) {
        let first = self.changed.range(..range.start).next_back();
        let first = first.map_or(range.start, |(&start, _)| start);
        let touched: Vec<u64> = self
            .changed
            .range(first..range.end)
            .filter(|(_, changed)| changed.end > range.start)
            .map(|(&start, _)| start)
            .collect();
        for start in touched {
            let Some(changed) = self.changed.remove(&start) else {
                continue;
            };
            self.bytes -= changed.was.len();
            let part = |from: u64, to: u64| changed.was.part(from - start..to - start);
            if start < range.start {
                self.insert(start, range.start, part(start, range.start));
            }
            if changed.end > range.end {
                self.insert(range.end, changed.end, part(range.end, changed.end));
            }
        }
    }

    /// Events have said what is before `end`, within something that was changed: where records began behind it isn't
    /// known any more, unless they have a fixed pitch.
    pub(super) fn split(&mut self, end: u64) {
        let mut at = end;
        while let Some(changed) = self.changed.get_mut(&at) {
            self.bytes -= changed.was.len();
            changed.was = Was::Unknown;
            at = changed.end;
        }
    }

    /// The records that were in a range, which begins at a boundary with what goes with it, by identity.
    pub(super) fn records(
        &self,
        codec: &dyn Codec,
        content: &[u8],
        within: Within,
        range: Range<u64>,
    ) -> HashMap<u64, RecordImage> {
        let mut records = HashMap::new();
        let end = range
            .end
            .saturating_add(LOOK_AHEAD)
            .min(content.len() as u64);
        if end.saturating_sub(range.start) > RANGE_MAX {
            return records;
        }
        let mut at = range.start;
        while at < end.min(range.end) {
            let (run, is_end) = self.run(content, at, end);
            let next = at + run.len() as u64;
            let begin = match codec.boundaries() {
                Boundaries::Pitch(pitch) => at.next_multiple_of(pitch.max(1)),
                // Boundaries behind what is missing aren't known.
                _ if at > range.start => return records,
                _ => at,
            };
            if let Some(bytes) = run.get((begin - at) as usize..) {
                codec.decode_within(within, begin, bytes, is_end, &mut |piece| {
                    if piece.offset < range.end
                        && let PieceKind::Record { data, rest } = piece.kind
                    {
                        let image = RecordImage {
                            data: data.to_vec(),
                            rest: rest.to_vec(),
                        };
                        records.insert(piece.id, image);
                    }
                });
            }
            // What follows is a place where nothing was known, or the end.
            at = self.no_bytes_until(next);
        }
        records
    }

    /// What was there from `at` on, up to `end` or to where that isn't known or nothing was; and whether the file ended there.
    fn run(&self, content: &[u8], at: u64, end: u64) -> (Vec<u8>, bool) {
        let mut run = Vec::new();
        let mut next = at;
        while next < end {
            let before = self.changed.range(..=next).next_back();
            match before.filter(|(_, changed)| changed.end > next) {
                Some((start, changed)) => match &changed.was {
                    Was::There(bytes) => {
                        let to = changed.end.min(end);
                        run.extend_from_slice(
                            &bytes[(next - start) as usize..(to - start) as usize],
                        );
                        next = to;
                    }
                    was => return (run, *was == Was::Missing),
                },
                None => {
                    let following = self.changed.range(next..end).next();
                    let to = following.map_or(end, |(&start, _)| start);
                    run.extend_from_slice(&content[next as usize..to as usize]);
                    next = to;
                }
            }
        }
        let behind = self.changed.get(&end).map(|changed| &changed.was);
        (
            run,
            end == content.len() as u64 || behind == Some(&Was::Missing),
        )
    }

    fn no_bytes_until(&self, at: u64) -> u64 {
        let mut at = at;
        while let Some((_, changed)) = self.changed.range(..=at).next_back()
            && changed.end > at
            && !matches!(changed.was, Was::There(_))
        {
            at = changed.end;
        }
        at
    }

    /// The first offset from `at` on that wasn't changed.
    fn covered_until(&self, at: u64) -> u64 {
        let mut at = at;
        while let Some((_, changed)) = self.changed.range(..=at).next_back()
            && changed.end > at
        {
            at = changed.end;
        }
        at
    }

    fn insert(&mut self, start: u64, end: u64, was: Was) {
        self.bytes += was.len();
        // What grows at its end is one place.
        if was.len() == 0
            && let Some((_, before)) = self.changed.range_mut(..start).next_back()
            && before.end == start
            && before.was == was
        {
            before.end = end;
            return;
        }
        self.changed.insert(start, Changed { end, was });
    }
}
