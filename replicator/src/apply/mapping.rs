//! Mapping: what a sink has of each file, as its DBA decided.
//!
//! Events come with files as the primary describes them. Here they get the table, the columns and everything else that this
//! sink's configuration says, or are passed over where the sink isn't to have the file at all.

use super::refusal::Policy;
use super::rows::of_tables;
use crate::config::{Apply, Config, Target, Treatment};
use crate::event::{Change, Event};
use counterfoil_proto::path_text;
use counterfoil_sinks::FileDescription;
use counterfoil_sinks::plan::rows::{self, RowTables};
use counterfoil_sinks::plan::{Ddl, Plan};
use std::collections::HashMap;
use std::sync::Arc;

/// So many files are remembered; when there are more, all are forgotten and worked out anew as needed.
const FILES_MAX: usize = 20_000;

/// What a sink has of files.
pub(super) struct Mapping {
    config: Arc<Config>,
    treatment: Treatment,
    /// It has files, without tables in them.
    has_files_only: bool,
    known: HashMap<Vec<u8>, Seen>,
}

/// What became of a file's description.
struct Seen {
    from: Arc<FileDescription>,
    /// `None`: the sink doesn't have it.
    to: Option<Known>,
}

/// A file as the sink has it.
#[derive(Clone)]
struct Known {
    file: Arc<FileDescription>,
    /// The tables in its records.
    rows: Arc<RowTables>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as the sink is to have it; behind it comes what becomes of the tables in the file's records.
    Take(Vec<Event>),
    /// The sink doesn't have it.
    Pass,
    /// The sink has it, but lacks what was in the file before.
    Lacks(Lack),
}

/// A file that comes into what a sink has, without what was in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lack {
    /// Why, in words.
    pub(super) reason: String,
    /// What comes first: a file that the sink had under another name goes.
    pub(super) first: Vec<Event>,
    /// What becomes of the tables in the file's records.
    pub(super) then: Vec<Event>,
}

impl Mapping {
    /// What the sink of this name has.
    pub(super) fn new(config: &Arc<Config>, sink: &str) -> Mapping {
        let sink = config.sinks.iter().find(|config| config.name == sink);
        Mapping {
            has_files_only: sink.is_some_and(|sink| matches!(sink.target, Target::Files(_))),
            treatment: sink.map(|sink| sink.treatment.clone()).unwrap_or_default(),
            config: Arc::clone(config),
            known: HashMap::new(),
        }
    }

    /// How changes are put into batches for the sink.
    pub(super) fn limits(&self, general: &Apply) -> Apply {
        let treatment = &self.treatment;
        Apply {
            batch_records_max: treatment
                .batch_records_max
                .unwrap_or(general.batch_records_max),
            batch_delay_max: treatment.batch_delay_max.unwrap_or(general.batch_delay_max),
            ..general.clone()
        }
    }

    /// What becomes of rows that the sink refuses.
    pub(super) fn refusal_policy(&self) -> Policy {
        let treatment = self.treatment.clone();
        Arc::new(move |file| treatment.on_refused(&file.path))
    }

    /// Makes the event one that the sink is to have.
    ///
    /// # Errors
    /// In words: what the configuration says of the file doesn't go with it. The event is as it was.
    pub(super) fn map(&mut self, event: &mut Event) -> Result<Verdict, String> {
        let from = match &event.change {
            Change::Renamed { from } => Some((self.describe(from)?, path_text(&from.path))),
            _ => None,
        };
        let file = self.describe(&event.file)?;
        match (from, file) {
            (None | Some((None, _)), None) => Ok(Verdict::Pass),
            (None, Some(to)) => {
                event.file = to.file;
                let rows = of_tables(event, &to.rows, None)?;
                Ok(Verdict::Take(rows))
            }
            (Some((Some(from), _)), Some(to)) if self.can_become(&from, &to) => {
                event.file = to.file;
                event.change = Change::Renamed { from: from.file };
                let rows = of_tables(event, &to.rows, Some(&from.rows))?;
                Ok(Verdict::Take(rows))
            }
            // Its table is of another kind there: it leaves the one, and comes into the other.
            (Some((Some(from), shown)), Some(to)) => {
                let mut leaves = event.clone();
                leaves.file = from.file;
                leaves.change = Change::Removed;
                let mut first = of_tables(&leaves, &from.rows, None)?;
                first.insert(0, leaves);
                lacks(event, to, &shown, "whose table is of another kind", first)
            }
            // It leaves what the sink has.
            (Some((Some(from), _)), None) => {
                event.file = from.file;
                event.change = Change::Removed;
                let rows = of_tables(event, &from.rows, None)?;
                Ok(Verdict::Take(rows))
            }
            // It comes into what the sink has, and nobody says again what is in it.
            (Some((None, from)), Some(to)) => {
                lacks(event, to, &from, "which this sink doesn't have", Vec::new())
            }
        }
    }

