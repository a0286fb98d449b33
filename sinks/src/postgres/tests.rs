//! The contract, against a real server, and what only a server can do wrong.

use super::*;
use crate::contract::{Harness, changes, file, record, residue, static_file};
use crate::{Attributes, FileChanges, FileDescription, FileFate, FileKind, Image, StoredPiece};
use counterfoil_proto::Position;
use counterfoil_servers::{Cut, Postgres, Proxy, wait_until};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How long a test's sink waits for a lock, in milliseconds.
const LOCK_TIMEOUT_MS: u64 = 100;

/// A name for a schema that nothing has in any server yet.
fn new_schema() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn config_of(server: &Postgres) -> PostgresConfig {
    PostgresConfig {
        schema: Some(new_schema()),
        lock_timeout_ms: LOCK_TIMEOUT_MS,
        ..PostgresConfig::new(server.url("postgres"))
    }
}

fn shared() -> &'static Postgres {
    Postgres::shared().expect("a PostgreSQL server")
}

/// A schema of its own in the server that all tests share.
struct PostgresHarness {
    config: PostgresConfig,
}

impl PostgresHarness {
    fn new() -> Self {
        PostgresHarness {
            config: config_of(shared()),
        }
    }

    fn schema(&self) -> &str {
        self.config.schema.as_deref().unwrap_or_default()
    }
}

impl Harness for PostgresHarness {
    fn fresh(&mut self) {
        sql(&format!(
            "SET client_min_messages = warning; DROP SCHEMA IF EXISTS \"{}\" CASCADE",
            self.schema()
        ));
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(PostgresSink::open(&self.config)?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(PostgresSink::open_read_only(&self.config)?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(
            &file(path),
            [(1, record("fits")), (1 << 63, record("doesn't"))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let lock = format!(
            "BEGIN; SELECT * FROM \"{}\".counterfoil_position FOR UPDATE",
            self.schema()
        );
        Some(Box::new(Other::with(&self.config, &lock)))
    }

    fn random_histories(&self) -> u32 {
        12
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        sql(&format!(
            "UPDATE \"{}\".\"{table}\" SET data = '\\x{hex}' WHERE record_number = {id}",
            self.schema()
        ));
        true
    }
}

impl Drop for PostgresHarness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.fresh();
        }
    }
}

mod contract {
    crate::sink_contract!(super::PostgresHarness::new());
}

/// Runs SQL in the shared server.
fn sql(text: &str) -> String {
    shared().sql("postgres", text).expect(text)
}

/// A connection of somebody else's.
struct Other {
    session: Session,
    runtime: Runtime,
}

impl Other {
    /// Connects and runs SQL; what that took stays taken until it is dropped.
    fn with(config: &PostgresConfig, text: &str) -> Other {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let session = runtime
            .block_on(Session::connect(config))
            .expect("connecting");
        let mut other = Other { session, runtime };
        other.run(text).expect(text);
        other
    }

    fn run(&mut self, text: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.session.run(text))
    }
}

const STREAM: &str = "hq/payments";

fn batch(lsn: u64, files: impl IntoIterator<Item = FileChanges>) -> Batch {
    Batch {
        stream: STREAM.into(),
        after: None,
        position: Position {
            epoch: 1,
            lsn,
            index: 0,
        },
        captured_ns: 0,
        files: files.into_iter().collect(),
    }
}

fn content(sink: &mut dyn Sink, path: &str) -> Vec<(u64, Image)> {
    let mut pieces = Vec::new();
    let mut each = |StoredPiece { id, image }| {
        pieces.push((id, image));
        true
    };
    sink.pieces(STREAM, path.as_bytes(), &mut each)
        .expect("reading pieces");
    pieces
}

fn lsn(sink: &mut dyn Sink) -> Option<u64> {
    let position = sink.position(STREAM).expect("reading the position");
    position.map(|position| position.lsn)
}

