//! What a sink's DBA decided about files: which of them, and what becomes of each in the target.

use super::error::Problem;
use super::file::{MaskValue, OneOrMany, RefusedWord, Setting, SinkTable, TableTable};
use super::pattern::Pattern;
use super::resolve::Resolver;
use super::schema::Refused;
use super::{Group, SinkConfig, Site};
use counterfoil_proto::path_text;
use counterfoil_records::RecordFormat;
use counterfoil_sinks::plan::rows::{self, Described};
use counterfoil_sinks::plan::{ColumnKind, Constant, Ddl, Mask, MaskKey, Origin, Plan, PlanSpec};
use counterfoil_sinks::{FileDescription, FileSchema};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;
use toml::Spanned;

/// A key shorter than this is no secret.
const MASK_KEY_BYTES_MIN: usize = 16;
const MASK_KEY_BYTES_MAX: usize = 4096;

/// What a sink does with files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Which files it has; empty: all.
    pub include: Vec<Pattern>,
    /// Files that it doesn't have although they are included.
    pub exclude: Vec<Pattern>,
    /// What it may do to the structure of its database.
    pub ddl: Ddl,
    /// What becomes of files that no rule is for.
    pub default: PlanSpec,
    /// What becomes of rows that it refuses, of such files.
    pub on_refused: OnRefused,
    /// `[table.NAME]`, in the order of the file. The first that matches a file is its rule.
    pub tables: Vec<TableRule>,
    /// Record images in a batch; `None`: as `[apply]` says.
    pub batch_records_max: Option<usize>,
    /// How long a change may wait for more to join its batch; `None`: as `[apply]` says.
    pub batch_delay_max: Option<Duration>,
}

/// What becomes of a row that a target refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefused {
    /// The sink waits, and tries again.
    #[default]
    Retry,
    /// It is kept as a dead letter, and the rest goes on.
    DeadLetter,
    /// Its file stops there, and all others go on.
    Stop,
}

/// `[table.NAME]`: what becomes of some files in one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// The table's name.
    pub name: String,
    /// Which files.
    pub files: Vec<Pattern>,
    /// What is in their records, where that is said here.
    pub schema: Option<FileSchema>,
    /// What becomes of them.
    pub spec: PlanSpec,
    /// What becomes of rows that the target refuses.
    pub on_refused: OnRefused,
    /// A problem, without its text, that points here.
    pub(super) place: Problem,
}

impl Treatment {
    /// Whether the sink has this file; `tree` is the root of the tree it is in.
    pub fn takes(&self, path: &[u8], tree: Option<&[u8]>) -> bool {
        let is_meant = |pattern: &Pattern| {
            pattern.matches(path)
                || tree.is_some_and(|root| {
                    // A pattern for all that is in a directory means the directory too.
                    pattern.matches(root) || pattern.matches(&[path, b"/"].concat())
                })
        };
        (self.include.is_empty() || self.include.iter().any(is_meant))
            && !self.exclude.iter().any(is_meant)
    }

    /// Which files the sink has, as text: it is another when the choice is.
    pub fn selection(&self) -> String {
        let words = |patterns: &[Pattern]| {
            let words = patterns.iter().map(|pattern| path_text(pattern.as_bytes()));
            words.collect::<Vec<_>>().join(" ")
        };
        format!("{} without {}", words(&self.include), words(&self.exclude))
    }

    /// The same, for the files that `other` chooses, in batches as it wants them.
    pub(super) fn selecting(self, other: &Treatment) -> Treatment {
        Treatment {
            include: other.include.clone(),
            exclude: other.exclude.clone(),
            batch_records_max: other.batch_records_max,
            batch_delay_max: other.batch_delay_max,
            ..self
        }
    }

    /// The rule for a file.
    pub fn rule(&self, path: &[u8]) -> Option<&TableRule> {
        let mut rules = self.tables.iter();
        rules.find(|rule| rule.files.iter().any(|pattern| pattern.matches(path)))
    }

    /// What becomes of rows of this file that the target refuses.
    pub fn on_refused(&self, path: &[u8]) -> OnRefused {
        self.rule(rows::file_of(path))
            .map_or(self.on_refused, |rule| rule.on_refused)
    }

    /// The file as this sink is to have it, and the tables in its records. `known`: what is in its records, where nothing
    /// else says that.
    ///
    /// # Errors
    /// What the DBA wants doesn't go with what is known of the file: why, a line each.
    pub fn describe(
        &self,
        site: &str,
        file: &FileDescription,
        known: Option<&FileSchema>,
    ) -> Result<Described, Vec<String>> {
        let mut described = file.clone();
        if file.tree.is_some() {
            return Ok(Described::plain(described));
        }
        let rule = self.rule(&file.path);
        let spec = rule.map_or(&self.default, |rule| &rule.spec);
        if let Some(rule) = rule {
            described.table = Some(rule.name.clone());
        }
        let own = rule.and_then(|rule| rule.schema.as_ref());
        described.schema = own.or(file.schema.as_ref()).or(known).cloned();
        if described.schema.is_none() && *spec == PlanSpec::default() {
            return Ok(Described::plain(described));
        }
        let path = path_text(&file.path);
        let origin = Origin {
            site,
            group: &file.group,
            path: &path,
        };
        Described::new(spec, described, origin)
    }
}

