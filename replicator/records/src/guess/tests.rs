//! Guesses about generated files: what programs write, and what is none of it.

use super::*;
use crate::VarseqFormat;
use proptest::prelude::*;

/// Reproducible numbers: a linear congruential generator, its better half.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn digits(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| b'0' + self.below(10) as u8).collect()
    }

    fn name(&mut self, width: usize) -> Vec<u8> {
        let mut name = vec![b'A' + self.below(26) as u8];
        let len = 3 + self.below(width as u64 - 4) as usize;
        name.extend((1..len).map(|_| b"etaoinshrdlu"[self.below(12) as usize]));
        name.resize(width, b' ');
        name
    }
}

/// A customer record of 120 bytes: numbers, names, a date, a packed amount, filler.
fn customer(number: u64, numbers: &mut Numbers) -> Vec<u8> {
    let mut record = format!("{number:09}").into_bytes();
    record.extend(numbers.name(20));
    record.extend(numbers.name(25));
    record.extend(b"2024-");
    record
        .extend(format!("{:02}-{:02}", 1 + numbers.below(12), 1 + numbers.below(28)).into_bytes());
    record.extend(numbers.digits(16));
    record.extend([
        0,
        numbers.below(10) as u8,
        (numbers.below(10) << 4) as u8 | 0x0c,
    ]);
    record.resize(120, b' ');
    record
}

/// ASCII letters, digits, spaces and points as in EBCDIC; other bytes stay as they are.
fn ebcdic(bytes: &[u8]) -> Vec<u8> {
    let letter = |base: u8, n: u8| base + n + n / 9 * 7 + u8::from(n >= 18);
    let byte = |byte: &u8| match *byte {
        b' ' => 0x40,
        b'-' => 0x60,
        b'.' => 0x4b,
        digit @ b'0'..=b'9' => 0xf0 + (digit - b'0'),
        upper @ b'A'..=b'Z' => letter(0xc1, upper - b'A'),
        lower @ b'a'..=b'z' => letter(0x81, lower - b'a'),
        other => other,
    };
    bytes.iter().map(byte).collect()
}

fn customers(count: u64, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    (1..=count)
        .flat_map(|number| customer(number, &mut numbers))
        .collect()
}

fn whole(bytes: &[u8]) -> Vec<Guess> {
    guess(
        "FILE",
        &Sample {
            head: bytes,
            len: bytes.len() as u64,
        },
    )
}

#[track_caller]
fn assert_best(bytes: &[u8], format: &str, at_least: Confidence) {
    let guesses = whole(bytes);
    assert_eq!(guesses[0].format.to_string(), format, "{guesses:#?}");
    assert!(guesses[0].confidence >= at_least, "{guesses:#?}");
}

#[test]
fn fixed_records_are_found_in_ascii_and_ebcdic() {
    for seed in 0..2 {
        for count in [12, 50, 200] {
            let file = customers(count, seed);
            assert_best(&file, "fixed, plain, record_size 120", Confidence::Likely);
            assert_best(
                &ebcdic(&file),
                "fixed, plain, record_size 120",
                Confidence::Likely,
            );
        }
    }
    let guesses = whole(&ebcdic(&customers(50, 1)));
    assert!(
        guesses[0].evidence.starts_with("50 records of 120 bytes"),
        "{}",
        guesses[0].evidence
    );
    assert!(
        guesses[0].evidence.contains("EBCDIC"),
        "{}",
        guesses[0].evidence
    );
}

/// Records so long that the part which is looked at has to grow with them.
#[test]
fn long_fixed_records_are_found() {
    let mut numbers = Numbers(8);
    let layout: Vec<bool> = (0..5_000).map(|_| numbers.below(4) == 0).collect();
    let mut byte = |n: usize| {
        if layout[n % 5_000] {
            b'0' + numbers.below(10) as u8
        } else {
            b' '
        }
    };
    let file: Vec<u8> = (0..40 * 5_000).map(&mut byte).collect();
    assert_best(&file, "fixed, plain, record_size 5000", Confidence::Likely);
}

#[test]
fn fixed_records_are_found_behind_a_partial_one() {
    let mut file = customers(100, 3);
    file.extend_from_slice(b"000000101Cut");
    assert_best(&file, "fixed, plain, record_size 120", Confidence::Likely);
    assert!(
        whole(&file)[0]
            .evidence
            .ends_with("the last 12 bytes are a partial record")
    );
}

#[test]
fn fixed_records_are_found_between_holes() {
    let mut file = customers(200, 4);
    let mut numbers = Numbers(4);
    for record in file.chunks_mut(120).filter(|_| numbers.below(3) == 0) {
        record.fill(0);
    }
    assert_best(&file, "fixed, plain, record_size 120", Confidence::Likely);
}

