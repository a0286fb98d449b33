//! The types of fields: what their bytes mean, exactly.
//!
//! Every type knows how many bytes it takes ([`FieldType::len`]). `Display` writes a type in the notation
//! of field lists, from which it can be read again; it says everything that decides about decoding.
//!
//! Facts about bytes are from `docs/copybooks.md`, most of them checked against what GnuCOBOL writes.

use std::fmt;
use std::str::FromStr;

/// Most decimal digits of a number.
pub const DIGITS_MAX: u16 = 38;

/// What a field's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// Characters of a single-byte code page (or UTF-8), padded with spaces.
    Text {
        /// Length in bytes.
        len: u32,
        /// What the bytes mean.
        code_page: CodePage,
        /// JUSTIFIED RIGHT: padding is before the text rather than behind it.
        right: bool,
    },
    /// Characters of two bytes each, padded with spaces.
    National {
        /// Length in characters of two bytes.
        chars: u32,
        /// What two bytes mean.
        encoding: NationalEncoding,
    },
    /// A number as text, edited for people by a PICTURE (`ZZ,ZZ9.99-`), or text with insertions.
    Edited {
        /// The PICTURE, written out, upper case.
        picture: String,
        /// Length in bytes.
        len: u32,
        /// What the bytes mean.
        code_page: CodePage,
        /// BLANK WHEN ZERO: all spaces mean 0.
        blank_when_zero: bool,
    },
    /// A number of one digit per byte (USAGE DISPLAY).
    Zoned {
        /// Digits and scale.
        number: Decimal,
        /// Where the sign is, or that there is none.
        sign: ZonedSign,
        /// How digits and sign are written.
        zones: Zones,
        /// BLANK WHEN ZERO: all spaces mean 0.
        blank_when_zero: bool,
    },
    /// A number of two digits per byte (COMP-3, COMP-6).
    Packed {
        /// Digits and scale.
        number: Decimal,
        /// Whether there is a sign; without, the sign's half byte is F.
        signed: bool,
        /// The last half byte is the sign. COMP-6 has none, only digits.
        sign_nibble: bool,
    },
    /// A whole number in binary, two's complement (COMP, COMP-4, COMP-5, COMP-X, BINARY-LONG, INDEX).
    Binary {
        /// Length in bytes, 1 to 16.
        bytes: u32,
        /// Digits of the PICTURE (or, without one, all that the bytes can hold) and scale.
        number: Decimal,
        /// Whether there is a sign.
        signed: bool,
        /// Byte order.
        endian: Endian,
        /// Which values there may be.
        range: BinaryRange,
    },
    /// A floating-point number (COMP-1, COMP-2).
    Float {
        /// Length in bytes: 4 or 8.
        bytes: u32,
        /// What the bits mean.
        format: FloatFormat,
        /// Byte order.
        endian: Endian,
    },
    /// Bytes that mean nothing outside of the program (POINTER and its like), or that nobody wants interpreted.
    Raw {
        /// Length in bytes.
        len: u32,
    },
    /// A date, a time of day or both, as digits or characters of another type.
    DateTime {
        /// What carries it: text, zoned, packed or binary.
        carrier: Box<FieldType>,
        /// What the characters or digits of the carrier mean.
        format: DateFormat,
    },
}

/// The size of a decimal number. Its value is the digits, as a whole number, times 10 to the power of `-scale`.
///
/// `S9(5)V99` has 7 digits and a scale of 2; `9(3)PPP` has 3 digits and a scale of -3; `VPP999` has 3 digits and a
/// scale of 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// Digits that are stored, 1 to [`DIGITS_MAX`].
    pub digits: u16,
    /// Digits behind the decimal point; negative where zeros follow the stored digits.
    pub scale: i16,
}

impl Decimal {
    /// The precision that a database's `numeric(precision, scale)` needs: all digits from the first stored one to the
    /// decimal point, and from there to the last.
    pub fn precision(self) -> u16 {
        let digits = i32::from(self.digits);
        let scale = i32::from(self.scale);
        let precision = if scale < 0 {
            digits - scale
        } else {
            digits.max(scale)
        };
        precision.try_into().unwrap_or(u16::MAX)
    }
}

