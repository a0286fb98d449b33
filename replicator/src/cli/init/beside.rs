//! Copybooks that lie beside the data: which one may be a file's, and whether the file goes with it.
//!
//! A copybook is a file's when it has its name, in the same directory or in one for copybooks near it. That it fits is shown by
//! the file's own bytes: records of its length, whose fields can be decoded.

use counterfoil::copybooks::{self, Directories};
use counterfoil_records::copybook::Options;
use counterfoil_records::schema::RecordSchema;
use counterfoil_records::value::Value;
use counterfoil_records::{
    Guess, Layout, Organization, PieceKind, RecordDecoder, RecordFormat, Room,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the names of copybooks end with.
const EXTENSIONS: [&str; 4] = ["cpy", "copy", "cbl", "cob"];

/// Directories with copybooks, beside the data or beside its directory.
const DIRECTORIES: [&str; 6] = ["copy", "cpy", "copybook", "copybooks", "copylib", "copybks"];

/// Compilers and conversions that are tried, the likeliest first.
const DIALECTS: [&str; 4] = [
    "gnucobol",
    "ibm",
    "ibm,sign=overpunch,code-page=latin-1",
    "mf",
];

/// Records that are decoded to see whether a copybook fits.
const RECORDS_MAX: u64 = 1000;

/// Of a hundred fields, so many may be undecodable: some files have bytes in them that nobody cleaned.
const WRONG_PERCENT_MAX: u64 = 5;

/// A file's copybook.
#[derive(Debug)]
pub(super) enum Beside {
    /// The file goes with it.
    Fits(Fit),
    /// It doesn't, or it can't be read: why.
    Not { copybook: PathBuf, why: String },
}

/// How a file goes with its copybook.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) copybook: PathBuf,
    pub(super) dialect: &'static str,
    pub(super) format: RecordFormat,
    /// What shows it, in words.
    pub(super) evidence: String,
}

/// The copybook that a file may have by its name.
pub(in crate::cli) fn find(file: &Path) -> Option<PathBuf> {
    // The directory of a bare name is where we are.
    let file = &std::path::absolute(file).ok()?;
    let (stem, directory) = (file.file_stem()?.to_str()?, file.parent()?);
    let mut places = vec![directory.to_owned()];
    for near in [Some(directory), directory.parent()].into_iter().flatten() {
        places.extend(subdirectories(near));
    }
    places.iter().find_map(|place| {
        let mut found: Vec<(usize, PathBuf)> = fs::read_dir(place)
            .ok()?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let extension = path.extension()?.to_str()?.to_ascii_lowercase();
                let rank = EXTENSIONS.iter().position(|known| *known == extension)?;
                let is_named = path.file_stem()?.to_str()?.eq_ignore_ascii_case(stem);
                (is_named && path != *file && path.is_file()).then_some((rank, path))
            })
            .collect();
        found.sort();
        found.into_iter().next().map(|(_, path)| path)
    })
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let named = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        (DIRECTORIES.contains(&name.as_str()) && path.is_dir()).then_some(path)
    });
    let mut named: Vec<PathBuf> = named.collect();
    named.sort();
    named
}

