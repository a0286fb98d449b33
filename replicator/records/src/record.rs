//! Whole records: bytes to the values of columns and back, by a [`RecordSchema`].
//!
//! A [`RecordDecoder`] is built once for a schema. It gives every column of the record's row, and of the rows of its tables, once,
//! in the order of the record: a value, or an error with the bytes it is about. Nothing panics and nothing is left out silently,
//! whatever the bytes are:
//!
//! - A field that isn't wholly in the record is [`Reason::PastEnd`], unless the decoder was told what short records are filled
//!   with ([`RecordDecoder::with_padding`]), as a program that reads text lines does it.
//! - A field in one of several ways to see the same bytes is NULL where its discriminator (`when` of the column) says another one,
//!   and so is an occurrence that a record hasn't, where occurrences are columns.
//! - Where a table's count can't be known, its rows and what is behind them aren't either: columns of the record's own row are
//!   [`Reason::Count`], and [`Read::problem`] says why.
//!
//! A [`RecordEncoder`] goes back. Given the record's former bytes, it changes only the bytes of fields whose value changed, so all
//! spellings, FILLERs and slack bytes stay as they are.

use crate::schema::{Absent, Column, FieldType, ItemId, RecordSchema, Test, WalkError};
use crate::value::{Misfit, Policy, Reason, Value, field};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A column's value in one record, or why there is none.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// Index of its table in [`RecordSchema::tables`]; 0 is the record's own row.
    pub table: usize,
    /// Which row of the table: the occurrence, from 1, of each table around it, the outermost first. Empty for 0.
    pub row: &'a [u32],
    /// Index of its column in the table.
    pub column: usize,
    /// The value.
    pub value: Result<Value<'a>, FieldError<'a>>,
}

/// A field that can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldError<'a> {
    /// Where it begins in the record, in bytes, if that is known.
    pub offset: Option<usize>,
    /// Its bytes, as far as they are in the record.
    pub raw: &'a [u8],
    /// Why it can't be decoded.
    pub reason: Reason,
}

/// What decoding a record came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where the record ends by its schema, in bytes. What is behind isn't described by it.
    pub end: usize,
    /// Why not all could be found.
    pub problem: Option<WalkError>,
}

/// What a decoder works in; its content means nothing. One for each thread.
#[derive(Clone, Debug, Default)]
pub struct Room {
    text: String,
    padded: Vec<u8>,
}

/// Reads records of one schema.
#[derive(Clone, Debug)]
pub struct RecordDecoder {
    schema: Arc<RecordSchema>,
    policy: Policy,
    padding: Option<u8>,
    /// Columns of a schema in which everything has its place.
    fixed: Option<Vec<Step>>,
    choices: Choices,
}

/// A column that has its place.
#[derive(Clone, Debug)]
struct Step {
    offset: usize,
    end: usize,
    field: FieldType,
    /// Which of its bytes are no value, if that is said of it.
    absent: Option<Box<Absent>>,
    /// Index in [`Choices::lists`], if it has a value in some records only.
    choice: Option<usize>,
}

/// What decides in which records columns have values. Lists that are the same are one.
#[derive(Clone, Debug, Default)]
struct Choices {
    lists: Vec<Vec<Decider>>,
    /// By table and column.
    of: HashMap<(usize, usize), usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Decider {
    /// Table and column of the field.
    place: (usize, usize),
    /// Where it is, if that is fixed.
    offset: Option<usize>,
    field: FieldType,
    test: Test,
}

impl Choices {
    fn of(schema: &RecordSchema) -> Choices {
        let mut it = Choices::default();
        for (table, rows) in schema.tables().iter().enumerate() {
            for (at, column) in rows.columns.iter().enumerate() {
                if column.when.is_empty() {
                    continue;
                }
                let list: Vec<Decider> = column
                    .when
                    .iter()
                    .filter_map(|choice| {
                        let (place, decider) = decider(schema, table, column, choice.field)?;
                        Some(Decider {
                            place,
                            offset: decider.offset.map(|offset| offset as usize),
                            field: decider.field.clone(),
                            test: choice.test.clone(),
                        })
                    })
                    .collect();
                let known = it.lists.iter().position(|known| *known == list);
                let index = known.unwrap_or_else(|| {
                    it.lists.push(list);
                    it.lists.len() - 1
                });
                it.of.insert((table, at), index);
            }
        }
        it
    }
}

/// The column of a field that decides about another column: in the same table or one around it, in the same occurrence.
fn decider<'s>(
    schema: &'s RecordSchema,
    table: usize,
    column: &Column,
    item: ItemId,
) -> Option<((usize, usize), &'s Column)> {
    let mut table = Some(table);
    while let Some(at) = table {
        let rows = schema.tables().get(at)?;
        let found = rows.columns.iter().enumerate().find(|(_, decider)| {
            decider.item == item && column.occurrences.starts_with(&decider.occurrences)
        });
        if let Some((index, decider)) = found {
            return Some(((at, index), decider));
        }
        table = rows.parent;
    }
    None
}

