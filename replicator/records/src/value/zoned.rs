//! Zoned decimals (USAGE DISPLAY): a digit per byte, the sign in the zone of the first or last one, or in a byte of its own.
//!
//! Of a field in ASCII both conventions for the sign are read, whichever is declared, since no byte has a meaning in both:
//! GnuCOBOL's and Micro Focus' (`30`-`39` plus, `70`-`79` minus), and the EBCDIC characters as they come out of a conversion
//! (`{A`…`I` plus, `}J`…`R` minus). Which one is written is what is declared.

use super::{Misfit, Reason};
use crate::schema::{ZonedSign, Zones};

/// What zones mean to bytes.
trait Bytes: Copy {
    /// The byte of the digit 0.
    fn zero(self) -> u8;
    /// The bytes of plus and minus.
    fn signs(self) -> [u8; 2];
    /// Digit and sign of a byte that may have both.
    fn signed(self, byte: u8) -> Option<(u8, bool)>;
    /// The byte of a digit with a sign.
    fn with_sign(self, digit: u8, negative: bool) -> u8;
}

impl Bytes for Zones {
    fn zero(self) -> u8 {
        match self {
            Zones::Ascii | Zones::Overpunch => 0x30,
            Zones::Ebcdic => 0xF0,
        }
    }

    fn signs(self) -> [u8; 2] {
        match self {
            Zones::Ascii | Zones::Overpunch => *b"+-",
            Zones::Ebcdic => [0x4E, 0x60],
        }
    }

    fn signed(self, byte: u8) -> Option<(u8, bool)> {
        let digit = byte & 0x0F;
        match self {
            Zones::Ascii | Zones::Overpunch => match byte {
                b'0'..=b'9' => Some((digit, false)),
                0x70..=0x79 => Some((digit, true)),
                b'{' => Some((0, false)),
                b'}' => Some((0, true)),
                b'A'..=b'I' => Some((byte - b'A' + 1, false)),
                b'J'..=b'R' => Some((byte - b'J' + 1, true)),
                _ => None,
            },
            Zones::Ebcdic => {
                let negative = match byte >> 4 {
                    0xA | 0xC | 0xE | 0xF => false,
                    0xB | 0xD => true,
                    _ => return None,
                };
                (digit <= 9).then_some((digit, negative))
            }
        }
    }

    fn with_sign(self, digit: u8, negative: bool) -> u8 {
        match (self, negative) {
            (Zones::Ascii, false) => 0x30 | digit,
            (Zones::Ascii, true) => 0x70 | digit,
            (Zones::Overpunch, false) => b"{ABCDEFGHI"[usize::from(digit)],
            (Zones::Overpunch, true) => b"}JKLMNOPQR"[usize::from(digit)],
            (Zones::Ebcdic, false) => 0xC0 | digit,
            (Zones::Ebcdic, true) => 0xD0 | digit,
        }
    }
}

/// The byte of a space.
pub fn space(zones: Zones) -> u8 {
    match zones {
        Zones::Ascii | Zones::Overpunch => b' ',
        Zones::Ebcdic => 0x40,
    }
}

/// The number in the bytes of a field, without its decimal point.
#[inline]
pub fn decode(bytes: &[u8], sign: ZonedSign, zones: Zones) -> Result<i128, Reason> {
    match usual(bytes, sign, zones) {
        Some(number) => Ok(number.into()),
        None => of_any(bytes, sign, zones),
    }
}

/// The same for what nearly all fields are: at most 18 digits, in order, with the sign in the last of them or none. `None` says
/// nothing.
#[inline]
fn usual(bytes: &[u8], sign: ZonedSign, zones: Zones) -> Option<i64> {
    if bytes.len() > 18 {
        return None;
    }
    match sign {
        ZonedSign::Unsigned => short(bytes, zones.zero())?.try_into().ok(),
        ZonedSign::Trailing => {
            let (&last, digits) = bytes.split_last()?;
            let (digit, negative) = zones.signed(last)?;
            let number = 10 * short(digits, zones.zero())? + u64::from(digit);
            let number = i64::try_from(number).ok()?;
            Some(if negative { -number } else { number })
        }
        _ => None,
    }
}

