//! Sinks: where change events become rows.
//!
//! [`Sink`] is the one small trait; a target database is one folder that implements it. A batch is
//! applied atomically with its position, so a sink can always say exactly how far it is, and that
//! stored position outranks every offset kept elsewhere.
//!
//! | feature    | target                                                        |
//! |------------|---------------------------------------------------------------|
//! | `sqlite`   | a SQLite database file; the embedded default                  |
//! | `mysql`    | a database of a MySQL or MariaDB server                        |
//! | `odbc`     | whatever has an ODBC driver; takes libodbc to build           |
//! | `postgres` | a schema of a PostgreSQL database                              |
//! | `files`    | the files themselves, below a directory of the backup host    |
//! | `contract` | no target: the suite that every sink passes, and a model sink |

mod batch;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod naming;
#[cfg(feature = "odbc")]
pub mod odbc;
pub mod plan;
#[cfg(feature = "postgres")]
pub mod postgres;
mod sink;
#[cfg(any(
    feature = "files",
    feature = "mysql",
    feature = "odbc",
    feature = "postgres",
    feature = "sqlite"
))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use batch::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, FileKind, FileSchema, Image, Logged,
    LoggedChange, StoredFile, StoredPiece,
};
#[cfg(feature = "files")]
pub use files::{FilesConfig, FilesSink};
#[cfg(feature = "mysql")]
pub use mysql::{MysqlConfig, MysqlSink};
#[cfg(feature = "odbc")]
pub use odbc::{OdbcConfig, OdbcSink};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresConfig, PostgresSink};
pub use sink::{Sink, SinkError, Snapshot, shown};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteConfig, SqliteSink};
