//! What the checker found, and what it is asked to look at.

use super::*;

impl Sequencer {
    pub(super) fn take_findings(&mut self) {
        let bytes = |finding: &Finding| match &finding.what {
            What::Content { bytes, .. } => bytes.len(),
            _ => 0,
        };
        let mut room = FINDINGS_BYTES_MAX;
        for waiting in &self.waiting {
            room = room.saturating_sub(bytes(waiting));
        }
        while self.waiting.len() < FINDINGS_MAX && room > 0 {
            match self.findings.try_recv() {
                Ok(finding) => {
                    room = room.saturating_sub(bytes(&finding));
                    self.waiting.push_back(finding);
                }
                Err(_) => break,
            }
        }
    }

    pub(super) fn release_finding(&mut self, finding: &Finding) {
        self.consider(finding);
        // Only now: until then the finding itself, and then what became of it, keep everything from looking idle.
        self.progress.findings.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn consider(&mut self, finding: &Finding) {
        if self.consider_entry(finding) {
            return;
        }
        let path = &finding.path;
        match &finding.what {
            What::Scanned { present } => return self.scanned(present),
            What::Touched { by, since } => return self.touched(path, by, *since),
            What::Missing => return self.missing(path),
            What::Unreadable(reason) => {
                let problem = format!(
                    "reading {}: {reason}; its table is not complete until it can be read (see `counterfoil check`)",
                    String::from_utf8_lossy(path)
                );
                self.unreadable.insert(Arc::clone(path), problem);
                return self.tell_unreadable();
            }
            What::Seen {
                device,
                inode,
                size,
                changed_ns,
                ..
            } => {
                let was_known = self.expected.remove(path);
                self.directories.note(path, *device);
                // A file that captured programs made while nobody took what they told: nobody watched it then either.
                let is_unwatched = !was_known
                    && self.progress.scans.load(Ordering::SeqCst) < 2
                    && self
                        .files
                        .at_path(path)
                        .is_some_and(|file| self.files.files[file].look.is_none());
                if !self.seen_as((*device, *inode), path, (*size, *changed_ns), finding.begin) {
                    return;
                }
                if is_unwatched {
                    // What they told is in the journal, so it isn't loaded once more.
                    self.files.doubt(path);
                    self.tasks.ask(Task::Compare {
                        path: Arc::clone(path),
                    });
                }
            }
            // It was read from what was at this path before.
            What::Content { .. } | What::Sum { .. } | What::Verified(_)
                if self.is_of_another(finding) =>
            {
                return;
            }
            What::Content {
                offset,
                bytes,
                at_end,
                ..
            } => {
                let end = if *at_end {
                    u64::MAX
                } else {
                    offset + bytes.len() as u64
                };
                let changed = self
                    .files
                    .at_path(path)
                    .map(|file| &self.files.files[file])
                    .and_then(|file| {
                        file.changed_since(finding.begin, &(*offset..end.max(*offset + 1)))
                    });
                if let Some(changed) = changed {
                    if finding.completes
                        && let Some(file) = self.files.at_path(path)
                    {
                        // That comes with what is read instead.
                        self.files.files[file].completes_later = true;
                    }
                    return self.read_again(path, *offset, bytes.len() as u64, *at_end, changed);
                }
                if self.unreadable.remove(path).is_some() {
                    self.tell_unreadable();
                }
            }
            What::Sum { .. } | What::Verified(_) | What::Restate(_) => {}
            // Only of entries of trees.
            What::Complete { .. } | What::Abandoned => return,
        }
        let Some(file) = self.files.at_path(path) else {
            return;
        };
        let group = self.files.files[file].group;
        let at_ns = wall_at(finding.end);
        // A round of verification is no work of the group.
        if !matches!(finding.what, What::Verified(_))
            && let Some(state) = self.groups.get_mut(usize::from(group))
        {
            state.active = clock::now();
        }
        let mut keep = |action| {
            let origin = Origin::default();
            self.outbox.push(&Operation {
                group,
                origin,
                at_ns,
                path,
                action,
            });
        };
        let registered = &mut self.files.files[file];
        let attributes = match &finding.what {
            // A scan sees every file again and again: attributes are kept when they changed.
            What::Seen { attributes, .. } => registered.note_attributes(*attributes),
            What::Content { at_end, .. } | What::Sum { at_end, .. } => {
                if let What::Content {
                    bytes, load: true, ..
                } = &finding.what
                {
                    self.progress.load_journaled(bytes.len());
                }
                if let Some(action) = finding.what.action() {
                    keep(action);
                }
                if *at_end {
                    let overlapped = registered.changed_since(finding.begin, &(0..u64::MAX));
                    registered.size = overlapped.is_none().then(|| finding.what.end()).flatten();
                }
                if finding.completes || *at_end && registered.completes_later {
                    registered.note_loaded()
                } else {
                    None
                }
            }
            What::Verified(verified) => {
                let end = verified.offset + verified.len;
                let range = verified.offset..if verified.at_end { u64::MAX } else { end };
                let overlapped = registered.changed_since(finding.begin, &range);
                keep(Action::Verified(Verified {
                    sum: verified.sum.filter(|_| overlapped.is_none()),
                    ..*verified
                }));
                None
            }
            What::Restate(_) => {
                finding.what.action().into_iter().for_each(&mut keep);
                None
            }
            What::Complete { .. }
            | What::Abandoned
            | What::Missing
            | What::Unreadable(_)
            | What::Touched { .. }
            | What::Scanned { .. } => None,
        };
        if let Some(attributes) = attributes {
            keep(Action::Attributes(attributes));
        }
    }

    /// Has a file compared. Should it be renamed before that, it is compared under its new name.
    pub(super) fn compare(&mut self, path: &Arc<[u8]>) {
        self.files.doubt(path);
        self.tasks.ask(Task::Check {
            path: Arc::clone(path),
        });
    }

    /// Has all files of a group, or of all groups, compared.
    pub(super) fn compare_all(&mut self, group: Option<u16>) {
        let paths = self.files.paths();
        let paths = paths.filter(|(_, file)| group.is_none_or(|group| file.group == group));
        let paths: Vec<Arc<[u8]>> = paths.map(|(path, _)| Arc::clone(path)).collect();
        for path in &paths {
            self.compare(path);
        }
    }

    /// A file is at a path. False when the path is a link to another captured file.
    pub(super) fn seen_as(
        &mut self,
        (device, inode): (u64, u64),
        path: &Arc<[u8]>,
        look: (u64, i64),
        begin: u64,
    ) -> bool {
        let known = self.files.at_inode(device, inode);
        let other = known
            .and_then(|file| self.files.files[file].path.clone())
            .filter(|other| other != path);
        if let Some(other) = other
            && self.files.is_at(&other, device, inode)
        {
            let problem = format!(
                "{} and {} are links to one file, which is mirrored as the latter only",
                String::from_utf8_lossy(path),
                String::from_utf8_lossy(&other)
            );
            if self.links.insert(Arc::clone(path), problem).is_none() {
                self.progress
                    .set_problems("links", &self.links.values().cloned().collect::<Vec<_>>());
            }
            return false;
        }
        if self.links.remove(path).is_some() {
            self.progress
                .set_problems("links", &self.links.values().cloned().collect::<Vec<_>>());
        }
        let Some(file) = known.filter(|&file| self.files.files[file].path.as_ref() == Some(path))
        else {
            // New, or another file than before under this path.
            let file = self.files.place(device, inode, path, false);
            self.files.files[file].look = Some(look);
            return true;
        };
        let known = &mut self.files.files[file];
        if known.look == Some(look) {
            return true;
        }
        // While it is being written to, its size and what is known of it are of different moments: another look tells.
        let other_size = known.size.is_some_and(|size| size != look.0);
        if other_size && known.changed_since(begin, &(0..u64::MAX)).is_some() {
            self.tasks.ask(Task::Look {
                path: Arc::clone(path),
            });
            return true;
        }
        known.look = Some(look);
        // Changed later than by any captured change, and nobody is at it, or not by these alone: by whom, we didn't see.
        let late = look.1 > known.changed_ns + UNEXPLAINED_NS;
        if other_size || late && !self.is_reported(path, None, u64::MAX) {
            self.progress.rereads.count(Reason::Uncaptured);
            self.compare(path);
        }
        true
    }

    /// Whether what was read is another file than the one that is at its path by now.
    fn is_of_another(&self, finding: &Finding) -> bool {
        finding.file.is_some_and(|(device, inode)| {
            let present = self.files.at_path(&finding.path);
            present.is_some() && self.files.at_inode(device, inode) != present
        })
    }

    /// A read overlapped changes of the same bytes. What they left alone is read again with it, in halves: short reads
    /// find a gap between changes.
    pub(super) fn read_again(
        &self,
        path: &Arc<[u8]>,
        offset: u64,
        len: u64,
        at_end: bool,
        changed: Range<u64>,
    ) {
        self.progress.rereads.count(Reason::Busy);
        let ask = |offset, extent| {
            self.tasks.ask(Task::Read {
                path: Arc::clone(path),
                offset,
                extent,
            });
        };
        if len > 4096 && changed.start < offset + len {
            let half = (len / 2).next_multiple_of(4096);
            ask(offset, half);
            ask(offset + half, if at_end { CHUNK_BYTES } else { len - half });
        } else {
            ask(offset, if at_end { CHUNK_BYTES } else { len });
        }
    }

    pub(super) fn tell_unreadable(&self) {
        let problems = told(&self.unreadable, "files that can't be read");
        self.progress.set_problems("unreadable", &problems);
    }

    pub(super) fn scanned(&mut self, present: &HashSet<Arc<[u8]>>) {
        // What is there, and nobody spoke of since: it was put aside for something that isn't so any more.
        for path in present {
            let is_known = self.files.at_path(path).is_some()
                || self.links.contains_key(path)
                || self.entries.is_settled(path);
            if !is_known {
                self.tasks.ask(Task::Look {
                    path: Arc::clone(path),
                });
            }
        }
        // What can't be read needn't change to be readable again.
        for path in self.unreadable.keys() {
            self.tasks.ask(Task::Check {
                path: Arc::clone(path),
            });
        }
        let unseen: Vec<Arc<[u8]>> = self
            .files
            .paths()
            .map(|(path, _)| path)
            .chain(self.entries.paths())
            .filter(|path| !present.contains(*path))
            .cloned()
            .chain(self.expected.iter().cloned())
            .collect();
        // Those of which nobody can say are looked at again next time.
        let lost_before = std::mem::take(&mut self.lost);
        for path in unseen {
            self.missing(&path);
        }
        self.expected.retain(|path| self.lost.contains_key(path));
        if !lost_before.is_empty() || !self.lost.is_empty() {
            self.tell_lost();
        }
        self.directories.save();
        self.progress.scans.fetch_add(1, Ordering::SeqCst);
    }

    /// A file isn't where it was.
    pub(super) fn missing(&mut self, path: &Arc<[u8]>) {
        if self.unreadable.remove(path).is_some() {
            self.tell_unreadable();
        }
        if self.is_missing_entry(path) {
            return;
        }
        match self
            .directories
            .fate(path, self.files.root_of(path).as_deref())
        {
            Fate::There => {}
            Fate::Unknown(why) => {
                let problem = format!(
                    "{}: {why}; its rows are kept until it is known whether it was removed",
                    String::from_utf8_lossy(path)
                );
                self.lost.insert(Arc::clone(path), problem);
            }
            Fate::Removed => {
                // Unknown here it may still have rows: of before a kill, after the last checkpoint.
                self.files.removed(path);
                if let Some(group) = self.files.group_of(path) {
                    let at_ns = clock::wall();
                    let origin = Origin::default();
                    self.outbox.push(&Operation {
                        group,
                        origin,
                        at_ns,
                        path,
                        action: Action::Removed,
                    });
                }
            }
        }
    }

    /// Says which files are neither there nor known to be removed.
    pub(super) fn tell_lost(&self) {
        let problems = told(&self.lost, "files that are not there");
        self.progress.set_problems("lost files", &problems);
    }

    /// Has new files read.
    pub(super) fn load(&mut self) {
        for path in self.files.to_load.drain(..) {
            self.tasks.ask(Task::Check { path });
        }
    }

    /// Has files compared that captured programs have mapped.
    pub(super) fn look_after_mapped(&mut self) {
        if self.last_mapped.elapsed() < MAPPED_INTERVAL || self.is_behind() {
            return;
        }
        self.last_mapped = Instant::now();
        for (path, _) in self
            .files
            .paths()
            .filter(|(_, file)| !file.mapped.is_empty())
        {
            self.tasks.ask(Task::Recheck {
                path: Arc::clone(path),
                pause: MAPPED_INTERVAL - Duration::from_millis(100),
            });
        }
    }

    /// Whether so much was read that isn't taken yet, by a journal at its limit say, that nothing more is asked without need.
    fn is_behind(&self) -> bool {
        self.waiting.len() >= FINDINGS_MAX / 2
    }

    /// Looks at links to other captured files: they stand for themselves once the other is gone.
    pub(super) fn look_after_links(&mut self) {
        if self.links.is_empty() || self.last_links.elapsed() < LINKS_INTERVAL || self.is_behind() {
            return;
        }
        self.last_links = Instant::now();
        for path in self.links.keys() {
            self.tasks.ask(Task::Look {
                path: Arc::clone(path),
            });
        }
    }

    /// Has files read that programs could not report on.
    pub(super) fn take_gaps(&mut self) {
        let gaps = self.board.gaps.load(Ordering::SeqCst);
        if gaps == self.gaps {
            return;
        }
        self.gaps = gaps;
        let mut hashes = HashSet::new();
        let everything = self.board.take_gaps(|hash| {
            hashes.insert(hash);
        });
        let mut marked = Vec::new();
        for (path, _) in self.files.paths() {
            if everything || hashes.contains(&path_hash(path)) {
                marked.push(Arc::clone(path));
            }
        }
        // A mark that fits no known path is of a file by another name: a link, or a directory that is one.
        if everything || marked.len() < hashes.len() {
            marked = self
                .files
                .paths()
                .map(|(path, _)| Arc::clone(path))
                .collect();
        }
        for path in marked {
            self.progress.rereads.count(Reason::Gap);
            self.compare(&path);
        }
    }
}

/// What to tell of files that something is wrong with; many need no line each.
fn told(problems: &HashMap<Arc<[u8]>, String>, what: &str) -> Vec<String> {
    const TOLD_MAX: usize = 5;
    let mut told: Vec<String> = problems.values().take(TOLD_MAX).cloned().collect();
    if problems.len() > TOLD_MAX {
        told.push(format!("and {} more {what}", problems.len() - TOLD_MAX));
    }
    told
}
