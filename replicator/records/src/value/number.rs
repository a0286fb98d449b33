//! Exact decimal numbers.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Most digits of a number. COBOL has 18, 31 with extended arithmetic, GnuCOBOL 38; and 38 fit into 128 bits.
const DIGITS_MAX: u32 = 38;

/// Largest absolute value of [`Number::unscaled`].
const UNSCALED_MAX: u128 = 10_u128.pow(DIGITS_MAX) - 1;

/// A number: `unscaled` × 10 to the power of −`scale`, at most 38 digits.
///
/// The scale is the field's, so two values of one field are equal when their numbers are. A negative scale (PICTURE `9(3)P(3)`)
/// means zeros behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Number {
    unscaled: i128,
    scale: i16,
}

/// A text that is no decimal number of at most 38 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no decimal number of at most 38 digits")]
pub struct NumberError;

impl Number {
    /// The number with these digits and this scale; `None` beyond 38 digits.
    pub fn new(unscaled: i128, scale: i16) -> Option<Number> {
        (unscaled.unsigned_abs() <= UNSCALED_MAX).then_some(Number { unscaled, scale })
    }

    /// A whole number.
    pub fn integer(number: i64) -> Number {
        Number {
            unscaled: number.into(),
            scale: 0,
        }
    }

    /// The digits with their sign, as a whole number.
    pub fn unscaled(self) -> i128 {
        self.unscaled
    }

    /// How many of the digits are decimals; negative: how many zeros follow the digits.
    pub fn scale(self) -> i16 {
        self.scale
    }

    /// The number as an integer, if it is whole and fits.
    pub fn to_i64(self) -> Option<i64> {
        self.rescaled(0)?.unscaled.try_into().ok()
    }

    /// The same number with another scale; `None` if digits would be lost or there were more than 38.
    pub fn rescaled(self, scale: i16) -> Option<Number> {
        if scale == self.scale {
            return Some(self);
        }
        if self.unscaled == 0 {
            return Some(Number { unscaled: 0, scale });
        }
        let steps = i32::from(scale) - i32::from(self.scale);
        let power = 10_i128.checked_pow(steps.unsigned_abs())?;
        if steps > 0 {
            return Number::new(self.unscaled.checked_mul(power)?, scale);
        }
        (self.unscaled % power == 0).then(|| Number {
            unscaled: self.unscaled / power,
            scale,
        })
    }

    /// Which is the greater of two numbers, whatever their scales.
    pub fn compare(self, other: Number) -> Ordering {
        let scale = self.scale.max(other.scale);
        if let (Some(a), Some(b)) = (self.rescaled(scale), other.rescaled(scale)) {
            return a.unscaled.cmp(&b.unscaled);
        }
        // One of them has far more digits before its point than the other.
        let size = |number: Number| {
            let digits = number.unscaled.unsigned_abs().checked_ilog10().unwrap_or(0);
            (i64::from(digits) - i64::from(number.scale)) * number.unscaled.signum() as i64
        };
        match self.unscaled.signum().cmp(&other.unscaled.signum()) {
            Ordering::Equal => size(self).cmp(&size(other)),
            order => order,
        }
    }

    /// Whether both are the same number, whatever their scales.
    pub fn same_number(self, other: Number) -> bool {
        self == other || self.reduced() == other.reduced()
    }

    /// The same number without zeros at the end of its digits.
    fn reduced(self) -> Number {
        if self.unscaled == 0 {
            return Number::default();
        }
        let mut it = self;
        while it.unscaled % 10 == 0 {
            let Some(scale) = it.scale.checked_sub(1) else {
                break;
            };
            it = Number {
                unscaled: it.unscaled / 10,
                scale,
            };
        }
        it
    }
}

/// Digits with as many decimals as the scale says: `-12.50`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        f.pad(text.write(*self))
    }
}

/// Room for a number's text, so that writing one takes no allocation unless its scale is outlandish.
#[derive(Debug)]
pub(crate) struct Text {
    room: [u8; Text::LEN],
    long: String,
}

impl Default for Text {
    fn default() -> Text {
        Text {
            room: [0; Text::LEN],
            long: String::new(),
        }
    }
}

impl Text {
    const LEN: usize = 96;

