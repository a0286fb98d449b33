//! Bad input and bad luck: each a clear error that says what to do; nothing is lost, and the captured
//! program goes on.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{
    Group, Program, Shape, Site, SmallDisk, c, counterfoil, interposer, wait_until,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const RECORD: Shape = Shape::Fixed { size: 100 };
/// The user `nobody`, where tests run as root.
const NOBODY: u32 = 65534;

fn records() -> Group {
    Group::new("group", "none").file("records.dat", RECORD)
}

fn is_root() -> bool {
    // SAFETY: geteuid can't fail and touches nothing.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() -> Result<()> {
    let site = Site::new("unknown-key")?;
    let text = site
        .config_text(&[records()])
        .replace("record_size", "recrod_size");
    site.configure_text(&text)?;
    let line = 1 + text
        .lines()
        .position(|line| line.contains("recrod_size"))
        .context("the key is there")?;
    let place = format!("counterfoil.toml:{line}");
    for verb in [
        &["run", "--until-idle"][..],
        &["verify"],
        &["status"],
        &["exec", "--", "true"],
    ] {
        site.run(verb)?
            .refused_with(&[&place, "recrod_size", "record_size"])?;
    }
    let said = site.run(&["check"])?;
    ensure!(!said.status.success(), "check accepts it");
    let words = format!("{}{}", said.stdout, said.stderr);
    ensure!(
        words.contains(&place) && words.contains("recrod_size"),
        "check doesn't say it: {words}"
    );
    site.finish();
    Ok(())
}

#[test]
fn a_combination_that_does_not_exist_is_refused_with_its_line() -> Result<()> {
    let site = Site::new("combination")?;
    let group = Group::new("group", "none").file_as(
        "records.dat",
        "organization = \"relative\"\nlayout = \"newline\"",
    );
    site.configure(&[group])?;
    site.run(&["run", "--until-idle"])?.refused_with(&[
        "counterfoil.toml:",
        "relative",
        "newline",
    ])?;
    site.finish();
    Ok(())
}

#[test]
fn a_missing_configuration_is_named() -> Result<()> {
    let site = Site::new("no-configuration")?;
    site.run(&["run", "--until-idle"])?
        .refused_with(&["counterfoil.toml"])?;
    site.finish();
    Ok(())
}

#[test]
fn a_missing_file_is_said_by_check_and_mirrored_once_it_is_there() -> Result<()> {
    let site = Site::with("missing-file", &[records()])?;
    let said = site.run(&["check"])?;
    ensure!(
        said.stdout.contains("records.dat") || said.stderr.contains("records.dat"),
        "check doesn't name the missing file: {}{}",
        said.stdout,
        said.stderr
    );
    site.settle()?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "20"])?;
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 20);
    site.finish();
    Ok(())
}

#[test]
fn a_missing_directory_is_watched_for_and_mirrored_once_it_is_there() -> Result<()> {
    let site = Site::with(
        "missing-dir",
        &[Group::new("group", "none").file("later/*.dat", RECORD)],
    )?;
    let replicator = site.replicator()?;
    fs::create_dir(site.path("later"))?;
    site.exec_to_end(&c("record_writer")?, &["later/records.dat", "20"])?;
    wait_until("the rows", || match site.rows("records_dat") {
        Ok(rows) if rows.len() == 20 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_record_length_that_does_not_divide_the_file_is_said_and_loses_nothing() -> Result<()> {
    let site = Site::with(
        "no-division",
        &[Group::new("group", "none").file("records.dat", Shape::Fixed { size: 64 })],
    )?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "33"])?;
    let said = site.run(&["check"])?;
    let words = format!("{}{}", said.stdout, said.stderr);
    ensure!(
        words.contains("records.dat") && words.contains("64"),
        "check doesn't say it: {words}"
    );
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 33 * 100 / 64);
    site.finish();
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_named() -> Result<()> {
    let site = Site::with("no-command", &[records()])?;
    site.run(&["exec", "--", "/no/such/program"])?
        .refused_with(&["/no/such/program"])?;
    site.finish();
    Ok(())
}

/// A copy of the binaries that any user can reach, run as an ordinary user.
fn as_nobody(site: &Site, arguments: &[&str]) -> Result<Command> {
    let bin = site.root().join("bin");
    fs::create_dir_all(&bin)?;
    for file in [counterfoil()?, interposer()?] {
        let name = file.file_name().context("a binary has a name")?;
        if !bin.join(name).exists() {
            // By another process: a descriptor for writing that a child of another test inherited meanwhile
            // would make the copy "busy".
            let copied = Command::new("cp").arg(&file).arg(bin.join(name)).status()?;
            ensure!(
                copied.success(),
                "copying {} ended with {copied}",
                file.display()
            );
        }
    }
    fs::set_permissions(site.root(), fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(bin.join("counterfoil"));
    command
        .arg("--config")
        .arg(site.config())
        .args(arguments)
        .current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}

#[test]
fn a_state_directory_without_permission_is_refused_by_name() -> Result<()> {
    let site = Site::with("no-permission-state", &[records()])?;
    fs::create_dir(site.state())?;
    fs::set_permissions(site.state(), fs::Permissions::from_mode(0o000))?;
    let state = site.state();
    let state = state.to_str().context("the site's path is text")?;
    let refused = site
        .start(as_nobody(&site, &["run", "--until-idle"])?)?
        .finish()?
        .refused_with(&[state])?;
    ensure!(
        refused.stderr.to_lowercase().contains("permission"),
        "{}",
        refused.stderr
    );
    fs::set_permissions(site.state(), fs::Permissions::from_mode(0o755))?;
    site.finish();
    Ok(())
}

#[test]
fn a_data_directory_without_permission_is_said_by_check_and_by_run() -> Result<()> {
    let site = Site::with(
        "no-permission-data",
        &[Group::new("group", "none").file("closed/*.dat", RECORD)],
    )?;
    fs::create_dir(site.state())?;
    if is_root() {
        std::os::unix::fs::chown(site.state(), Some(NOBODY), Some(NOBODY))?;
    }
    let closed = site.path("closed");
    fs::create_dir(&closed)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000))?;
    let said = site.start(as_nobody(&site, &["check"])?)?.finish()?;
    let words = format!("{}{}", said.stdout, said.stderr);
    ensure!(
        words.contains("closed") && words.to_lowercase().contains("permission"),
        "check doesn't say it: {words}"
    );
    let run = site
        .start(as_nobody(&site, &["run", "--until-idle"])?)?
        .finish()?;
    ensure!(
        run.stderr.contains("closed"),
        "run doesn't name the directory: {} {}",
        run.status,
        run.stderr
    );
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755))?;
    site.finish();
    Ok(())
}

