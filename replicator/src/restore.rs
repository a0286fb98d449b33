//! Restore: files back from a target, byte for byte.
//!
//! Everything is read from one snapshot of the target, so the files belong together. A file appears under its name only
//! when it is complete.

use counterfoil_sinks::{Image, Sink, SinkError, StoredFile};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
    let mut restored = Vec::new();
    for stream in streams {
        for file in snapshot.files(stream)? {
            // Attributes are sent when the content is there.
            if !force && file.attributes.mode.is_none() {
                return Err(RestoreError::Incomplete {
                    path: counterfoil_proto::path_text(&file.description.path),
                });
            }
            let path = place(directory, &file.description.path)?;
            if !force && path.symlink_metadata().is_ok() {
                return Err(RestoreError::Exists { path });
            }
            let records = write(snapshot.as_mut(), stream, &file, &path)?;
            restored.push(Restored {
                path,
                size: file.attributes.size,
                records,
            });
            if let Some(file) = restored.last() {
                each(file);
            }
        }
    }
    Ok(restored)
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

fn write(
    snapshot: &mut dyn counterfoil_sinks::Snapshot,
    stream: &str,
    file: &StoredFile,
    path: &Path,
) -> Result<u64, RestoreError> {
    let io_error = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io {
            doing,
            path,
            source,
        }
    };
    let content = |reason: String| RestoreError::Content {
        path: counterfoil_proto::path_text(&file.description.path),
        reason,
    };
    let codec = file
        .description
        .format
        .codec()
        .map_err(|error| content(error.to_string()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(io_error("making the directory", parent))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".counterfoil-restore");
    let beside = path.with_file_name(name);
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
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
    if let Some(mode) = file.attributes.mode {
        target
            .set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
            .map_err(io_error("setting the permissions of", &beside))?;
    }
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (file.attributes.uid, file.attributes.gid)
    {
        std::os::unix::fs::fchown(&target, Some(uid), Some(gid))
            .map_err(io_error("setting the owner of", &beside))?;
        // A change of owner takes set-user-id bits away.
        if let Some(mode) = file.attributes.mode {
            target
                .set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
                .map_err(io_error("setting the permissions of", &beside))?;
        }
    }
    target
        .sync_all()
        .map_err(io_error("synchronising", &beside))?;
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
