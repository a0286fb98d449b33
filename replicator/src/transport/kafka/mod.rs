//! Kafka as the transport: one topic per stream, with one partition or several.
//!
//! Nothing here needs transactions. Exactly once comes of three things: the producer is idempotent, so what one session
//! sends stands on the topic once and in order; a session begins by reading from the topic's end what is whole there; and
//! whoever takes events skips what isn't after the position it has ([`crate::transport::merge`] says what is void, and puts
//! partitions together again).
//!
//! [`publishing`] is the capturing end, [`receiving`] the applying end, [`topics`] what both know of topics, [`message`]
//! how an event becomes messages, [`spread`] which partition they go to. [`settings`] is what topics are set to, [`watch`] who
//! tells when that endangers anything, [`requests`] how a sink that has lost events gets all anew.

pub mod advice;
pub mod message;
pub mod publishing;
pub mod receiving;
pub mod registry;
pub mod requests;
pub mod settings;
pub mod spread;
pub mod topics;
pub mod watch;

#[cfg(test)]
mod tests;

use crate::config::{Kafka, Route};
use anyhow::{Context as _, Result};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a route may take to answer a question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often a consumer is asked why it can't go on.
const REASON_POLLS: usize = 10;

/// How often preferred routes are tried while another one is used.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);

/// What the client library tells beside its answers: logs, why brokers can't be reached, and what a consumer group decides.
#[derive(Clone, Debug, Default)]
pub struct Told {
    reason: Arc<Mutex<Option<String>>>,
    /// Of a member of a group: what is to be done, in order.
    moves: Arc<Mutex<VecDeque<Move>>>,
    /// Whether the member does it by itself, later.
    defers: Arc<AtomicBool>,
}

/// What a consumer group asks of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// To take these partitions, each of a topic.
    Take(Vec<(String, i32)>),
    /// To leave all it has.
    Leave,
}

impl Told {
    /// The last reason for which a broker couldn't be reached, and what to do; it is forgotten then.
    pub fn take(&self) -> Option<String> {
        let reason = lock(&self.reason).take()?;
        Some(match advice::advice(&reason) {
            Some(advice) => format!("{reason}: {advice}"),
            None => reason,
        })
    }

    /// What the group has decided since this was asked last. The library waits until a member has assigned or unassigned
    /// partitions accordingly.
    pub fn moves(&self) -> VecDeque<Move> {
        std::mem::take(&mut lock(&self.moves))
    }

    /// From here on whatever the group decides, the member leaves all it has.
    pub fn stop_deferring(&self) {
        self.defers.store(false, Ordering::SeqCst);
    }
}

/// The same of a consumer. What the library has to say it says only to who asks for messages; those that come now are
/// dropped, so this is for when there is an error and no going on.
pub fn reason(reader: &Reader, told: &Told) -> Option<String> {
    let mut last = None;
    for _ in 0..REASON_POLLS {
        let _ = reader.poll(Duration::from_millis(5));
        match told.take() {
            Some(reason) if says_why(&reason) => return Some(reason),
            other => last = other.or(last),
        }
    }
    last
}

/// That all brokers are down says less than why one is.
fn says_why(reason: &str) -> bool {
    !reason.contains("brokers are down")
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!("librdkafka: {level:?} {facility}: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
        let mut last = lock(&self.reason);
        if last.is_none() || says_why(reason) {
            *last = Some(reason.to_owned());
        }
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Err("OAuth tokens aren't supported; use SCRAM or client certificates".into())
    }
}

impl ConsumerContext for Told {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Told>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if !self.defers.load(Ordering::SeqCst) {
            if let Err(error) = consumer.unassign() {
                tracing::debug!("leaving a consumer group: {error}");
            }
            return;
        }
        let step = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let elements = list.elements();
            let named = elements
                .iter()
                .map(|element| (element.topic().to_owned(), element.partition()));
            Move::Take(named.collect())
        } else {
            Move::Leave
        };
        tracing::debug!("the consumer group: {step:?}");
        lock(&self.moves).push_back(step);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            tracing::debug!("sending to the topic {}: {error}", message.topic());
        }
    }
}

/// A consumer that reads partitions it is told to.
pub type Reader = BaseConsumer<Told>;

/// A reader that nobody waits for when it is done with. With offsets on their way to a broker that doesn't answer, closing
/// one takes half a minute, and another route is to be tried before that.
pub struct Departing(Option<Reader>);

impl Departing {
    /// For a reader.
    pub fn new(reader: Reader) -> Departing {
        Departing(Some(reader))
    }
}

