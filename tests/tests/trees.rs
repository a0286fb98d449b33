//! Trees of static files: whatever happens to files, directories and links in them, by programs that nobody captures, what
//! is restored is the tree, entry by entry.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Chance, Group, Process, Site, rounds, wait_until};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const BLOCK: usize = 256 * 1024;

fn nothing(_: &str) -> bool {
    false
}

fn etc(name: &str) -> Result<Site> {
    etc_with(name, "")
}

fn etc_with(name: &str, config: &str) -> Result<Site> {
    let site = Site::with(name, &[Group::new("settings", "none").tree("etc", config)])?;
    fs::create_dir(site.path("etc"))?;
    Ok(site)
}

/// One number out of the mirror.
fn number(site: &Site, sql: &str) -> Result<i64> {
    let number = site.sqlite()?.query_row(sql, [], |row| row.get(0));
    number.with_context(|| sql.to_owned())
}

fn wait_for_number(site: &Site, sql: &str, expected: i64) -> Result<()> {
    wait_until(&format!("{expected} from {sql}"), || {
        match number(site, sql) {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(found.to_string()),
            Err(error) => Err(format!("{error:#}")),
        }
    })
}

fn is_root() -> bool {
    // SAFETY: takes nothing, and can't fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn whatever_happens_to_a_tree_is_mirrored() -> Result<()> {
    let site = etc("tree")?;
    let root = site.path("etc");
    fs::write(root.join("app.conf"), "port = 80\n")?;
    fs::create_dir_all(root.join("conf.d/deep/er"))?;
    fs::write(root.join("conf.d/10-a"), "a")?;
    fs::write(root.join("conf.d/deep/x"), vec![7; 3 * BLOCK + 11])?;
    fs::write(root.join("empty"), "")?;
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"odd \xff\n name")),
        "odd",
    )?;
    symlink("app.conf", root.join("link"))?;
    symlink(
        std::ffi::OsStr::from_bytes(b"../\xff\xfe gone"),
        root.join("dangling"),
    )?;
    fs::set_permissions(root.join("conf.d"), Permissions::from_mode(0o2750))?;
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o4711))?;
    File::open(root.join("conf.d/10-a"))?
        .set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789))?;
    site.assert_tree_mirrored("etc", &nothing)?;
    assert_eq!(site.tables()?, ["etc"]);

    // Everything again, in every way, while nobody looks.
    fs::write(root.join("app.conf"), "port = 8080\n")?;
    fs::write(root.join("app.conf.new"), "port = 443\n")?;
    fs::rename(root.join("app.conf.new"), root.join("app.conf"))?;
    fs::rename(root.join("conf.d"), root.join("conf.d.old"))?;
    fs::create_dir(root.join("conf.d"))?;
    fs::write(root.join("conf.d/10-a"), "another a")?;
    fs::remove_file(root.join("link"))?;
    symlink("conf.d", root.join("link"))?;
    fs::remove_file(root.join("empty"))?;
    fs::create_dir(root.join("empty"))?;
    fs::remove_dir(root.join("conf.d.old/deep/er"))?;
    File::open(&root)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))?;
    site.assert_tree_mirrored("etc", &nothing)?;

    // With a directory goes everything in it.
    fs::remove_dir_all(root.join("conf.d.old"))?;
    site.assert_tree_mirrored("etc", &nothing)?;
    assert_eq!(
        number(&site, "SELECT count(*) FROM etc WHERE length(data) > 1000")?,
        0
    );
    site.finish();
    Ok(())
}

#[test]
fn owners_are_mirrored() -> Result<()> {
    if !is_root() {
        eprintln!("not root: nothing can be given away");
        return Ok(());
    }
    let site = etc("tree-owner")?;
    let root = site.path("etc");
    fs::write(root.join("a"), "a")?;
    symlink("a", root.join("l"))?;
    site.settle()?;
    for (name, owner) in [("a", 1234), ("l", 77), ("", 4321)] {
        std::os::unix::fs::lchown(root.join(name), Some(owner), Some(owner + 1))?;
    }
    site.assert_tree_mirrored("etc", &nothing)?;
    site.finish();
    Ok(())
}

