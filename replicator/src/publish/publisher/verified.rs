//! What proves that file, image and targets are equal, and what mends a target that isn't.
//!
//! A range of a file that a round of verification read is compared with the image, which is the file as of that position; what
//! is in the image goes to the targets as a checksum with that very position. So each target compares itself at exactly the
//! moment at which the file was looked at, while both go on changing.

use super::*;
use crate::capture::operation::Verified;
use crate::digest::{Digest, Digester};
use crate::event::Checksum;
use crate::verification::Leg;
use std::ops::Range;

impl Publisher {
    /// A range was read by a round of verification.
    pub(super) fn verified(
        &mut self,
        path: &[u8],
        verified: &Verified,
    ) -> Result<(), PublishError> {
        // The image may have later operations already, and the round is one of before the start.
        if self.is_redo() {
            return Ok(());
        }
        let file = self.track(path)?;
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let image = tracked.image.bytes();
        tracked.image.note_touched(verified.len);
        let end = verified.offset.saturating_add(verified.len);
        let is_known = verified
            .sum
            .is_some_and(|sum| is_as_known(image, verified.offset..end, sum, verified.at_end));
        if !is_known && verified.sum.is_some() {
            // The content that is asked for decides: a write may have been in the middle of what was read.
            self.tasks.ask(Task::Read {
                path: path.into(),
                offset: verified.offset,
                extent: if verified.at_end {
                    CHUNK_BYTES
                } else {
                    verified.len
                },
            });
        }
        let bytes = self.range_of(file, verified.offset, (!verified.at_end).then_some(end));
        let upto = if verified.at_end { u64::MAX } else { bytes.end };
        let is_changing = self.is_pending(file, &(bytes.start..upto));
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let (codec, image) = (tracked.codec.as_ref(), tracked.image.bytes());
        let size = image.len() as u64;
        let id = |at: u64| match at {
            0 => 0,
            at if at >= size => u64::MAX,
            at => codec.id_at(at),
        };
        let ids = id(bytes.start)..if verified.at_end {
            u64::MAX
        } else {
            id(bytes.end)
        };
        let digest = (!is_changing).then(|| {
            let begin = tracked.parse.place(codec, image, bytes.start);
            digest(codec, image, begin, &bytes)
        });
        let subject = tracked.subject.clone();
        let checksum = Checksum {
            from: ids.start.min(ids.end),
            to: ids.end,
            digest,
            round: verified.round,
            number: verified.number,
            last: verified.at_end,
        };
        let position = self.at.position;
        self.event(&subject, size, Change::Checksum(checksum));
        let records = digest.map_or(0, |digest| digest.records);
        let leg = match is_known && !is_changing {
            true => Leg::Equal,
            false => Leg::Busy,
        };
        self.progress
            .verification()
            .note_file(&path_text(path), position, &checksum, leg, records);
        Ok(())
    }

    /// The bytes of the pieces that begin in a range; without end, to that of the file. Ranges that follow one another have
    /// every piece once.
    fn range_of(&mut self, file: usize, offset: u64, end: Option<u64>) -> Range<u64> {
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return 0..0;
        };
        let (codec, image) = (tracked.codec.as_ref(), tracked.image.bytes());
        let mut boundary = |at: u64| match at {
            0 => 0,
            at => tracked.parse.boundary_behind(codec, image, at),
        };
        let begin = boundary(offset);
        begin..end.map_or(image.len() as u64, boundary).max(begin)
    }

    /// Whether something in a range of a file is changed that targets aren't told of yet: by a unit that isn't complete, or a
    /// piece that is written in parts.
    fn is_pending(&self, file: usize, range: &Range<u64>) -> bool {
        let touches = |span: &Span| span.start < range.end && range.start < span.end;
        self.groups.iter().any(|group| {
            group
                .held
                .values()
                .any(|held| held.file == file && touches(&held.span))
                || group
                    .units
                    .values()
                    .flat_map(|unit| &unit.files)
                    .filter(|(touched, _)| *touched == file)
                    .any(|(_, dirty)| {
                        dirty.cleared_from.is_some_and(|from| from < range.end)
                            || dirty.spans.iter().any(touches)
                    })
        })
    }

    /// Tells targets again what is in a range of identities, and that nothing else is there. Where units that aren't complete
    /// have changed the file, it is told with them.
    pub(super) fn restate(&mut self, file: usize, from: u64, to: u64) {
        self.loading(self.at.group, file);
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return;
        };
        let (codec, image) = (tracked.codec.as_ref(), tracked.image.bytes());
        let size = image.len() as u64;
        // What targets have beyond what they were told counts too.
        tracked.emitted_end = tracked.emitted_end.max(size);
        let (begin, end) = (
            if from == 0 { 0 } else { codec.offset_of(from) },
            codec.offset_of(to),
        );
        let start = tracked.parse.entry(codec, image, begin.min(size));
        let goes_on = to == u64::MAX || begin >= size || end > size;
        let mut dirty = Dirty::default();
        if goes_on {
            dirty.clear_from(start);
        } else {
            dirty.add(Span {
                start,
                end: end.max(begin + 1),
                overwrites: true,
            });
        }
        self.emit(file, dirty);
    }
}

/// Whether a range of the image has this checksum, and ends where the file does.
fn is_as_known(image: &[u8], range: Range<u64>, sum: u128, at_end: bool) -> bool {
    let known = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .and_then(|(start, end)| image.get(start..end));
    known.is_some_and(|known| checksum(known) == sum)
        && (!at_end || image.len() as u64 == range.end)
}

/// What the pieces amount to that begin in a range of bytes.
fn digest(
    codec: &dyn Codec,
    image: &[u8],
    begin: super::super::pieces::Place,
    bytes: &Range<u64>,
) -> Digest {
    let mut digester = Digester::default();
    walk(
        codec,
        image,
        begin,
        bytes.end,
        &mut |piece| match piece.kind {
            PieceKind::Record { data, rest } => digester.record(piece.id, data, rest),
            PieceKind::Residue { bytes, .. } => digester.residue(piece.id, bytes),
            PieceKind::Empty => {}
        },
    );
    digester.finish()
}
