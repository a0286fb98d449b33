//! The capturing end: the thread that sends the publisher's parcels to topics.
//!
//! A session begins by reading each topic's end. What is whole there counts as sent; everything after it is sent in order,
//! by one idempotent producer, and a parcel counts as applied when the broker has acknowledged all before its end. So the
//! publisher's checkpoint, and with it the journal, waits for the broker. What isn't acknowledged stays in memory, bounded,
//! and behind that the journal is the spool: a failure of any kind ends the session, and the next one, on the next route if
//! there are several, sends again what isn't whole on the topic.
//!
//! A publisher that another one has replaced notices: its messages don't follow one another on the topic any more, or a
//! later session is there. It stops, and says so.

use super::message::Form;
use super::registry;
use super::topics::{self, End, PARTITION};
use super::{BetterRoute, Reader, Told, client_config, reader};
use crate::config::{Config, Kafka, UnitOfWork};
use crate::event::{Change, Event, Parcel};
use crate::progress::{Progress, SinkProgress};
use crate::transport::wire::{Content, Place, Sender};
use crate::transport::{Closed, Inlet};
use crate::typed::TypedSchemas;
use anyhow::{Context as _, Result};
use counterfoil_lane::clock;
use counterfoil_proto::{Position, v1};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name under which status and checkpoints speak of the cluster as of a target.
pub const NAME: &str = "kafka";

/// Bytes sent and not acknowledged, above which no more is sent.
const IN_FLIGHT_MAX: usize = 32 << 20;
/// Events waiting in memory, above which no more are taken from the publisher.
const WAITING_EVENTS_MAX: usize = 50_000;
/// How long nothing may be acknowledged before that is told, and another route is tried.
const UNANSWERED_MAX: Duration = Duration::from_secs(3);
/// How long to wait before routes are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long a stop waits for the broker.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The smallest parts that large events are sent in.
const MESSAGE_BYTES_MIN: usize = 16 << 10;
/// Opaque of the messages that begin a session.
const BEGINNING: usize = usize::MAX;

/// A topic as this end sees it.
struct Stream {
    topic: String,
    sender: Sender,
    kind: v1::UnitKind,
    /// What is whole on it.
    acked: Option<Position>,
    /// Everything is published anew from this position on, and that hasn't been announced.
    begin: Option<Position>,
    asked: bool,
    /// Offset that the next message must get, where that is known.
    next: Option<i64>,
}

/// What waits to be acknowledged.
enum Item {
    Unit {
        stream: usize,
        events: Vec<Event>,
        bytes: usize,
        /// Messages sent and not acknowledged; `None`: not sent.
        remaining: Option<usize>,
    },
    /// All before is all before this lsn.
    End(u64),
}

/// Why there is no session.
enum Refused {
    /// It may come about later.
    Later(anyhow::Error),
    /// What was decided at the start isn't right any more.
    Restart(String),
    /// Somebody has to do something.
    Never(String),
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Refused {
        Refused::Later(error)
    }
}

type Report = (usize, String, Result<i64, RDKafkaErrorCode>);

/// Collects delivery reports.
#[derive(Default)]
struct Reports {
    told: Told,
    reports: Mutex<Vec<Report>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.told.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.told.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, item: usize) {
        let report = match result {
            Ok(message) => (item, message.topic().to_owned(), Ok(message.offset())),
            Err((error, message)) => (
                item,
                message.topic().to_owned(),
                Err(error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown)),
            ),
        };
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report);
    }
}

/// The thread's state.
pub struct Publishing {
    config: Arc<Config>,
    kafka: Kafka,
    inlet: Inlet,
    progress: Arc<Progress>,
    streams: Vec<Stream>,
    /// Position before which everything in the journal lies at the start.
    journal_end: Position,
    queue: VecDeque<Item>,
    /// Number of the first item in the queue.
    first: usize,
    /// Number of the first item that isn't sent.
    unsent: usize,
    waiting_events: usize,
    in_flight: usize,
    producer: Option<BaseProducer<Reports>>,
    beginnings: usize,
    sessions: Sessions,
    route: usize,
    better: Option<BetterRoute>,
    form: Form,
    heard: Instant,
    taking: bool,
}

/// What is known at the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// What is whole on the topic, or was by the last checkpoint.
    pub position: Option<Position>,
    /// Everything is published anew from here on.
    pub begin: Option<Position>,
    /// A broker was asked; otherwise a topic that has anything is news.
    pub asked: bool,
}

