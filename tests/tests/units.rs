//! Units of work: a reader of the mirror sees all of one, or nothing.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Group, Shape, Site, c, wait_until};

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

/// The number of the last payment in the mirror, once it has been found consistent; `None` where there
/// are no tables or payments yet.
fn consistent_payment(site: &Site) -> Result<Option<u64>> {
    let mut connection = site.sqlite()?;
    let transaction = connection.transaction()?;
    let entry: Option<Vec<u8>> = transaction
        .query_row(
            "SELECT data FROM journal_dat ORDER BY address DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .ok();
    let Some(entry) = entry else { return Ok(None) };
    let entry = String::from_utf8(entry).context("journal records are text")?;
    let (payment, slot) = (entry[1..13].parse::<u64>()?, entry[13..21].parse::<i64>()?);
    let card: Option<Vec<u8>> = transaction
        .query_row(
            "SELECT data FROM cards_dat WHERE slot_number = ?1",
            [slot],
            |row| row.get(0),
        )
        .ok();
    let last = |record: &[u8], from: usize| {
        String::from_utf8_lossy(&record[from..from + 12]).parse::<u64>()
    };
    match &entry[..1] {
        "P" => {
            let account: Vec<u8> = transaction
                .query_row(
                    "SELECT data FROM accounts_dat WHERE record_number = ?1",
                    [slot],
                    |row| row.get(0),
                )
                .with_context(|| format!("payment {payment}: no account {slot}"))?;
            assert_eq!(
                last(&account, 36)?,
                payment,
                "account {slot} lags behind the journal"
            );
            let card = card.with_context(|| format!("payment {payment}: no card {slot}"))?;
            assert_eq!(
                last(&card, 53)?,
                payment,
                "card {slot} lags behind the journal"
            );
        }
        "I" => {
            let card = card.with_context(|| {
                format!("card {slot} was issued by payment {payment}, but isn't there")
            })?;
            assert_eq!(last(&card, 53)?, payment, "card {slot} is an older one");
        }
        "C" => assert!(
            card.is_none(),
            "card {slot} was closed by payment {payment}, but is there"
        ),
        _ => {}
    }
    Ok(Some(payment))
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
