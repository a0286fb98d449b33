//! A field's bytes to its value and back, by its [`FieldType`].

use super::{Misfit, Number, Reason, Value, binary, float, moment, packed, text, zoned};
use crate::schema::{Absent, BinaryRange, Decimal, Endian, FieldType, NationalEncoding};
use std::borrow::Cow;

/// What becomes of fields that programs leave without a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Numbers (and dates in them) whose bytes are all spaces, all zero (LOW-VALUES) or all FF (HIGH-VALUES), where that is no
    /// number.
    pub blank: Unset,
    /// Dates and times that are spaces, all zeros or all nines.
    pub no_date: Unset,
}

/// What a field without a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unset {
    /// NULL, and nothing is wrong.
    #[default]
    Null,
    /// Not decodable.
    Error,
}

impl Unset {
    fn value(self) -> Result<Value<'static>, Reason> {
        match self {
            Unset::Null => Ok(Value::Null),
            Unset::Error => Err(Reason::Blank),
        }
    }
}

/// The value in the bytes of a field. `room` is for text that has to be put together; its content is lost.
pub fn decode<'a>(
    bytes: &'a [u8],
    field: &FieldType,
    policy: Policy,
    room: &'a mut String,
) -> Result<Value<'a>, Reason> {
    let decoded = match field {
        FieldType::Text {
            code_page, right, ..
        } => return text::decode(bytes, *code_page, *right, room).map(Value::Text),
        FieldType::Edited { code_page, .. } => {
            return text::decode(bytes, *code_page, false, room).map(Value::Text);
        }
        FieldType::National { encoding, .. } => {
            let endian = match encoding {
                NationalEncoding::Utf16Be => Endian::Big,
                NationalEncoding::Utf16Le => Endian::Little,
                NationalEncoding::Dbcs => return Ok(Value::Bytes(bytes)),
            };
            return text::decode_utf16(bytes, endian, room).map(Value::Text);
        }
        FieldType::Raw { .. } => return Ok(Value::Bytes(bytes)),
        FieldType::Float {
            bytes: 4,
            format,
            endian,
        } => return float::decode32(bytes, *format, *endian).map(Value::Float32),
        FieldType::Float { format, endian, .. } => {
            return float::decode64(bytes, *format, *endian).map(Value::Float64);
        }
        FieldType::DateTime { carrier, format } => {
            return decode_moment(bytes, carrier, format, policy, room);
        }
        FieldType::Zoned {
            number,
            sign,
            zones,
            ..
        } => zoned::decode(bytes, *sign, *zones).and_then(|unscaled| scaled(unscaled, *number)),
        FieldType::Packed {
            number,
            signed,
            sign_nibble,
        } => packed::decode(
            bytes,
            number.digits.into(),
            packed_sign(*signed, *sign_nibble),
        )
        .and_then(|unscaled| scaled(unscaled, *number)),
        FieldType::Binary {
            number,
            signed,
            endian,
            range,
            ..
        } => binary::decode(bytes, *endian, *signed).and_then(|unscaled| {
            if *range == BinaryRange::Picture
                && !zoned::fits(unscaled.unsigned_abs(), number.digits.into())
            {
                return Err(Reason::Digits);
            }
            scaled(unscaled, *number)
        }),
    };
    match decoded {
        Ok(number) => Ok(Value::Number(number)),
        Err(reason) => unfilled(bytes, field, policy, reason),
    }
}

/// The same, but for what is said of this field's bytes that are no value.
pub fn decode_or_absent<'a>(
    bytes: &'a [u8],
    field: &FieldType,
    absent: &Absent,
    policy: Policy,
    room: &'a mut String,
) -> Result<Value<'a>, Reason> {
    if absent.is_default() {
        return decode(bytes, field, policy, room);
    }
    let policy = match absent.blank {
        None => policy,
        Some(blank) => Policy {
            blank,
            no_date: blank,
        },
    };
    if !absent.values.is_empty() {
        // A date's placeholder may be no date.
        let written = decode(bytes, carrier(field), Policy::default(), room);
        if written.is_ok_and(|value| absent.is_placeholder(&value)) {
            return Ok(Value::Null);
        }
    }
    match decode(bytes, field, policy, room) {
        Err(reason) if reason != Reason::Blank && absent.invalid == Some(Unset::Null) => {
            Ok(Value::Null)
        }
        decoded => decoded,
    }
}

/// What holds a date's characters, or the field itself.
fn carrier(field: &FieldType) -> &FieldType {
    match field {
        FieldType::DateTime { carrier, .. } => carrier,
        other => other,
    }
}

