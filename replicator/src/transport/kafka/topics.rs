//! What both ends know of topics: that they are there, where they end, and what is whole on them.

use super::message::{Parts, header};
use super::{ANSWER_WITHIN, Reader, block_on, client_config};
use crate::config::{Kafka, Ordering, Route};
use crate::transport::merge::{Known, Message, Tail, reach, whole_on};
use crate::transport::wire::{Decoder, Received};
use anyhow::{Context as _, Result, bail};
use counterfoil_proto::Position;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Copies of a topic that is made, unless [kafka] says otherwise or there are fewer brokers.
const COPIES: usize = 3;
/// What brokers take where a topic says nothing, less what a batch has around its message.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;
const BATCH_OVERHEAD: usize = 4096;
const LARGEST: &str = "max.message.bytes";
/// Messages looked through first for the end of a partition.
const WINDOW: i64 = 1000;
/// How long nothing may come of a topic that has more.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Part of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// The one after the last; none: as long as there is somebody to take messages.
    pub to: Option<i64>,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// First offset.
    pub low: i64,
    /// Offset of the next message.
    pub high: i64,
}

/// The end of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// What is there.
    pub tail: Tail,
    /// By partition; none: there is no topic.
    pub marks: Vec<Marks>,
}

/// Whether brokers answer at all.
///
/// # Errors
/// They don't.
pub fn answers(reader: &Reader) -> Result<()> {
    reader
        .fetch_metadata(None, ANSWER_WITHIN)
        .map(drop)
        .context("asking for metadata")
}

/// How many partitions a topic has; `None`: there is no such topic.
///
/// # Errors
/// The brokers don't answer.
pub fn partitions(reader: &Reader, topic: &str) -> Result<Option<usize>> {
    let metadata = reader
        .fetch_metadata(Some(topic), ANSWER_WITHIN)
        .with_context(|| format!("asking for the topic {topic}"))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    if let Some(error) = found.error() {
        let error = RDKafkaErrorCode::from(error);
        if matches!(
            error,
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
        ) {
            return Ok(None);
        }
        bail!("the topic {topic}: {error}");
    }
    let count = found.partitions().len();
    Ok((count > 0).then_some(count))
}

/// Whether a topic with so many partitions is what the configuration of who sends to it says.
///
/// # Errors
/// It isn't, and what to do.
pub fn check_partitions(kafka: &Kafka, topic: &str, count: usize) -> Result<()> {
    let anew = "stop capture, let apply take what it holds, delete the topic and start capture: it is made anew, and every file is published again";
    match (kafka.ordering, kafka.partitions) {
        (Ordering::Group, _) if count != 1 => bail!(
            "the topic {topic} has {count} partitions, and ordering = \"group\" takes one; write ordering = \"file\" or \"record\", choose another topic_prefix, or {anew}"
        ),
        (Ordering::File | Ordering::Record, Some(wanted)) if usize::from(wanted) != count => bail!(
            "the topic {topic} has {count} partition{}, and the configuration says {wanted}; write partitions = {count}, choose another topic_prefix, or {anew}",
            if count == 1 { "" } else { "s" },
        ),
        _ => Ok(()),
    }
}

/// Makes a topic.
///
/// # Errors
/// The brokers don't, and say why.
pub fn create(kafka: &Kafka, route: &Route, topic: &str) -> Result<()> {
    let count = kafka.partitions_made();
    if !kafka.create {
        bail!(
            "there is no topic {topic}, and create_topics is false; make it, with {count} partition{}",
            if count == 1 { "" } else { "s" }
        );
    }
    let admin: AdminClient<DefaultClientContext> = client_config(kafka, route)?
        .create()
        .context("setting up a Kafka client")?;
    let copies = match kafka.replication {
        Some(copies) => i32::from(copies.min(1000)),
        None => {
            // The broker's own default is one copy unless somebody has set it, and then a topic is gone with its broker.
            let brokers = admin.inner().fetch_metadata(None, ANSWER_WITHIN);
            brokers.map_or(-1, |found| {
                i32::try_from(found.brokers().len().min(COPIES)).unwrap_or(-1)
            })
        }
    };
    let largest = (kafka.message_bytes_max + BATCH_OVERHEAD).to_string();
    let mut new = NewTopic::new(topic, i32::from(count), TopicReplication::Fixed(copies));
    for (key, value) in &kafka.topic {
        new = new.set(key, value);
    }
    if kafka.message_bytes_max > MESSAGE_BYTES_DEFAULT && !kafka.topic.contains_key(LARGEST) {
        new = new.set(LARGEST, &largest);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(ANSWER_WITHIN))
        .operation_timeout(Some(ANSWER_WITHIN));
    let results = block_on(admin.create_topics([&new], &options))
        .with_context(|| format!("making the topic {topic}"))?;
    match results.into_iter().next() {
        Some(Err((_, error))) if error != RDKafkaErrorCode::TopicAlreadyExists => {
            bail!(
                "making the topic {topic}: {error}; make it by hand, or look at `replication` and [kafka.topic]"
            )
        }
        _ => Ok(()),
    }
}

