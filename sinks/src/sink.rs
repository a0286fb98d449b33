//! The contract between the applier and a target.

use crate::{Batch, StoredFile, StoredPiece};
use counterfoil_proto::Position;

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
    /// The batch isn't after the stored position. The applier skips what is already applied and
    /// never sends such a batch, so this is a second writer or a mix-up of targets.
    #[error(
        "stream {stream}: a batch up to {offered} was offered, but {stored} is applied already; \
         is another replicator writing to this target?"
    )]
    NotAfter {
        /// The stream.
        stream: String,
        /// The batch's position.
        offered: Position,
        /// What the target has.
        stored: Position,
    },
}

/// A target. One thread uses it at a time; every call blocks until it is done.
pub trait Sink: Send {
    /// How far this stream has been applied, or `None` when nothing of it ever was.
    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError>;

    /// Applies a batch: rows and position become durable together, or neither. After an error
    /// nothing of the batch is visible, unless the error says otherwise; asking
    /// [`Sink::position`] always tells.
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// The files of a stream, in order of path.
    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError>;

    /// Calls `each` for every record and every residue of a file in order of identity, from one
    /// consistent snapshot. Memory stays bounded. `each` ends the walk early by returning `false`.
    fn pieces(
        &mut self,
        stream: &str,
        path: &[u8],
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError>;

    /// Lets go of the target; errors that closing can still show are reported.
    fn close(self: Box<Self>) -> Result<(), SinkError>;
}
