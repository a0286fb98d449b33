//! An applier against a target that refuses some records: whatever is refused, and wherever it is killed, the target lacks
//! exactly what is in the open letters, and has it once it is tried again.

use super::Applier;
use crate::config::Config;
use crate::dead_letters::{Letter, Store};
use crate::event::{Change, Event, Parcel};
use crate::progress::Progress;
use crate::transport::channel;
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization, RecordFormat};
use counterfoil_sinks::contract::MemorySink;
use counterfoil_sinks::{
    Batch, FileDescription, FileFate, Image, LoggedChange, Sink, SinkError, Snapshot, StoredPiece,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const STREAM: &str = "hq/g";
const SINK: &str = "dr";
const LIMIT: Duration = Duration::from_secs(60);
/// Records that begin with it are refused as long as anything is.
const BAD: u8 = b'!';

/// Refuses some records, and is killed at some calls.
#[derive(Clone)]
struct Picky {
    target: MemorySink,
    /// Nothing is refused any more.
    mended: Arc<AtomicBool>,
    /// Calls of `apply` until everything stops before one; `usize::MAX`: never.
    until_killed: Arc<AtomicUsize>,
    progress: Arc<Progress>,
    rehearsals: Arc<AtomicUsize>,
    /// What came of what was refused before.
    amendments: Arc<Mutex<Vec<Batch>>>,
    /// Files whose structure is refused too.
    closed_path: Option<&'static [u8]>,
}

impl Picky {
    fn new() -> Picky {
        Picky {
            target: MemorySink::default(),
            mended: Arc::default(),
            until_killed: Arc::new(AtomicUsize::new(usize::MAX)),
            progress: Arc::default(),
            rehearsals: Arc::default(),
            amendments: Arc::default(),
            closed_path: None,
        }
    }

    fn check(&self, batch: &Batch) -> Result<(), SinkError> {
        if self.mended.load(Ordering::SeqCst) {
            return Ok(());
        }
        for changes in &batch.files {
            let is_closed = Some(changes.file.path.as_slice()) == self.closed_path;
            let is_bad = |image: &Image| matches!(image, Image::Record { data, .. } if data.first() == Some(&BAD));
            let logged = changes
                .log
                .iter()
                .filter_map(|logged| match &logged.change {
                    LoggedChange::Image { id, image } => Some((id, image)),
                    _ => None,
                });
            let bad = changes
                .images
                .iter()
                .chain(logged)
                .find(|(_, image)| is_bad(image));
            if changes.fate == FileFate::Present && (is_closed || bad.is_some()) {
                return Err(SinkError::Refused {
                    doing: "writing".to_owned(),
                    cause: format!("a constraint is violated by {:?}", bad.map(|(id, _)| id)),
                });
            }
        }
        Ok(())
    }
}

impl Sink for Picky {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.check(batch)?;
        let left = self.until_killed.load(Ordering::SeqCst);
        if left == 0 {
            self.progress.stop();
            return Err(SinkError::Transient {
                doing: "applying".to_owned(),
                cause: "killed".to_owned(),
            });
        }
        if left != usize::MAX {
            self.until_killed.store(left - 1, Ordering::SeqCst);
        }
        if batch.is_amendment() {
            self.amendments.lock().expect("whole").push(batch.clone());
        }
        self.target.apply(batch)
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.rehearsals.fetch_add(1, Ordering::SeqCst);
        self.check(batch)
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        self.target.snapshot()
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A site with one sink.
struct Site {
    _directory: tempfile::TempDir,
    config: Arc<Config>,
    sink: Picky,
}

impl Site {
    fn new(policy: &str) -> Site {
        Site::with(policy, "")
    }

    /// With more in the sink's table.
    fn with(policy: &str, more: &str) -> Site {
        Site::of("record_size = 4", policy, more)
    }

    /// Of files whose records are said to be so.
    fn of(records: &str, policy: &str, more: &str) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = 'hq'\nstate = 'state'\n[apply]\nbatch_delay_ms_max = 60000\n[[group]]\nname = 'g'\n\
             [[group.file]]\npath = '/srv/*'\norganization = 'fixed'\nlayout = 'plain'\n{records}\n\
             [[sink]]\nname = '{SINK}'\non_refused_row = '{policy}'\nsqlite = {{ path = 'dr.db' }}\n{more}"
        );
        std::fs::write(&path, text).expect("writing the configuration");
        std::fs::create_dir(directory.path().join("state")).expect("the state directory");
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        Site {
            _directory: directory,
            config: Arc::new(config),
            sink: Picky::new(),
        }
    }

    fn store(&self) -> Store {
        Store::of(&self.config)
    }

    fn letters(&self) -> Vec<Letter> {
        self.store().list().expect("the letters")
    }

    fn applier(&mut self, inlet: crate::transport::Inlet) -> Applier {
        let progress = Arc::new(Progress::default());
        self.sink.progress = Arc::clone(&progress);
        let mut sink = self.sink.clone();
        let applied = sink.position(STREAM).expect("a position");
        Applier::new(
            &self.config,
            vec![STREAM.to_owned()],
            SINK.to_owned(),
            Box::new(sink),
            inlet,
            vec![applied],
            progress,
        )
    }

    /// Runs an applier over parcels to its end, or until it is killed.
    fn run(&mut self, parcels: &[Vec<Event>]) {
        self.run_as(parcels, |applier| applier);
    }

    fn run_as(&mut self, parcels: &[Vec<Event>], with: impl FnOnce(Applier) -> Applier) {
        let (outlet, mut inlets) = channel(1);
        let applier = with(self.applier(inlets.pop().expect("one")));
        std::thread::scope(|scope| {
            let applying = scope.spawn(move || applier.run());
            for events in parcels {
                let end = events.last().map_or(0, |event| event.position.lsn + 1);
                let parcel = Parcel {
                    events: events.clone(),
                    end,
                    ..Parcel::default()
                };
                // It may be gone by now.
                let _ = outlet.send(parcel);
            }
            drop(outlet);
            applying.join().expect("it doesn't panic");
        });
    }

    fn rows(&self) -> BTreeMap<Vec<u8>, BTreeMap<u64, Image>> {
        rows(&mut self.sink.target.clone())
    }
}

