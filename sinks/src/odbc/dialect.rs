//! What databases want to be told, each in its own words. Nothing here talks to one.
//!
//! Most of what this sink says is SQL that all databases have in common; what isn't, is here. The
//! text of every statement in every dialect is in `snapshots/`, and a test compares.

use super::check::{Holds, Needed};
use super::columns::{CAPTURED, Columns};
use super::history::{OWN_VALUES, POSITION};
use crate::naming::{numbered, numbered_within};
use counterfoil_records::STATIC_BLOCK_BYTES;
use std::fmt::Write as _;
use std::sync::Arc;

/// A family of databases that are spoken to alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Oracle Database, 12.1 or later.
    Oracle,
    /// IBM Db2 for Linux, UNIX and Windows.
    Db2,
    /// Microsoft SQL Server, 2016 or later, and Azure SQL.
    SqlServer,
    /// PostgreSQL and what speaks like it.
    Postgresql,
    /// MySQL and MariaDB.
    Mysql,
    /// SQLite.
    Sqlite,
    /// Any other: nothing but what every SQL database has.
    Generic,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 7] = [
        Dialect::Oracle,
        Dialect::Db2,
        Dialect::SqlServer,
        Dialect::Postgresql,
        Dialect::Mysql,
        Dialect::Sqlite,
        Dialect::Generic,
    ];

    /// Its name, as it stands in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Oracle => "oracle",
            Dialect::Db2 => "db2",
            Dialect::SqlServer => "sqlserver",
            Dialect::Postgresql => "postgresql",
            Dialect::Mysql => "mysql",
            Dialect::Sqlite => "sqlite",
            Dialect::Generic => "generic",
        }
    }

    /// The dialect with this name.
    pub fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL
            .into_iter()
            .find(|dialect| dialect.name() == name)
    }

    /// The dialect of a database that its driver calls so (`SQL_DBMS_NAME`).
    pub fn of_database(name: &str) -> Dialect {
        let name = name.to_lowercase();
        let is = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if is(&["oracle"]) {
            Dialect::Oracle
        } else if name.starts_with("db2") {
            Dialect::Db2
        } else if is(&["microsoft sql server", "azure sql"]) {
            Dialect::SqlServer
        } else if is(&["postgres"]) {
            Dialect::Postgresql
        } else if is(&["mysql", "mariadb"]) {
            Dialect::Mysql
        } else if is(&["sqlite"]) {
            Dialect::Sqlite
        } else {
            Dialect::Generic
        }
    }

    /// Whether Counterfoil's own tests run it against a real database. The others are known from documentation alone.
    pub fn was_tried(self) -> bool {
        !matches!(self, Dialect::Oracle | Dialect::Db2 | Dialect::SqlServer)
    }

    /// Numbers of errors that pass by themselves, whatever the SQLSTATE is: locks, deadlocks, no room, too many connections.
    pub(super) fn passing(self) -> &'static [i32] {
        match self {
            Dialect::Oracle => &[
                54, 60, 257, 1033, 1034, 1089, 1090, 1652, 1653, 1654, 1658, 8177, 12516, 12518,
                12520, 30006,
            ],
            Dialect::Db2 => &[-904, -911, -913, -964, -968, -1040],
            Dialect::SqlServer => &[
                701, 1105, 1204, 1205, 1222, 3960, 9002, 10928, 10929, 40501, 40613,
            ],
            Dialect::Postgresql => &[],
            Dialect::Mysql => &[
                1020, 1021, 1040, 1041, 1114, 1161, 1203, 1205, 1213, 1226, 1290, 1836, 1969, 3024,
            ],
            // Busy, locked, out of memory, interrupted, input/output, full, protocol.
            Dialect::Sqlite => &[5, 6, 7, 9, 10, 13, 15],
            Dialect::Generic => &[],
        }
    }

    /// Those of them that say that there is no room.
    pub(super) fn full(self) -> &'static [i32] {
        match self {
            Dialect::Oracle => &[257, 1652, 1653, 1654, 1658],
            Dialect::Db2 => &[-964, -968],
            Dialect::SqlServer => &[1105, 9002],
            Dialect::Mysql => &[1021, 1114],
            Dialect::Sqlite => &[13],
            Dialect::Postgresql | Dialect::Generic => &[],
        }
    }

    /// Numbers of errors after which the connection is of no use.
    pub(super) fn ends_connections(self) -> &'static [i32] {
        match self {
            Dialect::Oracle => &[
                28, 1012, 1092, 3113, 3114, 3135, 12170, 12514, 12528, 12537, 12541, 12547, 12571,
            ],
            Dialect::Db2 => &[-1224, -30081],
            Dialect::SqlServer => &[596, 6005, 10053, 10054, 10060],
            Dialect::Mysql => &[1053, 1077, 1927, 2002, 2003, 2006, 2013, 2055],
            Dialect::Postgresql | Dialect::Sqlite | Dialect::Generic => &[],
        }
    }

    /// Numbers of errors about a value of a unique index that is taken.
    pub(super) fn duplicates(self) -> &'static [i32] {
        match self {
            Dialect::Oracle => &[1],
            Dialect::Db2 => &[-803],
            Dialect::SqlServer => &[2601, 2627],
            // The second is what an upsert says that met another row; see `upsert`.
            Dialect::Mysql => &[1062, 1048],
            // SQLite's driver has one number for all that is violated.
            Dialect::Sqlite => &[19],
            Dialect::Postgresql | Dialect::Generic => &[],
        }
    }

    /// Numbers of errors about rights.
    pub(super) fn denials(self) -> &'static [i32] {
        match self {
            Dialect::Oracle => &[1031, 1045, 1950],
            Dialect::Db2 => &[-551, -552],
            Dialect::SqlServer => &[229, 230, 262, 297, 300],
            Dialect::Mysql => &[1044, 1045, 1142, 1143, 1227],
            Dialect::Postgresql | Dialect::Sqlite | Dialect::Generic => &[],
        }
    }

    /// Whether the driver takes 64-bit numbers as such. Oracle's doesn't, and is given digits.
    pub(super) fn binds_integers(self) -> bool {
        self != Dialect::Oracle
    }

    /// The largest value that is bound as `VARBINARY`; beyond it is `LONGVARBINARY`.
    pub(super) fn varbinary_bytes_max(self) -> usize {
        match self {
            // A long one may become a large object of PostgreSQL's, which is something else.
            Dialect::Postgresql | Dialect::Mysql | Dialect::Sqlite => usize::MAX,
            Dialect::SqlServer | Dialect::Generic => 8000,
            // Its columns are BLOBs.
            Dialect::Oracle | Dialect::Db2 => 0,
        }
    }

    /// Run once for each connection, in this order. The limit is how long to wait for locks, in milliseconds.
    pub(super) fn beginnings(self, lock_wait_ms: u64) -> Vec<String> {
        let seconds = lock_wait_ms.div_ceil(1000).max(1);
        match self {
            Dialect::Postgresql => vec![
                format!("SET lock_timeout = {lock_wait_ms}"),
                "SET standard_conforming_strings = on".into(),
            ],
            Dialect::Mysql => vec![
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', \
                 SESSION unique_checks = 1, SESSION sql_safe_updates = 0, SESSION sql_select_limit = 18446744073709551615"
                    .into(),
                format!(
                    "SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}"
                ),
            ],
            Dialect::Sqlite => vec![format!("PRAGMA busy_timeout = {lock_wait_ms}")],
            Dialect::SqlServer => vec![
                "SET XACT_ABORT ON".into(),
                "SET QUOTED_IDENTIFIER ON".into(),
                format!("SET LOCK_TIMEOUT {lock_wait_ms}"),
            ],
            Dialect::Db2 => vec![format!("SET CURRENT LOCK TIMEOUT {seconds}")],
            Dialect::Oracle | Dialect::Generic => Vec::new(),
        }
    }

    /// What makes the transactions that follow read what is committed when each statement begins.
    pub(super) fn writing(self) -> &'static [&'static str] {
        match self {
            Dialect::Postgresql => {
                &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"]
            }
            Dialect::Mysql => &["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"],
            Dialect::SqlServer => &["SET TRANSACTION ISOLATION LEVEL READ COMMITTED"],
            Dialect::Oracle => &["ALTER SESSION SET ISOLATION_LEVEL = READ COMMITTED"],
            Dialect::Db2 => &["SET CURRENT ISOLATION = CS"],
            Dialect::Generic => {
                &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"]
            }
            Dialect::Sqlite => &[],
        }
    }

    /// What makes the transactions that follow have one view of everything.
    pub(super) fn reading(self) -> &'static [&'static str] {
        match self {
            Dialect::Postgresql => {
                &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ"]
            }
            Dialect::Mysql => &["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"],
            // The database has to allow it: ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON.
            Dialect::SqlServer => &["SET TRANSACTION ISOLATION LEVEL SNAPSHOT"],
            Dialect::Oracle => &["ALTER SESSION SET ISOLATION_LEVEL = SERIALIZABLE"],
            // It locks what it reads: the writer waits for the reader.
            Dialect::Db2 => &["SET CURRENT ISOLATION = RR"],
            Dialect::Generic => {
                &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"]
            }
            Dialect::Sqlite => &[],
        }
    }

    /// Whether the database may not know what [`Dialect::reading`] and [`Dialect::writing`] say.
    pub(super) fn may_not_isolate(self) -> bool {
        self == Dialect::Generic
    }

    /// Run before tables are made, outside of any transaction.
    pub(super) fn before_tables(self) -> &'static [&'static str] {
        match self {
            // Readers and the writer don't wait for each other then.
            Dialect::Sqlite => &["PRAGMA journal_mode = WAL"],
            _ => &[],
        }
    }

    /// Names of a column's type for bytes of any number: the first that the database takes.
    pub(super) fn bytes_types(self) -> &'static [&'static str] {
        match self {
            Dialect::Oracle => &["BLOB"],
            Dialect::Db2 => &["BLOB(2147483647)"],
            Dialect::SqlServer => &["VARBINARY(MAX)"],
            Dialect::Postgresql => &["BYTEA"],
            Dialect::Mysql => &["LONGBLOB"],
            Dialect::Sqlite => &["BLOB"],
            Dialect::Generic => &[
                "BLOB",
                "BINARY LARGE OBJECT",
                "BYTEA",
                "VARBINARY(MAX)",
                "LONG VARBINARY",
                "LONG BYTE",
                "BYTE",
                "IMAGE",
            ],
        }
    }

    /// The same for text.
    pub(super) fn text_types(self) -> &'static [&'static str] {
        match self {
            Dialect::Oracle => &["NCLOB"],
            Dialect::Db2 => &["CLOB(16777216)"],
            Dialect::SqlServer => &["NVARCHAR(MAX)"],
            Dialect::Postgresql => &["TEXT"],
            Dialect::Mysql => &["LONGTEXT"],
            Dialect::Sqlite => &["TEXT"],
            Dialect::Generic => &[
                "CLOB",
                "CHARACTER LARGE OBJECT",
                "TEXT",
                "VARCHAR(MAX)",
                "LONG VARCHAR",
                "VARCHAR(32000)",
            ],
        }
    }

    /// The types that a database of this dialect has, as far as that can be known without asking it.
    pub(super) fn usual_types(self) -> Types {
        Types {
            bytes: self.bytes_types()[0],
            text: self.text_types()[0],
        }
    }

    fn integer_type(self) -> &'static str {
        match self {
            Dialect::Oracle => "NUMBER(19)",
            // So it is the row's own number.
            Dialect::Sqlite => "INTEGER",
            _ => "BIGINT",
        }
    }

    /// Text that an index is made of, told apart character by character.
    fn key_type(self) -> &'static str {
        match self {
            Dialect::Oracle => "VARCHAR2(255 CHAR)",
            Dialect::SqlServer => "NVARCHAR(255) COLLATE Latin1_General_100_BIN2",
            Dialect::Mysql => "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            _ => "VARCHAR(255)",
        }
    }

    /// What stands behind the columns of a table.
    fn table_kind(self) -> &'static str {
        match self {
            Dialect::Mysql => {
                " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            }
            _ => "",
        }
    }

    /// Bytes that a name may have, unless the driver says how many.
    fn name_bytes_max(self) -> usize {
        match self {
            Dialect::Oracle | Dialect::Generic => 30,
            Dialect::Db2 | Dialect::SqlServer | Dialect::Sqlite => 128,
            Dialect::Postgresql => 63,
            Dialect::Mysql => 64,
        }
    }

    /// Databases whose unquoted names are upper case: what is quoted for them is made so, that nobody has to quote it.
    fn folds_up(self) -> bool {
        matches!(self, Dialect::Oracle | Dialect::Db2)
    }
}

