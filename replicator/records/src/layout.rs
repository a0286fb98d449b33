//! What a configuration says about a file's records, checked and turned into a [`Codec`].

use crate::Codec;
use serde::{Deserialize, Serialize};

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
}

/// How records lie on disk, by the name that a configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Records back to back, nothing between them.
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
            other => return Err(LayoutError(format!("varseq_format is 0, 1, 2 or 3 (as COB_VARSEQ_FORMAT), not {other}"))),
        })
    }
}

/// Organisation, layout and sizes together: everything a codec needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordFormat {
    /// What operations mean.
    pub organization: Organization,
    /// How records lie on disk.
    pub layout: Layout,
    /// Record length in bytes (fixed), the slot's maximum (relative), the block size (blocks), the
    /// longest record where one is known (sequential).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_size: Option<u64>,
    /// The prefix of GnuCOBOL variable sequential records; fixed sequential ones have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub varseq_format: Option<VarseqFormat>,
}

/// A combination of organisation, layout and sizes that doesn't exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(pub String);

impl RecordFormat {
    /// Checks the combination and builds its codec. The error says what to write instead.
    pub fn codec(&self) -> Result<Box<dyn Codec>, LayoutError> {
        Err(LayoutError(format!("no codec for {self:?}")))
    }
}
