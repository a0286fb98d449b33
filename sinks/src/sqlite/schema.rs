//! Counterfoil's own tables, the shape of a file's table, and how a connection is set up.
//!
//! The database file says what it is: `application_id` is [`APPLICATION_ID`], `user_version` the
//! version of this schema. A file of another application or of a newer version is refused, never
//! changed.

use super::columns::{self, COLUMNS_MAX};
use super::error::Doing;
use super::{SqliteConfig, structure};
use crate::SinkError;
use crate::plan::{Ddl, Mode, Shape};
use crate::sql::{permanent, quoted};
use counterfoil_records::STATIC_BLOCK_BYTES;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// "CFOL", at offset 68 of the database file.
pub const APPLICATION_ID: i32 = 0x4346_4F4C;

/// Version of the tables below; grows when they change.
///
/// 2: trees of static files, whose files share a table; kinds of files.
/// 3: shapes of tables; histories that outlive their files.
pub const SCHEMA_VERSION: i32 = 3;

/// Pages (4 KiB) of cache per connection: 32 MiB. A larger batch spills to the log by itself.
const CACHE_KIB: i32 = 32 * 1024;

/// After so many pages (16 MiB) the log is written back; it is cut to that size afterwards.
const WAL_PAGES: i32 = 4096;

/// One statement per kind of change and table; enough for a batch that touches a hundred files.
const STATEMENTS_MAX: usize = 400;

/// What every version since the first has had.
const TABLES: &str = "
CREATE TABLE counterfoil_position (
    stream      TEXT PRIMARY KEY NOT NULL,
    epoch       INTEGER NOT NULL,
    lsn         INTEGER NOT NULL,
    idx         INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    applied_ns  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE counterfoil_residue (
    file_id INTEGER NOT NULL,
    id      INTEGER NOT NULL,
    bytes   BLOB NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (file_id, id)
) WITHOUT ROWID;
";

/// The catalogue of files. A table is one file's, unless the file belongs to a tree.
const CATALOGUE: &str = "
CREATE TABLE counterfoil_trees (
    tree_id          INTEGER PRIMARY KEY,
    stream           TEXT NOT NULL,
    root             BLOB NOT NULL,
    root_text        TEXT NOT NULL,
    table_name       TEXT NOT NULL UNIQUE COLLATE NOCASE,
    table_configured TEXT,
    view_name        TEXT NOT NULL,
    UNIQUE (stream, root)
);
CREATE TABLE counterfoil_files (
    file_id          INTEGER PRIMARY KEY,
    stream           TEXT NOT NULL,
    path             BLOB NOT NULL,
    path_text        TEXT NOT NULL,
    file_group       TEXT NOT NULL,
    organization     TEXT NOT NULL,
    layout           TEXT NOT NULL,
    record_size      INTEGER,
    varseq_format    INTEGER,
    tree_id          INTEGER REFERENCES counterfoil_trees,
    table_name       TEXT NOT NULL COLLATE NOCASE,
    table_configured TEXT,
    kind             TEXT,
    size             INTEGER NOT NULL,
    mode             INTEGER,
    uid              INTEGER,
    gid              INTEGER,
    modified_ns      INTEGER,
    shape            TEXT,
    UNIQUE (stream, path)
);
CREATE UNIQUE INDEX counterfoil_files_table ON counterfoil_files (table_name) WHERE tree_id IS NULL;
CREATE INDEX counterfoil_files_tree ON counterfoil_files (tree_id) WHERE tree_id IS NOT NULL;
";

/// Histories whose file is gone: a file of that name goes on with one.
const HISTORIES: &str = "
CREATE TABLE counterfoil_histories (
    stream     TEXT NOT NULL,
    path       BLOB NOT NULL,
    path_text  TEXT NOT NULL,
    table_name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    identity   TEXT NOT NULL,
    shape      TEXT NOT NULL,
    PRIMARY KEY (stream, path)
) WITHOUT ROWID;
";

/// From version 2, where all tables had the same shape.
const FROM_VERSION_2: &str = "ALTER TABLE counterfoil_files ADD COLUMN shape TEXT;";

/// From version 1, where the catalogue was one table, and each file had a table of its own.
const FROM_VERSION_1: [&str; 2] = [
    "ALTER TABLE counterfoil_files RENAME TO counterfoil_files_1;",
    "INSERT INTO counterfoil_files (file_id, stream, path, path_text, file_group, organization, layout, record_size,
         varseq_format, table_name, table_configured, size, mode, uid, gid, modified_ns)
     SELECT file_id, stream, path, path_text, file_group, organization, layout, record_size,
         varseq_format, table_name, table_configured, size, mode, uid, gid, modified_ns
     FROM counterfoil_files_1;
     DROP TABLE counterfoil_files_1;",
];