/// Whatever happens to the server, a retry gets there in the end.
fn apply_with_retries(sink: &mut dyn Sink, batch: &Batch) {
    wait_until("the batch to be applied", || match sink.apply(batch) {
        Ok(()) => Ok(()),
        Err(error) if error.is_transient() => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    })
    .expect("applying");
}

fn assert_permanent(error: &SinkError, says: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, SinkError::Permanent { .. }), "{text}");
    for words in says {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

fn assert_refused(error: &SinkError, says: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, SinkError::Refused { .. }), "{text}");
    for words in says {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

/// The server dies in the middle of a batch: it is tried again when the server is back, and nothing of it was there before.
#[test]
fn a_server_is_killed_in_mid_batch() {
    let server = Postgres::start("").expect("a PostgreSQL server");
    let config = config_of(&server);
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    let images = |text: &'static str| (1..200).map(move |id| (id, record(format!("{text} {id}"))));
    sink.apply(&batch(1, [changes(&cards, images("first"))]))
        .expect("applying");
    // The batch gets as far as a row that somebody else has, and waits.
    let table = format!("\"{}\".cards_dat", config.schema.as_deref().unwrap_or(""));
    let blocker = Other::with(
        &config,
        &format!("BEGIN; UPDATE {table} SET data = data WHERE record_number = 150"),
    );
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        "INSERT INTO"
    );
    let second = batch(2, [changes(&cards, images("second"))]);
    let patient = PostgresConfig {
        lock_timeout_ms: 0,
        ..config.clone()
    };
    let mut sink = PostgresSink::open(&patient).expect("opening");
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| sink.apply(&second).expect_err("the server is killed"));
        wait_until("the batch to wait", || {
            let count = server
                .sql("postgres", &waiting)
                .map_err(|e| e.to_string())?;
            (count.trim() == "1").then_some(()).ok_or(count)
        })
        .expect("the batch waits");
        server.kill().expect("killing the server");
        let error = applying.join().expect("it didn't panic");
        assert!(error.is_transient(), "{error}");
    });
    let error = sink.apply(&second).expect_err("the server is away");
    assert!(error.is_transient(), "{error}");
    drop(blocker);
    server.raise().expect("starting it again");
    let mut reader = PostgresSink::open_read_only(&config).expect("opening to read");
    assert_eq!(lsn(&mut reader), Some(1));
    assert_eq!(
        content(&mut reader, "/srv/cards.dat"),
        images("first").collect::<Vec<_>>()
    );
    apply_with_retries(&mut sink, &second);
    assert_eq!(lsn(&mut sink), Some(2));
    assert_eq!(
        content(&mut sink, "/srv/cards.dat"),
        images("second").collect::<Vec<_>>()
    );
}

