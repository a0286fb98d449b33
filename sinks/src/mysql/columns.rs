//! The columns of a table with rows: their names and types, and what a record puts into them.
//!
//! A value is written as text, by a load as well as by a statement: so what is exact in one is exact in the other.
//! MySQL's numbers have no NaN and no infinity, and its times no more than six digits of a second: what doesn't fit is NULL, and
//! the column `undecoded` says so.

use super::schema::{limited, quoted};
use crate::plan::{CellRoom, ColumnKind, Mode, Plan, Shape, UNDECODED};
use counterfoil_records::value::{Time, Value};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

/// Longer text is off the row anyway.
const VARCHAR_CHARS_MAX: u32 = 1000;

/// What the columns of a plan may take of a row within a page (InnoDB's limit is 8126 bytes), and of a row at all (65535),
/// beside Counterfoil's own.
const PAGE_BYTES_MAX: u64 = 7900;
const ROW_BYTES_MAX: u64 = 64_000;

/// What text off the row takes in it.
const OFF_ROW_BYTES: u64 = 21;

/// Digits of a decimal, altogether and behind the point, and of a second's fraction.
const DECIMAL_DIGITS_MAX: u16 = 65;
const DECIMAL_SCALE_MAX: u16 = 30;
const FRACTION_DIGITS_MAX: u8 = 6;

/// What a table has beside the bytes of records. A table of raw images alone has none of this.
#[derive(Debug)]
pub(super) struct Columns {
    /// What the table is.
    pub(super) shape: Shape,
    /// What fills it.
    plan: Option<Arc<Plan>>,
    /// As SQL wants them: the columns, and `undecoded` if there is one.
    pub(super) names: Vec<String>,
}

/// A column as it is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    /// Not quoted.
    pub(super) name: String,
    /// In words of SQL. It may always be NULL.
    pub(super) kind: String,
}

impl Columns {
    /// `None` for a mirror of raw images.
    pub(super) fn new(shape: Shape, plan: Option<Arc<Plan>>) -> Option<Arc<Columns>> {
        if shape == Shape::default() {
            return None;
        }
        let filled = shape.columns.iter().map(|column| stored_name(&column.name));
        let undecoded = shape.decoded.then(|| UNDECODED.to_owned());
        let names = filled.chain(undecoded).map(|name| quoted(&name)).collect();
        Some(Arc::new(Columns { shape, plan, names }))
    }

    pub(super) fn is_history(&self) -> bool {
        self.shape.mode == Mode::History
    }

    /// Calls `each` for every one of `names` with what a record has there, as the server reads it; `None` is NULL.
    pub(super) fn cells(
        &self,
        data: &[u8],
        room: &mut CellRoom,
        each: &mut dyn FnMut(Option<&[u8]>),
    ) {
        let mut next = 0;
        let mut text = Vec::new();
        let mut misfits = String::new();
        let problem = self.plan.as_ref().and_then(|plan| {
            plan.cells(data, false, room, &mut |value| {
                let Some(column) = self.shape.columns.get(next) else {
                    return;
                };
                next += 1;
                text.clear();
                match write_value(&value, column.kind, &mut text) {
                    Ok(true) => each(Some(&text)),
                    Ok(false) => each(None),
                    Err(why) => {
                        let _ = write!(misfits, "; {}: {why}", column.name);
                        each(None);
                    }
                }
            })
        });
        for _ in next..self.shape.columns.len() {
            each(None);
        }
        if self.shape.decoded {
            let told = problem.unwrap_or_default() + &misfits;
            let told = told.trim_start_matches("; ");
            each((!told.is_empty()).then_some(told.as_bytes()));
        }
    }

    /// A record's NULLs, where it is gone.
    pub(super) fn nothing(&self, each: &mut dyn FnMut(Option<&[u8]>)) {
        for _ in &self.names {
            each(None);
        }
    }
}

/// What a column of a plan is called in its table. The identity is called `id` there, so no other is.
pub(super) fn stored_name(name: &str) -> String {
    if name.eq_ignore_ascii_case("id") {
        return format!("{name}_");
    }
    limited(name, 1)
}

/// Writes a value as the server reads it; `false` for NULL.
fn write_value(value: &Value<'_>, kind: ColumnKind, out: &mut Vec<u8>) -> Result<bool, String> {
    // Writing into memory doesn't fail.
    match value {
        Value::Null => return Ok(false),
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Bytes(bytes) => out.extend_from_slice(bytes),
        Value::Number(_) | Value::Date(_) => {
            let _ = write!(out, "{value}");
        }
        // The server reads eight bytes and rounds them to four: so they are given exactly.
        Value::Float32(number) => write_float(f64::from(*number), out)?,
        Value::Float64(number) => write_float(*number, out)?,
        Value::Time(time) => write_time(*time, kind, out)?,
        Value::Timestamp(moment) => {
            let _ = write!(out, "{} ", moment.date);
            write_time(moment.time, kind, out)?;
        }
    }
    Ok(true)
}