    /// Whether a file's table can go along when the file gets the other's name: it is of one kind, it needs no bytes that
    /// aren't kept, and nothing that was shown is hidden there. The same of the tables in its records.
    fn can_become(&self, from: &Known, to: &Known) -> bool {
        if from.file.tree.is_some() || to.file.tree.is_some() {
            return true;
        }
        let raw = Plan::raw();
        let [one, other] = [from, to].map(|known| known.file.plan.as_deref().unwrap_or(&raw));
        let is_same = one.shape() == other.shape();
        // What can't be filled anew in place, since all versions stand there, or nothing may be changed.
        let is_fixed = other.is_history() || self.treatment.ddl != Ddl::Manage;
        let can = is_same || !is_fixed && one.shape().evolve(other).is_ok();
        can && from.rows.is_like(&to.rows)
    }

    fn describe(&mut self, file: &Arc<FileDescription>) -> Result<Option<Known>, String> {
        if let Some(seen) = self.known.get(&file.path)
            && (Arc::ptr_eq(&seen.from, file) || seen.from == *file)
        {
            return Ok(seen.to.clone());
        }
        if rows::is_of_rows(&file.path) {
            return self.describe_rows(file);
        }
        let to = if self.treatment.takes(&file.path, file.tree.as_deref()) {
            let rule = self.config.rule(&file.path);
            let known = rule.and_then(|rule| rule.schema.as_ref());
            let described = self.treatment.describe(&self.config.site.name, file, known);
            let described = described.map_err(|problems| {
                format!(
                    "what the configuration says of {} doesn't go with it: {}",
                    path_text(&file.path),
                    problems.join("; ")
                )
            })?;
            let left_out = described.left_out.iter().filter(|_| !self.has_files_only);
            for why in left_out {
                tracing::warn!("{}: {why}", path_text(&file.path));
            }
            let is_same = described.file == **file;
            Some(Known {
                file: if is_same {
                    Arc::clone(file)
                } else {
                    Arc::new(described.file)
                },
                rows: if self.has_files_only {
                    Arc::default()
                } else {
                    described.rows
                },
            })
        } else {
            None
        };
        if self.known.len() >= FILES_MAX {
            self.known.clear();
        }
        let seen = Seen {
            from: Arc::clone(file),
            to: to.clone(),
        };
        self.known.insert(file.path.clone(), seen);
        Ok(to)
    }

    /// A table in a file's records, which a letter may be about.
    fn describe_rows(&mut self, file: &FileDescription) -> Result<Option<Known>, String> {
        let path = rows::file_of(&file.path);
        let own = match self.known.get(path) {
            Some(seen) => Some(Arc::clone(&seen.from)),
            None => self.config.describe(path).map(|(_, file)| Arc::new(file)),
        };
        let own = own.map(|own| self.describe(&own)).transpose()?.flatten();
        let found = own.and_then(|own| own.rows.find(&file.path));
        Ok(found.map(|file| Known {
            file,
            rows: Arc::default(),
        }))
    }
}

