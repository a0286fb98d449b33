//! What the main thread shows, and what is to be thought of it.
//!
//! *Healthy* says whether starting the process again would help: a thread is gone or hangs. *Ready* says whether data
//! flows: something keeps it from flowing, or it has waited for too long. A target that is away makes a process not
//! ready, and leaves it healthy.

use crate::config::Config;
use crate::replicator::{Role, Threads};
use crate::status::Status;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A view that is older is of a main thread that hangs.
const VIEW_MAX: Duration = Duration::from_secs(10);
/// A thread that should go on and hasn't for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What doesn't change while the process runs.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the site.
    pub site: String,
    /// Which halves the process has: `run`, `capture` or `apply`.
    pub role: &'static str,
    /// When it started, nanoseconds since 1970.
    pub started_ns: i64,
    /// How long what was captured may wait.
    pub pending_max: Duration,
    /// Limit of the journal in bytes.
    pub journal_bytes_max: u64,
    /// Limit of all lanes together in bytes.
    pub lanes_bytes_max: u64,
    /// Names of the routes to Kafka, the preferred first; none without Kafka.
    pub routes: Vec<String>,
}

impl About {
    /// Of a process with this configuration.
    pub fn new(config: &Config, role: Role, started_ns: i64) -> About {
        let routes = config.kafka.iter().flat_map(|kafka| &kafka.routes);
        About {
            site: config.site.name.clone(),
            role: match role {
                Role::Both => "run",
                Role::Capture => "capture",
                Role::Apply => "apply",
            },
            started_ns,
            pending_max: config.metrics.pending_max,
            journal_bytes_max: config.journal.bytes_max,
            lanes_bytes_max: config.site.lanes_bytes_max,
            routes: routes.map(|route| route.name.clone()).collect(),
        }
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It opens what it works with.
    #[default]
    Starting,
    /// It works.
    Running,
    /// It has been asked to stop, or has to.
    Stopping,
}

/// What there is to say at a moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Where the process is in its life.
    pub phase: Phase,
    /// When this was.
    pub shown: Instant,
    /// What the capturing half says, if there is one.
    pub captured: Option<Status>,
    /// What the applying halves say, if there are some and they aren't part of the capturing one.
    pub applied: Option<Status>,
    /// The threads.
    pub threads: Threads,
}

impl Default for View {
    fn default() -> View {
        View {
            phase: Phase::default(),
            shown: Instant::now(),
            captured: None,
            applied: None,
            threads: Threads::default(),
        }
    }
}

/// Why a process isn't well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// One word for it.
    pub reason: &'static str,
    /// The sink or thread that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The same in words.
    pub message: String,
}

impl Reason {
    fn new(reason: &'static str, about: Option<&str>, message: String) -> Reason {
        Reason {
            reason,
            about: about.map(str::to_owned),
            message,
        }
    }
}

/// Whether starting again would help: the body of `/healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// All threads go on.
    pub healthy: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Whether data flows: the body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// It does.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
    /// Everything that is wrong, as `counterfoil status` has it.
    pub problems: Vec<String>,
}

