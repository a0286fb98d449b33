//! One fault at a time: what the journal says of it, and what is left.

use std::sync::Arc;

use proptest::prelude::*;

use crate::faulty::{Crash, FaultyStorage, PAGE_BYTES};
use crate::segment::{FRAME_BYTES, HEADER_BYTES, file_name};
use crate::tests::{long_segments, open, open_with, payloads};
use crate::{Error, Journal, Storage};

/// A journal in one segment with the given payloads, each synced, or not, before the next is appended.
fn journal_of(storage: &Arc<FaultyStorage>, payloads: &[&[u8]], synced: bool) -> Journal {
    let (mut journal, _) = open_with(storage, long_segments()).unwrap();
    journal.begin_epoch(1).unwrap();
    for payload in payloads {
        journal.append([payload]).unwrap();
        if synced {
            journal.sync().unwrap();
        }
    }
    journal
}

/// The power went while an entry was on its way to the disk. Half a frame is there; it is cut off, reported, and the
/// journal goes on behind what was synced.
#[test]
fn a_torn_tail_is_cut_off_and_reported() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"synced"], true);
    journal.append([b"not synced"]).unwrap();
    let torn = Arc::new(storage.crash(&Crash {
        tail_kept: 30,
        ..Crash::default()
    }));
    let (mut journal, recovery) = open(&torn);
    let tail = recovery.torn_tail.unwrap();
    let sound = (HEADER_BYTES + FRAME_BYTES + b"synced".len()) as u64;
    assert_eq!(
        (tail.segment.as_str(), tail.offset, tail.bytes),
        ("0000000000000001.journal", sound, 30)
    );
    assert_eq!((recovery.next_lsn, recovery.clean), (2, false));
    journal.begin_epoch(2).unwrap();
    journal.append([b"after"]).unwrap();
    assert_eq!(payloads(&journal), [b"synced".to_vec(), b"after".to_vec()]);
}

/// The disk wrote the pages of an unsynced batch in its own order, and one in the middle is missing. Whole frames lie
/// behind the hole, but none of them says that the hole was durable: it is a torn tail, not damage.
#[test]
fn a_page_lost_within_the_tail_is_a_torn_tail() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"synced"], true);
    journal.append(vec![vec![7; 1000]; 20]).unwrap();
    let torn = Arc::new(storage.crash(&Crash {
        pages_lost: [2].into(),
        ..Crash::all_kept()
    }));
    let (journal, recovery) = open(&torn);
    let tail = recovery.torn_tail.unwrap();
    assert!(
        tail.offset as usize <= 2 * PAGE_BYTES && tail.offset + tail.bytes > 20_000,
        "{tail:?}"
    );
    let expected = 1 + (2 * PAGE_BYTES - HEADER_BYTES - FRAME_BYTES - 6) / 1024;
    assert_eq!(payloads(&journal).len(), expected);
}

#[test]
fn a_short_write_leaves_no_trace_and_may_be_repeated() {
    for kept in 0..80 {
        let storage = Arc::new(FaultyStorage::new());
        let mut journal = journal_of(&storage, &[b"before"], false);
        let before = storage.content(&file_name(1)).unwrap();
        storage.short_write(kept);
        let error = journal.append([b"first", b"other"]).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(storage.content(&file_name(1)).unwrap(), before);
        assert_eq!(journal.progress().written_end(), 2);
        assert_eq!(journal.append([b"again"]).unwrap(), 2..3);
        assert_eq!(payloads(&journal), [b"before".to_vec(), b"again".to_vec()]);
    }
}

/// Not even the cut succeeds at first. The next append begins with it.
#[test]
fn what_a_short_write_left_is_cut_off_later_if_not_at_once() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"before"], false);
    storage.short_write(29);
    storage.fail_truncate();
    journal.append([b"first", b"other"]).unwrap_err();
    storage.fail_truncate();
    journal.append([b"still not"]).unwrap_err();
    assert_eq!(payloads(&journal), [b"before".to_vec()]);
    assert_eq!(journal.append([b"again"]).unwrap(), 2..3);
    assert_eq!(payloads(&journal), [b"before".to_vec(), b"again".to_vec()]);
}

#[test]
fn a_full_disk_refuses_without_loss_and_goes_on_when_there_is_space() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    storage.set_capacity(Some(2000));
    let mut appended = 0u8;
    let error = loop {
        match journal.append([[appended; 50]]) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full() && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(journal.append([[appended; 50]]).unwrap_err().is_disk_full());
    assert_eq!(payloads(&journal).len(), usize::from(appended));
    assert_eq!(journal.sync().unwrap(), u64::from(appended) + 1);
    // Opening does not need space either, beyond what a cut in place takes.
    drop(journal);
    let (mut journal, recovery) = open(&storage);
    assert_eq!(recovery.next_lsn, u64::from(appended) + 1);
    storage.set_capacity(None);
    journal.begin_epoch(2).unwrap();
    journal.append([[appended; 50]]).unwrap();
    let expected: Vec<_> = (0..=appended).map(|number| vec![number; 50]).collect();
    assert_eq!(payloads(&journal), expected);
}

