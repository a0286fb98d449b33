//! Units of work of every kind, as programs really make them: a reader of the mirror never sees half of one, whatever
//! the files, threads and processes that it spans. The traps are those of `docs/units-of-work.md`.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Group, LIMIT, Process, Shape, Site, c, cobol, wait_until};
use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

const FILES: [&str; 3] = ["first.dat", "second.dat", "third.dat"];
const RECORD: usize = 32;

/// Files of records in one group.
fn group_of(name: &str, unit_of_work: &str, files: &[&str]) -> Group {
    let files = files.iter();
    files.fold(Group::new(name, unit_of_work), |group, file| {
        group.file(file, Shape::Fixed { size: RECORD })
    })
}

fn group(unit_of_work: &str) -> Group {
    group_of("group", unit_of_work, &FILES)
}

/// The value of a record in each of the three tables, as of one moment; none where there is no such record.
fn values(site: &Site, files: &[&str], slot: u64) -> Result<Vec<Option<String>>> {
    let mut connection = site.sqlite()?;
    let transaction = connection.transaction()?;
    // The first read fixes the moment.
    transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    let mut values = Vec::new();
    for file in files {
        let table = file.replace('.', "_");
        let sql = format!("SELECT data FROM {table} WHERE record_number = ?1");
        let Ok(mut statement) = transaction.prepare(&sql) else {
            // There is no table yet, so no record either.
            values.push(None);
            continue;
        };
        let mut rows = statement.query([slot as i64])?;
        let record: Option<Vec<u8>> = match rows.next()? {
            Some(row) => Some(row.get(0)?),
            None => None,
        };
        // A place that was never written holds zeros.
        let record = record.filter(|record| record.iter().any(|&byte| byte != 0));
        values.push(record.map(|record| String::from_utf8_lossy(&record).into_owned()));
    }
    Ok(values)
}

/// The value of a record, which must be the same in all files, and in both of its halves; none where there is none yet.
fn look(site: &Site, files: &[&str], slot: u64) -> Result<Option<String>> {
    let Ok(values) = values(site, files, slot) else {
        // There is no database yet.
        return Ok(None);
    };
    let first = &values[0];
    ensure!(
        values.iter().all(|value| value == first),
        "half of a unit is in the mirror, in record {slot}: {values:?} (see {})",
        site.root().display()
    );
    let Some(value) = first else { return Ok(None) };
    let (half, other) = value.split_at(RECORD / 2);
    ensure!(half == other, "half a record is in the mirror: {value:?}");
    Ok(Some(half.to_owned()))
}

/// What a reader has to see of each record before it can tell anything: however slow it is, the writers go on until then.
const ENOUGH: usize = 5;

/// Reads while programs run, each at a record of its own, until `enough` values were seen of every one; they stop then. Each
/// record must be the same in all files, and in both of its halves.
fn watch(site: &Site, programs: &mut [Process], enough: usize) -> Result<()> {
    let mut seen = vec![BTreeSet::new(); programs.len()];
    let until = Instant::now() + LIMIT;
    while seen.iter().any(|values| values.len() < enough) {
        for program in &mut *programs {
            ensure!(
                program.is_running()?,
                "a writer has ended: {}",
                program.stderr()
            );
        }
        for (slot, values) in (1..).zip(&mut seen) {
            values.extend(look(site, &FILES, slot)?);
        }
        ensure!(Instant::now() < until, "nothing more comes after {seen:?}");
    }
    std::fs::write(site.root().join("enough"), "")?;
    Ok(())
}

