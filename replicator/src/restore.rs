//! Restore: files back from a target, byte for byte.
//!
//! Everything is read from one snapshot of the target, so the files belong together. A file appears under its name only
//! when it is complete. Of trees, directories come first and their attributes last, since what is put into a directory
//! changes its time; links come when there is nothing left that could be put through them.

use counterfoil_sinks::plan::rows::is_of_rows;
use counterfoil_sinks::{Attributes, FileKind, Image, Sink, SinkError, Snapshot, StoredFile};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Why a file could not be given back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target can't be read.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The system refuses.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What the target has isn't what a file can be made of.
    #[error(
        "restoring {path}: {reason}; the target was changed by somebody else, `counterfoil verify` shows where"
    )]
    Content {
        /// The file, as text for people.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Not all of a file's content has reached the target.
    #[error(
        "{path} was not loaded to its end when the target last heard of it; let `counterfoil run --until-idle` finish, or say --force to take what is there"
    )]
    Incomplete {
        /// The file, as text for people.
        path: String,
    },
    /// The target has no bytes of it.
    #[error(
        "{path} can't be given back from this sink, which keeps no raw image of its records (`raw = false`, or a mask); take another sink, or say --force to leave such files out"
    )]
    NoRaw {
        /// The file, as text for people.
        path: String,
    },
    /// There is a file already.
    #[error("{} exists; restore to an empty directory, or say --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// A restored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where it is now.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// How many records it has.
    pub records: u64,
    /// The root directory of the tree it is in, as text for people, if it is in one.
    pub tree: Option<String>,
    /// It had another owner, which only root can give it back.
    pub is_owner_lost: bool,
}

/// Writes all files of the streams below `directory`, each under its absolute path. `each` is told of every file.
pub fn restore(
    sink: &mut dyn Sink,
    streams: &[String],
    directory: &Path,
    force: bool,
    each: &mut dyn FnMut(&Restored),
) -> Result<Vec<Restored>, RestoreError> {
    let mut snapshot = sink.snapshot()?;
    let mut restore = Restore {
        directory,
        force,
        made: HashSet::new(),
    };
    let mut restored = Vec::new();
    let (mut directories, mut links) = (Vec::new(), Vec::new());
    for stream in streams {
        for file in snapshot.files(stream)? {
            if is_of_rows(&file.description.path) {
                continue;
            }
            if !file.shape.raw {
                if force {
                    continue;
                }
                return Err(RestoreError::NoRaw {
                    path: counterfoil_proto::path_text(&file.description.path),
                });
            }
            // Attributes are sent when the content is there.
            if !force && file.attributes.mode.is_none() {
                return Err(RestoreError::Incomplete {
                    path: counterfoil_proto::path_text(&file.description.path),
                });
            }
            let path = place(directory, &file.description.path)?;
            match file.attributes.kind {
                Some(FileKind::Directory) => {
                    restore.directory(&path, &file)?;
                    directories.push((path, file));
                }
                Some(FileKind::Link) => links.push((path, stream, file)),
                Some(FileKind::Regular) | None => {
                    restore.is_free(&path)?;
                    let records = restore.regular(snapshot.as_mut(), stream, &file, &path)?;
                    restored.push(Restored::of(&file, path, records));
                    restored.iter().next_back().into_iter().for_each(&mut *each);
                }
            }
        }
    }
    for (path, stream, file) in links {
        restore.is_free(&path)?;
        restore.link(snapshot.as_mut(), stream, &file, &path)?;
        restored.push(Restored::of(&file, path, 0));
        restored.iter().next_back().into_iter().for_each(&mut *each);
    }
    directories.sort_by(|a, b| a.0.cmp(&b.0));
    // Inner ones first: they come behind those that they are in.
    for (path, file) in directories.into_iter().rev() {
        set_attributes(&path, &file.attributes)?;
        restored.push(Restored::of(&file, path, 0));
        restored.iter().next_back().into_iter().for_each(&mut *each);
    }
    if restored.iter().any(|file| file.tree.is_some()) {
        // One for all, rather than one for each of very many small files.
        let top = File::open(directory).map_err(io_error("opening", directory))?;
        rustix::fs::syncfs(&top)
            .map_err(io::Error::from)
            .map_err(io_error("synchronising", directory))?;
    }
    Ok(restored)
}

