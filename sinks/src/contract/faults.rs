//! What may go wrong between a sink and its target, each a case: the server dies, the connection is cut, somebody has a lock or a
//! deadlock comes of it, the disk is full, a right is missing, a table isn't what it was.
//!
//! Whatever it is, nothing of a batch that failed is visible, nothing is lost, and nothing is applied twice: the target equals
//! the model before, and after.

use super::Harness;
use super::trial::{Trial, changes, file, record, removed, renamed, residue};
use crate::{Batch, FileChanges, Image, SinkError};
use counterfoil_servers::wait_until;

/// How the suite makes things go wrong for a sink.
pub trait Faults: Harness {
    /// What the sink writes to.
    fn target(&mut self) -> &mut dyn Target;

    /// Whether sinks that are opened from here on wait for others' locks for minutes, or give up after a second at most. They
    /// give up unless told otherwise.
    fn set_patient(&mut self, patient: bool);

    /// Whether a batch may be certain before all of it is done. What the sink then can't do it does later, and nothing can be
    /// read until then.
    fn finishes_later(&self) -> bool {
        false
    }
}

/// A target, and what can be done to it behind the sink's back. What it can't do, [`Harness::cannot`] says of the cases that
/// take it; it isn't asked for then.
///
/// Sinks get at it by a way that can be cut, as a user who has no more rights than it takes.
pub trait Target {
    /// Before it is emptied for the first time: it is to be on a server of its own, which can be stopped.
    fn use_own_server(&mut self) {
        no_means("stop a server");
    }

    /// Ends the server, and starts no other one.
    fn stop(&mut self, how: Stop) {
        no_means(&format!("stop a server: {how:?}"));
    }

    /// Starts the server again.
    fn start(&mut self) {
        no_means("start a server");
    }

    /// Cuts the sink's connection at the next commit.
    fn cut(&mut self, moment: Moment) {
        no_means(&format!("cut a connection: {moment:?}"));
    }

    /// Whether a cut that was ordered is still to come.
    fn is_cut_to_come(&self) -> bool {
        false
    }

    /// Has another session take the rows of this table, for as long as it is there.
    fn take(&mut self, table: &str) -> Box<dyn Taken> {
        no_means(&format!("take a lock of {table}"))
    }

    /// Before it is emptied for the first time: it is to have room for a megabyte and little more. Gives what errors say
    /// when that is full.
    fn limit_room(&mut self) -> &'static str {
        no_means("limit its room")
    }

    /// Gives it room for a hundred megabytes more. Nobody has it open meanwhile.
    fn make_room(&mut self) {
        no_means("make room");
    }

    /// Takes the right to write to this table away, and leaves the right to read it. Gives what errors say then.
    fn revoke(&mut self, table: &str) -> Vec<String> {
        no_means(&format!("revoke rights on {table}"))
    }

    /// Gives it back.
    fn grant(&mut self, table: &str) {
        no_means(&format!("grant rights on {table}"));
    }

    /// Changes a table. Its columns `data` and `rest` are as the sink made them, and `rest` is NULL in all rows.
    fn change(&mut self, table: &str, change: Change) {
        no_means(&format!("change {table}: {change:?}"));
    }

    /// Makes it what it was.
    fn change_back(&mut self, table: &str, change: Change) {
        no_means(&format!("change {table} back: {change:?}"));
    }
}

/// Whoever holds rows that a sink wants.
pub trait Taken {
    /// Whether somebody waits for what is taken.
    fn is_waited_for(&mut self) -> bool;

    /// Takes the rows of another table as well, and waits for them. Where that makes a deadlock, the sink gives way.
    fn take_more(&mut self, table: &str);
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As when the machine loses power.
    Kill,
    /// As its administrator does it: who is connected is told.
    ShutDown,
}

/// When a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The server is never asked to commit.
    BeforeCommit,
    /// It commits, and its answer never comes.
    AfterCommit,
}

