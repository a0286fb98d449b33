//! The process is killed at every step: rows and position are there together, or neither.

use super::*;
use crate::files::disk::Steps;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lets so many steps be done; what is under way then is torn, and nothing is done any more.
fn dies_after(steps: u64, done: &Arc<AtomicU64>) -> Steps {
    let done = Arc::clone(done);
    Box::new(move |doing| {
        if done.fetch_add(1, Ordering::Relaxed) >= steps {
            return Err(io::Error::other(format!("killed at {doing}")));
        }
        Ok(())
    })
}

fn with_attributes(mut changes: FileChanges, kind: FileKind, mode: u32) -> FileChanges {
    changes.attributes.kind = Some(kind);
    changes.attributes.mode = Some(mode);
    changes
}

/// Batches that do everything a batch can do.
fn story() -> Vec<Batch> {
    let cards = file("/srv/cards.dat");
    let log = raw("/srv/log");
    let old = [raw("/srv/log.1"), raw("/srv/log.2")];
    let temporary = file("/srv/cards.tmp");
    let tree = |name: &str| static_file("/srv/etc", format!("/srv/etc{name}"));
    let directory =
        |name: &str, mode| with_attributes(changes(&tree(name), []), FileKind::Directory, mode);
    let link = |name: &str, target: &str| {
        let mut made = changes(&tree(name), [(0, record(target))]);
        made.attributes.size = target.len() as u64;
        with_attributes(made, FileKind::Link, 0o777)
    };
    let rows = |file: &Arc<FileDescription>, ids: std::ops::Range<u64>, byte: u8, size: u64| {
        let mut made = changes(file, ids.map(|id| (id, record([byte; 100]))));
        made.attributes.size = size;
        with_attributes(made, FileKind::Regular, 0o644)
    };
    let rotate = |round: u8| {
        vec![
            renamed(changes(&old[1], []), "/srv/log.1", 3000),
            renamed(changes(&old[0], []), "/srv/log", 3000),
            whole(&log, &[round; 3000]),
        ]
    };
    let mut steps: Vec<Vec<FileChanges>> = vec![
        vec![
            rows(&cards, 1..40, b'a', 3900),
            whole(&log, &[b'0'; 3000]),
            whole(&old[0], &[b'1'; 3000]),
        ],
        // Changes in the middle, a cleared range, and growth behind a gap.
        vec![FileChanges {
            cleared: [3..6, 20..22].into(),
            ..rows(&cards, 10..15, b'b', 5000)
        }],
        vec![rows(&cards, 60..64, b'c', 6300)],
        // Truncated and written on.
        vec![FileChanges {
            cleared: std::iter::once(5..u64::MAX).collect(),
            ..rows(&cards, 7..8, b'd', 750)
        }],
        rotate(b'2'),
        vec![
            directory("", 0o755),
            directory("/sub", 0o750),
            with_attributes(
                whole(&tree("/sub/a"), &[b'a'; 300_000]),
                FileKind::Regular,
                0o640,
            ),
            with_attributes(whole(&tree("/b"), b"b"), FileKind::Regular, 0o755),
            link("/l", "sub/a"),
        ],
        rotate(b'3'),
        // Replaced as editors do it, in one batch and in two.
        vec![
            rows(&temporary, 1..5, b'e', 400),
            renamed_as(rows(&cards, 5..6, b'f', 500), "/srv/cards.tmp"),
        ],
        vec![rows(&temporary, 1..9, b'g', 800)],
        vec![renamed_as(rows(&cards, 2..3, b'h', 800), "/srv/cards.tmp")],
        // Names that trade places, and what takes the place of what was there.
        vec![
            renamed(changes(&tree("/hand"), []), "/srv/etc/b", 1),
            renamed(changes(&tree("/b"), []), "/srv/etc/sub/a", 300_000),
            renamed(changes(&tree("/sub/a"), []), "/srv/etc/hand", 1),
            link("/l", "b"),
        ],
        vec![
            removed(&tree("/sub/a")),
            removed(&tree("/sub")),
            with_attributes(
                whole(&tree("/sub"), b"a file now"),
                FileKind::Regular,
                0o600,
            ),
            removed(&tree("/l")),
            directory("/l", 0o700),
        ],
        vec![
            removed(&cards),
            removed(&log),
            rows(&cards, 1..3, b'i', 200),
        ],
        vec![],
    ];
    steps
        .drain(..)
        .enumerate()
        .map(|(n, files)| batch(n as u64 + 1, files))
        .collect()
}

