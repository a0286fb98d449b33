//! What a configuration says about a file's records, checked and turned into a [`Codec`].

use crate::Codec;
use crate::codec::{
    Blocked, Blocks, Fixed, Framing, Headed, Identity, Lines, Marked, Marker, MfHeader, Prefixed,
    Quoted, Relative, SlotLength, TypedSlots,
};
use crate::settings::{DescriptorWord, Header, LayoutWords, Settings};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Largest `record_size` in bytes: what a reader must be ready to hold at once.
pub const RECORD_SIZE_MAX: u64 = 16 << 20;

/// Block size in bytes where none is configured.
pub const BLOCK_SIZE_DEFAULT: u64 = 4096;

/// Block size in bytes of static files.
pub const STATIC_BLOCK_BYTES: u64 = 256 * 1024;

/// How long a text line may be in bytes, with its line end. A `record_size` can only raise it.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// How long a record of delimited text may be in bytes, where `record_size` doesn't say.
pub const CSV_RECORD_MAX: usize = 64 << 10;

/// The longest spanned record in bytes, where `record_size` doesn't say.
const SPANNED_RECORD_MAX: u64 = 1 << 20;

/// Bytes of a block of NonStop's VAROUT, where `block` doesn't say.
const VAROUT_BLOCK_DEFAULT: u64 = 4096;

/// Malformed regions are cut at multiples of this many bytes of the file offset.
pub const RESIDUE_ALIGN: usize = 4096;

// A line's cut never reaches a line end (see the module of the codec).
const _: () = assert!(2 * RESIDUE_ALIGN <= LINE_LEN_MAX && LINE_LEN_MAX as u64 <= RECORD_SIZE_MAX);
// A hole in a variable sequential file is a whole number of empty records.
const _: () = assert!(RESIDUE_ALIGN.is_multiple_of(4));

/// What operations on a file mean, and what a record's identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Organization {
    /// Records of one length; identity is the record number, from 1.
    Fixed,
    /// Numbered slots that may be empty; identity is the slot number, from 1.
    Relative,
    /// Records one after the other; identity is the byte address.
    Sequential,
    /// Text lines (identity: byte address of the line) or blocks (identity: block number, from 0).
    Stream,
    /// No records: files of a tree, mirrored as wholes with what they are; identity is the block number, from 0.
    Static,
}

impl Organization {
    /// Every organisation.
    pub const ALL: [Organization; 5] = [
        Organization::Fixed,
        Organization::Relative,
        Organization::Sequential,
        Organization::Stream,
        Organization::Static,
    ];

    /// Its name as typed in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Organization::Fixed => "fixed",
            Organization::Relative => "relative",
            Organization::Sequential => "sequential",
            Organization::Stream => "stream",
            Organization::Static => "static",
        }
    }
}

impl fmt::Display for Organization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Organization {
    type Err = LayoutError;

    fn from_str(name: &str) -> Result<Self, LayoutError> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| {
            LayoutError(format!(
                "organization is \"fixed\", \"relative\", \"sequential\", \"stream\" or \"static\", not {name:?}"
            ))
        })
    }
}

