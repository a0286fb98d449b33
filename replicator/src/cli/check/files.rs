//! The rules: which files they find, and whether what is in these looks as the rule says.

use super::state::allowed;
use super::{Finding, Level, counted};
use counterfoil::config::{Config, FileRule};
use counterfoil::words::bytes;
use counterfoil_records::{Boundaries, Codec, Organization, PieceKind};
use rustix::fs::Access;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Files of one rule that are opened; the others are counted.
const FILES_MAX: usize = 1000;
/// Findings about the files of one rule that are shown.
const FINDINGS_MAX: usize = 20;
/// How much is decoded of a file's beginning and of its end.
const HEAD_BYTES_MAX: u64 = 1 << 20;
const TAIL_BYTES_MAX: u64 = 64 << 10;
/// Slots that were deleted hold residue as a matter of course.
const DELETED: &str = "deleted slot";

/// A finding for every rule, and those about its files that aren't as they should be.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (group, rules) in config.groups.iter().enumerate() {
        for (file, rule) in rules.files.iter().enumerate() {
            findings.extend(match &rule.tree {
                Some(root) => of_tree(config, (group, file), rule, root),
                None => of_rule(config, group, file, rule),
            });
        }
    }
    findings
}

fn of_rule(config: &Config, group: usize, file: usize, rule: &FileRule) -> Vec<Finding> {
    let subject = format!("{} (line {})", rule.pattern, rule.line);
    let mut findings: Vec<Finding> = by_another_name(rule, &subject).into_iter().collect();
    let codec = match rule.format.codec() {
        Ok(codec) => codec,
        Err(error) => {
            return vec![Finding::error(
                "rule",
                subject,
                error.to_string(),
                "correct the rule",
            )];
        }
    };
    let (mut count, mut total_bytes, mut about_files) = (0, 0, Vec::new());
    for found in config.scan_rule(group, file) {
        match found {
            Ok(found) => {
                count += 1;
                if count <= FILES_MAX {
                    about_files.extend(of_file(rule, &*codec, &found.path, &mut total_bytes));
                } else {
                    total_bytes += found.path.metadata().map_or(0, |metadata| metadata.len());
                }
            }
            Err(error) => about_files.push(Finding::error(
                "rule",
                &subject,
                error.to_string(),
                "what can't be looked into isn't mirrored",
            )),
        }
    }
    // Errors first, as not all may be shown.
    about_files.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let hidden = about_files.split_off(about_files.len().min(FINDINGS_MAX));
    if count > 0 {
        let looked = if count > FILES_MAX {
            format!(", of which the first {FILES_MAX} were looked into")
        } else {
            String::new()
        };
        let size = bytes(total_bytes);
        findings.push(Finding::ok(
            "rule",
            &subject,
            format!("{}, {size}{looked}", counted(count, "file")),
        ));
    } else if findings.is_empty() && about_files.is_empty() {
        findings.push(nothing_found(config, rule, &subject));
    }
    findings.append(&mut about_files);
    if let Some(worst) = hidden.iter().map(|finding| finding.level).max() {
        findings.push(Finding::new(
            worst,
            "rule",
            &subject,
            format!("and {} more like these", counted(hidden.len(), "finding")),
        ));
    }
    findings
}

