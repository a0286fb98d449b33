//! The watch over topics: what threatens them is told while there is time to do something about it.
//!
//! A thread for each sink, and one for what is captured, since those that move events may be held up by just what is to
//! be told: a sink that takes nothing. How far a sink is, its committed offsets say.

use super::requests::Anew;
use super::settings::Settings;
use super::topics;
use super::{ANSWER_WITHIN, Reader, reader};
use crate::backlog::{Room, level};
use crate::config::{Config, Kafka, Target};
use crate::dead_letters::Store;
use crate::progress::Progress;
use crate::words::about;
use anyhow::{Context as _, Result};
use counterfoil_lane::clock;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{Message as _, Timestamp};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often is looked at least, and at most.
const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);
/// How many looks there are in the time that a topic keeps events.
const LOOKS_MIN: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// Whose topics are watched.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'w> {
    /// Those that this site's groups are sent to.
    Captured,
    /// Those that a sink is brought up from.
    Applied {
        /// Its name.
        sink: &'w str,
    },
}

/// Starts the thread. Nobody waits for it: a broker that doesn't answer keeps it for seconds, and it holds nothing.
///
/// # Errors
/// There can't be a thread.
pub fn start(
    config: &Arc<Config>,
    kafka: &Kafka,
    whose: Whose<'_>,
    progress: &Arc<Progress>,
) -> Result<()> {
    let site = &config.site;
    let (name, sink, streams) = match whose {
        Whose::Captured => ("capture", None, config.own_streams()),
        Whose::Applied { sink } => (sink, Some(sink.to_owned()), config.applied_streams()),
    };
    let mut disks = Vec::new();
    if let Some(sink) = &sink {
        disks.push(site.state.clone());
        let target = config.sinks.iter().find(|other| other.name == *sink);
        #[allow(irrefutable_let_patterns, reason = "other targets are servers")]
        if let Some(Target::Sqlite(database)) = target.map(|sink| &sink.target) {
            disks.extend(database.path.parent().map(std::path::Path::to_owned));
        }
        disks.dedup();
    }
    let watch = Watch {
        group: format!("{}.{}.{name}", kafka.topic_prefix, site.name),
        kafka: kafka.clone(),
        config: Arc::clone(config),
        subject: format!("watch over {name}"),
        sink,
        streams,
        disks,
        progress: Arc::clone(progress),
        lows: BTreeMap::new(),
        route: 0,
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch.run())
        .context("starting the thread watch")?;
    Ok(())
}

struct Watch {
    config: Arc<Config>,
    kafka: Kafka,
    /// The consumer group in whose name offsets are committed.
    group: String,
    subject: String,
    sink: Option<String>,
    streams: Vec<String>,
    disks: Vec<PathBuf>,
    progress: Arc<Progress>,
    /// First offsets as they were when first looked at, by topic and partition.
    lows: BTreeMap<(String, i32), (Instant, i64)>,
    route: usize,
}

impl Watch {
    fn run(mut self) {
        let mut of_topics = Vec::new();
        while !self.progress.is_stopping() {
            let interval = match self.look() {
                Ok((problems, interval)) => {
                    of_topics = problems;
                    interval
                }
                Err(error) => {
                    // Whether the cluster answers is told by those who move events; what was so before is still so.
                    tracing::debug!("{}: {error:#}", self.subject);
                    self.route = (self.route + 1) % self.kafka.routes.len().max(1);
                    *INTERVAL.start() * 5
                }
            };
            let until = Instant::now() + interval;
            loop {
                let mut problems = self.at_hand();
                problems.extend(of_topics.iter().cloned());
                self.progress.set_problems(&self.subject, &problems);
                let next = until.min(Instant::now() + *INTERVAL.start());
                while Instant::now() < next && !self.progress.is_stopping() {
                    std::thread::sleep(PAUSE);
                }
                if next == until || self.progress.is_stopping() {
                    break;
                }
            }
        }
    }

    /// What is to be told without asking anybody.
    fn at_hand(&self) -> Vec<String> {
        let disks = self.disks.iter();
        let mut problems: Vec<String> = disks
            .filter_map(|path| Room::at(path)?.problem(path))
            .collect();
        if self.sink.is_none() {
            let made_up_ns = Anew::read(&self.config).begun_ns();
            problems.extend(Store::of(&self.config).problem(super::publishing::NAME, made_up_ns));
            if self.config.site.read_again_path().exists() {
                self.progress
                    .restart_reading_again("dead letters are to be sent again".to_owned());
            }
        }
        problems
    }

