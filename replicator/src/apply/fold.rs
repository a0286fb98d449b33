//! Folding: many events become the last image per record.

use crate::capture::operation;
use crate::event::{Change, Event};
use counterfoil_proto::Position;
use counterfoil_records::Organization;
use counterfoil_sinks::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, FileKind, Image, Logged,
    LoggedChange,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The position of its event.
    pub(crate) position: Position,
    /// When that was captured, nanoseconds since 1970.
    pub(crate) captured_ns: i64,
}

/// By place in a batch's files: where their images come from, where that is kept.
pub(crate) type Origins = Vec<Option<BTreeMap<u64, Origin>>>;

/// The events of one stream, folded.
pub(crate) struct Fold {
    stream: String,
    files: Vec<FileChanges>,
    /// Of the same places as `files`.
    origins: Origins,
    /// Of which files it is kept where images come from.
    is_traced: Arc<dyn Fn(&FileDescription) -> bool + Send + Sync>,
    /// Where in `files` the present stage of a path is.
    by_path: HashMap<Vec<u8>, usize>,
    position: Position,
    captured_ns: i64,
    images: usize,
    bytes: usize,
    /// Events were passed over, so there is a position to store, if nothing else.
    passed: bool,
    /// Attributes of record files, kept from batch to batch. Changes of static files come with theirs.
    attributes: HashMap<Vec<u8>, Attributes>,
    last: Option<(Arc<FileDescription>, usize)>,
}

impl Fold {
    pub(crate) fn new(stream: String) -> Fold {
        Fold {
            stream,
            files: Vec::new(),
            origins: Vec::new(),
            is_traced: Arc::new(|_| false),
            by_path: HashMap::new(),
            position: Position::default(),
            captured_ns: 0,
            images: 0,
            bytes: 0,
            passed: false,
            attributes: HashMap::new(),
            last: None,
        }
    }

    /// Keeps for some files where each image comes from.
    pub(crate) fn tracing(
        mut self,
        is_traced: Arc<dyn Fn(&FileDescription) -> bool + Send + Sync>,
    ) -> Fold {
        self.is_traced = is_traced;
        self
    }

