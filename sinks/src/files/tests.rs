//! What this sink promises beyond the contract that it shares with all.

mod bytes;
mod crashes;
mod sealed;

use super::{FilesConfig, FilesSink, OWN_DIRECTORY};
use crate::contract::{changes, file, record, static_file};
use crate::{
    Attributes, Batch, FileChanges, FileDescription, FileFate, FileKind, Image, Sink, SinkError,
};
use counterfoil_proto::Position;
use counterfoil_records::{Layout, Organization, RecordFormat};
use counterfoil_servers::AsNobody;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const STREAM: &str = "hq/payments";

/// A directory in memory, where there is one: fsync takes no time there.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("making a directory")
}

fn config(root: &Path) -> FilesConfig {
    FilesConfig {
        lock_timeout_ms: 50,
        ..FilesConfig::new(root)
    }
}

fn open(root: &Path) -> FilesSink {
    FilesSink::open(&config(root)).expect("opening the files")
}

fn batch(lsn: u64, files: impl IntoIterator<Item = FileChanges>) -> Batch {
    Batch {
        stream: STREAM.into(),
        after: None,
        position: at(lsn),
        captured_ns: 0,
        files: files.into_iter().collect(),
    }
}

fn at(lsn: u64) -> Position {
    Position {
        epoch: 1,
        lsn,
        index: 0,
    }
}

/// A stream file of bytes: a block each, so that any content will do.
fn raw(path: &str) -> Arc<FileDescription> {
    Arc::new(FileDescription {
        format: RecordFormat::new(Organization::Stream, Layout::Blocks).with_record_size(1024),
        ..(*file(path)).clone()
    })
}

/// The whole content of a file, as a batch says it.
fn whole(file: &Arc<FileDescription>, content: &[u8]) -> FileChanges {
    let size = match file.format.organization {
        Organization::Static => counterfoil_records::STATIC_BLOCK_BYTES as usize,
        _ => file.format.record_size.unwrap_or(1024) as usize,
    };
    let blocks = content.chunks(size).enumerate();
    FileChanges {
        cleared: std::iter::once(0..u64::MAX).collect(),
        attributes: Attributes {
            size: content.len() as u64,
            kind: Some(FileKind::Regular),
            ..Attributes::default()
        },
        ..changes(file, blocks.map(|(n, block)| (n as u64, record(block))))
    }
}

fn renamed(mut changes: FileChanges, from: &str, size: u64) -> FileChanges {
    changes.renamed_from = Some(from.into());
    changes.attributes.size = size;
    changes.attributes.kind = Some(FileKind::Regular);
    changes
}

fn removed(file: &Arc<FileDescription>) -> FileChanges {
    FileChanges {
        fate: FileFate::Removed,
        ..changes(file, [])
    }
}

/// What is below a directory, but for Counterfoil's own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum There {
    File(Vec<u8>, u32),
    Directory(u32),
    Link(PathBuf),
}

