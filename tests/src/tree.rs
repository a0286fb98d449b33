//! Directory trees as they are on disk, to compare them entry by entry.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What an entry of a tree is, apart from its name.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `directory` or `link`.
    pub kind: &'static str,
    /// Permission bits; of a link they mean nothing.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Last modification, seconds and nanoseconds.
    pub modified: (i64, i64),
    /// What is in the file, or what the link leads to.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.content[..self.content.len().min(40)];
        write!(
            f,
            "{} {:04o} {:?} {:?}, {} bytes {}",
            self.kind,
            self.mode,
            self.owner,
            self.modified,
            self.content.len(),
            shown.escape_ascii()
        )
    }
}

/// A tree: entries by path relative to its root, which is the empty path. Sockets and pipes are left out, and names for
/// which `excluded` says so, with what is below them.
pub fn tree(root: &Path, excluded: &dyn Fn(&str) -> bool) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    add(root, Path::new(""), excluded, &mut entries)?;
    Ok(entries)
}

fn add(
    root: &Path,
    name: &Path,
    excluded: &dyn Fn(&str) -> bool,
    entries: &mut BTreeMap<PathBuf, Entry>,
) -> Result<()> {
    let path = root.join(name);
    let metadata = path
        .symlink_metadata()
        .with_context(|| format!("looking at {}", path.display()))?;
    let kind = metadata.file_type();
    let (kind, content) = if kind.is_dir() {
        ("directory", Vec::new())
    } else if kind.is_symlink() {
        let target = std::fs::read_link(&path)?;
        ("link", target.as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        let content =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ("file", content)
    } else {
        return Ok(());
    };
    let entry = Entry {
        kind,
        mode: if kind == "link" {
            0
        } else {
            metadata.mode() & 0o7777
        },
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
    };
    entries.insert(name.to_owned(), entry);
    if kind == "directory" {
        for found in
            std::fs::read_dir(&path).with_context(|| format!("listing {}", path.display()))?
        {
            let found = found?.file_name();
            if !excluded(&found.to_string_lossy()) {
                add(root, &name.join(found), excluded, entries)?;
            }
        }
    }
    Ok(())
}

/// Demands that two trees are the same: the same entries, of the same kind, permissions, owner, time and content.
pub fn assert_same_trees(
    ours: &BTreeMap<PathBuf, Entry>,
    theirs: &BTreeMap<PathBuf, Entry>,
) -> Result<()> {
    for (name, entry) in ours {
        match theirs.get(name) {
            Some(other) if other == entry => {}
            Some(other) => bail!("{name:?} is {entry:?}, but the other one is {other:?}"),
            None => bail!("{name:?} is {entry:?}, and there is no other"),
        }
    }
    match theirs.iter().find(|(name, _)| !ours.contains_key(*name)) {
        Some((name, entry)) => bail!("there is no {name:?}, but the other one is {entry:?}"),
        None => Ok(()),
    }
}
