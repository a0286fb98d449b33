//! Proof of equality while everything goes on, and mending what isn't equal.
//!
//! What verify says is held against what the test itself reads from file and table.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres, wait_until};
use counterfoil_tests::{Broker, Group, Shape, Site, c};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

const RECORD: Shape = Shape::Fixed { size: 100 };

/// What `verify --json` says of each file.
fn verify(site: &Site, arguments: &[&str], code: i32) -> Result<Vec<Value>> {
    let words = [&["verify", "--json", "--settle", "1"], arguments].concat();
    let said = site.run(&words)?.expect_code(code)?.stdout;
    let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    Ok(said["files"].as_array().context("there are files")?.clone())
}

fn file_and_rows_are_equal(site: &Site, file: &str, table: &str) -> Result<()> {
    let rows: Vec<u8> = site.rows(table)?.into_values().flatten().collect();
    let bytes = std::fs::read(site.path(file))?;
    ensure!(rows == bytes, "{file} and its rows differ");
    Ok(())
}

#[test]
fn equality_is_proven_at_positions_while_programs_write_in_units_of_work() -> Result<()> {
    let site = Site::with("verify-live", &[Group::card_switch()])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let switch = c("card_switch")?;
    let mut program = site.exec(&switch, &[".", "--cards", "200", "--rate", "300"])?;
    wait_until("some payments", || {
        let len = std::fs::metadata(site.path("journal.dat")).map_or(0, |there| there.len());
        (len > 20_000).then_some(()).ok_or(format!("{len} bytes"))
    })?;
    let (mut proven, mut positions) = (0, Vec::new());
    for _ in 0..5 {
        for file in verify(&site, &[], 0)? {
            proven += u64::from(file["ranges"].as_u64() > Some(0));
            positions.push(file["position"].to_string());
        }
        ensure!(program.is_running()?, "it ended: {}", program.stderr());
    }
    // Not all: a range may have been in the middle of a unit each time.
    ensure!(
        proven >= 10,
        "only {proven} of 20 files were proven at positions"
    );
    positions.dedup();
    ensure!(
        positions.len() > 5,
        "all at the same positions: {positions:?}"
    );
    program.kill()?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

#[test]
fn what_differs_is_named_shown_and_mended_while_everything_runs() -> Result<()> {
    let site = Site::with(
        "verify-repair",
        &[Group::new("group", "none")
            .file_as(
                "records.dat",
                "organization = \"fixed\"\nlayout = \"plain\"\nfield = [{ name = \"number\", type = \"text(10)\" }, \
                 { name = \"dots\", type = \"text(90)\" }]",
            )
            .file("lines.log", Shape::Lines)],
    )?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["records.dat", "20000"])?;
    std::fs::write(site.path("lines.log"), "one\ntwo\nthree\n")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    wait_until("everything in the tables", || {
        file_and_rows_are_equal(&site, "records.dat", "records_dat")
            .and_then(|()| file_and_rows_are_equal(&site, "records.dat", "records_dat"))
            .map_err(|error| format!("{error:#}"))
    })?;
    let proven = verify(&site, &[], 0)?;
    ensure!(
        proven.iter().all(|file| file["ranges"].as_u64() > Some(0)),
        "{proven:?}"
    );
    let sql = site.sqlite()?;
    for statement in [
        "UPDATE records_dat SET data = CAST(substr(CAST(data AS TEXT), 1, 49) || 'x' || substr(CAST(data AS TEXT), 51) AS BLOB) WHERE record_number = 17",
        "DELETE FROM records_dat WHERE record_number BETWEEN 9000 AND 9002",
        "INSERT INTO records_dat (record_number, data) SELECT 90000, data FROM records_dat WHERE record_number = 1",
        "DELETE FROM lines_log WHERE address = 4",
    ] {
        ensure!(sql.execute(statement, [])? > 0, "{statement}");
    }
    let found = verify(&site, &[], 1)?;
    let differences: Vec<(u64, &str, u64, &str)> = found
        .iter()
        .flat_map(|file| file["differences"].as_array().into_iter().flatten())
        .map(|it| {
            let word = |key: &str| it[key].as_str().unwrap_or_default();
            let number = |key: &str| it[key].as_u64().unwrap_or_default();
            (
                number("record"),
                word("kind"),
                number("first_difference"),
                word("column"),
            )
        })
        .collect();
    assert_eq!(
        differences,
        [
            (4, "missing-in-target", 0, ""),
            (17, "differs", 49, "dots"),
            (9000, "missing-in-target", 0, ""),
            (9001, "missing-in-target", 0, ""),
            (9002, "missing-in-target", 0, ""),
            (90000, "only-in-target", 0, ""),
        ]
    );
    let images = |record: u64| {
        let all = found
            .iter()
            .flat_map(|file| file["differences"].as_array().into_iter().flatten());
        let mut of_it = all.filter(|it| it["record"] == record);
        of_it.next().map(|it| {
            let len = |key: &str| it[key].as_str().map_or(0, str::len);
            (len("file_image"), len("target_image"))
        })
    };
    assert_eq!(
        [17, 9000, 90000].map(images),
        [Some((200, 200)), Some((200, 0)), Some((0, 200))]
    );
    // Shown first, and nothing is done.
    let shown = site.run(&["verify", "--settle", "1", "--repair", "--dry-run"])?;
    let shown = shown.expect_code(1)?.stdout;
    for words in ["record 17, records 9000 to 9002, record 90000", "record 4"] {
        ensure!(shown.contains(words), "{words} isn't in: {shown}");
    }
    verify(&site, &[], 1)?;
    let events = |site: &Site| site.status().map(|status| status["events"].as_u64());
    let before = events(&site)?;
    let mended = site
        .run(&["verify", "--settle", "1", "--repair"])?
        .expect_code(0)?
        .stdout;
    ensure!(mended.contains("2 files, 20003 records: equal"), "{mended}");
    file_and_rows_are_equal(&site, "records.dat", "records_dat")?;
    ensure!(
        site.rows("lines_log")?.len() == 3,
        "{:?}",
        site.rows("lines_log")?
    );
    // Exactly what differs, not all of the file.
    let told = events(&site)?
        .zip(before)
        .map(|(after, before)| after - before);
    ensure!(told < Some(200), "{told:?} events mended six rows");
    verify(&site, &[], 0)?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

#[test]
fn without_a_replicator_a_repair_starts_one_and_orphans_go_when_asked() -> Result<()> {
    let site = Site::with(
        "verify-orphans",
        &[Group::new("group", "none")
            .file("*.dat", RECORD)
            .tree("tree", "")],
    )?;
    std::fs::create_dir(site.path("tree"))?;
    std::fs::write(site.path("tree/a"), "static")?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["kept.dat", "30"])?;
    site.exec_to_end(&writer, &["gone.dat", "30"])?;
    site.settle()?;
    verify(&site, &[], 0)?;
    let sql = site.sqlite()?;
    sql.execute("DELETE FROM kept_dat WHERE record_number = 30", [])?;
    sql.execute(
        "UPDATE tree SET data = CAST('other!' AS BLOB) WHERE data IS NOT NULL",
        [],
    )?;
    // Its rule goes, and the file with it: nobody tells the target.
    site.configure(&[Group::new("group", "none")
        .file("kept.dat", RECORD)
        .tree("tree", "")])?;
    std::fs::remove_file(site.path("gone.dat"))?;
    let shown = site
        .run(&["verify", "--settle", "1", "--repair", "--dry-run"])?
        .expect_code(1)?
        .stdout;
    ensure!(shown.contains("left alone"), "{shown}");
    site.run(&["verify", "--settle", "1", "--repair"])?
        .expect_code(1)?;
    file_and_rows_are_equal(&site, "kept.dat", "kept_dat")?;
    ensure!(
        site.rows("gone_dat")?.len() == 30,
        "it is left alone until somebody asks"
    );
    let arguments = ["verify", "--repair", "--remove-orphans"];
    let said = site.run(&arguments)?.expect_code(0)?.stdout;
    ensure!(said.contains("to be removed"), "{said}");
    let tables = site.tables()?;
    ensure!(
        !tables.iter().any(|table| table == "gone_dat"),
        "{tables:?}"
    );
    verify(&site, &[], 0)?;
    site.finish();
    Ok(())
}

