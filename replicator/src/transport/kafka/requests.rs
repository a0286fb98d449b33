//! Reading every file again without hands: the applying end asks, the capturing end does.
//!
//! A site has a small topic `<prefix>.<site>.requests`, made by `capture`. An `apply` that finds that a topic has lost what
//! its sink needs writes there up to which offsets it has looked for a session that publishes everything anew. The
//! capturing end remembers at which offsets its last such session began: what lies behind them the asker will meet, so
//! only a request that looked further is heeded, and each is heeded once, whoever is restarted in between. Beyond that there
//! is a shortest time between two; whoever may write to the topic can't make a site do nothing but read.

use super::topics::{self, Marks};
use super::{Reader, Told, client_config, reader};
use crate::config::{Config, Kafka, Ordering, Route};
use crate::progress::Progress;
use anyhow::{Context as _, Result};
use counterfoil_lane::clock;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// The partition of the topic, which has only one.
const PARTITION: i32 = 0;
/// The one thing that is asked for.
const READ_AGAIN: &str = "read-again";
/// Requests with more bytes are none.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// How often the same is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often the topic is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request is kept on the topic.
const KEPT_MS: u64 = 24 * 3_600_000;
const PAUSE: Duration = Duration::from_millis(50);

/// The topic of a site's requests.
pub fn topic(kafka: &Kafka, site: &str) -> String {
    kafka.topic(&format!("{site}/{}", crate::config::REQUESTS))
}

/// A request as it stands on the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is asked for.
    request: String,
    /// Of which stream, as `site/group`.
    stream: String,
    /// Who asks, as `site/sink`.
    asker: String,
    /// By topic and partition: everything before this offset was looked at in vain.
    looked_to: BTreeMap<String, BTreeMap<i32, i64>>,
    /// When it was written, nanoseconds since 1970.
    at_ns: i64,
}

/// The asking end.
pub struct Asking {
    kafka: Kafka,
    asker: String,
    producer: Option<(String, ThreadedProducer<Told>)>,
    asked: BTreeMap<String, Instant>,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Asking")
            .field("asker", &self.asker)
            .finish_non_exhaustive()
    }
}

impl Asking {
    /// For a sink of a site.
    pub fn new(kafka: &Kafka, site: &str, sink: &str) -> Asking {
        Asking {
            kafka: kafka.clone(),
            asker: format!("{site}/{sink}"),
            producer: None,
            asked: BTreeMap::new(),
        }
    }

    /// Asks that everything of a stream be published anew, now and then as long as this is called. `looked_to`: for each
    /// partition of its topic, the offset before which all was looked at. Says whether it is asked for at all.
    pub fn ask(&mut self, route: &Route, stream: &str, looked_to: BTreeMap<i32, i64>) -> bool {
        if !self.kafka.read_again_on_request {
            return false;
        }
        let recently = |asked: &Instant| asked.elapsed() < ASK_AGAIN_AFTER;
        if !self.asked.get(stream).is_some_and(recently) {
            self.asked.insert(stream.to_owned(), Instant::now());
            if let Err(error) = self.send(route, stream, looked_to) {
                tracing::warn!("asking for the files of {stream} to be read again: {error:#}");
            }
        }
        true
    }

    fn send(&mut self, route: &Route, stream: &str, looked_to: BTreeMap<i32, i64>) -> Result<()> {
        let site = stream.split('/').next().unwrap_or_default();
        let topic = topic(&self.kafka, site);
        let request = Request {
            request: READ_AGAIN.to_owned(),
            stream: stream.to_owned(),
            asker: self.asker.clone(),
            looked_to: BTreeMap::from([(self.kafka.topic(stream), looked_to)]),
            at_ns: clock::wall(),
        };
        if self
            .producer
            .as_ref()
            .is_none_or(|(used, _)| *used != route.name)
        {
            let mut config = client_config(&self.kafka, route)?;
            config
                .set("message.timeout.ms", "20000")
                .set("allow.auto.create.topics", "false");
            let producer = ThreadedProducer::from_config_and_context(&config, Told::default())
                .context("setting up a Kafka producer: look at [kafka] client")?;
            self.producer = Some((route.name.clone(), producer));
        }
        let text = serde_json::to_string(&request).context("writing the request")?;
        if let Some((_, producer)) = &self.producer {
            let record = BaseRecord::to(&topic)
                .key(&self.asker)
                .payload(&text)
                .partition(PARTITION);
            producer
                .send(record)
                .map_err(|(error, _)| error)
                .with_context(|| format!("sending to the topic {topic}"))?;
            tracing::info!("asked on the topic {topic} for the files of {stream} to be read again");
        }
        Ok(())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some((_, producer)) = &self.producer {
            let _ = producer.flush(Duration::from_secs(1));
        }
    }
}

