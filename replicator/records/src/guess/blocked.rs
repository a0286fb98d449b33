//! IBM VB and VBS: block descriptor words that lead through the file, and in each block record or segment descriptor words
//! that fill it exactly.

use super::{Confidence, Guess, Sample};
use crate::{Layout, Organization, PieceKind, RecordFormat};

/// Bits of a block's and a record's word that had to be as they are, were the bytes random: the zero bytes, and that the
/// lengths of records add up to that of their block.
const BITS_OF_BLOCK: u64 = 30;
const BITS_OF_RECORD: u64 = 16;

/// A guess if the bytes are blocks.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    of(Layout::IbmVb, "VB", sample).or_else(|| of(Layout::IbmVbs, "VBS", sample))
}

fn of(layout: Layout, name: &str, sample: &Sample<'_>) -> Option<Guess> {
    let format = RecordFormat::new(Organization::Sequential, layout);
    let codec = format.codec().ok()?;
    let (mut records, mut blocks, mut spanned, mut longest, mut bad) = (0, 0, 0, 0, false);
    let mut taken = 0;
    // At the end of the sample all may be cut short; what is before it must be without fault.
    codec.decode(0, sample.head, false, &mut |piece| {
        taken = piece.offset + piece.len;
        match piece.kind {
            PieceKind::Record { data, rest } => {
                records += 1;
                longest = longest.max(data.len());
                // Words of the first record of a block: none to say, or an even number.
                blocks += u64::from((rest.len() / 4).is_multiple_of(2));
                spanned += u64::from(rest.len() > 8);
            }
            PieceKind::Residue { .. } | PieceKind::Empty => bad = true,
        }
    });
    let partial = sample.head.len() as u64 - taken;
    let bits = blocks * BITS_OF_BLOCK + records * BITS_OF_RECORD;
    // Blocks of one record each are what records with their own length at their beginning look like, too.
    let confidence = match bits {
        _ if bad || records == 0 || layout == Layout::IbmVbs && spanned == 0 => return None,
        120.. if partial == 0 || !sample.is_whole() => Confidence::Certain,
        60.. => Confidence::Likely,
        _ => return None,
    };
    let mut evidence = format!(
        "block and record descriptor words of IBM {name} lead through {}: {records} records in {blocks} or more blocks, the longest {longest} bytes",
        if sample.is_whole() {
            "the file"
        } else {
            "the part looked at"
        },
    );
    if spanned > 0 {
        evidence += &format!("; {spanned} are spanned");
    }
    if partial > 0 && sample.is_whole() {
        evidence += &format!("; the last {partial} bytes are a partial record");
    }
    Some(Guess {
        format,
        confidence,
        evidence,
    })
}
