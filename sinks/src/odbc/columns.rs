//! The columns of a table with rows: what they are called, what types they have, and what goes into them.

use super::check::{Holds, Needed};
use super::dialect::{Dialect, Sql, Types};
use super::session::Kind;
use crate::naming::numbered_within;
use crate::plan::{CellRoom, ColumnKind, Mode, Plan, PlanColumn, Shape, UNDECODED};
use counterfoil_records::value::Value;
use odbc_api::DataType;
use std::fmt::Write as _;
use std::num::NonZeroUsize;

/// Names that an error shows.
const NAMES_SHOWN: usize = 12;

/// What tells shared tables from others.
const SHARED: &str = "shared";

/// The column of a field that is named `id`, in a table; its view has the name.
const ID_OF_RECORD: &str = "counterfoil_id";

/// When a change was captured.
pub(super) const CAPTURED: ColumnKind = ColumnKind::Timestamp { digits: 6 };

/// The columns of a table, beside the identity and what says which change a row is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Those that are filled, in order: what a plan fills, [`UNDECODED`], `data`, `rest`.
    filled: Vec<Column>,
    /// Those that nothing fills any more.
    left: Vec<Column>,
    is_history: bool,
    /// What tells tables with these columns from others.
    pub(super) structure: String,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// As SQL wants it.
    pub(super) name: String,
    /// What people call it, if that is something else.
    shown: Option<String>,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Planned(ColumnKind),
    Undecoded,
    Data,
    Rest,
}

