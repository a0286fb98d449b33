//! Programs that write and die, and a sequencer that reads behind them, in every order in which their threads, the caches
//! and the compiler may make their accesses. The lane's two halves are the real ones, and so are the sequencer's reading of
//! lanes and its rule of order.
//!
//! Each schedule interrupts a thread once, or in some models twice, where it needn't wait. `COUNTERFOIL_SCHEDULES=N` allows N
//! interruptions more, of which each takes some fifty times as long.

use counterfoil_lane::board;
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::segment::{self, Header};
use counterfoil_lane::sync::AtomicU32;
use counterfoil_lane::sync::checked::{self, Weakness};
use counterfoil_lane::writer::{Lane, Name, Operation, Process, Target};
use std::collections::HashSet;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

// What it is made of is for the sequencer, of which there is a part here.
#[allow(dead_code, unused_imports, unreachable_pub)]
mod capture;

use capture::{Capture, Released};

/// What is modelled.
#[derive(Clone, Copy)]
struct Model {
    /// How many calls each program makes.
    calls: &'static [usize],
    /// Their lanes are there, and known, before anything is tried.
    known: bool,
    /// Passes while they do.
    passes: usize,
    /// After how many steps the first program dies.
    dies_after: usize,
    /// Bytes all segments of a lane may have.
    lane_bytes_max: u64,
    /// How often a thread may be interrupted where it needn't wait.
    preemptions: usize,
    mistake: Option<Mistake>,
}

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    Weak(Weakness),
    /// The slot is withdrawn before the frame is appended.
    LeavesEarly,
    /// The sequencer reads lanes before it looks what is in flight.
    ReadsEarly,
}

const MODEL: Model = Model {
    calls: &[1, 1],
    known: false,
    passes: 2,
    dies_after: usize::MAX,
    lane_bytes_max: 1 << 20,
    preemptions: 1,
    mistake: None,
};

/// What a program did to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    process: u64,
    offset: u64,
}

/// The value that is written there.
fn value_at(process: u64, offset: u64) -> u64 {
    process << 32 | (offset + 1)
}

fn process(directory: &'static [u8], board: &'static board::Board, number: u64) -> Process {
    Process {
        directory,
        board,
        number,
        pid: 1,
        uid: 0,
        pid_started: 1,
        pid_namespace: 0,
        program: [0; 16],
        mode: AtomicU32::new(0),
        lanes: AtomicU32::new(0),
    }
}

/// A program: each call as the interposer captures it.
fn program(
    process: &Process,
    lane: Option<&'static mut Lane>,
    calls: usize,
    written: &Mutex<Vec<Written>>,
    leaves_early: bool,
) {
    let lane = lane.unwrap_or_else(|| Lane::create(process).expect("a lane"));
    let path: &[u8] = if process.number == 9 { b"/1" } else { b"/0" };
    let name = Name {
        number: 1,
        generation: 1,
        device: 8,
        inode: process.number,
        path,
    };
    for call in 0..calls as u64 {
        let offset = call * 8;
        let begin = lane.enter(&Target {
            device: 8,
            inode: process.number,
            offset,
            extent: 8,
            group: u16::from(path[1] - b'0'),
        });
        // The call itself.
        let value = value_at(process.number, offset).to_le_bytes();
        written.lock().unwrap().push(Written {
            process: process.number,
            offset,
        });
        let operation = Operation {
            kind: Kind::Write,
            flags: 0,
            begin,
            end: clock::now(),
            offset,
            extent: 0,
        };
        let part = libc::iovec {
            iov_base: value.as_ptr().cast_mut().cast(),
            iov_len: value.len(),
        };
        if leaves_early {
            lane.leave();
        }
        // SAFETY: the part is a whole array.
        if !unsafe { lane.append(process, Some(&name), &operation, &[part], value.len()) } {
            process.board.mark_gap(path);
        }
        lane.leave();
    }
}