#[test]
fn sync_reads_a_file_again_while_everything_runs() -> Result<()> {
    let site = Site::with(
        "sync",
        &[Group::new("group", "none").file("records.dat", RECORD)],
    )?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "500"])?;
    let refused = site.run(&["sync", "other.dat"])?;
    refused.refused_with(&["other.dat", "no captured file"])?;
    let said = site.run(&["sync", "records.dat"])?.expect_code(0)?.stdout;
    ensure!(said.contains("no replicator runs"), "{said}");
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let said = site.run(&["sync", "records.dat"])?.expect_code(0)?.stdout;
    ensure!(
        said.contains("500 records") && said.contains("equal"),
        "{said}"
    );
    // Only telling everything again brings back what the stream knows as told.
    site.sqlite()?
        .execute("DELETE FROM records_dat WHERE record_number > 100", [])?;
    site.run(&["sync", "records.dat"])?.expect_code(1)?;
    site.run(&["sync", "--all", "records.dat"])?
        .expect_code(0)?;
    file_and_rows_are_equal(&site, "records.dat", "records_dat")?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

#[test]
fn rounds_follow_one_another_by_themselves_and_tell_what_they_find() -> Result<()> {
    let site = Site::new("verify-rounds")?;
    let text = site.config_text(&[Group::new("group", "none").file("records.dat", RECORD)]);
    site.configure_text(&format!("{text}\n[verify]\ninterval_minutes = 0\n"))?;
    site.exec_to_end(&c("record_writer")?, &["records.dat", "5000"])?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let of_sink = |status: &Value| {
        let sinks = status["sinks"].as_object().cloned().unwrap_or_default();
        let sink = sinks.values().next().cloned().unwrap_or_default();
        sink["verified"].clone()
    };
    let verified = |what: &str, is: &dyn Fn(&Value) -> bool| {
        wait_until(what, || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let verified = of_sink(&status);
            is(&verified)
                .then_some(())
                .ok_or_else(|| status.to_string())
        })
    };
    verified("a round", &|it| it["files"] == 1 && it["different"] == 0)?;
    site.sqlite()?
        .execute("DELETE FROM records_dat WHERE record_number = 4000", [])?;
    verified("a round that finds it", &|it| it["different"] == 1)?;
    let log = replicator.stderr();
    ensure!(
        log.contains("isn't what was captured"),
        "it isn't in the log: {log}"
    );
    site.run(&["verify", "--settle", "1", "--repair"])?
        .expect_code(0)?;
    verified("a round that finds nothing", &|it| it["different"] == 0)?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