/// What makes a database of version 1 look like this version to a connection that may not change it.
const VERSION_1_READ_ONLY: &str = "
CREATE TEMP TABLE counterfoil_trees (tree_id INTEGER PRIMARY KEY, root BLOB, table_configured TEXT);
CREATE TEMP VIEW counterfoil_files AS
    SELECT *, NULL AS tree_id, NULL AS kind, NULL AS shape FROM main.counterfoil_files;
";

/// The same of version 2.
const VERSION_2_READ_ONLY: &str = "
CREATE TEMP VIEW counterfoil_files AS SELECT *, NULL AS shape FROM main.counterfoil_files;
";

/// Opens for writing; makes the file and its tables where there are none.
pub(super) fn connect(config: &SqliteConfig, path: &Path) -> Result<Connection, SinkError> {
    match (config.ddl, std::fs::metadata(path)) {
        (Ddl::Manage, _) => create_private(path)?,
        (_, Ok(_)) => {}
        (ddl, Err(error)) => {
            return Err(permanent(
                opening(),
                error.to_string(),
                format!(
                    "with ddl = {ddl:?} nothing is made: make it with what `counterfoil schema sql` prints"
                )
                .to_lowercase(),
            ));
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).doing(opening)?;
    set_up(&connection, config)?;
    // Before anything is changed: not even the journal mode of somebody else's database.
    match config.ddl {
        Ddl::Manage => drop(check_owner(&connection)?),
        Ddl::Check => structure::check_own_tables(&connection, check_owner(&connection)?)?,
        Ddl::None => {}
    }
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .doing(|| "switching to a write-ahead log".into())?;
    if mode != "wal" {
        return Err(permanent(
            "switching to a write-ahead log",
            format!("SQLite stays in journal mode {mode:?}"),
            "put the database on a local file system (a write-ahead log needs shared memory)",
        ));
    }
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {WAL_PAGES};
             PRAGMA legacy_alter_table = ON; PRAGMA foreign_keys = OFF;"
        ))
        .doing(opening)?;
    connection
        .query_row(
            &format!("PRAGMA journal_size_limit = {}", WAL_PAGES * 4096),
            [],
            |_| Ok(()),
        )
        .doing(opening)?;
    if let Some(size_max) = config.size_max_bytes {
        limit_size(&connection, size_max)?;
    }
    if config.ddl == Ddl::Manage {
        create_tables(&mut connection)?;
    }
    Ok(connection)
}

/// Opens for reading what another process may be writing; never makes a file.
pub(super) fn connect_read_only(
    config: &SqliteConfig,
    path: &Path,
) -> Result<Connection, SinkError> {
    if let Err(error) = std::fs::metadata(path) {
        return Err(permanent(
            opening(),
            error.to_string(),
            "check the path, and whether anything has been mirrored into this sink yet",
        ));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).doing(opening)?;
    set_up(&connection, config)?;
    match check_owner(&connection)? {
        0 => Err(permanent(
            opening(),
            "the database is empty",
            "nothing has been mirrored into this sink yet",
        )),
        1 => {
            connection
                .execute_batch(VERSION_1_READ_ONLY)
                .doing(opening)?;
            Ok(connection)
        }
        2 => {
            connection
                .execute_batch(VERSION_2_READ_ONLY)
                .doing(opening)?;
            Ok(connection)
        }
        _ => Ok(connection),
    }
}

fn opening() -> String {
    "opening".into()
}

/// Makes an empty file that only its owner can read, for it will hold what the mirrored files hold.
/// SQLite gives the files beside it the same permissions.
fn create_private(path: &Path) -> Result<(), SinkError> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            Err(SinkError::Transient {
                doing: "creating the file".into(),
                cause: error.to_string(),
            })
        }
        Err(error) => Err(permanent(
            "creating the file",
            error.to_string(),
            "check that the directory exists and that the user that runs Counterfoil may write in it",
        )),
    }
}

fn set_up(connection: &Connection, config: &SqliteConfig) -> Result<(), SinkError> {
    connection
        .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
        .doing(opening)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection
        .pragma_update(None, "cache_size", -CACHE_KIB)
        .doing(opening)
}

fn limit_size(connection: &Connection, size_max: u64) -> Result<(), SinkError> {
    let page: i64 = connection
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .doing(opening)?;
    // SQLite never has more pages than fit in 32 bits, and takes no limit below what there is.
    let pages = (size_max / page.unsigned_abs().max(1)).clamp(1, u64::from(u32::MAX - 1));
    connection
        .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
        .doing(opening)
}