fn write_float(number: f64, out: &mut Vec<u8>) -> Result<(), String> {
    if !number.is_finite() {
        return Err(format!("it is {number}, and the server has no such number"));
    }
    let _ = write!(out, "{number:e}");
    Ok(())
}

fn write_time(time: Time, kind: ColumnKind, out: &mut Vec<u8>) -> Result<(), String> {
    if let ColumnKind::Time { digits } | ColumnKind::Timestamp { digits } = kind
        && !time
            .nanos()
            .is_multiple_of(10_u32.pow(9 - u32::from(digits.min(9))))
    {
        return Err(format!("{time} has more digits than {kind} holds"));
    }
    let _ = write!(out, "{time}");
    Ok(())
}

/// The columns of a plan's table, those that nothing fills any more as well.
pub(super) fn definitions(shape: &Shape) -> Vec<Definition> {
    let kinds = || shape.columns.iter().chain(&shape.left).map(|c| c.kind);
    let fits = kinds().map(|kind| page_bytes(kind, false)).sum::<u64>() <= PAGE_BYTES_MAX
        && kinds().map(row_bytes).sum::<u64>() <= ROW_BYTES_MAX;
    let columns = shape.columns.iter().chain(&shape.left);
    let columns = columns.map(|column| Definition {
        name: stored_name(&column.name),
        kind: type_of(column.kind, !fits),
    });
    let undecoded = shape.decoded.then(|| Definition {
        name: UNDECODED.into(),
        kind: "TEXT".into(),
    });
    columns.chain(undecoded).collect()
}

/// What a column of this kind is kept as.
pub(super) fn storage_kind(kind: ColumnKind) -> ColumnKind {
    text_chars(kind).map_or(kind, |chars| ColumnKind::Text { chars })
}

/// The characters of what is kept as text.
fn text_chars(kind: ColumnKind) -> Option<Option<u32>> {
    match kind {
        ColumnKind::Text { chars } => Some(chars),
        ColumnKind::Decimal { precision, scale }
            if precision > DECIMAL_DIGITS_MAX || scale > DECIMAL_SCALE_MAX =>
        {
            // A sign, a point, and the nought before it.
            Some(Some(u32::from(precision) + 3))
        }
        ColumnKind::Time { digits } if digits > FRACTION_DIGITS_MAX => Some(Some(18)),
        ColumnKind::Timestamp { digits } if digits > FRACTION_DIGITS_MAX => Some(Some(29)),
        _ => None,
    }
}

/// The type of a column. Of rows that may get too large for a page, text of more than a few characters is kept beside them.
fn type_of(kind: ColumnKind, compact: bool) -> String {
    let is_short = |count: u32, bytes_each: u64| {
        count <= VARCHAR_CHARS_MAX && (!compact || u64::from(count) * bytes_each < OFF_ROW_BYTES)
    };
    if let Some(chars) = text_chars(kind) {
        return match chars {
            Some(chars) if is_short(chars, 4) => format!("VARCHAR({chars})"),
            Some(0..=0x3fff) => "TEXT".into(),
            _ => "LONGTEXT".into(),
        };
    }
    match kind {
        ColumnKind::SmallInt => "SMALLINT".into(),
        ColumnKind::Integer => "INT".into(),
        ColumnKind::BigInt => "BIGINT".into(),
        ColumnKind::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        ColumnKind::Real => "FLOAT".into(),
        ColumnKind::Double => "DOUBLE".into(),
        ColumnKind::Bytes { len: Some(len) } if is_short(len, 1) => format!("VARBINARY({len})"),
        ColumnKind::Bytes {
            len: Some(0..=0xffff),
        } => "BLOB".into(),
        ColumnKind::Bytes { .. } | ColumnKind::Text { .. } => "LONGBLOB".into(),
        ColumnKind::Date => "DATE".into(),
        ColumnKind::Time { digits } => format!("TIME({digits})"),
        ColumnKind::Timestamp { digits } => format!("DATETIME({digits})"),
    }
}

/// What a column may take of a row within its page: what has more than 255 bytes may be kept beside it.
fn page_bytes(kind: ColumnKind, compact: bool) -> u64 {
    let bytes = match (text_chars(kind), kind) {
        (Some(chars), _) => chars.map(|chars| u64::from(chars) * 4),
        (None, ColumnKind::Bytes { len }) => len.map(u64::from),
        (None, ColumnKind::Decimal { precision, .. }) => Some(u64::from(precision) / 2 + 4),
        (None, _) => Some(8),
    };
    match bytes {
        Some(bytes) if bytes <= 255 && !compact => bytes + 2,
        Some(bytes) if bytes < OFF_ROW_BYTES => bytes + 2,
        _ => 2 * OFF_ROW_BYTES,
    }
}

