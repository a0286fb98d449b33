//! The contract through Debian's drivers, and what only drivers can do wrong.

use super::*;
use crate::contract::{Harness, changes, file, record, residue, static_file};
use crate::{FileChanges, Image, StoredPiece};
use counterfoil_servers::{Mariadb, Postgres};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A number that no other test of this process has.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn config(connection: String) -> OdbcConfig {
    OdbcConfig {
        lock_wait_timeout_ms: LOCK_WAIT_MS,
        ..OdbcConfig::new(connection).expect("a good connection string")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a test needs of a database beside the driver under test.
trait Database {
    fn config(&self) -> OdbcConfig;
    /// Makes it empty.
    fn empty(&self);
    /// Runs SQL by the database's own client.
    fn sql(&self, sql: &str) -> String;
    /// SQL for bytes.
    fn literal(&self, bytes: &[u8]) -> String;
}

struct InPostgres {
    database: String,
}

fn postgres() -> &'static Postgres {
    Postgres::shared().expect("a PostgreSQL server")
}

impl InPostgres {
    fn new() -> Self {
        let database = format!("odbc{}", next_number());
        postgres().create_database(&database).expect("a database");
        InPostgres { database }
    }
}

impl Database for InPostgres {
    fn config(&self) -> OdbcConfig {
        let server = postgres();
        OdbcConfig {
            username: Some("postgres".into()),
            ..config(format!(
                "Driver={};Server={};Port={};Database={}",
                driver("psqlodbcw.so", "odbc-postgresql").display(),
                server.socket_dir().display(),
                server.port(),
                self.database
            ))
        }
    }

    fn empty(&self) {
        self.sql(
            "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        );
    }

    fn sql(&self, sql: &str) -> String {
        postgres().sql(&self.database, sql).expect(sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex(bytes))
    }
}

impl Drop for InPostgres {
    fn drop(&mut self) {
        let _ = postgres().sql(
            "postgres",
            &format!("DROP DATABASE {} WITH (FORCE)", self.database),
        );
    }
}

struct InMariadb {
    database: String,
}

fn mariadb() -> &'static Mariadb {
    Mariadb::shared().expect("a MariaDB server")
}

impl InMariadb {
    fn new() -> Self {
        InMariadb {
            database: mariadb().create_database().expect("a database"),
        }
    }
}

impl Database for InMariadb {
    fn config(&self) -> OdbcConfig {
        OdbcConfig {
            username: Some("root".into()),
            ..config(format!(
                "Driver={};Socket={};Database={}",
                driver("libmaodbc.so", "odbc-mariadb").display(),
                mariadb().socket().display(),
                self.database
            ))
        }
    }

    fn empty(&self) {
        mariadb()
            .sql(
                "",
                &format!("DROP DATABASE {0}; CREATE DATABASE {0}", self.database),
            )
            .expect("an empty database");
    }

    fn sql(&self, sql: &str) -> String {
        let sql = sql.replace('"', "`");
        mariadb().sql(&self.database, &sql).expect(&sql)
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }
}

impl Drop for InMariadb {
    fn drop(&mut self) {
        let _ = mariadb().sql("", &format!("DROP DATABASE {}", self.database));
    }
}

struct InSqlite {
    directory: tempfile::TempDir,
}

impl InSqlite {
    fn new() -> Self {
        InSqlite {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mirror.db")
    }
}

impl Database for InSqlite {
    fn config(&self) -> OdbcConfig {
        config(format!(
            // What the dialect sets by itself; the generic one can't.
            "Driver={};Database={};JournalMode=WAL;Timeout={LOCK_WAIT_MS}",
            driver("libsqlite3odbc.so", "libsqliteodbc").display(),
            self.path().display()
        ))
    }

    fn empty(&self) {
        for file in [
            "mirror.db",
            "mirror.db-wal",
            "mirror.db-shm",
            "mirror.db-journal",
        ] {
            let _ = std::fs::remove_file(self.directory.path().join(file));
        }
    }

    fn sql(&self, sql: &str) -> String {
        let output = Command::new("sqlite3")
            .arg(self.path())
            .arg(sql)
            .output()
            .expect("running sqlite3");
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }
}

/// A database of its own, spoken to in a dialect.
struct OdbcHarness<D> {
    database: D,
    dialect: Option<Dialect>,
}

impl<D: Database> OdbcHarness<D> {
    fn new(database: D, dialect: Option<Dialect>) -> Self {
        OdbcHarness { database, dialect }
    }

    fn config(&self) -> OdbcConfig {
        OdbcConfig {
            dialect: self.dialect,
            ..self.database.config()
        }
    }
}

/// A transaction that is open until it is dropped.
struct Obstruction(Session);

impl<D: Database> Harness for OdbcHarness<D> {
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
        if self.dialect == Some(Dialect::Generic) {
            // It waits for locks as long as the database is set to.
            return None;
        }
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
}

mod through_mariadb_odbc {
    crate::sink_contract!(super::OdbcHarness::new(super::InMariadb::new(), None));
}

mod through_sqliteodbc {
    crate::sink_contract!(super::OdbcHarness::new(super::InSqlite::new(), None));
}

mod generic_in_postgres {
    use super::{Dialect, InPostgres, OdbcHarness};
    crate::sink_contract!(OdbcHarness::new(InPostgres::new(), Some(Dialect::Generic)));
}

mod generic_in_sqlite {
    use super::{Dialect, InSqlite, OdbcHarness};
    crate::sink_contract!(OdbcHarness::new(InSqlite::new(), Some(Dialect::Generic)));
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

fn content(sink: &mut OdbcSink, path: &[u8]) -> Vec<(u64, Image)> {
    let mut pieces = Vec::new();
    let mut each = |StoredPiece { id, image }| {
        pieces.push((id, image));
        true
    };
    sink.pieces(STREAM, path, &mut each)
        .expect("reading pieces");
    pieces
}
