//! Targets that things go wrong with, whatever sink writes to them: a database of a PostgreSQL or MariaDB server, and an SQLite file.

mod mariadb;
mod postgres;
mod room;
mod sqlite;

pub(crate) use mariadb::MariadbTarget;
#[cfg(feature = "odbc")]
pub(crate) use postgres::DATABASE as POSTGRES_DATABASE;
pub(crate) use postgres::PostgresTarget;
pub(crate) use room::Room;
pub(crate) use sqlite::SqliteTarget;

use std::sync::atomic::{AtomicU32, Ordering};

/// A number that nothing else in this process has.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A server that all tests share, or one of one's own.
enum Server<S: 'static> {
    Shared(&'static S),
    Own(Box<S>),
}

impl<S> std::ops::Deref for Server<S> {
    type Target = S;

    fn deref(&self) -> &S {
        match self {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }
}
