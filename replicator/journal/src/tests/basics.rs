//! What a journal does when nothing goes wrong.

use std::sync::Arc;

use crate::faulty::FaultyStorage;
use crate::tests::{entries, long_segments, open, open_with, payloads};
use crate::{Error, Journal, JournalReader, Lsn, Options, PAYLOAD_BYTES_MAX, Released, Storage};

#[test]
fn entries_come_back_in_order_with_their_epoch() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, recovery) = open(&storage);
    assert_eq!(
        (recovery.first_lsn, recovery.next_lsn, recovery.last_epoch),
        (1, 1, 0)
    );
    assert!(matches!(
        journal.append([b"too early"]),
        Err(Error::EpochNeeded { last: 0 })
    ));
    journal.begin_epoch(3).unwrap();
    assert_eq!(
        journal.append([b"one".as_slice(), b"", b"three"]).unwrap(),
        1..4
    );
    assert!(matches!(
        journal.begin_epoch(3),
        Err(Error::EpochNotGrowing {
            current: 3,
            asked: 3
        })
    ));
    journal.begin_epoch(7).unwrap();
    let parts = journal
        .append_batch(|batch| batch.push_parts(&[b"fo", b"ur"]).map(drop))
        .unwrap();
    assert_eq!(parts, 4..5);
    let expected = vec![
        (1, 3, b"one".to_vec()),
        (2, 3, Vec::new()),
        (3, 3, b"three".to_vec()),
        (4, 7, b"four".to_vec()),
    ];
    assert_eq!(entries(&mut journal.reader(1).unwrap()), expected);
    assert_eq!(entries(&mut journal.reader(3).unwrap()), expected[2..]);
    assert_eq!(entries(&mut journal.reader(5).unwrap()), []);
    let disk: Arc<dyn Storage> = storage;
    assert_eq!(
        entries(&mut JournalReader::open(Arc::clone(&disk), 2).unwrap()),
        expected[1..]
    );
    assert!(matches!(
        journal.reader(6),
        Err(Error::BeyondEnd {
            lsn: 6,
            next_lsn: 5
        })
    ));
    drop(journal);
    let (journal, recovery) = Journal::open(disk, Options::default()).unwrap();
    assert_eq!(
        (recovery.next_lsn, recovery.last_epoch, recovery.clean),
        (5, 7, false)
    );
    assert_eq!(entries(&mut journal.reader(1).unwrap()), expected);
}

#[test]
fn written_is_not_durable() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    journal.append([b"one"]).unwrap();
    let progress = journal.progress();
    assert_eq!(
        (
            progress.written_end(),
            progress.durable_end(),
            progress.epoch()
        ),
        (2, 1, 1)
    );
    assert_eq!(journal.sync().unwrap(), 2);
    assert_eq!((progress.written_end(), progress.durable_end()), (2, 2));
    let calls = storage.calls();
    assert_eq!(journal.sync().unwrap(), 2);
    assert_eq!(storage.calls(), calls, "there was nothing to sync");
}

