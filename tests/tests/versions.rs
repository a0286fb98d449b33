//! Upgrading, rolling back and removing Counterfoil under programs that keep running; and versions that don't know each other.

use anyhow::{Context as _, Result, ensure};
use counterfoil_lane::board;
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::segment;
use counterfoil_lane::writer::{self, Lane, Operation};
use counterfoil_tests::{Group, Process, Shape, Site, c, interposer, wait_until};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU32;

const RECORD: Shape = Shape::Fixed { size: 100 };

fn site(name: &str) -> Result<Site> {
    let group = Group::new("group", "none")
        .file("*.dat", RECORD)
        .file("*/*.dat", RECORD);
    Site::with(name, &[group])
}

/// Starts the steady writer in a directory of its own, captured by this library, until [`stop`].
fn steady(site: &Site, directory: &str, library: &Path) -> Result<Process> {
    std::fs::create_dir_all(site.path(directory))?;
    let mut command = site.captured(&c("steady_writer")?, &[directory, "../stop", "2"]);
    command.env("COUNTERFOIL_INTERPOSER", library);
    let process = site.start(command)?;
    wait_for_bytes(site, directory)?;
    Ok(process)
}

/// Waits until the writer changes its file, from now on.
fn wait_for_bytes(site: &Site, directory: &str) -> Result<()> {
    let path = site.path(directory).join("steady-0.dat");
    let time = || {
        path.metadata()
            .map(|there| (there.mtime(), there.mtime_nsec()))
            .ok()
    };
    let before = time();
    wait_until("the writer to go on", || {
        if time().is_some() && time() != before {
            Ok(())
        } else {
            Err(format!("{} is as it was", path.display()))
        }
    })
}

fn stop(site: &Site, writers: Vec<Process>) -> Result<()> {
    std::fs::write(site.root().join("stop"), "")?;
    for writer in writers {
        writer.finish()?.success()?;
    }
    Ok(())
}

/// Puts a library in place as an installation does, under an inode of its own.
fn put(library: &Path, content: &[u8]) -> Result<u64> {
    let beside = library.with_extension("new");
    std::fs::write(&beside, content)?;
    std::fs::rename(&beside, library)?;
    Ok(library.metadata()?.ino())
}

/// Whether a process has a file with this inode mapped.
fn has_mapped(process: &Process, inode: u64) -> Result<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.id()))?;
    let inode = inode.to_string();
    Ok(maps
        .lines()
        .any(|line| line.split_whitespace().nth(4) == Some(inode.as_str())))
}

