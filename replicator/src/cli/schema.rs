//! `counterfoil schema`: what copybooks and field lists make of a record, for people, for protobuf and for databases.

mod sql;

use comfy_table::{CellAlignment, Table, presets};
use counterfoil::config::{Config, FileRule};
use counterfoil::copybooks::{self, Directories};
use counterfoil::typed::{TypedSchema, TypedSchemas};
use counterfoil_records::copybook::Options;
use counterfoil_records::schema::{Content, Dialect, Item, RecordSchema};
use serde::Serialize;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Say what copybooks and field lists make of a record.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    Show(Show),
    Proto(Proto),
    Sql(sql::Args),
}

/// Print where each field of a record lies, its type and its column.
#[derive(clap::Args, Debug)]
struct Show {
    #[command(flatten)]
    source: Source,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print the protobuf schema of a file's events, with a message for its records.
#[derive(clap::Args, Debug)]
struct Proto {
    #[command(flatten)]
    source: Source,
}

/// Which record is meant.
#[derive(clap::Args, Debug)]
struct Source {
    /// A file that the configuration has a copybook or a field list for; without one, all of them
    #[arg(value_name = "FILE", conflicts_with_all = ["copybook", "dialect", "copy_path", "record"])]
    file: Option<PathBuf>,

    /// A copybook; the configuration isn't read then
    #[arg(long, value_name = "FILE")]
    copybook: Option<PathBuf>,

    /// The compiler: gnucobol, ibm or mf, and settings behind it (ibm,code-page=cp273)
    #[arg(long, requires = "copybook", default_value = "gnucobol")]
    dialect: Dialect,

    /// How the copybook lies in its lines: fixed, variable or free
    #[arg(long, requires = "copybook", value_name = "FORM")]
    format: Option<counterfoil_records::copybook::SourceFormat>,

    /// Directories with the texts of COPY
    #[arg(long, short = 'I', requires = "copybook", value_name = "DIR")]
    copy_path: Vec<PathBuf>,

    /// The record, if there are several in the copybook; several with commas between, or *: the file has all of these
    #[arg(long, requires = "copybook", value_name = "NAME")]
    record: Option<String>,
}

impl Source {
    /// The records that are meant; warnings go to standard error.
    fn schemas(&self, config: &Path) -> anyhow::Result<Vec<RecordSchema>> {
        if let Some(copybook) = &self.copybook {
            return self.of_copybook(copybook);
        }
        let schema = |rule: &FileRule| Some(RecordSchema::clone(&rule.schema.as_ref()?.0));
        self.of_rules(&super::load(config)?, schema)
    }

    /// The same as protobuf schemas; of files, as their records lie there.
    fn typed(&self, config: &Path) -> anyhow::Result<Vec<Arc<TypedSchema>>> {
        if let Some(copybook) = &self.copybook {
            let records = self.of_copybook(copybook)?.into_iter().map(Arc::new);
            return Ok(records
                .map(|record| Arc::new(TypedSchema::of(&record, None)))
                .collect());
        }
        let known = TypedSchemas::default();
        let mut schemas = self.of_rules(&super::load(config)?, |rule| rule.typed(&known))?;
        schemas.dedup_by(|a, b| a.schema_id() == b.schema_id());
        Ok(schemas)
    }

    fn of_copybook(&self, copybook: &Path) -> anyhow::Result<Vec<RecordSchema>> {
        let options = Options {
            dialect: self.dialect.clone(),
            format: self.format,
        };
        let directories = Directories(self.copy_path.clone());
        let copybook = copybooks::load(copybook, &options, &directories)?;
        for warning in &copybook.warnings {
            eprintln!("{warning}");
        }
        match &self.record {
            None => Ok(copybook.records),
            Some(name) => match copybook.records_named(Some(name)) {
                Ok(record) => Ok(vec![record]),
                Err(reason) => anyhow::bail!("{reason}"),
            },
        }
    }

