use super::*;
use counterfoil_records::{Layout, Organization};
use counterfoil_sinks::mysql::Tls;
#[cfg(feature = "odbc")]
use counterfoil_sinks::odbc::{Dialect, OdbcConfig};
use counterfoil_sinks::plan::{Constant, Ddl, Mode};
use counterfoil_sinks::postgres::SslMode;
use std::fs;
use tempfile::TempDir;

const MINIMAL: &str = r#"
[site]
name = "hq"
state = "state"

[[group]]
name = "payments"
[[group.file]]
path = "data/*.dat"
organization = "fixed"
layout = "plain"
record_size = 80
"#;

fn load_in(directory: &TempDir, text: &str) -> Result<Config, ConfigError> {
    let path = directory.path().join("counterfoil.toml");
    fs::write(&path, text).unwrap();
    Config::load(&path)
}

fn load(text: &str) -> Result<Config, ConfigError> {
    load_in(&TempDir::new().unwrap(), text)
}

/// The one problem of a configuration: its line and what is shown.
fn problem(text: &str) -> (usize, String) {
    let error = load(text).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    (
        error.problems[0]
            .place
            .as_ref()
            .map_or(0, |place| place.line),
        error.to_string(),
    )
}

/// `MINIMAL` with a rule more in a group of its own.
fn with_second_group(rule: &str) -> String {
    format!(
        "{MINIMAL}\n[[group]]\nname = \"second\"\n[[group.file]]\n{rule}\norganization = \"stream\"\nlayout = \"newline\"\n"
    )
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let config = load_in(&directory, MINIMAL).unwrap();
    assert_eq!(config.path, base.join("counterfoil.toml"));
    assert_eq!(config.site.state, base.join("state"));
    assert_eq!(config.site.lanes, base.join("state/lanes"));
    assert_eq!(config.site.lane_bytes_max, 64 << 20);
    assert_eq!(config.site.lanes_bytes_max, 2 << 30);
    assert_eq!(config.journal.sync_interval, Duration::from_millis(1000));
    assert_eq!(config.journal.segment_bytes, 64 << 20);
    assert_eq!(config.journal.bytes_max, 4 << 30);
    assert_eq!(config.apply.batch_records_max, 20_000);
    assert_eq!(config.apply.batch_delay_max, Duration::from_millis(100));
    assert_eq!(config.stream(0), "hq/payments");
    let group = &config.groups[0];
    assert_eq!(group.unit_of_work, UnitOfWork::None);
    assert_eq!(group.unit_timeout, Duration::from_secs(30));
    assert_eq!(group.files[0].format.organization, Organization::Fixed);
    assert_eq!(group.files[0].format.layout, Layout::Plain);
    assert_eq!(group.files[0].format.record_size, Some(80));
    assert_eq!(group.files[0].line, 9);
    let path = base.join("state/counterfoil.db");
    assert_eq!(
        config.sinks,
        [SinkConfig {
            name: "default".into(),
            target: Target::Sqlite(SqliteConfig::new(path)),
            treatment: Treatment::default(),
        }]
    );
}

