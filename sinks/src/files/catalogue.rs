//! The catalogue: which files are mirrored, what is known of them, and how far each stream is.
//!
//! In memory it is a map; in `.counterfoil/catalogue` it is a row of frames, of which the last about a file or stream counts.
//! Each batch appends what it changed and a mark with the stream's position. When most of it is out of date it is written anew.

use super::error::{Doing, unreadable};
use super::frame::{Fields, FrameReader, MAGIC_BYTES, Taken, Unreadable, write_frame};
use crate::naming::{Names, numbered, wanted_name};
use crate::plan::Shape;
use crate::sql::permanent;
use crate::{Attributes, FileDescription, FileKind, SinkError, StoredFile};
use counterfoil_proto::Position;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

/// The catalogue's name in `.counterfoil`.
pub(super) const NAME: &str = "catalogue";
/// Under this name it is written anew.
pub(super) const NEW: &str = "catalogue.new";

const MAGIC: &[u8; MAGIC_BYTES] = b"CFLFCAT\x01";

const FILE: u8 = 1;
const GONE: u8 = 2;
const MARK: u8 = 3;

/// Out-of-date bytes below this number aren't worth writing the catalogue anew.
const STALE_BYTES_MIN: u64 = 1 << 20;

/// A frame, not yet in a file.
pub(super) type Entry = (u8, Vec<u8>);

/// What is known of a stream.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) position: Option<Position>,
    pub(super) files: BTreeMap<Vec<u8>, StoredFile>,
}

/// All files of a tree have one table name.
struct Tree {
    configured: Option<String>,
    table: String,
    files: usize,
}

/// The catalogue in memory.
#[derive(Default)]
pub(super) struct Catalogue {
    streams: BTreeMap<String, Stream>,
    names: Names,
    /// How many files and trees have a table name, by its lower case.
    tables: HashMap<String, usize>,
    trees: HashMap<(String, Vec<u8>), Tree>,
}

/// How much of a catalogue's file counts.
pub(super) struct Extent {
    /// Behind the last mark.
    pub(super) end: u64,
    /// What is behind it, if it can't be read.
    pub(super) damage: Option<Unreadable>,
    /// Bytes of all frames that something later made void.
    pub(super) stale: u64,
}

impl Catalogue {
    /// Reads a catalogue up to its last mark.
    pub(super) fn read(file: &File, path: &Path) -> Result<(Catalogue, Extent), SinkError> {
        let mut frames = FrameReader::begin(BufReader::with_capacity(1 << 16, file), MAGIC)
            .map_err(|error| unreadable(error, path))?;
        let mut catalogue = Catalogue::default();
        let mut extent = Extent {
            end: frames.offset(),
            damage: None,
            stale: 0,
        };
        let mut pending: Vec<Entry> = Vec::new();
        loop {
            let offset = frames.offset();
            match frames.next() {
                Ok(None) => break,
                Ok(Some((kind, payload))) => {
                    pending.push((kind, payload.to_vec()));
                    if kind != MARK {
                        continue;
                    }
                    for (kind, payload) in pending.drain(..) {
                        let stale = catalogue.take(kind, &payload).ok_or_else(|| {
                            let reason = "a frame isn't what its kind says".to_owned();
                            unreadable(Unreadable::Damaged { offset, reason }, path)
                        })?;
                        extent.stale += stale;
                    }
                    extent.end = frames.offset();
                }
                Err(Unreadable::Io(error)) => {
                    return Err(unreadable(Unreadable::Io(error), path));
                }
                Err(damage) => {
                    extent.damage = Some(damage);
                    break;
                }
            }
        }
        if extent.damage.is_none() && !pending.is_empty() {
            extent.damage = Some(Unreadable::Damaged {
                offset: extent.end,
                reason: "what a batch changed isn't all there".to_owned(),
            });
        }
        Ok((catalogue, extent))
    }

