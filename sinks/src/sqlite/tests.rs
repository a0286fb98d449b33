//! The contract, and what only SQLite can do wrong.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges to clear often has one"
)]

mod columns;
mod keys;
mod structure;

use super::*;
use crate::contract::targets::SqliteTarget;
use crate::contract::{
    Faults, Harness, STREAM, Target, batch, changes, content, file, planned, record, residue,
    static_file, whole_batch, whole_batch_in,
};
use crate::plan::{Mode, PlanSpec};
use crate::sql::quoted;
use crate::{Attributes, FileChanges, FileKind, Image, Logged, LoggedChange};
use counterfoil_proto::Position;
use counterfoil_records::value::Hex;
use counterfoil_servers::AsNobody;
use rusqlite::types::ValueRef;
use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

struct SqliteHarness {
    target: SqliteTarget,
    is_patient: bool,
}

impl SqliteHarness {
    fn new() -> Self {
        SqliteHarness {
            target: SqliteTarget::new(),
            is_patient: false,
        }
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig {
            busy_timeout_ms: if self.is_patient { 60_000 } else { 20 },
            size_max_bytes: self.target.room_bytes(),
            ..SqliteConfig::new(self.target.path())
        }
    }
}

impl Harness for SqliteHarness {
    fn cannot(&self, case: &str) -> Option<&'static str> {
        SqliteTarget::cannot(case)
    }

    fn fresh(&mut self) {
        self.target.fresh();
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(SqliteSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(SqliteSink::open_read_only(&self.config())?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(
            &file(path),
            [(1, record("fits")), (1 << 63, record("doesn't"))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let other = Connection::open(self.target.path()).expect("opening another connection");
        other
            .execute_batch("BEGIN IMMEDIATE")
            .expect("taking the write lock");
        Some(Box::new(other))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let other = Connection::open(self.target.path()).expect("opening another connection");
        let sql = format!("UPDATE {} SET data = ?1 WHERE rowid = ?2", quoted(table));
        other
            .execute(
                &sql,
                rusqlite::params![data, i64::try_from(id).expect("a small id")],
            )
            .expect("tampering");
        true
    }

    fn rows(&mut self, table: &str, columns: &[&str]) -> Option<Vec<Vec<Option<String>>>> {
        let other = Connection::open(self.target.path()).expect("opening another connection");
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let sql = format!("SELECT {} FROM {}", names.join(", "), quoted(table));
        let mut select = other.prepare(&sql).expect("the table is there");
        let text = |row: &rusqlite::Row<'_>, at: usize| match row.get_ref(at).expect("a value") {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string()),
            ValueRef::Real(number) => Some(number.to_string()),
            ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).expect("UTF-8")),
            ValueRef::Blob(bytes) => Some(Hex(bytes).to_string()),
        };
        let mut rows = select.query([]).expect("reading rows");
        let mut found = Vec::new();
        while let Some(row) = rows.next().expect("reading a row") {
            found.push((0..columns.len()).map(|at| text(row, at)).collect());
        }
        Some(found)
    }

    fn columns(&mut self, table: &str) -> Option<Vec<String>> {
        let other = Connection::open(self.target.path()).expect("opening another connection");
        let mut select = other
            .prepare("SELECT name FROM pragma_table_info(?1)")
            .expect("asking for columns");
        let names = select.query_map([table], |row| row.get(0));
        Some(
            names
                .and_then(Iterator::collect)
                .expect("reading the columns"),
        )
    }

    fn forbid(&mut self, table: &str, column: &str, text: &str) -> bool {
        let other = Connection::open(self.target.path()).expect("opening another connection");
        for event in ["INSERT", "UPDATE"] {
            other
                .execute_batch(&format!(
                    "CREATE TRIGGER forbid_{event} BEFORE {event} ON {} WHEN NEW.{} = '{text}'
                     BEGIN SELECT RAISE(ABORT, 'that is forbidden'); END",
                    quoted(table),
                    quoted(column)
                ))
                .expect("making a trigger");
        }
        true
    }
}

