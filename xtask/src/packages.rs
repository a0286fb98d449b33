//! The Debian packages that building and tests take beside Rust, and the broker that tests take.
//!
//! The demo takes a C compiler and nothing else. What is shipped has Kafka, which takes [`BUILD`] as well; what of it is
//! missing is said before cargo is started, since what cargo says then is hard to read.

use crate::cargo::shown;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What building with nothing but a compiler takes, and the package that has it.
const COMPILER: &[(&str, &str)] = &[("cc", "gcc"), ("/usr/include/stdio.h", "libc6-dev")];

/// The C++ compiler.
const CXX: (&str, &str) = ("c++", "g++");

/// What building everything that is shipped takes beside the compiler: Kafka, and TLS towards it.
const BUILD: &[(&str, &str)] = &[
    CXX,
    ("make", "make"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
];

/// Where Debian puts a driver.
#[cfg(target_arch = "x86_64")]
macro_rules! odbc_driver {
    ($name:literal) => {
        concat!("/usr/lib/x86_64-linux-gnu/odbc/", $name)
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! odbc_driver {
    ($name:literal) => {
        concat!("/usr/lib/aarch64-linux-gnu/odbc/", $name)
    };
}

/// What ODBC takes.
const DRIVER_MANAGER: (&str, &str) = ("/usr/include/sql.h", "unixodbc-dev");

/// What tests take beside all that.
const NEEDED: &[(&str, &str)] = &[
    // A server of the distribution's own may be running then; tests start theirs, and leave it alone.
    ("/usr/lib/postgresql", "postgresql"),
    ("/usr/sbin/mariadbd", "mariadb-server"),
    ("cobc", "gnucobol3"),
    ("python3", "python3-minimal"),
    ("perl", "perl-base"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("docker-compose", "docker-compose"),
    ("/usr/lib/python3/dist-packages/yaml", "python3-yaml"),
    ("valgrind", "valgrind"),
    ("java", "default-jdk-headless"),
    ("javac", "default-jdk-headless"),
    ("node", "nodejs"),
    ("bash", "bash"),
    ("sed", "sed"),
    ("awk", "mawk"),
    ("tar", "tar"),
    ("gzip", "gzip"),
    ("rsync", "rsync"),
    ("ed", "ed"),
    ("sqlite3", "sqlite3"),
    ("openssl", "openssl"),
    ("socat", "socat"),
    // ODBC: the driver manager, to link, and drivers. Tests name them by the paths of their libraries.
    DRIVER_MANAGER,
    (odbc_driver!("psqlodbcw.so"), "odbc-postgresql"),
    (odbc_driver!("libmaodbc.so"), "odbc-mariadb"),
    (odbc_driver!("libsqlite3odbc.so"), "libsqliteodbc"),
];

/// Where programs are looked for beside `PATH`: tests name interpreters by their system paths.
const SYSTEM_BIN: &str = "/usr/bin";

/// The packages of these that aren't there: a program is on the path, a header at its place (which only Debian's is known of).
fn missing_of(lists: &[&[(&'static str, &'static str)]]) -> Vec<&'static str> {
    let mut missing = Vec::new();
    for (what, package) in lists.iter().copied().flatten() {
        let is_there = if what.starts_with('/') {
            Path::new(what).exists() || !on_path("apt-get")
        } else {
            on_path(what)
        };
        if !is_there && !missing.contains(package) {
            missing.push(*package);
        }
    }
    missing
}

fn install_command(packages: &[&str]) -> String {
    format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    )
}

/// An error that names the packages, if there is no C compiler.
pub(crate) fn require_compiler() -> Result<()> {
    let missing = missing_of(&[COMPILER]);
    if !missing.is_empty() {
        bail!(
            "building takes a C compiler; on Debian, as root: {}",
            install_command(&missing)
        );
    }
    Ok(())
}

/// An error that names the packages, if what Kafka takes to build isn't there.
pub(crate) fn require_to_build() -> Result<()> {
    require_compiler()?;
    let missing = missing_of(&[BUILD]);
    if !missing.is_empty() {
        bail!(
            "building with Kafka takes what isn't installed; on Debian, as root: {}\n\
             `cargo xtask demo` and `cargo xtask install --without-kafka` take a C compiler only, and so does\n\
             cargo build --release --no-default-features -p counterfoil -p counterfoil-interposer",
            install_command(&missing)
        );
    }
    Ok(())
}

/// An error that names the packages, if there is no C++ compiler: the fuzzer is built by one.
pub(crate) fn require_cxx() -> Result<()> {
    let missing = missing_of(&[COMPILER, &[CXX]]);
    if !missing.is_empty() {
        bail!(
            "building fuzz targets takes a C++ compiler; on Debian, as root: {}",
            install_command(&missing)
        );
    }
    Ok(())
}

/// An error that names the package, if what ODBC takes to build isn't there.
pub(crate) fn require_driver_manager() -> Result<()> {
    let missing = missing_of(&[&[DRIVER_MANAGER]]);
    if !missing.is_empty() {
        bail!(
            "building with ODBC takes a driver manager; on Debian, as root: {}",
            install_command(&missing)
        );
    }
    Ok(())
}

/// Installs what is missing, as root. Otherwise the error has the command to be given.
pub(crate) fn install_missing() -> Result<()> {
    let mut missing = missing_of(&[COMPILER, BUILD, NEEDED]);
    if !Path::new(SYSTEM_BIN).join("python3").exists() || !has_venv() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = install_command(&missing);
    if !is_root() || !on_path("apt-get") {
        bail!("tests take packages that aren't installed; as root: apt-get update && {install}");
    }
    println!(
        "# tests take packages that aren't installed: {}",
        missing.join(" ")
    );
    for arguments in ["apt-get update --quiet", &install] {
        let mut words = arguments.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        let status = shown(&mut command)?;
        if !status.success() {
            bail!(
                "`{arguments}` ended with {status}; look at what it says above and run it by hand"
            );
        }
    }
    Ok(())
}

/// The Kafka-protocol broker of the tests, by name and version.
const BROKER: (&str, &str) = ("nisshi", "0.8.1");

/// Where the broker is kept, outside of the checkout.
fn broker_root() -> Result<PathBuf> {
    let (name, version) = BROKER;
    let home = std::env::var_os("HOME").context("HOME isn't set")?;
    Ok(Path::new(&home).join(format!(".cache/counterfoil-test/{name}-{version}")))
}

/// The broker's own file, once it is installed.
pub(crate) fn broker() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("COUNTERFOIL_NISSHI") {
        return Ok(path.into());
    }
    Ok(broker_root()?.join("bin").join(BROKER.0))
}

/// Installs the broker outside of the checkout, once a machine, unless tests are to use another cluster. It takes some ten
/// minutes, nearly all of them the compiler's.
pub(crate) fn install_broker() -> Result<()> {
    let (name, version) = BROKER;
    if std::env::var_os("KAFKA_BOOTSTRAP").is_some()
        || std::env::var_os("COUNTERFOIL_NISSHI").is_some()
    {
        return Ok(());
    }
    let root = broker_root()?;
    if broker()?.exists() {
        return Ok(());
    }
    println!(
        "# tests take a Kafka broker; it is built once, into {}",
        root.display()
    );
    let build = root.with_extension("build");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "install",
            name,
            "--version",
            version,
            "--locked",
            "--ignore-rust-version",
        ])
        .args([
            "--debug",
            "--no-default-features",
            "--features",
            "dynostore,libsql",
        ])
        .arg("--root")
        .arg(&root)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", &build);
    let status = shown(&mut command)?;
    // What it was built from takes gigabytes.
    let _ = std::fs::remove_dir_all(&build);
    if !status.success() {
        bail!(
            "installing the broker ended with {status}; look at what it says above, or name a Kafka cluster in KAFKA_BOOTSTRAP"
        );
    }
    Ok(())
}

