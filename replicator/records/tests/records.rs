//! Whole records: random schemas over random bytes, and the cases that have a story.

use counterfoil_records::schema::{
    Absent, BinaryRange, Choice, CodePage, Decimal, Dialect, Endian, Family, FieldType,
    FloatFormat, Item, ItemRef, NationalEncoding, Occurs, RecordSchema, Test, ZonedSign, Zones,
};
use counterfoil_records::value::{Reason, Unset, Value};
use counterfoil_records::{RecordDecoder, RecordEncoder, Room, Wanted};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// A value that doesn't borrow.
#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Text(String),
    Bytes(Vec<u8>),
    Other(Value<'static>),
    Wrong(Reason),
}

impl Owned {
    fn of(value: Result<Value<'_>, Reason>) -> Owned {
        match value {
            Ok(Value::Text(text)) => Owned::Text(text.to_owned()),
            Ok(Value::Bytes(bytes)) => Owned::Bytes(bytes.to_vec()),
            Ok(Value::Null) => Owned::Other(Value::Null),
            Ok(Value::Number(it)) => Owned::Other(Value::Number(it)),
            // Bits, so that a NaN is itself.
            Ok(Value::Float32(it)) => Owned::Bytes(it.to_be_bytes().to_vec()),
            Ok(Value::Float64(it)) => Owned::Bytes(it.to_be_bytes().to_vec()),
            Ok(Value::Date(it)) => Owned::Other(Value::Date(it)),
            Ok(Value::Time(it)) => Owned::Other(Value::Time(it)),
            Ok(Value::Timestamp(it)) => Owned::Other(Value::Timestamp(it)),
            Err(reason) => Owned::Wrong(reason),
        }
    }

    fn value<'v>(&'v self, field: &FieldType) -> Value<'v> {
        match self {
            Owned::Text(text) => Value::Text(text),
            Owned::Bytes(bytes) => match field {
                FieldType::Float { bytes: 4, .. } => Value::Float32(f32::from_be_bytes(
                    bytes[..].try_into().expect("four bytes"),
                )),
                FieldType::Float { .. } => Value::Float64(f64::from_be_bytes(
                    bytes[..].try_into().expect("eight bytes"),
                )),
                _ => Value::Bytes(bytes),
            },
            Owned::Other(value) => *value,
            Owned::Wrong(_) => Value::Null,
        }
    }
}

type Row = HashMap<(usize, Vec<u32>, usize), Owned>;

fn read(decoder: &RecordDecoder, record: &[u8]) -> Row {
    let mut row = Row::new();
    decoder.decode(record, &mut Room::default(), |cell| {
        let value = cell.value.map_err(|error| error.reason);
        let key = (cell.table, cell.row.to_vec(), cell.column);
        assert!(
            row.insert(key, Owned::of(value)).is_none(),
            "a cell comes once"
        );
    });
    row
}

fn write(encoder: &RecordEncoder, former: Option<&[u8]>, row: &Row) -> Result<Vec<u8>, String> {
    let tables = encoder.decoder().schema().tables();
    let mut out = Vec::new();
    encoder
        .encode(
            former,
            &mut |Wanted {
                      table,
                      row: at,
                      column,
                  }| {
                let value = row.get(&(table, at.to_vec(), column))?;
                Some(value.value(&tables[table].columns[column].field))
            },
            &mut out,
        )
        .map_err(|error| error.to_string())?;
    Ok(out)
}

