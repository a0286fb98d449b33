//! What `cargo xtask bench apply` runs: rows a second through a sink, next to what the database does best by itself, on the
//! same server, in turns.
//!
//! Prints a line for each measurement, `CASE ours|best ROWS_PER_SECOND`, and `memory MIB`: what the process had at most while
//! batches were made and applied, the batch included.

#[path = "apply_leg/mariadb.rs"]
mod mariadb;

use bytes::{BufMut as _, Bytes, BytesMut};
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization, RecordFormat};
use counterfoil_servers::Postgres;
use counterfoil_sinks::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, Image, PostgresConfig, PostgresSink,
    Sink, SqliteConfig, SqliteSink,
};
use futures_util::SinkExt as _;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the applier puts into a batch unless it is told otherwise.
const BATCH_ROWS: u64 = 10_000;

/// What is asked of the server here is to be on disk.
const DURABLE: &str =
    "fsync = on\nfull_page_writes = on\nshared_buffers = 256MB\nmax_wal_size = 2GB";

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().unwrap_or_default().parse()?;
    let rounds: usize = arguments.next().unwrap_or_default().parse()?;
    let server = Postgres::start(DURABLE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = runtime.block_on(connect(&server))?;
    let mut mariadb = mariadb::Bench::start()?;
    for round in 0..rounds {
        for size in [100, 500] {
            // Whoever comes second may find warmer caches, or fuller ones.
            for ours in [round % 2 == 0, round % 2 != 0] {
                if ours {
                    let schema = format!("bench_{round}_{size}");
                    let config = PostgresConfig {
                        schema: Some(schema.clone()),
                        ..PostgresConfig::new(server.url("postgres"))
                    };
                    let mut sink = PostgresSink::open(&config)?;
                    report(
                        "postgres-insert",
                        size,
                        "ours",
                        rows,
                        inserts(&mut sink, rows, size)?,
                    );
                    report(
                        "postgres-update",
                        size,
                        "ours",
                        rows,
                        updates(&mut sink, rows, size)?,
                    );
                    drop(sink);
                    server.sql("postgres", &format!("DROP SCHEMA {schema} CASCADE"))?;
                } else {
                    let (insert, update) = runtime.block_on(best(&client, rows, size))?;
                    report("postgres-insert", size, "best", rows, insert);
                    report("postgres-update", size, "best", rows, update);
                }
                // What one leaves behind isn't written back in the other's time.
                server.sql("postgres", "CHECKPOINT")?;
            }
            for ours in [round % 2 == 0, round % 2 != 0] {
                mariadb.round(ours, rows, size)?;
            }
            let directory = tempfile::tempdir()?;
            for ours in [round % 2 == 0, round % 2 != 0] {
                if ours {
                    let path = directory.path().join("ours.db");
                    let mut sink = SqliteSink::open(&SqliteConfig::new(path))?;
                    report(
                        "sqlite-insert",
                        size,
                        "ours",
                        rows,
                        inserts(&mut sink, rows, size)?,
                    );
                } else {
                    let path = directory.path().join("best.db");
                    report(
                        "sqlite-insert",
                        size,
                        "best",
                        rows,
                        prepared(&path, rows, size)?,
                    );
                }
            }
        }
    }
    drop(client);
    close(runtime);
    Ok(())
}

fn close(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(1));
}

fn report(case: &str, size: usize, whose: &str, rows: u64, taken: Duration) {
    println!(
        "{case}-{size} {whose} {:.0}",
        rows as f64 / taken.as_secs_f64()
    );
}

/// A record's content: digits and filling, as records have them.
fn content(id: u64, turn: u64, size: usize) -> Vec<u8> {
    let mut content = format!("{id:012}{turn:08}").into_bytes();
    content.resize(size, b' ');
    content
}

/// Applies all rows for the first time, in order, batch by batch.
fn inserts(sink: &mut dyn Sink, rows: u64, size: usize) -> Outcome<Duration> {
    reset_peak();
    let taken = apply(sink, rows, size, 0, &|batch, n| batch * BATCH_ROWS + n)?;
    if let Some(peak) = peak_mib() {
        println!("memory ours {peak:.0}");
    }
    Ok(taken)
}

/// Applies a change of every row; the rows of a batch lie all over the table.
fn updates(sink: &mut dyn Sink, rows: u64, size: usize) -> Outcome<Duration> {
    let batches = rows.div_ceil(BATCH_ROWS);
    apply(sink, rows, size, 1, &|batch, n| n * batches + batch)
}

