//! Where each item lies: offsets, lengths and slack bytes, worked out once.

use super::{
    Content, Dialect, Family, FieldType, Item, ItemId, ItemRef, RecordSchema, Rename, SourcePlace,
    columns,
};
use crate::RECORD_SIZE_MAX;

/// How many items a schema may have.
pub const ITEMS_MAX: usize = 20_000;

/// How deep groups may lie in each other; level numbers go to 49.
pub const DEPTH_MAX: usize = 50;

/// Items that make no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    /// The item that it is about.
    pub place: SourcePlace,
    /// What is wrong, and with which item.
    pub message: String,
}

impl SchemaError {
    pub(super) fn new(item: &Item, message: impl Into<String>) -> SchemaError {
        SchemaError {
            place: item.place.clone(),
            message: message.into(),
        }
    }
}

impl RecordSchema {
    /// The items that a name can mean, maybe qualified (`STREET OF HOME`), in the order of the record.
    pub fn find(&self, name: &str) -> Vec<ItemId> {
        let mut known = Vec::new();
        note(&self.root, &mut Vec::new(), &mut Vec::new(), &mut known);
        meant(&known, name).collect()
    }

    /// Works out where everything lies, and the columns.
    ///
    /// `root` is the record: what [`Item`] says is set here is ignored and set.
    ///
    /// # Errors
    /// The first thing that makes no record: an item without content, a reference to an item that isn't there or is in
    /// the wrong place, more than the limits allow.
    pub fn build(
        mut root: Item,
        renames: Vec<Rename>,
        dialect: Dialect,
    ) -> Result<RecordSchema, SchemaError> {
        number(&mut root, &mut 0, 0)?;
        resolve(&mut root)?;
        if root.occurs.is_some() {
            return Err(SchemaError::new(
                &root,
                "a record itself can't occur several times",
            ));
        }
        lay_out(&mut root, Some(0), 0, &mut 1, &dialect)?;
        if !dialect.odo_slides {
            root.len_min = shortest(&root);
        }
        let renames = renamed(&root, renames)?;
        let tables = columns::tables(&root)?;
        let schema_id = columns::schema_id(&tables);
        let mut counters = Vec::new();
        root.visit(&mut |item| {
            let counter = item.occurs.as_ref().and_then(|it| it.depending_on.as_ref());
            counters.extend(counter.map(|counter| counter.id));
        });
        counters.sort();
        counters.dedup();
        let (mut guarded, mut deciders) = (Vec::new(), Vec::new());
        root.visit(&mut |item| {
            if !item.when.is_empty() && has_tables(item) {
                guarded.push(item.id);
                deciders.extend(item.when.iter().map(|choice| choice.field.id));
            }
        });
        Ok(RecordSchema {
            name: root.name_or_filler().to_owned(),
            dialect,
            root,
            renames,
            counters,
            guarded,
            deciders,
            tables,
            schema_id,
        })
    }
}

/// Whether what is in an item can't be told from its place alone: tables whose occurrences are rows, or are counted.
fn has_tables(item: &Item) -> bool {
    let is_counted = item
        .occurs
        .as_ref()
        .is_some_and(|occurs| occurs.depending_on.is_some());
    is_counted || columns::is_table(item) || item.items().iter().any(has_tables)
}

/// Gives each item its identity, and checks what doesn't take others.
fn number(item: &mut Item, next: &mut u32, depth: usize) -> Result<(), SchemaError> {
    if *next as usize >= ITEMS_MAX {
        return Err(SchemaError::new(
            item,
            format!("a record has at most {ITEMS_MAX} items"),
        ));
    }
    if depth >= DEPTH_MAX {
        return Err(SchemaError::new(
            item,
            format!("groups lie at most {DEPTH_MAX} deep in each other"),
        ));
    }
    item.id = ItemId(*next);
    *next += 1;
    item.is_variant = item.redefines.is_some();
    if let Some(occurs) = &item.occurs
        && (occurs.max == 0 || occurs.min > occurs.max)
    {
        let message = format!(
            "{} can't occur {} to {} times",
            item.name_or_filler(),
            occurs.min,
            occurs.max
        );
        return Err(SchemaError::new(item, message));
    }
    let empty = match &item.content {
        Content::Group(items) => items.is_empty(),
        Content::Field(field) => field.is_empty(),
    };
    if empty {
        let message = format!("{} takes no bytes", item.name_or_filler());
        return Err(SchemaError::new(item, message));
    }
    if let Content::Group(items) = &mut item.content {
        for child in items {
            number(child, next, depth + 1)?;
        }
    }
    Ok(())
}