/// Where everything was published anew the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anew {
    /// By topic and partition: the offset where it began.
    begins: BTreeMap<String, BTreeMap<i32, i64>>,
    /// When that was last done since it was asked for, nanoseconds since 1970; 0 for never.
    asked_ns: i64,
    /// When everything was last published anew, for whatever reason; 0 for never.
    #[serde(default)]
    begun_ns: i64,
}

impl Anew {
    /// When everything was last published anew, nanoseconds since 1970; 0 for never.
    pub fn begun_ns(&self) -> i64 {
        self.begun_ns
    }

    fn path(config: &Config) -> PathBuf {
        config.site.state.join("kafka-anew.json")
    }

    /// What the state directory remembers. Nothing, where nothing can be read: then a request is heeded once too often.
    pub fn read(config: &Config) -> Anew {
        let text = std::fs::read(Anew::path(config)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, config: &Config) -> Result<()> {
        let path = Anew::path(config);
        let text = serde_json::to_vec(self).context("writing down where everything begins anew")?;
        crate::publish::images::replace(&path, &text)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Remembers where a session began that publishes everything of a topic anew, for each partition.
    ///
    /// # Errors
    /// The state directory takes nothing.
    pub fn begun(config: &Config, topic: &str, begins: BTreeMap<i32, i64>) -> Result<()> {
        let mut anew = Anew::read(config);
        anew.begins.insert(topic.to_owned(), begins);
        anew.begun_ns = clock::wall();
        anew.write(config)
    }

    /// Whether who asks has looked further than where everything began anew.
    fn is_news(&self, request: &Request) -> bool {
        request.looked_to.iter().any(|(topic, looked_to)| {
            let begins = self.begins.get(topic);
            looked_to.iter().any(|(partition, &looked_to)| {
                let begin = begins.and_then(|begins| begins.get(partition));
                begin.is_none_or(|&begin| begin < looked_to)
            })
        })
    }

    /// How long a request has to wait. When the last one was is in the future if the clock was set back since; then nobody
    /// knows how long ago it was, and nothing is to wait until that comes.
    fn wait(&self, interval: Duration, now_ns: i64) -> Option<Duration> {
        let since = u64::try_from(now_ns - self.asked_ns).ok()?;
        interval
            .checked_sub(Duration::from_nanos(since))
            .filter(|wait| !wait.is_zero())
    }
}

/// Looks for requests on a site's topic until everything is to stop, if `[kafka]` says so. One that is heeded starts
/// everything again, with every file being read. Nobody waits for the thread: a broker that doesn't answer keeps it for
/// seconds, and it holds nothing.
///
/// # Errors
/// There can't be a thread.
pub fn listen(config: Arc<Config>, kafka: Kafka, progress: Arc<Progress>) -> Result<()> {
    if !kafka.read_again_on_request {
        return Ok(());
    }
    let listening = Listening {
        anew: Anew::default(),
        config,
        kafka,
        progress,
        next: None,
        waiting: None,
    };
    std::thread::Builder::new()
        .name("requests".to_owned())
        .spawn(move || listening.run())
        .map(drop)
        .context("starting the thread requests")
}

struct Listening {
    config: Arc<Config>,
    kafka: Kafka,
    progress: Arc<Progress>,
    anew: Anew,
    /// First offset that wasn't looked at.
    next: Option<i64>,
    /// A request that has to wait.
    waiting: Option<Request>,
}

impl Listening {
    fn run(mut self) {
        let mut reader = None;
        let mut route = 0;
        while !self.progress.is_stopping() {
            if let Err(error) = self.look(route, &mut reader) {
                // Whether the cluster answers is told by who publishes.
                tracing::debug!("looking for requests: {error:#}");
                reader = None;
                route = (route + 1) % self.kafka.routes.len().max(1);
            }
            let until = Instant::now() + LOOK_INTERVAL;
            while Instant::now() < until && !self.progress.is_stopping() {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn look(&mut self, route: usize, reader_of: &mut Option<Reader>) -> Result<()> {
        let route = &self.kafka.routes[route];
        let topic = topic(&self.kafka, &self.config.site.name);
        let reader = match reader_of {
            Some(reader) => reader,
            None => {
                let group = format!(
                    "{}.{}.requests",
                    self.kafka.topic_prefix, self.config.site.name
                );
                let (reader, _) = reader(&self.kafka, route, &group)?;
                if topics::partitions(&reader, &topic)?.is_none() {
                    let mut kafka = self.kafka.clone();
                    (kafka.ordering, kafka.partitions) = (Ordering::Group, None);
                    kafka.topic = BTreeMap::from([
                        ("cleanup.policy".to_owned(), "delete".to_owned()),
                        ("retention.ms".to_owned(), KEPT_MS.to_string()),
                    ]);
                    topics::create(&kafka, route, &topic)?;
                    tracing::info!("the topic {topic} was made");
                }
                reader_of.insert(reader)
            }
        };
        let Marks { low, high } = topics::marks(reader, &topic, 1)?[0];
        let from = self
            .next
            .filter(|next| (low..=high).contains(next))
            .unwrap_or(low);
        if from < high {
            let mut found = Vec::new();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, PARTITION, Offset::Offset(from))
                .and_then(|()| reader.assign(&list))
                .with_context(|| format!("reading the topic {topic}"))?;
            let until = Instant::now() + super::ANSWER_WITHIN;
            let mut next = from;
            while next < high && Instant::now() < until && !self.progress.is_stopping() {
                if let Some(Ok(message)) = reader.poll(PAUSE) {
                    next = message.offset() + 1;
                    found.extend(self.request(message.payload().unwrap_or_default()));
                }
            }
            self.next = Some(next);
            self.anew = Anew::read(&self.config);
            let news = found
                .into_iter()
                .rfind(|request| self.anew.is_news(request));
            self.waiting = news.or(self.waiting.take());
        }
        self.serve();
        Ok(())
    }

    /// A request that concerns this site.
    fn request(&self, text: &[u8]) -> Option<Request> {
        if text.len() > REQUEST_BYTES_MAX {
            return None;
        }
        let request: Request = serde_json::from_slice(text).ok()?;
        let is_own = self.config.own_streams().contains(&request.stream);
        (request.request == READ_AGAIN && is_own).then_some(request)
    }

    fn serve(&mut self) {
        const SUBJECT: &str = "requests";
        if self.progress.refilling.load(SeqCst) {
            // It is being done; where that begins on the topics will say whether it was what this one asks for.
            return;
        }
        self.anew = Anew::read(&self.config);
        let Some(request) = self.waiting.take_if(|request| self.anew.is_news(request)) else {
            self.waiting = None;
            self.progress.set_problems(SUBJECT, &[]);
            return;
        };
        let asked = format!(
            "sink {} asks for every file to be sent anew, since the topic of {} has lost what it needs",
            request.asker, request.stream
        );
        if let Some(wait) = self
            .anew
            .wait(self.kafka.read_again_interval, clock::wall())
        {
            let problem = format!(
                "{asked}; that was done not long ago (read_again_interval_minutes), so it is done in {}, or now by `counterfoil capture --read-again`",
                crate::words::about(wait)
            );
            self.progress.set_problems(SUBJECT, &[problem]);
            self.waiting = Some(request);
            return;
        }
        self.anew.asked_ns = clock::wall();
        if let Err(error) = self.anew.write(&self.config) {
            // Without it nothing would keep requests apart.
            self.progress
                .set_problems(SUBJECT, &[format!("{asked}; {error:#}; it is tried again")]);
            self.waiting = Some(request);
            return;
        }
        self.progress.restart_reading_again(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_heeded_once_and_not_too_often() {
        let request = |looked_to| Request {
            request: READ_AGAIN.to_owned(),
            stream: "hq/g".to_owned(),
            asker: "dr/a".to_owned(),
            looked_to: BTreeMap::from([("cf.hq.g".to_owned(), BTreeMap::from([(0, looked_to)]))]),
            at_ns: 0,
        };
        let mut anew = Anew::default();
        assert!(anew.is_news(&request(10)), "nothing is known of");
        anew.begins
            .insert("cf.hq.g".to_owned(), BTreeMap::from([(0, 10)]));
        assert!(!anew.is_news(&request(10)), "it will be met");
        assert!(anew.is_news(&request(11)), "it was looked at in vain");
        let second = 1_000_000_000;
        anew.asked_ns = 100 * second;
        let wait = |now_ns| anew.wait(Duration::from_secs(60), now_ns);
        assert_eq!(wait(130 * second), Some(Duration::from_secs(30)));
        assert_eq!(wait(160 * second), None);
        assert_eq!(anew.wait(Duration::ZERO, 100 * second), None);
        assert_eq!(wait(99 * second), None, "the clock was set back");
    }
}