#[test]
fn what_is_excluded_is_left_alone_with_all_that_is_below_it() -> Result<()> {
    let site = etc_with("tree-exclude", "exclude = [\"*.tmp\", \"cache\"]")?;
    let root = site.path("etc");
    fs::create_dir_all(root.join("cache/deep"))?;
    fs::write(root.join("cache/deep/x"), "no")?;
    fs::write(root.join("a.tmp"), "no")?;
    fs::write(root.join("a"), "yes")?;
    // A pipe is nothing to mirror, and nothing to wait at.
    let pipe = std::ffi::CString::new(root.join("pipe").as_os_str().as_bytes())?;
    // SAFETY: a string that ends in a zero byte.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let excluded = |name: &str| name == "cache" || name.ends_with(".tmp");
    site.assert_tree_mirrored("etc", &excluded)?;
    let checked = site.run(&["check"])?.success()?.stdout;
    assert!(
        checked.contains("1 file, 1 directory and 0 links"),
        "{checked}"
    );
    assert!(
        checked.contains("pipes and devices aren't mirrored"),
        "{checked}"
    );
    // What takes the place of a mirrored file and isn't mirrored itself takes it away.
    fs::remove_file(root.join("a"))?;
    fs::rename(root.join("pipe"), root.join("a"))?;
    site.assert_tree_mirrored("etc", &excluded)?;
    assert_eq!(number(&site, "SELECT count(*) FROM counterfoil_files")?, 1);
    site.finish();
    Ok(())
}

/// A record file within a tree is a record file.
#[test]
fn a_record_file_in_a_tree_has_its_own_table() -> Result<()> {
    let group = Group::new("mixed", "none")
        .file_as(
            "etc/*.log",
            "organization = \"stream\"\nlayout = \"newline\"",
        )
        .tree("etc", "");
    let site = Site::with("tree-mixed", &[group])?;
    fs::create_dir(site.path("etc"))?;
    fs::write(site.path("etc/a.conf"), "a")?;
    fs::write(site.path("etc/b.log"), "one\ntwo\n")?;
    site.settle()?;
    assert!(site.verify()?.equal);
    assert_eq!(site.tables()?, ["b_log", "etc"]);
    assert_eq!(site.rows("b_log")?.len(), 2);
    // Renamed, it is something else, and back again.
    fs::rename(site.path("etc/b.log"), site.path("etc/b.conf"))?;
    site.settle()?;
    assert!(site.verify()?.equal);
    assert_eq!(site.tables()?, ["etc"]);
    fs::rename(site.path("etc/b.conf"), site.path("etc/b.log"))?;
    site.settle()?;
    assert!(site.verify()?.equal);
    assert_eq!(site.tables()?, ["b_log", "etc"]);
    site.finish();
    Ok(())
}