impl Faults for SqliteHarness {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.target
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

mod contract {
    crate::sink_contract!(super::SqliteHarness::new());
}

mod faults {
    crate::sink_faults!(super::SqliteHarness::new());
}
mod plans {
    crate::sink_plan_contract!(super::SqliteHarness::new());
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The error is for good, names the database and says all of these.
fn assert_refused(result: Result<SqliteSink, SinkError>, path: &Path, says: &str) {
    match result {
        Ok(_) => panic!("opened, though: {says}"),
        Err(error @ SinkError::Permanent { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains(says) && text.contains(&path.display().to_string()),
                "{text}"
            );
        }
        Err(error) => panic!("not permanent: {error}"),
    }
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let directory = directory();
    let path = directory.path().join("x");
    let config = SqliteConfig::new(&path);
    let sql = |sql: &'static str| {
        move |path: &Path| {
            let connection = Connection::open(path).expect("making a database");
            connection.execute_batch(sql).expect("filling it");
        }
    };
    type Make = Box<dyn Fn(&Path)>;
    let others: [(Make, &str); 5] = [
        (
            Box::new(|path| {
                fs::write(path, "not a database at all, but long ".repeat(64)).expect("writing");
            }),
            "not a database",
        ),
        (
            Box::new(sql("PRAGMA application_id = 77; CREATE TABLE t (x)")),
            "belongs to something else",
        ),
        (
            Box::new(sql("CREATE TABLE t (x)")),
            "belongs to something else",
        ),
        (
            Box::new(sql("PRAGMA user_version = 3")),
            "belongs to something else",
        ),
        (
            Box::new(sql(
                "PRAGMA application_id = 0x43464F4C; PRAGMA user_version = 4",
            )),
            "a newer Counterfoil",
        ),
    ];
    for (make, says) in others {
        make(&path);
        let before = fs::read(&path).expect("reading it");
        assert_refused(SqliteSink::open(&config), &path, says);
        assert_refused(SqliteSink::open_read_only(&config), &path, says);
        assert_eq!(fs::read(&path).expect("reading it again"), before, "{says}");
        fs::remove_file(&path).expect("removing it");
    }
}

#[test]
fn a_path_that_can_hold_no_database_is_refused() {
    let directory = directory();
    for path in [
        directory.path().join("no/such/directory/mirror.db"),
        directory.path().to_owned(),
    ] {
        assert_refused(
            SqliteSink::open(&SqliteConfig::new(&path)),
            &path,
            "directory",
        );
    }
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).expect("making a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("closing it");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("opening it");
    let path = closed.join("mirror.db");
    let _nobody = AsNobody::begin();
    assert_refused(
        SqliteSink::open(&SqliteConfig::new(&path)),
        &path,
        "may write in it",
    );
}

/// Names that mean something special to SQLite are files here.
#[test]
fn a_name_is_only_a_name() {
    let directory = directory();
    for name in [
        ":memory:",
        "file:x?mode=memory",
        "a b'\"?#%41.db",
        "new\nline",
    ] {
        let path = directory.path().join(name);
        let sink = SqliteSink::open(&SqliteConfig::new(&path)).expect("opening");
        assert!(path.is_file(), "{name}");
        Box::new(sink).close().expect("closing");
    }
}

#[test]
fn reading_only_makes_and_changes_nothing() {
    let directory = directory();
    let path = directory.path().join("mirror.db");
    let config = SqliteConfig::new(&path);
    assert_refused(
        SqliteSink::open_read_only(&config),
        &path,
        "mirrored into this sink yet",
    );
    assert!(!path.exists());
    fs::write(&path, "").expect("making an empty file");
    assert_refused(
        SqliteSink::open_read_only(&config),
        &path,
        "the database is empty",
    );
    assert_eq!(fs::metadata(&path).expect("looking at it").len(), 0);

    let mut writer = SqliteSink::open(&config).expect("opening to write");
    let mut reader = SqliteSink::open_read_only(&config).expect("opening to read");
    let cards = file("/srv/cards.dat");
    for lsn in 1..4 {
        writer
            .apply(&batch(lsn, [changes(&cards, [(lsn, record("x"))])]))
            .expect("applying");
        assert_eq!(content(&mut reader, "/srv/cards.dat").len() as u64, lsn);
    }
    let error = reader
        .apply(&batch(9, []))
        .expect_err("it was opened to read");
    assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    Box::new(writer).close().expect("closing the writer");
    assert_eq!(content(&mut reader, "/srv/cards.dat").len(), 3);
    // And with nobody else there.
    drop(reader);
    let mut reader = SqliteSink::open_read_only(&config).expect("opening to read");
    assert_eq!(content(&mut reader, "/srv/cards.dat").len(), 3);
}

#[test]
fn only_the_owner_can_read_the_database() {
    let directory = directory();
    let path = directory.path().join("mirror.db");
    let mut sink = SqliteSink::open(&SqliteConfig::new(&path)).expect("opening");
    sink.apply(&batch(
        1,
        [changes(&file("/srv/cards.dat"), [(1, record("4000"))])],
    ))
    .expect("applying");
    for entry in fs::read_dir(directory.path()).expect("listing") {
        let entry = entry.expect("listing");
        let mode = entry
            .metadata()
            .expect("looking at it")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.file_name());
    }
}