impl Restored {
    fn of(file: &StoredFile, path: PathBuf, records: u64) -> Restored {
        let owner = file.attributes.uid.zip(file.attributes.gid);
        let is_owner_lost = !rustix::process::geteuid().is_root()
            && path
                .symlink_metadata()
                .is_ok_and(|there| owner.is_some_and(|owner| owner != (there.uid(), there.gid())));
        let tree = file.description.tree.as_deref();
        Restored {
            path,
            size: file.attributes.size,
            records,
            tree: tree.map(counterfoil_proto::path_text),
            is_owner_lost,
        }
    }
}

/// Where a file goes: never outside of the directory, whatever its path says.
fn place(directory: &Path, path: &[u8]) -> Result<PathBuf, RestoreError> {
    let mut place = directory.to_owned();
    for component in Path::new(std::ffi::OsStr::from_bytes(path)).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => place.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(RestoreError::Content {
                    path: counterfoil_proto::path_text(path),
                    reason: "its path leads out of the directory".to_owned(),
                });
            }
        }
    }
    Ok(place)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io {
        doing,
        path,
        source,
    }
}

/// Gives a file, a directory or a link what is known of it: owner, permissions, time. The owner is for root to give.
fn set_attributes(path: &Path, attributes: &Attributes) -> Result<(), RestoreError> {
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (attributes.uid, attributes.gid)
    {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(io_error("setting the owner of", path))?;
    }
    // Behind the owner: a change of that takes set-user-id bits away. A link's permissions mean nothing.
    if let Some(mode) = attributes.mode
        && attributes.kind != Some(FileKind::Link)
    {
        std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))
            .map_err(io_error("setting the permissions of", path))?;
    }
    if let Some(modified_ns) = attributes.modified_ns {
        let modified = Timespec {
            tv_sec: modified_ns.div_euclid(1_000_000_000),
            tv_nsec: modified_ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps {
            last_access: modified,
            last_modification: modified,
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .map_err(io_error("setting the time of", path))?;
    }
    Ok(())
}

/// A restore under way.
struct Restore<'d> {
    directory: &'d Path,
    force: bool,
    /// Directories that are there, and no links.
    made: HashSet<PathBuf>,
}

