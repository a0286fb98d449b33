//! Going on with a configuration that was changed.
//!
//! The files are looked at once a second; what changed is read when it has stayed the same between two looks, since whoever
//! edits may be in the middle of it. A configuration that can't be used changes nothing: what is wrong with it is told, and
//! the one before stays.

use counterfoil::config::{Config, Fingerprint};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_secs(1);

/// Looks after the configuration that is in use.
pub(super) struct Reload {
    /// As the files were when it was read, or last found to be of no use.
    known: Fingerprint,
    /// As they were at the last look, if that was something else.
    seen: Option<Fingerprint>,
    /// Files of a configuration that can't be used; mending them makes no difference to those of the one in use.
    wrong: Vec<PathBuf>,
    looked: Instant,
    /// Somebody asks for it to be read.
    asked: Arc<AtomicBool>,
    problem: Option<String>,
}

impl Reload {
    /// From now on. `asked` is set by whoever wants it read whether it has changed or not.
    pub(super) fn new(config: &Config, asked: Arc<AtomicBool>) -> Reload {
        Reload {
            known: config.sources.fingerprint(&[]),
            seen: None,
            wrong: Vec::new(),
            looked: Instant::now(),
            asked,
            problem: None,
        }
    }

    /// Why the configuration as it is now can't be used.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The configuration to go on with, if there is another one.
    pub(super) fn look(&mut self, config: &Config) -> Option<Config> {
        let is_asked = self.asked.swap(false, Ordering::SeqCst);
        if !is_asked && self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        let now = config.sources.fingerprint(&self.wrong);
        if !is_asked {
            if now == self.known {
                self.seen = None;
                return None;
            }
            if self.seen.as_ref() != Some(&now) {
                self.seen = Some(now);
                return None;
            }
        }
        self.seen = None;
        match read(config) {
            Ok(new) => {
                self.known = new.sources.fingerprint(&[]);
                self.wrong.clear();
                self.problem = None;
                tracing::info!(
                    "{} has changed: going on with it as it is now",
                    config.path.display()
                );
                Some(new)
            }
            Err((why, wrong)) => {
                self.wrong = wrong;
                self.known = config.sources.fingerprint(&self.wrong);
                self.tell(&why);
                None
            }
        }
    }

    /// Nothing could be started with the new configuration, though it can be read.
    pub(super) fn refuse(&mut self, new: &Config, error: &anyhow::Error) {
        self.known = new.sources.fingerprint(&[]);
        self.tell(&format!("{error:#}"));
    }

    fn tell(&mut self, why: &str) {
        let problem = format!(
            "the configuration has changed and can't be used, so what it was before stays: {why}"
        );
        tracing::error!("{problem}");
        self.problem = Some(problem);
    }
}

/// The configuration as it is now, or what is wrong with it, and in which files.
fn read(config: &Config) -> Result<Config, (String, Vec<PathBuf>)> {
    let new = Config::load(&config.path).map_err(|error| {
        let files = error.problems.iter().map(|problem| problem.file.clone());
        (error.to_string(), files.collect())
    })?;
    let fixed = [
        ("the site's name", new.site.name == config.site.name),
        ("the state directory", new.site.state == config.site.state),
        (
            "the directory of the lanes",
            new.site.lanes == config.site.lanes,
        ),
        ("[metrics]", new.metrics == config.metrics),
    ];
    match fixed.iter().find(|(_, is_same)| !is_same) {
        Some((what, _)) => Err((
            format!("{what} is another, which takes a new start of the process"),
            Vec::new(),
        )),
        None => Ok(new),
    }
}
