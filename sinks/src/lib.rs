//! Sinks: where change events become rows.
//!
//! [`Sink`] is the one small trait; a target database is one folder that implements it. A batch is
//! applied atomically with its position, so a sink can always say exactly how far it is, and that
//! stored position outranks every offset kept elsewhere.

mod batch;
mod sink;

pub use batch::{Attributes, Batch, FileChanges, FileDescription, FileFate, Image, StoredFile, StoredPiece};
pub use sink::{Sink, SinkError};
