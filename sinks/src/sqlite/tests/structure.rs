//! Tables that others make.

use super::*;
use crate::plan::Mask;
use crate::{FileDescription, FileFate};

const FIELDS: &[(&str, &str)] = &[("id", "zoned(4)"), ("name", "text(6) utf-8")];

fn with(ddl: Ddl, directory: &TempDir) -> SqliteConfig {
    SqliteConfig {
        ddl,
        ..SqliteConfig::new(directory.path().join("mirror.db"))
    }
}

fn run(config: &SqliteConfig, statements: &[String]) {
    let other = Connection::open(&config.path).expect("opening the database");
    for statement in statements {
        other.execute_batch(statement).expect(statement);
    }
}

fn tables(config: &SqliteConfig) -> Vec<(String, Option<String>)> {
    let other = Connection::open(&config.path).expect("opening the database");
    let mut select = other
        .prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")
        .expect("listing");
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect).expect("listing")
}

fn named(file: &Arc<FileDescription>, path: &str) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        path: path.into(),
        ..(**file).clone()
    })
}

/// Some files of every kind.
fn files() -> Vec<Arc<FileDescription>> {
    let history = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    let bare = PlanSpec {
        raw: false,
        ..PlanSpec::default()
    };
    vec![
        file("/srv/a/cards.dat"),
        planned("/srv/b/cards.dat", FIELDS, &PlanSpec::default()),
        planned("/srv/report", FIELDS, &bare),
        planned("/srv/journal", FIELDS, &history),
        static_file("/srv/etc", "/srv/etc/app.conf"),
        static_file("/srv/etc", "/srv/etc/other.conf"),
    ]
}

/// What `schema_sql` prints makes a database that is as it has to be: all goes on as if the sink had made it itself, and the
/// structure stays as it is.
#[test]
fn tables_that_were_made_by_hand_do() {
    let directory = directory();
    let config = with(Ddl::Check, &directory);
    let files = files();
    let descriptions: Vec<FileDescription> = files.iter().map(|f| (**f).clone()).collect();
    let mut statements = schema_sql(&config, &descriptions).expect("statements");
    let spare = planned("/srv/report.old", FIELDS, &PlanSpec::default());
    statements.push("CREATE TABLE report_old (record_number INTEGER PRIMARY KEY, id INT, name VARCHAR(6), undecoded TEXT, mine TEXT)".into());
    statements.push("CREATE TABLE other_table AS SELECT 1 AS x".into());
    let error = SqliteSink::open(&config).err().expect("there is none yet");
    assert!(
        error.to_string().contains("counterfoil schema sql"),
        "{error}"
    );
    assert!(!config.path.exists());
    run(&config, &statements);
    let before = tables(&config);
    let mut sink = SqliteSink::open(&config).expect("opening");
    let data = || record("0042Smith ");
    let position = Position {
        epoch: 1,
        lsn: 1,
        index: 0,
    };
    let images = |file: &Arc<FileDescription>| {
        let mut changes = changes(file, [(1, data()), (2, residue("x"))]);
        if file.plan.as_ref().is_some_and(|plan| plan.is_history()) {
            changes.log.push(Logged {
                position,
                captured_ns: 0,
                change: LoggedChange::Image {
                    id: 1,
                    image: data(),
                },
            });
        } else if file.tree.is_some() {
            changes.images.remove(&2);
        }
        changes
    };
    sink.apply(&batch(1, files.iter().map(images)))
        .expect("applying");
    for file in &files {
        let path = String::from_utf8(file.path.clone()).expect("text");
        let expected = match (&file.plan, &file.tree) {
            (Some(plan), _) if !plan.has_raw() => vec![],
            (_, Some(_)) => vec![(1, data())],
            _ => vec![(1, data()), (2, residue("x"))],
        };
        assert_eq!(content(&mut sink, &path), expected, "{path}");
    }
    // Rows move where tables can't, and go where tables stay.
    let moved = Arc::new(FileDescription {
        plan: files[2].plan.clone(),
        ..(*named(&spare, "/srv/report.old")).clone()
    });
    let moving = FileChanges {
        renamed_from: Some(b"/srv/report".to_vec()),
        ..changes(&moved, [(5, record("0005New   "))])
    };
    let removed = FileChanges {
        fate: FileFate::Removed,
        ..changes(&files[0], [])
    };
    sink.apply(&batch(2, [moving, removed])).expect("applying");
    let other = Connection::open(&config.path).expect("opening another connection");
    let count = |sql: &str| -> i64 { other.query_row(sql, [], |row| row.get(0)).expect(sql) };
    assert_eq!(count("SELECT count(*) FROM report"), 0);
    assert_eq!(count("SELECT sum(id) FROM report_old"), 47);
    assert_eq!(count("SELECT count(*) FROM cards_dat"), 0);
    // And are there for the next.
    sink.apply(&batch(
        3,
        [
            changes(&files[0], [(9, record("again"))]),
            changes(&files[2], [(9, data())]),
        ],
    ))
    .expect("applying");
    assert_eq!(
        content(&mut sink, "/srv/a/cards.dat"),
        [(9, record("again"))]
    );
    assert_eq!(count("SELECT id FROM report"), 42);
    assert_eq!(tables(&config), before);
}

