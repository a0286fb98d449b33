//! GnuCOBOL as the oracle for what isn't a plain number by its PICTURE: integers of the machine, floating point, text, edited
//! items, scaling with P. A compiled program puts generated values into them, writes its records and displays the fields.
//!
//! The seed is printed; `COUNTERFOIL_SEED` repeats a run.

mod gnucobol;

use counterfoil_records::Room;
use counterfoil_records::value::{Number, Value};
use gnucobol::{Chance, coders, compiled_and_run};
use std::fmt::Write as _;
use std::path::Path;

/// Values put into each field.
const RECORDS: usize = 24;

/// What is put into a field, and how what is in it is seen.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number of so many bytes, over the whole range.
    Whole { bytes: u32, signed: bool },
    /// A number of so many digits, times ten to the power.
    Scaled { digits: u32, power: i32 },
    /// A number for an edited item: digits before and behind the point.
    Edited {
        whole: u32,
        decimals: u32,
        signed: bool,
    },
    /// Floating point.
    Float,
    /// Text of so many characters.
    Text { len: usize },
}

fn cases() -> Vec<(String, Kind)> {
    let mut cases = Vec::new();
    for (name, bytes) in [("CHAR", 1), ("SHORT", 2), ("LONG", 4), ("DOUBLE", 8)] {
        for (word, signed) in [("SIGNED", true), ("UNSIGNED", false), ("", true)] {
            cases.push((
                format!("BINARY-{name} {word}"),
                Kind::Whole { bytes, signed },
            ));
        }
    }
    for (digits, bytes) in [(2, 1), (4, 2), (9, 4), (18, 8)] {
        for usage in ["COMP-5", "COMP"] {
            for (s, signed) in [("S", true), ("", false)] {
                cases.push((
                    format!("PIC {s}9({digits}) {usage}"),
                    Kind::Whole { bytes, signed },
                ));
            }
        }
    }
    for bytes in 1..=8 {
        cases.push((
            format!("PIC X({bytes}) COMP-X"),
            Kind::Whole {
                bytes,
                signed: false,
            },
        ));
    }
    for usage in ["", "COMP"] {
        for digits in 1..=9 {
            for zeros in 1..=3 {
                let power = zeros;
                cases.push((
                    format!("PIC S9({digits})P({zeros}) {usage}"),
                    Kind::Scaled { digits, power },
                ));
                let power = -(digits as i32 + zeros);
                cases.push((
                    format!("PIC SVP({zeros})9({digits}) {usage}"),
                    Kind::Scaled { digits, power },
                ));
            }
        }
    }
    for (picture, whole, decimals, signed) in [
        ("ZZZ9.99-", 4, 2, true),
        ("-(5)9.9", 5, 1, true),
        ("+(4)9", 4, 0, true),
        ("$$,$$9.99CR", 4, 2, true),
        ("*(6)9.99", 7, 2, false),
        ("ZZ,ZZZ,ZZ9", 8, 0, false),
        ("99/99/9999", 8, 0, false),
        ("9(3)B9(3)0", 6, 0, false),
        ("Z(5)9.9(4)DB", 6, 4, true),
        ("ZZZ9.99 BLANK WHEN ZERO", 4, 2, false),
        ("9(5) BLANK WHEN ZERO", 5, 0, false),
    ] {
        cases.push((
            format!("PIC {picture}"),
            Kind::Edited {
                whole,
                decimals,
                signed,
            },
        ));
    }
    for usage in ["COMP-1", "FLOAT-SHORT"] {
        cases.push((usage.to_owned(), Kind::Float));
    }
    for usage in ["COMP-2", "FLOAT-LONG"] {
        cases.push((usage.to_owned(), Kind::Float));
    }
    for len in [1, 2, 7, 30] {
        cases.push((format!("PIC X({len})"), Kind::Text { len }));
        cases.push((format!("PIC X({len}) JUSTIFIED RIGHT"), Kind::Text { len }));
        cases.push((format!("PIC A({len})"), Kind::Text { len }));
    }
    cases
}

