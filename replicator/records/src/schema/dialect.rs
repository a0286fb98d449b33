//! What a compiler and its options decide about bytes, and a copybook doesn't say.

use super::field::{CodePage, Endian, FloatFormat, Zones};
use std::fmt;
use std::str::FromStr;

/// What a copybook leaves to the compiler. One value describes one way to compile.
///
/// Written as a name, with exceptions behind it: `ibm`, `gnucobol,sign=overpunch`, `mf,sync=off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The compiler whose defaults these are, before exceptions.
    pub family: Family,
    /// How many bytes a binary item takes.
    pub binary_sizes: BinarySizes,
    /// Binary items are kept within their PICTURE (TRUNC(STD)); otherwise they may hold whatever their bytes can.
    pub truncated: bool,
    /// Byte order of COMP, BINARY and COMP-4.
    pub binary_endian: Endian,
    /// Byte order of COMP-5, BINARY-LONG and their like, INDEX, and floating point.
    pub native_endian: Endian,
    /// How digits and the sign of DISPLAY numbers are written.
    pub zones: Zones,
    /// What COMP-1 and COMP-2 hold.
    pub float: FloatFormat,
    /// Code page of text.
    pub code_page: CodePage,
    /// What PIC N holds.
    pub national: NationalForm,
    /// SYNCHRONIZED moves items to their boundary; otherwise it has no effect.
    pub sync: bool,
    /// SYNCHRONIZED eight-byte binary items lie at multiples of 4 rather than of 8.
    pub sync_word: bool,
    /// What follows an OCCURS DEPENDING ON table begins where its last occurrence ends; otherwise where the longest
    /// table would end.
    pub odo_slides: bool,
    /// Bytes of a POINTER (INDEX items always take 4).
    pub pointer_bytes: u32,
    /// DECIMAL-POINT IS COMMA.
    pub decimal_comma: bool,
    /// The currency sign of PICTUREs.
    pub currency: char,
}

/// The compilers whose defaults are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// GnuCOBOL as it is without options.
    Gnucobol,
    /// IBM Enterprise COBOL for z/OS.
    Ibm,
    /// Micro Focus on little-endian machines.
    Mf,
}

/// How many bytes a binary item takes for the digits of its PICTURE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinarySizes {
    /// 1 for up to 2 digits, 2 for up to 4, 4 for up to 9, 8 for up to 18, 16 beyond.
    OneTwoFourEight,
    /// 2 for up to 4 digits, 4 for up to 9, 8 for up to 18, 16 beyond.
    TwoFourEight,
    /// The fewest that hold the digits.
    Fewest,
}

/// What PIC N and USAGE NATIONAL hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NationalForm {
    /// UTF-16, big-endian.
    Utf16Be,
    /// UTF-16, little-endian.
    Utf16Le,
    /// Text in the code page, two bytes of room for each character (GnuCOBOL).
    Text,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 3] = [Family::Gnucobol, Family::Ibm, Family::Mf];

    /// Its name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gnucobol => "gnucobol",
            Family::Ibm => "ibm",
            Family::Mf => "mf",
        }
    }
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect::of(Family::Gnucobol)
    }
}

impl Dialect {
    /// A compiler's defaults. GnuCOBOL's and Micro Focus' are those on a little-endian machine.
    pub fn of(family: Family) -> Dialect {
        let gnucobol = Dialect {
            family,
            binary_sizes: BinarySizes::OneTwoFourEight,
            truncated: true,
            binary_endian: Endian::Big,
            native_endian: Endian::Little,
            zones: Zones::Ascii,
            float: FloatFormat::Ieee,
            code_page: CodePage::Latin1,
            national: NationalForm::Text,
            sync: true,
            sync_word: false,
            odo_slides: false,
            pointer_bytes: 8,
            decimal_comma: false,
            currency: '$',
        };
        match family {
            Family::Gnucobol => gnucobol,
            Family::Ibm => Dialect {
                binary_sizes: BinarySizes::TwoFourEight,
                native_endian: Endian::Big,
                zones: Zones::Ebcdic,
                float: FloatFormat::IbmHex,
                code_page: CodePage::Cp037,
                national: NationalForm::Utf16Be,
                sync_word: true,
                odo_slides: true,
                pointer_bytes: 4,
                ..gnucobol
            },
            Family::Mf => Dialect {
                binary_sizes: BinarySizes::Fewest,
                national: NationalForm::Utf16Le,
                // IBMCOMP is off by default, and SYNC has no effect without it.
                sync: false,
                ..gnucobol
            },
        }
    }
}

/// A dialect that isn't known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialectError(String);

