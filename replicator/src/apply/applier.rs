//! The applier: the thread that feeds one sink.

use super::checks::Check;
use super::flight::{Away, Landed, Pilot};
use super::fold::{Fold, Origins};
use super::letters::{Letters, Refusal, position_text};
use super::mapping::{Mapping, Verdict};
use super::refusal::{Held, Outcome, Parted, Policy, Refused};
use crate::config::{Apply, Config, OnRefused};
use crate::dead_letters::{Letter, Store};
use crate::event::{Change, Event, Parcel};
use crate::progress::{Progress, Pulse};
use crate::requests::Requests;
use crate::transport::Inlet;
use anyhow::Result;
use counterfoil_lane::clock;
use counterfoil_proto::{Position, path_text};
use counterfoil_sinks::{Batch, Sink, SinkError, shown};
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of images at which a batch is cut, whatever its number of records; bounds memory.
const BATCH_BYTES_MAX: usize = 16 << 20;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_millis(50);
/// How long letters that were asked for wait when they couldn't be tried.
const AMEND_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a target that is given nothing is asked where it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// How often requests are looked for, and so a batch in flight is waited for, while more keeps coming.
const MEND_INTERVAL: Duration = Duration::from_millis(500);
/// How long a batch that waits for nothing may grow while more keeps coming.
const JOIN_MAX: Duration = Duration::from_millis(100);

/// The thread's state.
pub struct Applier {
    pub(super) config: Arc<Config>,
    /// How changes are put into batches, for this sink.
    limits: Apply,
    pub(super) mapping: Mapping,
    /// Streams, in the order in which events name them.
    pub(super) streams: Vec<String>,
    pub(super) name: String,
    /// Nothing can be asked of it while a batch is in flight: see [`Applier::land`].
    pub(super) sink: Box<dyn Sink>,
    /// Who applies a batch while the next one is folded.
    pilot: Option<Pilot>,
    inlet: Inlet,
    folds: Vec<Fold>,
    /// What each stream has applied.
    pub(super) applied: Vec<Option<Position>>,
    /// Streams of which another process has applied something: nothing is taken until somebody asks where they stand.
    refused: Vec<bool>,
    pub(super) progress: Arc<Progress>,
    pub(super) pulse: Arc<Pulse>,
    /// First lsn not covered by parcels taken so far.
    taken_end: u64,
    oldest: Option<Instant>,
    /// Checksums that wait for what came before them to be applied.
    pub(super) checks: Vec<Check>,
    /// What the sink lacks.
    pub(super) letters: Letters,
    policy: Policy,
    /// All streams begin anew with what comes.
    anew: bool,
    /// Streams that have begun anew since.
    begun: HashSet<u16>,
    /// Paths of tables in records that were looked at.
    tables: HashSet<Vec<u8>>,
    /// When letters that were asked for may be tried again, after that failed.
    amend_after: Option<Instant>,
    /// When it was last looked whether the target is where it was left.
    looked: Instant,
    /// What is asked of targets.
    pub(super) asked: Requests,
    /// When that was last looked for.
    mended: Instant,
}

impl Applier {
    /// Sets the thread up. `applied` is what the sink has, by stream.
    pub fn new(
        config: &Arc<Config>,
        streams: Vec<String>,
        name: String,
        sink: Box<dyn Sink>,
        inlet: Inlet,
        applied: Vec<Option<Position>>,
        progress: Arc<Progress>,
    ) -> Applier {
        let pulse = progress.pulse(&format!("apply {name}"));
        let mapping = Mapping::new(config, &name);
        let letters = Letters::of(Store::of(config), &name);
        let policy = mapping.refusal_policy();
        let folds = streams.iter().map(|stream| fold(stream, &policy)).collect();
        Applier {
            config: Arc::clone(config),
            limits: mapping.limits(&config.apply),
            mapping,
            streams,
            name,
            sink,
            pilot: None,
            inlet,
            folds,
            refused: vec![false; applied.len()],
            applied,
            pulse,
            progress,
            taken_end: 0,
            oldest: None,
            checks: Vec::new(),
            letters,
            policy,
            anew: false,
            begun: HashSet::new(),
            tables: HashSet::new(),
            amend_after: None,
            looked: Instant::now(),
            asked: Requests::at(config.site.apply_requests_path()),
            mended: Instant::now(),
        }
    }

    /// Everything is sent anew, to begin with.
    #[must_use]
    pub fn begun_anew(mut self) -> Applier {
        self.anew = true;
        self
    }

    /// Works until the publisher is gone; then applies what is left.
    pub fn run(mut self) {
        if !self.prepare() {
            return;
        }
        // From here it takes over the priority of this thread.
        self.pilot = Pilot::start(&self.name);
        let is_over = self.work();
        // Whoever comes next is to find all of it or nothing.
        let has_landed = self.land();
        if is_over
            && has_landed
            && self.apply()
            && let Err(error) = self.sink.close()
        {
            tracing::warn!("closing the sink {}: {error}", self.name);
        }
    }

