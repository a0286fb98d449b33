//! A file with several kinds of records, as its copybook has them: each kind's columns in the target, and what people look
//! records up by.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Group, Program, Site};

const COPYBOOK: &str = "       01 HEADER-REC.
          05 KIND PIC X.
             88 IS-HEADER VALUE 'H'.
          05 RUN-DAY PIC 9(6).
       01 ORDER-REC.
          05 KIND PIC X.
             88 IS-ORDER VALUE 'A' THRU 'C'.
          05 HOW-MANY PIC 9.
          05 AMOUNT PIC 9(2) OCCURS 1 TO 2 TIMES DEPENDING ON HOW-MANY.
          05 FILLER PIC X.
";

const RULE: &str = "organization = \"fixed\"
layout = \"plain\"
copybook = \"party.cpy\"
record = \"*\"
[[group.file.item]]
name = \"HEADER-REC\"
when = { condition = \"IS-HEADER\" }
[[group.file.item]]
name = \"ORDER-REC\"
when = { condition = \"IS-ORDER\" }
[[group.file.item]]
name = \"RUN-DAY\"
date = \"YYMMDD from 1940\"
null_if = [999999]
[[group.file.item]]
name = \"AMOUNT\"
occurs = \"columns\"
";

fn configure(site: &Site, key: &str) -> Result<()> {
    let text = site.config_text(&[Group::new("orders", "none").file_as("party.dat", RULE)]);
    site.configure_text(&format!(
        "{text}\n[[sink]]\nname = \"here\"\nsqlite = {{ path = \"{}\" }}\n[sink.table.party]\nfile = \"{}\"\n{key}\n",
        site.database().display(),
        site.data().join("party.dat").display()
    ))
}

/// Each row's columns, with a bar between; what isn't there is `-`.
fn rows(site: &Site) -> Result<Vec<String>> {
    let columns = [
        "header_rec_kind",
        "run_day",
        "order_rec_kind",
        "how_many",
        "amount_1",
        "amount_2",
        "undecoded",
    ];
    let all = columns
        .map(|name| format!("coalesce({name}, '-')"))
        .join(" || '|' || ");
    let connection = site.sqlite()?;
    let mut select =
        connection.prepare(&format!("SELECT {all} FROM party ORDER BY record_number"))?;
    let rows: Result<Vec<String>, _> = select.query_map([], |row| row.get(0))?.collect();
    rows.context("reading rows")
}

fn indexes(site: &Site) -> Result<Vec<String>> {
    let connection = site.sqlite()?;
    let mut select = connection.prepare(
        "SELECT (SELECT group_concat(name) FROM pragma_index_info(i.name)) FROM pragma_index_list('party') AS i",
    )?;
    let rows: Result<Vec<String>, _> = select.query_map([], |row| row.get(0))?.collect();
    rows.context("reading indexes")
}

#[test]
fn each_kind_of_record_has_its_columns() -> Result<()> {
    let site = Site::new("variants")?;
    std::fs::write(site.root().join("party.cpy"), COPYBOOK).context("writing the copybook")?;
    configure(&site, "key = [\"order_rec_kind\"]")?;
    let shell = Program::named("/bin/sh");
    let script =
        "printf 'H391231B20507xC199--xH999999' > party.dat; printf 'B?0507xZ1aa--x' >> party.dat";
    site.exec_to_end(&shell, &["-c", script])?;
    site.settle()?;
    let found = rows(&site)?;
    ensure!(
        found[..4]
            == [
                "H|2039-12-31|-|-|-|-|-",
                "-|-|B|2|5|7|-",
                "-|-|C|1|99|-|-",
                "H|-|-|-|-|-|-",
            ],
        "rows differ: {found:?}"
    );
    ensure!(
        found[4].starts_with("-|-|B|-|-|-|how_many: byte 0 of the field is 3F"),
        "an order whose count can't be read: {found:?}"
    );
    ensure!(
        found[5] == "-|-|-|-|-|-|-" && found.len() == 6,
        "a record of no kind: {found:?}"
    );
    ensure!(
        indexes(&site)? == ["order_rec_kind"],
        "the key has an index"
    );
    // `decode` sees the file as the configuration says.
    let shown = site
        .run(&[
            "decode",
            "party.dat",
            "--csv",
            "--fields",
            "run_day,amount_2",
        ])?
        .success()?;
    ensure!(
        shown.stdout.contains(",2039-12-31,\r\n") && shown.stdout.contains(",,7\r\n"),
        "decode shows {}",
        shown.stdout
    );
    // Another key, and none: the index follows, and the rows stay.
    configure(&site, "key = [\"run_day\", \"amount_1\"]")?;
    site.exec_to_end(&shell, &["-c", "printf 'A103--x' >> party.dat"])?;
    site.settle()?;
    ensure!(
        indexes(&site)? == ["run_day,amount_1"],
        "the index follows the key"
    );
    configure(&site, "")?;
    site.exec_to_end(&shell, &["-c", "printf 'A104--x' >> party.dat"])?;
    site.assert_mirrored()?;
    ensure!(
        indexes(&site)?.is_empty(),
        "without a key there is no index"
    );
    ensure!(rows(&site)?.len() == 8, "all rows are there");
    site.finish();
    Ok(())
}
