//! Several targets at once: one that is stuck holds up no other, and gets everything when it goes on.

use anyhow::{Context as _, Result};
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
