//! A short history, and a power cut after every single call to the storage: with every length of tail that may survive, every
//! sector of it missing, and every set of names.

use std::sync::Arc;

use crate::faulty::{Crash, FaultyStorage, SECTOR_BYTES};
use crate::tests::{open, options};
use crate::{Journal, Result};

/// What the history has been told so far.
#[derive(Default)]
struct Told {
    written: Vec<Vec<u8>>,
    durable: usize,
    /// The batch that was being appended.
    trying: Vec<Vec<u8>>,
    epoch: u64,
    trying_epoch: u64,
    cursor: u64,
    trying_cursor: u64,
    /// There is a second cursor, or was, or will be.
    has_other: bool,
    may_have_other: bool,
}

impl Told {
    fn append(&mut self, journal: &mut Journal, payloads: &[&[u8]]) -> Result<()> {
        self.trying = payloads.iter().map(|payload| payload.to_vec()).collect();
        journal.append(payloads)?;
        self.written.append(&mut self.trying);
        self.durable = journal.durable_end() as usize - 1;
        Ok(())
    }

    fn sync(&mut self, journal: &mut Journal) -> Result<()> {
        self.durable = journal.sync()? as usize - 1;
        Ok(())
    }

    fn begin_epoch(&mut self, journal: &mut Journal) -> Result<()> {
        self.trying_epoch = self.epoch + 1;
        journal.begin_epoch(self.epoch + 1)?;
        self.epoch += 1;
        self.durable = self.written.len();
        Ok(())
    }

    fn set_cursor(&mut self, journal: &Journal, lsn: u64) -> Result<()> {
        self.trying_cursor = lsn;
        journal.cursors().set("reader", lsn)?;
        self.cursor = lsn;
        Ok(())
    }

    /// A second reader comes, at the first entry, or goes.
    fn set_other(&mut self, journal: &Journal, is_there: bool) -> Result<()> {
        self.may_have_other = true;
        self.has_other = false;
        if is_there {
            journal.cursors().set("other", 1)?;
        } else {
            journal.cursors().remove("other")?;
        }
        self.has_other = is_there;
        self.may_have_other = is_there;
        Ok(())
    }
}

/// Segments of 200 bytes, so that it rolls; every kind of call is in it.
fn history(storage: &Arc<FaultyStorage>, told: &mut Told) -> Result<()> {
    let (mut journal, _) = Journal::open(storage.clone(), options())?;
    told.begin_epoch(&mut journal)?;
    told.append(&mut journal, &[b"one", b"two"])?;
    told.sync(&mut journal)?;
    told.append(&mut journal, &[b"three", &[3; 40], b""])?;
    told.append(&mut journal, &[b"a new segment"])?;
    told.append(&mut journal, &[b"and more of it"])?;
    told.sync(&mut journal)?;
    told.set_cursor(&journal, 7)?;
    told.set_other(&journal, true)?;
    // It holds everything.
    assert_eq!(journal.release()?.segments, 0);
    told.append(&mut journal, &[b"not synced"])?;
    drop(journal);

    let (mut journal, recovery) = Journal::open(storage.clone(), options())?;
    assert_eq!(recovery.next_lsn as usize - 1, told.written.len());
    told.durable = told.written.len();
    told.begin_epoch(&mut journal)?;
    told.append(&mut journal, &[b"second epoch", b"of two"])?;
    told.sync(&mut journal)?;
    storage.short_write(50);
    let failed: &[&[u8]] = &[b"a batch", b"that fails"];
    assert!(journal.append(failed).is_err());
    told.trying = failed.iter().map(|payload| payload.to_vec()).collect();
    // Succeeds only once nothing is left of it.
    told.sync(&mut journal)?;
    told.append(&mut journal, &[b"another batch", b"that does not"])?;
    told.set_cursor(&journal, 9)?;
    told.set_other(&journal, false)?;
    assert_eq!(journal.release()?.segments, 1);
    told.append(&mut journal, &[&[9; 150]])?;
    told.begin_epoch(&mut journal)?;
    told.append(&mut journal, &[b"last words"])?;
    told.set_cursor(&journal, 14)?;
    assert_ne!(journal.release()?.segments, 0);
    journal.close()?;
    told.durable = told.written.len();

    let (mut journal, recovery) = Journal::open(storage.clone(), options())?;
    assert!(recovery.clean);
    told.append(&mut journal, &[b"in the same epoch"])?;
    Ok(())
}

