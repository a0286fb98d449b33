//! Records of any schema: decoding gives every column once and never panics; with the record as its former bytes, encoding what
//! was decoded gives the same bytes; without, what is encoded is decoded to the same values.
//!
//! The first bytes choose a schema: one of some copybooks, or one of types in the notation of field lists, which are separated by
//! semicolons and ended by a zero byte. The record follows.
#![no_main]

use counterfoil::typed::TypedSchema;
use counterfoil_fuzz::Input;
use counterfoil_records::copybook::{Copybook, NoLibrary, Options, SourceFormat, Text};
use counterfoil_records::schema::{Dialect, Family, FieldSpec, FieldType, RecordSchema};
use counterfoil_records::value::{Misfit, Policy, Unset, Value};
use counterfoil_records::{EncodeRecordError, RecordDecoder, RecordEncoder, Room, Wanted};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

const COPYBOOKS: [&str; 6] = [
    include_str!("../../replicator/records/tests/data/carddemo/copybooks/custdata.cpy"),
    include_str!("../../replicator/records/tests/data/carddemo/copybooks/acctdata.cpy"),
    "01 r.\n 05 kind pic x.\n 05 a pic s9(7)v99.\n 05 b redefines a pic x(9).\n 05 c redefines a comp-2.\n",
    "01 r.\n 05 n pic 9.\n 05 t occurs 0 to 9 times depending on n.\n 10 m pic 9.\n 10 u occurs 0 to 3 times depending on m \
     pic s9(3) comp-3.\n 05 tail pic x(4).\n",
    "01 r.\n 05 d pic s9(5)ppp comp-3.\n 05 e pic vpp99.\n 05 f pic s9(18) comp.\n 05 g pic s9(4) leading separate.\n 05 h comp-1.\n \
     05 i pic n(3).\n 05 j pic zz9.99- blank when zero.\n 05 k pic 9(3) blank when zero.\n 05 l pic x(3) justified right.\n",
    "01 r.\n 05 rows occurs 3 times.\n 10 a pic x(2).\n 10 b pic s9(3) comp-6.\n 10 c pic 9(5) comp-x.\n 10 filler pic x.\n \
     05 z pic s9(31) comp-3.\n",
];

static SCHEMAS: LazyLock<Vec<Vec<Arc<RecordSchema>>>> = LazyLock::new(|| {
    let of_family = |family| {
        let options = |format| Options {
            dialect: Dialect::of(family),
            format,
        };
        let read = |(nth, text): (usize, &str)| {
            let source = Text {
                name: format!("{nth}.cpy"),
                text: text.to_owned(),
            };
            let format = text.starts_with("01").then_some(SourceFormat::Free);
            let book = Copybook::parse(&source, &options(format), &NoLibrary)
                .unwrap_or_else(|error| panic!("copybook {nth} isn't one: {error}"));
            Arc::new(book.records[0].clone())
        };
        COPYBOOKS.into_iter().enumerate().map(read).collect()
    };
    FAMILIES.into_iter().map(of_family).collect()
});

const FAMILIES: [Family; 3] = [Family::Gnucobol, Family::Ibm, Family::Mf];

/// A schema of types.
fn of_types(types: &str, family: Family) -> Option<Arc<RecordSchema>> {
    let specs: Vec<FieldSpec> = types
        .split(';')
        .enumerate()
        .map(|(nth, kind)| FieldSpec {
            name: Some(format!("F{nth}")),
            kind: Some(kind.to_owned()),
            ..FieldSpec::default()
        })
        .collect();
    RecordSchema::of_fields("FUZZ", &specs, &Dialect::of(family))
        .ok()
        .map(Arc::new)
}

