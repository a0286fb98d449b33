//! Dead letters: events that somebody refuses for good, kept with all their bytes until a person has dealt with them.
//!
//! A directory in the state directory, with a file for each letter: a line of JSON that says what it is and why it is
//! here, and after it the event as `counterfoil.v1.ChangeEvent`. A letter is on the disk before whoever had it goes on
//! without it. The store has a limit; at the limit nothing is dead-lettered, so whoever has something to go on without
//! waits. As long as there are letters that nothing has made up for, the status says so.

use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Letters that the store holds.
const LETTERS_MAX: usize = 10_000;
/// Bytes that their events have together.
const BYTES_MAX: u64 = 1 << 30;
/// The first line of a letter is no longer.
const HEAD_BYTES_MAX: usize = 1 << 20;
const EXTENSION: &str = "letter";
/// Of the file that asks for a letter to be tried again.
const ASKED_EXTENSION: &str = "retry";
/// [`Letter::op`] of one that says that a file is passed over.
pub const STOP: &str = "stop";

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
    /// The file's table keeps every change, so what comes later doesn't make up for this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub history: bool,
    /// In such a table: where the record was deleted next, if a later change of it was that, as [`Letter::position`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub deleted_at: String,
    /// When that was captured, nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deleted_ns: i64,
    /// In such a table: a later change of the record has come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub followed: bool,
    /// When it was last tried in vain, nanoseconds since 1970; 0 for never.
    #[serde(default)]
    pub tried_ns: i64,
    /// Somebody has asked for it to be tried again, and that hasn't been done.
    #[serde(default)]
    pub asked: bool,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Letter {
    /// Whether it says that a sink passes over the file from its position on.
    pub fn is_stop(&self) -> bool {
        self.op == STOP
    }
}

