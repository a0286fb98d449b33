//! What a process tells of itself over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever starts it.
//!
//! One thread of its own serves the last [`View`] that the main thread has shown, which is made of the same statuses as
//! `status.json`. So nothing here can hold up the data, and a main thread that hangs shows as a view that is old. Nothing
//! here needs a password, and nothing that is served is secret; by default only programs of this host get at it.
//!
//! An address that is taken is a problem in the status, not an end: an address that was written down is tried again, and
//! instead of the default, which nobody relies on, any free port is taken.

mod connections;
mod exposition;
mod view;

pub use view::{About, Health, Phase, Readiness, Reason, View};

use crate::config::{Config, Listen};
use crate::replicator::Role;
use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connections::Bounded;
use serde::Serialize;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long to wait before an address that is taken is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Serves until it is dropped.
pub struct Console {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    about: About,
    view: Mutex<Arc<View>>,
    place: Mutex<Place>,
}

/// Where it is served, or why it isn't.
#[derive(Clone, Debug, Default)]
struct Place {
    address: Option<SocketAddr>,
    problem: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while holding these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    /// Begins to serve, if the configuration has it so.
    pub fn start(config: &Config, role: Role, started_ns: i64) -> Console {
        let shared = Arc::new(Shared {
            about: About::new(config, role, started_ns),
            view: Mutex::default(),
            place: Mutex::default(),
        });
        let mut console = Console {
            shared,
            stop: None,
            thread: None,
        };
        if !config.metrics.enabled {
            return console;
        }
        let listen = match role {
            Role::Apply => config.metrics.listen_apply,
            Role::Both | Role::Capture => config.metrics.listen,
        };
        let listener = console.shared.bind(listen);
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&console.shared);
        let serving = std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                crate::replicator::give_way("console");
                if let Err(error) = shared.serve(listen, listener, stopped) {
                    shared.complain(format!("serving metrics: {error:#}"));
                }
            });
        match serving {
            Ok(thread) => {
                console.stop = Some(stop);
                console.thread = Some(thread);
            }
            Err(error) => console.shared.complain(format!("serving metrics: {error}")),
        }
        console
    }

    /// What is served from now on.
    pub fn show(&self, view: View) {
        *lock(&self.shared.view) = Arc::new(view);
    }

    /// The last view, as of another phase.
    pub fn show_phase(&self, phase: Phase) {
        let last = Arc::clone(&lock(&self.shared.view));
        self.show(View {
            phase,
            ..View::clone(&last)
        });
    }

    /// Where it is served.
    pub fn address(&self) -> Option<SocketAddr> {
        lock(&self.shared.place).address
    }

    /// Why it isn't.
    pub fn problem(&self) -> Option<String> {
        lock(&self.shared.place).problem.clone()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that serves metrics panicked");
        }
    }
}

impl Shared {
    fn complain(&self, problem: String) {
        let mut place = lock(&self.place);
        if place.problem.as_ref() != Some(&problem) {
            tracing::warn!("{problem}");
        }
        *place = Place {
            address: None,
            problem: Some(problem),
        };
    }

    /// Takes the address. Instead of one that nobody asked for, any free port will do.
    fn bind(&self, listen: Listen) -> Option<TcpListener> {
        let mut bound = TcpListener::bind(listen.address);
        if bound.is_err() && !listen.is_asked {
            bound = TcpListener::bind((listen.address.ip(), 0));
        }
        let bound = bound.and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        match bound {
            Ok((listener, address)) => {
                tracing::info!("metrics are served on http://{address}/metrics");
                *lock(&self.place) = Place {
                    address: Some(address),
                    problem: None,
                };
                Some(listener)
            }
            Err(error) => {
                self.complain(format!(
                    "metrics can't be served on {}: {error}; it is tried again; another address can be written in [metrics]",
                    listen.address
                ));
                None
            }
        }
    }

    fn serve(
        self: &Arc<Self>,
        listen: Listen,
        mut listener: Option<TcpListener>,
        mut stopped: oneshot::Receiver<()>,
    ) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("starting its runtime")?;
        runtime.block_on(async {
            let listener = loop {
                if let Some(listener) = listener.take() {
                    break listener;
                }
                if tokio::time::timeout(RETRY_AFTER, &mut stopped)
                    .await
                    .is_ok()
                {
                    return Ok(());
                }
                listener = self.bind(listen);
            };
            let listener = tokio::net::TcpListener::from_std(listener).context("listening")?;
            let service = axum::serve(Bounded::new(listener), self.router());
            let service = tokio::spawn(service.into_future());
            // An error means only that nobody is left to stop it.
            let _ = stopped.await;
            service.abort();
            Ok(())
        })
    }

    fn router(self: &Arc<Self>) -> Router {
        let shared = Arc::clone(self);
        let metrics = move || async move {
            let view = Arc::clone(&lock(&shared.view));
            exposed(exposition::expose(view, shared.about.clone()))
        };
        let shared = Arc::clone(self);
        let healthz = move || async move {
            let health = lock(&shared.view).health();
            judged(health.healthy, &health)
        };
        let shared = Arc::clone(self);
        let readyz = move || async move {
            let view = Arc::clone(&lock(&shared.view));
            let readiness = view.readiness(&shared.about);
            judged(readiness.ready, &readiness)
        };
        Router::new()
            .route("/", get(|| async { "/metrics\n/healthz\n/readyz\n" }))
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
    }
}

fn exposed(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn judged(is_well: bool, judgement: &impl Serialize) -> Response {
    let status = if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    match serde_json::to_string_pretty(judgement) {
        Ok(text) => (
            status,
            [(header::CONTENT_TYPE, "application/json")],
            text + "\n",
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
