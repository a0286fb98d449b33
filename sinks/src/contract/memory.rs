//! A sink in memory: the plainest thing that keeps the contract.

use crate::naming::{numbered, wanted_name};
use crate::plan::{Plan, Shape};
use crate::{
    Batch, FileChanges, FileDescription, FileFate, Image, Sink, SinkError, Snapshot, StoredFile,
    StoredPiece,
};
use counterfoil_proto::{Position, path_text};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A target in memory. Clones share it, as connections share a database; it is gone with the last.
#[derive(Clone, Default)]
pub struct MemorySink {
    target: Arc<Mutex<Arc<Target>>>,
}

type Target = BTreeMap<String, Stream>;

#[derive(Clone, Default)]
struct Stream {
    position: Position,
    files: BTreeMap<Vec<u8>, File>,
}

#[derive(Clone)]
struct File {
    stored: StoredFile,
    pieces: BTreeMap<u64, Image>,
}

impl MemorySink {
    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for MemorySink {
    fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        // A copy becomes the target when all went well: the simplest transaction there is.
        let mut target = Target::clone(&self.target());
        batch.check_follows(target.get(&batch.stream).map(|stream| stream.position))?;
        target.entry(batch.stream.clone()).or_default().position = batch.position;
        for changes in &batch.files {
            change_file(&mut target, &batch.stream, changes)?;
        }
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(target);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        Ok(Box::new(MemorySnapshot(self.target())))
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

fn change_file(target: &mut Target, stream: &str, changes: &FileChanges) -> Result<(), SinkError> {
    let path = &changes.file.path;
    let files = &mut target.entry(stream.to_owned()).or_default().files;
    let mut moved = None;
    if let Some(from) = &changes.renamed_from
        && from != path
    {
        files.remove(path);
        moved = files.remove(from);
    }
    if changes.fate == FileFate::Removed {
        files.remove(path);
        return Ok(());
    }
    let wanted = wanted_name(&changes.file)?;
    let (mut pieces, table, shape) = match moved.or_else(|| files.remove(path)) {
        Some(file) if file.stored.description.tree == changes.file.tree => {
            let same = wanted_name(&file.stored.description)? == wanted;
            (
                file.pieces,
                same.then_some(file.stored.table),
                Some(file.stored.shape),
            )
        }
        // In another tree, or in none any more, it is something else.
        _ => (BTreeMap::new(), None, None),
    };
    let shape = shape_after(shape, &changes.file)?;
    // All files of a tree are in one table, which follows the configuration with the first that does.
    let tree_table = changes.file.tree.as_ref().and_then(|_| {
        let files = target.get(stream)?.files.values();
        let mut of_tree = files.filter(|file| file.stored.description.tree == changes.file.tree);
        of_tree.find(|file| file.stored.description.table == changes.file.table)
    });
    let table = tree_table.map(|file| file.stored.table.clone()).or(table);
    let table = table.unwrap_or_else(|| {
        let taken = |name: &str| {
            let files = target.values().flat_map(|stream| stream.files.values());
            files
                .into_iter()
                .any(|file| file.stored.table.eq_ignore_ascii_case(name))
        };
        let mut number = 1;
        while taken(&numbered(&wanted, number)) {
            number += 1;
        }
        numbered(&wanted, number)
    });
    for range in &changes.cleared {
        pieces.retain(|id, _| *id < range.start || (*id >= range.end && range.end != u64::MAX));
    }
    for (id, image) in &changes.images {
        match image {
            Image::Absent => pieces.remove(id),
            image => pieces.insert(*id, image.clone()),
        };
    }
    if changes.file.tree.is_some() {
        for file in target
            .get_mut(stream)
            .into_iter()
            .flat_map(|stream| stream.files.values_mut())
        {
            if file.stored.description.tree == changes.file.tree {
                file.stored
                    .description
                    .table
                    .clone_from(&changes.file.table);
                file.stored.table.clone_from(&table);
            }
        }
    }
    if !shape.raw {
        pieces.clear();
    }
    let stored = StoredFile {
        description: FileDescription {
            plan: None,
            ..(*changes.file).clone()
        },
        table,
        attributes: changes.attributes,
        shape,
    };
    target
        .entry(stream.to_owned())
        .or_default()
        .files
        .insert(path.clone(), File { stored, pieces });
    Ok(())
}

/// What the table of a file looks like once it is as its plan wants it.
fn shape_after(stored: Option<Shape>, file: &FileDescription) -> Result<Shape, SinkError> {
    // The files of a tree have no columns.
    let raw = Plan::raw();
    let plan = match &file.plan {
        Some(plan) if file.tree.is_none() => plan.as_ref(),
        _ => &raw,
    };
    match stored {
        Some(stored) => match stored.evolve(plan) {
            Ok(evolution) => Ok(evolution.shape),
            Err(problems) => Err(SinkError::Permanent {
                doing: format!("changing the table of {}", path_text(&file.path)),
                cause: problems.join("; "),
                next: "change the plan".into(),
            }),
        },
        None => Ok(plan.shape().clone()),
    }
}

struct MemorySnapshot(Arc<Target>);

impl Snapshot for MemorySnapshot {
    fn streams(&mut self) -> Result<Vec<String>, SinkError> {
        Ok(self.0.keys().cloned().collect())
    }

    fn position(&mut self, stream: &str) -> Result<Option<Position>, SinkError> {
        Ok(self.0.get(stream).map(|stream| stream.position))
    }

    fn files(&mut self, stream: &str) -> Result<Vec<StoredFile>, SinkError> {
        let files = self
            .0
            .get(stream)
            .into_iter()
            .flat_map(|stream| stream.files.values());
        Ok(files.map(|file| file.stored.clone()).collect())
    }

    fn pieces_in(
        &mut self,
        stream: &str,
        path: &[u8],
        ids: Range<u64>,
        each: &mut dyn FnMut(StoredPiece) -> bool,
    ) -> Result<(), SinkError> {
        let file = self.0.get(stream).and_then(|stream| stream.files.get(path));
        for (&id, image) in file.iter().flat_map(|file| file.pieces.range(ids.clone())) {
            if !each(StoredPiece {
                id,
                image: image.clone(),
            }) {
                break;
            }
        }
        Ok(())
    }
}
