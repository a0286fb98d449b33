//! What sinks of SQL databases have in common, whatever the database.

use crate::{FileKind, SinkError};
use counterfoil_records::RecordFormat;
use serde_json::{Map, Value};
#[cfg(any(feature = "odbc", feature = "postgres", feature = "sqlite"))]
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// Something that no retry mends.
pub(crate) fn permanent(
    doing: impl Into<String>,
    cause: impl Into<String>,
    next: impl Into<String>,
) -> SinkError {
    SinkError::Permanent {
        doing: doing.into(),
        cause: cause.into(),
        next: next.into(),
    }
}

/// A name as standard SQL wants it, whatever is in it. (MySQL has quotes of its own, and numbers without a sign.)
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An identity, size or position as databases hold it: a number above [`i64::MAX`] is refused.
#[cfg(any(feature = "odbc", feature = "postgres", feature = "sqlite"))]
pub(crate) fn integer(
    number: u64,
    database: &str,
    what: impl FnOnce() -> String,
) -> Result<i64, SinkError> {
    i64::try_from(number).map_err(|_| {
        permanent(
            what(),
            format!(
                "{number} is more than {database}'s integers hold ({})",
                i64::MAX
            ),
            "leave the file out of this sink, or use one with 64-bit unsigned numbers",
        )
    })
}

/// A number that was stored from an unsigned one. (Somebody else's negative number counts as 0.)
#[cfg(any(feature = "odbc", feature = "postgres", feature = "sqlite"))]
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A range of identities to read, like [`bounds`]; from the first on, negative ones are in it too: that one is damaged is
/// told when it is read.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn readable(range: &Range<u64>) -> Option<(i64, i64)> {
    let (first, last) = bounds(range)?;
    Some(if first == 0 {
        (i64::MIN, last)
    } else {
        (first, last)
    })
}

/// A range of identities to clear as databases hold them: the first, and the last, which is included. `None`: nothing in
/// it is in what they hold.
#[cfg(any(feature = "odbc", feature = "postgres", feature = "sqlite"))]
pub(crate) fn bounds(range: &Range<u64>) -> Option<(i64, i64)> {
    let begin = i64::try_from(range.start).ok()?;
    let last = i64::try_from(range.end).map_or(i64::MAX, |end| end - 1);
    (begin <= last).then_some((begin, last))
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A moment, given in nanoseconds since 1970: date and time in UTC, to the microsecond.
#[cfg(any(feature = "mysql", feature = "odbc"))]
pub(crate) fn utc_micros(ns: i64) -> String {
    let micros = ns.div_euclid(1000);
    let (days, of_day) = (
        micros.div_euclid(86_400_000_000),
        micros.rem_euclid(86_400_000_000),
    );
    let (year, month, day) = day_of(days);
    let seconds = of_day / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        of_day % 1_000_000
    )
}

/// The year, month and day that is so many days after the first of 1970. (What 64 bits of nanoseconds hold is in the years
/// 1677 to 2262.)
#[cfg(any(feature = "mysql", feature = "odbc"))]
fn day_of(days: i64) -> (i64, i64, i64) {
    // Years begin in March, so that the leap day is the last of its year, and 400 of them are alike.
    let from_0000 = days + 719_468;
    let (era, day) = (from_0000.div_euclid(146_097), from_0000.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + next, month, day)
}

/// A kind of file by the name that stands in tables.
pub(crate) fn kind_named(name: &str) -> Option<FileKind> {
    FileKind::ALL.into_iter().find(|kind| kind.name() == name)
}

/// A format as a catalogue has it: the words that a configuration uses.
pub(crate) struct FormatWords {
    pub(crate) organization: String,
    pub(crate) layout: String,
    pub(crate) record_size: Option<i64>,
    pub(crate) varseq_format: Option<i64>,
}

impl FormatWords {
    /// The words of a format.
    pub(crate) fn of(format: &RecordFormat) -> Result<FormatWords, SinkError> {
        let fault = |cause: String| {
            permanent(
                "describing a record format",
                cause,
                "report this: it is a fault of Counterfoil",
            )
        };
        let value = serde_json::to_value(format).map_err(|error| fault(error.to_string()))?;
        let word = |key: &str| match value.get(key) {
            Some(Value::String(word)) => Ok(word.clone()),
            _ => Err(fault(format!("it has no {key}"))),
        };
        let number = |key: &str| value.get(key).and_then(Value::as_i64);
        Ok(FormatWords {
            organization: word("organization")?,
            layout: word("layout")?,
            record_size: number("record_size"),
            varseq_format: number("varseq_format"),
        })
    }

    /// The format that these words are of; `whose` is the file's, for the error.
    pub(crate) fn format(self, whose: impl FnOnce() -> String) -> Result<RecordFormat, SinkError> {
        let mut words = Map::new();
        words.insert("organization".into(), self.organization.into());
        words.insert("layout".into(), self.layout.into());
        for (key, number) in [
            ("record_size", self.record_size),
            ("varseq_format", self.varseq_format),
        ] {
            if let Some(number) = number {
                words.insert(key.into(), number.into());
            }
        }
        serde_json::from_value(Value::Object(words)).map_err(|error| {
            permanent(
                whose(),
                format!("its record format is unknown: {error}"),
                "use the version of Counterfoil that wrote it, or a later one",
            )
        })
    }
}
