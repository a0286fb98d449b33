//! The state directory: who may use it, and what a start finds in it.
//!
//! ```text
//! lock             held by the running replicator
//! clean            written by a clean stop: boot and epoch
//! status.json      how the running replicator is doing
//! apply.lock, apply-status.json   the same of the one that applies from Kafka
//! replaced         another replicator writes to this one's target: how that was found
//! kafka-session    the last session in which events were sent to Kafka
//! journal/         see docs/journal-format.md
//! images/          see `publish::images`
//! lanes/           board, marks, rules-N, *.lane; may be put elsewhere
//! counterfoil.db   the default sink
//! ```

use crate::config::{Config, LanesAccess};
use crate::publish::images::replace;
use counterfoil_lane::REVISION;
use counterfoil_lane::board::{self, Board, BoardError};
use counterfoil_lane::rules::{self, Rule};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What is wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("{doing} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another replicator uses it.
    #[error("{} is in use by another replicator{}; stop it first, or give this site another `state` directory", path.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The lock.
        path: PathBuf,
        /// Process id of the other one, if it says.
        holder: Option<u32>,
    },
    /// The board can't be joined: made by another version, say.
    #[error("the board {} can't be used: {source}; use the version of Counterfoil that made it, or stop the captured programs, remove the lanes directory and start again: files are then read anew", path.display())]
    Board {
        /// The board.
        path: PathBuf,
        /// Why.
        source: BoardError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as a user who may write there, or choose another `state` directory"
        }
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a `state` directory on another file system",
        _ => "",
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// What a clean stop leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Clean {
    boot: String,
}

/// How a start finds the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The last stop was clean, and the host has been up since.
    pub clean: bool,
}

/// The state directory, locked for this process.
pub struct State {
    directory: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("making the directory", path))
}

/// Takes the lock of applying from Kafka for this process.
pub fn lock_for_applying(config: &Config) -> Result<File, StateError> {
    make_directory(&config.site.state)?;
    take_lock(config.site.apply_lock_path())
}

fn take_lock(path: PathBuf) -> Result<File, StateError> {
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("opening the lock", &path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = std::fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            return Err(StateError::InUse { path, holder });
        }
        Err(error) => return Err(failed("locking", &path)(error.into())),
    }
    let pid = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all(pid.as_bytes()))
        .map_err(failed("writing the lock", &path))?;
    Ok(lock)
}

impl State {
    /// Takes the directory for this process, making it if need be.
    pub fn lock(config: &Config) -> Result<(State, Start), StateError> {
        let directory = config.site.state.clone();
        make_directory(&directory)?;
        let path = config.site.lock_path();
        let lock = take_lock(path)?;
        let marker = directory.join("clean");
        let clean = std::fs::read(&marker)
            .ok()
            .and_then(|text| serde_json::from_slice::<Clean>(&text).ok())
            .is_some_and(|clean| clean.boot == boot());
        match std::fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing", &marker)(error));
            }
            _ => {}
        }
        Ok((
            State {
                directory,
                lock_path: config.site.lock_path(),
                lock,
            },
            Start { clean },
        ))
    }

    /// What there is to say when the directory isn't the one any more that was locked.
    pub fn removed(&self) -> Option<String> {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let there = std::fs::symlink_metadata(&self.lock_path).map(identity);
        let is_ours = there.ok() == self.lock.metadata().map(identity).ok();
        (!is_ours).then(|| removed(&self.directory))
    }

    /// Notes that everything was stopped in order.
    pub fn close(self) -> Result<(), StateError> {
        // The journal is closed, with everything on disk.
        crate::publish::images::settle(&self.directory.join("images"));
        let marker = self.directory.join("clean");
        let text = serde_json::to_vec(&Clean { boot: boot() }).unwrap_or_default();
        replace(&marker, &text).map_err(failed("writing", &marker))
    }
}

/// What there is to say of a state directory that somebody took away.
pub(crate) fn removed(directory: &Path) -> String {
    format!(
        "the state directory {} was removed or replaced while the replicator ran: start it again, and it reads every file anew",
        directory.display()
    )
}

/// Process id of the replicator that has the state directory, if one runs.
pub fn running(config: &Config) -> Option<u32> {
    holder(&config.site.lock_path())
}

/// Process id of the one that applies from Kafka, if one runs.
pub fn applying(config: &Config) -> Option<u32> {
    holder(&config.site.apply_lock_path())
}

