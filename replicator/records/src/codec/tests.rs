//! What every codec promises, on random bytes, on valid files, and on valid files with damage.

use super::*;
use crate::{Layout, Organization, RESIDUE_ALIGN, RecordFormat, VarseqFormat};
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
        }
    }
}

fn decode(codec: &dyn Codec, offset: u64, bytes: &[u8]) -> Vec<Owned> {
    let mut pieces = Vec::new();
    let taken = codec.decode(offset, bytes, true, &mut |piece| pieces.push(piece.into()));
    assert_eq!(taken, bytes.len(), "at the end everything is taken");
    pieces
}

/// Decodes in calls of `cuts` further bytes each (used in turn), carrying what a call leaves.
fn decode_in_chunks(codec: &dyn Codec, bytes: &[u8], cuts: &[usize]) -> Vec<Owned> {
    let (mut pieces, mut at, mut end) = (Vec::new(), 0, 0);
    for cut in cuts.iter().cycle() {
        end = (end + cut.max(&1)).min(bytes.len());
        // The end may be noticed together with the last bytes, or after them.
        let at_end = end == bytes.len() && cut % 2 == 0;
        let given = &bytes[at..end];
        let taken = codec.decode(at as u64, given, at_end, &mut |piece| {
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
            let taken = codec.decode(at as u64, &bytes[at..], true, &mut |piece| {
                pieces.push(Owned::from(piece));
            });
            assert_eq!(at + taken, bytes.len());
            break;
        }
    }
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
            let tail = decode(codec, piece.offset, &bytes[piece.offset as usize..]);
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
    let varseq = |len_max: std::ops::RangeInclusive<usize>| {
        (0u8..4, len_max).prop_map(|(format, len_max)| {
            let format = VarseqFormat::try_from(format).expect("0 to 3");
            Rc::new(Prefixed::new(Framing::Varseq(format), len_max)) as Shared
        })
    };
    const FRAMINGS: [Framing; 3] = [
        Framing::Rdw(Rdw::Native),
        Framing::Rdw(Rdw::Little),
        Framing::Vms,
    ];
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
    ]
}

/// Stretches of bytes of different kinds, so that holes, long lines and text follow each other.
fn stretches() -> impl Strategy<Value = Vec<u8>> {
    let stretch = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..300),
        2 => prop::collection::vec(prop::sample::select(&b"ab \r\n\n\0"[..]), 0..300),
        2 => prop::collection::vec(prop::sample::select(&[0u8, 0, 0, 1, 5, 12][..]), 0..300),
        1 => (0usize..3 * RESIDUE_ALIGN).prop_map(|len| vec![0; len]),
        1 => (0usize..5 * RESIDUE_ALIGN).prop_map(|len| vec![b'x'; len]),
    ];
    prop::collection::vec(stretch, 0..8).prop_map(|stretches| stretches.concat())
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
                (data[..data.len().min(len_max)].to_vec(), Vec::new())
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
    for overhead in [1, 2, 8] {
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
    codec().prop_filter("short varseq", |codec| {
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
        let shared = |piece: &Owned| piece.offset >= end && new.iter().any(|it| it.offset == piece.offset);
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
            Boundaries::Forward => old.iter().map(|piece| piece.offset).rfind(|begin| begin + RESIDUE_ALIGN as u64 <= at as u64),
            // What is near may be enough; if it isn't, the whole file is.
            _ => codec.entry(from as u64, &bytes[from..at]).or_else(|| codec.entry(0, &bytes[..at])),
        };
        let entry = entry.unwrap_or(0);
        prop_assert!(entry <= at as u64);
        let before = old.into_iter().filter(|piece| piece.offset < entry);
        let pieces: Vec<Owned> = before.chain(decode(&*codec, entry, &changed[entry as usize..])).collect();
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