/// How records lie on disk, by the name that a configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Records of `record_size` bytes back to back, nothing between them.
    Plain,
    /// GnuCOBOL: slots with an 8-byte length (relative), back to back (fixed) or length prefixes
    /// of the given `varseq_format` (sequential).
    Gnucobol,
    /// GnuCOBOL LINE SEQUENTIAL: text lines, one newline each.
    LineSequential,
    /// Text lines ended by LF, CRLF kept.
    Newline,
    /// Raw blocks of `record_size` bytes.
    Blocks,
    /// IBM's RECFM=V without blocks: a record descriptor word of 4 bytes before each record, as on z/OS.
    IbmV,
    /// What some transfers make of it: the length in bytes 3 and 4, little-endian, not counting the word.
    RdwLittle,
    /// IBM's RECFM=VB: blocks with a block descriptor word, records with a record descriptor word in them.
    IbmVb,
    /// IBM's RECFM=VS as a transfer without block descriptor words leaves it: records in segments.
    IbmVs,
    /// IBM's RECFM=VBS: blocks of segments, of which several may be one record.
    IbmVbs,
    /// VMS RMS variable sequential: a 2-byte length and padding to even addresses.
    Vms,
    /// Micro Focus relative files of fixed length, on Unix: slots with a mark of one byte.
    MicroFocus,
    /// The same with a mark of two bytes.
    MicroFocusCrlf,
    /// Micro Focus files with a file header, of records of varying length: sequential, or relative with marks of one byte.
    MicroFocusVariable,
    /// The same with marks of two bytes (relative).
    MicroFocusVariableCrlf,
    /// NonStop FUP's VAROUT: blocks of records with a 2-byte big-endian length.
    NonstopVarout,
    /// Delimited text with quotes (RFC 4180), in which a record may have newlines.
    Csv,
    /// Numbered slots with a 2-byte big-endian length: the layout to choose where nothing prescribes one.
    Counted,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 18] = [
        Layout::Plain,
        Layout::Gnucobol,
        Layout::LineSequential,
        Layout::Newline,
        Layout::Blocks,
        Layout::IbmV,
        Layout::RdwLittle,
        Layout::IbmVb,
        Layout::IbmVs,
        Layout::IbmVbs,
        Layout::Vms,
        Layout::MicroFocus,
        Layout::MicroFocusCrlf,
        Layout::MicroFocusVariable,
        Layout::MicroFocusVariableCrlf,
        Layout::NonstopVarout,
        Layout::Csv,
        Layout::Counted,
    ];

    /// Its name as typed in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Plain => "plain",
            Layout::Gnucobol => "gnucobol",
            Layout::LineSequential => "line-sequential",
            Layout::Newline => "newline",
            Layout::Blocks => "blocks",
            Layout::IbmV => "ibm-v",
            Layout::RdwLittle => "rdw-little",
            Layout::Vms => "vms",
            Layout::MicroFocus => "micro-focus",
            Layout::MicroFocusCrlf => "micro-focus-crlf",
            Layout::IbmVb => "ibm-vb",
            Layout::IbmVs => "ibm-vs",
            Layout::IbmVbs => "ibm-vbs",
            Layout::MicroFocusVariable => "micro-focus-variable",
            Layout::MicroFocusVariableCrlf => "micro-focus-variable-crlf",
            Layout::NonstopVarout => "nonstop-varout",
            Layout::Csv => "csv",
            Layout::Counted => "counted",
        }
    }

    /// The names of the settings that it has.
    pub(crate) fn settings(self) -> &'static [&'static str] {
        match self {
            Layout::Blocks => &[],
            Layout::IbmV => &["rdw", "header", "skip"],
            Layout::IbmVb => &["rdw", "bdw", "header", "skip"],
            Layout::IbmVbs => &["bdw", "header", "skip"],
            Layout::NonstopVarout => &["block", "header", "skip"],
            Layout::Csv => &["quote", "delimiter", "header", "skip"],
            // It has its own file header.
            Layout::MicroFocusVariable | Layout::MicroFocusVariableCrlf => &["skip"],
            _ => &["header", "skip"],
        }
    }

    /// The organisation that it has where none is said.
    pub fn usual_organization(self) -> Organization {
        match self {
            Layout::Plain => Organization::Fixed,
            Layout::Gnucobol
            | Layout::LineSequential
            | Layout::IbmV
            | Layout::RdwLittle
            | Layout::IbmVb
            | Layout::IbmVs
            | Layout::IbmVbs
            | Layout::Vms
            | Layout::MicroFocusVariable
            | Layout::NonstopVarout => Organization::Sequential,
            Layout::MicroFocus
            | Layout::MicroFocusCrlf
            | Layout::MicroFocusVariableCrlf
            | Layout::Counted => Organization::Relative,
            Layout::Newline | Layout::Blocks | Layout::Csv => Organization::Stream,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(name: &str) -> Result<Self, LayoutError> {
        Self::ALL
            .into_iter()
            .find(|it| it.name() == name)
            .ok_or_else(|| {
                let names: Vec<String> = Self::ALL.map(|it| format!("{:?}", it.name())).into();
                LayoutError(format!(
                    "layout is one of {}, not {name:?}",
                    names.join(", ")
                ))
            })
    }
}

/// GnuCOBOL's `COB_VARSEQ_FORMAT`: the length prefix of a variable sequential record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum VarseqFormat {
    /// 0: u16 big-endian, two zero bytes.
    #[default]
    BigEndian16Padded,
    /// 1: u32 big-endian.
    BigEndian32,
    /// 2: u32 of the host (little-endian on every platform Counterfoil runs on).
    Native32,
    /// 3: u16 big-endian alone.
    BigEndian16,
}

