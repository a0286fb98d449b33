//! Which pieces of a file a change touches, and what they are now.
//!
//! A *span* is a range of bytes that begins at a piece boundary. Where layouts have no fixed pitch, the end of a change
//! need not be a boundary; decoding then goes on to the first one behind it. For length-prefixed layouts, where boundaries
//! can only be found going forward, a sparse index of them is kept.

use counterfoil_records::{Boundaries, Codec, Piece, PieceKind, RESIDUE_ALIGN, Within};
use std::ops::Range;

/// Distance between entries of the index of boundaries, at least.
const INDEX_STEP: u64 = 64 * 1024;
/// Bytes looked back at first for the entry of a change.
const LOOK_BACK: u64 = 1024;

/// A boundary, and what goes with it.
pub(super) type Place = (u64, Within);

/// What is known of a file's piece boundaries. Only length-prefixed layouts need to know anything.
#[derive(Debug, Default)]
pub(super) struct Parse {
    /// Some boundaries, ascending, always with 0 first once anything is known. Before each is no empty record, so that what
    /// comes behind can't turn the pieces before into a hole.
    index: Vec<Place>,
    /// End of the last whole piece.
    end: Place,
    /// From here to `end` there are only empty records, which more zero bytes could turn into a hole.
    zeros_from: Option<Place>,
    known: bool,
    /// What went with the end of the span that is being written.
    behind_span: Within,
}

/// A span that a change touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// A boundary at which decoding has to begin.
    pub(super) start: u64,
    /// Where what changed ends; `u64::MAX` when all that follows may have other boundaries now.
    pub(super) end: u64,
    /// There were pieces here before, which need not be the ones there are now.
    pub(super) overwrites: bool,
}

