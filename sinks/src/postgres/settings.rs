//! Where a database is, and how to get at it: a `[postgres]` table of a sink's configuration.

use crate::SinkError;
use crate::plan::Ddl;
use crate::sql::permanent;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Where the server's socket is when nothing else is said: Debian's place for it.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// After so long without a sign of life a connection counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How a connection is encrypted, as libpq has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Not at all.
    Disable,
    /// Encrypted, with whoever answers.
    Require,
    /// Encrypted, with a server that a trusted authority vouches for.
    VerifyCa,
    /// Encrypted, with the server that is meant.
    VerifyFull,
}

impl SslMode {
    fn named(word: &str) -> Option<SslMode> {
        Some(match word {
            "disable" => SslMode::Disable,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

/// A PostgreSQL database as a target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database?key=value`, without a password.
    pub url: Option<String>,
    /// A service of `pg_service.conf`, instead of or beneath the URL.
    pub service: Option<String>,
    /// A file with the password, in its first line.
    pub password_file: Option<PathBuf>,
    /// The schema with all tables; the first of the user's search path when none is named. It is made if it isn't there.
    pub schema: Option<String>,
    /// How connections are encrypted. Default: `verify-full`, but `disable` through a socket or the loopback address.
    pub sslmode: Option<SslMode>,
    /// Certificates (PEM) of the authorities that are trusted, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What the connection calls itself.
    #[serde(default = "application_name_default")]
    pub application_name: String,
    /// How long connecting may take, in milliseconds.
    #[serde(default = "connect_timeout_ms_default")]
    pub connect_timeout_ms: u64,
    /// How long a statement may take, in milliseconds; 0: as long as it takes.
    #[serde(default)]
    pub statement_timeout_ms: u64,
    /// How long to wait for a lock that somebody else has, in milliseconds; 0: as long as it takes.
    #[serde(default = "lock_timeout_ms_default")]
    pub lock_timeout_ms: u64,
    /// After how many seconds of silence the other side is asked whether it is still there.
    #[serde(default = "keepalive_s_default")]
    pub keepalive_s: u64,
    /// What may be done to the structure of the database. (A key of the sink, not of its table in the configuration.)
    #[serde(skip)]
    pub ddl: Ddl,
}

fn application_name_default() -> String {
    "counterfoil".into()
}

fn connect_timeout_ms_default() -> u64 {
    10_000
}

fn lock_timeout_ms_default() -> u64 {
    10_000
}

fn keepalive_s_default() -> u64 {
    30
}

/// What it takes to connect.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) sslmode: SslMode,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
}

/// Keys and values as libpq has them.
type Pairs = Vec<(String, String)>;

impl PostgresConfig {
    /// The defaults, with this URL.
    pub fn new(url: impl Into<String>) -> Self {
        PostgresConfig {
            url: Some(url.into()),
            service: None,
            password_file: None,
            schema: None,
            sslmode: None,
            ca_file: None,
            application_name: application_name_default(),
            connect_timeout_ms: connect_timeout_ms_default(),
            statement_timeout_ms: 0,
            lock_timeout_ms: lock_timeout_ms_default(),
            keepalive_s: keepalive_s_default(),
            ddl: Ddl::Manage,
        }
    }

    /// Whether the URL can be used, as far as can be told without looking at any file; else what is wrong with it.
    pub fn check_url(url: &str) -> Result<(), String> {
        let (config, _) = parse_url(url)?;
        if config.get_password().is_some() {
            return Err("there is a password in the URL".into());
        }
        Ok(())
    }

    /// In words: database, host and schema.
    pub fn place(&self) -> String {
        let schema = self
            .schema
            .as_ref()
            .map_or(String::new(), |schema| format!(", schema {schema}"));
        let known = self.url.as_ref().and_then(|url| parse_url(url).ok());
        let Some((config, _)) = known else {
            let service = self.service.as_deref().unwrap_or("?");
            return format!("in PostgreSQL service {service}{schema}");
        };
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        format!(
            "in PostgreSQL database {} on {}{schema}",
            config.get_dbname().unwrap_or("(the user's)"),
            hosts.join(", ")
        )
    }

    /// Reads what there is to read: service file, password file, environment.
    pub(super) fn settings(&self) -> Result<Settings, SinkError> {
        let doing = || "reading how to connect".to_owned();
        let mut config = Config::new();
        let mut own = Pairs::new();
        if let Some(service) = &self.service {
            let pairs = find_service(service)?;
            (config, own) = parse_pairs(pairs).map_err(|cause| {
                permanent(
                    format!("reading service {service:?}"),
                    cause,
                    "correct pg_service.conf",
                )
            })?;
        }
        if let Some(url) = &self.url {
            let (given, given_own) = parse_url(url).map_err(|cause| {
                permanent(
                    doing(),
                    cause,
                    "write `url = \"postgres://user@host:port/database\"`",
                )
            })?;
            if given.get_password().is_some() {
                return Err(permanent(
                    doing(),
                    "there is a password in the URL",
                    "put it into a file and name that in `password_file`",
                ));
            }
            if self.service.is_none() {
                config = given;
            } else {
                overlay(&mut config, &given);
            }
            own.extend(given_own);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path(SOCKET_DIRECTORY);
        }
        if let Some(password) = self.password()? {
            config.password(password);
        }
        let mut sslmode = None;
        let mut ca_file = None;
        for (key, value) in own {
            match &*key {
                "sslmode" => sslmode = SslMode::named(&value),
                _ => ca_file = Some(PathBuf::from(value)),
            }
        }
        let is_near = config.get_hosts().iter().all(is_this_machine)
            && config.get_hostaddrs().iter().all(|ip| ip.is_loopback());
        let default = if is_near {
            SslMode::Disable
        } else {
            SslMode::VerifyFull
        };
        let sslmode = self.sslmode.or(sslmode).unwrap_or(default);
        let connect_timeout = Duration::from_millis(self.connect_timeout_ms.max(1));
        config
            .application_name(self.application_name.clone())
            .connect_timeout(connect_timeout)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(self.keepalive_s.max(1)))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3)
            .tcp_user_timeout(SILENCE_MAX)
            .ssl_mode(if sslmode == SslMode::Disable {
                tokio_postgres::config::SslMode::Disable
            } else {
                tokio_postgres::config::SslMode::Require
            });
        Ok(Settings {
            config,
            sslmode,
            ca_file: self.ca_file.clone().or(ca_file),
            connect_timeout,
        })
    }

