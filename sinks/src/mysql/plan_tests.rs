//! Files with columns, against a real server.

use super::*;
use crate::contract::{self, Harness, changes, file, record, residue, static_file};
use crate::plan::{ColumnKind, Ddl, Mask, Mode, Origin, Plan, PlanSpec};
use crate::{FileChanges, FileDescription, FileSchema, Image, Logged, LoggedChange};
use counterfoil_records::schema::{Dialect, RecordSchema};
use counterfoil_servers::{Cut, Mariadb, Proxy};
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Row, Value};
use std::path::Path;
use std::sync::Arc;

fn server() -> &'static Mariadb {
    Mariadb::shared().expect("a MariaDB server")
}

/// A database of its own, and a user who may do there what `docs/mysql.md` says and nothing else.
pub(super) struct Database {
    name: String,
    load_data: bool,
}

impl Database {
    pub(super) fn new(load_data: bool) -> Self {
        let name = server().create_database().expect("a database");
        let rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, CREATE VIEW, SHOW VIEW";
        let user = format!("CREATE USER {name}; GRANT {rights} ON {name}.* TO {name}");
        server().sql("", &user).expect("a user");
        Database { name, load_data }
    }

    fn config(&self) -> MysqlConfig {
        self.config_at(&server().socket())
    }

    fn config_at(&self, socket: &Path) -> MysqlConfig {
        MysqlConfig {
            socket: Some(socket.to_owned()),
            lock_wait_timeout_s: 1,
            load_data: self.load_data,
            ..MysqlConfig::new(format!("mysql://{0}@localhost/{0}", self.name)).expect("a good URL")
        }
    }

    fn sql(&self, sql: &str) -> String {
        server().sql(&self.name, sql).expect("running SQL")
    }

    /// The table with the rows that a view shows.
    fn rows_table(&self, view: &str) -> String {
        let number = self.sql(&format!(
            "SELECT rows_table FROM counterfoil_files WHERE table_name = '{view}'"
        ));
        schema::rows_table(number.trim().parse().expect("a number"))
    }

    /// What a query gives, with its columns.
    fn query(&self, sql: &str) -> Vec<Row> {
        self.with_connection(async |conn| conn.exec(sql, ()).await.expect(sql))
    }

    /// Runs one statement, whatever is in it.
    fn run(&self, sql: &str) {
        self.with_connection(async |conn| conn.query_drop(sql).await.expect(sql));
    }

    fn with_connection<T>(&self, with: impl AsyncFnOnce(&mut mysql_async::Conn) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let opts = mysql_async::OptsBuilder::default()
            .user(Some("root"))
            .db_name(Some(&self.name))
            .socket(Some(server().socket().to_str().expect("a path")));
        runtime.block_on(async {
            let mut conn = mysql_async::Conn::new(opts).await.expect("connecting");
            let it = with(&mut conn).await;
            conn.disconnect().await.expect("disconnecting");
            it
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let gone = format!("DROP DATABASE {0}; DROP USER {0}", self.name);
        let _ = server().sql("", &gone);
    }
}

/// A value as text, bytes in hexadecimal.
fn text(row: &Row, at: usize) -> Option<String> {
    let column = &row.columns_ref()[at];
    let is_binary = column.character_set() == 63
        && [
            ColumnType::MYSQL_TYPE_BLOB,
            ColumnType::MYSQL_TYPE_VAR_STRING,
            ColumnType::MYSQL_TYPE_LONG_BLOB,
        ]
        .contains(&column.column_type());
    match &row[at] {
        Value::NULL => None,
        Value::Bytes(bytes) if is_binary => {
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        Value::Bytes(bytes) => Some(String::from_utf8(bytes.clone()).expect("text")),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(format!("{number:e}")),
        Value::Double(number) => Some(format!("{number:e}")),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            Some(if column.column_type() == ColumnType::MYSQL_TYPE_DATE {
                format!("{year:04}-{month:02}-{day:02}")
            } else {
                format!(
                    "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}"
                )
            })
        }
        Value::Time(_, _, hour, minute, second, micros) => {
            Some(format!("{hour:02}:{minute:02}:{second:02}.{micros:06}"))
        }
    }
}

impl Harness for Database {
    fn fresh(&mut self) {
        self.sql(&format!(
            "DROP DATABASE {0}; CREATE DATABASE {0}",
            self.name
        ));
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open_read_only(&self.config())?))
    }

    fn rows(&mut self, table: &str, columns: &[&str]) -> Option<Vec<Vec<Option<String>>>> {
        let shown = self.columns(table)?;
        let is_shown = |name: &str| shown.iter().any(|there| there.eq_ignore_ascii_case(name));
        let (table, select): (String, Vec<String>) = if columns.iter().all(|name| is_shown(name)) {
            let names = columns.iter().map(|name| schema::quoted(name));
            (schema::quoted(table), names.collect())
        } else {
            // What was left behind is in the table with the rows only.
            let names = columns.iter().map(|name| match *name {
                "record_number" => "id".to_owned(),
                name => schema::quoted(&columns::stored_name(name)),
            });
            (self.rows_table(table), names.collect())
        };
        let select = select.join(", ");
        let rows = self.query(&format!("SELECT {select} FROM {table}"));
        let rows = rows
            .iter()
            .map(|row| (0..row.len()).map(|at| text(row, at)).collect());
        Some(rows.collect())
    }

    fn columns(&mut self, table: &str) -> Option<Vec<String>> {
        let rows = self.query(&format!("SHOW COLUMNS FROM {}", schema::quoted(table)));
        Some(rows.iter().filter_map(|row| text(row, 0)).collect())
    }

    fn forbid(&mut self, table: &str, column: &str, text: &str) -> bool {
        self.sql(&format!(
            "ALTER TABLE {} ADD CONSTRAINT forbidden CHECK (`{column}` <> '{text}')",
            self.rows_table(table)
        ));
        true
    }
}

