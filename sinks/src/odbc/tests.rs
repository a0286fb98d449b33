//! The contract through Debian's drivers, and what only drivers can do wrong.

use super::*;
use crate::contract::targets::{MariadbTarget, PostgresTarget, SqliteTarget};
use crate::contract::{
    Change, Faults, Harness, Moment, STREAM, Stop, Taken, Target, assert_permanent, batch, changes,
    content, file, record,
};
use crate::plan::{ColumnKind, Constant, Origin, Plan, PlanSpec};
use crate::{FileChanges, FileDescription, FileSchema, Image};
use counterfoil_records::schema::{FieldSpec, RecordSchema};
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
    /// SQL for bytes.
    fn literal(&self, bytes: &[u8]) -> String;
    /// As [`Harness::cannot`].
    fn cannot_do(case: &str) -> Option<&'static str>;
}

impl Database for PostgresTarget {
    fn config(&self) -> OdbcConfig {
        OdbcConfig {
            username: Some(self.user().into()),
            schema: Some(self.schema().into()),
            ..config(format!(
                "Driver={};Server={};Port=5432;Database=postgres",
                driver("psqlodbcw.so", "odbc-postgresql").display(),
                self.socket_dir().display(),
            ))
        }
    }

    fn empty(&mut self) {
        self.fresh();
    }

    fn run(&self, sql: &str) -> String {
        self.sql(sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex(bytes))
    }

    fn cannot_do(case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => PostgresTarget::cannot_limit_room(),
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

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
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
        use rusqlite::types::ValueRef;
        let other = rusqlite::Connection::open(self.path()).expect("another connection");
        let mut statement = other.prepare(sql).expect(sql);
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect(sql);
        let mut text = String::new();
        while let Some(row) = rows.next().expect(sql) {
            for column in 0..columns {
                let value = match row.get_ref(column).expect("a value") {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => number.to_string(),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                };
                text.push_str(if column == 0 { "" } else { "|" });
                text.push_str(&value);
            }
            text.push('\n');
        }
        text
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn cannot_do(case: &str) -> Option<&'static str> {
        match case {
            "survives_a_killed_server" | "survives_an_orderly_shutdown" => {
                Some("there is no server: the database is in the process that applies")
            }
            "waits_for_room" => Some("nothing limits a database that the driver opens"),
            case => SqliteTarget::cannot(case),
        }
    }
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
            number.expect("a file with this table")
        )
    }

    /// The same, of a name that may be a table's already.
    fn behind(&self, table: &str) -> String {
        if table.starts_with("counterfoil_") {
            return table.to_owned();
        }
        self.rows_of(table)
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

    fn random_histories(&self) -> u32 {
        4
    }
}

impl<D: Database> Faults for OdbcHarness<D> {
    fn target(&mut self) -> &mut dyn Target {
        self
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

/// The database's own, but for tables: it is told of those behind the views.
impl<D: Database> Target for OdbcHarness<D> {
    fn use_own_server(&mut self) {
        self.database.use_own_server();
    }

    fn stop(&mut self, how: Stop) {
        self.database.stop(how);
    }

    fn start(&mut self) {
        self.database.start();
    }

    fn cut(&mut self, moment: Moment) {
        self.database.cut(moment);
    }

    fn is_cut_to_come(&self) -> bool {
        self.database.is_cut_to_come()
    }

    fn take(&mut self, table: &str) -> Box<dyn Taken> {
        let all = self
            .database
            .run("SELECT rows_table, table_name FROM counterfoil_files");
        let behind = all
            .lines()
            .filter_map(|line| line.split_once('|'))
            .map(|(number, name)| (name.to_owned(), format!("counterfoil_rows_{number}")))
            .collect();
        let table = self.behind(table);
        Box::new(Behind {
            taken: self.database.take(&table),
            behind,
        })
    }

    fn limit_room(&mut self) -> &'static str {
        self.database.limit_room()
    }

    fn make_room(&mut self) {
        self.database.make_room();
    }

    fn revoke(&mut self, table: &str) -> Vec<String> {
        let table = self.behind(table);
        self.database.revoke(&table)
    }

    fn grant(&mut self, table: &str) {
        let table = self.behind(table);
        self.database.grant(&table);
    }

    fn change(&mut self, table: &str, change: Change) {
        let table = self.behind(table);
        self.database.change(&table, change);
    }

    fn change_back(&mut self, table: &str, change: Change) {
        let table = self.behind(table);
        self.database.change_back(&table, change);
    }
}

struct Behind {
    taken: Box<dyn Taken>,
    behind: HashMap<String, String>,
}

impl Taken for Behind {
    fn is_waited_for(&mut self) -> bool {
        self.taken.is_waited_for()
    }

    fn take_more(&mut self, table: &str) {
        let table = self.behind.get(table).map_or(table, String::as_str);
        self.taken.take_more(table);
    }
}

impl Drop for Obstruction {
    fn drop(&mut self) {
        self.0.rollback();
    }
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
    use super::{PostgresTarget, by_itself};
    crate::sink_contract!(by_itself(PostgresTarget::new()));
    crate::sink_faults!(by_itself(PostgresTarget::new()));
}

mod through_mariadb_odbc {
    use super::{MariadbTarget, by_itself};
    crate::sink_contract!(by_itself(MariadbTarget::new()));
    crate::sink_faults!(by_itself(MariadbTarget::new()));
}

mod through_sqliteodbc {
    use super::{SqliteTarget, by_itself};
    crate::sink_contract!(by_itself(SqliteTarget::new()));
    crate::sink_faults!(by_itself(SqliteTarget::new()));
}

mod generic_in_postgres {
    use super::{PostgresTarget, generic};
    crate::sink_contract!(generic(PostgresTarget::new()));
}

mod generic_in_sqlite {
    use super::{SqliteTarget, generic};
    crate::sink_contract!(generic(SqliteTarget::new()));
}
