//! Values as PostgreSQL has them on the wire: each behind its length, in a row of a binary `COPY` and in an array alike.

use super::table::{Column, base_type, wire_type};
use crate::plan::ColumnKind;
use bytes::{BufMut as _, BytesMut};
use counterfoil_records::value::{Date, Number, Time, Value};
use std::error::Error;
use std::fmt::Write as _;
use tokio_postgres::types::{IsNull, ToSql, Type};

/// Days from 1970 to 2000, which is where PostgreSQL begins to count.
const DAYS_TO_2000: i32 = 10_957;

const DAY_US: i64 = 86_400_000_000;

/// A value that its column doesn't take: its kind, and the column's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit(pub(super) &'static str, pub(super) ColumnKind);

/// Writes a value for a column of this kind.
pub(super) fn put(kind: ColumnKind, value: &Value<'_>, out: &mut BytesMut) -> Result<(), Misfit> {
    let misfit = || Misfit(value.kind(), kind);
    let number = |number: &Number| number.to_i64().ok_or_else(misfit);
    match (base_type(kind), value) {
        (_, Value::Null) => put_null(out),
        ("smallint", Value::Number(n)) => {
            let small = i16::try_from(number(n)?).map_err(|_| misfit())?;
            out.put_i32(2);
            out.put_i16(small);
        }
        ("integer", Value::Number(n)) => {
            let small = i32::try_from(number(n)?).map_err(|_| misfit())?;
            out.put_i32(4);
            out.put_i32(small);
        }
        ("bigint", Value::Number(n)) => put_i64(number(n)?, out),
        ("numeric", Value::Number(n)) => put_numeric(*n, out),
        ("real", Value::Float32(n)) => {
            out.put_i32(4);
            out.put_f32(*n);
        }
        ("double precision", Value::Float64(n)) => {
            out.put_i32(8);
            out.put_f64(*n);
        }
        ("double precision", Value::Float32(n)) => {
            out.put_i32(8);
            out.put_f64(f64::from(*n));
        }
        ("bytea", Value::Bytes(bytes)) => put_bytes(bytes, out),
        ("text", Value::Text(text)) => put_bytes(text.as_bytes(), out),
        ("date", Value::Date(date)) => {
            out.put_i32(4);
            out.put_i32(days(*date));
        }
        ("time", Value::Time(time)) => put_i64(micros(*time), out),
        ("timestamp", Value::Timestamp(moment)) => {
            let day = i64::from(days(moment.date)) * DAY_US;
            put_i64(day + micros(moment.time), out);
        }
        // Fractions of a second that only text holds.
        ("text", Value::Time(_) | Value::Timestamp(_)) => {
            let mut text = String::new();
            // Writing to a String fails never.
            let _ = write!(text, "{value}");
            put_bytes(text.as_bytes(), out);
        }
        _ => return Err(misfit()),
    }
    Ok(())
}

pub(super) fn put_null(out: &mut BytesMut) {
    out.put_i32(-1);
}

pub(super) fn put_i64(number: i64, out: &mut BytesMut) {
    out.put_i32(8);
    out.put_i64(number);
}

/// Bytes or text, no more than a value has at most.
pub(super) fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    out.put_slice(bytes);
}

/// Nanoseconds since 1970 as a timestamp: microseconds since 2000, cut.
pub(super) fn timestamp(ns: i64) -> i64 {
    ns.div_euclid(1000) - i64::from(DAYS_TO_2000) * DAY_US
}

fn days(date: Date) -> i32 {
    date.days_since_1970() - DAYS_TO_2000
}

fn micros(time: Time) -> i64 {
    let seconds =
        (i64::from(time.hour()) * 60 + i64::from(time.minute())) * 60 + i64::from(time.second());
    seconds * 1_000_000 + i64::from(time.nanos() / 1000)
}

/// A `numeric`: its sign, its decimals, and groups of four digits that count from the decimal point in both directions.
/// Groups of zeros at either end are left out.
fn put_numeric(number: Number, out: &mut BytesMut) {
    let scale = i32::from(number.scale());
    let mut rest = number.unscaled().unsigned_abs();
    let mut groups = [0_u16; 16];
    let mut count = 0;
    let mut push = |group: u128| {
        if let Some(place) = groups.get_mut(count) {
            // Less than 10 000.
            *place = u16::try_from(group).unwrap_or_default();
            count += 1;
        }
    };
    // So many digits stand alone in the last group, with zeros behind.
    let alone = scale.rem_euclid(4).unsigned_abs();
    if alone > 0 {
        let power = 10_u128.pow(alone);
        push(rest % power * 10_u128.pow(4 - alone));
        rest /= power;
    }
    // Division of numbers of 128 bits takes long.
    while rest > u128::from(u64::MAX) {
        push(rest % 10_000);
        rest /= 10_000;
    }
    let mut rest = u64::try_from(rest).unwrap_or_default();
    while rest > 0 {
        push((rest % 10_000).into());
        rest /= 10_000;
    }
    let mut significant = &groups[..count];
    while let [0, higher @ ..] = significant {
        significant = higher;
    }
    while let [lower @ .., 0] = significant {
        significant = lower;
    }
    // The last group, when there are `count`, stands for so many powers of 10 000.
    let last = (-scale).div_euclid(4);
    let weight = if significant.is_empty() {
        0
    } else {
        last + i32::try_from(count).unwrap_or_default() - 1
    };
    let len = i16::try_from(significant.len()).unwrap_or_default();
    let is_negative = number.unscaled() < 0;
    out.put_i32(8 + 2 * i32::from(len));
    out.put_i16(len);
    out.put_i16(i16::try_from(weight).unwrap_or_default());
    out.put_u16(if is_negative { 0x4000 } else { 0 });
    out.put_i16(number.scale().max(0));
    for group in significant.iter().rev() {
        out.put_u16(*group);
    }
}

