//! The applying end: the thread that makes parcels of a sink's topics.
//!
//! The position that the sink has stored outranks everything. Offsets are committed after rows, so that ordinary tools see
//! how far apply is. A start looks at what is whole on the topic before the committed offset: if the sink has that, it goes
//! on there, and otherwise it reads the topic from its beginning, where what the sink has is skipped.
//!
//! A topic may have lost its beginning to retention. Then what comes may not follow what the sink has, and nothing of it is
//! applied before it does: because something the sink has is still there, or because a session begins that reads every
//! file again. The status says so meanwhile, and what to do.

use super::message::{Parts, header};
use super::topics::{self, PARTITION, unusable};
use super::{ANSWER_WITHIN, BetterRoute, Departing, Reader, reader};
use crate::config::{Config, Kafka};
use crate::event::{Event, Parcel};
use crate::progress::{Progress, Pulse};
use crate::transport::assembly::{Assembled, Assembly};
use crate::transport::wire::Decoder;
use crate::transport::{Closed, Outlet};
use anyhow::{Context as _, Result};
use counterfoil_proto::Position;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const PARCEL_EVENTS: usize = 2048;
const POLL: Duration = Duration::from_millis(20);
/// How often offsets are committed, and topics asked where they end.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are asked while somebody waits for all to be applied.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long brokers may be silent, while there is more, before another route is tried.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A topic as this end sees it.
struct Stream {
    name: String,
    topic: String,
    /// What has been given to the applier, or was in the sink.
    taken: Option<Position>,
    /// Whether what comes next follows what was taken.
    follows: bool,
    assembly: Assembly,
    decoder: Decoder,
    parts: Parts,
    /// First offset that wasn't looked at.
    next: i64,
    /// Offset at which a start would find the beginning of a unit.
    boundary: i64,
    /// Offset of the topic's end, when it was asked last.
    high: i64,
    started: bool,
    /// Boundaries to be committed when the position is applied.
    passed: VecDeque<(Option<Position>, i64)>,
    /// Something came that doesn't follow.
    gap: bool,
    /// Why it doesn't go on.
    held: Option<String>,
}

/// The thread's state.
pub struct Receiving {
    kafka: Kafka,
    group: String,
    sink: String,
    outlet: Outlet,
    progress: Arc<Progress>,
    pulse: Arc<Pulse>,
    streams: Vec<Stream>,
    route: usize,
    parcel: Parcel,
    /// Messages looked at.
    messages: u64,
    committed: Instant,
    looked: Instant,
    heard: Instant,
    failed: Option<String>,
}

/// Why a session ended.
enum Go {
    /// Nobody takes anything any more.
    Stop,
    /// Another route is to be used.
    OtherRoute,
}

impl Receiving {
    /// Sets the thread up. `stored` is what the sink has, by stream.
    pub fn new(
        config: &Config,
        kafka: Kafka,
        sink: &str,
        stored: &[Option<Position>],
        outlet: Outlet,
        progress: Arc<Progress>,
    ) -> Receiving {
        let streams = config
            .applied_streams()
            .into_iter()
            .zip(stored)
            .map(|(name, &stored)| Stream {
                topic: kafka.topic(&name),
                name,
                taken: stored,
                follows: false,
                assembly: Assembly::default(),
                decoder: Decoder::default(),
                parts: Parts::default(),
                next: 0,
                boundary: 0,
                high: i64::MAX,
                started: false,
                passed: VecDeque::new(),
                gap: false,
                held: None,
            })
            .collect();
        Receiving {
            group: format!("{}.{}.{sink}", kafka.topic_prefix, config.site.name),
            kafka,
            sink: sink.to_owned(),
            outlet,
            pulse: progress.pulse(&format!("receive {sink}")),
            progress,
            streams,
            route: 0,
            parcel: Parcel::default(),
            messages: 0,
            committed: Instant::now(),
            looked: Instant::now(),
            heard: Instant::now(),
            failed: None,
        }
    }

    /// Works until everything is to stop.
    pub fn run(mut self) {
        while !self.progress.is_stopping() {
            self.pulse.beat();
            match self.session() {
                Ok(Go::Stop) => return,
                Ok(Go::OtherRoute) => {}
                Err(error) => {
                    self.failed = Some(format!(
                        "Kafka, route {}: {error:#}; it is tried again",
                        self.kafka.routes[self.route].name
                    ));
                    self.tell();
                    self.route = (self.route + 1) % self.kafka.routes.len();
                    let until = Instant::now() + RETRY_AFTER;
                    while Instant::now() < until && !self.progress.is_stopping() {
                        std::thread::sleep(POLL);
                    }
                }
            }
        }
    }

