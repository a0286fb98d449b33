//! What every codec promises, on random bytes, on valid files, and on valid files with damage.

use super::*;
use crate::{DescriptorWord, Layout, Organization, RESIDUE_ALIGN, RecordFormat, VarseqFormat};
use proptest::prelude::*;
use std::rc::Rc;

type Shared = Rc<dyn Codec>;

/// A piece that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    id: u64,
    offset: u64,
    len: u64,
    kind: OwnedKind,
    /// What goes with its beginning, and with its end.
    within: Within,
    behind: Within,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnedKind {
    Record(Vec<u8>, Vec<u8>),
    Residue(Vec<u8>, &'static str),
    Empty,
}

impl From<Piece<'_>> for Owned {
    fn from(piece: Piece<'_>) -> Owned {
        let kind = match piece.kind {
            PieceKind::Record { data, rest } => OwnedKind::Record(data.to_vec(), rest.to_vec()),
            PieceKind::Residue { bytes, reason } => OwnedKind::Residue(bytes.to_vec(), reason),
            PieceKind::Empty => OwnedKind::Empty,
        };
        Owned {
            id: piece.id,
            offset: piece.offset,
            len: piece.len,
            kind,
            within: Within::default(),
            behind: piece.behind,
        }
    }
}

fn decode(codec: &dyn Codec, offset: u64, bytes: &[u8]) -> Vec<Owned> {
    decode_within(codec, Within::default(), offset, bytes)
}

fn decode_within(codec: &dyn Codec, within: Within, offset: u64, bytes: &[u8]) -> Vec<Owned> {
    let mut pieces = Vec::new();
    let taken = codec.decode_within(within, offset, bytes, true, &mut |piece| {
        pieces.push(piece.into());
    });
    assert_eq!(taken, bytes.len(), "at the end everything is taken");
    link(&mut pieces, within);
    pieces
}

/// What goes with the end of a piece goes with the beginning of the next one.
fn link(pieces: &mut [Owned], mut within: Within) {
    for piece in pieces {
        piece.within = within;
        within = piece.behind;
    }
}

fn behind(pieces: &[Owned]) -> Within {
    pieces
        .last()
        .map_or(Within::default(), |piece| piece.behind)
}

/// Decodes in calls of `cuts` further bytes each (used in turn), carrying what a call leaves.
fn decode_in_chunks(codec: &dyn Codec, bytes: &[u8], cuts: &[usize]) -> Vec<Owned> {
    let (mut pieces, mut at, mut end) = (Vec::new(), 0, 0);
    for cut in cuts.iter().cycle() {
        end = (end + cut.max(&1)).min(bytes.len());
        // The end may be noticed together with the last bytes, or after them.
        let at_end = end == bytes.len() && cut % 2 == 0;
        let given = &bytes[at..end];
        let within = behind(&pieces);
        let taken = codec.decode_within(within, at as u64, given, at_end, &mut |piece| {
            pieces.push(Owned::from(piece));
        });
        assert!(taken <= given.len());
        let max = codec.piece_len_max().expect("every codec has a bound") as usize;
        assert!(
            taken > 0 || given.len() < max || given.is_empty(),
            "no progress on {} bytes",
            given.len()
        );
        at += taken;
        if at_end {
            assert_eq!(at, bytes.len());
            break;
        }
        if end == bytes.len() && cuts.iter().all(|cut| cut % 2 == 1) {
            let within = behind(&pieces);
            let taken = codec.decode_within(within, at as u64, &bytes[at..], true, &mut |piece| {
                pieces.push(Owned::from(piece));
            });
            assert_eq!(at + taken, bytes.len());
            break;
        }
    }
    link(&mut pieces, Within::default());
    pieces
}

/// The file that the pieces came from.
fn encode(codec: &dyn Codec, pieces: &[Owned]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let begin = bytes.len();
        match &piece.kind {
            OwnedKind::Record(data, rest) => codec
                .encode(piece.id, data, rest, &mut bytes)
                .expect("what was decoded"),
            OwnedKind::Residue(residue, _) => bytes.extend_from_slice(residue),
            OwnedKind::Empty => bytes.resize(begin + piece.len as usize, 0),
        }
        assert_eq!((bytes.len() - begin) as u64, piece.len, "{piece:?}");
    }
    bytes
}

/// Everything the contract says about one file.
fn check(codec: &dyn Codec, bytes: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let pieces = decode(codec, 0, bytes);
    prop_assert!(
        encode(codec, &pieces) == bytes,
        "the pieces encode to the bytes"
    );
    let mut offset = 0;
    for (n, piece) in pieces.iter().enumerate() {
        prop_assert_eq!(piece.offset, offset, "no gaps");
        prop_assert!(piece.len > 0 && piece.len <= codec.piece_len_max().expect("bounded"));
        prop_assert_eq!(codec.id_at(offset), piece.id);
        prop_assert_eq!(codec.offset_of(piece.id), offset);
        prop_assert!(n == 0 || piece.id > pieces[n - 1].id, "identities grow");
        if let Boundaries::Pitch(pitch) = codec.boundaries() {
            prop_assert_eq!(offset % pitch, 0);
        }
        offset += piece.len;
    }
    if let Boundaries::After(value) = codec.boundaries() {
        let mut begins = pieces.iter().map(|piece| piece.offset as usize).peekable();
        for at in (0..bytes.len()).filter(|&at| bytes[at] == value && at + 1 < bytes.len()) {
            while begins.next_if(|&begin| begin < at + 1).is_some() {}
            prop_assert_eq!(
                begins.peek(),
                Some(&(at + 1)),
                "a piece begins after the byte at {}",
                at
            );
        }
    }
    prop_assert!(
        decode_in_chunks(codec, bytes, cuts) == pieces,
        "pieces are the same in chunks"
    );
    // Any boundary is as good to begin at as the first one.
    for from in [
        pieces.len() / 3,
        pieces.len() / 2,
        pieces.len().saturating_sub(1),
    ] {
        if let Some(piece) = pieces.get(from) {
            let tail = decode_within(
                codec,
                piece.within,
                piece.offset,
                &bytes[piece.offset as usize..],
            );
            prop_assert!(
                tail == pieces[from..],
                "pieces are the same from piece {}",
                from
            );
        }
    }
    Ok(())
}