/// What a program says in MOVE, the ends of the range among the values.
fn value(kind: Kind, nth: usize, chance: &mut Chance) -> String {
    let digits = |count: u32, chance: &mut Chance| -> u64 {
        let bound = 10_u64.pow(count);
        match nth {
            0 => 0,
            1 | 2 => bound - 1,
            _ => {
                let digits = 1 + chance.below(count.into()) as u32;
                chance.below(10_u64.pow(digits))
            }
        }
    };
    let minus = |signed: bool, zero: bool| {
        if signed && !zero && nth.is_multiple_of(2) {
            "-"
        } else {
            ""
        }
    };
    match kind {
        Kind::Whole { bytes, signed } => {
            let bits = bytes * 8 - u32::from(signed);
            let largest = u64::MAX >> (64 - bits);
            let number = match nth {
                0 => 0,
                1 | 2 => largest,
                _ => chance.next() & largest >> chance.below(bits.into()),
            };
            format!("{}{number}", minus(signed, number == 0))
        }
        Kind::Scaled {
            digits: count,
            power,
        } => {
            let number = digits(count, chance);
            let sign = minus(true, number == 0);
            match power {
                0.. => format!("{sign}{number}{}", "0".repeat(power as usize)),
                _ => format!("{sign}0.{number:0width$}", width = -power as usize),
            }
        }
        Kind::Edited {
            whole,
            decimals,
            signed,
        } => {
            let number = digits(whole + decimals, chance);
            let sign = minus(signed, number == 0);
            let scale = 10_u64.pow(decimals);
            match decimals {
                0 => format!("{sign}{number}"),
                _ => format!(
                    "{sign}{}.{:0width$}",
                    number / scale,
                    number % scale,
                    width = decimals as usize
                ),
            }
        }
        Kind::Float => {
            let number = digits(9, chance);
            let decimals = chance.below(6) as usize;
            let sign = minus(true, number == 0);
            format!("{sign}{}.{:05}", number >> decimals, chance.below(100_000))
        }
        Kind::Text { len } => {
            let letters: String = (0..chance.below(len as u64 + 1))
                .map(|_| char::from(b'A' + chance.below(26) as u8))
                .collect();
            format!("\"{letters} \"")
        }
    }
}

fn copybook(cases: &[(String, Kind)]) -> String {
    let mut text = String::from("       01 REC.\n");
    for (nth, (clauses, _)) in cases.iter().enumerate() {
        let _ = writeln!(text, "          05 F-{nth}\n             {clauses}.");
    }
    text
}

fn program(cases: &[(String, Kind)], values: &[Vec<String>]) -> String {
    let mut text = String::from(
        "       IDENTIFICATION DIVISION.\n       PROGRAM-ID. ORACLE.\n       ENVIRONMENT DIVISION.\n       INPUT-OUTPUT SECTION.\n       \
         FILE-CONTROL.\n           SELECT F ASSIGN TO \"oracle.dat\"\n           ORGANIZATION SEQUENTIAL.\n       DATA DIVISION.\n       \
         FILE SECTION.\n       FD F.\n       COPY \"rec.cpy\".\n       WORKING-STORAGE SECTION.\n       01 WHOLE PIC -(20)9.\n       \
         01 PARTS PIC -(14)9.9(14).\n       PROCEDURE DIVISION.\n           OPEN OUTPUT F.\n",
    );
    for record in values {
        for (nth, (value, (_, kind))) in record.iter().zip(cases).enumerate() {
            let _ = writeln!(text, "           MOVE {value}\n             TO F-{nth}.");
            let _ = match kind {
                Kind::Whole { .. } => {
                    writeln!(
                        text,
                        "           MOVE F-{nth} TO WHOLE.\n           DISPLAY WHOLE."
                    )
                }
                Kind::Scaled { .. } => {
                    writeln!(
                        text,
                        "           MOVE F-{nth} TO PARTS.\n           DISPLAY PARTS."
                    )
                }
                _ => writeln!(text, "           DISPLAY F-{nth}."),
            };
        }
        text.push_str("           WRITE REC.\n");
    }
    text.push_str("           CLOSE F.\n           STOP RUN.\n");
    text
}

