//! What both ends know of topics: that they are there, where they end, and what is whole on them.

use super::message::{Parts, header};
use super::{ANSWER_WITHIN, Reader, block_on, client_config};
use crate::config::{Kafka, Route};
use crate::transport::assembly::{Assembled, Assembly};
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

/// The partition that everything is in.
pub const PARTITION: i32 = 0;
/// Copies of a topic that is made, unless [kafka] says otherwise or there are fewer brokers.
const COPIES: usize = 3;
/// What brokers take where a topic says nothing, less what a batch has around its message.
const MESSAGE_BYTES_DEFAULT: usize = 1_000_000;
const BATCH_OVERHEAD: usize = 4096;
const LARGEST: &str = "max.message.bytes";
/// Messages looked through first for a topic's end.
const WINDOW: i64 = 1000;
/// How long nothing may come of a topic that has more.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The end of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Position up to which everything is whole on the topic; `None` where nothing is.
    pub position: Option<Position>,
    /// The greatest session.
    pub session: u64,
    /// First offset.
    pub low: i64,
    /// Offset of the next message, or that before which was looked.
    pub high: i64,
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

/// Whether a topic is there and has the one partition it has to have.
///
/// # Errors
/// The brokers don't answer, or the topic is another's.
pub fn exists(reader: &Reader, topic: &str) -> Result<bool> {
    let metadata = reader
        .fetch_metadata(Some(topic), ANSWER_WITHIN)
        .with_context(|| format!("asking for the topic {topic}"))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(false);
    };
    if let Some(error) = found.error() {
        let error = RDKafkaErrorCode::from(error);
        if matches!(
            error,
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
        ) {
            return Ok(false);
        }
        bail!("the topic {topic}: {error}");
    }
    match found.partitions().len() {
        0 => Ok(false),
        1 => Ok(true),
        count => bail!(
            "the topic {topic} has {count} partitions, so its events would have no order; make it with one, or choose another topic_prefix"
        ),
    }
}

/// Makes a topic.
///
/// # Errors
/// The brokers don't, and say why.
pub fn create(kafka: &Kafka, route: &Route, topic: &str) -> Result<()> {
    if !kafka.create {
        bail!("there is no topic {topic}, and create_topics is false; make it, with one partition");
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
    let mut new = NewTopic::new(topic, 1, TopicReplication::Fixed(copies));
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
                "making the topic {topic}: {error}; make it by hand, with one partition, or look at `replication` and [kafka.topic]"
            )
        }
        _ => Ok(()),
    }
}

/// First offset of a topic, and the one after its last.
///
/// # Errors
/// The brokers don't answer.
pub fn watermarks(reader: &Reader, topic: &str) -> Result<(i64, i64)> {
    reader
        .fetch_watermarks(topic, PARTITION, ANSWER_WITHIN)
        .with_context(|| format!("asking where the topic {topic} ends"))
}

/// Sets a reader to read one topic from an offset on.
///
/// # Errors
/// The client library refuses.
pub fn read_from(reader: &Reader, topic: &str, offset: i64) -> Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, PARTITION, Offset::Offset(offset))
        .and_then(|()| reader.assign(&list))
        .with_context(|| format!("reading the topic {topic}"))
}

/// A message that is no event, and where it is.
pub fn unusable(topic: &str, offset: i64, what: &dyn std::fmt::Display) -> String {
    format!("the message at offset {offset} of the topic {topic} can't be used: {what}")
}

/// Takes an event's bytes and the offset of its (last) message, or nothing, and says whether to go on.
pub type TakeMessage<'t> = &'t mut dyn FnMut(Option<(i64, &[u8])>) -> Result<bool, String>;

/// Reads the messages from `from` up to but not including `to`, in order, and hands over the bytes of each event until that
/// says no. `None` as `to`: as long as it says yes, which it is asked now and then though nothing comes.
///
/// # Errors
/// The brokers don't answer, or what is in a message isn't an event or a part of one.
pub fn messages(
    reader: &Reader,
    topic: &str,
    from: i64,
    to: Option<i64>,
    each: TakeMessage<'_>,
) -> Result<()> {
    read_from(reader, topic, from)?;
    let unusable = |offset, what: &str| anyhow::anyhow!(unusable(topic, offset, &what));
    let mut parts = Parts::default();
    let mut heard = Instant::now();
    let mut next = from;
    while to.is_none_or(|to| next < to) {
        let silent = to.is_some() && heard.elapsed() > SILENCE_MAX;
        let message = match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) if to.is_some() => break,
            Some(Err(error)) if silent => {
                return Err(error).with_context(|| format!("reading the topic {topic}"));
            }
            None if silent => {
                bail!("the topic {topic} has more messages, but none comes from offset {next} on")
            }
            Some(Err(_)) | None => {
                if !each(None).map_err(|error| unusable(next, &error))? {
                    break;
                }
                continue;
            }
        };
        heard = Instant::now();
        let offset = message.offset();
        next = offset + 1;
        if to.is_some_and(|to| offset >= to) {
            break;
        }
        let bytes = parts
            .take(
                header(message.headers(), "chunk"),
                message.payload().unwrap_or_default(),
            )
            .map_err(|error| unusable(offset, &error))?;
        // Compaction's tombstones say nothing.
        if let Some(bytes) = bytes
            && !bytes.is_empty()
            && !each(Some((offset, &bytes))).map_err(|error| unusable(offset, &error))?
        {
            break;
        }
    }
    Ok(())
}

/// [`messages`] of one stream, decoded.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn scan(
    reader: &Reader,
    topic: &str,
    stream: &str,
    (from, to): (i64, i64),
    each: &mut dyn FnMut(Received) -> Result<(), String>,
) -> Result<()> {
    let mut decoder = Decoder::default();
    messages(reader, topic, from, Some(to), &mut |message| {
        let Some((_, bytes)) = message else {
            return Ok(true);
        };
        let received = decoder
            .decode(bytes, 0)
            .map_err(|error| error.to_string())?;
        received.check_stream(stream)?;
        each(received)?;
        Ok(true)
    })
}

/// Where a topic ends. `own_session` is one that is known to have been there, if any is: as long as neither it nor a later
/// one is seen, the look goes further back.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn end(reader: &Reader, topic: &str, stream: &str, own_session: u64) -> Result<End> {
    let (low, high) = watermarks(reader, topic)?;
    whole_before(reader, topic, stream, (low, high), own_session)
}

/// What is whole on a topic before an offset, the second of the two; the first is that of the topic's first message.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn whole_before(
    reader: &Reader,
    topic: &str,
    stream: &str,
    (low, high): (i64, i64),
    own_session: u64,
) -> Result<End> {
    let mut window = WINDOW;
    loop {
        let from = high.saturating_sub(window).max(low);
        let mut assembly = Assembly::default();
        let mut end = End {
            low,
            high,
            ..End::default()
        };
        scan(reader, topic, stream, (from, high), &mut |received| {
            if received.session > end.session {
                // Only what the last session says counts: before the window may be what makes others void.
                end.session = received.session;
                end.position = None;
            }
            match assembly.take(received)? {
                Assembled::Unit { position, .. }
                | Assembled::Beheaded { position }
                | Assembled::Session { position, .. } => {
                    end.position = end.position.max(Some(position));
                }
                Assembled::Waiting | Assembled::Void => {}
            }
            Ok(())
        })?;
        let found = end.position.is_some() && end.session >= own_session;
        if found {
            return Ok(end);
        }
        if from == low {
            return Ok(End {
                position: None,
                ..end
            });
        }
        window *= 8;
    }
}