/// Every kind of codec, with small sizes so that little input shows much.
fn codec() -> impl Strategy<Value = Shared> {
    prop_oneof![5 => bare_codec(), 1 => headed_codec()]
}

/// Slots with types and marks.
fn typed_slots() -> impl Strategy<Value = Box<dyn Codec>> {
    (any::<bool>(), any::<bool>(), 1usize..40).prop_map(|(is_long, is_pair, size)| {
        let header = if is_long {
            MfHeader::Long
        } else {
            MfHeader::Short
        };
        let marker = if is_pair { Marker::Pair } else { Marker::Byte };
        Box::new(TypedSlots::new(header, marker, size)) as Box<dyn Codec>
    })
}

/// Files in which there is more than records.
fn headed_codec() -> impl Strategy<Value = Shared> {
    fn boxed(codec: impl Codec + 'static) -> Box<dyn Codec> {
        Box::new(codec)
    }
    let inner = prop_oneof![
        typed_slots().prop_map(|codec| (codec, true)),
        (1usize..40).prop_map(|size| (boxed(Fixed::new(size, Identity::Number)), true)),
        (1usize..40).prop_map(|size| (boxed(Fixed::new(size, Identity::Address)), false)),
        Just(()).prop_map(|()| (boxed(Lines::new(0)), false)),
        Just(()).prop_map(|()| (boxed(Quoted::new(b'"', b',', 0)), false)),
        (1usize..500).prop_map(|len_max| {
            let word = Some(DescriptorWord::NATIVE);
            (boxed(Blocked::of_segments(word, len_max)), false)
        }),
        (1usize..500).prop_map(|len_max| {
            let framing = Framing::MicroFocus(MfHeader::Short);
            (boxed(Prefixed::new(framing, len_max)), false)
        }),
    ];
    let skip = prop::collection::vec(1u8..3, 0..2);
    (inner, 0usize..200, any::<bool>(), skip).prop_map(
        |((inner, is_numbered), header, without_first, skip)| {
            let skip = skip.into_iter().map(|byte| vec![byte]).collect();
            let mut codec = Headed::new(inner, is_numbered).skipping(skip);
            if header > 3 {
                codec = codec.behind(vec![0; header]);
            } else if without_first {
                codec = codec.without_first();
            }
            Rc::new(codec) as Shared
        },
    )
}

fn bare_codec() -> impl Strategy<Value = Shared> {
    let varseq = |len_max: std::ops::RangeInclusive<usize>| {
        (0u8..4, len_max).prop_map(|(format, len_max)| {
            let format = VarseqFormat::try_from(format).expect("0 to 3");
            Rc::new(Prefixed::new(Framing::Varseq(format), len_max)) as Shared
        })
    };
    const BIG_EXCLUSIVE: DescriptorWord = DescriptorWord {
        is_little: false,
        is_exclusive: true,
    };
    const LITTLE: DescriptorWord = DescriptorWord {
        is_little: true,
        is_exclusive: false,
    };
    const FRAMINGS: [Framing; 8] = [
        Framing::Rdw(DescriptorWord::NATIVE),
        Framing::Rdw(DescriptorWord::LITTLE_EXCLUSIVE),
        Framing::Rdw(LITTLE),
        Framing::Vms,
        Framing::MicroFocus(MfHeader::Short),
        Framing::MicroFocus(MfHeader::Long),
        Framing::Varout { block: 4096 },
        Framing::Varout { block: 512 },
    ];
    let word = || {
        prop::sample::select(
            &[
                DescriptorWord::NATIVE,
                BIG_EXCLUSIVE,
                LITTLE,
                DescriptorWord::LITTLE_EXCLUSIVE,
            ][..],
        )
    };
    let blocked = prop_oneof![
        (word(), word(), 1usize..500)
            .prop_map(|(bdw, rdw, len_max)| Blocked::of_records(bdw, rdw, len_max)),
        (prop::option::of(word()), 1usize..500)
            .prop_map(|(bdw, len_max)| Blocked::of_segments(bdw, len_max)),
    ]
    .prop_map(|codec| Rc::new(codec) as Shared)
    .boxed();
    let framed = |len_max: std::ops::RangeInclusive<usize>| {
        (prop::sample::select(&FRAMINGS[..]), len_max)
            .prop_map(|(framing, len_max)| Rc::new(Prefixed::new(framing, len_max)) as Shared)
            .boxed()
    };
    prop_oneof![
        (1usize..40, any::<bool>()).prop_map(|(size, number)| {
            let identity = if number {
                Identity::Number
            } else {
                Identity::Address
            };
            Rc::new(Fixed::new(size, identity)) as Shared
        }),
        (1usize..40, any::<bool>()).prop_map(|(size, is_long)| {
            let length = if is_long {
                SlotLength::Long
            } else {
                SlotLength::Short
            };
            Rc::new(Relative::new(length, size)) as Shared
        }),
        (1usize..40, any::<bool>()).prop_map(|(size, is_pair)| {
            let marker = if is_pair { Marker::Pair } else { Marker::Byte };
            Rc::new(Marked::new(marker, size)) as Shared
        }),
        framed(0..=60),
        framed(1000..=60_000),
        varseq(0..=60),
        varseq(1000..=60_000),
        Just(()).prop_map(|()| Rc::new(Lines::new(0)) as Shared),
        (1usize..40).prop_map(|size| Rc::new(Blocks::new(size)) as Shared),
        prop::sample::select(&b",;"[..])
            .prop_map(|delimiter| Rc::new(Quoted::new(b'"', delimiter, 0)) as Shared),
        typed_slots().prop_map(|codec| Rc::from(codec) as Shared),
        blocked.clone(),
        blocked,
    ]
}

