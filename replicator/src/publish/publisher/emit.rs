//! From what was touched to events: at once, or when the unit of work ends.

use super::*;

impl Publisher {
    pub(super) fn unit(&mut self) -> &mut Unit {
        let at = self.at;
        self.groups[at.group]
            .units
            .entry(at.process)
            .or_insert_with(|| Unit::new(at.pid, at.position.lsn, at.captured_ns))
    }

    /// Whether what the process does now belongs to a unit.
    pub(super) fn is_in_unit(&self) -> bool {
        let process = self.at.process;
        let group = &self.groups[self.at.group];
        match group.policy {
            _ if process == 0 => false,
            UnitOfWork::None => false,
            UnitOfWork::Fsync | UnitOfWork::Close => true,
            UnitOfWork::Lock => group.units.get(&process).is_some_and(Unit::holds_lock),
        }
    }

    /// Notes what was touched in the process's unit, or publishes it as far as it is whole.
    pub(super) fn touched(&mut self, file: usize, tail: Option<Span>, mut span: Span, upto: u64) {
        if self.is_in_unit() {
            let unit = self.unit();
            let dirty = unit.dirty(file);
            if let Some(tail) = tail {
                dirty.add(tail);
            }
            let bytes = upto.saturating_sub(span.start);
            dirty.add(span);
            if unit.grow(bytes) {
                self.progress.units_cut.fetch_add(1, Ordering::Relaxed);
                self.commit(self.at.group, self.at.process);
            }
            return;
        }
        if let Some(tail) = tail {
            self.emit(
                file,
                Dirty {
                    spans: vec![tail],
                    cleared_from: None,
                },
            );
        }
        let held = self.groups[self.at.group].held.remove(&self.at.process);
        let first_lsn = held
            .as_ref()
            .map_or(self.at.position.lsn, |held| held.first_lsn);
        if let Some(held) = held {
            span.join(&held.span);
        }
        let Some(tracked) = self.file(file) else {
            return;
        };
        let whole =
            tracked
                .parse
                .whole_until(tracked.codec.as_ref(), tracked.image.bytes(), &span, upto);
        if whole >= upto || span.end == u64::MAX {
            self.emit(
                file,
                Dirty {
                    spans: vec![span],
                    cleared_from: None,
                },
            );
            return;
        }
        if whole > span.start {
            let done = Span {
                start: span.start,
                end: whole,
                overwrites: span.overwrites,
            };
            self.emit(
                file,
                Dirty {
                    spans: vec![done],
                    cleared_from: None,
                },
            );
        }
        let rest = Span {
            start: whole.max(span.start),
            end: span.end.max(upto),
            overwrites: span.overwrites,
        };
        let held = Held {
            file,
            span: rest,
            upto,
            first_lsn,
            pid: self.at.pid,
        };
        self.groups[self.at.group]
            .held
            .insert(self.at.process, held);
    }

    /// Boundaries within a span may have moved: what waits to be published and begins there has to begin before it.
    pub(super) fn rebase(&mut self, file: usize, moved: &Span) {
        let inside = |span: &Span| span.start > moved.start && span.start < moved.end;
        for group in &mut self.groups {
            for held in group
                .held
                .values_mut()
                .filter(|held| held.file == file && inside(&held.span))
            {
                held.span.start = moved.start;
                held.span.overwrites = true;
            }
            for (_, dirty) in group
                .units
                .values_mut()
                .flat_map(|unit| &mut unit.files)
                .filter(|(touched, _)| *touched == file)
            {
                for span in dirty.spans.iter_mut().filter(|span| inside(span)) {
                    span.start = moved.start;
                    span.overwrites = true;
                }
                dirty.cleared_from = dirty.cleared_from.map(|from| {
                    if from > moved.start && from < moved.end {
                        moved.start
                    } else {
                        from
                    }
                });
            }
        }
    }

    pub(super) fn release_held(&mut self, group: usize, process: u64) {
        if let Some(held) = self.groups[group].held.remove(&process) {
            self.emit_for(
                held.pid,
                held.file,
                Dirty {
                    spans: vec![held.span],
                    cleared_from: None,
                },
            );
        }
    }

    /// Ends a process's unit: what it touched becomes events.
    pub(super) fn commit(&mut self, group: usize, process: u64) {
        let Some(mut unit) = self.groups[group].units.remove(&process) else {
            return;
        };
        for (file, dirty) in std::mem::take(&mut unit.files) {
            self.emit_for(unit.pid, file, dirty);
        }
        // A unit that was cut goes on while its locks are held.
        if unit.holds_lock() && self.groups[group].policy == UnitOfWork::Lock {
            unit.go_on(self.at.position.lsn, self.at.captured_ns);
            self.groups[group].units.insert(process, unit);
        }
    }

    pub(super) fn cut_overdue(&mut self, group: usize, now_ns: i64) {
        let timeout_ns = self.groups[group].timeout_ns;
        let overdue: Vec<u64> = self.groups[group]
            .units
            .iter()
            .filter(|(_, unit)| {
                !unit.files.is_empty() && now_ns.saturating_sub(unit.opened_ns) > timeout_ns
            })
            .map(|(&process, _)| process)
            .collect();
        for process in overdue {
            self.progress.units_cut.fetch_add(1, Ordering::Relaxed);
            self.commit(group, process);
        }
    }

    /// [`Publisher::emit`], for what another process did.
    pub(super) fn emit_for(&mut self, pid: u32, file: usize, dirty: Dirty) {
        let present = std::mem::replace(&mut self.at.pid, pid);
        self.emit(file, dirty);
        self.at.pid = present;
    }

