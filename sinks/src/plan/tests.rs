use super::*;
use counterfoil_records::schema::{Dialect, FieldSpec, RecordSchema};
use counterfoil_records::{Layout, Organization};

/// A record of a name, a card number, a balance and a day.
fn schema() -> FileSchema {
    let fields = [
        ("cust-name", "text(6)"),
        ("card-number", "zoned(8)"),
        ("balance", "packed(7,2) signed"),
        ("op", "text(1)"),
    ];
    fields_schema(&fields)
}

fn fields_schema(fields: &[(&str, &str)]) -> FileSchema {
    let specs: Vec<FieldSpec> = fields
        .iter()
        .map(|(name, kind)| {
            serde_json::from_value(serde_json::json!({ "name": name, "type": kind }))
                .expect("a field")
        })
        .collect();
    let schema = RecordSchema::of_fields("customer", &specs, &Dialect::default());
    FileSchema(Arc::new(schema.expect("a schema")))
}

const FORMAT: RecordFormat = RecordFormat {
    organization: Organization::Fixed,
    layout: Layout::Plain,
    settings: counterfoil_records::Settings::NONE,
    record_size: Some(19),
    varseq_format: None,
};

const ORIGIN: Origin<'_> = Origin {
    site: "hq",
    group: "cards",
    path: "/srv/cards.dat",
};

fn plan(spec: &PlanSpec) -> Result<Plan, Vec<String>> {
    Plan::new(spec, Some(&schema()), &FORMAT, ORIGIN)
}

fn names(plan: &Plan) -> Vec<String> {
    let columns = plan.columns().iter();
    columns
        .map(|column| format!("{} {}", column.name, column.kind))
        .collect()
}

fn cells(plan: &Plan, data: &[u8]) -> (Vec<String>, Option<String>) {
    let mut values = Vec::new();
    let mut room = CellRoom::default();
    let problem = plan.cells(data, false, &mut room, &mut |value| {
        values.push(match value {
            Value::Null => "NULL".to_owned(),
            value => value.to_string(),
        });
    });
    (values, problem)
}

const RECORD: &[u8] = b"Smith 12345678\x00\x12\x34\x5dD";

fn map<T: Clone>(pairs: &[(&str, T)]) -> BTreeMap<String, T> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

#[test]
fn all_fields_are_columns_unless_somebody_says_otherwise() {
    let plan = plan(&PlanSpec::default()).expect("a plan");
    assert_eq!(
        names(&plan),
        [
            "cust_name text(6)",
            "card_number integer",
            "balance decimal(7,2)",
            // The name is Counterfoil's own in a history.
            "op_field text(1)"
        ]
    );
    assert!(plan.has_raw() && plan.shape().decoded && !plan.is_history());
    let (values, problem) = cells(&plan, RECORD);
    assert_eq!(values, ["Smith", "12345678", "-123.45", "D"]);
    assert_eq!(problem, None);
}

#[test]
fn columns_are_chosen_renamed_converted_masked_and_joined_by_constants() {
    let spec = PlanSpec {
        raw: false,
        without: vec!["OP".into()],
        rename: map(&[("Balance", "amount".to_owned())]),
        kinds: map(&[("card-number", ColumnKind::Text { chars: Some(16) })]),
        masks: map(&[("CARD-NUMBER", Mask::Last4)]),
        constants: map(&[
            ("branch", Constant::Number(7)),
            ("site", Constant::Text("{site}:{file}{".into())),
        ]),
        ..PlanSpec::default()
    };
    let plan = plan(&spec).expect("a plan");
    assert_eq!(
        names(&plan),
        [
            "cust_name text(6)",
            "card_number text(16)",
            "amount decimal(7,2)",
            "branch bigint",
            "site text"
        ]
    );
    let (values, problem) = cells(&plan, RECORD);
    assert_eq!(
        values,
        ["Smith", "****5678", "-123.45", "7", "hq:cards.dat{"]
    );
    assert_eq!(problem, None);
    let only = PlanSpec {
        columns: Some(vec!["balance".into()]),
        ..PlanSpec::default()
    };
    let only = self::plan(&only).expect("a plan");
    assert_eq!(cells(&only, RECORD).0, ["-123.45"]);
}

#[test]
fn what_cant_be_decoded_is_null_and_told_but_not_of_what_is_masked() {
    let plan = plan(&PlanSpec::default()).expect("a plan");
    let mut broken = RECORD.to_vec();
    broken[1] = 0;
    broken[8] = b'x';
    let (values, problem) = cells(&plan, &broken);
    assert_eq!(values, ["NULL", "NULL", "-123.45", "D"]);
    let problem = problem.expect("two problems");
    assert!(
        problem.contains("cust_name: it has a character of code 0"),
        "{problem}"
    );
    assert!(
        problem.contains("card_number: byte 2 of the field is 78"),
        "{problem}"
    );
    // A record that ends too early has every column all the same.
    let (values, problem) = cells(&plan, &RECORD[..10]);
    assert_eq!(values, ["Smith", "NULL", "NULL", "NULL"]);
    assert!(problem.expect("three").contains("op"), "all are told");
    let masked = PlanSpec {
        raw: false,
        masks: map(&[
            ("card-number", Mask::Fixed("x".into())),
            ("cust-name", Mask::Last4),
        ]),
        ..PlanSpec::default()
    };
    let masked = self::plan(&masked).expect("a plan");
    let (values, problem) = cells(&masked, &broken);
    assert_eq!(values, ["NULL", "x", "-123.45", "D"]);
    let problem = problem.expect("two problems");
    assert!(
        !problem.contains("78") && !problem.contains("code 0"),
        "{problem}"
    );
}

