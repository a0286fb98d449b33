//! The order of operations: which frames of which lanes may be released, and in which order.
//!
//! By itself, without the sequencer around it, so that a model checker can try all schedules of it: see
//! `replicator/lane/schedules`.

use super::lanes::{Lanes, Queued};
use counterfoil_lane::sync::{Ordering, fence};
use counterfoil_lane::{clock, frame};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a look at all lanes says.
pub(super) struct Look {
    /// The clock when it began.
    pub(super) now: u64,
    /// Up to which end each group's frames may be released, once lanes are read.
    pub(super) limits: Vec<u64>,
    /// Whether all lanes were found that there were when it began.
    pub(super) complete: bool,
}

/// Looks at the clock, at all lanes' calls in flight, and for new lanes, in this order. `discover` finds new lanes and says
/// whether it could; `last` is [`Look::now`] of the last look that was complete.
pub(super) fn look<S>(
    subject: &mut S,
    lanes: impl Fn(&S) -> &Lanes,
    groups: usize,
    stuck_after: u64,
    last: u64,
    discover: impl FnOnce(&mut S) -> bool,
) -> Look {
    let now = clock::now();
    // What is seen from here on is not from before the clock was read.
    fence(Ordering::SeqCst);
    let mut limits = limits(lanes(subject), groups, stuck_after, now);
    let known = lanes(subject).lanes.len();
    let complete = discover(subject);
    // A lane that wasn't known had no slot looked at. Where more come all the time, this must not wait until none does:
    // they were made after the last pass looked for lanes, so none of their calls ended before that pass began.
    let lanes = lanes(subject);
    if lanes.lanes.len() > known {
        let with_new = self::limits(lanes, groups, stuck_after, now);
        let is_all = lanes.knows_all();
        for (limit, with_new) in limits.iter_mut().zip(with_new) {
            *limit = (*limit).min(if is_all { with_new } else { last });
        }
    }
    Look {
        now,
        limits,
        complete,
    }
}

/// Up to which end each group's frames may be released, by the calls in flight.
fn limits(lanes: &Lanes, groups: usize, stuck_after: u64, now: u64) -> Vec<u64> {
    let mut limits = vec![now; groups];
    for lane in &lanes.lanes {
        if let Some(call) = lane.in_flight()
            && now.saturating_sub(call.begin) < stuck_after
        {
            let group = usize::from(call.group);
            let held_back = match call.group {
                frame::ALL_GROUPS => &mut limits[..],
                _ => limits.get_mut(group..group + 1).unwrap_or_default(),
            };
            for limit in held_back {
                *limit = (*limit).min(call.begin);
            }
        }
    }
    limits
}

/// The frames of all lanes that may be released, by their ends.
pub(super) struct Merge<'a> {
    limits: &'a [u64],
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// No frame that is still unread ends before this.
    unread: u64,
}

impl Merge<'_> {
    /// Of the frames that were read.
    pub(super) fn new<'a>(lanes: &Lanes, limits: &'a [u64]) -> Merge<'a> {
        // No frame that is still unread ends before the last one read of its lane.
        let unread = lanes.lanes.iter().filter_map(|lane| lane.read_limit());
        let unread = unread.min().unwrap_or(u64::MAX);
        let mut merge = Merge {
            limits,
            heads: BinaryHeap::new(),
            unread,
        };
        for lane in 0..lanes.lanes.len() {
            merge.push_head(lanes, lane);
        }
        merge
    }

    /// Whether what ended then comes before all frames that aren't released, of every group.
    pub(super) fn is_next(&self, end: u64) -> bool {
        let next = self.heads.peek().map(|Reverse((end, _))| *end);
        next.is_none_or(|next| end <= next)
            && end <= self.unread
            && self.limits.iter().all(|&limit| end <= limit)
    }

    /// Takes the next frame, and says of which lane.
    pub(super) fn next(&mut self, lanes: &mut Lanes) -> Option<(usize, Queued)> {
        while let Some(Reverse((end, lane))) = self.heads.pop() {
            if end > self.unread {
                return None;
            }
            let Some((_, at)) = head(lanes, lane, self.limits) else {
                continue;
            };
            let frame = lanes.lanes[lane].queue.remove(at);
            self.push_head(lanes, lane);
            if let Some(frame) = frame {
                return Some((lane, frame));
            }
        }
        None
    }

    fn push_head(&mut self, lanes: &Lanes, lane: usize) {
        if let Some((end, _)) = head(lanes, lane, self.limits) {
            self.heads.push(Reverse((end, lane)));
        }
    }
}

/// The first frame of a lane that may be released: its end, and its place in the queue. Frames of a group that is held
/// back are passed over.
fn head(lanes: &Lanes, lane: usize, limits: &[u64]) -> Option<(u64, usize)> {
    let queue = &lanes.lanes[lane].queue;
    queue.iter().enumerate().find_map(|(at, frame)| {
        let limit = limits.get(usize::from(frame.group)).copied().unwrap_or(0);
        (frame.header.end <= limit).then_some((frame.header.end, at))
    })
}
