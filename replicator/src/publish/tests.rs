//! The publisher against a model: random operations of several processes, with restarts at any moment, must leave a target
//! with exactly the pieces that the files have.

mod befores;
mod statics;

use super::images::Images;
use super::{CURSOR, Publisher, PublisherOptions, PublisherParts};
use crate::apply::Fold;
use crate::capture::check::{Tasks, checksum};
use crate::capture::operation::{Action, Operation, Origin};
use crate::config::Config;
use crate::event::Parcel;
use crate::progress::Progress;
use crate::transport::{self, Inlet};
use counterfoil_journal::{DiskStorage, Journal};
use counterfoil_proto::Position;
use counterfoil_records::{Codec, PieceKind};
use counterfoil_sinks::contract::MemorySink;
use counterfoil_sinks::{Image, Sink, StoredPiece};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const STREAM: &str = "hq/g";

/// What a random step does; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Write {
        process: u64,
        file: usize,
        at: u16,
        bytes: Vec<u8>,
    },
    Append {
        process: u64,
        file: usize,
        parts: Vec<Vec<u8>>,
    },
    Truncate {
        process: u64,
        file: usize,
        size: u16,
    },
    Empty {
        process: u64,
        file: usize,
    },
    /// Opened when it was empty, told late: others have written to it meanwhile.
    Open {
        process: u64,
        file: usize,
    },
    Lock {
        process: u64,
        file: usize,
    },
    Unlock {
        process: u64,
        file: usize,
    },
    Sync {
        process: u64,
        file: usize,
    },
    Close {
        process: u64,
        file: usize,
    },
    Rename {
        process: u64,
        from: usize,
        to: usize,
    },
    Remove {
        process: u64,
        file: usize,
    },
    /// Somebody unseen writes; the checker finds it.
    Found {
        file: usize,
        at: u16,
        bytes: Vec<u8>,
        load: bool,
    },
    Begin {
        process: u64,
    },
    Commit {
        process: u64,
    },
    Abort {
        process: u64,
    },
    /// Marks were lost: from now on so many units are open.
    Resume {
        process: u64,
        open: u32,
    },
    Settle,
    End {
        process: u64,
    },
    Apply,
    Checkpoint,
    /// The replicator is killed; what was published and not applied is lost.
    Restart,
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![2 => Just(0u8), 2 => Just(b'\n'), 1 => Just(5u8), 2 => any::<u8>()];
    let record = (0..12u8).prop_map(|len| {
        let mut record = vec![0, len, 0, 0];
        record.extend(vec![b'x'; usize::from(len)]);
        record
    });
    let slot = (0..10u8).prop_map(|len| {
        let mut slot = u64::from(len).to_le_bytes().to_vec();
        slot.extend(vec![b'y'; 9]);
        slot
    });
    prop_oneof![
        proptest::collection::vec(byte, 1..40),
        proptest::collection::vec(record, 1..5).prop_map(|records| records.concat()),
        proptest::collection::vec(slot, 1..4).prop_map(|slots| slots.concat()),
        (1..20usize).prop_map(|len| [vec![b't'; len], vec![b'\n']].concat()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let process = 1..4u64;
    let file = 0..3usize;
    let at = prop_oneof![4 => 0..120u16, 1 => 0..6000u16];
    let who = (process.clone(), file.clone());
    prop_oneof![
        6 => (who.clone(), at.clone(), content())
            .prop_map(|((process, file), at, bytes)| Step::Write { process, file, at, bytes }),
        8 => (who.clone(), proptest::collection::vec(content(), 1..3))
            .prop_map(|((process, file), parts)| Step::Append { process, file, parts }),
        1 => (who.clone(), at.clone()).prop_map(|((process, file), size)| Step::Truncate { process, file, size }),
        1 => who.clone().prop_map(|(process, file)| Step::Empty { process, file }),
        1 => who.clone().prop_map(|(process, file)| Step::Open { process, file }),
        2 => who.clone().prop_map(|(process, file)| Step::Lock { process, file }),
        2 => who.clone().prop_map(|(process, file)| Step::Unlock { process, file }),
        1 => who.clone().prop_map(|(process, file)| Step::Sync { process, file }),
        1 => who.clone().prop_map(|(process, file)| Step::Close { process, file }),
        1 => (process.clone(), file.clone(), file.clone())
            .prop_map(|(process, from, to)| Step::Rename { process, from, to }),
        1 => who.prop_map(|(process, file)| Step::Remove { process, file }),
        1 => (file, at, content(), any::<bool>())
            .prop_map(|(file, at, bytes, load)| Step::Found { file, at, bytes, load }),
        4 => process.clone().prop_map(|process| Step::Begin { process }),
        4 => process.clone().prop_map(|process| Step::Commit { process }),
        1 => process.clone().prop_map(|process| Step::Abort { process }),
        1 => (process.clone(), 0..3u32).prop_map(|(process, open)| Step::Resume { process, open }),
        2 => Just(Step::Settle),
        1 => process.prop_map(|process| Step::End { process }),
        4 => Just(Step::Apply),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
    ]
}

/// A publisher with everything around it.
struct Stand {
    directory: tempfile::TempDir,
    config: Arc<Config>,
    journal: Journal,
    progress: Arc<Progress>,
    publisher: Option<Publisher>,
    inlet: Option<Inlet>,
    sink: MemorySink,
    fold: Fold,
    applied: Option<Position>,
    waiting: Vec<Arc<Parcel>>,
    model: BTreeMap<usize, Vec<u8>>,
    clock: i64,
    told: befores::Told,
}

const LAYOUTS: [&str; 6] = [
    "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 7",
    "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = 9",
    "organization = \"sequential\"\nlayout = \"gnucobol\"",
    "organization = \"sequential\"\nlayout = \"gnucobol\"\nvarseq_format = 3",
    "organization = \"stream\"\nlayout = \"newline\"",
    "organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = 16",
];

impl Stand {
    fn new(layout: &str, policy: &str, timeout: u32) -> Stand {
        let directory = tempfile::tempdir_in(memory()).unwrap();
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = \"hq\"\nstate = \"state\"\n[[group]]\nname = \"g\"\nunit_of_work = \"{policy}\"\nbefore = true\n\
             unit_timeout_ms = {timeout}\n[[group.file]]\npath = \"/d/*\"\n{layout}\n"
        );
        std::fs::write(&path, text).unwrap();
        let config = Arc::new(Config::load(&path).unwrap());
        let storage = DiskStorage::open(directory.path().join("journal")).unwrap();
        let (mut journal, _) = Journal::open(Arc::new(storage), Default::default()).unwrap();
        journal.begin_epoch(1).unwrap();
        let mut stand = Stand {
            directory,
            config,
            journal,
            progress: Arc::default(),
            publisher: None,
            inlet: None,
            sink: MemorySink::default(),
            fold: Fold::new(STREAM.to_owned()),
            applied: None,
            waiting: Vec::new(),
            model: BTreeMap::new(),
            clock: 0,
            told: befores::Told::default(),
        };
        stand.start();
        stand
    }

    fn start(&mut self) {
        let images = Images::open(&self.directory.path().join("images")).unwrap();
        let from = images.cursor().max(1);
        self.progress = Arc::default();
        self.progress
            .update_sink("s", |sink| sink.applied_end = from);
        let (tasks, _) = Tasks::channel(Arc::clone(&self.progress));
        let (outlet, mut inlets) = transport::channel(1);
        self.journal.cursors().set(CURSOR, from).unwrap();
        self.inlet = inlets.pop();
        self.publisher = Some(Publisher::new(
            PublisherParts {
                config: Arc::clone(&self.config),
                reader: self.journal.reader(from).unwrap(),
                cursors: self.journal.cursors(),
                images,
                tasks,
                outlet,
                progress: Arc::clone(&self.progress),
            },
            PublisherOptions {
                checkpoint_interval: Duration::from_secs(3600),
                redo_end: self.journal.next_lsn(),
                refill: false,
            },
        ));
    }

    fn path(file: usize) -> Vec<u8> {
        format!("/d/{file}").into_bytes()
    }

    fn journal(&mut self, process: u64, path: &[u8], action: Action<'_>) {
        self.clock += 10_000_000;
        let origin = Origin {
            process,
            pid: process as u32,
            lane: 0,
            frame: 1,
            program: b"test",
        };
        let operation = Operation {
            group: 0,
            origin,
            at_ns: self.clock,
            path,
            action,
        };
        let mut payload = Vec::new();
        let bulk = operation.encode_head(&mut payload).to_vec();
        payload.extend(bulk);
        self.journal.append([payload]).unwrap();
    }

    fn write(&mut self, process: u64, file: usize, at: usize, bytes: &[u8]) {
        let content = self.model.entry(file).or_default();
        if content.len() < at + bytes.len() {
            content.resize(at + bytes.len(), 0);
        }
        content[at..at + bytes.len()].copy_from_slice(bytes);
        self.journal(
            process,
            &Stand::path(file),
            Action::Write {
                offset: at as u64,
                bytes,
            },
        );
    }

    fn perform(&mut self, step: &Step) {
        // What another's unfinished change says beside a cut isn't told twice.
        self.told.is_exact &= !matches!(
            step,
            Step::Truncate { .. } | Step::Empty { .. } | Step::Open { .. } | Step::Found { .. }
        );
        match *step {
            Step::Write {
                process,
                file,
                at,
                ref bytes,
            } => self.write(process, file, usize::from(at), bytes),
            Step::Append {
                process,
                file,
                ref parts,
            } => {
                for part in parts {
                    let at = self.model.get(&file).map_or(0, Vec::len);
                    self.write(process, file, at, part);
                }
            }
            Step::Truncate {
                process,
                file,
                size,
            } => {
                self.model
                    .entry(file)
                    .or_default()
                    .resize(usize::from(size), 0);
                self.journal(
                    process,
                    &Stand::path(file),
                    Action::Truncate {
                        size: u64::from(size),
                    },
                );
            }
            Step::Empty { process, file } => {
                self.model.insert(file, Vec::new());
                self.journal(
                    process,
                    &Stand::path(file),
                    Action::Opened {
                        truncated: true,
                        size: 0,
                    },
                );
            }
            Step::Open { process, file } => {
                self.model.entry(file).or_default();
                let opened = Action::Opened {
                    truncated: false,
                    size: 0,
                };
                self.journal(process, &Stand::path(file), opened);
            }
            Step::Lock { process, file } => {
                self.journal(
                    process,
                    &Stand::path(file),
                    Action::Locked {
                        offset: 0,
                        extent: 10,
                    },
                );
                self.model.entry(file).or_default();
            }
            Step::Unlock { process, file } => {
                self.journal(
                    process,
                    &Stand::path(file),
                    Action::Unlocked {
                        offset: 0,
                        extent: u64::MAX,
                    },
                );
                self.model.entry(file).or_default();
            }
            Step::Sync { process, file } => {
                self.journal(process, &Stand::path(file), Action::Synced);
                self.model.entry(file).or_default();
            }
            Step::Close { process, file } => {
                self.journal(
                    process,
                    &Stand::path(file),
                    Action::Closed { keeps_locks: false },
                );
                self.model.entry(file).or_default();
            }
            Step::Rename { process, from, to } => {
                let Some(content) = self.model.remove(&from) else {
                    return;
                };
                self.model.insert(to, content);
                let to = Stand::path(to);
                self.journal(process, &Stand::path(from), Action::Renamed { to: &to });
            }
            Step::Remove { process, file } => {
                self.model.remove(&file);
                self.journal(process, &Stand::path(file), Action::Removed);
            }
            Step::Found {
                file,
                at,
                ref bytes,
                load,
            } => {
                let content = self.model.entry(file).or_default();
                let at = usize::from(at).min(content.len());
                content.truncate(at);
                content.extend(bytes);
                let content = content.clone();
                let found = Action::Found {
                    offset: 0,
                    bytes: &content,
                    at_end: true,
                    load,
                };
                self.journal(0, &Stand::path(file), found);
                let sum = checksum(&content);
                let len = content.len() as u64;
                self.journal(
                    0,
                    &Stand::path(file),
                    Action::Summed {
                        offset: 0,
                        len,
                        sum,
                        at_end: true,
                    },
                );
            }
            Step::Begin { process } => {
                self.journal(process, b"", Action::Begun { resumed: None });
            }
            Step::Commit { process } => {
                self.journal(process, b"", Action::Committed { resumed: None });
            }
            Step::Abort { process } => {
                self.journal(process, b"", Action::Aborted { resumed: None });
            }
            Step::Resume { process, open } => {
                let resumed = Some(open);
                self.journal(process, b"", Action::Committed { resumed });
            }
            Step::Settle => self.journal(0, b"", Action::Settled),
            Step::End { process } => self.journal(process, b"", Action::Ended),
            Step::Apply => self.apply(),
            Step::Checkpoint => {
                self.publish();
                self.publisher.as_mut().unwrap().checkpoint().unwrap();
            }
            Step::Restart => {
                self.publish();
                self.waiting.clear();
                self.told.is_exact = false;
                self.publisher = None;
                self.start();
            }
        }
    }

    fn publish(&mut self) {
        self.publisher.as_mut().unwrap().step().unwrap();
        while let Some(parcel) = self.inlet.as_ref().unwrap().try_receive() {
            for event in &parcel.events {
                self.told.check(event);
            }
            self.waiting.push(parcel);
        }
    }

    fn apply(&mut self) {
        self.publish();
        let mut end = 0;
        for parcel in std::mem::take(&mut self.waiting) {
            end = parcel.end;
            for event in &parcel.events {
                if self.applied.is_none_or(|applied| event.position > applied) {
                    self.fold.add(event.clone());
                }
            }
        }
        if !self.fold.is_empty() {
            let batch = self.fold.take();
            self.assert_apart(&batch);
            self.sink.apply(&batch).unwrap();
            self.applied = Some(batch.position);
        }
        self.progress
            .update_sink("s", |sink| sink.applied_end = sink.applied_end.max(end));
    }

    /// No two pieces of a batch are at the same place: a target that has files could have but one of them.
    fn assert_apart(&self, batch: &counterfoil_sinks::Batch) {
        let codec = self.config.groups[0].files[0].format.codec().unwrap();
        for changes in &batch.files {
            let mut reached = 0;
            for (&id, image) in &changes.images {
                let mut bytes = Vec::new();
                match image {
                    Image::Record { data, rest } => {
                        codec.encode(id, data, rest, &mut bytes).unwrap();
                    }
                    Image::Residue { bytes: residue, .. } => bytes.extend(residue),
                    Image::Absent => continue,
                }
                let from = codec.offset_of(id);
                assert!(reached <= from, "{id} is within the piece before it");
                reached = from + bytes.len() as u64;
            }
        }
    }

    /// Every file as the target has it, and as it is.
    fn check(&mut self, codec: &dyn Codec) -> Result<(), TestCaseError> {
        let stored: Vec<Vec<u8>> = self
            .sink
            .files(STREAM)
            .unwrap()
            .into_iter()
            .map(|file| file.description.path)
            .collect();
        let expected: Vec<Vec<u8>> = self.model.keys().map(|&file| Stand::path(file)).collect();
        prop_assert_eq!(stored, expected);
        for stored in self.sink.files(STREAM).unwrap() {
            let file = usize::from(stored.description.path[3] - b'0');
            let content = &self.model[&file];
            let mut expected = Vec::new();
            codec.decode(0, content, true, &mut |piece| {
                let image = match piece.kind {
                    PieceKind::Record { data, rest } => Image::Record {
                        data: data.to_vec(),
                        rest: rest.to_vec(),
                    },
                    PieceKind::Residue { bytes, reason } => Image::Residue {
                        bytes: bytes.to_vec(),
                        reason: reason.to_owned(),
                    },
                    PieceKind::Empty => return,
                };
                expected.push(StoredPiece {
                    id: piece.id,
                    image,
                });
            });
            let mut pieces = Vec::new();
            self.sink
                .pieces(STREAM, &stored.description.path, &mut |piece| {
                    pieces.push(piece);
                    true
                })
                .unwrap();
            prop_assert_eq!(pieces, expected, "file {}", file);
            prop_assert_eq!(
                stored.attributes.size,
                content.len() as u64,
                "size of {}",
                file
            );
        }
        Ok(())
    }
}

