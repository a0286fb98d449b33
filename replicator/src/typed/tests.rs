//! A file's own schema, compiled as any consumer would, reads what was encoded, and so does the generic one.

use super::{Kind, TypedSchema};
use counterfoil_proto::v1;
use counterfoil_records::schema::{
    BinaryRange, CodePage, DateFormat, Decimal, Dialect, Endian, Family, FieldType, FloatFormat,
    Item, ItemRef, Occurs, RecordSchema, ZonedSign, Zones,
};
use counterfoil_records::value::Value;
use counterfoil_records::{RecordDecoder, Room};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Compiles a schema as a consumer would.
fn compile(proto: &str) -> DescriptorPool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.proto");
    std::fs::write(&path, proto).unwrap();
    let set = protox::compile([&path], [directory.path()]).unwrap_or_else(|error| {
        panic!("{error:?} in\n{proto}");
    });
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

fn build(items: Vec<Item>) -> Arc<RecordSchema> {
    let mut dialect = Dialect::of(Family::Ibm);
    dialect.odo_slides = true;
    let root = Item::group(1, Some("CARD-RECORD".to_owned()), items);
    Arc::new(RecordSchema::build(root, Vec::new(), dialect).unwrap())
}

fn named(name: &str, field: FieldType) -> Item {
    Item::field(5, Some(name.to_owned()), field)
}

fn text(len: u32) -> FieldType {
    FieldType::Text {
        len,
        code_page: CodePage::Latin1,
        right: false,
    }
}

fn zoned(digits: u16, scale: i16) -> FieldType {
    FieldType::Zoned {
        number: Decimal { digits, scale },
        sign: ZonedSign::Trailing,
        zones: Zones::Ascii,
        blank_when_zero: false,
    }
}

fn packed(digits: u16, scale: i16) -> FieldType {
    FieldType::Packed {
        number: Decimal { digits, scale },
        signed: true,
        sign_nibble: true,
    }
}

fn binary(bytes: u32, digits: u16, signed: bool, range: BinaryRange) -> FieldType {
    FieldType::Binary {
        bytes,
        number: Decimal { digits, scale: 0 },
        signed,
        endian: Endian::Big,
        range,
    }
}

fn float(bytes: u32) -> FieldType {
    FieldType::Float {
        bytes,
        format: FloatFormat::Ieee,
        endian: Endian::Big,
    }
}

fn field() -> impl Strategy<Value = FieldType> {
    prop_oneof![
        (1..9u32).prop_map(text),
        (1..20u16, -2..5i16).prop_map(|(digits, scale)| zoned(digits, scale)),
        (1..20u16, -2..5i16).prop_map(|(digits, scale)| packed(digits, scale)),
        (
            prop_oneof![Just(1u32), Just(2), Just(4), Just(8)],
            any::<bool>()
        )
            .prop_map(|(bytes, signed)| binary(bytes, 18, signed, BinaryRange::Full)),
        Just(binary(4, 9, true, BinaryRange::Picture)),
        Just(float(4)),
        Just(float(8)),
        (1..5u32).prop_map(|len| FieldType::Raw { len }),
        Just(FieldType::DateTime {
            carrier: Box::new(zoned(8, 0)),
            format: "YYYYMMDD".parse::<DateFormat>().unwrap(),
        }),
    ]
}

/// Fields, and a table of variable length with another in it.
fn schema() -> impl Strategy<Value = Arc<RecordSchema>> {
    let fields = || proptest::collection::vec(field(), 1..6);
    (fields(), proptest::option::of((fields(), fields()))).prop_map(|(fields, table)| {
        let number = |fields: Vec<FieldType>, prefix: &str| -> Vec<Item> {
            let fields = fields.into_iter().enumerate();
            fields
                .map(|(at, field)| named(&format!("{prefix}-{at}"), field))
                .collect()
        };
        let mut items = number(fields, "F");
        if let Some((outer, inner)) = table {
            let times = |mut item: Item, counter: &str| {
                item.occurs = Some(Occurs {
                    min: 0,
                    max: 3,
                    depending_on: Some(ItemRef::named(counter)),
                });
                item
            };
            let count = || FieldType::Zoned {
                number: Decimal {
                    digits: 1,
                    scale: 0,
                },
                sign: ZonedSign::Unsigned,
                zones: Zones::Ascii,
                blank_when_zero: false,
            };
            items.insert(0, named("N", count()));
            let mut rows = number(outer, "O");
            rows.insert(0, named("M", count()));
            rows.push(times(
                Item::group(10, Some("INNER".to_owned()), number(inner, "I")),
                "M",
            ));
            items.push(times(Item::group(5, Some("OUTER".to_owned()), rows), "N"));
        }
        build(items)
    })
}

