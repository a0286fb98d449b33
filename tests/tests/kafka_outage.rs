//! Whatever is away for however long: it is told in time, nothing grows without bound, and nothing is silently wrong after.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Broker, Group, Process, Shape, Site, c, wait_until};

const SIZE: usize = 1000;

/// A site with one file of fixed records, and further lines of configuration: before the groups, and below `[kafka]`.
fn site(name: &str, before: &str, kafka: &str) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    let group = Group::new("g", "none").file("a.dat", Shape::Fixed { size: SIZE });
    site.configure_text(&(site.config_text(&[group]) + before + &broker.config() + kafka))?;
    Ok((site, broker))
}

/// Waits until the status has a problem with these words, and gives the problem.
fn wait_for_problem(site: &Site, words: &str) -> Result<String> {
    wait_until(&format!("a problem with {words:?}"), || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let problem = problems
            .iter()
            .filter_map(|problem| problem.as_str())
            .find(|problem| problem.contains(words));
        problem
            .map(str::to_owned)
            .ok_or_else(|| status["problems"].to_string())
    })
}

fn wait_until_gone(site: &Site, words: &str) -> Result<()> {
    wait_until(&format!("no problem with {words:?}"), || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["problems"].to_string().contains(words) {
            Err(status["problems"].to_string())
        } else {
            Ok(())
        }
    })
}

fn wait_for_rows(site: &Site, count: usize, process: &Process) -> Result<()> {
    wait_until(&format!("{count} rows"), || match site.rows("a_dat") {
        Ok(rows) if rows.len() == count => Ok(()),
        Ok(rows) => Err(format!("{} rows; {}", rows.len(), process.stderr())),
        Err(error) => Err(format!("{error:#}; {}", process.stderr())),
    })
}

/// The most memory that a process ever had resident, in MiB.
fn memory_max_mib(process: &Process) -> Result<u64> {
    let path = format!("/proc/{}/status", process.id());
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmHWM"))? / 1024)
}

/// The journal keeps what comes up to its limit, and says so before; what no longer fits is read again from the file.
#[test]
fn without_a_broker_the_journal_fills_and_says_so_and_what_did_not_fit_is_read_again() -> Result<()>
{
    let (site, mut broker) = site(
        "kafka-full",
        "\n[journal]\nsegment_bytes = 65536\nbytes_max = 4000000\n",
        "",
    )?;
    if !broker.is_own() {
        println!("skipped: the broker isn't the test's own, so it can't be killed");
        return Ok(());
    }
    let config = std::fs::read_to_string(site.config())?;
    site.configure_text(&config.replace("[site]\n", "[site]\nlane_bytes_max = 65536\n"))?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["a.dat", "100", "1000"])?;
    site.settle()?;
    broker.kill()?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    // More than half of the journal, and later more than all that journal and lane hold.
    site.exec_to_end(&writer, &["a.dat", "2100", "1000"])?;
    let half = wait_for_problem(&site, "that journal.bytes_max allows for")?;
    assert!(
        half.contains("full in") || half.contains("doesn't grow"),
        "{half}"
    );
    let mut records = 2200;
    wait_until("the journal to be at its limit", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        if problems.contains("the journal is at its limit") {
            return Ok(());
        }
        site.exec_to_end(&writer, &["a.dat", "300", "1000"])
            .map_err(|error| format!("{error:#}"))?;
        records += 300;
        Err(problems)
    })?;
    // This doesn't fit the lane either.
    site.exec_to_end(&writer, &["a.dat", "1000", "1000"])?;
    records += 1000;
    assert!(site.status()?["journal_bytes"].as_u64().unwrap_or(0) < 6_000_000);
    broker.raise(&site)?;
    wait_until_gone(&site, "journal")?;
    site.stop(capture)?;
    site.assert_mirrored()?;
    assert_eq!(site.rows("a_dat")?.len(), records);
    site.finish();
    Ok(())
}

