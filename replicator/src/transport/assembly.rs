//! Whole units from single messages, and none of what a replaced publisher still sends.
//!
//! A topic is a log of what publishers managed to send. Within a session positions grow; a session that was killed may
//! have left part of a unit, and messages of it may still arrive after the next session began. So:
//!
//! - a message of a session smaller than the greatest seen is void: what it says, the later session has sent or will;
//! - the events of a unit become visible with its last one, and only if all of them are there;
//! - a part of a unit is dropped where another unit, a position that isn't greater, or a session begins.
//!
//! What comes out may still repeat what was there before (the end of one session, the beginning of the next): whoever
//! takes it skips what isn't after the position it has.

use super::wire::{Content, Place, Received};
use crate::event::Event;
use counterfoil_proto::Position;

/// Events that one unit may have: the publisher cuts units long before.
const UNIT_EVENTS_MAX: usize = 50_000_000;

/// The state between messages.
#[derive(Debug, Default)]
pub struct Assembly {
    session: u64,
    unit: Option<u64>,
    parts: Vec<(Position, Option<Event>)>,
}

/// What a message led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Assembled {
    /// Nothing yet: a unit isn't complete.
    Waiting,
    /// The message is void.
    Void,
    /// A whole unit.
    Unit {
        /// Position of its last event.
        position: Position,
        /// Its events.
        events: Vec<Event>,
    },
    /// The end of a unit whose beginning wasn't among the messages.
    Beheaded {
        /// Position of its last event.
        position: Position,
    },
    /// A session began.
    Session {
        /// What it begins at.
        position: Position,
        /// Everything is read again from here on.
        fresh: bool,
    },
}

impl Assembly {
    /// Goes on after messages whose greatest session is known, at the boundary of a unit.
    pub fn after(session: u64) -> Assembly {
        Assembly {
            session,
            ..Assembly::default()
        }
    }

