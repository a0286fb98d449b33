//! The lanes of all captured programs: found, read frame by frame, and handed back.

use counterfoil_lane::board::Board;
use counterfoil_lane::frame::{Header, Kind};
use counterfoil_lane::reader::{InFlight, Segment, SegmentError, Writer, decode_name};
use counterfoil_lane::sync::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(all(test, not(schedules)))]
#[path = "lanes/tests.rs"]
mod tests;

/// Frames read ahead of a lane's oldest unreleased one; what is beyond stays in the lane.
const QUEUE_FRAMES_MAX: usize = 8192;
/// Uses of segments read in one go: more than a lane may have segments. Somebody may write that they are full faster than
/// they are read.
const USES_MAX: usize = 512;
/// Names that were announced and are of no use any more, before they are looked for.
const NAMES_KEPT: usize = 1024;

/// A frame that was read and waits to be released.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// The frame's fixed part.
    pub(super) header: Header,
    /// What kind it is.
    pub(super) kind: Kind,
    /// Its group. A mark of a unit of work is queued once for each group that it concerns.
    pub(super) group: u16,
    /// What it is about: see [`Lane::names`]. 0 for nothing.
    pub(super) name: u64,
    segment: u32,
    at: usize,
}

/// What a name in a lane stands for.
pub(super) struct Name {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) path: Arc<[u8]>,
    /// Whether the lane's user may change the file, once it was looked at.
    pub(super) is_vouched: Option<bool>,
    /// Index in the file registry, once it was looked up.
    pub(super) file: Option<usize>,
}

impl Name {
    /// The name that a [`Kind::Name`] frame announces.
    pub(super) fn decode(data: &[u8]) -> Option<Name> {
        let (device, inode, path) = decode_name(data)?;
        Some(Name {
            device,
            inode,
            path: path.into(),
            is_vouched: None,
            file: None,
        })
    }
}

/// Tells the group of a path a program reported.
pub(super) type GroupOf<'a> = dyn Fn(&[u8]) -> u16 + 'a;

/// One lane.
pub(super) struct Lane {
    pub(super) writer: Writer,
    /// It says that it is of a process which is another user's.
    pub(super) is_forged: bool,
    segments: BTreeMap<u32, Arc<Segment>>,
    /// Which use of a segment is read, and where.
    sequence: u64,
    /// That use may be over: the one after it comes next then.
    may_be_over: bool,
    current: Option<u32>,
    at: usize,
    /// Reading has begun: from now on segments follow one another.
    begun: bool,
    /// Frames up to this number are in the journal (known from it after a restart).
    journaled: HashMap<u16, u64>,
    /// What numbers of names mean, as of the last frame read: a group, and which announcement it was.
    numbers: HashMap<u32, (u16, u64)>,
    /// Names that were announced, counted.
    announced: u64,
    /// What was announced, as far as it was released, by that count. Not by its number: frames of a group that is held back
    /// wait with what their number meant when they were written.
    pub(super) names: HashMap<u64, Name>,
    /// The latest end of the frames read.
    read_end: u64,
    pub(super) queue: VecDeque<Queued>,
    /// Segments that were read to the end, with frames that may still be queued.
    full: VecDeque<u32>,
    /// There were more frames than the queue takes.
    more: bool,
    /// Operations released from it, and when the last of them ended.
    pub(super) released: u64,
    pub(super) released_end: u64,
    /// Why this lane can't be read on.
    pub(super) broken: Option<String>,
}

impl Lane {
    /// Counts an operation released from it.
    pub(super) fn note_released(&mut self, end: u64) {
        self.released += 1;
        self.released_end = end;
    }

    /// The call its thread is in.
    pub(super) fn in_flight(&self) -> Option<InFlight> {
        self.segments.get(&0)?.in_flight()
    }

    /// Frames that were read and not released keep the lane from being done, as do frames not read.
    pub(super) fn is_drained(&self) -> bool {
        self.queue.is_empty() && (self.broken.is_some() || !self.more && self.unread() == 0)
    }

    /// End of the last frame read, when there are unread ones behind it: no later frame ends before it.
    pub(super) fn read_limit(&self) -> Option<u64> {
        if self.more {
            self.queue.back().map(|frame| frame.header.end)
        } else {
            None
        }
    }

