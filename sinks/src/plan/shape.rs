//! What a table looks like, as a catalogue remembers it, and how one becomes another.

use super::{ColumnKind, Plan};
use serde::{Deserialize, Serialize};

/// What a file's table keeps of a record's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The last image of each record: a row each.
    #[default]
    Mirror,
    /// Every image of each record: a row for every change.
    History,
}

/// What a sink may do to the structure of its database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ddl {
    /// It makes what it needs, and changes it when what is wanted changes.
    #[default]
    Manage,
    /// It makes and changes nothing, and says what differs from what it needs.
    Check,
    /// It makes and changes nothing, and doesn't look either.
    None,
}

/// A column that a plan fills.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanColumn {
    /// Its name. It is not quoted and may need it.
    pub name: String,
    /// What it holds. It may always be NULL.
    pub kind: ColumnKind,
}

/// A table's shape. Its JSON is what catalogues hold (`{}` for a mirror of raw images).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What it keeps.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// It has the bytes of records (`data`, `rest`), and residue is kept: files can be restored from it.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub raw: bool,
    /// Columns that are filled, in order. Where there are some of a record's fields, a column [`UNDECODED`] follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<PlanColumn>,
    /// Some of the columns are of a record's fields.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decoded: bool,
    /// Columns that once were filled and are still there, with nothing in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<PlanColumn>,
    /// Columns that records are looked up by, in order: they have an index that isn't unique, which others make where
    /// they make the table. Empty: there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// What decides how columns are filled, apart from the above: two with the same fill the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fill: String,
}

/// The column that says which of a row's columns have no value because the record's bytes mean none.
pub const UNDECODED: &str = "undecoded";

fn yes() -> bool {
    true
}

fn is_true(flag: &bool) -> bool {
    *flag
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Shape {
    /// A mirror of raw images.
    fn default() -> Shape {
        Shape {
            mode: Mode::Mirror,
            raw: true,
            columns: Vec::new(),
            decoded: false,
            left: Vec::new(),
            key: Vec::new(),
            fill: String::new(),
        }
    }
}

/// How a table that is there comes to be what a plan wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evolution {
    /// Columns to drop first, with what is in them.
    pub drop: Vec<PlanColumn>,
    /// Columns to add. A name may be among those that are dropped.
    pub add: Vec<PlanColumn>,
    /// Columns that get another kind, which holds all that is in them.
    pub widen: Vec<PlanColumn>,
    /// Columns that stay, and are set to NULL.
    pub clear: Vec<PlanColumn>,
    /// `data` and `rest` are dropped, and the file's residue goes.
    pub drop_raw: bool,
    /// The table gets a column [`UNDECODED`].
    pub add_undecoded: bool,
    /// The index on [`Shape::key`] that is there is dropped before anything else is done.
    pub drop_index: bool,
    /// An index on the key of `shape` is made when all else is done.
    pub make_index: bool,
    /// Rows that are there are to be filled anew from `data`. (Where there is none, they stay as they are.)
    pub refill: bool,
    /// What the table is then.
    pub shape: Shape,
}

impl Shape {
    /// The shape that a catalogue's text says; `None` (and nothing): a mirror of raw images.
    ///
    /// # Errors
    /// In words: it can't be read.
    pub fn parse(text: Option<&str>) -> Result<Shape, String> {
        match text {
            None | Some("") => Ok(Shape::default()),
            Some(text) => serde_json::from_str(text)
                .map_err(|error| format!("the shape of its table can't be read: {error}")),
        }
    }

    /// The text for a catalogue.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether a table of this shape is just what a plan wants: nothing need be done.
    pub fn is_wanted(&self, plan: &Plan) -> bool {
        self.evolve(plan).is_ok_and(|evolution| {
            evolution.is_nothing() && evolution.shape.columns.len() == self.columns.len()
        })
    }

