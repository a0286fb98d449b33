//! Programs that have captured files open for writing now, and whether they are captured.
//!
//! Read from `/proc`, so it sees the programs of this user (all of them, as root) on this machine.

use super::{Finding, counted};
use counterfoil::config::Config;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Programs that are named one by one.
const PROGRAMS_MAX: usize = 20;

/// A finding for every program that writes without the interposer, or one that says how many have it.
pub(super) fn findings(config: &Config, library: Option<&Path>) -> Vec<Finding> {
    let Some(library) = library.and_then(Path::file_name) else {
        return Vec::new();
    };
    let mut captured = 0;
    let mut uncaptured: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for pid in processes().filter(|pid| *pid != std::process::id()) {
        let Some(path) = written_file(config, pid) else {
            continue;
        };
        match fs::read(format!("/proc/{pid}/maps")) {
            Ok(maps) if contains(&maps, library.as_bytes()) => captured += 1,
            Ok(_) => {
                uncaptured.insert(pid, path);
            }
            // It has ended, or isn't ours to look into.
            Err(_) => {}
        }
    }
    let hidden = uncaptured.len().saturating_sub(PROGRAMS_MAX);
    let mut findings: Vec<Finding> = uncaptured
        .into_iter()
        .take(PROGRAMS_MAX)
        .map(|(pid, path)| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Finding::warning(
                "coverage",
                format!("{} (process {pid})", name.trim_end()),
                format!("has {} open for writing, and isn't captured", path.display()),
                "start it again under `counterfoil exec -- COMMAND`: what is running can't be captured afterwards",
            )
        })
        .collect();
    if hidden > 0 {
        findings.push(Finding::warning(
            "coverage",
            "programs",
            format!("{} more like these", counted(hidden, "program")),
            "start them again under `counterfoil exec`",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "coverage",
            "programs that write now",
            format!(
                "{}, none of them uncaptured, as far as this user may see",
                captured_words(captured)
            ),
        ));
    }
    findings
}

fn captured_words(captured: usize) -> String {
    format!("{} captured", counted(captured, "program"))
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A file of some rule that a process has open for writing.
fn written_file(config: &Config, pid: u32) -> Option<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .find_map(|entry| {
            let path = fs::read_link(entry.path()).ok()?;
            config.rule_for(path.as_os_str().as_bytes())?;
            let number = entry.file_name();
            let info =
                fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_str()?)).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
            (flags & libc::O_ACCMODE != libc::O_RDONLY).then_some(path)
        })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