    /// True when nothing comes any more, false when everything is to stop.
    fn work(&mut self) -> bool {
        loop {
            self.pulse.beat();
            if !self.is_in_flight() || self.mended.elapsed() >= MEND_INTERVAL {
                if !self.land() {
                    return false;
                }
                self.mended = Instant::now();
                self.mend();
            }
            // While something waits for more to join it, only for as long as it may.
            let limit = match self.oldest {
                // What is there already; otherwise what flies is waited for.
                _ if self.is_in_flight() => Duration::ZERO,
                Some(oldest) => self.limits.batch_delay_max.saturating_sub(oldest.elapsed()),
                None => WAIT,
            };
            let mut more = false;
            match self.inlet.receive(limit) {
                Ok(Some(parcel)) => {
                    more = true;
                    let is_plain = parcel.asks.is_empty() && parcel.begins.is_empty();
                    if !is_plain && !self.land() {
                        return false;
                    }
                    if !self.answer(&parcel) || !self.begin(&parcel) {
                        return false;
                    }
                    if !self.take(parcel) {
                        return false;
                    }
                }
                Ok(None) => {
                    if !self.land() || !self.look_after_target() {
                        return false;
                    }
                }
                Err(crate::transport::Closed) => {
                    if let Some(lost) = self.inlet.lost() {
                        self.progress.fail(format!("sink {}: {lost}", self.name));
                        return false;
                    }
                    return true;
                }
            }
            if self.is_due(more) {
                let goes_on = if more { self.send_off() } else { self.apply() };
                if !goes_on {
                    return false;
                }
            }
        }
    }

    /// Learns what the sink lacks, before it is given anything. False when everything is to stop.
    fn prepare(&mut self) -> bool {
        let mut pause = RETRY_MIN;
        loop {
            match self.learn() {
                Ok(()) => {
                    self.tell(None);
                    self.show_letters();
                    return true;
                }
                Err(error) => self.tell(Some(format!("sink {}: {error:#}", self.name))),
            }
            if !self.wait(&mut pause) {
                return false;
            }
        }
    }

    fn learn(&mut self) -> Result<()> {
        // What was known at the start may be of before: where the sink was away, or died while it committed.
        for (stream, applied) in self.streams.iter().zip(&mut self.applied) {
            *applied = self.sink.position(stream)?;
        }
        let applied = self.applied.iter().copied();
        self.letters.begin(self.streams.iter().zip(applied))?;
        if self.anew {
            for stream in &self.streams {
                self.letters.begin_anew(stream)?;
            }
        }
        Ok(())
    }

    /// Forgets what isn't applied of streams that are asked for, and says what the sink has of them now: another process may
    /// have applied something. False when everything is to stop.
    fn answer(&mut self, parcel: &Parcel) -> bool {
        for ask in &parcel.asks {
            let at = usize::from(ask.stream);
            let Some(stream) = self.streams.get(at).cloned() else {
                continue;
            };
            self.folds[at] = fold(&stream, &self.policy);
            self.checks.retain(|check| check.stream() != at);
            let mut pause = RETRY_MIN;
            let stored = loop {
                match self.sink.position(&stream) {
                    Ok(stored) => break stored,
                    Err(error) => {
                        self.tell(Some(format!("sink {}: {error}", self.name)));
                        if !self.wait(&mut pause) {
                            return false;
                        }
                    }
                }
            };
            self.tell(None);
            self.applied[at] = stored;
            self.refused[at] = false;
            self.progress.update_sink(&self.name, |sink| {
                match stored {
                    Some(position) => sink.positions.insert(stream, position),
                    None => sink.positions.remove(&stream),
                };
            });
            // Who asked may have gone on to something else.
            let _ = ask.answer.send(stored);
        }
        if self.folds.iter().all(Fold::is_empty) {
            self.oldest = None;
        }
        true
    }

    fn is_refused(&self, stream: usize) -> bool {
        self.refused.get(stream).copied().unwrap_or(false)
    }

    /// Notes where streams begin anew, after what came before. False when everything is to stop.
    fn begin(&mut self, parcel: &Parcel) -> bool {
        for &(stream, position) in &parcel.begins {
            if !self.apply() {
                return false;
            }
            self.begun.insert(stream);
            let at = usize::from(stream);
            let Some(stream) = self.streams.get(at).cloned() else {
                continue;
            };
            if self.applied[at] >= Some(position) || self.is_refused(at) {
                continue;
            }
            if !self.begin_anew(&stream) {
                return false;
            }
            let batch = beginning(stream.clone(), self.applied[at], position);
            let offer = Offer::of(at, batch, Origins::new());
            match self.apply_offer(offer, None) {
                Done::Applied => {}
                Done::Refused => continue,
                Done::Stop => return false,
            }
            self.applied[at] = Some(position);
            self.progress.update_sink(&self.name, |sink| {
                sink.positions.insert(stream, position);
            });
        }
        true
    }

