//! The cases of the contract, each a story of a target.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges to clear often has one"
)]

use super::Harness;
use super::trial::{
    STREAM, Trial, batch, changes, content_of, file, record, removed, renamed, residue, static_file,
};
use crate::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, FileKind, Image, Sink, SinkError,
};
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization, RecordFormat, VarseqFormat};
use counterfoil_servers::wait_until;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn cleared(
    mut changes: FileChanges,
    ranges: impl IntoIterator<Item = std::ops::Range<u64>>,
) -> FileChanges {
    changes.cleared = ranges.into_iter().collect();
    changes
}

fn with_table(path: &str, table: &str) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        table: Some(table.into()),
        ..(*file(path)).clone()
    })
}

/// A target knows no position until something is applied, then the last one, for ever.
pub fn resumes_where_it_stopped(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    assert_eq!(
        trial.sink().position(STREAM).expect("reading the position"),
        None
    );
    let cards = file("/srv/cards.dat");
    for lsn in 1..5 {
        trial.apply([changes(&cards, [(lsn, record([b'0' + lsn as u8]))])]);
        let position = trial.position();
        assert_eq!(
            trial.sink().position(STREAM).expect("reading the position"),
            Some(position)
        );
    }
    trial.apply([]);
    assert_eq!(trial.content("/srv/cards.dat").len(), 4);
}

/// The same batch again, or an older one, is refused whole and says where the target is.
pub fn refuses_what_is_not_after(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let first = trial.batch([changes(&cards, [(1, record("first"))])]);
    trial.apply_batch(&first);
    let second = trial.batch([changes(&cards, [(1, record("second"))])]);
    trial.apply_batch(&second);
    for stale in [&first, &second] {
        match trial.refuse(stale) {
            SinkError::NotAfter {
                stream,
                after,
                offered,
                stored,
            } => {
                assert_eq!(
                    (stream.as_str(), after, offered, stored),
                    (STREAM, stale.after, stale.position, Some(second.position))
                );
            }
            other => panic!("not after, but: {other}"),
        }
    }
    let index_only = Batch {
        after: None,
        position: Position {
            index: second.position.index + 1,
            ..second.position
        },
        ..first
    };
    trial.apply_batch(&index_only);
    assert_eq!(trial.content("/srv/cards.dat"), [(1, record("first"))]);
}

/// A batch that was made for another position than the target has is refused whole, be it further on: another writer has
/// been there since, or the target is another one.
pub fn refuses_what_was_made_for_another_position(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let nothing_there = Batch {
        after: Some(trial.position()),
        ..trial.batch([changes(&cards, [(1, record("stray"))])])
    };
    let error = trial.refuse(&nothing_there);
    assert!(
        matches!(error, SinkError::NotAfter { stored: None, .. }),
        "{error}"
    );
    trial.apply([changes(&cards, [(1, record("first"))])]);
    let before = trial.position();
    trial.apply([renamed(
        changes(&file("/srv/moved.dat"), [(2, record("second"))]),
        "/srv/cards.dat",
    )]);
    // As the first one would do it again, late: the old name is gone, and its rows must not go as well.
    let late = Batch {
        after: Some(before),
        ..trial.batch([renamed(
            changes(&file("/srv/moved.dat"), [(3, record("third"))]),
            "/srv/cards.dat",
        )])
    };
    let error = trial.refuse(&late);
    assert!(matches!(error, SinkError::NotAfter { .. }), "{error}");
    assert_eq!(
        trial.content("/srv/moved.dat"),
        [(1, record("first")), (2, record("second"))]
    );
    trial.apply([changes(&file("/srv/moved.dat"), [(3, record("third"))])]);
    assert_eq!(trial.content("/srv/moved.dat").len(), 3);
}

/// Positions compare field by field: a greater epoch is after, whatever the lsn is.
pub fn accepts_a_new_epoch(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let at = |epoch, lsn, text: &str| Batch {
        stream: STREAM.into(),
        after: None,
        position: Position {
            epoch,
            lsn,
            index: 0,
        },
        captured_ns: 0,
        files: vec![changes(&cards, [(1, record(text))])],
    };
    trial.apply_batch(&at(1, 1_000_000, "one"));
    trial.apply_batch(&at(2, 7, "two"));
    trial.refuse(&at(1, 2_000_000, "stale"));
    trial.refuse(&at(2, 7, "stale"));
    trial.apply_batch(&at(2, 8, "three"));
    assert_eq!(trial.content("/srv/cards.dat"), [(1, record("three"))]);
}

/// What is refused at its very end leaves no row, file, table or position behind, and what comes
/// after it is applied as if it had never been offered.
pub fn leaves_nothing_of_a_refused_batch(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let refused = trial.harness().refused(b"/srv/refused.dat");
    let refused = refused.expect("`Harness::refused`, or why not in `Harness::cannot`");
    let (cards, rates, new) = (
        file("/srv/cards.dat"),
        file("/srv/rates.dat"),
        file("/srv/new.dat"),
    );
    trial.apply([
        changes(&cards, [(1, record("card")), (2, residue("old card"))]),
        changes(&rates, [(1, record("rate"))]),
    ]);
    let batch = trial.batch([
        changes(&new, [(1, record("new")), (2, residue("x"))]),
        changes(
            &cards,
            [
                (1, residue("gone")),
                (2, record("back")),
                (3, record("more")),
            ],
        ),
        cleared(changes(&rates, [(7, record("seven"))]), [0..u64::MAX]),
        renamed(changes(&file("/srv/rates.old"), []), "/srv/rates.dat"),
        removed(&cards),
        refused,
    ]);
    for _ in 0..2 {
        let error = trial.refuse(&batch);
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("/srv/refused.dat"),
            "an error names the file: {text}"
        );
    }
    // Without opening anew in between: what a sink remembers must not be of the refused batch.
    trial.sink().apply(&batch).expect_err("refused before");
    let next = trial.batch([
        changes(&cards, [(2, record("back"))]),
        changes(&new, [(5, record("five"))]),
        changes(&rates, [(1, Image::Absent)]),
    ]);
    trial.apply_without_reopening(&next);
    trial.reopen();
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(1, record("card")), (2, record("back"))]
    );
}

