//! What a server says, turned into what it means for the applier and for the person on duty.

use crate::SinkError;
use crate::sql::permanent;
use mysql_async::{DriverError, Error, IoError};

/// Adds what was being done to an error of the server's or of the way to it.
pub(super) trait Doing<T> {
    /// `doing` is only called when there is an error.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError>;
}

impl<T> Doing<T> for Result<T, Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SinkError> {
        self.map_err(|error| sink_error(doing(), &error))
    }
}

/// Something that may pass by itself.
pub(super) fn transient(doing: impl Into<String>, cause: impl Into<String>) -> SinkError {
    SinkError::Transient {
        doing: doing.into(),
        cause: cause.into(),
    }
}

/// Whether the server said this, by number.
pub(super) fn is_code(error: &Error, codes: &[u16]) -> bool {
    matches!(error, Error::Server(server) if codes.contains(&server.code))
}

/// What a statement says that found the value of a unique index taken.
pub(super) const DUPLICATE: u16 = 1062;
/// What our `ON DUPLICATE KEY UPDATE` says where the row it met is another one (see `rows`).
pub(super) const NULL_IDENTITY: u16 = 1048;
/// A row that is too large, as it is or as it may become.
pub(super) const ROW_TOO_LARGE: u16 = 1118;
pub(super) const TOO_MANY_COLUMNS: u16 = 1117;
/// A table that isn't there, and a view whose table isn't.
pub(super) const NO_TABLE: [u16; 2] = [1146, 1356];
/// `LOAD DATA LOCAL` isn't allowed here.
pub(super) const NO_LOCAL_INFILE: [u16; 4] = [1148, 3948, 4166, 2068];

/// Whether a statement found that a row it met is another one: what it wanted to do with that can't be done.
pub(super) fn is_null_identity(error: &Error) -> bool {
    matches!(error, Error::Server(server)
        if server.code == NULL_IDENTITY && server.message.contains("'id'"))
}

/// The error of a write that met a row by a unique index; `message` is the server's.
pub(super) fn duplicate(doing: String, message: &str) -> SinkError {
    // The message has the value in it, which is a piece of somebody's record, and no business of a log.
    let key = message.rsplit("for key ").next().unwrap_or_default();
    let key = key.trim_matches(['\'', '`', '"']);
    if key == "PRIMARY" || key.ends_with(".PRIMARY") {
        return transient(
            doing,
            "somebody else put a row there meanwhile; what is known of the table is read anew",
        );
    }
    let which = if key.is_empty() || key == message {
        "a unique index".to_owned()
    } else {
        format!("the unique index {key:?}")
    };
    SinkError::Refused {
        doing,
        cause: format!(
            "{which} has the value of another row already, and that row is never overwritten; records of a file may be \
             alike, so drop that index, or make it one that isn't unique"
        ),
    }
}

/// The error that a load's warning comes to.
pub(super) fn complaint(doing: String, code: u16, message: &str) -> SinkError {
    if is_refusal(code, "") {
        return refused(doing, code, message);
    }
    permanent(
        doing,
        format!("{message} (warning {code})"),
        "check whether something else changed the table",
    )
}

/// Whether the server doesn't take a value or a row, but would take others: by number, or by the classes of SQLSTATE for data,
/// integrity, views' conditions, and what triggers raise.
fn is_refusal(code: u16, state: &str) -> bool {
    match code {
        // Out of range, cut off, not a value of the type, too long, NULL, foreign keys, too large, a view's or a table's
        // condition, raised by a trigger.
        1048 | 1216 | 1217 | 1264 | 1265 | 1292 | 1366 | 1367 | 1369 | 1406 | 1411 | 1451
        | 1452 | 1525 | 1644 | 1690 | 3819 | 4025 | ROW_TOO_LARGE => true,
        _ => ["22", "23", "44", "45"]
            .iter()
            .any(|class| state.starts_with(class)),
    }
}

/// The error of a value or row that isn't taken. What the server shows of the value is somebody's record, and stays out of it.
fn refused(doing: String, code: u16, message: &str) -> SinkError {
    let shows_value = matches!(code, 1264 | 1265 | 1292 | 1366 | 1367 | 1411 | 1525 | 1690);
    let cause = match message.rfind(" for column ") {
        Some(at) if shows_value => format!("a value isn't taken{}", &message[at..]),
        _ if shows_value => "a value isn't taken".to_owned(),
        _ => message.to_owned(),
    };
    SinkError::Refused {
        doing,
        cause: format!("{cause} (error {code})"),
    }
}

