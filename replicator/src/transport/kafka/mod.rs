//! Kafka as the transport: one topic per stream, with one partition, so one order.
//!
//! Nothing here needs transactions. Exactly once comes of three things: the producer is idempotent, so what one session
//! sends stands on the topic once and in order; a session begins by reading from the topic's end what is whole there; and
//! whoever takes events skips what isn't after the position it has ([`crate::transport::assembly`] says what is void).
//!
//! [`publishing`] is the capturing end, [`receiving`] the applying end, [`topics`] what both know of topics, [`message`]
//! how an event becomes messages. [`settings`] is what topics are set to, [`watch`] who
//! tells when that endangers anything, [`requests`] how a sink that has lost events gets all anew.

pub mod advice;
pub mod message;
pub mod publishing;
pub mod receiving;
pub mod registry;
pub mod requests;
pub mod settings;
pub mod topics;
pub mod watch;

#[cfg(test)]
mod tests;

use crate::config::{Kafka, Route};
use anyhow::{Context as _, Result};
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a route may take to answer a question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often a consumer is asked why it can't go on.
const REASON_POLLS: usize = 10;

/// How often preferred routes are tried while another one is used.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);

/// What the client library tells beside its answers: logs, and why brokers can't be reached.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Option<String>>>);

impl Told {
    /// The last reason for which a broker couldn't be reached, and what to do; it is forgotten then.
    pub fn take(&self) -> Option<String> {
        let reason = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        Some(match advice::advice(&reason) {
            Some(advice) => format!("{reason}: {advice}"),
            None => reason,
        })
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
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

impl ConsumerContext for Told {}

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

/// A consumer on a route; `group` is the consumer group in whose name it commits offsets.
///
/// # Errors
/// A setting is wrong.
pub fn reader(kafka: &Kafka, route: &Route, group: &str) -> Result<(Reader, Told)> {
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
    let told = Told::default();
    let reader = Reader::from_config_and_context(&config, told.clone())
        .context("setting up a Kafka consumer: look at [kafka] client")?;
    Ok((reader, told))
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