impl Resolver<'_> {
    /// What a sink does with files. `None`: something is wrong, and that was said.
    pub(super) fn treatment(&mut self, table: &SinkTable) -> Option<Treatment> {
        let include = self.patterns(&table.include);
        let exclude = self.patterns(&table.exclude);
        let key = match &table.mask_key_file {
            Some(written) => Some(self.mask_key(written)?),
            None => None,
        };
        let default = PlanSpec {
            mode: table.mode.unwrap_or_default(),
            raw: table.raw.unwrap_or(true),
            may_drop: table.drop_columns.unwrap_or(false),
            ..PlanSpec::default()
        };
        let on_refused = table
            .on_refused_row
            .map(OnRefused::from)
            .unwrap_or_default();
        let mut written: Vec<(&String, &Spanned<TableTable>)> = table.table.iter().collect();
        written.sort_by_key(|(_, rule)| rule.span().start);
        let mut tables = Some(Vec::new());
        for (name, rule) in written {
            match (
                self.table_rule(name, rule, &default, on_refused, key.as_ref()),
                &mut tables,
            ) {
                (Some(rule), Some(tables)) => tables.push(rule),
                _ => tables = None,
            }
        }
        let records = table.batch_records_max.as_ref().map(|_| {
            let number = self.number(
                "batch_records_max",
                &table.batch_records_max,
                0,
                1..=1_000_000,
            );
            usize::try_from(number).unwrap_or(usize::MAX)
        });
        let delay = table.batch_delay_ms_max.as_ref().map(|_| {
            let number = self.number(
                "batch_delay_ms_max",
                &table.batch_delay_ms_max,
                0,
                0..=60_000,
            );
            Duration::from_millis(number)
        });
        Some(Treatment {
            include: include?,
            exclude: exclude?,
            ddl: table.ddl.unwrap_or_default(),
            default,
            on_refused,
            tables: tables?,
            batch_records_max: records,
            batch_delay_max: delay,
        })
    }

    fn patterns(&mut self, written: &[Spanned<String>]) -> Option<Vec<Pattern>> {
        let patterns: Vec<Option<Pattern>> = written
            .iter()
            .map(|written| self.pattern(written, Pattern::absolute))
            .collect();
        patterns.into_iter().collect()
    }

    fn mask_key(&mut self, written: &Spanned<String>) -> Option<MaskKey> {
        let path = self.path(written)?;
        self.read.add(path.clone());
        let mut key = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| {
            file.take(MASK_KEY_BYTES_MAX as u64 + 1)
                .read_to_end(&mut key)
        });
        let wrong = match read {
            Err(error) => format!("reading {}: {error}", path.display()),
            Ok(_) => {
                while key.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                    key.pop();
                }
                if (MASK_KEY_BYTES_MIN..=MASK_KEY_BYTES_MAX).contains(&key.len()) {
                    return Some(MaskKey::new(&key));
                }
                format!("{} has {} bytes", path.display(), key.len())
            }
        };
        self.problem(
            written.span(),
            wrong,
            format!(
                "a key has {MASK_KEY_BYTES_MIN} to {MASK_KEY_BYTES_MAX} bytes that nobody can guess, as of `openssl rand -hex 32`"
            ),
        );
        None
    }

    fn table_rule(
        &mut self,
        name: &str,
        written: &Spanned<TableTable>,
        default: &PlanSpec,
        on_refused: OnRefused,
        key: Option<&MaskKey>,
    ) -> Option<TableRule> {
        let table = written.get_ref();
        let before = self.problems.len();
        self.table_name(&Spanned::new(written.span(), name.to_owned()));
        let paths = match table.file.get_ref() {
            OneOrMany::One(path) => std::slice::from_ref(path),
            OneOrMany::Many(paths) => paths,
        };
        let paths: Vec<Spanned<String>> = paths
            .iter()
            .map(|path| Spanned::new(table.file.span(), path.clone()))
            .collect();
        let files = self.patterns(&paths);
        let schema = self.schema(&table.schema_keys(name));
        let mut spec = PlanSpec {
            mode: table.mode.unwrap_or(default.mode),
            // The record's own bytes would show what a mask hides.
            raw: table.raw.unwrap_or(default.raw && table.mask.is_empty()),
            columns: table.columns.clone(),
            without: table.exclude_columns.clone(),
            rename: table.rename.clone(),
            kinds: BTreeMap::new(),
            masks: BTreeMap::new(),
            constants: BTreeMap::new(),
            may_drop: table.drop_columns.unwrap_or(default.may_drop),
        };
        for (field, kind) in &table.types {
            match kind.get_ref().parse::<ColumnKind>() {
                Ok(known) => {
                    spec.kinds.insert(field.clone(), known);
                }
                Err(message) => self.problem(kind.span(), message, "docs/tables.md lists them"),
            }
        }
        for (field, mask) in &table.mask {
            let known = match (mask.get_ref(), key) {
                (MaskValue::Fixed { fixed }, _) => Mask::Fixed(fixed.clone()),
                (MaskValue::Word(word), key) => match (word.as_str(), key) {
                    ("drop", _) => Mask::Drop,
                    ("last4", _) => Mask::Last4,
                    ("hash", Some(key)) => Mask::Hash(key.clone()),
                    ("hash", None) => {
                        self.problem(
                            mask.span(),
                            "a hash takes a key, or everybody could find out by trying what was hashed",
                            "name a file that has one with `mask_key_file` at the top of the sink",
                        );
                        continue;
                    }
                    _ => {
                        self.problem(
                            mask.span(),
                            format!("there is no mask {word:?}"),
                            "there are \"drop\", \"last4\", \"hash\" and { fixed = \"TEXT\" }",
                        );
                        continue;
                    }
                },
            };
            spec.masks.insert(field.clone(), known);
        }
        for (column, constant) in &table.constants {
            let known = match constant.get_ref() {
                Setting::Text(text) => Constant::Text(text.clone()),
                Setting::Number(number) => Constant::Number(*number),
                Setting::Switch(_) => {
                    self.problem(
                        constant.span(),
                        "a constant is a text or a whole number",
                        "write 0 and 1, or \"yes\" and \"no\"",
                    );
                    continue;
                }
            };
            spec.constants.insert(column.clone(), known);
        }
        let schema = match schema {
            Ok(schema) => schema.map(FileSchema),
            Err(Refused) => return None,
        };
        if self.problems.len() > before {
            return None;
        }
        Some(TableRule {
            name: name.to_owned(),
            files: files?,
            schema,
            spec,
            on_refused: table.on_refused_row.map_or(on_refused, OnRefused::from),
            place: self.source.problem(written.span(), ""),
        })
    }

    /// Whether what DBAs want goes with what is known of the files that rules name.
    pub(super) fn plans(&mut self, site: &Site, sinks: &[SinkConfig], groups: &[Group]) {
        for sink in sinks {
            let treatment = &sink.treatment;
            let mut met = vec![false; treatment.tables.len()];
            for group in groups {
                for file in &group.files {
                    let Some(path) = file.pattern.literal() else {
                        continue;
                    };
                    let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
                    let described = treatment.describe(
                        &site.name,
                        &FileDescription {
                            path: path.to_vec(),
                            group: group.name.clone(),
                            format: file.format.clone(),
                            table: file.table.clone(),
                            tree: None,
                            schema: file.schema.clone(),
                            plan: None,
                        },
                        None,
                    );
                    let Some(rule) = treatment.rule(path) else {
                        continue;
                    };
                    let at = treatment
                        .tables
                        .iter()
                        .position(|other| std::ptr::eq(other, rule));
                    let first = at.is_some_and(|at| !std::mem::replace(&mut met[at], true));
                    if let (Err(problems), true) = (described, first) {
                        self.wrong(rule, &problems);
                    }
                }
            }
            // What is wrong whatever the files are.
            for (rule, _) in treatment.tables.iter().zip(&met).filter(|(_, met)| !**met) {
                let Some(schema) = &rule.schema else {
                    continue;
                };
                let origin = Origin {
                    site: &site.name,
                    group: "",
                    path: "",
                };
                let plan = Plan::new(&rule.spec, Some(schema), &RecordFormat::STATIC, origin);
                if let Err(problems) = plan {
                    self.wrong(rule, &problems);
                }
            }
        }
    }

    fn wrong(&mut self, rule: &TableRule, problems: &[String]) {
        let mut problem = rule.place.clone();
        problem.message = format!("[table.{}]: {}", rule.name, problems.join("; "));
        self.problems.push(
            problem.help("`counterfoil schema show` lists the fields and columns of a copybook"),
        );
    }
}

impl From<RefusedWord> for OnRefused {
    fn from(word: RefusedWord) -> OnRefused {
        match word {
            RefusedWord::Retry => OnRefused::Retry,
            RefusedWord::DeadLetter => OnRefused::DeadLetter,
            RefusedWord::Stop => OnRefused::Stop,
        }
    }
}