#[test]
fn everything_that_can_be_written_is_read() {
    let config = load(
        r#"
[site]
name = "hq"
state = "/var/lib/counterfoil"
lanes = "/dev/shm/counterfoil"
lane_bytes_max = 1_048_576
lanes_bytes_max = 2_097_152
lanes_access = "all"
[journal]
sync_interval_ms = 0
segment_bytes = 1_048_576
bytes_max = 8_388_608
[apply]
batch_records_max = 7
batch_delay_ms_max = 8
[[group]]
name = "pay"
unit_of_work = "lock"
unit_timeout_ms = 9
on_backlog = "block"
on_unavailable = "fail"
[[group.file]]
path = "/srv/pay/cards.dat"
organization = "relative"
layout = "gnucobol"
record_size = 150
table = "cards"
[[group.file]]
path = "/srv/pay/**/j*"
exclude = ["*.tmp", "/srv/pay/old/**"]
organization = "sequential"
layout = "gnucobol"
varseq_format = 3
[[sink]]
name = "here"
[sink.sqlite]
path = "/var/lib/mirror.db"
[[sink]]
name = "there"
sqlite = { path = "/mnt/mirror.db", busy_timeout_ms = 1, size_bytes_max = 1_048_576 }
"#,
    )
    .unwrap();
    assert_eq!(config.site.lanes, Path::new("/dev/shm/counterfoil"));
    assert_eq!(config.site.lanes_bytes_max, 2 << 20);
    assert_eq!(config.site.lanes_access, LanesAccess::All);
    assert_eq!(
        config.groups[0].policy,
        Policy {
            waits_for_room: true,
            unavailable: Unavailable::Fail
        }
    );
    assert_eq!(config.journal.sync_interval, Duration::ZERO);
    assert_eq!(config.apply.batch_records_max, 7);
    let group = &config.groups[0];
    assert_eq!(
        (group.unit_of_work, group.unit_timeout),
        (UnitOfWork::Lock, Duration::from_millis(9))
    );
    assert_eq!(group.files[0].table.as_deref(), Some("cards"));
    assert_eq!(
        group.files[1].format.varseq_format,
        Some(counterfoil_records::VarseqFormat::BigEndian16)
    );
    assert_eq!(config.sinks.len(), 2);
    let Target::Sqlite(there) = &config.sinks[1].target else {
        panic!("not SQLite")
    };
    assert_eq!(
        (there.busy_timeout_ms, there.size_max_bytes),
        (1, Some(1 << 20))
    );
    for (path, rule) in [
        ("/srv/pay/cards.dat", Some((0, 0))),
        ("/srv/pay/journal", Some((0, 1))),
        ("/srv/pay/x/y/jx", Some((0, 1))),
        ("/srv/pay/x/j.tmp", None),
        ("/srv/pay/old/j", None),
        ("/srv/pay/cards.dat2", None),
    ] {
        assert_eq!(config.rule_for(path.as_bytes()), rule, "{path}");
    }
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_nearest_known_one() {
    let (line, shown) = problem(&MINIMAL.replace("organization =", "organisation ="));
    assert_eq!(line, 10);
    for part in [
        "counterfoil.toml:10:1: unknown key `organisation`",
        "10 | organisation = \"fixed\"",
        "   | ^^^^^^^^^^^^",
        "did you mean `organization`?",
        "record_size",
    ] {
        assert!(shown.contains(part), "{part:?} isn't in:\n{shown}");
    }
}

#[test]
fn unknown_values_and_missing_keys_say_what_to_write() {
    let (line, shown) = problem(&MINIMAL.replace("\"fixed\"", "\"fixd\""));
    assert_eq!(line, 10, "{shown}");
    assert!(
        shown.contains("unknown value `fixd`") && shown.contains("did you mean `fixed`?"),
        "{shown}"
    );
    let (_, shown) = problem(&MINIMAL.replace("layout = \"plain\"", ""));
    assert!(shown.contains("the key `layout` is missing"), "{shown}");
    let (line, shown) = problem(&MINIMAL.replace("= 80", "= \"80\""));
    assert_eq!(line, 12, "{shown}");
    let (line, shown) = problem(&MINIMAL.replace("name = \"hq\"", "name = \"hq"));
    assert_eq!(line, 3, "{shown}");
    let (_, shown) = problem(
        "[[group]]\nname = 'x'\n[[group.file]]\npath = 'x'\norganization = 'stream'\nlayout = 'newline'",
    );
    assert!(shown.contains("there is no [site]"), "{shown}");
}

#[cfg(not(feature = "odbc"))]
#[test]
fn without_odbc_an_odbc_sink_says_how_to_build_it() {
    let text = format!("{MINIMAL}\n[[sink]]\nname = \"dr\"\n[sink.odbc]\ndsn = \"x\"");
    let (line, shown) = problem(&text);
    assert!(
        shown.contains("was built without ODBC") && shown.contains("install --odbc") && line > 0,
        "{shown}"
    );
}

#[cfg(feature = "odbc")]
#[test]
fn an_odbc_sink_is_read_from_its_own_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("counterfoil.toml"),
        format!("{MINIMAL}\n[sinks]\ninclude = [\"dr.toml\"]"),
    )
    .unwrap();
    let load = |lines: &str| {
        std::fs::write(
            dir.path().join("dr.toml"),
            format!("name = \"dr\"\n[odbc]\n{lines}\n"),
        )
        .unwrap();
        Config::load(&dir.path().join("counterfoil.toml"))
    };
    let config = load(
        "connection = \"Driver={Oracle 19 ODBC driver};DBQ=dr-db/pay\"\nusername = \"mirror\"\npassword_file = \"secret\"\n\
         dialect = \"oracle\"\nschema = \"PAY\"\nconnect_timeout_ms = 2000\nlock_wait_timeout_ms = 500",
    )
    .unwrap();
    let expected = OdbcConfig {
        username: Some("mirror".into()),
        password_file: Some(dir.path().join("secret")),
        dialect: Some(Dialect::Oracle),
        schema: Some("PAY".into()),
        connect_timeout_ms: 2000,
        lock_wait_timeout_ms: 500,
        ..OdbcConfig::new("Driver={Oracle 19 ODBC driver};DBQ=dr-db/pay").unwrap()
    };
    assert_eq!(config.sinks[0].target, Target::Odbc(expected));
    let config = load("dsn = \"payments\"\ndialect = \"auto\"").unwrap();
    assert_eq!(
        config.sinks[0].target,
        Target::Odbc(OdbcConfig::with_dsn("payments").unwrap())
    );
    for (lines, what) in [
        ("username = \"x\"", "say where the database is"),
        (
            "dsn = \"a\"\nconnection = \"DSN=b\"",
            "say where the database is",
        ),
        ("connection = \"Driver=x;PWD=geheim\"", "`password_file`"),
        ("connection = \"geheim\"", "dr.toml: line 3"),
        ("dsn = \"a\"\ndialect = \"informix\"", "no dialect"),
        ("dsn = \"a\"\nlock_wait_timeout_ms = 0", "1 to"),
        ("dsn = \"a\"\nshema = \"x\"", "shema"),
    ] {
        let shown = load(lines).expect_err(what).to_string();
        assert!(
            shown.contains(what) && !shown.contains("geheim"),
            "{what:?} isn't in:\n{shown}"
        );
    }
}

#[test]
fn values_that_cannot_be_are_refused_where_they_stand() {
    for (from, to, line, what) in [
        ("\"hq\"", "\"h/q\"", 3, "can't be the name of a site"),
        ("\"hq\"", "\"\"", 3, "can't be the name of a site"),
        ("\"payments\"", "\"..\"", 7, "can't be the name of a group"),
        ("state = \"state\"", "state = \"\"", 4, "isn't a path"),
        (
            "state = \"state\"",
            "state = \"state\"\nlane_bytes_max = 1",
            5,
            "65536 to",
        ),
        (
            "state = \"state\"",
            "state = \"state\"\nlanes_bytes_max = 1",
            5,
            "1048576 to",
        ),
        (
            "state = \"state\"",
            "state = \"state\"\nlanes_access = \"all\"",
            5,
            "outside of the state directory",
        ),
        (
            "\"payments\"",
            "\"payments\"\non_backlog = \"wait\"",
            8,
            "known here: grow, block",
        ),
        ("data/*.dat", "data/[", 9, "not a usable path"),
        ("data/*.dat", "data/", 9, "names a directory"),
        ("80", "0", 12, "record_size is 0"),
        ("80", "-1", 12, "record_size is -1"),
        ("record_size = 80", "", 11, "record_size"),
        (
            "record_size = 80",
            "varseq_format = 4",
            12,
            "varseq_format 4",
        ),
        ("\"plain\"", "\"newline\"", 11, "newline"),
        (
            "record_size = 80",
            "record_size = 80\ntable = \"x\"",
            13,
            "wildcards",
        ),
        (
            "data/*.dat\"",
            "data/x\"\ntable = \"SQLite_x\"",
            10,
            "can't be the name of a table",
        ),
        (
            "[[group]]",
            "[journal]\nbytes_max = 1_000_000\n[[group]]",
            7,
            "no room for two segments",
        ),
    ] {
        let (at, shown) = problem(&MINIMAL.replace(from, to));
        assert_eq!(at, line, "{shown}");
        assert!(shown.contains(what), "{what:?} isn't in:\n{shown}");
    }
}