    /// Reads on one route until everything is to stop, or it fails.
    fn session(&mut self) -> Result<Go> {
        let route = self.kafka.routes[self.route].clone();
        let (reader, told) = reader(&self.kafka, &route, &self.group)?;
        let reader = Departing::new(reader);
        let pulse = Arc::clone(&self.pulse);
        pulse
            .wait(|| self.begin(&reader))
            .map_err(|error| match told.take() {
                Some(reason) => error.context(reason),
                None => error,
            })?;
        self.failed = None;
        self.heard = Instant::now();
        self.tell();
        self.progress
            .update_sink(&self.sink, |sink| sink.route = Some(route.name.clone()));
        let better = BetterRoute::look_for(&self.kafka, self.route, &self.group);
        while !self.progress.is_stopping() {
            self.pulse.beat();
            match reader.poll(POLL) {
                Some(Ok(message)) => {
                    self.heard = Instant::now();
                    let at = self
                        .streams
                        .iter()
                        .position(|stream| stream.topic == message.topic());
                    if let Some(at) = at {
                        let chunk = header(message.headers(), "chunk");
                        let value = message.payload().unwrap_or_default();
                        self.take(at, message.offset(), chunk, value);
                    }
                    if self.parcel.events.len() >= PARCEL_EVENTS && self.send().is_err() {
                        return Ok(Go::Stop);
                    }
                    if self.committed.elapsed() < COMMIT_INTERVAL {
                        continue;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.heard = Instant::now(),
                Some(Err(error)) => {
                    // What the library mends by itself shows as silence if it doesn't.
                    tracing::debug!("reading from Kafka: {error}");
                    if let KafkaError::MessageConsumption(
                        rdkafka::error::RDKafkaErrorCode::OffsetOutOfRange
                        | rdkafka::error::RDKafkaErrorCode::AutoOffsetReset,
                    ) = error
                    {
                        for stream in &mut self.streams {
                            stream.started = false;
                        }
                        return Err(error).context("what was to be read next is gone");
                    }
                }
                None => {}
            }
            if self.send().is_err() {
                return Ok(Go::Stop);
            }
            self.commit(&reader, CommitMode::Async);
            self.look(&reader, &told)?;
            if better.as_ref().is_some_and(BetterRoute::answers) {
                tracing::info!("a preferred route to Kafka is back");
                self.route = 0;
                return Ok(Go::OtherRoute);
            }
        }
        self.commit(&reader, CommitMode::Sync);
        Ok(Go::Stop)
    }

    /// Finds where each topic is to be read from.
    fn begin(&mut self, reader: &Reader) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let mut missing = Vec::new();
        for at in 0..self.streams.len() {
            let topic = self.streams[at].topic.clone();
            if !topics::exists(reader, &topic)? {
                missing.push(topic);
                continue;
            }
            let (low, high) = topics::watermarks(reader, &topic)?;
            let stream = &mut self.streams[at];
            stream.high = high;
            if !stream.started {
                let committed = committed(reader, &topic)?;
                let within = committed.filter(|offset| (low + 1..=high).contains(offset));
                let mut usable = None;
                if let Some(offset) = within {
                    let whole =
                        topics::whole_before(reader, &topic, &stream.name, (low, offset), 0)?;
                    usable = (whole.position.is_some() && whole.position <= stream.taken)
                        .then_some((offset, whole.session));
                }
                let (offset, session) = usable.unwrap_or((low, 0));
                stream.follows = usable.is_some();
                stream.assembly = Assembly::after(session);
                stream.parts = Parts::default();
                stream.boundary = offset;
                stream.started = true;
                tracing::info!("reading the topic {topic} from offset {offset} on");
            } else if stream.boundary < low {
                stream.follows = false;
                stream.boundary = low;
            } else if stream.boundary > high {
                // Another topic by the same name.
                stream.follows = false;
                stream.boundary = low;
                stream.assembly = Assembly::default();
            }
            // From the last boundary: what was taken of a unit is taken again.
            stream.assembly = Assembly::after(stream.assembly.session());
            stream.parts = Parts::default();
            stream.next = stream.boundary;
            list.add_partition_offset(&topic, PARTITION, Offset::Offset(stream.boundary))
                .context("naming partitions")?;
        }
        if let Some(topic) = missing.first() {
            anyhow::bail!(
                "there is no topic {topic} yet; `counterfoil capture` on the site that it is of makes it"
            );
        }
        reader.assign(&list).context("taking partitions")?;
        Ok(())
    }

    /// Takes a message.
    fn take(&mut self, at: usize, offset: i64, chunk: Option<&str>, value: &[u8]) {
        let stream = &mut self.streams[at];
        if stream.held.is_some() || offset < stream.next {
            return;
        }
        stream.next = offset + 1;
        self.messages += 1;
        let assembled = match stream.assemble(at, chunk, value) {
            Ok(Some(assembled)) => assembled,
            Ok(None) => return,
            Err(what) => {
                stream.held = Some(format!(
                    "{}; nothing after it is applied: use a version that knows it, or have the topic made anew",
                    unusable(&stream.topic, offset, &what)
                ));
                self.tell();
                return;
            }
        };
        match assembled {
            Assembled::Waiting | Assembled::Void => {}
            Assembled::Beheaded { position } => {
                stream.follows = Some(position) <= stream.taken;
            }
            Assembled::Session { position, fresh } => {
                if fresh {
                    stream.follows = true;
                    if Some(position) > stream.taken {
                        stream.taken = Some(position);
                        // Between what came before and what comes after; that nobody takes it shows at the next.
                        let at = u16::try_from(at).unwrap_or(u16::MAX);
                        let _ = self.send();
                        self.parcel.begins.push((at, position));
                        let _ = self.send();
                    }
                } else if Some(position) <= stream.taken {
                    stream.follows = true;
                }
            }
            Assembled::Unit { position, events } => {
                if Some(position) <= stream.taken {
                    stream.follows = true;
                } else if stream.follows {
                    let taken = stream.taken;
                    stream.taken = Some(position);
                    let is_new = |event: &Event| Some(event.position) > taken;
                    self.parcel.events.extend(events.into_iter().filter(is_new));
                } else {
                    stream.gap = true;
                }
            }
        }
        let stream = &mut self.streams[at];
        if !stream.assembly.is_within_unit() && stream.parts.is_empty() {
            stream.boundary = offset + 1;
            if stream.follows {
                match stream.passed.back_mut() {
                    Some(last) if last.0 == stream.taken => *last = (stream.taken, offset + 1),
                    _ => stream.passed.push_back((stream.taken, offset + 1)),
                }
            }
        }
    }

    /// Hands over what was gathered.
    fn send(&mut self) -> Result<(), Closed> {
        let behind: i64 = self
            .streams
            .iter()
            .filter(|stream| stream.started)
            .map(|stream| stream.high.saturating_sub(stream.next).max(0))
            .sum();
        self.progress
            .journal_end
            .store(self.messages + behind.cast_unsigned(), Ordering::SeqCst);
        let sent = self.progress.published_end.load(Ordering::SeqCst);
        if self.parcel.events.is_empty() && self.parcel.begins.is_empty() && sent == self.messages {
            return Ok(());
        }
        let mut parcel = std::mem::take(&mut self.parcel);
        parcel.end = self.messages;
        self.progress
            .events
            .fetch_add(parcel.events.len() as u64, Ordering::Relaxed);
        self.pulse.wait(|| self.outlet.send(parcel))?;
        self.progress
            .published_end
            .store(self.messages, Ordering::SeqCst);
        Ok(())
    }

    /// Commits what is applied.
    fn commit(&mut self, reader: &Reader, mode: CommitMode) {
        if matches!(mode, CommitMode::Async) && self.committed.elapsed() < COMMIT_INTERVAL {
            return;
        }
        self.committed = Instant::now();
        let sinks = self.progress.sinks();
        let applied = sinks.get(&self.sink).map(|sink| &sink.positions);
        let mut list = TopicPartitionList::new();
        for stream in &mut self.streams {
            let applied = applied
                .and_then(|applied| applied.get(&stream.name))
                .copied();
            let mut last = None;
            while let Some(&(position, offset)) = stream.passed.front()
                && position <= applied
            {
                last = Some(offset);
                stream.passed.pop_front();
            }
            let Some(offset) = last else {
                continue;
            };
            let mut element = list.add_partition(&stream.topic, PARTITION);
            if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                tracing::debug!("committing offsets: {error}");
            }
        }
        // They serve only to find the place again faster: the next commit has them too.
        if list.count() > 0
            && let Err(error) = reader.commit(&list, mode)
        {
            tracing::debug!("committing offsets: {error}");
        }
    }