    /// Data of a queued frame.
    pub(super) fn data(&self, frame: &Queued) -> &[u8] {
        self.segments
            .get(&frame.segment)
            .and_then(|segment| segment.frame(frame.at, segment.tail()).ok())
            .map_or(&[], |(_, _, data)| data)
    }

    fn unread(&self) -> usize {
        match self.current.and_then(|current| self.segments.get(&current)) {
            Some(segment) if segment.is_full() => segment.tail() - self.at.min(segment.tail()) + 1,
            Some(segment) => segment.tail() - self.at.min(segment.tail()),
            None => self
                .segments
                .values()
                .filter(|segment| !segment.is_free())
                .count(),
        }
    }

    /// Reads what is complete into the queue. `marked` are the groups whose units programs mark.
    fn read(&mut self, group_of: &GroupOf<'_>, marked: &[u16]) {
        self.more = false;
        self.begun = true;
        let mut uses = 0;
        while self.broken.is_none() {
            let Some((index, segment)) = self.current_segment() else {
                return;
            };
            // "Full" is read before the tail: a segment seen full has its final tail.
            let full = segment.is_full();
            let tail = segment.tail();
            if segment.is_cut() {
                self.broken = Some(format!(
                    "{}: somebody cut it short",
                    segment.path().display()
                ));
                return;
            }
            while self.at < tail {
                if self.queue.len() >= QUEUE_FRAMES_MAX {
                    self.more = true;
                    return;
                }
                match segment.frame(self.at, tail) {
                    Ok((header, kind, data)) => {
                        self.take(index, header, kind, data, group_of, marked);
                        self.at += header.len as usize;
                    }
                    Err(what) => {
                        self.broken = Some(format!(
                            "{}: {what} at byte {}",
                            segment.path().display(),
                            self.at
                        ));
                        return;
                    }
                }
            }
            if !full {
                return;
            }
            self.full.push_back(index);
            self.current = None;
            self.sequence = self.sequence.wrapping_add(1);
            self.at = 0;
            uses += 1;
            if uses == USES_MAX {
                self.more = true;
                return;
            }
        }
    }

    fn take(
        &mut self,
        segment: u32,
        mut header: Header,
        kind: Kind,
        data: &[u8],
        group_of: &GroupOf<'_>,
        marked: &[u16],
    ) {
        // A name has no order of its own: it is written after the call that it is announced for, which must not wait for it.
        match kind {
            Kind::Name => header.end = self.read_end,
            _ => self.read_end = self.read_end.max(header.end),
        }
        if matches!(kind, Kind::Begin | Kind::Commit | Kind::Abort) {
            let concerns =
                |group: u16| header.offset == u64::MAX || header.offset == u64::from(group);
            for &group in marked.iter().filter(|&&group| concerns(group)) {
                self.queue_once(segment, header, kind, group, 0);
            }
            return;
        }
        if kind == Kind::Name
            && let Some(name) = Name::decode(data)
        {
            self.announce(header.name, group_of(&name.path));
        }
        let (group, name) = self.numbers.get(&header.name).copied().unwrap_or((0, 0));
        self.queue_once(segment, header, kind, group, name);
    }

    /// From here on the number means something else.
    fn announce(&mut self, number: u32, group: u16) -> u64 {
        self.announced += 1;
        self.numbers.insert(number, (group, self.announced));
        self.announced
    }

    /// Forgets names that no frame can be about any more, once in a while.
    fn forget_names(&mut self) {
        if self.names.len() > 2 * self.numbers.len() + NAMES_KEPT {
            let numbers = self.numbers.values().map(|&(_, name)| name);
            let needed: HashSet<u64> = numbers
                .chain(self.queue.iter().map(|frame| frame.name))
                .collect();
            self.names.retain(|name, _| needed.contains(name));
        }
    }

    /// Queues a frame for a group, unless it is in the journal already.
    fn queue_once(&mut self, segment: u32, header: Header, kind: Kind, group: u16, name: u64) {
        let journaled = self.journaled.get(&group).copied().unwrap_or(0);
        if kind != Kind::Name && header.number <= journaled {
            return;
        }
        self.queue.push_back(Queued {
            header,
            kind,
            group,
            name,
            segment,
            at: self.at,
        });
    }

