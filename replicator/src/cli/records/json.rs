//! Records as JSON lines: what `decode --json` writes and `encode` reads.
//!
//! A line is an object: a key for each column, an array of objects for each table, and keys that begin with `_`, which no column
//! does. Numbers of up to 15 digits are JSON numbers, longer ones are strings, so that no reader rounds them; bytes are strings of
//! hexadecimal digits. `_raw`, the record's bytes, is there when the values alone don't say them all.

use super::kept::Kept;
use anyhow::{Context as _, Result, bail};
use counterfoil_records::schema::{FieldType, NationalEncoding, RecordSchema};
use counterfoil_records::value::{Date, Hex, Number, Time, Timestamp, Value};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

/// Numbers of fewer digits are the same in every reader's floating point.
const BARE_BELOW: u128 = 1_000_000_000_000_000;

/// An object being written.
pub(in crate::cli) struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Object<'_> {
    pub(in crate::cli) fn new(out: &mut Vec<u8>) -> Object<'_> {
        out.push(b'{');
        Object { out, first: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub(in crate::cli) fn number(&mut self, key: &str, number: u64) {
        let _ = write!(self.key(key), "{number}");
    }

    pub(in crate::cli) fn text(&mut self, key: &str, text: &str) {
        string(self.key(key), text);
    }

    pub(in crate::cli) fn bytes(&mut self, key: &str, bytes: &[u8]) {
        let _ = write!(self.key(key), "\"{}\"", Hex(bytes));
    }

    pub(in crate::cli) fn end(self) {
        self.out.push(b'}');
    }

    /// The columns of a row (those wanted), the tables in it unless only some columns are wanted, and what is wrong.
    pub(in crate::cli) fn row(
        &mut self,
        schema: &RecordSchema,
        kept: &Kept,
        table: usize,
        row: &[u32],
        wanted: Option<&[usize]>,
    ) {
        let rows = &schema.tables()[table];
        let mut wrong = Vec::new();
        for at in 0..kept.len() {
            let (own, own_row, column) = kept.place(at);
            let is_wanted = wanted.is_none_or(|wanted| wanted.contains(&column));
            if (own, own_row) != (table, row) || !is_wanted {
                continue;
            }
            let name = &rows.columns[column].name;
            match kept.value(at) {
                Ok(it) => value(self.key(name), &it),
                Err(error) => {
                    self.key(name).extend_from_slice(b"null");
                    wrong.push((name, error));
                }
            }
        }
        let inner = schema.tables().iter().enumerate();
        for (inner, it) in inner.filter(|(_, it)| it.parent == Some(table) && wanted.is_none()) {
            let _ = it;
            let out = self.key(&table_key(schema, inner));
            out.push(b'[');
            for (nth, row) in kept.rows_of(inner, row).iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                let mut object = Object::new(out);
                object.row(schema, kept, inner, row, None);
                object.end();
            }
            out.push(b']');
        }
        if !wrong.is_empty() {
            let mut errors = Object::new(self.key("_errors"));
            for (name, error) in wrong {
                let mut of_field = Object::new(errors.key(name));
                if let Some(offset) = error.offset {
                    of_field.number("offset", offset as u64);
                }
                of_field.bytes("raw", error.raw);
                of_field.text("reason", &error.reason.to_string());
                of_field.end();
            }
            errors.end();
        }
    }
}