fn everything(root: &Path) -> BTreeMap<PathBuf, There> {
    fn walk(root: &Path, directory: &Path, all: &mut BTreeMap<PathBuf, There>) {
        for entry in fs::read_dir(directory).expect("listing") {
            let path = entry.expect("listing").path();
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            if name == Path::new(OWN_DIRECTORY) {
                continue;
            }
            let metadata = path.symlink_metadata().expect("looking at a file");
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                all.insert(name, There::Directory(mode));
                walk(root, &path, all);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).expect("reading a link");
                all.insert(name, There::Link(target));
            } else {
                let content = fs::read(&path).expect("reading a file");
                all.insert(name, There::File(content, mode));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

fn text(error: &SinkError) -> String {
    error.to_string()
}

#[test]
fn a_file_stands_at_the_root_and_its_path() {
    let root = scratch();
    let mut sink = open(root.path());
    let log = raw("/srv/pay/log");
    sink.apply(&batch(1, [whole(&log, b"hello")]))
        .expect("applying");
    assert_eq!(
        fs::read(root.path().join("srv/pay/log")).expect("reading"),
        b"hello"
    );
    // In place: a program that has it open sees what comes.
    let inode = fs::metadata(root.path().join("srv/pay/log"))
        .expect("looking")
        .ino();
    sink.apply(&batch(2, [whole(&log, b"HELLO, WORLD")]))
        .expect("applying");
    let path = root.path().join("srv/pay/log");
    assert_eq!(fs::read(&path).expect("reading"), b"HELLO, WORLD");
    assert_eq!(fs::metadata(&path).expect("looking").ino(), inode);
}

#[test]
fn what_was_never_mirrored_is_not_touched() {
    let root = scratch();
    let path = root.path().join("srv/log");
    fs::create_dir_all(path.parent().expect("a directory")).expect("making a directory");
    fs::write(&path, "mine").expect("writing");
    let mut sink = open(root.path());
    let error = sink
        .apply(&batch(1, [whole(&raw("/srv/log"), b"theirs")]))
        .expect_err("something is in the way");
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    assert!(text(&error).contains("/srv/log") && text(&error).contains("never mirrored"));
    assert_eq!(fs::read(&path).expect("reading"), b"mine");
    assert_eq!(sink.position(STREAM).expect("the position"), None);
    // Nor by a rename, nor through a link, nor below a file.
    sink.apply(&batch(1, [whole(&raw("/srv/other"), b"theirs")]))
        .expect("applying");
    let onto = renamed(changes(&raw("/srv/log"), []), "/srv/other", 6);
    let error = sink
        .apply(&batch(2, [onto]))
        .expect_err("something is in the way");
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    for (lsn, stray) in [
        whole(&raw("/srv/log/below"), b"x"),
        whole(&raw("/srv/other/below"), b"x"),
    ]
    .into_iter()
    .enumerate()
    {
        let error = sink
            .apply(&batch(2 + lsn as u64, [stray]))
            .expect_err("something is in the way");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    }
    let outside = scratch();
    symlink(outside.path(), root.path().join("elsewhere")).expect("making a link");
    let error = sink
        .apply(&batch(9, [whole(&raw("/elsewhere/log"), b"x")]))
        .expect_err("a link is in the way");
    assert!(text(&error).contains("/elsewhere is in the way"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).expect("listing").count(), 0);
    // What has no content is no loss.
    fs::write(&path, "").expect("writing");
    sink.apply(&batch(9, [whole(&raw("/srv/log"), b"theirs")]))
        .expect("applying");
    assert_eq!(fs::read(&path).expect("reading"), b"theirs");
}

/// A rehearsal finds the file that a batch is refused for, and leaves nothing: no file, no log, no position.
#[test]
fn rehearses_without_a_trace() {
    let root = scratch();
    let (log, taken, other) = (raw("/srv/log"), raw("/srv/taken"), raw("/srv/other"));
    let mut sink = open(root.path());
    sink.apply(&batch(1, [whole(&log, b"before")]))
        .expect("applying");
    fs::write(root.path().join("srv/taken"), "mine").expect("writing");
    let before = everything(root.path());
    let told = |file: &Arc<FileDescription>| whole(file, b"theirs");
    let all = batch(2, [told(&log), told(&taken), told(&other)]);
    let without = batch(2, [told(&log), told(&other)]);
    let alone = batch(2, [told(&taken)]);
    for _ in 0..2 {
        for refused in [&all, &alone] {
            let error = sink.rehearse(refused).expect_err("something is in the way");
            assert!(matches!(error, SinkError::Refused { .. }), "{error}");
            assert!(text(&error).contains("/srv/taken"), "{error}");
        }
        sink.rehearse(&without).expect("it would be taken");
        assert_eq!(everything(root.path()), before);
        assert_eq!(sink.position(STREAM).expect("the position"), Some(at(1)));
        assert_eq!(sink.files(STREAM).expect("the files").len(), 1);
        let own = root.path().join(OWN_DIRECTORY);
        assert!(!own.join("redo.new").exists() && !own.join("redo").exists());
    }
    // A part of a batch may lack what a link leads to; a batch may not.
    let mut link = changes(&static_file("/srv/etc", "/srv/etc/link"), []);
    link.attributes.kind = Some(FileKind::Link);
    sink.rehearse(&batch(2, [told(&log), link.clone()]))
        .expect("it would be taken");
    let error = sink
        .apply(&batch(2, [told(&log), link]))
        .expect_err("it leads nowhere");
    assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    let stale = sink.rehearse(&batch(1, [])).expect_err("it is stale");
    assert!(matches!(stale, SinkError::NotAfter { .. }), "{stale}");
    sink.apply(&without).expect("applying");
    assert_eq!(
        fs::read(root.path().join("srv/taken")).expect("reading"),
        b"mine"
    );
    assert_eq!(
        fs::read(root.path().join("srv/other")).expect("reading"),
        b"theirs"
    );
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let root = scratch();
    let mut sink = open(root.path());
    for path in [
        "srv/log",
        "/srv/../../etc/passwd",
        "/srv//log",
        "/",
        "",
        "/srv/.",
        "/.counterfoil/catalogue",
        "/srv/.counterfoil-new",
        "/srv/l\0g",
    ] {
        let error = sink
            .apply(&batch(1, [whole(&raw(path), b"x")]))
            .expect_err("a path that isn't one");
        assert!(
            matches!(error, SinkError::Permanent { .. }),
            "{path}: {error}"
        );
    }
    assert_eq!(everything(root.path()), BTreeMap::new());
}

#[test]
fn a_file_that_somebody_removed_is_missed_until_all_of_it_comes() {
    let root = scratch();
    let mut sink = open(root.path());
    let log = raw("/srv/log");
    sink.apply(&batch(1, [whole(&log, &[b'x'; 3000])]))
        .expect("applying");
    fs::remove_file(root.path().join("srv/log")).expect("removing");
    let patch = FileChanges {
        attributes: Attributes {
            size: 3000,
            ..Attributes::default()
        },
        ..changes(&log, [(1, record([b'y'; 1024]))])
    };
    let error = sink
        .apply(&batch(2, [patch]))
        .expect_err("the file is gone");
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    assert!(text(&error).contains("somebody removed"), "{error}");
    let error = sink
        .pieces(STREAM, b"/srv/log", &mut |_| true)
        .expect_err("the file is gone");
    assert!(text(&error).contains("somebody removed"), "{error}");
    sink.apply(&batch(2, [whole(&log, b"again")]))
        .expect("applying");
    assert_eq!(
        fs::read(root.path().join("srv/log")).expect("reading"),
        b"again"
    );
}

#[test]
fn two_streams_do_not_share_a_file() {
    let root = scratch();
    let mut sink = open(root.path());
    let log = raw("/srv/log");
    sink.apply(&batch(1, [whole(&log, b"hq")]))
        .expect("applying");
    let other = Batch {
        stream: "branch/payments".into(),
        ..batch(1, [whole(&log, b"branch")])
    };
    let error = sink
        .apply(&other)
        .expect_err("the file is another stream's");
    assert!(text(&error).contains(STREAM), "{error}");
    assert_eq!(
        fs::read(root.path().join("srv/log")).expect("reading"),
        b"hq"
    );
}

#[test]
fn apply_waits_for_a_reader_and_a_reader_sees_one_state() {
    let root = scratch();
    let mut sink = open(root.path());
    let log = raw("/srv/log");
    sink.apply(&batch(1, [whole(&log, b"before")]))
        .expect("applying");
    let mut reader = FilesSink::open_read_only(&config(root.path())).expect("opening a reader");
    let mut snapshot = reader.snapshot().expect("a snapshot");
    let error = sink
        .apply(&batch(2, [whole(&log, b"after")]))
        .expect_err("a reader is there");
    assert!(error.is_transient(), "{error}");
    assert_eq!(
        snapshot.position(STREAM).expect("the position"),
        Some(at(1))
    );
    assert_eq!(
        fs::read(root.path().join("srv/log")).expect("reading"),
        b"before"
    );
    drop(snapshot);
    sink.apply(&batch(2, [whole(&log, b"after")]))
        .expect("applying");
    assert_eq!(reader.position(STREAM).expect("the position"), Some(at(2)));
    let error = reader
        .apply(&batch(3, []))
        .expect_err("a reader doesn't write");
    assert!(text(&error).contains("reading only"), "{error}");
}

#[test]
fn sparse_files_stay_sparse_and_may_be_huge() {
    let root = scratch();
    let mut sink = open(root.path());
    let huge = Arc::new(FileDescription {
        format: RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(1016),
        ..(*file("/srv/huge")).clone()
    });
    // A slot far behind 32 bits.
    let slot = 1 << 33;
    let whole_record = |byte| Image::Record {
        data: vec![byte; 1016],
        rest: Vec::new(),
    };
    let sized = |changes| FileChanges {
        attributes: Attributes {
            size: slot * 1024,
            ..Attributes::default()
        },
        ..changes
    };
    let first = sized(changes(
        &huge,
        [(1, whole_record(b'a')), (slot, whole_record(b'z'))],
    ));
    match sink.apply(&batch(1, [first])) {
        // Not every file system holds files of eight tebibytes, and says so.
        Err(error) if text(&error).contains("File too large") => return,
        applied => applied.expect("applying"),
    }
    let metadata = fs::metadata(root.path().join("srv/huge")).expect("looking");
    assert_eq!(metadata.len(), slot * 1024);
    assert!(metadata.blocks() * 512 < 1 << 20, "holes stay holes");
    let mut ids = Vec::new();
    sink.pieces(STREAM, b"/srv/huge", &mut |piece| {
        ids.push(piece.id);
        true
    })
    .expect("reading");
    assert_eq!(ids, [1, slot]);
    // What is cleared is a hole again.
    let mut filled = sized(changes(&huge, (2..=300).map(|id| (id, whole_record(b'm')))));
    sink.apply(&batch(2, [filled.clone()])).expect("applying");
    filled.images.clear();
    filled.cleared = std::iter::once(1..301).collect();
    sink.apply(&batch(3, [filled])).expect("applying");
    let metadata = fs::metadata(root.path().join("srv/huge")).expect("looking");
    assert!(
        metadata.blocks() * 512 < 64 * 1024,
        "what is cleared is a hole"
    );
}

#[test]
fn attributes_are_mirrored_or_left_alone() {
    for mirrored in [true, false] {
        let root = scratch();
        let mut sink = FilesSink::open(&FilesConfig {
            attributes: mirrored,
            ..config(root.path())
        })
        .expect("opening");
        let entry = static_file("/srv/etc", "/srv/etc/a");
        let directory = static_file("/srv/etc", "/srv/etc");
        let mut content = whole(&entry, b"a");
        let owner = rustix::process::geteuid().as_raw();
        content.attributes = Attributes {
            mode: Some(0o100_640),
            uid: Some(owner),
            gid: Some(rustix::process::getegid().as_raw()),
            modified_ns: Some(1_600_000_000_123_456_789),
            ..content.attributes
        };
        let mut holder = changes(&directory, []);
        holder.attributes = Attributes {
            size: 0,
            kind: Some(FileKind::Directory),
            mode: Some(0o40_750),
            modified_ns: Some(-1),
            ..Attributes::default()
        };
        sink.apply(&batch(1, [holder, content.clone()]))
            .expect("applying");
        // Another change in the directory leaves its time as it was told.
        let beside = whole(&static_file("/srv/etc", "/srv/etc/b"), b"b");
        sink.apply(&batch(2, [beside])).expect("applying");
        let metadata = fs::metadata(root.path().join("srv/etc/a")).expect("looking");
        let above = fs::metadata(root.path().join("srv/etc")).expect("looking");
        assert_eq!(metadata.mode() & 0o7777 == 0o640, mirrored);
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()) == (1_600_000_000, 123_456_789),
            mirrored
        );
        assert_eq!(above.mode() & 0o7777 == 0o750, mirrored);
        assert_eq!(
            (above.mtime(), above.mtime_nsec()) == (-1, 999_999_999),
            mirrored
        );
    }
}

