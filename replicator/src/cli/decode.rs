//! `counterfoil decode`: the records of a file, field by field, by a copybook.
//!
//! Reads a file (or a pipe) once from front to back, with the same memory however long it is.

use super::records::filter::{Condition, Filter, Range};
use super::records::json::Object;
use super::records::kept::{Kept, columns_called};
use super::records::table::{Column, Table, printable, terminal_width};
use super::records::{Form, Records, csv};
use anyhow::{Context as _, Result, bail};
use counterfoil_records::schema::RecordSchema;
use counterfoil_records::value::{Hex, Reason, Value};
use counterfoil_records::{Boundaries, Codec, Piece, PieceKind, RecordEncoder, Within};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How much of a file is read at once, at least.
const CHUNK_BYTES: usize = 1 << 20;

/// Fields that are explained one by one unless all are asked for.
const EXPLAINED_MAX: u64 = 20;

/// Bytes of a field or of residue that are shown in hexadecimal.
const SHOWN_BYTES: usize = 32;

const EXAMPLES: &str = "\
Examples:
  counterfoil decode cards.dat                # cards.cpy lies beside it
  counterfoil decode -b cards.cpy cards.dat
  counterfoil decode -b cards.cpy -p 037 cards.dat --where 'balance<0' --fields id,balance
  counterfoil decode -b cards.cpy -l gnucobol -o relative cards.dat --all
  counterfoil decode -b cards.cpy cards.dat --json | jq 'select(.active == \"Y\")'
  counterfoil decode -b cards.cpy cards.dat --json --all | counterfoil encode -b cards.cpy -l plain > same.dat
  gzip -dc cards.dat.gz | counterfoil decode -b cards.cpy -l plain --csv > cards.csv

A field that can't be decoded is shown as ? (null in JSON, nothing in CSV), and explained on standard error. Exit code 0: done;
1: with --strict, some field couldn't be decoded; 2: it didn't work.";

/// Print the records of a file, field by field, by a copybook
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file; none or `-`: standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    /// Print JSON, a record a line; `counterfoil encode` reads it
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV with a header
    #[arg(long)]
    csv: bool,
    /// Print one field a line, or always a table [default: a table unless the terminal is too narrow]
    #[arg(long, short = 'x', value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    expanded: Option<bool>,
    /// Only records with these numbers (or slots, or addresses): 7, 100-200, 100-; may be given several times
    #[arg(long, short = 'r', value_name = "N")]
    record: Vec<Range>,
    /// Only records whose field is so: FIELD=VALUE, or !=, <, <=, >, >=, ~ (contains); may be given several times, all must hold
    #[arg(long, short, value_name = "CONDITION")]
    r#where: Vec<Condition>,
    /// Only these fields, in this order
    #[arg(long, short, value_name = "FIELD", value_delimiter = ',')]
    fields: Vec<String>,
    /// The rows of this table within the records (an OCCURS DEPENDING ON), rather than the records
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// At most so many records
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
    /// Show deleted and empty slots and all else that is no record, too
    #[arg(long, short)]
    all: bool,
    /// Explain every field that can't be decoded, not only the first ones
    #[arg(long)]
    errors: bool,
    /// Exit with 1 if a field can't be decoded
    #[arg(long)]
    strict: bool,
}

/// What is printed, and how.
struct Printing<'a> {
    args: &'a Args,
    schema: &'a RecordSchema,
    encoder: RecordEncoder,
    /// The table whose rows are printed, and the columns of it.
    table: usize,
    columns: Vec<usize>,
    filter: Filter,
    identity: &'static str,
    kept: Kept,
    form: Shape,
    line: Vec<u8>,
    shown: u64,
    problems: Problems,
    failed: Option<io::Error>,
}

enum Shape {
    Json,
    Csv,
    Table(Table),
}

/// What is to be said at the end.
#[derive(Default)]
struct Problems {
    fields: u64,
    records: u64,
    explained: Vec<String>,
    /// By reason that isn't worth an explanation for each: records that end early.
    early: BTreeMap<String, u64>,
    longer: u64,
    longest: usize,
    residue: u64,
    /// Fields of digits in EBCDIC, where none was expected.
    ebcdic: u64,
}

