//! Micro Focus files that begin with a file header: it says all there is to know.

use super::{Confidence, Guess, Sample};
use crate::codec::{FileHeader, MfHeader};
use crate::{
    BLOCK_SIZE_DEFAULT, Header, Layout, Organization, PieceKind, RECORD_SIZE_MAX, RecordFormat,
    Settings,
};

/// A guess if the file begins with such a header.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    let header = FileHeader::read(sample.head)?;
    let max = u64::from(header.record_max);
    let new = RecordFormat::new;
    let blocks = || new(Organization::Stream, Layout::Blocks).with_record_size(BLOCK_SIZE_DEFAULT);
    let says = |what: &str, confidence, format: RecordFormat| Guess {
        evidence: format!(
            "a Micro Focus file header: {what} of {} to {max} bytes",
            header.record_min
        ),
        confidence,
        format,
    };
    let is_sound = (1..=RECORD_SIZE_MAX).contains(&max)
        && (header.variable == 0 || MfHeader::of(max) == header.records);
    Some(match (header.organization, header.variable) {
        _ if !is_sound => says("contradictory sizes", Confidence::Possible, blocks()),
        _ if header.compression != 0 => says("compressed records", Confidence::Certain, blocks()),
        (2, _) => says(
            "an indexed file with records",
            Confidence::Certain,
            blocks(),
        ),
        (1, 0) => {
            let format = new(Organization::Sequential, Layout::Plain)
                .with_record_size(max)
                .with_settings(Settings {
                    header: Some(Header::Bytes(FileHeader::LEN as u64)),
                    ..Settings::NONE
                });
            says("sequential records", Confidence::Likely, format)
        }
        (1, _) => {
            let format =
                new(Organization::Sequential, Layout::MicroFocusVariable).with_record_size(max);
            says("sequential records", Confidence::Certain, format)
        }
        (_, variable) => {
            let format = |layout| new(Organization::Relative, layout).with_record_size(max);
            let unix = format(Layout::MicroFocusVariable);
            let crlf = format(Layout::MicroFocusVariableCrlf);
            let best = if damage(&crlf, sample) < damage(&unix, sample) {
                crlf
            } else {
                unix
            };
            let confidence = match (variable, damage(&best, sample)) {
                (1, 0) if sample.len > FileHeader::LEN as u64 => Confidence::Certain,
                (_, 0) => Confidence::Likely,
                _ => Confidence::Possible,
            };
            says("relative slots", confidence, best)
        }
    })
}

/// How many slots of the sample are none in this format.
fn damage(format: &RecordFormat, sample: &Sample<'_>) -> usize {
    let mut count = 0;
    if let Ok(codec) = format.codec() {
        codec.decode(0, sample.head, sample.is_whole(), &mut |piece| {
            if let PieceKind::Residue { reason, .. } = piece.kind {
                count += usize::from(!matches!(reason, "file header" | "deleted slot"));
            }
        });
    }
    count
}