#[test]
fn what_a_file_was_does_not_hinder_what_it_becomes() {
    let root = scratch();
    let mut sink = open(root.path());
    let entry = |name: &str| static_file("/srv/t", format!("/srv/t{name}"));
    let directory = |name: &str| {
        let mut made = changes(&entry(name), []);
        made.attributes = Attributes {
            kind: Some(FileKind::Directory),
            mode: Some(0o755),
            ..Attributes::default()
        };
        made
    };
    let link = |name: &str, target: &str| {
        let mut made = changes(&entry(name), [(0, record(target))]);
        made.attributes = Attributes {
            kind: Some(FileKind::Link),
            size: target.len() as u64,
            ..Attributes::default()
        };
        made
    };
    let names = |root: &Path| -> Vec<String> {
        let all = everything(root);
        all.iter()
            .map(|(path, there)| format!("{} {}", path.display(), kind(there)))
            .collect()
    };
    fn kind(there: &There) -> &'static str {
        match there {
            There::File(..) => "file",
            There::Directory(_) => "directory",
            There::Link(_) => "link",
        }
    }
    sink.apply(&batch(
        1,
        [
            directory(""),
            directory("/d"),
            directory("/d/e"),
            whole(&entry("/d/e/f"), b"f"),
            whole(&entry("/g"), b"g"),
            link("/l", "g"),
        ],
    ))
    .expect("applying");
    // A file for a directory, a directory for a file, a link for either.
    sink.apply(&batch(
        2,
        [
            removed(&entry("/d/e/f")),
            removed(&entry("/d/e")),
            removed(&entry("/d")),
            whole(&entry("/d"), b"now a file"),
            removed(&entry("/g")),
            directory("/g"),
            whole(&entry("/g/h"), b"h"),
            link("/l", "d"),
        ],
    ))
    .expect("applying");
    assert_eq!(
        names(root.path()),
        [
            "srv directory",
            "srv/t directory",
            "srv/t/d file",
            "srv/t/g directory",
            "srv/t/g/h file",
            "srv/t/l link"
        ]
    );
    assert_eq!(
        fs::read_link(root.path().join("srv/t/l")).expect("reading"),
        Path::new("d")
    );
    // A directory is renamed, with what is in it; a file that was in it takes its name.
    sink.apply(&batch(
        3,
        [
            renamed_as(directory("/new"), "/srv/t/g"),
            renamed(changes(&entry("/g"), []), "/srv/t/g/h", 1),
        ],
    ))
    .expect("applying");
    assert_eq!(
        names(root.path()),
        [
            "srv directory",
            "srv/t directory",
            "srv/t/d file",
            "srv/t/g file",
            "srv/t/l link",
            "srv/t/new directory"
        ]
    );
    // A directory that holds something of somebody else's stays, with that.
    fs::write(root.path().join("srv/t/new/mine"), "mine").expect("writing");
    sink.apply(&batch(4, [removed(&entry("/new"))]))
        .expect("applying");
    assert_eq!(
        fs::read(root.path().join("srv/t/new/mine")).expect("reading"),
        b"mine"
    );
}