/// What is on disk at any moment, copied as a power cut would leave it (the shared memory is lost),
/// is the target as of the last batch.
#[test]
fn nothing_need_be_closed() {
    let directory = directory();
    let path = directory.path().join("mirror.db");
    let mut sink = SqliteSink::open(&SqliteConfig::new(&path)).expect("opening");
    let cards = file("/srv/cards.dat");
    let crashed = |name: String| {
        let copy = directory.path().join(name);
        for suffix in ["", "-wal"] {
            let with = |path: &Path| format!("{}{suffix}", path.display());
            if Path::new(&with(&path)).exists() {
                fs::copy(with(&path), with(&copy)).expect("copying");
            }
        }
        SqliteSink::open(&SqliteConfig::new(copy)).expect("opening the copy")
    };
    for lsn in 1..6 {
        let images = (0..lsn * 100).map(|id| (id, record(format!("{lsn} {id}"))));
        sink.apply(&batch(lsn, [changes(&cards, images)]))
            .expect("applying");
        let mut copy = crashed(format!("after {lsn}.db"));
        assert_eq!(
            copy.position(STREAM)
                .expect("reading the position")
                .map(|position| position.lsn),
            Some(lsn)
        );
        assert_eq!(
            content(&mut copy, "/srv/cards.dat"),
            content(&mut sink, "/srv/cards.dat")
        );
    }
    // In the middle of a transaction so large that half of it is in the log already.
    let before = content(&mut sink, "/srv/cards.dat");
    let connection = sink.connection.as_ref().expect("the sink is open");
    connection
        .execute_batch("PRAGMA cache_size = 10; BEGIN IMMEDIATE")
        .expect("beginning");
    connection
        .execute_batch("UPDATE cards_dat SET data = zeroblob(5000)")
        .expect("changing rows");
    assert_eq!(
        content(&mut crashed("in the middle.db".into()), "/srv/cards.dat"),
        before
    );
}

const VICTIM_DATABASE: &str = "COUNTERFOIL_TEST_VICTIM_DATABASE";

/// The writer of [`a_writer_is_killed`], in a process of its own. Ends when its parent does.
#[test]
#[ignore = "is started, and killed, by another test"]
fn writes_until_killed() {
    let Some(path) = std::env::var_os(VICTIM_DATABASE) else {
        return;
    };
    let parent = std::os::unix::process::parent_id();
    let mut sink = SqliteSink::open(&SqliteConfig::new(path)).expect("opening");
    let stored = sink.position(STREAM).expect("reading the position");
    let mut lsn = stored.map_or(1, |position| position.lsn + 1);
    while std::os::unix::process::parent_id() == parent {
        sink.apply(&whole_batch(lsn)).expect("applying");
        lsn += 1;
    }
}

