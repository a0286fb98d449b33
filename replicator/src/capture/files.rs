//! The registry of captured files: which inode has which path, and what happened to it lately.

use super::operation::Attributes;
use crate::config::Config;
use counterfoil_lane::board::Board;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Files in the registry above which those that nobody speaks of any more are forgotten.
const FILES_KEPT_MIN: usize = 4096;

/// Changes remembered per file to tell whether a read overlapped one.
const RECENT_MAX: usize = 1024;

/// Further names of one file that are remembered.
const LINKS_MAX: usize = 16;
/// Paths remembered that files had before.
const FORMER_MAX: usize = 4096;

/// Processes remembered per file that did something to it.
const REPORTS_MAX: usize = 16;

/// A file, by its inode.
pub(super) struct File {
    device: u64,
    inode: u64,
    /// Other captured paths that programs gave it, oldest first.
    links: Vec<Arc<[u8]>>,
    /// Its present path, when it has a captured one.
    pub(super) path: Option<Arc<[u8]>>,
    /// Its group.
    pub(super) group: u16,
    /// Wall clock of the last captured change, nanoseconds since 1970.
    pub(super) changed_ns: i64,
    /// Size and time of change when its directory was last looked through, if a captured change or a comparison accounts
    /// for them.
    pub(super) look: Option<(u64, i64)>,
    /// Captured processes that did something to it lately, and when.
    pub(super) reports: Vec<(u64, u64)>,
    /// The end of the file, which completes its content, is being read again.
    pub(super) completes_later: bool,
    /// Its size as captured changes and reads left it; none when that isn't known.
    pub(super) size: Option<u64>,
    /// Its content isn't in the journal yet.
    loading: bool,
    attributes_seen: Option<Attributes>,
    /// [`File::doubt`] was said of it at this value of [`Files::doubts`].
    in_doubt: Option<u64>,
    /// As they were last put into the journal.
    attributes: Option<Attributes>,
    /// Shared writable mappings of it, by process: how many there are.
    pub(super) mapped: HashMap<u64, u32>,
    recent: VecDeque<Recent>,
    /// Changes that ended before this clock may have been forgotten.
    forgotten_until: u64,
}

struct Recent {
    end: u64,
    range: Range<u64>,
}

impl File {
    /// What of `range` was changed by operations that may have been going on at `since` or later.
    pub(super) fn changed_since(&self, since: u64, range: &Range<u64>) -> Option<Range<u64>> {
        if self.forgotten_until >= since && self.forgotten_until != 0 {
            return Some(range.clone());
        }
        let mut overlap: Option<Range<u64>> = None;
        for change in self
            .recent
            .iter()
            .rev()
            .filter(|change| change.end >= since)
        {
            let common = change.range.start.max(range.start)..change.range.end.min(range.end);
            if common.start < common.end {
                overlap = Some(match overlap {
                    Some(so_far) => so_far.start.min(common.start)..so_far.end.max(common.end),
                    None => common,
                });
            }
        }
        overlap
    }

    /// Notes attributes. Gives them back when they are to go into the journal: when they are others than before, and the
    /// file's content is there already. A target that has a file's attributes has all of its content.
    pub(super) fn note_attributes(&mut self, attributes: Attributes) -> Option<Attributes> {
        let attributes = Attributes {
            modified_ns: 0,
            ..attributes
        };
        self.attributes_seen = Some(attributes);
        if self.loading {
            return None;
        }
        (self.attributes.replace(attributes) != Some(attributes)).then_some(attributes)
    }

    /// Something of it is to be read again; `doubts` are [`Files::doubts`].
    pub(super) fn doubt(&mut self, doubts: u64) {
        self.in_doubt = Some(doubts);
    }

    /// A process says that it did something to the file.
    pub(super) fn note_report(&mut self, process: u64, end: u64) {
        // Mostly the same one as before.
        if let Some(last) = self.reports.last_mut()
            && last.0 == process
        {
            last.1 = last.1.max(end);
            return;
        }
        let end = match self.reports.iter().position(|&(known, _)| known == process) {
            Some(before) => self.reports.remove(before).1.max(end),
            None => end,
        };
        if self.reports.len() == REPORTS_MAX {
            self.reports.remove(0);
        }
        self.reports.push((process, end));
    }