/// Entries of a tree come in any order.
#[test]
fn what_is_told_too_late_is_in_nobodys_way() {
    let root = scratch();
    let mut sink = open(root.path());
    let entry = |name: &str| static_file("/srv/t", format!("/srv/t{name}"));
    let directory = |name: &str| {
        let mut made = changes(&entry(name), []);
        made.attributes.kind = Some(FileKind::Directory);
        made
    };
    let names = || -> Vec<String> {
        let all = everything(root.path());
        all.keys().map(|path| path.display().to_string()).collect()
    };
    sink.apply(&batch(
        1,
        [
            directory("/d"),
            directory("/d/e"),
            whole(&entry("/d/e/f"), b"f"),
            whole(&entry("/d/g"), b"g"),
            directory("/gone"),
            whole(&entry("/gone/x"), b"x"),
        ],
    ))
    .expect("applying");
    // A file is where a directory was, of which nothing else is said yet; a directory goes before what is in it moves.
    sink.apply(&batch(
        2,
        [whole(&entry("/d"), b"a file"), removed(&entry("/gone"))],
    ))
    .expect("applying");
    assert_eq!(
        names(),
        ["srv", "srv/t", "srv/t/d", "srv/t/gone", "srv/t/gone/x"]
    );
    sink.apply(&batch(
        3,
        [
            removed(&entry("/d/e/f")),
            removed(&entry("/d/e")),
            removed(&entry("/d/g")),
            renamed(changes(&entry("/x"), []), "/srv/t/gone/x", 1),
        ],
    ))
    .expect("applying");
    assert_eq!(names(), ["srv", "srv/t", "srv/t/d", "srv/t/x"]);
    // And something is below what was a file.
    sink.apply(&batch(4, [whole(&entry("/x/y/z"), b"z")]))
        .expect("applying");
    sink.apply(&batch(
        5,
        [
            directory("/x"),
            directory("/x/y"),
            removed(&entry("/x/gone")),
        ],
    ))
    .expect("applying");
    assert_eq!(
        names(),
        [
            "srv",
            "srv/t",
            "srv/t/d",
            "srv/t/x",
            "srv/t/x/y",
            "srv/t/x/y/z"
        ]
    );
    assert_eq!(sink.files(STREAM).expect("the files").len(), 4);
}

