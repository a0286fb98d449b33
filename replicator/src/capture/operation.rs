//! What a program did to a file, as the journal keeps it.
//!
//! Each operation stands on its own: it names its file by path and its process by number, so the journal can be read
//! from any lsn on. Layout of a payload (all numbers little-endian):
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version of this layout: 1 |
//! | 1 | action |
//! | 2 | group number |
//! | 4 | process id |
//! | 8 | process number (0: the replicator itself) |
//! | 4 | lane number |
//! | 8 | number of the frame in its lane (0: none) |
//! | 8 | wall clock at the end of the call, nanoseconds since 1970 |
//! | 1 + n | length and bytes of the program's name |
//! | 2 + n | length and bytes of the path |
//! | … | what the action needs, see [`Action`] |

use std::fmt;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 36;
/// What stands for [`Action::Begun`] without `resumed`.
const NOT_RESUMED: u32 = u32::MAX;

/// An operation, borrowed from a journal entry or a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// Number of the consistency group.
    pub group: u16,
    /// Who did it.
    pub origin: Origin<'a>,
    /// Wall clock at the end of the call, nanoseconds since 1970.
    pub at_ns: i64,
    /// The file; empty for actions that concern none.
    pub path: &'a [u8],
    /// What was done.
    pub action: Action<'a>,
}

/// Who did it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Number only that process has; 0 for the replicator itself.
    pub process: u64,
    /// Process id.
    pub pid: u32,
    /// Number of the lane in its process.
    pub lane: u32,
    /// Number of the frame in its lane, 0 for none.
    pub frame: u64,
    /// Name of the program.
    pub program: &'a [u8],
}

/// What a file is, beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What kind of file.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification, nanoseconds since 1970; 0 where it isn't mirrored, as of files that are written all the time.
    pub modified_ns: i64,
}

/// A range of a file, read as part of a round that goes through all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Their checksum (XXH3, 128 bits); `None`: they were changed while they were read.
    pub sum: Option<u128>,
    /// The file ended right behind it.
    pub at_end: bool,
    /// Which round it is of.
    pub round: u64,
    /// How many ranges of the file came before it in the round.
    pub number: u32,
}

/// What kind of file something is; others aren't mirrored.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    #[default]
    Regular = 0,
    /// A directory; only of trees.
    Directory = 1,
    /// A symbolic link, whose content is what it leads to; only of trees.
    Link = 2,
}

/// What was done. The first ten are what programs do, the rest is what the replicator found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Opened for writing; emptied if `truncated`.
    Opened {
        /// By `O_TRUNC`.
        truncated: bool,
        /// Size right after, in bytes.
        size: u64,
    },
    /// Wrote these bytes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// Set the size.
    Truncate {
        /// New size in bytes.
        size: u64,
    },
    /// Gave the file a new path.
    Renamed {
        /// The new path.
        to: &'a [u8],
    },
    /// Removed the file.
    Removed,
    /// Made the file durable (`fsync`, `fdatasync`).
    Synced,
    /// Took a lock on a range.
    Locked {
        /// First byte.
        offset: u64,
        /// Length, `u64::MAX` for all that follow.
        extent: u64,
    },
    /// Gave up locks on a range.
    Unlocked {
        /// First byte.
        offset: u64,
        /// Length, `u64::MAX` for all that follow.
        extent: u64,
    },
    /// Closed it.
    Closed {
        /// What the process holds of locks on the file, it holds still.
        keeps_locks: bool,
    },
    /// The process is gone; nothing more comes from it.
    Ended,
    /// A range was read and this was in it.
    Found {
        /// Where.
        offset: u64,
        /// What.
        bytes: &'a [u8],
        /// The file ended right behind it.
        at_end: bool,
        /// It is read because nothing is known of the file yet, not to find differences.
        load: bool,
    },
    /// A range was read and has this checksum (XXH3, 128 bits).
    Summed {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// The checksum.
        sum: u128,
        /// The file ended right behind it.
        at_end: bool,
    },
    /// A range was read as part of a round of verification.
    Verified(Verified),
    /// Sinks are to be told again what is there now, since one of them was found to differ.
    Restated {
        /// First identity.
        from: u64,
        /// First identity that isn't concerned; `u64::MAX`: all that follow are, and what is behind the end too.
        to: u64,
    },
    /// What kind of file it is, its permissions, owner and time.
    Attributes(Attributes),
    /// The program began a unit of work.
    Begun {
        /// Marks before it were lost: so many units are open after it.
        resumed: Option<u32>,
    },
    /// The program completed its unit of work.
    Committed {
        /// As of [`Action::Begun`].
        resumed: Option<u32>,
    },
    /// The program gave its unit of work up.
    Aborted {
        /// As of [`Action::Begun`].
        resumed: Option<u32>,
    },
    /// What was found of the file of a tree since it was last complete doesn't belong together.
    Abandoned,
    /// Nothing happened in the group for a moment: what waits for its second half needn't wait longer.
    Settled,
}

