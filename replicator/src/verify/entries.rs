//! Comparing what is in trees: what an entry is, and its content.

use super::*;
use counterfoil_records::RecordFormat;
use counterfoil_sinks::FileKind;
use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Compares those that differed again until they no longer do, or have differed for as long as it takes.
pub(super) fn settle(
    config: &Config,
    stream: &str,
    mut unsettled: Vec<(Vec<u8>, FileReport)>,
    sink: &mut dyn Sink,
    options: Options<'_>,
    keep: &mut dyn FnMut(FileReport),
) -> Result<(), VerifyError> {
    let begun = Instant::now();
    while !unsettled.is_empty() && begun.elapsed() < options.settle {
        std::thread::sleep(LOOK_AGAIN);
        let mut still = Vec::new();
        for (path, _) in unsettled {
            let report = compare(config, stream, &path, sink)?;
            if report.equal {
                keep(report);
            } else {
                still.push((path, report));
            }
        }
        unsettled = still;
    }
    for (_, report) in unsettled {
        keep(report);
    }
    Ok(())
}

/// Compares an entry with what a target has of it.
pub(super) fn compare(
    config: &Config,
    stream: &str,
    path: &[u8],
    sink: &mut dyn Sink,
) -> Result<FileReport, VerifyError> {
    let mut snapshot = sink.snapshot()?;
    let stored = snapshot.file(stream, path)?;
    let tree = config.rule(path).and_then(|rule| rule.tree.as_ref());
    let mut comparison = Comparison {
        schema: None,
        report: FileReport {
            mend: (path.to_vec(), Vec::new()),
            path: counterfoil_proto::path_text(path),
            tree: tree.map(|root| counterfoil_proto::path_text(root.as_os_str().as_bytes())),
            table: stored.as_ref().map(|file| file.table.clone()),
            position: snapshot
                .position(stream)?
                .map(|position| format!("{}/{}", position.epoch, position.lsn)),
            ..FileReport::default()
        },
        sides: Sides::new(),
    };
    let os_path = Path::new(std::ffi::OsStr::from_bytes(path));
    match (std::fs::symlink_metadata(os_path), stored) {
        (Err(error), _) if !is_absent(&error) => {
            comparison.report.error = Some(format!("looking at {}: {error}", os_path.display()));
        }
        // It went while the directories were looked through.
        (Err(_), None) => {}
        (Err(_), Some(_)) => comparison.differs(None, Kind::FileMissing, b"", b""),
        (Ok(_), None) => comparison.differs(None, Kind::FileMissingInTarget, b"", b""),
        (Ok(there), Some(stored)) => {
            attributes(&mut comparison, &there, &stored);
            if let Err(error) = content(
                &mut comparison,
                os_path,
                &there,
                snapshot.as_mut(),
                stream,
                &stored,
            )? {
                comparison.report.error = Some(format!("reading {}: {error}", os_path.display()));
            }
        }
    }
    comparison.report.equal = comparison.report.different == 0 && comparison.report.error.is_none();
    Ok(comparison.report)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

fn kind_of(there: &Metadata) -> Option<FileKind> {
    let kind = there.file_type();
    if kind.is_file() {
        Some(FileKind::Regular)
    } else if kind.is_dir() {
        Some(FileKind::Directory)
    } else if kind.is_symlink() {
        Some(FileKind::Link)
    } else {
        None
    }
}

fn attributes(comparison: &mut Comparison, there: &Metadata, stored: &StoredFile) {
    let known = stored.attributes;
    let mut compare = |kind, ours: String, theirs: Option<String>| {
        let theirs = theirs.unwrap_or_else(|| "nothing".to_owned());
        if ours != theirs {
            comparison.differs(None, kind, ours.as_bytes(), theirs.as_bytes());
        }
    };
    let name = |kind: Option<FileKind>| kind.map(|kind| kind.name().to_owned());
    let kind = kind_of(there);
    let ours = name(kind).unwrap_or_else(|| "something that isn't mirrored".to_owned());
    compare(Kind::FileKind, ours, name(known.kind));
    let mode = |mode: u32| format!("{:04o}", mode & 0o7777);
    compare(Kind::Mode, mode(there.mode()), known.mode.map(mode));
    let owner = |uid: u32, gid: u32| format!("{uid}:{gid}");
    compare(
        Kind::Owner,
        owner(there.uid(), there.gid()),
        known.uid.zip(known.gid).map(|(uid, gid)| owner(uid, gid)),
    );
    let nanoseconds = there.mtime() * 1_000_000_000 + there.mtime_nsec();
    compare(
        Kind::Modified,
        format!("{nanoseconds} ns"),
        known.modified_ns.map(|known| format!("{known} ns")),
    );
    // What a directory's size is, its file system says.
    if kind != Some(FileKind::Directory) {
        let bytes = |size: u64| format!("{size} bytes");
        compare(Kind::Size, bytes(there.len()), Some(bytes(known.size)));
    }
}

fn content(
    comparison: &mut Comparison,
    path: &Path,
    there: &Metadata,
    snapshot: &mut dyn counterfoil_sinks::Snapshot,
    stream: &str,
    stored: &StoredFile,
) -> Result<io::Result<()>, SinkError> {
    let codec = RecordFormat::STATIC.codec().ok();
    if there.is_file() {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut file = Pieces::of(file, codec.as_deref(), there.len());
        return pieces(comparison, &mut file, snapshot, stream, stored);
    }
    let expected = if there.is_symlink() {
        match std::fs::read_link(path) {
            Ok(target) => target.into_os_string().as_bytes().to_vec(),
            Err(error) => return Ok(Err(error)),
        }
    } else {
        Vec::new()
    };
    let mut found = Vec::new();
    snapshot.pieces(stream, &stored.description.path, &mut |piece| {
        found.extend(on_disk(&piece.image));
        true
    })?;
    if found != expected {
        comparison.differs(Some(0), Kind::Differs, &expected, &found);
    }
    Ok(Ok(()))
}