fn renamed_as(mut changes: FileChanges, from: &str) -> FileChanges {
    changes.renamed_from = Some(from.into());
    changes
}

#[test]
fn names_go_round_in_circles() {
    let root = scratch();
    let mut sink = open(root.path());
    let files = ["/a", "/b", "/c", "/d"].map(raw);
    sink.apply(&batch(1, files.iter().map(|file| whole(file, &file.path))))
        .expect("applying");
    let hand = raw("/hand");
    // a -> b -> c -> a, in one batch, and d is replaced by what was c.
    let moved = |to: &Arc<FileDescription>, from: &str| renamed(changes(to, []), from, 2);
    sink.apply(&batch(
        2,
        [
            moved(&hand, "/a"),
            moved(&files[0], "/c"),
            moved(&files[2], "/b"),
            moved(&files[1], "/hand"),
        ],
    ))
    .expect("applying");
    let content = |name: &str| fs::read(root.path().join(name)).expect("reading");
    assert_eq!(
        [content("a"), content("b"), content("c"), content("d")],
        [b"/c", b"/a", b"/b", b"/d"]
    );
    assert_eq!(everything(root.path()).len(), 4);
}

#[test]
fn damage_is_an_error_that_says_where() {
    let root = scratch();
    let mut sink = open(root.path());
    let log = raw("/srv/log");
    for lsn in 1..20 {
        sink.apply(&batch(lsn, [whole(&log, &lsn.to_le_bytes())]))
            .expect("applying");
    }
    drop(sink);
    let path = root.path().join(OWN_DIRECTORY).join("catalogue");
    let good = fs::read(&path).expect("reading the catalogue");
    for offset in 0..good.len() {
        let mut bad = good.clone();
        bad[offset] ^= 0x40;
        fs::write(&path, &bad).expect("writing");
        let error = match FilesSink::open(&config(root.path())) {
            Ok(_) => panic!("a flipped bit at {offset} goes unseen"),
            Err(error) => text(&error),
        };
        assert!(
            error.contains("catalogue at byte ") && error.contains("load"),
            "{error}"
        );
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).expect("writing");
        // A whole batch less can't be seen; part of one can.
        if let Ok(mut sink) = FilesSink::open(&config(root.path())) {
            let position = sink.position(STREAM).expect("the position");
            assert!(position < Some(at(19)), "{position:?}");
        }
    }
    let mut newer = good;
    newer[7] = 2;
    fs::write(&path, &newer).expect("writing");
    let error = FilesSink::open(&config(root.path()))
        .err()
        .map(|error| text(&error));
    assert!(error.is_some_and(|error| error.contains("version 2")));
}

