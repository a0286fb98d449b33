//! What the demo is played with: a directory, a configuration, and a card switch compiled from its source.
//!
//! ```text
//! counterfoil.toml    the configuration
//! card.cpy            the copybook of the cards
//! card_switch.c       the switch's source, and beside it the program
//! files/              the four files that the switch keeps
//! state/              the replicator's state, with the database counterfoil.db
//! restored/           where the files are restored to
//! logs/               what switch, replicator and verbs print
//! ```

use super::children::Order;
use anyhow::{Context as _, bail};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SWITCH_C: &str = include_str!("../../../../tests/programs/card_switch.c");
const SWITCH_COBOL: &str = include_str!("../../../../tests/programs/card_switch.cob");
const CARDS: &str = "500";
/// Payments a second; a payment is about five operations.
const RATE: &str = "1000";

/// The files the switch keeps.
pub(super) const FILES: [&str; 4] = ["cards.dat", "accounts.dat", "journal.dat", "switch.log"];

const CONFIG: &str = r#"# The demo's configuration. docs/configuration.md has every key.
[site]
name = "demo"
state = "state"

[[group]]
name = "payments"
# What the switch does while it holds the lock on a card becomes visible in the database together.
unit_of_work = "lock"

[[group.file]]
path = "files/cards.dat"
organization = "relative"
layout = "gnucobol"
# What is in a record: its fields become columns beside its bytes.
copybook = "card.cpy"

[[group.file]]
path = "files/accounts.dat"
organization = "fixed"
layout = "plain"
record_size = 300

[[group.file]]
path = "files/journal.dat"
organization = "sequential"
layout = "gnucobol"

[[group.file]]
path = "files/switch.log"
organization = "stream"
layout = "newline"
"#;

/// The switch's cards, as its COBOL sees them.
const COPYBOOK: &str = "\
       01  CARD-RECORD.
           05  CARD-NUMBER             PIC 9(16).
           05  CARD-STATE              PIC X.
           05  CARD-ACCOUNT            PIC 9(8).
           05  CARD-LIMIT              PIC 9(12).
           05  CARD-SPENT              PIC 9(12).
           05  CARD-GENERATION         PIC 9(4).
           05  CARD-PAYMENT            PIC 9(12).
           05  CARD-HOLDER             PIC X(30).
           05  FILLER                  PIC X(55).
";

/// The directory and the programs.
pub(super) struct Stage {
    /// The directory, by its real path.
    pub(super) root: PathBuf,
    counterfoil: PathBuf,
    program: &'static str,
}