/// A statement with parameters, and for each of them the value it takes, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) order: Vec<usize>,
}

/// A way to define a view. The first that the database takes is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Definition {
    /// This statement.
    One(String),
    /// The first, which may fail as there is nothing to drop, and then the second.
    DropAndCreate(String, String),
}

/// The rows of a file: all of a table, or those of a shared one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Of the table.
    pub(super) number: i64,
    /// The file, if the table is shared.
    pub(super) file_id: Option<i64>,
    pub(super) columns: Arc<Columns>,
}

impl Rows {
    /// The columns with a record's values, beside its identity, as SQL wants them.
    fn values(&self) -> Vec<&str> {
        let filled = self.columns.filled().iter();
        filled.map(|column| column.name.as_str()).collect()
    }

    /// The beginning of a condition that holds for this file's rows only.
    fn of_file(&self) -> String {
        self.file_id
            .map_or(String::new(), |file| format!("file_id = {file} AND "))
    }
}

/// A dialect, and what is known of the database beside it.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub(super) dialect: Dialect,
    pub(super) schema: Option<String>,
    quote: char,
    name_bytes_max: usize,
}

/// Types that tables are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types {
    pub(super) bytes: &'static str,
    pub(super) text: &'static str,
}

/// A table's name, its columns, and its key.
type OwnTable = (
    &'static str,
    &'static [(&'static str, Column)],
    &'static str,
);

