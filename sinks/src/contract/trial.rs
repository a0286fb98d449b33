//! One run of a case: the target and the model side by side.

use super::{Harness, MemorySink};
use crate::plan::Shape;
use crate::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, Image, Sink, SinkError, StoredFile,
    StoredPiece,
};
use counterfoil_proto::{Position, path_text};
use counterfoil_records::{Layout, Organization, RecordFormat};
use counterfoil_servers::wait_until;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The stream of cases that need only one.
pub const STREAM: &str = "hq/payments";

/// A file of fixed records with this path, no table configured.
pub fn file(path: impl AsRef<[u8]>) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        path: path.as_ref().to_vec(),
        group: "payments".into(),
        format: RecordFormat {
            organization: Organization::Fixed,
            layout: Layout::Plain,
            settings: counterfoil_records::Settings::NONE,
            record_size: Some(100),
            varseq_format: None,
        },
        table: None,
        tree: None,
        schema: None,
        plan: None,
    })
}

/// A static file with this path of a tree with this root, no table configured.
pub fn static_file(root: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        format: RecordFormat::STATIC,
        tree: Some(root.as_ref().to_vec()),
        schema: None,
        plan: None,
        ..(*file(path)).clone()
    })
}

/// Changes that do nothing but write these images (the size follows from how many there are).
pub fn changes(
    file: &Arc<FileDescription>,
    images: impl IntoIterator<Item = (u64, Image)>,
) -> FileChanges {
    let images: BTreeMap<u64, Image> = images.into_iter().collect();
    FileChanges {
        file: Arc::clone(file),
        renamed_from: None,
        fate: FileFate::Present,
        cleared: Vec::new(),
        log: Vec::new(),
        attributes: Attributes {
            size: images.len() as u64 * 100,
            ..Attributes::default()
        },
        images,
    }
}

/// A record with this content and no rest.
pub fn record(data: impl AsRef<[u8]>) -> Image {
    Image::Record {
        data: data.as_ref().to_vec(),
        rest: Vec::new(),
    }
}

/// Residue with these bytes.
pub fn residue(bytes: impl AsRef<[u8]>) -> Image {
    Image::Residue {
        bytes: bytes.as_ref().to_vec(),
        reason: "deleted slot".into(),
    }
}

/// The same, of a file that was renamed from this path.
pub(super) fn renamed(mut changes: FileChanges, from: impl AsRef<[u8]>) -> FileChanges {
    changes.renamed_from = Some(from.as_ref().to_vec());
    changes
}

/// A file that goes.
pub(super) fn removed(file: &Arc<FileDescription>) -> FileChanges {
    FileChanges {
        fate: FileFate::Removed,
        ..changes(file, [])
    }
}

/// A batch of the stream that cases have, for whatever the target has before `lsn`.
pub fn batch(lsn: u64, files: impl IntoIterator<Item = FileChanges>) -> Batch {
    Batch {
        stream: STREAM.into(),
        after: None,
        position: Position {
            epoch: 1,
            lsn,
            index: 0,
        },
        captured_ns: 0,
        files: files.into_iter().collect(),
    }
}

/// What a file of the stream that cases have consists of.
pub fn content(sink: &mut dyn Sink, path: impl AsRef<[u8]>) -> Vec<(u64, Image)> {
    content_of(sink, STREAM, path.as_ref())
}

