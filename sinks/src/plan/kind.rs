//! What a column of a target may hold, whatever the database: the one list that every sink has a type for.

use counterfoil_records::schema::{BinaryRange, DateKind, DatePart, FieldType, NationalEncoding};
use counterfoil_records::value::{Number, Timestamp, Value};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// What a column holds. Written `smallint`, `integer`, `bigint`, `decimal(9,2)`, `real`, `double`, `text`, `text(30)`,
/// `bytes`, `bytes(8)`, `date`, `time(0)`, `timestamp(6)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColumnKind {
    /// Whole numbers of 16 bits, with a sign.
    SmallInt,
    /// Whole numbers of 32 bits, with a sign.
    Integer,
    /// Whole numbers of 64 bits, with a sign.
    BigInt,
    /// Exact decimal numbers.
    Decimal {
        /// Digits altogether, at least 1. (More than 38 are declared by some copybooks; no value has them.)
        precision: u16,
        /// Digits behind the decimal point, no more than `precision`.
        scale: u16,
    },
    /// Binary floating point, 4 bytes.
    Real,
    /// Binary floating point, 8 bytes.
    Double,
    /// Text of so many characters at most; `None`: of any length.
    Text {
        /// The most characters.
        chars: Option<u32>,
    },
    /// Bytes, so many at most; `None`: any number.
    Bytes {
        /// The most bytes.
        len: Option<u32>,
    },
    /// A day.
    Date,
    /// A time of day with so many digits of a second's fraction, at most 9.
    Time {
        /// Digits of the fraction.
        digits: u8,
    },
    /// A day and a time of it, of no time zone, with so many digits of a second's fraction, at most 9.
    Timestamp {
        /// Digits of the fraction.
        digits: u8,
    },
}

impl ColumnKind {
    /// What holds every value of a field (`docs/copybooks.md` has the table).
    pub fn of_field(field: &FieldType) -> ColumnKind {
        match field {
            FieldType::Text { len, .. } | FieldType::Edited { len, .. } => {
                ColumnKind::Text { chars: Some(*len) }
            }
            FieldType::National {
                chars,
                encoding: NationalEncoding::Dbcs,
            } => ColumnKind::Bytes {
                len: chars.checked_mul(2),
            },
            FieldType::National { chars, .. } => ColumnKind::Text {
                chars: Some(*chars),
            },
            FieldType::Zoned { number, .. } | FieldType::Packed { number, .. } => {
                of_decimal(number.precision(), number.scale)
            }
            FieldType::Binary {
                bytes,
                number,
                signed,
                range: BinaryRange::Full,
                ..
            } => match (bytes, signed, number.scale) {
                (1, _, 0) | (2, true, 0) => ColumnKind::SmallInt,
                (2..=3, _, 0) | (4, true, 0) => ColumnKind::Integer,
                (4..=7, _, 0) | (8, true, 0) => ColumnKind::BigInt,
                _ => {
                    // Digits that so many bytes can hold: 8 bits are 2.41 of them.
                    let digits = u16::try_from(bytes * 241 / 100 + 1).unwrap_or(u16::MAX);
                    let beyond = number.scale.min(0).unsigned_abs();
                    let scale = number.scale.max(0).unsigned_abs();
                    ColumnKind::Decimal {
                        precision: (digits + beyond).max(scale).max(1),
                        scale,
                    }
                }
            },
            FieldType::Binary { number, .. } => of_decimal(number.precision(), number.scale),
            FieldType::Float { bytes: 4, .. } => ColumnKind::Real,
            FieldType::Float { .. } => ColumnKind::Double,
            FieldType::Raw { len } => ColumnKind::Bytes { len: Some(*len) },
            FieldType::DateTime { format, .. } => {
                let digits = format.parts().iter().find_map(|part| match part {
                    DatePart::Fraction(digits) => Some(*digits),
                    _ => None,
                });
                let digits = digits.unwrap_or(0);
                match format.kind() {
                    DateKind::Date => ColumnKind::Date,
                    DateKind::Time => ColumnKind::Time { digits },
                    DateKind::Timestamp => ColumnKind::Timestamp { digits },
                }
            }
        }
    }

