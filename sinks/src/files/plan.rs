//! From a batch to its redo log: which files go where, and which bytes change in them.
//!
//! First the batch's changes of names are played through, without touching anything: a *node* is a file that is there or one
//! that the batch makes, and at the end it has a place or none. Only what comes out of this is done, so that no file takes a
//! detour, a replaced one is replaced at once, and it doesn't matter how often the log is repeated. Then each node's content.
//!
//! What a file has to consist of afterwards is what restore would make of its pieces: zeros where no piece is. So what is cleared,
//! and what a piece that goes away took up, becomes zero, as far as nothing else is written there.

use super::catalogue::{Catalogue, described, gone, mark};
use super::disk::{self, Disk, Found};
use super::error::Doing;
use super::redo::{Head, Operation, WRITE_BYTES_MAX, Writer};
use crate::plan::Shape;
use crate::sql::permanent;
use crate::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, FileKind, Image, SinkError,
    StoredFile,
};
use counterfoil_proto::path_text;
use counterfoil_records::{Boundaries, Codec, RecordFormat};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes that are read at first to find where a piece ends.
const LOOK_BYTES: usize = 4096;

/// A file where it was before the batch.
struct Origin {
    path: Vec<u8>,
    kind: FileKind,
    inode: u64,
    size: u64,
}

/// A file, a link or a directory, on its way through the batch.
struct Node<'b> {
    /// `None`: the batch makes it.
    origin: Option<Origin>,
    /// Where it is by now; `None` if it is gone.
    place: Option<Vec<u8>>,
    kind: FileKind,
    /// What is done to its content, in this order; and whether all that was there goes before.
    changes: Vec<(&'b FileChanges, bool)>,
    /// What is known of it.
    attributes: Attributes,
    /// What was known of it before the batch.
    before: Option<Attributes>,
    is_in_tree: bool,
    /// The root of the tree it was in before the batch.
    tree_before: Option<Vec<u8>>,
}

/// Nodes by number.
type Nodes<'b> = Vec<Node<'b>>;

/// A batch being planned.
pub(super) struct Plan<'a, 'b> {
    batch: &'b Batch,
    catalogue: &'a mut Catalogue,
    disk: &'a mut Disk,
    has_attributes: bool,
    /// It is a part of a batch that is looked at: what a link leads to may be in another one.
    is_rehearsal: bool,
    nodes: Nodes<'b>,
    /// What is at a path by now, of all paths that the batch says something of.
    now: BTreeMap<Vec<u8>, Option<usize>>,
    /// What was there before the batch.
    first: BTreeMap<Vec<u8>, Option<usize>>,
    /// Which of the batch's changes was the last to a path.
    touched: BTreeMap<Vec<u8>, usize>,
    /// Paths whose catalogue entries change.
    entries: BTreeSet<Vec<u8>>,
    codecs: HashMap<RecordFormat, Box<dyn Codec>>,
}

impl<'a, 'b> Plan<'a, 'b> {
    /// Plays a batch through. The catalogue is as after the batch then; after an error it is good for nothing.
    pub(super) fn make(
        batch: &'b Batch,
        catalogue: &'a mut Catalogue,
        disk: &'a mut Disk,
        has_attributes: bool,
        is_rehearsal: bool,
    ) -> Result<Plan<'a, 'b>, SinkError> {
        disk.forget();
        let mut plan = Plan {
            batch,
            catalogue,
            disk,
            has_attributes,
            is_rehearsal,
            nodes: Vec::new(),
            now: BTreeMap::new(),
            first: BTreeMap::new(),
            touched: BTreeMap::new(),
            entries: BTreeSet::new(),
            codecs: HashMap::new(),
        };
        for (number, changes) in batch.files.iter().enumerate() {
            plan.change(changes)?;
            plan.touched.insert(changes.file.path.clone(), number + 1);
        }
        plan.make_way()?;
        plan.check_places()?;
        Ok(plan)
    }

