//! `counterfoil sync`: read files again.

use super::verify::captured;
use anyhow::Context as _;
use counterfoil::requests::Request;
use counterfoil::state::running;
use counterfoil::verify::online::prove;
use counterfoil_proto::path_text;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Read files again, and send what is other than known; programs go on meanwhile.
///
/// Exit code 0: targets have them (without a replicator: it is noted for the next one). 1: that couldn't be proven.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Send every record of them, whether it is other than known or not
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    let paths = args
        .files
        .iter()
        .map(|file| captured(&config, file))
        .collect::<anyhow::Result<BTreeSet<_>>>()?;
    let directory = config.site.requests_path();
    let post = |request: Request| {
        request.post(&directory).with_context(|| {
            format!(
                "asking for files to be read again, in {}",
                directory.display()
            )
        })
    };
    post(Request::Sync {
        paths: paths.iter().cloned().collect(),
    })?;
    if args.all {
        for path in &paths {
            post(Request::restate(path, std::slice::from_ref(&(0..u64::MAX))))?;
        }
    }
    if running(&config).is_none() {
        println!("no replicator runs: the next one reads them again first (`counterfoil run`)");
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let proof = prove(&config, &names, Some(&paths))
        .context("asking the replicator that runs to verify them")?;
    let mut is_proven = true;
    for path in &paths {
        let shown = path_text(path);
        if config.is_static(path) {
            println!(
                "{shown}: is being compared; `counterfoil verify {shown}` says what came of it"
            );
            continue;
        }
        for sink in &config.sinks {
            if !sink.treatment.takes(path, None) {
                continue;
            }
            match proof.of(&sink.name, path) {
                Some(tally) => println!(
                    "{shown} ({}): {} records, position {}: equal",
                    sink.name, tally.records, tally.position
                ),
                None => {
                    is_proven = false;
                    println!(
                        "{shown} ({}): not proven to be equal yet; `counterfoil verify {shown}` says what differs",
                        sink.name
                    );
                }
            }
        }
    }
    Ok(if is_proven {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
