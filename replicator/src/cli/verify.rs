//! `counterfoil verify`: prove equality.

use anyhow::Context as _;
use counterfoil::config::Config;
use counterfoil::replicator::open_sink_read_only;
use counterfoil::requests::Request;
use counterfoil::state::{applying, running};
use counterfoil::status::waiting_bytes;
use counterfoil::verify::online::{Proof, prove};
use counterfoil::verify::{Difference, FileReport, Kind, Options, Report, verify};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long what is told again may take to arrive.
const MEND_MAX: Duration = Duration::from_secs(60);

/// Differences shown per file as text; JSON has more.
const SHOWN_MAX: usize = 10;

/// Prove that every file and what each sink has of it are equal, or say what differs.
///
/// While a replicator runs, a round of verification goes through the files: checksums of what was captured travel with the
/// changes, and each target compares itself at the very position of each. What that leaves open, and everything where nothing
/// runs, is compared byte by byte.
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
    /// Only these files; all without
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Compare both sides byte by byte, though a replicator runs that could prove it
    #[arg(long)]
    direct: bool,
    /// How long a difference must stay to count while a replicator runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    settle: f64,
    /// Have targets told again what differs, through the ordinary stream, and compare once more
    #[arg(long)]
    repair: bool,
    /// With --repair: only show what would be told again
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// With --repair: have targets forget files that aren't there any more
    #[arg(long, requires = "repair")]
    remove_orphans: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let path = config;
    let config = super::load(config)?;
    // To have compared nothing is not to have found all equal.
    anyhow::ensure!(
        !config.groups.is_empty(),
        "verifying site {}: {} has no [[group]], so there are no files here to compare targets with; run `counterfoil verify` where the files are, with a [[sink]] there that leads to the same target",
        config.site.name,
        config.path.display()
    );
    let only = args
        .files
        .iter()
        .map(|file| captured(&config, file))
        .collect::<anyhow::Result<BTreeSet<_>>>()?;
    let only = (!only.is_empty()).then_some(only);
    let report = compare(args, &config, only.as_ref(), Duration::ZERO)?;
    if !args.json {
        print_sum(&report, &config);
    }
    let report = match args.repair && !report.equal {
        true => repair(args, path, &config, report)?,
        false => report,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    let failed = report.files.iter().any(|file| file.error.is_some());
    Ok(ExitCode::from(match (failed, report.equal) {
        (true, _) => 2,
        (false, false) => 1,
        (false, true) => 0,
    }))
}

/// A captured file that somebody named, as the configuration has it.
pub(super) fn captured(config: &Config, file: &Path) -> anyhow::Result<Vec<u8>> {
    let absolute = std::path::absolute(file)
        .with_context(|| format!("finding out where {} is", file.display()))?;
    // Links on the way to it are as programs see them; where that is no captured file, what is behind them may be.
    let resolved = absolute.canonicalize().ok();
    let mut places = [Some(absolute.clone()), resolved].into_iter().flatten();
    let place = places.find(|place| config.rule_for(place.as_os_str().as_bytes()).is_some());
    let place = place.with_context(|| {
        format!(
            "{} is no captured file: no [[group.file]] and no [[group.tree]] of {} matches it",
            absolute.display(),
            config.path.display()
        )
    })?;
    Ok(place.into_os_string().into_vec())
}

/// Compares files with sinks, and prints what it finds as it goes, unless JSON is asked for.
fn compare(
    args: &Args,
    config: &Config,
    only: Option<&BTreeSet<Vec<u8>>>,
    settle_min: Duration,
) -> anyhow::Result<Report> {
    let is_running = running(config).is_some();
    let settle = if is_running {
        Duration::try_from_secs_f64(args.settle)?.max(settle_min)
    } else {
        Duration::ZERO
    };
    let sinks = super::chosen_sinks(config, args.sink.as_deref())?;
    let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
    let proof = match is_running && !args.direct {
        true => prove(config, &names, only).context("asking the replicator that runs to verify")?,
        false => Proof::default(),
    };
    let mut files = Vec::new();
    for sink in sinks {
        let mut opened = open_sink_read_only(sink).with_context(|| {
            let elsewhere = if config.kafka.is_some() {
                "; where `counterfoil apply` writes to it from another machine, it needs a [[sink]] here that leads there"
            } else {
                ""
            };
            format!("verifying against sink {}{elsewhere}", sink.name)
        })?;
        let options = Options {
            settle,
            proof: Some(&proof),
            only,
        };
        let reports = verify(config, &sink.name, opened.as_mut(), options, &mut |file| {
            let is_told_with_its_tree = file.tree.is_some() && file.equal;
            if !args.json && !is_told_with_its_tree {
                print(file);
            }
        })?;
        opened.close()?;
        if !args.json {
            print_trees(&reports);
        }
        files.extend(reports);
    }
    Ok(Report {
        equal: files
            .iter()
            .all(|file| file.equal || file.uncompared.is_some()),
        files,
    })
}

fn print_sum(report: &Report, config: &Config) {
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
    if !report.equal && running(config).is_none() && waiting > 0 {
        println!(
            "no replicator runs, and {waiting} bytes of captured operations wait: `counterfoil run --until-idle` applies them"
        );
    }
}