/// The roll to a new segment fails at any of its steps, and is tried again with the next append. Nothing may go into the
/// old segment meanwhile: the new one may already be there, and says how long the old one is.
#[test]
fn a_failed_roll_is_repeated() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    journal.append([[1; 200]]).unwrap();
    storage.set_capacity(Some(storage.used_bytes() + 10));
    assert!(journal.append([[2; 10]]).unwrap_err().is_disk_full());
    assert!(journal.begin_epoch(2).unwrap_err().is_disk_full());
    assert_eq!(storage.list().unwrap(), [file_name(1)]);
    storage.set_capacity(None);
    assert_eq!(journal.append([[2; 10]]).unwrap(), 2..3);
    assert_eq!(journal.epoch(), 1);
    assert_eq!(payloads(&journal), [vec![1; 200], vec![2; 10]]);
}

/// An epoch's segment gets its name, and then the directory cannot be synced. The epoch has not begun,
/// as far as anybody was told, but the segment may be there after a crash: what comes next must agree
/// with both.
#[test]
fn a_segment_that_may_or_may_not_be_there_does_no_harm() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"one"], true);
    storage.fail_sync_dir();
    journal.begin_epoch(2).unwrap_err();
    assert_eq!(journal.epoch(), 1);
    for crash in [Crash::nothing_kept(), Crash::all_kept()] {
        let disk = Arc::new(storage.crash(&crash));
        assert_eq!(payloads(&open(&disk).0), [b"one".to_vec()]);
    }
    journal.append([b"two"]).unwrap();
    journal.sync().unwrap();
    assert_eq!(journal.epoch(), 1);
    for crash in [Crash::nothing_kept(), Crash::all_kept()] {
        let disk = Arc::new(storage.crash(&crash));
        assert_eq!(payloads(&open(&disk).0), [b"one".to_vec(), b"two".to_vec()]);
    }
}

#[test]
fn a_failed_sync_poisons_the_journal() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"synced"], true);
    journal.append([b"not synced"]).unwrap();
    storage.fail_sync();
    let error = journal.sync().unwrap_err();
    assert!(matches!(error, Error::SyncFailed { .. }) && !error.is_retryable());
    assert!(error.to_string().contains("restart"), "{error}");
    for error in [
        journal.append([b"more"]).unwrap_err(),
        journal.sync().unwrap_err(),
        journal.begin_epoch(2).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Poisoned { .. }) && error.to_string().contains("restart"),
            "{error}"
        );
    }
    assert_eq!(journal.durable_end(), 2);
    assert!(matches!(journal.close(), Err(Error::Poisoned { .. })));
}

