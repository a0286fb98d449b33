//! The publisher against a model: random operations of several processes, with restarts at any moment, must leave a target
//! with exactly the pieces that the files have.

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
    fn new(layout: &str, policy: &str) -> Stand {
        let directory = tempfile::tempdir_in(memory()).unwrap();
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = \"hq\"\nstate = \"state\"\n[[group]]\nname = \"g\"\nunit_of_work = \"{policy}\"\n\
             [[group.file]]\npath = \"/d/*\"\n{layout}\n"
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
        self.clock += 1_000_000;
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
                self.journal(process, &Stand::path(file), Action::Closed);
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
                self.publisher = None;
                self.start();
            }
        }
    }

    fn publish(&mut self) {
        self.publisher.as_mut().unwrap().step().unwrap();
        while let Some(parcel) = self.inlet.as_ref().unwrap().try_receive() {
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
            self.sink.apply(&batch).unwrap();
            self.applied = Some(batch.position);
        }
        self.progress
            .update_sink("s", |sink| sink.applied_end = sink.applied_end.max(end));
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

fn run(layout: &str, policy: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut stand = Stand::new(layout, policy);
    let codec = stand.config.groups[0].files[0].format.codec().unwrap();
    for step in steps {
        stand.perform(step);
    }
    for process in 1..4 {
        stand.perform(&Step::End { process });
    }
    stand.perform(&Step::Settle);
    stand.apply();
    stand.check(codec.as_ref())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_target_has_what_the_files_have(
        steps in proptest::collection::vec(step(), 1..40),
        policy in prop_oneof![Just("none"), Just("lock"), Just("fsync"), Just("close")],
    ) {
        for layout in LAYOUTS {
            run(layout, policy, &steps).map_err(|error| TestCaseError::fail(format!("{layout}: {error}")))?;
        }
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
