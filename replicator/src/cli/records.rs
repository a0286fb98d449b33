//! What `decode` and `encode` share: which records a file has, and what is in them.

use super::init::beside;
use anyhow::{Context as _, Result, bail};
use counterfoil::config::{Config, FileRule};
use counterfoil::copybooks::{self, Directories};
use counterfoil_records::copybook::{Options, SourceFormat};
use counterfoil_records::schema::{
    CodePage, Dialect, Family, FieldType, ItemSpec, OccursWord, RecordSchema, Values, WhenSpec,
    Zones,
};
use counterfoil_records::value::{Unset, code_page};
use counterfoil_records::{
    Layout, LayoutWords, Organization, RecordDecoder, RecordFormat, VarseqFormat,
};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) mod csv;
pub(super) mod filter;
pub(super) mod json;
pub(super) mod kept;
pub(super) mod table;

/// What the bytes of a file are.
#[derive(clap::Args, Debug)]
pub(super) struct Form {
    /// The copybook that describes a record [default: what the configuration has for the file; otherwise one of the file's name
    /// beside it, or in a directory copy, cpy or copybooks there]
    #[arg(long, short = 'b', value_name = "FILE")]
    copybook: Option<PathBuf>,
    /// Which record of the copybook, by its level 01 name; needed if it has several. Several names with commas between, or *
    /// for all: the file has all of these, and --when says which are which
    #[arg(long, value_name = "NAME")]
    record_name: Option<String>,
    /// Where COPY looks for texts, beside the copybook's own directory; may be given several times
    #[arg(long, short = 'I', value_name = "DIR")]
    copy_path: Vec<PathBuf>,
    /// How the copybook lies in its lines: fixed, variable or free [default: it is seen]
    #[arg(long, value_name = "FORMAT")]
    source_format: Option<SourceFormat>,
    /// The compiler of the program, with exceptions: gnucobol, ibm, mf; `ibm,trunc=off`
    /// [default: gnucobol; ibm with an EBCDIC code page]
    #[arg(long, short, value_name = "DIALECT")]
    dialect: Option<String>,
    /// A field that is a date or time, and its form: open-date=YYYY-MM-DD (of YYYY, YY, MM, DD, DDD, HH, MI, SS, F and what is
    /// between; "YYMMDD from 1940" says which hundred years YY is of); may be given several times
    #[arg(long, value_name = "FIELD=FORM", value_parser = parse_date)]
    date: Vec<ItemSpec>,
    /// In which records a REDEFINES (or what it redefines) is what the bytes hold: CARD-PART:RECORD-TYPE=C,D (or !=, or
    /// =100..199, or a condition name of level 88: CARD-PART:IS-CARD); may be given several times
    #[arg(long, value_name = "ITEM:FIELD=VALUES", value_parser = parse_when)]
    when: Vec<ItemSpec>,
    /// Values of a field that stand for none: close-date=0,99991231; may be given several times
    #[arg(long, value_name = "FIELD=VALUES", value_parser = parse_null_if)]
    null_if: Vec<ItemSpec>,
    /// A table of variable length whose occurrences shall be columns, rather than rows of their own; may be given several times
    #[arg(long, value_name = "TABLE", value_parser = parse_as_columns)]
    as_columns: Vec<ItemSpec>,
    /// What number fields and dates without a value (spaces, LOW-VALUES; dates of zeros or nines) are: null, or error
    #[arg(long, value_name = "WORD", default_value = "null", value_parser = parse_blank)]
    blank: Unset,
    /// How text is written: ascii, utf-8, latin-1, 037, 273, 500, 1047, 1140 [default: the dialect's]
    #[arg(long, short = 'p', value_name = "PAGE")]
    code_page: Option<CodePage>,
    /// How records lie in the file: plain, gnucobol, line-sequential, newline, csv, ibm-vb and others, with settings as in
    /// `plain,header=128` (docs/record-layouts.md) [default: the configuration's, if the file is in it; otherwise what fits]
    #[arg(long, short, value_name = "LAYOUT")]
    layout: Option<LayoutWords>,
    /// fixed, relative, sequential or stream [default: the usual one of the layout]
    #[arg(long, short, value_name = "ORGANIZATION")]
    organization: Option<Organization>,
    /// Length of a record, or of the longest, in bytes [default: the copybook's]
    #[arg(long, short = 's', value_name = "BYTES")]
    record_size: Option<u64>,
    /// COB_VARSEQ_FORMAT of the program: 0, 1, 2 or 3
    #[arg(long, value_name = "N")]
    varseq_format: Option<u8>,
}

