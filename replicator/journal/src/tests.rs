//! The journal as a whole, on disks that break and one that does not.

mod basics;
mod crash_points;
mod faults;
mod model;
mod readers;

use std::sync::Arc;

use crate::faulty::FaultyStorage;
use crate::{Journal, JournalReader, Lsn, Options, Recovery, Result, Verify};

/// Small segments, and everything is verified.
fn options() -> Options {
    Options {
        segment_bytes: 200,
        verify: Verify::All,
    }
}

/// One segment, and everything is verified.
fn long_segments() -> Options {
    Options {
        verify: Verify::All,
        ..Options::default()
    }
}

fn open(storage: &Arc<FaultyStorage>) -> (Journal, Recovery) {
    open_with(storage, options()).unwrap()
}

fn open_with(storage: &Arc<FaultyStorage>, options: Options) -> Result<(Journal, Recovery)> {
    Journal::open(storage.clone(), options)
}

/// All entries from where the reader stands.
fn entries(reader: &mut JournalReader) -> Vec<(Lsn, u64, Vec<u8>)> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        entries.push((entry.lsn, entry.epoch, entry.payload.to_vec()));
    }
    entries
}

/// The payloads of all entries there are.
fn payloads(journal: &Journal) -> Vec<Vec<u8>> {
    let mut reader = journal.reader(journal.first_lsn()).unwrap();
    entries(&mut reader)
        .into_iter()
        .map(|(_, _, payload)| payload)
        .collect()
}
