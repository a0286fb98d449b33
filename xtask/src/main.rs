//! `cargo xtask`: what people and continuous integration both run.
//!
//! Every task prints the commands it runs. Nothing is installed but by `test` and `lint`: Debian packages, by root, that are
//! missing, and by `test` the broker, below the home directory. Exit code 0 means that all that was asked for is so.

mod bench;
mod cargo;
mod cases;
mod compose;
mod fuzz;
mod install;
mod packages;
mod stats;
mod torture;

use anyhow::{Context as _, Result};
use cargo::{Profile, With};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Demo, tests, lints and benchmarks of Counterfoil"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and run the demo: a card switch under capture, killed and brought back, mirrored and restored.
    ///
    /// Takes nothing but Rust and a C compiler.
    Demo {
        /// How long the card switch works.
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// With the card switch in COBOL (takes GnuCOBOL's `cobc`).
        #[arg(long)]
        cobol: bool,
        /// Further arguments for `counterfoil demo`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Install what tests take (as root), build, and run all tests; ends with a table of what each sink made of each case of
    /// the contract, and some seconds of fuzzing.
    ///
    /// In the environment, COUNTERFOIL_SEED=N repeats random choices, COUNTERFOIL_SOAK=N makes random tests N times as long, and
    /// COUNTERFOIL_SCHEDULES=N lets the model checker of schedules interrupt threads N times more often in each schedule.
    Test {
        /// Further arguments for `cargo test`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Give what reads bytes from outside any bytes at all; what it can't stand is kept in fuzz/artifacts.
    Fuzz {
        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
        /// Repeat what a run with this seed tried.
        #[arg(long, value_name = "N")]
        seed: Option<u32>,
        /// Give the target these inputs and no others.
        #[arg(long, value_name = "FILE")]
        replay: Vec<std::path::PathBuf>,
        /// Only these targets: copybook, layout and so on, as in fuzz/targets.
        targets: Vec<String>,
    },
    /// Programs, operations and faults at random, on every transport and sink; ends with what was tried. 1 if anything
    /// differed, was lost or came twice.
    ///
    /// Faults: programs and replicators killed and stopped, servers killed, connections cut and slow, disks full (as root),
    /// failing writes, steps of the clock. A seed gives the same plan again. tests/README.md says how it checks.
    Torture {
        /// No further round is begun after so long.
        #[arg(long, value_name = "N", default_value_t = 5.0)]
        minutes: f64,
        /// Repeat the plans of a run with this seed; without it, one from the clock, which is printed.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// Begin with this round of the seed.
        #[arg(long, value_name = "N", default_value_t = 0)]
        round: u64,
        /// At most so many rounds.
        #[arg(long, value_name = "N")]
        rounds: Option<u64>,
        /// For how long faults begin in a round; part of what the seed decides.
        #[arg(long, value_name = "N", default_value_t = 5000)]
        round_ms: u64,
    },
    /// Formatting, lints and documentation, without warnings.
    Lint,
    /// Build and install below a directory; nothing is ever overwritten in place, so running programs go on.
    Install {
        /// Where `bin`, `lib`, `include` and `share` are.
        #[arg(long, value_name = "DIR", default_value = "/usr/local")]
        prefix: std::path::PathBuf,
        /// Without Kafka, which takes more to build than a C compiler.
        #[arg(long)]
        without_kafka: bool,
        /// With ODBC sinks, which take a driver manager.
        #[arg(long, conflicts_with = "without_kafka")]
        odbc: bool,
        /// Install what tests run instead of what is shipped.
        #[arg(long, hide = true)]
        dev: bool,
    },
    /// Build the images of docker-compose.yml and run them, as root, with a Docker of its own and no registry.
    Compose {
        /// Apply to SQLite instead of the databases, to try the rest alone.
        #[arg(long)]
        sqlite: bool,
        /// With what tests run instead of what is shipped.
        #[arg(long, hide = true)]
        dev: bool,
    },
    /// Measure, and compare with the aims.
    Bench {
        #[command(subcommand)]
        which: bench::Which,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long each fuzz target runs behind the tests: enough for its seeds, and for what a careless change breaks.
const FUZZ_SECONDS: u64 = 3;

/// What `cargo test` tests beside what is built by default.
const TESTED_FEATURES: &str = "counterfoil/odbc,counterfoil-sinks/odbc,counterfoil-tests/odbc";

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.task {
        Task::Demo {
            seconds,
            cobol,
            more,
        } => demo(seconds, cobol, &more),
        Task::Test { more } => {
            packages::install_missing()?;
            packages::install_broker()?;
            packages::install_python_client()?;
            let dir = cargo::build(Profile::Dev, With::Odbc)?;
            println!("# tests run {}/counterfoil", dir.display());
            let mut arguments = vec!["test"];
            // Together with a package it would still be everything.
            let names_some = |word: &String| word == "-p" || word.starts_with("--package");
            if !more.iter().any(names_some) {
                arguments.extend(["--workspace", "--features", TESTED_FEATURES]);
            }
            arguments.extend(more.iter().map(String::as_str));
            let passed = test(&arguments)?;
            if more.is_empty() {
                fuzz::run(&fuzz::Options {
                    seconds: FUZZ_SECONDS,
                    seed: None,
                    targets: Vec::new(),
                    replay: Vec::new(),
                })?;
            }
            Ok(passed)
        }
        Task::Fuzz {
            seconds,
            seed,
            replay,
            targets,
        } => {
            fuzz::run(&fuzz::Options {
                seconds,
                seed,
                targets,
                replay,
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Torture {
            minutes,
            seed,
            round,
            rounds,
            round_ms,
        } => torture::run(&torture::Options {
            minutes,
            seed,
            round,
            rounds,
            round_ms,
        }),
        Task::Lint => {
            packages::install_missing()?;
            cargo::run(&["fmt", "--all", "--check"], &[])?;
            // A workspace of its own.
            let fuzz = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"];
            cargo::run(&fuzz, &[])?;
            cargo::run(
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            )?;
            // What takes a C compiler only.
            cargo::run(
                &[
                    "clippy",
                    "--package",
                    "counterfoil",
                    "--no-default-features",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            )?;
            cargo::run(
                &["doc", "--workspace", "--no-deps"],
                &[("RUSTDOCFLAGS", "-D warnings")],
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Install {
            prefix,
            without_kafka,
            odbc,
            dev,
        } => {
            let profile = if dev { Profile::Dev } else { Profile::Release };
            let with = if without_kafka {
                With::CompilerOnly
            } else if odbc || dev {
                With::Odbc
            } else {
                With::Everything
            };
            install::install(&cargo::build(profile, with)?, &prefix)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Compose { sqlite, dev } => {
            compose::run(if dev { Profile::Dev } else { Profile::Release }, sqlite)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench { which } => bench::run(&which),
    }
}

/// Runs tests, and ends with what each sink made of each case of the contract, which is left in a file too.
fn test(arguments: &[&str]) -> Result<ExitCode> {
    let path = cargo::target_dir()?.join("contract-cases.txt");
    let cases = path.with_extension("told");
    std::fs::write(&cases, "").with_context(|| format!("writing {}", cases.display()))?;
    let name = cases
        .to_str()
        .context("the target directory's name is no text")?;
    let mut report = cases::Report::default();
    let environment = [(cases::CASES_VARIABLE, name)];
    let passed = cargo::run_watched(arguments, &environment, &mut |printed| report.take(printed));
    let told = std::fs::read_to_string(&cases);
    let table = report.table(&told.with_context(|| format!("reading {}", cases.display()))?);
    if !table.is_empty() {
        print!("\n{table}");
        std::fs::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;
        println!("# the table is in {}", path.display());
    }
    passed.map(|()| ExitCode::SUCCESS)
}

fn demo(seconds: Option<u64>, cobol: bool, more: &[String]) -> Result<ExitCode> {
    let dir = cargo::build(Profile::Release, With::CompilerOnly)?;
    let mut command = std::process::Command::new(dir.join("counterfoil"));
    command.arg("demo");
    if let Some(seconds) = seconds {
        command.arg("--seconds").arg(seconds.to_string());
    }
    if cobol {
        command.arg("--cobol");
    }
    let status = cargo::shown(command.args(more))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
