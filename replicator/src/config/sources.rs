//! What a configuration was read from, and whether that has changed since.

use super::pattern::Pattern;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Files that a configuration was read from, and patterns by which such files were looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    files: BTreeSet<PathBuf>,
    patterns: Vec<Pattern>,
}

/// What tells files as they are from files as they were. A file that isn't there has one too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    files: Vec<(PathBuf, Option<Version>)>,
    /// What the patterns find. What else lies beside it may change as it likes.
    found: Vec<PathBuf>,
}

/// Of one file: where it lies, when it was changed, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    place: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

impl Sources {
    /// With this file.
    pub(super) fn of(file: PathBuf) -> Sources {
        let mut sources = Sources::default();
        sources.add(file);
        sources
    }

    pub(super) fn add(&mut self, file: PathBuf) {
        self.files.insert(file);
    }

    pub(super) fn add_pattern(&mut self, pattern: Pattern) {
        self.patterns.push(pattern);
    }

    pub(super) fn append(&mut self, other: Sources) {
        self.files.extend(other.files);
        self.patterns.extend(other.patterns);
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// As they are now, and some others with them.
    pub fn fingerprint(&self, others: &[PathBuf]) -> Fingerprint {
        let others = others.iter().filter(|other| !self.files.contains(*other));
        let files = self.files.iter().chain(others);
        let found = self.patterns.iter().flat_map(found);
        Fingerprint {
            files: files.map(|path| (path.clone(), version(path))).collect(),
            // What can't be looked at was told when it was read.
            found: found.filter_map(Result::ok).collect(),
        }
    }
}

/// The files that a pattern finds, in order of name. A directory that isn't there has none.
pub(super) fn found(pattern: &Pattern) -> impl Iterator<Item = walkdir::Result<PathBuf>> {
    let walk = WalkDir::new(pattern.directory())
        .max_depth(pattern.depth_max().unwrap_or(usize::MAX))
        .sort_by_file_name();
    walk.into_iter().filter_map(|entry| match entry {
        // A link is followed: secrets managers and configuration tools put links there.
        Ok(entry) => {
            let is_found =
                pattern.matches(entry.path().as_os_str().as_bytes()) && entry.path().is_file();
            is_found.then(|| Ok(entry.into_path()))
        }
        Err(error) => {
            let cause = error.io_error().map(std::io::Error::kind);
            (cause != Some(std::io::ErrorKind::NotFound)).then_some(Err(error))
        }
    })
}

fn version(path: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Version {
        place: (metadata.dev(), metadata.ino()),
        changed: (metadata.mtime(), metadata.mtime_nsec()),
        size: metadata.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_what_is_looked_for_may_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("dr.toml"), "a").expect("writing");
        let mut sources = Sources::of(at("dr.toml"));
        let pattern = Pattern::absolute(directory.path(), "*.toml").expect("a pattern");
        sources.add_pattern(pattern);
        let before = sources.fingerprint(&[]);
        std::fs::write(at("dr.db-wal"), "a").expect("writing");
        assert_eq!(sources.fingerprint(&[]), before);
        std::fs::write(at("new.toml"), "").expect("writing");
        assert_ne!(sources.fingerprint(&[]), before);
        std::fs::remove_file(at("new.toml")).expect("removing");
        assert_eq!(sources.fingerprint(&[]), before);
        std::fs::write(at("dr.toml"), "ab").expect("writing");
        assert_ne!(sources.fingerprint(&[]), before);
        // One of the files is no other file.
        let now = sources.fingerprint(&[]);
        assert_eq!(sources.fingerprint(&[at("dr.toml")]), now);
        assert_ne!(sources.fingerprint(&[at("other.toml")]), now);
    }
}