/// Whether a file of `len` bytes that begins with `head`, and may be what `guesses` say, goes with a copybook.
pub(super) fn fit(copybook: &Path, guesses: &[Guess], head: &[u8], len: u64) -> Beside {
    let not = |why: String| Beside::Not {
        copybook: copybook.to_owned(),
        why,
    };
    let mut best: Option<(Tried, Fit)> = None;
    let (mut sizes, mut failed) = (Vec::new(), None);
    for dialect in DIALECTS {
        let schema = match schema(copybook, dialect) {
            Ok(schema) => Arc::new(schema),
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        let size = u64::from(schema.len_max());
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        for format in formats(&schema, guesses, len) {
            let Some(tried) = decode(&schema, &format, head, len) else {
                continue;
            };
            let is_better = best.as_ref().is_none_or(|(best, _)| tried.is_better(best));
            if is_better {
                let fit = Fit {
                    copybook: copybook.to_owned(),
                    dialect,
                    evidence: tried.evidence(&format, size),
                    format,
                };
                best = Some((tried, fit));
            }
        }
    }
    match best {
        Some((tried, fit)) if tried.is_good() => Beside::Fits(fit),
        Some((tried, fit)) => not(format!(
            "{}, so it hardly is the right one",
            tried.evidence(&fit.format, u64::from(tried.size))
        )),
        None => match (sizes.as_slice(), failed) {
            ([], Some(error)) => not(error),
            (sizes, _) => {
                let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
                not(format!(
                    "its records have {} bytes, and the file has {len}, which goes with that in no layout that is known",
                    sizes.join(" or ")
                ))
            }
        },
    }
}

fn schema(copybook: &Path, dialect: &str) -> Result<RecordSchema, String> {
    let options = Options {
        dialect: dialect
            .parse()
            .map_err(|error| format!("{dialect}: {error}"))?,
        format: None,
    };
    let read = copybooks::load(copybook, &options, &Directories::default()).map_err(|error| {
        format!("{error:#}")
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    })?;
    read.record(None).cloned()
}

/// The formats in which a file may have such records, the likeliest first.
fn formats(schema: &RecordSchema, guesses: &[Guess], len: u64) -> Vec<RecordFormat> {
    let size = u64::from(schema.len_max());
    let mut formats: Vec<RecordFormat> = guesses
        .iter()
        .map(|guess| &guess.format)
        .filter(|format| match (format.layout, format.record_size) {
            (Layout::Blocks, _) => false,
            (Layout::LineSequential | Layout::Newline, _) | (_, None) => true,
            (_, Some(guessed)) => guessed == size,
        })
        .cloned()
        .collect();
    let plain = RecordFormat::new(Organization::Fixed, Layout::Plain).with_record_size(size);
    if len > 0 && len.is_multiple_of(size) && !formats.contains(&plain) {
        formats.push(plain);
    }
    formats
}

/// What came of decoding a file's first records.
#[derive(Debug, Default)]
struct Tried {
    size: u32,
    records: u64,
    fields: u64,
    wrong: u64,
    /// Characters of texts, and those among them that hardly anybody writes.
    chars: u64,
    odd: u64,
}

impl Tried {
    fn is_good(&self) -> bool {
        self.records > 0
            && self.wrong * 100 <= self.fields * WRONG_PERCENT_MAX
            && self.odd * 2 <= self.chars
    }

    fn is_better(&self, other: &Tried) -> bool {
        let share = |part: u64, of: &Tried| u128::from(part) * 1000 / u128::from(of.fields.max(1));
        let odd = |of: &Tried| u128::from(of.odd) * 1000 / u128::from(of.chars.max(1));
        (
            self.is_good(),
            std::cmp::Reverse(share(self.wrong, self) + odd(self)),
        ) > (
            other.is_good(),
            std::cmp::Reverse(share(other.wrong, other) + odd(other)),
        )
    }

    fn evidence(&self, format: &RecordFormat, size: u64) -> String {
        let lie = match format.layout {
            Layout::LineSequential | Layout::Newline => "as text lines".to_owned(),
            Layout::Plain => format!("back to back, {size} bytes each"),
            layout => format!("in the layout {} with {size} bytes", layout.name()),
        };
        let wrong = match self.wrong {
            0 => "all fields can be decoded".to_owned(),
            wrong => format!("{wrong} of {} fields can't be decoded", self.fields),
        };
        format!("{} records {lie} were tried, and {wrong}", self.records)
    }
}

/// Decodes the records at a file's beginning; `None`: some aren't as long as the copybook says, or there are none.
fn decode(
    schema: &Arc<RecordSchema>,
    format: &RecordFormat,
    head: &[u8],
    len: u64,
) -> Option<Tried> {
    let codec = format.codec().ok()?;
    let decoder = RecordDecoder::new(Arc::clone(schema)).with_padding(format.padding());
    let mut tried = Tried {
        size: schema.len_max(),
        ..Tried::default()
    };
    let mut room = Room::default();
    let mut goes = true;
    let at_end = head.len() as u64 >= len;
    codec.decode(0, head, at_end, &mut |piece| {
        let PieceKind::Record { data, .. } = piece.kind else {
            return;
        };
        if !goes || tried.records == RECORDS_MAX {
            return;
        }
        goes = data.len() <= schema.len_max() as usize
            && (format.padding().is_some() || data.len() >= schema.len_min() as usize);
        tried.records += 1;
        let read = decoder.decode(data, &mut room, |cell| {
            tried.fields += 1;
            match cell.value {
                Err(_) => tried.wrong += 1,
                Ok(Value::Text(text)) => {
                    tried.chars += text.chars().count() as u64;
                    let odd = text.chars().filter(|c| c.is_control() || !c.is_ascii());
                    tried.odd += odd.count() as u64;
                }
                Ok(_) => {}
            }
        });
        if read.problem.is_some() {
            tried.fields += 1;
            tried.wrong += 1;
        }
    });
    (goes && tried.records > 0).then_some(tried)
}
