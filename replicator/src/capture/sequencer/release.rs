//! Frames in order: which may be released, and what becomes of them in the journal.

use super::*;

impl Sequencer {
    /// Releases what is due, in order, until the outbox is full.
    pub(super) fn release(&mut self, limits: &[u64]) -> bool {
        let mut merge = Merge::new(&self.lanes, limits);
        let mut released = false;
        while !self.outbox.is_full() {
            if let Some(read) = self.waiting.front()
                && merge.is_next(read.end)
            {
                if let Some(finding) = self.waiting.pop_front() {
                    self.release_finding(&finding);
                    released = true;
                }
                continue;
            }
            let Some((lane, frame)) = merge.next(&mut self.lanes) else {
                break;
            };
            self.release_frame(lane, &frame);
            released = true;
        }
        released
    }

    pub(super) fn release_frame(&mut self, lane: usize, frame: &Queued) {
        let header = frame.header;
        if frame.kind == Kind::Name {
            let lane = &mut self.lanes.lanes[lane];
            if let Some(name) = Name::decode(lane.data(frame)) {
                lane.names.insert(frame.name, name);
            }
            return;
        }
        if matches!(frame.kind, Kind::Begin | Kind::Commit | Kind::Abort) {
            return self.mark_unit(lane, frame);
        }
        if !self.is_vouched(lane, frame) {
            self.lanes.lanes[lane].note_released(header.end);
            return self.compare_instead(lane, frame);
        }
        let Some(file) = self.file_of(lane, frame) else {
            return;
        };
        if frame.kind == Kind::Open {
            self.forget_replaced(wall_at(header.end));
        }
        self.lanes.lanes[lane].note_released(header.end);
        let lane = &self.lanes.lanes[lane];
        let writer = lane.writer;
        let data = lane.data(frame);
        let origin = origin_of(&writer, header.number);
        let at_ns = wall_at(header.end);
        self.progress.operations.count(frame.kind);
        self.progress.captured_ns.store(at_ns, Ordering::Relaxed);
        let range = match frame.kind {
            Kind::Write => {
                Some(header.offset..header.offset.saturating_add(u64::from(header.data_len)))
            }
            Kind::Truncate => Some(header.offset..u64::MAX),
            Kind::Open if header.flags & frame::OPEN_TRUNCATED != 0 => Some(0..u64::MAX),
            _ => None,
        };
        // What no file can be isn't what the program did: its lane was damaged, and only the file knows.
        let possible = header.offset <= FILE_BYTES_MAX
            && range
                .as_ref()
                .is_none_or(|range| range.end == u64::MAX || range.end <= FILE_BYTES_MAX);
        if !possible
            && matches!(
                frame.kind,
                Kind::Open | Kind::Write | Kind::Truncate | Kind::Reread
            )
        {
            if let Some(path) = self.files.files[file].path.clone() {
                self.progress.rereads.count(Reason::Damaged);
                self.tasks.ask(Task::Check { path });
            }
            return;
        }
        let doubts = self.files.doubts();
        let registered = &mut self.files.files[file];
        let group = registered.group;
        registered.note_report(writer.process, header.end);
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            group.active = clock::now();
        }
        match frame.kind {
            Kind::Open | Kind::Rename | Kind::Reread | Kind::Link | Kind::Attributes => {
                registered.changed_ns = at_ns;
            }
            Kind::Map => *registered.mapped.entry(writer.process).or_default() += 1,
            Kind::Unmap => {
                registered.changed_ns = at_ns;
                if let Some(count) = registered.mapped.get_mut(&writer.process) {
                    *count -= 1;
                    if *count == 0 {
                        registered.mapped.remove(&writer.process);
                    }
                }
            }
            _ => {}
        }
        registered.size = match frame.kind {
            Kind::Open | Kind::Truncate => Some(header.offset),
            Kind::Write => {
                let end = header.offset + u64::from(header.data_len);
                registered.size.map(|size| size.max(end))
            }
            Kind::Reread | Kind::Map | Kind::Unmap | Kind::Unknown => None,
            _ => registered.size,
        };
        if let Some(range) = range {
            registered.changed_ns = at_ns;
            let doubtful = registered.changed_since(header.begin, &range);
            registered.note_change(header.end, range);
            if let (Some(range), Some(path)) = (doubtful, registered.path.clone()) {
                registered.doubt(doubts);
                self.progress.rereads.count(Reason::Overlap);
                reread(&self.tasks, path, range);
            }
        }
        let Some(path) = registered.path.clone() else {
            // It has no captured path (any more): only a rename or a link can give it one.
            match frame.kind {
                Kind::Rename if is_directory_rename(&self.files, data) => {
                    rename_directory(&mut self.files, &mut self.outbox, origin, at_ns, data);
                }
                Kind::Rename => rename_in(&mut self.files, file, data),
                Kind::Link => self.files.linked(file, data),
                _ => {}
            }
            return;
        };
        let action = match frame.kind {
            Kind::Open => Action::Opened {
                truncated: header.flags & frame::OPEN_TRUNCATED != 0,
                size: header.offset,
            },
            Kind::Write => Action::Write {
                offset: header.offset,
                bytes: data,
            },
            Kind::Truncate => Action::Truncate {
                size: header.offset,
            },
            // What a mapping changed, and when, nobody saw.
            Kind::Reread | Kind::Unmap => {
                self.progress.rereads.count(match frame.kind {
                    Kind::Unmap => Reason::Mapped,
                    _ => Reason::Kernel,
                });
                let end = header.offset.saturating_add(header.extent);
                registered.note_change(header.end, header.offset..end);
                registered.doubt(doubts);
                return reread(&self.tasks, path, header.offset..end);
            }
            Kind::Rename => {
                let Some((_, to)) = split_rename(data) else {
                    return;
                };
                let to = self.files.configured(to).into_owned();
                self.files.renamed(file, &to);
                let action = match self.files.group_of(&to) {
                    Some(_) => Action::Renamed { to: &to },
                    None => Action::Removed,
                };
                let operation = Operation {
                    group,
                    origin,
                    at_ns,
                    path: &path,
                    action,
                };
                return self.outbox.push(&operation);
            }
            Kind::Unlink => {
                if *self.files.configured(data) != *path {
                    // Another link of the file was removed.
                    return;
                }
                if let Some(to) = self.files.other_link(file) {
                    // The old way to rename a file: link and unlink.
                    self.files.renamed(file, &to);
                    let operation = Operation {
                        group,
                        origin,
                        at_ns,
                        path: &path,
                        action: Action::Renamed { to: &to },
                    };
                    return self.outbox.push(&operation);
                }
                if self.files.removed(&path).is_none() {
                    return;
                }
                Action::Removed
            }
            Kind::Sync => Action::Synced,
            Kind::Lock => Action::Locked {
                offset: header.offset,
                extent: header.extent,
            },
            Kind::Unlock => Action::Unlocked {
                offset: header.offset,
                extent: header.extent,
            },
            Kind::Close => Action::Closed {
                keeps_locks: header.flags & frame::CLOSE_KEEPS_LOCKS != 0,
            },
            Kind::Attributes => {
                self.tasks.ask(Task::Look { path });
                return;
            }
            // From a later version: whatever it was, the file has it.
            Kind::Unknown => {
                self.progress.rereads.count(Reason::Unknown);
                self.tasks.ask(Task::Check { path });
                return;
            }
            Kind::Map | Kind::Link | Kind::Name | Kind::Begin | Kind::Commit | Kind::Abort => {
                return;
            }
        };
        self.outbox.push(&Operation {
            group,
            origin,
            at_ns,
            path: &path,
            action,
        });
    }

    /// A program marked where a unit of work begins or ends.
    fn mark_unit(&mut self, lane: usize, frame: &Queued) {
        self.lanes.lanes[lane].note_released(frame.header.end);
        let lane = &self.lanes.lanes[lane];
        let header = frame.header;
        let resumed = (header.flags & frame::MARK_RESUMED != 0)
            .then(|| u32::try_from(header.extent).unwrap_or(0));
        let action = match frame.kind {
            Kind::Begin => Action::Begun { resumed },
            Kind::Commit => Action::Committed { resumed },
            _ => Action::Aborted { resumed },
        };
        self.progress.operations.count(frame.kind);
        if let Some(group) = self.groups.get_mut(usize::from(frame.group)) {
            group.active = clock::now();
        }
        self.outbox.push(&Operation {
            group: frame.group,
            origin: origin_of(&lane.writer, header.number),
            at_ns: wall_at(header.end),
            path: b"",
            action,
        });
    }

    /// A program made an empty file. What the path stood for before, now or when this started, is gone. (That a file was
    /// empty when it was opened says nothing by itself: others may have written to it before this frame's turn.)
    pub(super) fn forget_replaced(&mut self, at_ns: i64) {
        let Some((path, replaced)) = self.files.made.take() else {
            return;
        };
        if (self.expected.remove(&path) || replaced)
            && let Some(group) = self.files.group_of(&path)
        {
            let origin = Origin::default();
            self.outbox.push(&Operation {
                group,
                origin,
                at_ns,
                path: &path,
                action: Action::Removed,
            });
        }
    }

    /// Which file a frame is about.
    pub(super) fn file_of(&mut self, lane: usize, frame: &Queued) -> Option<usize> {
        let name = self.lanes.lanes[lane].names.get_mut(&frame.name)?;
        if frame.kind == Kind::Open {
            let empty = frame.header.offset == 0;
            name.file = Some(
                self.files
                    .opened(name.device, name.inode, &name.path, empty),
            );
        } else {
            // A file that lost its path may have turned up under another, if somebody unseen renamed it: what is written
            // through descriptors opened before goes there.
            let moved = |file: usize| self.files.files[file].path.is_none();
            if name.file.is_none_or(moved) {
                name.file = Some(self.files.named(name.device, name.inode, &name.path));
            }
        }
        name.file
    }
}

