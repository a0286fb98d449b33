use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A site with one rule for `data/*`, of the given format.
struct Fixture {
    directory: TempDir,
    config: PathBuf,
}

impl Fixture {
    fn new(format: &str) -> Fixture {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let config = directory.path().join("counterfoil.toml");
        let fixture = Fixture { directory, config };
        fixture.rule(&format!("path = \"data/*\"\n{format}"));
        fixture
    }

    fn rule(&self, rule: &str) {
        let text = format!(
            "[site]\nname = \"hq\"\nstate = \"state\"\n[[group]]\nname = \"g\"\n[[group.file]]\n{rule}\n"
        );
        fs::write(&self.config, text).unwrap();
    }

    fn file(&self, name: &str, content: &[u8]) {
        fs::write(self.directory.path().join(name), content).unwrap();
    }

    fn check(&self) -> Vec<Finding> {
        check(&self.config, Ok("/lib/libcounterfoil.so".into()))
    }

    /// The worst finding of a check.
    fn worst(&self, check: &str) -> Finding {
        let findings = self.check();
        let worst = findings
            .iter()
            .filter(|finding| finding.check == check)
            .max_by_key(|f| f.level);
        worst
            .unwrap_or_else(|| panic!("no finding about {check} in {findings:#?}"))
            .clone()
    }
}

const FIXED: &str = "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 10";
const TEXT: &str = "organization = \"stream\"\nlayout = \"newline\"";
const RELATIVE: &str = "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = 4";

#[test]
fn a_fit_site_has_no_errors() {
    let fixture = Fixture::new(FIXED);
    fixture.file("data/a", &[b'x'; 30]);
    let findings = fixture.check();
    assert_eq!(count(&findings, Level::Error), 0, "{}", text(&findings));
    let rule = fixture.worst("rule");
    assert!(
        rule.level == Level::Ok && rule.message.contains("1 file, 30 bytes"),
        "{rule:?}"
    );
}

#[test]
fn a_configuration_that_cannot_be_used_is_the_only_finding() {
    let fixture = Fixture::new("organisation = \"fixed\"");
    let findings = fixture.check();
    assert_eq!(findings.len(), 1);
    assert!(
        findings[0].message.contains("did you mean `organization`"),
        "{}",
        text(&findings)
    );
    let exit = exit_code(&findings);
    assert_eq!(format!("{exit:?}"), format!("{:?}", ExitCode::from(1)));
}

#[test]
fn a_record_size_that_does_not_divide_the_file_is_an_error_with_the_numbers() {
    let fixture = Fixture::new(FIXED);
    fixture.file("data/a", &[b'x'; 33]);
    let finding = fixture.worst("file");
    assert_eq!(finding.level, Level::Error);
    assert!(finding.subject.ends_with("data/a"));
    assert!(
        finding.message.contains("33 bytes")
            && finding.message.contains("of 10 bytes")
            && finding.message.contains(": 3 are"),
        "{finding:?}"
    );
    // Once, and not again as residue.
    assert_eq!(
        fixture
            .check()
            .iter()
            .filter(|finding| finding.check == "file")
            .count(),
        1
    );
}

#[test]
fn residue_is_a_warning_with_its_offset_also_at_the_end_of_a_large_file() {
    let fixture = Fixture::new(TEXT);
    fixture.file("data/a", b"one\ntwo");
    let finding = fixture.worst("file");
    assert!(
        finding.level == Level::Warning && finding.message.contains("offset 4:"),
        "{finding:?}"
    );
    let mut large = b"a line\n".repeat(300_000);
    large.extend_from_slice(b"tail");
    fixture.file("data/a", &large);
    let finding = fixture.worst("file");
    assert!(finding.message.contains("offset 2100000:"), "{finding:?}");
}

#[test]
fn a_deleted_slot_is_nothing_to_warn_of_but_a_senseless_length_is() {
    let fixture = Fixture::new(RELATIVE);
    let slot = |length: u64, data: &[u8; 4]| [length.to_le_bytes().as_slice(), data].concat();
    fixture.file(
        "data/a",
        &[slot(4, b"abcd"), slot(0, b"gone"), slot(2, b"ab  ")].concat(),
    );
    let findings = fixture.check();
    assert!(
        !findings.iter().any(|finding| finding.check == "file"),
        "{}",
        text(&findings)
    );
    fixture.file("data/a", &[slot(4, b"abcd"), slot(5, b"abcd")].concat());
    let finding = fixture.worst("file");
    assert!(finding.message.contains("offset 12:"), "{finding:?}");
}

