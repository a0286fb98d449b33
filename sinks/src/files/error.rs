//! What the system says, turned into what it means for the applier and for the person on duty.

use super::frame::Unreadable;
use crate::SinkError;
use crate::sql::permanent;
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// Adds what was being done to an error of the system's.
pub(super) trait Doing<T> {
    /// `doing` is only called when there is an error.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(|error| sink_error(doing(), &error))
    }
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(io::Error::from).doing(doing)
    }
}

fn sink_error(doing: String, error: &io::Error) -> SinkError {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    let cause = error.to_string();
    match code {
        // Disks get room again, and limits are let go, without anybody changing the configuration.
        Some(
            Errno::NOSPC
            | Errno::DQUOT
            | Errno::NOMEM
            | Errno::MFILE
            | Errno::NFILE
            | Errno::BUSY
            | Errno::TXTBSY
            | Errno::AGAIN
            | Errno::IO
            | Errno::STALE,
        ) => SinkError::Transient { doing, cause },
        _ => SinkError::Permanent {
            doing,
            cause,
            next: next(code).to_owned(),
        },
    }
}

fn next(code: Option<Errno>) -> &'static str {
    match code {
        Some(Errno::ACCESS | Errno::PERM) => {
            "let the user that the replicator runs as write there, or run it as another one"
        }
        Some(Errno::ROFS) => "mount the file system so that it can be written to",
        Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            "move what is in the way somewhere else"
        }
        Some(Errno::XDEV) => {
            "have all of what is mirrored in one directory on one file system, so that files can be renamed"
        }
        Some(Errno::FBIG) => "use a file system that holds files of this size",
        Some(Errno::NAMETOOLONG) => "use a file system that takes names of this length",
        _ => "correct that; what is done already is kept",
    }
}

/// A file of Counterfoil's own that can't be read.
pub(super) fn unreadable(error: Unreadable, file: &Path) -> SinkError {
    match error {
        Unreadable::Io(error) => sink_error(format!("reading {}", file.display()), &error),
        Unreadable::Damaged { offset, reason } => permanent(
            format!("reading {} at byte {offset}", file.display()),
            reason,
            "put back a copy of the whole root directory, or remove all that is mirrored there with its directory \
             .counterfoil, and let everything be loaded again",
        ),
    }
}