    /// All of the file was read: its content is in the journal. Gives attributes back as above.
    pub(super) fn note_loaded(&mut self) -> Option<Attributes> {
        self.loading = false;
        self.completes_later = false;
        self.attributes_seen
            .and_then(|attributes| self.note_attributes(attributes))
    }

    /// Notes a change.
    pub(super) fn note_change(&mut self, end: u64, range: Range<u64>) {
        if self.recent.len() == RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten_until = self.forgotten_until.max(oldest.end);
        }
        self.recent.push_back(Recent { end, range });
    }
}

/// All files.
pub(super) struct Files {
    config: Arc<Config>,
    board: &'static Board,
    /// Real directories and what the configuration calls them, where these differ (symbolic links).
    aliases: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) files: Vec<File>,
    /// Places in `files` to be used again.
    free: Vec<usize>,
    /// How many there may be before it is worth looking for those to forget.
    forget_at: usize,
    by_inode: HashMap<(u64, u64), usize>,
    by_path: HashMap<Arc<[u8]>, usize>,
    /// What was reported, under their path, of files that don't have it any more; for a while.
    former: HashMap<Arc<[u8]>, Vec<(u64, u64)>>,
    /// Grows when everything that was to be read has been.
    doubts: u64,
    /// An empty file was made: its path, and whether another one had that before.
    pub(super) made: Option<(Arc<[u8]>, bool)>,
    /// Files that turned up with content that isn't in the journal yet.
    pub(super) to_load: Vec<Arc<[u8]>>,
}

impl Files {
    pub(super) fn new(config: Arc<Config>, board: &'static Board) -> Files {
        let aliases = aliases(&config);
        Files {
            config,
            board,
            aliases,
            files: Vec::new(),
            free: Vec::new(),
            forget_at: FILES_KEPT_MIN,
            by_inode: HashMap::new(),
            by_path: HashMap::new(),
            former: HashMap::new(),
            doubts: 0,
            made: None,
            to_load: Vec::new(),
        }
    }

