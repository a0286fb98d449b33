//! Databases by ODBC as the target: from captured writes to rows and back to files, through Debian's drivers.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres};
use counterfoil_tests::{
    CARD_COLUMNS, Group, Site, cards_config, cobol, mirrors_cobol, outlives_kills,
    waits_for_server, written_cards,
};
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
    site_of(name, Group::card_switch(), connection, more)
}

/// A site of these files, with one sink in a file of its own.
fn site_of(name: &str, group: Group, connection: &str, more: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(&[group]);
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
fn a_history_has_every_version_of_a_card() -> Result<()> {
    let server = Mariadb::shared()?;
    let database = server.create_database()?;
    let site = site_of(
        "odbc-history",
        Group::new("cards", "none").file_as("cards.dat", &cards_config()),
        &in_mariadb(server, &database),
        "username = \"root\"\n[table.card_history]\nfile = \"../data/cards.dat\"\nmode = \"history\"\n",
    )?;
    let finished = site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    let written = written_cards(&finished.stdout)?;
    site.settle()?;
    let told = server.sql(
        &database,
        &format!(
            "SELECT CASE op WHEN 'put' THEN CONCAT({}) ELSE op END FROM card_history ORDER BY slot_number, epoch, lsn, idx",
            CARD_COLUMNS.join(", '|', ")
        ),
    )?;
    let versions: Vec<String> = written
        .values()
        .flatten()
        .map(|version| match version {
            Some(fields) => fields.join("|"),
            None => "delete".to_owned(),
        })
        .collect();
    let told: Vec<&str> = told.lines().collect();
    ensure!(told == versions, "it has {told:#?}, not {versions:#?}");
    ensure!(site.verify()?.equal, "the last version of each is the file");
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
