//! A stand for running C programs under the interposer and reading what they left in their lanes.

#![allow(dead_code, unreachable_pub)]

use counterfoil_lane::board::{self, Board};
use counterfoil_lane::frame::Kind;
use counterfoil_lane::reader::{Segment, decode_name};
use counterfoil_lane::rules::{self, Rule};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The library under test, built once with the profile of this test.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let profile_directory = exe.parent().unwrap().parent().unwrap();
        let target_directory = profile_directory.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "-p", "counterfoil-interposer"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target_directory);
        if profile_directory.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "building the interposer failed"
        );
        profile_directory.join("libcounterfoil_interposer.so")
    })
}

/// Something that a lane says, with its name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub process: u64,
    pub lane: u32,
    pub pid: u32,
    pub kind: Kind,
    pub flags: u16,
    /// File name without the directory, where the file lies in the data directory.
    pub file: String,
    pub inode: u64,
    pub begin: u64,
    pub end: u64,
    pub offset: u64,
    pub extent: u64,
    pub data: Vec<u8>,
}

pub struct Stand {
    pub root: tempfile::TempDir,
    pub lane_bytes_max: u64,
}

impl Stand {
    /// Rules: everything below `data/` but `*.skip`.
    pub fn new() -> Stand {
        Stand::with_limit(64 << 20)
    }

    pub fn with_limit(lane_bytes_max: u64) -> Stand {
        let stand = Stand {
            root: tempfile::tempdir().unwrap(),
            lane_bytes_max,
        };
        std::fs::create_dir(stand.data()).unwrap();
        std::fs::create_dir(stand.lanes()).unwrap();
        let mut bytes = vec![0; board::BYTES];
        bytes[..24].copy_from_slice(&board::initial_header(lane_bytes_max));
        std::fs::write(stand.lanes().join(board::FILE_NAME), bytes).unwrap();
        let pattern = |text: &str, exclude| Rule {
            group: 3,
            exclude,
            pattern: stand.data().join(text).as_os_str().as_bytes().to_vec(),
        };
        stand.set_rules(&[pattern("**/*.skip", true), pattern("**", false)]);
        stand.set_revision(counterfoil_lane::REVISION);
        stand
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("data")
    }

    pub fn lanes(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("lanes")
    }

