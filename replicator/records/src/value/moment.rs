//! Dates and times: digits or characters of a field whose form is declared ([`DateFormat`]).
//!
//! Only days and times that exist are values, by the Gregorian calendar, years 1 to 9999. There are no time zones and no leap
//! seconds. A form that has fewer parts than a value (`HHMI`, of a time with seconds) can't hold all of them; writing one that
//! doesn't fit is an error, never a loss.

use super::{Misfit, Reason, Value};
use crate::schema::{DateFormat, DateKind, DatePart};
use std::fmt;
use std::str::FromStr;

/// A day that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// A time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    hour: u8,
    minute: u8,
    second: u8,
    nanos: u32,
}

/// A day and a time of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// The day.
    pub date: Date,
    /// The time.
    pub time: Time,
}

/// A text that is no such date or time in ISO 8601.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no date as 2026-01-31, time as 23:59:59, or both with a T or space between")]
pub struct MomentError;

/// Digits of nanoseconds.
const NANOS_DIGITS: u32 = 9;

impl Date {
    /// The day, if there is one.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Date> {
        let exists = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day);
        exists.then_some(Date { year, month, day })
    }

    /// The day with this number in its year, from 1.
    pub fn of_year(year: u16, number: u16) -> Option<Date> {
        let mut left = number;
        for month in 1..=12 {
            let days = u16::from(days_of(year, month));
            if left <= days {
                return Date::new(year, month, left.try_into().ok()?);
            }
            left -= days;
        }
        None
    }

    /// 1 to 9999.
    pub fn year(self) -> u16 {
        self.year
    }

    /// 1 to 12.
    pub fn month(self) -> u8 {
        self.month
    }

    /// Day of the month, 1 to 31.
    pub fn day(self) -> u8 {
        self.day
    }

    /// Day of the year, 1 to 366.
    pub fn day_of_year(self) -> u16 {
        (1..self.month)
            .map(|month| u16::from(days_of(self.year, month)))
            .sum::<u16>()
            + u16::from(self.day)
    }

    /// Days since 1970-01-01.
    pub fn days_since_1970(self) -> i32 {
        // Years begin in March, so that the leap day is the last.
        let (year, month) = (i32::from(self.year), i32::from(self.month));
        let (y, m) = (year - i32::from(month <= 2), (month + 9) % 12);
        365 * y + y.div_euclid(4) - y.div_euclid(100)
            + y.div_euclid(400)
            + (153 * m + 2) / 5
            + i32::from(self.day)
            - 1
            - 719_468
    }
}

fn days_of(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        _ => 31,
    }
}

impl Time {
    /// The time, if there is one; `nanos` are of the second.
    pub fn new(hour: u8, minute: u8, second: u8, nanos: u32) -> Option<Time> {
        let exists = hour < 24 && minute < 60 && second < 60 && nanos < 1_000_000_000;
        exists.then_some(Time {
            hour,
            minute,
            second,
            nanos,
        })
    }

    /// 0 to 23.
    pub fn hour(self) -> u8 {
        self.hour
    }

    /// 0 to 59.
    pub fn minute(self) -> u8 {
        self.minute
    }

    /// 0 to 59.
    pub fn second(self) -> u8 {
        self.second
    }

    /// Of the second, 0 to 999,999,999.
    pub fn nanos(self) -> u32 {
        self.nanos
    }
}

/// `2026-01-31`.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// `23:59:59`, and as many decimals as it takes.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.hour, self.minute, self.second)?;
        if self.nanos == 0 {
            return Ok(());
        }
        let digits = format!("{:09}", self.nanos);
        write!(f, ".{}", digits.trim_end_matches('0'))
    }
}

/// `2026-01-31T23:59:59`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{}", self.date, self.time)
    }
}

fn digits(text: &str, len: usize) -> Option<u16> {
    (text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn small(text: &str) -> Option<u8> {
    digits(text, 2)?.try_into().ok()
}

impl FromStr for Date {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Date, MomentError> {
        let mut parts = text.split('-');
        let mut next = || parts.next().unwrap_or_default();
        let (year, month, day) = (digits(next(), 4), small(next()), small(next()));
        let date = year
            .zip(month)
            .zip(day)
            .and_then(|((year, month), day)| Date::new(year, month, day));
        date.filter(|_| parts.next().is_none()).ok_or(MomentError)
    }
}

impl FromStr for Time {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Time, MomentError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let mut parts = whole.split(':');
        let mut next = || parts.next();
        let (hour, minute) = (next().and_then(small), next().and_then(small));
        let second = next().map_or(Some(0), small);
        let is_fraction = (1..=NANOS_DIGITS as usize).contains(&fraction.len())
            && fraction.bytes().all(|byte| byte.is_ascii_digit());
        let nanos = is_fraction
            .then(|| format!("{fraction:0<9}").parse().ok())
            .flatten();
        let time = hour
            .zip(minute)
            .zip(second.zip(nanos))
            .and_then(|((hour, minute), (second, nanos))| Time::new(hour, minute, second, nanos));
        time.filter(|_| parts.next().is_none()).ok_or(MomentError)
    }
}

impl FromStr for Timestamp {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Timestamp, MomentError> {
        let (date, time) = text.split_once(['T', ' ']).ok_or(MomentError)?;
        Ok(Timestamp {
            date: date.parse()?,
            time: time.parse()?,
        })
    }
}

/// The date or time in ASCII characters of the declared form, as many as the form has.
pub fn decode(text: &[u8], format: &DateFormat) -> Result<Value<'static>, Reason> {
    read(text, format).ok_or(Reason::Moment)
}

