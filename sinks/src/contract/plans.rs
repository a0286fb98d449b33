//! The cases of the contract that are about files with a plan: columns, their evolution, histories, refused rows.
//!
//! What a row has to hold is what the plan says of the record ([`Plan::cells`]); beside that a case says itself what some
//! rows hold, so that the plan is tested too.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges to clear often has one"
)]

use super::Harness;
use super::trial::{STREAM, Trial, changes, file, record, residue};
use crate::plan::{
    CellRoom, ColumnKind, Constant, Mask, MaskKey, Mode, Origin, Plan, PlanSpec, UNDECODED,
};
use crate::{
    Batch, FileChanges, FileDescription, FileFate, FileSchema, Image, Logged, LoggedChange,
    SinkError,
};
use counterfoil_proto::Position;
use counterfoil_records::schema::{Dialect, RecordSchema};
use counterfoil_records::value::{Number, Time, Timestamp, Value};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// A row as text.
type Cells = Vec<Option<String>>;

/// The identity of [`file`]'s records.
const IDENTITY: &str = "record_number";

/// A file of records with these fields (name and type), and what becomes of it.
pub fn planned(path: &str, fields: &[(&str, &str)], spec: &PlanSpec) -> Arc<FileDescription> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, kind)| {
            let field = serde_json::json!({ "name": name, "type": kind });
            serde_json::from_value(field).expect("a field")
        })
        .collect();
    let schema = RecordSchema::of_fields("record", &fields, &Dialect::default());
    let schema = FileSchema(Arc::new(schema.expect("a schema")));
    let description = file(path);
    let origin = Origin {
        site: "hq",
        group: "payments",
        path,
    };
    let plan = Plan::new(spec, Some(&schema), &description.format, origin).expect("a plan");
    Arc::new(FileDescription {
        plan: Some(Arc::new(plan)),
        ..(*description).clone()
    })
}

/// Customers: 18 bytes each.
const CUSTOMER: &[(&str, &str)] = &[
    ("id", "zoned(4)"),
    ("name", "text(6) utf-8"),
    ("note", "text(8) utf-8"),
];

fn customer(id: u32, name: &str, note: &str) -> Vec<u8> {
    format!("{id:04}{name:<6}{note:<8}").into_bytes()
}