/// Runs writers, one for each record, and reads the mirror meanwhile.
fn write_and_watch(
    name: &str,
    group: Group,
    way: &str,
    writers: usize,
    threads: usize,
) -> Result<()> {
    let site = Site::with(name, &[group])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let program = c("unit_writer")?;
    let mut programs = Vec::new();
    for slot in 1..=writers {
        let (slot, threads) = (slot.to_string(), threads.to_string());
        let arguments = [way, &slot, "0", &threads, "2000"];
        programs.push(site.exec(&program, &[&arguments[..], &FILES[..]].concat())?);
    }
    watch(&site, &mut programs, ENOUGH)
        .with_context(|| format!("{way}, {writers} writers, {threads} threads"))?;
    for program in programs {
        program.finish()?.success()?;
    }
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn a_program_marks_its_units() -> Result<()> {
    for way in ["api", "nested", "abort"] {
        write_and_watch(&format!("unit-{way}"), group("api"), way, 1, 1)?;
    }
    Ok(())
}

#[test]
fn units_span_threads() -> Result<()> {
    for (unit_of_work, way) in [
        ("api", "api"),
        ("lock", "lock"),
        ("fsync", "fsync"),
        ("close", "close"),
    ] {
        write_and_watch(&format!("threads-{way}"), group(unit_of_work), way, 1, 3)?;
    }
    Ok(())
}

#[test]
fn units_of_several_processes_stay_apart() -> Result<()> {
    for (unit_of_work, way) in [
        ("api", "api"),
        ("lock", "lock"),
        ("fsync", "fsync"),
        ("close", "close"),
    ] {
        write_and_watch(&format!("processes-{way}"), group(unit_of_work), way, 3, 1)?;
    }
    Ok(())
}

#[test]
fn every_way_to_lock_holds_a_unit() -> Result<()> {
    for way in ["lock", "ofd", "whole", "flock", "second", "other"] {
        write_and_watch(&format!("lock-{way}"), group("lock"), way, 2, 1)?;
    }
    Ok(())
}

#[test]
fn a_lock_file_of_the_group_holds_units() -> Result<()> {
    let group = group("lock").file("units.lock", Shape::Blocks { size: 4096 });
    write_and_watch("lock-file", group, "lockfile", 2, 1)
}

#[test]
fn without_units_the_reader_does_see_halves() -> Result<()> {
    let site = Site::with("halves", &[group("none")])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let arguments = ["none", "1", "0", "1", "20000"];
    let program = site.exec(&c("unit_writer")?, &[&arguments[..], &FILES[..]].concat())?;
    // However many it takes.
    let error = watch(&site, &mut [program], usize::MAX).expect_err("it ends by an error");
    ensure!(error.to_string().contains("half of a unit"), "{error:#}");
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

/// The books of `cobol_books`.
fn books(unit_of_work: &str) -> Group {
    Group::new("books", unit_of_work)
        .file("cards.dat", Shape::Relative { size: 64 })
        .file(
            "entries.dat",
            Shape::Variable {
                size: 80,
                varseq_format: 0,
            },
        )
        .file("lines.log", Shape::Lines)
}

/// The last turn in the tables of cards, entries and lines, as of one moment; 0 where there is none.
fn last_turns(site: &Site) -> Result<[u64; 3]> {
    let mut connection = site.sqlite()?;
    let transaction = connection.transaction()?;
    transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    let mut turns = [0; 3];
    for (turn, (table, by)) in turns.iter_mut().zip([
        ("cards_dat", "slot_number"),
        ("entries_dat", "address"),
        ("lines_log", "address"),
    ]) {
        let sql = format!("SELECT data FROM {table} ORDER BY {by} DESC LIMIT 1");
        let Ok(mut statement) = transaction.prepare(&sql) else {
            continue;
        };
        let mut rows = statement.query([])?;
        if let Some(row) = rows.next()? {
            let data: Vec<u8> = row.get(0)?;
            ensure!(
                data.len() >= 6,
                "half a record is in the mirror: {table} has {data:?}"
            );
            *turn = String::from_utf8_lossy(&data[..6]).parse()?;
            ensure!(
                table != "entries_dat" || data.len() as u64 == 6 + *turn % 70,
                "half an entry is in the mirror: {data:?}"
            );
        }
    }
    Ok(turns)
}

/// Runs `cobol_books`, a leg of turns after the other, and checks each state that the mirror is in, until enough of them
/// were seen while it ran.
fn keep_books(
    name: &str,
    unit_of_work: &str,
    how: &[&str],
    check: impl Fn([u64; 3]) -> Result<()>,
) -> Result<()> {
    const LEG: u64 = 2000;
    let site = Site::with(name, &[books(unit_of_work)])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let mut between = BTreeSet::new();
    let until = Instant::now() + LIMIT;
    for leg in 0.. {
        if between.len() >= ENOUGH {
            break;
        }
        let (first, last) = (leg * LEG + 1, (leg + 1) * LEG);
        let turns = [first, last].map(|turn| turn.to_string());
        let arguments = [&[turns[0].as_str(), turns[1].as_str()], how].concat();
        let program = site.exec(&cobol("cobol_books")?, &arguments)?;
        loop {
            let state = last_turns(&site)?;
            check(state).with_context(|| format!("see {}", site.root().display()))?;
            if state == [last; 3] {
                break;
            }
            if state.iter().any(|&turn| turn >= first) {
                between.insert(state);
            }
            ensure!(Instant::now() < until, "the mirror has come to {state:?}");
        }
        program.finish()?.success()?;
    }
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// At CLOSE, libcob unlocks a line sequential file and writes what it had buffered after that: it belongs to the unit.
#[test]
fn lines_that_are_written_after_the_unlock_belong_to_the_unit() -> Result<()> {
    keep_books("books", "lock", &[], |[card, entry, line]| {
        ensure!(
            card == entry && entry == line,
            "cards are at {card}, entries at {entry}, lines at {line}"
        );
        Ok(())
    })
}

/// COMMIT synchronises without flushing: records are in the mirror then, lines only when their buffer is written.
#[test]
fn commit_ends_a_unit_with_what_is_in_the_files() -> Result<()> {
    keep_books("commit", "fsync", &["COMMIT"], |[card, entry, line]| {
        ensure!(card == entry, "cards are at {card}, entries at {entry}");
        ensure!(line <= card, "lines at {line}, cards at {card}");
        Ok(())
    })
}

/// Both parts of a record, length and data, or neither: without any units of work too.
#[test]
fn records_in_two_parts_are_never_seen_by_half() -> Result<()> {
    keep_books("two-parts", "none", &[], |_| Ok(()))
}

/// OPEN OUTPUT empties the file before it asks for the lock. Where that is held, the file is empty all the same; where
/// it isn't, what was in it and what is written are one unit.
#[test]
fn a_file_that_was_emptied_before_its_lock_was_refused_is_empty_in_the_mirror() -> Result<()> {
    let shape = Shape::Fixed { size: RECORD };
    let site = Site::with(
        "output",
        &[Group::new("group", "lock").file("report.dat", shape)],
    )?;
    std::fs::write(site.path("report.dat"), "a".repeat(2 * RECORD))?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let rows = |wanted: &'static str| {
        wait_until("the rows", || match site.rows("report_dat") {
            Ok(rows) => {
                let text: String = rows.values().map(|data| char::from(data[0])).collect();
                if text == wanted {
                    Ok(())
                } else {
                    Err(format!("{text:?}, not {wanted:?}"))
                }
            }
            Err(error) => Err(format!("{error:#}")),
        })
    };
    rows("aa")?;
    let program = cobol("cobol_output")?;
    // Somebody who isn't captured holds the lock.
    let held = std::fs::File::open(site.path("report.dat"))?;
    let region = libc::flock {
        l_type: libc::F_RDLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, the structure outlives the call.
    let locked = unsafe { libc::fcntl(held.as_raw_fd(), libc::F_SETLK, &raw const region) };
    assert_eq!(locked, 0);
    let refused = site.exec_to_end::<&str>(&program, &[])?;
    assert_eq!(
        refused.stdout.trim(),
        "61",
        "a lock that is held refuses the OPEN"
    );
    rows("")?;
    drop(held);
    let opened = site.exec_to_end::<&str>(&program, &[])?;
    assert_eq!(opened.stdout.trim(), "00");
    rows("r")?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A program that goes out of its way: what a unit has when its process dies is published, and a unit that never ends is
/// shown, cut, and goes on.
#[test]
fn a_unit_that_does_not_end_is_shown_and_cut() -> Result<()> {
    let site = Site::new("endless")?;
    let mut text = site.config_text(&[group("api")]);
    text = text.replace(
        "unit_of_work = \"api\"",
        "unit_of_work = \"api\"\nunit_timeout_ms = 3000",
    );
    site.configure_text(&text)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    // The pause before the last half is longer than this test.
    let program = c("unit_writer")?;
    let arguments = ["api", "1", "1", "1", "1000000000", FILES[0], FILES[1]];
    let mut endless = site.exec(&program, &arguments)?;
    let shown = wait_until("the unit in the status", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        match status["units"].get(0) {
            Some(unit) => Ok(unit.clone()),
            None => Err(status["units"].to_string()),
        }
    })?;
    assert_eq!(shown["group"], "group");
    assert_eq!(shown["pid"], endless.id());
    assert_eq!(shown["program"], "unit_writer");
    assert_eq!(
        shown["files"][0],
        site.path(FILES[0]).to_str().context("text")?
    );
    let printed = site.run(&["status"])?.stdout;
    ensure!(
        printed.contains("open in group") && printed.contains("unit_writer"),
        "{printed}"
    );
    wait_until("the unit to be cut", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["units_cut"] == 1 && status["units_cut_last"][0]["pid"] == endless.id() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    wait_until("what it wrote", || {
        if half_is_kept(&site) {
            Ok(())
        } else {
            Err("nothing".to_owned())
        }
    })?;
    endless.kill()?;
    wait_until("no unit to be open", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if status["units_open"] == 0 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// Half a record is no record: it is kept beside the table.
fn half_is_kept(site: &Site) -> bool {
    let count = site.sqlite().and_then(|connection| {
        let sql = "SELECT count(*) FROM counterfoil_residue";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    });
    count.is_ok_and(|count| count > 0)
}

/// A process that is killed inside a unit leaves what it wrote, which is published as it is.
#[test]
fn a_process_that_dies_inside_a_unit_ends_it() -> Result<()> {
    for (unit_of_work, way) in [
        ("api", "api"),
        ("lock", "lock"),
        ("fsync", "fsync"),
        ("close", "close"),
    ] {
        let site = Site::with(&format!("dies-{way}"), &[group(unit_of_work)])?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        let arguments = ["2", "1", "1", "1000000000", FILES[0], FILES[1]];
        let mut program = site.exec(&c("unit_writer")?, &[&[way][..], &arguments[..]].concat())?;
        wait_until("the unit in the status", || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            if status["units"].get(0).is_some() {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })?;
        program.kill()?;
        wait_until("no unit to be open", || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            if status["units_open"] == 0 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })?;
        site.stop(replicator)?;
        site.assert_mirrored().with_context(|| way.to_owned())?;
        site.finish();
    }
    Ok(())
}

/// The replicator is killed again and again in the middle of units that span two groups: in neither is ever half of one.
#[test]
fn a_replicator_that_is_killed_inside_units_never_shows_half_of_one() -> Result<()> {
    const OTHERS: [&str; 3] = ["fourth.dat", "fifth.dat", "sixth.dat"];
    for (unit_of_work, way) in [("api", "nested"), ("close", "close")] {
        let groups = [
            group_of("one", unit_of_work, &FILES),
            group_of("other", unit_of_work, &OTHERS),
        ];
        let site = Site::with(&format!("killed-{way}"), &groups)?;
        let program = c("unit_writer")?;
        let mut programs = Vec::new();
        for slot in ["1", "2"] {
            let arguments = [way, slot, "400", "1", "1000"];
            programs.push(site.exec(&program, &[&arguments[..], &FILES, &OTHERS].concat())?);
        }
        let mut seen = BTreeSet::new();
        let mut kills = 0;
        loop {
            let mut running = false;
            for program in &mut programs {
                running |= program.is_running()?;
            }
            if !running {
                break;
            }
            let mut replicator = site.replicator()?;
            site.wait_until_up(&mut replicator)?;
            // Until a few more units are in the mirror.
            let before = seen.len();
            let until = Instant::now() + LIMIT;
            while running && seen.len() < before + 4 {
                ensure!(Instant::now() < until, "nothing more comes after {seen:?}");
                running = false;
                for program in &mut programs {
                    running |= program.is_running()?;
                }
                for slot in 1..=2 {
                    seen.extend(look(&site, &FILES, slot)?.map(|value| format!("{slot}:{value}")));
                    look(&site, &OTHERS, slot)?;
                }
            }
            replicator.kill()?;
            kills += 1;
        }
        for program in programs {
            program.finish()?.success()?;
        }
        ensure!(kills >= 2, "it was killed only {kills} times");
        site.assert_mirrored()?;
        for files in [FILES, OTHERS] {
            assert_eq!(look(&site, &files, 1)?, look(&site, &files, 2)?);
        }
        site.finish();
    }
    Ok(())
}
