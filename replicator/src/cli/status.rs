//! `counterfoil status`: what is happening.

use super::loads;
use comfy_table::{Table, presets};
use counterfoil::config::Config;
use counterfoil::progress::Reason;
use counterfoil::state::{applying, running};
use counterfoil::status::{
    Coverage, FRESH_NS, ProgramStatus, Status, UncapturedStatus, waiting_bytes, waiting_programs,
};
use counterfoil_lane::clock;
use serde::Serialize;
use std::collections::BTreeMap;
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
    /// Programs that wait for room in their lanes now, whether or not a replicator runs.
    lanes_full: u64,
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
        lanes_full: waiting_programs(&config.site.lanes),
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
    if report.lanes_full > 0 {
        println!(
            "{} wait because their lanes are full (on_backlog = \"block\"){}",
            match report.lanes_full {
                1 => "1 program has to".to_owned(),
                programs => format!("{programs} programs"),
            },
            if report.running {
                ""
            } else {
                ": they go on when a replicator runs"
            }
        );
    }
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
        "capture: {} programs, {} lanes, {} operations, {} reads waiting",
        status.programs, status.lanes, status.operations, status.reads_waiting
    );
    print_ways(&status.coverage, status.rereads);
    println!(
        "journal: {} bytes, next lsn {}; units of work: {} open, {} cut",
        status.journal_bytes, status.journal_end, status.units_open, status.units_cut
    );
    for load in &status.loads {
        println!("{}", loads::line(load));
    }
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
    for (name, sink) in &status.sinks {
        if let Some(streams) = &sink.streams {
            let whose = match streams.as_slice() {
                [] => "a standby: other processes apply its streams".to_owned(),
                streams => format!("applied by this process: {}", streams.join(", ")),
            };
            println!("sink {name}: {whose}");
        }
    }
    for (name, sink) in &status.sinks {
        let verified = &sink.verified;
        if verified.files > 0 {
            println!(
                "sink {name}: {} files verified, {} of them different; the oldest proof is of {}",
                verified.files,
                verified.different,
                ago(verified.oldest_ns)
            );
        }
    }
    for url in &status.metrics {
        println!("metrics: {url}");
    }
    print_programs(&status.coverage);
    print_units(status);
    print_files(status);
    for problem in status.all_problems() {
        println!("problem: {problem}");
    }
}

/// By which way changes came.
fn print_ways(coverage: &Coverage, rereads: u64) {
    println!(
        "records: {} captured, {} found by reading again, {} loaded",
        coverage.records_captured, coverage.records_found, coverage.records_loaded
    );
    println!(
        "settled by re-reading: {rereads} ({})",
        rereads_text(&coverage.rereads)
    );
    println!(
        "compared with the files: {} ranges, {} of them other than known",
        coverage.compared_equal + coverage.compared_different,
        coverage.compared_different
    );
    if !coverage.operations.is_empty() {
        let kinds: Vec<String> = coverage
            .operations
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        println!("operations by kind: {}", kinds.join(", "));
    }
}

/// The reasons in their order, each with its count.
pub(crate) fn rereads_text(rereads: &BTreeMap<String, u64>) -> String {
    let counts = Reason::ALL.iter().map(|reason| {
        let word = reason.word();
        format!("{word} {}", rereads.get(word).unwrap_or(&0))
    });
    counts.collect::<Vec<_>>().join(", ")
}

fn print_programs(coverage: &Coverage) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "pid",
        "program",
        "captured",
        "lanes",
        "operations",
        "last active",
    ]);
    for program in coverage.programs.iter().take(SHOWN_MAX) {
        table.add_row([
            program.pid.to_string(),
            program.program.clone(),
            captured_how(program),
            program.lanes.to_string(),
            program.operations.to_string(),
            ago(program.last_ns),
        ]);
    }
    for program in coverage.uncaptured.iter().take(SHOWN_MAX) {
        table.add_row([
            program.pid.to_string(),
            program.program.clone(),
            uncaptured_why(program),
            "-".to_owned(),
            program.changes.to_string(),
            if program.open && program.last_ns == 0 {
                "open".to_owned()
            } else {
                ago(program.last_ns)
            },
        ]);
    }
    if !coverage.programs.is_empty() || !coverage.uncaptured.is_empty() {
        println!("{table}");
    }
    let more = coverage.programs.len().saturating_sub(SHOWN_MAX)
        + coverage.uncaptured.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        println!("and {more} more programs (--json lists them)");
    }
    if coverage.processes_hidden > 0 {
        println!(
            "{} processes can't be looked into by the replicator's user: whether they have captured files open isn't known",
            coverage.processes_hidden
        );
    }
}

fn captured_how(program: &ProgramStatus) -> String {
    format!("{}, {}", program.mode, program.release)
}

fn uncaptured_why(program: &UncapturedStatus) -> String {
    match &program.reason {
        Some(reason) => format!("NO: {reason}"),
        None => "NO".to_owned(),
    }
}

fn ago(at_ns: i64) -> String {
    if at_ns == 0 {
        return "-".to_owned();
    }
    let seconds = (clock::wall() - at_ns).max(0) / 1_000_000_000;
    format!("{seconds} s ago")
}

/// Lines of a table that fit a screen; JSON has more.
const SHOWN_MAX: usize = 20;

/// Units of work that have been open for long, and those that were cut.
fn print_units(status: &Status) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "unit of work",
        "process",
        "program",
        "began",
        "cut",
        "files",
    ]);
    let open = status.units.iter().map(|unit| (unit, "open"));
    let cut = status.units_cut_last.iter().map(|unit| (unit, "cut"));
    for (unit, state) in open.chain(cut) {
        let seconds = (clock::wall() - unit.began_ns).max(0) / 1_000_000_000;
        table.add_row([
            format!("{} in {}", state, unit.group),
            unit.pid.to_string(),
            unit.program.clone(),
            format!("{seconds} s ago"),
            unit.cuts.to_string(),
            unit.files.join(" "),
        ]);
    }
    if !table.is_empty() {
        println!("{table}");
    }
}

fn print_files(status: &Status) {
    if status.files.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "file",
        "group",
        "size",
        "operations",
        "captured",
        "found",
        "re-read",
        "events",
        "last change",
    ]);
    for file in status.files.iter().take(SHOWN_MAX) {
        table.add_row([
            file.path.clone(),
            file.group.clone(),
            file.size.to_string(),
            file.operations.to_string(),
            file.captured.to_string(),
            file.found.to_string(),
            file.rereads.to_string(),
            file.events.to_string(),
            ago(file.changed_ns),
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