/// Bytes that are values rather often.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => b'0'..=b'3',
        2 => Just(0u8),
        1 => Just(0x0c),
        1 => Just(b' '),
        1 => any::<u8>(),
    ];
    proptest::collection::vec(byte, 0..120)
}

/// What a row's values are by their names, as text; those of tables in it by row.
type Rows = BTreeMap<(usize, Vec<u32>), BTreeMap<String, String>>;

fn shown(value: &Value<'_>, kind: Kind) -> String {
    match (value, kind) {
        (Value::Number(number), Kind::Int64 | Kind::Uint64) => {
            number.rescaled(0).expect("a whole number").to_string()
        }
        (Value::Float32(value), _) => value.to_bits().to_string(),
        (Value::Float64(value), _) => value.to_bits().to_string(),
        (value, _) => value.to_string(),
    }
}

/// What the decoder itself says is in a record.
fn decoded(typed: &TypedSchema, record: &[u8]) -> (Rows, usize) {
    let decoder = RecordDecoder::new(Arc::clone(&typed.schema));
    let (mut rows, mut errors) = (Rows::new(), 0);
    decoder.decode(record, &mut Room::default(), |cell| {
        let row = rows.entry((cell.table, cell.row.to_vec())).or_default();
        match &cell.value {
            Ok(Value::Null) => {}
            Ok(value) => {
                let column = &typed.schema.tables()[cell.table].columns[cell.column];
                let kind = typed.messages[cell.table].fields[cell.column].kind;
                row.insert(column.name.clone(), shown(value, kind));
            }
            Err(_) => errors += 1,
        }
    });
    rows.entry((0, Vec::new())).or_default();
    (rows, errors)
}

/// What a consumer with the compiled schema reads.
fn consumed(typed: &TypedSchema, message: &DynamicMessage, at: (usize, Vec<u32>), rows: &mut Rows) {
    let mut row = BTreeMap::new();
    for (field, value) in message.fields() {
        use prost_reflect::Value as V;
        let text = match value {
            V::I64(value) => value.to_string(),
            V::U64(value) => value.to_string(),
            V::F32(value) => value.to_bits().to_string(),
            V::F64(value) => value.to_bits().to_string(),
            V::String(value) => value.clone(),
            V::Bytes(value) => value.iter().map(|byte| format!("{byte:02x}")).collect(),
            V::List(list) => {
                let tables = typed.schema.tables();
                let table = tables.iter().position(|table| table.name == field.name());
                let table = table.expect("a table of this name");
                for (index, inner) in (1..).zip(list) {
                    let inner = inner.as_message().expect("rows are messages");
                    let place = [at.1.clone(), vec![index]].concat();
                    consumed(typed, inner, (table, place), rows);
                }
                continue;
            }
            other => panic!("{other:?}"),
        };
        row.insert(field.name().to_owned(), text);
    }
    rows.insert(at, row);
}

