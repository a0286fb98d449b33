//! Reading: the catalogue says which files there are, the files themselves what is in them.

use super::catalogue::Catalogue;
use super::disk::Disk;
use super::error::Doing;
use super::lock::Held;
use crate::sql::permanent;
use crate::{FileKind, Image, SinkError, Snapshot, StoredFile, StoredPiece};
use counterfoil_proto::{Position, path_text};
use counterfoil_records::{Boundaries, Codec, Piece, PieceKind, Within};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes read at once, unless a piece is longer.
const WINDOW_BYTES: usize = 1 << 20;

/// A view of a mirror. As long as it is open nobody changes anything.
pub(super) struct FilesSnapshot<'s> {
    pub(super) catalogue: &'s Catalogue,
    pub(super) disk: &'s mut Disk,
    pub(super) place: &'s str,
    pub(super) _lock: Held,
}

impl Snapshot for FilesSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        Ok(self.catalogue.streams().cloned().collect())
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        Ok(self.catalogue.position(stream))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        Ok(self.catalogue.files(stream).cloned().collect())
    }

    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        Ok(self.catalogue.file(stream, path).cloned())
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let Some(stored) = self.catalogue.file(stream, path) else {
            return Ok(());
        };
        let doing = || format!("reading {} {}", path_text(path), self.place);
        let missing = || {
            permanent(
                doing(),
                "it isn't where it was mirrored to any more, or is something else now: somebody removed or replaced it",
                "put it back as it was; or have everything read again with `counterfoil run --read-again`",
            )
        };
        match stored.attributes.kind {
            Some(FileKind::Directory) => Ok(()),
            Some(FileKind::Link) if ids.start > 0 => Ok(()),
            Some(FileKind::Link) => {
                let target = self.disk.read_link(path).doing(doing)?;
                let data = target.ok_or_else(missing)?;
                let rest = Vec::new();
                each(StoredPiece {
                    id: 0,
                    image: Image::Record { data, rest },
                });
                Ok(())
            }
            Some(FileKind::Regular) | None => {
                let codec = stored.description.format.codec().map_err(|error| {
                    permanent(
                        doing(),
                        error.to_string(),
                        "use the version of Counterfoil that wrote it, or a later one",
                    )
                })?;
                match self.disk.read(path).doing(doing)? {
                    Some(file) => walk(codec.as_ref(), &file, &ids, each).doing(doing),
                    // An empty directory of a configuration's beginnings has no kind yet.
                    None if stored.attributes.size == 0
                        && self.disk.find(path).doing(doing)?.is_some() =>
                    {
                        Ok(())
                    }
                    None => Err(missing()),
                }
            }
        }
    }
}

/// Decodes a range of a file, or all; holes of files with pieces of one size are passed over.
fn walk(
    codec: &dyn Codec,
    file: &File,
    ids: &Range<u64>,
    each: &mut dyn FnMut(StoredPiece) -> bool,
) -> io::Result<()> {
    let size = file.metadata()?.len();
    let pitch = match codec.boundaries() {
        Boundaries::Pitch(pitch) => Some(pitch.max(1)),
        _ => None,
    };
    let mut window = WINDOW_BYTES;
    let mut bytes = Vec::new();
    // Where what was in a block before counts, only the beginning will do.
    let begin = match codec.is_blocked() || ids.start == 0 {
        true => 0,
        false => codec.offset_of(ids.start),
    };
    let (mut at, mut within) = (begin, Within::default());
    let mut goes_on = true;
    while at < size && goes_on {
        let mut behind = size;
        if let Some(pitch) = pitch {
            match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) if data > at => at = (data - data % pitch).max(at),
                Ok(_) => {}
                // Nothing but a hole is left: the last piece of it is cut short perhaps, and is no less empty... unless it
                // is residue for being cut short, so it is looked at.
                Err(Errno::NXIO) => at = at.max(size - 1 - (size - 1) % pitch),
                Err(_) => {}
            }
            // What is in the next hole needn't be read either, but for the rest of the piece that it begins in.
            if let Ok(hole) = rustix::fs::seek(file, SeekFrom::Hole(at))
                && hole > at
            {
                behind = size.min(hole.next_multiple_of(pitch));
            }
        }
        let len = usize::try_from(behind - at).map_or(window, |left| left.min(window));
        bytes.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_end = filled < len || at + filled as u64 >= size;
        let from = within;
        let taken = codec.decode_within(from, at, &bytes[..filled], is_end, &mut |piece| {
            within = piece.behind;
            if goes_on && let Some(piece) = stored(&piece) {
                goes_on = piece.id < ids.end && (piece.id < ids.start || each(piece));
            }
        });
        if taken == 0 {
            if is_end {
                break;
            }
            window *= 2;
        }
        at += taken as u64;
    }
    Ok(())
}

fn stored(piece: &Piece<'_>) -> Option<StoredPiece> {
    let image = match piece.kind {
        PieceKind::Record { data, rest } => Image::Record {
            data: data.to_vec(),
            rest: rest.to_vec(),
        },
        PieceKind::Residue { bytes, reason } => Image::Residue {
            bytes: bytes.to_vec(),
            reason: reason.to_owned(),
        },
        PieceKind::Empty => return None,
    };
    Some(StoredPiece {
        id: piece.id,
        image,
    })
}