fn read(text: &[u8], format: &DateFormat) -> Option<Value<'static>> {
    let (mut year, mut century, mut month, mut day, mut of_year) = (0, None, 0, 0, None);
    let (mut hour, mut minute, mut second, mut nanos) = (0, 0, 0, 0);
    let mut rest = text;
    for part in format.parts() {
        let (own, behind) = rest.split_at_checked(part.chars())?;
        rest = behind;
        if let DatePart::Literal(char) = part {
            if *own != [u8::try_from(*char).ok()?] {
                return None;
            }
            continue;
        }
        let mut number: u32 = 0;
        for byte in own {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            // At most nine digits.
            number = number.wrapping_mul(10).wrapping_add(digit.into());
        }
        // At most four digits where it isn't a fraction.
        let (byte, short) = (number as u8, number as u16);
        match part {
            DatePart::Year4 => year = short,
            DatePart::Year2 => year = short,
            DatePart::Century => century = Some(short),
            DatePart::Month => month = byte,
            DatePart::Day => day = byte,
            DatePart::DayOfYear => of_year = Some(short),
            DatePart::Hour => hour = byte,
            DatePart::Minute => minute = byte,
            DatePart::Second => second = byte,
            DatePart::Fraction(len) => {
                nanos = number * 10_u32.pow(NANOS_DIGITS.checked_sub((*len).into())?);
            }
            DatePart::Literal(_) => {}
        }
    }
    if !rest.is_empty() {
        return None;
    }
    if format.parts().contains(&DatePart::Year2) {
        year = match century {
            Some(century) => 1900 + 100 * century + year,
            None => format.year_of_two_digits(year),
        };
    }
    let date = || match of_year {
        Some(number) => Date::of_year(year, number),
        None => Date::new(year, month, day),
    };
    let time = || Time::new(hour, minute, second, nanos);
    Some(match format.kind() {
        DateKind::Date => Value::Date(date()?),
        DateKind::Time => Value::Time(time()?),
        DateKind::Timestamp => Value::Timestamp(Timestamp {
            date: date()?,
            time: time()?,
        }),
    })
}