fn rows(sink: &mut MemorySink) -> BTreeMap<Vec<u8>, BTreeMap<u64, Image>> {
    let mut rows = BTreeMap::new();
    for file in sink.files(STREAM).expect("files") {
        let mut of_file = BTreeMap::new();
        sink.pieces(
            STREAM,
            &file.description.path,
            &mut |StoredPiece { id, image }| {
                of_file.insert(id, image);
                true
            },
        )
        .expect("pieces");
        rows.insert(file.description.path, of_file);
    }
    rows
}

fn file(path: &str) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        path: path.as_bytes().to_vec(),
        group: "g".to_owned(),
        format: RecordFormat {
            record_size: Some(4),
            ..RecordFormat::new(Organization::Fixed, Layout::Plain)
        },
        table: None,
        tree: None,
        schema: None,
        plan: None,
    })
}

fn event(lsn: u64, path: &str, change: Change) -> Event {
    Event {
        position: Position {
            epoch: 1,
            lsn,
            index: 0,
        },
        group: 0,
        file: file(path),
        size: 100,
        change,
        captured_ns: 1,
        pid: 1,
        snapshot: false,
        before: None,
    }
}

fn put(id: u64, data: &str) -> Change {
    Change::Put {
        id,
        data: data.as_bytes().to_vec(),
        rest: Vec::new(),
    }
}

fn record(data: &str) -> Image {
    Image::Record {
        data: data.as_bytes().to_vec(),
        rest: Vec::new(),
    }
}

