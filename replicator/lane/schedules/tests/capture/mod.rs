//! What of the sequencer reads lanes and orders frames: the sequencer's own code, compiled here with the checker's atomics.

#[path = "../../../../src/capture/lanes.rs"]
pub mod lanes;
#[path = "../../../../src/capture/order.rs"]
mod order;

use counterfoil_lane::board::Board;
use counterfoil_lane::frame::Kind;
use lanes::{Journaled, Lanes};
use std::collections::HashSet;
use std::path::Path;

/// What of the sequencer reads and orders frames.
pub(super) struct Capture {
    lanes: Lanes,
    last: u64,
    /// A call that is in flight for longer holds nothing back.
    pub(super) stuck_after: u64,
    pub(super) released: Vec<Released>,
}

/// A frame that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) process: u64,
    pub(super) number: u64,
    pub(super) group: u16,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) offset: u64,
    pub(super) value: u64,
}

/// A call that a lane says its thread is in.
pub(super) struct Left {
    pub(super) process: u64,
    pub(super) offset: u64,
    pub(super) extent: u64,
}

/// Groups of paths: by their last byte.
fn group_of(path: &[u8]) -> u16 {
    u16::from(path.last().copied().unwrap_or(0) - b'0')
}

impl Capture {
    pub(super) fn new(directory: &Path, board: &'static Board) -> Capture {
        Capture {
            lanes: Lanes::new(directory, board, Vec::new(), Journaled::new()),
            last: 0,
            stuck_after: u64::MAX,
            released: Vec::new(),
        }
    }

    /// A pass of the sequencer. `upset` does it in the wrong order: lanes are read before it is known what is in flight.
    pub(super) fn pass(&mut self, upset: bool) {
        if upset {
            self.lanes.discover(&group_of).unwrap();
            self.lanes.read(&group_of);
        }
        let discover = |this: &mut Capture| {
            let complaints = this.lanes.discover(&group_of).unwrap();
            assert!(complaints.is_empty(), "{complaints:?}");
            true
        };
        let (stuck_after, last) = (self.stuck_after, self.last);
        let look = order::look(self, |this| &this.lanes, 2, stuck_after, last, discover);
        self.last = look.now;
        if !upset {
            self.lanes.read(&group_of);
        }
        let mut merge = order::Merge::new(&self.lanes, &look.limits);
        while let Some((lane, frame)) = merge.next(&mut self.lanes) {
            let data = self.lanes.lanes[lane].data(&frame);
            if frame.kind == Kind::Name {
                continue;
            }
            let value = data.try_into().expect("a frame that isn't torn");
            self.released.push(Released {
                process: self.lanes.lanes[lane].writer.process,
                number: frame.header.number,
                group: frame.group,
                begin: frame.header.begin,
                end: frame.header.end,
                offset: frame.header.offset,
                value: u64::from_le_bytes(value),
            });
        }
        for lane in &self.lanes.lanes {
            assert_eq!(lane.broken, None);
        }
        self.lanes.settle();
    }

    /// Looks after processes that are gone: what they left in flight. Their lanes must be read to the end.
    pub(super) fn bury(&mut self, gone: &HashSet<u64>) -> Vec<Left> {
        let left = self.left();
        for lane in &self.lanes.lanes {
            let is_gone = gone.contains(&lane.writer.process);
            assert!(!is_gone || lane.is_drained(), "a lane that is never done");
        }
        self.lanes.remove_processes(gone);
        left
    }

    /// What lanes say is in flight.
    fn left(&self) -> Vec<Left> {
        let lanes = self.lanes.lanes.iter();
        lanes
            .filter_map(|lane| {
                let call = lane.in_flight()?;
                Some(Left {
                    process: lane.writer.process,
                    offset: call.offset,
                    extent: call.extent,
                })
            })
            .collect()
    }
}