/// Time after which units are cut: never here, and often.
const NEVER: u32 = 86_400_000;
const OFTEN: u32 = 40;

fn run(layout: &str, policy: &str, timeout: u32, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut stand = Stand::new(layout, policy, timeout);
    let codec = stand.config.groups[0].files[0].format.codec().unwrap();
    for step in steps {
        stand.perform(step);
    }
    for process in 1..4 {
        stand.perform(&Step::End { process });
    }
    stand.perform(&Step::Settle);
    stand.apply();
    stand.publisher.as_ref().unwrap().tell_units();
    prop_assert_eq!(&stand.progress.units().0, &[], "units that stay open");
    stand.check(codec.as_ref())
}

/// What happens to programs that write each value to two files, in a unit.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The process does its next step: begin, write, write, end.
    Step(u64),
    /// All of a file is read, as of a file that nothing is known of.
    Load(usize),
    Settle,
    Apply,
    Checkpoint,
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        16 => (1..4u64).prop_map(Turn::Step),
        1 => (0..2usize).prop_map(Turn::Load),
        1 => Just(Turn::Settle),
        6 => Just(Turn::Apply),
        2 => Just(Turn::Checkpoint),
        1 => Just(Turn::Restart),
    ]
}

impl Stand {
    /// One step of a process: its state is how many it has done.
    fn step_of(&mut self, process: u64, done: usize, policy: &str, layout: &str) {
        let value = done / 4;
        let (range, record) = (process * 7, format!("{process}{value:05}\n"));
        let path = Stand::path(0);
        match (done % 4, policy) {
            (0, "api") => self.perform(&Step::Begin { process }),
            (3, "api") => self.perform(&Step::Commit { process }),
            (0, _) => self.journal(
                process,
                &path,
                Action::Locked {
                    offset: range,
                    extent: 7,
                },
            ),
            (3, _) => self.journal(
                process,
                &path,
                Action::Unlocked {
                    offset: range,
                    extent: 7,
                },
            ),
            (written, _) => {
                let file = written - 1;
                let at = match layout {
                    // Lines are appended, records rewritten.
                    "organization = \"stream\"\nlayout = \"newline\"" => {
                        self.model.get(&file).map_or(0, Vec::len)
                    }
                    _ => range as usize,
                };
                self.write(process, file, at, record.as_bytes());
            }
        }
    }

