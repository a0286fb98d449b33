//! Who writes, and whether it is captured: what `check`, `status` and `exec` say of running programs.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Group, Process, Program, Shape, Site, c, c_static, wait_until};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

fn lines() -> Group {
    Group::new("group", "none").file("*.dat", Shape::Lines)
}

/// A program without capture.
fn uncaptured(site: &Site, program: &Program, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(&program.words[0]);
    command
        .args(&program.words[1..])
        .args(arguments)
        .current_dir(site.data());
    ready(site.start(command)?)
}

fn ready(mut process: Process) -> Result<Process> {
    wait_until("the program to have its file open", || {
        if process.stdout().contains("ready") {
            return Ok(());
        }
        match process.is_running() {
            Ok(true) => Err("not yet".to_owned()),
            other => Err(format!("{other:?}: {}", process.stderr())),
        }
    })?;
    Ok(process)
}

/// `counterfoil check --json`'s findings about coverage that name a process.
fn findings(site: &Site, process: &Process) -> Result<Vec<Value>> {
    let said = site.run(&["check", "--json"])?.success()?.stdout;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let name = format!("(process {})", process.id());
    let all = report["findings"].as_array().context("no findings")?;
    Ok(all
        .iter()
        .filter(|finding| finding["check"] == "coverage")
        .filter(|finding| finding.to_string().contains(&name))
        .cloned()
        .collect())
}

/// The one warning about a process, as text.
fn warning(site: &Site, process: &Process) -> Result<String> {
    let findings = findings(site, process)?;
    let warnings: Vec<&Value> = findings
        .iter()
        .filter(|finding| finding["level"] == "warning")
        .collect();
    anyhow::ensure!(warnings.len() == 1, "{findings:#?}");
    Ok(warnings[0].to_string())
}

/// What `status --json` says of coverage, once `is_there` finds in it what it looks for.
fn coverage<T>(
    site: &Site,
    what: &str,
    mut is_there: impl FnMut(&Value) -> Option<T>,
) -> Result<T> {
    wait_until(what, || match site.status() {
        Ok(status) => is_there(&status["coverage"]).ok_or_else(|| status.to_string()),
        Err(error) => Err(format!("{error:#}")),
    })
}

fn listed(coverage: &Value, list: &str, process: &Process) -> Option<Value> {
    let programs = coverage[list].as_array()?;
    programs
        .iter()
        .find(|program| program["pid"] == process.id())
        .cloned()
}

fn pids_in(text: &str, processes: &[&Process]) -> bool {
    processes
        .iter()
        .all(|process| text.contains(&format!("(process {})", process.id())))
}