impl Decider {
    /// Whether the bytes say that it is so. What can't be decoded says nothing.
    fn holds(&self, bytes: Option<&[u8]>, policy: Policy, room: &mut String) -> bool {
        holds(&self.test, bytes, &self.field, policy, room)
    }
}

/// Whether a field's bytes pass a test. What can't be decoded passes none.
fn holds(
    test: &Test,
    bytes: Option<&[u8]>,
    field: &FieldType,
    policy: Policy,
    room: &mut String,
) -> bool {
    let value = bytes.map(|bytes| field::decode(bytes, field, policy, room));
    matches!(value, Some(Ok(value)) if test.holds(&value))
}

/// A value's place in a record, kept from a walk.
struct Place {
    table: usize,
    column: usize,
    /// Where its row is in [`Found::rows`].
    row: (usize, usize),
    offset: usize,
}

#[derive(Default)]
struct Found {
    places: Vec<Place>,
    rows: Vec<u32>,
}

/// Table, column and row of a value.
type Key<'a> = (usize, usize, &'a [u32]);

impl Found {
    fn row(&self, place: &Place) -> &[u32] {
        &self.rows[place.row.0..place.row.1]
    }
}

impl RecordDecoder {
    /// A decoder with the usual policy, for records that are as long as they are.
    pub fn new(schema: Arc<RecordSchema>) -> RecordDecoder {
        let choices = Choices::of(&schema);
        let fixed = schema.is_fixed().then(|| {
            let columns = schema.columns().iter().enumerate();
            columns
                .map(|(at, column)| {
                    let offset = column.offset.unwrap_or_default() as usize;
                    Step {
                        offset,
                        end: offset + column.len as usize,
                        field: column.field.clone(),
                        absent: (!column.absent.is_default())
                            .then(|| Box::new(column.absent.clone())),
                        choice: choices.of.get(&(0, at)).copied(),
                    }
                })
                .collect()
        });
        RecordDecoder {
            schema,
            policy: Policy::default(),
            padding: None,
            fixed,
            choices,
        }
    }

    /// The same with another policy for fields without a value.
    pub fn with_policy(self, policy: Policy) -> RecordDecoder {
        RecordDecoder { policy, ..self }
    }

    /// The same, but records that end early are read as if this byte went on to the end of the schema. Right for text lines
    /// and whatever else is written without the spaces at its end.
    pub fn with_padding(self, padding: impl Into<Option<u8>>) -> RecordDecoder {
        RecordDecoder {
            padding: padding.into(),
            ..self
        }
    }

    /// What the records are decoded by.
    pub fn schema(&self) -> &Arc<RecordSchema> {
        &self.schema
    }