    /// The last value of each process in a file of the target.
    fn last_values(&mut self, file: usize) -> BTreeMap<u8, u64> {
        let mut values = BTreeMap::new();
        let mut pieces = Vec::new();
        let path = Stand::path(file);
        if self
            .sink
            .files(STREAM)
            .unwrap()
            .iter()
            .any(|stored| stored.description.path == path)
        {
            self.sink
                .pieces(STREAM, &path, &mut |piece| {
                    pieces.push(piece);
                    true
                })
                .unwrap();
        }
        for piece in pieces {
            if let Image::Record { data, .. } = piece.image
                && data[0] != 0
            {
                let value: u64 = std::str::from_utf8(&data[1..6]).unwrap().parse().unwrap();
                let last = values.entry(data[0]).or_insert(value);
                *last = value.max(*last);
            }
        }
        values
    }
}

fn run_pairs(layout: &str, policy: &str, turns: &[Turn]) -> Result<(), TestCaseError> {
    let mut stand = Stand::new(layout, policy, NEVER);
    let mut done = BTreeMap::new();
    for turn in turns {
        match *turn {
            Turn::Step(process) => {
                let done = done.entry(process).or_insert(0);
                stand.step_of(process, *done, policy, layout);
                *done += 1;
            }
            Turn::Load(file) => {
                stand.told.is_exact = false;
                let content = stand.model.get(&file).cloned().unwrap_or_default();
                let found = Action::Found {
                    offset: 0,
                    bytes: &content,
                    at_end: true,
                    load: true,
                };
                stand.journal(0, &Stand::path(file), found);
            }
            Turn::Settle => stand.perform(&Step::Settle),
            Turn::Apply => stand.apply(),
            Turn::Checkpoint => stand.perform(&Step::Checkpoint),
            Turn::Restart => stand.perform(&Step::Restart),
        }
        let (first, second) = (stand.last_values(0), stand.last_values(1));
        prop_assert_eq!(first, second, "half of a unit is in the target");
    }
    let mut expected = BTreeMap::new();
    for (process, mut done) in done {
        while done % 4 != 0 {
            stand.step_of(process, done, policy, layout);
            done += 1;
        }
        expected.insert(b'0' + process as u8, done as u64 / 4 - 1);
    }
    stand.perform(&Step::Settle);
    stand.apply();
    prop_assert_eq!(stand.last_values(0), expected.clone());
    prop_assert_eq!(stand.last_values(1), expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_target_never_has_half_of_a_unit(
        turns in proptest::collection::vec(turn(), 1..80),
        policy in prop_oneof![Just("lock"), Just("api")],
    ) {
        for layout in [LAYOUTS[0], LAYOUTS[4]] {
            run_pairs(layout, policy, &turns).map_err(|error| TestCaseError::fail(format!("{layout}: {error}")))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_target_has_what_the_files_have(
        steps in proptest::collection::vec(step(), 1..40),
        timeout in prop_oneof![Just(NEVER), Just(OFTEN)],
        policy in prop_oneof![Just("none"), Just("lock"), Just("fsync"), Just("close"), Just("api")],
    ) {
        for layout in LAYOUTS {
            run(layout, policy, timeout, &steps).map_err(|error| TestCaseError::fail(format!("{layout}: {error}")))?;
        }
    }
}

/// What a unit touched before what the sinks have, and published when it ended, is lost by nobody but the sinks.
#[test]
fn a_unit_that_ended_and_was_not_applied_is_published_again_as_a_whole() {
    let (process, file) = (1, 0);
    for (policy, end) in [
        ("close", Step::Close { process, file }),
        ("fsync", Step::Sync { process, file }),
        ("lock", Step::Unlock { process, file }),
        ("api", Step::Commit { process }),
    ] {
        let steps = [
            Step::Lock { process, file },
            Step::Begin { process },
            Step::Write {
                process,
                file,
                at: 0,
                bytes: b"1234567".to_vec(),
            },
            Step::Apply,
            end,
            Step::Checkpoint,
            Step::Restart,
        ];
        run(LAYOUTS[0], policy, NEVER, &steps).unwrap_or_else(|error| panic!("{policy}: {error}"));
    }
}

/// A read that finds nothing says that the file ends there. Where that is behind all that is known of the file, the content
/// in between has to be read; the file isn't longer for it.
#[test]
fn an_end_behind_what_is_known_makes_no_file_longer() {
    for layout in LAYOUTS {
        let mut stand = Stand::new(layout, "none", NEVER);
        stand.write(1, 0, 0, b"1234567");
        for load in [false, true] {
            let action = Action::Found {
                offset: 40,
                bytes: b"",
                at_end: true,
                load,
            };
            stand.journal(0, &Stand::path(0), action);
        }
        stand.journal(0, b"", Action::Settled);
        stand.apply();
        let rule = &stand.config.groups[0].files[0];
        let codec = rule.format.codec().unwrap();
        stand
            .check(codec.as_ref())
            .unwrap_or_else(|error| panic!("{layout}: {error}"));
    }
}

/// The journal isn't kept for as long as a unit is open; what keeps it open is known all the same.
#[test]
fn a_unit_that_was_cut_is_still_open_after_a_restart() {
    let process = 1;
    for policy in ["lock", "api"] {
        let mut stand = Stand::new(LAYOUTS[0], policy, OFTEN);
        stand.step_of(process, 0, policy, LAYOUTS[0]);
        stand.step_of(process, 1, policy, LAYOUTS[0]);
        stand.apply();
        assert_eq!(stand.last_values(0), BTreeMap::new(), "{policy}");
        // Time goes on: the unit is cut, and goes on as well.
        for _ in 0..2 * OFTEN / 10 {
            stand.perform(&Step::Settle);
        }
        stand.apply();
        let expected = BTreeMap::from([(b'1', 0)]);
        assert_eq!(stand.last_values(0), expected, "{policy}: it isn't cut");
        stand.perform(&Step::Checkpoint);
        let images = Images::open(&stand.directory.path().join("images")).unwrap();
        assert!(images.cursor() > 2, "{policy}: the journal is kept");
        stand.perform(&Step::Restart);
        stand.step_of(process, 2, policy, LAYOUTS[0]);
        stand.apply();
        assert_eq!(
            stand.last_values(1),
            BTreeMap::new(),
            "{policy}: half of it"
        );
        stand.step_of(process, 3, policy, LAYOUTS[0]);
        stand.apply();
        assert_eq!(stand.last_values(1), expected, "{policy}: it doesn't end");
    }
}

/// A directory in memory where there is one: the journal synchronises a lot.
fn memory() -> std::path::PathBuf {
    let shared = std::path::PathBuf::from("/dev/shm");
    if shared.is_dir() {
        shared
    } else {
        std::env::temp_dir()
    }
}
