//! Files of trees against a model: random reads of random entries, whole or given up in the middle, with restarts at any
//! moment, must leave a target with exactly the entries there are; and at no moment with half a change.

use super::*;
use crate::capture::check::{CHUNK_BYTES, Task, TaskQueue};
use crate::capture::operation::{Attributes, FileKind};
use counterfoil_sinks::FileKind as SinkKind;
use std::collections::HashSet;
use std::time::Duration;

const ROOT: &str = "/t";
const BLOCK: usize = CHUNK_BYTES as usize;

/// An entry of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    attributes: Attributes,
    content: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Becomes this, and is read.
    Change {
        file: usize,
        entry: Change,
    },
    /// Becomes this, but the read is given up after some blocks.
    Torn {
        file: usize,
        entry: Change,
        blocks: usize,
    },
    /// Becomes this, and is half read; the rest is read before anything else is.
    Half {
        file: usize,
        entry: Change,
    },
    /// Is read by its checksums; content is sent where it is asked for.
    Sum {
        file: usize,
    },
    Remove {
        file: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Publish,
    Apply,
    Checkpoint,
    Restart,
}

#[derive(Clone, Debug)]
struct Change {
    kind: u8,
    mode: u32,
    /// Bytes that the file consists of, and how many of each.
    parts: Vec<(u8, usize)>,
}

fn change() -> impl Strategy<Value = Change> {
    let len =
        prop_oneof![3 => 0..20usize, 1 => Just(BLOCK), 1 => Just(BLOCK + 1), 1 => Just(BLOCK / 2)];
    (
        prop_oneof![6 => Just(0u8), 1 => Just(1u8), 1 => Just(2u8)],
        0..4u32,
        proptest::collection::vec((0..3u8, len), 0..4),
    )
        .prop_map(|(kind, mode, parts)| Change { kind, mode, parts })
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..4usize;
    prop_oneof![
        6 => (file.clone(), change()).prop_map(|(file, entry)| Step::Change { file, entry }),
        2 => (file.clone(), change(), 0..3usize)
            .prop_map(|(file, entry, blocks)| Step::Torn { file, entry, blocks }),
        2 => (file.clone(), change()).prop_map(|(file, entry)| Step::Half { file, entry }),
        2 => file.clone().prop_map(|file| Step::Sum { file }),
        1 => file.clone().prop_map(|file| Step::Remove { file }),
        2 => (file.clone(), file).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => Just(Step::Publish),
        3 => Just(Step::Apply),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Restart),
    ]
}

struct Trees {
    directory: tempfile::TempDir,
    config: Arc<Config>,
    journal: Journal,
    progress: Arc<Progress>,
    publisher: Option<Publisher>,
    inlet: Option<Inlet>,
    tasks: Option<TaskQueue>,
    sink: MemorySink,
    fold: Fold,
    applied: Option<Position>,
    waiting: Vec<Arc<Parcel>>,
    model: BTreeMap<usize, Entry>,
    /// What each file ever was, as a whole.
    versions: HashSet<(Vec<u8>, Vec<u8>)>,
    clock: i64,
    /// What is half read.
    half: Option<(usize, Entry)>,
}

impl Trees {
    fn new() -> Trees {
        let directory = tempfile::tempdir_in(memory()).unwrap();
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = \"hq\"\nstate = \"state\"\n[[group]]\nname = \"g\"\nunit_of_work = \"lock\"\n\
             [[group.tree]]\npath = \"{ROOT}\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let config = Arc::new(Config::load(&path).unwrap());
        let storage = DiskStorage::open(directory.path().join("journal")).unwrap();
        let (mut journal, _) = Journal::open(Arc::new(storage), Default::default()).unwrap();
        journal.begin_epoch(1).unwrap();
        let mut trees = Trees {
            directory,
            config,
            journal,
            progress: Arc::default(),
            publisher: None,
            inlet: None,
            tasks: None,
            sink: MemorySink::default(),
            fold: Fold::new(STREAM.to_owned()),
            applied: None,
            waiting: Vec::new(),
            model: BTreeMap::new(),
            versions: HashSet::new(),
            clock: 0,
            half: None,
        };
        trees.start();
        trees
    }

    fn start(&mut self) {
        let images = Images::open(&self.directory.path().join("images")).unwrap();
        let from = images.cursor().max(1);
        self.progress = Arc::default();
        self.progress
            .update_sink("s", |sink| sink.applied_end = from);
        let (tasks, queue) = Tasks::channel(Arc::clone(&self.progress));
        self.tasks = Some(queue);
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
        format!("{ROOT}/{file}").into_bytes()
    }

