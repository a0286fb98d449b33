//! The redo log: what one batch does to the mirrored files, written down before any of it is done.
//!
//! It is written as `.counterfoil/redo.new` and gets the name `redo` when all of it is on the disk: from then on the batch is
//! certain. Doing what it says a second time, or from any point on once more, leaves the same files: writes have absolute
//! offsets, what is made is made from the beginning, and a renamed file is known by its inode.

use super::catalogue::{Catalogue, Entry, put_attributes, take_attributes};
use super::disk::{self, Disk};
use super::error::{Doing, unreadable};
use super::frame::{Fields, FrameReader, MAGIC_BYTES, Taken, Unreadable, write_frame};
use crate::{Attributes, SinkError};
use counterfoil_proto::{Position, path_text};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// The name of a redo log that is complete.
pub(super) const NAME: &str = "redo";
/// The name of one that isn't.
pub(super) const NEW: &str = "redo.new";

const MAGIC: &[u8; MAGIC_BYTES] = b"CFLREDO\x01";

/// A write has at most so many bytes; longer ones are split.
pub(super) const WRITE_BYTES_MAX: usize = 1 << 20;

/// If more files than this are touched, all of the file system is made durable at once.
const SYNCED_EACH_MAX: u64 = 24;

const HEAD: u8 = 1;
const UNLINK: u8 = 2;
const RENAME: u8 = 3;
const REMOVE_DIRECTORY: u8 = 4;
const MAKE_DIRECTORY: u8 = 5;
const OPEN: u8 = 6;
const MAKE: u8 = 7;
const WRITE: u8 = 8;
const ZERO: u8 = 9;
const CUT: u8 = 10;
const RESIZE: u8 = 11;
const DONE: u8 = 12;
const LINK: u8 = 13;
const ATTRIBUTES: u8 = 14;
const ENTRY: u8 = 15;
const END: u8 = 16;