/// Writes a date or time in the declared form, as ASCII characters. On an error `out` is as before.
pub fn encode(value: &Value<'_>, format: &DateFormat, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let misfit = |wanted| Misfit::Kind {
        given: value.kind(),
        wanted,
    };
    let (date, time) = match (format.kind(), value) {
        (DateKind::Date, Value::Date(date)) => (Some(*date), Time::default()),
        (DateKind::Time, Value::Time(time)) => (None, *time),
        (DateKind::Timestamp, Value::Timestamp(both)) => (Some(both.date), both.time),
        (DateKind::Date, _) => return Err(misfit("a date")),
        (DateKind::Time, _) => return Err(misfit("a time")),
        (DateKind::Timestamp, _) => return Err(misfit("a timestamp")),
    };
    let begin = out.len();
    let year = date.map_or(0, Date::year);
    for part in format.parts() {
        let (number, width): (u32, usize) = match part {
            DatePart::Year4 => (year.into(), 4),
            DatePart::Year2 => ((year % 100).into(), 2),
            // A wrong one is found when it is read again.
            DatePart::Century => ((year.saturating_sub(1900) / 100 % 10).into(), 1),
            DatePart::Month => (date.map_or(0, Date::month).into(), 2),
            DatePart::Day => (date.map_or(0, Date::day).into(), 2),
            DatePart::DayOfYear => (date.map_or(0, Date::day_of_year).into(), 3),
            DatePart::Hour => (time.hour.into(), 2),
            DatePart::Minute => (time.minute.into(), 2),
            DatePart::Second => (time.second.into(), 2),
            DatePart::Fraction(len) => {
                let power = NANOS_DIGITS.saturating_sub((*len).into());
                (time.nanos / 10_u32.pow(power), (*len).into())
            }
            DatePart::Literal(char) => {
                out.push(u8::try_from(*char).map_err(|_| Misfit::Character(*char))?);
                continue;
            }
        };
        out.extend_from_slice(format!("{number:0width$}").as_bytes());
    }
    // A form without seconds, or with a year of two digits, doesn't hold every value.
    if read(&out[begin..], format).is_some_and(|again| again == *value) {
        return Ok(());
    }
    out.truncate(begin);
    Err(Misfit::Moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(pattern: &str) -> DateFormat {
        pattern.parse().expect("a form")
    }

    fn read_as(text: &str, pattern: &str) -> Result<String, Reason> {
        decode(text.as_bytes(), &form(pattern)).map(|value| value.to_string())
    }

    #[test]
    fn forms_of_the_field() {
        for (text, pattern, value) in [
            ("20240229", "YYYYMMDD", "2024-02-29"),
            ("691231", "YYMMDD", "2069-12-31"),
            ("391231", "YYMMDD from 1940", "2039-12-31"),
            ("400101", "YYMMDD from 1940", "1940-01-01"),
            ("99001", "yyddd FROM 1900", "1999-01-01"),
            ("00001", "YYDDD from 2000", "2000-01-01"),
            ("700101", "YYMMDD", "1970-01-01"),
            ("1240229", "CYYMMDD", "2024-02-29"),
            ("2024366", "YYYYDDD", "2024-12-31"),
            ("24060", "YYDDD", "2024-02-29"),
            ("2022-06-10", "YYYY-MM-DD", "2022-06-10"),
            ("10/06/2022", "DD/MM/YYYY", "2022-06-10"),
            ("235959", "HHMISS", "23:59:59"),
            ("2359", "HHMM", "23:59:00"),
            (
                "2022-06-10 19:27:53.000000",
                "YYYY-MM-DD HH:MI:SS.FFFFFF",
                "2022-06-10T19:27:53",
            ),
            (
                "2022-06-10-19.27.53.120000",
                "YYYY-MM-DD-HH.MI.SS.FFFFFF",
                "2022-06-10T19:27:53.12",
            ),
        ] {
            assert_eq!(read_as(text, pattern), Ok(value.to_owned()), "{pattern}");
            let read = decode(text.as_bytes(), &form(pattern)).expect("it was read");
            let mut out = Vec::new();
            encode(&read, &form(pattern), &mut out).expect("it was read so");
            assert_eq!(out, text.as_bytes());
        }
        for (text, pattern) in [
            ("20230229", "YYYYMMDD"),
            ("00000000", "YYYYMMDD"),
            ("20231301", "YYYYMMDD"),
            ("2023010", "YYYYMMDD"),
            ("202301011", "YYYYMMDD"),
            ("2023 101", "YYYYMMDD"),
            ("2023366", "YYYYDDD"),
            ("2023000", "YYYYDDD"),
            ("240000", "HHMISS"),
            ("2022/06-10", "YYYY-MM-DD"),
        ] {
            assert_eq!(read_as(text, pattern), Err(Reason::Moment), "{text}");
        }
    }

    #[test]
    fn what_a_form_can_t_hold_is_refused() {
        let mut out = b"before".to_vec();
        let time = Value::Time("12:30:01".parse().expect("a time"));
        assert_eq!(encode(&time, &form("HHMI"), &mut out), Err(Misfit::Moment));
        let date = Value::Date("1969-12-31".parse().expect("a date"));
        assert_eq!(
            encode(&date, &form("YYMMDD"), &mut out),
            Err(Misfit::Moment)
        );
        assert_eq!(encode(&date, &form("CYYMMDD"), &mut out), Ok(()));
        assert!(matches!(
            encode(&date, &form("HHMI"), &mut out),
            Err(Misfit::Kind { .. })
        ));
        assert_eq!(out, b"before0691231");
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        for (date, days) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-03-01", 11_017),
            ("0001-01-01", -719_162),
            ("9999-12-31", 2_932_896),
        ] {
            let date: Date = date.parse().expect("a date");
            assert_eq!(date.days_since_1970(), days);
        }
    }

    proptest! {
        #[test]
        fn moments_come_back(year in 1_u16..=9999, number in 1_u16..=366, seconds in 0_u32..86_400, nanos in 0_u32..1_000_000_000) {
            let date = Date::of_year(year, number);
            prop_assume!(date.is_some());
            let date = date.expect("it was asked");
            prop_assert_eq!(date.day_of_year(), number);
            let byte = |number: u32| number as u8;
            let time = Time::new(byte(seconds / 3600), byte(seconds / 60 % 60), byte(seconds % 60), nanos).expect("it is within a day");
            let both = Timestamp { date, time };
            prop_assert_eq!(both.to_string().parse(), Ok(both));
            for pattern in ["YYYY-MM-DD HH:MI:SS.FFFFFFFFF", "YYYYDDDHHMISSFFFFFFFFF"] {
                let mut out = Vec::new();
                prop_assert_eq!(encode(&Value::Timestamp(both), &form(pattern), &mut out), Ok(()));
                prop_assert_eq!(decode(&out, &form(pattern)), Ok(Value::Timestamp(both)));
            }
        }

        #[test]
        fn any_bytes_are_a_moment_or_a_reason(bytes: Vec<u8>) {
            let _ = decode(&bytes, &form("CYYMMDDHHMISSFF"));
        }
    }
}
