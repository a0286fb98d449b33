//! What a driver says, turned into what it means for the applier and for the person on duty.

use super::dialect::Dialect;
use crate::SinkError;
use crate::sql::permanent;
use odbc_api::Error;

/// What went wrong in a call to the driver.
#[derive(Debug)]
pub(super) struct Fault {
    /// The SQLSTATE, five characters; empty if the driver said none.
    state: String,
    /// The database's own number.
    native: i32,
    message: String,
    dialect: Dialect,
    /// Whether there was no connection yet.
    is_first: bool,
}

impl Fault {
    /// `secret` is left out of what the driver says.
    pub(super) fn new(error: Error, dialect: Dialect, secret: Option<&str>) -> Fault {
        let mut fault = match error {
            Error::Diagnostics { record, .. } | Error::UnableToRepresentNull(record) => Fault {
                state: record.state.as_str().to_owned(),
                native: record.native_error,
                message: String::from_utf16_lossy(&record.message),
                dialect,
                is_first: false,
            },
            other => Fault {
                state: String::new(),
                native: 0,
                message: other.to_string(),
                dialect,
                is_first: false,
            },
        };
        if let Some(secret) = secret
            && !secret.is_empty()
        {
            fault.message = fault.message.replace(secret, "***");
        }
        fault
    }

    /// Something that the driver did, and shouldn't have.
    pub(super) fn odd(message: impl Into<String>, dialect: Dialect) -> Fault {
        Fault {
            state: String::new(),
            native: 0,
            message: message.into(),
            dialect,
            is_first: false,
        }
    }

    /// As it is if there was no connection yet.
    pub(super) fn at_first(self) -> Fault {
        Fault {
            is_first: true,
            ..self
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_of_connection(&self) -> bool {
        self.state.starts_with("08")
            || self.state.starts_with("57P0")
            || self.dialect.ends_connections().contains(&self.native)
            // MariaDB's driver has no state for it, and nobody can have asked the database what it is.
            || self.is_first && Dialect::Mysql.ends_connections().contains(&self.native)
    }

    /// Whether the value of a unique index was taken.
    pub(super) fn is_duplicate(&self) -> bool {
        self.state == "23505" || self.dialect.duplicates().contains(&self.native)
    }

    /// What it means; `doing` says what was being done.
    pub(super) fn at(&self, doing: String) -> SinkError {
        let shown = format!("SQLSTATE {}, error {}", self.state, self.native);
        // What is said of values may have them in it: pieces of somebody's records, and no business of a log.
        let mut cause = if self.is_of_values() {
            let message = &self.message;
            let is_named = |name: &&str| {
                ["`", "\"", "'"]
                    .iter()
                    .any(|quote| message.contains(&format!("{quote}{name}{quote}")))
            };
            let column = ["data", "rest"].into_iter().find(is_named);
            let column = column.map_or(String::new(), |name| format!(", column {name}"));
            format!("the database doesn't take the values{column} ({shown})")
        } else {
            let message = self.message.lines().next().unwrap_or_default();
            let message = message.split("DETAIL:").next().unwrap_or_default();
            format!("{} ({shown})", message.trim_end())
        };
        if self.state == "53100" || self.dialect.full().contains(&self.native) {
            cause.push_str(": make room for the database");
        }
        if self.is_transient() {
            return transient(doing, cause);
        }
        let next = match self.state.get(..2).unwrap_or_default() {
            "28" => "check `username` and `password_file`, and what the server lets in",
            "IM" | "01" => {
                "check `dsn`, or the path of the driver in `connection`; `odbcinst -q -d` and `odbcinst -q -s` list what is known"
            }
            "22" => "leave the file out of this sink, and report it",
            "23" => {
                cause.push_str("; a unique index or a constraint on the table of the file");
                "drop that index or constraint: records of a file may be alike, and no row but the record's own is ever replaced"
            }
            "HY" if self.state == "HYC00" => "the driver can't do that: use another driver",
            _ if self.is_denied() => {
                "GRANT the user what it takes: SELECT, INSERT, UPDATE and DELETE, and CREATE for tables and views"
            }
            _ => {
                "check whether something else changed the tables, and whether `dialect` is that of the database; mirroring into an empty schema is always possible"
            }
        };
        permanent(doing, cause, next)
    }

    /// As [`Fault::at`], of a statement that writes rows of a file: what the database doesn't take of them is refused, and
    /// the rest of the batch may go.
    pub(super) fn of_rows(&self, doing: String) -> SinkError {
        match self.at(doing) {
            SinkError::Permanent { doing, cause, .. } if self.is_of_values() => {
                SinkError::Refused { doing, cause }
            }
            other => other,
        }
    }

    fn is_of_values(&self) -> bool {
        self.state.starts_with("22") || self.state.starts_with("23") || self.is_duplicate()
    }

    fn is_denied(&self) -> bool {
        self.state == "42501" || self.dialect.denials().contains(&self.native)
    }

    /// By the class of the SQLSTATE, and by the database's own number where a driver gives a poor state.
    fn is_transient(&self) -> bool {
        let state = self.state.as_str();
        self.is_of_connection()
            || ["40", "53", "57", "58"]
                .iter()
                .any(|class| state.starts_with(class))
            || [
                "HYT00", "HYT01", "HY008", "55P03", "55006", "25006", "S1T00",
            ]
            .contains(&state)
            || self.dialect.passing().contains(&self.native)
    }
}

/// Adds what was being done.
pub(super) trait Doing<T> {
    /// `doing` is only called when there is an error.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError>;
}

impl<T> Doing<T> for Result<T, Fault> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(|fault| fault.at(doing()))
    }
}

/// Something that may pass by itself.
pub(super) fn transient(doing: impl Into<String>, cause: impl Into<String>) -> SinkError {
    SinkError::Transient {
        doing: doing.into(),
        cause: cause.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_whether_waiting_helps() {
        let fault = |state: &str, native, dialect| Fault {
            state: state.into(),
            native,
            message: "Duplicate entry 'a secret'\nmore".into(),
            dialect,
            is_first: false,
        };
        for (state, native, dialect, passes) in [
            ("08S01", 0, Dialect::Generic, true),
            ("40001", 0, Dialect::Generic, true),
            ("HYT00", 0, Dialect::SqlServer, true),
            ("57P01", 0, Dialect::Postgresql, true),
            ("53100", 0, Dialect::Postgresql, true),
            ("HY000", 1205, Dialect::Mysql, true),
            ("HY000", 5, Dialect::Sqlite, true),
            ("HY000", 5, Dialect::Generic, false),
            ("HY000", 60, Dialect::Oracle, true),
            ("HY000", -911, Dialect::Db2, true),
            ("42S02", 0, Dialect::Generic, false),
            ("28000", 0, Dialect::Postgresql, false),
            ("IM002", 0, Dialect::Generic, false),
            ("23000", 1062, Dialect::Mysql, false),
        ] {
            let error = fault(state, native, dialect).at("writing".into());
            assert_eq!(error.is_transient(), passes, "{state} {native}: {error}");
        }
        let away = fault("HY000", 2002, Dialect::Generic).at_first();
        assert!(away.at("connecting".into()).is_transient());
        let duplicate = fault("23000", 1062, Dialect::Mysql);
        assert!(duplicate.is_duplicate());
        let text = duplicate.at("writing".into()).to_string();
        assert!(!text.contains("secret") && text.contains("1062"), "{text}");
    }
}
