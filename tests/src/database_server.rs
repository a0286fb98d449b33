//! A card switch that is mirrored into a database of a server, which is away, or dies: the same for every server there is.

use crate::chance::{Chance, rounds};
use crate::programs::{Program, c, cobol};
use crate::site::Site;
use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres, Process, wait_until};
use std::time::{Duration, Instant};

/// A server that a test has for itself.
pub trait DatabaseServer {
    /// SIGKILL.
    fn kill(&self) -> Result<()>;

    /// Starts it again; it recovers what was committed.
    fn raise(&self) -> Result<()>;
}

impl DatabaseServer for Postgres {
    fn kill(&self) -> Result<()> {
        Postgres::kill(self)
    }

    fn raise(&self) -> Result<()> {
        Postgres::raise(self)
    }
}

impl DatabaseServer for Mariadb {
    fn kill(&self) -> Result<()> {
        Mariadb::kill(self)
    }

    fn raise(&self) -> Result<()> {
        Mariadb::raise(self)
    }
}

/// Has the switch make payments, to its end.
pub fn pay(site: &Site, switch: &Program, payments: &str, seed: &str) -> Result<()> {
    let arguments = [".", "--cards", "60", "--payments", payments, "--seed", seed];
    site.exec_to_end(switch, &arguments)?;
    Ok(())
}

/// What is restored from the database passes the program's own audit.
pub fn audit(site: &Site) -> Result<()> {
    let restored = site.restore()?;
    let auditor = c("card_switch")?;
    site.uncaptured(&auditor, &["--audit".as_ref(), restored.as_os_str()])
        .context("auditing the restored files")?;
    Ok(())
}

/// What a COBOL program writes is mirrored, restored and verified. `sql` runs SQL in the target, `check` has to say these
/// words of it, `cards` counts the cards, and `tamper` changes the second account.
pub fn mirrors_cobol(
    site: &Site,
    sql: &dyn Fn(&str) -> Result<String>,
    check: &[&str],
    cards: &str,
    tamper: &str,
) -> Result<()> {
    let checked = site.run(&["check"])?;
    ensure!(
        check.iter().all(|words| checked.stdout.contains(words)),
        "check says: {}{}",
        checked.stdout,
        checked.stderr
    );
    pay(site, &cobol("card_switch")?, "300", "1")?;
    site.assert_mirrored()?;
    ensure!(
        sql(cards)?.trim() != "0",
        "there are no cards in the target"
    );
    audit(site)?;
    // And verify sees what somebody does to a row.
    sql(tamper)?;
    let verdict = site.verify()?;
    ensure!(!verdict.equal, "verify saw nothing");
    let wrong = &verdict.differences[0];
    ensure!(
        wrong.path.ends_with("accounts.dat") && wrong.record == Some(2),
        "verify names {wrong:?}"
    );
    Ok(())
}

/// What is captured while the server is away, at the start and in the middle, waits in the journal. `called` is what errors
/// call the server.
pub fn waits_for_server(site: &Site, server: &dyn DatabaseServer, called: &str) -> Result<()> {
    let switch = c("card_switch")?;
    pay(site, &switch, "50", "1")?;
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
    pay(site, &switch, "50", "2")?;
    wait_until("the status to say what is wrong", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status.to_string();
        (text.contains(called) && text.contains("tried again"))
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
    pay(site, &switch, "50", "3")?;
    server.raise()?;
    pay(site, &switch, "50", "4")?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    audit(site)?;
    Ok(())
}

/// SIGKILL to the server, the replicator, or both, at random moments: nothing is lost, nothing is repeated.
pub fn outlives_kills(site: &Site, server: &dyn DatabaseServer) -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    let switch = c("card_switch")?;
    pay(site, &switch, "20", "1")?;
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
    pay(site, &switch, "20", "2")?;
    site.assert_mirrored()?;
    audit(site)?;
    Ok(())
}
