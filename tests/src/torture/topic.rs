//! A consumer of the test's own, which follows the rules of docs/kafka.md and demands more: nothing comes twice, nothing is
//! missing.

use super::tally::Tally;
use anyhow::{Context as _, Result, bail, ensure};
use counterfoil_proto::{Position, v1};
use prost::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Reads all of a topic of one partition, from its beginning.
pub(super) fn check(bootstrap: &str, topic: &str, tally: &mut Tally) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "torture")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .context("setting up a consumer")?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let begin = Instant::now();
    let mut reader = Reader::default();
    loop {
        ensure!(
            begin.elapsed() < crate::LIMIT,
            "the end of topic {topic} isn't reached"
        );
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                let has_chunk = message
                    .headers()
                    .is_some_and(|headers| headers.iter().any(|header| header.key == "chunk"));
                ensure!(
                    !has_chunk,
                    "no event of these programs is so large that it goes in parts"
                );
                if let Some(payload) = message.payload() {
                    let event = v1::ChangeEvent::decode(payload).context("decoding an event")?;
                    tally.events += 1;
                    let problems = (reader.duplicates, reader.lost);
                    reader.take(event)?;
                    if problems != (reader.duplicates, reader.lost) {
                        tally.duplicates += reader.duplicates;
                        tally.lost += reader.lost;
                        bail!(
                            "{topic} at offset {}: {}",
                            message.offset(),
                            if reader.lost > 0 {
                                "something before it is missing"
                            } else {
                                "it has been there before"
                            }
                        );
                    }
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => {
                return Err(error).with_context(|| format!("reading topic {topic}"));
            }
        }
    }
}

/// Puts units together.
#[derive(Default)]
struct Reader {
    session: u64,
    gathered: Vec<v1::ChangeEvent>,
    taken: Option<Position>,
    /// Whole units that aren't after what was taken.
    duplicates: u64,
    /// Units before which something is missing.
    lost: u64,
}

impl Reader {
    fn take(&mut self, event: v1::ChangeEvent) -> Result<()> {
        let session = event.source.as_ref().map_or(0, |source| source.session);
        if session < self.session {
            return Ok(());
        }
        self.session = session;
        let position = |event: &v1::ChangeEvent| event.position.map(Position::from);
        let is_heartbeat = event.op() == v1::Op::Heartbeat;
        let goes_on = self.gathered.last().is_some_and(|last| {
            let id = |event: &v1::ChangeEvent| event.unit.as_ref().map(|unit| unit.id);
            id(last) == id(&event) && position(last) < position(&event)
        });
        if !goes_on || is_heartbeat {
            self.gathered.clear();
        }
        if is_heartbeat {
            if event.snapshot {
                // Everything is read again: what is before it needn't be whole.
                self.taken = self.taken.max(position(&event));
            }
            return Ok(());
        }
        let (is_last, count) = match &event.unit {
            Some(unit) => (unit.last, unit.events as usize),
            None => (true, 1),
        };
        self.gathered.push(event);
        if !is_last {
            return Ok(());
        }
        let from = self.gathered.len().checked_sub(count);
        let Some(from) = from else {
            // Its beginning was in a session that didn't get to its end.
            self.gathered.clear();
            return Ok(());
        };
        let unit: Vec<v1::ChangeEvent> = self.gathered.drain(..).skip(from).collect();
        let (first, last) = (
            unit.first().context("a unit has events")?,
            unit.last().context("a unit has events")?,
        );
        if let Some(previous) = first.previous.map(Position::from)
            && self.taken.is_none_or(|taken| previous > taken)
        {
            self.lost += 1;
        }
        if self
            .taken
            .is_some_and(|taken| position(first).is_none_or(|first| first <= taken))
        {
            self.duplicates += 1;
        }
        self.taken = self.taken.max(position(last));
        Ok(())
    }
}
