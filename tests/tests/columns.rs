//! Fields of a COBOL program's records as columns: one program, three targets, each as its DBA wants it.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres};
use counterfoil_tests::{
    CARD_COLUMNS, Group, Site, WrittenCards, cards_config, cobol, wait_until, written_cards,
};

/// A site whose cards have columns, with these files in `sinks.d`.
fn site(name: &str, sinks: &[(&str, String)]) -> Result<Site> {
    let site = Site::new(name)?;
    let text =
        site.config_text(&[Group::new("cards", "none").file_as("cards.dat", &cards_config())]);
    site.configure_text(&format!(
        "{text}\n[sinks]\ninclude = [\"sinks.d/*.toml\"]\n"
    ))?;
    std::fs::create_dir(site.root().join("sinks.d")).context("making sinks.d")?;
    for (name, text) in sinks {
        set_sink(&site, name, text)?;
    }
    Ok(site)
}

fn set_sink(site: &Site, name: &str, text: &str) -> Result<()> {
    let path = site.root().join("sinks.d").join(format!("{name}.toml"));
    std::fs::write(path, text).context("writing a sink's file")
}

/// The last version of each card, a line each, as the program told it.
fn last(written: &WrittenCards) -> Vec<String> {
    let cards = written
        .values()
        .filter_map(|versions| versions.last()?.as_ref());
    cards.map(|fields| fields.join("|")).collect()
}

/// The columns with this between them, as an expression that all databases know in some way.
fn joined(function: impl Fn(&str) -> String) -> String {
    CARD_COLUMNS.map(function).join(", '|', ")
}

#[test]
fn what_a_cobol_program_wrote_is_in_the_columns_of_every_target() -> Result<()> {
    let postgres = Postgres::shared()?;
    postgres.create_database("columns")?;
    let mariadb = Mariadb::shared()?;
    let database = mariadb.create_database()?;
    let here = "name = \"here\"\n[sqlite]\npath = \"../state/counterfoil.db\"\n".to_owned();
    let dr = format!(
        "name = \"dr\"\n[postgres]\nurl = {:?}\nschema = \"pay\"\n[table.card_history]\nfile = \"../data/cards.dat\"\n\
         mode = \"history\"\nrename = {{ \"card-number\" = \"Number\" }}\n",
        postgres.url("columns")
    );
    let reports = format!(
        "name = \"reports\"\n[mysql]\nurl = \"mysql://root@localhost/{database}\"\nsocket = {:?}\n[table.cards]\n\
         file = \"../data/cards.dat\"\nmask = {{ \"card-number\" = \"last4\", holder = \"drop\" }}\n\
         constants = {{ site = \"{{site}}\" }}\n",
        mariadb.socket()
    );
    let site = site(
        "columns",
        &[("here", here), ("dr", dr), ("reports", reports)],
    )?;
    let finished = site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    let written = written_cards(&finished.stdout)?;
    site.settle()?;

    // SQLite: a mirror of everything.
    let expression = joined(|column| format!("\"{column}\"")).replace(", '|', ", " || '|' || ");
    let connection = site.sqlite()?;
    let mut statement = connection.prepare(&format!(
        "SELECT {expression} FROM cards_dat ORDER BY slot_number"
    ))?;
    let rows: Result<Vec<String>, _> = statement.query_map([], |row| row.get(0))?.collect();
    ensure!(
        rows? == last(&written),
        "SQLite differs from {}",
        finished.stdout
    );

    // PostgreSQL: every version of every card, deletions included, under another name.
    let expression = joined(|column| match column {
        "card_number" => "\"Number\"".to_owned(),
        column => column.to_owned(),
    });
    let told = postgres.sql(
        "columns",
        &format!(
            "SELECT CASE op WHEN 'put' THEN concat({expression}) ELSE op END FROM pay.card_history
             ORDER BY slot_number, epoch, lsn, idx"
        ),
    )?;
    let versions: Vec<String> = written
        .values()
        .flatten()
        .map(|version| match version {
            Some(fields) => fields.join("|"),
            None => "delete".to_owned(),
        })
        .collect();
    let told: Vec<&str> = told.lines().collect();
    ensure!(told == versions, "PostgreSQL has {told:#?}");

    // MariaDB: what reports may see.
    let told = mariadb.sql(
        &database,
        "SELECT CONCAT_WS('|', card_number, balance, points, site) FROM cards ORDER BY slot_number",
    )?;
    let shown: Vec<String> = last(&written)
        .iter()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').collect();
            let number = format!(
                "{}{}",
                "*".repeat(fields[0].len() - 4),
                &fields[0][fields[0].len() - 4..]
            );
            [number.as_str(), fields[2], fields[7], "test"].join("|")
        })
        .collect();
    let told: Vec<&str> = told.lines().collect();
    ensure!(told == shown, "MariaDB has {told:#?}, not {shown:#?}");
    let columns = mariadb.sql(
        &database,
        "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND
             column_name IN ('holder', 'data', 'rest')
             AND table_name IN (SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()
                 AND table_name NOT IN ('counterfoil_residue'))",
    )?;
    ensure!(columns.trim().is_empty(), "it has {columns}");

    // What can be compared is equal; what can't is said.
    let verified = site.run(&["verify"])?.success()?;
    ensure!(
        verified.stdout.contains("not compared") && verified.stdout.contains("keep no raw image"),
        "verify says {}",
        verified.stdout
    );
    let to = site.root().join("restored");
    for (sink, code) in [("here", 0), ("dr", 0), ("reports", 2)] {
        let to = to.join(sink);
        let restored = site.run(&["restore", "--sink", sink, "--to", &to.to_string_lossy()])?;
        let restored = restored.expect_code(code)?;
        let file = to.join(
            site.path("cards.dat")
                .strip_prefix("/")
                .context("an absolute path")?,
        );
        if code == 0 {
            let (ours, theirs) = (std::fs::read(&file), std::fs::read(site.path("cards.dat")));
            ensure!(ours? == theirs?, "{} differs", file.display());
        } else {
            ensure!(
                restored.stderr.contains("keeps no raw image"),
                "{}",
                restored.stderr
            );
        }
    }
    site.finish();
    Ok(())
}