impl From<VarseqFormat> for u8 {
    fn from(format: VarseqFormat) -> u8 {
        match format {
            VarseqFormat::BigEndian16Padded => 0,
            VarseqFormat::BigEndian32 => 1,
            VarseqFormat::Native32 => 2,
            VarseqFormat::BigEndian16 => 3,
        }
    }
}

impl TryFrom<u8> for VarseqFormat {
    type Error = LayoutError;

    fn try_from(number: u8) -> Result<Self, LayoutError> {
        Ok(match number {
            0 => VarseqFormat::BigEndian16Padded,
            1 => VarseqFormat::BigEndian32,
            2 => VarseqFormat::Native32,
            3 => VarseqFormat::BigEndian16,
            other => {
                return Err(LayoutError(format!(
                    "varseq_format is 0, 1, 2 or 3 (as COB_VARSEQ_FORMAT), not {other}"
                )));
            }
        })
    }
}

impl fmt::Display for VarseqFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u8::from(*self).fmt(f)
    }
}

/// Organisation, layout and sizes together: everything a codec needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct RecordFormat {
    /// What operations mean.
    pub organization: Organization,
    /// How records lie on disk.
    pub layout: Layout,
    /// What else is said of the layout.
    pub settings: Settings,
    /// Record length in bytes (fixed, and sequential with layout plain), the slot's maximum without
    /// its length (relative), the block size (blocks; 4096 if left out, [`STATIC_BLOCK_BYTES`] if static), the longest record where
    /// one is known (other sequential files and lines; left out, 65,535 bytes for a two-byte length
    /// prefix, 16 MiB for a four-byte one, [`LINE_LEN_MAX`] for lines, [`CSV_RECORD_MAX`] for delimited text, 1 MiB for
    /// spanned records). At most [`RECORD_SIZE_MAX`].
    pub record_size: Option<u64>,
    /// The prefix of GnuCOBOL variable sequential records (0 if left out); nothing else has one.
    pub varseq_format: Option<VarseqFormat>,
}

/// A format as it is written: the layout with its settings is one word.
#[derive(Serialize, Deserialize)]
struct Written {
    organization: Organization,
    layout: LayoutWords,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    varseq_format: Option<VarseqFormat>,
}

impl From<RecordFormat> for Written {
    fn from(format: RecordFormat) -> Written {
        Written {
            layout: format.layout_words(),
            organization: format.organization,
            record_size: format.record_size,
            varseq_format: format.varseq_format,
        }
    }
}

impl From<Written> for RecordFormat {
    fn from(written: Written) -> RecordFormat {
        RecordFormat {
            organization: written.organization,
            layout: written.layout.layout,
            settings: written.layout.settings,
            record_size: written.record_size,
            varseq_format: written.varseq_format,
        }
    }
}

/// A combination of organisation, layout and sizes that doesn't exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(pub String);

impl RecordFormat {
    /// The format of all static files.
    pub const STATIC: RecordFormat = RecordFormat {
        organization: Organization::Static,
        layout: Layout::Blocks,
        settings: Settings::NONE,
        record_size: None,
        varseq_format: None,
    };