/// Slots of 8 + 120 bytes; `kept` says of a slot's number whether it is in use.
fn relative(count: u64, kept: impl Fn(u64) -> bool) -> Vec<u8> {
    let mut numbers = Numbers(count);
    let mut file = Vec::new();
    for number in 1..=count {
        if kept(number) {
            file.extend(120u64.to_le_bytes());
            file.extend(customer(number, &mut numbers));
        } else {
            file.resize(file.len() + 128, 0);
        }
    }
    file
}

#[test]
fn relative_slots_are_found() {
    let format = "relative, gnucobol, record_size 120";
    assert_best(&relative(100, |_| true), format, Confidence::Certain);
    let sparse = relative(100, |number| number % 3 == 0);
    assert_best(&sparse, format, Confidence::Certain);
    assert_eq!(
        whole(&sparse)[0].evidence,
        "every 128 bytes an 8-byte length of at most 120; 33 of 100 slots in use"
    );
    assert_best(
        &relative(100, |number| number == 37),
        format,
        Confidence::Likely,
    );
    assert_best(&relative(1, |_| true), format, Confidence::Likely);
    // A deleted slot keeps its content.
    let mut deleted = relative(10, |_| true);
    deleted[128..136].fill(0);
    assert_best(&deleted, format, Confidence::Certain);
    assert!(
        whole(&deleted)[0]
            .evidence
            .ends_with("9 of 10 slots in use, 1 deleted")
    );
    // The length of the last slot is on disk, its content isn't yet.
    let mut growing = relative(10, |_| true);
    growing.extend(120u64.to_le_bytes());
    assert_best(&growing, format, Confidence::Likely);
    // Only the beginning is looked at.
    let file = relative(1000, |_| true);
    let guesses = guess(
        "FILE",
        &Sample {
            head: &file[..65_536 + 77],
            len: file.len() as u64,
        },
    );
    assert_eq!(guesses[0].format.to_string(), format);
}

#[test]
fn relative_slots_of_varying_records_are_found() {
    let mut numbers = Numbers(9);
    let mut file = Vec::new();
    for number in 1..=60 {
        let len = 40 + numbers.below(70);
        file.extend(len.to_le_bytes());
        file.extend(customer(number, &mut numbers));
    }
    assert_best(
        &file,
        "relative, gnucobol, record_size 120",
        Confidence::Likely,
    );
}

#[test]
fn variable_records_are_found_in_each_format() {
    let of = |layout| RecordFormat::new(Organization::Sequential, layout);
    let varseq = (0..4).map(|number| {
        let format = VarseqFormat::try_from(number).expect("0 to 3");
        of(Layout::Gnucobol).with_varseq_format(format)
    });
    for settings in varseq.chain([of(Layout::IbmV), of(Layout::RdwLittle)]) {
        let codec = settings.codec().expect("it is valid");
        let mut numbers = Numbers(5);
        let mut file = Vec::new();
        for id in 0..60 {
            let len = 9 + numbers.below(110) as usize;
            codec
                .encode(id, &customer(id, &mut numbers)[..len], &[], &mut file)
                .expect("it fits");
        }
        assert_best(&file, &settings.to_string(), Confidence::Certain);
        let head = &file[..file.len() / 2];
        let guesses = guess(
            "FILE",
            &Sample {
                head,
                len: file.len() as u64,
            },
        );
        assert_eq!(
            guesses[0].format, settings,
            "from the first half: {guesses:#?}"
        );
        // A record is being added.
        assert_eq!(whole(&file[..file.len() - 3])[0].format, settings);
    }
}

/// Blocks of records on z/OS: the words of blocks lead through the file as those of records do.
#[test]
fn blocked_and_spanned_records_are_found() {
    let mut numbers = Numbers(11);
    let (mut blocked, mut spanned) = (Vec::new(), Vec::new());
    let segment = |part: u8, data: &[u8]| {
        [&(data.len() as u16 + 4).to_be_bytes()[..], &[part, 0], data].concat()
    };
    let block = |content: Vec<u8>| {
        [
            &(content.len() as u16 + 4).to_be_bytes()[..],
            &[0, 0],
            &content,
        ]
        .concat()
    };
    for n in 0..20 {
        let records: Vec<Vec<u8>> = (0..1 + n % 4)
            .map(|id| customer(id, &mut numbers)[..9 + numbers.below(100) as usize].to_vec())
            .collect();
        blocked.extend(block(
            records
                .iter()
                .flat_map(|record| segment(0, record))
                .collect(),
        ));
        let record = customer(n, &mut numbers);
        spanned.extend(block(segment(1, &record[..50])));
        spanned.extend(block(
            [segment(2, &record[50..]), segment(0, &record[..30])].concat(),
        ));
    }
    assert_best(&blocked, "sequential, ibm-vb", Confidence::Certain);
    assert_best(&spanned, "sequential, ibm-vbs", Confidence::Certain);
    // A block is being added.
    assert_best(
        &blocked[..blocked.len() - 3],
        "sequential, ibm-vb",
        Confidence::Likely,
    );
    let head = &blocked[..blocked.len() / 2];
    let sample = Sample {
        head,
        len: blocked.len() as u64,
    };
    assert_eq!(
        guess("FILE", &sample)[0].format.to_string(),
        "sequential, ibm-vb"
    );
}

