//! Looking: which files there are, and which of them look other than before.
//!
//! Where the kernel tells that something happened, the files it names are looked at, a moment later, so that what happens
//! in a row is looked at once. Directories that come are watched before they are listed, so nothing that appears in them
//! is missed. A directory in which files are written is *warm*: the kernel is asked to tell of names only, and the files
//! known there are looked at twice a second, until nothing has changed for a while.
//!
//! A store into a shared mapping is told by nobody, but the first one to a page changes the file's times. So all files are
//! looked at again and again, as few at a time as keeps this from being noticed; one that changed without a word is
//! compared for as long as its pages may be dirty.
//!
//! All directories are looked through at the start, once a minute, when the kernel's queue overflowed, when a volume came
//! or went, and on demand (`Progress::scans_wanted`).

use super::{Checker, Stopped, Task, Touch, What, attributes_of, changed_ns, kind_of, seen};
use crate::capture::operation::Attributes;
use crate::capture::watch::{How, Interest, Key, Noted, Told, Watch, identity};
use crate::config::Config;
use counterfoil_lane::clock;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long nothing more has to be told of a file before it is looked at.
const QUIET: Duration = Duration::from_millis(15);
/// How long a look is put off at most.
const PUT_OFF_MAX: Duration = Duration::from_millis(250);
/// A time of change as young as this may be that of a later change, too: clocks of file systems are coarse.
const COARSE_NS: i64 = 12_000_000;
/// How often what isn't told of is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Looking at it takes at most one part in so many of the time.
const POLL_PART: u32 = 12;
/// How often everything is looked through for no reason.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// When everything is looked through for the second time: what was there before the watches were set up is settled then.
const SECOND_SCAN: Duration = Duration::from_millis(500);
/// Looking through everything because something was missed takes at most one part in so many of the time.
const SCAN_PART: u32 = 4;
/// How long nothing has to be written in a warm directory before the kernel tells of its files again.
const WARM_FOR: Duration = Duration::from_secs(10);
/// Files in a directory, and in all warm ones together, above which none is made warm: looking at all of them twice a
/// second would cost more than it spares.
const WARM_FILES_MAX: usize = 4096;
const WARM_FILES_ALL_MAX: usize = 16_384;
/// A file in a warm directory that is written and no longer than this is compared now and then, since a captured write
/// hides what somebody unseen wrote just before it.
const HIDDEN_BYTES_MAX: u64 = 16 << 20;
const HIDDEN_PAUSE: Duration = Duration::from_secs(5);
/// Comparing these takes at most one part in so many of the time.
const HIDDEN_PART: u32 = 20;
/// Going round all files takes at most one part in so many of the time, and at a time about so long.
const ROUND_PART: u32 = 200;
const ROUND_STEP: Duration = Duration::from_millis(3);
/// How long a file that changed without a word is compared, and how often: as long as the kernel may keep pages dirty
/// before it writes them back, which shows in the times again.
const UNTOLD_FOR: Duration = Duration::from_secs(40);
const UNTOLD_PAUSE: Duration = Duration::from_millis(800);
/// Files compared for that at the same time.
const UNTOLD_MAX: usize = 256;

/// How a file looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looked {
    file: (u64, u64),
    size: u64,
    changed_ns: i64,
    attributes: Attributes,
}

impl Looked {
    fn of(metadata: &Metadata) -> Looked {
        Looked {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed_ns: changed_ns(metadata),
            attributes: attributes_of(metadata),
        }
    }
}

/// A directory in which captured files may be.
struct Directory {
    identity: (u64, u64),
    how: How,
    /// Any file in it may be captured; else only those that rules name.
    listed: bool,
    /// What was there when it was last looked at, by name.
    files: HashMap<Box<[u8]>, Looked>,
    warm: Option<Warm>,
    /// The look through directories that last came by.
    walk: u64,
}

struct Warm {
    /// When something was last seen to have changed.
    changed: Instant,
    /// Files that were written since.
    written: HashSet<Box<[u8]>>,
}

/// A file to be looked at.
struct Pending {
    first: Instant,
    last: Instant,
    noted: Noted,
}

