//! MariaDB as the target: from captured writes to rows and back to files, with the server away at the start, killed in
//! the middle, and killed at random beside the replicator.

use anyhow::{Context as _, Result};
use counterfoil_servers::Mariadb;
use counterfoil_tests::{Group, Site, mirrors_cobol, outlives_kills, waits_for_server};

/// The card switch's site, with one sink in a file of its own: this database.
fn site(name: &str, server: &Mariadb, database: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(&[Group::card_switch()]);
    site.configure_text(&format!(
        "{text}\n[sinks]\ninclude = [\"sinks.d/*.toml\"]\n"
    ))?;
    let sinks = site.root().join("sinks.d");
    std::fs::create_dir(&sinks).context("making sinks.d")?;
    let sink = format!(
        "name = \"dr\"\n[mysql]\nurl = \"mysql://root@localhost/{database}\"\nsocket = {:?}\nlock_wait_timeout_s = 2\n",
        server.socket()
    );
    std::fs::write(sinks.join("dr.toml"), sink).context("writing the sink's file")?;
    Ok(site)
}

#[test]
fn a_cobol_program_is_mirrored_and_restored() -> Result<()> {
    let server = Mariadb::shared()?;
    let database = server.create_database()?;
    let site = site("mysql", server, &database)?;
    mirrors_cobol(
        &site,
        &|sql| server.sql(&database, sql),
        &["MariaDB", "its tables will be made"],
        "SELECT COUNT(*) FROM cards_dat",
        "UPDATE accounts_dat SET data = INSERT(data, 3, 1, 'X') WHERE record_number = 2",
    )?;
    site.finish();
    Ok(())
}

#[test]
fn a_server_that_is_away_is_waited_for() -> Result<()> {
    let server = Mariadb::start(&[])?;
    let database = server.create_database()?;
    let site = site("mysql-away", &server, &database)?;
    waits_for_server(&site, &server, "MySQL database")?;
    site.finish();
    Ok(())
}

#[test]
fn killing_server_and_replicator_loses_and_repeats_nothing() -> Result<()> {
    let server = Mariadb::start(&[])?;
    let database = server.create_database()?;
    let site = site("mysql-kills", &server, &database)?;
    outlives_kills(&site, &server)?;
    site.finish();
    Ok(())
}