/// What goes in without `LOAD DATA` is the same.
#[test]
fn the_contract_holds_without_loading() {
    for case in [
        contract::keeps_every_kind_of_column,
        contract::keeps_text_of_every_plane,
        contract::tells_what_cant_be_decoded,
        contract::keeps_many_columns,
        contract::keeps_every_change,
        contract::hides_what_was_shown,
    ] {
        case(&mut Database::new(false));
    }
}

/// A file of records with these fields (name and type), and what becomes of it.
fn planned(path: &str, fields: &[(&str, &str)], spec: &PlanSpec) -> Arc<FileDescription> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, kind)| {
            let field = serde_json::json!({ "name": name, "type": kind });
            serde_json::from_value(field).expect("a field")
        })
        .collect();
    let schema = RecordSchema::of_fields("record", &fields, &Dialect::default());
    let schema = FileSchema(Arc::new(schema.expect("a schema")));
    let description = file(path);
    let origin = Origin {
        site: "hq",
        group: "payments",
        path,
    };
    let plan = Plan::new(spec, Some(&schema), &description.format, origin).expect("a plan");
    Arc::new(FileDescription {
        plan: Some(Arc::new(plan)),
        ..(*description).clone()
    })
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

fn apply(sink: &mut MysqlSink, lsn: u64, files: impl IntoIterator<Item = FileChanges>) {
    sink.apply(&batch(lsn, files)).expect("applying");
}

fn open(config: &MysqlConfig) -> MysqlSink {
    MysqlSink::open(config).expect("opening")
}

const PERSON: &[(&str, &str)] = &[("name", "text(6) utf-8"), ("units", "zoned(4)")];

fn person(name: &str, units: u32) -> Vec<u8> {
    format!("{name:<6}{units:04}").into_bytes()
}

fn people(count: u64) -> Vec<(u64, Image)> {
    let ids = 1..=count;
    ids.map(|id| (id, record(person("Ann", 7)))).collect()
}

fn history_of(path: &str, fields: &[(&str, &str)]) -> Arc<FileDescription> {
    let spec = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    planned(path, fields, &spec)
}

fn texts(rows: &[Vec<Option<String>>]) -> Vec<String> {
    let rows = rows.iter().map(|row| {
        let values = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
        values.collect::<Vec<_>>().join(" ")
    });
    rows.collect()
}

/// Floats to the last bit by either way (but minus zero is zero), none where the server has no such number; numbers with zeros behind; the first day.
#[test]
fn what_the_server_hasnt_is_null_and_told() {
    let fields = [
        ("single", "float32 big ieee"),
        ("double", "float64 big ieee"),
        ("thousands", "zoned(5,-3)"),
        ("day", "text(8) as YYYYMMDD"),
        ("bits", "raw(4)"),
        ("text", "text(8) utf-8"),
    ];
    let values = planned("/srv/values", &fields, &PlanSpec::default());
    let singles = [
        f32::from_bits(1),
        -0.0,
        f32::NAN,
        f32::MIN_POSITIVE,
        16_777_217.0,
        0.3,
    ];
    let doubles = [
        f64::from_bits(1),
        -0.0,
        f64::INFINITY,
        f64::MIN_POSITIVE,
        0.1 + 0.2,
        -f64::MAX,
    ];
    let data = |n: usize| {
        let mut data = singles[n % 6].to_be_bytes().to_vec();
        data.extend(doubles[n % 6].to_be_bytes());
        data.extend(format!("{:05}00010101", n % 99_999).bytes());
        data.extend([b'\\', b'\t', b'\n', 0]);
        data.extend("\\N'\"\u{1d11e}".bytes());
        data
    };
    let mut seen = Vec::new();
    for load_data in [true, false] {
        let mut database = Database::new(load_data);
        let mut sink = open(&database.config());
        let images = (0..100).map(|n| (n as u64, record(data(n))));
        apply(&mut sink, 1, [changes(&values, images)]);
        let columns = [
            "single",
            "double",
            "thousands",
            "day",
            "bits",
            "text",
            "undecoded",
        ];
        let rows = database.rows("values", &columns).expect("rows");
        assert_eq!(rows.len(), 100);
        for (n, row) in rows.iter().enumerate() {
            let float = |at: usize| {
                row[at]
                    .as_deref()
                    .map(|text| text.parse::<f64>().expect(text))
            };
            let (single, double) = (singles[n % 6], doubles[n % 6]);
            assert_eq!(
                float(0).map(|it| it as f32),
                single.is_finite().then_some(single),
                "{row:?}"
            );
            assert_eq!(float(1), double.is_finite().then_some(double), "{row:?}");
            let thousands = (n * 1000).to_string();
            assert_eq!(row[2].as_deref(), Some(thousands.as_str()));
            assert_eq!(row[3].as_deref(), Some("0001-01-01"));
            assert_eq!(row[4].as_deref(), Some("5c090a00"));
            assert_eq!(row[5].as_deref(), Some("\\N'\"\u{1d11e}"));
            let told = row[6].as_deref();
            let wanted = "single: it is NaN, and the server has no such number; double: it is inf, and the server has no such number";
            assert_eq!(told, (n % 6 == 2).then_some(wanted));
        }
        seen.push(rows);
    }
    assert_eq!(seen[0], seen[1]);
}

