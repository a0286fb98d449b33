//! The programs of a round, and what their files have to be.
//!
//! A program gets a script, and says after each line that it is done. So it is known, however it ended, what it did, but for the
//! one operation it was at, of which any beginning may have happened.

use super::chance_of;
use super::plan::{Plan, PlannedWorker, Role, SHARED_SIZE};
use super::tally::Tally;
use crate::disk_model::{Disk, Op};
use crate::operations::{Shape, operations, script_of, shared_operations};
use crate::programs::Program;
use crate::site::Site;
use anyhow::{Context as _, Result, bail, ensure};
use counterfoil_servers::{Process, wait_until};
use std::collections::BTreeMap;
use std::path::Path;

/// The files that programs share.
pub(super) const SHARED_RECORDS: &str = "shared.dat";
pub(super) const SHARED_LINES: &str = "shared.log";

/// One after the other, the programs that have the same files.
#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    planned: PlannedWorker,
    seed: [u64; 2],
    /// How many programs there were.
    incarnation: u64,
    /// Its files as they were before the script; of shared files nothing.
    before: Disk,
    operations: Vec<Op>,
    process: Option<Process>,
    pub(super) is_stopped: bool,
    serial: u64,
}

/// What the files are that programs share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// By offset.
    records: BTreeMap<u64, Vec<u8>>,
    /// By program, in order.
    lines: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Worker {
    pub(super) fn new(plan: &Plan, number: usize) -> Worker {
        Worker {
            number,
            planned: plan.workers[number].clone(),
            seed: [plan.seed, plan.number],
            incarnation: 0,
            before: Disk::default(),
            operations: Vec::new(),
            process: None,
            is_stopped: false,
            serial: 0,
        }
    }

    /// The pattern of its own files, and their shape.
    pub(super) fn own_files(&self) -> Option<(String, Shape)> {
        match self.planned.role {
            Role::Own(shape) => Some((format!("w{}-*.dat", self.number), shape)),
            Role::Shared { .. } => None,
        }
    }

    pub(super) fn group(&self) -> usize {
        self.planned.group
    }

    fn names(&self) -> [String; 3] {
        ["a", "b", "c"].map(|name| format!("w{}-{name}.dat", self.number))
    }

    /// A name that isn't captured.
    fn outside(&self) -> String {
        format!("w{}.tmp", self.number)
    }

    fn done_name(&self) -> String {
        format!("done-{}-{}", self.number, self.incarnation)
    }

    /// Starts the next program.
    pub(super) fn start(
        &mut self,
        site: &Site,
        program: &Program,
        clock: &[(&str, &Path)],
    ) -> Result<()> {
        self.incarnation += 1;
        let [seed, round] = self.seed;
        let mut chance = chance_of(seed, &[round, 1 + self.number as u64, self.incarnation]);
        let mut model = self.before.clone();
        self.operations = match self.planned.role {
            Role::Own(shape) => {
                let names = self.names();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let count = self.planned.operations;
                operations(
                    shape,
                    &names,
                    &self.outside(),
                    self.before.clone(),
                    count,
                    &mut chance,
                )
            }
            Role::Shared { member, members } => {
                let serials = self.serial..self.serial + self.planned.operations as u64 / 2;
                self.serial = serials.end;
                let files = [SHARED_RECORDS, SHARED_LINES];
                shared_operations(files, SHARED_SIZE, (member, members), serials, &mut chance)
            }
        };
        let text = script_of(&self.operations, &mut model);
        let scripts = site.root().join("scripts");
        let script = scripts.join(format!("{}-{}", self.number, self.incarnation));
        std::fs::write(&script, text).with_context(|| format!("writing {}", script.display()))?;
        let done = scripts.join(self.done_name());
        let pause = self.planned.pause_us.to_string();
        let words = [
            script.as_os_str(),
            "1".as_ref(),
            pause.as_ref(),
            done.as_os_str(),
        ];
        let mut command = site.captured(program, &words);
        if self.planned.has_shifted_clock {
            command.envs(clock.iter().copied());
        }
        self.process = Some(site.start(command)?);
        self.is_stopped = false;
        Ok(())
    }

    pub(super) fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => process.is_running(),
            None => Ok(false),
        }
    }

    pub(super) fn is_started(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn signal(&mut self, number: i32) -> bool {
        match &self.process {
            Some(process) => {
                process.signal(number);
                true
            }
            None => false,
        }
    }

    /// SIGKILL to it and to children that it waits for. Says whether it was running; what it left is looked at.
    pub(super) fn kill(
        &mut self,
        site: &Site,
        shared: &mut Shared,
        tally: &mut Tally,
    ) -> Result<bool> {
        let Some(mut process) = self.process.take() else {
            return Ok(false);
        };
        if !process.is_running()? {
            self.process = Some(process);
            self.finish(site, shared, tally)?;
            return Ok(false);
        }
        let group = -process.id().cast_signed();
        // SAFETY: the process hasn't been waited for, so the group is its own.
        unsafe { libc::kill(group, libc::SIGKILL) };
        process.kill()?;
        wait_until("a killed program's children to be gone", || {
            // SAFETY: nothing is sent; it is only asked whether there is anybody.
            match unsafe { libc::kill(group, 0) } {
                0 => Err("one is there".to_owned()),
                _ => Ok(()),
            }
        })?;
        self.look(site, false, shared, tally)?;
        Ok(true)
    }

    /// Waits for its end, which has to be a good one.
    pub(super) fn finish(
        &mut self,
        site: &Site,
        shared: &mut Shared,
        tally: &mut Tally,
    ) -> Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process
            .finish()?
            .success()
            .context("a program's calls didn't do what they do without capture")?;
        self.look(site, true, shared, tally)
    }

    /// Compares the files with what the program was told to do, as far as it got.
    fn look(
        &mut self,
        site: &Site,
        is_complete: bool,
        shared: &mut Shared,
        tally: &mut Tally,
    ) -> Result<()> {
        let done = done(&site.root().join("scripts").join(self.done_name()))?;
        let all = self.operations.len();
        ensure!(
            if is_complete {
                done == all
            } else {
                done <= all
            },
            "program {} says that it did {done} of {all} operations",
            self.number
        );
        tally.operations += done as u64;
        let operations = std::mem::take(&mut self.operations);
        let at = operations.get(done);
        match self.planned.role {
            Role::Own(_) => self.look_at_own(site, &operations[..done], at).inspect_err(|_| {
                tally.lost += 1;
            }),
            Role::Shared { member, .. } => shared.note(site, member, &operations[..done], at),
        }
        .with_context(|| {
            format!(
                "looking at the files of program {}, incarnation {}, which did {done} of {all} operations, and was at {at:?}",
                self.number, self.incarnation
            )
        })
    }

    fn look_at_own(&mut self, site: &Site, done: &[Op], at: Option<&Op>) -> Result<()> {
        let mut names = self.names().to_vec();
        names.push(self.outside());
        let mut actual = BTreeMap::new();
        for name in names {
            match std::fs::read(site.path(&name)) {
                Ok(content) => {
                    actual.insert(name, content);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("reading {name}")),
            }
        }
        let mut model = self.before.clone();
        for op in done {
            model.apply(op);
        }
        let mut steps = vec![files(&model)];
        if let Some(op) = at {
            for part in parts(op) {
                let mut model = model.clone();
                model.apply(&part);
                steps.push(files(&model));
            }
        }
        if !steps.contains(&actual) && !steps.windows(2).any(|pair| is_between(pair, &actual)) {
            bail!("{}", difference(&steps[0], &actual));
        }
        self.before = Disk::with(actual);
        Ok(())
    }
}

