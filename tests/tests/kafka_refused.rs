//! What Kafka doesn't take: larger than the broker's limit it goes in parts, refused even so it is kept and told, and what
//! comes after it goes on.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Broker, Chance, Group, Shape, Site, c, wait_until};

/// A site of lines, and of records of half a megabyte; with lines of configuration below `[kafka]`.
fn site(name: &str, kafka: &str) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    let group = Group::new("g", "none")
        .file("lines.txt", Shape::Lines)
        .file("big.dat", Shape::Fixed { size: 500_000 });
    site.configure_text(&(site.config_text(&[group]) + &broker.config() + kafka))?;
    Ok((site, broker))
}

/// [kafka] says more than the broker takes: the limit is found, and events that are larger go in parts.
#[test]
fn a_broker_that_takes_less_than_is_configured_gets_events_in_parts() -> Result<()> {
    let (site, _broker) = site(
        "kafka-parts",
        "message_bytes_max = 5_000_000\ntopic = { \"max.message.bytes\" = 100_000 }\n",
    )?;
    std::fs::write(site.path("big.dat"), Chance::new(7).bytes(3_000_000))?;
    std::fs::write(site.path("lines.txt"), "short\n".repeat(2000))?;
    site.assert_mirrored()?;
    let check = site.run(&["check"])?.success()?;
    assert!(
        check
            .stdout
            .contains("takes messages of at most 100000 bytes"),
        "{}",
        check.stdout
    );
    site.finish();
    Ok(())
}

/// A topic that takes next to nothing refuses one event. The others arrive, the one is kept with its bytes, the status and
/// `verify` say what is missing, and once the reason is gone everything is sent again.
#[test]
fn an_event_that_is_refused_is_kept_and_told_until_it_is_made_up_for() -> Result<()> {
    let (site, broker) = site(
        "kafka-refused",
        "topic = { \"max.message.bytes\" = 8_000 }\n",
    )?;
    let long = Chance::new(3).text(20_000);
    let text = |lines: &[&[u8]]| -> Vec<u8> {
        let lines = lines.iter().map(|line| [line, b"\n".as_slice()].concat());
        lines.collect::<Vec<_>>().concat()
    };
    std::fs::write(site.path("lines.txt"), text(&[b"one", &long, b"three"]))?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    let problem = wait_until("the refusal to be told", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let problem = problems
            .iter()
            .filter_map(|problem| problem.as_str())
            .find(|problem| problem.contains("kafka refuses an event"));
        problem
            .map(str::to_owned)
            .ok_or_else(|| status["problems"].to_string())
    })?;
    for words in ["lines.txt", &broker.topic("g"), "errors retry"] {
        assert!(problem.contains(words), "{problem}");
    }
    wait_until("what comes after it to be sent", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        match status["sinks"]["kafka"]["operations_behind"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(status["sinks"].to_string()),
        }
    })?;
    site.run(&["apply", "--until-idle"])?.success()?;
    let rows = site.rows("lines_txt")?;
    let rows: Vec<&[u8]> = rows.values().map(Vec::as_slice).collect();
    assert_eq!(
        rows,
        [b"one".as_slice(), b"three"],
        "what isn't refused arrives"
    );
    let verdict = site.verify()?;
    assert!(!verdict.equal, "one is missing");
    // It is kept, with its bytes.
    let list = site.run(&["errors", "list", "--json"])?.success()?.stdout;
    let letters: serde_json::Value = serde_json::from_str(&list).context("JSON")?;
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    let letter = &letters[0];
    assert_eq!(letter["refused_by"], "kafka");
    assert_eq!(letter["op"], "put");
    assert_eq!(letter["record"], 4);
    let number = letter["number"].to_string();
    let raw = site
        .run(&["errors", "show", &number, "--raw"])?
        .success()?
        .stdout;
    let long_text = String::from_utf8(long)?;
    assert!(raw.contains(&long_text), "the event's bytes");
    let shown = site.run(&["errors", "list"])?.success()?.stdout;
    assert!(
        shown.contains("lines.txt") && shown.contains("kafka"),
        "{shown}"
    );
    site.run(&["errors", "drop", "77"])?
        .refused_with(&["there is no dead letter 77"])?;
    // Sending it again is refused again, as nothing was done about it.
    site.run(&["errors", "retry", "--all"])?.success()?;
    wait_until("it to be refused again", || {
        let list = site
            .run(&["errors", "list", "--json"])
            .map_err(|error| format!("{error:#}"))?;
        let asked = site.state().join("read-again").exists();
        let is_again = list.stdout.contains("\"refused_by\"") && !asked;
        if is_again {
            Ok(())
        } else {
            Err(list.stdout + &capture.stderr())
        }
    })?;
    // Its reason goes: the line does.
    std::fs::write(site.path("lines.txt"), text(&[b"one", b"two", b"three"]))?;
    site.run(&["errors", "retry", "--all"])?.success()?;
    wait_until("nothing to be missing", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        if status["stopped"] == false && !problems.contains("refuses an event") {
            Ok(())
        } else {
            Err(format!("{problems} {}", capture.stderr()))
        }
    })?;
    site.stop(capture)?;
    site.assert_mirrored()?;
    site.run(&["errors", "drop", "--all"])?.success()?;
    let list = site.run(&["errors", "list"])?.success()?.stdout;
    assert!(list.contains("no dead letters"), "{list}");
    // What comes after goes on as ever.
    site.exec_to_end(&c("record_writer")?, &["lines.txt", "20"])?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