/// A connection that breaks at the commit leaves it open whether the batch was applied. The position tells.
#[test]
fn a_connection_is_cut_at_the_commit() {
    let server = shared();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(format!(".s.PGSQL.{}", server.port()));
    let proxy = Proxy::start(&path, &server.socket()).expect("a proxy");
    let config = PostgresConfig {
        url: Some(server.url_at(directory.path(), "postgres", "postgres")),
        ..config_of(server)
    };
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    let mut expected = 0;
    let commit = b"COMMIT\0".to_vec();
    for (turn, cut) in [
        Cut::Request(commit.clone()),
        Cut::Answer(commit.clone()),
        Cut::Request(commit.clone()),
        Cut::Answer(commit),
    ]
    .into_iter()
    .enumerate()
    {
        let number = turn as u64 + 1;
        let is_applied = matches!(cut, Cut::Answer(_));
        // Rows, residue, and a table that is only made with the batch: all of it is remembered wrongly if it isn't forgotten.
        let next = batch(
            number,
            [
                changes(&cards, [(number, record("x")), (99, residue("y"))]),
                changes(&file(format!("/srv/{number}")), [(1, record("z"))]),
            ],
        );
        proxy.cut(cut);
        let error = sink.apply(&next).expect_err("the connection was cut");
        assert!(error.is_transient(), "{error}");
        assert!(!proxy.is_armed());
        let found = wait_until("the server to be done", || {
            match sink.position(STREAM) {
                Ok(position) => {
                    let lsn = position.map_or(0, |position| position.lsn);
                    // The server may be at it still when the connection is there again.
                    let done = lsn == if is_applied { number } else { expected };
                    done.then_some(lsn).ok_or_else(|| lsn.to_string())
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .expect("the position tells");
        if found < number {
            apply_with_retries(&mut sink, &next);
        }
        expected = number;
        assert_eq!(lsn(&mut sink), Some(number));
        let records = content(&mut sink, "/srv/cards.dat");
        assert_eq!(records.len() as u64, number + 1, "{records:?}");
        assert_eq!(
            sink.files(STREAM).expect("listing").len() as u64,
            number + 1
        );
    }
}

/// Two sessions that wait for each other: the server picks one, which is tried again.
#[test]
fn a_deadlock_is_tried_again() {
    let mut config = config_of(shared());
    config.lock_timeout_ms = 0;
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let (a, b) = (file("/srv/a"), file("/srv/b"));
    let both = |lsn: u64| {
        let image = record(lsn.to_string());
        batch(
            lsn,
            [changes(&a, [(1, image.clone())]), changes(&b, [(1, image)])],
        )
    };
    sink.apply(&both(1)).expect("applying");
    // Somebody has b, and wants a; a batch has a, and wants b.
    let mut other = Other::with(
        &config,
        &format!("SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE \"{schema}\".b"),
    );
    sql("SELECT 1");
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\"{schema}\".b'::regclass"
    );
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| sink.apply(&both(2)).expect_err("a deadlock"));
        wait_until("the batch to wait", || {
            let count = sql(&waiting);
            (count.trim() == "1").then_some(()).ok_or(count)
        })
        .expect("the batch waits");
        other
            .run(&format!("LOCK TABLE \"{schema}\".a"))
            .expect("the batch is the one that gives way");
        let error = applying.join().expect("it didn't panic");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("40P01"), "{error}");
    });
    drop(other);
    apply_with_retries(&mut sink, &both(2));
    assert_eq!(content(&mut sink, "/srv/b"), [(1, record("2"))]);
}

/// What the user may not do is said with what to do about it, and works once it was done.
#[test]
fn a_lack_of_permissions_is_explained() {
    let schema = new_schema();
    let role = format!("mirror{}", schema.replace(' ', ""));
    sql(&format!("CREATE ROLE {role} LOGIN"));
    let server = shared();
    let url = server.url_at(server.socket_dir(), &role, "postgres");
    let config = PostgresConfig {
        schema: Some(schema.clone()),
        ..PostgresConfig::new(url)
    };
    let open = || PostgresSink::open(&config);
    let Err(error) = open() else {
        panic!("it may make no schema")
    };
    assert_permanent(&error, &["42501", &schema, "OWNER TO"]);
    let reached = PostgresSink::probe(&config).expect("looking at it");
    assert_eq!(reached.missing.len(), 1, "{reached:?}");
    // What is proposed is what mends it.
    sql(&reached.missing[0].1);
    let mut sink = open().expect("it may now");
    assert_eq!(PostgresSink::probe(&config).expect("looking").missing, []);
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(1, [changes(&cards, [(1, record("x"))])]))
        .expect("applying");
    sql(&format!(
        "ALTER TABLE \"{schema}\".cards_dat OWNER TO postgres"
    ));
    let next = batch(2, [changes(&cards, [(1, record("y"))])]);
    let error = sink.apply(&next).expect_err("it may not write there");
    assert_permanent(&error, &["/srv/cards.dat (table cards_dat)", "permission"]);
    sql(&format!("GRANT ALL ON \"{schema}\".cards_dat TO {role}"));
    sink.apply(&next).expect("applying");
    let error = PostgresSink::open(&PostgresConfig {
        url: Some(server.url_at(server.socket_dir(), &role, "nowhere")),
        ..config
    })
    .err()
    .expect("there is no such database");
    assert_permanent(&error, &["nowhere", "create the database"]);
}