fn field() -> impl Strategy<Value = FieldType> {
    let page = (0..CodePage::ALL.len()).prop_map(|at| CodePage::ALL[at]);
    let endian = prop_oneof![Just(Endian::Big), Just(Endian::Little)];
    let number = (1_u16..=38, -3_i16..6).prop_map(|(digits, scale)| Decimal { digits, scale });
    let sign = prop_oneof![
        Just(ZonedSign::Unsigned),
        Just(ZonedSign::Trailing),
        Just(ZonedSign::Leading),
        Just(ZonedSign::TrailingSeparate),
        Just(ZonedSign::LeadingSeparate)
    ];
    let zones = prop_oneof![
        Just(Zones::Ascii),
        Just(Zones::Overpunch),
        Just(Zones::Ebcdic)
    ];
    let date = prop_oneof![
        Just("YYYYMMDD"),
        Just("CYYMMDD"),
        Just("YYDDD"),
        Just("HHMISS")
    ];
    prop_oneof![
        (1_u32..20, page, any::<bool>()).prop_map(|(len, code_page, right)| FieldType::Text {
            len,
            code_page,
            right
        }),
        (1_u32..6, 0_usize..3).prop_map(|(chars, encoding)| FieldType::National {
            chars,
            encoding: [
                NationalEncoding::Utf16Be,
                NationalEncoding::Utf16Le,
                NationalEncoding::Dbcs
            ][encoding]
        }),
        (number.clone(), sign, zones, any::<bool>()).prop_map(
            |(number, sign, zones, blank_when_zero)| FieldType::Zoned {
                number,
                sign,
                zones,
                blank_when_zero
            }
        ),
        (number.clone(), any::<bool>(), any::<bool>()).prop_map(|(number, signed, sign_nibble)| {
            FieldType::Packed {
                number,
                signed: signed && sign_nibble,
                sign_nibble,
            }
        }),
        (
            1_u32..=16,
            number,
            any::<bool>(),
            endian.clone(),
            any::<bool>()
        )
            .prop_map(|(bytes, number, signed, endian, full)| FieldType::Binary {
                bytes,
                number,
                signed,
                endian,
                range: if full {
                    BinaryRange::Full
                } else {
                    BinaryRange::Picture
                },
            }),
        (any::<bool>(), any::<bool>(), endian).prop_map(|(wide, hex, endian)| FieldType::Float {
            bytes: if wide { 8 } else { 4 },
            format: if hex {
                FloatFormat::IbmHex
            } else {
                FloatFormat::Ieee
            },
            endian
        }),
        (1_u32..8).prop_map(|len| FieldType::Raw { len }),
        (date, any::<bool>()).prop_map(|(format, packed)| {
            let format: counterfoil_records::schema::DateFormat = format.parse().expect("a form");
            let digits = format.chars() as u16;
            let carrier = if packed {
                FieldType::Packed {
                    number: Decimal { digits, scale: 0 },
                    signed: true,
                    sign_nibble: true,
                }
            } else {
                FieldType::Text {
                    len: digits.into(),
                    code_page: CodePage::Cp037,
                    right: false,
                }
            };
            FieldType::DateTime {
                carrier: Box::new(carrier),
                format,
            }
        }),
    ]
}

fn counter() -> FieldType {
    FieldType::Zoned {
        number: Decimal {
            digits: 1,
            scale: 0,
        },
        sign: ZonedSign::Unsigned,
        zones: Zones::Ascii,
        blank_when_zero: false,
    }
}

fn occurs(min: u32, max: u32, depending_on: Option<&str>) -> Option<Occurs> {
    Some(Occurs {
        min,
        max,
        depending_on: depending_on.map(ItemRef::named),
    })
}

/// Fields, a fixed table, one of variable length, a redefinition with a discriminator and one without.
fn schema() -> impl Strategy<Value = Arc<RecordSchema>> {
    let fields = || proptest::collection::vec(field(), 1..6);
    (fields(), fields(), fields(), any::<[bool; 7]>(), 1_u32..4).prop_map(
        |(head, rows, tail, [table, choice, view, slides, columns, guarded, lenient], times)| {
            let named = |prefix: &str, fields: Vec<FieldType>| -> Vec<Item> {
                let fields = fields.into_iter().enumerate();
                let item = |(at, field): (usize, FieldType)| {
                    let placeholder = match &field {
                        FieldType::Text { .. } => Some(""),
                        FieldType::Zoned { .. } | FieldType::Packed { .. } => Some("0"),
                        _ => None,
                    };
                    let mut item = Item::field(5, Some(format!("{prefix}-{at}")), field);
                    if lenient {
                        item.absent = Absent {
                            blank: Some(Unset::Error),
                            values: placeholder.into_iter().map(str::to_owned).collect(),
                            invalid: Some(Unset::Null),
                        };
                    }
                    item
                };
                fields.map(item).collect()
            };
            let mut items = vec![Item::field(5, Some("KIND".into()), counter())];
            items.extend(named("HEAD", head));
            items.push(Item::field(5, None, FieldType::Raw { len: 2 }));
            let mut rows = Item::group(5, Some("ROWS".into()), named("ROW", rows));
            if table {
                items.push(Item::field(5, Some("HOW-MANY".into()), counter()));
                rows.occurs = occurs(0, 5, Some("HOW-MANY"));
            } else {
                rows.occurs = occurs(times, times, None);
            }
            rows.as_columns = columns;
            if guarded {
                rows.when = vec![Choice {
                    field: ItemRef::named("KIND"),
                    test: Test {
                        negated: true,
                        ..Test::is(["3", "4", "5"])
                    },
                }];
            }
            items.push(rows);
            let mut first = Item::group(5, Some("TAIL".into()), named("TAIL", tail.clone()));
            let mut other = Item::group(
                5,
                Some("OTHER".into()),
                named("OTHER", tail.into_iter().rev().collect()),
            );
            other.redefines = Some(ItemRef::named("TAIL"));
            if choice {
                let choice = |value: &str| {
                    vec![Choice {
                        field: ItemRef::named("KIND"),
                        test: Test::is([value]),
                    }]
                };
                first.when = choice("1");
                other.when = choice("2");
            }
            items.push(first);
            if view {
                items.push(other);
            }
            let mut dialect = Dialect::of(Family::Gnucobol);
            dialect.odo_slides = slides;
            let root = Item::group(1, Some("RECORD".into()), items);
            Arc::new(RecordSchema::build(root, Vec::new(), dialect).expect("a schema"))
        },
    )
}