impl Span {
    /// The span of both.
    pub(super) fn join(&mut self, other: &Span) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.overwrites |= other.overwrites;
    }

    pub(super) fn touches(&self, other: &Span) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl Parse {
    /// The entry for a change at `at` of a file with this content before (or, below `at`, after) the change.
    pub(super) fn entry(&mut self, codec: &dyn Codec, bytes: &[u8], at: u64) -> u64 {
        let at = at.min(bytes.len() as u64);
        match codec.boundaries() {
            Boundaries::Pitch(pitch) => at - at % pitch.max(1),
            Boundaries::After(_) => entry_after(codec, bytes, at),
            Boundaries::Forward => self.entry_forward(codec, bytes, at).0,
        }
    }

    /// The same where boundaries are found by reading forward.
    fn entry_forward(&mut self, codec: &dyn Codec, bytes: &[u8], at: u64) -> Place {
        self.learn(codec, bytes);
        let stable = self.stable_end();
        // What is added at the end changes no whole piece. What is changed behind one may: it may have been looked at to
        // tell what the piece is.
        if at >= bytes.len() as u64 {
            return stable;
        }
        let known = self.known_before(at.saturating_sub(codec.reach()));
        let settled = settled(codec, &bytes[..at as usize], known);
        if settled.0 > stable.0 {
            stable
        } else {
            settled
        }
    }

    /// The last known boundary that isn't behind `at`.
    fn known_before(&self, at: u64) -> Place {
        let behind = self.index.partition_point(|&(boundary, _)| boundary <= at);
        behind
            .checked_sub(1)
            .map_or(Place::default(), |last| self.index[last])
    }

    /// A boundary of the content, with what goes with it.
    pub(super) fn place(&mut self, codec: &dyn Codec, bytes: &[u8], boundary: u64) -> Place {
        if !codec.is_blocked() {
            return (boundary, Within::default());
        }
        self.learn(codec, bytes);
        let stable = self.stable_end();
        if boundary == stable.0 {
            return stable;
        }
        let known = self.known_before(boundary);
        let (reached, within) = walk(codec, bytes, known, boundary, &mut |_| {});
        match reached == boundary {
            true => (boundary, within),
            false => (boundary, Within::default()),
        }
    }

    /// The first boundary at or behind `at` as the content is now.
    pub(super) fn boundary_behind(&mut self, codec: &dyn Codec, bytes: &[u8], at: u64) -> u64 {
        let size = bytes.len() as u64;
        if at >= size {
            return size;
        }
        match codec.boundaries() {
            Boundaries::Pitch(pitch) => at.next_multiple_of(pitch.max(1)).min(size),
            Boundaries::After(value) => {
                if at > 0 && bytes[at as usize - 1] == value {
                    return at;
                }
                settled_after(codec, bytes, at, value)
            }
            Boundaries::Forward => {
                let entry = self.entry_forward(codec, bytes, at);
                let (boundary, within) = walk(codec, bytes, entry, at, &mut |_| {});
                self.behind_span = within;
                boundary
            }
        }
    }

    /// What else changes when a file of `size` bytes grows: a last piece that was cut short gets its zeros. Only pieces
    /// of fixed pitch are told here; with others, everything from there on is decoded anyway. The pieces in between were
    /// never written, so nothing is to be said of them.
    pub(super) fn tail(codec: &dyn Codec, size: u64) -> Option<Span> {
        match codec.boundaries() {
            Boundaries::Pitch(pitch) if !size.is_multiple_of(pitch.max(1)) => {
                let start = size - size % pitch;
                Some(Span {
                    start,
                    end: start + pitch,
                    overwrites: true,
                })
            }
            _ => None,
        }
    }

    /// What a write of `range` is about to touch; `bytes` is the content before it. If it leaves a gap behind the end,
    /// [`Parse::tail`] is touched as well.
    pub(super) fn before_write(
        &mut self,
        codec: &dyn Codec,
        bytes: &[u8],
        range: &Range<u64>,
    ) -> Span {
        let size = bytes.len() as u64;
        let start = match codec.boundaries() {
            Boundaries::Pitch(pitch) => range.start - range.start % pitch.max(1),
            _ => self.entry(codec, bytes, range.start),
        };
        if range.end >= size {
            return Span {
                start,
                end: range.end,
                overwrites: start < size,
            };
        }
        let end = match codec.boundaries() {
            // In newline text a changed byte may be the end of a line, so the line behind it counts as touched.
            Boundaries::After(value) => settled_after(codec, bytes, range.end, value),
            Boundaries::Forward if start >= self.stable_end().0 => u64::MAX,
            _ => self.boundary_behind(codec, bytes, range.end),
        };
        Span {
            start,
            end,
            overwrites: true,
        }
    }

    /// Brings what is known up to date after a write that touched `span`; `bytes` is the content after it.
    pub(super) fn after_write(&mut self, codec: &dyn Codec, bytes: &[u8], span: &mut Span) {
        if codec.boundaries() != Boundaries::Forward {
            return;
        }
        let stable = self.stable_end().0;
        if span.start >= stable {
            self.extend(codec, bytes);
            return;
        }
        let start = self.place(codec, bytes, span.start);
        let mut inner = Vec::new();
        let mut last = span.start;
        let mut note = |piece: Piece<'_>| {
            let end = piece.offset + piece.len;
            let is_empty = matches!(piece.kind, PieceKind::Record { data: [], .. });
            if !is_empty && end >= last + INDEX_STEP {
                inner.push((end, piece.behind));
                last = end;
            }
        };
        let mut reached = walk(codec, bytes, start, span.end, &mut note);
        if span.end < stable {
            // Where boundaries behind it have moved, they may meet the old ones again further on.
            let mut old = (span.end, self.behind_span);
            let from = self
                .index
                .partition_point(|&(boundary, _)| boundary <= span.end);
            for &known in &self.index[from..] {
                if reached == old {
                    break;
                }
                old = known;
                reached = walk(codec, bytes, reached, old.0, &mut note);
            }
            if reached == old && old.0 < stable {
                // Boundaries within it may have moved, and the piece before its end may be an empty record now. New ones
                // take their place: without any, the next change of a file that is written over from its beginning to its
                // end would be looked for from the beginning.
                span.end = old.0;
                let from = self
                    .index
                    .partition_point(|&(boundary, _)| boundary <= span.start);
                let until = self
                    .index
                    .partition_point(|&(boundary, _)| boundary <= span.end);
                self.index.splice(from..until, inner);
                return;
            }
        }
        self.forget_from(span.start);
        self.extend(codec, bytes);
        span.end = u64::MAX;
    }

    /// Brings what is known up to date after the size was set; returns the boundary before which nothing changed.
    /// `before` is the content before, `after` the content after.
    pub(super) fn resized(&mut self, codec: &dyn Codec, entry: u64, after: &[u8]) {
        if codec.boundaries() == Boundaries::Forward {
            self.forget_from(entry);
            self.extend(codec, after);
        }
    }

    /// Up to here pieces are what they are, whatever follows.
    fn stable_end(&self) -> Place {
        self.zeros_from.unwrap_or(self.end)
    }

    /// Finds the boundaries of content that nothing is known of.
    fn learn(&mut self, codec: &dyn Codec, bytes: &[u8]) {
        if !self.known {
            self.known = true;
            self.index = vec![Place::default()];
            self.extend(codec, bytes);
        }
    }

    fn forget_from(&mut self, boundary: u64) {
        self.index
            .truncate(self.index.partition_point(|&(known, _)| known <= boundary));
        if self.index.is_empty() {
            self.index.push(Place::default());
        }
        self.known = true;
        self.end = self.index[self.index.len() - 1];
        self.zeros_from = None;
    }

    /// Goes on from the last known boundary to the last there is.
    fn extend(&mut self, codec: &dyn Codec, bytes: &[u8]) {
        let from = self.stable_end();
        let size = bytes.len() as u64;
        self.zeros_from = None;
        let mut end = from;
        let (index, zeros_from) = (&mut self.index, &mut self.zeros_from);
        walk(codec, bytes, from, size, &mut |piece| {
            // What is cut short by the end may become whole; what is only zeros may become a hole.
            let whole =
                !matches!(piece.kind, PieceKind::Residue { .. }) || piece.offset + piece.len < size;
            if !whole {
                return;
            }
            let begin = (piece.offset, end.1);
            end = (piece.offset + piece.len, piece.behind);
            match piece.kind {
                PieceKind::Record { data: [], .. } => {
                    zeros_from.get_or_insert(begin);
                }
                // A hole is one whatever comes behind it. To look through it again with each chunk that follows would cost
                // the square of its size.
                _ => *zeros_from = None,
            }
            let is_far = index
                .last()
                .is_none_or(|&(last, _)| end.0 >= last + INDEX_STEP);
            if is_far && zeros_from.is_none() {
                index.push(end);
            }
        });
        self.end = end;
    }

    /// How far the content consists of whole pieces, seen from `start`: behind it there is less than a piece.
    pub(super) fn whole_until(
        &self,
        codec: &dyn Codec,
        bytes: &[u8],
        span: &Span,
        upto: u64,
    ) -> u64 {
        let upto = upto.min(bytes.len() as u64);
        match codec.boundaries() {
            Boundaries::Pitch(pitch) => (upto - upto % pitch.max(1)).max(span.start),
            // Not only behind the last line end: a hole, or a line that is too long, would otherwise wait for its end, and be
            // searched again from its beginning with each chunk that is read.
            Boundaries::After(_) => entry_after(codec, bytes, upto).max(span.start),
            Boundaries::Forward if upto >= self.end.0 => self.stable_end().0.max(span.start),
            Boundaries::Forward => upto,
        }
    }
}

