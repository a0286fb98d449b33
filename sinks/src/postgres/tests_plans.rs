//! Tables with columns, against a real server: values, evolution, what is refused, policies for structure, histories.

use super::*;
use crate::contract::{changes, file, record, residue, static_file};
use crate::plan::{ColumnKind, Constant, Ddl, Mask, Mode, Origin, Plan, PlanSpec};
use crate::{
    FileChanges, FileDescription, FileFate, FileSchema, Image, Logged, LoggedChange, StoredPiece,
};
use counterfoil_proto::Position;
use counterfoil_records::schema::{Dialect, FieldSpec, RecordSchema};
use counterfoil_records::value::Value;
use counterfoil_servers::Postgres;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const STREAM: &str = "hq/payments";

/// A schema of its own in the server that all tests share, and the sink that it is a target of.
struct Mirror {
    config: PostgresConfig,
    sink: PostgresSink,
    schema: String,
    lsn: u64,
}

impl Mirror {
    fn new() -> Mirror {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let schema = format!("plans {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let server = Postgres::shared().expect("a PostgreSQL server");
        let config = PostgresConfig {
            schema: Some(schema.clone()),
            lock_timeout_ms: 1000,
            ..PostgresConfig::new(server.url("postgres"))
        };
        let sink = PostgresSink::open(&config).expect("opening");
        Mirror {
            config,
            sink,
            schema,
            lsn: 0,
        }
    }

    fn reopen(&mut self) {
        self.sink = PostgresSink::open(&self.config).expect("opening again");
    }

    fn batch(&self, files: impl IntoIterator<Item = FileChanges>) -> Batch {
        Batch {
            stream: STREAM.into(),
            after: None,
            position: position(self.lsn + 100),
            captured_ns: 1_700_000_000_123_456_789,
            files: files.into_iter().collect(),
        }
    }

    fn apply(&mut self, files: impl IntoIterator<Item = FileChanges>) {
        let batch = self.batch(files);
        self.sink.apply(&batch).expect("applying");
        self.lsn += 100;
    }

    fn refuse(&mut self, files: impl IntoIterator<Item = FileChanges>) -> SinkError {
        let batch = self.batch(files);
        self.sink.apply(&batch).expect_err("it isn't taken")
    }

    /// Lines of rows, columns with a bar between.
    fn sql(&self, text: &str) -> Vec<String> {
        let text = format!("SET search_path = \"{}\"; {text}", self.schema);
        let server = Postgres::shared().expect("a PostgreSQL server");
        let shown = server.sql("postgres", &text).expect(&text);
        shown.lines().map(str::to_owned).collect()
    }

    fn pieces(&mut self, path: &str) -> Vec<(u64, Image)> {
        let mut pieces = Vec::new();
        let mut each = |StoredPiece { id, image }| {
            pieces.push((id, image));
            true
        };
        self.sink
            .pieces(STREAM, path.as_bytes(), &mut each)
            .expect("reading pieces");
        pieces
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.sql(&format!(
                "SET client_min_messages = warning; DROP SCHEMA \"{}\" CASCADE",
                self.schema
            ));
        }
    }
}

fn position(lsn: u64) -> Position {
    Position {
        epoch: 1,
        lsn,
        index: 0,
    }
}

fn schema(fields: &[(&str, &str)]) -> FileSchema {
    let specs: Vec<FieldSpec> = fields
        .iter()
        .map(|(name, kind)| {
            serde_json::from_value(serde_json::json!({ "name": name, "type": kind }))
                .expect("a field")
        })
        .collect();
    let schema = RecordSchema::of_fields("record", &specs, &Dialect::default());
    FileSchema(Arc::new(schema.expect("a schema")))
}

/// A file with this plan, in a table of this name.
fn planned(
    path: &str,
    table: Option<&str>,
    fields: &[(&str, &str)],
    spec: &PlanSpec,
) -> Arc<FileDescription> {
    let bare = file(path);
    let schema = schema(fields);
    let origin = Origin {
        site: "hq",
        group: "payments",
        path,
    };
    let plan = Plan::new(spec, Some(&schema), &bare.format, origin).expect("a plan");
    Arc::new(FileDescription {
        table: table.map(str::to_owned),
        plan: Some(Arc::new(plan)),
        ..(*bare).clone()
    })
}

fn map<T: Clone>(pairs: &[(&str, T)]) -> BTreeMap<String, T> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

fn history() -> PlanSpec {
    PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    }
}

