//! How fast records are decoded; `cargo xtask bench decode` runs it in a release build.
//!
//! A record has 300 bytes and 20 fields: DISPLAY, COMP, COMP-3 and EBCDIC text. In turns, over the same records: copied as they
//! are; their fields copied into typed rows without conversion; decoded into typed rows.
//!
//! Its argument names a file, which it fills with the same rows as PostgreSQL's COPY takes them. It prints the statement that
//! makes their table and how many there are, then a line for each line that it reads: bytes a second of the three, in this order.

use counterfoil_records::copybook::{Copybook, NoLibrary, Options, Text};
use counterfoil_records::schema::{Dialect, FieldType};
use counterfoil_records::value::{Number, Value};
use counterfoil_records::{RecordDecoder, RecordEncoder, Room};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const COPYBOOK: &str = "\
       01  SALE.
           05  SALE-ID        PIC 9(12).
           05  STORE          PIC 9(6).
           05  CLERK          PIC X(12).
           05  CUSTOMER       PIC X(40).
           05  STREET         PIC X(40).
           05  CITY           PIC X(30).
           05  COUNTRY        PIC X(2).
           05  STATE-CODE     PIC X(1).
           05  AMOUNT         PIC S9(9)V99 COMP-3.
           05  TAX            PIC S9(7)V99 COMP-3.
           05  DISCOUNT       PIC S9(5)V99 COMP-3.
           05  BALANCE        PIC S9(13)V99.
           05  ITEMS          PIC S9(4) COMP.
           05  POINTS         PIC S9(9) COMP.
           05  SERIAL-NO      PIC S9(18) COMP.
           05  OPENED         PIC 9(8).
           05  CLOSED         PIC 9(8).
           05  PHONE          PIC X(15).
           05  REMARK         PIC X(70).
           05  GROUP-CODE     PIC X(12).
";

/// Records that are gone through in a turn: more than the processor's caches hold.
const RECORDS: usize = 200_000;

/// A typed row: what a sink is given.
#[derive(Default)]
struct Rows {
    numbers: Vec<i128>,
    text: Vec<u8>,
    ends: Vec<u32>,
}

impl Rows {
    fn clear(&mut self) {
        self.numbers.clear();
        self.text.clear();
        self.ends.clear();
    }

    fn put_text(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.ends.push(self.text.len() as u32);
    }
}

/// Rows that are kept at once.
const BATCH: usize = 1000;

fn main() {
    let path = std::env::args().nth(1).expect("the name of a file");
    let source = Text {
        name: "sale.cpy".to_owned(),
        text: COPYBOOK.to_owned(),
    };
    let options = Options {
        dialect: "ibm".parse::<Dialect>().expect("a dialect"),
        format: None,
    };
    let copybook = Copybook::parse(&source, &options, &NoLibrary).expect("a copybook");
    let schema = Arc::new(copybook.record(None).expect("one record").clone());
    let len = schema.len_max() as usize;
    assert_eq!((len, schema.columns().len()), (300, 20));
    let decoder = RecordDecoder::new(schema.clone());
    let records = records(&decoder);
    std::fs::write(&path, copied_text(&decoder, &records)).expect("the file is written");
    println!("{}", table(&decoder));
    println!("{RECORDS}");
    let mut copy = vec![0; records.len()];
    let mut rows = Rows::default();
    let mut room = Room::default();
    let columns = schema.columns();
    let speed = |begin: Instant| records.len() as f64 / begin.elapsed().as_secs_f64();
    for _ in std::io::stdin().lines() {
        let begin = Instant::now();
        for (to, from) in copy
            .chunks_mut(BATCH * len)
            .zip(records.chunks(BATCH * len))
        {
            to.copy_from_slice(black_box(from));
        }
        black_box(&mut copy);
        let copied = speed(begin);

        let begin = Instant::now();
        for batch in records.chunks(BATCH * len) {
            rows.clear();
            for record in batch.chunks_exact(len) {
                for column in columns {
                    let at = column.offset.unwrap_or_default() as usize;
                    let bytes = &record[at..at + column.len as usize];
                    match column.field {
                        FieldType::Text { .. } => rows.put_text(bytes),
                        _ => {
                            // As many bytes as the number takes in a typed row.
                            let mut wide = [0; 16];
                            wide[..bytes.len().min(16)]
                                .copy_from_slice(&bytes[..bytes.len().min(16)]);
                            rows.numbers.push(i128::from_le_bytes(wide));
                        }
                    }
                }
            }
            black_box(&mut rows);
        }
        let unconverted = speed(begin);

        let begin = Instant::now();
        let mut wrong = 0;
        for batch in records.chunks(BATCH * len) {
            rows.clear();
            for record in batch.chunks_exact(len) {
                decoder.decode(record, &mut room, |cell| match cell.value {
                    Ok(Value::Number(number)) => rows.numbers.push(number.unscaled()),
                    Ok(Value::Text(text)) => rows.put_text(text.as_bytes()),
                    _ => wrong += 1,
                });
            }
            black_box(&mut rows);
        }
        let decoded = speed(begin);
        assert_eq!(wrong, 0, "every field has a value");
        println!("{copied:.0} {unconverted:.0} {decoded:.0}");
    }
}

