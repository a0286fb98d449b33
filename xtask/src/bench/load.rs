//! `bench load`: how fast a file that was there before comes into a target, against the database's own bulk load.
//!
//! A file of records is there; the time is from the start of `counterfoil run` until the last row is there for a reader.
//! Against it, in turns: one binary `COPY` of the same rows, prepared before, into a table of the same shape with the same key,
//! on the same server, which has to get everything to the disk.

use super::bench_site::{BenchSite, wait};
use crate::cargo::{self, Profile, With};
use crate::stats::{Aim, compare, median};
use anyhow::{Context as _, Result, bail};
use counterfoil_servers::Postgres;
use std::ffi::OsStr;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is asked of the server here is to be on disk.
pub(super) const DURABLE: &str =
    "fsync = on\nfull_page_writes = on\nshared_buffers = 256MB\nmax_wal_size = 2GB";

/// Bytes of a record.
const RECORD: usize = 100;

/// A site with one file of records, and a PostgreSQL server as its target.
pub(super) fn site(binaries: &Path, name: &str, server: &Postgres) -> Result<BenchSite> {
    let lines = "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 100";
    let site = BenchSite::new(binaries, name, "none", &[("records.dat", lines)])?;
    site.configure_more(&sink(server))?;
    Ok(site)
}

/// The configuration of the server as a target.
pub(super) fn sink(server: &Postgres) -> String {
    format!(
        "[[sink]]\nname = \"bench\"\npostgres = {{ url = {:?} }}\n",
        server.url("postgres")
    )
}

/// Takes everything out of the server.
pub(super) fn clear(server: &Postgres) -> Result<()> {
    server.sql(
        "postgres",
        "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    )?;
    server.sql("postgres", "CHECKPOINT")?;
    Ok(())
}

/// Waits until the record of this number has its row.
pub(super) fn wait_for(server: &Postgres, number: u64) -> Result<()> {
    let mut session = server.session("postgres")?;
    let sql = format!("SELECT count(*) FROM records_dat WHERE record_number = {number}");
    wait("the last row", || {
        // There is no table before the first batch.
        let there = session.run("SELECT to_regclass('records_dat') IS NOT NULL")?;
        if there.trim() != "t" {
            return Ok(None);
        }
        Ok((session.run(&sql)?.trim() == "1").then_some(()))
    })
}

/// The rows of `record_writer`'s records, as a binary `COPY` takes them.
fn rows(path: &Path, count: u64) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut out = BufWriter::new(file);
    out.write_all(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")?;
    for number in 1..=count {
        let mut record = format!("{number:010}").into_bytes();
        record.resize(RECORD, b'.');
        out.write_all(&3i16.to_be_bytes())?;
        out.write_all(&8i32.to_be_bytes())?;
        out.write_all(&number.to_be_bytes())?;
        out.write_all(&(RECORD as i32).to_be_bytes())?;
        out.write_all(&record)?;
        out.write_all(&(-1i32).to_be_bytes())?;
    }
    out.write_all(&(-1i16).to_be_bytes())?;
    out.flush()?;
    Ok(())
}

pub(crate) fn run(records: u64, rounds: usize) -> Result<bool> {
    let binaries = cargo::build(Profile::Release, With::Everything)?;
    let server = Postgres::start(DURABLE)?;
    let copied: PathBuf = cargo::target_dir()?.join("bench/load.copy");
    std::fs::create_dir_all(cargo::target_dir()?.join("bench"))?;
    rows(&copied, records)?;
    let count = records.to_string();
    let (mut loaded, mut bulk, mut ratios, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0f64);
    let rounds = rounds.max(1);
    for round in 1..=rounds {
        clear(&server)?;
        let site = site(&binaries, &format!("load-{round}"), &server)?;
        let program = site.compile("record_writer")?;
        let file = site.data().join("records.dat");
        let arguments: [&OsStr; 2] = [file.as_ref(), count.as_ref()];
        site.run(false, &program, &arguments)?;
        let begin = Instant::now();
        let replicator = site.start("run")?;
        wait_for(&server, records)?;
        let ours = records as f64 / begin.elapsed().as_secs_f64();
        let resident = replicator.memory_max_mib()?;
        replicator.stop()?;
        let there = server.sql("postgres", "SELECT count(*) FROM records_dat")?;
        if there.trim() != count {
            bail!("{} rows are there of {count}", there.trim());
        }
        drop(site);
        clear(&server)?;
        server.sql(
            "postgres",
            "CREATE TABLE bulk (record_number bigint PRIMARY KEY, data bytea NOT NULL, rest bytea)",
        )?;
        let mut session = server.session("postgres")?;
        let copy = format!("\\copy bulk from '{}' (format binary)", copied.display());
        let begin = Instant::now();
        session.run(&copy)?;
        let theirs = records as f64 / begin.elapsed().as_secs_f64();
        println!(
            "load: round {round}: {ours:.0} rows/s from a file, {theirs:.0} rows/s by COPY; at most {resident:.0} MiB resident"
        );
        loaded.push(ours);
        bulk.push(theirs);
        ratios.push(ours / theirs);
        memory = memory.max(resident);
    }
    let _ = std::fs::remove_file(&copied);
    println!(
        "load: {:.0} rows/s from a file of {records} records of {RECORD} bytes, {:.0} rows/s by COPY (medians of {rounds}); \
         at most {memory:.0} MiB resident",
        median(&loaded),
        median(&bulk)
    );
    Ok(compare("load/postgres", median(&ratios), Aim::AtLeast(0.7)))
}
