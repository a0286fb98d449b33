//! SQLite's part: its best is a prepared statement, in transactions as large as the batches, with the same durability.

use super::records::Records;
use super::{BATCH_ROWS, Bench, Outcome};
use counterfoil_records::value::Value;
use counterfoil_sinks::plan::{CellRoom, UNDECODED};
use counterfoil_sinks::{SqliteConfig, SqliteSink};
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, params_from_iter};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory for each database.
#[derive(Default)]
pub(super) struct SqliteBench {
    directory: Option<TempDir>,
}

/// A place is a path.
pub(super) fn open(place: &str) -> Outcome<SqliteSink> {
    Ok(SqliteSink::open(&SqliteConfig::new(place))?)
}

impl SqliteBench {
    fn new_path(&mut self) -> Outcome<String> {
        let directory = self.directory.insert(tempfile::tempdir()?);
        Ok(directory.path().join("mirror.db").display().to_string())
    }
}

impl Bench for SqliteBench {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn new_target(&mut self) -> Outcome<String> {
        self.new_path()
    }

    fn drop_target(&mut self, _place: &str) -> Outcome<()> {
        self.directory = None;
        Ok(())
    }

    fn best(&mut self, records: &Records, rows: u64) -> Outcome<[Duration; 2]> {
        let mut connection = Connection::open(self.new_path()?)?;
        let mut names = vec!["data", "rest"];
        names.extend(records.columns().iter().map(|column| column.name.as_str()));
        if !records.columns().is_empty() {
            names.push(UNDECODED);
        }
        let list = |each: &dyn Fn(usize, &str) -> String| {
            let names = names.iter().zip(2..).map(|(name, n)| each(n, name));
            names.collect::<Vec<_>>().join(", ")
        };
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768;
             CREATE TABLE best (record_number INTEGER PRIMARY KEY, {})",
            list(&|_, name| name.to_owned())
        ))?;
        let insert = format!(
            "INSERT INTO best VALUES (?1, {})",
            list(&|n, _| format!("?{n}"))
        );
        let update = format!(
            "UPDATE best SET {} WHERE record_number = ?1",
            list(&|n, name| format!("{name} = ?{n}"))
        );
        // In the order of ours: one after the other, then all over the table.
        let batches = rows.div_ceil(BATCH_ROWS);
        let insert = run(&mut connection, &insert, records, rows, 0, &|batch, n| {
            batch * BATCH_ROWS + n
        })?;
        let update = run(&mut connection, &update, records, rows, 1, &|batch, n| {
            n * batches + batch
        })?;
        Ok([insert, update])
    }
}

fn run(
    connection: &mut Connection,
    sql: &str,
    records: &Records,
    rows: u64,
    turn: u64,
    number: &dyn Fn(u64, u64) -> u64,
) -> Outcome<Duration> {
    let mut taken = Duration::ZERO;
    let mut room = CellRoom::default();
    for batch in 0..rows.div_ceil(BATCH_ROWS) {
        let ids = (0..BATCH_ROWS).map(|n| number(batch, n));
        let values: Vec<Vec<Stored>> = ids
            .filter(|&id| id < rows)
            .map(|id| {
                let data = records.content(id, turn);
                let mut values = vec![Stored::Integer(id as i64 + 1), Stored::Null, Stored::Null];
                records.cells(&data, &mut room, &mut |value| {
                    values.push(match value {
                        Value::Number(number) if number.scale() == 0 => {
                            Stored::Integer(number.unscaled() as i64)
                        }
                        value => Stored::Text(value.to_string()),
                    });
                });
                if values.len() > 3 {
                    values.push(Stored::Null);
                }
                values[1] = Stored::Blob(data);
                values
            })
            .collect();
        let begin = Instant::now();
        let transaction = connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(sql)?;
            for values in &values {
                statement.execute(params_from_iter(values))?;
            }
        }
        transaction.commit()?;
        taken += begin.elapsed();
    }
    Ok(taken)
}
