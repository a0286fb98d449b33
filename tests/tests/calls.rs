//! Ways to change a file other than writing to it: mappings, links, nameless files, holes.

use anyhow::Result;
use counterfoil_tests::{Group, Shape, Site, c, wait_until};

const RECORD: Shape = Shape::Fixed { size: 100 };

fn site(name: &str) -> Result<Site> {
    Site::with(name, &[Group::new("group", "none").file("*.dat", RECORD)])
}

/// Waits until record `record` (from 0) of a table is a hundred of this letter.
fn wait_for_record(site: &Site, table: &str, record: usize, letter: u8) -> Result<()> {
    wait_until(
        &format!("record {record} of {table} to be all {}", letter as char),
        || match site.rows(table) {
            Ok(rows) => match rows.values().nth(record) {
                Some(bytes) if bytes == &[letter; 100] => Ok(()),
                other => Err(format!("{} rows, {other:?}", rows.len())),
            },
            Err(error) => Err(format!("{error:#}")),
        },
    )
}

#[test]
fn what_changed_through_a_mapping_is_mirrored_when_it_ends() -> Result<()> {
    let site = site("mapping")?;
    let replicator = site.replicator()?;
    site.exec_to_end(&c("ways_to_change")?, &["map"])?;
    wait_for_record(&site, "mapped_dat", 3, b'b')?;
    wait_for_record(&site, "mapped_dat", 20, b'c')?;
    wait_for_record(&site, "mapped_dat", 49, b'a')?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn what_a_killed_program_left_in_its_mapping_is_mirrored() -> Result<()> {
    let site = site("mapping-killed")?;
    let replicator = site.replicator()?;
    let program = site.exec(&c("ways_to_change")?, &["msync"])?;
    assert!(program.finish()?.status.code().is_none());
    wait_for_record(&site, "mapped_dat", 20, b'c')?;
    wait_for_record(&site, "mapped_dat", 4, b'b')?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_file_that_is_linked_to_its_name_is_mirrored_from_before_and_after() -> Result<()> {
    let site = site("linked")?;
    let replicator = site.replicator()?;
    let program = c("ways_to_change")?;
    site.exec_to_end(&program, &["link"])?;
    wait_for_record(&site, "linked_dat", 0, b'a')?;
    wait_for_record(&site, "linked_dat", 10, b'b')?;
    wait_for_record(&site, "linked_dat", 34, b'c')?;
    site.exec_to_end(&program, &["tmpfile"])?;
    wait_for_record(&site, "tmpfile_dat", 0, b'a')?;
    wait_for_record(&site, "tmpfile_dat", 29, b'b')?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn link_and_unlink_is_a_rename() -> Result<()> {
    let site = site("relinked")?;
    let replicator = site.replicator()?;
    site.exec_to_end(&c("ways_to_change")?, &["relink"])?;
    wait_for_record(&site, "relinked_dat", 5, b'e')?;
    wait_for_record(&site, "relinked_dat", 6, b'f')?;
    wait_for_record(&site, "relinked_dat", 19, b'd')?;
    wait_until("the old table to go", || match site.tables() {
        Ok(tables) if tables == ["relinked_dat"] => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn holes_and_moved_ranges_are_mirrored() -> Result<()> {
    let site = site("punched")?;
    let replicator = site.replicator()?;
    site.exec_to_end(&c("ways_to_change")?, &["punch"])?;
    wait_until("the last records", || match site.rows("punched_dat") {
        Ok(rows) if rows.values().filter(|row| ***row == [b'b'; 100]).count() == 3 => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.restore_and_compare()?;
    site.finish();
    Ok(())
}
