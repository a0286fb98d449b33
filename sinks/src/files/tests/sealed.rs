//! The contract that all sinks keep, for a sink that holds only what files can hold.
//!
//! The suite's content is whatever its cases need: records of any length in a file of records of 100 bytes, sizes that nothing
//! adds up to, a file below a file. A file can't hold that. So each record and each residue is *sealed* into a slot of a relative
//! file, in a way that can be undone, and so are a file's description and attributes; what is read is unsealed. Names, trees,
//! links, directories, identities, order and positions are the suite's own. That the bytes are right in all formats is for
//! `bytes` to show.

use super::*;
use crate::contract::targets::Room;
use crate::contract::{Change, Faults, Harness, Taken, Target};
use crate::{Snapshot, StoredFile, StoredPiece};
use serde_json::{Value, json};
use std::any::Any;
use std::ops::Range;

const STREAM_PLAIN: &str = "hq/payments";

struct Sealed(FilesSink);

/// What a slot holds, and how many slots there are: by path, for huge records are rare.
fn dimensions(path: &[u8]) -> (u64, u64) {
    match path {
        b"/srv/log" => ((1 << 20) + 1016, (1 << 21) + 8),
        _ if path.len() > 300 => (4600, 256),
        _ => (632, 1 << 13),
    }
}

/// A path of its own for each stream; and no file where another needs a directory.
fn sealed_path(stream: &str, path: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    if stream != STREAM_PLAIN {
        sealed.push(b'/');
        sealed.extend(
            stream
                .bytes()
                .flat_map(|byte| format!("{byte:02x}").into_bytes()),
        );
    }
    sealed.extend_from_slice(path);
    if path.iter().filter(|byte| **byte == b'/').count() == 1 {
        sealed.push(b'~');
    }
    sealed
}

/// Links that lead somewhere and directories are what they are.
fn is_open(description: &FileDescription, attributes: &Attributes) -> bool {
    description.tree.is_some()
        && match attributes.kind {
            Some(FileKind::Link) => attributes.size > 0,
            kind => kind == Some(FileKind::Directory),
        }
}

