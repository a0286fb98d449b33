//! The contract against a real server, and what only MySQL and MariaDB can do wrong.

use super::*;
use crate::contract::targets::MariadbTarget;
use crate::contract::{
    Faults, Harness, STREAM, Target, assert_permanent, batch, changes, content, file, record,
    residue, static_file,
};
use crate::{Attributes, FileChanges, FileFate, FileKind, Image};
use counterfoil_servers::{Cut, Mariadb};
use std::any::Any;
use std::ops::Range;
use std::path::Path;

fn server() -> &'static Mariadb {
    Mariadb::shared().expect("a MariaDB server")
}

/// A configuration for a database of this server, through a socket.
fn config(socket: &Path, database: &str) -> MysqlConfig {
    MysqlConfig {
        socket: Some(socket.to_owned()),
        lock_wait_timeout_s: 1,
        ..MysqlConfig::new(format!("mysql://root@localhost/{database}")).expect("a good URL")
    }
}

struct MysqlHarness {
    target: MariadbTarget,
    load_data: bool,
    is_patient: bool,
}

impl MysqlHarness {
    /// An empty database of its own, on the server that the tests share.
    fn new(load_data: bool) -> Self {
        let target = MariadbTarget::new();
        target.fresh();
        MysqlHarness {
            target,
            load_data,
            is_patient: false,
        }
    }

    /// Through a way of its own that can be cut, as a user who may do there what a sink does.
    fn config(&self) -> MysqlConfig {
        let name = self.target.database();
        MysqlConfig {
            socket: Some(self.target.socket()),
            load_data: self.load_data,
            lock_wait_timeout_s: if self.is_patient { 60 } else { 1 },
            ..MysqlConfig::new(format!("mysql://{name}@localhost/{name}")).expect("a good URL")
        }
    }

    fn sql(&self, sql: &str) -> String {
        self.target.sql(sql)
    }
}

