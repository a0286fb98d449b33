//! The names in use in the schema, to find free ones.

use super::error::Doing;
use super::schema::NAME_BYTES_MAX;
use super::session::Session;
use crate::SinkError;
use crate::naming::numbered_within;
use std::collections::{HashMap, HashSet};

/// The names in use. Upper and lower case count as the same, for people's sake.
pub(super) struct Names {
    /// In lower case.
    used: HashSet<String>,
    /// As they are: what was there when they were asked for, and is still.
    there: HashSet<String>,
    /// As they are: tables and views in the catalogue.
    ours: HashSet<String>,
    /// Where to go on looking for a free number for a name, so that a thousand files of one name don't take a million
    /// look-ups.
    next_numbers: HashMap<String, u32>,
}

/// What a wanted name comes to.
pub(super) enum Choice {
    /// Nothing has this name.
    Free(String),
    /// Something that isn't Counterfoil's has the very name that is wanted. It isn't taken by this.
    Alien(String),
}

impl Names {
    /// Asks the server. Sequences and indexes share the names of tables, and so do most types.
    pub(super) async fn load(session: &mut Session) -> Result<Names, SinkError> {
        let listing = || "listing the tables".to_owned();
        let schema = session.schema.clone();
        let used = session
            .query(
                "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1
                 UNION ALL
                 SELECT t.typname::text FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
                 WHERE n.nspname = $1 AND t.typrelid = 0 AND t.typelem = 0",
                &[&schema],
            )
            .await
            .doing(listing)?;
        let ours = format!(
            "SELECT table_name FROM {files} WHERE tree_id IS NULL
             UNION ALL SELECT table_name FROM {trees} UNION ALL SELECT view_name FROM {trees}
             UNION ALL SELECT table_name FROM {histories}",
            histories = session.name("counterfoil_histories"),
            files = session.name("counterfoil_files"),
            trees = session.name("counterfoil_trees"),
        );
        let ours = session.query(&ours, &[]).await.doing(listing)?;
        let there: HashSet<String> = used.iter().map(|row| row.get(0)).collect();
        Ok(Names {
            used: there.iter().map(|name| name.to_lowercase()).collect(),
            there,
            ours: ours.iter().map(|row| row.get(0)).collect(),
            next_numbers: HashMap::new(),
        })
    }

    /// What becomes of a wanted name.
    pub(super) fn choose(&mut self, wanted: &str) -> Choice {
        let name = numbered_within(wanted, 1, NAME_BYTES_MAX);
        if self.there.contains(&name) && !self.ours.contains(&name) {
            return Choice::Alien(name);
        }
        Choice::Free(self.free(wanted))
    }

    /// A name like this one that nothing has. It counts as used from now on, and as Counterfoil's.
    pub(super) fn free(&mut self, wanted: &str) -> String {
        let next_number = self.next_numbers.entry(wanted.to_lowercase()).or_insert(1);
        loop {
            let name = numbered_within(wanted, *next_number, NAME_BYTES_MAX);
            *next_number = next_number.saturating_add(1);
            if self.used.insert(name.to_lowercase()) {
                self.ours.insert(name.clone());
                return name;
            }
        }
    }

    /// The first name like this one that no table of Counterfoil's has, whether or not there is one.
    pub(super) fn not_ours(&self, wanted: &str) -> String {
        let mut number = 1;
        loop {
            let name = numbered_within(wanted, number, NAME_BYTES_MAX);
            if !self.ours.contains(&name) {
                return name;
            }
            number += 1;
        }
    }

    /// A table that was there is Counterfoil's from now on.
    pub(super) fn adopt(&mut self, name: &str) {
        self.ours.insert(name.to_owned());
    }

    /// A table is Counterfoil's no more, but there.
    pub(super) fn disown(&mut self, name: &str) {
        self.ours.remove(name);
        self.there.insert(name.to_owned());
    }

    /// Nothing has this name any more.
    pub(super) fn release(&mut self, name: &str) {
        self.disown(name);
        self.there.remove(name);
        self.used.remove(&name.to_lowercase());
        self.next_numbers.clear();
    }
}