/// Confluent's Python client and Google's protobuf compiler, as tests of consumers take them.
const PYTHON_CLIENT: &[&str] = &[
    "confluent-kafka[schemaregistry,protobuf]==2.16.0",
    "grpcio-tools==1.85.0",
    "protobuf==7.36.2",
];
/// Where they are; the same name is in `tests/src/python_client.rs`.
const PYTHON_ENVIRONMENT: &str = ".cache/counterfoil-test/python-confluent-kafka-2.16.0";

/// Makes an environment with Confluent's Python client outside of the checkout, once a machine.
pub(crate) fn install_python_client() -> Result<()> {
    if std::env::var_os("COUNTERFOIL_PYTHON_CLIENT").is_some() {
        return Ok(());
    }
    let home = std::env::var_os("HOME").context("HOME isn't set")?;
    let root = Path::new(&home).join(PYTHON_ENVIRONMENT);
    // Written last: what was interrupted is made anew.
    let done = root.join("complete");
    if done.exists() {
        return Ok(());
    }
    println!(
        "# tests take Confluent's Python client; it is installed once, into {}",
        root.display()
    );
    let mut make = Command::new(Path::new(SYSTEM_BIN).join("python3"));
    make.args(["-m", "venv", "--clear"]).arg(&root);
    let mut install = Command::new(root.join("bin/pip"));
    install
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON_CLIENT);
    for command in [&mut make, &mut install] {
        let status = shown(command)?;
        if !status.success() {
            bail!(
                "installing Confluent's Python client ended with {status}; look at what it says above"
            );
        }
    }
    std::fs::write(&done, "").with_context(|| format!("writing {}", done.display()))
}

/// Whether Python can make environments; Debian has that in a package of its own.
fn has_venv() -> bool {
    let python = Path::new(SYSTEM_BIN).join("python3");
    let mut command = Command::new(python);
    command.args(["-c", "import ensurepip"]);
    command.output().is_ok_and(|output| output.status.success())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(SYSTEM_BIN).join(program).exists()
        || std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// By the owner of this process's own directory in `/proc`, which takes no further crate.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