/// Interposed, but what it shares with the replicator can't be opened: the program must not notice.
#[test]
fn a_program_whose_lanes_cannot_be_opened_goes_on_silently() -> Result<()> {
    let site = Site::with("no-lanes", &[records()])?;
    let writer = c("record_writer")?;
    site.settle()?;
    for lanes in ["/no/such/directory", "/dev/null", "/proc", ""] {
        let mut command = Command::new(&writer.words[0]);
        command.args(["records.dat", "50"]).current_dir(site.data());
        command
            .env("LD_PRELOAD", interposer()?)
            .env("COUNTERFOIL_LANES", lanes);
        let finished = site.start(command)?.finish()?.success()?;
        assert_eq!(
            (finished.stdout.as_str(), finished.stderr.as_str()),
            ("", ""),
            "lanes at {lanes:?}"
        );
    }
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 200);
    site.finish();
    Ok(())
}

/// A captured program that runs as another user than the replicator, with lanes that it may not write.
#[test]
fn a_program_without_permission_for_the_lanes_goes_on() -> Result<()> {
    let site = Site::with("foreign-user", &[records()])?;
    site.settle()?;
    let data = site.data();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777))?;
    let lanes = site.state().join("lanes");
    let interposed = {
        // Makes the copies that the other user can reach.
        as_nobody(&site, &[])?;
        site.root().join("bin/libcounterfoil_interposer.so")
    };
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "printf '%100s' x >> records.dat"])
        .current_dir(&data);
    command
        .env("LD_PRELOAD", interposed)
        .env("COUNTERFOIL_LANES", lanes);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let finished = site.start(command)?.finish()?.success()?;
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", "")
    );
    assert_eq!(fs::read(site.path("records.dat"))?.len(), 100);
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

fn journal_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            journal_files(&path, found)?;
        } else if fs::metadata(&path)?.len() >= 16 {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn a_journal_of_a_newer_version_is_refused_and_left_as_it_is() -> Result<()> {
    let site = Site::with("newer-journal", &[records()])?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["records.dat", "40"])?;
    site.settle()?;
    let mut files = Vec::new();
    journal_files(&site.state().join("journal"), &mut files)?;
    ensure!(!files.is_empty(), "there is no journal");
    // Every file of the journal begins with eight bytes of magic and the version, four bytes.
    let mut originals = Vec::new();
    for path in &files {
        let bytes = fs::read(path)?;
        let mut newer = bytes.clone();
        newer[8] = 99;
        fs::write(path, &newer)?;
        originals.push((path, bytes, newer));
    }
    let refused = site
        .run(&["run", "--until-idle"])?
        .refused_with(&["99", "version"])?;
    ensure!(
        refused.stderr.to_lowercase().contains("upgrade"),
        "it doesn't say what to do: {}",
        refused.stderr
    );
    for (path, _, newer) in &originals {
        assert!(fs::read(path)? == *newer, "{} was changed", path.display());
    }
    // The program goes on meanwhile, and once the journal can be read again everything is there.
    site.exec_to_end(&writer, &["records.dat", "40"])?;
    for (path, bytes, _) in &originals {
        fs::write(path, bytes)?;
    }
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 80);
    site.finish();
    Ok(())
}