/// The sign of a DISPLAY number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZonedSign {
    /// There is none.
    Unsigned,
    /// In the last byte, over its digit.
    Trailing,
    /// In the first byte, over its digit.
    Leading,
    /// A byte of its own (`+` or `-`) behind the digits.
    TrailingSeparate,
    /// A byte of its own (`+` or `-`) before the digits.
    LeadingSeparate,
}

impl ZonedSign {
    /// Whether the sign takes a byte of its own.
    pub fn is_separate(self) -> bool {
        matches!(
            self,
            ZonedSign::TrailingSeparate | ZonedSign::LeadingSeparate
        )
    }
}

/// How the digits of a DISPLAY number and a sign over one of them are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zones {
    /// ASCII digits; a negative one is 0x70 more than the digit, a positive one plain (GnuCOBOL, Micro Focus).
    Ascii,
    /// ASCII digits; with a sign, the character that the EBCDIC byte would be: `{ABCDEFGHI` plus, `}JKLMNOPQR` minus
    /// (files that were converted from EBCDIC; `-fsign=EBCDIC`).
    Overpunch,
    /// EBCDIC digits 0xF0 to 0xF9; with a sign, 0xC plus, 0xD minus.
    Ebcdic,
}

impl Zones {
    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Zones::Ascii => "ascii",
            Zones::Overpunch => "overpunch",
            Zones::Ebcdic => "ebcdic",
        }
    }
}

/// Which values a binary field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryRange {
    /// Those of its digits.
    Picture,
    /// All that its bytes can hold, whatever the PICTURE says (COMP-5, TRUNC(BIN)).
    Full,
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// The most significant byte first.
    Big,
    /// The least significant byte first.
    Little,
}

impl Endian {
    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Endian::Big => "big",
            Endian::Little => "little",
        }
    }
}

/// What the bits of a floating-point number mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatFormat {
    /// IEEE 754.
    Ieee,
    /// IBM hexadecimal floating point.
    IbmHex,
}

impl FloatFormat {
    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            FloatFormat::Ieee => "ieee",
            FloatFormat::IbmHex => "hex",
        }
    }
}

/// What two bytes of a national or double-byte field mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NationalEncoding {
    /// UTF-16, big-endian.
    Utf16Be,
    /// UTF-16, little-endian.
    Utf16Le,
    /// A double-byte character set of the host (PIC G): kept as bytes.
    Dbcs,
}

impl NationalEncoding {
    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            NationalEncoding::Utf16Be => "utf-16be",
            NationalEncoding::Utf16Le => "utf-16le",
            NationalEncoding::Dbcs => "dbcs",
        }
    }
}

/// What a byte of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodePage {
    /// ASCII: bytes from 0x80 on are errors.
    Ascii,
    /// UTF-8.
    Utf8,
    /// ISO 8859-1.
    Latin1,
    /// EBCDIC, US and Canada.
    Cp037,
    /// EBCDIC, Germany and Austria.
    Cp273,
    /// EBCDIC, international.
    Cp500,
    /// EBCDIC Latin 1, open systems.
    Cp1047,
    /// EBCDIC 037 with the euro sign.
    Cp1140,
}

impl CodePage {
    /// Every code page.
    pub const ALL: [CodePage; 8] = [
        CodePage::Ascii,
        CodePage::Utf8,
        CodePage::Latin1,
        CodePage::Cp037,
        CodePage::Cp273,
        CodePage::Cp500,
        CodePage::Cp1047,
        CodePage::Cp1140,
    ];

    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            CodePage::Ascii => "ascii",
            CodePage::Utf8 => "utf-8",
            CodePage::Latin1 => "latin-1",
            CodePage::Cp037 => "cp037",
            CodePage::Cp273 => "cp273",
            CodePage::Cp500 => "cp500",
            CodePage::Cp1047 => "cp1047",
            CodePage::Cp1140 => "cp1140",
        }
    }

    /// Whether it is a variant of EBCDIC.
    pub fn is_ebcdic(self) -> bool {
        !matches!(self, CodePage::Ascii | CodePage::Utf8 | CodePage::Latin1)
    }
}

