//! Rows that a target refuses, by what its DBA did to a table: found among thousands, and waited for, kept or passed over.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::Postgres;
use counterfoil_tests::{Chance, Group, Shape, Site, c, rounds, tool, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

const RECORD: Shape = Shape::Fixed { size: 100 };
/// What is in the record that nobody takes.
const BAD: &str = "0000000777";

/// A site with two files, and one sink: a schema in a database of its own.
struct Refusing {
    site: Site,
    server: &'static Postgres,
    database: &'static str,
}

impl Refusing {
    fn new(database: &'static str, policy: &str) -> Result<Refusing> {
        let server = Postgres::shared()?;
        server.create_database(database)?;
        let site = Site::new(&database.replace('_', "-"))?;
        let group = Group::new("g", "none")
            .file("records.dat", RECORD)
            .file("others.dat", RECORD);
        let text = site.config_text(&[group]);
        site.configure_text(&format!(
            "{text}\n[[sink]]\nname = \"dr\"\non_refused_row = \"{policy}\"\n[sink.postgres]\nurl = {:?}\nschema = \"m\"\n",
            server.url(database)
        ))?;
        let refusing = Refusing {
            site,
            server,
            database,
        };
        // So that there are tables to do something to.
        refusing.write("records.dat", 10)?;
        refusing.write("others.dat", 10)?;
        refusing.site.settle()?;
        Ok(refusing)
    }

    fn write(&self, file: &str, records: u32) -> Result<()> {
        self.site
            .exec_to_end(&c("record_writer")?, &[file, &records.to_string()])?;
        Ok(())
    }

    fn sql(&self, sql: &str) -> Result<String> {
        self.server.sql(self.database, sql)
    }

    /// As somebody may do who has an idea of what belongs into a table.
    fn refuse(&self) -> Result<()> {
        self.sql(&format!(
            "ALTER TABLE m.records_dat ADD CONSTRAINT no_777 CHECK (substring(data FROM 1 FOR 10) <> '{BAD}') NOT VALID"
        ))?;
        Ok(())
    }

    fn mend(&self) -> Result<()> {
        self.sql("ALTER TABLE m.records_dat DROP CONSTRAINT no_777")?;
        Ok(())
    }

    fn wait_for_rows(&self, table: &str, rows: u32) -> Result<()> {
        wait_until(&format!("{rows} rows in {table}"), || {
            let counted = self
                .sql(&format!("SELECT count(*) FROM m.{table}"))
                .map_err(|error| format!("{error:#}"))?;
            if counted.trim() == rows.to_string() {
                return Ok(());
            }
            let status = self.site.status().map_err(|error| format!("{error:#}"))?;
            Err(format!("{} rows; {}", counted.trim(), status["problems"]))
        })
    }

    fn letters(&self) -> Result<Vec<Value>> {
        let list = self.site.run(&["errors", "list", "--json"])?.success()?;
        serde_json::from_str(&list.stdout).context("reading what `errors list` printed")
    }

    fn wait_for_letters(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        wait_until(what, || {
            let letters = self.letters().map_err(|error| format!("{error:#}"))?;
            if is(&letters) {
                Ok(letters)
            } else {
                Err(format!("{letters:?}"))
            }
        })
    }
}

#[test]
fn one_among_thousands_is_kept_and_applied_once_it_is_taken() -> Result<()> {
    let refusing = Refusing::new("refused_kept", "dead-letter")?;
    let site = &refusing.site;
    refusing.refuse()?;
    let replicator = site.replicator()?;
    refusing.write("records.dat", 5000)?;
    refusing.wait_for_rows("records_dat", 5009)?;
    let letters = refusing.letters()?;
    ensure!(letters.len() == 1, "{letters:?}");
    let letter = &letters[0];
    let number = letter["number"].to_string();
    ensure!(
        letter["refused_by"] == "dr"
            && letter["op"] == "put"
            && letter["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("no_777")),
        "{letter}"
    );
    let record = letter["record"].as_u64().context("its record")?;
    // The event is there, with the bytes of the record.
    let event = site.run(&["errors", "show", &number, "--raw"])?.success()?;
    ensure!(event.stdout.contains(BAD), "the event has no {BAD}");
    wait_until("the status to say what is lacking", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let sink = &status["sinks"]["dr"];
        let problems = status["problems"].to_string();
        (sink["letters_open"] == 1 && sink["error"].is_null() && problems.contains("sink dr lacks"))
            .then_some(())
            .ok_or_else(|| status.to_string())
    })?;
    let verdict = site.verify()?;
    ensure!(
        !verdict.equal
            && verdict.differences.len() == 1
            && verdict.differences[0].record == Some(record),
        "{verdict:?}"
    );
    // As long as the reason is there it is refused again, and says so.
    site.run(&["errors", "retry", &number])?.success()?;
    refusing.wait_for_letters("it to be tried in vain", |letters| {
        letters.len() == 1 && letters[0]["tried_ns"] != 0 && letters[0]["asked"] == false
    })?;
    refusing.mend()?;
    // Nothing else happens in the files: it is brought to the target all the same.
    site.run(&["errors", "retry", &number])?.success()?;
    refusing.wait_for_letters("it to be applied", <[Value]>::is_empty)?;
    refusing.wait_for_rows("records_dat", 5010)?;
    wait_until("the problem to go", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        status["problems"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    refusing.site.finish();
    Ok(())
}

#[test]
fn a_later_write_that_is_taken_makes_up_for_it() -> Result<()> {
    let refusing = Refusing::new("refused_made_up", "dead-letter")?;
    let site = &refusing.site;
    refusing.refuse()?;
    let replicator = site.replicator()?;
    refusing.write("records.dat", 1000)?;
    refusing.wait_for_rows("records_dat", 1009)?;
    ensure!(refusing.letters()?.len() == 1, "no letter");
    // Its place in the file, behind the ten that were there before.
    let copy = [
        "if=others.dat",
        "of=records.dat",
        "bs=100",
        "count=1",
        "seek=786",
        "conv=notrunc",
    ];
    site.exec_to_end(&tool("dd", "coreutils")?, &copy)?;
    refusing.wait_for_letters("the letter to be closed", <[Value]>::is_empty)?;
    refusing.wait_for_rows("records_dat", 1010)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    refusing.site.finish();
    Ok(())
}

/// SIGKILL at random moments, also between the letter and the rest of its batch.
#[test]
fn killed_at_any_moment_it_keeps_each_once_and_loses_nothing() -> Result<()> {
    let refusing = Refusing::new("refused_kills", "dead-letter")?;
    let site = &refusing.site;
    refusing.refuse()?;
    let mut chance = Chance::new(Chance::seed());
    let rounds = rounds(5) as u64;
    for _ in 0..rounds {
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        refusing.write("records.dat", 900)?;
        let moment = Instant::now() + Duration::from_micros(chance.below(250_000));
        wait_until("the moment to strike", || {
            (Instant::now() >= moment)
                .then_some(())
                .ok_or_else(|| "early".to_owned())
        })?;
        replicator.kill()?;
    }
    site.settle()?;
    let letters = refusing.letters()?;
    let mut records: Vec<u64> = letters
        .iter()
        .filter_map(|it| it["record"].as_u64())
        .collect();
    records.sort_unstable();
    records.dedup();
    ensure!(
        records.len() as u64 == rounds && letters.len() as u64 == rounds,
        "{rounds} records were refused: {letters:?}"
    );
    let verdict = site.verify()?;
    let lacking: Vec<u64> = verdict
        .differences
        .iter()
        .filter_map(|it| it.record)
        .collect();
    ensure!(
        lacking == records,
        "verify finds {lacking:?}, letters are of {records:?}"
    );
    refusing.mend()?;
    site.run(&["errors", "retry", "--all"])?.success()?;
    site.settle()?;
    ensure!(refusing.letters()?.is_empty(), "{:?}", refusing.letters()?);
    site.assert_mirrored()?;
    refusing.site.finish();
    Ok(())
}

#[test]
fn a_file_is_passed_over_until_somebody_has_it_read_again() -> Result<()> {
    let refusing = Refusing::new("refused_stop", "stop")?;
    let site = &refusing.site;
    refusing.sql(&format!(
        "CREATE FUNCTION m.guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF substring(NEW.data FROM 1 FOR 10) = '{BAD}' THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON m.records_dat FOR EACH ROW EXECUTE FUNCTION m.guard()"
    ))?;
    let replicator = site.replicator()?;
    refusing.write("records.dat", 1000)?;
    let letters = refusing.wait_for_letters("the file to be passed over", |letters| {
        letters.iter().any(|letter| letter["op"] == "stop")
    })?;
    refusing.write("others.dat", 1000)?;
    refusing.wait_for_rows("others_dat", 1010)?;
    site.stop(replicator)?;
    // It stays so, whatever comes and whoever is started again.
    let replicator = site.replicator()?;
    refusing.write("records.dat", 10)?;
    refusing.write("others.dat", 10)?;
    refusing.wait_for_rows("others_dat", 1020)?;
    wait_until("the status to say so", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let stopped = status["sinks"]["dr"]["stopped"].to_string();
        let told = status["problems"].to_string().contains("passes over");
        (stopped.contains("records.dat") && told)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })?;
    refusing.sql("DROP TRIGGER guard ON m.records_dat")?;
    let number = letters[0]["number"].to_string();
    site.run(&["errors", "retry", &number])?.success()?;
    refusing.wait_for_letters("it to be taken again", <[Value]>::is_empty)?;
    refusing.wait_for_rows("records_dat", 1020)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    refusing.site.finish();
    Ok(())
}

/// The default. Another sink goes on.
#[test]
fn a_sink_that_waits_says_for_which_record_and_holds_up_no_other() -> Result<()> {
    let refusing = Refusing::new("refused_waits", "retry")?;
    let site = &refusing.site;
    let text = std::fs::read_to_string(site.config()).context("reading the configuration")?;
    site.configure_text(&format!(
        "{text}\n[[sink]]\nname = \"here\"\nsqlite = {{ path = {:?} }}\n",
        site.database()
    ))?;
    site.settle()?;
    refusing.refuse()?;
    let replicator = site.replicator()?;
    refusing.write("records.dat", 3000)?;
    wait_until("the status to name the record", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let error = status["sinks"]["dr"]["error"].to_string();
        (error.contains("refuses record")
            && error.contains("records.dat")
            && error.contains("no_777"))
        .then_some(())
        .ok_or_else(|| status.to_string())
    })?;
    let sqlite = site.sqlite()?;
    wait_until("all rows in the other sink", || {
        let counted = sqlite
            .query_row("SELECT count(*) FROM records_dat", [], |row| {
                row.get::<_, u32>(0)
            })
            .map_err(|error| error.to_string())?;
        (counted == 3010).then_some(()).ok_or(counted.to_string())
    })?;
    ensure!(refusing.letters()?.is_empty(), "nothing is to be kept");
    refusing.mend()?;
    refusing.wait_for_rows("records_dat", 3010)?;
    site.stop(replicator)?;
    site.settle()?;
    ensure!(site.verify()?.equal, "verify finds differences");
    refusing.site.finish();
    Ok(())
}