/// What somebody does to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The column `rest` goes.
    DropColumn,
    /// The column `data` gets another name.
    RenameColumn,
    /// The column `rest` gets a type that holds none.
    ChangeType,
    /// The table gets another name.
    MoveTable,
}

fn no_means(what: &str) -> ! {
    panic!("the target has no means to {what}: say in `Harness::cannot` why not, or give it them")
}

/// The file that batches come to last.
const LAST: &str = "/srv/last.dat";

/// A target with rows, residue, and files that are renamed and removed later.
fn begin<'h>(harness: &'h mut (dyn Faults + 'h)) -> Trial<'h, dyn Faults + 'h> {
    let mut trial = Trial::begin(harness);
    let cards = (1..=150)
        .map(|id| (id, record(format!("card {id}"))))
        .chain([(200, residue("old card"))]);
    let last = (1..=150).map(|id| (id, record(format!("row {id}"))));
    trial.apply([
        changes(&file("/srv/cards.dat"), cards),
        changes(
            &file("/srv/rates.0"),
            [(1, record("rate")), (2, residue("r"))],
        ),
        changes(&file("/srv/made.0"), [(1, record("made"))]),
        changes(&file(LAST), last),
    ]);
    trial
}

/// A batch that does a bit of everything; it changes rows of [`LAST`] at its end. `turn` counts such batches from 1.
fn a_bit_of_everything(trial: &Trial<'_, dyn Faults + '_>, turn: u64) -> Batch {
    let text = |id: u64| record(format!("turn {turn}, {id}"));
    let cards = FileChanges {
        cleared: vec![140..180, 440 + turn..u64::MAX],
        ..changes(
            &file("/srv/cards.dat"),
            (1..120)
                .map(|id| (id, text(id)))
                .chain([(120 + turn, Image::Absent), (200, text(200))])
                .chain((300..430).map(|id| (id, text(id))))
                .chain([(139, residue("residue"))]),
        )
    };
    let at = |name: &str, turn: u64| file(format!("/srv/{name}.{turn}"));
    trial.batch([
        changes(&at("made", turn), [(1, text(1)), (2, residue("x"))]),
        cards,
        renamed(
            changes(&at("rates", turn), [(1, text(1))]),
            &at("rates", turn - 1).path,
        ),
        removed(&at("made", turn - 1)),
        changes(&file(LAST), (1..150 + turn).map(|id| (id, text(id)))),
    ])
}

fn table_of(trial: &mut Trial<'_, dyn Faults + '_>, path: &str) -> String {
    let stored = trial.stored(path).expect("the file is there");
    stored.table
}

fn assert_transient(error: &SinkError) {
    assert!(error.is_transient(), "{error}");
}

/// Applies a batch, which waits for what is taken; then something happens. Gives what becomes of the batch.
fn apply_and_then(
    trial: &mut Trial<'_, dyn Faults + '_>,
    batch: &Batch,
    mut taken: Box<dyn Taken>,
    then: impl FnOnce(&mut dyn Target, Box<dyn Taken>),
) -> Result<(), SinkError> {
    let (sink, harness) = trial.parts();
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| sink.apply(batch));
        wait_until("the batch to wait", || {
            if applying.is_finished() || taken.is_waited_for() {
                return Ok(());
            }
            Err("it doesn't wait".to_owned())
        })
        .expect("a batch waits for what is taken");
        assert!(!applying.is_finished(), "it didn't wait");
        then(harness.target(), taken);
        applying.join().expect("applying doesn't panic")
    })
}

/// How often a server is stopped until that was within a batch twice.
const TRIES_MAX: u64 = 8;

