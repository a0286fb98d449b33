//! Going on with a configuration that was changed.
//!
//! The files are looked at once a second; what changed is read when it has stayed the same between two looks, since whoever
//! edits may be in the middle of it. A configuration that can't be used changes nothing: what is wrong with it is told, and
//! the one before stays.

use counterfoil::config::{Config, Fingerprint};
use std::path::{Path, PathBuf};
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

    /// Nothing could be started with the new configuration, though it can be read: the one before goes on.
    pub(super) fn refuse(&mut self, previous: &Config, new: &Config, error: &anyhow::Error) {
        self.wrong = new.sources.files().map(Path::to_owned).collect();
        self.known = previous.sources.fingerprint(&self.wrong);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// It can be read, and nothing can be started with it: it is looked at again when it changes, and not before.
    #[test]
    fn what_is_refused_once_is_left_alone_until_it_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let sink = directory.path().join("dr.toml");
        let site = "[site]\nname = 'hq'\nstate = 'state'\n[[group]]\nname = 'g'\n[[group.file]]\npath = '/srv/a'\n\
                    organization = 'fixed'\nlayout = 'plain'\nrecord_size = 4\n";
        std::fs::write(&path, site).expect("writing");
        let previous = Config::load(&path).expect("sound");
        let asked = Arc::new(AtomicBool::new(false));
        let mut reload = Reload::new(&previous, Arc::clone(&asked));
        std::fs::write(&sink, "name = 'dr'\nsqlite = { path = '/nowhere/dr.db' }\n")
            .expect("writing");
        std::fs::write(&path, format!("{site}[sinks]\ninclude = ['dr.toml']\n")).expect("writing");
        asked.store(true, Ordering::SeqCst);
        let new = reload.look(&previous).expect("another one");
        reload.refuse(&previous, &new, &anyhow::anyhow!("it can't be opened"));
        assert_eq!(previous.sources.fingerprint(&reload.wrong), reload.known);
        // The sink's own file counts, though the configuration in use knows nothing of it.
        std::fs::write(&sink, "name = 'dr'\nsqlite = { path = 'dr.db' }\n").expect("writing");
        assert_ne!(previous.sources.fingerprint(&reload.wrong), reload.known);
    }
}
