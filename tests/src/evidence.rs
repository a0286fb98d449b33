//! Evidence of what the interposer told: the lanes, read with nobody else having looked at them.
//!
//! While no replicator runs, all that captured programs told stays in the lanes directory. Made into files, starting from
//! what was there before, it shows by itself how a change was captured: if the images are the files, the interposer told
//! every byte; if they differ only where it said that a range is to be read again, it told where; whatever else differs
//! was not told, and is left for the watcher to find.
//!
//! This is the only place in the harness that reads what Counterfoil writes for itself, and it does so through the lane
//! crate's reader, as there is no command that shows a lane.

use crate::image::Image;
use anyhow::{Context as _, Result, bail};
use counterfoil_lane::board::{self, path_hash};
use counterfoil_lane::frame::{Header, Kind, OPEN_CREATED};
use counterfoil_lane::reader::{Segment, decode_name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// By what changes were captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The interposer told every byte and every name.
    Interposer,
    /// The interposer told of every change; of some it said where to read again instead of what was written.
    ReadAgain,
    /// The interposer told some changes and not others.
    Both,
    /// The interposer told nothing of what changed.
    Watcher,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Interposer => "interposer",
            By::ReadAgain => "interposer, read again",
            By::Both => "interposer and watcher",
            By::Watcher => "watcher",
        })
    }
}

type Inode = (u64, u64);

/// Files as they would be if only what the interposer told had happened.
#[derive(Debug, Default)]
pub struct Evidence {
    files: HashMap<Inode, File>,
    paths: BTreeMap<PathBuf, Inode>,
    before: BTreeSet<PathBuf>,
    /// Files whose path another took: in an exchange, they get that one's in turn.
    displaced: HashMap<Inode, PathBuf>,
    /// Hashes of paths that programs marked because they could not tell more.
    gaps: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default)]
struct File {
    image: Image,
    /// The interposer told something that changed it.
    told: bool,
    /// Ranges it said to be read again.
    doubts: Vec<Range<u64>>,
}

struct Frame {
    header: Header,
    kind: Kind,
    data: Vec<u8>,
    inode: Inode,
    path: PathBuf,
}

impl Evidence {
    /// Takes up files that are there before any program runs.
    pub fn before(paths: &[PathBuf]) -> Result<Evidence> {
        let mut evidence = Evidence::default();
        for path in paths {
            let metadata = std::fs::metadata(path)
                .with_context(|| format!("looking at {}", path.display()))?;
            let inode = (metadata.dev(), metadata.ino());
            let file = File {
                image: Image::read(path)?,
                ..File::default()
            };
            evidence.files.insert(inode, file);
            evidence.paths.insert(path.clone(), inode);
            evidence.before.insert(path.clone());
        }
        Ok(evidence)
    }

    /// Adds what the lanes in a directory say.
    pub fn read(&mut self, lanes: &Path) -> Result<()> {
        for frame in frames(lanes)? {
            self.take(&frame);
        }
        let (gaps, everything) = gaps(lanes)?;
        self.gaps.extend(gaps);
        if everything {
            bail!("so many gaps are marked that they say nothing of a single file");
        }
        Ok(())
    }

    /// By what the changes below a directory were captured. `now` are the captured files that are there, in their real
    /// places. None where nothing changed.
    pub fn judge(&self, dir: &Path, now: &[PathBuf]) -> Result<Option<By>> {
        let (mut by_bytes, mut by_reading, mut untold) = (false, false, false);
        for path in now {
            let nothing = File::default();
            let told = self
                .paths
                .get(path)
                .and_then(|inode| self.files.get(inode))
                .unwrap_or(&nothing);
            let differences = told.image.differences(&Image::read(path)?);
            by_bytes |= told.told;
            if differences.is_empty() {
                // An empty file that is there and that nobody told of.
                let gap = self.gaps.contains(&path_hash(path.as_os_str().as_bytes()));
                untold |= !self.paths.contains_key(path) && !gap;
                continue;
            }
            let gap = self.gaps.contains(&path_hash(path.as_os_str().as_bytes()));
            let doubts = joined(&told.doubts);
            let marked = |range: &Range<u64>| {
                gap || doubts
                    .iter()
                    .any(|doubt| doubt.start <= range.start && range.end <= doubt.end)
            };
            by_reading |= differences.iter().any(marked);
            untold |= !differences.iter().all(marked);
        }
        let gone = self
            .paths
            .keys()
            .any(|path| path.starts_with(dir) && !path.exists());
        untold |= gone;
        let removed = self
            .before
            .iter()
            .any(|path| path.starts_with(dir) && !self.paths.contains_key(path));
        by_bytes |= removed;
        Ok(match (by_bytes, by_reading, untold) {
            (false, false, false) => None,
            (_, true, false) => Some(By::ReadAgain),
            (_, false, false) => Some(By::Interposer),
            (false, false, true) => Some(By::Watcher),
            (_, _, true) => Some(By::Both),
        })
    }

