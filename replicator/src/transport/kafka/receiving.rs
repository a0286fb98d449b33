//! The applying end: the thread that makes parcels of a sink's topics.
//!
//! All processes that apply to one sink are members of one consumer group. The group gives each stream to one of them, with
//! all its partitions: to the member that gets the partition that [`owner`] names. Whoever gets a stream asks the sink where
//! it stands, and goes on there; whoever loses one lets go of what isn't applied. Should a member not notice in time that
//! it lost a stream, the sink refuses what it still brings, since it doesn't follow what is there.
//!
//! The position that the sink has stored outranks everything. Offsets are committed after rows, so that ordinary tools see
//! how far apply is. A start goes on at the committed offsets if the sink has what is before them, and otherwise reads
//! partitions from their beginning, where what the sink has is skipped.
//!
//! A topic may have lost its beginning to retention. Then what comes doesn't follow what the sink has, and nothing of it is
//! applied until a session begins that reads every file again. The status says so meanwhile, and what to do.

use super::message::{Parts, header};
use super::requests::Asking;
use super::topics::{self, Marks, unusable};
use super::{ANSWER_WITHIN, BetterRoute, Departing, Move, Reader, member, reader, reason, spread};
use crate::config::{Config, Kafka};
use crate::event::{Ask, Event, Parcel};
use crate::progress::{Progress, Pulse};
use crate::transport::merge::{Gap, Merge, Next};
use crate::transport::wire::Decoder;
use crate::transport::{Closed, Outlet, Refusals};
use anyhow::{Context as _, Result};
use counterfoil_proto::Position;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

const PARCEL_EVENTS: usize = 2048;
const PARCEL_BYTES: usize = 2 << 20;
const POLL: Duration = Duration::from_millis(20);
/// How often offsets are committed, and topics asked where they end.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are asked while somebody waits for all to be applied.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long brokers may be silent, while there is more, before another route is tried.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long the sink may be busy before reading pauses; brokers think a member dead that doesn't read for minutes.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How long a stream that goes to another process may wait for what is being applied of it.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);
/// How long an event may wait for one before it on another partition, though nothing comes, before that is told.
const MISSING_MAX: Duration = Duration::from_secs(3);
/// Bytes that may wait on all partitions of a stream for what comes before them.
const AHEAD_BYTES_MAX: usize = 32 << 20;
/// Bytes that a message takes in memory, beside its value.
const MESSAGE_BYTES: usize = 300;
/// So many refusals of a sink within a short time are told.
const REFUSALS_MAX: usize = 3;
const REFUSALS_WITHIN: Duration = Duration::from_secs(60);

/// A topic as this end sees it.
struct Stream {
    name: String,
    topic: String,
    whose: Whose,
    merge: Merge<Event>,
    decoder: Decoder,
    partitions: Vec<Partition>,
    /// Since when what came waits for what didn't, and what that is.
    missing: Option<(Gap, Instant)>,
    /// The topic has lost its beginning, and nothing has come yet that tells whether the sink has that.
    unsure: bool,
    /// That, and there is nothing more to come.
    read_in_vain: bool,
    /// Why it doesn't go on.
    held: Option<String>,
    /// When the sink refused something of it.
    refusals: VecDeque<Instant>,
}

/// Who applies a stream.
enum Whose {
    /// Another process, or nobody.
    Others,
    /// This one, once the sink has said what it has of it.
    Claimed(Receiver<Option<Position>>),
    /// This one.
    Ours,
}

#[derive(Default)]
struct Partition {
    parts: Parts,
    /// Offset of the first part of an event that isn't whole.
    open_from: Option<i64>,
    /// First offset that wasn't looked at.
    next: i64,
    /// Offset of the end, when it was asked last.
    high: i64,
    /// Offset up to which it was noted in `passed`.
    noted: i64,
    /// Offsets to be committed when a position is applied.
    passed: VecDeque<(Option<Position>, i64)>,
    /// It has run ahead of others, so nothing is fetched of it.
    paused: bool,
}