/// After a failed sync the file can still be read from memory, and further syncs of it succeed without saving anything.
/// A restart reads those bytes and calls them durable; it must not do so on the word of such a sync.
#[test]
fn a_restart_after_a_failed_sync_saves_what_it_reads() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"synced"], true);
    journal.append([b"not synced"]).unwrap();
    storage.fail_sync();
    journal.sync().unwrap_err();
    drop(journal);
    let (journal, recovery) = open(&storage);
    assert_eq!((recovery.next_lsn, journal.durable_end()), (3, 3));
    let after = Arc::new(storage.crash(&Crash::nothing_kept()));
    assert_eq!(
        payloads(&open(&after).0),
        [b"synced".to_vec(), b"not synced".to_vec()]
    );
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let storage = Arc::new(FaultyStorage::new());
    let journal = journal_of(&storage, &[b"one"], true);
    journal.cursors().set("publisher", 2).unwrap();
    drop(journal);
    for name in [file_name(1), "publisher.cursor".to_owned()] {
        let mut newer = storage.content(&name).unwrap();
        let older = newer.clone();
        newer[8..12].copy_from_slice(&2u32.to_le_bytes());
        // A newer version may be of any length.
        newer.extend_from_slice(b"and more");
        storage.put(&name, &newer);
        let error = open_with(&storage, long_segments()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::NewerVersion {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
        let message = error.to_string();
        for part in [
            name.as_str(),
            "version 2",
            "version 1",
            "Upgrade",
            "move the journal's directory away",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(storage.content(&name).unwrap(), newer);
        storage.put(&name, &older);
    }
    open_with(&storage, long_segments()).unwrap();
}

/// Every bit of an entry that was durable before the next was written, and every bit of a header.
#[test]
fn a_bit_flip_in_the_middle_is_refused_with_segment_and_offset() {
    let storage = Arc::new(FaultyStorage::new());
    drop(journal_of(&storage, &[b"first", b"second", b"third"], true));
    let name = file_name(1);
    let second = HEADER_BYTES + FRAME_BYTES + b"first".len();
    let third = second + FRAME_BYTES + b"second".len();
    for offset in 0..third {
        for bit in 0..8 {
            let damaged = Arc::new(storage.crash(&Crash::all_kept()));
            damaged.flip_bit(&name, offset, bit);
            let before = damaged.content(&name);
            let frame = match offset {
                0..HEADER_BYTES => 0..HEADER_BYTES as u64,
                _ if offset < second => HEADER_BYTES as u64..HEADER_BYTES as u64 + 1,
                _ => second as u64..second as u64 + 1,
            };
            match open_with(&damaged, long_segments()) {
                Err(Error::Damaged {
                    segment,
                    offset: said,
                    ..
                }) => {
                    assert_eq!(segment, name);
                    assert!(frame.contains(&said), "flipped {offset}.{bit}, said {said}");
                }
                // A flipped version is another version.
                Err(Error::NewerVersion { .. }) if (8..12).contains(&offset) => {}
                other => panic!("flipped {offset}.{bit}: {other:?}"),
            }
            assert_eq!(damaged.content(&name), before);
        }
    }
    // The last entry has no witness: it cannot be told from a torn tail.
    storage.flip_bit(&name, third + FRAME_BYTES, 0);
    let (journal, recovery) = open_with(&storage, long_segments()).unwrap();
    assert_eq!(recovery.torn_tail.unwrap().offset, third as u64);
    assert_eq!(payloads(&journal), [b"first".to_vec(), b"second".to_vec()]);
}

/// The same with a segment that is not the last, where every entry was durable; and with a journal that was closed,
/// where the last segment's were.
#[test]
fn a_bit_flip_in_a_finished_segment_is_refused() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"first"], true);
    journal.begin_epoch(2).unwrap();
    journal.append([b"second"]).unwrap();
    journal.close().unwrap();
    for lsn in [1, 2] {
        let name = file_name(lsn);
        for offset in HEADER_BYTES..storage.content(&name).unwrap().len() {
            let damaged = Arc::new(storage.crash(&Crash::all_kept()));
            damaged.flip_bit(&name, offset, 3);
            let error = open_with(&damaged, long_segments()).unwrap_err();
            let Error::Damaged {
                segment,
                offset: said,
                ..
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(
                (segment.as_str(), *said),
                (name.as_str(), HEADER_BYTES as u64),
                "{error}"
            );
        }
    }
    // Opening without reading everything leaves it to the reader.
    storage.flip_bit(&file_name(1), HEADER_BYTES + FRAME_BYTES, 0);
    let (journal, _) = open_with(&storage, crate::Options::default()).unwrap();
    let error = journal.reader(1).unwrap().next().map(drop).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { segment, offset: 64, .. } if *segment == file_name(1)),
        "{error}"
    );
}