fn assert_says(error: &SinkError, says: &[&str]) {
    let text = error.to_string();
    for words in says {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

fn assert_refused(error: &SinkError, says: &[&str]) {
    assert!(matches!(error, SinkError::Refused { .. }), "{error:?}");
    assert_says(error, says);
}

fn assert_permanent(error: &SinkError, says: &[&str]) {
    assert!(matches!(error, SinkError::Permanent { .. }), "{error:?}");
    assert_says(error, says);
}

/// A field of every type that there is.
const ALL: &[(&str, &str)] = &[
    ("small", "int16 big"),
    ("whole", "int32 big"),
    ("large", "int64 big"),
    ("unsigned", "uint64 big"),
    ("money", "packed(9,2) signed"),
    ("many", "zoned(38,10) signed"),
    ("single", "float32 ieee big"),
    ("double", "float64 ieee big"),
    ("name", "text(12) utf-8"),
    ("bytes", "raw(4)"),
    ("day", "text(8) utf-8 as YYYYMMDD"),
    ("clock", "text(6) utf-8 as HHMISS"),
    ("moment", "text(20) utf-8 as YYYYMMDDHHMISSFFFFFF"),
    ("exact", "text(15) utf-8 as HHMISSFFFFFFFFF"),
];

/// Every column of such a table, as text that says exactly what is in it.
const SHOWN: &str = "concat_ws('|', record_number, coalesce(small::text, '-'), coalesce(whole::text, '-'),
    coalesce(large::text, '-'), coalesce(unsigned::text, '-'), coalesce(money::text, '-'), coalesce(many::text, '-'),
    coalesce(encode(float4send(single), 'hex'), '-'), coalesce(encode(float8send(double), 'hex'), '-'),
    coalesce(encode(convert_to(name, 'UTF8'), 'hex'), '-'), coalesce(encode(bytes, 'hex'), '-'),
    coalesce(to_char(day, 'YYYY-MM-DD'), '-'), coalesce(clock::text, '-'),
    coalesce(to_char(moment, 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '-'), coalesce(exact, '-'),
    (undecoded IS NOT NULL)::text)";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`SHOWN`] is to show of a record.
fn expected(plan: &Plan, id: u64, data: &[u8]) -> String {
    let mut shown = vec![id.to_string()];
    let problem = plan.cells(data, false, &mut Default::default(), &mut |value| {
        shown.push(match value {
            Value::Null => "-".into(),
            Value::Float32(number) => hex(&number.to_be_bytes()),
            Value::Float64(number) => hex(&number.to_be_bytes()),
            Value::Text(text) => hex(text.as_bytes()),
            Value::Timestamp(moment) => {
                let micros = moment.time.nanos() / 1000;
                let time = moment.time.to_string();
                format!("{}T{}.{micros:06}", moment.date, &time[..8])
            }
            value => value.to_string(),
        });
    });
    shown.push(problem.is_some().to_string());
    shown.join("|")
}

/// A record of [`ALL`], from parts of the right lengths.
fn all(parts: [&[u8]; 14]) -> Vec<u8> {
    let lens = [2, 4, 8, 8, 5, 38, 4, 8, 12, 4, 8, 6, 20, 15];
    for (part, len) in parts.iter().zip(lens) {
        assert_eq!(part.len(), len, "{part:?}");
    }
    parts.concat()
}

fn samples() -> Vec<Vec<u8>> {
    let minus_nines = [b"9".repeat(37).as_slice(), b"y"].concat();
    vec![
        all([
            &i16::MIN.to_be_bytes(),
            &i32::MIN.to_be_bytes(),
            &i64::MIN.to_be_bytes(),
            &u64::MAX.to_be_bytes(),
            b"\x99\x99\x99\x99\x9d",
            &minus_nines,
            &f32::NAN.to_be_bytes(),
            &f64::NEG_INFINITY.to_be_bytes(),
            "a\u{e9}\u{20ac}\u{1f600}ab".as_bytes(),
            b"\0\xff\\x",
            b"00010101",
            b"235959",
            b"99991231235959999999",
            b"235959999999999",
        ]),
        all([
            &0_i16.to_be_bytes(),
            &i32::MAX.to_be_bytes(),
            &i64::MAX.to_be_bytes(),
            &0_u64.to_be_bytes(),
            b"\0\0\0\0\x0c",
            &[b'0'; 38],
            &(-0.0_f32).to_be_bytes(),
            &f64::MIN_POSITIVE.to_be_bytes(),
            b"            ",
            b"\0\0\0\0",
            b"99991231",
            b"000000",
            b"00010101000000000000",
            b"000000000000001",
        ]),
        // Nothing in it can be decoded that can be wrong.
        all([
            &7_i16.to_be_bytes(),
            &7_i32.to_be_bytes(),
            &7_i64.to_be_bytes(),
            &7_u64.to_be_bytes(),
            b"xxxxx",
            &[0xff; 38],
            &1.5_f32.to_be_bytes(),
            &f64::INFINITY.to_be_bytes(),
            b"\xff\0a         ",
            b"abcd",
            b"20260231",
            b"246060",
            b"2026013x000000000000",
            b"hello, world!!!",
        ]),
        // It ends too early.
        b"\0\x01\0\0".to_vec(),
    ]
}

/// Every kind of column, through COPY and through an upsert, comes back as it was; so do random records.
#[test]
fn every_kind_of_column_comes_back_exactly() {
    let mut mirror = Mirror::new();
    let cards = planned("/srv/cards", None, ALL, &PlanSpec::default());
    let plan = cards.plan.clone().expect("a plan");
    let mut records = samples();
    let bytes = |len: usize| proptest::collection::vec(any::<u8>(), len);
    let digits = |len: usize| proptest::string::string_regex(&format!("[0-9]{{{len}}}")).expect("");
    let text = proptest::string::string_regex("[a-z\u{e9}\u{4e00}\u{10ffff}]{3}").expect("");
    let any_record = (
        bytes(22),
        "[0-9]{9}",
        digits(38),
        bytes(12),
        text,
        bytes(4),
        digits(49),
    )
        .prop_map(|(numbers, packed, zoned, floats, text, raw, times)| {
            let packed = format!("{packed}{}", if packed.as_str() < "5" { 'c' } else { 'd' });
            let packed: Vec<u8> = (0..5)
                .map(|at| u8::from_str_radix(&packed[2 * at..2 * at + 2], 16).expect("digits"))
                .collect();
            let name = [text.as_bytes(), &[b' '; 12]].concat();
            let parts = [
                &numbers,
                &*packed,
                zoned.as_bytes(),
                &floats,
                &name[..12],
                &raw,
            ];
            [&parts.concat(), times.as_bytes()].concat()
        });
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let tree = any_record.new_tree(&mut runner).expect("a record");
        records.push(tree.current());
    }
    let shown: Vec<String> = (1..)
        .zip(&records)
        .map(|(id, data)| expected(&plan, id, data))
        .collect();
    assert!(
        shown[0]
            .contains("|7fc00000|fff0000000000000|61c3a9e282acf09f98806162|00ff5c78|0001-01-01|")
    );
    let select = format!("SELECT {SHOWN} FROM cards ORDER BY record_number");
    let images = |records: &[Vec<u8>]| -> Vec<(u64, Image)> {
        (1..)
            .zip(records)
            .map(|(id, data)| (id, record(data)))
            .collect()
    };
    mirror.apply([changes(&cards, images(&records))]);
    assert_eq!(mirror.sql(&select), shown, "through COPY");
    mirror.sql("UPDATE cards SET small = 1, many = 1, name = 'x', day = NULL, exact = 'y', undecoded = NULL");
    mirror.reopen();
    mirror.apply([changes(&cards, images(&records))]);
    assert_eq!(mirror.sql(&select), shown, "through an upsert");
    assert_eq!(mirror.pieces("/srv/cards"), images(&records));
    let types = mirror.sql(
        "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'cards'::regclass AND attnum > 0",
    );
    assert_eq!(
        types,
        [
            "bigint,bytea,bytea,smallint,integer,bigint,numeric(20,0),numeric(9,2),numeric(38,10),real,double precision,\
          text,bytea,date,time without time zone,timestamp without time zone,text,text"
        ]
    );
    let why = mirror.sql("SELECT undecoded FROM cards WHERE record_number IN (3, 4) ORDER BY 1");
    assert!(why[0].contains("money: byte 4"), "{why:?}");
}

/// Hundreds of columns are taken by both ways; a table without the raw image has none, and keeps no residue.
#[test]
fn many_columns_and_no_raw_image() {
    let names: Vec<String> = (0..600).map(|number| format!("f{number}")).collect();
    let fields: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (&**name, "text(2) utf-8"))
        .collect();
    let spec = PlanSpec {
        raw: false,
        masks: map(&[("f7", Mask::Fixed("*".into()))]),
        constants: map(&[("site", Constant::Text("{site}".into()))]),
        ..PlanSpec::default()
    };
    let mut mirror = Mirror::new();
    let wide = planned("/srv/wide", None, &fields, &spec);
    let data = b"ab".repeat(600);
    mirror.apply([changes(&wide, (1..100).map(|id| (id, record(&data))))]);
    mirror.apply([changes(
        &wide,
        [(1, residue("x")), (2, Image::Absent), (3, record("zz"))],
    )]);
    assert_eq!(
        mirror.sql(
            "SELECT record_number, f0, f599, f7, site FROM wide WHERE record_number < 5 ORDER BY 1"
        ),
        ["3|zz||*|hq", "4|ab|ab|*|hq"]
    );
    assert_eq!(mirror.pieces("/srv/wide"), []);
    assert_eq!(
        mirror.sql("SELECT count(*) FROM counterfoil_residue"),
        ["0"]
    );
    let bare = planned(
        "/srv/bare",
        None,
        &[("a", "text(1) utf-8")],
        &PlanSpec {
            raw: false,
            without: vec!["a".into()],
            ..PlanSpec::default()
        },
    );
    mirror.apply([changes(&bare, [(1, record("x")), (2, record("y"))])]);
    mirror.apply([changes(&bare, [(1, record("z")), (2, Image::Absent)])]);
    assert_eq!(mirror.sql("SELECT * FROM bare"), ["1"]);
}

