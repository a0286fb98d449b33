//! One operation after the other: what each does to the images, and what of that is touched.

use super::*;

impl Publisher {
    pub(super) fn handle(
        &mut self,
        lsn: u64,
        epoch: u64,
        operation: &Operation<'_>,
    ) -> Result<(), PublishError> {
        let Operation {
            group,
            origin,
            at_ns,
            path,
            action,
        } = *operation;
        let process = origin.process;
        let thread = (process, origin.lane);
        let mut program = [0; 16];
        for (to, &from) in program.iter_mut().zip(origin.program) {
            *to = from;
        }
        self.at = At {
            position: Position {
                epoch,
                lsn,
                index: 0,
            },
            group: usize::from(group),
            process,
            lane: origin.lane,
            captured_ns: at_ns,
            pid: origin.pid,
            program,
            snapshot: process == 0,
            is_found: matches!(action, Action::Found { .. }) && lsn >= self.options.redo_end,
        };
        let index = usize::from(group);
        if index >= self.groups.len() {
            // The configuration lost a group since.
            return Ok(());
        }
        self.reopen()?;
        // By the clock of the operations, so that the same journal gives the same events.
        if (at_ns - self.last_cut_ns).abs() > CUT_INTERVAL_NS {
            self.last_cut_ns = at_ns;
            for group in 0..self.groups.len() {
                self.cut_overdue(group, at_ns);
            }
        }
        if !path.is_empty()
            && !self.by_path.contains_key(path)
            && let Some((group, rule)) = self.config.rule_for(path)
            && self.config.groups[group].files[rule].tree.is_some()
        {
            return self.handle_static(path, (group, rule), action);
        }
        // What the thread had not finished is as finished as it will be, unless this goes on with it.
        let goes_on = match (self.groups[index].held.get(&thread), action) {
            (Some(held), Action::Write { offset, .. } | Action::Found { offset, .. }) => {
                held.upto == offset && self.by_path.get(path) == Some(&held.file)
            }
            (Some(_), Action::Synced | Action::Attributes(_) | Action::Verified(_)) => true,
            _ => false,
        };
        if !goes_on {
            self.release_held(index, thread);
        }
        self.follow_lingering(index, process, path, action);
        match action {
            Action::Settled => {
                self.release_all_held(index, |_| true);
                self.cut_overdue(index, at_ns);
                self.end_recovery(index);
                return Ok(());
            }
            Action::Ended => {
                self.release_all_held(index, |(holder, _)| holder == process);
                self.end(index, process);
                return Ok(());
            }
            Action::Begun { resumed } => {
                self.marked(index, process, true, resumed);
                return Ok(());
            }
            Action::Committed { resumed } | Action::Aborted { resumed } => {
                self.marked(index, process, false, resumed);
                return Ok(());
            }
            _ => {}
        }
        // The configuration may have lost a rule since.
        if path.is_empty()
            || !self.by_path.contains_key(path) && self.config.rule_for(path).is_none()
        {
            return Ok(());
        }
        match action {
            Action::Removed => return self.removed(path),
            Action::Renamed { to } => return self.renamed(index, process, path, to),
            Action::Verified(verified) => return self.verified(path, &verified),
            _ => {}
        }
        let file = self.track(path)?;
        if let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) {
            tracked.activity.operations += 1;
            tracked.activity.changed_ns = at_ns;
            tracked.told = false;
        }
        match action {
            Action::Opened { truncated, .. } => {
                if truncated
                    && (self.is_redo()
                        || self
                            .file(file)
                            .is_some_and(|tracked| tracked.image.size() > 0))
                {
                    // Programs lock what they have just emptied.
                    if self.groups[index].policy == UnitOfWork::Lock
                        && process != 0
                        && !self.is_in_unit()
                    {
                        self.linger(file, After::Emptied);
                    }
                    self.resize(file, 0)?;
                }
            }
            Action::Write { offset, bytes } => {
                self.write(file, offset, bytes, false)?;
            }
            Action::Truncate { size } => self.resize(file, size)?,
            Action::Synced => {
                if self.groups[index].policy == UnitOfWork::Fsync {
                    self.commit(index, process);
                }
            }
            Action::Locked { offset, extent } => {
                self.locked(file, offset..offset.saturating_add(extent));
            }
            Action::Unlocked { offset, extent } => {
                self.unlocked(file, &(offset..offset.saturating_add(extent)));
            }
            Action::Closed { keeps_locks } => self.closed(index, process, file, keeps_locks),
            Action::Found {
                offset,
                bytes,
                at_end,
                load,
            } => {
                if let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) {
                    tracked.loading = load;
                }
                if load {
                    self.loading(index, file);
                }
                self.found(file, offset, bytes, at_end, load || self.is_redo())?;
            }
            Action::Summed {
                offset,
                len,
                sum,
                at_end,
            } => self.compare(file, offset, len, sum, at_end),
            Action::Attributes(attributes) => self.attributes(index, file, attributes),
            Action::Restated { from, to } => self.restate(file, from, to),
            Action::Verified(_)
            | Action::Removed
            | Action::Renamed { .. }
            | Action::Settled
            | Action::Ended
            | Action::Begun { .. }
            | Action::Committed { .. }
            | Action::Aborted { .. }
            | Action::Abandoned => {}
        }
        Ok(())
    }

    /// Whether the images may have the present operation, and later ones, already.
    pub(super) fn is_redo(&self) -> bool {
        self.at.position.lsn < self.options.redo_end
    }

    /// Notes that a repeated operation changes a file from an offset on.
    pub(super) fn note_redo(&mut self, file: usize, offset: u64) {
        if self.is_redo()
            && let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut)
        {
            tracked.redone_from = Some(
                tracked
                    .redone_from
                    .map_or(offset, |before| before.min(offset)),
            );
        }
    }

    pub(super) fn file(&self, file: usize) -> Option<&Tracked> {
        self.tracked.get(file)?.as_ref()
    }

    /// The file at a path; one without an image gets an empty one.
    pub(super) fn track(&mut self, path: &[u8]) -> Result<usize, PublishError> {
        if let Some(&file) = self.by_path.get(path) {
            return Ok(file);
        }
        let path: Arc<[u8]> = path.into();
        let (images, lsn) = (&mut self.images, self.at.position.lsn);
        let existing = retry(&self.progress, || images.existing(&path))?;
        let is_new = existing.is_none();
        let (number, image) = match existing {
            Some(existing) => existing,
            None => retry(&self.progress, || images.create(&path, lsn))?,
        };
        // It was of a tree in a former configuration.
        if is_new && self.images.digests.get(&path)?.is_some() {
            self.images.digests.set(lsn, &path, None);
        }
        let Some((subject, codec)) = self.describe(&path) else {
            return Err(PublishError::Malformed {
                lsn: self.at.position.lsn,
                reason: "its file has no rule".to_owned(),
            });
        };
        let size = image.size();
        let former = self.former_of(subject.group, codec.as_ref());
        let emitted_end = if is_new && self.options.refill {
            u64::MAX
        } else {
            size
        };
        let tracked = Tracked {
            subject: subject.clone(),
            codec,
            parse: Parse::default(),
            number,
            image,
            emitted_end,
            activity: FileProgress {
                group: subject.file.group.clone(),
                ..FileProgress::default()
            },
            told: false,
            loading: false,
            former,
            redone_from: None,
        };
        let file = match self.tracked.iter().position(Option::is_none) {
            Some(free) if self.tracked.len() > TRACKED_KEPT_MIN => free,
            _ => {
                self.tracked.push(None);
                self.tracked.len() - 1
            }
        };
        self.tracked[file] = Some(tracked);
        self.by_path.insert(path, file);
        self.event(&subject, size, Change::Created);
        Ok(file)
    }

    pub(super) fn describe(&self, path: &[u8]) -> Option<(Subject, Box<dyn Codec>)> {
        let codec = self.config.rule(path)?.format.codec().ok()?;
        Some((self.subject(path)?, codec))
    }

    /// The file at a path, as events speak of it.
    pub(super) fn subject(&self, path: &[u8]) -> Option<Subject> {
        let (group, description) = self.config.describe(path)?;
        Some(Subject {
            group: group as u16,
            file: Arc::new(description),
        })
    }

    /// Lines have no before: what is changed in one moves where others begin.
    fn former_of(&self, group: u16, codec: &dyn Codec) -> Option<Former> {
        let asks = self.config.groups[usize::from(group)].before
            && !matches!(codec.boundaries(), Boundaries::After(_));
        asks.then(Former::default)
    }

    pub(super) fn write(
        &mut self,
        file: usize,
        offset: u64,
        bytes: &[u8],
        fresh: bool,
    ) -> Result<(), PublishError> {
        self.note_redo(file, offset);
        // What repeated operations find may be what they made, and what is loaded anew says nothing of before.
        let is_known = !self.is_redo() && !fresh;
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let range = offset..offset + bytes.len() as u64;
        let size = tracked.image.size();
        let tail = Parse::tail(tracked.codec.as_ref(), size).filter(|_| range.start > size);
        let mut span =
            tracked
                .parse
                .before_write(tracked.codec.as_ref(), tracked.image.bytes(), &range);
        if let Some(former) = &mut tracked.former {
            former.note(tracked.image.bytes(), &range, is_known);
        }
        retry_io(&self.progress, || tracked.image.write(offset, bytes))?;
        tracked.image.note_growth(self.at.position.lsn + 1);
        tracked
            .parse
            .after_write(tracked.codec.as_ref(), tracked.image.bytes(), &mut span);
        let moves = span.overwrites && !matches!(tracked.codec.boundaries(), Boundaries::Pitch(_));
        span.overwrites |= fresh;
        if moves {
            self.rebase(file, &span);
        }
        self.touched(file, tail, span, range.end);
        Ok(())
    }

    pub(super) fn resize(&mut self, file: usize, size: u64) -> Result<(), PublishError> {
        self.note_redo(file, size);
        let redo = self.is_redo();
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let before = tracked.image.size();
        // A repeated operation finds the size that it, or a later one, made; what it cut off still has to be told.
        if size == before && !redo {
            return Ok(());
        }
        let codec = tracked.codec.as_ref();
        let entry = tracked.parse.entry(codec, tracked.image.bytes(), size);
        if let Some(former) = &mut tracked.former {
            if size > before {
                former.note(tracked.image.bytes(), &(before..size), false);
            } else {
                former.cut(entry, before);
            }
        }
        retry_io(&self.progress, || tracked.image.truncate(size))?;
        tracked.parse.resized(codec, entry, tracked.image.bytes());
        let pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        let grown = (size > before).then(|| match codec.boundaries() {
            // Pieces in between were never written. The first and the last may be cut short: by the old end, by the new.
            Boundaries::Pitch(pitch) => {
                let last = size - size % pitch.max(1);
                (
                    Parse::tail(codec, before),
                    Span {
                        start: last,
                        end: size,
                        overwrites: last < before,
                    },
                )
            }
            _ => (
                None,
                Span {
                    start: entry,
                    end: size,
                    overwrites: entry < before,
                },
            ),
        });
        if !pitched {
            self.rebase(
                file,
                &Span {
                    start: entry,
                    end: u64::MAX,
                    overwrites: true,
                },
            );
        }
        if let Some((tail, span)) = grown {
            self.touched(file, tail, span, size);
        } else if self.is_in_unit() {
            self.unit().dirty(file).clear_from(entry);
        } else {
            self.release_held(self.at.group, (self.at.process, self.at.lane));
            let mut dirty = Dirty::default();
            dirty.clear_from(entry);
            self.emit(file, dirty);
        }
        Ok(())
    }

    /// Content that was read: where it differs from the image, it is a change.
    pub(super) fn found(
        &mut self,
        file: usize,
        offset: u64,
        bytes: &[u8],
        at_end: bool,
        fresh: bool,
    ) -> Result<(), PublishError> {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty()
            && !self.is_redo()
            && let Some(tracked) = self.file(file)
            && offset > tracked.image.size()
        {
            // The file ends there, and what lies between isn't known.
            self.tasks.ask(Task::Read {
                path: tracked.subject.file.path.as_slice().into(),
                offset: tracked.image.size(),
                extent: u64::MAX,
            });
            return Ok(());
        }
        let mut differs = false;
        if fresh {
            if !bytes.is_empty() {
                self.write(file, offset, bytes, true)?;
            }
        } else {
            for range in self.differences(file, offset, bytes) {
                differs = true;
                let part = &bytes[range.clone()];
                self.write(file, offset + range.start as u64, part, false)?;
            }
        }
        if at_end
            && (self.is_redo()
                || self
                    .file(file)
                    .is_some_and(|tracked| tracked.image.size() != end))
        {
            differs = true;
            self.release_held(self.at.group, (self.at.process, self.at.lane));
            self.resize(file, end)?;
        }
        if !fresh {
            self.note_compared(file, differs);
            if differs && let Some(tracked) = self.file(file) {
                let path = path_text(&tracked.subject.file.path);
                self.progress.verification().note_mended(&path);
            }
        }
        if at_end
            && self
                .file(file)
                .is_some_and(|tracked| tracked.emitted_end == u64::MAX)
        {
            self.release_held(self.at.group, (self.at.process, self.at.lane));
            let from = self.boundary_at(file, end);
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

    /// The last boundary that isn't behind `at`.
    pub(super) fn boundary_at(&mut self, file: usize, at: u64) -> u64 {
        let tracked = self.tracked.get_mut(file).and_then(Option::as_mut);
        tracked.map_or(at, |tracked| {
            tracked
                .parse
                .entry(tracked.codec.as_ref(), tracked.image.bytes(), at)
        })
    }

    /// Ranges of `bytes` that the image doesn't have at `offset`.
    pub(super) fn differences(
        &self,
        file: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Vec<std::ops::Range<usize>> {
        let Some(tracked) = self.file(file) else {
            return Vec::new();
        };
        let image = tracked.image.bytes();
        let known = image
            .get(offset.min(image.len() as u64) as usize..)
            .unwrap_or(&[]);
        let mut differences: Vec<std::ops::Range<usize>> = Vec::new();
        for (index, block) in bytes.chunks(COMPARE_BYTES).enumerate() {
            let start = index * COMPARE_BYTES;
            if known.get(start..start + block.len()) == Some(block) {
                continue;
            }
            match differences.last_mut() {
                Some(last) if last.end == start => last.end = start + block.len(),
                _ => differences.push(start..start + block.len()),
            }
        }
        differences
    }

    /// A checksum of the file: where the image has another, the content is asked for.
    pub(super) fn compare(&mut self, file: usize, offset: u64, len: u64, sum: u128, at_end: bool) {
        let Some(tracked) = self.file(file) else {
            return;
        };
        let image = tracked.image.bytes();
        let end = offset.saturating_add(len);
        tracked.image.note_touched(len);
        let same = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| image.get(start..end))
            .is_some_and(|known| checksum(known) == sum)
            && (!at_end || image.len() as u64 == end);
        if same {
            return self.note_compared(file, false);
        }
        // The content that is asked for decides.
        let extent = if at_end { CHUNK_BYTES } else { len };
        let path = tracked.subject.file.path.as_slice().into();
        self.tasks.ask(Task::Read {
            path,
            offset,
            extent,
        });
    }

    /// A range was read again, and was as it was known or not.
    fn note_compared(&mut self, file: usize, differs: bool) {
        if let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) {
            tracked.activity.rereads += 1;
        }
        let counter = if differs {
            &self.progress.compared_different
        } else {
            &self.progress.compared_equal
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn removed(&mut self, path: &[u8]) -> Result<(), PublishError> {
        let lsn = self.at.position.lsn;
        let subject = match self.by_path.remove(path) {
            Some(file) => {
                self.forget(file);
                self.tracked[file].take().map(|tracked| tracked.subject)
            }
            // It has an image that was not needed since the start, or sinks know it from before.
            None => self.describe(path).map(|(subject, _)| subject),
        };
        self.images.assign(&path.into(), None, lsn);
        self.progress.remove_file(&path_text(path));
        self.progress.forget_verification(&path_text(path));
        if let Some(subject) = subject {
            self.event(&subject, 0, Change::Removed);
        }
        Ok(())
    }

    pub(super) fn renamed(
        &mut self,
        group: usize,
        process: u64,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), PublishError> {
        if from == to {
            return Ok(());
        }
        let file = self.track(from)?;
        self.release_held(group, (process, self.at.lane));
        self.publish_pending(file);
        let Some((subject, codec)) = self.describe(to) else {
            return self.removed(from);
        };
        let lsn = self.at.position.lsn;
        let to: Arc<[u8]> = to.into();
        if let Some(replaced) = self.by_path.remove(&to) {
            self.forget(replaced);
            self.tracked[replaced] = None;
        }
        self.by_path.remove(from);
        let former = self.former_of(subject.group, codec.as_ref());
        let Some(tracked) = self.tracked.get_mut(file).and_then(Option::as_mut) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut tracked.subject, subject.clone());
        self.progress.remove_file(&path_text(from));
        self.progress.forget_verification(&path_text(from));
        self.images.assign(&from.into(), None, lsn);
        self.images.assign(&to, Some(tracked.number), lsn);
        self.by_path.insert(to, file);
        let size = tracked.image.size();
        if before.file.format == subject.file.format && before.group == subject.group {
            self.event(&subject, size, Change::Renamed { from: before.file });
            return Ok(());
        }
        // Other records than before, or another stream: gone there, new here.
        tracked.codec = codec;
        tracked.former = former;
        tracked.parse = Parse::default();
        tracked.emitted_end = 0;
        self.event(&before, 0, Change::Removed);
        self.event(&subject, size, Change::Removed);
        let all = Span {
            start: 0,
            end: u64::MAX,
            overwrites: false,
        };
        self.emit(
            file,
            Dirty {
                spans: vec![all],
                cleared_from: None,
            },
        );
        Ok(())
    }
}
