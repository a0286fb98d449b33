//! From the message of a record's columns to what people read.

use super::{Kind, TypedSchema};
use crate::words::hex;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value, json};

/// Bytes that are no message of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no message of the file's schema")]
pub struct NoMessage;

/// Tables in tables, at most.
const DEPTH_MAX: usize = 64;

impl TypedSchema {
    /// The columns of a message by name, as JSON; those that aren't there are left out. Whole numbers are numbers, bytes are
    /// `{"hex": …}`, everything else is text.
    ///
    /// # Errors
    /// It is no message of this schema.
    pub fn read(&self, message: &[u8]) -> Result<Value, NoMessage> {
        self.table(0, message, 0)
    }

    fn table(&self, table: usize, mut message: &[u8], depth: usize) -> Result<Value, NoMessage> {
        let (columns, fields) = (
            &self.schema.tables()[table].columns,
            &self.messages[table].fields,
        );
        let mut row = Map::new();
        while !message.is_empty() {
            let (number, wire) = decode_key(&mut message).map_err(|_| NoMessage)?;
            let found = fields.iter().position(|field| field.number == number);
            let kind = found.map(|column| fields[column].kind);
            let name = found.map(|column| columns[column].name.clone());
            let value = match wire {
                WireType::Varint => {
                    let bits = decode_varint(&mut message).map_err(|_| NoMessage)?;
                    match kind {
                        Some(Kind::Uint64) => json!(bits),
                        _ => json!(bits.cast_signed()),
                    }
                }
                WireType::ThirtyTwoBit => {
                    let bytes = take(&mut message, 4)?;
                    json!(f32::from_le_bytes(bytes.try_into().unwrap_or_default()))
                }
                WireType::SixtyFourBit => {
                    let bytes = take(&mut message, 8)?;
                    json!(f64::from_le_bytes(bytes.try_into().unwrap_or_default()))
                }
                WireType::LengthDelimited => {
                    let len = decode_varint(&mut message).map_err(|_| NoMessage)?;
                    let bytes = take(&mut message, len)?;
                    let inner = (0..self.messages.len()).find(|&inner| {
                        let inner = &self.messages[inner];
                        inner.parent == Some(table) && inner.number == number
                    });
                    if let Some(inner) = inner.filter(|_| depth < DEPTH_MAX) {
                        let name = &self.schema.tables()[inner].name;
                        let rows = row.entry(name.clone()).or_insert_with(|| json!([]));
                        if let Value::Array(rows) = rows {
                            rows.push(self.table(inner, bytes, depth + 1)?);
                        }
                        continue;
                    }
                    match (kind, std::str::from_utf8(bytes)) {
                        (Some(Kind::Text), Ok(text)) => json!(text),
                        _ => json!({ "hex": hex(bytes) }),
                    }
                }
                WireType::StartGroup | WireType::EndGroup => {
                    return Err(NoMessage);
                }
            };
            if let Some(name) = name {
                row.insert(name, value);
            }
        }
        Ok(Value::Object(row))
    }
}

fn take<'m>(message: &mut &'m [u8], len: u64) -> Result<&'m [u8], NoMessage> {
    let split = usize::try_from(len)
        .ok()
        .and_then(|len| message.split_at_checked(len));
    let (bytes, rest) = split.ok_or(NoMessage)?;
    *message = rest;
    Ok(bytes)
}