/// A file's records: where they are, and what is in them.
pub(super) struct Records {
    pub(super) format: RecordFormat,
    pub(super) decoder: RecordDecoder,
    /// Where the format is from, if nobody said it.
    pub(super) assumed: Option<String>,
}

fn parse_date(text: &str) -> Result<ItemSpec, String> {
    match text.split_once('=') {
        Some((name, form)) if !name.is_empty() => Ok(ItemSpec {
            name: name.trim().to_owned(),
            date: Some(form.trim().to_owned()),
            ..ItemSpec::default()
        }),
        _ => Err(format!("{text:?} isn't of the form FIELD=FORM")),
    }
}

fn parse_when(text: &str) -> Result<ItemSpec, String> {
    let parsed = text.split_once(':').and_then(|(item, rest)| {
        let mut when = WhenSpec::default();
        match rest.split_once('=') {
            None => when.condition = Some(rest.trim().to_owned()),
            Some((field, values)) => {
                let (field, negated) = match field.strip_suffix('!') {
                    Some(field) => (field, true),
                    None => (field, false),
                };
                when.field = Some(field.trim().to_owned());
                match (values.split_once(".."), negated) {
                    (_, true) => when.is_not = Some(listed(values)),
                    (Some((low, high)), false) => {
                        let ends = [low, high].map(|it| it.trim().to_owned());
                        when.between = Some(Values(ends.to_vec()));
                    }
                    (None, false) => when.is = Some(listed(values)),
                }
            }
        }
        (!item.trim().is_empty() && !rest.trim().is_empty()).then(|| ItemSpec {
            name: item.trim().to_owned(),
            when: Some(when.into()),
            ..ItemSpec::default()
        })
    });
    parsed.ok_or_else(|| {
        format!(
            "{text:?} isn't of the form ITEM:FIELD=VALUE,VALUE or ITEM:FIELD!=VALUE or ITEM:FIELD=LOW..HIGH or ITEM:CONDITION"
        )
    })
}

fn listed(values: &str) -> Values {
    Values(values.split(',').map(|it| it.trim().to_owned()).collect())
}

fn parse_null_if(text: &str) -> Result<ItemSpec, String> {
    match text.split_once('=') {
        Some((name, values)) if !name.trim().is_empty() => Ok(ItemSpec {
            name: name.trim().to_owned(),
            null_if: Some(listed(values)),
            ..ItemSpec::default()
        }),
        _ => Err(format!("{text:?} isn't of the form FIELD=VALUE,VALUE")),
    }
}

fn parse_as_columns(text: &str) -> Result<ItemSpec, String> {
    Ok(ItemSpec {
        name: text.trim().to_owned(),
        occurs: Some(OccursWord::Columns),
        ..ItemSpec::default()
    })
}

fn parse_blank(text: &str) -> Result<Unset, String> {
    match text {
        "null" => Ok(Unset::Null),
        "error" => Ok(Unset::Error),
        _ => Err("it is either null or error".to_owned()),
    }
}

impl Form {
    /// The dialect that the arguments say.
    fn dialect(&self) -> Result<Dialect> {
        let mut dialect = match (&self.dialect, self.code_page) {
            (Some(dialect), _) => dialect.parse().context("--dialect")?,
            (None, Some(page)) if page.is_ebcdic() => Dialect::of(Family::Ibm),
            (None, _) => Dialect::default(),
        };
        if let Some(page) = self.code_page {
            dialect.code_page = page;
            // Digits are of the code page too; a sign over a digit becomes a letter when EBCDIC is converted.
            let says_sign = self
                .dialect
                .as_ref()
                .is_some_and(|dialect| dialect.contains("sign="));
            dialect.zones = match (says_sign, page.is_ebcdic(), dialect.zones) {
                (false, true, _) => Zones::Ebcdic,
                (false, false, Zones::Ebcdic) => Zones::Overpunch,
                (_, _, zones) => zones,
            };
        }
        Ok(dialect)
    }

