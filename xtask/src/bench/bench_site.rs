//! A site to measure in: a directory below the target directory (so on a real disk, where the
//! checkout is), a release build, compiled victims, and a replicator that runs meanwhile.

use crate::cargo;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(300);

/// A directory with configuration, data and state. It is removed when this is dropped.
pub(crate) struct BenchSite {
    root: PathBuf,
    counterfoil: PathBuf,
    programs: PathBuf,
}

/// A running `counterfoil run`; killed when this is dropped.
pub(crate) struct Replicator {
    child: Child,
}

impl BenchSite {
    /// Makes the directory; `binaries` is where the release build is. `files` are the tables of `[[group.file]]`: path
    /// relative to the data directory, and the other lines; one without lines is a `[[group.tree]]`.
    pub(crate) fn new(
        binaries: &Path,
        name: &str,
        unit_of_work: &str,
        files: &[(&str, &str)],
    ) -> Result<BenchSite> {
        let base = cargo::target_dir()?.join("bench");
        let root = base.join(format!("{name}-{}", std::process::id()));
        for dir in [
            root.join("data"),
            root.join("scratch"),
            base.join("programs"),
        ] {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let site = BenchSite {
            root,
            counterfoil: binaries.join("counterfoil"),
            programs: base.join("programs"),
        };
        let mut text = format!(
            "[site]\nname = \"bench\"\nstate = {:?}\n\n[[group]]\nname = \"bench\"\nunit_of_work = {unit_of_work:?}\n",
            site.root.join("state")
        );
        for (path, lines) in files.iter().filter(|(_, lines)| !lines.is_empty()) {
            let _ = write!(
                text,
                "\n[[group.file]]\npath = {:?}\n{lines}\n",
                site.data().join(path)
            );
        }
        for (path, _) in files.iter().filter(|(_, lines)| lines.is_empty()) {
            let _ = write!(
                text,
                "\n[[group.tree]]\npath = {:?}\n",
                site.data().join(path)
            );
        }
        std::fs::write(site.config(), text).context("writing the configuration")?;
        Ok(site)
    }

    /// Adds to the configuration what `more` says, instead of what was added before.
    pub(crate) fn configure_more(&self, more: &str) -> Result<()> {
        const MARK: &str = "\n# more\n";
        let text = std::fs::read_to_string(self.config()).context("reading the configuration")?;
        let own = text.split(MARK).next().unwrap_or_default();
        std::fs::write(self.config(), format!("{own}{MARK}{more}"))
            .context("writing the configuration")
    }

    /// What the capturing half last said of itself; empty if it didn't.
    pub(crate) fn status(&self) -> String {
        std::fs::read_to_string(self.root.join("state/status.json")).unwrap_or_default()
    }

    fn config(&self) -> PathBuf {
        self.root.join("counterfoil.toml")
    }

    /// Where captured files are.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// A directory that no rule covers.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The default sink's database.
    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("state/counterfoil.db")
    }

    /// Compiles one of `tests/programs`.
    pub(crate) fn compile(&self, name: &str) -> Result<PathBuf> {
        let source = cargo::workspace()
            .join("tests/programs")
            .join(name)
            .with_extension("c");
        let output = self.programs.join(name);
        let status = cargo::shown(
            Command::new("cc")
                .args(["-O2", "-pthread", "-o"])
                .arg(&output)
                .arg(&source),
        )?;
        if !status.success() {
            bail!("cc ended with {status}; a C compiler is needed (Debian: gcc, libc6-dev)");
        }
        Ok(output)
    }