/// Where each partition of a topic begins and ends.
///
/// # Errors
/// The brokers don't answer.
pub fn marks(reader: &Reader, topic: &str, partitions: usize) -> Result<Vec<Marks>> {
    numbers(partitions)
        .map(|partition| {
            let (low, high) = reader
                .fetch_watermarks(topic, partition, ANSWER_WITHIN)
                .with_context(|| format!("asking where the topic {topic} ends"))?;
            Ok(Marks { low, high })
        })
        .collect()
}

/// The numbers of so many partitions.
pub fn numbers(partitions: usize) -> std::ops::Range<i32> {
    0..i32::try_from(partitions).unwrap_or(i32::MAX)
}

/// A message that is no event, and where it is.
pub fn unusable(topic: &str, partition: i32, offset: i64, what: &dyn std::fmt::Display) -> String {
    format!(
        "the message at offset {offset} of partition {partition} of the topic {topic} can't be used: {what}"
    )
}

/// Takes an event's partition, the offset of its (last) message and its bytes, or nothing, and says whether to go on.
pub type TakeMessage<'t> = &'t mut dyn FnMut(Option<(i32, i64, &[u8])>) -> Result<bool, String>;

/// Reads parts of partitions, each in order, and hands over the bytes of each event until that says no, which it is also
/// asked now and then though nothing comes.
///
/// # Errors
/// The brokers don't answer, or what is in a message isn't an event or a part of one.
pub fn messages(
    reader: &Reader,
    topic: &str,
    ranges: &[Range],
    each: TakeMessage<'_>,
) -> Result<()> {
    struct Place {
        range: Range,
        next: i64,
        parts: Parts,
    }
    let is_open = |range: &&Range| range.to.is_none_or(|to| range.from < to);
    let mut places: Vec<Place> = ranges
        .iter()
        .filter(is_open)
        .map(|&range| Place {
            next: range.from,
            range,
            parts: Parts::default(),
        })
        .collect();
    let mut list = TopicPartitionList::new();
    for place in &places {
        list.add_partition_offset(topic, place.range.partition, Offset::Offset(place.next))
            .with_context(|| format!("reading the topic {topic}"))?;
    }
    reader
        .assign(&list)
        .with_context(|| format!("reading the topic {topic}"))?;
    let is_bounded = places.iter().all(|place| place.range.to.is_some());
    let mut heard = Instant::now();
    while places
        .iter()
        .any(|place| place.range.to.is_none_or(|to| place.next < to))
    {
        let silent = is_bounded && heard.elapsed() > SILENCE_MAX;
        let message = match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // What was there before may be gone by now.
                for place in &mut places {
                    if place.range.partition == partition
                        && let Some(to) = place.range.to
                    {
                        place.next = to;
                    }
                }
                continue;
            }
            Some(Err(error)) if silent => {
                return Err(error).with_context(|| format!("reading the topic {topic}"));
            }
            None if silent => bail!("the topic {topic} has more messages, but none comes"),
            Some(Err(_)) | None => {
                if !each(None).map_err(anyhow::Error::msg)? {
                    return Ok(());
                }
                continue;
            }
        };
        heard = Instant::now();
        let (partition, offset) = (message.partition(), message.offset());
        let Some(place) = places
            .iter_mut()
            .find(|place| place.range.partition == partition)
        else {
            continue;
        };
        place.next = offset + 1;
        if place.range.to.is_some_and(|to| offset >= to) {
            continue;
        }
        let unusable = |what: String| anyhow::anyhow!(unusable(topic, partition, offset, &what));
        let bytes = place
            .parts
            .take(
                header(message.headers(), "chunk"),
                message.payload().unwrap_or_default(),
            )
            .map_err(unusable)?;
        // Compaction's tombstones say nothing.
        if let Some(bytes) = bytes
            && !bytes.is_empty()
            && !each(Some((partition, offset, &bytes))).map_err(unusable)?
        {
            return Ok(());
        }
    }
    Ok(())
}