/// Runs the model once, in one schedule. Whether all programs got to their ends.
fn run(model: &Model, directory: &Path) -> bool {
    // What a program left that died before its segment was whole.
    for entry in std::fs::read_dir(directory).expect("the directory") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "lane")
        {
            std::fs::remove_file(path).expect("removing a segment");
        }
    }
    checked::begin();
    let name = directory.as_os_str().as_bytes();
    let board = board::join(&[name, b"\0"].concat()).unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));

    let leaves_early = matches!(model.mistake, Some(Mistake::LeavesEarly));
    // SAFETY: the directory's name outlives the model, and a run's threads end within it.
    let name: &'static [u8] = unsafe { std::mem::transmute(name) };
    let mut capture = Capture::new(directory, board);
    let mut programs = Vec::new();
    for (&calls, number) in model.calls.iter().zip(7..) {
        let process = process(name, board, number);
        let lane = model.known.then(|| Lane::create(&process).expect("a lane"));
        programs.push((process, calls, lane));
    }
    if model.known {
        capture.pass(false);
    }
    let programs: Vec<_> = programs
        .into_iter()
        .map(|(process, calls, lane)| {
            let written = Arc::clone(&written);
            let steps = match process.number {
                7 => model.dies_after,
                _ => usize::MAX,
            };
            loom::thread::spawn(move || {
                let life = || program(&process, lane, calls, &written, leaves_early);
                checked::mortal(steps, life)
            })
        })
        .collect();
    let upset = matches!(model.mistake, Some(Mistake::ReadsEarly));
    let passes = model.passes;
    let sequencer = loom::thread::spawn(move || {
        for _ in 0..passes {
            capture.pass(upset);
        }
        capture
    });
    let mut all_lived = true;
    for program in programs {
        all_lived &= program.join().unwrap();
    }
    let mut capture = sequencer.join().unwrap();
    capture.pass(upset);
    // It is told in time that a dead program's call takes too long.
    capture.stuck_after = 0;
    capture.pass(upset);
    // What a dead program was about to do, or did and didn't report, is read again. Its lane holds nothing back any more.
    let left = capture.bury(&HashSet::from([7, 8, 9]));
    capture.pass(upset);
    let gaps = board.gaps.load(Ordering::SeqCst) > 0;
    let written = written.lock().unwrap();
    check(&capture.released, &written, &left, gaps, all_lived);
    drop(capture);
    checked::end();
    all_lived
}

/// What must hold however threads were scheduled.
fn check(
    released: &[Released],
    written: &[Written],
    left: &[capture::Left],
    gaps: bool,
    all_lived: bool,
) {
    for (at, frame) in released.iter().enumerate() {
        assert_eq!(
            frame.value,
            value_at(frame.process, frame.offset),
            "torn: {frame:?}"
        );
        assert!(frame.begin < frame.end);
        assert!(
            !released[..at]
                .iter()
                .any(|before| before.group == frame.group && before.end > frame.end),
            "released before what ended earlier: {released:?}"
        );
        assert!(
            !released[..at]
                .iter()
                .any(|other| (other.process, other.offset) == (frame.process, frame.offset)),
            "doubled: {released:?}"
        );
    }
    for write in written {
        let is_released = released
            .iter()
            .any(|frame| (frame.process, frame.offset) == (write.process, write.offset));
        let is_left = left.iter().any(|call| {
            call.process == write.process
                && (call.offset..call.offset + call.extent).contains(&write.offset)
        });
        assert!(
            is_released || gaps || !all_lived && is_left,
            "lost: {write:?}; released {released:?}"
        );
    }
}

/// What was tried.
struct Tried {
    schedules: u64,
    /// Every program got to its end in all of them.
    lived: bool,
}

/// Tries all schedules of the model, or says why one failed.
fn try_all(model: Model) -> Result<Tried, String> {
    let weakness = match model.mistake {
        Some(Mistake::Weak(weakness)) => Some(weakness),
        _ => None,
    };
    let mut builder = loom::model::Builder::new();
    let more: usize = std::env::var("COUNTERFOIL_SCHEDULES").map_or(0, |more| {
        more.parse().expect("COUNTERFOIL_SCHEDULES is a number")
    });
    builder.preemption_bound = Some(model.preemptions + more);
    builder.max_branches = 20_000;
    // In memory, and of one run after the other: lanes are removed when their programs are gone.
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let path = directory.path().join(board::FILE_NAME);
    let header = board::initial_header(model.lane_bytes_max);
    std::fs::write(&path, header).expect("a board");
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    file.and_then(|file| file.set_len(board::BYTES as u64))
        .expect("a board");
    let place = directory.path().to_owned();
    let runs = Arc::new(AtomicU64::new(0));
    let deaths = Arc::new(AtomicU64::new(0));
    let (counted, died) = (Arc::clone(&runs), Arc::clone(&deaths));
    // A thread of its own, as what a run leaves when it fails is the thread's.
    let tried = std::thread::spawn(move || {
        checked::weaken(weakness);
        let checked = || {
            builder.check(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                died.fetch_add(u64::from(!run(&model, &place)), Ordering::Relaxed);
            });
        };
        if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(checked)) {
            if model.mistake.is_none() {
                eprintln!("the schedule that failed:\n{}", checked::history());
            }
            std::panic::resume_unwind(payload);
        }
    });
    match tried.join() {
        Ok(()) => Ok(Tried {
            schedules: runs.load(Ordering::Relaxed),
            lived: deaths.load(Ordering::Relaxed) == 0,
        }),
        Err(payload) => Err(payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            })
            .unwrap_or_default()),
    }
}