    /// Decodes a record: `each` is given every column of every row, in the order of the record.
    pub fn decode(&self, record: &[u8], room: &mut Room, mut each: impl FnMut(Cell<'_>)) -> Read {
        let Room { text, padded } = room;
        let record = self.padded(record, padded);
        match &self.fixed {
            Some(steps) => {
                self.decode_fixed(steps, record, text, &mut each);
                Read {
                    end: self.schema.len_max() as usize,
                    problem: None,
                }
            }
            None => self.decode_walking(record, text, &mut each),
        }
    }

    /// The rows of a record's tables, without those of tables within tables: `each` is given the table, which occurrence it
    /// is, from 1, and its bytes, as far as they are in the record.
    ///
    /// # Errors
    /// Why not all could be found. `each` was given those that could.
    pub fn rows(
        &self,
        record: &[u8],
        room: &mut Room,
        mut each: impl FnMut(usize, u32, &[u8]),
    ) -> Result<(), WalkError> {
        let Room { text, padded } = room;
        let record = self.padded(record, padded);
        let walked = self.schema.walk_rows(
            &mut |_, field, offset| count(record, field, offset, self.policy),
            &mut |choice, field, offset| {
                let bytes = slice(record, offset as usize, field);
                holds(&choice.test, bytes, field, self.policy, text)
            },
            &mut |_| {},
            &mut |occurrence| {
                let (begin, end) = (occurrence.begin as usize, occurrence.end as usize);
                if let &[row] = occurrence.row
                    && begin < record.len().max(1)
                {
                    let bytes = &record[begin.min(record.len())..end.min(record.len())];
                    each(occurrence.table, row, bytes);
                }
            },
        );
        walked.map(drop)
    }

    /// The record as if it went on to the end of the schema, if it is to be read like that.
    fn padded<'r>(&self, record: &'r [u8], room: &'r mut Vec<u8>) -> &'r [u8] {
        let len_max = self.schema.len_max() as usize;
        match self.padding {
            Some(padding) if record.len() < len_max => {
                room.clear();
                room.extend_from_slice(record);
                room.resize(len_max, padding);
                room.as_slice()
            }
            _ => record,
        }
    }

    fn decode_fixed(
        &self,
        steps: &[Step],
        record: &[u8],
        text: &mut String,
        each: &mut impl FnMut(Cell<'_>),
    ) {
        let chosen: Vec<bool> = self
            .choices
            .lists
            .iter()
            .map(|list| {
                list.iter().all(|decider| {
                    let begin = decider.offset.unwrap_or(usize::MAX);
                    let bytes = slice(record, begin, &decider.field);
                    decider.holds(bytes, self.policy, text)
                })
            })
            .collect();
        for (column, step) in steps.iter().enumerate() {
            let value = if step.choice.is_some_and(|choice| !chosen[choice]) {
                Ok(Value::Null)
            } else {
                match record.get(step.offset..step.end) {
                    Some(raw) => {
                        let decoded = match &step.absent {
                            None => field::decode(raw, &step.field, self.policy, text),
                            Some(absent) => {
                                field::decode_or_absent(raw, &step.field, absent, self.policy, text)
                            }
                        };
                        decoded.map_err(|reason| FieldError {
                            offset: Some(step.offset),
                            raw,
                            reason,
                        })
                    }
                    None => Err(past_end(record, step.offset)),
                }
            };
            each(Cell {
                table: 0,
                row: &[],
                column,
                value,
            });
        }
    }

    fn decode_walking(
        &self,
        record: &[u8],
        text: &mut String,
        each: &mut impl FnMut(Cell<'_>),
    ) -> Read {
        let (found, walked) = places(&self.schema, record, self.policy);
        let mut by_place: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
        if !self.choices.lists.is_empty() {
            for (at, place) in found.places.iter().enumerate() {
                let key = (place.table, place.column);
                by_place.entry(key).or_default().push(at);
            }
        }
        let mut next = 0;
        for place in &found.places {
            let row = found.row(place);
            let choice = self.choices.of.get(&(place.table, place.column));
            let chosen = choice.is_none_or(|&choice| {
                self.choices.lists[choice].iter().all(|decider| {
                    let places = by_place.get(&decider.place);
                    let bytes = places.into_iter().flatten().find_map(|&at| {
                        let place = &found.places[at];
                        row.starts_with(found.row(place))
                            .then(|| slice(record, place.offset, &decider.field))
                    });
                    decider.holds(bytes.flatten(), self.policy, text)
                })
            });
            if place.table == 0 {
                // What isn't there in this record, though others have it.
                for column in next..place.column {
                    each(absent_cell(column));
                }
                next = place.column + 1;
            }
            let column = &self.schema.tables()[place.table].columns[place.column];
            let value = if chosen {
                match slice(record, place.offset, &column.field) {
                    Some(raw) => field::decode_or_absent(
                        raw,
                        &column.field,
                        &column.absent,
                        self.policy,
                        text,
                    )
                    .map_err(|reason| FieldError {
                        offset: Some(place.offset),
                        raw,
                        reason,
                    }),
                    None => Err(past_end(record, place.offset)),
                }
            } else {
                Ok(Value::Null)
            };
            each(Cell {
                table: place.table,
                row,
                column: place.column,
                value,
            });
        }
        match walked {
            Ok(end) => {
                for column in next..self.schema.columns().len() {
                    each(absent_cell(column));
                }
                Read { end, problem: None }
            }
            Err(problem) => {
                for column in next..self.schema.columns().len() {
                    each(Cell {
                        table: 0,
                        row: &[],
                        column,
                        value: Err(FieldError {
                            offset: None,
                            raw: &[],
                            reason: Reason::Count,
                        }),
                    });
                }
                Read {
                    end: record.len(),
                    problem: Some(problem),
                }
            }
        }
    }
}

/// A column of the record's row that this record doesn't have.
fn absent_cell(column: usize) -> Cell<'static> {
    Cell {
        table: 0,
        row: &[],
        column,
        value: Ok(Value::Null),
    }
}

fn past_end(record: &[u8], offset: usize) -> FieldError<'_> {
    FieldError {
        offset: Some(offset),
        raw: record.get(offset..).unwrap_or_default(),
        reason: Reason::PastEnd,
    }
}

/// The bytes of a field, if all of them are in the record.
fn slice<'r>(record: &'r [u8], offset: usize, field: &FieldType) -> Option<&'r [u8]> {
    let end = offset.checked_add(field.len() as usize)?;
    record.get(offset..end)
}