/// Fields of rows on their way: all in one buffer, as `COPY` takes them, or each column's in one of its own, for arrays.
pub(super) struct Fields {
    buffers: Vec<BytesMut>,
    is_in_rows: bool,
    pub(super) rows: usize,
}

impl Fields {
    /// For `COPY`.
    pub(super) fn in_rows(buffer: BytesMut) -> Fields {
        Fields {
            buffers: vec![buffer],
            is_in_rows: true,
            rows: 0,
        }
    }

    /// For arrays, of so many columns.
    pub(super) fn in_columns(columns: usize) -> Fields {
        Fields {
            buffers: vec![BytesMut::new(); columns],
            is_in_rows: false,
            rows: 0,
        }
    }

    /// Where a column's next field goes.
    pub(super) fn at(&mut self, column: usize) -> &mut BytesMut {
        let column = if self.is_in_rows { 0 } else { column };
        &mut self.buffers[column]
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(BytesMut::len).sum()
    }

    /// The arrays, for parameters of these columns. Nothing is left.
    pub(super) fn take_arrays(&mut self, columns: &[Column]) -> Vec<Array> {
        let rows = i32::try_from(self.rows).unwrap_or(i32::MAX);
        self.rows = 0;
        let buffers = self.buffers.iter_mut().zip(columns);
        buffers
            .map(|(buffer, column)| Array {
                element: wire_type(column.kind),
                rows,
                elements: buffer.split(),
            })
            .collect()
    }
}

/// An array whose elements are written already.
#[derive(Debug)]
pub(super) struct Array {
    element: Type,
    rows: i32,
    elements: BytesMut,
}

impl ToSql for Array {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // Dimensions, whether there may be NULLs, the elements' type, how many, and the first one's number.
        out.put_i32(1);
        out.put_i32(1);
        out.put_u32(self.element.oid());
        out.put_i32(self.rows);
        out.put_i32(1);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf as _;
    use proptest::prelude::*;

    /// A `numeric` as PostgreSQL reads it: digits, and so many decimals.
    fn numeric(mut wire: &[u8]) -> String {
        let len = wire.get_i32();
        assert_eq!(len as usize, wire.len());
        let (groups, weight) = (wire.get_i16(), i32::from(wire.get_i16()));
        let sign = wire.get_u16();
        let decimals = usize::from(wire.get_u16());
        let groups: Vec<u16> = (0..groups).map(|_| wire.get_u16()).collect();
        assert!(wire.is_empty());
        assert!(groups.iter().all(|&group| group < 10_000));
        assert!(groups.first() != Some(&0) && groups.last() != Some(&0));
        let group = |at: i32| {
            let place = usize::try_from(weight - at).ok();
            let group = place.and_then(|place| groups.get(place));
            format!("{:04}", group.copied().unwrap_or_default())
        };
        let whole: String = (0..=weight.max(0)).rev().map(group).collect();
        let lowest = weight - groups.len() as i32 + 1;
        let fraction: String = (lowest.min(-1)..0).rev().map(group).collect();
        let fraction = format!("{fraction:0<decimals$}");
        assert!(fraction[decimals..].bytes().all(|digit| digit == b'0'));
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let point = if decimals > 0 { "." } else { "" };
        let sign = if sign == 0x4000 { "-" } else { "" };
        format!("{sign}{whole}{point}{}", &fraction[..decimals])
    }

    fn written(number: Number) -> String {
        let mut out = BytesMut::new();
        put_numeric(number, &mut out);
        numeric(&out)
    }

    #[test]
    fn a_number_that_people_know_is_written_as_documented() {
        // 12345.678: groups 1, 2345, 6780; the first counts 10 000.
        let mut out = BytesMut::new();
        put_numeric(Number::new(-12_345_678, 3).expect("short"), &mut out);
        let expected: [u16; 7] = [3, 1, 0x4000, 3, 1, 2345, 6780];
        let expected: Vec<u8> = expected.iter().flat_map(|n| n.to_be_bytes()).collect();
        assert_eq!(out[..4], 14_i32.to_be_bytes());
        assert_eq!(out[4..], expected);
        assert_eq!(written(Number::new(0, 2).expect("short")), "0.00");
        assert_eq!(written(Number::new(5, -3).expect("short")), "5000");
        assert_eq!(written(Number::new(1, 9).expect("short")), "0.000000001");
    }

    proptest! {
        #[test]
        fn any_number_is_written_exactly(
            digits in 0_u32..=38, random in any::<u128>(), scale in -12_i16..=45, is_negative in any::<bool>()
        ) {
            let unscaled = (random % 10_u128.pow(digits)) as i128;
            let unscaled = if is_negative { -unscaled } else { unscaled };
            let number = Number::new(unscaled, scale).expect("38 digits at most");
            prop_assert_eq!(written(number), number.to_string());
        }
    }
}