fn map<T>(pairs: impl IntoIterator<Item = (&'static str, T)>) -> BTreeMap<String, T> {
    let pairs = pairs.into_iter();
    pairs.map(|(name, of)| (name.to_owned(), of)).collect()
}

fn kind(text: &str) -> ColumnKind {
    text.parse().expect("a kind of column")
}

fn plan_of(file: &FileDescription) -> &Plan {
    file.plan.as_deref().expect("the file has a plan")
}

/// A value's text as all databases would write it.
fn plain(kind: ColumnKind, text: &str) -> String {
    match kind {
        ColumnKind::SmallInt
        | ColumnKind::Integer
        | ColumnKind::BigInt
        | ColumnKind::Decimal { .. } => {
            let number: Number = text.parse().unwrap_or_else(|_| panic!("no number: {text}"));
            let text = number.to_string();
            match text.split_once('.') {
                Some((whole, decimals)) if decimals.bytes().all(|digit| digit == b'0') => {
                    whole.to_owned()
                }
                Some(_) => text.trim_end_matches('0').to_owned(),
                None => text,
            }
        }
        ColumnKind::Real => {
            let number: f64 = text.parse().unwrap_or_else(|_| panic!("no number: {text}"));
            #[expect(clippy::cast_possible_truncation, reason = "it was one of 32 bits")]
            let number = number as f32;
            format!("{number:e}")
        }
        ColumnKind::Double => {
            let number: f64 = text.parse().unwrap_or_else(|_| panic!("no number: {text}"));
            format!("{number:e}")
        }
        ColumnKind::Bytes { .. } => {
            let text = text.strip_prefix("\\x").unwrap_or(text);
            text.strip_prefix("0x").unwrap_or(text).to_lowercase()
        }
        ColumnKind::Time { .. } => {
            let time: Time = text.parse().unwrap_or_else(|_| panic!("no time: {text}"));
            time.to_string()
        }
        ColumnKind::Timestamp { .. } => {
            let time: Timestamp = text
                .replace(' ', "T")
                .parse()
                .unwrap_or_else(|_| panic!("no time: {text}"));
            time.to_string()
        }
        ColumnKind::Text { .. } | ColumnKind::Date => text.to_owned(),
    }
}

/// What a record's columns hold by the plan, [`UNDECODED`] behind them.
fn cells(plan: &Plan, data: &[u8]) -> Cells {
    let mut found = Cells::new();
    let mut kinds = plan.columns().iter();
    let problem = plan.cells(data, false, &mut CellRoom::default(), &mut |value| {
        let kind = kinds.next().expect("no more values than columns").kind;
        found.push(match value {
            Value::Null => None,
            value => Some(plain(kind, &value.to_string())),
        });
    });
    if plan.shape().decoded {
        found.push(problem);
    }
    found
}

/// What a file's table holds: for each row these columns, and then those of its plan, [`UNDECODED`] at last; in order of
/// the first. `None`: nothing can be seen of it.
fn table(trial: &mut Trial<'_>, file: &FileDescription, own: &[&str]) -> Option<Vec<Cells>> {
    let stored = trial.stored(&file.path).expect("the target has the file");
    let plan = plan_of(file);
    let filled = &stored.shape.columns;
    assert_eq!(
        filled
            .iter()
            .map(|c| c.name.to_lowercase())
            .collect::<Vec<_>>(),
        plan.columns()
            .iter()
            .map(|c| c.name.to_lowercase())
            .collect::<Vec<_>>(),
        "columns of {}",
        stored.table
    );
    rows_of(trial, &stored.table, file, own)
}

/// The same of a table with this name.
fn rows_of(
    trial: &mut Trial<'_>,
    table: &str,
    file: &FileDescription,
    own: &[&str],
) -> Option<Vec<Cells>> {
    let plan = plan_of(file);
    let mut names = own.to_vec();
    names.extend(plan.columns().iter().map(|column| column.name.as_str()));
    if plan.shape().decoded {
        names.push(UNDECODED);
    }
    let mut rows = trial.harness().rows(table, &names)?;
    for row in &mut rows {
        assert_eq!(row.len(), names.len(), "values of {table}");
        for (value, column) in row[own.len()..].iter_mut().zip(plan.columns()) {
            if let Some(value) = value {
                *value = plain(column.kind, value);
            }
        }
    }
    rows.sort_by_key(|row| {
        let numbers = row[..own.len()].iter().map(|value| {
            let value = value.as_deref().unwrap_or_default();
            value.parse::<u64>().unwrap_or_default()
        });
        numbers.collect::<Vec<_>>()
    });
    Some(rows)
}

/// The rows of a mirror hold what the plan says of these records, and there are no others.
fn check<D: AsRef<[u8]> + Debug>(
    trial: &mut Trial<'_>,
    file: &FileDescription,
    records: impl IntoIterator<Item = (u64, D)>,
) {
    let expected: Vec<Cells> = records
        .into_iter()
        .map(|(id, data)| {
            let mut row = vec![Some(id.to_string())];
            row.extend(cells(plan_of(file), data.as_ref()));
            row
        })
        .collect();
    if let Some(found) = table(trial, file, &[IDENTITY]) {
        assert_eq!(found.len(), expected.len(), "rows: {found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }
}

/// Puts these records, and checks that the table has them and nothing else.
fn keeps(trial: &mut Trial<'_>, file: &Arc<FileDescription>, records: &[Vec<u8>]) {
    let numbered = || (1..).zip(records);
    trial.apply([changes(
        file,
        numbered().map(|(id, data)| (id, record(data))),
    )]);
    check(trial, file, numbered());
}

fn texts(row: &[Option<String>]) -> Vec<&str> {
    let values = row.iter();
    values
        .map(|value| value.as_deref().unwrap_or("NULL"))
        .collect()
}

fn has_column(trial: &mut Trial<'_>, path: &str, name: &str) -> Option<bool> {
    let table = trial.stored(path).expect("the target has the file").table;
    let columns = trial.harness().columns(&table)?;
    Some(
        columns
            .iter()
            .any(|column| column.eq_ignore_ascii_case(name)),
    )
}

fn renamed(file: &Arc<FileDescription>, from: &str) -> FileChanges {
    FileChanges {
        renamed_from: Some(from.into()),
        ..changes(file, [])
    }
}

fn removed(file: &Arc<FileDescription>) -> FileChanges {
    FileChanges {
        fate: FileFate::Removed,
        ..changes(file, [])
    }
}

/// Numbers of up to 38 digits with either sign, floats to the last bit, bytes, text, days and times are in the table what
/// they are in the record; what is nothing there is NULL.
pub fn keeps_every_kind_of_column(harness: &mut dyn Harness) {
    let fields = [
        ("small", "int16 big full"),
        ("whole", "int32 big full"),
        ("large", "int64 big full"),
        ("unsigned", "uint64 big full"),
        ("exact", "zoned(38,10) signed separate ascii"),
        ("digits", "zoned(38) signed separate ascii"),
        ("tiny", "zoned(9,9) signed separate ascii"),
        ("single", "float32 big ieee"),
        ("double", "float64 big ieee"),
        ("bits", "raw(4)"),
        ("name", "text(6) utf-8"),
        ("day", "text(8) as YYYYMMDD"),
        ("clock", "text(6) as HHMISS"),
        ("moment", "text(20) as YYYYMMDDHHMISSFFFFFF"),
    ];
    let values = planned("/srv/values.dat", &fields, &PlanSpec::default());
    let one =
        |numbers: (i16, i32, i64, u64), digits: [String; 3], floats: (f32, f64), rest: &[u8]| {
            let mut data = numbers.0.to_be_bytes().to_vec();
            data.extend(numbers.1.to_be_bytes());
            data.extend(numbers.2.to_be_bytes());
            data.extend(numbers.3.to_be_bytes());
            digits.iter().for_each(|digits| data.extend(digits.bytes()));
            data.extend(floats.0.to_be_bytes());
            data.extend(floats.1.to_be_bytes());
            data.extend(rest);
            data
        };
    let nines = |sign| [38, 38, 9].map(|digits| format!("{}{sign}", "9".repeat(digits)));
    let mut trial = Trial::begin(harness);
    let records = [
        one(
            (i16::MAX, i32::MAX, i64::MAX, u64::MAX),
            nines('+'),
            (f32::MAX, f64::MAX),
            b"\xff\xfe\0\x01Smith 9999123123595920261231235959999999",
        ),
        one(
            (i16::MIN, i32::MIN, i64::MIN, 1 << 63),
            nines('-'),
            (-f32::MAX, -f64::MAX),
            b"\0\0\0\0\"'\\;%_0001010100000000010101000000000001",
        ),
        one(
            (0, -1, 1 << 53 | 1, 0),
            [
                format!("{}1-", "0".repeat(37)),
                format!("1{}1+", "0".repeat(36)),
                "000000001-".to_owned(),
            ],
            (0.1, 0.1),
            b"\x5c\x5c\n\t      2024022912000020240229120000120000",
        ),
        // Nothing: no number, no day, no time.
        one(
            (0, 0, 0, 0),
            [39, 39, 10].map(|digits| " ".repeat(digits)),
            (-1.175_494_4e-38, 2.225_073_858_507_201_4e-308),
            b"abcd      00000000      00000000000000000000",
        ),
    ];
    keeps(&mut trial, &values, &records);
    let Some(rows) = table(&mut trial, &values, &[IDENTITY]) else {
        return;
    };
    let long = |from: &str| from.repeat(28);
    assert_eq!(
        texts(&rows[0]),
        [
            "1",
            "32767",
            "2147483647",
            "9223372036854775807",
            "18446744073709551615",
            &format!("{}.9999999999", long("9")),
            &"9".repeat(38),
            "0.999999999",
            &format!("{:e}", f32::MAX),
            &format!("{:e}", f64::MAX),
            "fffe0001",
            "Smith",
            "9999-12-31",
            "23:59:59",
            "2026-12-31T23:59:59.999999",
            "NULL",
        ]
    );
    assert_eq!(
        texts(&rows[1])[5..8],
        [
            &format!("-{}.9999999999", long("9")),
            &format!("-{}", "9".repeat(38)),
            "-0.999999999",
        ]
    );
    assert_eq!(rows[2][5].as_deref(), Some("-0.0000000001"));
    for column in [5, 6, 7, 12, 13, 14] {
        assert_eq!(rows[3][column], None, "column {column}");
    }
}

/// A time has all nine decimals of a second that a record may say.
pub fn keeps_every_decimal_of_a_second(harness: &mut dyn Harness) {
    let fields = [
        ("clock", "text(15) as HHMISSFFFFFFFFF"),
        ("moment", "text(23) as YYYYMMDDHHMISSFFFFFFFFF"),
    ];
    let times = planned("/srv/times.dat", &fields, &PlanSpec::default());
    let mut trial = Trial::begin(harness);
    let records = [
        b"23595999999999920261231235959999999999".to_vec(),
        b"00000000000000120240229000000000000001".to_vec(),
        b"12000012345600020240229120000123456000".to_vec(),
    ];
    keeps(&mut trial, &times, &records);
    if let Some(rows) = table(&mut trial, &times, &[]) {
        assert_eq!(
            texts(&rows[0])[..2],
            ["23:59:59.999999999", "2026-12-31T23:59:59.999999999"]
        );
    }
}

/// Text of all planes of Unicode, and what means something to databases' languages and formats, stays as it is.
pub fn keeps_text_of_every_plane(harness: &mut dyn Harness) {
    let texts = [
        "Grüße, €, é and e\u{301}",
        "日本語 שלום नमस्ते",
        "\u{1d518}\u{1d11e}\u{1f600}\u{10fffd}",
        "\u{1}\u{7f}\u{80}\u{2028}\u{feff}\u{fffd}",
        "it's \"quoted\" `so` [and] so",
        "\\N \\x41 \\\\ \\",
        "a\tb\r\nc\u{b}d",
        "%s %d ? $1 :name @p #{x} ${y} {z}",
        "; DROP TABLE cards; --/*",
        "\\N",
        "NULL",
        "\\.",
        " leading",
        ",\"\",",
        "",
    ];
    let fields = [("text", "text(60) utf-8"), ("mark", "text(1) utf-8")];
    let notes = planned("/srv/notes.dat", &fields, &PlanSpec::default());
    let records: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| {
            let mut data = text.as_bytes().to_vec();
            data.resize(60, b' ');
            data.push(b'|');
            data
        })
        .collect();
    let mut trial = Trial::begin(harness);
    keeps(&mut trial, &notes, &records);
    if let Some(rows) = table(&mut trial, &notes, &[IDENTITY]) {
        let found: Vec<_> = rows.iter().map(|row| row[1].as_deref()).collect();
        assert_eq!(found, texts.map(Some));
    }
}

/// A field whose bytes mean nothing is NULL, and the row says which and why; its neighbours have their values. What is put
/// right is right.
pub fn tells_what_cant_be_decoded(harness: &mut dyn Harness) {
    let fields = [
        ("name", "text(4) ascii"),
        ("units", "zoned(4)"),
        ("amount", "packed(5,2) signed"),
    ];
    let cards = planned("/srv/cards.dat", &fields, &PlanSpec::default());
    let mut trial = Trial::begin(harness);
    let mut records = vec![
        b"Ann 0012\x12\x34\x5c".to_vec(),
        b"Bob 0x12\x12\x34\x5c".to_vec(),
        b"\xe4nn 0012\x12\x34\x56".to_vec(),
        // A character of code 0 is one, but not all databases have text with it.
        b"A\0n 0012\x12\x34\x5d".to_vec(),
        b"Eve 00".to_vec(),
        Vec::new(),
    ];
    keeps(&mut trial, &cards, &records);
    if let Some(rows) = table(&mut trial, &cards, &[IDENTITY]) {
        assert_eq!(texts(&rows[0]), ["1", "Ann", "12", "123.45", "NULL"]);
        assert_eq!(texts(&rows[1])[..4], ["2", "Bob", "NULL", "123.45"]);
        let told = rows[1][4].as_deref().expect("it is told");
        assert!(told.contains("units") && !told.contains("amount"), "{told}");
        let told = rows[2][4].as_deref().expect("it is told");
        assert!(told.contains("name") && told.contains("amount"), "{told}");
        assert_eq!(texts(&rows[5])[1..4], ["NULL"; 3]);
    }
    for data in &mut records {
        *data = b"Ann 0012\x12\x34\x5c".to_vec();
    }
    keeps(&mut trial, &cards, &records);
}

/// Columns are where their records are: after updates, deletions, clearings, and where a record became residue.
pub fn keeps_columns_with_their_rows(harness: &mut dyn Harness) {
    let people = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let mut trial = Trial::begin(harness);
    let mut records: BTreeMap<u64, Vec<u8>> = (1..=40)
        .map(|id: u32| (id.into(), customer(id, "Ann", "new")))
        .collect();
    let put = |records: &BTreeMap<u64, Vec<u8>>| -> Vec<(u64, Image)> {
        let records = records.iter();
        records.map(|(&id, data)| (id, record(data))).collect()
    };
    trial.apply([changes(&people, put(&records))]);
    check(&mut trial, &people, records.clone());
    // Changed, deleted, become residue, new; with a rest, and one with nothing but that.
    let mut images = vec![
        (2, Image::Absent),
        (3, residue("gone")),
        (99, Image::Absent),
    ];
    let with_rest = |data: &[u8]| Image::Record {
        data: data.to_vec(),
        rest: b"\r\n".to_vec(),
    };
    for (id, data) in [
        (1, customer(1, "Änne", "changed")),
        (41, customer(41, "Bob", "new")),
        (42, Vec::new()),
    ] {
        images.push((id, with_rest(&data)));
        records.insert(id, data);
    }
    records.remove(&2);
    records.remove(&3);
    trial.apply([changes(&people, images)]);
    check(&mut trial, &people, records.clone());
    // Ranges go, and what comes later in the batch stays.
    records.retain(|id, _| !(10..20).contains(id) && *id < 41);
    records.insert(12, customer(12, "Eve", "back"));
    trial.apply([FileChanges {
        cleared: vec![10..20, 41..u64::MAX],
        ..changes(&people, [(12, record(&records[&12])), (2, residue("x"))])
    }]);
    check(&mut trial, &people, records.clone());
    records = BTreeMap::from([(7, customer(7, "Zoe", "all new"))]);
    trial.apply([FileChanges {
        cleared: vec![0..u64::MAX],
        ..changes(&people, put(&records))
    }]);
    check(&mut trial, &people, records.clone());
    trial.apply([removed(&people), changes(&people, [(1, record("0001Ann"))])]);
    check(&mut trial, &people, [(1, "0001Ann")]);
}

/// Rows go with their file to its new name and keep their columns, and become what the plan of that name wants.
pub fn renames_files_with_columns(harness: &mut dyn Harness) {
    let spec = PlanSpec {
        constants: map([("source", Constant::Text("{file}".into()))]),
        ..PlanSpec::default()
    };
    let cards = planned("/srv/cards.dat", CUSTOMER, &spec);
    let old = planned("/srv/cards.old", CUSTOMER, &spec);
    let other = planned("/srv/other.dat", &CUSTOMER[..2], &PlanSpec::default());
    let mut trial = Trial::begin(harness);
    let (first, second) = (customer(1, "Ann", "first"), customer(2, "Bob", "second"));
    trial.apply([
        changes(&cards, [(1, record(&first)), (2, residue("left over"))]),
        changes(&other, [(5, record(&second))]),
    ]);
    trial.apply([renamed(&old, "/srv/cards.dat")]);
    check(&mut trial, &old, [(1, &first)]);
    if let Some(rows) = table(&mut trial, &old, &[IDENTITY]) {
        assert_eq!(
            texts(&rows[0])[..5],
            ["1", "1", "Ann", "first", "cards.old"]
        );
    }
    // Rotated: the old one is replaced, and a new one begins, all in one batch.
    trial.apply([
        changes(&cards, [(1, record(&second)), (3, record(&second))]),
        renamed(&old, "/srv/cards.dat"),
        changes(&cards, [(9, record(&first))]),
    ]);
    check(&mut trial, &old, [(1, &second), (3, &second)]);
    check(&mut trial, &cards, [(9, &first)]);
    // Onto a file with other columns.
    let onto = planned("/srv/other.dat", &CUSTOMER[..2], &PlanSpec::default());
    trial.apply([renamed(&onto, "/srv/cards.dat")]);
    check(&mut trial, &onto, [(9, &first)]);
}

/// Constants, other names, other kinds, masks; and fields that are left out.
pub fn fills_columns_as_they_are_planned(harness: &mut dyn Harness) {
    let fields = [
        ("card-number", "zoned(16)"),
        ("name", "text(6) utf-8"),
        ("pin", "text(4) utf-8"),
        ("units", "text(4) utf-8"),
        ("secret", "text(4) utf-8"),
        ("op", "text(1) utf-8"),
    ];
    let spec = PlanSpec {
        raw: false,
        without: vec!["secret".into()],
        rename: map([("name", "holder".to_owned())]),
        kinds: map([("units", kind("bigint")), ("card-number", kind("text(16)"))]),
        masks: map([
            ("card-number", Mask::Last4),
            ("name", Mask::Hash(MaskKey::new(b"a key"))),
            ("pin", Mask::Fixed("****".into())),
        ]),
        constants: map([
            ("branch", Constant::Number(-7)),
            ("origin", Constant::Text("{site}/{group}: {path}".into())),
        ]),
        ..PlanSpec::default()
    };
    let cards = planned("/srv/cards.dat", &fields, &spec);
    let mut trial = Trial::begin(harness);
    let records = [
        b"4000123412341234Smith 1234  42abcdX".to_vec(),
        b"4000123412341234Smith 9999-100abcd ".to_vec(),
        b"                      9999notnabcdD".to_vec(),
    ];
    keeps(&mut trial, &cards, &records);
    let Some(rows) = table(&mut trial, &cards, &[IDENTITY]) else {
        return;
    };
    assert_eq!(rows[0][2], rows[1][2], "hashes of one text");
    assert_eq!(rows[0][2].as_ref().map(String::len), Some(64));
    let row = texts(&rows[0]);
    assert_eq!(row[..2], ["1", "************1234"]);
    assert_eq!(
        row[3..],
        [
            "****",
            "42",
            "X",
            "-7",
            "hq/payments: /srv/cards.dat",
            "NULL"
        ]
    );
    assert_eq!(rows[1][4].as_deref(), Some("-100"));
    assert_eq!(rows[2][4], None, "it is no number");
    assert_ne!(
        has_column(&mut trial, "/srv/cards.dat", "secret"),
        Some(true)
    );
}

/// Without the raw image there are columns and nothing else: no bytes, no residue, no pieces.
pub fn keeps_no_raw_image(harness: &mut dyn Harness) {
    let spec = PlanSpec {
        raw: false,
        ..PlanSpec::default()
    };
    let people = planned("/srv/people.dat", CUSTOMER, &spec);
    let mut trial = Trial::begin(harness);
    let records: Vec<Vec<u8>> = (1..9).map(|id| customer(id, "Ann", "x")).collect();
    keeps(&mut trial, &people, &records);
    let stored = trial.stored("/srv/people.dat").expect("it is there");
    assert!(!stored.shape.raw, "{:?}", stored.shape);
    assert_eq!(trial.content("/srv/people.dat"), []);
    for name in ["data", "rest"] {
        assert_ne!(has_column(&mut trial, "/srv/people.dat", name), Some(true));
    }
    trial.apply([FileChanges {
        cleared: vec![6..u64::MAX],
        ..changes(
            &people,
            [
                (1, residue("what was deleted")),
                (2, Image::Absent),
                (3, record(customer(33, "Bob", "y"))),
                (20, residue("never a record")),
            ],
        )
    }]);
    let left = [
        (3, customer(33, "Bob", "y")),
        (4, customer(4, "Ann", "x")),
        (5, customer(5, "Ann", "x")),
    ];
    check(&mut trial, &people, left.clone());
    assert_eq!(trial.content("/srv/people.dat"), []);
    let moved = planned("/srv/moved.dat", CUSTOMER, &spec);
    trial.apply([renamed(&moved, "/srv/people.dat")]);
    check(&mut trial, &moved, left);
}

/// So many records that no sink changes them all in one step.
const MANY: u32 = 2500;

fn many(note: &str) -> Vec<(u64, Vec<u8>)> {
    (1..=MANY)
        .map(|id| (id.into(), customer(id, "Ann", note)))
        .collect()
}

fn images(records: &[(u64, Vec<u8>)]) -> Vec<(u64, Image)> {
    let records = records.iter();
    records.map(|(id, data)| (*id, record(data))).collect()
}

/// A table of raw images gets the columns of a plan that came later, filled from what it has.
pub fn gives_columns_to_a_table_that_is_there(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let mut records = many("old");
    records[1].1.clear();
    records[2].1 = b"nonsense".to_vec();
    let mut first = images(&records);
    first.push((MANY.into(), residue("not this one")));
    records.pop();
    let raw = file("/srv/people.dat");
    trial.apply([
        changes(&raw, [(7, residue("was deleted"))]),
        changes(&raw, first),
    ]);
    let people = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    records[4].1 = customer(5, "Bob", "new");
    // With the first change that comes; and the file need not be changed at all.
    trial.apply([changes(&people, [(5, record(&records[4].1))])]);
    check(&mut trial, &people, records.clone());
    let empty = file("/srv/empty.dat");
    trial.apply([changes(&empty, [])]);
    let empty = planned("/srv/empty.dat", CUSTOMER, &PlanSpec::default());
    trial.apply([changes(&empty, [])]);
    check(&mut trial, &empty, [] as [(u64, Vec<u8>); 0]);
    trial.apply([changes(&people, [(6, Image::Absent)])]);
    records.remove(5);
    check(&mut trial, &people, records);
}

/// Columns that aren't wanted any more are left empty; the raw images stay.
pub fn takes_columns_away(harness: &mut dyn Harness) {
    let people = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let raw = file("/srv/people.dat");
    let mut trial = Trial::begin(harness);
    let records = [customer(1, "Ann", "x"), customer(2, "Bob", "y")];
    keeps(&mut trial, &people, &records);
    trial.apply([changes(&raw, [(3, record(customer(3, "Eve", "z")))])]);
    let stored = trial.stored("/srv/people.dat").expect("it is there");
    assert_eq!(
        (stored.shape.columns.len(), stored.shape.left.len()),
        (0, 3)
    );
    if let Some(rows) = rows_of(&mut trial, &stored.table, &people, &[IDENTITY]) {
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert_eq!(texts(&row)[1..4], ["NULL"; 3]);
        }
    }
    // And back.
    let third = customer(3, "Eve", "zz");
    trial.apply([changes(&people, [(3, record(&third))])]);
    check(
        &mut trial,
        &people,
        (1..).zip([&records[0], &records[1], &third]),
    );
}

fn with_region() -> Vec<(&'static str, &'static str)> {
    let mut fields = CUSTOMER.to_vec();
    fields.push(("region", "text(2) utf-8"));
    fields
}

/// A changed schema adds columns, widens those that hold too little, leaves those that hold more, and empties those that
/// aren't wanted; records of before still apply.
pub fn follows_a_changed_schema(harness: &mut dyn Harness) {
    let before = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let spec = PlanSpec {
        without: vec!["note".into()],
        kinds: map([("id", kind("decimal(12,2)")), ("name", kind("text(3000)"))]),
        ..PlanSpec::default()
    };
    let after = planned("/srv/people.dat", &with_region(), &spec);
    let mut trial = Trial::begin(harness);
    let mut records: BTreeMap<u64, Vec<u8>> = many("old").into_iter().collect();
    let first: Vec<_> = records.clone().into_iter().collect();
    trial.apply([changes(&before, images(&first))]);
    let new = [customer(4711, "Eve", "new"), b"NW".to_vec()].concat();
    records.insert(9000, new.clone());
    // A record as it was before the change comes as well.
    records.insert(9001, customer(4712, "Bob", "short"));
    trial.apply([changes(
        &after,
        [9000, 9001].map(|id| (id, record(&records[&id]))),
    )]);
    check(&mut trial, &after, records.clone());
    let stored = trial.stored("/srv/people.dat").expect("it is there");
    assert_eq!(stored.shape.left.len(), 1);
    if let Some(rows) = table(&mut trial, &after, &[IDENTITY, "note"]) {
        let last = &rows[rows.len() - 2..];
        assert_eq!(
            texts(&last[0]),
            ["9000", "NULL", "4711", "Eve", "NW", "NULL"]
        );
        assert_eq!(
            texts(&last[1])[..5],
            ["9001", "NULL", "4712", "Bob", "NULL"]
        );
        assert!(rows.iter().all(|row| row[1].is_none()), "it is emptied");
    }
    // Back again: what was widened stays so, what was left is used.
    trial.apply([changes(&before, [(9002, record(&new))])]);
    records.insert(9002, new);
    check(&mut trial, &before, records.clone());
    let stored = trial.stored("/srv/people.dat").expect("it is there");
    assert_eq!(stored.shape.columns[0].kind, kind("decimal(12,2)"));
    assert_eq!(stored.shape.columns[1].kind, kind("text(3000)"));
}

/// Where the configuration lets it, columns that aren't wanted are dropped, and what can't become what is wanted is made
/// anew.
pub fn makes_columns_anew_where_it_may(harness: &mut dyn Harness) {
    let before = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let spec = PlanSpec {
        without: vec!["name".into()],
        kinds: map([("note", kind("integer"))]),
        may_drop: true,
        ..PlanSpec::default()
    };
    let after = planned("/srv/people.dat", CUSTOMER, &spec);
    let mut trial = Trial::begin(harness);
    let records = [customer(1, "Ann", "17"), customer(2, "Bob", "none")];
    keeps(&mut trial, &before, &records);
    trial.apply([changes(&after, [(3, record(customer(3, "Eve", "-5")))])]);
    let third = customer(3, "Eve", "-5");
    check(
        &mut trial,
        &after,
        (1..).zip([&records[0], &records[1], &third]),
    );
    if let Some(rows) = table(&mut trial, &after, &[IDENTITY]) {
        assert_eq!(texts(&rows[0]), ["1", "1", "17", "NULL"]);
        assert_eq!(texts(&rows[1])[..3], ["2", "2", "NULL"]);
    }
    assert_ne!(
        has_column(&mut trial, "/srv/people.dat", "name"),
        Some(true)
    );
    // A field that comes again gets a column again.
    let all = PlanSpec {
        may_drop: true,
        ..PlanSpec::default()
    };
    let all = planned("/srv/people.dat", CUSTOMER, &all);
    trial.apply([changes(&all, [])]);
    check(
        &mut trial,
        &all,
        (1..).zip([&records[0], &records[1], &third]),
    );
}

/// Where a column can't become what is wanted, the batch is refused, names it and leaves all as it was; another plan goes
/// on.
pub fn refuses_a_column_that_cant_become(harness: &mut dyn Harness) {
    let before = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let spec = PlanSpec {
        kinds: map([("note", kind("date"))]),
        ..PlanSpec::default()
    };
    let after = planned("/srv/people.dat", &with_region(), &spec);
    let mut trial = Trial::begin(harness);
    let records = [customer(1, "Ann", "17"), customer(2, "Bob", "none")];
    keeps(&mut trial, &before, &records);
    let batch = trial.batch([
        changes(&file("/srv/new.dat"), [(1, record("new"))]),
        changes(&after, [(3, record("x"))]),
    ]);
    for _ in 0..2 {
        let error = trial.refuse(&batch);
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("note") && text.contains("drop_columns"),
            "{text}"
        );
        check(&mut trial, &before, (1..).zip(&records));
    }
    assert_ne!(
        has_column(&mut trial, "/srv/people.dat", "region"),
        Some(true)
    );
    let history = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    let history = planned("/srv/people.dat", CUSTOMER, &history);
    let batch = trial.batch([changes(&history, [])]);
    let error = trial.refuse(&batch);
    assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    let fitting = planned("/srv/people.dat", &with_region(), &PlanSpec::default());
    trial.apply([changes(&fitting, [(2, Image::Absent)])]);
    check(&mut trial, &fitting, [(1, &records[0])]);
}