/// [`messages`] of one stream, decoded; with the index of the partition in the ranges' order of numbers.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn scan(
    reader: &Reader,
    topic: &str,
    stream: &str,
    ranges: &[Range],
    each: &mut dyn FnMut(usize, Received),
) -> Result<()> {
    let mut decoder = Decoder::default();
    messages(reader, topic, ranges, &mut |message| {
        let Some((partition, _, bytes)) = message else {
            return Ok(true);
        };
        let received = decoder
            .decode(bytes, 0)
            .map_err(|error| error.to_string())?;
        received.check_stream(stream)?;
        each(usize::try_from(partition).unwrap_or_default(), received);
        Ok(true)
    })
}

/// Where a topic ends, by what is `known` of it. The look goes back as far as it has to; `shallow`: only to the greatest
/// session and position, when it doesn't matter what is whole.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn end(
    reader: &Reader,
    topic: &str,
    stream: &str,
    partitions: usize,
    known: &Known,
    shallow: bool,
) -> Result<End> {
    let marks = marks(reader, topic, partitions)?;
    let mut windows = vec![WINDOW; partitions];
    let mut tails: Vec<Vec<Message<()>>> = vec![Vec::new(); partitions];
    let mut again = vec![true; partitions];
    while again.contains(&true) {
        let mut ranges = Vec::new();
        for (at, partition) in numbers(partitions).enumerate() {
            if again[at] {
                tails[at].clear();
                let Marks { low, high } = marks[at];
                ranges.push(Range {
                    partition,
                    from: high.saturating_sub(windows[at]).max(low),
                    to: Some(high),
                });
            }
        }
        scan(
            reader,
            topic,
            stream,
            &ranges,
            &mut |partition, received| {
                if let Some(tail) = tails.get_mut(partition) {
                    tail.push(Message::from(received).bare());
                }
            },
        )?;
        let reached = if shallow {
            let sessions = tails.iter().flatten().map(|message| message.session);
            vec![sessions.max().unwrap_or(0) >= known.begun; partitions]
        } else {
            reach(&tails, known)
        };
        for at in 0..partitions {
            let Marks { low, high } = marks[at];
            again[at] = !reached[at] && high - windows[at] > low;
            if again[at] {
                windows[at] *= 8;
            }
        }
    }
    Ok(End {
        tail: whole_on(tails, known),
        marks,
    })
}

/// What stands last on each partition before an offset: the session and the position, if there is anything.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn last_before(
    reader: &Reader,
    topic: &str,
    stream: &str,
    offsets: &[(i64, Marks)],
) -> Result<Vec<Option<(u64, Position)>>> {
    let mut window = 4;
    let mut last = vec![None; offsets.len()];
    loop {
        let ranges: Vec<Range> = offsets
            .iter()
            .zip(numbers(offsets.len()))
            .zip(&last)
            .filter(|(_, last)| last.is_none())
            .map(|((&(offset, marks), partition), _)| Range {
                partition,
                from: offset.saturating_sub(window).max(marks.low),
                to: Some(offset),
            })
            .collect();
        scan(
            reader,
            topic,
            stream,
            &ranges,
            &mut |partition, received| {
                if let Some(last) = last.get_mut(partition) {
                    *last = Some((received.session, received.position));
                }
            },
        )?;
        let has_more = |((offset, marks), last): (&(i64, Marks), &Option<_>)| {
            last.is_none() && offset - window > marks.low
        };
        if !offsets.iter().zip(&last).any(has_more) {
            return Ok(last);
        }
        window *= 16;
    }
}