/// While something is in the way, applying fails with an error that says it is worth trying again,
/// and so it is.
pub fn survives_an_obstruction(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(&cards, [(1, record("card"))])]);
    let obstruction = trial.harness().obstruct();
    let obstruction = obstruction.expect("`Harness::obstruct`, or why not in `Harness::cannot`");
    let batch = trial.batch([changes(&cards, [(1, record("changed")), (2, residue("x"))])]);
    let error = trial
        .sink()
        .apply(&batch)
        .expect_err("the target is obstructed");
    assert!(error.is_transient(), "{error}");
    drop(obstruction);
    trial.compare("an obstruction");
    trial.apply_without_reopening(&batch);
    trial.reopen();
}

/// Put, delete and put again of one identity, in batches of their own: the last one holds.
pub fn folds_one_key(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    for image in [
        record("a"),
        Image::Absent,
        record("b"),
        record("c"),
        Image::Absent,
        Image::Absent,
        record("d"),
    ] {
        let batch = trial.batch([changes(
            &cards,
            [(5, image.clone()), (6, record("neighbour"))],
        )]);
        trial.apply_without_reopening(&batch);
    }
    trial.reopen();
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(5, record("d")), (6, record("neighbour"))]
    );
}

/// Put, removed with all of the file, put again and cleared within one batch: the last one holds, as one change.
pub fn folds_one_key_in_one_batch(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let steps = |n: u64| {
        [
            changes(&cards, [(5, record(format!("put {n}"))), (6, residue("x"))]),
            removed(&cards),
            changes(&cards, [(5, residue("again")), (7, record("again"))]),
            removed(&cards),
            cleared(
                changes(&cards, [(5, record(format!("last {n}")))]),
                [0..u64::MAX],
            ),
        ]
    };
    for n in 1..4 {
        trial.apply(steps(n));
        assert_eq!(
            trial.content("/srv/cards.dat"),
            [(5, record(format!("last {n}")))]
        );
        // The same the other way round: what is deleted last is gone.
        trial.apply([
            removed(&cards),
            changes(&cards, [(5, Image::Absent), (8, record("neighbour"))]),
        ]);
        assert_eq!(trial.content("/srv/cards.dat"), [(8, record("neighbour"))]);
    }
}

/// Whoever reads while batches are applied sees the whole of one, and never goes back to an earlier one.
pub fn never_shows_half_a_batch(harness: &mut dyn Harness) {
    const BATCHES: u64 = 30;
    let mut trial = Trial::begin(harness);
    let mut reader = trial
        .harness()
        .open_read_only()
        .expect("opening a reader beside the writer");
    let batches: Vec<Batch> = (1..=BATCHES).map(whole_batch).collect();
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut seen = 0;
            while seen < BATCHES {
                let lsn = whole_batch_in(&mut *reader);
                assert!(lsn >= seen, "it went from {seen} back to {lsn}");
                seen = lsn;
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut looked = 0;
        for batch in &batches {
            wait_until("the batch to be applied, and looked at", || {
                // One that failed is told of below.
                let now = looks.load(Ordering::Relaxed);
                if !reading.is_finished() && batch.position.lsn % 5 == 0 && now == looked {
                    return Err("nobody looks".to_owned());
                }
                looked = now;
                match trial.sink().apply(batch) {
                    Ok(()) => Ok(()),
                    Err(error) if error.is_transient() => Err(error.to_string()),
                    Err(error) => panic!("{error}"),
                }
            })
            .expect("applying while somebody reads");
        }
        reading.join().expect("whole batches only");
    });
    reader.close().expect("closing the reader");
    for batch in &batches {
        trial.note(batch);
    }
    trial.compare("all batches");
    trial.reopen();
}

/// A batch whose rows, residue and renamed file all say which it is.
pub fn whole_batch(lsn: u64) -> Batch {
    let text = || record(lsn.to_string());
    let turn = |lsn: u64| {
        file(if lsn.is_multiple_of(2) {
            "/srv/even"
        } else {
            "/srv/odd"
        })
    };
    let turned = renamed(
        changes(&turn(lsn), [(1, text())]),
        turn(lsn + 1).path.clone(),
    );
    let images = (0..200).map(|id| {
        (
            id,
            if id % 50 == lsn % 50 {
                residue(lsn.to_string())
            } else {
                text()
            },
        )
    });
    batch(lsn, [changes(&file("/srv/cards.dat"), images), turned])
}

/// Asserts that a snapshot shows one [`whole_batch`] and nothing else; gives its lsn, 0 where nothing was applied yet.
pub fn whole_batch_in(sink: &mut dyn Sink) -> u64 {
    let mut snapshot = sink.snapshot().expect("opening a snapshot");
    let Some(position) = snapshot.position(STREAM).expect("reading the position") else {
        assert!(snapshot.files(STREAM).expect("listing").is_empty());
        return 0;
    };
    let expected = whole_batch(position.lsn);
    let files = snapshot.files(STREAM).expect("listing");
    assert_eq!(files.len(), expected.files.len());
    for changes in &expected.files {
        let mut pieces = std::collections::BTreeMap::new();
        let mut each = |piece: crate::StoredPiece| pieces.insert(piece.id, piece.image).is_none();
        snapshot
            .pieces(STREAM, &changes.file.path, &mut each)
            .expect("reading pieces");
        assert_eq!(pieces, changes.images);
    }
    position.lsn
}

/// Every byte value, an empty record, and records that are nothing but rest.
pub fn keeps_every_byte(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let all: Vec<u8> = (0..=255).collect();
    let images = [
        (1, record(&all)),
        (2, record("")),
        (
            3,
            Image::Record {
                data: Vec::new(),
                rest: all.clone(),
            },
        ),
        (
            4,
            Image::Record {
                data: b"text".to_vec(),
                rest: b"\r".to_vec(),
            },
        ),
        (
            5,
            Image::Residue {
                bytes: all,
                reason: "it's a \"reason\" \u{2014} \n".into(),
            },
        ),
        (
            6,
            Image::Residue {
                bytes: Vec::new(),
                reason: String::new(),
            },
        ),
        (7, record("\\x41 \\N \\. , \t \" ' \u{0} \r\n")),
        (8, record([0xff; 300])),
        (9, record([0; 300])),
    ];
    trial.apply([changes(&file("/srv/cards.dat"), images.clone())]);
    assert_eq!(trial.content("/srv/cards.dat"), images);
    // A rest that goes away again.
    trial.apply([changes(
        &file("/srv/cards.dat"),
        [(3, record("x")), (4, record(""))],
    )]);
    assert_eq!(
        trial.content("/srv/cards.dat")[2..4],
        [(3, record("x")), (4, record(""))]
    );
}