    /// What records that end before their schema does are filled with by programs that read them: those of text files are
    /// written without the spaces at their end. `None`: they are as long as they are.
    pub fn padding(&self) -> Option<u8> {
        match self.layout {
            Layout::LineSequential | Layout::Newline => Some(b' '),
            _ => None,
        }
    }

    /// A format without a `record_size` or `varseq_format`.
    pub fn new(organization: Organization, layout: Layout) -> RecordFormat {
        RecordFormat {
            organization,
            layout,
            settings: Settings::NONE,
            record_size: None,
            varseq_format: None,
        }
    }

    /// The same with these settings of the layout.
    pub fn with_settings(self, settings: Settings) -> RecordFormat {
        RecordFormat { settings, ..self }
    }

    /// The layout with its settings, as it is typed.
    pub fn layout_words(&self) -> LayoutWords {
        LayoutWords {
            layout: self.layout,
            settings: self.settings.clone(),
        }
    }

    /// The same with this `record_size`.
    pub fn with_record_size(self, record_size: u64) -> RecordFormat {
        RecordFormat {
            record_size: Some(record_size),
            ..self
        }
    }

    /// The same with this `varseq_format`.
    pub fn with_varseq_format(self, varseq_format: VarseqFormat) -> RecordFormat {
        RecordFormat {
            varseq_format: Some(varseq_format),
            ..self
        }
    }

    /// Checks the combination and builds its codec. The error says what to write instead.
    pub fn codec(&self) -> Result<Box<dyn Codec>, LayoutError> {
        let codec = self.bare_codec()?;
        let is_micro_focus = matches!(
            self.layout,
            Layout::MicroFocusVariable | Layout::MicroFocusVariableCrlf
        );
        let settings = &self.settings;
        if settings.header.is_none() && settings.skip.is_empty() && !is_micro_focus {
            return Ok(codec);
        }
        let is_numbered = matches!(
            self.organization,
            Organization::Fixed | Organization::Relative
        );
        let mut headed = Headed::new(codec, is_numbered).skipping(settings.skip.clone());
        match settings.header {
            Some(Header::Bytes(count)) => headed = headed.behind(vec![0; count as usize]),
            Some(Header::Record) => headed = headed.without_first(),
            None => {}
        }
        if is_micro_focus {
            let is_relative = self.organization == Organization::Relative;
            headed = headed.behind(self.mf_header().file_header(is_relative, self.record_size));
        }
        Ok(Box::new(headed))
    }

    /// Micro Focus's record header, which depends on the longest record.
    fn mf_header(&self) -> MfHeader {
        MfHeader::of(self.record_size.unwrap_or(0))
    }

