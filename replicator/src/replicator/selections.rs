//! Which files each sink had when a replicator last started: a sink that is to have others lacks what is in these, until
//! every file is read again.

use crate::config::{Config, Treatment};
use crate::state::put;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// By sink, as in [`Treatment::selection`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selections(BTreeMap<String, String>);

impl Selections {
    /// Those of a configuration.
    pub(super) fn of(config: &Config) -> Selections {
        let sinks = config.sinks.iter();
        Selections(
            sinks
                .map(|sink| (sink.name.clone(), sink.treatment.selection()))
                .collect(),
        )
    }

    /// Those of the last start. Where there are none, every sink had every file.
    pub(super) fn read(config: &Config) -> Result<Selections> {
        let path = config.site.selections_path();
        let reading = || format!("reading {}", path.display());
        match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Selections(BTreeMap::new())),
            Err(error) => Err(error).with_context(reading),
            Ok(text) => Ok(Selections(
                serde_json::from_slice(&text).with_context(reading)?,
            )),
        }
    }

    /// Keeps them for the next start, and those that sinks had `before` which aren't there now and may come back.
    pub(super) fn write(self, config: &Config, before: Selections) -> Result<()> {
        let path = config.site.selections_path();
        let mut all = before.0;
        all.extend(self.0);
        let text = serde_json::to_vec_pretty(&all)?;
        put(&path, &text, 0o600).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether a sink is to have other files than it had, as `before` tells.
    pub(super) fn differ(&self, before: &Selections) -> bool {
        let all = Treatment::default().selection();
        let before = &before.0;
        self.0
            .iter()
            .any(|(sink, selection)| match before.get(sink) {
                // Who had all of them lacks nothing.
                Some(had) => had != selection && *had != all,
                // Its target may be one that had another name.
                None => !before.is_empty(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selections(of: &[(&str, &str)]) -> Selections {
        let of = of.iter();
        Selections(
            of.map(|(s, t)| ((*s).to_owned(), (*t).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn a_sink_that_is_to_have_others_than_it_had_lacks_something() {
        let all = Treatment::default().selection();
        let before = selections(&[("a", "/x"), ("b", &all)]);
        assert!(!before.differ(&before));
        assert!(selections(&[("a", "/y")]).differ(&before));
        assert!(selections(&[("a", &all)]).differ(&before));
        assert!(!selections(&[("b", "/y")]).differ(&before));
        // It may have been "a" before.
        assert!(selections(&[("c", "/y")]).differ(&before));
        // What no replicator kept yet was everything.
        assert!(!selections(&[("c", "/y")]).differ(&selections(&[])));
    }
}