/// The number in the bytes of any field.
fn of_any(bytes: &[u8], sign: ZonedSign, zones: Zones) -> Result<i128, Reason> {
    let len = bytes.len();
    let empty = Reason::Width(len);
    let (digits, from, signed) = match sign {
        ZonedSign::Unsigned => (bytes, 0, None),
        ZonedSign::Trailing => {
            let (&last, digits) = bytes.split_last().ok_or(empty)?;
            (digits, 0, Some((len - 1, last)))
        }
        ZonedSign::Leading => {
            let (&first, digits) = bytes.split_first().ok_or(empty)?;
            (digits, 1, Some((0, first)))
        }
        ZonedSign::TrailingSeparate | ZonedSign::LeadingSeparate => {
            let leading = sign == ZonedSign::LeadingSeparate;
            let (&byte, digits) = if leading {
                bytes.split_first()
            } else {
                bytes.split_last()
            }
            .ok_or(empty)?;
            let from = usize::from(leading);
            let [plus, minus] = zones.signs();
            if byte != plus && byte != minus {
                let at = if leading { 0 } else { len - 1 };
                return Err(Reason::Sign { at, byte });
            }
            let number = whole(digits, from, zones)?;
            return Ok(if byte == minus { -number } else { number });
        }
    };
    let number = whole(digits, from, zones)?;
    let Some((at, byte)) = signed else {
        return Ok(number);
    };
    let (digit, negative) = zones.signed(byte).ok_or(Reason::Sign { at, byte })?;
    let number = if at == 0 && len > 1 {
        let power = POWERS.get(digits.len()).ok_or(Reason::TooLong)?;
        i128::try_from(*power)
            .map_err(|_| Reason::TooLong)?
            .checked_mul(digit.into())
            .and_then(|high| high.checked_add(number))
    } else {
        number
            .checked_mul(10)
            .and_then(|number| number.checked_add(digit.into()))
    };
    let number = number.ok_or(Reason::TooLong)?;
    Ok(if negative { -number } else { number })
}

/// Digits without a sign; the first is byte `from` of its field.
fn whole(digits: &[u8], from: usize, zones: Zones) -> Result<i128, Reason> {
    let zero = zones.zero();
    let mut number: i128 = 0;
    // 18 digits fit into 64 bits, and most numbers have no more.
    for part in digits.chunks(18) {
        let low = short(part, zero);
        let Some(low) = low else {
            let wrong = |&(_, byte): &(usize, &u8)| byte.wrapping_sub(zero) > 9;
            let (at, &byte) = digits.iter().enumerate().find(wrong).unwrap_or((0, &0));
            return Err(Reason::Digit {
                at: from + at,
                byte,
            });
        };
        if part.len() == digits.len() {
            return Ok(low.into());
        }
        number = number
            .checked_mul(10_i128.pow(part.len() as u32))
            .and_then(|number| number.checked_add(low.into()))
            .ok_or(Reason::TooLong)?;
    }
    Ok(number)
}

/// At most 18 digits; `None` if some byte is none.
#[inline]
fn short(digits: &[u8], zero: u8) -> Option<u64> {
    let mut number: u64 = 0;
    let (eights, rest) = digits.as_chunks::<8>();
    for eight in eights {
        number = number * 100_000_000 + eight_digits(u64::from_le_bytes(*eight), zero)?;
    }
    let mut wrong = false;
    for byte in rest {
        let digit = byte.wrapping_sub(zero);
        wrong |= digit > 9;
        number = number.wrapping_mul(10).wrapping_add(digit.into());
    }
    (!wrong).then_some(number)
}

/// Eight digits at once, the first in the lowest byte.
#[inline]
fn eight_digits(bytes: u64, zero: u8) -> Option<u64> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let digits = bytes ^ (u64::from(zero) * ONES);
    // Each byte must be 0 to 9: no high nibble, neither with 6 added.
    if (digits | digits.wrapping_add(6 * ONES)) & (0xF0 * ONES) != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    Some(fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF)
}

/// Puts a number without its decimal point into the bytes of a field. On an error they are as before.
pub fn encode(number: i128, sign: ZonedSign, zones: Zones, out: &mut [u8]) -> Result<(), Misfit> {
    let negative = number < 0;
    if sign == ZonedSign::Unsigned && negative {
        return Err(Misfit::Negative);
    }
    let len = out.len();
    let (begin, end) = match sign {
        ZonedSign::LeadingSeparate => (1, len),
        ZonedSign::TrailingSeparate => (0, len.saturating_sub(1)),
        ZonedSign::Unsigned | ZonedSign::Trailing | ZonedSign::Leading => (0, len),
    };
    if begin >= end {
        return Err(Misfit::Width(len));
    }
    let mut left = number.unsigned_abs();
    if !fits(left, end - begin) {
        return Err(Misfit::Digits);
    }
    for byte in out[begin..end].iter_mut().rev() {
        *byte = zones.zero() + (left % 10) as u8;
        left /= 10;
    }
    let over = |byte: &mut u8| *byte = zones.with_sign(*byte & 0x0F, negative);
    match sign {
        ZonedSign::Unsigned => {}
        ZonedSign::Trailing => over(&mut out[len - 1]),
        ZonedSign::Leading => over(&mut out[0]),
        ZonedSign::TrailingSeparate => out[len - 1] = zones.signs()[usize::from(negative)],
        ZonedSign::LeadingSeparate => out[0] = zones.signs()[usize::from(negative)],
    }
    Ok(())
}

