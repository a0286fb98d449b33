//! Floating point (COMP-1, COMP-2): IEEE 754 in either order, and IBM's hexadecimal format.
//!
//! IEEE numbers pass bit for bit, NaN included. A hexadecimal number is a sign, a power of 16 and a fraction: of four bytes, it is
//! always exactly some `f64`; of eight, its fraction has up to 56 bits, and is rounded to the 53 of an `f64` (to nearest, ties to
//! even). Written are normalised fractions; what was written from a rounded number may differ from the bytes it came from.

use super::{Misfit, Reason};
use crate::schema::{Endian, FloatFormat};

/// A number of four bytes.
///
/// Hexadecimal numbers reach further than an `f32`; those beyond it, and those it can't hold exactly, are a reason.
pub fn decode32(bytes: &[u8], format: FloatFormat, endian: Endian) -> Result<f32, Reason> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| Reason::Width(bytes.len()))?;
    let bits = match endian {
        Endian::Big => u32::from_be_bytes(bytes),
        Endian::Little => u32::from_le_bytes(bytes),
    };
    match format {
        FloatFormat::Ieee => Ok(f32::from_bits(bits)),
        FloatFormat::IbmHex => {
            let wide = ibm(u64::from(bits) << 32);
            let narrow = wide as f32;
            if f64::from(narrow) == wide {
                Ok(narrow)
            } else {
                Err(Reason::Float)
            }
        }
    }
}

/// A number of eight bytes.
pub fn decode64(bytes: &[u8], format: FloatFormat, endian: Endian) -> Result<f64, Reason> {
    let bytes: [u8; 8] = bytes.try_into().map_err(|_| Reason::Width(bytes.len()))?;
    let bits = match endian {
        Endian::Big => u64::from_be_bytes(bytes),
        Endian::Little => u64::from_le_bytes(bytes),
    };
    Ok(match format {
        FloatFormat::Ieee => f64::from_bits(bits),
        FloatFormat::IbmHex => ibm(bits),
    })
}

/// Puts a number into four bytes. On an error they are as before.
pub fn encode32(
    number: f32,
    format: FloatFormat,
    endian: Endian,
    out: &mut [u8],
) -> Result<(), Misfit> {
    let bits = match format {
        FloatFormat::Ieee => number.to_bits(),
        FloatFormat::IbmHex => {
            let (sign, mut power, fraction) = hexadecimal(number.into())?;
            // The fraction loses 32 of its 56 bits: to nearest, ties to even.
            let (mut high, low) = (fraction >> 32, fraction as u32);
            let half = 1 << 31;
            if low > half || low == half && high & 1 == 1 {
                high += 1;
            }
            if high >> 24 != 0 {
                high >>= 4;
                power += 1;
            }
            let power = u32::try_from(power).map_err(|_| Misfit::Float)?;
            if power > 127 {
                return Err(Misfit::Float);
            }
            u32::from(sign) << 31 | power << 24 | high as u32
        }
    };
    put(bits.to_be_bytes(), endian, out)
}

/// Puts a number into eight bytes. On an error they are as before.
pub fn encode64(
    number: f64,
    format: FloatFormat,
    endian: Endian,
    out: &mut [u8],
) -> Result<(), Misfit> {
    let bits = match format {
        FloatFormat::Ieee => number.to_bits(),
        FloatFormat::IbmHex => {
            let (sign, power, fraction) = hexadecimal(number)?;
            let power = u64::try_from(power).map_err(|_| Misfit::Float)?;
            u64::from(sign) << 63 | power << 56 | fraction
        }
    };
    put(bits.to_be_bytes(), endian, out)
}

/// Puts bytes that are in big-endian order into a field.
fn put<const N: usize>(mut bytes: [u8; N], endian: Endian, out: &mut [u8]) -> Result<(), Misfit> {
    if out.len() != N {
        return Err(Misfit::Width(out.len()));
    }
    if endian == Endian::Little {
        bytes.reverse();
    }
    out.copy_from_slice(&bytes);
    Ok(())
}

/// The value of a hexadecimal number of eight bytes.
fn ibm(bits: u64) -> f64 {
    let fraction = (bits & 0x00FF_FFFF_FFFF_FFFF) as f64;
    let power = (bits >> 56 & 0x7F) as i32;
    // Within 2^-312 and 2^252, so neither step leaves the range of normal numbers or rounds.
    let number = fraction * 2_f64.powi(4 * (power - 64) - 56);
    if bits >> 63 == 1 { -number } else { number }
}

