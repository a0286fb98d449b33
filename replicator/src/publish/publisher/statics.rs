//! Files of trees: what was found of one is kept back until it is complete, and then is one change.
//!
//! There is no image of such a file. What was found is compared with the [`Digests`](crate::publish::digests::Digests) of
//! its blocks, and what differs waits for the attributes, which are found last: then content and attributes become events
//! of one unit, whatever the group's units of work are.

use super::*;
use crate::capture::operation::{Attributes, FileKind};
use crate::publish::digests::{Known, block_count};
use crate::publish::units::UNIT_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// What was found of a file so far.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) first_lsn: u64,
    /// Blocks that differ from what sinks have: checksum and content.
    blocks: BTreeMap<u64, (u128, Vec<u8>)>,
    /// Blocks that differ by their checksum, without content yet.
    wanted: BTreeSet<u64>,
    size: Option<u64>,
    bytes: u64,
}

/// What happened in a tree, for the status.
pub(super) struct Tree {
    place: (usize, usize),
    name: String,
    activity: FileProgress,
    told: bool,
}

impl Tree {
    /// The trees of a configuration.
    pub(super) fn all(config: &Config, images: &Images) -> Vec<Tree> {
        let rules = config.groups.iter().enumerate().flat_map(|(group, rules)| {
            let files = rules.files.iter().enumerate();
            files.filter_map(move |(rule, at)| Some(((group, rule), at.tree.as_ref()?)))
        });
        rules
            .map(|(place, root)| {
                let root = root.as_os_str().as_bytes();
                Tree {
                    place,
                    name: path_text(root) + "/",
                    activity: FileProgress {
                        group: config.groups[place.0].name.clone(),
                        size: images.digests.total_size(root).unwrap_or_default(),
                        ..FileProgress::default()
                    },
                    told: true,
                }
            })
            .collect()
    }
}

