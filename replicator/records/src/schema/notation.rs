//! Types of fields as text: what `Display` of [`FieldType`] writes, and field lists say.
//!
//! A type is a word, often with sizes in parentheses, and words behind it for what differs from the dialect:
//!
//! ```text
//! text(10) [right] [cp037]                        packed(9,2) [signed] [no-sign]
//! zoned(9,2) [signed] [leading] [separate]        int32 | uint16 | int64(18,2) [big | little] [full]
//!     [blank-when-zero] [ascii | overpunch | ebcdic]
//! edited(ZZ9.99-) [blank-when-zero] [cp037]       float32 | float64 [ieee | hex] [big | little]
//! national(10) [utf-16be | utf-16le | dbcs]       raw(8)
//! ```
//!
//! and, behind any of the first five and `int`, `as YYYYMMDD` for a date or a time.

use super::{
    BinaryRange, CodePage, DIGITS_MAX, DateFormat, Decimal, Dialect, Endian, FieldType,
    FloatFormat, NationalEncoding, ZonedSign, Zones,
};
use crate::RECORD_SIZE_MAX;
use crate::copybook::edited_len;

/// Longest text of a type.
const TYPE_BYTES_MAX: usize = 2000;

impl FieldType {
    /// Reads a type as it is written. What isn't said is as in the dialect.
    ///
    /// # Errors
    /// What is wrong with the text, and what it could be instead.
    pub fn parse(text: &str, dialect: &Dialect) -> Result<FieldType, String> {
        if text.len() > TYPE_BYTES_MAX {
            return Err(format!(
                "a type is at most {TYPE_BYTES_MAX} characters long"
            ));
        }
        let (text, date) = match text.split_once(" as ") {
            Some((carrier, format)) => (carrier, Some(format.trim())),
            None => (text, None),
        };
        let field = plain(text.trim(), dialect)?;
        match date {
            None => Ok(field),
            Some(format) => field.dated(format),
        }
    }

    /// The same field, holding a date or a time of this format.
    ///
    /// # Errors
    /// Why it can't.
    pub fn dated(self, format: &str) -> Result<FieldType, String> {
        let format: DateFormat = format.parse()?;
        let room = match &self {
            FieldType::Text { len, .. } => *len as usize,
            FieldType::National { chars, .. } => *chars as usize,
            FieldType::Zoned { number, .. }
            | FieldType::Packed { number, .. }
            | FieldType::Binary { number, .. } => {
                if !format.is_digits() {
                    return Err(format!(
                        "{} has signs between digits, which a number can't hold",
                        format.pattern()
                    ));
                }
                if number.scale != 0 {
                    return Err(format!("{self} isn't a whole number, as a date is"));
                }
                number.digits.into()
            }
            FieldType::Edited { len, .. } => *len as usize,
            FieldType::DateTime { carrier, .. } => {
                return (**carrier).clone().dated(format.pattern());
            }
            _ => return Err(format!("{self} can't hold a date")),
        };
        if format.chars() > room {
            return Err(format!(
                "{} takes {} characters, and {self} has {room}",
                format.pattern(),
                format.chars()
            ));
        }
        Ok(FieldType::DateTime {
            carrier: Box::new(self),
            format,
        })
    }
}

/// Words behind a type, to be taken one by one.
struct Words<'a> {
    of: &'a str,
    words: Vec<&'a str>,
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let at = self.words.iter().position(|found| *found == word);
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// One of some words, or none.
    fn one<T: Copy>(&mut self, known: &[(&str, T)]) -> Option<T> {
        known
            .iter()
            .find(|(name, _)| self.take(name))
            .map(|(_, value)| *value)
    }

    /// Nothing may be left.
    fn end(self, known: &str) -> Result<(), String> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!(
                "{word:?} doesn't go with {}; what does: {known}",
                self.of
            )),
        }
    }
}

const TYPES: &str = "text, zoned, packed, int8 to int128, uint8 to uint128, float32, float64, edited, national and raw";