impl std::ops::Deref for Departing {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        // It is taken out only by `drop`.
        self.0.as_ref().expect("there is a reader until the end")
    }
}

impl Drop for Departing {
    fn drop(&mut self) {
        let reader = self.0.take();
        let closing = std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(move || drop(reader));
        // Without a thread it has been closed here.
        if let Err(error) = closing {
            tracing::debug!("closing a Kafka consumer: {error}");
        }
    }
}

/// The settings of every client on a route.
///
/// # Errors
/// The password can't be read.
pub fn client_config(kafka: &Kafka, route: &Route) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "counterfoil")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true");
    for (key, value) in &kafka.client {
        config.set(key, value);
    }
    if let Some(path) = &kafka.password_file {
        let password = std::fs::read_to_string(path)
            .with_context(|| format!("reading the password in {}", path.display()))?;
        config.set("sasl.password", password.trim_end_matches(['\r', '\n']));
    }
    config.set("bootstrap.servers", &route.bootstrap);
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(config)
}

/// A consumer on a route that is a member of a group; `instance` is the name by which brokers know it again. So many
/// `partitions` share the memory for what was fetched.
///
/// # Errors
/// A setting is wrong.
pub fn member(
    kafka: &Kafka,
    route: &Route,
    group: &str,
    instance: &str,
    partitions: usize,
) -> Result<(Reader, Told)> {
    let mut config = reader_config(kafka, route, group)?;
    let fetched = (65536 / partitions.max(1)).clamp(1024, 16384).to_string();
    config
        .set("group.instance.id", instance)
        // Every member is given partitions of all topics in turn, which spreads topics with one partition too.
        .set("partition.assignment.strategy", "roundrobin");
    for (key, value) in [
        ("session.timeout.ms", "10000"),
        ("queued.max.messages.kbytes", fetched.as_str()),
    ] {
        if !kafka.client.contains_key(key) {
            config.set(key, value);
        }
    }
    let told = Told::default();
    told.defers.store(true, Ordering::SeqCst);
    let member = Reader::from_config_and_context(&config, told.clone())
        .context("setting up a Kafka consumer: look at [kafka] client")?;
    Ok((member, told))
}

/// A consumer on a route; `group` is the consumer group in whose name it commits offsets.
///
/// # Errors
/// A setting is wrong.
pub fn reader(kafka: &Kafka, route: &Route, group: &str) -> Result<(Reader, Told)> {
    let told = Told::default();
    let reader =
        Reader::from_config_and_context(&reader_config(kafka, route, group)?, told.clone())
            .context("setting up a Kafka consumer: look at [kafka] client")?;
    Ok((reader, told))
}

fn reader_config(kafka: &Kafka, route: &Route, group: &str) -> Result<ClientConfig> {
    let mut config = client_config(kafka, route)?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    for (key, value) in [
        ("fetch.wait.max.ms", "50"),
        ("fetch.error.backoff.ms", "100"),
        ("queued.max.messages.kbytes", "16384"),
    ] {
        if !kafka.client.contains_key(key) {
            config.set(key, value);
        }
    }
    Ok(config)
}

/// Looks in the background whether a preferred route answers again; ends when it is dropped.
pub(crate) struct BetterRoute(Arc<AtomicBool>);

impl BetterRoute {
    /// Looks for routes that are preferred to the one of this index; `None` where there are none.
    pub(crate) fn look_for(kafka: &Kafka, used: usize, group: &str) -> Option<BetterRoute> {
        if used == 0 {
            return None;
        }
        let answers = Arc::new(AtomicBool::new(false));
        // The thread holds it weakly: once nobody asks any more, it ends.
        let answered = Arc::downgrade(&answers);
        let (kafka, group) = (kafka.clone(), group.to_owned());
        let spawned = std::thread::Builder::new()
            .name("routes".to_owned())
            .spawn(move || {
                while let Some(answered) = answered.upgrade() {
                    let answers = kafka.routes[..used].iter().any(|route| {
                        reader(&kafka, route, &group)
                            .is_ok_and(|(reader, _)| topics::answers(&reader).is_ok())
                    });
                    if answers {
                        answered.store(true, Ordering::SeqCst);
                        return;
                    }
                    drop(answered);
                    std::thread::sleep(HEAL_INTERVAL);
                }
            });
        if let Err(error) = spawned {
            tracing::warn!("starting a thread that looks for better routes: {error}");
        }
        Some(BetterRoute(answers))
    }

    /// Whether one does.
    pub(crate) fn answers(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Waits for something that the client library does in its own threads.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
