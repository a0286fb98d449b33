//! Changes that nobody captures: static programs, system calls past libc, mappings, tools that replace files. Each has to be
//! in the tables while the replicator runs, by whichever way the kernel tells of it.

use anyhow::{Context as _, Result, bail};
use counterfoil_tests::{Group, Process, Program, Shape, Site, c, c_static, wait_until};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SIZE: usize = 100;
const RECORD: Shape = Shape::Fixed { size: SIZE };

/// Longer than any change should take to be noticed on a loaded machine, and shorter than the minute after which all
/// directories are looked through for no reason: that must not be what finds it.
const SOON: Duration = Duration::from_secs(40);

/// The ways to be told: `COUNTERFOIL_WATCH`. Where one isn't permitted, the next takes its place.
const BACKENDS: [&str; 3] = ["fanotify", "inotify", "poll"];

fn replicator(site: &Site, backend: &str) -> Result<Process> {
    let mut command = site.counterfoil(&["run"]);
    command
        .env("COUNTERFOIL_WATCH", backend)
        .env("COUNTERFOIL_LOG", "info");
    let mut replicator = site.start(command)?;
    site.wait_until_up(&mut replicator)?;
    Ok(replicator)
}

/// Waits until the tables hold just what the files below the data directory hold.
fn wait_for_rows(site: &Site, what: &str) -> Result<()> {
    let begin = Instant::now();
    wait_until(&format!("the tables to follow {what}"), || {
        let compared = compare(site).map_err(|error| format!("{error:#}"));
        if compared.is_err() && begin.elapsed() > SOON {
            panic!("{what} took longer than {SOON:?}: {compared:?}; {site:?}");
        }
        compared
    })
}

fn compare(site: &Site) -> Result<()> {
    let tables = site.tables()?;
    let mut expected = BTreeSet::new();
    for path in files_below(&site.data())? {
        let name = path
            .strip_prefix(site.data())?
            .to_string_lossy()
            .into_owned();
        let end: String = name
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .replace(['.', '-'], "_");
        let table = tables
            .iter()
            .find(|table| **table == end)
            .with_context(|| format!("no table for {name} in {tables:?}"))?;
        let bytes = std::fs::read(&path)?;
        let rows: Vec<u8> = site.rows(table)?.into_values().flatten().collect();
        if rows != bytes {
            bail!("{name}: {} bytes, {} in rows", bytes.len(), rows.len());
        }
        expected.insert(table.clone());
    }
    if expected.len() != tables.len() {
        bail!("tables {tables:?}, files {expected:?}");
    }
    Ok(())
}

/// Every `.dat` file.
fn files_below(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "dat") {
            files.push(path);
        }
    }
    Ok(files)
}

/// A file of so many records.
fn make(path: &Path, records: usize, byte: u8) -> Result<()> {
    std::fs::write(path, vec![byte; records * SIZE])
        .with_context(|| format!("writing {}", path.display()))
}

fn shell(site: &Site, command: &str) -> Result<()> {
    site.uncaptured(&Program::named("sh"), &["-e", "-c", command])?;
    Ok(())
}

fn start(site: &Site, program: &Program, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(&program.words[0]);
    command.args(arguments).current_dir(site.data());
    let process = site.start(command)?;
    wait_until("the program's first change", || {
        if process.stdout().contains("ready") {
            Ok(())
        } else {
            Err(process.stderr())
        }
    })?;
    Ok(process)
}

fn finish(site: Site, replicator: Process) -> Result<()> {
    assert!(site.verify()?.equal, "verify while the replicator runs");
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn what_tools_and_static_programs_do_to_a_file_is_noticed() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    for backend in BACKENDS {
        let site = Site::with(
            &format!("tools-{backend}"),
            &[Group::new("group", "none").file("*.dat", RECORD)],
        )?;
        make(&site.path("a.dat"), 50, b'a')?;
        make(&site.path("b.dat"), 3, b'b')?;
        make(&site.path("source"), 20, b's')?;
        shell(&site, "tar cf backup.tar a.dat b.dat")?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        for how in ["write", "uring", "map"] {
            let offset = (how.len() * 300).to_string();
            site.uncaptured(&unseen, &[how, "a.dat", &offset, "u", "250"])?;
            wait_for_rows(&site, how)?;
        }
        let steps = [
            ("cp over a file", "cp source a.dat"),
            ("cp to a new file", "cp a.dat new.dat"),
            (
                "cp -p with old times",
                "touch -d 2001-01-01 source; cp -p source b.dat",
            ),
            ("truncate", "truncate -s 700 a.dat"),
            (
                "dd into the middle",
                "dd if=source of=a.dat bs=100 seek=7 count=3 conv=notrunc status=none",
            ),
            (
                "one byte by a shell that appends and truncates",
                "printf %0100d 7 > b.dat; printf %0100d 8 >> b.dat",
            ),
            ("sed -i", "sed -i s/ss/tt/ new.dat"),
            (
                "a new file in place of the old",
                "cp source .tmp-1; truncate -s 1500 .tmp-1; printf %0100d 6 >> .tmp-1; mv .tmp-1 a.dat",
            ),
            ("a restore from backup", "tar xf backup.tar"),
            ("a rename", "mv new.dat other.dat"),
            ("a rename over another", "mv other.dat b.dat"),
            ("exchanged names", "mv a.dat x; mv b.dat a.dat; mv x b.dat"),
            ("a removal", "rm b.dat"),
            ("made again", "cp source b.dat"),
        ];
        for (what, command) in steps {
            shell(&site, command)?;
            wait_for_rows(&site, &format!("{what} ({backend})"))?;
        }
        finish(site, replicator)?;
    }
    Ok(())
}