/// The thread's state.
pub struct Receiving {
    kafka: Kafka,
    group: String,
    instance: String,
    sink: String,
    outlet: Outlet,
    refusals: Refusals,
    progress: Arc<Progress>,
    pulse: Arc<Pulse>,
    streams: Vec<Stream>,
    route: usize,
    /// What is to be handed over; the last one is being gathered.
    parcels: VecDeque<Parcel>,
    /// Bytes of the messages that came since something was handed over.
    gathered_bytes: usize,
    /// Since when the sink has no room for more.
    busy: Option<Instant>,
    /// Nothing is fetched, since the sink has no room.
    paused: bool,
    /// Messages looked at.
    messages: u64,
    /// The group has said what is whose.
    joined: bool,
    committed: Instant,
    looked: Instant,
    look_took: Duration,
    heard: Instant,
    failed: Option<String>,
    asking: Asking,
}

/// Why a session ended.
enum Go {
    /// Nobody takes anything any more.
    Stop,
    /// Another route is to be used.
    OtherRoute,
}

/// The partition of a topic whose member of the group applies all of it. They differ from topic to topic, so that streams
/// are spread over members.
pub fn owner(topic: &str, partitions: usize) -> i32 {
    spread::of_key(
        topic.as_bytes(),
        i32::try_from(partitions).unwrap_or(i32::MAX),
    )
}