/// The key of a table's rows in the object that has them.
fn table_key(schema: &RecordSchema, table: usize) -> String {
    let tables = schema.tables();
    let name = &tables[table].name;
    let taken = tables[table].parent.is_some_and(|parent| {
        let columns = &tables[parent].columns;
        columns.iter().any(|column| column.name == *name)
    });
    if taken {
        format!("{name}_rows")
    } else {
        name.clone()
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory can't fail.
    let _ = serde_json::to_writer(out, text);
}

fn value(out: &mut Vec<u8>, value: &Value<'_>) {
    let _ = match value {
        Value::Null => write!(out, "null"),
        Value::Number(number) if number.unscaled().unsigned_abs() < BARE_BELOW => {
            write!(out, "{number}")
        }
        Value::Float32(number) if number.is_finite() => write!(out, "{number:?}"),
        Value::Float64(number) if number.is_finite() => write!(out, "{number:?}"),
        Value::Text(text) => {
            string(out, text);
            Ok(())
        }
        other => write!(out, "\"{other}\""),
    };
}

/// A value that was read.
#[derive(Clone, Debug)]
enum Given {
    Null,
    Number(Number),
    Text(String),
    Bytes(Vec<u8>),
    Float32(f32),
    Float64(f64),
    Date(Date),
    Time(Time),
    Timestamp(Timestamp),
}

/// A record as it was read.
#[derive(Debug, Default)]
pub(in crate::cli) struct Line {
    /// `_record`: its identity.
    pub(in crate::cli) record: Option<u64>,
    /// `_raw`: the bytes it had.
    pub(in crate::cli) raw: Option<Vec<u8>>,
    /// `_rest`: bytes beside its content.
    pub(in crate::cli) rest: Option<Vec<u8>>,
    /// `_residue`: bytes that are no record.
    pub(in crate::cli) residue: Option<Vec<u8>>,
    /// `_empty`: so many zero bytes.
    pub(in crate::cli) empty: Option<u64>,
    values: HashMap<(usize, Vec<u32>, usize), Given>,
}

type Keys<'a> = BTreeMap<String, &'a RawValue>;

impl Line {
    pub(in crate::cli) fn read(text: &str, schema: &RecordSchema) -> Result<Line> {
        let keys: Keys<'_> = serde_json::from_str(text).context("it is no JSON object")?;
        let mut line = Line::default();
        line.row(&keys, schema, 0, &mut Vec::new())?;
        Ok(line)
    }

    /// The value of a column in a row, if one was given.
    pub(in crate::cli) fn value(&self, key: &(usize, Vec<u32>, usize)) -> Option<Value<'_>> {
        Some(match self.values.get(key)? {
            Given::Null => Value::Null,
            Given::Number(it) => Value::Number(*it),
            Given::Text(it) => Value::Text(it),
            Given::Bytes(it) => Value::Bytes(it),
            Given::Float32(it) => Value::Float32(*it),
            Given::Float64(it) => Value::Float64(*it),
            Given::Date(it) => Value::Date(*it),
            Given::Time(it) => Value::Time(*it),
            Given::Timestamp(it) => Value::Timestamp(*it),
        })
    }

    fn row(
        &mut self,
        keys: &Keys<'_>,
        schema: &RecordSchema,
        table: usize,
        row: &mut Vec<u32>,
    ) -> Result<()> {
        let rows = &schema.tables()[table];
        for (key, raw) in keys {
            if table == 0 && self.of_record(key, raw)? {
                continue;
            }
            if key == "_errors" {
                continue;
            }
            let inner = (0..schema.tables().len()).find(|&it| {
                schema.tables()[it].parent == Some(table) && table_key(schema, it) == *key
            });
            if let Some(inner) = inner {
                let objects: Vec<Keys<'_>> = serde_json::from_str(raw.get())
                    .with_context(|| format!("{key} should be an array of objects"))?;
                for (nth, object) in objects.iter().enumerate() {
                    row.push(u32::try_from(nth + 1).context("that is too many rows")?);
                    self.row(object, schema, inner, row)?;
                    row.pop();
                }
                continue;
            }
            let Some(column) = rows.columns.iter().position(|it| it.name == *key) else {
                let names: Vec<&str> = rows.columns.iter().map(|it| it.name.as_str()).collect();
                bail!("there is no field {key:?}; there are: {}", names.join(", "));
            };
            let given = given(raw.get(), &rows.columns[column].field)
                .with_context(|| format!("{key}: {}", shown(raw.get())))?;
            self.values.insert((table, row.clone(), column), given);
        }
        Ok(())
    }

    /// Takes a key that is about the record as a whole.
    fn of_record(&mut self, key: &str, raw: &RawValue) -> Result<bool> {
        let number = || {
            let number: Result<u64, _> = serde_json::from_str(raw.get());
            number.with_context(|| format!("{key} should be a number"))
        };
        let bytes = || {
            let text: String = serde_json::from_str(raw.get())
                .with_context(|| format!("{key} should be a string of hexadecimal digits"))?;
            unhex(&text).with_context(|| format!("{key} should be hexadecimal digits"))
        };
        match key {
            "_record" => self.record = Some(number()?),
            "_empty" => self.empty = Some(number()?),
            "_raw" => self.raw = Some(bytes()?),
            "_rest" => self.rest = Some(bytes()?),
            "_residue" => self.residue = Some(bytes()?),
            "_reason" | "_problem" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn shown(raw: &str) -> &str {
    let end = raw.char_indices().nth(60).map_or(raw.len(), |(at, _)| at);
    &raw[..end]
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

/// A JSON value as a value of a field.
fn given(raw: &str, field: &FieldType) -> Result<Given> {
    if raw == "null" {
        return Ok(Given::Null);
    }
    let is_string = raw.starts_with('"');
    let text = if is_string {
        serde_json::from_str(raw).context("it is no JSON string")?
    } else {
        raw.to_owned()
    };
    let string_of = |what: &str| -> Result<()> {
        if is_string {
            return Ok(());
        }
        bail!("it should be a string: {what}")
    };
    Ok(match field {
        FieldType::Text { .. } | FieldType::Edited { .. } => {
            string_of("text")?;
            Given::Text(text)
        }
        FieldType::National { encoding, .. } if *encoding != NationalEncoding::Dbcs => {
            string_of("text")?;
            Given::Text(text)
        }
        FieldType::Raw { .. } | FieldType::National { .. } => {
            string_of("bytes, as hexadecimal digits")?;
            Given::Bytes(unhex(&text).context("these are no hexadecimal digits")?)
        }
        FieldType::Float { bytes: 4, .. } => Given::Float32(text.parse()?),
        FieldType::Float { .. } => Given::Float64(text.parse()?),
        FieldType::DateTime { .. } => {
            string_of("a date or time in ISO 8601")?;
            let moment = text
                .parse()
                .map(Given::Date)
                .or_else(|_| text.parse().map(Given::Time))
                .or_else(|_| text.parse().map(Given::Timestamp));
            moment?
        }
        FieldType::Zoned { .. } | FieldType::Packed { .. } | FieldType::Binary { .. } => {
            Given::Number(text.parse()?)
        }
    })
}