/// Stretches of bytes of different kinds, so that holes, long lines and text follow each other.
fn stretches() -> impl Strategy<Value = Vec<u8>> {
    let stretch = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..300),
        2 => prop::collection::vec(prop::sample::select(&b"ab \r\n\n\0"[..]), 0..300),
        2 => prop::collection::vec(prop::sample::select(&[0u8, 0, 0, 1, 5, 12][..]), 0..300),
        2 => prop::collection::vec(prop::sample::select(&b"ab,\"\"\r\n"[..]), 0..300),
        2 => prop::collection::vec(block(), 0..6).prop_map(|blocks| blocks.concat()),
        1 => (0usize..3 * RESIDUE_ALIGN).prop_map(|len| vec![0; len]),
        1 => (0usize..5 * RESIDUE_ALIGN).prop_map(|len| vec![b'x'; len]),
    ];
    prop::collection::vec(stretch, 0..8).prop_map(|stretches| stretches.concat())
}

/// A block of segments as on z/OS, one that spans into the next or from the one before it where it can.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let segments = prop::collection::vec(
        (0u8..40, prop::sample::select(&[0u8, 0, 0, 1, 2, 3][..])),
        0..5,
    );
    (segments, any::<bool>(), any::<bool>()).prop_map(|(segments, continues, goes_on)| {
        let last = segments.len().saturating_sub(1);
        let content: Vec<u8> = (segments.iter().enumerate())
            .flat_map(|(n, &(len, part))| {
                let part = match (n == 0 && continues, n == last && goes_on) {
                    (true, true) => 3,
                    (true, false) => 2,
                    (false, true) => 1,
                    (false, false) => part / 3 * part,
                };
                let mut segment = vec![0, len + 4, part, 0];
                segment.extend(vec![b'x'; usize::from(len)]);
                segment
            })
            .collect();
        let mut block = (content.len() as u16 + 4).to_be_bytes().to_vec();
        block.extend([0, 0]);
        block.extend(content);
        block
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        prop::collection::vec(1usize..30, 1..10),
        prop::collection::vec(1usize..9000, 1..10)
    ]
}

/// A change of a file: bytes written somewhere, or appended, or the end cut off.
#[derive(Clone, Debug)]
struct Change {
    at: prop::sample::Index,
    with: Vec<u8>,
    then: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kept,
    Cut,
    Appended,
}

impl Change {
    /// The changed file, and where the change begins.
    fn apply(&self, bytes: &[u8]) -> (Vec<u8>, usize) {
        let mut changed = bytes.to_vec();
        let at = self.at.index(bytes.len() + 1);
        match self.then {
            End::Kept => {
                let len = self.with.len().min(bytes.len() - at);
                changed[at..at + len].copy_from_slice(&self.with[..len]);
                (changed, at)
            }
            End::Cut => {
                changed.truncate(at);
                (changed, at)
            }
            End::Appended => {
                changed.extend_from_slice(&self.with);
                (changed, bytes.len())
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let with = prop_oneof![
        prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'\n')], 1..20),
        (1usize..6000).prop_map(|len| vec![0; len]),
    ];
    let then = prop::sample::select(&[End::Kept, End::Kept, End::Cut, End::Appended][..]);
    (any::<prop::sample::Index>(), with, then).prop_map(|(at, with, then)| Change {
        at,
        with,
        then,
    })
}

/// A valid file: records (data, bytes behind it) encoded one after the other.
fn valid_file(codec: &dyn Codec, records: &[(Vec<u8>, bool)]) -> (Vec<u8>, Vec<Owned>) {
    let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
    for (data, flag) in records {
        let lead = codec.lead(bytes.len() as u64, data.len().min(60));
        if !lead.is_empty() {
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(&lead);
            pieces.push(Owned {
                id: codec.id_at(offset),
                offset,
                len: lead.len() as u64,
                kind: OwnedKind::Residue(lead, "rest of a block without records"),
                within: Within::default(),
                behind: Within::default(),
            });
        }
        let offset = bytes.len() as u64;
        let id = codec.id_at(offset);
        // Lines take it as it is; fixed records, blocks and slots are made to fit.
        let (data, rest) = match (codec.boundaries(), codec.piece_len_max()) {
            (Boundaries::After(_), _) => {
                let line: Vec<u8> = data
                    .iter()
                    .copied()
                    .filter(|byte| !b"\r\n".contains(byte))
                    .collect();
                (line, if *flag { b"\r".to_vec() } else { Vec::new() })
            }
            (Boundaries::Pitch(pitch), _) => {
                let mut whole: Vec<u8> =
                    data.iter().copied().cycle().take(pitch as usize).collect();
                whole.resize(pitch as usize, b'.');
                whole[0] |= 1;
                (whole, Vec::new())
            }
            (Boundaries::Forward, max) => {
                let len_max = (max.expect("bounded") as usize - 4).min(60);
                // What ends a line, and what begins a quote.
                let plain = data.iter().filter(|byte| !b"\r\n\"".contains(byte));
                (plain.copied().take(len_max).collect(), Vec::new())
            }
        };
        let (data, rest) = match codec.encode(id, &data, &rest, &mut bytes) {
            Ok(()) => (data, rest),
            Err(_) => encode_slot(codec, id, &data, &mut bytes),
        };
        let len = bytes.len() as u64 - offset;
        pieces.push(Owned {
            id,
            offset,
            len,
            kind: OwnedKind::Record(data, rest),
            within: Within::default(),
            behind: Within::default(),
        });
    }
    (bytes, pieces)
}

/// Encodes a record into a slot, some bytes of whose pitch are a length or a mark.
fn encode_slot(
    codec: &dyn Codec,
    id: u64,
    pitch: &[u8],
    bytes: &mut Vec<u8>,
) -> (Vec<u8>, Vec<u8>) {
    for overhead in [1, 2, 3, 4, 5, 6, 8] {
        let Some(size) = pitch.len().checked_sub(overhead).filter(|&size| size > 0) else {
            continue;
        };
        for len in [1 + size / 2, size] {
            let (data, rest) = pitch[..size].split_at(len.min(size));
            if codec.encode(id, data, rest, bytes).is_ok() {
                return (data.to_vec(), rest.to_vec());
            }
        }
    }
    panic!("no record fits a slot of {} bytes", pitch.len());
}