/// By sink: how many ranges of each of its files were compared at their positions, and the records that differ.
fn by_sink(files: &[Value]) -> BTreeMap<String, (u64, Vec<u64>)> {
    let mut sinks: BTreeMap<String, (u64, Vec<u64>)> = BTreeMap::new();
    for file in files {
        let of = sinks
            .entry(file["sink"].as_str().unwrap_or_default().to_owned())
            .or_default();
        of.0 += file["ranges"].as_u64().unwrap_or(0);
        let differences = file["differences"].as_array().into_iter().flatten();
        of.1.extend(differences.filter_map(|it| it["record"].as_u64()));
    }
    sinks
}

#[test]
fn every_kind_of_target_compares_itself_and_is_mended() -> Result<()> {
    let postgres = Postgres::shared()?;
    let mariadb = Mariadb::shared()?;
    let database = mariadb.create_database()?;
    let site = Site::new("verify-targets")?;
    postgres.create_database("verify_targets")?;
    let text = site.config_text(&[Group::new("group", "none")
        .file("records.dat", RECORD)
        .file("lines.log", Shape::Lines)]);
    site.configure_text(&format!(
        "{text}\n[[sink]]\nname = \"files\"\nfiles = {{ root = {:?} }}\n\
         [[sink]]\nname = \"mariadb\"\nmysql = {{ url = \"mysql://root@localhost/{database}\", socket = {:?} }}\n\
         [[sink]]\nname = \"postgres\"\npostgres = {{ url = {:?} }}\n",
        site.root().join("mirror"),
        mariadb.socket(),
        postgres.url("verify_targets"),
    ))?;
    // Several ranges, the last of them short.
    site.uncaptured(&c("record_writer")?, &["records.dat", "10007"])?;
    std::fs::write(site.path("lines.log"), "one\ntwo\nno end")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    site.run(&["sync", "records.dat", "lines.log"])?;
    let proven = by_sink(&verify(&site, &[], 0)?);
    for sink in ["files", "mariadb", "postgres"] {
        ensure!(proven.get(sink) == Some(&(5, Vec::new())), "{proven:?}");
    }
    postgres.sql(
        "verify_targets",
        "UPDATE records_dat SET data = overlay(data placing '\\x41'::bytea from 5) WHERE record_number = 10007",
    )?;
    mariadb.sql(&database, "DELETE FROM records_dat WHERE record_number = 3")?;
    let mirrored = site.root().join("mirror").join(
        site.path("records.dat")
            .strip_prefix("/")
            .context("absolute")?,
    );
    let mirrored = std::fs::File::options().write(true).open(mirrored)?;
    mirrored.write_all_at(b"x", 5_000 * 100)?;
    let found = by_sink(&verify(&site, &[], 1)?);
    let differing: Vec<_> = found
        .into_iter()
        .map(|(sink, (_, records))| (sink, records))
        .collect();
    let of = |sink: &str, record| (sink.to_owned(), vec![record]);
    assert_eq!(
        differing,
        [of("files", 5001), of("mariadb", 3), of("postgres", 10007)]
    );
    site.run(&["verify", "--settle", "1", "--repair"])?
        .expect_code(0)?;
    let proven = by_sink(&verify(&site, &[], 0)?);
    ensure!(
        proven.values().all(|it| *it == (5, Vec::new())),
        "{proven:?}"
    );
    site.stop(replicator)?;
    site.finish();
    Ok(())
}

#[test]
fn checksums_travel_through_kafka() -> Result<()> {
    let site = Site::new("verify-kafka")?;
    let broker = Broker::start(&site)?;
    let groups = [Group::card_switch()];
    site.configure_text(&(site.config_text(&groups) + &broker.config()))?;
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    site.wait_until_halves_run()?;
    site.exec_to_end(
        &c("card_switch")?,
        &[".", "--cards", "100", "--payments", "300"],
    )?;
    let proven = verify(&site, &[], 0)?;
    ensure!(
        proven.len() == 4 && proven.iter().all(|file| file["ranges"].as_u64() > Some(0)),
        "{proven:?}"
    );
    site.sqlite()?
        .execute("DELETE FROM accounts_dat WHERE record_number = 7", [])?;
    let found = by_sink(&verify(&site, &[], 1)?);
    ensure!(found.values().any(|it| it.1 == [7]), "{found:?}");
    site.run(&["verify", "--settle", "1", "--repair"])?
        .expect_code(0)?;
    file_and_rows_are_equal(&site, "accounts.dat", "accounts_dat")?;
    for process in [capture, apply] {
        process.terminate();
        process.finish()?.success()?;
    }
    site.finish();
    Ok(())
}
