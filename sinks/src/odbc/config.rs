//! Where the data source is, and how to get there: an `[odbc]` table of a sink's configuration.

use super::dialect::Dialect;
use crate::plan::Ddl;
use std::path::PathBuf;

/// A data source of the driver manager's, or a driver and where it is to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdbcConfig {
    /// What the driver manager is told, `Driver=...;Server=...;Database=...`, without user and password.
    pub connection: String,
    /// The user, if there is one.
    pub username: Option<String>,
    /// A file with the password, and nothing else but a line's end. It is read for each connection.
    pub password_file: Option<PathBuf>,
    /// What SQL to speak; `None`: what the driver says the database is.
    pub dialect: Option<Dialect>,
    /// The schema that the tables are in; `None`: the user's own.
    pub schema: Option<String>,
    /// How long connecting may take, in milliseconds; rounded up to seconds.
    pub connect_timeout_ms: u64,
    /// How long a statement may take, in milliseconds, rounded up to seconds; 0: as long as it likes.
    pub statement_timeout_ms: u64,
    /// How long to wait for somebody else's locks, in milliseconds, where the database lets that be said.
    pub lock_wait_timeout_ms: u64,
    /// Whether tables and views are made, or only asked for.
    pub ddl: Ddl,
}

impl OdbcConfig {
    /// The defaults, with a connection string.
    ///
    /// # Errors
    /// What is wrong with the string. Never shows a password that is in it.
    pub fn new(connection: impl Into<String>) -> Result<OdbcConfig, String> {
        let connection = connection.into();
        let keys = keys(&connection)?;
        if keys.iter().any(|key| key == "pwd" || key == "password") {
            return Err("there is a password in it, and a configuration is no place for one: use `password_file`".into());
        }
        if keys.iter().any(|key| key == "uid") {
            return Err("the user is in it: use `username`".into());
        }
        if !keys
            .iter()
            .any(|key| key == "driver" || key == "dsn" || key == "filedsn")
        {
            return Err("it names neither a `Driver` nor a `DSN`".into());
        }
        Ok(OdbcConfig {
            connection,
            username: None,
            password_file: None,
            dialect: None,
            schema: None,
            connect_timeout_ms: 10_000,
            statement_timeout_ms: 600_000,
            lock_wait_timeout_ms: 10_000,
            ddl: Ddl::Manage,
        })
    }

    /// The defaults, with the name of a data source that the driver manager knows.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn with_dsn(dsn: &str) -> Result<OdbcConfig, String> {
        if dsn.is_empty() || dsn.contains([';', '{', '}', '\0']) {
            return Err("it isn't the name of a data source".into());
        }
        OdbcConfig::new(format!("DSN={dsn}"))
    }

    /// Which database this is, for messages and to tell one from another.
    pub fn place(&self) -> String {
        let schema = self
            .schema
            .as_ref()
            .map_or(String::new(), |schema| format!(", schema {schema}"));
        format!("ODBC data source {}{schema}", self.connection)
    }
}

/// The keys of a connection string, in lower case.
fn keys(connection: &str) -> Result<Vec<String>, String> {
    let shape = "KEY=VALUE;KEY=VALUE";
    if connection.contains('\0') {
        return Err("there is a NUL character in it".into());
    }
    let mut keys = Vec::new();
    let mut rest = connection.trim();
    while !rest.is_empty() {
        let Some((key, behind)) = rest.split_once('=') else {
            return Err(format!("it isn't of the form {shape}"));
        };
        keys.push(key.trim().to_lowercase());
        rest = match behind.strip_prefix('{') {
            Some(braced) => {
                let Some(end) = closing(braced) else {
                    return Err(format!(
                        "it isn't of the form {shape}: a brace is left open"
                    ));
                };
                let behind = braced[end..].trim_start();
                match behind.strip_prefix(';') {
                    Some(behind) => behind,
                    None if behind.is_empty() => behind,
                    None => return Err(format!("it isn't of the form {shape}")),
                }
            }
            None => behind.split_once(';').map_or("", |(_, behind)| behind),
        }
        .trim_start();
    }
    if keys.iter().any(String::is_empty) {
        return Err(format!("it isn't of the form {shape}"));
    }
    Ok(keys)
}

/// Where a value in braces ends, behind its brace. Two closing braces are one that belongs to the value.
fn closing(braced: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += braced[at..].find('}')? + 1;
        if !braced[at..].starts_with('}') {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_says_where_and_holds_no_secret() {
        let config = OdbcConfig::new("Driver=/usr/lib/psqlodbcw.so;Server=dr-db;Database=pay")
            .expect("a good one");
        assert_eq!(
            config.place(),
            "ODBC data source Driver=/usr/lib/psqlodbcw.so;Server=dr-db;Database=pay"
        );
        OdbcConfig::new("driver={Some; driver}}s};Server = x ;").expect("braces hold anything");
        OdbcConfig::with_dsn("payments").expect("a name");
        for bad in [
            "",
            "payments",
            "Server=x",
            "Driver={x;Server=y",
            "Driver={x}y;Server=y",
            "=x",
            "Driver=x;PWD=s3cret",
            "Driver=x;Password={s3cret};",
            "Driver={a}}b};Server=x; pwd =s3cret",
            "Driver=x;UID=mirror",
            "Driver=x\0",
        ] {
            let problem = OdbcConfig::new(bad).expect_err("a bad one");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        for bad in ["", "a;PWD=x", "{"] {
            OdbcConfig::with_dsn(bad).expect_err("no name");
        }
    }
}
