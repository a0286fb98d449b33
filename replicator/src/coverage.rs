//! Coverage: which running programs have captured files open for writing, and whether what they do there is captured.
//!
//! Read from `/proc`, once from front to back, so it is as of no one moment: what ends meanwhile is passed over. It sees
//! the processes that this user may look into (all of them, as root) and says how many it may not. A program that has a
//! file open under another name (a hard link that no rule matches) isn't seen.
//!
//! A program counts as captured when it has the interposer loaded and this site's board mapped: that is what the
//! interposer does when it joins in, and nothing else does.

mod elf;
mod proc;

use crate::capture::files::aliases;
use crate::capture::processes::{is_kernel_thread, start_of};
use crate::config::Config;
use crate::progress::Progress;
use counterfoil_lane::board;
use counterfoil_lane::reader::{Segment, SegmentError, Writer};
use elf::Elf;
use proc::Mapping;
pub use proc::processes;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files named of a program that has many open.
pub const FILES_MAX: usize = 8;

/// How often a running replicator looks, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A look may take one part in this many of the time.
const LOOK_SHARE: u32 = 100;

/// What every file of an interposer has in its name, of whatever version.
const LIBRARY: &[u8] = b"counterfoil_interposer";

/// What a look through `/proc` saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Programs that have a file of some rule open for writing, by process id.
    pub programs: Vec<Program>,
    /// Processes that this user may not look into.
    pub hidden: u64,
}

/// A running program that has captured files open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process id, as seen from here.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Path of its executable, or empty.
    pub executable: String,
    /// Its real user id.
    pub uid: u32,
    /// The files, at most [`FILES_MAX`] of them.
    pub files: Vec<OpenFile>,
    /// How many more there are.
    pub files_more: usize,
    /// Why it isn't captured; `None` when it is.
    pub uncaptured: Option<Why>,
}

/// A file that a program can write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Its path, as text for people.
    pub path: String,
    /// By a shared writable mapping, with no descriptor left.
    pub is_mapping: bool,
}

/// Why a program isn't captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No dynamic loader ran that could have loaded anything.
    Static,
    /// It uses another C library; the loader it names.
    OtherLibc(String),
    /// It was built for another kind of processor, of this many bits.
    OtherMachine(u8),
    /// The system trusts it with more than its user has, so it preloads nothing that the environment names.
    Privileged,
    /// It was running when capture was set up.
    Before,
    /// Nothing told the loader of the interposer.
    NotPreloaded,
    /// The loader was told, and the library isn't there.
    NotLoaded,
    /// The interposer is loaded, and doesn't know of any lanes directory.
    NoLanes,
    /// The interposer is loaded, and uses another site's lanes directory.
    Elsewhere(String),
    /// The interposer is loaded and was told of the right directory, and could not use it.
    NotJoined,
}

impl Why {
    /// One word for it, for machines.
    pub fn word(&self) -> &'static str {
        match self {
            Why::Static => "static",
            Why::OtherLibc(_) => "libc",
            Why::OtherMachine(_) => "machine",
            Why::Privileged => "privileged",
            Why::Before => "before",
            Why::NotPreloaded => "preload",
            Why::NotLoaded => "library",
            Why::NoLanes => "lanes",
            Why::Elsewhere(_) => "elsewhere",
            Why::NotJoined => "refused",
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Why::Static | Why::OtherLibc(_) | Why::OtherMachine(_) => {
                "it can't be captured: a running replicator finds its changes by comparing the files; to have them as \
                 they happen, use a build that is linked with this system's C library"
            }
            Why::Privileged => {
                "a running replicator finds its changes by comparing the files; to have them as they happen, start it \
                 from a process that has these rights already, under `counterfoil exec`"
            }
            Why::Before | Why::NotPreloaded => {
                "start it again under `counterfoil exec -- COMMAND`: what is running can't be captured afterwards"
            }
            Why::NotLoaded => {
                "see that the library that LD_PRELOAD names is there for this program (its root directory, its user) \
                 and start it again"
            }
            Why::NoLanes => {
                "start it again under `counterfoil exec -- COMMAND`, which sets COUNTERFOIL_LANES"
            }
            Why::Elsewhere(_) => {
                "start it again under `counterfoil exec` with this configuration; a program is captured for one site"
            }
            Why::NotJoined => {
                "see that its user may write to the lanes directory and that it lies within its root directory, and \
                 start it again with the interposer of this release"
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Static => write!(f, "is statically linked"),
            Why::OtherLibc(loader) => {
                write!(f, "uses another C library than glibc (loader {loader})")
            }
            Why::OtherMachine(32) => write!(f, "is a 32-bit program"),
            Why::OtherMachine(_) => write!(f, "is built for another kind of processor"),
            Why::Privileged => write!(
                f,
                "has more rights than its user (set-user-ID, set-group-ID or file capabilities), so nothing is preloaded"
            ),
            Why::Before => write!(f, "was running before capture was set up"),
            Why::NotPreloaded => write!(f, "was started without the interposer in LD_PRELOAD"),
            Why::NotLoaded => {
                write!(
                    f,
                    "was told to preload the interposer, which could not be loaded"
                )
            }
            Why::NoLanes => write!(
                f,
                "has the interposer loaded, but was started without COUNTERFOIL_LANES"
            ),
            Why::Elsewhere(lanes) => {
                write!(
                    f,
                    "has the interposer loaded for another site, with its lanes in {lanes}"
                )
            }
            Why::NotJoined => write!(
                f,
                "has the interposer loaded, which could not use the lanes directory"
            ),
        }
    }
}