fn stops_in_mid_batch(harness: &mut dyn Faults, how: Stop) {
    harness.target().use_own_server();
    harness.set_patient(true);
    let mut trial = begin(harness);
    let mut stopped_within = 0;
    for turn in 1..TRIES_MAX {
        let batch = a_bit_of_everything(&trial, turn);
        let last = table_of(&mut trial, LAST);
        let taken = trial.harness().target().take(&last);
        let applied = apply_and_then(&mut trial, &batch, taken, |target, taken| {
            target.stop(how);
            drop(taken);
        });
        let error = trial.sink().apply(&batch).expect_err("there is no server");
        assert_transient(&error);
        let error = trial.sink().position("hq/payments").expect_err("nor now");
        assert_transient(&error);
        let error = trial.harness().open().err().expect("nor for another sink");
        assert_transient(&error);
        trial.harness().target().start();
        match applied {
            Err(error) => {
                assert_transient(&error);
                trial.compare("the server's return");
                trial.settle(&batch);
                stopped_within += 1;
            }
            Ok(()) => {
                // A server that is shut down sends one session away after the other. If the first was the one that had the
                // rows, the batch may be through before it is its turn.
                assert_eq!(how, Stop::ShutDown, "the server was killed");
                trial.note(&batch);
                trial.compare("the server's return");
            }
        }
        if stopped_within == 2 {
            return;
        }
    }
    panic!("the server stopped within a batch {stopped_within} times in {TRIES_MAX}");
}

/// The server dies when most of a batch is written: it is tried again when the server is back, and nothing of it was there.
pub fn survives_a_killed_server(harness: &mut dyn Faults) {
    stops_in_mid_batch(harness, Stop::Kill);
}

/// The same when it is shut down by its administrator, who waits for nobody.
pub fn survives_an_orderly_shutdown(harness: &mut dyn Faults) {
    stops_in_mid_batch(harness, Stop::ShutDown);
}

/// A connection that breaks before the server is asked to commit: nothing of the batch is there, and it is applied again.
pub fn survives_a_cut_before_the_commit(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    for turn in 1..4 {
        let batch = a_bit_of_everything(&trial, turn);
        trial.harness().target().cut(Moment::BeforeCommit);
        let error = trial.sink().apply(&batch).expect_err("it was cut");
        assert_transient(&error);
        assert!(
            !trial.harness().target().is_cut_to_come(),
            "nothing was cut"
        );
        trial.compare("a cut before the commit");
        trial.settle(&batch);
    }
}