/// What is known of an item while references are looked up.
struct Known {
    name: Option<String>,
    /// Names of the groups it is in, the innermost first.
    groups: Vec<String>,
    /// Tables it is in, itself included, the outermost first.
    tables: Vec<ItemId>,
    is_field: bool,
    is_number: bool,
}

/// Looks up REDEFINES, DEPENDING ON and the fields of choices.
fn resolve(root: &mut Item) -> Result<(), SchemaError> {
    let mut known = Vec::new();
    note(root, &mut Vec::new(), &mut Vec::new(), &mut known);
    resolve_in(root, &known)
}

fn note(item: &Item, groups: &mut Vec<String>, tables: &mut Vec<ItemId>, known: &mut Vec<Known>) {
    if item.occurs.is_some() {
        tables.push(item.id);
    }
    known.push(Known {
        name: item.name.clone(),
        groups: groups.iter().rev().cloned().collect(),
        tables: tables.clone(),
        is_field: item.field_type().is_some(),
        is_number: item
            .field_type()
            .and_then(FieldType::decimal)
            .is_some_and(|decimal| decimal.scale <= 0),
    });
    if let Some(name) = &item.name {
        groups.push(name.clone());
    }
    for child in item.items() {
        note(child, groups, tables, known);
    }
    if item.name.is_some() {
        groups.pop();
    }
    if item.occurs.is_some() {
        tables.pop();
    }
}

/// The items that a name, maybe qualified, can mean.
fn meant<'k>(known: &'k [Known], name: &str) -> impl Iterator<Item = ItemId> + 'k {
    let names: Vec<String> = name
        .split_whitespace()
        .filter(|word| !word.eq_ignore_ascii_case("OF") && !word.eq_ignore_ascii_case("IN"))
        .map(str::to_owned)
        .collect();
    known
        .iter()
        .enumerate()
        .filter(move |(_, item)| {
            let Some((own, qualifiers)) = names.split_first() else {
                return false;
            };
            let mut groups = item.groups.iter();
            item.name
                .as_ref()
                .is_some_and(|name| name.eq_ignore_ascii_case(own))
                && qualifiers
                    .iter()
                    .all(|wanted| groups.any(|group| group.eq_ignore_ascii_case(wanted)))
        })
        .map(|(at, _)| ItemId(at as u32))
}

fn resolve_in(item: &mut Item, known: &[Known]) -> Result<(), SchemaError> {
    let (id, place) = (item.id, item.place.clone());
    let failed = |message: String| {
        Err(SchemaError {
            place: place.clone(),
            message,
        })
    };
    let own = item.name_or_filler().to_owned();
    let within = &known[id.0 as usize].tables;
    if let Some(depending_on) = item
        .occurs
        .as_mut()
        .and_then(|occurs| occurs.depending_on.as_mut())
    {
        let name = depending_on.name.clone();
        let mut found: Vec<ItemId> = meant(known, &name).filter(|found| *found < id).collect();
        // Of several with this name, the one in the same occurrence is meant, or else the nearest.
        found.sort_by_key(|found| (known[found.0 as usize].tables.len(), *found));
        let Some(&found) = found.last() else {
            return failed(match meant(known, &name).next() {
                Some(_) => format!("{own} depends on {name}, which comes behind it in the record"),
                None => format!(
                    "{own} depends on {name}, which isn't in the record: its length can't be told from its bytes"
                ),
            });
        };
        let counter = &known[found.0 as usize];
        if !counter.is_number {
            return failed(format!(
                "{own} depends on {name}, which isn't a whole number"
            ));
        }
        // The counter is found on the way to the table: what it is in, the table is in as well.
        if !within.starts_with(&counter.tables) {
            return failed(format!(
                "{own} depends on {name}, which occurs several times itself"
            ));
        }
        depending_on.id = found;
    }
    for choice in &mut item.when {
        let name = choice.field.name.clone();
        let Some(found) = meant(known, &name).find(|found| {
            let tables = &known[found.0 as usize].tables;
            known[found.0 as usize].is_field && within.starts_with(tables)
        }) else {
            return failed(format!(
                "which records have {own} is to be told from {name}, which isn't a field that each of them has once"
            ));
        };
        choice.field.id = found;
    }
    let Content::Group(items) = &mut item.content else {
        return Ok(());
    };
    for at in 0..items.len() {
        let (before, rest) = items.split_at_mut(at);
        let item = &mut rest[0];
        let own = item.name_or_filler().to_owned();
        let place = item.place.clone();
        if let Some(redefines) = &mut item.redefines {
            let name = &redefines.name;
            let target = before.iter_mut().rev().find(|target| {
                let named = target.name.as_ref();
                named.is_some_and(|named| named.eq_ignore_ascii_case(name))
            });
            let Some(target) = target else {
                return Err(SchemaError {
                    place,
                    message: format!(
                        "{own} redefines {name}, but no item before it in the same group has this name"
                    ),
                });
            };
            redefines.id = target.id;
            target.is_variant = true;
        }
        resolve_in(item, known)?;
    }
    Ok(())
}

