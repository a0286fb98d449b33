//! Databases by ODBC as the target: from captured writes to rows and back to files, through Debian's drivers.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres};
use counterfoil_tests::{Group, Site, audit, cobol, outlives_kills, pay, waits_for_server};
use std::path::{Path, PathBuf};

/// A driver, by the path of its library: nothing has to be registered then.
fn driver(library: &str) -> PathBuf {
    Path::new("/usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH))
        .join("odbc")
        .join(library)
}

/// The card switch's site, with one sink in a file of its own.
fn site(name: &str, connection: &str, more: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(&[Group::card_switch()]);
    site.configure_text(&format!(
        "{text}\n[sinks]\ninclude = [\"sinks.d/*.toml\"]\n"
    ))?;
    let sinks = site.root().join("sinks.d");
    std::fs::create_dir(&sinks).context("making sinks.d")?;
    let sink = format!(
        "name = \"dr\"\n[odbc]\nconnection = {connection:?}\nlock_wait_timeout_ms = 2000\n{more}"
    );
    std::fs::write(sinks.join("dr.toml"), sink).context("writing the sink's file")?;
    Ok(site)
}

fn in_postgres(server: &Postgres, database: &str) -> String {
    format!(
        "Driver={};Server={};Port={};Database={database}",
        driver("psqlodbcw.so").display(),
        server.socket_dir().display(),
        server.port()
    )
}

fn in_mariadb(server: &Mariadb, database: &str) -> String {
    format!(
        "Driver={};Socket={};Database={database}",
        driver("libmaodbc.so").display(),
        server.socket().display()
    )
}

#[test]
fn a_cobol_program_is_mirrored_and_restored() -> Result<()> {
    let server = Postgres::shared()?;
    server.create_database("cards")?;
    let site = site(
        "odbc",
        &in_postgres(server, "cards"),
        "username = \"postgres\"\n",
    )?;
    let checked = site.run(&["check"])?;
    ensure!(
        checked
            .stdout
            .contains("PostgreSQL, dialect postgresql: its tables will be made"),
        "check says: {}{}",
        checked.stdout,
        checked.stderr
    );
    let switch = cobol("card_switch")?;
    pay(&site, &switch, "300", "1")?;
    site.assert_mirrored()?;
    let rows = server.sql("cards", "SELECT COUNT(*) FROM cards_dat")?;
    ensure!(rows.trim() != "0", "there are no cards in PostgreSQL");
    audit(&site)?;
    // And verify sees what somebody does to a row, through the view that people have.
    server.sql(
        "cards",
        "UPDATE accounts_dat SET data = overlay(data placing 'X'::bytea from 3) WHERE record_number = 2",
    )?;
    let verdict = site.verify()?;
    ensure!(!verdict.equal, "verify saw nothing");
    let wrong = &verdict.differences[0];
    ensure!(
        wrong.path.ends_with("accounts.dat") && wrong.record == Some(2),
        "verify names {wrong:?}"
    );
    site.finish();
    Ok(())
}

#[test]
fn a_server_that_is_away_is_waited_for() -> Result<()> {
    let server = Postgres::start("")?;
    server.create_database("cards")?;
    let site = site(
        "odbc-away",
        &in_postgres(&server, "cards"),
        "username = \"postgres\"\n",
    )?;
    waits_for_server(&site, &server, "ODBC data source")?;
    site.finish();
    Ok(())
}

#[test]
fn killing_server_and_replicator_loses_and_repeats_nothing() -> Result<()> {
    let server = Mariadb::start(&[])?;
    let database = server.create_database()?;
    let site = site(
        "odbc-kills",
        &in_mariadb(&server, &database),
        "username = \"root\"\n",
    )?;
    outlives_kills(&site, &server)?;
    site.finish();
    Ok(())
}