    /// Everything in a stream is sent anew from here on. False when everything is to stop.
    fn begin_anew(&mut self, stream: &str) -> bool {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.letters.begin_anew(stream) {
            self.tell(Some(format!("sink {}: {error:#}", self.name)));
            if !self.wait(&mut pause) {
                return false;
            }
        }
        self.show_letters();
        true
    }

    /// Folds what the sink is to have. False when everything is to stop.
    fn take(&mut self, parcel: Arc<Parcel>) -> bool {
        let end = parcel.end;
        // With one sink nobody else has the parcel, and nothing need be copied.
        let events = Arc::try_unwrap(parcel)
            .map_or_else(|shared| shared.events.clone(), |parcel| parcel.events);
        let mut events = events.into_iter();
        let mut unit = None;
        loop {
            // What a unit changes may have to be compared before; never in the middle of one. (A checksum is in none.)
            if !self.checks.is_empty()
                && let Some(next) = events.as_slice().first()
                && unit != Some(unit_of(next))
            {
                unit = Some(unit_of(next));
                let all = events.as_slice().iter();
                let all = all.take_while(|event| unit == Some(unit_of(event)));
                if self.is_check_due(all) && !self.apply() {
                    return false;
                }
            }
            let Some(event) = events.next() else {
                break;
            };
            let group = usize::from(event.group);
            if self.is_refused(group) {
                continue;
            }
            // The sink's own position outranks everything: what it has, it has.
            if self
                .reached(group)
                .is_some_and(|reached| event.position <= reached)
            {
                continue;
            }
            self.forget_checks(&event);
            let (position, captured_ns) = (event.position, event.captured_ns);
            let Some(events) = self.mapped(event) else {
                return false;
            };
            let Some(fold) = self.folds.get_mut(group) else {
                continue;
            };
            let mut is_passed = true;
            for event in events {
                if let Change::Checksum(checksum) = event.change {
                    self.checks.push(Check::new(group, &event, checksum));
                    continue;
                }
                fold.add(event);
                is_passed = false;
            }
            if is_passed {
                fold.pass(position, captured_ns);
            }
        }
        self.taken_end = self.taken_end.max(end);
        if self.folds.iter().any(|fold| !fold.is_empty()) {
            self.oldest.get_or_insert_with(Instant::now);
        } else if !self.is_in_flight() {
            self.applied(self.taken_end);
        }
        true
    }

    fn is_in_flight(&self) -> bool {
        self.in_flight().is_some()
    }

    fn in_flight(&self) -> Option<&Due> {
        self.pilot.as_ref()?.due()
    }

    /// Up to where a stream is applied, or will be by what is in flight.
    fn reached(&self, stream: usize) -> Option<Position> {
        let flying = self.in_flight().filter(|due| due.stream == stream);
        let applied = self.applied.get(stream).copied().flatten();
        applied.max(flying.map(|due| due.position))
    }

    /// What this sink is to have of an event, if anything. What its configuration says of the file may not go with what is in
    /// it: then nothing goes on until somebody changes that. `None` when everything is to stop.
    fn mapped(&mut self, mut event: Event) -> Option<impl Iterator<Item = Event> + use<>> {
        let mut pause = RETRY_MIN;
        let verdict = loop {
            match self.mapping.map(&mut event) {
                Ok(verdict) => break verdict,
                Err(problem) => {
                    self.tell(Some(format!("sink {}: {problem}", self.name)));
                    if !self.wait(&mut pause) {
                        return None;
                    }
                }
            }
        };
        let is_taken = verdict != Verdict::Pass;
        let (first, then) = match verdict {
            Verdict::Pass => (Vec::new(), Vec::new()),
            Verdict::Take(then) => (Vec::new(), then),
            Verdict::Lacks(lack) => {
                self.keep_lack(&event, &lack.reason)?;
                (lack.first, lack.then)
            }
        };
        self.look_at_tables(&event, &then)?;
        let event = is_taken.then_some(event);
        Some(first.into_iter().chain(event).chain(then))
    }

