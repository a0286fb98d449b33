//! What a journal does when nothing goes wrong.

use std::sync::Arc;

use crate::faulty::FaultyStorage;
use crate::tests::{entries, open};
use crate::{Error, Journal, JournalReader, Options, Storage};

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