impl FromStr for CodePage {
    type Err = String;

    /// By its name; with or without `cp`.
    fn from_str(name: &str) -> Result<CodePage, String> {
        let lower = name.to_ascii_lowercase();
        CodePage::ALL
            .into_iter()
            .find(|page| page.name() == lower || page.name().strip_prefix("cp") == Some(&lower))
            .ok_or_else(|| {
                let names: Vec<&str> = CodePage::ALL.iter().map(|page| page.name()).collect();
                format!(
                    "there is no code page {name:?}; there are {}",
                    names.join(", ")
                )
            })
    }
}

/// How a date or time is written: a pattern of `YYYY`, `YY`, `MM`, `DD`, `DDD` (day of the year), `HH`, `MI` (or `MM`
/// behind `HH`), `SS`, `F` (digits of a second's fraction, up to 9) and characters that stand for themselves. Behind it,
/// ` from 1940` says which hundred years `YY` is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DateFormat {
    pattern: String,
    parts: Vec<DatePart>,
    /// First of the hundred years that years of two digits are of.
    window: u16,
}

/// First of the hundred years that years of two digits are of, unless said.
const WINDOW: u16 = 1970;

/// A part of a [`DateFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatePart {
    /// A year of four digits.
    Year4,
    /// A year of two digits, of the hundred years of [`DateFormat::year_of_two_digits`].
    Year2,
    /// A century of one digit, 0 for 19xx and 1 for 20xx (`CYYMMDD` of IBM i).
    Century,
    /// A month, 01 to 12.
    Month,
    /// A day of the month, 01 to 31.
    Day,
    /// A day of the year, 001 to 366.
    DayOfYear,
    /// An hour, 00 to 23.
    Hour,
    /// A minute.
    Minute,
    /// A second.
    Second,
    /// So many digits of a second's fraction, 1 to 9.
    Fraction(u8),
    /// This character.
    Literal(char),
}

impl DatePart {
    /// How many characters or digits it takes.
    pub fn chars(self) -> usize {
        match self {
            DatePart::Year4 => 4,
            DatePart::DayOfYear => 3,
            DatePart::Century | DatePart::Literal(_) => 1,
            DatePart::Fraction(digits) => digits.into(),
            _ => 2,
        }
    }
}

/// What a [`DateFormat`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DateKind {
    /// A day.
    Date,
    /// A time of day.
    Time,
    /// Both.
    Timestamp,
}

impl DateFormat {
    /// The pattern as written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Its parts in order.
    pub fn parts(&self) -> &[DatePart] {
        &self.parts
    }

    /// The year that two digits say: from 1970 to 2069, unless the format says which hundred years.
    pub fn year_of_two_digits(&self, digits: u16) -> u16 {
        let first = self.window % 100;
        self.window - first + digits + if digits < first { 100 } else { 0 }
    }

    /// How many characters or digits it takes.
    pub fn chars(&self) -> usize {
        self.parts.iter().map(|part| part.chars()).sum()
    }

    /// Whether it is digits alone, so that a number can carry it.
    pub fn is_digits(&self) -> bool {
        !self
            .parts
            .iter()
            .any(|part| matches!(part, DatePart::Literal(_)))
    }

    /// What it tells.
    pub fn kind(&self) -> DateKind {
        let has = |part| self.parts.contains(&part);
        let date = has(DatePart::Day)
            || has(DatePart::DayOfYear)
            || has(DatePart::Year4)
            || has(DatePart::Year2);
        match (date, has(DatePart::Hour)) {
            (true, false) => DateKind::Date,
            (false, _) => DateKind::Time,
            (true, true) => DateKind::Timestamp,
        }
    }
}

impl FromStr for DateFormat {
    type Err = String;