    /// The node at a path.
    fn at(&mut self, path: &[u8]) -> Result<Option<usize>, SinkError> {
        if let Some(known) = self.now.get(path) {
            return Ok(*known);
        }
        let mut number = None;
        if let Some(stored) = self.catalogue.file(&self.batch.stream, path) {
            let attributes = stored.attributes;
            let tree_before = stored.description.tree.clone();
            let found = self
                .disk
                .find(path)
                .doing(|| format!("looking at {}", path_text(path)))?;
            // If it isn't there, or is something else, somebody was there: then it is for the changes to say all of it.
            if let Some((found, kind)) = found.and_then(|found| Some((found, found.kind?)))
                && attributes.kind.is_none_or(|known| known == kind)
            {
                number = Some(self.nodes.len());
                self.nodes.push(Node {
                    origin: Some(Origin {
                        path: path.to_vec(),
                        kind,
                        inode: found.inode,
                        size: found.size,
                    }),
                    place: Some(path.to_vec()),
                    kind,
                    changes: Vec::new(),
                    attributes,
                    before: Some(attributes),
                    is_in_tree: tree_before.is_some(),
                    tree_before,
                });
            }
        }
        self.first.insert(path.to_vec(), number);
        self.now.insert(path.to_vec(), number);
        Ok(number)
    }

    /// Takes what is at a path away from there.
    fn vacate(&mut self, path: &[u8]) -> Result<Option<usize>, SinkError> {
        let number = self.at(path)?;
        self.now.insert(path.to_vec(), None);
        if let Some(number) = number {
            self.nodes[number].place = None;
        }
        Ok(number)
    }

    /// Plays one file's changes through.
    fn change(&mut self, changes: &'b FileChanges) -> Result<(), SinkError> {
        let stream = &self.batch.stream;
        let path = &changes.file.path;
        check_path(path)?;
        if let Some(other) = self.catalogue.other_owner(stream, path) {
            return Err(permanent(
                format!("mirroring {}", path_text(path)),
                format!("the stream {other} has a file with this path in the same root directory"),
                "give each of these streams a [files] sink with a root of its own",
            ));
        }
        self.entries.insert(path.clone());
        let (mut was, mut number) = (None, None);
        if let Some(from) = changes.renamed_from.as_ref().filter(|from| *from != path) {
            check_path(from)?;
            self.entries.insert(from.clone());
            self.vacate(path)?;
            number = self.vacate(from)?;
            if let Some(replaced) = self.catalogue.detach(stream, path) {
                self.catalogue.release(stream, &replaced);
            }
            was = self.catalogue.detach(stream, from);
        }
        if changes.fate == FileFate::Removed {
            self.vacate(path)?;
            let detached = self.catalogue.detach(stream, path);
            for gone in [was, detached].into_iter().flatten() {
                self.catalogue.release(stream, &gone);
            }
            return Ok(());
        }
        if was.is_none() {
            number = self.at(path)?;
            was = self.catalogue.detach(stream, path);
        }
        let is_other = was
            .as_ref()
            .is_some_and(|was| was.description.tree != changes.file.tree);
        let had = was.as_ref().and_then(|was| was.attributes.kind);
        let kind = changes.attributes.kind.unwrap_or(match had {
            Some(had) if changes.images.is_empty() && !is_other => had,
            _ => FileKind::Regular,
        });
        let clears = is_other || is_all_cleared(changes);
        if number.is_none() && was.is_some() && !clears {
            return Err(refused(
                format!("changing {}", path_text(path)),
                "it isn't where it was mirrored to any more, or is something else now: somebody removed or replaced it; \
                 put it back as it was, or have everything read again with `counterfoil run --read-again`",
            ));
        }
        if let Some(old) = number
            && self.nodes[old].kind != kind
        {
            self.nodes[old].place = None;
            number = None;
        }
        let number = number.unwrap_or_else(|| {
            self.nodes.push(Node {
                origin: None,
                place: None,
                kind,
                changes: Vec::new(),
                attributes: Attributes::default(),
                before: None,
                is_in_tree: false,
                tree_before: None,
            });
            self.nodes.len() - 1
        });
        let node = &mut self.nodes[number];
        node.place = Some(path.clone());
        node.attributes = Attributes {
            kind: Some(kind),
            ..changes.attributes
        };
        node.is_in_tree = changes.file.tree.is_some();
        node.changes.push((changes, is_other));
        self.now.insert(path.clone(), Some(number));
        self.describe(changes, was.as_ref())
    }