impl Harness for MysqlHarness {
    fn fresh(&mut self) {
        self.target.fresh();
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open_read_only(&self.config())?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        // The server takes packets of 16 MiB.
        Some(changes(
            &file(path),
            [(1, record("fits")), (2, record(vec![b'x'; 17 << 20]))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let mut other = self.target.session();
        other
            .run("BEGIN; SELECT * FROM counterfoil_position FOR UPDATE")
            .expect("the position");
        Some(Box::new(other))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        // Through the view, as people would.
        self.sql(&format!(
            "UPDATE {} SET data = x'{hex}' WHERE record_number = {id}",
            schema::quoted(table)
        ));
        true
    }

    fn random_histories(&self) -> u32 {
        10
    }
}

impl Faults for MysqlHarness {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.target
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

mod contract {
    crate::sink_contract!(super::MysqlHarness::new(true));
}

mod plans {
    crate::sink_plan_contract!(crate::mysql::plan_tests::Database::new(true));
}

mod faults {
    crate::sink_faults!(super::MysqlHarness::new(true));
}

/// What goes in without `LOAD DATA` is the same.
mod statements {
    use super::*;
    use crate::contract;

    #[test]
    fn the_contract_holds_without_loading() {
        for case in [contract::keeps_every_byte, contract::keeps_many_residues] {
            case(&mut MysqlHarness::new(false));
        }
    }
}

fn open(config: &MysqlConfig) -> MysqlSink {
    MysqlSink::open(config).expect("opening")
}

/// The table with the rows of a file.
fn rows_of(harness: &MysqlHarness, path: &str) -> String {
    let number = harness.sql(&format!(
        "SELECT rows_table FROM counterfoil_files WHERE path_text = '{path}'"
    ));
    format!("counterfoil_rows_{}", number.trim())
}

/// Records that are hard on a text format, so many that they are loaded.
fn awkward(range: Range<u64>) -> Vec<(u64, Image)> {
    range
        .map(|id| {
            let seed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let data = (0..(seed % 90))
                .map(|n| (seed >> (n % 56)) as u8 ^ n as u8)
                .chain(*b"\\\t\n\0\\N\\.")
                .take((seed % 95) as usize)
                .collect();
            let rest = match id % 3 {
                0 => Vec::new(),
                1 => b"\n".to_vec(),
                _ => seed.to_be_bytes().to_vec(),
            };
            (id, Image::Record { data, rest })
        })
        .collect()
}

#[test]
fn what_is_loaded_and_what_is_inserted_is_what_was_written() {
    for load_data in [true, false] {
        let harness = MysqlHarness::new(load_data);
        let mut sink = open(&harness.config());
        let cards = file("/srv/cards.dat");
        let mut expected = awkward(1..3000);
        sink.apply(&batch(1, [changes(&cards, expected.clone())]))
            .expect("new rows");
        assert_eq!(content(&mut sink, "/srv/cards.dat"), expected);
        // Half of them changed, and as many new ones.
        let mut later = awkward(1500..4500);
        later.iter_mut().for_each(|(_, image)| {
            if let Image::Record { data, .. } = image {
                data.push(b'!');
            }
        });
        sink.apply(&batch(2, [changes(&cards, later.clone())]))
            .expect("changed rows");
        expected.truncate(1499);
        expected.extend(later);
        assert_eq!(content(&mut sink, "/srv/cards.dat"), expected);
        // Larger than one load, and than one packet of the client's.
        let log = static_file("/srv/etc", "/srv/etc/log");
        let blocks: Vec<_> = (0..70)
            .map(|n| (n, record(vec![n as u8; 262_144])))
            .collect();
        sink.apply(&batch(3, [changes(&log, blocks.clone())]))
            .expect("blocks");
        assert!(content(&mut sink, "/srv/etc/log") == blocks);
    }
}

/// A unique index that somebody added is met by rows that aren't the ones written. `REPLACE` would delete those, and
/// `ON DUPLICATE KEY UPDATE` alone would change them.
#[test]
fn a_row_met_by_another_index_is_never_overwritten() {
    for load_data in [true, false] {
        let harness = MysqlHarness::new(load_data);
        let mut sink = open(&harness.config());
        let cards = file("/srv/cards.dat");
        let rows: Vec<_> = (1..=200)
            .map(|id| (id, record(format!("card {id}"))))
            .collect();
        sink.apply(&batch(1, [changes(&cards, rows.clone())]))
            .expect("rows");
        let table = rows_of(&harness, "/srv/cards.dat");
        harness.sql(&format!(
            "ALTER TABLE {table} ADD UNIQUE INDEX by_card (data(40))"
        ));
        let many = (1001..1200).map(|id| (id, record(format!("card {}", id - 1000))));
        for (what, images) in [
            ("a new row", vec![(500, record("card 7"))]),
            ("a changed row", vec![(8, record("card 7"))]),
            ("many new rows", many.collect()),
        ] {
            let error = sink
                .apply(&batch(2, [changes(&cards, images)]))
                .expect_err(what);
            let text = error.to_string();
            assert!(matches!(error, SinkError::Refused { .. }), "{text}");
            assert!(
                text.contains("by_card")
                    && text.contains("/srv/cards.dat")
                    && !text.contains("card 7"),
                "{what}: {text}"
            );
            assert_eq!(content(&mut sink, "/srv/cards.dat"), rows, "{what}");
        }
        // What doesn't collide goes on.
        sink.apply(&batch(
            2,
            [changes(
                &cards,
                [(7, record("card VII")), (201, record("card 201"))],
            )],
        ))
        .expect("rows that don't collide");
        assert_eq!(content(&mut sink, "/srv/cards.dat").len(), 201);
    }
}

/// A column that somebody added keeps what is in it when the record changes.
#[test]
fn columns_of_others_are_kept() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&harness.config());
    let cards = file("/srv/cards.dat");
    let rows = |text: &str| -> Vec<_> { (1..=100).map(|id| (id, record(text))).collect() };
    sink.apply(&batch(1, [changes(&cards, rows("one"))]))
        .expect("rows");
    let table = rows_of(&harness, "/srv/cards.dat");
    harness.sql(&format!(
        "ALTER TABLE {table} ADD COLUMN note VARCHAR(20) DEFAULT 'none'; UPDATE {table} SET note = 'mine' WHERE id = 5"
    ));
    sink.apply(&batch(2, [changes(&cards, rows("two"))]))
        .expect("changed rows");
    let notes = harness.sql(&format!(
        "SELECT note, COUNT(*) FROM {table} WHERE data = 'two' GROUP BY note ORDER BY note"
    ));
    assert_eq!(notes, "mine\t1\nnone\t99\n");
}

#[test]
fn views_show_the_files_that_have_their_names() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&harness.config());
    let [log, old] = ["/var/app.log", "/var/app.log.1"].map(file);
    let views = |harness: &MysqlHarness| {
        harness.sql("SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE() ORDER BY 1")
    };
    let tables = |harness: &MysqlHarness| {
        harness.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'counterfoil\\_rows%'")
    };
    sink.apply(&batch(1, [changes(&log, [(1, record("first"))])]))
        .expect("a file");
    assert_eq!(
        harness.sql("SELECT record_number, data FROM app_log"),
        "1\tfirst\n"
    );
    let rotated = FileChanges {
        renamed_from: Some(log.path.clone()),
        ..changes(&old, [])
    };
    sink.apply(&batch(
        2,
        [rotated.clone(), changes(&log, [(1, record("second"))])],
    ))
    .expect("a rotation");
    assert_eq!(harness.sql("SELECT data FROM app_log"), "second\n");
    assert_eq!(harness.sql("SELECT data FROM app_log_1"), "first\n");
    // What the new name named is gone: its table is dropped, but not as long as somebody reads who has seen it.
    let mut reader = MysqlSink::open_read_only(&harness.config()).expect("a reader");
    let mut snapshot = reader.snapshot().expect("a snapshot");
    sink.apply(&batch(3, [rotated, changes(&log, [(1, record("third"))])]))
        .expect("another rotation");
    assert_eq!(harness.sql("SELECT data FROM app_log_1"), "second\n");
    let mut seen = Vec::new();
    snapshot
        .pieces(STREAM, &old.path, &mut |piece| {
            seen.push(piece.image);
            true
        })
        .expect("reading what is gone");
    assert_eq!(seen, [record("first")]);
    drop(snapshot);
    assert_eq!(tables(&harness), "3\n");
    drop(sink);
    let mut sink = open(&harness.config());
    assert_eq!(tables(&harness), "2\n");
    // A crash between the batch and its views: they are stale, and made with the next start.
    drop(sink);
    harness.sql("DROP VIEW app_log; CREATE VIEW leftover AS SELECT 1; UPDATE counterfoil_views SET stale = 1; INSERT INTO counterfoil_views VALUES ('leftover', 1)");
    sink = open(&harness.config());
    assert_eq!(views(&harness), "app_log\napp_log_1\n");
    let gone = |file| FileChanges {
        fate: FileFate::Removed,
        ..changes(file, [])
    };
    sink.apply(&batch(4, [gone(&log), gone(&old)]))
        .expect("removals");
    assert_eq!(views(&harness), "");
    assert_eq!(tables(&harness), "0\n");
}

