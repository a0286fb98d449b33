//! From a record's bytes to the message of its columns.

use super::{Kind, TypedSchema};
use counterfoil_records::value::Value;
use counterfoil_records::{Cell, Room};
use prost::encoding::{WireType, encode_key, encode_varint};
use std::fmt::Write as _;

/// Columns named in a reason; of more only the number is told.
const REASONS_MAX: usize = 8;

/// A record as a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The message.
    pub bytes: Vec<u8>,
    /// Which columns couldn't be decoded, and why; empty: all could.
    pub reason: String,
    /// How many that are.
    pub undecodable: usize,
}

/// A message that is being written.
struct Open {
    table: usize,
    row: Vec<u32>,
    bytes: Vec<u8>,
}

impl TypedSchema {
    /// The message of a record. A column without a value isn't in it, nor is one that can't be decoded.
    pub fn encode(&self, record: &[u8], room: &mut Room) -> Encoded {
        let mut reason = String::new();
        let mut undecodable = 0;
        let mut open = vec![Open {
            table: 0,
            row: Vec::new(),
            bytes: Vec::with_capacity(2 * record.len()),
        }];
        let read = self.decoder.decode(record, room, |cell| {
            self.enter(&mut open, cell.table, cell.row);
            let Some(message) = open.last_mut() else {
                return;
            };
            if let Err(why) = self.put(&cell, &mut message.bytes) {
                undecodable += 1;
                if undecodable <= REASONS_MAX {
                    self.explain(&cell, &why, &mut reason);
                }
            }
        });
        while open.len() > 1 {
            self.leave(&mut open);
        }
        if undecodable > REASONS_MAX {
            // Writing to a `String` can't fail.
            let _ = write!(reason, "; and {} more", undecodable - REASONS_MAX);
        }
        if let Some(problem) = read.problem {
            let separator = if reason.is_empty() { "" } else { "; " };
            let _ = write!(reason, "{separator}{problem}");
        }
        Encoded {
            bytes: open.pop().map(|message| message.bytes).unwrap_or_default(),
            reason,
            undecodable,
        }
    }

    /// Opens the message of a row, with those around it, and closes what others have open.
    fn enter(&self, open: &mut Vec<Open>, table: usize, row: &[u32]) {
        while let Some(last) = open.last()
            && open.len() > 1
            && !(self.is_within(table, last.table) && row.starts_with(&last.row))
        {
            self.leave(open);
        }
        let mut missing = Vec::new();
        let mut at = table;
        while open.last().is_some_and(|last| last.table != at) {
            missing.push(at);
            let Some(parent) = self.messages.get(at).and_then(|message| message.parent) else {
                break;
            };
            at = parent;
        }
        for table in missing.into_iter().rev() {
            let depth = self.messages[table].depth;
            open.push(Open {
                table,
                row: row.get(..depth).unwrap_or(row).to_vec(),
                bytes: Vec::new(),
            });
        }
    }

    /// Whether rows of a table are in rows of another, or are that table's own.
    fn is_within(&self, table: usize, outer: usize) -> bool {
        let mut at = Some(table);
        while let Some(table) = at {
            if table == outer {
                return true;
            }
            at = self.messages.get(table).and_then(|message| message.parent);
        }
        false
    }

    fn leave(&self, open: &mut Vec<Open>) {
        let Some(done) = open.pop() else { return };
        if let Some(outer) = open.last_mut() {
            put_bytes(
                self.messages[done.table].number,
                &done.bytes,
                &mut outer.bytes,
            );
        }
    }

    /// Writes a column's value.
    fn put(&self, cell: &Cell<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let field = &self.messages[cell.table].fields[cell.column];
        let value = match &cell.value {
            Ok(value) => value,
            Err(error) => return Err(error.reason.to_string()),
        };
        let number = field.number;
        match (field.kind, value) {
            (_, Value::Null) => {}
            (Kind::Int64 | Kind::Uint64, Value::Number(value)) => {
                let whole = value.rescaled(0).map(|whole| whole.unscaled());
                let bits = match field.kind {
                    Kind::Uint64 => whole.and_then(|whole| u64::try_from(whole).ok()),
                    _ => whole
                        .and_then(|whole| i64::try_from(whole).ok())
                        .map(i64::cast_unsigned),
                };
                let Some(bits) = bits else {
                    return Err(format!("{value} doesn't fit 64 bits"));
                };
                encode_key(number, WireType::Varint, out);
                encode_varint(bits, out);
            }
            (Kind::Float, Value::Float32(value)) => {
                encode_key(number, WireType::ThirtyTwoBit, out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            (Kind::Double, Value::Float64(value)) => {
                encode_key(number, WireType::SixtyFourBit, out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            (Kind::Text, Value::Text(text)) => put_bytes(number, text.as_bytes(), out),
            (
                Kind::Text,
                Value::Number(_) | Value::Date(_) | Value::Time(_) | Value::Timestamp(_),
            ) => put_bytes(number, value.to_string().as_bytes(), out),
            (Kind::Bytes, Value::Bytes(bytes)) => put_bytes(number, bytes, out),
            (kind, value) => {
                return Err(format!("a {} is no {}", value.kind(), kind.name()));
            }
        }
        Ok(())
    }

    fn explain(&self, cell: &Cell<'_>, why: &str, reason: &mut String) {
        let name = self.column(cell.table, cell.column);
        let name = name.map_or("?", |column| column.name.as_str());
        let separator = if reason.is_empty() { "" } else { "; " };
        // Writing to a `String` can't fail.
        let _ = match cell.row {
            [] => write!(reason, "{separator}{name}: {why}"),
            row => write!(reason, "{separator}{name} of row {row:?}: {why}"),
        };
    }
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
