//! `bench kafka`: what is ours of the way through Kafka.
//!
//! Publishing: a program's records are captured while no broker is there, so that the journal has them all; then capture
//! sends them, and the time is that from its first acknowledgement to its last. Against it, in turns, librdkafka alone: a
//! loop around one idempotent producer that sends as many messages of the same size to the same broker. A second such
//! loop, for comparison only, sends the very messages that capture sent, so that what their headers cost is seen apart.
//!
//! Latency: a program appends a record, and waits until its row is in SQLite, with capture and apply in between. Against
//! it: a message that is sent and received, one after the other, with the same settings of the client library.
//!
//! The broker is the one of the tests with its storage in memory, since with the one on disk it is the broker that is
//! measured; or the cluster that `KAFKA_BOOTSTRAP` names.

use super::bench_site::{BenchSite, kafka_leg, sqlite_leg, wait};
use crate::cargo::{self, Profile, With};
use crate::packages;
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FILE: (&str, &str) = (
    "records.dat",
    "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100",
);

/// A broker, killed when this is dropped.
struct Broker {
    child: Option<Child>,
    bootstrap: String,
}

impl Broker {
    fn start() -> Result<Broker> {
        if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") {
            println!("kafka: the cluster at {bootstrap}");
            return Ok(Broker {
                child: None,
                bootstrap,
            });
        }
        let program = packages::broker()?;
        println!("kafka: {} with its storage in memory", program.display());
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("finding a free port")?
            .port();
        let url = format!("tcp://127.0.0.1:{port}");
        let child = Command::new(&program)
            .args(["broker", "--cluster-id", "bench", "--listener-url", &url])
            .args(["--advertised-listener-url", &url])
            .args(["--storage-engine", "memory://bench/"])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("running {}", program.display()))?;
        let broker = Broker {
            child: Some(child),
            bootstrap: format!("127.0.0.1:{port}"),
        };
        wait("the broker to listen", || {
            Ok(TcpStream::connect(("127.0.0.1", port))
                .is_ok()
                .then_some(()))
        })?;
        Ok(broker)
    }

    fn config(&self, prefix: &str) -> String {
        config(prefix, &self.bootstrap)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn config(prefix: &str, bootstrap: &str) -> String {
    format!(
        "[kafka]\ntopic_prefix = {prefix:?}\nreplication = 1\nroutes = [{{ name = \"bench\", bootstrap = {bootstrap:?} }}]\n"
    )
}

/// A number of the status, of the first key by this name.
fn number(status: &str, key: &str) -> Option<u64> {
    let rest = status.split_once(&format!("\"{key}\": "))?.1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Runs a leg, and gives the numbers it prints.
fn numbers(leg: &Path, arguments: &[&str]) -> Result<Vec<f64>> {
    let output = Command::new(leg)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", leg.display()))?;
    if !output.status.success() {
        bail!("{} ended with {}", leg.display(), output.status);
    }
    words(&String::from_utf8_lossy(&output.stdout))
}

fn words(text: &str) -> Result<Vec<f64>> {
    text.split_whitespace()
        .map(|word| word.parse().with_context(|| format!("reading {word:?}")))
        .collect()
}

pub(crate) fn run(records: u64, changes: u64, rounds: usize) -> Result<bool> {
    packages::install_broker()?;
    let binaries = cargo::build(Profile::Release, With::Everything)?;
    let legs = (kafka_leg()?, sqlite_leg()?);
    let (mut ours, mut bare, mut same, mut message) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    let (mut to_row, mut round_trip) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        let broker = Broker::start()?;
        let prefix = format!("bench-{}-{round}", std::process::id());
        let (rate, bytes) = publish(&binaries, &legs.0, &broker, &prefix, records)?;
        ours.push(rate);
        message = bytes;
        let (count, bytes) = (records.to_string(), format!("{bytes:.0}"));
        let topic = format!("{prefix}.bare");
        let seconds = numbers(
            &legs.0,
            &["produce", &broker.bootstrap, &topic, &count, &bytes],
        )?;
        bare.push(records as f64 / seconds.first().copied().unwrap_or(f64::NAN));
        let (from, topic) = (format!("{prefix}.bench.bench"), format!("{prefix}.same"));
        let seconds = numbers(
            &legs.0,
            &["repeat", &broker.bootstrap, &topic, &count, &from],
        )?;
        same.push(records as f64 / seconds.first().copied().unwrap_or(f64::NAN));
        println!(
            "kafka: round {}: {rate:.0} events/s published, {:.0} messages/s by librdkafka alone, of {bytes} bytes, {:.0} of the same with their headers",
            round + 1,
            bare[round],
            same[round]
        );
        // A broker without all that.
        drop(broker);
        let broker = Broker::start()?;
        to_row.extend(latency(&binaries, &legs.1, &broker, &prefix, changes)?);
        let topic = format!("{prefix}.trip");
        round_trip.extend(numbers(
            &legs.0,
            &[
                "roundtrip",
                &broker.bootstrap,
                &topic,
                &changes.to_string(),
                "300",
            ],
        )?);
    }
    println!(
        "kafka: {:.0} messages/s by librdkafka alone where they have the events' headers",
        median(&same)
    );
    let mib = |rate: f64| rate * message / f64::from(1 << 20);
    println!(
        "kafka: {:.0} events/s and {:.1} MiB/s published, {:.0} messages/s and {:.1} MiB/s by librdkafka alone (medians of {rounds})",
        median(&ours),
        mib(median(&ours)),
        median(&bare),
        mib(median(&bare))
    );
    let part = |figures: &[f64], percent: usize| {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or(f64::NAN) / 1000.0
    };
    for (what, figures) in [("write to row", &to_row), ("bare round trip", &round_trip)] {
        println!(
            "kafka: {what}: p50 {:.1} ms, p99 {:.1} ms ({} of them)",
            part(figures, 50),
            part(figures, 99),
            figures.len()
        );
    }
    let published = compare(
        "kafka/publish",
        median(&ours) / median(&bare),
        Aim::AtLeast(0.6),
    );
    let quick = compare(
        "kafka/latency-p99",
        part(&to_row, 99) / part(&round_trip, 99),
        Aim::AtMost(3.0),
    );
    Ok(published && quick)
}

/// Events a second, and the bytes of one message.
fn publish(
    binaries: &Path,
    leg: &Path,
    broker: &Broker,
    prefix: &str,
    records: u64,
) -> Result<(f64, f64)> {
    let site = BenchSite::new(binaries, &format!("{prefix}-publish"), "none", &[FILE])?;
    let program = site.compile("record_writer")?;
    // Nobody listens there: the journal keeps everything.
    site.configure_more(&config(prefix, "127.0.0.1:9"))?;
    let file = site.data().join(FILE.0);
    std::fs::write(&file, b"").context("making the file")?;
    let capture = site.start("capture")?;
    let count = records.to_string();
    site.run(true, &program, &[file.as_ref(), count.as_ref()])?;
    wait("the journal to have everything", || {
        let status = site.status();
        let operations = number(&status, "operations").unwrap_or(0);
        Ok((operations >= records).then_some(()))
    })?;
    capture.stop()?;
    site.configure_more(&broker.config(prefix))?;
    let capture = site.start("capture")?;
    // The status of the run before isn't meant.
    let (begin, first) = wait("the first acknowledgement", || {
        let images = number(&site.status(), "images").unwrap_or(0);
        Ok((images > 0).then(|| (Instant::now(), images)))
    })?;
    let last = wait("the last acknowledgement", || {
        let status = site.status();
        let images = number(&status, "images").unwrap_or(0);
        let is_through = number(&status, "operations_behind") == Some(0) && images >= records;
        Ok(is_through.then_some(images))
    })?;
    let rate = (last - first) as f64 / begin.elapsed().as_secs_f64();
    println!(
        "kafka: capture had at most {:.1} MiB resident",
        capture.memory_max_mib()?
    );
    capture.stop()?;
    let topic = format!("{prefix}.bench.bench");
    let sizes = numbers(leg, &["sizes", &broker.bootstrap, &topic])?;
    Ok((rate, sizes.get(1).copied().unwrap_or(f64::NAN)))
}

/// Microseconds from writes to their rows.
fn latency(
    binaries: &Path,
    leg: &Path,
    broker: &Broker,
    prefix: &str,
    changes: u64,
) -> Result<Vec<f64>> {
    let site = BenchSite::new(binaries, &format!("{prefix}-latency"), "none", &[FILE])?;
    let program = site.compile("record_writer")?;
    let prefix = format!("{prefix}-latency");
    site.configure_more(&broker.config(&prefix))?;
    let file = site.data().join(FILE.0);
    let mut replicator = site.replicator()?;
    // A first record, so that there is a table.
    site.run(true, &program, &[file.as_ref(), "1".as_ref()])?;
    let database = site.database();
    let status = Command::new(leg)
        .arg("wait")
        .arg(&database)
        .args(["records_dat", "1"])
        .status()
        .context("waiting for the first row")?;
    if !status.success() {
        bail!("{} ended with {status}", leg.display());
    }
    replicator.wait_idle()?;
    std::thread::sleep(Duration::from_millis(500));
    let changes = changes.to_string();
    let (printed, _) = site.run(
        true,
        leg,
        &[
            "latency".as_ref(),
            database.as_os_str(),
            "records_dat".as_ref(),
            file.as_os_str(),
            changes.as_ref(),
        ],
    )?;
    replicator.stop()?;
    words(&printed)
}