/// The table of the records, with a column of the fitting type for each field.
fn table(decoder: &RecordDecoder) -> String {
    let columns = decoder.schema().columns().iter().map(|column| {
        let kind = match column.field.decimal() {
            None => "text".to_owned(),
            Some(number) if number.scale > 0 => {
                format!("numeric({}, {})", number.digits, number.scale)
            }
            Some(number) if number.digits <= 4 => "smallint".to_owned(),
            Some(number) if number.digits <= 9 => "integer".to_owned(),
            Some(_) => "bigint".to_owned(),
        };
        format!("{} {kind} NOT NULL", column.name)
    });
    let columns: Vec<String> = columns.collect();
    format!("CREATE TABLE sale ({})", columns.join(", "))
}

/// The records as COPY takes them as text.
fn copied_text(decoder: &RecordDecoder, records: &[u8]) -> String {
    let mut text = String::new();
    let mut room = Room::default();
    for record in records.chunks_exact(decoder.schema().len_max() as usize) {
        let begin = text.len();
        decoder.decode(record, &mut room, |cell| {
            let value = cell.value.expect("every field has a value");
            let behind = if text.len() == begin { "" } else { "\t" };
            // None of the texts has what COPY would take for something else.
            write!(text, "{behind}{value}").expect("memory takes it");
        });
        text.push('\n');
    }
    text
}

/// Records of which no two follow each other that are the same.
fn records(decoder: &RecordDecoder) -> Vec<u8> {
    const WORDS: [&str; 6] = [
        "HARBOUR",
        "Wien",
        "LONG TEXT OF SOME WORDS",
        "A",
        "Zürich",
        "",
    ];
    let encoder = RecordEncoder::new(decoder.clone());
    let columns = decoder.schema().columns();
    let mut records = Vec::new();
    let mut state: u64 = 1;
    for nth in 0..RECORDS {
        encoder
            .encode(
                None,
                &mut |wanted| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let column = &columns[wanted.column];
                    Some(match column.field.decimal() {
                        None => {
                            let word = WORDS[(state >> 33) as usize % WORDS.len()];
                            let end = word.char_indices().nth(column.len as usize);
                            Value::Text(&word[..end.map_or(word.len(), |(at, _)| at)])
                        }
                        Some(number) => {
                            let bound = 10_i128.pow(number.digits.into());
                            let digits = i128::from(state) % bound;
                            let negative = column.field.is_signed() && nth % 5 == 0;
                            let digits = if negative { -digits } else { digits };
                            Value::Number(Number::new(digits, number.scale).unwrap_or_default())
                        }
                    })
                },
                &mut records,
            )
            .expect("values of the right size");
    }
    records
}