/// Puts a value into the bytes of a field; NULL as its first placeholder, if it has one. On an error they are as before.
pub fn encode_or_absent(
    value: &Value<'_>,
    field: &FieldType,
    absent: &Absent,
    out: &mut [u8],
) -> Result<(), Misfit> {
    match (value, absent.values.first()) {
        (Value::Null, Some(placeholder)) => encode_placeholder(placeholder, field, out),
        _ => encode(value, field, out),
    }
}

/// Puts what stands for no value into the bytes of a field: text or a number, whatever the field's own form is.
pub(crate) fn encode_placeholder(
    written: &str,
    field: &FieldType,
    out: &mut [u8],
) -> Result<(), Misfit> {
    let field = carrier(field);
    match field.decimal() {
        // Blank bytes are the policy's.
        Some(_) if written.trim().is_empty() => encode(&Value::Null, field, out),
        Some(_) => {
            let number = written.trim().parse().map_err(|_| Misfit::Kind {
                given: "text",
                wanted: "numbers",
            })?;
            encode(&Value::Number(number), field, out)
        }
        None => encode(&Value::Text(written), field, out),
    }
}

pub(crate) fn packed_sign(signed: bool, sign_nibble: bool) -> packed::Sign {
    match (sign_nibble, signed) {
        (false, _) => packed::Sign::Absent,
        (true, true) => packed::Sign::Signed,
        (true, false) => packed::Sign::Unsigned,
    }
}

#[inline]
fn scaled(unscaled: i128, number: Decimal) -> Result<Number, Reason> {
    Number::new(unscaled, number.scale).ok_or(Reason::TooLong)
}

/// What a field is that has no number in it: blank, or undecodable for the reason.
#[cold]
pub(crate) fn unfilled(
    bytes: &[u8],
    field: &FieldType,
    policy: Policy,
    reason: Reason,
) -> Result<Value<'static>, Reason> {
    let all = |wanted: u8| bytes.iter().all(|&byte| byte == wanted);
    if let FieldType::Zoned {
        number,
        zones,
        blank_when_zero: true,
        ..
    } = field
        && all(zoned::space(*zones))
    {
        return scaled(0, *number).map(Value::Number);
    }
    let has_blanks = matches!(
        field,
        FieldType::Zoned { .. }
            | FieldType::Packed {
                sign_nibble: true,
                ..
            }
    );
    if has_blanks && [b' ', 0x40, 0x00, 0xFF].into_iter().any(all) {
        policy.blank.value()
    } else {
        Err(reason)
    }
}

fn decode_moment<'a>(
    bytes: &'a [u8],
    carrier: &FieldType,
    format: &crate::schema::DateFormat,
    policy: Policy,
    room: &'a mut String,
) -> Result<Value<'a>, Reason> {
    let chars: Cow<'_, [u8]> = match decode(bytes, carrier, policy, room)? {
        Value::Null => return policy.no_date.value(),
        Value::Text("") => return policy.no_date.value(),
        Value::Text(text) => text.as_bytes().into(),
        Value::Number(number) => {
            let (len, unscaled) = (format.chars(), number.unscaled());
            if unscaled < 0 || number.scale() != 0 {
                return Err(Reason::Moment);
            }
            format!("{unscaled:0len$}").into_bytes().into()
        }
        _ => return Err(Reason::Moment),
    };
    match moment::decode(&chars, format) {
        Ok(value) => Ok(value),
        Err(_)
            if [b'0', b'9', 0]
                .iter()
                .any(|it| chars.iter().all(|char| char == it)) =>
        {
            policy.no_date.value()
        }
        Err(reason) => Err(reason),
    }
}