/// Sets offsets and lengths. `fixed` is where the item begins if that is fixed, `longest` where it begins when all
/// tables before it are longest. `boundary` becomes the widest that SYNCHRONIZED items in it have to lie at, which each
/// occurrence of a table is padded to.
///
/// GnuCOBOL (3.1) has its own ways there, which `tests/copybook_oracle.rs` shows: a group forgets the boundaries of what is
/// before it, and the padding lies before the last field of an occurrence, unless that is in a table of its own.
fn lay_out(
    item: &mut Item,
    fixed: Option<u32>,
    longest: u32,
    boundary: &mut u32,
    dialect: &Dialect,
) -> Result<(), SchemaError> {
    item.offset = fixed;
    item.offset_max = longest;
    item.padding = 0;
    let too_long = |place: &SourcePlace, name: &str| SchemaError {
        place: place.clone(),
        message: format!("with {name} the record is longer than {RECORD_SIZE_MAX} bytes"),
    };
    let (name, place) = (item.name_or_filler().to_owned(), item.place.clone());
    let limited = |len: u32| match u64::from(len) <= RECORD_SIZE_MAX {
        true => Ok(len),
        false => Err(too_long(&place, &name)),
    };
    let is_table = item.occurs.as_ref().is_some_and(|occurs| occurs.max > 1);
    match &mut item.content {
        Content::Field(field) => {
            item.len = limited(field.len())?;
            item.len_min = item.len;
        }
        Content::Group(items) => {
            let (mut len, mut len_min) = (0u32, 0u32);
            let mut sliding = false;
            let outer = std::mem::replace(boundary, 1);
            // Where each item that others redefine begins in the shortest group.
            let mut begins_min: Vec<(ItemId, u32)> = Vec::new();
            for at in 0..items.len() {
                let (before, rest) = items.split_at_mut(at);
                let child = &mut rest[0];
                child.slack = 0;
                let target = child
                    .redefines
                    .as_ref()
                    .and_then(|redefines| before.iter().find(|target| target.id == redefines.id));
                let (begin, begin_min);
                if let Some(target) = target {
                    child.offset_in_group = target.offset_in_group;
                    begin = target.offset_max - longest;
                    begin_min = begins_min
                        .iter()
                        .find(|(id, _)| *id == target.id)
                        .map_or(0, |(_, begin)| *begin);
                } else {
                    let align = if dialect.sync { child.align.max(1) } else { 1 };
                    let behind = longest + len;
                    child.slack = (align - behind % align) % align;
                    begin = limited(len.saturating_add(child.slack))?;
                    begin_min = len_min.saturating_add(child.slack);
                    child.offset_in_group = (!sliding).then_some(begin);
                }
                if child.is_variant {
                    begins_min.push((child.id, begin_min));
                }
                let offset = fixed.and_then(|fixed| Some(fixed + child.offset_in_group?));
                lay_out(child, offset, longest + begin, boundary, dialect)?;
                if dialect.sync {
                    *boundary = (*boundary).max(child.align);
                }
                // A redefinition may end behind what it redefines; then what follows begins there.
                len = len.max(limited(begin.saturating_add(child.len_occurrences()))?);
                len_min = len_min.max(begin_min.saturating_add(len_of_fewest(child, dialect)));
                sliding |= dialect.odo_slides && varies(child);
            }
            if is_table {
                let padding = (*boundary - len % *boundary) % *boundary;
                len = limited(len.saturating_add(padding))?;
                len_min = len_min.saturating_add(padding);
                match last_field(items) {
                    Some(last) if dialect.family == Family::Gnucobol => {
                        last.slack += padding;
                        last.offset_max += padding;
                        last.offset = last.offset.map(|offset| offset + padding);
                        last.offset_in_group = last.offset_in_group.map(|offset| offset + padding);
                    }
                    _ => item.padding = padding,
                }
            }
            if dialect.family != Family::Gnucobol {
                *boundary = outer.max(*boundary);
            }
            (item.len, item.len_min) = (len, len_min);
        }
    }
    limited(item.len_occurrences())?;
    Ok(())
}