    /// Images folded in, and their bytes; a record that was put twice counts twice.
    pub(crate) fn volume(&self) -> (usize, usize) {
        (self.images, self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.passed
    }

    /// Passes over an event: only its position counts.
    pub(crate) fn pass(&mut self, position: Position, captured_ns: i64) {
        self.position = position;
        self.captured_ns = captured_ns;
        self.passed = true;
    }

    /// Adds the next event.
    pub(crate) fn add(&mut self, event: Event) {
        self.position = event.position;
        self.captured_ns = event.captured_ns;
        if let Change::Renamed { from } = &event.change {
            self.rename(from, &event.file);
        }
        let at = self.stage(&event.file);
        let changes = &mut self.files[at];
        changes.attributes.size = event.size;
        if let Some(logged) = logged(&changes.file, &event) {
            if let LoggedChange::Image { image, .. } = &logged.change {
                self.bytes += image.len();
            }
            changes.log.push(logged);
        }
        if let Change::Put { id, .. } | Change::Residue { id, .. } | Change::Absent { id } =
            &event.change
            && let Some(Some(origins)) = self.origins.get_mut(at)
        {
            let origin = Origin {
                position: event.position,
                captured_ns: event.captured_ns,
            };
            origins.insert(*id, origin);
        }
        match event.change {
            // All that is known of a static file comes when all of its content has come.
            Change::Created if is_static(&event.file) => {
                changes.attributes = Attributes {
                    size: event.size,
                    ..Attributes::default()
                };
            }
            // What only compares is no change.
            Change::Created | Change::Renamed { .. } | Change::Checksum(_) => {}
            Change::Put { id, data, rest } => {
                self.bytes += data.len() + rest.len();
                self.images += 1;
                changes.images.insert(id, Image::Record { data, rest });
            }
            Change::Residue { id, bytes, reason } => {
                self.bytes += bytes.len();
                self.images += 1;
                changes.images.insert(
                    id,
                    Image::Residue {
                        bytes,
                        reason: reason.into_owned(),
                    },
                );
            }
            Change::Absent { id } => {
                self.images += 1;
                changes.images.insert(id, Image::Absent);
            }
            Change::Cleared { from, to } => clear(changes, from, to),
            Change::Removed => {
                // What was done to it before doesn't matter any more; what comes later is another file's.
                changes.images.clear();
                changes.cleared.clear();
                changes.fate = FileFate::Removed;
                self.attributes.remove(&event.file.path);
                self.by_path.remove(&event.file.path);
                self.last = None;
            }
            Change::Attributes(attributes) => {
                changes.attributes.kind = Some(match attributes.kind {
                    operation::FileKind::Regular => FileKind::Regular,
                    operation::FileKind::Directory => FileKind::Directory,
                    operation::FileKind::Link => FileKind::Link,
                });
                changes.attributes.mode = Some(attributes.mode);
                changes.attributes.uid = Some(attributes.uid);
                changes.attributes.gid = Some(attributes.gid);
                if is_static(&event.file) || attributes.modified_ns != 0 {
                    changes.attributes.modified_ns = Some(attributes.modified_ns);
                }
            }
        }
    }

    /// The place of a file's changes.
    fn stage(&mut self, file: &Arc<FileDescription>) -> usize {
        if let Some((last, at)) = &self.last
            && Arc::ptr_eq(last, file)
        {
            return *at;
        }
        let at = match self.by_path.get(&file.path) {
            Some(&at) => at,
            None => {
                let attributes = self.attributes.get(&file.path).copied().unwrap_or_default();
                self.push(FileChanges {
                    file: Arc::clone(file),
                    renamed_from: None,
                    fate: FileFate::Present,
                    cleared: Vec::new(),
                    images: BTreeMap::new(),
                    log: Vec::new(),
                    attributes,
                });
                self.by_path.insert(file.path.clone(), self.files.len() - 1);
                self.files.len() - 1
            }
        };
        self.last = Some((Arc::clone(file), at));
        at
    }

    fn push(&mut self, changes: FileChanges) {
        let is_traced = (self.is_traced)(&changes.file);
        self.origins.push(is_traced.then(BTreeMap::new));
        self.files.push(changes);
    }

    /// A new stage under the new path; what was done under the old one has been done to it.
    fn rename(&mut self, from: &Arc<FileDescription>, to: &Arc<FileDescription>) {
        self.last = None;
        let stage = self.by_path.remove(&from.path);
        self.by_path.remove(&to.path);
        let attributes = stage.map(|at| self.files[at].attributes);
        let attributes = attributes
            .or_else(|| self.attributes.remove(&from.path))
            .unwrap_or_default();
        self.push(FileChanges {
            file: Arc::clone(to),
            renamed_from: Some(from.path.clone()),
            fate: FileFate::Present,
            cleared: Vec::new(),
            images: BTreeMap::new(),
            log: Vec::new(),
            attributes,
        });
        self.by_path.insert(to.path.clone(), self.files.len() - 1);
    }

    /// The batch so far, and where its images come from; the fold is empty then.
    pub(crate) fn take_with_origins(&mut self) -> (Batch, Origins) {
        let origins = std::mem::take(&mut self.origins);
        (self.take(), origins)
    }

    /// The batch so far; the fold is empty then.
    pub(crate) fn take(&mut self) -> Batch {
        self.origins.clear();
        self.by_path.clear();
        self.last = None;
        self.images = 0;
        self.bytes = 0;
        self.passed = false;
        let files = std::mem::take(&mut self.files);
        for changes in &files {
            if changes.fate == FileFate::Present && !is_static(&changes.file) {
                self.attributes
                    .insert(changes.file.path.clone(), changes.attributes);
            }
        }
        Batch {
            stream: self.stream.clone(),
            after: None,
            position: self.position,
            captured_ns: self.captured_ns,
            files,
        }
    }
}

/// The change as it is kept of a file whose plan keeps every one.
fn logged(file: &FileDescription, event: &Event) -> Option<Logged> {
    if !file.plan.as_ref().is_some_and(|plan| plan.is_history()) {
        return None;
    }
    let change = match &event.change {
        Change::Put { id, data, rest } => LoggedChange::Image {
            id: *id,
            image: Image::Record {
                data: data.clone(),
                rest: rest.clone(),
            },
        },
        Change::Residue { id, bytes, reason } => LoggedChange::Image {
            id: *id,
            image: Image::Residue {
                bytes: bytes.clone(),
                reason: reason.to_string(),
            },
        },
        Change::Absent { id } => LoggedChange::Image {
            id: *id,
            image: Image::Absent,
        },
        Change::Cleared { from, to } => LoggedChange::Cleared(*from..*to),
        Change::Removed => LoggedChange::Cleared(0..u64::MAX),
        Change::Renamed { .. } => LoggedChange::Renamed,
        Change::Created | Change::Attributes(_) | Change::Checksum(_) => return None,
    };
    Some(Logged {
        position: event.position,
        captured_ns: event.captured_ns,
        change,
    })
}

fn is_static(file: &FileDescription) -> bool {
    file.format.organization == Organization::Static
}

/// A clearing makes earlier images in its range void.
fn clear(changes: &mut FileChanges, from: u64, to: u64) {
    if from >= to {
        return;
    }
    let mut behind = changes.images.split_off(&from);
    if to != u64::MAX {
        changes.images.append(&mut behind.split_off(&to));
    }
    // Appending clears piece by piece; one range instead of thousands.
    match changes.cleared.last_mut() {
        Some(last) if from <= last.end && last.start <= to => {
            last.start = last.start.min(from);
            last.end = last.end.max(to);
        }
        _ => changes.cleared.push(from..to),
    }
}
