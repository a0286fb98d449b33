//! The servers themselves.

use anyhow::Result;
use counterfoil_servers::{Keeper, Postgres, wait_until};
use std::process::Command;

#[test]
fn postgres_survives_its_death() -> Result<()> {
    let server = Postgres::start("")?;
    server.create_database("x")?;
    server.sql("x", "CREATE TABLE t AS SELECT 7 AS n")?;
    server.kill()?;
    assert!(server.sql("x", "SELECT 1").is_err());
    server.raise()?;
    assert_eq!(server.sql("x", "SELECT n FROM t")?, "7\n");
    let directory = server.socket_dir().to_owned();
    drop(server);
    assert!(!directory.exists());
    Ok(())
}

/// What works in the directory is gone with the handle, and so is the directory.
#[test]
fn a_keeper_clears_up() -> Result<()> {
    let keeper = Keeper::new("test")?;
    let directory = keeper.directory().to_owned();
    let mut child = Command::new("sleep")
        .arg("600")
        .current_dir(&directory)
        .spawn()?;
    drop(keeper);
    assert!(!directory.exists());
    wait_until("the process to be gone", || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}
