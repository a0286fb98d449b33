//! Lanes as programs leave them, found in whatever order the directory lists them.

use super::*;
use crate::capture::order;
use counterfoil_lane::board;
use counterfoil_lane::writer::{self, Operation, Process};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU32;

struct Stand {
    directory: tempfile::TempDir,
    board: &'static Board,
}

fn stand() -> Stand {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; board::BYTES];
    bytes[..24].copy_from_slice(&board::initial_header(64 << 20));
    std::fs::write(directory.path().join(board::FILE_NAME), bytes).unwrap();
    let mut name = directory.path().as_os_str().as_bytes().to_vec();
    name.push(0);
    let board = board::join(&name).unwrap();
    Stand { directory, board }
}

impl Stand {
    fn process(&self, number: u64) -> Process {
        let path = self.directory.path().as_os_str().as_bytes();
        Process {
            directory: Vec::leak(path.to_vec()),
            board: self.board,
            number,
            pid: std::process::id(),
            uid: 0,
            pid_started: 1,
            pid_namespace: 0,
            program: [0; 16],
            mode: AtomicU32::new(0),
            lanes: AtomicU32::new(0),
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes::new(
            self.directory.path(),
            self.board,
            Vec::new(),
            Journaled::new(),
        )
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".lane"))
            .collect();
        names.sort_unstable();
        names
    }
}

/// Writes frames until the lane goes on in the next segment; gives how many; the last is there.
fn fill(lane: &mut writer::Lane, process: &Process, before: &Segment) -> u64 {
    const DATA: &[u8] = &[7; 5000];
    let parts = [libc::iovec {
        iov_base: DATA.as_ptr().cast_mut().cast(),
        iov_len: DATA.len(),
    }];
    let operation = Operation {
        kind: Kind::Write,
        flags: 0,
        begin: 1,
        end: 2,
        offset: 0,
        extent: DATA.len() as u64,
    };
    let mut count = 0;
    while !before.is_full() {
        // SAFETY: the part is `DATA`.
        assert!(unsafe { lane.append(process, None, &operation, &parts, DATA.len()) });
        count += 1;
    }
    count
}

/// A start finds the segments of a lane in the directory's order. A free one may come first, then the one in use, and then
/// another free one that was in use between the two: waiting for that one, reading would wait for ever.
#[test]
fn a_lane_is_read_on_whatever_order_its_segments_are_found_in() {
    let stand = stand();
    let process = stand.process(7);
    let lane = writer::Lane::create(&process).unwrap();
    let open = |index: u32| {
        let path = stand.directory.path().join(format!("7.0.{index}.lane"));
        Segment::open(&path).unwrap()
    };
    let mut written = 0;
    for index in 0..2 {
        let segment = open(index);
        written += fill(lane, &process, &segment);
        segment.set_consumed(segment.tail());
    }
    // Only now, or the first would have been used again instead of a third.
    open(0).free();
    open(1).free();
    assert_eq!(open(2).sequence(), 3);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut lanes = stand.lanes();
        for index in order {
            lanes.add(open(index), &|_| 0).unwrap();
        }
        lanes.read(&|_| 0);
        let numbers: Vec<u64> = lanes.lanes[0]
            .queue
            .iter()
            .map(|frame| frame.header.number)
            .collect();
        assert_eq!(numbers, [written], "{order:?}");
    }
}

#[test]
fn what_ended_is_removed_and_no_longer_counted() {
    let stand = stand();
    for number in 1..=4 {
        let process = stand.process(number);
        for _ in 0..2 {
            writer::Lane::create(&process).unwrap();
        }
    }
    let counted = || stand.board.lanes_bytes.load(Ordering::Relaxed);
    let all = counted();
    let mut lanes = stand.lanes();
    assert!(lanes.discover(&|_| 0).unwrap().is_empty());
    assert_eq!((lanes.lanes.len(), stand.files().len()), (8, 8));
    lanes.remove_processes(&HashSet::from([1, 3]));
    assert_eq!(
        stand.files(),
        ["2.0.0.lane", "2.1.0.lane", "4.0.0.lane", "4.1.0.lane"]
    );
    assert_eq!(counted(), all / 2);
    for name in stand.files() {
        let path = stand.directory.path().join(name);
        assert!(lanes.is_known(&path), "{}", path.display());
    }
    assert!(!lanes.is_known(&stand.directory.path().join("1.0.0.lane")));
}