/// The connection that makes tables, and the one that writes, cut wherever they may be: the file has its old table or its new
/// one, with all that belongs to it, and nothing is left over.
#[test]
fn a_table_is_made_anew_whole_or_not_at_all() {
    let mut database = Database::new(true);
    let socket = server().directory().join(format!("plan-{}", database.name));
    let proxy = Proxy::start(&socket, &server().socket()).expect("a proxy");
    let mut sink = open(&database.config_at(&socket));
    apply(&mut sink, 1, [changes(&file("/srv/people"), people(3000))]);
    let steps = [
        "GET_LOCK",
        "INSERT INTO counterfoil_tables",
        "DROP TABLE IF EXISTS counterfoil_rows_",
        "LIKE counterfoil_rows_",
        "ALTER TABLE counterfoil_rows_",
        "LOAD DATA LOCAL",
        "INSERT INTO counterfoil_shapes",
        "\x07\0\0\0\x03COMMIT",
    ];
    for (n, at) in steps.into_iter().enumerate() {
        let mut fields = PERSON.to_vec();
        if n % 2 == 1 {
            fields.push(("more", "text(1)"));
        }
        let chars = Some(10 + n as u32);
        let spec = PlanSpec {
            kinds: [("name".to_owned(), ColumnKind::Text { chars })].into(),
            may_drop: true,
            ..PlanSpec::default()
        };
        let wider = planned("/srv/people", &fields, &spec);
        let id = 4000 + n as u64;
        let changed = batch(2 + n as u64, [changes(&wider, [(id, record("new"))])]);
        // What it prepared once it wouldn't send again.
        sink = open(&database.config_at(&socket));
        let before = sink.files(STREAM).expect("files");
        proxy.cut(Cut::Request(at.into()));
        let error = sink.apply(&changed).expect_err(at);
        assert!(!proxy.is_armed(), "{at} was never sent");
        assert!(error.is_transient(), "{at}: {error}");
        assert_eq!(sink.files(STREAM).expect("files"), before, "{at}");
        let stored = sink.position(STREAM).expect("a position");
        assert_eq!(stored.map(|it| it.lsn), Some(1 + n as u64), "{at}");
        sink.apply(&changed).expect("once more");
        let rows = database
            .rows("people", &["record_number", "name"])
            .expect("rows");
        assert_eq!(rows.len(), 3001 + n, "{at}");
        assert_eq!(texts(&rows[..1]), ["1 Ann"]);
        assert_eq!(
            database.sql(
                "SELECT COUNT(*) FROM counterfoil_tables; SELECT COUNT(*) FROM counterfoil_shapes"
            ),
            "1\n1\n",
            "{at}"
        );
        let tables = database.sql(
            "SELECT COUNT(*) FROM information_schema.tables
             WHERE table_schema = DATABASE() AND table_name LIKE 'counterfoil\\_rows%'",
        );
        assert_eq!(tables, "1\n", "{at}");
    }
}

/// What others have added to a table goes over to the one that takes its place.
#[test]
fn columns_and_indexes_of_others_go_with_the_rows() {
    let mut database = Database::new(true);
    let mut sink = open(&database.config());
    apply(&mut sink, 1, [changes(&file("/srv/people"), people(100))]);
    let table = database.rows_table("people");
    database.sql(&format!(
        "ALTER TABLE {table} ADD COLUMN note VARCHAR(20) DEFAULT 'none', ADD COLUMN len INT AS (LENGTH(data)),
             ADD INDEX by_note (note);
         UPDATE {table} SET note = 'mine' WHERE id = 5"
    ));
    let columns = planned("/srv/people", PERSON, &PlanSpec::default());
    apply(
        &mut sink,
        2,
        [changes(&columns, [(101, record(person("Bob", 8)))])],
    );
    let anew = database.rows_table("people");
    assert_ne!(anew, table);
    assert_eq!(
        database.sql(&format!(
            "SELECT note, len, COUNT(*), SUM(units) FROM {anew} FORCE INDEX (by_note) GROUP BY note, len ORDER BY 1"
        )),
        "mine\t10\t1\t7\nnone\t10\t100\t701\n"
    );
    let rows = database
        .rows("people", &["record_number", "name", "units"])
        .expect("rows");
    assert_eq!(texts(&rows)[100], "101 Bob 8");
}

/// Tables that an earlier version made get what they lack, and go on.
#[test]
fn tables_of_the_first_version_are_brought_up_to_date() {
    let mut database = Database::new(true);
    let mut sink = open(&database.config());
    apply(&mut sink, 1, [changes(&file("/srv/people"), people(10))]);
    drop(sink);
    database.sql("DROP TABLE counterfoil_shapes; UPDATE counterfoil_version SET version = 1");
    let mut reader = MysqlSink::open_read_only(&database.config()).expect("a reader");
    assert_eq!(content(&mut reader, "/srv/people"), people(10));
    // Who may not make it is told what to run.
    let error = MysqlSink::open(&limited(&database, Ddl::Check)).map(drop);
    let text = error.expect_err("a table is missing").to_string();
    assert!(
        text.contains("CREATE TABLE IF NOT EXISTS counterfoil_shapes"),
        "{text}"
    );
    database.sql("ALTER TABLE counterfoil_files MODIFY COLUMN layout VARCHAR(32) NOT NULL");
    let mut sink = open(&database.config());
    assert_eq!(
        database.sql("SELECT version FROM counterfoil_version"),
        "3\n"
    );
    let room = database.sql(
        "SELECT character_maximum_length FROM information_schema.columns
         WHERE table_schema = DATABASE() AND table_name = 'counterfoil_files' AND column_name = 'layout'",
    );
    assert_eq!(room, "512\n");
    let columns = planned("/srv/people", PERSON, &PlanSpec::default());
    apply(&mut sink, 2, [changes(&columns, [])]);
    let rows = database.rows("people", &["name", "units"]).expect("rows");
    assert_eq!(texts(&rows), ["Ann 7"; 10]);
}

