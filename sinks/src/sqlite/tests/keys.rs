//! Indexes on the columns that records are looked up by.

use super::*;
use crate::FileDescription;
use crate::plan::Ddl;

const CARD: &[(&str, &str)] = &[
    ("id", "zoned(4)"),
    ("name", "text(6) utf-8"),
    ("note", "text(3) utf-8"),
];

fn keyed(path: &str, key: &[&str]) -> Arc<FileDescription> {
    let spec = PlanSpec {
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        may_drop: true,
        ..PlanSpec::default()
    };
    planned(path, CARD, &spec)
}

/// The columns of each index of a table, apart from those of its key.
fn indexes(config: &SqliteConfig, table: &str) -> Vec<String> {
    let other = Connection::open(&config.path).expect("opening the database");
    let mut select = other
        .prepare(
            "SELECT (SELECT group_concat(name) FROM pragma_index_info(i.name)) || ' ' || i.\"unique\"
             FROM pragma_index_list(?1) AS i ORDER BY 1",
        )
        .expect("listing");
    let rows = select.query_map([table], |row| row.get(0));
    rows.and_then(Iterator::collect).expect("listing")
}

#[test]
fn a_key_has_an_index_that_follows_the_configuration() {
    let directory = directory();
    let config = SqliteConfig::new(directory.path().join("mirror.db"));
    let mut sink = SqliteSink::open(&config).expect("opening");
    let mut lsn = 0;
    let mut apply = |file: &Arc<FileDescription>, images: Vec<(u64, Image)>| {
        lsn += 1;
        sink.apply(&batch(lsn, [changes(file, images)]))
            .expect("applying");
    };
    // Two records alike are no problem: it isn't unique.
    let twice = vec![(1, record("0042Smith abc")), (2, record("0042Smith abc"))];
    apply(&keyed("/srv/cards", &["name", "id"]), twice);
    assert_eq!(indexes(&config, "cards"), ["name,id 0"]);
    apply(
        &keyed("/srv/cards", &["name", "id"]),
        vec![(3, record("0043Bob   abc"))],
    );
    assert_eq!(indexes(&config, "cards"), ["name,id 0"]);
    // What a DBA made stays.
    let other = Connection::open(&config.path).expect("opening the database");
    other
        .execute_batch("CREATE INDEX mine ON cards (note)")
        .expect("an index");
    apply(&keyed("/srv/cards", &["id"]), vec![]);
    assert_eq!(indexes(&config, "cards"), ["id 0", "note 0"]);
    apply(&keyed("/srv/cards", &[]), vec![]);
    assert_eq!(indexes(&config, "cards"), ["note 0"]);
    apply(&keyed("/srv/cards", &["id"]), vec![]);
    // Another table's index has another name, whatever the tables are or were called.
    apply(
        &keyed("/srv/others", &["id"]),
        vec![(1, record("0042Smith abc"))],
    );
    assert_eq!(indexes(&config, "others"), ["id 0"]);
    // A column of the key that is made anew.
    let spec = PlanSpec {
        key: vec!["id".into()],
        kinds: [("id".to_owned(), "bytes(4)".parse().expect("a kind"))].into(),
        may_drop: true,
        ..PlanSpec::default()
    };
    apply(&planned("/srv/others", CARD, &spec), vec![]);
    assert_eq!(indexes(&config, "others"), ["id 0"]);
}

#[test]
fn where_others_make_tables_they_make_the_index() {
    let directory = directory();
    let config = SqliteConfig {
        ddl: Ddl::Check,
        ..SqliteConfig::new(directory.path().join("mirror.db"))
    };
    let (plain, key) = (keyed("/srv/cards", &[]), keyed("/srv/cards", &["id"]));
    let statements = schema_sql(&config, &[(*plain).clone()]).expect("statements");
    let other = Connection::open(&config.path).expect("making the database");
    other
        .execute_batch(&statements.join(";\n"))
        .expect("making the tables");
    let mut sink = SqliteSink::open(&config).expect("opening");
    sink.apply(&batch(1, [changes(&plain, [(1, record("0042Smith abc"))])]))
        .expect("applying");
    let next = batch(2, [changes(&key, [])]);
    let error = sink
        .apply(&next)
        .expect_err("there is no index")
        .to_string();
    let create = "CREATE INDEX \"cards_key\" ON \"cards\" (\"id\")";
    assert!(error.contains(create), "{error}");
    let printed = schema_sql(&config, &[(*key).clone()]).expect("statements");
    assert!(
        printed.iter().any(|statement| statement == create),
        "{printed:?}"
    );
    // One that begins with the key will do.
    other
        .execute_batch("CREATE INDEX mine ON cards (ID, name)")
        .expect("an index");
    sink.apply(&next).expect("now there is");
    // What others made, others drop.
    sink.apply(&batch(3, [changes(&plain, [])]))
        .expect("applying");
    assert_eq!(indexes(&config, "cards"), ["id,name 0"]);
}