    /// Whether it holds every value that `other` holds, as what it is there: a column may become this without loss.
    pub fn holds(self, other: ColumnKind) -> bool {
        use ColumnKind::{Bytes, Decimal, Double, Real, Text, Time, Timestamp};
        if let (Some(ours), Some(theirs)) = (self.integer_digits(), other.integer_digits()) {
            let is_whole = |kind| !matches!(kind, Decimal { .. });
            return match (is_whole(self), is_whole(other)) {
                // A decimal's digits are all nines at most, so one digit less than a whole number's greatest.
                (true, false) => other.scale() == 0 && theirs < ours,
                (true, true) => theirs <= ours,
                (false, _) => theirs <= ours && other.scale() <= self.scale(),
            };
        }
        match (self, other) {
            (Double, Real) => true,
            (Text { chars: ours }, Text { chars: theirs }) => {
                ours.is_none_or(|ours| theirs.is_some_and(|theirs| theirs <= ours))
            }
            (Bytes { len: ours }, Bytes { len: theirs }) => {
                ours.is_none_or(|ours| theirs.is_some_and(|theirs| theirs <= ours))
            }
            (Time { digits: ours }, Time { digits: theirs })
            | (Timestamp { digits: ours }, Timestamp { digits: theirs }) => theirs <= ours,
            _ => self == other,
        }
    }

    /// Digits before the decimal point, of exact numbers.
    fn integer_digits(self) -> Option<u16> {
        match self {
            ColumnKind::SmallInt => Some(5),
            ColumnKind::Integer => Some(10),
            ColumnKind::BigInt => Some(19),
            ColumnKind::Decimal { precision, scale } => Some(precision.saturating_sub(scale)),
            _ => None,
        }
    }

    fn scale(self) -> u16 {
        match self {
            ColumnKind::Decimal { scale, .. } => scale,
            _ => 0,
        }
    }

    /// The most characters of a value that is written as text; `None`: no limit is known.
    pub(super) fn chars(self) -> Option<u32> {
        match self {
            ColumnKind::Text { chars } => chars,
            ColumnKind::Bytes { len } => len.and_then(|len| len.checked_mul(2)),
            ColumnKind::SmallInt => Some(6),
            ColumnKind::Integer => Some(11),
            ColumnKind::BigInt => Some(20),
            // A sign, a point, and the nought before it.
            ColumnKind::Decimal { precision, .. } => Some(u32::from(precision) + 3),
            ColumnKind::Real | ColumnKind::Double => None,
            ColumnKind::Date => Some(10),
            ColumnKind::Time { .. } => Some(18),
            ColumnKind::Timestamp { .. } => Some(29),
        }
    }