    /// Sees where topics end, whether everything has come, and whether brokers are silent although there is more.
    fn look(&mut self, reader: &Reader, told: &super::Told) -> Result<()> {
        let progress = &self.progress;
        // A few more, since it is also asked for some in a row without anything new.
        let wanted = progress.scans_wanted.load(Ordering::SeqCst) + 2;
        let is_wanted = wanted > 2 && progress.scans.load(Ordering::SeqCst) < wanted;
        let interval = if is_wanted {
            LOOK_INTERVAL
        } else {
            COMMIT_INTERVAL
        };
        if self.looked.elapsed() < interval {
            return Ok(());
        }
        self.looked = Instant::now();
        let mut at_end = true;
        for stream in &mut self.streams {
            match reader.fetch_watermarks(&stream.topic, PARTITION, ANSWER_WITHIN / 2) {
                Ok((low, high)) => {
                    stream.high = high;
                    if stream.next > high || stream.next < low {
                        anyhow::bail!(
                            "the topic {} goes from offset {low} to {high}, and {} was to be read next",
                            stream.topic,
                            stream.next
                        );
                    }
                    at_end &= stream.next == high;
                    if stream.next == high {
                        self.heard = Instant::now();
                    }
                }
                Err(error) => {
                    let reason = told.take().unwrap_or_default();
                    return Err(error).with_context(|| {
                        format!("asking where the topic {} ends: {reason}", stream.topic)
                    });
                }
            }
        }
        if at_end {
            self.progress.drained_passes.fetch_add(1, Ordering::SeqCst);
            self.progress.scans.fetch_add(1, Ordering::SeqCst);
        } else if self.heard.elapsed() > SILENCE_MAX * 2 {
            anyhow::bail!("there is more to read, but nothing comes");
        }
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let mut obstacles: Vec<String> = self.failed.iter().cloned().collect();
        let mut problems = Vec::new();
        if self.failed.is_none() && self.route > 0 {
            problems.push(format!(
                "Kafka: the route {} isn't used since it doesn't answer; {} is",
                self.kafka.routes[0].name, self.kafka.routes[self.route].name
            ));
        }
        for stream in &self.streams {
            obstacles.extend(stream.held.clone());
            if stream.gap && !stream.follows {
                obstacles.push(format!(
                    "the topic {} doesn't have everything between what sink {} has ({}) and its own beginning (offset {}); nothing is applied until every file is sent anew: `counterfoil capture --read-again` on the site that it is of does",
                    stream.topic,
                    self.sink,
                    stream.taken.map_or_else(|| "nothing".to_owned(), |taken| taken.to_string()),
                    stream.next,
                ));
            }
        }
        let subject = format!("kafka {}", self.sink);
        self.progress.set_obstacles(&subject, &obstacles);
        self.progress.set_problems(&subject, &problems);
    }
}

impl Stream {
    fn assemble(
        &mut self,
        at: usize,
        chunk: Option<&str>,
        value: &[u8],
    ) -> Result<Option<Assembled>, String> {
        let Some(bytes) = self.parts.take(chunk, value)? else {
            return Ok(None);
        };
        // Compaction's tombstones say nothing.
        if bytes.is_empty() {
            return Ok(None);
        }
        let received = self
            .decoder
            .decode(&bytes, u16::try_from(at).unwrap_or(u16::MAX))
            .map_err(|error| error.to_string())?;
        received.check_stream(&self.name)?;
        self.assembly.take(received).map(Some)
    }
}

/// The offset that the group committed of a topic.
fn committed(reader: &Reader, topic: &str) -> Result<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, PARTITION);
    let committed = reader
        .committed_offsets(list, ANSWER_WITHIN)
        .with_context(|| format!("asking for committed offsets of the topic {topic}"))?;
    Ok(committed
        .elements()
        .first()
        .and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
}