const CARDS: &[(&str, &str)] = &[
    ("name", "text(6) utf-8"),
    ("amount", "zoned(4)"),
    ("clock", "text(6) utf-8 as HHMISS"),
];

/// A schema that changes adds, widens, clears and drops columns, fills them anew, and says what is in the way.
#[test]
fn a_changed_plan_changes_the_table() {
    let mut mirror = Mirror::new();
    let table = |mirror: &Mirror| {
        mirror.sql("SELECT to_jsonb(c) - 'data' - 'rest' FROM cards AS c ORDER BY record_number")
    };
    let before = planned("/srv/cards", None, CARDS, &PlanSpec::default());
    let rows = (1..=100).map(|id| (id, record(format!("Smith {id:04}101112xx"))));
    mirror.apply([changes(&before, rows.chain([(101, residue("gone"))]))]);
    let first = &table(&mirror)[0];
    assert_eq!(
        first,
        r#"{"name": "Smith", "clock": "10:11:12", "amount": 1, "undecoded": null, "record_number": 1}"#
    );
    // Widened, one of them to text; one more; one fewer, which stays without a value.
    let wider: &[(&str, &str)] = &[
        ("name", "text(3) utf-8"),
        ("more", "text(3) utf-8"),
        ("amount", "zoned(10)"),
        ("last", "text(2) utf-8"),
    ];
    let after = planned("/srv/cards", None, wider, &PlanSpec::default());
    mirror.reopen();
    mirror.sql("CREATE VIEW smiths AS SELECT name, amount FROM cards");
    let error = mirror.refuse([changes(&after, [])]);
    assert_permanent(
        &error,
        &["smiths depends on column \"amount\"", "drop what depends"],
    );
    mirror.sql("DROP VIEW smiths");
    mirror.apply([changes(&after, [(101, record("Jones 0101101112yy"))])]);
    let rows = table(&mirror);
    assert_eq!(rows.len(), 101);
    assert_eq!(
        [&rows[0], &rows[100]],
        [
            r#"{"last": "xx", "more": "th", "name": "Smi", "clock": null, "amount": 1101112, "undecoded": null, "record_number": 1}"#,
            r#"{"last": "yy", "more": "es", "name": "Jon", "clock": null, "amount": 101101112, "undecoded": null, "record_number": 101}"#
        ]
    );
    let stored = &mirror.sink.files(STREAM).expect("listing")[0];
    assert_eq!(stored.shape.left.len(), 1);
    assert!(stored.shape.is_wanted(after.plan.as_ref().expect("a plan")));
    // Without the raw image, and what isn't filled any more is dropped.
    let lean = planned(
        "/srv/cards",
        None,
        &wider[..2],
        &PlanSpec {
            raw: false,
            may_drop: true,
            constants: map(&[("site", Constant::Number(7))]),
            ..PlanSpec::default()
        },
    );
    mirror.apply([changes(&lean, [(102, record("Miller0001"))])]);
    let rows = mirror.sql("SELECT to_jsonb(c) FROM cards AS c ORDER BY record_number");
    assert_eq!(
        [&rows[0], &rows[101]],
        [
            r#"{"more": "th", "name": "Smi", "site": 7, "undecoded": null, "record_number": 1}"#,
            r#"{"more": "ler", "name": "Mil", "site": 7, "undecoded": null, "record_number": 102}"#
        ]
    );
    assert_eq!(
        mirror.sql("SELECT count(*) FROM counterfoil_residue"),
        ["0"]
    );
    // What was thrown away doesn't come back.
    let error = mirror.refuse([changes(&before, [])]);
    assert_permanent(&error, &["without the raw image"]);
    assert_eq!(
        mirror.sql("SELECT count(*) FROM cards WHERE more IS NOT NULL"),
        ["102"]
    );
}

/// A column that somebody gave another type is taken if it holds more, and named if it doesn't.
#[test]
fn types_change_underneath() {
    let mut mirror = Mirror::new();
    let cards = planned("/srv/cards", None, CARDS, &PlanSpec::default());
    let rows = |from: u64| {
        let rows =
            (from..from + 100).map(|id| (id, record(format!("Smith {:04}101112", id % 1000))));
        changes(&cards, rows)
    };
    mirror.apply([rows(1)]);
    mirror.sql("ALTER TABLE cards ALTER amount TYPE numeric(20,2), ALTER name TYPE varchar(30)");
    mirror.reopen();
    mirror.apply([rows(101)]);
    mirror.apply([rows(50)]);
    let sum = (1..=200).sum::<u64>();
    assert_eq!(
        mirror.sql("SELECT sum(amount), max(name) FROM cards"),
        [format!("{sum}.00|Smith")]
    );
    for (column, kind) in [("amount", "text"), ("clock", "interval")] {
        mirror.sql(&format!("ALTER TABLE cards ALTER {column} TYPE {kind}"));
        mirror.reopen();
        let error = mirror.refuse([rows(201)]);
        let says = format!("column {column} is {kind}, not ");
        assert_permanent(&error, &["cards", &says, "somebody changed it"]);
        let back = if column == "amount" {
            "smallint"
        } else {
            "time"
        };
        let using = format!(
            "{column}::text::{}",
            if column == "amount" {
                "numeric"
            } else {
                "interval"
            }
        );
        mirror.sql(&format!(
            "ALTER TABLE cards ALTER {column} TYPE {back} USING ({using})::{back}"
        ));
    }
    mirror.apply([rows(201)]);
}

/// Times whose fractions get too fine for the server's type become text, in the form of those that come later.
#[test]
fn a_time_becomes_text() {
    let mut mirror = Mirror::new();
    let spec = |raw| PlanSpec {
        raw,
        ..PlanSpec::default()
    };
    let coarse = [
        ("clock", "text(9) utf-8 as HHMISSFFF"),
        ("at", "text(15) utf-8 as YYYYMMDDHHMISSF"),
    ];
    let fine = [
        ("clock", "text(15) utf-8 as HHMISSFFFFFFFFF"),
        ("at", "text(23) utf-8 as YYYYMMDDHHMISSFFFFFFFFF"),
    ];
    let before = planned("/srv/t", None, &coarse, &spec(false));
    mirror.apply([changes(
        &before,
        [
            (1, record("10111250020260131235959")),
            (2, record("101112000202601312359590")),
        ],
    )]);
    let after = planned("/srv/t", None, &fine, &spec(false));
    mirror.apply([changes(
        &after,
        [(3, record("10111250000000120260131235959500000001"))],
    )]);
    assert_eq!(
        mirror.sql("SELECT record_number, clock, at FROM t ORDER BY 1"),
        [
            "1|10:11:12.5|",
            "2|10:11:12|2026-01-31T23:59:59",
            "3|10:11:12.500000001|2026-01-31T23:59:59.500000001"
        ]
    );
}