impl Receiving {
    /// Sets the thread up.
    pub fn new(
        config: &Config,
        kafka: Kafka,
        sink: &str,
        outlet: Outlet,
        refusals: Refusals,
        progress: Arc<Progress>,
    ) -> Receiving {
        let streams = config
            .applied_streams()
            .into_iter()
            .map(|name| Stream {
                topic: kafka.topic(&name),
                name,
                whose: Whose::Others,
                merge: Merge::after(None, 0, &[]),
                decoder: Decoder::default(),
                partitions: Vec::new(),
                missing: None,
                unsure: false,
                read_in_vain: false,
                held: None,
                refusals: VecDeque::new(),
            })
            .collect();
        Receiving {
            group: format!("{}.{}.{sink}", kafka.topic_prefix, config.site.name),
            instance: kafka.instance.clone().unwrap_or_else(|| instance(config)),
            asking: Asking::new(&kafka, &config.site.name, sink),
            kafka,
            sink: sink.to_owned(),
            outlet,
            refusals,
            pulse: progress.pulse(&format!("receive {sink}")),
            progress,
            streams,
            route: 0,
            parcels: VecDeque::new(),
            gathered_bytes: 0,
            busy: None,
            paused: false,
            messages: 0,
            joined: false,
            committed: Instant::now(),
            looked: Instant::now(),
            look_took: Duration::ZERO,
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

    /// Takes part in the group on one route until everything is to stop, or it fails.
    fn session(&mut self) -> Result<Go> {
        let route = self.kafka.routes[self.route].clone();
        let (asking, told) = reader(&self.kafka, &route, &self.group)?;
        let asking = Departing::new(asking);
        let pulse = Arc::clone(&self.pulse);
        let because = |error: anyhow::Error| match reason(&asking, &told) {
            Some(reason) => error.context(reason),
            None => error,
        };
        let counts = pulse.wait(|| self.find(&asking)).map_err(because)?;
        let (member, told) = member(
            &self.kafka,
            &route,
            &self.group,
            &self.instance,
            counts.iter().sum(),
        )?;
        let member = Departing::new(member);
        let topics: Vec<&str> = self
            .streams
            .iter()
            .map(|stream| stream.topic.as_str())
            .collect();
        member
            .subscribe(&topics)
            .context("joining the consumer group")?;
        self.joined = false;
        self.paused = false;
        self.heard = Instant::now();
        self.failed = None;
        self.tell();
        let result = self.take_part(&asking, &member, &told);
        if result.is_ok() {
            self.commit(&member, CommitMode::Sync);
        }
        self.drop_streams();
        // From here on the library leaves by itself.
        told.stop_deferring();
        if let Err(error) = member.unassign() {
            tracing::debug!("leaving the consumer group: {error}");
        }
        match told.take() {
            Some(reason) => result.context(reason),
            None => result,
        }
    }

    fn take_part(&mut self, asking: &Reader, member: &Reader, told: &super::Told) -> Result<Go> {
        let route = self.kafka.routes[self.route].name.clone();
        self.progress
            .update_sink(&self.sink, |sink| sink.route = Some(route));
        let better = BetterRoute::look_for(&self.kafka, self.route, &self.group);
        let mut is_due = true;
        while !self.progress.is_stopping() {
            self.pulse.beat();
            if is_due && !self.send() {
                return Ok(Go::Stop);
            }
            if let Some(busy) = self.busy
                && busy.elapsed() < BUSY_MAX
            {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            // It may take hours until the sink takes more. The group is to hear of us meanwhile.
            self.pause(member, self.busy.is_some())?;
            // What was gathered doesn't wait: only what is here already goes with it.
            let wait = if is_due { POLL } else { Duration::ZERO };
            is_due = true;
            match member.poll(wait) {
                Some(Ok(message)) => {
                    self.heard = Instant::now();
                    self.take(&message);
                    self.limit(&message, member)?;
                    let full = |parcel: &Parcel| parcel.events.len() >= PARCEL_EVENTS;
                    if self.committed.elapsed() < COMMIT_INTERVAL
                        && self.gathered_bytes < PARCEL_BYTES
                        && !self.parcels.back().is_some_and(full)
                    {
                        is_due = false;
                        continue;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => self.heard = Instant::now(),
                Some(Err(error)) => self.mend(error)?,
                None => {}
            }
            for step in told.moves() {
                match step {
                    Move::Take(list) => self.claim(asking, member, &list)?,
                    Move::Leave => {
                        self.forget();
                        self.commit(member, CommitMode::Async);
                        self.drop_streams();
                        member.unassign().context("letting go of partitions")?;
                    }
                }
                self.tell();
            }
            if let Some(list) = self.refused() {
                self.drop_streams();
                self.claim(asking, member, &list)?;
                self.tell();
            }
            self.take_over(asking, member)?;
            self.commit(member, CommitMode::Async);
            self.look(member, told)?;
            if better.as_ref().is_some_and(BetterRoute::answers) {
                tracing::info!("a preferred route to Kafka is back");
                self.route = 0;
                return Ok(Go::OtherRoute);
            }
        }
        Ok(Go::Stop)
    }

    /// Errors that the library mends by itself show as silence if it doesn't; after others a new session begins.
    fn mend(&self, error: KafkaError) -> Result<()> {
        tracing::debug!("reading from Kafka: {error}");
        match error {
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset,
            ) => Err(error).context("what was to be read next is gone"),
            KafkaError::MessageConsumptionFatal(_) => Err(error).context(
                "brokers don't take this process as a member of its group any more; if another one has the same `instance` in [kafka], give them different ones",
            ),
            _ => Ok(()),
        }
    }

    /// How many partitions each topic has.
    fn find(&self, reader: &Reader) -> Result<Vec<usize>> {
        self.streams
            .iter()
            .map(|Stream { topic, .. }| {
                topics::partitions(reader, topic)?.with_context(|| {
                    format!(
                        "there is no topic {topic} yet; `counterfoil capture` on the site that it is of makes it"
                    )
                })
            })
            .collect()
    }

    /// Claims the streams that a list of partitions stands for. They are taken over once the sink has said what it has.
    fn claim(&mut self, asking: &Reader, member: &Reader, list: &[(String, i32)]) -> Result<()> {
        self.joined = true;
        let counts = self.find(asking)?;
        for (at, count) in counts.into_iter().enumerate() {
            let stream = &self.streams[at];
            let owner = owner(&stream.topic, count);
            let is_ours = list
                .iter()
                .any(|(topic, partition)| *topic == stream.topic && *partition == owner);
            if is_ours {
                let answer = self.ask(at);
                self.streams[at].whose = Whose::Claimed(answer);
            }
        }
        member
            .assign(&TopicPartitionList::new())
            .context("taking partitions")
    }

    /// Asks the applier to forget what isn't applied of a stream, and to say what the sink has of it.
    fn ask(&mut self, at: usize) -> Receiver<Option<Position>> {
        let (answer, answers) = channel();
        self.parcels.push_back(Parcel {
            asks: vec![Ask {
                stream: u16::try_from(at).unwrap_or(u16::MAX),
                answer,
            }],
            ..Parcel::default()
        });
        answers
    }

    /// Begins with what was claimed, once the sink has answered for all of it.
    fn take_over(&mut self, asking: &Reader, member: &Reader) -> Result<()> {
        let mut stored = Vec::new();
        for (at, stream) in self.streams.iter().enumerate() {
            if let Whose::Claimed(answer) = &stream.whose {
                match answer.try_recv() {
                    Ok(position) => stored.push((at, position)),
                    // The applier ends, and so will everything.
                    Err(TryRecvError::Disconnected) => return Ok(()),
                    Err(TryRecvError::Empty) if stored.is_empty() => return Ok(()),
                    Err(TryRecvError::Empty) => {
                        let answer = answer.recv_timeout(ANSWER_WITHIN);
                        let position = answer.context("asking the sink what it has")?;
                        stored.push((at, position));
                    }
                }
            }
        }
        if stored.is_empty() {
            return Ok(());
        }
        let counts = self.find(asking)?;
        for (at, position) in stored {
            self.begin(asking, at, counts[at], position)?;
        }
        let mut assignment = TopicPartitionList::new();
        for stream in self.streams.iter().filter(|stream| stream.is_ours()) {
            let numbers = topics::numbers(stream.partitions.len());
            for (partition, number) in stream.partitions.iter().zip(numbers) {
                assignment
                    .add_partition_offset(&stream.topic, number, Offset::Offset(partition.next))
                    .context("naming partitions")?;
            }
        }
        member.assign(&assignment).context("taking partitions")?;
        self.heard = Instant::now();
        self.tell();
        Ok(())
    }

    /// Finds where a topic is to be read from.
    fn begin(
        &mut self,
        asking: &Reader,
        at: usize,
        count: usize,
        stored: Option<Position>,
    ) -> Result<()> {
        let stream = &mut self.streams[at];
        let topic = stream.topic.as_str();
        let marks = topics::marks(asking, topic, count)?;
        let committed = committed(asking, topic, count)?;
        // Only what has something before it tells whether the sink has that.
        let looked_at: Vec<(i64, Marks)> = marks
            .iter()
            .zip(&committed)
            .map(|(&marks, committed)| {
                let within = committed.filter(|offset| (marks.low..=marks.high).contains(offset));
                (within.unwrap_or(marks.low), marks)
            })
            .collect();
        let last = topics::last_before(asking, topic, &stream.name, &looked_at)?;
        let is_usable = |last: &(u64, Position)| stored.is_some_and(|stored| last.1 <= stored);
        let session = last.iter().flatten().filter(|last| is_usable(last));
        let session = session.map(|&(session, _)| session).max().unwrap_or(0);
        let from: Vec<i64> = looked_at
            .iter()
            .zip(&last)
            .map(|(&(offset, marks), last)| match last {
                Some(last) if is_usable(last) => offset,
                _ => marks.low,
            })
            .collect();
        tracing::info!("reading the topic {topic} from {from:?} on, after {stored:?}");
        stream.merge = Merge::after(stored, session, &from);
        stream.partitions = from
            .iter()
            .zip(&marks)
            .map(|(&next, marks)| Partition {
                next,
                high: marks.high,
                noted: next,
                ..Partition::default()
            })
            .collect();
        let is_known = |(marks, last): (&Marks, &Option<(u64, Position)>)| {
            marks.low == 0 || last.as_ref().is_some_and(is_usable)
        };
        stream.unsure = !marks.iter().zip(&last).all(is_known);
        stream.read_in_vain = false;
        stream.missing = None;
        stream.held = None;
        stream.whose = Whose::Ours;
        Ok(())
    }

    /// Has what isn't applied of our streams forgotten, so that another process can go on with them.
    fn forget(&mut self) {
        let ours: Vec<usize> = (0..self.streams.len())
            .filter(|&at| self.streams[at].is_ours())
            .collect();
        self.parcels.clear();
        let answers: Vec<_> = ours.into_iter().map(|at| self.ask(at)).collect();
        let until = Instant::now() + LET_GO_WITHIN;
        for answer in answers {
            // Should the sink not answer in time, it will refuse what doesn't follow what others bring.
            while matches!(answer.try_recv(), Err(TryRecvError::Empty))
                && Instant::now() < until
                && !self.progress.is_stopping()
                && self.send()
            {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// None of the streams is ours any more.
    fn drop_streams(&mut self) {
        self.parcels.clear();
        for stream in &mut self.streams {
            stream.whose = Whose::Others;
            stream.partitions.clear();
            stream.missing = None;
            stream.unsure = false;
            stream.read_in_vain = false;
            stream.held = None;
        }
    }

    /// What is to be begun with anew, since the sink has refused something: everything.
    fn refused(&mut self) -> Option<Vec<(String, i32)>> {
        let mut any = false;
        while let Some(at) = self.refusals.take() {
            if let Some(stream) = self.streams.get_mut(usize::from(at)) {
                any |= stream.is_ours();
                stream.refusals.push_back(Instant::now());
                if stream.refusals.len() > REFUSALS_MAX {
                    stream.refusals.pop_front();
                }
            }
        }
        any.then(|| {
            let owned = self
                .streams
                .iter()
                .filter(|stream| !matches!(stream.whose, Whose::Others));
            owned
                .map(|stream| {
                    (
                        stream.topic.clone(),
                        owner(&stream.topic, stream.partitions.len()),
                    )
                })
                .collect()
        })
    }

    /// Takes a message.
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let of_topic = |stream: &Stream| stream.is_ours() && stream.topic == message.topic();
        let Some(at) = self.streams.iter().position(of_topic) else {
            return;
        };
        let stream = &mut self.streams[at];
        let number = message.partition();
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let offset = message.offset();
        let Some(partition) = stream.partitions.get_mut(index) else {
            return;
        };
        if stream.held.is_some() || offset < partition.next {
            return;
        }
        partition.next = offset + 1;
        // The chain of positions tells from here on.
        stream.unsure = false;
        self.messages += 1;
        let chunk = header(message.headers(), "chunk");
        let value = message.payload().unwrap_or_default();
        self.gathered_bytes += value.len();
        let result = stream
            .put(at, index, offset, chunk, value)
            .and_then(|()| stream.merge_into(&mut self.parcels, at));
        if let Err(what) = result {
            stream.held = Some(format!(
                "{}; nothing after it is applied: use a version that knows it, or have the topic made anew",
                unusable(&stream.topic, number, offset, &what)
            ));
            self.tell();
        }
    }

    /// Hands over what was gathered. False when nobody takes anything any more.
    fn send(&mut self) -> bool {
        let ours = self.streams.iter().filter(|stream| stream.is_ours());
        let behind: i64 = ours
            .flat_map(|stream| &stream.partitions)
            .map(|partition| (partition.high - partition.next).max(0))
            .sum();
        self.progress
            .journal_end
            .store(self.messages + behind.cast_unsigned(), Ordering::SeqCst);
        if self.parcels.is_empty() {
            if self.progress.published_end.load(Ordering::SeqCst) == self.messages {
                return true;
            }
            self.parcels.push_back(Parcel::default());
        }
        while let Some(mut parcel) = self.parcels.pop_front() {
            let events = parcel.events.len() as u64;
            let is_last = self.parcels.is_empty();
            if is_last {
                parcel.end = self.messages;
            }
            match self.outlet.try_send(parcel) {
                Ok(None) => {
                    self.busy = None;
                    self.gathered_bytes = 0;
                }
                Ok(Some(back)) => {
                    self.parcels.push_front(back);
                    self.busy.get_or_insert_with(Instant::now);
                    return true;
                }
                Err(Closed) => return false,
            }
            self.progress.events.fetch_add(events, Ordering::Relaxed);
            if is_last {
                self.progress
                    .published_end
                    .store(self.messages, Ordering::SeqCst);
            }
        }
        true
    }

    /// Fetches nothing while the sink has no room.
    fn pause(&mut self, member: &Reader, paused: bool) -> Result<()> {
        if self.paused == paused {
            return Ok(());
        }
        self.paused = paused;
        let list = member.assignment().context("pausing")?;
        if paused {
            member.pause(&list).context("pausing")?;
        } else {
            member.resume(&list).context("going on")?;
            self.heard = Instant::now();
            for partition in self.streams.iter_mut().flat_map(|of| &mut of.partitions) {
                partition.paused = false;
            }
        }
        Ok(())
    }

    /// Fetches nothing of a partition that has run ahead of others, until they have caught up.
    fn limit(&mut self, message: &BorrowedMessage<'_>, member: &Reader) -> Result<()> {
        for stream in &mut self.streams {
            let count = stream.partitions.len();
            if count < 2 || stream.topic != message.topic() {
                continue;
            }
            let max = (AHEAD_BYTES_MAX / count).max(1 << 20);
            for (at, partition) in stream.partitions.iter_mut().enumerate() {
                let bytes = stream.merge.bytes(at);
                let pause = if partition.paused {
                    bytes > max / 2
                } else {
                    bytes > max
                };
                if pause == partition.paused {
                    continue;
                }
                partition.paused = pause;
                let mut list = TopicPartitionList::new();
                list.add_partition(&stream.topic, i32::try_from(at).unwrap_or(i32::MAX));
                if pause {
                    member.pause(&list).context("pausing a partition")?;
                } else {
                    member.resume(&list).context("going on with a partition")?;
                }
            }
        }
        Ok(())
    }

    /// Commits what is applied.
    fn commit(&mut self, member: &Reader, mode: CommitMode) {
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
            let numbers = topics::numbers(stream.partitions.len());
            for (partition, number) in stream.partitions.iter_mut().zip(numbers) {
                let mut last = None;
                while let Some(&(position, offset)) = partition.passed.front()
                    && position <= applied
                {
                    last = Some(offset);
                    partition.passed.pop_front();
                }
                let Some(offset) = last else {
                    continue;
                };
                let mut element = list.add_partition(&stream.topic, number);
                if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                    tracing::debug!("committing offsets: {error}");
                }
            }
        }
        // They serve only to find the place again faster: the next commit has them too.
        if list.count() > 0
            && let Err(error) = member.commit(&list, mode)
        {
            tracing::debug!("committing offsets: {error}");
        }
    }

    /// Sees where topics end, whether everything has come, and whether brokers are silent although there is more.
    fn look(&mut self, member: &Reader, told: &super::Told) -> Result<()> {
        let progress = &self.progress;
        // A few more, since it is also asked for some in a row without anything new.
        let wanted = progress.scans_wanted.load(Ordering::SeqCst) + 2;
        let is_wanted = wanted > 2 && progress.scans.load(Ordering::SeqCst) < wanted;
        let interval = if is_wanted {
            LOOK_INTERVAL
        } else {
            COMMIT_INTERVAL
        };
        // Far brokers with many partitions are asked less often, unless somebody waits for the answer.
        let times = if is_wanted { 1 } else { 10 };
        if self.looked.elapsed() < interval.max(self.look_took * times) {
            return Ok(());
        }
        let begin = Instant::now();
        if !self.joined
            && let Some(stream) = self.streams.first()
        {
            // What the group waits for may take long, and isn't silence as long as brokers answer at all.
            member
                .fetch_watermarks(&stream.topic, 0, ANSWER_WITHIN / 2)
                .with_context(|| {
                    let reason = told.take().unwrap_or_default();
                    format!("joining the consumer group {}: {reason}", self.group)
                })?;
            self.heard = Instant::now();
        }
        let mut at_end = self.joined && self.busy.is_none();
        let mut is_silent = self.busy.is_none();
        for (at, stream) in self.streams.iter_mut().enumerate() {
            match stream.whose {
                Whose::Others => continue,
                Whose::Claimed(_) => {
                    at_end = false;
                    is_silent = false;
                    continue;
                }
                Whose::Ours => {}
            }
            let numbers = topics::numbers(stream.partitions.len());
            let mut stream_at_end = true;
            for (partition, number) in stream.partitions.iter_mut().zip(numbers) {
                let (low, high) = member
                    .fetch_watermarks(&stream.topic, number, ANSWER_WITHIN / 2)
                    .with_context(|| {
                        let reason = told.take().unwrap_or_default();
                        format!("asking where the topic {} ends: {reason}", stream.topic)
                    })?;
                partition.high = high;
                if partition.next > high || partition.next < low {
                    anyhow::bail!(
                        "partition {number} of the topic {} goes from offset {low} to {high}, and {} was to be read next",
                        stream.topic,
                        partition.next
                    );
                }
                stream_at_end &= partition.next == high;
                is_silent &= !partition.paused;
            }
            if stream.held.is_some() {
                at_end = false;
                continue;
            }
            for index in 0..stream.partitions.len() {
                let partition = &stream.partitions[index];
                if partition.next == partition.high {
                    stream.merge.is_at_end(index);
                }
            }
            if let Err(what) = stream.merge_into(&mut self.parcels, at) {
                stream.held = Some(format!("the topic {}: {what}", stream.topic));
            }
            let gap = stream.merge.gap();
            let gap = gap.or_else(|| stream.merge.missing().filter(|_| stream_at_end));
            stream.missing = match (gap, stream.missing) {
                // What moves is only on its way.
                (Some(gap), Some((before, since))) if gap == before => Some((gap, since)),
                (Some(gap), _) => Some((gap, Instant::now())),
                (None, _) => None,
            };
            stream.read_in_vain = stream_at_end && stream.unsure;
            if stream_at_end && (stream.gap().is_some() || stream.read_in_vain) {
                let numbers = topics::numbers(stream.partitions.len());
                let looked_to = numbers.zip(stream.partitions.iter().map(|it| it.high));
                let route = &self.kafka.routes[self.route];
                self.asking.ask(route, &stream.name, looked_to.collect());
                // Who waits for everything to be applied waits for that as well.
                at_end = false;
            }
            at_end &= stream_at_end;
            is_silent &= !stream_at_end;
        }
        self.looked = Instant::now();
        self.look_took = begin.elapsed();
        if at_end {
            self.heard = Instant::now();
            self.progress.drained_passes.fetch_add(1, Ordering::SeqCst);
            self.progress.scans.fetch_add(1, Ordering::SeqCst);
        } else if is_silent && self.heard.elapsed() > SILENCE_MAX * 2 {
            anyhow::bail!("there is more to read, but nothing comes");
        }
        self.tell();
        Ok(())
    }

    fn asked(&self) -> &'static str {
        if self.kafka.read_again_on_request {
            ", which was asked for"
        } else {
            ""
        }
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
            if stream.read_in_vain {
                obstacles.push(format!(
                    "the topic {} has lost its beginning, and nothing on it tells whether sink {} has what was there; nothing is applied until every file is sent anew{}: `counterfoil capture --read-again` on the site that it is of does",
                    stream.topic,
                    self.sink,
                    self.asked(),
                ));
            }
            if let Some(gap) = stream.gap() {
                obstacles.push(format!(
                    "the topic {} doesn't have everything between what sink {} has ({}) and what comes next (after {}); nothing more is applied until every file is sent anew{}: `counterfoil capture --read-again` on the site that it is of does; only if capture was killed and doesn't run, starting it will do",
                    stream.topic,
                    self.sink,
                    gap.taken.map_or_else(|| "nothing".to_owned(), |taken| taken.to_string()),
                    gap.needed,
                    self.asked(),
                ));
            }
            if stream.refusals.len() >= REFUSALS_MAX
                && let Some(first) = stream.refusals.front()
                && first.elapsed() < REFUSALS_WITHIN
            {
                problems.push(format!(
                    "another process applies the stream {} to sink {} too, again and again; those that do have to have the same site name, sink name and topic_prefix, so that they are one consumer group",
                    stream.name, self.sink
                ));
            }
        }
        let subject = format!("kafka {}", self.sink);
        self.progress.set_obstacles(&subject, &obstacles);
        self.progress.set_problems(&subject, &problems);
        let ours = self.streams.iter().filter(|stream| stream.is_ours());
        let ours: Vec<String> = ours.map(|stream| stream.name.clone()).collect();
        let streams = self.joined.then_some(ours);
        self.progress
            .update_sink(&self.sink, |sink| sink.streams = streams);
    }
}

impl Stream {
    fn is_ours(&self) -> bool {
        matches!(self.whose, Whose::Ours)
    }

    /// What is missing and won't come any more.
    fn gap(&self) -> Option<Gap> {
        let (gap, since) = self.missing?;
        // On a single partition there is nothing to wait for.
        (self.partitions.len() == 1 || since.elapsed() > MISSING_MAX).then_some(gap)
    }

    /// Takes in what a message has.
    fn put(
        &mut self,
        at: usize,
        index: usize,
        offset: i64,
        chunk: Option<&str>,
        value: &[u8],
    ) -> Result<(), String> {
        let Some(partition) = self.partitions.get_mut(index) else {
            return Ok(());
        };
        let bytes = partition.parts.take(chunk, value)?;
        // Compaction's tombstones say nothing.
        let received = match bytes.filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => {
                let stream = u16::try_from(at).unwrap_or(u16::MAX);
                let received = self
                    .decoder
                    .decode(&bytes, stream)
                    .map_err(|error| error.to_string())?;
                received.check_stream(&self.name)?;
                // What a replaced publisher has begun to send is void.
                partition.parts.forget_before(received.session);
                Some((received, bytes.len()))
            }
            None => None,
        };
        let after = if partition.parts.is_empty() {
            partition.open_from = None;
            offset + 1
        } else {
            *partition.open_from.get_or_insert(offset)
        };
        match received {
            Some((received, bytes)) => {
                let bytes = bytes + MESSAGE_BYTES;
                self.merge.put(index, received.into(), after, bytes);
            }
            None => self.merge.skip(index, after),
        }
        Ok(())
    }

    /// Takes out what follows, and notes up to where nothing is needed any more.
    fn merge_into(&mut self, parcels: &mut VecDeque<Parcel>, at: usize) -> Result<(), String> {
        while let Some(next) = self.merge.next()? {
            match next {
                Next::Unit { mut events, .. } => match parcels.back_mut() {
                    Some(parcel) if parcel.asks.is_empty() && parcel.begins.is_empty() => {
                        parcel.events.append(&mut events);
                    }
                    _ => parcels.push_back(Parcel {
                        events,
                        ..Parcel::default()
                    }),
                },
                Next::Anew(position) => parcels.push_back(Parcel {
                    begins: vec![(u16::try_from(at).unwrap_or(u16::MAX), position)],
                    ..Parcel::default()
                }),
            }
        }
        if !self.merge.is_between_units() || self.merge.gap().is_some() {
            return Ok(());
        }
        let whole = self.merge.whole();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let done = self.merge.done(index);
            if done <= partition.noted {
                continue;
            }
            partition.noted = done;
            match partition.passed.back_mut() {
                Some(last) if last.0 == whole => last.1 = done,
                _ => partition.passed.push_back((whole, done)),
            }
        }
        Ok(())
    }
}

/// The name by which brokers know this process again: that of its host and state directory, which no other one uses at the
/// same time.
fn instance(config: &Config) -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let state = config.site.state.as_os_str().as_encoded_bytes();
    let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let host: String = host.chars().take(100).map(fit).collect();
    format!("{host}-{:08x}", spread::murmur2(state))
}

/// The offsets that the group committed of a topic.
fn committed(reader: &Reader, topic: &str, count: usize) -> Result<Vec<Option<i64>>> {
    let mut list = TopicPartitionList::new();
    for number in topics::numbers(count) {
        list.add_partition(topic, number);
    }
    let committed = reader
        .committed_offsets(list, ANSWER_WITHIN)
        .with_context(|| format!("asking for committed offsets of the topic {topic}"))?;
    let offset = |number| {
        let elements = committed.elements_for_topic(topic);
        let element = elements
            .iter()
            .find(|element| element.partition() == number)?;
        match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    };
    Ok(topics::numbers(count).map(offset).collect())
}