/// A record of a mebibyte, and residue of one.
pub fn keeps_a_huge_record(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let huge: Vec<u8> = (0..1_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    trial.apply([changes(
        &file("/srv/log"),
        [
            (0, record(&huge)),
            (1 << 20, record("end")),
            (1 << 21, residue(&huge)),
        ],
    )]);
    trial.apply([changes(
        &file("/srv/log"),
        [(0, residue(&huge)), (1 << 21, record(&huge))],
    )]);
}

/// Identities are file offsets as often as not: 0, and far beyond 32 bits.
pub fn keeps_high_and_low_identities(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let ids = [0, 1, u64::from(u32::MAX), 1 << 33, 1 << 53, (1 << 62) + 1];
    trial.apply([changes(
        &file("/srv/log"),
        ids.map(|id| (id, record(id.to_string()))),
    )]);
    trial.apply([changes(
        &file("/srv/log"),
        ids.map(|id| (id + 1, residue(id.to_string()))),
    )]);
}

/// A row becomes residue, and residue a row; never both at once.
pub fn swaps_record_and_residue(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let steps: [(u64, Image); 9] = [
        (1, record("a")),
        (1, residue("b")),
        (1, residue("c")),
        (1, record("d")),
        (1, residue("e")),
        (1, Image::Absent),
        (1, residue("f")),
        (2, record("g")),
        (1, record("h")),
    ];
    // Once opening anew in between, once not.
    for reopening in [true, false] {
        for step in steps.clone() {
            let batch = trial.batch([changes(&cards, [step])]);
            trial.apply_without_reopening(&batch);
            if reopening {
                trial.reopen();
            }
        }
        assert_eq!(
            trial.content("/srv/cards.dat"),
            [(1, record("h")), (2, record("g"))]
        );
    }
}

/// More residue in a file than anybody wants to remember, and all of it replaced again.
pub fn keeps_many_residues(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(
        &cards,
        (0..5000).map(|id| (id, residue(id.to_string()))),
    )]);
    trial.apply([changes(
        &cards,
        (1000..4000).map(|id| (id, record(id.to_string()))),
    )]);
    trial.apply([cleared(
        changes(&cards, [(4500, record("x"))]),
        [10..20, 4400..u64::MAX],
    )]);
    trial.apply([cleared(changes(&cards, [(3, record("x"))]), [0..u64::MAX])]);
    trial.apply([changes(&cards, [(1, residue("y")), (3, residue("z"))])]);
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(1, residue("y")), (3, residue("z"))]
    );
}

/// A file emptied and written anew in one batch keeps what was written.
pub fn clears_then_puts(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(&cards, (1..=20).map(|id| (id, record("old"))))]);
    trial.apply([changes(&cards, (15..=17).map(|id| (id, residue("old"))))]);
    trial.apply([cleared(
        changes(&cards, [(2, record("new")), (16, residue("new"))]),
        [0..u64::MAX],
    )]);
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(2, record("new")), (16, residue("new"))]
    );
}

/// Truncation, ranges in the middle, ranges that touch, cross, are empty or hit nothing.
pub fn clears_ranges(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let fill = |id: u64| {
        (
            id,
            if id.is_multiple_of(4) {
                residue("r")
            } else {
                record("r")
            },
        )
    };
    trial.apply([changes(&cards, (0..40).map(fill))]);
    trial.apply([cleared(changes(&cards, []), [30..u64::MAX])]);
    assert_eq!(trial.content("/srv/cards.dat").len(), 30);
    trial.apply([cleared(changes(&cards, []), [3..9, 9..10, 8..12])]);
    trial.apply([cleared(
        changes(&cards, []),
        [20..20, 1000..2000, u64::MAX - 5..u64::MAX],
    )]);
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "a range that ends before it begins clears nothing"
    )]
    trial.apply([cleared(changes(&cards, []), [25..20])]);
    trial.apply([cleared(
        changes(&cards, [(0, record("new"))]),
        [0..1, 29..u64::MAX],
    )]);
    let ids: Vec<u64> = trial
        .content("/srv/cards.dat")
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(ids, (0..3).chain(12..29).collect::<Vec<_>>());
}

/// What a sink remembers of a file from one batch to the next holds: a file, of a tree or with a table of its own, that is made
/// and then shrinks, loses records or is truncated has just what is left of it.
pub fn shrinks_what_it_remembers(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    for file in [
        static_file("/srv/etc", "/srv/etc/a"),
        file("/srv/cards.dat"),
    ] {
        let whole = |images: u64| (0..images).map(move |id| (id, record(format!("{images} {id}"))));
        let ids = |trial: &mut Trial<'_>| -> Vec<u64> {
            let content = trial.content(&file.path);
            content.iter().map(|(id, _)| *id).collect()
        };
        trial.go_on([cleared(changes(&file, whole(6)), [0..u64::MAX])]);
        trial.go_on([cleared(
            changes(&file, [(3, record("last"))]),
            [4..u64::MAX],
        )]);
        assert_eq!(ids(&mut trial), [0, 1, 2, 3]);
        trial.go_on([changes(&file, [(1, Image::Absent), (4, record("more"))])]);
        assert_eq!(ids(&mut trial), [0, 2, 3, 4]);
        trial.go_on([cleared(changes(&file, []), [2..4])]);
        assert_eq!(ids(&mut trial), [0, 4]);
        trial.go_on([cleared(changes(&file, []), [0..u64::MAX])]);
        assert_eq!(trial.content(&file.path), []);
        trial.go_on([changes(&file, whole(100))]);
        trial.go_on([cleared(
            changes(&file, [(49, Image::Absent), (99, record("end"))]),
            [50..u64::MAX],
        )]);
        assert_eq!(ids(&mut trial), (0..49).chain([99]).collect::<Vec<u64>>());
        trial.go_on([cleared(changes(&file, whole(2)), [0..u64::MAX])]);
        assert_eq!(trial.content(&file.path), whole(2).collect::<Vec<_>>());
        trial.go_on([changes(&file, [(0, Image::Absent), (1, Image::Absent)])]);
        assert_eq!(trial.content(&file.path), []);
        trial.go_on([changes(&file, whole(3))]);
        trial.go_on([removed(&file), changes(&file, whole(2))]);
        trial.go_on([changes(&file, [(1, Image::Absent)])]);
        assert_eq!(ids(&mut trial), [0]);
    }
    trial.reopen();
}