/// What is there after each number of batches.
fn expected(story: &[Batch]) -> Vec<BTreeMap<PathBuf, There>> {
    let root = scratch();
    let mut sink = open(root.path());
    let mut states = vec![everything(root.path())];
    for batch in story {
        sink.apply(batch).expect("applying");
        states.push(everything(root.path()));
    }
    states
}

/// The batch that a mirror is at, which has to be all of it.
fn settled(root: &Path, states: &[BTreeMap<PathBuf, There>], when: &str) -> usize {
    let mut sink = open(root);
    let position = sink.position(STREAM).expect("the position");
    let reached = position.map_or(0, |position| position.lsn as usize);
    assert_eq!(everything(root), states[reached], "{when}, at {reached}");
    let own: Vec<_> = fs::read_dir(root.join(OWN_DIRECTORY))
        .expect("listing")
        .map(|entry| entry.expect("listing").file_name())
        .filter(|name| name != "lock" && name != "catalogue")
        .collect();
    assert!(own.is_empty(), "left over {when}: {own:?}");
    reached
}

#[test]
fn killed_at_any_step_it_is_before_or_after_the_batch() {
    let story = story();
    let states = expected(&story);
    for pair in states.windows(2).take(states.len() - 2) {
        assert_ne!(pair[0], pair[1], "a batch of the story does nothing");
    }
    let total = Arc::new(AtomicU64::new(0));
    let root = scratch();
    let sink = FilesSink::with_access(
        &config(root.path()),
        false,
        Some(dies_after(u64::MAX, &total)),
    );
    let mut sink = sink.expect("opening");
    for batch in &story {
        sink.apply(batch).expect("applying");
    }
    let total = total.load(Ordering::Relaxed);
    assert!(total > 200, "only {total} steps");
    let mut befores = 0;
    for steps in 0..total {
        let when = format!("killed after {steps} of {total} steps");
        let root = scratch();
        let count = Arc::new(AtomicU64::new(0));
        let opened =
            FilesSink::with_access(&config(root.path()), false, Some(dies_after(steps, &count)));
        let mut under_way = 0;
        if let Ok(mut sink) = opened {
            for batch in &story {
                under_way += 1;
                if sink.apply(batch).is_err() {
                    break;
                }
            }
        }
        // Dead once more, on the way back.
        for more in 0..4 {
            let again = Arc::new(AtomicU64::new(0));
            let _ = FilesSink::with_access(
                &config(root.path()),
                false,
                Some(dies_after(more * 3 + steps % 3, &again)),
            );
        }
        let reached = settled(root.path(), &states, &when);
        assert!(
            reached == under_way || reached + 1 == under_way || under_way == 0,
            "{when}: at {reached}, not at {under_way}"
        );
        befores += u64::from(reached < under_way);
        let mut sink = open(root.path());
        for batch in &story[reached..] {
            sink.apply(batch).expect("going on");
        }
        assert_eq!(
            everything(root.path()),
            states[story.len()],
            "{when}, then on"
        );
    }
    // Both happen, often.
    assert!(
        befores > 20 && total - befores > 100,
        "{befores} of {total}"
    );
}

