//! Binary integers: COMP and BINARY (big-endian), COMP-5 and BINARY-LONG (of the machine), COMP-X (unsigned, big-endian), of any
//! width from 1 to 16 bytes, in two's complement.

use super::{Misfit, Reason};
use crate::schema::Endian;

/// Most bytes of an integer.
pub const WIDTH_MAX: usize = 16;

/// The number in the bytes of a field.
#[inline]
pub fn decode(bytes: &[u8], order: Endian, signed: bool) -> Result<i128, Reason> {
    let number = match (bytes, order) {
        (&[byte], _) => u64::from(byte),
        (&[a, b], Endian::Big) => u16::from_be_bytes([a, b]).into(),
        (&[a, b], Endian::Little) => u16::from_le_bytes([a, b]).into(),
        (&[a, b, c, d], Endian::Big) => u32::from_be_bytes([a, b, c, d]).into(),
        (&[a, b, c, d], Endian::Little) => u32::from_le_bytes([a, b, c, d]).into(),
        (&[a, b, c, d, e, f, g, h], Endian::Big) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        (&[a, b, c, d, e, f, g, h], Endian::Little) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return odd(bytes, order, signed),
    };
    if signed {
        let above = 64 - 8 * bytes.len() as u32;
        return Ok(i128::from(((number << above) as i64) >> above));
    }
    Ok(number.into())
}

/// Integers of the widths that machines don't have.
fn odd(bytes: &[u8], order: Endian, signed: bool) -> Result<i128, Reason> {
    let len = bytes.len();
    if len == 0 || len > WIDTH_MAX {
        return Err(Reason::Width(len));
    }
    let mut wide = [0; WIDTH_MAX];
    wide[WIDTH_MAX - len..].copy_from_slice(bytes);
    if order == Endian::Little {
        wide[WIDTH_MAX - len..].reverse();
    }
    let number = u128::from_be_bytes(wide);
    if signed {
        let above = 128 - 8 * len as u32;
        return Ok(((number << above) as i128) >> above);
    }
    i128::try_from(number).map_err(|_| Reason::TooLong)
}

/// Puts a number into the bytes of a field. On an error they are as before.
pub fn encode(number: i128, order: Endian, signed: bool, out: &mut [u8]) -> Result<(), Misfit> {
    let len = out.len();
    if len == 0 || len > WIDTH_MAX {
        return Err(Misfit::Width(len));
    }
    if number < 0 && !signed {
        return Err(Misfit::Negative);
    }
    let bits = 8 * len as u32 - u32::from(signed);
    // What is left above the bits must be the sign alone.
    if bits < 127 && number >> bits != if number < 0 { -1 } else { 0 } {
        return Err(Misfit::Digits);
    }
    out.copy_from_slice(&number.to_be_bytes()[WIDTH_MAX - len..]);
    if order == Endian::Little {
        out.reverse();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_width_has_its_range() {
        assert_eq!(decode(&[0xFF, 0xFE], Endian::Big, true), Ok(-2));
        assert_eq!(decode(&[0xFF, 0xFE], Endian::Big, false), Ok(0xFFFE));
        assert_eq!(decode(&[0xFE, 0xFF, 0xFF], Endian::Little, true), Ok(-2));
        assert_eq!(decode(&[1, 0, 0, 0, 0], Endian::Big, true), Ok(1 << 32));
        assert_eq!(
            decode(&[0xFF; 16], Endian::Big, false),
            Err(Reason::TooLong)
        );
        assert_eq!(decode(&[0xFF; 16], Endian::Big, true), Ok(-1));
        assert_eq!(decode(&[], Endian::Big, true), Err(Reason::Width(0)));
        assert_eq!(decode(&[0; 17], Endian::Big, true), Err(Reason::Width(17)));
        for len in 1..=15 {
            let mut out = vec![0; len];
            let bound = 1_i128 << (8 * len - 1);
            for (number, signed, fits) in [
                (bound - 1, true, true),
                (bound, true, false),
                (-bound, true, true),
                (-bound - 1, true, false),
                (2 * (bound - 1) + 1, false, true),
                (2 * bound, false, false),
                (-1, false, false),
            ] {
                let fitted = encode(number, Endian::Little, signed, &mut out);
                assert_eq!(fitted.is_ok(), fits, "{number} in {len} bytes");
                if fits {
                    assert_eq!(decode(&out, Endian::Little, signed), Ok(number));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_width_come_back(bytes in proptest::collection::vec(any::<u8>(), 1..=15), little: bool, signed: bool) {
            let order = if little { Endian::Little } else { Endian::Big };
            let number = decode(&bytes, order, signed);
            let mut out = vec![0; bytes.len()];
            prop_assert_eq!(encode(number.expect("of a known width"), order, signed, &mut out), Ok(()));
            prop_assert_eq!(out, bytes);
        }
    }
}