#[test]
fn rules_without_files_say_why() {
    let fixture = Fixture::new(TEXT);
    assert!(fixture.worst("rule").message.contains("no file matches"));
    fixture.rule(&format!("path = \"missing/x\"\n{TEXT}"));
    assert!(fixture.worst("rule").message.contains("missing"));
    fixture.rule(&format!("path = \"data\"\n{TEXT}"));
    let finding = fixture.worst("rule");
    assert!(
        finding.level == Level::Error && finding.message.contains("is a directory"),
        "{finding:?}"
    );
    fixture.file("data/a", b"");
    fixture.rule(&format!(
        "path = \"data/*\"\n{TEXT}\n[[group.file]]\npath = \"data/a\"\n{TEXT}"
    ));
    let finding = fixture.worst("rule");
    assert!(
        finding
            .message
            .contains("the rule on line 7 takes this file first"),
        "{finding:?}"
    );
}

#[test]
fn symbolic_links_are_pointed_out_with_the_real_path() {
    let fixture = Fixture::new(TEXT);
    let base = fixture.directory.path().canonicalize().unwrap();
    fixture.file("data/a", b"");
    std::os::unix::fs::symlink(base.join("data"), base.join("link")).unwrap();
    fixture.rule(&format!("path = \"link/*\"\n{TEXT}"));
    let finding = fixture.worst("rule");
    assert!(
        finding.level == Level::Warning && finding.message.contains("symbolic link to"),
        "{finding:?}"
    );
    std::os::unix::fs::symlink(base.join("data/a"), base.join("b")).unwrap();
    fixture.rule(&format!("path = \"b\"\n{TEXT}"));
    let finding = fixture.worst("rule");
    assert_eq!(finding.level, Level::Error);
    assert!(
        finding
            .help
            .unwrap()
            .contains(&format!("write {}", base.join("data/a").display()))
    );
}

#[test]
fn a_state_directory_is_to_be_private_and_a_directory() {
    let fixture = Fixture::new(TEXT);
    assert!(
        fixture.worst("state").message.contains("will be made")
            || fixture.worst("state").level == Level::Warning
    );
    let state = fixture.directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let findings = fixture.check();
    assert!(
        findings
            .iter()
            .any(|finding| finding.message.contains("mode 0755")),
        "{}",
        text(&findings)
    );
    fs::remove_dir(&state).unwrap();
    fs::write(&state, "").unwrap();
    let finding = fixture.worst("state");
    assert!(
        finding.level == Level::Error && finding.message == "isn't a directory",
        "{finding:?}"
    );
}

