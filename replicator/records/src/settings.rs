//! What may follow a layout's name: `ibm-vb,rdw=little-exclusive`, `csv,delimiter=tab,header=record`.
//!
//! One notation in configurations, on the command line, in events and in the catalogues of sinks.

use crate::layout::{Layout, LayoutError, RECORD_SIZE_MAX};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A layout with its settings has at most this many characters: what catalogues have room for.
pub const LAYOUT_WORDS_MAX: usize = 512;

/// IBM's descriptor word of 4 bytes, as it is on z/OS or became on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DescriptorWord {
    /// Two zero bytes, then the length, little-endian; otherwise the length, big-endian, then two zero bytes.
    pub is_little: bool,
    /// The length doesn't count the word itself.
    pub is_exclusive: bool,
}

impl DescriptorWord {
    /// As on z/OS: big-endian, counting itself.
    pub const NATIVE: DescriptorWord = DescriptorWord {
        is_little: false,
        is_exclusive: false,
    };

    /// What some transfers make of it.
    pub const LITTLE_EXCLUSIVE: DescriptorWord = DescriptorWord {
        is_little: true,
        is_exclusive: true,
    };

    /// Every one.
    pub(crate) const ALL: [DescriptorWord; 4] = [
        DescriptorWord::NATIVE,
        DescriptorWord {
            is_little: false,
            is_exclusive: true,
        },
        DescriptorWord {
            is_little: true,
            is_exclusive: false,
        },
        DescriptorWord::LITTLE_EXCLUSIVE,
    ];

    fn name(self) -> &'static str {
        match (self.is_little, self.is_exclusive) {
            (false, false) => "big",
            (false, true) => "big-exclusive",
            (true, false) => "little",
            (true, true) => "little-exclusive",
        }
    }
}

/// What stands at a file's beginning and is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// So many bytes, at least 1.
    Bytes(u64),
    /// The first record.
    Record,
}

/// What a configuration says of a layout beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `rdw`: the word before a record.
    pub rdw: Option<DescriptorWord>,
    /// `bdw`: the word before a block.
    pub bdw: Option<DescriptorWord>,
    /// `quote`: what text with delimiters and newlines stands between.
    pub quote: Option<u8>,
    /// `delimiter`: what stands between fields.
    pub delimiter: Option<u8>,
    /// `block`: bytes of a block.
    pub block: Option<u64>,
    /// `header`.
    pub header: Option<Header>,
    /// `skip`: records that begin with one of these are none.
    pub skip: Vec<Vec<u8>>,
}

impl Settings {
    /// A layout's name alone.
    pub const NONE: Settings = Settings {
        rdw: None,
        bdw: None,
        quote: None,
        delimiter: None,
        block: None,
        header: None,
        skip: Vec::new(),
    };

    /// The names of those that are set.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.rdw.is_some(), "rdw"),
            (self.bdw.is_some(), "bdw"),
            (self.quote.is_some(), "quote"),
            (self.delimiter.is_some(), "delimiter"),
            (self.block.is_some(), "block"),
            (self.header.is_some(), "header"),
            (!self.skip.is_empty(), "skip"),
        ]
        .into_iter()
        .filter_map(|(is_set, name)| is_set.then_some(name))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), LayoutError> {
        let twice = || LayoutError(format!("a layout has {key} once"));
        fn once<T>(
            place: &mut Option<T>,
            value: T,
            twice: impl FnOnce() -> LayoutError,
        ) -> Result<(), LayoutError> {
            match place.replace(value) {
                None => Ok(()),
                Some(_) => Err(twice()),
            }
        }
        match key {
            "rdw" => once(&mut self.rdw, word(key, value)?, twice),
            "bdw" => once(&mut self.bdw, word(key, value)?, twice),
            "quote" => once(&mut self.quote, character(key, value)?, twice),
            "delimiter" => once(&mut self.delimiter, character(key, value)?, twice),
            "block" => once(&mut self.block, number(key, value)?, twice),
            "header" if value == "record" => once(&mut self.header, Header::Record, twice),
            "header" => {
                let header = Header::Bytes(number(key, value)?);
                once(&mut self.header, header, twice)
            }
            "skip" => {
                let begin = bytes(value)?;
                if begin.is_empty() {
                    return Err(LayoutError(
                        "skip is what the records that are left out begin with, at least one byte"
                            .to_owned(),
                    ));
                }
                self.skip.push(begin);
                Ok(())
            }
            _ => Err(LayoutError(format!(
                "a layout has no setting {key:?}: there are rdw, bdw, quote, delimiter, block, header and skip"
            ))),
        }
    }

    /// Refuses settings that the layout hasn't.
    pub(crate) fn check(&self, layout: Layout) -> Result<(), LayoutError> {
        let known = layout.settings();
        if let Some(name) = self.names().find(|name| !known.contains(name)) {
            let known = match known {
                [] => "it has no settings".to_owned(),
                known => format!("it has {}", known.join(", ")),
            };
            return Err(LayoutError(format!(
                "layout = \"{layout}\" has no {name}: {known}"
            )));
        }
        if self.quote.unwrap_or(b'"') == self.delimiter.unwrap_or(b',') {
            return Err(LayoutError(
                "quote and delimiter are the same byte: they are two".to_owned(),
            ));
        }
        Ok(())
    }
}

