//! `counterfoil encode`: the inverse of `decode --json`, JSON lines to records.

use super::records::json::Line;
use super::records::{Form, Records};
use anyhow::{Context as _, Result, bail};
use counterfoil_records::{Codec, Organization, RecordEncoder};
use std::fs::File;
use std::io::{self, BufRead, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest line that is read, in bytes: the longest record twice in hexadecimal, and its fields.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Most empty bytes that a gap between record numbers may become.
const GAP_BYTES_MAX: u64 = 1 << 30;

const EXAMPLES: &str = "\
Examples:
  counterfoil decode -b cards.cpy cards.dat --json --all | counterfoil encode -b cards.cpy -l plain > same.dat
  jq -c '.balance = 0' < records.json | counterfoil encode -b cards.cpy -l plain -p 037 --output new.dat

A line is an object with a key for each field. Keys that begin with _ are those of `decode --json`: _record is the record's number
(or slot; records without one follow each other), _raw the bytes it had, of which only fields with another value change. Fields
that aren't given are as they were in _raw, or else zero or spaces.";

/// Put records together from JSON lines: the inverse of `decode --json`
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The JSON lines; none or `-`: standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    /// The file to write, which must not exist, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, config: &Path) -> Result<ExitCode> {
    // Where the output is a file of the configuration, that says how its records lie.
    let records = args.form.records_of(args.output.as_deref(), config)?;
    let codec = records.format.codec()?;
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = file.map_or("standard input".to_owned(), |file| {
        file.display().to_string()
    });
    let mut input: Box<dyn BufRead> = match file {
        Some(path) => {
            let opened = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            Box::new(io::BufReader::new(opened))
        }
        None => Box::new(io::stdin().lock()),
    };
    let Some(path) = &args.output else {
        let mut out = io::BufWriter::new(io::stdout().lock());
        write(&mut *input, &name, &records, &*codec, &mut out)?;
        out.flush().context("writing to standard output")?;
        return Ok(ExitCode::SUCCESS);
    };
    if !args.force && path.symlink_metadata().is_ok() {
        bail!("{} exists; --force replaces it", path.display());
    }
    // Whole, or not at all: what was there stays until all is written.
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let writing = || format!("writing {}", partial.display());
    let mut out = io::BufWriter::new(File::create(&partial).with_context(writing)?);
    let written = write(&mut *input, &name, &records, &*codec, &mut out)
        .and_then(|()| out.flush().with_context(writing));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    std::fs::rename(&partial, path).with_context(|| format!("renaming {}", partial.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn write(
    mut input: &mut dyn BufRead,
    name: &str,
    records: &Records,
    codec: &dyn Codec,
    out: &mut dyn Write,
) -> Result<()> {
    let encoder = RecordEncoder::new(records.decoder.clone());
    let (mut text, mut number, mut offset) = (String::new(), 0_u64, 0_u64);
    let (mut record, mut piece) = (Vec::new(), Vec::new());
    loop {
        text.clear();
        number += 1;
        let place = || format!("{name}, line {number}");
        let len = io::Read::take(&mut input, LINE_BYTES_MAX)
            .read_line(&mut text)
            .with_context(|| format!("reading {}", place()))?;
        if len == 0 {
            return Ok(());
        }
        if len as u64 == LINE_BYTES_MAX {
            bail!("{}: it has more than {LINE_BYTES_MAX} bytes", place());
        }
        if text.trim().is_empty() {
            continue;
        }
        let line = Line::read(&text, records.decoder.schema()).with_context(place)?;
        record.clear();
        piece.clear();
        // A file's header, unless it is the first line.
        if offset == 0 && line.residue.is_none() {
            offset += put(&codec.lead(0, 0), out)?;
        }
        gap(&line, records, codec, &mut offset, out).with_context(place)?;
        match (&line.residue, line.empty) {
            (Some(bytes), _) => piece.extend_from_slice(bytes),
            (None, Some(len)) => zeros(len, out).with_context(place)?,
            (None, None) => {
                encoder
                    .encode(
                        line.raw.as_deref(),
                        &mut |wanted| {
                            let key = (wanted.table, wanted.row.to_vec(), wanted.column);
                            line.value(&key)
                        },
                        &mut record,
                    )
                    .with_context(place)?;
                let filled = match &line.rest {
                    Some(rest) => rest.clone(),
                    None => slot_rest(records, record.len()),
                };
                if offset > 0 {
                    offset += put(&codec.lead(offset, record.len()), out)?;
                }
                codec
                    .encode(codec.id_at(offset), &record, &filled, &mut piece)
                    .with_context(place)?;
            }
        }
        offset += put(&piece, out)? + line.empty.unwrap_or(0);
    }
}

/// Writes bytes, and says how many they are.
fn put(bytes: &[u8], out: &mut dyn Write) -> Result<u64> {
    out.write_all(bytes).context("writing records")?;
    Ok(bytes.len() as u64)
}

/// Zero bytes up to where a record with a number belongs: slots that aren't there.
fn gap(
    line: &Line,
    records: &Records,
    codec: &dyn Codec,
    offset: &mut u64,
    out: &mut dyn Write,
) -> Result<()> {
    let numbered = matches!(
        records.format.organization,
        Organization::Fixed | Organization::Relative
    );
    let Some(id) = line.record.filter(|_| numbered) else {
        return Ok(());
    };
    let begin = codec.offset_of(id);
    if begin < *offset {
        bail!(
            "_record {id} comes behind record {}: lines go by ascending numbers",
            codec.id_at(offset.saturating_sub(1))
        );
    }
    if begin - *offset > GAP_BYTES_MAX {
        bail!(
            "_record {id} is {} bytes behind the one before it",
            begin - *offset
        );
    }
    zeros(begin - *offset, out)?;
    *offset = begin;
    Ok(())
}

fn zeros(len: u64, out: &mut dyn Write) -> Result<()> {
    io::copy(&mut io::repeat(0).take(len), out).context("writing records")?;
    Ok(())
}

/// What fills a slot behind a short record.
fn slot_rest(records: &Records, len: usize) -> Vec<u8> {
    match (records.format.organization, records.format.record_size) {
        (Organization::Relative, Some(size)) => vec![0; (size as usize).saturating_sub(len)],
        _ => Vec::new(),
    }
}
