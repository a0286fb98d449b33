//! Files of records of varying length: length prefixes that lead from one to the next.

use super::{Confidence, Guess, Sample};
use crate::codec::{Framing, Prefix};
use crate::{DescriptorWord, Layout, Organization, RecordFormat, Settings, VarseqFormat};

/// Longest record that is taken for one; a prefix of four bytes could say far more.
const LEN_MAX: usize = 1 << 20;

/// Two bytes alone lead far in any text, as two spaces are a length too: 8,224, or 16,448 in EBCDIC.
const SHORT_PREFIX_LEN_MAX: usize = 0x1fff;

/// The stricter first: of equally good ones the first is taken.
const FRAMINGS: [Framing; 6] = [
    Framing::Rdw(DescriptorWord::NATIVE),
    Framing::Varseq(VarseqFormat::BigEndian16Padded),
    Framing::Varseq(VarseqFormat::BigEndian32),
    Framing::Varseq(VarseqFormat::Native32),
    Framing::Rdw(DescriptorWord::LITTLE_EXCLUSIVE),
    Framing::Varseq(VarseqFormat::BigEndian16),
];

fn settings(framing: Framing) -> (RecordFormat, String) {
    let sequential = |layout| RecordFormat::new(Organization::Sequential, layout);
    match framing {
        Framing::Varseq(format) => (
            sequential(Layout::Gnucobol).with_varseq_format(format),
            format!("length prefixes of COB_VARSEQ_FORMAT {format}"),
        ),
        Framing::Rdw(DescriptorWord::NATIVE) => (
            sequential(Layout::IbmV),
            "record descriptor words as on z/OS".to_owned(),
        ),
        Framing::Rdw(DescriptorWord::LITTLE_EXCLUSIVE) => (
            sequential(Layout::RdwLittle),
            "little-endian record descriptor words".to_owned(),
        ),
        Framing::Rdw(rdw) => (
            sequential(Layout::IbmV).with_settings(Settings {
                rdw: Some(rdw),
                ..Settings::NONE
            }),
            "transferred record descriptor words".to_owned(),
        ),
        Framing::Vms => (sequential(Layout::Vms), "VMS record lengths".to_owned()),
        Framing::MicroFocus(_) => (
            sequential(Layout::MicroFocusVariable),
            "Micro Focus record headers".to_owned(),
        ),
        Framing::Varout { .. } => (
            sequential(Layout::NonstopVarout),
            "NonStop record lengths".to_owned(),
        ),
    }
}

/// What following the prefixes came to.
#[derive(Default)]
struct Walk {
    records: u64,
    empty: u64,
    len_max: usize,
    /// Bytes at the end of the file that are no whole record.
    partial: usize,
}

/// Follows the prefixes through the sample; `None` if one makes no sense.
fn walk(framing: Framing, sample: &Sample<'_>) -> Option<Walk> {
    let mut walk = Walk::default();
    let mut at = 0;
    while at < sample.head.len() {
        let left = &sample.head[at..];
        if left.len() < framing.prefix_len() {
            walk.partial = left.len();
            break;
        }
        let Prefix::Record(len @ ..=LEN_MAX) = framing.read(at as u64, left) else {
            return None;
        };
        if framing.prefix_len() + len > left.len() {
            walk.partial = left.len();
            break;
        }
        walk.records += 1;
        walk.empty += u64::from(len == 0);
        walk.len_max = walk.len_max.max(len);
        at += framing.prefix_len() + len;
    }
    if !sample.is_whole() {
        walk.partial = 0;
    }
    Some(walk)
}

/// The best guess if the bytes are records with a prefix.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    let mut best: Option<Guess> = None;
    for framing in FRAMINGS {
        let Some(walk) = walk(framing, sample) else {
            continue;
        };
        let full = walk.records - walk.empty;
        if framing == Framing::Varseq(VarseqFormat::BigEndian16)
            && walk.len_max > SHORT_PREFIX_LEN_MAX
        {
            continue;
        }
        // Zero bytes read as empty records, and so does half of a prefix of format 1 in format 3.
        if full == 0 || walk.empty > full / 4 {
            continue;
        }
        // How many bits of the prefixes had to be as they are, were the bytes random.
        let free = (usize::BITS - walk.len_max.leading_zeros()) as usize;
        let bits = (8 * framing.prefix_len()).saturating_sub(free) as u64 * walk.records;
        let confidence = match (bits, walk.partial) {
            (60.., 0) if framing.prefix_len() == 4 || walk.records >= 16 => Confidence::Certain,
            (60.., _) => Confidence::Likely,
            (20.., 0) => Confidence::Likely,
            (20.., _) if walk.records >= 2 => Confidence::Possible,
            _ => continue,
        };
        let (format, what) = settings(framing);
        let mut evidence = format!(
            "{what} lead through {}: {} records, the longest {} bytes",
            if sample.is_whole() {
                "the file"
            } else {
                "the part looked at"
            },
            walk.records,
            walk.len_max
        );
        if walk.partial > 0 {
            evidence += &format!("; the last {} bytes are a partial record", walk.partial);
        }
        if best
            .as_ref()
            .is_none_or(|best| best.confidence < confidence)
        {
            best = Some(Guess {
                format,
                confidence,
                evidence,
            });
        }
    }
    best
}
