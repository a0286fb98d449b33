//! `bench overhead`: what capture costs a program.
//!
//! Each comparison runs one program with and without capture in turns (and the turns change order),
//! in many short rounds; the program times its own loop, so starting up doesn't count. With capture, a
//! replicator consumes what is captured while it is captured, and before each run it has become idle;
//! without, none runs at all, since its watches alone would cost the program something.

use super::bench_site::{BenchSite, Replicator};
use super::tree;
use crate::cargo::{self, Profile, With};
use crate::stats::{Aim, compare, median, quartiles};
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Writes of one run of the tight loop: a second, so that the moment in which the watcher learns that a directory is being
/// written to is as small a part of it as it is of a program's life.
const PWRITES: &str = "1000000";
/// Payments of one run of the card switch.
const PAYMENTS: &str = "300";
/// Rounds of one run of the program that touches no captured file.
const SCRATCH_ROUNDS: &str = "400";
/// Files that one program has open, and its writes to all of them.
const OPEN_FILES: &str = "1000";
const OPEN_FILES_PWRITES: &str = "200000";
/// Threads that append, and how often each does to both of its files.
const THREADS: &str = "64";
const APPENDS: &str = "1500";

pub(crate) fn run(rounds: usize, only: &[String]) -> Result<bool> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let binaries = cargo::build(Profile::Release, With::Everything)?;
    let mut met = true;
    if ["pwrite", "switch", "uncaptured", "files", "threads"]
        .into_iter()
        .any(wanted)
    {
        met &= programs(&binaries, rounds, &wanted)?;
    }
    if wanted("tree") {
        met &= tree::run(&binaries)?;
    }
    Ok(met)
}

fn programs(binaries: &Path, rounds: usize, wanted: &dyn Fn(&str) -> bool) -> Result<bool> {
    const FIXED: &str = "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100";
    let site = BenchSite::new(
        binaries,
        "overhead",
        "lock",
        &[
            ("pwrite.dat", FIXED),
            ("many/*.many", FIXED),
            ("threads/*.app", FIXED),
            (
                "*/cards.dat",
                "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = 150",
            ),
            (
                "*/accounts.dat",
                "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 300",
            ),
            (
                "*/journal.dat",
                "organization = \"sequential\"\nlayout = \"gnucobol\"\nrecord_size = 131\nvarseq_format = 0",
            ),
            (
                "*/switch.log",
                "organization = \"stream\"\nlayout = \"newline\"",
            ),
        ],
    )?;
    let mut bench = Turns {
        site: &site,
        replicator: None,
        memory_max_mib: 0.0,
    };
    let mut met = true;
    if wanted("pwrite") {
        let program = site.compile("pwrite_loop")?;
        let figures = bench.in_turns(rounds, |captured, directory, round| {
            let file = directory.join("pwrite.dat");
            let seed = round.to_string();
            let arguments = [file.as_ref(), PWRITES.as_ref(), seed.as_ref()];
            figure(&site, captured, &program, &arguments)
        })?;
        let unit = "ns a pwrite of 100 bytes";
        met &= report("pwrite", unit, &figures, Aim::AtMost(1.15));
    }
    if wanted("files") {
        let program = site.compile("many_files")?;
        let figures = bench.in_turns(rounds, |captured, directory, _| {
            let directory = made(directory.join("many"))?;
            let arguments = [
                directory.as_ref(),
                OPEN_FILES.as_ref(),
                OPEN_FILES_PWRITES.as_ref(),
            ];
            figure(&site, captured, &program, &arguments)
        })?;
        let unit = "ns a pwrite of 100 bytes to the next of 1,000 files";
        met &= report("files", unit, &figures, Aim::AtMost(1.15));
    }
    if wanted("threads") {
        let program = site.compile("appenders")?;
        let figures = bench.in_turns(rounds, |captured, directory, _| {
            let directory = made(directory.join("threads"))?;
            let arguments = [directory.as_ref(), THREADS.as_ref(), APPENDS.as_ref()];
            figure(&site, captured, &program, &arguments)
        })?;
        let unit = "ns an append of 100 bytes, by 64 threads";
        met &= report("threads", unit, &figures, Aim::AtMost(1.15));
    }
    if wanted("switch") {
        let program = site.compile("card_switch")?;
        // A synced payment takes as long as the disk pleases; more rounds than elsewhere settle it.
        let figures = bench.in_turns(2 * rounds, |captured, directory, round| {
            let directory = made(directory.join(format!("{round}-{captured}")))?;
            let arguments = [
                directory.as_ref(),
                "--payments".as_ref(),
                PAYMENTS.as_ref(),
                "--sync".as_ref(),
            ];
            let result = figure(&site, captured, &program, &arguments);
            std::fs::remove_dir_all(&directory)
                .with_context(|| format!("removing {}", directory.display()))?;
            result
        })?;
        let unit = "us a payment with one fdatasync";
        met &= report("switch", unit, &figures, Aim::AtMost(1.01));
    }
    if wanted("uncaptured") {
        let program = site.compile("scratch_user")?;
        let file: PathBuf = site.scratch().join("scratch.tmp");
        // The aim is below what one run varies by: many short runs, and their medians, show it.
        let figures = bench.in_turns(4 * rounds, |captured, _, _| {
            let arguments = [file.as_ref(), SCRATCH_ROUNDS.as_ref()];
            figure(&site, captured, &program, &arguments)
        })?;
        let unit = "ns a round on a file outside the rules";
        met &= report("uncaptured", unit, &figures, Aim::AtMost(1.005));
    }
    bench.without_replicator()?;
    println!(
        "replicator: at most {:.1} MiB resident",
        bench.memory_max_mib
    );
    Ok(met)
}

