//! MariaDB's part: its best is one `LOAD DATA` of all rows into a table with a primary key, and one `LOAD DATA ... REPLACE` of
//! all rows in their order.

use super::records::Records;
use super::{Bench, Outcome};
use bytes::Bytes;
use counterfoil_servers::Mariadb;
use counterfoil_sinks::plan::{CellRoom, ColumnKind, PlanColumn, UNDECODED};
use counterfoil_sinks::{MysqlConfig, MysqlSink};
use futures_util::stream::{StreamExt as _, iter};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What is asked of the server here is to be on disk.
const DURABLE: [&str; 5] = [
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-flush-method=fsync",
    "--innodb-buffer-pool-size=512M",
    "--innodb-log-file-size=1G",
    "--max-allowed-packet=64M",
];

/// A server, and a connection for what it does by itself.
pub(super) struct MariadbBench {
    server: Mariadb,
    runtime: tokio::runtime::Runtime,
    conn: Option<Conn>,
}

/// A place is a socket and a database.
pub(super) fn open(place: &str) -> Outcome<MysqlSink> {
    let (socket, database) = place.split_once(' ').ok_or("no database")?;
    Ok(MysqlSink::open(&MysqlConfig {
        socket: Some(socket.into()),
        ..MysqlConfig::new(format!("mysql://root@localhost/{database}"))?
    })?)
}

impl MariadbBench {
    pub(super) fn start() -> Outcome<MariadbBench> {
        let server = Mariadb::start(&DURABLE)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        server.sql("", "CREATE DATABASE best")?;
        let socket = server.socket();
        let opts = OptsBuilder::default()
            .user(Some("root"))
            .db_name(Some("best"))
            .socket(socket.to_str());
        let conn = Some(runtime.block_on(Conn::new(opts))?);
        Ok(MariadbBench {
            server,
            runtime,
            conn,
        })
    }
}

impl Bench for MariadbBench {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn new_target(&mut self) -> Outcome<String> {
        let database = self.server.create_database()?;
        Ok(format!("{} {database}", self.server.socket().display()))
    }

    fn drop_target(&mut self, place: &str) -> Outcome<()> {
        let (_, database) = place.split_once(' ').ok_or("no database")?;
        self.server.sql("", &format!("DROP DATABASE {database}"))?;
        Ok(())
    }

    fn best(&mut self, records: &Records, rows: u64) -> Outcome<[Duration; 2]> {
        let MariadbBench { runtime, conn, .. } = self;
        let conn = conn.as_mut().ok_or("no connection")?;
        let mut columns = String::new();
        let mut names = "id, data, rest".to_owned();
        for PlanColumn { name, kind } in records.columns() {
            let _ = write!(columns, ", `{name}` {}", column_type(*kind));
            let _ = write!(names, ", `{name}`");
        }
        if !columns.is_empty() {
            let _ = write!(columns, ", {UNDECODED} LONGTEXT");
            let _ = write!(names, ", {UNDECODED}");
        }
        let mut taken = [Duration::ZERO; 2];
        runtime.block_on(conn.query_drop(format!(
            "CREATE TABLE best (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, data LONGBLOB, rest LONGBLOB{columns})
             ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )))?;
        for ((turn, how), taken) in [(0, ""), (1, "REPLACE")].into_iter().zip(&mut taken) {
            let text = load_data(records, rows, turn);
            runtime.block_on(async {
                conn.set_infile_handler(async move { Ok(iter(text.into_iter().map(Ok)).boxed()) });
                let begin = Instant::now();
                conn.query_drop(format!(
                    "LOAD DATA LOCAL INFILE 'x' {how} INTO TABLE best CHARACTER SET binary ({names})"
                ))
                .await?;
                *taken = begin.elapsed();
                Ok::<_, mysql_async::Error>(())
            })?;
        }
        runtime.block_on(conn.query_drop("DROP TABLE best"))?;
        Ok(taken)
    }
}

impl Drop for MariadbBench {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = self.runtime.block_on(conn.disconnect());
        }
    }
}

fn column_type(kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Text { chars: Some(chars) } => format!("VARCHAR({chars})"),
        kind => kind.to_string(),
    }
}

/// What is loaded, made before the clock runs.
fn load_data(records: &Records, rows: u64, turn: u64) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut room = CellRoom::default();
    for id in 0..rows {
        let data = records.content(id, turn);
        part.extend_from_slice(format!("{}\t", id + 1).as_bytes());
        escape(&mut part, &data);
        part.extend_from_slice(b"\t\\N");
        records.cells(&data, &mut room, &mut |value| {
            part.push(b'\t');
            escape(&mut part, value.to_string().as_bytes());
        });
        part.extend_from_slice(if records.columns().is_empty() {
            b"\n"
        } else {
            b"\t\\N\n"
        });
        if part.len() >= 128 << 10 || id + 1 == rows {
            parts.push(Bytes::from(std::mem::take(&mut part)));
        }
    }
    parts
}

/// What ends a value, a row or a text in this format is told by another character behind a backslash.
fn escape(part: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        let told = match byte {
            b'\\' => b'\\',
            b'\t' => b't',
            b'\n' => b'n',
            0 => b'0',
            _ => {
                part.push(byte);
                continue;
            }
        };
        part.extend_from_slice(&[b'\\', told]);
    }
}
