//! The contract between the applier and a target.

use crate::{Batch, StoredFile, StoredPiece};
use counterfoil_proto::Position;
use std::ops::Range;

/// What went wrong in a sink, and what that means for the applier.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// May work later, unchanged: the applier retries with backoff.
    #[error("{doing}: {cause}; it is tried again")]
    Transient {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        cause: String,
    },
    /// Won't work until somebody changes something.
    #[error("{doing}: {cause}; {next}")]
    Permanent {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        cause: String,
        /// What to do next.
        next: String,
    },
    /// The target takes the way but not the goods: a value that a column doesn't take, a constraint. Without the record (or
    /// file) that it is about, the rest of the batch may go.
    #[error("{doing}: {cause}")]
    Refused {
        /// What was being done, to what.
        doing: String,
        /// Why it is refused, in the target's words.
        cause: String,
    },
    /// The batch isn't after the stored position, or not made for it. The applier skips what is
    /// already applied and never sends such a batch, so this is a second writer or a mix-up of targets.
    #[error(
        "stream {stream}: a batch from {} up to {offered} was offered, but {} is applied already; \
         is another replicator writing to this target?",
        shown(*after),
        shown(*stored)
    )]
    NotAfter {
        /// The stream.
        stream: String,
        /// What the batch was made for, if anything was known of it.
        after: Option<Position>,
        /// The batch's position.
        offered: Position,
        /// What the target has.
        stored: Option<Position>,
    },
}

/// How far a target is, for people.
pub fn shown(position: Option<Position>) -> String {
    position.map_or_else(|| "nothing".to_owned(), |position| position.to_string())
}

/// A target. One thread uses it at a time; every call blocks until it is done.
pub trait Sink: Send {
    /// Applies a batch: rows and position become durable together, or neither. After an error
    /// nothing of the batch is visible, unless the error says otherwise; asking
    /// [`Sink::position`] always tells.
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Does what [`Sink::apply`] does, and takes all of it back: whether the target would take the batch. Its errors are
    /// those of `apply`. It is how a record that is refused is found among thousands; a sink that never says
    /// [`SinkError::Refused`] has nothing to rehearse.
    fn rehearse(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let _ = batch;
        Ok(())
    }

    /// Opens one consistent view of everything in the target, as of some moment between two batches.
    ///
    /// Positions, files and pieces read from it belong together, while another process goes on
    /// applying. Restore and verify read through one snapshot; the calls below are for single
    /// questions. A target keeps old versions of rows while it is open: don't hold it for longer
    /// than the reading takes.
    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError>;

    /// Lets go of the target; errors that closing can still show are reported.
    fn close(self: Box<Self>) -> Result<(), SinkError>;

    /// [`Snapshot::position`], from a snapshot of its own.
    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        self.snapshot()?.position(stream)
    }

    /// [`Snapshot::files`], from a snapshot of its own.
    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        self.snapshot()?.files(stream)
    }

    /// [`Snapshot::pieces`], from a snapshot of its own.
    fn pieces(
        &mut self,
        stream: &str,
        path: &[u8],
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        self.snapshot()?.pieces(stream, path, each)
    }
}

/// One consistent view of a target: see [`Sink::snapshot`].
pub trait Snapshot {
    /// The streams that have been applied to this target, in order of name.
    fn streams(&mut self) -> Result<Vec<String>, SinkError>;

    /// How far this stream has been applied, or `None` when nothing of it ever was.
    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError>;

    /// The files of a stream, in order of path (its bytes).
    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError>;

    /// The file with this path, if the target has it.
    fn file(&mut self, stream: &str, path: &[u8]) -> Result<Option<StoredFile>, SinkError> {
        let files = self.files(stream)?;
        Ok(files.into_iter().find(|file| file.description.path == path))
    }

    /// Calls `each` for every record and every residue of a file whose identity is in `ids` (`u64::MAX` as end: all that
    /// follow), in order of identity. Memory stays bounded. `each` ends the walk early by returning `false`. A file that
    /// the target doesn't have has no pieces, which is no error; one whose table keeps no raw images has none either.
    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError>;

    /// [`Snapshot::pieces_in`], of all of the file.
    fn pieces(
        &mut self,
        stream: &str,
        path: &[u8],
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        self.pieces_in(stream, path, 0..u64::MAX, each)
    }
}

impl SinkError {
    /// Adds where it happened ("in SQLite database /x.db") to what was being done.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        match &mut self {
            SinkError::Transient { doing, .. }
            | SinkError::Permanent { doing, .. }
            | SinkError::Refused { doing, .. } => {
                doing.push(' ');
                doing.push_str(place);
            }
            SinkError::NotAfter { .. } => {}
        }
        self
    }

    /// Whether the same call may work later, unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self, SinkError::Transient { .. })
    }
}