    /// Reads a pattern, and refuses one that doesn't determine a day or a time.
    fn from_str(pattern: &str) -> Result<DateFormat, String> {
        let mut upper = pattern.trim().to_ascii_uppercase();
        if upper.len() > 64 {
            return Err("a date format has 64 characters at most".to_owned());
        }
        let mut window = None;
        if let Some((form, year)) = upper.split_once(" FROM ") {
            let year = year
                .trim()
                .parse()
                .ok()
                .filter(|year| (1..=9900).contains(year));
            window = Some(year.ok_or_else(|| {
                format!(
                    "in {pattern:?}, the first of the hundred years that YY is of comes behind `from`, as in \"YYMMDD from 1940\""
                )
            })?);
            upper = form.trim_end().to_owned();
        }
        let mut parts: Vec<DatePart> = Vec::new();
        let mut rest = upper.as_str();
        while let Some(first) = rest.chars().next() {
            let run = rest.chars().take_while(|c| *c == first).count();
            let after_hour = parts.contains(&DatePart::Hour);
            let (part, len) = match (first, run) {
                ('Y', 4) => (DatePart::Year4, 4),
                ('Y', 2) => (DatePart::Year2, 2),
                ('C', 1) => (DatePart::Century, 1),
                ('D', 3) => (DatePart::DayOfYear, 3),
                ('D', 2) => (DatePart::Day, 2),
                ('M', 2) if after_hour => (DatePart::Minute, 2),
                ('M', 2) => (DatePart::Month, 2),
                ('M', 1) if rest.starts_with("MI") => (DatePart::Minute, 2),
                ('H', 2) => (DatePart::Hour, 2),
                ('S', 2) => (DatePart::Second, 2),
                ('F', 1..=9) => (DatePart::Fraction(run as u8), run),
                ('T', 1) => (DatePart::Literal('T'), 1),
                (c, _) if !c.is_ascii_alphanumeric() && c.is_ascii() && !c.is_ascii_control() => {
                    (DatePart::Literal(c), 1)
                }
                _ => {
                    return Err(format!(
                        "{:?} isn't part of a date format: they are YYYY, YY, C, MM, DD, DDD, HH, MI, SS, F and signs \
                         between",
                        rest.chars().take(run).collect::<String>()
                    ));
                }
            };
            if !matches!(part, DatePart::Literal(_)) && parts.contains(&part) {
                return Err(format!("{pattern:?} says {:?} twice", &rest[..len]));
            }
            parts.push(part);
            rest = &rest[len..];
        }
        let has = |part| parts.contains(&part);
        let year = has(DatePart::Year4) || has(DatePart::Year2);
        let day = has(DatePart::Month) && has(DatePart::Day) || has(DatePart::DayOfYear);
        let any_date =
            year || has(DatePart::Month) || has(DatePart::Day) || has(DatePart::DayOfYear);
        let any_time = has(DatePart::Hour) || has(DatePart::Minute) || has(DatePart::Second);
        let fraction = parts
            .iter()
            .any(|part| matches!(part, DatePart::Fraction(_)));
        if any_date && !(year && day) {
            return Err(format!(
                "{pattern:?} doesn't determine a day: that takes a year, and month and day or the day of the year"
            ));
        }
        if any_time && !(has(DatePart::Hour) && has(DatePart::Minute))
            || fraction && !has(DatePart::Second)
        {
            return Err(format!(
                "{pattern:?} doesn't determine a time: that takes hour and minute, and a second before its fraction"
            ));
        }
        if !any_date && !any_time {
            return Err(format!("{pattern:?} holds neither a date nor a time"));
        }
        if has(DatePart::Century) && !has(DatePart::Year2) {
            return Err(format!("C in {pattern:?} goes with YY"));
        }
        if window.is_some() && (!has(DatePart::Year2) || has(DatePart::Century)) {
            return Err(format!(
                "{pattern:?} has no YY whose century isn't known, so there is nothing to say `from`"
            ));
        }
        if let Some(year) = window {
            upper = format!("{upper} from {year}");
        }
        Ok(DateFormat {
            pattern: upper,
            parts,
            window: window.unwrap_or(WINDOW),
        })
    }
}

