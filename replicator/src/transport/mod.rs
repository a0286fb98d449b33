//! Transport: carries parcels of events from the publisher to appliers, in order, with a bound on what is under way.
//!
//! Within one process that is a bounded channel per sink ([`channel`]). A parcel holds whole units, so an applier never
//! sees part of one. Past one process events have the form of [`wire`], and [`merge`] makes whole units of them again.

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod merge;
pub mod wire;

use crate::event::Parcel;
use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, Sender, SyncSender, TrySendError, channel as unbounded, sync_channel,
};

/// Parcels on their way to one sink; with their size this bounds memory.
const PARCELS_MAX: usize = 8;

/// The publisher's end: what is sent reaches every sink.
pub struct Outlet(Vec<SyncSender<Arc<Parcel>>>);

/// A sink's end.
pub struct Inlet {
    parcels: Receiver<Arc<Parcel>>,
    refusals: Option<Sender<u16>>,
}

/// Streams that a sink takes no more of until it is asked anew where it stands, because another process applied something.
pub struct Refusals(Receiver<u16>);

/// The other end is gone.
#[derive(Debug)]
pub struct Closed;

/// A way to each of `sinks` sinks.
pub fn channel(sinks: usize) -> (Outlet, Vec<Inlet>) {
    let (senders, receivers) = (0..sinks)
        .map(|_| sync_channel(PARCELS_MAX))
        .map(|(to, parcels)| {
            let refusals = None;
            (to, Inlet { parcels, refusals })
        })
        .unzip();
    (Outlet(senders), receivers)
}

/// A way to one sink that other processes may feed too.
pub fn shared_channel() -> (Outlet, Inlet, Refusals) {
    let (to, parcels) = sync_channel(PARCELS_MAX);
    let (refuse, refusals) = unbounded();
    let inlet = Inlet {
        parcels,
        refusals: Some(refuse),
    };
    (Outlet(vec![to]), inlet, Refusals(refusals))
}

impl Outlet {
    /// Sends a parcel; waits while a sink has too many under way.
    pub fn send(&self, parcel: Parcel) -> Result<(), Closed> {
        let parcel = Arc::new(parcel);
        self.0
            .iter()
            .try_for_each(|sender| sender.send(Arc::clone(&parcel)).map_err(|_| Closed))
    }

    /// Sends a parcel to the one sink there is, if it has room; gives it back otherwise.
    pub fn try_send(&self, parcel: Parcel) -> Result<Option<Parcel>, Closed> {
        match self
            .0
            .first()
            .map(|sender| sender.try_send(Arc::new(parcel)))
        {
            Some(Ok(())) => Ok(None),
            Some(Err(TrySendError::Full(parcel))) => Ok(Arc::into_inner(parcel)),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(Closed),
        }
    }
}

impl Refusals {
    /// The next stream, if there is one.
    pub fn take(&self) -> Option<u16> {
        self.0.try_recv().ok()
    }
}

impl Inlet {
    /// Says that nothing more is taken of a stream until somebody asks anew. False: nobody would.
    pub fn refuse(&self, stream: u16) -> bool {
        self.refusals
            .as_ref()
            .is_some_and(|refusals| refusals.send(stream).is_ok())
    }

    /// The next parcel, if there is one within the time.
    pub fn receive(&self, limit: std::time::Duration) -> Result<Option<Arc<Parcel>>, Closed> {
        match self.parcels.recv_timeout(limit) {
            Ok(parcel) => Ok(Some(parcel)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(Closed),
        }
    }

    /// The next parcel, if there is one now.
    pub fn try_receive(&self) -> Option<Arc<Parcel>> {
        self.parcels.try_recv().ok()
    }
}
