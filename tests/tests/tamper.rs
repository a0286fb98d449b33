//! Changes behind the mirror's back: `verify` names file and record.

use anyhow::Result;
use counterfoil_tests::{Group, Shape, Site, c};

fn site_with_records() -> Result<Site> {
    let site = Site::with("tamper", &[Group::card_switch()])?;
    site.exec_to_end(
        &c("card_switch")?,
        &[".", "--cards", "30", "--payments", "300"],
    )?;
    site.assert_mirrored()?;
    Ok(site)
}

/// Runs a statement behind everybody's back, and demands that verify names exactly these records.
fn is_found(site: &Site, sql: &str, file: &str, records: &[u64]) -> Result<()> {
    assert!(
        site.sqlite()?.execute(sql, [])? > 0,
        "{sql} changed nothing"
    );
    let verdict = site.verify()?;
    assert!(!verdict.equal, "verify didn't find what {sql} did");
    let found: Vec<u64> = verdict
        .differences
        .iter()
        .filter_map(|difference| difference.record)
        .collect();
    assert_eq!(found, records, "{:?}", verdict.differences);
    assert!(
        verdict
            .differences
            .iter()
            .all(|difference| difference.path.ends_with(file)),
        "{:?}",
        verdict.differences
    );
    let words = site.run(&["verify"])?.expect_code(1)?.stdout;
    assert!(words.contains(file), "{file} isn't named in: {words}");
    assert!(
        words.contains(&records[0].to_string()),
        "record {} isn't named in: {words}",
        records[0]
    );
    Ok(())
}

#[test]
fn one_changed_byte_of_a_row_is_found_and_named() -> Result<()> {
    let site = site_with_records()?;
    is_found(
        &site,
        "UPDATE accounts_dat SET data = CAST(replace(CAST(data AS TEXT), 'OWNER', 'OWNeR') AS BLOB) WHERE record_number = 17",
        "accounts.dat",
        &[17],
    )?;
    site.finish();
    Ok(())
}

#[test]
fn a_missing_row_is_found_and_named() -> Result<()> {
    let site = site_with_records()?;
    is_found(
        &site,
        "DELETE FROM accounts_dat WHERE record_number = 5",
        "accounts.dat",
        &[5],
    )?;
    site.finish();
    Ok(())
}

#[test]
fn a_row_too_many_is_found_and_named() -> Result<()> {
    let site = site_with_records()?;
    is_found(
        &site,
        "INSERT INTO accounts_dat SELECT 900, data, rest FROM accounts_dat WHERE record_number = 1",
        "accounts.dat",
        &[900],
    )?;
    site.finish();
    Ok(())
}

#[test]
fn changed_rows_of_text_and_journal_are_found_by_their_addresses() -> Result<()> {
    let site = site_with_records()?;
    let address = *site
        .rows("switch_log")?
        .keys()
        .nth(10)
        .expect("the log has more than ten lines");
    let sql = format!(
        "UPDATE switch_log SET data = CAST('x' || substr(CAST(data AS TEXT), 2) AS BLOB) WHERE address = {address}"
    );
    is_found(&site, &sql, "switch.log", &[address])?;
    site.finish();
    Ok(())
}

#[test]
fn a_file_changed_by_an_uncaptured_program_is_read_again_or_found() -> Result<()> {
    let shape = Shape::Fixed { size: 100 };
    let site = Site::with(
        "uncaptured",
        &[Group::new("group", "none").file("records.dat", shape)],
    )?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["records.dat", "50"])?;
    site.assert_mirrored()?;
    // Nobody saw this; the next start reads the file again.
    let mut bytes = std::fs::read(site.path("records.dat"))?;
    bytes[1234] = b'!';
    std::fs::write(site.path("records.dat"), bytes)?;
    let verdict = site.verify()?;
    assert_eq!(
        verdict
            .differences
            .iter()
            .filter_map(|d| d.record)
            .collect::<Vec<_>>(),
        [13]
    );
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
