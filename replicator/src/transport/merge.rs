//! Whole units, in order and once, from the messages of a stream's partitions, and none of what a replaced publisher still
//! sends.
//!
//! A topic is a log of what publishers managed to send, spread over partitions that are read each at its own pace. Within a
//! session positions grow, and each event says where the one before it stands, on whichever partition that is: an event
//! follows when that isn't after what was taken. A session that was killed may have left part of a unit, with holes where
//! one partition got more than another, and messages of it may still arrive after the next session began. So:
//!
//! - every session announces itself on each partition before its first event; what an earlier one sends to that partition
//!   afterwards is void: the later session has sent it, or will;
//! - the sessions are gone through one after the other. A partition that is ahead waits until each of the others has given
//!   what it has of the earlier session. When all have, and what is left doesn't follow, the missing event can't come any
//!   more, and what is left is void;
//! - the events of a unit come out with its last one, and only if all of them, of one session, are there. A part is dropped
//!   where the session ends: the next one sends the unit again.
//!
//! What comes out doesn't depend on how fast which partition was read, so a publisher that asks what is whole on a topic
//! ([`whole_on`]) and those who apply it agree.

use super::wire::{Content, Place, Received};
use crate::event::Event;
use counterfoil_proto::Position;
use std::collections::VecDeque;

/// Events that one unit may have: the publisher cuts units long before.
const UNIT_EVENTS_MAX: usize = 50_000_000;

/// What has to be known of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<E> {
    /// Session of the publisher that sent it.
    pub session: u64,
    /// Where it stands.
    pub position: Position,
    /// Where the event before it stands.
    pub previous: Option<Position>,
    /// Its place in a unit of several events.
    pub place: Option<Place>,
    /// What it is.
    pub kind: Kind<E>,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<E> {
    /// A session announces itself. `fresh`: everything is read again from here on.
    Session {
        /// A target may begin here.
        fresh: bool,
    },
    /// An event; none where this version has nothing to do for it.
    Event(Option<E>),
}

impl From<Received> for Message<Event> {
    fn from(received: Received) -> Message<Event> {
        Message {
            session: received.session,
            position: received.position,
            previous: received.previous,
            place: received.place,
            kind: match received.content {
                Content::Session { fresh } => Kind::Session { fresh },
                Content::Event(event) => Kind::Event(Some(event)),
                Content::Other => Kind::Event(None),
            },
        }
    }
}

impl<E> Message<E> {
    /// The same without what the event says.
    pub fn bare(&self) -> Message<()> {
        Message {
            session: self.session,
            position: self.position,
            previous: self.previous,
            place: self.place,
            kind: match &self.kind {
                Kind::Session { fresh } => Kind::Session { fresh: *fresh },
                Kind::Event(event) => Kind::Event(event.as_ref().map(|_| ())),
            },
        }
    }

    fn is_event(&self) -> bool {
        matches!(self.kind, Kind::Event(_))
    }

    /// Whether no event of its unit comes before it. A unit is what has one lsn.
    fn begins_unit(&self) -> bool {
        let lsn = |position: Position| (position.epoch, position.lsn);
        self.previous
            .is_none_or(|previous| lsn(previous) < lsn(self.position))
    }
}

/// What comes next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<E> {
    /// A whole unit.
    Unit {
        /// Position of its last event.
        position: Position,
        /// Its events.
        events: Vec<E>,
    },
    /// Everything begins anew at this position.
    Anew(Position),
}

/// Something between what was taken and what came isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What was taken.
    pub taken: Option<Position>,
    /// What has to be taken before what came.
    pub needed: Position,
}

/// Part of a unit.
#[derive(Debug)]
struct Part<E> {
    session: u64,
    unit: u64,
    last: Position,
    count: usize,
    events: Vec<E>,
}

#[derive(Debug)]
struct Waiting<E> {
    message: Message<E>,
    bytes: usize,
    after: i64,
}