    /// Tells of tables in a file's records that the target gets only now, or with other columns, while it has the file already:
    /// what was in them before doesn't come by itself. `None` when everything is to stop.
    fn look_at_tables(&mut self, event: &Event, of_tables: &[Event]) -> Option<()> {
        for table in of_tables {
            if self.tables.contains(&table.file.path) {
                continue;
            }
            self.tables.insert(table.file.path.clone());
            // While everything is sent anew, so are they.
            let is_begun = self.anew || self.begun.contains(&table.group);
            if is_begun || is_emptied(&table.change) {
                continue;
            }
            let stream = self.streams.get(usize::from(table.group))?.clone();
            if !self.land() {
                return None;
            }
            let mut pause = RETRY_MIN;
            let lacks = loop {
                let sink = &mut self.sink;
                match self
                    .pulse
                    .wait(|| lacking(sink.as_mut(), &stream, event, table))
                {
                    Ok(lacks) => break lacks,
                    Err(error) => self.tell(Some(format!("sink {}: {error}", self.name))),
                }
                if !self.wait(&mut pause) {
                    return None;
                }
            };
            if let Some(why) = lacks {
                let reason = format!(
                    "{} {why}, so it lacks what is in records that haven't been written since; have all files read again \
                     (`counterfoil run --read-again`)",
                    table.file.table.as_deref().unwrap_or_default()
                );
                self.keep_lack(table, &reason)?;
            }
        }
        Some(())
    }

    /// Keeps in mind, for whoever looks at dead letters, that the sink lacks what is in a file. `None` when everything is to
    /// stop.
    fn keep_lack(&mut self, event: &Event, reason: &str) -> Option<()> {
        if !self.land() {
            return None;
        }
        let letter = Letter {
            at_ns: clock::wall(),
            refused_by: self.name.clone(),
            reason: reason.to_owned(),
            stream: self.streams.get(usize::from(event.group))?.clone(),
            position: position_text(event.position),
            file: path_text(&event.file.path),
            op: "rename".to_owned(),
            ..Letter::default()
        };
        let mut pause = RETRY_MIN;
        while let Err(error) = self.letters.lack(letter.clone()) {
            self.tell(Some(format!("sink {}: {error:#}", self.name)));
            if !self.wait(&mut pause) {
                return None;
            }
        }
        self.show_letters();
        Some(())
    }

    /// Whether a batch is to be applied. `more`: something has just come, and there may be more of it.
    fn is_due(&self, more: bool) -> bool {
        let (images, bytes) = self
            .folds
            .iter()
            .map(Fold::volume)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        // Without a delay, what is here already joins all the same: so batches grow with the load.
        let delay = match self.limits.batch_delay_max {
            Duration::ZERO if more => JOIN_MAX,
            delay => delay,
        };
        images >= self.limits.batch_records_max
            || bytes >= BATCH_BYTES_MAX
            || self.oldest.is_some_and(|oldest| oldest.elapsed() >= delay)
    }

    /// Applies what is folded. False when everything is to stop.
    pub(super) fn apply(&mut self) -> bool {
        if !self.land() {
            return false;
        }
        for group in 0..self.folds.len() {
            if self.folds[group].is_empty() {
                continue;
            }
            let (offer, due) = self.next_offer(group);
            let done = self.apply_offer(offer, None);
            if !self.note_done(&due, &done) {
                return false;
            }
        }
        self.oldest = None;
        self.check();
        self.applied(self.taken_end);
        true
    }

    /// Has what is folded applied while more is folded, where that can be. False when everything is to stop.
    fn send_off(&mut self) -> bool {
        if !self.land() {
            return false;
        }
        let mut filled = (0..self.folds.len()).filter(|&group| !self.folds[group].is_empty());
        let (Some(group), None) = (filled.next(), filled.next()) else {
            return self.apply();
        };
        // Letters say what becomes of a batch, and checksums wait for it: one step after the other.
        if !self.checks.is_empty() || !self.letters.is_empty() {
            return self.apply();
        }
        let (mut offer, due) = self.next_offer(group);
        if let Err(error) = self.settle(&mut offer) {
            let problem = Offered::Not(format!("sink {}: {error:#}", self.name));
            return self.see_through(offer, &due, Some(problem));
        }
        let Some(pilot) = &mut self.pilot else {
            return self.see_through(offer, &due, None);
        };
        self.oldest = None;
        let sink = std::mem::replace(&mut self.sink, Box::new(Away));
        let Some(((sink, offer), due)) = pilot.take_off(sink, offer, due) else {
            return true;
        };
        self.sink = sink;
        self.pilot = None;
        self.see_through(offer, &due, None)
    }

    /// Waits for the batch in flight, if one is, and sees to it that it is applied. False when everything is to stop.
    fn land(&mut self) -> bool {
        let flying = self.pilot.as_mut().filter(|pilot| pilot.due().is_some());
        let Some(pilot) = flying else {
            return true;
        };
        let Some(landed) = self.pulse.wait(|| pilot.land()) else {
            self.progress.fail(format!(
                "sink {}: the thread that applies is gone",
                self.name
            ));
            return false;
        };
        let Landed {
            sink,
            mut offer,
            due,
            result,
        } = landed;
        self.sink = sink;
        let offered = self.offered(&mut offer, result);
        self.see_through(offer, &due, Some(offered))
    }