    /// The value as this column holds it: a whole number for whole numbers, a number of exactly `scale` for decimals, and
    /// so on; NULL stays NULL. `room` is for text that has to be made. An error says in words why it doesn't hold it.
    pub(super) fn fit<'a>(
        self,
        value: Value<'a>,
        room: &'a mut String,
    ) -> Result<Value<'a>, String> {
        let too_large = |number: Number| Err(format!("{number} is more than {self} holds"));
        match (self, value) {
            (_, Value::Null) => Ok(Value::Null),
            (
                ColumnKind::SmallInt | ColumnKind::Integer | ColumnKind::BigInt,
                Value::Number(number),
            ) => {
                let Some(whole) = number.rescaled(0) else {
                    return Err(format!("{number} isn't whole"));
                };
                let fits = match self {
                    ColumnKind::SmallInt => i16::try_from(whole.unscaled()).is_ok(),
                    ColumnKind::Integer => i32::try_from(whole.unscaled()).is_ok(),
                    _ => i64::try_from(whole.unscaled()).is_ok(),
                };
                if fits {
                    Ok(Value::Number(whole))
                } else {
                    too_large(number)
                }
            }
            (ColumnKind::Decimal { precision, scale }, Value::Number(number)) => {
                let scaled = i16::try_from(scale)
                    .ok()
                    .and_then(|scale| number.rescaled(scale));
                let Some(scaled) = scaled else {
                    return Err(format!("{number} has more digits than {self} holds"));
                };
                let limit = 10_u128.checked_pow(precision.into());
                match limit {
                    Some(limit) if scaled.unscaled().unsigned_abs() >= limit => too_large(number),
                    _ => Ok(Value::Number(scaled)),
                }
            }
            (ColumnKind::Real, Value::Float32(_))
            | (ColumnKind::Double, Value::Float64(_))
            | (ColumnKind::Date, Value::Date(_)) => Ok(value),
            (ColumnKind::Time { digits }, Value::Time(time))
            | (ColumnKind::Timestamp { digits }, Value::Timestamp(Timestamp { time, .. })) => {
                let grain = 10_u32.pow(9 - u32::from(digits.min(9)));
                if time.nanos().is_multiple_of(grain) {
                    Ok(value)
                } else {
                    Err(format!(
                        "{value} has more digits of a second than {self} holds"
                    ))
                }
            }
            (ColumnKind::Double, Value::Float32(number)) => Ok(Value::Float64(number.into())),
            (ColumnKind::Text { chars }, Value::Text(text)) => match chars {
                Some(most)
                    if text.len() > most as usize && text.chars().count() > most as usize =>
                {
                    Err(format!("it has more than {most} characters"))
                }
                _ => Ok(value),
            },
            (ColumnKind::Bytes { len }, Value::Bytes(bytes)) => match len {
                Some(most) if bytes.len() > most as usize => {
                    Err(format!("it has more than {most} bytes"))
                }
                _ => Ok(value),
            },
            (ColumnKind::Text { .. }, value) => {
                room.clear();
                // Writing to a String fails never.
                let _ = write!(room, "{value}");
                self.fit(Value::Text(room), &mut String::new())
                    .map(|_| ())?;
                Ok(Value::Text(room))
            }
            (kind, Value::Text(text)) => {
                let wrong = || format!("{text:?} isn't {}", kind.article());
                let text = text.trim();
                let value = match kind {
                    _ if text.is_empty() => return Ok(Value::Null),
                    ColumnKind::SmallInt
                    | ColumnKind::Integer
                    | ColumnKind::BigInt
                    | ColumnKind::Decimal { .. } => {
                        Value::Number(text.parse().map_err(|_| wrong())?)
                    }
                    ColumnKind::Real => Value::Float32(text.parse().map_err(|_| wrong())?),
                    ColumnKind::Double => Value::Float64(text.parse().map_err(|_| wrong())?),
                    ColumnKind::Date => Value::Date(text.parse().map_err(|_| wrong())?),
                    ColumnKind::Time { .. } => Value::Time(text.parse().map_err(|_| wrong())?),
                    ColumnKind::Timestamp { .. } => {
                        Value::Timestamp(text.parse().map_err(|_| wrong())?)
                    }
                    ColumnKind::Text { .. } | ColumnKind::Bytes { .. } => return Err(wrong()),
                };
                kind.fit(value, room)
            }
            (kind, _) => Err(format!("it isn't {}", kind.article())),
        }
    }

    fn article(self) -> &'static str {
        match self {
            ColumnKind::SmallInt | ColumnKind::Integer | ColumnKind::BigInt => "a whole number",
            ColumnKind::Decimal { .. } => "a decimal number",
            ColumnKind::Real | ColumnKind::Double => "a floating-point number",
            ColumnKind::Text { .. } => "text",
            ColumnKind::Bytes { .. } => "bytes",
            ColumnKind::Date => "a date",
            ColumnKind::Time { .. } => "a time of day",
            ColumnKind::Timestamp { .. } => "a date and time",
        }
    }
}

/// Whole numbers by their digits, all others as decimals.
fn of_decimal(precision: u16, scale: i16) -> ColumnKind {
    match (scale, precision) {
        (..=0, 0..=4) => ColumnKind::SmallInt,
        (..=0, 5..=9) => ColumnKind::Integer,
        (..=0, 10..=18) => ColumnKind::BigInt,
        _ => ColumnKind::Decimal {
            precision: precision.max(1),
            scale: scale.max(0).unsigned_abs(),
        },
    }
}