    /// The segment being read. When the last one was read to the end, the next is the one put to use after it.
    fn current_segment(&mut self) -> Option<(u32, Arc<Segment>)> {
        if self.current.is_none() {
            let mut found = self.in_use(self.sequence);
            if found.is_none() && self.may_be_over {
                found = self.in_use(self.sequence.wrapping_add(1));
                // Whoever sees the next one in use sees this one as it is: had it been about to be used, it is in use.
                match self.in_use(self.sequence) {
                    Some(this) if found.is_some() => found = Some(this),
                    _ => self.sequence = self.sequence.wrapping_add(found.is_some().into()),
                }
            }
            self.current = Some(found?);
            self.may_be_over = false;
        }
        let index = self.current?;
        Some((index, Arc::clone(self.segments.get(&index)?)))
    }

    /// The segment in its n-th use, while it lasts.
    fn in_use(&self, sequence: u64) -> Option<u32> {
        let mut segments = self.segments.iter();
        segments
            .find(|(_, segment)| !segment.is_free() && segment.sequence() == sequence)
            .map(|(&index, _)| index)
    }

    /// Hands back what is released: everything before the oldest frame still queued is in the journal.
    fn settle(&mut self) {
        self.forget_names();
        let oldest = self.queue.front();
        while let Some(&index) = self.full.front() {
            if oldest.is_some_and(|frame| frame.segment == index) {
                break;
            }
            if let Some(segment) = self.segments.get(&index) {
                segment.set_consumed(segment.tail());
                segment.free();
            }
            self.full.pop_front();
        }
        match oldest {
            Some(frame) => {
                if let Some(segment) = self.segments.get(&frame.segment) {
                    segment.set_consumed(frame.at);
                }
            }
            None => {
                if let Some(segment) = self.current.and_then(|current| self.segments.get(&current))
                {
                    segment.set_consumed(self.at);
                }
            }
        }
    }
}

/// What [`read_lanes`] found.
#[doc(hidden)]
#[derive(Debug)]
pub struct LanesRead {
    /// Frames that were read; marks of units of work once for each group.
    pub frames: usize,
    /// What is wrong with lanes.
    pub told: Vec<String>,
}

/// Reads all lanes in a directory to their ends, as the sequencer does, for fuzzing.
#[doc(hidden)]
pub fn read_lanes(directory: &Path, board: &'static Board) -> LanesRead {
    let mut lanes = Lanes::new(directory, board, vec![0, 1], Journaled::new());
    let group_of = |path: &[u8]| path.len() as u16 % 2;
    let mut told = lanes
        .discover(&group_of)
        .unwrap_or_else(|error| vec![error.to_string()]);
    let mut frames = 0;
    loop {
        lanes.read(&group_of);
        let before = frames;
        for lane in &mut lanes.lanes {
            let _ = (lane.in_flight(), lane.read_limit());
            while let Some(frame) = lane.queue.pop_front() {
                frames += 1;
                if frame.kind == Kind::Name
                    && let Some(name) = Name::decode(lane.data(&frame))
                {
                    lane.names.insert(frame.name, name);
                }
                lane.note_released(frame.header.end);
            }
        }
        lanes.settle();
        let _ = lanes.waiting();
        if frames == before {
            break;
        }
    }
    lanes.correct_bytes();
    told.extend(lanes.lanes.iter_mut().filter_map(|lane| lane.broken.take()));
    LanesRead { frames, told }
}

/// Which lane: process number, lane number.
pub(crate) type LaneKey = (u64, u32);

/// The last frame of each lane that is in the journal, by group.
pub(crate) type Journaled = HashMap<LaneKey, HashMap<u16, u64>>;

/// All lanes in the directory.
pub(super) struct Lanes {
    directory: PathBuf,
    board: &'static Board,
    births: Option<u64>,
    /// Groups whose units of work programs mark.
    marked: Vec<u16>,
    /// Last frame per lane known to be in the journal, from before this start.
    journaled: Journaled,
    pub(super) lanes: Vec<Lane>,
    by_key: HashMap<LaneKey, usize>,
    /// Segment files that can't be read, with the reason; told once.
    refused: HashMap<PathBuf, String>,
    /// By how much the board's count of bytes was wrong when it was last looked at.
    bytes_off: Option<i64>,
}

