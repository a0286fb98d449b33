//! What a file's bytes look like: formats that it may be in, with the evidence.

use crate::{Layout, Organization, RecordFormat};

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

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Bytes from the file's beginning; more than 1 MiB doesn't make guesses better.
    pub head: &'a [u8],
    /// The file's whole length in bytes.
    pub len: u64,
}

/// A format that a file may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The format; its codec can be built.
    pub format: RecordFormat,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// What was seen, in words.
    pub evidence: String,
}

/// Formats that the file may be in, the best first; at least one, as any file is a stream of blocks.
///
/// `name` is the file's name or path; it only matters where the bytes say nothing.
pub fn guess(_name: &str, _sample: &Sample<'_>) -> Vec<Guess> {
    vec![Guess {
        format: RecordFormat::new(Organization::Stream, Layout::Blocks),
        confidence: Confidence::Possible,
        evidence: "no structure found".to_owned(),
    }]
}
