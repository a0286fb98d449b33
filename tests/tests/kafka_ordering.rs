//! Topics with several partitions, and several processes that apply to one target.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Broker, Group, Process, Shape, Site, c, consistent_payment, wait_until};
use serde_json::Value;

/// The configuration of a site with Kafka.
fn config(site: &Site, broker: &Broker, groups: &[Group], kafka: &str) -> String {
    format!(
        "{}{}{kafka}\n[kafka.client]\n\"session.timeout.ms\" = 6000\n",
        site.config_text(groups),
        broker.config()
    )
}

fn rows(site: &Site, table: &str, count: usize) -> Result<()> {
    wait_until(&format!("{count} rows"), || match site.rows(table) {
        Ok(rows) if rows.len() == count => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}")),
    })
}

/// Units of work that change several files are whole for whoever reads the target, on whichever partitions their events
/// were, and whatever is killed.
fn units_stay_whole(ordering: &str) -> Result<()> {
    let site = Site::new(&format!("kafka-{ordering}"))?;
    let broker = Broker::start(&site)?;
    let lines = format!("ordering = {ordering:?}\npartitions = 5");
    site.configure_text(&config(&site, &broker, &[Group::card_switch()], &lines))?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    let mut apply = site.start(site.counterfoil(&["apply"]))?;
    let program = site.exec(
        &c("card_switch")?,
        &[".", "--cards", "10", "--payments", "80", "--rate", "10"],
    )?;
    let mut seen: Vec<u64> = Vec::new();
    let mut kills = 0;
    wait_until("the last payment", || {
        let payment = match consistent_payment(&site) {
            Ok(Some(payment)) => payment,
            other => return Err(format!("{other:?} after {seen:?}")),
        };
        if seen.last() != Some(&payment) {
            seen.push(payment);
        }
        // Twice, in the middle of it.
        if payment > 20 * (kills + 1) && kills < 2 {
            kills += 1;
            let again = |process: &mut Process, verb: &str| -> Result<()> {
                process.kill()?;
                *process = site.start(site.counterfoil(&[verb]))?;
                Ok(())
            };
            again(&mut apply, "apply").map_err(|error| format!("{error:#}"))?;
            again(&mut capture, "capture").map_err(|error| format!("{error:#}"))?;
        }
        if payment >= 80 && kills == 2 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;
    program.finish()?.success()?;
    for mut process in [capture, apply] {
        assert!(process.is_running()?, "{}", process.stderr());
        process.kill()?;
    }
    site.run(&["capture", "--until-idle"])?.success()?;
    site.run(&["apply", "--until-idle"])?.success()?;
    assert!(seen.is_sorted(), "the mirror went back in time: {seen:?}");
    let verdict = site.verify()?;
    assert!(verdict.equal, "{:?}", verdict.differences);
    site.restore_and_compare()?;
    // The events did go to several partitions.
    let events = site.run(&["events", "payments", "--json"])?.success()?;
    let mut partitions = std::collections::BTreeSet::new();
    for line in events.stdout.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["op"] == "put" {
            partitions.insert(event["partition"].as_u64().context("a partition")?);
        }
    }
    let least = if ordering == "file" { 2 } else { 5 };
    assert!(partitions.len() >= least, "{partitions:?}");
    site.finish();
    Ok(())
}

#[test]
fn units_across_files_are_whole_when_only_files_are_in_order() -> Result<()> {
    units_stay_whole("file")
}

#[test]
fn units_across_files_are_whole_when_only_records_are_in_order() -> Result<()> {
    units_stay_whole("record")
}

/// A second site directory whose `apply` writes to the same target.
fn beside(site: &Site, broker: &Broker, streams: &[&str]) -> Result<Site> {
    let other = Site::new("kafka-beside")?;
    other.configure_text(&format!(
        "[site]\nname = \"test\"\nstate = {:?}\n{}streams = {streams:?}\n\
         [kafka.client]\n\"session.timeout.ms\" = 6000\n\
         [[sink]]\nname = \"default\"\nsqlite = {{ path = {:?} }}\n",
        other.state(),
        broker.config(),
        site.database(),
    ))?;
    Ok(other)
}

/// What an `apply` says it applies.
fn streams_of(site: &Site) -> Result<Vec<String>, String> {
    let status = site.status().map_err(|error| format!("{error:#}"))?;
    match status["sinks"]["default"]["streams"].as_array() {
        Some(streams) => Ok(streams
            .iter()
            .filter_map(|stream| stream.as_str().map(str::to_owned))
            .collect()),
        None => Err(status.to_string()),
    }
}

/// One of two that apply to the same target is stopped, comes back late, is killed: the other one goes on, and nothing is
/// lost, repeated or mixed up.
#[test]
fn a_standby_goes_on_and_a_zombie_does_no_harm() -> Result<()> {
    let site = Site::new("kafka-standby")?;
    let broker = Broker::start(&site)?;
    let groups = [Group::card_switch()];
    let lines = "ordering = \"file\"\npartitions = 3";
    site.configure_text(&config(&site, &broker, &groups, lines))?;
    let switch = c("card_switch")?;
    site.exec_to_end(&switch, &[".", "--cards", "40", "--payments", "100"])?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    let first = site.start(site.counterfoil(&["apply"]))?;
    wait_until("the first to apply", || {
        let streams = streams_of(&site)?;
        (streams == ["test/payments"])
            .then_some(())
            .ok_or_else(|| format!("{streams:?}"))
    })?;
    let other = beside(&site, &broker, &["test/payments"])?;
    let second = other.start(other.counterfoil(&["apply"]))?;
    wait_until(
        "one of them to apply, and the other one to stand by",
        || {
            let all = [streams_of(&site)?, streams_of(&other)?];
            let count = all.iter().filter(|streams| streams.is_empty()).count();
            (count == 1).then_some(()).ok_or_else(|| format!("{all:?}"))
        },
    )?;
    let applies = |site: &Site| streams_of(site).is_ok_and(|streams| !streams.is_empty());
    let (mut active, mut standby, standby_site) = if applies(&site) {
        (first, second, &other)
    } else {
        (second, first, &site)
    };
    let mut last = 0;
    let mut goes_on = |what: &str, seed: &str| -> Result<()> {
        site.exec_to_end(&switch, &[".", "--payments", "50", "--seed", seed])?;
        last = wait_until(what, || {
            match consistent_payment(&site).map_err(|error| format!("{error:#}"))? {
                Some(payment) if payment >= last + 50 => Ok(payment),
                other => Err(format!("{other:?}, after {last}")),
            }
        })?;
        Ok(())
    };
    goes_on("payments", "2")?;
    // It was busy when it was stopped, and goes on where it was when it comes back.
    let mut busy = site.exec(
        &switch,
        &[".", "--rate", "100", "--seconds", "1", "--seed", "3"],
    )?;
    active.signal(libc::SIGSTOP);
    wait_until("the standby to take over", || {
        applies(standby_site)
            .then_some(())
            .ok_or_else(|| "it stands by".to_owned())
    })?;
    busy.is_running()?;
    busy.finish()?.success()?;
    goes_on("payments by the standby", "4")?;
    active.signal(libc::SIGCONT);
    goes_on("payments beside a zombie", "5")?;
    active.is_running()?;
    goes_on("payments by whichever", "6")?;
    for process in [&mut active, &mut standby] {
        assert!(process.is_running()?, "{}", process.stderr());
    }
    // The one that applies now is killed.
    let (mut active, mut standby) = if applies(standby_site) {
        (standby, active)
    } else {
        (active, standby)
    };
    active.kill()?;
    goes_on("payments after a death", "7")?;
    assert!(standby.is_running()?, "{}", standby.stderr());
    capture.is_running()?;
    for process in [capture, standby] {
        process.terminate();
        process.finish()?.success()?;
    }
    site.run(&["capture", "--until-idle"])?.success()?;
    site.run(&["apply", "--until-idle"])?.success()?;
    let verdict = site.verify()?;
    assert!(verdict.equal, "{:?}", verdict.differences);
    site.restore_and_compare()?;
    other.finish();
    site.finish();
    Ok(())
}

/// Several streams are spread over those that apply, and all go to the one that is left.
#[test]
fn streams_are_spread_over_appliers() -> Result<()> {
    let site = Site::new("kafka-spread")?;
    let broker = Broker::start(&site)?;
    let group = |name: &str| {
        Group::new(name, "none").file(&format!("{name}.dat"), Shape::Fixed { size: 100 })
    };
    let names = ["a", "b", "d"];
    let groups = names.map(group);
    site.configure_text(&config(&site, &broker, &groups, ""))?;
    let writer = c("record_writer")?;
    let write = |count: &str| -> Result<()> {
        for name in names {
            site.exec_to_end(&writer, &[&format!("{name}.dat"), count])?;
        }
        Ok(())
    };
    let have = |count: usize| {
        names
            .iter()
            .try_for_each(|name| rows(&site, &format!("{name}_dat"), count))
    };
    write("50")?;
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let first = site.start(site.counterfoil(&["apply"]))?;
    have(50)?;
    let streams = ["test/a", "test/b", "test/d"];
    let other = beside(&site, &broker, &streams)?;
    let mut second = other.start(other.counterfoil(&["apply"]))?;
    wait_until("each to have some", || {
        let (mine, its) = (streams_of(&site)?, streams_of(&other)?);
        let mut all = [mine.clone(), its.clone()].concat();
        all.sort_unstable();
        (!mine.is_empty() && !its.is_empty() && all == streams)
            .then_some(())
            .ok_or_else(|| format!("{mine:?} and {its:?}"))
    })?;
    write("70")?;
    have(120)?;
    second.kill()?;
    write("30")?;
    have(150)?;
    assert_eq!(
        streams_of(&site).map_err(anyhow::Error::msg)?.len(),
        streams.len()
    );
    for process in [capture, first] {
        process.terminate();
        process.finish()?.success()?;
    }
    let verdict = site.verify()?;
    assert!(verdict.equal, "{:?}", verdict.differences);
    other.finish();
    site.finish();
    Ok(())
}

/// A topic that doesn't have the partitions that the configuration says is left alone, and what to do is said; nothing is
/// lost meanwhile.
#[test]
fn a_topic_with_other_partitions_is_refused_until_that_is_mended() -> Result<()> {
    let site = Site::new("kafka-partitions")?;
    let broker = Broker::start(&site)?;
    let groups = [Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 })];
    let writer = c("record_writer")?;
    let configure = |lines: &str| site.configure_text(&config(&site, &broker, &groups, lines));
    configure("ordering = \"record\"\npartitions = 3")?;
    site.exec_to_end(&writer, &["a.dat", "40"])?;
    site.run(&["capture", "--until-idle"])?.success()?;
    let refused = |lines: &str, words: &[&str]| -> Result<Process> {
        configure(lines)?;
        let check = site.run(&["check"])?;
        let capture = site.start(site.counterfoil(&["capture"]))?;
        wait_until("capture to say what is wrong", || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let said = status["problems"].to_string();
            match words.iter().find(|word| !said.contains(**word)) {
                None => Ok(()),
                Some(word) => Err(format!("{word:?} isn't in {said}")),
            }
        })?;
        for word in words {
            let said = check.stdout.replace('"', "\\\"");
            assert!(said.contains(word), "{word}: {}", check.stdout);
        }
        assert!(!check.status.success());
        Ok(capture)
    };
    let topic = broker.topic("g");
    let capture = refused(
        "ordering = \"record\"\npartitions = 4",
        &[&topic, "has 3 partitions", "write partitions = 3"],
    )?;
    site.exec_to_end(&writer, &["a.dat", "20"])?;
    site.stop(capture)?;
    let capture = refused(
        "",
        &[
            &topic,
            "has 3 partitions",
            "takes one",
            "another topic_prefix",
        ],
    )?;
    site.stop(capture)?;
    // Another order on the same partitions begins with the next session; no number takes what is there.
    configure("ordering = \"file\"")?;
    site.run(&["capture", "--until-idle"])?.success()?;
    site.run(&["apply", "--until-idle"])?.success()?;
    rows(&site, "a_dat", 60)?;
    let verdict = site.verify()?;
    assert!(verdict.equal, "{:?}", verdict.differences);
    site.finish();
    Ok(())
}