#[test]
fn a_full_disk_is_reported_and_does_not_stop_the_program() -> Result<()> {
    let site = Site::with("full-disk", &[records()])?;
    let writer = c("record_writer")?;
    let state = site.state();
    if let Some(disk) = SmallDisk::mount(&state, 6 << 10)? {
        // Lanes, journal, images and database share six MiB; the program writes twelve.
        let mut replicator = site.replicator()?;
        site.exec_to_end(&writer, &["records.dat", "120000"])?;
        let complaint = wait_until("the replicator to say that the disk is full", || {
            let text = replicator.stderr().to_lowercase();
            let ended = !replicator
                .is_running()
                .map_err(|error| format!("{error:#}"))?;
            if text.contains("no space") || text.contains("full") {
                Ok(text)
            } else {
                Err(format!("ended: {ended}; {text}"))
            }
        })?;
        ensure!(
            complaint.contains(&state.to_string_lossy().to_lowercase()),
            "the directory isn't named: {complaint}"
        );
        // The program isn't harmed by a disk that is full from the start either.
        site.exec_to_end(&writer, &["records.dat", "1000"])?;
        replicator.kill()?;
        disk.grow()?;
        site.assert_mirrored()?;
        assert_eq!(site.rows("records_dat")?.len(), 121_000);
        drop(replicator);
    }
    site.finish();
    Ok(())
}

/// The same where nobody may mount: the replicator's files may not grow beyond a limit, so its writes
/// fail in the middle of its work.
#[test]
fn writes_that_fail_are_reported_and_lose_nothing() -> Result<()> {
    let site = Site::with("file-limit", &[records()])?;
    let writer = c("record_writer")?;
    site.settle()?;
    site.exec_to_end(&writer, &["records.dat", "30000"])?;
    let mut command = site.counterfoil(&["run", "--until-idle"]);
    // SAFETY: signal and setrlimit are async-signal-safe, and the closure touches no memory of the parent's.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit {
                rlim_cur: 1 << 20,
                rlim_max: 1 << 20,
            };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    // It says so and goes on trying, as it would until there is room again.
    let mut replicator = site.start(command)?;
    let complaint = wait_until("the replicator to say that it can't write", || {
        let text = replicator.stderr();
        if text.contains("File too large") {
            Ok(text)
        } else {
            Err(text)
        }
    })?;
    ensure!(!complaint.contains("panicked"), "{complaint}");
    ensure!(
        complaint.contains(site.state().to_str().unwrap_or_default()),
        "no path is named: {complaint}"
    );
    replicator.kill()?;
    site.exec_to_end(&writer, &["records.dat", "500"])?;
    site.assert_mirrored()?;
    assert_eq!(site.rows("records_dat")?.len(), 30_500);
    site.finish();
    Ok(())
}

#[test]
fn the_program_sees_its_own_errors_unchanged() -> Result<()> {
    let site = Site::with("own-errors", &[records()])?;
    let script = "open 100 records.dat r = -2\n\
                  open 100 records.dat bcx = 100\n\
                  open 101 records.dat bcx = -17\n\
                  open 101 records.dat r = 101\n\
                  write 101 4142 = -9\n\
                  pwrite 101 0 4142 = -9\n\
                  ftruncate 101 0 = -22\n\
                  write 99 41 = -9\n\
                  pwrite 100 -1 41 = -22\n\
                  lseek 100 -5 set = -22\n\
                  ftruncate 100 -1 = -22\n\
                  truncate nowhere.dat 5 = -2\n\
                  rename nowhere.dat records.dat = -2\n\
                  unlink nowhere.dat = -2\n\
                  dup 99 102 = -9\n\
                  close 99 = -9\n\
                  write 100 4142434445 = 5\n\
                  fork 100 46 = 0\n\
                  lseek 100 0 cur = 6\n\
                  close 100 = 0\n\
                  write 100 41 = -9\n";
    fs::write(site.path("script"), script)?;
    site.uncaptured(&c("file_exerciser")?, &["script"])
        .context("without capture")?;
    fs::remove_file(site.path("records.dat"))?;
    site.exec_to_end(&c("file_exerciser")?, &["script"])
        .context("with capture")?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn exec_passes_exit_codes_arguments_and_environment_through() -> Result<()> {
    let site = Site::with("exec", &[records()])?;
    let shell = Program::named("/bin/sh");
    let finished = site.exec(
        &shell,
        &[
            "-c",
            "printf '%s|' \"$@\" \"$WORD\"; echo said >&2; exit 7",
            "sh",
            "a b",
            "--config",
            "",
        ],
    )?;
    let finished = finished.finish()?.expect_code(7)?;
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("a b|--config|||", "said\n")
    );
    let finished = site.exec(&shell, &["-c", "kill -9 $$"])?.finish()?;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&finished.status),
        Some(9)
    );
    site.finish();
    Ok(())
}
