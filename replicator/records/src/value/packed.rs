//! Packed decimals: two digits per byte, and in the last half byte the sign (COMP-3), or none (COMP-6).
//!
//! Written are the signs C (plus), D (minus) and F (of an unsigned field). Read are A, C, E and F as plus, B and D as minus.

use super::zoned::fits;
use super::{Misfit, Reason};

/// What the last half byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// A sign (COMP-3 with S).
    Signed,
    /// F (COMP-3 without S).
    Unsigned,
    /// The last digit (COMP-6).
    Absent,
}

/// How many bytes a number of so many digits takes.
pub fn width(digits: usize, sign: Sign) -> usize {
    match sign {
        Sign::Signed | Sign::Unsigned => digits / 2 + 1,
        Sign::Absent => digits.div_ceil(2),
    }
}

/// The two digits of each byte as a number, or [`BAD`].
const PAIRS: [u8; 256] = {
    let mut pairs = [BAD; 256];
    let mut number = 0;
    while number < 100 {
        pairs[(number / 10 * 16 + number % 10) as usize] = number;
        number += 1;
    }
    pairs
};
const BAD: u8 = 0xFF;

/// The number in the bytes of a field of `digits` digits, without its decimal point.
pub fn decode(bytes: &[u8], digits: usize, sign: Sign) -> Result<i128, Reason> {
    let (pairs, last) = match sign {
        Sign::Absent => (bytes, None),
        Sign::Signed | Sign::Unsigned => {
            let (&last, pairs) = bytes.split_last().ok_or(Reason::Width(0))?;
            (pairs, Some(last))
        }
    };
    // Nine bytes are 18 digits, which with the one beside the sign fit into 64 bits.
    let number = if pairs.len() <= 9 {
        let (mut number, mut bad) = (0_u64, 0);
        for &byte in pairs {
            let pair = PAIRS[usize::from(byte)];
            bad |= pair;
            number = number.wrapping_mul(100).wrapping_add(pair.into());
        }
        if bad > 0x7F {
            return Err(wrong_digit(pairs));
        }
        let Some(last) = last else {
            return within(number.into(), bytes.len(), digits, sign);
        };
        if last >> 4 > 9 {
            return Err(digit(pairs.len(), last));
        }
        i128::from(number * 10 + u64::from(last >> 4))
    } else {
        let mut number = 0_i128;
        for &byte in pairs {
            let pair = PAIRS[usize::from(byte)];
            if pair == BAD {
                return Err(wrong_digit(pairs));
            }
            number = number
                .checked_mul(100)
                .and_then(|number| number.checked_add(pair.into()))
                .ok_or(Reason::TooLong)?;
        }
        let Some(last) = last else {
            return within(number, bytes.len(), digits, sign);
        };
        if last >> 4 > 9 {
            return Err(digit(pairs.len(), last));
        }
        number
            .checked_mul(10)
            .and_then(|number| number.checked_add((last >> 4).into()))
            .ok_or(Reason::TooLong)?
    };
    let negative = match last.unwrap_or_default() & 0x0F {
        0xA | 0xC | 0xE | 0xF => false,
        0xB | 0xD if sign == Sign::Unsigned && number != 0 => return Err(Reason::Negative),
        0xB | 0xD => true,
        _ => {
            return Err(Reason::Sign {
                at: pairs.len(),
                byte: last.unwrap_or_default(),
            });
        }
    };
    let number = within(number, bytes.len(), digits, sign)?;
    Ok(if negative { -number } else { number })
}

/// Only a half byte more than there are digits can hold one too many.
#[inline]
fn within(number: i128, len: usize, digits: usize, sign: Sign) -> Result<i128, Reason> {
    let room = 2 * len - usize::from(sign != Sign::Absent);
    if room > digits && !fits(number.unsigned_abs(), digits) {
        return Err(Reason::Digits);
    }
    Ok(number)
}

#[cold]
fn wrong_digit(pairs: &[u8]) -> Reason {
    let bad = pairs
        .iter()
        .position(|&byte| PAIRS[usize::from(byte)] == BAD)
        .unwrap_or_default();
    digit(bad, pairs.get(bad).copied().unwrap_or_default())
}