impl Stage {
    /// Makes everything that has to be there before anything runs.
    pub(super) fn set(wanted: Option<&Path>, cobol: bool) -> anyhow::Result<Stage> {
        // It can't go on without the interposer, and a child's log is a bad place to read that.
        crate::interposer_library()?;
        let counterfoil = std::env::current_exe().context("finding out where this program is")?;
        let root = match wanted {
            Some(path) => empty_directory(path)?,
            None => fresh_directory(&std::env::temp_dir())?,
        };
        let root = root
            .canonicalize()
            .with_context(|| format!("finding the real path of {}", root.display()))?;
        let stage = Stage {
            root,
            counterfoil,
            program: if cobol {
                "card_switch_cobol"
            } else {
                "card_switch"
            },
        };
        for directory in [stage.files(), stage.root.join("logs")] {
            std::fs::create_dir(&directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        stage.write("counterfoil.toml", CONFIG)?;
        stage.write("card.cpy", COPYBOOK)?;
        // The auditor is the switch in C, whoever kept the files.
        stage.write("card_switch.c", SWITCH_C)?;
        stage.compile(
            "cc",
            &["-O2", "-o"],
            "card_switch",
            "card_switch.c",
            "gcc libc6-dev",
        )?;
        if cobol {
            stage.write("card_switch.cob", SWITCH_COBOL)?;
            stage.compile(
                "cobc",
                &["-x", "-o"],
                "card_switch_cobol",
                "card_switch.cob",
                "gnucobol3",
            )?;
        }
        Ok(stage)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn compile(
        &self,
        compiler: &str,
        options: &[&str],
        program: &str,
        source: &str,
        packages: &str,
    ) -> anyhow::Result<()> {
        let result = Command::new(compiler)
            .args(options)
            .args([program, source])
            .current_dir(&self.root)
            .output();
        let output = match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "the compiler `{compiler}` isn't there; install it (Debian: apt-get install {packages})"
            ),
            result => result.with_context(|| format!("running {compiler}"))?,
        };
        if !output.status.success() {
            bail!(
                "compiling {} with {compiler} failed (on Debian it takes the packages {packages}):\n{}",
                self.root.join(source).display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Where the switch's files are.
    pub(super) fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.root.join("counterfoil.toml")
    }

    /// The database.
    pub(super) fn database(&self) -> PathBuf {
        self.root.join("state/counterfoil.db")
    }

    /// Where the switch's files are after `restore`.
    pub(super) fn restored_files(&self) -> PathBuf {
        let files = self.files();
        self.root
            .join("restored")
            .join(files.strip_prefix("/").unwrap_or(&files))
    }

    /// The switch's program, as it is typed in the directory.
    pub(super) fn program_name(&self) -> String {
        format!("./{}", self.program)
    }

    /// `counterfoil run`.
    pub(super) fn replicator(&self, options: &[&str]) -> Order {
        let words = [&["run"], options].concat();
        self.counterfoil(&words, "replicator")
    }

    /// The switch, under capture.
    pub(super) fn switch(&self, seconds: u64, seed: u64) -> Order {
        let program = self.program_name();
        let (seconds, seed) = (seconds.to_string(), seed.to_string());
        let words = [
            "exec",
            "--",
            &program,
            "files",
            "--seconds",
            &seconds,
            "--rate",
            RATE,
            "--cards",
            CARDS,
            "--seed",
            &seed,
        ];
        Order {
            what: "the switch".to_owned(),
            ..self.counterfoil(&words, "switch")
        }
    }

    /// `counterfoil verify --json`, into a file of its own.
    pub(super) fn verify(&self) -> Order {
        Order {
            stdout: self.root.join("logs/verify.json"),
            ..self.counterfoil(&["verify", "--json"], "verify")
        }
    }

    /// `counterfoil restore`.
    pub(super) fn restore(&self) -> Order {
        self.counterfoil(&["restore", "--to", "restored"], "restore")
    }

    /// The switch's own audit of the restored files, not captured.
    pub(super) fn audit(&self) -> Order {
        let mut command = Command::new(self.root.join("card_switch"));
        command.arg("--audit").arg(self.restored_files());
        self.order("the audit", command, "audit")
    }

    fn counterfoil(&self, words: &[&str], log: &str) -> Order {
        let mut command = Command::new(&self.counterfoil);
        command.arg("--config").arg(self.config()).args(words);
        self.order(&format!("`counterfoil {}`", words.join(" ")), command, log)
    }

    fn order(&self, what: &str, mut command: Command, log: &str) -> Order {
        command.current_dir(&self.root);
        let log = self.root.join("logs").join(log).with_extension("txt");
        Order {
            what: what.to_owned(),
            command,
            stdout: log.clone(),
            stderr: log,
        }
    }

    /// The logs of those that work all the time.
    pub(super) fn logs(&self) -> [PathBuf; 2] {
        ["replicator", "switch"].map(|name| self.root.join("logs").join(name).with_extension("txt"))
    }
}

/// The directory as asked for, empty.
fn empty_directory(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making {}", path.display()))?;
    let mut entries =
        std::fs::read_dir(path).with_context(|| format!("looking into {}", path.display()))?;
    if entries.next().is_some() {
        bail!(
            "{} isn't empty; name another directory with --keep, or remove what is in it",
            path.display()
        );
    }
    Ok(path.to_owned())
}

/// A directory that nobody has used.
fn fresh_directory(parent: &Path) -> anyhow::Result<PathBuf> {
    for number in 0_u32.. {
        let name = format!("counterfoil-demo-{}-{number}", std::process::id());
        let path = parent.join(name);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "making {}; name another directory with --keep",
                        path.display()
                    )
                });
            }
        }
    }
    bail!("every name in {} is taken", parent.display())
}