impl Program {
    /// The files in words: the first, and how many more.
    pub fn files_text(&self) -> String {
        let more = self.files_more + self.files.len().saturating_sub(1);
        let Some(first) = self.files.first() else {
            return String::new();
        };
        let how = if first.is_mapping { " (mapped)" } else { "" };
        match more {
            0 => format!("{}{how}", first.path),
            1 => format!("{}{how} and another file", first.path),
            _ => format!("{}{how} and {more} more files", first.path),
        }
    }
}

/// Looks through `/proc`.
pub fn look(config: &Config) -> Look {
    let eye = Eye::new(config);
    let mut look = Look::default();
    let own = std::process::id();
    for pid in proc::processes().filter(|&pid| pid != own) {
        match eye.program(pid) {
            Ok(program) => look.programs.extend(program),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                look.hidden += u64::from(!is_kernel_thread(pid));
            }
            // It has ended.
            Err(_) => {}
        }
    }
    look.programs.sort_by_key(|program| program.pid);
    look
}

/// What a look needs to know.
struct Eye<'c> {
    config: &'c Config,
    /// Real directories and what the configuration calls them.
    aliases: Vec<(Vec<u8>, Vec<u8>)>,
    board_path: PathBuf,
    board: Option<(u32, u32, u64)>,
    /// When capture was set up, nanoseconds since 1970.
    set_up_ns: Option<i64>,
}