#[derive(Debug)]
struct Partition<E> {
    queue: VecDeque<Waiting<E>>,
    /// Bytes in the queue.
    bytes: usize,
    /// The greatest session of which something was taken out.
    session: u64,
    /// Offset after the last message taken out.
    done: i64,
}

impl<E> Partition<E> {
    /// The least session of which something may still come.
    fn bound(&self) -> u64 {
        let head = self.queue.front().map(|head| head.message.session);
        head.unwrap_or(self.session)
    }

    fn pop(&mut self) -> Option<Message<E>> {
        let head = self.queue.pop_front()?;
        self.bytes -= head.bytes;
        self.session = self.session.max(head.message.session);
        self.done = head.after;
        Some(head.message)
    }

    fn drop_void(&mut self) {
        while self
            .queue
            .front()
            .is_some_and(|head| head.message.session < self.session)
        {
            self.pop();
        }
    }
}

/// The state between messages.
#[derive(Debug)]
pub struct Merge<E> {
    partitions: Vec<Partition<E>>,
    /// The end of the last whole unit.
    whole: Option<Position>,
    part: Option<Part<E>>,
    gap: Option<Gap>,
    /// The greatest session whose announcement was looked at.
    announced: u64,
}

impl<E> Merge<E> {
    /// Goes on at the boundary of a unit after `whole`; `from` has for each partition the offset that is read first, and no
    /// session before `session` counts.
    pub fn after(whole: Option<Position>, session: u64, from: &[i64]) -> Merge<E> {
        let partition = |&done: &i64| Partition {
            queue: VecDeque::new(),
            bytes: 0,
            session,
            done,
        };
        Merge {
            partitions: from.iter().map(partition).collect(),
            whole,
            part: None,
            gap: None,
            announced: 0,
        }
    }

    /// The end of the last whole unit.
    pub fn whole(&self) -> Option<Position> {
        self.whole
    }

    /// Whether all events of the units that have begun are taken out.
    pub fn is_between_units(&self) -> bool {
        self.part.is_none()
    }

    /// Bytes that wait on a partition for what comes before them on another.
    pub fn bytes(&self, partition: usize) -> usize {
        self.partitions.get(partition).map_or(0, |of| of.bytes)
    }

    /// Offset on a partition before which nothing is needed any more, if now is between units and no gap.
    pub fn done(&self, partition: usize) -> i64 {
        self.partitions.get(partition).map_or(0, |of| of.done)
    }

    /// What is missing, as far as messages that have come tell.
    pub fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// What the messages wait for that can't be taken yet. Unless it comes it is a gap, or a session that ended there.
    pub fn missing(&self) -> Option<Gap> {
        let session = self.session();
        let heads = self.partitions.iter().filter_map(|of| of.queue.front());
        let needed = heads
            .filter(|head| head.message.session == session && head.message.is_event())
            .filter_map(|head| head.message.previous)
            .min();
        needed.map(|needed| Gap {
            taken: self.whole,
            needed,
        })
    }

    /// Takes in the next message of a partition. `after` is the offset to read from if it was the last one, and `bytes`
    /// what it counts for.
    pub fn put(&mut self, partition: usize, message: Message<E>, after: i64, bytes: usize) {
        if let Some(of) = self.partitions.get_mut(partition) {
            of.bytes += bytes;
            of.queue.push_back(Waiting {
                message,
                bytes,
                after,
            });
        }
    }

    /// There was nothing in the messages of a partition before an offset.
    pub fn skip(&mut self, partition: usize, after: i64) {
        if let Some(of) = self.partitions.get_mut(partition)
            && of.queue.is_empty()
        {
            of.done = after;
        }
    }

    /// A partition was seen to have no more messages, after all that was put in. Where an event of a session is, its
    /// announcement is on every partition, so that of this one has been there.
    pub fn is_at_end(&mut self, partition: usize) {
        let events = self.partitions.iter().flat_map(|of| &of.queue);
        let known = events
            .filter(|waiting| waiting.message.is_event())
            .map(|waiting| waiting.message.session)
            .max();
        if let (Some(of), Some(known)) = (self.partitions.get_mut(partition), known)
            && of.queue.is_empty()
        {
            of.session = of.session.max(known);
        }
    }