/// A writer in another process is killed again and again, at moments nobody chose. A reader sees
/// whole batches before and after, and the position never goes back.
#[test]
fn a_writer_is_killed() {
    let directory = directory();
    let path = directory.path().join("mirror.db");
    let config = SqliteConfig::new(&path);
    drop(SqliteSink::open(&config).expect("making the database"));
    let mut reader = SqliteSink::open_read_only(&config).expect("opening to read");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let mut seen = 0;
    for _ in 0..6 {
        let mut victim =
            std::process::Command::new(std::env::current_exe().expect("this program has a path"))
                .args([
                    "--exact",
                    "sqlite::tests::writes_until_killed",
                    "--ignored",
                    "--quiet",
                ])
                .env(VICTIM_DATABASE, &path)
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("starting a writer");
        let begin = seen;
        while seen < begin + 10 {
            let lsn = whole_batch_in(&mut reader);
            assert!(lsn >= seen, "position went from {seen} back to {lsn}");
            seen = lsn;
            let ended = victim.try_wait().expect("looking after the writer");
            assert!(ended.is_none(), "the writer ended by itself: {ended:?}");
            assert!(
                std::time::Instant::now() < deadline,
                "the writer is at {seen}, and was at {begin}"
            );
        }
        victim.kill().expect("killing the writer");
        victim.wait().expect("waiting for its end");
        let lsn = whole_batch_in(&mut reader);
        assert!(lsn >= seen, "position went from {seen} back to {lsn}");
        let mut successor = SqliteSink::open(&config).expect("opening after the kill");
        assert_eq!(whole_batch_in(&mut successor), lsn);
        seen = lsn;
    }
}

/// Tables, views and indexes of the people who use the database stay theirs.
#[test]
fn what_others_made_is_left_alone() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let (cards, log) = (file("/srv/cards.dat"), file("/srv/log"));
    sink.apply(&batch(
        1,
        [changes(&cards, [(1, record("x"))]), changes(&log, [])],
    ))
    .expect("applying");
    let other = Connection::open(&config.path).expect("opening another connection");
    other
        .execute_batch(
            "CREATE VIEW Rates AS SELECT * FROM log; CREATE TABLE new_dat (x); CREATE INDEX idx ON cards_dat (data);
             CREATE VIEW broken AS SELECT * FROM missing",
        )
        .expect("making views");
    let changed = [
        changes(&file("/srv/rates"), [(1, record("x"))]),
        changes(&file("/srv/new.dat"), [(1, record("x"))]),
        FileChanges {
            renamed_from: Some(b"/srv/log".to_vec()),
            ..changes(&file("/srv/log.1"), [])
        },
        changes(&log, [(4, record("in the new log"))]),
        changes(&file("/srv/idx"), []),
    ];
    sink.apply(&batch(2, changed)).expect("applying");
    let tables: Vec<_> = sink
        .files(STREAM)
        .expect("listing")
        .into_iter()
        .map(|file| file.table)
        .collect();
    assert_eq!(
        tables,
        ["cards_dat", "idx_2", "log", "log_1", "new_dat_2", "rates_2"]
    );
    let seen: Vec<u8> = other
        .query_row("SELECT data FROM Rates", [], |row| row.get(0))
        .expect("the view is of the new log");
    assert_eq!(seen, b"in the new log");
}