    fn journal(&mut self, path: &[u8], action: Action<'_>) {
        self.clock += 1_000_000;
        let operation = Operation {
            group: 0,
            origin: Origin::default(),
            at_ns: self.clock,
            path,
            action,
        };
        let mut payload = Vec::new();
        let bulk = operation.encode_head(&mut payload).to_vec();
        payload.extend(bulk);
        self.journal.append([payload]).unwrap();
    }

    fn entry(&mut self, change: &Change) -> Entry {
        let mut content: Vec<u8> = change
            .parts
            .iter()
            .flat_map(|(byte, len)| std::iter::repeat_n(*byte, *len))
            .collect();
        let kind = match change.kind {
            0 => FileKind::Regular,
            1 => FileKind::Directory,
            _ => FileKind::Link,
        };
        match kind {
            FileKind::Regular => {}
            FileKind::Directory => content.clear(),
            FileKind::Link => {
                content.truncate(30);
                content.push(b'x');
            }
        }
        self.clock += 1;
        Entry {
            attributes: Attributes {
                kind,
                mode: change.mode,
                uid: 1,
                gid: 2,
                modified_ns: self.clock - 3_000_000,
            },
            content,
        }
    }

    /// What a read of some blocks (all, by default) puts into the journal.
    fn read(&mut self, file: usize, entry: &Entry, sums: bool, only: Option<&[u64]>) {
        if entry.attributes.kind == FileKind::Directory {
            return;
        }
        let count = entry.content.len().div_ceil(BLOCK).max(1);
        for block in 0..count {
            if only.is_some_and(|only| !only.contains(&(block as u64))) {
                continue;
            }
            let start = block * BLOCK;
            let bytes = &entry.content[start..entry.content.len().min(start + BLOCK)];
            let (offset, at_end) = (start as u64, block + 1 == count);
            let action = if sums {
                Action::Summed {
                    offset,
                    len: bytes.len() as u64,
                    sum: checksum(bytes),
                    at_end,
                }
            } else {
                Action::Found {
                    offset,
                    bytes,
                    at_end,
                    load: false,
                }
            };
            self.journal(&Trees::path(file), action);
        }
    }

    fn complete(&mut self, file: usize, entry: &Entry) {
        self.versions
            .insert((Trees::path(file), entry.content.clone()));
        self.journal(&Trees::path(file), Action::Attributes(entry.attributes));
    }

    /// Reads the rest of what is half read.
    fn finish(&mut self) {
        if let Some((file, entry)) = self.half.take() {
            let rest: Vec<u64> = (1..20).collect();
            self.read(file, &entry, false, Some(&rest));
            self.complete(file, &entry);
            self.model.insert(file, entry);
        }
    }

    fn perform(&mut self, step: &Step) {
        if !matches!(
            step,
            Step::Publish | Step::Apply | Step::Checkpoint | Step::Restart
        ) {
            self.finish();
        }
        match *step {
            Step::Half { file, ref entry } => {
                let entry = self.entry(entry);
                self.read(file, &entry, false, Some(&[0]));
                self.half = Some((file, entry));
            }
            Step::Change { file, ref entry } => {
                let entry = self.entry(entry);
                self.read(file, &entry, false, None);
                self.complete(file, &entry);
                self.model.insert(file, entry);
            }
            Step::Torn {
                file,
                ref entry,
                blocks,
            } => {
                let entry = self.entry(entry);
                let only: Vec<u64> = (0..blocks as u64).collect();
                self.read(file, &entry, false, Some(&only));
                self.journal(&Trees::path(file), Action::Abandoned);
            }
            Step::Sum { file } => {
                let Some(entry) = self.model.get(&file).cloned() else {
                    return;
                };
                self.read(file, &entry, true, None);
                self.complete(file, &entry);
            }
            Step::Remove { file } => {
                self.model.remove(&file);
                self.journal(&Trees::path(file), Action::Removed);
            }
            Step::Rename { from, to } => {
                if from == to {
                    return;
                }
                let Some(entry) = self.model.remove(&from) else {
                    return;
                };
                self.versions
                    .insert((Trees::path(to), entry.content.clone()));
                self.model.insert(to, entry);
                let to = Trees::path(to);
                self.journal(&Trees::path(from), Action::Renamed { to: &to });
            }
            Step::Publish => self.publish(),
            Step::Apply => self.apply(),
            Step::Checkpoint => {
                self.publish();
                self.publisher.as_mut().unwrap().checkpoint().unwrap();
            }
            Step::Restart => {
                self.publish();
                self.waiting.clear();
                self.publisher = None;
                // Nobody remembers what was half read, and it is as it was before.
                self.half = None;
                self.start();
                // Every start looks at everything.
                let files: Vec<usize> = self.model.keys().copied().collect();
                for file in files {
                    self.perform(&Step::Sum { file });
                }
            }
        }
    }