    /// Writes all of it to a new file, which is durable then. Returns its length.
    pub(super) fn write(&self, file: &File, path: &Path) -> Result<u64, SinkError> {
        let doing = || format!("writing {}", path.display());
        let mut out = BufWriter::with_capacity(1 << 16, file);
        let mut len = MAGIC_BYTES as u64;
        out.write_all(MAGIC).doing(doing)?;
        for (name, stream) in &self.streams {
            let files = stream.files.values().map(|file| described(name, file));
            let mark = stream.position.map(|position| mark(name, position));
            for entry in files.chain(mark.map(Ok)) {
                let (kind, payload) = entry?;
                write_frame(&mut out, kind, &payload).doing(doing)?;
                len += payload.len() as u64 + 9;
            }
        }
        out.flush().doing(doing)?;
        drop(out);
        file.sync_all().doing(doing)?;
        Ok(len)
    }

    /// Takes a frame in; returns how many bytes of earlier ones (and perhaps of itself) are void now. `None` if it isn't what
    /// its kind says.
    pub(super) fn take(&mut self, kind: u8, payload: &[u8]) -> Option<u64> {
        let len = payload.len() as u64 + 9;
        let mut fields = Taken(payload);
        match kind {
            FILE => {
                let (stream, file) = read_described(&mut fields)?;
                fields.end()?;
                let was = self.detach(&stream, &file.description.path);
                // What a later version of it replaces was about as long.
                let stale = was.as_ref().map_or(0, |_| len);
                if let Some(was) = was {
                    self.release(&stream, &was);
                }
                self.occupy(&stream, &file);
                self.attach(&stream, file);
                Some(stale)
            }
            GONE => {
                let stream = fields.text()?;
                let path = fields.bytes()?;
                fields.end()?;
                if let Some(was) = self.detach(&stream, path) {
                    self.release(&stream, &was);
                }
                Some(2 * len)
            }
            MARK => {
                let stream = fields.text()?;
                let position = Position {
                    epoch: fields.u64()?,
                    lsn: fields.u64()?,
                    index: fields.u32()?,
                };
                fields.end()?;
                let had = self
                    .streams
                    .entry(stream)
                    .or_default()
                    .position
                    .replace(position);
                Some(had.map_or(0, |_| len))
            }
            _ => None,
        }
    }

    /// The streams, in order of name.
    pub(super) fn streams(&self) -> impl Iterator<Item = &String> {
        self.streams
            .iter()
            .filter(|(_, stream)| stream.position.is_some())
            .map(|(name, _)| name)
    }

    /// How far a stream is.
    pub(super) fn position(&self, stream: &str) -> Option<Position> {
        self.streams.get(stream)?.position
    }

    /// The files of a stream, in order of path.
    pub(super) fn files(&self, stream: &str) -> impl Iterator<Item = &StoredFile> {
        self.streams
            .get(stream)
            .into_iter()
            .flat_map(|stream| stream.files.values())
    }

    /// A file of a stream.
    pub(super) fn file(&self, stream: &str, path: &[u8]) -> Option<&StoredFile> {
        self.streams.get(stream)?.files.get(path)
    }

    /// The paths of a stream's files below a directory.
    pub(super) fn below(&self, stream: &str, directory: &[u8]) -> impl Iterator<Item = &Vec<u8>> {
        let from = [directory, b"/"].concat();
        let stream = self.streams.get(stream).into_iter();
        let files = stream.flat_map(move |stream| stream.files.range(from.clone()..));
        let prefix = [directory, b"/"].concat();
        files
            .map(|(path, _)| path)
            .take_while(move |path| path.starts_with(&prefix))
    }

    /// Another stream that has a file with this path.
    pub(super) fn other_owner(&self, stream: &str, path: &[u8]) -> Option<&str> {
        self.streams
            .iter()
            .find(|(name, other)| *name != stream && other.files.contains_key(path))
            .map(|(name, _)| name.as_str())
    }

    /// Takes a file out; its table name stays taken until [`Catalogue::release`].
    pub(super) fn detach(&mut self, stream: &str, path: &[u8]) -> Option<StoredFile> {
        self.streams.get_mut(stream)?.files.remove(path)
    }