/// A journal entry that isn't an operation this version knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl<'a> Operation<'a> {
    /// Appends everything but trailing bulk bytes to `out` and returns those, so that they need be copied only once.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let mut head = [0; FIXED_BYTES];
        head[0] = VERSION;
        head[1] = self.action.number();
        head[2..4].copy_from_slice(&self.group.to_le_bytes());
        head[4..8].copy_from_slice(&self.origin.pid.to_le_bytes());
        head[8..16].copy_from_slice(&self.origin.process.to_le_bytes());
        head[16..20].copy_from_slice(&self.origin.lane.to_le_bytes());
        head[20..28].copy_from_slice(&self.origin.frame.to_le_bytes());
        head[28..36].copy_from_slice(&self.at_ns.to_le_bytes());
        out.extend(head);
        let program = &self.origin.program[..self.origin.program.len().min(255)];
        out.push(program.len() as u8);
        out.extend(program);
        let path = &self.path[..self.path.len().min(usize::from(u16::MAX))];
        out.extend((path.len() as u16).to_le_bytes());
        out.extend(path);
        let mut put = |value: u64| out.extend(value.to_le_bytes());
        match self.action {
            Action::Opened { truncated, size } => {
                put(size);
                out.push(u8::from(truncated));
            }
            Action::Write { offset, bytes } => {
                put(offset);
                return bytes;
            }
            Action::Truncate { size } => put(size),
            Action::Renamed { to } => return to,
            Action::Locked { offset, extent } | Action::Unlocked { offset, extent } => {
                put(offset);
                put(extent);
            }
            Action::Found {
                offset,
                bytes,
                at_end,
                load,
            } => {
                put(offset);
                out.push(u8::from(at_end) | u8::from(load) << 1);
                return bytes;
            }
            Action::Summed {
                offset,
                len,
                sum,
                at_end,
            } => {
                put(offset);
                put(len);
                out.extend(sum.to_le_bytes());
                out.push(u8::from(at_end));
            }
            Action::Restated { from, to } => {
                put(from);
                put(to);
            }
            Action::Verified(verified) => {
                put(verified.offset);
                put(verified.len);
                put(verified.round);
                out.extend(verified.number.to_le_bytes());
                out.extend(verified.sum.unwrap_or_default().to_le_bytes());
                out.push(u8::from(verified.at_end) | u8::from(verified.sum.is_some()) << 1);
            }
            Action::Attributes(attributes) => {
                put(attributes.modified_ns as u64);
                for value in [attributes.mode, attributes.uid, attributes.gid] {
                    out.extend(value.to_le_bytes());
                }
                out.push(attributes.kind as u8);
            }
            Action::Removed
            | Action::Synced
            | Action::Closed { .. }
            | Action::Ended
            | Action::Abandoned
            | Action::Settled => {}
            Action::Begun { resumed }
            | Action::Committed { resumed }
            | Action::Aborted { resumed } => {
                out.extend(resumed.unwrap_or(NOT_RESUMED).to_le_bytes());
            }
        }
        &[]
    }

    /// The operation in a journal entry's payload.
    pub fn decode(payload: &'a [u8]) -> Result<Operation<'a>, Malformed> {
        let mut fields = Fields(payload);
        if fields.byte()? != VERSION {
            return Err(Malformed("it has a layout this version doesn't know"));
        }
        let action = fields.byte()?;
        let group = fields.u16()?;
        let pid = fields.u32()?;
        let process = fields.u64()?;
        let lane = fields.u32()?;
        let frame = fields.u64()?;
        let at_ns = fields.u64()? as i64;
        let program_len = usize::from(fields.byte()?);
        let program = fields.take(program_len)?;
        let path_len = usize::from(fields.u16()?);
        let path = fields.take(path_len)?;
        let action = match action {
            1 => {
                let size = fields.u64()?;
                Action::Opened {
                    truncated: fields.byte()? != 0,
                    size,
                }
            }
            2 => Action::Write {
                offset: fields.u64()?,
                bytes: fields.rest(),
            },
            3 => Action::Truncate {
                size: fields.u64()?,
            },
            4 => Action::Renamed { to: fields.rest() },
            5 => Action::Removed,
            6 => Action::Synced,
            7 => Action::Locked {
                offset: fields.u64()?,
                extent: fields.u64()?,
            },
            8 => Action::Unlocked {
                offset: fields.u64()?,
                extent: fields.u64()?,
            },
            9 | 19 => Action::Closed {
                keeps_locks: action == 19,
            },
            10 => Action::Ended,
            11 => {
                let offset = fields.u64()?;
                let flags = fields.byte()?;
                Action::Found {
                    offset,
                    bytes: fields.rest(),
                    at_end: flags & 1 != 0,
                    load: flags & 2 != 0,
                }
            }
            12 => {
                let (offset, len) = (fields.u64()?, fields.u64()?);
                let sum = u128::from(fields.u64()?) | u128::from(fields.u64()?) << 64;
                Action::Summed {
                    offset,
                    len,
                    sum,
                    at_end: fields.byte()? != 0,
                }
            }
            14 => Action::Settled,
            15..=17 => {
                let resumed = Some(fields.u32()?).filter(|&open| open != NOT_RESUMED);
                match action {
                    15 => Action::Begun { resumed },
                    16 => Action::Committed { resumed },
                    _ => Action::Aborted { resumed },
                }
            }
            18 => Action::Attributes(Attributes {
                modified_ns: fields.u64()? as i64,
                mode: fields.u32()?,
                uid: fields.u32()?,
                gid: fields.u32()?,
                kind: match fields.byte()? {
                    0 => FileKind::Regular,
                    1 => FileKind::Directory,
                    2 => FileKind::Link,
                    _ => return Err(Malformed("its kind of file is unknown")),
                },
            }),
            20 => Action::Abandoned,
            22 => Action::Restated {
                from: fields.u64()?,
                to: fields.u64()?,
            },
            21 => {
                let (offset, len, round) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let number = fields.u32()?;
                let sum = u128::from(fields.u64()?) | u128::from(fields.u64()?) << 64;
                let flags = fields.byte()?;
                Action::Verified(Verified {
                    offset,
                    len,
                    sum: (flags & 2 != 0).then_some(sum),
                    at_end: flags & 1 != 0,
                    round,
                    number,
                })
            }
            _ => return Err(Malformed("its action is unknown")),
        };
        let bytes = match action {
            Action::Write { offset, bytes } | Action::Found { offset, bytes, .. } => {
                Some((offset, bytes))
            }
            _ => None,
        };
        if bytes.is_some_and(|(offset, bytes)| {
            offset
                .checked_add(bytes.len() as u64)
                .is_none_or(|end| end > i64::MAX as u64)
        }) {
            return Err(Malformed("it ends beyond what a file can hold"));
        }
        Ok(Operation {
            group,
            origin: Origin {
                process,
                pid,
                lane,
                frame,
                program,
            },
            at_ns,
            path,
            action,
        })
    }
}