/// Powers of ten, as far as they fit.
const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut at = 1;
    while at < 39 {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// Whether a number has at most so many digits.
#[inline]
pub(super) fn fits(number: u128, digits: usize) -> bool {
    POWERS.get(digits).is_none_or(|&bound| number < bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNS: [ZonedSign; 5] = [
        ZonedSign::Unsigned,
        ZonedSign::Trailing,
        ZonedSign::Leading,
        ZonedSign::TrailingSeparate,
        ZonedSign::LeadingSeparate,
    ];
    const ZONES: [Zones; 3] = [Zones::Ascii, Zones::Overpunch, Zones::Ebcdic];

    #[test]
    fn bytes_are_those_that_programs_write() {
        for (bytes, sign, zones, number) in [
            (&b"123t"[..], ZonedSign::Trailing, Zones::Ascii, -1234),
            (b"1234", ZonedSign::Trailing, Zones::Ascii, 1234),
            (b"q234", ZonedSign::Leading, Zones::Ascii, -1234),
            (b"123M", ZonedSign::Trailing, Zones::Overpunch, -1234),
            (b"0000000194{", ZonedSign::Trailing, Zones::Overpunch, 1940),
            (b"00}", ZonedSign::Trailing, Zones::Overpunch, 0),
            (&[0xF1, 0xF2, 0xC3], ZonedSign::Trailing, Zones::Ebcdic, 123),
            (&[0xD1, 0xF2, 0xF3], ZonedSign::Leading, Zones::Ebcdic, -123),
            (b"12-", ZonedSign::TrailingSeparate, Zones::Ascii, -12),
            (b"+12", ZonedSign::LeadingSeparate, Zones::Ascii, 12),
            (&[0x60, 0xF1], ZonedSign::LeadingSeparate, Zones::Ebcdic, -1),
        ] {
            assert_eq!(decode(bytes, sign, zones), Ok(number), "{bytes:02X?}");
            let mut out = vec![0; bytes.len()];
            if number != 0 {
                encode(number, sign, zones, &mut out).expect("it fits");
                assert_eq!(out, bytes);
            }
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        let digit = |at, byte| Err(Reason::Digit { at, byte });
        let sign = |at, byte| Err(Reason::Sign { at, byte });
        assert_eq!(
            decode(b"12 4", ZonedSign::Unsigned, Zones::Ascii),
            digit(2, b' ')
        );
        assert_eq!(
            decode(b"1t", ZonedSign::Unsigned, Zones::Ascii),
            digit(1, b't')
        );
        assert_eq!(
            decode(b"12345678901x3456", ZonedSign::Unsigned, Zones::Ascii),
            digit(11, b'x')
        );
        assert_eq!(
            decode(b"12z", ZonedSign::Trailing, Zones::Ascii),
            sign(2, b'z')
        );
        assert_eq!(
            decode(b"12", ZonedSign::LeadingSeparate, Zones::Ascii),
            sign(0, b'1')
        );
        assert_eq!(
            decode(b"12", ZonedSign::Unsigned, Zones::Ebcdic),
            digit(0, b'1')
        );
        assert_eq!(
            decode(b"", ZonedSign::Trailing, Zones::Ascii),
            Err(Reason::Width(0))
        );
        assert_eq!(
            decode(&[b'9'; 60], ZonedSign::Leading, Zones::Ascii),
            Err(Reason::TooLong)
        );
        let mut out = *b"ab";
        assert_eq!(
            encode(100, ZonedSign::Unsigned, Zones::Ascii, &mut out),
            Err(Misfit::Digits)
        );
        assert_eq!(
            encode(-1, ZonedSign::Unsigned, Zones::Ascii, &mut out),
            Err(Misfit::Negative)
        );
        assert_eq!(&out, b"ab");
    }

    proptest! {
        #[test]
        fn a_number_comes_back(number: i128, digits in 1_usize..38, sign in 0_usize..5, zones in 0_usize..3) {
            let (sign, zones) = (SIGNS[sign], ZONES[zones]);
            let number = number % 10_i128.pow(digits as u32);
            let number = if sign == ZonedSign::Unsigned { number.abs() } else { number };
            let separate = matches!(sign, ZonedSign::LeadingSeparate | ZonedSign::TrailingSeparate);
            let mut bytes = vec![0; digits + usize::from(separate)];
            prop_assert_eq!(encode(number, sign, zones, &mut bytes), Ok(()));
            prop_assert_eq!(decode(&bytes, sign, zones), Ok(number));
        }

        #[test]
        fn the_usual_way_is_the_way_of_all(mut bytes in proptest::collection::vec(0_u8..10, 0..20), last: u8, sign in 0_usize..5, zones in 0_usize..3) {
            let (sign, zones) = (SIGNS[sign], ZONES[zones]);
            for byte in &mut bytes {
                *byte += zones.zero();
            }
            // Any last byte, of which some are signs.
            bytes.push(last);
            if let Some(number) = usual(&bytes, sign, zones) {
                prop_assert_eq!(of_any(&bytes, sign, zones), Ok(number.into()));
            }
        }

        #[test]
        fn any_bytes_are_a_number_or_a_reason(bytes: Vec<u8>, sign in 0_usize..5, zones in 0_usize..3) {
            let _ = decode(&bytes, SIGNS[sign], ZONES[zones]);
        }
    }
}
