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

    /// Those of the last start. One that isn't known had every file.
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

    /// Keeps them for the next start.
    pub(super) fn write(&self, config: &Config) -> Result<()> {
        let path = config.site.selections_path();
        let text = serde_json::to_vec_pretty(&self.0)?;
        put(&path, &text, 0o600).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether a sink is to have other files than it had, as `before` tells.
    pub(super) fn differ(&self, before: &Selections) -> bool {
        let all = Treatment::default().selection();
        self.0.iter().any(|(sink, selection)| {
            let had = before.0.get(sink).unwrap_or(&all);
            // Who had all of them lacks nothing.
            had != selection && *had != all
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
        // A new target is seen by its position.
        assert!(!selections(&[("c", "/y")]).differ(&before));
    }
}
