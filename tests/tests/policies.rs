//! What programs do when they can't tell what they do, and how they find back to a replicator.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Group, Process, Program, Shape, Site, c, wait_until};

const RECORD: Shape = Shape::Fixed { size: 100 };

/// Groups `group` with all `.dat` files, with lines of its own.
fn site(name: &str, site_lines: &str, group_lines: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let group = Group::new("group", "none").file("*.dat", RECORD);
    let text = site
        .config_text(&[group])
        .replacen("\n[[group]]\n", &format!("{site_lines}\n[[group]]\n"), 1)
        .replacen(
            "unit_of_work = \"none\"\n",
            &format!("unit_of_work = \"none\"\n{group_lines}\n"),
            1,
        );
    site.configure_text(&text)?;
    Ok(site)
}

/// The steady writer, changing its files in the data directory until [`stop`].
fn steady(site: &Site, threads: &str) -> Result<Process> {
    let writer = c("steady_writer")?;
    let process = site.exec(&writer, &[".", "../stop", threads])?;
    wait_until("the writer to write", || {
        match site.path("steady-0.dat").metadata() {
            Ok(there) if there.len() > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(process)
}

fn stop(site: &Site, writer: Process) -> Result<()> {
    std::fs::write(site.root().join("stop"), "")?;
    writer.finish()?.success()?;
    Ok(())
}

/// Waits until the mirror has a record that was written after this call.
fn wait_for_a_new_record(site: &Site) -> Result<()> {
    let newest = || -> Result<Vec<u8>> {
        let content = std::fs::read(site.path("steady-0.dat"))?;
        // "THREAD COUNT ..."; the one with the greatest count was written last.
        let count = |record: &&[u8]| {
            let text = String::from_utf8_lossy(record);
            let count = text.split(' ').nth(1).map(str::to_owned);
            count
                .and_then(|count| count.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let newest = content.chunks_exact(100).max_by_key(count);
        Ok(newest.context("a record")?.to_vec())
    };
    let first = newest()?;
    let number = |record: &[u8]| -> u64 {
        let text = String::from_utf8_lossy(record);
        let number = text
            .split(' ')
            .nth(1)
            .and_then(|number| number.parse().ok());
        number.unwrap_or(0)
    };
    wait_until("a row of what was written just now", || {
        let rows = site
            .rows("steady_0_dat")
            .map_err(|error| format!("{error:#}"))?;
        let latest = rows.values().map(|data| number(data)).max();
        if latest > Some(number(&first)) {
            Ok(())
        } else {
            Err(format!("{latest:?}, not after {}", number(&first)))
        }
    })
}

/// The lane of a program may be one segment long, and its group waits: the program stops short of overrunning it, says so,
/// and goes on as soon as somebody takes what is there. Nothing has to be read again.
#[test]
fn a_program_that_would_overrun_its_lane_waits_for_the_replicator() -> Result<()> {
    for lane_bytes_max in ["65536", "2_000_000"] {
        let site = site(
            "block",
            &format!("lane_bytes_max = {lane_bytes_max}"),
            "on_backlog = \"block\"",
        )?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        replicator.signal(libc::SIGSTOP);
        let mut writer = site.exec(&c("record_writer")?, &["records.dat", "40000"])?;
        let size = wait_until("the program to wait", || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let size = site
                .path("records.dat")
                .metadata()
                .map_or(0, |there| there.len());
            if status["lanes_full"] == 1 {
                Ok(size)
            } else {
                Err(format!("{status}, {size} bytes"))
            }
        })?;
        ensure!(size < 4_000_000 && writer.is_running()?, "{size} bytes");
        replicator.signal(libc::SIGCONT);
        writer.finish()?.success()?;
        wait_until("all records", || match site.rows("records_dat") {
            Ok(rows) if rows.len() == 40_000 => Ok(()),
            Ok(rows) => Err(format!("{} rows", rows.len())),
            Err(error) => Err(format!("{error:#}")),
        })?;
        // Nothing was left out: no gap, so nothing was in doubt.
        let status = site.status()?;
        ensure!(status["rereads"] == 0, "{status}");
        site.stop(replicator)?;
        // Without a replicator it is told that it may come to wait.
        let told = site.exec_to_end(&c("record_writer")?, &["records.dat", "10"])?;
        ensure!(
            told.stderr.contains("no replicator runs"),
            "{}",
            told.stderr
        );
        site.assert_mirrored()?;
        site.finish();
    }
    Ok(())
}

/// The state directory is deleted under everything, as an administrator might who wants to begin anew. Its replicator ends
/// and says why; a new one makes new lanes; the program, which never stops, joins them by itself.
#[test]
fn a_program_joins_the_lanes_of_a_replicator_that_begins_anew() -> Result<()> {
    let site = site("anew", "", "")?;
    let first = site.replicator()?;
    let writer = steady(&site, "3")?;
    wait_for_a_new_record(&site)?;
    std::fs::remove_dir_all(site.state())?;
    let finished = first.finish()?;
    ensure!(
        finished.stderr.contains("was removed or replaced"),
        "{}",
        finished.stderr
    );
    // Once more with a replicator that is killed.
    let mut second = site.replicator()?;
    site.wait_until_up(&mut second)?;
    wait_for_a_new_record(&site)?;
    second.kill()?;
    std::fs::remove_dir_all(site.state())?;
    let mut third = site.replicator()?;
    site.wait_until_up(&mut third)?;
    wait_for_a_new_record(&site)?;
    wait_until("the program to have lanes with the new replicator", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["lanes"].as_u64() >= Some(3) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    stop(&site, writer)?;
    site.stop(third)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// The same with nothing but the lanes, while the replicator runs: it makes them anew.
#[test]
fn lanes_that_are_taken_away_are_made_anew_and_joined() -> Result<()> {
    let site = site("lanes-gone", "lanes = \"lanes\"", "")?;
    let mut replicator = site.replicator()?;
    let writer = steady(&site, "2")?;
    wait_for_a_new_record(&site)?;
    let lanes = site.root().join("lanes");
    for _ in 0..2 {
        std::fs::remove_dir_all(&lanes)?;
        wait_until("the program's lanes in the new directory", || {
            let count = std::fs::read_dir(&lanes)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|word| word == "lane"))
                .count();
            if count >= 2 {
                Ok(())
            } else {
                Err(format!("{count} lanes"))
            }
        })?;
        wait_for_a_new_record(&site)?;
    }
    ensure!(replicator.is_running()?);
    stop(&site, writer)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A group that would rather have an error than an uncaptured change gets one, and goes on when the lanes are back.
#[test]
fn a_call_fails_while_there_are_no_lanes_where_that_is_asked_for() -> Result<()> {
    let site = site("fail", "lanes = \"lanes\"", "on_unavailable = \"fail\"")?;
    site.settle()?;
    let lanes = site.root().join("lanes");
    // The shell opens the file, then waits for the lanes to be taken away.
    let script = "exec 3>>records.dat; printf '%0100d' 1 >&3 || exit 3; : > ../begun; \
                  while [ ! -e ../away ]; do sleep 0.01; done; \
                  n=0; while printf '%0100d' 2 >&3 2>/dev/null; do n=$((n+1)); sleep 0.01; [ $n -lt 3000 ] || exit 4; done; \
                  : > ../failed; while [ ! -e ../back ]; do sleep 0.01; done; \
                  until printf '%0100d' 3 >&3 2>/dev/null; do sleep 0.01; done";
    let program = site.exec(&Program::named("sh"), &["-c", script])?;
    let there = |name: &str| {
        let path = site.root().join(name);
        wait_until(name, || {
            if path.exists() {
                Ok(())
            } else {
                Err("not there".to_owned())
            }
        })
    };
    there("begun")?;
    std::fs::remove_dir_all(&lanes)?;
    std::fs::write(site.root().join("away"), "")?;
    there("failed")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    std::fs::write(site.root().join("back"), "")?;
    program.finish()?.success()?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    let content = std::fs::read_to_string(site.path("records.dat"))?;
    ensure!(content.ends_with('3') && content.len() % 100 == 0);
    site.finish();
    Ok(())
}
