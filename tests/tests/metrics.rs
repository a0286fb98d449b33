//! What a process serves of itself: metrics that agree with what happened, and readiness that follows the data.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Broker, Console, Group, Shape, Site, c, wait_until};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

const RECORD: Shape = Shape::Fixed { size: 100 };

fn group() -> Group {
    Group::new("g", "none").file("a.dat", RECORD)
}

/// A site whose processes serve on any free port.
fn site(name: &str, more: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(&[group()]);
    let metrics = "\n[metrics]\nlisten = \"127.0.0.1:0\"\nlisten_apply = \"127.0.0.1:0\"\n";
    site.configure_text(&format!("{text}{metrics}{more}"))?;
    Ok(site)
}

fn sqlite(site: &Site, path: &str) -> String {
    let path = site.root().join(path);
    format!("\n[[sink]]\nname = \"here\"\n[sink.sqlite]\npath = {path:?}\nbusy_timeout_ms = 50\n")
}

/// Data flows, then the target is locked by somebody else, then it isn't any more.
#[test]
fn readiness_follows_the_target_and_metrics_tell_what_happened() -> Result<()> {
    let site = site("metrics-ready", "")?;
    let config = std::fs::read_to_string(site.config())?;
    site.configure_text(&(config + &sqlite(&site, "mirror.db")))?;
    let mut replicator = site.replicator()?;
    let console = Console::of(&site, "status.json")?;
    console.wait_for(None)?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["a.dat", "500"])?;
    wait_until("500 rows", || {
        let metrics = console.metrics().map_err(|error| format!("{error:#}"))?;
        let of = |name: &str| metrics.get(name).copied();
        let images = of("counterfoil_sink_images_total{site=\"test\",sink=\"here\"}");
        let pending = of("counterfoil_sink_pending_seconds{site=\"test\",sink=\"here\"}");
        match (images, pending) {
            (Some(500.0), Some(0.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let metrics = console.metrics()?;
    let (status, value) = (site.status()?, |name: &str| -> Result<f64> {
        let found = metrics.get(name).copied();
        found.with_context(|| format!("no {name} in {metrics:?}"))
    });
    for (name, expected) in [
        ("counterfoil_ready{site=\"test\"}", 1.0),
        ("counterfoil_healthy{site=\"test\"}", 1.0),
        (
            "counterfoil_records_total{site=\"test\",way=\"captured\"}",
            500.0,
        ),
        (
            "counterfoil_journal_limit_bytes{site=\"test\"}",
            f64::from(1u32 << 31) * 2.0,
        ),
    ] {
        ensure!(value(name)? == expected, "{name} is {}", value(name)?);
    }
    let written = "counterfoil_captured_operations_total{site=\"test\",kind=\"write\"}";
    let told = status["coverage"]["operations"]["write"].as_f64();
    ensure!(
        Some(value(written)?) == told && told >= Some(500.0),
        "{told:?}"
    );
    let lsn = "counterfoil_sink_position_lsn{site=\"test\",sink=\"here\",stream=\"test/g\"}";
    ensure!(value(lsn)? > 0.0);

    let other = rusqlite::Connection::open(site.root().join("mirror.db"))?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    site.exec_to_end(&writer, &["a.dat", "500"])?;
    console.wait_for(Some("refused"))?;
    let (healthy, health) = console.judgement("/healthz")?;
    ensure!(healthy, "a target that is away: {health}");
    wait_until("what waits to be told", || {
        let metrics = console.metrics().map_err(|error| format!("{error:#}"))?;
        let of = |name: &str| metrics.get(name).copied().unwrap_or_default();
        let is_told = of("counterfoil_ready{site=\"test\"}") == 0.0
            && of("counterfoil_sink_refusing{site=\"test\",sink=\"here\"}") == 1.0
            && of("counterfoil_sink_pending_seconds{site=\"test\",sink=\"here\"}") > 0.0;
        is_told.then_some(()).ok_or_else(|| format!("{metrics:?}"))
    })?;
    other.execute_batch("ROLLBACK")?;
    console.wait_for(None)?;
    // Nothing else is there, and asking for it harms nothing.
    ensure!(console.get("/nothing")?.0 == 404);
    ensure!(console.get("/")?.2.contains("/readyz"));
    ensure!(replicator.is_running()?);
    site.stop(replicator)?;
    ensure!(console.get("/readyz").is_err(), "it has stopped");
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// What waits for too long makes a process not ready, even if nobody refuses anything.
#[test]
fn a_target_that_takes_too_long_is_told() -> Result<()> {
    let site = site("metrics-pending", "pending_ms_max = 1000\n")?;
    let config = std::fs::read_to_string(site.config())?;
    // It waits for the lock, and doesn't say anything meanwhile.
    let sink = sqlite(&site, "mirror.db").replace("= 50", "= 600000");
    site.configure_text(&(config + &sink))?;
    let replicator = site.replicator()?;
    let console = Console::of(&site, "status.json")?;
    console.wait_for(None)?;
    let other = rusqlite::Connection::open(site.root().join("mirror.db"))?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    site.exec_to_end(&c("record_writer")?, &["a.dat", "10"])?;
    console.wait_for(Some("pending"))?;
    other.execute_batch("ROLLBACK")?;
    console.wait_for(None)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// An address that is asked for and taken is a problem, until it is free; data flows all the same.
#[test]
fn an_address_that_is_taken_is_told_and_tried_again() -> Result<()> {
    let site = Site::with("metrics-taken", &[group()])?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let config = std::fs::read_to_string(site.config())?;
    site.configure_text(&format!("{config}\n[metrics]\nlisten = {address:?}\n"))?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    wait_until("the problem to be told", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problem = format!("metrics can't be served on {address}");
        let is_told = status["problems"].to_string().contains(&problem);
        is_told.then_some(()).ok_or_else(|| status.to_string())
    })?;
    site.exec_to_end(&c("record_writer")?, &["a.dat", "10"])?;
    wait_until("rows", || match site.rows("a_dat") {
        Ok(rows) if rows.len() == 10 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    drop(taken);
    let console = Console::of(&site, "status.json")?;
    ensure!(console.address() == address);
    console.wait_for(None)?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

/// Without a word in the configuration each process finds a port, whoever has the default; and it can be switched off.
#[test]
fn processes_of_one_host_do_not_collide() -> Result<()> {
    let (first, second) = (
        Site::with("metrics-first", &[group()])?,
        Site::with("metrics-second", &[group()])?,
    );
    let running = [first.replicator()?, second.replicator()?];
    let consoles = [
        Console::of(&first, "status.json")?,
        Console::of(&second, "status.json")?,
    ];
    ensure!(consoles[0] != consoles[1]);
    for console in &consoles {
        ensure!(console.address().starts_with("127.0.0.1:"), "{console:?}");
        console.wait_for(None)?;
        console.metrics()?;
    }
    for (site, process) in [&first, &second].into_iter().zip(running) {
        let status = site.status()?;
        ensure!(
            status["problems"].as_array().is_some_and(Vec::is_empty),
            "{status}"
        );
        site.stop(process)?;
    }
    second.finish();
    let config = std::fs::read_to_string(first.config())?;
    first.configure_text(&(config + "\n[metrics]\nenabled = false\n"))?;
    let mut replicator = first.replicator()?;
    first.wait_until_up(&mut replicator)?;
    let status = first.status()?;
    ensure!(
        status["metrics"].as_array().is_some_and(Vec::is_empty),
        "{status}"
    );
    first.stop(replicator)?;
    first.finish();
    Ok(())
}

/// With Kafka between them, each half says how it is itself, at an address of its own.
#[test]
fn capture_and_apply_tell_when_the_broker_is_away() -> Result<()> {
    let site = site("metrics-kafka", "")?;
    let mut broker = Broker::start(&site)?;
    if !broker.is_own() {
        return Ok(());
    }
    let config = std::fs::read_to_string(site.config())?;
    site.configure_text(&(config + &broker.config()))?;
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let capturing = Console::of(&site, "status.json")?;
    capturing.wait_for(None)?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    let applying = Console::of(&site, "apply-status.json")?;
    applying.wait_for(None)?;
    ensure!(capturing != applying);
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["a.dat", "100"])?;
    wait_until("100 rows", || {
        let metrics = applying.metrics().map_err(|error| format!("{error:#}"))?;
        let images = metrics.get("counterfoil_sink_images_total{site=\"test\",sink=\"default\"}");
        (images == Some(&100.0))
            .then_some(())
            .ok_or_else(|| format!("{metrics:?}"))
    })?;
    let metrics = capturing.metrics()?;
    for name in [
        "counterfoil_build_info{site=\"test\",version=\"0.1.0\",role=\"capture\"}",
        "counterfoil_kafka_route{site=\"test\",sink=\"kafka\",route=\"lan\"}",
        "counterfoil_kafka_route_preferred{site=\"test\",sink=\"kafka\"}",
    ] {
        ensure!(metrics.get(name) == Some(&1.0), "{name}: {metrics:?}");
    }
    broker.kill()?;
    site.exec_to_end(&writer, &["a.dat", "200"])?;
    capturing.wait_for(Some("held-up"))?;
    applying.wait_for(Some("held-up"))?;
    let queued = "counterfoil_kafka_queue_events{site=\"test\"}";
    wait_until("events to wait", || {
        let metrics = capturing.metrics().map_err(|error| format!("{error:#}"))?;
        let count = metrics.get(queued).copied().unwrap_or_default();
        (count > 0.0)
            .then_some(())
            .ok_or_else(|| format!("{metrics:?}"))
    })?;
    broker.raise(&site)?;
    capturing.wait_for(None)?;
    applying.wait_for(None)?;
    for half in [capture, apply] {
        half.terminate();
        half.finish()?.success()?;
    }
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// The alerts are what a Prometheus would read: groups of rules, each with a name, an expression and a severity.
#[test]
fn the_alerts_are_yaml() -> Result<()> {
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus/alerts.yml");
    // By the system's Python, which has the package that comes with docker-compose.
    let output = Command::new("/usr/bin/python3")
        .args([
            "-c",
            "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))",
        ])
        .arg(&alerts)
        .output()
        .context("running /usr/bin/python3 (Debian packages python3-minimal, python3-yaml)")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let groups: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rules = groups["groups"][0]["rules"].as_array();
    let rules = rules.context("groups[0].rules")?;
    ensure!(rules.len() > 5);
    for rule in rules {
        for key in [&rule["alert"], &rule["expr"], &rule["for"]] {
            ensure!(key.as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
        ensure!(rule["labels"]["severity"].is_string(), "{rule}");
        ensure!(rule["annotations"]["summary"].is_string(), "{rule}");
    }
    Ok(())
}