#[test]
fn a_file_that_stays_open_or_mapped_is_followed() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    for backend in BACKENDS {
        let site = Site::with(
            &format!("stays-{backend}"),
            &[Group::new("group", "none").file("*.dat", RECORD)],
        )?;
        make(&site.path("a.dat"), 50, b'a')?;
        make(&site.path("b.dat"), 50, b'b')?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        let stays = start(&site, &unseen, &["stay", "a.dat", "300", "u", "250"])?;
        wait_for_rows(&site, &format!("a write without a close ({backend})"))?;
        if backend == "fanotify" && replicator.stderr().contains("watched by fanotify") {
            wait_until("the writer to be named", || {
                let log = replicator.stderr();
                let is_named = log.contains("a.dat was changed by unseen_writer");
                is_named.then_some(()).ok_or(log)
            })?;
        }
        let keeps = start(&site, &unseen, &["keep", "b.dat", "300", "u", "250"])?;
        wait_for_rows(&site, &format!("a store into a mapping ({backend})"))?;
        drop((stays, keeps));
        finish(site, replicator)?;
    }
    Ok(())
}

#[test]
fn directories_that_come_move_and_go_are_followed_with_their_files() -> Result<()> {
    for backend in BACKENDS {
        let site = Site::with(
            &format!("directories-{backend}"),
            &[Group::new("group", "none").file("tree/**/*.dat", RECORD)],
        )?;
        std::fs::create_dir_all(site.path("tree/x"))?;
        make(&site.path("tree/x/first.dat"), 2, b'1')?;
        make(&site.path("source"), 5, b's')?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        let steps = [
            (
                "a new directory with files",
                "mkdir -p tree/a/b; cp source tree/a/b/one.dat; cp source tree/a/two.dat",
            ),
            (
                "a change in the new directory",
                "truncate -s 100 tree/a/b/one.dat",
            ),
            ("a directory renamed", "mv tree/a tree/z"),
            (
                "a change in the renamed directory",
                "cp source tree/z/b/one.dat",
            ),
            (
                "a directory with files moved in",
                "mkdir -p ../outside/deep; cp source ../outside/deep/three.dat; mv ../outside tree/in",
            ),
            (
                "a change in what was moved in",
                "truncate -s 200 tree/in/deep/three.dat",
            ),
            ("a directory moved out", "mv tree/in ../out"),
            ("a directory removed", "rm -r tree/z"),
            (
                "a directory of the same name again",
                "mkdir -p tree/z/b; cp source tree/z/b/four.dat",
            ),
            ("a change in that", "truncate -s 300 tree/z/b/four.dat"),
        ];
        for (what, command) in steps {
            shell(&site, command)?;
            wait_for_rows(&site, &format!("{what} ({backend})"))?;
        }
        finish(site, replicator)?;
    }
    Ok(())
}

#[test]
fn a_directory_that_was_not_there_is_watched_once_it_is() -> Result<()> {
    let site = Site::with(
        "later",
        &[
            Group::new("group", "none").file("not/yet/*.dat", RECORD),
            Group::new("other", "none").file("nor/this/one.dat", RECORD),
        ],
    )?;
    let replicator = replicator(&site, "")?;
    make(&site.path("source"), 5, b's')?;
    shell(
        &site,
        "mkdir -p not/yet nor/this; cp source not/yet/a.dat; cp source nor/this/one.dat",
    )?;
    wait_for_rows(&site, "directories that were made")?;
    shell(
        &site,
        "truncate -s 300 not/yet/a.dat; truncate -s 200 nor/this/one.dat",
    )?;
    wait_for_rows(&site, "changes in them")?;
    finish(site, replicator)
}