impl fmt::Display for ColumnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnKind::SmallInt => f.write_str("smallint"),
            ColumnKind::Integer => f.write_str("integer"),
            ColumnKind::BigInt => f.write_str("bigint"),
            ColumnKind::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            ColumnKind::Real => f.write_str("real"),
            ColumnKind::Double => f.write_str("double"),
            ColumnKind::Text { chars: None } => f.write_str("text"),
            ColumnKind::Text { chars: Some(chars) } => write!(f, "text({chars})"),
            ColumnKind::Bytes { len: None } => f.write_str("bytes"),
            ColumnKind::Bytes { len: Some(len) } => write!(f, "bytes({len})"),
            ColumnKind::Date => f.write_str("date"),
            ColumnKind::Time { digits } => write!(f, "time({digits})"),
            ColumnKind::Timestamp { digits } => write!(f, "timestamp({digits})"),
        }
    }
}

impl FromStr for ColumnKind {
    type Err = String;

    /// As `Display` writes it, and by the usual other names (`int`, `numeric`, `varchar`, `bytea`, ...).
    fn from_str(text: &str) -> Result<ColumnKind, String> {
        let lower = text.trim().to_ascii_lowercase();
        let wrong = || {
            format!(
                "{text:?} is no kind of column; there are smallint, integer, bigint, decimal(P,S), real, double, text, \
                 text(N), bytes, bytes(N), date, time(F) and timestamp(F)"
            )
        };
        let (name, numbers) = match lower.split_once('(') {
            None => (lower.as_str(), Vec::new()),
            Some((name, rest)) => {
                let inner = rest.strip_suffix(')').ok_or_else(wrong)?;
                let numbers: Result<Vec<u32>, _> =
                    inner.split(',').map(|part| part.trim().parse()).collect();
                (name.trim(), numbers.map_err(|_| wrong())?)
            }
        };
        let fraction = |numbers: &[u32], default: u8| match numbers {
            [] => Ok(default),
            [digits @ 0..=9] => Ok(*digits as u8),
            _ => Err(wrong()),
        };
        let kind = match (name, numbers.as_slice()) {
            ("smallint", []) => ColumnKind::SmallInt,
            ("integer" | "int", []) => ColumnKind::Integer,
            ("bigint", []) => ColumnKind::BigInt,
            ("decimal" | "numeric", [precision @ 1..=1000]) => ColumnKind::Decimal {
                precision: *precision as u16,
                scale: 0,
            },
            ("decimal" | "numeric", [precision @ 1..=1000, scale]) if scale <= precision => {
                ColumnKind::Decimal {
                    precision: *precision as u16,
                    scale: *scale as u16,
                }
            }
            ("real" | "float4", []) => ColumnKind::Real,
            ("double" | "double precision" | "float8", []) => ColumnKind::Double,
            ("text" | "varchar" | "char" | "clob", []) => ColumnKind::Text { chars: None },
            ("text" | "varchar" | "char", [chars @ 1..=u32::MAX]) => ColumnKind::Text {
                chars: Some(*chars),
            },
            ("bytes" | "bytea" | "blob" | "varbinary" | "binary", []) => {
                ColumnKind::Bytes { len: None }
            }
            ("bytes" | "varbinary" | "binary", [len @ 1..=u32::MAX]) => {
                ColumnKind::Bytes { len: Some(*len) }
            }
            ("date", []) => ColumnKind::Date,
            ("time", numbers) => ColumnKind::Time {
                digits: fraction(numbers, 0)?,
            },
            ("timestamp" | "datetime", numbers) => ColumnKind::Timestamp {
                digits: fraction(numbers, 6)?,
            },
            _ => return Err(wrong()),
        };
        Ok(kind)
    }
}

impl TryFrom<String> for ColumnKind {
    type Error = String;

    fn try_from(text: String) -> Result<ColumnKind, String> {
        text.parse()
    }
}

