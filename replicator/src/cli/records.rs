//! What `decode` and `encode` share: which records a file has, and what is in them.

use anyhow::{Context as _, Result, bail};
use counterfoil::config::Config;
use counterfoil_records::copybook::{Copybook, Library, Options, SourceFormat, Text};
use counterfoil_records::schema::{
    CodePage, Dialect, Family, FieldType, ItemSpec, RecordSchema, WhenSpec, Zones,
};
use counterfoil_records::value::code_page;
use counterfoil_records::{Layout, Organization, RecordDecoder, RecordFormat, VarseqFormat};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) mod csv;
pub(super) mod filter;
pub(super) mod json;
pub(super) mod kept;
pub(super) mod table;

/// Longest copybook that is read, in bytes.
const COPYBOOK_BYTES_MAX: u64 = 16 << 20;

/// Endings of names that a COPY leaves out.
const COPY_ENDINGS: [&str; 7] = ["", ".cpy", ".CPY", ".cbl", ".CBL", ".cob", ".COB"];

/// What the bytes of a file are.
#[derive(clap::Args, Debug)]
pub(super) struct Form {
    /// The copybook that describes a record
    #[arg(long, short = 'b', value_name = "FILE")]
    copybook: PathBuf,
    /// Which record of the copybook, by its level 01 name; needed if it has several
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
    /// between); may be given several times
    #[arg(long, value_name = "FIELD=FORM", value_parser = parse_date)]
    date: Vec<ItemSpec>,
    /// In which records a REDEFINES (or what it redefines) is what the bytes hold: CARD-PART:RECORD-TYPE=C,D; may be given
    /// several times
    #[arg(long, value_name = "ITEM:FIELD=VALUES", value_parser = parse_when)]
    when: Vec<ItemSpec>,
    /// How text is written: ascii, utf-8, latin-1, 037, 273, 500, 1047, 1140 [default: the dialect's]
    #[arg(long, short = 'p', value_name = "PAGE")]
    code_page: Option<CodePage>,
    /// How records lie in the file: plain, gnucobol, line-sequential, newline [default: the configuration's, if the file is in
    /// it; otherwise what fits]
    #[arg(long, short, value_name = "LAYOUT")]
    layout: Option<Layout>,
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

/// Texts in directories.
struct Directories<'a> {
    paths: &'a [PathBuf],
}

impl Library for Directories<'_> {
    fn find(&self, name: &str, library: Option<&str>, from: &str) -> Result<Text, String> {
        let own = Path::new(from).parent().map(Path::to_path_buf);
        let mut looked = Vec::new();
        for dir in own.iter().chain(self.paths) {
            let dir = library.map_or_else(|| dir.clone(), |library| dir.join(library));
            for stem in [
                name.to_owned(),
                name.to_ascii_lowercase(),
                name.to_ascii_uppercase(),
            ] {
                for ending in COPY_ENDINGS {
                    let path = dir.join(format!("{stem}{ending}"));
                    if path.is_file() {
                        return text(&path).map_err(|error| format!("{error:#}"));
                    }
                }
            }
            looked.push(if dir.as_os_str().is_empty() {
                ".".to_owned()
            } else {
                dir.display().to_string()
            });
        }
        Err(format!(
            "there is no such text in {}; name more directories with --copy-path",
            looked.join(", ")
        ))
    }
}

fn text(path: &Path) -> Result<Text> {
    let reading = || format!("reading the copybook {}", path.display());
    let size = std::fs::metadata(path).with_context(reading)?.len();
    if size > COPYBOOK_BYTES_MAX {
        bail!("{}: it has {size} bytes; that is no copybook", reading());
    }
    let bytes = std::fs::read(path).with_context(reading)?;
    // Comments may be in any code page.
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => error.into_bytes().iter().copied().map(char::from).collect(),
    };
    Ok(Text {
        name: path.display().to_string(),
        text,
    })
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
        let (field, values) = rest.split_once('=')?;
        Some(ItemSpec {
            name: item.trim().to_owned(),
            when: Some(WhenSpec {
                field: field.trim().to_owned(),
                is: values.split(',').map(|it| it.trim().to_owned()).collect(),
            }),
            ..ItemSpec::default()
        })
    });
    parsed.ok_or_else(|| format!("{text:?} isn't of the form ITEM:FIELD=VALUE,VALUE"))
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

    fn schema(&self) -> Result<Arc<RecordSchema>> {
        let options = Options {
            dialect: self.dialect()?,
            format: self.source_format,
        };
        let library = Directories {
            paths: &self.copy_path,
        };
        let copybook = Copybook::parse(&text(&self.copybook)?, &options, &library)?;
        for warning in &copybook.warnings {
            eprintln!("{warning}");
        }
        let record = copybook.record(self.record_name.as_deref());
        let record = record.map_err(|error| {
            anyhow::anyhow!("{}: {error} (--record-name)", self.copybook.display())
        })?;
        let mut schema = record.clone();
        for (option, specs) in [("--date", &self.date), ("--when", &self.when)] {
            for spec in specs {
                schema = schema
                    .with_item(spec)
                    .map_err(|error| anyhow::anyhow!("{option} {}: {error}", spec.name))?;
            }
        }
        Ok(Arc::new(schema))
    }

    /// What the arguments say of a file, or else the configuration, or else what its size and first bytes fit.
    pub(super) fn records(&self, file: Option<&Path>, config: &Path) -> Result<Records> {
        let schema = self.schema()?;
        let size = self.record_size.unwrap_or_else(|| schema.len_max().into());
        let configured = match file {
            Some(file) if self.layout.is_none() => configured(file, config)?,
            _ => None,
        };
        let (mut format, assumed) = match (self.layout, configured, file) {
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
        let mut decoder = RecordDecoder::new(schema);
        if is_text(&format) {
            decoder = decoder.with_padding(space);
        }
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

    fn said(&self, layout: Layout) -> RecordFormat {
        let organization = match layout {
            Layout::Plain => Organization::Fixed,
            Layout::Gnucobol | Layout::LineSequential => Organization::Sequential,
            Layout::Newline | Layout::Blocks => Organization::Stream,
        };
        RecordFormat::new(self.organization.unwrap_or(organization), layout)
    }
}

/// Whether records are text lines, so that spaces at their end may be missing.
fn is_text(format: &RecordFormat) -> bool {
    matches!(format.layout, Layout::LineSequential | Layout::Newline)
}

fn is_sized(format: &RecordFormat) -> bool {
    !is_text(format)
        && (format.organization, format.layout) != (Organization::Sequential, Layout::Gnucobol)
}

/// The format that the configuration has for a file, if there is a configuration and it has.
fn configured(file: &Path, config: &Path) -> Result<Option<RecordFormat>> {
    if !config.exists() {
        return Ok(None);
    }
    let Ok(path) = file.canonicalize() else {
        return Ok(None);
    };
    let config = Config::load(config)?;
    let rule = config.rule(path.as_os_str().as_bytes());
    Ok(rule
        .filter(|rule| rule.tree.is_none())
        .map(|rule| rule.format.clone()))
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
    bail!(
        "how records lie in {} can't be seen: it has {len} bytes, which isn't a multiple of the copybook's {size}, and no text \
         lines. If the copybook is the right one, write --layout gnucobol (and --organization relative for slots), or \
         --layout plain with --record-size; `counterfoil init` on its directory says what it looks like",
        file.display()
    )
}
