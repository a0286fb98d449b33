//! GnuCOBOL as the oracle: a compiled program puts generated values into fields of every type, size and sign, writes its records,
//! and displays what is in the fields. What we decode from the bytes is what it displays.
//!
//! The seed is printed; `COUNTERFOIL_SEED` repeats a run.

mod gnucobol;

use counterfoil_records::Room;
use counterfoil_records::value::{Number, Value};
use gnucobol::{Chance, coders, compiled_and_run};
use std::fmt::Write as _;
use std::path::Path;

/// Values put into each field.
const RECORDS: usize = 16;

/// A field: its PICTURE and USAGE, digits before and behind the point, and whether it has a sign.
struct Case {
    clauses: String,
    whole: usize,
    decimals: usize,
    signed: bool,
    /// The value is a multiple of this power of ten (PICTURE 9(3)P(2)).
    zeros: usize,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |clauses: String, whole, decimals, signed| {
        cases.push(Case {
            clauses,
            whole,
            decimals,
            signed,
            zeros: 0,
        });
    };
    for digits in 1..=18_usize {
        let decimals = digits / 3;
        let whole = digits - decimals;
        for signed in [false, true] {
            let s = if signed { "S" } else { "" };
            let picture = match decimals {
                0 => format!("PIC {s}9({whole})"),
                _ => format!("PIC {s}9({whole})V9({decimals})"),
            };
            let mut usages = vec!["", "COMP", "COMP-3", "COMP-5"];
            if signed {
                usages.extend([
                    "SIGN LEADING",
                    "SIGN TRAILING SEPARATE",
                    "SIGN LEADING SEPARATE",
                ]);
            } else {
                usages.extend(["COMP-6", "COMP-X"]);
            }
            for usage in usages {
                // COMP-X takes whole numbers here.
                if usage == "COMP-X" && decimals > 0 {
                    case(format!("PIC 9({digits}) COMP-X"), digits, 0, false);
                } else {
                    case(format!("{picture} {usage}"), whole, decimals, signed);
                }
            }
        }
    }
    for usage in ["", "COMP-3"] {
        for digits in [25, 31, 38] {
            case(format!("PIC S9({digits}) {usage}"), digits, 0, true);
        }
    }
    // Of COMP-3 with P, libcob 3.1.2 itself writes half bytes that are no digits.
    for usage in ["", "COMP"] {
        cases.push(Case {
            clauses: format!("PIC S9(3)P(2) {usage}"),
            whole: 3,
            decimals: 0,
            signed: true,
            zeros: 2,
        });
    }
    cases
}

/// A value that fits, as COBOL and we write it; the ends of the range among them.
fn value(case: &Case, nth: usize, chance: &mut Chance) -> String {
    let digits = case.whole + case.decimals;
    let mut all: String = (0..digits)
        .map(|_| char::from(b'0' + chance.below(10) as u8))
        .collect();
    match nth {
        0 => all = "0".repeat(digits),
        1 | 2 => all = "9".repeat(digits),
        3 | 4 => {
            all = "0".repeat(digits);
            all.replace_range(digits - 1.., "1");
        }
        // Fewer digits.
        _ => {
            let zeros = chance.below(digits as u64) as usize;
            all.replace_range(..zeros, &"0".repeat(zeros));
        }
    }
    let negative = case.signed && nth.is_multiple_of(2) && all.contains(|digit| digit != '0');
    let (whole, decimals) = all.split_at(case.whole);
    let sign = if negative { "-" } else { "" };
    let zeros = "0".repeat(case.zeros);
    match case.decimals {
        0 => format!("{sign}{whole}{zeros}"),
        _ => format!("{sign}{whole}.{decimals}"),
    }
}

fn copybook(cases: &[Case]) -> String {
    let mut text = String::from("       01 REC.\n");
    for (nth, case) in cases.iter().enumerate() {
        let _ = writeln!(text, "          05 F-{nth}\n             {}.", case.clauses);
    }
    text
}

