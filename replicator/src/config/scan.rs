//! Walks the directories of the rules for files that exist now.
//!
//! Memory is bounded by the depth of the tree, not by the number of files: the order is that of
//! the directories, and a file that several rules match is recognised by its first rule.

use super::Config;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// An existing file that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Absolute path.
    pub path: PathBuf,
    /// Index of its group.
    pub group: usize,
    /// Index of its rule in the group.
    pub file: usize,
}

/// A place the walk couldn't look into.
#[derive(Debug, thiserror::Error)]
#[error(
    "looking for files in {}: {source}; give the user that runs this leave to read it, or leave it \
     out of the rule with `exclude`",
    path.display()
)]
pub struct ScanError {
    /// The directory or file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Iterator over existing files that match; see [`Config::scan`].
///
/// An error is about one directory; iteration goes on after it. Directories that aren't there are
/// no error, as they may come.
pub struct Scan<'a> {
    config: &'a Config,
    /// Rules not begun yet, last first.
    rules: Vec<(usize, usize)>,
    /// The rule being walked, and how deep.
    current: Option<((usize, usize), usize, walkdir::IntoIter)>,
    /// Only what is in or below this directory.
    below: Option<&'a Path>,
    /// Is told of each directory before it is listed.
    on_directory: Option<OnDirectory<'a>>,
}

/// See [`Scan::telling`].
type OnDirectory<'a> = Box<dyn FnMut(&Path) + 'a>;

impl std::fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(config: &'a Config) -> Scan<'a> {
        let mut rules: Vec<(usize, usize)> = config
            .groups
            .iter()
            .enumerate()
            .flat_map(|(group, rules)| (0..rules.files.len()).map(move |file| (group, file)))
            .collect();
        rules.reverse();
        Scan {
            config,
            rules,
            current: None,
            below: None,
            on_directory: None,
        }
    }

    /// Only what is in or below a directory, of which no link leads elsewhere.
    pub fn below(mut self, directory: &'a Path) -> Scan<'a> {
        self.below = Some(directory);
        self
    }

    /// Tells of each directory before it is listed: what appears in one that is watched from then on
    /// is either found by the walk, or noticed.
    pub fn telling(mut self, on_directory: impl FnMut(&Path) + 'a) -> Scan<'a> {
        self.on_directory = Some(Box::new(on_directory));
        self
    }

    /// Where the walk for a rule begins, how deep it goes, and whether its root may be a link.
    fn root_of(&self, (group, file): (usize, usize)) -> Option<(PathBuf, usize, bool)> {
        let pattern = &self.config.groups[group].files[file].pattern;
        // A plain path needs no look at the directory it is in.
        let (root, depth_max) = match pattern.literal() {
            Some(path) => (path, 0),
            None => (
                pattern.directory(),
                pattern.depth_max().unwrap_or(usize::MAX),
            ),
        };
        let Some(below) = self.below.filter(|below| !root.starts_with(below)) else {
            return Some((root, depth_max, depth_max > 0));
        };
        let deeper = below.strip_prefix(&root).ok()?.components().count();
        (deeper < depth_max).then(|| (below.to_owned(), depth_max - deeper, false))
    }

    pub(super) fn of_rule(config: &'a Config, group: usize, file: usize) -> Scan<'a> {
        Scan {
            config,
            rules: vec![(group, file)],
            current: None,
            below: None,
            on_directory: None,
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<FoundFile, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((rule, depth_max, walk)) = &mut self.current else {
                let rule = self.rules.pop()?;
                if let Some((root, depth_max, may_be_link)) = self.root_of(rule) {
                    let walk = WalkDir::new(root)
                        .follow_links(false)
                        .follow_root_links(may_be_link)
                        .max_depth(depth_max)
                        .into_iter();
                    self.current = Some((rule, depth_max, walk));
                }
                continue;
            };
            let (rule, depth_max) = (*rule, *depth_max);
            match walk.next() {
                None => self.current = None,
                Some(Ok(entry)) => {
                    if let Some(tell) = &mut self.on_directory
                        && entry.depth() < depth_max
                        && (entry.file_type().is_dir()
                            || entry.depth() == 0 && entry.path().is_dir())
                    {
                        tell(entry.path());
                    }
                    if entry.file_type().is_file()
                        && self.config.rule_for(entry.path().as_os_str().as_bytes()) == Some(rule)
                    {
                        let path = entry.into_path();
                        return Some(Ok(FoundFile {
                            path,
                            group: rule.0,
                            file: rule.1,
                        }));
                    }
                }
                Some(Err(error)) => {
                    let path = error.path().map(PathBuf::from).unwrap_or_default();
                    let source = error
                        .into_io_error()
                        .unwrap_or_else(|| io::Error::other("a loop of directories"));
                    // Gone, or never there: nothing to find.
                    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                    if !absent.contains(&source.kind()) {
                        return Some(Err(ScanError { path, source }));
                    }
                }
            }
        }
    }
}
