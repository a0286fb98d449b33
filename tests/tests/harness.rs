//! The harness's own tests: programs do what the model says, before anything is captured.

use anyhow::Result;
use counterfoil_tests::{Chance, Shape, c, cobol, decode, perl, python, script, shell};
use std::path::Path;
use std::process::Command;

const SHAPES: [Shape; 8] = [
    Shape::Fixed { size: 40 },
    Shape::Relative { size: 50 },
    Shape::Variable {
        size: 200,
        varseq_format: 0,
    },
    Shape::Variable {
        size: 200,
        varseq_format: 1,
    },
    Shape::Variable {
        size: 200,
        varseq_format: 2,
    },
    Shape::Variable {
        size: 200,
        varseq_format: 3,
    },
    Shape::Lines,
    Shape::Blocks { size: 64 },
];

fn run(program: &counterfoil_tests::Program, arguments: &[&str], dir: &Path) -> Result<()> {
    let output = Command::new(&program.words[0])
        .args(&program.words[1..])
        .args(arguments)
        .current_dir(dir)
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "{program:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn scripts_lead_to_the_model_without_capture() -> Result<()> {
    let exerciser = c("file_exerciser")?;
    let seed = Chance::seed();
    for (number, shape) in SHAPES.into_iter().enumerate() {
        for round in 0..5 {
            let dir = tempfile::tempdir()?;
            let mut chance = Chance::new(seed + 100 * number as u64 + round);
            let (text, model) = script(shape, &["a.dat", "b.dat"], "outside.tmp", 300, &mut chance);
            std::fs::write(dir.path().join("script"), text)?;
            run(&exerciser, &["script"], dir.path())?;
            for (name, bytes) in model.files() {
                assert!(
                    std::fs::read(dir.path().join(name))? == bytes,
                    "{shape:?}, round {round}: {name}"
                );
            }
            for name in ["a.dat", "b.dat", "outside.tmp"] {
                assert_eq!(
                    dir.path().join(name).exists(),
                    model.file(name).is_some(),
                    "{name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn cobol_programs_write_the_documented_layouts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for program in [
        "cobol_relative",
        "cobol_fixed",
        "cobol_variable",
        "cobol_lines",
    ] {
        run(&cobol(program)?, &["200"], dir.path())?;
    }
    let read = |name: &str| std::fs::read(dir.path().join(name));
    let slots = decode(Shape::Relative { size: 80 }, &read("relative.dat")?);
    assert!(
        slots.rows.len() > 30 && slots.rows.values().any(|row| row.len() == 30),
        "{slots:?}"
    );
    let entries = decode(Shape::Fixed { size: 60 }, &read("fixed.dat")?);
    assert_eq!(entries.rows.len(), 200);
    let journal = decode(
        Shape::Variable {
            size: 200,
            varseq_format: 0,
        },
        &read("variable.dat")?,
    );
    assert_eq!((journal.rows.len(), journal.certain_to), (200, None));
    let lines = decode(Shape::Lines, &read("lines.txt")?);
    assert_eq!(lines.rows.len(), 200);
    Ok(())
}

#[test]
fn the_scripting_victims_and_both_card_switches_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = dir.path().to_str().expect("temporary paths are text");
    run(&python("ledger")?, &[at, "200"], dir.path())?;
    run(&perl("ledger")?, &[at, "200"], dir.path())?;
    run(&shell("ledger")?, &[at, "20"], dir.path())?;
    for switch in [c("card_switch")?, cobol("card_switch")?] {
        let dir = tempfile::tempdir()?;
        let at = dir.path().to_str().expect("temporary paths are text");
        run(&switch, &[at, "--payments", "500"], dir.path())?;
        run(&switch, &[at, "--payments", "500"], dir.path())?;
        run(&c("card_switch")?, &["--audit", at], dir.path())?;
    }
    Ok(())
}