fn apply(
    sink: &mut dyn Sink,
    rows: u64,
    size: usize,
    turn: u64,
    number: &dyn Fn(u64, u64) -> u64,
) -> Outcome<Duration> {
    let file = Arc::new(FileDescription {
        path: b"/srv/records.dat".to_vec(),
        group: "bench".into(),
        format: RecordFormat {
            organization: Organization::Fixed,
            layout: Layout::Plain,
            record_size: Some(size as u64),
            varseq_format: None,
        },
        table: None,
        tree: None,
        schema: None,
        plan: None,
    });
    let mut taken = Duration::ZERO;
    for batch in 0..rows.div_ceil(BATCH_ROWS) {
        let images = (0..BATCH_ROWS)
            .map(|n| number(batch, n))
            .filter(|&id| id < rows)
            .map(|id| {
                let data = content(id, turn, size);
                let rest = Vec::new();
                (id + 1, Image::Record { data, rest })
            })
            .collect();
        let batch = Batch {
            stream: "bench/bench".into(),
            after: None,
            position: Position {
                epoch: 1,
                lsn: turn * rows + batch + 1,
                index: 0,
            },
            captured_ns: 0,
            files: vec![FileChanges {
                file: Arc::clone(&file),
                renamed_from: None,
                fate: FileFate::Present,
                cleared: Vec::new(),
                log: Vec::new(),
                images,
                attributes: Attributes {
                    size: (batch + 1) * BATCH_ROWS * size as u64,
                    ..Attributes::default()
                },
            }],
        };
        let begin = Instant::now();
        sink.apply(&batch)?;
        taken += begin.elapsed();
    }
    Ok(taken)
}

async fn connect(server: &Postgres) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// The database's own best: all rows by one `COPY` into a table with a primary key; then a change of every row by one
/// statement, from a table that they were copied into.
async fn best(client: &Client, rows: u64, size: usize) -> Outcome<(Duration, Duration)> {
    client
        .batch_execute(
            "DROP TABLE IF EXISTS best;
             CREATE TABLE best (record_number bigint PRIMARY KEY, data bytea NOT NULL, rest bytea)",
        )
        .await?;
    let first = copy_data(rows, size, 0);
    let begin = Instant::now();
    copy(client, "best", first).await?;
    let insert = begin.elapsed();
    client.batch_execute("CHECKPOINT").await?;
    let second = copy_data(rows, size, 1);
    let begin = Instant::now();
    client
        .batch_execute(
            "BEGIN; CREATE TEMPORARY TABLE staging (record_number bigint, data bytea, rest bytea) ON COMMIT DROP",
        )
        .await?;
    copy(client, "staging", second).await?;
    client
        .batch_execute(
            "INSERT INTO best SELECT * FROM staging
             ON CONFLICT (record_number) DO UPDATE SET data = excluded.data, rest = excluded.rest;
             COMMIT",
        )
        .await?;
    let update = begin.elapsed();
    client.batch_execute("DROP TABLE best").await?;
    Ok((insert, update))
}

/// A binary `COPY`'s bytes, made before the clock runs.
fn copy_data(rows: u64, size: usize, turn: u64) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut buffer = BytesMut::new();
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for id in 0..rows {
        let data = content(id, turn, size);
        buffer.put_i16(3);
        buffer.put_i32(8);
        buffer.put_u64(id + 1);
        buffer.put_i32(i32::try_from(data.len()).unwrap_or(i32::MAX));
        buffer.put_slice(&data);
        buffer.put_i32(-1);
        if buffer.len() >= 256 << 10 {
            parts.push(buffer.split().freeze());
        }
    }
    buffer.put_i16(-1);
    parts.push(buffer.freeze());
    parts
}

async fn copy(client: &Client, table: &str, parts: Vec<Bytes>) -> Outcome<()> {
    let sql = format!("COPY {table} FROM STDIN (FORMAT binary)");
    let mut sink = pin!(client.copy_in::<_, Bytes>(&sql).await?);
    for part in parts {
        sink.send(part).await?;
    }
    sink.finish().await?;
    Ok(())
}

/// SQLite's own best: a prepared statement, in transactions as large as the batches, with the same durability.
fn prepared(path: &std::path::Path, rows: u64, size: usize) -> Outcome<Duration> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768;
         CREATE TABLE best (record_number INTEGER PRIMARY KEY, data BLOB NOT NULL, rest BLOB)",
    )?;
    let mut taken = Duration::ZERO;
    for batch in 0..rows.div_ceil(BATCH_ROWS) {
        let ids = (batch * BATCH_ROWS..rows).take(usize::try_from(BATCH_ROWS)?);
        let contents: Vec<(u64, Vec<u8>)> = ids.map(|id| (id, content(id, 0, size))).collect();
        let begin = Instant::now();
        let transaction = connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO best VALUES (?1, ?2, NULL)")?;
            for (id, data) in &contents {
                insert.execute(rusqlite::params![i64::try_from(id + 1)?, data])?;
            }
        }
        transaction.commit()?;
        taken += begin.elapsed();
    }
    Ok(taken)
}

/// From here on the most memory that was in use is counted anew.
fn reset_peak() {
    // Where that isn't allowed, the figure includes what was before.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
