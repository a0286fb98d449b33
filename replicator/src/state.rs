//! The state directory: who may use it, and what a start finds in it.
//!
//! ```text
//! lock             held by the running replicator
//! clean            written by a clean stop: boot and epoch
//! status.json      how the running replicator is doing
//! apply.lock, apply-status.json   the same of the one that applies from Kafka
//! kafka-session    the last session in which events were sent to Kafka
//! journal/         see docs/journal-format.md
//! images/          see `publish::images`
//! lanes/           board, rules-N, *.lane; may be put elsewhere
//! counterfoil.db   the default sink
//! ```

use crate::config::Config;
use crate::publish::images::replace;
use counterfoil_lane::REVISION;
use counterfoil_lane::board::{self, Board};
use counterfoil_lane::rules::{self, Rule};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
    /// The board was made by another version.
    #[error("{} was made by a version this one doesn't know; stop the captured programs and remove the lanes directory: their files are then read again", path.display())]
    Board {
        /// The board.
        path: PathBuf,
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
    _lock: File,
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
                _lock: lock,
            },
            Start { clean },
        ))
    }

    /// Notes that everything was stopped in order.
    pub fn close(self) -> Result<(), StateError> {
        let marker = self.directory.join("clean");
        let text = serde_json::to_vec(&Clean { boot: boot() }).unwrap_or_default();
        replace(&marker, &text).map_err(failed("writing", &marker))
    }
}

/// Process id of the replicator that has the state directory, if one runs.
pub fn running(config: &Config) -> Option<u32> {
    holder(&config.site.lock_path())
}

/// Process id of the one that applies from Kafka, if one runs.
pub fn applying(config: &Config) -> Option<u32> {
    holder(&config.site.apply_lock_path())
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
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Makes the lanes directory ready for programs: the board, and the rules of this configuration. Programs that run already
/// learn of new rules. Lanes of an earlier boot are of programs that are no more, and their clock was another; they are
/// removed, since every start compares the files themselves.
pub fn prepare_lanes(config: &Config) -> Result<&'static Board, StateError> {
    let directory = &config.site.lanes;
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
    if std::fs::read_to_string(&boot_path).ok().as_deref() != Some(&this_boot) {
        clear_lanes(directory)?;
        replace(&boot_path, this_boot.as_bytes()).map_err(failed("writing", &boot_path))?;
    }
    let board_path = directory.join(board::FILE_NAME);
    if !board_path.exists() {
        // Written in full, so that programs can mark gaps on it when the disk is full.
        let mut bytes = vec![0; board::BYTES];
        let header = board::initial_header(config.site.lane_bytes_max);
        bytes[..header.len()].copy_from_slice(&header);
        replace(&board_path, &bytes).map_err(failed("making the board", &board_path))?;
    }
    let mut name = board_path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let board = board::attach(&name).ok_or(StateError::Board { path: board_path })?;
    board
        .lane_bytes_max
        .store(config.site.lane_bytes_max, Ordering::Relaxed);
    board.revision.store(REVISION, Ordering::SeqCst);
    announce_rules(config, directory, board)?;
    Ok(board)
}

/// Puts the configuration's rules in place, unless they are there already.
fn announce_rules(config: &Config, directory: &Path, board: &Board) -> Result<(), StateError> {
    let bytes = rules::encode(&rules_of(config));
    let present = board.rules.load(Ordering::SeqCst);
    let path = directory.join(rules::file_name(present));
    if present != 0 && std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let next = directory.join(rules::file_name(present + 1));
    replace(&next, &bytes).map_err(failed("writing the rules", &next))?;
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
        if name.ends_with(".lane") || name == board::FILE_NAME || name.starts_with("rules-") {
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