/// Counterfoil's own tables, without the names of types.
const TABLES: [OwnTable; 8] = [
    (
        "counterfoil_position",
        &[
            ("stream", Column::Key),
            ("epoch", Column::Number),
            ("lsn", Column::Number),
            ("idx", Column::Number),
            ("captured_ns", Column::Number),
            ("applied_ns", Column::Number),
        ],
        "stream",
    ),
    (
        "counterfoil_files",
        &[
            ("file_id", Column::Number),
            ("stream", Column::Key),
            ("path_hash", Column::Key),
            ("path", Column::Bytes),
            ("path_text", Column::Text),
            ("file_group", Column::Text),
            ("organization", Column::Text),
            ("layout", Column::Text),
            ("record_size", Column::NumberOrNot),
            ("varseq_format", Column::NumberOrNot),
            ("identity_name", Column::Text),
            ("tree_id", Column::NumberOrNot),
            ("rows_table", Column::Number),
            ("table_name", Column::Text),
            ("table_configured", Column::Text),
            ("shape", Column::Text),
            ("file_kind", Column::Text),
            ("file_size", Column::Number),
            ("file_mode", Column::NumberOrNot),
            ("owner_uid", Column::NumberOrNot),
            ("owner_gid", Column::NumberOrNot),
            ("modified_ns", Column::NumberOrNot),
        ],
        "file_id",
    ),
    (
        "counterfoil_trees",
        &[
            ("tree_id", Column::Number),
            ("stream", Column::Key),
            ("root", Column::Bytes),
            ("root_text", Column::Text),
            ("rows_table", Column::Number),
            ("table_name", Column::Text),
            ("table_configured", Column::Text),
            ("view_name", Column::Text),
        ],
        "tree_id",
    ),
    (
        "counterfoil_residue",
        &[
            ("file_id", Column::Number),
            ("id", Column::Number),
            ("residue", Column::Bytes),
            ("reason", Column::Text),
        ],
        "file_id, id",
    ),
    // Every table with rows, also one that no file has.
    (
        "counterfoil_tables",
        &[
            ("rows_table", Column::Number),
            ("stream", Column::Key),
            ("structure", Column::Text),
            ("is_made", Column::Number),
            ("is_used", Column::Number),
        ],
        "rows_table",
    ),
    // Every history whose file isn't there any more.
    (
        "counterfoil_histories",
        &[
            ("rows_table", Column::Number),
            ("stream", Column::Key),
            ("path_hash", Column::Key),
            ("path", Column::Bytes),
            ("path_text", Column::Text),
            ("table_name", Column::Text),
            ("table_configured", Column::Text),
            ("identity_name", Column::Text),
            ("shape", Column::Text),
        ],
        "rows_table",
    ),
    // Every view: how often what it has to show has changed, and as of which change it was made.
    (
        "counterfoil_views",
        &[
            ("name_key", Column::Key),
            ("name", Column::Text),
            ("stream", Column::Key),
            ("wanted", Column::Number),
            ("made", Column::Number),
        ],
        "name_key",
    ),
    // One row. Whoever changes what tables and views there are has it locked.
    (
        "counterfoil_state",
        &[
            ("only_row", Column::Number),
            ("version", Column::Number),
            ("next_number", Column::Number),
        ],
        "only_row",
    ),
];

/// What a column of Counterfoil's own is. Text and bytes may always be NULL: there are databases where an empty one is.
#[derive(Clone, Copy)]
enum Column {
    Key,
    Number,
    NumberOrNot,
    Text,
    Bytes,
}

impl Sql {
    /// What a driver says of names is used where the dialect has no better knowledge.
    pub(super) fn new(
        dialect: Dialect,
        schema: Option<String>,
        quote: Option<char>,
        name_bytes_max: Option<usize>,
    ) -> Sql {
        let quote = match dialect {
            Dialect::Mysql => '`',
            Dialect::Generic => quote.unwrap_or('"'),
            _ => '"',
        };
        let known = dialect.name_bytes_max();
        let name_bytes_max = match dialect {
            Dialect::Oracle | Dialect::Generic => name_bytes_max.unwrap_or(known).clamp(18, 128),
            _ => known,
        };
        Sql {
            dialect,
            schema,
            quote,
            name_bytes_max,
        }
    }

    /// Bytes that a name may have.
    pub(super) fn name_bytes_max(&self) -> usize {
        self.name_bytes_max
    }

