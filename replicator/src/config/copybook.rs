//! Copybooks of file rules: found, read, and made into what is in a file's records.

use counterfoil_records::copybook::{Copybook, Library, Options, SourceFormat, Text};
use counterfoil_records::schema::{Dialect, RecordSchema};
use std::path::{Path, PathBuf};

/// A copybook larger than this is a mix-up.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// What the names of copied texts end with, beside nothing.
const ENDINGS: [&str; 7] = ["", ".cpy", ".CPY", ".cbl", ".CBL", ".cob", ".COB"];

/// A record of a copybook. `record` names it, where the copybook has several.
///
/// # Errors
/// What is wrong with the copybook, or that it can't be read.
pub fn read(
    path: &Path,
    record: Option<&str>,
    dialect: Dialect,
    format: Option<SourceFormat>,
) -> Result<RecordSchema, String> {
    let text = text(path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let copybook = Copybook::parse(
        &text,
        &Options { dialect, format },
        &Beside(directory.to_owned()),
    )
    .map_err(|error| format!("it can't be used:\n{error}"))?;
    copybook.record(record).cloned()
}

fn text(path: &Path) -> Result<Text, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if length.len() > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(Text {
        name: path.display().to_string(),
        // Comments may be in any code page; what counts is ASCII.
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// Copied texts lie in the directory of the copybook, or in a directory there that is named like their library.
struct Beside(PathBuf);

impl Library for Beside {
    fn find(&self, name: &str, library: Option<&str>, _: &str) -> Result<Text, String> {
        let is_name = |name: &str| !name.contains('/') && name != "..";
        if !is_name(name) || !library.is_none_or(is_name) {
            return Err("it names a path; copied texts lie beside the copybook".to_owned());
        }
        let directory = library.map_or_else(|| self.0.clone(), |library| self.0.join(library));
        let names = [name.to_owned(), name.to_ascii_lowercase()];
        for name in &names {
            for ending in ENDINGS {
                let path = directory.join(format!("{name}{ending}"));
                if path.is_file() {
                    return text(&path);
                }
            }
        }
        Err(format!(
            "there is no {name} (nor with .cpy, .cbl or .cob behind it) in {}",
            directory.display()
        ))
    }
}