/// An upgrade and its roll-back: the library is replaced, the replicator restarted, new programs start beside old ones, and
/// all of it once more in the other direction. Nobody is restarted, and nothing is lost.
#[test]
fn a_library_is_replaced_and_rolled_back_while_programs_run() -> Result<()> {
    let site = site("upgrade")?;
    let library = site.root().join("lib.so");
    let old = std::fs::read(interposer()?)?;
    // What the loader doesn't look at makes it another file.
    let new = [old.as_slice(), b"another build"].concat();
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let mut writers = Vec::new();
    let mut inodes = Vec::new();
    for (step, content) in [&old, &new, &old].into_iter().enumerate() {
        inodes.push(put(&library, content)?);
        let writer = steady(&site, &format!("step-{step}"), &library)?;
        ensure!(has_mapped(&writer, inodes[step])?);
        writers.push(writer);
        if step == 1 {
            // A replicator that is restarted in the worst way.
            replicator.kill()?;
        } else {
            site.stop(replicator)?;
        }
        replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        for directory in 0..=step {
            wait_for_bytes(&site, &format!("step-{directory}"))?;
        }
    }
    for (writer, &inode) in writers.iter_mut().zip(&inodes) {
        ensure!(writer.is_running()? && has_mapped(writer, inode)?);
    }
    wait_until("all three programs to be followed", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["programs"] == 3 && status["problems"] == serde_json::json!([]) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    stop(&site, writers)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// Library, lanes and all are removed while programs run: they never notice.
#[test]
fn programs_go_on_when_everything_of_ours_is_removed() -> Result<()> {
    let site = site("removal")?;
    let library = site.root().join("lib.so");
    put(&library, &std::fs::read(interposer()?)?)?;
    let replicator = site.replicator()?;
    let writer = steady(&site, "step-0", &library)?;
    site.stop(replicator)?;
    std::fs::remove_file(&library)?;
    std::fs::remove_dir_all(site.state())?;
    wait_for_bytes(&site, "step-0")?;
    // Long enough to look for the lanes more than once: it does so every second.
    let second = std::time::Instant::now();
    wait_until("two seconds of work", || {
        wait_for_bytes(&site, "step-0").map_err(|error| format!("{error:#}"))?;
        if second.elapsed().as_secs() >= 2 {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })?;
    stop(&site, vec![writer])?;
    ensure!(!site.state().exists(), "a program made something");
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// `cargo xtask install`, twice, under a program that runs the first installation.
#[test]
fn an_installation_never_overwrites_what_a_program_has_mapped() -> Result<()> {
    let site = site("install")?;
    let prefix = site.root().join("prefix");
    let install = || -> Result<()> {
        let mut command = Command::new(env!("CARGO"));
        command
            .args([
                "run",
                "--quiet",
                "--package",
                "xtask",
                "--",
                "install",
                "--dev",
                "--prefix",
            ])
            .arg(&prefix)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        site.start(command)?.finish()?.success()?;
        Ok(())
    };
    install()?;
    let library = prefix.join("lib/counterfoil/libcounterfoil_interposer.so");
    let inode = library.metadata()?.ino();
    let counterfoil = prefix.join("bin/counterfoil");
    // The installed binary finds the library beside it.
    let mut command = Command::new(&counterfoil);
    std::fs::create_dir(site.path("step-0"))?;
    command
        .arg("--config")
        .arg(site.config())
        .args(["exec", "--"])
        .args(&c("steady_writer")?.words)
        .args(["step-0", "../stop", "2"])
        .current_dir(site.data());
    let mut writer = site.start(command)?;
    wait_for_bytes(&site, "step-0")?;
    ensure!(has_mapped(&writer, inode)?);
    install()?;
    ensure!(library.metadata()?.ino() != inode && writer.is_running()?);
    let left: Vec<PathBuf> = std::fs::read_dir(library.parent().context("a directory")?)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    ensure!(left == [library], "{left:?}");
    for file in [
        "share/doc/counterfoil/docs/installation.md",
        "lib/systemd/system/counterfoil.service",
    ] {
        ensure!(prefix.join(file).exists(), "{file}");
    }
    wait_for_bytes(&site, "step-0")?;
    stop(&site, vec![writer])?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// This test as a captured process, to write what only a later version would.
fn process_of(site: &Site) -> Result<&'static writer::Process> {
    let mut directory = site.state().join("lanes").as_os_str().as_bytes().to_vec();
    let lanes: &'static [u8] = Vec::leak(directory.clone());
    directory.push(0);
    let board = board::join(&directory)?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("a stat file")?;
    let started = fields
        .split_ascii_whitespace()
        .nth(19)
        .context("its start")?;
    Ok(Box::leak(Box::new(writer::Process {
        directory: lanes,
        board,
        number: 0x0123_4567_89ab,
        pid: std::process::id(),
        uid: 0,
        pid_started: started.parse()?,
        pid_namespace: 0,
        program: *b"from-the-future\0",
        mode: AtomicU32::new(0),
        lanes: AtomicU32::new(0),
    })))
}

/// A later interposer says what this replicator has never heard of: the file is compared, and nothing is refused.
#[test]
fn a_lane_of_a_later_revision_is_read_and_what_is_unknown_in_it_means_a_look_at_the_file()
-> Result<()> {
    let site = site("later-revision")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let path = site.path("records.dat");
    let file = std::fs::File::create(&path)?;
    file.write_all_at(&[b'a'; 500], 0)?;
    wait_until("the first rows", || match site.rows("records_dat") {
        Ok(rows) if rows.len() == 5 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let process = process_of(&site)?;
    let lane = Lane::create(process).map_err(|shortage| anyhow::anyhow!("{shortage:?}"))?;
    let segment = site.state().join("lanes/123456789ab.0.0.lane");
    let header = std::fs::OpenOptions::new().write(true).open(&segment)?;
    let at = std::mem::offset_of!(segment::Header, revision) as u64;
    header.write_all_at(&77u32.to_le_bytes(), at)?;
    let metadata = path.metadata()?;
    let name = writer::Name {
        number: 1,
        generation: 1,
        device: metadata.dev(),
        inode: metadata.ino(),
        path: path.as_os_str().as_bytes(),
    };
    for round in 0..3u8 {
        file.write_all_at(&[b'b' + round; 300], u64::from(round) * 100)?;
        let now = clock::now();
        let operation = Operation {
            kind: Kind::Unknown,
            flags: 0xffff,
            begin: now,
            end: clock::now(),
            offset: 1 << 40,
            extent: 12,
        };
        // SAFETY: no bytes are read.
        ensure!(unsafe { lane.append(process, Some(&name), &operation, &[], 0) });
    }
    let content = std::fs::read(&path)?;
    wait_until("the rows of now", || match site.rows("records_dat") {
        Ok(rows) if rows.values().flatten().eq(content.iter()) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    wait_until("the lane to be followed without a complaint", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["lanes"] == 1 && status["problems"] == serde_json::json!([]) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    site.stop(replicator)?;
    ensure!(site.verify()?.equal);
    site.finish();
    Ok(())
}

/// A lane of a layout that this replicator doesn't know: it says whose it is, and goes on; the file is compared.
#[test]
fn a_lane_of_another_layout_is_refused_loudly_and_its_program_left_alone() -> Result<()> {
    let site = site("other-layout")?;
    let library = interposer()?;
    let writer = steady(&site, "step-0", &library)?;
    let lanes = site.state().join("lanes");
    for entry in std::fs::read_dir(&lanes)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "lane")
        {
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            let at = std::mem::offset_of!(segment::Header, version) as u64;
            file.write_all_at(&99u32.to_le_bytes(), at)?;
        }
    }
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let status = wait_until("the refusal to be told", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status["problems"].to_string();
        if text.contains("99") {
            Ok(text)
        } else {
            Err(text)
        }
    })?;
    for word in [
        "steady_writer",
        &writer.id().to_string(),
        "layout 99",
        "layout 1",
    ] {
        ensure!(status.contains(word), "{word} isn't in {status}");
    }
    wait_for_bytes(&site, "step-0")?;
    stop(&site, vec![writer])?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A board of another layout: nothing of ours works with it and says so; programs run, uncaptured.
#[test]
fn a_board_of_another_layout_stops_the_replicator_and_no_program() -> Result<()> {
    let site = site("other-board")?;
    site.settle()?;
    let board = site.state().join("lanes/board");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&board)?
        .write_all_at(&99u32.to_le_bytes(), 8)?;
    let words = ["layout 99", "layout 1"];
    site.run(&["run"])?.refused_with(&words)?;
    let check = site.run(&["check"])?.expect_code(1)?;
    for word in words {
        ensure!(check.stdout.contains(word), "{}", check.stdout);
    }
    let told = site.exec_to_end(&c("record_writer")?, &["records.dat", "10"])?;
    ensure!(told.stderr.contains("isn't captured"), "{}", told.stderr);
    ensure!(site.path("records.dat").metadata()?.len() == 1000);
    // Somebody removes the lanes, as the message says.
    std::fs::remove_dir_all(site.state().join("lanes"))?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