impl Shared {
    /// What a program did to the shared files, and what it may have done at last.
    fn note(&mut self, site: &Site, member: u64, done: &[Op], at: Option<&Op>) -> Result<()> {
        let lines = self.lines.entry(member).or_default();
        for op in done {
            match op {
                Op::Pwrite { offset, bytes, .. } => {
                    self.records.insert(*offset, bytes.clone());
                }
                Op::Write { bytes, .. } => lines.push(bytes.clone()),
                _ => {}
            }
        }
        let read =
            |name: &str| std::fs::read(site.path(name)).with_context(|| format!("reading {name}"));
        match at {
            Some(Op::Pwrite { offset, bytes, .. }) => {
                let file = read(SHARED_RECORDS)?;
                let from = *offset as usize;
                if file.get(from..from + bytes.len()) == Some(bytes) {
                    self.records.insert(*offset, bytes.clone());
                }
            }
            Some(Op::Write { bytes, .. }) => {
                let file = read(SHARED_LINES)?;
                // Each line is another than all others, and nothing follows what was at the end for long.
                if file
                    .split_inclusive(|&byte| byte == b'\n')
                    .any(|line| line == bytes)
                {
                    lines.push(bytes.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Compares the files with what all programs did; they have all ended.
    pub(super) fn check(&self, site: &Site, tally: &mut Tally) -> Result<()> {
        let read = |name: &str| match std::fs::read(site.path(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.with_context(|| format!("reading {name}")),
        };
        let mut expected = Vec::new();
        for (&offset, bytes) in &self.records {
            expected.resize(offset as usize, 0);
            expected.extend(bytes);
        }
        let actual = read(SHARED_RECORDS)?;
        if actual != expected {
            tally.lost += 1;
            bail!(
                "{SHARED_RECORDS} has {} bytes, not {}, and differs from what programs wrote from byte {:?} on",
                actual.len(),
                expected.len(),
                actual
                    .iter()
                    .zip(&expected)
                    .position(|(ours, theirs)| ours != theirs)
            );
        }
        let mut found: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for line in read(SHARED_LINES)?.split_inclusive(|&byte| byte == b'\n') {
            let number = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            let member = String::from_utf8_lossy(number).parse();
            let member =
                member.with_context(|| format!("{SHARED_LINES} has the line {:?}", text(line)))?;
            found.entry(member).or_default().push(line.to_vec());
        }
        for (member, lines) in &self.lines {
            let found = found.remove(member).unwrap_or_default();
            if *lines != found {
                tally.lost += 1;
                bail!(
                    "program {member} appended {} lines to {SHARED_LINES}, but {} are there; they differ from line {:?} of its own on",
                    lines.len(),
                    found.len(),
                    lines
                        .iter()
                        .zip(&found)
                        .position(|(ours, theirs)| ours != theirs)
                );
            }
        }
        ensure!(
            found.is_empty(),
            "{SHARED_LINES} has lines of nobody: {found:?}"
        );
        Ok(())
    }
}

/// How many lines of its script a program did.
fn done(path: &Path) -> Result<usize> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let number = bytes
                .first_chunk()
                .map_or(0, |bytes| i64::from_le_bytes(*bytes));
            usize::try_from(number).with_context(|| format!("{} has {number}", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn files(disk: &Disk) -> Files {
    disk.files()
        .map(|(name, content)| (name.to_owned(), content.to_vec()))
        .collect()
}

/// What a program may have done of an operation, in order; the last is all of it.
fn parts(op: &Op) -> Vec<Op> {
    match op {
        // Made or emptied, the first part, the second.
        Op::Stdio {
            path,
            mode,
            parts: [one, other],
        } => [[&[][..], &[]], [one, &[]], [one, other]]
            .map(|[one, other]| Op::Stdio {
                path: path.clone(),
                mode,
                parts: [one.to_vec(), other.to_vec()],
            })
            .to_vec(),
        _ => vec![op.clone()],
    }
}

/// Whether the files are those before a write, with a beginning of what was written: a write of several pages may be killed
/// between them.
fn is_between(pair: &[Files], actual: &Files) -> bool {
    let [before, after] = pair else { return false };
    let same_names = before.keys().eq(after.keys()) && before.keys().eq(actual.keys());
    same_names
        && actual.iter().all(|(name, content)| {
            let (before, after) = (&before[name], &after[name]);
            let written = content
                .iter()
                .zip(after)
                .take_while(|(ours, theirs)| ours == theirs)
                .count();
            (0..=written).rev().any(|len| {
                let rest = before.get(len..).unwrap_or_default();
                content.get(len..) == Some(rest)
            })
        })
}

fn difference(expected: &Files, actual: &Files) -> String {
    let names = |files: &Files| {
        files
            .iter()
            .map(|(name, content)| format!("{name} ({})", content.len()))
            .collect::<Vec<_>>()
    };
    for (name, content) in expected {
        if let Some(found) = actual.get(name)
            && let Some(at) = content
                .iter()
                .zip(found)
                .position(|(ours, theirs)| ours != theirs)
        {
            return format!("{name} isn't what the program wrote, from byte {at} on");
        }
    }
    format!(
        "the files are {:?} rather than {:?}",
        names(actual),
        names(expected)
    )
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_a_write_is_between() {
        let files = |content: &str| Files::from([("a".to_owned(), content.as_bytes().to_vec())]);
        let pair = [files("one two"), files("one 2 three")];
        for (content, expected) in [
            ("one two", true),
            ("one 2wo", true),
            ("one 2 o", true),
            ("one 2 three", true),
            ("one 2 th", true),
            ("one", false),
            ("one 3", false),
            ("one two three", false),
        ] {
            assert_eq!(is_between(&pair, &files(content)), expected, "{content}");
        }
    }
}
