//! What a sink refuses: finding it in a batch, and what is done about it, file by file.

use super::bisection::{Found, Next, isolate};
use super::fold::Origins;
use super::letters::{Refusal, position_text};
use super::parts::{Item, Parts};
use crate::config::OnRefused;
use crate::dead_letters::Letter;
use crate::event::{Change, Event};
use crate::transport::wire::Sender;
use counterfoil_lane::clock;
use counterfoil_proto::{Position, path_text, v1};
use counterfoil_sinks::{Batch, FileDescription, Image, SinkError};
use prost::Message as _;
use std::sync::Arc;

/// Records of one batch that are found one by one. When more are refused, it isn't about records.
const ISOLATED_MAX: usize = 1000;

/// What is done about a refused row of a file.
pub(super) type Policy = Arc<dyn Fn(&FileDescription) -> OnRefused + Send + Sync>;

/// What was found out about a batch that is refused.
pub(super) enum Outcome {
    /// The rest may go.
    Parted(Parted),
    /// Nothing goes on until somebody has done something.
    Held(Held),
}

/// What is taken, and what isn't.
pub(super) struct Parted {
    /// The batch without what is refused.
    pub(super) rest: Batch,
    /// By place in the batch that was offered: whether the file is in `rest`.
    pub(super) stays: Vec<bool>,
    /// Records to be kept, by place in `rest`.
    pub(super) records: Vec<Refusal>,
    /// Files to be passed over.
    pub(super) stops: Vec<Refusal>,
}

/// Why nothing goes on, and what shows whether that is still so.
pub(super) struct Held {
    /// In words.
    pub(super) problem: String,
    /// What is refused as long as it is so.
    pub(super) probe: Option<Batch>,
}

/// A batch that is refused.
pub(super) struct Refused<'a> {
    /// The sink's name.
    pub(super) sink: &'a str,
    /// The batch.
    pub(super) batch: &'a Batch,
    /// Where its images come from.
    pub(super) origins: &'a Origins,
    /// Index of its stream.
    pub(super) stream: usize,
    /// What is done about which file.
    pub(super) policy: &'a Policy,
}

