//! What the checker found of trees: entries that came, went, moved and changed.
//!
//! A change of an entry is one read of it: what was found of its content, then its attributes, which say that it is
//! complete. Until then the publisher keeps it back, so that a target has it whole or as it was before.

use super::*;
use crate::capture::entries::{Look, News};
use crate::capture::operation::FileKind;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file that was changed less than this before it was read may be changed again without a new time of change: clocks of
/// file systems tick some hundred times a second. It is looked at once more.
const TICK_NS: i64 = 20_000_000;

impl Sequencer {
    /// The group and the root of the tree that a path belongs to, if it belongs to one.
    fn tree_of(&self, path: &[u8]) -> Option<(u16, &Path)> {
        let (group, rule) = self.config.rule_for(path)?;
        let root = self.config.groups[group].files[rule].tree.as_deref()?;
        Some((group as u16, root))
    }

    /// Takes what was found, if it is of a tree.
    pub(super) fn consider_entry(&mut self, finding: &Finding) -> bool {
        let path = &finding.path;
        let Some((group, _)) = self.tree_of(path) else {
            return false;
        };
        match &finding.what {
            What::Scanned { .. } => return false,
            // Nobody reports what is written to static files, so nobody fails to.
            What::Touched { .. } => {}
            What::Missing => self.missing(path),
            What::Unreadable(reason) => {
                let problem = format!(
                    "reading {}: {reason}; it is mirrored as it was before until it can be read (see `counterfoil check`)",
                    String::from_utf8_lossy(path)
                );
                self.unreadable.insert(Arc::clone(path), problem);
                self.tell_unreadable();
                self.entries.unsettle(path);
                self.keep_entry(finding, group, Action::Abandoned);
            }
            What::Seen {
                device,
                inode,
                attributes,
                size,
                changed_ns,
            } => {
                let look = Look::new((*device, *inode), attributes, *size, *changed_ns);
                if self.entry_seen(finding, group, look) {
                    if attributes.kind == FileKind::Directory {
                        // It has no content: what a look shows is all there is.
                        self.keep_entry(finding, group, Action::Attributes(*attributes));
                    } else {
                        self.tasks.ask(Task::Check {
                            path: Arc::clone(path),
                        });
                    }
                }
            }
            What::Complete {
                device,
                inode,
                attributes,
                size,
                changed_ns,
            } => {
                if self.unreadable.remove(path).is_some() {
                    self.tell_unreadable();
                }
                let look = Look::new((*device, *inode), attributes, *size, *changed_ns);
                if !self.entries.settle(path, look) {
                    // No look through the tree has found it; one that does has it read.
                    self.keep_entry(finding, group, Action::Abandoned);
                    return true;
                }
                let age_ns = wall_at(finding.begin) - changed_ns;
                if attributes.kind == FileKind::Regular && age_ns.abs() < TICK_NS {
                    self.entries.unsettle(path);
                    self.tasks.ask(Task::Look {
                        path: Arc::clone(path),
                    });
                }
                self.keep_entry(finding, group, Action::Attributes(*attributes));
            }
            What::Abandoned => {
                self.entries.unsettle(path);
                self.keep_entry(finding, group, Action::Abandoned);
            }
            // Rounds have entries compared as a look does.
            What::Verified(_) => {}
            What::Content { .. } | What::Sum { .. } | What::Restate(_) => {
                if let Some(action) = finding.what.action() {
                    self.keep_entry(finding, group, action);
                }
            }
        }
        true
    }

    fn keep_entry(&mut self, finding: &Finding, group: u16, action: Action<'_>) {
        self.outbox.push(&Operation {
            group,
            origin: Origin::default(),
            at_ns: wall_at(finding.end),
            path: &finding.path,
            action,
        });
    }

    /// Notes that an entry is there, and whence it came. True when it has to be read.
    fn entry_seen(&mut self, finding: &Finding, group: u16, look: Look) -> bool {
        let path = &finding.path;
        self.expected.remove(path);
        // A directory that another volume is mounted on is on that volume, and says nothing of the one it is in.
        if look.kind != FileKind::Directory {
            self.directories.note(path, look.device);
        }
        let news = self.entries.note(path, group, look);
        if let News::Moved(from) = &news {
            self.expected.remove(from);
            let same_tree = self.tree_of(from).map(|(_, root)| root.to_owned())
                == self.tree_of(path).map(|(_, root)| root.to_owned());
            self.outbox.push(&Operation {
                group,
                origin: Origin::default(),
                at_ns: wall_at(finding.end),
                path: from,
                action: if same_tree {
                    Action::Renamed { to: path }
                } else {
                    Action::Removed
                },
            });
        }
        news != News::Same
    }

    /// An entry isn't where it was.
    pub(super) fn missing_entry(&mut self, path: &Arc<[u8]>, group: u16, root: &Path) {
        let file = Path::new(OsStr::from_bytes(path));
        // What is found through a link that took a directory's place is something else.
        let mut parents = file.ancestors().skip(1);
        let through_link = parents
            .by_ref()
            .take_while(|parent| *parent != root)
            .any(Path::is_symlink);
        let fate = match std::fs::symlink_metadata(file) {
            // What isn't mirrored may have taken its place.
            Ok(there) if is_mirrored(&there) && !through_link => Fate::There,
            Ok(_) => Fate::Removed,
            Err(_) => self.directories.fate_in_tree(path, root),
        };
        if !matches!(fate, Fate::Removed) {
            // What was being read of it won't be complete; it is read when it is seen again.
            self.entries.unsettle(path);
            self.outbox.push(&Operation {
                group,
                origin: Origin::default(),
                at_ns: clock::wall(),
                path,
                action: Action::Abandoned,
            });
        }
        match fate {
            Fate::There => {}
            Fate::Unknown(why) => {
                let problem = format!(
                    "{}: {why}; its rows are kept until it is known whether it was removed",
                    String::from_utf8_lossy(path)
                );
                self.lost.insert(Arc::clone(path), problem);
            }
            Fate::Removed => {
                self.entries.removed(path);
                self.outbox.push(&Operation {
                    group,
                    origin: Origin::default(),
                    at_ns: clock::wall(),
                    path,
                    action: Action::Removed,
                });
            }
        }
    }

    /// [`Sequencer::missing_entry`], if the path is of a tree.
    pub(super) fn is_missing_entry(&mut self, path: &Arc<[u8]>) -> bool {
        let Some((group, root)) = self.tree_of(path) else {
            return false;
        };
        let root = root.to_owned();
        self.missing_entry(path, group, &root);
        true
    }
}

fn is_mirrored(there: &std::fs::Metadata) -> bool {
    there.is_file() || there.is_dir() || there.is_symlink()
}