impl Publisher {
    /// One operation on a file of a tree.
    pub(super) fn handle_static(
        &mut self,
        path: &[u8],
        place: (usize, usize),
        action: Action<'_>,
    ) -> Result<(), PublishError> {
        if self.at.position.lsn < self.images.digests.cursor() {
            // Sinks have what came of it, and the digests too.
            return Ok(());
        }
        let at_ns = self.at.captured_ns;
        self.tree_activity(place, |activity| {
            activity.operations += 1;
            activity.changed_ns = at_ns;
        });
        let path: Arc<[u8]> = path.into();
        match action {
            Action::Found {
                offset,
                bytes,
                at_end,
                ..
            } => {
                if let Some(block) = block_at(offset, bytes.len() as u64) {
                    let sum = checksum(bytes);
                    self.static_block(&path, block, (sum, Some(bytes)))?;
                    self.static_size(&path, at_end, offset + bytes.len() as u64);
                    return self.cut_static(&path, place);
                }
                self.check(&path);
            }
            Action::Summed {
                offset,
                len,
                sum,
                at_end,
            } => match block_at(offset, len) {
                Some(block) => {
                    self.static_block(&path, block, (sum, None))?;
                    self.static_size(&path, at_end, offset.saturating_add(len));
                }
                None => self.check(&path),
            },
            Action::Attributes(attributes) => {
                return self.static_complete(&path, place, attributes);
            }
            Action::Abandoned => {
                self.findings.remove(&path);
            }
            // What isn't known of it differs, so all of it is read and sent.
            Action::Restated { .. } => {
                let lsn = self.at.position.lsn;
                self.findings.remove(&path);
                self.images.digests.set(lsn, &path, None);
                self.check(&path);
            }
            Action::Removed => return self.static_removed(&path, place),
            Action::Renamed { to } => return self.static_renamed(&path, place, &to.into()),
            // By a program that has the rules of before: what it did to the file, the file has.
            Action::Opened { .. } | Action::Write { .. } | Action::Truncate { .. } => {
                self.check(&path);
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, path: &Arc<[u8]>) {
        self.tasks.ask(Task::Check {
            path: Arc::clone(path),
        });
    }

    fn tree_activity(&mut self, place: (usize, usize), note: impl FnOnce(&mut FileProgress)) {
        if let Some(tree) = self.trees.iter_mut().find(|tree| tree.place == place) {
            note(&mut tree.activity);
            tree.told = false;
        }
    }

    /// What happened in trees since it was last told.
    pub(super) fn tree_news(&mut self) -> Vec<(String, FileProgress)> {
        let news = self.trees.iter_mut().filter(|tree| !tree.told);
        news.map(|tree| {
            tree.told = true;
            (tree.name.clone(), tree.activity.clone())
        })
        .collect()
    }

    fn finding(&mut self, path: &Arc<[u8]>) -> &mut Finding {
        let first_lsn = self.at.position.lsn;
        self.findings
            .entry(Arc::clone(path))
            .or_insert_with(|| Finding {
                first_lsn,
                blocks: BTreeMap::new(),
                wanted: BTreeSet::new(),
                size: None,
                bytes: 0,
            })
    }

    /// A block was found to have this checksum, and perhaps this content.
    fn static_block(
        &mut self,
        path: &Arc<[u8]>,
        block: u64,
        (sum, bytes): (u128, Option<&[u8]>),
    ) -> Result<(), PublishError> {
        let known = self.images.digests.get(path)?;
        let known = known.and_then(|known| known.digests.get(block as usize).copied());
        let finding = self.finding(path);
        finding.wanted.remove(&block);
        if known == Some(sum) {
            finding.drop_block(block);
        } else if let Some(bytes) = bytes {
            finding.drop_block(block);
            finding.bytes += bytes.len() as u64;
            finding.blocks.insert(block, (sum, bytes.to_vec()));
        } else if finding
            .blocks
            .get(&block)
            .is_none_or(|(found, _)| *found != sum)
        {
            finding.drop_block(block);
            finding.wanted.insert(block);
        }
        Ok(())
    }

    /// Where the file ends, if it ends here.
    fn static_size(&mut self, path: &Arc<[u8]>, at_end: bool, end: u64) {
        let finding = self.finding(path);
        if !at_end {
            return;
        }
        finding.size = Some(end);
        let count = block_count(end) as u64;
        finding.wanted.split_off(&count);
        while let Some((&last, _)) = finding.blocks.last_key_value()
            && last >= count
        {
            finding.drop_block(last);
        }
    }

    /// More was found than a unit may hold: what there is becomes events. Sinks are not told what the file is until they
    /// have all of it.
    fn cut_static(&mut self, path: &Arc<[u8]>, place: (usize, usize)) -> Result<(), PublishError> {
        if self.finding(path).bytes <= UNIT_BYTES_MAX {
            return Ok(());
        }
        self.progress.units_cut.fetch_add(1, Ordering::Relaxed);
        let blocks = std::mem::take(&mut self.finding(path).blocks);
        self.finding(path).bytes = 0;
        let before = self.images.digests.get(path)?;
        let mut known = before.as_deref().cloned().unwrap_or(Known {
            attributes: None,
            size: 0,
            digests: Vec::new(),
        });
        known.attributes = None;
        let Some(subject) = self.subject(path) else {
            return Ok(());
        };
        let mut changes = vec![Change::Created];
        if before.is_none() {
            changes.push(ALL_CLEARED);
        }
        let end = blocks.iter().next_back();
        let end = end.map_or(0, |(block, (_, bytes))| {
            block * CHUNK_BYTES + bytes.len() as u64
        });
        known.size = known.size.max(end);
        known.digests.resize(block_count(known.size), 0);
        self.put_blocks(blocks, &mut known.digests, &mut changes);
        self.static_events(&subject, place, known.size, changes);
        self.know(path, place, before.as_deref(), Some(known));
        Ok(())
    }

    /// All of it was found, and this is what it is.
    fn static_complete(
        &mut self,
        path: &Arc<[u8]>,
        place: (usize, usize),
        attributes: Attributes,
    ) -> Result<(), PublishError> {
        if attributes.kind != FileKind::Directory
            && let Some(finding) = self.findings.get(path)
            && !finding.wanted.is_empty()
        {
            self.tasks.ask(Task::Blocks {
                path: Arc::clone(path),
                blocks: finding.wanted.iter().copied().collect(),
            });
            return Ok(());
        }
        let finding = self.findings.remove(path);
        if let Some(finding) = &finding {
            // A restart between the first block and this would only find the blocks behind it.
            self.note_published(finding.first_lsn);
        }
        let before = self.images.digests.get(path)?;
        let (size, blocks) = match (attributes.kind, finding, &before) {
            (FileKind::Directory, ..) => (0, BTreeMap::new()),
            (_, Some(finding), _) if finding.size.is_some() => {
                (finding.size.unwrap_or(0), finding.blocks)
            }
            (_, Some(finding), Some(before)) => (before.size, finding.blocks),
            (_, None, Some(before)) => (before.size, BTreeMap::new()),
            (_, _, None) => {
                // Its content went by unseen.
                self.check(path);
                return Ok(());
            }
        };
        let count = block_count(size);
        let mut known = Known {
            attributes: Some(attributes),
            size,
            digests: before
                .as_ref()
                .map_or(Vec::new(), |before| before.digests.clone()),
        };
        let had = known.digests.len();
        if (had..count).any(|block| !blocks.contains_key(&(block as u64))) {
            self.check(path);
            return Ok(());
        }
        let Some(subject) = self.subject(path) else {
            return Ok(());
        };
        let mut changes = Vec::new();
        if before.is_none() {
            // Whatever sinks had under this path.
            changes.push(ALL_CLEARED);
        } else if count < had {
            changes.push(Change::Cleared {
                from: count as u64,
                to: u64::MAX,
            });
        }
        known.digests.resize(count, 0);
        self.put_blocks(blocks, &mut known.digests, &mut changes);
        let before = before.as_deref();
        if changes.is_empty() && before == Some(&known) {
            return Ok(());
        }
        changes.push(Change::Attributes(attributes));
        self.static_events(&subject, place, size, changes);
        self.know(path, place, before, Some(known));
        Ok(())
    }

    /// Turns blocks into changes, and notes their digests.
    fn put_blocks(
        &mut self,
        blocks: BTreeMap<u64, (u128, Vec<u8>)>,
        digests: &mut [u128],
        changes: &mut Vec<Change>,
    ) {
        for (id, (sum, data)) in blocks {
            let Some(digest) = digests.get_mut(id as usize) else {
                continue;
            };
            *digest = sum;
            // As the codec of blocks has it: a whole block of zeros is a hole.
            if data.len() as u64 == CHUNK_BYTES && data.iter().all(|byte| *byte == 0) {
                changes.push(Change::Absent { id });
                continue;
            }
            self.parcel_bytes += data.len();
            changes.push(Change::Put {
                id,
                data,
                rest: Vec::new(),
            });
        }
    }

    fn static_events(
        &mut self,
        subject: &Subject,
        place: (usize, usize),
        size: u64,
        changes: Vec<Change>,
    ) {
        let count = changes.len() as u64;
        self.tree_activity(place, |activity| activity.events += count);
        for change in changes {
            self.event(subject, size, change);
        }
    }

    /// Notes what is known of a file from now on.
    fn know(
        &mut self,
        path: &Arc<[u8]>,
        place: (usize, usize),
        before: Option<&Known>,
        known: Option<Known>,
    ) {
        let lsn = self.at.position.lsn;
        let size = |known: Option<&Known>| known.map_or(0, |known| known.size);
        let (less, more) = (size(before), size(known.as_ref()));
        self.tree_activity(place, |activity| {
            activity.size = activity.size.saturating_sub(less).saturating_add(more);
        });
        // It was a record file in a former configuration.
        if known.is_some() && self.images.has(path) {
            self.images.assign(path, None, lsn);
        }
        self.images.digests.set(lsn, path, known.map(Arc::new));
    }

    fn static_removed(
        &mut self,
        path: &Arc<[u8]>,
        place: (usize, usize),
    ) -> Result<(), PublishError> {
        self.findings.remove(path);
        let before = self.images.digests.get(path)?;
        if self.images.has(path) {
            self.images.assign(path, None, self.at.position.lsn);
        }
        if before.is_some() {
            self.know(path, place, before.as_deref(), None);
        }
        if let Some(subject) = self.subject(path) {
            self.static_events(&subject, place, 0, vec![Change::Removed]);
        }
        Ok(())
    }

    fn static_renamed(
        &mut self,
        from: &Arc<[u8]>,
        place: (usize, usize),
        to: &Arc<[u8]>,
    ) -> Result<(), PublishError> {
        let before = self.images.digests.get(from)?;
        let subjects = self.subject(from).zip(self.subject(to));
        let Some((old, new)) =
            subjects.filter(|(old, new)| old.group == new.group && old.file.tree == new.file.tree)
        else {
            // The configuration is another one since.
            self.check(to);
            return self.static_removed(from, place);
        };
        let Some(known) = before else {
            self.check(to);
            self.static_removed(to, place)?;
            return self.static_removed(from, place);
        };
        self.findings.remove(from);
        self.findings.remove(to);
        let replaced = self.images.digests.get(to)?;
        let mut changes = vec![Change::Renamed { from: old.file }];
        changes.extend(known.attributes.map(Change::Attributes));
        self.static_events(&new, place, known.size, changes);
        self.know(from, place, Some(&known), None);
        self.know(to, place, replaced.as_deref(), Some((*known).clone()));
        Ok(())
    }
}

const ALL_CLEARED: Change = Change::Cleared {
    from: 0,
    to: u64::MAX,
};

impl Finding {
    fn drop_block(&mut self, block: u64) {
        if let Some((_, bytes)) = self.blocks.remove(&block) {
            self.bytes -= bytes.len() as u64;
        }
    }
}

/// The number of the block that this is, if it is one.
fn block_at(offset: u64, len: u64) -> Option<u64> {
    (offset.is_multiple_of(CHUNK_BYTES) && len <= CHUNK_BYTES).then_some(offset / CHUNK_BYTES)
}