/// All directories, and what is to be looked at in them.
pub(super) struct Directories {
    watch: Watch,
    directories: BTreeMap<Arc<[u8]>, Directory>,
    by_key: HashMap<Key, Vec<Arc<[u8]>>>,
    /// Files that rules name, by directory.
    named: HashMap<PathBuf, Vec<Arc<[u8]>>>,
    /// Where rules begin, and what was there.
    roots: Vec<(PathBuf, Option<(u64, u64)>)>,
    pending: HashMap<Arc<[u8]>, Pending>,
    /// Files in warm directories, as of the last time they were looked at.
    warm_files: usize,
    /// Files that changed without a word, and when.
    untold: HashMap<Arc<[u8]>, Instant>,
    /// Files in which a captured write may hide another's, to be compared when there is time.
    hidden: VecDeque<Arc<[u8]>>,
    hidden_allowed: Instant,
    /// Where the round of all files is.
    round_at: Arc<[u8]>,
    next_round: Instant,
    /// Directories that came, went or were replaced.
    changed: HashSet<Arc<[u8]>>,
    walk: u64,
    scans: u64,
    /// Something may have been missed.
    scan_wanted: bool,
    next_scan: Instant,
    scan_allowed: Instant,
    next_poll: Instant,
}

impl Directories {
    pub(super) fn new(config: &Config, watch: Watch) -> Directories {
        let mut named: HashMap<PathBuf, Vec<Arc<[u8]>>> = HashMap::new();
        let mut roots = Vec::new();
        for rule in config.groups.iter().flat_map(|group| &group.files) {
            let directory = rule.pattern.directory();
            if let Some(path) = rule.pattern.literal() {
                let path = path.as_os_str().as_bytes().into();
                named.entry(directory.clone()).or_default().push(path);
            }
            if !roots.iter().any(|(root, _)| *root == directory) {
                roots.push((directory, None));
            }
        }
        let now = Instant::now();
        Directories {
            watch,
            directories: BTreeMap::new(),
            by_key: HashMap::new(),
            named,
            roots,
            pending: HashMap::new(),
            warm_files: 0,
            untold: HashMap::new(),
            hidden: VecDeque::new(),
            hidden_allowed: now,
            round_at: Arc::from(&b""[..]),
            next_round: now + POLL_INTERVAL,
            changed: HashSet::new(),
            walk: 0,
            scans: 0,
            scan_wanted: true,
            next_scan: now,
            scan_allowed: now,
            next_poll: now + POLL_INTERVAL,
        }
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// When there is something to look at.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        if !self.changed.is_empty() {
            return now;
        }
        let pending = (!self.pending.is_empty()).then_some(now + QUIET);
        let scan = if self.scan_wanted {
            self.scan_allowed
        } else {
            self.next_scan
        };
        let mut next = scan.min(self.next_poll).min(self.next_round);
        if !self.hidden.is_empty() {
            next = next.min(self.hidden_allowed);
        }
        pending.map_or(next, |pending| pending.min(next))
    }

    /// A walk came to this directory: it is watched from now on.
    fn enter(&mut self, path: &Path, listed: bool) {
        let Ok(there) = std::fs::metadata(path) else {
            return;
        };
        let identity = (there.dev(), there.ino());
        let name: Arc<[u8]> = path.as_os_str().as_bytes().into();
        let mut before = HashMap::new();
        if let Some(known) = self.directories.get_mut(&name) {
            if known.identity == identity && known.how != How::Looked {
                known.walk = self.walk;
                known.listed |= listed;
                return;
            }
            // Another one than before, or one that could not be watched then. Its files are compared with those before.
            before = std::mem::take(&mut known.files);
            self.leave(&name);
        }
        let how = self.watch.add(path, identity.0);
        if let How::Told(key) = &how {
            let paths = self.by_key.entry(key.clone()).or_default();
            if !paths.contains(&name) {
                paths.push(Arc::clone(&name));
            }
        }
        let directory = Directory {
            identity,
            how,
            listed,
            files: before,
            warm: None,
            walk: self.walk,
        };
        self.directories.insert(name, directory);
    }

    /// Watches a directory no more. Gives the names of the files that were known in it.
    fn leave(&mut self, name: &Arc<[u8]>) -> Vec<Box<[u8]>> {
        let Some(directory) = self.directories.remove(name) else {
            return Vec::new();
        };
        if let How::Told(key) = &directory.how
            && let Some(paths) = self.by_key.get_mut(key)
        {
            paths.retain(|path| path != name);
            if paths.is_empty() {
                self.by_key.remove(key);
                self.watch.remove(path_of(name), key);
            }
        }
        directory.files.into_keys().collect()
    }

    /// Directories at or below a path that the present walk did not come by.
    fn left_behind(&self, below: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let range = below.map_or((Bound::Unbounded, Bound::Unbounded), |below| {
            (Bound::Included(below), Bound::Unbounded)
        });
        self.directories
            .range::<[u8], _>(range)
            .take_while(|(path, _)| below.is_none_or(|below| path.starts_with(below)))
            .filter(|(path, _)| {
                below.is_none_or(|below| path.len() == below.len() || path[below.len()] == b'/')
            })
            .filter(|(_, directory)| directory.walk != self.walk)
            .map(|(path, _)| Arc::clone(path))
            .collect()
    }

    /// Files are written in a directory: from now on they are looked at, and the kernel tells of names only.
    fn warm(&mut self, name: &Arc<[u8]>, written: Option<&[u8]>) {
        let Some(directory) = self.directories.get_mut(name) else {
            return;
        };
        let How::Told(key) = &directory.how else {
            return;
        };
        if let Some(warm) = &mut directory.warm {
            warm.changed = Instant::now();
        } else {
            let files = directory.files.len();
            if files > WARM_FILES_MAX || self.warm_files + files > WARM_FILES_ALL_MAX {
                return;
            }
            self.warm_files += files;
            if let Err(error) = self.watch.change(path_of(name), key, Interest::Names) {
                tracing::debug!("{}: {error}", path_of(name).display());
                self.changed.insert(Arc::clone(name));
                return;
            }
            directory.warm = Some(Warm {
                changed: Instant::now(),
                written: HashSet::new(),
            });
        }
        if let Some(warm) = &mut directory.warm
            && let Some(written) = written
            && !warm.written.contains(written)
        {
            // By inotify it can't be had; then only the times tell.
            self.watch.mark_file(path_of(&join(name, written)), key);
            warm.written.insert(written.into());
        }
    }

    /// A directory is gone or elsewhere: what is at its path next is another one, even if it looks the same.
    fn lose(&mut self, name: &Arc<[u8]>) {
        if let Some(directory) = self.directories.get_mut(name)
            && let How::Told(key) = std::mem::replace(&mut directory.how, How::Looked)
        {
            directory.warm = None;
            self.by_key.remove(&key);
        }
        self.changed.insert(Arc::clone(name));
    }

    /// A captured write may hide another's: the file is compared when there is time.
    fn suspect(&mut self, path: Arc<[u8]>, size: u64) {
        if size <= HIDDEN_BYTES_MAX && !self.hidden.contains(&path) {
            self.hidden.push_back(path);
        }
    }

    /// A comparison took so long.
    pub(super) fn compared(&mut self, took: Duration) {
        let allowed = Instant::now() + took * HIDDEN_PART;
        self.hidden_allowed = self.hidden_allowed.max(allowed);
    }

    /// Something was told of a file: it is looked at a moment later. Gives what to add to.
    fn put_off(&mut self, now: Instant, path: Arc<[u8]>) -> &mut Noted {
        let pending = self.pending.entry(path).or_insert_with(|| Pending {
            first: now,
            last: now,
            noted: Noted::default(),
        });
        pending.last = now;
        &mut pending.noted
    }

    /// Nothing was written in a warm directory for a while. Gives the files that were written before.
    fn cool(&mut self, name: &Arc<[u8]>) -> Vec<Arc<[u8]>> {
        let Some(directory) = self.directories.get_mut(name) else {
            return Vec::new();
        };
        let (Some(warm), How::Told(key)) = (directory.warm.take(), &directory.how) else {
            return Vec::new();
        };
        if let Err(error) = self.watch.change(path_of(name), key, Interest::All) {
            tracing::debug!("{}: {error}", path_of(name).display());
            self.changed.insert(Arc::clone(name));
        }
        let written = warm.written.iter().map(|file| join(name, file));
        written
            .inspect(|path| self.watch.unmark_file(path_of(path)))
            .collect()
    }
}

