//! The dead letters of one sink: which records it lacks, and which files it is passed over.
//!
//! For each record there is at most one letter, of the last image that was refused; a table that keeps every change lacks
//! each by itself. A letter is open as long as the target lacks what is in it: a later change of the record that the
//! target takes closes it, and where the file is renamed it goes along.
//!
//! What is refused is on the disk before the rest of its batch is applied. What the batch closes and moves is done after
//! that, by a plan that is on the disk before: whoever finds the plan later does it if the target has the batch, and drops
//! it if it hasn't. So it comes to the same wherever it is interrupted, and however the stream is cut when it comes again.
//! What a letter's position tells is whether it is of a batch that the target has.
//!
//! A file that is passed over is so under its name; names that a rename leads to or from while it lasts are passed over as
//! well, since their tables would have parts of it. It ends when the stream begins anew and somebody has asked for it.

use crate::dead_letters::{Draft, Letter, STOP, Store};
use crate::transport::wire;
use anyhow::{Context as _, Result};
use counterfoil_lane::clock;
use counterfoil_proto::{Position, path_text, v1};
use counterfoil_sinks::{Batch, FileChanges, FileDescription, FileFate, Image, LoggedChange};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// How often it is looked whether somebody else has dropped or asked for a letter.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Times of files are no finer than this, with room.
const TIME_GRAIN: Duration = Duration::from_secs(1);
/// Files that are told of by name.
const TOLD_MAX: usize = 10;
const PLAN_EXTENSION: &str = "plan";

/// What is refused and to be kept.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Place of the file's changes in the batch.
    pub(super) at: usize,
    /// What is kept of it; it has no number yet.
    pub(super) letter: Letter,
    /// Its event.
    pub(super) event: Vec<u8>,
}

/// The letters of one sink.
pub(super) struct Letters {
    store: Store,
    sink: String,
    /// By number.
    open: BTreeMap<u64, Letter>,
    /// Numbers of all letters in the store, whosesoever.
    known: BTreeSet<u64>,
    /// What is to be done once a batch is applied, by stream.
    plans: BTreeMap<String, Plan>,
    seen: Option<SystemTime>,
    looked: Option<Instant>,
    kept: u64,
    made_up: u64,
}

/// What becomes of letters once a target has a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    sink: String,
    stream: String,
    /// The batch's.
    position: String,
    closes: Vec<u64>,
    moves: Vec<Move>,
    #[serde(default)]
    follows: Vec<Follow>,
}

/// A later change of a letter's record, in a table that keeps every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Follow {
    number: u64,
    /// Where and when the record was deleted, if that was the change.
    deleted_at: String,
    deleted_ns: i64,
}

/// A letter goes along with its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    number: u64,
    /// The file's new name, as text.
    file: String,
    /// The file as events speak of it.
    described: Vec<u8>,
}

/// A letter on its way through a batch.
#[derive(Clone, Copy, Debug)]
struct Passenger {
    letter: Source,
    record: Option<u64>,
    position: Position,
    history: bool,
    next: Next,
}

/// What came next of a record in a table that keeps every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// That is known already.
    Known,
    Put,
    Deleted(Position, i64),
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The number of one that was there before the batch.
    Open(u64),
    /// The number of a refusal in the batch.
    New(usize),
}

/// A position as letters have it.
pub(super) fn position_text(position: Position) -> String {
    format!("{}/{}/{}", position.epoch, position.lsn, position.index)
}

/// The position of a letter; the very first, where it can't be read.
pub(super) fn position_of(text: &str) -> Position {
    let mut parts = text.split('/');
    let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
    Position {
        epoch: next().unwrap_or_default(),
        lsn: next().unwrap_or_default(),
        index: next()
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or_default(),
    }
}

impl Letters {
    /// Those of a sink; nothing is read yet.
    pub(super) fn of(store: Store, sink: &str) -> Letters {
        Letters {
            store,
            sink: sink.to_owned(),
            open: BTreeMap::new(),
            known: BTreeSet::new(),
            plans: BTreeMap::new(),
            seen: None,
            looked: None,
            kept: 0,
            made_up: 0,
        }
    }