#[test]
fn programs_that_write_uncaptured_are_named_with_the_reason() -> Result<()> {
    let site = Site::with("coverage", &[lines()])?;
    let (holder, fixed) = (c("holder")?, c_static("holder")?);
    let early = uncaptured(&site, &holder, &["early.dat", "open"])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let plain = uncaptured(&site, &holder, &["plain.dat", "open"])?;
    let mapping = uncaptured(&site, &holder, &["mapped.dat", "map"])?;
    let fixed = ready(site.exec(&fixed, &["static.dat", "open"])?)?;
    assert!(
        fixed.stderr().contains("is statically linked"),
        "exec says so at once: {}",
        fixed.stderr()
    );
    let captured = ready(site.exec(&holder, &["captured.dat", "open"])?)?;
    assert_eq!(captured.stderr(), "");

    for (process, file, reason) in [
        (&early, "early.dat", "before capture was set up"),
        (&plain, "plain.dat", "LD_PRELOAD"),
        (&mapping, "mapped.dat (mapped)", "LD_PRELOAD"),
        (&fixed, "static.dat", "statically linked"),
    ] {
        let said = warning(&site, process)?;
        assert!(said.contains(file) && said.contains(reason), "{said}");
    }
    let said = findings(&site, &captured)?;
    assert!(
        said.len() == 1
            && said[0]["level"] == "ok"
            && said[0]["message"]
                .to_string()
                .contains("1 program captured"),
        "{said:?}"
    );

    for (process, file, reason) in [
        (&plain, "plain.dat", "preload"),
        (&mapping, "mapped.dat", "preload"),
        (&fixed, "static.dat", "static"),
    ] {
        let program = coverage(&site, "the uncaptured program in the status", |coverage| {
            // The kernel may have told of it before anybody looked who has what open.
            listed(coverage, "uncaptured", process).filter(|program| program["open"] == true)
        })?;
        let name = program["program"].as_str().unwrap_or_default();
        assert!(name.starts_with("holder"), "{program}");
        assert_eq!(program["reason"], reason);
        assert_eq!(
            program["files"][0],
            site.path(file).to_str().context("text")?
        );
    }
    let words = site.run(&["status"])?.expect_code(1)?.stdout;
    let problems: String = words
        .lines()
        .filter(|line| line.starts_with("problem:"))
        .collect();
    assert!(pids_in(&problems, &[&plain, &mapping, &fixed]), "{words}");
    assert!(!pids_in(&problems, &[&captured]), "{words}");

    let program = coverage(&site, "the captured program in the status", |coverage| {
        listed(coverage, "programs", &captured)
    })?;
    assert_eq!(program["mode"], "patched");
    assert_eq!(program["release"], env!("CARGO_PKG_VERSION"));
    assert_eq!(program["lanes"], 1);

    let pid = plain.id();
    drop(plain);
    coverage(&site, "the program that ended to be gone", |coverage| {
        let all = coverage["uncaptured"].as_array()?;
        let is_open = |program: &&Value| program["pid"] == pid && program["open"] == true;
        all.iter().find(is_open).is_none().then_some(())
    })?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

#[test]
fn what_was_found_is_told_from_what_was_captured() -> Result<()> {
    let site = Site::with("ways", &[lines()])?;
    let holder = c("holder")?;
    std::fs::write(site.path("found.dat"), "one line\n")?;
    let replicator = site.replicator()?;
    coverage(&site, "the file to be loaded", |coverage| {
        (coverage["records_loaded"] == 1).then_some(())
    })?;
    let seen = uncaptured(&site, &holder, &["found.dat", "open"])?;
    let captured = ready(site.exec(&holder, &["captured.dat", "open"])?)?;
    for process in [&seen, &captured] {
        // SAFETY: a child that has not been waited for.
        unsafe { libc::kill(process.id().cast_signed(), libc::SIGUSR1) };
    }
    let told = coverage(&site, "both lines to be counted", |coverage| {
        (coverage["records_captured"] == 1 && coverage["records_found"].as_u64() >= Some(1))
            .then(|| coverage.clone())
    })?;
    assert_eq!(told["operations"]["write"], 1, "{told}");
    assert_eq!(told["operations"]["open"], 1, "{told}");
    assert!(told["rereads"]["uncaptured"].as_u64() >= Some(1), "{told}");
    assert!(told["compared_different"].as_u64() >= Some(1), "{told}");
    let status = wait_until("the files' own counts", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let of = |name: &str, count: &str| {
            let path = site.path(name);
            let files = status["files"].as_array()?;
            let file = files
                .iter()
                .find(|file| file["path"].as_str() == path.to_str())?;
            file[count].as_u64()
        };
        let is_there = of("found.dat", "found") >= Some(1)
            && of("found.dat", "captured") == Some(0)
            && of("found.dat", "loaded") == Some(1)
            && of("found.dat", "rereads") >= Some(1)
            && of("captured.dat", "captured") == Some(1)
            && of("captured.dat", "found") == Some(0);
        if is_there {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })?;
    let program = listed(&status["coverage"], "programs", &captured).context("not listed")?;
    assert_eq!(program["operations"], 2, "{program}");
    assert!(program["last_ns"].as_i64() > Some(0), "{program}");
    let words = site.run(&["status"])?.stdout;
    assert!(words.contains("settled by re-reading: "), "{words}");
    assert!(words.contains("records: 1 captured, "), "{words}");
    drop((seen, captured));
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_program_captured_by_symbols_only_is_told() -> Result<()> {
    let site = Site::with("symbols", &[lines()])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let mut command = site.captured(&c("holder")?, &["symbols.dat", "open"]);
    command.env("COUNTERFOIL_PATCH", "0");
    let program = ready(site.start(command)?)?;
    let said = warning(&site, &program)?;
    assert!(said.contains("by symbols only"), "{said}");
    let listed = coverage(&site, "the program in the status", |coverage| {
        listed(coverage, "programs", &program)
    })?;
    assert_eq!(listed["mode"], "symbols");
    drop(program);
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

#[test]
fn a_program_of_another_site_or_without_lanes_is_not_taken_for_captured() -> Result<()> {
    let (site, other) = (
        Site::with("here", &[lines()])?,
        Site::with("elsewhere", &[lines()])?,
    );
    let holder = c("holder")?;
    // Its site captures, but not here.
    let file = site.path("a.dat");
    let file = file.to_str().context("text")?;
    let elsewhere = ready(other.exec(&holder, &[file, "open"])?)?;
    let said = warning(&site, &elsewhere)?;
    assert!(said.contains("for another site"), "{said}");
    assert!(
        said.contains(other.state().to_str().context("text")?),
        "{said}"
    );
    let mut command = Command::new(&holder.words[0]);
    command
        .args([file, "open"])
        .env("LD_PRELOAD", counterfoil_tests::interposer()?);
    let lost = ready(site.start(command)?)?;
    let said = warning(&site, &lost)?;
    assert!(said.contains("COUNTERFOIL_LANES"), "{said}");
    drop((elsewhere, lost));
    site.finish();
    other.finish();
    Ok(())
}

/// The loader heeds no LD_PRELOAD where a program has more rights than who runs it. Only root can make such a program.
#[test]
fn a_program_with_more_rights_than_its_user_is_told() -> Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not run: it takes root to make a set-user-ID program of another user");
        return Ok(());
    }
    let site = Site::with("privileged", &[lines()])?;
    let own = site.root().join("holder");
    std::fs::copy(&c("holder")?.words[0], &own)?;
    chown(&own, Some(NOBODY), Some(NOBODY))?;
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o4755))?;
    std::fs::write(site.path("a.dat"), "")?;
    std::fs::set_permissions(site.path("a.dat"), std::fs::Permissions::from_mode(0o666))?;
    let program = Program {
        words: vec![own.into()],
    };
    let process = ready(site.exec(&program, &["a.dat", "open"])?)?;
    assert!(
        process.stderr().contains("more rights than its user"),
        "{}",
        process.stderr()
    );
    let said = warning(&site, &process)?;
    assert!(said.contains("more rights than its user"), "{said}");
    drop(process);
    site.finish();
    Ok(())
}

