//! From what was touched to events: at once, or when the unit of work ends.

use super::*;

impl Publisher {
    /// Notes what was touched in the process's unit, or publishes it as far as it is whole.
    pub(super) fn touched(&mut self, file: usize, tail: Option<Span>, mut span: Span, upto: u64) {
        // A last piece that was cut short is whole now. Where another's open unit has it, that will say so.
        let tail = tail.filter(|tail| !self.is_in_another_unit(file, tail));
        if self.is_in_unit() {
            let unit = self.unit();
            let dirty = unit.dirty(file);
            if let Some(tail) = tail {
                dirty.add(tail);
            }
            let bytes = upto.saturating_sub(span.start);
            dirty.add(span);
            if unit.grow(bytes) {
                self.cut(self.at.group, self.at.process);
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
        let thread = (self.at.process, self.at.lane);
        let held = self.groups[self.at.group].held.remove(&thread);
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
            self.note_published(first_lsn);
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
        self.groups[self.at.group].held.insert(thread, held);
    }

    fn is_in_another_unit(&self, file: usize, place: &Span) -> bool {
        let units = self.groups[self.at.group].units.iter();
        units
            .filter(|&(&process, _)| process != self.at.process)
            .flat_map(|(_, unit)| &unit.files)
            .filter(|(touched, _)| *touched == file)
            .any(|(_, dirty)| {
                dirty.cleared_from.is_some_and(|from| from <= place.start)
                    || dirty
                        .spans
                        .iter()
                        .any(|span| span.start < place.end && place.start < span.end)
            })
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

    /// Publishes what some threads left unfinished.
    pub(super) fn release_all_held(&mut self, group: usize, of: impl Fn((u64, u32)) -> bool) {
        let threads = self.groups[group].held.keys().copied();
        let threads: Vec<(u64, u32)> = threads.filter(|&thread| of(thread)).collect();
        for thread in threads {
            self.release_held(group, thread);
        }
    }

    /// Publishes what a thread left unfinished.
    pub(super) fn release_held(&mut self, group: usize, thread: (u64, u32)) {
        if let Some(held) = self.groups[group].held.remove(&thread) {
            self.note_published(held.first_lsn);
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

    /// [`Publisher::emit`], for what another process did.
    pub(super) fn emit_for(&mut self, pid: u32, file: usize, dirty: Dirty) {
        let present = std::mem::replace(&mut self.at.pid, pid);
        self.emit(file, dirty);
        self.at.pid = present;
    }

    /// Publishes what was touched; while the group is brought up again, with all the rest.
    pub(super) fn emit(&mut self, file: usize, dirty: Dirty) {
        let Some(tracked) = self.file(file).filter(|_| !self.at.is_found) else {
            return self.make_events(file, dirty);
        };
        let (group, size) = (usize::from(tracked.subject.group), tracked.image.size());
        let Some(recovery) = self.groups[group].units.get_mut(&RECOVERY) else {
            return self.make_events(file, dirty);
        };
        let cleared = dirty.cleared_from.map(|from| size.saturating_sub(from));
        let spans = dirty.spans.iter();
        let bytes = spans.map(|span| span.end.min(size).saturating_sub(span.start));
        let bytes = bytes.chain(cleared).sum();
        recovery.dirty(file).join(dirty);
        if recovery.grow(bytes) {
            self.flush_recovery(group);
        }
    }

    /// Where boundaries depend on content, what other open units did to the same place is published with it: the target still
    /// has the pieces that were there before, and part of them can't stay beside what is there now.
    fn join_others(&mut self, file: usize, dirty: &mut Dirty) {
        let boundaries = self.file(file).map(|tracked| tracked.codec.boundaries());
        if !matches!(boundaries, Some(boundaries) if !matches!(boundaries, Boundaries::Pitch(_))) {
            return;
        }
        let units = self.groups.iter_mut().flat_map(|group| &mut group.units);
        let mut others: Vec<&mut Dirty> = units
            .flat_map(|(_, unit)| &mut unit.files)
            .filter(|(touched, _)| *touched == file)
            .map(|(_, theirs)| theirs)
            .collect();
        let mut joined = !others.is_empty();
        while joined {
            joined = false;
            for theirs in &mut others {
                let ends = dirty.spans.iter().map(|span| span.end);
                let end = dirty.cleared_from.map_or(ends.max(), |_| Some(u64::MAX));
                if let Some(from) = theirs.cleared_from
                    && end.is_some_and(|end| from < end)
                {
                    joined |= dirty.cleared_from.is_none_or(|ours| from < ours);
                    dirty.clear_from(from);
                    theirs.cleared_from = None;
                }
                let (moved, kept): (Vec<Span>, Vec<Span>) = std::mem::take(&mut theirs.spans)
                    .into_iter()
                    .partition(|span| span.overwrites && dirty.overlaps(span));
                theirs.spans = kept;
                joined |= !moved.is_empty();
                dirty.spans.extend(moved);
            }
        }
    }

    /// Turns what was touched into events, from what is there now.
    pub(super) fn make_events(&mut self, file: usize, mut dirty: Dirty) {
        self.join_others(file, &mut dirty);
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return;
        };
        let bytes = tracked.image.bytes();
        let size = bytes.len() as u64;
        let codec = tracked.codec.as_ref();
        let pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        let mut changes = Vec::new();
        let mut befores = HashMap::new();
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
            let start = tracked.parse.place(codec, bytes, span.start);
            let (reached, _) = walk(codec, bytes, start, span.end, &mut |piece| {
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
            if let Some(former) = &mut tracked.former {
                let range = span.start..reached.max(span.end);
                let records = former.records(codec, bytes, start.1, range.clone());
                volume += records
                    .values()
                    .map(|record| record.data.len())
                    .sum::<usize>();
                befores.extend(records);
                former.told(range.clone());
                if !pitched {
                    former.split(range.end);
                }
            }
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
        let is_record = |change: &&Change| !matches!(change, Change::Cleared { .. });
        let records = changes.iter().filter(is_record).count() as u64;
        // What no program did was read from the file.
        let (way, counter) = match (self.at.pid, tracked.loading) {
            (0, true) => (Way::Loaded, &mut tracked.activity.loaded),
            (0, false) => (Way::Found, &mut tracked.activity.found),
            _ => (Way::Captured, &mut tracked.activity.captured),
        };
        *counter += records;
        self.progress.records.count(way, records);
        self.parcel_bytes += volume;
        if changes.is_empty() {
            // The size may have changed all the same.
            changes.push(Change::Created);
        }
        for change in changes {
            let before = match &change {
                Change::Put { id, .. } | Change::Residue { id, .. } | Change::Absent { id } => {
                    befores.remove(id)
                }
                _ => None,
            };
            self.event_after(&subject, size, change, before);
        }
    }

    pub(super) fn event(&mut self, subject: &Subject, size: u64, change: Change) {
        self.event_after(subject, size, change, None);
    }

    fn event_after(
        &mut self,
        subject: &Subject,
        size: u64,
        change: Change,
        before: Option<RecordImage>,
    ) {
        self.parcel.events.push(Event {
            position: self.at.position,
            group: subject.group,
            file: Arc::clone(&subject.file),
            size,
            change,
            captured_ns: self.at.captured_ns,
            pid: self.at.pid,
            snapshot: self.at.snapshot,
            before,
        });
        self.at.position.index += 1;
    }

    /// Drops what units and unfinished pieces know of a file.
    pub(super) fn forget(&mut self, file: usize) {
        for group in &mut self.groups {
            group.held.retain(|_, held| held.file != file);
            group.attributes.retain(|(of, _)| *of != file);
            for unit in group.units.values_mut() {
                unit.forget(file);
            }
        }
    }

    /// Publishes what units and unfinished pieces know of a file.
    pub(super) fn publish_pending(&mut self, file: usize) {
        for group in 0..self.groups.len() {
            let held: Vec<(u64, u32)> = self.groups[group]
                .held
                .iter()
                .filter(|(_, held)| held.file == file)
                .map(|(&thread, _)| thread)
                .collect();
            for thread in held {
                self.release_held(group, thread);
            }
            let mut pending = Vec::new();
            for unit in self.groups[group].units.values_mut() {
                if let Some(at) = unit.files.iter().position(|(touched, _)| *touched == file) {
                    pending.push((unit.pid, unit.files.remove(at).1));
                }
            }
            for (pid, dirty) in pending {
                let present = std::mem::replace(&mut self.at.pid, pid);
                self.make_events(file, dirty);
                self.at.pid = present;
            }
        }
    }

    /// All operations that may have reached the images before the start have been repeated: the images are right again.
    /// Where boundaries of pieces depend on content, what was decoded in between need not be.
    pub(super) fn finish_redo(&mut self) -> Result<(), PublishError> {
        // Nobody else knows of the files that the repeated operations made: they may be gone meanwhile.
        let made = self
            .by_path
            .keys()
            .filter(|path| !self.images.has_at_cursor(path));
        // Nor does anybody complete what was being read then.
        let found = self.findings.keys();
        for path in made.chain(self.images.digests.recent()).chain(found) {
            self.tasks.ask(Task::Check {
                path: Arc::clone(path),
            });
        }
        self.at.is_found = false;
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
            if let Some(former) = &mut tracked.former {
                former.note(tracked.image.bytes(), &(0..size), false);
            }
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
        for group in 0..self.groups.len() {
            self.end_recovery(group);
        }
        Ok(())
    }
}