/// A file without records is a file all the same.
pub fn makes_an_empty_file(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    trial.apply([changes(&file("/srv/empty"), [])]);
    assert!(trial.stored("/srv/empty").is_some());
    assert!(trial.content("/srv/empty").is_empty());
    assert!(trial.content("/srv/not there").is_empty());
}

/// Rows and residue go with a renamed file, also in the batch that changes it.
pub fn renames_a_file(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (old, new) = (file("/srv/old.dat"), file("/srv/sub/new.dat"));
    trial.apply([changes(
        &old,
        [
            (1, record("one")),
            (2, residue("two")),
            (3, record("three")),
        ],
    )]);
    trial.apply([renamed(
        cleared(changes(&new, [(2, record("2"))]), [3..4]),
        "/srv/old.dat",
    )]);
    assert!(trial.stored("/srv/old.dat").is_none());
    assert_eq!(
        trial.content("/srv/sub/new.dat"),
        [(1, record("one")), (2, record("2"))]
    );
    // The old name is free for another file; and a rename to itself is none.
    trial.apply([
        changes(&old, [(9, record("another"))]),
        renamed(changes(&new, []), "/srv/sub/new.dat"),
    ]);
    assert_eq!(trial.content("/srv/old.dat"), [(9, record("another"))]);
    assert_eq!(trial.content("/srv/sub/new.dat").len(), 2);
}

/// The way editors and batch jobs replace a file: write another, rename it over.
pub fn renames_onto_a_file(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (target, temporary) = (file("/srv/cards.dat"), file("/srv/cards.tmp"));
    trial.apply([changes(
        &target,
        [(1, record("old")), (2, record("old")), (3, residue("old"))],
    )]);
    for round in 0..3 {
        trial.apply([changes(
            &temporary,
            [(1, record(format!("new {round}"))), (4, residue("new"))],
        )]);
        trial.apply([renamed(changes(&target, []), "/srv/cards.tmp")]);
        assert_eq!(
            trial.content("/srv/cards.dat"),
            [(1, record(format!("new {round}"))), (4, residue("new"))]
        );
        assert!(trial.stored("/srv/cards.tmp").is_none());
    }
}

/// Log rotation: every file takes the next one's name, in one batch, and a new one begins.
pub fn renames_in_a_chain(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let names = [
        "/var/app.log",
        "/var/app.log.1",
        "/var/app.log.2",
        "/var/app.log.3",
    ];
    let log = file(names[0]);
    trial.apply([changes(&log, [])]);
    let table = trial.stored(names[0]).map(|file| file.table);
    for round in 0..6 {
        trial.apply([changes(
            &log,
            [(0, record(format!("round {round}"))), (8, residue("tail"))],
        )]);
        let rotation = (0..3)
            .rev()
            .map(|n| renamed(changes(&file(names[n + 1]), []), names[n]));
        let fresh = changes(&log, [(0, record("begun"))]);
        trial.apply(rotation.chain([fresh]));
        assert_eq!(
            trial.stored(names[0]).map(|file| file.table),
            table,
            "the table follows the name"
        );
    }
    for (n, round) in [(1, 5), (2, 4), (3, 3)] {
        assert_eq!(
            trial.content(names[n])[0],
            (0, record(format!("round {round}")))
        );
    }
    assert_eq!(trial.content(names[0]), [(0, record("begun"))]);
}

/// Two files that trade names through a third one.
pub fn swaps_two_names(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (a, b, hand) = (file("/srv/a"), file("/srv/b"), file("/srv/hand"));
    trial.apply([
        changes(&a, [(1, record("was a")), (2, residue("a"))]),
        changes(&b, [(1, record("was b"))]),
    ]);
    for _ in 0..2 {
        trial.apply([
            renamed(changes(&hand, []), "/srv/a"),
            renamed(changes(&a, []), "/srv/b"),
            renamed(changes(&b, [(3, record("after"))]), "/srv/hand"),
        ]);
    }
    assert_eq!(
        trial.content("/srv/a"),
        [
            (1, record("was a")),
            (2, residue("a")),
            (3, record("after"))
        ]
    );
    assert_eq!(
        trial.content("/srv/b"),
        [(1, record("was b")), (3, record("after"))]
    );
    assert!(trial.stored("/srv/hand").is_none());
}

/// A file made and renamed within one batch arrives under its last name; what was there is gone.
pub fn renames_what_it_never_saw(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(&cards, [(1, record("old")), (2, residue("old"))])]);
    trial.apply([renamed(
        changes(&cards, [(3, record("new"))]),
        "/srv/cards.tmp",
    )]);
    assert_eq!(trial.content("/srv/cards.dat"), [(3, record("new"))]);
}