    /// Turns what was touched into events, from what is there now.
    pub(super) fn emit(&mut self, file: usize, mut dirty: Dirty) {
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return;
        };
        let bytes = tracked.image.bytes();
        let size = bytes.len() as u64;
        let codec = tracked.codec.as_ref();
        let pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        let mut changes = Vec::new();
        let mut volume = 0;
        if let Some(from) = dirty.cleared_from {
            changes.push(Change::Cleared {
                from: codec.id_at(from),
                to: u64::MAX,
            });
            tracked.emitted_end = tracked.emitted_end.min(from);
            dirty.spans.push(Span {
                start: from,
                end: size,
                overwrites: false,
            });
        }
        dirty.compact();
        for span in &dirty.spans {
            let clears = span.overwrites
                && (!pitched || self.at.snapshot)
                && span.start < tracked.emitted_end;
            let place = changes.len();
            let known_until = tracked.emitted_end;
            let mut emitted_end = tracked.emitted_end;
            let reached = walk(codec, bytes, span.start, span.end, &mut |piece| {
                volume += piece.len as usize;
                let id = piece.id;
                changes.push(match piece.kind {
                    PieceKind::Record { data, rest } => Change::Put {
                        id,
                        data: data.to_vec(),
                        rest: rest.to_vec(),
                    },
                    PieceKind::Residue { bytes, reason } => Change::Residue {
                        id,
                        bytes: bytes.to_vec(),
                        reason: reason.into(),
                    },
                    PieceKind::Empty if clears || piece.offset >= known_until => return,
                    PieceKind::Empty => Change::Absent { id },
                });
                emitted_end = emitted_end.max(piece.offset + piece.len);
            });
            tracked.emitted_end = emitted_end;
            if clears {
                let to = if span.end == u64::MAX || reached >= size {
                    u64::MAX
                } else {
                    codec.id_at(reached)
                };
                changes.insert(
                    place,
                    Change::Cleared {
                        from: codec.id_at(span.start),
                        to,
                    },
                );
            }
        }
        let subject = tracked.subject.clone();
        tracked.activity.events += changes.len() as u64;
        self.parcel_bytes += volume;
        if changes.is_empty() {
            // The size may have changed all the same.
            changes.push(Change::Created);
        }
        for change in changes {
            self.event(&subject, size, change);
        }
    }

    pub(super) fn event(&mut self, subject: &Subject, size: u64, change: Change) {
        self.parcel.events.push(Event {
            position: self.at.position,
            group: subject.group,
            file: Arc::clone(&subject.file),
            size,
            change,
            captured_ns: self.at.captured_ns,
            pid: self.at.pid,
            snapshot: self.at.snapshot,
        });
        self.at.position.index += 1;
    }

    /// Drops what units and unfinished pieces know of a file.
    pub(super) fn forget(&mut self, file: usize) {
        for group in &mut self.groups {
            group.held.retain(|_, held| held.file != file);
            for unit in group.units.values_mut() {
                unit.files.retain(|(touched, _)| *touched != file);
                unit.unlock(file, &(0..u64::MAX));
            }
        }
    }

    /// Publishes what units and unfinished pieces know of a file.
    pub(super) fn publish_pending(&mut self, file: usize) {
        for group in 0..self.groups.len() {
            let held: Vec<u64> = self.groups[group]
                .held
                .iter()
                .filter(|(_, held)| held.file == file)
                .map(|(&process, _)| process)
                .collect();
            for process in held {
                self.release_held(group, process);
            }
            let mut pending = Vec::new();
            for unit in self.groups[group].units.values_mut() {
                if let Some(at) = unit.files.iter().position(|(touched, _)| *touched == file) {
                    pending.push((unit.pid, unit.files.remove(at).1));
                }
            }
            for (pid, dirty) in pending {
                self.emit_for(pid, file, dirty);
            }
        }
    }

    /// All operations that may have reached the images before the start have been repeated: the images are right again.
    /// Where boundaries of pieces depend on content, what was decoded in between need not be.
    pub(super) fn finish_redo(&mut self) -> Result<(), PublishError> {
        // Nobody else knows of the files that the repeated operations made: they may be gone meanwhile.
        let known = self.images.paths();
        for path in self.by_path.keys().filter(|&path| !known.contains(path)) {
            self.tasks.ask(Task::Check {
                path: Arc::clone(path),
            });
        }
        for file in 0..self.tracked.len() {
            let Some(tracked) = self.tracked[file].as_mut() else {
                continue;
            };
            let Some(from) = tracked.redone_from.take() else {
                continue;
            };
            // How long the file was at each operation isn't known any more, so neither is which pieces were cut short.
            let from = from.min(tracked.image.smallest_size());
            let size = tracked.image.size();
            if let Boundaries::Pitch(pitch) = tracked.codec.boundaries() {
                let from = tracked.image.smallest_size().min(size);
                let span = Span {
                    start: from - from % pitch.max(1),
                    end: size,
                    overwrites: true,
                };
                self.emit(
                    file,
                    Dirty {
                        spans: vec![span],
                        cleared_from: None,
                    },
                );
                continue;
            }
            tracked.parse = Parse::default();
            let from = tracked
                .parse
                .entry(tracked.codec.as_ref(), tracked.image.bytes(), from);
            self.emit(
                file,
                Dirty {
                    spans: Vec::new(),
                    cleared_from: Some(from),
                },
            );
        }
        Ok(())
    }
}
