//! The contract through Debian's drivers, and what only drivers can do wrong.

use super::*;
use crate::FileChanges;
use crate::contract::targets::{self, MariadbTarget, PostgresTarget, Room, SqliteTarget};
use crate::contract::{Faults, Harness, STREAM, Target, changes, file, record};
use std::any::Any;
use std::path::{Path, PathBuf};

const LOCK_WAIT_MS: u64 = 300;

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

fn config(connection: String, lock_wait_timeout_ms: u64) -> OdbcConfig {
    OdbcConfig {
        lock_wait_timeout_ms,
        ..OdbcConfig::new(connection).expect("a good connection string")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A target, and how a driver gets there.
trait Database {
    fn config(&self, lock_wait_ms: u64) -> OdbcConfig;
    /// Makes it empty.
    fn empty(&mut self);
    /// Runs SQL by the database's own means.
    fn sql(&self, sql: &str) -> String;
    /// SQL for bytes.
    fn literal(&self, bytes: &[u8]) -> String;
    /// What goes wrong with it.
    fn target(&mut self) -> &mut dyn Target;
    /// Why a case can't apply to it.
    fn cannot(&self, case: &str) -> Option<&'static str>;
}

struct InPostgres(PostgresTarget);

impl InPostgres {
    fn new() -> Self {
        InPostgres(PostgresTarget::with_numbered_tables())
    }
}

impl Database for InPostgres {
    fn config(&self, lock_wait_ms: u64) -> OdbcConfig {
        OdbcConfig {
            username: Some(self.0.user().into()),
            ..config(
                format!(
                    "Driver={};Server={};Port={};Database={}",
                    driver("psqlodbcw.so", "odbc-postgresql").display(),
                    self.0.socket_dir().display(),
                    self.0.port(),
                    targets::POSTGRES_DATABASE
                ),
                lock_wait_ms,
            )
        }
    }

    fn empty(&mut self) {
        self.0.fresh();
    }

    fn sql(&self, sql: &str) -> String {
        self.0.sql(sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex(bytes))
    }

    fn target(&mut self) -> &mut dyn Target {
        &mut self.0
    }

    fn cannot(&self, case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => Room::cannot(),
            _ => None,
        }
    }
}

struct InMariadb(MariadbTarget);

impl InMariadb {
    fn new() -> Self {
        InMariadb(MariadbTarget::new())
    }
}

impl Database for InMariadb {
    fn config(&self, lock_wait_ms: u64) -> OdbcConfig {
        OdbcConfig {
            username: Some(self.0.database().into()),
            ..config(
                format!(
                    "Driver={};Socket={};Database={}",
                    driver("libmaodbc.so", "odbc-mariadb").display(),
                    self.0.socket().display(),
                    self.0.database()
                ),
                lock_wait_ms,
            )
        }
    }

    fn empty(&mut self) {
        self.0.fresh();
    }

    fn sql(&self, sql: &str) -> String {
        self.0.sql(&sql.replace('"', "`"))
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn target(&mut self) -> &mut dyn Target {
        &mut self.0
    }

    fn cannot(&self, _case: &str) -> Option<&'static str> {
        None
    }
}

struct InSqlite(SqliteTarget);

impl InSqlite {
    fn new() -> Self {
        InSqlite(SqliteTarget::with_numbered_tables())
    }
}

impl Database for InSqlite {
    fn config(&self, lock_wait_ms: u64) -> OdbcConfig {
        config(
            format!(
                // What the dialect sets by itself; the generic one can't.
                "Driver={};Database={};JournalMode=WAL;Timeout={lock_wait_ms}",
                driver("libsqlite3odbc.so", "libsqliteodbc").display(),
                self.0.path().display()
            ),
            lock_wait_ms,
        )
    }

    fn empty(&mut self) {
        self.0.fresh();
    }

    fn sql(&self, sql: &str) -> String {
        self.0.sql(sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn target(&mut self) -> &mut dyn Target {
        &mut self.0
    }

    fn cannot(&self, case: &str) -> Option<&'static str> {
        match case {
            "waits_for_room" => Some("the driver can't be told how large the database may become"),
            _ => SqliteTarget::cannot(case),
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
    fn new(database: D, dialect: Option<Dialect>) -> Self {
        OdbcHarness {
            database,
            dialect,
            is_patient: false,
        }
    }

    fn config(&self) -> OdbcConfig {
        let lock_wait_ms = if self.is_patient {
            60_000
        } else {
            LOCK_WAIT_MS
        };
        OdbcConfig {
            dialect: self.dialect,
            ..self.database.config(lock_wait_ms)
        }
    }
}

impl<D: Database> Faults for OdbcHarness<D> {
    fn target(&mut self) -> &mut dyn Target {
        self.database.target()
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }
}

/// A transaction that is open until it is dropped.
struct Obstruction(Session);

impl<D: Database> Harness for OdbcHarness<D> {
    fn cannot(&self, case: &str) -> Option<&'static str> {
        if case == "survives_an_obstruction" && self.dialect == Some(Dialect::Generic) {
            return Some("it waits for locks as long as the database is set to");
        }
        match case {
            "names_a_column_of_another_type" => Some(
                "of a value that isn't taken, no driver tells the column without the value, so file and table are named alone",
            ),
            "replaces_a_missing_table" => Some(
                "not yet: the table of a file that goes is kept for another, so it has to be put back",
            ),
            _ => self.database.cannot(case),
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
        let all = self
            .database
            .sql("SELECT rows_table, table_name FROM counterfoil_files");
        let number = all
            .lines()
            .find_map(|line| {
                let (number, name) = line.split_once(['|', '\t'])?;
                (name == table).then_some(number)
            })
            .expect("a file with this table");
        self.database.sql(&format!(
            "UPDATE counterfoil_rows_{number} SET data = {} WHERE id = {id}",
            self.database.literal(data)
        ));
        true
    }

    fn random_histories(&self) -> u32 {
        6
    }
}

impl Drop for Obstruction {
    fn drop(&mut self) {
        self.0.rollback();
    }
}

mod through_psqlodbc {
    crate::sink_contract!(super::OdbcHarness::new(super::InPostgres::new(), None));
    crate::sink_faults!(super::OdbcHarness::new(super::InPostgres::new(), None));
}

mod through_mariadb_odbc {
    crate::sink_contract!(super::OdbcHarness::new(super::InMariadb::new(), None));
    crate::sink_faults!(super::OdbcHarness::new(super::InMariadb::new(), None));
}

mod through_sqliteodbc {
    crate::sink_contract!(super::OdbcHarness::new(super::InSqlite::new(), None));
    crate::sink_faults!(super::OdbcHarness::new(super::InSqlite::new(), None));
}

mod generic_in_postgres {
    use super::{Dialect, InPostgres, OdbcHarness};
    crate::sink_contract!(OdbcHarness::new(InPostgres::new(), Some(Dialect::Generic)));
}

mod generic_in_sqlite {
    use super::{Dialect, InSqlite, OdbcHarness};
    crate::sink_contract!(OdbcHarness::new(InSqlite::new(), Some(Dialect::Generic)));
}
