//! A MariaDB server from Debian's package `mariadb-server`.

use crate::keeper::{Keeper, free_port};
use crate::poll::wait_until;
use crate::postgres::{certificates, end_by, run};
use crate::session::Session;
use crate::user::ServerUser;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Where Debian puts the server.
const SERVER: &str = "/usr/sbin/mariadbd";

/// Nothing of it need survive the machine, so nothing is synchronised to disk. It survives its own death all the same.
const SETTINGS: [&str; 9] = [
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=64M",
    "--sync-binlog=0",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--performance-schema=OFF",
    "--max-connections=100",
];

/// Its user `root` needs no password through the socket.
#[derive(Debug)]
pub struct Mariadb {
    user: ServerUser,
    /// Where it listens if it has TLS.
    port: Option<u16>,
    settings: Vec<String>,
    running: Mutex<Option<Child>>,
    databases: AtomicU32,
    keeper: Keeper,
}

impl Mariadb {
    /// The server that all tests of a binary share. Each makes a database of its own.
    pub fn shared() -> Result<&'static Mariadb> {
        static SHARED: OnceLock<Result<Mariadb, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Mariadb::start(&[]).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// A server of one's own, which listens on a socket; with these options beside the usual ones.
    pub fn start(settings: &[&str]) -> Result<Mariadb> {
        Mariadb::prepare(None, settings)
    }

    /// A server of one's own, which listens on a port of the loopback address too, with TLS. Its certificate is for
    /// `localhost`, and not for `127.0.0.1`.
    pub fn start_with_tls(settings: &[&str]) -> Result<Mariadb> {
        Mariadb::prepare(Some(free_port()?), settings)
    }

    fn prepare(port: Option<u16>, settings: &[&str]) -> Result<Mariadb> {
        if !Path::new(SERVER).exists() {
            bail!("there is no {SERVER}; install the Debian package `mariadb-server`");
        }
        let user = ServerUser::find(&["mysql"])?;
        let keeper = Keeper::new("my")?;
        let data = keeper.directory().join("data");
        run(Command::new("cp").arg("-a").arg(template(user)?).arg(&data))?;
        let mut settings: Vec<String> = settings.iter().map(|&text| text.to_owned()).collect();
        match port {
            None => settings.push("--skip-networking".to_owned()),
            Some(port) => {
                certificates(keeper.directory(), &data)?;
                settings.push("--bind-address=127.0.0.1".to_owned());
                settings.push(format!("--port={port}"));
                for key in ["key", "cert"] {
                    let file = data.join(if key == "key" {
                        "server.key"
                    } else {
                        "server.crt"
                    });
                    settings.push(format!("--ssl-{key}={}", file.display()));
                }
            }
        }
        user.own(keeper.directory())?;
        let server = Mariadb {
            user,
            port,
            settings,
            running: Mutex::new(None),
            databases: AtomicU32::new(0),
            keeper,
        };
        server.raise()?;
        Ok(server)
    }

    /// Its directory, for sockets of proxies, say.
    pub fn directory(&self) -> &Path {
        self.keeper.directory()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.keeper.directory().join("socket")
    }

    /// Its port on the loopback address, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The certificate of the authority that its own is of.
    pub fn ca_file(&self) -> PathBuf {
        self.keeper.directory().join("ca.pem")
    }

    /// Runs SQL as `root`, statement by statement; returns what it gives, without headings.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        run(self.client(database).arg(format!("--execute={sql}")))
    }

    /// A session of `root`'s, which stays open.
    pub fn session(&self, database: &str) -> Result<Session> {
        let mut command = self.client(database);
        command.arg("--unbuffered");
        Session::start(command)
    }

    fn client(&self, database: &str) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args([
                "--no-defaults",
                "--batch",
                "--skip-column-names",
                "--user=root",
            ])
            .args(["--local-infile=1", "--default-character-set=utf8mb4"])
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--database={database}"));
        command
    }

    /// A new database with a name of its own.
    pub fn create_database(&self) -> Result<String> {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = running.take() {
            child.kill().context("killing MariaDB")?;
            child.wait().context("waiting for MariaDB's end")?;
        }
        Ok(())
    }

    /// An orderly end: transactions that are open are rolled back, and clients lose their connections.
    pub fn shut_down(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = running.as_mut() {
            end_by(child, libc::SIGTERM, "MariaDB")?;
        }
        *running = None;
        Ok(())
    }

    /// Starts it again after its end; it has what was committed.
    pub fn raise(&self) -> Result<()> {
        self.raise_with(&[])
    }

    /// The same, with these options beside those that it was made with. The last one of a name counts.
    pub fn raise_with(&self, settings: &[&str]) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.keeper.directory().join("log");
        let mut child = self.spawn(&log, settings)?;
        let up = wait_until("MariaDB to answer", || {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    return Err(format!("it ended with {status}; its log: {}", log()));
                }
                Err(error) => return Err(error.to_string()),
            }
            self.sql("", "SELECT 1")
                .map_err(|error| format!("{error:#}; its log: {}", log()))
        });
        *running = Some(child);
        up?;
        Ok(())
    }

    fn spawn(&self, log: &Path, settings: &[&str]) -> Result<Child> {
        use std::os::unix::process::CommandExt as _;
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let directory = self.keeper.directory();
        self.user
            .command(Path::new(SERVER))
            .arg("--no-defaults")
            .arg(format!("--datadir={}", directory.join("data").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", directory.join("pid").display()))
            .args(SETTINGS)
            .args(&self.settings)
            .args(settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("opening the log twice")?)
            .stderr(log)
            .current_dir(directory)
            .process_group(0)
            .spawn()
            .context("starting MariaDB")
    }
}

/// A data directory as it is when new; made once a machine, for making one takes longer than copying it.
fn template(user: ServerUser) -> Result<PathBuf> {
    let version = run(Command::new(SERVER).args(["--no-defaults", "--version"]))?;
    let version = version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .context("the server doesn't say its version")?
        .to_owned();
    let home = std::env::var_os("HOME").context("HOME isn't set")?;
    let cache = Path::new(&home).join(".cache/counterfoil-test");
    let path = cache.join(format!("mariadb-{version}"));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let made = Keeper::new("install")?;
    user.own(made.directory())?;
    let data = made.directory().join("data");
    run(user
        .command(Path::new("/usr/bin/mariadb-install-db"))
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .args(["--innodb-log-file-size=64M", "--innodb-flush-method=nosync"])
        .arg(format!("--datadir={}", data.display()))
        .current_dir("/"))?;
    let copy = cache.join(format!("mariadb-{version}.{}", std::process::id()));
    run(Command::new("cp")
        .arg("-a")
        .arg("--sparse=always")
        .arg(&data)
        .arg(&copy))?;
    match std::fs::rename(&copy, &path) {
        Ok(()) => {}
        // Another process was faster.
        Err(_) if path.exists() => {
            std::fs::remove_dir_all(&copy)
                .with_context(|| format!("removing {}", copy.display()))?;
        }
        Err(error) => {
            return Err(error).with_context(|| format!("making {}", path.display()));
        }
    }
    Ok(path)
}
