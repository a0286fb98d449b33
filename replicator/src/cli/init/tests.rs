use super::*;
use tempfile::TempDir;

fn args(dir: &Path, output: &Path, force: bool) -> Args {
    Args {
        dir: dir.to_owned(),
        output: Some(output.to_owned()),
        site: Some("hq".to_owned()),
        force,
    }
}

/// Runs `init` and loads what it wrote.
fn init(dir: &Path, output: &Path) -> anyhow::Result<(String, Config)> {
    run(&args(dir, output, false), Path::new("not-used.toml"))?;
    Ok((fs::read_to_string(output)?, Config::load(output)?))
}

fn lines(count: usize) -> String {
    (0..count)
        .map(|number| {
            format!(
                "line {number} of a text, of {} lengths\n",
                "various ".repeat(number % 5)
            )
        })
        .collect()
}

#[test]
fn what_is_written_loads_and_takes_in_the_files() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data \"x\" [1]");
    fs::create_dir(&data).unwrap();
    for name in ["a.log", "b.log", "odd*name.txt"] {
        fs::write(data.join(name), lines(200)).unwrap();
    }
    fs::write(data.join("c.log"), "").unwrap();
    fs::write(data.join(".hidden"), lines(9)).unwrap();
    fs::write(data.join("app.db"), b"SQLite format 3\0 and so on").unwrap();
    let output = directory.path().join("counterfoil.toml");
    let (text, config) = init(&data, &output).unwrap();
    let data = data.canonicalize().unwrap();
    for name in ["a.log", "b.log", "c.log", "odd*name.txt"] {
        assert!(
            config
                .rule_for(data.join(name).as_os_str().as_bytes())
                .is_some(),
            "{name} isn't in:\n{text}"
        );
    }
    for name in [".hidden", "app.db", "odd-name.txt"] {
        assert!(
            config
                .rule_for(data.join(name).as_os_str().as_bytes())
                .is_none(),
            "{name} is in:\n{text}"
        );
    }
    assert_eq!(config.groups[0].files.len(), 2, "{text}");
    assert!(
        text.contains("3 files alike: a.log, b.log, c.log"),
        "{text}"
    );
    assert!(text.contains("(1 of them empty so far)"), "{text}");
    assert!(text.contains("app.db: a SQLite database"), "{text}");
    assert!(text.contains("# note: 1 hidden"), "{text}");
}

#[test]
fn names_that_are_not_utf8_or_hold_line_breaks_are_matched_all_the_same() {
    use std::os::unix::ffi::OsStrExt;
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let names: [&[u8]; 3] = [b"caf\xe9", b"two\nlines\x1b", b"q\"uo\\te"];
    for name in names {
        fs::write(data.join(std::ffi::OsStr::from_bytes(name)), lines(200)).unwrap();
    }
    let output = directory.path().join("c.toml");
    let (text, config) = init(&data, &output).unwrap();
    for name in names {
        let path = data
            .canonicalize()
            .unwrap()
            .join(std::ffi::OsStr::from_bytes(name));
        assert!(
            config.rule_for(path.as_os_str().as_bytes()).is_some(),
            "{path:?} isn't in:\n{text}"
        );
    }
}

#[test]
fn a_configuration_is_replaced_only_when_asked() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("a.log"), lines(200)).unwrap();
    let output = directory.path().join("counterfoil.toml");
    fs::write(&output, "precious").unwrap();
    let error = init(&data, &output).unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "precious");
    run(&args(&data, &output, true), Path::new("not-used.toml")).unwrap();
    Config::load(&output).unwrap();
    // Nothing is left lying about.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn without_files_nothing_is_written_and_the_reason_is_said() {
    let directory = TempDir::new().unwrap();
    let output = directory.path().join("counterfoil.toml");
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let shown = |dir: &Path| format!("{:#}", init(dir, &output).unwrap_err());
    assert!(shown(&empty).contains("no file to mirror was found"));
    assert!(shown(&directory.path().join("missing")).contains("is the name right?"));
    fs::write(empty.join("x"), "").unwrap();
    assert!(shown(&empty).contains("no file to mirror was found"));
    assert!(shown(&empty.join("x")).contains("isn't a directory"));
    assert!(!output.exists());
}