#[test]
fn a_count_that_stays_wrong_is_put_right() {
    let stand = stand();
    let process = stand.process(1);
    writer::Lane::create(&process).unwrap();
    let counted = || stand.board.lanes_bytes.load(Ordering::Relaxed);
    let right = counted();
    // Left by programs that died before this started.
    stand.board.lanes_bytes.store(1 << 40, Ordering::Relaxed);
    let mut lanes = stand.lanes();
    lanes.discover(&|_| 0).unwrap();
    lanes.correct_bytes();
    assert_eq!(counted(), right);
    for wrong in [right + 5000, right - 5000] {
        // Once may be a segment that is being made.
        stand.board.lanes_bytes.store(wrong, Ordering::Relaxed);
        lanes.correct_bytes();
        assert_eq!(counted(), wrong);
        lanes.correct_bytes();
        assert_eq!(counted(), right);
    }
}

fn named(number: u32, generation: u32, path: &'static [u8]) -> writer::Name<'static> {
    writer::Name {
        number,
        generation,
        device: 8,
        inode: u64::from(generation),
        path,
    }
}

/// The last byte of a path is its group.
fn group_of(path: &[u8]) -> u16 {
    u16::from(path[path.len() - 1] - b'0')
}

fn write(lane: &mut writer::Lane, process: &Process, name: &writer::Name<'_>, end: u64) {
    let operation = Operation {
        kind: Kind::Write,
        flags: 0,
        begin: end - 1,
        end,
        offset: 0,
        extent: 0,
    };
    // SAFETY: there is no data.
    assert!(unsafe { lane.append(process, Some(name), &operation, &[], 0) });
}

/// Takes what may be released: process, path, end.
fn release(lanes: &mut Lanes, limits: &[u64]) -> Vec<(u64, String, u64)> {
    let mut merge = order::Merge::new(lanes, limits);
    let mut released = Vec::new();
    while let Some((at, frame)) = merge.next(lanes) {
        let lane = &mut lanes.lanes[at];
        if frame.kind == Kind::Name {
            let name = Name::decode(lane.data(&frame)).unwrap();
            lane.names.insert(frame.name, name);
            continue;
        }
        let path = String::from_utf8(lane.names[&frame.name].path.to_vec()).unwrap();
        released.push((lane.writer.process, path, frame.header.end));
    }
    lanes.settle();
    released
}

/// A process that has used up its numbers gives one to another file, while what it wrote to the first is held back.
#[test]
fn a_frame_is_about_what_its_number_meant_when_it_was_written() {
    let stand = stand();
    let process = stand.process(7);
    let lane = writer::Lane::create(&process).unwrap();
    write(lane, &process, &named(5, 1, b"/held-0"), 10);
    write(lane, &process, &named(5, 2, b"/free-1"), 20);
    let mut lanes = stand.lanes();
    lanes.discover(&group_of).unwrap();
    lanes.read(&group_of);
    let of = |path: &str, end: u64| (7, path.to_owned(), end);
    assert_eq!(release(&mut lanes, &[5, 100]), [of("/free-1", 20)]);
    assert_eq!(release(&mut lanes, &[100, 100]), [of("/held-0", 10)]);
    // What is announced again and again takes no more and more memory.
    for generation in 0..10_000 {
        write(lane, &process, &named(5, generation, b"/other-1"), 30);
        lanes.read(&group_of);
        release(&mut lanes, &[100, 100]);
        lanes.discover(&group_of).unwrap();
    }
    assert!(lanes.lanes[0].names.len() <= NAMES_KEPT + 3);
}

/// A lane announces a file's name after the call it is for, and so after calls of others that ended meanwhile.
#[test]
fn what_a_name_is_announced_for_keeps_its_place() {
    let stand = stand();
    let (first, second) = (stand.process(7), stand.process(8));
    let early = writer::Lane::create(&first).unwrap();
    let late = writer::Lane::create(&second).unwrap();
    let now = counterfoil_lane::clock::now();
    write(late, &second, &named(1, 1, b"/late-0"), now + 1);
    write(early, &first, &named(1, 1, b"/early-0"), now);
    let mut lanes = stand.lanes();
    lanes.discover(&group_of).unwrap();
    lanes.read(&group_of);
    let released = release(&mut lanes, &[u64::MAX]);
    let ends: Vec<u64> = released.iter().map(|(_, _, end)| *end - now).collect();
    assert_eq!(ends, [0, 1], "{released:?}");
}
