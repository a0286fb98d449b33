//! The contract, against a real server, and what only a server can do wrong.

use super::*;
use crate::contract::targets::{PostgresTarget, Room};
use crate::contract::{
    Faults, Harness, STREAM, Target, assert_permanent, batch, changes, content, file, record,
    residue, static_file,
};
use crate::sql::quoted;
use crate::{Attributes, FileChanges, FileDescription, FileFate, FileKind, Image};
use counterfoil_servers::Postgres;
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

struct PostgresHarness {
    target: PostgresTarget,
    is_patient: bool,
}

impl PostgresHarness {
    fn new() -> Self {
        PostgresHarness {
            target: PostgresTarget::new(),
            is_patient: false,
        }
    }

    fn config(&self) -> PostgresConfig {
        PostgresConfig {
            schema: Some(self.target.schema().to_owned()),
            lock_timeout_ms: if self.is_patient {
                60_000
            } else {
                LOCK_TIMEOUT_MS
            },
            ..PostgresConfig::new(self.target.url())
        }
    }
}

impl Harness for PostgresHarness {
    fn cannot(&self, case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => Room::cannot(),
            _ => None,
        }
    }

    fn fresh(&mut self) {
        self.target.fresh();
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(PostgresSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(PostgresSink::open_read_only(&self.config())?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(
            &file(path),
            [(1, record("fits")), (1 << 63, record("doesn't"))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let mut other = self.target.session();
        other
            .run("BEGIN; SELECT * FROM counterfoil_position FOR UPDATE")
            .expect("the position");
        Some(Box::new(other))
    }

    fn rows(&mut self, table: &str, columns: &[&str]) -> Option<Vec<Vec<Option<String>>>> {
        let values: Vec<String> = columns
            .iter()
            .map(|name| format!("{}::text", quoted(name)))
            .collect();
        let (values, table) = (values.join(", "), quoted(table));
        Some(self.json(&format!("SELECT to_json(ARRAY[{values}]) FROM {table}")))
    }

    fn columns(&mut self, table: &str) -> Option<Vec<String>> {
        let names = format!(
            "SELECT to_json(attname::text) FROM pg_attribute
             WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            quoted(table)
        );
        Some(self.json(&names))
    }

    fn forbid(&mut self, table: &str, column: &str, text: &str) -> bool {
        self.target.sql(&format!(
            "CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'that is forbidden'; END $$;
             CREATE TRIGGER forbid BEFORE INSERT OR UPDATE ON {} FOR EACH ROW WHEN (new.{} = '{text}')
                 EXECUTE FUNCTION forbid()",
            quoted(table),
            quoted(column)
        ));
        true
    }

    fn random_histories(&self) -> u32 {
        12
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.target.sql(&format!(
            "UPDATE \"{table}\" SET data = '\\x{hex}' WHERE record_number = {id}"
        ));
        true
    }
}

impl PostgresHarness {
    /// What a query shows in JSON, line by line.
    fn json<T: serde::de::DeserializeOwned>(&self, query: &str) -> Vec<T> {
        let shown = self.target.sql(query);
        let lines = shown.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

impl Faults for PostgresHarness {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.target
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

mod contract {
    crate::sink_contract!(super::PostgresHarness::new());
}

mod plans {
    crate::sink_plan_contract!(super::PostgresHarness::new());
}

mod faults {
    crate::sink_faults!(super::PostgresHarness::new());
}

fn assert_refused(error: &SinkError, says: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, SinkError::Refused { .. }), "{text}");
    for words in says {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

/// Runs SQL in the shared server.
fn sql(text: &str) -> String {
    shared().sql("postgres", text).expect(text)
}

fn lsn(sink: &mut dyn Sink) -> Option<u64> {
    let position = sink.position(STREAM).expect("reading the position");
    position.map(|position| position.lsn)
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
    let error = PostgresSink::open(&PostgresConfig {
        url: Some(server.url_at(server.socket_dir(), &role, "nowhere")),
        ..config
    })
    .err()
    .expect("there is no such database");
    assert_permanent(&error, &["nowhere", "create the database"]);
}

/// A constraint that somebody adds refuses rows, with the server's reason; without it, mirroring goes on.
#[test]
fn a_constraint_of_others_is_in_the_way() {
    let config = config_of(shared());
    let schema = config.schema.clone().unwrap_or_default();
    let mut sink = PostgresSink::open(&config).expect("opening");
    let cards = file("/srv/cards.dat");
    let next = |lsn: u64| batch(lsn, [changes(&cards, [(1, record(lsn.to_string()))])]);
    sink.apply(&next(1)).expect("applying");
    let alter = |what: &str| sql(&format!("ALTER TABLE \"{schema}\".cards_dat {what}"));
    alter("ADD CHECK (length(data) < 1) NOT VALID");
    let error = sink.apply(&next(2)).expect_err("no record is that short");
    assert_refused(&error, &["cards_dat", "23514"]);
    alter("DROP CONSTRAINT cards_dat_data_check");
    sink.apply(&next(2)).expect("put right");
    assert_eq!(content(&mut sink, "/srv/cards.dat"), [(1, record("2"))]);
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
