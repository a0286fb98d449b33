//! What somebody asks of a running replicator, as far as it is about files.

use super::{Checker, Task};
use crate::requests::{Request, heeded};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a file that targets are told again at once.
const STEP_BYTES: usize = 1 << 20;

impl Checker {
    /// Takes over what is asked, if it is time to look.
    pub(super) fn heed_requests(&mut self) {
        for (place, request) in self.requests.look() {
            self.heed(request);
            heeded(&place);
        }
    }

    /// A long range in parts, so that none needs more memory than what else is told at once.
    fn steps(&self, path: &[u8], ids: Range<u64>) -> Vec<Range<u64>> {
        let rule = self.config.rule(path).filter(|rule| rule.tree.is_none());
        let codec = rule.and_then(|rule| rule.format.codec().ok());
        let there = Path::new(OsStr::from_bytes(path)).metadata();
        let (Some(codec), Ok(there)) = (codec, there) else {
            return vec![ids];
        };
        let offset = |id: u64| match id {
            0 => 0,
            id => codec.offset_of(id).min(there.len()),
        };
        let (begin, end) = (offset(ids.start), offset(ids.end));
        let cuts = (begin..end).step_by(STEP_BYTES).skip(1);
        let mut from = ids.start;
        let mut steps = Vec::new();
        for cut in cuts.map(|at| codec.id_at(at)) {
            if cut > from && cut < ids.end {
                steps.push(from..cut);
                from = cut;
            }
        }
        steps.push(from..ids.end);
        steps
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
                        let path: Arc<[u8]> = path.into();
                        // Once all was looked through, what is there is in the journal, by whatever way it came.
                        let is_in_journal = !self.known.contains(&path)
                            && !self.config.is_static(&path)
                            && self.progress.scans.load(Ordering::SeqCst) > 0;
                        self.ask_itself(match is_in_journal {
                            true => Task::Compare { path },
                            false => Task::Check { path },
                        });
                    }
                }
            }
            // Of targets, which look elsewhere.
            Request::Orphan { .. } => {}
            Request::Restate { path, ids } => {
                if captured(self, &path) {
                    let path: Arc<[u8]> = path.into();
                    for (from, to) in ids {
                        for ids in self.steps(&path, from..to) {
                            let path = Arc::clone(&path);
                            self.ask_itself(Task::Restate { path, ids });
                        }
                    }
                }
            }
        }
    }
}