/// A codec whose longest record is at least 60 bytes where records vary.
fn roomy_codec() -> impl Strategy<Value = Shared> {
    bare_codec().prop_filter("short varseq", |codec| {
        !matches!(codec.boundaries(), Boundaries::Forward)
            || codec.encode(0, &[1; 60], &[], &mut Vec::new()).is_ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_hold_the_contract(codec in codec(), bytes in stretches(), cuts in cuts()) {
        check(&*codec, &bytes, &cuts)?;
    }

    #[test]
    fn records_come_back_as_they_were(
        codec in roomy_codec(),
        records in prop::collection::vec((prop::collection::vec(1u8.., 0..60), any::<bool>()), 0..40),
        cuts in cuts(),
    ) {
        let (bytes, pieces) = valid_file(&*codec, &records);
        prop_assert_eq!(decode(&*codec, 0, &bytes), pieces);
        check(&*codec, &bytes, &cuts)?;
    }

    #[test]
    fn damaged_files_hold_the_contract(
        codec in roomy_codec(),
        records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), any::<bool>()), 1..40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts in cuts(),
    ) {
        let (mut bytes, _) = valid_file(&*codec, &records);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
        check(&*codec, &bytes, &cuts)?;
    }

    /// Behind a change everything is as before from the first boundary that old and new pieces share.
    #[test]
    fn pieces_meet_again_behind_a_change(codec in codec(), bytes in stretches(), change in change()) {
        let (changed, at) = Change { then: End::Kept, ..change.clone() }.apply(&bytes);
        let end = (at + change.with.len()) as u64;
        let (old, new) = (decode(&*codec, 0, &bytes), decode(&*codec, 0, &changed));
        let shared = |piece: &Owned| {
            let is_same = |it: &Owned| (it.offset, it.within) == (piece.offset, piece.within);
            piece.offset >= end && new.iter().any(is_same)
        };
        if let Some(first) = old.iter().position(shared) {
            let same = new.iter().position(|piece| piece.offset == old[first].offset).expect("it was found");
            prop_assert_eq!(&old[first..], &new[same..]);
        }
    }

    /// Before an entry everything is as before, and decoding from there gives the rest.
    #[test]
    fn an_entry_is_far_enough_before_a_change(
        codec in codec(), bytes in stretches(), change in change(), back in 1usize..20_000,
    ) {
        let (changed, at) = change.apply(&bytes);
        let old = decode(&*codec, 0, &bytes);
        let from = at.saturating_sub(back);
        let entry = match codec.boundaries() {
            Boundaries::Forward => {
                let far = old.iter().rfind(|piece| piece.offset + codec.reach() <= at as u64);
                let (from, within) = far.map_or((0, Within::default()), |piece| (piece.offset, piece.within));
                // What the bytes before the change settle is settled.
                let settled = codec.decode_within(within, from, &bytes[from as usize..at], false, &mut |_| ());
                Some(if back % 2 == 0 { from } else { from + settled as u64 })
            }
            // What is near may be enough; if it isn't, the whole file is.
            _ => codec.entry(from as u64, &bytes[from..at]).or_else(|| codec.entry(0, &bytes[..at])),
        };
        let entry = entry.unwrap_or(0);
        prop_assert!(entry <= at as u64);
        let before: Vec<Owned> = old.into_iter().filter(|piece| piece.offset < entry).collect();
        let behind = decode_within(&*codec, behind(&before), entry, &changed[entry as usize..]);
        let pieces: Vec<Owned> = before.into_iter().chain(behind).collect();
        prop_assert!(pieces == decode(&*codec, 0, &changed), "entry {} for a change at {}", entry, at);
    }

    /// A reader that finds no entry in the stretch that the docs of `Boundaries` name is at the beginning.
    #[test]
    fn entries_are_not_far(bytes in stretches(), before in 0usize..9000) {
        let codec = Lines::new(0);
        let bytes = [vec![b'y'; before], bytes, vec![b'z'; RESIDUE_ALIGN]].concat();
        let stretch = codec.piece_len_max().expect("bounded") as usize + RESIDUE_ALIGN;
        for at in (0..bytes.len()).step_by(997) {
            let from = at.saturating_sub(stretch);
            prop_assert!(codec.entry(from as u64, &bytes[from..at]).is_some(), "for a change at {}", at);
        }
    }

    #[test]
    fn offsets_near_the_largest_do_not_panic(
        codec in codec(), back in 0u64..10_000, id in any::<u64>(), bytes in stretches(), at_end in any::<bool>(),
    ) {
        let offset = u64::MAX - back;
        codec.decode(offset, &bytes, at_end, &mut |_| ());
        codec.id_at(offset);
        codec.offset_of(id);
        codec.offset_of(u64::MAX - back);
        codec.entry(offset, &bytes);
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(
        codec in codec(), data in prop::collection::vec(prop::sample::select(&b"a\0\r\n"[..]), 0..60), rest in prop::collection::vec(prop::sample::select(&b"\r\0"[..]), 0..30),
    ) {
        // Not the first word of a block: that record isn't one by itself.
        prop_assume!(!codec.is_blocked() || (rest.len() / 4).is_multiple_of(2));
        let mut bytes = b"before".to_vec();
        let id = codec.id_at(0);
        match codec.encode(id, &data, &rest, &mut bytes) {
            Err(_) => prop_assert_eq!(&bytes[..], b"before"),
            Ok(()) => {
                let pieces = decode(&*codec, 0, &bytes[6..]);
                prop_assert_eq!(pieces.len(), 1);
                let kind = OwnedKind::Record(data.clone(), rest.clone());
                let zero = bytes[6..].iter().all(|&byte| byte == 0);
                prop_assert!(pieces[0].kind == kind || zero && pieces[0].kind == OwnedKind::Empty, "{:?}", pieces);
            }
        }
    }
}

fn kinds(format: &RecordFormat, bytes: &[u8]) -> Vec<(u64, OwnedKind)> {
    let codec = format.codec().expect("the format is valid");
    decode(&*codec, 0, bytes)
        .into_iter()
        .map(|piece| (piece.id, piece.kind))
        .collect()
}

fn record(data: &[u8], rest: &[u8]) -> OwnedKind {
    OwnedKind::Record(data.to_vec(), rest.to_vec())
}

fn residue(bytes: &[u8], reason: &'static str) -> OwnedKind {
    OwnedKind::Residue(bytes.to_vec(), reason)
}

#[test]
fn fixed_records_have_numbers_from_1() {
    let format = RecordFormat::new(Organization::Fixed, Layout::Gnucobol).with_record_size(3);
    assert_eq!(
        kinds(&format, b"abc\0\0\0defgh"),
        [
            (1, record(b"abc", b"")),
            (2, OwnedKind::Empty),
            (3, record(b"def", b"")),
            (4, residue(b"gh", "partial record at the end")),
        ]
    );
}

#[test]
fn sequential_fixed_records_have_addresses() {
    let format = RecordFormat::new(Organization::Sequential, Layout::Plain).with_record_size(3);
    assert_eq!(
        kinds(&format, b"abcdef"),
        [(0, record(b"abc", b"")), (3, record(b"def", b""))]
    );
}

#[test]
fn relative_slots_are_judged_by_their_length() {
    let slot = |len: u64, content: &[u8]| [&len.to_le_bytes()[..], content].concat();
    let slots = [
        slot(4, b"ABCD"),
        slot(2, b"ABCD"),
        slot(0, b"ABCD"),
        slot(0, &[0; 4]),
        slot(5, b"ABCD"),
        slot(u64::MAX, b"ABCD"),
        slot(3, &[0; 4]),
        slot(4, b"AB"),
    ];
    let format = RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(4);
    assert_eq!(
        kinds(&format, &slots.concat()),
        [
            (1, record(b"ABCD", b"")),
            (2, record(b"AB", b"CD")),
            (3, residue(&slots[2], "deleted slot")),
            (4, OwnedKind::Empty),
            (
                5,
                residue(&slots[4], "slot length is more than the record size")
            ),
            (
                6,
                residue(&slots[5], "slot length is more than the record size")
            ),
            (7, record(&[0; 3], &[0])),
            (8, residue(&slots[7], "partial slot at the end")),
        ]
    );
}

#[test]
fn each_varseq_format_reads_its_own_prefix() {
    let files: [&[u8]; 4] = [
        b"\x00\x03\x00\x00abc\x00\x00\x00\x00\x00\x01\x00\x00d",
        b"\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x00\x00\x01d",
        b"\x03\x00\x00\x00abc\x00\x00\x00\x00\x01\x00\x00\x00d",
        b"\x00\x03abc\x00\x00\x00\x01d",
    ];
    for (number, file) in files.into_iter().enumerate() {
        let prefix_len = if number == 3 { 2 } else { 4 };
        let format = RecordFormat::new(Organization::Sequential, Layout::Gnucobol)
            .with_varseq_format(VarseqFormat::try_from(number as u8).expect("0 to 3"));
        assert_eq!(
            kinds(&format, file),
            [
                (0, record(b"abc", b"")),
                (prefix_len + 3, record(b"", b"")),
                (2 * prefix_len + 3, record(b"d", b"")),
            ],
            "varseq_format {number}"
        );
    }
}

#[test]
fn descriptor_words_count_themselves_on_the_mainframe() {
    let format = RecordFormat::new(Organization::Sequential, Layout::IbmV);
    assert_eq!(
        kinds(
            &format,
            b"\x00\x07\x00\x00abc\x00\x04\x00\x00\x00\x05\x00\x00d"
        ),
        [
            (0, record(b"abc", b"")),
            (7, record(b"", b"")),
            (11, record(b"d", b"")),
        ]
    );
    // No word is as short as this, and none has a segment's flags in a file without spanned records.
    for bad in [b"\x00\x03\x00\x00ab", b"\x00\x06\x01\x00ab"] {
        assert_eq!(
            kinds(&format, bad),
            [(0, residue(bad, "bad length prefix"))]
        );
    }
    let format = RecordFormat::new(Organization::Sequential, Layout::RdwLittle);
    assert_eq!(
        kinds(&format, b"\x00\x00\x03\x00abc\x00\x00\x01\x00d"),
        [(0, record(b"abc", b"")), (7, record(b"d", b""))]
    );
}

#[test]
fn vms_records_begin_at_even_addresses() {
    let format = RecordFormat::new(Organization::Sequential, Layout::Vms);
    let mut file = b"\x03\x00abc\x00\x02\x00de\x01\x00f!\xff\xff".to_vec();
    file.resize(512, 0);
    file.extend(b"\x01\x00g\x00");
    assert_eq!(
        kinds(&format, &file),
        [
            (0, record(b"abc", b"")),
            (6, record(b"de", b"")),
            (10, record(b"f", b"!")),
            (
                14,
                residue(&file[14..512], "rest of a block without records")
            ),
            (512, record(b"g", b"")),
        ]
    );
}

#[test]
fn micro_focus_slots_are_judged_by_their_mark() {
    let slots: [&[u8]; 6] = [
        b"ABCD\n",
        b"EFGH\0",
        b"\0\0\0\0\0",
        b"IJKL?",
        b"\0\0\0\0\n",
        b"MN",
    ];
    let format = RecordFormat::new(Organization::Relative, Layout::MicroFocus).with_record_size(4);
    assert_eq!(
        kinds(&format, &slots.concat()),
        [
            (1, record(b"ABCD", b"")),
            (2, residue(slots[1], "deleted slot")),
            (3, OwnedKind::Empty),
            (4, residue(slots[3], "a slot without a mark")),
            (5, record(&[0; 4], b"")),
            (6, residue(slots[5], "partial slot at the end")),
        ]
    );
    let format = format_with(Layout::MicroFocusCrlf, 2);
    assert_eq!(
        kinds(&format, b"AB\r\nCD\r\0\0\0\0\0E"),
        [
            (1, record(b"AB", b"")),
            (2, residue(b"CD\r\0", "deleted slot")),
            (3, OwnedKind::Empty),
            (4, residue(b"E", "partial slot at the end")),
        ]
    );
}

#[test]
fn counted_slots_have_short_lengths() {
    let format = format_with(Layout::Counted, 4);
    assert_eq!(
        kinds(&format, b"\x00\x03ABC.\x00\x00ABC.\0\0\0\0\0\0\x00\x05ABCD"),
        [
            (1, record(b"ABC", b".")),
            (2, residue(b"\x00\x00ABC.", "deleted slot")),
            (3, OwnedKind::Empty),
            (
                4,
                residue(b"\x00\x05ABCD", "slot length is more than the record size")
            ),
        ]
    );
}

fn format_with(layout: Layout, record_size: u64) -> RecordFormat {
    RecordFormat::new(Organization::Relative, layout).with_record_size(record_size)
}

/// A record that was cut off is one piece at the record's address, and a record once it is whole.
#[test]
fn varseq_tails_are_residue() {
    let format = RecordFormat::new(Organization::Sequential, Layout::Gnucobol).with_record_size(10);
    assert_eq!(
        kinds(&format, b"\x00\x03\x00\x00ab"),
        [(
            0,
            residue(b"\x00\x03\x00\x00ab", "partial record at the end")
        )]
    );
    assert_eq!(
        kinds(&format, b"\x00\x03\x00"),
        [(
            0,
            residue(b"\x00\x03\x00", "partial length prefix at the end")
        )]
    );
    assert_eq!(
        kinds(&format, b"\x00\x03\x00\x01abc"),
        [(0, residue(b"\x00\x03\x00\x01abc", "bad length prefix"))]
    );
    let longer = b"\x00\x0b\x00\x00abcdefghijk";
    assert_eq!(
        kinds(&format, longer),
        [(0, residue(longer, "bad length prefix"))]
    );
}

#[test]
fn varseq_reads_on_at_the_next_multiple_after_a_bad_prefix() {
    let mut file = b"\x00\x02\x00\x00ab".to_vec();
    file.resize(RESIDUE_ALIGN, b'?');
    file.extend_from_slice(b"\x00\x02\x00\x00cd");
    let format = RecordFormat::new(Organization::Sequential, Layout::Gnucobol);
    assert_eq!(
        kinds(&format, &file),
        [
            (0, record(b"ab", b"")),
            (6, residue(&file[6..RESIDUE_ALIGN], "bad length prefix")),
            (RESIDUE_ALIGN as u64, record(b"cd", b"")),
        ]
    );
}

/// A hole must neither cost a row per prefix nor shift what is behind it.
#[test]
fn a_hole_in_a_varseq_file_shifts_nothing() {
    let mut file = b"\x00\x01\x00\x00a".to_vec();
    file.resize(5 + RESIDUE_ALIGN + 8, 0);
    file.extend_from_slice(b"\x00\x01\x00\x00b");
    let format = RecordFormat::new(Organization::Sequential, Layout::Gnucobol);
    let behind = 5 + RESIDUE_ALIGN as u64;
    assert_eq!(
        kinds(&format, &file),
        [
            (0, record(b"a", b"")),
            (5, OwnedKind::Empty),
            (behind, record(b"", b"")),
            (behind + 4, record(b"", b"")),
            (behind + 8, record(b"b", b"")),
        ]
    );
}

#[test]
fn lines_keep_their_ends() {
    let format = RecordFormat::new(Organization::Sequential, Layout::LineSequential);
    assert_eq!(
        kinds(&format, b"one\n\ntwo\r\n\r\nt\r\0\r\r\nlast"),
        [
            (0, record(b"one", b"")),
            (4, record(b"", b"")),
            (5, record(b"two", b"\r")),
            (10, record(b"", b"\r")),
            (12, record(b"t\r\0\r", b"\r")),
            (18, residue(b"last", "unterminated last line")),
        ]
    );
}

#[test]
fn a_line_too_long_is_cut_until_its_end_is_near() {
    let len_max = 2 * RESIDUE_ALIGN;
    let mut file = b"short\n".to_vec();
    file.resize(3 * RESIDUE_ALIGN + 100, b'x');
    file.extend_from_slice(b"\nnext\n");
    let pieces = decode(&Lines::new(len_max), 0, &file);
    let cut = "line longer than the longest line";
    let seen: Vec<_> = pieces
        .into_iter()
        .map(|piece| (piece.offset as usize, piece.kind))
        .collect();
    assert_eq!(
        seen,
        [
            (0, record(b"short", b"")),
            (6, residue(&file[6..RESIDUE_ALIGN], cut)),
            (
                RESIDUE_ALIGN,
                residue(&file[RESIDUE_ALIGN..2 * RESIDUE_ALIGN], cut)
            ),
            (
                2 * RESIDUE_ALIGN,
                record(&file[2 * RESIDUE_ALIGN..3 * RESIDUE_ALIGN + 100], b"")
            ),
            (3 * RESIDUE_ALIGN + 101, record(b"next", b"")),
        ]
    );
}

/// A log truncated under a writer that keeps its offset begins with a hole.
#[test]
fn a_hole_before_text_is_empty() {
    let mut file = vec![0; 10 * RESIDUE_ALIGN + 3];
    file.extend_from_slice(b"line\n");
    let format = RecordFormat::new(Organization::Stream, Layout::Newline);
    let pieces = kinds(&format, &file);
    assert_eq!(pieces.len(), 11);
    assert!(
        pieces[..10]
            .iter()
            .all(|(_, kind)| *kind == OwnedKind::Empty)
    );
    assert_eq!(
        pieces[10],
        (10 * RESIDUE_ALIGN as u64, record(b"\0\0\0line", b""))
    );
}

/// Some zero bytes at the begin of a line are content, even where a multiple of the alignment is near.
#[test]
fn zero_bytes_before_text_are_content() {
    let mut file = vec![b'a'; RESIDUE_ALIGN - 3];
    file.extend_from_slice(b"\n\0\0line\n");
    let format = RecordFormat::new(Organization::Stream, Layout::Newline);
    assert_eq!(
        kinds(&format, &file)[1..],
        [(RESIDUE_ALIGN as u64 - 2, record(b"\0\0line", b""))]
    );
}

#[test]
fn blocks_keep_a_short_tail() {
    let format = RecordFormat::new(Organization::Stream, Layout::Blocks).with_record_size(4);
    assert_eq!(
        kinds(&format, b"abcd\0\0\0\0\0\0"),
        [
            (0, record(b"abcd", b"")),
            (1, OwnedKind::Empty),
            (2, record(b"\0\0", b""))
        ]
    );
}

fn typed(words: &str, record_size: Option<u64>) -> RecordFormat {
    let words: crate::LayoutWords = words.parse().expect("layout words");
    RecordFormat {
        record_size,
        ..RecordFormat::new(words.layout.usual_organization(), words.layout)
            .with_settings(words.settings)
    }
}

/// The bytes of blocks as on z/OS, of segments with their flags.
fn blocks(blocks: &[&[(u8, &[u8])]]) -> Vec<u8> {
    let mut file = Vec::new();
    for segments in blocks {
        let len: usize = segments.iter().map(|(_, data)| data.len() + 4).sum();
        file.extend([0, len as u8 + 4, 0, 0]);
        for (part, data) in *segments {
            file.extend([0, data.len() as u8 + 4, *part, 0]);
            file.extend_from_slice(data);
        }
    }
    file
}

#[test]
fn blocked_records_keep_the_words_of_their_blocks() {
    let file = blocks(&[&[(0, b"abc"), (0, b""), (0, b"d")], &[(0, b"alone")]]);
    assert_eq!(
        kinds(&typed("ibm-vb", None), &file),
        [
            (0, record(b"abc", &file[..8])),
            (11, record(b"", &file[11..15])),
            (15, record(b"d", &file[15..19])),
            (20, record(b"alone", b"")),
        ]
    );
    // A record may look like anything: its word was due, and not that of a block.
    let file = blocks(&[&[(0, b"a"), (0, b"\0\x05\0\0b")]]);
    assert_eq!(
        kinds(&typed("ibm-vb", None), &file)[1].1,
        record(b"\0\x05\0\0b", &file[9..13])
    );
    // A large block's word, and words as they were transferred.
    assert_eq!(
        kinds(&typed("ibm-vb", None), b"\x80\0\0\x09\0\x05\0\0x"),
        [(0, record(b"x", b"\x80\0\0\x09\0\x05\0\0"))]
    );
    assert_eq!(
        kinds(
            &typed("ibm-vb,rdw=little-exclusive,bdw=little", None),
            b"\0\0\x09\0\0\0\x01\0x"
        ),
        [(0, record(b"x", b""))]
    );
    assert_eq!(
        kinds(&typed("ibm-v,rdw=little", None), b"\0\0\x05\0x"),
        [(0, record(b"x", b""))]
    );
}

#[test]
fn damage_in_a_block_ends_with_the_block() {
    let mut file = blocks(&[&[(0, b"abc"), (0, b"def")], &[(0, b"alone")]]);
    file[11] = 0xff;
    assert_eq!(
        kinds(&typed("ibm-vb", None), &file),
        [
            (0, record(b"abc", &file[..8])),
            (11, residue(&file[11..18], "bad record descriptor word")),
            (18, record(b"alone", b"")),
        ]
    );
    assert_eq!(
        kinds(&typed("ibm-vb", None), b"\0\x04\0\0\0\x10\0\0\0\x04\0\0ab"),
        [
            (0, residue(b"\0\x04\0\0", "a block without records")),
            (4, record(b"", b"\0\x10\0\0\0\x04\0\0")),
            (
                12,
                residue(b"ab", "partial record descriptor word at the end")
            ),
        ]
    );
}

#[test]
fn spanned_records_are_put_together() {
    let file = blocks(&[
        &[(0, b"one"), (1, b"begin-")],
        &[(3, b"middle-")],
        &[(2, b"end"), (0, b"two")],
    ]);
    let words: Vec<u8> = [&file[11..15], &file[21..29], &file[36..44]].concat();
    assert_eq!(
        kinds(&typed("ibm-vbs", None), &file),
        [
            (0, record(b"one", &file[..8])),
            (11, record(b"begin-middle-end", &words)),
            (47, record(b"two", &file[47..51])),
        ]
    );
    // Without the words of blocks.
    assert_eq!(
        kinds(
            &typed("ibm-vs", None),
            b"\0\x05\x01\0a\0\x05\x02\0b\0\x05\0\0c"
        ),
        [
            (0, record(b"ab", b"\0\x05\x01\0\0\x05\x02\0")),
            (10, record(b"c", b"")),
        ]
    );
    // Its end isn't there yet; it never comes; it comes without a beginning.
    let begin = blocks(&[&[(1, b"begin-")]]);
    assert_eq!(
        kinds(&typed("ibm-vbs", None), &begin),
        [(0, residue(&begin, "partial record at the end"))]
    );
    let broken = blocks(&[&[(1, b"begin-")], &[(0, b"two"), (2, b"end")]]);
    assert_eq!(
        kinds(&typed("ibm-vbs", None), &broken),
        [
            (
                0,
                residue(&broken[..14], "a segment without the end of its record")
            ),
            (14, record(b"two", &broken[14..22])),
            (
                25,
                residue(
                    &broken[25..],
                    "a segment without the beginning of its record"
                )
            ),
        ]
    );
}

#[test]
fn micro_focus_records_have_types_and_padding() {
    let mut file = vec![0; 128];
    file[..4].copy_from_slice(&[0x30, 0x7e, 0, 0]);
    file.extend(
        b"\x40\x03abc   \x40\x08ABCDEFGH  \x20\x01x     \x40\x06abcdef\x40\x02ab\0\0\0\0\x40",
    );
    assert_eq!(
        kinds(&typed("micro-focus-variable", Some(100)), &file),
        [
            (0, residue(&file[..128], "file header")),
            (128, record(b"abc", b"")),
            (136, record(b"ABCDEFGH", b"")),
            (148, residue(b"\x20\x01x     ", "deleted record")),
            (156, record(b"abcdef", b"")),
            (164, record(b"ab", b"\0\0\0\0")),
            (172, residue(b"\x40", "partial length prefix at the end")),
        ]
    );
    // The header of a file with longer records, and part of one.
    let long = kinds(&typed("micro-focus-variable", Some(5000)), &file[..128]);
    assert_eq!(
        long,
        [(
            0,
            residue(&file[..128], "no file header of a file with these settings")
        )]
    );
    assert_eq!(
        kinds(&typed("micro-focus-variable", Some(100)), &file[..50]),
        [(0, residue(&file[..50], "part of a file header"))]
    );
    let mut long = vec![0; 128];
    long[..4].copy_from_slice(&[0x30, 0, 0, 0x7c]);
    long.extend(b"\x40\0\0\x03abc ");
    assert_eq!(
        kinds(&typed("micro-focus-variable", Some(5000)), &long)[1],
        (128, record(b"abc", b""))
    );
}

#[test]
fn micro_focus_slots_of_varying_records_have_types_and_marks() {
    let format = RecordFormat {
        organization: Organization::Relative,
        ..typed("micro-focus-variable", Some(4))
    };
    let mut file = format.codec().expect("valid").lead(0, 3);
    assert_eq!(file.len(), 128);
    file.extend(b"\x40\x03ABC.\n\x20\x03ABC.\0\0\0\0\0\0\0\0\x40\x05ABCD\n\x40\x04ABCD?\x40");
    assert_eq!(
        kinds(&format, &file),
        [
            (0, residue(&file[..128], "file header")),
            (1, record(b"ABC", b".")),
            (2, residue(&file[135..142], "deleted slot")),
            (3, OwnedKind::Empty),
            (
                4,
                residue(&file[149..156], "slot length is more than the record size")
            ),
            (5, residue(&file[156..163], "a slot without a mark")),
            (6, residue(b"\x40", "partial slot at the end")),
        ]
    );
}

#[test]
fn varout_records_end_with_their_block() {
    let format = typed("nonstop-varout,block=16", None);
    let file = b"\0\x03abc\0\0\0\0\x01d!\xff\xff..\0\x0eABCDEFGHIJKLMN\0\x0fx";
    assert_eq!(
        kinds(&format, file),
        [
            (0, record(b"abc", b"")),
            (6, record(b"", b"")),
            (8, record(b"d", b"!")),
            (
                12,
                residue(b"\xff\xff..", "rest of a block without records")
            ),
            (16, record(b"ABCDEFGHIJKLMN", b"")),
            (32, residue(b"\0\x0fx", "bad length prefix")),
        ]
    );
    let codec = format.codec().expect("valid");
    assert_eq!(codec.lead(12, 2), b"");
    assert_eq!(codec.lead(12, 3), b"\xff\xff\0\0");
}

#[test]
fn newlines_in_quotes_are_content() {
    let file = b"id,text\r\n1,\"two\nlines\"\n2,\"a \"\"b\"\"\n\"\r\n\n3,5\" pipe\n\"open,\n";
    assert_eq!(
        kinds(&typed("csv,header=record", None), file),
        [
            (0, residue(b"id,text\r\n", "header record")),
            (9, record(b"1,\"two\nlines\"", b"")),
            (23, record(b"2,\"a \"\"b\"\"\n\"", b"\r")),
            (37, record(b"", b"")),
            (38, record(b"3,5\" pipe", b"")),
            (48, residue(b"\"open,\n", "unterminated last line")),
        ]
    );
    assert_eq!(
        kinds(
            &typed("csv,quote=',delimiter=tab", None),
            b"'a\n'\t\"\n'b\n\n'\n"
        ),
        [(0, record(b"'a\n'\t\"", b"")), (7, record(b"'b\n\n'", b"")),]
    );
}

/// A quote without an end costs the line that it is in, and not the file.
#[test]
fn a_quote_that_is_never_ended_is_a_byte() {
    let mut file = b"1,\"never ended\n".to_vec();
    for _ in 0..crate::CSV_RECORD_MAX / 4 {
        file.extend_from_slice(b"abc\n");
    }
    let found = kinds(&typed("csv", None), &file);
    assert_eq!(found[0].1, record(b"1,\"never ended", b""));
    assert_eq!(found.len(), 1 + crate::CSV_RECORD_MAX / 4);
}

#[test]
fn headers_and_skipped_records_are_residue() {
    let format = typed("plain,header=5,skip=TR", Some(3));
    let codec = format.codec().expect("valid");
    assert_eq!(
        kinds(&format, b"HEADRabcTRLd"),
        [
            (0, residue(b"HEADR", "file header")),
            (1, record(b"abc", b"")),
            (2, residue(b"TRL", "a record to skip")),
            (3, residue(b"d", "partial record at the end")),
        ]
    );
    assert_eq!(codec.offset_of(2), 8);
    assert!(codec.encode(2, b"TRL", b"", &mut Vec::new()).is_err());
    assert!(codec.encode(0, b"abc", b"", &mut Vec::new()).is_err());
    for words in [
        "blocks,header=5",
        "gnucobol,rdw=big",
        "micro-focus-variable,header=record",
    ] {
        let error = typed(words, Some(9)).codec().expect_err(words).to_string();
        assert!(error.contains(" has no "), "{error}");
    }
}
