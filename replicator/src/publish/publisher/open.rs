//! Units of work that are open: what begins, keeps and ends them, and how they outlive a restart.

use super::*;
use crate::words::{from_hex, hex};

/// How long a unit may linger at most, by the clock of the operations.
const LINGER_MAX_NS: i64 = 100_000_000;
/// Stands for a program in the status, while a group is brought up again.
const RECOVERY_NAME: &[u8] = b"(recovery)";

/// A unit that holds a group back.
fn recovery_from(first_lsn: u64, opened_ns: i64) -> Unit {
    let mut program = [0; 16];
    program[..RECOVERY_NAME.len()].copy_from_slice(RECOVERY_NAME);
    Unit::new(std::process::id(), program, first_lsn, opened_ns)
}

impl Publisher {
    /// The units to begin with: where operations are to be repeated, one that holds all back meanwhile.
    pub(super) fn recovery(
        policy: UnitOfWork,
        reader: &JournalReader,
        options: &PublisherOptions,
    ) -> HashMap<u64, Unit> {
        let first_lsn = reader.next_lsn();
        let is_needed = policy != UnitOfWork::None && first_lsn < options.redo_end;
        // Its time begins when everything has been repeated.
        let unit = recovery_from(first_lsn, i64::MAX);
        is_needed.then_some((RECOVERY, unit)).into_iter().collect()
    }

    /// A file's content is read for the first time. Where open units have changed it, what was read has parts of them in it,
    /// so the group is brought up as if operations were repeated.
    pub(super) fn loading(&mut self, group: usize, file: usize) {
        if self.is_redo() {
            return;
        }
        let (lsn, at_ns) = (self.at.position.lsn, self.at.captured_ns);
        let units = &mut self.groups[group].units;
        let is_changed = units
            .values()
            .any(|unit| unit.files.iter().any(|(touched, _)| *touched == file));
        if is_changed {
            units
                .entry(RECOVERY)
                .or_insert_with(|| recovery_from(lsn, at_ns));
            self.at.is_found = false;
        }
    }

    /// Attributes of a file; later than what is held back of its content.
    pub(super) fn attributes(&mut self, group: usize, file: usize, attributes: Attributes) {
        let state = &mut self.groups[group];
        if state.units.contains_key(&RECOVERY) {
            state.attributes.push((file, attributes));
        } else if let Some(tracked) = self.file(file) {
            let (subject, size) = (tracked.subject.clone(), tracked.image.size());
            self.event(&subject, size, Change::Attributes(attributes));
        }
    }

    /// Publishes what is held back, as it became too much for one unit.
    pub(super) fn flush_recovery(&mut self, group: usize) {
        let Some(mut recovery) = self.groups[group].units.remove(&RECOVERY) else {
            return;
        };
        self.note_published(recovery.first_lsn);
        for (file, dirty) in std::mem::take(&mut recovery.files) {
            self.make_events(file, dirty);
        }
        recovery.first_lsn = self.at.position.lsn;
        recovery.flushed();
        self.groups[group].units.insert(RECOVERY, recovery);
    }

    /// Publishes what was held back while operations were repeated, once that is done and no unit is open.
    pub(super) fn end_recovery(&mut self, group: usize) {
        let lsn = self.at.position.lsn;
        let at_ns = self.at.captured_ns;
        let state = &mut self.groups[group];
        let others = state
            .units
            .iter()
            .any(|(&process, unit)| process != RECOVERY && !unit.files.is_empty());
        let Some(recovery) = state.units.get_mut(&RECOVERY) else {
            return;
        };
        if lsn + 1 < self.options.redo_end {
            return;
        }
        if recovery.opened_ns == i64::MAX {
            recovery.began_ns = at_ns;
            recovery.opened_ns = at_ns;
        }
        if !others {
            self.commit(group, RECOVERY);
        }
    }

    /// The unit of the process that does something now; opened if there is none.
    pub(super) fn unit(&mut self) -> &mut Unit {
        let at = self.at;
        self.groups[at.group]
            .units
            .entry(at.process)
            .or_insert_with(|| Unit::new(at.pid, at.program, at.position.lsn, at.captured_ns))
    }

    /// Whether what the process does now belongs to a unit.
    pub(super) fn is_in_unit(&self) -> bool {
        let process = self.at.process;
        let group = &self.groups[self.at.group];
        match group.policy {
            _ if process == 0 => false,
            UnitOfWork::None => false,
            UnitOfWork::Fsync | UnitOfWork::Close => true,
            UnitOfWork::Lock | UnitOfWork::Api => {
                group
                    .lingering
                    .is_some_and(|lingering| lingering.process == process)
                    || group
                        .units
                        .get(&process)
                        .is_some_and(|unit| unit.is_held(group.policy))
            }
        }
    }

