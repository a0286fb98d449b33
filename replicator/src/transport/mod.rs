//! Transport: carries parcels of events from the publisher to appliers, in order, with a bound on what is under way.
//!
//! Within one process that is a bounded channel per sink ([`channel`]). A parcel holds whole units, so an applier never
//! sees part of one. Past one process events have the form of [`wire`], and [`assembly`] makes whole units of them again.

pub mod assembly;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod wire;

use crate::event::Parcel;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Parcels on their way to one sink; with their size this bounds memory.
const PARCELS_MAX: usize = 8;

/// The publisher's end: what is sent reaches every sink.
pub struct Outlet(Vec<SyncSender<Arc<Parcel>>>);

/// A sink's end.
pub struct Inlet(Receiver<Arc<Parcel>>);

/// The other end is gone.
#[derive(Debug)]
pub struct Closed;

/// A way to each of `sinks` sinks.
pub fn channel(sinks: usize) -> (Outlet, Vec<Inlet>) {
    let (senders, receivers) = (0..sinks)
        .map(|_| sync_channel(PARCELS_MAX))
        .map(|(to, from)| (to, Inlet(from)))
        .unzip();
    (Outlet(senders), receivers)
}

impl Outlet {
    /// Sends a parcel; waits while a sink has too many under way.
    pub fn send(&self, parcel: Parcel) -> Result<(), Closed> {
        let parcel = Arc::new(parcel);
        self.0
            .iter()
            .try_for_each(|sender| sender.send(Arc::clone(&parcel)).map_err(|_| Closed))
    }
}

impl Inlet {
    /// The next parcel, if there is one within the time.
    pub fn receive(&self, limit: std::time::Duration) -> Result<Option<Arc<Parcel>>, Closed> {
        match self.0.recv_timeout(limit) {
            Ok(parcel) => Ok(Some(parcel)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(Closed),
        }
    }

    /// The next parcel, if there is one now.
    pub fn try_receive(&self) -> Option<Arc<Parcel>> {
        self.0.try_recv().ok()
    }
}
