//! What somebody asks of a running replicator, as far as it is about files.

use super::{Checker, Task};
use crate::requests::{Request, waiting};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often requests are looked for.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Where requests are, and when they were last looked for.
pub(super) struct Requests {
    directory: PathBuf,
    looked: Option<Instant>,
}

impl Requests {
    pub(super) fn new(directory: PathBuf) -> Requests {
        Requests {
            directory,
            looked: None,
        }
    }
}

impl Checker {
    /// Takes over what is asked, if it is time to look.
    pub(super) fn heed_requests(&mut self) {
        if self.requests.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.requests.looked = Some(Instant::now());
        for (path, request) in waiting(&self.requests.directory) {
            // Before it is gone from there, so that nobody finds neither it nor what comes of it.
            self.heed(request);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("removing the request {}: {error}", path.display());
            }
        }
    }

    fn heed(&mut self, request: Request) {
        let captured = |this: &Checker, path: &[u8]| {
            let is_known = this.config.rule_for(path).is_some();
            if !is_known {
                tracing::warn!(
                    "a request is about {}, which no rule of the configuration captures",
                    String::from_utf8_lossy(path)
                );
            }
            is_known
        };
        match request {
            Request::Verify { round, paths } => {
                let paths: Vec<Arc<[u8]>> = match paths.is_empty() {
                    true => self.files_there(),
                    false => paths.into_iter().map(Arc::from).collect(),
                };
                for path in paths {
                    if captured(self, &path) {
                        self.ask_itself(Task::Verify { path, round });
                    }
                }
            }
            Request::Sync { paths } => {
                for path in paths {
                    if captured(self, &path) {
                        self.ask_itself(Task::Check { path: path.into() });
                    }
                }
            }
            // Of targets, which look elsewhere.
            Request::Orphan { .. } => {}
            Request::Restate { path, ids } => {
                if captured(self, &path) {
                    let path: Arc<[u8]> = path.into();
                    for (from, to) in ids {
                        self.ask_itself(Task::Restate {
                            path: Arc::clone(&path),
                            ids: from..to,
                        });
                    }
                }
            }
        }
    }
}