#[test]
fn all_problems_are_shown_at_once() {
    let error = load(&MINIMAL.replace("\"hq\"", "\"h q\"").replace("80", "0")).unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
}

#[test]
fn a_configuration_without_groups_or_files_is_refused() {
    let (_, shown) = problem("[site]\nname = \"hq\"\nstate = \"s\"\n");
    assert!(shown.contains("there is no [[group]]"), "{shown}");
    let (line, shown) = problem("[site]\nname = \"hq\"\nstate = \"s\"\n[[group]]\nname = \"g\"\n");
    assert_eq!(line, 5);
    assert!(shown.contains("has no [[group.file]]"), "{shown}");
}

#[test]
fn a_file_belongs_to_one_group() {
    let (line, shown) = problem(&with_second_group("path = \"data/c*\""));
    assert_eq!(line, 17);
    assert!(shown.contains("/data/c.dat\" would belong to group \"second\" here and to group \"payments\" by line 9"), "{shown}");
    load(&with_second_group(
        "path = \"data/c*\"\nexclude = [\"*.dat\"]",
    ))
    .unwrap();
    load(&with_second_group("path = \"data/*.log\"")).unwrap();
    let (_, shown) =
        problem(&with_second_group("path = \"other\"").replace("\"second\"", "\"payments\""));
    assert!(
        shown.contains("a second group named \"payments\"; the first is on line 7"),
        "{shown}"
    );
}

#[test]
fn counterfoil_does_not_capture_itself() {
    let (line, shown) = problem(&MINIMAL.replace("data/*.dat", "**"));
    assert_eq!(line, 9);
    assert!(shown.contains("takes in the state directory"), "{shown}");
    load(&MINIMAL.replace("data/*.dat\"", "**\"\nexclude = [\"state/**\"]")).unwrap();
    let sink =
        format!("{MINIMAL}\n[[sink]]\nname = \"here\"\nsqlite = {{ path = \"data/x.dat\" }}");
    let (_, shown) = problem(&sink);
    assert!(shown.contains("a sink's database"), "{shown}");
    // SQLite's own files beside the database count as well.
    let (_, shown) = problem(&sink.replace("data/*.dat", "data/*-wal"));
    assert!(shown.contains("x.dat-wal"), "{shown}");
}

#[test]
fn a_postgres_sink_is_read_from_its_own_file() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let text = format!("{MINIMAL}\n[sinks]\ninclude = [\"dr.toml\"]\n");
    let load = |sink: &str| {
        fs::write(directory.path().join("dr.toml"), sink).unwrap();
        load_in(&directory, &text)
    };
    let config = load(
        "name = \"dr\"\n[postgres]\nurl = \"postgres://mirror@dr-db/pay\"\npassword_file = \"secret\"\nschema = \"pay\"\n\
         sslmode = \"verify-ca\"\nca_file = \"/etc/ca.pem\"\nstatement_timeout_ms = 60000\n",
    )
    .unwrap();
    let expected = PostgresConfig {
        password_file: Some(base.join("secret")),
        schema: Some("pay".to_owned()),
        sslmode: Some(SslMode::VerifyCa),
        ca_file: Some("/etc/ca.pem".into()),
        statement_timeout_ms: 60_000,
        ..PostgresConfig::new("postgres://mirror@dr-db/pay")
    };
    assert_eq!(config.sinks[0].target, Target::Postgres(expected));

    for (lines, says) in [
        (
            "",
            "dr.toml:2:1: [postgres] doesn't say where the database is",
        ),
        (
            "url = \"dr-db\"",
            "dr.toml: line 3: the `url` of [postgres]",
        ),
        ("url = \"postgres://u:geheim@h/x\"", "`password_file`"),
        (
            "service = \"pay\"\nshema = \"x\"",
            "dr.toml:4:1: unknown key `shema`",
        ),
        (
            "service = \"pay\"\nsslmode = \"prefer\"",
            "unknown value `prefer`",
        ),
        ("service = \"pay\"\nschema = \"\"", "can't be a name"),
        ("service = \"pay\"\nschema = \"pg_x\"", "PostgreSQL's own"),
        ("service = \"pay\"\nlock_timeout_ms = -1", "dr.toml:4:19"),
        ("service = \"pay\"\n[sqlite]\npath = \"x\"", "says twice"),
    ] {
        let shown = load(&format!("name = \"dr\"\n[postgres]\n{lines}\n"))
            .unwrap_err()
            .to_string();
        assert!(shown.contains(says) && !shown.contains("geheim"), "{shown}");
    }
}