    /// A name as the database wants it, whatever is in it.
    pub(super) fn quoted(&self, name: &str) -> String {
        let quote = self.quote;
        format!(
            "{quote}{}{quote}",
            name.replace(quote, &format!("{quote}{quote}"))
        )
    }

    /// A table or view, with its schema.
    fn placed(&self, name: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{name}", self.quoted(schema)),
            None => name.to_owned(),
        }
    }

    /// Text as it stands in SQL.
    pub(super) fn literal(&self, text: &str) -> String {
        let text = text.replace('\'', "''");
        match self.dialect {
            // It takes a backslash for more than one.
            Dialect::Mysql => format!("'{}'", text.replace('\\', "\\\\")),
            Dialect::SqlServer | Dialect::Oracle => format!("N'{text}'"),
            _ => format!("'{text}'"),
        }
    }

    /// A statement about Counterfoil's own tables, whose names are in braces.
    pub(super) fn own(&self, statement: &str) -> String {
        let mut sql = String::with_capacity(statement.len() + 32);
        let mut rest = statement;
        while let Some((before, behind)) = rest.split_once('{') {
            sql.push_str(before);
            let (name, behind) = behind.split_once('}').unwrap_or((behind, ""));
            sql.push_str(&self.placed(&format!("counterfoil_{name}")));
            rest = behind;
        }
        sql.push_str(rest);
        sql
    }

    /// The table with this number.
    pub(super) fn rows_table(&self, number: i64) -> String {
        self.placed(&Sql::rows_name(number))
    }

    /// Its name alone.
    pub(super) fn rows_name(number: i64) -> String {
        format!("counterfoil_rows_{number}")
    }

    /// A column's name without its quotes.
    pub(super) fn bare(&self, name: &str) -> String {
        let quote = self.quote;
        match name
            .strip_prefix(quote)
            .and_then(|name| name.strip_suffix(quote))
        {
            Some(name) => name.replace(&format!("{quote}{quote}"), &quote.to_string()),
            None => name.to_owned(),
        }
    }

    /// Counterfoil's own tables: the name of each, what its columns have to be, and its key.
    pub(super) fn own_columns(
        &self,
        types: Types,
    ) -> Vec<(&'static str, Vec<Needed>, &'static str)> {
        let tables = TABLES.iter().map(|(name, columns, key)| {
            let needed = columns.iter().map(|(name, column)| {
                let integer = self.dialect.integer_type();
                let (kind, holds) = match column {
                    Column::Key => {
                        let kind = format!("{} NOT NULL", self.dialect.key_type());
                        (kind, Holds::Text(Some(255)))
                    }
                    Column::Number => (format!("{integer} NOT NULL"), Holds::Integer(64)),
                    Column::NumberOrNot => (integer.to_owned(), Holds::Integer(64)),
                    Column::Text => (types.text.to_owned(), Holds::Text(None)),
                    Column::Bytes => (types.bytes.to_owned(), Holds::Bytes(None)),
                };
                Needed {
                    name: (*name).to_owned(),
                    kind,
                    holds,
                    takes_null: !matches!(column, Column::Key | Column::Number),
                }
            });
            (*name, needed.collect(), *key)
        });
        tables.collect()
    }

    /// What the columns of a table with rows have to be that come before those of the record.
    pub(super) fn key_columns(&self, columns: &Columns, types: Types) -> Vec<Needed> {
        let mut needed = Vec::new();
        let mut add = |name: &str, kind: &str, holds| {
            needed.push(Needed {
                name: name.to_owned(),
                kind: format!("{kind} NOT NULL"),
                holds,
                takes_null: false,
            });
        };
        for name in key(columns).split(", ") {
            add(name, self.dialect.integer_type(), Holds::Integer(64));
        }
        if columns.is_history() {
            add("op", OP_TYPE, Holds::Text(Some(10)));
            let kind = self.dialect.type_of(CAPTURED, types);
            add("captured_at", &kind, self.dialect.holds(CAPTURED));
        }
        needed
    }

    /// The `number`th choice for a name that is wanted, as far as databases take it: not too long, no character beyond the
    /// basic plane, no space at its end.
    pub(super) fn limited(&self, wanted: &str, number: u32) -> String {
        let name: String = wanted
            .chars()
            .map(|char| match char {
                '\u{10000}'.. | '\0' => '_',
                // PostgreSQL's driver takes a marker for one even within quotes.
                '?' if self.dialect == Dialect::Generic => '_',
                char => char,
            })
            .collect();
        let name = match name.trim_end() {
            "" => numbered("file", number),
            name => numbered_within(name, number, self.name_bytes_max),
        };
        self.folded(&name)
    }

    /// A plain name in the case that unquoted ones have.
    pub(super) fn folded(&self, name: &str) -> String {
        let is_plain = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if is_plain && self.dialect.folds_up() {
            name.to_ascii_uppercase()
        } else {
            name.to_owned()
        }
    }

    /// Counterfoil's own tables: for each its name, and what makes it.
    pub(super) fn create_own(&self, types: Types) -> Vec<(String, Vec<String>)> {
        let mut tables = Vec::with_capacity(TABLES.len());
        for (name, columns, key) in TABLES {
            let table = self.placed(name);
            let mut sql = format!("CREATE TABLE {table} (");
            for (column, kind) in columns {
                let kind = match kind {
                    Column::Key => format!("{} NOT NULL", self.dialect.key_type()),
                    Column::Number => format!("{} NOT NULL", self.dialect.integer_type()),
                    Column::NumberOrNot => self.dialect.integer_type().to_owned(),
                    Column::Text => types.text.to_owned(),
                    Column::Bytes => types.bytes.to_owned(),
                };
                let _ = write!(sql, "{column} {kind}, ");
            }
            let _ = write!(sql, "PRIMARY KEY ({key})){}", self.dialect.table_kind());
            let mut statements = vec![sql];
            if name == "counterfoil_files" {
                statements.push(format!(
                    "CREATE INDEX {} ON {table} (stream, path_hash)",
                    // In some databases an index is in its table's schema by itself, and in others it has to be said.
                    if self.dialect == Dialect::Db2 || self.dialect == Dialect::Oracle {
                        self.placed("counterfoil_files_paths")
                    } else {
                        "counterfoil_files_paths".to_owned()
                    }
                ));
            }
            tables.push((table, statements));
        }
        tables
    }

    /// A table of no use, to find out which types there are.
    pub(super) fn create_probe(&self, kind: &str) -> String {
        format!(
            "CREATE TABLE {} (probe {kind})",
            self.placed("counterfoil_probe")
        )
    }

    /// And no more of it.
    pub(super) fn drop_probe(&self) -> String {
        format!("DROP TABLE {}", self.placed("counterfoil_probe"))
    }

    /// A table for a file's records, or, shared, for the content of a tree's files.
    pub(super) fn create_rows(&self, number: i64, columns: &Columns, types: Types) -> String {
        let (table, integer) = (self.rows_table(number), self.dialect.integer_type());
        let values = columns.definitions(self.dialect, types);
        let file = if columns.is_shared() {
            format!("file_id {integer} NOT NULL, ")
        } else {
            String::new()
        };
        let change = if columns.is_history() {
            format!(
                "epoch {integer} NOT NULL, lsn {integer} NOT NULL, idx {integer} NOT NULL, op {OP_TYPE} NOT NULL, \
                 captured_at {} NOT NULL, ",
                self.dialect.type_of(CAPTURED, types)
            )
        } else {
            String::new()
        };
        format!(
            "CREATE TABLE {table} ({file}id {integer} NOT NULL, {change}{values}PRIMARY KEY ({})){}",
            key(columns),
            self.dialect.table_kind()
        )
    }

    /// Copies the rows of one file's table into another's, with the columns that both have.
    pub(super) fn copy(&self, from: &Rows, to: &Rows) -> String {
        let mut names = vec!["id"];
        if to.columns.is_history() {
            names.extend([POSITION, "op, captured_at"]);
        }
        names.extend(to.columns.common(&from.columns));
        let names = names.join(", ");
        format!(
            "INSERT INTO {} ({names}) SELECT {names} FROM {}",
            self.rows_table(to.number),
            self.rows_table(from.number)
        )
    }

    /// Drops a table that was being made.
    pub(super) fn drop_rows(&self, number: i64) -> String {
        format!("DROP TABLE {}", self.rows_table(number))
    }

    /// A row that is new: its identity, then its values. In a history its position and time are between them.
    pub(super) fn insert(&self, rows: &Rows) -> Statement {
        let values = rows.values();
        let names: String = values.iter().flat_map(|value| [", ", value]).collect();
        if rows.columns.is_history() {
            return Statement {
                sql: format!(
                    "INSERT INTO {} (id, {POSITION}, op, captured_at{names}) VALUES (?, ?, ?, ?, 'put', ?{})",
                    self.rows_table(rows.number),
                    ", ?".repeat(values.len()),
                ),
                order: (0..OWN_VALUES + values.len()).collect(),
            };
        }
        Statement {
            sql: format!(
                "INSERT INTO {} ({}id{names}) VALUES ({}?{})",
                self.rows_table(rows.number),
                if rows.file_id.is_some() {
                    "file_id, "
                } else {
                    ""
                },
                rows.file_id
                    .map_or(String::new(), |file| format!("{file}, ")),
                ", ?".repeat(values.len()),
            ),
            order: (0..=values.len()).collect(),
        }
    }

    /// A row that may be there: inserted, or else changed. It never changes a row with another identity.
    pub(super) fn upsert(&self, rows: &Rows) -> Option<Statement> {
        let values = rows.values();
        let list = |text: &dyn Fn(&str) -> String| {
            values
                .iter()
                .map(|value| text(value))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let insert = self.insert(rows);
        match self.dialect {
            // There is nothing to change.
            _ if values.is_empty() => None,
            Dialect::Postgresql | Dialect::Sqlite => {
                let key = if rows.file_id.is_some() {
                    "file_id, id"
                } else {
                    "id"
                };
                let set = list(&|value| format!("{value} = excluded.{value}"));
                Some(Statement {
                    sql: format!("{} ON CONFLICT ({key}) DO UPDATE SET {set}", insert.sql),
                    ..insert
                })
            }
            Dialect::Mysql => {
                // It takes a row that is met by any unique index. If that is another one, its identity becomes NULL, which
                // can't be, and the statement is refused.
                let same = match rows.file_id {
                    Some(_) => "file_id = VALUES(file_id) AND id = VALUES(id)",
                    None => "id = VALUES(id)",
                };
                let set = list(&|value| format!("{value} = VALUES({value})"));
                Some(Statement {
                    sql: format!(
                        "{} ON DUPLICATE KEY UPDATE id = IF({same}, id, NULL), {set}",
                        insert.sql
                    ),
                    ..insert
                })
            }
            Dialect::Oracle | Dialect::Db2 | Dialect::SqlServer => {
                let table = self.rows_table(rows.number);
                let (target, source, end) = match self.dialect {
                    Dialect::Oracle => (
                        format!("{table} t"),
                        "(SELECT CAST(? AS NUMBER(19)) AS k FROM dual) s",
                        "",
                    ),
                    Dialect::Db2 => (
                        format!("{table} AS t"),
                        "(VALUES (CAST(? AS BIGINT))) AS s (k)",
                        "",
                    ),
                    _ => (
                        format!("{table} WITH (HOLDLOCK) AS t"),
                        "(VALUES (CAST(? AS BIGINT))) AS s (k)",
                        ";",
                    ),
                };
                let same = match rows.file_id {
                    Some(file) => format!("t.file_id = {file} AND t.id = s.k"),
                    None => "t.id = s.k".to_owned(),
                };
                let set = list(&|value| format!("{value} = ?"));
                let (file_column, file) =
                    rows.file_id.map_or((String::new(), String::new()), |file| {
                        ("file_id, ".into(), format!("{file}, "))
                    });
                let numbers = 1..=values.len();
                Some(Statement {
                    sql: format!(
                        "MERGE INTO {target} USING {source} ON ({same}) \
                         WHEN MATCHED THEN UPDATE SET {set} \
                         WHEN NOT MATCHED THEN INSERT ({file_column}id, {}) VALUES ({file}s.k{}){end}",
                        values.join(", "),
                        ", ?".repeat(values.len()),
                    ),
                    order: std::iter::once(0)
                        .chain(numbers.clone())
                        .chain(numbers)
                        .collect(),
                })
            }
            Dialect::Generic => None,
        }
    }

    /// A row that is there.
    pub(super) fn update(&self, rows: &Rows) -> Statement {
        let values = rows.values();
        let set: Vec<String> = values.iter().map(|value| format!("{value} = ?")).collect();
        Statement {
            sql: format!(
                "UPDATE {} SET {} WHERE {}id = ?",
                self.rows_table(rows.number),
                set.join(", "),
                rows.of_file()
            ),
            order: (1..=values.len()).chain([0]).collect(),
        }
    }

    /// No row with this identity.
    pub(super) fn delete(&self, rows: &Rows) -> Statement {
        Statement {
            sql: format!(
                "DELETE FROM {} WHERE {}id = ?",
                self.rows_table(rows.number),
                rows.of_file()
            ),
            order: vec![0],
        }
    }

    /// No row with an identity from `begin` to `last`, which is included.
    pub(super) fn clear(&self, rows: &Rows, (begin, last): (i64, i64)) -> String {
        let table = self.rows_table(rows.number);
        match (rows.file_id, begin, last) {
            (None, 0, i64::MAX) => format!("DELETE FROM {table}"),
            _ => format!(
                "DELETE FROM {table} WHERE {}id BETWEEN {begin} AND {last}",
                rows.of_file()
            ),
        }
    }

    /// Which of these identities have a row.
    pub(super) fn which_are_there(&self, rows: &Rows, ids: &[i64]) -> String {
        format!(
            "SELECT id FROM {} WHERE {}{}",
            self.rows_table(rows.number),
            rows.of_file(),
            one_of(ids)
        )
    }

    /// The highest identity that has a row.
    pub(super) fn last(&self, rows: &Rows) -> String {
        let condition = rows
            .file_id
            .map_or(String::new(), |file| format!(" WHERE file_id = {file}"));
        format!(
            "SELECT MAX(id) FROM {}{condition}",
            self.rows_table(rows.number)
        )
    }

    /// Records from an identity on, in order: so many at most, where that can be said.
    pub(super) fn page(&self, rows: &Rows, count: usize) -> String {
        if rows.columns.is_history() {
            return self.current_page(rows, count);
        }
        let values = if rows.file_id.is_some() {
            "data"
        } else {
            "data, rest"
        };
        self.limited_to(
            &format!(
                "id, {values} FROM {} WHERE {}id >= ? ORDER BY id",
                self.rows_table(rows.number),
                rows.of_file()
            ),
            count,
        )
    }

    /// Residue from an identity on, as above. The file is the first parameter.
    pub(super) fn residue_page(&self, count: usize) -> String {
        let from = self.own("FROM {residue} WHERE file_id = ? AND id >= ? ORDER BY id");
        self.limited_to(&format!("id, residue, reason {from}"), count)
    }

    /// A query of so many rows at most; the word SELECT isn't in `query` yet. The generic dialect has no words for it, and
    /// whoever reads stops.
    pub(super) fn limited_to(&self, query: &str, count: usize) -> String {
        match self.dialect {
            Dialect::SqlServer => format!("SELECT TOP ({count}) {query}"),
            Dialect::Oracle | Dialect::Db2 => {
                format!("SELECT {query} FETCH FIRST {count} ROWS ONLY")
            }
            Dialect::Postgresql | Dialect::Mysql | Dialect::Sqlite => {
                format!("SELECT {query} LIMIT {count}")
            }
            Dialect::Generic => format!("SELECT {query}"),
        }
    }

    /// The view of a file's table, which has the name that follows from the file's.
    pub(super) fn file_view(&self, number: i64, identity: &str, columns: &Columns) -> String {
        let mut names = vec![format!("id AS {}", self.quoted(&self.folded(identity)))];
        if columns.is_history() {
            names.extend([POSITION, "op, captured_at"].map(str::to_owned));
        }
        names.extend(columns.shown());
        format!(
            "SELECT {} FROM {}",
            names.join(", "),
            self.rows_table(number)
        )
    }

    /// The view of a tree's table.
    pub(super) fn tree_view(&self, number: i64) -> String {
        format!(
            "SELECT file_id, id AS block_number, data FROM {}",
            self.rows_table(number)
        )
    }

    /// A view of a tree's files for people: what each is, and its content where that is one block.
    pub(super) fn content_view(&self, number: i64, tree_id: i64) -> String {
        format!(
            "SELECT f.file_id, f.path_text, f.file_kind, f.file_mode, f.owner_uid, f.owner_gid, f.modified_ns, f.file_size, \
             CASE WHEN f.file_size > {STATIC_BLOCK_BYTES} THEN NULL ELSE r.data END AS content \
             FROM {} f LEFT JOIN {} r ON r.file_id = f.file_id AND r.id = 0 WHERE f.tree_id = {tree_id}",
            self.placed("counterfoil_files"),
            self.rows_table(number)
        )
    }

    /// Makes a view, or makes it anew, by the first of these that the database takes.
    pub(super) fn define_view(&self, name: &str, query: &str) -> Vec<Definition> {
        let view = self.placed(&self.quoted(name));
        let replace = Definition::One(format!("CREATE OR REPLACE VIEW {view} AS {query}"));
        let anew = Definition::DropAndCreate(
            self.drop_view(name),
            format!("CREATE VIEW {view} AS {query}"),
        );
        match self.dialect {
            Dialect::SqlServer => vec![Definition::One(format!(
                "CREATE OR ALTER VIEW {view} AS {query}"
            ))],
            Dialect::Oracle | Dialect::Db2 | Dialect::Mysql => vec![replace],
            // It doesn't replace one that has other columns.
            Dialect::Postgresql => vec![replace, anew],
            Dialect::Sqlite | Dialect::Generic => vec![anew],
        }
    }

    /// Drops a view, which may not be there.
    pub(super) fn drop_view(&self, name: &str) -> String {
        let view = self.placed(&self.quoted(name));
        match self.dialect {
            Dialect::SqlServer | Dialect::Postgresql | Dialect::Mysql | Dialect::Sqlite => {
                format!("DROP VIEW IF EXISTS {view}")
            }
            Dialect::Oracle | Dialect::Db2 | Dialect::Generic => format!("DROP VIEW {view}"),
        }
    }

    /// What says in which schema names without one are; `None`: there is but one, or nobody knows.
    pub(super) fn current_schema(&self) -> Option<&'static str> {
        match self.dialect {
            Dialect::Oracle => Some("SELECT SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA') FROM dual"),
            Dialect::Db2 => Some("SELECT CURRENT SCHEMA FROM sysibm.sysdummy1"),
            Dialect::SqlServer => Some("SELECT SCHEMA_NAME()"),
            Dialect::Postgresql => Some("SELECT current_schema()"),
            Dialect::Mysql | Dialect::Sqlite | Dialect::Generic => None,
        }
    }

    /// The names of all tables and views where ours are; `None`: the driver is asked.
    pub(super) fn list_names(&self) -> Option<String> {
        let schema = |otherwise: &str| match &self.schema {
            Some(schema) => format!("'{}'", schema.replace('\'', "''")),
            None => otherwise.to_owned(),
        };
        match self.dialect {
            Dialect::Oracle => Some(format!(
                "SELECT object_name FROM all_objects WHERE owner = {}",
                schema("SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA')")
            )),
            Dialect::Db2 => Some(format!(
                "SELECT tabname FROM syscat.tables WHERE tabschema = {}",
                schema("CURRENT SCHEMA")
            )),
            Dialect::SqlServer => Some(format!(
                "SELECT name FROM sys.objects WHERE schema_id = SCHEMA_ID({})",
                match &self.schema {
                    Some(_) => schema(""),
                    None => String::new(),
                }
            )),
            Dialect::Postgresql => Some(format!(
                "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = {}",
                schema("current_schema()")
            )),
            Dialect::Mysql => Some(format!(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = {}",
                schema("DATABASE()")
            )),
            Dialect::Sqlite => Some(format!(
                "SELECT name FROM {}",
                self.schema
                    .as_ref()
                    .map_or("sqlite_master".to_owned(), |schema| format!(
                        "{}.sqlite_master",
                        self.quoted(schema)
                    ))
            )),
            Dialect::Generic => None,
        }
    }
}

