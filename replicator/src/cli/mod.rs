//! The command line: a file per verb.

use clap::{Parser, Subcommand};
use counterfoil::config::{Config, SinkConfig};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod apply;
mod broken_pipe;
mod capture;
mod check;
mod decode;
mod demo;
mod encode;
mod errors;
#[cfg(feature = "kafka")]
mod events;
mod exec;
mod init;
mod loads;
mod preload;
mod records;
mod reload;
mod restore;
mod run;
mod schema;
mod status;
mod sync;
mod verify;

/// Mirrors the record files of unmodified programs into databases, and gives them back byte for byte.
#[derive(Parser, Debug)]
#[command(name = "counterfoil", version, propagate_version = true)]
pub(crate) struct Cli {
    /// The configuration
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        default_value = "counterfoil.toml",
        env = "COUNTERFOIL_CONFIG"
    )]
    config: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Init(init::Args),
    Check(check::Args),
    Exec(exec::Args),
    Preload(preload::Args),
    Run(run::Args),
    Capture(capture::Args),
    Apply(apply::Args),
    #[cfg(feature = "kafka")]
    Events(events::Args),
    Schema(schema::Args),
    Errors(errors::Args),
    Status(status::Args),
    Verify(verify::Args),
    Sync(sync::Args),
    Restore(restore::Args),
    Decode(decode::Args),
    Encode(encode::Args),
    Demo(demo::Args),
}

pub(crate) use loads::AboveBars;

impl Cli {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.config.as_path();
        match &self.verb {
            Verb::Exec(_) | Verb::Run(_) | Verb::Capture(_) | Verb::Apply(_) | Verb::Demo(_) => {}
            _ => broken_pipe::end_quietly(),
        }
        match &self.verb {
            Verb::Init(args) => init::run(args, config),
            Verb::Check(args) => check::run(args, config),
            Verb::Exec(args) => exec::run(args, config),
            Verb::Preload(args) => preload::run(args, config),
            Verb::Run(args) => run::run(args, config),
            Verb::Capture(args) => capture::run(args, config),
            Verb::Apply(args) => apply::run(args, config),
            #[cfg(feature = "kafka")]
            Verb::Events(args) => events::run(args, config),
            Verb::Schema(args) => schema::run(args, config),
            Verb::Errors(args) => errors::run(args, config),
            Verb::Status(args) => status::run(args, config),
            Verb::Verify(args) => verify::run(args, config),
            Verb::Sync(args) => sync::run(args, config),
            Verb::Restore(args) => restore::run(args, config),
            Verb::Decode(args) => decode::run(args, config),
            Verb::Encode(args) => encode::run(args, config),
            Verb::Demo(args) => demo::run(args),
        }
    }
}

/// Loads the configuration.
fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

/// The sink of this name, or all.
fn chosen_sinks<'c>(config: &'c Config, name: Option<&str>) -> anyhow::Result<Vec<&'c SinkConfig>> {
    let chosen: Vec<_> = config
        .sinks
        .iter()
        .filter(|sink| name.is_none_or(|name| sink.name == name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        anyhow::bail!(
            "there is no sink {:?}; there are: {}",
            name.unwrap_or_default(),
            names.join(", ")
        );
    }
    Ok(chosen)
}