#[test]
fn a_mysql_sink_is_read_from_its_own_file() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let text = format!("{MINIMAL}\n[sinks]\ninclude = [\"dr.toml\"]\n");
    let load = |sink: &str| {
        fs::write(directory.path().join("dr.toml"), sink).unwrap();
        load_in(&directory, &text)
    };
    let config = load(
        "name = \"dr\"\n[mysql]\nurl = \"mysql://mirror@localhost/pay\"\npassword_file = \"secret\"\n\
         socket = \"/run/my.sock\"\ntls = \"unverified\"\nlock_wait_timeout_s = 3\nload_data = false\n",
    )
    .unwrap();
    let expected = MysqlConfig {
        socket: Some("/run/my.sock".into()),
        password_file: Some(base.join("secret")),
        tls: Tls::Unverified,
        lock_wait_timeout_s: 3,
        load_data: false,
        ..MysqlConfig::new("mysql://mirror@localhost/pay").unwrap()
    };
    assert_eq!(config.sinks[0].target, Target::Mysql(expected));

    for (lines, says) in [
        ("", "dr.toml:2:1: the key `url` is missing"),
        ("url = \"dr-db\"", "dr.toml: line 3: the `url` of [mysql]"),
        ("url = \"mysql://u:geheim@h/x\"", "`password_file`"),
        (
            "url = \"mysql://u@h/x\"\nshema = \"x\"",
            "dr.toml:4:1: unknown key `shema`",
        ),
        (
            "url = \"mysql://u@h/x\"\ntls = \"prefer\"",
            "unknown value `prefer`",
        ),
        (
            "url = \"mysql://u@h/x\"\nlock_wait_timeout_s = 0",
            "dr.toml:4:23",
        ),
    ] {
        let shown = load(&format!("name = \"dr\"\n[mysql]\n{lines}\n"))
            .unwrap_err()
            .to_string();
        assert!(shown.contains(says) && !shown.contains("geheim"), "{shown}");
    }
}

#[test]
fn sink_files_are_included_in_order_of_name() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let sinks = directory.path().join("sinks.d");
    fs::create_dir(&sinks).unwrap();
    let text = format!("{MINIMAL}\n[sinks]\ninclude = [\"sinks.d/*.toml\"]\n");
    let shown = load_in(&directory, &text).unwrap_err().to_string();
    assert!(shown.contains("no file matches"), "{shown}");

    fs::write(
        sinks.join("b.toml"),
        "name = \"b\"\nsqlite = { path = \"b.db\" }\n",
    )
    .unwrap();
    fs::write(
        sinks.join("a.toml"),
        "name = \"a\"\n[sqlite]\npath = \"/a.db\"\n",
    )
    .unwrap();
    fs::write(sinks.join("not-a-sink.txt"), "?").unwrap();
    let config = load_in(&directory, &text).unwrap();
    let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    // Relative to the sink's own file, which its owner knows, and not to the including one.
    assert_eq!(
        config.sinks[1].target,
        Target::Sqlite(SqliteConfig::new(base.join("sinks.d/b.db")))
    );

    fs::write(
        sinks.join("c.toml"),
        "name = \"a\"\nsqlite = { path = \"c.db\" }\n",
    )
    .unwrap();
    let shown = load_in(&directory, &text).unwrap_err().to_string();
    assert!(
        shown.contains("c.toml:1:8: a second sink named \"a\"") && shown.contains("a.toml:1"),
        "{shown}"
    );

    fs::write(
        sinks.join("c.toml"),
        "name = \"c\"\nsqlite = { path = \"../sinks.d/b.db\" }\n",
    )
    .unwrap();
    let shown = load_in(&directory, &text).unwrap_err().to_string();
    assert!(shown.contains("same database"), "{shown}");

    fs::write(sinks.join("c.toml"), "name = \"c\"\nsqlit = 1\n").unwrap();
    let shown = load_in(&directory, &text).unwrap_err().to_string();
    assert!(shown.contains("c.toml:2:1: unknown key `sqlit`"), "{shown}");

    let text = text.replace("*.toml", "missing.toml");
    let shown = load_in(&directory, &text).unwrap_err().to_string();
    assert!(
        shown.contains("missing.toml: reading the configuration"),
        "{shown}"
    );
}

#[test]
fn a_file_that_is_not_a_configuration_is_an_error_and_not_a_panic() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("counterfoil.toml");
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("counterfoil init DIR")
    );
    assert!(Config::load(directory.path()).is_err());
    fs::write(&path, b"[site]\nname = \"\xff\"").unwrap();
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("line 2 isn't UTF-8")
    );
    fs::write(&path, "").unwrap();
    assert!(Config::load(&path).is_err());
}

#[test]
fn a_scan_finds_each_matching_file_once_and_does_not_follow_links() {
    let directory = TempDir::new().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("x.dat"), "").unwrap();
    fs::create_dir_all(base.join("data/sub.dat/deep")).unwrap();
    for name in [
        "data/a.dat",
        "data/b.dat",
        "data/b.txt",
        "data/sub.dat/deep/c.dat",
    ] {
        fs::write(base.join(name), "").unwrap();
    }
    std::os::unix::fs::symlink(outside.path(), base.join("data/link.dat")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("x.dat"), base.join("data/x.dat")).unwrap();
    let rule = "organization = \"stream\"\nlayout = \"newline\"\n";
    let text = format!(
        "{MINIMAL}[[group.file]]\npath = \"data/**/*.dat\"\n{rule}[[group.file]]\npath = \"data/b.txt\"\n{rule}\
         [[group.file]]\npath = \"not/there/*\"\n{rule}[[group.file]]\npath = \"data/a.dat/x\"\n{rule}"
    );
    let config = load_in(&directory, &text).unwrap();
    let mut found: Vec<(String, usize)> = config
        .scan()
        .map(|found| found.unwrap())
        .map(|found| {
            (
                found
                    .path
                    .strip_prefix(&base)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                found.file,
            )
        })
        .collect();
    found.sort();
    let expected = [
        ("data/a.dat", 0),
        ("data/b.dat", 0),
        ("data/b.txt", 2),
        ("data/sub.dat/deep/c.dat", 1),
    ];
    assert_eq!(found, expected.map(|(path, file)| (path.to_owned(), file)));
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error_that_names_it() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        return; // Nothing is unreadable to root.
    }
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
    let config = load_in(&directory, MINIMAL).unwrap();
    let results: Vec<String> = config
        .scan()
        .map(|found| found.unwrap_err().to_string())
        .collect();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(results.len(), 1);
    assert!(results[0].contains("/data:"), "{}", results[0]);
}