/// What a history's row says has happened: `put` or `delete`.
const OP_TYPE: &str = "VARCHAR(10)";

/// The columns that are the key of a table with rows.
pub(super) fn key(columns: &Columns) -> &'static str {
    if columns.is_shared() {
        "file_id, id"
    } else if columns.is_history() {
        "id, epoch, lsn, idx"
    } else {
        "id"
    }
}

/// A condition: the identity is one of these.
pub(super) fn one_of(ids: &[i64]) -> String {
    let mut condition = String::with_capacity(8 + ids.len() * 8);
    condition.push_str("id IN (");
    for (n, id) in ids.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let _ = write!(condition, "{comma}{id}");
    }
    condition.push(')');
    condition
}

#[cfg(test)]
mod tests {
    use super::super::history::Stamp;
    use super::*;
    use crate::plan::{ColumnKind, Mode, PlanColumn, Shape};
    use counterfoil_proto::Position;
    use std::path::Path;

    /// A column of every kind, and what is near the limits of some database.
    fn typed() -> Shape {
        let kinds = [
            "smallint",
            "integer",
            "bigint",
            "decimal(9,2)",
            "decimal(35,0)",
            "decimal(70,3)",
            "real",
            "double",
            "text(30)",
            "text(3000)",
            "text",
            "bytes(8)",
            "bytes(60000)",
            "bytes",
            "date",
            "time(0)",
            "time(6)",
            "time(9)",
            "timestamp(0)",
            "timestamp(6)",
            "timestamp(9)",
        ];
        let column = |(n, kind): (usize, &&str)| PlanColumn {
            name: format!("c{n}"),
            kind: kind.parse().expect("a kind"),
        };
        Shape {
            columns: kinds.iter().enumerate().map(column).collect(),
            decoded: true,
            left: vec![PlanColumn {
                name: "Once \"filled\"".into(),
                kind: ColumnKind::Date,
            }],
            ..Shape::default()
        }
    }