/// A connection that breaks when the server has committed and before it says so: that is found out by asking, by the sink
/// itself or by who uses it, and the batch isn't applied twice.
pub fn finds_out_about_a_cut_after_the_commit(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    for turn in 1..3 {
        // Tables and views may take commits of their own, and then it is one of those.
        let batch = a_bit_of_everything(&trial, turn);
        cut_after_commit(&mut trial, &batch);
        trial.settle(&batch);
        // With rows alone there is but one.
        let rows = (1..100).map(|id| (id, record(format!("rows of turn {turn}, {id}"))));
        let batch = trial.batch([
            changes(&file("/srv/cards.dat"), rows.clone()),
            changes(&file(LAST), rows),
        ]);
        cut_after_commit(&mut trial, &batch);
        wait_until("the server to be done", || {
            match trial.sink().position(&batch.stream) {
                Ok(position) if position == Some(batch.position) => Ok(()),
                Ok(position) => Err(format!("it is at {position:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .expect("the position tells that it was applied");
        trial.note(&batch);
        trial.compare("a cut after the commit");
        let again = trial.refuse(&batch);
        assert!(matches!(again, SinkError::NotAfter { .. }), "{again}");
    }
}

/// The same for a batch that mends rows and leaves the position where it is, so that nothing tells whether it was applied: it
/// isn't taken to be, and is applied again.
pub fn repeats_an_amendment_that_was_cut(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    for moment in [Moment::BeforeCommit, Moment::AfterCommit] {
        let rows = (1..100).map(|id| (id, record(format!("{moment:?}, {id}"))));
        let amendment = Batch {
            after: Some(trial.position()),
            position: trial.position(),
            ..trial.batch([changes(&file("/srv/cards.dat"), rows)])
        };
        trial.harness().target().cut(moment);
        let error = trial.sink().apply(&amendment).expect_err("it was cut");
        assert_transient(&error);
        let is_to_come = trial.harness().target().is_cut_to_come();
        assert!(!is_to_come, "nothing was cut");
        if moment == Moment::BeforeCommit {
            trial.compare("an amendment that was cut");
        }
        trial.sink().apply(&amendment).expect("once more");
        trial.note(&amendment);
        trial.compare("an amendment that was applied again");
    }
}

fn cut_after_commit(trial: &mut Trial<'_, dyn Faults + '_>, batch: &Batch) {
    trial.harness().target().cut(Moment::AfterCommit);
    if let Err(error) = trial.sink().apply(batch) {
        assert_transient(&error);
    }
    let is_to_come = trial.harness().target().is_cut_to_come();
    assert!(!is_to_come, "nothing was cut");
}

/// Two sessions that wait for each other: the sink gives way, nothing of the batch is there, and it is applied again.
pub fn survives_a_deadlock(harness: &mut dyn Faults) {
    harness.set_patient(true);
    let mut trial = begin(harness);
    for turn in 1..3 {
        // It has the cards, and wants the last file, which somebody has who wants the cards.
        let batch = a_bit_of_everything(&trial, turn);
        let [cards, last] = ["/srv/cards.dat", LAST].map(|path| table_of(&mut trial, path));
        let taken = trial.harness().target().take(&last);
        let applied = apply_and_then(&mut trial, &batch, taken, |_, mut taken| {
            taken.take_more(&cards);
        });
        assert_transient(&applied.expect_err("a deadlock"));
        trial.compare("a deadlock");
        trial.settle(&batch);
    }
}

/// Somebody has the rows that a batch comes to: it gives up after a while, leaves nothing behind, not even locks, and is applied
/// once they are free.
pub fn gives_up_waiting_for_a_lock(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    for turn in 1..3 {
        let batch = a_bit_of_everything(&trial, turn);
        let last = table_of(&mut trial, LAST);
        let taken = trial.harness().target().take(&last);
        for _ in 0..2 {
            let error = trial.sink().apply(&batch).expect_err("somebody has them");
            assert_transient(&error);
            trial.compare("giving up");
        }
        drop(taken);
        trial.settle(&batch);
    }
}

/// A lock that is let go in time: the batch was waiting, and goes on.
pub fn goes_on_when_a_lock_is_free(harness: &mut dyn Faults) {
    harness.set_patient(true);
    let mut trial = begin(harness);
    let batch = a_bit_of_everything(&trial, 1);
    let last = table_of(&mut trial, LAST);
    let taken = trial.harness().target().take(&last);
    let applied = apply_and_then(&mut trial, &batch, taken, |_, taken| drop(taken));
    applied.expect("it waited no longer than it may");
    trial.note(&batch);
    trial.compare("waiting for a lock");
    trial.reopen();
}

/// A disk that is full, or as much of it as the target may have: the error says so, nothing of the batch is there, what was there
/// can be read, and the batch is applied once there is room.
pub fn waits_for_room(harness: &mut dyn Faults) {
    const BATCHES_MAX: u64 = 60;
    let says = harness.target().limit_room();
    let mut trial = begin(harness);
    let large = (1..=BATCHES_MAX).find_map(|turn| {
        let rows = (1..4000).map(|id| (id, record([turn as u8; 500])));
        let batch = trial.batch([
            changes(&file(format!("/srv/{turn}")), [(1, residue("x"))]),
            changes(&file("/srv/cards.dat"), [(1, record([turn as u8; 100]))]),
            changes(&file(format!("/srv/log.{turn}")), rows),
        ]);
        match trial.sink().apply(&batch) {
            Ok(()) => {
                trial.note(&batch);
                None
            }
            Err(_) => Some(batch),
        }
    });
    let batch = large.expect("it is full at some time");
    for _ in 0..3 {
        let error = trial.sink().apply(&batch).expect_err("there is no room");
        assert_transient(&error);
        assert!(error.to_string().contains(says), "{error}");
        match trial.sink().position(&batch.stream) {
            Err(error) if trial.harness().finishes_later() => assert_transient(&error),
            _ => trial.compare("a full disk"),
        }
    }
    trial.close();
    trial.harness().target().make_room();
    if trial.harness().finishes_later() {
        trial.reopen_to_settle(&batch);
    } else {
        trial.reopen();
        trial.settle(&batch);
    }
}

/// What a sink may not do is an error for good that says what it may not; once it may, it goes on.
pub fn names_a_missing_permission(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    for turn in 1..3 {
        let batch = a_bit_of_everything(&trial, turn);
        let last = table_of(&mut trial, LAST);
        let says = trial.harness().target().revoke(&last);
        let says: Vec<&str> = says.iter().map(String::as_str).collect();
        refused_anew(&mut trial, &batch, &says);
        trial.harness().target().grant(&last);
        trial.reopen();
        trial.settle(&batch);
    }
}

/// Offers a batch to a target that something is wrong with, opened anew each time: it is refused for good, if the target can be
/// opened at all, and the error has all these words.
fn refused_anew(trial: &mut Trial<'_, dyn Faults + '_>, batch: &Batch, says: &[&str]) {
    trial.close();
    for _ in 0..2 {
        let error = match trial.harness().open() {
            Ok(mut sink) => sink.apply(batch).expect_err("something is wrong"),
            Err(error) => error,
        };
        assert!(!error.is_transient(), "{error}");
        for words in says {
            assert!(error.to_string().contains(words), "{words:?}: {error}");
        }
    }
}

/// Changes the last file's table: a batch is refused with an error that has these words and says which file or table it is, and
/// applied once the table is what it was.
fn changes_underneath(harness: &mut dyn Faults, change: Change, says: &[&str]) {
    let mut trial = begin(harness);
    let last = table_of(&mut trial, LAST);
    // A record with a rest, so that the column that holds it is needed.
    let mut batch = a_bit_of_everything(&trial, 1);
    if let Some(changes) = batch.files.last_mut() {
        let image = Image::Record {
            data: b"content".to_vec(),
            rest: b"\r".to_vec(),
        };
        changes.images.insert(7, image);
    }
    trial.harness().target().change(&last, change);
    refused_anew(&mut trial, &batch, &[says, &["last"]].concat());
    trial.harness().target().change_back(&last, change);
    trial.reopen();
    trial.settle(&batch);
}

/// A column that somebody dropped is named, with file or table.
pub fn names_a_dropped_column(harness: &mut dyn Faults) {
    changes_underneath(harness, Change::DropColumn, &["rest"]);
}

/// A column that somebody gave another name is named.
pub fn names_a_renamed_column(harness: &mut dyn Faults) {
    changes_underneath(harness, Change::RenameColumn, &["data"]);
}

/// A column that somebody gave another type is named.
pub fn names_a_column_of_another_type(harness: &mut dyn Faults) {
    changes_underneath(harness, Change::ChangeType, &["rest"]);
}

/// A table that isn't there is named, and may come back as it was.
pub fn names_a_missing_table(harness: &mut dyn Faults) {
    changes_underneath(harness, Change::MoveTable, &[]);
}

/// If it doesn't come back, the file can be had anew.
pub fn replaces_a_missing_table(harness: &mut dyn Faults) {
    let mut trial = begin(harness);
    let last = table_of(&mut trial, LAST);
    trial.harness().target().change(&last, Change::MoveTable);
    let rows = changes(&file(LAST), [(1, record("anew"))]);
    let batch = trial.batch([removed(&file(LAST)), rows]);
    trial.close();
    let mut sink = trial.harness().open().expect("opening");
    sink.apply(&batch).expect("had anew");
    drop(sink);
    trial.note(&batch);
    trial.reopen();
    assert_eq!(trial.content(LAST), [(1, record("anew"))]);
}
