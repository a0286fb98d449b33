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

use super::message::{Form, Outgoing, header, op_name, position_text};
use super::requests::Anew;
use super::settings::{MESSAGE_BYTES_MIN, Settings};
pub use super::topics::End;
use super::topics::{self, Range};
use super::{BetterRoute, Reader, Told, client_config, reader, reason};
use super::{registry, spread};
use crate::config::{Config, Kafka, Route, UnitOfWork};
use crate::dead_letters::{Letter, Store};
use crate::event::{Change, Event, Parcel};
use crate::progress::{Progress, SinkProgress};
use crate::transport::merge;
use crate::transport::wire::{Content, Place, Sender};
use crate::transport::{Closed, Inlet};
use crate::typed::TypedSchemas;
use anyhow::{Context as _, Result};
use counterfoil_lane::clock;
use counterfoil_proto::{Position, path_text, v1};
use prost::Message as _;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name under which status and checkpoints speak of the cluster as of a target.
pub const NAME: &str = "kafka";

/// Bytes sent and not acknowledged, above which no more is sent.
const IN_FLIGHT_MAX: usize = 32 << 20;
/// Events waiting in memory, above which no more are taken from the publisher.
const WAITING_EVENTS_MAX: usize = 50_000;
/// The same in bytes; what one parcel has comes on top.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// How long nothing may be acknowledged before that is told, and another route is tried.
const UNANSWERED_MAX: Duration = Duration::from_secs(3);
/// How long to wait before routes are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long a stop waits for the broker.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long after one that is refused for good messages are sent one by one.
const SINGLY_FOR: Duration = Duration::from_secs(10);
/// How long the report is waited for that says why all others are failures.
const REASON_WITHIN: Duration = Duration::from_millis(500);
/// Opaque of the messages that begin a session.
const BEGINNING: usize = usize::MAX;

/// A topic as this end sees it.
struct Stream {
    topic: String,
    sender: Sender,
    kind: v1::UnitKind,
    /// What is whole on it.
    acked: Option<Position>,
    /// The last event sent, or where the session begins.
    sent: Option<Position>,
    /// Everything is published anew from this position on, and that hasn't been announced.
    begin: Option<Position>,
    asked: bool,
    /// By partition: the offset that the next message must get, where that is known.
    next: Vec<Option<i64>>,
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

/// What became of a message.
struct Report {
    /// Of which item it is.
    item: usize,
    topic: String,
    partition: i32,
    /// Its offset, or why it has none, and the position of its event.
    result: Result<i64, (RDKafkaErrorCode, Option<String>)>,
}

impl Report {
    /// It wasn't sent because another one wasn't.
    fn is_consequence(&self) -> bool {
        matches!(
            self.result,
            Err((
                RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::PurgeQueue
                    | RDKafkaErrorCode::PurgeInflight
                    | RDKafkaErrorCode::GaplessGuarantee,
                _
            ))
        )
    }

