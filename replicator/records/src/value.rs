//! The value of a field, and every way that COBOL programs and their relatives put one into bytes.
//!
//! The modules are pure functions on slices, in both directions: [`zoned`] (DISPLAY), [`packed`] (COMP-3, COMP-6), [`binary`]
//! (COMP, COMP-5, COMP-X), [`float`] (COMP-1, COMP-2, IEEE and IBM), [`text`] and [`code_page`], and [`moment`] (dates and times
//! by a declared form). Nothing here knows of records; [`RecordDecoder`](crate::RecordDecoder) does.
//!
//! **Exact.** A number never passes through floating point. What can't be decoded is a [`Reason`], never a value that looks like
//! one: there is no silent zero. Nothing panics, whatever the bytes are.
//!
//! **Spelling.** Several byte strings may mean one value (a sign nibble C or F, a text with spaces or zero bytes behind it, plus
//! and minus zero). Decoding gives the value; encoding gives one spelling of it, the one that programs write. Who has to keep the
//! others gives the record's former bytes to the encoder, which leaves every field alone that still has the value.
//!
//! All encodings with their bytes, and what is decided where programs differ, are in `docs/field-values.md`.

use std::fmt;

pub mod binary;
pub mod code_page;
pub mod field;
pub mod float;
pub mod moment;
mod number;
pub mod packed;
pub mod text;
pub mod zoned;

pub use field::{Policy, Unset};
pub use moment::{Date, Time, Timestamp};
pub use number::{Number, NumberError};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing: the field was never filled, by the policy for such fields.
    Null,
    /// A number, whole or not, exact.
    Number(Number),
    /// Text, without the padding behind it.
    Text(&'a str),
    /// Bytes that aren't text.
    Bytes(&'a [u8]),
    /// A number of four bytes, binary floating point.
    Float32(f32),
    /// A number of eight bytes, binary floating point.
    Float64(f64),
    /// A day.
    Date(Date),
    /// A time of day.
    Time(Time),
    /// A day and a time of it, of no time zone.
    Timestamp(Timestamp),
}

impl Value<'_> {
    /// Whether two values are the same: unlike with `==`, a NaN is itself, minus zero isn't zero, and 1.0 is 1.00.
    pub fn is(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Float32(a), Value::Float32(b)) => a.to_bits() == b.to_bits(),
            (Value::Float64(a), Value::Float64(b)) => a.to_bits() == b.to_bits(),
            (Value::Number(a), Value::Number(b)) => a.same_number(*b),
            (a, b) => a == b,
        }
    }
}

/// For people: numbers as decimals, times as ISO 8601, bytes in hexadecimal, nothing for NULL.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => Ok(()),
            Value::Number(number) => number.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => Hex(bytes).fmt(f),
            Value::Float32(number) => number.fmt(f),
            Value::Float64(number) => number.fmt(f),
            Value::Date(date) => date.fmt(f),
            Value::Time(time) => time.fmt(f),
            Value::Timestamp(timestamp) => timestamp.fmt(f),
        }
    }
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why bytes aren't a value of their field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// The record ends before the field does; variable records do.
    #[error("the record ends before this field does")]
    PastEnd,
    /// The field was never filled, and the policy doesn't take that for NULL.
    #[error("the field is blank, and by the policy for it that is no NULL")]
    Blank,
    /// A byte (or nibble) that should be a digit.
    #[error("byte {at} of the field is {byte:02X}, which is no digit")]
    Digit {
        /// Which byte of the field, from 0.
        at: usize,
        /// Its value.
        byte: u8,
    },
    /// A byte that should have a sign.
    #[error("byte {at} of the field is {byte:02X}, which has no sign that is known")]
    Sign {
        /// Which byte of the field, from 0.
        at: usize,
        /// Its value.
        byte: u8,
    },
    /// A minus sign where the field has none.
    #[error("the number is negative, but the field is unsigned")]
    Negative,
    /// More digits than the field is declared with.
    #[error("the number has more digits than the field is declared with")]
    Digits,
    /// More than 38 digits.
    #[error("the number has more than 38 digits")]
    TooLong,
    /// A floating-point number outside of what its type holds.
    #[error("the number is outside of what this floating-point type holds")]
    Float,
    /// A byte that isn't a character of the code page.
    #[error("byte {at} of the field is {byte:02X}, which is no character of this code page")]
    Character {
        /// Which byte of the field, from 0.
        at: usize,
        /// Its value.
        byte: u8,
    },
    /// Not a date or time of the declared form, or none that exists.
    #[error("this is no date or time of the declared form")]
    Moment,
    /// A table whose count of elements, which is in another field, can't be known.
    #[error("how many there are says a field that can't be decoded, or has a count out of bounds")]
    Count,
    /// The field's bytes have a length that its type doesn't have.
    #[error("a field of this type doesn't have {0} bytes")]
    Width(usize),
}

/// Why a value can't be put into a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Misfit {
    /// The number has more digits before its decimal point than the field.
    #[error("the number has more digits than the field")]
    Digits,
    /// The number has more decimals than the field.
    #[error("the number has more decimals than the field")]
    Decimals,
    /// A negative number for an unsigned field.
    #[error("the number is negative, but the field is unsigned")]
    Negative,
    /// A floating-point number outside of what the type holds.
    #[error("the number is outside of what this floating-point type holds")]
    Float,
    /// The text takes more bytes than the field has.
    #[error("it takes {needed} bytes, but the field has {len}")]
    Length {
        /// Bytes it takes.
        needed: usize,
        /// Bytes there are.
        len: usize,
    },
    /// A character that the code page doesn't have.
    #[error("the character {0:?} isn't in this code page")]
    Character(char),
    /// The form that is declared for the date or time has no place for this one.
    #[error("the declared form of dates or times can't hold this one")]
    Moment,
    /// A value of another kind than the field's.
    #[error("a {given} is no value for a field of {wanted}")]
    Kind {
        /// What was given.
        given: &'static str,
        /// What the field takes.
        wanted: &'static str,
    },
    /// NULL, where no bytes mean it.
    #[error("no bytes of this field mean NULL")]
    Null,
    /// The field's bytes have a length that its type doesn't have.
    #[error("a field of this type doesn't have {0} bytes")]
    Width(usize),
}

impl Value<'_> {
    /// What kind of value it is, for messages: `number`, `text` and so on.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "NULL",
            Value::Number(_) => "number",
            Value::Text(_) => "text",
            Value::Bytes(_) => "row of bytes",
            Value::Float32(_) | Value::Float64(_) => "floating-point number",
            Value::Date(_) => "date",
            Value::Time(_) => "time",
            Value::Timestamp(_) => "timestamp",
        }
    }
}
