//! The contract, and what only SQLite can do wrong.

use super::*;
use crate::FileChanges;
use crate::contract::{Harness, changes, file, record};
use std::any::Any;
use tempfile::TempDir;

/// A database in a directory of its own.
struct SqliteHarness {
    _directory: TempDir,
    config: SqliteConfig,
}

impl SqliteHarness {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = SqliteConfig {
            busy_timeout_ms: 20,
            ..SqliteConfig::new(directory.path().join("mirror.db"))
        };
        SqliteHarness {
            _directory: directory,
            config,
        }
    }
}

impl Harness for SqliteHarness {
    fn fresh(&mut self) {
        *self = SqliteHarness::new();
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(SqliteSink::open(&self.config)?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(SqliteSink::open_read_only(&self.config)?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(
            &file(path),
            [(1, record("fits")), (1 << 63, record("doesn't"))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let other = Connection::open(&self.config.path).expect("opening another connection");
        other
            .execute_batch("BEGIN IMMEDIATE")
            .expect("taking the write lock");
        Some(Box::new(other))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let other = Connection::open(&self.config.path).expect("opening another connection");
        let sql = format!(
            "UPDATE {} SET data = ?1 WHERE rowid = ?2",
            schema::quoted(table)
        );
        other
            .execute(
                &sql,
                rusqlite::params![data, i64::try_from(id).expect("a small id")],
            )
            .expect("tampering");
        true
    }
}

mod contract {
    crate::sink_contract!(super::SqliteHarness::new());
}
