//! Programs that have captured files open for writing now, and how they are captured; and by which way changes came so
//! far, when a replicator runs.

use super::{Finding, counted};
use crate::cli::status::rereads_text;
use counterfoil::capture::identity;
use counterfoil::config::Config;
use counterfoil::coverage::{LaneOwner, Look, Program, Why, lane_owners, look, padded_text};
use counterfoil::state::running;
use counterfoil::status::Status;
use counterfoil_lane::REVISION;
use counterfoil_lane::segment::MODE_PATCHED;
use std::collections::{BTreeMap, HashMap};

/// Findings of one kind that are told one by one.
const TOLD_MAX: usize = 20;

/// Release of this program, and of the interposer that goes with it.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A finding for every program that writes without being captured, or captured in part; those that are captured are
/// put together.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let look = look(config);
    let (owners, unreadable) = lane_owners(&config.site.lanes);
    let mut findings: Vec<Finding> = unreadable
        .iter()
        .map(|lane| {
            Finding::error(
                "coverage",
                "a lane",
                format!("can't be read: {lane}"),
                "what its program writes is found only by comparing the files: start the program again with the \
                 interposer of this release",
            )
        })
        .collect();
    let (captured, uncaptured): (Vec<&Program>, Vec<&Program>) = look
        .programs
        .iter()
        .partition(|program| program.uncaptured.is_none());
    let warnings = uncaptured.iter().filter_map(|program| {
        let why = program.uncaptured.as_ref()?;
        Some(uncaptured_program(program, why))
    });
    findings.extend(bounded(warnings.collect(), "programs that aren't captured"));
    let living = living(&owners);
    findings.extend(bounded(
        living.iter().filter_map(captured_in_part).collect(),
        "programs that are captured in part",
    ));
    findings.extend(bounded(
        living.iter().filter_map(other_release).collect(),
        "programs with an interposer of another release",
    ));
    findings.extend(captured_programs(&captured, &living));
    if look.programs.is_empty() {
        findings.push(Finding::ok(
            "coverage",
            "programs that write now",
            format!("none has a captured file open for writing{}", seen(&look)),
        ));
    } else if look.hidden > 0 {
        findings.push(Finding::ok("coverage", "other processes", hidden(&look)));
    }
    if running(config).is_some()
        && let Ok(Some(status)) = Status::read(&config.site.status_path())
    {
        findings.extend(so_far(&status, &look));
    }
    findings
}

fn uncaptured_program(program: &Program, why: &Why) -> Finding {
    Finding::warning(
        "coverage",
        format!("{} (process {})", program.name, program.pid),
        format!(
            "has {} open for writing, and isn't captured: it {why} (started by user {}, {})",
            program.files_text(),
            program.uid,
            if program.executable.is_empty() {
                "executable not known"
            } else {
                &program.executable
            }
        ),
        why.help(),
    )
}

/// A captured process that is alive, by its id as seen from here.
struct Living<'o> {
    pid: u32,
    owner: &'o LaneOwner,
}

/// Those who have lanes and can be seen to live.
fn living(owners: &BTreeMap<u64, LaneOwner>) -> Vec<Living<'_>> {
    if owners.is_empty() {
        return Vec::new();
    }
    // An interposer that could not find out its namespace is taken to share ours.
    let own = identity(std::process::id()).map_or(0, |(namespace, ..)| namespace);
    let by_identity: HashMap<(u64, u32, u64), &LaneOwner> = owners
        .values()
        .map(|owner| {
            let writer = &owner.writer;
            let namespace = match writer.pid_namespace {
                0 => own,
                namespace => namespace,
            };
            ((namespace, writer.pid, writer.pid_started), owner)
        })
        .collect();
    let mut living: Vec<Living<'_>> = counterfoil::coverage::processes()
        .filter_map(|pid| {
            let owner = by_identity.get(&identity(pid)?)?;
            Some(Living { pid, owner })
        })
        .collect();
    living.sort_by_key(|process| process.pid);
    living
}

fn subject(process: &Living<'_>) -> String {
    let name = padded_text(&process.owner.writer.program);
    format!("{name} (process {})", process.pid)
}

fn captured_in_part(process: &Living<'_>) -> Option<Finding> {
    (process.owner.writer.mode & MODE_PATCHED == 0).then(|| {
        Finding::warning(
            "coverage",
            subject(process),
            "is captured by symbols only: what stdio (fprintf, fclose) flushes from within libc isn't seen as it happens, \
             and is found by comparing the files",
            "COUNTERFOIL_PATCH=0 asks for this; without it, it means that libc's code could not be changed in this \
             program (not glibc, or forbidden by the system): docs/interposer.md, \"Two modes\"",
        )
    })
}

fn other_release(process: &Living<'_>) -> Option<Finding> {
    let writer = &process.owner.writer;
    let release = padded_text(&writer.release);
    if release == RELEASE && writer.revision == REVISION {
        return None;
    }
    let release = if release.is_empty() {
        "an early release".to_owned()
    } else {
        format!("release {release}")
    };
    let message = format!(
        "is captured by the interposer of {release} (revision {}), this is {RELEASE} (revision {REVISION})",
        writer.revision
    );
    Some(if writer.revision > REVISION {
        Finding::warning(
            "coverage",
            subject(process),
            format!(
                "{message}; what this release doesn't understand is settled by reading the file"
            ),
            "upgrade the replicator to that release",
        )
    } else if writer.revision < REVISION {
        Finding::warning(
            "coverage",
            subject(process),
            format!("{message}; what it can't tell yet is found by comparing the files"),
            "start the program again when that suits: it gets the library of this release then",
        )
    } else {
        Finding::ok("coverage", subject(process), message)
    })
}

