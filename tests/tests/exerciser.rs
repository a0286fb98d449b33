//! Many threads and processes do anything to a few files, without any agreement, while the replicator is killed and
//! started again: at the end the mirror proves equal, and the files come back byte by byte.
//!
//! What the operations come to depends on timing, so there is no model of it: where order can't be known, the file decides.
//! The seed replays which operations are tried. `COUNTERFOIL_SOAK=N` tries N times as many.

use anyhow::Result;
use counterfoil_tests::{Chance, Group, Shape, Site, c, rounds, wait_until};

const OPERATIONS: usize = 12_000;
const PROCESSES: usize = 3;
const THREADS: usize = 4;
const TENTHS: usize = 10;

/// Records, lines and blocks: files of one kind are renamed to names of another.
fn groups() -> Vec<Group> {
    vec![
        Group::new("chaos", "none")
            .file("a*.dat", Shape::Fixed { size: 64 })
            .file_as("b*.dat", "organization = \"stream\"\nlayout = \"newline\"")
            .file_as(
                "c*.dat",
                "organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = 512",
            ),
    ]
}

/// Runs the program, leaving some operations out, and what is said of the replicator at each tenth of its work.
fn exercise(name: &str, without: &str, interrupted: bool) -> Result<()> {
    let seed = Chance::seed();
    let mut chance = Chance::new(seed);
    let site = Site::with(name, &groups())?;
    let arguments = [
        seed.to_string(),
        rounds(OPERATIONS).to_string(),
        PROCESSES.to_string(),
        THREADS.to_string(),
        without.to_owned(),
    ];
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let mut program = site.exec(&c("chaos")?, &arguments)?;
    for tenth in 1..=TENTHS {
        let line = format!("{tenth} tenths\n");
        let mut ended = false;
        wait_until(&format!("{tenth} tenths of the work"), || {
            ended = !program.is_running().map_err(|error| format!("{error:#}"))?;
            (ended || program.stdout().contains(&line))
                .then_some(())
                .ok_or_else(|| program.stderr())
        })?;
        if ended || !interrupted {
            continue;
        }
        match chance.below(3) {
            0 => {
                replicator.kill()?;
                replicator = site.replicator()?;
            }
            1 => {
                site.stop(replicator)?;
                replicator = site.replicator()?;
            }
            _ => {}
        }
    }
    program.finish()?.success()?;
    // By this replicator: the next one compares every file when it starts, and would hide what was missed.
    wait_until("everything to be mirrored", || match site.verify() {
        Ok(verdict) if verdict.equal => Ok(()),
        Ok(verdict) => Err(format!("differences: {:?}", verdict.differences)),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn whatever_is_done_to_files_at_once_the_mirror_is_what_they_are() -> Result<()> {
    exercise("chaos", "", false)
}

#[test]
fn whatever_is_done_while_the_replicator_dies_the_mirror_is_what_they_are() -> Result<()> {
    exercise("chaos-killed", "", true)
}