/// A file without a plan gets one, and loses it again; the raw image is always the file's.
#[test]
fn a_plan_comes_and_goes() {
    let mut mirror = Mirror::new();
    let bare = file("/srv/cards");
    let typed = planned("/srv/cards", None, CARDS, &PlanSpec::default());
    let images: Vec<(u64, Image)> = (1..=3)
        .map(|id| (id, record(format!("Smith {id:04}101112"))))
        .collect();
    mirror.apply([changes(&bare, images.clone())]);
    for _ in 0..2 {
        mirror.apply([changes(&typed, [])]);
        assert_eq!(mirror.sql("SELECT sum(amount) FROM cards"), ["6"]);
        mirror.reopen();
        mirror.apply([changes(&bare, [])]);
        assert_eq!(mirror.sql("SELECT count(amount) FROM cards"), ["0"]);
    }
    assert_eq!(mirror.pieces("/srv/cards"), images);
    // Renamed to a path with another plan, and with none.
    let renamed = |to: &Arc<FileDescription>, from: &str| FileChanges {
        renamed_from: Some(from.into()),
        ..changes(to, [])
    };
    mirror.apply([renamed(
        &planned("/srv/old", None, &CARDS[..2], &PlanSpec::default()),
        "/srv/cards",
    )]);
    assert_eq!(
        mirror.sql("SELECT sum(amount), max(name) FROM old"),
        ["6|Smith"]
    );
    let rename = renamed(&planned("/srv/log", None, CARDS, &history()), "/srv/old");
    mirror.apply([rename]);
    assert_eq!(
        mirror.sql("SELECT sum(amount), count(*), min(op) FROM log"),
        ["6|3|put"]
    );
    assert_eq!(mirror.pieces("/srv/log"), images);
    mirror.apply([renamed(&bare, "/srv/log")]);
    assert_eq!(mirror.pieces("/srv/cards"), images);
    assert_eq!(
        mirror.sql("SELECT op, count(*) FROM log GROUP BY 1 ORDER BY 1"),
        ["delete|3", "put|3"]
    );
}

/// Tables of the version before are read as they are, and brought to this one.
#[test]
fn tables_of_the_first_version_are_brought_up() {
    let mut mirror = Mirror::new();
    let cards = file("/srv/cards");
    mirror.apply([
        changes(&cards, [(1, record("x"))]),
        changes(&static_file("/srv/etc", "/srv/etc/a"), [(0, record("a"))]),
    ]);
    let version_1 = "DROP TABLE counterfoil_histories; ALTER TABLE counterfoil_files DROP COLUMN shape; UPDATE counterfoil_schema SET version = 1";
    mirror.sql(version_1);
    let mut reader = PostgresSink::open_read_only(&mirror.config).expect("reading");
    assert_eq!(reader.files(STREAM).expect("listing").len(), 2);
    drop(reader);
    let careful = PostgresConfig {
        ddl: Ddl::Check,
        ..mirror.config.clone()
    };
    let error = PostgresSink::open(&careful)
        .err()
        .expect("it may change nothing");
    assert_permanent(&error, &["version 1", "ADD COLUMN shape text"]);
    mirror.reopen();
    assert_eq!(mirror.sql("SELECT version FROM counterfoil_schema"), ["2"]);
    mirror.apply([changes(
        &planned(
            "/srv/cards",
            None,
            &[("a", "text(1) utf-8")],
            &PlanSpec::default(),
        ),
        [],
    )]);
    assert_eq!(mirror.sql("SELECT a FROM cards"), ["x"]);
    PostgresSink::open(&careful).expect("all is there");
    mirror.sql("UPDATE counterfoil_schema SET version = 3");
    let error = PostgresSink::open(&mirror.config)
        .err()
        .expect("of a later one");
    assert_permanent(&error, &["version 3"]);
}

/// What constraints, types, triggers and deferred checks don't take is refused, by a rehearsal as well, which leaves nothing.
#[test]
fn rows_are_refused_and_rehearsed() {
    let mut mirror = Mirror::new();
    let spec = PlanSpec::default();
    let cards = planned("/srv/cards", None, CARDS, &spec);
    let line = |name: &str, id: u64| record(format!("{name:6}{id:04}101112"));
    mirror.apply([changes(&cards, [(1, line("a", 1))])]);
    let rows = |bad: Image| {
        let good = (2..=150).map(|id| (id, line("b", id)));
        changes(&cards, good.chain([(77, bad)]))
    };
    for (sql, back, bad, says) in [
        (
            "ALTER TABLE cards ADD CONSTRAINT few CHECK (amount < 1000)",
            "ALTER TABLE cards DROP CONSTRAINT few",
            line("x", 1000),
            "23514",
        ),
        (
            "CREATE UNIQUE INDEX once ON cards (amount)",
            "DROP INDEX once",
            line("x", 1),
            "23505",
        ),
        (
            "ALTER TABLE cards ADD CONSTRAINT later UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED",
            "ALTER TABLE cards DROP CONSTRAINT later",
            line("x", 1),
            "23505",
        ),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF new.name = 'bad' THEN RAISE 'not this one'; END IF; RETURN new; END $$;
             CREATE TRIGGER no BEFORE INSERT OR UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION no()",
            "DROP TRIGGER no ON cards",
            line("bad", 2000),
            "not this one",
        ),
    ] {
        mirror.sql(sql);
        let batch = mirror.batch([rows(bad)]);
        for _ in 0..2 {
            assert_refused(&mirror.sink.rehearse(&batch).expect_err(says), &[says]);
            assert_refused(&mirror.sink.apply(&batch).expect_err(says), &[says]);
        }
        let good = mirror.batch([rows(line("x", 77))]);
        mirror.sink.rehearse(&good).expect("it would be taken");
        assert_eq!(mirror.sql("SELECT count(*) FROM cards"), ["1"]);
        assert_eq!(
            mirror.sink.position(STREAM).expect("reading"),
            Some(position(mirror.lsn))
        );
        mirror.sql(back);
    }
    // A rehearsal makes no table either, and knows nothing of it afterwards.
    let new = planned("/srv/new", None, CARDS, &spec);
    let batch = mirror.batch([
        changes(&new, [(1, line("n", 1))]),
        changes(&cards, [(1, Image::Absent)]),
    ]);
    mirror.sink.rehearse(&batch).expect("it would be taken");
    mirror.sink.rehearse(&batch).expect("twice");
    assert_eq!(mirror.sql("SELECT to_regclass('new') IS NULL"), ["t"]);
    mirror.apply(batch.files);
    assert_eq!(mirror.sql("SELECT name FROM new"), ["n"]);
}

