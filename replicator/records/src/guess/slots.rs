//! GnuCOBOL relative files: the distance at which every 8 bytes are a length that fits in it.

use super::{Confidence, Guess, Sample};
use crate::bytes::all_zero;
use crate::{Layout, Organization, RecordFormat};

/// Largest distance of slots that is tried: GnuCOBOL's largest relative record is 65,535 bytes.
const PITCH_MAX: usize = 65_535 + PREFIX_LEN;
const PREFIX_LEN: usize = 8;

/// What the slots at one distance hold.
struct Slots {
    pitch: usize,
    seen: u64,
    used: u64,
    deleted: u64,
    len_max: u64,
}

impl Slots {
    /// The slots of `head` at this distance, or `None` if one has a length that doesn't fit.
    ///
    /// Only looks at the lengths, as most distances are wrong; [`Slots::look_inside`] does the rest.
    fn at(pitch: usize, head: &[u8]) -> Option<Slots> {
        let mut slots = Slots {
            pitch,
            seen: 0,
            used: 0,
            deleted: 0,
            len_max: 0,
        };
        for slot in head.chunks(pitch) {
            let Some(prefix) = slot.first_chunk::<PREFIX_LEN>() else {
                break;
            };
            let len = u64::from_le_bytes(*prefix);
            if len > (pitch - PREFIX_LEN) as u64 {
                return None;
            }
            slots.seen += 1;
            slots.used += u64::from(len > 0);
            slots.len_max = slots.len_max.max(len);
        }
        (slots.used > 0).then_some(slots)
    }

    /// Counts deleted slots; `None` if what is in use has no content.
    fn look_inside(mut self, head: &[u8]) -> Option<Slots> {
        let mut content_seen = false;
        for (prefix, content) in head
            .chunks(self.pitch)
            .filter_map(|slot| slot.split_first_chunk::<PREFIX_LEN>())
        {
            match (u64::from_le_bytes(*prefix), all_zero(content)) {
                (0, zero) => self.deleted += u64::from(!zero),
                (_, zero) => content_seen |= !zero,
            }
        }
        content_seen.then_some(self)
    }

    /// Whether some record fills its slot, as all do unless the program varies their length.
    fn filled(&self) -> bool {
        self.len_max == (self.pitch - PREFIX_LEN) as u64
    }
}

/// A guess if the bytes are slots.
pub(super) fn guess(sample: &Sample<'_>) -> Option<Guess> {
    let divides = |pitch: usize| sample.len.is_multiple_of(pitch as u64);
    // Multiples of the true distance fit as well, but their slots are never filled. A distance that
    // doesn't divide the length may be right: a program can be in the middle of adding a slot.
    let rank = |slots: &Slots| match (slots.filled(), divides(slots.pitch)) {
        (true, true) => Some(0),
        (true, false) if slots.used >= 3 && slots.seen >= 4 => Some(1),
        (false, true) if slots.used >= 3 => Some(2),
        (false, true) if slots.seen >= 2 => Some(3),
        _ => None,
    };
    let (_, slots) = (PREFIX_LEN + 1..=PITCH_MAX.min(sample.head.len()))
        .filter_map(|pitch| Slots::at(pitch, sample.head))
        .filter_map(|slots| Some((rank(&slots)?, slots.look_inside(sample.head)?)))
        .min_by_key(|(rank, slots)| (*rank, slots.pitch))?;
    let partial = sample.len % slots.pitch as u64;
    let size = (slots.pitch - PREFIX_LEN) as u64;
    // A record that begins with a small number looks like a slot; its longest would rarely fit as well.
    let fits = slots.filled() || slots.used >= 8 && slots.len_max * 2 > size;
    let confidence = match slots.used {
        3.. if fits && partial == 0 => Confidence::Certain,
        _ if fits => Confidence::Likely,
        8.. => Confidence::Likely,
        _ => Confidence::Possible,
    };
    let mut evidence = format!(
        "every {} bytes an 8-byte length of at most {size}; {} of {} slots in use",
        slots.pitch, slots.used, slots.seen
    );
    if slots.deleted > 0 {
        evidence += &format!(", {} deleted", slots.deleted);
    }
    if !slots.filled() {
        evidence += &format!("; no record is longer than {}", slots.len_max);
    }
    if partial > 0 {
        evidence += &format!("; the last {partial} bytes are a partial slot");
    }
    let format = RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(size);
    Some(Guess {
        format,
        confidence,
        evidence,
    })
}
