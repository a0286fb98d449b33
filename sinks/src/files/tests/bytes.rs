//! Whatever a program does to a file, in whatever format: the mirrored one has the same bytes after each batch.

use super::*;
use counterfoil_records::{Boundaries, Codec, PieceKind, VarseqFormat};
use proptest::collection::vec;
use proptest::prelude::*;

/// Every layout, with records so short that all that can happen happens.
fn formats() -> Vec<RecordFormat> {
    let new = RecordFormat::new;
    let varseq = |format| {
        new(Organization::Sequential, Layout::Gnucobol)
            .with_record_size(20)
            .with_varseq_format(format)
    };
    vec![
        new(Organization::Fixed, Layout::Plain).with_record_size(7),
        new(Organization::Relative, Layout::Gnucobol).with_record_size(5),
        new(Organization::Relative, Layout::Counted).with_record_size(6),
        new(Organization::Relative, Layout::MicroFocus).with_record_size(6),
        new(Organization::Relative, Layout::MicroFocusCrlf).with_record_size(6),
        new(Organization::Sequential, Layout::Plain).with_record_size(9),
        varseq(VarseqFormat::BigEndian16Padded),
        varseq(VarseqFormat::BigEndian32),
        varseq(VarseqFormat::Native32),
        varseq(VarseqFormat::BigEndian16),
        new(Organization::Sequential, Layout::IbmV),
        new(Organization::Sequential, Layout::RdwLittle),
        new(Organization::Sequential, Layout::Vms),
        new(Organization::Sequential, Layout::LineSequential),
        new(Organization::Stream, Layout::Newline),
        new(Organization::Stream, Layout::Blocks).with_record_size(8),
        RecordFormat::STATIC,
    ]
}

/// What a program does.
#[derive(Clone, Debug)]
enum Act {
    Write(usize, Vec<u8>),
    Append(Vec<u8>),
    Truncate(usize),
    Zero(usize, usize),
    Rename,
    Remove,
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    // What length prefixes, marks and line ends are made of comes often.
    let byte = prop_oneof![
        4 => prop_oneof![Just(0_u8), Just(1), Just(2), Just(5), Just(b'\n'), Just(b'\r')],
        2 => Just(b'A'),
        1 => any::<u8>(),
    ];
    let record = prop_oneof![
        // A record with a prefix of each kind.
        Just(b"\x00\x03\x00\x00abc".to_vec()),
        Just(b"\x00\x00\x00\x03abc".to_vec()),
        Just(b"\x03\x00\x00\x00abc".to_vec()),
        Just(b"\x00\x03abc".to_vec()),
        Just(b"\x00\x07\x00\x00abc".to_vec()),
        Just(b"\x03\x00abc\x00".to_vec()),
        Just(b"a line\n".to_vec()),
        Just(b"\x05\x00\x00\x00\x00\x00\x00\x00slots".to_vec()),
        vec(byte, 0..24),
    ];
    vec(record, 1..6).prop_map(|records| records.concat())
}

fn act() -> impl Strategy<Value = Act> {
    let place = 0..600_usize;
    prop_oneof![
        4 => (place.clone(), content()).prop_map(|(at, bytes)| Act::Write(at, bytes)),
        4 => content().prop_map(Act::Append),
        1 => (0..9_usize, content()).prop_map(|(page, bytes)| Act::Write(page * 4096, bytes)),
        2 => place.clone().prop_map(Act::Truncate),
        1 => (0..40_000_usize).prop_map(Act::Truncate),
        2 => (place, 0..9000_usize).prop_map(|(at, len)| Act::Zero(at, len)),
        1 => Just(Act::Rename),
        1 => Just(Act::Remove),
    ]
}

type Pieces = BTreeMap<u64, (u64, u64, Option<Image>)>;

/// Identity, to offset, length and image (if it isn't empty).
fn pieces(codec: &dyn Codec, bytes: &[u8]) -> Pieces {
    let mut pieces = Pieces::new();
    let taken = codec.decode(0, bytes, true, &mut |piece| {
        let image = match piece.kind {
            PieceKind::Record { data, rest } => Some(Image::Record {
                data: data.to_vec(),
                rest: rest.to_vec(),
            }),
            PieceKind::Residue { bytes, reason } => Some(Image::Residue {
                bytes: bytes.to_vec(),
                reason: reason.into(),
            }),
            PieceKind::Empty => None,
        };
        pieces.insert(piece.id, (piece.offset, piece.len, image));
    });
    assert_eq!(taken, bytes.len());
    pieces
}

