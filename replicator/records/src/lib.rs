//! Organisations and layouts of record files.
//!
//! Two independent things describe a file: its [`Organization`] says what a record's identity is,
//! its [`Layout`] says how records lie on disk. A [`Codec`] is built from both. Codecs are pure
//! (bytes in, pieces out, no I/O), streaming, and exact in both directions: whatever the bytes are,
//! concatenating the encoded pieces gives the same bytes again.
//!
//! [`guess()`] goes the other way: from a sample of a file to the formats that it may be in. It is
//! advice for a person to confirm, never a decision.
//!
//! What is in a record is in [`schema`]: fields, and the columns that they become. [`copybook`] reads
//! COBOL copybooks. [`value`] has every encoding of a field, and a [`RecordDecoder`] and [`RecordEncoder`] go from a record to
//! the values of its columns and back.
//!
//! The layouts byte by byte, with their traps, are in `docs/record-layouts.md`, the encodings in
//! `docs/field-values.md`.

mod bytes;
mod codec;
pub mod copybook;
mod guess;
mod layout;
mod record;
pub mod schema;
mod settings;
pub mod value;

pub use codec::{Boundaries, Codec, EncodeError, Piece, PieceKind, Within};
pub use guess::{Confidence, Guess, Sample, guess};
pub use layout::{
    BLOCK_SIZE_DEFAULT, CSV_RECORD_MAX, LINE_LEN_MAX, Layout, LayoutError, Organization,
    RECORD_SIZE_MAX, RESIDUE_ALIGN, RecordFormat, STATIC_BLOCK_BYTES, VarseqFormat,
};
pub use record::{
    Cell, EncodeRecordError, FieldError, Read, RecordDecoder, RecordEncoder, Room, Wanted,
};
pub use settings::{DescriptorWord, Header, LAYOUT_WORDS_MAX, LayoutWords, Settings};