/// Asserts that an error is for good, and that all of these words are in it.
pub fn assert_permanent(error: &SinkError, says: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, SinkError::Permanent { .. }), "{text}");
    for words in says {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

/// A target under test, and the model that it is compared with.
pub struct Trial<'h, H: Harness + ?Sized = dyn Harness + 'h> {
    harness: &'h mut H,
    sink: Option<Box<dyn Sink>>,
    model: MemorySink,
    position: Position,
    /// What the target has of the case's stream.
    applied: Option<Position>,
}

impl<'h, H: Harness + ?Sized> Trial<'h, H> {
    /// Begins with an empty target.
    pub fn begin(harness: &'h mut H) -> Self {
        harness.fresh();
        let sink = harness.open().expect("opening an empty target");
        let mut trial = Trial {
            harness,
            sink: Some(sink),
            model: MemorySink::default(),
            position: Position {
                epoch: 1,
                lsn: 0,
                index: 0,
            },
            applied: None,
        };
        trial.compare("an empty target");
        trial
    }

    /// The sink under test.
    pub fn sink(&mut self) -> &mut dyn Sink {
        self.sink
            .as_deref_mut()
            .expect("a sink is open except while reopening")
    }

    /// How the suite gets at the target.
    pub fn harness(&mut self) -> &mut H {
        &mut *self.harness
    }

    /// Both at once, since one applies while the other is in the way.
    pub fn parts(&mut self) -> (&mut dyn Sink, &mut H) {
        let sink = self.sink.as_deref_mut();
        let sink = sink.expect("a sink is open except while reopening");
        (sink, &mut *self.harness)
    }

    /// Where the last batch ended.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A batch of the case's stream at the next position, which is not applied.
    pub fn batch(&self, files: impl IntoIterator<Item = FileChanges>) -> Batch {
        Batch {
            stream: STREAM.into(),
            after: self.applied,
            position: Position {
                lsn: self.position.lsn + 3,
                index: 2,
                ..self.position
            },
            captured_ns: 1_700_000_000_000_000_000,
            files: files.into_iter().collect(),
        }
    }

    /// Applies changes at the next position, to the target and the model, and compares.
    pub fn apply(&mut self, files: impl IntoIterator<Item = FileChanges>) {
        let batch = self.batch(files);
        self.apply_batch(&batch);
    }

    /// Applies a batch to the target and the model, and compares; then once more, opened anew.
    pub fn apply_batch(&mut self, batch: &Batch) {
        self.apply_without_reopening(batch);
        self.reopen();
    }

    /// Applies a batch to the target and the model, and compares.
    pub fn apply_without_reopening(&mut self, batch: &Batch) {
        self.sink().apply(batch).expect("applying a batch");
        self.note(batch);
        self.compare("a batch");
    }

    /// Applies changes at the next position as [`Trial::apply`] does, and stays in the open sink, which goes on with what it
    /// remembers.
    pub fn go_on(&mut self, files: impl IntoIterator<Item = FileChanges>) {
        let batch = self.batch(files);
        self.apply_without_reopening(&batch);
    }

    /// Applies a batch as the applier does, whatever happens to the server: what may pass is tried again, and where it isn't
    /// known whether the batch was applied, the position is asked. Then compares: it is applied, once.
    pub fn settle(&mut self, batch: &Batch) {
        let settled = wait_until("the batch to be applied", || {
            match self.sink().apply(batch) {
                Ok(()) => Ok(()),
                Err(error) if error.is_transient() => match self.sink().position(&batch.stream) {
                    Ok(position) if position == Some(batch.position) => Ok(()),
                    Ok(_) => Err(error.to_string()),
                    Err(asking) if asking.is_transient() => Err(asking.to_string()),
                    Err(asking) => panic!("{asking}"),
                },
                // The one before it was applied after all.
                Err(SinkError::NotAfter { stored, .. }) if stored == Some(batch.position) => Ok(()),
                Err(error) => panic!("{error}"),
            }
        });
        settled.expect("a batch that may pass is applied in the end");
        self.note(batch);
        self.compare("a batch that was tried until it was applied");
        let error = self.refuse(batch);
        assert!(matches!(error, SinkError::NotAfter { .. }), "{error}");
    }

    /// Closes the sink; nothing may be asked of it before [`Trial::reopen`].
    pub fn close(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.close().expect("closing");
        }
    }

    /// Lets the model have a batch that the target has.
    pub fn note(&mut self, batch: &Batch) {
        self.model
            .apply(batch)
            .expect("applying a batch to the model");
        self.position = batch.position;
        if batch.stream == STREAM {
            self.applied = Some(batch.position);
        }
    }

    /// Offers a batch that has to be refused, and compares: nothing of it may be visible.
    pub fn refuse(&mut self, batch: &Batch) -> SinkError {
        let error = self
            .sink()
            .apply(batch)
            .expect_err("a batch that has to be refused was applied");
        self.compare("a refused batch");
        self.reopen();
        error
    }

    /// Opens the target anew after a batch that may be certain though it failed, and settles that.
    pub fn reopen_to_settle(&mut self, batch: &Batch) {
        self.close();
        self.sink = Some(self.harness.open().expect("opening again"));
        self.settle(batch);
    }

    /// Closes the sink, opens the target anew and compares.
    pub fn reopen(&mut self) {
        self.close();
        self.sink = Some(self.harness.open().expect("opening again"));
        self.compare("opening again");
    }

    /// Opens the target anew without closing the old sink first, which is returned.
    pub fn reopen_beside(&mut self) -> Box<dyn Sink> {
        let beside = self.harness.open().expect("opening beside an open sink");
        let old = self
            .sink
            .replace(beside)
            .expect("a sink is open except while reopening");
        self.compare("opening beside an open sink");
        old
    }

    /// Applies a batch through another sink of the same target, and compares.
    pub fn apply_through(&mut self, other: &mut dyn Sink, batch: &Batch) {
        other
            .apply(batch)
            .expect("applying a batch through another sink");
        self.note(batch);
        self.compare("a batch through another sink");
    }

    /// What the file with this path consists of.
    pub fn content(&mut self, path: impl AsRef<[u8]>) -> Vec<(u64, Image)> {
        content_of(self.sink(), STREAM, path.as_ref())
    }

    /// The catalogue entry of a file.
    pub fn stored(&mut self, path: impl AsRef<[u8]>) -> Option<StoredFile> {
        let files = self.sink().files(STREAM).expect("listing the files");
        files
            .into_iter()
            .find(|file| file.description.path == path.as_ref())
    }

    /// Compares all that can be read from the target with the model.
    pub fn compare(&mut self, after: &str) {
        let found = everything(self.sink());
        let expected = everything(&mut self.model);
        let streams = |all: &Everything| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(streams(&found), streams(&expected), "streams after {after}");
        for (stream, expected) in &expected {
            let found = &found[stream];
            assert_eq!(
                found.position, expected.position,
                "position of {stream} after {after}"
            );
            assert_eq!(
                found.files, expected.files,
                "files of {stream} after {after}"
            );
            for (path, expected) in &expected.pieces {
                assert_eq!(
                    &found.pieces[path],
                    expected,
                    "{} of {stream} after {after}",
                    path_text(path)
                );
            }
        }
        // Each table is one file's, or one tree's.
        let mut tables = BTreeMap::new();
        for (stream, found) in &found {
            for ((file, ..), table) in found.files.iter().zip(&found.tables) {
                assert!(!table.is_empty(), "a table without a name after {after}");
                let owner = (stream, file.named_for());
                let first = tables.entry(table.to_lowercase()).or_insert((owner, file));
                assert!(
                    first.0 == owner && first.1.tree == file.tree,
                    "table {table} belongs to {first:?} and to {owner:?} after {after}"
                );
            }
        }
    }
}