#[test]
fn a_tree_has_a_view_for_people() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&harness.config());
    let entry = |name: &str, kind, size, images: Vec<(u64, Image)>| FileChanges {
        attributes: Attributes {
            size,
            kind: Some(kind),
            mode: Some(0o640),
            ..Attributes::default()
        },
        ..changes(&static_file("/srv/etc", format!("/srv/etc/{name}")), images)
    };
    sink.apply(&batch(
        1,
        [
            entry("a.conf", FileKind::Regular, 4, vec![(0, record("text"))]),
            entry("empty", FileKind::Regular, 0, vec![]),
            entry("holes", FileKind::Regular, 3, vec![]),
            entry("sub", FileKind::Directory, 0, vec![]),
        ],
    ))
    .expect("a tree");
    assert_eq!(
        harness.sql("SELECT path_text, kind, mode, HEX(content) FROM etc_files ORDER BY 1"),
        "/srv/etc/a.conf\tfile\t0640\t74657874\n/srv/etc/empty\tfile\t0640\t\n\
         /srv/etc/holes\tfile\t0640\t000000\n/srv/etc/sub\tdirectory\t0640\tNULL\n"
    );
    assert_eq!(
        harness.sql("SELECT block_number, data FROM etc"),
        "0\ttext\n"
    );
}

