//! What PostgreSQL says, turned into what it means for the applier and for the person on duty.
//!
//! A server's `DETAIL` is left out: it shows values of rows, and those are nobody's business in a log.

use crate::SinkError;
use crate::naming::OWN_PREFIX;
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
    if error.as_db_error().is_some_and(is_refusal) {
        return SinkError::Refused { doing, cause };
    }
    SinkError::Permanent {
        doing,
        cause,
        next: next(error).into(),
    }
}

/// Whether the server said this.
pub(super) fn has_code(error: &Error, code: &SqlState) -> bool {
    error.code() == Some(code)
}

/// What the server said beside the message of an error that is about tables and not about values in them.
pub(super) fn detail(error: &Error) -> String {
    let detail = error.as_db_error().and_then(DbError::detail);
    detail.map_or(String::new(), |detail| {
        format!("; {}", detail.replace('\n', "; "))
    })
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
        // Somebody was faster, to make a table: what is remembered is forgotten, and looked up again.
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_SCHEMA,
    ]
    .contains(code)
        // Connections, resources (disk, memory, connections).
        || ["08", "53"].iter().any(|class| code.code().starts_with(class))
        // Or to make a row, of Counterfoil's own or in a catalogue of the server's.
        || (*code == SqlState::UNIQUE_VIOLATION && is_about_own_key(said))
}

/// Whether a row is in the way by a key that isn't anybody else's.
fn is_about_own_key(said: &DbError) -> bool {
    let key = said.constraint().unwrap_or_default();
    key.starts_with(OWN_PREFIX) || key.starts_with("pg_")
}

/// Whether it is a value or a row that is refused: what a type, a constraint, a view or a trigger doesn't take.
fn is_refusal(said: &DbError) -> bool {
    let code = said.code();
    // Data exceptions, integrity constraints, WITH CHECK OPTION, errors that a trigger raises.
    ["22", "23", "44", "P0"].iter().any(|class| code.code().starts_with(class))
        // A value that is too long for an index.
        || *code == SqlState::PROGRAM_LIMIT_EXCEEDED
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
    } else {
        "check whether somebody changed the tables; mirroring into an empty schema is always possible"
    }
}