/// The field that an occurrence with these items ends with, unless it is in a table there, or redefines something.
fn last_field(items: &mut [Item]) -> Option<&mut Item> {
    let last = items.last_mut()?;
    if last.redefines.is_some() {
        return None;
    }
    match &last.content {
        Content::Field(_) => Some(last),
        Content::Group(_) if last.occurs.is_some() => None,
        Content::Group(_) => match &mut last.content {
            Content::Group(items) => last_field(items),
            Content::Field(_) => None,
        },
    }
}

/// Whether the bytes of all its occurrences together are more in one record and fewer in another.
fn varies(item: &Item) -> bool {
    item.len_min != item.len
        || item
            .occurs
            .as_ref()
            .is_some_and(|occurs| occurs.min != occurs.max)
}

/// The fewest bytes that all occurrences take in the midst of a record.
fn len_of_fewest(item: &Item, dialect: &Dialect) -> u32 {
    match &item.occurs {
        _ if !dialect.odo_slides => item.len_occurrences(),
        Some(occurs) => item.len_min.saturating_mul(occurs.min),
        None => item.len_min,
    }
}

/// The shortest record where tables don't slide: the one whose last table has its fewest occurrences.
fn shortest(item: &Item) -> u32 {
    let begin = |child: &Item| child.offset_max - item.offset_max;
    let end = item
        .items()
        .iter()
        .map(|child| begin(child) + child.len_occurrences())
        .max();
    let Some(end) = end else { return item.len };
    // Something that can't get shorter ends there as well, or padding does.
    let mut last = item
        .items()
        .iter()
        .filter(|child| begin(child) + child.len_occurrences() == end);
    match (last.next(), last.next()) {
        (Some(child), None) if item.padding == 0 => {
            let shorter = match &child.occurs {
                Some(occurs) if occurs.depending_on.is_some() => {
                    begin(child) + child.len * occurs.min
                }
                Some(_) => end,
                None => begin(child) + shortest(child),
            };
            // Other items may end behind where the shortened one does.
            item.items()
                .iter()
                .filter(|other| other.id != child.id)
                .map(|other| begin(other) + other.len_occurrences())
                .fold(shorter, u32::max)
        }
        _ => item.len,
    }
}

/// Looks up the items of RENAMES.
fn renamed(root: &Item, mut renames: Vec<Rename>) -> Result<Vec<Rename>, SchemaError> {
    let mut known = Vec::new();
    note(root, &mut Vec::new(), &mut Vec::new(), &mut known);
    for rename in &mut renames {
        let failed = |message: String| SchemaError {
            place: rename.place.clone(),
            message,
        };
        let find = |reference: &mut ItemRef| match meant(&known, &reference.name).next() {
            Some(id) => {
                reference.id = id;
                Ok(())
            }
            None => Err(failed(format!(
                "{} renames {}, which isn't in the record",
                rename.name, reference.name
            ))),
        };
        let (mut first, mut last) = (rename.first.clone(), rename.last.clone());
        find(&mut first)?;
        find(&mut last)?;
        if last.id < first.id {
            return Err(failed(format!(
                "{} renames {} through {}, which comes before it",
                rename.name, first.name, last.name
            )));
        }
        (rename.first, rename.last) = (first, last);
    }
    Ok(renames)
}
