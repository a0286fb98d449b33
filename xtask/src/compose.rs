//! `cargo xtask compose`: the compose file for real.
//!
//! Takes root and the Debian packages `docker.io`, `docker-compose` and `debootstrap`, but no registry of images: bases are
//! made by debootstrap, the binaries are built here, and Kafka and the databases are stood in for by Debian's PostgreSQL
//! and MariaDB and the broker of the tests, in an image with the same services' names, ports, volumes and secrets. The
//! Docker daemon is this task's own, below `target/compose`; its containers reach one another, and nothing else. It ends
//! with `counterfoil verify` against both databases, after rows have been seen to arrive in each.

use crate::cargo::{self, Profile, With, shown, workspace};
use crate::packages;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BASE: &str = "counterfoil-base:local";
const SERVERS: &str = "counterfoil-servers:local";
const LIMIT: Duration = Duration::from_secs(240);

/// Where each half serves metrics on the host.
const CAPTURE: u16 = 9464;
const TARGETS: [(&str, u16); 2] = [("postgres", 9465), ("mariadb", 9466)];

/// What isn't as in the compose file: where binaries come from, and how servers start.
const OVERRIDE: &str = "\
x-build: &build { network: none, args: { BUILT: target/compose/built } }
services:
  processes: { build: *build }
  app: { build: *build }
  capture:
    build: *build
    volumes:
      - ./target/compose/sinks:/etc/counterfoil/sinks.d:ro
  apply-postgres:
    build: *build
    volumes:
      - ./target/compose/sinks/postgres.toml:/etc/counterfoil/sinks.d/postgres.toml:ro
  apply-mariadb:
    build: *build
    volumes:
      - ./target/compose/sinks/mariadb.toml:/etc/counterfoil/sinks.d/mariadb.toml:ro
  kafka: { entrypoint: [\"/serve/kafka\"], volumes: [\"./target/compose/serve:/serve:ro\"] }
  postgres: { entrypoint: [\"/serve/postgres\"], volumes: [\"./target/compose/serve:/serve:ro\"] }
  mariadb: { entrypoint: [\"/serve/mariadb\"], volumes: [\"./target/compose/serve:/serve:ro\"] }
secrets:
  postgres: { file: ./target/compose/secrets/postgres }
  mariadb: { file: ./target/compose/secrets/mariadb }
";

/// What the stand-ins start with: what the official images make of the same environment, volumes and secrets.
const SERVE: [(&str, &str); 3] = [
    (
        "kafka",
        "#!/bin/sh
# In memory: on a busy machine it doesn't keep up with three clients on disk.
exec /serve/nisshi broker --cluster-id compose --listener-url tcp://0.0.0.0:9092 \\
  --advertised-listener-url tcp://kafka:9092 --storage-engine memory://compose/
",
    ),
    (
        "postgres",
        "#!/bin/sh
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=/var/lib/postgresql/data
as='setpriv --reuid=postgres --regid=postgres --init-groups'
if [ ! -e $data/PG_VERSION ]; then
  chown postgres:postgres $data
  install -o postgres -m 0600 \"$POSTGRES_PASSWORD_FILE\" /tmp/password
  $as initdb --pgdata=$data --username=\"$POSTGRES_USER\" --pwfile=/tmp/password --encoding=UTF8 --locale=C.UTF-8 \\
    --auth-local=trust --auth-host=scram-sha-256
  rm /tmp/password
  echo \"CREATE DATABASE $POSTGRES_DB\" | $as postgres --single -D $data template1
  echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
fi
exec $as postgres -D $data -c listen_addresses='*'
",
    ),
    (
        "mariadb",
        "#!/bin/sh
set -eu
data=/var/lib/mysql
if [ ! -d $data/mysql ]; then
  chown mysql:mysql $data
  mariadb-install-db --user=mysql --datadir=$data --skip-test-db
fi
install -o mysql -m 0600 /dev/null /tmp/init.sql
cat > /tmp/init.sql <<END
CREATE DATABASE IF NOT EXISTS $MARIADB_DATABASE;
CREATE USER IF NOT EXISTS $MARIADB_USER@'%' IDENTIFIED BY '$(cat \"$MARIADB_PASSWORD_FILE\")';
GRANT ALL ON $MARIADB_DATABASE.* TO $MARIADB_USER@'%';
END
exec mariadbd --user=mysql --datadir=$data --bind-address=0.0.0.0 --skip-name-resolve --init-file=/tmp/init.sql
",
    ),
];

/// Runs it. `sqlite`: applied to SQLite instead of the databases, to try the rest alone.
pub(crate) fn run(profile: Profile, sqlite: bool) -> Result<()> {
    let directory = workspace().join("target/compose");
    fs::create_dir_all(&directory)?;
    packages::install_broker()?;
    build(profile, &directory)?;
    configure(&directory, sqlite)?;
    let docker = Docker::start(&directory)?;
    docker.make_images()?;
    let result = docker.show(sqlite);
    if result.is_err() {
        let _ = docker.compose(&["ps"]);
        let _ = docker.compose(&["logs", "--tail", "40"]);
    }
    let ended = docker.compose(&["down", "--volumes", "--timeout", "30"]);
    result.and(ended)
}

/// Builds what the images hold into the directory that the Dockerfile takes it from.
fn build(profile: Profile, directory: &Path) -> Result<()> {
    let built = cargo::build(profile, With::Everything)?;
    let to = directory.join("built");
    fs::create_dir_all(&to)?;
    for name in ["counterfoil", "libcounterfoil_interposer.so"] {
        fs::copy(built.join(name), to.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O2", "-pthread", "-o"])
        .arg(to.join("card_switch"))
        .arg(workspace().join("tests/programs/card_switch.c"));
    succeed(&mut compiler)
}

/// Writes the override, what servers start with, secrets and the files of the targets.
fn configure(directory: &Path, sqlite: bool) -> Result<()> {
    fs::write(directory.join("override.yml"), OVERRIDE)?;
    let [secrets, sinks, serve] = ["secrets", "sinks", "serve"].map(|name| directory.join(name));
    for made in [&secrets, &sinks, &serve] {
        fs::create_dir_all(made)?;
    }
    fs::copy(packages::broker()?, serve.join("nisshi")).context("copying the broker")?;
    for (name, text) in SERVE {
        fs::write(serve.join(name), text)?;
        fs::set_permissions(serve.join(name), Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&secrets, Permissions::from_mode(0o700))?;
    for (name, _) in TARGETS {
        // Made as the compose file says, of letters and digits that need no quoting.
        let mut bytes = [0; 12];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(secrets.join(name), password + "\n")?;
        let file = format!("{name}.toml");
        let text = if sqlite {
            format!("name = {name:?}\n[sqlite]\npath = \"/apply/{name}.db\"\n")
        } else {
            fs::read_to_string(workspace().join("packaging/compose/sinks").join(&file))?
        };
        fs::write(sinks.join(file), text)?;
    }
    Ok(())
}

/// A Docker daemon of this task's own.
struct Docker {
    daemon: Child,
    directory: PathBuf,
    /// For `DOCKER_HOST`.
    host: String,
}

impl Docker {
    fn start(directory: &Path) -> Result<Docker> {
        let directory = directory.join("docker");
        fs::create_dir_all(&directory)?;
        // The socket's path may not be long.
        let socket = format!("/run/counterfoil-compose-{}.sock", std::process::id());
        let host = format!("unix://{socket}");
        let log = fs::File::create(directory.join("log"))?;
        // Containers of one network reach one another by its bridge; the host's packet filter is left alone.
        let daemon = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge", "none"])
            .arg("--data-root")
            .arg(directory.join("data"))
            .arg("--exec-root")
            .arg(format!("{socket}.d"))
            .arg("--pidfile")
            .arg(directory.join("pid"))
            .args(["--host", &host])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(
                "starting dockerd (Debian packages docker.io, docker-compose and debootstrap)",
            )?;
        let mut docker = Docker {
            daemon,
            directory,
            host,
        };
        let begun = Instant::now();
        while !docker
            .command("docker")
            .arg("info")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            let ended = docker.daemon.try_wait()?;
            if let Some(status) = ended {
                bail!(
                    "dockerd ended with {status}; see {}",
                    docker.directory.join("log").display()
                );
            }
            ensure!(
                begun.elapsed() < LIMIT,
                "dockerd doesn't answer; see {}",
                docker.directory.join("log").display()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(docker)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_PROJECT_NAME", "counterfoil")
            .env("COUNTERFOIL_BASE", BASE)
            .env("COUNTERFOIL_BUILD_BASE", BASE)
            .env("KAFKA_IMAGE", SERVERS)
            .env("POSTGRES_IMAGE", SERVERS)
            .env("MARIADB_IMAGE", SERVERS)
            .current_dir(workspace());
        command
    }

    /// Debian's smallest system with what the binary takes, and one with servers as well.
    fn make_images(&self) -> Result<()> {
        let base = self.directory.join("base");
        if !self.has_image(BASE)? {
            if !base.join("bin/sh").exists() {
                succeed(
                    Command::new("debootstrap")
                        .args(["--variant=minbase", "--include=libssl3,ca-certificates"])
                        .arg("bookworm")
                        .arg(&base),
                )?;
            }
            self.import(&base, BASE)?;
        }
        if !self.has_image(SERVERS)? {
            let servers = self.directory.join("servers");
            if !servers.join("usr/sbin/mariadbd").exists() {
                succeed(
                    Command::new("cp")
                        .args(["--archive", "--no-target-directory"])
                        .args([&base, &servers]),
                )?;
                install_servers(&servers)?;
            }
            self.import(&servers, SERVERS)?;
        }
        Ok(())
    }

    fn has_image(&self, name: &str) -> Result<bool> {
        Ok(self
            .command("docker")
            .args(["image", "inspect", name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success())
    }

    /// Makes an image of a directory.
    fn import(&self, root: &Path, name: &str) -> Result<()> {
        let mut packing = Command::new("tar")
            .arg("--directory")
            .arg(root)
            .args(["--create", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("running tar")?;
        let image = packing.stdout.take().context("tar's output")?;
        succeed(
            self.command("docker")
                .args(["import", "-", name])
                .stdin(image),
        )?;
        ensure!(
            packing.wait()?.success(),
            "packing {} failed",
            root.display()
        );
        Ok(())
    }

    /// docker-compose, with what isn't as in the file.
    fn composed(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("docker-compose");
        command
            .args(["--file", "docker-compose.yml"])
            .args(["--file", "target/compose/override.yml"])
            .args(arguments);
        command
    }

    fn compose(&self, arguments: &[&str]) -> Result<()> {
        succeed(&mut self.composed(arguments))
    }

    /// What a command says in a service's container, and whether it succeeded.
    fn ask(&self, service: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self
            .composed(&["exec", "-T", service])
            .args(arguments)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }

    fn show(&self, sqlite: bool) -> Result<()> {
        self.compose(&["build"])?;
        self.compose(&["up", "--detach"])?;
        let ports = TARGETS.map(|(_, port)| port);
        for port in [CAPTURE].into_iter().chain(ports) {
            until(&format!("port {port} to be ready"), || {
                let answer = get(port, "/readyz").map_err(|error| format!("{error:#}"))?;
                is_ok(&answer).then_some(()).ok_or(answer)
            })?;
            println!("127.0.0.1:{port} is ready");
        }
        // The lock of each payment makes a unit, so what is applied is told by images.
        for (name, port) in TARGETS {
            let mut first = None;
            let (before, now) = until(&format!("rows to arrive in {name}"), || {
                let metrics = get(port, "/metrics").map_err(|error| format!("{error:#}"))?;
                let images = images(&metrics).ok_or(metrics)?;
                match *first.get_or_insert(images) {
                    before if images > before && before > 0 => Ok((before, images)),
                    before => {
                        if before == 0 {
                            first = None;
                        }
                        Err(format!("{images} images"))
                    }
                }
            })?;
            println!("rows arrive in {name}: {now} record images applied, {before} a moment ago");
        }
        let (_, text) = self.ask("capture", &["counterfoil", "status"])?;
        println!("{text}");
        if sqlite {
            println!("without databases there is nothing to compare with from outside");
            return Ok(());
        }
        for (service, rows) in ROWS {
            let (_, count) = self.ask(service, rows)?;
            ensure!(
                count.trim().parse::<u64>().is_ok_and(|count| count > 0),
                "{service} has no rows: {count}"
            );
            println!("payments in {service}: {}", count.trim());
        }
        self.compose(&["stop", "app"])?;
        let text = until("files and rows to be equal", || {
            let (equal, text) = self
                .ask("capture", &["counterfoil", "verify"])
                .map_err(|error| format!("{error:#}"))?;
            if equal { Ok(text) } else { Err(text) }
        })?;
        println!("{text}");
        Ok(())
    }
}

/// How many payments each database has, as the README asks for them.
const ROWS: [(&str, &[&str]); 2] = [
    (
        "postgres",
        &[
            "psql",
            "--username=mirror",
            "--tuples-only",
            "--no-align",
            "pay",
            "--command=SELECT count(*) FROM pay.journal_dat",
        ],
    ),
    (
        "mariadb",
        &[
            "sh",
            "-c",
            "MYSQL_PWD=$(cat /run/secrets/mariadb) mariadb --user=mirror --host=127.0.0.1 --skip-column-names pay \
             --execute='SELECT count(*) FROM journal_dat'",
        ],
    ),
];

/// Debian's servers into a system's directory, from the host, since containers reach no mirror.
fn install_servers(root: &Path) -> Result<()> {
    // Nothing is started there.
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, Permissions::from_mode(0o755))?;
    for file in ["etc/resolv.conf", "etc/hosts"] {
        fs::copy(Path::new("/").join(file), root.join(file))?;
    }
    succeed(
        Command::new("chroot")
            .arg(root)
            .args(["apt-get", "install", "--yes", "--no-install-recommends"])
            .args(["postgresql", "mariadb-server"])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    // What the packages made is not what the volumes are to begin with.
    for data in ["var/lib/mysql", "var/lib/postgresql", "var/lib/kafka/data"] {
        let _ = fs::remove_dir_all(root.join(data));
    }
    for data in [
        "var/lib/mysql",
        "var/lib/postgresql/data",
        "var/lib/kafka/data",
        "run/mysqld",
    ] {
        fs::create_dir_all(root.join(data))?;
    }
    succeed(Command::new("chroot").arg(root).args([
        "chown",
        "mysql:mysql",
        "/run/mysqld",
        "/var/lib/mysql",
    ]))?;
    succeed(Command::new("chroot").arg(root).args([
        "chown",
        "postgres:postgres",
        "/var/run/postgresql",
        "/var/lib/postgresql/data",
    ]))
}

impl Drop for Docker {
    fn drop(&mut self) {
        // The daemon stops its containers when it is asked to end.
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
        if let Some(socket) = self.host.strip_prefix("unix://") {
            let _ = fs::remove_dir_all(format!("{socket}.d"));
        }
    }
}

/// Waits until there is a value; the error has what there was instead.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(instead) => ensure!(
                begun.elapsed() < LIMIT,
                "waited {} s for {what}; instead: {instead}",
                LIMIT.as_secs()
            ),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Asks a port of this host, as it is published; gives head and body.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_ok(answer: &str) -> bool {
    answer
        .lines()
        .next()
        .is_some_and(|line| line.contains(" 200 "))
}

fn images(metrics: &str) -> Option<u64> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("counterfoil_sink_images_total{"))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = shown(command)?;
    if !status.success() {
        bail!(
            "`{}` ended with {status}",
            command.get_program().to_string_lossy()
        );
    }
    Ok(())
}
