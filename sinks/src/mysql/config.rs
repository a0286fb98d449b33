//! Where the server is, and how to get there: a `[mysql]` table of a sink's configuration.

use crate::plan::Ddl;
use mysql_async::Opts;
use serde::Deserialize;
use std::path::PathBuf;

/// A database of a MySQL or MariaDB server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MysqlConfig {
    /// `mysql://USER@HOST:PORT/DATABASE`, without a password in it. Port 3306 may be left out.
    pub url: String,
    /// A Unix socket to connect through; `url` then says user and database only.
    pub socket: Option<PathBuf>,
    /// A file with the password, and nothing else but a line's end. It is read for each connection.
    pub password_file: Option<PathBuf>,
    /// How to use TLS.
    pub tls: Tls,
    /// PEM file with the certificates to trust, instead of those that are known to everybody.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a statement may take, in milliseconds; 0: as long as it likes.
    pub statement_timeout_ms: u64,
    /// How long to wait for somebody else's locks, in seconds.
    pub lock_wait_timeout_s: u64,
    /// Whether new rows may be loaded with `LOAD DATA LOCAL`, which is faster, where the server allows it.
    pub load_data: bool,
    /// What may be done to the structure of the database.
    pub ddl: Ddl,
}

/// How a connection is protected. A connection through a Unix socket needs no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Not at all.
    Off,
    /// Encrypted, with whoever answers.
    Unverified,
    /// Encrypted, with a server whose certificate is trusted and made out for the host.
    Verify,
}

/// What a URL says.
pub(super) struct Target {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
}

impl MysqlConfig {
    /// The defaults: TLS with a certificate that is verified, unless the server is on this machine.
    ///
    /// # Errors
    /// What is wrong with the URL. Never shows a password that is in it.
    pub fn new(url: impl Into<String>) -> Result<MysqlConfig, String> {
        let mut config = MysqlConfig {
            url: url.into(),
            socket: None,
            password_file: None,
            tls: Tls::Verify,
            ca_file: None,
            connect_timeout_ms: 10_000,
            statement_timeout_ms: 600_000,
            lock_wait_timeout_s: 10,
            load_data: true,
            ddl: Ddl::Manage,
        };
        let target = config.target()?;
        if ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&target.host.as_str()) {
            config.tls = Tls::Off;
        }
        Ok(config)
    }

    /// What the URL says.
    pub(super) fn target(&self) -> Result<Target, String> {
        let shape = "mysql://USER@HOST:PORT/DATABASE";
        let url = Opts::from_url(&self.url)
            .map_err(|error| format!("it isn't of the form {shape}: {error}"))?;
        if url.pass().is_some() {
            return Err("there is a password in it, and a configuration is no place for one: use `password_file`".into());
        }
        if self.url.contains(['?', '#']) {
            return Err(format!(
                "it is more than {shape}: what else there is to say has keys of its own"
            ));
        }
        let (Some(user), Some(database)) = (url.user(), url.db_name()) else {
            return Err(format!(
                "it isn't of the form {shape}: user or database is missing"
            ));
        };
        Ok(Target {
            user: user.to_owned(),
            host: url.ip_or_hostname().to_owned(),
            port: url.tcp_port(),
            database: database.to_owned(),
        })
    }

    /// Which database this is, for messages and to tell one from another.
    pub fn place(&self) -> String {
        let Ok(target) = self.target() else {
            return "MySQL database".into();
        };
        match &self.socket {
            Some(socket) => format!("MySQL database {} at {}", target.database, socket.display()),
            None => format!(
                "MySQL database {} at {}:{}",
                target.database, target.host, target.port
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_never_shows_a_password() {
        let config = MysqlConfig::new("mysql://mirror@dr-db/pay").expect("a good URL");
        assert_eq!(config.place(), "MySQL database pay at dr-db:3306");
        assert_eq!(config.tls, Tls::Verify);
        let here = MysqlConfig::new("mysql://mirror@localhost:3307/pay").expect("a good URL");
        assert_eq!(
            (here.tls, here.place().as_str()),
            (Tls::Off, "MySQL database pay at localhost:3307")
        );
        for bad in [
            "",
            "dr-db",
            "postgres://mirror@dr-db/pay",
            "mysql://mirror@dr-db",
            "mysql://dr-db/pay",
            "mysql://mirror:s3cret@dr-db/pay",
            "mysql://mirror@dr-db/pay?pool_max=3",
            "mysql://mirror:s3cret@dr-db/pay?no=1",
            "mysql://mirror@dr-db:99999/pay",
        ] {
            let problem = MysqlConfig::new(bad).expect_err("a bad URL");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
