//! The applying halves: from topics to a sink, each sink by itself, so that none waits for another.

use super::Half;
use crate::config::Config;
use anyhow::Result;
use std::sync::Arc;

/// Starts the threads of every sink.
#[cfg(feature = "kafka")]
pub(super) fn start(config: &Arc<Config>) -> Result<Vec<Half>> {
    use super::{Lock, open_sink, spawn};
    use crate::apply::{Applier, positions};
    use crate::progress::Progress;
    use crate::transport;
    use crate::transport::kafka::{receiving::Receiving, watch};
    use crate::verification::Verification;
    use anyhow::Context as _;

    let Some(kafka) = &config.kafka else {
        return Ok(Vec::new());
    };
    let lock = Arc::new(crate::state::lock_for_applying(config)?);
    let streams = config.applied_streams();
    let mut halves = Vec::new();
    for sink_config in &config.sinks {
        let name = sink_config.name.as_str();
        let progress = Arc::new(Progress::default());
        let mut known = Verification::kept(&config.site.apply_verification_path());
        known.targets.retain(|sink, _| sink == name);
        *progress.verification() = known;
        let mut sink = open_sink(sink_config)?;
        let applied = match positions(&streams, sink.as_mut()) {
            // It is asked again before it is given anything, for as long as that takes.
            Err(error) if error.is_transient() => {
                tracing::warn!("sink {name}: {error}");
                vec![None; streams.len()]
            }
            applied => applied.with_context(|| format!("sink {name}"))?,
        };
        progress.update_sink(name, |progress| {
            progress.positions = streams
                .iter()
                .zip(&applied)
                .filter_map(|(stream, position)| Some((stream.clone(), (*position)?)))
                .collect();
        });
        let (outlet, inlet, refusals) = transport::shared_channel();
        let mut threads = Vec::new();
        let receiving = Receiving::new(
            config,
            kafka.clone(),
            name,
            outlet,
            refusals,
            Arc::clone(&progress),
        );
        let whose = watch::Whose::Applied { sink: name };
        watch::start(config, kafka, whose, &progress)?;
        let applier = Applier::new(
            config,
            streams.clone(),
            name.to_owned(),
            sink,
            inlet,
            applied,
            Arc::clone(&progress),
        );
        threads.push(("apply", spawn("apply", &progress, move || applier.run())?));
        threads.push((
            "receive",
            spawn("receive", &progress, move || receiving.run())?,
        ));
        halves.push(Half {
            progress,
            threads,
            lock: Lock::Apply {
                _file: Arc::clone(&lock),
            },
        });
    }
    Ok(halves)
}

/// Without the client library there is nothing to apply from.
#[cfg(not(feature = "kafka"))]
pub(super) fn start(_: &Arc<Config>) -> Result<Vec<Half>> {
    Err(super::built_without_kafka())
}
