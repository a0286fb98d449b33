//! Bringing to the sink what it refused before, without moving its position: see decision 0030.

use super::applier::Applier;
use super::letters::position_of;
use super::mapping::Verdict;
use crate::dead_letters::Letter;
use crate::event::{Change, Event};
use crate::transport::wire::{Content, Decoder};
use anyhow::Context as _;
use counterfoil_sinks::{
    Attributes, Batch, FileChanges, FileFate, Image, Logged, LoggedChange, SinkError,
};
use std::collections::BTreeMap;

/// Why a letter can't be tried now.
pub(super) type NotNow = String;

impl Applier {
    /// Tries what is in a dead letter again, by itself. That it is refused again, or never can be applied, goes into the letter.
    pub(super) fn amend(&mut self, stream: usize, number: u64) -> Result<(), NotNow> {
        let text = |error: anyhow::Error| format!("{error:#}");
        let (letter, bytes) = self.letters.read(number).map_err(text)?;
        let Some(applied) = self.applied[stream] else {
            return Err("nothing of the stream has been applied".to_owned());
        };
        let amended = self.event_of(stream, &bytes).map(|event| {
            let stored = self.pulse.wait(|| {
                let mut snapshot = self.sink.snapshot()?;
                snapshot.file(&letter.stream, &event.file.path)
            });
            (event, stored)
        });
        let (event, stored) = match amended {
            Ok((event, Ok(Some(stored)))) => (event, stored),
            Ok((_, Ok(None))) => {
                let reason = "the target doesn't have the file any more; drop the letter";
                let noted = self
                    .letters
                    .refused_again(&letter, bytes, reason.to_owned());
                return noted.map_err(text);
            }
            Ok((_, Err(error))) => return Err(error.to_string()),
            Err(error) => {
                let reason = format!("its event can't be applied: {error:#}");
                return self
                    .letters
                    .refused_again(&letter, bytes, reason)
                    .map_err(text);
            }
        };
        let batch = Batch {
            stream: letter.stream.clone(),
            after: Some(applied),
            position: applied,
            captured_ns: event.captured_ns,
            files: changes(event, stored.attributes, &letter)
                .into_iter()
                .collect(),
        };
        match self.pulse.wait(|| self.sink.apply(&batch)) {
            Ok(()) => {
                self.letters.applied(&letter).map_err(text)?;
                tracing::info!(
                    "sink {}: record {} of {} is applied (dead letter {number})",
                    self.name,
                    letter.record.unwrap_or_default(),
                    letter.file
                );
                Ok(())
            }
            Err(SinkError::Refused { cause, .. }) => {
                tracing::warn!(
                    "sink {}: dead letter {number} is refused again: {cause}",
                    self.name
                );
                self.letters
                    .refused_again(&letter, bytes, cause)
                    .map_err(text)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The event in a letter, as it would come from the stream.
    fn event_of(&mut self, stream: usize, bytes: &[u8]) -> anyhow::Result<Event> {
        let mut decoder = Decoder::default();
        let rules = self.config.groups.iter().flat_map(|group| &group.files);
        for schema in rules.filter_map(|rule| rule.schema.as_ref()) {
            decoder.learn(schema);
        }
        let index = u16::try_from(stream).unwrap_or(u16::MAX);
        let received = decoder.decode(bytes, index).context("reading the event")?;
        let Content::Event(mut event) = received.content else {
            anyhow::bail!("it is about no record");
        };
        match self.mapping.map(&mut event) {
            // The rows of tables in it weren't refused with it.
            Ok(Verdict::Take(_)) => Ok(event),
            Ok(Verdict::Pass | Verdict::Lacks(_)) => {
                anyhow::bail!("the sink doesn't have the file any more; drop the letter")
            }
            Err(problem) => anyhow::bail!("{problem}"),
        }
    }
}

/// What an event does to a file whose attributes stay as they are.
fn changes(event: Event, attributes: Attributes, letter: &Letter) -> Option<FileChanges> {
    let (id, image) = match event.change {
        Change::Put { id, data, rest } => (id, Image::Record { data, rest }),
        Change::Residue { id, bytes, reason } => {
            let reason = reason.into_owned();
            (id, Image::Residue { bytes, reason })
        }
        Change::Absent { id } => (id, Image::Absent),
        _ => return None,
    };
    let mut changes = FileChanges {
        file: event.file,
        renamed_from: None,
        fate: FileFate::Present,
        cleared: Vec::new(),
        images: BTreeMap::new(),
        log: Vec::new(),
        attributes,
    };
    // In a table that keeps every change it takes its place among the others, whatever is there now.
    if letter.history {
        let logged = |position, captured_ns, image| Logged {
            position,
            captured_ns,
            change: LoggedChange::Image { id, image },
        };
        changes
            .log
            .push(logged(event.position, event.captured_ns, image));
        // Nothing was there to be deleted, so nothing was said of that.
        if !letter.deleted_at.is_empty() {
            let position = position_of(&letter.deleted_at);
            let logged = logged(position, letter.deleted_ns, Image::Absent);
            changes.log.push(logged);
        }
    } else {
        changes.images.insert(id, image);
    }
    Some(changes)
}