/// What a target has that refuses nothing.
fn truth(events: &[Event]) -> BTreeMap<Vec<u8>, BTreeMap<u64, Image>> {
    let mut fold = super::Fold::new(STREAM.to_owned());
    events.iter().for_each(|event| fold.add(event.clone()));
    let mut sink = MemorySink::default();
    sink.apply(&fold.take()).expect("it refuses nothing");
    rows(&mut sink)
}

fn change() -> impl Strategy<Value = (usize, Change)> {
    let path = |at: usize| ["/srv/a", "/srv/b", "/srv/c"][at];
    let id = 0..6_u64;
    let data = prop_oneof![3 => "[a-z]{1,3}", 2 => "![a-z]{1,3}"];
    let change = prop_oneof![
        12 => (id.clone(), data).prop_map(|(id, data)| put(id, &data)),
        3 => id.clone().prop_map(|id| Change::Absent { id }),
        1 => (id.clone(), 1..6_u64).prop_map(|(from, len)| Change::Cleared { from, to: from + len }),
        1 => id.prop_map(|from| Change::Cleared { from, to: u64::MAX }),
        1 => Just(Change::Created),
        1 => Just(Change::Removed),
        2 => (0..3_usize).prop_map(move |at| Change::Renamed { from: file(path(at)) }),
    ];
    (0..3_usize, change).prop_filter("a rename to itself is none", move |(to, change)| {
        !matches!(change, Change::Renamed { from } if from.path == path(*to).as_bytes())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_target_lacks_what_is_in_open_letters_and_nothing_else(
        changes in proptest::collection::vec(change(), 1..60),
        cuts in proptest::collection::vec(1..12_usize, 12),
        kills in proptest::collection::vec(0..3_usize, 0..4),
        in_flight in any::<bool>(),
    ) {
        // With small batches and small parcels, one batch is folded while another is applied.
        let mut site = Site::with("dead-letter", if in_flight { "batch_records_max = 2\n" } else { "" });
        let parcels = |events: &[Event]| -> Vec<Vec<Event>> {
            events.chunks(if in_flight { 2 } else { 100 }).map(<[Event]>::to_vec).collect()
        };
        let events: Vec<Event> = (1..).zip(&changes).map(|(lsn, (at, change))| {
            event(lsn, ["/srv/a", "/srv/b", "/srv/c"][*at], change.clone())
        }).collect();
        // One run of the applier for each cut, so each is a batch; killed somewhere, the next sees all of it again.
        let mut from = 0;
        let mut cuts = cuts.iter().cycle();
        let mut kills = kills.into_iter();
        while from < events.len() {
            let to = (from + cuts.next().expect("for ever")).min(events.len());
            if let Some(calls) = kills.next() {
                site.sink.until_killed.store(calls, Ordering::SeqCst);
                site.run(&parcels(&events[..to]));
                site.sink.until_killed.store(usize::MAX, Ordering::SeqCst);
            } else {
                site.run(&parcels(&events[..to]));
                from = to;
            }
        }
        let wanted = truth(&events);
        let letters = site.letters();
        let mut lacking = BTreeMap::new();
        for letter in &letters {
            let key = (letter.file.clone(), letter.record.expect("it is about a record"));
            let (_, event) = site.store().read(letter.number).expect("the letter");
            prop_assert!(lacking.insert(key, event).is_none(), "two letters for one record: {:?}", letters);
        }
        let found = site.rows();
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (path, wanted) in &wanted {
            let text = String::from_utf8(path.clone()).expect("text");
            for id in 0..12 {
                let is_lacking = lacking.contains_key(&(text.clone(), id));
                let is_bad = matches!(wanted.get(&id), Some(Image::Record { data, .. }) if data[0] == BAD);
                prop_assert_eq!(is_lacking, is_bad, "record {} of {}: {:?}", id, text, letters);
                if !is_lacking {
                    prop_assert_eq!(found[path].get(&id), wanted.get(&id), "record {} of {}", id, text);
                }
            }
        }
        // The reason goes, and all are tried again while nothing comes.
        site.sink.mended.store(true, Ordering::SeqCst);
        for letter in &letters {
            site.store().ask(letter.number).expect("asking");
        }
        let position = site.sink.position(STREAM);
        site.run(&[]);
        prop_assert_eq!(site.letters(), vec![]);
        prop_assert_eq!(site.rows(), wanted);
        prop_assert_eq!(site.sink.position(STREAM).ok(), position.ok());
    }
}

/// Waits in `apply` until it may, and sometimes doesn't say what became of a batch.
struct Gated {
    target: MemorySink,
    gate: Arc<Gate>,
    calls: usize,
}

#[derive(Default)]
struct Gate {
    /// Calls that have come.
    come: AtomicUsize,
    /// Calls that may go on.
    open: AtomicUsize,
}

impl Sink for Gated {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.calls += 1;
        self.gate.come.fetch_add(1, Ordering::SeqCst);
        wait_for("the gate", || {
            (self.gate.open.load(Ordering::SeqCst) >= self.calls).then_some(())
        });
        let broken = || {
            Err(SinkError::Transient {
                doing: "applying".to_owned(),
                cause: "the connection broke".to_owned(),
            })
        };
        match self.calls % 4 {
            // Before the commit, and after it.
            2 => broken(),
            0 => self.target.apply(batch).and_then(|()| broken()),
            _ => self.target.apply(batch),
        }
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        self.target.snapshot()
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// What is in flight counts for nothing until it has landed, and what is folded meanwhile follows it.
#[test]
fn what_is_in_flight_counts_when_it_has_landed() {
    let mut site = Site::with("retry", "batch_records_max = 2\n");
    let (outlet, mut inlets) = channel(1);
    let gate = Arc::new(Gate::default());
    let mut applier = site.applier(inlets.pop().expect("one"));
    applier.sink = Box::new(Gated {
        target: site.sink.target.clone(),
        gate: Arc::clone(&gate),
        calls: 0,
    });
    let progress = Arc::clone(&site.sink.progress);
    let events: Vec<Event> = (1..=40)
        .map(|lsn| event(lsn, "/srv/a", put(lsn % 7, &format!("r{lsn}"))))
        .collect();
    std::thread::scope(|scope| {
        let applying = scope.spawn(move || applier.run());
        let parcels = events.chunks(2);
        scope.spawn(move || {
            for events in parcels {
                let end = events[1].position.lsn + 1;
                // Operations without events go with the next parcel, or alone.
                for events in [events.to_vec(), Vec::new()] {
                    let parcel = Parcel {
                        events,
                        end,
                        ..Parcel::default()
                    };
                    outlet.send(parcel).expect("there is an inlet");
                }
            }
        });
        let sink = || progress.sinks().get(SINK).cloned().unwrap_or_default();
        let mut applied = 0;
        while !applying.is_finished() {
            let calls = gate.open.load(Ordering::SeqCst) + 1;
            wait_for("the next call, or the end", || {
                (gate.come.load(Ordering::SeqCst) >= calls || applying.is_finished()).then_some(())
            });
            // The target hasn't got what this call is about, so nobody may be told so.
            let had = site
                .sink
                .target
                .clone()
                .position(STREAM)
                .expect("a position");
            let told = sink();
            assert!(
                told.applied_end <= had.map_or(0, |had| had.lsn + 1),
                "{told:?}"
            );
            assert!(told.positions.get(STREAM).copied() <= had, "{told:?}");
            assert!(told.applied_end >= applied);
            applied = told.applied_end;
            gate.open.store(calls, Ordering::SeqCst);
        }
        applying.join().expect("it doesn't panic");
        assert_eq!(sink().applied_end, 41);
    });
    assert_eq!(site.rows(), truth(&events));
    let calls = gate.come.load(Ordering::SeqCst);
    assert!(
        calls > 20,
        "{calls} calls for 20 parcels, of which some failed"
    );
}

/// Runs the applier beside `work`, which gets its progress.
fn beside(site: &mut Site, events: Vec<Event>, work: impl FnOnce(&Site, &Progress)) {
    let (outlet, mut inlets) = channel(1);
    let applier = site.applier(inlets.pop().expect("one"));
    let progress = Arc::clone(&site.sink.progress);
    std::thread::scope(|scope| {
        let applying = scope.spawn(move || applier.run());
        let end = events.last().map_or(0, |event| event.position.lsn + 1);
        let parcel = Parcel {
            events,
            end,
            ..Parcel::default()
        };
        outlet.send(parcel).expect("there is an inlet");
        drop(outlet);
        work(site, &progress);
        applying.join().expect("it doesn't panic");
    });
}

fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(is) = is() {
            return is;
        }
        assert!(begin.elapsed() < LIMIT, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn error_of(progress: &Progress) -> Option<String> {
    progress.sinks().get(SINK)?.error.clone()
}

#[test]
fn a_sink_that_waits_names_file_and_record_looks_once_and_goes_on_when_it_is_mended() {
    let mut site = Site::new("retry");
    let mut events: Vec<Event> = (1..=3000)
        .map(|id| event(id, "/srv/a", put(id, "good")))
        .collect();
    events[1776].change = put(1777, "!bad");
    let wanted = truth(&events);
    beside(&mut site, events, |site, progress| {
        let told = wait_for("the status to name it", || {
            error_of(progress).filter(|error| error.contains("record 1777 of /srv/a"))
        });
        assert!(
            told.contains("constraint") && told.contains("tried again"),
            "{told}"
        );
        assert!(
            site.rows().is_empty(),
            "nothing of a batch is there before all of it"
        );
        let looked = site.sink.rehearsals.load(Ordering::SeqCst);
        assert!(looked <= 2 + 14, "{looked} rehearsals");
        // From then on one for each time it is tried.
        wait_for("it to be tried again", || {
            (site.sink.rehearsals.load(Ordering::SeqCst) >= looked + 3).then_some(())
        });
        assert_eq!(error_of(progress), Some(told));
        site.sink.mended.store(true, Ordering::SeqCst);
    });
    assert_eq!(site.rows(), wanted);
    assert_eq!(site.letters(), []);
}

#[test]
fn a_file_that_is_passed_over_stays_so_until_all_is_sent_anew_and_others_go_on() {
    let mut site = Site::new("stop");
    let first = vec![
        event(1, "/srv/a", put(1, "one")),
        event(2, "/srv/b", put(1, "one")),
        event(3, "/srv/a", put(2, "!bad")),
        event(4, "/srv/b", put(2, "two")),
    ];
    site.run(&[first]);
    let of_b = |count: u64| -> BTreeMap<u64, Image> {
        let text = ["one", "two", "three", "four"];
        (1..=count).zip(text.map(record)).collect()
    };
    assert_eq!(site.rows(), BTreeMap::from([(b"/srv/b".to_vec(), of_b(2))]));
    let letters = site.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].is_stop() && letters[0].file == "/srv/a",
        "{letters:?}"
    );
    assert_eq!(letters[0].position, "1/3/0");
    // Whatever happens to it, after a restart too; a name it is moved to would have only part of it.
    site.sink.mended.store(true, Ordering::SeqCst);
    let second = vec![
        event(5, "/srv/a", put(1, "uno")),
        event(6, "/srv/b", put(3, "three")),
        event(
            7,
            "/srv/c",
            Change::Renamed {
                from: file("/srv/a"),
            },
        ),
        event(8, "/srv/c", put(3, "tre")),
    ];
    site.run(&[second]);
    assert_eq!(site.rows(), BTreeMap::from([(b"/srv/b".to_vec(), of_b(3))]));
    let files: Vec<String> = site
        .letters()
        .into_iter()
        .map(|letter| letter.file)
        .collect();
    assert_eq!(files, ["/srv/a", "/srv/c"]);
    // That everything is sent anew changes nothing for who hasn't asked; then it does.
    let third = vec![event(9, "/srv/c", put(4, "quattro"))];
    site.run_as(&[third], Applier::begun_anew);
    assert_eq!(site.rows().len(), 1);
    for letter in site.letters() {
        site.store().ask(letter.number).expect("asking");
    }
    let anew = vec![
        event(
            10,
            "/srv/c",
            Change::Cleared {
                from: 0,
                to: u64::MAX,
            },
        ),
        event(11, "/srv/c", put(1, "uno")),
        event(12, "/srv/a", Change::Removed),
    ];
    site.run_as(&[anew], Applier::begun_anew);
    assert_eq!(site.letters(), []);
    let of_c = BTreeMap::from([(1, record("uno"))]);
    assert_eq!(
        site.rows(),
        BTreeMap::from([(b"/srv/b".to_vec(), of_b(3)), (b"/srv/c".to_vec(), of_c)])
    );
}

#[test]
fn what_is_refused_of_a_file_as_a_whole_isnt_taken_for_its_records() {
    let mut site = Site::new("stop");
    site.sink.closed_path = Some(b"/srv/a");
    let events = vec![
        event(1, "/srv/a", put(1, "one")),
        event(2, "/srv/b", put(1, "!bad")),
        event(3, "/srv/c", put(1, "one")),
    ];
    site.run(std::slice::from_ref(&events));
    let stopped: Vec<String> = site
        .letters()
        .into_iter()
        .map(|letter| letter.file)
        .collect();
    assert_eq!(stopped, ["/srv/a", "/srv/b"]);
    assert_eq!(
        site.rows().into_keys().collect::<Vec<_>>(),
        [b"/srv/c".to_vec()]
    );
    // Records can be kept, files can't.
    let mut site = Site::new("dead-letter");
    site.sink.closed_path = Some(b"/srv/a");
    beside(&mut site, events, |site, progress| {
        wait_for("the status to name the file", || {
            error_of(progress).filter(|error| error.contains("/srv/a as a whole"))
        });
        assert_eq!(site.letters(), []);
        site.sink.mended.store(true, Ordering::SeqCst);
    });
    assert_eq!(site.rows().len(), 3);
}

#[test]
fn many_are_isolated_and_too_many_are_waited_for() {
    let mut site = Site::new("dead-letter");
    let events = |count: u64, bad_every: u64| -> Vec<Event> {
        let text = |id: u64| {
            if id.is_multiple_of(bad_every) {
                "!bad"
            } else {
                "good"
            }
        };
        (0..count)
            .map(|id| event(id + 1, "/srv/a", put(id, text(id))))
            .collect()
    };
    site.run(&[events(2000, 50)]);
    assert_eq!(site.letters().len(), 40);
    assert_eq!(site.rows()[&b"/srv/a"[..]].len(), 1960);
    let rehearsals = site.sink.rehearsals.load(Ordering::SeqCst);
    assert!(rehearsals <= 2 + 40 * 2 * 12, "{rehearsals} rehearsals");
    let mut site = Site::new("dead-letter");
    beside(&mut site, events(1010, 1), |site, progress| {
        wait_for("the status to say that it is too much", || {
            error_of(progress).filter(|error| error.contains("more than 1000 records"))
        });
        assert_eq!(site.letters(), []);
        site.sink.mended.store(true, Ordering::SeqCst);
    });
    assert_eq!(site.rows()[&b"/srv/a"[..]].len(), 1010);
}

#[test]
fn a_letter_that_is_refused_again_stays_and_says_so() {
    let mut site = Site::new("dead-letter");
    site.run(&[vec![
        event(1, "/srv/a", put(1, "good")),
        event(2, "/srv/a", put(2, "!bad")),
    ]]);
    let before = site.letters();
    assert_eq!(before.len(), 1);
    assert_eq!((before[0].op.as_str(), before[0].record), ("put", Some(2)));
    assert!(before[0].reason.contains("constraint"), "{before:?}");
    site.store().ask(before[0].number).expect("asking");
    site.run(&[]);
    let after = site.letters();
    assert!(
        after.len() == 1 && after[0].tried_ns > 0 && !after[0].asked,
        "{after:?}"
    );
    // A later image that is refused too takes the place of the first; one that is taken closes the letter.
    site.run(&[vec![event(3, "/srv/a", put(2, "!worse"))]]);
    let later = site.letters();
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].position, "1/3/0");
    site.run(&[vec![event(4, "/srv/a", put(2, "well"))]]);
    assert_eq!(site.letters(), []);
    assert_eq!(site.sink.progress.problems(), Vec::<String>::new());
    assert_eq!(site.sink.progress.sinks()[SINK].letters_made_up, 1);
    assert_eq!(site.sink.progress.sinks()[SINK].lacking, BTreeMap::new());
    assert_eq!(site.rows()[&b"/srv/a"[..]][&2], record("well"));
}