/// What is in a tree, and what of it can't be mirrored.
fn of_tree(
    config: &Config,
    (group, file): (usize, usize),
    rule: &FileRule,
    root: &Path,
) -> Vec<Finding> {
    let subject = format!("{} (line {})", root.display(), rule.line);
    let problem = match fs::symlink_metadata(root) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(metadata) if metadata.is_symlink() => Some((
            "is a symbolic link, of which only the link itself is mirrored".to_owned(),
            root.canonicalize()
                .map_or("it leads nowhere".to_owned(), |real| {
                    format!("write {} instead", real.display())
                }),
        )),
        Ok(_) => Some((
            "isn't a directory".to_owned(),
            "a tree is a directory; write a [[group.file]] for record files".to_owned(),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::warning(
                "rule",
                subject,
                "there is no such directory",
                "is the path right? It is mirrored when it comes",
            )];
        }
        Err(error) => Some((
            error.to_string(),
            "run this as a user that may look there".to_owned(),
        )),
    };
    if let Some((message, help)) = problem {
        return vec![Finding::error("rule", subject, message, help)];
    }
    let (mut files, mut directories, mut links, mut linked, mut size) = (0, 0, 0, 0, 0);
    let mut unreadable = Vec::new();
    let mut scan = config.scan_rule(group, file);
    for found in &mut scan {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                unreadable.push(Finding::error(
                    "rule",
                    &subject,
                    error.to_string(),
                    "what can't be looked into isn't mirrored",
                ));
                continue;
            }
        };
        match fs::symlink_metadata(&found.path) {
            Ok(metadata) if metadata.is_dir() => directories += 1,
            Ok(metadata) if metadata.is_symlink() => links += 1,
            Ok(metadata) => {
                files += 1;
                size += metadata.len();
                linked += usize::from(metadata.nlink() > 1);
                if let Err(error) = allowed(&found.path, Access::READ_OK) {
                    unreadable.push(Finding::error(
                        "file",
                        found.path.display(),
                        format!("can't be read: {error}"),
                        "run the replicator as a user that may read it, or leave it out with `exclude`",
                    ));
                }
            }
            // Gone since.
            Err(_) => {}
        }
    }
    let mut message = format!(
        "a tree of {}, {} and {}, {}",
        counted(files, "file"),
        if directories == 1 {
            "1 directory".to_owned()
        } else {
            format!("{directories} directories")
        },
        counted(links, "link"),
        bytes(size)
    );
    if linked > 0 {
        message.push_str(&format!(
            "; {} one of several names (hard links), of which each is mirrored as a file of its own",
            if linked == 1 { "1 file is".to_owned() } else { format!("{linked} files are") }
        ));
    }
    let mut findings = vec![Finding::ok("rule", &subject, message)];
    if scan.passed_over() > 0 {
        findings.push(Finding::warning(
            "rule",
            &subject,
            format!(
                "sockets, pipes and devices aren't mirrored, and there are {} in it",
                scan.passed_over()
            ),
            "leave them out with `exclude` to say that this is as it should be",
        ));
    }
    let hidden = unreadable.split_off(unreadable.len().min(FINDINGS_MAX));
    findings.append(&mut unreadable);
    if !hidden.is_empty() {
        findings.push(Finding::new(
            Level::Error,
            "rule",
            &subject,
            format!("and {} more like these", counted(hidden.len(), "finding")),
        ));
    }
    findings
}

/// A path that is no regular file, or that leads through a symbolic link.
fn by_another_name(rule: &FileRule, subject: &str) -> Option<Finding> {
    let literal = rule.pattern.literal();
    if let Some(metadata) = literal
        .as_ref()
        .and_then(|path| fs::symlink_metadata(path).ok())
    {
        if metadata.is_dir() {
            return Some(Finding::error(
                "rule",
                subject,
                "is a directory",
                "add /* for the files in it, or /** for those below it as well",
            ));
        }
        if metadata.is_symlink() {
            let real = literal.as_ref().and_then(|path| path.canonicalize().ok());
            return Some(Finding::error(
                "rule",
                subject,
                "is a symbolic link, which isn't mirrored; what it leads to can be",
                real.map_or("it leads nowhere".to_owned(), |real| {
                    format!("write {} instead", real.display())
                }),
            ));
        }
        if !metadata.is_file() {
            return Some(Finding::error(
                "rule",
                subject,
                "isn't a regular file",
                "devices, pipes and sockets hold no records: take the rule out",
            ));
        }
    }
    let directory = rule.pattern.directory();
    let real = directory.canonicalize().ok()?;
    (real != directory).then(|| {
        Finding::warning(
            "rule",
            subject,
            format!("{} leads through a symbolic link to {}", directory.display(), real.display()),
            "write the real path in the rule, and let the programs use it: a file is known by one path",
        )
    })
}

/// Why a rule may find nothing.
fn nothing_found(config: &Config, rule: &FileRule, subject: &str) -> Finding {
    let directory = rule.pattern.directory();
    if let Err(error) = fs::metadata(&directory) {
        let help = if error.kind() == io::ErrorKind::NotFound {
            "is the path right? Files are picked up when they come"
        } else {
            "run this as a user that may look there"
        };
        return Finding::warning(
            "rule",
            subject,
            format!("{}: {error}", directory.display()),
            help,
        );
    }
    if let Some(path) = rule.pattern.literal().filter(|path| path.exists()) {
        let taken = config.rule_for(path.as_os_str().as_bytes());
        if let Some((group, file)) = taken {
            let line = config.groups[group].files[file].line;
            return Finding::warning(
                "rule",
                subject,
                format!("never used: the rule on line {line} takes this file first"),
                "put the more particular rule before the more general one",
            );
        }
    }
    Finding::warning(
        "rule",
        subject,
        "no file matches, or earlier rules take all that do",
        "is the pattern right? Files are picked up when they come",
    )
}

