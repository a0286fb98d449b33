//! Columns in events: the protobuf schema of one kind of record, and records as messages of it.
//!
//! A [`TypedSchema`] is made from a [`RecordSchema`] alone, so everybody who has the same copybook has the same one: the
//! names of fields are those of columns, and their numbers come of name and type (`field_number`). Nothing has to be kept,
//! and a field that is added or taken out anywhere changes no other's number.
//!
//! [`TypedSchema::proto`] is the schema's text: the whole envelope of `counterfoil/v1/event.proto` in a package of the
//! file's own, with the record's message in its `Image`. [`TypedSchema::encode`] writes what belongs there, straight from
//! decoded values; [`TypedSchema::read`] goes back, for people.

mod encode;
mod proto;
mod read;

#[cfg(test)]
mod tests;

pub use encode::Encoded;
pub use read::NoMessage;

use counterfoil_records::schema::{BinaryRange, Column, FieldType, NationalEncoding, RecordSchema};
use counterfoil_records::{RecordDecoder, RecordFormat, Room};
use counterfoil_sinks::{FileDescription, FileSchema};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use twox_hash::XxHash3_128;

/// Numbers of fields are from here on: behind those that protobuf keeps for itself (19000 to 19999).
const NUMBER_MIN: u32 = 20_000;
/// The largest number whose tag takes four bytes.
const NUMBER_MAX: u32 = (1 << 25) - 1;
/// Digits of a whole number that fit 64 bits.
const INTEGER_DIGITS_MAX: u16 = 18;

/// What a column is in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Int64,
    Uint64,
    Float,
    Double,
    /// Text, decimals, dates and times.
    Text,
    Bytes,
}

impl Kind {
    /// Numbers that aren't whole, or have more digits than 64 bits, are text: exact, and read by everything.
    fn of(field: &FieldType) -> Kind {
        match field {
            FieldType::Text { .. } | FieldType::Edited { .. } | FieldType::DateTime { .. } => {
                Kind::Text
            }
            FieldType::National { encoding, .. } => match encoding {
                NationalEncoding::Dbcs => Kind::Bytes,
                _ => Kind::Text,
            },
            FieldType::Raw { .. } => Kind::Bytes,
            FieldType::Float { bytes: 4, .. } => Kind::Float,
            FieldType::Float { .. } => Kind::Double,
            FieldType::Zoned { number, .. } | FieldType::Packed { number, .. } => {
                if number.scale <= 0 && number.precision() <= INTEGER_DIGITS_MAX {
                    Kind::Int64
                } else {
                    Kind::Text
                }
            }
            FieldType::Binary {
                bytes,
                number,
                signed,
                range,
                ..
            } => match (range, number.scale) {
                (BinaryRange::Picture, ..=0) if number.precision() <= INTEGER_DIGITS_MAX => {
                    Kind::Int64
                }
                (BinaryRange::Full, 0) => match bytes {
                    0..8 => Kind::Int64,
                    8 if *signed => Kind::Int64,
                    8 => Kind::Uint64,
                    _ => Kind::Text,
                },
                _ => Kind::Text,
            },
        }
    }

    /// Its name in a schema.
    fn name(self) -> &'static str {
        match self {
            Kind::Int64 => "int64",
            Kind::Uint64 => "uint64",
            Kind::Float => "float",
            Kind::Double => "double",
            Kind::Text => "string",
            Kind::Bytes => "bytes",
        }
    }
}

/// A column as a field of a message.
#[derive(Clone, Debug)]
struct Field {
    /// The column's name, but where protobuf wouldn't take it beside another.
    name: String,
    number: u32,
    kind: Kind,
}

/// A table as a message.
#[derive(Clone, Debug)]
struct Message {
    /// The message's name.
    name: String,
    /// Index of the message that it is in; none of the record's own.
    parent: Option<usize>,
    /// The field there: its name, made as a column's, and its number.
    field: String,
    number: u32,
    /// How many tables it is in.
    depth: usize,
    /// By column.
    fields: Vec<Field>,
}

/// The messages that records of one schema become.
#[derive(Debug)]
pub struct TypedSchema {
    schema: Arc<RecordSchema>,
    name: String,
    /// By table.
    messages: Vec<Message>,
    decoder: RecordDecoder,
}

