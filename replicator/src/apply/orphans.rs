//! Orphans: files that a target has and that aren't there, removed from it when somebody asks.

use super::Applier;
use crate::requests::{Request, heeded};
use anyhow::{Context as _, Result, ensure};
use counterfoil_proto::path_text;
use counterfoil_sinks::plan::rows;
use counterfoil_sinks::{Attributes, Batch, FileChanges, FileFate, StoredFile};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Applier {
    /// Removes what somebody asks to be removed from this sink.
    pub(super) fn remove_orphans(&mut self) {
        for (place, request) in self.asked.look() {
            let Request::Orphan { sink, path } = request else {
                continue;
            };
            if sink != self.name {
                continue;
            }
            if let Err(error) = self.remove_orphan(&path) {
                tracing::warn!(
                    "sink {}: removing {} from it: {error:#}",
                    self.name,
                    path_text(&path)
                );
            }
            heeded(&place);
        }
    }

    fn remove_orphan(&mut self, path: &[u8]) -> Result<()> {
        // Whoever captures knows whether a file is gone, or only its directory isn't mounted.
        ensure!(
            self.config.rule_for(path).is_none(),
            "it is captured: `counterfoil sync` it, and if it is gone its rows go"
        );
        // What is on its way may be about it.
        ensure!(self.apply(), "everything stops");
        for at in 0..self.streams.len() {
            let stream = self.streams[at].clone();
            let Some(position) = self.applied[at] else {
                continue;
            };
            let files = self.sink.files(&stream)?;
            let is_its = |file: &&StoredFile| {
                let of = &file.description.path;
                of == path || rows::is_of_rows(of) && rows::file_of(of) == path
            };
            let files = files.iter().filter(is_its).map(gone).collect::<Vec<_>>();
            if files.is_empty() {
                continue;
            }
            let batch = Batch {
                stream,
                after: Some(position),
                position,
                captured_ns: 0,
                files,
            };
            self.sink
                .apply(&batch)
                .context("telling the target that it is gone")?;
            tracing::info!("sink {}: removed {}", self.name, path_text(path));
        }
        Ok(())
    }
}

fn gone(file: &StoredFile) -> FileChanges {
    FileChanges {
        file: Arc::new(file.description.clone()),
        renamed_from: None,
        fate: FileFate::Removed,
        cleared: Vec::new(),
        images: BTreeMap::new(),
        log: Vec::new(),
        attributes: Attributes::default(),
    }
}