/// What makes the new content of the old one, as few changes as possible: where pieces have one size, images; elsewhere what lies
/// between the pieces that are the same is cleared and told anew.
fn difference(
    file: &Arc<FileDescription>,
    codec: &dyn Codec,
    old: &[u8],
    new: &[u8],
) -> FileChanges {
    let (was, is) = (pieces(codec, old), pieces(codec, new));
    let mut changed = changes(file, []);
    changed.attributes.size = new.len() as u64;
    changed.attributes.kind = Some(FileKind::Regular);
    if matches!(codec.boundaries(), Boundaries::Pitch(_)) {
        if new.len() < old.len() {
            let from = codec.id_at(new.len() as u64);
            changed.cleared.push(from..u64::MAX);
        }
        let cleared_from = changed
            .cleared
            .first()
            .map_or(u64::MAX, |range| range.start);
        for (&id, (_, _, image)) in &is {
            let before = was.get(&id).and_then(|(_, _, image)| image.as_ref());
            let before = before.filter(|_| id < cleared_from);
            if before != image.as_ref() {
                let image = image.clone().unwrap_or(Image::Absent);
                changed.images.insert(id, image);
            }
        }
        return changed;
    }
    let same = was
        .iter()
        .zip(&is)
        .take_while(|(was, is)| was == is)
        .count();
    let from = is
        .iter()
        .nth(same)
        .or_else(|| was.iter().nth(same))
        .map(|(_, (offset, _, _))| *offset);
    let Some(from) = from else {
        return changed;
    };
    // From which boundary on, and be it the end, all is as before.
    let behind = |pieces: &Pieces| {
        pieces
            .iter()
            .rev()
            .map(|(id, piece)| (*id, piece.clone()))
            .collect::<Vec<_>>()
    };
    let (was_behind, is_behind) = (behind(&was), behind(&is));
    let same_behind = if old.len() == new.len() {
        was_behind
            .iter()
            .zip(&is_behind)
            .take_while(|(was, is)| was == is && is.1.0 >= from)
            .count()
    } else {
        0
    };
    let to = match same_behind {
        0 => u64::MAX,
        count => is_behind[count - 1].1.0,
    };
    if from < to {
        changed.cleared.push(from..to);
    }
    for (&id, (offset, _, image)) in &is {
        if (from..to).contains(offset)
            && let Some(image) = image
        {
            changed.images.insert(id, image.clone());
        }
    }
    changed
}

/// The same told piece by piece, without clearing: what is changed, and what is gone.
fn piecewise(
    file: &Arc<FileDescription>,
    codec: &dyn Codec,
    old: &[u8],
    new: &[u8],
) -> FileChanges {
    let (was, is) = (pieces(codec, old), pieces(codec, new));
    let mut changed = changes(file, []);
    changed.attributes.size = new.len() as u64;
    changed.attributes.kind = Some(FileKind::Regular);
    for (&id, (_, len, image)) in &was {
        let same = is
            .get(&id)
            .is_some_and(|now| now.1 == *len && now.2 == *image);
        if !same && image.is_some() {
            changed.images.insert(id, Image::Absent);
        }
    }
    for (&id, (_, len, image)) in &is {
        let same = was
            .get(&id)
            .is_some_and(|was| was.1 == *len && was.2 == *image);
        if let Some(image) = image.as_ref().filter(|_| !same) {
            changed.images.insert(id, image.clone());
        }
    }
    changed
}

