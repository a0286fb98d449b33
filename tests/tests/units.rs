//! Units of work: a reader of the mirror sees all of one, or nothing.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Group, Shape, Site, c, consistent_payment, wait_until};

/// Reads all tables in one transaction while the switch pays: the journal's last payment must have
/// reached its card and its account, as the journal, the card and the account are written under one lock.
#[test]
fn a_reader_never_sees_half_a_payment() -> Result<()> {
    let site = Site::with("units", &[Group::card_switch()])?;
    let replicator = site.replicator()?;
    let mut program = site.exec(
        &c("card_switch")?,
        &[".", "--cards", "40", "--rate", "2000", "--seconds", "3"],
    )?;
    let mut seen = Vec::new();
    while program.is_running()? {
        let Ok(Some(payment)) = consistent_payment(&site) else {
            continue;
        };
        if seen.last() != Some(&payment) {
            seen.push(payment);
        }
    }
    program.finish()?.success()?;
    site.stop(replicator)?;
    assert!(!seen.is_empty(), "the reader saw no payment at all");
    assert!(seen.is_sorted(), "the mirror went back in time: {seen:?}");
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn every_kind_of_unit_ends_in_equality() -> Result<()> {
    for unit_of_work in ["none", "fsync", "lock", "close", "api"] {
        let mut group = Group::card_switch();
        group.unit_of_work = unit_of_work.to_owned();
        let site = Site::with(&format!("unit-{unit_of_work}"), &[group])?;
        site.exec_to_end(&c("card_switch")?, &[".", "--payments", "200", "--sync"])?;
        site.assert_mirrored()
            .with_context(|| format!("unit_of_work = {unit_of_work}"))?;
        site.finish();
    }
    Ok(())
}

#[test]
fn a_file_that_is_never_closed_arrives_although_units_end_at_close() -> Result<()> {
    let shape = Shape::Fixed { size: 100 };
    let site = Site::with(
        "never-closed",
        &[Group::new("group", "close").file("records.dat", shape)],
    )?;
    let script = site.path("script");
    let mut text = String::from("open 100 records.dat bc\n");
    text.push_str(&format!("write 100 {}\n", "41".repeat(100)));
    std::fs::write(&script, text)?;
    // The exerciser ends without closing: the end of the process is the end of its units.
    site.exec_to_end(&c("file_exerciser")?, &["script"])?;
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 1);
    site.finish();
    Ok(())
}

#[test]
fn two_programs_under_locks_on_one_file_end_in_equality() -> Result<()> {
    let shape = Shape::Fixed { size: 32 };
    let site = Site::with(
        "two-programs",
        &[Group::new("group", "lock").file("shared.dat", shape)],
    )?;
    let exerciser = c("file_exerciser")?;
    let mut programs = Vec::new();
    for program in 0..3_u8 {
        let mut text = String::from("open 100 shared.dat bc\n");
        for turn in 0..300_u64 {
            let offset = turn * 7 % 40 * 32;
            let byte = format!("{:02x}", b'A' + program);
            text.push_str(&format!(
                "lock 100 {offset} 32\npwrite 100 {offset} {}\n",
                byte.repeat(16)
            ));
            text.push_str(&format!(
                "pwrite 100 {} {}\nunlock 100 {offset} 32\n",
                offset + 16,
                byte.repeat(16)
            ));
        }
        let script = format!("script-{program}");
        std::fs::write(site.path(&script), text)?;
        programs.push(site.exec(&exerciser, &[script])?);
    }
    let replicator = site.replicator()?;
    for program in programs {
        program.finish()?.success()?;
    }
    wait_until("the rows", || match site.rows("shared_dat") {
        Ok(rows) if rows.len() == 40 => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    for (record, data) in site.rows("shared_dat")? {
        assert!(
            data.iter().all(|byte| byte == &data[0]),
            "record {record} mixes two programs: {data:?}"
        );
    }
    site.finish();
    Ok(())
}
