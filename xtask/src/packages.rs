//! The Debian packages that tests take beside Rust.

use crate::cargo::shown;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// What must be there, and the package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("c++", "g++"),
    ("cobc", "gnucobol3"),
    ("python3", "python3-minimal"),
    ("perl", "perl-base"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("docker-compose", "docker-compose"),
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
];

/// Where programs are looked for beside `PATH`: tests name interpreters by their system paths.
const SYSTEM_BIN: &str = "/usr/bin";

/// Installs what is missing, as root. Otherwise the error has the command to be given.
pub(crate) fn install_missing() -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for (program, package) in NEEDED {
        if !on_path(program) && !missing.contains(package) {
            missing.push(package);
        }
    }
    if !Path::new("/usr/include/stdio.h").exists() {
        missing.push("libc6-dev");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
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
