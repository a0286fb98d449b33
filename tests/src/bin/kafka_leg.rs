//! The Kafka side of `cargo xtask bench kafka`: librdkafka without us.
//!
//! `kafka_leg sizes BOOTSTRAP TOPIC` prints how many messages a topic has and the bytes that one has on average, of key,
//! value and headers together. `kafka_leg produce BOOTSTRAP TOPIC COUNT BYTES` makes the topic and sends so many messages
//! of so many bytes by one idempotent producer, and prints the seconds from the first to the last acknowledgement.
//! `kafka_leg repeat BOOTSTRAP TOPIC COUNT FROM` does the same with the first messages of the topic FROM, over and over, with
//! their keys and headers.
//! `kafka_leg roundtrip BOOTSTRAP TOPIC COUNT BYTES` sends messages one after the other, each once the one before has been
//! received, and prints for each after how many microseconds it was.

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Messages that are repeated, at most.
const REPEATED: usize = 10_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["sizes", bootstrap, topic] => sizes(bootstrap, topic),
        ["produce", bootstrap, topic, count, bytes] => produce(
            bootstrap,
            topic,
            count.parse().context("COUNT")?,
            bytes.parse().context("BYTES")?,
        ),
        ["repeat", bootstrap, topic, count, from] => {
            repeat(bootstrap, topic, count.parse().context("COUNT")?, from)
        }
        ["roundtrip", bootstrap, topic, count, bytes] => roundtrip(
            bootstrap,
            topic,
            count.parse().context("COUNT")?,
            bytes.parse().context("BYTES")?,
        ),
        _ => bail!(
            "usage: kafka_leg sizes BOOTSTRAP TOPIC | kafka_leg produce BOOTSTRAP TOPIC COUNT BYTES \
             | kafka_leg repeat BOOTSTRAP TOPIC COUNT FROM | kafka_leg roundtrip BOOTSTRAP TOPIC COUNT BYTES"
        ),
    }
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// What decides about loss and repetition is as counterfoil has it, and so is what it waits for more with.
fn producer(bootstrap: &str) -> Result<BaseProducer> {
    config(bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "2000000")
        .set("queue.buffering.max.kbytes", "1048576")
        .create()
        .context("setting up a producer")
}

fn consumer(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", "kafka_leg")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .create()
        .context("setting up a consumer")?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    Ok(consumer)
}

fn make(bootstrap: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN));
    let made = counterfoil_tests::wait(admin.create_topics([&new], &options))?;
    for result in made {
        result.map_err(|(topic, error)| anyhow!("making the topic {topic}: {error}"))?;
    }
    Ok(())
}

fn sizes(bootstrap: &str, topic: &str) -> Result<()> {
    let consumer = consumer(bootstrap, topic)?;
    let (mut count, mut bytes) = (0u64, 0u64);
    let begin = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let headers = message.headers().map_or(0, |headers| {
                    headers
                        .iter()
                        .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len))
                        .sum()
                });
                count += 1;
                bytes += (message.key_len() + message.payload_len() + headers) as u64;
            }
            Some(Err(KafkaError::PartitionEOF(_))) if count > 0 => break,
            _ if begin.elapsed() > LIMIT => bail!("the topic {topic} doesn't end"),
            Some(Err(_)) | None => {}
        }
    }
    println!("{count} {}", bytes / count.max(1));
    Ok(())
}

fn produce(bootstrap: &str, topic: &str, count: u64, bytes: usize) -> Result<()> {
    let payload: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    timed(bootstrap, topic, count, |number| {
        let rest = payload.get(size_of_val(&number)..).unwrap_or_default();
        Outgoing {
            key: number.to_be_bytes().to_vec(),
            payload: rest,
            headers: None,
        }
    })
}

fn repeat(bootstrap: &str, topic: &str, count: u64, from: &str) -> Result<()> {
    let consumer = consumer(bootstrap, from)?;
    let (mut messages, begin) = (Vec::new(), Instant::now());
    while messages.len() < REPEATED {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => messages.push(message.detach()),
            Some(Err(KafkaError::PartitionEOF(_))) if !messages.is_empty() => break,
            _ if begin.elapsed() > LIMIT => bail!("nothing comes of the topic {from}"),
            Some(Err(_)) | None => {}
        }
    }
    drop(consumer);
    let mut next = messages.iter().cycle();
    timed(bootstrap, topic, count, |_| {
        let message = next.next();
        Outgoing {
            key: message.and_then(Message::key).unwrap_or_default().to_vec(),
            payload: message.and_then(Message::payload).unwrap_or_default(),
            headers: message.and_then(Message::headers).cloned(),
        }
    })
}

/// What is to be sent.
struct Outgoing<'p> {
    key: Vec<u8>,
    payload: &'p [u8],
    headers: Option<OwnedHeaders>,
}

/// Sends so many messages to a new topic, and prints how many seconds that took.
fn timed<'p>(
    bootstrap: &str,
    topic: &str,
    count: u64,
    mut message: impl FnMut(u64) -> Outgoing<'p>,
) -> Result<()> {
    make(bootstrap, topic)?;
    let producer = producer(bootstrap)?;
    // Looking for the cluster isn't what is measured.
    send(&producer, topic, message(0))?;
    producer.flush(ANSWER_WITHIN)?;
    let begin = Instant::now();
    for number in 0..count {
        send(&producer, topic, message(number))?;
    }
    producer.flush(LIMIT)?;
    println!("{}", begin.elapsed().as_secs_f64());
    Ok(())
}

fn send(producer: &BaseProducer, topic: &str, outgoing: Outgoing<'_>) -> Result<()> {
    let mut record = BaseRecord::to(topic)
        .partition(0)
        .key(&outgoing.key)
        .payload(outgoing.payload);
    record.headers = outgoing.headers;
    loop {
        record = match producer.send(record) {
            Ok(()) => {
                producer.poll(Duration::ZERO);
                return Ok(());
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                producer.poll(Duration::from_millis(1));
                record
            }
            Err((error, _)) => return Err(error).context("sending"),
        };
    }
}

fn roundtrip(bootstrap: &str, topic: &str, count: u64, bytes: usize) -> Result<()> {
    make(bootstrap, topic)?;
    let producer = producer(bootstrap)?;
    let consumer = consumer(bootstrap, topic)?;
    let payload = vec![b'.'; bytes];
    for number in 0..=count {
        let begin = Instant::now();
        let outgoing = Outgoing {
            key: number.to_be_bytes().to_vec(),
            payload: &payload,
            headers: None,
        };
        send(&producer, topic, outgoing)?;
        loop {
            producer.poll(Duration::ZERO);
            match consumer.poll(Duration::from_micros(500)) {
                Some(Ok(message)) if message.key() == Some(number.to_be_bytes().as_slice()) => {
                    break;
                }
                _ if begin.elapsed() > LIMIT => bail!("message {number} doesn't come"),
                _ => {}
            }
        }
        // The first one looks for the cluster.
        if number > 0 {
            println!("{}", begin.elapsed().as_micros());
        }
        std::thread::sleep(Duration::from_micros(number * 7919 % 40_000));
    }
    Ok(())
}