    fn take(&mut self, frame: &Frame) {
        let Header {
            offset,
            extent,
            flags,
            ..
        } = frame.header;
        if frame.kind == Kind::Open && flags & OPEN_CREATED != 0 {
            // The inode may have been another file's before.
            self.files.insert(frame.inode, File::default());
            self.displaced.remove(&frame.inode);
        }
        if frame.kind == Kind::Rename {
            return self.rename(frame);
        }
        if frame.kind != Kind::Unlink && !self.paths.values().any(|inode| *inode == frame.inode) {
            self.paths.insert(frame.path.clone(), frame.inode);
        }
        let is_new = !self.files.contains_key(&frame.inode);
        let file = self.files.entry(frame.inode).or_default();
        let marked = match frame.kind {
            Kind::Open => {
                if flags & OPEN_CREATED != 0 {
                    self.paths.insert(frame.path.clone(), frame.inode);
                    file.told = true;
                }
                if offset == 0 {
                    file.told |= file.image.size() > 0;
                    file.image.set_size(0);
                }
                None
            }
            Kind::Write => {
                file.image.put(offset, &frame.data);
                file.told = true;
                None
            }
            Kind::Truncate => {
                file.image.set_size(offset);
                file.told = true;
                None
            }
            Kind::Unlink => {
                self.paths.remove(&path_of(&frame.data));
                None
            }
            Kind::Link => {
                self.paths.insert(path_of(&frame.data), frame.inode);
                file.told = true;
                // One that had no captured name before is read as a whole.
                is_new.then_some(0..u64::MAX)
            }
            Kind::Reread | Kind::Unmap => {
                let end = offset.saturating_add(extent);
                if end != u64::MAX {
                    // It may have grown by it; what lies between is zeros.
                    file.image.set_size(file.image.size().max(end));
                }
                Some(offset..end)
            }
            // It ends with the process at the latest, which is looked after.
            Kind::Map | Kind::Unknown => Some(0..u64::MAX),
            _ => None,
        };
        file.doubts.extend(marked);
    }

    fn rename(&mut self, frame: &Frame) {
        let Some(nul) = frame.data.iter().position(|&byte| byte == 0) else {
            return;
        };
        let (from, to) = (path_of(&frame.data[..nul]), path_of(&frame.data[nul + 1..]));
        let below: Vec<(PathBuf, Inode)> = self
            .paths
            .iter()
            .filter(|(path, inode)| {
                path.starts_with(&from) && **path != from
                    || **path == from && **inode == frame.inode
            })
            .map(|(path, inode)| (path.clone(), *inode))
            .collect();
        let known = below.iter().any(|(path, _)| *path == from);
        for (path, inode) in below {
            self.paths.remove(&path);
            let rest = path.strip_prefix(&from).unwrap_or(Path::new(""));
            let moved = if rest.as_os_str().is_empty() {
                to.clone()
            } else {
                to.join(rest)
            };
            if let Some(displaced) = self.paths.insert(moved.clone(), inode)
                && displaced != inode
            {
                self.displaced.insert(displaced, moved);
            }
            self.files.entry(inode).or_default().told = true;
        }
        if self.displaced.get(&frame.inode) == Some(&from) {
            self.displaced.remove(&frame.inode);
            self.paths.insert(to, frame.inode);
        } else if !known && !to.is_dir() {
            // From a name that isn't captured: what it holds has to be read.
            self.paths.insert(to, frame.inode);
            let file = File {
                told: true,
                doubts: std::iter::once(0..u64::MAX).collect(),
                ..File::default()
            };
            self.files.insert(frame.inode, file);
        }
    }
}

/// Ranges without those that touch.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// Everything in all lanes, in the order of the ends of calls.
fn frames(lanes: &Path) -> Result<Vec<Frame>> {
    let mut segments: BTreeMap<(u64, u32), BTreeMap<u64, Arc<Segment>>> = BTreeMap::new();
    for entry in std::fs::read_dir(lanes).with_context(|| format!("listing {}", lanes.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "lane") {
            continue;
        }
        let segment = match Segment::open(&path) {
            Ok(segment) => segment,
            Err(error) => bail!("{}: {error}", path.display()),
        };
        let writer = segment.writer();
        segments
            .entry((writer.process, writer.lane))
            .or_default()
            .insert(segment.sequence(), segment);
    }
    let mut frames = Vec::new();
    for segment in segments.values().flat_map(BTreeMap::values) {
        let mut names: HashMap<u32, (Inode, PathBuf)> = HashMap::new();
        let (mut at, tail) = (0, segment.tail());
        while at < tail {
            let (header, kind, data) = segment
                .frame(at, tail)
                .map_err(|what| anyhow::anyhow!("{}: {what}", segment.path().display()))?;
            at += header.len as usize;
            if kind == Kind::Name {
                let (device, inode, path) =
                    decode_name(data).context("a name frame without a name")?;
                names.insert(header.name, ((device, inode), path_of(path)));
            } else if let Some((inode, path)) = names.get(&header.name) {
                frames.push(Frame {
                    header,
                    kind,
                    data: data.to_vec(),
                    inode: *inode,
                    path: path.clone(),
                });
            }
        }
    }
    frames.sort_by_key(|frame| frame.header.end);
    Ok(frames)
}

/// Hashes of the paths marked on the board, and whether everything is. They are taken from a copy: a replicator is to
/// find them still.
fn gaps(lanes: &Path) -> Result<(BTreeSet<u64>, bool)> {
    let copy = tempfile::tempdir().context("making a temporary directory")?;
    std::fs::copy(
        lanes.join(board::FILE_NAME),
        copy.path().join(board::FILE_NAME),
    )
    .with_context(|| format!("copying the board in {}", lanes.display()))?;
    let mut path = copy.path().as_os_str().as_bytes().to_vec();
    path.push(0);
    let board = board::attach(&path).context("the board has another version")?;
    let mut hashes = BTreeSet::new();
    let everything = board.take_gaps(|hash| {
        hashes.insert(hash);
    });
    Ok((hashes, everything))
}