/// A table that somebody changes or drops is an error that names it; put right, mirroring goes on.
#[test]
fn a_schema_changes_underneath() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    let next = |lsn: u64| batch(lsn, [changes(&cards, [(1, record(lsn.to_string()))])]);
    sink.apply(&next(1)).expect("applying");
    for (change, says, back) in [
        (
            "RENAME COLUMN data TO daten",
            "42703",
            "RENAME COLUMN daten TO data",
        ),
        (
            "ALTER COLUMN data TYPE text USING encode(data, 'hex')",
            "column data is text, not bytea",
            "ALTER COLUMN data TYPE bytea USING decode(data, 'hex')",
        ),
        ("RENAME TO elsewhere", "42P01", ""),
        (
            "ADD CHECK (length(data) < 1) NOT VALID",
            "23514",
            "DROP CONSTRAINT cards_dat_data_check",
        ),
    ] {
        sql(&format!("ALTER TABLE \"{schema}\".cards_dat {change}"));
        // Begun anew, as what others do in the middle is only found out where PostgreSQL minds.
        sink = PostgresSink::open(&config).expect("opening");
        let position = lsn(&mut sink).expect("applied");
        let error = sink.apply(&next(position + 1)).expect_err(change);
        if says == "23514" {
            assert_refused(&error, &["cards_dat", says]);
        } else {
            assert_permanent(&error, &["cards_dat", says]);
        }
        let back = match back {
            "" => format!("ALTER TABLE \"{schema}\".elsewhere RENAME TO cards_dat"),
            back => format!("ALTER TABLE \"{schema}\".cards_dat {back}"),
        };
        sql(&back);
        sink.apply(&next(position + 1)).expect("put right");
    }
    assert_eq!(content(&mut sink, "/srv/cards.dat"), [(1, record("5"))]);
}

/// A table that the DBA made, partitioned and with columns of its own, is used; a wrong one is explained.
#[test]
fn tables_that_others_made_are_used() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let in_schema = |text: &str| sql(&format!("SET search_path = \"{schema}\"; {text}"));
    let named = |path: &str, table: &str| {
        Arc::new(FileDescription {
            table: Some(table.into()),
            ..(*file(path)).clone()
        })
    };
    in_schema(
        "CREATE TABLE cards (record_number bigint PRIMARY KEY, data bytea NOT NULL, rest bytea,
             seen timestamptz DEFAULT now()) PARTITION BY RANGE (record_number);
         CREATE TABLE cards_low PARTITION OF cards FOR VALUES FROM (0) TO (100);
         CREATE TABLE cards_high PARTITION OF cards FOR VALUES FROM (100) TO (1000);
         CREATE TABLE wrong (record_number integer, data text, extra integer NOT NULL);
         CREATE TABLE full_one (record_number bigint PRIMARY KEY, data bytea NOT NULL, rest bytea);
         INSERT INTO full_one VALUES (1, 'theirs')",
    );
    let cards = named("/srv/cards.dat", "cards");
    let images = (1..300).map(|id| (id, record(id.to_string())));
    sink.apply(&batch(1, [changes(&cards, images)]))
        .expect("applying");
    sink.apply(&batch(
        2,
        [changes(&cards, [(7, record("seven")), (8, Image::Absent)])],
    ))
    .expect("applying");
    assert_eq!(
        in_schema("SELECT count(*), count(seen) FROM cards_high").trim(),
        "200|200"
    );
    assert_eq!(content(&mut sink, "/srv/cards.dat").len(), 298);
    let error = sink
        .apply(&batch(3, [changes(&cards, [(1000, record("x"))])]))
        .expect_err("there is no partition");
    assert_refused(&error, &["23514", "partition"]);
    for (table, says) in [
        (
            "wrong",
            &[
                "column record_number is integer, not bigint",
                "column data is text, not bytea",
                "column rest is missing",
                "column extra is NOT NULL without a default",
            ][..],
        ),
        ("full_one", &["there are rows in it"]),
    ] {
        let error = sink
            .apply(&batch(3, [changes(&named("/srv/x", table), [])]))
            .expect_err(table);
        assert_permanent(&error, says);
    }
    // A file that goes leaves the table there, empty, and one that comes again finds it.
    let gone = FileChanges {
        fate: FileFate::Removed,
        ..changes(&cards, [])
    };
    sink.apply(&batch(3, [gone])).expect("removing");
    assert_eq!(in_schema("SELECT count(*) FROM cards").trim(), "0");
    sink.apply(&batch(4, [changes(&cards, [(1, record("again"))])]))
        .expect("applying");
    assert_eq!(in_schema("SELECT count(*) FROM cards_low").trim(), "1");
    let table = &sink.files(STREAM).expect("listing")[0].table;
    assert_eq!(table, "cards");
}

