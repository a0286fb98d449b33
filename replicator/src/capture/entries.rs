//! The registry of entries: files, directories and links of trees, by path.
//!
//! Unlike record files, entries are known by their path alone: no program reports on them, so nothing but a look at the
//! path says what is there. Two links to one file in trees are two entries. The inode is kept to recognise an entry that
//! was renamed.

use super::operation::{Attributes, FileKind};
use std::collections::HashMap;
use std::collections::hash_map;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What a look at an entry shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) kind: FileKind,
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    /// Last change of content or attributes; unlike the time of modification it can't be set.
    pub(super) changed_ns: i64,
}

impl Look {
    pub(super) fn new(
        (device, inode): (u64, u64),
        attributes: &Attributes,
        size: u64,
        changed_ns: i64,
    ) -> Look {
        Look {
            device,
            inode,
            kind: attributes.kind,
            size,
            modified_ns: attributes.modified_ns,
            changed_ns,
        }
    }

    /// Whether both are looks at the same file, under whatever names. An inode alone doesn't say: it is soon used again.
    fn is_same_file(&self, other: &Look) -> bool {
        (self.device, self.inode, self.kind) == (other.device, other.inode, other.kind)
            && (self.kind == FileKind::Directory
                || (self.size, self.modified_ns) == (other.size, other.modified_ns))
    }
}

/// An entry.
struct Entry {
    group: u16,
    /// The last look at it.
    look: Look,
    /// What the journal has of it, or will have when it has been read, is as of that look.
    is_settled: bool,
}

/// All entries.
#[derive(Default)]
pub(super) struct Entries {
    by_path: HashMap<Arc<[u8]>, Entry>,
    by_inode: HashMap<(u64, u64), Arc<[u8]>>,
}

/// What a look at an entry says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is as it was.
    Same,
    /// It is new, or it was changed.
    Changed,
    /// It is what was at this path before, of which nothing else changed; its new path is to be looked at all the same.
    Moved(Arc<[u8]>),
}

impl Entries {
    /// Notes a look at an entry.
    pub(super) fn note(&mut self, path: &Arc<[u8]>, group: u16, look: Look) -> News {
        let inode = (look.device, look.inode);
        if let Some(entry) = self.by_path.get_mut(path) {
            if entry.is_settled && entry.look == look {
                return News::Same;
            }
            let same_inode = (entry.look.device, entry.look.inode) == inode;
            let before = std::mem::replace(&mut entry.look, look);
            entry.is_settled = true;
            if same_inode {
                return News::Changed;
            }
            self.forget_inode(&before, path);
        }
        let moved_from = self.by_inode.get(&inode).filter(|from| {
            let known = self.by_path.get(*from);
            known.is_some_and(|known| known.group == group && known.look.is_same_file(&look))
                && !is_at(from, inode)
        });
        let moved_from = moved_from.cloned();
        if let Some(from) = &moved_from {
            self.by_path.remove(from);
        }
        let entry = Entry {
            group,
            look,
            is_settled: true,
        };
        self.by_path.insert(Arc::clone(path), entry);
        self.by_inode.insert(inode, Arc::clone(path));
        match moved_from {
            Some(from) => News::Moved(from),
            None => News::Changed,
        }
    }

    /// What is there was not read, or may have changed unseen since: the next look at it counts as news.
    pub(super) fn unsettle(&mut self, path: &[u8]) {
        if let Some(entry) = self.by_path.get_mut(path) {
            entry.is_settled = false;
        }
    }

    /// Whether there is such an entry, and the journal has what was last seen of it.
    pub(super) fn is_settled(&self, path: &[u8]) -> bool {
        self.by_path.get(path).is_some_and(|entry| entry.is_settled)
    }

    /// It was read as of this look, which may be a later one than the last. False when there is no such entry.
    pub(super) fn settle(&mut self, path: &Arc<[u8]>, look: Look) -> bool {
        let Some(entry) = self.by_path.get_mut(path) else {
            return false;
        };
        let before = std::mem::replace(&mut entry.look, look);
        entry.is_settled = true;
        if (before.device, before.inode) != (look.device, look.inode) {
            self.forget_inode(&before, path);
            let inode = (look.device, look.inode);
            self.by_inode.insert(inode, Arc::clone(path));
        }
        true
    }

    /// There is nothing at the path any more.
    pub(super) fn removed(&mut self, path: &Arc<[u8]>) {
        if let Some(entry) = self.by_path.remove(path) {
            self.forget_inode(&entry.look, path);
        }
    }

    fn forget_inode(&mut self, look: &Look, path: &Arc<[u8]>) {
        if let hash_map::Entry::Occupied(known) = self.by_inode.entry((look.device, look.inode))
            && known.get() == path
        {
            known.remove();
        }
    }

    /// All paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.by_path.keys()
    }
}

/// Whether a path leads to this inode at present.
fn is_at(path: &[u8], inode: (u64, u64)) -> bool {
    std::fs::symlink_metadata(Path::new(std::ffi::OsStr::from_bytes(path)))
        .is_ok_and(|there| (there.dev(), there.ino()) == inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(path: &Path) -> Look {
        let there = std::fs::symlink_metadata(path).unwrap();
        Look {
            device: there.dev(),
            inode: there.ino(),
            kind: super::super::check::kind_of(&there),
            size: there.len(),
            modified_ns: there.mtime() * 1_000_000_000 + there.mtime_nsec(),
            changed_ns: there.ctime() * 1_000_000_000 + there.ctime_nsec(),
        }
    }

    fn bytes(path: &Path) -> Arc<[u8]> {
        path.as_os_str().as_bytes().into()
    }

    #[test]
    fn a_renamed_file_is_recognised_and_a_link_or_another_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| directory.path().join(name));
        let mut entries = Entries::default();
        std::fs::write(&a, "content").unwrap();
        let mut note = |path: &Path| entries.note(&bytes(path), 0, look(path));
        assert_eq!(note(&a), News::Changed);
        assert_eq!(note(&a), News::Same);
        // A second name of a file that is where it was.
        std::fs::hard_link(&a, &b).unwrap();
        assert_eq!(note(&b), News::Changed);
        std::fs::remove_file(&a).unwrap();
        std::fs::rename(&b, &c).unwrap();
        assert_eq!(note(&c), News::Moved(bytes(&b)));
        // The same inode, but other content: as when a file is removed, and a new one gets its inode.
        std::fs::rename(&c, &a).unwrap();
        std::fs::write(&a, "something else").unwrap();
        assert_eq!(note(&a), News::Changed);
        entries.unsettle(&bytes(&a));
        assert_eq!(entries.note(&bytes(&a), 0, look(&a)), News::Changed);
        entries.removed(&bytes(&a));
        assert_eq!(entries.paths().count(), 1);
    }
}