/// The first offset behind `at` of which it is certain, from the bytes behind `at` alone, that it is a boundary: behind a line
/// end, or in the middle of a hole or of a line that is too long (see [`Boundaries::After`]). Going on to the next line end
/// there would make each change of a hole cost as much as all of it.
fn settled_after(codec: &dyn Codec, bytes: &[u8], at: u64, value: u8) -> u64 {
    let size = bytes.len() as u64;
    let align = RESIDUE_ALIGN as u64;
    let from = at.next_multiple_of(align);
    let until = codec
        .piece_len_max()
        .and_then(|len_max| from.checked_add(len_max))
        .filter(|&until| until <= size);
    let searched = &bytes[at as usize..until.unwrap_or(size) as usize];
    match searched.iter().position(|&byte| byte == value) {
        Some(found) => at + found as u64 + 1,
        None if until.is_some() => from + align,
        None => size,
    }
}

/// The entry for a change at `at`, which isn't behind the end of `bytes`, where it can be found by looking back.
fn entry_after(codec: &dyn Codec, bytes: &[u8], at: u64) -> u64 {
    let mut look_back = LOOK_BACK;
    loop {
        let from = at.saturating_sub(look_back);
        if let Some(entry) = codec.entry(from, &bytes[from as usize..at as usize]) {
            return entry;
        }
        look_back = look_back.saturating_mul(8);
    }
}