#[test]
fn tables_made_by_hand_from_what_is_printed_are_taken_and_a_wrong_one_is_explained() -> Result<()> {
    let postgres = Postgres::shared()?;
    postgres.create_database("by_hand")?;
    let dr = format!(
        "name = \"dr\"\nddl = \"check\"\n[postgres]\nurl = {:?}\nschema = \"pay\"\n[table.cards]\n\
         file = \"../data/cards.dat\"\ncolumns = [\"card-number\", \"balance\"]\n",
        postgres.url("by_hand")
    );
    let site = site("by-hand", &[("dr", dr)])?;
    let finished = site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    let written = written_cards(&finished.stdout)?;
    let refused = site.run(&["run", "--until-idle"])?;
    ensure!(
        refused.status.code() == Some(2) && refused.stderr.contains("counterfoil schema sql"),
        "without tables it says {}",
        refused.stderr
    );
    let printed = site.run(&["schema", "sql"])?.success()?.stdout;
    postgres.sql("by_hand", &printed)?;
    site.assert_mirrored()?;
    let told = postgres.sql(
        "by_hand",
        "SELECT concat(card_number, '|', balance) FROM pay.cards ORDER BY slot_number",
    )?;
    let shown: Vec<String> = last(&written)
        .iter()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').collect();
            [fields[0], fields[2]].join("|")
        })
        .collect();
    let told: Vec<&str> = told.lines().collect();
    ensure!(told == shown, "PostgreSQL has {told:#?}");
    // Nothing was made beside what was printed.
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
         WHERE relnamespace = 'pay'::regnamespace AND relkind IN ('r', 'v')";
    let tables = postgres.sql("by_hand", tables)?;
    ensure!(tables.contains("cards counterfoil_"), "there are {tables}");

    // Somebody changes a column's type.
    postgres.sql("by_hand", "ALTER TABLE pay.cards ALTER balance TYPE text")?;
    site.exec_to_end(&cobol("typed_cards")?, &[""; 0])?;
    let mut replicator = site.replicator()?;
    wait_until("the status to explain the column", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let text = status.to_string();
        let words = ["balance", "text", "numeric(11,2)"];
        words
            .iter()
            .all(|word| text.contains(word))
            .then_some(())
            .ok_or(text)
    })?;
    ensure!(replicator.is_running()?, "it waits");
    postgres.sql(
        "by_hand",
        "ALTER TABLE pay.cards ALTER balance TYPE numeric(11,2) USING balance::numeric(11,2)",
    )?;
    wait_until("everything to be equal", || {
        let verdict = site.verify().map_err(|error| format!("{error:#}"))?;
        verdict.equal.then_some(()).ok_or("it isn't".to_owned())
    })?;
    site.stop(replicator)?;
    site.finish();
    Ok(())
}