    /// The process marked where a unit begins or ends. Units nest: the outermost end counts. What is `resumed` says how
    /// many are open, as marks before it were lost.
    pub(super) fn marked(
        &mut self,
        group: usize,
        process: u64,
        begins: bool,
        resumed: Option<u32>,
    ) {
        if self.groups[group].policy != UnitOfWork::Api || process == 0 {
            return;
        }
        let open = self.groups[group]
            .units
            .get(&process)
            .map_or(0, |unit| unit.open.depth);
        let depth = match (resumed, begins) {
            (Some(depth), _) => depth,
            (None, true) => open.saturating_add(1),
            (None, false) => open.saturating_sub(1),
        };
        // The first of all ends whatever there is: its end was lost.
        if begins && depth == 1 || depth == 0 {
            self.end(group, process);
        }
        if depth > 0 {
            self.unit().open.depth = depth;
        }
    }

    /// Publishes the unit that lingers, unless this is what it waits for.
    pub(super) fn follow_lingering(
        &mut self,
        group: usize,
        process: u64,
        path: &[u8],
        action: Action<'_>,
    ) {
        let Some(lingering) = self.groups[group].lingering else {
            return;
        };
        let file = self.by_path.get(path).copied();
        let own = process == lingering.process && file == Some(lingering.file);
        let goes_on = match action {
            Action::Attributes(_) | Action::Summed { .. } | Action::Verified(_) => true,
            Action::Locked { .. } => own && lingering.after == After::Emptied,
            Action::Write { .. } => own && lingering.after == After::Unlocked,
            Action::Closed { .. } | Action::Synced => own,
            _ => false,
        };
        let overdue = self.at.captured_ns - lingering.since_ns > LINGER_MAX_NS;
        if !goes_on || overdue {
            self.commit(group, lingering.process);
        }
    }

    /// The process's unit is as good as complete, but for what may follow at once.
    pub(super) fn linger(&mut self, file: usize, after: After) {
        let at = self.at;
        self.unit();
        self.groups[at.group].lingering = Some(Lingering {
            process: at.process,
            file,
            after,
            since_ns: at.captured_ns,
        });
    }

    pub(super) fn locked(&mut self, file: usize, range: std::ops::Range<u64>) {
        let at = self.at;
        if self.groups[at.group].policy == UnitOfWork::Lock {
            self.unit().lock(file, range);
            self.groups[at.group].lingering = None;
        }
    }

    pub(super) fn unlocked(&mut self, file: usize, range: &std::ops::Range<u64>) {
        let (group, process) = (self.at.group, self.at.process);
        if self.groups[group].policy != UnitOfWork::Lock {
            return;
        }
        let Some(unit) = self.groups[group].units.get_mut(&process) else {
            return;
        };
        if !unit.unlock(file, range) {
            return;
        }
        // A lock on all of the file goes with what a program does to all of it, such as closing.
        if *range == (0..u64::MAX) {
            self.linger(file, After::Unlocked);
        } else {
            self.commit(group, process);
        }
    }

    pub(super) fn closed(&mut self, group: usize, process: u64, file: usize, keeps_locks: bool) {
        let state = &mut self.groups[group];
        let lingers = state.lingering.is_some();
        let Some(unit) = state.units.get_mut(&process) else {
            return;
        };
        match state.policy {
            // A close gives up all of the process's locks on the file, unless they belong to another description.
            UnitOfWork::Lock => {
                if lingers || !keeps_locks && unit.unlock(file, &(0..u64::MAX)) {
                    self.commit(group, process);
                }
            }
            UnitOfWork::Close => {
                if unit.close(file) {
                    self.commit(group, process);
                }
            }
            UnitOfWork::None | UnitOfWork::Fsync | UnitOfWork::Api => {}
        }
    }

    /// Publishes what a process's unit touched. A unit that is held open goes on.
    pub(super) fn commit(&mut self, group: usize, process: u64) {
        let state = &mut self.groups[group];
        if state
            .lingering
            .is_some_and(|lingering| lingering.process == process)
        {
            state.lingering = None;
        }
        let Some(mut unit) = state.units.remove(&process) else {
            return;
        };
        self.note_published(unit.first_lsn);
        for (file, dirty) in std::mem::take(&mut unit.files) {
            self.emit_for(unit.pid, file, dirty);
        }
        if unit.is_held(self.groups[group].policy) {
            unit.go_on(self.at.position.lsn, self.at.captured_ns);
            self.groups[group].units.insert(process, unit);
        }
        if process != RECOVERY {
            return self.end_recovery(group);
        }
        for (file, attributes) in std::mem::take(&mut self.groups[group].attributes) {
            self.attributes(group, file, attributes);
        }
    }