fn holds(what: &str, model: Model) {
    let begun = std::time::Instant::now();
    match try_all(model) {
        Ok(tried) => println!(
            "{what}: {} schedules in {:?}",
            tried.schedules,
            begun.elapsed()
        ),
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Two programs, whose lanes are known.
const ORDER: Model = Model {
    known: true,
    ..MODEL
};

/// A program that makes its lane.
const NEW: Model = Model {
    calls: &[1],
    ..MODEL
};

/// A program that goes through its segments and uses them again.
const SEGMENTS: Model = Model {
    calls: &[5],
    known: true,
    lane_bytes_max: 2 * 4304,
    ..MODEL
};

#[test]
fn programs_are_read_in_order() {
    holds("two programs", ORDER);
    // The second is of another group, which isn't held back.
    let groups = Model {
        calls: &[1, 0, 1],
        passes: 1,
        ..ORDER
    };
    holds("two programs of two groups", groups);
}

#[test]
fn new_programs_are_read_in_order() {
    let one = Model {
        preemptions: 2,
        ..NEW
    };
    holds("a new program", one);
    let two = Model {
        calls: &[1, 1],
        passes: 1,
        ..NEW
    };
    holds("two new programs", two);
}

#[test]
fn segments_are_used_again() {
    holds("a program with two segments", SEGMENTS);
}

/// Whether a program dies before, in or after its call and wherever in telling of it: what it did is told, or read again.
#[test]
fn a_program_may_die_anywhere() {
    let begun = std::time::Instant::now();
    let mut schedules = 0;
    let mut steps = 0;
    loop {
        let model = Model {
            calls: &[2],
            passes: 1,
            dies_after: steps,
            ..MODEL
        };
        let tried = try_all(model).unwrap_or_else(|error| panic!("after {steps} steps: {error}"));
        schedules += tried.schedules;
        if tried.lived {
            break;
        }
        steps += 1;
    }
    assert!(steps > 35, "{steps} steps");
    println!(
        "a program that dies at one of {steps} places: {schedules} schedules in {:?}",
        begun.elapsed()
    );
}

/// The checker sees what it is there for.
#[test]
fn mistakes_are_found() {
    let weak_store = |field| Mistake::Weak(Weakness::Stores(field));
    let weak_load = |field| Mistake::Weak(Weakness::Loads(field));
    let tail = offset_of!(Header, tail);
    let begin = offset_of!(Header, slot) + offset_of!(segment::Slot, begin);
    let state = offset_of!(Header, state);
    let magic = offset_of!(Header, magic);
    let of_order = "released before";
    let race = "Causality violation";
    for (mistake, model, found) in [
        (weak_store(tail), ORDER, race),
        (weak_load(tail), ORDER, race),
        (weak_store(begin), ORDER, of_order),
        (weak_load(begin), ORDER, of_order),
        (Mistake::Weak(Weakness::Fences), ORDER, of_order),
        (weak_store(state), SEGMENTS, race),
        (weak_load(state), SEGMENTS, ""),
        (weak_store(magic), NEW, race),
        (weak_load(magic), NEW, race),
        (Mistake::LeavesEarly, ORDER, of_order),
        (Mistake::ReadsEarly, ORDER, of_order),
    ] {
        let model = Model {
            mistake: Some(mistake),
            ..model
        };
        match try_all(model) {
            Ok(tried) => panic!("{mistake:?} passes in {} schedules", tried.schedules),
            Err(error) => {
                println!("{mistake:?}: {error}");
                assert!(error.contains(found), "{mistake:?}: {error}");
            }
        }
    }
}