/// A program that writes `values` and displays them from an edited field, one line for each.
fn program(cases: &[Case], values: &[Vec<String>]) -> String {
    let mut text = String::from(
        "       IDENTIFICATION DIVISION.\n       PROGRAM-ID. ORACLE.\n       ENVIRONMENT DIVISION.\n       INPUT-OUTPUT SECTION.\n       \
         FILE-CONTROL.\n           SELECT F ASSIGN TO \"oracle.dat\"\n           ORGANIZATION SEQUENTIAL.\n       DATA DIVISION.\n       \
         FILE SECTION.\n       FD F.\n       COPY \"rec.cpy\".\n       WORKING-STORAGE SECTION.\n",
    );
    for (nth, case) in cases.iter().enumerate() {
        let whole = case.whole + case.zeros;
        let decimals = match case.decimals {
            0 => String::new(),
            decimals => format!(".9({decimals})"),
        };
        let _ = writeln!(text, "       01 E-{nth} PIC -({whole})9{decimals}.");
    }
    text.push_str("       PROCEDURE DIVISION.\n           OPEN OUTPUT F.\n");
    for record in values {
        for (nth, value) in record.iter().enumerate() {
            let _ = writeln!(text, "           MOVE {value}\n             TO F-{nth}.");
            let _ = writeln!(
                text,
                "           MOVE F-{nth} TO E-{nth}.\n           DISPLAY E-{nth}."
            );
        }
        text.push_str("           WRITE REC.\n");
    }
    text.push_str("           CLOSE F.\n           STOP RUN.\n");
    text
}

fn agrees(name: &str, flags: &[&str], dialect: &str) {
    let mut chance = Chance::seeded();
    let mut cases = cases();
    if dialect.contains("binary=2-4-8") {
        // cobc has one byte for small COMP-5 items whatever the sizes of others; IBM's compiler has two, and so have we.
        cases.retain(|case| case.whole + case.decimals > 2 || !case.clauses.contains("COMP-5"));
    }
    let values: Vec<Vec<String>> = (0..RECORDS)
        .map(|nth| {
            cases
                .iter()
                .map(|case| value(case, nth, &mut chance))
                .collect()
        })
        .collect();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("oracle-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (file, displayed) =
        compiled_and_run(&dir, flags, &copybook(&cases), &program(&cases, &values));

    let (decoder, encoder) = coders(&copybook(&cases), dialect);
    let len = decoder.schema().len_max() as usize;
    assert_eq!(file.len(), len * RECORDS, "records of {len} bytes");
    let mut lines = displayed.lines();
    let mut compared = 0;
    for (nth, record) in file.chunks_exact(len).enumerate() {
        let mut read: Vec<Number> = Vec::new();
        decoder.decode(record, &mut Room::default(), |cell| {
            let case = &cases[cell.column];
            let line = lines.next().expect("a line for each field").trim();
            let shown: Number = line
                .parse()
                .unwrap_or_else(|_| panic!("{line:?} is a number"));
            let Ok(Value::Number(number)) = cell.value else {
                panic!(
                    "{} of {}: {:?}",
                    case.clauses, values[nth][cell.column], cell.value
                );
            };
            assert!(
                number.same_number(shown),
                "{}: put {}, displayed {shown}, decoded {number}",
                case.clauses,
                values[nth][cell.column]
            );
            read.push(number);
            compared += 1;
        });
        // What programs write is the spelling that we write.
        let mut written = Vec::new();
        encoder
            .encode(
                None,
                &mut |wanted| Some(Value::Number(read[wanted.column])),
                &mut written,
            )
            .expect("its own values fit");
        if written != record {
            let columns = decoder.schema().columns();
            let differs = columns.iter().position(|column| {
                let at = column.offset.unwrap_or_default() as usize;
                written[at..at + column.len as usize] != record[at..at + column.len as usize]
            });
            let column = &columns[differs.expect("some column differs")];
            let at = column.offset.unwrap_or_default() as usize;
            panic!(
                "{}: the program wrote {:02X?}, we write {:02X?}",
                column.field,
                &record[at..at + column.len as usize],
                &written[at..at + column.len as usize]
            );
        }
    }
    println!("{compared} values of {} fields agree", cases.len());
    std::fs::remove_dir_all(&dir).expect("the directory goes");
}

#[test]
fn gnucobol_as_it_is() {
    agrees("default", &[], "gnucobol");
}

#[test]
fn gnucobol_with_ebcdic_signs() {
    agrees("sign", &["-fsign=EBCDIC"], "gnucobol,sign=overpunch");
}

#[test]
fn gnucobol_with_the_sizes_of_ibm() {
    agrees("ibm", &["-fbinary-size=2-4-8"], "gnucobol,binary=2-4-8");
}

#[test]
fn gnucobol_with_the_sizes_of_micro_focus() {
    agrees("mf", &["-fbinary-size=1--8"], "gnucobol,binary=fewest");
}