    pub fn board(&self) -> &'static Board {
        let mut path = self.lanes().as_os_str().as_bytes().to_vec();
        path.push(0);
        board::attach(&path).expect("the stand's own board")
    }

    /// Lets the board be that of a replicator of this revision.
    pub fn set_revision(&self, revision: u32) {
        let board = self.board();
        board
            .revision
            .store(revision, std::sync::atomic::Ordering::SeqCst);
    }

    /// Puts new rules in place as the replicator does: file first, then the number.
    pub fn set_rules(&self, rules: &[Rule]) {
        let board = self.board();
        let number = board.rules.load(std::sync::atomic::Ordering::Acquire) + 1;
        std::fs::write(
            self.lanes().join(rules::file_name(number)),
            rules::encode(rules),
        )
        .unwrap();
        board
            .rules
            .store(number, std::sync::atomic::Ordering::Release);
    }

    /// Compiles a C program (the body of a file) into the root.
    pub fn compile(&self, source: &str) -> PathBuf {
        self.compile_with(source, &[])
    }

    pub fn compile_with(&self, source: &str, flags: &[&str]) -> PathBuf {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.root.path().join(format!("program{count}"));
        let source_path = path.with_extension("c");
        std::fs::write(&source_path, format!("{PRELUDE}\n{source}")).unwrap();
        let output = Command::new("cc")
            .args(["-O1", "-Wno-all", "-w", "-pthread"])
            .args(flags)
            .arg("-o")
            .arg(&path)
            .arg(&source_path)
            .output()
            .unwrap_or_else(|error| {
                panic!("running cc failed ({error}): install the package gcc and libc6-dev")
            });
        assert!(
            output.status.success(),
            "cc: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        path
    }

    /// A command for a program under the interposer, in the data directory. `COUNTERFOIL_TEST_UNDER` may name words to go
    /// before it, such as `valgrind --quiet --error-exitcode=98`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let under = std::env::var("COUNTERFOIL_TEST_UNDER").unwrap_or_default();
        let mut words = under.split_ascii_whitespace();
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(program.as_ref()),
        };
        if !under.is_empty() {
            command.args(words).arg(program);
        }
        command
            .current_dir(self.data())
            .env("LD_PRELOAD", library())
            .env("COUNTERFOIL_LANES", self.lanes());
        command
    }

    /// Compiles and runs a program, which must exit with 0.
    pub fn run(&self, source: &str) -> Output {
        let program = self.compile(source);
        let output = self.command(program).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// Runs a program in both modes, each on a stand of its own: libc's entries replaced, and by symbol.
    pub fn run_in_both_modes(source: &str, check: impl Fn(&Stand, &str)) {
        for mode in ["1", "0"] {
            let stand = Stand::new();
            let program = stand.compile(source);
            let output = stand
                .command(program)
                .env("COUNTERFOIL_PATCH", mode)
                .output()
                .unwrap();
            assert!(output.status.success(), "mode {mode}: {output:?}");
            check(&stand, mode);
        }
    }

    /// Everything in all lanes, by end time.
    pub fn frames(&self) -> Vec<Frame> {
        let data_directory = self.data();
        let mut lanes: BTreeMap<(u64, u32), BTreeMap<u64, std::sync::Arc<Segment>>> =
            BTreeMap::new();
        for entry in std::fs::read_dir(self.lanes()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "lane") {
                continue;
            }
            let segment = Segment::open(&path).unwrap();
            let writer = segment.writer();
            lanes
                .entry((writer.process, writer.lane))
                .or_default()
                .insert(segment.sequence(), segment);
        }
        let mut frames = Vec::new();
        for segments in lanes.into_values() {
            let mut last_number = 0;
            for segment in segments.into_values() {
                let writer = segment.writer();
                let mut names: HashMap<u32, (u64, Vec<u8>)> = HashMap::new();
                let tail = segment.tail();
                let mut at = 0;
                while at < tail {
                    let (header, kind, data) = segment.frame(at, tail).unwrap();
                    at += header.len as usize;
                    assert_eq!(header.number, last_number + 1);
                    last_number = header.number;
                    if kind == Kind::Name {
                        let (_, inode, path) = decode_name(data).unwrap();
                        names.insert(header.name, (inode, path.to_vec()));
                        continue;
                    }
                    let marked = (0, Vec::new());
                    let (inode, path) = match header.name {
                        0 => &marked,
                        name => &names[&name],
                    };
                    let path = Path::new(std::ffi::OsStr::from_bytes(path));
                    assert!(header.begin <= header.end && header.begin > 0);
                    frames.push(Frame {
                        process: writer.process,
                        lane: writer.lane,
                        pid: writer.pid,
                        kind,
                        flags: header.flags,
                        file: path
                            .strip_prefix(&data_directory)
                            .unwrap_or(path)
                            .to_str()
                            .unwrap()
                            .to_owned(),
                        inode: *inode,
                        begin: header.begin,
                        end: header.end,
                        offset: header.offset,
                        extent: header.extent,
                        data: data.to_vec(),
                    });
                }
            }
        }
        frames.sort_by_key(|frame| frame.end);
        frames
    }

    /// Frames as short lines: `file kind offset data`.
    pub fn story(&self) -> Vec<String> {
        self.frames().iter().map(Frame::line).collect()
    }

    /// Makes a file's content from the frames, as a reader would; re-reads take the bytes from the file itself.
    pub fn replay(&self, file: &str) -> Vec<u8> {
        let real = std::fs::read(self.data().join(file)).unwrap_or_default();
        let mut image = Vec::new();
        for frame in self.frames() {
            if frame.file != file {
                continue;
            }
            match frame.kind {
                Kind::Open if frame.flags & 1 != 0 => image.clear(),
                Kind::Write => {
                    put(&mut image, frame.offset as usize, &frame.data);
                }
                Kind::Reread => {
                    let from = (frame.offset as usize).min(real.len());
                    let to = from + (frame.extent.min((real.len() - from) as u64) as usize);
                    put(&mut image, from, &real[from..to]);
                }
                Kind::Truncate => image.resize(frame.offset as usize, 0),
                _ => {}
            }
        }
        image
    }

    pub fn assert_replays(&self, file: &str) {
        let real = std::fs::read(self.data().join(file)).unwrap();
        assert!(
            self.replay(file) == real,
            "{file} differs: {:#?}",
            self.story()
                .iter()
                .map(|line| line.chars().take(100).collect::<String>())
                .collect::<Vec<_>>()
        );
    }

    /// Hashes of gaps marked, and whether it is "everything".
    pub fn gaps(&self) -> (Vec<u64>, bool) {
        let mut gaps = Vec::new();
        let everything = self.board().take_gaps(|hash| gaps.push(hash));
        (gaps, everything)
    }

    pub fn assert_no_gaps(&self) {
        assert_eq!(self.gaps(), (vec![], false));
    }
}

fn put(image: &mut Vec<u8>, at: usize, data: &[u8]) {
    if image.len() < at + data.len() {
        image.resize(at + data.len(), 0);
    }
    image[at..at + data.len()].copy_from_slice(data);
}

impl Frame {
    pub fn line(&self) -> String {
        let file = &self.file;
        let offset = self.offset;
        let text = String::from_utf8_lossy(&self.data);
        match self.kind {
            Kind::Write => format!("{file} write {offset} {text}"),
            Kind::Open => {
                let truncated = if self.flags & 1 != 0 {
                    " truncated"
                } else {
                    ""
                };
                let created = if self.flags & 2 != 0 { " created" } else { "" };
                format!("{file} open {offset}{truncated}{created}")
            }
            Kind::Truncate => format!("{file} truncate {offset}"),
            Kind::Reread => format!("{file} reread {offset}+{}", self.extent as i64),
            Kind::Lock => format!("{file} lock {offset}+{}", self.extent as i64),
            Kind::Unlock => format!("{file} unlock {offset}+{}", self.extent as i64),
            Kind::Sync => format!("{file} sync"),
            Kind::Close => format!("{file} close"),
            Kind::Rename => format!("{file} rename"),
            Kind::Unlink => format!("{file} unlink"),
            Kind::Map => format!("{file} map {offset}+{}", self.extent as i64),
            Kind::Unmap => format!("{file} unmap {offset}+{}", self.extent as i64),
            Kind::Link => format!("{file} link {text}"),
            Kind::Attributes => format!("{file} attributes"),
            Kind::Begin => "begin".to_owned(),
            Kind::Commit => "commit".to_owned(),
            Kind::Abort => "abort".to_owned(),
            Kind::Name | Kind::Unknown => unreachable!(),
        }
    }
}

const PRELUDE: &str = r#"
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
#define CHECK(what) do { if (!(what)) { dprintf(2, "line %d: %s: %s\n", __LINE__, #what, strerror(errno)); _exit(99); } } while (0)
"#;