/// Names that others have are left alone, tables as well as views.
#[test]
fn tables_of_others_are_left_alone() {
    let harness = MysqlHarness::new(true);
    harness.sql("CREATE TABLE Cards_Dat (mine INT); CREATE VIEW rates_dat AS SELECT 1 AS mine");
    let mut sink = open(&harness.config());
    let files =
        ["/srv/cards.dat", "/srv/rates.dat"].map(|path| changes(&file(path), [(1, record("x"))]));
    sink.apply(&batch(1, files)).expect("files");
    assert_eq!(
        harness.sql("SELECT COUNT(mine) FROM Cards_Dat; SELECT mine FROM rates_dat"),
        "0\n1\n"
    );
    assert_eq!(
        harness.sql("SELECT data FROM cards_dat_2; SELECT data FROM rates_dat_2"),
        "x\nx\n"
    );
}

#[test]
fn changed_tables_are_errors_and_never_panics() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&harness.config());
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(
        1,
        [changes(&cards, [(1, record("one")), (2, residue("two"))])],
    ))
    .expect("rows");
    let table = rows_of(&harness, "/srv/cards.dat");
    let refused = |result: Result<(), SinkError>, says: &str| {
        let error = result.expect_err("changed tables");
        assert_permanent(&error, &[says, "MySQL database"]);
    };
    let read = |sink: &mut MysqlSink| sink.pieces(STREAM, b"/srv/cards.dat", &mut |_| true);
    harness.sql(&format!(
        "ALTER TABLE {table} MODIFY id VARCHAR(20) NOT NULL; UPDATE {table} SET id = 'x'"
    ));
    refused(read(&mut sink), "/srv/cards.dat");
    harness.sql(&format!(
        "UPDATE {table} SET id = 1; ALTER TABLE {table} MODIFY id BIGINT UNSIGNED NOT NULL, DROP COLUMN rest"
    ));
    refused(read(&mut sink), "rest");
    harness.sql(&format!(
        "ALTER TABLE {table} ADD COLUMN rest LONGBLOB, ADD COLUMN needed INT NOT NULL"
    ));
    refused(
        sink.apply(&batch(2, [changes(&cards, [(9, record("x"))])])),
        "needed",
    );
    harness.sql(&format!("ALTER TABLE {table} DROP COLUMN needed"));
    sink.apply(&batch(2, [changes(&cards, [(9, record("x"))])]))
        .expect("as it was");
    harness.sql(&format!("DROP TABLE {table}"));
    refused(read(&mut sink), &table);
    harness.sql("UPDATE counterfoil_version SET version = 99");
    refused(
        MysqlSink::open(&harness.config()).map(drop),
        "newer Counterfoil",
    );
    harness.sql("DELETE FROM counterfoil_version; DROP TABLE counterfoil_version");
    refused(
        MysqlSink::open_read_only(&harness.config()).map(drop),
        "none of Counterfoil's tables",
    );
    refused(
        MysqlSink::open(&config(&server().socket(), "nowhere")).map(drop),
        "make the database",
    );
}

#[test]
fn a_record_above_the_packet_size_names_the_setting() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&harness.config());
    for (n, image) in [record(vec![b'x'; 17 << 20]), residue(vec![b'x'; 17 << 20])]
        .into_iter()
        .enumerate()
    {
        let error = sink
            .apply(&batch(1, [changes(&file("/srv/big"), [(n as u64, image)])]))
            .expect_err("too large");
        assert_permanent(&error, &["max_allowed_packet", "/srv/big"]);
    }
    // Just below it goes through, by either way.
    let large = (16 << 20) - 1100;
    let mut images = vec![(0, record(vec![b'\\'; large]))];
    images.extend((1..70).map(|id| (id, record("x"))));
    sink.apply(&batch(1, [changes(&file("/srv/big"), images.clone())]))
        .expect("loading");
    images[0].1 = record(vec![b'y'; large]);
    sink.apply(&batch(2, [changes(&file("/srv/big"), images.clone())]))
        .expect("updating");
    assert!(content(&mut sink, "/srv/big") == images);
}