    /// Applies a batch that all that was taken before it went with, and notes what became of it. False when everything is to
    /// stop.
    fn see_through(&mut self, offer: Offer, due: &Due, before: Option<Offered>) -> bool {
        let done = self.apply_offer(offer, before);
        if let Done::Refused = done {
            // What came behind it doesn't follow what the target has.
            self.folds[due.stream] = fold(&self.streams[due.stream], &self.policy);
            self.checks.retain(|check| check.stream() != due.stream);
        }
        if !self.note_done(due, &done) {
            return false;
        }
        if self.folds.iter().all(Fold::is_empty) {
            self.oldest = None;
            self.applied(self.taken_end);
        } else {
            self.applied(due.end);
        }
        true
    }

    /// Takes out what is folded of a stream.
    fn next_offer(&mut self, stream: usize) -> (Offer, Due) {
        let (images, _) = self.folds[stream].volume();
        let (batch, origins) = self.folds[stream].take_with_origins();
        let due = Due {
            stream,
            position: batch.position,
            captured_ns: batch.captured_ns,
            images: images as u64,
            end: self.taken_end,
        };
        let batch = Batch {
            after: self.applied[stream],
            ..batch
        };
        (Offer::of(stream, batch, origins), due)
    }

    /// Notes what became of a batch. False when everything is to stop.
    fn note_done(&mut self, due: &Due, done: &Done) -> bool {
        match done {
            Done::Applied => {}
            Done::Refused => return true,
            Done::Stop => return false,
        }
        self.applied[due.stream] = Some(due.position);
        let lag_ns = clock::wall() - due.captured_ns;
        let stream = self.streams[due.stream].clone();
        self.progress.update_sink(&self.name, |sink| {
            sink.images += due.images;
            sink.batches += 1;
            sink.captured_ns = due.captured_ns;
            sink.lag_ns = lag_ns.max(0);
            sink.positions.insert(stream, due.position);
        });
        true
    }

    /// Everything taken before this lsn is applied.
    fn applied(&self, end: u64) {
        self.progress.update_sink(&self.name, |sink| {
            sink.applied_end = sink.applied_end.max(end);
        });
    }

    /// Applies a batch, for as long as it takes, but for what is refused and may be left out. `before`: what became of it when
    /// it was offered already.
    fn apply_offer(&mut self, mut offer: Offer, before: Option<Offered>) -> Done {
        let mut pause = RETRY_MIN;
        let mut offered = match before {
            Some(offered) => offered,
            None => self.offer(&mut offer),
        };
        loop {
            match offered {
                Offered::Done(done) => return done,
                Offered::Parted => {}
                Offered::Not(problem) => {
                    self.tell(Some(problem));
                    if !self.wait(&mut pause) {
                        return Done::Stop;
                    }
                    // Somebody may have dropped a letter meanwhile.
                    if let Err(error) = self.letters.look_again() {
                        tracing::warn!("sink {}: {error:#}", self.name);
                    }
                }
            }
            offered = self.offer(&mut offer);
        }
    }

    /// Offers a batch once.
    fn offer(&mut self, offer: &mut Offer) -> Offered {
        if let Err(error) = self.settle(offer) {
            return Offered::Not(format!("sink {}: {error:#}", self.name));
        }
        let result = self.pulse.wait(|| self.sink.apply(&offer.batch));
        self.offered(offer, result)
    }

    /// What became of a batch that was offered.
    fn offered(&mut self, offer: &mut Offer, result: Result<(), SinkError>) -> Offered {
        let batch = &offer.batch;
        let error = match result {
            Ok(()) => return self.applied_batch(batch),
            Err(error) => error,
        };
        // A connection may break after the commit: what the sink says it has is what counts.
        if let Ok(Some(stored)) = self.sink.position(&batch.stream)
            && stored == batch.position
        {
            return self.applied_batch(batch);
        }
        let problem = format!("sink {}: {error}", self.name);
        match error {
            SinkError::NotAfter { after, stored, .. } => {
                Offered::Done(self.out_of_step(offer.stream, after, stored, problem))
            }
            SinkError::Refused { .. } => self.part(offer, problem),
            _ => Offered::Not(problem),
        }
    }

    /// The target isn't where this one left it.
    fn out_of_step(
        &mut self,
        stream: usize,
        left: Option<Position>,
        stored: Option<Position>,
        problem: String,
    ) -> Done {
        if self.inlet.refuse(u16::try_from(stream).unwrap_or(u16::MAX)) {
            tracing::warn!("{problem}");
            if let Some(refused) = self.refused.get_mut(stream) {
                *refused = true;
            }
            return Done::Refused;
        }
        if stored < left {
            // Starting again finds out what it lacks now, and what the journal still has of that.
            self.progress.restart(format!(
                "sink {} has stream {} up to {}, and had it up to {}: it is older than it was, as if restored from a backup",
                self.name,
                self.streams[stream],
                shown(stored),
                shown(left),
            ));
        } else {
            self.replaced(problem);
        }
        Done::Stop
    }