/// In a table that keeps every change nothing makes up for one that is refused; applied later, it takes its place, and what
/// came after it stays as it is.
#[test]
fn a_record_that_was_deleted_since_doesnt_come_back_into_a_history() {
    let first = || {
        vec![
            event(1, "/srv/a", put(1, "good")),
            event(2, "/srv/a", put(2, "!bad")),
        ]
    };
    let cleared = Change::Cleared {
        from: 0,
        to: u64::MAX,
    };
    for (later, deleted_at) in [
        (vec![], ""),
        (vec![Change::Absent { id: 2 }], "1/3/0"),
        (vec![cleared], "1/3/0"),
        (vec![put(2, "late"), Change::Absent { id: 2 }], ""),
        (vec![Change::Absent { id: 2 }, put(2, "late")], "1/3/0"),
    ] {
        let later: Vec<Event> = (3..)
            .zip(&later)
            .map(|(lsn, change)| event(lsn, "/srv/a", change.clone()))
            .collect();
        let apart = later.iter().map(|event| vec![event.clone()]);
        for parcels in [
            vec![[first(), later.clone()].concat()],
            std::iter::once(first()).chain(apart).collect(),
        ] {
            let mut site = Site::with("dead-letter", "mode = 'history'\n");
            for parcel in parcels {
                site.run(&[parcel]);
            }
            let letters = site.letters();
            assert_eq!(letters.len(), 1, "{later:?}");
            assert_eq!(letters[0].deleted_at, deleted_at, "{later:?}");
            assert_eq!(letters[0].followed, !later.is_empty());
            site.sink.mended.store(true, Ordering::SeqCst);
            site.store().ask(letters[0].number).expect("asking");
            site.run(&[]);
            assert_eq!(site.letters(), []);
            let amendments = site.sink.amendments.lock().expect("whole");
            let logged = amendments.iter().flat_map(|batch| &batch.files[0].log);
            let logged: Vec<(u64, LoggedChange)> = logged
                .map(|logged| (logged.position.lsn, logged.change.clone()))
                .collect();
            let image = |image| LoggedChange::Image { id: 2, image };
            let mut expected = vec![(2, image(record("!bad")))];
            if !deleted_at.is_empty() {
                expected.push((3, image(Image::Absent)));
            }
            assert_eq!(logged, expected, "{later:?}");
        }
    }
}

