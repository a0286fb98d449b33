//! `counterfoil schema`: what a copybook becomes.

use anyhow::{Context as _, Result, bail};
use counterfoil::config::{Config, copybook};
use counterfoil::typed::{TypedSchema, TypedSchemas};
use counterfoil_records::schema::Dialect;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What a copybook becomes
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    Proto(ProtoArgs),
}

/// Print the protobuf schema of a file's events
#[derive(clap::Args, Debug)]
struct ProtoArgs {
    /// A file of the configuration; may be left out where only one kind of record has a copybook
    file: Option<PathBuf>,
    /// A copybook, rather than a file of the configuration
    #[arg(long, value_name = "COPYBOOK", conflicts_with = "file")]
    copybook: Option<PathBuf>,
    /// The record, where the copybook has several
    #[arg(long, value_name = "NAME", requires = "copybook")]
    record: Option<String>,
    /// What to assume of the compiler: `gnucobol`, `ibm`, `mf`, with what differs behind it
    #[arg(long, value_name = "DIALECT", requires = "copybook")]
    dialect: Option<String>,
}

pub(crate) fn run(args: &Args, config: &Path) -> Result<ExitCode> {
    match &args.what {
        What::Proto(args) => {
            let schema = match &args.copybook {
                Some(path) => of_copybook(path, args)?,
                None => of_file(&super::load(config)?, args.file.as_deref())?,
            };
            std::io::stdout()
                .write_all(schema.proto().as_bytes())
                .context("printing")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_copybook(path: &Path, args: &ProtoArgs) -> Result<Arc<TypedSchema>> {
    let dialect = match &args.dialect {
        None => Dialect::default(),
        Some(dialect) => dialect.parse()?,
    };
    let schema = copybook::read(path, args.record.as_deref(), dialect, None)
        .map_err(|error| anyhow::anyhow!("the copybook {}: {error}", path.display()))?;
    Ok(Arc::new(TypedSchema::of(&Arc::new(schema), None)))
}

fn of_file(config: &Config, file: Option<&Path>) -> Result<Arc<TypedSchema>> {
    let known = TypedSchemas::default();
    let Some(file) = file else {
        let rules = config.groups.iter().flat_map(|group| &group.files);
        let mut schemas: Vec<Arc<TypedSchema>> =
            rules.filter_map(|rule| rule.typed(&known)).collect();
        schemas.dedup_by(|a, b| a.schema_id() == b.schema_id());
        return match schemas.len() {
            1 => Ok(schemas.remove(0)),
            0 => bail!(
                "no file of {} has a `copybook`, so there are no columns; proto/counterfoil/v1/event.proto is the schema of its events",
                config.path.display()
            ),
            _ => bail!("several kinds of records have a copybook; name one of the files"),
        };
    };
    let path = std::path::absolute(file).context("finding the file")?;
    let rule = config
        .rule(path.as_os_str().as_bytes())
        .with_context(|| format!("{} is no file of {}", path.display(), config.path.display()))?;
    rule.typed(&known).with_context(|| {
        format!(
            "{} has no `copybook` in {}, so its records have no columns",
            path.display(),
            config.path.display()
        )
    })
}