impl Checker {
    /// Looks at what it is time to look at.
    pub(super) fn look(&mut self) -> Result<(), Stopped> {
        self.take_told();
        let changed = std::mem::take(&mut self.directories.changed);
        for directory in arrivals_first(changed.into_iter().collect()) {
            self.walk_below(&directory)?;
        }
        self.look_at_pending(false)?;
        let now = Instant::now();
        if self.inbox.take_overflow() {
            tracing::info!("the kernel had more to tell of files than it keeps: all are looked at");
            self.directories.scan_wanted = true;
        }
        if self.inbox.take_mounts() {
            tracing::debug!(
                "a volume was mounted or unmounted: all directories are looked through"
            );
            self.directories.watch.forget_refused();
            self.directories.scan_wanted = true;
        }
        if now >= self.directories.next_poll {
            let begin = Instant::now();
            self.poll()?;
            let pause = POLL_INTERVAL.max(begin.elapsed() * POLL_PART);
            self.directories.next_poll = Instant::now() + pause;
        }
        self.look_after_hidden(now);
        if now >= self.directories.next_round {
            let begin = Instant::now();
            self.go_round()?;
            let pause = POLL_INTERVAL.max(begin.elapsed() * ROUND_PART);
            self.directories.next_round = Instant::now() + pause;
            self.look_after_untold();
        }
        let directories = &self.directories;
        if directories.scan_wanted && now >= directories.scan_allowed
            || now >= directories.next_scan
            || directories.scans < self.progress.scans_wanted.load(Ordering::SeqCst)
        {
            let begin = Instant::now();
            self.directories.scan_wanted = false;
            self.scan()?;
            let directories = &mut self.directories;
            directories.scans += 1;
            let until_next = if directories.scans == 1 {
                SECOND_SCAN
            } else {
                SCAN_INTERVAL
            };
            directories.next_scan = Instant::now() + until_next;
            directories.scan_allowed = Instant::now() + begin.elapsed() * SCAN_PART;
        }
        Ok(())
    }