/// Each difference is a line that says what to do, which does it.
#[test]
fn what_differs_is_explained_and_mended() {
    let directory = directory();
    let config = with(Ddl::Check, &directory);
    run(&config, &schema_sql(&config, &[]).expect("statements"));
    let cards = planned("/srv/cards", FIELDS, &PlanSpec::default());
    let attempt = || {
        let mut sink = SqliteSink::open(&config).expect("opening");
        let result = sink.apply(&batch(1, [changes(&cards, [(1, record("0042Smith "))])]));
        result.map_err(|error| {
            assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
            error.to_string()
        })
    };
    let good = "record_number INTEGER PRIMARY KEY, data BLOB NOT NULL, rest BLOB";
    for (columns, says) in [
        (
            format!("{good}, id INTEGER, undecoded TEXT"),
            "column cards.name is missing: ALTER TABLE \"cards\" ADD COLUMN \"name\" TEXT",
        ),
        (
            format!("{good}, id TEXT, name TEXT, undecoded TEXT"),
            "column cards.id is TEXT, and should be INTEGER",
        ),
        (
            format!("{good}, id INTEGER NOT NULL, name TEXT, undecoded TEXT"),
            "column cards.id is NOT NULL, and has to take NULL",
        ),
        (
            format!("{good}, id INTEGER, name TEXT, undecoded TEXT, mine TEXT NOT NULL"),
            "column cards.mine is NOT NULL without a default",
        ),
        (
            "record_number INTEGER, data BLOB NOT NULL, rest BLOB, id INTEGER, name TEXT, undecoded TEXT"
                .to_owned(),
            "the primary key of table cards is nothing, and should be record_number",
        ),
    ] {
        run(&config, &[format!("CREATE TABLE cards ({columns})")]);
        let text = attempt().expect_err(says);
        assert!(text.contains(says), "{text}");
        // The statements are in it, each behind what it is for.
        let mut statements: Vec<String> = text
            .split("; ")
            .filter_map(|part| {
                let words = ["ALTER TABLE", "DROP TABLE", "CREATE TABLE"];
                let begin = words.iter().filter_map(|word| part.find(word)).min()?;
                Some(part[begin..].to_owned())
            })
            .collect();
        assert!(!statements.is_empty(), "{text}");
        let last = statements.len() - 1;
        statements[last] = statements[last].split(" in SQLite").next().unwrap_or_default().to_owned();
        run(&config, &statements);
        assert_eq!(attempt(), Ok(()), "after {statements:?}");
        let removed = FileChanges {
            fate: FileFate::Removed,
            ..changes(&cards, [])
        };
        let mut sink = SqliteSink::open(&config).expect("opening");
        sink.apply(&batch(2, [removed])).expect("removing it");
        run(
            &config,
            &["DROP TABLE cards; DELETE FROM counterfoil_position".into()],
        );
    }
    let text = attempt().expect_err("there is none");
    assert!(
        text.contains("there is no table cards: CREATE TABLE"),
        "{text}"
    );
    run(
        &config,
        &[format!(
            "CREATE TABLE cards ({good}, id INTEGER, name TEXT, undecoded TEXT);
             INSERT INTO cards (record_number, data) VALUES (1, x'')"
        )],
    );
    let text = attempt().expect_err("somebody's rows");
    assert!(text.contains("has rows already"), "{text}");
    // A changed plan is explained likewise, and goes on when it was followed.
    run(&config, &["DELETE FROM cards".into()]);
    assert_eq!(attempt(), Ok(()));
    let mut fields = FIELDS.to_vec();
    fields.push(("region", "text(2) utf-8"));
    let wider = planned("/srv/cards", &fields, &PlanSpec::default());
    let next = batch(2, [changes(&wider, [(2, record("0043Bob   NW"))])]);
    let mut sink = SqliteSink::open(&config).expect("opening");
    let text = sink
        .apply(&next)
        .expect_err("a column is missing")
        .to_string();
    let wanted = "ALTER TABLE \"cards\" ADD COLUMN \"region\" TEXT";
    assert!(text.contains(wanted), "{text}");
    run(&config, &[wanted.into()]);
    sink.apply(&next).expect("it is there now");
    let other = Connection::open(&config.path).expect("opening another connection");
    let region: String = other
        .query_row("SELECT region FROM cards WHERE id = 43", [], |row| {
            row.get(0)
        })
        .expect("a row");
    assert_eq!(region, "NW");
}

