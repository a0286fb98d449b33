//! The journal as a whole, on disks that break and one that does not.

mod basics;

use std::sync::Arc;

use crate::faulty::FaultyStorage;
use crate::{Journal, JournalReader, Lsn, Options, Recovery, Verify};

/// Small segments, and everything is verified.
fn options() -> Options {
    Options {
        segment_bytes: 200,
        verify: Verify::All,
    }
}

fn open(storage: &Arc<FaultyStorage>) -> (Journal, Recovery) {
    Journal::open(storage.clone(), options()).unwrap()
}

/// All entries from where the reader stands.
fn entries(reader: &mut JournalReader) -> Vec<(Lsn, u64, Vec<u8>)> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        entries.push((entry.lsn, entry.epoch, entry.payload.to_vec()));
    }
    entries
}