/// What was in records that aren't written again doesn't come into a table that is new, or has other columns: that is told
/// until everything is sent anew, and once.
#[test]
fn a_table_in_records_that_is_new_to_a_target_is_told_of() {
    let fields = |more: &str| {
        format!(
            "field = [{{ name = 'n', type = 'zoned(1)' }}, {{ name = 't', occurs = {{ min = 0, max = 3, depending_on = 'n' }}, \
             fields = [{{ name = 'c', type = 'text(1)' }}] }}]\n{more}"
        )
    };
    let without = "[sink.table.a]\nfile = '/srv/a'\nexclude_columns = ['t']\n";
    let has_table = |site: &Site| site.rows().contains_key(&b"/srv/a//t"[..]);
    let mut site = Site::of(&fields(""), "dead-letter", without);
    site.run(&[vec![
        event(1, "/srv/a", put(1, "2xy ")),
        event(2, "/srv/a", put(2, "1z  ")),
    ]]);
    assert_eq!((has_table(&site), site.letters()), (false, Vec::new()));
    // From now on it is wanted.
    let other = Site::of(&fields(""), "dead-letter", "");
    let (before, _kept) = (
        std::mem::replace(&mut site.config, other.config.clone()),
        other,
    );
    site.run(&[vec![event(3, "/srv/a", put(2, "3pqr"))]]);
    assert!(has_table(&site));
    let letters = site.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].file, "/srv/a//t");
    assert!(letters[0].reason.contains("a_t is new"), "{letters:?}");
    site.run(&[vec![event(4, "/srv/a", put(3, "0   "))]]);
    assert_eq!(site.letters(), letters);
    // Everything is sent anew.
    let all = vec![
        event(5, "/srv/a", put(1, "2xy ")),
        event(5, "/srv/a", put(2, "3pqr")),
    ];
    site.run_as(&[all], Applier::begun_anew);
    assert_eq!((has_table(&site), site.letters()), (true, Vec::new()));
    drop(before);
}

