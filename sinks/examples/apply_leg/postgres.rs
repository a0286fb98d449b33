//! PostgreSQL's part: its best is one `COPY` of all rows into a table with a primary key, then one upsert of all rows from a
//! table that they were copied into.

use super::records::Records;
use super::{Bench, Outcome};
use bytes::{BufMut as _, Bytes, BytesMut};
use counterfoil_records::value::{Number, Value};
use counterfoil_servers::Postgres;
use counterfoil_sinks::plan::{CellRoom, ColumnKind, PlanColumn, UNDECODED};
use counterfoil_sinks::{PostgresConfig, PostgresSink};
use futures_util::SinkExt as _;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// What is asked of the server here is to be on disk.
const DURABLE: &str =
    "fsync = on\nfull_page_writes = on\nshared_buffers = 256MB\nmax_wal_size = 2GB";

/// A server, and a connection for what it does by itself.
pub(super) struct PostgresBench {
    server: Postgres,
    client: Client,
    runtime: Runtime,
    targets: usize,
}

/// A place is a URL and a schema.
pub(super) fn open(place: &str) -> Outcome<PostgresSink> {
    let (url, schema) = place.split_once(' ').ok_or("no schema")?;
    Ok(PostgresSink::open(&PostgresConfig {
        schema: Some(schema.to_owned()),
        ..PostgresConfig::new(url)
    })?)
}

impl PostgresBench {
    pub(super) fn start() -> Outcome<PostgresBench> {
        let server = Postgres::start(DURABLE)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&server.url("postgres"), NoTls).await?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(PostgresBench {
            server,
            client,
            runtime,
            targets: 0,
        })
    }
}

impl Bench for PostgresBench {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn new_target(&mut self) -> Outcome<String> {
        self.targets += 1;
        let url = self.server.url("postgres");
        Ok(format!("{url} bench_{}", self.targets))
    }

    fn drop_target(&mut self, place: &str) -> Outcome<()> {
        let (_, schema) = place.split_once(' ').ok_or("no schema")?;
        let drop = format!("SET client_min_messages = warning; DROP SCHEMA {schema} CASCADE");
        self.server.sql("postgres", &drop)?;
        Ok(())
    }

    fn settle(&mut self) -> Outcome<()> {
        self.server.sql("postgres", "CHECKPOINT")?;
        Ok(())
    }

    fn best(&mut self, records: &Records, rows: u64) -> Outcome<[Duration; 2]> {
        let client = &self.client;
        self.runtime.block_on(best(client, records, rows))
    }
}

async fn best(client: &Client, records: &Records, rows: u64) -> Outcome<[Duration; 2]> {
    let mut columns = vec![
        ("data".to_owned(), "bytea".to_owned()),
        ("rest".to_owned(), "bytea".to_owned()),
    ];
    let named = |column: &PlanColumn| (column.name.clone(), column_type(column.kind));
    columns.extend(records.columns().iter().map(named));
    if !records.columns().is_empty() {
        columns.push((UNDECODED.to_owned(), "text".to_owned()));
    }
    let list = |each: &dyn Fn(&str, &str) -> String| {
        let columns = columns.iter().map(|(name, kind)| each(name, kind));
        columns.collect::<Vec<_>>().join(", ")
    };
    let set = list(&|name, _| format!("{name} = excluded.{name}"));
    let columns = list(&|name, kind| format!("{name} {kind}"));
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS best; CREATE TABLE best (record_number bigint PRIMARY KEY, {columns})"
        ))
        .await?;
    let first = copy_data(records, rows, 0)?;
    let begin = Instant::now();
    copy(client, "best", first).await?;
    let insert = begin.elapsed();
    client.batch_execute("CHECKPOINT").await?;
    let second = copy_data(records, rows, 1)?;
    let begin = Instant::now();
    client
        .batch_execute(&format!(
            "BEGIN; CREATE TEMPORARY TABLE staging (record_number bigint, {columns}) ON COMMIT DROP"
        ))
        .await?;
    copy(client, "staging", second).await?;
    client
        .batch_execute(&format!(
            "INSERT INTO best SELECT * FROM staging ON CONFLICT (record_number) DO UPDATE SET {set}; COMMIT"
        ))
        .await?;
    let update = begin.elapsed();
    client.batch_execute("DROP TABLE best").await?;
    Ok([insert, update])
}

fn column_type(kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Text { chars: Some(chars) } => format!("varchar({chars})"),
        ColumnKind::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        kind => kind.to_string(),
    }
}

/// A binary `COPY`'s bytes, made before the clock runs.
fn copy_data(records: &Records, rows: u64, turn: u64) -> Outcome<Vec<Bytes>> {
    let mut parts = Vec::new();
    let mut buffer = BytesMut::new();
    let mut room = CellRoom::default();
    let columns = records.columns();
    let values = if columns.is_empty() {
        3
    } else {
        columns.len() + 4
    };
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for id in 0..rows {
        let data = records.content(id, turn);
        buffer.put_i16(i16::try_from(values)?);
        buffer.put_i32(8);
        buffer.put_u64(id + 1);
        buffer.put_i32(i32::try_from(data.len())?);
        buffer.put_slice(&data);
        buffer.put_i32(-1);
        let mut kinds = columns.iter();
        records.cells(&data, &mut room, &mut |value| {
            let kind = kinds.next().map(|column| column.kind);
            put(&mut buffer, kind, &value);
        });
        if !columns.is_empty() {
            buffer.put_i32(-1);
        }
        if buffer.len() >= 256 << 10 {
            parts.push(buffer.split().freeze());
        }
    }
    buffer.put_i16(-1);
    parts.push(buffer.freeze());
    Ok(parts)
}

/// A value as PostgreSQL takes it in binary.
fn put(buffer: &mut BytesMut, kind: Option<ColumnKind>, value: &Value<'_>) {
    match (kind, value) {
        (Some(ColumnKind::SmallInt), Value::Number(number)) => {
            buffer.put_i32(2);
            buffer.put_i16(number.unscaled() as i16);
        }
        (Some(ColumnKind::Integer), Value::Number(number)) => {
            buffer.put_i32(4);
            buffer.put_i32(number.unscaled() as i32);
        }
        (Some(ColumnKind::BigInt), Value::Number(number)) => {
            buffer.put_i32(8);
            buffer.put_i64(number.unscaled() as i64);
        }
        (_, Value::Number(number)) => put_numeric(buffer, *number),
        (_, Value::Text(text)) => {
            buffer.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
            buffer.put_slice(text.as_bytes());
        }
        (kind, value) => panic!("no record here has {value:?} for {kind:?}"),
    }
}

/// Groups of four digits, the point between two of them.
fn put_numeric(buffer: &mut BytesMut, number: Number) {
    let scale = number.scale().unsigned_abs();
    let mut rest = number.unscaled().unsigned_abs();
    // Decimals are filled up to whole groups.
    let behind = scale.div_ceil(4);
    rest *= 10_u128.pow(u32::from(behind * 4 - scale));
    let mut groups = Vec::new();
    while rest > 0 {
        groups.push((rest % 10_000) as i16);
        rest /= 10_000;
    }
    groups.reverse();
    let weight = groups.len() as i16 - behind as i16 - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    buffer.put_i32(8 + 2 * groups.len() as i32);
    buffer.put_i16(groups.len() as i16);
    buffer.put_i16(if groups.is_empty() { 0 } else { weight });
    buffer.put_u16(if number.unscaled() < 0 { 0x4000 } else { 0 });
    buffer.put_u16(scale);
    for group in groups {
        buffer.put_i16(group);
    }
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