#[test]
fn rights_that_are_missing_are_named() {
    let harness = MysqlHarness::new(true);
    let (user, database) = (
        format!("user_{}", harness.target.database()),
        harness.target.database(),
    );
    harness.sql(&format!(
        "CREATE USER {user}; GRANT SELECT ON {database}.* TO {user}"
    ));
    let limited = MysqlConfig {
        socket: Some(server().socket()),
        ..MysqlConfig::new(format!("mysql://{user}@localhost/{database}")).expect("a good URL")
    };
    let refused = |result: Result<(), SinkError>| {
        let error = result.expect_err("no rights");
        assert_permanent(&error, &["GRANT SELECT, INSERT"]);
    };
    refused(MysqlSink::open(&limited).map(drop));
    let mut sink = open(&harness.config());
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(1, [changes(&cards, [(1, record("one"))])]))
        .expect("rows");
    // Reading takes no more than the right to.
    let mut reader = MysqlSink::open_read_only(&limited).expect("reading");
    assert_eq!(content(&mut reader, "/srv/cards.dat"), [(1, record("one"))]);
    refused(reader.apply(&batch(2, [])).map_err(|error| match error {
        SinkError::Permanent { doing, cause, .. } if cause.contains("reading only") => {
            permanent(doing, cause, "GRANT SELECT, INSERT")
        }
        other => other,
    }));
    harness.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, CREATE VIEW, SHOW VIEW ON {database}.* TO {user}"
    ));
    let mut sink = open(&limited);
    sink.apply(&batch(
        2,
        [
            changes(&cards, [(2, record("two"))]),
            changes(&file("/srv/new"), []),
        ],
    ))
    .expect("with all rights");
    assert_eq!(
        harness.sql("SELECT COUNT(*) FROM cards_dat; SELECT COUNT(*) FROM new"),
        "2\n0\n"
    );
    harness.sql(&format!("DROP USER {user}"));
    refused(MysqlSink::open(&limited).map(drop));
}

#[test]
fn a_connection_cut_before_the_commit_leaves_nothing() {
    let harness = MysqlHarness::new(true);
    let proxy = harness.target.proxy();
    let mut sink = open(&harness.config());
    let [cards, rates, other] = ["/srv/cards.dat", "/srv/rates.dat", "/srv/other.dat"].map(file);
    sink.apply(&batch(1, [changes(&cards, [(1, record("one"))])]))
        .expect("rows");
    // A query by itself, as it goes over the wire, and the beginnings of statements that are prepared.
    for (n, at) in [
        "\x07\0\0\0\x03COMMIT",
        "INSERT INTO counterfoil_rows",
        "UPDATE counterfoil_position",
        "\x06\0\0\0\x03BEGIN",
    ]
    .into_iter()
    .enumerate()
    {
        let changed = batch(
            2 + n as u64,
            [
                changes(&cards, [(1, record(at)), (2, record(at))]),
                // A table that is made, and another that is renamed.
                changes(
                    &if n % 2 == 0 {
                        rates.clone()
                    } else {
                        other.clone()
                    },
                    [(1, record(at))],
                ),
            ],
        );
        let before = content(&mut sink, "/srv/cards.dat");
        proxy.cut(Cut::Request(at.into()));
        match sink.apply(&changed) {
            // What is cut at its very begin is begun again.
            Ok(()) => assert!(at.ends_with("BEGIN"), "{at}"),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert_eq!(content(&mut sink, "/srv/cards.dat"), before, "{at}");
                sink.apply(&changed).expect("once more");
            }
        }
        assert!(!proxy.is_armed(), "{at} was never sent");
        assert_eq!(
            content(&mut sink, "/srv/cards.dat"),
            [(1, record(at)), (2, record(at))]
        );
    }
    // A batch that failed leaves its table to the next: none is left over.
    assert_eq!(
        harness.sql("SELECT COUNT(*) FROM counterfoil_tables"),
        "3\n"
    );
}

/// The client gives up, and the server doesn't notice: its transaction would keep its locks.
#[test]
fn what_is_given_up_doesnt_stand_in_the_way() {
    let harness = MysqlHarness::new(true);
    let mut sink = open(&MysqlConfig {
        statement_timeout_ms: 500,
        lock_wait_timeout_s: 1000,
        ..harness.config()
    });
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(1, [changes(&cards, [(1, record("one"))])]))
        .expect("rows");
    let table = rows_of(&harness, "/srv/cards.dat");
    let mut obstruction = harness.target.session();
    obstruction
        .run(&format!("BEGIN; SELECT * FROM {table} FOR UPDATE"))
        .expect("its rows");
    let error = sink
        .apply(&batch(2, [changes(&cards, [(1, record("two"))])]))
        .expect_err("somebody has the row");
    assert!(
        error.is_transient() && error.to_string().contains("statement_timeout_ms"),
        "{error}"
    );
    // Its locks are gone, the position's too, though the row is still somebody else's.
    sink.apply(&batch(
        2,
        [changes(&file("/srv/other"), [(1, record("two"))])],
    ))
    .expect("the position is free");
    drop(obstruction);
    sink.apply(&batch(3, [changes(&cards, [(1, record("three"))])]))
        .expect("the row is free");
}

