//! Readers that follow a writer, in its process and in another, on a real directory and on disks that break.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::faulty::FaultyStorage;
use crate::segment::file_name;
use crate::tests::{entries, long_segments, open, open_with};
use crate::{DiskStorage, Entry, Journal, JournalReader, Options, Storage};

const ENTRIES: u64 = 20_000;

/// A payload that says which entry it is, of a length that varies.
fn payload(lsn: u64) -> Vec<u8> {
    let mut payload = lsn.to_le_bytes().to_vec();
    payload.resize(8 + (lsn * 7 % 90) as usize, lsn as u8);
    payload
}

fn check(entry: &Entry<'_>, lsn: u64) {
    assert_eq!((entry.lsn, entry.epoch), (lsn, 1 + (lsn - 1) / 5_000));
    assert_eq!(entry.payload, payload(lsn));
}

/// Appends [`ENTRIES`] entries in batches, over many segments and a few epochs.
fn write(journal: &mut Journal) {
    let mut lsn = 1;
    while lsn <= ENTRIES {
        if lsn % 5_000 == 1 {
            journal.begin_epoch(1 + lsn / 5_000).unwrap();
        }
        let batch = 1 + lsn % 4;
        let end = (lsn + batch).min(lsn.next_multiple_of(5_000) + 1);
        journal.append((lsn..end).map(payload)).unwrap();
        lsn = end;
    }
}

#[test]
fn readers_follow_the_writer_on_a_real_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/journal");
    let storage = Arc::new(DiskStorage::open(&path).unwrap());
    let options = Options {
        segment_bytes: 40_000,
        ..Options::default()
    };
    let (mut journal, _) = Journal::open(storage, options).unwrap();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut follower = journal.reader(1).unwrap();
        scope.spawn(move || {
            let mut lsn = 1;
            while lsn <= ENTRIES {
                match follower.next().unwrap() {
                    Some(entry) => {
                        check(&entry, lsn);
                        lsn += 1;
                    }
                    None => assert!(
                        follower.wait(Duration::from_secs(60)),
                        "nothing comes after {lsn}"
                    ),
                }
            }
            assert!(follower.next().unwrap().is_none());
        });
        // With its own open files, as another process has.
        let elsewhere = Arc::new(DiskStorage::open_existing(&path).unwrap());
        let mut observer = JournalReader::open(elsewhere, 1).unwrap();
        let finished = &finished;
        scope.spawn(move || {
            let mut lsn = 1;
            while lsn <= ENTRIES {
                let last_look = finished.load(Ordering::Acquire);
                match observer.next().unwrap() {
                    Some(entry) => {
                        check(&entry, lsn);
                        lsn += 1;
                    }
                    None => {
                        assert!(
                            !last_look,
                            "the writer has finished, and {lsn} is not there"
                        );
                        thread::yield_now();
                    }
                }
            }
        });
        write(&mut journal);
        finished.store(true, Ordering::Release);
    });
    assert_eq!(journal.sync().unwrap(), ENTRIES + 1);
    assert!(journal.stats().segments > 20);

    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in path.read_dir().unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    let cursors = journal.cursors();
    cursors.set("publisher", ENTRIES + 1).unwrap();
    journal.release().unwrap();
    assert_eq!(journal.stats().segments, 2);
    journal.close().unwrap();
    let storage = Arc::new(DiskStorage::open(&path).unwrap());
    let (journal, recovery) = Journal::open(storage, Options::default()).unwrap();
    assert!(recovery.clean && recovery.next_lsn == ENTRIES + 1 && recovery.segments == 2);
    assert_eq!(journal.cursors().get("publisher"), Some(ENTRIES + 1));
}

#[test]
fn a_name_with_a_directory_part_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(directory.path()).unwrap();
    for name in ["", ".", "..", "a/b", "/etc/passwd"] {
        assert!(
            storage.create(name).is_err() && storage.remove(name).is_err(),
            "{name}"
        );
    }
}

/// A batch fails half way, and cannot be cut off at once: whole frames lie behind the written end, and get into a
/// reader's buffer. Then they are cut off, and others take their lsns. The reader must see only those.
#[test]
fn a_reader_does_not_believe_what_it_read_ahead_of_the_written_end() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open_with(&storage, long_segments()).unwrap();
    journal.begin_epoch(1).unwrap();
    journal.append([b"one"]).unwrap();
    let mut reader = journal.reader(1).unwrap();
    storage.short_write(60);
    storage.fail_truncate();
    journal.append([b"lie", b"lie", b"lie"]).unwrap_err();
    assert_eq!(entries(&mut reader), [(1, 1, b"one".to_vec())]);
    journal.append([b"two", b"tri"]).unwrap();
    assert_eq!(
        entries(&mut reader),
        [(2, 1, b"two".to_vec()), (3, 1, b"tri".to_vec())]
    );
}

/// To another process the last frame may be there in part only. That is the end for now, not damage.
#[test]
fn to_another_process_a_frame_in_the_making_is_the_end_for_now() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open_with(&storage, long_segments()).unwrap();
    let mut early = JournalReader::open(storage.clone(), 1).unwrap();
    assert_eq!(entries(&mut early), []);
    journal.begin_epoch(1).unwrap();
    assert_eq!(entries(&mut early), []);
    journal.begin_epoch(2).unwrap();
    journal.append([b"one", b"two"]).unwrap();
    let whole = storage.content(&file_name(1)).unwrap();
    for length in 0..=whole.len() {
        let disk = Arc::new(FaultyStorage::new());
        disk.put(&file_name(1), &whole[..length]);
        if length >= crate::segment::HEADER_BYTES {
            let mut reader = JournalReader::open(disk.clone(), 1).unwrap();
            let before = entries(&mut reader).len();
            disk.put(&file_name(1), &whole);
            assert_eq!(before + entries(&mut reader).len(), 2, "cut at {length}");
        }
    }
    assert_eq!(entries(&mut early).len(), 2);
    // Nor is a torn tail that nobody has cut off yet.
    storage.append(&file_name(1), &[0; 100]).unwrap();
    assert_eq!(entries(&mut early), []);
    // But what was durable must be there.
    let mut journal = journal;
    storage.truncate(&file_name(1), whole.len() as u64).unwrap();
    journal.sync().unwrap();
    journal.append([b"witness"]).unwrap();
    storage.flip_bit(&file_name(1), whole.len() - 1, 0);
    let mut reader = JournalReader::open(storage, 1).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload, b"one");
    reader.next().map(drop).unwrap_err();
}

#[test]
fn a_reader_may_begin_anywhere_and_waits_at_the_end() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    for lsn in 1..=50 {
        journal.append([payload(lsn)]).unwrap();
    }
    for from in 1..=51 {
        for mut reader in [
            journal.reader(from).unwrap(),
            JournalReader::open(storage.clone(), from).unwrap(),
        ] {
            assert_eq!(reader.next_lsn(), from);
            let lsns: Vec<_> = entries(&mut reader)
                .into_iter()
                .map(|(lsn, _, _)| lsn)
                .collect();
            assert_eq!(lsns, (from..=50).collect::<Vec<_>>());
        }
    }
    let mut reader = journal.reader(51).unwrap();
    assert!(!reader.wait(Duration::ZERO));
    let progress = journal.progress();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| progress.wait_for(51, Duration::from_secs(60)));
        journal.append([payload(51)]).unwrap();
        assert!(waiting.join().unwrap());
    });
    assert!(reader.wait(Duration::ZERO));
    assert_eq!(entries(&mut reader).len(), 1);
}
