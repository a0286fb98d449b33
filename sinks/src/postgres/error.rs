//! What PostgreSQL says, turned into what it means for the applier and for the person on duty.
//!
//! A server's `DETAIL` is left out: it shows values of rows, and those are nobody's business in a log.

use crate::SinkError;
use std::error::Error as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, error::DbError};

/// Adds what was being done to an error of PostgreSQL's.
pub(super) trait Doing<T> {
    /// `doing` is only called when there is an error.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError>;
}

impl<T> Doing<T> for Result<T, Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(|error| sink_error(doing(), &error))
    }
}

fn sink_error(doing: String, error: &Error) -> SinkError {
    let cause = cause(error);
    if is_transient(error) {
        return SinkError::Transient { doing, cause };
    }
    SinkError::Permanent {
        doing,
        cause,
        next: next(error).into(),
    }
}

/// What the server said, with its code, or what went wrong on the way to it.
fn cause(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        let hint = said
            .hint()
            .map_or(String::new(), |hint| format!("; hint: {hint}"));
        return format!("{} (SQLSTATE {}{hint})", said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Whether the server, the network or another session will be out of the way some time, without anybody changing the
/// configuration.
fn is_transient(error: &Error) -> bool {
    match error.as_db_error() {
        Some(said) => is_transient_state(said),
        // Nothing is wrong with the network when a certificate is.
        None => !is_about_tls(error) && !is_about_this_side(error),
    }
}

fn is_transient_state(said: &DbError) -> bool {
    let code = said.code();
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        // A standby becomes a primary, and the name that was configured leads to it.
        SqlState::READ_ONLY_SQL_TRANSACTION,
        // Somebody was faster, to make a table or a row: what is remembered is forgotten, and looked up again.
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_SCHEMA,
    ]
    .contains(code)
        // Connections, resources (disk, memory, connections).
        || ["08", "53"].iter().any(|class| code.code().starts_with(class))
}

fn is_about_tls(error: &Error) -> bool {
    let mut source = error.source();
    let mut is_about_network = false;
    while let Some(cause) = source {
        if cause.is::<rustls::Error>() {
            return true;
        }
        if let Some(failure) = cause.downcast_ref::<std::io::Error>() {
            // An I/O error shows what it wraps only this way.
            if failure
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>())
            {
                return true;
            }
            is_about_network = true;
        }
        source = cause.source();
    }
    !is_about_network && error.to_string().contains("TLS")
}

/// Not the network's fault, nor the server's: what was asked for can't be said in the protocol, or the answer not read.
fn is_about_this_side(error: &Error) -> bool {
    let text = error.to_string();
    [
        "error serializing",
        "error deserializing",
        "error encoding",
        "authentication error",
        "invalid configuration",
        "invalid column",
    ]
    .iter()
    .any(|words| text.starts_with(words))
}

fn next(error: &Error) -> &'static str {
    let Some(said) = error.as_db_error() else {
        return if is_about_tls(error) {
            "check `sslmode` and `ca_file`, and that the server's certificate names the host as the configuration does"
        } else if error.to_string().starts_with("authentication") {
            "check the password (`password_file`, PGPASSWORD or the service file) and how the server's pg_hba.conf lets this user in"
        } else {
            "report this: it is a fault of Counterfoil, unless something between here and the server changes what is sent"
        };
    };
    let code = said.code();
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "let the user of the configuration own the schema (`ALTER SCHEMA ... OWNER TO ...`), or grant it what is missing"
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        "create the database, or configure another"
    } else if code.code().starts_with("28") {
        "check the user, the password (`password_file`, PGPASSWORD or the service file) and the server's pg_hba.conf"
    } else if *code == SqlState::DEPENDENT_OBJECTS_STILL_EXIST {
        "drop or change what depends on the table"
    } else if *code == SqlState::CHECK_VIOLATION {
        "the table has a condition, or lacks a partition, for what the file holds: change that, or give the file another table"
    } else if code.code().starts_with("22")
        || code.code().starts_with("23")
        || code.code().starts_with("54")
    {
        "the row can't be held by its table: change the table, or leave the file out of this sink"
    } else {
        "check whether somebody changed the tables; mirroring into an empty schema is always possible"
    }
}
