//! Tables within records, of variable length and within each other, as tables of their own in every kind of target.

use anyhow::{Context as _, Result, ensure};
use counterfoil_servers::{Mariadb, Postgres};
use counterfoil_tests::{Group, Site, cobol};

/// As `order_book` writes them, said by a field list: how many lines and lots there are, a field before them says.
const ORDERS: &str = "organization = \"fixed\"
layout = \"plain\"
dialect = \"gnucobol\"
field = [
    { name = \"order-id\", type = \"zoned(4)\" },
    { name = \"line-count\", type = \"zoned(2)\" },
    { name = \"order-line\", occurs = { min = 0, max = 5, depending_on = \"line-count\" }, fields = [
        { name = \"item\", type = \"text(3)\" },
        { name = \"amount\", type = \"packed(5,2) signed\" },
        { name = \"lot-count\", type = \"zoned(1)\" },
        { name = \"lot\", occurs = { min = 0, max = 3, depending_on = \"lot-count\" }, fields = [
            { name = \"lot-id\", type = \"text(2)\" },
        ] },
    ] },
]
";
const LINE_BYTES: usize = 13;
const RECORD_BYTES: usize = 6 + 5 * LINE_BYTES;

/// The lines and lots that are in a file, as a target is to tell them.
fn in_file(site: &Site) -> Result<(Vec<String>, Vec<String>)> {
    let file = std::fs::read(site.path("orders.dat")).context("reading the file")?;
    let number = |bytes: &[u8]| -> Result<usize> { Ok(std::str::from_utf8(bytes)?.parse()?) };
    let (mut lines, mut lots) = (Vec::new(), Vec::new());
    for (record, order) in (1..).zip(file.chunks(RECORD_BYTES)) {
        for line in 1..=number(&order[4..6])? {
            let bytes = &order[6 + (line - 1) * LINE_BYTES..][..LINE_BYTES];
            let nibbles: Vec<u8> = bytes[3..6].iter().flat_map(|b| [b >> 4, b & 15]).collect();
            let digits = nibbles[..5]
                .iter()
                .fold(0, |sum, &digit| sum * 10 + i64::from(digit));
            let sign = if nibbles[5] == 13 { "-" } else { "" };
            let item = std::str::from_utf8(&bytes[..3])?;
            lines.push(format!(
                "{record}|{line}|{item}|{sign}{}.{:02}",
                digits / 100,
                digits % 100
            ));
            for lot in 1..=number(&bytes[6..7])? {
                let id = std::str::from_utf8(&bytes[5 + 2 * lot..][..2])?;
                lots.push(format!("{record}|{line}|{lot}|{id}"));
            }
        }
    }
    Ok((lines, lots))
}

#[test]
fn lines_of_orders_and_their_lots_are_rows() -> Result<()> {
    let postgres = Postgres::shared()?;
    postgres.create_database("orders")?;
    let mariadb = Mariadb::shared()?;
    let database = mariadb.create_database()?;
    let site = Site::new("orders")?;
    let group = Group::new("orders", "none").file_as("orders.dat", ORDERS);
    site.configure_text(&format!(
        "{}\n[[sink]]\nname = \"here\"\nsqlite = {{ path = {:?} }}\n\
         [[sink]]\nname = \"dr\"\npostgres = {{ url = {url:?}, schema = \"dr\" }}\n\
         [[sink]]\nname = \"audit\"\nmode = \"history\"\npostgres = {{ url = {url:?}, schema = \"audit\" }}\n\
         [[sink]]\nname = \"reports\"\nmysql = {{ url = \"mysql://root@localhost/{database}\", socket = {:?} }}\n\
         [sink.table.orders]\nfile = {:?}\nexclude_columns = [\"lot\"]\nmask = {{ item = {{ fixed = \"?\" }} }}\n",
        site.config_text(&[group]),
        site.database(),
        mariadb.socket(),
        site.path("orders.dat"),
        url = postgres.url("orders"),
    ))?;
    let checked = site.run(&["check"])?;
    ensure!(
        checked
            .stdout
            .contains("orders_order_line, a row for each occurrence, 5 columns"),
        "check says: {}{}",
        checked.stdout,
        checked.stderr
    );
    let program = cobol("order_book")?;
    // The second time there are fewer, so that some are gone.
    for orders in ["200", "90"] {
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        site.exec_to_end(&program, &[orders])?;
        site.stop(replicator)?;
        site.settle()?;
        let (lines, lots) = in_file(&site)?;
        ensure!(
            lines.len() > 150 && lots.len() > 150,
            "there is too little in it"
        );
        let pg = |schema: &str| -> Result<(String, String)> {
            let current = |table: &str| {
                match schema {
                "dr" => format!("dr.{table}"),
                _ => format!(
                    "(SELECT * FROM (SELECT DISTINCT ON (record_number) * FROM audit.{table}
                       ORDER BY record_number, epoch DESC, lsn DESC, idx DESC) AS last WHERE op = 'put')"
                ),
            }
            };
            let line = current("orders_dat_order_line");
            let lines = postgres.sql(
                "orders",
                &format!(
                    "SELECT concat_ws('|', o.parent, o.ordinal, o.item, o.amount) FROM {line} AS o
                     ORDER BY o.parent, o.ordinal"
                ),
            )?;
            let lots = postgres.sql(
                "orders",
                &format!(
                    "SELECT concat_ws('|', o.parent, o.ordinal, l.ordinal, l.lot_id)
                     FROM {} AS l JOIN {line} AS o ON l.parent = o.record_number
                     ORDER BY o.parent, o.ordinal, l.ordinal",
                    current("orders_dat_order_line_lot")
                ),
            )?;
            Ok((lines, lots))
        };
        for schema in ["dr", "audit"] {
            let (told_lines, told_lots) = pg(schema)?;
            ensure!(
                told_lines.lines().eq(lines.iter().map(String::as_str)),
                "lines in {schema}: {told_lines}"
            );
            ensure!(
                told_lots.lines().eq(lots.iter().map(String::as_str)),
                "lots in {schema}: {told_lots}"
            );
        }
        let masked: Vec<String> = lines
            .iter()
            .map(|line| {
                let fields: Vec<&str> = line.split('|').collect();
                [fields[0], fields[1], "?", fields[3]].join("|")
            })
            .collect();
        let told = mariadb.sql(
            &database,
            "SELECT CONCAT_WS('|', parent, ordinal, item, amount) FROM orders_order_line ORDER BY parent, ordinal",
        )?;
        ensure!(
            told.lines().eq(masked.iter().map(String::as_str)),
            "MariaDB has {told}"
        );
        let tables = mariadb.sql(&database, "SHOW TABLES LIKE '%lot'")?;
        ensure!(
            tables.trim().is_empty(),
            "there is a table that nobody wants: {tables}"
        );
        let connection = site.sqlite()?;
        let mut statement = connection.prepare(
            "SELECT parent || '|' || ordinal || '|' || item || '|' || amount FROM orders_dat_order_line
             ORDER BY parent, ordinal",
        )?;
        let told: Result<Vec<String>, _> = statement.query_map([], |row| row.get(0))?.collect();
        ensure!(told? == lines, "SQLite differs");
    }
    // What is made of records is neither missed nor restored.
    for sink in ["here", "dr"] {
        site.run(&["verify", "--sink", sink])?.expect_code(0)?;
    }
    let restored = site.root().join("restored");
    let to = restored.to_str().context("text")?;
    site.run(&["restore", "--sink", "dr", "--to", to])?
        .success()?;
    let file = |path: &std::path::Path| std::fs::read(path).context("reading the file");
    let there = restored.join(site.path("orders.dat").strip_prefix("/")?);
    ensure!(
        file(&there)? == file(&site.path("orders.dat"))?,
        "it isn't the same"
    );
    site.finish();
    Ok(())
}