    /// The codec without a file's header and what else is no record by its settings.
    fn bare_codec(&self) -> Result<Box<dyn Codec>, LayoutError> {
        use Layout::{
            Blocks as RawBlocks, Counted, Csv, Gnucobol, IbmV, IbmVb, IbmVbs, IbmVs,
            LineSequential, MicroFocus, MicroFocusCrlf, MicroFocusVariable, MicroFocusVariableCrlf,
            Newline, NonstopVarout, Plain, RdwLittle, Vms,
        };
        use Organization::{Fixed as FixedRecords, Relative as Slots, Sequential, Static, Stream};

        self.check_record_size()?;
        self.settings.check(self.layout)?;
        if self.varseq_format.is_some()
            && (self.organization, self.layout) != (Sequential, Gnucobol)
        {
            return Err(LayoutError(format!(
                "varseq_format is only for organization = \"sequential\" with layout = \"gnucobol\", not for {} and {}: \
                 leave it out",
                self.organization, self.layout
            )));
        }
        Ok(match (self.organization, self.layout) {
            (FixedRecords, Plain | Gnucobol) => Box::new(Fixed::new(
                self.required_size("the length of a record")?,
                Identity::Number,
            )),
            (Slots, Gnucobol) => Box::new(Relative::new(
                SlotLength::Long,
                self.required_size("what a slot holds at most, without its 8-byte length")?,
            )),
            (Slots, Counted) => {
                let size =
                    self.required_size("what a slot holds at most, without its 2-byte length")?;
                self.check_sayable(SlotLength::Short.max(), "a slot's length")?;
                Box::new(Relative::new(SlotLength::Short, size))
            }
            (Slots, MicroFocus) => Box::new(Marked::new(
                Marker::Byte,
                self.required_size("what a slot holds, without its mark of one byte")?,
            )),
            (Slots, MicroFocusCrlf) => Box::new(Marked::new(
                Marker::Pair,
                self.required_size("what a slot holds, without its mark of two bytes")?,
            )),
            (Sequential, Plain) => {
                let what = "the length of a record (for records of varying length write layout = \"gnucobol\")";
                Box::new(Fixed::new(self.required_size(what)?, Identity::Address))
            }
            (Sequential, Gnucobol) => {
                let format = self.varseq_format.unwrap_or_default();
                self.prefixed(
                    Framing::Varseq(format),
                    &format!(
                        "a length prefix of varseq_format {format} (write varseq_format = 1 or 2, if that is what the file has)"
                    ),
                )?
            }
            (Slots, MicroFocusVariable | MicroFocusVariableCrlf) => {
                let size =
                    self.required_size("the length of the longest record, without its header")?;
                let marker = match self.layout {
                    MicroFocusVariable => Marker::Byte,
                    _ => Marker::Pair,
                };
                Box::new(TypedSlots::new(self.mf_header(), marker, size))
            }
            (Sequential, MicroFocusVariable) => {
                self.required_size("the length of the longest record (it decides how long the records' headers are)")?;
                self.prefixed(Framing::MicroFocus(self.mf_header()), "a record's header")?
            }
            (Sequential, NonstopVarout) => {
                let block = self.settings.block.unwrap_or(VAROUT_BLOCK_DEFAULT);
                if !block.is_multiple_of(2) || !(4..=1 << 16).contains(&block) {
                    return Err(LayoutError(format!(
                        "block is {block}, but a block of this layout has an even number of bytes from 4 to 65536"
                    )));
                }
                self.prefixed(Framing::Varout { block }, "a record's length")?
            }
            (Sequential, IbmV) => {
                let word = self.settings.rdw.unwrap_or(DescriptorWord::NATIVE);
                self.prefixed(Framing::Rdw(word), "a record descriptor word")?
            }
            (Sequential, RdwLittle) => self.prefixed(
                Framing::Rdw(DescriptorWord::LITTLE_EXCLUSIVE),
                "a record descriptor word",
            )?,
            (Sequential, IbmVb) => {
                let rdw = self.settings.rdw.unwrap_or(DescriptorWord::NATIVE);
                let longest = Framing::Rdw(rdw).len_max();
                self.check_sayable(longest, "a record descriptor word")?;
                let len_max = self.record_size.unwrap_or(longest) as usize;
                let bdw = self.settings.bdw.unwrap_or(DescriptorWord::NATIVE);
                Box::new(Blocked::of_records(bdw, rdw, len_max))
            }
            (Sequential, IbmVs | IbmVbs) => {
                let len_max = self.record_size.unwrap_or(SPANNED_RECORD_MAX) as usize;
                let bdw = self.settings.bdw.unwrap_or(DescriptorWord::NATIVE);
                let bdw = (self.layout == IbmVbs).then_some(bdw);
                Box::new(Blocked::of_segments(bdw, len_max))
            }
            (Sequential, Vms) => self.prefixed(Framing::Vms, "a record's length")?,
            (Sequential, LineSequential) | (Stream, Newline) => {
                // The record_size of a program is no limit for what other programs write: only raise.
                let size = self.record_size.unwrap_or(0) as usize + "\r\n".len();
                Box::new(Lines::new(size.max(LINE_LEN_MAX)))
            }
            (Stream, Csv) => Box::new(Quoted::new(
                self.settings.quote.unwrap_or(b'"'),
                self.settings.delimiter.unwrap_or(b','),
                self.record_size
                    .map_or(CSV_RECORD_MAX, |size| size as usize),
            )),
            (Stream, RawBlocks) => Box::new(Blocks::new(
                self.record_size.unwrap_or(BLOCK_SIZE_DEFAULT) as usize,
            )),
            (Static, RawBlocks) => Box::new(Blocks::new(
                self.record_size.unwrap_or(STATIC_BLOCK_BYTES) as usize,
            )),
            _ => return Err(self.misfit()),
        })
    }