    /// The session that is gone through.
    fn session(&self) -> u64 {
        let bounds = self.partitions.iter().map(Partition::bound);
        bounds.min().unwrap_or(0)
    }

    /// What comes next, if it is there.
    ///
    /// # Errors
    /// What came can't be so, or a unit is larger than any can be.
    #[expect(clippy::should_implement_trait, reason = "it may have more later")]
    pub fn next(&mut self) -> Result<Option<Next<E>>, String> {
        loop {
            self.partitions.iter_mut().for_each(Partition::drop_void);
            let session = self.session();
            if self
                .part
                .as_ref()
                .is_some_and(|part| part.session < session)
            {
                self.part = None;
            }
            let mut moved = false;
            for at in 0..self.partitions.len() {
                while let Some(head) = self.partitions[at].queue.front()
                    && head.message.session == session
                {
                    let message = &head.message;
                    let taken = self.part.as_ref().map(|part| part.last).or(self.whole);
                    if message.is_event()
                        && Some(message.position) > taken
                        && message.previous > taken
                    {
                        break;
                    }
                    moved = true;
                    if let Some(message) = self.partitions[at].pop()
                        && let Some(next) = self.take(message, taken)?
                    {
                        return Ok(Some(next));
                    }
                }
            }
            if moved {
                continue;
            }
            // Nothing of the session follows. If something of it may still come, that is waited for.
            let current = || {
                let is_current = |of: &&Partition<E>| of.bound() == session;
                self.partitions.iter().filter(is_current)
            };
            if current().next().is_none() || current().any(|of| of.queue.is_empty()) {
                return Ok(None);
            }
            if self.gap.is_none() {
                self.gap = self.missing();
            }
            self.part = None;
            for of in &mut self.partitions {
                if of.bound() == session {
                    of.pop();
                }
            }
        }
    }

    /// Takes a message that follows, or that says nothing new.
    fn take(
        &mut self,
        message: Message<E>,
        taken: Option<Position>,
    ) -> Result<Option<Next<E>>, String> {
        let position = message.position;
        let event = match message.kind {
            Kind::Session { fresh } => {
                let is_news = message.session > self.announced;
                self.announced = self.announced.max(message.session);
                if !is_news {
                    return Ok(None);
                }
                if Some(position) <= self.whole {
                    self.gap = None;
                } else if fresh {
                    self.whole = Some(position);
                    self.gap = None;
                    return Ok(Some(Next::Anew(position)));
                } else if position > self.whole.unwrap_or_default() {
                    self.gap = Some(Gap {
                        taken: self.whole,
                        needed: position,
                    });
                }
                return Ok(None);
            }
            Kind::Event(_) if Some(position) <= taken => return Ok(None),
            Kind::Event(event) => event,
        };
        self.gap = None;
        let Some(Place { unit, last_of }) = message.place else {
            if let Some(part) = self.part.take() {
                return Err(format!("the unit of work {} has no end", part.unit));
            }
            self.whole = Some(position);
            return Ok(Some(Next::Unit {
                position,
                events: event.into_iter().collect(),
            }));
        };
        let part = self.part.get_or_insert_with(|| Part {
            session: message.session,
            unit,
            last: position,
            count: 0,
            events: Vec::new(),
        });
        if part.unit != unit {
            return Err(format!("the unit of work {} has no end", part.unit));
        }
        part.last = position;
        part.count += 1;
        part.events.extend(event);
        if part.count > UNIT_EVENTS_MAX {
            return Err(format!(
                "the unit of work {unit} has more than {UNIT_EVENTS_MAX} events"
            ));
        }
        let Some(count) = last_of else {
            return Ok(None);
        };
        if part.count != count as usize {
            return Err(format!(
                "it is the last of {count} events of the unit of work {unit}, but {} were there",
                part.count
            ));
        }
        let events = std::mem::take(&mut part.events);
        self.part = None;
        self.whole = Some(position);
        Ok(Some(Next::Unit { position, events }))
    }
}