#[test]
fn the_catalogue_does_not_grow_with_time() {
    let root = scratch();
    let mut sink = open(root.path());
    let files: Vec<_> = (0..50).map(|n| raw(&format!("/srv/{n}"))).collect();
    let path = root.path().join(OWN_DIRECTORY).join("catalogue");
    let mut longest = 0;
    for lsn in 1..400 {
        sink.apply(&batch(lsn, files.iter().map(|file| whole(file, b"x"))))
            .expect("applying");
        longest = longest.max(fs::metadata(&path).expect("looking").len());
    }
    assert!((1 << 20..2 << 20).contains(&longest), "{longest}");
    assert!(fs::metadata(&path).expect("looking").len() < longest);
    assert_eq!(sink.files(STREAM).expect("the files").len(), 50);
    assert_eq!(
        open(root.path()).position(STREAM).expect("the position"),
        Some(at(399))
    );
}

#[test]
fn a_mirror_that_was_never_made_is_an_error_for_readers() {
    let root = scratch();
    let error = FilesSink::open_read_only(&config(root.path()))
        .err()
        .map(|error| text(&error));
    assert!(error.is_some_and(|error| error.contains("nothing has been mirrored yet")));
    assert_eq!(fs::read_dir(root.path()).expect("listing").count(), 0);
}

