//! Units of work that programs mark themselves: `counterfoil_begin`, `counterfoil_commit` and `counterfoil_abort`.
//!
//! A unit belongs to the process, whichever of its threads marks it. Marks are counted by who reads them; the number of
//! units that are open travels with each, so that after marks that were lost (no room in the lane, a replicator too old to
//! be told of them) the next one sets things right.

use crate::process::{self, State};
use crate::thread;
use core::sync::atomic::{AtomicU64, Ordering};
use counterfoil_lane::clock;
use counterfoil_lane::frame::{ALL_GROUPS, Kind, MARK_RESUMED};
use counterfoil_lane::writer::{Operation, Target};

/// What the process has open: [`Open`] in one word, as a signal handler or another thread may mark at the same time.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// How many units are open, in which process.
#[derive(Clone, Copy)]
struct Open {
    /// A forked child has another, and nothing open.
    epoch: u32,
    depth: u32,
    /// A mark was lost.
    lost: bool,
}

const LOST: u64 = 1 << 31;
const DEPTH: u64 = LOST - 1;

impl Open {
    fn of(word: u64, epoch: u32) -> Open {
        let open = Open {
            epoch: (word >> 32) as u32,
            depth: (word & DEPTH) as u32,
            lost: word & LOST != 0,
        };
        if open.epoch == epoch {
            return open;
        }
        Open {
            epoch,
            depth: 0,
            lost: false,
        }
    }

    fn word(self) -> u64 {
        let lost = if self.lost { LOST } else { 0 };
        u64::from(self.epoch) << 32 | u64::from(self.depth) & DEPTH | lost
    }
}

/// Changes [`OPEN`] and gives back what it was.
fn update(epoch: u32, change: impl Fn(Open) -> Open) -> Open {
    let mut word = OPEN.load(Ordering::Acquire);
    loop {
        let before = Open::of(word, epoch);
        let after = change(before).word();
        match OPEN.compare_exchange_weak(word, after, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return before,
            Err(there) => word = there,
        }
    }
}

/// A program marks where a unit begins ([`Kind::Begin`]) or ends.
pub(crate) fn mark(kind: Kind) {
    // A `vfork` child must not change what its parent has open.
    let Some(state) = process::current().filter(|state| !process::is_borrowed(state)) else {
        return;
    };
    let epoch = state.epoch as u32;
    let is_begin = kind == Kind::Begin;
    let before = update(epoch, |open| Open {
        depth: if is_begin {
            open.depth.saturating_add(1) & DEPTH as u32
        } else {
            open.depth.saturating_sub(1)
        },
        ..open
    });
    if before.depth == 0 && !is_begin {
        // The end of nothing.
        return;
    }
    let depth = if is_begin {
        before.depth.saturating_add(1)
    } else {
        before.depth - 1
    };
    let flags = if before.lost { MARK_RESUMED } else { 0 };
    let told = tell(state, kind, flags, depth);
    if told == before.lost {
        update(epoch, |open| Open {
            lost: !told,
            ..open
        });
    }
}

/// Appends the frame. The slot is published meanwhile for all groups: none may go past a mark that is on its way.
fn tell(state: &'static State, kind: Kind, flags: u16, depth: u32) -> bool {
    if state.process.board.revision.load(Ordering::Relaxed) < kind.revision() {
        return false;
    }
    let Some(ticket) = thread::enter(state) else {
        return false;
    };
    let begin = ticket.lane.enter(&Target {
        device: 0,
        inode: 0,
        offset: 0,
        extent: 0,
        group: ALL_GROUPS,
    });
    let operation = Operation {
        kind,
        flags,
        begin,
        end: clock::now(),
        offset: u64::MAX,
        extent: u64::from(depth),
    };
    // SAFETY: there are no data.
    let appended = unsafe { ticket.lane.append(&state.process, None, &operation, &[], 0) };
    ticket.lane.leave();
    ticket.done();
    appended
}
