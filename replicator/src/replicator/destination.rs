//! Where the capturing half's parcels go: a sink in the same process, or the topics of a cluster.

use crate::apply::{Applier, attach, positions};
use crate::config::{Config, Kafka};
use crate::progress::Progress;
use crate::publish::images::Images;
use crate::transport::Inlet;
#[cfg(feature = "kafka")]
use crate::transport::kafka::{
    publishing::{self, Known, Publishing},
    requests, watch,
};
use anyhow::{Context as _, Result};
use counterfoil_proto::Position;
use counterfoil_sinks::Sink;
use counterfoil_sinks::plan::rows::is_of_rows;
use std::collections::HashSet;
use std::sync::Arc;

/// What a start has to know of a destination, and to do with it.
pub(super) trait Destination {
    /// Its name in status and checkpoints.
    fn name(&self) -> &str;

    /// What it has, by group.
    fn positions(&mut self, images: &Images) -> Result<Vec<Option<Position>>>;

    /// Why it can't be got at for the present, if that keeps everything from beginning anew. Kafka needn't be there for it.
    ///
    /// # Errors
    /// It never can.
    fn away(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Paths that it has files for; `had` are those that there were images of.
    fn files(&mut self, had: &HashSet<Arc<[u8]>>) -> Result<Vec<Arc<[u8]>>>;

    /// Everything begins anew at a position. Says what it has then, by group.
    fn begin(&mut self, at: Position) -> Result<Vec<Option<Position>>>;

    /// The work of its thread.
    fn work(self: Box<Self>, onward: Onward) -> Box<dyn FnOnce() + Send>;
}

/// What a destination's thread works with.
pub(super) struct Onward {
    /// Where parcels come from.
    pub(super) inlet: Inlet,
    /// What the destination has, by group.
    pub(super) applied: Vec<Option<Position>>,
    /// All that is in the journal at the start lies before this position.
    #[cfg_attr(
        not(feature = "kafka"),
        allow(dead_code, reason = "only Kafka takes it")
    )]
    pub(super) journal_end: Position,
    /// Shared counters.
    pub(super) progress: Arc<Progress>,
}

/// A sink in this process.
pub(super) struct LocalSink {
    config: Arc<Config>,
    name: String,
    sink: Box<dyn Sink>,
    /// Everything is sent anew.
    anew: bool,
}

impl LocalSink {
    pub(super) fn new(config: &Arc<Config>, name: &str, sink: Box<dyn Sink>) -> LocalSink {
        LocalSink {
            config: Arc::clone(config),
            name: name.to_owned(),
            sink,
            anew: false,
        }
    }

    fn what(&self) -> String {
        format!("sink {}", self.name)
    }
}

impl Destination for LocalSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn positions(&mut self, images: &Images) -> Result<Vec<Option<Position>>> {
        let streams = self.config.own_streams();
        match positions(&streams, self.sink.as_mut()) {
            // What it had when the last checkpoint was made will do to begin with: a batch that was made for something
            // else is refused. At the very first start there is none.
            Err(error) if error.is_transient() && images.cursor() != 0 => {
                tracing::warn!(
                    "{}: {error}; capturing begins all the same, and the journal keeps what comes",
                    self.what()
                );
                let known = |stream: &String| images.applied(&self.name, stream);
                Ok(streams.iter().map(known).collect())
            }
            positions => positions.with_context(|| self.what()),
        }
    }

    fn away(&mut self) -> Result<Option<String>> {
        match positions(&self.config.own_streams(), self.sink.as_mut()) {
            Ok(_) => Ok(None),
            Err(error) if error.is_transient() => Ok(Some(format!("{}: {error}", self.what()))),
            Err(error) => Err(error).with_context(|| self.what()),
        }
    }

    fn files(&mut self, _: &HashSet<Arc<[u8]>>) -> Result<Vec<Arc<[u8]>>> {
        let mut paths = Vec::new();
        for stream in self.config.own_streams() {
            let files = self.sink.files(&stream).with_context(|| self.what())?;
            let paths_of = files.into_iter().map(|file| file.description.path);
            paths.extend(paths_of.filter(|path| !is_of_rows(path)).map(Arc::from));
        }
        Ok(paths)
    }

    fn begin(&mut self, at: Position) -> Result<Vec<Option<Position>>> {
        self.anew = true;
        let streams = self.config.own_streams();
        attach(&streams, self.sink.as_mut(), at)
            .and_then(|()| positions(&streams, self.sink.as_mut()))
            .with_context(|| self.what())
    }

    fn work(self: Box<Self>, onward: Onward) -> Box<dyn FnOnce() + Send> {
        let streams = self.config.own_streams();
        let applier = Applier::new(
            &self.config,
            streams,
            self.name,
            self.sink,
            onward.inlet,
            onward.applied,
            onward.progress,
        );
        let applier = if self.anew {
            applier.begun_anew()
        } else {
            applier
        };
        Box::new(move || applier.run())
    }
}