    /// Reads what is there, and does what was planned for batches that the target has. `applied` is what it has, by stream.
    ///
    /// # Errors
    /// The store can't be read, or takes nothing.
    pub(super) fn begin<'s>(
        &mut self,
        applied: impl IntoIterator<Item = (&'s String, Option<Position>)>,
    ) -> Result<()> {
        self.look()?;
        for (stream, stored) in applied {
            let path = self.plan_path(stream);
            match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                text => {
                    let reading = || format!("reading {}", path.display());
                    let plan = serde_json::from_slice(&text.with_context(reading)?);
                    self.plans
                        .insert(stream.clone(), plan.with_context(reading)?);
                }
            }
            self.resolve(stream, stored)?;
        }
        Ok(())
    }

    /// Whether it is time to look what others have dropped or asked for; if so, it isn't for a while.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL);
        if is_due {
            self.looked = Some(Instant::now());
        }
        is_due
    }

    /// Looks what others have dropped or asked for. Says whether there may be anything new.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) fn look_again(&mut self) -> Result<bool> {
        let changed = self.store.changed();
        // Within a grain of its time more may have changed than can be told.
        let is_old = changed
            .and_then(|changed| changed.elapsed().ok())
            .is_some_and(|age| age > TIME_GRAIN);
        if changed == self.seen && (is_old || changed.is_none()) {
            return Ok(false);
        }
        self.look()?;
        self.seen = changed;
        Ok(true)
    }

    fn look(&mut self) -> Result<()> {
        let numbers = self.store.numbers()?;
        let asked = self.store.asked()?;
        self.open.retain(|number, _| numbers.contains(number));
        for &number in numbers.difference(&self.known) {
            if let Some(letter) = self.store.letter(number)?
                && letter.refused_by == self.sink
            {
                self.open.insert(number, letter);
            }
        }
        for (number, letter) in &mut self.open {
            letter.asked = asked.contains(number);
        }
        self.known = numbers;
        Ok(())
    }

    /// Puts letters on the disk, and gives them as they are there.
    fn keep(&mut self, letters: &[(Letter, Vec<u8>)]) -> Result<()> {
        let drafts: Vec<Draft<'_>> = letters
            .iter()
            .map(|(letter, event)| Draft { letter, event })
            .collect();
        let kept = match self.store.keep_all(&drafts) {
            Ok(kept) => kept,
            Err(error) => {
                // Some of them may be there all the same.
                self.known.clear();
                self.look()?;
                return Err(error);
            }
        };
        for (kept, (letter, _)) in kept.into_iter().zip(letters) {
            if letter.number == 0 {
                self.kept += 1;
                tracing::warn!(
                    "sink {}: {}: {}; kept as dead letter {}",
                    self.sink,
                    whose(&kept),
                    kept.reason,
                    kept.number
                );
            }
            self.known.insert(kept.number);
            let asked = letter.asked;
            self.open.insert(kept.number, Letter { asked, ..kept });
        }
        Ok(())
    }

    fn close(&mut self, number: u64) -> Result<Option<Letter>> {
        self.store.drop_letter(number)?;
        self.known.remove(&number);
        Ok(self.open.remove(&number))
    }

    /// The letter by which a file is passed over.
    fn stop_of(&self, stream: &str, file: &str) -> Option<&Letter> {
        let mut open = self.open.values();
        open.find(|letter| letter.is_stop() && letter.stream == stream && letter.file == file)
    }

    /// Which of a batch's files stay when those that are passed over are left out. Names that they are renamed to or from
    /// are passed over from now on.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn stays(&mut self, batch: &Batch) -> Result<Vec<bool>> {
        let mut stays = vec![true; batch.files.len()];
        if !self.open.values().any(Letter::is_stop) {
            return Ok(stays);
        }
        for (changes, stays) in batch.files.iter().zip(&mut stays) {
            let path = path_text(&changes.file.path);
            let from = changes.renamed_from.as_deref().map(path_text);
            let stop = self.stop_of(&batch.stream, &path);
            let from_stop = from.as_ref().and_then(|it| self.stop_of(&batch.stream, it));
            *stays = stop.is_none() && from_stop.is_none();
            let spread = match (stop, from_stop, from) {
                (Some(stop), None, Some(from)) => Some((stop.clone(), from)),
                (None, Some(stop), Some(_)) => Some((stop.clone(), path)),
                _ => None,
            };
            if let Some((stop, file)) = spread {
                self.spread(stop, file)?;
            }
        }
        Ok(stays)
    }

    /// Passes over another name as well.
    fn spread(&mut self, stop: Letter, file: String) -> Result<()> {
        let (_, event) = self.store.read(stop.number)?;
        let letter = Letter {
            number: 0,
            at_ns: clock::wall(),
            reason: format!(
                "a rename leads to or from {}, which is passed over: {}",
                stop.file, stop.reason
            ),
            file,
            asked: false,
            ..stop
        };
        self.keep(&[(letter, event)])
    }

    /// A file is passed over from now on.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn stop(&mut self, refusal: Refusal) -> Result<()> {
        let letter = Letter {
            op: STOP.to_owned(),
            ..refusal.letter
        };
        match self.stop_of(&letter.stream, &letter.file) {
            Some(_) => Ok(()),
            None => self.keep(&[(letter, refusal.event)]),
        }
    }

    /// The sink lacks what was in a file before.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn lack(&mut self, letter: Letter) -> Result<()> {
        let is_same = |known: &&Letter| {
            let is_lack = known.record.is_none() && !known.is_stop();
            is_lack && (&known.stream, &known.file) == (&letter.stream, &letter.file)
        };
        // A file that comes again takes the letter that is there: however often, the store doesn't fill.
        let known = self.open.values().find(is_same);
        if known.is_some_and(|known| known.position == letter.position) {
            return Ok(());
        }
        let number = known.map_or(0, |known| known.number);
        self.keep(&[(Letter { number, ..letter }, Vec::new())])
    }

    /// A stream begins anew, with all that is in its files: what was missing comes, and those that somebody has asked for
    /// are passed over no more.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn begin_anew(&mut self, stream: &str) -> Result<()> {
        let is_over = |letter: &&Letter| {
            let is_lack = letter.record.is_none() && !letter.is_stop();
            letter.stream == stream && (is_lack || letter.is_stop() && letter.asked)
        };
        let over = self.open.values().filter(is_over);
        let over: Vec<u64> = over.map(|letter| letter.number).collect();
        for number in over {
            if let Some(letter) = self.close(number)? {
                tracing::info!(
                    "sink {}: {} is sent to it again (dead letter {number})",
                    self.sink,
                    letter.file
                );
            }
        }
        Ok(())
    }

    /// Keeps what of a batch is refused, and plans what becomes of letters by the rest of it. When this returns, all of that
    /// is on the disk, and [`Letters::applied`] does it.
    ///
    /// # Errors
    /// The disk takes nothing, or there is no room.
    pub(super) fn settle(&mut self, batch: &Batch, refusals: &[Refusal]) -> Result<()> {
        self.resolve(&batch.stream, batch.after)?;
        if self.open.is_empty() && refusals.is_empty() {
            return Ok(());
        }
        let mut aboard: HashMap<String, Vec<Passenger>> = HashMap::new();
        // Kept when the batch was tried before; what isn't refused any more is made up for by it.
        let mut earlier: Vec<u64> = Vec::new();
        let of_stream = self
            .open
            .values()
            .filter(|letter| letter.stream == batch.stream && !letter.is_stop());
        for letter in of_stream {
            let position = Some(position_of(&letter.position));
            if position > batch.after {
                let is_tried_before = letter.record.is_some() && position <= Some(batch.position);
                earlier.extend(is_tried_before.then_some(letter.number));
                continue;
            }
            aboard
                .entry(letter.file.clone())
                .or_default()
                .push(Passenger {
                    letter: Source::Open(letter.number),
                    record: letter.record,
                    position: position_of(&letter.position),
                    history: letter.history,
                    next: match letter.followed {
                        true => Next::Known,
                        false => Next::Nothing,
                    },
                });
        }
        let mut described: HashMap<String, &FileDescription> = HashMap::new();
        let mut closed = Vec::new();
        for (at, changes) in batch.files.iter().enumerate() {
            let file = path_text(&changes.file.path);
            follow(&mut aboard, changes, &file, batch, &mut closed);
            let here = refusals.iter().enumerate();
            for (number, refusal) in here.filter(|(_, refusal)| refusal.at == at) {
                let mut passenger = Passenger {
                    letter: Source::New(number),
                    record: refusal.letter.record,
                    position: position_of(&refusal.letter.position),
                    history: refusal.letter.history,
                    next: Next::Nothing,
                };
                passenger.see(changes, batch);
                let passengers = aboard.entry(file.clone()).or_default();
                // A later image that is refused takes the place of an earlier one.
                let is_replaced =
                    |other: &mut Passenger| !other.history && other.record == passenger.record;
                closed.extend(passengers.extract_if(.., is_replaced));
                passengers.push(passenger);
            }
            described.insert(file, &changes.file);
        }
        let mut plan = Plan {
            sink: self.sink.clone(),
            stream: batch.stream.clone(),
            position: position_text(batch.position),
            closes: Vec::new(),
            moves: Vec::new(),
            follows: Vec::new(),
        };
        let mut keep = Vec::new();
        for (file, passengers) in aboard {
            for passenger in passengers {
                match passenger.letter {
                    Source::Open(number) => {
                        plan.follows.extend(passenger.follow(number));
                        if let Some(to) = described.get(&file)
                            && self
                                .open
                                .get(&number)
                                .is_some_and(|letter| letter.file != file)
                        {
                            plan.moves.push(Move {
                                number,
                                file: file.clone(),
                                described: wire::file(to, 0).encode_to_vec(),
                            });
                        }
                    }
                    Source::New(number) => {
                        let Refusal { letter, event, .. } = &refusals[number];
                        let known = earlier.iter().position(|number| {
                            let known = &self.open[number];
                            known.record == letter.record && known.position == letter.position
                        });
                        let number = known.map_or(0, |at| earlier.swap_remove(at));
                        if self
                            .open
                            .get(&number)
                            .is_some_and(|known| known.file == file)
                        {
                            continue;
                        }
                        let event = match described.get(&file) {
                            Some(to) if letter.file != file => renamed(event, &wire::file(to, 0))?,
                            _ => event.clone(),
                        };
                        let follow = passenger.follow(number);
                        let letter = Letter {
                            number,
                            file: file.clone(),
                            ..letter.clone()
                        };
                        let letter = match follow {
                            Some(follow) => follow.told(letter),
                            None => letter,
                        };
                        keep.push((letter, event));
                    }
                }
            }
        }
        plan.closes = closed
            .iter()
            .filter_map(|passenger| match passenger.letter {
                Source::Open(number) => Some(number),
                Source::New(_) => None,
            })
            .chain(earlier)
            .collect();
        // In their order in the batch.
        keep.sort_by_key(|(letter, _)| position_of(&letter.position));
        self.keep(&keep)?;
        self.write_plan(plan)
    }

    fn plan_path(&self, stream: &str) -> PathBuf {
        let name = format!("{}@{}", self.sink, stream.replace('/', "@"));
        self.store
            .directory()
            .join(name)
            .with_extension(PLAN_EXTENSION)
    }

    fn write_plan(&mut self, plan: Plan) -> Result<()> {
        if self.plans.get(&plan.stream) == Some(&plan) {
            return Ok(());
        }
        if plan.closes.is_empty() && plan.moves.is_empty() && plan.follows.is_empty() {
            return self.drop_plan(&plan.stream);
        }
        let path = self.plan_path(&plan.stream);
        let text = serde_json::to_vec(&plan)?;
        crate::publish::images::replace(&path, &text)
            .with_context(|| format!("writing {}", path.display()))?;
        self.plans.insert(plan.stream.clone(), plan);
        Ok(())
    }

    fn drop_plan(&mut self, stream: &str) -> Result<()> {
        if self.plans.remove(stream).is_some() {
            let path = self.plan_path(stream);
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Does what was planned for a batch if the target has it, and drops the plan if it hasn't.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn resolve(&mut self, stream: &str, stored: Option<Position>) -> Result<()> {
        let Some(plan) = self.plans.get(stream).cloned() else {
            return Ok(());
        };
        if stored < Some(position_of(&plan.position)) {
            return self.drop_plan(stream);
        }
        let mut moved = Vec::new();
        for to in &plan.moves {
            // Somebody may have dropped it.
            if let Some(letter) = self.open.get(&to.number) {
                let (_, event) = self.store.read(to.number)?;
                let file = v1::File::decode(to.described.as_slice())?;
                let event = match event.is_empty() {
                    true => event,
                    false => renamed(&event, &file)?,
                };
                let file = to.file.clone();
                moved.push((
                    Letter {
                        file,
                        ..letter.clone()
                    },
                    event,
                ));
            }
        }
        for follow in &plan.follows {
            if let Some(letter) = self.open.get(&follow.number) {
                let (_, event) = self.store.read(follow.number)?;
                moved.push((follow.clone().told(letter.clone()), event));
            }
        }
        self.keep(&moved)?;
        for &number in &plan.closes {
            if let Some(letter) = self.close(number)? {
                self.made_up += 1;
                tracing::info!(
                    "sink {}: a later change made up for dead letter {number} ({})",
                    self.sink,
                    whose(&letter)
                );
            }
        }
        self.drop_plan(stream)
    }

    /// Whether there are none, and nothing is planned for any.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.plans.is_empty()
    }

    /// Whether anything is planned for when a stream's batch is applied.
    pub(super) fn has_plan(&self, stream: &str) -> bool {
        self.plans.contains_key(stream)
    }

    /// The letters of a stream's records that somebody has asked for, as far as the target has come.
    pub(super) fn asked(&self, stream: &str, applied: Option<Position>) -> Vec<u64> {
        let asked = self.open.values().filter(|letter| {
            let is_record = letter.record.is_some() && !letter.is_stop();
            letter.asked
                && is_record
                && letter.stream == stream
                && Some(position_of(&letter.position)) <= applied
        });
        asked.map(|letter| letter.number).collect()
    }

    /// A letter with its event.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn read(&self, number: u64) -> Result<(Letter, Vec<u8>)> {
        self.store.read(number)
    }

    /// The target has what is in a letter.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn applied(&mut self, letter: &Letter) -> Result<()> {
        self.close(letter.number).map(drop)
    }

    /// What was asked for a letter was in vain.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub(super) fn refused_again(
        &mut self,
        letter: &Letter,
        event: Vec<u8>,
        reason: String,
    ) -> Result<()> {
        let letter = Letter {
            reason,
            tried_ns: clock::wall(),
            asked: false,
            ..letter.clone()
        };
        self.keep(&[(letter.clone(), event)])?;
        self.store.answer(letter.number)
    }

    /// Letters kept, and letters made up for, since the start.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.kept, self.made_up)
    }

    fn records(&self) -> impl Iterator<Item = &Letter> {
        let open = self.open.values();
        open.filter(|letter| letter.record.is_some() && !letter.is_stop())
    }

    /// By file, how many of its records the target lacks.
    pub(super) fn lacking(&self) -> BTreeMap<String, u64> {
        let mut lacking = BTreeMap::new();
        for letter in self.records() {
            *lacking.entry(letter.file.clone()).or_default() += 1;
        }
        lacking
    }

    /// Files that are passed over.
    pub(super) fn stopped(&self) -> Vec<String> {
        let stops = self.open.values().filter(|letter| letter.is_stop());
        stops.map(|letter| letter.file.clone()).collect()
    }

    /// What is to be told of it.
    pub(super) fn problems(&self) -> Vec<String> {
        let sink = &self.sink;
        let mut problems = Vec::new();
        if let Some(letter) = self.records().last() {
            let count = self.records().count();
            let lacks = match count {
                1 => "a record that it refuses".to_owned(),
                count => format!("{count} records that it refuses, the last"),
            };
            problems.push(format!(
                "sink {sink} lacks {lacks}: {}: {}; `counterfoil errors list` has {}, and `counterfoil errors retry` applies them once the reason is gone",
                whose(letter),
                letter.reason,
                if count == 1 { "it" } else { "them" },
            ));
        }
        let others = self
            .open
            .values()
            .filter(|letter| letter.is_stop() || letter.record.is_none());
        let count = others.clone().count();
        problems.extend(others.take(TOLD_MAX).map(|letter| {
            if !letter.is_stop() {
                return format!(
                    "sink {sink}: {} (dead letter {})",
                    letter.reason, letter.number
                );
            }
            let next = if letter.asked {
                "it is read again as soon as all files are".to_owned()
            } else {
                format!(
                    "once the reason is gone, `counterfoil errors retry {}` has it read again",
                    letter.number
                )
            };
            format!(
                "sink {sink} passes over {} from {} on: {}; {next}",
                letter.file, letter.position, letter.reason
            )
        }));
        if count > TOLD_MAX {
            problems.push(format!("sink {sink} lacks {} more files", count - TOLD_MAX));
        }
        problems
    }
}