#[test]
fn an_empty_batch_and_a_failed_one_append_nothing() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open_with(&storage, long_segments()).unwrap();
    journal.begin_epoch(1).unwrap();
    let stats = journal.stats();
    assert_eq!(journal.append_batch(|_| Ok(())).unwrap(), 1..1);
    let long = vec![0; PAYLOAD_BYTES_MAX + 1];
    let refused = journal.append([b"fine".as_slice(), &long]);
    assert!(
        matches!(refused, Err(Error::PayloadTooLarge { .. })),
        "{refused:?}"
    );
    let refused = journal.append_batch(|batch| {
        loop {
            batch.push(&long[1..])?;
        }
    });
    assert!(
        matches!(refused, Err(Error::BatchTooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(journal.stats(), stats);
    assert_eq!(journal.append([&long[1..]]).unwrap(), 1..2);
    assert_eq!(payloads(&journal), [long[1..].to_vec()]);
    drop(journal);
    let (journal, _) = open_with(&storage, long_segments()).unwrap();
    assert_eq!(payloads(&journal), [long[1..].to_vec()]);
}

#[test]
fn only_a_closed_journal_goes_on_in_its_epoch() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    journal.append([b"one"]).unwrap();
    assert_eq!(journal.close().unwrap(), 2);

    let (mut journal, recovery) = open(&storage);
    assert!(recovery.clean);
    assert_eq!(journal.append([b"two"]).unwrap(), 2..3);
    drop(journal);

    let (mut journal, recovery) = open(&storage);
    assert!(!recovery.clean, "it was dropped, not closed");
    assert!(matches!(
        journal.append([b"three"]),
        Err(Error::EpochNeeded { last: 1 })
    ));
    // Closing a journal that never took up its epoch must not hide that the end before was unclean.
    journal.close().unwrap();
    let (mut journal, recovery) = open(&storage);
    assert!(!recovery.clean);
    journal.begin_epoch(2).unwrap();
    assert_eq!(journal.append([b"three"]).unwrap(), 3..4);
    assert_eq!(
        payloads(&journal),
        [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]
    );
}

#[test]
fn an_epoch_without_entries_gives_its_place_to_the_next() {
    let storage = Arc::new(FaultyStorage::new());
    for epoch in 1..=3 {
        let (mut journal, recovery) = open(&storage);
        assert_eq!((recovery.last_epoch, recovery.next_lsn), (epoch - 1, 1));
        journal.begin_epoch(epoch).unwrap();
        assert_eq!(journal.stats().segments, 1);
    }
}

#[test]
fn segments_roll_and_are_released_when_all_readers_have_passed() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    for number in 0..40u8 {
        journal.append([[number; 50]]).unwrap();
    }
    let full = journal.stats();
    assert_eq!((full.segments, full.first_lsn, full.next_lsn), (20, 1, 41));
    assert_eq!(full.bytes as usize, storage.used_bytes());
    assert_eq!(
        journal.release().unwrap(),
        Released::default(),
        "nobody has passed anything"
    );

    let cursors = journal.cursors();
    cursors.set("publisher", 41).unwrap();
    cursors.set("report", 6).unwrap();
    assert_eq!(journal.release().unwrap().segments, 2);
    assert_eq!(journal.first_lsn(), 5);
    assert!(matches!(
        journal.reader(4),
        Err(Error::Released {
            lsn: 4,
            first_lsn: 5
        })
    ));
    assert!(matches!(
        JournalReader::open(storage.clone(), 4),
        Err(Error::Released {
            lsn: 4,
            first_lsn: 5
        })
    ));
    assert_eq!(entries(&mut journal.reader(5).unwrap()).len(), 36);

    cursors.remove("report").unwrap();
    assert_eq!(journal.release().unwrap().segments, 16);
    assert_eq!((journal.stats().segments, journal.first_lsn()), (2, 37));
    drop(journal);
    let (journal, recovery) = open(&storage);
    assert_eq!(
        (recovery.first_lsn, recovery.next_lsn, recovery.segments),
        (37, 41, 2)
    );
    assert_eq!(journal.cursors().all(), [("publisher".to_owned(), 41)]);
}

#[test]
fn cursors_have_plain_names_and_stay_within_the_journal() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    journal.append([b"one"]).unwrap();
    let cursors = journal.cursors();
    for name in ["", "../up", "Upper", "dot.ted", &"x".repeat(65)] {
        assert!(
            matches!(cursors.set(name, 1), Err(Error::CursorName { .. })),
            "{name}"
        );
    }
    assert!(matches!(
        cursors.set("a", 3),
        Err(Error::BeyondEnd {
            lsn: 3,
            next_lsn: 2
        })
    ));
    assert_eq!(cursors.get("a"), None);
    cursors.set("a", 2).unwrap();
    cursors.set("a", 1).unwrap();
    assert_eq!(cursors.get("a"), Some(1));
}

/// Found by fuzzing: such a journal was opened, and the next entry's lsn overflowed.
#[test]
fn a_journal_that_begins_where_numbers_end_is_refused() {
    let storage = Arc::new(FaultyStorage::new());
    let header = crate::segment::SegmentHeader {
        epoch: 1,
        first_lsn: Lsn::MAX,
        previous_first_lsn: 0,
        previous_bytes: 0,
        salt: 7,
    };
    let name = crate::segment::file_name(header.first_lsn);
    storage.create(&name).unwrap();
    storage.append(&name, &header.encode()).unwrap();
    let refused = Journal::open(storage, Options::default()).err();
    assert!(
        matches!(&refused, Some(Error::Damaged { offset: 24, .. })),
        "{refused:?}"
    );
}