/// Whether a rename was of a directory with captured files in it.
fn is_directory_rename(files: &Files, data: &[u8]) -> bool {
    split_rename(data)
        .is_some_and(|(from, _)| files.below(&files.configured(from)).next().is_some())
}

/// A directory was renamed, and with it every file in it.
fn rename_directory(
    files: &mut Files,
    outbox: &mut Outbox,
    origin: Origin<'_>,
    at_ns: i64,
    data: &[u8],
) {
    let Some((from, to)) = split_rename(data) else {
        return;
    };
    let (from, to) = (
        files.configured(from).into_owned(),
        files.configured(to).into_owned(),
    );
    let moved: Vec<(Arc<[u8]>, usize)> = files
        .below(&from)
        .map(|(path, file)| (Arc::clone(path), file))
        .collect();
    for (path, file) in moved {
        let to = [to.as_slice(), &path[from.len()..]].concat();
        let group = files.files[file].group;
        files.renamed(file, &to);
        let action = match files.group_of(&to) {
            Some(_) => Action::Renamed { to: &to },
            None => Action::Removed,
        };
        outbox.push(&Operation {
            group,
            origin,
            at_ns,
            path: &path,
            action,
        });
    }
}

/// Who made a frame, for the journal.
fn origin_of(writer: &Writer, frame: u64) -> Origin<'_> {
    let program = writer.program.split(|&byte| byte == 0).next();
    Origin {
        process: writer.process,
        pid: writer.pid,
        lane: writer.lane,
        frame,
        program: program.unwrap_or_default(),
    }
}
