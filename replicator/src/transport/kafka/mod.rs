//! Kafka as the transport: one topic per stream, with one partition, so one order.
//!
//! Nothing here needs transactions. Exactly once comes of three things: the producer is idempotent, so what one session
//! sends stands on the topic once and in order; a session begins by reading from the topic's end what is whole there; and
//! whoever takes events skips what isn't after the position it has ([`crate::transport::assembly`] says what is void).
//!
//! [`publishing`] is the capturing end, [`receiving`] the applying end, [`topics`] what both know of topics, [`message`]
//! how an event becomes messages.

pub mod message;
pub mod publishing;
pub mod receiving;
pub mod registry;
pub mod topics;

#[cfg(test)]
mod tests;

use crate::config::{Kafka, Route};
use anyhow::{Context as _, Result};
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a route may take to answer a question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often preferred routes are tried while another one is used.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);

/// What the client library tells beside its answers: logs, and why brokers can't be reached.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Option<String>>>);

impl Told {
    /// The last reason for which a broker couldn't be reached; it is forgotten then.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!("librdkafka: {level:?} {facility}: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Err("OAuth tokens aren't supported; use SCRAM or client certificates".into())
    }
}

impl ConsumerContext for Told {}

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
