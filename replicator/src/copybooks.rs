//! Copybooks from files: where they are, and where the texts that they copy are.

use counterfoil_records::copybook::{Copybook, Library, Options, Text};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A copybook larger than this is a mix-up.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a name in a COPY is tried with, behind it.
const EXTENSIONS: &[&str] = &[
    "", ".cpy", ".CPY", ".cbl", ".CBL", ".cob", ".COB", ".copy", ".inc",
];

/// Directories with copybooks, in which a COPY finds its text. That of the text itself comes first.
#[derive(Clone, Debug, Default)]
pub struct Directories(pub Vec<PathBuf>);

impl Library for Directories {
    fn find(&self, name: &str, library: Option<&str>, from: &str) -> Result<Text, String> {
        let beside = Path::new(from).parent().map(Path::to_owned);
        let directories: Vec<PathBuf> = beside.into_iter().chain(self.0.iter().cloned()).collect();
        let cases = [name.to_owned(), name.to_lowercase(), name.to_uppercase()];
        for directory in &directories {
            // A library is a directory in one of them.
            let places = [
                library.map(|library| directory.join(library)),
                Some(directory.clone()),
            ];
            for place in places.into_iter().flatten() {
                for name in &cases {
                    for extension in EXTENSIONS {
                        let path = place.join(format!("{name}{extension}"));
                        if path.is_file() {
                            return read(&path).map_err(|error| format!("{error:#}"));
                        }
                    }
                }
            }
        }
        let looked: Vec<String> = directories
            .iter()
            .map(|directory| match directory.as_os_str().is_empty() {
                true => "\".\"".to_owned(),
                false => format!("{directory:?}"),
            })
            .collect();
        Err(format!(
            "there is no such file in {} (with or without {})",
            looked.join(", "),
            EXTENSIONS[1..].join(", ")
        ))
    }
}

/// Reads a copybook and all it copies from files. What is in it may be in UTF-8 or Latin-1.
///
/// # Errors
/// The file can't be read, or what is wrong with the copybook: each problem with its line.
pub fn load(path: &Path, options: &Options, directories: &Directories) -> anyhow::Result<Copybook> {
    let text = read(path)?;
    Ok(Copybook::parse(&text, options, directories)?)
}

fn read(path: &Path) -> anyhow::Result<Text> {
    use anyhow::Context;

    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("reading the copybook {}", path.display()))?;
    anyhow::ensure!(
        bytes.len() as u64 <= FILE_BYTES_MAX,
        "{} is larger than {FILE_BYTES_MAX} bytes: is this a copybook?",
        path.display()
    );
    let text = String::from_utf8(bytes).unwrap_or_else(|error| {
        error
            .as_bytes()
            .iter()
            .map(|byte| char::from(*byte))
            .collect()
    });
    Ok(Text {
        name: path.display().to_string(),
        text,
    })
}