/// What the server refuses of a row is `Refused`, by either way, and shows nothing of the record.
#[test]
fn a_refused_row_is_told_from_a_fault() {
    for load_data in [true, false] {
        let database = Database::new(load_data);
        let mut sink = open(&database.config());
        let columns = planned("/srv/people", PERSON, &PlanSpec::default());
        apply(&mut sink, 1, [changes(&columns, people(10))]);
        let table = database.rows_table("people");
        let bad = || {
            let mut images: Vec<_> = (100..200)
                .map(|id| (id, record(person("Ann", 7))))
                .collect();
            images[50].1 = record(person("secret", 9999));
            batch(2, [changes(&columns, images)])
        };
        for (change, back, says) in [
            ("MODIFY name VARCHAR(5)", "MODIFY name VARCHAR(6)", "name"),
            ("MODIFY units TINYINT", "MODIFY units SMALLINT", "units"),
            (
                "ADD CONSTRAINT few CHECK (units < 100)",
                "DROP CONSTRAINT few",
                "few",
            ),
        ] {
            database.sql(&format!("ALTER TABLE {table} {change}"));
            for _ in 0..2 {
                let error = sink.apply(&bad()).expect_err(change);
                let text = error.to_string();
                assert!(
                    matches!(error, SinkError::Refused { .. }),
                    "{change}: {text}"
                );
                assert!(
                    text.contains(says) && text.contains("/srv/people") && !text.contains("secret"),
                    "{text}"
                );
                let error = sink.rehearse(&bad()).expect_err(change);
                assert!(matches!(error, SinkError::Refused { .. }), "{error}");
            }
            database.sql(&format!("ALTER TABLE {table} {back}"));
        }
        database.run(&format!(
            "CREATE TRIGGER guard BEFORE INSERT ON {table} FOR EACH ROW
             IF NEW.units > 100 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'too many units'; END IF"
        ));
        let error = sink.apply(&bad()).expect_err("the trigger raises");
        assert!(
            matches!(error, SinkError::Refused { .. })
                && error.to_string().contains("too many units"),
            "{error}"
        );
        assert_eq!(database.sql("SELECT COUNT(*) FROM people"), "10\n");
        // A column that somebody took away is no fault of the row's.
        database.sql(&format!(
            "DROP TRIGGER guard; ALTER TABLE {table} DROP COLUMN units"
        ));
        let error = sink.apply(&bad()).expect_err("a column is missing");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    }
}

/// A rehearsal drops what it made.
#[test]
fn a_rehearsal_leaves_no_table() {
    let mut database = Database::new(true);
    let mut sink = open(&database.config());
    apply(&mut sink, 1, [changes(&file("/srv/people"), people(10))]);
    let tables = |database: &Database| {
        database.sql(
            "SHOW FULL TABLES; SELECT * FROM counterfoil_tables; SELECT * FROM counterfoil_views",
        )
    };
    let before = tables(&database);
    let next = batch(
        2,
        [
            changes(
                &planned("/srv/people", PERSON, &PlanSpec::default()),
                people(20),
            ),
            changes(&file("/srv/new"), [(1, record("x"))]),
            changes(&history_of("/srv/all", PERSON), []),
        ],
    );
    sink.rehearse(&next).expect("it would be taken");
    assert_eq!(tables(&database), before);
    sink.apply(&next).expect("it is taken");
    let rows = database.rows("people", &["name"]).expect("rows");
    assert_eq!(texts(&rows), ["Ann"; 20]);
}