/// What the store doesn't take isn't left out of the target.
#[test]
fn without_room_for_a_letter_the_sink_waits() {
    let mut site = Site::new("dead-letter");
    let state = site.config.site.state.clone();
    // Where the directory would be, there is a file.
    std::fs::write(state.join("dead-letters"), b"").expect("writing");
    let events = vec![
        event(1, "/srv/a", put(1, "good")),
        event(2, "/srv/a", put(2, "!bad")),
    ];
    beside(&mut site, events, |site, progress| {
        wait_for("the status to say that it can't be kept", || {
            error_of(progress).filter(|error| error.contains("dead-letters"))
        });
        assert!(site.rows().is_empty());
        std::fs::remove_file(state.join("dead-letters")).expect("removing");
    });
    assert_eq!(site.letters().len(), 1);
    assert_eq!(site.rows()[&b"/srv/a"[..]].len(), 1);
}

#[test]
fn of_two_images_in_one_batch_that_exclude_each_other_one_is_kept() {
    // As by a unique index: both are new, and only one can be there.
    #[derive(Clone)]
    struct Unique(MemorySink);
    impl Unique {
        fn check(batch: &Batch) -> Result<(), SinkError> {
            let images = batch
                .files
                .iter()
                .flat_map(|changes| changes.images.values());
            let rivals = images.filter(|image| **image == record("same"));
            if rivals.count() < 2 {
                return Ok(());
            }
            Err(SinkError::Refused {
                doing: "writing".to_owned(),
                cause: "there is one already".to_owned(),
            })
        }
    }
    impl Sink for Unique {
        fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
            Unique::check(batch)?;
            self.0.apply(batch)
        }
        fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
            Unique::check(batch)
        }
        fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
            self.0.snapshot()
        }
        fn close(self: Box<Self>) -> Result<(), SinkError> {
            Ok(())
        }
    }
    let site = Site::new("dead-letter");
    let mut target = MemorySink::default();
    let (outlet, mut inlets) = channel(1);
    let applier = Applier::new(
        &site.config,
        vec![STREAM.to_owned()],
        SINK.to_owned(),
        Box::new(Unique(target.clone())),
        inlets.pop().expect("one"),
        vec![None],
        Arc::default(),
    );
    let events: Vec<Event> = (1..=500)
        .map(|id| {
            event(
                id,
                "/srv/a",
                put(id, if id % 250 == 0 { "same" } else { "good" }),
            )
        })
        .collect();
    let parcel = Parcel {
        events,
        end: 501,
        ..Parcel::default()
    };
    outlet.send(parcel).expect("there is an inlet");
    drop(outlet);
    applier.run();
    let letters = site.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].record, Some(500), "the later one");
    assert_eq!(rows(&mut target)[&b"/srv/a"[..]].len(), 499);
}
