//! What only a person can say of an item: in which records it is there, and which of its bytes are no value.

use super::{Item, ItemRef, Literal, RecordSchema};
use crate::value::{Unset, Value};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cmp::Ordering;
use std::fmt;

/// In which records an item is what its bytes hold: where a field has one of some values. Of several choices all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The field: anywhere in the record, or in the same occurrence of a table.
    pub field: ItemRef,
    /// What it has to be.
    pub test: Test,
}

/// Whether a value is one of some. Text is compared without trailing spaces, numbers as numbers, and all else as it is written
/// for people; NULL is an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Test {
    /// Values.
    pub values: Vec<String>,
    /// Ranges, both ends included; text in the order of its characters' codes.
    pub ranges: Vec<(String, String)>,
    /// It holds where the value is none of these.
    pub negated: bool,
}

/// Which bytes of a field mean that it has no value, beyond what the decoder's policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Absent {
    /// Bytes that programs leave where there is no number or date: spaces, LOW-VALUES, HIGH-VALUES; of dates zeros and nines too.
    /// `None`: as the policy says.
    pub blank: Option<Unset>,
    /// Values that stand for none, as the field's bytes say them (`99991231` of a date). NULL is written as the first of them.
    pub values: Vec<String>,
    /// Bytes that are no value of the field at all. `None`: undecodable.
    pub invalid: Option<Unset>,
}

impl Test {
    /// A test for one of some values.
    pub fn is(values: impl IntoIterator<Item = impl Into<String>>) -> Test {
        Test {
            values: values.into_iter().map(Into::into).collect(),
            ..Test::default()
        }
    }

    /// It in words: `is A or B`, `is none of A`, `is 100 to 199`.
    pub fn words(&self) -> String {
        let shown = |value: &String| {
            if value.is_empty() {
                "blank".to_owned()
            } else {
                value.clone()
            }
        };
        let values = self.values.iter().map(shown);
        let ranges = self
            .ranges
            .iter()
            .map(|(low, high)| format!("{low} to {high}"));
        let all: Vec<String> = values.chain(ranges).collect();
        format!(
            "is {}{}",
            if self.negated { "none of " } else { "" },
            all.join(" or ")
        )
    }

    /// Whether it holds for a value.
    pub fn holds(&self, value: &Value<'_>) -> bool {
        let is_in = |(low, high): &(String, String)| {
            ordered(value, low).is_some_and(Ordering::is_ge)
                && ordered(value, high).is_some_and(Ordering::is_le)
        };
        let is = |wanted: &String| ordered(value, wanted) == Some(Ordering::Equal);
        (self.values.iter().any(is) || self.ranges.iter().any(is_in)) != self.negated
    }
}

/// How a value compares with what somebody wrote; `None` if that is no such value.
fn ordered(value: &Value<'_>, written: &str) -> Option<Ordering> {
    match value {
        Value::Text(text) => Some(
            text.trim_end_matches(' ')
                .cmp(written.trim_end_matches(' ')),
        ),
        Value::Number(number) => written
            .trim()
            .parse()
            .ok()
            .map(|written| number.compare(written)),
        Value::Null => Some("".cmp(written.trim())),
        value => Some(value.to_string().as_str().cmp(written.trim())),
    }
}

impl fmt::Display for Test {
    /// As part of a [`RecordSchema::schema_id`]: a format, which may only be added to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "is {}{:?}",
            if self.negated { "not " } else { "" },
            self.values
        )?;
        match self.ranges.is_empty() {
            true => Ok(()),
            false => write!(f, " within {:?}", self.ranges),
        }
    }
}

impl Absent {
    /// Whether it says nothing: all is as the policy says.
    pub fn is_default(&self) -> bool {
        *self == Absent::default()
    }

    /// Whether a value stands for none.
    pub(crate) fn is_placeholder(&self, value: &Value<'_>) -> bool {
        let mut values = self.values.iter();
        values.any(|placeholder| ordered(value, placeholder) == Some(Ordering::Equal))
    }
}

