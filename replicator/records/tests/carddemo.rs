//! The sample files of a card system: each in EBCDIC and as ASCII lines, both decoded by one copybook to the same rows, and back.

use counterfoil_records::copybook::{Copybook, NoLibrary, Options, Text};
use counterfoil_records::schema::Dialect;
use counterfoil_records::value::{Number, Value};
use counterfoil_records::{
    Layout, Organization, PieceKind, RecordDecoder, RecordEncoder, RecordFormat, Room,
};
use std::path::Path;
use std::sync::Arc;

/// A value that doesn't borrow.
#[derive(Debug, PartialEq)]
enum Owned {
    Number(Number),
    Text(String),
}

type Row = Vec<Owned>;

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/carddemo")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decoder(name: &str, dialect: &str) -> RecordDecoder {
    let copybook = Text {
        name: format!("{name}.cpy"),
        text: String::from_utf8(data(&format!("copybooks/{name}.cpy"))).expect("ASCII"),
    };
    let options = Options {
        dialect: dialect.parse::<Dialect>().expect("a dialect"),
        format: None,
    };
    let copybook = Copybook::parse(&copybook, &options, &NoLibrary).expect("a copybook");
    RecordDecoder::new(Arc::new(copybook.record(None).expect("one record").clone()))
}

/// All rows of a file. Each record is encoded again, over its former bytes or (`anew`) from its values alone, and the file is the
/// same.
fn rows(decoder: &RecordDecoder, format: &RecordFormat, bytes: &[u8], anew: bool) -> Vec<Row> {
    let codec = format.codec().expect("a format");
    let encoder = RecordEncoder::new(decoder.clone());
    let mut rows = Vec::new();
    let mut again = Vec::new();
    let mut room = Room::default();
    let taken = codec.decode(0, bytes, true, &mut |piece| {
        let PieceKind::Record { data, rest } = piece.kind else {
            panic!("{piece:?} isn't a record");
        };
        let mut row = Row::new();
        decoder.decode(data, &mut room, |cell| {
            assert_eq!(cell.column, row.len(), "columns come in order");
            row.push(match cell.value {
                Ok(Value::Number(number)) => Owned::Number(number),
                Ok(Value::Text(text)) => Owned::Text(text.to_owned()),
                other => panic!("record {}: {other:?}", piece.id),
            });
        });
        let mut record = Vec::new();
        encoder
            .encode(
                (!anew).then_some(data),
                &mut |wanted| {
                    Some(match &row[wanted.column] {
                        Owned::Number(number) => Value::Number(*number),
                        Owned::Text(text) => Value::Text(text),
                    })
                },
                &mut record,
            )
            .expect("its own values fit");
        codec
            .encode(piece.id, &record, rest, &mut again)
            .expect("its own record fits");
        rows.push(row);
    });
    assert_eq!(taken, bytes.len());
    assert!(again == bytes, "the file comes back");
    rows
}

/// How many rows there are, and which of them (from 0) differ in which columns.
fn compared(name: &str) -> (usize, Vec<(usize, Vec<String>)>) {
    let ebcdic = decoder(name, "ibm");
    let size = u64::from(ebcdic.schema().len_max());
    let format = RecordFormat::new(Organization::Fixed, Layout::Plain).with_record_size(size);
    let bytes = data(&format!("ebcdic/{name}.dat"));
    let one = rows(&ebcdic, &format, &bytes, false);
    // These were written by programs, so each value has the spelling that we write.
    assert_eq!(one, rows(&ebcdic, &format, &bytes, true));

    let ascii = decoder(name, "ibm,code-page=ascii,sign=overpunch").with_padding(b' ');
    let format = RecordFormat::new(Organization::Sequential, Layout::LineSequential);
    let other = rows(&ascii, &format, &data(&format!("ascii/{name}.txt")), false);

    assert_eq!(one.len(), other.len(), "{name}");
    let columns = ascii.schema().columns();
    let differ = one
        .iter()
        .zip(&other)
        .enumerate()
        .filter_map(|(at, (one, other))| {
            let differ: Vec<String> = (0..columns.len())
                .filter(|&column| one[column] != other[column])
                .map(|column| columns[column].name.clone())
                .collect();
            (!differ.is_empty()).then_some((at, differ))
        });
    (one.len(), differ.collect())
}

#[test]
fn accounts_are_the_same_but_for_the_one_that_their_readme_names() {
    let differs = (48, vec!["acct_addr_zip".to_owned()]);
    assert_eq!(compared("acctdata"), (50, vec![differs]));
}

#[test]
fn cards_are_the_same() {
    assert_eq!(compared("carddata"), (50, vec![]));
}

#[test]
fn cross_references_are_the_same_though_their_lines_are_cut() {
    assert_eq!(compared("cardxref"), (50, vec![]));
}

#[test]
fn customers_are_the_same() {
    assert_eq!(compared("custdata"), (50, vec![]));
}

#[test]
fn transactions_are_the_same() {
    assert_eq!(compared("dailytran"), (300, vec![]));
}