/// Removed and made again in one batch: nothing of the old content is left; and the other way round.
pub fn removes_and_makes_again(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(&cards, [(1, record("old")), (2, residue("old"))])]);
    let table = trial.stored("/srv/cards.dat").map(|file| file.table);
    trial.apply([removed(&cards), changes(&cards, [(3, record("new"))])]);
    assert_eq!(trial.content("/srv/cards.dat"), [(3, record("new"))]);
    // More than once, the last one counts.
    trial.apply([
        removed(&cards),
        changes(&cards, [(8, record("short-lived"))]),
        removed(&cards),
        changes(&cards, [(3, record("new"))]),
    ]);
    assert_eq!(trial.content("/srv/cards.dat"), [(3, record("new"))]);
    assert_eq!(trial.stored("/srv/cards.dat").map(|file| file.table), table);
    trial.apply([changes(&cards, [(4, record("newer"))]), removed(&cards)]);
    assert!(trial.stored("/srv/cards.dat").is_none());
    assert!(trial.content("/srv/cards.dat").is_empty());
    trial.apply([changes(&cards, [])]);
    assert!(trial.content("/srv/cards.dat").is_empty());
    // Renamed, then removed under the new name: both are gone.
    trial.apply([
        changes(&cards, [(1, record("x"))]),
        changes(&file("/srv/b"), [(1, record("y"))]),
    ]);
    trial.apply([FileChanges {
        fate: FileFate::Removed,
        ..renamed(changes(&file("/srv/b"), []), "/srv/cards.dat")
    }]);
    assert!(
        trial
            .sink()
            .files(STREAM)
            .expect("listing the files")
            .is_empty()
    );
}

/// A file can come and go between two batches without ever being seen.
pub fn removes_what_is_not_there(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    trial.apply([
        removed(&file("/srv/never")),
        changes(&file("/srv/cards.dat"), [(1, record("x"))]),
    ]);
    assert_eq!(
        trial.sink().files(STREAM).expect("listing the files").len(),
        1
    );
}

/// Names that are nothing but trouble in SQL, from paths and from the configuration.
pub fn quotes_identifiers(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let names = [
        "select",
        "order",
        "group",
        "table",
        "1st",
        "a b",
        "a-b",
        "a.b",
        "a\"b",
        "a'b",
        "a`b",
        "a;--",
        "a]b",
        "[a",
        "%s",
        "?1",
        ":x",
        "@x",
        "$1",
        "\u{e4}\u{f6}\u{fc}",
        "\u{5e33}\u{7c3f}",
        "a\\b",
        "counterfoil_files",
        "sqlite_schema",
        "counterfoil_position",
        "x\"; DROP TABLE counterfoil_files; --",
        "null",
        "rowid",
        "NUL",
    ];
    let from_paths = names.map(|name| file(format!("/srv/{name}")));
    trial.apply(
        from_paths
            .iter()
            .map(|file| changes(file, [(1, record(&file.path)), (2, residue("r"))])),
    );
    let configured = [
        "select",
        "a b",
        "a\"b",
        "a'b",
        "a`b",
        "x\"; DROP TABLE counterfoil_files; --",
        "\u{5e33}",
        "a\\b",
    ];
    trial.apply(configured.map(|name| {
        changes(
            &with_table(&format!("/etc/{name}"), name),
            [(1, record(name)), (2, residue("r"))],
        )
    }));
    // Renaming quotes as well.
    trial.apply(names.map(|name| {
        renamed(
            changes(&file(format!("/srv/{name}'\"")), [(3, record("x"))]),
            format!("/srv/{name}"),
        )
    }));
    trial.apply(names.map(|name| removed(&file(format!("/srv/{name}'\"")))));
}

/// A path is bytes: newlines, quotes, no UTF-8, nothing a name can be made of, and very long.
pub fn takes_odd_paths(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let long = [&b"/"[..], &b"deep/".repeat(800)[..], b"file"].concat();
    let long_name = [&b"/srv/"[..], &b"n".repeat(255)[..]].concat();
    let long_name_2 = [&b"/srv/"[..], &b"n".repeat(254)[..], b"m"].concat();
    let paths: [&[u8]; 14] = [
        b"/srv/new\nline",
        b"/srv/\xff\xfe\x80",
        b"/srv/\xff\xfe\x81",
        b"/srv/it's \"quoted\" \\ `x`",
        b"/srv/ ",
        b"/srv/...",
        b"/srv/\x01\x7f\x1b[31m",
        "/srv/Zu\u{308}rich".as_bytes(),
        "/srv/Z\u{fc}rich".as_bytes(),
        "/srv/\u{1f4b3}".as_bytes(),
        b"/srv/UPPER",
        b"/srv/upper",
        &long,
        &long_name,
    ];
    let odd = |n: usize, path: &[u8]| {
        changes(&file(path), [(n as u64, record(path)), (99, residue("r"))])
    };
    trial.apply(paths.iter().enumerate().map(|(n, path)| odd(n, path)));
    for (n, path) in paths.iter().enumerate() {
        assert_eq!(trial.content(path)[0], (n as u64, record(path)));
    }
    trial.apply([
        renamed(changes(&file(&long_name_2), []), &long_name),
        removed(&file(&long)),
    ]);
}

/// Two files of one name in two directories, and names that only differ once they are tables.
pub fn keeps_same_base_names_apart(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let paths = [
        "/a/cards.dat",
        "/b/cards.dat",
        "/c/cards-dat",
        "/d/CARDS.DAT",
        "/e/cards_dat_2",
        "/f/cards.dat",
    ];
    trial.apply(paths.map(|path| changes(&file(path), [(1, record(path))])));
    let table = |trial: &mut Trial<'_>, path: &str| trial.stored(path).map(|file| file.table);
    let before = paths.map(|path| table(&mut trial, path));
    trial.apply(paths.map(|path| changes(&file(path), [(2, record(path))])));
    assert_eq!(
        paths.map(|path| table(&mut trial, path)),
        before,
        "table names stay as they are"
    );
    // A name that became free may be taken again, and renaming to another directory keeps a table.
    trial.apply([
        removed(&file(paths[1])),
        changes(&file("/g/cards.dat"), [(1, record("g"))]),
    ]);
    trial.apply([renamed(changes(&file("/h/cards.dat"), []), paths[0])]);
    assert_eq!(table(&mut trial, "/h/cards.dat"), before[0]);
}