    /// Looks now and then, while there is nothing to apply, whether the target is still where it was left: somebody may have
    /// put it back, and there may be no change for long that it would refuse. False when everything is to stop.
    fn look_after_target(&mut self) -> bool {
        if self.looked.elapsed() < LOOK_INTERVAL || !self.folds.iter().all(Fold::is_empty) {
            return true;
        }
        self.looked = Instant::now();
        for stream in 0..self.streams.len() {
            let (name, left) = (self.streams[stream].clone(), self.applied[stream]);
            if self.is_refused(stream) {
                continue;
            }
            // A target that doesn't answer is told of when there is something for it.
            let sink = &mut self.sink;
            let Ok(stored) = self.pulse.wait(|| sink.position(&name)) else {
                continue;
            };
            // With Kafka, others may apply streams of which this one knows where they were once.
            let is_out = stored < left || stored > left && self.config.kafka.is_none();
            let problem = || {
                format!(
                    "sink {}: stream {name} is at {}, and was left at {}; is another replicator writing to this target, or was it restored from a backup?",
                    self.name,
                    shown(stored),
                    shown(left)
                )
            };
            if is_out {
                let problem = problem();
                if let Done::Stop = self.out_of_step(stream, left, stored, problem) {
                    return false;
                }
            }
        }
        true
    }

    /// Somebody else writes to this target: this one stops, and stays so until it is told to take over again. Otherwise the
    /// two would replace each other by turns, wherever something starts them again.
    fn replaced(&self, problem: String) {
        if let Err(error) = crate::state::note_replaced(&self.config, &problem) {
            tracing::warn!("{error:#}");
        }
        self.progress.fail(problem);
    }

    fn applied_batch(&mut self, batch: &Batch) -> Offered {
        self.tell(None);
        if self.letters.has_plan(&batch.stream) {
            // What isn't done now is done before the next batch, or after the next start.
            if let Err(error) = self.letters.resolve(&batch.stream, Some(batch.position)) {
                tracing::warn!("sink {}: {error:#}", self.name);
            }
            self.show_letters();
        }
        Offered::Done(Done::Applied)
    }

    /// Leaves out what is passed over, and sees to it that what is refused is kept before the batch is applied.
    fn settle(&mut self, offer: &mut Offer) -> Result<()> {
        let stays = self.letters.stays(&offer.batch)?;
        if stays.contains(&false) {
            let mut each = stays.iter();
            offer.batch.files.retain(|_| each.next() != Some(&false));
            offer.lose(&stays);
            self.show_letters();
        }
        self.letters.settle(&offer.batch, &offer.refusals)
    }

    /// The sink refuses something in a batch: finds it, and leaves it out if that is its file's policy.
    fn part(&mut self, offer: &mut Offer, problem: String) -> Offered {
        let (pulse, progress, sink) = (&self.pulse, &self.progress, &mut self.sink);
        let mut rehearse = |batch: &Batch| {
            if progress.is_stopping() {
                return Err(SinkError::Transient {
                    doing: "looking for what is refused".to_owned(),
                    cause: "everything stops".to_owned(),
                });
            }
            pulse.wait(|| sink.rehearse(batch))
        };
        // What was found once needn't be looked for again as long as it is still so.
        if let Some(Held {
            problem,
            probe: Some(probe),
        }) = &offer.held
            && let Err(SinkError::Refused { .. }) = rehearse(probe)
        {
            return Offered::Not(problem.clone());
        }
        let refused = Refused {
            sink: &self.name,
            batch: &offer.batch,
            origins: &offer.origins,
            stream: offer.stream,
            policy: &self.policy,
        };
        let parted = match refused.part(&mut rehearse) {
            Ok(Outcome::Parted(parted)) => parted,
            Ok(Outcome::Held(held)) => {
                let told = match held.problem.as_str() {
                    "" => problem,
                    found => found.to_owned(),
                };
                offer.held = Some(held);
                return Offered::Not(told);
            }
            Err(error) => return Offered::Not(format!("sink {}: {error}", self.name)),
        };
        if let Err(error) = self.leave_out(offer, parted) {
            return Offered::Not(format!("{problem}; it can't be kept: {error:#}"));
        }
        Offered::Parted
    }

    /// Goes on without what is refused, once that is kept.
    fn leave_out(&mut self, offer: &mut Offer, parted: Parted) -> Result<()> {
        let mut refusals = offer.refusals.clone();
        remap(&mut refusals, &parted.stays);
        refusals.extend(parted.records);
        for stop in parted.stops {
            self.letters.stop(stop)?;
        }
        self.letters.settle(&parted.rest, &refusals)?;
        offer.lose(&parted.stays);
        offer.batch = parted.rest;
        offer.refusals = refusals;
        offer.held = None;
        self.show_letters();
        Ok(())
    }

