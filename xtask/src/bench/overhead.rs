//! `bench overhead`: what capture costs a program.
//!
//! Each comparison runs one program with and without capture in turns (and the turns change order),
//! in many short rounds; the program times its own loop, so starting up doesn't count. A replicator
//! consumes what is captured while it is captured; before each run it has become idle.

use super::bench_site::{BenchSite, Replicator};
use crate::cargo::{self, Profile};
use crate::stats::{Aim, compare, median, quartiles};
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Writes of one run of the tight loop.
const PWRITES: &str = "200000";
/// Payments of one run of the card switch.
const PAYMENTS: &str = "300";
/// Rounds of one run of the program that touches no captured file.
const SCRATCH_ROUNDS: &str = "400";

pub(crate) fn run(rounds: usize, only: &[String]) -> Result<bool> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let site = BenchSite::new(
        &cargo::build(Profile::Release)?,
        "overhead",
        "lock",
        &[
            (
                "pwrite.dat",
                "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100",
            ),
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
    let programs = ["pwrite_loop", "card_switch", "scratch_user"].map(|name| site.compile(name));
    let [pwrite_loop, card_switch, scratch_user] = programs;
    let (pwrite_loop, card_switch, scratch_user) = (pwrite_loop?, card_switch?, scratch_user?);
    let mut replicator = site.replicator()?;
    let mut met = true;

    if wanted("pwrite") {
        let file = site.data().join("pwrite.dat");
        let figures = in_turns(rounds, &mut replicator, |captured, round| {
            let seed = round.to_string();
            figure(
                &site,
                captured,
                &pwrite_loop,
                &[file.as_ref(), PWRITES.as_ref(), seed.as_ref()],
            )
        })?;
        met &= report(
            "pwrite",
            "ns a pwrite of 100 bytes",
            &figures,
            Aim::AtMost(1.15),
        );
    }
    if wanted("switch") {
        // A synced payment takes as long as the disk pleases; more rounds than elsewhere settle it.
        let figures = in_turns(2 * rounds, &mut replicator, |captured, round| {
            let dir = site.data().join(format!("{round}-{captured}"));
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            let arguments = [
                dir.as_ref(),
                "--payments".as_ref(),
                PAYMENTS.as_ref(),
                "--sync".as_ref(),
            ];
            let result = figure(&site, captured, &card_switch, &arguments);
            std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            result
        })?;
        met &= report(
            "switch",
            "us a payment with one fdatasync",
            &figures,
            Aim::AtMost(1.01),
        );
    }
    if wanted("uncaptured") {
        // The aim is below what one run varies by: many short runs, and their medians, show it.
        let file: PathBuf = site.scratch().join("scratch.tmp");
        let figures = in_turns(4 * rounds, &mut replicator, |captured, _| {
            figure(
                &site,
                captured,
                &scratch_user,
                &[file.as_ref(), SCRATCH_ROUNDS.as_ref()],
            )
        })?;
        met &= report(
            "uncaptured",
            "ns a round on a file outside the rules",
            &figures,
            Aim::AtMost(1.005),
        );
    }
    println!(
        "replicator: at most {:.1} MiB resident",
        replicator.memory_max_mib()?
    );
    Ok(met)
}

/// The figures without and with capture.
struct Figures {
    without: Vec<f64>,
    with: Vec<f64>,
}

fn in_turns(
    rounds: usize,
    replicator: &mut Replicator,
    mut measure: impl FnMut(bool, usize) -> Result<f64>,
) -> Result<Figures> {
    let mut figures = Figures {
        without: Vec::new(),
        with: Vec::new(),
    };
    // The first round of each warms caches and isn't counted.
    for round in 0..=rounds {
        let captured_first = round % 2 == 0;
        for captured in [captured_first, !captured_first] {
            replicator.wait_idle()?;
            let figure = measure(captured, round)?;
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