    /// Everything that a dialect says, one statement a line.
    fn all_of(dialect: Dialect) -> String {
        let mut text = String::new();
        for schema in [None, Some("pay".to_owned())] {
            let sql = Sql::new(dialect, schema, None, None);
            let types = dialect.usual_types();
            let rows = |number, file_id, columns| Rows {
                number,
                file_id,
                columns: Arc::new(columns),
            };
            let alone = rows(17, None, Columns::of(&Shape::default(), &sql));
            let shared = rows(18, Some(7), Columns::shared());
            let planned = rows(19, None, Columns::of(&typed(), &sql));
            let no_raw = Shape {
                raw: false,
                ..Shape::default()
            };
            let bare = rows(20, None, Columns::of(&no_raw, &sql));
            let history = |number, raw| {
                let shape = Shape {
                    mode: Mode::History,
                    raw,
                    columns: typed().columns.drain(..2).collect(),
                    decoded: true,
                    ..Shape::default()
                };
                rows(number, None, Columns::of(&shape, &sql))
            };
            let (history, other) = (history(21, true), history(22, false));
            let mut says = |what: &str, statement: &str| {
                let _ = writeln!(text, "{what}: {statement}");
            };
            if sql.schema.is_none() {
                for statement in dialect.beginnings(1500) {
                    says("connected", &statement);
                }
                for (what, statements) in [
                    ("to write", dialect.writing()),
                    ("to read", dialect.reading()),
                    ("before tables", dialect.before_tables()),
                ] {
                    for statement in statements {
                        says(what, statement);
                    }
                }
                for kind in dialect.bytes_types().iter().chain(dialect.text_types()) {
                    says("probe", &sql.create_probe(kind));
                }
            } else {
                says("with a schema", "");
            }
            says("no probe", &sql.drop_probe());
            for (_, statements) in sql.create_own(types) {
                for statement in statements {
                    says("own table", &statement);
                }
            }
            says("names", &sql.list_names().unwrap_or_default());
            says("schema", sql.current_schema().unwrap_or_default());
            says(
                "lock",
                &sql.own("UPDATE {position} SET idx = idx WHERE stream = ?"),
            );
            for rows in [&alone, &shared, &planned, &bare] {
                says("table", &sql.create_rows(rows.number, &rows.columns, types));
                let mut with_order = |what: &str, statement: Statement| {
                    says(what, &format!("{} {:?}", statement.sql, statement.order));
                };
                with_order("insert", sql.insert(rows));
                if let Some(upsert) = sql.upsert(rows) {
                    with_order("upsert", upsert);
                }
                with_order("update", sql.update(rows));
                with_order("delete", sql.delete(rows));
                says("clear", &sql.clear(rows, (3, 9)));
                says("clear all", &sql.clear(rows, (0, i64::MAX)));
                says("which", &sql.which_are_there(rows, &[1, 2, 3]));
                says("last", &sql.last(rows));
                says("page", &sql.page(rows, 256));
            }
            says("copy", &sql.copy(&alone, &planned));
            let needed = &planned.columns.needed(dialect, types)[3];
            says("column added", &sql.add_column(&sql.rows_table(19), needed));
            says(
                "column changed",
                &sql.change_type(&sql.rows_table(19), needed),
            );
            says(
                "column null",
                &sql.let_be_null(&sql.rows_table(19), &needed.name, &needed.kind),
            );
            says(
                "key added",
                &sql.add_key(
                    &sql.rows_table(21),
                    key(&history.columns),
                    "CREATE TABLE ...",
                ),
            );
            let at = Position {
                epoch: 1,
                lsn: 1234,
                index: 5,
            };
            let at = Stamp::of(at, 1_700_000_000_123_456_789).expect("a moment");
            let mut with_order = |what: &str, statement: Statement| {
                says(what, &format!("{} {:?}", statement.sql, statement.order));
            };
            let create = sql.create_rows(21, &history.columns, types);
            with_order("put", sql.insert(&history));
            with_order("put without raw", sql.insert(&other));
            with_order("deletion", sql.insert_deletion(&history));
            with_order("late", sql.delete_change(&history));
            for (what, statement) in [
                ("history", create),
                ("late clearing", sql.delete_changes(&history, (3, 9), &at)),
                ("current", sql.which_are_current(&history, &[1, 2, 3])),
                ("end", sql.end(&history, (3, 9), &at)),
                ("end all", sql.end(&history, (0, i64::MAX), &at)),
                ("end others", sql.end_others(&history, &other, &at)),
                ("copy current", sql.copy_current(&history, &other, &at)),
                ("copy deletions", sql.copy_deletions(&history, &other)),
                ("copy history", sql.copy(&history, &other)),
                ("current page", sql.page(&history, 256)),
                ("page of changes", sql.changes_page(&history, 256)),
                (
                    "view of a history",
                    sql.file_view(21, "record_number", &history.columns),
                ),
            ] {
                says(what, &statement);
            }
            says("residue", &sql.residue_page(64));
            says("drop table", &sql.drop_rows(17));
            for (name, query) in [
                (
                    sql.limited("cards", 1),
                    sql.file_view(19, "record_number", &planned.columns),
                ),
                (sql.limited("it's \"a\" `name`", 2), sql.tree_view(18)),
                (sql.limited("etc_files", 1), sql.content_view(18, 5)),
            ] {
                for definition in sql.define_view(&name, &query) {
                    match definition {
                        Definition::One(statement) => says("view", &statement),
                        Definition::DropAndCreate(drop, create) => {
                            says("view, dropped", &drop);
                            says("view, created", &create);
                        }
                    }
                }
                says("no view", &sql.drop_view(&name));
            }
        }
        text
    }