/// So many columns that their rows might be too large for a page: they are taken as long as they aren't.
#[test]
fn rows_that_might_be_too_large_are_taken_while_they_arent() {
    let mut database = Database::new(true);
    let mut sink = open(&database.config());
    let names: Vec<String> = (0..600).map(|n| format!("column-{n}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "text(30) utf-8"))
        .collect();
    let wide = planned("/srv/wide", &fields, &PlanSpec::default());
    let short = format!("{:<30}", "short").repeat(600);
    apply(
        &mut sink,
        1,
        [changes(&wide, (0..300).map(|id| (id, record(&short))))],
    );
    let rows = database
        .rows("wide", &["column_0", "column_599", "undecoded"])
        .expect("rows");
    assert_eq!(texts(&rows), ["short short NULL"; 300]);
    let long = "x".repeat(30 * 600);
    let error = sink
        .apply(&batch(2, [changes(&wide, [(1, record(&long))])]))
        .expect_err("it is larger than a page");
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    let names: Vec<String> = (0..1100).map(|n| format!("column-{n}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "text(1)"))
        .collect();
    let error = sink
        .apply(&batch(
            2,
            [changes(
                &planned("/srv/wider", &fields, &PlanSpec::default()),
                [],
            )],
        ))
        .expect_err("the server takes no such table");
    assert!(
        matches!(error, SinkError::Permanent { .. }) && error.to_string().contains("without"),
        "{error}"
    );
}

/// A user who may write rows and nothing else.
fn limited(database: &Database, ddl: Ddl) -> MysqlConfig {
    let user = format!("rows_{}", database.name);
    database.sql(&format!(
        "CREATE USER IF NOT EXISTS {user}; GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user}",
        database.name
    ));
    MysqlConfig {
        url: format!("mysql://{user}@localhost/{}", database.name),
        ddl,
        ..database.config()
    }
}

fn content(sink: &mut MysqlSink, path: &str) -> Vec<(u64, Image)> {
    let mut pieces = Vec::new();
    let mut each = |piece: crate::StoredPiece| {
        pieces.push((piece.id, piece.image));
        true
    };
    sink.pieces(STREAM, path.as_bytes(), &mut each)
        .expect("reading pieces");
    pieces
}

fn removed(file: &Arc<FileDescription>) -> FileChanges {
    FileChanges {
        fate: crate::FileFate::Removed,
        ..changes(file, [])
    }
}

fn renamed(file: &Arc<FileDescription>, from: &str) -> FileChanges {
    FileChanges {
        renamed_from: Some(from.into()),
        ..changes(file, [])
    }
}

fn put(lsn: u64, file: &Arc<FileDescription>, id: u64, name: &str) -> FileChanges {
    let image = record(person(name, 7));
    let position = Position {
        epoch: 1,
        lsn,
        index: 0,
    };
    let mut changes = changes(file, [(id, image.clone())]);
    changes.log.push(Logged {
        position,
        captured_ns: 0,
        change: LoggedChange::Image { id, image },
    });
    changes
}

/// The files of the tests below: one of raw images, one with columns, a history, a tree.
fn four() -> [Arc<FileDescription>; 4] {
    [
        file("/srv/raw.dat"),
        planned("/srv/people.dat", PERSON, &PlanSpec::default()),
        history_of("/srv/all.dat", PERSON),
        static_file("/srv/it's", "/srv/it's/a.conf"),
    ]
}

/// What is printed makes tables that nothing is wrong with, for one who may write rows and nothing else; and the sink that
/// makes its tables goes on with them.
#[test]
fn tables_can_be_made_beforehand() {
    for ddl in [Ddl::Check, Ddl::None] {
        let mut database = Database::new(true);
        let config = limited(&database, ddl);
        let files = four();
        let later = file("/srv/later.dat");
        let descriptions: Vec<FileDescription> = files
            .iter()
            .chain([&later])
            .map(|file| (**file).clone())
            .collect();
        let statements = schema_sql(&config, &descriptions).expect("statements");
        for statement in &statements {
            database.run(statement);
        }
        let mut sink = open(&config);
        let [raw, columns, all, tree] = &files;
        let written = |lsn: u64, text: &str| {
            [
                changes(raw, [(1, record(text)), (2, residue("x"))]),
                changes(columns, [(1, record(person(text, 7)))]),
                put(lsn, all, 1, text),
                changes(tree, [(0, record(text))]),
            ]
        };
        apply(&mut sink, 1, written(1, "one"));
        apply(&mut sink, 2, written(2, "two"));
        let rows = |database: &mut Database, table: &str, columns: &[&str]| {
            texts(&database.rows(table, columns).expect("rows"))
        };
        assert_eq!(
            database.sql("SELECT record_number, data FROM raw_dat"),
            "1\ttwo\n"
        );
        assert_eq!(
            rows(&mut database, "people_dat", &["name", "units"]),
            ["two 7"]
        );
        assert_eq!(
            rows(
                &mut database,
                "all_dat",
                &["record_number", "lsn", "op", "name"]
            ),
            ["1 1 put one", "1 2 put two"]
        );
        assert_eq!(
            database.sql("SELECT data FROM it_s; SELECT size FROM it_s_files"),
            "two\n100\n"
        );
        // A file's rows move to the table that is there for its new name.
        apply(&mut sink, 3, [renamed(&later, "/srv/raw.dat")]);
        assert_eq!(
            content(&mut sink, "/srv/later.dat"),
            [(1, record("two")), (2, residue("x"))]
        );
        assert_eq!(
            database.sql("SELECT COUNT(*) FROM raw_dat; SELECT data FROM later_dat"),
            "0\ntwo\n"
        );
        let nowhere = file("/srv/nowhere.dat");
        for files in [
            vec![renamed(&nowhere, "/srv/later.dat")],
            vec![changes(&nowhere, [])],
        ] {
            let error = sink.apply(&batch(4, files)).expect_err("no such table");
            let text = error.to_string();
            assert!(
                matches!(error, SinkError::Permanent { .. })
                    && text.contains("nowhere_dat")
                    && text.contains("schema sql"),
                "{text}"
            );
        }
        // Gone, and there again: the table is the same.
        apply(
            &mut sink,
            4,
            [removed(&later), removed(columns), removed(all)],
        );
        apply(
            &mut sink,
            5,
            [
                changes(&later, [(9, record("again"))]),
                changes(columns, [(9, record(person("again", 8)))]),
                put(5, all, 9, "again"),
            ],
        );
        assert_eq!(content(&mut sink, "/srv/later.dat"), [(9, record("again"))]);
        assert_eq!(rows(&mut database, "people_dat", &["name"]), ["again"]);
        assert_eq!(
            rows(&mut database, "all_dat", &["record_number", "op"]),
            ["1 put", "1 put", "1 delete", "9 put"]
        );
        drop(sink);
        let mut sink = open(&config);
        assert_eq!(
            content(&mut sink, "/srv/all.dat"),
            [(9, record(person("again", 7)))]
        );
        // And now it makes its tables by itself.
        let mut sink = open(&database.config());
        let wider = planned("/srv/people.dat", &PERSON[..1], &PlanSpec::default());
        apply(
            &mut sink,
            6,
            [changes(&wider, []), renamed(raw, "/srv/later.dat")],
        );
        assert_eq!(rows(&mut database, "raw_dat", &["data"]), ["616761696e"]);
        assert_eq!(rows(&mut database, "people_dat", &["name"]), ["again"]);
        apply(&mut sink, 7, [removed(raw), removed(&wider)]);
        assert_eq!(
            database.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'people%'"),
            "0\n"
        );
    }
}

/// The sink that makes its tables takes those that were made beforehand, as they are or changed.
#[test]
fn tables_that_were_made_beforehand_are_taken() {
    let mut database = Database::new(true);
    let descriptions: Vec<FileDescription> = four().iter().map(|file| (**file).clone()).collect();
    for statement in schema_sql(&database.config(), &descriptions).expect("statements") {
        database.run(&statement);
    }
    let mut sink = open(&database.config());
    let [raw, _, all, tree] = &four();
    let wider = planned(
        "/srv/people.dat",
        &[PERSON, &[("more", "text(2)")]].concat(),
        &PlanSpec::default(),
    );
    apply(
        &mut sink,
        1,
        [
            changes(raw, people(1)),
            changes(&wider, people(1)),
            put(1, all, 1, "Ann"),
            changes(tree, [(0, record("text"))]),
        ],
    );
    for table in ["raw_dat", "people_dat", "all_dat", "it_s", "it_s_files"] {
        assert_eq!(
            database.sql(&format!("SELECT COUNT(*) FROM {table}")),
            "1\n",
            "{table}"
        );
    }
    let rows = database
        .rows("people_dat", &["name", "more"])
        .expect("rows");
    assert_eq!(texts(&rows), ["Ann NULL"]);
    assert_eq!(
        database.sql("SELECT COUNT(*) FROM counterfoil_tables WHERE released_ns IS NULL"),
        "4\n"
    );
}

/// What differs is told column by column, each with the statement that mends it; with these run, it goes on.
#[test]
fn what_differs_is_explained_and_can_be_mended() {
    let database = Database::new(true);
    let config = limited(&database, Ddl::Check);
    let error = MysqlSink::open(&config)
        .map(drop)
        .expect_err("nothing there");
    assert!(
        error.to_string().contains("none of Counterfoil's tables"),
        "{error}"
    );
    let columns = planned("/srv/people", PERSON, &PlanSpec::default());
    for statement in schema_sql(&config, &[(*columns).clone()]).expect("statements") {
        database.run(&statement);
    }
    let rows = "counterfoil_rows_1";
    let says = |error: SinkError, count: usize| -> Vec<String> {
        let SinkError::Permanent { cause, .. } = &error else {
            panic!("{error}");
        };
        let statements: Vec<String> = cause
            .split("; ")
            .map(|line| line.split_once(": ").expect(line).1.to_owned())
            .collect();
        assert_eq!(statements.len(), count, "{error}");
        statements
    };
    let mut sink = open(&config);
    for (n, (spoiling, words)) in (0..).zip([
        (format!("ALTER TABLE {rows} DROP COLUMN name"), vec!["there is no column name"]),
        (
            format!("ALTER TABLE {rows} MODIFY name VARCHAR(5), MODIFY units TINYINT NOT NULL, MODIFY rest TEXT"),
            vec!["column name is varchar(5), and should be VARCHAR(6)", "units is tinyint NOT NULL", "rest is text"],
        ),
        (
            format!("ALTER TABLE {rows} MODIFY name VARCHAR(6) CHARACTER SET latin1"),
            vec!["column name"],
        ),
        (
            format!("ALTER TABLE {rows} ADD COLUMN branch INT NOT NULL"),
            vec!["column branch is nothing that Counterfoil fills"],
        ),
        (format!("ALTER TABLE {rows} DROP PRIMARY KEY"), vec!["the primary key is ()"]),
        (format!("DROP TABLE {rows}"), vec!["there is no such table"]),
    ]) {
        database.run(&spoiling);
        let next = batch(n + 1, [changes(&columns, [(n, record(person("Ann", 7)))])]);
        let error = open(&config).apply(&next).expect_err(&spoiling);
        for word in &words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        for statement in says(error, words.len()) {
            database.run(&statement);
        }
        sink = open(&config);
        sink.apply(&next).expect("it is mended");
    }
    // What holds more, or may be left out, is as good.
    database.run(&format!(
        "ALTER TABLE {rows} MODIFY name TEXT, MODIFY units BIGINT, ADD COLUMN other INT NOT NULL DEFAULT 5"
    ));
    drop(sink);
    let mut sink = open(&config);
    apply(
        &mut sink,
        20,
        [changes(&columns, [(20, record(person("Bob", 8)))])],
    );
    // A changed plan says what is to be done; when it is, the rows that are there are filled.
    let spec = PlanSpec {
        rename: [("units".to_owned(), "count".to_owned())].into(),
        ..PlanSpec::default()
    };
    let changed = planned("/srv/people", PERSON, &spec);
    let next = batch(21, [changes(&changed, [])]);
    let error = sink.apply(&next).expect_err("there is no such column");
    for statement in says(error, 1) {
        database.run(&statement);
    }
    sink.apply(&next).expect("there is now");
    assert_eq!(
        database.sql(&format!("SELECT id, count, units FROM {rows}")),
        "5\t7\tNULL\n20\t8\tNULL\n"
    );
    database.run("ALTER TABLE counterfoil_position DROP COLUMN captured_ns, MODIFY lsn BIGINT");
    let error = MysqlSink::open(&config)
        .map(drop)
        .expect_err("own tables differ");
    for statement in says(error, 2) {
        database.run(&statement);
    }
    open(&config);
}

/// The second file of a name takes the table that was made for the second, whichever comes first.
#[test]
fn files_of_one_name_take_the_tables_made_for_them() {
    for ddl in [Ddl::Check, Ddl::None, Ddl::Manage] {
        let mut database = Database::new(true);
        let config = limited(&database, ddl);
        let files = [
            file("/a/cards.dat"),
            file("/b/cards.dat"),
            planned("/c/cards.dat", PERSON, &PlanSpec::default()),
            history_of("/d/cards.dat", PERSON),
            static_file("/x/etc", "/x/etc/a.conf"),
            static_file("/y/etc", "/y/etc/a.conf"),
        ];
        let descriptions: Vec<FileDescription> =
            files.iter().map(|file| (**file).clone()).collect();
        for statement in schema_sql(&config, &descriptions).expect("statements") {
            database.run(&statement);
        }
        let config = match ddl {
            Ddl::Manage => database.config(),
            _ => config,
        };
        let mut sink = open(&config);
        for (lsn, file) in (1..).zip(files.iter().rev()) {
            let name = std::str::from_utf8(&file.path[1..2]).expect("a letter");
            let changed = match lsn {
                1 | 2 => changes(file, [(0, record(name))]),
                _ => put(lsn, file, 1, name),
            };
            apply(&mut sink, lsn, [changed]);
        }
        for (table, letters) in [
            ("cards_dat", "b"),
            ("cards_dat_2", "a"),
            ("etc", "y"),
            ("etc_2", "x"),
        ] {
            let found = database.sql(&format!("SELECT data FROM {table}"));
            assert!(found.starts_with(letters), "{table}: {found}");
        }
        for (table, letter) in [("cards_dat_3", "c"), ("cards_dat_4", "d")] {
            let rows = database.rows(table, &["name"]).expect("rows");
            assert_eq!(texts(&rows), [letter], "{table}");
        }
        assert_eq!(
            database.sql("SELECT size FROM etc_files; SELECT size FROM etc_2_files"),
            "100\n100\n"
        );
        // One too many.
        if ddl != Ddl::Manage {
            let error = sink
                .apply(&batch(9, [changes(&file("/e/cards.dat"), [])]))
                .expect_err("none is left");
            assert!(error.to_string().contains("cards_dat"), "{error}");
        }
    }
}

/// A table with rows in it, that somebody has made, isn't taken for an empty one.
#[test]
fn a_kept_table_with_rows_is_refused() {
    for ddl in [Ddl::Check, Ddl::None, Ddl::Manage] {
        let database = Database::new(true);
        let config = limited(&database, ddl);
        let [raw, columns, _, tree] = four();
        let descriptions = [&raw, &columns, &tree].map(|file| (**file).clone());
        for statement in schema_sql(&config, &descriptions).expect("statements") {
            database.run(&statement);
        }
        database.run("INSERT INTO counterfoil_rows_1 (id, data) VALUES (99, 'old')");
        database.run("INSERT INTO counterfoil_rows_2 (id, data) VALUES (99, 'old')");
        database.run("INSERT INTO counterfoil_rows_3 (file_id, id, data) VALUES (7, 99, 'old')");
        let config = match ddl {
            Ddl::Manage => database.config(),
            _ => config,
        };
        let mut sink = open(&config);
        let images = || [(1, record(person("Ann", 7)))];
        for (number, file) in (1..).zip([&raw, &columns, &tree]) {
            let next = batch(number, [changes(file, images())]);
            let error = sink.apply(&next).expect_err("it has rows");
            let (table, text) = (format!("counterfoil_rows_{number}"), error.to_string());
            assert!(
                matches!(error, SinkError::Permanent { .. })
                    && text.contains(&format!("DELETE FROM {table}")),
                "{text}"
            );
            assert_eq!(database.sql(&format!("SELECT id FROM {table}")), "99\n");
            database.run(&format!("DELETE FROM {table}"));
            sink.apply(&next).expect("now it has none");
        }
        assert_eq!(content(&mut sink, "/srv/raw.dat"), images());
    }
    // Nor is it dropped for a file that gets its name.
    let database = Database::new(true);
    let mut sink = open(&database.config());
    let (raw, other) = (file("/srv/raw.dat"), file("/srv/other.dat"));
    apply(&mut sink, 1, [changes(&other, [(1, record("x"))])]);
    let made = [
        schema::create_rows(50, false),
        "INSERT INTO counterfoil_tables (rows_table, stream, is_shared) VALUES (50, '', 0)".into(),
        "INSERT INTO counterfoil_shapes (rows_table, shape, kept_for) VALUES (50, '{}', 'raw_dat')"
            .into(),
        "INSERT INTO counterfoil_rows_50 (id, data) VALUES (99, 'old')".into(),
    ];
    for statement in made {
        database.run(&statement);
    }
    let next = batch(2, [renamed(&raw, "/srv/other.dat")]);
    let error = sink.apply(&next).expect_err("it has rows");
    assert!(error.to_string().contains("counterfoil_rows_50"), "{error}");
    assert_eq!(
        database.sql("SELECT data FROM counterfoil_rows_50"),
        "old\n"
    );
    database.run("DELETE FROM counterfoil_rows_50");
    sink.apply(&next).expect("now it has none");
    assert_eq!(content(&mut sink, "/srv/raw.dat"), [(1, record("x"))]);
}

/// Where nothing may be dropped, what is wanted no longer is emptied: columns, and the bytes, from which masked columns are
/// filled before.
#[test]
fn what_would_be_dropped_is_emptied() {
    for ddl in [Ddl::Check, Ddl::None] {
        let database = Database::new(true);
        let config = limited(&database, ddl);
        let all = planned("/srv/people", PERSON, &PlanSpec::default());
        for statement in schema_sql(&config, &[(*all).clone()]).expect("statements") {
            database.run(&statement);
        }
        let mut sink = open(&config);
        let images = people(100).into_iter().chain([(200, residue("Bob"))]);
        apply(&mut sink, 1, [changes(&all, images)]);
        let rows = "counterfoil_rows_1";
        let counts = || {
            database.sql(&format!(
                "SELECT COUNT(data), COUNT(name), SUM(name = 'Ann'), SUM(name = 'hid'), COUNT(units) FROM {rows}"
            ))
        };
        // A column that may be dropped.
        let fewer = PlanSpec {
            without: vec!["units".into()],
            may_drop: true,
            ..PlanSpec::default()
        };
        let fewer = planned("/srv/people", PERSON, &fewer);
        apply(&mut sink, 2, [changes(&fewer, [])]);
        assert_eq!(counts(), "100\t100\t100\t0\t0\n");
        // A mask, and no bytes that would show what it hides.
        let masked = PlanSpec {
            raw: false,
            masks: [("name".to_owned(), Mask::Fixed("hid".into()))].into(),
            ..PlanSpec::default()
        };
        let masked = planned("/srv/people", PERSON, &masked);
        let next = batch(3, [changes(&masked, [(1, record(person("Cyd", 3)))])]);
        let error = sink.apply(&next).expect_err("data may not be NULL");
        let text = error.to_string();
        assert!(
            matches!(error, SinkError::Permanent { .. })
                && text
                    .contains("ALTER TABLE counterfoil_rows_1 MODIFY COLUMN `data` longblob NULL"),
            "{text}"
        );
        assert_eq!(counts(), "100\t100\t100\t0\t0\n");
        database.run(&format!(
            "ALTER TABLE {rows} MODIFY COLUMN data LONGBLOB NULL"
        ));
        sink.apply(&next).expect("now it may");
        assert_eq!(counts(), "0\t100\t0\t100\t100\n");
        assert_eq!(
            database.sql("SELECT COUNT(*) FROM counterfoil_residue"),
            "0\n"
        );
        // The columns are as they should be for rows that come later as well.
        apply(
            &mut sink,
            4,
            [changes(&masked, [(300, record(person("Dan", 4)))])],
        );
        assert_eq!(counts(), "0\t101\t0\t101\t101\n");

        // Where the bytes are gone by another hand, columns stay as they are.
        let other = planned("/srv/other", PERSON, &PlanSpec::default());
        let shape = other.plan.as_ref().expect("a plan").shape();
        for statement in [
            schema::create_shaped(2, shape),
            "INSERT INTO counterfoil_tables (rows_table, stream, is_shared) VALUES (2, '', 2)"
                .into(),
            format!(
                "INSERT INTO counterfoil_shapes (rows_table, shape, kept_for) VALUES (2, '{}', 'other')",
                shape.text()
            ),
        ] {
            database.run(&statement);
        }
        apply(&mut sink, 5, [changes(&other, people(3))]);
        database.run("ALTER TABLE counterfoil_rows_2 DROP COLUMN data, DROP COLUMN rest");
        let without = PlanSpec {
            raw: false,
            ..PlanSpec::default()
        };
        let without = planned("/srv/other", PERSON, &without);
        apply(&mut sink, 6, [changes(&without, [])]);
        assert_eq!(
            database.sql("SELECT COUNT(name), COUNT(units) FROM counterfoil_rows_2"),
            "3\t3\n"
        );
    }
}

/// A history of many rows is loaded; when its columns change, every row has its own again, with its moment and position.
#[test]
fn a_history_is_loaded_and_filled_anew() {
    let mut database = Database::new(true);
    let mut sink = open(&database.config());
    let all = history_of("/srv/all.dat", PERSON);
    let mut logged = changes(&all, []);
    let mut log = |change: LoggedChange| {
        let index = logged.log.len() as u32;
        logged.log.push(Logged {
            position: Position {
                epoch: 1,
                lsn: 1,
                index,
            },
            captured_ns: i64::from(index) * 1000,
            change,
        });
    };
    for id in 0..300 {
        log(LoggedChange::Image {
            id,
            image: record(person("Ann", 7)),
        });
    }
    for id in 0..100 {
        log(LoggedChange::Image {
            id,
            image: Image::Absent,
        });
    }
    log(LoggedChange::Cleared(250..u64::MAX));
    for id in 90..170 {
        log(LoggedChange::Image {
            id,
            image: record(person("Bob", 8)),
        });
    }
    logged.images = (90..170)
        .map(|id| (id, record(person("Bob", 8))))
        .chain((170..250).map(|id| (id, record(person("Ann", 7)))))
        .collect();
    let current: Vec<_> = logged.images.clone().into_iter().collect();
    apply(&mut sink, 1, [logged]);
    assert_eq!(content(&mut sink, "/srv/all.dat"), current);
    let own = ["record_number", "lsn", "idx", "op", "captured_at"];
    let rows = |database: &mut Database, names: &[&str]| {
        let names = [&own, names].concat();
        let mut rows = texts(&database.rows("all_dat", &names).expect("rows"));
        rows.sort();
        rows
    };
    let before = rows(&mut database, &["name", "units"]);
    assert_eq!(before.len(), 300 + 100 + 50 + 80);
    assert!(before.contains(&"5 1 305 delete 1970-01-01 00:00:00.000305 NULL NULL".to_owned()));
    assert!(before.contains(&"299 1 400 delete 1970-01-01 00:00:00.000400 NULL NULL".to_owned()));
    assert!(before.contains(&"95 1 406 put 1970-01-01 00:00:00.000406 Bob 8".to_owned()));
    let table = database.rows_table("all_dat");
    let wider = [PERSON, &[("more", "text(2)")]].concat();
    apply(
        &mut sink,
        2,
        [changes(&history_of("/srv/all.dat", &wider), [])],
    );
    assert_ne!(database.rows_table("all_dat"), table);
    assert_eq!(rows(&mut database, &["name", "units"]), before);
    assert_eq!(content(&mut sink, "/srv/all.dat"), current);
    // All of what is current goes with the file, and the rest stays.
    let moved = history_of("/srv/moved.dat", &wider);
    apply(&mut sink, 3, [renamed(&moved, "/srv/all.dat")]);
    assert_eq!(content(&mut sink, "/srv/moved.dat"), current);
    assert_eq!(rows(&mut database, &[]).len(), before.len() + current.len());
    let there = database
        .rows("moved_dat", &["lsn", "op", "name"])
        .expect("rows");
    assert_eq!(there.len(), current.len());
    assert_eq!(texts(&there[..1]), ["3 put Bob"]);
}

/// A key has an index that isn't unique and follows the configuration; where others make tables, they make it.
#[test]
fn a_key_has_an_index() {
    let keyed = |key: &[&str]| {
        let spec = PlanSpec {
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            ..PlanSpec::default()
        };
        planned("/srv/people", PERSON, &spec)
    };
    let database = Database::new(true);
    let indexes = || {
        let table = database.rows_table("people");
        database.sql(&format!(
            "SELECT index_name, column_name, non_unique FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name = '{table}' AND index_name <> 'PRIMARY'
             ORDER BY index_name, seq_in_index"
        ))
    };
    let mut sink = MysqlSink::open(&database.config()).expect("opening");
    let alike = || (1..=2).map(|id| (id, record(person("Ann", 1))));
    apply(&mut sink, 1, [changes(&keyed(&["units", "name"]), alike())]);
    assert_eq!(
        indexes(),
        "counterfoil_key\tunits\t1\ncounterfoil_key\tname\t1\n"
    );
    let table = database.rows_table("people");
    database.run(&format!("CREATE INDEX mine ON {table} (units)"));
    apply(&mut sink, 2, [changes(&keyed(&["name"]), [])]);
    assert_eq!(indexes(), "counterfoil_key\tname\t1\nmine\tunits\t1\n");
    assert_eq!(
        database.sql("SELECT COUNT(*), COUNT(name) FROM people"),
        "2\t2\n"
    );
    apply(&mut sink, 3, [changes(&keyed(&[]), [])]);
    assert_eq!(indexes(), "mine\tunits\t1\n");
    // What somebody dropped, or made, by hand is no obstacle.
    apply(&mut sink, 4, [changes(&keyed(&["name"]), [])]);
    let table = database.rows_table("people");
    database.run(&format!("DROP INDEX counterfoil_key ON {table}"));
    apply(&mut sink, 5, [changes(&keyed(&["units"]), [])]);
    assert_eq!(indexes(), "counterfoil_key\tunits\t1\nmine\tunits\t1\n");
    drop(sink);

    let config = MysqlConfig {
        ddl: Ddl::Check,
        ..database.config()
    };
    let mut sink = MysqlSink::open(&config).expect("opening");
    let next = batch(6, [changes(&keyed(&["name"]), [])]);
    let error = sink
        .apply(&next)
        .expect_err("there is no such index")
        .to_string();
    assert!(
        error.contains("ADD KEY counterfoil_key (`name`)"),
        "{error}"
    );
    let table = database.rows_table("people");
    database.run(&format!("CREATE INDEX other ON {table} (name, units)"));
    sink.apply(&next).expect("now there is");
    let printed = schema_sql(&config, &[(*keyed(&["name"])).clone()]).expect("statements");
    assert!(
        printed.join(";").contains("KEY counterfoil_key (`name`)"),
        "{printed:?}"
    );
}
