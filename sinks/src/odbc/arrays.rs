//! Whether a driver can be trusted with arrays of parameters, which is tried.
//!
//! There are drivers that give all rows of an array the length of its first one (SQLite's), that count
//! the last row only (PostgreSQL's), or that leave out a row the database refuses and say that all went
//! well but for a warning. So when a sink is opened for writing, two arrays are written and nothing of
//! it is committed. A driver that fails is given one row at a time.

use super::apply::put_residue;
use super::error::{Doing, Fault};
use super::session::{Kind, Session};
use crate::SinkError;

/// What a driver does with arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrays {
    /// It is given one row at a time.
    Never,
    /// All rows arrive, or an error does.
    Trusted,
    /// So it is, and it counts the rows.
    Counted,
}

/// No file has this number.
const NOBODY: i64 = -1;

/// Bytes and text of several lengths, none at all among them.
const ROWS: [(i64, &[u8], &str); 5] = [
    (1, b"second", "one"),
    (2, b"", ""),
    (3, b"a longer one than the others\0\xff", "\u{2014}"),
    (4, b"x", "somewhat longer"),
    (5, b"\0", "?"),
];

/// Tries it in a transaction that comes to nothing.
pub(super) fn try_arrays(session: &mut Session) -> Result<Arrays, SinkError> {
    session.arrays = Arrays::Trusted;
    let arrays = written_and_read(session);
    session.rollback();
    let arrays = match arrays {
        Ok(arrays) if arrays != Arrays::Never => refused(session, arrays),
        other => other,
    };
    session.rollback();
    let arrays = match arrays {
        Err(fault) if session.is_broken() => {
            return Err(fault).doing(|| "trying what the driver does with arrays".into());
        }
        Err(fault) => {
            tracing::debug!(?fault, "the driver takes no arrays");
            Arrays::Never
        }
        Ok(arrays) => arrays,
    };
    tracing::debug!(?arrays, "what the driver does with arrays");
    session.arrays = arrays;
    Ok(arrays)
}

fn written_and_read(session: &mut Session) -> Result<Arrays, Fault> {
    let count = put_residue(session, NOBODY, &ROWS)?;
    let select = session
        .sql
        .own("SELECT id, residue, reason FROM {residue} WHERE file_id = -1 ORDER BY id");
    let kinds = [Kind::Number, Kind::Bytes, Kind::Text];
    let mut found = Vec::new();
    for mut row in session.rows(&select, &[], &kinds)? {
        found.push((row.number(0), row.bytes(1), row.text(2).unwrap_or_default()));
    }
    let is_all_there = found.len() == ROWS.len()
        && ROWS.iter().zip(&found).all(|((id, bytes, reason), found)| {
            *found == (Some(*id), bytes.to_vec(), (*reason).to_owned())
        });
    Ok(match count {
        _ if !is_all_there => Arrays::Never,
        Some(count) if count == ROWS.len() => Arrays::Counted,
        _ => Arrays::Trusted,
    })
}

/// A row of an array has the identity of another one. That has to come to light.
fn refused(session: &mut Session, arrays: Arrays) -> Result<Arrays, Fault> {
    let mut rows = ROWS;
    rows[3].0 = rows[1].0;
    match put_residue(session, NOBODY, &rows) {
        Ok(Some(count)) if arrays == Arrays::Counted && count != rows.len() => Ok(Arrays::Counted),
        Ok(_) => Ok(Arrays::Never),
        Err(fault) if session.is_broken() => Err(fault),
        Err(_) => Ok(arrays),
    }
}
