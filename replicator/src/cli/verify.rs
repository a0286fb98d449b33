//! `counterfoil verify`: prove equality.

use anyhow::Context as _;
use counterfoil::replicator::open_sink_read_only;
use counterfoil::state::running;
use counterfoil::status::waiting_bytes;
use counterfoil::verify::{Difference, FileReport, Kind, Options, Report, verify};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Differences shown per file as text; JSON has more.
const SHOWN_MAX: usize = 10;

/// Compare every file with what each sink has of it, byte by byte.
///
/// Exit code 0: all equal. 1: something differs; file and record are named. 2: it could not be found out.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Compare with this sink only
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// How long a difference must stay to count while a replicator runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    settle: f64,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    // To have compared nothing is not to have found all equal.
    anyhow::ensure!(
        !config.groups.is_empty(),
        "verifying site {}: {} has no [[group]], so there are no files here to compare targets with; run `counterfoil verify` where the files are, with a [[sink]] there that leads to the same target",
        config.site.name,
        config.path.display()
    );
    let is_running = running(&config).is_some();
    let settle = if is_running {
        Duration::try_from_secs_f64(args.settle)?
    } else {
        Duration::ZERO
    };
    let mut files = Vec::new();
    for sink in super::chosen_sinks(&config, args.sink.as_deref())? {
        let mut opened = open_sink_read_only(sink).with_context(|| {
            let elsewhere = if config.kafka.is_some() {
                "; where `counterfoil apply` writes to it from another machine, it needs a [[sink]] here that leads there"
            } else {
                ""
            };
            format!("verifying against sink {}{elsewhere}", sink.name)
        })?;
        let reports = verify(
            &config,
            &sink.name,
            opened.as_mut(),
            Options { settle },
            &mut |file| {
                let is_told_with_its_tree = file.tree.is_some() && file.equal;
                if !args.json && !is_told_with_its_tree {
                    print(file);
                }
            },
        )?;
        opened.close()?;
        if !args.json {
            print_trees(&reports);
        }
        files.extend(reports);
    }
    let failed = files.iter().any(|file| file.error.is_some());
    let report = Report {
        equal: files
            .iter()
            .all(|file| file.equal || file.uncompared.is_some()),
        files,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let records: u64 = report.files.iter().map(|file| file.records).sum();
        let is_unequal = |file: &&FileReport| !file.equal && file.uncompared.is_none();
        let unequal = report.files.iter().filter(is_unequal).count();
        let uncompared = report.files.iter().filter(|file| file.uncompared.is_some());
        let uncompared = uncompared.count();
        let what = if report.equal {
            "equal".to_owned()
        } else {
            format!("{unequal} not equal")
        };
        let compared = report.files.len() - uncompared;
        println!("{compared} files, {records} records: {what}");
        if uncompared > 0 {
            println!("{uncompared} files couldn't be compared: their tables keep no raw image");
        }
        let waiting = waiting_bytes(&config.site.lanes);
        if !report.equal && !is_running && waiting > 0 {
            println!(
                "no replicator runs, and {waiting} bytes of captured operations wait: `counterfoil run --until-idle` applies them"
            );
        }
    }
    Ok(ExitCode::from(match (failed, report.equal) {
        (true, _) => 2,
        (false, false) => 1,
        (false, true) => 0,
    }))
}

/// A line for each tree; what differs in it has lines of its own.
fn print_trees(reports: &[FileReport]) {
    let mut trees: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for file in reports {
        if let Some(tree) = &file.tree {
            let (all, unequal) = trees.entry((tree, &file.sink)).or_default();
            *all += 1;
            *unequal += u64::from(!file.equal);
        }
    }
    for ((tree, sink), (all, unequal)) in trees {
        let what = if unequal == 0 {
            "equal".to_owned()
        } else {
            format!("{unequal} not equal")
        };
        println!("{tree}/ ({sink}): {all} files, directories and links: {what}");
    }
}

fn print(file: &FileReport) {
    let place = format!("{} ({})", file.path, file.sink);
    if let Some(why) = &file.uncompared {
        println!("{place}: not compared: {why}");
        return;
    }
    if let Some(error) = &file.error {
        println!("{place}: {error}");
        return;
    }
    let position = file.position.as_deref().unwrap_or("none");
    if file.tree.is_some() {
        println!("{place}: position {position}: different");
        for difference in file.differences.iter().take(SHOWN_MAX) {
            println!("  {}", describe(difference));
        }
        return;
    }
    if file.equal {
        let changing = if file.changing > 0 {
            format!(", {} still changing", file.changing)
        } else {
            String::new()
        };
        println!(
            "{place}: {} records, position {position}: equal{changing}",
            file.records
        );
        return;
    }
    println!(
        "{place}: {} records, position {position}: {} different",
        file.records, file.different
    );
    for difference in file.differences.iter().take(SHOWN_MAX) {
        println!("  {}", describe(difference));
    }
    if file.different > SHOWN_MAX as u64 {
        println!(
            "  and {} more (--json lists the first {})",
            file.different - SHOWN_MAX as u64,
            counterfoil::verify::DIFFERENCES_MAX
        );
    }
}

fn describe(difference: &Difference) -> String {
    let record = difference
        .record
        .map(|record| format!("record {record}: "))
        .unwrap_or_default();
    let Difference { file, target, .. } = difference;
    let of_file = |what: &str| format!("{what}: the file has {file}, the target knows of {target}");
    match difference.kind {
        Kind::Differs => format!(
            "{record}differs from byte {} on: file {file}, target {target}",
            difference.first_difference.unwrap_or(0)
        ),
        Kind::MissingInTarget => format!("{record}missing in the target: file {file}"),
        Kind::OnlyInTarget => format!("{record}only in the target: {target}"),
        Kind::Size => of_file("size"),
        Kind::FileKind => format!("kind: it is {file}, the target knows of {target}"),
        Kind::Mode => of_file("permissions"),
        Kind::Owner => of_file("owner"),
        Kind::Modified => of_file("time of modification"),
        Kind::FileMissingInTarget => "the target doesn't know this file yet".to_owned(),
        Kind::FileMissing => "there is no such file, but the target has it".to_owned(),
    }
}
