//! The state directory, the lanes, a running replicator and its journal.

use super::Finding;
use counterfoil::config::{Config, LanesAccess, Site};
use counterfoil::words::bytes;
use counterfoil_journal::{DiskStorage, JournalReader};
use rustix::fs::{Access, AtFlags, CWD, FlockOperation};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What a kind of file system means for files kept on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// Keeps what it is given, or isn't known to be otherwise.
    Local,
    /// Gone after a restart of the machine.
    Memory,
    /// Gone with the container.
    Overlay,
    /// On another machine: locks, mappings and syncs aren't what they are here.
    Network,
}

/// The directories the replicator works in, its lock and its journal.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let site = &config.site;
    let mut findings = directory(
        "state",
        &site.state,
        site.lanes_access,
        Some(config.journal.bytes_max),
    );
    if site.lanes.starts_with(&site.state) {
        if site.lanes.exists() {
            findings.extend(directory("lanes", &site.lanes, site.lanes_access, None));
        }
    } else {
        findings.extend(directory(
            "lanes",
            &site.lanes,
            site.lanes_access,
            Some(site.lane_bytes_max),
        ));
    }
    if let Some(problem) = counterfoil::state::board_problem(&site.lanes) {
        findings.push(Finding::error(
            "lanes",
            site.lanes.display(),
            problem.to_string(),
            "programs that are started now run, and aren't captured",
        ));
    }
    findings.extend(others_lanes(site));
    findings.push(running(site));
    findings.extend(journal(&site.journal_dir()));
    findings
}

/// A directory of the replicator's own: there or to be made, owned, private, on a fit disk.
fn directory(
    check: &'static str,
    path: &Path,
    access: LanesAccess,
    space_wanted: Option<u64>,
) -> Vec<Finding> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(_) => fs::metadata(path),
        Err(error) => Err(error),
    };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![to_be_made(check, path)];
        }
        Err(error) => {
            return vec![Finding::error(
                check,
                path.display(),
                format!("can't be looked at: {error}"),
                "run this as the user that the replicator runs as, and give it leave to enter the directories above",
            )];
        }
    };
    if !metadata.is_dir() {
        return vec![Finding::error(
            check,
            path.display(),
            "isn't a directory",
            "move what is there away, or configure another path",
        )];
    }
    let mut findings = Vec::new();
    if let Err(error) = allowed(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(Finding::error(
            check,
            path.display(),
            format!("this user can't work in it: {error}"),
            "run the replicator as its owner, or `chown` it",
        ));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        findings.push(Finding::warning(
            check,
            path.display(),
            format!("belongs to user {}, and this is user {own}", metadata.uid()),
            "run checks and replicator as the same user",
        ));
    }
    let is_shared = check == "lanes" && access != LanesAccess::Owner;
    if metadata.mode() & 0o077 != 0 && !is_shared {
        findings.push(Finding::warning(
            check,
            path.display(),
            format!(
                "mode {:04o}: others can get at it, and it holds what is in the files",
                metadata.mode() & 0o7777
            ),
            format!("chmod 0700 {}", path.display()),
        ));
    }
    findings.extend(on_disk(check, path, space_wanted));
    if findings.is_empty() {
        let free = free_bytes(path).map_or(String::new(), |free| format!(", {} free", bytes(free)));
        findings.push(Finding::ok(
            check,
            path.display(),
            if is_shared {
                format!("there, open to programs of others{free}")
            } else {
                format!("there, its owner's only{free}")
            },
        ));
    }
    findings
}

/// Whether the lanes of programs of other users can be read: they are their owners' only.
fn others_lanes(site: &Site) -> Option<Finding> {
    let access = site.lanes_access;
    if access == LanesAccess::Owner {
        return None;
    }
    let subject = format!("lanes_access = {:?}", access.as_str());
    Some(if may_read_everything() {
        Finding::ok("lanes", subject, "this user can read the lanes of others")
    } else {
        Finding::error(
            "lanes",
            subject,
            "this user can't read the lanes of other users' programs, nor most of what they write",
            "run the replicator as root, or with CAP_DAC_OVERRIDE (in a unit: AmbientCapabilities=CAP_DAC_OVERRIDE)",
        )
    })
}

/// Whether this process has CAP_DAC_OVERRIDE.
fn may_read_everything() -> bool {
    const CAP_DAC_OVERRIDE: u32 = 1;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & (1 << CAP_DAC_OVERRIDE) != 0)
}

