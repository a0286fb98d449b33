//! While everything runs: files that were there before, files that appear, and files that are replaced.

use anyhow::Result;
use counterfoil_tests::{Group, Program, Shape, Site, c, wait_until};

const RECORD: Shape = Shape::Fixed { size: 100 };

fn wait_for_rows(site: &Site, table: &str, count: usize) -> Result<()> {
    wait_until(&format!("{count} rows in {table}"), || {
        match site.rows(table) {
            Ok(rows) if rows.len() == count => Ok(()),
            Ok(rows) => Err(format!("{} rows", rows.len())),
            Err(error) => Err(format!("{error:#}")),
        }
    })
}

#[test]
fn content_from_before_capture_is_loaded_and_live_changes_follow() -> Result<()> {
    let writer = c("record_writer")?;
    let site = Site::with(
        "initial",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    site.uncaptured(&writer, &["records.dat", "5000"])?;
    let replicator = site.replicator()?;
    wait_for_rows(&site, "records_dat", 5000)?;
    site.exec_to_end(&writer, &["records.dat", "500"])?;
    wait_for_rows(&site, "records_dat", 5500)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_file_is_loaded_while_a_program_writes_to_it() -> Result<()> {
    let site = Site::with("load-live", &[Group::card_switch()])?;
    let switch = c("card_switch")?;
    site.uncaptured(&switch, &[".", "--cards", "2000", "--payments", "20000"])?;
    let program = site.exec(&switch, &[".", "--rate", "3000", "--seconds", "2"])?;
    let replicator = site.replicator()?;
    program.finish()?.success()?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_glob_picks_up_new_files_while_program_and_replicator_run() -> Result<()> {
    let site = Site::with(
        "globs",
        &[Group::new("group", "none").file("*.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    let exerciser = c("file_exerciser")?;
    // One program makes one file after the other; none of them was there when it started.
    let mut text = String::new();
    for number in 0..20 {
        text.push_str(&format!(
            "open 100 new-{number}.dat bc\nwrite 100 {}\nclose 100\n",
            "4e".repeat(100)
        ));
    }
    text.push_str(&format!(
        "stdio outside.tmp w {} -\nrename outside.tmp moved-in.dat = 0\n",
        "4d".repeat(100)
    ));
    std::fs::write(site.path("script"), text)?;
    site.exec_to_end(&exerciser, &["script"])?;
    for number in 0..20 {
        wait_for_rows(&site, &format!("new_{number}_dat"), 1)?;
    }
    wait_for_rows(&site, "moved_in_dat", 1)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn files_copied_in_by_an_uncaptured_program_are_picked_up() -> Result<()> {
    let site = Site::with(
        "copied",
        &[Group::new("group", "none").file("*.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    site.uncaptured(&c("record_writer")?, &["outside", "200"])?;
    site.uncaptured(&Program::named("cp"), &["outside", "copied.dat"])?;
    wait_for_rows(&site, "copied_dat", 200)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_file_replaced_removed_and_made_again_is_followed() -> Result<()> {
    let site = Site::with(
        "replaced",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["records.dat", "100"])?;
    wait_for_rows(&site, "records_dat", 100)?;
    site.exec_to_end(&writer, &["records.new", "30"])?;
    site.exec_to_end(&Program::named("mv"), &["records.new", "records.dat"])?;
    wait_for_rows(&site, "records_dat", 30)?;
    site.exec_to_end(&Program::named("rm"), &["records.dat"])?;
    wait_until("the table to go", || match site.tables() {
        Ok(tables) if tables.is_empty() => Ok(()),
        Ok(tables) => Err(format!("{tables:?}")),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.exec_to_end(&writer, &["records.dat", "7"])?;
    wait_for_rows(&site, "records_dat", 7)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn nothing_is_captured_twice_or_lost_when_the_replicator_comes_and_goes() -> Result<()> {
    let site = Site::with(
        "comes-and-goes",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    let writer = c("record_writer")?;
    for round in 1..=6 {
        let replicator = site.replicator()?;
        let program = site.exec(&writer, &["records.dat", "3000"])?;
        if round % 2 == 0 {
            site.stop(replicator)?;
            program.finish()?.success()?;
        } else {
            program.finish()?.success()?;
            site.stop(replicator)?;
        }
    }
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 18_000);
    site.finish();
    Ok(())
}

#[test]
fn status_says_what_is_there_in_words_and_in_json() -> Result<()> {
    let site = Site::with(
        "status",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "100"])?;
    wait_for_rows(&site, "records_dat", 100)?;
    // What status says is a little older than what the tables hold.
    wait_until("status to have counted the writes", || {
        match site.status() {
            Ok(status)
                if status["running"] == true && status["operations"].as_u64() >= Some(100) =>
            {
                Ok(())
            }
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    let words = site.run(&["status"])?.success()?.stdout;
    assert!(words.contains("test/group"), "{words}");
    site.stop(replicator)?;
    assert_eq!(site.status()?["running"], false);
    site.finish();
    Ok(())
}

#[test]
fn a_second_replicator_on_the_same_state_is_refused() -> Result<()> {
    let site = Site::with(
        "second",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "10"])?;
    wait_for_rows(&site, "records_dat", 10)?;
    site.run(&["run", "--until-idle"])?
        .refused_with(&["state"])?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A directory that is away (a volume not mounted, say) is no reason to give up what was mirrored from it. One that is
/// there without the files is: somebody removed them.
#[test]
fn rows_outlive_a_directory_that_is_away_and_not_files_that_were_removed() -> Result<()> {
    let site = Site::with(
        "away",
        &[Group::new("group", "none").file("sub/*.dat", RECORD)],
    )?;
    std::fs::create_dir(site.path("sub"))?;
    site.exec_to_end(&c("record_writer")?, &["sub/records.dat", "50"])?;
    site.settle()?;
    let away = site.root().join("away");
    std::fs::rename(site.path("sub"), &away)?;
    site.settle()?;
    assert_eq!(
        site.rows("records_dat")?.len(),
        50,
        "rows of a directory that is away"
    );
    assert!(
        !site.verify()?.equal,
        "verify says that the file isn't there"
    );
    std::fs::rename(&away, site.path("sub"))?;
    site.assert_mirrored()?;
    std::fs::remove_file(site.path("sub/records.dat"))?;
    site.settle()?;
    assert_eq!(
        site.tables()?,
        Vec::<String>::new(),
        "a file that was removed"
    );
    site.finish();
    Ok(())
}

/// Neither an old time of modification nor a captured write shortly before hides what somebody unseen did.
#[test]
fn what_an_uncaptured_program_changes_is_found_whatever_the_times_say() -> Result<()> {
    let site = Site::with(
        "unseen",
        &[Group::new("group", "none").file("*.dat", RECORD)],
    )?;
    let writer = c("record_writer")?;
    site.uncaptured(&writer, &["other", "100"])?;
    let replicator = site.replicator()?;
    site.exec_to_end(&writer, &["records.dat", "100"])?;
    wait_for_rows(&site, "records_dat", 100)?;
    site.uncaptured(&Program::named("truncate"), &["-s", "3000", "other"])?;
    site.uncaptured(&Program::named("touch"), &["-d", "2001-01-01", "other"])?;
    site.uncaptured(&Program::named("cp"), &["-p", "other", "records.dat"])?;
    wait_until("the copy to be noticed", || match site.verify() {
        Ok(verdict) if verdict.equal => Ok(()),
        Ok(_) => Err("verify finds differences".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
