//! A PostgreSQL server from Debian's package `postgresql`.

use crate::keeper::{Keeper, free_port};
use crate::poll::wait_until;
use crate::session::Session;
use crate::user::ServerUser;
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Where Debian puts the programs, below it by version.
const INSTALLED: &str = "/usr/lib/postgresql";

/// Nothing of it need survive the machine, so nothing is synchronised to disk. It survives its own death all the same.
const SETTINGS: &str = "
listen_addresses = ''
max_connections = 60
shared_buffers = 64MB
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 512MB
log_min_messages = warning
";

/// Its superuser is `postgres`, who needs no password through the socket.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    user: ServerUser,
    port: u16,
    has_tls: bool,
    running: Mutex<Option<Child>>,
    keeper: Keeper,
}

impl Postgres {
    /// The server that all tests of a binary share. Each makes a database or a schema of its own.
    pub fn shared() -> Result<&'static Postgres> {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Postgres::start("").map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// A server of one's own, which listens on a socket; with these settings beside the usual ones (lines of
    /// `postgresql.conf`).
    pub fn start(settings: &str) -> Result<Postgres> {
        Postgres::prepare(5432, false, settings)
    }

    /// A server of one's own, which listens on a port of the loopback address too: with TLS only, and a password (SCRAM).
    /// Its certificate is for `localhost`, and not for `127.0.0.1`.
    pub fn start_with_tls(settings: &str) -> Result<Postgres> {
        Postgres::prepare(free_port()?, true, settings)
    }

    fn prepare(port: u16, has_tls: bool, settings: &str) -> Result<Postgres> {
        let bin = programs()?;
        let user = ServerUser::find(&["postgres"])?;
        let keeper = Keeper::new("pg")?;
        let data = keeper.directory().join("data");
        run(Command::new("cp")
            .arg("-a")
            .arg(template(&bin, user)?)
            .arg(&data))?;
        let mut text = format!(
            "{SETTINGS}port = {port}\nunix_socket_directories = '{}'\n",
            keeper.directory().display()
        );
        let mut access = "local all all trust\n".to_owned();
        if has_tls {
            certificates(keeper.directory(), &data)?;
            text.push_str("listen_addresses = '127.0.0.1'\nssl = on\n");
            access.push_str("hostssl all all 127.0.0.1/32 scram-sha-256\n");
        }
        let _ = writeln!(text, "{settings}");
        write(&data.join("pg_hba.conf"), &access)?;
        let conf = data.join("postgresql.conf");
        let usual = std::fs::read_to_string(&conf)
            .with_context(|| format!("reading {}", conf.display()))?;
        write(&conf, &format!("{usual}\n{text}"))?;
        user.own(keeper.directory())?;
        let server = Postgres {
            bin,
            user,
            port,
            has_tls,
            running: Mutex::new(None),
            keeper,
        };
        server.raise()?;
        Ok(server)
    }

    /// The directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        self.keeper.directory()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        let name = format!(".s.PGSQL.{}", self.port);
        self.keeper.directory().join(name)
    }

    /// Its port: part of the socket's name, and where it listens if it has TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the authority that its own is of.
    pub fn ca_file(&self) -> PathBuf {
        self.keeper.directory().join("ca.pem")
    }

    /// Whom it runs as.
    pub fn user(&self) -> ServerUser {
        self.user
    }