    fn password(&self) -> Result<Option<String>, SinkError> {
        let Some(path) = &self.password_file else {
            return Ok(std::env::var("PGPASSWORD").ok());
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            permanent(
                format!("reading the password in {}", path.display()),
                error.to_string(),
                "let the user that runs Counterfoil read the file",
            )
        })?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.is_loopback())
        }
    }
}

/// What the URL says goes before what the service says.
fn overlay(config: &mut Config, url: &Config) {
    if let Some(user) = url.get_user() {
        config.user(user);
    }
    if let Some(database) = url.get_dbname() {
        config.dbname(database);
    }
    if !url.get_hosts().is_empty() {
        // Hosts only add up: those of the service have to go with the rest of it.
        let mut anew = Config::new();
        for host in url.get_hosts() {
            match host {
                Host::Tcp(name) => anew.host(name),
                Host::Unix(path) => anew.host_path(path),
            };
        }
        for port in url.get_ports() {
            anew.port(*port);
        }
        if let Some(user) = config.get_user() {
            anew.user(user);
        }
        if let Some(database) = config.get_dbname() {
            anew.dbname(database);
        }
        if let Some(password) = config.get_password() {
            anew.password(password);
        }
        if let Some(options) = config.get_options() {
            anew.options(options);
        }
        anew.target_session_attrs(config.get_target_session_attrs());
        *config = anew;
    }
}

/// What the client library makes of a URL, and the keys that are looked after here.
fn parse_url(url: &str) -> Result<(Config, Pairs), String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("it doesn't begin with postgres://".into());
    }
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut own = Pairs::new();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_own(key) {
            own.push((key.to_owned(), unescaped(value)));
        } else {
            rest.push(pair);
        }
    }
    check_own(&own)?;
    let text = if rest.is_empty() {
        address.to_owned()
    } else {
        format!("{address}?{}", rest.join("&"))
    };
    let config = text
        .parse::<Config>()
        .map_err(|error| said(&error, "the URL can't be read"))?;
    Ok((config, own))
}

/// The same for keys and values.
fn parse_pairs(pairs: Pairs) -> Result<(Config, Pairs), String> {
    let (own, rest): (Pairs, Pairs) = pairs.into_iter().partition(|(key, _)| is_own(key));
    check_own(&own)?;
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let text: Vec<String> = rest
        .iter()
        .map(|(key, value)| format!("{key}='{}'", escaped(value)))
        .collect();
    let config = text
        .join(" ")
        .parse::<Config>()
        .map_err(|error| said(&error, "it can't be read"))?;
    Ok((config, own))
}

/// Which part of it is wrong. (Never the value: it may be a secret.)
fn said(error: &tokio_postgres::Error, what: &str) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{what}: {source}"),
        None => what.to_owned(),
    }
}

fn is_own(key: &str) -> bool {
    ["sslmode", "sslrootcert"].contains(&key)
}

fn check_own(own: &Pairs) -> Result<(), String> {
    for (key, value) in own {
        if key == "sslmode" && SslMode::named(value).is_none() {
            return Err(format!(
                "sslmode {value:?} isn't one of disable, require, verify-ca and verify-full"
            ));
        }
    }
    Ok(())
}

