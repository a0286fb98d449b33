//! Several targets at once: one that is stuck holds up no other, and gets everything when it goes on.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::Postgres;
use counterfoil_tests::{Group, Shape, Site, c, wait_until};
use rusqlite::Connection;

const RECORD: Shape = Shape::Fixed { size: 100 };
/// More than is under way in memory.
const RECORDS: u32 = 60_000;

#[test]
fn one_stuck_target_holds_up_no_other() -> Result<()> {
    let site = Site::new("several-sinks")?;
    let second = site.root().join("second.db");
    let mut text = site.config_text(&[Group::new("group", "none").file("records.dat", RECORD)]);
    text.push_str(&format!(
        "\n[[sink]]\nname = \"default\"\nsqlite = {{ path = {:?} }}\n\
         \n[[sink]]\nname = \"second\"\nsqlite = {{ path = {second:?} }}\n",
        site.database(),
    ));
    site.configure_text(&text)?;
    let writer = c("record_writer")?;
    let replicator = site.replicator()?;
    site.exec_to_end(&writer, &["records.dat", "10"])?;
    let rows = |connection: &Connection| {
        connection
            .query_row("SELECT count(*) FROM records_dat", [], |row| {
                row.get::<_, u32>(0)
            })
            .map_err(|error| error.to_string())
    };
    let first = site.sqlite()?;
    wait_until("rows in both targets", || {
        let second = Connection::open(&second).map_err(|error| error.to_string())?;
        match (rows(&first)?, rows(&second)?) {
            (10, 10) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;

    let stuck = Connection::open(&second).context("opening the second target")?;
    stuck
        .execute_batch("BEGIN IMMEDIATE")
        .context("locking the second target")?;
    site.exec_to_end(&writer, &["records.dat", &(RECORDS - 10).to_string()])?;
    wait_until("all rows in the target that isn't stuck", || {
        match rows(&first)? {
            RECORDS => Ok(()),
            other => Err(other.to_string()),
        }
    })?;
    assert_eq!(rows(&stuck).map_err(anyhow::Error::msg)?, 10);
    wait_until("the status to say what waits for the stuck one", || {
        let status = site.status().map_err(|error| error.to_string())?;
        let sinks = &status["sinks"];
        let waits = sinks["second"]["spooled_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0);
        let none = sinks["default"]["spooled_bytes"] == 0;
        match waits && none && sinks["second"]["error"].is_string() {
            true => Ok(()),
            false => Err(sinks.to_string()),
        }
    })?;

    stuck
        .execute_batch("ROLLBACK")
        .context("unlocking the second target")?;
    wait_until("all rows in both targets", || match rows(&stuck)? {
        RECORDS => Ok(()),
        other => Err(other.to_string()),
    })?;
    site.stop(replicator)?;
    let file = std::fs::read(site.path("records.dat")).context("reading the file")?;
    for (name, target) in [("default", &first), ("second", &stuck)] {
        let mut statement = target.prepare("SELECT data FROM records_dat ORDER BY rowid")?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let rows: Vec<Vec<u8>> = rows.collect::<Result<_, _>>()?;
        assert!(rows.concat() == file, "{name} differs from the file");
        site.run(&["verify", "--sink", name])?.expect_code(0)?;
    }
    site.finish();
    Ok(())
}

/// What is to be sent to all of them waits for the one that is away; until then everything else goes on.
#[test]
fn reading_again_waits_for_a_target_that_is_away() -> Result<()> {
    let server = Postgres::start("")?;
    let site = Site::new("away-sink")?;
    let mut text = site.config_text(&[Group::new("group", "none").file("records.dat", RECORD)]);
    text.push_str(&format!(
        "\n[[sink]]\nname = \"default\"\nsqlite = {{ path = {:?} }}\n\
         \n[[sink]]\nname = \"server\"\npostgres = {{ url = {:?} }}\n",
        site.database(),
        server.url("postgres"),
    ));
    site.configure_text(&text)?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["records.dat", "10"])?;
    site.settle()?;
    server.kill()?;
    // Somebody deletes a row: only reading everything again brings it back.
    let here = site.sqlite()?;
    here.execute("DELETE FROM records_dat WHERE record_number = 3", [])?;
    let rows = || {
        let count = "SELECT count(*) FROM records_dat";
        here.query_row(count, [], |row| row.get::<_, u32>(0))
            .map_err(|error| error.to_string())
    };
    let mut replicator = site.start(site.counterfoil(&["run", "--read-again"]))?;
    site.wait_until_up(&mut replicator)?;
    site.exec_to_end(&writer, &["records.dat", "10"])?;
    wait_until("what is written meanwhile", || match rows()? {
        19 => Ok(()),
        other => Err(other.to_string()),
    })?;
    let status = site.status()?.to_string();
    ensure!(status.contains("tried again"), "the status says: {status}");
    server.raise()?;
    wait_until("everything to be read again", || match rows()? {
        20 => Ok(()),
        other => Err(other.to_string()),
    })?;
    wait_until("everything in the server", || {
        let verdict = site.run(&["verify", "--sink", "server", "--json"]);
        let verdict = verdict.map_err(|error| format!("{error:#}"))?;
        (verdict.status.code() == Some(0))
            .then_some(())
            .ok_or(verdict.stdout)
    })?;
    ensure!(
        replicator.is_running()?,
        "it has ended: {}",
        replicator.stderr()
    );
    site.stop(replicator)?;
    site.run(&["verify", "--sink", "default"])?.expect_code(0)?;
    site.finish();
    Ok(())
}
