//! The contract through Debian's drivers, and what only drivers can do wrong.

use super::*;
use crate::contract::targets::{self, MariadbTarget, PostgresTarget, Room, SqliteTarget};
use crate::contract::{
    Change, Faults, Harness, STREAM, Target, assert_permanent, batch, changes, content, file,
    planned, record,
};
use crate::plan::{ColumnKind, Constant, Mode, Origin, Plan, PlanSpec};
use crate::sql::quoted;
use crate::{FileChanges, FileDescription, FileFate, FileSchema, Image, Logged, LoggedChange};
use counterfoil_records::schema::{FieldSpec, RecordSchema};
use counterfoil_records::{Layout, Organization, RecordFormat};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A driver of Debian's, by the path of its library: nothing has to be registered then.
fn driver(library: &str, package: &str) -> PathBuf {
    let path = Path::new("/usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH))
        .join("odbc")
        .join(library);
    assert!(
        path.exists(),
        "{} isn't there: install {package}",
        path.display()
    );
    path
}

fn config(connection: String) -> OdbcConfig {
    OdbcConfig::new(connection).expect("a good connection string")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a test needs of a database beside the driver under test.
trait Database: Target {
    fn config(&self) -> OdbcConfig;
    /// Makes it empty.
    fn empty(&mut self);
    /// Runs SQL by the database's own client. What it gives has a line for each row, and `|` between columns.
    fn run(&self, sql: &str) -> String;
    /// The same, as the user that the sink is.
    fn make(&self, sql: &str) {
        self.run(sql);
    }
    /// SQL for bytes.
    fn literal(&self, bytes: &[u8]) -> String;
    /// As [`Harness::rows`], of a view.
    fn shown(&self, view: &str, columns: &[&str]) -> Vec<Vec<Option<String>>>;
    /// The names of a view's columns.
    fn columns_of(&self, view: &str) -> Vec<String>;
    /// Refuses rows with this text in this column of a table.
    fn refuse(&self, table: &str, column: &str, text: &str);
    /// As [`Harness::cannot`].
    fn cannot_do(case: &str) -> Option<&'static str>;
    /// The same, in the generic dialect.
    fn cannot_do_generically(_case: &str) -> Option<&'static str> {
        None
    }
}

impl Database for PostgresTarget {
    fn config(&self) -> OdbcConfig {
        OdbcConfig {
            username: Some(self.user().into()),
            schema: Some(self.schema().into()),
            ..config(format!(
                "Driver={};Server={};Port={};Database={}",
                driver("psqlodbcw.so", "odbc-postgresql").display(),
                self.socket_dir().display(),
                self.port(),
                targets::POSTGRES_DATABASE
            ))
        }
    }

    fn empty(&mut self) {
        self.fresh();
    }

    fn run(&self, sql: &str) -> String {
        self.sql(sql)
    }

    fn make(&self, sql: &str) {
        self.sql(&format!("SET ROLE {}; {sql}", self.user()));
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex(bytes))
    }

    fn shown(&self, view: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let text = |name: &&str| format!("{}::text", quoted(name));
        let values: Vec<String> = columns.iter().map(text).collect();
        json(&self.sql(&format!(
            "SELECT to_json(ARRAY[{}]) FROM {}",
            values.join(", "),
            quoted(view)
        )))
    }

    fn columns_of(&self, view: &str) -> Vec<String> {
        json(&self.sql(&format!(
            "SELECT to_json(attname::text) FROM pg_attribute
             WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            quoted(view)
        )))
    }

    fn refuse(&self, table: &str, column: &str, text: &str) {
        let column = quoted(column);
        self.sql(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT forbidden CHECK ({column} <> '{text}')"
        ));
    }

    fn cannot_do(case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => Room::cannot(),
            _ => None,
        }
    }
}

impl Database for MariadbTarget {
    fn config(&self) -> OdbcConfig {
        OdbcConfig {
            username: Some(self.database().into()),
            ..config(format!(
                "Driver={};Socket={};Database={}",
                driver("libmaodbc.so", "odbc-mariadb").display(),
                self.socket().display(),
                self.database()
            ))
        }
    }

    fn empty(&mut self) {
        self.fresh();
    }

    fn run(&self, sql: &str) -> String {
        self.sql(&sql.replace('"', "`")).replace('\t', "|")
    }

    fn make(&self, sql: &str) {
        self.sql(sql);
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn shown(&self, view: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let kinds = self.sql(&format!(
            "SELECT HEX(column_name), data_type FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = '{}'",
            view.replace('\'', "''")
        ));
        let values: Vec<String> = columns
            .iter()
            .map(|name| {
                let key = hex(name.as_bytes()).to_uppercase();
                let kind = kinds.lines().find_map(|line| {
                    let (there, kind) = line.split_once('\t')?;
                    there.eq_ignore_ascii_case(&key).then_some(kind)
                });
                let name = format!("`{}`", name.replace('`', "``"));
                let text = match kind {
                    Some(kind) if kind.ends_with("blob") || kind.ends_with("binary") => {
                        format!("HEX({name})")
                    }
                    // As a double it has all its digits.
                    Some("float") => format!("CAST(CAST({name} AS DOUBLE) AS CHAR)"),
                    _ => format!("CAST({name} AS CHAR)"),
                };
                // What is in a text may be anything; digits are themselves.
                format!("IFNULL(HEX({text}), 'NULL')")
            })
            .collect();
        let view = view.replace('`', "``");
        unhexed(
            &self.sql(&format!("SELECT {} FROM `{view}`", values.join(", "))),
            '\t',
        )
    }

    fn columns_of(&self, view: &str) -> Vec<String> {
        let names = self.sql(&format!(
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = '{view}' ORDER BY ordinal_position"
        ));
        names.lines().map(str::to_owned).collect()
    }

    fn refuse(&self, table: &str, column: &str, text: &str) {
        self.sql(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT forbidden CHECK (`{column}` <> '{text}')"
        ));
    }

