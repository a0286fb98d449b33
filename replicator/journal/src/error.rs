//! What can go wrong with a journal, and what to do about it.
//!
//! A message names the operation, the file, the cause and the next step, so it may be printed by itself. The operating
//! system's error is therefore not a *source*, which would print it twice; it is a field.

use std::io;

use crate::Lsn;

/// The result of a journal operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a journal operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage refused. Nothing that was accepted before is affected; [`Error::is_retryable`] says whether the same
    /// call may succeed later.
    #[error("cannot {action} {name} of the journal: {cause}{}", hint(cause))]
    Io {
        /// What was being done, as an infinitive.
        action: &'static str,
        /// The file in the journal's directory, or `directory`.
        name: String,
        /// The storage's error.
        cause: io::Error,
    },

    /// A sync failed. What the disk holds is unknown from here on, so the journal accepts nothing more.
    #[error(
        "cannot make {name} durable: {cause}; the journal accepts nothing more, since a second sync could succeed without having \
         saved anything. Look at the disk and the kernel log, then restart: recovery keeps what can still be read"
    )]
    SyncFailed {
        /// The segment that was being synced.
        name: String,
        /// The storage's error.
        cause: io::Error,
    },

    /// An earlier sync failed.
    #[error(
        "the journal accepts nothing more since syncing {name} failed; restart to recover what can be read"
    )]
    Poisoned {
        /// The segment whose sync failed.
        name: String,
    },

    /// Bytes that were known to be durable are not what was written.
    #[error(
        "journal segment {segment} is damaged at offset {offset}: {reason}. Nothing was changed. Restore the segment from \
         a backup, or move the journal's directory away and read the mirrored files again"
    )]
    Damaged {
        /// The segment's file name.
        segment: String,
        /// Where the first wrong byte may be, from the beginning of the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },

    /// The segments there are do not follow each other.
    #[error(
        "a journal segment is missing: {segment} says that {expected} comes before it, but {found} does. Put the missing \
         file back, or move the journal's directory away and read the mirrored files again"
    )]
    MissingSegment {
        /// The segment after the gap.
        segment: String,
        /// The segment that should come before it.
        expected: String,
        /// The one that does.
        found: String,
    },

    /// A file was written by a newer version of this software.
    #[error(
        "{name} in the journal has format version {found}, and this program knows version {known}. Upgrade this program, \
         or move the journal's directory away and read the mirrored files again"
    )]
    NewerVersion {
        /// The file.
        name: String,
        /// The version it says it has.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },

    /// The file of a cursor cannot be trusted.
    #[error(
        "cursor file {name} in the journal is damaged: {reason}. Remove the file to make its reader begin at the oldest \
         entry"
    )]
    DamagedCursor {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A cursor's name would not make a good file name.
    #[error("{name:?} cannot name a cursor: use 1 to 64 of the characters a-z, 0-9, '-' and '_'")]
    CursorName {
        /// The name that was asked for.
        name: String,
    },

    /// An epoch must be greater than every one before it.
    #[error("cannot begin epoch {asked}: the journal is at epoch {current}, and epochs must grow")]
    EpochNotGrowing {
        /// The journal's epoch.
        current: u64,
        /// The epoch that was asked for.
        asked: u64,
    },

    /// The journal is new or was not closed, so entries need a new epoch.
    #[error(
        "cannot append: the journal is new or was not closed cleanly; begin an epoch after {last} first"
    )]
    EpochNeeded {
        /// The last epoch there was; 0 if none.
        last: u64,
    },

    /// A payload is longer than an entry may be.
    #[error("cannot append an entry of {bytes} bytes: the limit is {limit}; split it")]
    PayloadTooLarge {
        /// The payload's length.
        bytes: usize,
        /// The longest there may be.
        limit: usize,
    },

    /// A batch grew longer than it may be.
    #[error("cannot append a batch of more than {limit} bytes; append in several batches")]
    BatchTooLarge {
        /// The longest there may be, entries' headers included.
        limit: usize,
    },

    /// The entries from this lsn on have been deleted, since every cursor had passed them.
    #[error(
        "cannot read the journal from lsn {lsn}: entries before {first_lsn} were released. Read the mirrored files again"
    )]
    Released {
        /// The entry that was asked for.
        lsn: Lsn,
        /// The first there still is.
        first_lsn: Lsn,
    },

    /// A position past the end of the journal.
    #[error("lsn {lsn} is past the journal's end at {next_lsn}")]
    BeyondEnd {
        /// The position that was given.
        lsn: Lsn,
        /// The lsn the next entry will have.
        next_lsn: Lsn,
    },
}

impl Error {
    /// Whether the same call may succeed later without anything being reopened: the disk was full, or the system was
    /// short of something.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Io { .. })
    }

    /// Whether the disk (or a quota on it) was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Error::Io { cause, .. } | Error::SyncFailed { cause, .. } => full(cause),
            _ => false,
        }
    }
}

pub(crate) fn full(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The next step, as far as the kind of error tells it.
fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        _ if full(cause) => {
            "; free some space, nothing that was accepted is lost and the call may be \
             repeated"
        }
        io::ErrorKind::PermissionDenied => {
            "; the journal's directory must belong to the user that runs this program"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; look at the kernel log, then remount it",
        _ => "",
    }
}

/// Names the operation and the file of a storage error.
pub(crate) trait Doing<T> {
    fn doing(self, action: &'static str, name: &str) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, name: &str) -> Result<T> {
        self.map_err(|cause| Error::Io {
            action,
            name: name.to_owned(),
            cause,
        })
    }
}