impl Restore<'_> {
    /// Refuses a place where something is, unless it may be replaced.
    fn is_free(&self, path: &Path) -> Result<(), RestoreError> {
        if !self.force && path.symlink_metadata().is_ok() {
            return Err(RestoreError::Exists {
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    /// Makes a directory and those it is in. What is there already is taken, unless it is a link: what is put below that
    /// would be elsewhere.
    fn make(&mut self, path: &Path) -> Result<(), RestoreError> {
        if self.made.contains(path) {
            return Ok(());
        }
        if path == self.directory || !path.starts_with(self.directory) {
            std::fs::create_dir_all(path).map_err(io_error("making the directory", path))?;
        } else {
            if let Some(parent) = path.parent() {
                self.make(parent)?;
            }
            match path.symlink_metadata() {
                Ok(there) if there.is_dir() => {}
                Ok(_) if self.force => {
                    std::fs::remove_file(path).map_err(io_error("removing", path))?;
                    std::fs::create_dir(path).map_err(io_error("making the directory", path))?;
                }
                Ok(_) => {
                    return Err(RestoreError::Exists {
                        path: path.to_owned(),
                    });
                }
                Err(_) => {
                    std::fs::create_dir(path).map_err(io_error("making the directory", path))?;
                }
            }
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// A directory of a tree. Nobody else looks into it until it has its permissions.
    fn directory(&mut self, path: &Path, file: &StoredFile) -> Result<(), RestoreError> {
        if let Some(parent) = path.parent() {
            self.make(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                self.made.insert(path.to_owned());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Perhaps its owner may not write in it.
                if file.description.tree.is_some() && path.is_dir() && !path.is_symlink() {
                    std::fs::set_permissions(path, Permissions::from_mode(0o700))
                        .map_err(io_error("setting the permissions of", path))?;
                }
                self.make(path)
            }
            Err(error) => Err(io_error("making the directory", path)(error)),
        }
    }

    fn link(
        &mut self,
        snapshot: &mut dyn Snapshot,
        stream: &str,
        file: &StoredFile,
        path: &Path,
    ) -> Result<(), RestoreError> {
        let mut target = Vec::new();
        snapshot.pieces(stream, &file.description.path, &mut |piece| {
            if let Image::Record { data, .. } = piece.image {
                target.extend(data);
            }
            true
        })?;
        if target.is_empty() || target.len() as u64 != file.attributes.size {
            return Err(RestoreError::Content {
                path: counterfoil_proto::path_text(&file.description.path),
                reason: "what the link leads to isn't all there".to_owned(),
            });
        }
        if let Some(parent) = path.parent() {
            self.make(parent)?;
        }
        let beside = beside(path);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("removing", &beside)(error));
            }
            _ => {}
        }
        let target = std::ffi::OsString::from_vec(target);
        std::os::unix::fs::symlink(target, &beside)
            .map_err(io_error("making the link", &beside))?;
        set_attributes(&beside, &file.attributes)?;
        std::fs::rename(&beside, path).map_err(io_error("naming", path))
    }

    fn regular(
        &mut self,
        snapshot: &mut dyn Snapshot,
        stream: &str,
        file: &StoredFile,
        path: &Path,
    ) -> Result<u64, RestoreError> {
        self.make(path.parent().unwrap_or(Path::new("/")))?;
        write(snapshot, stream, file, path)
    }
}

/// Where something is made before it gets its name.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".counterfoil-restore");
    path.with_file_name(name)
}

fn write(
    snapshot: &mut dyn Snapshot,
    stream: &str,
    file: &StoredFile,
    path: &Path,
) -> Result<u64, RestoreError> {
    let content = |reason: String| RestoreError::Content {
        path: counterfoil_proto::path_text(&file.description.path),
        reason,
    };
    let codec = file
        .description
        .format
        .codec()
        .map_err(|error| content(error.to_string()))?;
    let beside = beside(path);
    // What an interrupted restore left, whatever it is, isn't written through.
    let _ = std::fs::remove_file(&beside);
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(io_error("making", &beside))?;
    let mut output = Output {
        file: BufWriter::with_capacity(1 << 20, target),
        at: 0,
    };
    let mut records = 0;
    let mut failed = None;
    let mut encoded = Vec::new();
    snapshot.pieces(stream, &file.description.path, &mut |piece| {
        encoded.clear();
        let done = match &piece.image {
            Image::Record { data, rest } => {
                records += 1;
                codec
                    .encode(piece.id, data, rest, &mut encoded)
                    .map_err(|error| content(error.to_string()))
            }
            Image::Residue { bytes, .. } => {
                encoded.extend_from_slice(bytes);
                Ok(())
            }
            Image::Absent => Ok(()),
        };
        let done = done.and_then(|()| {
            let offset = codec.offset_of(piece.id);
            if offset < output.at {
                return Err(content(format!(
                    "record {} overlaps the one before it",
                    piece.id
                )));
            }
            output
                .put(offset, &encoded)
                .map_err(io_error("writing", &beside))
        });
        failed = done.err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if output.at > file.attributes.size {
        return Err(content(format!(
            "its records end at byte {}, behind its size of {} bytes",
            output.at, file.attributes.size
        )));
    }
    let target: File = output
        .file
        .into_inner()
        .map_err(|error| io_error("writing", &beside)(error.into_error()))?;
    target
        .set_len(file.attributes.size)
        .map_err(io_error("setting the size of", &beside))?;
    set_attributes(&beside, &file.attributes)?;
    if file.description.tree.is_none() {
        target
            .sync_all()
            .map_err(io_error("synchronising", &beside))?;
    }
    std::fs::rename(&beside, path).map_err(io_error("naming", path))?;
    Ok(records)
}

/// A file being written in order; holes stay holes.
struct Output {
    file: BufWriter<File>,
    at: u64,
}

impl Output {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset != self.at {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        self.file.write_all(bytes)?;
        self.at = offset + bytes.len() as u64;
        Ok(())
    }
}