    /// The path as the configuration speaks of it.
    pub(super) fn configured<'p>(&self, path: &'p [u8]) -> std::borrow::Cow<'p, [u8]> {
        for (real, configured) in &self.aliases {
            if let Some(rest) = path.strip_prefix(real.as_slice()) {
                return [configured.as_slice(), rest].concat().into();
            }
        }
        path.into()
    }

    /// The group of a path, when it is captured. What is in a tree isn't: see [`super::entries`].
    pub(super) fn group_of(&self, path: &[u8]) -> Option<u16> {
        let (group, rule) = self.config.rule_for(path)?;
        (self.config.groups[group].files[rule].tree.is_none()).then_some(group as u16)
    }

    /// Where the rule of a path begins.
    pub(super) fn root_of(&self, path: &[u8]) -> Option<std::path::PathBuf> {
        let (group, rule) = self.config.rule_for(path)?;
        Some(self.config.groups[group].files[rule].pattern.directory())
    }

    /// The group of a path as a program reported it; the first when it isn't captured (any more).
    pub(super) fn group_of_reported(&self, path: &[u8]) -> u16 {
        self.group_of(&self.configured(path)).unwrap_or(0)
    }

    /// The file with this inode that a program opened as `path` some time ago. One not seen before is taken to still
    /// have that path, and to have content that isn't in the journal.
    pub(super) fn named(&mut self, device: u64, inode: u64, path: &[u8]) -> usize {
        match self.by_inode.get(&(device, inode)) {
            Some(&file) => file,
            None => self.place(device, inode, path, false),
        }
    }

    /// A program opened the inode as `path` just now: that is its path, unless it's a link to a captured file.
    /// An `empty` file has no content that could be missing in the journal.
    pub(super) fn opened(&mut self, device: u64, inode: u64, path: &[u8], empty: bool) -> usize {
        if let Some(&file) = self.by_inode.get(&(device, inode))
            && let Some(known) = &self.files[file].path
        {
            let path = self.configured(path);
            // By another link of a file that is still where it was, it is that file.
            if **known == *path
                || self.group_of(&path).is_none()
                || self.is_at(known, device, inode)
            {
                return file;
            }
        }
        self.place(device, inode, path, empty)
    }

    /// From now on this inode is the file at `path`; what had the path before has none any more. Unless it is `empty`,
    /// its content is to be loaded.
    pub(super) fn place(&mut self, device: u64, inode: u64, path: &[u8], empty: bool) -> usize {
        let path: Arc<[u8]> = self.configured(path).as_ref().into();
        let group = self.group_of(&path);
        let fresh = File {
            device,
            inode,
            links: Vec::new(),
            path: group.map(|_| Arc::clone(&path)),
            group: group.unwrap_or(0),
            changed_ns: 0,
            look: None,
            reports: Vec::new(),
            completes_later: false,
            size: None,
            loading: group.is_some() && !empty,
            attributes_seen: None,
            in_doubt: None,
            attributes: None,
            mapped: HashMap::new(),
            recent: VecDeque::new(),
            forgotten_until: 0,
        };
        let file = match self.free.pop() {
            Some(file) => {
                self.files[file] = fresh;
                file
            }
            None => {
                self.files.push(fresh);
                self.files.len() - 1
            }
        };
        self.by_inode.insert((device, inode), file);
        if group.is_some() {
            self.board.add_inode(device, inode);
            let before = self.by_path.insert(Arc::clone(&path), file);
            if let Some(before) = before {
                self.lose_path(before);
            }
            if empty {
                self.made = Some((path, before.is_some()));
            } else {
                self.to_load.push(path);
            }
        }
        file
    }

    /// Notes all captured files on another board.
    pub(super) fn move_to(&mut self, board: &'static Board) {
        self.board = board;
        for (&(device, inode), &file) in &self.by_inode {
            if self.files[file].path.is_some() {
                board.add_inode(device, inode);
            }
        }
    }

    /// Whether a path leads to this inode at present.
    pub(super) fn is_at(&self, path: &[u8], device: u64, inode: u64) -> bool {
        std::fs::symlink_metadata(std::path::Path::new(std::ffi::OsStr::from_bytes(path)))
            .is_ok_and(|there| there.dev() == device && there.ino() == inode)
    }

    /// Whether it is time for [`Files::forget`].
    pub(super) fn are_many(&self) -> bool {
        self.files.len() - self.free.len() >= self.forget_at
    }

    /// Forgets files without a path, unless lanes still `speak_of` them: a program may go on writing to a file that was
    /// removed, and that must not be taken for another with the same inode.
    pub(super) fn forget(&mut self, speak_of: &HashSet<usize>) {
        let dead = |file: &usize| self.files[*file].path.is_none() && !speak_of.contains(file);
        let dead: HashSet<usize> = (0..self.files.len()).filter(dead).collect();
        self.by_inode.retain(|_, file| !dead.contains(file));
        self.free = dead.into_iter().collect();
        self.forget_at = FILES_KEPT_MIN.max(2 * (self.files.len() - self.free.len()));
    }

    /// The file at a path.
    pub(super) fn at_path(&self, path: &[u8]) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// The file with an inode.
    pub(super) fn at_inode(&self, device: u64, inode: u64) -> Option<usize> {
        self.by_inode.get(&(device, inode)).copied()
    }

    /// The file got a new path, captured or not. What had it before has none any more.
    pub(super) fn renamed(&mut self, file: usize, to: &[u8]) {
        let from = self.files[file].path.clone();
        self.lose_path(file);
        if let Some(from) = from
            && self.by_path.get(&from) == Some(&file)
        {
            self.by_path.remove(&from);
        }
        let to: Arc<[u8]> = self.configured(to).as_ref().into();
        if let Some(group) = self.group_of(&to) {
            if let Some(before) = self.by_path.insert(Arc::clone(&to), file) {
                self.lose_path(before);
            }
            let renamed = &mut self.files[file];
            renamed.group = group;
            renamed.path = Some(Arc::clone(&to));
            self.board.add_inode(renamed.device, renamed.inode);
            // What was to be read under the old name won't be found there any more.
            if self.files[file].loading || self.files[file].in_doubt == Some(self.doubts) {
                self.to_load.push(to);
            }
        }
    }

    /// How often everything that was to be read has been.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// The inode got a further name. One that had no captured path has that now, and its content is to be loaded; one that
    /// has keeps it, and may go on under the other.
    pub(super) fn linked(&mut self, file: usize, path: &[u8]) {
        if self.files[file].path.is_none() {
            return self.renamed_in(file, path);
        }
        let path: Arc<[u8]> = self.configured(path).as_ref().into();
        let is_captured = self.group_of(&path).is_some();
        let file = &mut self.files[file];
        if is_captured && file.path.as_ref() != Some(&path) && !file.links.contains(&path) {
            if file.links.len() == LINKS_MAX {
                file.links.remove(0);
            }
            file.links.push(path);
        }
    }

    /// A captured path under which the file is still there when it isn't under its own any more.
    pub(super) fn other_link(&mut self, file: usize) -> Option<Arc<[u8]>> {
        let (device, inode) = (self.files[file].device, self.files[file].inode);
        let links = std::mem::take(&mut self.files[file].links);
        let found = links
            .iter()
            .position(|link| self.is_at(link, device, inode))?;
        self.files[file].links = links;
        Some(self.files[file].links.remove(found))
    }

    /// A file came to a captured path from one that isn't: nothing of its content is in the journal.
    pub(super) fn renamed_in(&mut self, file: usize, to: &[u8]) {
        self.files[file].loading = true;
        self.renamed(file, to);
    }

    /// Everything that was to be read has been.
    pub(super) fn no_doubts(&mut self) {
        self.doubts += 1;
    }

    /// The file at this path is gone.
    pub(super) fn removed(&mut self, path: &[u8]) -> Option<usize> {
        let file = self.by_path.remove(path)?;
        self.lose_path(file);
        Some(file)
    }

    /// A file doesn't have its path any more. What was reported of it explains what the kernel tells of that path later.
    fn lose_path(&mut self, file: usize) {
        let file = &mut self.files[file];
        let Some(path) = file.path.take() else {
            return;
        };
        if self.former.len() >= FORMER_MAX {
            self.former.clear();
        }
        let former = self.former.entry(path).or_default();
        former.extend_from_slice(&file.reports);
        let forgotten = former.len().saturating_sub(REPORTS_MAX);
        former.drain(..forgotten);
    }

    /// Captured processes that did something to the file at a path, or to one that was there before, and when.
    pub(super) fn reports(&self, path: &[u8]) -> impl Iterator<Item = &(u64, u64)> {
        let present = self.at_path(path).map(|file| &self.files[file].reports);
        present.into_iter().chain(self.former.get(path)).flatten()
    }

    /// The captured paths in a directory, at any depth.
    pub(super) fn below<'f>(
        &'f self,
        directory: &'f [u8],
    ) -> impl Iterator<Item = (&'f Arc<[u8]>, usize)> {
        let is_below = move |path: &[u8]| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        self.by_path
            .iter()
            .filter(move |(path, _)| is_below(path))
            .map(|(path, &file)| (path, file))
    }

    /// All captured paths there are.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&Arc<[u8]>, &File)> {
        self.by_path
            .iter()
            .map(|(path, &file)| (path, &self.files[file]))
    }
}

/// Directories that the configuration reaches through symbolic links: what programs open is reported by its real path.
pub(crate) fn aliases(config: &Config) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut aliases = Vec::new();
    let rules = config.groups.iter().flat_map(|group| &group.files);
    for rule in rules.filter(|rule| rule.tree.is_none()) {
        let configured = rule.pattern.directory();
        let Ok(real) = configured.canonicalize() else {
            continue;
        };
        if real != configured {
            let with_slash = |path: &std::path::Path| [path.as_os_str().as_bytes(), b"/"].concat();
            aliases.push((with_slash(&real), with_slash(&configured)));
        }
    }
    aliases.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
    aliases.dedup();
    aliases
}