    /// What is to be told, and when to look again.
    fn look(&mut self) -> Result<(Vec<String>, Duration)> {
        let route = self.kafka.routes[self.route].clone();
        let (reader, _) = reader(&self.kafka, &route, &self.group)?;
        let mut problems = Vec::new();
        let mut interval = *INTERVAL.end();
        for stream in self.streams.clone() {
            let topic = self.kafka.topic(&stream);
            if topics::partitions(&reader, &topic)?.is_none() {
                interval = *INTERVAL.start();
                continue;
            }
            // A cluster may forbid to ask; then there is nothing to go by.
            let settings = match Settings::of(&self.kafka, &route, &reader, &topic) {
                Ok(settings) => settings,
                Err(error) => {
                    tracing::debug!("{}: {error:#}", self.subject);
                    continue;
                }
            };
            let dangers = settings.dangers(&self.kafka).into_iter();
            problems.extend(
                dangers
                    .filter(|danger| danger.certain)
                    .map(|danger| format!("the topic {topic} {}; {}", danger.message, danger.help)),
            );
            if let Some(ms) = settings.retention_ms() {
                let kept = Duration::from_millis(ms.unsigned_abs());
                interval = interval.min(kept / LOOKS_MIN);
            }
            if self.sink.is_some() {
                problems.extend(self.threatened(&reader, &topic, &settings)?);
            }
        }
        Ok((problems, interval.clamp(*INTERVAL.start(), *INTERVAL.end())))
    }

    /// What is said of events that a sink hasn't applied and that the topic won't keep for long.
    fn threatened(
        &mut self,
        reader: &Reader,
        topic: &str,
        settings: &Settings,
    ) -> Result<Option<String>> {
        let metadata = reader.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions: Vec<i32> = found
            .map(|found| {
                found
                    .partitions()
                    .iter()
                    .map(rdkafka::metadata::MetadataPartition::id)
                    .collect()
            })
            .unwrap_or_default();
        let mut least: Option<(Duration, &str)> = None;
        for partition in partitions {
            let (low, high) = reader.fetch_watermarks(topic, partition, ANSWER_WITHIN)?;
            let (since, first_low) = *self
                .lows
                .entry((topic.to_owned(), partition))
                .or_insert((Instant::now(), low));
            let place = committed(reader, topic, partition)?.unwrap_or(low).max(low);
            if place >= high {
                continue;
            }
            if let Some(kept_ms) = settings.retention_ms()
                && let Some(at_ms) = time_at(reader, topic, partition, place)?
            {
                let age_ms = (clock::wall() / 1_000_000 - at_ms).max(0);
                if level(age_ms.unsigned_abs(), kept_ms.unsigned_abs()) > 0 {
                    let left = Duration::from_millis((kept_ms - age_ms).max(0).unsigned_abs());
                    least = least.min_or(left, "retention.ms");
                }
            }
            // What deletes by size shows only once it does.
            let deleted = u64::try_from(low - first_low).unwrap_or(0);
            let before = u64::try_from(place - low).unwrap_or(0);
            let all = u64::try_from(high - low).unwrap_or(0);
            if settings.retention_bytes().is_some() && deleted > 0 && level(all - before, all) > 0 {
                let seconds = since.elapsed().as_secs_f64() * before as f64 / deleted as f64;
                let left = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                least = least.min_or(left, "retention.bytes");
            }
        }
        let sink = self.sink.as_deref().unwrap_or_default();
        Ok(least.map(|(left, setting)| {
            format!(
                "sink {sink} is so far behind that the topic {topic} begins to delete in {} what it hasn't applied ({setting}); see why it doesn't go on, or raise {setting} of the topic meanwhile: what is deleted takes every file to be read again",
                about(left)
            )
        }))
    }
}

/// The more urgent of two.
trait MinOr<'s> {
    fn min_or(self, left: Duration, setting: &'s str) -> Self;
}

impl<'s> MinOr<'s> for Option<(Duration, &'s str)> {
    fn min_or(self, left: Duration, setting: &'s str) -> Self {
        match self {
            Some((before, _)) if before <= left => self,
            _ => Some((left, setting)),
        }
    }
}

fn committed(reader: &Reader, topic: &str, partition: i32) -> Result<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let committed = reader
        .committed_offsets(list, ANSWER_WITHIN)
        .with_context(|| format!("asking for committed offsets of the topic {topic}"))?;
    let first = committed
        .elements()
        .first()
        .map(rdkafka::topic_partition_list::TopicPartitionListElem::offset);
    Ok(match first {
        Some(Offset::Offset(offset)) => Some(offset),
        _ => None,
    })
}

/// The time of the first message from an offset on, milliseconds since 1970; `None` if none comes.
fn time_at(reader: &Reader, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    reader.assign(&list)?;
    let until = Instant::now() + ANSWER_WITHIN;
    let mut at_ms = None;
    while at_ms.is_none() && Instant::now() < until {
        if let Some(Ok(message)) = reader.poll(PAUSE) {
            let (Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms)) = message.timestamp()
            else {
                break;
            };
            at_ms = Some(ms);
        }
    }
    reader.assign(&TopicPartitionList::new())?;
    Ok(at_ms)
}