/// A value that doesn't borrow.
enum Owned {
    Text(String),
    Bytes(Vec<u8>),
    Other(Value<'static>),
}

impl Owned {
    fn of(value: Value<'_>) -> Owned {
        match value {
            Value::Text(text) => Owned::Text(text.to_owned()),
            Value::Bytes(bytes) => Owned::Bytes(bytes.to_vec()),
            Value::Null => Owned::Other(Value::Null),
            Value::Number(it) => Owned::Other(Value::Number(it)),
            Value::Float32(it) => Owned::Other(Value::Float32(it)),
            Value::Float64(it) => Owned::Other(Value::Float64(it)),
            Value::Date(it) => Owned::Other(Value::Date(it)),
            Value::Time(it) => Owned::Other(Value::Time(it)),
            Value::Timestamp(it) => Owned::Other(Value::Timestamp(it)),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Owned::Text(text) => Value::Text(text),
            Owned::Bytes(bytes) => Value::Bytes(bytes),
            Owned::Other(value) => *value,
        }
    }
}

/// Values by table, row and column; none of what couldn't be decoded.
type Row = HashMap<(usize, Vec<u32>, usize), Option<Owned>>;

fn read(decoder: &RecordDecoder, record: &[u8]) -> (Row, bool) {
    let mut row = Row::new();
    let mut all = true;
    let read = decoder.decode(record, &mut Room::default(), |cell| {
        let value = cell.value.map(Owned::of);
        if let Err(error) = &cell.value {
            assert!(!error.reason.to_string().is_empty());
            all = false;
        }
        let key = (cell.table, cell.row.to_vec(), cell.column);
        assert!(row.insert(key, value.ok()).is_none(), "a cell comes once");
    });
    (row, all && read.problem.is_none())
}

fn write(
    encoder: &RecordEncoder,
    former: Option<&[u8]>,
    row: &Row,
) -> Result<Vec<u8>, EncodeRecordError> {
    let mut out = Vec::new();
    let mut value = |wanted: Wanted<'_>| {
        let value = row.get(&(wanted.table, wanted.row.to_vec(), wanted.column))?;
        value.as_ref().map(Owned::value)
    };
    encoder.encode(former, &mut value, &mut out).map(|()| out)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let family = usize::from(input.byte() % 3);
    let (which, switches) = (usize::from(input.byte()), input.byte());
    let schema = match SCHEMAS[family].get(which) {
        Some(schema) => schema.clone(),
        None => match of_types(&input.text(), FAMILIES[family]) {
            // What an input of some kilobytes can't fill teaches nothing and takes its time.
            Some(schema) if schema.len_max() < 1 << 16 => schema,
            _ => return,
        },
    };
    let record = input.0;
    let unset = |bit| {
        if switches & bit == 0 {
            Unset::Null
        } else {
            Unset::Error
        }
    };
    let mut decoder = RecordDecoder::new(schema.clone()).with_policy(Policy {
        blank: unset(1),
        no_date: unset(2),
    });
    if switches & 4 != 0 {
        decoder = decoder.with_padding(b' ');
    }
    let encoder = RecordEncoder::new(decoder.clone());
    let (row, all) = read(&decoder, record);
    let again = write(&encoder, Some(record), &row)
        .expect("what was decoded is encoded over the same record");
    assert_eq!(again, record);

    // A message of the columns is read by the schema that made it.
    let padding = (switches & 4 != 0).then_some(b' ');
    let typed = TypedSchema::of(&schema, padding);
    let encoded = typed.encode(record, &mut Room::default());
    typed
        .read(&encoded.bytes)
        .expect("a message is one of its schema");

    let has_variants = {
        let mut found = false;
        schema
            .root()
            .visit(&mut |item| found |= item.redefines.is_some());
        found
    };
    if all && !has_variants {
        anew(&encoder, &row, &schema);
    }
});

/// Encodes values to a new record, which has the same ones.
fn anew(encoder: &RecordEncoder, row: &Row, schema: &RecordSchema) {
    let record = match write(encoder, None, row) {
        Ok(record) => record,
        // Hexadecimal numbers that aren't normalised reach beyond those that are.
        Err(EncodeRecordError::Field {
            misfit: Misfit::Float,
            ..
        }) => return,
        Err(error) => panic!("values that were decoded aren't encoded: {error}"),
    };
    let (now, all) = read(encoder.decoder(), &record);
    assert!(all, "what was encoded is decoded");
    assert_eq!(now.len(), row.len());
    for (key @ (table, _, column), was) in row {
        let (Some(was), Some(Some(now))) = (was, now.get(key)) else {
            panic!("{key:?} is missing");
        };
        let field = &schema.tables()[*table].columns[*column].field;
        // Spaces, which are what NULL is written as, are a zero there.
        let zero = matches!(
            field,
            FieldType::Zoned {
                blank_when_zero: true,
                ..
            }
        );
        if matches!(was, Owned::Other(Value::Null)) && zero {
            continue;
        }
        let (was, now) = (was.value(), now.value());
        assert!(was.is(&now), "{field} was {was} and is {now}");
    }
}