/// A file comes into what a sink has, or into a table of another kind, without what is in it.
fn lacks(
    event: &mut Event,
    to: Known,
    from: &str,
    why: &str,
    first: Vec<Event>,
) -> Result<Verdict, String> {
    let path = path_text(&to.file.path);
    event.file = to.file;
    // What the name named before is gone all the same.
    event.change = Change::Cleared {
        from: 0,
        to: u64::MAX,
    };
    Ok(Verdict::Lacks(Lack {
        reason: format!(
            "{path} was renamed from {from}, {why}, so it lacks what is in the file; have all files read again \
             (`counterfoil run --read-again`)"
        ),
        first,
        then: of_tables(event, &to.rows, None)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_proto::Position;
    use counterfoil_records::{Layout, Organization, RecordFormat};

    fn mapping(sink: &str) -> (tempfile::TempDir, Mapping) {
        let target = "sqlite = { path = 'dr.db' }";
        mapping_of("{ name = 'id', type = 'text(4)' }", target, sink)
    }

    fn mapping_of(field: &str, target: &str, sink: &str) -> (tempfile::TempDir, Mapping) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("counterfoil.toml");
        let text = format!(
            "[site]\nname = 'hq'\nstate = 'state'\n[[group]]\nname = 'g'\n[[group.file]]\npath = '/srv/**'\n\
             organization = 'fixed'\nlayout = 'plain'\nfield = [{field}]\n\
             [[sink]]\nname = 'dr'\n{target}\n{sink}"
        );
        std::fs::write(&path, text).expect("writing the configuration");
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let mapping = Mapping::new(&Arc::new(config), "dr");
        (directory, mapping)
    }

    fn file(path: &str) -> Arc<FileDescription> {
        Arc::new(FileDescription {
            path: path.as_bytes().to_vec(),
            group: "g".into(),
            format: RecordFormat {
                record_size: Some(4),
                ..RecordFormat::new(Organization::Fixed, Layout::Plain)
            },
            table: None,
            tree: None,
            schema: None,
            plan: None,
        })
    }

    fn event(path: &str, change: Change) -> Event {
        Event {
            position: Position::default(),
            group: 0,
            file: file(path),
            size: 0,
            change,
            captured_ns: 1,
            pid: 1,
            snapshot: false,
            before: None,
        }
    }

    #[test]
    fn a_file_gets_its_table_and_its_columns() {
        let (_directory, mut mapping) =
            mapping("[sink.table.accounts]\nfile = '/srv/a*.dat'\nrename = { id = 'number' }\n");
        let mut put = event("/srv/a1.dat", Change::Absent { id: 1 });
        assert_eq!(mapping.map(&mut put), Ok(Verdict::Take(Vec::new())));
        assert_eq!(put.file.table.as_deref(), Some("accounts"));
        let plan = put
            .file
            .plan
            .as_ref()
            .expect("the configuration says what is in it");
        assert_eq!(plan.columns()[0].name, "number");
        // No rule: the columns are as they are, the table is named for the file.
        let mut other = event("/srv/b.dat", Change::Absent { id: 1 });
        assert_eq!(mapping.map(&mut other), Ok(Verdict::Take(Vec::new())));
        let plan = other
            .file
            .plan
            .as_ref()
            .expect("the configuration says what is in it");
        assert_eq!(
            (plan.columns()[0].name.as_str(), &other.file.table),
            ("id", &None)
        );
    }

    /// A record's rows follow it, in a target of tables; files have none.
    #[test]
    fn tables_in_records_are_for_targets_of_tables() {
        let fields = "{ name = 'n', type = 'zoned(1)' }, { name = 't', type = 'text(1)', \
                      occurs = { min = 0, max = 3, depending_on = 'n' } }";
        let put = Change::Put {
            id: 2,
            data: b"2ab ".to_vec(),
            rest: Vec::new(),
        };
        for (target, ids) in [
            ("sqlite = { path = 'dr.db' }", &[9, 10][..]),
            ("files = { root = 'mirror' }", &[]),
        ] {
            let (_directory, mut mapping) = mapping_of(fields, target, "");
            let mut event = event("/srv/a", put.clone());
            let Ok(Verdict::Take(rows)) = mapping.map(&mut event) else {
                panic!("the sink has it");
            };
            let is_its = |row: &Event| row.file.path == b"/srv/a//t";
            assert!(rows.iter().all(is_its), "{rows:?}");
            let puts = rows.iter().filter_map(|row| match row.change {
                Change::Put { id, .. } => Some(id),
                _ => None,
            });
            assert_eq!(puts.collect::<Vec<u64>>(), ids, "{target}");
        }
    }

    #[test]
    fn what_a_sink_doesnt_have_is_passed_over_and_renames_leave_and_enter() {
        let (_directory, mut mapping) =
            mapping("include = ['/srv/pay/**']\nexclude = ['/srv/pay/*.tmp']\n");
        let renamed = |from: &str| Change::Renamed { from: file(from) };
        let mut inside = event("/srv/pay/b", renamed("/srv/pay/a"));
        assert_eq!(mapping.map(&mut inside), Ok(Verdict::Take(Vec::new())));
        let mut outside = event("/srv/b", renamed("/srv/pay/a.tmp"));
        assert_eq!(mapping.map(&mut outside), Ok(Verdict::Pass));
        let mut leaves = event("/srv/pay/a.tmp", renamed("/srv/pay/a"));
        assert_eq!(mapping.map(&mut leaves), Ok(Verdict::Take(Vec::new())));
        assert_eq!(
            (&*leaves.file.path, &leaves.change),
            (&b"/srv/pay/a"[..], &Change::Removed)
        );
        let mut enters = event("/srv/pay/a", renamed("/srv/pay/a.tmp"));
        let Ok(Verdict::Lacks(lack)) = mapping.map(&mut enters) else {
            panic!("its content isn't there");
        };
        assert!(
            lack.reason
                .contains("/srv/pay/a was renamed from /srv/pay/a.tmp"),
            "{lack:?}"
        );
        assert_eq!(lack.first, []);
        let emptied = Change::Cleared {
            from: 0,
            to: u64::MAX,
        };
        assert_eq!(enters.change, emptied);
    }

    #[test]
    fn a_file_whose_table_cant_go_along_leaves_it_and_comes_into_another() {
        let tables = "[sink.table.cards]\nfile = '/srv/cards.dat'\nmask = { id = 'last4' }\n\
             [sink.table.journal]\nfile = '/srv/journal.dat'\nmode = 'history'\n";
        let (_directory, mut mapping) = mapping(tables);
        for (from, to, goes_along) in [
            ("/srv/a", "/srv/b", true),
            // What is shown is hidden there: it is masked, and its bytes go.
            ("/srv/a", "/srv/cards.dat", true),
            // There are no bytes to make it of.
            ("/srv/cards.dat", "/srv/a", false),
            ("/srv/journal.dat", "/srv/journal.1", false),
            ("/srv/new", "/srv/journal.dat", false),
        ] {
            let from = file(from);
            let mut renamed = event(
                to,
                Change::Renamed {
                    from: Arc::clone(&from),
                },
            );
            match mapping.map(&mut renamed).expect("sound") {
                Verdict::Take(_) => assert!(goes_along, "{from:?} to {to}"),
                Verdict::Lacks(lack) if lack.first.len() == 1 => {
                    let (why, leaves) = (&lack.reason, &lack.first[0]);
                    assert!(!goes_along && why.contains("of another kind"), "{why}");
                    assert_eq!(
                        (&leaves.file.path, &leaves.change),
                        (&from.path, &Change::Removed)
                    );
                    assert_eq!(renamed.file.path, to.as_bytes());
                }
                verdict => panic!("{verdict:?}"),
            }
        }
    }

    #[test]
    fn what_doesnt_go_with_a_file_is_an_error_that_names_it() {
        let (_directory, mut mapping) =
            mapping("[sink.table.accounts]\nfile = '/srv/*.dat'\ncolumns = ['ident']\n");
        let mut put = event("/srv/a.dat", Change::Absent { id: 1 });
        let why = mapping.map(&mut put).expect_err("there is no such field");
        assert!(
            why.contains("/srv/a.dat") && why.contains("there is no field ident"),
            "{why}"
        );
        assert_eq!(put.file, file("/srv/a.dat"));
    }
}