    /// It says why it wasn't sent.
    fn is_reason(&self) -> bool {
        self.result.is_err() && !self.is_consequence()
    }
}

/// Collects delivery reports.
#[derive(Default)]
struct Reports {
    told: Told,
    reports: Mutex<Vec<Report>>,
}

impl Reports {
    fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
        let (message, result) = match result {
            Ok(message) => (message, Ok(message.offset())),
            Err((error, message)) => (
                message,
                Err((
                    error
                        .rdkafka_error_code()
                        .unwrap_or(RDKafkaErrorCode::Unknown),
                    header(message.headers(), "position").map(str::to_owned),
                )),
            ),
        };
        let report = Report {
            item,
            topic: message.topic().to_owned(),
            partition: message.partition(),
            result,
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
    waiting_bytes: usize,
    in_flight: usize,
    producer: Option<BaseProducer<Reports>>,
    beginnings: usize,
    sessions: Sessions,
    route: usize,
    better: Option<BetterRoute>,
    form: Form,
    /// Whether each message of this session goes by itself, so that it is known which one is refused.
    singly: bool,
    /// When a message was last refused for good.
    refused_at: Option<Instant>,
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

/// The topics' ends, by the first route that answers. `acknowledged` is by stream; none: the state is new, and it doesn't
/// matter what is whole.
///
/// # Errors
/// The reason of the last failure.
pub fn ends(
    config: &Config,
    kafka: &Kafka,
    acknowledged: Option<&[Option<Position>]>,
) -> Result<Vec<End>> {
    let sessions = Sessions::read(config);
    by_any_route(config, kafka, |reader| {
        let streams = config.own_streams();
        let ends = streams.iter().enumerate().map(|(at, stream)| {
            let topic = kafka.topic(stream);
            let Some(count) = topics::partitions(reader, &topic)? else {
                return Ok(End::default());
            };
            let position = acknowledged.and_then(|positions| positions.get(at).copied().flatten());
            let known = sessions.known(position);
            let is_new = acknowledged.is_none();
            topics::end(reader, &topic, stream, count, &known, is_new)
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
        let asked = reader(kafka, route, &group(config, kafka)).and_then(|(reader, told)| {
            ask(&reader).map_err(|error| match reason(&reader, &told) {
                Some(reason) => error.context(reason),
                None => error,
            })
        });
        match asked {
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
        // By path: what was said last, and whether that it is there. Partitions are read in any order.
        let mut paths: BTreeMap<Vec<u8>, (Position, bool)> = BTreeMap::new();
        let Some(count) = topics::partitions(reader, &topic)? else {
            return Ok(Vec::new());
        };
        let ranges: Vec<Range> = topics::marks(reader, &topic, count)?
            .into_iter()
            .zip(topics::numbers(count))
            .map(|(marks, partition)| Range {
                partition,
                from: marks.low,
                to: Some(marks.high),
            })
            .collect();
        let mut say = |path: &[u8], position: Position, there: bool| {
            let said = paths.entry(path.to_vec()).or_insert((position, there));
            if said.0 <= position {
                *said = (position, there);
            }
        };
        topics::scan(reader, &topic, stream, &ranges, &mut |_, received| {
            let Content::Event(event) = received.content else {
                return;
            };
            if let Change::Renamed { from } = &event.change {
                say(&from.path, event.position, false);
            }
            let there = event.change != Change::Removed;
            say(&event.file.path, event.position, there);
        })?;
        let there = paths.into_iter().filter(|(_, (_, there))| *there);
        Ok(there.map(|(path, _)| path).collect())
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

    /// What is known of a topic, when everything up to a position was acknowledged.
    fn known(self, position: Option<Position>) -> merge::Known {
        merge::Known {
            position,
            begun: self.begun,
            last: self.last,
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
                    typed: Some(TypedSchemas::default()),
                },
                kind: unit_kind(group.unit_of_work),
                acked: known.position,
                sent: None,
                begin: known.begin,
                asked: known.asked,
                next: Vec::new(),
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
            waiting_bytes: 0,
            in_flight: 0,
            producer: None,
            beginnings: 0,
            route: 0,
            better: None,
            singly: false,
            refused_at: None,
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
            if self.singly && self.refused_at.is_none_or(|at| at.elapsed() > SINGLY_FOR) {
                self.producer = None;
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
        while self.taking
            && self.waiting_events < WAITING_EVENTS_MAX
            && self.waiting_bytes < WAITING_BYTES_MAX
        {
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
                self.waiting_bytes += volume(events);
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
        let mut reports = producer.context().take();
        // A message that is refused takes all others with it, and their reports may come first.
        let until = Instant::now() + REASON_WITHIN;
        while reports.iter().any(|report| report.is_consequence())
            && !reports.iter().any(Report::is_reason)
            && Instant::now() < until
        {
            producer.poll(Duration::from_millis(5));
            reports.extend(producer.context().take());
        }
        if reports.iter().any(Report::is_reason) {
            reports.retain(|report| !report.is_consequence());
        }
        if !reports.is_empty() {
            self.heard = Instant::now();
        }
        for Report {
            item,
            topic,
            partition,
            result,
        } in reports
        {
            let offset = match result {
                Ok(offset) => offset,
                Err((code, position)) => {
                    return Err(self.refused(item, &topic, code, position.as_deref()));
                }
            };
            let stream = self.streams.iter_mut().find(|stream| stream.topic == topic);
            if let Some(next) = stream.and_then(|stream| {
                let at = usize::try_from(partition).ok()?;
                stream.next.get_mut(at)
            }) {
                // Not known (-1) after some repetitions; the next one tells again.
                if offset >= 0 && next.is_some_and(|next| next != offset) {
                    return Err(format!("somebody else sends to the topic {topic}"));
                }
                *next = (offset >= 0).then_some(offset + 1);
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

    /// What to do about a message that the broker doesn't take. The session is over in any case: what follows the message
    /// must not stand on the topic without it.
    fn refused(
        &mut self,
        item: usize,
        topic: &str,
        code: RDKafkaErrorCode,
        position: Option<&str>,
    ) -> String {
        let is_size = matches!(
            code,
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge
        );
        if is_size && self.form.bytes_max > MESSAGE_BYTES_MIN {
            self.form.bytes_max = (self.form.bytes_max / 2).max(MESSAGE_BYTES_MIN);
            return format!(
                "the broker takes no messages as large as message_bytes_max says; from now on events are sent in parts of {} bytes; set it to what the broker takes",
                self.form.bytes_max
            );
        }
        let is_for_good = is_size
            || matches!(
                code,
                RDKafkaErrorCode::InvalidTimestamp
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::PolicyViolation
            );
        if !is_for_good || item == BEGINNING {
            return format!("sending to the topic {topic}: {code}");
        }
        self.refused_at = Some(Instant::now());
        if !self.singly {
            return format!(
                "the topic {topic} refuses messages ({code}); they are sent one by one until it is known which"
            );
        }
        let reason = format!("the topic {topic} doesn't take it: {code}");
        match self.dead_letter(item, position, &reason) {
            Ok(letter) => format!(
                "an event of {} is refused for good ({code}) and kept as dead letter {}; what follows it is sent",
                letter.file, letter.number
            ),
            Err(error) => format!(
                "{reason}; it can't be kept as a dead letter, so nothing goes on: {error:#}"
            ),
        }
    }

    /// Takes an event out of what is to be sent, once the store of dead letters has it.
    fn dead_letter(&mut self, item: usize, position: Option<&str>, reason: &str) -> Result<Letter> {
        let at = item.checked_sub(self.first);
        let Some(Item::Unit { stream, events, .. }) = at.and_then(|at| self.queue.get_mut(at))
        else {
            anyhow::bail!("it isn't known which event it is");
        };
        let stream = &self.streams[*stream];
        let is_it = |event: &Event| Some(position_text(event.position).as_str()) == position;
        let index = events
            .iter()
            .position(is_it)
            .context("it isn't known which event it is")?;
        let message = stream.sender.event(&events[index], None, stream.kind);
        let letter = Letter {
            at_ns: clock::wall(),
            refused_by: NAME.to_owned(),
            reason: reason.to_owned(),
            stream: format!("{}/{}", stream.sender.site, stream.sender.group),
            position: position_text(events[index].position),
            file: path_text(&events[index].file.path),
            op: op_name(message.op()),
            record: matches!(message.op(), v1::Op::Put | v1::Op::Delete | v1::Op::Residue)
                .then_some(message.record),
            ..Letter::default()
        };
        let letter = Store::of(&self.config).keep(&letter, &message.encode_to_vec())?;
        let event = events.remove(index);
        self.waiting_events -= 1;
        self.waiting_bytes -= event.volume();
        tracing::warn!(
            "{}: {reason}; kept as dead letter {}",
            letter.file,
            letter.number
        );
        Ok(letter)
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
            let stream = &mut self.streams[*stream];
            let count = events.len();
            let mut sent = 0;
            for (event, index) in events.iter().zip(1..) {
                let place = (count > 1).then(|| Place {
                    unit: event.position.lsn,
                    last_of: (index == count).then_some(u32::try_from(count).unwrap_or(u32::MAX)),
                });
                let message = v1::ChangeEvent {
                    previous: stream.sent.map(Into::into),
                    ..stream.sender.event(event, place, stream.kind)
                };
                stream.sent = Some(event.position);
                let partition = spread::partition(self.kafka.ordering, &message, stream.next.len());
                for outgoing in self.form.outgoing(&stream.topic, &message) {
                    *bytes += outgoing.value.len();
                    sent += 1;
                    let produced = produce(producer, &stream.topic, partition, outgoing, number);
                    if let Err(error) = produced {
                        let topic = stream.topic.clone();
                        let code = error.rdkafka_error_code();
                        let position = position_text(event.position);
                        // The library itself knows which one is too large.
                        self.singly |= code == Some(RDKafkaErrorCode::MessageSizeTooLarge);
                        let code = code.unwrap_or(RDKafkaErrorCode::Unknown);
                        return Err(self.refused(number, &topic, code, Some(&position)));
                    }
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
                    self.waiting_bytes -= volume(events);
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
        let because = |error: anyhow::Error| match reason(&reader, &told) {
            Some(reason) => error.context(reason),
            None => error,
        };
        let mut ends = Vec::new();
        for stream in &self.streams {
            let name = format!("{}/{}", stream.sender.site, stream.sender.group);
            let count = match topics::partitions(&reader, &stream.topic).map_err(because)? {
                Some(count) => count,
                None => {
                    topics::create(&self.kafka, &route, &stream.topic)?;
                    tracing::info!("the topic {} was made", stream.topic);
                    // As it is on the brokers, also if somebody else made it just now.
                    topics::partitions(&reader, &stream.topic)?
                        .unwrap_or_else(|| usize::from(self.kafka.partitions_made()))
                }
            };
            topics::check_partitions(&self.kafka, &stream.topic, count)?;
            let known = self.sessions.known(stream.acked);
            let is_new = stream.begin.is_some();
            ends.push(
                topics::end(&reader, &stream.topic, &name, count, &known, is_new)
                    .map_err(because)?,
            );
        }
        for (stream, End { tail, .. }) in self.streams.iter().zip(&ends) {
            if self.sessions.last > 0 && tail.session > self.sessions.last {
                return Err(Refused::Never(format!(
                    "another publisher has sent to the topic {} since this one did (session {} after {}), so this one must not: if it is to take over again, stop the other, move the state directory {} away and start; every file is then read",
                    stream.topic,
                    tail.session,
                    self.sessions.last,
                    self.config.site.state.display()
                )));
            }
            let topic = &stream.topic;
            match stream.begin {
                // This process has tried already: its announcement got to some partitions, and nothing is behind it.
                Some(begin)
                    if tail.seen == Some(begin)
                        && tail.session > self.sessions.begun
                        && !self.producer_is_first() => {}
                Some(begin) if tail.seen >= Some(begin) || !stream.asked && tail.seen.is_some() => {
                    return Err(Refused::Restart(format!(
                        "the topic {topic} is further than this journal"
                    )));
                }
                None if tail.whole < stream.acked => {
                    return Err(Refused::Restart(format!(
                        "the topic {topic} has lost what was sent to it"
                    )));
                }
                None if tail.whole > stream.acked.max(Some(self.journal_end))
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
        let last = ends.iter().map(|end| end.tail.session).max().unwrap_or(0);
        let now = u64::try_from(clock::wall()).unwrap_or(0);
        let session = now.max(last + 1).max(self.sessions.last + 1);
        self.sessions.last = session;
        self.sessions.write(&self.config)?;

        if self.form.bytes_max < self.kafka.message_bytes_max {
            self.ask_limit(&route, &reader);
        }
        let mut config = client_config(&self.kafka, &route)?;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            // Nothing may stand on the topic behind a message that doesn't: it would count as sent.
            .set("enable.gapless.guarantee", "true")
            .set("message.max.bytes", self.form.bytes_max.to_string())
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "1048576");
        for (key, value) in [("linger.ms", "2"), ("retry.backoff.ms", "50")] {
            if !self.kafka.client.contains_key(key) {
                config.set(key, value);
            }
        }
        // The broker's limit is one for batches. Without any refusal the library's own size may stay.
        if self.form.bytes_max < self.kafka.message_bytes_max {
            config.set("batch.size", self.form.bytes_max.to_string());
        }
        let recently = |at: Instant| at.elapsed() < SINGLY_FOR;
        self.singly = self.refused_at.is_some_and(recently);
        if self.singly {
            config.set("batch.num.messages", "1");
        }
        let producer = BaseProducer::from_config_and_context(&config, Reports::default())
            .context("setting up a Kafka producer: look at [kafka] client")?;
        self.beginnings = 0;
        self.in_flight = 0;
        for (stream, end) in self.streams.iter_mut().zip(&ends) {
            stream.sender.session = session;
            stream.next = end.marks.iter().map(|marks| Some(marks.high)).collect();
            let position = stream.begin.or(end.tail.whole).unwrap_or_default();
            let message = stream
                .sender
                .begin(position, stream.begin.is_some(), clock::wall());
            for partition in topics::numbers(end.marks.len()) {
                for outgoing in self.form.outgoing(&stream.topic, &message) {
                    produce(&producer, &stream.topic, partition, outgoing, BEGINNING).map_err(
                        |error| anyhow::anyhow!("sending to the topic {}: {error}", stream.topic),
                    )?;
                    self.beginnings += 1;
                }
            }
            if stream.begin.is_none() {
                stream.acked = stream.acked.max(end.tail.whole);
            }
            stream.sent = Some(position);
        }
        self.forget_sent();
        self.heard = Instant::now();
        self.producer = Some(producer);
        // The beginnings are the first messages of their session, one on each partition: none of its events is anywhere before
        // all of them are there.
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

    /// Messages were too large: what the topics take may be asked, and needn't be tried.
    fn ask_limit(&mut self, route: &Route, reader: &Reader) {
        for stream in &self.streams {
            let settings = Settings::of(&self.kafka, route, reader, &stream.topic);
            if let Ok(settings) = settings
                && let Some(limit) = settings.message_bytes_max()
            {
                self.form.bytes_max = self.form.bytes_max.min(limit).max(MESSAGE_BYTES_MIN);
            }
        }
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
                // Without it, a request is heeded once too often.
                let offsets = stream
                    .next
                    .iter()
                    .map(|next| next.map_or(0, |next| next - 1));
                let begun = topics::numbers(stream.next.len()).zip(offsets).collect();
                if let Err(error) = Anew::begun(&self.config, &stream.topic, begun) {
                    tracing::warn!("{error:#}");
                }
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
                let before = (events.len(), volume(events));
                events.retain(|event| Some(event.position) > acked);
                self.waiting_events -= before.0 - events.len();
                self.waiting_bytes -= before.1 - volume(events);
                *bytes = 0;
                *remaining = events.is_empty().then_some(0);
            }
        }
    }
}

fn produce(
    producer: &BaseProducer<Reports>,
    topic: &str,
    partition: i32,
    outgoing: Outgoing,
    item: usize,
) -> Result<(), KafkaError> {
    let mut record = BaseRecord::with_opaque_to(topic, item)
        .partition(partition)
        .key(&outgoing.key)
        .timestamp(outgoing.at_ms)
        .headers(outgoing.headers);
    if !outgoing.is_tombstone {
        record = record.payload(&outgoing.value);
    }
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            // Its queue is larger than what we keep in flight, but one unit may be larger still.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                producer.poll(Duration::from_millis(10));
                record
            }
            Err((error, _)) => return Err(error),
        };
    }
}

fn volume(events: &[Event]) -> usize {
    events.iter().map(Event::volume).sum()
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