    /// Looks what somebody has asked for, and does it.
    fn mend(&mut self) {
        self.remove_orphans();
        if !self.letters.is_due() {
            return;
        }
        match self.letters.look_again() {
            Ok(false) => {}
            Ok(true) => self.show_letters(),
            Err(error) => {
                let problem = format!("sink {}: {error:#}", self.name);
                self.progress.set_problems(&self.subject(), &[problem]);
                return;
            }
        }
        // With Kafka, whoever captures looks for this. It waits for sinks that are away.
        if self.config.kafka.is_none()
            && self.config.site.read_again_path().exists()
            && self
                .progress
                .sinks()
                .values()
                .all(|sink| sink.error.is_none())
        {
            self.progress
                .restart_reading_again("all files are to be read again".to_owned());
        }
        if self.amend_after.is_some_and(|after| Instant::now() < after) {
            return;
        }
        self.amend_after = None;
        for stream in 0..self.streams.len() {
            for number in self
                .letters
                .asked(&self.streams[stream], self.applied[stream])
            {
                self.pulse.beat();
                if let Err(problem) = self.amend(stream, number) {
                    tracing::warn!("dead letter {number} can't be tried now: {problem}");
                    self.amend_after = Some(Instant::now() + AMEND_AGAIN_AFTER);
                    return;
                }
                self.show_letters();
            }
        }
    }

    fn subject(&self) -> String {
        format!("letters of {}", self.name)
    }

    /// Says what the sink lacks.
    fn show_letters(&self) {
        let problems = self.letters.problems();
        self.progress.set_problems(&self.subject(), &problems);
        let (kept, made_up) = self.letters.counts();
        let (lacking, stopped) = (self.letters.lacking(), self.letters.stopped());
        self.progress.update_sink(&self.name, |sink| {
            sink.letters_kept = kept;
            sink.letters_made_up = made_up;
            sink.lacking = lacking;
            sink.stopped = stopped;
        });
    }

    /// Says why the sink isn't going on, or that it is.
    fn tell(&self, problem: Option<String>) {
        self.progress.update_sink(&self.name, |sink| {
            if let Some(problem) = &problem
                && sink.error.as_ref() != Some(problem)
            {
                tracing::warn!("{problem}");
            }
            sink.error = problem;
        });
    }

    /// Waits before something is tried again, longer from time to time. False when everything is to stop.
    fn wait(&self, pause: &mut Duration) -> bool {
        let until = Instant::now() + jittered(*pause);
        while Instant::now() < until {
            if self.progress.is_stopping() {
                return false;
            }
            self.pulse.beat();
            std::thread::sleep(RETRY_MIN);
        }
        *pause = (*pause * 2).min(RETRY_MAX);
        true
    }
}

/// The unit of work that an event is of: all of one ends at one operation.
fn unit_of(event: &Event) -> (u16, u64, u64) {
    (event.group, event.position.epoch, event.position.lsn)
}

/// An empty fold of a stream.
fn fold(stream: &str, policy: &Policy) -> Fold {
    let policy = Arc::clone(policy);
    Fold::new(stream.to_owned()).tracing(Arc::new(move |file| policy(file) != OnRefused::Retry))
}

/// What is to be noted of a batch once it is applied.
pub(super) struct Due {
    /// Index of its stream.
    stream: usize,
    position: Position,
    captured_ns: i64,
    images: u64,
    /// First lsn not covered by what was taken when it was put together.
    end: u64,
}

/// A batch on its way to the sink.
pub(super) struct Offer {
    /// Index of its stream.
    stream: usize,
    pub(super) batch: Batch,
    /// Where its images come from.
    origins: Origins,
    /// What was in it and is kept as dead letters, by place in its files.
    refusals: Vec<Refusal>,
    /// Why it was held when it was last offered.
    held: Option<Held>,
}

impl Offer {
    fn of(stream: usize, batch: Batch, origins: Origins) -> Offer {
        Offer {
            stream,
            batch,
            origins,
            refusals: Vec::new(),
            held: None,
        }
    }

    /// Not all of its files stay.
    fn lose(&mut self, stays: &[bool]) {
        let mut each = stays.iter();
        self.origins.retain(|_| each.next() != Some(&false));
        remap(&mut self.refusals, stays);
    }
}

/// Places of refusals once some files are out of the batch.
fn remap(refusals: &mut Vec<Refusal>, stays: &[bool]) {
    refusals.retain(|refusal| stays.get(refusal.at) != Some(&false));
    for refusal in refusals {
        refusal.at = stays[..refusal.at].iter().filter(|stays| **stays).count();
    }
}

/// What became of an offer.
enum Offered {
    Done(Done),
    /// Not yet, for this reason.
    Not(String),
    /// Something is left out of it; the rest may go at once.
    Parted,
}

