//! A field list is a schema or an error, and a type that was read is read again from what is shown of it.
//!
//! The first byte chooses the dialect. Then there is a type in the notation of field lists, ended by a zero byte, and a field list
//! in TOML.
#![no_main]

use counterfoil_fuzz::Input;
use counterfoil_records::schema::{
    DateFormat, Dialect, Family, FieldSpec, FieldType, ItemSpec, RecordSchema,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let family = input.one_of(&[Family::Gnucobol, Family::Ibm, Family::Mf]);
    let dialect = Dialect::of(family);
    let text = input.text();
    if let Ok(field) = FieldType::parse(&text, &dialect) {
        let shown = field.to_string();
        let again = FieldType::parse(&shown, &dialect);
        assert_eq!(again.as_ref(), Ok(&field), "{text:?} is shown as {shown:?}");
    }
    if let Ok(format) = text.parse::<DateFormat>() {
        assert_eq!(format.pattern().parse::<DateFormat>().as_ref(), Ok(&format));
    }
    let _ = text.parse::<Dialect>();
    let list = String::from_utf8_lossy(input.0);
    let Ok(mut lists) =
        toml::from_str::<std::collections::BTreeMap<String, Vec<toml::Value>>>(&list)
    else {
        return;
    };
    let mut specs: Vec<FieldSpec> = Vec::new();
    for field in lists.remove("field").unwrap_or_default() {
        specs.extend(field.try_into().ok());
    }
    let Ok(schema) = RecordSchema::of_fields("FUZZ", &specs, &dialect) else {
        return;
    };
    for item in lists.remove("item").unwrap_or_default() {
        if let Ok(item) = item.try_into::<ItemSpec>() {
            let _ = schema.with_item(&item);
        }
    }
});
