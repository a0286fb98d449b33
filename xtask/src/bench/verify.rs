//! `bench verify`: how fast a running replicator proves a target equal, and what rounds of verification cost live apply.
//!
//! `counterfoil verify` of a file in PostgreSQL, from its start to its end, against a plain `SELECT` of the same table by one
//! client (psql), which throws the rows away; for information also against a binary `COPY` to nowhere, the quickest way out of the
//! database that there is. Then the time from a program's
//! first write until its last row is there, with rounds of verification that follow one another at their ordinary budget and
//! without any, in turns.

use super::load::{DURABLE, clear, sink, site, wait_for};
use crate::cargo::{self, Profile, With};
use crate::stats::{Aim, compare, median};
use anyhow::{Result, bail};
use counterfoil_servers::Postgres;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

pub(crate) fn run(records: u64, rounds: usize) -> Result<bool> {
    let binaries = cargo::build(Profile::Release, With::Everything)?;
    let server = Postgres::start(DURABLE)?;
    let rounds = rounds.max(1);
    let proven = proven(&binaries, &server, records, rounds)?;
    let cost = cost(&binaries, &server, records, rounds)?;
    // Both: neither is left out when the other misses its aim.
    let proven = compare("verify/select", proven, Aim::AtLeast(0.7));
    let cost = compare("verify/live-apply", cost, Aim::AtMost(1.05));
    Ok(proven && cost)
}

/// Rows a second that are verified, against those that are selected.
fn proven(binaries: &Path, server: &Postgres, records: u64, rounds: usize) -> Result<f64> {
    clear(server)?;
    let site = site(binaries, "verify", server)?;
    site.configure_more(&format!("{}[verify]\nbytes_per_second = 0\n", sink(server)))?;
    let program = site.compile("record_writer")?;
    let (file, count) = (site.data().join("records.dat"), records.to_string());
    let arguments: [&OsStr; 2] = [file.as_ref(), count.as_ref()];
    site.run(false, &program, &arguments)?;
    let mut replicator = site.start("run")?;
    wait_for(server, records)?;
    replicator.wait_idle()?;
    server.sql("postgres", "VACUUM ANALYZE records_dat")?;
    let mut session = server.session("postgres")?;
    let columns = "SELECT record_number, data, rest FROM records_dat";
    let select = format!("{columns} \\g /dev/null");
    let copy = format!("\\copy ({columns}) to '/dev/null' (format binary)");
    let [mut verified, mut selected, mut copied, mut ratios]: [Vec<f64>; 4] = Default::default();
    for round in 1..=rounds {
        let begin = Instant::now();
        let said = site.counterfoil(&["verify"])?;
        let ours = records as f64 / begin.elapsed().as_secs_f64();
        if !said.contains("compared, each at its position") {
            bail!("it wasn't proven at positions: {said}");
        }
        let mut timed = |sql: &str| {
            let begin = Instant::now();
            session.run(sql)?;
            anyhow::Ok(records as f64 / begin.elapsed().as_secs_f64())
        };
        let (theirs, quickest) = (timed(&select)?, timed(&copy)?);
        println!(
            "verify: round {round}: {ours:.0} rows/s verified, {theirs:.0} rows/s selected, {quickest:.0} rows/s by binary COPY"
        );
        verified.push(ours);
        selected.push(theirs);
        copied.push(quickest);
        ratios.push(ours / theirs);
    }
    replicator.stop()?;
    println!(
        "verify: {:.0} rows/s verified, {:.0} rows/s selected, {:.0} rows/s by binary COPY (medians of {rounds}; {records} \
         records of 100 bytes)",
        median(&verified),
        median(&selected),
        median(&copied)
    );
    Ok(median(&ratios))
}

/// How much longer live apply takes while rounds of verification go on.
fn cost(binaries: &Path, server: &Postgres, records: u64, rounds: usize) -> Result<f64> {
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let mut now = [0.0; 2];
        let mut order = [(0, "bytes_per_second = 0"), (1, "interval_minutes = 0")];
        order.rotate_left(round % 2);
        for (which, settings) in order {
            clear(server)?;
            let site = site(binaries, &format!("verify-cost-{round}-{which}"), server)?;
            site.configure_more(&format!("{}[verify]\n{settings}\n", sink(server)))?;
            let program = site.compile("record_writer")?;
            let (file, count) = (site.data().join("records.dat"), records.to_string());
            let arguments: [&OsStr; 2] = [file.as_ref(), count.as_ref()];
            // Rounds have something to go through from the beginning.
            site.run(false, &program, &arguments)?;
            let mut replicator = site.start("run")?;
            wait_for(server, records)?;
            // At its ordinary budget, a round is next to nothing to do.
            replicator.wait_idle()?;
            let begin = Instant::now();
            site.run(true, &program, &arguments)?;
            wait_for(server, 2 * records)?;
            now[which] = begin.elapsed().as_secs_f64();
            times[which].push(now[which]);
            replicator.stop()?;
        }
        println!(
            "verify: round {round}: live apply {:.2} s without rounds of verification, {:.2} s with them",
            now[0], now[1]
        );
        ratios.push(now[1] / now[0]);
    }
    println!(
        "verify: live apply {:.2} s without, {:.2} s with rounds of verification (medians of {rounds})",
        median(&times[0]),
        median(&times[1])
    );
    Ok(median(&ratios))
}
