//! Records of one length: the length at which bytes in the same place of a record are alike.
//!
//! For each length that is tried, an adaptive model per column (place in the record) is asked how
//! many bits the bytes take. A column of digits or spaces takes few. Each column has to be learnt
//! from its first byte on, so a multiple of the true length, with twice the columns and half the
//! bytes in each, takes more bits: the smallest length that explains the bytes wins by itself.

use super::{Confidence, Guess, Sample};
use crate::{Layout, Organization, RecordFormat};
use std::collections::BTreeSet;

/// Lengths that are tried. Shorter periods are those of numbers or of UTF-16, not of records.
const SIZE_MIN: usize = 4;
const SIZE_MAX: usize = 32_768;

/// How much is looked at: this, or this many records if that is more.
const BYTES: usize = 32 << 10;
const RECORDS: usize = 32;

/// Distances and bytes that are compared where no divisor of the file's length explains the bytes.
const LAG_MAX: usize = 2048;
const LAG_BYTES: usize = 8 << 10;
/// How many of the best distances are tried as lengths.
const LAGS: usize = 16;

/// The share of bits that a record length must save to be worth naming.
const SAVING_MIN: f64 = 0.08;
/// The same if it leaves a partial record at the end.
const SAVING_MIN_PARTIAL: f64 = 0.25;
/// A share that leaves no doubt, given enough records.
const SAVING_CLEAR: f64 = 0.3;

/// Bits that adaptive models take, from tables of logarithms and of their sums.
///
/// A column that has seen `n` bytes, `c` of them of a value, expects this value with the share
/// `(c + w) / (n + NEW)`, where `w` is the value's share in all columns times [`Model::NEW`].
struct Model {
    /// `of_first[v]`: what seeing value `v` for the first time in a column saves.
    of_first: Vec<f64>,
    /// `of_count[c]`: what seeing one value `c` times saves beyond the first time.
    of_count: Vec<f64>,
    /// `of_total[n]`: what `n` bytes of one column cost before that.
    of_total: Vec<f64>,
}

impl Model {
    /// Weight of the values that a column hasn't seen yet.
    const NEW: f64 = 2.0;

    /// For columns of the bytes of `head`, of at most [`BYTES`] bytes each.
    fn new(head: &[u8]) -> Model {
        let mut counts = [1.0; 256];
        for &value in head {
            counts[usize::from(value)] += 1.0;
        }
        let of_first = counts
            .iter()
            .map(|count| (count / (head.len() + 256) as f64 * Model::NEW).log2())
            .collect();
        // A value's own weight hardly matters from the second time on: take the mean one.
        let sums = |skip: usize, weight: f64| {
            let mut sum = 0.0;
            let mut sums = vec![0.0; skip + 1];
            sums.extend((skip..head.len().min(BYTES)).map(|n| {
                sum += (n as f64 + weight).log2();
                sum
            }));
            sums
        };
        Model {
            of_first,
            of_count: sums(1, Model::NEW / 256.0),
            of_total: sums(0, Model::NEW),
        }
    }

    /// Bits per byte of `bytes` as records of `size` bytes.
    fn bits(&self, bytes: &[u8], size: usize) -> f64 {
        let rows = bytes.len() / size;
        let bytes = &bytes[..rows * size];
        let mut bits = 0.0;
        let mut counts = [0u32; 256];
        for column in 0..size {
            let values = || bytes[column..].iter().step_by(size);
            for &value in values() {
                counts[usize::from(value)] += 1;
            }
            bits += self.of_total[rows];
            for &value in values() {
                let count = std::mem::take(&mut counts[usize::from(value)]);
                if count > 0 {
                    bits -= self.of_first[usize::from(value)] + self.of_count[count as usize];
                }
            }
        }
        bits / bytes.len() as f64
    }
}

/// The part of the head that is looked at for records of `size` bytes.
fn part(head: &[u8], size: usize) -> &[u8] {
    &head[..head.len().min(BYTES.max(size * RECORDS))]
}

/// The length that takes the fewest bits, with those bits.
fn best(model: &Model, head: &[u8], sizes: impl Iterator<Item = usize>) -> Option<(usize, f64)> {
    sizes
        .map(|size| (size, model.bits(part(head, size), size)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Distances at which bytes are most often the same.
fn lags(head: &[u8]) -> BTreeSet<usize> {
    let last = LAG_MAX.min(head.len() / 3);
    let mut scored: Vec<(usize, usize)> = (SIZE_MIN..=last)
        .map(|lag| {
            let same = head
                .iter()
                .take(LAG_BYTES)
                .zip(&head[lag..])
                .filter(|(a, b)| a == b)
                .count();
            // Far distances have fewer pairs: compare shares.
            (same * 10_000 / LAG_BYTES.min(head.len() - lag), lag)
        })
        .collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.into_iter().take(LAGS).map(|(_, lag)| lag).collect()
}

/// Whether most bytes are letters, digits, spaces and points of EBCDIC.
fn is_ebcdic(head: &[u8]) -> bool {
    let part = part(head, 1);
    let ebcdic = part.iter().filter(|byte| {
        matches!(byte, 0x40 | 0x4b | 0x60 | 0x61 | 0x6b | 0x81..=0x89 | 0x91..=0x99 | 0xa2..=0xa9 | 0xc0..=0xc9 | 0xd0..=0xd9 | 0xe2..=0xe9 | 0xf0..=0xf9)
    });
    ebcdic.count() * 4 >= part.len() * 3
}

/// A guess if the bytes have a period.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    let head = sample.head;
    let model = Model::new(part(head, SIZE_MAX));
    let plain = model.bits(part(head, 1), 1);
    let saving = |bits: f64| if plain > 0.0 { 1.0 - bits / plain } else { 0.0 };

    let last = SIZE_MAX.min(head.len() / 2);
    let divisors = (SIZE_MIN..=last).filter(|&size| sample.len.is_multiple_of(size as u64));
    let whole = best(&model, head, divisors).filter(|&(_, bits)| saving(bits) >= SAVING_MIN);
    let found = match whole {
        Some((_, bits)) if saving(bits) >= SAVING_CLEAR => whole,
        // A partial record at the end must not hide the length; one that divides is preferred, though.
        _ => {
            let enough = whole
                .map_or(0.0, |(_, bits)| saving(bits) + SAVING_MIN)
                .max(SAVING_MIN_PARTIAL);
            best(&model, head, lags(head).into_iter())
                .filter(|&(_, bits)| saving(bits) >= enough)
                .or(whole)
        }
    };
    let (size, bits) = found?;
    let (records, partial) = (sample.len / size as u64, sample.len % size as u64);
    let confidence = match saving(bits) {
        SAVING_CLEAR.. if records >= 16 && partial == 0 && size >= 16 => Confidence::Certain,
        0.15.. if records >= 4 => Confidence::Likely,
        _ => Confidence::Possible,
    };
    let mut evidence = format!(
        "{records} records of {size} bytes: bytes in the same place are alike ({:.1} bits each, {plain:.1} without a length)",
        bits
    );
    if is_ebcdic(head) {
        evidence += "; EBCDIC text";
    }
    if partial > 0 {
        evidence += &format!("; the last {partial} bytes are a partial record");
    }
    let format =
        RecordFormat::new(Organization::Fixed, Layout::Plain).with_record_size(size as u64);
    Some(Guess {
        format,
        confidence,
        evidence,
    })
}