/// Asks that every file be read and published again: by the replicator that runs, or else by the next.
///
/// # Errors
/// The state directory takes nothing.
pub fn ask_to_read_again(config: &Config) -> anyhow::Result<()> {
    let path = config.site.read_again_path();
    crate::publish::images::replace(&path, b"")
        .map_err(|error| anyhow::anyhow!("writing {}: {error}", path.display()))
}

/// Notes that another replicator writes to this one's target, and how that was found.
///
/// # Errors
/// The state directory takes nothing.
pub(crate) fn note_replaced(config: &Config, how: &str) -> anyhow::Result<()> {
    let path = config.site.replaced_path();
    replace(&path, how.as_bytes())
        .map_err(|error| anyhow::anyhow!("writing {}: {error}", path.display()))
}

/// Refuses to start one that was replaced, unless it is to `take_over` again: then that is forgotten once everything began
/// anew, by [`forget_replaced`].
///
/// # Errors
/// It was replaced.
pub(crate) fn check_replaced(config: &Config, take_over: bool) -> anyhow::Result<()> {
    let path = config.site.replaced_path();
    match std::fs::read_to_string(&path) {
        Ok(how) if !take_over => anyhow::bail!(
            "this replicator was replaced by another one with the same site name ({}): {how}; stop this one for good, or give its site another name; only if the other one is stopped and this one is to take over again, start it with `counterfoil run --read-again` (noted in {})",
            config.site.name,
            path.display()
        ),
        _ => Ok(()),
    }
}

/// See [`check_replaced`].
pub(crate) fn forget_replaced(config: &Config) -> Result<(), StateError> {
    let path = config.site.replaced_path();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing", &path)(error))
        }
        _ => Ok(()),
    }
}

fn holder(path: &Path) -> Option<u32> {
    let lock = File::open(path).ok()?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Some(
            std::fs::read_to_string(path)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        ),
        _ => None,
    }
}

/// Identity of the present boot of the host.
pub(crate) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Who prepares the lanes directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// The replicator that is going to read the lanes.
    Replicator,
    /// Programs that are about to start; the replicator may be of another version.
    Programs,
}

/// Permissions of what is in the lanes directory.
struct Modes {
    directory: u32,
    /// What the replicator says: board and rules.
    said: u32,
    /// Where programs leave marks, when they may only read the board.
    marks: Option<u32>,
}

impl Modes {
    /// Programs of others may make lanes and enter by name, but not list, replace or remove what isn't theirs.
    fn of(access: LanesAccess) -> Modes {
        match access {
            LanesAccess::Owner => Modes {
                directory: 0o700,
                said: 0o600,
                marks: None,
            },
            LanesAccess::Group => Modes {
                directory: 0o3730,
                said: 0o640,
                marks: Some(0o660),
            },
            LanesAccess::All => Modes {
                directory: 0o1733,
                said: 0o644,
                marks: Some(0o666),
            },
        }
    }
}