/// Sign, power and 56 bits of fraction, normalised; powers are from 0 to 127.
fn hexadecimal(number: f64) -> Result<(bool, i32, u64), Misfit> {
    let bits = number.to_bits();
    let sign = bits >> 63 == 1;
    let exponent = (bits >> 52 & 0x7FF) as i32;
    if number == 0.0 {
        return Ok((sign, 0, 0));
    }
    // Infinite, not a number, or far smaller than the smallest there is.
    if exponent == 0x7FF || exponent == 0 {
        return Err(Misfit::Float);
    }
    let mantissa = bits & 0x000F_FFFF_FFFF_FFFF | 1 << 52;
    // The number is from 2^log to less than 2^(log + 1), and so from 16^(power - 65) to less than 16^(power - 64).
    let log = exponent - 1023;
    let power = (log + 260).div_euclid(4);
    let fraction = mantissa << (log + 260 - 4 * power);
    if (0..=127).contains(&power) {
        Ok((sign, power, fraction))
    } else {
        Err(Misfit::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hexadecimal_numbers_are_those_of_the_manuals() {
        // From the z/Architecture Principles of Operation and the usual examples.
        for (bytes, number) in [
            (0x4110_0000_u32, 1.0),
            (0xC110_0000, -1.0),
            (0xC276_A000, -118.625),
            (0x4080_0000, 0.5),
            (0x3F10_0000, 1.0 / 256.0),
            (0x4120_0000, 2.0),
            (0x0000_0000, 0.0),
            (0x4019_9999, 0.099_999_964_237_213_13),
        ] {
            let bytes = bytes.to_be_bytes();
            let narrow = decode32(&bytes, FloatFormat::IbmHex, Endian::Big).expect("it is exact");
            assert_eq!(f64::from(narrow), number);
            let mut out = [0; 4];
            encode32(narrow, FloatFormat::IbmHex, Endian::Big, &mut out).expect("it fits");
            assert_eq!(out, bytes);
        }
        let greatest = [0x7F, 0xFF, 0xFF, 0xFF];
        assert_eq!(
            decode32(&greatest, FloatFormat::IbmHex, Endian::Big),
            Err(Reason::Float)
        );
        let one_tenth = 0x4019_9999_9999_999A_u64.to_be_bytes();
        assert_eq!(
            decode64(&one_tenth, FloatFormat::IbmHex, Endian::Big),
            Ok(0.1)
        );
        let mut out = [0; 8];
        assert_eq!(
            encode64(1e80, FloatFormat::IbmHex, Endian::Big, &mut out),
            Err(Misfit::Float)
        );
        assert_eq!(
            encode64(1e-80, FloatFormat::IbmHex, Endian::Big, &mut out),
            Err(Misfit::Float)
        );
        assert_eq!(
            encode64(f64::NAN, FloatFormat::IbmHex, Endian::Big, &mut out),
            Err(Misfit::Float)
        );
        assert_eq!(
            encode32(1.0, FloatFormat::IbmHex, Endian::Big, &mut out),
            Err(Misfit::Width(8))
        );
        assert_eq!(
            decode64(&[1], FloatFormat::IbmHex, Endian::Big),
            Err(Reason::Width(1))
        );
    }

    #[test]
    fn unnormalised_and_negative_zeros_are_numbers() {
        assert_eq!(
            decode32(&[0x42, 0x01, 0, 0], FloatFormat::IbmHex, Endian::Big),
            Ok(1.0)
        );
        let zero = decode64(
            &[0x80, 0, 0, 0, 0, 0, 0, 0],
            FloatFormat::IbmHex,
            Endian::Big,
        )
        .expect("a zero");
        assert!(zero == 0.0 && zero.is_sign_negative());
    }

    proptest! {
        #[test]
        fn hexadecimal_fractions_of_53_bits_come_back(power in 0_u64..128, fraction in 1_u64 << 52..1 << 56, negative: bool) {
            let fraction = fraction & !0b111;
            let bytes = (u64::from(negative) << 63 | power << 56 | fraction).to_be_bytes();
            let number = decode64(&bytes, FloatFormat::IbmHex, Endian::Big).expect("eight bytes");
            let mut out = [0; 8];
            prop_assert_eq!(encode64(number, FloatFormat::IbmHex, Endian::Big, &mut out), Ok(()));
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn rounding_to_four_bytes_is_to_the_nearest(number in -1e30_f32..1e30) {
            prop_assume!(number.abs() > 1e-30);
            let mut out = [0; 4];
            prop_assert_eq!(encode32(number, FloatFormat::IbmHex, Endian::Big, &mut out), Ok(()));
            let bits = u32::from_be_bytes(out);
            let written = ibm(u64::from(bits) << 32);
            let wanted = f64::from(number);
            // No neighbour is nearer.
            for near in [bits - 1, bits + 1] {
                let near = ibm(u64::from(near) << 32);
                prop_assert!((written - wanted).abs() <= (near - wanted).abs());
            }
        }

        #[test]
        fn ieee_bits_come_back(bits: u64, little: bool) {
            let order = if little { Endian::Little } else { Endian::Big };
            let bytes = bits.to_be_bytes();
            let mut out = [0; 8];
            let number = decode64(&bytes, FloatFormat::Ieee, order).expect("eight bytes");
            prop_assert_eq!(encode64(number, FloatFormat::Ieee, order, &mut out), Ok(()));
            prop_assert_eq!(out, bytes);
        }
    }
}