    /// Runs a program, under capture or without, and gives what it printed and how long it took.
    pub(crate) fn run(
        &self,
        captured: bool,
        program: &Path,
        arguments: &[&OsStr],
    ) -> Result<(String, Duration)> {
        let mut command = if captured {
            let mut command = Command::new(&self.counterfoil);
            command
                .arg("--config")
                .arg(self.config())
                .args(["exec", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let begin = Instant::now();
        let output = command
            .output()
            .with_context(|| format!("running {}", program.display()))?;
        let elapsed = begin.elapsed();
        if !output.status.success() {
            bail!(
                "{} ended with {}{}",
                program.display(),
                output.status,
                if captured { " under capture" } else { "" }
            );
        }
        Ok((
            String::from_utf8_lossy(&output.stdout).into_owned(),
            elapsed,
        ))
    }

    /// Runs a verb to its end, which must be exit code 0, and gives what it printed.
    pub(crate) fn counterfoil(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.counterfoil)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .output()
            .with_context(|| format!("running counterfoil {}", arguments.join(" ")))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "counterfoil {} ended with {}: {said}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(said)
    }

    /// Starts the replicator and waits until it is up: until it has stopped being busy.
    pub(crate) fn replicator(&self) -> Result<Replicator> {
        let mut replicator = self.start("run")?;
        replicator.wait_idle()?;
        Ok(replicator)
    }

    /// Starts the replicator or a half of it, and waits until there are lanes.
    pub(crate) fn start(&self, verb: &str) -> Result<Replicator> {
        let log = self.root.join("replicator.log");
        let output =
            std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let child = Command::new(&self.counterfoil)
            .arg("--config")
            .arg(self.config())
            .arg(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("running {}", self.counterfoil.display()))?;
        let replicator = Replicator { child };
        wait("the replicator's lanes", || {
            Ok(self.root.join("state/lanes").exists().then_some(()))
        })
        .inspect_err(|_| {
            eprintln!("{}", std::fs::read_to_string(&log).unwrap_or_default());
        })?;
        Ok(replicator)
    }
}

impl Drop for BenchSite {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Replicator {
    /// Waits until it does next to nothing any more (5 ms of processor time in 100 ms), so that what is
    /// measured next isn't measured beside the backlog of what was measured before.
    pub(crate) fn wait_idle(&mut self) -> Result<()> {
        let mut before = self.processor_ticks()?;
        wait("the replicator to be idle", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.processor_ticks()?;
            let idle = now - before <= 1;
            before = now;
            Ok(idle.then_some(()))
        })
    }

    /// Stops it in order, and waits for its end.
    pub(crate) fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        let status = Command::new("kill")
            .arg(&id)
            .status()
            .context("running kill")?;
        if !status.success() {
            bail!("`kill {id}` ended with {status}");
        }
        let ended = self.child.wait().context("waiting for the replicator")?;
        if !ended.success() {
            bail!("the replicator ended with {ended}; its log is in the benchmark's directory");
        }
        Ok(())
    }

    /// Processor time so far, in ticks of 10 ms.
    pub(crate) fn processor_ticks(&mut self) -> Result<u64> {
        if let Some(status) = self.child.try_wait().context("looking at the replicator")? {
            bail!("the replicator ended with {status}; its log is in the benchmark's directory");
        }
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // The name in parentheses may hold spaces; after it, utime and stime are words 12 and 13.
        let rest = text.rsplit(')').next().unwrap_or_default();
        let words = rest.split_whitespace().skip(11).take(2);
        Ok(words.filter_map(|word| word.parse::<u64>().ok()).sum())
    }

    /// The most memory it ever had resident, in MiB.
    pub(crate) fn memory_max_mib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = line
            .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("{path} has no VmHWM"))?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that asks SQLite, built. It is of the tests' crate: this one has no SQLite in it.
pub(crate) fn sqlite_leg() -> Result<PathBuf> {
    leg("sqlite_leg")
}

/// The program that speaks to Kafka without us, likewise.
pub(crate) fn kafka_leg() -> Result<PathBuf> {
    leg("kafka_leg")
}

fn leg(name: &str) -> Result<PathBuf> {
    cargo::run(
        &[
            "build",
            "--release",
            "--package",
            "counterfoil-tests",
            "--bin",
            name,
        ],
        &[],
    )?;
    Ok(cargo::target_dir()?.join("release").join(name))
}

/// Asks again and again until there is a value.
pub(crate) fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begin.elapsed() > LIMIT {
            bail!("waited {} s for {what}", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