/// A setting of a dialect and the words it takes.
type Setting = (&'static str, &'static [&'static str]);

const SETTINGS: &[Setting] = &[
    ("binary", &["1-2-4-8", "2-4-8", "fewest"]),
    ("trunc", &["on", "off"]),
    ("endian", &["big", "little"]),
    ("native", &["big", "little"]),
    ("sign", &["ascii", "overpunch", "ebcdic"]),
    ("float", &["ieee", "hex"]),
    ("national", &["utf-16be", "utf-16le", "text"]),
    ("sync", &["on", "off", "word"]),
    ("odo", &["slide", "fixed"]),
    ("pointer", &["4", "8"]),
    ("decimal", &["point", "comma"]),
];

impl Dialect {
    fn set(&mut self, key: &str, value: &str) -> Result<(), DialectError> {
        let refused = |known: &str| {
            Err(DialectError(format!(
                "`{key}` of a dialect is {known}, not {value:?}"
            )))
        };
        if key == "code-page" {
            return match value.parse() {
                Ok(page) => {
                    self.code_page = page;
                    Ok(())
                }
                Err(_) => refused(&words(CodePage::ALL.iter().map(|page| page.name()))),
            };
        }
        if key == "currency" {
            let mut chars = value.chars();
            return match (chars.next(), chars.next()) {
                (Some(sign), None)
                    if !sign.is_alphanumeric() && !"*+-,.;()\"/= ".contains(sign) =>
                {
                    self.currency = sign;
                    Ok(())
                }
                _ => refused("one character that is no letter, digit or other sign of a PICTURE"),
            };
        }
        let Some((_, known)) = SETTINGS.iter().find(|(name, _)| *name == key) else {
            let keys = SETTINGS.iter().map(|(name, _)| *name);
            return Err(DialectError(format!(
                "a dialect has no setting {key:?}; there are {}",
                words(keys.chain(["code-page", "currency"]))
            )));
        };
        let endian = |value| match value {
            "big" => Endian::Big,
            _ => Endian::Little,
        };
        match known.iter().position(|word| *word == value) {
            None => return refused(&words(known.iter().copied())),
            Some(at) => match key {
                "binary" => {
                    self.binary_sizes = [
                        BinarySizes::OneTwoFourEight,
                        BinarySizes::TwoFourEight,
                        BinarySizes::Fewest,
                    ][at];
                }
                "trunc" => self.truncated = at == 0,
                "endian" => self.binary_endian = endian(value),
                "native" => self.native_endian = endian(value),
                "sign" => self.zones = [Zones::Ascii, Zones::Overpunch, Zones::Ebcdic][at],
                "float" => self.float = [FloatFormat::Ieee, FloatFormat::IbmHex][at],
                "national" => {
                    self.national = [
                        NationalForm::Utf16Be,
                        NationalForm::Utf16Le,
                        NationalForm::Text,
                    ][at];
                }
                "sync" => (self.sync, self.sync_word) = (at != 1, at == 2),
                "odo" => self.odo_slides = at == 0,
                "pointer" => self.pointer_bytes = [4, 8][at],
                _ => self.decimal_comma = at == 1,
            },
        }
        Ok(())
    }
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = words.collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => all.concat(),
    }
}

impl FromStr for Dialect {
    type Err = DialectError;

    fn from_str(text: &str) -> Result<Dialect, DialectError> {
        let mut parts = text.split(',').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let family = Family::ALL
            .into_iter()
            .find(|family| family.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                DialectError(format!(
                    "a dialect begins with {}, not {name:?}",
                    words(Family::ALL.iter().map(|family| family.name()))
                ))
            })?;
        let mut dialect = Dialect::of(family);
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| {
                DialectError(format!(
                    "{part:?} in a dialect isn't of the form `setting=value`"
                ))
            })?;
            dialect.set(key.trim(), value.trim())?;
        }
        Ok(dialect)
    }
}

impl fmt::Display for Dialect {
    /// As it can be written: the family, and what differs from its defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = Dialect::of(self.family);
        f.write_str(self.family.name())?;
        let mut differs = |differs: bool, key: &str, value: &str| match differs {
            true => write!(f, ",{key}={value}"),
            false => Ok(()),
        };
        let binary = match self.binary_sizes {
            BinarySizes::OneTwoFourEight => "1-2-4-8",
            BinarySizes::TwoFourEight => "2-4-8",
            BinarySizes::Fewest => "fewest",
        };
        let on = |on| if on { "on" } else { "off" };
        let national = match self.national {
            NationalForm::Utf16Be => "utf-16be",
            NationalForm::Utf16Le => "utf-16le",
            NationalForm::Text => "text",
        };
        let sync = match (self.sync, self.sync_word) {
            (false, _) => "off",
            (true, false) => "on",
            (true, true) => "word",
        };
        let sync_differs = self.sync != base.sync || self.sync && self.sync_word != base.sync_word;
        differs(self.binary_sizes != base.binary_sizes, "binary", binary)?;
        differs(
            self.truncated != base.truncated,
            "trunc",
            on(self.truncated),
        )?;
        let (endian, native) = (self.binary_endian, self.native_endian);
        differs(endian != base.binary_endian, "endian", endian.name())?;
        differs(native != base.native_endian, "native", native.name())?;
        differs(self.zones != base.zones, "sign", self.zones.name())?;
        differs(self.float != base.float, "float", self.float.name())?;
        let page = self.code_page;
        differs(page != base.code_page, "code-page", page.name())?;
        differs(self.national != base.national, "national", national)?;
        differs(sync_differs, "sync", sync)?;
        let odo = if self.odo_slides { "slide" } else { "fixed" };
        differs(self.odo_slides != base.odo_slides, "odo", odo)?;
        let pointer = self.pointer_bytes.to_string();
        differs(
            self.pointer_bytes != base.pointer_bytes,
            "pointer",
            &pointer,
        )?;
        let decimal = if self.decimal_comma { "comma" } else { "point" };
        differs(self.decimal_comma != base.decimal_comma, "decimal", decimal)?;
        let currency = self.currency.to_string();
        differs(self.currency != base.currency, "currency", &currency)
    }
}