/// Bytes of which some are digits and spaces, so that fields have values.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => b'0'..=b'9',
        1 => Just(b' '),
        1 => 0xF0_u8..=0xF9,
        1 => any::<u8>(),
    ];
    proptest::collection::vec(byte, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Random bytes by random schemas: no panic, every column once, and the same bytes again.
    #[test]
    fn what_is_decoded_is_encoded_to_the_same_bytes(schema in schema(), record in bytes(), padded: bool) {
        let mut decoder = RecordDecoder::new(schema.clone());
        if padded {
            decoder = decoder.with_padding(b' ');
        }
        let row = read(&decoder, &record);
        for column in 0..schema.columns().len() {
            prop_assert!(row.contains_key(&(0, vec![], column)), "column {}", column);
        }
        let encoder = RecordEncoder::new(decoder);
        prop_assert_eq!(write(&encoder, Some(&record), &row), Ok(record));
    }

    /// A record put together from values alone has those values.
    #[test]
    fn values_alone_come_back(schema in schema(), record in bytes()) {
        let decoder = RecordDecoder::new(schema.clone());
        let row = read(&decoder, &record);
        let sound = |value: &Owned| !matches!(value, Owned::Wrong(_) | Owned::Other(Value::Null));
        let columns = |(table, _, column): &(usize, Vec<u32>, usize)| &schema.tables()[*table].columns[*column];
        let encoder = RecordEncoder::new(decoder);
        let Ok(written) = write(&encoder, None, &row) else {
            // A count that isn't one, say.
            return Ok(());
        };
        let again = read(encoder.decoder(), &written);
        for (key, value) in row.iter().filter(|(_, value)| sound(value)) {
            let column = columns(key);
            // Of two ways to see the same bytes, one is written.
            if !column.groups.iter().any(|group| group == "TAIL" || group == "OTHER") || !column.when.is_empty() {
                // The fraction of a hexadecimal number may have been rounded.
                prop_assert_eq!(&again[key], value, "{} in {:?}", &column.name, &written);
            }
        }
    }
}

fn text(len: u32) -> FieldType {
    FieldType::Text {
        len,
        code_page: CodePage::Ascii,
        right: false,
    }
}

fn built(items: Vec<Item>) -> Arc<RecordSchema> {
    let mut dialect = Dialect::of(Family::Gnucobol);
    dialect.odo_slides = true;
    let root = Item::group(1, Some("RECORD".into()), items);
    Arc::new(RecordSchema::build(root, Vec::new(), dialect).expect("a schema"))
}

fn named(name: &str, field: FieldType) -> Item {
    Item::field(5, Some(name.into()), field)
}

fn line_item() -> Vec<Item> {
    let mut lines = Item::group(
        5,
        Some("LINES".into()),
        vec![named("SKU", text(2)), named("PIECES", counter()), {
            let mut piece = named("PIECE", text(1));
            piece.occurs = occurs(0, 9, Some("PIECES"));
            piece
        }],
    );
    lines.occurs = occurs(0, 9, Some("HOW-MANY"));
    vec![named("HOW-MANY", counter()), lines, named("NOTE", text(3))]
}

#[test]
fn nested_tables_slide() {
    let decoder = RecordDecoder::new(built(line_item()));
    let record = b"2aa3xyzbb1wend";
    let row = read(&decoder, record);
    let tables = decoder.schema().tables();
    let at = |table: &str, column: &str, row_: &[u32]| {
        let table = tables
            .iter()
            .position(|it| it.name == table)
            .expect("a table");
        let column = tables[table]
            .columns
            .iter()
            .position(|it| it.name == column)
            .expect("a column");
        row.get(&(table, row_.to_vec(), column)).cloned()
    };
    let text = |text: &str| Some(Owned::Text(text.into()));
    assert_eq!(at("lines", "sku", &[2]), text("bb"));
    assert_eq!(at("piece", "piece", &[1, 3]), text("z"));
    assert_eq!(at("piece", "piece", &[2, 1]), text("w"));
    assert_eq!(at("piece", "piece", &[2, 2]), None);
    assert_eq!(
        at("record", "note", &[]).or_else(|| at(&tables[0].name, "note", &[])),
        text("end")
    );

    let encoder = RecordEncoder::new(decoder.clone());
    assert_eq!(write(&encoder, None, &row), Ok(record.to_vec()));
    // One line less: what was behind the table moves up.
    let mut fewer = row.clone();
    fewer.insert(
        (0, vec![], 0),
        Owned::Other(Value::Number("1".parse().expect("a number"))),
    );
    assert_eq!(
        write(&encoder, Some(record), &fewer),
        Ok(b"1aa3xyzend".to_vec())
    );
    // A count that is no number hides what follows it, and says so.
    let mut room = Room::default();
    let mut counts = 0;
    let outcome = decoder.decode(b"Xaa3xyz", &mut room, |cell| {
        counts += usize::from(matches!(cell.value, Err(error) if error.reason == Reason::Count));
    });
    assert!(
        outcome
            .problem
            .is_some_and(|problem| problem.counter == "HOW-MANY")
    );
    assert_eq!(counts, 1);
}

