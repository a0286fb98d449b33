//! A decoded record's values, kept for printing and comparing.

use anyhow::Result;
use counterfoil_records::schema::RecordSchema;
use counterfoil_records::value::{Date, Number, Reason, Time, Timestamp, Value};
use counterfoil_records::{Cell, Read, RecordDecoder, RecordEncoder, Room};
use std::ops::Range;

/// The values of one record. Memory is used again for the next one.
#[derive(Debug, Default)]
pub(in crate::cli) struct Kept {
    cells: Vec<KeptCell>,
    rows: Vec<u32>,
    text: String,
    bytes: Vec<u8>,
    room: Room,
    written: Vec<u8>,
}

#[derive(Debug)]
struct KeptCell {
    table: usize,
    row: Range<usize>,
    column: usize,
    value: KeptValue,
}

#[derive(Debug)]
enum KeptValue {
    Null,
    Number(Number),
    Text(Range<usize>),
    Bytes(Range<usize>),
    Float32(f32),
    Float64(f64),
    Date(Date),
    Time(Time),
    Timestamp(Timestamp),
    Wrong {
        offset: Option<usize>,
        raw: Range<usize>,
        reason: Reason,
    },
}

/// A field that couldn't be decoded.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Wrong<'a> {
    pub(in crate::cli) offset: Option<usize>,
    pub(in crate::cli) raw: &'a [u8],
    pub(in crate::cli) reason: Reason,
}

impl Kept {
    /// Decodes a record in place of the last one.
    pub(in crate::cli) fn decode(&mut self, decoder: &RecordDecoder, record: &[u8]) -> Read {
        let Kept {
            cells,
            rows,
            text,
            bytes,
            room,
            ..
        } = self;
        cells.clear();
        rows.clear();
        text.clear();
        bytes.clear();
        decoder.decode(record, room, |cell: Cell<'_>| {
            let keep = |bytes: &mut Vec<u8>, added: &[u8]| {
                bytes.extend_from_slice(added);
                bytes.len() - added.len()..bytes.len()
            };
            let value = match cell.value {
                Ok(Value::Null) => KeptValue::Null,
                Ok(Value::Number(it)) => KeptValue::Number(it),
                Ok(Value::Text(it)) => {
                    text.push_str(it);
                    KeptValue::Text(text.len() - it.len()..text.len())
                }
                Ok(Value::Bytes(it)) => KeptValue::Bytes(keep(bytes, it)),
                Ok(Value::Float32(it)) => KeptValue::Float32(it),
                Ok(Value::Float64(it)) => KeptValue::Float64(it),
                Ok(Value::Date(it)) => KeptValue::Date(it),
                Ok(Value::Time(it)) => KeptValue::Time(it),
                Ok(Value::Timestamp(it)) => KeptValue::Timestamp(it),
                Err(error) => KeptValue::Wrong {
                    offset: error.offset,
                    raw: keep(bytes, error.raw),
                    reason: error.reason,
                },
            };
            rows.extend_from_slice(cell.row);
            cells.push(KeptCell {
                table: cell.table,
                row: rows.len() - cell.row.len()..rows.len(),
                column: cell.column,
                value,
            });
        })
    }

    /// How many values there are.
    pub(in crate::cli) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Table, row and column of a value.
    pub(in crate::cli) fn place(&self, at: usize) -> (usize, &[u32], usize) {
        let cell = &self.cells[at];
        (cell.table, &self.rows[cell.row.clone()], cell.column)
    }

    /// A value, or why there is none.
    pub(in crate::cli) fn value(&self, at: usize) -> Result<Value<'_>, Wrong<'_>> {
        Ok(match &self.cells[at].value {
            KeptValue::Null => Value::Null,
            KeptValue::Number(it) => Value::Number(*it),
            KeptValue::Text(range) => Value::Text(&self.text[range.clone()]),
            KeptValue::Bytes(range) => Value::Bytes(&self.bytes[range.clone()]),
            KeptValue::Float32(it) => Value::Float32(*it),
            KeptValue::Float64(it) => Value::Float64(*it),
            KeptValue::Date(it) => Value::Date(*it),
            KeptValue::Time(it) => Value::Time(*it),
            KeptValue::Timestamp(it) => Value::Timestamp(*it),
            KeptValue::Wrong {
                offset,
                raw,
                reason,
            } => {
                return Err(Wrong {
                    offset: *offset,
                    raw: &self.bytes[raw.clone()],
                    reason: *reason,
                });
            }
        })
    }

    /// The index of a column's value in a row.
    pub(in crate::cli) fn find(&self, table: usize, row: &[u32], column: usize) -> Option<usize> {
        let is_it = |at: usize| self.place(at) == (table, row, column);
        // Where there are no tables, values are in the order of columns.
        if column < self.len() && is_it(column) {
            return Some(column);
        }
        (0..self.len()).find(|&at| is_it(at))
    }

    /// The rows of a table within a row of its parent, each once, in order.
    pub(in crate::cli) fn rows_of(&self, table: usize, within: &[u32]) -> Vec<Vec<u32>> {
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for at in 0..self.len() {
            let (own, row, _) = self.place(at);
            if own == table && row.starts_with(within) && rows.last().is_none_or(|it| it != row) {
                rows.push(row.to_vec());
            }
        }
        rows
    }

    /// Whether the values alone, written anew, are exactly these bytes.
    pub(in crate::cli) fn says_all(&mut self, encoder: &RecordEncoder, record: &[u8]) -> bool {
        let mut written = std::mem::take(&mut self.written);
        written.clear();
        // The encoder asks in the order in which values came, and for some of them not at all.
        let mut next = 0;
        let encoded = encoder.encode(
            None,
            &mut |wanted| {
                let key = (wanted.table, wanted.row, wanted.column);
                let at = (next..self.len()).find(|&at| self.place(at) == key)?;
                next = at + 1;
                Some(self.value(at).unwrap_or(Value::Null))
            },
            &mut written,
        );
        let same = encoded.is_ok() && written == record;
        self.written = written;
        same
    }
}

/// The column that somebody means by a name in a table, with a message that helps if there is none.
pub(in crate::cli) fn columns_called(
    schema: &RecordSchema,
    table: usize,
    name: &str,
) -> Result<Vec<usize>> {
    let columns = &schema.tables()[table].columns;
    let found: Vec<usize> = match columns.iter().position(|it| it.name == name) {
        Some(at) => vec![at],
        None => (0..columns.len())
            .filter(|&at| columns[at].is_called(name))
            .collect(),
    };
    if found.is_empty() {
        let names: Vec<&str> = columns.iter().map(|it| it.name.as_str()).collect();
        anyhow::bail!(
            "there is no field {name:?}; there are: {}",
            names.join(", ")
        );
    }
    Ok(found)
}