/// Where everything is in a record, and where it ends.
fn places(
    schema: &RecordSchema,
    record: &[u8],
    policy: Policy,
) -> (Found, Result<usize, WalkError>) {
    let mut found = Found::default();
    let mut room = String::new();
    let walked = schema.walk_chosen(
        &mut |_, field, offset| count(record, field, offset, policy),
        &mut |choice, field, offset| {
            let bytes = slice(record, offset as usize, field);
            holds(&choice.test, bytes, field, policy, &mut room)
        },
        &mut |placed| {
            let begin = found.rows.len();
            // Columns of one row follow each other.
            let row = match found.places.last() {
                Some(last) if found.row(last) == placed.row => last.row,
                _ => {
                    found.rows.extend_from_slice(placed.row);
                    (begin, found.rows.len())
                }
            };
            found.places.push(Place {
                table: placed.table,
                column: placed.column,
                row,
                offset: placed.offset as usize,
            });
        },
    );
    (found, walked.map(|end| end as usize))
}

/// What the field of a DEPENDING ON says.
fn count(record: &[u8], field: &FieldType, offset: u32, policy: Policy) -> Result<u64, String> {
    let Some(bytes) = slice(record, offset as usize, field) else {
        return Err("the record ends before it".to_owned());
    };
    let mut room = String::new();
    match field::decode(bytes, field, policy, &mut room) {
        Ok(Value::Number(number)) => number
            .rescaled(0)
            .and_then(|number| u64::try_from(number.unscaled()).ok())
            .ok_or_else(|| format!("its value {number} is no count")),
        Ok(Value::Null) => Err("it is blank".to_owned()),
        Ok(_) => Err("it is no number".to_owned()),
        Err(reason) => Err(reason.to_string()),
    }
}

/// A column of one row, for which an encoder asks for the value.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Index of its table in [`RecordSchema::tables`].
    pub table: usize,
    /// Which row of the table: see [`Cell::row`].
    pub row: &'a [u32],
    /// Index of its column in the table.
    pub column: usize,
}

/// A value that couldn't be put into a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeRecordError {
    /// A value that doesn't fit its field.
    #[error("{column}: {misfit}")]
    Field {
        /// Name of the column.
        column: String,
        /// What is wrong.
        misfit: Misfit,
    },
    /// A value for a field that this record doesn't have.
    #[error("{column} has a value, but by its `when` this record doesn't have it")]
    NotChosen {
        /// Name of the column.
        column: String,
    },
    /// A table's count is missing, wrong, or not that of its rows.
    #[error(transparent)]
    Count(#[from] WalkError),
}

/// Writes records of one schema.
#[derive(Clone, Debug)]
pub struct RecordEncoder {
    decoder: RecordDecoder,
    /// Items that see bytes of others in another way.
    redefinitions: HashSet<ItemId>,
    /// Those of them of which no discriminator says when.
    second_views: HashSet<ItemId>,
    /// Fields that say how many there are of others.
    counters: HashSet<ItemId>,
}