/// The topics' ends, by the first route that answers.
///
/// # Errors
/// The reason of the last failure.
pub fn ends(config: &Config, kafka: &Kafka) -> Result<Vec<End>> {
    by_any_route(config, kafka, |reader| {
        let streams = config.own_streams();
        let ends = streams.iter().map(|stream| {
            let topic = kafka.topic(stream);
            if topics::exists(reader, &topic)? {
                topics::end(reader, &topic, stream, Sessions::read(config).begun)
            } else {
                Ok(End::default())
            }
        });
        ends.collect()
    })
}

fn by_any_route<T>(
    config: &Config,
    kafka: &Kafka,
    mut ask: impl FnMut(&Reader) -> Result<T>,
) -> Result<T> {
    let mut failed = anyhow::anyhow!("there is no route");
    for route in &kafka.routes {
        match reader(kafka, route, &group(config, kafka)).and_then(|(reader, _)| ask(&reader)) {
            Ok(answer) => return Ok(answer),
            Err(error) => failed = error.context(format!("Kafka, route {}", route.name)),
        }
    }
    Err(failed)
}

/// Paths that a stream's topic says are there.
///
/// # Errors
/// The brokers don't answer, or a message is no event of the stream.
pub fn files_on(config: &Config, kafka: &Kafka, stream: &str) -> Result<Vec<Vec<u8>>> {
    let topic = kafka.topic(stream);
    by_any_route(config, kafka, |reader| {
        let mut paths = BTreeSet::new();
        if !topics::exists(reader, &topic)? {
            return Ok(Vec::new());
        }
        let all = topics::watermarks(reader, &topic)?;
        topics::scan(reader, &topic, stream, all, &mut |received| {
            let Content::Event(event) = received.content else {
                return Ok(());
            };
            if let Change::Renamed { from } = &event.change {
                paths.remove(&from.path);
            }
            if event.change == Change::Removed {
                paths.remove(&event.file.path);
            } else {
                paths.insert(event.file.path.clone());
            }
            Ok(())
        })?;
        Ok(paths.into_iter().collect())
    })
}

fn group(config: &Config, kafka: &Kafka) -> String {
    format!("{}.{}.capture", kafka.topic_prefix, config.site.name)
}

fn session_path(config: &Config) -> PathBuf {
    config.site.state.join("kafka-session")
}

/// The sessions that this state directory had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sessions {
    /// The last one that may have begun.
    last: u64,
    /// The last one of which it is known that it began.
    begun: u64,
}

impl Sessions {
    fn read(config: &Config) -> Sessions {
        let text = std::fs::read_to_string(session_path(config)).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(last)), Some(Ok(begun))) => Sessions { last, begun },
            _ => Sessions::default(),
        }
    }

    fn write(self, config: &Config) -> Result<()> {
        let path = session_path(config);
        let text = format!("{} {}\n", self.last, self.begun);
        crate::publish::images::replace(&path, text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))
    }
}

impl Publishing {
    /// Sets the thread up. `known` is by group; the journal ends before `journal_end`.
    pub fn new(
        config: Arc<Config>,
        kafka: Kafka,
        inlet: Inlet,
        known: Vec<Known>,
        journal_end: Position,
        progress: Arc<Progress>,
    ) -> Publishing {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let streams = config
            .groups
            .iter()
            .zip(config.own_streams())
            .zip(known)
            .map(|((group, stream), known)| Stream {
                topic: kafka.topic(&stream),
                sender: Sender {
                    site: config.site.name.clone(),
                    group: group.name.clone(),
                    host: host.clone(),
                    session: 0,
                    typed: TypedSchemas::default(),
                },
                kind: unit_kind(group.unit_of_work),
                acked: known.position,
                begin: known.begin,
                asked: known.asked,
                next: None,
            })
            .collect();
        Publishing {
            sessions: Sessions::read(&config),
            form: Form {
                bytes_max: kafka.message_bytes_max,
                tombstones: kafka.tombstones,
                schemas: None,
            },
            config,
            kafka,
            inlet,
            progress,
            streams,
            journal_end,
            queue: VecDeque::new(),
            first: 0,
            unsent: 0,
            waiting_events: 0,
            in_flight: 0,
            producer: None,
            beginnings: 0,
            route: 0,
            better: None,
            heard: Instant::now(),
            taking: true,
        }
    }