/// A server of one's own: away at the start, without `LOAD DATA`, read-only.
#[test]
fn a_server_has_moods() {
    let server = Mariadb::start(&[]).expect("a server");
    let database = server.create_database().expect("a database");
    let config = config(&server.socket(), &database);
    server.shut_down().expect("shutting it down");
    let mut sink = MysqlSink::open_later(&config).expect("without a server");
    let error = sink.position(STREAM).expect_err("there is no server");
    assert!(error.is_transient(), "{error}");
    server.raise().expect("starting it");
    let cards = file("/srv/cards.dat");
    sink.apply(&batch(1, [changes(&cards, [(1, record("one"))])]))
        .expect("rows");
    // Forbidden while connected, and from the beginning.
    server
        .sql("", "SET GLOBAL local_infile = 0")
        .expect("forbidding");
    for (lsn, path) in [(2, "/srv/a"), (3, "/srv/b")] {
        let rows = awkward(1..500);
        sink.apply(&batch(lsn, [changes(&file(path), rows.clone())]))
            .expect("without LOAD DATA");
        assert_eq!(content(&mut sink, path), rows);
        sink = open(&config);
    }
    // A replica is read-only for all but administrators.
    server
        .sql(
            &database,
            &format!(
                "CREATE USER mirror; GRANT ALL ON {database}.* TO mirror; SET GLOBAL read_only = 1"
            ),
        )
        .expect("making it read-only");
    let mirror = MysqlConfig {
        url: format!("mysql://mirror@localhost/{database}"),
        ..config
    };
    let mut sink = open(&mirror);
    let next = batch(4, [changes(&cards, [(1, record("x"))])]);
    let error = sink.apply(&next).expect_err("it is read-only");
    assert!(
        error.is_transient() && error.to_string().contains("replica"),
        "{error}"
    );
    server
        .sql("", "SET GLOBAL read_only = 0")
        .expect("no longer");
    sink.apply(&next).expect("no longer read-only");
}

#[test]
fn tls_and_passwords() {
    let server = Mariadb::start_with_tls(&[]).expect("a server");
    let database = server.create_database().expect("a database");
    server
        .sql(
            &database,
            &format!("CREATE USER mirror IDENTIFIED BY 's3cret' REQUIRE SSL; GRANT ALL ON {database}.* TO mirror"),
        )
        .expect("a user");
    let port = server.port().expect("a port");
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("writing");
        Some(path)
    };
    let at = |host: &str, tls| MysqlConfig {
        tls,
        ca_file: Some(server.ca_file()),
        password_file: file("password", "s3cret\n"),
        ..MysqlConfig::new(format!("mysql://mirror@{host}:{port}/{database}")).expect("a good URL")
    };
    open(&at("localhost", Tls::Verify));
    open(&at("127.0.0.1", Tls::Unverified));
    let refused = |config: &MysqlConfig, says: &str| {
        let error = MysqlSink::open(config).map(drop).expect_err("refused");
        let text = error.to_string();
        assert!(matches!(error, SinkError::Permanent { .. }), "{text}");
        assert!(
            text.contains(says) && !text.contains("s3cret") && !text.contains("wr0ng"),
            "{text}"
        );
    };
    refused(&at("127.0.0.1", Tls::Verify), "certificate");
    refused(&at("localhost", Tls::Off), "password");
    refused(
        &MysqlConfig {
            ca_file: None,
            ..at("localhost", Tls::Verify)
        },
        "certificate",
    );
    refused(
        &MysqlConfig {
            password_file: file("wrong", "wr0ng"),
            ..at("localhost", Tls::Verify)
        },
        "check user and password",
    );
    refused(
        &MysqlConfig {
            password_file: Some(directory.path().join("none")),
            ..at("localhost", Tls::Verify)
        },
        "reading the password",
    );
    refused(
        &MysqlConfig {
            ca_file: file("bad.pem", "no certificate"),
            ..at("localhost", Tls::Verify)
        },
        "",
    );
}
