//! The rules of `docs/crash-rules.md`: whatever dies, is lost or comes back old, the tables are what the files are. Each test
//! compares the bytes of files with rows by the harness's own decoder.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::Postgres;
use counterfoil_tests::{
    CARD_SWITCH, Chance, Group, Process, Program, Shape, Site, SmallDisk, assert_rows,
    assert_settled, c, c_library, epoch, wait_for_rows, wait_until,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const RECORD: Shape = Shape::Fixed { size: 100 };
const FILE: [(&str, Shape); 1] = [("a.dat", RECORD)];

fn group() -> Group {
    Group::new("g", "none").file("a.dat", RECORD)
}

/// A site with one file of fixed records, a running replicator, and some rows.
fn running(name: &str) -> Result<(Site, Process)> {
    let site = Site::with(name, &[group()])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    write(&site, 100)?;
    wait_for_rows(&site, &FILE)?;
    Ok((site, replicator))
}

/// A captured program appends records.
fn write(site: &Site, count: usize) -> Result<()> {
    site.exec_to_end(&c("record_writer")?, &["a.dat", &count.to_string()])?;
    Ok(())
}

/// Changes a record behind everybody's back.
fn change_unseen(site: &Site, record: u64) -> Result<()> {
    let file = fs::File::options().write(true).open(site.path("a.dat"))?;
    let text = format!("unseen {:x}", Chance::new(record).number());
    file.write_all_at(text.as_bytes(), (record - 1) * 100)?;
    Ok(())
}

fn status(site: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(what, || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        if is_so(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

/// Waits until the status has an obstacle with these words.
fn wait_for_obstacle(site: &Site, words: &str) -> Result<()> {
    status(site, &format!("an obstacle with {words:?}"), |status| {
        status["obstacles"].to_string().contains(words)
            || status["problems"].to_string().contains(words)
    })?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "copying {} failed", from.display());
    Ok(())
}

// ---- a program is killed

/// At each of several writes, once when it is to be made and once when it has been made and nobody was told of it yet.
#[test]
fn a_program_killed_between_its_write_and_the_frame_is_looked_after() -> Result<()> {
    let (site, mut replicator) = running("between")?;
    let killer = c("kill_at_call")?;
    let writer = c("record_writer")?;
    let word = writer.words[0].to_str().context("a path that is text")?;
    for (when, number) in [
        ("after", 1),
        ("before", 1),
        ("after", 2),
        ("before", 5),
        ("after", 9),
    ] {
        let before = fs::metadata(site.path("a.dat"))?.len();
        let number_text = number.to_string();
        let arguments = [when, &number_text, "write", "a.dat", word, "a.dat", "20"];
        site.exec(&killer, &arguments)?.finish()?.expect_code(137)?;
        let written = (fs::metadata(site.path("a.dat"))?.len() - before) / 100;
        let expected = if when == "after" { number } else { number - 1 };
        ensure!(written == expected, "{when} {number}: {written} records");
        wait_for_rows(&site, &FILE).with_context(|| format!("{when} {number}"))?;
    }
    // It wasn't the watcher alone that found them.
    status(&site, "ranges of calls that somebody died in", |status| {
        status["coverage"]["rereads"]["died"].as_u64() >= Some(3)
    })?;
    ensure!(replicator.is_running()?);
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    site.finish();
    Ok(())
}

// ---- the replicator is killed

/// Killed at calls that change a file of its own, chosen by chance among all that it makes from its start until it is idle.
#[test]
fn a_replicator_killed_at_any_call_of_its_own_goes_on_where_it_was() -> Result<()> {
    const CALLS: &str = "write,pwrite64,ftruncate,fallocate,fsync,fdatasync,unlinkat,unlink,rename";
    let mut chance = Chance::new(Chance::seed());
    let text = ("text.txt", Shape::Lines);
    let site = Site::with("any-call", &[group().file(text.0, text.1)])?;
    let files = [FILE[0], text];
    let killer = c("kill_at_call")?;
    let program = killer.words[0].clone();
    let run = |when: &str, number: u64| -> Result<Process> {
        let replicator = site.counterfoil(&["run", "--until-idle"]);
        let mut command = Command::new(&program);
        command
            .args([when, &number.to_string(), CALLS, "-"])
            .arg(replicator.get_program())
            .args(replicator.get_args())
            .current_dir(site.data());
        site.start(command)
    };
    let mut lines = String::new();
    let mut change = |round: u64| -> Result<()> {
        write(&site, 300)?;
        for record in [1, 20 + round, 300 * round] {
            change_unseen(&site, record)?;
        }
        lines.push_str(&format!("line of round {round}\n").repeat(50));
        fs::write(site.path(text.0), &lines)?;
        Ok(())
    };
    change(1)?;
    let all = run("before", u64::MAX / 2)?.finish()?.expect_code(3)?;
    let calls: u64 = all.stdout.trim().parse().context("the number of calls")?;
    ensure!(calls > 20, "{calls} calls");
    assert_rows(&site, &files)?;
    let mut kills = 0;
    for round in 2..8 {
        change(round)?;
        for _ in 0..2 {
            let number = 1 + chance.below(calls);
            let when = *chance.pick(&["before", "after"]);
            let finished = run(when, number)?.finish()?;
            match finished.status.code() {
                Some(137) => kills += 1,
                // This time it made fewer.
                Some(3) => {}
                _ => drop(finished.expect_code(137)?),
            }
        }
        if round % 3 == 1 {
            assert_settled(&site, &files).with_context(|| format!("round {round}"))?;
        }
    }
    ensure!(kills > 3, "{kills} kills");
    site.finish();
    Ok(())
}

// ---- the host loses power

/// The last segment of the journal.
fn last_segment(site: &Site) -> Result<PathBuf> {
    let journal = site.state().join("journal");
    let mut segments: Vec<PathBuf> = fs::read_dir(&journal)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    segments.retain(|path| path.extension().is_some_and(|word| word == "journal"));
    segments.sort();
    segments.pop().context("the journal has no segment")
}

/// What the state directory says of the host's boot is of an earlier one.
fn boot_again(site: &Site) -> Result<()> {
    for name in ["lanes/boot", "images/ahead"] {
        let path = site.state().join(name);
        if path.exists() {
            fs::write(&path, "00000000-0000-0000-0000-000000000000")?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The journal's last bytes.
    Cut(u64),
    /// Their content.
    Garbled(u64),
    /// Their content, as file systems lose it.
    Zeros(u64),
    Lanes,
    TornLanes,
    Images,
}

fn lose(site: &Site, loss: Loss) -> Result<()> {
    let tail = |bytes: u64, fill: Option<u8>| -> Result<()> {
        let path = last_segment(site)?;
        let file = fs::File::options().write(true).open(&path)?;
        let len = file.metadata()?.len();
        // Its header was there before anything was in it.
        let from = len.saturating_sub(bytes).max(64.min(len));
        match fill {
            None => file.set_len(from)?,
            Some(byte) => file.write_all_at(&vec![byte; (len - from) as usize], from)?,
        }
        Ok(())
    };
    let lanes = site.state().join("lanes");
    match loss {
        Loss::Cut(bytes) => tail(bytes, None)?,
        Loss::Garbled(bytes) => tail(bytes, Some(0xa5))?,
        Loss::Zeros(bytes) => tail(bytes, Some(0))?,
        Loss::Lanes => fs::remove_dir_all(&lanes)?,
        Loss::TornLanes => {
            for entry in fs::read_dir(&lanes)? {
                let path = entry?.path();
                if path.extension().is_some_and(|word| word == "lane") {
                    let file = fs::File::options().write(true).open(&path)?;
                    let len = file.metadata()?.len();
                    file.set_len(len / 2 + 7)?;
                    file.write_all_at(&[0x5a; 600], len / 4)?;
                }
            }
        }
        Loss::Images => fs::remove_dir_all(site.state().join("images"))?,
    }
    Ok(())
}

/// Everything dies at once in the middle of payments; journal, lanes or images are torn or lost, files are there with what nobody
/// was told of.
#[test]
fn a_host_that_lost_power_finds_what_differs_under_a_new_epoch() -> Result<()> {
    let site = Site::with("power", &[Group::card_switch()])?;
    let switch = c("card_switch")?;
    site.exec_to_end(&switch, &[".", "--cards", "60", "--payments", "300"])?;
    site.settle()?;
    let losses: [&[Loss]; 6] = [
        &[Loss::Cut(1)],
        &[Loss::Garbled(150), Loss::Lanes],
        &[Loss::Zeros(300), Loss::TornLanes],
        &[Loss::Cut(5000), Loss::Lanes],
        &[Loss::Images, Loss::TornLanes],
        &[],
    ];
    for (round, losses) in losses.into_iter().enumerate() {
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        let seed = (round + 10).to_string();
        let mut program = site.exec(&switch, &[".", "--rate", "2000", "--seed", &seed])?;
        let so_far = fs::metadata(site.path("journal.dat"))?.len();
        wait_until("payments", || {
            match fs::metadata(site.path("journal.dat")) {
                Ok(now) if now.len() > so_far + 20_000 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        program.kill()?;
        replicator.kill()?;
        let before = epoch(&site)?;
        for &loss in losses {
            lose(&site, loss)?;
        }
        boot_again(&site)?;
        // Nobody was told of this.
        let accounts = fs::File::options()
            .write(true)
            .open(site.path("accounts.dat"))?;
        accounts.write_all_at(format!("{round:05}").as_bytes(), 290)?;
        let context = || format!("after {losses:?}");
        assert_settled(&site, &CARD_SWITCH).with_context(context)?;
        let now = epoch(&site)?;
        ensure!(now > before, "epoch {now} after {before}, {losses:?}");
    }
    site.exec_to_end(&switch, &[".", "--payments", "50"])?;
    assert_settled(&site, &CARD_SWITCH)?;
    site.finish();
    Ok(())
}

/// The system had written images, and not the journal: what they hold isn't known to be in the target.
#[test]
fn what_images_hold_and_a_lost_journal_does_not_is_sent_again() -> Result<()> {
    let (site, replicator) = running("ahead")?;
    site.stop(replicator)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let end = |status: &Value, key: &str| status[key].as_u64().unwrap_or(0);
    let settled = status(&site, "everything to be published", |status| {
        end(status, "journal_end") == end(status, "published_end") && end(status, "journal_end") > 1
    })?;
    let segment = last_segment(&site)?;
    let len = fs::metadata(&segment)?.len();
    // The target takes nothing for now.
    let lock = site.sqlite()?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    let writer = c("pwrite_loop")?;
    site.exec_to_end(&writer, &["a.dat", "50", "3", "100", "100"])?;
    status(&site, "images to have it", |status| {
        end(status, "published_end") > end(&settled, "published_end") + 50
    })?;
    replicator.kill()?;
    lock.execute_batch("ROLLBACK")?;
    ensure!(
        assert_rows(&site, &FILE).is_err(),
        "the target had it already"
    );
    ensure!(last_segment(&site)? == segment, "another segment was begun");
    fs::File::options()
        .write(true)
        .open(&segment)?
        .set_len(len)?;
    fs::remove_dir_all(site.state().join("lanes"))?;
    let before = epoch(&site)?;
    boot_again(&site)?;
    assert_settled(&site, &FILE)?;
    ensure!(epoch(&site)? > before);
    site.finish();
    Ok(())
}

/// A host that was quiet has nothing to read again: what its images hold is on disk in the journal, too.
#[test]
fn a_quiet_host_that_lost_power_sends_only_what_differs() -> Result<()> {
    let (site, mut replicator) = running("quiet")?;
    write(&site, 900)?;
    wait_for_rows(&site, &FILE)?;
    let ahead = site.state().join("images/ahead");
    wait_until("the journal to be on disk", || match ahead.exists() {
        false => Ok(()),
        true => Err("images are ahead".to_owned()),
    })?;
    replicator.kill()?;
    let before = epoch(&site)?;
    boot_again(&site)?;
    change_unseen(&site, 17)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    wait_for_rows(&site, &FILE)?;
    let now = status(&site, "events", |status| status["events"] != 0)?;
    let events = now["events"].as_u64().context("a number of events")?;
    // What is compared is blocks of 4096 bytes.
    ensure!(events < 60, "{events} events for one record");
    ensure!(epoch(&site)? > before);
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    site.finish();
    Ok(())
}

// ---- targets

/// Another file takes the target's place, or none; what SQLite keeps beside it goes.
fn put_back(site: &Site, backup: Option<&Path>) -> Result<()> {
    for suffix in ["-wal", "-shm"] {
        let mut name = site.database().into_os_string();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    match backup {
        Some(backup) => fs::rename(backup, site.database())?,
        None => fs::remove_file(site.database())?,
    }
    Ok(())
}

/// A target is put back while everything runs: by another file in its place, or by none.
#[test]
fn a_target_that_is_put_back_or_removed_while_all_runs_gets_what_it_lacks() -> Result<()> {
    let (site, mut replicator) = running("put-back")?;
    let backup = site.root().join("backup.db");
    site.sqlite()?
        .execute("VACUUM INTO ?1", [backup.to_str()])?;
    write(&site, 200)?;
    change_unseen(&site, 5)?;
    wait_for_rows(&site, &FILE)?;
    put_back(&site, Some(&backup))?;
    // Nothing at the primary stops, and nothing has to come.
    wait_for_rows(&site, &FILE)?;
    ensure!(
        replicator.stderr().contains("it is older than it was"),
        "{}",
        replicator.stderr()
    );
    put_back(&site, None)?;
    write(&site, 1)?;
    wait_for_rows(&site, &FILE)?;
    ensure!(replicator.is_running()?, "{}", replicator.stderr());
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    site.finish();
    Ok(())
}

/// A target on a server goes back in one transaction, rows and position, as a restore does it.
#[test]
fn a_server_s_target_restored_from_a_backup_gets_what_it_lacks() -> Result<()> {
    let server = Postgres::shared()?;
    server.create_database("restored")?;
    let sql = |sql: &str| server.sql("restored", sql);
    let site = Site::new("restored")?;
    site.configure_text(&format!(
        "{}\n[[sink]]\nname = \"dr\"\npostgres = {{ url = {:?}, schema = \"pay\" }}\n",
        site.config_text(&[group()]),
        server.url("restored")
    ))?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    write(&site, 100)?;
    let rows = || -> Result<Vec<u8>> {
        let hex = sql(
            "SELECT encode(string_agg(data, '' ORDER BY record_number), 'hex') FROM pay.a_dat",
        )?;
        let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        hex.chunks_exact(2)
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect()
    };
    let equal = |process: &Process| {
        wait_until("the table to be the file", || {
            let file = fs::read(site.path("a.dat")).map_err(|error| error.to_string())?;
            let rows = rows().map_err(|error| format!("{error:#}"))?;
            if rows == file {
                Ok(())
            } else {
                Err(format!("{} bytes; {}", rows.len(), process.stderr()))
            }
        })
    };
    equal(&replicator)?;
    let each = |what: &str| {
        format!(
            "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'pay' LOOP {what} END LOOP; END $$"
        )
    };
    sql("CREATE SCHEMA backup")?;
    sql(&each(
        "EXECUTE format('CREATE TABLE backup.%I AS TABLE pay.%I', t, t);",
    ))?;
    write(&site, 200)?;
    change_unseen(&site, 7)?;
    equal(&replicator)?;
    sql(&each(
        "EXECUTE format('DELETE FROM pay.%I', t); EXECUTE format('INSERT INTO pay.%I SELECT * FROM backup.%I', t, t);",
    ))?;
    // (By its own look at once, or by a batch before that.)
    write(&site, 1)?;
    equal(&replicator)?;
    ensure!(replicator.is_running()?, "{}", replicator.stderr());
    site.stop(replicator)?;
    ensure!(site.verify()?.equal);
    site.finish();
    Ok(())
}

/// The state directory comes back from a backup, and the target has more than its journal.
#[test]
fn a_target_ahead_of_a_state_directory_from_a_backup_is_sent_all_under_a_new_epoch() -> Result<()> {
    for clean in [true, false] {
        let (site, mut replicator) = running("old-state")?;
        if clean {
            site.stop(replicator)?;
        } else {
            replicator.kill()?;
        }
        let backup = site.root().join("backup");
        copy(&site.state(), &backup)?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        write(&site, 300)?;
        wait_for_rows(&site, &FILE)?;
        replicator.kill()?;
        // The target isn't in the backup.
        for name in ["counterfoil.db", "counterfoil.db-wal", "counterfoil.db-shm"] {
            let (of, to) = (site.state().join(name), backup.join(name));
            let _ = fs::remove_file(&to);
            if of.exists() {
                copy(&of, &to)?;
            }
        }
        fs::remove_dir_all(site.state())?;
        fs::rename(&backup, site.state())?;
        let before = epoch(&site)?;
        let file = fs::File::options().write(true).open(site.path("a.dat"))?;
        file.set_len(25_050)?;
        change_unseen(&site, 33)?;
        assert_settled(&site, &FILE)?;
        ensure!(epoch(&site)? > before);
        site.finish();
    }
    Ok(())
}

// ---- the state directory

/// It is deleted with everything in it; the target is elsewhere. Meanwhile files change, and one goes.
#[test]
fn a_deleted_state_directory_is_made_up_for_under_a_new_epoch() -> Result<()> {
    let site = Site::new("no-state")?;
    let target = site.root().join("target.db");
    let groups = [group().file("b.dat", RECORD)];
    site.configure_text(&site.config_text_with_target(&groups, &target))?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    write(&site, 500)?;
    site.exec_to_end(&c("record_writer")?, &["b.dat", "50"])?;
    // The harness looks for the default target in the state directory.
    let link = || -> Result<()> {
        let _ = fs::create_dir(site.state());
        Ok(std::os::unix::fs::symlink(&target, site.database())?)
    };
    link()?;
    wait_for_rows(&site, &[FILE[0], ("b.dat", RECORD)])?;
    let before = epoch(&site)?;
    replicator.kill()?;
    fs::remove_dir_all(site.state())?;
    fs::remove_file(site.path("b.dat"))?;
    let file = fs::File::options().write(true).open(site.path("a.dat"))?;
    file.set_len(30_000)?;
    change_unseen(&site, 3)?;
    site.settle()?;
    link()?;
    assert_settled(&site, &FILE)?;
    ensure!(epoch(&site)? > before);
    ensure!(!site.tables()?.contains(&"b_dat".to_owned()));
    site.finish();
    Ok(())
}

// ---- the clock

/// The wall clock as programs and replicator see it.
struct WallClock {
    file: fs::File,
    path: PathBuf,
    library: PathBuf,
}

impl WallClock {
    fn new(site: &Site) -> Result<WallClock> {
        let path = site.root().join("clock-step");
        fs::write(&path, 0_i64.to_le_bytes())?;
        Ok(WallClock {
            file: fs::File::options().write(true).open(&path)?,
            path,
            library: c_library("clock_step")?,
        })
    }

    fn set(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_le_bytes(), 0)?)
    }

    fn start(&self, site: &Site, mut command: Command) -> Result<Process> {
        command
            .env("LD_PRELOAD", &self.library)
            .env("CLOCK_STEP", &self.path);
        site.start(command)
    }
}

/// A day back while programs and replicator run, and between a stop and a start: order, positions and epochs are of no clock.
#[test]
fn a_clock_set_back_changes_nothing() -> Result<()> {
    const DAY: i64 = 86_400;
    let site = Site::with("clock", &[Group::card_switch()])?;
    let clock = WallClock::new(&site)?;
    let switch = c("card_switch")?;
    let mut replicator = clock.start(&site, site.counterfoil(&["run"]))?;
    site.wait_until_up(&mut replicator)?;
    let arguments = [".", "--cards", "60", "--rate", "500"];
    let mut program = clock.start(&site, site.captured(&switch, &arguments))?;
    let payments = |more: u64| {
        let len = || fs::metadata(site.path("journal.dat")).map_or(0, |there| there.len());
        let so_far = len();
        wait_until("payments", || match len() {
            now if now > so_far + more => Ok(()),
            now => Err(format!("{now} bytes after {so_far}")),
        })
    };
    let captured_ns = || -> Result<i64> {
        let sql = "SELECT captured_ns FROM counterfoil_position";
        Ok(site.sqlite()?.query_row(sql, [], |row| row.get(0))?)
    };
    payments(20_000)?;
    wait_until("rows", || {
        captured_ns().map_err(|error| format!("{error:#}"))
    })?;
    let before = captured_ns()?;
    clock.set(-DAY)?;
    payments(20_000)?;
    // It is seen that the clock is what both go by.
    wait_until("rows of a day before", || match captured_ns() {
        Ok(now) if now < before - (DAY - 3600) * 1_000_000_000 => Ok(()),
        other => Err(format!("{other:?}, {before} before")),
    })?;
    clock.set(DAY)?;
    payments(10_000)?;
    clock.set(-2 * DAY)?;
    program.kill()?;
    wait_for_rows(&site, &CARD_SWITCH)?;
    let epoch_before = epoch(&site)?;
    replicator.kill()?;
    clock.set(-30 * DAY)?;
    site.exec_to_end(&switch, &[".", "--payments", "50"])?;
    let settled = clock.start(&site, site.counterfoil(&["run", "--until-idle"]))?;
    settled.finish()?.success()?;
    assert_rows(&site, &CARD_SWITCH)?;
    ensure!(epoch(&site)? > epoch_before);
    assert_settled(&site, &CARD_SWITCH)?;
    site.finish();
    Ok(())
}

/// A unit of work that doesn't end is cut after its time, though the clock says that it hasn't begun yet.
#[test]
fn a_unit_that_was_open_when_the_clock_was_set_back_is_cut_in_time() -> Result<()> {
    let files = ["x.dat", "y.dat"];
    let group = Group::new("g", "api")
        .file(files[0], Shape::Fixed { size: 32 })
        .file(files[1], Shape::Fixed { size: 32 });
    let site = Site::new("clock-unit")?;
    let text = site.config_text(&[group]);
    let units = "unit_of_work = \"api\"";
    site.configure_text(&text.replace(units, &format!("{units}\nunit_timeout_ms = 2000")))?;
    let clock = WallClock::new(&site)?;
    let mut replicator = clock.start(&site, site.counterfoil(&["run"]))?;
    site.wait_until_up(&mut replicator)?;
    // The pause before each half but the first is longer than this test.
    let arguments = ["api", "1", "1", "1", "1000000000", files[0], files[1]];
    let mut endless = site.exec(&c("unit_writer")?, &arguments)?;
    status(&site, "the unit to be open", |status| {
        status["units_open"] == 1
    })?;
    clock.set(-3600)?;
    status(&site, "the unit to be cut", |status| {
        let cut = status["units_cut_last"].as_array();
        cut.is_some_and(|cut| cut.iter().any(|unit| unit["pid"] == endless.id()))
    })?;
    endless.kill()?;
    site.stop(replicator)?;
    assert_settled(&site, &[(files[0], Shape::Fixed { size: 32 })])?;
    site.finish();
    Ok(())
}

// ---- full disks

/// Only the journal's disk is full: what comes stays in the lanes, and then in the files.
#[test]
fn a_journal_without_room_is_told_and_mended_while_everything_runs() -> Result<()> {
    let site = Site::with("full-journal", &[group()])?;
    let text = fs::read_to_string(site.config())?;
    site.configure_text(&format!("{text}\n[journal]\nsegment_bytes = 65536\n"))?;
    let Some(disk) = SmallDisk::mount(&site.state().join("journal"), 512)? else {
        println!("skipped: this process may not mount");
        site.finish();
        return Ok(());
    };
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    // So that nothing of it is released.
    let lock = held(&site)?;
    write(&site, 20_000)?;
    wait_for_obstacle(&site, "No space")?;
    lock.execute_batch("ROLLBACK")?;
    disk.grow()?;
    write(&site, 100)?;
    wait_for_rows(&site, &FILE)?;
    ensure!(replicator.is_running()?, "{}", replicator.stderr());
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    drop(disk);
    site.finish();
    Ok(())
}

/// The default target, locked once it is there.
fn held(site: &Site) -> Result<rusqlite::Connection> {
    let lock = site.sqlite()?;
    lock.execute_batch("BEGIN IMMEDIATE")?;
    Ok(lock)
}

/// Only the lanes' disk is full: programs go on, and what they couldn't tell is read from the files.
#[test]
fn lanes_without_room_stop_no_program_and_lose_nothing() -> Result<()> {
    let site = Site::with("full-lanes", &[group()])?;
    let lanes = site.root().join("lanes");
    let text = fs::read_to_string(site.config())?;
    site.configure_text(&text.replace("[site]\n", &format!("[site]\nlanes = {lanes:?}\n")))?;
    let Some(disk) = SmallDisk::mount(&lanes, 2048)? else {
        println!("skipped: this process may not mount");
        site.finish();
        return Ok(());
    };
    // While nobody takes anything, and while somebody does.
    site.settle()?;
    write(&site, 30_000)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    wait_for_rows(&site, &FILE)?;
    replicator.signal(libc::SIGSTOP);
    write(&site, 30_000)?;
    replicator.signal(libc::SIGCONT);
    wait_for_rows(&site, &FILE)?;
    let gaps = status(&site, "marks of what wasn't told", |status| {
        status["coverage"]["rereads"]["gap"].as_u64() >= Some(1)
    })?;
    println!("{}", gaps["coverage"]["rereads"]);
    ensure!(replicator.is_running()?, "{}", replicator.stderr());
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    drop(disk);
    site.finish();
    Ok(())
}

/// Only the target's disk is full: the journal keeps what comes.
#[test]
fn a_target_without_room_is_told_and_goes_on_when_there_is_some() -> Result<()> {
    let site = Site::new("full-target")?;
    let directory = site.root().join("target");
    let target = directory.join("counterfoil.db");
    site.configure_text(&site.config_text_with_target(&[group()], &target))?;
    let Some(disk) = SmallDisk::mount(&directory, 1024)? else {
        println!("skipped: this process may not mount");
        site.finish();
        return Ok(());
    };
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    std::os::unix::fs::symlink(&target, site.database())?;
    write(&site, 30_000)?;
    status(&site, "the target to say that its disk is full", |status| {
        let error = status["sinks"]["default"]["error"].to_string();
        error.contains("full") && error.contains("target/counterfoil.db")
    })?;
    write(&site, 1_000)?;
    disk.grow()?;
    wait_for_rows(&site, &FILE)?;
    ensure!(replicator.is_running()?, "{}", replicator.stderr());
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    drop(disk);
    site.finish();
    Ok(())
}

// ---- a second replicator

/// On the same state: refused with the process that has it.
#[test]
fn a_second_replicator_on_the_same_state_is_refused_by_process() -> Result<()> {
    let (site, mut replicator) = running("same-state")?;
    let pid = replicator.id().to_string();
    site.run(&["run"])?.refused_with(&[
        "is in use by another replicator",
        &pid,
        "stop it first",
    ])?;
    ensure!(replicator.is_running()?);
    write(&site, 10)?;
    wait_for_rows(&site, &FILE)?;
    site.stop(replicator)?;
    assert_settled(&site, &FILE)?;
    site.finish();
    Ok(())
}

/// With another state, the same site name and the same target: it replaces the first, which stops and stays stopped until it is
/// told to take over again; then the second one does.
#[test]
fn of_two_replicators_of_one_name_the_replaced_one_stops_and_stays_stopped() -> Result<()> {
    let (site, first) = running("same-name")?;
    let text = fs::read_to_string(site.config())?;
    let other = site.root().join("other");
    let config = site.root().join("other.toml");
    let state = format!("state = {:?}", site.state());
    fs::write(
        &config,
        format!(
            "{}\n[[sink]]\nname = \"default\"\nsqlite = {{ path = {:?} }}\n",
            text.replace(&state, &format!("state = {other:?}")),
            site.database()
        ),
    )?;
    let second = || {
        let mut command = site.counterfoil(&["run"]);
        command.arg("--config").arg(&config);
        site.start(command)
    };
    let before = epoch(&site)?;
    let mut taking_over = second()?;
    wait_until("the second one to take over", || match epoch(&site) {
        Ok(now) if now > before => Ok(()),
        other => Err(format!("{other:?}; {}", taking_over.stderr())),
    })?;
    change_unseen(&site, 9)?;
    write(&site, 20)?;
    first
        .finish()?
        .refused_with(&["another replicator writing to this target"])?;
    wait_for_rows(&site, &FILE)?;
    site.run(&["run"])?.refused_with(&[
        "was replaced by another one with the same site name",
        "--read-again",
    ])?;
    ensure!(taking_over.is_running()?, "{}", taking_over.stderr());
    // The first one is told to take over again.
    let mut again = site.start(site.counterfoil(&["run", "--read-again"]))?;
    site.wait_until_up(&mut again)?;
    write(&site, 20)?;
    taking_over
        .finish()?
        .refused_with(&["another replicator writing to this target"])?;
    second()?
        .finish()?
        .refused_with(&["was replaced by another one"])?;
    wait_for_rows(&site, &FILE)?;
    ensure!(again.is_running()?, "{}", again.stderr());
    site.stop(again)?;
    // And from now on it needn't be told.
    assert_settled(&site, &FILE)?;
    site.finish();
    Ok(())
}

// ---- loading

/// Changes records here and there, in the file's beginning, middle and end.
const CHANGES: &str = "
import os, random, sys
random.seed(int(sys.argv[1]))
fd = os.open('a.dat', os.O_WRONLY)
for turn in range(300):
    os.pwrite(fd, b'live %s %d ' % (sys.argv[1].encode(), turn), 1000 * random.randrange(int(sys.argv[2])))
";

/// Killed in the middle of a large file: what was loaded a while before isn't sent again, and what a program wrote to what was loaded
/// and to what wasn't, before, between and after, is what the target has in the end.
#[test]
fn a_load_that_is_killed_goes_on_where_it_was_and_live_writes_win() -> Result<()> {
    const RECORDS: u64 = 120_000;
    let shape = Shape::Fixed { size: 1000 };
    let site = Site::with("load", &[Group::new("g", "none").file("a.dat", shape)])?;
    let text = fs::read_to_string(site.config())?;
    site.configure_text(&format!("{text}\n[apply]\nbatch_records_max = 1000\n"))?;
    let live = |seed: u64| {
        let program = Program {
            words: vec!["/usr/bin/python3".into(), "-c".into(), CHANGES.into()],
        };
        site.exec_to_end(&program, &[seed.to_string(), RECORDS.to_string()])
    };
    // So that there is a target, with a table.
    fs::write(site.path("a.dat"), Chance::new(7).bytes(1000))?;
    site.settle()?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let target = held(&site)?;
    let bytes = Chance::new(8).bytes(1_000_000);
    fs::write(site.path("a.dat"), bytes.repeat(RECORDS as usize / 1000))?;
    // The target takes so many records more, and then nothing until there may be another checkpoint.
    let load = |records: u64| -> Result<()> {
        target.execute_batch("ROLLBACK")?;
        wait_until("records in the target", || {
            let sql = "SELECT max(record_number) FROM a_dat";
            let last: i64 = target
                .query_row(sql, [], |row| row.get(0))
                .map_err(|error| error.to_string())?;
            if last.cast_unsigned() >= records {
                Ok(())
            } else {
                Err(format!("{last} of {records}"))
            }
        })?;
        target.execute_batch("BEGIN IMMEDIATE")?;
        live(records)?;
        Ok(())
    };
    let checkpoint = || -> Result<Value> {
        let path = site.state().join("images/catalogue.json");
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    // By the last checkpoint, so much is in the target for good.
    let mut done = 0;
    for part in 4..=8 {
        load(RECORDS * part / 12)?;
        done = checkpoint()?["files"][0]["smallest"].as_u64().unwrap_or(0) / 1000;
        if done > RECORDS / 6 {
            break;
        }
        status(
            &site,
            "the target to have taken nothing for long",
            |status| status["sinks"]["default"]["pending_ms"].as_f64() > Some(5000.0),
        )?;
    }
    replicator.kill()?;
    ensure!(done > RECORDS / 6, "{done} records are done");
    target.execute_batch(
        "ROLLBACK; CREATE TABLE sent (record INTEGER);
         CREATE TRIGGER made AFTER INSERT ON a_dat BEGIN INSERT INTO sent VALUES (NEW.record_number); END;
         CREATE TRIGGER changed AFTER UPDATE ON a_dat BEGIN INSERT INTO sent VALUES (NEW.record_number); END;",
    )?;
    ensure!(
        assert_rows(&site, &[("a.dat", shape)]).is_err(),
        "it was loaded already"
    );
    live(1)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    live(2)?;
    wait_for_rows(&site, &[("a.dat", shape)])?;
    // Twice 300 changes, each of which may make a block of 4096 bytes differ.
    let sql = "SELECT count(DISTINCT record), count(*) FROM sent WHERE record <= ?1";
    let sent = |up_to: u64| -> Result<(i64, i64)> {
        Ok(target.query_row(sql, [up_to.cast_signed()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?)
    };
    let (again, all) = (sent(done)?, sent(RECORDS)?);
    println!("of {done} records that were done {again:?} were sent again, of {RECORDS} {all:?}");
    ensure!(again.0 < 6000, "{again:?} of {done} records again");
    ensure!(all.0 > (RECORDS / 4).cast_signed(), "{all:?} records");
    target.execute_batch("DROP TRIGGER made; DROP TRIGGER changed; DROP TABLE sent")?;
    site.stop(replicator)?;
    assert_settled(&site, &[("a.dat", shape)])?;
    site.finish();
    Ok(())
}

/// A file is made by a captured program while no replicator runs, and at once changed by one that nobody captures: the start has only
/// the first one's word, and looks all the same.
#[test]
fn what_nobody_saw_of_a_new_file_while_no_replicator_ran_is_found() -> Result<()> {
    for round in 1..=6 {
        let site = Site::with("unwatched", &[group()])?;
        write(&site, 300)?;
        change_unseen(&site, 40 * round)?;
        assert_settled(&site, &FILE)?;
        site.finish();
    }
    Ok(())
}