/// Refuses what isn't ours; returns the schema's version, 0 for an empty database.
fn check_owner(connection: &Connection) -> Result<i32, SinkError> {
    // One statement, so one snapshot: another process may be creating the tables just now.
    let (application, version, tables) = connection
        .query_row(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
             FROM pragma_application_id, pragma_user_version",
            [],
            |row| {
                Ok((
                    row.get::<_, i32>(0)?,
                    row.get::<_, i32>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            },
        )
        .doing(opening)?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(permanent(
            opening(),
            format!(
                "the database belongs to something else (application_id {application:#x}, {tables} tables and indexes)"
            ),
            "give the sink a path of its own",
        ));
    }
    if version > SCHEMA_VERSION {
        return Err(permanent(
            opening(),
            format!(
                "a newer Counterfoil made it (schema version {version}; this one knows {SCHEMA_VERSION})"
            ),
            "use that version of Counterfoil, or give the sink another path",
        ));
    }
    Ok(version)
}

fn create_tables(connection: &mut Connection) -> Result<(), SinkError> {
    let creating = || "creating Counterfoil's tables".to_owned();
    if check_owner(connection)? == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .doing(creating)?;
    let bring_up = |version: i32, steps: &[&str]| {
        steps.iter().try_for_each(|step| {
            transaction
                .execute_batch(step)
                .doing(|| format!("bringing Counterfoil's tables up from schema version {version}"))
        })
    };
    // Another process may have been faster.
    match check_owner(&transaction)? {
        0 => {
            transaction.execute_batch(TABLES).doing(creating)?;
            transaction.execute_batch(CATALOGUE).doing(creating)?;
            transaction.execute_batch(HISTORIES).doing(creating)?;
            transaction
                .pragma_update(None, "application_id", APPLICATION_ID)
                .doing(creating)?;
        }
        1 => {
            let [before, after] = FROM_VERSION_1;
            bring_up(1, &[before, CATALOGUE, after, HISTORIES])?;
        }
        2 => bring_up(2, &[FROM_VERSION_2, HISTORIES])?,
        _ => return Ok(()),
    }
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .doing(creating)?;
    transaction.commit().doing(creating)
}

/// The statements that make Counterfoil's own tables, in an empty database.
pub(super) fn own_tables() -> Vec<String> {
    let tables = [TABLES, CATALOGUE, HISTORIES].into_iter();
    let statements = tables.flat_map(|text| text.split(';'));
    let statements = statements.map(str::trim).filter(|text| !text.is_empty());
    statements
        .map(str::to_owned)
        .chain([
            format!("PRAGMA application_id = {APPLICATION_ID}"),
            format!("PRAGMA user_version = {SCHEMA_VERSION}"),
        ])
        .collect()
}

/// A new table for a file's records.
pub(super) fn create_table(
    table: &str,
    identity: &str,
    shape: &Shape,
) -> Result<String, SinkError> {
    let columns: Vec<columns::Column<'_>> = columns::of_table(identity, shape).collect();
    if columns.len() > COLUMNS_MAX {
        return Err(permanent(
            format!("making table {table}"),
            format!(
                "it would have {} columns, and SQLite's tables have at most {COLUMNS_MAX}",
                columns.len()
            ),
            "choose fields with `columns`, or leave some out with `exclude_columns`",
        ));
    }
    let is_history = shape.mode == Mode::History;
    let mut parts: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let suffix = match column.is_needed {
                true if at == 0 && !is_history => " PRIMARY KEY",
                true => " NOT NULL",
                false => "",
            };
            format!("{} {}{suffix}", quoted(column.name), column.sql_type)
        })
        .collect();
    if is_history {
        parts.push(format!(
            "PRIMARY KEY ({}, epoch, lsn, idx)",
            quoted(identity)
        ));
    }
    Ok(format!(
        "CREATE TABLE {} ({})",
        quoted(table),
        parts.join(", ")
    ))
}

/// A new table for the content of a tree's files.
pub(super) fn create_shared_table(table: &str) -> String {
    format!(
        "CREATE TABLE {} (file_id INTEGER NOT NULL, block_number INTEGER NOT NULL, data BLOB NOT NULL,
             PRIMARY KEY (file_id, block_number))",
        quoted(table)
    )
}

/// A view of a tree's files for people: what each is, and its content where that is one block.
pub(super) fn create_view(view: &str, table: &str) -> String {
    let block = STATIC_BLOCK_BYTES;
    let text = view.replace('\'', "''");
    format!(
        "CREATE VIEW {view} AS
         SELECT file_id, path_text, kind, printf('%04o', mode) AS mode, uid, gid, modified_ns, size,
             CASE WHEN kind = 'directory' OR size > {block} THEN NULL
                  WHEN size = 0 THEN x''
                  ELSE coalesce((SELECT data FROM {table} WHERE {table}.file_id = f.file_id AND block_number = 0),
                           zeroblob(size))
             END AS content
         FROM counterfoil_files AS f
         WHERE tree_id = (SELECT tree_id FROM counterfoil_trees WHERE view_name = '{text}')",
        view = quoted(view),
        table = quoted(table),
    )
}

/// [`crate::sql::integer`] of SQLite.
pub(super) fn integer(number: u64, what: impl FnOnce() -> String) -> Result<i64, SinkError> {
    crate::sql::integer(number, "SQLite", what)
}