impl RecordEncoder {
    /// The encoder that goes back what `decoder` (with its policy and padding) went.
    pub fn new(decoder: RecordDecoder) -> RecordEncoder {
        let mut it = RecordEncoder {
            decoder,
            redefinitions: HashSet::new(),
            second_views: HashSet::new(),
            counters: HashSet::new(),
        };
        it.decoder.schema.root().visit(&mut |item| {
            let counter = item.occurs.as_ref().and_then(|it| it.depending_on.as_ref());
            it.counters.extend(counter.map(|counter| counter.id));
            if item.redefines.is_none() {
                return;
            }
            item.visit(&mut |within| {
                it.redefinitions.insert(within.id);
                if item.when.is_empty() {
                    it.second_views.insert(within.id);
                }
            });
        });
        it
    }

    /// The decoder.
    pub fn decoder(&self) -> &RecordDecoder {
        &self.decoder
    }

    /// Puts a record together and appends its bytes to `out`; on an error `out` is as before.
    ///
    /// `value` is asked for the value of each column, in the order of the record; those of counts decide how often it is asked
    /// for the rows of their tables. `None` leaves a field as it is: in `former`, the bytes that the record had before, or
    /// without them filled with spaces, or with zero where it is a number. Where short records are padded, padding at the end of a
    /// new record isn't written.
    ///
    /// With `former`, bytes change only where a field's value isn't what they say; but where a count changes, FILLERs become
    /// spaces, since nothing says where they go. Without, fields that redefine others aren't asked for, unless a discriminator
    /// chooses them.
    ///
    /// # Errors
    /// A value that doesn't fit its field, or a count out of bounds.
    pub fn encode<'v>(
        &self,
        former: Option<&[u8]>,
        value: &mut dyn FnMut(Wanted<'_>) -> Option<Value<'v>>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeRecordError> {
        let schema = &*self.decoder.schema;
        let (len_max, policy) = (schema.len_max() as usize, self.decoder.policy);
        let space = crate::value::code_page::space(schema.dialect().code_page);
        // Short records stay as short as they were, unless something is put behind their end.
        let mut bytes = former.unwrap_or_default().to_vec();
        if bytes.len() < len_max {
            bytes.resize(len_max, self.decoder.padding.unwrap_or(space));
        }
        let before = former.map(|former| places(schema, former, policy));
        let bytes = RefCell::new(bytes);
        let mut room = String::new();
        let mut failed: Option<EncodeRecordError> = None;
        let mut touched = 0;
        // The places of the fields in the former record, once a count has changed.
        let mut moved: Option<HashMap<Key<'_>, usize>> = None;
        let value = RefCell::new(value);
        let mut deciding = String::new();
        let walked = schema.walk_chosen(
            &mut |_, field, offset| count(&bytes.borrow(), field, offset, policy),
            &mut |choice, field, offset| {
                // What decides may lie behind what it decides about, and not be written yet.
                let columns = schema.columns().iter();
                let column = columns
                    .clone()
                    .position(|it| it.item == choice.field.id && it.occurrences.is_empty());
                let given = column.and_then(|column| {
                    let row = &[];
                    (value.borrow_mut())(Wanted {
                        table: 0,
                        row,
                        column,
                    })
                });
                // NULL may be bytes that couldn't be decoded, which decide nothing.
                if let Some(given) = given.filter(|given| !matches!(given, Value::Null)) {
                    return choice.test.holds(&given);
                }
                let bytes = bytes.borrow();
                let bytes = slice(&bytes, offset as usize, field);
                holds(&choice.test, bytes, field, policy, &mut deciding)
            },
            &mut |placed| {
                if failed.is_some() {
                    return;
                }
                let mut bytes = bytes.borrow_mut();
                let begin = placed.offset as usize;
                let end = begin + placed.field.len() as usize;
                if bytes.len() < end {
                    bytes.resize(end, space);
                }
                let key = (placed.table, placed.column, placed.row);
                let was = match (&moved, former) {
                    (Some(moved), Some(former)) => moved
                        .get(&key)
                        .and_then(|&at| slice(former, at, placed.field)),
                    _ => None,
                };
                let is_new = former.is_none() || moved.is_some();
                match was {
                    Some(was) => bytes[begin..end].copy_from_slice(was),
                    None if is_new && !self.redefinitions.contains(&placed.item.id) => {
                        initial(placed.field, &mut bytes[begin..end]);
                    }
                    None => {}
                }
                if former.is_none() && self.second_views.contains(&placed.item.id) {
                    return;
                }
                let Some(value) = (value.borrow_mut())(Wanted {
                    table: placed.table,
                    row: placed.row,
                    column: placed.column,
                }) else {
                    return;
                };
                let column = &schema.tables()[placed.table].columns[placed.column];
                let place = &mut bytes[begin..end];
                let was_there = former.is_some_and(|former| former.len() >= end)
                    || self.decoder.padding.is_some();
                if former.is_some() && was_there {
                    let now = field::decode_or_absent(
                        place,
                        placed.field,
                        &column.absent,
                        policy,
                        &mut room,
                    );
                    let keeps = match now {
                        Ok(now) => now.is(&value),
                        Err(_) => matches!(value, Value::Null),
                    };
                    if keeps {
                        return;
                    }
                }
                // A column that isn't chosen, or that couldn't be read, is NULL and says nothing about the bytes.
                let may_be_absent = column.nullable || !column.when.is_empty();
                if matches!(value, Value::Null) && (may_be_absent || former.is_some() && !was_there)
                {
                    return;
                }
                match field::encode_or_absent(&value, placed.field, &column.absent, place) {
                    Ok(()) => touched = touched.max(end),
                    Err(misfit) => {
                        failed = Some(EncodeRecordError::Field {
                            column: column.name.clone(),
                            misfit,
                        });
                        return;
                    }
                }
                if self.counters.contains(&placed.item.id)
                    && moved.is_none()
                    && let Some((found, _)) = &before
                {
                    bytes[end..].fill(space);
                    let index = found.places.iter().map(|place| {
                        let key = (place.table, place.column, found.row(place));
                        (key, place.offset)
                    });
                    moved = Some(index.collect());
                }
            },
        );
        if let Some(error) = failed {
            return Err(error);
        }
        let end = match (walked, &before) {
            // Where it ends can't be told, and couldn't before.
            (Err(_), Some((_, Err(_)))) => former.map_or(0, <[u8]>::len),
            (walked, _) => walked? as usize,
        };
        let mut bytes = bytes.into_inner();
        let len = match former {
            Some(former) if moved.is_none() => former.len().max(touched),
            _ => end,
        };
        bytes.truncate(len);
        if let Some(column) = self.not_chosen(&bytes, &mut *value.borrow_mut()) {
            return Err(EncodeRecordError::NotChosen { column });
        }
        if let (None, Some(padding)) = (former, self.decoder.padding) {
            let content = bytes.iter().rposition(|&byte| byte != padding);
            bytes.truncate(content.map_or(0, |last| last + 1));
        }
        out.append(&mut bytes);
        Ok(())
    }

    /// A column that was given a value, though a record of these bytes has none there.
    fn not_chosen<'v>(
        &self,
        bytes: &[u8],
        value: &mut dyn FnMut(Wanted<'_>) -> Option<Value<'v>>,
    ) -> Option<String> {
        if self.decoder.choices.lists.is_empty() {
            return None;
        }
        let mut found = None;
        self.decoder.decode(bytes, &mut Room::default(), |cell| {
            if found.is_some() || !matches!(cell.value, Ok(Value::Null)) {
                return;
            }
            let column = &self.decoder.schema.tables()[cell.table].columns[cell.column];
            if column.when.is_empty() {
                return;
            }
            let given = value(Wanted {
                table: cell.table,
                row: cell.row,
                column: cell.column,
            });
            if given.is_some_and(|given| !matches!(given, Value::Null)) {
                found = Some(column.name.clone());
            }
        });
        found
    }
}

/// What INITIALIZE puts into a field: zero, or spaces.
fn initial(field: &FieldType, bytes: &mut [u8]) {
    use crate::value::Number;
    let zero = match field {
        FieldType::Float { bytes: 4, .. } => Value::Float32(0.0),
        FieldType::Float { .. } => Value::Float64(0.0),
        FieldType::Zoned { .. } | FieldType::Packed { .. } | FieldType::Binary { .. } => {
            Value::Number(Number::default())
        }
        _ => Value::Null,
    };
    if field::encode(&zero, field, bytes).is_err() {
        bytes.fill(0);
    }
}
