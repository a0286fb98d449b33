//! What a batch is made of, as far as parts of it can be left out: the images of records, and whole files.
//!
//! A file that is renamed in the batch is one file under all of its names, and so is what it replaces: left out is all of it
//! or nothing. Renames, clearings and removals of a file that isn't left out stay, whichever of its images do.

use super::fold::{Origin, Origins};
use counterfoil_sinks::{Batch, FileChanges, FileFate, Image, LoggedChange};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A batch, taken apart.
pub(super) struct Parts<'b> {
    batch: &'b Batch,
    /// By place in the batch's files: the number of the file.
    files: Vec<usize>,
    file_count: usize,
    items: Vec<Item>,
}

/// An image in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Place in the batch's files.
    pub(super) at: usize,
    /// The record's identity.
    pub(super) id: u64,
    /// Place in the log, of a file that has one.
    logged: Option<usize>,
}

impl<'b> Parts<'b> {
    /// Takes a batch apart.
    pub(super) fn of(batch: &'b Batch) -> Parts<'b> {
        let mut files = Vec::with_capacity(batch.files.len());
        let mut by_path: HashMap<&[u8], usize> = HashMap::new();
        for changes in &batch.files {
            let mut number = by_path
                .get(changes.file.path.as_slice())
                .copied()
                .unwrap_or(files.len());
            if let Some(from) = &changes.renamed_from {
                // What had either name before is one file with it.
                if let Some(&other) = by_path.get(from.as_slice()) {
                    let (kept, gone) = (number.min(other), number.max(other));
                    for known in files.iter_mut().chain(by_path.values_mut()) {
                        if *known == gone {
                            *known = kept;
                        }
                    }
                    number = kept;
                }
                by_path.insert(from, number);
            }
            by_path.insert(&changes.file.path, number);
            files.push(number);
        }
        // Numbers without holes.
        let numbers: BTreeSet<usize> = files.iter().copied().collect();
        let dense: BTreeMap<usize, usize> = numbers.into_iter().zip(0..).collect();
        let files: Vec<usize> = files.iter().map(|number| dense[number]).collect();
        let items = batch.files.iter().enumerate().flat_map(items_of).collect();
        Parts {
            batch,
            file_count: dense.len(),
            files,
            items,
        }
    }

    /// How many files it changes.
    pub(super) fn file_count(&self) -> usize {
        self.file_count
    }

    /// All images, in the order of the batch.
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The number of the file that an item is of.
    pub(super) fn file_of(&self, item: usize) -> usize {
        self.files[self.items[item].at]
    }

    /// What the batch last does to a file.
    pub(super) fn changes_of(&self, file: usize) -> &'b FileChanges {
        let last = self.files.iter().rposition(|&number| number == file);
        &self.batch.files[last.unwrap_or(0)]
    }

    /// What the batch does to the file of an item, where the item is.
    pub(super) fn changes(&self, item: Item) -> &'b FileChanges {
        &self.batch.files[item.at]
    }

    /// The image of an item.
    pub(super) fn image(&self, item: Item) -> &'b Image {
        let changes = self.changes(item);
        let logged = item.logged.and_then(|at| match &changes.log[at].change {
            LoggedChange::Image { image, .. } => Some(image),
            LoggedChange::Cleared(_) | LoggedChange::Renamed => None,
        });
        logged
            .or_else(|| changes.images.get(&item.id))
            .unwrap_or(&Image::Absent)
    }

    /// Where an item comes from, as far as that is known.
    pub(super) fn origin(&self, item: Item, origins: &Origins) -> Origin {
        if let Some(logged) = item.logged.map(|at| &self.changes(item).log[at]) {
            return Origin {
                position: logged.position,
                captured_ns: logged.captured_ns,
            };
        }
        let known = origins.get(item.at).and_then(Option::as_ref);
        let known = known.and_then(|origins| origins.get(&item.id)).copied();
        known.unwrap_or(Origin {
            position: self.batch.position,
            captured_ns: self.batch.captured_ns,
        })
    }

    /// The batch with some of its files, and of these some images.
    pub(super) fn with(&self, files: &[bool], items: &[bool]) -> Batch {
        let mut left_out: Vec<Vec<Item>> = vec![Vec::new(); self.batch.files.len()];
        for (item, _) in self.items.iter().zip(items).filter(|(_, kept)| !**kept) {
            left_out[item.at].push(*item);
        }
        let stages = self.batch.files.iter().zip(&left_out).zip(&self.files);
        let kept = stages.filter(|(_, number)| files[**number]);
        Batch {
            stream: self.batch.stream.clone(),
            after: self.batch.after,
            position: self.batch.position,
            captured_ns: self.batch.captured_ns,
            files: kept
                .map(|((changes, left_out), _)| without(changes, left_out))
                .collect(),
        }
    }

    /// Which of the batch's `files` stay, for who keeps something beside them.
    pub(super) fn stays(&self, files: &[bool]) -> Vec<bool> {
        self.files.iter().map(|&number| files[number]).collect()
    }
}

fn items_of((at, changes): (usize, &FileChanges)) -> Vec<Item> {
    if changes.log.is_empty() {
        // Of a file that is removed, images mean nothing.
        if changes.fate == FileFate::Removed {
            return Vec::new();
        }
        let ids = changes.images.keys();
        let item = |&id| Item {
            at,
            id,
            logged: None,
        };
        return ids.map(item).collect();
    }
    let logged = changes.log.iter().enumerate();
    let item = |(place, logged): (usize, &counterfoil_sinks::Logged)| match &logged.change {
        LoggedChange::Image { id, .. } => Some(Item {
            at,
            id: *id,
            logged: Some(place),
        }),
        LoggedChange::Cleared(_) | LoggedChange::Renamed => None,
    };
    logged.filter_map(item).collect()
}

/// A file's changes without some images.
fn without(changes: &FileChanges, left_out: &[Item]) -> FileChanges {
    if left_out.is_empty() {
        return changes.clone();
    }
    let places: BTreeSet<usize> = left_out.iter().filter_map(|item| item.logged).collect();
    // Of a record with a log, the last image is the one that says what is there.
    let last: HashMap<u64, usize> = changes
        .log
        .iter()
        .enumerate()
        .filter_map(|(at, logged)| match &logged.change {
            LoggedChange::Image { id, .. } => Some((*id, at)),
            LoggedChange::Cleared(_) | LoggedChange::Renamed => None,
        })
        .collect();
    let is_out = |item: &&Item| match item.logged {
        Some(at) => last.get(&item.id) == Some(&at),
        None => true,
    };
    let ids: BTreeSet<u64> = left_out.iter().filter(is_out).map(|item| item.id).collect();
    let images = changes.images.iter().filter(|(id, _)| !ids.contains(id));
    let log = changes.log.iter().enumerate();
    let log = log.filter(|(at, _)| !places.contains(at));
    FileChanges {
        file: changes.file.clone(),
        renamed_from: changes.renamed_from.clone(),
        fate: changes.fate.clone(),
        cleared: changes.cleared.clone(),
        images: images.map(|(&id, image)| (id, image.clone())).collect(),
        log: log.map(|(_, logged)| logged.clone()).collect(),
        attributes: changes.attributes,
    }
}