    /// Puts a changed file into the catalogue.
    fn describe(
        &mut self,
        changes: &FileChanges,
        was: Option<&StoredFile>,
    ) -> Result<(), SinkError> {
        let stream = &self.batch.stream;
        let (table, is_tree_renamed) = self.catalogue.name(stream, &changes.file, was)?;
        if let Some(tree) = changes.file.tree.as_ref().filter(|_| is_tree_renamed) {
            let configured = changes.file.table.as_ref();
            let paths = self.catalogue.rename_tree(stream, tree, configured, &table);
            self.entries.extend(paths);
        }
        let file = StoredFile {
            description: FileDescription {
                schema: None,
                // What becomes of records in tables doesn't concern files.
                plan: None,
                ..(*changes.file).clone()
            },
            table,
            attributes: changes.attributes,
            shape: Shape::default(),
        };
        self.catalogue.attach(stream, file);
        Ok(())
    }

    /// What happens in a tree is told entry by entry, in any order: a file may take a directory's place before what was in that
    /// is said to be gone, and the other way round. What was said last is there; what can't be beside it is not.
    fn make_way(&mut self) -> Result<(), SinkError> {
        let stream = &self.batch.stream;
        let mut lost = BTreeSet::new();
        let when = |path: &[u8]| self.touched.get(path).copied().unwrap_or_default();
        let is_in_the_way = |path: &[u8]| {
            let stored = self.catalogue.file(stream, path);
            stored.is_some_and(|stored| {
                stored.description.tree.is_some()
                    && stored.attributes.kind != Some(FileKind::Directory)
            })
        };
        for path in self.touched.keys() {
            if self.catalogue.file(stream, path).is_none() {
                continue;
            }
            if is_in_the_way(path) {
                for below in self.catalogue.below(stream, path) {
                    let is_later = when(below) > when(path);
                    lost.insert(if is_later { path } else { below }.clone());
                }
            }
            let mut above = disk::parent(path);
            while !above.is_empty() {
                let holder = [b"/", above].concat();
                if is_in_the_way(&holder) && when(&holder) < when(path) {
                    lost.insert(holder);
                }
                above = disk::parent(above);
            }
        }
        for path in lost {
            self.vacate(&path)?;
            if let Some(gone) = self.catalogue.detach(stream, &path) {
                self.catalogue.release(stream, &gone);
            }
            self.entries.insert(path);
        }
        Ok(())
    }