#[test]
fn a_specification_that_doesnt_go_with_the_schema_is_refused_with_all_reasons() {
    let spec = PlanSpec {
        columns: Some(vec!["nme".into()]),
        masks: map(&[("balance", Mask::Last4)]),
        constants: map(&[
            ("lsn", Constant::Number(1)),
            ("region", Constant::Text("E\0".into())),
        ]),
        ..PlanSpec::default()
    };
    let problems = plan(&spec).expect_err("three problems").join("\n");
    assert!(
        problems.contains("there is no field nme; there are cust_name, card_number"),
        "{problems}"
    );
    assert!(problems.contains("raw = false"), "{problems}");
    assert!(
        problems.contains("that region always has contains a character of code 0"),
        "{problems}"
    );
    assert!(
        problems.contains("lsn is the name of a column of Counterfoil's own"),
        "{problems}"
    );
    let twice = PlanSpec {
        rename: map(&[("balance", "Cust_Name".to_owned())]),
        ..PlanSpec::default()
    };
    assert!(
        plan(&twice)
            .expect_err("twice")
            .join("\n")
            .contains("two columns")
    );
    let unknown = Plan::new(&spec, None, &FORMAT, ORIGIN).expect_err("no schema");
    assert!(
        unknown[0].contains("nothing says what is in the file's records"),
        "{unknown:?}"
    );
}

#[test]
fn a_shape_is_read_as_it_was_written() {
    assert_eq!(Shape::default().text(), "{}");
    for shape in [
        Shape::default(),
        plan(&PlanSpec::default()).expect("a plan").shape().clone(),
    ] {
        assert_eq!(Shape::parse(Some(&shape.text())), Ok(shape));
    }
    assert_eq!(Shape::parse(None), Ok(Shape::default()));
    Shape::parse(Some("{\"colour\":1}")).expect_err("of a later version");
}

#[test]
fn a_changed_schema_adds_widens_and_leaves_or_drops_columns() {
    let before = plan(&PlanSpec::default()).expect("a plan");
    let nothing = before.shape().evolve(&before).expect("the same");
    assert!(nothing.is_nothing() && before.shape().is_wanted(&before));
    assert_eq!(&nothing.shape, before.shape());
    let changed = fields_schema(&[
        ("cust-name", "text(8)"),
        ("card-number", "zoned(4)"),
        ("region", "text(2)"),
        ("balance", "packed(7,2) signed"),
    ]);
    let after = |may_drop| {
        let spec = PlanSpec {
            may_drop,
            ..PlanSpec::default()
        };
        Plan::new(&spec, Some(&changed), &FORMAT, ORIGIN).expect("a plan")
    };
    let evolution = before.shape().evolve(&after(false)).expect("possible");
    let shown = |columns: &[PlanColumn]| {
        let columns = columns.iter();
        columns
            .map(|c| format!("{} {}", c.name, c.kind))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&evolution.add), ["region text(2)"]);
    assert_eq!(shown(&evolution.widen), ["cust_name text(8)"]);
    assert_eq!(shown(&evolution.clear), ["op_field text(1)"]);
    assert!(evolution.drop.is_empty() && evolution.refill);
    // A column that holds more than is wanted stays as it is.
    assert_eq!(
        shown(&evolution.shape.columns),
        [
            "cust_name text(8)",
            "card_number integer",
            "region text(2)",
            "balance decimal(7,2)"
        ]
    );
    assert_eq!(shown(&evolution.shape.left), ["op_field text(1)"]);
    assert!(evolution.shape.is_wanted(&after(false)));
    // What was left behind is used again, or dropped when that is allowed.
    let back = evolution.shape.evolve(&before).expect("possible");
    assert!(back.add.is_empty() && back.refill);
    assert_eq!(shown(&back.clear), ["region text(2)"]);
    let dropping = evolution.shape.evolve(&after(true)).expect("possible");
    assert_eq!(shown(&dropping.drop), ["op_field text(1)"]);
    assert!(dropping.shape.left.is_empty());
}

