//! A lane written and read as a captured program and the sequencer do.

use counterfoil_lane::board::{self, Board, BoardError};
use counterfoil_lane::frame::Kind;
use counterfoil_lane::reader::{Segment, decode_name};
use counterfoil_lane::writer::{Lane, Name, Operation, Process, Shortage, Target};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

struct Stand {
    directory: tempfile::TempDir,
    process: Process,
}

fn stand(lane_bytes_max: u64) -> Stand {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; board::BYTES];
    bytes[..24].copy_from_slice(&board::initial_header(lane_bytes_max));
    std::fs::write(directory.path().join(board::FILE_NAME), bytes).unwrap();
    let board: &'static Board = board::attach(&with_nul(directory.path())).expect("a fresh board");
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

fn with_nul(path: &Path) -> Vec<u8> {
    let mut path = path.as_os_str().as_bytes().to_vec();
    path.push(0);
    path
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
fn room_that_was_reserved_is_there_for_every_frame_of_a_long_write() {
    let stand = stand(6 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    for (n, len) in [100, 1 << 20, 65_536, 2 << 20, 1].into_iter().enumerate() {
        if !lane.has_room(len) {
            assert_eq!(lane.reserve(&stand.process, len), Ok(()));
        }
        assert!(write(
            lane,
            &stand.process,
            n as u64,
            &vec![n as u8 + 1; len]
        ));
    }
    assert_eq!(
        lane.reserve(&stand.process, 5 << 20),
        Err(Shortage::TooLong)
    );
    assert_eq!(
        lane.reserve(&stand.process, 2 << 20),
        Err(Shortage::Backlog)
    );
}

/// A lane that may only be one segment long goes on when that is free again: as the current one it never would be.
#[test]
fn the_only_segment_is_given_up_when_it_is_full_and_used_again_when_it_is_free() {
    let stand = stand(64 << 10);
    let lane = Lane::create(&stand.process).unwrap();
    let file = stand.directory.path().join("7.0.0.lane");
    let segment = Segment::open(&file).unwrap();
    let mut before = 0;
    for round in 0..3 {
        while write(lane, &stand.process, 0, &[round; 60_000]) {}
        assert!(segment.is_full() && segment.sequence() > before);
        before = segment.sequence();
        assert_eq!(
            lane.reserve(&stand.process, 60_000),
            Err(Shortage::Backlog),
            "nobody has read it"
        );
        segment.free();
        assert_eq!(lane.reserve(&stand.process, 60_000), Ok(()));
    }
}

#[test]
fn no_segment_is_made_where_another_board_is() {
    let stand = stand(64 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    let path = stand.directory.path().join(board::FILE_NAME);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(path.with_extension("new"), bytes).unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
    assert_eq!(
        lane.reserve(&stand.process, 1 << 20),
        Err(Shortage::Unavailable)
    );
    assert_eq!(
        Lane::create(&stand.process).err(),
        Some(Shortage::Unavailable)
    );
}

/// Programs of other users may read what the replicator says, and not change it.
#[test]
fn a_board_that_may_only_be_read_takes_marks_beside_it() {
    let stand = stand(1 << 20);
    let directory = stand.directory.path();
    let bytes = std::fs::read(directory.join(board::FILE_NAME)).unwrap();
    std::fs::write(directory.join(board::MARKS_FILE_NAME), bytes).unwrap();
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } == 0 {
        // Nothing is closed to root; another user has to look.
        let open = std::os::unix::fs::PermissionsExt::from_mode;
        std::fs::set_permissions(directory, open(0o711)).unwrap();
        std::fs::set_permissions(directory.join(board::FILE_NAME), open(0o644)).unwrap();
        std::fs::set_permissions(directory.join(board::MARKS_FILE_NAME), open(0o666)).unwrap();
        let path = with_nul(directory);
        // SAFETY: the child makes system calls and touches no lock.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::setuid(65_534);
                let code = match board::join(&path) {
                    Ok(board) => {
                        board.mark_gap(b"/d/f");
                        i32::from(board.lane_bytes_max.load(Ordering::Relaxed) != 1 << 20)
                    }
                    Err(_) => 2,
                };
                libc::_exit(code);
            }
        }
        let mut status = 0;
        // SAFETY: the child is ours.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        std::fs::copy(
            directory.join(board::MARKS_FILE_NAME),
            directory.join("seen"),
        )
        .unwrap();
        std::fs::rename(directory.join("seen"), directory.join(board::FILE_NAME)).unwrap();
        let marks = board::attach(&with_nul(directory)).expect("the marks");
        let mut marked = Vec::new();
        marks.take_gaps(|hash| marked.push(hash));
        assert_eq!(marked, [board::path_hash(b"/d/f")]);
    }
}

#[test]
fn a_board_of_another_layout_is_refused_by_name() {
    let stand = stand(1 << 20);
    let path = stand.directory.path().join(board::FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 99;
    std::fs::write(&path, &bytes).unwrap();
    let refused = board::join(&with_nul(stand.directory.path())).err();
    assert_eq!(refused, Some(BoardError::Version(99)));
    std::fs::write(&path, &bytes[..100]).unwrap();
    let refused = board::join(&with_nul(stand.directory.path())).err();
    assert_eq!(refused, Some(BoardError::Damaged));
}

/// Where the replicator is older, nothing is said that it wouldn't understand.
#[test]
fn an_older_replicator_is_told_of_mappings_as_changes_and_of_the_rest_nothing() {
    let stand = stand(1 << 20);
    let lane = Lane::create(&stand.process).unwrap();
    for (revision, expected) in [
        (0, vec![Kind::Reread, Kind::Reread]),
        (
            1,
            vec![Kind::Map, Kind::Unmap, Kind::Attributes, Kind::Begin],
        ),
    ] {
        stand
            .process
            .board
            .revision
            .store(revision, Ordering::Relaxed);
        let segment = Segment::open(&stand.directory.path().join("7.0.0.lane")).unwrap();
        let before = segment.tail();
        for kind in [Kind::Map, Kind::Unmap, Kind::Attributes, Kind::Begin] {
            let operation = Operation {
                kind,
                flags: 0,
                begin: 1,
                end: 2,
                offset: 0,
                extent: 10,
            };
            // SAFETY: no bytes are read.
            assert!(unsafe { lane.append(&stand.process, Some(&NAME), &operation, &[], 0) });
        }
        let mut kinds = Vec::new();
        let mut at = before;
        while at < segment.tail() {
            let (header, kind, _) = segment.frame(at, segment.tail()).unwrap();
            at += header.len as usize;
            if kind != Kind::Name {
                kinds.push(kind);
            }
        }
        assert_eq!(kinds, expected);
    }
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
