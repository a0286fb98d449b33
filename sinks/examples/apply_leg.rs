//! What `cargo xtask bench apply` runs: rows a second through a sink, next to what the database does best by itself, on the
//! same server, in turns.
//!
//! Prints a line for each measurement, `CASE ours|best ROWS_PER_SECOND`, and `CASE memory MIB`: the most that a process took
//! which does nothing but make batches and apply them, each batch included. So a sink is measured in a process of its own,
//! which is this program again.

#[path = "apply_leg/mariadb.rs"]
mod mariadb;
#[path = "apply_leg/postgres.rs"]
mod postgres;
#[path = "apply_leg/records.rs"]
mod records;
#[path = "apply_leg/sqlite.rs"]
mod sqlite;

use counterfoil_proto::Position;
use counterfoil_sinks::{Attributes, Batch, FileChanges, FileFate, Image, Sink};
use records::{Layout, Records};
use std::error::Error;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the applier puts into a batch unless it is told otherwise.
const BATCH_ROWS: u64 = 10_000;

/// Site and group of what is applied.
const STREAM: &str = "bench/bench";

/// What a process is told that is to apply: target, layout, rows, and where the target is.
const APPLY: &str = "--apply";

/// A database that is measured.
trait Bench {
    /// Its name in the cases.
    fn name(&self) -> &'static str;

    /// Where a sink finds a target that is empty, in words for [`open`].
    fn new_target(&mut self) -> Outcome<String>;

    /// That target is no longer needed.
    fn drop_target(&mut self, place: &str) -> Outcome<()>;

    /// The database's own best: how long it takes to put all rows into a table with a primary key, and how long to change
    /// each of them.
    fn best(&mut self, records: &Records, rows: u64) -> Outcome<[Duration; 2]>;

    /// What one side leaves behind isn't to be written back in the other's time.
    fn settle(&mut self) -> Outcome<()> {
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [APPLY, target, layout, rows, place] => {
            let mut sink = open(target, place)?;
            apply_all(
                sink.as_mut(),
                &Records::new(layout.parse()?)?,
                rows.parse()?,
            )
        }
        [rows, rounds, ref only @ ..] => measure(rows.parse()?, rounds.parse()?, only),
        _ => Err("apply_leg ROWS ROUNDS [CASE...]".into()),
    }
}

fn open(target: &str, place: &str) -> Outcome<Box<dyn Sink>> {
    Ok(match target {
        "postgres" => Box::new(postgres::open(place)?),
        "mariadb" => Box::new(mariadb::open(place)?),
        "sqlite" => Box::new(sqlite::open(place)?),
        _ => return Err(format!("there is no target {target}").into()),
    })
}

/// All rounds, of the targets and layouts that begin with one of these words, or of all.
fn measure(rows: u64, rounds: usize, only: &[&str]) -> Outcome<()> {
    const TARGETS: [&str; 3] = ["postgres", "mariadb", "sqlite"];
    let all = TARGETS.map(str::to_owned);
    let targets = wanted(&all, only);
    let mut benches: Vec<Box<dyn Bench>> = Vec::new();
    for target in targets {
        benches.push(match target.as_str() {
            "postgres" => Box::new(postgres::PostgresBench::start()?),
            "mariadb" => Box::new(mariadb::MariadbBench::start()?),
            _ => Box::new(sqlite::SqliteBench::default()),
        });
    }
    let all = Layout::ALL.map(|layout| layout.to_string());
    let layouts = wanted(&all, only);
    for round in 0..rounds {
        for layout in &layouts {
            let layout = layout.parse()?;
            let records = Records::new(layout)?;
            for bench in &mut benches {
                // Whoever comes second may find warmer caches, or fuller ones.
                for ours in [round % 2 == 0, round % 2 != 0] {
                    let target = bench.name();
                    if ours {
                        let place = bench.new_target()?;
                        apply_elsewhere(target, layout, rows, &place)?;
                        bench.drop_target(&place)?;
                    } else {
                        let [insert, update] = bench.best(&records, rows)?;
                        for (what, taken) in [("insert", insert), ("update", update)] {
                            let speed = rows as f64 / taken.as_secs_f64();
                            println!("{target}-{what}-{layout} best {speed:.0}");
                        }
                    }
                    bench.settle()?;
                }
            }
        }
    }
    Ok(())
}