#[test]
fn many_files_made_at_once_are_all_there() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    let site = Site::with(
        "many",
        &[Group::new("group", "none").file("many/*.dat", RECORD)],
    )?;
    std::fs::create_dir(site.path("many"))?;
    let replicator = replicator(&site, "")?;
    site.uncaptured(&unseen, &["many", "many", "400", "m", "200"])?;
    wait_until("400 tables", || match site.tables() {
        Ok(tables) if tables.len() == 400 => Ok(()),
        Ok(tables) => Err(format!("{} tables", tables.len())),
        Err(error) => Err(format!("{error:#}")),
    })?;
    wait_until("all to be equal", || match site.verify() {
        Ok(verdict) if verdict.equal => Ok(()),
        Ok(_) => Err("verify finds differences".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A captured program writes to the file all the time, so that the file's times say nothing of what somebody else did.
#[test]
fn a_captured_write_does_not_hide_an_uncaptured_one() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    for backend in ["fanotify", "inotify"] {
        let site = Site::with(
            &format!("hidden-{backend}"),
            &[Group::new("group", "none").file("*.dat", RECORD)],
        )?;
        make(&site.path("a.dat"), 50, b'a')?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        let ticks = site.exec(&c("unseen_writer")?, &["tick", "a.dat", "0", "t", "1"])?;
        wait_until("captured writes", || {
            if ticks.stdout().contains("ready") {
                Ok(())
            } else {
                Err(ticks.stderr())
            }
        })?;
        for (how, offset) in [("write", 1000), ("stay", 2000)] {
            let writer = if how == "stay" {
                Some(start(&site, &unseen, &[how, "a.dat", "2000", "u", "300"])?)
            } else {
                site.uncaptured(&unseen, &[how, "a.dat", "1000", "u", "300"])?;
                None
            };
            let begin = Instant::now();
            wait_until("what was written beside the captured writes", || {
                let rows = site.rows("a_dat").map_err(|error| format!("{error:#}"))?;
                let bytes: Vec<u8> = rows.into_values().flatten().collect();
                let is_there = bytes.get(offset..offset + 300) == Some(&[b'u'; 300]);
                assert!(
                    is_there || begin.elapsed() < SOON,
                    "{how} is hidden ({backend}); {site:?}"
                );
                is_there.then_some(()).ok_or_else(|| "not yet".to_owned())
            })?;
            drop(writer);
        }
        drop(ticks);
        wait_for_rows(&site, "the end")?;
        finish(site, replicator)?;
    }
    Ok(())
}

/// Programs that are captured are never said to be uncaptured: not for what they write, nor for what their children do.
#[test]
fn captured_programs_are_not_taken_for_uncaptured_ones() -> Result<()> {
    let site = Site::with(
        "named",
        &[Group::new("group", "none").file("*.dat", RECORD)],
    )?;
    let replicator = replicator(&site, "")?;
    let script = "for i in 1 2 3 4 5; do printf %0100d $i >> a.dat; cp a.dat b.dat; mv b.dat c.dat; \
                  dd if=a.dat of=d.dat status=none; truncate -s 100 d.dat; rm c.dat; done; (printf %0100d 9) >> a.dat";
    site.exec_to_end(&Program::named("sh"), &["-e", "-c", script])?;
    site.exec_to_end(&c("record_writer")?, &["e.dat", "500"])?;
    wait_for_rows(&site, "the captured programs")?;
    make(&site.path("z.dat"), 1, b'z')?;
    wait_for_rows(&site, "an uncaptured one, which is noticed after them")?;
    let log = replicator.stderr();
    let wrong = log
        .lines()
        .filter(|line| line.contains("was changed by") && !line.contains("z.dat"));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&str>::new(), "{log}");
    finish(site, replicator)
}

/// A long file is compared while a short one changes: the short one's change doesn't wait for the long one.
#[test]
fn a_long_comparison_keeps_nobody_waiting() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    let site = Site::with(
        "fair",
        &[
            Group::new("long", "none").file_as(
                "long.bin",
                "organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = 65536",
            ),
            Group::new("short", "none").file("short.dat", RECORD),
        ],
    )?;
    make(&site.path("short.dat"), 10, b'a')?;
    let mut replicator = replicator(&site, "")?;
    wait_for_rows_of(&site, "short_dat", &[b'a'; 1000])?;
    let long = std::fs::File::create(site.path("long.bin"))?;
    long.set_len(1 << 30)?;
    wait_until("the long file to be read", || match site.status() {
        Ok(status) if status["reads_waiting"].as_u64() >= Some(1) => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.uncaptured(&unseen, &["write", "short.dat", "300", "u", "200"])?;
    let expected = [&[b'a'; 300][..], &[b'u'; 200], &[b'a'; 500]].concat();
    wait_for_rows_of(&site, "short_dat", &expected)?;
    let status = site.status()?;
    assert!(
        status["reads_waiting"].as_u64() >= Some(1),
        "the long file is still being read: {status}"
    );
    replicator.kill()?;
    site.finish();
    Ok(())
}

fn wait_for_rows_of(site: &Site, table: &str, expected: &[u8]) -> Result<()> {
    wait_until(&format!("the rows of {table}"), || {
        let rows = site.rows(table).map_err(|error| format!("{error:#}"))?;
        let bytes: Vec<u8> = rows.into_values().flatten().collect();
        if bytes == expected {
            Ok(())
        } else {
            Err(format!("{} bytes", bytes.len()))
        }
    })
}

/// The replicator is stopped for so long that the kernel has to give up remembering what happened.
#[test]
fn when_the_kernel_forgets_what_happened_everything_is_looked_at() -> Result<()> {
    let unseen = c_static("unseen_writer")?;
    for backend in ["fanotify", "inotify"] {
        let site = Site::with(
            &format!("overflow-{backend}"),
            &[Group::new("group", "none").file("*.dat", RECORD)],
        )?;
        make(&site.path("a.dat"), 10, b'a')?;
        make(&site.path("gone.dat"), 10, b'a')?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        signal(&replicator, libc::SIGSTOP);
        site.uncaptured(&unseen, &["noise", ".", "40000", "n", "10"])?;
        site.uncaptured(&unseen, &["write", "a.dat", "300", "u", "200"])?;
        shell(&site, "cp a.dat new.dat; rm gone.dat")?;
        signal(&replicator, libc::SIGCONT);
        wait_for_rows(&site, &format!("what was forgotten ({backend})"))?;
        wait_until("the overflow to be told", || {
            let log = replicator.stderr();
            let is_told = log.contains("more to tell of files than it keeps");
            is_told.then_some(()).ok_or(log)
        })?;
        finish(site, replicator)?;
    }
    Ok(())
}

fn signal(process: &Process, signal: i32) {
    // SAFETY: the child hasn't been waited for, so the id is its own still.
    unsafe { libc::kill(process.id().cast_signed(), signal) };
}

/// Whoever reads the table while the file is replaced again and again finds all of its records, and those that stay the same
/// aren't sent again.
#[test]
fn a_replaced_file_is_one_change_and_its_table_is_never_empty() -> Result<()> {
    const RECORDS: usize = 2000;
    for backend in BACKENDS {
        let site = Site::with(
            &format!("replaced-{backend}"),
            &[Group::new("group", "none").file("*.dat", RECORD)],
        )?;
        make(&site.path("a.dat"), RECORDS, b'a')?;
        let replicator = replicator(&site, backend)?;
        wait_for_rows(&site, "what was there")?;
        let before = images(&site)?;
        let done = AtomicBool::new(false);
        let fewest = std::thread::scope(|scope| -> Result<usize> {
            let connection = site.sqlite()?;
            let done = &done;
            let reader = scope.spawn(move || -> Result<usize> {
                let mut fewest = usize::MAX;
                while !done.load(Ordering::SeqCst) {
                    let rows: i64 =
                        connection.query_row("SELECT count(*) FROM a_dat", [], |row| row.get(0))?;
                    fewest = fewest.min(usize::try_from(rows)?);
                }
                Ok(fewest)
            });
            let replace = || -> Result<()> {
                for round in 0..5 {
                    let step = format!(
                        "cp a.dat .a.dat.tmp; printf %0100d {round} | dd of=.a.dat.tmp bs=100 seek={round} conv=notrunc \
                         status=none; mv .a.dat.tmp a.dat"
                    );
                    shell(&site, &step)?;
                    wait_for_rows(&site, &format!("a replacement ({backend})"))?;
                }
                Ok(())
            };
            let replaced = replace();
            done.store(true, Ordering::SeqCst);
            replaced?;
            reader.join().expect("the reader doesn't panic")
        })?;
        assert_eq!(fewest, RECORDS, "rows vanished meanwhile ({backend})");
        let sent = images(&site)? - before;
        assert!(
            sent < RECORDS as u64 / 4,
            "{sent} images for five changed records"
        );
        finish(site, replicator)?;
    }
    Ok(())
}

/// Images applied so far, when the status has caught up.
fn images(site: &Site) -> Result<u64> {
    let count = || -> Result<u64> {
        let status = site.status()?;
        let sinks = status["sinks"].as_object().context("sinks")?;
        Ok(sinks
            .values()
            .filter_map(|sink| sink["images"].as_u64())
            .sum())
    };
    let mut last = (count()?, Instant::now());
    wait_until("the count of images to settle", || {
        let now = count().map_err(|error| format!("{error:#}"))?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > Duration::from_millis(700) {
            Ok(now)
        } else {
            Err(format!("{now}"))
        }
    })
}