    /// A URL of a database by the socket, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.socket_dir(), "postgres", database)
    }

    /// A URL of a database by a socket in this directory, such as a proxy's.
    pub fn url_at(&self, socket_dir: &Path, user: &str, database: &str) -> String {
        let host: String = socket_dir.display().to_string().replace('/', "%2F");
        format!("postgres://{user}@{host}:{}/{database}", self.port)
    }

    /// A URL of a database by TCP and TLS.
    pub fn url_tcp(&self, host: &str, user: &str, database: &str) -> String {
        assert!(self.has_tls, "it doesn't listen on a port");
        format!("postgres://{user}@{host}:{}/{database}", self.port)
    }

    /// Runs SQL as the superuser, statement by statement; returns what it gives, unaligned.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        run(self.client(database).args(["-c", sql]))
    }

    /// A session of the superuser's, which stays open.
    pub fn session(&self, database: &str) -> Result<Session> {
        Session::start(self.client(database))
    }

    fn client(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U"])
            .args(["postgres", "-d", database, "-h"])
            .arg(self.socket_dir())
            .args(["-p", &self.port.to_string()]);
        command
    }

    /// A database of this name, empty.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(())
    }

    /// SIGKILL, to the main process; the others end when they see it.
    pub fn kill(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = running.take() {
            child.kill().context("killing PostgreSQL")?;
            child.wait().context("waiting for PostgreSQL's end")?;
        }
        Ok(())
    }

    /// An orderly end: transactions that are open are rolled back, and clients are told.
    pub fn shut_down(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = running.as_mut() {
            end_by(child, libc::SIGINT, "PostgreSQL")?;
        }
        *running = None;
        Ok(())
    }

    /// Starts it again after its end; it has what was committed.
    pub fn raise(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.keeper.directory().join("log");
        let mut child = None;
        let up = wait_until("PostgreSQL to answer", || {
            let text = |error: anyhow::Error| format!("{error:#}");
            // It refuses to start while processes of the last one are still there.
            let ended = match child.as_mut().map(Child::try_wait) {
                None | Some(Ok(Some(_))) => true,
                Some(Ok(None)) => false,
                Some(Err(error)) => return Err(error.to_string()),
            };
            if ended {
                child = Some(self.spawn(&log).map_err(text)?);
            }
            run(Command::new(self.bin.join("pg_isready"))
                .arg("-q")
                .arg("-h")
                .arg(self.socket_dir())
                .args(["-p", &self.port.to_string()]))
            .map_err(|error| {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                format!("{error:#}; its log: {log}")
            })
        });
        *running = child;
        up?;
        Ok(())
    }

    fn spawn(&self, log: &Path) -> Result<Child> {
        use std::os::unix::process::CommandExt as _;
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        self.user
            .command(&self.bin.join("postgres"))
            .arg("-D")
            .arg(self.keeper.directory().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("opening the log twice")?)
            .stderr(log)
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("starting PostgreSQL")
    }
}

/// The directory with the programs of the latest version that is installed.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir(INSTALLED).into_iter().flatten().flatten();
    versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.parse::<u32>().unwrap_or_default()
        })
        .map(|path| path.join("bin"))
        .with_context(|| {
            format!("there is no PostgreSQL server in {INSTALLED}; install the Debian package `postgresql`")
        })
}

/// A database cluster as it is when new; made once a machine, for making one takes longer than copying it.
fn template(bin: &Path, user: ServerUser) -> Result<PathBuf> {
    let version = run(Command::new(bin.join("postgres")).arg("--version"))?;
    let version: String = version
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let home = std::env::var_os("HOME").context("HOME isn't set")?;
    let cache = Path::new(&home).join(".cache/counterfoil-test");
    let path = cache.join(format!("postgresql-{version}"));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let made = Keeper::new("initdb")?;
    user.own(made.directory())?;
    let data = made.directory().join("data");
    run(user
        .command(&bin.join("initdb"))
        .args(["--no-sync", "--auth=trust", "--username=postgres"])
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"])
        .arg(&data)
        .current_dir("/"))?;
    let copy = cache.join(format!("postgresql-{version}.{}", std::process::id()));
    run(Command::new("cp").arg("-a").arg(&data).arg(&copy))?;
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

/// An authority, and a certificate of its for `localhost`.
pub(crate) fn certificates(directory: &Path, data: &Path) -> Result<()> {
    let path = |name: &str| directory.join(name);
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl")
            .args(arguments)
            .current_dir(directory))
        .context("making certificates (they take the Debian package `openssl`)")
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let mut authority = vec!["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=test"];
    authority.extend(key);
    authority.extend(["-keyout", "ca.key", "-out", "ca.pem"]);
    openssl(&authority)?;
    let mut request = vec!["req", "-nodes", "-subj", "/CN=localhost"];
    request.extend(key);
    request.extend(["-keyout", "server.key", "-out", "server.csr"]);
    openssl(&request)?;
    write(&path("san"), "subjectAltName = DNS:localhost\n")?;
    let mut sign = vec!["x509", "-req", "-in", "server.csr", "-days", "30"];
    sign.extend(["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]);
    sign.extend(["-extfile", "san", "-out", "server.crt"]);
    openssl(&sign)?;
    for name in ["server.key", "server.crt"] {
        let to = data.join(name);
        std::fs::rename(path(name), &to).with_context(|| format!("making {}", to.display()))?;
    }
    Ok(())
}

/// Asks a server to end, by the signal that it takes for that, and waits until it has ended.
pub(crate) fn end_by(child: &mut Child, signal: i32, what: &str) -> Result<()> {
    // SAFETY: the child hasn't been waited for, so the id is its own still.
    unsafe { libc::kill(child.id().cast_signed(), signal) };
    wait_until(&format!("{what} to end"), || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("it runs still".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// Runs a program to its end; returns what it wrote.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {what}"))?;
    if !output.status.success() {
        bail!(
            "{what} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