/// A letter to be kept, with its event. One that has a number takes the place of the letter with that number.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The letter.
    pub letter: &'a Letter,
    /// Its event.
    pub event: &'a [u8],
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

    /// The numbers of all letters, the oldest first.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn numbers(&self) -> Result<BTreeSet<u64>> {
        self.numbers_of(EXTENSION)
    }

    /// The numbers of those that somebody has asked to be tried again.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn asked(&self) -> Result<BTreeSet<u64>> {
        self.numbers_of(ASKED_EXTENSION)
    }

    fn numbers_of(&self, extension: &str) -> Result<BTreeSet<u64>> {
        let reading = || format!("reading {}", self.directory.display());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other.with_context(reading)?,
        };
        let mut numbers = BTreeSet::new();
        for entry in entries {
            let path = entry.with_context(reading)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path.extension().is_some_and(|there| there == extension)
                && let Some(number) = stem.and_then(|stem| stem.parse().ok())
            {
                numbers.insert(number);
            }
        }
        Ok(numbers)
    }

    /// Keeps an event under a new number. When this returns, it is on the disk.
    ///
    /// # Errors
    /// The disk takes nothing, or the store is full.
    pub fn keep(&self, letter: &Letter, event: &[u8]) -> Result<Letter> {
        let letter = Letter {
            number: 0,
            ..letter.clone()
        };
        let draft = Draft {
            letter: &letter,
            event,
        };
        let mut kept = self.keep_all(&[draft])?;
        kept.pop().context("keeping a dead letter")
    }

    /// Keeps letters, each under a new number or instead of the one with its number. When this returns, they are on the
    /// disk. After an error some may be.
    ///
    /// # Errors
    /// The disk takes nothing, or the store is full.
    pub fn keep_all(&self, drafts: &[Draft<'_>]) -> Result<Vec<Letter>> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let keeping = || format!("keeping a dead letter in {}", self.directory.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(keeping)?;
        let numbers = self.numbers()?;
        self.check_room(&numbers, drafts)?;
        let mut last = numbers.last().copied().unwrap_or(0);
        let mut kept = Vec::with_capacity(drafts.len());
        for draft in drafts {
            kept.push(self.write(draft, &mut last).with_context(keeping)?);
        }
        fs::File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .with_context(keeping)?;
        Ok(kept)
    }

    /// Whether all of it has room beside what is there.
    fn check_room(&self, numbers: &BTreeSet<u64>, drafts: &[Draft<'_>]) -> Result<()> {
        let lengths = numbers.iter().filter_map(|&number| {
            // One that was dropped meanwhile takes no room.
            Some(fs::metadata(self.path(number)).ok()?.len())
        });
        let there: u64 = lengths.sum();
        let more: u64 = drafts.iter().map(|draft| draft.event.len() as u64).sum();
        let is_new = |draft: &&Draft<'_>| draft.letter.number == 0;
        let count = numbers.len() + drafts.iter().filter(is_new).count();
        if count > LETTERS_MAX || there.saturating_add(more) > BYTES_MAX {
            bail!(
                "{} has no room for {} more dead letters ({} are there, {}): look at them with `counterfoil errors list`, and drop some",
                self.directory.display(),
                drafts.len(),
                numbers.len(),
                crate::words::bytes(there)
            );
        }
        Ok(())
    }

    fn write(&self, draft: &Draft<'_>, last: &mut u64) -> io::Result<Letter> {
        let mut number = draft.letter.number;
        let (path, mut file) = if number != 0 {
            let path = self.path(number).with_extension("new");
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            (path, file)
        } else {
            // Another process may keep one too: the name says who has the number.
            loop {
                *last += 1;
                number = *last;
                let path = self.path(number).with_extension("new");
                let is_taken = self.path(number).exists();
                match OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                {
                    Ok(file) if !is_taken => break (path, file),
                    Ok(_) => fs::remove_file(&path)?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let letter = Letter {
            number,
            bytes: draft.event.len() as u64,
            asked: false,
            ..draft.letter.clone()
        };
        let mut content = serde_json::to_vec(&letter)?;
        content.push(b'\n');
        content.extend_from_slice(draft.event);
        let written = file
            .write_all(&content)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&path, self.path(number)));
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| letter)
    }

    /// When letters were last put here, removed or asked for, if that can be told.
    pub fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.directory).ok()?.modified().ok()
    }

    fn asked_path(&self, number: u64) -> PathBuf {
        self.path(number).with_extension(ASKED_EXTENSION)
    }

    /// Asks for a letter to be tried again, by whoever has the sink now or later.
    ///
    /// # Errors
    /// The directory takes nothing.
    pub fn ask(&self, number: u64) -> Result<()> {
        let path = self.asked_path(number);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map(drop)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Whether somebody has asked for a letter to be tried again.
    pub fn is_asked(&self, number: u64) -> bool {
        self.asked_path(number).exists()
    }

    /// What was asked for a letter is done, or was in vain.
    ///
    /// # Errors
    /// The directory takes nothing.
    pub fn answer(&self, number: u64) -> Result<()> {
        remove(&self.asked_path(number))
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

    /// A letter without its event, if it is there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn letter(&self, number: u64) -> Result<Option<Letter>> {
        Ok(self.head(number)?.map(|(letter, _)| letter))
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
        let asked = self.is_asked(number);
        Ok(Some((
            Letter {
                number,
                asked,
                ..letter
            },
            line.len(),
        )))
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
        remove(&self.path(number))?;
        remove(&self.asked_path(number))
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

/// Removes a file; that it isn't there is no error.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
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
        // Somebody asks for one to be tried again, and it is replaced by what came later.
        store.ask(2).expect("asking");
        assert!(store.read(2).expect("the second").0.asked);
        store.answer(2).expect("answering");
        let later = Letter {
            number: 2,
            ..letter(25)
        };
        let draft = Draft {
            letter: &later,
            event: b"later",
        };
        let kept = store.keep_all(&[draft]).expect("there is room");
        assert_eq!(kept[0].number, 2);
        let (second, event) = store.read(2).expect("the second");
        assert_eq!(
            (second.at_ns, second.asked, event),
            (25, false, b"later".to_vec())
        );
        store.ask(1).expect("asking");
        store.drop_letter(1).expect("it is there");
        assert!(!store.is_asked(1));
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
