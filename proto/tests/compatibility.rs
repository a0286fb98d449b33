//! What was once published stays readable: no field changes its number, its type or its name, and none is used again.
//!
//! `fields.txt` is every field and enumeration value that there ever was. What is new is added to it (the test prints the
//! lines); what is taken out of the schema is `reserved` there and stays in the list.

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor};

const KNOWN: &str = include_str!("fields.txt");

fn pool() -> DescriptorPool {
    let root = env!("CARGO_MANIFEST_DIR");
    let set = protox::compile(["counterfoil/v1/event.proto"], [root]).expect("a sound schema");
    DescriptorPool::from_file_descriptor_set(set).expect("a sound schema")
}

fn fields(message: &MessageDescriptor) -> Vec<String> {
    let shown = message.fields().map(|field| {
        let kind = format!("{:?}", field.kind());
        let label = match (
            field.is_list(),
            field.field_descriptor_proto().proto3_optional(),
        ) {
            (true, _) => "repeated ",
            (false, true) => "optional ",
            (false, false) => "",
        };
        format!("{} = {}: {label}{kind}", field.full_name(), field.number())
    });
    shown.collect()
}

fn values(enumeration: &EnumDescriptor) -> Vec<String> {
    let shown = enumeration
        .values()
        .map(|value| format!("{} = {}", value.full_name(), value.number()));
    shown.collect()
}

#[test]
fn fields_keep_their_numbers_names_and_types() {
    let pool = pool();
    let mut present: Vec<String> = pool.all_messages().flat_map(|it| fields(&it)).collect();
    present.extend(pool.all_enums().flat_map(|it| values(&it)));
    let known: Vec<&str> = KNOWN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let missing: Vec<&String> = present
        .iter()
        .filter(|line| !known.contains(&line.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "these are new, or not what they were; add what is new to proto/tests/fields.txt: {missing:#?}"
    );
    for line in known {
        if present.iter().any(|known| known == line) {
            continue;
        }
        // It was taken out: then nobody may take its number or its name.
        let (name, rest) = line.split_once(" = ").expect("NAME = NUMBER");
        let number: u32 = rest
            .split(':')
            .next()
            .and_then(|number| number.parse().ok())
            .expect("a number");
        let (message, field) = name.rsplit_once('.').expect("a full name");
        let reserved = pool.get_message_by_name(message).is_some_and(|message| {
            message
                .reserved_ranges()
                .any(|range| range.contains(&number))
                && message.reserved_names().any(|name| name == field)
        });
        assert!(
            reserved,
            "{line} is gone, and neither number nor name is reserved"
        );
    }
}

/// Every field says what it means.
#[test]
fn every_field_is_documented() {
    let mut before = "";
    for line in counterfoil_proto::EVENT_SCHEMA.lines().map(str::trim) {
        let defines = line.ends_with(';') && line.contains(" = ") && !line.starts_with("//")
            || line.starts_with("message ")
            || line.starts_with("enum ");
        if defines && !line.starts_with("syntax") {
            assert!(before.starts_with("//"), "{line} has no comment before it");
        }
        before = line;
    }
}