/// Puts a value into the bytes of a field, in the spelling that programs write. On an error they are as before.
pub fn encode(value: &Value<'_>, field: &FieldType, out: &mut [u8]) -> Result<(), Misfit> {
    let kind = |wanted| {
        Err(Misfit::Kind {
            given: value.kind(),
            wanted,
        })
    };
    match (field, value) {
        (
            FieldType::Text { code_page, .. } | FieldType::Edited { code_page, .. },
            Value::Text(_) | Value::Null,
        ) => {
            let right = matches!(field, FieldType::Text { right: true, .. });
            text::encode(as_text(value), *code_page, right, out)
        }
        (FieldType::Text { .. } | FieldType::Edited { .. }, _) => kind("text"),
        (FieldType::National { encoding, .. }, Value::Text(_) | Value::Null)
            if *encoding != NationalEncoding::Dbcs =>
        {
            let endian = match encoding {
                NationalEncoding::Utf16Le => Endian::Little,
                NationalEncoding::Utf16Be | NationalEncoding::Dbcs => Endian::Big,
            };
            text::encode_utf16(as_text(value), endian, out)
        }
        (FieldType::National { encoding, .. }, _) if *encoding != NationalEncoding::Dbcs => {
            kind("text")
        }
        (FieldType::Raw { .. } | FieldType::National { .. }, Value::Bytes(bytes)) => {
            let (needed, len) = (bytes.len(), out.len());
            if needed != len {
                return Err(Misfit::Length { needed, len });
            }
            out.copy_from_slice(bytes);
            Ok(())
        }
        (FieldType::Raw { .. } | FieldType::National { .. }, _) => kind("bytes"),
        (
            FieldType::Float {
                bytes: 4,
                format,
                endian,
            },
            Value::Float32(number),
        ) => float::encode32(*number, *format, *endian, out),
        (FieldType::Float { format, endian, .. }, Value::Float64(number)) if out.len() == 8 => {
            float::encode64(*number, *format, *endian, out)
        }
        (FieldType::Float { bytes: 4, .. }, _) => kind("floating point of four bytes"),
        (FieldType::Float { .. }, _) => kind("floating point of eight bytes"),
        (FieldType::DateTime { carrier, format }, _) => encode_moment(value, carrier, format, out),
        (FieldType::Zoned { zones, .. }, Value::Null) => {
            out.fill(zoned::space(*zones));
            Ok(())
        }
        (
            FieldType::Packed {
                sign_nibble: true, ..
            },
            Value::Null,
        ) => {
            out.fill(0);
            Ok(())
        }
        (FieldType::Packed { .. } | FieldType::Binary { .. }, Value::Null) => Err(Misfit::Null),
        (
            FieldType::Zoned { number, .. }
            | FieldType::Packed { number, .. }
            | FieldType::Binary { number, .. },
            Value::Number(given),
        ) => encode_number(unscaled(*given, number.scale)?, field, out),
        (FieldType::Zoned { .. } | FieldType::Packed { .. } | FieldType::Binary { .. }, _) => {
            kind("numbers")
        }
    }
}

fn as_text<'a>(value: &Value<'a>) -> &'a str {
    match value {
        Value::Text(text) => text,
        _ => "",
    }
}

/// The digits of a number in the field's scale.
fn unscaled(number: Number, scale: i16) -> Result<i128, Misfit> {
    match number.rescaled(scale) {
        Some(number) => Ok(number.unscaled()),
        None if number.scale() > scale => Err(Misfit::Decimals),
        None => Err(Misfit::Digits),
    }
}

fn encode_number(unscaled: i128, field: &FieldType, out: &mut [u8]) -> Result<(), Misfit> {
    match field {
        FieldType::Zoned {
            zones,
            blank_when_zero: true,
            ..
        } if unscaled == 0 => {
            out.fill(zoned::space(*zones));
            Ok(())
        }
        FieldType::Zoned { sign, zones, .. } => zoned::encode(unscaled, *sign, *zones, out),
        FieldType::Packed {
            number,
            signed,
            sign_nibble,
        } => {
            let sign = packed_sign(*signed, *sign_nibble);
            packed::encode(unscaled, number.digits.into(), sign, out)
        }
        FieldType::Binary {
            number,
            signed,
            endian,
            range,
            ..
        } => {
            if *range == BinaryRange::Picture
                && !zoned::fits(unscaled.unsigned_abs(), number.digits.into())
            {
                return Err(Misfit::Digits);
            }
            binary::encode(unscaled, *endian, *signed, out)
        }
        _ => Err(Misfit::Kind {
            given: "number",
            wanted: "another type",
        }),
    }
}

fn encode_moment(
    value: &Value<'_>,
    carrier: &FieldType,
    format: &crate::schema::DateFormat,
    out: &mut [u8],
) -> Result<(), Misfit> {
    if matches!(value, Value::Null) {
        // Numbers have no other spelling of no date, text has spaces.
        return match carrier.decimal() {
            Some(_) => encode_number(0, carrier, out),
            None => encode(value, carrier, out),
        };
    }
    let mut chars = Vec::new();
    moment::encode(value, format, &mut chars)?;
    let text = std::str::from_utf8(&chars).unwrap_or_default();
    match carrier.decimal() {
        Some(_) => {
            let number: Number = text.parse().map_err(|_| Misfit::Moment)?;
            encode_number(number.unscaled(), carrier, out)
        }
        None => encode(&Value::Text(text), carrier, out),
    }
}