impl Follow {
    /// A letter that says so.
    fn told(self, letter: Letter) -> Letter {
        Letter {
            followed: true,
            deleted_at: self.deleted_at,
            deleted_ns: self.deleted_ns,
            ..letter
        }
    }
}

impl Passenger {
    /// Looks for what came next of the record in a table that keeps every change.
    fn see(&mut self, changes: &FileChanges, batch: &Batch) {
        let Some(record) = self
            .record
            .filter(|_| self.history && self.next == Next::Nothing)
        else {
            return;
        };
        let later = changes
            .log
            .iter()
            .filter(|logged| logged.position > self.position);
        let next = later.filter_map(|logged| match &logged.change {
            LoggedChange::Image { id, image } if *id == record => Some(match image {
                Image::Record { .. } => Next::Put,
                Image::Residue { .. } | Image::Absent => {
                    Next::Deleted(logged.position, logged.captured_ns)
                }
            }),
            LoggedChange::Cleared(range) if covers(range, record) => {
                Some(Next::Deleted(logged.position, logged.captured_ns))
            }
            _ => None,
        });
        self.next = match next.into_iter().next() {
            Some(next) => next,
            None if changes.fate == FileFate::Removed => {
                Next::Deleted(batch.position, batch.captured_ns)
            }
            None => Next::Nothing,
        };
    }