#[test]
fn missing_and_shortened_segments_are_refused() {
    let storage = Arc::new(FaultyStorage::new());
    let (mut journal, _) = open(&storage);
    journal.begin_epoch(1).unwrap();
    for number in 0..6u8 {
        journal.append([[number; 100]]).unwrap();
    }
    journal.begin_epoch(2).unwrap();
    journal.cursors().set("publisher", 3).unwrap();
    drop(journal);
    let copy = || Arc::new(storage.crash(&Crash::all_kept()));
    for options in [crate::tests::options(), crate::Options::default()] {
        let disk = copy();
        disk.remove(&file_name(3)).unwrap();
        let error = open_with(&disk, options.clone()).unwrap_err();
        let Error::MissingSegment {
            segment,
            expected,
            found,
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(
            [segment, expected, found],
            [&file_name(5), &file_name(3), &file_name(1)]
        );

        let disk = copy();
        let shortened = storage.len(&file_name(3)).unwrap() - 1;
        disk.truncate(&file_name(3), shortened).unwrap();
        let error = open_with(&disk, options.clone()).unwrap_err();
        let Error::Damaged {
            segment, offset, ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((segment, *offset), (&file_name(3), shortened));

        // The last one: the cursor knows of its epoch.
        let disk = copy();
        disk.remove(&file_name(7)).unwrap();
        let error = open_with(&disk, options).unwrap_err();
        assert!(
            error.to_string().contains("later segments are missing"),
            "{error}"
        );
    }
    // Another segment under this one's name.
    let disk = copy();
    disk.put(&file_name(3), &storage.content(&file_name(5)).unwrap());
    assert!(matches!(
        open_with(&disk, crate::tests::options()),
        Err(Error::Damaged { offset: 24, .. })
    ));
}

#[test]
fn a_read_error_is_not_a_torn_tail() {
    let storage = Arc::new(FaultyStorage::new());
    let journal = journal_of(&storage, &[b"one"], true);
    let mut reader = journal.reader(1).unwrap();
    storage.fail_read();
    assert!(matches!(reader.next(), Err(Error::Io { .. })));
    assert_eq!(reader.next().unwrap().unwrap().payload, b"one");
    drop(journal);
    storage.fail_read();
    assert!(matches!(
        open_with(&storage, long_segments()),
        Err(Error::Io { .. })
    ));
    assert_eq!(open_with(&storage, long_segments()).unwrap().1.next_lsn, 2);
}

#[test]
fn a_damaged_cursor_is_refused_by_name() {
    let storage = Arc::new(FaultyStorage::new());
    let journal = journal_of(&storage, &[b"one"], true);
    journal.cursors().set("publisher", 2).unwrap();
    drop(journal);
    let sound = storage.content("publisher.cursor").unwrap();
    for offset in (0..8).chain(12..sound.len()) {
        storage.flip_bit("publisher.cursor", offset, 1);
        let error = open_with(&storage, long_segments()).unwrap_err();
        assert!(matches!(error, Error::DamagedCursor { .. }), "{error}");
        assert!(error.to_string().contains("publisher.cursor"), "{error}");
        storage.flip_bit("publisher.cursor", offset, 1);
    }
    // Another reader's cursor under this one's name.
    storage.put("report.cursor", &sound);
    assert!(matches!(
        open_with(&storage, long_segments()),
        Err(Error::DamagedCursor { .. })
    ));
}

/// A reader acted on entries that were written, and the power went before they were durable. The lsns are used again, in
/// a later epoch, for other entries: the reader's cursor must not hide those from it, however far the journal gets, and
/// until the reader has set its cursor anew.
#[test]
fn a_cursor_ahead_of_what_survived_is_wound_back() {
    let storage = Arc::new(FaultyStorage::new());
    let mut journal = journal_of(&storage, &[b"one"], true);
    journal.append([b"two", b"tri"]).unwrap();
    journal.cursors().set("publisher", 4).unwrap();
    let mut disk = Arc::new(storage.crash(&Crash::nothing_kept()));
    for epoch in 2..5 {
        let (mut journal, recovery) = open(&disk);
        let [ahead] = &recovery.cursors_ahead[..] else {
            panic!("{recovery:?}")
        };
        assert_eq!(
            (ahead.name.as_str(), ahead.epoch, ahead.lsn, ahead.now),
            ("publisher", 1, 4, 2)
        );
        assert_eq!(journal.cursors().get("publisher"), Some(2));
        journal.begin_epoch(epoch).unwrap();
        journal.append([b"new"; 9]).unwrap();
        journal.sync().unwrap();
        disk = Arc::new(disk.crash(&Crash::all_kept()));
    }
    let (journal, _) = open(&disk);
    journal.cursors().set("publisher", 2).unwrap();
    drop(journal);
    assert_eq!(open(&disk).1.cursors_ahead, []);
}

proptest! {
    /// A payload may itself look like frames of a journal; only frames of this very segment count as such.
    #[test]
    fn a_payload_full_of_frames_is_no_witness(cut in 1usize..200) {
        let storage = Arc::new(FaultyStorage::new());
        drop(journal_of(&storage, &[b"first", b"second", b"third"], true));
        let frames = storage.content(&file_name(1)).unwrap();
        let storage = Arc::new(FaultyStorage::new());
        let mut journal = journal_of(&storage, &[], true);
        journal.append([&frames, &frames]).unwrap();
        let torn = Arc::new(storage.crash(&Crash { tail_kept: FRAME_BYTES + cut, ..Crash::default() }));
        let (_, recovery) = open(&torn);
        prop_assert!(recovery.torn_tail.is_some() || cut == frames.len());
    }

    /// Whatever the files contain, opening and reading end, without a panic and without much memory.
    #[test]
    fn arbitrary_bytes_are_an_error_or_a_torn_tail(
        keep in 0usize..200,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        field in 0usize..24,
        mark in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let storage = Arc::new(FaultyStorage::new());
        drop(journal_of(&storage, &[b"first", b"second", b"third"], true));
        let sound = storage.content(&file_name(1)).unwrap();
        let mut content = sound[..keep.min(sound.len())].to_vec();
        content.extend_from_slice(&bytes);
        if let Some(byte) = content.get_mut(HEADER_BYTES + field) {
            *byte = 0xff;
        }
        storage.put(&file_name(1), &content);
        if mark.len() > 1 {
            storage.put(if mark[0] < 128 { "closed.mark" } else { "x.cursor" }, &mark);
        }
        if let Ok(mut reader) = crate::JournalReader::open(storage.clone(), 1) {
            while let Ok(Some(_)) = reader.next() {}
        }
        let _ = open_with(&storage, long_segments());
    }
}