pub(crate) fn run(args: &Args, config: &Path) -> Result<ExitCode> {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let records = args.form.records(file, config)?;
    if let (Some(assumed), true) = (&records.assumed, terminal_width().is_some()) {
        eprintln!("read as {assumed}");
    }
    let codec = records.format.codec()?;
    let mut input: Box<dyn Read> = match file {
        Some(path) => {
            Box::new(File::open(path).with_context(|| format!("opening {}", path.display()))?)
        }
        None => Box::new(io::stdin().lock()),
    };
    let mut offset = 0;
    // Where records have one size, the first one that is wanted is found without reading those before it.
    if let (Some(path), Boundaries::Pitch(_)) = (file, codec.boundaries())
        && let Some(first) = args.record.iter().map(Range::first).min()
    {
        let mut opened = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        offset = codec.offset_of(first);
        let from = offset - offset % codec.piece_len_max().unwrap_or(1).max(1);
        if opened.seek(SeekFrom::Start(from)).is_ok() {
            offset = from;
            input = Box::new(opened);
        } else {
            offset = 0;
        }
    }
    let stdout = io::stdout().lock();
    let mut out = io::BufWriter::with_capacity(64 * 1024, stdout);
    let mut printing = Printing::new(args, &records)?;
    printing.head(&mut out)?;
    let name = file.map_or("standard input".to_owned(), |file| {
        file.display().to_string()
    });
    let flows = file.is_none();
    stream(&mut *input, &*codec, offset, &mut |piece, last| {
        let more = printing.piece(&mut out, piece);
        // What comes through a pipe is shown as it comes.
        if flows && last {
            let _ = out.flush();
        }
        more
    })
    .with_context(|| format!("reading {name}"))?;
    printing.end(&mut out).context("printing")?;
    let wrong = printing.problems.tell(args.errors, args.all);
    Ok(if args.strict && wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Decodes all pieces of what can be read; `each` says whether it wants more, and is told which piece of those at hand is last.
fn stream(
    input: &mut dyn Read,
    codec: &dyn Codec,
    mut offset: u64,
    each: &mut dyn FnMut(Piece<'_>, bool) -> bool,
) -> Result<()> {
    let piece = codec
        .piece_len_max()
        .and_then(|len| usize::try_from(len).ok());
    let mut buffer = vec![0; CHUNK_BYTES.max(piece.unwrap_or(CHUNK_BYTES).saturating_mul(2))];
    let (mut len, mut at_end, mut wants) = (0, false, true);
    let mut within = Within::default();
    while wants && !at_end {
        match input.read(&mut buffer[len..]) {
            Ok(0) => at_end = true,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        let from = within;
        let taken = codec.decode_within(from, offset, &buffer[..len], at_end, &mut |piece| {
            within = piece.behind;
            let is_last = piece.offset + piece.len >= offset + len as u64;
            wants = wants && each(piece, is_last);
        });
        buffer.copy_within(taken..len, 0);
        len -= taken;
        offset += taken as u64;
        if len == buffer.len() {
            bail!(
                "a piece of more than {len} bytes at offset {offset}: is the layout the right one?"
            );
        }
    }
    Ok(())
}

impl<'a> Printing<'a> {
    fn new(args: &'a Args, records: &'a Records) -> Result<Printing<'a>> {
        let schema = &**records.decoder.schema();
        let table = match &args.table {
            None => 0,
            Some(name) => (1..schema.tables().len())
                .find(|&at| {
                    let table = &schema.tables()[at];
                    let item = schema.item(table.item);
                    table.name.eq_ignore_ascii_case(name)
                        || item.is_some_and(|it| it.name_or_filler().eq_ignore_ascii_case(name))
                })
                .with_context(|| {
                    let names: Vec<&str> = schema.tables()[1..]
                        .iter()
                        .map(|it| it.name.as_str())
                        .collect();
                    match names.is_empty() {
                        true => "--table: the records have no tables in them".to_owned(),
                        false => format!(
                            "--table: there is no table {name:?}; there are: {}",
                            names.join(", ")
                        ),
                    }
                })?,
        };
        let mut columns = Vec::new();
        for name in &args.fields {
            columns.extend(columns_called(schema, table, name.trim()).context("--fields")?);
        }
        if args.fields.is_empty() {
            columns = (0..schema.tables()[table].columns.len()).collect();
        }
        let identity = records.format.identity_name();
        let form = if args.json {
            Shape::Json
        } else if args.csv {
            Shape::Csv
        } else {
            let mut heads = vec![Column::new(identity, true)];
            if table > 0 {
                heads.push(Column::new("row", true));
            }
            for &at in &columns {
                let column = &schema.tables()[table].columns[at];
                heads.push(Column::new(&column.name, column.field.decimal().is_some()));
            }
            Shape::Table(Table::new(heads, terminal_width(), args.expanded))
        };
        Ok(Printing {
            args,
            schema,
            encoder: RecordEncoder::new(records.decoder.clone()),
            table,
            columns,
            filter: Filter::new(&args.r#where, schema, table)?,
            identity,
            kept: Kept::default(),
            form,
            line: Vec::new(),
            shown: 0,
            problems: Problems::default(),
            failed: None,
        })
    }

    fn head(&mut self, out: &mut dyn Write) -> Result<()> {
        let Shape::Csv = self.form else { return Ok(()) };
        let columns = &self.schema.tables()[self.table].columns;
        let names = self.columns.iter().map(|&at| columns[at].name.as_str());
        let row = (self.table > 0).then_some("row");
        let fields = std::iter::once(self.identity).chain(row).chain(names);
        csv::line(&mut self.line, fields.map(Some));
        out.write_all(&self.line).context("printing")
    }

    /// Prints a piece of the file if it is wanted, and says whether more are.
    fn piece(&mut self, out: &mut dyn Write, piece: Piece<'_>) -> bool {
        if self.args.limit == Some(self.shown) {
            return false;
        }
        let ranges = &self.args.record;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(piece.id)) {
            return ranges.iter().any(|range| piece.id <= range.last());
        }
        let printed = match piece.kind {
            PieceKind::Record { data, rest } => self.record(out, piece.id, data, rest),
            PieceKind::Residue { bytes, reason } => {
                self.problems.residue += 1;
                self.no_record(out, &piece, bytes, reason)
            }
            PieceKind::Empty => self.no_record(out, &piece, &[], "never written"),
        };
        if let Err(error) = printed {
            self.failed = Some(error);
            return false;
        }
        self.args.limit != Some(self.shown)
    }

    fn record(&mut self, out: &mut dyn Write, id: u64, data: &[u8], rest: &[u8]) -> io::Result<()> {
        let read = self.kept.decode(self.encoder.decoder(), data);
        let rows = if self.table == 0 {
            vec![Vec::new()]
        } else {
            self.kept.rows_of(self.table, &[])
        };
        let mut any = false;
        for row in rows {
            if !self.filter.wants(&self.kept, &row) {
                continue;
            }
            any = true;
            if self.args.limit == Some(self.shown) {
                break;
            }
            self.shown += 1;
            self.line.clear();
            match &mut self.form {
                Shape::Json => self.json(id, data, rest, &row, read.problem.as_ref()),
                Shape::Csv | Shape::Table(_) => self.text(out, id, &row)?,
            }
            out.write_all(&self.line)?;
        }
        if any {
            let problem = read.problem.map(|problem| problem.to_string());
            self.note(id, data, read.end, problem);
        }
        Ok(())
    }

    fn json(
        &mut self,
        id: u64,
        data: &[u8],
        rest: &[u8],
        row: &[u32],
        problem: Option<&counterfoil_records::schema::WalkError>,
    ) {
        let whole = self.args.fields.is_empty() && self.table == 0;
        let says_all = whole && self.kept.says_all(&self.encoder, data);
        let mut object = Object::new(&mut self.line);
        object.number("_record", id);
        if self.table > 0 {
            object.text("_row", &row_text(row));
        }
        let wanted = (!self.args.fields.is_empty()).then_some(self.columns.as_slice());
        object.row(self.schema, &self.kept, self.table, row, wanted);
        if let Some(problem) = problem {
            object.text("_problem", &problem.to_string());
        }
        if whole && !says_all {
            object.bytes("_raw", data);
        }
        if whole && !rest.is_empty() {
            object.bytes("_rest", rest);
        }
        object.end();
        self.line.push(b'\n');
    }

    /// A row of a table or of CSV.
    fn text(&mut self, out: &mut dyn Write, id: u64, row: &[u32]) -> io::Result<()> {
        let is_csv = matches!(self.form, Shape::Csv);
        let mut cells = vec![Some(id.to_string())];
        if self.table > 0 {
            cells.push(Some(row_text(row)));
        }
        for &column in &self.columns {
            let at = self.kept.find(self.table, row, column);
            cells.push(match at.map(|at| self.kept.value(at)) {
                None | Some(Ok(Value::Null)) => None,
                Some(Ok(value)) if is_csv => Some(value.to_string()),
                Some(Ok(value)) => Some(printable(&value.to_string())),
                Some(Err(wrong)) if is_csv || wrong.reason == Reason::PastEnd => None,
                Some(Err(_)) => Some("?".to_owned()),
            });
        }
        match &mut self.form {
            Shape::Table(table) => table.row(
                out,
                cells.into_iter().map(Option::unwrap_or_default).collect(),
            ),
            Shape::Csv | Shape::Json => {
                csv::line(&mut self.line, cells.iter().map(Option::as_deref));
                Ok(())
            }
        }
    }

    /// What is no record: shown when all is asked for.
    fn no_record(
        &mut self,
        out: &mut dyn Write,
        piece: &Piece<'_>,
        bytes: &[u8],
        reason: &str,
    ) -> io::Result<()> {
        let is_asked = self.args.all && self.args.r#where.is_empty();
        if !is_asked || matches!(self.form, Shape::Csv) {
            return Ok(());
        }
        self.shown += 1;
        if let Shape::Table(table) = &mut self.form {
            let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
            let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
            let what = match bytes {
                [] => format!("({reason}: {} bytes)", piece.len),
                _ => format!("({reason}: {} bytes, {}{more})", piece.len, Hex(shown)),
            };
            // In the table's order, but no row of it: it has no fields.
            table.end(out)?;
            return writeln!(out, "{} {what}", piece.id);
        }
        self.line.clear();
        let mut object = Object::new(&mut self.line);
        object.number("_record", piece.id);
        if bytes.is_empty() {
            object.number("_empty", piece.len);
        } else {
            object.bytes("_residue", bytes);
            object.text("_reason", reason);
        }
        object.end();
        self.line.push(b'\n');
        out.write_all(&self.line)
    }

    /// Keeps what is wrong with a record that was shown.
    fn note(&mut self, id: u64, data: &[u8], end: usize, problem: Option<String>) {
        let problems = &mut self.problems;
        if data.len() > end {
            problems.longer += 1;
            problems.longest = problems.longest.max(data.len() - end);
        }
        let mut any = false;
        if let Some(problem) = problem {
            any = true;
            problems.explain(self.args.errors, || {
                format!("{} {id}: {problem}", self.identity)
            });
        }
        for at in 0..self.kept.len() {
            let Err(wrong) = self.kept.value(at) else {
                continue;
            };
            let (table, row, column) = self.kept.place(at);
            if table != self.table && self.table != 0
                || table == self.table && !self.columns.contains(&column)
            {
                continue;
            }
            let name = &self.schema.tables()[table].columns[column].name;
            match wrong.reason {
                Reason::PastEnd => {
                    *problems.early.entry(name.clone()).or_default() += 1;
                    continue;
                }
                // The problem of the record says it.
                Reason::Count => continue,
                _ => {}
            }
            any = true;
            problems.fields += 1;
            let is_ebcdic = self.schema.dialect().code_page.is_ebcdic();
            if let (
                false,
                Reason::Digit {
                    byte: 0xF0..=0xF9, ..
                },
            ) = (is_ebcdic, wrong.reason)
            {
                problems.ebcdic += 1;
            }
            problems.explain(self.args.errors, || {
                let row = if row.is_empty() {
                    String::new()
                } else {
                    format!(" in row {}", row_text(row))
                };
                let shown = &wrong.raw[..wrong.raw.len().min(SHOWN_BYTES)];
                let more = if shown.len() < wrong.raw.len() {
                    "…"
                } else {
                    ""
                };
                format!(
                    "{} {id}: {name}{row}, at offset {} (hex {}{more}): {}",
                    self.identity,
                    wrong.offset.unwrap_or_default(),
                    Hex(shown),
                    wrong.reason
                )
            });
        }
        problems.records += u64::from(any);
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Shape::Table(table) = &mut self.form {
            table.end(out)?;
        }
        out.flush()
    }
}

fn row_text(row: &[u32]) -> String {
    let numbers: Vec<String> = row.iter().map(u32::to_string).collect();
    numbers.join(".")
}

impl Problems {
    fn explain(&mut self, all: bool, text: impl FnOnce() -> String) {
        if all {
            eprintln!("{}", text());
        } else if (self.explained.len() as u64) < EXPLAINED_MAX {
            self.explained.push(text());
        }
    }

    /// Says what was wrong; whether a field couldn't be decoded.
    fn tell(&self, all: bool, residue_shown: bool) -> bool {
        for line in &self.explained {
            eprintln!("{line}");
        }
        let count =
            |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        if self.records > 0 {
            let more = if !all && self.fields > self.explained.len() as u64 {
                "; --errors explains all"
            } else {
                ""
            };
            eprintln!(
                "{} of {} couldn't be decoded{more}",
                count(self.fields, "field"),
                count(self.records, "record")
            );
        }
        if self.ebcdic * 2 > self.fields {
            eprintln!("the digits look like EBCDIC: try --code-page 037");
        }
        if let Some((name, records)) = self.early.iter().max_by_key(|(_, records)| **records) {
            eprintln!(
                "{} before {name} or another field: such fields are empty here",
                match records {
                    1 => "1 record ends".to_owned(),
                    records => format!("{records} records end"),
                }
            );
        }
        if self.longer > 0 {
            eprintln!(
                "{} longer than the copybook says, by up to {} bytes: is it the right one?",
                match self.longer {
                    1 => "1 record is".to_owned(),
                    longer => format!("{longer} records are"),
                },
                self.longest
            );
        }
        if self.residue > 0 && !residue_shown {
            eprintln!(
                "{} of the file {} no record (deleted slots, partial records); --all shows them",
                count(self.residue, "piece"),
                if self.residue == 1 { "holds" } else { "hold" }
            );
        }
        self.records > 0
    }
}