    /// What would be told to a database of which there is none to try it on changes on purpose only. To renew the files:
    /// `COUNTERFOIL_RENEW_SNAPSHOTS=1 cargo test -p counterfoil-sinks --features odbc snapshots`.
    #[test]
    fn statements_are_those_of_the_snapshots() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/odbc/snapshots");
        for dialect in Dialect::ALL {
            let path = directory.join(format!("{}.sql.txt", dialect.name()));
            let text = all_of(dialect);
            if std::env::var_os("COUNTERFOIL_RENEW_SNAPSHOTS").is_some() {
                std::fs::write(&path, &text).expect("writing a snapshot");
            }
            let kept = std::fs::read_to_string(&path).expect("a snapshot");
            for (line, (now, then)) in text.lines().zip(kept.lines()).enumerate() {
                assert_eq!(
                    now,
                    then,
                    "{}:{}; see this test for how to renew it",
                    path.display(),
                    line + 1
                );
            }
            assert_eq!(
                text.lines().count(),
                kept.lines().count(),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_driver_says_what_the_database_is() {
        for (name, dialect) in [
            ("Oracle", Dialect::Oracle),
            ("DB2/LINUXX8664", Dialect::Db2),
            ("Microsoft SQL Server", Dialect::SqlServer),
            ("PostgreSQL", Dialect::Postgresql),
            ("MariaDB", Dialect::Mysql),
            ("MySQL", Dialect::Mysql),
            ("SQLite", Dialect::Sqlite),
            ("Informix", Dialect::Generic),
            ("", Dialect::Generic),
        ] {
            assert_eq!(Dialect::of_database(name), dialect, "{name}");
            assert_eq!(Dialect::named(dialect.name()), Some(dialect));
        }
    }

    #[test]
    fn names_fit() {
        let sql = |dialect, max| Sql::new(dialect, None, Some('"'), max);
        let oracle = sql(Dialect::Oracle, Some(30));
        assert_eq!(oracle.limited("cards_dat", 1), "CARDS_DAT");
        assert_eq!(oracle.limited("Cards", 2), "Cards_2");
        assert!(oracle.limited(&"x".repeat(52), 3).len() <= 30);
        assert!(
            sql(Dialect::Oracle, Some(128))
                .limited(&"x".repeat(52), 1)
                .len()
                == 52
        );
        let mysql = sql(Dialect::Mysql, None);
        assert_eq!(mysql.limited("a\u{1f4b3}b  ", 1), "a_b");
        assert_eq!(mysql.limited("  ", 2), "file_2");
        assert_eq!(mysql.quoted("a`b"), "`a``b`");
        assert_eq!(oracle.quoted("a\"b"), "\"a\"\"b\"");
    }
}
