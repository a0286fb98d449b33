//! Change events as they travel within one process.
//!
//! The wire form is `counterfoil.v1.ChangeEvent`; past one machine events are encoded to it, within one process they are
//! handed over as they are.

use crate::capture::operation::Attributes;
use crate::digest::Digest;
use counterfoil_proto::Position;
use counterfoil_sinks::FileDescription;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::mpsc::Sender;

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

impl Event {
    /// About how many bytes it takes in memory.
    pub fn volume(&self) -> usize {
        let content = match &self.change {
            Change::Put { data, rest, .. } => data.len() + rest.len(),
            Change::Residue { bytes, .. } => bytes.len(),
            _ => 0,
        };
        size_of::<Event>() + content
    }
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
    /// What is in a range at this position, for a target to compare itself with; changes nothing.
    Checksum(Checksum),
}

/// What is in a range of a file, as part of a round that goes through all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// First identity.
    pub from: u64,
    /// First identity that isn't in it; `u64::MAX`: all that follow are.
    pub to: u64,
    /// What its records and residues amount to. `None`: a unit of work that isn't complete is at it, so nothing can be said.
    pub digest: Option<Digest>,
    /// Which round it is of; greater than every earlier one of the site.
    pub round: u64,
    /// How many ranges of the file came before it in the round.
    pub number: u32,
    /// With it the round is through with the file.
    pub last: bool,
}

/// Events of whole units, in order, and how far they reach.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The events; none when operations led to none.
    pub events: Vec<Event>,
    /// Streams (by index) that begin anew at a position, before all events.
    pub begins: Vec<(u16, Position)>,
    /// Streams to begin with anew, before everything else.
    pub asks: Vec<Ask>,
    /// First lsn that is not covered.
    pub end: u64,
}

/// What was given of a stream and isn't applied is to be forgotten, and what the target has of it is to be said.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Index of the stream.
    pub stream: u16,
    /// Where the answer goes.
    pub answer: Sender<Option<Position>>,
}
