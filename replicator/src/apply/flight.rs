//! A batch in flight: it is applied while the next one is folded.
//!
//! Only where more waits already; what comes alone is applied at once, by the applier itself. One batch at most is in flight.
//! Until it has landed the applier has no sink, and what was applied counts for nothing.

use super::applier::{Due, Offer};
use counterfoil_sinks::{Batch, Sink, SinkError, Snapshot};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What takes off: the sink, and what it is offered.
type Outbound = (Box<dyn Sink>, Offer);

/// The thread that applies while the applier folds.
pub(super) struct Pilot {
    outbound: SyncSender<Outbound>,
    inbound: Receiver<(Outbound, Result<(), SinkError>)>,
    /// What is to be noted of the batch in flight.
    due: Option<Due>,
}

/// A batch that has landed.
pub(super) struct Landed {
    pub(super) sink: Box<dyn Sink>,
    pub(super) offer: Offer,
    pub(super) due: Due,
    pub(super) result: Result<(), SinkError>,
}

impl Pilot {
    /// `None`: there can be no further thread, so folding and applying take turns.
    pub(super) fn start(sink: &str) -> Option<Pilot> {
        let (outbound, takes_off) = sync_channel::<Outbound>(1);
        let (lands, inbound) = sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("flight".to_owned())
            .spawn(move || {
                for (mut sink, offer) in takes_off {
                    let result = sink.apply(&offer.batch);
                    if lands.send(((sink, offer), result)).is_err() {
                        return;
                    }
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(
                "sink {sink}: starting a second thread: {error}; batches are folded and applied by turns"
            );
            return None;
        }
        Some(Pilot {
            outbound,
            inbound,
            due: None,
        })
    }

    /// Takes off. Gives everything back when there is nobody to fly.
    pub(super) fn take_off(
        &mut self,
        sink: Box<dyn Sink>,
        offer: Offer,
        due: Due,
    ) -> Option<(Outbound, Due)> {
        match self.outbound.send((sink, offer)) {
            Ok(()) => {
                self.due = Some(due);
                None
            }
            Err(nobody) => Some((nobody.0, due)),
        }
    }

    /// What is to be noted of the batch in flight, if one is.
    pub(super) fn due(&self) -> Option<&Due> {
        self.due.as_ref()
    }

    /// Waits for the batch in flight, if one is.
    pub(super) fn land(&mut self) -> Option<Landed> {
        let due = self.due.take()?;
        let ((sink, offer), result) = self.inbound.recv().ok()?;
        Some(Landed {
            sink,
            offer,
            due,
            result,
        })
    }
}

/// Stands in for a sink in flight: nothing can be asked of it.
pub(super) struct Away;

impl Sink for Away {
    fn apply(&mut self, _: &Batch) -> Result<(), SinkError> {
        Err(away())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot + '_>, SinkError> {
        Err(away())
    }

    fn close(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

fn away() -> SinkError {
    SinkError::Transient {
        doing: "asking the target".to_owned(),
        cause: "a batch is in flight".to_owned(),
    }
}