/// `MINIMAL` with a tree in its group.
fn with_tree(tree: &str) -> String {
    format!("{MINIMAL}\n[[group.tree]]\n{tree}\n")
}

#[test]
fn a_tree_takes_what_no_rule_before_it_takes() {
    let text = with_tree("path = \"/srv/app/\"\nexclude = [\"cache\", \"*.tmp\"]\ntable = \"app\"")
        + "[[group.file]]\npath = \"/srv/app/log/*.log\"\norganization = \"stream\"\nlayout = \"newline\"\n";
    let config = load(&text).unwrap();
    let rule_of = |path: &str| config.rule_for(path.as_bytes()).map(|(_, rule)| rule);
    assert_eq!(rule_of("/srv/app"), Some(2));
    assert_eq!(rule_of("/srv/app/etc/x"), Some(2));
    assert_eq!(rule_of("/srv/app/log/x.log"), Some(1));
    assert_eq!(rule_of("/srv/app/x.tmp"), None);
    assert_eq!(rule_of("/srv/app/x.tmp/y"), None);
    assert_eq!(rule_of("/srv/app/a/cache"), None);
    assert_eq!(rule_of("/srv/app/a/cache/b/c"), None);
    assert_eq!(rule_of("/srv/apple"), None);
    assert!(config.is_static(b"/srv/app") && !config.is_static(b"/srv/app/log/x.log"));
    let rule = config.rule(b"/srv/app/etc").unwrap();
    assert_eq!(rule.tree.as_deref(), Some(Path::new("/srv/app")));
    assert_eq!(rule.table.as_deref(), Some("app"));
}

#[test]
fn trees_that_make_no_sense_are_refused() {
    for (text, says) in [
        (with_tree("path = \"/srv/*\""), "not a pattern"),
        (with_tree("path = \"/\""), "the root directory"),
        (
            with_tree("path = \"/srv\"\ntable = \"sqlite_x\""),
            "name of a table",
        ),
        (with_tree("path = \"state/..\""), "the state directory"),
        (
            with_tree("path = \"/srv\"\n[[group.tree]]\npath = \"/srv/app\""),
            "files in common",
        ),
        (
            with_tree("path = \"/srv\"\n[[group.tree]]\npath = \"/srv\""),
            "files in common",
        ),
        (
            with_tree(
                "path = \"/srv\"\n[[group]]\nname = \"b\"\n[[group.tree]]\npath = \"/srv/app\"",
            ),
            "one order",
        ),
        (MINIMAL.replace("\"fixed\"", "\"static\""), "[[group.tree]]"),
    ] {
        let (_, shown) = problem(&text);
        assert!(shown.contains(says), "{shown}");
    }
    let apart = "path = \"/srv\"\nexclude = [\"/srv/app\"]\n[[group.tree]]\npath = \"/srv/app\"";
    assert_eq!(load(&with_tree(apart)).unwrap().groups[0].files.len(), 3);
}

#[test]
fn a_scan_of_a_tree_finds_everything_in_it() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().canonicalize().unwrap().join("etc");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join("cache/deep")).unwrap();
    fs::write(root.join("cache/deep/x"), "").unwrap();
    fs::write(root.join("a/b/x"), "").unwrap();
    std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let config = load_in(
        &directory,
        &with_tree("path = \"etc\"\nexclude = [\"cache\"]"),
    )
    .unwrap();
    let mut scan = config.scan();
    let mut found: Vec<PathBuf> = scan
        .by_ref()
        .map(|found| found.unwrap().path.strip_prefix(&root).unwrap().to_owned())
        .collect();
    assert_eq!(scan.passed_over(), 1);
    assert_eq!(found[0], Path::new(""), "directories come first");
    found.sort();
    assert_eq!(found, ["", "a", "a/b", "a/b/x", "link"].map(PathBuf::from));
}

const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

#[test]
fn the_documented_example_loads() {
    let example = DOCUMENTATION
        .split("```toml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let directory = TempDir::new().unwrap();
    let config = load_in(&directory, example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.groups.len(), config.sinks.len()), (2, 1));
    assert_eq!(config.rule_for(b"/srv/pay/journal/2026/j1"), Some((0, 1)));
    assert_eq!(config.rule_for(b"/srv/pay/journal/old/j1"), None);
}

/// What the parser says is known is what the documentation has to explain.
#[test]
fn every_key_is_documented() {
    let in_table = |table: &str| format!("{MINIMAL}\n{table}\nno_such_key = 1\n");
    let mut keys = 0;
    for text in [
        in_table(""),
        format!("no_such_key = 1\n{MINIMAL}"),
        MINIMAL.replace("[site]", "[site]\nno_such_key = 1"),
        MINIMAL.replace("[[group]]", "[[group]]\nno_such_key = 1"),
        format!("{MINIMAL}\n[[group.tree]]\nno_such_key = 1\n"),
        in_table("[journal]"),
        in_table("[apply]"),
        in_table("[sinks]"),
        in_table("[[sink]]"),
        in_table("[sink]\n[sink.sqlite]").replace("[sink]\n", "[[sink]]\nname = \"x\"\n"),
    ] {
        let (_, shown) = problem(&text);
        let known = shown
            .split("known here: ")
            .nth(1)
            .unwrap_or_else(|| panic!("{shown}"));
        for key in known.trim().split(", ") {
            keys += 1;
            assert!(
                DOCUMENTATION.contains(&format!("`{key}`")),
                "`{key}` isn't in docs/configuration.md"
            );
        }
    }
    assert!(keys > 25, "only {keys} keys were seen");
}