    /// Ends a process's unit, whatever holds it open.
    pub(super) fn end(&mut self, group: usize, process: u64) {
        if let Some(unit) = self.groups[group].units.get_mut(&process) {
            unit.open = Open::default();
        }
        self.commit(group, process);
    }

    /// Publishes a unit as far as it is: it lasts too long, or is too large.
    pub(super) fn cut(&mut self, group: usize, process: u64) {
        if let Some(unit) = self.groups[group].units.get_mut(&process) {
            unit.cuts += 1;
            let seconds = (self.at.captured_ns - unit.began_ns).max(0) / 1_000_000_000;
            let what = &self.groups[group].units[&process];
            let unit = self.unit_progress(group, what);
            tracing::warn!(
                "a unit of work in group {} is published as far as it is: process {} ({}) began it {seconds} s ago",
                unit.group,
                unit.pid,
                unit.program
            );
            self.progress.note_cut(unit);
        }
        self.commit(group, process);
    }

    pub(super) fn cut_overdue(&mut self, group: usize, now_ns: i64) {
        let timeout_ns = self.groups[group].timeout_ns;
        for unit in self.groups[group].units.values_mut() {
            // What seems to begin in the future began before the clock was set back. (One that waits for its beginning has none.)
            if unit.opened_ns != i64::MAX {
                unit.opened_ns = unit.opened_ns.min(now_ns);
                unit.began_ns = unit.began_ns.min(now_ns);
            }
        }
        let overdue: Vec<(u64, bool)> = self.groups[group]
            .units
            .iter()
            .filter(|(_, unit)| now_ns.saturating_sub(unit.opened_ns) > timeout_ns)
            .map(|(&process, unit)| (process, unit.files.is_empty()))
            .collect();
        for (process, idle) in overdue {
            if idle {
                // Nothing waits, and the journal needn't be kept for it.
                self.commit(group, process);
            } else {
                self.cut(group, process);
            }
        }
    }

    /// Events are made at present of what was touched from `first_lsn` on: until sinks have them, a restart has to begin
    /// there.
    pub(super) fn note_published(&mut self, first_lsn: u64) {
        let lsn = self.at.position.lsn;
        if first_lsn < lsn {
            self.published.push_back(Published { lsn, first_lsn });
        }
    }

    /// Gives the units of which the journal won't tell all to the next checkpoint.
    pub(super) fn store_units(&mut self) {
        let mut units = self.reopened.clone();
        for (group, state) in self.groups.iter().enumerate() {
            for (&process, unit) in &state.units {
                let Some(before) = &unit.before else { continue };
                let locks = before.locks.iter().filter_map(|(&file, ranges)| {
                    let path = hex(&self.file(file)?.subject.file.path);
                    let ranges = ranges.iter().map(|range| (range.start, range.end));
                    Some((path, ranges.collect()))
                });
                let program = unit.program.split(|&byte| byte == 0).next();
                units.push(StoredUnit {
                    group: group as u16,
                    process,
                    pid: unit.pid,
                    program: String::from_utf8_lossy(program.unwrap_or_default()).into_owned(),
                    began_ns: unit.began_ns,
                    cuts: unit.cuts,
                    lsn: unit.first_lsn,
                    depth: before.depth,
                    locks: locks.collect(),
                });
            }
        }
        self.images.set_units(units);
    }

    /// Opens units again that the checkpoint knows as open before the present operation.
    pub(super) fn reopen(&mut self) -> Result<(), PublishError> {
        let lsn = self.at.position.lsn;
        while let Some(stored) = self.reopened.pop_if(|stored| stored.lsn <= lsn) {
            let group = usize::from(stored.group);
            if group >= self.groups.len() {
                continue;
            }
            let mut open = Open {
                depth: stored.depth,
                ..Open::default()
            };
            for (path, ranges) in stored.locks {
                let path = from_hex(&path).unwrap_or_default();
                if self.config.rule_for(&path).is_none() {
                    continue;
                }
                let file = self.track(&path)?;
                for (start, end) in ranges {
                    open.lock(file, start..end);
                }
            }
            let mut program = [0; 16];
            for (to, from) in program.iter_mut().zip(stored.program.bytes()) {
                *to = from;
            }
            let fresh = Unit::new(stored.pid, program, stored.lsn, self.at.captured_ns);
            let unit = self.groups[group]
                .units
                .entry(stored.process)
                .or_insert(fresh);
            unit.began_ns = stored.began_ns;
            unit.cuts = stored.cuts;
            unit.before = Some(open.clone());
            unit.open = open;
        }
        Ok(())
    }
}