    /// What is in a record of a file; `configured` is what the configuration says of it.
    fn schema(
        &self,
        file: Option<&Path>,
        configured: Option<&RecordSchema>,
    ) -> Result<Arc<RecordSchema>> {
        let beside = match (&self.copybook, configured, file) {
            (None, None, Some(file)) => beside::find(file),
            _ => None,
        };
        if let Some(copybook) = &beside {
            eprintln!("read by {}, which lies beside it", copybook.display());
        }
        let mut schema = match (self.copybook.as_ref().or(beside.as_ref()), configured) {
            (Some(copybook), _) => self.of_copybook(copybook)?,
            (None, Some(schema)) => schema.clone(),
            (None, None) => bail!(
                "what is in a record isn't known: name its copybook with --copybook, or add `copybook` or fields to the file in the \
                 configuration (--config)"
            ),
        };
        for (option, specs) in [
            ("--date", &self.date),
            ("--when", &self.when),
            ("--null-if", &self.null_if),
            ("--as-columns", &self.as_columns),
        ] {
            for spec in specs {
                schema = schema
                    .with_item(spec)
                    .map_err(|error| anyhow::anyhow!("{option} {}: {error}", spec.name))?;
            }
        }
        if self.blank == Unset::Error {
            schema = schema.with_blank(self.blank).map_err(anyhow::Error::msg)?;
        }
        Ok(Arc::new(schema))
    }

    fn of_copybook(&self, path: &Path) -> Result<RecordSchema> {
        let options = Options {
            dialect: self.dialect()?,
            format: self.source_format,
        };
        let directories = Directories(self.copy_path.clone());
        let copybook = copybooks::load(path, &options, &directories)?;
        for warning in &copybook.warnings {
            eprintln!("{warning}");
        }
        let record = copybook.records_named(self.record_name.as_deref());
        record.map_err(|error| anyhow::anyhow!("{}: {error} (--record-name)", path.display()))
    }

    /// What the arguments say of a file, or else the configuration, or else what its size and first bytes fit.
    pub(super) fn records(&self, file: Option<&Path>, config: &Path) -> Result<Records> {
        let rule = match file {
            Some(file) => configured(file, config)?,
            None => None,
        };
        let schema = rule.as_ref().and_then(|rule| rule.schema.as_ref());
        let schema = self.schema(file, schema.map(|schema| &*schema.0))?;
        let size = self.record_size.unwrap_or_else(|| schema.len_max().into());
        let configured = rule
            .filter(|_| self.layout.is_none())
            .map(|rule| rule.format);
        let (mut format, assumed) = match (&self.layout, configured, file) {
            (Some(layout), _, _) => (self.said(layout), None),
            (None, Some(format), _) => {
                let assumed = format!("{format} (as configured in {})", config.display());
                (format, Some(assumed))
            }
            (None, None, Some(file)) => seen(file, size, &schema)?,
            (None, None, None) => bail!(
                "how records lie in what comes from a pipe can't be seen: write --layout plain (records of one length, back to \
                 back), line-sequential (text lines) or gnucobol"
            ),
        };
        if let Some(organization) = self.organization {
            format.organization = organization;
        }
        if self.record_size.is_some() || format.record_size.is_none() && is_sized(&format) {
            format.record_size = Some(size);
        }
        if let Some(number) = self.varseq_format {
            format.varseq_format = Some(VarseqFormat::try_from(number)?);
        }
        format.codec()?;
        let space = code_page::space(schema.dialect().code_page);
        let padding = is_text(&format).then_some(space);
        let decoder = RecordDecoder::new(schema).with_padding(padding);
        Ok(Records {
            format,
            decoder,
            assumed,
        })
    }

    /// The same for a file that is to be written, so that nothing can be seen of it.
    pub(super) fn records_of(&self, output: Option<&Path>, config: &Path) -> Result<Records> {
        match output {
            Some(output) if self.layout.is_none() && configured(output, config)?.is_some() => {
                self.records(Some(output), config)
            }
            _ if self.layout.is_none() => bail!(
                "say how records shall lie in the file: --layout plain (records of one length, back to back), line-sequential \
                 (text lines) or gnucobol"
            ),
            _ => self.records(None, config),
        }
    }