impl Action<'_> {
    fn number(&self) -> u8 {
        match self {
            Action::Opened { .. } => 1,
            Action::Write { .. } => 2,
            Action::Truncate { .. } => 3,
            Action::Renamed { .. } => 4,
            Action::Removed => 5,
            Action::Synced => 6,
            Action::Locked { .. } => 7,
            Action::Unlocked { .. } => 8,
            Action::Closed { keeps_locks: false } => 9,
            Action::Closed { keeps_locks: true } => 19,
            Action::Ended => 10,
            Action::Found { .. } => 11,
            Action::Summed { .. } => 12,
            // 13 was a shorter form of attributes.
            Action::Settled => 14,
            Action::Begun { .. } => 15,
            Action::Committed { .. } => 16,
            Action::Aborted { .. } => 17,
            Action::Attributes(_) => 18,
            Action::Abandoned => 20,
            Action::Verified(_) => 21,
            Action::Restated { .. } => 22,
        }
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_action(bytes: &[u8], a: u64, b: u64) -> Vec<Action<'_>> {
        let a = a >> 2;
        vec![
            Action::Opened {
                truncated: b & 1 == 1,
                size: a,
            },
            Action::Write { offset: a, bytes },
            Action::Truncate { size: a },
            Action::Renamed { to: bytes },
            Action::Removed,
            Action::Synced,
            Action::Locked {
                offset: a,
                extent: b,
            },
            Action::Unlocked {
                offset: a,
                extent: b,
            },
            Action::Closed {
                keeps_locks: b & 1 == 1,
            },
            Action::Ended,
            Action::Found {
                offset: a,
                bytes,
                at_end: b & 1 == 1,
                load: b & 2 == 2,
            },
            Action::Summed {
                offset: a,
                len: b,
                sum: u128::from(a) << 64 | u128::from(b),
                at_end: b & 1 == 1,
            },
            Action::Restated { from: a, to: b },
            Action::Verified(Verified {
                offset: a,
                len: b,
                sum: (b & 2 == 2).then_some(u128::from(a) << 64 | u128::from(b)),
                at_end: b & 1 == 1,
                round: a ^ b,
                number: b as u32,
            }),
            Action::Attributes(Attributes {
                kind: FileKind::Link,
                mode: a as u32,
                uid: b as u32,
                gid: 3,
                modified_ns: b as i64,
            }),
            Action::Begun { resumed: None },
            Action::Committed {
                resumed: Some(b as u32 >> 1),
            },
            Action::Aborted { resumed: None },
            Action::Abandoned,
            Action::Settled,
        ]
    }

    proptest! {
        #[test]
        fn operations_survive_the_journal(
            path in proptest::collection::vec(any::<u8>(), 0..300),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            program in proptest::collection::vec(any::<u8>(), 0..16),
            (process, lane, frame) in any::<(u64, u32, u64)>(),
            (a, b) in any::<(u64, u64)>(),
        ) {
            for action in every_action(&bytes, a, b) {
                let origin = Origin { process, pid: lane ^ 1, lane, frame, program: &program };
                let operation = Operation { group: lane as u16, origin, at_ns: a as i64, path: &path, action };
                let mut payload = Vec::new();
                let bulk = operation.encode_head(&mut payload);
                payload.extend(bulk);
                prop_assert_eq!(Operation::decode(&payload), Ok(operation));
                for len in 0..payload.len() - bulk.len() {
                    prop_assert!(Operation::decode(&payload[..len]).is_err());
                }
            }
        }

        #[test]
        fn anything_else_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Operation::decode(&bytes);
        }
    }
}