/// SQLite's integers have a sign. What doesn't fit is refused, not wrapped.
#[test]
fn numbers_beyond_sqlite_are_refused() {
    let directory = directory();
    let mut sink =
        SqliteSink::open(&SqliteConfig::new(directory.path().join("mirror.db"))).expect("opening");
    let cards = file("/srv/cards.dat");
    let max = i64::MAX as u64;
    sink.apply(&batch(
        1,
        [changes(
            &cards,
            [(max, record("last")), (max - 1, residue("x"))],
        )],
    ))
    .expect("it fits");
    assert_eq!(
        content(&mut sink, "/srv/cards.dat"),
        [(max - 1, residue("x")), (max, record("last"))]
    );
    for id in [max + 1, u64::MAX] {
        for image in [record("x"), residue("x"), Image::Absent] {
            let error = sink
                .apply(&batch(2, [changes(&cards, [(id, image)])]))
                .expect_err("it doesn't fit");
            assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
            assert!(error.to_string().contains(&id.to_string()), "{error}");
        }
    }
    for position in [
        Position {
            epoch: u64::MAX,
            ..Position::default()
        },
        Position {
            epoch: 2,
            lsn: max + 1,
            index: 0,
        },
    ] {
        let error = sink
            .apply(&Batch {
                position,
                ..batch(0, [])
            })
            .expect_err("it doesn't fit");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    }
    let all = FileChanges {
        cleared: vec![max..u64::MAX],
        ..changes(&cards, [])
    };
    sink.apply(&batch(2, [all])).expect("clearing the last");
    assert_eq!(
        content(&mut sink, "/srv/cards.dat"),
        [(max - 1, residue("x"))]
    );
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    sink.apply(&batch(
        1,
        [changes(
            &file("/srv/cards.dat"),
            [(1, record("x")), (2, record("y"))],
        )],
    ))
    .expect("applying");
    let other = Connection::open(&config.path).expect("opening another connection");
    let read = |sink: &mut SqliteSink| sink.pieces(STREAM, b"/srv/cards.dat", &mut |_| true);
    for (damage, says) in [
        (
            "UPDATE cards_dat SET data = 5 WHERE record_number = 2",
            "record 2 of /srv/cards.dat",
        ),
        (
            "UPDATE cards_dat SET record_number = -2, data = x'00' WHERE record_number = 2",
            "negative",
        ),
        ("DROP TABLE cards_dat", "no such table"),
    ] {
        other.execute_batch(damage).expect("damaging the row");
        let error = read(&mut sink).expect_err("the row is damaged");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // Nothing of a batch that meets the gap is left; and a file can always be had anew.
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(2, [changes(&cards, [(1, record("x"))])]))
        .expect_err("its table is gone");
    let removed = FileChanges {
        fate: crate::FileFate::Removed,
        ..changes(&cards, [])
    };
    sink.apply(&batch(2, [removed, changes(&cards, [(1, record("x"))])]))
        .expect("made anew");
    assert_eq!(content(&mut sink, "/srv/cards.dat"), [(1, record("x"))]);
}

#[test]
fn identities_have_their_names() {
    use counterfoil_records::{Layout, Organization, RecordFormat};
    let format = |organization, layout| RecordFormat {
        organization,
        layout,
        settings: counterfoil_records::Settings::NONE,
        record_size: None,
        varseq_format: None,
    };
    for (organization, layout, name) in [
        (Organization::Fixed, Layout::Plain, "record_number"),
        (Organization::Relative, Layout::Gnucobol, "slot_number"),
        (Organization::Sequential, Layout::Gnucobol, "address"),
        (Organization::Stream, Layout::Newline, "address"),
        (Organization::Stream, Layout::Blocks, "block_number"),
    ] {
        let directory = directory();
        let config = SqliteConfig::new(directory.path().join("mirror.db"));
        let mut sink = SqliteSink::open(&config).expect("opening");
        let mut description = (*file("/srv/x")).clone();
        description.format = format(organization, layout);
        sink.apply(&batch(
            1,
            [changes(&Arc::new(description), [(1, record("x"))])],
        ))
        .expect("applying");
        let other = Connection::open(&config.path).expect("opening another connection");
        let id: i64 = other
            .query_row(&format!("SELECT {name} FROM x"), [], |row| row.get(0))
            .expect("it has that column");
        assert_eq!(id, 1);
    }
}