/// Views, names and types of the people who use the database stay theirs.
#[test]
fn what_others_made_is_left_alone() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let in_schema = |text: &str| sql(&format!("SET search_path = \"{schema}\"; {text}"));
    let (cards, log) = (file("/srv/cards.dat"), file("/srv/log"));
    sink.apply(&batch(
        1,
        [changes(&cards, [(1, record("x"))]), changes(&log, [])],
    ))
    .expect("applying");
    in_schema(
        "CREATE VIEW rates AS SELECT * FROM log; CREATE TABLE new_dat (x int); CREATE INDEX idx ON cards_dat (data);
         CREATE TYPE mood AS ENUM ('good'); CREATE VIEW mine AS SELECT * FROM cards_dat",
    );
    let names = ["rates", "new.dat", "idx", "mood", "log_pkey"];
    let files: Vec<_> = names
        .iter()
        .map(|name| changes(&file(format!("/srv/{name}")), []))
        .collect();
    sink.apply(&batch(2, files)).expect("applying");
    let tables = |sink: &mut PostgresSink| -> Vec<String> {
        let files = sink.files(STREAM).expect("listing");
        files.into_iter().map(|file| file.table).collect()
    };
    assert_eq!(
        tables(&mut sink),
        [
            "cards_dat",
            "idx_2",
            "log",
            "log_pkey",
            "mood_2",
            "new_dat_2",
            "rates_2"
        ]
    );
    // A view needs its table, so that stays when its file goes, empty, and is there for the next one of that name.
    let gone = FileChanges {
        fate: FileFate::Removed,
        ..changes(&cards, [])
    };
    sink.apply(&batch(3, [gone.clone()])).expect("removing");
    assert_eq!(in_schema("SELECT count(*) FROM mine").trim(), "0");
    sink.apply(&batch(4, [changes(&cards, [(1, record("new"))])]))
        .expect("applying");
    assert_eq!(in_schema("SELECT count(*) FROM mine").trim(), "1");
    sink.apply(&batch(5, [gone, changes(&cards, [(2, record("newer"))])]))
        .expect("both in one batch");
    assert_eq!(in_schema("SELECT record_number FROM mine").trim(), "2");
}

/// A row that somebody put beyond the end is found out, and written over like any other.
#[test]
fn a_row_in_the_way_of_a_copy_is_written_over() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(1, [changes(&cards, [(1, record("x"))])]))
        .expect("applying");
    sql(&format!(
        "INSERT INTO \"{schema}\".cards_dat VALUES (50, 'stray')"
    ));
    let next = batch(2, [changes(&cards, (2..200).map(|id| (id, record("y"))))]);
    sink.apply(&next).expect("looked at anew");
    assert_eq!(content(&mut sink, "/srv/cards.dat").len(), 199);
}