/// What the other end doesn't take waits in Kafka, or in the journal, and not in memory.
#[test]
fn memory_is_bounded_with_the_broker_away_and_with_the_target_away() -> Result<()> {
    const MIB_MAX: u64 = 200;
    let (site, mut broker) = site("kafka-memory", "", "")?;
    let writer = c("record_writer")?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    let mut apply = site.start(site.counterfoil(&["apply"]))?;
    site.exec_to_end(&writer, &["a.dat", "100", "1000"])?;
    wait_for_rows(&site, 100, &apply)?;
    let captured = |records: usize| {
        wait_until(&format!("{records} records to be captured"), || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            match status["files"][0]["size"].as_u64() {
                Some(size) if size as usize == records * SIZE => Ok(()),
                _ => Err(status["files"].to_string()),
            }
        })
    };
    let applied = |sink: &str| {
        wait_until(&format!("{sink} to have everything"), || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            match status["sinks"][sink]["operations_behind"].as_u64() {
                Some(0) => Ok(()),
                _ => Err(format!("{} {}", status["sinks"], status["problems"])),
            }
        })
    };
    // The target takes nothing: Kafka holds what comes.
    let lock = site.sqlite()?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    site.exec_to_end(&writer, &["a.dat", "1000", "1000"])?;
    captured(1_100)?;
    applied("kafka")?;
    wait_until("the sink to say why it doesn't go on", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let error = status["sinks"]["default"]["error"].to_string();
        if error.contains("lock") {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    // And now the broker too: the journal does.
    if broker.is_own() {
        broker.kill()?;
        site.exec_to_end(&writer, &["a.dat", "1000", "1000"])?;
        captured(2_100)?;
        wait_for_problem(&site, "Kafka, route lan")?;
        broker.raise(&site)?;
        wait_until_gone(&site, "Kafka, route lan")?;
    }
    lock.execute_batch("ROLLBACK")?;
    applied("kafka")?;
    let records = if broker.is_own() { 2_100 } else { 1_100 };
    wait_for_rows(&site, records, &apply)?;
    for (what, process) in [("capture", &mut capture), ("apply", &mut apply)] {
        assert!(process.is_running()?, "{}", process.stderr());
        let at_most = memory_max_mib(process)?;
        println!("{what} had {at_most} MiB at most");
        assert!(at_most < MIB_MAX, "{what} had {at_most} MiB");
    }
    for process in [capture, apply] {
        process.terminate();
        process.finish()?.success()?;
    }
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A target is away until the topic deletes what it needs. That is told before, and mended after, without hands.
#[test]
fn what_a_topic_will_delete_is_told_and_what_it_has_deleted_is_read_again() -> Result<()> {
    let (site, broker) = site(
        "kafka-retention",
        "",
        "read_again_interval_minutes = 0\ntopic = { \"retention.ms\" = 9000 }\n",
    )?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["a.dat", "50", "1000"])?;
    site.settle()?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    let mut apply = site.start(site.counterfoil(&["apply"]))?;
    site.wait_until_halves_run()?;
    let lock = site.sqlite()?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    site.exec_to_end(&writer, &["a.dat", "70", "1000"])?;
    let problem = wait_for_problem(&site, "begins to delete in")?;
    for words in [
        "sink default",
        &broker.topic("g"),
        "seconds",
        "retention.ms",
    ] {
        assert!(problem.contains(words), "{problem}");
    }
    apply.kill()?;
    wait_until("the topic to have nothing any more", || {
        let events = site
            .run(&["events", "g"])
            .map_err(|error| format!("{error:#}"))?;
        if events.stdout.is_empty() {
            Ok(())
        } else {
            Err(events.stdout)
        }
    })?;
    lock.execute_batch("ROLLBACK")?;
    apply = site.start(site.counterfoil(&["apply"]))?;
    wait_for_rows(&site, 120, &apply)?;
    assert!(
        apply.stderr().contains("was asked for"),
        "{}",
        apply.stderr()
    );
    assert!(
        capture
            .stderr()
            .contains("sink test/default asks for every file to be sent anew"),
        "{}",
        capture.stderr()
    );
    wait_until_gone(&site, "doesn't have everything")?;
    // And it is done once.
    site.exec_to_end(&writer, &["a.dat", "30", "1000"])?;
    wait_for_rows(&site, 150, &apply)?;
    assert_eq!(capture.stderr().matches("asks for every file").count(), 1);
    assert!(capture.is_running()?);
    for process in [capture, apply] {
        process.terminate();
        process.finish()?.success()?;
    }
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