    /// Puts a file in. Its table name is taken already.
    pub(super) fn attach(&mut self, stream: &str, file: StoredFile) {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), Stream::default());
        }
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.files.insert(file.description.path.clone(), file);
        }
    }

    /// The table name of a file that was taken out is free, if no other file has it.
    pub(super) fn release(&mut self, stream: &str, file: &StoredFile) {
        if let Some(tree) = &file.description.tree {
            let key = (stream.to_owned(), tree.clone());
            if let Some(known) = self.trees.get_mut(&key) {
                known.files -= 1;
                if known.files == 0 {
                    let table = std::mem::take(&mut known.table);
                    self.trees.remove(&key);
                    self.release_name(&table);
                }
            }
        } else {
            self.release_name(&file.table);
        }
    }

    fn release_name(&mut self, table: &str) {
        let key = table.to_lowercase();
        if let Some(count) = self.tables.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.tables.remove(&key);
                self.names.release(table);
            }
        }
    }

    fn take_name(&mut self, table: &str) {
        self.names.add(table);
        *self.tables.entry(table.to_lowercase()).or_default() += 1;
    }

    /// A file that was read from a catalogue has its table name.
    fn occupy(&mut self, stream: &str, file: &StoredFile) {
        let Some(tree) = &file.description.tree else {
            return self.take_name(&file.table);
        };
        let key = (stream.to_owned(), tree.clone());
        let is_new = match self.trees.get_mut(&key) {
            Some(known) => {
                known.files += 1;
                let is_renamed = known.table != file.table;
                known.configured.clone_from(&file.description.table);
                let before = std::mem::replace(&mut known.table, file.table.clone());
                if is_renamed {
                    self.release_name(&before);
                }
                is_renamed
            }
            None => {
                let tree = Tree {
                    configured: file.description.table.clone(),
                    table: file.table.clone(),
                    files: 1,
                };
                self.trees.insert(key, tree);
                true
            }
        };
        if is_new {
            self.take_name(&file.table);
        }
    }

    /// Gives a file a table name, as sinks of databases do: it means nothing to this one but that people find the file by it.
    /// `was` is the file as it was taken out. Also returns whether other files of its tree have another one now.
    pub(super) fn name(
        &mut self,
        stream: &str,
        file: &FileDescription,
        was: Option<&StoredFile>,
    ) -> Result<(String, bool), SinkError> {
        let wanted = wanted_name(file)?;
        let kept = was.filter(|was| {
            was.description.tree == file.tree
                && wanted_name(&was.description).is_ok_and(|name| name == wanted)
        });
        let Some(tree) = &file.tree else {
            let table = match kept {
                Some(was) => was.table.clone(),
                None => {
                    if let Some(was) = was {
                        self.release(stream, was);
                    }
                    let table = self.names.take(&wanted, numbered);
                    self.take_name(&table);
                    table
                }
            };
            return Ok((table, false));
        };
        let key = (stream.to_owned(), tree.clone());
        if let Some(was) = was.filter(|was| was.description.tree != file.tree) {
            self.release(stream, was);
        }
        let is_counted = was.is_some_and(|was| was.description.tree == file.tree);
        if let Some(known) = self.trees.get_mut(&key) {
            known.files += usize::from(!is_counted);
            if known.configured == file.table {
                return Ok((known.table.clone(), false));
            }
            let before = known.table.clone();
            let table = self.names.take(&wanted, numbered);
            if let Some(known) = self.trees.get_mut(&key) {
                known.table.clone_from(&table);
                known.configured.clone_from(&file.table);
            }
            self.release_name(&before);
            self.take_name(&table);
            return Ok((table, true));
        }
        let table = self.names.take(&wanted, numbered);
        self.take_name(&table);
        let known = Tree {
            configured: file.table.clone(),
            table: table.clone(),
            files: 1,
        };
        self.trees.insert(key, known);
        Ok((table, false))
    }

    /// All files of a tree have this table name now; returns their paths.
    pub(super) fn rename_tree(
        &mut self,
        stream: &str,
        tree: &[u8],
        configured: Option<&String>,
        table: &str,
    ) -> Vec<Vec<u8>> {
        let files = self
            .streams
            .get_mut(stream)
            .into_iter()
            .flat_map(|stream| stream.files.values_mut());
        let of_tree = files.filter(|file| file.description.tree.as_deref() == Some(tree));
        of_tree
            .map(|file| {
                table.clone_into(&mut file.table);
                file.description.table = configured.cloned();
                file.description.path.clone()
            })
            .collect()
    }

    /// Whether so much of its file is out of date that it is to be written anew.
    pub(super) fn is_stale(len: u64, stale: u64) -> bool {
        stale >= STALE_BYTES_MIN && stale * 2 >= len
    }
}

