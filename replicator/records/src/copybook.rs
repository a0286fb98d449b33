//! Reading COBOL copybooks: source text in, [`RecordSchema`]s out.
//!
//! What is understood, and how it differs between compilers, is in `docs/copybooks.md`. The way of the text:
//! `lines` (fixed or free form, comments, continuation) → `tokens` → `copying` (COPY and REPLACE) → `entries`
//! (clauses of each data description) → `tree` (items, types, schemas).
//!
//! Nothing here reads files: texts that a COPY names come from a [`Library`]. Any text gives either schemas or
//! [`CopybookError`], which shows each problem at its place; nothing panics, and memory is bounded by the limits below.

mod copying;
mod diagnostic;
mod entries;
mod lines;
mod picture;
mod tokens;
mod tree;

pub use diagnostic::{CopybookError, Diagnostic, Severity};

use crate::schema::{Dialect, RecordSchema};
use diagnostic::{Diagnostics, Sources};
use std::str::FromStr;

/// Longest text of a copybook with all it copies, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// How deep copied texts may copy others.
pub const COPY_DEPTH_MAX: usize = 32;

/// Most words of a copybook with all it copies.
pub const WORDS_MAX: usize = 1_000_000;

/// How a source lies in its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// Columns 1 to 6 number lines, 7 is an indicator, 8 to 72 are text, what follows is ignored.
    Fixed,
    /// Like [`SourceFormat::Fixed`], with text up to the end of the line.
    Variable,
    /// Text from the first column to the end of the line.
    Free,
}

impl FromStr for SourceFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<SourceFormat, String> {
        match name {
            "fixed" => Ok(SourceFormat::Fixed),
            "variable" => Ok(SourceFormat::Variable),
            "free" => Ok(SourceFormat::Free),
            _ => Err(format!(
                "a source's format is \"fixed\", \"variable\" or \"free\", not {name:?}"
            )),
        }
    }
}

/// How to read a copybook.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to assume of the compiler.
    pub dialect: Dialect,
    /// How texts lie in their lines; `None`: each tells by itself.
    pub format: Option<SourceFormat>,
}

/// A text, and what it is called in messages.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its name: a path, usually. Two texts of the same name are the same.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Where the texts that a COPY names come from.
pub trait Library {
    /// The text called `name`, from the library `library` if one is named, for a COPY in the text called `from`.
    ///
    /// # Errors
    /// Why there is none, and where it was looked for: what follows on "COPY name: ".
    fn find(&self, name: &str, library: Option<&str>, from: &str) -> Result<Text, String>;
}

/// A library without texts.
#[derive(Clone, Copy, Debug)]
pub struct NoLibrary;

impl Library for NoLibrary {
    fn find(&self, _: &str, _: Option<&str>, _: &str) -> Result<Text, String> {
        Err("there is nothing to copy from here".to_owned())
    }
}

/// What was found in a copybook.
#[derive(Clone, Debug)]
pub struct Copybook {
    /// Its records, in order: every level 01 and 77, or one for all if there is no level 01. At least one.
    pub records: Vec<RecordSchema>,
    /// What was accepted, but is strange or has no effect here.
    pub warnings: Vec<Diagnostic>,
}

impl Copybook {
    /// Reads a copybook and all that it copies.
    ///
    /// # Errors
    /// Everything that was found to be wrong, each with its place.
    pub fn parse(
        source: &Text,
        options: &Options,
        library: &dyn Library,
    ) -> Result<Copybook, CopybookError> {
        let mut sources = Sources::default();
        let mut diagnostics = Diagnostics::default();
        let name = source.name.as_str();
        let words = copying::read(source, options, library, &mut sources, &mut diagnostics);
        let entries = entries::read(&words, &options.dialect, &mut diagnostics);
        let mut records = Vec::new();
        if !diagnostics.has_errors() {
            let record_name = record_name(name);
            records = tree::build(
                &entries,
                &options.dialect,
                &record_name,
                &sources,
                &mut diagnostics,
            );
        }
        if records.is_empty() && !diagnostics.has_errors() {
            diagnostics.error_in_all("there is no data description in it");
        }
        let failed = diagnostics.has_errors();
        let shown = diagnostics.show(&sources, name);
        match failed {
            true => Err(CopybookError { diagnostics: shown }),
            false => Ok(Copybook {
                records,
                warnings: shown,
            }),
        }
    }

    /// The record with this name, or the only one.
    ///
    /// # Errors
    /// Which records there are.
    pub fn record(&self, name: Option<&str>) -> Result<&RecordSchema, String> {
        let names: Vec<&str> = self.records.iter().map(RecordSchema::name).collect();
        match name {
            Some(name) => self
                .records
                .iter()
                .find(|record| record.name().eq_ignore_ascii_case(name))
                .ok_or_else(|| {
                    format!(
                        "there is no record {name:?}; there are: {}",
                        names.join(", ")
                    )
                }),
            None if self.records.len() == 1 => Ok(&self.records[0]),
            None => Err(format!(
                "there are several records; name one of: {} (or several with commas between, or \"*\" for all)",
                names.join(", ")
            )),
        }
    }
}

impl Copybook {
    /// The record with this name, or the only one; of several names with commas between, or `*` for all, one record whose
    /// bytes are seen in each of these ways, as those of a file with several level 01 are.
    ///
    /// # Errors
    /// Which records there are, or why they can't be one.
    pub fn records_named(&self, names: Option<&str>) -> Result<RecordSchema, String> {
        let records: Vec<&RecordSchema> = match names.map(str::trim) {
            Some("*") => self.records.iter().collect(),
            Some(names) if names.contains(',') => names
                .split(',')
                .map(|name| self.record(Some(name.trim())))
                .collect::<Result<_, _>>()?,
            name => vec![self.record(name)?],
        };
        match records.as_slice() {
            [record] => Ok((*record).clone()),
            records => {
                let file = records
                    .first()
                    .map(|record| record.root().place.file.clone());
                RecordSchema::any_of(&record_name(&file.unwrap_or_default()), records)
                    .map_err(|error| error.message)
            }
        }
    }
}

/// Symbols, written out, and length in bytes of a PICTURE that edits.
pub(crate) fn edited_len(picture: &str, dialect: &Dialect) -> Result<(String, u32), String> {
    use picture::PictureKind::{NumberEdited, TextEdited};
    let parsed = picture::parse(
        picture,
        dialect.decimal_comma,
        dialect.currency,
        &|_: &str| None,
    )?;
    match parsed.kind {
        NumberEdited | TextEdited => Ok((parsed.symbols, parsed.chars)),
        _ => Err(format!(
            "the PICTURE {picture} edits nothing: write text, zoned or national instead"
        )),
    }
}

/// What the record of a copybook without level 01 is called: its file's name.
fn record_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split('.').find(|part| !part.is_empty());
    stem.unwrap_or("RECORD").to_ascii_uppercase()
}

#[cfg(test)]
mod tests;
