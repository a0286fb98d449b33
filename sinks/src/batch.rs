//! What a sink is given: the net effect of whole units of work, folded to the last image per record.

use crate::SinkError;
use crate::plan::{Plan, Shape};
use counterfoil_proto::Position;
use counterfoil_records::RecordFormat;
use counterfoil_records::schema::RecordSchema;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What is known of a mirrored file, apart from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDescription {
    /// Absolute path on the production host, as bytes: a path need not be UTF-8.
    pub path: Vec<u8>,
    /// The consistency group it belongs to.
    pub group: String,
    /// How its records lie on disk.
    pub format: RecordFormat,
    /// The table asked for in the configuration, else one is made from the path.
    pub table: Option<String>,
    /// The root directory of the tree that a static file belongs to: all files of a tree share a table, which is named for
    /// the root.
    pub tree: Option<Vec<u8>>,
    /// What is in its records, where that is known.
    pub schema: Option<FileSchema>,
    /// What becomes of it in the target; `None`: a mirror of raw images. A target doesn't say it of what it has
    /// ([`StoredFile::shape`] says what came of it).
    pub plan: Option<Arc<Plan>>,
}

/// What is in a file's records. Two are equal when their columns are.
#[derive(Clone, Debug)]
pub struct FileSchema(pub Arc<RecordSchema>);

impl PartialEq for FileSchema {
    fn eq(&self, other: &FileSchema) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.schema_id() == other.0.schema_id()
    }
}

impl Eq for FileSchema {}

impl FileDescription {
    /// The path that the table is named for.
    pub fn named_for(&self) -> &[u8] {
        self.tree.as_ref().unwrap_or(&self.path)
    }
}

/// What kind of file a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory, which has no content.
    Directory,
    /// A symbolic link, whose content is what it leads to.
    Link,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [FileKind; 3] = [FileKind::Regular, FileKind::Directory, FileKind::Link];

    /// Its name, as it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Regular => "file",
            FileKind::Directory => "directory",
            FileKind::Link => "link",
        }
    }
}

/// The last image of a piece of a file: what a row or its residue becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A record; replaces whatever had its identity.
    Record {
        /// The record's content.
        data: Vec<u8>,
        /// On-disk bytes that belong to it but aren't content (see `counterfoil_records::PieceKind`).
        rest: Vec<u8>,
    },
    /// No record: these on-disk bytes are kept for restore, and a row with this identity is deleted.
    Residue {
        /// All on-disk bytes of the piece.
        bytes: Vec<u8>,
        /// Why this isn't a record, for people.
        reason: String,
    },
    /// Nothing: row and residue with this identity are deleted.
    Absent,
}

impl Image {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Image::Record { data, rest } => data.len() + rest.len(),
            Image::Residue { bytes, .. } => bytes.len(),
            Image::Absent => 0,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A change as it came, of a file whose plan keeps every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its position.
    pub position: Position,
    /// When it was captured, nanoseconds since 1970.
    pub captured_ns: i64,
    /// What happened.
    pub change: LoggedChange,
}

/// What happened in a [`Logged`] change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoggedChange {
    /// A piece got this image.
    Image {
        /// The piece's identity.
        id: u64,
        /// Its image.
        image: Image,
    },
    /// Records with these identities were deleted. `u64::MAX` as end means "all that follow".
    Cleared(Range<u64>),
    /// The file got its path ([`FileChanges::renamed_from`] says which it had): nothing comes before it. The rows that go
    /// and come with it have this position.
    Renamed,
}

/// Size and attributes of a file, for restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Size in bytes.
    pub size: u64,
    /// What kind of file, when known.
    pub kind: Option<FileKind>,
    /// Permission bits, when known.
    pub mode: Option<u32>,
    /// Owner, when known.
    pub uid: Option<u32>,
    /// Group, when known.
    pub gid: Option<u32>,
    /// Last modification, nanoseconds since 1970, when known.
    pub modified_ns: Option<i64>,
}

/// What happened to the file itself in this batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FileFate {
    /// It is there (a table is made for it when there is none yet).
    #[default]
    Present,
    /// It was removed: its rows, residue and catalogue entry go. The rest of the changes to it
    /// (`cleared`, `images`, `attributes`) mean nothing then.
    Removed,
}