#[test]
fn kafka_is_read_and_what_would_lose_or_repeat_is_refused() {
    let kafka = |lines: &str| {
        format!(
            "{MINIMAL}\n[kafka]\nroutes = [{{ name = 'a', bootstrap = 'k:9092,l:9093' }}]\n{lines}"
        )
    };
    let config = load(&kafka(
        "topic_prefix = 'cf'\nretention_hours = 2\npassword_file = 'secret'\nreplication = 1\n\
         [kafka.topic]\n'min.insync.replicas' = 2\n[kafka.client]\n'compression.type' = 'lz4'\n'socket.nagle.disable' = true",
    ))
    .unwrap();
    assert_eq!(config.apply.batch_delay_max, Duration::ZERO);
    let read = config.kafka.as_ref().expect("there is a [kafka]");
    assert_eq!(read.topic(&config.stream(0)), "cf.hq.payments");
    assert_eq!(read.topic["retention.ms"], "7200000");
    assert_eq!(read.topic["min.insync.replicas"], "2");
    assert_eq!(read.client["socket.nagle.disable"], "true");
    assert!(
        read.password_file
            .as_ref()
            .is_some_and(|path| path.is_absolute())
    );
    for (lines, what) in [
        ("[kafka.client]\nacks = 0", "\"acks\" can't be set here"),
        (
            "[kafka.client]\n'sasl.password' = 'x'",
            "name that in password_file",
        ),
        ("streams = ['payments']", "isn't a stream"),
        (
            "topic_prefix = 'a b'",
            "can't be the name of a topic prefix",
        ),
        ("replication = 0", "replication is 0"),
        ("partitions = 3", "takes one partition"),
        ("ordering = 'file'\npartitions = 0", "partitions is 0"),
        ("ordering = 'key'", "unknown value `key`"),
    ] {
        let (line, shown) = problem(&kafka(lines));
        assert!(
            shown.contains(what) && line > 0,
            "{what:?} isn't in:\n{shown}"
        );
    }
    let (_, shown) = problem(&kafka("").replace("k:9092,l:9093", "k"));
    assert!(shown.contains("doesn't name brokers"), "{shown}");
}

#[test]
fn a_site_that_only_applies_needs_no_group() {
    let text = "[site]\nname = 'dr'\nstate = 's'\n[kafka]\nroutes = [{ name = 'a', bootstrap = 'k:9092' }]\n";
    let (_, shown) = problem(text);
    assert!(shown.contains("there is no [[group]]"), "{shown}");
    let config = load(&format!("{text}streams = ['hq/payments', 'branch/stock']")).unwrap();
    assert_eq!(config.applied_streams(), ["hq/payments", "branch/stock"]);
}

#[test]
fn a_registry_is_named_where_the_wire_format_takes_one() {
    let kafka = |more: &str| {
        format!("{MINIMAL}\n[kafka]\nroutes = [{{ name = 'a', bootstrap = 'k:9092' }}]\n{more}")
    };
    let (_, shown) = problem(&kafka("wire_format = 'confluent'"));
    assert!(shown.contains("takes a schema registry"), "{shown}");
    let (_, shown) = problem(&kafka("registry = { url = 'http://r:8081' }"));
    assert!(shown.contains("without wire_format"), "{shown}");
    for url in ["r:8081", "ftp://r", "http://", "http://me:secret@r"] {
        let (_, shown) = problem(&kafka(&format!(
            "wire_format = 'confluent'\nregistry = {{ url = '{url}' }}"
        )));
        assert!(shown.contains("isn't the address"), "{url}: {shown}");
    }
}

const CARDS: &str = "       01  CARD.
           05  CARD-NUMBER     PIC X(16).
           05  ADDRESS.
               COPY ADDR.
           05  OPENED          PIC 9(8).
       01  OTHER               PIC X(3).
";

/// A directory with a copybook, and `MINIMAL` without its size.
fn with_copybook(copybook: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("copy")).unwrap();
    fs::write(directory.path().join("cards.cpy"), copybook).unwrap();
    let addr = "           10  STREET  PIC X(20).\n";
    fs::write(directory.path().join("copy/addr.CPY"), addr).unwrap();
    let text = MINIMAL.replace(
        "record_size = 80\n",
        "copybook = \"cards.cpy\"\ncopy_path = [\"copy\"]\n",
    );
    (directory, text)
}

#[test]
fn a_copybook_gives_columns_and_the_size_of_records() {
    let (directory, text) = with_copybook(CARDS);
    let text = format!(
        "{text}record = \"card\"\n[[group.file.item]]\nname = \"OPENED\"\ndate = \"YYYYMMDD\"\n"
    );
    let config = load_in(&directory, &text).unwrap_or_else(|error| panic!("{error}"));
    let rule = &config.groups[0].files[0];
    assert_eq!(rule.format.record_size, Some(44));
    let columns: Vec<String> = rule
        .schema
        .as_ref()
        .unwrap()
        .0
        .columns()
        .iter()
        .map(|column| format!("{} {}", column.name, column.field))
        .collect();
    assert_eq!(
        columns,
        [
            "card_number text(16) latin-1",
            "street text(20) latin-1",
            "opened zoned(8) ascii as YYYYMMDD"
        ]
    );
}

