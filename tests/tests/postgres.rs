//! PostgreSQL as the target: from captured writes to rows and back to files, with the server away at the start, killed in
//! the middle, and killed at random beside the replicator.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::Postgres;
use counterfoil_tests::{
    Broker, Group, Site, audit, c, mirrors_cobol, outlives_kills, pay, wait_until, waits_for_server,
};

/// The card switch's site, with one sink in a file of its own: a schema in this database.
fn site(name: &str, server: &Postgres, database: &str) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(&[Group::card_switch()]);
    site.configure_text(&format!(
        "{text}\n[sinks]\ninclude = [\"sinks.d/*.toml\"]\n"
    ))?;
    let sinks = site.root().join("sinks.d");
    std::fs::create_dir(&sinks).context("making sinks.d")?;
    let sink = format!(
        "name = \"dr\"\n[postgres]\nurl = {:?}\nschema = \"pay\"\nconnect_timeout_ms = 5000\n",
        server.url(database)
    );
    std::fs::write(sinks.join("dr.toml"), sink).context("writing the sink's file")?;
    Ok(site)
}

#[test]
fn a_cobol_program_is_mirrored_and_restored() -> Result<()> {
    let server = Postgres::shared()?;
    server.create_database("cobol")?;
    let site = site("postgres", server, "cobol")?;
    mirrors_cobol(
        &site,
        &|sql| server.sql("cobol", sql),
        &["PostgreSQL", "its tables will be made"],
        "SELECT count(*) FROM pay.cards_dat",
        "UPDATE pay.accounts_dat SET data = overlay(data PLACING 'X' FROM 3) WHERE record_number = 2",
    )?;
    site.finish();
    Ok(())
}

#[test]
fn a_server_that_is_away_is_waited_for() -> Result<()> {
    let server = Postgres::start("")?;
    let site = site("postgres-away", &server, "postgres")?;
    waits_for_server(&site, &server, "PostgreSQL")?;
    site.finish();
    Ok(())
}

/// From Kafka, not even the first start needs the server: the topic holds what comes.
#[test]
fn apply_waits_for_a_server_that_was_never_there() -> Result<()> {
    let server = Postgres::start("")?;
    let site = site("postgres-apply", &server, "postgres")?;
    let broker = Broker::start(&site)?;
    let text = std::fs::read_to_string(site.config()).context("reading the configuration")?;
    site.configure_text(&(text + &broker.config()))?;
    pay(&site, &c("card_switch")?, "50", "1")?;
    site.run(&["capture", "--until-idle"])?.success()?;
    server.kill()?;
    let mut apply = site.start(site.counterfoil(&["apply"]))?;
    wait_until("the status to say what is wrong", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status.to_string();
        (text.contains("PostgreSQL") && text.contains("tried again"))
            .then_some(())
            .ok_or(text)
    })?;
    ensure!(apply.is_running()?, "apply has ended: {}", apply.stderr());
    server.raise()?;
    wait_until("payments in PostgreSQL", || {
        let rows = server
            .sql("postgres", "SELECT count(*) FROM pay.journal_dat")
            .map_err(|error| format!("{error:#}"))?;
        (rows.trim() == "50").then_some(()).ok_or(rows)
    })?;
    apply.terminate();
    apply.finish()?.success()?;
    ensure!(site.verify()?.equal, "verify finds differences");
    audit(&site)?;
    site.finish();
    Ok(())
}

#[test]
fn killing_server_and_replicator_loses_and_repeats_nothing() -> Result<()> {
    let server = Postgres::start("")?;
    let site = site("postgres-kills", &server, "postgres")?;
    outlives_kills(&site, &server)?;
    site.finish();
    Ok(())
}