#[test]
fn files_nobody_can_be_sure_of_still_give_a_configuration_that_loads() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("x"), [1, 2, 3]).unwrap();
    let (text, config) = init(&data, &directory.path().join("c.toml")).unwrap();
    assert_eq!(config.groups[0].files.len(), 1, "{text}");
}

#[test]
fn a_replicators_own_state_is_passed_over() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    for name in ["counterfoil-state", "elsewhere/journal", "elsewhere/lanes"] {
        fs::create_dir_all(data.join(name)).unwrap();
        fs::write(data.join(name).join("a.log"), lines(200)).unwrap();
    }
    fs::write(data.join("b.log"), lines(200)).unwrap();
    let (text, config) = init(data, &data.join("counterfoil.toml")).unwrap();
    assert_eq!(config.groups[0].files.len(), 1, "{text}");
    assert!(!text.contains("a.log"), "{text}");
}

#[test]
fn a_host_name_makes_a_usable_site_name() {
    let name = site_name();
    assert!(
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    );
}

fn sample_of_cards(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("records/tests/data/carddemo")
        .join(name)
}

/// Data, and its copybook in one of the places where copybooks lie.
#[test]
fn a_copybook_beside_the_data_is_used() {
    for (place, name, data, dialect) in [
        ("data", "acctdata.CPY", "ebcdic/acctdata.dat", Some("ibm")),
        ("data/copybooks", "acctdata.cpy", "ascii/acctdata.txt", None),
        ("Copy", "CUSTDATA.cbl", "ebcdic/custdata.dat", Some("ibm")),
        ("data", "custdata.cob", "ascii/custdata.txt", None),
    ] {
        let directory = TempDir::new().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("data")).unwrap();
        fs::create_dir_all(root.join(place)).unwrap();
        let file = root.join("data").join(Path::new(data).file_name().unwrap());
        fs::copy(sample_of_cards(data), &file).unwrap();
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let copybook = root.join(place).join(name);
        fs::copy(sample_of_cards(&format!("copybooks/{stem}.cpy")), &copybook).unwrap();
        let output = root.join("counterfoil.toml");
        let (text, config) = init(&root.join("data"), &output).unwrap();
        let rule = config.rule(file.as_os_str().as_bytes()).expect("a rule");
        let schema = rule
            .schema
            .as_ref()
            .unwrap_or_else(|| panic!("no copybook in\n{text}"));
        assert!(text.contains("all fields can be decoded"), "{text}");
        assert!(text.contains(copybook.to_str().unwrap()), "{text}");
        match dialect {
            Some(dialect) => assert!(text.contains(&format!("dialect = \"{dialect}\"")), "{text}"),
            None => assert!(!text.contains("dialect"), "{text}"),
        }
        if data.starts_with("ebcdic") {
            assert_eq!(
                rule.format.record_size,
                Some(schema.0.len_max().into()),
                "{text}"
            );
            assert!(!text.contains("\nrecord_size"), "{text}");
        }
        assert!(
            config.rule(copybook.as_os_str().as_bytes()).is_none(),
            "{text}"
        );
    }
}

/// A copybook that isn't one, or not of this file, is a remark.
#[test]
fn a_copybook_that_doesn_t_fit_is_a_comment() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let sample = fs::read(sample_of_cards("ebcdic/acctdata.dat")).unwrap();
    for name in ["broken.dat", "size.dat", "other.dat"] {
        fs::write(data.join(name), &sample).unwrap();
    }
    fs::write(
        data.join("broken.cpy"),
        "       01 REC.\n          05 A PIC Q(8).\n",
    )
    .unwrap();
    fs::write(
        data.join("size.cpy"),
        "       01 REC.\n          05 A PIC X(7001).\n",
    )
    .unwrap();
    let numbers = "       01 REC.\n          05 A PIC S9(9) COMP-3 OCCURS 60.\n";
    fs::write(data.join("other.cpy"), numbers).unwrap();
    let output = directory.path().join("counterfoil.toml");
    let (text, config) = init(&data, &output).unwrap();
    for (name, why) in [
        ("broken", "'Q' isn't a symbol"),
        ("size", "its records have 7001 bytes"),
        ("other", "can't be decoded"),
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("{name}.cpy has its name")));
        assert!(
            line.is_some_and(|line| line.contains(why)),
            "{name}: {text}"
        );
    }
    let schemas = config.groups[0]
        .files
        .iter()
        .filter(|rule| rule.schema.is_some());
    assert_eq!(schemas.count(), 0, "{text}");
}
