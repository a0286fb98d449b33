//! Where an event stands in its stream.

use std::fmt;

/// Position of an event: strictly growing within a stream, compared field by field.
///
/// `epoch` grows at every unclean start and every change of role, so that a lost journal tail can
/// never reuse a position; `lsn` is the journal's dense sequence number of the operation that
/// completed the unit; `index` numbers the events of one lsn from 0. Batches are cut between lsns
/// only, so a stored position always has the `index` of an lsn's last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Grows at every unclean start and every change of role; the first is 1.
    pub epoch: u64,
    /// Journal sequence number.
    pub lsn: u64,
    /// Ordinal of the event within its lsn.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.lsn)?;
        if self.index > 0 {
            write!(f, "+{}", self.index)?;
        }
        Ok(())
    }
}

impl From<Position> for crate::v1::Position {
    fn from(Position { epoch, lsn, index }: Position) -> Self {
        crate::v1::Position { epoch, lsn, index }
    }
}

impl From<crate::v1::Position> for Position {
    fn from(crate::v1::Position { epoch, lsn, index }: crate::v1::Position) -> Self {
        Position { epoch, lsn, index }
    }
}