/// Some time up to the given one: so not all that waited for the same come back at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) % 1024;
    pause / 2 + pause.mul_f64(chance as f64 / 2048.0)
}

/// What became of a batch.
enum Done {
    Applied,
    /// Another process has applied something.
    Refused,
    /// Everything is to stop.
    Stop,
}

/// What a sink has of each stream.
pub fn positions(
    streams: &[String],
    sink: &mut dyn Sink,
) -> Result<Vec<Option<Position>>, SinkError> {
    streams.iter().map(|stream| sink.position(stream)).collect()
}

/// Marks each stream the sink knows nothing of, or too little, as applied up to a position.
pub fn attach(streams: &[String], sink: &mut dyn Sink, at: Position) -> Result<(), SinkError> {
    for stream in streams {
        let stored = sink.position(stream)?;
        if stored < Some(at) {
            sink.apply(&beginning(stream.clone(), stored, at))?;
        }
    }
    Ok(())
}

/// A batch that changes nothing but the position.
fn beginning(stream: String, after: Option<Position>, position: Position) -> Batch {
    Batch {
        stream,
        after,
        position,
        captured_ns: 0,
        files: Vec::new(),
    }
}

/// Why a target lacks what was in a table of a file's records, if it does.
fn lacking(
    sink: &mut dyn Sink,
    stream: &str,
    event: &Event,
    table: &Event,
) -> Result<Option<&'static str>, SinkError> {
    let mut snapshot = sink.snapshot()?;
    let Some(stored) = snapshot.file(stream, &table.file.path)? else {
        let has_file = snapshot.file(stream, &event.file.path)?.is_some();
        return Ok(has_file.then_some("is new"));
    };
    let plan = table.file.plan.as_deref();
    let evolution = plan.and_then(|plan| stored.shape.evolve(plan).ok());
    let is_other = evolution.is_some_and(|evolution| evolution.refill);
    Ok(is_other.then_some("has other columns now"))
}

/// Whether nothing is in a file after this.
fn is_emptied(change: &Change) -> bool {
    matches!(
        change,
        Change::Removed
            | Change::Cleared {
                from: 0,
                to: u64::MAX
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Change, Event};
    use crate::transport::channel;
    use counterfoil_records::{Layout, Organization, RecordFormat};
    use counterfoil_sinks::FileDescription;

    const LIMIT: Duration = Duration::from_secs(60);

    fn parcel(lsn: u64) -> Parcel {
        let file = Arc::new(FileDescription {
            path: b"/a.dat".to_vec(),
            group: "g".to_owned(),
            format: RecordFormat::new(Organization::Stream, Layout::Newline),
            table: None,
            tree: None,
            schema: None,
            plan: None,
        });
        let event = Event {
            position: Position {
                epoch: 1,
                lsn,
                index: 0,
            },
            group: 0,
            file,
            size: 0,
            change: Change::Put {
                id: lsn,
                data: b"record".to_vec(),
                rest: Vec::new(),
            },
            captured_ns: 1,
            pid: 1,
            snapshot: false,
            before: None,
        };
        Parcel {
            events: vec![event],
            end: lsn + 1,
            ..Parcel::default()
        }
    }

    #[test]
    fn without_a_delay_what_is_here_is_one_batch_and_nothing_waits_for_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let text = "[site]\nname = 'hq'\nstate = 'state'\n[apply]\nbatch_delay_ms_max = 0\n\
             [[group]]\nname = 'g'\n[[group.file]]\npath = '/a.dat'\norganization = 'stream'\nlayout = 'newline'\n";
        std::fs::write(&path, text).expect("writing the configuration");
        std::fs::create_dir(directory.path().join("state")).expect("the state directory");
        let config = Arc::new(Config::load(&path).expect("a good configuration"));
        let sink = crate::replicator::open_sink(&config.sinks[0]).expect("a sink");
        let progress = Arc::new(Progress::default());
        let (outlet, mut inlets) = channel(1);
        let send = |lsn| outlet.send(parcel(lsn)).expect("there is an inlet");
        (1..=5).for_each(send);
        let applier = Applier::new(
            &config,
            config.own_streams(),
            "s".to_owned(),
            sink,
            inlets.pop().expect("one"),
            vec![None],
            Arc::clone(&progress),
        );
        let applying = std::thread::spawn(move || applier.run());
        let applied = |images: u64| {
            let begin = Instant::now();
            loop {
                let sink = progress.sinks().get("s").cloned().unwrap_or_default();
                if sink.images >= images {
                    return (sink.images, sink.batches);
                }
                assert!(begin.elapsed() < LIMIT, "only {} came", sink.images);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(applied(5), (5, 1));
        send(6);
        assert_eq!(applied(6), (6, 2));
        drop(outlet);
        applying.join().expect("it doesn't panic");
    }
}
