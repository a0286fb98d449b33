//! `counterfoil status`: what is happening.

use comfy_table::{Table, presets};
use counterfoil::config::Config;
use counterfoil::state::{applying, running};
use counterfoil::status::{FRESH_NS, Status, waiting_bytes};
use counterfoil_lane::clock;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// Say what is happening.
///
/// Exit codes are those of monitoring plug-ins: 0 all is well, 1 something is wrong, 2 nothing is replicated, 3 it can't
/// be found out (the configuration can't be read, say).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Exit code for "can't be found out".
const UNKNOWN: u8 = 3;

#[derive(Serialize)]
struct Report {
    running: bool,
    /// Bytes of captured operations in lanes that no replicator has taken.
    lane_bytes_waiting: u64,
    #[serde(flatten)]
    status: Option<Status>,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = match super::load(config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("counterfoil: {error:#}");
            return Ok(ExitCode::from(UNKNOWN));
        }
    };
    let report = Report {
        running: running(&config).is_some() || applying(&config).is_some(),
        lane_bytes_waiting: waiting_bytes(&config.site.lanes),
        status: status(&config)?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let problems = report
        .status
        .as_ref()
        .map(Status::all_problems)
        .unwrap_or_default();
    Ok(ExitCode::from(
        match (report.running, problems.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        },
    ))
}

/// What the halves that were ever here say, as one.
fn status(config: &Config) -> anyhow::Result<Option<Status>> {
    let captured = Status::read(&config.site.status_path())?;
    if config.kafka.is_none() {
        return Ok(captured);
    }
    let applied = Status::read(&config.site.apply_status_path())?;
    Ok(match (captured, applied) {
        (Some(mut status), Some(applied)) => {
            status.stopped &= applied.stopped;
            status.join(applied);
            Some(status)
        }
        (one, other) => one.or(other),
    })
}

fn print(report: &Report) {
    let waiting = report.lane_bytes_waiting;
    let Some(status) = &report.status else {
        if report.running {
            println!("running; it has not said yet how it is doing");
        } else {
            println!(
                "not running, and never was here ({waiting} bytes of captured operations wait); start it with `counterfoil run`"
            );
        }
        return;
    };
    let age_ns = clock::wall() - status.written_ns;
    match (report.running, status.stopped) {
        (true, _) if age_ns > FRESH_NS => {
            println!(
                "{}: running (process {}), but it last said so {} s ago",
                status.site,
                status.pid,
                age_ns / 1_000_000_000
            );
        }
        (true, _) => println!("{}: running (process {})", status.site, status.pid),
        (false, true) => println!(
            "{}: stopped; {waiting} bytes of captured operations wait; start it with `counterfoil run`",
            status.site
        ),
        (false, false) => {
            println!(
                "{}: not running, and it did not stop in order; {waiting} bytes of captured operations wait; start it with `counterfoil run`",
                status.site
            );
        }
    }
    println!(
        "capture: {} programs, {} lanes, {} operations, {} ranges read again, {} reads waiting",
        status.programs, status.lanes, status.operations, status.rereads, status.reads_waiting
    );
    println!(
        "journal: {} bytes, next lsn {}; units of work: {} open, {} cut",
        status.journal_bytes, status.journal_end, status.units_open, status.units_cut
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "sink", "stream", "position", "behind", "lag ms", "images", "batches",
    ]);
    for (name, sink) in &status.sinks {
        let positions = sink
            .positions
            .iter()
            .map(|(stream, position)| (stream.as_str(), position.as_str()));
        for (stream, position) in positions {
            table.add_row([
                name.clone(),
                stream.to_owned(),
                position.to_owned(),
                sink.operations_behind.to_string(),
                format!("{:.1}", sink.lag_ms),
                sink.images.to_string(),
                sink.batches.to_string(),
            ]);
        }
    }
    println!("{table}");
    print_files(status);
    for problem in status.all_problems() {
        println!("problem: {problem}");
    }
}

fn print_files(status: &Status) {
    /// What fits a screen; JSON has more.
    const SHOWN_MAX: usize = 20;
    if status.files.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "file",
        "group",
        "size",
        "operations",
        "events",
        "last change",
    ]);
    for file in status.files.iter().take(SHOWN_MAX) {
        let seconds = (clock::wall() - file.changed_ns).max(0) / 1_000_000_000;
        table.add_row([
            file.path.clone(),
            file.group.clone(),
            file.size.to_string(),
            file.operations.to_string(),
            file.events.to_string(),
            format!("{seconds} s ago"),
        ]);
    }
    println!("{table}");
    if status.files.len() > SHOWN_MAX {
        println!(
            "and {} more files (--json lists them)",
            status.files.len() - SHOWN_MAX
        );
    }
}