/// Where columns are filled in another way, the rows that are there are filled anew.
pub fn fills_rows_anew(harness: &mut dyn Harness) {
    let with = |constant: &str, name: &str| {
        let spec = PlanSpec {
            constants: map([("source", Constant::Text(constant.into()))]),
            ..PlanSpec::default()
        };
        let fields = [("id", "zoned(4)"), ("name", name)];
        planned("/srv/people.dat", &fields, &spec)
    };
    let mut trial = Trial::begin(harness);
    let mut records = many("x");
    let before = with("before", "text(6) utf-8");
    trial.apply([changes(&before, images(&records))]);
    check(&mut trial, &before, records.clone());
    // The field is shorter than was thought.
    let after = with("after", "text(2) utf-8");
    trial.apply([changes(&after, [(1, Image::Absent)])]);
    records.remove(0);
    check(&mut trial, &after, records);
    if let Some(rows) = table(&mut trial, &after, &[IDENTITY]) {
        assert_eq!(texts(&rows[0]), ["2", "2", "An", "after", "NULL"]);
    }
}

/// A mask that comes later hides what was shown before: in the rows that are there, and with the raw images gone.
pub fn hides_what_was_shown(harness: &mut dyn Harness) {
    let shown = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let spec = PlanSpec {
        raw: false,
        masks: map([("name", Mask::Last4)]),
        ..PlanSpec::default()
    };
    let hidden = planned("/srv/people.dat", CUSTOMER, &spec);
    let mut trial = Trial::begin(harness);
    let mut records = many("x");
    let mut first = images(&records);
    first.push((9000, residue("Smith, who was deleted")));
    trial.apply([changes(&shown, first)]);
    trial.apply([changes(&hidden, [(2, Image::Absent)])]);
    records.remove(1);
    check(&mut trial, &hidden, records);
    assert_eq!(trial.content("/srv/people.dat"), []);
    assert_ne!(
        has_column(&mut trial, "/srv/people.dat", "data"),
        Some(true)
    );
    if let Some(rows) = table(&mut trial, &hidden, &[IDENTITY]) {
        assert_eq!(texts(&rows[0])[..3], ["1", "1", "**n"]);
    }
    // The bytes are gone, so they can't be had again.
    let batch = trial.batch([changes(&shown, [])]);
    let error = trial.refuse(&batch);
    assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    assert!(error.to_string().contains("raw"), "{error}");
}

