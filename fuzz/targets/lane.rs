//! Any file is a lane's segment, or refused, and its frames are read to where something is wrong with them; any file of rules is one
//! that says of every path which group it is of.
//!
//! The first byte chooses. Of lanes there are two files, each with what a header says and frames behind it.
#![no_main]

use counterfoil::capture::read_lanes;
use counterfoil_fuzz::Input;
use counterfoil_lane::board::{self, Board};
use counterfoil_lane::rules::Rules;
use counterfoil_lane::segment::{HEADER_BYTES, Header, MAGIC};
use counterfoil_lane::{VERSION, glob};
use libfuzzer_sys::fuzz_target;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A directory of this process with a board in it.
static PLACE: LazyLock<(PathBuf, &'static Board)> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("counterfoil-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for temporary files");
    let mut file = vec![0; board::BYTES];
    let header = board::initial_header(64 << 20);
    file[..header.len()].copy_from_slice(&header);
    std::fs::write(directory.join("board"), file).expect("writing the board");
    let mut path = directory.as_os_str().as_bytes().to_vec();
    path.push(0);
    let board = board::join(&path).expect("a board in it");
    (directory, board)
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    if input.byte() & 1 == 1 {
        rules(input);
        return;
    }
    let (directory, board) = &*PLACE;
    for nth in 0..2_u8 {
        let len = usize::from(input.two());
        let mut segment = Input(input.take(len));
        let bytes = segment_file(nth, &mut segment);
        // A file of its own each time: the one before may still be mapped.
        let path = directory.join(format!("1.1.{nth}.lane"));
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).expect("writing a lane");
    }
    let read = read_lanes(directory, board);
    // Frames have a header each; marks are queued once for each of two groups.
    assert!(read.frames <= 2 * data.len() / 56 + 2);
    for told in read.told {
        assert!(!told.is_empty());
    }
});

/// A segment's file: the header as most are, but for what the input says, and frames.
fn segment_file(nth: u8, input: &mut Input<'_>) -> Vec<u8> {
    let switches = input.byte();
    if switches & 0x80 != 0 {
        return input.0.to_vec();
    }
    let mut header = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(Header, magic), &MAGIC.to_le_bytes());
    put(offset_of!(Header, version), &VERSION.to_le_bytes());
    put(offset_of!(Header, index), &u32::from(nth).to_le_bytes());
    put(offset_of!(Header, process), &1_u64.to_le_bytes());
    put(offset_of!(Header, lane), &1_u32.to_le_bytes());
    put(
        offset_of!(Header, state),
        &u32::from(switches & 3).to_le_bytes(),
    );
    put(
        offset_of!(Header, sequence),
        &(u64::from(nth) + u64::from(switches >> 2 & 3)).to_le_bytes(),
    );
    let mut slot = |at| {
        if switches & 0x10 != 0 {
            put(at, &input.eight().to_le_bytes());
        }
    };
    slot(offset_of!(Header, slot));
    slot(offset_of!(Header, waiting));
    let tail = if switches & 0x20 != 0 {
        input.eight()
    } else {
        input.0.len() as u64
    };
    let capacity = if switches & 0x40 != 0 {
        input.eight()
    } else {
        input.0.len() as u64
    };
    put(offset_of!(Header, tail), &tail.to_le_bytes());
    put(offset_of!(Header, capacity), &capacity.to_le_bytes());
    let mut file = header.to_vec();
    file.extend_from_slice(input.0);
    file
}

fn rules(mut input: Input<'_>) {
    let len = input.byte();
    let path = input.take(len.into());
    let prefix = glob::literal_prefix(input.0);
    assert!(input.0.starts_with(prefix));
    if glob::matches(input.0, path) {
        assert!(path.starts_with(prefix));
    }
    if glob::is_literal(input.0) {
        assert_eq!(prefix, input.0);
        assert_eq!(glob::matches(input.0, path), path == input.0);
    }
    if let Some(rules) = Rules::parse(input.0) {
        if let Some(group) = rules.group_of(path) {
            assert!(rules.may_match(path));
            let _ = rules.policy_of(group);
        }
        let _ = (rules.is_empty(), rules.has_policies());
    }
}