fn sealed_image(path: &[u8], image: &Image) -> Image {
    let size = dimensions(path).0 as usize;
    let framed = |parts: [&[u8]; 2]| {
        let mut bytes = Vec::with_capacity(size);
        for part in parts {
            bytes.extend_from_slice(&u32::try_from(part.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    };
    match image {
        Image::Record { data, rest } => {
            let data = framed([data, rest]);
            let rest = vec![0; size.saturating_sub(data.len())];
            Image::Record { data, rest }
        }
        Image::Residue { bytes, reason } => {
            // A slot of length 0 that isn't empty: somebody deleted what was in it.
            let mut slot = vec![0; 8];
            slot.push(1);
            slot.extend(framed([bytes, reason.as_bytes()]));
            slot.resize(size.max(slot.len() - 8) + 8, 0);
            Image::Residue {
                bytes: slot,
                reason: "deleted slot".into(),
            }
        }
        Image::Absent => Image::Absent,
    }
}

fn unsealed_image(image: Image) -> Image {
    fn take<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
        let (len, rest) = bytes.split_first_chunk::<4>().expect("a length");
        let (part, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        *bytes = rest;
        part
    }
    match image {
        Image::Record { data, .. } => {
            let mut bytes = data.as_slice();
            let data = take(&mut bytes).to_vec();
            let rest = take(&mut bytes).to_vec();
            assert!(bytes.is_empty());
            Image::Record { data, rest }
        }
        Image::Residue { bytes, reason } => {
            assert_eq!(reason, "deleted slot");
            let mut bytes = &bytes[9..];
            let content = take(&mut bytes).to_vec();
            let reason = String::from_utf8(take(&mut bytes).to_vec()).expect("text");
            Image::Residue {
                bytes: content,
                reason,
            }
        }
        Image::Absent => Image::Absent,
    }
}

fn sealed(stream: &str, changes: &FileChanges) -> FileChanges {
    let (description, attributes) = (&*changes.file, &changes.attributes);
    let path = &description.path;
    let group = json!({
        "group": description.group,
        "format": description.format,
        "path": description.path,
        "attributes": [
            json!(attributes.size),
            json!(attributes.kind.map(FileKind::name)),
            json!(attributes.mode),
            json!(attributes.uid),
            json!(attributes.gid),
            json!(attributes.modified_ns),
        ],
    });
    let mut file = FileDescription {
        path: sealed_path(stream, path),
        group: group.to_string(),
        ..description.clone()
    };
    let renamed_from = changes
        .renamed_from
        .as_ref()
        .map(|from| sealed_path(stream, from));
    if is_open(description, attributes) {
        return FileChanges {
            file: Arc::new(file),
            renamed_from,
            ..changes.clone()
        };
    }
    let (size, slots) = dimensions(path);
    file.format =
        RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(size);
    let shifted = |range: &Range<u64>| range.start.saturating_add(1)..range.end.saturating_add(1);
    FileChanges {
        file: Arc::new(file),
        renamed_from,
        fate: changes.fate.clone(),
        cleared: changes.cleared.iter().map(shifted).collect(),
        images: changes
            .images
            .iter()
            .map(|(id, image)| (id + 1, sealed_image(path, image)))
            .collect(),
        attributes: Attributes {
            size: slots * (size + 8),
            kind: Some(FileKind::Regular),
            ..Attributes::default()
        },
        log: Vec::new(),
    }
}

fn unsealed(stored: StoredFile) -> StoredFile {
    let sealed: Value = serde_json::from_str(&stored.description.group).expect("a sealed file");
    let known = &sealed["attributes"];
    let number = |at: usize| {
        known[at]
            .as_u64()
            .map(|number| u32::try_from(number).expect("u32"))
    };
    let kind = known[1].as_str();
    StoredFile {
        attributes: Attributes {
            size: known[0].as_u64().expect("a size"),
            kind: kind.and_then(crate::sql::kind_named),
            mode: number(2),
            uid: number(3),
            gid: number(4),
            modified_ns: known[5].as_i64(),
        },
        description: FileDescription {
            path: serde_json::from_value(sealed["path"].clone()).expect("a path"),
            group: sealed["group"].as_str().expect("a group").to_owned(),
            format: serde_json::from_value(sealed["format"].clone()).expect("a format"),
            ..stored.description
        },
        table: stored.table,
        shape: stored.shape,
    }
}

impl Sink for Sealed {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let files = batch.files.iter();
        self.0.apply(&Batch {
            files: files
                .map(|changes| sealed(&batch.stream, changes))
                .collect(),
            ..batch.clone()
        })
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        Ok(Box::new(SealedSnapshot(self.0.snapshot()?)))
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Box::new(self.0).close()
    }
}

struct SealedSnapshot<'s>(Box<dyn Snapshot + 's>);

impl Snapshot for SealedSnapshot<'_> {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        self.0.streams()
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        self.0.position(stream)
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let files = self.0.files(stream)?.into_iter();
        let mut files: Vec<_> = files.map(unsealed).collect();
        // The paths of files right below the root have a letter more.
        files.sort_by(|a, b| a.description.path.cmp(&b.description.path));
        Ok(files)
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let path = sealed_path(stream, path);
        let stored = self.0.file(stream, &path)?;
        if stored.is_some_and(|stored| is_open(&stored.description, &stored.attributes)) {
            return self.0.pieces_in(stream, &path, ids, each);
        }
        let sealed = ids.start.saturating_add(1)..ids.end.saturating_add(1);
        self.0.pieces_in(stream, &path, sealed, &mut |piece| {
            each(StoredPiece {
                id: piece.id - 1,
                image: unsealed_image(piece.image),
            })
        })
    }
}

struct Roots {
    /// Gone before the directory that it is at.
    room: Option<Room>,
    root: TempDir,
    is_patient: bool,
    nobody: Option<AsNobody>,
}

impl Roots {
    fn new() -> Roots {
        Roots {
            room: None,
            root: scratch(),
            is_patient: false,
            nobody: None,
        }
    }

    fn root(&self) -> &Path {
        self.room.as_ref().map_or(self.root.path(), Room::path)
    }

    fn config(&self) -> FilesConfig {
        FilesConfig {
            lock_timeout_ms: if self.is_patient { 60_000 } else { 1000 },
            ..config(self.root())
        }
    }

    /// As somebody who reads has it.
    fn lock(&self) -> Option<fs::File> {
        let lock = fs::File::open(self.root().join(OWN_DIRECTORY).join("lock")).ok()?;
        flock(&lock, FlockOperation::LockShared).ok()?;
        Some(lock)
    }

    /// Where a file is.
    fn path(&self, table: &str) -> PathBuf {
        let mut sink = open(self.root());
        let files = sink.files(STREAM).expect("the files");
        let stored = files
            .into_iter()
            .find(|file| file.table == table)
            .expect("a file with this table");
        let path = &stored.description.path[1..];
        self.root().join(std::ffi::OsStr::from_bytes(path))
    }