    /// Takes over what the kernel told.
    fn take_told(&mut self) {
        let now = Instant::now();
        for ((key, name), noted) in self.inbox.take() {
            // What isn't known was left, or comes again under its new name.
            let Some(paths) = self.directories.by_key.get(&key).cloned() else {
                continue;
            };
            for directory in &paths {
                self.take_told_of(now, directory, &name, &noted);
            }
        }
    }

    fn take_told_of(&mut self, now: Instant, directory: &Arc<[u8]>, name: &[u8], noted: &Noted) {
        let told = noted.told;
        if name.is_empty() && told.gone {
            self.directories.lose(directory);
        }
        let path = if name.is_empty() {
            Arc::clone(directory)
        } else {
            join(directory, name)
        };
        if told.is_directory && told.named && !name.is_empty() {
            self.directories.changed.insert(Arc::clone(&path));
        }
        let is_captured = self.config.rule_for(&path).is_some();
        if !told.is_directory && (told.wrote || told.closed && self.is_warm(directory)) {
            self.directories
                .warm(directory, is_captured.then_some(name));
        }
        if !is_captured {
            return;
        }
        if told.wrote || told.closed {
            self.directories.untold.remove(&path);
        }
        self.directories.put_off(now, path).merge(noted);
        // What comes and goes in a directory changes the time of that too.
        if told.named && self.config.is_static(directory) {
            self.directories.put_off(now, Arc::clone(directory));
        }
    }

    fn is_warm(&self, directory: &Arc<[u8]>) -> bool {
        self.directories
            .directories
            .get(directory)
            .is_some_and(|directory| directory.warm.is_some())
    }

