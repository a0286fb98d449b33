//! The SQLite side of `cargo xtask bench`.
//!
//! `sqlite_leg insert DATABASE COUNT` puts the records of `record_writer` into a new table, by one
//! prepared statement, in large transactions. `sqlite_leg wait DATABASE TABLE COUNT` waits until the
//! table holds the record of that number. `sqlite_leg until DATABASE QUERY PARAMETER NUMBER` waits until
//! the query's one number, with that parameter, has become so large. `sqlite_leg latency DATABASE TABLE FILE COUNT` appends
//! records to the file, one after the other, each once the one before is in the table, and prints for each after how many
//! microseconds it was.

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags};
use std::time::{Duration, Instant};

/// Rows of one transaction.
const TRANSACTION_ROWS: u64 = 50_000;
const RECORD_SIZE: usize = 100;
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["insert", database, count] => insert(database, count.parse().context("COUNT")?),
        ["wait", database, table, count] => wait(database, table, count.parse().context("COUNT")?),
        ["until", database, query, parameter, number] => until(
            &format!("{query}: {parameter} {number}"),
            number.parse().context("NUMBER")?,
            || number_of(database, query, parameter),
        ),
        ["latency", database, table, file, count] => {
            latency(database, table, file, count.parse().context("COUNT")?)
        }
        _ => bail!(
            "usage: sqlite_leg insert DATABASE COUNT | sqlite_leg wait DATABASE TABLE COUNT \
             | sqlite_leg until DATABASE QUERY PARAMETER NUMBER \
             | sqlite_leg latency DATABASE TABLE FILE COUNT"
        ),
    }
}

fn insert(database: &str, count: u64) -> Result<()> {
    let mut connection =
        Connection::open(database).with_context(|| format!("opening {database}"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute(
        "CREATE TABLE records_dat (record_number INTEGER PRIMARY KEY, data BLOB NOT NULL, rest BLOB)",
        [],
    )?;
    let mut number = 1;
    while number <= count {
        let transaction = connection.transaction()?;
        {
            let mut statement =
                transaction.prepare("INSERT INTO records_dat VALUES (?1, ?2, NULL)")?;
            for _ in 0..TRANSACTION_ROWS.min(count - number + 1) {
                let mut record = format!("{number:010}").into_bytes();
                record.resize(RECORD_SIZE, b'.');
                statement.execute((number.cast_signed(), &record))?;
                number += 1;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

fn wait(database: &str, table: &str, count: u64) -> Result<()> {
    let what = format!("record {count} in {database}");
    until(&what, count, || newest(database, table))
}

fn until(what: &str, count: u64, number: impl Fn() -> Result<u64>) -> Result<()> {
    let begin = Instant::now();
    let mut last = "nothing yet".to_owned();
    while begin.elapsed() < LIMIT {
        match number() {
            Ok(number) if number >= count => return Ok(()),
            Ok(number) => last = number.to_string(),
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("waited {} s for {what}; last: {last}", LIMIT.as_secs())
}

fn latency(database: &str, table: &str, file: &str, count: u64) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("opening {file}"))?;
    let before = file.metadata()?.len() / RECORD_SIZE as u64;
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let mut newest = connection.prepare(&format!("SELECT max(record_number) FROM \"{table}\""))?;
    for number in before + 1..=before + count {
        let mut record = format!("{number:010}").into_bytes();
        record.resize(RECORD_SIZE, b'.');
        let begin = Instant::now();
        file.write_all(&record).context("appending a record")?;
        loop {
            let there: Option<i64> = newest.query_row([], |row| row.get(0))?;
            if there.is_some_and(|there| there.cast_unsigned() >= number) {
                break;
            }
            if begin.elapsed() > LIMIT {
                bail!(
                    "record {number} isn't in {table} after {} s",
                    LIMIT.as_secs()
                );
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        println!("{}", begin.elapsed().as_micros());
        // Not in step with whatever looks at regular times.
        std::thread::sleep(Duration::from_micros(number * 7919 % 40_000));
    }
    Ok(())
}

fn number_of(database: &str, query: &str, parameter: &str) -> Result<u64> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let number: i64 = connection.query_row(query, [parameter], |row| row.get(0))?;
    Ok(number.cast_unsigned())
}

fn newest(database: &str, table: &str) -> Result<u64> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let newest: Option<i64> = connection.query_row(
        &format!("SELECT max(record_number) FROM \"{table}\""),
        [],
        |row| row.get(0),
    )?;
    Ok(newest.unwrap_or(0).cast_unsigned())
}
