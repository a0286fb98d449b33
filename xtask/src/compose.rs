//! `cargo xtask compose`: the compose file for real.
//!
//! Takes root and the Debian packages `docker.io`, `docker-compose` and `debootstrap`, but no registry: the base image is
//! made by debootstrap, and the binaries are built here. The Docker daemon is this task's own, below `target/compose`, and
//! needs nothing of the kernel but namespaces; containers have no network. It ends with `counterfoil verify` in the
//! replicator's container, after rows have been seen to arrive.

use crate::cargo::{self, Profile, With, shown, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BASE: &str = "counterfoil-base:local";
const LIMIT: Duration = Duration::from_secs(120);

/// Containers without a network, which this daemon has none of.
const OVERRIDE: &str = "\
version: \"3.4\"
services:
  replicator:
    build: { network: none, args: { BUILT: target/compose/built } }
    network_mode: none
  app:
    build: { network: none, args: { BUILT: target/compose/built } }
    network_mode: none
";

pub(crate) fn run() -> Result<()> {
    let directory = workspace().join("target/compose");
    fs::create_dir_all(&directory)?;
    build(&directory)?;
    let docker = Docker::start(&directory)?;
    docker.make_base()?;
    fs::write(directory.join("override.yml"), OVERRIDE)?;
    let result = docker.show();
    let ended = docker.compose(&["down", "--volumes", "--timeout", "30"]);
    result.and(ended)
}

/// Builds what the images hold into the directory that the Dockerfile takes it from.
fn build(directory: &Path) -> Result<()> {
    let built = cargo::build(Profile::Release, With::Everything)?;
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
        let daemon = Command::new("dockerd")
            .args([
                "--storage-driver",
                "vfs",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge",
                "none",
            ])
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
            .current_dir(workspace());
        command
    }

    /// Debian's smallest system, as an image.
    fn make_base(&self) -> Result<()> {
        if self
            .command("docker")
            .args(["image", "inspect", BASE])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            return Ok(());
        }
        let base = self.directory.join("base");
        if !base.join("bin/sh").exists() {
            succeed(
                Command::new("debootstrap")
                    .args(["--variant=minbase", "bookworm"])
                    .arg(&base),
            )?;
        }
        let mut packing = Command::new("tar")
            .arg("--directory")
            .arg(&base)
            .args(["--create", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("running tar")?;
        let image = packing.stdout.take().context("tar's output")?;
        succeed(
            self.command("docker")
                .args(["import", "-", BASE])
                .stdin(image),
        )?;
        ensure!(
            packing.wait()?.success(),
            "packing {} failed",
            base.display()
        );
        Ok(())
    }

    fn compose(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("docker-compose");
        command
            .args([
                "--file",
                "docker-compose.yml",
                "--file",
                "target/compose/override.yml",
            ])
            .args(arguments);
        succeed(&mut command)
    }

    /// What `counterfoil` says in the replicator's container.
    fn replicator(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self
            .command("docker-compose")
            .args([
                "--file",
                "docker-compose.yml",
                "--file",
                "target/compose/override.yml",
            ])
            .args(["exec", "-T", "replicator", "counterfoil"])
            .args(arguments)
            .output()?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    fn show(&self) -> Result<()> {
        self.compose(&["build"])?;
        self.compose(&["up", "--detach"])?;
        // The lock of each payment makes a unit, so what is applied is told by images.
        let begun = Instant::now();
        let mut before = None;
        loop {
            let (_, text) = self.replicator(&["status", "--json"])?;
            let images = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("\"images\":"))
                .and_then(|number| number.trim().trim_end_matches(',').parse::<u64>().ok());
            if let (Some(first), Some(now)) = (before, images)
                && first > 0
                && now > first
            {
                println!("rows arrive: {now} record images applied, {first} a moment ago");
                break;
            }
            before = images.or(before);
            ensure!(
                begun.elapsed() < LIMIT,
                "no rows arrive; status says {text}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        let (_, text) = self.replicator(&["status"])?;
        println!("{text}");
        self.compose(&["stop", "app"])?;
        let begun = Instant::now();
        loop {
            let (equal, text) = self.replicator(&["verify"])?;
            if equal {
                println!("{text}");
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "files and rows differ:\n{text}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
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
