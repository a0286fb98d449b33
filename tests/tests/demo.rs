//! The demo, as people run it: it kills what it shows, and its table says `identical` for every file.

use anyhow::{Result, ensure};
use counterfoil_tests::{Finished, Process, Site};
use std::process::Command;

fn demo(site: &Site, arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(counterfoil_tests::counterfoil()?);
    command.arg("demo").args(arguments).current_dir(site.data());
    let process: Process = site.start(command)?;
    process.finish()?.success()
}

fn says_identical_for_every_file(finished: &Finished) -> Result<()> {
    let text = format!("{}\n{}", finished.stdout, finished.stderr);
    for file in ["cards.dat", "accounts.dat", "journal.dat", "switch.log"] {
        ensure!(
            text.lines()
                .any(|line| line.contains(file) && line.contains("identical")),
            "{file} isn't called identical in:\n{text}"
        );
    }
    // And a card's fields are columns.
    ensure!(
        text.lines()
            .any(|line| line.contains(" HOLDER 000") && line.contains(" 40000000")),
        "no card is shown in:\n{text}"
    );
    Ok(())
}

#[test]
fn the_demo_ends_in_identical_files() -> Result<()> {
    let site = Site::new("demo")?;
    says_identical_for_every_file(&demo(&site, &["--seconds", "4"])?)?;
    site.finish();
    Ok(())
}

#[test]
fn the_demo_in_cobol_ends_in_identical_files() -> Result<()> {
    let site = Site::new("demo-cobol")?;
    says_identical_for_every_file(&demo(&site, &["--seconds", "4", "--cobol"])?)?;
    site.finish();
    Ok(())
}