    /// The greatest session seen.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Whether part of a unit is waiting for the rest.
    pub fn is_within_unit(&self) -> bool {
        self.unit.is_some()
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// A unit is larger than any can be.
    pub fn take(&mut self, received: Received) -> Result<Assembled, String> {
        if received.session < self.session {
            return Ok(Assembled::Void);
        }
        if received.session > self.session {
            self.session = received.session;
            self.drop_part();
        }
        let position = received.position;
        let event = match received.content {
            Content::Session { fresh } => {
                self.drop_part();
                return Ok(Assembled::Session { position, fresh });
            }
            Content::Event(event) => Some(event),
            Content::Other => None,
        };
        let Some(Place { unit, last_of }) = received.place else {
            self.drop_part();
            return Ok(Assembled::Unit {
                position,
                events: event.into_iter().collect(),
            });
        };
        let goes_on = self.unit == Some(unit)
            && self
                .parts
                .last()
                .is_some_and(|(before, _)| *before < position);
        if !goes_on {
            self.drop_part();
            self.unit = Some(unit);
        }
        self.parts.push((position, event));
        if self.parts.len() > UNIT_EVENTS_MAX {
            return Err(format!(
                "the unit of work {unit} has more than {UNIT_EVENTS_MAX} events"
            ));
        }
        let Some(count) = last_of else {
            return Ok(Assembled::Waiting);
        };
        let parts = std::mem::take(&mut self.parts);
        self.unit = None;
        // More than the unit has: part of an earlier attempt stands before it, and happened to end just there.
        match parts.len().checked_sub(count as usize) {
            Some(before) => Ok(Assembled::Unit {
                position,
                events: parts
                    .into_iter()
                    .skip(before)
                    .filter_map(|(_, event)| event)
                    .collect(),
            }),
            None => Ok(Assembled::Beheaded { position }),
        }
    }

    fn drop_part(&mut self) {
        self.unit = None;
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Change;
    use counterfoil_records::{Layout, Organization, RecordFormat};
    use counterfoil_sinks::FileDescription;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn message(session: u64, lsn: u64, index: u32, place: Option<Place>) -> Received {
        let file = FileDescription {
            path: b"/a".to_vec(),
            group: "g".to_owned(),
            format: RecordFormat::new(Organization::Stream, Layout::Newline),
            table: None,
            tree: None,
            schema: None,
        };
        let position = Position {
            epoch: 1,
            lsn,
            index,
        };
        Received {
            stream: "s/g".to_owned(),
            session,
            position,
            place,
            content: Content::Event(Event {
                position,
                group: 0,
                file: Arc::new(file),
                size: 0,
                change: Change::Absent { id: lsn },
                captured_ns: 0,
                pid: 0,
                snapshot: false,
                before: None,
            }),
        }
    }

    fn begin(session: u64, lsn: u64) -> Received {
        Received {
            content: Content::Session { fresh: false },
            place: None,
            ..message(session, lsn, 0, None)
        }
    }

    /// The messages of units that have the given numbers of events.
    fn messages(session: u64, units: &[u32], from: u64) -> Vec<Received> {
        let mut messages = Vec::new();
        for (lsn, &count) in (1..).zip(units).skip(from as usize) {
            for index in 0..count {
                let place = (count > 1).then_some(Place {
                    unit: lsn,
                    last_of: (index + 1 == count).then_some(count),
                });
                messages.push(message(session, lsn, index, place));
            }
        }
        messages
    }

    proptest! {
        /// Publishers are killed anywhere, and what was on the wire arrives late, anywhere: every unit comes out whole,
        /// in order, and what repeats is what was there before.
        #[test]
        fn units_come_out_whole_whatever_becomes_of_publishers(
            units in proptest::collection::vec(1..5u32, 1..12),
            runs in proptest::collection::vec((0..30usize, 0..10usize, 0..6usize), 0..6),
        ) {
            let mut topic: Vec<Received> = Vec::new();
            let mut late: Vec<Received> = Vec::new();
            for (run, (sent, delayed, after)) in runs.iter().chain([&(usize::MAX, 0, 0)]).enumerate() {
                let session = run as u64 + 1;
                // As a publisher does: what is whole on the topic isn't sent again.
                let mut reading = Assembly::default();
                let mut whole = 0;
                for message in &topic {
                    if let Assembled::Unit { position, .. } = reading.take(message.clone()).unwrap() {
                        whole = whole.max(position.lsn);
                    }
                }
                // What was on the wire lands anywhere after the reading, be it before the session begins.
                let read = topic.len();
                topic.push(begin(session, whole));
                let all = messages(session, &units, whole);
                let (sent, rest) = all.split_at((*sent).min(all.len()));
                let place = read + (*after).min(sent.len() + 1);
                topic.extend_from_slice(sent);
                topic.splice(place..place, late.drain(..));
                late = rest[..(*delayed).min(rest.len())].to_vec();
            }
            let mut assembly = Assembly::default();
            let mut applied = 0;
            for message in topic {
                match assembly.take(message).unwrap() {
                    Assembled::Unit { position, events } => {
                        prop_assert_eq!(events.len() as u32, units[position.lsn as usize - 1]);
                        prop_assert!(position.lsn <= applied + 1, "{} after {}", position.lsn, applied);
                        applied = applied.max(position.lsn);
                    }
                    Assembled::Beheaded { position } => prop_assert!(false, "beheaded {position}"),
                    Assembled::Waiting | Assembled::Void | Assembled::Session { .. } => {}
                }
            }
            prop_assert_eq!(applied, units.len() as u64);
            prop_assert!(!assembly.is_within_unit());
        }
    }

    #[test]
    fn a_unit_without_its_beginning_is_told() {
        let place = Some(Place {
            unit: 4,
            last_of: Some(3),
        });
        let mut assembly = Assembly::default();
        let assembled = assembly.take(message(1, 4, 2, place)).unwrap();
        assert!(matches!(assembled, Assembled::Beheaded { .. }));
    }

    /// A first attempt's part ends where the second one's beginning happens to go on.
    #[test]
    fn only_the_events_of_the_last_attempt_count() {
        let place = |last_of| Some(Place { unit: 4, last_of });
        let mut assembly = Assembly::default();
        for (index, last_of) in [(0, None), (1, None), (2, None)] {
            assembly.take(message(1, 4, index, place(last_of))).unwrap();
        }
        match assembly.take(message(1, 4, 3, place(Some(2)))).unwrap() {
            Assembled::Unit { events, .. } => assert_eq!(
                events
                    .iter()
                    .map(|event| event.position.index)
                    .collect::<Vec<_>>(),
                [2, 3]
            ),
            other => panic!("{other:?}"),
        }
    }
}