/// Makes the lanes directory ready for programs: the board, and the rules of this configuration. Programs that run already
/// learn of new rules. Lanes of an earlier boot are of programs that are no more, and their clock was another; they are
/// removed, since every start compares the files themselves.
pub fn prepare_lanes(config: &Config, whom: For) -> Result<&'static Board, StateError> {
    let directory = &config.site.lanes;
    let modes = Modes::of(config.site.lanes_access);
    make_directory(directory)?;
    let guard_path = directory.join("prepare.lock");
    let guard = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&guard_path)
        .map_err(failed("opening", &guard_path))?;
    rustix::fs::flock(&guard, FlockOperation::LockExclusive)
        .map_err(|error| failed("locking", &guard_path)(error.into()))?;
    let boot_path = directory.join("boot");
    let this_boot = boot();
    let is_cleared = std::fs::read_to_string(&boot_path).ok().as_deref() != Some(&this_boot);
    if is_cleared {
        clear_lanes(directory)?;
        put(&boot_path, this_boot.as_bytes(), 0o600).map_err(failed("writing", &boot_path))?;
    }
    let board_path = directory.join(board::FILE_NAME);
    let marks_path = directory.join(board::MARKS_FILE_NAME);
    let is_new = !board_path.exists() || marks_path.exists() != modes.marks.is_some();
    if is_new {
        // Programs that have joined a board join the one that takes its place, and mark there what they speak of. The marks
        // come or go first, so that nobody joins the new board with the marks of the old one.
        let _ = std::fs::remove_file(&marks_path);
        // Written in full, so that programs can mark gaps when the disk is full.
        let mut bytes = vec![0; board::BYTES];
        let header = board::initial_header(config.site.lane_bytes_max);
        bytes[..header.len()].copy_from_slice(&header);
        if let Some(mode) = modes.marks {
            put(&marks_path, &bytes, mode).map_err(failed("making the marks", &marks_path))?;
        }
        put(&board_path, &bytes, modes.said).map_err(failed("making the board", &board_path))?;
    } else {
        for path in [&board_path, &marks_path] {
            lengthen(path).map_err(failed("lengthening", path))?;
        }
    }
    let mut name = directory.as_os_str().as_bytes().to_vec();
    name.push(0);
    let board = board::join(&name).map_err(|source| StateError::Board {
        path: board_path.clone(),
        source,
    })?;
    if whom == For::Replicator || is_new {
        board.revision.store(REVISION, Ordering::SeqCst);
    }
    board
        .lane_bytes_max
        .store(config.site.lane_bytes_max, Ordering::Relaxed);
    board
        .lanes_bytes_max
        .store(config.site.lanes_bytes_max, Ordering::Relaxed);
    if is_cleared {
        board.lanes_bytes.store(0, Ordering::SeqCst);
    }
    announce_rules(config, directory, board, modes.said)?;
    // Last: until now nobody else could put anything in the way.
    for (path, mode) in [
        (&board_path, Some(modes.said)),
        (&marks_path, modes.marks),
        (directory, Some(modes.directory)),
    ] {
        if let Some(mode) = mode {
            permit(path, mode).map_err(failed("setting the permissions of", path))?;
        }
    }
    Ok(board)
}

/// Whether somebody else's replicator made this lanes directory: then it is to be used as it is.
pub fn is_anothers(lanes: &Path) -> bool {
    std::fs::metadata(lanes).is_ok_and(|there| {
        let own = rustix::process::geteuid();
        !own.is_root() && there.uid() != own.as_raw()
    })
}

/// Joins the lanes directory of somebody else's replicator.
pub fn join_lanes(lanes: &Path) -> Result<&'static Board, StateError> {
    let mut name = lanes.as_os_str().as_bytes().to_vec();
    name.push(0);
    board::join(&name).map_err(|source| StateError::Board {
        path: lanes.join(board::FILE_NAME),
        source,
    })
}

/// Why the board in a lanes directory can't be used, if there is one.
pub fn board_problem(lanes: &Path) -> Option<StateError> {
    let there = std::fs::symlink_metadata(lanes.join(board::FILE_NAME)).is_ok();
    there.then(|| join_lanes(lanes).err()).flatten()
}

/// An earlier version's board has less to say: there is room for the rest behind it.
fn lengthen(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let len = file.metadata()?.len() as usize;
    // A shorter one is damaged, which joining it says.
    if (board::BYTES_MIN..board::BYTES).contains(&len) {
        file.write_all(&vec![0; board::BYTES - len])?;
    }
    Ok(())
}