impl TypedSchema {
    /// The messages of a schema. `padding` is what goes on where a record ends early, in layouts that cut it off.
    pub fn of(schema: &Arc<RecordSchema>, padding: Option<u8>) -> TypedSchema {
        let tables = schema.tables();
        let mut taken: Vec<HashSet<u32>> = vec![HashSet::new(); tables.len()];
        let mut json: Vec<HashSet<String>> = vec![HashSet::new(); tables.len()];
        let mut names = HashSet::new();
        let mut messages: Vec<Message> = Vec::with_capacity(tables.len());
        for (at, table) in tables.iter().enumerate() {
            let fields = table.columns.iter().map(|column| {
                let kind = Kind::of(&column.field);
                let number = field_number(&column.name, kind.name(), &mut taken[at]);
                Field {
                    name: field_name(&column.name, number, &mut json[at]),
                    number,
                    kind,
                }
            });
            let fields = fields.collect();
            let mut name = format!("{}Row", camel_case(&table.name));
            while !names.insert(name.clone()) {
                name.push('_');
            }
            let (mut field, mut number, mut depth) = (table.name.clone(), 0, 0);
            if let Some(parent) = table.parent {
                number = field_number(&table.name, "message", &mut taken[parent]);
                field = field_name(&table.name, number, &mut json[parent]);
                depth = messages[parent].depth + 1;
            }
            messages.push(Message {
                name,
                parent: table.parent,
                field,
                number,
                depth,
                fields,
            });
        }
        let decoder = RecordDecoder::new(Arc::clone(schema));
        TypedSchema {
            schema: Arc::clone(schema),
            name: tables[0].name.clone(),
            messages,
            decoder: decoder.with_padding(padding),
        }
    }

    /// The record's name, as in the schema's package.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The package of the file's own schema.
    pub fn package(&self) -> String {
        format!("counterfoil.files.{}", self.name)
    }

    /// See [`RecordSchema::schema_id`].
    pub fn schema_id(&self) -> &str {
        self.schema.schema_id()
    }

    fn column(&self, table: usize, column: usize) -> Option<&Column> {
        self.schema.tables().get(table)?.columns.get(column)
    }
}

/// The number of a field: made of its name and its type alone, so that it stays whatever else is in the message. Two of one
/// message that would have the same (once in 30 million pairs) don't: the later one gets another.
fn field_number(name: &str, kind: &str, taken: &mut HashSet<u32>) -> u32 {
    let mut seed = 0;
    loop {
        let hash = XxHash3_128::oneshot_with_seed(seed, format!("{name}:{kind}").as_bytes());
        let span = u128::from(NUMBER_MAX - NUMBER_MIN + 1);
        let number = NUMBER_MIN + u32::try_from(hash % span).unwrap_or(0);
        if taken.insert(number) {
            return number;
        }
        seed += 1;
    }
}

/// The name of a field. Names that differ in underscores only have one name in JSON, which protobuf refuses: the later one gets
/// its number behind it.
fn field_name(name: &str, number: u32, json: &mut HashSet<String>) -> String {
    let as_json = |name: &str| name.replace('_', "");
    if json.insert(as_json(name)) {
        return name.to_owned();
    }
    let name = format!("{name}_{number}");
    json.insert(as_json(&name));
    name
}

/// `card_record` as messages are called: `CardRecord`.
fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    let name: String = words.collect();
    match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => name,
        _ => format!("Record{name}"),
    }
}

/// Typed schemas of files, made when they are needed first.
#[derive(Clone, Debug, Default)]
pub struct TypedSchemas(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By the address of the record's schema, which lives as long as what was made of it, and by padding.
    schemas: HashMap<(usize, Option<u8>), Arc<TypedSchema>>,
    room: Room,
}

impl TypedSchemas {
    /// The typed schema of records that lie in this way in their file.
    pub fn of_records(&self, schema: &FileSchema, format: &RecordFormat) -> Arc<TypedSchema> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.of(schema, format)
    }

    /// A record of a file as the message of its columns, if it has any.
    pub fn encode(&self, file: &FileDescription, record: &[u8]) -> Option<Encoded> {
        let schema = file.schema.as_ref()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let typed = known.of(schema, &file.format);
        Some(typed.encode(record, &mut known.room))
    }
}

impl Known {
    fn of(&mut self, schema: &FileSchema, format: &RecordFormat) -> Arc<TypedSchema> {
        let schema = &schema.0;
        let padding = format.padding();
        let key = (Arc::as_ptr(schema).addr(), padding);
        let make = || Arc::new(TypedSchema::of(schema, padding));
        Arc::clone(self.schemas.entry(key).or_insert_with(make))
    }
}
