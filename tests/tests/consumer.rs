//! A team that has never heard of us: stock confluent-kafka in Python, the schema that `counterfoil schema proto` prints, and
//! the example that is shipped. A COBOL program writes, and what it says it wrote is what they read.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{
    Broker, CARD_COLUMNS, Group, Registry, Site, WrittenCards, base64, c, cards_config, cobol,
    compile_schema, example_consumer, python_client, wait_until, written_cards,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// A site whose cards have columns, and what else its configuration says of Kafka.
fn site(name: &str, kafka: &str) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    let group = Group::new("cards", "none")
        .file_as("cards.dat", &cards_config())
        .file_as(
            "plain.dat",
            "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100",
        );
    let config = site.config_text(&[group]);
    let config = config.replace(
        "unit_of_work = \"none\"\n",
        "unit_of_work = \"none\"\nbefore = true\n",
    );
    site.configure_text(&(config + &broker.config() + kafka))?;
    Ok((site, broker))
}

/// Runs the program while all is up, and waits until what it did is published.
fn write_cards(site: &Site) -> Result<WrittenCards> {
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    wait_until_published(site, 0)?;
    let finished = site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    site.exec_to_end(&c("record_writer")?, &["plain.dat", "5"])?;
    // Both files are made; ten cards are written, three changed, one is deleted; and five other records.
    wait_until_published(site, 2 + 10 + 3 + 1 + 5)?;
    capture.terminate();
    capture.finish()?.success()?;
    written_cards(&finished.stdout)
}

/// Waits until Kafka is reached, and has so many events.
fn wait_until_published(site: &Site, events: u64) -> Result<()> {
    wait_until(&format!("{events} events to be published"), || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let kafka = &status["sinks"]["kafka"];
        match kafka["images"].as_u64() {
            Some(images) if images >= events && kafka["route"] == "lan" => Ok(()),
            _ => Err(status.to_string()),
        }
    })
}

/// What the example consumer prints of the cards.
fn consume(site: &Site, broker: &Broker, arguments: &[&str]) -> Result<Vec<Value>> {
    let cards = site.path("cards.dat");
    let schema = site
        .run(&["schema", "proto", &cards.to_string_lossy()])?
        .success()?;
    compile_schema(site.root(), "cards", &schema.stdout)?;
    let mut command = Command::new(python_client()?);
    command
        .arg(example_consumer())
        .args([
            "--bootstrap",
            broker.bootstrap(),
            "--topic",
            &broker.topic("cards"),
        ])
        .args(["--schema", "cards_pb2", "--until-end", "--file"])
        .arg(&cards)
        .args(arguments)
        .env("PYTHONPATH", site.root())
        .current_dir(site.root());
    let finished = site.start(command)?.finish()?.success()?;
    let lines = finished.stdout.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("what the consumer prints")
}