    /// What is to be done so that a table of this shape is what `plan` wants. A column that holds more than is wanted stays
    /// as it is.
    ///
    /// # Errors
    /// It can't become that: why, and what to do, a line each.
    pub fn evolve(&self, plan: &Plan) -> Result<Evolution, Vec<String>> {
        let wanted = plan.shape();
        let mut problems = Vec::new();
        if self.mode != wanted.mode {
            let name = |mode| match mode {
                Mode::Mirror => "a mirror (a row per record)",
                Mode::History => "a history (a row per change)",
            };
            problems.push(format!(
                "the table is {}, and {} is wanted: give it another name in the configuration, and have all files read again",
                name(self.mode),
                name(wanted.mode)
            ));
        }
        if wanted.raw && !self.raw {
            problems.push(
                "the table was made without the raw image, and it is wanted: give it another name in the \
                 configuration, and have all files read again"
                    .into(),
            );
        }
        let mut evolution = Evolution {
            drop: Vec::new(),
            add: Vec::new(),
            widen: Vec::new(),
            clear: Vec::new(),
            drop_raw: self.raw && !wanted.raw,
            add_undecoded: wanted.decoded && !self.decoded,
            drop_index: false,
            make_index: false,
            refill: false,
            shape: Shape {
                decoded: wanted.decoded || self.decoded,
                left: Vec::new(),
                ..wanted.clone()
            },
        };
        for (at, column) in wanted.columns.iter().enumerate() {
            let same = |there: &&PlanColumn| there.name.eq_ignore_ascii_case(&column.name);
            let there = self.columns.iter().find(same);
            let there = there.or_else(|| self.left.iter().find(same));
            match there {
                None => evolution.add.push(column.clone()),
                Some(there) if there.kind.holds(column.kind) => {
                    evolution.shape.columns[at] = there.clone();
                }
                Some(there) if column.kind.holds(there.kind) => {
                    let wider = PlanColumn {
                        name: there.name.clone(),
                        kind: column.kind,
                    };
                    evolution.shape.columns[at] = wider.clone();
                    evolution.widen.push(wider);
                }
                Some(there) if plan.may_drop() => {
                    evolution.drop.push(there.clone());
                    evolution.add.push(column.clone());
                }
                Some(there) => problems.push(format!(
                    "column {} holds {}, and {} is wanted: let it be made anew with `drop_columns = true`, or give the \
                     field another column with `rename`",
                    there.name, there.kind, column.kind
                )),
            }
        }
        let is_wanted = |column: &PlanColumn| {
            let same = |wanted: &PlanColumn| wanted.name.eq_ignore_ascii_case(&column.name);
            wanted.columns.iter().any(same)
        };
        for column in self.columns.iter().filter(|column| !is_wanted(column)) {
            if plan.may_drop() {
                evolution.drop.push(column.clone());
            } else {
                evolution.clear.push(column.clone());
                evolution.shape.left.push(column.clone());
            }
        }
        for column in self.left.iter().filter(|column| !is_wanted(column)) {
            if plan.may_drop() {
                evolution.drop.push(column.clone());
            } else {
                evolution.shape.left.push(column.clone());
            }
        }
        // Columns keep the names that they have.
        for name in &mut evolution.shape.key {
            let mut columns = evolution.shape.columns.iter();
            if let Some(column) = columns.find(|there| there.name.eq_ignore_ascii_case(name)) {
                name.clone_from(&column.name);
            }
        }
        let is_made_anew = |name: &String| {
            let mut dropped = evolution.drop.iter();
            dropped.any(|column| column.name.eq_ignore_ascii_case(name))
        };
        let is_other = self.key != evolution.shape.key
            || self.key.iter().any(is_made_anew)
            || evolution.widen.iter().any(|it| self.key.contains(&it.name));
        evolution.drop_index = is_other && !self.key.is_empty();
        evolution.make_index = is_other && !evolution.shape.key.is_empty();
        evolution.refill =
            !wanted.columns.is_empty() && (!evolution.add.is_empty() || wanted.fill != self.fill);
        if problems.is_empty() {
            Ok(evolution)
        } else {
            Err(problems)
        }
    }
}

impl Evolution {
    /// Nothing has to be done to the table.
    pub fn is_nothing(&self) -> bool {
        self.drop.is_empty()
            && self.add.is_empty()
            && self.widen.is_empty()
            && self.clear.is_empty()
            && !self.drop_raw
            && !self.add_undecoded
            && !self.drop_index
            && !self.make_index
            && !self.refill
    }
}
