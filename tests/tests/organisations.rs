//! Every organisation, written by real programs in every usual way, arrives and comes back.

use anyhow::{Context as _, Result};
use counterfoil_tests::{
    CARD_SWITCH, Group, Program, Shape, Site, c, cobol, decode, perl, python, shell,
};

/// Runs a program twice (the second time it takes up its files) with the replicator between the runs,
/// then demands equality, and that the rows are what a plain decoder finds in the file.
fn is_mirrored(
    name: &str,
    group: Group,
    program: &Program,
    arguments: &[&str],
    files: &[(&str, Shape)],
) -> Result<()> {
    let site = Site::with(name, &[group])?;
    site.exec_to_end(program, arguments)?;
    site.settle()?;
    site.exec_to_end(program, arguments)?;
    site.assert_mirrored()?;
    for (file, shape) in files {
        rows_are_what_the_file_says(&site, file, *shape)?;
    }
    site.finish();
    Ok(())
}

fn rows_are_what_the_file_says(site: &Site, file: &str, shape: Shape) -> Result<()> {
    let bytes = std::fs::read(site.path(file)).with_context(|| format!("reading {file}"))?;
    let expected = decode(shape, &bytes).rows;
    assert!(
        !expected.is_empty(),
        "{file} has no records: the program didn't do its work"
    );
    let rows = site.rows(&file.replace('.', "_"))?;
    assert_eq!(rows.len(), expected.len(), "rows of {file}");
    for (id, data) in expected {
        assert!(
            rows.get(&id) == Some(&data),
            "{file}, record {id}: {:?} isn't {data:?}",
            rows.get(&id)
        );
    }
    Ok(())
}

fn cobol_group(file: &str, config: &str) -> Group {
    Group::new("cobol", "close").file_as(file, config)
}

#[test]
fn a_cobol_program_s_relative_file_is_mirrored() -> Result<()> {
    is_mirrored(
        "relative",
        cobol_group(
            "relative.dat",
            "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = 80",
        ),
        &cobol("cobol_relative")?,
        &["300"],
        &[("relative.dat", Shape::Relative { size: 80 })],
    )
}

#[test]
fn a_cobol_program_s_fixed_sequential_file_is_mirrored() -> Result<()> {
    is_mirrored(
        "fixed",
        cobol_group(
            "fixed.dat",
            "organization = \"fixed\"\nlayout = \"gnucobol\"\nrecord_size = 60",
        ),
        &cobol("cobol_fixed")?,
        &["300"],
        &[("fixed.dat", Shape::Fixed { size: 60 })],
    )
}

#[test]
fn a_cobol_program_s_variable_sequential_file_is_mirrored_in_all_four_formats() -> Result<()> {
    let program = cobol("cobol_variable")?;
    for varseq_format in 0..=3 {
        let shape = Shape::Variable {
            size: 200,
            varseq_format,
        };
        let site = Site::with(
            "variable",
            &[Group::new("cobol", "none").file("variable.dat", shape)],
        )?;
        for _ in 0..2 {
            let mut command = site.captured(&program, &["200"]);
            command.env("COB_VARSEQ_FORMAT", varseq_format.to_string());
            site.start(command)?.finish()?.success()?;
            site.settle()?;
        }
        site.assert_mirrored()?;
        rows_are_what_the_file_says(&site, "variable.dat", shape)?;
        site.finish();
    }
    Ok(())
}

#[test]
fn a_cobol_program_s_line_sequential_file_is_mirrored() -> Result<()> {
    is_mirrored(
        "lines",
        cobol_group(
            "lines.txt",
            "organization = \"sequential\"\nlayout = \"line-sequential\"",
        ),
        &cobol("cobol_lines")?,
        &["300"],
        &[("lines.txt", Shape::Lines)],
    )
}

#[test]
fn a_cobol_program_that_syncs_every_operation_is_mirrored() -> Result<()> {
    let program = cobol("cobol_lines")?;
    let site = Site::with(
        "sync",
        &[Group::new("cobol", "fsync").file("lines.txt", Shape::Lines)],
    )?;
    let mut command = site.captured(&program, &["20"]);
    command.env("COB_SYNC", "1");
    // GnuCOBOL 3.1.2 syncs a line sequential file once more after it has closed it; whatever the
    // program makes of that without capture, it makes of it with.
    site.start(command)?.finish()?;
    site.assert_mirrored()?;
    rows_are_what_the_file_says(&site, "lines.txt", Shape::Lines)?;
    site.finish();
    Ok(())
}

#[test]
fn the_card_switch_is_mirrored_and_its_restored_files_pass_its_own_audit() -> Result<()> {
    let switch = c("card_switch")?;
    let site = Site::with("switch", &[Group::card_switch()])?;
    site.exec_to_end(&switch, &[".", "--payments", "3000"])?;
    site.assert_mirrored()?;
    for (file, shape) in CARD_SWITCH {
        rows_are_what_the_file_says(&site, file, shape)?;
    }
    let restored = site.restore()?;
    site.uncaptured(&switch, &["--audit".as_ref(), restored.as_os_str()])?;
    site.finish();
    Ok(())
}

#[test]
fn the_card_switch_in_cobol_is_mirrored_and_its_restored_files_pass_the_same_audit() -> Result<()> {
    let site = Site::with("switch-cobol", &[Group::card_switch()])?;
    site.exec_to_end(&cobol("card_switch")?, &[".", "--payments", "1000"])?;
    site.assert_mirrored()?;
    for (file, shape) in CARD_SWITCH {
        rows_are_what_the_file_says(&site, file, shape)?;
    }
    let restored = site.restore()?;
    site.uncaptured(
        &c("card_switch")?,
        &["--audit".as_ref(), restored.as_os_str()],
    )?;
    site.finish();
    Ok(())
}

const LEDGER: Shape = Shape::Fixed { size: 64 };

#[test]
fn a_python_program_s_files_are_mirrored() -> Result<()> {
    is_mirrored(
        "python",
        Group::new("ledger", "none")
            .file("ledger.dat", LEDGER)
            .file("report.txt", Shape::Lines)
            .file("image.bin", Shape::Blocks { size: 512 }),
        &python("ledger")?,
        &[".", "400"],
        &[
            ("ledger.dat", LEDGER),
            ("report.txt", Shape::Lines),
            ("image.bin", Shape::Blocks { size: 512 }),
        ],
    )
}

#[test]
fn a_perl_program_s_files_are_mirrored() -> Result<()> {
    is_mirrored(
        "perl",
        Group::new("ledger", "lock")
            .file("ledger.dat", LEDGER)
            .file("log.txt", Shape::Lines),
        &perl("ledger")?,
        &[".", "400"],
        &[("ledger.dat", LEDGER), ("log.txt", Shape::Lines)],
    )
}

#[test]
fn a_shell_script_s_files_are_mirrored() -> Result<()> {
    is_mirrored(
        "shell",
        Group::new("ledger", "none")
            .file("ledger.dat", LEDGER)
            .file("*.txt", Shape::Lines),
        &shell("ledger")?,
        &[".", "30"],
        &[("ledger.dat", LEDGER), ("log.txt", Shape::Lines)],
    )
}
