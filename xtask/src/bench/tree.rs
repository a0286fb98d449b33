//! The part of `bench overhead` that has no program: what a watched tree of very many small files costs while nothing
//! happens, and how long a change takes to its row.

use super::bench_site::{BenchSite, sqlite_leg};
use crate::stats::{Aim, compare, median, quartiles};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How many files, and how many of them in a directory.
const FILES: usize = 100_000;
const FILES_PER_DIRECTORY: usize = 100;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// How many changes are made.
const CHANGES: usize = 40;

pub(crate) fn run(binaries: &Path) -> Result<bool> {
    let sqlite_leg = sqlite_leg()?;
    let site = BenchSite::new(binaries, "tree", "none", &[("tree", "")])?;
    let root = site.data().join("tree");
    for file in 0..FILES {
        let path = path_of(&root, file);
        if file % FILES_PER_DIRECTORY == 0
            && let Some(directory) = path.parent()
        {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        std::fs::write(&path, format!("content of {file}\n"))
            .with_context(|| format!("making {}", path.display()))?;
    }
    let begin = Instant::now();
    let mut replicator = site.replicator()?;
    let until = |query: &str, parameter: &str, number: usize| -> Result<()> {
        let status = Command::new(&sqlite_leg)
            .arg("until")
            .arg(site.database())
            .args([query, parameter, &number.to_string()])
            .status()
            .with_context(|| format!("running {}", sqlite_leg.display()))?;
        if !status.success() {
            bail!("{} ended with {status}", sqlite_leg.display());
        }
        Ok(())
    };
    until(
        "SELECT count(*) FROM counterfoil_files WHERE mode IS NOT NULL AND ?1 = ''",
        "",
        FILES,
    )?;
    println!(
        "overhead/tree: {FILES} files loaded in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    replicator.wait_idle()?;

    let before = replicator.processor_ticks()?;
    std::thread::sleep(IDLE);
    let ticks = replicator.processor_ticks()? - before;
    let idle = ticks as f64 / 100.0 / IDLE.as_secs_f64();
    println!(
        "overhead/tree: idle: {ticks} ticks of 10 ms in {} s",
        IDLE.as_secs()
    );

    let mut seconds = Vec::new();
    for change in 0..CHANGES {
        // All over the tree, and none twice.
        let path = path_of(&root, change * (FILES / CHANGES) + change);
        let content = format!("changed {change}\n");
        let begin = Instant::now();
        std::fs::write(&path, &content).with_context(|| format!("writing {}", path.display()))?;
        let name = path.to_str().context("the path is text")?;
        until(
            "SELECT count(*) FROM tree JOIN counterfoil_files USING (file_id)
             WHERE stream = 'bench/bench' AND path = CAST(?1 AS BLOB)
               AND instr(data, CAST('changed' AS BLOB)) > 0",
            name,
            1,
        )?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let (low, high) = quartiles(&seconds);
    println!(
        "overhead/tree: from a change to its row: {:.0} ms (middle half {:.0} to {:.0}, {CHANGES} changes)",
        1e3 * median(&seconds),
        1e3 * low,
        1e3 * high
    );
    println!(
        "replicator: at most {:.1} MiB resident",
        replicator.memory_max_mib()?
    );
    let is_idle = compare("overhead/tree-idle", idle, Aim::AtMost(0.01));
    let is_quick = compare("overhead/tree-change", median(&seconds), Aim::AtMost(1.0));
    Ok(is_idle && is_quick)
}

fn path_of(root: &Path, file: usize) -> std::path::PathBuf {
    let directory = format!("{:04}", file / FILES_PER_DIRECTORY);
    root.join(directory).join(format!("{file:06}.conf"))
}