    /// The number's text.
    pub(crate) fn write(&mut self, number: Number) -> &str {
        let scale = usize::from(number.scale.unsigned_abs());
        if scale + DIGITS_MAX as usize + 3 > Text::LEN {
            self.long = long_text(number);
            return &self.long;
        }
        let mut at = Text::LEN;
        let mut put = |byte| {
            at -= 1;
            self.room[at] = byte;
        };
        let mut left = number.unscaled.unsigned_abs();
        if number.scale < 0 && left != 0 {
            (0..scale).for_each(|_| put(b'0'));
        }
        let decimals = if number.scale > 0 { scale } else { 0 };
        let mut digits = 0;
        while left != 0 || digits <= decimals {
            if digits == decimals && decimals > 0 {
                put(b'.');
            }
            // Dividing 64 bits is many times as fast as dividing 128.
            let digit = match u64::try_from(left) {
                Ok(small) => {
                    left = (small / 10).into();
                    small % 10
                }
                Err(_) => {
                    let digit = left % 10;
                    left /= 10;
                    digit as u64
                }
            };
            put(b'0' + digit as u8);
            digits += 1;
        }
        if number.unscaled < 0 {
            put(b'-');
        }
        std::str::from_utf8(&self.room[at..]).unwrap_or_default()
    }
}

fn long_text(number: Number) -> String {
    let sign = if number.unscaled < 0 { "-" } else { "" };
    let digits = number.unscaled.unsigned_abs().to_string();
    let scale = usize::from(number.scale.unsigned_abs());
    if number.scale <= 0 {
        return if number.unscaled == 0 {
            digits
        } else {
            format!("{sign}{digits}{}", "0".repeat(scale))
        };
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, decimals) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{decimals}")
}

/// Reads what [`fmt::Display`] writes, a plus sign, and numbers that begin or end with the point. No exponents.
impl FromStr for Number {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Number, NumberError> {
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && decimals.is_empty() {
            return Err(NumberError);
        }
        let mut unscaled: i128 = 0;
        for byte in whole.bytes().chain(decimals.bytes()) {
            if !byte.is_ascii_digit() {
                return Err(NumberError);
            }
            unscaled = unscaled
                .checked_mul(10)
                .and_then(|number| number.checked_add(i128::from(byte - b'0')))
                .ok_or(NumberError)?;
        }
        let scale = i16::try_from(decimals.len()).map_err(|_| NumberError)?;
        Number::new(if negative { -unscaled } else { unscaled }, scale).ok_or(NumberError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(unscaled: i128, scale: i16) -> Number {
        Number::new(unscaled, scale).expect("at most 38 digits")
    }

    #[test]
    fn texts_are_plain_decimals() {
        for (unscaled, scale, text) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (0, -3, "0"),
            (-1, 2, "-0.01"),
            (123_456, 2, "1234.56"),
            (-123, -3, "-123000"),
            (7, 5, "0.00007"),
            (i64::MIN.into(), 0, "-9223372036854775808"),
            (
                UNSCALED_MAX as i128,
                38,
                "0.99999999999999999999999999999999999999",
            ),
        ] {
            assert_eq!(number(unscaled, scale).to_string(), text);
        }
        assert_eq!(number(5, 100).to_string().len(), 102);
        assert_eq!(Number::new(UNSCALED_MAX as i128 + 1, 0), None);
        for text in ["", "-", ".", "1e5", "1 ", "0x1", "1.2.3", "--1"] {
            assert_eq!(text.parse::<Number>(), Err(NumberError), "{text:?}");
        }
        assert_eq!("+.5".parse(), Ok(number(5, 1)));
    }

    #[test]
    fn rescaling_loses_nothing() {
        assert_eq!(number(150, 2).rescaled(1), Some(number(15, 1)));
        assert_eq!(number(155, 2).rescaled(1), None);
        assert_eq!(number(0, 2).rescaled(-300), Some(number(0, -300)));
        assert_eq!(number(15, 0).rescaled(38), None);
        assert_eq!(number(15, -3).to_i64(), Some(15_000));
        assert!(number(150, 2).same_number(number(15, 1)));
        assert!(!number(150, 2).same_number(number(15, 2)));
    }

    proptest! {
        #[test]
        fn a_text_is_read_as_the_number_it_is_of(unscaled: i128, scale in 0_i16..120) {
            let unscaled = unscaled % (UNSCALED_MAX as i128 + 1);
            let number = number(unscaled, scale);
            let text = number.to_string();
            prop_assert_eq!(&text, &long_text(number));
            prop_assert_eq!(text.parse(), Ok(number));
        }
    }
}