/// Two hundred columns, some of them long, and one that is very long.
pub fn keeps_many_columns(harness: &mut dyn Harness) {
    let names: Vec<String> = (1..=200).map(|n| format!("column-{n}")).collect();
    let fields: Vec<(&str, &str)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let kind = match n % 4 {
                0 => "text(300) utf-8",
                _ if n == 199 => "text(70000) utf-8",
                _ => "zoned(4)",
            };
            (name.as_str(), kind)
        })
        .collect();
    let wide = planned("/srv/wide.dat", &fields, &PlanSpec::default());
    let data = |seed: u32| {
        let mut data = String::new();
        for (n, (_, kind)) in (0..).zip(&fields) {
            let text = match *kind {
                "zoned(4)" => format!("{:04}", (n * 37 + seed) % 10_000),
                "text(300) utf-8" => format!("{:<300}", format!("long {seed} {n}").repeat(20)),
                _ => "x".repeat(70_000),
            };
            data.push_str(&text);
        }
        data.into_bytes()
    };
    let mut trial = Trial::begin(harness);
    let records: Vec<Vec<u8>> = (1..=5).map(data).collect();
    keeps(&mut trial, &wide, &records);
    let mut changed: Vec<Vec<u8>> = (11..=15).map(data).collect();
    changed[2].truncate(5000);
    keeps(&mut trial, &wide, &changed);
}