/// What the ends of a topic's partitions tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Position up to which everything is whole on the topic; `None` where that isn't known.
    pub whole: Option<Position>,
    /// The greatest position.
    pub seen: Option<Position>,
    /// The greatest session.
    pub session: u64,
}

/// What is known beforehand by who asks what is whole on a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Everything up to here was acknowledged.
    pub position: Option<Position>,
    /// The last session of one's own that began: all its announcements were acknowledged.
    pub begun: u64,
    /// The last session of one's own that may have announced itself.
    pub last: u64,
}

impl Known {
    /// The session by which to judge, when `greatest` is on the topic: one that didn't get to its begin has no events.
    fn judge(&self, greatest: u64) -> u64 {
        if greatest > self.begun && greatest <= self.last {
            self.begun
        } else {
            greatest
        }
    }
}

fn greatest_session(tails: &[Vec<Message<()>>]) -> u64 {
    let all = tails.iter().flatten().map(|message| message.session);
    all.max().unwrap_or(0)
}

/// Up to where everything has to be on a single partition, since something after it is.
fn before_first_unit(tail: &[Message<()>], session: u64) -> Option<Position> {
    let mut of_session = tail.iter().filter(|message| message.session == session);
    of_session.find_map(|message| {
        if !message.is_event() {
            Some(message.position)
        } else if message.begins_unit() {
            message.previous
        } else {
            let ends = message.place.is_none_or(|place| place.last_of.is_some());
            ends.then_some(message.position)
        }
    })
}

/// Whether the ends of a topic's partitions go back far enough for [`whole_on`]; says it of each.
pub fn reach(tails: &[Vec<Message<()>>], known: &Known) -> Vec<bool> {
    let greatest = greatest_session(tails);
    let session = known.judge(greatest);
    // Where there was an announcement that nothing is known of, what makes others void may stand further back.
    let is_certain = tails.len() == 1 && known.begun == known.last;
    let reaches = |tail: &Vec<Message<()>>| {
        if is_certain {
            return before_first_unit(tail, session).is_some();
        }
        let mut of_session = tail.iter().filter(|message| message.session == session);
        let is_base = |message: &Message<()>| {
            !message.is_event()
                || known.position.is_some() && Some(message.position) <= known.position
        };
        of_session.any(is_base)
    };
    let all_may = greatest >= known.begun;
    tails.iter().map(|tail| all_may && reaches(tail)).collect()
}

/// What is whole on a topic, by the last messages of each partition.
///
/// Only the last session counts: it begins after what is whole of those before. On a single partition nothing can be missing
/// before what is there; on several, the ends have to reach back to where the session begins or to what was acknowledged
/// ([`reach`]).
pub fn whole_on(tails: Vec<Vec<Message<()>>>, known: &Known) -> Tail {
    let greatest = greatest_session(&tails);
    let session = known.judge(greatest);
    let all = || tails.iter().flatten();
    let seen = all().map(|message| message.position).max();
    let announced = all()
        .filter(|message| message.session >= session && !message.is_event())
        .map(|message| message.position)
        .max();
    let mut base = announced.max(known.position);
    if let [tail] = tails.as_slice() {
        base = base.max(before_first_unit(tail, session));
    }
    let mut whole = None;
    if base > seen {
        // What was acknowledged isn't there any more.
        whole = seen;
    } else if base.is_some() {
        let mut merge = Merge::after(base, session, &vec![0; tails.len()]);
        for (partition, tail) in tails.into_iter().enumerate() {
            for message in tail {
                merge.put(partition, message, 0, 0);
            }
        }
        // What can't be so is left where it is, with all that comes after.
        while let Ok(Some(_)) = merge.next() {}
        whole = merge.whole();
    }
    Tail {
        whole,
        seen,
        session: greatest,
    }
}

#[cfg(test)]
mod tests;
