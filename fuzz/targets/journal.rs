//! Any files are a journal or an error: opening one that is refused changes nothing, one that is opened gives its entries again
//! and goes on.
//!
//! An input is files, one behind the other: what it is (a segment, a cursor, the mark of a clean close), where it begins or points,
//! how long it is, its bytes. Unless a bit says otherwise, what no mutation would get past is put right: magic, version, lsn and
//! checksums.
#![no_main]

use counterfoil_fuzz::Input;
use counterfoil_journal::{Error, Journal, JournalReader, Options, Storage, Verify};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// A directory in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    fn with<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut Vec<u8>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut files = self.0.lock().expect("nobody panicked");
        work(files.get_mut(name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.lock().expect("nobody panicked").clone()
    }
}

impl Storage for Memory {
    fn create(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock().expect("nobody panicked");
        files.insert(name.to_owned(), Vec::new());
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(name, |file| {
            file.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.with(name, |_| Ok(()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(name, |file| {
            let from = file
                .len()
                .min(usize::try_from(offset).unwrap_or(usize::MAX));
            let len = buffer.len().min(file.len() - from);
            buffer[..len].copy_from_slice(&file[from..from + len]);
            Ok(len)
        })
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.with(name, |file| Ok(file.len() as u64))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.with(name, |file| {
            assert!(len <= file.len() as u64, "nothing is made longer");
            file.truncate(len as usize);
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.content().into_keys().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock().expect("nobody panicked");
        files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().expect("nobody panicked");
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }
}

const SEGMENT_HEADER: usize = 64;
const FRAME_HEADER: usize = 24;

/// A segment's bytes, with what no mutation would get past put right, as `docs/journal-format.md` has it.
fn mend_segment(bytes: &mut Vec<u8>, first_lsn: u64, before: Option<(u64, u64)>) {
    if bytes.len() < SEGMENT_HEADER {
        bytes.resize(SEGMENT_HEADER, 0);
    }
    bytes[..8].copy_from_slice(b"cfjournl");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&(SEGMENT_HEADER as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&first_lsn.to_le_bytes());
    let (previous, len) = before.unwrap_or_default();
    bytes[32..40].copy_from_slice(&previous.to_le_bytes());
    bytes[40..48].copy_from_slice(&len.to_le_bytes());
    let seed = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&seed.to_le_bytes());
    let mut at = SEGMENT_HEADER;
    while let Some(rest) = bytes
        .get_mut(at..)
        .filter(|rest| rest.len() >= FRAME_HEADER)
    {
        let len = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
        let Some(frame) = rest.get_mut(..FRAME_HEADER + len as usize) else {
            return;
        };
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&frame[4..]);
        let crc = hasher.finalize();
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        at += frame.len();
    }
}

/// A cursor's bytes, likewise.
fn mend_mark(bytes: &mut Vec<u8>, name: &str) {
    bytes.resize(36, 0);
    bytes[..8].copy_from_slice(b"cfjmark\n");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..32]);
    hasher.update(name.as_bytes());
    let crc = hasher.finalize();
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
}

fn files(mut input: Input<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut before = None;
    while !input.0.is_empty() && files.len() < 8 {
        let (what, number) = (input.byte(), input.byte());
        let len = input.two();
        let mut bytes = input.take(len.into()).to_vec();
        let is_mended = what & 0x80 == 0;
        let name = match what % 4 {
            0 | 1 => {
                let number = u64::from(number);
                // Where numbers end, too.
                let lsn = if what & 0x40 == 0 {
                    number
                } else {
                    u64::MAX - number
                };
                if is_mended {
                    mend_segment(&mut bytes, lsn, before);
                }
                before = Some((lsn, bytes.len() as u64));
                format!("{lsn:016x}.journal")
            }
            2 => format!("{}.cursor", ["publisher", "x"][usize::from(number % 2)]),
            _ if number == 0 => "left.tmp".to_owned(),
            _ => "closed.mark".to_owned(),
        };
        if what % 4 >= 2 && is_mended {
            mend_mark(&mut bytes, &name);
        }
        files.insert(name, bytes);
    }
    files
}

/// Reads from an entry to the end, and gives what was read.
fn read(reader: &mut JournalReader) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        all.push((entry.lsn, entry.payload.to_vec()));
    }
    Ok(all)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let verify = input.one_of(&[Verify::Tail, Verify::All]);
    let from = u64::from(input.byte());
    let storage = Arc::new(Memory(Mutex::new(files(input))));
    if let Ok(mut reader) = JournalReader::open(storage.clone(), from) {
        let _ = read(&mut reader);
    }
    let was = storage.content();
    let options = Options {
        verify,
        ..Options::default()
    };
    let (mut journal, recovery) = match Journal::open(storage.clone(), options.clone()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(storage.content(), was, "what is refused is left as it was");
            return;
        }
    };
    let (first, next) = (journal.first_lsn(), journal.next_lsn());
    assert_eq!((recovery.first_lsn, recovery.next_lsn), (first, next));
    let mut reader = journal
        .reader(first)
        .expect("the first entry isn't released");
    let entries = match read(&mut reader) {
        Ok(entries) => entries,
        // Opening reads the last segment only, unless it is to read all.
        Err(error) if verify == Verify::Tail => {
            assert!(!error.to_string().is_empty());
            return;
        }
        Err(error) => panic!("a journal that was read whole can't be read: {error}"),
    };
    let numbers: Vec<u64> = entries.iter().map(|(lsn, _)| *lsn).collect();
    assert_eq!(numbers, (first..next).collect::<Vec<u64>>());
    let Some(epoch) = recovery.last_epoch.checked_add(1) else {
        return;
    };
    if journal.begin_epoch(epoch).is_err() {
        return;
    }
    if journal.append([b"one more"]).is_err() {
        return;
    }
    journal.close().expect("a disk in memory doesn't fail");
    let (journal, recovery) =
        Journal::open(storage.clone(), options).expect("what was closed is opened");
    assert!(recovery.clean && recovery.torn_tail.is_none());
    let mut reader = journal.reader(first).expect("nothing was released");
    let mut now = read(&mut reader).expect("all of it was readable");
    assert_eq!(now.pop(), Some((next, b"one more".to_vec())));
    assert_eq!(now, entries);
});
