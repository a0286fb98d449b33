//! Random histories against a plain list of entries.
//!
//! After every crash: all durable entries are there, what survives is a prefix of what was written, lsns are dense, and
//! the journal goes on.

use std::sync::Arc;

use proptest::prelude::*;

use crate::faulty::{Crash, FaultyStorage};
use crate::{Error, Journal, Lsn, Options, Recovery, Verify};

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<usize>),
    Sync,
    BeginEpoch,
    FailBeginEpoch,
    SetCursor {
        percent: u64,
    },
    Release,
    Follow,
    ShortWrite {
        kept: usize,
        cut_fails: bool,
        batch: Vec<usize>,
    },
    FullDisk {
        room: usize,
        batch: Vec<usize>,
    },
    FailSync,
    Kill,
    Close,
    Crash(Crash),
    CrashInRecovery {
        calls: u64,
        crash: Crash,
    },
}

fn batch() -> impl Strategy<Value = Vec<usize>> {
    let payload_bytes = prop_oneof![5 => 0usize..60, 2 => 60usize..1500, 1 => 4000usize..9000];
    proptest::collection::vec(payload_bytes, 1..6)
}

fn crash() -> impl Strategy<Value = Crash> {
    let kept = prop_oneof![Just(0), Just(usize::MAX), 0usize..200, 0usize..20_000];
    let names = prop_oneof![Just(usize::MAX), 0usize..4];
    let names_lost = proptest::collection::btree_set(0usize..6, 0..3);
    let pages_lost = proptest::collection::btree_set(0usize..6, 0..3);
    (names, names_lost, kept, pages_lost, any::<bool>()).prop_map(
        |(names_kept, names_lost, tail_kept, pages_lost, cuts_lost)| Crash {
            names_kept,
            names_lost,
            tail_kept,
            pages_lost,
            cuts_lost,
            ..Crash::default()
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => batch().prop_map(Action::Append),
        4 => Just(Action::Sync),
        1 => Just(Action::BeginEpoch),
        1 => Just(Action::FailBeginEpoch),
        2 => (0u64..=100).prop_map(|percent| Action::SetCursor { percent }),
        1 => Just(Action::Release),
        2 => Just(Action::Follow),
        1 => (0usize..3000, any::<bool>(), batch())
            .prop_map(|(kept, cut_fails, batch)| Action::ShortWrite { kept, cut_fails, batch }),
        1 => (0usize..3000, batch()).prop_map(|(room, batch)| Action::FullDisk { room, batch }),
        1 => Just(Action::FailSync),
        1 => Just(Action::Kill),
        1 => Just(Action::Close),
        2 => crash().prop_map(Action::Crash),
        1 => (0u64..10, crash()).prop_map(|(calls, crash)| Action::CrashInRecovery { calls, crash }),
    ]
}

/// The journal, and what it should be.
struct World {
    storage: Arc<FaultyStorage>,
    options: Options,
    journal: Option<Journal>,
    reader: Option<crate::JournalReader>,
    /// Entry `lsn` is at `lsn - 1`.
    entries: Vec<(u64, Vec<u8>)>,
    durable: usize,
    /// A batch that failed and may lie behind the entries, if it could not be cut off.
    leftover: Vec<Vec<u8>>,
    /// As the reader set it.
    cursor: Option<(u64, Lsn)>,
    closed: bool,
    /// An epoch could not be begun, and nothing was appended since.
    half_begun: bool,
    payloads_made: u64,
}

impl World {
    fn new(segment_bytes: u64) -> World {
        let mut world = World {
            storage: Arc::new(FaultyStorage::new()),
            options: Options {
                segment_bytes,
                verify: Verify::All,
            },
            journal: None,
            reader: None,
            entries: Vec::new(),
            durable: 0,
            leftover: Vec::new(),
            cursor: None,
            closed: false,
            half_begun: false,
            payloads_made: 0,
        };
        world.reopen();
        world
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    /// No two payloads are alike, if they have the room for it.
    fn payloads(&mut self, lengths: &[usize]) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        for &length in lengths {
            self.payloads_made += 1;
            payloads.push(
                self.payloads_made
                    .to_le_bytes()
                    .iter()
                    .copied()
                    .cycle()
                    .take(length)
                    .collect(),
            );
        }
        payloads
    }

    fn append(&mut self, payloads: &[Vec<u8>]) -> Result<(), Error> {
        let first = self.entries.len() as u64 + 1;
        let lsns = self.journal().append(payloads)?;
        assert_eq!(lsns, first..first + payloads.len() as u64);
        let epoch = self.journal().epoch();
        self.entries
            .extend(payloads.iter().map(|payload| (epoch, payload.clone())));
        self.leftover.clear();
        self.half_begun = false;
        self.note_durable();
        Ok(())
    }

    fn note_durable(&mut self) {
        let durable = self.journal().durable_end() as usize - 1;
        assert!(durable >= self.durable && durable <= self.entries.len());
        self.durable = durable;
    }

    fn set_journal(&mut self, journal: Journal, recovery: &Recovery) {
        let first = recovery.first_lsn as usize - 1;
        let survived = recovery.next_lsn as usize - 1;
        assert!(
            survived >= self.durable,
            "{survived} survived of {} durable",
            self.durable
        );
        assert!(survived <= self.entries.len() + self.leftover.len());
        let last_epoch = self.entries.last().map_or(0, |(epoch, _)| *epoch);
        for payload in self.leftover.drain(..) {
            self.entries
                .push((last_epoch.max(recovery.last_epoch), payload));
        }
        self.entries.truncate(survived);
        assert_eq!(recovery.clean, self.closed);
        self.closed = false;
        self.half_begun = false;

        // What a reader passed of an epoch that lost its end, it passed only as far as there is something.
        let expected = self.cursor.map(|(epoch, lsn)| {
            let end = self
                .entries
                .iter()
                .take_while(|entry| entry.0 <= epoch)
                .count() as u64
                + 1;
            lsn.min(end)
        });
        assert_eq!(journal.cursors().get("reader"), expected);
        assert_eq!(
            recovery.cursors_ahead.is_empty(),
            expected == self.cursor.map(|(_, lsn)| lsn)
        );

        let mut reader = journal.reader(recovery.first_lsn).unwrap();
        let mut other_process =
            crate::JournalReader::open(self.storage.clone(), recovery.first_lsn).unwrap();
        for (index, (epoch, payload)) in self.entries.iter().enumerate().skip(first) {
            for reader in [&mut reader, &mut other_process] {
                let entry = reader.next().unwrap().unwrap();
                assert_eq!(
                    (entry.lsn, entry.epoch, entry.payload),
                    (index as u64 + 1, *epoch, payload.as_slice())
                );
            }
        }
        assert!(reader.next().unwrap().is_none());
        assert!(other_process.next().unwrap().is_none());
        self.durable = survived;
        self.reader = Some(reader);
        self.journal = Some(journal);
        if !recovery.clean {
            self.journal().begin_epoch(recovery.last_epoch + 1).unwrap();
        }
    }

    fn reopen(&mut self) {
        self.journal = None;
        let (journal, recovery) =
            Journal::open(self.storage.clone(), self.options.clone()).unwrap();
        self.set_journal(journal, &recovery);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Append(lengths) => {
                let payloads = self.payloads(&lengths);
                self.append(&payloads).unwrap();
            }
            Action::Sync => {
                let end = self.journal().sync().unwrap();
                self.leftover.clear();
                assert_eq!(end as usize - 1, self.entries.len());
                self.note_durable();
            }
            Action::BeginEpoch => {
                let epoch = self.journal().epoch() + 1;
                self.journal().begin_epoch(epoch).unwrap();
                self.half_begun = false;
                self.leftover.clear();
                self.note_durable();
                assert_eq!(self.durable, self.entries.len());
            }
            Action::FailBeginEpoch => {
                // The segment is there, and not known to be.
                let epoch = self.journal().epoch() + 1;
                self.append(&[]).unwrap();
                self.storage.fail_sync_dir();
                assert!(
                    self.journal()
                        .begin_epoch(epoch)
                        .unwrap_err()
                        .is_retryable()
                );
                self.half_begun = true;
                self.leftover.clear();
                self.note_durable();
            }
            Action::SetCursor { percent } => {
                let (first, next) = (self.journal().first_lsn(), self.journal().next_lsn());
                let lsn = first + (next - first) * percent / 100;
                let epoch = self.journal().epoch();
                self.journal().cursors().set("reader", lsn).unwrap();
                self.cursor = Some((epoch, lsn));
            }
            Action::Release => {
                self.journal().release().unwrap();
                let stats = self.journal().stats();
                let cursor = self.journal().cursors().get("reader");
                assert!(
                    stats.first_lsn <= cursor.unwrap_or(1),
                    "{stats:?} {cursor:?}"
                );
                self.reader = Some(self.journal().reader(stats.first_lsn).unwrap());
            }
            Action::Follow => {
                let reader = self.reader.as_mut().unwrap();
                for index in reader.next_lsn() as usize - 1..self.entries.len() {
                    let entry = reader.next().unwrap().unwrap();
                    let (epoch, payload) = &self.entries[index];
                    assert_eq!((entry.lsn, entry.epoch), (index as u64 + 1, *epoch));
                    assert_eq!(entry.payload, payload);
                }
                assert!(reader.next().unwrap().is_none());
            }
            Action::ShortWrite {
                kept,
                cut_fails,
                batch,
            } => {
                let payloads = self.payloads(&batch);
                // The roll, if there is one, has to get through: its write is not the one to fail.
                self.append(&[]).unwrap();
                self.storage.short_write(kept);
                if cut_fails {
                    self.storage.fail_truncate();
                    self.leftover.clone_from(&payloads);
                }
                assert!(self.append(&payloads).unwrap_err().is_retryable());
                self.note_durable();
                // Half of the time the history goes on with a success.
                if kept % 2 == 0 {
                    self.append(&payloads).unwrap();
                }
            }
            Action::FullDisk { room, batch } => {
                let payloads = self.payloads(&batch);
                self.storage
                    .set_capacity(Some(self.storage.used_bytes() + room));
                if let Err(error) = self.append(&payloads) {
                    assert!(error.is_disk_full(), "{error}");
                    self.note_durable();
                    self.storage.set_capacity(None);
                    self.append(&payloads).unwrap();
                }
                self.storage.set_capacity(None);
            }
            Action::FailSync => {
                let payloads = self.payloads(&[10]);
                self.append(&payloads).unwrap();
                self.storage.fail_sync();
                assert!(matches!(
                    self.journal().sync(),
                    Err(Error::SyncFailed { .. })
                ));
                assert!(matches!(
                    self.append(&payloads),
                    Err(Error::Poisoned { .. })
                ));
                self.reopen();
                assert_eq!(self.durable, self.entries.len());
            }
            Action::Kill => {
                let written = self.entries.len();
                self.reopen();
                assert!(
                    self.entries.len() >= written,
                    "the end of a process loses nothing"
                );
            }
            Action::Close => {
                let end = self.journal.take().unwrap().close().unwrap();
                self.leftover.clear();
                assert_eq!(end as usize - 1, self.entries.len());
                self.closed = !self.half_begun;
                self.durable = self.entries.len();
                self.storage = Arc::new(self.storage.crash(&Crash::nothing_kept()));
                self.reopen();
            }
            Action::Crash(crash) => {
                self.storage = Arc::new(self.storage.crash(&crash));
                self.reopen();
            }
            Action::CrashInRecovery { calls, crash } => {
                self.journal = None;
                self.storage.fail_power_after(calls);
                let opened = Journal::open(self.storage.clone(), self.options.clone());
                // What an opening that succeeded calls durable is held against the one after the next crash.
                if let Ok((journal, _)) = &opened {
                    self.durable = journal.durable_end() as usize - 1;
                    let kept_of_leftover = self.durable.saturating_sub(self.entries.len());
                    let epoch = journal.epoch();
                    let kept = self
                        .leftover
                        .drain(..)
                        .take(kept_of_leftover)
                        .map(|payload| (epoch, payload));
                    self.entries.extend(kept);
                }
                self.storage = Arc::new(self.storage.crash(&crash));
                self.reopen();
            }
        }
    }
}

proptest! {
    #[test]
    fn random_histories_agree_with_the_model(
        segment_bytes in prop_oneof![Just(100u64), Just(3000), Just(30_000)],
        actions in proptest::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(segment_bytes);
        for action in actions {
            world.act(action);
        }
        world.storage = Arc::new(world.storage.crash(&Crash::nothing_kept()));
        world.reopen();
    }
}