/// How far the pieces from a boundary on are settled by these bytes, whatever follows them.
fn settled(codec: &dyn Codec, bytes: &[u8], (mut at, mut within): Place) -> Place {
    let mut window = WINDOW;
    loop {
        let to = (at as usize).saturating_add(window).min(bytes.len());
        let from = within;
        let taken = codec.decode_within(from, at, &bytes[at as usize..to], false, &mut |piece| {
            within = piece.behind;
        });
        at += taken as u64;
        if taken == 0 {
            if to == bytes.len() {
                return (at, within);
            }
            window = window.saturating_mul(2);
        }
    }
}

/// Bytes decoded at once, so that a caller who stops early has not paid for all of a large file.
const WINDOW: usize = 1 << 20;

/// Decodes from the boundary `from` on and calls `each` for every piece that begins before `until`. Returns the first
/// boundary at or behind `until` (or the end of the content).
pub(super) fn walk(
    codec: &dyn Codec,
    bytes: &[u8],
    (mut at, mut within): Place,
    until: u64,
    each: &mut dyn FnMut(Piece<'_>),
) -> Place {
    let size = bytes.len() as u64;
    let until = until.min(size);
    let mut window = until.saturating_sub(at).min(WINDOW as u64);
    while at < until {
        let to = at.saturating_add(window.max(1)).min(size);
        let mut next = (at, within);
        codec.decode_within(
            within,
            at,
            &bytes[at as usize..to as usize],
            to == size,
            &mut |piece| {
                if piece.offset < until {
                    next = (piece.offset + piece.len, piece.behind);
                    each(piece);
                }
            },
        );
        if next.0 == at {
            // Not even one piece: it is longer than the window.
            if to == size {
                return (size, Within::default());
            }
            window = window.saturating_mul(2).max(RESIDUE_ALIGN as u64);
        } else {
            (at, within) = next;
        }
    }
    (at, within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_records::{Layout, LayoutWords, Organization, RecordFormat, VarseqFormat};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn formats() -> Vec<RecordFormat> {
        let format = |organization, layout, record_size, varseq_format| RecordFormat {
            record_size,
            varseq_format,
            ..RecordFormat::new(organization, layout)
        };
        let words = |words: &str, record_size| {
            let words: LayoutWords = words.parse().unwrap();
            RecordFormat {
                record_size,
                ..RecordFormat::new(words.layout.usual_organization(), words.layout)
                    .with_settings(words.settings)
            }
        };
        vec![
            format(Organization::Fixed, Layout::Plain, Some(7), None),
            format(Organization::Relative, Layout::Gnucobol, Some(9), None),
            format(
                Organization::Sequential,
                Layout::Gnucobol,
                None,
                Some(VarseqFormat::BigEndian16Padded),
            ),
            format(
                Organization::Sequential,
                Layout::Gnucobol,
                None,
                Some(VarseqFormat::BigEndian16),
            ),
            format(Organization::Sequential, Layout::LineSequential, None, None),
            format(Organization::Sequential, Layout::IbmV, None, None),
            format(Organization::Sequential, Layout::RdwLittle, None, None),
            format(Organization::Sequential, Layout::Vms, None, None),
            format(Organization::Relative, Layout::MicroFocus, Some(9), None),
            format(Organization::Relative, Layout::Counted, Some(9), None),
            format(Organization::Stream, Layout::Newline, None, None),
            format(Organization::Stream, Layout::Blocks, Some(16), None),
            words("ibm-vb", None),
            words("ibm-vb,rdw=little-exclusive,bdw=big-exclusive", None),
            words("ibm-vs", Some(100)),
            words("ibm-vbs", Some(100)),
            words("micro-focus-variable", Some(100)),
            words("micro-focus-variable-crlf", Some(9)),
            words("nonstop-varout,block=256", None),
            words("csv", Some(100)),
            words("newline,header=10", None),
            words("csv,header=record,skip=x", Some(100)),
            words("plain,header=130", Some(7)),
        ]
    }

    type Pieces = BTreeMap<u64, (u64, Vec<u8>)>;

    /// Everything but holes that begins between two offsets, and where decoding ended.
    fn pieces(codec: &dyn Codec, bytes: &[u8], from: u64, until: u64) -> (Pieces, u64) {
        let mut pieces = Pieces::new();
        let place = Parse::default().place(codec, bytes, from);
        let (end, _) = walk(codec, bytes, place, until, &mut |piece| {
            if piece.kind != PieceKind::Empty {
                let content = &bytes[piece.offset as usize..(piece.offset + piece.len) as usize];
                pieces.insert(piece.offset, (piece.len, content.to_vec()));
            }
        });
        (pieces, end)
    }

    /// Replaces what began between two offsets.
    fn replace(kept: &mut Pieces, from: u64, until: u64, new: Pieces) {
        let behind = kept.split_off(&until);
        kept.split_off(&from);
        kept.extend(behind);
        kept.extend(new);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u16, Vec<u8>),
        Append(Vec<u8>),
        Truncate(u16),
        Forget,
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![2 => Just(0u8), 2 => Just(b'\n'), 1 => Just(5u8), 2 => any::<u8>()];
        let record = (0..12u8).prop_map(|len| {
            let mut record = vec![0, len, 0, 0];
            record.extend(vec![b'x'; usize::from(len)]);
            record
        });
        prop_oneof![
            proptest::collection::vec(byte, 0..40),
            proptest::collection::vec(record, 0..5).prop_map(|records| records.concat()),
            proptest::collection::vec((0..4u8, 0..12u8), 0..4).prop_map(|segments| {
                let content = segments.iter().flat_map(|&(part, len)| {
                    [vec![0, len + 4, part, 0], vec![b'y'; usize::from(len)]].concat()
                });
                let content: Vec<u8> = content.collect();
                [vec![0, content.len() as u8 + 4, 0, 0], content].concat()
            }),
            proptest::collection::vec(proptest::sample::select(&b"ab,\"\"\n"[..]), 0..60),
            (0..9000usize).prop_map(|len| vec![0; len]),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = prop_oneof![0..200u16, 0..10_000u16];
        prop_oneof![
            3 => (at.clone(), content()).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            4 => content().prop_map(Step::Append),
            1 => at.prop_map(Step::Truncate),
            1 => Just(Step::Forget),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Decoding only what a change touched gives the pieces that decoding the whole file gives.
        #[test]
        fn what_changed_is_found(
            formats in proptest::sample::subsequence(formats(), 4),
            steps in proptest::collection::vec(step(), 1..25),
        ) {
            for format in formats {
                let codec = format.codec().unwrap();
                let codec = codec.as_ref();
                let mut bytes: Vec<u8> = Vec::new();
                let mut parse = Parse::default();
                let mut kept = Pieces::new();
                for step in &steps {
                    let (at, new) = match step {
                        Step::Write(at, new) => (u64::from(*at), new),
                        Step::Append(new) => (bytes.len() as u64, new),
                        Step::Truncate(size) => {
                            let size = u64::from(*size);
                            let entry = parse.entry(codec, &bytes, size);
                            bytes.resize(size as usize, 0);
                            parse.resized(codec, entry, &bytes);
                            replace(&mut kept, entry, u64::MAX, pieces(codec, &bytes, entry, size).0);
                            let whole = pieces(codec, &bytes, 0, size).0;
                            prop_assert_eq!(&kept, &whole, "{:?} {:?}", format, step);
                            continue;
                        }
                        Step::Forget => {
                            parse = Parse::default();
                            continue;
                        }
                    };
                    if new.is_empty() {
                        continue;
                    }
                    let range = at..at + new.len() as u64;
                    let tail = Parse::tail(codec, bytes.len() as u64).filter(|_| at > bytes.len() as u64);
                    let mut span = parse.before_write(codec, &bytes, &range);
                    if (bytes.len() as u64) < range.end {
                        bytes.resize(range.end as usize, 0);
                    }
                    bytes[range.start as usize..range.end as usize].copy_from_slice(new);
                    parse.after_write(codec, &bytes, &mut span);
                    if let Some(tail) = tail {
                        replace(&mut kept, tail.start, tail.end, pieces(codec, &bytes, tail.start, tail.end).0);
                    }
                    let (found, end) = pieces(codec, &bytes, span.start, span.end);
                    if span.overwrites {
                        let until = if span.end == u64::MAX { u64::MAX } else { end };
                        replace(&mut kept, span.start, until, found);
                    } else {
                        kept.extend(found);
                    }
                    let whole = pieces(codec, &bytes, 0, u64::MAX).0;
                    prop_assert_eq!(&kept, &whole, "{:?} {:?} {:?}", format, step, span);
                }
                // Ranges that follow one another have every piece once, wherever they are cut.
                for chunk in [90, 4096] {
                    let (size, mut begin, mut ids) = (bytes.len() as u64, 0, Vec::new());
                    for at in (chunk..size).step_by(chunk as usize).chain([u64::MAX]) {
                        let end = parse.boundary_behind(codec, &bytes, at).max(begin);
                        let place = parse.place(codec, &bytes, begin);
                        walk(codec, &bytes, place, end, &mut |piece| ids.push(piece.id));
                        begin = end;
                    }
                    let mut whole = Vec::new();
                    walk(codec, &bytes, Place::default(), size, &mut |piece| whole.push(piece.id));
                    prop_assert_eq!(ids, whole, "{:?} cut at {}", format, chunk);
                }
            }
        }
    }

    /// A codec that counts the bytes it is given.
    #[derive(Debug)]
    struct Counting<'a>(&'a dyn Codec, std::sync::atomic::AtomicU64);

    impl Codec for Counting<'_> {
        fn boundaries(&self) -> Boundaries {
            self.0.boundaries()
        }
        fn piece_len_max(&self) -> Option<u64> {
            self.0.piece_len_max()
        }
        fn decode_within(
            &self,
            within: Within,
            offset: u64,
            bytes: &[u8],
            at_end: bool,
            out: &mut dyn FnMut(Piece<'_>),
        ) -> usize {
            let decoded = self.0.decode_within(within, offset, bytes, at_end, out);
            self.1
                .fetch_add(decoded as u64, std::sync::atomic::Ordering::Relaxed);
            decoded
        }
        fn is_blocked(&self) -> bool {
            self.0.is_blocked()
        }
        fn reach(&self) -> u64 {
            self.0.reach()
        }
        fn entry(&self, offset: u64, before: &[u8]) -> Option<u64> {
            self.0.entry(offset, before)
        }
        fn id_at(&self, offset: u64) -> u64 {
            self.0.id_at(offset)
        }
        fn offset_of(&self, id: u64) -> u64 {
            self.0.offset_of(id)
        }
        fn encode(
            &self,
            id: u64,
            data: &[u8],
            rest: &[u8],
            out: &mut Vec<u8>,
        ) -> Result<(), counterfoil_records::EncodeError> {
            self.0.encode(id, data, rest, out)
        }
    }

    /// A hole that is read chunk by chunk isn't looked through anew with each chunk, neither the first time nor when it is
    /// written over.
    #[test]
    fn a_hole_costs_what_it_is_long() {
        const CHUNK: u64 = 64 * 1024;
        for format in formats() {
            let codec = format.codec().unwrap();
            let codec = Counting(codec.as_ref(), 0.into());
            // Where each change costs more, fewer show it.
            let chunks = if codec.reach() > 2 * CHUNK { 30 } else { 100 };
            let mut bytes: Vec<u8> = Vec::new();
            let mut parse = Parse::default();
            for chunk in (0..chunks).chain(0..chunks) {
                let range = chunk * CHUNK..(chunk + 1) * CHUNK;
                let mut span = parse.before_write(&codec, &bytes, &range);
                bytes.resize(bytes.len().max(range.end as usize), 0);
                parse.after_write(&codec, &bytes, &mut span);
                let whole = parse.whole_until(&codec, &bytes, &span, range.end);
                assert!(
                    whole + (2 << 20) >= range.end,
                    "{format:?}: whole until {whole} of {}",
                    range.end
                );
            }
            let decoded = codec.1.load(std::sync::atomic::Ordering::Relaxed);
            assert!(
                decoded <= (10 * CHUNK + 4 * codec.reach()) * chunks,
                "{format:?}: {decoded} bytes decoded for {}",
                2 * CHUNK * chunks
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3))]
        /// The same where lines are too long and holes large: there boundaries are found without a line end, and a small
        /// change touches little.
        #[test]
        fn what_changed_in_long_lines_and_holes_is_found(
            parts in proptest::collection::vec((0..3u8, 0..3_000_000usize), 1..4),
            writes in proptest::collection::vec((0..6_000_000u64, 0..3u8, 1..20_000usize), 1..5),
        ) {
            let content = |kind: u8, len: usize| match kind {
                0 => vec![0; len],
                1 => vec![b'x'; len],
                _ => [vec![b'y'; len / 2], vec![b'\n'], vec![0; len / 2]].concat(),
            };
            let format = RecordFormat::new(Organization::Stream, Layout::Newline);
            let codec = format.codec().unwrap();
            let codec = codec.as_ref();
            let mut bytes: Vec<u8> = Vec::new();
            for (kind, len) in parts {
                bytes.extend(content(kind, len));
            }
            let mut parse = Parse::default();
            let mut kept = pieces(codec, &bytes, 0, u64::MAX).0;
            for (at, kind, len) in writes {
                let new = content(kind, len);
                let at = at % (bytes.len() as u64 + 1);
                let range = at..at + new.len() as u64;
                let mut span = parse.before_write(codec, &bytes, &range);
                if (bytes.len() as u64) < range.end {
                    bytes.resize(range.end as usize, 0);
                }
                bytes[range.start as usize..range.end as usize].copy_from_slice(&new);
                parse.after_write(codec, &bytes, &mut span);
                prop_assert!(
                    span.end <= range.end + (1 << 20) + 2 * RESIDUE_ALIGN as u64,
                    "{:?} for {:?}", span, range
                );
                let (found, end) = pieces(codec, &bytes, span.start, span.end);
                replace(&mut kept, span.start, end, found);
                let whole = pieces(codec, &bytes, 0, u64::MAX).0;
                let first = kept.iter().zip(&whole).find(|(ours, theirs)| ours != theirs);
                prop_assert!(
                    kept == whole,
                    "{:?}: first difference at {:?}", span, first.map(|(ours, theirs)| (ours.0, theirs.0))
                );
            }
        }
    }
}