impl fmt::Display for Absent {
    /// As part of a [`RecordSchema::schema_id`]: a format, which may only be added to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |unset: Unset| match unset {
            Unset::Null => "null",
            Unset::Error => "error",
        };
        if let Some(blank) = self.blank {
            write!(f, " blank {}", word(blank))?;
        }
        if !self.values.is_empty() {
            write!(f, " null if {:?}", self.values)?;
        }
        match self.invalid {
            Some(invalid) => write!(f, " invalid {}", word(invalid)),
            None => Ok(()),
        }
    }
}

/// `when` of a configuration: one condition, or a list of them, of which all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhenSpecs(pub Vec<WhenSpec>);

/// In which records something is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhenSpec {
    /// The field that says it.
    pub field: Option<String>,
    /// It is one of these.
    pub is: Option<Values>,
    /// It is none of these.
    pub is_not: Option<Values>,
    /// It lies within two values, both included.
    pub between: Option<Values>,
    /// A condition name (level 88) of the copybook is true.
    pub condition: Option<String>,
    /// A condition name (level 88) of the copybook is false.
    pub not_condition: Option<String>,
}

/// A value or a list of them, texts or whole numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(pub Vec<String>);

impl WhenSpec {
    /// A field that is one of some values.
    pub fn is(field: impl Into<String>, values: Vec<String>) -> WhenSpec {
        WhenSpec {
            field: Some(field.into()),
            is: Some(Values(values)),
            ..WhenSpec::default()
        }
    }

    /// The choices that it says, all of which hold; condition names are looked up in `schema`, if there is one.
    fn choices(&self, schema: Option<&RecordSchema>) -> Result<Vec<Choice>, String> {
        let mut choices = Vec::new();
        for (name, negated) in [(&self.condition, false), (&self.not_condition, true)] {
            let Some(name) = name else { continue };
            let Some(schema) = schema else {
                return Err(format!(
                    "{name} is a condition name, which a field list has none of: say `field` and `is`"
                ));
            };
            let mut choice = condition(schema, name)?;
            choice.test.negated = negated;
            choices.push(choice);
        }
        let is_condition = !choices.is_empty();
        let Some(field) = &self.field else {
            return match is_condition && self.is.is_none() && self.is_not.is_none() && self.between.is_none() {
                true => Ok(choices),
                false => Err(
                    "`when` names a `field` and what it `is`, `is_not` or lies `between`, or a `condition` (level 88)"
                        .to_owned(),
                ),
            };
        };
        let ranges = match self.between.as_ref().map(|it| it.0.as_slice()) {
            None => Vec::new(),
            Some([low, high]) => vec![(low.clone(), high.clone())],
            Some(_) => {
                return Err("`between` takes two values: the lowest and the highest".to_owned());
            }
        };
        let test = Test {
            values: self.is.clone().unwrap_or_default().0,
            ranges,
            negated: false,
        };
        let not = self.is_not.clone().unwrap_or_default().0;
        if test == Test::default() && not.is_empty() {
            return Err(format!(
                "`when` doesn't say what {field} `is`, `is_not` or lies `between`"
            ));
        }
        let field = ItemRef::named(field.clone());
        if test != Test::default() {
            choices.push(Choice {
                field: field.clone(),
                test,
            });
        }
        if !not.is_empty() {
            let test = Test {
                negated: true,
                ..Test::is(not)
            };
            choices.push(Choice { field, test });
        }
        Ok(choices)
    }
}

impl WhenSpecs {
    /// The choices that all of them say.
    pub(super) fn choices(&self, schema: Option<&RecordSchema>) -> Result<Vec<Choice>, String> {
        let choices: Result<Vec<Vec<Choice>>, String> =
            self.0.iter().map(|spec| spec.choices(schema)).collect();
        Ok(choices?.into_iter().flatten().collect())
    }
}

impl From<WhenSpec> for WhenSpecs {
    fn from(spec: WhenSpec) -> WhenSpecs {
        WhenSpecs(vec![spec])
    }
}