fn word(key: &str, value: &str) -> Result<DescriptorWord, LayoutError> {
    DescriptorWord::ALL
        .into_iter()
        .find(|word| word.name() == value)
        .ok_or_else(|| {
            let names = DescriptorWord::ALL.map(DescriptorWord::name).join(", ");
            LayoutError(format!("{key} is one of {names}, not {value:?}"))
        })
}

fn number(key: &str, value: &str) -> Result<u64, LayoutError> {
    let parsed = value.parse().ok();
    parsed
        .filter(|number| (1..=RECORD_SIZE_MAX).contains(number))
        .ok_or_else(|| {
            LayoutError(format!(
                "{key} is a number of bytes from 1 to {RECORD_SIZE_MAX}, not {value:?}"
            ))
        })
}

/// One byte that isn't part of a line's end: itself, its name, or in hexadecimal.
fn character(key: &str, value: &str) -> Result<u8, LayoutError> {
    let bytes = match value {
        "tab" => vec![b'\t'],
        "comma" => vec![b','],
        other => bytes(other)?,
    };
    match bytes[..] {
        [byte] if !matches!(byte, b'\n' | b'\r' | 0) => Ok(byte),
        _ => Err(LayoutError(format!(
            "{key} is one byte: itself, tab, comma, or x'1f' in hexadecimal, and not that of a line's end; not {value:?}"
        ))),
    }
}

/// Text, or `x'c1c2'`.
fn bytes(value: &str) -> Result<Vec<u8>, LayoutError> {
    let Some(digits) = value
        .strip_prefix("x'")
        .and_then(|rest| rest.strip_suffix('\''))
    else {
        return Ok(value.as_bytes().to_vec());
    };
    let wrong = || {
        LayoutError(format!(
            "{value} isn't of pairs of hexadecimal digits, as x'c1c2' is"
        ))
    };
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}

/// The inverse of [`bytes`].
fn written(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
    match str::from_utf8(bytes) {
        Ok(text)
            if bytes.iter().all(plain)
                && !text.starts_with("x'")
                && !matches!(text, "tab" | "comma") =>
        {
            text.to_owned()
        }
        _ => {
            let digits = bytes.iter().fold(String::new(), |mut digits, byte| {
                let _ = write!(digits, "{byte:02x}");
                digits
            });
            format!("x'{digits}'")
        }
    }
}

/// As it is typed behind the layout's name, with a comma before each.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(word) = self.rdw {
            write!(f, ",rdw={}", word.name())?;
        }
        if let Some(word) = self.bdw {
            write!(f, ",bdw={}", word.name())?;
        }
        for (key, byte) in [("quote", self.quote), ("delimiter", self.delimiter)] {
            match byte {
                Some(b'\t') => write!(f, ",{key}=tab")?,
                Some(b',') => write!(f, ",{key}=comma")?,
                Some(byte) => write!(f, ",{key}={}", written(&[byte]))?,
                None => {}
            }
        }
        if let Some(block) = self.block {
            write!(f, ",block={block}")?;
        }
        match self.header {
            Some(Header::Bytes(count)) => write!(f, ",header={count}")?,
            Some(Header::Record) => f.write_str(",header=record")?,
            None => {}
        }
        for begin in &self.skip {
            write!(f, ",skip={}", written(begin))?;
        }
        Ok(())
    }
}