    /// Refuses to replace what was never mirrored, and to put anything below what isn't a directory.
    fn check_places(&mut self) -> Result<(), SinkError> {
        let mut checked: BTreeSet<Vec<u8>> = BTreeSet::new();
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            let Some(place) = node.place.clone() else {
                continue;
            };
            if node
                .origin
                .as_ref()
                .is_some_and(|origin| origin.path == place)
            {
                continue;
            }
            let (kind, content) = (node.kind, link_target(node));
            let mut above = disk::parent(&place);
            while !above.is_empty() && checked.insert(above.to_vec()) {
                let path = [b"/", above].concat();
                self.check_directory(&place, &path)?;
                above = disk::parent(above);
            }
            if self.first.get(&place).is_some_and(Option::is_some) {
                continue;
            }
            let found = self
                .disk
                .find(&place)
                .doing(|| format!("looking at {}", path_text(&place)))?;
            let is_free = match (found, kind) {
                (None, _) => true,
                (Some(found), FileKind::Directory) => found.kind == Some(FileKind::Directory),
                (Some(found), FileKind::Regular) => {
                    found.kind == Some(FileKind::Regular) && found.size == 0
                }
                (Some(Found { kind, .. }), FileKind::Link) => {
                    let there = self
                        .disk
                        .read_link(&place)
                        .doing(|| format!("reading the link {}", path_text(&place)))?;
                    kind == Some(FileKind::Link)
                        && (there == content || self.is_rehearsal && content.is_none())
                }
            };
            if !is_free {
                return Err(refused(
                    format!("mirroring {}", path_text(&place)),
                    "something is there already that was never mirrored: move it away, or configure another root; this \
                     sink never replaces what isn't its own",
                ));
            }
        }
        Ok(())
    }

    /// Refuses a file at the path of a directory that is needed.
    fn check_directory(&mut self, place: &[u8], above: &[u8]) -> Result<(), SinkError> {
        let number = self.at(above)?;
        let in_the_way = match number {
            Some(number) => self.nodes[number].kind != FileKind::Directory,
            // What was ours and goes away is no obstacle.
            None if self.first.get(above).is_some_and(Option::is_some) => false,
            None => {
                let found = self
                    .disk
                    .find(above)
                    .doing(|| format!("looking at {}", path_text(above)))?;
                found.is_some_and(|found| found.kind != Some(FileKind::Directory))
            }
        };
        if in_the_way {
            return Err(permanent(
                format!("mirroring {}", path_text(place)),
                format!(
                    "{} is in the way, which isn't a directory",
                    path_text(above)
                ),
                "move it away, or leave one of the two files out of this sink",
            ));
        }
        Ok(())
    }

    /// How a batch's redo log begins.
    pub(super) fn head(&self) -> Head {
        Head {
            stream: self.batch.stream.clone(),
            before: self.catalogue.position(&self.batch.stream),
            position: self.batch.position,
            touched: self.nodes.len() as u64,
        }
    }

    /// Writes the redo log, and notes the new position.
    pub(super) fn write(&mut self, log: &mut Writer<'_>) -> Result<(), SinkError> {
        self.write_names(log).doing(writing)?;
        let nodes = std::mem::take(&mut self.nodes);
        for node in &nodes {
            self.write_content(node, log)?;
        }
        self.write_attributes(&nodes, log).doing(writing)?;
        let stream = &self.batch.stream;
        for path in &self.entries {
            let entry = match self.catalogue.file(stream, path) {
                Some(file) => described(stream, file)?,
                None => gone(stream, path),
            };
            log.entry(&entry).doing(writing)?;
        }
        let (kind, payload) = mark(stream, self.batch.position);
        log.entry(&(kind, payload)).doing(writing)
    }

    /// What is at a path in the end, if it isn't a directory, or if it is one.
    fn has_at(&self, path: &[u8], is_directory: bool) -> bool {
        let number = self.now.get(path).copied().flatten();
        number
            .is_some_and(|number| (self.nodes[number].kind == FileKind::Directory) == is_directory)
    }

    /// Removals, renames and directories, in an order in which nothing is in the way of anything.
    fn write_names(&self, log: &mut Writer<'_>) -> io::Result<()> {
        let origins = || {
            self.nodes
                .iter()
                .filter_map(|node| Some((node, node.origin.as_ref()?)))
        };
        for (node, origin) in origins() {
            if node.place.is_none()
                && origin.kind != FileKind::Directory
                && !self.has_at(&origin.path, false)
            {
                log.operation(&Operation::Unlink { path: &origin.path })?;
            }
        }
        let mut moves: BTreeMap<&[u8], (&[u8], u64)> = BTreeMap::new();
        let mut old_directories = BTreeSet::new();
        for (node, origin) in origins() {
            let is_elsewhere = node.place.as_ref() != Some(&origin.path);
            if origin.kind == FileKind::Directory {
                // A renamed directory is made anew, and what is in it is renamed.
                if is_elsewhere && !self.has_at(&origin.path, true) {
                    old_directories.insert(origin.path.as_slice());
                }
            } else if let Some(place) = node.place.as_ref().filter(|_| is_elsewhere) {
                moves.insert(&origin.path, (place, origin.inode));
            }
        }
        // A directory that is gone is perhaps empty only now.
        let stream = &self.batch.stream;
        for (node, origin) in origins() {
            let Some(tree) = &node.tree_before else {
                continue;
            };
            let mut above = origin.path.as_slice();
            while node.place.as_ref() != Some(&origin.path)
                && let Some(at) = above.iter().rposition(|&byte| byte == b'/')
                && above[..at].starts_with(tree)
            {
                above = &above[..at];
                let is_needed = self
                    .catalogue
                    .file(stream, above)
                    .is_some_and(|stored| stored.attributes.kind == Some(FileKind::Directory))
                    || self.catalogue.below(stream, above).next().is_some();
                if is_needed || !old_directories.insert(above) {
                    break;
                }
            }
        }
        let mut detours = 0;
        let mut aside = |directory: &[u8]| {
            detours += 1;
            let mut aside = [b"/", directory].concat();
            if aside.len() > 1 {
                aside.push(b'/');
            }
            aside.extend_from_slice(format!(".counterfoil-moved-{detours}").as_bytes());
            aside
        };
        // What takes the place of a directory waits for that to be gone, beside it: perhaps it is in it.
        let mut late: Vec<(Vec<u8>, &[u8], u64)> = Vec::new();
        let waiting: Vec<&[u8]> = moves
            .iter()
            .filter(|(_, (to, _))| old_directories.contains(to))
            .map(|(from, _)| *from)
            .collect();
        for from in waiting {
            if let Some((to, inode)) = moves.remove(from) {
                let aside = aside(disk::parent(to));
                log.operation(&Operation::Rename {
                    from,
                    to: &aside,
                    inode,
                })?;
                late.push((aside, to, inode));
            }
        }
        let mut rest: Vec<(Vec<u8>, &[u8], u64)> = Vec::new();
        while !moves.is_empty() {
            let is_ready = |to: &[u8]| {
                let mut above = to;
                loop {
                    if moves.contains_key(above) {
                        return false;
                    }
                    let Some(at) = above.iter().rposition(|&byte| byte == b'/') else {
                        return true;
                    };
                    above = &above[..at];
                }
            };
            let ready = moves
                .iter()
                .find(|(_, (to, _))| is_ready(to))
                .map(|(from, _)| *from);
            // In a circle, one steps aside.
            let Some(from) = ready.or_else(|| moves.keys().next().copied()) else {
                break;
            };
            let Some((to, inode)) = moves.remove(from) else {
                break;
            };
            if ready.is_some() {
                log.operation(&Operation::Rename { from, to, inode })?;
                continue;
            }
            let aside = aside(disk::parent(from));
            log.operation(&Operation::Rename {
                from,
                to: &aside,
                inode,
            })?;
            rest.push((aside, to, inode));
        }
        for (aside, to, inode) in &rest {
            log.operation(&Operation::Rename {
                from: aside,
                to,
                inode: *inode,
            })?;
        }
        // Inner ones first: they come behind those that they are in.
        for path in old_directories.iter().rev() {
            log.operation(&Operation::RemoveDirectory { path })?;
        }
        for (from, to, inode) in &late {
            log.operation(&Operation::Rename {
                from,
                to,
                inode: *inode,
            })?;
        }
        let directories: BTreeSet<&Vec<u8>> = self
            .nodes
            .iter()
            .filter(|node| node.kind == FileKind::Directory)
            .filter_map(|node| node.place.as_ref())
            .collect();
        for path in directories {
            log.operation(&Operation::MakeDirectory { path })?;
        }
        Ok(())
    }

    /// A node's content, if it is there in the end.
    fn write_content(&mut self, node: &Node<'b>, log: &mut Writer<'_>) -> Result<(), SinkError> {
        let Some(path) = &node.place else {
            return Ok(());
        };
        let attributes = self.has_attributes.then_some(node.attributes);
        match node.kind {
            FileKind::Directory => Ok(()),
            FileKind::Link => {
                let target = link_target(node);
                if target.is_none() && (node.origin.is_some() || self.is_rehearsal) {
                    return Ok(());
                }
                let target = target.filter(|target| !target.is_empty()).ok_or_else(|| {
                    permanent(
                        format!("making the link {}", path_text(path)),
                        "what it leads to isn't known",
                        "have the file read again with `counterfoil run --read-again`",
                    )
                })?;
                let operation = Operation::Link {
                    path,
                    target: &target,
                    attributes,
                };
                log.operation(&operation).doing(writing)
            }
            FileKind::Regular => {
                let before = node.origin.as_ref().map(|origin| origin.size);
                let size = node.attributes.size;
                if i64::try_from(size).is_err() {
                    return Err(permanent(
                        format!("mirroring {}", path_text(path)),
                        format!("no file has {size} bytes"),
                        "leave the file out of this sink",
                    ));
                }
                let changes_content = node.changes.iter().any(|(changes, clears)| {
                    *clears || !changes.cleared.is_empty() || !changes.images.is_empty()
                });
                if before == Some(size) && !changes_content {
                    return Ok(());
                }
                let operation = match &node.origin {
                    Some(_) => Operation::Open { path },
                    None => Operation::Make { path, attributes },
                };
                log.operation(&operation).doing(writing)?;
                let mut len = before.unwrap_or(0);
                if len > size {
                    log.operation(&Operation::Cut { size }).doing(writing)?;
                    len = size;
                }
                for (changes, clears) in &node.changes {
                    self.write_changes(node, (changes, *clears), &mut len, log)?;
                }
                log.operation(&Operation::Resize { size }).doing(writing)?;
                log.operation(&Operation::Done).doing(writing)
            }
        }
    }

    /// What one of a batch's changes does to the bytes of a file; `len`: how long it is before, and then after.
    fn write_changes(
        &mut self,
        node: &Node<'b>,
        (changes, clears): (&'b FileChanges, bool),
        len: &mut u64,
        log: &mut Writer<'_>,
    ) -> Result<(), SinkError> {
        let path = &changes.file.path;
        let format = &changes.file.format;
        let refused = |cause: String| {
            permanent(
                format!("mirroring {}", path_text(path)),
                cause,
                "correct what the configuration says of the file's records, and have it read again with `counterfoil run --read-again`",
            )
        };
        if !self.codecs.contains_key(format) {
            let codec = format.codec().map_err(|error| refused(error.to_string()))?;
            self.codecs.insert(format.clone(), codec);
        }
        let codec = self.codecs[format].as_ref();
        let pitch = match codec.boundaries() {
            Boundaries::Pitch(pitch) => Some(pitch),
            _ => None,
        };
        let mut zeros = Zeros::default();
        if clears {
            zeros.add(0..u64::MAX);
        }
        for range in &changes.cleared {
            if range.start < range.end {
                let end = match range.end {
                    u64::MAX => u64::MAX,
                    end => codec.offset_of(end),
                };
                zeros.add(codec.offset_of(range.start)..end);
            }
        }
        // What is cleared is known, and so is what a piece of a fixed size took up. Any other that goes away was as long as it
        // says. One that is told anew isn't asked: what of it is over is cleared before, and its bytes needn't be one piece yet,
        // where a unit of work that wrote in front of another one ends after that.
        let cleared = zeros.clone();
        let mut before: Option<Option<File>> = None;
        let mut seen = 0;
        for (&id, image) in &changes.images {
            let offset = codec.offset_of(id);
            if offset >= *len || cleared.has(offset) || offset < seen {
                continue;
            }
            let end = match (pitch, image) {
                (Some(pitch), _) => offset.saturating_add(pitch),
                (None, Image::Record { .. } | Image::Residue { .. }) => continue,
                // How long a piece in the middle of a block was isn't told by its bytes alone. What is written over in
                // such a file is cleared before.
                (None, Image::Absent) if codec.is_blocked() => continue,
                (None, Image::Absent) => {
                    let origin = node.origin.as_ref();
                    let opened = match &before {
                        Some(opened) => opened,
                        None => before.insert(match origin {
                            Some(origin) => self
                                .disk
                                .read(&origin.path)
                                .doing(|| format!("reading {}", path_text(path)))?,
                            None => None,
                        }),
                    };
                    match opened {
                        Some(file) => piece_end(codec, file, offset)
                            .doing(|| format!("reading {}", path_text(path)))?,
                        None => continue,
                    }
                }
            };
            seen = end;
            zeros.add(offset..end);
        }
        let mut output = Output {
            log,
            offset: 0,
            bytes: Vec::new(),
            zero: 0..0,
            zeros: zeros.0.into_iter(),
            len: *len,
        };
        let mut encoded = Vec::new();
        let mut reached = 0;
        for (&id, image) in &changes.images {
            encoded.clear();
            match image {
                Image::Record { data, rest } => codec
                    .encode(id, data, rest, &mut encoded)
                    .map_err(|error| refused(error.to_string()))?,
                Image::Residue { bytes, .. } => encoded.extend_from_slice(bytes),
                Image::Absent => continue,
            }
            let offset = codec.offset_of(id);
            let end = offset.saturating_add(encoded.len() as u64);
            if pitch.is_some_and(|pitch| encoded.len() as u64 > pitch) {
                return Err(refused(format!(
                    "record {id} has {} bytes, more than there is room for",
                    encoded.len()
                )));
            }
            if offset < reached {
                return Err(refused(format!("record {id} overlaps the one before it")));
            }
            // How long a file is, every change of it says; that it was cut off, only the unit of work that did it, when it ends.
            let size = changes.attributes.size.min(i64::MAX.cast_unsigned());
            let Some(room) = size.checked_sub(offset).filter(|room| *room > 0) else {
                continue;
            };
            encoded.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            let end = end.min(size);
            reached = end;
            output.put(offset, &encoded).doing(writing)?;
        }
        output.finish().doing(writing)?;
        *len = reached.max(*len);
        Ok(())
    }

    /// Attributes, where they have changed or may have been lost. What is in a directory comes before it.
    fn write_attributes(&mut self, nodes: &Nodes<'b>, log: &mut Writer<'_>) -> io::Result<()> {
        if !self.has_attributes {
            return Ok(());
        }
        let mut later: BTreeMap<Vec<u8>, Attributes> = BTreeMap::new();
        // What happens in a directory changes its time.
        let touched: BTreeSet<Vec<u8>> = nodes
            .iter()
            .flat_map(|node| {
                let origin = node.origin.as_ref().map(|origin| &origin.path);
                origin.into_iter().chain(&node.place)
            })
            .map(|path| [b"/", disk::parent(path)].concat())
            .collect();
        for path in touched {
            if let Some(stored) = self.catalogue.file(&self.batch.stream, &path)
                && stored.attributes.kind == Some(FileKind::Directory)
            {
                later.insert(path, stored.attributes);
            }
        }
        for node in nodes {
            let Some(path) = &node.place else {
                continue;
            };
            let mut attributes = node.attributes;
            // A record file's time goes on with each change, and is told only now and then: what was told before isn't
            // given to what was written since.
            if !node.is_in_tree
                && node
                    .before
                    .is_some_and(|before| before.modified_ns == attributes.modified_ns)
            {
                attributes.modified_ns = None;
            }
            match node.kind {
                FileKind::Directory => {
                    later.insert(path.clone(), attributes);
                }
                // It came with them.
                FileKind::Link if node.origin.is_none() || link_target(node).is_some() => {}
                FileKind::Regular if node.origin.is_none() => {}
                _ => log.operation(&Operation::Attributes { path, attributes })?,
            }
        }
        for (path, attributes) in later.into_iter().rev() {
            log.operation(&Operation::Attributes {
                path: &path,
                attributes,
            })?;
        }
        Ok(())
    }
}