fn plain(text: &str, dialect: &Dialect) -> Result<FieldType, String> {
    let (head, rest) = match text.find('(') {
        // A PICTURE has parentheses of its own.
        Some(open) => match text.rfind(')') {
            Some(close) if close > open => {
                let head = &text[..open];
                let behind = &text[close + 1..];
                (head, Some((&text[open + 1..close], behind)))
            }
            _ => return Err(format!("{text:?} lacks a closing parenthesis")),
        },
        None => (text, None),
    };
    let (head, behind) = match rest {
        Some((_, behind)) => (head.trim(), behind),
        None => head.split_once(' ').unwrap_or((head, "")),
    };
    let sizes = rest.map(|(inside, _)| inside.trim());
    let mut words = Words {
        of: head,
        words: behind.split_whitespace().collect(),
    };
    let pages: Vec<(&str, CodePage)> = CodePage::ALL
        .iter()
        .map(|page| (page.name(), *page))
        .collect();
    let endians = [("big", Endian::Big), ("little", Endian::Little)];
    match head {
        "text" => {
            let field = FieldType::Text {
                len: bytes(head, sizes)?,
                right: words.take("right"),
                code_page: words.one(&pages).unwrap_or(dialect.code_page),
            };
            words.end("right, and a code page")?;
            Ok(field)
        }
        "raw" => {
            let field = FieldType::Raw {
                len: bytes(head, sizes)?,
            };
            words.end("nothing")?;
            Ok(field)
        }
        "national" => {
            let encodings = [
                NationalEncoding::Utf16Be,
                NationalEncoding::Utf16Le,
                NationalEncoding::Dbcs,
            ]
            .map(|encoding| (encoding.name(), encoding));
            let default = match dialect.native_endian {
                Endian::Big => NationalEncoding::Utf16Be,
                Endian::Little => NationalEncoding::Utf16Le,
            };
            let field = FieldType::National {
                chars: bytes(head, sizes)?,
                encoding: words.one(&encodings).unwrap_or(default),
            };
            words.end("utf-16be, utf-16le or dbcs")?;
            Ok(field)
        }
        "edited" => {
            let picture = sizes.ok_or("edited takes a PICTURE, as in edited(ZZ9.99-)")?;
            let (symbols, len) = edited_len(picture, dialect)?;
            let field = FieldType::Edited {
                picture: symbols,
                len,
                blank_when_zero: words.take("blank-when-zero"),
                code_page: words.one(&pages).unwrap_or(dialect.code_page),
            };
            words.end("blank-when-zero, and a code page")?;
            Ok(field)
        }
        "zoned" => {
            let number = decimal(head, sizes)?;
            let (leading, separate) = (words.take("leading"), words.take("separate"));
            let signed = words.take("signed") || leading || separate;
            let sign = match (signed, leading, separate) {
                (false, ..) => ZonedSign::Unsigned,
                (true, false, false) => ZonedSign::Trailing,
                (true, true, false) => ZonedSign::Leading,
                (true, false, true) => ZonedSign::TrailingSeparate,
                (true, true, true) => ZonedSign::LeadingSeparate,
            };
            let zones = [Zones::Ascii, Zones::Overpunch, Zones::Ebcdic];
            let field = FieldType::Zoned {
                number,
                sign,
                blank_when_zero: words.take("blank-when-zero"),
                zones: words
                    .one(&zones.map(|zones| (zones.name(), zones)))
                    .unwrap_or(dialect.zones),
            };
            words.end(
                "signed, leading, separate, blank-when-zero, and ascii, overpunch or ebcdic",
            )?;
            Ok(field)
        }
        "packed" => {
            let number = decimal(head, sizes)?;
            let signed = words.take("signed");
            let sign_nibble = !words.take("no-sign");
            if signed && !sign_nibble {
                return Err("packed is either signed or no-sign".to_owned());
            }
            words.end("signed or no-sign")?;
            Ok(FieldType::Packed {
                number,
                signed,
                sign_nibble,
            })
        }
        "float32" | "float64" => {
            if sizes.is_some() {
                return Err(format!("{head} has no size in parentheses"));
            }
            let formats = [FloatFormat::Ieee, FloatFormat::IbmHex];
            let field = FieldType::Float {
                bytes: if head == "float32" { 4 } else { 8 },
                format: words
                    .one(&formats.map(|format| (format.name(), format)))
                    .unwrap_or(dialect.float),
                endian: words.one(&endians).unwrap_or(dialect.native_endian),
            };
            words.end("ieee or hex, and big or little")?;
            Ok(field)
        }
        _ => {
            let (signed, bits) = match head.strip_prefix("uint") {
                Some(bits) => (false, bits),
                None => (true, head.strip_prefix("int").unwrap_or_default()),
            };
            let bytes = bits
                .parse::<u32>()
                .ok()
                .filter(|bits| (8..=128).contains(bits) && bits.is_multiple_of(8));
            let Some(bytes) = bytes.map(|bits| bits / 8) else {
                return Err(format!("there is no type {head:?}; there are {TYPES}"));
            };
            let full = FieldType::full_binary(bytes, signed, dialect.native_endian);
            let FieldType::Binary { number: widest, .. } = full else {
                return Ok(full);
            };
            let number = match sizes {
                Some(_) => decimal(head, sizes)?,
                None => widest,
            };
            let range = match (words.take("full"), sizes) {
                (true, _) | (_, None) => BinaryRange::Full,
                (false, Some(_)) => BinaryRange::Picture,
            };
            let field = FieldType::Binary {
                bytes,
                number,
                signed,
                endian: words.one(&endians).unwrap_or(dialect.native_endian),
                range,
            };
            words.end("big or little, and full")?;
            Ok(field)
        }
    }
}

/// A length in bytes.
fn bytes(head: &str, sizes: Option<&str>) -> Result<u32, String> {
    sizes
        .and_then(|sizes| sizes.parse::<u32>().ok())
        .filter(|len| *len > 0 && u64::from(*len) <= RECORD_SIZE_MAX)
        .ok_or_else(|| format!("{head} takes a length, as in {head}(10)"))
}

/// Digits, and maybe a scale.
fn decimal(head: &str, sizes: Option<&str>) -> Result<Decimal, String> {
    let refused = || {
        format!(
            "{head} takes how many digits there are (1 to {DIGITS_MAX}), and how many of them are behind the point, as in \
             {head}(9,2)"
        )
    };
    let sizes = sizes.ok_or_else(refused)?;
    let (digits, scale) = sizes.split_once(',').unwrap_or((sizes, "0"));
    let digits = digits.trim().parse::<u16>().map_err(|_| refused())?;
    let scale = scale.trim().parse::<i16>().map_err(|_| refused())?;
    if !(1..=DIGITS_MAX).contains(&digits) || scale.unsigned_abs() > 1000 {
        return Err(refused());
    }
    Ok(Decimal { digits, scale })
}