/// The entry of a file.
pub(super) fn described(stream: &str, file: &StoredFile) -> Result<Entry, SinkError> {
    let format = serde_json::to_vec(&file.description.format).map_err(|error| {
        permanent(
            "describing a record format",
            error.to_string(),
            "report this: it is a fault of Counterfoil",
        )
    })?;
    let mut fields = Fields::default();
    fields
        .bytes(stream.as_bytes())
        .bytes(&file.description.path)
        .bytes(file.description.group.as_bytes())
        .bytes(&format)
        .option(file.description.table.as_deref(), |fields, table| {
            fields.bytes(table.as_bytes())
        })
        .option(file.description.tree.as_deref(), Fields::bytes)
        .bytes(file.table.as_bytes());
    put_attributes(&mut fields, &file.attributes);
    Ok((FILE, fields.0))
}

fn read_described(fields: &mut Taken<'_>) -> Option<(String, StoredFile)> {
    let stream = fields.text()?;
    let path = fields.bytes()?.to_vec();
    let group = fields.text()?;
    let format = serde_json::from_slice(fields.bytes()?).ok()?;
    let configured = fields.option(Taken::text)?;
    let tree = fields.option(|fields| fields.bytes().map(<[u8]>::to_vec))?;
    let table = fields.text()?;
    let attributes = take_attributes(fields)?;
    let description = FileDescription {
        path,
        group,
        format,
        table: configured,
        tree,
        schema: None,
        plan: None,
    };
    let file = StoredFile {
        description,
        table,
        attributes,
        shape: Shape::default(),
    };
    Some((stream, file))
}

/// The entry that takes a file away.
pub(super) fn gone(stream: &str, path: &[u8]) -> Entry {
    let mut fields = Fields::default();
    fields.bytes(stream.as_bytes()).bytes(path);
    (GONE, fields.0)
}

/// The mark behind a batch's entries.
pub(super) fn mark(stream: &str, position: Position) -> Entry {
    let mut fields = Fields::default();
    fields
        .bytes(stream.as_bytes())
        .u64(position.epoch)
        .u64(position.lsn)
        .u32(position.index);
    (MARK, fields.0)
}

/// Appends size and attributes.
pub(super) fn put_attributes(fields: &mut Fields, attributes: &Attributes) {
    let kind = attributes.kind.map(|kind| match kind {
        FileKind::Regular => 0,
        FileKind::Directory => 1,
        FileKind::Link => 2,
    });
    fields
        .u64(attributes.size)
        .option(kind, Fields::u8)
        .option(attributes.mode, Fields::u32)
        .option(attributes.uid, Fields::u32)
        .option(attributes.gid, Fields::u32)
        .option(attributes.modified_ns, Fields::i64);
}

/// The inverse of [`put_attributes`].
pub(super) fn take_attributes(fields: &mut Taken<'_>) -> Option<Attributes> {
    let size = fields.u64()?;
    let kind = match fields.option(Taken::u8)? {
        None => None,
        Some(kind) => Some(*FileKind::ALL.get(usize::from(kind))?),
    };
    Some(Attributes {
        size,
        kind,
        mode: fields.option(Taken::u32)?,
        uid: fields.option(Taken::u32)?,
        gid: fields.option(Taken::u32)?,
        modified_ns: fields.option(Taken::i64)?,
    })
}