/// What `schema_sql` prints, run by somebody else, is all that a sink needs that may make nothing; what lacks is explained.
#[test]
fn a_sink_that_makes_nothing_finds_what_it_needs() {
    for ddl in [Ddl::Check, Ddl::None] {
        let mut mirror = Mirror::new();
        mirror.sql(&format!("DROP SCHEMA \"{}\" CASCADE", mirror.schema));
        mirror.config.ddl = ddl;
        if ddl == Ddl::Check {
            let error = PostgresSink::open(&mirror.config)
                .err()
                .expect("nothing is there");
            assert_permanent(&error, &["schema sql"]);
        }
        let files = [
            planned("/srv/a/cards", None, CARDS, &PlanSpec::default()),
            planned("/srv/b/cards", None, &CARDS[..1], &history()),
            file("/srv/raw"),
            static_file("/srv/etc", "/srv/etc/a"),
            static_file("/srv/etc", "/srv/etc/b"),
        ];
        let descriptions: Vec<FileDescription> =
            files.iter().map(|file| (**file).clone()).collect();
        let statements = schema_sql(&mirror.config, &descriptions).expect("statements");
        mirror.sql(&statements.join(";\n"));
        mirror.reopen();
        let put = |text: &str| Logged {
            position: position(mirror.lsn + 1),
            captured_ns: 0,
            change: LoggedChange::Image {
                id: 1,
                image: record(text),
            },
        };
        let logged = FileChanges {
            log: vec![put("Smith ")],
            ..changes(&files[1], [(1, record("Smith "))])
        };
        let rows = |file: &Arc<FileDescription>, from| {
            let rows = (from..100).map(|id| (id, record(format!("Smith {id:04}101112"))));
            changes(file, rows)
        };
        mirror.apply([
            rows(&files[0], 1),
            logged,
            rows(&files[2], 1),
            changes(&files[3], [(0, record("x"))]),
            changes(&files[4], [(0, record("y"))]),
        ]);
        mirror.reopen();
        mirror.apply([rows(&files[0], 50), rows(&files[2], 50)]);
        assert_eq!(mirror.sql("SELECT sum(amount) FROM cards"), ["4950"]);
        assert_eq!(mirror.sql("SELECT name, op FROM cards_2"), ["Smith|put"]);
        assert_eq!(mirror.sql("SELECT count(*) FROM etc_files"), ["2"]);
        // Another column, which somebody has to make.
        let more = [CARDS, &[("more", "text(2) utf-8")]].concat();
        let more = planned("/srv/a/cards", None, &more, &PlanSpec::default());
        let error = mirror.refuse([changes(&more, [])]);
        if ddl == Ddl::Check {
            let add = format!(
                "ALTER TABLE \"{}\".\"cards\" ADD COLUMN \"more\" text",
                mirror.schema
            );
            assert_permanent(&error, &["column more is missing", &add]);
            mirror.sql(&add);
            mirror.apply([changes(&more, [(200, record("Miller0001101112zz"))])]);
            assert_eq!(
                mirror.sql("SELECT more FROM cards WHERE amount = 1 ORDER BY 1 NULLS FIRST"),
                ["", "zz"]
            );
            // A file that nobody made a table for.
            let error = mirror.refuse([changes(&planned("/srv/new", None, CARDS, &history()), [])]);
            assert_permanent(
                &error,
                &["CREATE TABLE", "\"new\"", "PRIMARY KEY", "captured_at"],
            );
            mirror.sql("ALTER TABLE counterfoil_files ALTER COLUMN record_size TYPE integer");
            let error = PostgresSink::open(&mirror.config)
                .err()
                .expect("it differs");
            assert_permanent(
                &error,
                &[
                    "counterfoil_files",
                    "record_size is integer, not bigint",
                    "ALTER COLUMN",
                ],
            );
            mirror.sql("ALTER TABLE counterfoil_files ALTER COLUMN record_size TYPE bigint");
            mirror.reopen();
        } else {
            assert_permanent(&error, &["more"]);
        }
        // A file that goes leaves its table, and a renamed one finds the other.
        mirror.sql("CREATE TABLE other (LIKE cards INCLUDING ALL); CREATE TABLE tree2 (LIKE etc INCLUDING ALL)");
        let other = planned("/srv/other", None, CARDS, &PlanSpec::default());
        let renamed = FileChanges {
            renamed_from: Some(b"/srv/a/cards".to_vec()),
            ..changes(&other, [])
        };
        let gone = FileChanges {
            fate: FileFate::Removed,
            ..changes(&files[2], [])
        };
        let tree = Arc::new(FileDescription {
            table: Some("tree2".into()),
            ..(*files[3]).clone()
        });
        mirror.apply([renamed, gone, changes(&tree, [(0, record("z"))])]);
        assert_eq!(mirror.sql("SELECT count(*) FROM cards"), ["0"]);
        assert_eq!(
            mirror.sql("SELECT count(*) > 98, max(name) FROM other"),
            ["t|Smith"]
        );
        assert_eq!(mirror.sql("SELECT count(*) FROM raw"), ["0"]);
        assert_eq!(
            mirror.sql("SELECT convert_from(data, 'UTF8') FROM tree2 ORDER BY 1"),
            ["y", "z"]
        );
    }
}

/// What `schema_sql` prints, run by somebody else, for a sink that may make nothing.
fn made_by_others(ddl: Ddl, files: &[&Arc<FileDescription>]) -> Mirror {
    let mut mirror = Mirror::new();
    mirror.sql(&format!("DROP SCHEMA \"{}\" CASCADE", mirror.schema));
    mirror.config.ddl = ddl;
    let files: Vec<FileDescription> = files.iter().map(|file| (***file).clone()).collect();
    let statements = schema_sql(&mirror.config, &files).expect("statements");
    mirror.sql(&statements.join(";\n"));
    mirror.reopen();
    mirror
}