/// What a redo log begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The batch's stream.
    pub(super) stream: String,
    /// How far it was before.
    pub(super) before: Option<Position>,
    /// How far it is after.
    pub(super) position: Position,
    /// How many files are made or changed.
    pub(super) touched: u64,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    /// A file or link goes.
    Unlink { path: &'a [u8] },
    /// The file with this inode gets another name.
    Rename {
        from: &'a [u8],
        to: &'a [u8],
        inode: u64,
    },
    /// A directory goes, if nothing is left in it.
    RemoveDirectory { path: &'a [u8] },
    /// A directory is there from now on.
    MakeDirectory { path: &'a [u8] },
    /// What follows up to [`Operation::Done`] is done to this file.
    Open { path: &'a [u8] },
    /// It is done to a new file, which gets its place in the end, with what is known of it.
    Make {
        path: &'a [u8],
        attributes: Option<Attributes>,
    },
    /// Bytes at an offset.
    Write { offset: u64, bytes: &'a [u8] },
    /// A range of zeros, as far as it is in the file; `u64::MAX` as end means the end of the file.
    Zero { from: u64, to: u64 },
    /// What is behind this goes.
    Cut { size: u64 },
    /// The file has this size.
    Resize { size: u64 },
    /// The file is as it is to be.
    Done,
    /// A link takes this place.
    Link {
        path: &'a [u8],
        target: &'a [u8],
        attributes: Option<Attributes>,
    },
    /// What is at this path gets these attributes.
    Attributes {
        path: &'a [u8],
        attributes: Attributes,
    },
}

/// A redo log being written.
pub(super) struct Writer<'f> {
    out: BufWriter<&'f File>,
}

impl<'f> Writer<'f> {
    pub(super) fn begin(file: &'f File, head: &Head) -> io::Result<Writer<'f>> {
        let mut writer = Writer {
            out: BufWriter::with_capacity(1 << 18, file),
        };
        writer.out.write_all(MAGIC)?;
        let mut fields = Fields::default();
        fields
            .bytes(head.stream.as_bytes())
            .option(head.before, put_position);
        put_position(&mut fields, head.position).u64(head.touched);
        writer.frame(HEAD, &fields.0)?;
        Ok(writer)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        write_frame(&mut self.out, kind, payload)
    }

    pub(super) fn operation(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let mut fields = Fields::default();
        let put = |fields: &mut Fields, attributes: &Option<Attributes>| {
            fields.option(attributes.as_ref(), |fields, attributes| {
                put_attributes(fields, attributes);
                fields
            });
        };
        let kind = match operation {
            Operation::Unlink { path } => {
                fields.bytes(path);
                UNLINK
            }
            Operation::Rename { from, to, inode } => {
                fields.bytes(from).bytes(to).u64(*inode);
                RENAME
            }
            Operation::RemoveDirectory { path } => {
                fields.bytes(path);
                REMOVE_DIRECTORY
            }
            Operation::MakeDirectory { path } => {
                fields.bytes(path);
                MAKE_DIRECTORY
            }
            Operation::Open { path } => {
                fields.bytes(path);
                OPEN
            }
            Operation::Make { path, attributes } => {
                put(fields.bytes(path), attributes);
                MAKE
            }
            Operation::Write { offset, bytes } => {
                fields.u64(*offset).0.extend_from_slice(bytes);
                WRITE
            }
            Operation::Zero { from, to } => {
                fields.u64(*from).u64(*to);
                ZERO
            }
            Operation::Cut { size } => {
                fields.u64(*size);
                CUT
            }
            Operation::Resize { size } => {
                fields.u64(*size);
                RESIZE
            }
            Operation::Done => DONE,
            Operation::Link {
                path,
                target,
                attributes,
            } => {
                put(fields.bytes(path).bytes(target), attributes);
                LINK
            }
            Operation::Attributes { path, attributes } => {
                put_attributes(fields.bytes(path), attributes);
                ATTRIBUTES
            }
        };
        self.frame(kind, &fields.0)
    }

    /// A frame to append to the catalogue.
    pub(super) fn entry(&mut self, (kind, payload): &Entry) -> io::Result<()> {
        let mut fields = Fields::default();
        fields.u8(*kind).0.extend_from_slice(payload);
        self.frame(ENTRY, &fields.0)
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.frame(END, &[])?;
        self.out.flush()
    }
}

fn put_position(fields: &mut Fields, position: Position) -> &mut Fields {
    fields
        .u64(position.epoch)
        .u64(position.lsn)
        .u32(position.index)
}

fn take_position(fields: &mut Taken<'_>) -> Option<Position> {
    Some(Position {
        epoch: fields.u64()?,
        lsn: fields.u64()?,
        index: fields.u32()?,
    })
}

fn parse(kind: u8, payload: &[u8]) -> Option<Operation<'_>> {
    let mut fields = Taken(payload);
    let operation = match kind {
        UNLINK => Operation::Unlink {
            path: fields.bytes()?,
        },
        RENAME => Operation::Rename {
            from: fields.bytes()?,
            to: fields.bytes()?,
            inode: fields.u64()?,
        },
        REMOVE_DIRECTORY => Operation::RemoveDirectory {
            path: fields.bytes()?,
        },
        MAKE_DIRECTORY => Operation::MakeDirectory {
            path: fields.bytes()?,
        },
        OPEN => Operation::Open {
            path: fields.bytes()?,
        },
        MAKE => Operation::Make {
            path: fields.bytes()?,
            attributes: fields.option(take_attributes)?,
        },
        WRITE => Operation::Write {
            offset: fields.u64()?,
            bytes: std::mem::take(&mut fields.0),
        },
        ZERO => Operation::Zero {
            from: fields.u64()?,
            to: fields.u64()?,
        },
        CUT => Operation::Cut {
            size: fields.u64()?,
        },
        RESIZE => Operation::Resize {
            size: fields.u64()?,
        },
        DONE => Operation::Done,
        LINK => Operation::Link {
            path: fields.bytes()?,
            target: fields.bytes()?,
            attributes: fields.option(take_attributes)?,
        },
        ATTRIBUTES => Operation::Attributes {
            path: fields.bytes()?,
            attributes: take_attributes(&mut fields)?,
        },
        _ => return None,
    };
    fields.end()?;
    Some(operation)
}

/// A complete redo log, being read.
pub(super) struct Log<'f> {
    frames: FrameReader<BufReader<&'f File>>,
    path: &'f Path,
}

impl<'f> Log<'f> {
    /// Begins at the beginning.
    pub(super) fn begin(mut file: &'f File, path: &'f Path) -> Result<(Log<'f>, Head), SinkError> {
        file.seek(SeekFrom::Start(0))
            .doing(|| format!("reading {}", path.display()))?;
        let input = BufReader::with_capacity(1 << 18, file);
        let frames = FrameReader::begin(input, MAGIC).map_err(|error| unreadable(error, path))?;
        let mut log = Log { frames, path };
        let head = log.next(|kind, payload| {
            let mut fields = Taken(payload);
            let head = Head {
                stream: fields.text()?,
                before: fields.option(take_position)?,
                position: take_position(&mut fields)?,
                touched: fields.u64()?,
            };
            (kind == HEAD)
                .then_some(head)
                .filter(|_| fields.end().is_some())
        })?;
        Ok((log, head))
    }

    /// The next frame, as `read` understands it.
    fn next<T>(&mut self, read: impl FnOnce(u8, &[u8]) -> Option<T>) -> Result<T, SinkError> {
        let offset = self.frames.offset();
        let damaged = |reason: &str| Unreadable::Damaged {
            offset,
            reason: reason.to_owned(),
        };
        let path = self.path;
        match self.frames.next() {
            Ok(Some((kind, payload))) => read(kind, payload)
                .ok_or_else(|| unreadable(damaged("a frame isn't what its kind says"), path)),
            Ok(None) => Err(unreadable(damaged("it has no end"), path)),
            Err(error) => Err(unreadable(error, path)),
        }
    }

    /// Reads all of it, to know that it is whole before anything of it is done.
    pub(super) fn check(mut self) -> Result<(), SinkError> {
        while self.next(|kind, payload| match kind {
            END => Some(false),
            ENTRY => Some(true),
            _ => parse(kind, payload).map(|_| true),
        })? {}
        Ok(())
    }

    /// Does all that it says. Then the mirrored files are as after the batch, durably; the entries for the catalogue are
    /// returned.
    pub(super) fn repeat(mut self, head: &Head, disk: &mut Disk) -> Result<Vec<Entry>, SinkError> {
        let mut doer = Doer {
            disk,
            current: None,
            is_synced_each: head.touched <= SYNCED_EACH_MAX,
            directories: BTreeSet::new(),
        };
        doer.disk.forget();
        let mut entries = Vec::new();
        loop {
            enum Step {
                Done(Result<(), SinkError>),
                Entry(Entry),
                End,
            }
            let step = self.next(|kind, payload| match kind {
                END => Some(Step::End),
                ENTRY => payload
                    .split_first()
                    .map(|(kind, payload)| Step::Entry((*kind, payload.to_vec()))),
                _ => parse(kind, payload).map(|operation| Step::Done(doer.act(&operation))),
            })?;
            match step {
                Step::Done(done) => done?,
                Step::Entry(entry) => entries.push(entry),
                Step::End => break,
            }
        }
        doer.finish()?;
        Ok(entries)
    }
}

/// The file that is being changed.
struct Current {
    file: File,
    path: Vec<u8>,
    /// It isn't in its place yet; and what it gets before.
    made: Option<Option<Attributes>>,
}

/// Does what a redo log says.
struct Doer<'d> {
    disk: &'d mut Disk,
    current: Option<Current>,
    is_synced_each: bool,
    /// Where names were changed.
    directories: BTreeSet<Vec<u8>>,
}

impl Doer<'_> {
    fn act(&mut self, operation: &Operation<'_>) -> Result<(), SinkError> {
        let doing = |what: &'static str, path: &[u8]| {
            let path = path_text(path);
            move || format!("{what} {path}")
        };
        match operation {
            Operation::Unlink { path } => {
                self.names_changed(path);
                self.disk.unlink(path).doing(doing("removing", path))
            }
            Operation::Rename { from, to, inode } => {
                self.names_changed(from);
                self.names_changed(to);
                self.disk
                    .rename(from, to, *inode)
                    .doing(doing("renaming to", to))
            }
            Operation::RemoveDirectory { path } => {
                self.names_changed(path);
                let is_gone = self
                    .disk
                    .remove_directory(path)
                    .doing(doing("removing the directory", path))?;
                if !is_gone {
                    tracing::warn!(
                        "the directory {} was removed where it is mirrored from, but here it has something else in it \
                         and is left",
                        path_text(path)
                    );
                }
                Ok(())
            }
            Operation::MakeDirectory { path } => {
                self.names_changed(path);
                self.disk
                    .make_directory(path)
                    .doing(doing("making the directory", path))
            }
            Operation::Open { path } => {
                let file = self.disk.open(path).doing(doing("opening", path))?;
                self.current = Some(Current {
                    file,
                    path: path.to_vec(),
                    made: None,
                });
                Ok(())
            }
            Operation::Make { path, attributes } => {
                self.names_changed(path);
                let file = self.disk.make(path).doing(doing("making", path))?;
                self.current = Some(Current {
                    file,
                    path: path.to_vec(),
                    made: Some(*attributes),
                });
                Ok(())
            }
            Operation::Link {
                path,
                target,
                attributes,
            } => {
                self.names_changed(path);
                self.disk
                    .link(path, target)
                    .doing(doing("making the link", path))?;
                if let Some(attributes) = attributes {
                    self.disk
                        .set_attributes(&disk::beside(path), attributes)
                        .doing(doing("setting the attributes of", path))?;
                }
                self.put_in_place(path)
            }
            Operation::Attributes { path, attributes } => self
                .disk
                .set_attributes(path, attributes)
                .doing(doing("setting the attributes of", path)),
            Operation::Write { .. }
            | Operation::Zero { .. }
            | Operation::Cut { .. }
            | Operation::Resize { .. } => {
                let Some(current) = &self.current else {
                    return Ok(());
                };
                let (disk, file) = (&mut *self.disk, &current.file);
                let done = match operation {
                    Operation::Write { offset, bytes } => disk.write(file, *offset, bytes),
                    Operation::Zero { from, to } => disk.zero(file, *from, *to),
                    Operation::Cut { size } => file.metadata().and_then(|metadata| {
                        if metadata.len() > *size {
                            disk.resize(file, *size)?;
                        }
                        Ok(())
                    }),
                    Operation::Resize { size } => disk.resize(file, *size),
                    _ => Ok(()),
                };
                done.doing(doing("writing", &current.path))
            }
            Operation::Done => {
                let Some(current) = self.current.take() else {
                    return Ok(());
                };
                let is_elsewhere = !self
                    .disk
                    .is_on_device(&current.file)
                    .doing(doing("looking at", &current.path))?;
                if self.is_synced_each || is_elsewhere {
                    self.disk
                        .sync(&current.file)
                        .doing(doing("synchronising", &current.path))?;
                }
                let Some(attributes) = current.made else {
                    return Ok(());
                };
                if let Some(attributes) = attributes {
                    self.disk
                        .set_attributes_of(&current.file, &attributes)
                        .doing(doing("setting the attributes of", &current.path))?;
                }
                self.put_in_place(&current.path)
            }
        }
    }

    /// What was made beside its place, and has its attributes, gets the place: nobody sees it without.
    fn put_in_place(&mut self, path: &[u8]) -> Result<(), SinkError> {
        self.disk
            .place(path)
            .doing(|| format!("putting in its place {}", path_text(path)))
    }

    fn names_changed(&mut self, path: &[u8]) {
        let mut directory = disk::parent(path);
        // Those above may have been made for it.
        while self.directories.insert(directory.to_vec()) && !directory.is_empty() {
            directory = disk::parent(directory);
        }
    }

    fn finish(self) -> Result<(), SinkError> {
        self.disk
            .tighten()
            .doing(|| "giving back permissions".to_owned())?;
        if !self.is_synced_each {
            self.disk
                .sync_all()
                .doing(|| "synchronising the file system".to_owned())?;
        }
        for directory in &self.directories {
            self.disk
                .sync_directory(directory, !self.is_synced_each)
                .doing(|| format!("synchronising the directory /{}", path_text(directory)))?;
        }
        Ok(())
    }
}

/// What a redo log is to a catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The catalogue has what it did.
    Over,
    /// It is to be done.
    Due,
    /// It belongs to another catalogue.
    Strange,
}

impl Head {
    /// What this log is to the catalogue as it was read up to its last mark.
    pub(super) fn standing(&self, catalogue: &Catalogue) -> Standing {
        let stored = catalogue.position(&self.stream);
        if stored == Some(self.position) {
            Standing::Over
        } else if stored == self.before {
            Standing::Due
        } else {
            Standing::Strange
        }
    }
}