/// The topics of a cluster.
#[cfg(feature = "kafka")]
pub(super) struct KafkaTopics {
    config: Arc<Config>,
    kafka: Kafka,
    /// Whether a broker said where the topics end, or it is only known from before.
    asked: bool,
    begin: Option<Position>,
}

#[cfg(feature = "kafka")]
impl KafkaTopics {
    pub(super) fn new(config: &Arc<Config>, kafka: &Kafka) -> Result<KafkaTopics> {
        Ok(KafkaTopics {
            config: Arc::clone(config),
            kafka: kafka.clone(),
            asked: false,
            begin: None,
        })
    }
}

#[cfg(feature = "kafka")]
impl Destination for KafkaTopics {
    fn name(&self) -> &str {
        publishing::NAME
    }

    fn positions(&mut self, images: &Images) -> Result<Vec<Option<Position>>> {
        let streams = self.config.own_streams();
        let known: Vec<Option<Position>> = streams
            .iter()
            .map(|stream| images.applied(publishing::NAME, stream))
            .collect();
        let is_new = images.cursor() == 0;
        let acknowledged = (!is_new).then_some(known.as_slice());
        match publishing::ends(&self.config, &self.kafka, acknowledged) {
            Ok(ends) => {
                self.asked = true;
                // All that is new lies after all that was ever sent, whole or not.
                let position = |end: publishing::End| {
                    if is_new {
                        end.tail.seen
                    } else {
                        end.tail.whole
                    }
                };
                Ok(ends.into_iter().map(position).collect())
            }
            Err(error) => {
                tracing::warn!(
                    "{error:#}; capturing begins all the same, and the journal keeps what comes"
                );
                Ok(known)
            }
        }
    }

    fn files(&mut self, had: &HashSet<Arc<[u8]>>) -> Result<Vec<Arc<[u8]>>> {
        if !had.is_empty() || !self.asked {
            return Ok(had.iter().cloned().collect());
        }
        // The state directory is new: what there was, only the topics know.
        let mut paths = Vec::new();
        for stream in self.config.own_streams() {
            let files = publishing::files_on(&self.config, &self.kafka, &stream)?;
            paths.extend(files.into_iter().map(Arc::from));
        }
        Ok(paths)
    }

    fn begin(&mut self, at: Position) -> Result<Vec<Option<Position>>> {
        self.begin = Some(at);
        Ok(vec![Some(at); self.config.groups.len()])
    }

    fn work(self: Box<Self>, onward: Onward) -> Box<dyn FnOnce() + Send> {
        let known = onward
            .applied
            .iter()
            .map(|&position| Known {
                position: if self.begin.is_some() { None } else { position },
                begin: self.begin,
                asked: self.asked,
            })
            .collect();
        // What these two have to tell is worth a warning, not a start that fails.
        let (config, kafka) = (Arc::clone(&self.config), self.kafka.clone());
        let progress = Arc::clone(&onward.progress);
        if let Err(error) = watch::start(&config, &kafka, watch::Whose::Captured, &progress)
            .and_then(|()| requests::listen(config, kafka, progress))
        {
            tracing::warn!("{error:#}");
        }
        let publishing = Publishing::new(
            self.config,
            self.kafka,
            onward.inlet,
            known,
            onward.journal_end,
            onward.progress,
        );
        Box::new(move || publishing.run())
    }
}

/// Without the client library there is no way to a cluster.
#[cfg(not(feature = "kafka"))]
pub(super) struct KafkaTopics(std::convert::Infallible);

#[cfg(not(feature = "kafka"))]
impl KafkaTopics {
    pub(super) fn new(_: &Arc<Config>, _: &Kafka) -> Result<KafkaTopics> {
        Err(super::built_without_kafka())
    }
}

#[cfg(not(feature = "kafka"))]
impl Destination for KafkaTopics {
    fn name(&self) -> &str {
        match self.0 {}
    }

    fn positions(&mut self, _: &Images) -> Result<Vec<Option<Position>>> {
        match self.0 {}
    }

    fn files(&mut self, _: &HashSet<Arc<[u8]>>) -> Result<Vec<Arc<[u8]>>> {
        match self.0 {}
    }

    fn begin(&mut self, _: Position) -> Result<Vec<Option<Position>>> {
        match self.0 {}
    }

    fn work(self: Box<Self>, _: Onward) -> Box<dyn FnOnce() + Send> {
        match self.0 {}
    }
}
