//! What SQLite says, turned into what it means for the applier and for the person on duty.

use crate::SinkError;
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// Adds what was being done to an error of SQLite's.
pub(super) trait Doing<T> {
    /// `doing` is only called when there is an error.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError>;
}

impl<T> Doing<T> for Result<T, rusqlite::Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(|error| sink_error(doing(), &error))
    }
}

fn sink_error(doing: String, error: &rusqlite::Error) -> SinkError {
    let cause = cause(error);
    match error.sqlite_error() {
        Some(failure) if is_transient(failure) => SinkError::Transient { doing, cause },
        Some(failure) if is_refused(failure) => SinkError::Refused { doing, cause },
        failure => SinkError::Permanent {
            doing,
            cause,
            next: next(failure.map(|failure| failure.code)).into(),
        },
    }
}

/// Locks are let go, and disks get room again, without anybody changing the configuration.
fn is_transient(failure: &ffi::Error) -> bool {
    matches!(
        failure.code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
    ) || matches!(
        // A full disk shows as one of these when it is the -shm file that can't grow.
        failure.extended_code,
        ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP | ffi::SQLITE_IOERR_NOMEM
    )
}

/// A constraint, or a trigger that raised; or a value longer than SQLite's longest.
fn is_refused(failure: &ffi::Error) -> bool {
    matches!(
        failure.code,
        ErrorCode::ConstraintViolation | ErrorCode::TooBig
    )
}

/// SQLite's message; with its code where that says more, for messages are few and codes are many.
fn cause(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            let message = match message {
                Some(message) if !message.is_empty() => message,
                _ => ffi::code_to_str(failure.extended_code),
            };
            if failure.extended_code > 0xff {
                format!("{message} (SQLite error {})", failure.extended_code)
            } else {
                message.to_owned()
            }
        }
        other => other.to_string(),
    }
}

fn next(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(ErrorCode::NotADatabase) => "give the sink another path, or move that file away",
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => "let the user that runs Counterfoil write the file and its directory",
        Some(ErrorCode::CannotOpen) => {
            "check that the directory exists and that the user that runs Counterfoil may write in it"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "put the file back from a backup, or move it away, so that everything is mirrored anew"
        }
        Some(ErrorCode::SystemIoFailure) => "check the disk, and the system's log for errors of it",
        _ => {
            "check whether something else changed the tables; mirroring into an empty database is always possible"
        }
    }
}