    /// What is to be kept of that.
    fn follow(&self, number: u64) -> Option<Follow> {
        let (deleted_at, deleted_ns) = match self.next {
            Next::Nothing | Next::Known => return None,
            Next::Put => (String::new(), 0),
            Next::Deleted(position, captured_ns) => (position_text(position), captured_ns),
        };
        Some(Follow {
            number,
            deleted_at,
            deleted_ns,
        })
    }
}

/// Whether a range of identities has a record.
fn covers(range: &std::ops::Range<u64>, record: u64) -> bool {
    range.start <= record && (record < range.end || range.end == u64::MAX)
}

/// What becomes of letters by what happens to a file. In a table that keeps every change nothing that comes later makes up
/// for one, but what came next is kept in mind: a record that was deleted since must not come back.
fn follow(
    aboard: &mut HashMap<String, Vec<Passenger>>,
    changes: &FileChanges,
    file: &String,
    batch: &Batch,
    closed: &mut Vec<Passenger>,
) {
    let mut take = |file: &String| {
        let passengers = aboard.get_mut(file);
        passengers.map_or_else(Vec::new, |passengers| {
            passengers.extract_if(.., |it| !it.history).collect()
        })
    };
    if let Some(from) = &changes.renamed_from
        && *from != changes.file.path
    {
        closed.extend(take(file));
        let moved = take(&path_text(from));
        aboard.entry(file.clone()).or_default().extend(moved);
    }
    let Some(passengers) = aboard.get_mut(file) else {
        return;
    };
    for passenger in &mut *passengers {
        passenger.see(changes, batch);
    }
    let is_cleared = |record: u64| changes.cleared.iter().any(|range| covers(range, record));
    let is_over = |passenger: &mut Passenger| {
        let is_made_up = |record| changes.images.contains_key(&record) || is_cleared(record);
        !passenger.history
            && match passenger.record {
                _ if changes.fate == FileFate::Removed => true,
                Some(record) => is_made_up(record),
                // Nothing is lacking of what is empty.
                None => changes.cleared.contains(&(0..u64::MAX)),
            }
    };
    closed.extend(passengers.extract_if(.., is_over));
}

/// An event of a file under another name.
fn renamed(event: &[u8], to: &v1::File) -> Result<Vec<u8>> {
    let mut event = v1::ChangeEvent::decode(event).context("reading the event of a dead letter")?;
    let size = event.file.as_ref().map_or(0, |file| file.size);
    event.file = Some(v1::File { size, ..to.clone() });
    Ok(event.encode_to_vec())
}

/// What a letter is about, for people.
fn whose(letter: &Letter) -> String {
    match letter.record {
        Some(record) => format!("record {record} of {}", letter.file),
        None => letter.file.clone(),
    }
}
