//! Random operations through real system calls under the real interposer, against a plain model.
//!
//! For every organisation and many seeds: every call returns what it would without capture, the
//! files' bytes are the model's, the rows are what a plain decoder finds in the model's bytes, `verify`
//! agrees, and the restored files are byte-identical.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Chance, Group, Shape, Site, c, decode, rounds, script};

/// How many scripts one test runs, each in a site of its own.
const ROUNDS: usize = 4;
/// How many operations a script has, about.
const OPERATIONS: usize = 250;
const NAMES: [&str; 2] = ["a.dat", "b.dat"];

fn random_operations_are_mirrored(name: &str, shape: Shape, units: &[&str]) -> Result<()> {
    let seed = Chance::seed();
    let exerciser = c("file_exerciser")?;
    for round in 0..rounds(ROUNDS) as u64 {
        let mut chance = Chance::new(seed.wrapping_add(round));
        let (text, model) = script(shape, &NAMES, "outside.tmp", OPERATIONS, &mut chance);
        let unit_of_work = *chance.pick(units);
        let site = Site::with(
            name,
            &[Group::new("group", unit_of_work).file("*.dat", shape)],
        )?;
        std::fs::write(site.path("script"), text)?;
        let context = || {
            format!(
                "seed {seed}, round {round}, unit_of_work {unit_of_work}, {}",
                site.root().display()
            )
        };

        // Sometimes the replicator runs beside the program, sometimes it comes later, sometimes it is
        // killed on the way.
        let replicator = if chance.percent(50) {
            Some(site.replicator()?)
        } else {
            None
        };
        site.exec_to_end(&exerciser, &["script"])
            .with_context(context)?;
        if let Some(mut replicator) = replicator {
            if chance.percent(50) {
                replicator.kill()?;
            } else {
                site.stop(replicator).with_context(context)?;
            }
        }
        for name in NAMES {
            let real = std::fs::read(site.path(name)).ok();
            ensure!(
                real.as_deref() == model.file(name),
                "{name} isn't what the model says; {}",
                context()
            );
        }
        site.assert_mirrored().with_context(context)?;
        for name in NAMES {
            rows_are_the_model_s(&site, name, shape, model.file(name)).with_context(context)?;
        }
        site.finish();
    }
    Ok(())
}

fn rows_are_the_model_s(site: &Site, name: &str, shape: Shape, bytes: Option<&[u8]>) -> Result<()> {
    let table = name.replace('.', "_");
    let Some(bytes) = bytes else {
        ensure!(
            !site.tables()?.contains(&table),
            "{name} is gone, but its table {table} isn't"
        );
        return Ok(());
    };
    let expected = decode(shape, bytes);
    let certain = |id: &u64| expected.certain_to.is_none_or(|limit| *id < limit);
    let mut rows = site.rows(&table)?;
    rows.retain(|id, _| certain(id));
    for (id, data) in expected.rows.iter().filter(|(id, _)| certain(id)) {
        let row = rows.remove(id);
        ensure!(
            row.as_ref() == Some(data),
            "{name}, record {id}: the row is {row:?}, not {data:?}"
        );
    }
    ensure!(rows.is_empty(), "{name}: rows without records: {rows:?}");
    Ok(())
}

const ALL_UNITS: [&str; 4] = ["none", "fsync", "lock", "close"];

#[test]
fn random_operations_on_fixed_files_are_mirrored() -> Result<()> {
    random_operations_are_mirrored("model-fixed", Shape::Fixed { size: 40 }, &ALL_UNITS)
}

#[test]
fn random_operations_on_relative_files_are_mirrored() -> Result<()> {
    random_operations_are_mirrored("model-relative", Shape::Relative { size: 50 }, &ALL_UNITS)
}

#[test]
fn random_operations_on_variable_sequential_files_are_mirrored() -> Result<()> {
    for varseq_format in 0..=3 {
        let shape = Shape::Variable {
            size: 200,
            varseq_format,
        };
        random_operations_are_mirrored(
            &format!("model-variable-{varseq_format}"),
            shape,
            &["none", "close"],
        )?;
    }
    Ok(())
}

#[test]
fn random_operations_on_text_files_are_mirrored() -> Result<()> {
    random_operations_are_mirrored("model-lines", Shape::Lines, &ALL_UNITS)
}

#[test]
fn random_operations_on_block_files_are_mirrored() -> Result<()> {
    random_operations_are_mirrored("model-blocks", Shape::Blocks { size: 64 }, &ALL_UNITS)
}