/// While a file is replaced again and again, the mirror has one version or another, whole, at any time.
#[test]
fn atomic_replaces_show_whole_versions_only() -> Result<()> {
    let site = etc_with("tree-replace", "exclude = [\"*.new\"]")?;
    let root = site.path("etc");
    let version = |n: u32| vec![b'a' + (n % 26) as u8; 1000 + n as usize];
    let replace = |n: u32| -> Result<()> {
        fs::write(root.join("app.conf.new"), version(n))?;
        fs::rename(root.join("app.conf.new"), root.join("app.conf"))?;
        Ok(())
    };
    replace(0)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let content = "SELECT length(content) FROM etc_files WHERE path_text LIKE '%/app.conf'";
    wait_for_number(&site, content, 1000)?;
    let connection = site.sqlite()?;
    let mut seen = std::collections::BTreeSet::new();
    let mut n = 0;
    wait_until("five versions in the mirror", || {
        n += 1;
        replace(n).map_err(|error| format!("{error:#}"))?;
        let (size, content): (i64, Vec<u8>) = connection
            .query_row(
                "SELECT size, content FROM etc_files WHERE path_text LIKE '%/app.conf'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(|error| error.to_string())?;
        assert_eq!(size as usize, content.len());
        assert_eq!(content, version(content.len() as u32 - 1000));
        seen.insert(size);
        if seen.len() >= 5 {
            Ok(())
        } else {
            Err(format!("{seen:?} after {n} replaces"))
        }
    })?;
    site.stop(replicator)?;
    site.assert_tree_mirrored("etc", &|name| name.ends_with(".new"))?;
    site.finish();
    Ok(())
}

/// Of a large file only the blocks that differ travel; a renamed file doesn't at all, nor does what is in a renamed
/// directory.
#[test]
fn only_what_differs_is_sent() -> Result<()> {
    let site = etc("tree-large")?;
    let root = site.path("etc");
    fs::create_dir(root.join("d"))?;
    let mut content: Vec<u8> = (0..20 * BLOCK).map(|at| (at / 1000) as u8).collect();
    content[5 * BLOCK..6 * BLOCK].fill(0);
    fs::write(root.join("d/large"), &content)?;
    fs::write(root.join("d/small"), "small")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    // A block of zeros has no row.
    wait_for_number(&site, "SELECT count(*) FROM etc", 20)?;
    let status = "SELECT count(*) FROM counterfoil_files WHERE mode IS NOT NULL";
    wait_for_number(&site, status, 4)?;
    let images = || -> Result<u64> {
        let status = site.status()?;
        status["sinks"]["default"]["images"]
            .as_u64()
            .context("images applied")
    };
    // Every image that was applied is one that the status knows of, when it has said so for the file's last change.
    let applied = |expected: u64| {
        wait_until(&format!("{expected} images"), || match images() {
            Ok(found) if found == expected => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    let before = {
        let mut before = images()?;
        wait_until("all images counted", || {
            before = images().map_err(|error| format!("{error:#}"))?;
            if before >= 21 {
                Ok(())
            } else {
                Err(before.to_string())
            }
        })?;
        before
    };
    let file = OpenOptions::new().write(true).open(root.join("d/large"))?;
    file.write_all_at(b"changed", 7 * BLOCK as u64 + 100)?;
    file.write_all_at(b"changed", 12 * BLOCK as u64)?;
    let changed = "SELECT count(*) FROM etc WHERE instr(data, CAST('changed' AS BLOB)) > 0";
    wait_for_number(&site, changed, 2)?;
    applied(before + 2)?;
    fs::rename(root.join("d"), root.join("e"))?;
    wait_for_number(
        &site,
        "SELECT count(*) FROM etc_files WHERE path_text LIKE '%/etc/e%' AND mode IS NOT NULL",
        3,
    )?;
    assert_eq!(number(&site, changed)?, 2);
    // Shorter, and longer again.
    file.set_len(3 * BLOCK as u64 + 5)?;
    wait_for_number(
        &site,
        "SELECT size FROM etc_files WHERE path_text LIKE '%large'",
        3 * BLOCK as i64 + 5,
    )?;
    applied(before + 3)?;
    site.stop(replicator)?;
    site.assert_tree_mirrored("etc", &nothing)?;
    site.finish();
    Ok(())
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_mirrored_when_it_can() -> Result<()> {
    let site = etc("tree-unreadable")?;
    let path = site.path("etc/secret");
    fs::write(&path, "secret")?;
    fs::write(site.path("etc/open"), "open")?;
    fs::set_permissions(&path, Permissions::from_mode(0o000))?;
    let mut run = site.counterfoil(&["run"]);
    if is_root() {
        // Root may read everything, so it is somebody else who runs it here.
        const NOBODY: u32 = 65_534;
        for place in [site.root(), &site.data(), &site.path("etc"), &site.config()] {
            std::os::unix::fs::chown(place, Some(NOBODY), Some(NOBODY))?;
        }
        run.uid(NOBODY).gid(NOBODY);
    }
    let mut replicator = site.start(run)?;
    site.wait_until_up(&mut replicator)?;
    wait_until("the problem to be told", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        if problems.contains("etc/secret") {
            Ok(())
        } else {
            Err(problems)
        }
    })?;
    wait_for_number(
        &site,
        "SELECT count(*) FROM etc_files WHERE content = x'6f70656e'",
        1,
    )?;
    fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    fs::write(&path, "readable")?;
    let content = "SELECT count(*) FROM etc_files WHERE CAST(content AS TEXT) = 'readable'";
    wait_for_number(&site, content, 1)?;
    wait_until("the problem to be gone", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        match status["problems"].as_array() {
            Some(problems) if problems.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    site.stop(replicator)?;
    site.assert_tree_mirrored("etc", &nothing)?;
    site.finish();
    Ok(())
}

/// The tree's root is gone: perhaps its volume isn't mounted. Nothing is removed from the mirror.
#[test]
fn a_tree_that_is_not_there_is_kept() -> Result<()> {
    let site = etc("tree-gone")?;
    let root = site.path("etc");
    fs::create_dir(root.join("d"))?;
    fs::write(root.join("d/a"), "a")?;
    site.assert_tree_mirrored("etc", &nothing)?;
    fs::rename(&root, site.path("elsewhere"))?;
    site.settle()?;
    assert_eq!(number(&site, "SELECT count(*) FROM etc_files")?, 3);
    assert!(!site.verify()?.equal);
    fs::rename(site.path("elsewhere"), &root)?;
    site.assert_tree_mirrored("etc", &nothing)?;
    site.finish();
    Ok(())
}

/// State and database go, one after the other; both are filled again, and what went meanwhile is gone.
#[test]
fn lost_state_and_a_lost_target_are_made_up_for() -> Result<()> {
    let site = etc("tree-refill")?;
    let root = site.path("etc");
    fs::create_dir(root.join("d"))?;
    for n in 0..20 {
        fs::write(root.join(format!("d/{n}")), format!("content {n}"))?;
    }
    fs::write(root.join("large"), vec![3; 2 * BLOCK + 5])?;
    site.assert_tree_mirrored("etc", &nothing)?;
    for part in ["images", "journal", "counterfoil.db"] {
        let path = site.state().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        fs::remove_file(root.join("large"))?;
        fs::write(
            root.join("large"),
            vec![part.len() as u8; BLOCK * part.len() / 3],
        )?;
        fs::remove_file(root.join(format!("d/{}", part.len())))?;
        fs::write(root.join(format!("d/{}", part.len() + 5)), part)?;
        fs::write(root.join(format!("d/{part}")), part)?;
        site.assert_tree_mirrored("etc", &nothing)
            .with_context(|| format!("after {part} was lost"))?;
    }
    site.finish();
    Ok(())
}

/// A thousand files are one line.
#[test]
fn the_status_has_one_line_for_a_tree() -> Result<()> {
    let site = etc("tree-status")?;
    for n in 0..1000 {
        fs::write(site.path(&format!("etc/{n}")), n.to_string())?;
    }
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    wait_for_number(
        &site,
        "SELECT count(*) FROM etc_files WHERE mode IS NOT NULL",
        1001,
    )?;
    let expected = format!("{}/", site.path("etc").display());
    wait_until("the tree's line", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let files = status["files"].as_array().cloned().unwrap_or_default();
        match files.as_slice() {
            [line] if line["path"] == expected.as_str() && line["size"] == 2890 => Ok(()),
            other => Err(format!("{} lines: {:?}", other.len(), other.first())),
        }
    })?;
    site.stop(replicator)?;
    let verified = site.run(&["verify"])?.success()?.stdout;
    assert!(
        verified.contains("1001 files, directories and links: equal"),
        "{verified}"
    );
    assert!(verified.lines().count() < 5, "{verified}");
    // What differs is named.
    fs::write(site.path("etc/77"), "?")?;
    fs::set_permissions(site.path("etc/78"), Permissions::from_mode(0o600))?;
    fs::remove_file(site.path("etc/79"))?;
    fs::write(site.path("etc/new"), "new")?;
    let verified = site.run(&["verify"])?.expect_code(1)?.stdout;
    for words in [
        "etc/77 (default)",
        "permissions: the file has 0600",
        "etc/79 (default)",
        "there is no such file",
        "etc/new (default)",
        "doesn't know this file",
        "5 not equal",
    ] {
        assert!(verified.contains(words), "no {words:?} in:\n{verified}");
    }
    site.finish();
    Ok(())
}

/// A replicator that is killed at any moment, again and again, while a tree changes in every way.
#[test]
fn killing_the_replicator_again_and_again_loses_nothing_of_a_tree() -> Result<()> {
    let site = etc("tree-kill")?;
    let mut chance = Chance::new(Chance::seed());
    let mut replicator: Option<Process> = None;
    for round in 1..=rounds(24) {
        if replicator.is_none() {
            replicator = Some(site.replicator()?);
        }
        let until = Instant::now() + Duration::from_micros(chance.below(400_000));
        while Instant::now() < until {
            disturb(&site.path("etc"), &mut chance).with_context(|| format!("round {round}"))?;
        }
        if let Some(mut running) = replicator.take() {
            anyhow::ensure!(running.is_running()?, "it ended: {}", running.stderr());
            running.kill()?;
        }
        if round % 6 == 0 {
            site.assert_tree_mirrored("etc", &nothing)
                .with_context(|| format!("after round {round}"))?;
        }
    }
    site.assert_tree_mirrored("etc", &nothing)?;
    site.finish();
    Ok(())
}

/// Does something to a tree.
fn disturb(root: &Path, chance: &mut Chance) -> Result<()> {
    let mut directories = vec![root.to_owned()];
    let mut files = Vec::new();
    let mut at = 0;
    while at < directories.len() {
        for entry in fs::read_dir(&directories[at])? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
        at += 1;
    }
    let directory = chance.pick(&directories).clone();
    let new = directory.join(format!("n{}", chance.below(12)));
    let some = (!files.is_empty()).then(|| chance.pick(&files).clone());
    let is_file = |path: &PathBuf| path.is_file() && !path.is_symlink();
    match (chance.below(14), some) {
        (0 | 1, _) if !new.is_dir() && !new.is_symlink() => {
            let sizes = [0, 1, 100, 5000, BLOCK, BLOCK + 1, 3 * BLOCK + 77];
            let content = vec![chance.below(256) as u8; *chance.pick(&sizes)];
            fs::write(&new, content)?;
        }
        (2, _) if new.symlink_metadata().is_err() && directories.len() < 12 => {
            fs::create_dir(&new)?;
        }
        (3, _) if new.symlink_metadata().is_err() => {
            symlink(format!("to-{}", chance.below(100)), &new)?;
        }
        (4, Some(file)) => fs::remove_file(file)?,
        (5, Some(file)) if !new.is_dir() => fs::rename(file, &new)?,
        (6, Some(file)) if is_file(&file) => {
            let mode = chance.below(0o200) as u32 | 0o600;
            fs::set_permissions(file, Permissions::from_mode(mode))?;
        }
        (7, Some(file)) if is_file(&file) => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(chance.below(1 << 60));
            File::open(file)?.set_modified(time)?;
        }
        (8 | 9, Some(file)) if is_file(&file) => {
            let mut file = OpenOptions::new().write(true).open(file)?;
            let at = chance.below(4 * BLOCK as u64);
            file.seek(SeekFrom::Start(at))?;
            file.write_all(at.to_string().as_bytes())?;
        }
        (10, Some(file)) if is_file(&file) => {
            let file = OpenOptions::new().write(true).open(file)?;
            file.set_len(chance.below(2 * BLOCK as u64))?;
        }
        (11, Some(file)) if is_file(&file) => {
            let beside = file.with_extension("new");
            fs::write(&beside, chance.below(1 << 40).to_string())?;
            fs::rename(beside, file)?;
        }
        (12, _) if directories.len() > 2 && chance.percent(30) => {
            fs::remove_dir_all(&directories[directories.len() - 1])?;
        }
        (13, _) if directories.len() > 1 && new.symlink_metadata().is_err() => {
            let from = directories[1 + chance.below(directories.len() as u64 - 1) as usize].clone();
            if !new.starts_with(&from) {
                fs::rename(from, &new)?;
            }
        }
        _ => {}
    }
    Ok(())
}
