//! The durable, ordered log of captured operations.
//!
//! Payloads are opaque bytes. Each becomes one *entry* with a log sequence number (*lsn*): a `u64`, dense, from 1.
//! Entries lie in *segments*; a segment belongs to one *epoch*, and epochs grow. The bytes on disk are described in
//! `docs/journal-format.md`.
//!
//! # What it promises
//! - **Order.** Entries come back in the order they were appended, without gaps or repetitions.
//! - **Written is not durable.** [`Journal::append_batch`] writes: readers see the entries, a killed process does not
//!   lose them, a power cut may. [`Journal::sync`] makes durable. Every "end" in this crate is exclusive: a written or
//!   durable end of 10 covers the entries 1 to 9.
//! - **After a crash** every durable entry is there, and what survives of the rest is a prefix of it. What did not
//!   survive is cut off and reported ([`Recovery::torn_tail`]). A journal that was not closed takes new entries only
//!   under a new epoch, so a position `(epoch, lsn)` is never used twice.
//! - **Damage is an error**, never a shorter journal: whatever was known to be durable and cannot be read is refused
//!   with the segment and the offset.
//! - **A full disk is not the end.** An append that fails leaves no trace, and may be tried again. A failed `fsync` is:
//!   afterwards nobody knows what the disk holds, so the journal refuses all further work until it is opened again.
//!
//! # Limits
//! One writer, which holds the state directory's lock; any number of readers, in this process
//! ([`Journal::reader`]) or another ([`JournalReader::open`]). A payload has at most [`PAYLOAD_BYTES_MAX`] bytes and a
//! batch at most [`BATCH_BYTES_MAX`]. Memory: one batch in the writer, one read buffer per reader (256 KiB, or the
//! largest entry). Damage to entries that were synced but have nothing behind them (no later entry, epoch, segment or
//! clean close) cannot be told from a torn tail, and is cut off as one.

mod cursor;
mod error;
mod mark;
mod progress;
mod reader;
mod recovery;
mod scan;
mod segment;
mod storage;
mod writer;

#[cfg(test)]
mod tests;

pub use cursor::Cursors;
pub use error::{Error, Result};
pub use progress::Progress;
pub use reader::{Entry, JournalReader};
pub use recovery::{CursorAhead, Recovery, TornTail, Verify};
pub use segment::{BATCH_BYTES_MAX, FORMAT_VERSION, PAYLOAD_BYTES_MAX};
pub use storage::{DiskStorage, Storage};
pub use writer::{Batch, Journal, Options, Released, SEGMENTS_KEPT, Stats};

#[cfg(any(test, feature = "faulty"))]
pub use storage::faulty;

/// A log sequence number: the place of an entry in the journal. Dense, from 1, never used twice within an epoch.
pub type Lsn = u64;