/// What isn't as it should be with a file.
fn of_file(rule: &FileRule, codec: &dyn Codec, path: &Path, total_bytes: &mut u64) -> Vec<Finding> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            return vec![Finding::error(
                "file",
                path.display(),
                format!("can't be read: {error}"),
                "the replicator reads files too: run it as a user that may read this one",
            )];
        }
    };
    let mut findings = Vec::new();
    if let Err(error) = allowed(path, Access::WRITE_OK) {
        findings.push(Finding::warning(
            "file",
            path.display(),
            format!("this user can't write it: {error}"),
            "fine for the replicator; a program that changes the file has to run as another user",
        ));
    }
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            findings.push(Finding::error(
                "file",
                path.display(),
                error.to_string(),
                "look at the file system",
            ));
            return findings;
        }
    };
    *total_bytes += metadata.len();
    if metadata.nlink() > 1 {
        findings.push(Finding::warning(
            "file",
            path.display(),
            format!("has {} names (hard links)", metadata.nlink()),
            "let programs use this name: writes through a name that no rule matches aren't seen at once",
        ));
    }
    let len = metadata.len();
    let remainder = remainder(rule, codec, path, len);
    let whole = remainder.is_none();
    findings.extend(remainder);
    match residue(codec, &file, len, whole) {
        Ok(residue) => findings.extend(residue.map(|(offset, reason)| {
            Finding::warning(
                "file",
                path.display(),
                format!("offset {offset}: {reason}, so these bytes are kept for restore but make no row"),
                "if a program is writing just now, check again; else compare the rule with what the program writes",
            )
        })),
        Err(error) => findings.push(Finding::error(
            "file",
            path.display(),
            format!("can't be read: {error}"),
            "look at the disk and the kernel's log",
        )),
    }
    findings
}

/// Whether records of one size fill the file.
fn remainder(rule: &FileRule, codec: &dyn Codec, path: &Path, len: u64) -> Option<Finding> {
    let Boundaries::Pitch(pitch) = codec.boundaries() else {
        return None;
    };
    let level = match rule.format.organization {
        // A record more or less is always a whole one.
        Organization::Fixed => Level::Error,
        // GnuCOBOL writes a slot in two parts, and may have been killed between them.
        Organization::Relative => Level::Warning,
        Organization::Sequential => Level::Error,
        // The last block may be short.
        Organization::Stream | Organization::Static => return None,
    };
    let rest = len.checked_rem(pitch).filter(|rest| *rest > 0)?;
    let size = rule.format.record_size.unwrap_or(pitch);
    let on_disk = if size == pitch {
        String::new()
    } else {
        format!(" ({pitch} on disk)")
    };
    let message = format!(
        "{len} bytes aren't a whole number of records of {size} bytes{on_disk}: {rest} are left over at the end"
    );
    Some(Finding {
        help: Some(format!(
            "record_size is probably wrong (`counterfoil init {}` guesses it); if it is right, the {rest} bytes are \
             kept for restore but make no row",
            path.parent().unwrap_or(Path::new("/")).display()
        )),
        ..Finding::new(level, "file", path.display(), message)
    })
}

/// The first bytes that are no record, in the file's beginning or its end: where, and why.
/// Without `whole`, a partial last record is known already.
fn residue(
    codec: &dyn Codec,
    file: &File,
    len: u64,
    whole: bool,
) -> io::Result<Option<(u64, &'static str)>> {
    let head = read(file, 0, len.min(HEAD_BYTES_MAX))?;
    let all = head.len() as u64 >= len;
    if let Some(found) = first_residue(codec, 0, &head, all && whole) {
        return Ok(Some(found));
    }
    if all {
        return Ok(None);
    }
    let from = len - len.min(TAIL_BYTES_MAX);
    let (start, mut tail) = match codec.boundaries() {
        Boundaries::Pitch(pitch) => {
            let start = from - from.checked_rem(pitch).unwrap_or(0);
            if len - start > HEAD_BYTES_MAX {
                return Ok(None);
            }
            (start, read(file, start, len - start)?)
        }
        Boundaries::After(end) => {
            let mut tail = read(file, from, len - from)?;
            let Some(at) = tail.iter().position(|byte| *byte == end) else {
                return Ok(None);
            };
            tail.drain(..=at);
            (from + at as u64 + 1, tail)
        }
        Boundaries::Forward => return Ok(None),
    };
    if !whole && let Boundaries::Pitch(pitch) = codec.boundaries() {
        let records = (tail.len() as u64).checked_div(pitch).unwrap_or(0);
        tail.truncate((records * pitch) as usize);
    }
    Ok(first_residue(codec, start, &tail, true))
}

fn first_residue(
    codec: &dyn Codec,
    offset: u64,
    bytes: &[u8],
    at_end: bool,
) -> Option<(u64, &'static str)> {
    let mut first = None;
    codec.decode(offset, bytes, at_end, &mut |piece| {
        if let PieceKind::Residue { reason, .. } = piece.kind
            && reason != DELETED
        {
            first.get_or_insert((piece.offset, reason));
        }
    });
    first
}

/// Up to `len` bytes at `offset`; fewer when the file has become shorter.
fn read(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
