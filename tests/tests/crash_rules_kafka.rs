//! The rules of `docs/crash-rules.md` with Kafka on the way: topics that lose what they had, and states and targets that come back
//! old. Files and rows are compared by the harness's own decoder.

use anyhow::{Result, ensure};
use counterfoil_tests::{
    Broker, Group, Process, Shape, Site, assert_rows, c, epoch, wait_for_rows, wait_until,
};
use std::fs;
use std::process::Command;

const RECORD: Shape = Shape::Fixed { size: 100 };
const FILE: [(&str, Shape); 1] = [("a.dat", RECORD)];

fn site(name: &str) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    let group = Group::new("g", "none").file("a.dat", RECORD);
    let kafka = broker.config() + "read_again_interval_minutes = 0\n";
    site.configure_text(&(site.config_text(&[group]) + &kafka))?;
    Ok((site, broker))
}

fn write(site: &Site, count: usize) -> Result<()> {
    site.exec_to_end(&c("record_writer")?, &["a.dat", &count.to_string()])?;
    Ok(())
}

fn halves(site: &Site) -> Result<[Process; 2]> {
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    site.wait_until_halves_run()?;
    Ok([capture, apply])
}

fn stop(halves: [Process; 2]) -> Result<()> {
    for process in halves {
        process.terminate();
        process.finish()?.success()?;
    }
    Ok(())
}

fn equal(site: &Site, halves: &[Process; 2]) -> Result<()> {
    wait_for_rows(site, &FILE).map_err(|error| {
        let [capture, apply] = halves;
        error.context(format!("{}\n{}", capture.stderr(), apply.stderr()))
    })
}

/// The topic is deleted, and made anew by somebody or by nobody, while both halves run.
#[test]
fn a_topic_that_is_deleted_or_made_anew_is_filled_again() -> Result<()> {
    for is_made in [false, true] {
        let (site, broker) = site("kafka-recreated")?;
        let halves = halves(&site)?;
        write(&site, 500)?;
        equal(&site, &halves)?;
        let before = epoch(&site)?;
        let topic = broker.topic("g");
        broker.delete_topic(&topic)?;
        if is_made {
            broker.create_topic(&topic)?;
        }
        write(&site, 50)?;
        equal(&site, &halves)?;
        // A target that begins now gets everything from the new topic.
        let [capture, apply] = halves;
        stop([apply, capture])?;
        fs::rename(site.database(), site.root().join("old.db"))?;
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(site.state().join(format!("counterfoil.db{suffix}")));
        }
        site.settle_apart()?;
        assert_rows(&site, &FILE)?;
        ensure!(epoch(&site)? > before, "still epoch {before}");
        site.finish();
    }
    Ok(())
}

/// What is in the topic is deleted before the target has it: what is missing is asked for, and read again from the files.
#[test]
fn what_is_deleted_from_a_topic_before_it_is_applied_is_read_again() -> Result<()> {
    let (site, broker) = site("kafka-truncated")?;
    write(&site, 300)?;
    site.settle_apart()?;
    let before = epoch(&site)?;
    let mut capture = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut capture)?;
    write(&site, 200)?;
    wait_until("the topic to have it", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        match status["sinks"]["kafka"]["operations_behind"].as_u64() {
            Some(0) if status["operations"].as_u64() >= Some(200) => Ok(()),
            _ => Err(status.to_string()),
        }
    })?;
    broker.truncate_topic(&broker.topic("g"))?;
    write(&site, 10)?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    let halves = [capture, apply];
    equal(&site, &halves)?;
    ensure!(
        halves[0]
            .stderr()
            .contains("asks for every file to be sent anew"),
        "{}",
        halves[0].stderr()
    );
    ensure!(epoch(&site)? > before, "still epoch {before}");
    stop(halves)?;
    assert_rows(&site, &FILE)?;
    site.finish();
    Ok(())
}

/// The target goes back while `apply` runs: what it lacks comes from the topic, and nothing is read from the files.
#[test]
fn a_target_restored_from_a_backup_is_filled_from_the_topic() -> Result<()> {
    let (site, _broker) = site("kafka-restored")?;
    let halves = halves(&site)?;
    write(&site, 100)?;
    equal(&site, &halves)?;
    let before = epoch(&site)?;
    let backup = site.root().join("backup.db");
    site.sqlite()?
        .execute("VACUUM INTO ?1", [backup.to_str()])?;
    write(&site, 400)?;
    equal(&site, &halves)?;
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(site.state().join(format!("counterfoil.db{suffix}")));
    }
    fs::rename(&backup, site.database())?;
    equal(&site, &halves)?;
    ensure!(epoch(&site)? == before, "everything was read again");
    let capture = halves[0].stderr();
    ensure!(!capture.contains("read again"), "{capture}");
    stop(halves)?;
    assert_rows(&site, &FILE)?;
    site.finish();
    Ok(())
}

/// The state directory of capture comes back from a backup, so topic and target are ahead of its journal. It can't know whether
/// another one has replaced it, so it refuses; moved away, everything is read again under an epoch above all that was.
#[test]
fn a_stream_ahead_of_a_state_directory_from_a_backup_is_refused_and_then_begun_anew() -> Result<()>
{
    let (site, broker) = site("kafka-old-state")?;
    // The target isn't in the backup.
    let target = site.root().join("target.db");
    let text = fs::read_to_string(site.config())?;
    let sink = format!("\n[[sink]]\nname = \"default\"\nsqlite = {{ path = {target:?} }}\n");
    site.configure_text(&(text + &sink))?;
    write(&site, 100)?;
    site.settle_apart()?;
    let backup = site.root().join("backup");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(site.state())
        .arg(&backup)
        .status()?;
    ensure!(copied.success(), "copying the state directory failed");
    write(&site, 200)?;
    site.settle_apart()?;
    fs::remove_dir_all(site.state())?;
    fs::rename(&backup, site.state())?;
    write(&site, 30)?;
    site.run(&["capture", "--until-idle"])?.refused_with(&[
        "another publisher has sent",
        &broker.topic("g"),
        "move the state directory",
    ])?;
    fs::rename(site.state(), site.root().join("moved"))?;
    site.settle_apart()?;
    std::os::unix::fs::symlink(&target, site.database())?;
    assert_rows(&site, &FILE)?;
    ensure!(epoch(&site)? > 1);
    site.finish();
    Ok(())
}