/// What a column takes of a row at all.
fn row_bytes(kind: ColumnKind) -> u64 {
    match (text_chars(kind), kind) {
        (Some(Some(chars)), _) if chars <= VARCHAR_CHARS_MAX => u64::from(chars) * 4 + 2,
        (None, ColumnKind::Bytes { len: Some(len) }) if len <= VARCHAR_CHARS_MAX => {
            u64::from(len) + 2
        }
        (None, ColumnKind::Decimal { precision, .. }) => u64::from(precision) / 2 + 4,
        _ => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlanColumn;
    use counterfoil_records::value::{Date, Timestamp};

    fn shape(kinds: &[&str]) -> Shape {
        let columns = kinds.iter().enumerate().map(|(n, kind)| PlanColumn {
            name: format!("c{n}"),
            kind: kind.parse().expect("a kind"),
        });
        Shape {
            columns: columns.collect(),
            ..Shape::default()
        }
    }

    fn types(kinds: &[&str]) -> Vec<String> {
        let definitions = definitions(&shape(kinds));
        definitions.into_iter().map(|it| it.kind).collect()
    }

    #[test]
    fn every_kind_has_a_type_that_holds_it() {
        for (kind, wanted) in [
            ("smallint", "SMALLINT"),
            ("integer", "INT"),
            ("bigint", "BIGINT"),
            ("decimal(65,30)", "DECIMAL(65,30)"),
            ("decimal(66,2)", "VARCHAR(69)"),
            ("decimal(40,31)", "VARCHAR(43)"),
            ("real", "FLOAT"),
            ("double", "DOUBLE"),
            ("text", "LONGTEXT"),
            ("text(30)", "VARCHAR(30)"),
            ("text(1001)", "TEXT"),
            ("text(16384)", "LONGTEXT"),
            ("bytes", "LONGBLOB"),
            ("bytes(8)", "VARBINARY(8)"),
            ("bytes(65535)", "BLOB"),
            ("date", "DATE"),
            ("time(0)", "TIME(0)"),
            ("time(9)", "VARCHAR(18)"),
            ("timestamp(6)", "DATETIME(6)"),
            ("timestamp(7)", "VARCHAR(29)"),
        ] {
            assert_eq!(types(&[kind]), [wanted], "{kind}");
        }
        // Rows that may get too large for a page have their text beside them.
        assert_eq!(
            types(&["text(30)"; 40]).first().map(String::as_str),
            Some("VARCHAR(30)")
        );
        let many = types(&[&["text(30)"; 200][..], &["text(4)", "bytes(30)", "date"]].concat());
        assert_eq!(many[0], "TEXT");
        assert_eq!(many[200..], ["VARCHAR(4)", "BLOB", "DATE"]);
        assert_eq!(types(&["text(1000)"; 20])[0], "TEXT");
    }

    #[test]
    fn values_are_written_exactly_or_not_at_all() {
        let written = |value: Value<'_>, kind: &str| {
            let mut out = Vec::new();
            let kind = kind.parse().expect("a kind");
            write_value(&value, kind, &mut out)
                .map(|is_there| is_there.then(|| String::from_utf8(out).expect("text")))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(written(Value::Null, "real"), Ok(None));
        assert_eq!(
            written(Value::Float32(0.1), "real"),
            some("1.0000000149011612e-1")
        );
        assert_eq!(written(Value::Float64(1e300), "double"), some("1e300"));
        assert!(written(Value::Float32(f32::NAN), "real").is_err());
        assert!(written(Value::Float64(f64::NEG_INFINITY), "double").is_err());
        let time = |nanos| Time::new(23, 59, 59, nanos).expect("a time");
        let date = Date::new(1, 1, 1).expect("a day");
        assert_eq!(
            written(
                Value::Timestamp(Timestamp {
                    date,
                    time: time(1000)
                }),
                "timestamp(6)"
            ),
            some("0001-01-01 23:59:59.000001")
        );
        assert!(written(Value::Time(time(999_999_999)), "time(6)").is_err());
        assert_eq!(
            written(Value::Time(time(999_999_999)), "time(9)"),
            some("23:59:59.999999999")
        );
        assert!(written(Value::Time(time(500_000_000)), "time(0)").is_err());
    }

    #[test]
    fn the_identity_keeps_its_name() {
        assert_eq!(stored_name("ID"), "ID_");
        assert_eq!(stored_name("ident"), "ident");
        assert!(stored_name(&"x".repeat(100)).len() <= 64);
    }
}