/// One line for all that are captured, or none when there are none.
fn captured_programs(captured: &[&Program], living: &[Living<'_>]) -> Option<Finding> {
    if captured.is_empty() {
        return None;
    }
    let mut by_name: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for program in captured {
        by_name.entry(&program.name).or_default().push(program.pid);
    }
    let names: Vec<String> = by_name
        .iter()
        .take(TOLD_MAX)
        .map(|(name, pids)| match pids.as_slice() {
            [pid] => format!("{name} (process {pid})"),
            pids => format!("{name} ({} processes)", pids.len()),
        })
        .chain((by_name.len() > TOLD_MAX).then(|| "and others".to_owned()))
        .collect();
    let ours = |program: &&&Program| living.iter().any(|process| process.pid == program.pid);
    let with_lanes = captured.iter().filter(ours).count();
    Some(Finding::ok(
        "coverage",
        "programs that write now",
        format!(
            "{} captured, {with_lanes} with lanes (the others have changed nothing yet): {}",
            counted(captured.len(), "program"),
            names.join(", ")
        ),
    ))
}

fn seen(look: &Look) -> String {
    if look.hidden == 0 {
        String::new()
    } else {
        format!("; {}", hidden(look))
    }
}

fn hidden(look: &Look) -> String {
    let root = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "; root sees all"
    };
    format!(
        "this user may not look into {}: whether captured files are open there isn't known{root}",
        if look.hidden == 1 {
            "1 process".to_owned()
        } else {
            format!("{} processes", look.hidden)
        }
    )
}

/// What the running replicator has seen since its start.
fn so_far(status: &Status, look: &Look) -> Vec<Finding> {
    let coverage = &status.coverage;
    let mut findings = vec![Finding::ok(
        "coverage",
        "changes so far",
        format!(
            "{} records captured, {} found by reading again, {} loaded; {} settled by re-reading ({})",
            coverage.records_captured,
            coverage.records_found,
            coverage.records_loaded,
            status.rereads,
            rereads_text(&coverage.rereads)
        ),
    )];
    let ended = coverage.uncaptured.iter().filter(|writer| {
        writer.last_ns != 0
            && !look
                .programs
                .iter()
                .any(|program| program.pid == writer.pid)
    });
    let ended = ended.map(|writer| {
        Finding::warning(
            "coverage",
            writer.who(),
            format!(
                "changed {} without being captured",
                writer.files.first().map_or("a file", String::as_str)
            ),
            "its changes were found by comparing the files; to have them as they happen, start it under \
             `counterfoil exec -- COMMAND`",
        )
    });
    findings.extend(bounded(
        ended.collect(),
        "programs that changed files uncaptured",
    ));
    findings
}

/// The first of many, and how many more.
fn bounded(mut findings: Vec<Finding>, what: &str) -> Vec<Finding> {
    let more = findings.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        findings.truncate(TOLD_MAX);
        findings.push(Finding::warning(
            "coverage",
            what,
            format!("{more} more like these"),
            "`counterfoil status --json` lists them",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use counterfoil_lane::reader::Writer;

    fn owner(release: &str, revision: u32, mode: u32) -> LaneOwner {
        let padded = |text: &str| {
            let mut bytes = [0; 16];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            bytes
        };
        LaneOwner {
            writer: Writer {
                process: 1,
                lane: 0,
                pid: 7,
                uid: 0,
                owner: 0,
                pid_started: 1,
                pid_namespace: 0,
                program: padded("payroll"),
                revision,
                mode,
                release: padded(release),
            },
            lanes: 1,
        }
    }

    #[test]
    fn an_interposer_of_another_revision_is_a_warning_and_of_another_release_is_said() {
        let level = |release: &str, revision| {
            let owner = owner(release, revision, MODE_PATCHED);
            let process = Living {
                pid: 7,
                owner: &owner,
            };
            other_release(&process).map(|finding| (finding.level, finding.help.is_some()))
        };
        assert_eq!(level(RELEASE, REVISION), None);
        assert_eq!(level("9.9.9", REVISION), Some((Level::Ok, false)));
        assert_eq!(level("9.9.9", REVISION + 1), Some((Level::Warning, true)));
        assert_eq!(level("", REVISION - 1), Some((Level::Warning, true)));
    }

    #[test]
    fn only_symbols_is_a_warning_with_name_and_process() {
        let finding = |mode| {
            let owner = owner(RELEASE, REVISION, mode);
            captured_in_part(&Living {
                pid: 8,
                owner: &owner,
            })
        };
        assert_eq!(finding(MODE_PATCHED), None);
        assert_eq!(finding(0).unwrap().subject, "payroll (process 8)");
    }

    #[test]
    fn many_findings_become_a_bounded_list() {
        let one = Finding::warning("coverage", "x", "y", "z");
        assert_eq!(bounded(vec![one.clone(); TOLD_MAX], "x").len(), TOLD_MAX);
        let many = bounded(vec![one; TOLD_MAX + 5], "x");
        assert_eq!(many.len(), TOLD_MAX + 1);
        assert!(many[TOLD_MAX].message.starts_with("5 more"));
    }
}