#[test]
fn a_field_list_does_what_a_copybook_does() {
    let list = "dialect = \"ibm\"
[[group.file.field]]
name = \"id\"
type = \"zoned(6)\"
[[group.file.field]]
type = \"raw(4)\"
[[group.file.field]]
name = \"line\"
occurs = 2
fields = [{ name = \"amount\", type = \"packed(9,2) signed\" }, { name = \"note\", type = \"text(3)\" }]
";
    let text = MINIMAL.replace("record_size = 80\n", "") + list;
    let config = load(&text).unwrap_or_else(|error| panic!("{error}"));
    let schema = config.groups[0].files[0].schema.clone().unwrap().0;
    assert_eq!(schema.len_max(), 6 + 4 + 2 * 8);
    let names: Vec<&str> = schema.columns().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["id", "amount_1", "note_1", "amount_2", "note_2"]);
    assert_eq!(schema.columns()[4].field.to_string(), "text(3) cp037");
    let (line, shown) = problem(&text.replace("raw(4)", "rwa(4)"));
    assert_eq!(line, 16, "{shown}");
    assert!(shown.contains("there is no type \"rwa\""), "{shown}");
    let (_, shown) = problem(&text.replace("occurs = 2", "ocurs = 2"));
    assert!(shown.contains("unknown key `ocurs`"), "{shown}");
    let (_, shown) = problem(&text.replace("occurs = 2", "redefines = \"it\""));
    assert!(
        shown.contains("line redefines it, but no item before it"),
        "{shown}"
    );
}

#[test]
fn what_is_wrong_with_a_copybook_is_shown_where_it_is() {
    let shown = |(directory, text): (TempDir, String), more: &str| {
        let error = load_in(&directory, &format!("{text}{more}")).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        error.to_string()
    };
    let (directory, text) = with_copybook(CARDS);
    let both = shown((directory, text), "record = \"card\"\nrecord_size = 40\n");
    assert!(
        both.contains("record_size is 40, but CARD takes 44 bytes"),
        "{both}"
    );
    let which = shown(with_copybook(CARDS), "");
    assert!(which.contains("name one of: CARD, OTHER"), "{which}");
    let broken = shown(with_copybook(&CARDS.replace("9(8)", "Q(8)")), "");
    assert!(
        broken.contains("cards.cpy:5:36: error: 'Q' isn't a symbol"),
        "{broken}"
    );
    let lost = shown(with_copybook(&CARDS.replace("ADDR.", "NONE.")), "");
    assert!(
        lost.contains("COPY NONE: there is no such file in"),
        "{lost}"
    );
    let dialect = shown(with_copybook(CARDS), "dialect = \"cobol\"\n");
    assert!(
        dialect.contains("a dialect begins with gnucobol, ibm or mf"),
        "{dialect}"
    );
    let item = "record = \"card\"\n[[group.file.item]]\nname = \"NOBODY\"\n";
    let item = shown(with_copybook(CARDS), item);
    assert!(
        item.contains("there is no item \"NOBODY\" in CARD"),
        "{item}"
    );
    let (_, alone) = problem(&format!("{MINIMAL}dialect = \"ibm\"\n"));
    assert!(
        alone.contains("this says how to read a copybook, and there is none"),
        "{alone}"
    );
}

/// A site with a file of two fields, and a sink that has this in it.
fn with_sink(text: &str) -> String {
    let site = MINIMAL.replace("data/*.dat", "/srv/a.dat");
    format!(
        "{site}field = [{{ name = 'id', type = 'zoned(4)' }}, {{ name = 'name', type = 'text(76)' }}]\n\
         [[sink]]\nname = 'dr'\nsqlite = {{ path = 'x.db' }}\n{text}\n"
    )
}

#[test]
fn a_dba_says_what_becomes_of_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key");
    std::fs::write(&key, "0123456789abcdef\n").expect("writing a key");
    let config = load(&with_sink(&format!(
        "include = ['/srv/**']\nexclude = ['/srv/*.tmp']\nddl = 'check'\nbatch_records_max = 7\nbatch_delay_ms_max = 0\n\
         on_refused_row = 'stop'\nmask_key_file = '{}'\n\
         [sink.table.z]\nfile = ['/srv/z', '/srv/z*']\nmode = 'history'\ncolumns = ['id']\non_refused_row = 'dead-letter'\n\
         [sink.table.a]\nfile = '/srv/b*'\nmask = {{ id = 'last4', name = 'hash', x = {{ fixed = 'y' }} }}\n\
         exclude_columns = ['q']\nrename = {{ id = 'number' }}\ntypes = {{ id = 'text(9)' }}\ndrop_columns = true\n\
         constants = {{ site = '{{site}}', branch = 7 }}",
        key.display()
    )))
    .unwrap_or_else(|error| panic!("{error}"));
    let treatment = &config.sinks[0].treatment;
    assert_eq!(treatment.ddl, Ddl::Check);
    assert_eq!(treatment.batch_records_max, Some(7));
    assert_eq!(treatment.batch_delay_max, Some(Duration::ZERO));
    assert!(treatment.takes(b"/srv/a/b", None) && !treatment.takes(b"/etc/x", None));
    assert!(!treatment.takes(b"/srv/x.tmp", None));
    // In the order of the file.
    let names: Vec<&str> = treatment
        .tables
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(names, ["z", "a"]);
    let rule = treatment.rule(b"/srv/z9").expect("a rule");
    assert_eq!(
        (rule.name.as_str(), rule.on_refused),
        ("z", OnRefused::DeadLetter)
    );
    assert_eq!((rule.spec.mode, rule.spec.raw), (Mode::History, true));
    let rule = treatment.rule(b"/srv/b").expect("a rule");
    assert_eq!(
        (rule.name.as_str(), rule.on_refused),
        ("a", OnRefused::Stop)
    );
    // What a mask hides isn't beside it.
    assert!(!rule.spec.raw && rule.spec.may_drop);
    assert_eq!(rule.spec.masks.len(), 3);
    assert_eq!(rule.spec.constants["branch"], Constant::Number(7));
    assert_eq!(treatment.on_refused(b"/elsewhere"), OnRefused::Stop);
}