    /// What a record's identity is, as the name of a column or a label: `record_number`,
    /// `slot_number`, `block_number`, or `address` for the byte address of a record or line.
    pub fn identity_name(&self) -> &'static str {
        match (self.organization, self.layout) {
            (Organization::Fixed, _) => "record_number",
            (Organization::Relative, _) => "slot_number",
            (Organization::Stream, Layout::Blocks) | (Organization::Static, _) => "block_number",
            (Organization::Sequential | Organization::Stream, _) => "address",
        }
    }

    /// One line for people: what lies on disk.
    pub fn describe(&self) -> String {
        let size = |what: &str| {
            self.record_size
                .map_or(String::new(), |size| format!("{what}{size} bytes"))
        };
        match (self.organization, self.layout) {
            (Organization::Fixed, _) => format!("records{}, by record number", size(" of ")),
            (Organization::Relative, Layout::MicroFocus | Layout::MicroFocusCrlf) => {
                format!("Micro Focus relative slots{}, by slot number", size(" of "))
            }
            (
                Organization::Relative,
                Layout::MicroFocusVariable | Layout::MicroFocusVariableCrlf,
            ) => format!(
                "Micro Focus relative slots{} behind a file header, by slot number",
                size(" of at most ")
            ),
            (Organization::Relative, layout) => format!(
                "{} slots{}, by slot number",
                if layout == Layout::Gnucobol {
                    "GnuCOBOL relative"
                } else {
                    "counted"
                },
                size(" of at most ")
            ),
            (Organization::Sequential, Layout::Plain) => {
                format!("records{}, by address", size(" of "))
            }
            (Organization::Sequential, Layout::Gnucobol) => format!(
                "GnuCOBOL variable records{} (COB_VARSEQ_FORMAT {}), by address",
                size(" of at most "),
                self.varseq_format.unwrap_or_default()
            ),
            (
                Organization::Sequential,
                Layout::IbmV
                | Layout::RdwLittle
                | Layout::IbmVb
                | Layout::IbmVs
                | Layout::IbmVbs
                | Layout::Vms
                | Layout::MicroFocusVariable
                | Layout::NonstopVarout,
            ) => format!(
                "{} records{}, by address",
                match self.layout {
                    Layout::Vms => "VMS variable",
                    Layout::IbmV => "IBM V",
                    Layout::IbmVb => "IBM VB",
                    Layout::IbmVs => "IBM VS",
                    Layout::IbmVbs => "IBM VBS",
                    Layout::MicroFocusVariable => "Micro Focus variable",
                    Layout::NonstopVarout => "NonStop VAROUT",
                    _ => "transferred IBM V",
                },
                size(" of at most ")
            ),
            (Organization::Stream, Layout::Csv) => "delimited text, by address".to_owned(),
            (Organization::Stream, Layout::Blocks) => {
                format!(
                    "blocks of {} bytes, by block number",
                    self.record_size.unwrap_or(BLOCK_SIZE_DEFAULT)
                )
            }
            (Organization::Static, _) => "a file as a whole".to_owned(),
            (Organization::Sequential | Organization::Stream, _) => {
                "text lines, by address".to_owned()
            }
        }
    }

    fn check_record_size(&self) -> Result<(), LayoutError> {
        match self.record_size {
            Some(0) => Err(LayoutError(
                "record_size is 0: write the length of a record in bytes, at least 1".to_owned(),
            )),
            Some(size) if size > RECORD_SIZE_MAX => Err(LayoutError(format!(
                "record_size is {size}, more than the largest one, {RECORD_SIZE_MAX} bytes: for a file that isn't made of \
                 records write organization = \"stream\" and layout = \"blocks\""
            ))),
            _ => Ok(()),
        }
    }

    /// The codec of records with length prefixes.
    fn prefixed(&self, framing: Framing, what: &str) -> Result<Box<dyn Codec>, LayoutError> {
        let longest = framing.len_max().min(RECORD_SIZE_MAX);
        self.check_sayable(longest, what)?;
        let len_max = self.record_size.unwrap_or(longest) as usize;
        Ok(Box::new(Prefixed::new(framing, len_max)))
    }

    /// Refuses a `record_size` that the file can't say.
    fn check_sayable(&self, longest: u64, what: &str) -> Result<(), LayoutError> {
        match self.record_size {
            Some(size) if size > longest => Err(LayoutError(format!(
                "record_size is {size}, but {what} says at most {longest}: write that or less"
            ))),
            _ => Ok(()),
        }
    }

    fn required_size(&self, what: &str) -> Result<usize, LayoutError> {
        self.record_size.map(|size| size as usize).ok_or_else(|| {
            LayoutError(format!(
                "organization = \"{}\" with layout = \"{}\" needs record_size: {what}, in bytes",
                self.organization, self.layout
            ))
        })
    }

    /// Why this layout doesn't go with this organization.
    fn misfit(&self) -> LayoutError {
        let instead = match (self.organization, self.layout) {
            (Organization::Fixed, Layout::Blocks) => {
                "write layout = \"plain\", or organization = \"stream\" for blocks numbered from 0"
            }
            (Organization::Fixed, _) => {
                "write layout = \"plain\", or organization = \"stream\" and layout = \"newline\" for text lines"
            }
            (Organization::Relative, Layout::Plain) => {
                "a slot needs a mark of whether it holds a record: write layout = \"gnucobol\", or organization = \"fixed\" \
                 for records that have a number and nothing before them"
            }
            (Organization::Relative, _) => {
                "write layout = \"gnucobol\", \"micro-focus\", \"micro-focus-crlf\", \"micro-focus-variable\", \
                 \"micro-focus-variable-crlf\" or \"counted\""
            }
            (Organization::Sequential, Layout::Newline) => {
                "write layout = \"line-sequential\", or organization = \"stream\" (the lines are read the same way)"
            }
            (Organization::Sequential, Layout::Csv) => {
                "write organization = \"stream\" (an identity is the address all the same)"
            }
            (Organization::Sequential, Layout::MicroFocusVariableCrlf) => {
                "write layout = \"micro-focus-variable\": records that follow each other have no marks"
            }
            (Organization::Sequential, _) => {
                "write layout = \"plain\", \"gnucobol\", \"ibm-v\", \"ibm-vb\", \"ibm-vs\", \"ibm-vbs\", \"rdw-little\", \
                 \"vms\", \"micro-focus-variable\", \"nonstop-varout\" or \"line-sequential\""
            }
            (Organization::Stream, Layout::LineSequential) => {
                "write layout = \"newline\", or organization = \"sequential\" (the lines are read the same way)"
            }
            (Organization::Stream, _) => "write layout = \"newline\", \"csv\" or \"blocks\"",
            (Organization::Static, _) => "write layout = \"blocks\"",
        };
        LayoutError(format!(
            "organization = \"{}\" doesn't go with layout = \"{}\": {instead}",
            self.organization, self.layout
        ))
    }
}

/// As settings: `relative, gnucobol, record_size 150`.
impl fmt::Display for RecordFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}{}", self.organization, self.layout, self.settings)?;
        if let Some(size) = self.record_size {
            write!(f, ", record_size {size}")?;
        }
        if let Some(format) = self.varseq_format {
            write!(f, ", varseq_format {format}")?;
        }
        Ok(())
    }
}