#[test]
fn micro_focus_file_headers_are_believed() {
    let mut numbers = Numbers(12);
    for (words, organization, size) in [
        ("micro-focus-variable", Organization::Sequential, 120),
        ("micro-focus-variable", Organization::Sequential, 5000),
        ("micro-focus-variable", Organization::Relative, 120),
        ("micro-focus-variable-crlf", Organization::Relative, 120),
    ] {
        let layout: Layout = words.parse().expect("a layout");
        let format = RecordFormat::new(organization, layout).with_record_size(size);
        let codec = format.codec().expect("it is valid");
        let mut file = codec.lead(0, 0);
        // Without a slot nothing tells how long its mark is.
        if layout == Layout::MicroFocusVariable {
            assert_best(&file, &format.to_string(), Confidence::Likely);
        }
        for id in 1..30 {
            let mut data = customer(id, &mut numbers);
            let rest = if organization == Organization::Relative {
                data.split_off(100)
            } else {
                Vec::new()
            };
            let offset = file.len() as u64;
            codec
                .encode(codec.id_at(offset), &data, &rest, &mut file)
                .expect("it fits");
        }
        assert_best(&file, &format.to_string(), Confidence::Certain);
        // Compressed records, and an indexed file.
        for (at, value) in [(41, 1), (39, 2)] {
            let mut other = file.clone();
            other[at] = value;
            assert_best(
                &other,
                "stream, blocks, record_size 4096",
                Confidence::Certain,
            );
        }
        // Not the header of such a file.
        file[37] = 0;
        assert!(whole(&file)[0].format.layout != layout);
    }
}

/// Lines of equal length are text all the same, and so are lines that end in different ways.
#[test]
fn text_is_found() {
    let mut numbers = Numbers(6);
    let same: Vec<u8> = (0..50)
        .flat_map(|_| [numbers.digits(36), b"\n".to_vec()].concat())
        .collect();
    assert_best(&same, "stream, newline", Confidence::Certain);
    let mixed: Vec<u8> = (0..50u64)
        .flat_map(|n| {
            [
                numbers.name(30),
                if n % 2 == 0 {
                    b"\r\n".to_vec()
                } else {
                    b"\n".to_vec()
                },
            ]
            .concat()
        })
        .collect();
    assert_best(&mixed, "stream, newline", Confidence::Certain);
    assert!(
        whole(&mixed)[0]
            .evidence
            .contains("25 of them ended by CRLF"),
        "{}",
        whole(&mixed)[0].evidence
    );
    assert_best(
        "Überweisung: 5 €\nZürich\n".as_bytes(),
        "stream, newline",
        Confidence::Certain,
    );
    assert_best(
        b"Z\xfcrich, and a longer line of Latin-1 beside it\nZ\xfcrich\n",
        "stream, newline",
        Confidence::Likely,
    );
    assert_best(b"no newline yet", "stream, newline", Confidence::Possible);
}

#[test]
fn what_has_no_structure_is_blocks() {
    let blocks = "stream, blocks, record_size 4096";
    let mut numbers = Numbers(7);
    let noise: Vec<u8> = (0..30_000).map(|_| numbers.below(256) as u8).collect();
    assert_best(&noise, blocks, Confidence::Possible);
    assert_best(&vec![0; 30_000], blocks, Confidence::Possible);
    assert_best(
        &[b"\x7fELF\x02\x01\x01\0", &customers(10, 0)[..]].concat(),
        blocks,
        Confidence::Certain,
    );
    assert_best(b"", blocks, Confidence::Possible);
    assert_eq!(
        guess("/var/log/pay.LOG", &Sample { head: b"", len: 0 })[0]
            .format
            .to_string(),
        "stream, newline"
    );
}

proptest! {
    #[test]
    fn any_bytes_get_formats_that_work(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8), Just(b'\n')], 0..600), more in 0u64..2000,
    ) {
        let sample = Sample { head: &bytes, len: bytes.len() as u64 + more };
        let guesses = guess("FILE", &sample);
        prop_assert!(!guesses.is_empty());
        prop_assert!(guesses.is_sorted_by(|a, b| a.confidence >= b.confidence));
        for guess in guesses {
            prop_assert!(guess.format.codec().is_ok(), "{}", guess.format);
        }
    }
}