#[test]
fn what_a_dba_cant_mean_is_refused_where_it_stands() {
    let rule = |text: &str| format!("[sink.table.t]\nfile = '/srv/a.dat'\n{text}");
    for (text, what) in [
        (
            rule("mask = { id = 'rot13' }"),
            "there is no mask \"rot13\"",
        ),
        (rule("mask = { id = 'hash' }"), "a hash takes a key"),
        (rule("types = { id = 'colour' }"), "is no kind of column"),
        (
            rule("raw = true\nmask = { id = 'last4' }"),
            "set `raw = false`",
        ),
        (
            rule("columns = ['ident']"),
            "there is no field ident; there are id, name",
        ),
        (
            rule("constants = { data = 'x' }"),
            "is the name of a column of Counterfoil's own",
        ),
        (rule("constants = { x = true }"), "a text or a whole number"),
        (rule("copybook = 'no-such.cpy'"), "no-such.cpy"),
        (rule("record = 'x'"), "this says how to read a copybook"),
        (
            "[sink.table.sqlite_x]\nfile = 'x'".to_owned(),
            "can't be the name of a table",
        ),
        (
            "[sink.table.t]\nraw = true".to_owned(),
            "the key `file` is missing",
        ),
        (
            "mode = 'sideways'".to_owned(),
            "known here: mirror, history",
        ),
        (
            "ddl = 'perhaps'".to_owned(),
            "known here: manage, check, none",
        ),
        (
            "on_refused_row = 'shrug'".to_owned(),
            "known here: retry, dead-letter, stop",
        ),
        ("mask_key_file = 'no-such-key'".to_owned(), "no-such-key"),
        ("batch_records_max = 0".to_owned(), "1 to 1000000"),
        ("include = ['']".to_owned(), "an empty path"),
    ] {
        let (line, shown) = problem(&with_sink(&text));
        assert!(shown.contains(what), "{what:?} isn't in:\n{shown}");
        assert!(line > 12, "line {line}:\n{shown}");
    }
}

#[test]
fn what_a_copybook_cant_say_is_said_of_its_items() {
    let (directory, text) = with_copybook(CARDS);
    let said = "record = '*'
blank = 'error'
[[group.file.item]]
name = 'OPENED'
date = 'YYYYMMDD'
blank = 'null'
null_if = [99991231]
invalid = 'null'
[[group.file.item]]
name = 'OTHER'
when = [{ field = 'CARD-NUMBER', between = ['A', 'C'] }, { field = 'CARD-NUMBER', is_not = 'B' }]
";
    let config =
        load_in(&directory, &format!("{text}{said}")).unwrap_or_else(|error| panic!("{error}"));
    let schema = &config.groups[0].files[0].schema.as_ref().unwrap().0;
    assert_eq!(schema.len_max(), 44, "the longest of both");
    let opened = schema
        .columns()
        .iter()
        .find(|it| it.name == "opened")
        .unwrap();
    assert_eq!(opened.absent.values, ["99991231"]);
    assert_eq!(
        opened.absent.blank,
        Some(counterfoil_records::value::Unset::Null)
    );
    let other = schema
        .columns()
        .iter()
        .find(|it| it.name == "other")
        .unwrap();
    assert_eq!(other.when.len(), 2);
    let shown = |said: &str| {
        let (directory, text) = with_copybook(CARDS);
        load_in(&directory, &format!("{text}{said}"))
            .unwrap_err()
            .to_string()
    };
    for (said, why) in [
        (said.replace("is_not", "isnt"), "unknown key `isnt`"),
        (
            said.replace("99991231", "'never'"),
            "\"never\" is no value of",
        ),
        (said.replace("blank = 'error'", "blank = 'zero'"), "zero"),
        (
            said.replace("['A', 'C']", "['A']"),
            "`between` takes two values",
        ),
        (
            said.replace("'CARD-NUMBER', is_not", "'CARD-NO', is_not"),
            "CARD-NO, which isn't a field",
        ),
    ] {
        let shown = shown(&said);
        assert!(shown.contains(why), "{why}: {shown}");
    }
}

#[test]
fn a_key_names_fields_that_are_columns() {
    let (directory, text) = with_copybook(CARDS);
    let base = directory.path().canonicalize().unwrap();
    let text = |kind: &str, key: &str| {
        let database = match kind {
            "sqlite" => "sqlite = { path = 'here.db' }",
            _ => "files = { root = 'copies' }",
        };
        format!(
            "{text}record = 'CARD'\n[[sink]]\nname = 'a'\n{database}\n[sink.table.cards]\nfile = '{}/data/*.dat'\n{key}\n",
            base.display()
        )
    };
    let config = load_in(
        &directory,
        &text("sqlite", "key = ['OPENED', 'card-number']"),
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let path = base.join("data/a.dat");
    let (_, file) = config
        .describe(path.as_os_str().as_encoded_bytes())
        .unwrap();
    let treatment = &config.sinks[0].treatment;
    let described = treatment.describe("hq", &file, None).unwrap();
    assert_eq!(
        described.file.plan.unwrap().shape().key,
        ["opened", "card_number"]
    );
    let refused = load_in(&directory, &text("files", "key = ['OPENED']")).unwrap_err();
    assert!(refused.to_string().contains("makes no index"), "{refused}");
    for (key, why) in [
        ("key = ['NOPE']", "there is no field NOPE"),
        (
            "key = ['STREET']\nexclude_columns = ['STREET']",
            "it is no column",
        ),
        (
            "key = ['STREET']\ntypes = { STREET = 'text' }",
            "more than 600 characters",
        ),
    ] {
        let config = load_in(&directory, &text("sqlite", key)).unwrap();
        let problems = config.sinks[0]
            .treatment
            .describe("hq", &file, None)
            .unwrap_err();
        assert!(problems.join("; ").contains(why), "{problems:?}");
    }
}
