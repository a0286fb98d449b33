//! The lock of a mirror: whoever changes it holds it alone, those who read it share it.

use super::error::Doing;
use crate::SinkError;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to sleep between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// Holds a lock until it is dropped.
pub(super) struct Held(Arc<File>);

impl Drop for Held {
    fn drop(&mut self) {
        // It can't fail on an open file; the kernel lets go at the latest when it is closed.
        let _ = flock(&*self.0, FlockOperation::Unlock);
    }
}

/// Takes the lock for changing, or for reading, waiting at most so long for others.
pub(super) fn take(
    lock: &Arc<File>,
    is_exclusive: bool,
    wait_max: Duration,
) -> Result<Held, SinkError> {
    let (operation, whose) = if is_exclusive {
        (FlockOperation::NonBlockingLockExclusive, "reads it")
    } else {
        (FlockOperation::NonBlockingLockShared, "changes it")
    };
    let until = Instant::now() + wait_max;
    loop {
        match flock(&**lock, operation) {
            Ok(()) => return Ok(Held(Arc::clone(lock))),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(SinkError::Transient {
                    doing: "waiting for the lock .counterfoil/lock".to_owned(),
                    cause: format!(
                        "another process (restore, verify or a second replicator) {whose} since more than {} s",
                        wait_max.as_secs_f32()
                    ),
                });
            }
            Err(error) => return Err(error).doing(|| "locking .counterfoil/lock".to_owned()),
        }
    }
}