/// The figures without and with capture.
struct Figures {
    without: Vec<f64>,
    with: Vec<f64>,
}

/// A replicator that runs when it is needed.
struct Turns<'a> {
    site: &'a BenchSite,
    replicator: Option<Replicator>,
    memory_max_mib: f64,
}

impl Turns<'_> {
    fn with_replicator(&mut self) -> Result<()> {
        match &mut self.replicator {
            Some(replicator) => replicator.wait_idle(),
            None => {
                self.replicator = Some(self.site.replicator()?);
                Ok(())
            }
        }
    }

    fn without_replicator(&mut self) -> Result<()> {
        if let Some(mut replicator) = self.replicator.take() {
            replicator.wait_idle()?;
            self.memory_max_mib = self.memory_max_mib.max(replicator.memory_max_mib()?);
            replicator.stop()?;
        }
        Ok(())
    }

    /// Measures with capture, in the directory with captured files, and without, in one that no rule covers.
    fn in_turns(
        &mut self,
        rounds: usize,
        mut measure: impl FnMut(bool, PathBuf, usize) -> Result<f64>,
    ) -> Result<Figures> {
        let mut figures = Figures {
            without: Vec::new(),
            with: Vec::new(),
        };
        // The first round of each warms caches and isn't counted.
        for round in 0..=rounds {
            let captured_first = round % 2 == 0;
            for captured in [captured_first, !captured_first] {
                let directory = if captured {
                    self.with_replicator()?;
                    self.site.data()
                } else {
                    self.without_replicator()?;
                    self.site.scratch()
                };
                let figure = measure(captured, directory, round)?;
                if round > 0 {
                    if captured {
                        &mut figures.with
                    } else {
                        &mut figures.without
                    }
                    .push(figure);
                }
            }
        }
        Ok(figures)
    }
}

fn made(directory: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

/// Runs a program and takes the last number that it prints.
fn figure(site: &BenchSite, captured: bool, program: &Path, arguments: &[&OsStr]) -> Result<f64> {
    let (text, _) = site.run(captured, program, arguments)?;
    let number = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .next_back();
    number.with_context(|| format!("{} printed no figure: {text:?}", program.display()))
}

fn report(case: &str, unit: &str, figures: &Figures, aim: Aim) -> bool {
    for (name, figures) in [
        ("without capture", &figures.without),
        ("with capture", &figures.with),
    ] {
        let (low, high) = quartiles(figures);
        println!(
            "overhead/{case}: {name}: {:.1} {unit} (middle half {low:.1} to {high:.1}, {} runs)",
            median(figures),
            figures.len()
        );
    }
    compare(
        &format!("overhead/{case}"),
        median(&figures.with) / median(&figures.without),
        aim,
    )
}
