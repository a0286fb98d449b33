//! A configuration that is changed while everything runs: gone on with if it is sound, told of if it isn't.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Group, Shape, Site, c, wait_until};
use std::path::Path;

const RECORD: Shape = Shape::Fixed { size: 100 };

/// Writes a sink's own file, as an editor does: beside it, then in its place.
fn edit(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).context("writing a sink's file")?;
    std::fs::rename(&beside, path).context("naming a sink's file")
}

fn tables(site: &Site) -> Result<Vec<String>, String> {
    site.tables().map_err(|error| format!("{error:#}"))
}

/// (`counterfoil status` reads the configuration too, and says what is wrong with it.)
fn wait_for_problem(site: &Site, what: &str) -> Result<()> {
    wait_until(&format!("the status to say {what:?}"), || {
        let status = std::fs::read_to_string(site.state().join("status.json"));
        let status = status.map_err(|error| error.to_string())?;
        status.contains(what).then_some(()).ok_or(status)
    })
}

fn wait_for_rows(site: &Site, table: &str, count: usize) -> Result<()> {
    wait_until(&format!("{count} rows in {table}"), || {
        let rows = site.rows(table).map_err(|error| format!("{error:#}"))?;
        (rows.len() == count)
            .then_some(())
            .ok_or(format!("{} rows", rows.len()))
    })
}

#[test]
fn a_sinks_own_file_is_heeded_while_everything_runs() -> Result<()> {
    let site = Site::new("reload")?;
    let group = Group::new("group", "none")
        .file("one.dat", RECORD)
        .file("two.dat", RECORD);
    let directory = site.root().join("sinks.d");
    std::fs::create_dir(&directory).context("making sinks.d")?;
    let sink = directory.join("here.toml");
    let (one, two) = (site.path("one.dat"), site.path("two.dat"));
    let here = |rest: &str| {
        format!(
            "name = \"here\"\n{rest}\n[sqlite]\npath = {:?}\n",
            site.database()
        )
    };
    edit(&sink, &here(&format!("include = [{one:?}]")))?;
    let text = site.config_text(&[group]);
    site.configure_text(&format!(
        "{text}\n[sinks]\ninclude = [{:?}]\n",
        directory.join("*.toml")
    ))?;
    let writer = c("record_writer")?;
    let mut replicator = site.replicator()?;
    site.exec_to_end(&writer, &["one.dat", "10"])?;
    site.exec_to_end(&writer, &["two.dat", "10"])?;
    wait_for_rows(&site, "one_dat", 10)?;
    ensure!(
        tables(&site).map_err(anyhow::Error::msg)? == ["one_dat"],
        "only what is included"
    );
    ensure!(site.verify()?.equal, "what isn't included isn't missed");

    // Of no use: it is told, and what was before goes on.
    edit(&sink, &here("includes = []"))?;
    wait_for_problem(&site, "unknown key `includes`")?;
    ensure!(replicator.is_running()?, "it goes on");

    // A target that can't be opened is no reason to end either.
    let nowhere = format!(
        "name = \"here\"\n[sqlite]\npath = {:?}\n",
        site.root().join("no/such/directory/x.db")
    );
    edit(&sink, &nowhere)?;
    wait_for_problem(&site, "no/such/directory")?;

    // Sound again, with one more file, another name for a table, and a sink that is new.
    let second = site.root().join("second.db");
    std::fs::write(
        directory.join("second.toml"),
        format!("name = \"second\"\n[sqlite]\npath = {second:?}\n"),
    )
    .context("writing another sink's file")?;
    edit(
        &sink,
        &here(&format!(
            "include = [{one:?}, {two:?}]\n[table.second_file]\nfile = {two:?}\n"
        )),
    )?;
    wait_until("tables of both files", || match tables(&site)? {
        tables if tables == ["one_dat", "second_file"] => Ok(()),
        tables => Err(format!("{tables:?}")),
    })?;
    site.exec_to_end(&writer, &["two.dat", "20"])?;
    wait_until("everything to be equal in both sinks", || {
        let verdict = site.verify().map_err(|error| format!("{error:#}"))?;
        let both = rusqlite::Connection::open(&second)
            .and_then(|it| {
                it.query_row("SELECT count(*) FROM two_dat", [], |row| {
                    row.get::<_, u32>(0)
                })
            })
            .map_err(|error| error.to_string())?;
        (verdict.equal && both == 30)
            .then_some(())
            .ok_or(format!("{both} rows"))
    })?;
    let status = site.status()?;
    ensure!(
        !status["problems"].to_string().contains("configuration"),
        "nothing is wrong any more: {status}"
    );
    site.stop(replicator)?;
    site.finish();
    Ok(())
}