impl From<ColumnKind> for String {
    fn from(kind: ColumnKind) -> String {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [&str; 16] = [
        "smallint",
        "integer",
        "bigint",
        "decimal(4,0)",
        "decimal(5,0)",
        "decimal(9,2)",
        "decimal(38,10)",
        "real",
        "double",
        "text",
        "text(10)",
        "bytes(8)",
        "date",
        "time(0)",
        "timestamp(0)",
        "timestamp(9)",
    ];

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for text in KINDS {
            let kind: ColumnKind = text.parse().expect(text);
            assert_eq!(kind.to_string(), text);
        }
        for text in [
            "",
            "decimal",
            "decimal(2,3)",
            "text(0)",
            "time(10)",
            "int(4)",
            "text(3",
            "bytes(-1)",
        ] {
            text.parse::<ColumnKind>().expect_err(text);
        }
    }

    #[test]
    fn what_holds_more_holds_all_values_of_what_holds_less() {
        let kinds: Vec<ColumnKind> = KINDS.iter().map(|text| text.parse().expect(text)).collect();
        let numbers: Vec<Number> = [
            "0",
            "-1.5",
            "99999",
            "32767",
            "32768",
            "9999",
            "10000",
            "2147483648",
            "1234567.89",
        ]
        .iter()
        .map(|text| text.parse().expect(text))
        .collect();
        for &wide in &kinds {
            assert!(wide.holds(wide), "{wide}");
            for &narrow in kinds.iter().filter(|&&narrow| wide.holds(narrow)) {
                for &number in &numbers {
                    let (mut a, mut b) = (String::new(), String::new());
                    if narrow.fit(Value::Number(number), &mut a).is_ok() {
                        wide.fit(Value::Number(number), &mut b)
                            .unwrap_or_else(|error| {
                                panic!("{number} in {wide}, not {narrow}: {error}")
                            });
                    }
                }
            }
        }
        let holds = |wide: &str, narrow: &str| {
            let (wide, narrow): (ColumnKind, ColumnKind) =
                (wide.parse().expect(wide), narrow.parse().expect(narrow));
            wide.holds(narrow)
        };
        assert!(holds("integer", "smallint") && !holds("smallint", "integer"));
        assert!(holds("smallint", "decimal(4,0)") && !holds("smallint", "decimal(5,0)"));
        assert!(holds("decimal(19,0)", "bigint") && !holds("decimal(19,2)", "bigint"));
        assert!(holds("text", "text(10)") && !holds("text(10)", "text"));
        assert!(!holds("text", "integer") && !holds("date", "timestamp(0)"));
    }

    #[test]
    fn a_value_is_as_its_column_holds_it_or_an_error_says_why_not() {
        let fit = |kind: &str, value: Value<'static>| {
            let mut room = String::new();
            let kind: ColumnKind = kind.parse().expect(kind);
            kind.fit(value, &mut room).map(|value| value.to_string())
        };
        let number = |text: &str| Value::Number(text.parse().expect(text));
        assert_eq!(fit("decimal(9,2)", number("1.5")), Ok("1.50".into()));
        assert_eq!(fit("smallint", number("7.00")), Ok("7".into()));
        assert!(fit("smallint", number("7.5")).is_err());
        assert!(fit("smallint", number("40000")).is_err());
        assert!(fit("decimal(3,2)", number("10")).is_err());
        assert_eq!(fit("text", number("-1.50")), Ok("-1.50".into()));
        assert!(fit("text(3)", number("-1.50")).is_err());
        assert_eq!(fit("text(2)", Value::Text("äö")), Ok("äö".into()));
        assert!(fit("text(2)", Value::Text("abc")).is_err());
        assert_eq!(fit("bigint", Value::Text(" 42 ")), Ok("42".into()));
        assert!(fit("bigint", Value::Text("4x2")).is_err());
        assert_eq!(
            fit("date", Value::Text("2026-01-31")),
            Ok("2026-01-31".into())
        );
        assert_eq!(
            fit("time(1)", Value::Text("23:59:59.5")),
            Ok("23:59:59.5".into())
        );
        assert!(fit("time(0)", Value::Text("23:59:59.5")).is_err());
        assert!(fit("date", Value::Bytes(b"x")).is_err());
        assert_eq!(fit("date", Value::Null), Ok(String::new()));
    }
}