/// What a plan doesn't want any more, and nobody may drop, is emptied: columns and the raw image, from which the others are
/// filled before. What somebody dropped is dropped.
#[test]
fn what_may_not_be_dropped_is_emptied() {
    for ddl in [Ddl::Check, Ddl::None] {
        let paths = ["/srv/kept", "/srv/dropped"];
        let [kept, dropped] = paths.map(|path| planned(path, None, CARDS, &PlanSpec::default()));
        let mut mirror = made_by_others(ddl, &[&kept, &dropped]);
        let rows = || (1..=100).map(|id| (id, record(format!("Smith {id:04}101112"))));
        mirror.apply([
            changes(&kept, rows().chain([(101, residue("gone"))])),
            changes(&dropped, rows()),
        ]);
        let fields: &[(&str, &str)] = &[("name", "text(3) utf-8"), ("more", "text(3) utf-8")];
        let lean = PlanSpec {
            raw: false,
            may_drop: true,
            ..PlanSpec::default()
        };
        let [lean_kept, lean_dropped] = paths.map(|path| planned(path, None, fields, &lean));
        mirror.sql("ALTER TABLE kept ADD COLUMN more text");
        let error = mirror.refuse([changes(&lean_kept, [])]);
        let mend = format!(
            "ALTER TABLE \"{}\".\"kept\" ALTER COLUMN \"data\" DROP NOT NULL",
            mirror.schema
        );
        assert_permanent(&error, &["column data", "is NOT NULL", &mend]);
        mirror.sql(&mend);
        mirror.apply([changes(&lean_kept, [(102, record("Miller0001101112"))])]);
        let table = |mirror: &Mirror, name: &str| {
            mirror.sql(&format!(
                "SELECT to_jsonb(t) FROM {name} AS t ORDER BY record_number"
            ))
        };
        let shown = table(&mirror, "kept");
        assert_eq!(
            [&shown[0], &shown[100]],
            [
                r#"{"data": null, "more": "th", "name": "Smi", "rest": null, "clock": null, "amount": null, "undecoded": null, "record_number": 1}"#,
                r#"{"data": null, "more": "ler", "name": "Mil", "rest": null, "clock": null, "amount": null, "undecoded": null, "record_number": 102}"#
            ]
        );
        assert_eq!(
            mirror.sql(
                "SELECT count(*) FROM kept WHERE coalesce(data, rest) IS NOT NULL OR more IS NULL"
            ),
            ["0"]
        );
        assert_eq!(
            mirror.sql("SELECT count(*) FROM counterfoil_residue"),
            ["0"]
        );
        mirror.sql(
            "ALTER TABLE dropped DROP COLUMN data, DROP COLUMN rest, DROP COLUMN amount, DROP COLUMN clock, ADD COLUMN more text",
        );
        mirror.apply([changes(&lean_dropped, [(1, record("Miller0001101112"))])]);
        let shown = table(&mirror, "dropped");
        assert_eq!(
            [&shown[0], &shown[1]],
            [
                r#"{"more": "ler", "name": "Mil", "undecoded": null, "record_number": 1}"#,
                r#"{"more": null, "name": "Smith", "undecoded": null, "record_number": 2}"#
            ]
        );
    }
}

/// A history's rows are told apart by its key alone: with one that has more columns nothing is written, and nothing is lost.
#[test]
fn a_history_with_a_wider_key_is_refused() {
    for ddl in [Ddl::Manage, Ddl::None] {
        let cards = planned("/srv/cards", Some("cards"), &CARDS[..1], &history());
        let tree = static_file("/srv/etc", "/srv/etc/a");
        let mut mirror = made_by_others(ddl, &[&cards, &tree]);
        let entry = |lsn, text: &str| FileChanges {
            log: log([(lsn, image(1, record(text)))]),
            ..changes(&cards, [(1, record(text))])
        };
        let rekey = |mirror: &Mirror, columns: &str| {
            mirror.sql(&format!(
                "ALTER TABLE cards DROP CONSTRAINT cards_pkey; ALTER TABLE cards ADD PRIMARY KEY ({columns})"
            ));
        };
        let key = "record_number, epoch, lsn, idx";
        let wider = format!("{key}, captured_at");
        rekey(&mirror, &wider);
        let error = mirror.refuse([entry(1, "Smith ")]);
        match ddl {
            Ddl::None => assert_permanent(&error, &["its key has more columns", "a history"]),
            _ => assert_permanent(
                &error,
                &["there is no primary key on (record_number, epoch"],
            ),
        }
        rekey(&mirror, key);
        mirror.apply([entry(1, "Smith ")]);
        rekey(&mirror, &wider);
        mirror.reopen();
        let error = mirror.refuse([entry(101, "Jones ")]);
        assert_permanent(
            &error,
            &[
                "its key has more columns than record_number, epoch, lsn, idx",
                "a history",
                "alone",
            ],
        );
        rekey(&mirror, key);
        mirror.apply([entry(101, "Jones ")]);
        assert_eq!(
            mirror.sql("SELECT lsn, name FROM cards ORDER BY lsn"),
            ["1|Smith", "101|Jones"]
        );
        if ddl == Ddl::None {
            mirror.sql(
                "ALTER TABLE etc DROP CONSTRAINT etc_pkey; ALTER TABLE etc ADD PRIMARY KEY (file_id, block_number, data)",
            );
            let error = mirror.refuse([changes(&tree, [(0, record("x"))])]);
            assert_permanent(&error, &["its key has more columns", "static files"]);
        }
    }
}

/// Who doesn't look lets the server make of values what columns hold, however many there are, and wherever it thinks it is.
#[test]
fn who_doesnt_look_has_values_converted() {
    let fields: &[(&str, &str)] = &[
        ("amount", "zoned(12)"),
        ("moment", "text(20) utf-8 as YYYYMMDDHHMISSFFFFFF"),
    ];
    let cards = planned("/srv/cards", None, fields, &PlanSpec::default());
    let past = planned("/srv/past", None, fields, &history());
    let mut mirror = made_by_others(Ddl::None, &[&cards, &past]);
    for table in ["cards", "past"] {
        mirror.sql(&format!(
            "ALTER TABLE {table} ALTER COLUMN amount TYPE double precision, ALTER COLUMN moment TYPE timestamptz"
        ));
    }
    let url = mirror.config.url.take().expect("a URL");
    let between = if url.contains('?') { '&' } else { '?' };
    mirror.config.url = Some(format!(
        "{url}{between}options=-c%20TimeZone%3DAsia%2FTokyo"
    ));
    mirror.reopen();
    let line = |id: u64| record(format!("{id:012}20240229123456000000"));
    let rows = || (1..=100).map(|id| (id, line(id)));
    mirror.apply([
        changes(&cards, rows()),
        FileChanges {
            log: log(rows().map(|(id, record)| (id, image(id, record)))),
            ..changes(&past, rows())
        },
    ]);
    for table in ["cards", "past"] {
        assert_eq!(
            mirror.sql(&format!(
                "SELECT sum(amount), count(*), min(moment AT TIME ZONE 'UTC'), max(moment AT TIME ZONE 'UTC') FROM {table}"
            )),
            ["5050|100|2024-02-29 12:34:56|2024-02-29 12:34:56"],
            "{table}"
        );
    }
}