/// A row as the program tells its fields. Numbers of the consumer are compared as it prints them.
fn told(image: &Value) -> Vec<String> {
    let columns = &image["columns"];
    CARD_COLUMNS
        .iter()
        .map(|name| match &columns[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}

/// Every version that the program wrote, with the one before it, or fewer where one follows another at once: each record's
/// events lead from one to the next, and end with the last.
fn assert_as_written(events: &[Value], written: &WrittenCards) -> Result<()> {
    for (slot, versions) in written {
        let of_slot: Vec<&Value> = events
            .iter()
            .filter(|event| event["record"] == *slot && event["op"] != "created")
            .collect();
        let mut last: Option<Vec<String>> = None;
        for event in &of_slot {
            let before = (!event["before"].is_null()).then(|| told(&event["before"]));
            ensure!(before == last, "slot {slot}: {event} after {last:?}");
            last = (event["op"] == "put").then(|| told(&event["after"]));
            ensure!(
                last.is_none() || versions.contains(&last),
                "slot {slot}: {event} isn't among {versions:?}"
            );
            ensure!(event["after"]["reason"].is_null(), "{event}");
        }
        let expected = versions.last().cloned().flatten();
        ensure!(
            last == expected,
            "slot {slot}: {last:?} rather than {expected:?}"
        );
        ensure!(!of_slot.is_empty(), "slot {slot} has no event");
    }
    Ok(())
}

#[test]
fn a_stock_consumer_reads_the_columns_that_a_cobol_program_wrote() -> Result<()> {
    let (site, broker) = site("consumer", "tombstones = true\n")?;
    let written = write_cards(&site)?;
    let events = consume(&site, &broker, &[])?;
    assert_as_written(&events, &written)?;
    // The rewritten ones say what they were; nothing came by reading the file.
    let rewritten = events.iter().filter(|event| !event["before"].is_null());
    ensure!(rewritten.count() >= 4, "{events:?}");
    // Our own tools see the same columns, and take no notice of tombstones.
    let shown = site
        .run(&["events", "cards", "--file", "cards.dat", "--json"])?
        .success()?;
    let ours: Vec<Value> = shown
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    for event in &events {
        let same = ours.iter().any(|our| {
            our["record"] == event["record"]
                && our["after"]["columns"] == event["after"]["columns"]
                && our["schema_id"].as_str().is_some_and(|id| id.len() == 32)
        });
        ensure!(
            same || event["op"] != "put",
            "{event} isn't in\n{}",
            shown.stdout
        );
    }
    site.run(&["apply", "--until-idle"])?.success()?;
    ensure!(site.verify()?.equal, "the target differs");
    // A delete is followed by nothing but its key.
    let tombstones = raw(&site, &broker)?
        .into_iter()
        .filter(|(key, value, _)| value.is_none() && key.ends_with("cards.dat#10"));
    ensure!(tombstones.count() == 1, "the delete has no tombstone");
    site.finish();
    Ok(())
}

/// Key, length of the value, and headers of each message, as any client sees them.
type Raw = Vec<(String, Option<Vec<u8>>, BTreeMap<String, String>)>;

fn raw(site: &Site, broker: &Broker) -> Result<Raw> {
    const SCRIPT: &str = "
import json, sys
from confluent_kafka import Consumer
consumer = Consumer({'bootstrap.servers': sys.argv[1], 'group.id': 'raw',
    'auto.offset.reset': 'earliest', 'enable.partition.eof': True})
consumer.subscribe([sys.argv[2]])
while True:
    message = consumer.poll(1.0)
    if message is None:
        continue
    if message.error():
        break
    value = message.value()
    print(json.dumps([message.key().decode(), None if value is None else list(value),
        {name: text.decode() for name, text in message.headers() or []}]))
consumer.close()
";
    let mut command = Command::new(python_client()?);
    command
        .args(["-c", SCRIPT, broker.bootstrap(), &broker.topic("cards")])
        .current_dir(site.root());
    let finished = site.start(command)?.finish()?.success()?;
    let lines = finished.stdout.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("what the client prints")
}

fn with_registry(registry: &Registry, more: &str) -> String {
    format!(
        "wire_format = \"confluent\"\n[kafka.registry]\nurl = {:?}\n{more}",
        registry.url()
    )
}

#[test]
fn confluents_own_deserializer_reads_the_columns() -> Result<()> {
    let registry = Registry::start(None)?;
    let (site, broker) = site("registry", &with_registry(&registry, ""))?;
    let written = write_cards(&site)?;
    let events = consume(&site, &broker, &["--registry", &registry.url()])?;
    assert_as_written(&events, &written)?;
    let topic = broker.topic("cards");
    assert_eq!(
        registry.subjects(),
        [
            format!("{topic}-counterfoil.files.card_record.ChangeEvent"),
            format!("{topic}-value"),
        ]
    );
    // Frames: a zero byte, the number of the schema by the file, and a zero byte for the first message.
    let headers = ["op", "file", "position", "schema", "ce_id", "ce_type"];
    let mut numbers = BTreeMap::new();
    for (key, value, of) in raw(&site, &broker)? {
        let value = value.context("there are no tombstones unless asked for")?;
        let [0, a, b, c, d, 0, ..] = value[..] else {
            anyhow::bail!("{key}: {value:?}");
        };
        let number = u32::from_be_bytes([a, b, c, d]);
        let file = key.rsplit('/').next().unwrap_or_default();
        let file = file.split('#').next().unwrap_or_default().to_owned();
        if file == "cards.dat" {
            ensure!(headers.iter().all(|name| of.contains_key(*name)), "{of:?}");
        }
        let known = numbers.entry(file).or_insert(number);
        ensure!(
            *known == number,
            "{key} has the number {number}, others {known}"
        );
    }
    ensure!(numbers["cards.dat"] != numbers["plain.dat"], "{numbers:?}");
    // Our own half reads what it finds, framed or not.
    site.run(&["apply", "--until-idle"])?.success()?;
    ensure!(site.verify()?.equal, "the target differs");
    site.finish();
    Ok(())
}

/// What the registry doesn't take isn't published, and whoever looks is told; the journal keeps it meanwhile.
#[test]
fn a_registry_that_refuses_holds_publishing_and_says_why() -> Result<()> {
    let password = format!("Basic {}", base64(b"cf:open sesame"));
    let registry = Registry::start(Some(&password))?;
    let more = "username = \"cf\"\npassword_file = \"registry-password\"\n";
    let (site, broker) = site("registry-refuses", &with_registry(&registry, more))?;
    let subject = format!(
        "{}-counterfoil.files.card_record.ChangeEvent",
        broker.topic("cards")
    );
    // Somebody has registered a schema whose balance is something else.
    let schema = site.run(&["schema", "proto"])?.success()?.stdout;
    let balance = schema
        .lines()
        .find(|line| line.contains(" string balance = "))
        .context("a balance")?;
    let other = balance.replace("string", "bytes");
    registry.register(&subject, &schema.replace(balance, &other))?;
    std::fs::write(site.root().join("registry-password"), "wrong\n")?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    let says = |words: &[&str]| {
        wait_until(&format!("the status to say {words:?}"), || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let problems = status["problems"].to_string();
            if words.iter().all(|word| problems.contains(word)) {
                Ok(())
            } else {
                Err(problems)
            }
        })
    };
    says(&["doesn't let us in", "password_file"])?;
    std::fs::write(site.root().join("registry-password"), "open sesame\n")?;
    says(&[
        "isn't compatible",
        &subject,
        "FIELD_SCALAR_KIND_CHANGED",
        "the journal keeps",
    ])?;
    site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    capture.terminate();
    capture.finish()?.success()?;
    // Nobody registers where that isn't wanted, and a lookup is enough where it is there.
    let fresh = Registry::start(None)?;
    let config = std::fs::read_to_string(site.config())?;
    let config = config.replace(&registry.url(), &fresh.url());
    site.configure_text(&(config + "auto_register = false\n"))?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    says(&["isn't registered", "auto_register"])?;
    ensure!(fresh.subjects().is_empty(), "{:?}", fresh.subjects());
    let event = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../proto/counterfoil/v1/event.proto"
    );
    let event = std::fs::read_to_string(event)?;
    fresh.register(&format!("{}-value", broker.topic("cards")), &event)?;
    fresh.register(&subject, &schema)?;
    wait_until_published(&site, 10)?;
    capture.terminate();
    capture.finish()?.success()?;
    site.run(&["capture", "--until-idle"])?.success()?;
    site.run(&["apply", "--until-idle"])?.success()?;
    ensure!(site.verify()?.equal, "the target differs");
    site.finish();
    Ok(())
}
