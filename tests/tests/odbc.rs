//! Databases by ODBC as the target: from captured writes to rows and back to files, through Debian's drivers.

use anyhow::{Context as _, Result};
use counterfoil_servers::{Mariadb, Postgres};
use counterfoil_tests::{Group, Site, mirrors_cobol, outlives_kills, waits_for_server};
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
    mirrors_cobol(
        &site,
        &|sql| server.sql("cards", sql),
        &["PostgreSQL, dialect postgresql: its tables will be made"],
        "SELECT COUNT(*) FROM cards_dat",
        "UPDATE accounts_dat SET data = overlay(data placing 'X'::bytea from 3) WHERE record_number = 2",
    )?;
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