/// Has what differs told again, and compares it once more.
fn repair(args: &Args, path: &Path, config: &Config, found: Report) -> anyhow::Result<Report> {
    let say = |line: String| match args.json {
        // It isn't part of what is asked for.
        true => eprintln!("{line}"),
        false => println!("{line}"),
    };
    let mut mended = BTreeSet::new();
    let mut orphans = Vec::new();
    let mut asked = Vec::new();
    for file in &found.files {
        let (bytes, ids) = &file.mend;
        if file.equal || file.uncompared.is_some() || ids.is_empty() {
            continue;
        }
        let place = format!("{} ({})", file.path, file.sink);
        if is_orphan(file) {
            if args.remove_orphans {
                say(format!("{place}: to be removed from the target"));
                orphans.push((bytes.clone(), file.sink.clone()));
            } else {
                say(format!(
                    "{place}: left alone; `--repair --remove-orphans` removes it from the target"
                ));
            }
            continue;
        }
        say(format!(
            "{place}: to be told again: {}",
            ranges_in_words(ids)
        ));
        mended.insert(bytes.clone());
        if !args.dry_run {
            let posted = Request::restate(bytes, ids).post(&config.site.requests_path());
            asked.push(
                posted.with_context(|| format!("asking for {} to be told again", file.path))?,
            );
        }
    }
    if args.dry_run || mended.is_empty() && orphans.is_empty() {
        return Ok(found);
    }
    for (bytes, sink) in &orphans {
        // Of what is captured, the capturing half says whether it is gone; of the rest nobody but the target knows.
        let posted = if config.rule_for(bytes).is_some() {
            let paths = vec![bytes.clone()];
            Request::Sync { paths }.post(&config.site.requests_path())
        } else {
            anyhow::ensure!(
                config.kafka.is_none() || applying(config).is_some() || running(config).is_none(),
                "removing what isn't there any more from sink {sink}: nobody applies to it on this machine; ask where `counterfoil apply` runs"
            );
            let (sink, path) = (sink.clone(), bytes.clone());
            Request::Orphan { sink, path }.post(&config.site.apply_requests_path())
        };
        asked.push(posted.context("asking for an orphan to be removed")?);
    }
    if running(config).is_none() {
        // It goes the way of everything, and somebody has to be there for that.
        super::run::until_idle(path)?;
    }
    let again: BTreeSet<Vec<u8>> = orphans
        .into_iter()
        .map(|(bytes, _)| bytes)
        .chain(mended)
        .collect();
    await_heeded(config, &asked)?;
    let second = compare(args, config, Some(&again), MEND_MAX)?;
    if !args.json {
        print_sum(&second, config);
    }
    let untouched = found
        .files
        .into_iter()
        .filter(|file| !again.contains(&file.mend.0));
    let files: Vec<FileReport> = untouched.chain(second.files).collect();
    Ok(Report {
        equal: files
            .iter()
            .all(|file| file.equal || file.uncompared.is_some()),
        files,
    })
}

/// The target has a file that isn't there.
fn is_orphan(file: &FileReport) -> bool {
    let mut differences = file.differences.iter();
    differences.any(|difference| difference.kind == Kind::FileMissing)
}

fn ranges_in_words(ids: &[Range<u64>]) -> String {
    const SHOWN: usize = 5;
    let of = |range: &Range<u64>| match (range.start, range.end) {
        (0, u64::MAX) => "everything".to_owned(),
        (from, u64::MAX) => format!("record {from} and all that follow"),
        (from, to) if to == from + 1 => format!("record {from}"),
        (from, to) => format!("records {from} to {}", to - 1),
    };
    let shown: Vec<String> = ids.iter().take(SHOWN).map(of).collect();
    let more = match ids.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more ranges"),
    };
    format!("{}{more}", shown.join(", "))
}

/// Waits until what was asked is taken over; takes it back if nobody does.
fn await_heeded(config: &Config, asked: &[PathBuf]) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Some(waiting) = asked.iter().find(|place| place.exists()) {
        if begun.elapsed() > MEND_MAX || running(config).is_none() {
            for place in asked {
                let _ = std::fs::remove_file(place);
            }
            anyhow::bail!(
                "nobody has taken over what was asked, as {}, so it is taken back: `counterfoil status` says whether a replicator runs",
                waiting.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
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
        let ranges = match file.ranges {
            0 => String::new(),
            1 => ", one range compared at its position".to_owned(),
            ranges => format!(", {ranges} ranges compared, each at its position"),
        };
        println!(
            "{place}: {} records, position {position}: equal{changing}{ranges}",
            file.records
        );
        if file.ranges_read_again > 0 {
            println!(
                "  {} of its ranges weren't as they were captured, and were read again first",
                file.ranges_read_again
            );
        }
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
        Kind::Differs => {
            let column = difference.column.as_ref();
            let column = column.map_or(String::new(), |column| format!(" (column {column})"));
            format!(
                "{record}differs from byte {}{column} on: file {file}, target {target}",
                difference.first_difference.unwrap_or(0)
            )
        }
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
