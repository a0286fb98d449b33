//! Schemas from a configuration: field lists, for those without a copybook, and what a copybook can't say.

use super::{
    Choice, Content, Dialect, FieldType, Item, ItemRef, Occurs, RecordSchema, SchemaError,
};
use serde::Deserialize;

/// A field, or a group of fields, in a field list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// Its name; without one, its bytes are passed over.
    pub name: Option<String>,
    /// Its type, as in [`FieldType::parse`]; a group has none.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What is in it, if it is a group.
    #[serde(default)]
    pub fields: Vec<FieldSpec>,
    /// How often it occurs, if more than once.
    pub occurs: Option<OccursSpec>,
    /// The field before it whose bytes it describes in another way.
    pub redefines: Option<String>,
    /// In which records it is what the bytes hold.
    pub when: Option<WhenSpec>,
}

/// How often a field occurs: a number, or bounds and the field that counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OccursSpec {
    /// Always so often.
    Times(u32),
    /// As often as a field says.
    Depending(DependingSpec),
}

/// How often a field occurs, where another field says that.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DependingSpec {
    /// The fewest; 0 unless said.
    #[serde(default)]
    pub min: u32,
    /// The most.
    pub max: u32,
    /// The field that says how often.
    pub depending_on: String,
}

/// In which records something is there: where a field has one of some values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhenSpec {
    /// The field.
    pub field: String,
    /// The values, as text.
    pub is: Vec<String>,
}

/// What a copybook can't say of one of its items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemSpec {
    /// The item, by its name in the copybook; ` OF ` and the name of a group make it unique.
    pub name: String,
    /// The date or time that it holds.
    pub date: Option<String>,
    /// In which records it is what the bytes hold.
    pub when: Option<WhenSpec>,
    /// Its type, if it isn't what the copybook says; it takes as many bytes.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

impl WhenSpec {
    fn choice(&self) -> Choice {
        Choice {
            field: ItemRef::named(self.field.clone()),
            values: self.is.clone(),
        }
    }
}

impl FieldSpec {
    /// The item that it describes, to be put into a schema.
    ///
    /// # Errors
    /// What is wrong with it, and with which field in it.
    pub fn item(&self, level: u8, dialect: &Dialect) -> Result<Item, String> {
        let shown = self.name.as_deref().unwrap_or("a field without a name");
        let name = self.name.clone();
        if let Some(name) = &self.name
            && (name.trim().is_empty() || name.len() > 100 || name.chars().any(char::is_whitespace))
        {
            return Err(format!("{name:?} can't be the name of a field"));
        }
        let mut item = match (&self.kind, self.fields.is_empty()) {
            (Some(kind), true) => {
                let field =
                    FieldType::parse(kind, dialect).map_err(|error| format!("{shown}: {error}"))?;
                Item::field(level, name, field)
            }
            (None, false) => {
                if usize::from(level) > super::DEPTH_MAX {
                    return Err(format!("{shown}: groups lie too deep in each other"));
                }
                let items: Result<Vec<Item>, String> = self
                    .fields
                    .iter()
                    .map(|field| field.item(level + 1, dialect))
                    .collect();
                Item::group(level, name, items?)
            }
            (Some(_), false) => {
                return Err(format!(
                    "{shown} has a type and fields: it can have only one of both"
                ));
            }
            (None, true) => {
                return Err(format!("{shown} has neither a `type` nor `fields`"));
            }
        };
        item.occurs = self.occurs.as_ref().map(|occurs| match occurs {
            OccursSpec::Times(times) => Occurs {
                min: *times,
                max: *times,
                depending_on: None,
            },
            OccursSpec::Depending(depending) => Occurs {
                min: depending.min,
                max: depending.max,
                depending_on: Some(ItemRef::named(depending.depending_on.clone())),
            },
        });
        item.redefines = self.redefines.clone().map(ItemRef::named);
        item.when = self.when.as_ref().map(WhenSpec::choice);
        Ok(item)
    }
}

impl RecordSchema {
    /// The schema of a field list.
    ///
    /// # Errors
    /// What is wrong, and with which field.
    pub fn of_fields(
        name: &str,
        fields: &[FieldSpec],
        dialect: &Dialect,
    ) -> Result<RecordSchema, String> {
        let items: Result<Vec<Item>, String> =
            fields.iter().map(|field| field.item(2, dialect)).collect();
        let root = Item::group(1, Some(name.to_owned()), items?);
        RecordSchema::build(root, Vec::new(), dialect.clone())
            .map_err(|SchemaError { message, .. }| message)
    }

    /// The same schema with what a configuration says of an item.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn with_item(&self, spec: &ItemSpec) -> Result<RecordSchema, String> {
        let (mut root, dialect) = (self.root.clone(), self.dialect.clone());
        let found = self.find(&spec.name);
        let id = match found.as_slice() {
            [id] => *id,
            [] => return Err(format!("there is no item {:?} in {}", spec.name, self.name)),
            _ => {
                return Err(format!(
                    "{} items of {} are called {:?}: write it with ` OF ` and the name of a group",
                    found.len(),
                    self.name,
                    spec.name
                ));
            }
        };
        let Some(item) = root.item_mut(id) else {
            return Err(format!("there is no item {:?}", spec.name));
        };
        if let Some(kind) = &spec.kind {
            let Content::Field(field) = &mut item.content else {
                return Err(format!("{} is a group, which has no type", spec.name));
            };
            let other = FieldType::parse(kind, &dialect)?;
            if other.len() != field.len() {
                return Err(format!(
                    "{other} takes {} bytes, and {} has {}",
                    other.len(),
                    spec.name,
                    field.len()
                ));
            }
            *field = other;
        }
        if let Some(date) = &spec.date {
            let Content::Field(field) = &mut item.content else {
                return Err(format!("{} is a group, which holds no date", spec.name));
            };
            *field = field.clone().dated(date)?;
        }
        if let Some(when) = &spec.when {
            item.when = Some(when.choice());
        }
        RecordSchema::build(root, self.renames.clone(), dialect).map_err(|error| error.message)
    }
}

impl Item {
    fn item_mut(&mut self, id: super::ItemId) -> Option<&mut Item> {
        let mut item = self;
        while item.id != id {
            let Content::Group(items) = &mut item.content else {
                return None;
            };
            item = items.iter_mut().rev().find(|child| child.id <= id)?;
        }
        Some(item)
    }
}