/// A table that the DBA made for columns, with wider types, names in capitals, and partitioned by one of them.
#[test]
fn a_table_that_others_made_takes_columns() {
    let mut mirror = Mirror::new();
    mirror.sql(
        "CREATE TABLE cards (record_number bigint, data bytea NOT NULL, rest bytea, \"NAME\" varchar(30), amount bigint,
             clock time(3), site text, undecoded text, seen timestamptz DEFAULT now(), PRIMARY KEY (record_number, site))
             PARTITION BY LIST (site);
         CREATE TABLE cards_hq PARTITION OF cards FOR VALUES IN ('hq');
         CREATE TABLE wrong (record_number bigint PRIMARY KEY, data bytea, rest bytea, name char(6), amount smallint NOT NULL,
             clock timetz, undecoded text);
         CREATE TABLE rates (record_number bigint PRIMARY KEY, data bytea, rest bytea, name text, amount numeric,
             clock time, undecoded text)",
    );
    let spec = PlanSpec {
        constants: map(&[("site", Constant::Text("{site}".into()))]),
        ..PlanSpec::default()
    };
    let fields: &[(&str, &str)] = &[
        ("name", "text(6) utf-8"),
        ("amount", "zoned(5)"),
        ("clock", CARDS[2].1),
    ];
    let cards = planned("/srv/cards", Some("cards"), fields, &spec);
    let line = |id: u64| (id, record(format!("Smith {id:05}101112")));
    mirror.apply([changes(&cards, (1..200).map(line))]);
    mirror.reopen();
    mirror.apply([changes(
        &cards,
        (100..300)
            .map(|id| (id, line(id + 1).1))
            .chain([(1, Image::Absent)]),
    )]);
    assert_eq!(
        mirror.sql("SELECT count(*), sum(amount), min(\"NAME\"), count(seen) FROM cards_hq"),
        [format!(
            "298|{}|Smith|298",
            (2..100).sum::<u64>() + (101..301).sum::<u64>()
        )]
    );
    assert_eq!(mirror.pieces("/srv/cards").len(), 298);
    let shape = &mirror.sink.files(STREAM).expect("listing")[0].shape;
    assert_eq!(shape.columns[1].kind, ColumnKind::BigInt);
    let wrong = planned("/srv/wrong", Some("wrong"), fields, &PlanSpec::default());
    let error = mirror.refuse([changes(&wrong, [])]);
    assert_permanent(
        &error,
        &[
            "column name is character(6), not text",
            "column amount is smallint, not integer",
            "column clock is time with time zone, not time",
            "ALTER COLUMN \"amount\" TYPE integer",
        ],
    );
    // Numbers of any size, as the DBA likes them; and a further column is the DBA's to make.
    let rates = planned("/srv/rates", Some("rates"), fields, &PlanSpec::default());
    mirror.apply([changes(&rates, (1..100).map(line))]);
    assert_eq!(mirror.sql("SELECT sum(amount) FROM rates"), ["4950"]);
    let more = [fields, &[("more", "text(1) utf-8")]].concat();
    let more = planned("/srv/rates", Some("rates"), &more, &PlanSpec::default());
    let error = mirror.refuse([changes(&more, [])]);
    assert_permanent(&error, &["column more is missing", "ADD COLUMN"]);
    // A unique index of theirs: what is twice is refused, not tried for ever.
    mirror.sql("CREATE UNIQUE INDEX once ON rates (amount)");
    let error = mirror.refuse([changes(&rates, (100..200).map(|id| (id, line(7).1)))]);
    assert_refused(&error, &["23505", "once"]);
}

fn log(entries: impl IntoIterator<Item = (u64, LoggedChange)>) -> Vec<Logged> {
    entries
        .into_iter()
        .map(|(lsn, change)| Logged {
            position: position(lsn),
            captured_ns: 1_700_000_000_000_000_000 + i64::try_from(lsn).expect("small") * 1000,
            change,
        })
        .collect()
}

fn image(id: u64, image: Image) -> LoggedChange {
    LoggedChange::Image { id, image }
}

/// Every change is a row; what is there now is what the last rows say, also after clearing, renaming, removing and coming again.
#[test]
fn a_history_keeps_every_change() {
    let mut mirror = Mirror::new();
    let spec = history();
    let fields = &CARDS[..2];
    let cards = planned("/srv/cards", None, fields, &spec);
    let line = |name: &str, id: u64| record(format!("{name:6}{id:04}"));
    let shown = |mirror: &Mirror, table: &str| {
        mirror.sql(&format!(
            "SELECT concat_ws(' ', record_number, lsn, op, name, amount) FROM {table} ORDER BY lsn, record_number, idx"
        ))
    };
    mirror.apply([FileChanges {
        log: log([
            (1, image(1, line("a", 1))),
            (2, image(2, line("b", 2))),
            (3, image(1, line("c", 3))),
            (4, image(2, Image::Absent)),
            (5, image(9, Image::Absent)),
            (6, image(3, residue("r"))),
            (7, image(4, line("d", 4))),
        ]),
        ..changes(
            &cards,
            [
                (1, line("c", 3)),
                (2, Image::Absent),
                (3, residue("r")),
                (4, line("d", 4)),
            ],
        )
    }]);
    assert_eq!(
        shown(&mirror, "cards"),
        [
            "1 1 put a 1",
            "2 2 put b 2",
            "1 3 put c 3",
            "2 4 delete",
            "4 7 put d 4"
        ]
    );
    assert_eq!(
        mirror.pieces("/srv/cards"),
        [(1, line("c", 3)), (3, residue("r")), (4, line("d", 4))]
    );
    assert_eq!(
        mirror.sql("SELECT captured_at FROM cards WHERE lsn = 7"),
        ["2023-11-14 22:13:20.000007"]
    );
    // Cleared in the middle of many, and again deleted what isn't there.
    mirror.reopen();
    let many = (110..210).map(|lsn| (lsn, image(lsn, line("m", lsn))));
    let rest = [
        (101, image(4, residue("gone"))),
        (102, image(4, Image::Absent)),
        (103, image(2, Image::Absent)),
        (104, image(5, line("e", 5))),
        (105, LoggedChange::Cleared(1..u64::MAX)),
        (106, image(1, line("f", 6))),
    ];
    let images = (110..210).map(|id| (id, line("m", id)));
    mirror.lsn += 200;
    mirror.apply([FileChanges {
        cleared: std::iter::once(1..u64::MAX).collect(),
        log: log(rest.into_iter().chain(many)),
        ..changes(&cards, images.chain([(1, line("f", 6))]))
    }]);
    assert_eq!(
        shown(&mirror, "cards")[5..10],
        [
            "4 101 delete",
            "5 104 put e 5",
            "1 105 delete",
            "5 105 delete",
            "1 106 put f 6"
        ]
    );
    assert_eq!(mirror.pieces("/srv/cards").len(), 101);
    assert_eq!(mirror.sql("SELECT count(*) FROM cards"), ["110"]);
    // Renamed: the old table says that all are gone, the new one has them.
    let old = planned("/srv/old", None, fields, &spec);
    let begin = mirror.lsn;
    mirror.apply([FileChanges {
        renamed_from: Some(b"/srv/cards".to_vec()),
        log: log([(begin + 50, image(110, line("g", 7)))]),
        ..changes(&old, [(110, line("g", 7))])
    }]);
    assert_eq!(
        mirror.sql("SELECT op, count(*) FROM cards GROUP BY 1 ORDER BY 1"),
        ["delete|105", "put|106"]
    );
    assert_eq!(mirror.pieces("/srv/old").len(), 101);
    assert_eq!(mirror.pieces("/srv/old")[1], (110, line("g", 7)));
    // A file of the first name goes on with the first table, with a column more, and back come the records.
    let more = [fields, &[("more", "text(1) utf-8")]].concat();
    let again = planned("/srv/cards", None, &more, &spec);
    mirror.apply([FileChanges {
        renamed_from: Some(b"/srv/old".to_vec()),
        ..changes(&again, [])
    }]);
    let files = mirror.sink.files(STREAM).expect("listing");
    assert_eq!(files.len(), 1);
    assert_eq!(
        (&*files[0].table, files[0].shape.mode),
        ("cards", Mode::History)
    );
    assert_eq!(mirror.pieces("/srv/cards").len(), 101);
    assert_eq!(
        mirror.sql("SELECT count(*) FROM cards WHERE op = 'put'"),
        ["207"]
    );
    // Removed, and made again, in one batch.
    let begin = mirror.lsn;
    mirror.apply([
        FileChanges {
            fate: FileFate::Removed,
            log: log([
                (begin + 1, image(1, line("h", 8))),
                (begin + 2, LoggedChange::Cleared(0..u64::MAX)),
            ]),
            ..changes(&again, [])
        },
        FileChanges {
            log: log([(begin + 3, image(1, line("i", 9)))]),
            ..changes(&again, [(1, line("i", 9))])
        },
    ]);
    assert_eq!(mirror.pieces("/srv/cards"), [(1, line("i", 9))]);
    // Removed without a word of its records.
    mirror.apply([FileChanges {
        fate: FileFate::Removed,
        ..changes(&again, [])
    }]);
    assert_eq!(mirror.pieces("/srv/cards"), []);
    assert_eq!(
        mirror.sql(&format!("SELECT op FROM cards WHERE lsn = {}", mirror.lsn)),
        ["delete"]
    );
    assert_eq!(mirror.sql("SELECT to_regclass('cards_2') IS NULL"), ["t"]);
    // It is no other file's, and no mirror's.
    for (path, spec) in [
        ("/srv/b/cards", &spec),
        ("/srv/cards", &PlanSpec::default()),
    ] {
        let other = planned(path, None, fields, spec);
        mirror.apply([changes(&other, [])]);
    }
    let files = mirror.sink.files(STREAM).expect("listing");
    let tables: Vec<&str> = files.iter().map(|file| &*file.table).collect();
    assert_eq!(tables, ["cards_2", "cards_3"]);
    // The first one's comes again with its history, without being filled anew.
    let gone = FileChanges {
        fate: FileFate::Removed,
        ..changes(&file("/srv/cards"), [])
    };
    mirror.apply([gone]);
    mirror.sql("UPDATE cards SET name = 'seen' WHERE op = 'put'");
    mirror.apply([changes(&again, [])]);
    assert_eq!(
        mirror.sql("SELECT DISTINCT name FROM cards WHERE op = 'put'"),
        ["seen"]
    );
}