/// Where the raw image is to go because something is masked, rows that are there are masked too, and their bytes go, though
/// nothing may be dropped. What stands in the way of that is told, with what to do.
#[test]
fn what_may_not_be_dropped_is_masked_and_emptied() {
    let fields = [FIELDS, &[("note", "text(3) utf-8")]].concat();
    let spec = PlanSpec {
        raw: false,
        without: vec!["note".into()],
        masks: [("name".to_owned(), Mask::Fixed("hidden".into()))].into(),
        may_drop: true,
        ..PlanSpec::default()
    };
    let plain = planned("/srv/cards", &fields, &PlanSpec::default());
    let masked = planned("/srv/cards", &fields, &spec);
    let rows = |config: &SqliteConfig| -> Vec<Vec<Option<String>>> {
        let other = Connection::open(&config.path).expect("opening the database");
        let mut select = other
            .prepare("SELECT CAST(data AS TEXT), CAST(rest AS TEXT), id, name, note FROM cards")
            .expect("the columns are there");
        let text = |row: &rusqlite::Row<'_>| {
            (0..5)
                .map(|at| {
                    let value = row.get::<_, rusqlite::types::Value>(at)?;
                    Ok(match value {
                        rusqlite::types::Value::Null => None,
                        rusqlite::types::Value::Text(text) => Some(text),
                        value => Some(format!("{value:?}")),
                    })
                })
                .collect()
        };
        let rows = select.query_map([], text);
        rows.and_then(Iterator::collect).expect("reading rows")
    };
    for ddl in [Ddl::Check, Ddl::None] {
        let directory = directory();
        let config = with(ddl, &directory);
        run(
            &config,
            &schema_sql(&config, &[(*plain).clone()]).expect("statements"),
        );
        let mut sink = SqliteSink::open(&config).expect("opening");
        sink.apply(&batch(
            1,
            [changes(
                &plain,
                [(1, record("0042Smith abc")), (2, residue("Smith"))],
            )],
        ))
        .expect("applying");
        assert_eq!(rows(&config)[0][3].as_deref(), Some("Smith"));
        let next = batch(2, [changes(&masked, [(3, record("0043Bob   abc"))])]);
        let error = sink.apply(&next).expect_err("data takes no NULL");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
        let text = error.to_string();
        let begin = text.find("ALTER TABLE").expect("it says what to do");
        let end = text.find("TO \"data\"").expect("it says it all") + "TO \"data\"".len();
        // Without what the columns are filled from, they would stay as they are.
        run(
            &config,
            &["ALTER TABLE cards RENAME COLUMN data TO elsewhere".into()],
        );
        let error = sink.apply(&next).expect_err("there is no data");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
        assert!(error.to_string().contains("DELETE FROM"), "{error}");
        run(
            &config,
            &["ALTER TABLE cards RENAME COLUMN elsewhere TO data".into()],
        );
        run(&config, &[text[begin..end].to_owned()]);
        sink.apply(&next).expect("applying");
        let row = |id: i64| {
            let id = Some(format!("Integer({id})"));
            vec![None, None, id, Some("hidden".to_owned()), None]
        };
        assert_eq!(rows(&config), [row(42), row(43)], "{ddl:?}");
        let other = Connection::open(&config.path).expect("opening the database");
        let residue: i64 = other
            .query_row("SELECT count(*) FROM counterfoil_residue", [], |row| {
                row.get(0)
            })
            .expect("counting");
        assert_eq!(residue, 0);
    }
}

/// Without own tables, or with others, nothing is begun.
#[test]
fn own_tables_are_looked_at() {
    let directory = directory();
    let config = with(Ddl::Check, &directory);
    run(&config, &[]);
    fs::write(&config.path, "").expect("making an empty file");
    assert_refused(SqliteSink::open(&config), &config.path, "there are none");
    assert_eq!(fs::metadata(&config.path).expect("looking").len(), 0);
    run(&config, &schema_sql(&config, &[]).expect("statements"));
    run(
        &config,
        &[
            "ALTER TABLE counterfoil_files DROP COLUMN shape; DROP TABLE counterfoil_residue"
                .into(),
        ],
    );
    for says in [
        "column counterfoil_files.shape is missing",
        "there is no table counterfoil_residue: CREATE TABLE",
    ] {
        assert_refused(SqliteSink::open(&config), &config.path, says);
    }
}

/// Where nobody is to look, the first row finds out.
#[test]
fn nothing_is_looked_at_where_nobody_is_to_look() {
    let directory = directory();
    let config = with(Ddl::None, &directory);
    let cards = planned("/srv/cards", FIELDS, &PlanSpec::default());
    let statements = schema_sql(&config, &[(*cards).clone()]).expect("statements");
    run(&config, &statements);
    let mut sink = SqliteSink::open(&config).expect("opening");
    sink.apply(&batch(1, [changes(&cards, [(1, record("0042Smith "))])]))
        .expect("applying");
    let error = sink
        .apply(&batch(
            2,
            [changes(&file("/srv/other"), [(1, record("x"))])],
        ))
        .expect_err("there is no such table");
    assert!(error.to_string().contains("other"), "{error}");
    assert_eq!(content(&mut sink, "/srv/cards").len(), 1);
}