    fn set_modes(directory: &Path, mode_of_directories: u32, mode_of_files: u32) {
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        };
        // Before it is closed, and after it is opened.
        set(directory, 0o755);
        for entry in fs::read_dir(directory).expect("listing") {
            let path = entry.expect("listing").path();
            if path.is_dir() {
                Self::set_modes(&path, mode_of_directories, mode_of_files);
            } else {
                set(&path, mode_of_files);
            }
        }
        set(directory, mode_of_directories);
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        // It is removed with the rights that it was made with.
        self.nobody = None;
    }
}

impl Faults for Roots {
    fn target(&mut self) -> &mut dyn Target {
        self
    }

    fn set_patient(&mut self, patient: bool) {
        self.is_patient = patient;
    }

    fn finishes_later(&self) -> bool {
        true
    }
}

impl Target for Roots {
    fn take(&mut self, _table: &str) -> Box<dyn Taken> {
        Box::new(Reading {
            _lock: self.lock().expect("the lock"),
        })
    }

    fn limit_room(&mut self) -> &'static str {
        self.room = Some(Room::make(self.root.path().join("room"), 8));
        "No space left on device"
    }

    fn make_room(&mut self) {
        if let Some(room) = &self.room {
            room.resize(128);
        }
    }

    fn revoke(&mut self, _table: &str) -> Vec<String> {
        Self::set_modes(self.root.path(), 0o555, 0o444);
        self.nobody = Some(AsNobody::begin());
        vec!["Permission denied".to_owned()]
    }

    fn grant(&mut self, _table: &str) {
        self.nobody = None;
        Self::set_modes(self.root.path(), 0o755, 0o644);
    }

    fn change(&mut self, table: &str, change: Change) {
        assert_eq!(change, Change::MoveTable, "it has no columns");
        let path = self.path(table);
        fs::rename(path, self.root().join("elsewhere")).expect("moving it");
    }

    fn change_back(&mut self, table: &str, change: Change) {
        assert_eq!(change, Change::MoveTable, "it has no columns");
        fs::rename(self.root().join("elsewhere"), self.path(table)).expect("moving it back");
    }
}

/// Somebody who reads.
struct Reading {
    _lock: fs::File,
}

impl Taken for Reading {
    fn is_waited_for(&mut self) -> bool {
        false
    }

    fn take_more(&mut self, _table: &str) {}
}

impl Harness for Roots {
    fn cannot(&self, case: &str) -> Option<&'static str> {
        match case {
            "reads_one_snapshot" => Some(
                "files are changed in place: a snapshot holds the writer up, and another test shows that",
            ),
            "keeps_high_and_low_identities" => {
                Some("an identity is a place in the file, and no file is that long")
            }
            "survives_a_killed_server" | "survives_an_orderly_shutdown" => Some(
                "there is no server: what is killed is the process that applies (files::tests::crashes)",
            ),
            "survives_a_cut_before_the_commit"
            | "finds_out_about_a_cut_after_the_commit"
            | "repeats_an_amendment_that_was_cut" => {
                Some("there is no connection that could be cut")
            }
            "survives_a_deadlock" => Some("one lock for the whole root makes no deadlock"),
            "goes_on_when_a_lock_is_free" => {
                Some("from outside it can't be seen whether somebody waits for the lock")
            }
            "names_a_dropped_column"
            | "names_a_renamed_column"
            | "names_a_column_of_another_type" => Some("files have no columns"),
            "waits_for_room" => Room::cannot(),
            _ => None,
        }
    }

    fn fresh(&mut self) {
        // A small file system is new anyway.
        if self.room.is_none() {
            self.root = scratch();
        }
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Sealed(FilesSink::open(&self.config())?)))
    }

    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        let opened = FilesSink::open_read_only(&self.config())?;
        Ok(Box::new(Sealed(opened)))
    }

    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        Some(changes(&file(path), [(1, record([b'x'; 700]))]))
    }

    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.lock()?))
    }

    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let path = self.path(table);
        let format =
            RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(632);
        let codec = format.codec().expect("a format");
        let (Image::Record { data, rest }, id) =
            (sealed_image(b"/srv/cards.dat", &record(data)), id + 1)
        else {
            return false;
        };
        let mut bytes = Vec::new();
        codec
            .encode(id, &data, &rest, &mut bytes)
            .expect("encoding");
        let file = fs::File::options().write(true).open(path).expect("opening");
        file.write_all_at(&bytes, codec.offset_of(id))
            .expect("writing");
        true
    }
}

mod contract {
    crate::sink_contract!(super::Roots::new());
}

mod faults {
    crate::sink_faults!(super::Roots::new());
}
