//! Columns as SQLite has them.

use super::*;
use crate::plan::Constant;

const CUSTOMER: &[(&str, &str)] = &[("id", "zoned(4)"), ("name", "text(8) utf-8")];

/// What a query gives, each value as SQLite names its type and shows it.
fn values(config: &SqliteConfig, sql: &str) -> Vec<String> {
    let other = Connection::open(&config.path).expect("opening another connection");
    let mut select = other.prepare(sql).expect(sql);
    let count = select.column_count();
    let rows = select.query_map([], |row| {
        let texts = (0..count).map(|at| {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(number) => format!("integer {number}"),
                ValueRef::Real(number) => format!("real {number}"),
                ValueRef::Text(text) => format!("text {}", String::from_utf8_lossy(text)),
                ValueRef::Blob(bytes) => format!("blob {}", Hex(bytes)),
            })
        });
        texts.collect::<rusqlite::Result<Vec<String>>>()
    });
    rows.expect(sql).flat_map(|row| row.expect(sql)).collect()
}

#[test]
fn each_kind_is_a_type_of_sqlites() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let fields = [
        ("small", "zoned(3)"),
        ("large", "zoned(20)"),
        ("exact", "zoned(5,2)"),
        ("float", "float64 big ieee"),
        ("single", "float32 big ieee"),
        ("bits", "raw(2)"),
        ("day", "text(8) as YYYYMMDD"),
        ("moment", "text(15) as YYYYMMDDHHMISSF"),
    ];
    let file = planned("/srv/values.dat", &fields, &PlanSpec::default());
    let mut data = b"0070000000000000000004212345".to_vec();
    data.extend(0.5_f64.to_be_bytes());
    data.extend(f32::NAN.to_be_bytes());
    data.extend(b"\x01\xff20260131202601312359595");
    sink.apply(&batch(1, [changes(&file, [(1, record(&data))])]))
        .expect("applying");
    assert_eq!(
        values(
            &config,
            "SELECT small, large, exact, \"float\", bits, day, moment, single, undecoded FROM values_dat"
        ),
        [
            "integer 7",
            "text 42",
            "text 123.45",
            "real 0.5",
            "blob 01ff",
            "text 2026-01-31",
            "text 2026-01-31 23:59:59.5",
            "NULL",
            "text single: SQLite has no NaN",
        ]
    );
    // SQLite's own functions take days and times as they are, and text that is a number as one.
    assert_eq!(
        values(
            &config,
            "SELECT date(day, '+1 day'), unixepoch(moment) - unixepoch(day), exact * 2, length(data) FROM values_dat"
        ),
        [
            "text 2026-02-01",
            "integer 86399",
            "real 246.9",
            &format!("integer {}", data.len())
        ]
    );
}

/// A whole number that becomes a decimal is text from then on, exactly, in rows without raw image as well.
#[test]
fn a_column_that_becomes_wider_loses_nothing() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let spec = PlanSpec {
        raw: false,
        ..PlanSpec::default()
    };
    let before = planned("/srv/x", &[("number", "zoned(18)")], &spec);
    let after = planned("/srv/x", &[("number", "zoned(30,2)")], &spec);
    let digits = "123456789012345678";
    sink.apply(&batch(1, [changes(&before, [(1, record(digits))])]))
        .expect("applying");
    let wide = format!("{digits}{}", "9".repeat(12));
    sink.apply(&batch(2, [changes(&after, [(2, record(&wide))])]))
        .expect("applying");
    assert_eq!(
        values(&config, "SELECT number FROM x ORDER BY record_number"),
        [format!("text {digits}"), format!("text {}.99", &wide[..28])]
    );
}

#[test]
fn more_columns_than_a_table_takes_are_refused() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let names: Vec<String> = (0..1500).map(|n| format!("c{n}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "raw(1)")).collect();
    let with = |constants: i64| {
        let constants = (0..constants).map(|n| (format!("k{n}"), Constant::Number(n)));
        let spec = PlanSpec {
            constants: constants.collect(),
            ..PlanSpec::default()
        };
        planned("/srv/wide", &fields, &spec)
    };
    let error = sink
        .apply(&batch(1, [changes(&with(497), [])]))
        .expect_err("too many columns");
    assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains("2001 columns"), "{error}");
    let record = record([7; 1500]);
    sink.apply(&batch(1, [changes(&with(496), [(1, record)])]))
        .expect("as many as it takes");
}