/// Columns may be named like words of SQL, in capitals, and with whatever characters people like.
pub fn quotes_names_of_columns(harness: &mut dyn Harness) {
    let names = [
        "order",
        "SELECT",
        "Name With Spaces",
        "quote\"d",
        "back`tick",
        "it's",
        "semi;colon--",
        "per%cent%s",
        "dollar$1",
        "[brackets]",
        "a.b",
        "\u{dc}n\u{ef}c\u{f6}d\u{e9}",
        "user",
        "1st",
        "a_name_that_is_nearly_as_long_as_databases_take_them_to_be",
    ];
    let fields: Vec<String> = (1..=names.len()).map(|n| format!("field-{n}")).collect();
    let rename = fields.iter().cloned();
    let rename = rename.zip(names.map(str::to_owned)).collect();
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|name| (name.as_str(), "text(2) utf-8"))
        .collect();
    let spec = PlanSpec {
        rename,
        constants: map([
            ("Group", Constant::Number(1)),
            ("VALUES", Constant::Number(2)),
        ]),
        ..PlanSpec::default()
    };
    let odd = planned("/srv/odd.dat", &fields, &spec);
    let odd = Arc::new(FileDescription {
        table: Some("Table of \"Odd\" Names".into()),
        ..(*odd).clone()
    });
    let mut trial = Trial::begin(harness);
    keeps(
        &mut trial,
        &odd,
        &[b"a1b2c3d4e5f6g7h8i9j1k2l3m4n5o6".to_vec(), b"a1b2".to_vec()],
    );
    trial.apply([changes(&odd, [(1, record("zz")), (2, Image::Absent)])]);
    check(&mut trial, &odd, [(1, "zz")]);
    // They are changed under these names too.
    let changed = PlanSpec {
        kinds: map([("field-1", kind("text(9)")), ("field-2", kind("integer"))]),
        without: vec!["field-3".into()],
        may_drop: true,
        ..spec
    };
    let plan = planned("/srv/odd.dat", &fields, &changed).plan.clone();
    let odd = Arc::new(FileDescription {
        plan,
        ..(*odd).clone()
    });
    trial.apply([changes(&odd, [(3, record("aa42"))])]);
    check(&mut trial, &odd, [(1, "zz"), (3, "aa42")]);
}

