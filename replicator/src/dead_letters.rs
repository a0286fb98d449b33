//! Dead letters: events that somebody refuses for good, kept with all their bytes until a person has dealt with them.
//!
//! A directory in the state directory, with a file for each letter: a line of JSON that says what it is and why it is
//! here, and after it the event as `counterfoil.v1.ChangeEvent`. A letter is on the disk before whoever had it goes on
//! without it. The store has a limit; at the limit nothing is dead-lettered, so whoever has something to go on without
//! waits. As long as there are letters that nothing has made up for, the status says so.

use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Letters that the store holds.
const LETTERS_MAX: usize = 10_000;
/// Bytes that their events have together.
const BYTES_MAX: u64 = 1 << 30;
/// The first line of a letter is no longer.
const HEAD_BYTES_MAX: usize = 1 << 20;
const EXTENSION: &str = "letter";

/// What a letter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number in the store; given by [`Store::keep`].
    pub number: u64,
    /// When it was put here, nanoseconds since 1970.
    pub at_ns: i64,
    /// Who refuses the event: `kafka`, or a sink's name.
    pub refused_by: String,
    /// Why.
    pub reason: String,
    /// The stream, as `site/group`.
    pub stream: String,
    /// The event's position, as `epoch/lsn/index`.
    pub position: String,
    /// The file, as text for people.
    pub file: String,
    /// What happened: `put`, `truncate`, ...
    pub op: String,
    /// The record's identity, where it is about one.
    pub record: Option<u64>,
    /// Length of the event.
    pub bytes: u64,
}