/// The schema of version 2, as it was, with a file in it.
const VERSION_2: &str = "
CREATE TABLE counterfoil_position (stream TEXT PRIMARY KEY NOT NULL, epoch INTEGER NOT NULL, lsn INTEGER NOT NULL,
    idx INTEGER NOT NULL, captured_ns INTEGER NOT NULL, applied_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counterfoil_residue (file_id INTEGER NOT NULL, id INTEGER NOT NULL, bytes BLOB NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY (file_id, id)) WITHOUT ROWID;
CREATE TABLE counterfoil_trees (tree_id INTEGER PRIMARY KEY, stream TEXT NOT NULL, root BLOB NOT NULL,
    root_text TEXT NOT NULL, table_name TEXT NOT NULL UNIQUE COLLATE NOCASE, table_configured TEXT,
    view_name TEXT NOT NULL, UNIQUE (stream, root));
CREATE TABLE counterfoil_files (file_id INTEGER PRIMARY KEY, stream TEXT NOT NULL, path BLOB NOT NULL,
    path_text TEXT NOT NULL, file_group TEXT NOT NULL, organization TEXT NOT NULL, layout TEXT NOT NULL,
    record_size INTEGER, varseq_format INTEGER, tree_id INTEGER REFERENCES counterfoil_trees,
    table_name TEXT NOT NULL COLLATE NOCASE, table_configured TEXT, kind TEXT, size INTEGER NOT NULL, mode INTEGER,
    uid INTEGER, gid INTEGER, modified_ns INTEGER, UNIQUE (stream, path));
CREATE UNIQUE INDEX counterfoil_files_table ON counterfoil_files (table_name) WHERE tree_id IS NULL;
CREATE INDEX counterfoil_files_tree ON counterfoil_files (tree_id) WHERE tree_id IS NOT NULL;
INSERT INTO counterfoil_position VALUES ('hq/payments', 1, 1, 0, 0, 0);
INSERT INTO counterfoil_files VALUES (7, 'hq/payments', CAST('/srv/cards.dat' AS BLOB), '/srv/cards.dat', 'payments',
    'fixed', 'plain', 100, NULL, NULL, 'cards_dat', NULL, NULL, 200, 416, 1, 2, NULL);
CREATE TABLE cards_dat (record_number INTEGER PRIMARY KEY, data BLOB NOT NULL, rest BLOB);
INSERT INTO cards_dat VALUES (1, CAST('0042Smith   ' AS BLOB), NULL);
INSERT INTO counterfoil_residue VALUES (7, 2, x'62', 'deleted slot');
PRAGMA application_id = 0x43464F4C; PRAGMA user_version = 2; PRAGMA journal_mode = WAL;
";

/// A database of the second version keeps all it has, can be read before it is written to, and gets columns.
#[test]
fn a_database_of_version_2_is_brought_up() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let old = Connection::open(&config.path).expect("making it");
    old.execute_batch(VERSION_2).expect("filling it");
    drop(old);
    let expected = [(1, record("0042Smith   ")), (2, residue("b"))];
    let mut reader = SqliteSink::open_read_only(&config).expect("reading version 2");
    assert_eq!(content(&mut reader, "/srv/cards.dat"), expected);
    drop(reader);
    let mut sink = SqliteSink::open(&config).expect("bringing it up");
    assert_eq!(content(&mut sink, "/srv/cards.dat"), expected);
    let cards = planned("/srv/cards.dat", CUSTOMER, &PlanSpec::default());
    sink.apply(&batch(2, [changes(&cards, [])]))
        .expect("applying");
    assert_eq!(content(&mut sink, "/srv/cards.dat"), expected);
    assert_eq!(
        values(&config, "SELECT id, name, undecoded FROM cards_dat"),
        ["integer 42", "text Smith", "NULL"]
    );
    assert_eq!(
        values(&config, "PRAGMA user_version"),
        [format!("integer {SCHEMA_VERSION}")]
    );
}
