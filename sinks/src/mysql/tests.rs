//! The contract against a real server, and what only MySQL and MariaDB can do wrong.

use super::*;
use crate::contract::{Harness, changes, file, record, residue, static_file};
use crate::{Attributes, FileChanges, FileFate, FileKind, Image, StoredPiece};
use counterfoil_servers::{Cut, Mariadb, Proxy, wait_until};
use mysql_async::prelude::Queryable as _;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;

fn server() -> &'static Mariadb {
    Mariadb::shared().expect("a MariaDB server")
}

/// A configuration for a database of this server, through a socket.
fn config(socket: &Path, database: &str) -> MysqlConfig {
    MysqlConfig {
        socket: Some(socket.to_owned()),
        lock_wait_timeout_s: 1,
        ..MysqlConfig::new(format!("mysql://root@localhost/{database}")).expect("a good URL")
    }
}

/// A database of its own, on the server that the tests share.
struct MysqlHarness {
    database: String,
    load_data: bool,
}

impl MysqlHarness {
    fn new(load_data: bool) -> Self {
        MysqlHarness {
            database: server().create_database().expect("a database"),
            load_data,
        }
    }

    fn config(&self) -> MysqlConfig {
        MysqlConfig {
            load_data: self.load_data,
            ..config(&server().socket(), &self.database)
        }
    }

    fn sql(&self, sql: &str) -> String {
        server().sql(&self.database, sql).expect("running SQL")
    }
}

impl Drop for MysqlHarness {
    fn drop(&mut self) {
        let _ = server().sql("", &format!("DROP DATABASE {}", self.database));
    }
}

/// A transaction of somebody else's that is open until it is dropped.
struct Obstruction {
    runtime: Runtime,
    conn: Option<mysql_async::Conn>,
}

impl Obstruction {
    fn new(socket: &Path, database: &str, statements: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let opts = mysql_async::OptsBuilder::default()
            .user(Some("root"))
            .db_name(Some(database))
            .socket(Some(socket.to_str().expect("a path")));
        let conn = runtime.block_on(async {
            let mut conn = mysql_async::Conn::new(opts).await.expect("connecting");
            for statement in statements {
                conn.query_drop(*statement).await.expect("a statement");
            }
            conn
        });
        Obstruction {
            runtime,
            conn: Some(conn),
        }
    }
}

impl Drop for Obstruction {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = self.runtime.block_on(conn.disconnect());
        }
    }
}

impl Harness for MysqlHarness {
    fn fresh(&mut self) {
        self.sql(&format!(
            "DROP DATABASE {0}; CREATE DATABASE {0}",
            self.database
        ));
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open(&self.config())?))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(MysqlSink::open_read_only(&self.config())?))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        // The server takes packets of 16 MiB.
        Some(changes(
            &file(path),
            [(1, record("fits")), (2, record(vec![b'x'; 17 << 20]))],
        ))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        let lock = ["BEGIN", "SELECT * FROM counterfoil_position FOR UPDATE"];
        Some(Box::new(Obstruction::new(
            &server().socket(),
            &self.database,
            &lock,
        )))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        // Through the view, as people would.
        self.sql(&format!(
            "UPDATE {} SET data = x'{hex}' WHERE record_number = {id}",
            schema::quoted(table)
        ));
        true
    }

    fn random_histories(&self) -> u32 {
        10
    }
}

mod contract {
    crate::sink_contract!(super::MysqlHarness::new(true));
}
