//! What waits for a sink that has fallen behind others, on disk.
//!
//! A sink whose target is away or slow must not hold up the others, and what it misses meanwhile must not pile up in
//! memory. A spool is only a longer queue: it is void when the process ends, for the journal is kept until every sink has
//! everything, and a start makes the same events of it again. So nothing is ever synchronised to disk, and the file has no
//! name.
//!
//! The file is a row of parcels: length of the rest as u32, CRC-32 of the rest as u32, then the end as u64, the number of
//! begins as u32 with stream u16, epoch u64, lsn u64 and index u32 of each, then events until the end: stream u16, length
//! u32 and the event's wire form. All numbers are little-endian. What has been read is given back to the file system.

use super::wire::{Content, Decoder, Sender};
use crate::event::Parcel;
use counterfoil_proto::{Position, v1};
use prost::Message as _;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes that were read before they are given back.
const RETURN_BYTES: u64 = 16 << 20;
const HEAD: usize = 8;

/// The file, and where in it the parcels are that wait.
#[derive(Debug)]
pub struct Spool {
    file: File,
    /// What may wait, in bytes.
    bytes_max: u64,
    read: u64,
    /// Up to here the file's bytes were given back.
    returned: u64,
    written: u64,
    senders: HashMap<u16, Sender>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Spool {
    /// An empty spool, whose file is in a directory and has no name there.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn new(directory: &Path, bytes_max: u64) -> Result<Spool> {
        Ok(Spool {
            file: tempfile::tempfile_in(directory)?,
            bytes_max,
            read: 0,
            returned: 0,
            written: 0,
            senders: HashMap::new(),
            decoder: Decoder::default(),
            buffer: Vec::new(),
        })
    }

    /// Whether no parcel waits.
    pub fn is_empty(&self) -> bool {
        self.read == self.written
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.written - self.read
    }

    /// Puts a parcel behind the others. `false`: there is no room, and nothing has changed.
    ///
    /// # Errors
    /// The disk refuses; nothing has changed.
    pub fn push(&mut self, parcel: &Parcel) -> Result<bool> {
        let Spool {
            buffer,
            senders,
            decoder,
            ..
        } = self;
        buffer.clear();
        buffer.resize(HEAD, 0);
        buffer.extend(parcel.end.to_le_bytes());
        buffer.extend(length(parcel.begins.len())?.to_le_bytes());
        for (stream, position) in &parcel.begins {
            buffer.extend(stream.to_le_bytes());
            buffer.extend(position.epoch.to_le_bytes());
            buffer.extend(position.lsn.to_le_bytes());
            buffer.extend(position.index.to_le_bytes());
        }
        for event in &parcel.events {
            let sender = senders.entry(event.group).or_insert_with(|| Sender {
                site: String::new(),
                group: event.file.group.clone(),
                host: String::new(),
                session: 0,
                // Columns are made of the bytes where they are needed.
                typed: None,
            });
            if let Some(schema) = &event.file.schema {
                decoder.learn(schema);
            }
            let message = sender.event(event, None, v1::UnitKind::Unspecified);
            buffer.extend(event.group.to_le_bytes());
            buffer.extend(length(message.encoded_len())?.to_le_bytes());
            message.encode(buffer).map_err(Error::other)?;
        }
        let body = length(buffer.len() - HEAD)?;
        let sum = crc32fast::hash(&buffer[HEAD..]);
        buffer[..4].copy_from_slice(&body.to_le_bytes());
        buffer[4..HEAD].copy_from_slice(&sum.to_le_bytes());
        let end = self.written + self.buffer.len() as u64;
        if end - self.read > self.bytes_max {
            return Ok(false);
        }
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written = end;
        Ok(true)
    }

    /// Takes the parcel that has waited longest.
    ///
    /// # Errors
    /// The disk gives something else than was written to it. What waits is lost then, and has to come from the journal.
    pub fn pop(&mut self) -> Result<Option<Parcel>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, self.read)?;
        let mut head = Bytes(&head);
        let (len, sum) = (u64::from(head.u32()?), head.u32()?);
        let end = self.read + HEAD as u64 + len;
        if end > self.written {
            return Err(damaged());
        }
        let mut body = std::mem::take(&mut self.buffer);
        body.clear();
        body.resize(usize::try_from(len).map_err(|_| damaged())?, 0);
        self.file
            .read_exact_at(&mut body, self.read + HEAD as u64)?;
        if crc32fast::hash(&body) != sum {
            return Err(damaged());
        }
        let parcel = self.parcel(&body)?;
        self.buffer = body;
        self.read = end;
        self.give_back();
        Ok(Some(parcel))
    }

    fn parcel(&mut self, body: &[u8]) -> Result<Parcel> {
        let mut bytes = Bytes(body);
        let mut parcel = Parcel {
            end: bytes.u64()?,
            ..Parcel::default()
        };
        for _ in 0..bytes.u32()? {
            let stream = bytes.u16()?;
            let position = Position {
                epoch: bytes.u64()?,
                lsn: bytes.u64()?,
                index: bytes.u32()?,
            };
            parcel.begins.push((stream, position));
        }
        while !bytes.0.is_empty() {
            let (stream, len) = (bytes.u16()?, bytes.u32()?);
            let message = bytes.take(len as usize)?;
            let received = self
                .decoder
                .decode(message, stream)
                .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
            match received.content {
                Content::Event(event) => parcel.events.push(event),
                Content::Session { .. } | Content::Other => return Err(damaged()),
            }
        }
        Ok(parcel)
    }

    /// Lets the file system have what was read. That it can't is no error: the bytes stay until the file is empty.
    fn give_back(&mut self) {
        if self.is_empty() {
            if self.file.set_len(0).is_ok() {
                (self.read, self.written, self.returned) = (0, 0, 0);
            }
        } else if self.read - self.returned >= RETURN_BYTES {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.file, flags, self.returned, self.read - self.returned);
            self.returned = self.read;
        }
    }
}