/// A value of a planned column, or of [`UNDECODED`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Number(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Columns {
    /// The columns of a table that all files of a tree share.
    pub(super) fn shared() -> Columns {
        Columns {
            filled: vec![Column::own("data", Content::Data)],
            left: Vec::new(),
            is_history: false,
            structure: SHARED.into(),
        }
    }

    /// The columns of a file's table with this shape.
    pub(super) fn of(shape: &Shape, sql: &Sql) -> Columns {
        let planned = |columns: &[PlanColumn]| -> Vec<Column> {
            let columns = columns.iter().map(|column| {
                let shown = sql.quoted(&sql.column_name(&column.name));
                // The table has a column of that name, which is the identity.
                let is_taken = column.name.eq_ignore_ascii_case("id");
                let name = match is_taken {
                    true => sql.quoted(&sql.column_name(ID_OF_RECORD)),
                    false => shown.clone(),
                };
                Column {
                    name,
                    shown: is_taken.then_some(shown),
                    content: Content::Planned(column.kind),
                }
            });
            columns.collect()
        };
        let mut filled = planned(&shape.columns);
        if shape.decoded {
            filled.push(Column::own(UNDECODED, Content::Undecoded));
        }
        if shape.raw {
            filled.push(Column::own("data", Content::Data));
            filled.push(Column::own("rest", Content::Rest));
        }
        // (No index is made here, so what it would be of makes no difference.)
        let physical = Shape {
            fill: String::new(),
            key: Vec::new(),
            ..shape.clone()
        };
        Columns {
            filled,
            left: planned(&shape.left),
            is_history: shape.mode == Mode::History,
            structure: physical.text(),
        }
    }

    /// Whether rows of several files are in one table.
    pub(super) fn is_shared(&self) -> bool {
        self.structure == SHARED
    }

    /// Whether there is a row for each change.
    pub(super) fn is_history(&self) -> bool {
        self.is_history
    }

    /// Those that are filled.
    pub(super) fn filled(&self) -> &[Column] {
        &self.filled
    }

    /// How many values a plan gives for a row, with that of [`UNDECODED`].
    pub(super) fn planned(&self) -> usize {
        let is_planned =
            |column: &&Column| matches!(column.content, Content::Planned(_) | Content::Undecoded);
        self.filled.iter().filter(is_planned).count()
    }

    /// Their definitions, each followed by a comma.
    pub(super) fn definitions(&self, dialect: Dialect, types: Types) -> String {
        let mut text = String::new();
        for column in self.filled.iter().chain(&self.left) {
            let kind = match column.content {
                Content::Planned(kind) => dialect.type_of(kind, types),
                Content::Undecoded => types.text.to_owned(),
                Content::Data | Content::Rest => types.bytes.to_owned(),
            };
            let _ = write!(text, "{} {kind}, ", column.name);
        }
        text
    }

    /// What a table needs for those that are filled.
    pub(super) fn needed(&self, dialect: Dialect, types: Types) -> Vec<Needed> {
        let needed = self.filled.iter().map(|column| {
            let (kind, holds) = match column.content {
                Content::Planned(kind) => (dialect.type_of(kind, types), dialect.holds(kind)),
                Content::Undecoded => (types.text.to_owned(), Holds::Text(None)),
                Content::Data | Content::Rest => (types.bytes.to_owned(), Holds::Bytes(None)),
            };
            Needed {
                name: column.name.clone(),
                kind,
                holds,
                // A record has bytes, if only none; that it was deleted has not.
                takes_null: column.content != Content::Data || self.is_history,
            }
        });
        needed.collect()
    }

    /// The names of those that are in both tables, as SQL wants them.
    pub(super) fn common(&self, other: &Columns) -> Vec<&str> {
        let is_there = |name: &str| other.filled.iter().any(|column| column.name == name);
        let names = self.filled.iter().map(|column| column.name.as_str());
        names.filter(|name| is_there(name)).collect()
    }

    /// Their names for people, the last few of them if there are many.
    pub(super) fn some_names(&self) -> String {
        let from = self.filled.len().saturating_sub(NAMES_SHOWN);
        let names = self.filled[from..]
            .iter()
            .map(|column| column.name.as_str());
        let more = if from > 0 { "..., " } else { "" };
        format!("{more}{}", names.collect::<Vec<_>>().join(", "))
    }

    /// How their values are handed over.
    pub(super) fn kinds(&self, dialect: Dialect) -> Vec<Kind> {
        let kinds = self.filled.iter().map(|column| match column.content {
            Content::Planned(kind) => dialect.kind_of(kind),
            Content::Undecoded => Kind::Text,
            Content::Data | Content::Rest => Kind::Bytes,
        });
        kinds.collect()
    }

    /// The columns that people read, under the names that they know, as SQL wants them.
    pub(super) fn shown(&self) -> Vec<String> {
        let columns = self.filled.iter().chain(&self.left);
        let shown = columns.map(|column| match &column.shown {
            Some(shown) => format!("{} AS {shown}", column.name),
            None => column.name.clone(),
        });
        shown.collect()
    }
}

impl Column {
    fn own(name: &str, content: Content) -> Column {
        Column {
            name: name.to_owned(),
            shown: None,
            content,
        }
    }
}

/// Adds a record's values of the planned columns.
pub(super) fn add_cells(
    plan: &Plan,
    shape: &Shape,
    data: &[u8],
    room: &mut CellRoom,
    dialect: Dialect,
    cells: &mut Vec<Cell>,
) {
    let begin = cells.len();
    let mut odd = String::new();
    let problem = plan.cells(data, false, room, &mut |value| {
        // What the table holds may be more than what the plan wants.
        let column =
            &shape.columns[(cells.len() - begin).min(shape.columns.len().saturating_sub(1))];
        let cell = cell_of(value, column.kind, dialect);
        if let Err(why) = &cell {
            let separator = if odd.is_empty() { "" } else { "; " };
            let _ = write!(odd, "{separator}{}: {why}", column.name);
        }
        cells.push(cell.unwrap_or(Cell::Null));
    });
    // A table may still have the column when nothing is decoded any more.
    if shape.decoded {
        let problem = match (problem, odd.is_empty()) {
            (Some(problem), false) => Some(format!("{problem}; {odd}")),
            (None, false) => Some(odd),
            (problem, true) => problem,
        };
        cells.push(problem.map_or(Cell::Null, Cell::Text));
    }
}

