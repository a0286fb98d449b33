//! The SQLite sink: the embedded default.
//!
//! One database file holds a table per mirrored file, and tables of Counterfoil's own: the position
//! of each stream, the catalogue of files and trees, and the residue (on-disk bytes that are no
//! record). `docs/sinks.md` and `docs/sqlite.md` show them as people see them.
//!
//! # Promises
//! - A batch is one transaction, with its position in it, and is on disk (`synchronous = FULL`) when
//!   [`Sink::apply`] returns. After any error nothing of it is visible.
//! - Readers, in this process or another, never wait for the writer nor it for them (write-ahead
//!   log). A snapshot that is held for long makes the log grow meanwhile.
//! - Nothing that comes from a file's name is put into SQL unquoted.
//!
//! # Limits
//! - Numbers above 2⁶³-1 don't fit SQLite's integers: such an identity is refused, never wrapped.
//! - A record has at most 1 000 000 000 bytes, SQLite's limit for a value, and a table 2000 columns.
//! - SQLite has no NaN: such a field is NULL, and its row says so.
//! - Memory is bounded by the batch, 32 MiB of page cache, what is known of up to 20 000 files, and
//!   the names of all tables.

mod apply;
mod catalogue;
mod columns;
mod entry;
mod error;
mod evolution;
mod file;
mod history;
mod schema;
mod snapshot;
mod structure;
#[cfg(test)]
mod tests;

pub use schema::{APPLICATION_ID, SCHEMA_VERSION};
pub use structure::schema_sql;

use crate::plan::Ddl;
use crate::sql::permanent;
use crate::{Batch, Sink, SinkError, Snapshot};
use apply::Ending;
use catalogue::Catalogue;
use rusqlite::Connection;
use serde::Deserialize;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Where the database is, and what it may cost: a `[sqlite]` table of a sink's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file. It is made when it isn't there; its directory has to be.
    pub path: PathBuf,
    /// How long to wait, in milliseconds, for another program that holds the database's lock.
    #[serde(default = "busy_timeout_ms_default")]
    pub busy_timeout_ms: u64,
    /// The size in bytes that the database may reach, to leave room on the disk for others. Batches
    /// that need more are tried again until there is room. Default: as much as the disk holds.
    #[serde(default)]
    pub size_max_bytes: Option<u64>,
    /// What may be done to the structure of the database.
    #[serde(default)]
    pub ddl: Ddl,
}

fn busy_timeout_ms_default() -> u64 {
    5000
}

impl SqliteConfig {
    /// The defaults, at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SqliteConfig {
            path: path.into(),
            busy_timeout_ms: busy_timeout_ms_default(),
            size_max_bytes: None,
            ddl: Ddl::Manage,
        }
    }
}

/// A SQLite database as a target.
pub struct SqliteSink {
    config: SqliteConfig,
    /// Absolute, so that no name means something special to SQLite, and no `chdir` changes it.
    path: PathBuf,
    place: String,
    access: Access,
    /// `None` after a rollback failed: the next call opens the database anew.
    connection: Option<Connection>,
    /// Device and inode of the file that the connection writes to.
    file: Option<(u64, u64)>,
    catalogue: Catalogue,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    ReadOnly,
}

impl SqliteSink {
    /// Opens the database to apply batches to it; makes the file (readable by its owner only) and
    /// the tables where there are none.
    ///
    /// A file that isn't SQLite, belongs to another application or was made by a newer version is
    /// refused and left as it is.
    pub fn open(config: &SqliteConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::Write)
    }

    /// Opens an existing database to read it, from this process or another, while the writer goes
    /// on. Never makes or changes the file; [`Sink::apply`] is refused.
    ///
    /// (SQLite keeps two small files beside the database; where nobody writes just now, it has to be
    /// allowed to make them.)
    pub fn open_read_only(config: &SqliteConfig) -> Result<Self, SinkError> {
        Self::with_access(config, Access::ReadOnly)
    }

    fn with_access(config: &SqliteConfig, access: Access) -> Result<Self, SinkError> {
        let path = std::path::absolute(&config.path).map_err(|error| {
            permanent(
                format!("making SQLite database path {:?} absolute", config.path),
                error.to_string(),
                "configure the path of a file",
            )
        })?;
        let place = format!("in SQLite database {}", path.display());
        let mut sink = SqliteSink {
            config: config.clone(),
            path,
            place,
            access,
            connection: None,
            file: None,
            catalogue: Catalogue::new(config.ddl),
        };
        match sink.connected() {
            Ok(_) => Ok(sink),
            Err(error) => Err(error.at(&sink.place)),
        }
    }

    fn connected(&mut self) -> Result<(&mut Connection, &mut Catalogue), SinkError> {
        if self.access == Access::Write && self.connection.is_some() && self.identity() != self.file
        {
            // Somebody put another file in its place, or removed it: what the connection writes to, nobody would ever see.
            // Closing it takes away the log that lies beside the new file and isn't of it.
            self.connection = None;
        }
        if self.connection.is_none() {
            self.catalogue.forget();
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None if self.access == Access::Write => {
                let connection = schema::connect(&self.config, &self.path)?;
                self.file = self.identity();
                connection
            }
            None => schema::connect_read_only(&self.config, &self.path)?,
        };
        Ok((self.connection.insert(connection), &mut self.catalogue))
    }

    /// Which file there is at the path.
    fn identity(&self) -> Option<(u64, u64)> {
        let there = std::fs::metadata(&self.path).ok()?;
        Some((there.dev(), there.ino()))
    }

    fn try_apply(&mut self, batch: &Batch, ending: Ending) -> Result<(), SinkError> {
        if self.access == Access::ReadOnly {
            return Err(permanent(
                "applying a batch",
                "the database was opened for reading only",
                "apply through a sink that was opened for writing",
            ));
        }
        let (connection, catalogue) = self.connected()?;
        let applied = apply::apply(connection, catalogue, batch, ending);
        if applied.is_err() || ending == Ending::TakeBack {
            // What is remembered may be of the transaction that is gone.
            catalogue.forget();
            if !connection.is_autocommit() && connection.execute_batch("ROLLBACK").is_err() {
                self.connection = None;
            }
        }
        applied
    }
}

impl Sink for SqliteSink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_apply(batch, Ending::Commit)
            .map_err(|error| error.at(&self.place))
    }

    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.try_apply(batch, Ending::TakeBack)
            .map_err(|error| error.at(&self.place))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        let place = self.place.clone();
        let opened = match self.connected() {
            Ok((connection, _)) => snapshot::SqliteSnapshot::open(connection, place.clone()),
            Err(error) => Err(error),
        };
        match opened {
            Ok(snapshot) => Ok(Box::new(snapshot)),
            Err(error) => Err(error.at(&place)),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), SinkError> {
        use error::Doing;
        match self.connection.take() {
            Some(connection) => connection
                .close()
                .map_err(|(_, error)| error)
                .doing(|| "closing".into())
                .map_err(|error| error.at(&self.place)),
            None => Ok(()),
        }
    }
}
