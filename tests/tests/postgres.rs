//! PostgreSQL as the target: from captured writes to rows and back to files, with the server away at the start, killed in
//! the middle, and killed at random beside the replicator.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::Postgres;
use counterfoil_tests::{Chance, Group, Process, Program, Site, c, cobol, rounds, wait_until};
use std::time::{Duration, Instant};

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

fn pay(site: &Site, switch: &Program, payments: &str, seed: &str) -> Result<()> {
    let arguments = [".", "--cards", "60", "--payments", payments, "--seed", seed];
    site.exec_to_end(switch, &arguments)?;
    Ok(())
}

/// What is restored from the database passes the program's own audit.
fn audit(site: &Site) -> Result<()> {
    let restored = site.restore()?;
    let auditor = c("card_switch")?;
    site.uncaptured(&auditor, &["--audit".as_ref(), restored.as_os_str()])
        .context("auditing the restored files")?;
    Ok(())
}

#[test]
fn a_cobol_program_is_mirrored_and_restored() -> Result<()> {
    let server = Postgres::shared()?;
    server.create_database("cobol")?;
    let site = site("postgres", server, "cobol")?;
    let checked = site.run(&["check"])?;
    ensure!(
        checked.stdout.contains("PostgreSQL") && checked.stdout.contains("its tables will be made"),
        "check says: {}{}",
        checked.stdout,
        checked.stderr
    );
    let switch = cobol("card_switch")?;
    pay(&site, &switch, "300", "1")?;
    site.assert_mirrored()?;
    let rows = server.sql("cobol", "SELECT count(*) FROM pay.cards_dat")?;
    ensure!(rows.trim() != "0", "there are no cards in PostgreSQL");
    audit(&site)?;
    // And verify sees what somebody does to a row.
    server.sql(
        "cobol",
        "UPDATE pay.accounts_dat SET data = overlay(data PLACING 'X' FROM 3) WHERE record_number = 2",
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

/// What is captured while the server is away waits in the journal.
#[test]
fn a_server_that_is_away_is_waited_for() -> Result<()> {
    let server = Postgres::start("")?;
    let site = site("postgres-away", &server, "postgres")?;
    let switch = c("card_switch")?;
    pay(&site, &switch, "50", "1")?;
    site.settle()?;
    // Down at the start,
    server.kill()?;
    let checked = site.run(&["check"])?;
    ensure!(
        checked.stdout.contains("start the server") && checked.status.code() == Some(1),
        "check says: {}",
        checked.stdout
    );
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    pay(&site, &switch, "50", "2")?;
    wait_until("the status to say what is wrong", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status.to_string();
        (text.contains("PostgreSQL") && text.contains("tried again"))
            .then_some(())
            .ok_or(text)
    })?;
    server.raise()?;
    // and in the middle.
    wait_until("the server's return to be noticed", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status.to_string();
        (!text.contains("tried again")).then_some(()).ok_or(text)
    })?;
    server.kill()?;
    pay(&site, &switch, "50", "3")?;
    server.raise()?;
    pay(&site, &switch, "50", "4")?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    audit(&site)?;
    site.finish();
    Ok(())
}

/// SIGKILL to the server, the replicator, or both, at random moments.
#[test]
fn killing_server_and_replicator_loses_and_repeats_nothing() -> Result<()> {
    let server = Postgres::start("")?;
    let site = site("postgres-kills", &server, "postgres")?;
    let mut chance = Chance::new(Chance::seed());
    let switch = c("card_switch")?;
    pay(&site, &switch, "20", "1")?;
    site.settle()?;
    let mut replicator: Option<Process> = None;
    let mut program: Option<Process> = None;
    for round in 1..=rounds(6) {
        if replicator.is_none() {
            replicator = Some(site.replicator()?);
        }
        if program.is_none() {
            let seed = (1 + chance.below(100_000)).to_string();
            let arguments = [".", "--cards", "60", "--rate", "1000", "--seed", &seed];
            program = Some(site.exec(&switch, &arguments)?);
        }
        let moment = Instant::now() + Duration::from_micros(chance.below(400_000));
        wait_until("the moment to strike", || {
            (Instant::now() >= moment)
                .then_some(())
                .ok_or_else(|| "early".to_owned())
        })?;
        let (server_too, replicator_too) =
            *chance.pick(&[(true, false), (false, true), (true, true)]);
        if let Some(running) = replicator.as_mut() {
            ensure!(
                running.is_running()?,
                "round {round}: the replicator had ended by itself: {}",
                running.stderr()
            );
        }
        if server_too {
            server.kill()?;
        }
        if replicator_too && let Some(mut running) = replicator.take() {
            running.kill()?;
        }
        if server_too {
            server.raise()?;
        }
    }
    if let Some(mut running) = program.take() {
        running.kill()?;
    }
    if let Some(mut running) = replicator.take() {
        running.kill()?;
    }
    site.assert_mirrored()?;
    pay(&site, &switch, "20", "2")?;
    site.assert_mirrored()?;
    audit(&site)?;
    site.finish();
    Ok(())
}