#[test]
fn only_what_changed_is_written() {
    let packed = FieldType::Packed {
        number: Decimal {
            digits: 3,
            scale: 2,
        },
        signed: true,
        sign_nibble: true,
    };
    let schema = built(vec![
        named("A", text(4)),
        named("B", packed.clone()),
        named("C", packed),
    ]);
    let encoder = RecordEncoder::new(RecordDecoder::new(schema));
    // Zero bytes behind the text, a sign that no program writes, and a field that is no number.
    let record = b"ab\0\0\x12\x3A\xFF\x01";
    let mut row = read(encoder.decoder(), record);
    assert_eq!(
        row[&(0, vec![], 2)],
        Owned::Wrong(Reason::Digit { at: 0, byte: 0xFF })
    );
    assert_eq!(write(&encoder, Some(record), &row), Ok(record.to_vec()));
    row.insert(
        (0, vec![], 1),
        Owned::Other(Value::Number("-1.2".parse().expect("a number"))),
    );
    assert_eq!(
        write(&encoder, Some(record), &row),
        Ok(b"ab\0\0\x12\x0D\xFF\x01".to_vec())
    );
    row.insert(
        (0, vec![], 1),
        Owned::Other(Value::Number("-1.234".parse().expect("a number"))),
    );
    assert_eq!(
        write(&encoder, Some(record), &row),
        Err("b: the number has more decimals than the field".to_owned())
    );
}

#[test]
fn short_records_have_what_they_have() {
    let schema = built(vec![
        named("A", text(2)),
        named("B", text(2)),
        named("C", text(2)),
    ]);
    let decoder = RecordDecoder::new(schema);
    let row = read(&decoder, b"abc");
    assert_eq!(row[&(0, vec![], 0)], Owned::Text("ab".into()));
    assert_eq!(row[&(0, vec![], 1)], Owned::Wrong(Reason::PastEnd));
    let padded = decoder.with_padding(b' ');
    let row = read(&padded, b"abc");
    assert_eq!(row[&(0, vec![], 1)], Owned::Text("c".into()));
    assert_eq!(row[&(0, vec![], 2)], Owned::Text(String::new()));
    let encoder = RecordEncoder::new(padded);
    assert_eq!(write(&encoder, None, &row), Ok(b"abc".to_vec()));
    assert_eq!(write(&encoder, Some(b"abc "), &row), Ok(b"abc ".to_vec()));
}

#[test]
fn a_discriminator_chooses() {
    let when = |value: &str| {
        vec![Choice {
            field: ItemRef::named("KIND"),
            test: Test::is([value]),
        }]
    };
    let mut person = named("PERSON", text(4));
    person.when = when("P");
    let mut amount = named(
        "AMOUNT",
        FieldType::Zoned {
            number: Decimal {
                digits: 4,
                scale: 2,
            },
            sign: ZonedSign::Trailing,
            zones: Zones::Ascii,
            blank_when_zero: false,
        },
    );
    amount.redefines = Some(ItemRef::named("PERSON"));
    amount.when = when("A");
    let schema = built(vec![named("KIND", text(1)), person, amount]);
    let encoder = RecordEncoder::new(RecordDecoder::new(schema));
    for (record, person, amount) in [
        (
            b"PANNA",
            Owned::Text("ANNA".into()),
            Owned::Other(Value::Null),
        ),
        (
            b"A123t",
            Owned::Other(Value::Null),
            Owned::Other(Value::Number("-12.34".parse().expect("a number"))),
        ),
        (
            b"X1234",
            Owned::Other(Value::Null),
            Owned::Other(Value::Null),
        ),
    ] {
        let row = read(encoder.decoder(), record);
        assert_eq!(row[&(0, vec![], 1)], person);
        assert_eq!(row[&(0, vec![], 2)], amount);
        assert_eq!(write(&encoder, Some(record), &row), Ok(record.to_vec()));
        if record[0] != b'X' {
            assert_eq!(write(&encoder, None, &row), Ok(record.to_vec()));
        }
    }
}