/// Sets permissions where they are others.
fn permit(path: &Path, mode: u32) -> io::Result<()> {
    let present = std::fs::metadata(path)?.mode() & 0o7777;
    if present == mode {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Puts a file in place at once, whatever somebody else may have put beside it.
pub(crate) fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    // Made by root on behalf of somebody else (`exec`, say), it is that one's, whose programs have to read it.
    if rustix::process::geteuid().is_root()
        && let Some(directory) = path.parent()
    {
        let owner = std::fs::metadata(directory)?;
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Puts the configuration's rules in place, unless they are there already.
fn announce_rules(
    config: &Config,
    directory: &Path,
    board: &Board,
    mode: u32,
) -> Result<(), StateError> {
    let policy_of = |group: u16| {
        let group = config.groups.get(usize::from(group));
        group.map(|group| group.policy).unwrap_or_default()
    };
    let bytes = rules::encode_with(&rules_of(config), policy_of);
    let present = board.rules.load(Ordering::SeqCst);
    let path = directory.join(rules::file_name(present));
    if present != 0 && std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return permit(&path, mode).map_err(failed("setting the permissions of", &path));
    }
    let next = directory.join(rules::file_name(present + 1));
    put(&next, &bytes, mode).map_err(failed("writing the rules", &next))?;
    board.rules.store(present + 1, Ordering::SeqCst);
    // Programs have the old ones mapped; a program that is just starting reads the number again if its file is gone.
    if present != 0 {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// The configuration's rules as programs get them. What an exclusion takes from one rule another may still want, which
/// a list where the first match decides can't say; such files are captured, and left out by the replicator.
fn rules_of(config: &Config) -> Vec<Rule> {
    let all: Vec<(u16, &crate::config::FileRule)> = config
        .groups
        .iter()
        .enumerate()
        .flat_map(|(group, rules)| rules.files.iter().map(move |rule| (group as u16, rule)))
        // What changes in trees the replicator finds by itself: programs pay nothing for them.
        .filter(|(_, rule)| rule.tree.is_none())
        .collect();
    let mut rules = Vec::new();
    for (at, (group, rule)) in all.iter().enumerate() {
        if at + 1 == all.len() {
            rules.extend(rule.exclude.iter().map(|pattern| Rule {
                group: *group,
                exclude: true,
                pattern: pattern.as_bytes().to_vec(),
            }));
        }
        let pattern = rule.pattern.as_bytes();
        rules.push(Rule {
            group: *group,
            exclude: false,
            pattern: pattern.to_vec(),
        });
        // What a program opens is reported by its real path, which may have other directories than the configuration.
        let directory = rule.pattern.directory();
        if let Ok(real) = directory.canonicalize()
            && real != directory
            && let Some(rest) = pattern.strip_prefix(directory.as_os_str().as_bytes())
        {
            let real = crate::config::Pattern::escape(real.as_os_str().as_bytes());
            rules.push(Rule {
                group: *group,
                exclude: false,
                pattern: [real.as_slice(), rest].concat(),
            });
        }
    }
    rules
}

fn clear_lanes(directory: &Path) -> Result<(), StateError> {
    for entry in std::fs::read_dir(directory).map_err(failed("reading", directory))? {
        let path = entry.map_err(failed("reading", directory))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let is_ours = [board::FILE_NAME, board::MARKS_FILE_NAME].contains(&name.as_str());
        if is_ours || name.ends_with(".lane") || name.starts_with("rules-") {
            std::fs::remove_file(&path).map_err(failed("removing", &path))?;
        }
    }
    Ok(())
}

/// The interposer's file, wherever this installation has it.
pub fn interposer_library() -> Result<PathBuf, String> {
    const NAME: &str = "libcounterfoil_interposer.so";
    if let Some(path) = std::env::var_os("COUNTERFOIL_INTERPOSER") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "COUNTERFOIL_INTERPOSER names {}, which isn't there",
                path.display()
            ))
        };
    }
    let executable = std::env::current_exe()
        .map_err(|error| format!("finding out where this program is: {error}"))?;
    let beside = executable.parent().unwrap_or(Path::new("/"));
    let places = [
        beside.join(NAME),
        beside.join("../lib/counterfoil").join(NAME),
        beside.join("../lib").join(NAME),
        beside.join("deps").join(NAME),
        beside.join("..").join(NAME),
    ];
    places.iter().find(|place| place.is_file()).and_then(|place| place.canonicalize().ok()).ok_or_else(|| {
        format!(
            "the interposer {NAME} is neither in {} nor in ../lib/counterfoil beside it; build it with `cargo build --release -p counterfoil-interposer`, or name it in COUNTERFOIL_INTERPOSER",
            beside.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_removed_or_replaced_is_told_from_the_one_that_was_locked() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("counterfoil.toml");
        let text = "[site]\nname = 'hq'\nstate = 'state'\n[[group]]\nname = 'g'\n[[group.file]]\npath = '/srv/a.dat'\n\
             organization = 'stream'\nlayout = 'newline'\n";
        std::fs::write(&path, text).expect("writing the configuration");
        let config = Config::load(&path).expect("a good configuration");
        let (first, _) = State::lock(&config).expect("nobody else has it");
        assert_eq!(first.removed(), None);
        std::fs::remove_dir_all(&config.site.state).expect("removing it");
        let said = first.removed().expect("it is gone");
        assert!(said.contains("was removed or replaced"), "{said}");
        let (second, _) = State::lock(&config).expect("this one is new");
        assert_eq!(second.removed(), None);
        assert!(first.removed().is_some(), "it is another's");
    }
}