#[test]
fn what_fails_and_comes_back_is_finished_by_the_same_sink() {
    let story = story();
    let states = expected(&story);
    let total = Arc::new(AtomicU64::new(0));
    let root = scratch();
    // Steps fail that are further and further apart: what a batch takes grows with each attempt.
    let count = Arc::clone(&total);
    let (mut fails_at, mut apart) = (20, 3);
    let steps: Steps = Box::new(move |doing| {
        if count.fetch_add(1, Ordering::Relaxed) == fails_at {
            apart += 1;
            fails_at += apart;
            return Err(io::Error::other(format!("failed at {doing}")));
        }
        Ok(())
    });
    let mut failures = 0;
    let mut sink =
        FilesSink::with_access(&config(root.path()), false, Some(steps)).expect("opening");
    for (n, batch) in story.iter().enumerate() {
        // As the applier does it.
        let mut attempts = 0;
        while sink.apply(batch).is_err() {
            failures += 1;
            attempts += 1;
            assert!(attempts < 1000, "it never ends");
            if sink.position(STREAM).ok().flatten() == Some(batch.position) {
                break;
            }
        }
        // The very last step may have been the one that failed: then it is done, and said to be undone.
        while sink.position(STREAM).is_err() {
            failures += 1;
        }
        assert_eq!(everything(root.path()), states[n + 1]);
        if n == 3 {
            assert!(failures > 0);
        }
    }
}

/// A log is made durable before anything is done that it says, and the files before the catalogue says that they are there.
#[test]
fn each_thing_is_durable_before_the_next_relies_on_it() {
    let root = scratch();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let steps: Steps = Box::new(move |doing| {
        noted.lock().expect("a lock").push(doing);
        Ok(())
    });
    let mut sink =
        FilesSink::with_access(&config(root.path()), false, Some(steps)).expect("opening");
    for batch in story() {
        seen.lock().expect("a lock").clear();
        sink.apply(&batch).expect("applying");
        let seen = seen.lock().expect("a lock").clone();
        let find = |doing: &str| {
            let at = seen.iter().position(|step| *step == doing);
            at.unwrap_or_else(|| panic!("{doing} isn't among {seen:?}"))
        };
        let order = [
            find("redo create"),
            find("redo fsync"),
            find("redo rename"),
            find("own fsync"),
            find("catalogue append"),
            find("catalogue fsync"),
            find("redo remove"),
        ];
        assert!(order.is_sorted(), "{seen:?}");
        let in_place = &seen[find("own fsync") + 1..find("catalogue append")];
        let last_change = in_place.iter().rposition(|step| {
            ["write", "zero", "truncate", "rename", "unlink", "place"].contains(step)
        });
        let last_sync = in_place
            .iter()
            .rposition(|step| *step == "fsync" || *step == "syncfs");
        assert!(last_change <= last_sync, "{seen:?}");
    }
}

#[test]
fn a_damaged_log_is_an_error_and_half_a_log_is_not() {
    let story = story();
    let root = scratch();
    let mut sink = open(root.path());
    sink.apply(&story[0]).expect("applying");
    drop(sink);
    let own = root.path().join(OWN_DIRECTORY);
    // Dies when the log has its name and nothing is done yet.
    let count = Arc::new(AtomicU64::new(0));
    let mut sink = FilesSink::with_access(&config(root.path()), false, Some(dies_after(4, &count)))
        .expect("opening");
    sink.apply(&story[1]).expect_err("killed");
    drop(sink);
    let log = fs::read(own.join("redo")).expect("reading the log");
    let before = everything(root.path());
    for offset in (0..log.len()).step_by(7) {
        let mut bad = log.clone();
        bad[offset] ^= 1;
        fs::write(own.join("redo"), &bad).expect("writing");
        let error = match FilesSink::open(&config(root.path())) {
            Ok(_) => panic!("a flipped bit at {offset} goes unseen"),
            Err(error) => text(&error),
        };
        assert!(error.contains("redo at byte "), "{error}");
    }
    fs::write(own.join("redo"), &log[..log.len() - 1]).expect("writing");
    assert!(FilesSink::open(&config(root.path())).is_err());
    assert_eq!(
        everything(root.path()),
        before,
        "nothing was done of a damaged log"
    );
    fs::remove_file(own.join("redo")).expect("removing");
    fs::write(own.join("redo.new"), &log[..log.len() / 2]).expect("writing");
    let mut sink = open(root.path());
    assert_eq!(sink.position(STREAM).expect("the position"), Some(at(1)));
    assert_eq!(everything(root.path()), before);
    sink.apply(&story[1]).expect("applying");
}