/// What a condition name says: the item that it is of, and its values.
fn condition(schema: &RecordSchema, name: &str) -> Result<Choice, String> {
    let mut found = Vec::new();
    find_condition(schema.root(), &mut Vec::new(), name, &mut found);
    let (path, item) = match found.as_slice() {
        [one] => one,
        [] => {
            return Err(format!(
                "there is no condition name (level 88) {name:?} in {}",
                schema.name()
            ));
        }
        _ => {
            return Err(format!(
                "{} items have a condition name {name:?}: name the `field` and what it `is` instead",
                found.len()
            ));
        }
    };
    let Some(condition) = item
        .conditions
        .iter()
        .find(|it| it.name.eq_ignore_ascii_case(name))
    else {
        return Err(format!("there is no condition name {name:?}"));
    };
    // The record's own name tells nothing apart.
    let path = match path.as_slice() {
        [own @ .., _] if !own.is_empty() => own,
        all => all,
    };
    let is_number = item
        .field_type()
        .is_some_and(|field| field.decimal().is_some());
    let mut test = Test::default();
    for (low, high) in &condition.values {
        let text = |literal: &Literal| {
            text_of(literal, is_number, item.len)
                .ok_or_else(|| format!("a value of {name} is no text or number: name the `field` and what it `is` instead"))
        };
        match high {
            None => test.values.push(text(low)?),
            Some(high) => test.ranges.push((text(low)?, text(high)?)),
        }
    }
    Ok(Choice {
        field: ItemRef::named(path.join(" OF ")),
        test,
    })
}

/// Items with a condition of this name, each with its own name and those of the groups around it, the innermost first.
fn find_condition<'i>(
    item: &'i Item,
    groups: &mut Vec<&'i str>,
    name: &str,
    found: &mut Vec<(Vec<String>, &'i Item)>,
) {
    groups.extend(item.name.as_deref());
    if item
        .conditions
        .iter()
        .any(|it| it.name.eq_ignore_ascii_case(name))
    {
        let path = groups.iter().rev().map(|it| (*it).to_owned()).collect();
        found.push((path, item));
    }
    for child in item.items() {
        find_condition(child, groups, name, found);
    }
    if item.name.is_some() {
        groups.pop();
    }
}

fn text_of(literal: &Literal, is_number: bool, len: u32) -> Option<String> {
    match literal {
        Literal::Text(text) | Literal::Number(text) => Some(text.clone()),
        Literal::All(text) => Some(text.chars().cycle().take(len as usize).collect()),
        Literal::Figurative("SPACES") => Some(String::new()),
        Literal::Figurative("ZEROS") if is_number => Some("0".to_owned()),
        Literal::Figurative("ZEROS") => Some("0".repeat(len as usize)),
        Literal::Figurative("LOW-VALUES") => Some(String::new()),
        Literal::Figurative(_) | Literal::Bytes(_) => None,
    }
}

impl<'de> Deserialize<'de> for WhenSpecs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WhenSpecs, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = WhenSpecs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a condition such as { field = \"KIND\", is = [\"A\"] }, or a list of them",
                )
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<WhenSpecs, M::Error> {
                let spec = WhenSpec::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(spec.into())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<WhenSpecs, S::Error> {
                let mut specs = Vec::new();
                while let Some(spec) = seq.next_element()? {
                    specs.push(spec);
                }
                Ok(WhenSpecs(specs))
            }
        }
        from.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Values, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Values, E> {
                Ok(Values(vec![text.to_owned()]))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Values, E> {
                Ok(Values(vec![number.to_string()]))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Values, E> {
                Ok(Values(vec![number.to_string()]))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Values, S::Error> {
                let mut all = Vec::new();
                while let Some(Values(one)) = seq.next_element()? {
                    all.extend(one);
                }
                Ok(Values(all))
            }
        }
        from.deserialize_any(OneOrMany)
    }
}