/// It is about this one file: without that, the batch could be applied.
fn refused(doing: String, cause: &str) -> SinkError {
    SinkError::Refused {
        doing,
        cause: cause.to_owned(),
    }
}

fn writing() -> String {
    "writing the redo log .counterfoil/redo.new".to_owned()
}

/// What a link leads to from now on, if the batch says so.
fn link_target(node: &Node<'_>) -> Option<Vec<u8>> {
    if node.kind != FileKind::Link {
        return None;
    }
    let said = node
        .changes
        .iter()
        .rev()
        .find(|(changes, _)| !changes.images.is_empty())?;
    let parts = said.0.images.values().map(|image| match image {
        Image::Record { data, .. } => data.as_slice(),
        Image::Residue { bytes, .. } => bytes.as_slice(),
        Image::Absent => &[],
    });
    Some(parts.collect::<Vec<_>>().concat())
}

/// Whether nothing of what was in a file is left.
fn is_all_cleared(changes: &FileChanges) -> bool {
    let is_all = |range: &Range<u64>| range.start <= 1 && range.end == u64::MAX;
    changes.cleared.iter().any(is_all)
}

/// Refuses paths that lead elsewhere, and names that this sink makes itself.
fn check_path(path: &[u8]) -> Result<(), SinkError> {
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let cause = match names.as_slice() {
        [b"", inner @ ..] if !inner.is_empty() => {
            if inner
                .iter()
                .any(|name| name.is_empty() || *name == b"." || *name == b"..")
            {
                "it isn't the plain path of a file"
            } else if path.contains(&0) {
                "there is a NUL in it"
            } else if inner.iter().any(|name| {
                name.starts_with(b".counterfoil")
                    && (name.len() == 12
                        || *name == disk::NEW
                        || name.starts_with(b".counterfoil-moved-"))
            }) {
                "names that begin so are Counterfoil's own"
            } else {
                return Ok(());
            }
        }
        _ => "it isn't absolute",
    };
    Err(permanent(
        format!("mirroring {}", path_text(path)),
        cause,
        "leave the file out of this sink",
    ))
}

