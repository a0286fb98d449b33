//! `fuzz`: the targets in `fuzz/`, built by the toolchain that builds everything else, each run for a bounded time.
//!
//! `cargo fuzz run NAME` does the same with nightly and a sanitizer; what both find is in `fuzz/artifacts/NAME`. New inputs that
//! reached something are kept in `fuzz/corpus/NAME`, so a later run goes on from them; neither is in the repository, unlike
//! `fuzz/seeds/NAME`, where every run begins.

use crate::cargo;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// The coverage that cargo-fuzz asks the compiler for with `--sanitizer none`.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Decides about everything random in tests.
const SEED_VARIABLE: &str = "COUNTERFOIL_SEED";

/// A target that is slower than this with one input has found something.
const INPUT_SECONDS_MAX: u64 = 20;

/// Most memory of a target, in MiB. What it allocates it bounds by itself, more narrowly.
const MEMORY_MIB_MAX: u64 = 2048;

/// Longest input, in bytes: some of what is read is cut at multiples of 4096.
const fn input_bytes_max(target: &str) -> u64 {
    match target.as_bytes() {
        b"layout" | b"guess" => 16 << 10,
        _ => 4 << 10,
    }
}

pub(crate) struct Options {
    /// How long each target runs.
    pub(crate) seconds: u64,
    /// Decides what is tried; another one for every run, unless it is given.
    pub(crate) seed: Option<u32>,
    /// Which targets; all, if none is named.
    pub(crate) targets: Vec<String>,
    /// Gives the one target these inputs and no other.
    pub(crate) replay: Vec<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no target {unknown:?}; there are: {}",
            known.join(", ")
        );
    }
    let chosen = if options.targets.is_empty() {
        &known
    } else {
        &options.targets
    };
    let programs = build(chosen)?;
    if !options.replay.is_empty() {
        let [target] = chosen.as_slice() else {
            bail!("name the one target that is to be given these inputs");
        };
        let status = cargo::shown(Command::new(programs.join(target)).args(&options.replay))?;
        if !status.success() {
            bail!("{target} ended with {status}");
        }
        return Ok(());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let given = std::env::var(SEED_VARIABLE).ok();
    let given = given.and_then(|seed| seed.parse().ok());
    // Not 0: by that the fuzzer chooses one itself.
    let seed = options.seed.or(given).unwrap_or(now.subsec_nanos()).max(1);
    let rest = Mutex::new(chosen.iter());
    let failed = Mutex::new(Vec::new());
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(target) = rest.lock().ok().and_then(|mut rest| rest.next()) else {
                        return;
                    };
                    match fuzz(&programs, target, options.seconds, seed) {
                        Ok(line) => println!("fuzz: {target}: {line}"),
                        Err(error) => {
                            println!("fuzz: {target}: {error:#}");
                            failed
                                .lock()
                                .map(|mut failed| failed.push(target.as_str()))
                                .ok();
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("fuzzing found something in: {}", failed.join(", "));
    }
    Ok(())
}

fn directory() -> PathBuf {
    cargo::workspace().join("fuzz")
}

/// The targets there are.
fn targets() -> Result<Vec<String>> {
    let directory = directory().join("targets");
    let reading = || format!("reading {}", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

/// Builds targets, and gives the directory that they are in. It is one apart, so that nothing else is built anew for the flags.
fn build(targets: &[String]) -> Result<PathBuf> {
    crate::packages::require_cxx()?;
    let host = host()?;
    let own = cargo::target_dir()?.join("fuzz");
    let own_text = own
        .to_str()
        .context("the target directory's name is no text")?;
    let mut arguments = vec![
        "build",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        own_text,
        // By naming it, the flags are for the targets only, not for what runs while they are built.
        "--target",
        &host,
    ];
    for target in targets {
        arguments.extend(["--bin", target]);
    }
    cargo::run(&arguments, &[("RUSTFLAGS", RUSTFLAGS)])?;
    Ok(own.join(&host).join("release"))
}

/// The machine's own target, as the compiler calls it.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asking = || format!("asking {} for its host", rustc.to_string_lossy());
    let output = Command::new(&rustc)
        .arg("-vV")
        .output()
        .with_context(asking)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.with_context(asking)?.to_owned())
}

/// Runs one target, and says in a line what it came to.
fn fuzz(programs: &Path, target: &str, seconds: u64, seed: u32) -> Result<String> {
    let directory = directory();
    let place = |what: &str| -> Result<PathBuf> {
        let place = directory.join(what).join(target);
        std::fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
        Ok(place)
    };
    let (corpus, artifacts) = (place("corpus")?, place("artifacts")?);
    let seeds = directory.join("seeds").join(target);
    // What targets leave there is gone with the next run.
    let temporary = programs.join("tmp").join(target);
    let _ = std::fs::remove_dir_all(&temporary);
    std::fs::create_dir_all(&temporary)
        .with_context(|| format!("making {}", temporary.display()))?;
    let output = Command::new(programs.join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-max_len={}", input_bytes_max(target)))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-malloc_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus)
        .args(seeds.is_dir().then_some(&seeds))
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {target}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = told.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        let found = told
            .lines()
            .find_map(|line| line.split_once("Test unit written to "));
        let how = match found {
            Some((_, path)) => {
                format!("the input is in {path}; again: cargo xtask fuzz {target} --replay {path}")
            }
            None => format!("it ended with {}", output.status),
        };
        bail!("{last}\n{target} with seed {seed}: {how}");
    }
    let figure = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    let coverage = told.lines().rev().find_map(|line| line.split_once("cov: "));
    let coverage = coverage.and_then(|(_, rest)| rest.split(' ').next());
    Ok(format!(
        "{} inputs in {seconds} s, {} edges covered, seed {seed}",
        figure("stat::number_of_executed_units:"),
        coverage.unwrap_or("?")
    ))
}

/// Lines of a fuzzer's output that are shown where it failed.
const LINES_SHOWN: usize = 60;