/// Everything a batch does to one file. Applied in this order: `renamed_from`, `fate`, `cleared`,
/// then `images`. (Images that a later clearing made void have already been folded away.)
#[derive(Clone, Debug)]
pub struct FileChanges {
    /// The file, under its path after the batch.
    pub file: Arc<FileDescription>,
    /// The path the file's rows are stored under so far, when it was renamed in this batch. What the
    /// new path named before is replaced, even if the target knows nothing of the old path. (Table
    /// names follow the path, unless one is configured.)
    pub renamed_from: Option<Vec<u8>>,
    /// What becomes of the file.
    pub fate: FileFate,
    /// Identities whose rows and residue are deleted first. `u64::MAX` as end means "all that follow".
    pub cleared: Vec<Range<u64>>,
    /// Last image per identity.
    pub images: BTreeMap<u64, Image>,
    /// All changes in order, if the file's plan is a history; else nothing. `cleared` and `images` say what they come to.
    pub log: Vec<Logged>,
    /// Size and attributes after the batch.
    pub attributes: Attributes,
}

impl FileChanges {
    /// Whether the log tells of a record.
    #[cfg(any(feature = "odbc", feature = "sqlite"))]
    pub(crate) fn logs_records(&self) -> bool {
        self.log.iter().any(|logged| {
            matches!(
                logged.change,
                LoggedChange::Image {
                    image: Image::Record { .. },
                    ..
                }
            )
        })
    }
}

/// Whole units of work, folded; applied atomically together with `position`.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Site and consistency group whose position this is, as `site/group`.
    pub stream: String,
    /// What the target had when the batch was folded. A target that has something else meanwhile refuses: what a batch
    /// does to a file's name holds only on what it was made for, so of two writers one has to begin anew. `None`: nothing
    /// is known of what it had, and whatever is before `position` will do.
    pub after: Option<Position>,
    /// Position of the last event folded in. A sink refuses one that isn't after what it has stored.
    pub position: Position,
    /// Capture time of the last event, nanoseconds since 1970 (for lag).
    pub captured_ns: i64,
    /// The changes. A file occurs more than once only when it was removed or renamed in between; the
    /// order is the order to apply them in.
    pub files: Vec<FileChanges>,
}

impl Batch {
    /// Whether it mends rows and leaves the position where it is: one that is made for its own position. What the target
    /// refused before is brought to it so, whatever the stream does meanwhile. No batch of the stream is one, since each ends
    /// after what it was made for. Done twice it does no harm, as long as nothing else was done between.
    pub fn is_amendment(&self) -> bool {
        self.after == Some(self.position)
    }

    /// Whether a target that has `stored` of the stream may apply it; every sink asks within its transaction.
    ///
    /// # Errors
    /// [`SinkError::NotAfter`].
    pub fn check_follows(&self, stored: Option<Position>) -> Result<(), SinkError> {
        let follows =
            stored < Some(self.position) && (self.after.is_none() || self.after == stored);
        if follows || self.is_amendment() && self.after == stored {
            return Ok(());
        }
        Err(SinkError::NotAfter {
            stream: self.stream.clone(),
            after: self.after,
            offered: self.position,
            stored,
        })
    }
}

/// A file as a sink has it: the catalogue entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// The file.
    pub description: FileDescription,
    /// The table with its records, as the sink named it; all files of a tree have one.
    pub table: String,
    /// Size and attributes.
    pub attributes: Attributes,
    /// What the table looks like. Without the raw image, the target has no pieces of the file.
    pub shape: Shape,
}

/// A piece as a sink has it, in order of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPiece {
    /// Identity.
    pub id: u64,
    /// Record or residue, never [`Image::Absent`].
    pub image: Image,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amendment_is_taken_at_its_own_position_and_nowhere_else() {
        let at = |lsn| Position {
            epoch: 1,
            lsn,
            index: 0,
        };
        let batch = |after, position| Batch {
            stream: "hq/payments".to_owned(),
            after,
            position,
            captured_ns: 0,
            files: Vec::new(),
        };
        let amendment = batch(Some(at(5)), at(5));
        assert!(amendment.is_amendment());
        assert!(amendment.check_follows(Some(at(5))).is_ok());
        for stored in [None, Some(at(4)), Some(at(6))] {
            assert!(amendment.check_follows(stored).is_err(), "{stored:?}");
        }
        // A batch of the stream that comes again is refused as ever.
        let ordinary = batch(Some(at(4)), at(5));
        assert!(!ordinary.is_amendment());
        assert!(ordinary.check_follows(Some(at(4))).is_ok());
        assert!(ordinary.check_follows(Some(at(5))).is_err());
        assert!(batch(None, at(5)).check_follows(Some(at(5))).is_err());
    }
}