impl<'c> Eye<'c> {
    fn new(config: &'c Config) -> Eye<'c> {
        let lanes = &config.site.lanes;
        let board_path = lanes.join(board::FILE_NAME);
        let board = fs::metadata(&board_path).ok().map(|metadata| {
            let device = metadata.dev();
            (
                rustix::fs::major(device),
                rustix::fs::minor(device),
                metadata.ino(),
            )
        });
        // Written once in each boot, when the lanes directory is first made ready.
        let set_up = fs::metadata(lanes.join("boot")).ok();
        Eye {
            config,
            aliases: aliases(config),
            board_path,
            board,
            set_up_ns: set_up
                .map(|metadata| metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()),
        }
    }

    /// A process, if it has a captured file open for writing.
    fn program(&self, pid: u32) -> io::Result<Option<Program>> {
        let mut files: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            // Its permissions are how the file was opened.
            let Ok(entry) = entry else { continue };
            let is_writable = |metadata: fs::Metadata| metadata.mode() & 0o200 != 0;
            if let Ok(path) = fs::read_link(entry.path())
                && let path = path.into_os_string().into_vec()
                && self.is_captured(&path)
                && entry.metadata().is_ok_and(is_writable)
            {
                files.insert(path, false);
            }
        }
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        for mapping in proc::mappings(&maps) {
            if mapping.is_shared_writable && self.is_captured(mapping.path) {
                files.entry(mapping.path.to_vec()).or_insert(true);
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let Some(started) = start_of(pid) else {
            return Ok(None);
        };
        let name = fs::read(format!("/proc/{pid}/comm"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let files_more = files.len().saturating_sub(FILES_MAX);
        Ok(Some(Program {
            pid,
            started,
            name: text(name.trim_ascii_end()),
            executable: executable.display().to_string(),
            uid: proc::real_user(&status).unwrap_or_default(),
            files: files
                .into_iter()
                .take(FILES_MAX)
                .map(|(path, is_mapping)| OpenFile {
                    path: text(&path),
                    is_mapping,
                })
                .collect(),
            files_more,
            uncaptured: self.why_uncaptured(pid, started, &executable, &maps),
        }))
    }

    /// Whether a path that the kernel tells is of some rule.
    fn is_captured(&self, path: &[u8]) -> bool {
        // Most descriptors are no files. One that was removed has no content that could be missed.
        if path.first() != Some(&b'/') || path.ends_with(b" (deleted)") {
            return false;
        }
        self.config.rule_for(path).is_some()
            || self.aliases.iter().any(|(real, configured)| {
                path.strip_prefix(real.as_slice()).is_some_and(|rest| {
                    let path = [configured.as_slice(), rest].concat();
                    self.config.rule_for(&path).is_some()
                })
            })
    }

    fn why_uncaptured(
        &self,
        pid: u32,
        started: u64,
        executable: &Path,
        maps: &[u8],
    ) -> Option<Why> {
        let is_library = |mapping: &Mapping<'_>| file_name_contains(mapping.path, LIBRARY);
        if !proc::mappings(maps).any(|mapping| is_library(&mapping)) {
            return Some(self.why_not_loaded(pid, started, executable));
        }
        let is_ours = |mapping: &Mapping<'_>| {
            Some((mapping.device.0, mapping.device.1, mapping.inode)) == self.board
                // Some file systems (btrfs, overlays) tell another device there than to who asks for the file.
                || mapping.path == self.board_path.as_os_str().as_bytes()
        };
        // Programs of other users may only read the board; what they write is beside it.
        if proc::mappings(maps).any(|mapping| is_ours(&mapping)) {
            return None;
        }
        let other = proc::mappings(maps).find_map(|mapping| {
            let (directory, name) = split_file_name(mapping.path);
            (name == board::FILE_NAME.as_bytes()).then(|| text(directory))
        });
        if let Some(lanes) = other {
            return Some(Why::Elsewhere(lanes));
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        Some(match proc::variable(&environment, b"COUNTERFOIL_LANES") {
            None => Why::NoLanes,
            Some(lanes) if is_same_directory(lanes, &self.config.site.lanes) => Why::NotJoined,
            Some(lanes) => Why::Elsewhere(text(lanes)),
        })
    }

    fn why_not_loaded(&self, pid: u32, started: u64, executable: &Path) -> Why {
        if let Some(why) = File::open(format!("/proc/{pid}/exe"))
            .ok()
            .and_then(|file| Elf::read(&file).ok().flatten())
            .and_then(|elf| why_not_loadable(&elf, executable))
        {
            return why;
        }
        let auxiliary = fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default();
        if proc::is_secure(&auxiliary) {
            return Why::Privileged;
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if proc::variable(&environment, b"LD_PRELOAD").is_some_and(|value| contains(value, LIBRARY))
        {
            return Why::NotLoaded;
        }
        // As the program itself sees it: it may have another root directory.
        let everywhere = fs::read(format!("/proc/{pid}/root/etc/ld.so.preload"));
        let is_before = self
            .set_up_ns
            .zip(proc::started_wall_ns(started))
            .is_some_and(|(set_up, started)| started < set_up);
        if is_before || everywhere.is_ok_and(|list| contains(&list, LIBRARY)) {
            return Why::Before;
        }
        Why::NotPreloaded
    }
}

/// Why nothing can be preloaded into an executable, as far as the file tells.
fn why_not_loadable(elf: &Elf, executable: &Path) -> Option<Why> {
    match elf {
        Elf::Foreign { bits } => Some(Why::OtherMachine(*bits)),
        // The loader itself names no loader; it may be run as a program, with another one as its argument.
        Elf::Native { loader: None } => {
            let name = executable.file_name().unwrap_or_default().as_bytes();
            (!name.starts_with(b"ld-") && !name.starts_with(b"ld.so")).then_some(Why::Static)
        }
        Elf::Native {
            loader: Some(loader),
        } => {
            let name = Path::new(loader).file_name().unwrap_or_default();
            let name = name.as_bytes();
            let is_glibc = [b"ld-linux".as_slice(), b"ld64.so", b"ld.so"]
                .iter()
                .any(|known| name.starts_with(known));
            (!is_glibc).then(|| Why::OtherLibc(loader.clone()))
        }
    }
}

/// What keeps a program that is about to be run from being captured: it is named as for `execvp`. `None` when nothing
/// is known that would.
pub fn obstacle(program: &OsStr) -> Option<Why> {
    /// The kernel follows no more than this many interpreters.
    const INTERPRETERS_MAX: usize = 5;
    let mut path = find_program(program)?;
    for _ in 0..INTERPRETERS_MAX {
        let mut file = File::open(&path).ok()?;
        if let Some(elf) = Elf::read(&file).ok()? {
            return why_not_loadable(&elf, &path).or_else(|| gains_rights(&path, &file));
        }
        let mut begin = [0; 256];
        let len = file.read(&mut begin).ok()?;
        path = elf::interpreter(&begin[..len])?;
    }
    None
}

/// Where `execvp` finds a program.
fn find_program(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        })
}

/// Whether running an executable gives more rights than this process has, so that the loader heeds no environment.
fn gains_rights(path: &Path, file: &File) -> Option<Why> {
    const SET_USER: u32 = 0o4000;
    /// Without leave for its group to run it, it means something else.
    const SET_GROUP: u32 = 0o2010;
    let metadata = file.metadata().ok()?;
    // There the system grants nothing.
    if rustix::fs::fstatvfs(file).is_ok_and(|system| {
        system
            .f_flag
            .contains(rustix::fs::StatVfsMountFlags::NOSUID)
    }) {
        return None;
    }
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mode = metadata.mode();
    let gains = mode & SET_USER != 0 && metadata.uid() != user.as_raw()
        || mode & SET_GROUP == SET_GROUP && metadata.gid() != group.as_raw()
        || !user.is_root()
            && rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64]).is_ok();
    gains.then_some(Why::Privileged)
}

/// A captured program, from its lanes.
#[derive(Clone, Debug)]
pub struct LaneOwner {
    /// What its lanes say of it.
    pub writer: Writer,
    /// How many lanes it has.
    pub lanes: u64,
}

/// Who has lanes in a directory, by process number, and what can't be read there.
pub fn lane_owners(directory: &Path) -> (BTreeMap<u64, LaneOwner>, Vec<String>) {
    /// The end of the name of a lane's first segment; a lane keeps that as long as it lives.
    const FIRST: &[u8] = b".0.lane";
    let mut owners = BTreeMap::new();
    let mut unreadable = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().ends_with(FIRST) {
            continue;
        }
        match Segment::open(&entry.path()) {
            Ok(segment) => {
                let writer = segment.writer();
                let owner = owners
                    .entry(writer.process)
                    .or_insert(LaneOwner { writer, lanes: 0 });
                owner.lanes += 1;
            }
            Err(SegmentError::Unfinished | SegmentError::Unreadable(libc::ENOENT)) => {}
            Err(error) => unreadable.push(format!("{}: {error}", entry.path().display())),
        }
    }
    (owners, unreadable)
}