impl Refused<'_> {
    /// Finds what is refused, by rehearsing parts of the batch.
    ///
    /// # Errors
    /// A rehearsal's, other than that it is refused; then nothing is known.
    pub(super) fn part(
        &self,
        rehearse: &mut dyn FnMut(&Batch) -> Result<(), SinkError>,
    ) -> Result<Outcome, SinkError> {
        let parts = Parts::of(self.batch);
        let mut trial = |files: &[bool], items: &[bool]| match rehearse(&parts.with(files, items)) {
            Ok(()) => Ok(None),
            Err(SinkError::Refused { cause, .. }) => Ok(Some(cause)),
            Err(error) => Err(error),
        };
        let items = parts.items();
        let mut files = vec![true; parts.file_count()];
        let no_items = vec![false; items.len()];
        let mut stops = Vec::new();
        let mut held = None;
        // Whether it is about what is done to files as a whole.
        if trial(&files, &no_items)?.is_some() {
            let found = &mut |found: Found<'_>| {
                let changes = parts.changes_of(found.item);
                if (self.policy)(&changes.file) != OnRefused::Stop {
                    held = Some(Held {
                        problem: format!(
                            "sink {} refuses what is done to {} as a whole: {}; it is tried again (with on_refused_row = \"stop\" it would be passed over)",
                            self.sink,
                            path_text(&changes.file.path),
                            found.reason
                        ),
                        probe: Some(parts.with(found.tried, &no_items)),
                    });
                    return Next::Enough;
                }
                let at = (self.batch.position, self.batch.captured_ns);
                stops.push(self.refusal(&changes.file, 0, Change::Created, at, &found.reason));
                Next::GoOn
            };
            files = isolate(files.len(), &mut |tried| trial(tried, &no_items), found)?;
        }
        if let Some(held) = held {
            return Ok(Outcome::Held(held));
        }
        let mut refused: Vec<(Item, Refusal)> = Vec::new();
        let all: Vec<bool> = (0..items.len())
            .map(|item| files[parts.file_of(item)])
            .collect();
        let mut taken = all.clone();
        if trial(&files, &all)?.is_some() {
            let files = std::cell::RefCell::new(&mut files);
            let found = &mut |found: Found<'_>| {
                let item = items[found.item];
                let changes = parts.changes(item);
                let file = parts.file_of(found.item);
                let record = format!("record {} of {}", item.id, path_text(&changes.file.path));
                let hold = |problem| Held {
                    problem,
                    probe: Some(parts.with(&files.borrow(), found.tried)),
                };
                let what = || self.refusal_of(&parts, item, &found.reason);
                match (self.policy)(&changes.file) {
                    OnRefused::Retry => {
                        held = Some(hold(format!(
                            "sink {} refuses {record}: {}; nothing more is applied to it until it takes that, and it is tried again",
                            self.sink, found.reason
                        )));
                        Next::Enough
                    }
                    OnRefused::DeadLetter if refused.len() >= ISOLATED_MAX => {
                        held = Some(hold(format!(
                            "sink {} refuses more than {ISOLATED_MAX} records of a batch, {record} too: {}; so many aren't kept as dead letters, and it is tried again",
                            self.sink, found.reason
                        )));
                        Next::Enough
                    }
                    OnRefused::DeadLetter => {
                        refused.push((item, what()));
                        Next::GoOn
                    }
                    OnRefused::Stop => {
                        stops.push(what());
                        files.borrow_mut()[file] = false;
                        for (other, left_out) in found.left_out.iter_mut().enumerate() {
                            *left_out |= parts.file_of(other) == file;
                        }
                        Next::GoOn
                    }
                }
            };
            let tried = &mut |tried: &[bool]| {
                let files = files.borrow().clone();
                let tried: Vec<bool> = tried.iter().zip(&all).map(|(a, b)| *a && *b).collect();
                trial(&files, &tried)
            };
            taken = isolate(items.len(), tried, found)?;
        }
        if let Some(held) = held {
            return Ok(Outcome::Held(held));
        }
        if stops.is_empty() && refused.is_empty() {
            // A rehearsal of all of it is taken. Either it was mended just now, or the sink can't rehearse what it refuses.
            return Ok(Outcome::Held(Held {
                problem: String::new(),
                probe: None,
            }));
        }
        let stays = parts.stays(&files);
        let place = |at: usize| stays[..at].iter().filter(|stays| **stays).count();
        let records =
            refused
                .into_iter()
                .filter(|(item, _)| stays[item.at])
                .map(|(item, refusal)| Refusal {
                    at: place(item.at),
                    ..refusal
                });
        Ok(Outcome::Parted(Parted {
            records: records.collect(),
            stops,
            rest: parts.with(&files, &taken),
            stays,
        }))
    }

    fn refusal_of(&self, parts: &Parts<'_>, item: Item, reason: &str) -> Refusal {
        let changes = parts.changes(item);
        let id = item.id;
        let change = match parts.image(item).clone() {
            Image::Record { data, rest } => Change::Put { id, data, rest },
            Image::Residue { bytes, reason } => Change::Residue {
                id,
                bytes,
                reason: reason.into(),
            },
            Image::Absent => Change::Absent { id },
        };
        let origin = parts.origin(item, self.origins);
        let at = (origin.position, origin.captured_ns);
        let size = changes.attributes.size;
        let mut refusal = self.refusal(&changes.file, size, change, at, reason);
        refusal.letter.record = Some(id);
        refusal
    }

    fn refusal(
        &self,
        file: &Arc<FileDescription>,
        size: u64,
        change: Change,
        (position, captured_ns): (Position, i64),
        reason: &str,
    ) -> Refusal {
        let op = match &change {
            Change::Put { .. } => "put",
            Change::Residue { .. } => "residue",
            Change::Absent { .. } => "delete",
            _ => "created",
        };
        let event = Event {
            position,
            group: u16::try_from(self.stream).unwrap_or(u16::MAX),
            file: Arc::clone(file),
            size,
            change,
            captured_ns,
            pid: 0,
            snapshot: false,
            before: None,
        };
        let (site, group) = self.batch.stream.split_once('/').unwrap_or_default();
        let sender = Sender {
            site: site.to_owned(),
            group: group.to_owned(),
            host: String::new(),
            session: 0,
            typed: None,
        };
        let letter = Letter {
            at_ns: clock::wall(),
            refused_by: self.sink.to_owned(),
            reason: reason.to_owned(),
            stream: self.batch.stream.clone(),
            position: position_text(position),
            file: path_text(&file.path),
            op: op.to_owned(),
            history: file.plan.as_ref().is_some_and(|plan| plan.is_history()),
            ..Letter::default()
        };
        Refusal {
            at: 0,
            letter,
            event: sender
                .event(&event, None, v1::UnitKind::Unspecified)
                .encode_to_vec(),
        }
    }
}