#[test]
fn what_a_column_cant_become_is_said_or_made_anew() {
    let before = plan(&PlanSpec::default()).expect("a plan");
    let spec = |may_drop| PlanSpec {
        kinds: map(&[("cust-name", ColumnKind::BigInt)]),
        may_drop,
        ..PlanSpec::default()
    };
    let refused = before.shape().evolve(&plan(&spec(false)).expect("a plan"));
    let refused = refused.expect_err("text to number").join("\n");
    assert!(
        refused.contains("column cust_name holds text(6), and bigint is wanted"),
        "{refused}"
    );
    let anew = before.shape().evolve(&plan(&spec(true)).expect("a plan"));
    let anew = anew.expect("dropped and added");
    assert_eq!((anew.drop.len(), anew.add.len(), anew.refill), (1, 1, true));
    let history = PlanSpec {
        mode: Mode::History,
        ..PlanSpec::default()
    };
    let history = plan(&history).expect("a plan");
    before
        .shape()
        .evolve(&history)
        .expect_err("a table is one or the other");
    let bare = PlanSpec {
        raw: false,
        ..PlanSpec::default()
    };
    let bare = plan(&bare).expect("a plan");
    assert!(before.shape().evolve(&bare).expect("less").drop_raw);
    bare.shape()
        .evolve(&before)
        .expect_err("bytes that weren't kept");
}

#[test]
fn another_way_to_see_masked_bytes_is_refused() {
    let field =
        |json: serde_json::Value| -> FieldSpec { serde_json::from_value(json).expect("a field") };
    let specs = [
        field(serde_json::json!({ "name": "card-number", "type": "text(16)" })),
        field(
            serde_json::json!({ "name": "card-r", "redefines": "card-number", "fields": [
            { "name": "bin", "type": "zoned(6)" }, { "name": "rest-of-it", "type": "text(10)" },
        ] }),
        ),
        field(serde_json::json!({ "name": "holder", "type": "text(10)" })),
    ];
    let schema = RecordSchema::of_fields("card", &specs, &Dialect::default()).expect("a schema");
    let schema = FileSchema(Arc::new(schema));
    let plan = |without: &[&str]| {
        let spec = PlanSpec {
            raw: false,
            masks: map(&[("card-number", Mask::Last4)]),
            without: without.iter().map(|name| (*name).to_owned()).collect(),
            ..PlanSpec::default()
        };
        Plan::new(&spec, Some(&schema), &FORMAT, ORIGIN)
    };
    let problems = plan(&[]).expect_err("two columns show it").join("\n");
    assert!(
        problems.contains("bin has some of the same bytes"),
        "{problems}"
    );
    assert!(
        problems.contains("rest_of_it has some of the same bytes"),
        "{problems}"
    );
    assert!(!problems.contains("holder"), "{problems}");
    plan(&["bin", "rest-of-it"]).expect("nothing shows it");
}

#[test]
fn columns_that_trade_names_are_filled_anew() {
    let named = |a: &str, b: &str| {
        let spec = PlanSpec {
            rename: map(&[("cust-name", a.to_owned()), ("op", b.to_owned())]),
            kinds: map(&[
                ("cust-name", ColumnKind::Text { chars: Some(9) }),
                ("op", ColumnKind::Text { chars: Some(9) }),
            ]),
            ..PlanSpec::default()
        };
        plan(&spec).expect("a plan")
    };
    let evolution = named("x", "y").shape().evolve(&named("y", "x"));
    assert!(evolution.expect("possible").refill);
}

/// A person or a firm in the same bytes, by the record's kind.
fn variants() -> FileSchema {
    let specs: Vec<FieldSpec> = serde_json::from_value(serde_json::json!([
        { "name": "kind", "type": "text(1)" },
        { "name": "person", "type": "text(6)", "when": { "field": "kind", "is": ["P"] } },
        { "name": "shares", "type": "zoned(6,2)", "redefines": "person", "when": { "field": "kind", "is_not": "P" } },
        { "name": "day", "type": "zoned(8) as YYYYMMDD", "null_if": "99991231" },
    ]))
    .expect("fields");
    let schema = RecordSchema::of_fields("party", &specs, &Dialect::default());
    FileSchema(Arc::new(schema.expect("a schema")))
}

#[test]
fn columns_of_another_variant_are_null_and_nothing_is_undecoded() {
    let plan = Plan::new(&PlanSpec::default(), Some(&variants()), &FORMAT, ORIGIN).expect("a plan");
    let row = |data: &[u8]| cells(&plan, data);
    assert_eq!(
        row(b"PSmith 20260131"),
        (
            ["P", "Smith", "NULL", "2026-01-31"]
                .map(str::to_owned)
                .to_vec(),
            None
        )
    );
    assert_eq!(
        row(b"F00125099991231"),
        (
            ["F", "NULL", "12.50", "NULL"].map(str::to_owned).to_vec(),
            None
        )
    );
    let (values, problem) = row(b"FSmith 20260132");
    assert_eq!(values, ["F", "NULL", "NULL", "NULL"]);
    let problem = problem.expect("two fields aren't decodable");
    assert!(
        problem.contains("shares:") && problem.contains("day:"),
        "{problem}"
    );
}