struct Contents {
    position: Option<Position>,
    /// Tables left out: their names are the sink's own affair, as long as no two are the same.
    files: Vec<(FileDescription, Attributes, Shape)>,
    tables: Vec<String>,
    pieces: BTreeMap<Vec<u8>, Vec<(u64, Image)>>,
}

type Everything = BTreeMap<String, Contents>;

fn everything(sink: &mut dyn Sink) -> Everything {
    let mut snapshot = sink.snapshot().expect("opening a snapshot");
    let streams = snapshot.streams().expect("listing the streams");
    let mut everything = Everything::new();
    for stream in streams {
        let files = snapshot.files(&stream).expect("listing the files");
        let mut pieces = BTreeMap::new();
        for file in &files {
            let path = &file.description.path;
            let mut found = Vec::new();
            let mut each = |StoredPiece { id, image }| {
                found.push((id, image));
                true
            };
            snapshot
                .pieces(&stream, path, &mut each)
                .expect("reading pieces");
            let ids = inner_range(&found);
            let mut within = Vec::new();
            let mut each = |StoredPiece { id, image }| {
                within.push((id, image));
                true
            };
            snapshot
                .pieces_in(&stream, path, ids.clone(), &mut each)
                .expect("reading some pieces");
            let expected = found.iter().filter(|(id, _)| ids.contains(id));
            assert!(
                within.iter().eq(expected),
                "{}: other pieces than in all of it are in {ids:?}",
                counterfoil_proto::path_text(path)
            );
            pieces.insert(path.clone(), found);
        }
        let contents = Contents {
            position: snapshot.position(&stream).expect("reading the position"),
            tables: files.iter().map(|file| file.table.clone()).collect(),
            pieces,
            files: files
                .into_iter()
                .map(|file| (file.description, file.attributes, file.shape))
                .collect(),
        };
        everything.insert(stream, contents);
    }
    everything
}

/// A range that begins at one of the pieces and ends between others, so that both ends matter.
fn inner_range(pieces: &[(u64, Image)]) -> std::ops::Range<u64> {
    let id = |at: usize| pieces.get(at).map_or(0, |(id, _)| *id);
    id(pieces.len() / 3)..id(pieces.len() * 2 / 3).max(1)
}

pub(super) fn content_of(sink: &mut dyn Sink, stream: &str, path: &[u8]) -> Vec<(u64, Image)> {
    let mut pieces = Vec::new();
    let mut each = |StoredPiece { id, image }| {
        pieces.push((id, image));
        true
    };
    sink.pieces(stream, path, &mut each)
        .expect("reading pieces");
    pieces
}