/// A configured table name is the table's name, wherever the file moves; and two that want the same
/// get two.
pub fn honours_configured_tables(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let table = |trial: &mut Trial<'_>, path: &str| trial.stored(path).map(|file| file.table);
    let cards = with_table("/srv/cards.dat", "Card Master");
    trial.apply([changes(&cards, [(1, record("card"))])]);
    assert_eq!(
        table(&mut trial, "/srv/cards.dat").as_deref(),
        Some("Card Master")
    );
    let moved = with_table("/srv/cards.new", "Card Master");
    trial.apply([renamed(changes(&moved, []), "/srv/cards.dat")]);
    assert_eq!(
        table(&mut trial, "/srv/cards.new").as_deref(),
        Some("Card Master")
    );
    trial.apply([changes(
        &with_table("/srv/other", "card master"),
        [(1, record("other"))],
    )]);
    // Configured later, and no longer.
    trial.apply([changes(&file("/srv/rates"), [(1, record("rate"))])]);
    trial.apply([changes(
        &with_table("/srv/rates", "rates_now"),
        [(2, record("rate"))],
    )]);
    assert_eq!(
        table(&mut trial, "/srv/rates").as_deref(),
        Some("rates_now")
    );
    trial.apply([changes(&file("/srv/rates"), [(3, record("rate"))])]);
    assert_eq!(trial.content("/srv/rates").len(), 3);
    for reserved in ["", "counterfoil_files", "COUNTERFOIL_X", "sqlite_x", "a\0b"] {
        let batch = trial.batch([changes(&with_table("/srv/reserved", reserved), [])]);
        let error = trial.refuse(&batch);
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    }
}

/// Another organisation, layout or group for a file: the rows stay until they are changed.
pub fn follows_a_changed_description(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let formats = [
        (Organization::Fixed, Layout::Plain, Some(80), None),
        (Organization::Relative, Layout::Gnucobol, Some(150), None),
        (
            Organization::Sequential,
            Layout::Gnucobol,
            None,
            Some(VarseqFormat::BigEndian16),
        ),
        (
            Organization::Sequential,
            Layout::Gnucobol,
            Some(9),
            Some(VarseqFormat::Native32),
        ),
        (Organization::Stream, Layout::Newline, None, None),
        (Organization::Stream, Layout::Blocks, Some(4096), None),
        (Organization::Stream, Layout::LineSequential, None, None),
    ];
    for (n, (organization, layout, record_size, varseq_format)) in formats.into_iter().enumerate() {
        let described = Arc::new(FileDescription {
            format: RecordFormat {
                organization,
                layout,
                settings: counterfoil_records::Settings::NONE,
                record_size,
                varseq_format,
            },
            group: format!("group {n}"),
            ..(*file("/srv/cards.dat")).clone()
        });
        trial.apply([changes(&described, [(n as u64, record("x"))])]);
        trial.apply([changes(&described, [(n as u64 + 100, residue("x"))])]);
    }
    assert_eq!(trial.content("/srv/cards.dat").len(), 14);
}

/// Size, permissions, owner and time, known or not.
pub fn keeps_attributes(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let all = [
        Attributes {
            size: 12_345,
            kind: Some(FileKind::Regular),
            mode: Some(0o100_640),
            uid: Some(1000),
            gid: Some(u32::MAX),
            modified_ns: Some(-1),
        },
        Attributes::default(),
        Attributes {
            size: 1 << 50,
            kind: Some(FileKind::Link),
            mode: Some(0),
            uid: Some(0),
            gid: None,
            modified_ns: Some(i64::MAX),
        },
        Attributes {
            size: 0,
            kind: None,
            mode: None,
            uid: Some(7),
            gid: Some(0),
            modified_ns: Some(i64::MIN),
        },
    ];
    for attributes in all {
        trial.apply([FileChanges {
            attributes,
            ..changes(&cards, [])
        }]);
        assert_eq!(
            trial.stored("/srv/cards.dat").map(|file| file.attributes),
            Some(attributes)
        );
    }
}

/// Several streams share a target, each with its position and its files, even of the same path.
pub fn keeps_streams_apart(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    let streams = [
        "hq/payments",
        "hq/Payments",
        "branch 'x'/\"log\"",
        "\u{fc}/\u{f6}",
    ];
    for round in 1..4 {
        for (n, stream) in streams.iter().enumerate() {
            let id = round * 10 + n as u64;
            trial.apply_batch(&Batch {
                stream: (*stream).into(),
                after: None,
                position: Position {
                    epoch: 1,
                    lsn: id * 5,
                    index: n as u32,
                },
                captured_ns: 0,
                files: vec![changes(
                    &cards,
                    [(id, record(stream)), (1, residue(stream))],
                )],
            });
        }
    }
    for stream in streams {
        assert_eq!(content_of(trial.sink(), stream, b"/srv/cards.dat").len(), 4);
    }
    trial.apply([removed(&cards)]);
    assert_eq!(
        content_of(trial.sink(), streams[1], b"/srv/cards.dat").len(),
        4
    );
    assert_eq!(
        trial
            .sink()
            .position("nobody/knows")
            .expect("reading the position"),
        None
    );
    assert!(
        trial
            .sink()
            .files("nobody/knows")
            .expect("listing the files")
            .is_empty()
    );
}

/// Hundreds of files in one batch, most of one name.
pub fn takes_many_files_at_once(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let files: Vec<_> = (0..300).map(|n| file(format!("/srv/{n}/data"))).collect();
    trial.apply(
        files
            .iter()
            .map(|file| changes(file, [(1, record(&file.path)), (2, residue("x"))])),
    );
    trial.apply(
        files
            .iter()
            .step_by(3)
            .map(|file| changes(file, [(2, record("y"))])),
    );
    trial.apply(files.iter().step_by(2).map(removed));
    assert_eq!(
        trial.sink().files(STREAM).expect("listing the files").len(),
        150
    );
}