/// A directory that isn't there: whether it can be made.
fn to_be_made(check: &'static str, path: &Path) -> Finding {
    let Some(above) = path.ancestors().skip(1).find(|above| above.exists()) else {
        return Finding::ok(check, path.display(), "will be made");
    };
    match allowed(above, Access::WRITE_OK | Access::EXEC_OK) {
        Err(error) => Finding::error(
            check,
            path.display(),
            format!(
                "isn't there, and this user can't make it in {}: {error}",
                above.display()
            ),
            format!("as root: install -d -m 0700 -o USER {}", path.display()),
        ),
        Ok(()) => match on_disk(check, above, None).pop() {
            Some(finding) => Finding {
                subject: path.display().to_string(),
                ..finding
            },
            None => Finding::ok(
                check,
                path.display(),
                format!("will be made in {}", above.display()),
            ),
        },
    }
}

/// Whether the file system is fit, and has room.
fn on_disk(check: &'static str, path: &Path, space_wanted: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match file_system(path) {
        Some(FileSystem::Network) => findings.push(Finding::error(
            check,
            path.display(),
            "is on a network file system, where mappings, locks and syncs don't hold what they promise here",
            "put it on a local disk",
        )),
        Some(FileSystem::Overlay) => findings.push(Finding::warning(
            check,
            path.display(),
            "is in a container's own layer, and gone when the container is removed",
            "mount a volume there",
        )),
        // Lanes may well be in memory: what is lost with them is read again from the files.
        Some(FileSystem::Memory) if check != "lanes" => findings.push(Finding::warning(
            check,
            path.display(),
            "is in memory, and gone after a restart of the machine: everything would be read again from the files",
            "put it on a disk",
        )),
        _ => {}
    }
    if let (Some(wanted), Some(free)) = (space_wanted, free_bytes(path))
        && free < wanted
    {
        let key = if check == "lanes" {
            "lane_bytes_max"
        } else {
            "the journal's bytes_max"
        };
        findings.push(Finding::warning(
            check,
            path.display(),
            format!(
                "{} free, and {key} allows for {}",
                bytes(free),
                bytes(wanted)
            ),
            "make room, or lower the limit: over it, files are read again later instead",
        ));
    }
    findings
}

/// What kind of file system a path is on.
pub(super) fn file_system(path: &Path) -> Option<FileSystem> {
    let kind = rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff;
    Some(match kind {
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 | 0x517b | 0x0102_1997 | 0x5346_414f | 0x00c3_6400 => {
            FileSystem::Network
        }
        0x794c_7630 => FileSystem::Overlay,
        0x0102_1994 | 0x8584_58f6 => FileSystem::Memory,
        _ => FileSystem::Local,
    })
}

fn free_bytes(path: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Whether this process may do something with a path.
pub(super) fn allowed(path: &Path, access: Access) -> io::Result<()> {
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).map_err(io::Error::from)
}

/// Whether a replicator holds the state directory's lock.
fn running(site: &Site) -> Finding {
    let path = site.lock_path();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::ok(
                "replicator",
                path.display(),
                "not running, and never was here",
            );
        }
        Err(error) => {
            return Finding::warning(
                "replicator",
                path.display(),
                format!("can't tell whether one is running: {error}"),
                "run this as the user that the replicator runs as",
            );
        }
    };
    // A shared lock, let go at once, so that a replicator that is just starting isn't in the way of
    // this or of another check.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Finding::ok("replicator", path.display(), "not running"),
        Err(rustix::io::Errno::WOULDBLOCK) => Finding::ok("replicator", path.display(), "running"),
        Err(error) => Finding::warning(
            "replicator",
            path.display(),
            format!("can't tell whether one is running: {error}"),
            "is the state directory on a file system without locks?",
        ),
    }
}

/// Whether the journal that is there can be read by this version.
fn journal(path: &Path) -> Option<Finding> {
    if !path.exists() {
        return None;
    }
    let looked = DiskStorage::open_existing(path)
        .map_err(anyhow::Error::new)
        .and_then(|storage| {
            let mut reader = match JournalReader::open(Arc::new(storage), 1) {
                Err(counterfoil_journal::Error::Released { first_lsn, .. }) => {
                    JournalReader::open(Arc::new(DiskStorage::open_existing(path)?), first_lsn)?
                }
                other => other?,
            };
            Ok(reader.next()?.map(|entry| (entry.epoch, entry.lsn)))
        });
    Some(match looked {
        Ok(Some((epoch, lsn))) => Finding::ok(
            "journal",
            path.display(),
            format!("readable; the oldest entry is {epoch}:{lsn}"),
        ),
        Ok(None) => Finding::ok("journal", path.display(), "readable, and empty"),
        Err(error) => Finding::error(
            "journal",
            path.display(),
            format!("{error:#}"),
            "nothing was changed; the files are the truth, and a journal that is moved away costs only reading them \
             again",
        ),
    })
}