    /// Looks at files of which something was told, when nothing more is; or at once.
    fn look_at_pending(&mut self, at_once: bool) -> Result<(), Stopped> {
        if self.directories.pending.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let due: Vec<Arc<[u8]>> = self
            .directories
            .pending
            .iter()
            .filter(|(_, pending)| {
                at_once || now >= pending.last + QUIET || now >= pending.first + PUT_OFF_MAX
            })
            .map(|(path, _)| Arc::clone(path))
            .collect();
        for path in arrivals_first(due) {
            if let Some(pending) = self.directories.pending.remove(&path) {
                self.look_at(&path, pending, at_once)?;
            }
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        path: &Arc<[u8]>,
        pending: Pending,
        at_once: bool,
    ) -> Result<(), Stopped> {
        let begin = clock::now();
        let there = std::fs::symlink_metadata(path_of(path));
        if let Ok(there) = &there
            && !at_once
            && pending.first.elapsed() < PUT_OFF_MAX
            && clock::wall() - changed_ns(there) < COARSE_NS
        {
            self.directories.pending.insert(Arc::clone(path), pending);
            return Ok(());
        }
        self.compare(path, begin, there, pending.noted.told)?;
        let by: Vec<Touch> = pending
            .noted
            .by
            .into_iter()
            .map(|(who, told)| Touch {
                who,
                wrote: told.wrote,
                closed: told.closed,
                named: told.named,
            })
            .filter(|touch| touch.wrote || touch.closed || touch.named)
            .collect();
        if by.is_empty() {
            return Ok(());
        }
        let since = pending.noted.since;
        self.send(path, begin, What::Touched { by, since })
    }

    /// Looks at a file of which nothing was told.
    fn look_now(&mut self, path: &Arc<[u8]>) -> Result<bool, Stopped> {
        let begin = clock::now();
        let there = std::fs::symlink_metadata(path_of(path));
        self.compare(path, begin, there, Told::default())
    }

    /// Looks at a file and says how it is, whether it is other than before or not.
    pub(super) fn look_again(&mut self, path: &Arc<[u8]>) -> Result<(), Stopped> {
        let begin = clock::now();
        match std::fs::symlink_metadata(path_of(path)) {
            Ok(there) if self.counts(path, kind_of(&there)) => self.send(path, begin, seen(&there)),
            _ => self.send(path, begin, What::Missing),
        }
    }

    /// Compares how a file looks with how it looked, and says what is new. True when something is.
    fn compare(
        &mut self,
        path: &Arc<[u8]>,
        begin: u64,
        there: std::io::Result<Metadata>,
        told: Told,
    ) -> Result<bool, Stopped> {
        let there = match there {
            Ok(there) => Some(there).filter(|there| self.counts(path, kind_of(there))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // Nobody knows what became of it; the next look will tell.
            Err(_) if !told.named => return Ok(false),
            Err(_) => None,
        };
        let (directory, name) = split(path);
        let known = self
            .directories
            .directories
            .get_mut(directory)
            .map(|directory| &mut directory.files);
        match (there, known) {
            (Some(there), known) => {
                let looked = Looked::of(&there);
                if known.is_some_and(|known| known.insert(name.into(), looked) == Some(looked)) {
                    return Ok(false);
                }
                self.send(path, begin, seen(&there))?;
                Ok(true)
            }
            (None, known) => {
                let was_there = known.is_some_and(|known| known.remove(name).is_some());
                if was_there || told.named {
                    self.send(path, begin, What::Missing)?;
                }
                Ok(was_there)
            }
        }
    }

    /// Walks a directory that came, went or was replaced.
    fn walk_below(&mut self, directory: &Arc<[u8]>) -> Result<(), Stopped> {
        let config = Arc::clone(&self.config);
        let directories = &mut self.directories;
        directories.walk += 1;
        let mut found = Vec::new();
        let walk = config
            .scan()
            .below(path_of(directory))
            .telling(|path| directories.enter(path, true));
        // What can't be looked into is told by the next look through everything.
        found.extend(walk.flatten().map(|file| file.path));
        for directory in self.directories.named_at_or_below(directory) {
            self.directories.enter(&directory, false);
        }
        for path in &found {
            self.look_now(&path.as_os_str().as_bytes().into())?;
        }
        self.directories.watch.tell_refused();
        self.drop_left_behind(Some(directory))
    }

    /// Drops directories that a walk did not come by; what was in them is gone.
    fn drop_left_behind(&mut self, below: Option<&[u8]>) -> Result<(), Stopped> {
        for directory in self.directories.left_behind(below) {
            let paths: Vec<Arc<[u8]>> = self
                .directories
                .directories
                .get(&directory)
                .into_iter()
                .flat_map(|known| known.files.keys())
                .map(|name| join(&directory, name))
                .collect();
            for path in &paths {
                self.look_now(path)?;
            }
            self.directories.leave(&directory);
        }
        Ok(())
    }

    /// Has the next file compared in which a write may be hidden.
    fn look_after_hidden(&mut self, now: Instant) {
        if now >= self.directories.hidden_allowed
            && let Some(path) = self.directories.hidden.pop_front()
        {
            // Until it has begun, and said how long it takes.
            self.directories.hidden_allowed = now + Duration::from_millis(20);
            let pause = HIDDEN_PAUSE;
            self.ask_itself(Task::Recheck { path, pause });
        }
    }

    /// Has files compared that changed without a word.
    fn look_after_untold(&mut self) {
        let now = Instant::now();
        let untold = &mut self.directories.untold;
        untold.retain(|_, since| now.duration_since(*since) < UNTOLD_FOR);
        let due: Vec<Arc<[u8]>> = untold
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= PUT_OFF_MAX)
            .map(|(path, _)| Arc::clone(path))
            .collect();
        for path in due {
            let pause = UNTOLD_PAUSE;
            self.ask_itself(Task::Recheck { path, pause });
        }
    }

    /// Goes on with the round of all files.
    fn go_round(&mut self) -> Result<(), Stopped> {
        let begin = Instant::now();
        let mut visited = 0;
        while begin.elapsed() < ROUND_STEP && visited < self.directories.directories.len() {
            visited += 1;
            let directories = &self.directories.directories;
            let at = Arc::clone(&self.directories.round_at);
            let behind = (Bound::Excluded(at), Bound::Unbounded);
            let next = directories.range(behind).next();
            let Some((directory, known)) = next.or_else(|| directories.iter().next()) else {
                return Ok(());
            };
            let directory = Arc::clone(directory);
            // The others are looked at anyway.
            let is_told = known.warm.is_none() && known.how != How::Looked;
            let names = known.files.keys().filter(|_| is_told);
            let paths: Vec<Arc<[u8]>> = names.map(|name| join(&directory, name)).collect();
            for path in paths {
                if self.look_now(&path)? && self.directories.untold.len() < UNTOLD_MAX {
                    self.directories.untold.insert(path, Instant::now());
                }
            }
            self.directories.round_at = directory;
        }
        Ok(())
    }

    /// Looks at what the kernel doesn't tell of.
    fn poll(&mut self) -> Result<(), Stopped> {
        let directories = &mut self.directories;
        for (root, known) in &mut directories.roots {
            let now = identity(root);
            if *known != now {
                *known = now;
                directories.scan_wanted = true;
            }
        }
        let mut warm = Vec::new();
        let mut untold = Vec::new();
        let mut warm_files = 0;
        for (path, directory) in &directories.directories {
            if directory.warm.is_some() {
                warm_files += directory.files.len();
                warm.push(Arc::clone(path));
            } else if directory.how == How::Looked {
                untold.push(Arc::clone(path));
            }
        }
        directories.warm_files = warm_files;
        for directory in warm {
            self.poll_warm(&directory)?;
        }
        for directory in untold {
            self.list(&directory)?;
        }
        Ok(())
    }

    /// Looks at the files of a warm directory.
    fn poll_warm(&mut self, directory: &Arc<[u8]>) -> Result<(), Stopped> {
        let Some(known) = self.directories.directories.get(directory) else {
            return Ok(());
        };
        let paths: Vec<(Arc<[u8]>, u64)> = known
            .files
            .iter()
            .map(|(name, looked)| (join(directory, name), looked.size))
            .collect();
        for (path, size) in paths {
            if !self.look_now(&path)? {
                continue;
            }
            self.directories.warm(directory, Some(split(&path).1));
            self.directories.suspect(path, size);
        }
        let is_cold = self
            .directories
            .directories
            .get(directory)
            .and_then(|directory| directory.warm.as_ref())
            .is_some_and(|warm| warm.changed.elapsed() >= WARM_FOR);
        if is_cold {
            let written = self.directories.cool(directory);
            // Told of again from now on; what happened before that is found by looking.
            self.list(directory)?;
            for path in written {
                if let Ok(there) = std::fs::symlink_metadata(path_of(&path)) {
                    self.directories.suspect(path, there.len());
                }
            }
        }
        Ok(())
    }

    /// Lists a directory and looks at everything in it.
    fn list(&mut self, directory: &Arc<[u8]>) -> Result<(), Stopped> {
        let Some(known) = self.directories.directories.get(directory) else {
            return Ok(());
        };
        let mut paths: HashSet<Arc<[u8]>> = known
            .files
            .keys()
            .map(|name| join(directory, name))
            .collect();
        if known.listed {
            let Ok(entries) = std::fs::read_dir(path_of(directory)) else {
                self.directories.changed.insert(Arc::clone(directory));
                return Ok(());
            };
            for entry in entries.flatten() {
                let path: Arc<[u8]> = entry.path().as_os_str().as_bytes().into();
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && !self.directories.directories.contains_key(&path) {
                    self.directories.changed.insert(Arc::clone(&path));
                }
                if self.config.rule_for(&path).is_some() {
                    paths.insert(path);
                }
            }
        } else if let Some(named) = self.directories.named.get(path_of(directory)) {
            paths.extend(named.iter().cloned());
        }
        for path in paths {
            self.look_now(&path)?;
        }
        Ok(())
    }

    /// Looks through all directories.
    fn scan(&mut self) -> Result<(), Stopped> {
        self.look_at_pending(true)?;
        let config = Arc::clone(&self.config);
        let directories = &mut self.directories;
        directories.walk += 1;
        directories.watch.forget_refused();
        let mut problems = Vec::new();
        let mut found: Vec<Arc<[u8]>> = Vec::new();
        for file in config.scan().telling(|path| directories.enter(path, true)) {
            match file {
                Ok(file) => found.push(file.path.as_os_str().as_bytes().into()),
                Err(error) => problems.push(error.to_string()),
            }
        }
        for directory in self.directories.named.keys().cloned().collect::<Vec<_>>() {
            self.directories.enter(&directory, false);
        }
        self.directories.watch.tell_refused();
        self.progress.set_problems("scan", &problems);
        for (root, known) in &mut self.directories.roots {
            *known = identity(root);
        }
        let mut present = HashSet::new();
        for path in found {
            self.look_now(&path)?;
            present.insert(path);
        }
        // What was known and wasn't found is gone.
        let gone: Vec<Arc<[u8]>> = self
            .directories
            .directories
            .iter()
            .flat_map(|(directory, known)| known.files.keys().map(|name| join(directory, name)))
            .filter(|path| !present.contains(path))
            .collect();
        for path in gone {
            self.look_now(&path)?;
        }
        self.drop_left_behind(None)?;
        self.send(
            &Arc::from(&b""[..]),
            clock::now(),
            What::Scanned { present },
        )
    }
}

impl Directories {
    /// Directories of files that rules name, at or below a path.
    fn named_at_or_below(&self, path: &[u8]) -> Vec<PathBuf> {
        let path = path_of(path);
        let below = self.named.keys().filter(|named| named.starts_with(path));
        below.cloned().collect()
    }
}

/// What is there before what isn't: something that was moved is found under its new path before it is missed under the old.
fn arrivals_first(mut paths: Vec<Arc<[u8]>>) -> Vec<Arc<[u8]>> {
    if paths.len() > 1 {
        paths.sort_by_cached_key(|path| std::fs::symlink_metadata(path_of(path)).is_err());
    }
    paths
}

fn path_of(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn join(directory: &[u8], name: &[u8]) -> Arc<[u8]> {
    if directory == b"/" {
        [directory, name].concat().into()
    } else {
        [directory, b"/", name].concat().into()
    }
}

/// The directory and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