/// A full disk is worth trying again, leaves nothing behind, and holds nothing up once there is room.
#[test]
fn a_full_disk_is_waited_for() {
    // As root, it is a small file system; PostgreSQL says the same where a disk is full.
    let server = Postgres::start("").expect("a PostgreSQL server");
    let room = server.socket_dir().join("room");
    std::fs::create_dir(&room).expect("a directory");
    let mount = |arguments: &[&str]| {
        std::process::Command::new("mount")
            .args(arguments)
            .arg(&room)
            .status()
            .is_ok_and(|status| status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs"]) {
        println!("only root can make a small file system to fill: docs/sinks.md");
        return;
    }
    let _unmount = Unmount(room.clone());
    server.user().own(&room).expect("the server's");
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", room.display());
    server.sql("postgres", &tablespace).expect("a tablespace");
    server
        .sql("postgres", "CREATE DATABASE x")
        .expect("a database");
    server
        .sql(
            "postgres",
            "ALTER ROLE postgres SET default_tablespace = small",
        )
        .expect("all new tables go there");
    let config = PostgresConfig::new(server.url("x"));
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(
        1,
        [changes(&cards, [(1, record("kept")), (2, residue("kept"))])],
    ))
    .expect("applying");
    let before = content(&mut sink, "/srv/cards.dat");
    let large = batch(
        2,
        [changes(&cards, (1..4000).map(|id| (id, record([7; 1000]))))],
    );
    for _ in 0..2 {
        let error = sink.apply(&large).expect_err("there is no room");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("53100"), "{error}");
        assert_eq!(content(&mut sink, "/srv/cards.dat"), before);
        assert_eq!(lsn(&mut sink), Some(1));
    }
    assert!(mount(&["-o", "remount,size=64m"]), "more room");
    sink.apply(&large).expect("applying with more room");
    assert_eq!(content(&mut sink, "/srv/cards.dat").len(), 3999);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}

