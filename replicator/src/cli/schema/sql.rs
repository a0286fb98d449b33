//! `counterfoil schema sql`: the tables that sinks make, as statements.

use anyhow::Context as _;
use counterfoil::config::{Config, SinkConfig};
use counterfoil::replicator::schema_sql;
use counterfoil_proto::path_text;
use counterfoil_sinks::plan::rows::Described;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Print the SQL with which sinks would make their tables in an empty database.
///
/// A DBA can run it and set `ddl = "check"`. Files that match a pattern are those that are there now.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Files; without any, all that the configuration names or finds
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The sink; needed when there are several
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
}

pub(super) fn run(args: &Args, config: &Path) -> anyhow::Result<()> {
    let config = crate::cli::load(config)?;
    let sinks = crate::cli::chosen_sinks(&config, args.sink.as_deref())?;
    let [sink] = sinks.as_slice() else {
        let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        anyhow::bail!(
            "there are several sinks ({}): say which one with --sink NAME",
            names.join(", ")
        );
    };
    let paths = if args.files.is_empty() {
        config.known_paths()?
    } else {
        let given = args.files.iter().map(std::path::absolute);
        given.collect::<Result<BTreeSet<PathBuf>, _>>()?
    };
    let mut files = Vec::new();
    for path in &paths {
        let described = describe(&config, sink, path)?;
        if described.is_none() && !args.files.is_empty() {
            anyhow::bail!("sink {} doesn't have {}", sink.name, path.display());
        }
        files.extend(described.iter().flat_map(Described::all));
    }
    let statements = schema_sql(sink, &files)
        .with_context(|| format!("working out the tables of sink {}", sink.name))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "-- What sink {} needs for:", sink.name)?;
    for file in &files {
        // A path may have an end of line in it, and a comment ends there.
        writeln!(out, "--   {:?}", path_text(&file.path))?;
    }
    for statement in statements {
        writeln!(out, "{};", statement.trim_end().trim_end_matches(';'))?;
    }
    Ok(())
}

/// The file as the sink is to have it, and the tables in its records; `None`: it isn't to.
fn describe(config: &Config, sink: &SinkConfig, path: &Path) -> anyhow::Result<Option<Described>> {
    let bytes = path.as_os_str().as_bytes();
    let Some((_, file)) = config.describe(bytes) else {
        anyhow::bail!(
            "no rule of {} is for {}",
            config.path.display(),
            path.display()
        );
    };
    if !sink.treatment.takes(bytes, file.tree.as_deref()) {
        return Ok(None);
    }
    let described = sink.treatment.describe(&config.site.name, &file, None);
    described.map(Some).map_err(|problems| {
        anyhow::anyhow!(
            "what sink {} says of {} doesn't go with it: {}",
            sink.name,
            path.display(),
            problems.join("; ")
        )
    })
}