/// The files of a tree share a table, and nothing else: what is done to one leaves the others alone.
pub fn keeps_a_tree_in_one_table(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let [a, b, c] =
        ["a", "b", "sub/a"].map(|name| static_file("/srv/etc", format!("/srv/etc/{name}")));
    let other = static_file("/opt/etc", "/opt/etc/a");
    let cards = file("/srv/etc.dat");
    trial.apply([
        changes(
            &a,
            [(0, record("a0")), (1, record("a1")), (2, record("a2"))],
        ),
        changes(&b, [(0, record("b0")), (1, record("b1"))]),
        changes(&c, [(0, record("c0"))]),
        changes(&other, [(0, record("other"))]),
        changes(&cards, [(0, record("card"))]),
    ]);
    let table = |trial: &mut Trial<'_>, file: &Arc<FileDescription>| {
        trial.stored(&file.path).map(|stored| stored.table)
    };
    assert_eq!(table(&mut trial, &a), table(&mut trial, &b));
    assert_eq!(table(&mut trial, &a), table(&mut trial, &c));
    assert_ne!(table(&mut trial, &a), table(&mut trial, &other));
    trial.apply([
        cleared(changes(&a, [(3, record("a3"))]), [1..2]),
        changes(&b, [(1, Image::Absent)]),
    ]);
    trial.apply([cleared(changes(&b, [(0, record("b"))]), [0..u64::MAX])]);
    assert_eq!(
        trial.content(&a.path),
        [(0, record("a0")), (2, record("a2")), (3, record("a3"))]
    );
    assert_eq!(trial.content(&b.path), [(0, record("b"))]);
    trial.apply([removed(&a)]);
    assert_eq!(trial.content(&a.path), []);
    assert_eq!(trial.content(&b.path), [(0, record("b"))]);
    assert_eq!(trial.content(&c.path), [(0, record("c0"))]);
    trial.apply([removed(&b), removed(&c)]);
    trial.apply([changes(&b, [(0, record("again"))])]);
    assert_eq!(trial.content(&other.path), [(0, record("other"))]);
    assert_eq!(trial.content(&cards.path), [(0, record("card"))]);
}

/// A rename within a tree keeps the content, also onto another file and in a chain within a batch.
pub fn renames_within_a_tree(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let [a, b, c] = ["a", "b", "c"].map(|name| static_file("/srv/etc", format!("/srv/etc/{name}")));
    trial.apply([
        changes(&a, [(0, record("a0")), (1, record("a1"))]),
        changes(&b, [(0, record("b0"))]),
    ]);
    trial.apply([renamed(changes(&b, []), &a.path)]);
    assert_eq!(trial.content(&a.path), []);
    assert_eq!(
        trial.content(&b.path),
        [(0, record("a0")), (1, record("a1"))]
    );
    trial.apply([
        renamed(changes(&c, []), &b.path),
        changes(&b, [(0, record("new b"))]),
        renamed(changes(&a, [(1, record("changed"))]), &c.path),
    ]);
    assert_eq!(
        trial.content(&a.path),
        [(0, record("a0")), (1, record("changed"))]
    );
    assert_eq!(trial.content(&b.path), [(0, record("new b"))]);
    assert_eq!(trial.stored(&c.path), None);
}

/// Directories, links and empty files are entries without content, with all that is known of them.
pub fn keeps_what_static_files_are(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    for (n, kind) in FileKind::ALL.into_iter().enumerate() {
        let entry = static_file("/srv/etc", format!("/srv/etc/{n}"));
        let attributes = Attributes {
            size: 0,
            kind: Some(kind),
            mode: Some(0o2750 + n as u32),
            uid: Some(0),
            gid: Some(1000),
            modified_ns: Some(1_700_000_000_123_456_789),
        };
        trial.apply([FileChanges {
            attributes,
            ..changes(&entry, [])
        }]);
        let stored = trial.stored(&entry.path).map(|stored| stored.attributes);
        assert_eq!(stored, Some(attributes));
        assert_eq!(trial.content(&entry.path), []);
    }
}

/// What a link leads to is bytes, text or not.
pub fn keeps_what_links_lead_to(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let link = static_file("/srv/etc", b"/srv/etc/\xff\xfe link");
    for target in [
        &b"../\xff\x01\xfe"[..],
        b"/etc/passwd",
        b"'; DROP TABLE x; --",
    ] {
        let attributes = Attributes {
            size: target.len() as u64,
            kind: Some(FileKind::Link),
            ..Attributes::default()
        };
        trial.apply([FileChanges {
            attributes,
            ..changes(&link, [(0, record(target))])
        }]);
        assert_eq!(trial.content(&link.path), [(0, record(target))]);
    }
}

/// A file that comes into a tree, or leaves one, begins anew: what its rows were is something else.
pub fn moves_between_trees_and_tables(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let path = "/srv/etc/a";
    let descriptions = [
        file(path),
        static_file("/srv/etc", path),
        static_file("/srv", path),
        file(path),
    ];
    let beside = static_file("/srv/etc", "/srv/etc/b");
    trial.apply([changes(&beside, [(0, record("beside"))])]);
    for (n, description) in descriptions.iter().enumerate() {
        let image = (n as u64, record(format!("content {n}")));
        trial.apply([changes(description, [image.clone()])]);
        assert_eq!(trial.content(path), [image]);
    }
    trial.apply([renamed(
        changes(&static_file("/srv/etc", "/srv/etc/c"), []),
        path,
    )]);
    assert_eq!(trial.content("/srv/etc/c"), []);
    assert_eq!(trial.stored(path), None);
    assert_eq!(trial.content(&beside.path), [(0, record("beside"))]);
}

/// Another table name for a tree: all its files go with it, whichever is heard of first.
pub fn follows_a_changed_tree(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let named = |name: &str, table: Option<&str>| {
        Arc::new(FileDescription {
            table: table.map(str::to_owned),
            ..(*static_file("/srv/etc", format!("/srv/etc/{name}"))).clone()
        })
    };
    for (n, table) in [None, Some("settings"), Some("Settings"), Some("x y"), None]
        .into_iter()
        .enumerate()
    {
        let heard_of = if n % 2 == 0 { "a" } else { "b" };
        trial.apply([changes(&named(heard_of, table), [(n as u64, record("x"))])]);
        trial.apply([changes(&named("c", table), [(n as u64, record("x"))])]);
    }
    assert_eq!(trial.content("/srv/etc/a").len(), 3);
    assert_eq!(trial.content("/srv/etc/b").len(), 2);
    assert_eq!(trial.content("/srv/etc/c").len(), 5);
}