    /// Publishes, and does what is asked for meanwhile.
    fn publish(&mut self) {
        loop {
            self.publisher.as_mut().unwrap().step().unwrap();
            while let Some(parcel) = self.inlet.as_ref().unwrap().try_receive() {
                self.waiting.push(parcel);
            }
            let mut asked = Vec::new();
            while let Some(task) = self.tasks.as_ref().unwrap().next() {
                asked.push(task);
            }
            if asked.is_empty() {
                return;
            }
            // One thing is read after the other.
            self.finish();
            for task in asked {
                let (path, blocks) = match task {
                    Task::Check { path } => (path, None),
                    Task::Blocks { path, blocks } => (path, Some(blocks)),
                    other => panic!("{other:?} isn't asked for"),
                };
                let file = usize::from(path[path.len() - 1] - b'0');
                match self.model.get(&file).cloned() {
                    Some(entry) => {
                        self.read(file, &entry, false, blocks.as_deref());
                        self.complete(file, &entry);
                    }
                    None => self.journal(&path, Action::Removed),
                }
            }
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
            // A batch may end at any parcel's end.
            if !self.fold.is_empty() {
                let batch = self.fold.take();
                self.sink.apply(&batch).unwrap();
                self.applied = Some(batch.position);
                self.check_versions();
            }
        }
        self.progress
            .update_sink("s", |sink| sink.applied_end = sink.applied_end.max(end));
    }

    fn stored(&mut self) -> BTreeMap<Vec<u8>, (Vec<u8>, counterfoil_sinks::Attributes)> {
        let codec = counterfoil_records::RecordFormat::STATIC.codec().unwrap();
        let mut stored = BTreeMap::new();
        for file in self.sink.files(STREAM).unwrap() {
            let mut content = vec![0; file.attributes.size as usize];
            self.sink
                .pieces(STREAM, &file.description.path, &mut |piece| {
                    let Image::Record { data, .. } = piece.image else {
                        panic!("only records");
                    };
                    let at = codec.offset_of(piece.id) as usize;
                    content[at..at + data.len()].copy_from_slice(&data);
                    true
                })
                .unwrap();
            stored.insert(file.description.path, (content, file.attributes));
        }
        stored
    }

    /// Whatever a file is in the target, it was at some time.
    fn check_versions(&mut self) {
        for (path, (content, attributes)) in self.stored() {
            assert!(attributes.mode.is_some(), "all of it came at once");
            assert!(
                self.versions.contains(&(path.clone(), content)),
                "{} was never like that",
                String::from_utf8_lossy(&path)
            );
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let stored = self.stored();
        let expected: Vec<Vec<u8>> = self.model.keys().map(|&file| Trees::path(file)).collect();
        prop_assert_eq!(stored.keys().cloned().collect::<Vec<_>>(), expected);
        for (&file, entry) in &self.model {
            let (content, attributes) = &stored[&Trees::path(file)];
            prop_assert!(*content == entry.content, "content of {}", file);
            let expected = entry.attributes;
            prop_assert_eq!(attributes.mode, Some(expected.mode));
            prop_assert_eq!(attributes.modified_ns, Some(expected.modified_ns));
            let kind = match expected.kind {
                FileKind::Regular => SinkKind::Regular,
                FileKind::Directory => SinkKind::Directory,
                FileKind::Link => SinkKind::Link,
            };
            prop_assert_eq!(attributes.kind, Some(kind));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_target_has_what_the_trees_have(steps in proptest::collection::vec(step(), 1..50)) {
        let mut trees = Trees::new();
        for step in &steps {
            trees.perform(step);
        }
        trees.finish();
        trees.apply();
        trees.check()?;
        // Nothing holds back the journal any more.
        let publisher = trees.publisher.as_mut().unwrap();
        publisher.checkpoint().unwrap();
        prop_assert_eq!(Images::open(&trees.directory.path().join("images")).unwrap().cursor(), trees.journal.next_lsn());
    }
}