#[test]
fn refused_content_names_the_file_and_leaves_nothing() {
    let root = scratch();
    let mut sink = open(root.path());
    let cards = file("/srv/cards");
    let sized = |images: Vec<(u64, Image)>, size| FileChanges {
        attributes: Attributes {
            size,
            ..Attributes::default()
        },
        ..changes(&cards, images)
    };
    for bad in [
        sized(vec![(1, record([b'x'; 101]))], 200),
        sized(vec![(1, record([b'x'; 99]))], 200),
        sized(vec![(1, crate::contract::residue([b'x'; 101]))], 200),
        sized(vec![(u64::MAX, record([b'x'; 100]))], u64::MAX),
        sized(Vec::new(), u64::MAX),
    ] {
        let error = sink.apply(&batch(1, [bad])).expect_err("it doesn't fit");
        assert!(text(&error).contains("/srv/cards"), "{error}");
        assert!(matches!(error, SinkError::Permanent { .. }), "{error}");
    }
    assert_eq!(everything(root.path()), BTreeMap::new());
    // What is behind the end was cut off by a unit of work that isn't complete; it says so when it is.
    let (inside, behind) = ((2, record([b'x'; 100])), (3, record([b'y'; 100])));
    sink.apply(&batch(1, [sized(vec![inside, behind], 200)]))
        .expect("applying");
    let content = [[0; 100], [b'x'; 100]].concat();
    assert_eq!(
        fs::read(root.path().join("srv/cards")).expect("reading"),
        content
    );
}

#[test]
fn a_lock_that_is_held_is_waited_for() {
    let root = scratch();
    let mut sink = open(root.path());
    let lock = fs::File::open(root.path().join(OWN_DIRECTORY).join("lock")).expect("opening");
    flock(&lock, FlockOperation::LockExclusive).expect("locking");
    let error = sink
        .apply(&batch(1, []))
        .expect_err("somebody has the lock");
    assert!(error.is_transient(), "{error}");
    let error = sink.position(STREAM).expect_err("somebody has the lock");
    assert!(error.is_transient(), "{error}");
    drop(lock);
    sink.apply(&batch(1, [])).expect("applying");
}

fn mode_of(path: &Path) -> u32 {
    let metadata = path.symlink_metadata().expect("looking at a file");
    metadata.permissions().mode() & 0o7777
}