/// Thousands of files of a tree in one batch.
pub fn takes_a_large_tree_at_once(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let files: Vec<_> = (0..3000)
        .map(|n| static_file("/srv/etc", format!("/srv/etc/{}/{n}", n / 100)))
        .collect();
    trial.apply(
        files
            .iter()
            .map(|file| changes(file, [(0, record(&file.path))])),
    );
    trial.apply(files.iter().step_by(2).map(removed));
    let stored = trial.sink().files(STREAM).expect("listing the files");
    assert_eq!(stored.len(), 1500);
    assert!(stored.iter().all(|file| file.table == stored[0].table));
    assert_eq!(
        trial.content(&files[2999].path),
        [(0, record(&files[2999].path))]
    );
}

/// Files come in order of their paths' bytes, pieces in order of identity.
pub fn lists_files_in_order(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let paths: [&[u8]; 6] = [b"/b", b"/a/b", b"/B", b"/\xff", "/\u{e9}".as_bytes(), b"/a"];
    for path in paths {
        trial.apply([changes(&file(path), [3, 1, 2].map(|id| (id, record("x"))))]);
        trial.apply([changes(
            &file(path),
            [(9, record("x")), (0, residue("x")), (5, residue("x"))],
        )]);
    }
    let files = trial.sink().files(STREAM).expect("listing the files");
    let listed: Vec<_> = files
        .into_iter()
        .map(|file| file.description.path)
        .collect();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    let ids: Vec<u64> = trial.content("/b").into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 5, 9]);
}

/// A reader that has seen enough isn't called again, and the sink can be used as before.
pub fn stops_a_walk_early(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(
        &cards,
        (0..100).map(|id| {
            (
                id,
                if id % 2 == 0 {
                    record("x")
                } else {
                    residue("y")
                },
            )
        }),
    )]);
    for stop_at in [0, 1, 50, 99] {
        let mut seen = 0;
        let mut each = |piece: crate::StoredPiece| {
            seen += 1;
            piece.id != stop_at
        };
        trial
            .sink()
            .pieces(STREAM, b"/srv/cards.dat", &mut each)
            .expect("reading pieces");
        assert_eq!(seen, stop_at + 1);
    }
    trial.apply([changes(&cards, [(1, record("z"))])]);
}

/// Position, files and pieces of a snapshot belong together, while another sink goes on writing.
pub fn reads_one_snapshot(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (cards, rates) = (file("/srv/cards.dat"), file("/srv/rates.dat"));
    trial.apply([
        changes(&cards, [(1, record("before"))]),
        changes(&rates, [(1, record("before")), (2, residue("r"))]),
    ]);
    let before = trial.position();
    let mut reader = trial
        .harness()
        .open_read_only()
        .expect("opening a reader beside the writer");
    let mut snapshot = reader.snapshot().expect("opening a snapshot");
    let batch = trial.batch([
        changes(&cards, [(1, record("after")), (2, record("after"))]),
        renamed(changes(&file("/srv/rates.old"), []), "/srv/rates.dat"),
    ]);
    trial.apply_without_reopening(&batch);
    assert_eq!(
        snapshot.position(STREAM).expect("reading the position"),
        Some(before)
    );
    let paths: Vec<_> = snapshot
        .files(STREAM)
        .expect("listing")
        .into_iter()
        .map(|file| file.description.path)
        .collect();
    assert_eq!(paths, [b"/srv/cards.dat", b"/srv/rates.dat"]);
    let mut found = Vec::new();
    for path in paths {
        let mut each = |piece: crate::StoredPiece| {
            found.push((piece.id, piece.image));
            true
        };
        snapshot
            .pieces(STREAM, &path, &mut each)
            .expect("reading pieces");
    }
    assert_eq!(
        found,
        [
            (1, record("before")),
            (1, record("before")),
            (2, residue("r"))
        ]
    );
    drop(snapshot);
    assert_eq!(
        reader.position(STREAM).expect("reading the position"),
        Some(batch.position)
    );
    assert_eq!(
        content_of(&mut *reader, STREAM, b"/srv/cards.dat"),
        [(1, record("after")), (2, record("after"))]
    );
    reader.close().expect("closing the reader");
}

/// A replicator that was thought dead and its successor: whoever comes late is refused, and nobody
/// works with what it remembers from before the other's turn.
pub fn takes_turns_with_another_sink(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (cards, rates, same) = (
        file("/srv/cards.dat"),
        file("/srv/rates.dat"),
        file("/other/rates.dat"),
    );
    let first = trial.batch([
        changes(&cards, [(1, record("first")), (2, record("first"))]),
        changes(&rates, [(1, residue("first"))]),
    ]);
    trial.apply_without_reopening(&first);
    let mut old = trial.reopen_beside();
    let second = trial.batch([
        removed(&cards),
        changes(&same, [(1, record("second"))]),
        changes(&cards, [(2, residue("second")), (3, record("second"))]),
        renamed(changes(&file("/srv/rates.old"), []), "/srv/rates.dat"),
        changes(&rates, [(7, record("second"))]),
    ]);
    trial.apply_without_reopening(&second);
    let third = trial.batch([
        changes(&cards, [(2, record("third"))]),
        changes(&rates, [(1, record("third"))]),
        changes(&file("/third/rates.dat"), [(1, record("third"))]),
    ]);
    // First of all it goes on: a refusal might make it forget what it remembers.
    trial.apply_through(&mut *old, &third);
    for stale in [&first, &second, &third] {
        let error = old
            .apply(stale)
            .expect_err("what is applied already is refused");
        assert!(matches!(error, SinkError::NotAfter { .. }), "{error}");
    }
    trial.apply([changes(&cards, [(3, residue("fourth"))]), removed(&rates)]);
    old.close().expect("closing the old sink");
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(2, record("third")), (3, residue("fourth"))]
    );
}

/// What somebody does to a row by hand is what is read, so that a comparison finds it.
pub fn shows_tampering(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let cards = file("/srv/cards.dat");
    trial.apply([changes(&cards, [(1, record("one")), (2, record("two"))])]);
    let table = trial
        .stored("/srv/cards.dat")
        .expect("the file is there")
        .table;
    assert!(
        trial.harness().tamper(&table, 2, b"tw0"),
        "`Harness::tamper`, or why not in `Harness::cannot`"
    );
    assert_eq!(
        trial.content("/srv/cards.dat"),
        [(1, record("one")), (2, record("tw0"))]
    );
    trial.apply([changes(&cards, [(2, record("two"))])]);
}
