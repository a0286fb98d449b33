//! What a file's bytes look like: formats that it may be in, with the evidence.
//!
//! Every kind of structure has a module that looks for it alone; here they are weighed. A guess
//! is made for a person to confirm: several formats can explain the same bytes, and few bytes prove
//! little. It never panics, and its time is bounded by the sample's size.

mod binary;
mod blocked;
mod file_header;
mod period;
mod prefixes;
mod slots;
mod text;

use crate::{BLOCK_SIZE_DEFAULT, Layout, Organization, RecordFormat};
use std::cmp::Reverse;

/// How far a guess can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Nothing speaks against it.
    Possible,
    /// The bytes have the regularity that it leads one to expect.
    Likely,
    /// Chance or another format would hardly give these bytes.
    Certain,
}

impl Confidence {
    /// `possible`, `likely` or `certain`.
    pub fn name(self) -> &'static str {
        match self {
            Confidence::Possible => "possible",
            Confidence::Likely => "likely",
            Confidence::Certain => "certain",
        }
    }
}

impl std::fmt::Display for Confidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Bytes from the file's beginning; more than 1 MiB hardly makes guesses better.
    pub head: &'a [u8],
    /// The file's whole length in bytes, at least that of `head`.
    pub len: u64,
}

impl Sample<'_> {
    /// Whether `head` is the whole file.
    fn is_whole(&self) -> bool {
        self.head.len() as u64 >= self.len
    }
}

/// A format that a file may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The format; its codec can be built.
    pub format: RecordFormat,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// What was seen, in words: `every 158 bytes an 8-byte length of at most 150; 37 of 100 slots in use`.
    pub evidence: String,
}

/// Formats that the file may be in, the best first; at least one, as any file is a stream of blocks.
///
/// `name` is the file's name or path; it only matters where the bytes say nothing.
pub fn guess(name: &str, sample: &Sample<'_>) -> Vec<Guess> {
    let blocks = |confidence, evidence: &str| Guess {
        format: RecordFormat::new(Organization::Stream, Layout::Blocks)
            .with_record_size(BLOCK_SIZE_DEFAULT),
        confidence,
        evidence: evidence.to_owned(),
    };
    let mut guesses = Vec::new();
    let fallback = if let Some(known) = file_header::guess(sample) {
        guesses.push(known);
        blocks(Confidence::Possible, "any file can be mirrored as blocks")
    } else if sample.head.is_empty() {
        guesses.extend(text::by_name(name));
        blocks(Confidence::Possible, "the file is empty")
    } else if let Some(what) = binary::kind(sample.head) {
        blocks(Confidence::Certain, what)
    } else if crate::bytes::all_zero(sample.head) {
        blocks(Confidence::Possible, "only zero bytes so far")
    } else {
        guesses.extend(slots::guess(sample));
        // Before those of records alone: the words of blocks lead through the file as well.
        guesses.extend(blocked::guess(sample));
        guesses.extend(prefixes::guess(sample));
        guesses.extend(text::guess(sample));
        if guesses.iter().all(|it| it.confidence < Confidence::Certain) {
            guesses.extend(period::guess(sample));
        }
        blocks(Confidence::Possible, "any file can be mirrored as blocks")
    };
    // Printable bytes alone say nothing where there is better to say.
    if guesses
        .iter()
        .any(|it| it.confidence > Confidence::Possible)
    {
        guesses.retain(|it| {
            it.confidence > Confidence::Possible || it.format.layout != Layout::Newline
        });
    }
    guesses.push(fallback);
    // Stable: of equally good guesses the more particular structure stays in front.
    guesses.sort_by_key(|it| Reverse(it.confidence));
    guesses
}

#[cfg(test)]
mod tests;