/// A table, and a record that the target refuses to have in it.
fn with_a_forbidden_record(trial: &mut Trial<'_>) -> (Arc<FileDescription>, Image) {
    let people = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    trial.apply([changes(
        &people,
        [(1, record(customer(1, "Ann", "x"))), (2, residue("y"))],
    )]);
    let table = trial.stored("/srv/people.dat").expect("it is there").table;
    assert!(
        trial.harness().forbid(&table, "name", "bad"),
        "the harness can forbid a row, or says why not"
    );
    (people, record(customer(9, "bad", "x")))
}

/// A row that the target doesn't take is `Refused`, and nothing of its batch is left; without it the batch goes.
pub fn refuses_a_row_and_leaves_nothing(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (people, bad) = with_a_forbidden_record(&mut trial);
    let mut good = many("x");
    let mut all = images(&good);
    all[1000].1 = bad;
    let new = file("/srv/new.dat");
    let batch = trial.batch([changes(&new, [(1, record("new"))]), changes(&people, all)]);
    for _ in 0..2 {
        let error = trial.refuse(&batch);
        assert!(matches!(error, SinkError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("/srv/people.dat"),
            "an error names the file: {text}"
        );
        check(&mut trial, &people, [(1, customer(1, "Ann", "x"))]);
    }
    good.remove(1000);
    trial.apply([
        changes(&new, [(1, record("new"))]),
        changes(&people, images(&good)),
    ]);
    check(&mut trial, &people, good);
}

/// A rehearsal says whether a batch would be taken, and leaves nothing: no row, table, column or position.
pub fn rehearses_without_a_trace(harness: &mut dyn Harness) {
    let mut trial = Trial::begin(harness);
    let (people, bad) = with_a_forbidden_record(&mut trial);
    let wider = planned("/srv/people.dat", &with_region(), &PlanSpec::default());
    let moved = planned("/srv/moved.dat", &with_region(), &PlanSpec::default());
    let stages = |image: Image| {
        [
            changes(
                &file("/srv/new.dat"),
                [(1, record("new")), (2, residue("z"))],
            ),
            changes(
                &wider,
                [(3, record(customer(3, "Eve", "y"))), (1, residue("gone"))],
            ),
            changes(&wider, [(4, image)]),
            renamed(&moved, "/srv/people.dat"),
            removed(&file("/srv/new.dat")),
        ]
    };
    let good = trial.batch(stages(Image::Absent));
    let bad = trial.batch(stages(bad));
    for _ in 0..2 {
        let error = trial.sink().rehearse(&bad).expect_err("it is forbidden");
        assert!(matches!(error, SinkError::Refused { .. }), "{error}");
        trial.compare("a rehearsal that was refused");
        trial.sink().rehearse(&good).expect("it would be taken");
        trial.compare("a rehearsal");
        check(&mut trial, &people, [(1, customer(1, "Ann", "x"))]);
        assert_ne!(
            has_column(&mut trial, "/srv/people.dat", "region"),
            Some(true)
        );
    }
    // Of another position it says what `apply` says.
    let stale = Batch {
        position: Position::default(),
        ..good.clone()
    };
    let error = trial.sink().rehearse(&stale).expect_err("it is stale");
    assert!(matches!(error, SinkError::NotAfter { .. }), "{error}");
    // What the sink remembers isn't of what it took back.
    trial.apply_without_reopening(&good);
    check(&mut trial, &moved, [(3, customer(3, "Eve", "y"))]);
}

/// Changes of a file whose plan keeps every one, folded as the applier does it.
struct Steps {
    changes: FileChanges,
    next: Position,
}

impl Steps {
    /// The first of a batch.
    fn of(trial: &Trial<'_>, file: &Arc<FileDescription>) -> Steps {
        Steps {
            changes: changes(file, []),
            next: Position {
                lsn: trial.position().lsn + 1,
                index: 0,
                ..trial.position()
            },
        }
    }

    /// Another file's, after these of the same batch.
    fn then(&self, file: &Arc<FileDescription>) -> Steps {
        Steps {
            changes: changes(file, []),
            next: self.next,
        }
    }

    fn log(mut self, change: LoggedChange) -> Steps {
        self.changes.log.push(Logged {
            position: self.next,
            captured_ns: 1_700_000_000_123_456_000 + i64::from(self.next.index),
            change,
        });
        self.next.index += 1;
        self
    }

    fn image(mut self, id: u64, image: Image) -> Steps {
        self.changes.images.insert(id, image.clone());
        self.log(LoggedChange::Image { id, image })
    }

    fn put(self, id: u64, name: &str) -> Steps {
        self.image(id, record(customer(7, name, "x")))
    }

    fn clear(mut self, range: Range<u64>) -> Steps {
        let all = range.end == u64::MAX;
        let images = &mut self.changes.images;
        images.retain(|id, _| *id < range.start || (*id >= range.end && !all));
        self.changes.cleared.push(range.clone());
        self.log(LoggedChange::Cleared(range))
    }

    fn rename(mut self, from: &str) -> Steps {
        self.changes.renamed_from = Some(from.into());
        self.log(LoggedChange::Renamed)
    }

    fn remove(mut self) -> Steps {
        self.changes.images.clear();
        self.changes.cleared.clear();
        self.changes.fate = FileFate::Removed;
        self.log(LoggedChange::Cleared(0..u64::MAX))
    }
}

/// What tells the rows of a history apart, and their order.
const POSITION: &[&str] = &[IDENTITY, "epoch", "lsn", "idx"];

fn history(path: &str) -> Arc<FileDescription> {
    let spec = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    planned(path, CUSTOMER, &spec)
}

/// The rows of a history's table, by record and position: the record, what happened, and its name.
fn happened(trial: &mut Trial<'_>, table: &str, file: &FileDescription) -> Option<Vec<String>> {
    let own = [POSITION, &["op"]].concat();
    let rows = rows_of(trial, table, file, &own)?;
    Some(
        rows.iter()
            .map(|row| {
                let row = texts(row);
                format!("{} {} {}", row[0], row[4], row[6])
            })
            .collect(),
    )
}

fn table_name(trial: &mut Trial<'_>, path: &str) -> String {
    trial.stored(path).expect("the target has the file").table
}

/// Every change is a row with its position, in order; deletions too, of what was there. The last ones are what is current.
pub fn keeps_every_change(harness: &mut dyn Harness) {
    let people = history("/srv/people.dat");
    let mut trial = Trial::begin(harness);
    let steps = Steps::of(&trial, &people)
        .put(1, "Ann")
        .put(1, "Anna")
        .put(2, "Bob")
        .image(2, Image::Absent)
        .image(2, Image::Absent)
        .put(2, "Bert")
        .image(3, residue("never was"))
        .image(4, Image::Absent);
    let begun = steps.changes.log[0].position;
    trial.apply([steps.changes]);
    let table = table_name(&mut trial, "/srv/people.dat");
    if let Some(rows) = rows_of(&mut trial, &table, &people, POSITION) {
        let first: Vec<String> = [1, begun.epoch, begun.lsn, 0].map(|n| n.to_string()).into();
        assert_eq!(texts(&rows[0])[..4], first);
        assert_eq!(texts(&rows[1])[3], "1");
        assert_eq!(texts(&rows[1])[4..], ["7", "Anna", "x", "NULL"]);
        // A deletion has no values.
        assert_eq!(texts(&rows[3])[4..], ["NULL"; 4]);
    }
    let rows = happened(&mut trial, &table, &people);
    let expected = [
        "1 put Ann",
        "1 put Anna",
        "2 put Bob",
        "2 delete NULL",
        "2 put Bert",
    ];
    assert!(rows.is_none_or(|rows| rows == expected), "{expected:?}");
    // The next batch knows what is there.
    let steps = Steps::of(&trial, &people)
        .image(1, residue("deleted"))
        .image(2, Image::Absent)
        .put(3, "Eve")
        .put(1, "again")
        .image(1, residue("and again"));
    trial.apply([steps.changes]);
    let rows = happened(&mut trial, &table, &people);
    let expected = [
        "1 put Ann",
        "1 put Anna",
        "1 delete NULL",
        "1 put again",
        "1 delete NULL",
        "2 put Bob",
        "2 delete NULL",
        "2 put Bert",
        "2 delete NULL",
        "3 put Eve",
    ];
    if let Some(rows) = rows {
        assert_eq!(rows, expected);
    }
    if let Some(rows) = trial
        .harness()
        .rows(&table, &[IDENTITY, "lsn", "idx", "captured_at"])
    {
        let last = rows.iter().find(|row| row[0].as_deref() == Some("3"));
        let at = last.and_then(|row| row[3].as_deref()).expect("a time");
        // 1_700_000_000 seconds since 1970, in UTC; a target need not have all decimals.
        assert!(
            at.replace('T', " ").starts_with("2023-11-14 22:13:20.123"),
            "{at}"
        );
    }
    assert_eq!(
        trial.content("/srv/people.dat"),
        [
            (1, residue("and again")),
            (3, record(customer(7, "Eve", "x"))),
        ]
    );
}

/// Without raw images it has columns alone, and no pieces.
pub fn keeps_a_history_without_raw_images(harness: &mut dyn Harness) {
    let spec = PlanSpec {
        mode: Mode::History,
        raw: false,
        masks: map([("note", Mask::Fixed("hidden".into()))]),
        ..PlanSpec::default()
    };
    let people = planned("/srv/people.dat", CUSTOMER, &spec);
    let mut trial = Trial::begin(harness);
    let steps = Steps::of(&trial, &people)
        .put(1, "Ann")
        .image(1, residue("hidden?"))
        .put(2, "Bob")
        .put(2, "Bert");
    trial.apply([steps.changes]);
    assert_eq!(trial.content("/srv/people.dat"), []);
    assert_ne!(
        has_column(&mut trial, "/srv/people.dat", "data"),
        Some(true)
    );
    let table = table_name(&mut trial, "/srv/people.dat");
    let rows = happened(&mut trial, &table, &people);
    if let Some(rows) = rows {
        assert_eq!(
            rows,
            ["1 put Ann", "1 delete NULL", "2 put Bob", "2 put Bert"]
        );
    }
}

/// A removed file's history stays, and goes on when there is a file of that name again, in one batch or another.
pub fn goes_on_with_a_history(harness: &mut dyn Harness) {
    let people = history("/srv/people.dat");
    let mut trial = Trial::begin(harness);
    let steps = Steps::of(&trial, &people).put(1, "Ann").put(2, "Bob");
    trial.apply([steps.changes]);
    let table = table_name(&mut trial, "/srv/people.dat");
    let steps = Steps::of(&trial, &people).put(3, "Eve").remove();
    trial.apply([steps.changes]);
    assert!(trial.stored("/srv/people.dat").is_none());
    let first = [
        "1 put Ann",
        "1 delete NULL",
        "2 put Bob",
        "2 delete NULL",
        "3 put Eve",
        "3 delete NULL",
    ];
    if let Some(rows) = happened(&mut trial, &table, &people) {
        assert_eq!(rows, first);
    }
    let made = Steps::of(&trial, &people).put(2, "Bert");
    let gone = made.then(&people).remove();
    let again = gone.then(&people).put(1, "Anna").image(3, residue("x"));
    trial.apply([made.changes, gone.changes, again.changes]);
    assert_eq!(table_name(&mut trial, "/srv/people.dat"), table);
    if let Some(rows) = happened(&mut trial, &table, &people) {
        let expected = [
            "1 put Ann",
            "1 delete NULL",
            "1 put Anna",
            "2 put Bob",
            "2 delete NULL",
            "2 put Bert",
            "2 delete NULL",
            "3 put Eve",
            "3 delete NULL",
        ];
        assert_eq!(rows, expected);
    }
    assert_eq!(
        trial.content("/srv/people.dat"),
        [(1, record(customer(7, "Anna", "x"))), (3, residue("x")),]
    );
    // What never was there is removed without a trace.
    let other = history("/srv/other.dat");
    trial.apply([Steps::of(&trial, &other).remove().changes]);
}

/// With a renamed file its current rows go from one history to another; both stay.
pub fn renames_a_history(harness: &mut dyn Harness) {
    let (log, old) = (history("/srv/log"), history("/srv/log.1"));
    let mut trial = Trial::begin(harness);
    let steps = Steps::of(&trial, &log)
        .put(1, "Ann")
        .put(2, "Bob")
        .put(2, "Bert")
        .image(3, residue("x"))
        .put(4, "Eve")
        .image(4, Image::Absent);
    trial.apply([steps.changes]);
    let table = table_name(&mut trial, "/srv/log");
    let moved = Steps::of(&trial, &old).rename("/srv/log").put(1, "Anna");
    let begun = moved.then(&log).put(9, "new");
    trial.apply([moved.changes, begun.changes]);
    let old_table = table_name(&mut trial, "/srv/log.1");
    assert_eq!(table_name(&mut trial, "/srv/log"), table);
    let first = [
        "1 put Ann",
        "1 delete NULL",
        "2 put Bob",
        "2 put Bert",
        "2 delete NULL",
        "4 put Eve",
        "4 delete NULL",
        "9 put new",
    ];
    if let Some(rows) = happened(&mut trial, &table, &log) {
        assert_eq!(rows, first);
    }
    if let Some(rows) = happened(&mut trial, &old_table, &log) {
        assert_eq!(rows, ["1 put Ann", "1 put Anna", "2 put Bert"]);
    }
    // Again: what the name had before is gone, but for what the new one has as well.
    let more = Steps::of(&trial, &log).put(1, "Zoe");
    let moved = more.then(&old).rename("/srv/log");
    let last = moved.then(&log).put(9, "last");
    trial.apply([more.changes, moved.changes, last.changes]);
    if let Some(rows) = happened(&mut trial, &old_table, &old) {
        let expected = [
            "1 put Ann",
            "1 put Anna",
            "1 put Zoe",
            "2 put Bert",
            "2 delete NULL",
            "9 put new",
        ];
        assert_eq!(rows, expected);
    }
    assert_eq!(
        trial.content("/srv/log.1"),
        [
            (1, record(customer(7, "Zoe", "x"))),
            (9, record(customer(7, "new", "x"))),
        ]
    );
    assert_eq!(
        trial.content("/srv/log"),
        [(9, record(customer(7, "last", "x")))]
    );
    let gone = Steps::of(&trial, &history("/srv/never")).rename("/srv/unknown");
    trial.apply([gone.changes]);
}

/// What is cleared is deleted row by row, and what comes behind it in the batch is there.
pub fn clears_a_history(harness: &mut dyn Harness) {
    let people = history("/srv/people.dat");
    let mut trial = Trial::begin(harness);
    let mut steps = Steps::of(&trial, &people).image(8, residue("x"));
    for id in 1..6 {
        steps = steps.put(id, "Ann");
    }
    trial.apply([steps.clear(2..4).put(3, "Bob").changes]);
    let table = table_name(&mut trial, "/srv/people.dat");
    let first = [
        "1 put Ann",
        "2 put Ann",
        "2 delete NULL",
        "3 put Ann",
        "3 delete NULL",
        "3 put Bob",
        "4 put Ann",
        "5 put Ann",
    ];
    if let Some(rows) = happened(&mut trial, &table, &people) {
        assert_eq!(rows, first);
    }
    let steps = Steps::of(&trial, &people)
        .put(2, "Eve")
        .clear(0..u64::MAX)
        .clear(3..5)
        .put(4, "Zoe");
    trial.apply([steps.changes]);
    if let Some(rows) = happened(&mut trial, &table, &people) {
        let expected = [
            "1 put Ann",
            "1 delete NULL",
            "2 put Ann",
            "2 delete NULL",
            "2 put Eve",
            "2 delete NULL",
            "3 put Ann",
            "3 delete NULL",
            "3 put Bob",
            "3 delete NULL",
            "4 put Ann",
            "4 delete NULL",
            "4 put Zoe",
            "5 put Ann",
            "5 delete NULL",
        ];
        assert_eq!(rows, expected);
    }
    assert_eq!(
        trial.content("/srv/people.dat"),
        [(4, record(customer(7, "Zoe", "x")))]
    );
    // Its columns change as any table's do; what is no more stays as it was written.
    let spec = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    let wider = planned("/srv/people.dat", &with_region(), &spec);
    let data = [customer(4711, "Ida", "new"), b"NW".to_vec()].concat();
    let steps = Steps::of(&trial, &wider).image(9, record(&data));
    trial.apply([steps.changes]);
    let own = [POSITION, &["op"]].concat();
    if let Some(rows) = rows_of(&mut trial, &table, &wider, &own) {
        let last = rows.last().expect("there are rows");
        assert_eq!(
            texts(last)[4..],
            ["put", "4711", "Ida", "new", "NW", "NULL"]
        );
        assert_eq!(rows.len(), 16);
    }
    let stream = trial.sink().position(STREAM).expect("reading the position");
    assert_eq!(stream, Some(trial.position()));
}

/// What was refused before and comes later, at the position that the target has, may come twice: whoever brought it may have
/// been stopped before that was noted. A row is there once, and the position stays.
pub fn takes_an_amendment_twice(harness: &mut dyn Harness) {
    let people = planned("/srv/people.dat", CUSTOMER, &PlanSpec::default());
    let journal = history("/srv/journal");
    let mut trial = Trial::begin(harness);
    let (ann, eve) = (customer(7, "Ann", "x"), customer(7, "Eve", "x"));
    let mut steps = Steps::of(&trial, &journal).put(1, "Ann").put(3, "Ida");
    // In between come those that were refused.
    let refused = steps.next;
    steps.next.index += 4;
    let steps = steps.put(1, "Bob");
    let images = [(1, record(&ann)), (3, record(&ann))];
    trial.apply([changes(&people, images), steps.changes]);
    let table = table_name(&mut trial, "/srv/journal");
    let position = trial.position();
    let late = [(2, record(&eve)), (1, Image::Absent)];
    let mut missed = changes(&journal, []);
    // Of one that was deleted since, that is said with it.
    let deleted = [(4, record(&eve)), (4, Image::Absent)];
    let log = late.iter().chain(&deleted).cloned();
    for ((id, image), index) in log.zip(refused.index..) {
        missed.log.push(Logged {
            position: Position { index, ..refused },
            captured_ns: 1_700_000_000_123_456_000,
            change: LoggedChange::Image { id, image },
        });
    }
    let amendment = Batch {
        after: Some(position),
        position,
        ..trial.batch([changes(&people, late), missed])
    };
    assert!(amendment.is_amendment());
    let mut current = amendment.clone();
    current.files[1].images.insert(2, record(&eve));
    for _ in 0..2 {
        trial
            .sink()
            .apply(&amendment)
            .expect("applying an amendment");
        trial.note(&current);
        trial.reopen();
        check(&mut trial, &people, [(2, &eve), (3, &ann)]);
        if let Some(rows) = happened(&mut trial, &table, &journal) {
            let expected = [
                "1 put Ann",
                "1 delete NULL",
                "1 put Bob",
                "2 put Eve",
                "3 put Ida",
                "4 put Eve",
                "4 delete NULL",
            ];
            assert_eq!(rows, expected);
        }
    }
    assert_eq!(trial.position(), position);
}