fn run(format: &RecordFormat, batches: &[(Vec<Act>, bool)]) -> Result<(), TestCaseError> {
    let root = scratch();
    let mut sink = open(root.path());
    let codec = format.codec().expect("a format");
    let names = ["/srv/data", "/srv/data.old"];
    let described = |name: usize| {
        Arc::new(FileDescription {
            format: format.clone(),
            ..(*file(names[name])).clone()
        })
    };
    let mut name = 0;
    let (mut bytes, mut mirrored) = (Vec::new(), Vec::new());
    for (lsn, (acts, is_piecewise)) in batches.iter().enumerate() {
        let mut files = Vec::new();
        for act in acts {
            match act {
                Act::Write(at, written) => {
                    let end = at + written.len();
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[*at..end].copy_from_slice(written);
                }
                Act::Append(written) => bytes.extend_from_slice(written),
                Act::Truncate(size) => bytes.resize(*size, 0),
                Act::Zero(at, len) => {
                    let end = bytes.len().min(at + len);
                    bytes.get_mut(*at..end).unwrap_or_default().fill(0);
                }
                Act::Rename => {
                    files.push(difference(
                        &described(name),
                        codec.as_ref(),
                        &mirrored,
                        &bytes,
                    ));
                    mirrored.clone_from(&bytes);
                    let from = names[name];
                    name = 1 - name;
                    let size = bytes.len() as u64;
                    files.push(renamed(changes(&described(name), []), from, size));
                }
                Act::Remove => {
                    files.push(removed(&described(name)));
                    bytes.clear();
                    mirrored.clear();
                    files.push(difference(&described(name), codec.as_ref(), &[], &[]));
                }
            }
        }
        let told = if *is_piecewise { piecewise } else { difference };
        files.push(told(&described(name), codec.as_ref(), &mirrored, &bytes));
        mirrored.clone_from(&bytes);
        sink.apply(&batch(lsn as u64 + 1, files)).expect("applying");
        let path = root.path().join(&names[name][1..]);
        let found = fs::read(&path).expect("reading");
        if found != bytes {
            let at = found.iter().zip(&bytes).position(|(a, b)| a != b);
            prop_assert!(
                false,
                "{format}: batch {lsn} differs at {at:?}, {} bytes for {}",
                found.len(),
                bytes.len()
            );
        }
        prop_assert!(!root.path().join(&names[1 - name][1..]).exists());
        let mut read = BTreeMap::new();
        sink.pieces(STREAM, names[name].as_bytes(), &mut |piece| {
            read.insert(piece.id, piece.image);
            true
        })
        .expect("reading pieces");
        let expected: BTreeMap<u64, Image> = pieces(codec.as_ref(), &bytes)
            .into_iter()
            .filter_map(|(id, (_, _, image))| Some((id, image?)))
            .collect();
        prop_assert_eq!(read, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_bytes_are_the_same_after_each_batch(
        format in prop::sample::select(formats()),
        batches in vec((vec(act(), 1..4), any::<bool>()), 1..10),
    ) {
        run(&format, &batches)?;
    }
}

/// A mebibyte is written in several pieces, and blocks of static files are large.
#[test]
fn large_files_are_the_same() {
    let root = scratch();
    let mut sink = open(root.path());
    let large = static_file("/srv", "/srv/large");
    let mut bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    bytes[500_000..1_600_000].fill(0);
    let codec = large.format.codec().expect("a format");
    let told = difference(&large, codec.as_ref(), &[], &bytes);
    sink.apply(&batch(1, [told])).expect("applying");
    let before = bytes.clone();
    bytes.truncate(2_000_001);
    bytes[100] ^= 1;
    let told = difference(&large, codec.as_ref(), &before, &bytes);
    sink.apply(&batch(2, [told])).expect("applying");
    assert!(fs::read(root.path().join("srv/large")).expect("reading") == bytes);
    let mut line = vec![b'x'; 1_000_000];
    line.push(b'\n');
    let text = Arc::new(FileDescription {
        format: RecordFormat::new(Organization::Stream, Layout::Newline),
        ..(*file("/srv/text")).clone()
    });
    let codec = text.format.codec().expect("a format");
    let told = difference(&text, codec.as_ref(), &[], &line);
    sink.apply(&batch(3, [told])).expect("applying");
    let shorter = [&line[..10], b"\n"].concat();
    let told = piecewise(&text, codec.as_ref(), &line, &shorter);
    sink.apply(&batch(4, [told])).expect("applying");
    assert!(fs::read(root.path().join("srv/text")).expect("reading") == shorter);
}

/// Two programs append to one file. The unit of work that wrote first may end last: until then nothing is where it wrote.
#[test]
fn what_is_told_in_front_of_a_record_leaves_that_alone() {
    let text = Arc::new(FileDescription {
        format: RecordFormat::new(Organization::Stream, Layout::Newline),
        ..(*file("/srv/text")).clone()
    });
    let put = |id: u64, line: &str, size: u64| {
        let mut changed = changes(&text, [(id, record(line.as_bytes()))]);
        changed.attributes.size = size;
        changed.attributes.kind = Some(FileKind::Regular);
        changed
    };
    let root = scratch();
    let mut sink = open(root.path());
    let mirrored = || fs::read(root.path().join("srv/text")).expect("reading");
    sink.apply(&batch(1, [put(0, "begin", 6)]))
        .expect("applying");
    sink.apply(&batch(2, [put(12, "second", 19)]))
        .expect("applying");
    assert_eq!(mirrored(), b"begin\n\0\0\0\0\0\0second\n");
    // Without the end of its line at first: the unit behind it is what ends it.
    sink.apply(&batch(3, [put(6, "fir", 19)]))
        .expect("applying");
    sink.apply(&batch(4, [put(6, "first", 19)]))
        .expect("applying");
    assert_eq!(mirrored(), b"begin\nfirst\nsecond\n");
}