#[test]
fn a_running_replicator_is_seen_by_its_lock() {
    let fixture = Fixture::new(TEXT);
    assert!(
        fixture
            .worst("replicator")
            .message
            .contains("never was here")
    );
    fs::create_dir(fixture.directory.path().join("state")).unwrap();
    fixture.file("state/lock", b"");
    assert_eq!(fixture.worst("replicator").message, "not running");
    let lock = fs::File::open(fixture.directory.path().join("state/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(fixture.worst("replicator").message, "running");
}

#[test]
fn a_journal_is_read_a_little() {
    use counterfoil_journal::{DiskStorage, Journal, Options};
    let fixture = Fixture::new(TEXT);
    let path = fixture.directory.path().join("state/journal");
    let storage = std::sync::Arc::new(DiskStorage::open(&path).unwrap());
    let (mut journal, _) = Journal::open(storage, Options::default()).unwrap();
    assert_eq!(fixture.worst("journal").level, Level::Ok);
    journal.begin_epoch(1).unwrap();
    journal.append([b"x"]).unwrap();
    journal.close().unwrap();
    assert!(
        fixture
            .worst("journal")
            .message
            .contains("oldest entry is 1:1"),
        "{:?}",
        fixture.worst("journal")
    );
    for file in fs::read_dir(&path).unwrap() {
        let file = file.unwrap().path();
        let len = fs::metadata(&file).unwrap().len() as usize;
        fs::write(file, vec![0xee; len]).unwrap();
    }
    assert_eq!(fixture.worst("journal").level, Level::Error);
}

#[test]
fn sinks_are_opened_without_being_made() {
    let fixture = Fixture::new(TEXT);
    let finding = fixture.worst("sink");
    assert!(
        finding.level == Level::Ok && !fixture.directory.path().join("state").exists(),
        "{finding:?}"
    );
    let with_sink = |path: &str| {
        fixture.rule(&format!(
            "path = \"data/*\"\n{TEXT}\n[[sink]]\nname = \"s\"\nsqlite = {{ path = \"{path}\" }}"
        ));
        fixture.worst("sink")
    };
    assert_eq!(with_sink("new.db").level, Level::Ok);
    assert!(!fixture.directory.path().join("new.db").exists());
    assert!(
        with_sink("missing/new.db")
            .help
            .unwrap()
            .starts_with("mkdir -p")
    );
    fixture.file("other.db", &[b'x'; 4096]);
    let finding = with_sink("other.db");
    assert_eq!(finding.level, Level::Error, "{finding:?}");
}

#[test]
fn a_missing_interposer_is_an_error() {
    let fixture = Fixture::new(TEXT);
    let findings = check(
        &fixture.config,
        Err(anyhow::anyhow!("not beside the binary")),
    );
    assert!(
        findings
            .iter()
            .any(|f| f.check == "interposer" && f.level == Level::Error)
    );
}

#[test]
fn json_has_the_sums_and_every_finding() {
    let findings = [
        Finding::ok("rule", "a", "fine"),
        Finding::warning("file", "b\u{1b}", "odd", "do"),
        Finding::error("sink", "c", "bad", "do"),
    ];
    let report: serde_json::Value =
        serde_json::from_str(&json(Path::new("c.toml"), &findings).unwrap()).unwrap();
    assert_eq!(
        (&report["errors"], &report["warnings"]),
        (&1.into(), &1.into())
    );
    assert_eq!(report["findings"][1]["level"], "warning");
    assert_eq!(report["findings"][0].get("help"), None);
    assert!(!text(&findings).contains('\u{1b}'));
}

#[test]
fn a_program_that_writes_without_the_interposer_is_named() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let fixture = Fixture::new(TEXT);
    assert_eq!(fixture.worst("coverage").level, Level::Ok);
    let path = fixture
        .directory
        .path()
        .canonicalize()
        .unwrap()
        .join("data/a");
    let mut program = Command::new("sh")
        .args(["-c", "exec 3>>\"$1\"; echo open; read end", "sh"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let finding = fixture.worst("coverage");
    drop(program.stdin.take());
    program.wait().unwrap();
    assert_eq!((finding.level, line.as_str()), (Level::Warning, "open\n"));
    assert!(
        finding
            .subject
            .contains(&format!("process {}", program.id())),
        "{finding:?}"
    );
    assert!(
        finding.message.contains(&path.display().to_string()),
        "{finding:?}"
    );
}

#[test]
fn a_lane_of_a_version_nobody_here_knows_is_an_error() {
    let fixture = Fixture::new(TEXT);
    fs::create_dir_all(fixture.directory.path().join("state/lanes")).unwrap();
    let mut segment = vec![0; 8192];
    segment[..8].copy_from_slice(&counterfoil_lane::segment::MAGIC.to_le_bytes());
    segment[8..12].copy_from_slice(&99u32.to_le_bytes());
    fixture.file("state/lanes/1.0.0.lane", &segment);
    let finding = fixture.worst("coverage");
    assert_eq!(finding.level, Level::Error);
    assert!(finding.message.contains("layout 99"), "{finding:?}");
    assert!(finding.help.is_some());
}

#[test]
fn what_dbas_want_is_held_against_the_files_there_are() {
    let fixture = Fixture::new(FIXED);
    fixture.file("data/a.dat", b"0123456789");
    let tables = |text: &str| {
        fixture.rule(&format!(
            "path = \"data/*\"\n{FIXED}\nfield = [{{ name = \"id\", type = \"zoned(10)\" }}]\n\
             [[sink]]\nname = \"dr\"\nsqlite = {{ path = \"dr.db\" }}\n{text}"
        ));
        fixture.worst("table")
    };
    let good = tables("[sink.table.a]\nfile = \"data/a.dat\"\nmask = { id = \"last4\" }");
    assert_eq!(good.level, Level::Ok, "{good:?}");
    assert!(good.message.ends_with("a row for each record, 1 column, no raw image, so it can't be restored or verified from there"), "{good:?}");
    let none = tables("[sink.table.a]\nfile = \"data/b.dat\"");
    assert_eq!(none.level, Level::Warning, "{none:?}");
    let left_out = tables("exclude = [\"data/a*\"]\n[sink.table.a]\nfile = \"data/*\"");
    assert!(
        left_out.message.contains("isn't among the sink's files"),
        "{left_out:?}"
    );
    let wrong = tables("[sink.table.a]\nfile = \"data/*\"\ncolumns = [\"ident\"]");
    assert_eq!(wrong.level, Level::Error, "{wrong:?}");
    assert!(
        wrong.message.contains("there is no field ident"),
        "{wrong:?}"
    );
}