    /// What a file's rule has, or all rules; at least one.
    fn of_rules<S>(
        &self,
        config: &Config,
        of: impl Fn(&FileRule) -> Option<S>,
    ) -> anyhow::Result<Vec<S>> {
        if let Some(file) = &self.file {
            let path = std::path::absolute(file)?;
            let Some(rule) = config.rule(path.as_os_str().as_bytes()) else {
                anyhow::bail!(
                    "no rule of {} is for {}",
                    config.path.display(),
                    path.display()
                );
            };
            let Some(schema) = of(rule) else {
                anyhow::bail!(
                    "the rule for {} ({}:{}) has neither a copybook nor fields: add `copybook = \"FILE\"` to it",
                    path.display(),
                    config.path.display(),
                    rule.line
                );
            };
            return Ok(vec![schema]);
        }
        let rules = config.groups.iter().flat_map(|group| &group.files);
        let schemas: Vec<S> = rules.filter_map(of).collect();
        anyhow::ensure!(
            !schemas.is_empty(),
            "no [[group.file]] of {} has a copybook or fields; `--copybook FILE` shows one that isn't in the \
             configuration",
            config.path.display()
        );
        Ok(schemas)
    }
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Proto(proto) => match proto.source.typed(config)?.as_slice() {
            [schema] => std::io::stdout().write_all(schema.proto().as_bytes())?,
            several => anyhow::bail!(
                "there are {} kinds of records, and each has a schema of its own: name a file of the configuration, or the copybook's --record",
                several.len()
            ),
        },
        Verb::Sql(args) => sql::run(args, config)?,
        Verb::Show(show) => {
            let schemas = show.source.schemas(config)?;
            if show.json {
                let shown: Vec<Shown<'_>> = schemas.iter().map(Shown::of).collect();
                println!("{}", serde_json::to_string_pretty(&shown)?);
            } else {
                for (at, schema) in schemas.iter().enumerate() {
                    if at > 0 {
                        println!();
                    }
                    print(schema);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A schema for programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    dialect: String,
    bytes_min: u32,
    bytes_max: u32,
    schema_id: &'a str,
    items: Vec<ShownItem<'a>>,
    tables: Vec<ShownTable<'a>>,
}

#[derive(Serialize)]
struct ShownItem<'a> {
    level: u8,
    name: Option<&'a str>,
    /// None behind a table of variable length.
    offset: Option<u32>,
    bytes: u32,
    occurs_min: u32,
    occurs_max: u32,
    depending_on: Option<&'a str>,
    redefines: Option<&'a str>,
    /// In which records it is there; all of these hold.
    when: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    file: &'a str,
    line: u32,
}

#[derive(Serialize)]
struct ShownTable<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    columns: Vec<ShownColumn<'a>>,
}

#[derive(Serialize)]
struct ShownColumn<'a> {
    name: &'a str,
    item: &'a str,
    offset: Option<u32>,
    bytes: u32,
    #[serde(rename = "type")]
    kind: String,
    nullable: bool,
}

impl<'a> Shown<'a> {
    fn of(schema: &'a RecordSchema) -> Shown<'a> {
        let mut items = Vec::new();
        schema.root().visit(&mut |item| {
            let occurs = item.occurs.as_ref();
            items.push(ShownItem {
                level: item.level,
                name: item.name.as_deref(),
                offset: item.offset,
                bytes: item.len,
                occurs_min: occurs.map_or(1, |occurs| occurs.min),
                occurs_max: occurs.map_or(1, |occurs| occurs.max),
                depending_on: occurs
                    .and_then(|occurs| occurs.depending_on.as_ref())
                    .map(|counter| counter.name.as_str()),
                redefines: item.redefines.as_ref().map(|target| target.name.as_str()),
                when: item
                    .when
                    .iter()
                    .map(|choice| format!("{} {}", choice.field.name, choice.test.words()))
                    .collect(),
                kind: item.field_type().map(ToString::to_string),
                file: &item.place.file,
                line: item.place.line,
            });
        });
        let tables = schema.tables();
        Shown {
            name: schema.name(),
            dialect: schema.dialect().to_string(),
            bytes_min: schema.len_min(),
            bytes_max: schema.len_max(),
            schema_id: schema.schema_id(),
            items,
            tables: tables
                .iter()
                .map(|table| ShownTable {
                    name: &table.name,
                    parent: table.parent.map(|parent| tables[parent].name.as_str()),
                    columns: table
                        .columns
                        .iter()
                        .map(|column| ShownColumn {
                            name: &column.name,
                            item: &column.cobol_name,
                            offset: column.offset,
                            bytes: column.len,
                            kind: column.field.to_string(),
                            nullable: column.nullable,
                        })
                        .collect(),
                })
                .collect(),
        }
    }
}

fn print(schema: &RecordSchema) {
    let bytes = match (schema.len_min(), schema.len_max()) {
        (min, max) if min == max => format!("{max} bytes"),
        (min, max) => format!("{min} to {max} bytes"),
    };
    println!("{}: {bytes}, {}", schema.name(), schema.dialect());
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["OFFSET", "BYTES", "ITEM", "TYPE", "COLUMN"]);
    for column in [0, 1] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    add(&mut table, schema, schema.root(), 0);
    println!("{table}");
    if schema.tables().len() > 1 {
        println!("Each occurrence of a table is a row of its own.");
    }
    let mut slides = false;
    schema
        .root()
        .visit(&mut |item| slides |= item.offset.is_none());
    if slides {
        println!("+: where it begins when the tables before it are longest; it slides.");
    }
}

fn add(table: &mut Table, schema: &RecordSchema, item: &Item, depth: usize) {
    let offset = match item.offset {
        Some(offset) => offset.to_string(),
        None => format!("{}+", item.offset_max),
    };
    let mut shown = format!(
        "{:indent$}{:02} {}",
        "",
        item.level,
        item.name_or_filler(),
        indent = 2 * depth
    );
    if let Some(occurs) = &item.occurs {
        match &occurs.depending_on {
            Some(counter) => shown.push_str(&format!(
                " [{} to {} by {}]",
                occurs.min, occurs.max, counter.name
            )),
            None => shown.push_str(&format!(" [{}]", occurs.max)),
        }
    }
    if let Some(target) = &item.redefines {
        shown.push_str(&format!(" = {}", target.name));
    }
    let mut kind = item
        .field_type()
        .map_or_else(String::new, ToString::to_string);
    if !item.absent.is_default() {
        kind.push_str(&format!(",{}", item.absent));
    }
    for choice in &item.when {
        let comma = if kind.is_empty() { "" } else { ", " };
        kind.push_str(&format!(
            "{comma}when {} {}",
            choice.field.name,
            choice.test.words()
        ));
    }
    table.add_row([
        offset,
        item.len.to_string(),
        shown,
        kind,
        columns(schema, item),
    ]);
    if let Content::Group(items) = &item.content {
        for child in items {
            add(table, schema, child, depth + 1);
        }
    }
}

/// The columns that a field is, or the table that an item is.
fn columns(schema: &RecordSchema, item: &Item) -> String {
    if let Some(table) = schema.tables()[1..].iter().find(|it| it.item == item.id) {
        let field = table.columns.iter().find(|column| column.item == item.id);
        return match field {
            Some(column) => format!("table {}: {}", table.name, column.name),
            None => format!("table {}", table.name),
        };
    }
    let names: Vec<&str> = schema
        .tables()
        .iter()
        .flat_map(|table| &table.columns)
        .filter(|column| column.item == item.id)
        .map(|column| column.name.as_str())
        .collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [first, .., last] => format!("{first} ... {last}"),
    }
}