fn image(pool: &DescriptorPool, typed: &TypedSchema) -> MessageDescriptor {
    pool.get_message_by_name(&format!("{}.Image", typed.package()))
        .expect("the envelope is in it")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_consumer_with_the_files_schema_reads_what_was_decoded(
        schema in schema(),
        records in proptest::collection::vec(record(), 1..8),
    ) {
        let typed = TypedSchema::of(&schema, None);
        let pool = compile(&typed.proto());
        for record in records {
            let encoded = typed.encode(&record, &mut Room::default());
            let (expected, errors) = decoded(&typed, &record);
            prop_assert_eq!(encoded.undecodable, errors);
            prop_assert!(errors == 0 || !encoded.reason.is_empty());
            // The way of an event: the generic image on the wire, the file's own behind it.
            let bytes = v1::Image {
                data: record.clone(),
                typed: encoded.bytes.clone(),
                reason: encoded.reason,
                ..v1::Image::default()
            }
            .encode_to_vec();
            let message = DynamicMessage::decode(image(&pool, &typed), &bytes[..]).unwrap();
            let data = message.get_field_by_name("data").unwrap();
            prop_assert_eq!(data.as_bytes().unwrap(), &record);
            prop_assert_eq!(message.unknown_fields().count(), 0);
            let row = message.get_field_by_name("typed").unwrap();
            let mut rows = Rows::new();
            consumed(&typed, row.as_message().unwrap(), (0, Vec::new()), &mut rows);
            prop_assert_eq!(rows, expected);
            prop_assert!(typed.read(&encoded.bytes).is_ok());
        }
    }

    /// Whatever is in a field of bytes: an answer, and no panic.
    #[test]
    fn any_bytes_get_an_answer(schema in schema(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = TypedSchema::of(&schema, None).read(&bytes);
    }
}

fn numbers(typed: &TypedSchema) -> BTreeMap<String, u32> {
    let columns = typed.schema.columns().iter().zip(&typed.messages[0].fields);
    columns
        .map(|(column, field)| (column.name.clone(), field.number))
        .collect()
}

/// A number is of a field's name and type, whatever stands around it.
#[test]
fn numbers_stay_when_fields_are_added() {
    let old = build(vec![named("CARD", text(4)), named("BALANCE", packed(7, 2))]);
    let new = build(vec![
        named("CARD", text(4)),
        named("OPENED", text(8)),
        named("BALANCE", packed(9, 2)),
    ]);
    let (old, new) = (TypedSchema::of(&old, None), TypedSchema::of(&new, None));
    let before = numbers(&old);
    // What they are is part of every schema that was ever handed out.
    assert_eq!(
        before,
        BTreeMap::from([
            ("balance".to_owned(), 19_912_503),
            ("card".to_owned(), 5_965_967)
        ])
    );
    for (name, number) in before {
        assert_eq!(numbers(&new)[&name], number, "{name}");
    }
    // Of another type it is another field: who has the old schema sees none rather than a wrong one.
    let retyped = build(vec![named("CARD", zoned(4, 0))]);
    assert_ne!(
        numbers(&TypedSchema::of(&retyped, None))["card"],
        numbers(&new)["card"]
    );
}

#[test]
fn names_that_protobuf_would_not_take_together_are_told_apart() {
    let schema = build(vec![
        named("X-1-2", text(1)),
        named("X-12", text(1)),
        named("X-1", text(1)),
        named("MESSAGE", text(1)),
        named("OPTIONAL", text(1)),
        named("1ST", text(1)),
    ]);
    let typed = TypedSchema::of(&schema, None);
    let proto = typed.proto();
    let pool = compile(&proto);
    let row = pool
        .get_message_by_name("counterfoil.files.card_record.CardRecordRow")
        .expect("the record's message");
    let names: Vec<String> = row.fields().map(|field| field.name().to_owned()).collect();
    assert_eq!(names.len(), 6, "{proto}");
    for name in ["x_1_2", "x_1", "message", "optional"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
}

#[test]
fn what_cannot_be_decoded_is_absent_and_said() {
    let schema = build(vec![named("CARD", text(4)), named("BALANCE", packed(5, 2))]);
    let typed = TypedSchema::of(&schema, None);
    let encoded = typed.encode(b"4711\x1b\x2c\x3d", &mut Room::default());
    assert_eq!(
        typed.read(&encoded.bytes),
        Ok(serde_json::json!({ "card": "4711" }))
    );
    assert!(
        encoded.reason.starts_with("balance: "),
        "{}",
        encoded.reason
    );
    let sound = typed.encode(b"4711\x12\x34\x5d", &mut Room::default());
    assert_eq!((sound.reason.as_str(), sound.undecodable), ("", 0));
    assert_eq!(
        typed.read(&sound.bytes),
        Ok(serde_json::json!({ "card": "4711", "balance": "-123.45" }))
    );
}

#[test]
fn a_variant_that_isn_t_there_isn_t_in_the_message_and_is_no_error() {
    let specs: Vec<counterfoil_records::schema::FieldSpec> = serde_json::from_value(serde_json::json!([
        { "name": "kind", "type": "text(1)" },
        { "name": "person", "type": "text(6)", "when": { "field": "kind", "is": "P" } },
        { "name": "firm", "fields": [
            { "name": "count", "type": "zoned(1)" },
            { "name": "share", "type": "zoned(2)", "occurs": { "max": 2, "depending_on": "count" } },
          ], "redefines": "person", "when": { "field": "kind", "is_not": "P" } },
        { "name": "day", "type": "zoned(8) as YYYYMMDD", "null_if": "99991231" },
    ]))
    .unwrap();
    let schema = RecordSchema::of_fields("party", &specs, &Dialect::default()).unwrap();
    let typed = TypedSchema::of(&Arc::new(schema), None);
    let message = |record: &[u8]| {
        let encoded = typed.encode(record, &mut Room::default());
        assert_eq!(encoded.reason, "", "{}", String::from_utf8_lossy(record));
        assert_eq!(encoded.undecodable, 0);
        let pool = compile(&typed.proto());
        let row = pool
            .all_messages()
            .find(|message| message.name() == typed.messages[0].name)
            .unwrap();
        let message = DynamicMessage::decode(row, &encoded.bytes[..]).unwrap();
        assert_eq!(message.unknown_fields().count(), 0);
        message.to_string()
    };
    let person = message(b"PSmith 99991231");
    assert!(
        person.contains("person:\"Smith\"") && !person.contains("count") && !person.contains("day"),
        "{person}"
    );
    let firm = message(b"F20507 20260131");
    assert!(
        firm.contains("share:5") && firm.contains("share:7"),
        "{firm}"
    );
    assert!(
        !firm.contains("person") && firm.contains("2026-01-31"),
        "{firm}"
    );
}