fn length(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| Error::other("a parcel of 4 GiB or more"))
}

fn damaged() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "the disk gives something else than was written",
    )
}

/// What is left to be read of some bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Change, Event};
    use counterfoil_records::{Layout, Organization, RecordFormat};
    use counterfoil_sinks::FileDescription;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;

    fn parcel(number: u64, events: usize, bytes: usize) -> Parcel {
        let group = (number % 3) as u16;
        let file = Arc::new(FileDescription {
            path: format!("/srv/{}\u{fc}\n", number % 7).into_bytes(),
            group: format!("group {group}"),
            format: RecordFormat::new(Organization::Stream, Layout::Newline),
            table: (number.is_multiple_of(2)).then(|| "t".to_owned()),
            tree: None,
            schema: None,
            plan: None,
        });
        let position = |index| Position {
            epoch: 2,
            lsn: number,
            index,
        };
        Parcel {
            events: (0..events)
                .map(|index| Event {
                    position: position(index as u32),
                    group,
                    file: Arc::clone(&file),
                    size: number,
                    change: Change::Put {
                        id: index as u64,
                        data: vec![number as u8; bytes],
                        rest: Vec::new(),
                    },
                    captured_ns: 5,
                    pid: 7,
                    snapshot: false,
                    before: None,
                })
                .collect(),
            asks: Vec::new(),
            begins: (0..group).map(|stream| (stream, position(9))).collect(),
            end: number + 1,
        }
    }

    fn assert_same(found: &Parcel, expected: &Parcel) {
        assert_eq!(found.events, expected.events);
        assert_eq!(found.begins, expected.begins);
        assert_eq!(found.end, expected.end);
    }

    proptest! {
        /// What comes out is what was put in, in order; what has no room isn't in.
        #[test]
        fn a_spool_is_a_queue(
            steps in proptest::collection::vec((any::<bool>(), 0..4usize, 0..2000usize), 1..80),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(directory.path(), 20_000).unwrap();
            let mut model = VecDeque::new();
            for (number, (pushes, events, bytes)) in (1..).zip(steps) {
                if pushes {
                    let parcel = parcel(number, events, bytes);
                    if spool.push(&parcel).unwrap() {
                        model.push_back(parcel);
                    } else {
                        prop_assert!(spool.bytes() > 10_000);
                    }
                } else {
                    let popped = spool.pop().unwrap();
                    let expected: Option<Parcel> = model.pop_front();
                    prop_assert_eq!(popped.is_some(), expected.is_some());
                    if let (Some(popped), Some(expected)) = (popped, expected) {
                        assert_same(&popped, &expected);
                    }
                }
                prop_assert_eq!(spool.is_empty(), model.is_empty());
                prop_assert!(spool.bytes() <= 20_000);
            }
            while let Some(expected) = model.pop_front() {
                assert_same(&spool.pop().unwrap().unwrap(), &expected);
            }
            prop_assert!(spool.pop().unwrap().is_none());
        }
    }

    #[test]
    fn what_was_read_is_given_back() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path(), u64::MAX).unwrap();
        for number in 0..40 {
            assert!(spool.push(&parcel(number, 1, 1 << 20)).unwrap());
        }
        for number in 0..39 {
            assert_same(&spool.pop().unwrap().unwrap(), &parcel(number, 1, 1 << 20));
        }
        let held = spool.file.metadata().unwrap().blocks() * 512;
        assert!(held < 20 << 20, "{held}");
        spool.pop().unwrap().unwrap();
        assert_eq!(spool.file.metadata().unwrap().len(), 0);
        assert!(spool.push(&parcel(1, 1, 10)).unwrap());
        assert_same(&spool.pop().unwrap().unwrap(), &parcel(1, 1, 10));
    }

    #[test]
    fn a_damaged_spool_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path(), u64::MAX).unwrap();
        assert!(spool.push(&parcel(1, 2, 100)).unwrap());
        spool.file.write_all_at(b"x", 100).unwrap();
        assert_eq!(spool.pop().unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