fn cell_of(value: Value<'_>, kind: ColumnKind, dialect: Dialect) -> Result<Cell, &'static str> {
    Ok(match value {
        Value::Null => Cell::Null,
        Value::Number(number) => match dialect.kind_of(kind) {
            Kind::Number => match i64::try_from(number.unscaled()) {
                Ok(whole) if number.scale() == 0 => Cell::Number(whole),
                _ => return Err("it isn't a whole number of 64 bits"),
            },
            _ => Cell::Text(number.to_string()),
        },
        Value::Float32(number) => double(f64::from(number), dialect)?,
        Value::Float64(number) => double(number, dialect)?,
        Value::Text(text) => Cell::Text(text.to_owned()),
        Value::Bytes(bytes) => Cell::Bytes(bytes.to_vec()),
        Value::Date(_) | Value::Time(_) => Cell::Text(value.to_string()),
        Value::Timestamp(moment) => Cell::Text(format!("{} {}", moment.date, moment.time)),
    })
}

fn double(number: f64, dialect: Dialect) -> Result<Cell, &'static str> {
    let takes_any = matches!(dialect, Dialect::Postgresql | Dialect::Oracle);
    if number.is_finite() || takes_any {
        Ok(Cell::Double(number))
    } else {
        Err("the database holds no such number (not a number, or infinite)")
    }
}

impl Sql {
    /// A column's name as far as the database takes it.
    pub(super) fn column_name(&self, name: &str) -> String {
        self.folded(&numbered_within(name, 1, self.name_bytes_max()))
    }
}

impl Dialect {
    /// The type of a column of this kind. Where the database has none that holds all such values, it is text or bytes.
    pub(super) fn type_of(self, kind: ColumnKind, types: Types) -> String {
        use Dialect::{Db2, Generic, Mysql, Oracle, Postgresql, SqlServer, Sqlite};
        match kind {
            ColumnKind::SmallInt | ColumnKind::Integer | ColumnKind::BigInt => match (self, kind) {
                (Sqlite, _) => "INTEGER".into(),
                (Oracle, ColumnKind::SmallInt) => "NUMBER(5)".into(),
                (Oracle, ColumnKind::Integer) => "NUMBER(10)".into(),
                (Oracle, _) => "NUMBER(19)".into(),
                (_, ColumnKind::SmallInt) => "SMALLINT".into(),
                (_, ColumnKind::Integer) => "INTEGER".into(),
                _ => "BIGINT".into(),
            },
            ColumnKind::Decimal { precision, scale } if self.holds_decimal(precision) => match self
            {
                Oracle => format!("NUMBER({precision},{scale})"),
                _ => format!("DECIMAL({precision},{scale})"),
            },
            ColumnKind::Decimal { precision, .. } => self.text_of(u32::from(precision) + 3, types),
            ColumnKind::Real => match self {
                Oracle => "BINARY_FLOAT".into(),
                Mysql => "FLOAT".into(),
                _ => "REAL".into(),
            },
            ColumnKind::Double => match self {
                Oracle => "BINARY_DOUBLE".into(),
                Sqlite => "REAL".into(),
                SqlServer => "FLOAT(53)".into(),
                Mysql | Db2 => "DOUBLE".into(),
                Postgresql | Generic => "DOUBLE PRECISION".into(),
            },
            ColumnKind::Text { chars: Some(chars) } => self.text_of(chars, types),
            ColumnKind::Text { chars: None } => types.text.to_owned(),
            ColumnKind::Bytes { len: Some(len) } => match self {
                Oracle if len <= 2000 => format!("RAW({})", len.max(1)),
                Db2 | SqlServer | Mysql if len <= 8000 => format!("VARBINARY({})", len.max(1)),
                _ => types.bytes.to_owned(),
            },
            ColumnKind::Bytes { len: None } => types.bytes.to_owned(),
            ColumnKind::Date if self == Sqlite => "TEXT".into(),
            ColumnKind::Date => "DATE".into(),
            ColumnKind::Time { digits } if self.holds_time(digits) => match self {
                Db2 | Generic => "TIME".into(),
                _ => format!("TIME({digits})"),
            },
            ColumnKind::Time { .. } => self.text_of(18, types),
            ColumnKind::Timestamp { digits } if self.holds_timestamp(digits) => match self {
                SqlServer => format!("DATETIME2({digits})"),
                Mysql => format!("DATETIME({digits})"),
                Generic => "TIMESTAMP".into(),
                _ => format!("TIMESTAMP({digits})"),
            },
            ColumnKind::Timestamp { .. } => self.text_of(29, types),
        }
    }