/// TLS with the server that is meant, by password; and what goes wrong without showing the password.
#[test]
fn connections_are_encrypted_and_servers_known() {
    let server = Postgres::start_with_tls("").expect("a PostgreSQL server");
    server
        .sql("postgres", "CREATE ROLE mirror LOGIN PASSWORD 'geheim 17'")
        .expect("a role");
    server
        .sql("postgres", "CREATE DATABASE pay OWNER mirror")
        .expect("a database");
    let secret = server.socket_dir().join("secret");
    std::fs::write(&secret, "geheim 17\n").expect("writing");
    let with = |host: &str, sslmode| PostgresConfig {
        password_file: Some(secret.clone()),
        sslmode,
        schema: Some("pay".into()),
        ca_file: Some(server.ca_file()),
        ..PostgresConfig::new(server.url_tcp(host, "mirror", "pay"))
    };
    for (host, sslmode) in [
        ("localhost", SslMode::VerifyFull),
        ("127.0.0.1", SslMode::VerifyCa),
        ("127.0.0.1", SslMode::Require),
    ] {
        let mut sink = PostgresSink::open(&with(host, Some(sslmode))).expect(host);
        assert_eq!(lsn(&mut sink), None);
    }
    let without_ca = PostgresConfig {
        ca_file: None,
        ..with("localhost", Some(SslMode::VerifyFull))
    };
    let other_password = server.socket_dir().join("other");
    std::fs::write(&other_password, "geheim 18\n").expect("writing");
    let wrong_password = PostgresConfig {
        password_file: Some(other_password),
        ..with("localhost", Some(SslMode::VerifyFull))
    };
    for (config, says) in [
        (with("127.0.0.1", Some(SslMode::VerifyFull)), "ca_file"),
        (without_ca, "ca_file"),
        (wrong_password, "28P01"),
        (with("localhost", Some(SslMode::Disable)), "28000"),
    ] {
        let error = PostgresSink::open(&config).err().expect(says);
        assert_permanent(&error, &[says]);
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
}

/// The whole of a service, and what a URL adds to it.
#[test]
fn a_url_goes_before_a_service() {
    let config = PostgresConfig::new("postgres://h/x");
    assert_eq!(config.place(), "in PostgreSQL database x on h");
    let nobody = PostgresConfig {
        url: None,
        service: Some("no such service".into()),
        ..config
    };
    let error = PostgresSink::open(&nobody).err().expect("there is none");
    assert_permanent(&error, &["no such service", "pg_service.conf"]);
}

/// Reading only makes nothing, and numbers that don't fit are refused, not wrapped.
#[test]
fn reading_makes_nothing_and_numbers_have_limits() {
    let config = config_of(shared());
    let Err(error) = PostgresSink::open_read_only(&config) else {
        panic!("nothing is there")
    };
    assert_permanent(&error, &["mirrored into this sink yet"]);
    assert!(!PostgresSink::probe(&config).expect("looking").has_tables);
    let mut sink = PostgresSink::open(&config).expect("opening");
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
    for id in [max + 1, u64::MAX] {
        for image in [record("x"), residue("x"), Image::Absent] {
            let error = sink
                .apply(&batch(2, [changes(&cards, [(id, image)])]))
                .expect_err("it doesn't fit");
            assert_permanent(&error, &[&id.to_string()]);
        }
    }
    let mut reader = PostgresSink::open_read_only(&config).expect("opening to read");
    assert_eq!(content(&mut reader, "/srv/cards.dat").len(), 2);
    let error = reader.apply(&batch(2, [])).expect_err("for reading only");
    assert_permanent(&error, &["reading only"]);
}

/// A tree's view shows files as people expect to see them.
#[test]
fn a_view_shows_what_is_in_a_tree() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let entry = |name: &str, kind, size, images: Vec<(u64, Image)>| FileChanges {
        attributes: Attributes {
            size,
            kind: Some(kind),
            mode: Some(0o2750),
            ..Attributes::default()
        },
        ..changes(&static_file("/srv/etc", format!("/srv/etc/{name}")), images)
    };
    sink.apply(&batch(
        1,
        [
            entry("a.conf", FileKind::Regular, 3, vec![(0, record("x=1"))]),
            entry("empty", FileKind::Regular, 0, vec![]),
            entry("dir", FileKind::Directory, 0, vec![]),
            entry("zeros", FileKind::Regular, 3, vec![]),
        ],
    ))
    .expect("applying");
    let shown = sql(&format!(
        "SELECT path_text, kind, mode, size, coalesce(encode(content, 'hex'), '-') FROM \"{schema}\".etc_files ORDER BY 1"
    ));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines,
        [
            "/srv/etc/a.conf|file|2750|3|783d31",
            "/srv/etc/dir|directory|2750|0|-",
            "/srv/etc/empty|file|2750|0|",
            "/srv/etc/zeros|file|2750|3|000000",
        ]
    );
}

/// Every query of `docs/postgresql.md` works, and every column is documented there or in `docs/sinks.md`.
#[test]
fn the_documented_queries_work() {
    const PAGE: &str = include_str!("../../../docs/postgresql.md");
    const COMMON: &str = include_str!("../../../docs/sinks.md");
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let images = [
        (5, record("4000001200000007000001500")),
        (6, residue("4000")),
    ];
    sink.apply(&batch(1, [changes(&file("/srv/pay/cards.dat"), images)]))
        .expect("applying");
    let in_schema = |text: &str| sql(&format!("SET search_path = \"{schema}\"; {text}"));
    let queries: Vec<_> = PAGE
        .split("```sql\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .collect();
    assert!(queries.len() >= 4, "{queries:?}");
    for query in queries {
        let rows = in_schema(query);
        assert!(
            !rows.is_empty() || query.starts_with("CREATE"),
            "no rows: {query}"
        );
    }
    let columns = sql(&format!(
        "SELECT column_name FROM information_schema.columns
         WHERE table_schema = '{schema}' AND table_name LIKE 'counterfoil_%'"
    ));
    for column in columns.lines() {
        let documented = format!("`{column}`");
        assert!(
            PAGE.contains(&documented) || COMMON.contains(&documented),
            "{column} is not documented"
        );
    }
}