fn sink_error(doing: String, error: &Error) -> SinkError {
    match error {
        Error::Server(server) if server.code == DUPLICATE => duplicate(doing, &server.message),
        Error::Server(server) if is_refusal(server.code, &server.state) => {
            refused(doing, server.code, &server.message)
        }
        Error::Server(server) => {
            let cause = format!("{} (error {})", server.message, server.code);
            match meaning(server.code) {
                Meaning::Passes("") => transient(doing, cause),
                Meaning::Passes(hint) => transient(doing, format!("{cause}: {hint}")),
                Meaning::Stays(next) => permanent(doing, cause, next),
            }
        }
        Error::Io(IoError::Tls(error)) => tls(doing, &error.to_string()),
        // What TLS can't make sense of comes as this.
        Error::Io(IoError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            tls(doing, &error.to_string())
        }
        Error::Io(IoError::Io(error)) => transient(doing, error.to_string()),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => permanent(
            doing,
            "the server doesn't offer TLS",
            "set up TLS at the server; or, on a network that nobody listens on, `tls = \"off\"`",
        ),
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::NoKeyFound),
        ) => permanent(
            doing,
            error.to_string(),
            "give the user a way to log in that is known here, such as caching_sha2_password or mysql_native_password",
        ),
        Error::Driver(error @ (DriverError::FromRow { .. } | DriverError::FromValue { .. })) => {
            permanent(
                doing,
                error.to_string(),
                "check whether something else changed the tables",
            )
        }
        Error::Driver(DriverError::PacketTooLarge) => permanent(
            doing,
            "a packet is too large",
            "raise the server's max_allowed_packet",
        ),
        // Closed, out of order, not understood: the connection is of no use any more, the next one may be.
        other => transient(doing, other.to_string()),
    }
}

fn tls(doing: String, cause: &str) -> SinkError {
    permanent(
        doing,
        format!("TLS: {cause}"),
        "check `ca_file`, `tls` and the server's certificate, which has to be for the host in `url`",
    )
}

enum Meaning {
    /// With a hint for people, if there is something to know.
    Passes(&'static str),
    /// With what to do next.
    Stays(&'static str),
}

/// Numbers of MySQL 5.7 to 9 and MariaDB 10.6 to 11, which agree below 1900.
fn meaning(code: u16) -> Meaning {
    use Meaning::{Passes, Stays};
    match code {
        // Locks, deadlocks, statements that somebody ended.
        1205 | 1213 | 1317 | 1614 | 1907 | 3572 => Passes(""),
        // The server goes or is overrun: too many connections, shutting down, lost, killed, a user's limits.
        1040
        | 1053
        | 1077
        | 1079
        | 1080
        | 1152
        | 1158..=1161
        | 1184
        | 1203
        | 1226
        | 1927
        | 4031
        | 2002
        | 2003
        | 2006
        | 2013 => Passes(""),
        // A definition changed in between, a statement has to be prepared anew.
        1412 | 1615 => Passes(""),
        1037 | 1038 | 1041 => Passes("the server needs memory"),
        1021 | 1114 | 1030 | 3675 => Passes("the server needs room on its disk"),
        1290 | 1836 | 3989 => Passes("the server is read-only; is it a replica?"),
        // Galera and group replication while they find each other.
        1047 | 3100 | 3101 | 3797 => Passes("the cluster isn't ready"),
        1969 | 3024 => Passes("a time limit of the server's ended the statement"),
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 | 3118 | 3159 | 4151 => Stays(
            "check user and password, and that the user may do this: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, \
             DROP, ALTER, CREATE VIEW, SHOW VIEW ON the database",
        ),
        1049 => Stays("make the database, or correct its name at the end of `url`"),
        1129 => {
            Stays("after too many failures the server refuses this host: run FLUSH HOSTS on it")
        }
        1153 | 1301 => Stays("raise the server's max_allowed_packet"),
        1060 => Stays(
            "give a field another column with `rename`: the server doesn't tell all letters apart in names of columns",
        ),
        1665 => Stays("set the server's binlog_format to ROW or MIXED"),
        _ => Stays(
            "check whether something else changed the tables; mirroring into an empty database is always possible",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_names_the_index_and_keeps_the_value_to_itself() {
        for (message, says, passes) in [
            ("Duplicate entry '7' for key 'PRIMARY'", "meanwhile", true),
            ("Duplicate entry '7' for key 't.PRIMARY'", "meanwhile", true),
            (
                "Duplicate entry 'a secret' for key 'by_name'",
                "by_name",
                false,
            ),
            (
                "Duplicate entry 'for key 'PRIMARY'' for key 't.by_name'",
                "by_name",
                false,
            ),
        ] {
            let error = duplicate("writing".into(), message);
            let text = error.to_string();
            assert_eq!(error.is_transient(), passes, "{text}");
            assert!(text.contains(says) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn what_is_refused_keeps_its_value_to_itself() {
        for (code, message, says) in [
            (
                1366,
                "Incorrect integer value: 'a secret for column x' for column `d`.`t`.`c` at row 1",
                "a value isn't taken for column `d`.`t`.`c` at row 1 (error 1366)",
            ),
            (
                1292,
                "Truncated incorrect DOUBLE value: 'a secret'",
                "a value isn't taken",
            ),
            (
                4025,
                "CONSTRAINT `positive` failed for `d`.`t`",
                "`positive`",
            ),
        ] {
            let error = refused("writing".into(), code, message);
            let text = error.to_string();
            assert!(matches!(error, SinkError::Refused { .. }) && is_refusal(code, ""));
            assert!(text.contains(says) && !text.contains("secret"), "{text}");
        }
        assert!(is_refusal(1, "45000") && !is_refusal(1054, "42S22"));
    }
}
