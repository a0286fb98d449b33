//! `counterfoil decode` and `encode`, as people type them, on the sample files of a card system.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("records/tests/data/carddemo")
        .join(name)
}

fn counterfoil(arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_counterfoil"))
        .args(arguments)
        // No configuration is there.
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("counterfoil starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.unwrap_or_default().to_vec();
    let writer = std::thread::spawn(move || {
        // A program that has read enough may be gone.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("counterfoil ends");
    writer.join().expect("the writer ends");
    output
}

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn path(name: &str) -> String {
    sample(name).display().to_string()
}

#[test]
fn decode_and_encode_are_inverse() {
    for name in ["acctdata", "carddata", "cardxref", "custdata", "dailytran"] {
        let copybook = path(&format!("copybooks/{name}.cpy"));
        for (file, page, layout) in [
            (format!("ebcdic/{name}.dat"), "037", "plain"),
            (format!("ascii/{name}.txt"), "ascii", "line-sequential"),
        ] {
            let form = ["-b", &copybook, "-d", "ibm", "-p", page];
            let file = path(&file);
            let decode = [&["decode"], &form[..], &["--json", "--strict", &file]].concat();
            let lines = text(&counterfoil(&decode, None));
            let encode = [&["encode"], &form[..], &["-l", layout]].concat();
            let output = counterfoil(&encode, Some(lines.as_bytes()));
            text_is_fine(&output);
            let was = std::fs::read(&file).expect("the sample");
            assert!(output.stdout == was, "{file} comes back");
        }
    }
}

fn text_is_fine(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
}

#[test]
fn what_is_asked_for_is_shown() {
    let (copybook, file) = (path("copybooks/acctdata.cpy"), path("ebcdic/acctdata.dat"));
    let form = ["decode", "-b", &copybook, "-p", "037", &file];
    let shown = |more: &[&str]| text(&counterfoil(&[&form[..], more].concat(), None));
    assert_eq!(
        shown(&[
            "--where",
            "acct-curr-bal>=605.00",
            "--fields",
            "acct-id,acct_curr_bal",
            "--limit",
            "2"
        ]),
        "record_number  acct_id  acct_curr_bal\n\
         -------------  -------  -------------\n            \
         8        8         605.00\n           \
         16       16         733.00\n"
    );
    assert_eq!(
        shown(&["--record", "8", "--fields", "acct-open-date", "--csv"]),
        "record_number,acct_open_date\r\n8,2012-01-04\r\n"
    );
    let dates = shown(&[
        "--date",
        "acct-open-date=YYYY-MM-DD",
        "--where",
        "acct-open-date<2011-01-01",
        "--csv",
    ]);
    assert!(dates.lines().count() > 1, "{dates}");
    assert!(shown(&["-r", "1", "-x"]).contains("acct_curr_bal           194.00\n"));
}

#[test]
fn what_is_wrong_is_explained() {
    let (copybook, file) = (path("copybooks/acctdata.cpy"), path("ebcdic/acctdata.dat"));
    let output = counterfoil(
        &["decode", "-b", &copybook, "--strict", "--limit", "1", &file],
        None,
    );
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    for part in [
        "record_number 1: acct_id, at offset 0 (hex f0f0f0f0f0f0f0f0f0f0f1): byte 0 of the field is F0, which is no digit",
        "6 fields of 1 record couldn't be decoded",
        "try --code-page 037",
    ] {
        assert!(error.contains(part), "{part:?} isn't in {error}");
    }
    let piped = counterfoil(&["decode", "-b", &copybook], Some(b"x"));
    assert_eq!(piped.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("--layout plain"));
    let field = counterfoil(
        &["decode", "-b", &copybook, &file, "--fields", "acct-idx"],
        None,
    );
    assert!(String::from_utf8_lossy(&field.stderr).contains("there is no field \"acct-idx\""));
    let line = counterfoil(
        &["encode", "-b", &copybook, "-l", "plain"],
        Some(b"{\"acct_id\": 123456789012}\n"),
    );
    let error = String::from_utf8_lossy(&line.stderr).into_owned();
    assert!(
        error.contains("line 1: acct_id: the number has more digits than the field"),
        "{error}"
    );
}

#[test]
fn slots_that_hold_no_record_are_shown_and_come_back() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let copybook = dir.join("slot.cpy");
    std::fs::write(
        &copybook,
        "       01 REC.\n          05 NAME PIC X(4).\n          05 N PIC 9(2).\n",
    )
    .expect("the copybook is written");
    let copybook = copybook.display().to_string();
    let mut file = Vec::new();
    for (len, data) in [
        (6_u64, b"ANNA07"),
        (0, b"GONE09"),
        (0, b"\0\0\0\0\0\0"),
        (6, b"BERT??"),
        (4, b"CARL  "),
    ] {
        file.extend_from_slice(&len.to_le_bytes());
        file.extend_from_slice(data);
    }
    file.extend_from_slice(b"tail");
    let form = ["-b", &copybook, "-l", "gnucobol", "-o", "relative"];
    let decode = [&["decode"], &form[..], &["--json", "--all"]].concat();
    let output = counterfoil(&decode, Some(&file));
    let lines = text(&output);
    assert_eq!(
        lines,
        "{\"_record\":1,\"name\":\"ANNA\",\"n\":7}\n\
         {\"_record\":2,\"_residue\":\"0000000000000000474f4e453039\",\"_reason\":\"deleted slot\"}\n\
         {\"_record\":3,\"_empty\":14}\n\
         {\"_record\":4,\"name\":\"BERT\",\"n\":null,\"_errors\":{\"n\":{\"offset\":4,\"raw\":\"3f3f\",\"reason\":\
         \"byte 0 of the field is 3F, which is no digit\"}},\"_raw\":\"424552543f3f\"}\n\
         {\"_record\":5,\"name\":\"CARL\",\"n\":null,\"_errors\":{\"n\":{\"offset\":4,\"raw\":\"\",\"reason\":\
         \"the record ends before this field does\"}},\"_raw\":\"4341524c\",\"_rest\":\"2020\"}\n\
         {\"_record\":6,\"_residue\":\"7461696c\",\"_reason\":\"partial slot at the end\"}\n"
    );
    let encode = [&["encode"], &form[..]].concat();
    let output = counterfoil(&encode, Some(lines.as_bytes()));
    text_is_fine(&output);
    assert_eq!(output.stdout, file);
    // A field of the record that was kept with its bytes is changed, and nothing else.
    let changed = lines.replace("\"BERT\"", "\"BEN\"");
    let output = counterfoil(&encode, Some(changed.as_bytes()));
    let at = 3 * 14 + 8;
    assert_eq!(&output.stdout[at..at + 6], b"BEN ??");
    assert_eq!(output.stdout[..at], file[..at]);
}

#[test]
fn a_reader_that_has_enough_ends_it() {
    let (copybook, file) = (
        path("copybooks/dailytran.cpy"),
        path("ebcdic/dailytran.dat"),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_counterfoil"))
        .args(["decode", "-b", &copybook, "-p", "037", "--json", &file])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("counterfoil starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "it ends quietly"
    );
}

/// A file of headers, orders with a counted table, and trailers.
const PARTY: &str = "
       01 HEADER-REC.
          05 KIND PIC X.
             88 IS-HEADER VALUE 'H'.
          05 RUN-DAY PIC 9(6).
       01 ORDER-REC.
          05 KIND PIC X.
             88 IS-ORDER VALUE 'A' THRU 'C'.
          05 HOW-MANY PIC 9.
          05 ORDER-LINE OCCURS 1 TO 2 TIMES DEPENDING ON HOW-MANY.
             10 AMOUNT PIC 9(2).
";

#[test]
fn records_of_several_kinds_are_told_apart() {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("party-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let copybook = directory.join("party.cpy");
    std::fs::write(&copybook, PARTY).expect("the copybook");
    let copybook = copybook.display().to_string();
    let form = [
        "-b",
        &copybook,
        "-l",
        "plain",
        "--record-name",
        "*",
        "--when",
        "HEADER-REC:IS-HEADER",
        "--when",
        "ORDER-REC:IS-ORDER",
        "--date",
        "RUN-DAY=YYMMDD from 1940",
        "--null-if",
        "RUN-DAY=999999",
    ];
    let file = [&b"H391231"[..], b"B20507 ", b"H999999", b"C199   "].concat();
    let decode = [&["decode"], &form[..], &["--json", "--strict"]].concat();
    let lines = text(&counterfoil(&decode, Some(&file)));
    let shown: Vec<&str> = lines.lines().collect();
    assert!(
        shown[0].contains("\"run_day\":\"2039-12-31\"") && shown[0].contains("\"order_line\":[]"),
        "{lines}"
    );
    assert!(
        shown[1].contains("{\"amount\":5},{\"amount\":7}") && shown[1].contains("\"run_day\":null"),
        "{lines}"
    );
    assert!(
        shown[2].contains("\"run_day\":null") && !lines.contains("_errors"),
        "{lines}"
    );
    let encode = [&["encode"], &form[..]].concat();
    let output = counterfoil(&encode, Some(lines.as_bytes()));
    text_is_fine(&output);
    assert_eq!(output.stdout, file);
    // A value for what this record doesn't have.
    let wrong = shown[1].replace("\"run_day\":null", "\"run_day\":\"2026-01-31\"");
    let output = counterfoil(&encode, Some(wrong.as_bytes()));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("line 1") && error.contains("run_day has a value, but by its `when`"),
        "{error}"
    );

    let columns = [
        &["decode"],
        &form[..],
        &["--as-columns", "ORDER-LINE", "--csv", "--fields", "amount"],
    ]
    .concat();
    assert_eq!(
        text(&counterfoil(&columns, Some(&file))),
        "record_number,amount_1,amount_2\r\n1,,\r\n2,5,7\r\n3,,\r\n4,99,\r\n"
    );
    std::fs::remove_dir_all(&directory).expect("the directory goes");
}

#[test]
fn blank_fields_are_what_is_asked_for() {
    let (copybook, file) = (path("copybooks/acctdata.cpy"), path("ebcdic/acctdata.dat"));
    let mut bytes = std::fs::read(file).expect("the sample")[..300].to_vec();
    bytes[0..11].fill(0x40);
    let form = [
        "decode",
        "-b",
        &copybook,
        "-p",
        "037",
        "-l",
        "plain",
        "--csv",
        "--fields",
        "acct-id,acct-curr-bal",
    ];
    let output = counterfoil(&form, Some(&bytes));
    assert_eq!(
        text(&output),
        "record_number,acct_id,acct_curr_bal\r\n1,,194.00\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let output = counterfoil(
        &[&form[..], &["--blank", "error", "--strict"]].concat(),
        Some(&bytes),
    );
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("acct_id, at offset 0") && error.contains("blank"),
        "{error}"
    );
}

#[test]
fn the_copybook_beside_a_file_is_found() {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("beside-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("copybooks")).expect("a directory");
    let file = directory.join("names.dat");
    std::fs::write(&file, "ANNA01BERT02").expect("the file");
    // Named as seen from the directory of the tests.
    let file = file
        .strip_prefix(env!("CARGO_TARGET_TMPDIR"))
        .expect("it lies there");
    let file = file.display().to_string();
    let output = counterfoil(&["decode", &file], None);
    assert_eq!(output.status.code(), Some(2));
    let copybook = directory.join("copybooks/NAMES.CPY");
    std::fs::write(
        &copybook,
        "       01 R.\n          05 NAME PIC X(4).\n          05 N PIC 99.\n",
    )
    .expect("the copybook");
    let output = counterfoil(&["decode", &file, "--csv"], None);
    assert!(text(&output).contains("ANNA,1\r\n"));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("NAMES.CPY, which lies beside it"), "{told}");
    std::fs::remove_dir_all(&directory).expect("the directory goes");
}