fn digit(at: usize, byte: u8) -> Reason {
    Reason::Digit { at, byte }
}

/// Puts a number without its decimal point into the bytes of a field of `digits` digits. On an error they are as before.
pub fn encode(number: i128, digits: usize, sign: Sign, out: &mut [u8]) -> Result<(), Misfit> {
    if number < 0 && sign != Sign::Signed {
        return Err(Misfit::Negative);
    }
    let signed = sign != Sign::Absent;
    if out.is_empty() {
        return Err(Misfit::Width(0));
    }
    let mut left = number.unsigned_abs();
    if !fits(left, digits.min(2 * out.len() - usize::from(signed))) {
        return Err(Misfit::Digits);
    }
    let mut next = || {
        let digit = (left % 10) as u8;
        left /= 10;
        digit
    };
    let mut bytes = out.iter_mut().rev();
    if signed && let Some(last) = bytes.next() {
        *last = next() << 4
            | match sign {
                Sign::Signed if number < 0 => 0xD,
                Sign::Signed => 0xC,
                Sign::Unsigned | Sign::Absent => 0xF,
            };
    }
    for byte in bytes {
        *byte = next() | next() << 4;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_those_that_programs_write() {
        for (bytes, digits, sign, number) in [
            (&[0x12, 0x34, 0x5D][..], 5, Sign::Signed, -12345),
            (&[0x01, 0x23, 0x4C], 4, Sign::Signed, 1234),
            (&[0x1F], 1, Sign::Unsigned, 1),
            (&[0x01, 0x23], 3, Sign::Absent, 123),
            (&[0x12, 0x34], 4, Sign::Absent, 1234),
        ] {
            assert_eq!(decode(bytes, digits, sign), Ok(number));
            assert_eq!(width(digits, sign), bytes.len());
            let mut out = vec![0; bytes.len()];
            encode(number, digits, sign, &mut out).expect("it fits");
            assert_eq!(out, bytes);
        }
        for (sign, number) in [(0x1A, 1), (0x1B, -1), (0x1E, 1), (0x1F, 1), (0x0D, 0)] {
            assert_eq!(decode(&[sign], 1, Sign::Signed), Ok(number), "{sign:02X}");
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(
            decode(&[0, 0], 3, Sign::Signed),
            Err(Reason::Sign { at: 1, byte: 0 })
        );
        assert_eq!(
            decode(&[0x40, 0x4A, 0x4C], 5, Sign::Signed),
            Err(digit(1, 0x4A))
        );
        assert_eq!(decode(&[0xAC], 1, Sign::Signed), Err(digit(0, 0xAC)));
        assert_eq!(decode(&[0x1D], 1, Sign::Unsigned), Err(Reason::Negative));
        assert_eq!(decode(&[0x11, 0x1C], 2, Sign::Signed), Err(Reason::Digits));
        assert_eq!(decode(&[], 2, Sign::Signed), Err(Reason::Width(0)));
        assert_eq!(decode(&[0x99; 40], 80, Sign::Absent), Err(Reason::TooLong));
        let mut out = [7; 2];
        assert_eq!(encode(100, 2, Sign::Signed, &mut out), Err(Misfit::Digits));
        assert_eq!(
            encode(-1, 2, Sign::Unsigned, &mut out),
            Err(Misfit::Negative)
        );
        assert_eq!(out, [7; 2]);
    }

    proptest! {
        #[test]
        fn a_number_comes_back(number: i128, digits in 1_usize..38, sign in 0_usize..3) {
            let sign = [Sign::Signed, Sign::Unsigned, Sign::Absent][sign];
            let number = number % 10_i128.pow(digits as u32);
            let number = if sign == Sign::Signed { number } else { number.abs() };
            let mut bytes = vec![0; width(digits, sign)];
            prop_assert_eq!(encode(number, digits, sign, &mut bytes), Ok(()));
            prop_assert_eq!(decode(&bytes, digits, sign), Ok(number));
        }

        #[test]
        fn any_bytes_are_a_number_or_a_reason(bytes: Vec<u8>, digits in 0_usize..100, sign in 0_usize..3) {
            let _ = decode(&bytes, digits, [Sign::Signed, Sign::Unsigned, Sign::Absent][sign]);
        }
    }
}