    fn text_of(self, chars: u32, types: Types) -> String {
        let chars = chars.max(1);
        let (name, most) = match self {
            Dialect::Sqlite => return "TEXT".into(),
            Dialect::Oracle => (format!("VARCHAR2({chars} CHAR)"), 1000),
            Dialect::Db2 => (format!("VARCHAR({chars} CODEUNITS32)"), 8000),
            // It counts units of UTF-16, of which a character may have two.
            Dialect::SqlServer => (format!("NVARCHAR({})", chars.saturating_mul(2)), 2000),
            Dialect::Mysql => (format!("VARCHAR({chars})"), 500),
            Dialect::Postgresql => (format!("VARCHAR({chars})"), 10_000_000),
            Dialect::Generic => (format!("VARCHAR({chars})"), 250),
        };
        if chars <= most {
            name
        } else {
            types.text.to_owned()
        }
    }

    pub(super) fn holds_decimal(self, precision: u16) -> bool {
        match self {
            // It would make floating-point numbers of them.
            Dialect::Sqlite => false,
            Dialect::Db2 | Dialect::Generic => precision <= 31,
            Dialect::Oracle | Dialect::SqlServer => precision <= 38,
            Dialect::Mysql => precision <= 65,
            Dialect::Postgresql => precision <= 1000,
        }
    }

    pub(super) fn holds_time(self, digits: u8) -> bool {
        match self {
            Dialect::Sqlite | Dialect::Oracle => false,
            Dialect::Db2 | Dialect::Generic => digits == 0,
            Dialect::Mysql | Dialect::Postgresql => digits <= 6,
            Dialect::SqlServer => digits <= 7,
        }
    }

    pub(super) fn holds_timestamp(self, digits: u8) -> bool {
        match self {
            Dialect::Sqlite => false,
            Dialect::Db2 | Dialect::Oracle => true,
            // Without a number it has as many as the database likes.
            Dialect::Generic => digits == 0,
            Dialect::Mysql | Dialect::Postgresql => digits <= 6,
            Dialect::SqlServer => digits <= 7,
        }
    }

    /// How a value of this kind is handed over.
    pub(super) fn kind_of(self, kind: ColumnKind) -> Kind {
        let text = |data_type| Kind::As(data_type);
        match kind {
            ColumnKind::SmallInt | ColumnKind::Integer | ColumnKind::BigInt => Kind::Number,
            ColumnKind::Decimal { precision, scale } if self.holds_decimal(precision) => {
                text(DataType::Decimal {
                    precision: precision.into(),
                    scale: i16::try_from(scale).unwrap_or(i16::MAX),
                })
            }
            ColumnKind::Real | ColumnKind::Double => Kind::Double,
            ColumnKind::Bytes { .. } => Kind::Bytes,
            ColumnKind::Date if self != Dialect::Sqlite => text(DataType::Date),
            ColumnKind::Time { digits } if self.holds_time(digits) => text(DataType::Time {
                precision: digits.into(),
            }),
            ColumnKind::Timestamp { digits } if self.holds_timestamp(digits) => {
                text(DataType::Timestamp {
                    precision: digits.into(),
                })
            }
            ColumnKind::Decimal { .. }
            | ColumnKind::Date
            | ColumnKind::Time { .. }
            | ColumnKind::Timestamp { .. } => text(DataType::Varchar {
                length: NonZeroUsize::new(64),
            }),
            ColumnKind::Text { .. } => Kind::Text,
        }
    }
}
