//! MariaDB's part: its best is one `LOAD DATA` of all rows into a table with a primary key, and one `LOAD DATA ... REPLACE` of
//! all rows in their order.

use super::{Outcome, content, inserts, report, updates};
use bytes::Bytes;
use counterfoil_servers::Mariadb;
use counterfoil_sinks::{MysqlConfig, MysqlSink};
use futures_util::stream::{StreamExt as _, iter};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
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
pub(super) struct Bench {
    server: Mariadb,
    runtime: tokio::runtime::Runtime,
    conn: Option<Conn>,
}

impl Bench {
    pub(super) fn start() -> Outcome<Bench> {
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
        Ok(Bench {
            server,
            runtime,
            conn,
        })
    }

    /// One measurement of either side.
    pub(super) fn round(&mut self, ours: bool, rows: u64, size: usize) -> Outcome<()> {
        let (insert, update) = if ours {
            let database = self.server.create_database()?;
            let config = MysqlConfig {
                socket: Some(self.server.socket()),
                ..MysqlConfig::new(format!("mysql://root@localhost/{database}"))?
            };
            let mut sink = MysqlSink::open(&config)?;
            let insert = inserts(&mut sink, rows, size)?;
            let update = updates(&mut sink, rows, size)?;
            drop(sink);
            self.server.sql("", &format!("DROP DATABASE {database}"))?;
            (insert, update)
        } else {
            self.best(rows, size)?
        };
        let whose = if ours { "ours" } else { "best" };
        report("mariadb-insert", size, whose, rows, insert);
        report("mariadb-update", size, whose, rows, update);
        Ok(())
    }

    fn best(&mut self, rows: u64, size: usize) -> Outcome<(Duration, Duration)> {
        let Bench { runtime, conn, .. } = self;
        let conn = conn.as_mut().ok_or("no connection")?;
        let texts = [0, 1].map(|turn| load_data(rows, size, turn));
        runtime.block_on(async {
            conn.query_drop(
                "CREATE TABLE best (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, data LONGBLOB NOT NULL, rest LONGBLOB)
                 ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
            )
            .await?;
            let mut taken = [Duration::ZERO; 2];
            for ((text, how), taken) in texts.into_iter().zip(["", "REPLACE"]).zip(&mut taken) {
                conn.set_infile_handler(async move { Ok(iter(text.into_iter().map(Ok)).boxed()) });
                let begin = Instant::now();
                conn.query_drop(format!(
                    "LOAD DATA LOCAL INFILE 'x' {how} INTO TABLE best CHARACTER SET binary (id, data, rest)"
                ))
                .await?;
                *taken = begin.elapsed();
            }
            conn.query_drop("DROP TABLE best").await?;
            Ok((taken[0], taken[1]))
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = self.runtime.block_on(conn.disconnect());
        }
    }
}

/// What is loaded, made before the clock runs.
fn load_data(rows: u64, size: usize, turn: u64) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for id in 0..rows {
        part.extend_from_slice(format!("{}\t", id + 1).as_bytes());
        part.extend_from_slice(&content(id, turn, size));
        part.extend_from_slice(b"\t\\N\n");
        if part.len() >= 128 << 10 || id + 1 == rows {
            parts.push(Bytes::from(std::mem::take(&mut part)));
        }
    }
    parts
}