#[test]
fn writers_that_are_killed_and_writers_that_overlap_are_counted_apart() -> Result<()> {
    let site = Site::with(
        "reasons",
        &[Group::new("group", "none").file("*.dat", Shape::Fixed { size: 64 })],
    )?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let count = |reason: &str| -> Result<u64, String> {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let count = status["coverage"]["rereads"][reason].as_u64();
        count.ok_or_else(|| status.to_string())
    };
    let holder = c("holder")?;
    // Nearly all of its time it is in a write, so it rarely takes a second attempt.
    wait_until("a program to die in a write", || {
        let attempt = || -> Result<()> {
            let mut process = ready(site.exec(&holder, &["killed.dat", "churn"])?)?;
            let file = site.path("killed.dat");
            wait_until("its file to have content", || match file.metadata() {
                Ok(metadata) if metadata.len() > 0 => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
            process.kill()?;
            // It is looked after once it has no lanes any more.
            let pid = process.id();
            coverage(&site, "its end to be noticed", |coverage| {
                let all = coverage["programs"].as_array()?;
                all.iter()
                    .all(|program| program["pid"] != pid)
                    .then_some(())
            })
        };
        attempt().map_err(|error| format!("{error:#}"))?;
        match count("died")? {
            0 => Err("it died between two writes".to_owned()),
            _ => Ok(()),
        }
    })?;
    let writer = c("concurrent_writer")?;
    wait_until("two writers to be at the same bytes at once", || {
        site.exec_to_end(&writer, &["fought.dat", "2", "2", "500"])
            .map_err(|error| format!("{error:#}"))?;
        match count("overlap")? {
            0 => Err("they never were".to_owned()),
            _ => Ok(()),
        }
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
