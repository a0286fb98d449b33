//! Change events as they travel within one process.
//!
//! The wire form is `counterfoil.v1.ChangeEvent`; past one machine events are encoded to it, within one process they are
//! handed over as they are.

use crate::capture::operation::Attributes;
use counterfoil_proto::Position;
use counterfoil_sinks::FileDescription;
use std::borrow::Cow;
use std::sync::Arc;

/// What happened to a record or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Strictly growing within the stream.
    pub position: Position,
    /// Index of the consistency group.
    pub group: u16,
    /// The file.
    pub file: Arc<FileDescription>,
    /// Size of the file in bytes when the event was made.
    pub size: u64,
    /// What happened.
    pub change: Change,
    /// Wall clock of the operation that completed the unit, nanoseconds since 1970.
    pub captured_ns: i64,
    /// Process id of the program, 0 when the file was read.
    pub pid: u32,
    /// It comes from reading the file, not from an operation.
    pub snapshot: bool,
    /// The record that the stream last told of under the same identity, where the group asks for it and there was one.
    pub before: Option<RecordImage>,
}

/// A record at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordImage {
    /// Its content.
    pub data: Vec<u8>,
    /// Bytes that belong to it and aren't content.
    pub rest: Vec<u8>,
}

/// The kinds of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file is there (and may have no records yet).
    Created,
    /// A record's image.
    Put {
        /// The record's identity.
        id: u64,
        /// Its content.
        data: Vec<u8>,
        /// Bytes that belong to it and aren't content.
        rest: Vec<u8>,
    },
    /// Bytes that aren't a record; a record with this identity is deleted.
    Residue {
        /// The piece's identity.
        id: u64,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Why it isn't a record.
        reason: Cow<'static, str>,
    },
    /// Nothing is there; a record with this identity is deleted.
    Absent {
        /// The piece's identity.
        id: u64,
    },
    /// Everything with an identity in the range is deleted; `u64::MAX` as end means all that follow.
    Cleared {
        /// First identity.
        from: u64,
        /// First identity that stays.
        to: u64,
    },
    /// The file has a new path, the one in `file`.
    Renamed {
        /// What was its path before.
        from: Arc<FileDescription>,
    },
    /// The file is gone.
    Removed,
    /// Kind, permissions, owner and time.
    Attributes(Attributes),
}

/// Events of whole units, in order, and how far they reach.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The events; none when operations led to none.
    pub events: Vec<Event>,
    /// Streams (by index) that begin anew at a position, before all events.
    pub begins: Vec<(u16, Position)>,
    /// First lsn that is not covered.
    pub end: u64,
}