/// A history's columns are filled anew like those of a mirror, and its table may have no raw image.
#[test]
fn a_history_evolves() {
    let mut mirror = Mirror::new();
    let cards = planned("/srv/cards", None, &CARDS[..1], &history());
    let entry = |lsn, text: &str| (lsn, image(1, record(text)));
    mirror.apply([FileChanges {
        log: log([
            entry(1, "Smith 0001"),
            entry(2, "Jones 0002"),
            (3, image(1, Image::Absent)),
        ]),
        ..changes(&cards, [(1, Image::Absent)])
    }]);
    let more = planned("/srv/cards", None, &CARDS[..2], &history());
    mirror.reopen();
    mirror.apply([changes(&more, [])]);
    assert_eq!(
        mirror.sql("SELECT lsn, op, name, amount FROM cards ORDER BY lsn"),
        ["1|put|Smith|1", "2|put|Jones|2", "3|delete||"]
    );
    let lean = planned(
        "/srv/cards",
        None,
        &CARDS[..2],
        &PlanSpec {
            raw: false,
            ..history()
        },
    );
    mirror.apply([FileChanges {
        log: log([entry(201, "Brown 0003")]),
        ..changes(&lean, [(1, record("Brown 0003"))])
    }]);
    assert_eq!(
        mirror.sql("SELECT lsn, op, name, amount FROM cards ORDER BY lsn"),
        [
            "1|put|Smith|1",
            "2|put|Jones|2",
            "3|delete||",
            "201|put|Brown|3"
        ]
    );
    assert_eq!(mirror.pieces("/srv/cards"), []);
    let renamed = FileChanges {
        renamed_from: Some(b"/srv/cards".to_vec()),
        ..changes(
            &planned(
                "/srv/old",
                None,
                &CARDS[..2],
                &PlanSpec {
                    raw: false,
                    ..history()
                },
            ),
            [],
        )
    };
    mirror.apply([renamed]);
    assert_eq!(
        mirror.sql("SELECT op, name, amount FROM old"),
        ["put|Brown|3"]
    );
}

/// A key has an index that isn't unique and follows the configuration; where others make tables, they make it.
#[test]
fn a_key_has_an_index() {
    let keyed = |path: &str, key: &[&str]| {
        let spec = PlanSpec {
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            may_drop: true,
            ..PlanSpec::default()
        };
        planned(path, None, CARDS, &spec)
    };
    let mut mirror = Mirror::new();
    let indexes = |mirror: &mut Mirror, table: &str| {
        mirror.sql(&format!(
            // (The view pg_indexes looks at tables that other tests drop.)
            "SELECT substring(pg_get_indexdef(indexrelid) from '\\(.*$') FROM pg_index
             WHERE indrelid = '{table}'::regclass AND NOT indisunique ORDER BY 1"
        ))
    };
    // Two records alike are no problem.
    let alike = || (1..=2).map(|id| (id, record("Smith 0042101112")));
    mirror.apply([changes(&keyed("/srv/cards", &["amount", "name"]), alike())]);
    assert_eq!(indexes(&mut mirror, "cards"), ["(amount, name)"]);
    mirror.sql("CREATE INDEX mine ON cards (clock)");
    mirror.apply([changes(&keyed("/srv/cards", &["name"]), [])]);
    assert_eq!(indexes(&mut mirror, "cards"), ["(clock)", "(name)"]);
    mirror.apply([FileChanges {
        renamed_from: Some("/srv/cards".into()),
        ..changes(&keyed("/srv/renamed", &["name"]), [])
    }]);
    mirror.apply([changes(&keyed("/srv/cards", &["name"]), alike())]);
    assert_eq!(indexes(&mut mirror, "cards"), ["(name)"]);
    assert_eq!(indexes(&mut mirror, "renamed"), ["(clock)", "(name)"]);
    mirror.reopen();
    mirror.apply([changes(&keyed("/srv/renamed", &[]), [])]);
    assert_eq!(indexes(&mut mirror, "renamed"), ["(clock)"]);
    assert_eq!(indexes(&mut mirror, "cards"), ["(name)"]);

    let (plain, key) = (keyed("/srv/cards", &[]), keyed("/srv/cards", &["amount"]));
    let mut mirror = made_by_others(Ddl::Check, &[&plain]);
    mirror.apply([changes(&plain, alike())]);
    let error = mirror.refuse([changes(&key, [])]).to_string();
    assert!(
        error.contains("CREATE INDEX ON") && error.contains("(\"amount\")"),
        "{error}"
    );
    mirror.sql("CREATE INDEX mine ON cards (amount, name)");
    mirror.reopen();
    mirror.apply([changes(&key, [])]);
    let mut mirror = made_by_others(Ddl::Check, &[&key]);
    mirror.apply([changes(&key, alike())]);
    assert_eq!(indexes(&mut mirror, "cards"), ["(amount)"]);
}
