//! What a configuration was read from, and whether that has changed since.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that a configuration was read from, and directories in which such files were looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<PathBuf>);

/// What tells files as they are from files as they were. A file that isn't there has one too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Version>)>);

/// Of one file: where it lies, when it was changed, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    place: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

impl Sources {
    pub(super) fn new(mut paths: Vec<PathBuf>) -> Sources {
        paths.sort();
        paths.dedup();
        Sources(paths)
    }

    /// As they are now, and some others with them.
    pub fn fingerprint(&self, others: &[PathBuf]) -> Fingerprint {
        let paths = self.0.iter().chain(others);
        Fingerprint(paths.map(|path| (path.clone(), version(path))).collect())
    }
}

fn version(path: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Version {
        place: (metadata.dev(), metadata.ino()),
        changed: (metadata.mtime(), metadata.mtime_nsec()),
        // A directory's changes with what is in it, on some file systems.
        size: if metadata.is_dir() { 0 } else { metadata.len() },
    })
}
