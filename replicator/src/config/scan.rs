//! Walks the directories of the rules for files that exist now.
//!
//! Of a tree's rule that is everything below its root, and the root itself: regular files, directories and symbolic links.
//! Sockets, pipes and devices are passed over, and counted.
//!
//! Memory is bounded by the depth of the tree, not by the number of files: the order is that of
//! the directories, and a file that several rules match is recognised by its first rule.

use super::Config;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// An existing file that a rule matches; of a tree, also a directory or a symbolic link.
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
    passed_over: u64,
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
            passed_over: 0,
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
        let rule = &self.config.groups[group].files[file];
        let pattern = &rule.pattern;
        // A plain path needs no look at the directory it is in.
        let (root, depth_max) = match (&rule.tree, pattern.literal()) {
            (Some(root), _) => (root.clone(), usize::MAX),
            (None, Some(path)) => (path, 0),
            (None, None) => (
                pattern.directory(),
                pattern.depth_max().unwrap_or(usize::MAX),
            ),
        };
        let Some(below) = self.below.filter(|below| !root.starts_with(below)) else {
            // The root of a tree belongs to it, and is what it is.
            return Some((root, depth_max, depth_max > 0 && rule.tree.is_none()));
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
            passed_over: 0,
        }
    }
}

impl Scan<'_> {
    /// How many sockets, pipes and devices were found in trees so far, which aren't mirrored.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
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
                    let kind = entry.file_type();
                    let path = entry.path().as_os_str().as_bytes();
                    let of_rule = &self.config.groups[rule.0].files[rule.1];
                    let is_tree = of_rule.tree.is_some();
                    if is_tree && kind.is_dir() && !of_rule.matches(path) {
                        // With a directory everything below it is excluded.
                        walk.skip_current_dir();
                        continue;
                    }
                    if let Some(tell) = &mut self.on_directory
                        && entry.depth() < depth_max
                        && (kind.is_dir()
                            || !is_tree && entry.depth() == 0 && entry.path().is_dir())
                    {
                        tell(entry.path());
                    }
                    let fits = kind.is_file() || is_tree && (kind.is_dir() || kind.is_symlink());
                    if !fits {
                        self.passed_over += u64::from(is_tree && of_rule.matches(path));
                    } else if self.config.rule_for(path) == Some(rule) {
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
