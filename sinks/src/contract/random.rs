//! Random histories, against the model.

use super::Harness;
use super::trial::{Trial, changes, file};
use crate::{Attributes, Batch, FileChanges, FileDescription, FileFate, Image};
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Few, so that histories keep meeting; two of them want the same table name.
const PATHS: [&str; 5] = [
    "/srv/a/x.dat",
    "/srv/b/x.dat",
    "/srv/x dat",
    "/srv/y",
    "/srv/z\n",
];

const IDENTITIES: Range<u64> = 0..12;

#[derive(Clone, Debug)]
struct Change {
    path: usize,
    configured: bool,
    renamed_from: Option<usize>,
    removed: bool,
    cleared: Vec<(u64, Option<u64>)>,
    images: Vec<(u64, Image)>,
    size: u32,
}

#[derive(Clone, Debug)]
struct Step {
    stream: usize,
    epochs: u64,
    changes: Vec<Change>,
    reopen: bool,
}

/// Random batches leave the target as they leave the model, however they are mixed.
pub fn random_batches(harness: &mut dyn Harness) {
    let config = Config {
        cases: harness.random_histories(),
        failure_persistence: None,
        ..Config::default()
    };
    let harness = RefCell::new(harness);
    let run = TestRunner::new(config).run(&vec(step(), 1..12), |steps| {
        run_history(*harness.borrow_mut(), &steps);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
}

fn run_history(harness: &mut dyn Harness, steps: &[Step]) {
    let mut trial = Trial::begin(harness);
    let mut epoch = 1;
    for (n, step) in steps.iter().enumerate() {
        epoch += step.epochs;
        trial.apply_without_reopening(&Batch {
            stream: format!("hq/{}", step.stream),
            after: None,
            position: Position {
                epoch,
                lsn: n as u64 + 1,
                index: 0,
            },
            captured_ns: 0,
            files: step.changes.iter().map(file_changes).collect(),
        });
        if step.reopen {
            trial.reopen();
        }
    }
    trial.reopen();
}

fn file_changes(change: &Change) -> FileChanges {
    let mut description: FileDescription = (*file(PATHS[change.path])).clone();
    if change.path == 3 {
        description.format.organization = Organization::Stream;
        description.format.layout = Layout::Newline;
        description.format.record_size = None;
    }
    description.table = change
        .configured
        .then(|| format!("table {}", change.path % 2));
    FileChanges {
        renamed_from: change.renamed_from.map(|from| PATHS[from].into()),
        fate: if change.removed {
            FileFate::Removed
        } else {
            FileFate::Present
        },
        cleared: change
            .cleared
            .iter()
            .map(|&(begin, end)| begin..end.unwrap_or(u64::MAX))
            .collect(),
        attributes: Attributes {
            size: u64::from(change.size),
            ..Attributes::default()
        },
        ..changes(&Arc::new(description), change.images.clone())
    }
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop_oneof![4 => Just(0_usize), 1 => Just(1_usize)],
        prop_oneof![9 => Just(0_u64), 1 => Just(1_u64)],
        vec(change(), 0..6),
        any::<bool>(),
    )
        .prop_map(|(stream, epochs, changes, reopen)| Step {
            stream,
            epochs,
            changes,
            reopen,
        })
}

fn change() -> impl Strategy<Value = Change> {
    (
        0..PATHS.len(),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, 0..PATHS.len()),
        prop::bool::weighted(0.15),
        vec((IDENTITIES, prop::option::of(IDENTITIES)), 0..3),
        vec((IDENTITIES, image()), 0..8),
        any::<u32>(),
    )
        .prop_map(
            |(path, configured, renamed_from, removed, cleared, images, size)| Change {
                path,
                configured,
                renamed_from,
                removed,
                cleared,
                images,
                size,
            },
        )
}

fn image() -> impl Strategy<Value = Image> {
    prop_oneof![
        3 => (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..3)).prop_map(|(data, rest)| Image::Record { data, rest }),
        2 => vec(any::<u8>(), 0..20).prop_map(|bytes| Image::Residue { bytes, reason: "random".into() }),
        1 => Just(Image::Absent),
    ]
}