    /// Works until the publisher is gone and all it gave is acknowledged.
    pub fn run(mut self) {
        let pulse = self.progress.pulse("send");
        loop {
            pulse.beat();
            if self.producer.is_none() && !pulse.wait(|| self.connect()) {
                return;
            }
            if self.producer.is_none() {
                if self.gives_up() {
                    return;
                }
                continue;
            }
            self.receive();
            if let Err(problem) = self.pump() {
                self.end_session(&problem);
                continue;
            }
            if !self.taking && self.is_empty() {
                self.tell(None);
                return;
            }
            if self.better.as_ref().is_some_and(BetterRoute::answers) {
                tracing::info!("a preferred route to Kafka is back");
                self.better = None;
                self.producer = None;
                self.route = 0;
                continue;
            }
            self.watch();
            if self.gives_up() {
                return;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.beginnings == 0
    }

    /// Whether a stop has waited long enough for a broker that doesn't answer. What isn't acknowledged is sent by the
    /// next start.
    fn gives_up(&self) -> bool {
        let waiting = self.in_flight > 0 || self.beginnings > 0;
        self.progress.is_stopping()
            && (self.producer.is_none() || waiting && self.heard.elapsed() > STOP_WITHIN)
    }

    /// Takes what the publisher has; waits for it only as long as nothing waits for the broker.
    fn receive(&mut self) {
        let mut wait = if self.is_empty() {
            Duration::from_millis(20)
        } else {
            Duration::from_millis(1)
        };
        while self.taking && self.waiting_events < WAITING_EVENTS_MAX {
            match self.inlet.receive(wait) {
                Ok(Some(parcel)) => self.enqueue(parcel),
                Ok(None) => return,
                Err(Closed) => self.taking = false,
            }
            wait = Duration::ZERO;
        }
        if self.taking || !self.is_empty() {
            // Nothing more may be taken: the broker is waited for.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn enqueue(&mut self, parcel: Arc<Parcel>) {
        let end = parcel.end;
        let events = Arc::try_unwrap(parcel)
            .map_or_else(|shared| shared.events.clone(), |parcel| parcel.events);
        // A unit is what has the same lsn; one operation may have ended units of several groups.
        let mut open: Vec<Vec<Event>> = vec![Vec::new(); self.streams.len()];
        let mut lsn = 0;
        for event in events {
            if event.position.lsn != lsn {
                self.enqueue_units(&mut open);
                lsn = event.position.lsn;
            }
            let stream = usize::from(event.group);
            let is_sent = |stream: &Stream| Some(event.position) <= stream.acked;
            if self.streams.get(stream).is_some_and(|to| !is_sent(to)) {
                open[stream].push(event);
            }
        }
        self.enqueue_units(&mut open);
        self.queue.push_back(Item::End(end));
    }

    fn enqueue_units(&mut self, open: &mut [Vec<Event>]) {
        for (stream, events) in open.iter_mut().enumerate() {
            if !events.is_empty() {
                self.waiting_events += events.len();
                self.queue.push_back(Item::Unit {
                    stream,
                    events: std::mem::take(events),
                    bytes: 0,
                    remaining: None,
                });
            }
        }
    }

    /// Sends what may be sent, and sees what was acknowledged.
    fn pump(&mut self) -> Result<(), String> {
        self.send()?;
        let Some(producer) = &self.producer else {
            return Ok(());
        };
        producer.poll(Duration::ZERO);
        let reports = std::mem::take(
            &mut *producer
                .context()
                .reports
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if !reports.is_empty() {
            self.heard = Instant::now();
        }
        for (item, topic, result) in reports {
            let offset = match result {
                Ok(offset) => offset,
                Err(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    self.form.bytes_max = (self.form.bytes_max / 2).max(MESSAGE_BYTES_MIN);
                    return Err(format!(
                        "the broker takes no messages as large as message_bytes_max says; from now on events are sent in parts of {} bytes; set it to what the broker takes",
                        self.form.bytes_max
                    ));
                }
                Err(error) => return Err(format!("sending to the topic {topic}: {error}")),
            };
            if let Some(stream) = self.streams.iter_mut().find(|stream| stream.topic == topic) {
                // Not known (-1) after some repetitions; the next one tells again.
                if offset >= 0 && stream.next.is_some_and(|next| next != offset) {
                    return Err(format!("somebody else sends to the topic {topic}"));
                }
                stream.next = (offset >= 0).then_some(offset + 1);
            }
            if item == BEGINNING {
                self.beginnings -= 1;
                continue;
            }
            if let Some(Item::Unit {
                remaining: Some(remaining),
                ..
            }) = self.queue.get_mut(item - self.first)
            {
                *remaining -= 1;
            }
        }
        self.settle();
        Ok(())
    }

    fn send(&mut self) -> Result<(), String> {
        while self.in_flight < IN_FLIGHT_MAX {
            let Some(producer) = &self.producer else {
                return Ok(());
            };
            let number = self.unsent;
            let Some(item) = self.queue.get_mut(number - self.first) else {
                return Ok(());
            };
            let Item::Unit {
                stream,
                events,
                bytes,
                remaining,
            } = item
            else {
                self.unsent += 1;
                continue;
            };
            if self.in_flight == 0 {
                self.heard = Instant::now();
            }
            let stream = &self.streams[*stream];
            let count = events.len();
            let mut sent = 0;
            for (event, index) in events.iter().zip(1..) {
                let place = (count > 1).then(|| Place {
                    unit: event.position.lsn,
                    last_of: (index == count).then_some(u32::try_from(count).unwrap_or(u32::MAX)),
                });
                let message = stream.sender.event(event, place, stream.kind);
                for outgoing in self.form.outgoing(&stream.topic, &message) {
                    *bytes += outgoing.value.len();
                    sent += 1;
                    produce(producer, &stream.topic, &outgoing, number).map_err(|error| {
                        format!("sending to the topic {}: {error}", stream.topic)
                    })?;
                }
            }
            *remaining = Some(sent);
            self.in_flight += *bytes;
            self.unsent += 1;
        }
        Ok(())
    }

    /// Counts what is acknowledged as sent.
    fn settle(&mut self) {
        let (mut units, mut images, mut end, mut captured_ns) = (0, 0, None, None);
        while let Some(item) = self.queue.front() {
            match item {
                Item::Unit {
                    stream,
                    events,
                    bytes,
                    remaining: Some(0),
                } => {
                    units += 1;
                    images += events.len() as u64;
                    self.waiting_events -= events.len();
                    self.in_flight = self.in_flight.saturating_sub(*bytes);
                    if let Some(last) = events.last() {
                        let acked = &mut self.streams[*stream].acked;
                        *acked = (*acked).max(Some(last.position));
                        captured_ns = Some(last.captured_ns);
                    }
                }
                // What comes after has to be acknowledged only when everything before is; and a stream that begins has
                // begun once its beginning is.
                Item::End(lsn) if self.beginnings == 0 => end = Some(*lsn),
                Item::Unit { .. } | Item::End(_) => break,
            }
            self.queue.pop_front();
            self.first += 1;
            self.unsent = self.unsent.max(self.first);
        }
        if units == 0 && end.is_none() {
            return;
        }
        let streams = &self.streams;
        self.progress.update_sink(NAME, |sink| {
            self.tell_queue(sink);
            sink.images += images;
            sink.batches += units;
            if let Some(captured_ns) = captured_ns {
                sink.captured_ns = captured_ns;
                sink.lag_ns = (clock::wall() - captured_ns).max(0);
            }
            if let Some(end) = end {
                sink.applied_end = sink.applied_end.max(end);
            }
            for stream in streams {
                if let Some(acked) = stream.acked {
                    sink.positions.insert(
                        format!("{}/{}", stream.sender.site, stream.sender.group),
                        acked,
                    );
                }
            }
        });
    }

    /// Tells when nothing comes back, and tries another route then.
    fn watch(&mut self) {
        let waiting = self.in_flight > 0 || self.beginnings > 0;
        if !waiting || self.heard.elapsed() < UNANSWERED_MAX {
            // Answers come: what was told before isn't so any more.
            self.tell(None);
            return;
        }
        let why = self
            .producer
            .as_ref()
            .and_then(|producer| producer.context().told.take())
            .unwrap_or_else(|| "nothing is acknowledged".to_owned());
        if self.kafka.routes.len() > 1 {
            self.end_session(&why);
        } else {
            self.tell(Some(&why));
        }
    }

    fn tell(&self, problem: Option<&str>) {
        let route = &self.kafka.routes[self.route];
        let obstacle = problem.map(|problem| {
            format!(
                "Kafka, route {}: {problem}; the journal keeps what comes, and it is tried again",
                route.name
            )
        });
        let detour = (problem.is_none() && self.route > 0).then(|| {
            format!(
                "Kafka: the route {} isn't used since it doesn't answer; {} is",
                self.kafka.routes[0].name, route.name
            )
        });
        self.progress.set_obstacles(NAME, obstacle.as_slice());
        self.progress.set_problems(NAME, detour.as_slice());
        if problem.is_some() {
            self.progress
                .update_sink(NAME, |sink| self.tell_queue(sink));
        }
    }

    fn tell_queue(&self, sink: &mut SinkProgress) {
        sink.queue_events = self.waiting_events as u64;
        sink.queue_bytes = self.in_flight as u64;
    }

    fn end_session(&mut self, problem: &str) {
        self.tell(Some(problem));
        self.producer = None;
        self.route = (self.route + 1) % self.kafka.routes.len();
        std::thread::sleep(RETRY_AFTER / 5);
    }

    /// Begins a session. False when everything is to stop.
    fn connect(&mut self) -> bool {
        match self.begin_session() {
            Ok(()) => {
                self.tell(None);
                let route = self.kafka.routes[self.route].name.clone();
                tracing::info!("sending to Kafka by the route {route}");
                self.progress
                    .update_sink(NAME, |sink| sink.route = Some(route));
                self.better = BetterRoute::look_for(
                    &self.kafka,
                    self.route,
                    &group(&self.config, &self.kafka),
                );
                true
            }
            Err(Refused::Later(error)) => {
                self.tell(Some(&format!("{error:#}")));
                self.route = (self.route + 1) % self.kafka.routes.len();
                let until = Instant::now() + RETRY_AFTER;
                while self.route == 0 && Instant::now() < until && !self.progress.is_stopping() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                true
            }
            Err(Refused::Restart(why)) => {
                self.progress.restart(why);
                false
            }
            Err(Refused::Never(why)) => {
                self.progress.fail(why);
                false
            }
        }
    }

    fn begin_session(&mut self) -> Result<(), Refused> {
        let route = self.kafka.routes[self.route].clone();
        let (reader, told) = reader(&self.kafka, &route, &group(&self.config, &self.kafka))?;
        let because = |error: anyhow::Error| match told.take() {
            Some(reason) => error.context(reason),
            None => error,
        };
        let mut ends = Vec::new();
        for stream in &self.streams {
            let name = format!("{}/{}", stream.sender.site, stream.sender.group);
            if !topics::exists(&reader, &stream.topic).map_err(because)? {
                topics::create(&self.kafka, &route, &stream.topic)?;
                tracing::info!("the topic {} was made", stream.topic);
            }
            ends.push(
                topics::end(&reader, &stream.topic, &name, self.sessions.begun).map_err(because)?,
            );
        }
        for (stream, end) in self.streams.iter().zip(&ends) {
            if self.sessions.last > 0 && end.session > self.sessions.last {
                return Err(Refused::Never(format!(
                    "another publisher has sent to the topic {} since this one did (session {} after {}), so this one must not: if it is to take over again, stop the other, move the state directory {} away and start; every file is then read",
                    stream.topic,
                    end.session,
                    self.sessions.last,
                    self.config.site.state.display()
                )));
            }
            let topic = &stream.topic;
            match stream.begin {
                Some(begin)
                    if end.position >= Some(begin) || !stream.asked && end.position.is_some() =>
                {
                    return Err(Refused::Restart(format!(
                        "the topic {topic} is further than this journal"
                    )));
                }
                None if end.position < stream.acked => {
                    return Err(Refused::Restart(format!(
                        "the topic {topic} has lost what was sent to it"
                    )));
                }
                None if end.position > stream.acked.max(Some(self.journal_end))
                    && self.producer_is_first() =>
                {
                    return Err(Refused::Restart(format!(
                        "the topic {topic} is ahead of the journal"
                    )));
                }
                _ => {}
            }
        }
        self.look_up_schemas()?;
        let last = ends.iter().map(|end| end.session).max().unwrap_or(0);
        let now = u64::try_from(clock::wall()).unwrap_or(0);
        let session = now.max(last + 1).max(self.sessions.last + 1);
        self.sessions.last = session;
        self.sessions.write(&self.config)?;

        let mut config = client_config(&self.kafka, &route)?;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set(
                "message.max.bytes",
                self.kafka.message_bytes_max.to_string(),
            )
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "1048576");
        for (key, value) in [("linger.ms", "2"), ("retry.backoff.ms", "50")] {
            if !self.kafka.client.contains_key(key) {
                config.set(key, value);
            }
        }
        let producer = BaseProducer::from_config_and_context(&config, Reports::default())
            .context("setting up a Kafka producer: look at [kafka] client")?;
        self.beginnings = 0;
        self.in_flight = 0;
        for (stream, end) in self.streams.iter_mut().zip(&ends) {
            stream.sender.session = session;
            stream.next = Some(end.high);
            let position = stream.begin.or(end.position).unwrap_or_default();
            let message = stream
                .sender
                .begin(position, stream.begin.is_some(), clock::wall());
            for outgoing in self.form.outgoing(&stream.topic, &message) {
                produce(&producer, &stream.topic, &outgoing, BEGINNING).map_err(|error| {
                    anyhow::anyhow!("sending to the topic {}: {error}", stream.topic)
                })?;
                self.beginnings += 1;
            }
            stream.acked = stream.acked.max(end.position);
        }
        self.forget_sent();
        self.heard = Instant::now();
        self.producer = Some(producer);
        // The beginning is the first message of its session: once it is there, so is what it announces.
        self.await_beginnings()?;
        Ok(())
    }

    /// Asks the registry, if there is one, for the numbers of schemas: once, as they never change.
    fn look_up_schemas(&mut self) -> Result<()> {
        if let Some(registry) = &self.kafka.registry
            && self.form.schemas.is_none()
        {
            let topics: Vec<String> = self.streams.iter().map(|it| it.topic.clone()).collect();
            let numbers = registry::numbers(&self.config, registry, &topics)?;
            self.form.schemas = Some(numbers);
        }
        Ok(())
    }

    /// Whether no session of this process has been.
    fn producer_is_first(&self) -> bool {
        self.streams.iter().all(|stream| stream.sender.session == 0)
    }

    fn await_beginnings(&mut self) -> Result<(), Refused> {
        let until = Instant::now() + super::ANSWER_WITHIN;
        let unsent = std::mem::replace(&mut self.unsent, usize::MAX);
        let mut result = Ok(());
        while self.beginnings > 0 && result.is_ok() {
            result = self.pump_beginnings();
            if Instant::now() > until {
                result = Err("the beginning of a session isn't acknowledged".to_owned());
            }
        }
        self.unsent = unsent.max(self.first);
        if let Err(problem) = result {
            self.producer = None;
            return Err(Refused::Later(anyhow::anyhow!(problem)));
        }
        for stream in &mut self.streams {
            if let Some(begin) = stream.begin.take() {
                stream.acked = stream.acked.max(Some(begin));
            }
        }
        self.sessions.begun = self.sessions.last;
        self.sessions.write(&self.config)?;
        Ok(())
    }

    fn pump_beginnings(&mut self) -> Result<(), String> {
        if let Some(producer) = &self.producer {
            producer.poll(Duration::from_millis(5));
        }
        self.pump()
    }

    /// Takes out what is whole on the topic; the rest is to be sent again.
    fn forget_sent(&mut self) {
        self.unsent = self.first;
        for item in &mut self.queue {
            if let Item::Unit {
                stream,
                events,
                bytes,
                remaining,
            } = item
            {
                let acked = self.streams[*stream].acked;
                let before = events.len();
                events.retain(|event| Some(event.position) > acked);
                self.waiting_events -= before - events.len();
                *bytes = 0;
                *remaining = events.is_empty().then_some(0);
            }
        }
    }
}

fn produce(
    producer: &BaseProducer<Reports>,
    topic: &str,
    outgoing: &super::message::Outgoing,
    item: usize,
) -> Result<(), KafkaError> {
    loop {
        let record = BaseRecord::with_opaque_to(topic, item)
            .partition(PARTITION)
            .key(&outgoing.key)
            .timestamp(outgoing.at_ms)
            .headers(outgoing.headers.clone());
        let record = match outgoing.is_tombstone {
            true => record,
            false => record.payload(&outgoing.value),
        };
        match producer.send(record) {
            Ok(()) => return Ok(()),
            // Its queue is larger than what we keep in flight, but one unit may be larger still.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

fn unit_kind(policy: UnitOfWork) -> v1::UnitKind {
    match policy {
        UnitOfWork::None => v1::UnitKind::None,
        UnitOfWork::Fsync => v1::UnitKind::Fsync,
        UnitOfWork::Lock => v1::UnitKind::Lock,
        UnitOfWork::Close => v1::UnitKind::Close,
        UnitOfWork::Api => v1::UnitKind::Api,
    }
}