    fn said(&self, words: &LayoutWords) -> RecordFormat {
        let organization = words.layout.usual_organization();
        RecordFormat::new(self.organization.unwrap_or(organization), words.layout)
            .with_settings(words.settings.clone())
    }
}

/// Whether records are text lines, so that spaces at their end may be missing.
fn is_text(format: &RecordFormat) -> bool {
    matches!(format.layout, Layout::LineSequential | Layout::Newline)
}

/// Whether the layout has a `record_size` that is the copybook's. Others have a longest record, which is better left out than
/// too small; a Micro Focus file's is that of its header.
fn is_sized(format: &RecordFormat) -> bool {
    match format.organization {
        Organization::Fixed | Organization::Relative => true,
        Organization::Sequential => {
            matches!(format.layout, Layout::Plain | Layout::MicroFocusVariable)
        }
        Organization::Stream => format.layout == Layout::Blocks,
        Organization::Static => false,
    }
}

/// The rule that the configuration has for a file, if there is a configuration and it has.
fn configured(file: &Path, config: &Path) -> Result<Option<FileRule>> {
    if !config.exists() {
        return Ok(None);
    }
    let Ok(path) = file.canonicalize() else {
        return Ok(None);
    };
    let config = Config::load(config)?;
    let rule = config.rule(path.as_os_str().as_bytes());
    Ok(rule.filter(|rule| rule.tree.is_none()).cloned())
}

/// Whether all fields are written in characters.
fn is_characters(schema: &RecordSchema) -> bool {
    let columns = schema.tables().iter().flat_map(|table| &table.columns);
    columns.into_iter().all(|column| {
        matches!(
            column.field,
            FieldType::Text { .. } | FieldType::Edited { .. } | FieldType::Zoned { .. }
        )
    })
}

/// What a file's size and first bytes fit.
fn seen(file: &Path, size: u64, schema: &RecordSchema) -> Result<(RecordFormat, Option<String>)> {
    use std::io::Read as _;
    let looking = || format!("looking at {}", file.display());
    let opened = std::fs::File::open(file).with_context(looking)?;
    let len = opened.metadata().with_context(looking)?.len();
    let mut begin = Vec::new();
    let room = size.saturating_add(2);
    opened
        .take(room)
        .read_to_end(&mut begin)
        .with_context(looking)?;
    let line_len = begin.iter().position(|&byte| byte == b'\n');
    let is_one_length = schema.len_min() == schema.len_max();
    let lines = || {
        let format = RecordFormat::new(Organization::Sequential, Layout::LineSequential);
        (format, Some("text lines".to_owned()))
    };
    let plain = || {
        let format = RecordFormat::new(Organization::Fixed, Layout::Plain).with_record_size(size);
        (
            format,
            Some(format!("records of {size} bytes, back to back")),
        )
    };
    let is_ebcdic = schema.dialect().code_page.is_ebcdic();
    let fits_lines = line_len.is_some() && !is_ebcdic;
    // A line of exactly the record's length is one, whatever else the size may fit; and so is any line where fields are all
    // characters, which a newline isn't.
    if fits_lines && (line_len.is_some_and(|len| len as u64 == size) || is_characters(schema)) {
        return Ok(lines());
    }
    if is_one_length && size > 0 && len.is_multiple_of(size) {
        return Ok(plain());
    }
    if fits_lines {
        return Ok(lines());
    }
    if line_len.is_some_and(|len| len as u64 == size) {
        bail!(
            "{} has text lines of {size} characters, as the copybook says, and text lines aren't in EBCDIC: leave out --code-page \
             (and --dialect ibm), or write --layout if it is EBCDIC all the same",
            file.display()
        );
    }
    bail!(
        "how records lie in {} can't be seen: it has {len} bytes, which isn't a multiple of the copybook's {size}{}, and no text \
         lines. If the copybook is the right one, write --layout gnucobol (and --organization relative for slots), or \
         --layout plain with --record-size; `counterfoil init` on its directory says what it looks like",
        file.display(),
        match len / size.max(1) {
            0 => String::new(),
            records => format!(
                " (--layout plain reads its {records} whole records, and leaves {} bytes)",
                len % size.max(1)
            ),
        }
    )
}
