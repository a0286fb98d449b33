//! `counterfoil restore`: files back from a database, byte for byte.

use counterfoil::replicator::open_sink_read_only;
use counterfoil::restore::restore;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Give files back from a sink, byte for byte.
///
/// Each file is put below the directory under its absolute path, as of one moment between two units of work.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The sink to take them from; needed when there are several
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Replace files that exist, and give back what there is of files that are not completely loaded
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    let sinks = super::chosen_sinks(&config, args.sink.as_deref())?;
    let [sink] = sinks.as_slice() else {
        let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        anyhow::bail!(
            "there are several sinks ({}): say which one with --sink NAME",
            names.join(", ")
        );
    };
    let mut opened = open_sink_read_only(sink)?;
    let streams: Vec<String> = (0..config.groups.len())
        .map(|group| config.stream(group))
        .collect();
    let restored = restore(
        opened.as_mut(),
        &streams,
        &args.to,
        args.force,
        &mut |file| {
            // Of trees there is a line each, in the end.
            if file.tree.is_none() {
                println!(
                    "{}: {} records, {} bytes",
                    file.path.display(),
                    file.records,
                    file.size
                );
            }
        },
    )?;
    opened.close()?;
    let mut trees: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for file in &restored {
        if let Some(tree) = &file.tree {
            let (count, size) = trees.entry(tree).or_default();
            *count += 1;
            *size += file.size;
        }
    }
    for (tree, (count, size)) in trees {
        println!("{tree}/: {count} files, directories and links, {size} bytes");
    }
    let owners_lost = restored.iter().filter(|file| file.is_owner_lost).count();
    if owners_lost > 0 {
        println!(
            "{owners_lost} of them belonged to other users: restore as root to give them back to these"
        );
    }
    if restored.is_empty() {
        println!("the sink {} has no file of this configuration", sink.name);
    }
    println!("{} files restored to {}", restored.len(), args.to.display());
    Ok(ExitCode::SUCCESS)
}