impl FieldType {
    /// A binary number that may have any value its bytes can hold; at most 16 of them.
    pub fn full_binary(bytes: u32, signed: bool, endian: Endian) -> FieldType {
        let bits = (bytes * 8).min(128) - u32::from(signed);
        let largest = u128::MAX.checked_shr(128 - bits).unwrap_or(0);
        let digits = largest.checked_ilog10().unwrap_or(0) + 1;
        FieldType::Binary {
            bytes,
            number: Decimal {
                digits: digits.try_into().unwrap_or(DIGITS_MAX),
                scale: 0,
            },
            signed,
            endian,
            range: BinaryRange::Full,
        }
    }

    /// How many bytes it takes.
    pub fn len(&self) -> u32 {
        match self {
            FieldType::Text { len, .. }
            | FieldType::Edited { len, .. }
            | FieldType::Raw { len } => *len,
            FieldType::National { chars, .. } => chars.saturating_mul(2),
            FieldType::Zoned { number, sign, .. } => {
                u32::from(number.digits) + u32::from(sign.is_separate())
            }
            FieldType::Packed {
                number,
                sign_nibble,
                ..
            } => (u32::from(number.digits) + u32::from(*sign_nibble)).div_ceil(2),
            FieldType::Binary { bytes, .. } | FieldType::Float { bytes, .. } => *bytes,
            FieldType::DateTime { carrier, .. } => carrier.len(),
        }
    }

    /// Whether it takes no bytes; no field of a schema does that.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digits and scale of a number that is exact; `None` of all else, edited numbers and dates included.
    pub fn decimal(&self) -> Option<Decimal> {
        match self {
            FieldType::Zoned { number, .. }
            | FieldType::Packed { number, .. }
            | FieldType::Binary { number, .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether it is a number with a sign.
    pub fn is_signed(&self) -> bool {
        match self {
            FieldType::Zoned { sign, .. } => *sign != ZonedSign::Unsigned,
            FieldType::Packed { signed, .. } | FieldType::Binary { signed, .. } => *signed,
            FieldType::Float { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |on: bool, word: &'static str| if on { word } else { "" };
        match self {
            FieldType::Text {
                len,
                code_page,
                right,
            } => write!(
                f,
                "text({len}){} {}",
                flag(*right, " right"),
                code_page.name()
            ),
            FieldType::National { chars, encoding } => {
                write!(f, "national({chars}) {}", encoding.name())
            }
            FieldType::Edited {
                picture,
                code_page,
                blank_when_zero,
                ..
            } => write!(
                f,
                "edited({picture}){} {}",
                flag(*blank_when_zero, " blank-when-zero"),
                code_page.name()
            ),
            FieldType::Zoned {
                number,
                sign,
                zones,
                blank_when_zero,
            } => {
                let sign = match sign {
                    ZonedSign::Unsigned => "",
                    ZonedSign::Trailing => " signed",
                    ZonedSign::Leading => " signed leading",
                    ZonedSign::TrailingSeparate => " signed separate",
                    ZonedSign::LeadingSeparate => " signed leading separate",
                };
                write!(
                    f,
                    "zoned({number}){sign}{} {}",
                    flag(*blank_when_zero, " blank-when-zero"),
                    zones.name()
                )
            }
            FieldType::Packed {
                number,
                signed,
                sign_nibble,
            } => write!(
                f,
                "packed({number}){}{}",
                flag(*signed, " signed"),
                flag(!*sign_nibble, " no-sign")
            ),
            FieldType::Binary {
                bytes,
                number,
                signed,
                endian,
                range,
            } => write!(
                f,
                "{}{}({number}) {}{}",
                if *signed { "int" } else { "uint" },
                bytes * 8,
                endian.name(),
                flag(*range == BinaryRange::Full, " full")
            ),
            FieldType::Float {
                bytes,
                format,
                endian,
            } => write!(f, "float{} {} {}", bytes * 8, format.name(), endian.name()),
            FieldType::Raw { len } => write!(f, "raw({len})"),
            FieldType::DateTime { carrier, format } => {
                write!(f, "{carrier} as {}", format.pattern)
            }
        }
    }
}

impl fmt::Display for Decimal {
    /// `digits` or `digits,scale`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scale {
            0 => write!(f, "{}", self.digits),
            scale => write!(f, "{},{scale}", self.digits),
        }
    }
}