/// A value that doesn't borrow.
#[derive(Clone)]
enum Read {
    Other(Value<'static>),
    Text(String),
}

#[test]
fn every_other_type_is_what_the_program_displays() {
    let mut chance = Chance::seeded();
    let cases = cases();
    let values: Vec<Vec<String>> = (0..RECORDS)
        .map(|nth| {
            cases
                .iter()
                .map(|(_, kind)| value(*kind, nth, &mut chance))
                .collect()
        })
        .collect();
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-types-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let flags = ["-fnotrunc"];
    let (file, displayed) =
        compiled_and_run(&dir, &flags, &copybook(&cases), &program(&cases, &values));
    let (decoder, encoder) = coders(&copybook(&cases), "gnucobol,trunc=off");
    let len = decoder.schema().len_max() as usize;
    assert_eq!(file.len(), len * RECORDS, "records of {len} bytes");
    let mut lines = displayed.lines();
    let mut compared = 0;
    for (nth, record) in file.chunks_exact(len).enumerate() {
        let mut read: Vec<Read> = Vec::new();
        decoder.decode(record, &mut Room::default(), |cell| {
            let (clauses, _) = &cases[cell.column];
            let line = lines.next().expect("a line for each field");
            let what = format!(
                "{clauses}: put {}, displayed {line:?}, decoded",
                values[nth][cell.column]
            );
            let value = cell
                .value
                .unwrap_or_else(|error| panic!("{what} {error:?}"));
            match value {
                Value::Number(number) => {
                    let is_blank = line.trim().is_empty() && number.same_number(Number::default());
                    let shown = line.trim().parse::<Number>();
                    assert!(
                        is_blank || shown.is_ok_and(|shown| number.same_number(shown)),
                        "{what} {number}"
                    );
                    read.push(Read::Other(Value::Number(number)));
                }
                Value::Float32(number) => {
                    let shown: f32 = line
                        .trim()
                        .parse()
                        .unwrap_or_else(|_| panic!("{what} {number}"));
                    assert!(
                        (shown - number).abs() <= number.abs() * 1e-6,
                        "{what} {number}"
                    );
                    read.push(Read::Other(Value::Float32(number)));
                }
                Value::Float64(number) => {
                    let shown: f64 = line
                        .trim()
                        .parse()
                        .unwrap_or_else(|_| panic!("{what} {number}"));
                    assert!(
                        (shown - number).abs() <= number.abs() * 1e-14,
                        "{what} {number}"
                    );
                    read.push(Read::Other(Value::Float64(number)));
                }
                Value::Text(text) => {
                    // Padding is before text that is justified to the right.
                    let shown = match clauses.contains("JUSTIFIED") {
                        true => line.trim_start(),
                        false => line.trim_end(),
                    };
                    assert_eq!(text, shown, "{what}");
                    read.push(Read::Text(text.to_owned()));
                }
                other => panic!("{what} {other:?}"),
            }
            compared += 1;
        });
        let mut written = Vec::new();
        let mut value = |wanted: counterfoil_records::Wanted<'_>| {
            Some(match &read[wanted.column] {
                Read::Other(value) => *value,
                Read::Text(text) => Value::Text(text),
            })
        };
        encoder
            .encode(None, &mut value, &mut written)
            .expect("its own values fit");
        for (column, (clauses, _)) in decoder.schema().columns().iter().zip(&cases) {
            let at = column.offset.unwrap_or_default() as usize;
            let own = at..at + column.len as usize;
            assert_eq!(
                written[own.clone()],
                record[own],
                "{clauses}, written and as the program wrote it"
            );
        }
    }
    assert!(
        lines.next().is_none(),
        "all that was displayed was compared"
    );
    println!("{compared} values of {} fields agree", cases.len());
    std::fs::remove_dir_all(&dir).expect("the directory goes");
}