    fn cannot_do(_case: &str) -> Option<&'static str> {
        None
    }
}

impl Database for SqliteTarget {
    fn config(&self) -> OdbcConfig {
        config(format!(
            // What the dialect sets by itself; the generic one can't.
            "Driver={};Database={};JournalMode=WAL;Timeout=300",
            driver("libsqlite3odbc.so", "libsqliteodbc").display(),
            self.path().display()
        ))
    }

    fn empty(&mut self) {
        self.fresh();
    }

    fn run(&self, sql: &str) -> String {
        self.sql(sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn shown(&self, view: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let values: Vec<String> = columns
            .iter()
            .map(|name| {
                let name = quoted(name);
                format!(
                    // Its own digits of a number aren't all.
                    "CASE typeof({name}) WHEN 'null' THEN 'NULL' WHEN 'blob' THEN hex(hex({name})) WHEN 'real' THEN
                         hex('{REAL}' || hex(ieee754_to_blob({name}))) ELSE hex(CAST({name} AS TEXT)) END"
                )
            })
            .collect();
        let mut rows = unhexed(
            &self.sql(&format!(
                "SELECT {} FROM {}",
                values.join(", "),
                quoted(view)
            )),
            '|',
        );
        for value in rows.iter_mut().flatten().flatten() {
            if let Some(digits) = value.strip_prefix(REAL) {
                let bits = u64::from_str_radix(digits, 16).expect("digits");
                *value = f64::from_bits(bits).to_string();
            }
        }
        rows
    }

    fn columns_of(&self, view: &str) -> Vec<String> {
        json(&self.sql(&format!(
            "SELECT json_quote(name) FROM pragma_table_info('{view}')"
        )))
    }

    fn refuse(&self, table: &str, column: &str, text: &str) {
        for event in ["INSERT", "UPDATE"] {
            self.sql(&format!(
                "CREATE TRIGGER forbid_{event} BEFORE {event} ON {table} WHEN NEW.{} = '{text}'
                 BEGIN SELECT RAISE(ABORT, 'that is forbidden'); END",
                quoted(column)
            ));
        }
    }

    fn cannot_do(case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => Some("the driver can't be told how large the database may become"),
            case => SqliteTarget::cannot(case),
        }
    }

    fn cannot_do_generically(case: &str) -> Option<&'static str> {
        match case {
            "keeps_every_kind_of_column" => Some(
                "SQLite makes floating-point numbers of decimals; its own dialect has text instead",
            ),
            "refuses_a_row_and_leaves_nothing" => Some(
                "the driver has one SQLSTATE for all that goes wrong; only SQLite's own dialect knows its numbers",
            ),
            _ => None,
        }
    }
}

/// What is before the bits of a number.
const REAL: &str = "bits of a number ";

/// Values that are told by the hexadecimal digits of their text.
fn unhexed(lines: &str, separator: char) -> Vec<Vec<Option<String>>> {
    let value = |value: &str| {
        let digits = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).expect("digits");
        let bytes = || (0..value.len()).step_by(2).map(digits).collect();
        (value != "NULL").then(|| String::from_utf8(bytes()).expect("UTF-8"))
    };
    let lines = lines.lines();
    lines
        .map(|line| line.split(separator).map(value).collect())
        .collect()
}

