//! Every layout, of every organisation and size: pieces cover any bytes without gaps, in growing order, are the same however the
//! bytes are cut into calls, and encode to the same bytes again; behind an entry nothing but what changed is other.
//!
//! The first bytes choose organisation, layout, sizes, where the bytes are cut and which of them is changed.
#![no_main]

use counterfoil_fuzz::Input;
use counterfoil_records::{
    Boundaries, Codec, Layout, Organization, PieceKind, RESIDUE_ALIGN, RecordFormat, VarseqFormat,
    Within,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut format =
        RecordFormat::new(input.one_of(&Organization::ALL), input.one_of(&Layout::ALL));
    // Small ones mostly: their records end within an input.
    let size = match (input.byte(), input.byte()) {
        (0, 0) => None,
        (0, scale) => Some(1 << (scale % 26)),
        (more, size) => Some(u64::from(more % 4) << 8 | u64::from(size)),
    };
    format.record_size = size;
    format.varseq_format = VarseqFormat::try_from(input.byte()).ok();
    let (cut, change, value) = (input.two(), input.two(), input.byte());
    let Ok(codec) = format.codec() else {
        return;
    };
    let bytes = input.0;
    let whole = Pieces::of(&*codec, bytes);
    whole.check(&*codec, bytes);
    assert_eq!(
        whole,
        Pieces::by_calls(&*codec, bytes, cut.into()),
        "{format}"
    );
    change_one(&*codec, bytes, &whole, (change.into(), value));
    records(&*codec, bytes);
    // Where numbers end.
    let far = codec.offset_of(u64::MAX / 2);
    codec.decode(far, &bytes[..bytes.len().min(64)], true, &mut |_| ());
    let _ = codec.id_at(u64::MAX);
    let _ = codec.offset_of(u64::MAX);
});

/// Identity, begin, length and bytes of each piece, and whether it is a record, residue or empty; what goes with the end.
#[derive(Debug, Default, PartialEq)]
struct Pieces(Vec<(u64, u64, u64, Kind)>, Within);

#[derive(Debug, PartialEq)]
enum Kind {
    Record(Vec<u8>, Vec<u8>),
    Residue(Vec<u8>),
    Empty,
}

impl Pieces {
    fn of(codec: &dyn Codec, bytes: &[u8]) -> Pieces {
        let mut it = Pieces::default();
        assert_eq!(it.add(codec, 0, bytes, true), bytes.len());
        it
    }

    /// The same by calls with `cut` bytes each, or as many more as it takes.
    fn by_calls(codec: &dyn Codec, bytes: &[u8], cut: usize) -> Pieces {
        let mut it = Pieces::default();
        let (mut at, mut given) = (0, 0);
        while given < bytes.len() {
            given = bytes.len().min(given + cut.max(bytes.len() / 64 + 1));
            at += it.add(codec, at, &bytes[at..given], given == bytes.len());
        }
        assert_eq!(at, bytes.len());
        it
    }

    fn add(&mut self, codec: &dyn Codec, at: usize, bytes: &[u8], at_end: bool) -> usize {
        codec.decode_within(self.1, at as u64, bytes, at_end, &mut |piece| {
            self.1 = piece.behind;
            let kind = match piece.kind {
                PieceKind::Record { data, rest } => Kind::Record(data.to_vec(), rest.to_vec()),
                PieceKind::Residue { bytes, reason } => {
                    assert!(!reason.is_empty());
                    Kind::Residue(bytes.to_vec())
                }
                PieceKind::Empty => Kind::Empty,
            };
            self.0.push((piece.id, piece.offset, piece.len, kind));
        })
    }

    fn check(&self, codec: &dyn Codec, bytes: &[u8]) {
        let (mut at, mut before) = (0, None);
        for (id, offset, len, kind) in &self.0 {
            assert!(before < Some(*id), "identities grow");
            before = Some(*id);
            assert_eq!((*offset, codec.id_at(*offset)), (at, *id));
            assert_eq!(codec.offset_of(*id), at);
            let own = &bytes[at as usize..(at + len) as usize];
            assert!(!own.is_empty());
            if let Some(most) = codec.piece_len_max() {
                assert!(*len <= most);
            }
            match kind {
                Kind::Residue(bytes) => assert_eq!(bytes, own),
                Kind::Empty => assert!(own.iter().all(|&byte| byte == 0)),
                Kind::Record(data, rest) => {
                    let mut encoded = b"before".to_vec();
                    codec
                        .encode(*id, data, rest, &mut encoded)
                        .expect("a record that was decoded is encoded");
                    // The last line of a file may lack its end.
                    let (head, written) = encoded.split_at(6);
                    assert_eq!((head, written), (&b"before"[..], own));
                }
            }
            at += len;
        }
        assert_eq!(at, bytes.len() as u64);
    }

    /// How many pieces end at this offset or before.
    fn until(&self, end: u64) -> usize {
        self.0
            .partition_point(|(_, offset, len, _)| offset + len <= end)
    }
}

/// Before the entry for a change, pieces are as they were, and decoding may begin there.
fn change_one(codec: &dyn Codec, bytes: &[u8], whole: &Pieces, (at, value): (usize, u8)) {
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    let entry = match codec.boundaries() {
        Boundaries::Forward => {
            let far = (at as u64).checked_sub(codec.reach().max(RESIDUE_ALIGN as u64));
            let known = whole.0.iter().map(|(_, offset, _, _)| *offset);
            let known = known.take_while(|offset| far.is_some_and(|far| *offset <= far));
            known.last().unwrap_or(0)
        }
        _ => codec
            .entry(0, &bytes[..at])
            .expect("from the beginning of the file, one is always found"),
    };
    let mut changed = bytes.to_vec();
    changed[at] = value;
    let now = Pieces::of(codec, &changed);
    let same = whole.until(entry);
    assert_eq!(whole.0[..same], now.0[..same]);
    assert_eq!(
        now.0[..same].last().map_or(0, |(_, at, len, _)| at + len),
        entry,
        "an entry is a boundary"
    );
}

/// What is accepted as a record is read as that again.
fn records(codec: &dyn Codec, bytes: &[u8]) {
    let (data, rest) = bytes.split_at(bytes.len().min(300) * 3 / 4);
    for (data, rest) in [(data, &[][..]), (data, &rest[..rest.len().min(40)])] {
        let mut encoded = Vec::new();
        let id = codec.id_at(0);
        if codec.encode(id, data, rest, &mut encoded).is_err() {
            assert!(encoded.is_empty());
            continue;
        }
        if codec.is_blocked() && !rest.is_empty() {
            // By the words beside it, it is in the middle of a block, and only read there.
            continue;
        }
        let read = Pieces::of(codec, &encoded);
        let same = Kind::Record(data.to_vec(), rest.to_vec());
        let empty = encoded.iter().all(|&byte| byte == 0)
            && read.0.iter().all(|(.., kind)| *kind == Kind::Empty);
        let is_read = |read: &Pieces| matches!(&read.0[..], [(first, _, _, kind), ..] if *first == id && *kind == same);
        let alone = read.0.len() == 1 && is_read(&read);
        // A quote that is never ended ends nothing only where much follows it.
        let followed = !alone && codec.reach() > 0 && {
            let mut followed = encoded.clone();
            followed.resize(encoded.len() + codec.reach() as usize, b'x');
            is_read(&Pieces::of(codec, &followed))
        };
        assert!(
            empty || alone || followed,
            "{data:?} and {rest:?} became {read:?}"
        );
    }
}