impl View {
    fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.captured.iter().chain(&self.applied)
    }

    /// Whether starting again would help.
    pub fn health(&self) -> Health {
        let mut reasons = Vec::new();
        // What takes long at the start and at the end is told by neither clock.
        if self.phase == Phase::Running {
            let age = self.shown.elapsed();
            if age > VIEW_MAX {
                let message = format!("the main thread hasn't gone on for {} s", age.as_secs());
                reasons.push(Reason::new("silent", Some("main"), message));
            }
            for name in &self.threads.ended {
                let message = format!("the thread {name} has ended");
                reasons.push(Reason::new("ended", Some(name), message));
            }
            for (name, silence) in &self.threads.silences {
                if *silence > SILENCE_MAX {
                    let seconds = silence.as_secs();
                    let message = format!("the thread {name} hasn't gone on for {seconds} s");
                    reasons.push(Reason::new("silent", Some(name), message));
                }
            }
        }
        Health {
            healthy: reasons.is_empty(),
            reasons,
        }
    }

    /// Whether data flows.
    pub fn readiness(&self, about: &About) -> Readiness {
        let mut reasons = match self.phase {
            Phase::Starting => vec![Reason::new("starting", None, "it is starting".to_owned())],
            Phase::Stopping => vec![Reason::new("stopping", None, "it is stopping".to_owned())],
            Phase::Running => self.health().reasons,
        };
        for status in self.statuses() {
            for obstacle in &status.obstacles {
                reasons.push(Reason::new("held-up", None, obstacle.clone()));
            }
            for (name, sink) in &status.sinks {
                let name = Some(name.as_str());
                if let Some(error) = &sink.error {
                    reasons.push(Reason::new("refused", name, error.clone()));
                }
                if !about.routes.is_empty() && sink.route.is_none() {
                    let message = "no route to Kafka has answered yet".to_owned();
                    reasons.push(Reason::new("no-route", name, message));
                }
                let pending = Duration::from_secs_f64(sink.pending_ms.max(0.0) / 1e3);
                if pending > about.pending_max {
                    let message = format!(
                        "what was captured has been waiting for {} s (metrics.pending_ms_max: {} s)",
                        pending.as_secs(),
                        about.pending_max.as_secs()
                    );
                    reasons.push(Reason::new("pending", name, message));
                }
            }
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            problems: self.statuses().flat_map(Status::all_problems).collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::SinkStatus;

    pub(in crate::console) fn about(routes: &[&str]) -> About {
        About {
            site: "hq".to_owned(),
            role: "run",
            started_ns: 1_700_000_000_500_000_000,
            pending_max: Duration::from_secs(60),
            journal_bytes_max: 4 << 30,
            lanes_bytes_max: 2 << 30,
            routes: routes.iter().map(|&route| route.to_owned()).collect(),
        }
    }

    pub(in crate::console) fn view() -> View {
        View {
            phase: Phase::Running,
            captured: Some(Status {
                sinks: [("here".to_owned(), SinkStatus::default())].into(),
                ..Status::default()
            }),
            ..View::default()
        }
    }

    fn words(reasons: &[Reason]) -> Vec<&str> {
        reasons.iter().map(|reason| reason.reason).collect()
    }

    fn sink(view: &mut View) -> &mut SinkStatus {
        let captured = view.captured.as_mut().unwrap();
        captured.sinks.get_mut("here").unwrap()
    }

    #[test]
    fn a_process_is_ready_while_data_flows() {
        let about = about(&[]);
        assert!(view().readiness(&about).ready && view().health().healthy);
        assert!(!View::default().readiness(&about).ready);
        assert!(View::default().health().healthy, "starting takes its time");

        let mut refused = view();
        sink(&mut refused).error = Some("sink here: locked".to_owned());
        let readiness = refused.readiness(&about);
        assert_eq!(words(&readiness.reasons), ["refused"]);
        assert_eq!(readiness.reasons[0].about.as_deref(), Some("here"));
        assert_eq!(readiness.problems, ["sink here: locked"]);
        assert!(refused.health().healthy, "starting again wouldn't help");

        let mut late = view();
        sink(&mut late).pending_ms = 60_000.0;
        assert!(late.readiness(&about).ready);
        sink(&mut late).pending_ms = 61_000.0;
        assert_eq!(words(&late.readiness(&about).reasons), ["pending"]);

        let mut held = view();
        held.captured.as_mut().unwrap().obstacles = vec!["the journal is full".to_owned()];
        assert_eq!(words(&held.readiness(&about).reasons), ["held-up"]);
        // What is wrong without keeping data from flowing.
        let mut other = view();
        other.captured.as_mut().unwrap().problems = vec!["another route is used".to_owned()];
        assert!(other.readiness(&about).ready);
    }

    #[test]
    fn with_kafka_there_has_to_be_a_route() {
        let about = about(&["a", "b"]);
        let mut view = view();
        assert_eq!(words(&view.readiness(&about).reasons), ["no-route"]);
        sink(&mut view).route = Some("b".to_owned());
        assert!(view.readiness(&about).ready);
    }

    #[test]
    fn a_thread_that_is_gone_or_hangs_is_told() {
        let mut view = view();
        view.threads.ended.push("apply".to_owned());
        view.threads
            .silences
            .insert("publish".to_owned(), SILENCE_MAX + Duration::from_secs(1));
        view.threads
            .silences
            .insert("check".to_owned(), SILENCE_MAX / 2);
        let health = view.health();
        assert!(!health.healthy);
        assert_eq!(words(&health.reasons), ["ended", "silent"]);
        assert!(!view.readiness(&about(&[])).ready);
        view.phase = Phase::Stopping;
        assert!(view.health().healthy, "threads end when they are to");
    }
}