/// Those that begin with one of these words; all, where none does.
fn wanted(all: &[String], only: &[&str]) -> Vec<String> {
    let is_named = |name: &&String| only.iter().any(|words| name.starts_with(words));
    let named: Vec<String> = all.iter().filter(is_named).cloned().collect();
    if named.is_empty() {
        all.to_vec()
    } else {
        named
    }
}

/// Has another process apply, which prints what it measures.
fn apply_elsewhere(target: &str, layout: Layout, rows: u64, place: &str) -> Outcome<()> {
    let output = Command::new(std::env::current_exe()?)
        .args([APPLY, target, &layout.to_string(), &rows.to_string(), place])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("applying to {target} ended with {}", output.status).into());
    }
    for line in String::from_utf8(output.stdout)?.lines() {
        let (what, figure) = line.split_once(' ').ok_or("a line of one word")?;
        let whose = if what == "memory" { "memory" } else { "ours" };
        let case = if what == "memory" { "apply" } else { what };
        println!("{target}-{case}-{layout} {whose} {figure}");
    }
    Ok(())
}

/// Puts all rows into a target, changes each of them, and prints how fast that was and what it took.
fn apply_all(sink: &mut dyn Sink, records: &Records, rows: u64) -> Outcome<()> {
    // For the first time, in order; then the rows of a batch lie all over the table.
    let batches = rows.div_ceil(BATCH_ROWS);
    let insert = apply(sink, records, rows, 0, &|batch, n| batch * BATCH_ROWS + n)?;
    let update = apply(sink, records, rows, 1, &|batch, n| n * batches + batch)?;
    println!("insert {:.0}", rows as f64 / insert.as_secs_f64());
    println!("update {:.0}", rows as f64 / update.as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = peak
        .and_then(|peak| peak.split_whitespace().next())
        .ok_or("the kernel doesn't say how much memory was taken")?
        .parse()?;
    println!("memory {:.1}", kib / 1024.0);
    check(sink, records, rows)
}

/// What was measured is what was to be done: every row is there as it was last, in a table with all columns.
fn check(sink: &mut dyn Sink, records: &Records, rows: u64) -> Outcome<()> {
    let files = sink.files(STREAM)?;
    let columns = files.first().map_or(0, |file| file.shape.columns.len());
    if columns != records.columns().len() {
        return Err(format!("the table has {columns} columns beside the raw image").into());
    }
    let mut next = 1;
    sink.pieces(STREAM, &records.file().path, &mut |piece| {
        let is_last = matches!(&piece.image, Image::Record { data, .. } if *data == records.content(next - 1, 1));
        next += 1;
        is_last && piece.id == next - 1
    })?;
    if next != rows + 1 {
        return Err(format!("row {} isn't what it should be", next - 1).into());
    }
    Ok(())
}

/// Applies batch by batch. Batches are made before the clock runs, as the applier's are while the last one is applied.
fn apply(
    sink: &mut dyn Sink,
    records: &Records,
    rows: u64,
    turn: u64,
    number: &dyn Fn(u64, u64) -> u64,
) -> Outcome<Duration> {
    let mut taken = Duration::ZERO;
    for batch in 0..rows.div_ceil(BATCH_ROWS) {
        let images = (0..BATCH_ROWS)
            .map(|n| number(batch, n))
            .filter(|&id| id < rows)
            .map(|id| {
                let data = records.content(id, turn);
                let rest = Vec::new();
                (id + 1, Image::Record { data, rest })
            })
            .collect();
        let batch = Batch {
            stream: STREAM.into(),
            after: None,
            position: Position {
                epoch: 1,
                lsn: turn * rows + batch + 1,
                index: 0,
            },
            captured_ns: 0,
            files: vec![FileChanges {
                file: Arc::clone(records.file()),
                renamed_from: None,
                fate: FileFate::Present,
                cleared: Vec::new(),
                log: Vec::new(),
                images,
                attributes: Attributes {
                    size: (batch + 1) * BATCH_ROWS * records.size() as u64,
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