impl Lanes {
    pub(super) fn new(
        directory: &Path,
        board: &'static Board,
        marked: Vec<u16>,
        journaled: Journaled,
    ) -> Lanes {
        Lanes {
            directory: directory.to_owned(),
            board,
            births: None,
            marked,
            journaled,
            lanes: Vec::new(),
            by_key: HashMap::new(),
            refused: HashMap::new(),
            bytes_off: None,
        }
    }

    /// Finds new segment files, when there are any. Returns what can't be read, each once.
    pub(super) fn discover(&mut self, group_of: &GroupOf<'_>) -> std::io::Result<Vec<String>> {
        let births = self.board.births.load(Ordering::SeqCst);
        if self.births == Some(births) {
            return Ok(Vec::new());
        }
        let mut complaints = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "lane") || self.is_known(&path)
            {
                continue;
            }
            match Segment::open(&path) {
                Ok(segment) => {
                    if let Err(what) = self.add(segment, group_of) {
                        let complaint = format!("the lane {} isn't read: {what}", path.display());
                        complaints.push(complaint.clone());
                        self.refused.insert(path, complaint);
                    }
                }
                // One still being made counts as a birth when it is done. Until then its thread has published no call in
                // a first segment, and in a further one its call is seen in flight.
                Err(SegmentError::Unfinished | SegmentError::Unreadable(libc::ENOENT)) => {}
                Err(error) => {
                    let complaint = format!("the lane {} can't be read: {error}", path.display());
                    complaints.push(complaint.clone());
                    self.refused.insert(path, complaint);
                }
            }
        }
        self.births = Some(births);
        Ok(complaints)
    }

    /// Whether every file made so far is known.
    pub(super) fn knows_all(&self) -> bool {
        self.births == Some(self.board.births.load(Ordering::SeqCst))
    }

    fn is_known(&self, path: &Path) -> bool {
        if self.refused.contains_key(path) {
            return true;
        }
        let Some((process, lane, index)) = parse_name(path) else {
            return false;
        };
        self.by_key
            .get(&(process, lane))
            .is_some_and(|&at| self.lanes[at].segments.contains_key(&index))
    }

    /// Adds a segment to its lane. What is wrong with it where it can't be one of it: anybody who may make lanes may make files
    /// of any name and content.
    fn add(&mut self, segment: Arc<Segment>, group_of: &GroupOf<'_>) -> Result<(), String> {
        let writer = segment.writer();
        let key = (writer.process, writer.lane);
        if parse_name(segment.path()) != Some((key.0, key.1, segment.index())) {
            return Err("it says that it is another one".to_owned());
        }
        if let Some(&at) = self.by_key.get(&key)
            && self.lanes[at].writer.owner != writer.owner
        {
            return Err(format!(
                "user {} made it, and the lane that it says it belongs to is of user {}",
                writer.owner, self.lanes[at].writer.owner
            ));
        }
        let at = *self.by_key.entry(key).or_insert_with(|| {
            self.lanes.push(Lane {
                writer,
                is_forged: false,
                segments: BTreeMap::new(),
                sequence: 0,
                may_be_over: false,
                current: None,
                at: 0,
                begun: false,
                journaled: self.journaled.get(&key).cloned().unwrap_or_default(),
                numbers: HashMap::new(),
                announced: 0,
                names: HashMap::new(),
                read_end: 0,
                queue: VecDeque::new(),
                full: VecDeque::new(),
                more: false,
                released: 0,
                released_end: 0,
                broken: None,
            });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[at];
        lane.segments.insert(segment.index(), segment);
        if !lane.begun {
            lane.enter_oldest(group_of);
        }
        Ok(())
    }

    /// Programs make their lanes known on another board from now on.
    pub(super) fn move_to(&mut self, board: &'static Board) {
        self.board = board;
        self.births = None;
        self.bytes_off = None;
    }

    /// Programs of which some thread waits for room in its lane: name, process id, and since when.
    pub(super) fn waiting(&self) -> Vec<(String, u32, u64)> {
        let mut waiting: BTreeMap<u64, (String, u32, u64)> = BTreeMap::new();
        for lane in &self.lanes {
            let segment = lane.segments.get(&0);
            if let Some(since) = segment.and_then(|segment| segment.waiting_since()) {
                let writer = &lane.writer;
                let name = String::from_utf8_lossy(&writer.program);
                let name = name.trim_end_matches('\0').to_owned();
                let entry = waiting
                    .entry(writer.process)
                    .or_insert((name, writer.pid, since));
                entry.2 = entry.2.min(since);
            }
        }
        waiting.into_values().collect()
    }

    /// Reads all lanes.
    pub(super) fn read(&mut self, group_of: &GroupOf<'_>) {
        for lane in &mut self.lanes {
            lane.read(group_of, &self.marked);
        }
    }

    /// Tells all writers what is in the journal.
    pub(super) fn settle(&mut self) {
        for lane in &mut self.lanes {
            lane.settle();
        }
    }

    /// Puts the board's count of all bytes right, where programs that died while they made a segment left it wrong. One that
    /// is being made at this moment is counted and not known yet, so only what stays wrong counts as such.
    pub(super) fn correct_bytes(&mut self) {
        let counted = self.board.lanes_bytes.load(Ordering::SeqCst);
        let known: u64 = self
            .lanes
            .iter()
            .flat_map(|lane| lane.segments.values())
            .map(|segment| segment.bytes())
            .sum();
        let off = counted as i64 - known as i64;
        let is_first = self.bytes_off.is_none();
        if off < 0 && (is_first || self.bytes_off == Some(off)) {
            let missing = off.unsigned_abs();
            self.board.lanes_bytes.fetch_add(missing, Ordering::SeqCst);
        } else if off > 0 && (is_first || self.bytes_off == Some(off)) {
            self.board.give_lane_bytes(off.unsigned_abs());
        }
        self.bytes_off = Some(off);
    }

    /// Whether there is no room for further lanes.
    pub(super) fn are_full(&self) -> bool {
        self.board.is_full()
    }

    /// Forgets finished processes and removes the files of their lanes.
    pub(super) fn remove_processes(&mut self, processes: &HashSet<u64>) {
        let (gone, kept) = std::mem::take(&mut self.lanes)
            .into_iter()
            .partition(|lane| processes.contains(&lane.writer.process));
        self.lanes = kept;
        let gone: Vec<Lane> = gone;
        for segment in gone.iter().flat_map(|lane| lane.segments.values()) {
            // Somebody else may have removed it; it holds nothing any more.
            let _ = std::fs::remove_file(segment.path());
            self.board.give_lane_bytes(segment.bytes());
        }
        self.by_key = self
            .lanes
            .iter()
            .enumerate()
            .map(|(at, lane)| ((lane.writer.process, lane.writer.lane), at))
            .collect();
    }
}

impl Lane {
    /// Begins at the oldest segment that isn't free, behind what was consumed; names announced before that still count.
    fn enter_oldest(&mut self, group_of: &GroupOf<'_>) {
        let oldest = self
            .segments
            .iter()
            .filter(|(_, segment)| !segment.is_free())
            .map(|(&index, segment)| (segment.sequence(), index))
            .min();
        let Some((sequence, index)) = oldest else {
            // All are free. The last one was used and handed back, or is about to be used: its writer counts a use before it
            // says that it is in use.
            let last = self
                .segments
                .values()
                .map(|segment| segment.sequence())
                .max();
            self.sequence = last.unwrap_or(0);
            self.may_be_over = true;
            return;
        };
        // While only free ones were known, what follows them was a guess: the segment after them may be free as well.
        if self.current.is_some() && sequence >= self.sequence {
            return;
        }
        let segment = Arc::clone(&self.segments[&index]);
        self.sequence = sequence;
        self.may_be_over = false;
        self.current = Some(index);
        let consumed = segment.consumed();
        let mut at = 0;
        while at < consumed {
            let Ok((header, kind, data)) = segment.frame(at, consumed) else {
                break;
            };
            if kind == Kind::Name
                && let Some(name) = Name::decode(data)
            {
                let announced = self.announce(header.name, group_of(&name.path));
                self.names.insert(announced, name);
            }
            at += header.len as usize;
        }
        self.at = consumed;
    }
}

/// Process, lane and index of a segment file, from its name.
fn parse_name(path: &Path) -> Option<(u64, u32, u32)> {
    let mut parts = path.file_name()?.to_str()?.split('.');
    let process = u64::from_str_radix(parts.next()?, 16).ok()?;
    let lane = u32::from_str_radix(parts.next()?, 16).ok()?;
    let index = u32::from_str_radix(parts.next()?, 16).ok()?;
    (parts.next()? == "lane" && parts.next().is_none()).then_some((process, lane, index))
}