/// Everything that must hold after any crash of the history.
fn check(disk: &Arc<FaultyStorage>, told: &Told, crash: &Crash) {
    let (mut journal, recovery) = open(disk);
    let survived = recovery.next_lsn as usize - 1;
    assert!(
        survived >= told.durable,
        "{survived} of {} durable survived {crash:?}",
        told.durable
    );
    assert!(
        survived <= told.written.len() + told.trying.len(),
        "{crash:?}"
    );
    assert!(
        (told.epoch..=told.trying_epoch.max(told.epoch)).contains(&recovery.last_epoch),
        "{crash:?}"
    );
    let cursor = journal.cursors().get("reader").unwrap_or(0);
    assert!(
        cursor == told.cursor || cursor == told.trying_cursor,
        "{crash:?}"
    );
    let other = journal.cursors().get("other");
    assert!(other.is_some() || !told.has_other, "{crash:?}");
    assert!(other.is_none() || told.may_have_other, "{crash:?}");
    // Nothing is gone that a reader hasn't passed.
    let needed = other.unwrap_or(cursor).min(cursor).max(1);
    assert!(
        recovery.first_lsn <= needed,
        "{} of {needed} is gone: {crash:?}",
        recovery.first_lsn
    );

    let all: Vec<_> = told.written.iter().chain(&told.trying).collect();
    let mut reader = journal.reader(recovery.first_lsn).unwrap();
    for lsn in recovery.first_lsn..recovery.next_lsn {
        let entry = reader.next().unwrap().unwrap();
        assert_eq!(
            (entry.lsn, entry.payload),
            (lsn, all[lsn as usize - 1].as_slice()),
            "{crash:?}"
        );
    }
    // And it goes on.
    journal.begin_epoch(recovery.last_epoch + 1).unwrap();
    assert_eq!(journal.append([b"after"]).unwrap().start, recovery.next_lsn);
    assert_eq!(reader.next().unwrap().unwrap().payload, b"after");
    journal.sync().unwrap();
    let later = Arc::new(disk.crash(&Crash::nothing_kept()));
    assert_eq!(open(&later).1.next_lsn, recovery.next_lsn + 1, "{crash:?}");
}

/// How the disk of a history that ended may look.
fn crashes(storage: &FaultyStorage) -> Vec<Crash> {
    // Tails of several files at once would have to be cut in every combination. But only the last segment is ever appended
    // to without being synced before the next is, and what is beside it has no name that counts yet.
    let unsynced = storage.unsynced_files();
    let segments = unsynced.iter().filter(|name| !name.ends_with(".tmp"));
    assert!(segments.count() <= 1, "{unsynced:?}");
    let names = storage.unsynced_names();
    assert!(names <= 6, "{names} changes of names at once");
    let mut crashes = Vec::new();
    for set in 0..1usize << names {
        for cuts_lost in [false, true] {
            let names = Crash {
                names_kept: names,
                names_lost: (0..names).filter(|name| set >> name & 1 != 0).collect(),
                cuts_lost,
                ..Crash::default()
            };
            for tail_kept in 0..=storage.unsynced_bytes() {
                crashes.push(Crash {
                    tail_kept,
                    ..names.clone()
                });
            }
            // The length arrived, the bytes did not: none of them, or some in the middle, or all but those.
            crashes.push(Crash {
                tail_kept: usize::MAX,
                pages_lost: [0].into(),
                ..names.clone()
            });
            let sectors = storage.longest().div_ceil(SECTOR_BYTES);
            for sector in 0..sectors {
                let others = (0..sectors).filter(|&other| other != sector);
                for sectors_lost in [[sector].into(), others.collect()] {
                    crashes.push(Crash {
                        tail_kept: usize::MAX,
                        sectors_lost,
                        ..names.clone()
                    });
                }
            }
        }
    }
    crashes
}

#[test]
fn a_crash_after_any_call_loses_nothing_durable() {
    let whole = Arc::new(FaultyStorage::new());
    history(&whole, &mut Told::default()).unwrap();
    assert!(whole.calls() > 60, "{} calls", whole.calls());
    let mut checked = 0;
    for calls in 0..=whole.calls() {
        let storage = Arc::new(FaultyStorage::new());
        storage.fail_power_after(calls);
        let mut told = Told::default();
        assert_eq!(history(&storage, &mut told).is_ok(), calls == whole.calls());
        for crash in crashes(&storage) {
            check(&Arc::new(storage.crash(&crash)), &told, &crash);
            checked += 1;
        }
    }
    assert!(checked > 3000, "{checked} crashes");
}

/// The power goes again while the journal is being opened after a crash.
#[test]
fn a_crash_in_recovery_after_any_crash_loses_nothing_durable() {
    let whole = Arc::new(FaultyStorage::new());
    history(&whole, &mut Told::default()).unwrap();
    for calls in 0..=whole.calls() {
        let storage = Arc::new(FaultyStorage::new());
        storage.fail_power_after(calls);
        let mut told = Told::default();
        let _ = history(&storage, &mut told);
        let half = storage.unsynced_bytes() / 2;
        for first in [
            Crash::nothing_kept(),
            Crash::all_kept(),
            Crash {
                tail_kept: half,
                ..Crash::all_kept()
            },
        ] {
            for again in 0.. {
                let disk = Arc::new(storage.crash(&first));
                disk.fail_power_after(again);
                let opened = Journal::open(disk.clone(), options()).is_ok();
                for second in crashes(&disk)
                    .into_iter()
                    .step_by(17)
                    .chain([Crash::nothing_kept(), Crash::all_kept()])
                {
                    check(&Arc::new(disk.crash(&second)), &told, &second);
                }
                // Opening got to its end before the power went.
                if opened && disk.calls() < again {
                    break;
                }
            }
        }
    }
}
