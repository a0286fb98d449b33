//! Schemas from a configuration: field lists, for those without a copybook, and what a copybook can't say.

use super::{
    Absent, Content, Dialect, FieldType, Item, ItemRef, Occurs, RecordSchema, SchemaError, Values,
    WhenSpecs,
};
use crate::value::Unset;
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
    pub when: Option<WhenSpecs>,
    /// What it is where it was never filled: blank, or a date that is zeros or nines.
    pub blank: Option<UnsetWord>,
    /// Values that stand for none.
    pub null_if: Option<Values>,
    /// What it is where its bytes are no value.
    pub invalid: Option<UnsetWord>,
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
    /// What its occurrences become; rows unless said.
    #[serde(rename = "as")]
    pub shape: Option<OccursWord>,
}

/// What bytes without a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsetWord {
    /// NULL, and nothing is wrong.
    Null,
    /// Undecodable: NULL, with the reason beside it.
    Error,
}

/// What the occurrences of an item become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OccursWord {
    /// Columns with a number behind their names.
    Columns,
    /// Rows of a table of their own, where they are counted or too many.
    Rows,
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
    pub when: Option<WhenSpecs>,
    /// What it is where it was never filled: blank, or a date that is zeros or nines.
    pub blank: Option<UnsetWord>,
    /// Values that stand for none.
    pub null_if: Option<Values>,
    /// What it is where its bytes are no value.
    pub invalid: Option<UnsetWord>,
    /// What its occurrences become.
    pub occurs: Option<OccursWord>,
    /// Its type, if it isn't what the copybook says; it takes as many bytes.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

impl From<UnsetWord> for Unset {
    fn from(word: UnsetWord) -> Unset {
        match word {
            UnsetWord::Null => Unset::Null,
            UnsetWord::Error => Unset::Error,
        }
    }
}

/// What a configuration says of a field's bytes that are no value.
fn absent(
    blank: Option<UnsetWord>,
    null_if: Option<&Values>,
    invalid: Option<UnsetWord>,
) -> Absent {
    Absent {
        blank: blank.map(Unset::from),
        values: null_if.cloned().unwrap_or_default().0,
        invalid: invalid.map(Unset::from),
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
        if let Some(when) = &self.when {
            item.when = when
                .choices(None)
                .map_err(|error| format!("{shown}: {error}"))?;
        }
        item.absent = absent(self.blank, self.null_if.as_ref(), self.invalid);
        item.check_absent()
            .map_err(|error| format!("{shown}: {error}"))?;
        if let Some(OccursSpec::Depending(depending)) = &self.occurs {
            item.as_columns = depending.shape == Some(OccursWord::Columns);
        }
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
            item.when = when.choices(Some(self))?;
        }
        let said = absent(spec.blank, spec.null_if.as_ref(), spec.invalid);
        if !said.is_default() {
            item.absent = said;
        }
        item.check_absent()?;
        if let Some(occurs) = spec.occurs {
            if item.occurs.is_none() {
                return Err(format!("{} occurs once", spec.name));
            }
            item.as_columns = occurs == OccursWord::Columns;
        }
        RecordSchema::build(root, self.renames.clone(), dialect).map_err(|error| error.message)
    }
}

impl RecordSchema {
    /// A record whose bytes are seen in several ways: as each of these records, all of one dialect. `name` is what it is called,
    /// if no record is called that.
    ///
    /// # Errors
    /// They can't be one.
    pub fn any_of(name: &str, records: &[&RecordSchema]) -> Result<RecordSchema, SchemaError> {
        let mut items: Vec<Item> = Vec::new();
        let (mut renames, mut dialect) = (Vec::new(), Dialect::default());
        let mut name = name.to_owned();
        for record in records {
            let mut item = record.root.clone();
            item.redefines = items
                .first()
                .and_then(|first| first.name.clone())
                .map(ItemRef::named);
            if item
                .name
                .as_deref()
                .is_some_and(|own| own.eq_ignore_ascii_case(&name))
            {
                name.push_str("-RECORD");
            }
            for mut rename in record.renames.clone() {
                for end in [&mut rename.first, &mut rename.last] {
                    end.name = format!("{} OF {}", end.name, record.name);
                }
                renames.push(rename);
            }
            dialect.clone_from(&record.dialect);
            items.push(item);
        }
        let mut root = Item::group(1, Some(name), items);
        if let Content::Group(items) = &root.content
            && let Some(first) = items.first()
        {
            root.place = first.place.clone();
        }
        RecordSchema::build(root, renames, dialect)
    }

    /// The same schema with another meaning of blank fields, where they don't have their own.
    ///
    /// # Errors
    /// None that the schema hadn't.
    pub fn with_blank(&self, blank: Unset) -> Result<RecordSchema, String> {
        let mut root = self.root.clone();
        root.visit_mut(&mut |item| {
            let has_blanks = matches!(
                item.field_type(),
                Some(
                    FieldType::Zoned { .. } | FieldType::Packed { .. } | FieldType::DateTime { .. }
                )
            );
            if has_blanks {
                item.absent.blank.get_or_insert(blank);
            }
        });
        RecordSchema::build(root, self.renames.clone(), self.dialect.clone())
            .map_err(|error| error.message)
    }
}

impl Item {
    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Item)) {
        visit(self);
        if let Content::Group(items) = &mut self.content {
            for item in items {
                item.visit_mut(visit);
            }
        }
    }

    /// What is said of bytes without a value has to go with the item.
    fn check_absent(&self) -> Result<(), String> {
        if self.absent.is_default() {
            return Ok(());
        }
        let Content::Field(field) = &self.content else {
            return Err(
                "`blank`, `null_if` and `invalid` are about fields, and this is a group".to_owned(),
            );
        };
        for value in &self.absent.values {
            let mut bytes = vec![0; field.len() as usize];
            crate::value::field::encode_placeholder(value, field, &mut bytes)
                .map_err(|error| format!("null_if: {value:?} is no value of {field}: {error}"))?;
        }
        Ok(())
    }

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
