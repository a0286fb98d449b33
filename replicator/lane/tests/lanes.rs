//! A lane written and read as a captured program and the sequencer do.

use counterfoil_lane::board::{self, Board};
use counterfoil_lane::frame::Kind;
use counterfoil_lane::reader::{Segment, decode_name};
use counterfoil_lane::writer::{Lane, Name, Operation, Process, Target};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

struct Stand {
    directory: tempfile::TempDir,
    process: Process,
}

fn stand(lane_bytes_max: u64) -> Stand {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; board::BYTES];
    bytes[..24].copy_from_slice(&board::initial_header(lane_bytes_max));
    std::fs::write(directory.path().join(board::FILE_NAME), bytes).unwrap();
    let mut path = directory
        .path()
        .join(board::FILE_NAME)
        .as_os_str()
        .as_bytes()
        .to_vec();
    path.push(0);
    let board: &'static Board = board::attach(&path).expect("a fresh board");
    let process = Process {
        directory: Vec::leak(directory.path().as_os_str().as_bytes().to_vec()),
        board,
        number: 7,
        pid: std::process::id(),
        uid: 0,
        pid_started: 1,
        pid_namespace: 0,
        program: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
        mode: AtomicU32::new(0),
        lanes: AtomicU32::new(0),
    };
    Stand { directory, process }
}

const NAME: Name<'static> = Name {
    number: 1,
    generation: 1,
    device: 8,
    inode: 9,
    path: b"/d/f",
};

fn write(lane: &mut Lane, process: &Process, offset: u64, data: &[u8]) -> bool {
    let target = Target {
        device: 8,
        inode: 9,
        offset,
        extent: data.len() as u64,
        group: 0,
    };
    let begin = lane.enter(&target);
    let operation = Operation {
        kind: Kind::Write,
        flags: 0,
        begin,
        end: begin + 1,
        offset,
        extent: 0,
    };
    // Two parts, to cross a seam.
    let (a, b) = data.split_at(data.len() / 3);
    let parts = [a, b].map(|part| libc::iovec {
        iov_base: part.as_ptr() as *mut _,
        iov_len: part.len(),
    });
    // SAFETY: the parts are whole slices.
    let done = unsafe { lane.append(process, Some(&NAME), &operation, &parts, data.len()) };
    lane.leave();
    done
}

/// Reads everything there is as a sequencer does, freeing what is done with, and returns (offset, data) of writes.
fn drain(
    directory: &Path,
    next_sequence: &mut u64,
    at: &mut usize,
    free: bool,
) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let segments: BTreeMap<u64, Arc<Segment>> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "lane")
            })
            .map(|path| Segment::open(&path).unwrap())
            .map(|segment| (segment.sequence(), segment))
            .collect();
        let Some(segment) = segments.get(next_sequence) else {
            return found;
        };
        let full = segment.is_full();
        let tail = segment.tail();
        let mut named = *at > 0;
        while *at < tail {
            let (header, kind, data) = segment.frame(*at, tail).unwrap();
            match kind {
                Kind::Name => {
                    assert_eq!(decode_name(data), Some((8, 9, &b"/d/f"[..])));
                    named = true;
                }
                Kind::Write => {
                    assert!(
                        named,
                        "a name is announced in every segment before it is used"
                    );
                    found.push((header.offset, data.to_vec()));
                }
                other => panic!("{other:?}"),
            }
            *at += header.len as usize;
        }
        segment.set_consumed(*at);
        if !full {
            return found;
        }
        if free {
            segment.free();
        }
        *next_sequence += 1;
        *at = 0;
    }
}