/// Where the piece that begins at an offset ends, as the file is.
fn piece_end(codec: &dyn Codec, file: &File, offset: u64) -> io::Result<u64> {
    let mut window = LOOK_BYTES;
    loop {
        let mut bytes = vec![0; window];
        let mut filled = 0;
        while filled < window {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut end = None;
        codec.decode(offset, &bytes[..filled], filled < window, &mut |piece| {
            end.get_or_insert(piece.offset + piece.len);
        });
        if let Some(end) = end {
            return Ok(end);
        }
        if filled < window {
            return Ok(offset + filled as u64);
        }
        window *= 2;
    }
}

/// Ranges of bytes that become zero, as far as nothing is written there.
#[derive(Clone, Default)]
struct Zeros(BTreeMap<u64, u64>);

impl Zeros {
    fn add(&mut self, range: Range<u64>) {
        let (mut from, mut to) = (range.start, range.end);
        if from >= to {
            return;
        }
        // All that touch become one.
        while let Some((&start, &end)) = self.0.range(..=to).next_back() {
            if end < from {
                break;
            }
            from = from.min(start);
            to = to.max(end);
            self.0.remove(&start);
        }
        self.0.insert(from, to);
    }

    fn has(&self, offset: u64) -> bool {
        self.0
            .range(..=offset)
            .next_back()
            .is_some_and(|(_, &end)| offset < end)
    }
}

/// Bytes on their way into the redo log, in order of offset; what lies side by side becomes one write.
struct Output<'o, 'l> {
    log: &'o mut Writer<'l>,
    offset: u64,
    bytes: Vec<u8>,
    /// What is left of the range of zeros that is next.
    zero: Range<u64>,
    zeros: std::collections::btree_map::IntoIter<u64, u64>,
    /// How long the file was: what is behind that is zero already.
    len: u64,
}

impl Output<'_, '_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.zeros_until(offset)?;
        self.zero.start = self.zero.start.max(end);
        if self.offset + self.bytes.len() as u64 != offset {
            self.flush()?;
            self.offset = offset;
        }
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let room = WRITE_BYTES_MAX - self.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend_from_slice(now);
            bytes = later;
            if self.bytes.len() == WRITE_BYTES_MAX {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is to be zero before an offset.
    fn zeros_until(&mut self, offset: u64) -> io::Result<()> {
        loop {
            if self.zero.is_empty() {
                // A range that begins within what was just written begins behind it.
                let reached = self.zero.start;
                let Some((from, to)) = self.zeros.next() else {
                    self.zero = reached..reached;
                    return Ok(());
                };
                self.zero = from.max(reached)..to;
                continue;
            }
            if self.zero.start >= offset {
                return Ok(());
            }
            let (from, to) = (self.zero.start, self.zero.end.min(offset));
            if from < self.len {
                self.log.operation(&Operation::Zero { from, to })?;
            }
            self.zero.start = to;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let len = self.bytes.len() as u64;
        if len > 0 {
            let (offset, bytes) = (self.offset, self.bytes.as_slice());
            self.log.operation(&Operation::Write { offset, bytes })?;
        }
        self.offset += len;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.zeros_until(u64::MAX)
    }
}
