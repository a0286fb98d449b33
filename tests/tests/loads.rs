//! Files that are there before anything is captured: read in pieces, at a pace, while programs go on.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::wait_until;
use counterfoil_tests::{Group, Shape, Site, c};
use std::os::unix::fs::FileExt as _;

const RECORD: Shape = Shape::Fixed { size: 100 };
const SIZE: u64 = 6 << 20;

#[test]
fn files_load_together_at_the_pace_that_is_allowed_and_live_changes_win() -> Result<()> {
    let site = Site::new("loads")?;
    let text = site.config_text(&[Group::new("group", "none")
        .file("one.dat", RECORD)
        .file("two.dat", RECORD)
        .file("small.dat", RECORD)]);
    site.configure_text(&format!("{text}\n[load]\nbytes_per_second = 3145728\n"))?;
    let writer = c("record_writer")?;
    let count = (SIZE / 100).to_string();
    for name in ["one.dat", "two.dat"] {
        site.uncaptured(&writer, &[name, &count])?;
    }
    site.uncaptured(&writer, &["small.dat", "10"])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let loads = |want: &dyn Fn(&[serde_json::Value]) -> bool, what: &str| {
        wait_until(what, || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let loads = status["loads"].as_array().cloned().unwrap_or_default();
            want(&loads)
                .then_some(loads)
                .ok_or_else(|| status.to_string())
        })
    };
    // Both are under way at once, a short one waits for neither, and how long it takes can be seen.
    let both = loads(
        &|loads| loads.len() == 2 && loads.iter().all(|it| it["seconds_left"].is_u64()),
        "both files under way",
    )?;
    for load in &both {
        ensure!(load["size"] == SIZE / 100 * 100, "{load}");
        ensure!(load["seconds_left"].as_u64() < Some(600), "{load}");
        ensure!(load["bytes_per_second"].as_u64() < Some(8 << 20), "{load}");
    }
    let words = site.run(&["status"])?.stdout;
    ensure!(
        words.contains("loading") && words.contains("one.dat"),
        "{words}"
    );
    wait_until("the short file", || {
        match site.rows("small_dat").map(|rows| rows.len()) {
            Ok(10) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // A captured program changes the front, which was read, and the end, which wasn't, meanwhile.
    let still = loads(&|loads| !loads.is_empty(), "a load under way")?;
    ensure!(!still.is_empty(), "it is over already");
    site.exec_to_end(&writer, &["one.dat", "7"])?;
    let file = std::fs::File::options()
        .write(true)
        .open(site.path("two.dat"))?;
    file.write_all_at(b"nobody saw this", SIZE / 2 / 100 * 100)
        .context("changing the middle, uncaptured")?;
    loads(&<[_]>::is_empty, "all to be loaded")?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    for (file, table) in [("one.dat", "one_dat"), ("two.dat", "two_dat")] {
        let rows: Vec<u8> = site.rows(table)?.into_values().flatten().collect();
        ensure!(rows == std::fs::read(site.path(file))?, "{file} differs");
    }
    site.finish();
    Ok(())
}