/// `%2F` and the like as what they stand for.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if byte == b'%' => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The files that may say what a service is, in the order in which they are asked.
fn service_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    match std::env::var_os("PGSERVICEFILE") {
        Some(file) => files.push(PathBuf::from(file)),
        None => {
            if let Some(home) = std::env::var_os("HOME") {
                files.push(Path::new(&home).join(".pg_service.conf"));
            }
        }
    }
    match std::env::var_os("PGSYSCONFDIR") {
        Some(directory) => files.push(Path::new(&directory).join("pg_service.conf")),
        None => files.push("/etc/postgresql-common/pg_service.conf".into()),
    }
    files
}

fn find_service(name: &str) -> Result<Pairs, SinkError> {
    let files = service_files();
    for path in &files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(permanent(
                    format!("reading {}", path.display()),
                    error.to_string(),
                    "let the user that runs Counterfoil read it",
                ));
            }
        };
        if let Some(pairs) = service_in(&text, name) {
            return Ok(pairs);
        }
    }
    let looked: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(permanent(
        format!("looking for the service {name:?}"),
        format!("it is not in {}", looked.join(", nor in ")),
        "add it to one of them, or name the file in PGSERVICEFILE",
    ))
}

/// The settings of a service: the lines after `[name]`, up to the next such line.
fn service_in(text: &str, name: &str) -> Option<Pairs> {
    let mut lines = text.lines().map(str::trim);
    let wanted = format!("[{name}]");
    lines.find(|line| *line == wanted)?;
    let mut pairs = Pairs::new();
    for line in lines.take_while(|line| !line.starts_with('[')) {
        if let Some((key, value)) = line.split_once('=')
            && !line.starts_with('#')
        {
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in [
            "postgres://mirror@dr-db/pay",
            "postgresql://mirror@dr-db:5433/pay?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
            "postgres://a@h1,h2/x?target_session_attrs=read-write",
            "postgres://%2Frun%2Fpg/x",
        ] {
            assert_eq!(PostgresConfig::check_url(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("dr-db", "postgres://"),
            ("postgres://u:geheim@h/x", "password"),
            ("postgres://u@h/x?password=geheim", "password"),
            ("postgres://u@h/x?sslmode=prefer", "sslmode"),
            ("postgres://u@h/x?nonsense=1", "nonsense"),
            ("postgres://u@h:port/x", "URL"),
        ] {
            let said = PostgresConfig::check_url(bad).expect_err(bad);
            assert!(said.contains(says) && !said.contains("geheim"), "{said}");
        }
    }

    #[test]
    fn the_nearer_the_less_tls() {
        for (url, sslmode) in [
            ("postgres://u@dr-db/x", SslMode::VerifyFull),
            ("postgres://u@10.1.2.3/x", SslMode::VerifyFull),
            ("postgres://u@localhost/x", SslMode::Disable),
            ("postgres://u@127.0.0.1/x", SslMode::Disable),
            ("postgres://u@localhost,dr-db/x", SslMode::VerifyFull),
            ("postgres://u@%2Frun%2Fpg/x", SslMode::Disable),
            ("postgres://u@localhost/x?sslmode=require", SslMode::Require),
        ] {
            let settings = PostgresConfig::new(url).settings().expect(url);
            assert_eq!(settings.sslmode, sslmode, "{url}");
        }
    }

    #[test]
    fn a_service_is_found_in_its_file() {
        let text = "# ours\n[other]\nhost=wrong\n\n[pay]\nhost = dr-db\nport=5433\n# dbname=old\ndbname=pay\nuser=mirror\n\
                    password=it's\\geheim\nsslmode=require\n[last]\nhost=wrong\n";
        let pairs = service_in(text, "pay").expect("it is there");
        let (config, own) = parse_pairs(pairs).expect("it can be read");
        assert_eq!(config.get_hosts(), [Host::Tcp("dr-db".into())]);
        assert_eq!(config.get_ports(), [5433]);
        assert_eq!(config.get_dbname(), Some("pay"));
        assert_eq!(config.get_password(), Some(&b"it's\\geheim"[..]));
        assert_eq!(own, [("sslmode".to_owned(), "require".to_owned())]);
        assert!(service_in(text, "nobody").is_none());
        let wrong = service_in("[x]\nhots=a", "x").expect("it is there");
        assert!(parse_pairs(wrong).is_err_and(|said| said.contains("hots")));
    }

    #[test]
    fn nothing_shows_the_password() {
        let mut config = PostgresConfig::new("postgres://u:geheim@h/x");
        let refused = config.settings().err().expect("refused").to_string();
        assert!(
            refused.contains("password_file") && !refused.contains("geheim"),
            "{refused}"
        );
        config.url = Some("postgres://u@h/x".into());
        config.password_file = Some("/no/such/file".into());
        let refused = config.settings().err().expect("refused").to_string();
        assert!(refused.contains("/no/such/file"), "{refused}");
    }
}