/// Whoever may write in a mirrored directory can put something else in a file's place at any moment. What they put there gets no
/// permissions and no owner, nor does what it leads to.
#[test]
fn attributes_are_given_to_no_other_file() {
    let log = raw("/srv/log");
    let told = |lsn, content: &[u8]| {
        let mut told = whole(&log, content);
        told.attributes.mode = Some(0o666);
        batch(lsn, [told])
    };
    let root = scratch();
    let secret = root.path().join("secret");
    fs::write(&secret, "mine").expect("writing");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its permissions");
    let srv = root.path().join("srv");
    // Another name of that file, instead of the one that was just made.
    let (made, of) = (srv.join(".counterfoil-new"), secret.clone());
    let mut sink = FilesSink::with_access(
        &config(root.path()),
        false,
        Some(Box::new(move |doing| {
            if doing == "attributes" && made.exists() {
                fs::remove_file(&made)?;
                fs::hard_link(&of, &made)?;
            }
            Ok(())
        })),
    )
    .expect("opening");
    sink.apply(&batch(1, [whole(&raw("/srv/made"), b"x")]))
        .expect("applying");
    sink.apply(&told(2, b"theirs")).expect("applying");
    assert_eq!(mode_of(&secret), 0o600);
    drop(sink);
    // A link, instead of a file that is there.
    let root = scratch();
    let outside = scratch();
    let secret = outside.path().join("secret");
    fs::write(&secret, "mine").expect("writing");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its permissions");
    open(root.path())
        .apply(&told(1, b"theirs"))
        .expect("applying");
    let (there, to) = (root.path().join("srv/log"), secret.clone());
    let mut sink = FilesSink::with_access(
        &config(root.path()),
        false,
        Some(Box::new(move |doing| {
            if doing == "attributes" {
                fs::remove_file(&there)?;
                symlink(&to, &there)?;
            }
            Ok(())
        })),
    )
    .expect("opening");
    let error = sink
        .apply(&told(2, b"THEIRS"))
        .expect_err("a link is in the way");
    assert!(text(&error).contains("/srv/log"), "{error}");
    assert_eq!(mode_of(&secret), 0o600);
    assert_eq!(fs::read(&secret).expect("reading"), b"mine");
}

/// Permissions that are in the way are changed for a moment: those of the directory that was looked at, not those of what a
/// link leads to that took its place.
#[test]
fn permissions_are_loosened_of_no_other_directory() {
    let scratch = scratch();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).expect("opening it");
    let _nobody = AsNobody::begin();
    let (root, outside) = (scratch.path().join("root"), scratch.path().join("outside"));
    for directory in [&root, &outside] {
        fs::create_dir(directory).expect("making a directory");
    }
    open(&root)
        .apply(&batch(1, [whole(&raw("/srv/log"), b"x")]))
        .expect("applying");
    let (srv, away) = (root.join("srv"), root.join("away"));
    fs::set_permissions(&srv, fs::Permissions::from_mode(0o555)).expect("closing it");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o511)).expect("closing it");
    let (there, aside, to) = (srv.clone(), away.clone(), outside.clone());
    let mut sink = FilesSink::with_access(
        &config(&root),
        false,
        Some(Box::new(move |doing| {
            if doing == "chmod" {
                fs::rename(&there, &aside)?;
                symlink(&to, &there)?;
            }
            Ok(())
        })),
    )
    .expect("opening");
    // (A test may be root's, and be nobody only to files.)
    sink.disk.is_superuser = false;
    // Whether it goes well is for whoever did that; nothing is done elsewhere.
    let _ = sink.apply(&batch(2, [whole(&raw("/srv/other"), b"y")]));
    assert!(srv.is_symlink(), "the directory was replaced");
    assert_eq!(
        mode_of(&away) & 0o700,
        0o700,
        "it is the one that was looked at"
    );
    assert_eq!(mode_of(&outside), 0o511);
    assert_eq!(fs::read_dir(&outside).expect("listing").count(), 0);
}