#[test]
fn a_configuration_with_unknown_keys_is_refused() {
    let config: SqliteConfig =
        serde_json::from_str(r#"{"path": "/x.db"}"#).expect("a path is enough");
    assert_eq!(config, SqliteConfig::new("/x.db"));
    let config: SqliteConfig =
        serde_json::from_str(r#"{"path": "/x.db", "ddl": "check"}"#).expect("a policy");
    assert_eq!(config.ddl, crate::plan::Ddl::Check);
    serde_json::from_str::<SqliteConfig>(r#"{"path": "/x.db", "pth": 1}"#)
        .expect_err("an unknown key");
}

/// Every SQL statement of `docs/sinks.md` and `docs/sqlite.md` works, and every column of the tables is in them.
#[test]
fn the_documented_queries_work() {
    const PAGE: &str = concat!(
        include_str!("../../../docs/sinks.md"),
        include_str!("../../../docs/sqlite.md")
    );
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let images = [
        (5, record("4000001200000007000001500")),
        (6, residue("4000")),
    ];
    sink.apply(&batch(1, [changes(&file("/srv/pay/cards.dat"), images)]))
        .expect("applying");
    let settings = static_file("/srv/app/etc", "/srv/app/etc/app.conf");
    let changed = changes(&settings, [(0, record("port = 80"))]);
    let spec = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    let mut people = changes(&planned("/srv/people", &[("name", "text(3)")], &spec), []);
    people.log.push(Logged {
        position: Position::default(),
        captured_ns: 0,
        change: LoggedChange::Image {
            id: 1,
            image: record("Ann"),
        },
    });
    sink.apply(&batch(2, [changed, people])).expect("applying");
    let other = Connection::open(&config.path).expect("opening another connection");
    let queries: Vec<_> = PAGE
        .split("```sql\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .collect();
    assert!(queries.len() >= 6, "{queries:?}");
    for query in queries {
        let mut statement = other.prepare(query).expect(query);
        let rows = statement
            .query([])
            .and_then(|mut rows| rows.next().map(|row| row.is_some()))
            .expect(query);
        assert!(rows || query.starts_with("CREATE"), "no rows: {query}");
    }
    for table in [
        "counterfoil_position",
        "counterfoil_files",
        "counterfoil_residue",
        "counterfoil_trees",
        "counterfoil_histories",
        "etc",
        "etc_files",
    ] {
        let select = other
            .prepare(&format!("SELECT * FROM {table}"))
            .expect("the table is there");
        for column in select.column_names() {
            assert!(
                PAGE.contains(&format!("`{column}`")),
                "{table}.{column} is not documented"
            );
        }
    }
    assert!(PAGE.contains(&format!("`PRAGMA application_id` is {APPLICATION_ID}")));
}

/// A tree's view shows files as people expect to see them.
#[test]
fn a_view_shows_what_is_in_a_tree() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let entry = |name: &str, kind, size, images: Vec<(u64, Image)>| FileChanges {
        attributes: Attributes {
            size,
            kind: Some(kind),
            mode: Some(0o644),
            ..Attributes::default()
        },
        ..changes(&static_file("/srv/etc", format!("/srv/etc/{name}")), images)
    };
    let two_blocks = vec![(0, record(vec![1; 262_144])), (1, record("y"))];
    sink.apply(&batch(
        1,
        [
            entry("a.conf", FileKind::Regular, 3, vec![(0, record("x=1"))]),
            entry("empty", FileKind::Regular, 0, vec![]),
            entry("big", FileKind::Regular, 262_145, two_blocks),
            entry("dir", FileKind::Directory, 0, vec![]),
            entry("link", FileKind::Link, 6, vec![(0, record("a.conf"))]),
            entry("zeros", FileKind::Regular, 262_144, vec![]),
        ],
    ))
    .expect("applying");
    let other = Connection::open(&config.path).expect("opening another connection");
    let shown = |name: &str| -> (String, String, Option<Vec<u8>>) {
        other
            .query_row(
                "SELECT kind, mode, content FROM etc_files WHERE path_text = ?1",
                [format!("/srv/etc/{name}")],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .expect(name)
    };
    let row = |kind: &str, content: Option<&[u8]>| {
        (
            kind.to_owned(),
            "0644".to_owned(),
            content.map(<[u8]>::to_vec),
        )
    };
    assert_eq!(shown("a.conf"), row("file", Some(b"x=1")));
    assert_eq!(shown("empty"), row("file", Some(b"")));
    assert_eq!(shown("big"), row("file", None));
    assert_eq!(shown("dir"), row("directory", None));
    assert_eq!(shown("link"), row("link", Some(b"a.conf")));
    assert_eq!(shown("zeros"), row("file", Some(&[0; 262_144])));
}

/// The schema of version 1, as it was, with a file in it.
const VERSION_1: &str = "
CREATE TABLE counterfoil_position (stream TEXT PRIMARY KEY NOT NULL, epoch INTEGER NOT NULL, lsn INTEGER NOT NULL,
    idx INTEGER NOT NULL, captured_ns INTEGER NOT NULL, applied_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counterfoil_files (file_id INTEGER PRIMARY KEY, stream TEXT NOT NULL, path BLOB NOT NULL,
    path_text TEXT NOT NULL, file_group TEXT NOT NULL, organization TEXT NOT NULL, layout TEXT NOT NULL,
    record_size INTEGER, varseq_format INTEGER, table_name TEXT NOT NULL UNIQUE COLLATE NOCASE, table_configured TEXT,
    size INTEGER NOT NULL, mode INTEGER, uid INTEGER, gid INTEGER, modified_ns INTEGER, UNIQUE (stream, path));
CREATE TABLE counterfoil_residue (file_id INTEGER NOT NULL, id INTEGER NOT NULL, bytes BLOB NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY (file_id, id)) WITHOUT ROWID;
INSERT INTO counterfoil_position VALUES ('hq/payments', 1, 1, 0, 0, 0);
INSERT INTO counterfoil_files VALUES (7, 'hq/payments', CAST('/srv/cards.dat' AS BLOB), '/srv/cards.dat', 'payments',
    'fixed', 'plain', 100, NULL, 'cards_dat', NULL, 200, 416, 1, 2, NULL);
CREATE TABLE cards_dat (record_number INTEGER PRIMARY KEY, data BLOB NOT NULL, rest BLOB);
INSERT INTO cards_dat VALUES (1, x'61', NULL);
INSERT INTO counterfoil_residue VALUES (7, 2, x'62', 'deleted slot');
CREATE VIEW mine AS SELECT path_text, table_name FROM counterfoil_files;
PRAGMA application_id = 0x43464F4C; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
";

/// A database of the first version keeps all it has, and can be read before it is written to.
#[test]
fn a_database_of_version_1_is_brought_up() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let old = Connection::open(&config.path).expect("making it");
    old.execute_batch(VERSION_1).expect("filling it");
    drop(old);
    let expected = [(1, record("a")), (2, residue("b"))];
    let check = |sink: &mut SqliteSink| {
        assert_eq!(content(sink, "/srv/cards.dat"), expected);
        let stored = sink.files("hq/payments").expect("listing the files");
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].description, *file("/srv/cards.dat"));
        assert_eq!(stored[0].attributes.mode, Some(0o640));
        assert_eq!(stored[0].attributes.kind, None);
    };
    let mut reader = SqliteSink::open_read_only(&config).expect("reading version 1");
    check(&mut reader);
    drop(reader);
    let mut sink = SqliteSink::open(&config).expect("bringing it up");
    check(&mut sink);
    let entry = static_file("/srv/etc", "/srv/etc/a");
    sink.apply(&batch(2, [changes(&entry, [(0, record("x"))])]))
        .expect("applying");
    sink.apply(&batch(
        3,
        [changes(
            &static_file("/srv/etc", "/srv/etc/b"),
            [(0, record("y"))],
        )],
    ))
    .expect("applying");
    check_version(&config);
    let mut again = SqliteSink::open(&config).expect("opening again");
    assert_eq!(content(&mut again, "/srv/cards.dat"), expected);
    assert_eq!(content(&mut again, "/srv/etc/a"), [(0, record("x"))]);
}

fn check_version(config: &SqliteConfig) {
    let other = Connection::open(&config.path).expect("opening another connection");
    let (version, mine): (i32, i64) = other
        .query_row(
            "SELECT user_version, (SELECT count(*) FROM mine) FROM pragma_user_version",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("reading it");
    assert_eq!((version, mine), (SCHEMA_VERSION, 3));
}