#[test]
fn what_is_written_is_read_in_order_and_segments_are_used_again() {
    let stand = stand(64 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    let (mut sequence, mut at) = (1, 0);
    let mut expected = Vec::new();
    let mut found = Vec::new();
    for round in 0..200u64 {
        for n in 0..100 {
            let data = vec![(round + n) as u8; (n as usize * 37) % 700 + 3];
            assert!(write(lane, &stand.process, round * 1000 + n, &data));
            expected.push((round * 1000 + n, data));
        }
        found.extend(drain(stand.directory.path(), &mut sequence, &mut at, true));
    }
    assert_eq!(found, expected);
    let files = std::fs::read_dir(stand.directory.path()).unwrap().count();
    assert!(
        files <= 4,
        "the board and at most three segments, not {files}"
    );
}

#[test]
fn a_long_write_becomes_frames_that_go_on_with_each_other() {
    let stand = stand(64 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    assert!(write(lane, &stand.process, 5, &data));
    let (mut sequence, mut at) = (1, 0);
    let mut joined = Vec::new();
    for (offset, part) in drain(stand.directory.path(), &mut sequence, &mut at, true) {
        assert_eq!(offset, 5 + joined.len() as u64);
        joined.extend(part);
    }
    assert_eq!(joined, data);
}

#[test]
fn a_lane_at_its_limit_refuses_and_goes_on_when_there_is_room_again() {
    let stand = stand(2 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    let mut written = Vec::new();
    for n in 0.. {
        if !write(lane, &stand.process, n, &[1; 1000]) {
            break;
        }
        written.push((n, vec![1; 1000]));
    }
    assert!((1000..2100).contains(&written.len()), "{}", written.len());
    let (mut sequence, mut at) = (1, 0);
    assert_eq!(
        drain(stand.directory.path(), &mut sequence, &mut at, true),
        written
    );
    assert!(
        write(lane, &stand.process, 77, &[2; 1000]),
        "freed segments take frames again"
    );
    assert_eq!(
        drain(stand.directory.path(), &mut sequence, &mut at, true),
        [(77, vec![2; 1000])]
    );
}

#[test]
fn a_call_in_flight_is_visible_until_it_is_left() {
    let stand = stand(2 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    let file = std::fs::read_dir(stand.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "lane")
        })
        .unwrap();
    let segment = Segment::open(&file).unwrap();
    assert_eq!(segment.in_flight(), None);
    let begin = lane.enter(&Target {
        device: 1,
        inode: 2,
        offset: 3,
        extent: 4,
        group: 5,
    });
    let call = segment.in_flight().unwrap();
    assert_eq!(
        (
            call.begin,
            call.device,
            call.inode,
            call.offset,
            call.extent,
            call.group
        ),
        (begin, 1, 2, 3, 4, 5)
    );
    lane.leave();
    assert_eq!(segment.in_flight(), None);
}

#[test]
fn gaps_and_inodes_are_found_on_the_board() {
    let stand = stand(2 << 20);
    let board = stand.process.board;
    board.mark_gap(b"/a");
    board.mark_gap(b"/a");
    board.mark_gap(b"/b");
    let mut marked = Vec::new();
    assert!(!board.take_gaps(|hash| marked.push(hash)));
    marked.sort_unstable();
    let mut expected = vec![board::path_hash(b"/a"), board::path_hash(b"/b")];
    expected.sort_unstable();
    assert_eq!(marked, expected);
    for inode in 1..20_000 {
        assert!(board.add_inode(3, inode));
    }
    assert!((1..20_000).all(|inode| board.has_inode(3, inode)));
    assert!(!board.has_inode(4, 5) && !board.has_inode(3, 20_000));
    for n in 0..5000u32 {
        board.mark_gap(&n.to_le_bytes());
    }
    assert!(
        board.take_gaps(|_| {}),
        "more gaps than there is room for mean every file"
    );
}

#[test]
fn damaged_lanes_are_refused_and_never_panic() {
    let stand = stand(2 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    for n in 0..50 {
        assert!(write(lane, &stand.process, n, &[9; 33]));
    }
    let file = stand.directory.path().join("0000000000000007.0.0.lane");
    let file = if file.exists() {
        file
    } else {
        stand.directory.path().join("7.0.0.lane")
    };
    let good = std::fs::read(&file).unwrap();
    let copy = stand.directory.path().join("copy");
    for at in (0..4096 + 2000).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        std::fs::write(&copy, &bad).unwrap();
        let Ok(segment) = Segment::open(&copy) else {
            continue;
        };
        let tail = segment.tail();
        let mut position = 0;
        while position < tail {
            match segment.frame(position, tail) {
                Ok((header, _, _)) => position += header.len as usize,
                Err(_) => break,
            }
        }
    }
}