/// A layout and its settings, as they are typed: the name, then `,key=value` for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayoutWords {
    /// The layout.
    pub layout: Layout,
    /// What else is said of it.
    pub settings: Settings,
}

impl From<Layout> for LayoutWords {
    fn from(layout: Layout) -> LayoutWords {
        LayoutWords {
            layout,
            settings: Settings::NONE,
        }
    }
}

impl fmt::Display for LayoutWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.layout.name(), self.settings)
    }
}

impl FromStr for LayoutWords {
    type Err = LayoutError;

    fn from_str(words: &str) -> Result<Self, LayoutError> {
        if words.len() > LAYOUT_WORDS_MAX {
            return Err(LayoutError(format!(
                "a layout has at most {LAYOUT_WORDS_MAX} characters with its settings, not {}",
                words.len()
            )));
        }
        let mut parts = words.split(',');
        let layout = parts.next().unwrap_or_default().trim().parse()?;
        let mut settings = Settings::NONE;
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return Err(LayoutError(format!(
                    "a layout's setting is key=value, not {part:?} (a comma in a value is written comma, or x'2c')"
                )));
            };
            settings.set(key.trim(), value)?;
        }
        // What it is written as may be longer than what was typed.
        let words = LayoutWords { layout, settings };
        if words.to_string().len() > LAYOUT_WORDS_MAX {
            return Err(LayoutError(format!(
                "a layout has at most {LAYOUT_WORDS_MAX} characters with its settings in hexadecimal"
            )));
        }
        Ok(words)
    }
}

impl TryFrom<String> for LayoutWords {
    type Error = LayoutError;

    fn try_from(words: String) -> Result<Self, LayoutError> {
        words.parse()
    }
}

impl From<LayoutWords> for String {
    fn from(words: LayoutWords) -> String {
        words.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_written_as_they_are_read() {
        for words in [
            "csv",
            "csv,quote=',delimiter=tab,header=record",
            "csv,quote=x'ff',delimiter=;",
            "ibm-vb,rdw=little-exclusive,bdw=big",
            "plain,header=128,skip=TRL,skip=x'e3d9d3'",
            "nonstop-varout,block=4096",
        ] {
            let read: LayoutWords = words.parse().expect(words);
            assert_eq!(read.to_string(), words);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (words, said) in [
            ("cvs", "layout is one of"),
            ("csv,quote", "key=value"),
            ("csv,quote=ab", "quote is one byte"),
            ("csv,quote=x'0a'", "quote is one byte"),
            ("csv,qoute='", "no setting \"qoute\""),
            ("csv,quote=',quote='", "once"),
            ("ibm-vb,rdw=middle", "rdw is one of big, big-exclusive"),
            ("plain,header=0", "header is a number of bytes"),
            ("plain,skip=", "at least one byte"),
            ("plain,skip=x'c'", "pairs of hexadecimal digits"),
            ("plain,skip=x'é'", "pairs of hexadecimal digits"),
        ] {
            let error = words.parse::<LayoutWords>().expect_err(words).to_string();
            assert!(error.contains(said), "{words}: {error}");
        }
    }

    proptest! {
        #[test]
        fn settings_come_back(
            skip in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4),
            quote in prop::option::of(any::<u8>().prop_filter("a line's end", |byte| !b"\r\n\0".contains(byte))),
            delimiter in prop::option::of(1u8..10),
            header in prop::option::of(prop_oneof![Just(Header::Record), (1..=RECORD_SIZE_MAX).prop_map(Header::Bytes)]),
        ) {
            let settings = Settings { quote, delimiter, header, skip, ..Settings::NONE };
            let words = LayoutWords { layout: Layout::Csv, settings };
            prop_assert_eq!(words.to_string().parse(), Ok(words));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = text.parse::<LayoutWords>();
        }
    }
}