/// The letters of a state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// That of a configuration's state directory.
    pub fn of(config: &Config) -> Store {
        Store {
            directory: config.site.state.join("dead-letters"),
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.{EXTENSION}"))
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let reading = || format!("reading {}", self.directory.display());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(reading)?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let path = entry.with_context(reading)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path.extension().is_some_and(|there| there == EXTENSION)
                && let Some(number) = stem.and_then(|stem| stem.parse().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Keeps an event. When this returns, it is on the disk.
    ///
    /// # Errors
    /// The disk takes nothing, or the store is full.
    pub fn keep(&self, letter: &Letter, event: &[u8]) -> Result<Letter> {
        let letters = self.list()?;
        let bytes: u64 = letters.iter().map(|letter| letter.bytes).sum();
        if letters.len() >= LETTERS_MAX || bytes.saturating_add(event.len() as u64) > BYTES_MAX {
            bail!(
                "{} is full ({} dead letters, {}): look at them with `counterfoil errors list`, and drop some",
                self.directory.display(),
                letters.len(),
                crate::words::bytes(bytes)
            );
        }
        let keeping = || format!("keeping a dead letter in {}", self.directory.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(keeping)?;
        let mut number = letters.last().map_or(0, |letter| letter.number);
        // Another process may keep one too: the name says who has the number.
        let (path, mut file) = loop {
            number += 1;
            let path = self.path(number).with_extension("new");
            let is_taken = self.path(number).exists();
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) if !is_taken => break (path, file),
                Ok(_) => fs::remove_file(&path).with_context(keeping)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(keeping),
            }
        };
        let letter = Letter {
            number,
            bytes: event.len() as u64,
            ..letter.clone()
        };
        let mut content = serde_json::to_vec(&letter).with_context(keeping)?;
        content.push(b'\n');
        content.extend_from_slice(event);
        let written = file
            .write_all(&content)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&path, self.path(number)))
            .and_then(|()| fs::File::open(&self.directory)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.with_context(keeping)?;
        Ok(letter)
    }

    /// All letters, the oldest first.
    ///
    /// # Errors
    /// The directory can't be read, or a file in it is no letter.
    pub fn list(&self) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        for number in self.numbers()? {
            match self.head(number) {
                // Dropped meanwhile.
                Ok(None) => {}
                Ok(Some((letter, _))) => letters.push(letter),
                Err(error) => return Err(error),
            }
        }
        Ok(letters)
    }

    /// A letter, and where its event begins in the file.
    fn head(&self, number: u64) -> Result<Option<(Letter, usize)>> {
        use std::io::{BufRead as _, Read as _};
        let path = self.path(number);
        let reading = || format!("reading the dead letter {}", path.display());
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(reading)?,
        };
        let mut line = Vec::new();
        io::BufReader::new(file.take(HEAD_BYTES_MAX as u64))
            .read_until(b'\n', &mut line)
            .with_context(reading)?;
        let letter: Letter = serde_json::from_slice(&line).with_context(reading)?;
        Ok(Some((Letter { number, ..letter }, line.len())))
    }

    /// A letter with its event.
    ///
    /// # Errors
    /// There is none with this number, or it can't be read.
    pub fn read(&self, number: u64) -> Result<(Letter, Vec<u8>)> {
        let Some((letter, begin)) = self.head(number)? else {
            bail!(
                "there is no dead letter {number} in {}; `counterfoil errors list` lists them",
                self.directory.display()
            );
        };
        let path = self.path(number);
        let mut content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let event = content.split_off(begin.min(content.len()));
        if event.len() as u64 != letter.bytes {
            bail!(
                "{} has {} bytes of an event of {}: something has cut it off",
                path.display(),
                event.len(),
                letter.bytes
            );
        }
        Ok((letter, event))
    }

    /// Removes a letter for good.
    ///
    /// # Errors
    /// It can't be removed. That it isn't there is none.
    pub fn drop_letter(&self, number: u64) -> Result<()> {
        let path = self.path(number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What the status says of what somebody refuses; letters that are no later than `made_up_ns` don't count.
    pub fn problem(&self, refused_by: &str, made_up_ns: i64) -> Option<String> {
        let letters = match self.list() {
            Ok(letters) => letters,
            Err(error) => return Some(format!("{error:#}")),
        };
        let open: Vec<&Letter> = letters
            .iter()
            .filter(|letter| letter.refused_by == refused_by && letter.at_ns > made_up_ns)
            .collect();
        let last = open.last()?;
        Some(format!(
            "{refused_by} refuses {} of {}, so targets lack what is in {}: {}; `counterfoil errors list` has them, and `counterfoil errors retry` sends all files again once the reason is gone",
            if open.len() == 1 {
                "an event".to_owned()
            } else {
                format!("{} events", open.len())
            },
            last.file,
            if open.len() == 1 { "it" } else { "them" },
            last.reason
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_keep_their_bytes_and_can_be_listed_read_and_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store {
            directory: directory.path().join("dead-letters"),
        };
        assert_eq!(store.list().expect("nothing yet"), []);
        assert_eq!(store.problem("kafka", 0), None);
        let letter = |at_ns| Letter {
            at_ns,
            refused_by: "kafka".to_owned(),
            reason: "too large".to_owned(),
            file: "/srv/a.dat".to_owned(),
            record: Some(7),
            ..Letter::default()
        };
        let event: Vec<u8> = (0..100_000).map(|i| i as u8).collect();
        let first = store.keep(&letter(10), &event).expect("there is room");
        let second = store.keep(&letter(20), b"").expect("there is room");
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(store.list().expect("two"), [first.clone(), second]);
        assert_eq!(store.read(1).expect("the first"), (first, event));
        let problem = store.problem("kafka", 0).expect("two letters");
        assert!(
            problem.contains("refuses 2 events of /srv/a.dat"),
            "{problem}"
        );
        assert!(
            store
                .problem("kafka", 10)
                .expect("one")
                .contains("an event")
        );
        assert_eq!(store.problem("kafka", 20), None);
        assert_eq!(store.problem("other", 0), None);
        store.drop_letter(1).expect("it is there");
        store.drop_letter(1).expect("nothing to do");
        assert!(store.read(1).is_err());
        // Numbers aren't given twice while a later one is there.
        assert_eq!(store.keep(&letter(30), b"x").expect("room").number, 3);
        // What was cut off isn't taken for the event.
        let path = store.path(3);
        let content = fs::read(&path).expect("a letter");
        fs::write(&path, &content[..content.len() - 1]).expect("writing");
        assert!(store.read(3).is_err());
    }
}