/// Has a running replicator look now and then, for its status.
#[derive(Debug, Default)]
pub struct Lookout {
    next: Option<Instant>,
}

impl Lookout {
    /// Looks if it is time to, and tells `progress` what it saw. The more there is to look through, the more seldom.
    pub fn look_if_due(&mut self, config: &Config, progress: &Progress) {
        let begin = Instant::now();
        if self.next.is_some_and(|next| begin < next) {
            return;
        }
        progress.set_look(look(config));
        let took = begin.elapsed();
        tracing::debug!("looking at all programs took {took:?}");
        self.next = Some(begin + LOOK_INTERVAL.max(took * LOOK_SHARE));
    }
}

/// NUL-padded text of a lane's header.
pub fn padded_text(bytes: &[u8]) -> String {
    text(bytes.split(|&byte| byte == 0).next().unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Directory and file name of an absolute path.
fn split_file_name(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn file_name_contains(path: &[u8], part: &[u8]) -> bool {
    contains(split_file_name(path).1, part)
}

fn is_same_directory(named: &[u8], directory: &Path) -> bool {
    let named = Path::new(OsStr::from_bytes(named));
    named == directory
        || named
            .canonicalize()
            .is_ok_and(|real| directory.canonicalize().is_ok_and(|other| real == other))
}

#[cfg(test)]
mod tests;