/// Lines of JSON.
fn json<T: serde::de::DeserializeOwned>(lines: &str) -> Vec<T> {
    let lines = lines.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// A database of its own, spoken to in a dialect.
struct OdbcHarness<D> {
    database: D,
    dialect: Option<Dialect>,
    is_patient: bool,
}

impl<D: Database> OdbcHarness<D> {
    fn new(mut database: D, dialect: Option<Dialect>) -> Self {
        database.empty();
        OdbcHarness {
            database,
            dialect,
            is_patient: false,
        }
    }

    fn config(&self) -> OdbcConfig {
        let config = self.database.config();
        OdbcConfig {
            dialect: self.dialect,
            lock_wait_timeout_ms: if self.is_patient { 60_000 } else { 300 },
            // Where there is but one schema it need not be named.
            schema: config.schema.filter(|_| self.dialect.is_none()),
            ..config
        }
    }

    fn sink(&self) -> OdbcSink {
        OdbcSink::open(&self.config()).expect("opening")
    }

    /// The table with the rows of a file, which is seen through the view `table`.
    fn rows_of(&self, table: &str) -> String {
        let all = self
            .database
            .run("SELECT rows_table, table_name FROM counterfoil_files");
        let number = all.lines().find_map(|line| {
            let (number, name) = line.split_once('|')?;
            (name == table).then_some(number)
        });
        format!(
            "counterfoil_rows_{}",
            number.unwrap_or_else(|| panic!("no file has the table {table}: {all}"))
        )
    }
}

/// A transaction that is open until it is dropped.
struct Obstruction(Session);

impl<D: Database> Harness for OdbcHarness<D> {
    fn cannot(&self, case: &str) -> Option<&'static str> {
        match case {
            "survives_an_obstruction" if self.dialect == Some(Dialect::Generic) => {
                Some("in this dialect it waits as long as the database is set to")
            }
            "rehearses_without_a_trace" => Some(
                "its batch changes the columns first, so the rows go into another table, and what is forbidden in this one isn't \
                 there (odbc::tests::a_row_met_by_another_index_is_never_overwritten rehearses)",
            ),
            case if self.dialect == Some(Dialect::Generic) => {
                D::cannot_do_generically(case).or_else(|| D::cannot_do(case))
            }
            case => D::cannot_do(case),
        }
    }

    fn fresh(&mut self) {
        self.database.empty();
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(OdbcSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(OdbcSink::open_read_only(&self.config())?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(
            &file(path),
            [(1, record("fits")), (1 << 63, record("doesn't"))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let mut session = Session::open(&self.config()).expect("connecting");
        apply::locked_position(&mut session, STREAM).expect("locking");
        Some(Box::new(Obstruction(session)))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        self.database.run(&format!(
            "UPDATE {} SET data = {} WHERE id = {id}",
            self.rows_of(table),
            self.database.literal(data)
        ));
        true
    }

    fn rows(&mut self, table: &str, columns: &[&str]) -> Option<Vec<Vec<Option<String>>>> {
        Some(self.database.shown(table, columns))
    }

    fn columns(&mut self, table: &str) -> Option<Vec<String>> {
        Some(self.database.columns_of(table))
    }

    fn forbid(&mut self, table: &str, column: &str, text: &str) -> bool {
        self.database.refuse(&self.rows_of(table), column, text);
        true
    }

    fn random_histories(&self) -> u32 {
        4
    }
}

impl<D: Database> Faults for OdbcHarness<D> {
    fn target(&mut self) -> &mut dyn Target {
        &mut self.database
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

impl Drop for Obstruction {
    fn drop(&mut self) {
        self.0.rollback();
    }
}

fn postgres() -> PostgresTarget {
    PostgresTarget::with_numbered_tables()
}

fn sqlite() -> SqliteTarget {
    SqliteTarget::with_numbered_tables()
}

/// By what the driver says the database is.
fn by_itself<D: Database>(database: D) -> OdbcHarness<D> {
    OdbcHarness::new(database, None)
}

/// By nothing but what every database has.
fn generic<D: Database>(database: D) -> OdbcHarness<D> {
    OdbcHarness::new(database, Some(Dialect::Generic))
}

mod through_psqlodbc {
    use super::{by_itself, postgres};
    crate::sink_contract!(by_itself(postgres()));
    crate::sink_plan_contract!(by_itself(postgres()));
    crate::sink_faults!(by_itself(postgres()));
}

mod through_mariadb_odbc {
    use super::{MariadbTarget, by_itself};
    crate::sink_contract!(by_itself(MariadbTarget::new()));
    crate::sink_plan_contract!(by_itself(MariadbTarget::new()));
    crate::sink_faults!(by_itself(MariadbTarget::new()));
}

mod through_sqliteodbc {
    use super::{by_itself, sqlite};
    crate::sink_contract!(by_itself(sqlite()));
    crate::sink_plan_contract!(by_itself(sqlite()));
    crate::sink_faults!(by_itself(sqlite()));
}

mod generic_in_postgres {
    use super::{generic, postgres};
    crate::sink_contract!(generic(postgres()));
    crate::sink_plan_contract!(generic(postgres()));
}

mod generic_in_sqlite {
    use super::{generic, sqlite};
    crate::sink_contract!(generic(sqlite()));
    crate::sink_plan_contract!(generic(sqlite()));
}

const FORMAT: RecordFormat = RecordFormat {
    organization: Organization::Fixed,
    layout: Layout::Plain,
    settings: counterfoil_records::Settings::NONE,
    record_size: Some(40),
    varseq_format: None,
};

/// A file of customers, whose records are these fields, with a plan.
fn customers(fields: &[(&str, &str)], spec: &PlanSpec) -> Arc<FileDescription> {
    let specs: Vec<FieldSpec> = fields
        .iter()
        .map(|(name, kind)| {
            serde_json::from_value(serde_json::json!({ "name": name, "type": kind }))
                .expect("a field")
        })
        .collect();
    let schema = RecordSchema::of_fields("customer", &specs, &Default::default());
    let schema = FileSchema(Arc::new(schema.expect("a schema")));
    let origin = Origin {
        site: "hq",
        group: "payments",
        path: "/srv/cust.dat",
    };
    let plan = Plan::new(spec, Some(&schema), &FORMAT, origin).expect("a plan");
    Arc::new(FileDescription {
        format: FORMAT,
        schema: Some(schema),
        plan: Some(Arc::new(plan)),
        ..(*file("/srv/cust.dat")).clone()
    })
}

/// A name, a number, a balance, and a day.
const FIELDS: [(&str, &str); 4] = [
    ("name", "text(12)"),
    ("number", "zoned(8)"),
    ("balance", "packed(9,2) signed"),
    ("since", "text(10)"),
];

fn customer(name: &str, number: &str, balance: [u8; 5], since: &str) -> Image {
    // Latin-1.
    let text = format!("{name:<12}{number}");
    let mut data: Vec<u8> = text.chars().map(|char| char as u8).collect();
    data.extend(balance);
    data.extend(format!("{since:<10}").bytes());
    record(data)
}

fn customer_rows() -> Vec<(u64, Image)> {
    let cents = [0x00, 0x01, 0x23, 0x45, 0x6d];
    vec![
        (1, customer("M\u{fc}ller", "00000007", cents, "2024-02-29")),
        (
            2,
            customer("", "9999999X", [0x12, 0x34, 0x56, 0x78, 0x9c], ""),
        ),
        (
            3,
            customer(
                "O'Brien \"x\"",
                "12345678",
                [0, 0, 0, 0, 0x0c],
                "1999-12-31",
            ),
        ),
    ]
}

/// What people call the table of a file. (The generic dialect takes no name that is in another schema.)
fn name_of(sink: &mut OdbcSink, path: &[u8]) -> String {
    let file = sink
        .snapshot()
        .and_then(|mut snapshot| snapshot.file(STREAM, path));
    file.expect("looking").expect("a file").table
}

/// Columns of several kinds, evolved twice, in a database.
fn carries_columns<D: Database>(mut harness: OdbcHarness<D>) {
    let mut spec = PlanSpec::default();
    spec.kinds.insert("since".into(), ColumnKind::Date);
    spec.constants
        .insert("site".into(), Constant::Text("{site}".into()));
    let all = customers(&FIELDS, &spec);
    let mut sink = harness.sink();
    sink.apply(&batch(1, [changes(&all, customer_rows())]))
        .expect("applying");
    let name = name_of(&mut sink, b"/srv/cust.dat");
    let shown = |harness: &OdbcHarness<D>, columns: &str| {
        let sql = format!("SELECT {columns} FROM {name} ORDER BY 1");
        let text = harness.database.run(&sql);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // NULL is shown in several ways, so what isn't is counted.
    let columns = "record_number, name, number, balance, since, site";
    let rows = shown(&harness, columns);
    assert_eq!(rows[0], "1|M\u{fc}ller|7|-1234.56|2024-02-29|hq");
    assert_eq!(rows[2], "3|O'Brien \"x\"|12345678|0.00|1999-12-31|hq");
    let counts = shown(
        &harness,
        "COUNT(*), COUNT(number), COUNT(since), COUNT(undecoded)",
    );
    assert_eq!(counts, ["3|2|2|1"]);
    let why = shown(&harness, "record_number, undecoded");
    assert!(why[1].contains("number: "), "{why:?}");
    assert_eq!(content(&mut sink, b"/srv/cust.dat"), customer_rows());

    // Another sink, which knows nothing: a column is changed, one more is there, one less; rows that are there have it too.
    drop(sink);
    let mut sink = harness.sink();
    spec.constants.clear();
    spec.kinds
        .insert("number".into(), ColumnKind::Text { chars: Some(20) });
    spec.rename.insert("number".into(), "account".into());
    let other = customers(&FIELDS, &spec);
    let (id, image) = (
        2,
        customer("Weber", "00000002", [0, 0, 0, 1, 0x0c], "2001-01-01"),
    );
    sink.apply(&batch(2, [changes(&other, [(id, image.clone())])]))
        .expect("another plan");
    let rows = shown(&harness, "record_number, name, account, balance, since");
    assert_eq!(
        rows,
        [
            "1|M\u{fc}ller|7|-1234.56|2024-02-29",
            "2|Weber|2|0.10|2001-01-01",
            "3|O'Brien \"x\"|12345678|0.00|1999-12-31"
        ]
    );
    let mut expected = customer_rows();
    expected[1].1 = image;
    assert_eq!(content(&mut sink, b"/srv/cust.dat"), expected);
    // The table that it was is there for another file with such columns, and empty.
    let spare = harness
        .database
        .run("SELECT COUNT(*) FROM counterfoil_tables WHERE is_used = 0");
    assert_eq!(spare.trim(), "1");

    // Without the bytes: what is there stays, and there is nothing to restore.
    let without = customers(&FIELDS, &PlanSpec { raw: false, ..spec });
    sink.apply(&batch(3, [changes(&without, [(3, Image::Absent)])]))
        .expect("without the bytes");
    assert_eq!(
        shown(&harness, "record_number, name, account"),
        ["1|M\u{fc}ller|7", "2|Weber|2"]
    );
    assert!(content(&mut sink, b"/srv/cust.dat").is_empty());
    let rows = harness.rows_of(&name);
    assert_eq!(
        harness
            .database
            .run(&format!("SELECT COUNT(name) FROM {rows}"))
            .trim(),
        "2"
    );
    harness.fresh();
}

/// A file whose plan is taken away has the bytes alone again; a table that was made without them isn't filled with nothing.
fn goes_back_to_bytes_alone<D: Database>(mut harness: OdbcHarness<D>) {
    let planned = customers(&FIELDS, &PlanSpec::default());
    let unplanned = Arc::new(FileDescription {
        plan: None,
        ..(*planned).clone()
    });
    let mut sink = harness.sink();
    sink.apply(&batch(1, [changes(&planned, customer_rows())]))
        .expect("applying");
    let name = name_of(&mut sink, b"/srv/cust.dat");
    let named = |harness: &OdbcHarness<D>| {
        let rows = harness.rows_of(&name);
        let counts = format!("SELECT COUNT(*), COUNT(data), COUNT(name) FROM {rows}");
        harness.database.run(&counts).trim().to_owned()
    };
    assert_eq!(named(&harness), "3|3|3");
    // By the sink that knows the plan, and by one that only finds the table.
    sink.apply(&batch(2, [changes(&unplanned, [(1, Image::Absent)])]))
        .expect("no plan");
    assert_eq!(named(&harness), "2|2|0");
    sink.apply(&batch(3, [changes(&planned, [])]))
        .expect("a plan again");
    assert_eq!(named(&harness), "2|2|2");
    let mut sink = harness.sink();
    sink.apply(&batch(4, [changes(&unplanned, [])]))
        .expect("no plan");
    assert_eq!(named(&harness), "2|2|0");
    assert_eq!(
        content(&mut sink, b"/srv/cust.dat"),
        customer_rows()[1..].to_vec()
    );

    let without = PlanSpec {
        raw: false,
        ..PlanSpec::default()
    };
    let without = customers(&FIELDS, &without);
    sink.apply(&batch(5, [changes(&without, [])]))
        .expect("without the bytes");
    let next = batch(6, [changes(&unplanned, customer_rows())]);
    for sink in [&mut sink, &mut harness.sink()] {
        let error = sink.apply(&next).expect_err("there is no place for bytes");
        assert_permanent(&error, &["/srv/cust.dat", "without the raw image"]);
    }
    harness.fresh();
}

/// A value that the table doesn't take is refused, and the rest of the batch may go without it. What was refused leaves
/// nothing behind, and doesn't show what is in the record.
fn refuses_what_an_index_has<D: Database>(harness: &OdbcHarness<D>, index: &str) {
    let mut sink = harness.sink();
    let cards = file("/srv/cards.dat");
    let rows = [(1, record("a secret")), (2, record("b"))];
    sink.apply(&batch(1, [changes(&cards, rows.clone())]))
        .expect("applying");
    let table = harness.rows_of(&name_of(&mut sink, b"/srv/cards.dat"));
    harness
        .database
        .run(&format!("CREATE UNIQUE INDEX alike ON {table} ({index})"));
    for images in [
        // One that is there, and one that is new.
        vec![(2, record("a secret"))],
        vec![(3, record("c")), (4, record("a secret"))],
    ] {
        let bad = batch(2, [changes(&cards, images)]);
        for _ in 0..2 {
            let error = sink.rehearse(&bad).expect_err("refused");
            assert!(matches!(error, SinkError::Refused { .. }), "{error}");
            assert!(
                error.to_string().contains("/srv/cards.dat")
                    && !error.to_string().contains("secret"),
                "{error}"
            );
            let error = sink.apply(&bad).expect_err("refused");
            assert!(matches!(error, SinkError::Refused { .. }), "{error}");
        }
    }
    assert_eq!(content(&mut sink, b"/srv/cards.dat"), rows);
    let good = batch(2, [changes(&cards, [(3, record("c"))])]);
    sink.rehearse(&good).expect("a good one");
    assert_eq!(content(&mut sink, b"/srv/cards.dat"), rows);
    sink.apply(&good).expect("a good one");
}

/// Tables that somebody else makes are asked for, and taken once they are there.
fn asks_for_tables<D: Database>(harness: &OdbcHarness<D>) {
    let config = OdbcConfig {
        ddl: Ddl::Check,
        ..harness.config()
    };
    let asked = |error: SinkError| match error {
        SinkError::Permanent { next, .. } => {
            let statements = next.strip_prefix("have them made: ").expect("statements");
            statements.to_owned()
        }
        error => panic!("{error}"),
    };
    let statements = asked(OdbcSink::open(&config).err().expect("no tables"));
    harness.database.make(&statements);
    let mut sink = OdbcSink::open(&config).expect("opening");
    let batch = batch(1, [changes(&file("/srv/cards.dat"), [(1, record("x"))])]);
    let statements = asked(sink.apply(&batch).expect_err("no table"));
    let again = asked(sink.apply(&batch).expect_err("no table still"));
    assert_eq!(statements, again, "it asks for the same table");
    harness.database.make(&statements);
    sink.apply(&batch).expect("applying");
    assert_eq!(content(&mut sink, b"/srv/cards.dat"), [(1, record("x"))]);
}

/// What is printed beforehand is what it takes.
fn takes_what_was_made<D: Database>(harness: &OdbcHarness<D>) {
    let config = OdbcConfig {
        ddl: Ddl::Check,
        ..harness.config()
    };
    let customers = customers(&FIELDS, &PlanSpec::default());
    let cards = file("/srv/cards.dat");
    let journal = planned("/srv/journal", &[("id", "zoned(4)")], &history());
    let files = [&cards, &customers, &journal].map(|file| (**file).clone());
    let statements = schema_sql(&config, &files).expect("statements");
    harness.database.make(&statements.join("; "));
    let mut sink = OdbcSink::open(&config).expect("opening");
    let changes = [
        changes(&customers, customer_rows()),
        changes(&cards, [(1, record("x"))]),
        logged(&journal, 1, &[(1, record("0007")), (1, record("0008"))]),
    ];
    sink.apply(&batch(1, changes)).expect("applying");
    assert_eq!(content(&mut sink, b"/srv/cust.dat"), customer_rows());
    assert_eq!(content(&mut sink, b"/srv/journal"), [(1, record("0008"))]);
    let name = name_of(&mut sink, b"/srv/journal");
    let changes = harness
        .database
        .run(&format!("SELECT COUNT(*) FROM {}", harness.rows_of(&name)));
    assert_eq!(changes.trim(), "2");
}

fn history() -> PlanSpec {
    PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    }
}

/// Changes of a file that keeps them all, at this lsn.
fn logged(file: &Arc<FileDescription>, lsn: u64, images: &[(u64, Image)]) -> FileChanges {
    let log = (0..).zip(images).map(|(index, (id, image))| Logged {
        position: Position {
            epoch: 1,
            lsn,
            index,
        },
        captured_ns: 1_700_000_000_000_000_000,
        change: LoggedChange::Image {
            id: *id,
            image: image.clone(),
        },
    });
    FileChanges {
        log: log.collect(),
        ..changes(file, images.iter().cloned())
    }
}

/// A sink that makes nothing, on a database that somebody has made: what it says of tables that aren't what they should be.
fn differs<D: Database>(harness: &mut OdbcHarness<D>, edit: impl Fn(&str) -> String) -> String {
    harness.fresh();
    let config = OdbcConfig {
        ddl: Ddl::Check,
        ..harness.config()
    };
    let cards = file("/srv/cards.dat");
    let customers = customers(&FIELDS, &PlanSpec::default());
    let files = [&cards, &customers].map(|file| (**file).clone());
    let statements = schema_sql(&config, &files).expect("statements");
    let edited: Vec<String> = statements.iter().map(|sql| edit(sql)).collect();
    assert_ne!(edited, statements, "something is made otherwise");
    harness.database.make(&edited.join("; "));
    let changes = [
        changes(&customers, customer_rows()),
        changes(&cards, [(1, record("x"))]),
    ];
    let error = match OdbcSink::open(&config) {
        Ok(mut sink) => sink.apply(&batch(1, changes)).expect_err("it differs"),
        Err(error) => error,
    };
    assert_permanent(&error, &["checking the table"]);
    error.to_string()
}

/// What is wrong with tables that somebody made is said column by column, with the statement that mends it.
fn says_what_differs<D: Database>(mut harness: OdbcHarness<D>, has_types: bool) {
    let says = |error: &str, words: &[&str]| {
        for words in words {
            let is_said = error.to_lowercase().contains(&words.to_lowercase());
            assert!(is_said, "{words:?}: {error}");
        }
    };
    // Counterfoil's own: a column isn't there.
    let error = differs(&mut harness, |sql| {
        let Some((before, behind)) = sql.split_once(", reason ") else {
            return sql.to_owned();
        };
        let (_, behind) = behind.split_once(", ").expect("a key");
        format!("{before}, {behind}")
    });
    says(
        &error,
        &[
            "counterfoil_residue",
            "there is no column reason: ALTER TABLE",
        ],
    );
    // A column that nobody fills.
    let key = "PRIMARY KEY (id))";
    let error = differs(&mut harness, |sql| {
        sql.replace(key, &format!("note INTEGER NOT NULL, {key}"))
    });
    says(
        &error,
        &[
            "counterfoil_rows_",
            "column note ",
            "no default: ALTER TABLE",
        ],
    );
    // No key, and another one.
    let error = differs(&mut harness, |sql| sql.replace(&format!(", {key}"), ")"));
    says(&error, &["there is no primary key: ", "(id)"]);
    let error = differs(&mut harness, |sql| {
        if sql.contains("undecoded") {
            sql.replace(key, "PRIMARY KEY (id, number))")
        } else {
            sql.to_owned()
        }
    });
    says(&error, &["the primary key is (id, number)"]);
    // A column that has to take NULL.
    let error = differs(&mut harness, |sql| {
        let Some((before, behind)) = sql.split_once("undecoded ") else {
            return sql.to_owned();
        };
        let (kind, behind) = behind.split_once(", ").expect("more columns");
        format!("{before}undecoded {kind} NOT NULL, {behind}")
    });
    says(&error, &["column undecoded is NOT NULL", ": ALTER TABLE"]);
    if !has_types {
        return;
    }
    // Text and numbers that are too short, and days that are numbers.
    let error = differs(&mut harness, |sql| {
        sql.replace("VARCHAR(12)", "VARCHAR(5)")
            .replace("DECIMAL(9,2)", "DECIMAL(9,3)")
    });
    says(
        &error,
        &[
            "column name is varchar(5), and should be VARCHAR(12): ALTER TABLE",
            "column balance is ",
            "and should be DECIMAL(9,2): ALTER TABLE",
        ],
    );
    harness.fresh();
}

/// What somebody has done to tables since is said in the same way, and mended by the statement that is said.
fn says_what_was_changed<D: Database>(mut harness: OdbcHarness<D>, changes_of: &[Change]) {
    let cards = file("/srv/cards.dat");
    // What comes later has a rest, so that its column is needed.
    let rows = |lsn| {
        let image = Image::Record {
            data: b"x".to_vec(),
            rest: if lsn < 3 { Vec::new() } else { b"\r".to_vec() },
        };
        batch(lsn, [changes(&cards, [(lsn, image)])])
    };
    for &change in changes_of {
        harness.fresh();
        let mut sink = harness.sink();
        sink.apply(&rows(1)).expect("applying");
        let name = name_of(&mut sink, b"/srv/cards.dat");
        drop(sink);
        let config = OdbcConfig {
            ddl: Ddl::Check,
            ..harness.config()
        };
        // One that knows the table as it was, and one that doesn't.
        let mut sink = OdbcSink::open(&config).expect("opening");
        sink.apply(&rows(2)).expect("applying");
        harness.database.change(&name, change);
        let says = match change {
            Change::DropColumn => ["there is no column rest", "ALTER TABLE"],
            Change::RenameColumn => ["there is no column data", "ALTER TABLE"],
            Change::ChangeType => ["column rest is ", "ALTER TABLE"],
            Change::MoveTable => ["there is no such table", "CREATE TABLE"],
        };
        let mut fresh = OdbcSink::open(&config).expect("opening");
        let mut mends = String::new();
        for sink in [&mut sink, &mut fresh] {
            let mut error = sink.apply(&rows(3)).expect_err("it differs");
            if error.is_transient() {
                // PostgreSQL finds fault with the protocol, not with the table. That is tried again.
                error = sink.apply(&rows(3)).expect_err("it differs");
            }
            assert_permanent(&error, &says);
            let where_it_is = ["checking the table counterfoil_rows_", "/srv/cards.dat"];
            assert_permanent(&error, &where_it_is);
            if let SinkError::Permanent { cause, .. } = error {
                mends = cause;
            }
        }
        if change == Change::DropColumn {
            let (_, mends) = mends.split_once("rest: ").expect("a statement");
            harness.database.make(mends);
        } else {
            harness.database.change_back(&name, change);
        }
        for (lsn, sink) in [(3, &mut sink), (4, &mut fresh)] {
            sink.apply(&rows(lsn)).expect("it is mended");
        }
    }
    harness.fresh();
}

/// A database of before histories were kept gets the table for them, or an error says how.
fn brings_tables_up<D: Database>(harness: &OdbcHarness<D>) {
    let cards = file("/srv/cards.dat");
    let mut sink = harness.sink();
    sink.apply(&batch(1, [changes(&cards, [(1, record("x"))])]))
        .expect("applying");
    drop(sink);
    harness.database.run("DROP TABLE counterfoil_histories");
    harness
        .database
        .run("UPDATE counterfoil_state SET version = 1");
    let mut reader = OdbcSink::open_read_only(&harness.config()).expect("reading");
    assert_eq!(content(&mut reader, b"/srv/cards.dat"), [(1, record("x"))]);
    let check = OdbcConfig {
        ddl: Ddl::Check,
        ..harness.config()
    };
    let error = OdbcSink::open(&check).err().expect("it is older");
    assert_permanent(
        &error,
        &[
            "version 1",
            "CREATE TABLE",
            "counterfoil_histories",
            "UPDATE",
        ],
    );
    let mut sink = harness.sink();
    let journal = planned("/srv/journal", &[("id", "zoned(4)")], &history());
    let gone = FileChanges {
        fate: FileFate::Removed,
        ..logged(&journal, 3, &[])
    };
    sink.apply(&batch(2, [logged(&journal, 2, &[(1, record("0007"))])]))
        .expect("a history");
    sink.apply(&batch(3, [gone])).expect("it goes");
    let kept = harness
        .database
        .run("SELECT COUNT(*) FROM counterfoil_histories");
    assert_eq!(kept.trim(), "1");
    drop(sink);
    OdbcSink::open(&check).expect("it is what it has to be");
}

/// A history that is configured for both names of a file goes with it, and takes no other table.
fn takes_a_configured_history_along<D: Database>(harness: &OdbcHarness<D>) {
    let named = |path| {
        Arc::new(FileDescription {
            table: Some("journal".into()),
            ..(*planned(path, &[("id", "zoned(4)")], &history())).clone()
        })
    };
    let (first, second) = (named("/srv/a"), named("/srv/b"));
    let config = OdbcConfig {
        ddl: Ddl::Check,
        ..harness.config()
    };
    let statements = schema_sql(&config, &[(*first).clone()]).expect("statements");
    harness.database.make(&statements.join("; "));
    let mut sink = OdbcSink::open(&config).expect("opening");
    sink.apply(&batch(1, [logged(&first, 1, &[(1, record("0007"))])]))
        .expect("a history");
    let moved = FileChanges {
        renamed_from: Some(b"/srv/a".to_vec()),
        ..logged(&second, 2, &[(1, record("0008"))])
    };
    sink.apply(&batch(2, [moved])).expect("no other table");
    assert_eq!(content(&mut sink, b"/srv/a"), []);
    assert_eq!(content(&mut sink, b"/srv/b"), [(1, record("0008"))]);
    let changes = harness
        .database
        .run("SELECT COUNT(*) FROM counterfoil_rows_1");
    assert_eq!(changes.trim(), "2");
}

/// A history whose table somebody dropped is forgotten with its file.
fn forgets_a_dropped_history<D: Database>(harness: &OdbcHarness<D>) {
    let journal = planned("/srv/journal", &[("id", "zoned(4)")], &history());
    let mut sink = harness.sink();
    sink.apply(&batch(1, [logged(&journal, 1, &[(1, record("0007"))])]))
        .expect("a history");
    let name = name_of(&mut sink, b"/srv/journal");
    let rows = harness.rows_of(&name);
    harness.database.run(&format!("DROP VIEW {name}"));
    harness.database.run(&format!("DROP TABLE {rows}"));
    let next = logged(&journal, 2, &[(1, record("0008"))]);
    let error = sink
        .apply(&batch(2, [next.clone()]))
        .expect_err("there is no table");
    assert!(!error.is_transient(), "{error}");
    let gone = FileChanges {
        fate: FileFate::Removed,
        ..logged(&journal, 2, &[(1, record("0009"))])
    };
    sink.apply(&batch(2, [gone, next])).expect("had anew");
    assert_eq!(content(&mut sink, b"/srv/journal"), [(1, record("0008"))]);
}

/// What a crash leaves of tables and views is put right.
fn mends_what_a_crash_leaves<D: Database>(harness: &OdbcHarness<D>) {
    let mut sink = harness.sink();
    sink.apply(&batch(
        1,
        [changes(&file("/srv/cards.dat"), [(1, record("x"))])],
    ))
    .expect("applying");
    drop(sink);
    // A table was noted and made, and nobody was told; another was noted, and never made. A view is older than the catalogue.
    for sql in [
        "INSERT INTO counterfoil_tables (rows_table, stream, structure, is_made, is_used) VALUES (70, 'hq/payments', 'shared', 0, 0)",
        "INSERT INTO counterfoil_tables (rows_table, stream, structure, is_made, is_used) VALUES (71, 'hq/payments', 'shared', 0, 0)",
        "CREATE TABLE counterfoil_rows_70 (x INTEGER)",
        "DROP VIEW cards_dat",
        "UPDATE counterfoil_views SET wanted = wanted + 1",
    ] {
        harness.database.run(sql);
    }
    let mut sink = harness.sink();
    assert_eq!(
        harness
            .database
            .run("SELECT record_number FROM cards_dat")
            .trim(),
        "1"
    );
    sink.apply(&batch(
        2,
        [changes(&file("/srv/new.dat"), [(1, record("y"))])],
    ))
    .expect("applying");
    assert_eq!(content(&mut sink, b"/srv/new.dat"), [(1, record("y"))]);
    let numbers = harness
        .database
        .run("SELECT COUNT(*) FROM counterfoil_tables WHERE is_made = 0");
    assert_eq!(numbers.trim(), "0");
}

#[test]
fn columns_are_carried_through_every_driver() {
    carries_columns(by_itself(postgres()));
    carries_columns(by_itself(MariadbTarget::new()));
    carries_columns(by_itself(sqlite()));
    carries_columns(generic(postgres()));
}

#[test]
fn a_plan_may_be_taken_away_in_every_driver() {
    goes_back_to_bytes_alone(by_itself(postgres()));
    goes_back_to_bytes_alone(by_itself(MariadbTarget::new()));
    goes_back_to_bytes_alone(by_itself(sqlite()));
    goes_back_to_bytes_alone(generic(sqlite()));
}

#[test]
fn a_row_met_by_another_index_is_never_overwritten() {
    refuses_what_an_index_has(&by_itself(postgres()), "data");
    refuses_what_an_index_has(&by_itself(MariadbTarget::new()), "data(20)");
    refuses_what_an_index_has(&by_itself(sqlite()), "data");
    refuses_what_an_index_has(&generic(postgres()), "data");
}

#[test]
fn tables_that_somebody_else_makes_are_asked_for() {
    asks_for_tables(&by_itself(postgres()));
    asks_for_tables(&by_itself(MariadbTarget::new()));
    asks_for_tables(&by_itself(sqlite()));
}

#[test]
fn tables_that_were_printed_are_taken() {
    takes_what_was_made(&by_itself(postgres()));
    takes_what_was_made(&by_itself(MariadbTarget::new()));
    takes_what_was_made(&by_itself(sqlite()));
}

#[test]
fn tables_that_were_made_otherwise_are_explained() {
    says_what_differs(by_itself(postgres()), true);
    says_what_differs(by_itself(MariadbTarget::new()), true);
    says_what_differs(by_itself(sqlite()), false);
}

#[test]
fn tables_that_were_changed_are_explained() {
    use Change::{ChangeType, DropColumn, MoveTable, RenameColumn};
    let all = [ChangeType, RenameColumn, MoveTable, DropColumn];
    says_what_was_changed(by_itself(postgres()), &all);
    says_what_was_changed(by_itself(MariadbTarget::new()), &all);
    // It has no types to speak of.
    says_what_was_changed(by_itself(sqlite()), &all[1..]);
    says_what_was_changed(generic(sqlite()), &all[1..]);
}

#[test]
fn a_database_of_before_is_brought_up() {
    brings_tables_up(&by_itself(postgres()));
    brings_tables_up(&by_itself(MariadbTarget::new()));
    brings_tables_up(&generic(sqlite()));
}

#[test]
fn a_configured_history_goes_with_its_file() {
    takes_a_configured_history_along(&by_itself(postgres()));
    takes_a_configured_history_along(&by_itself(MariadbTarget::new()));
    takes_a_configured_history_along(&by_itself(sqlite()));
}

#[test]
fn a_history_that_was_dropped_is_forgotten() {
    forgets_a_dropped_history(&by_itself(postgres()));
    forgets_a_dropped_history(&by_itself(MariadbTarget::new()));
    forgets_a_dropped_history(&by_itself(sqlite()));
}

#[test]
fn what_a_crash_leaves_is_mended() {
    mends_what_a_crash_leaves(&by_itself(postgres()));
    mends_what_a_crash_leaves(&by_itself(MariadbTarget::new()));
    mends_what_a_crash_leaves(&by_itself(sqlite()));
    mends_what_a_crash_leaves(&generic(sqlite()));
}

/// What each of the drivers does with arrays decides how rows are handed over.
#[test]
fn drivers_are_tried_before_they_are_trusted() {
    let tried = |config: &OdbcConfig| OdbcSink::open(config).expect("opening").target.arrays;
    assert_eq!(tried(&by_itself(postgres()).config()), Arrays::Trusted);
    assert_eq!(
        tried(&by_itself(MariadbTarget::new()).config()),
        Arrays::Counted
    );
    // It gives all rows the length of the first.
    assert_eq!(tried(&by_itself(sqlite()).config()), Arrays::Never);
}

#[test]
fn what_is_wrong_with_a_connection_is_said_without_the_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "s3cret}x\n").expect("writing");
    let harness = by_itself(postgres());
    let good = OdbcConfig {
        password_file: Some(secret),
        ..harness.config()
    };
    let reached = OdbcSink::probe(&good).expect("a password that nobody asks for");
    assert_eq!(
        (
            reached.database.as_str(),
            reached.dialect,
            reached.has_tables
        ),
        ("PostgreSQL", Dialect::Postgresql, false)
    );
    let away = OdbcConfig {
        connection: good
            .connection
            .replace("Database=postgres", "Database=nowhere"),
        ..good.clone()
    };
    let no_driver = OdbcConfig {
        connection: "Driver=/nowhere/libnone.so".into(),
        ..good.clone()
    };
    let no_file = OdbcConfig {
        password_file: Some("/nowhere".into()),
        ..good
    };
    for config in [away, no_driver, no_file] {
        let error = OdbcSink::open(&config).err().expect("it can't be opened");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        // A database that isn't there may be there later.
        if !error.to_string().contains("nowhere\" does not exist") {
            assert_permanent(&error, &[]);
        }
    }
}
