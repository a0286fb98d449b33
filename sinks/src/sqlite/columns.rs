//! Columns: which type of SQLite's each kind has, and how a record's values get into a statement.
//!
//! SQLite's numbers are 64-bit integers and binary floating point. A decimal as the latter would lose digits, so decimals,
//! and whole numbers that may have more than 64 bits, are text: exact, with the point where the column says. Days and times
//! are text too, as SQLite's own functions for dates take it.

use crate::plan::{CellRoom, ColumnKind, Mode, Plan, Shape, UNDECODED};
use counterfoil_records::value::Value;
use rusqlite::Statement;
use rusqlite::types::Null;
use std::fmt::Write as _;

/// Most columns of a table, SQLite's limit.
pub(super) const COLUMNS_MAX: usize = 2000;

/// What a history's rows begin with, behind the identity.
const OF_HISTORIES: [Column<'static>; 5] = [
    Column::needed("epoch", "INTEGER"),
    Column::needed("lsn", "INTEGER"),
    Column::needed("idx", "INTEGER"),
    Column::needed("op", "TEXT"),
    Column::needed("captured_at", "TEXT"),
];

/// A column of a file's table.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    pub(super) sql_type: &'static str,
    /// It is never NULL.
    pub(super) is_needed: bool,
}

impl<'a> Column<'a> {
    const fn needed(name: &'a str, sql_type: &'static str) -> Self {
        Column {
            name,
            sql_type,
            is_needed: true,
        }
    }

    const fn optional(name: &'a str, sql_type: &'static str) -> Self {
        Column {
            name,
            sql_type,
            is_needed: false,
        }
    }
}

/// The columns of a file's table that are filled, in order.
pub(super) fn of_table<'a>(
    identity: &'a str,
    shape: &'a Shape,
) -> impl Iterator<Item = Column<'a>> {
    let is_history = shape.mode == Mode::History;
    let own = OF_HISTORIES.iter().copied().filter(move |_| is_history);
    // A history's deletions have no bytes.
    let data = Column {
        is_needed: !is_history,
        ..Column::needed("data", "BLOB")
    };
    let raw = [data, Column::optional("rest", "BLOB")];
    let filled = shape.columns.iter();
    std::iter::once(Column::needed(identity, "INTEGER"))
        .chain(own)
        .chain(raw.into_iter().filter(|_| shape.raw))
        .chain(filled.map(|column| Column::optional(&column.name, sql_type(column.kind))))
        .chain(shape.decoded.then_some(Column::optional(UNDECODED, "TEXT")))
}

/// The parameter for the column of this number (from 1) when a row is inserted.
pub(super) fn place(number: usize, shape: &Shape) -> String {
    match (shape.mode, number) {
        (Mode::History, 6) => captured_at("?6"),
        _ => format!("?{number}"),
    }
}

/// Nanoseconds since 1970 as a time in UTC, as SQLite's functions take it.
pub(super) fn captured_at(parameter: &str) -> String {
    format!(
        "strftime('%Y-%m-%d %H:%M:%S', {parameter} / 1000000000, 'unixepoch') || printf('.%09d', {parameter} % 1000000000)"
    )
}

/// The type that holds a kind of values.
pub(super) fn sql_type(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::SmallInt | ColumnKind::Integer | ColumnKind::BigInt => "INTEGER",
        ColumnKind::Real | ColumnKind::Double => "REAL",
        ColumnKind::Bytes { .. } => "BLOB",
        ColumnKind::Decimal { .. }
        | ColumnKind::Text { .. }
        | ColumnKind::Date
        | ColumnKind::Time { .. }
        | ColumnKind::Timestamp { .. } => "TEXT",
    }
}

/// Fills a file's columns by its plan.
pub(super) struct Filler<'a> {
    plan: Option<&'a Plan>,
    room: CellRoom,
    text: String,
}

impl<'a> Filler<'a> {
    pub(super) fn new(plan: Option<&'a Plan>) -> Self {
        Filler {
            plan,
            room: CellRoom::default(),
            text: String::new(),
        }
    }

    /// Gives a statement the values of a record's columns, from this parameter on. `shape` is the table's, whose columns
    /// are the plan's, and hold at least as much.
    pub(super) fn bind(
        &mut self,
        statement: &mut Statement<'_>,
        begin: usize,
        shape: &Shape,
        data: &[u8],
    ) -> rusqlite::Result<()> {
        let mut bound = Ok(());
        let mut at = begin;
        let mut told = None;
        let mut lost = String::new();
        if let Some(plan) = self.plan {
            // Text with characters of code 0 could be kept, but SQLite's functions and shells take it for shorter.
            told = plan.cells(data, false, &mut self.room, &mut |value| {
                let column = shape.columns.get(at - begin);
                if bound.is_ok() {
                    if is_nan(&value)
                        && let Some(column) = column
                    {
                        let _ = write!(lost, "{}: SQLite has no NaN; ", column.name);
                    }
                    let is_whole = column.is_some_and(|c| sql_type(c.kind) == "INTEGER");
                    bound = bind_value(statement, at, value, is_whole, &mut self.text);
                }
                at += 1;
            });
        }
        bound?;
        if shape.decoded {
            if !lost.is_empty() {
                let told = told.get_or_insert_default();
                let _ = write!(told, "{}{lost}", if told.is_empty() { "" } else { "; " });
                told.truncate(told.len() - 2);
            }
            statement.raw_bind_parameter(begin + shape.columns.len(), told)?;
        }
        Ok(())
    }
}

fn is_nan(value: &Value<'_>) -> bool {
    match value {
        Value::Float32(number) => number.is_nan(),
        Value::Float64(number) => number.is_nan(),
        _ => false,
    }
}

fn bind_value(
    statement: &mut Statement<'_>,
    at: usize,
    value: Value<'_>,
    is_whole: bool,
    text: &mut String,
) -> rusqlite::Result<()> {
    text.clear();
    match value {
        Value::Null => return statement.raw_bind_parameter(at, Null),
        Value::Text(text) => return statement.raw_bind_parameter(at, text),
        Value::Bytes(bytes) => return statement.raw_bind_parameter(at, bytes),
        Value::Float32(number) => return statement.raw_bind_parameter(at, f64::from(number)),
        Value::Float64(number) => return statement.raw_bind_parameter(at, number),
        Value::Number(number) => match number.to_i64() {
            Some(whole) if is_whole => return statement.raw_bind_parameter(at, whole),
            _ => drop(write!(text, "{number}")),
        },
        Value::Date(date) => drop(write!(text, "{date}")),
        Value::Time(time) => drop(write!(text, "{time}")),
        Value::Timestamp(moment) => drop(write!(text, "{} {}", moment.date, moment.time)),
    }
    statement.raw_bind_parameter(at, text.as_str())
}
