//! Organisations and layouts of record files.
//!
//! Two independent things describe a file: its [`Organization`] says what a record's identity is,
//! its [`Layout`] says how records lie on disk. A [`Codec`] is built from both. Codecs are pure
//! (bytes in, pieces out, no I/O), streaming, and exact in both directions: whatever the bytes are,
//! concatenating the encoded pieces gives the same bytes again.

mod codec;
mod layout;

pub use codec::{Boundaries, Codec, DecodeError, Piece, PieceKind};
pub use layout::{Layout, LayoutError, Organization, RecordFormat, VarseqFormat};
