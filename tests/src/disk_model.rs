//! A plain in-memory model of a directory: names, files, open descriptions, descriptors.
//!
//! It says what every operation of `file_exerciser` does and returns on Linux. Content is a plain
//! vector of bytes, with no knowledge of records, captures or positions.

use std::collections::BTreeMap;
use std::fmt;

/// From where an `lseek` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in C")]
pub enum Whence {
    Set,
    Cur,
    End,
}

/// An operation of `file_exerciser`; its `Display` is the script's line without the result. Paths are
/// relative to the program's working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the script's own vocabulary, described in file_exerciser.c"
)]
pub enum Op {
    Open {
        fd: u32,
        path: String,
        flags: &'static str,
    },
    Creat {
        fd: u32,
        path: String,
    },
    Close {
        fd: u32,
    },
    Dup {
        fd: u32,
        new: u32,
        how: &'static str,
    },
    Write {
        fd: u32,
        bytes: Vec<u8>,
        by: Writer,
    },
    Writev {
        fd: u32,
        parts: [Vec<u8>; 2],
    },
    Pwrite {
        fd: u32,
        offset: u64,
        bytes: Vec<u8>,
        in_thread: bool,
    },
    Pwritev {
        fd: u32,
        offset: u64,
        parts: [Vec<u8>; 2],
    },
    Lseek {
        fd: u32,
        offset: i64,
        whence: Whence,
    },
    Ftruncate {
        fd: u32,
        len: u64,
    },
    Truncate {
        path: String,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Sync {
        fd: u32,
        data_only: bool,
    },
    Lock {
        fd: u32,
        offset: u64,
        len: u64,
        release: bool,
    },
    Stdio {
        path: String,
        mode: &'static str,
        parts: [Vec<u8>; 2],
    },
    Exec,
}

/// Which process does a `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Writer {
    Itself,
    ForkedChild,
    SpawnedChild,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Open { fd, path, flags } => write!(f, "open {fd} {path} {flags}"),
            Op::Creat { fd, path } => write!(f, "creat {fd} {path}"),
            Op::Close { fd } => write!(f, "close {fd}"),
            Op::Dup { fd, new, how } => write!(f, "{how} {fd} {new}"),
            Op::Write { fd, bytes, by } => {
                let verb = match by {
                    Writer::Itself => "write",
                    Writer::ForkedChild => "fork",
                    Writer::SpawnedChild => "vfork-exec",
                };
                write!(f, "{verb} {fd} {}", Hex(bytes))
            }
            Op::Writev { fd, parts } => {
                write!(f, "writev {fd} {} {}", Hex(&parts[0]), Hex(&parts[1]))
            }
            Op::Pwrite {
                fd,
                offset,
                bytes,
                in_thread,
            } => {
                write!(
                    f,
                    "{} {fd} {offset} {}",
                    if *in_thread { "thread" } else { "pwrite" },
                    Hex(bytes)
                )
            }
            Op::Pwritev { fd, offset, parts } => {
                write!(
                    f,
                    "pwritev {fd} {offset} {} {}",
                    Hex(&parts[0]),
                    Hex(&parts[1])
                )
            }
            Op::Lseek { fd, offset, whence } => {
                let whence = match whence {
                    Whence::Set => "set",
                    Whence::Cur => "cur",
                    Whence::End => "end",
                };
                write!(f, "lseek {fd} {offset} {whence}")
            }
            Op::Ftruncate { fd, len } => write!(f, "ftruncate {fd} {len}"),
            Op::Truncate { path, len } => write!(f, "truncate {path} {len}"),
            Op::Rename { from, to } => write!(f, "rename {from} {to}"),
            Op::Unlink { path } => write!(f, "unlink {path}"),
            Op::Sync { fd, data_only } => {
                write!(f, "{} {fd}", if *data_only { "fdatasync" } else { "fsync" })
            }
            Op::Lock {
                fd,
                offset,
                len,
                release,
            } => {
                write!(
                    f,
                    "{} {fd} {offset} {len}",
                    if *release { "unlock" } else { "lock" }
                )
            }
            Op::Stdio { path, mode, parts } => write!(
                f,
                "stdio {path} {mode} {} {}",
                Hex(&parts[0]),
                Hex(&parts[1])
            ),
            Op::Exec => f.write_str("exec"),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Clone, Debug)]
struct Description {
    inode: usize,
    offset: u64,
    append: bool,
    writable: bool,
}

/// The directory and the one process that works in it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    names: BTreeMap<String, usize>,
    inodes: Vec<Vec<u8>>,
    descriptions: Vec<Description>,
    descriptors: BTreeMap<u32, usize>,
}

impl Disk {
    /// A directory with these files, none of them open.
    pub fn with(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Disk {
        let mut disk = Disk::default();
        for (name, content) in files {
            let inode = disk.create(&name);
            disk.inodes[inode] = content;
        }
        disk
    }

    /// The file of this name, if there is one.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.names
            .get(name)
            .map(|&inode| self.inodes[inode].as_slice())
    }

    /// All files by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names
            .iter()
            .map(|(name, &inode)| (name.as_str(), self.inodes[inode].as_slice()))
    }

    /// The open descriptors.
    pub fn descriptors(&self) -> Vec<u32> {
        self.descriptors.keys().copied().collect()
    }

    /// Size of the file behind a descriptor.
    pub fn size(&self, fd: u32) -> u64 {
        self.descriptors
            .get(&fd)
            .map_or(0, |&d| self.inodes[self.descriptions[d].inode].len() as u64)
    }

    /// Content of the file behind a descriptor, which may have no name any more.
    pub fn content(&self, fd: u32) -> Option<&[u8]> {
        let description = *self.descriptors.get(&fd)?;
        Some(&self.inodes[self.descriptions[description].inode])
    }

    /// Does the operation and gives the result that the program must see; `None` where it isn't
    /// checked. Errors are minus errno.
    pub fn apply(&mut self, op: &Op) -> Option<i64> {
        Some(match op {
            Op::Open { fd, path, flags } => self.open(*fd, path, flags),
            Op::Creat { fd, path } => self.open(*fd, path, "wct"),
            Op::Close { fd } => match self.descriptors.remove(fd) {
                Some(_) => 0,
                None => -i64::from(libc::EBADF),
            },
            Op::Dup { fd, new, how } => {
                let Some(&description) = self.descriptors.get(fd) else {
                    return Some(-i64::from(libc::EBADF));
                };
                debug_assert!(
                    *how == "dup2" || !self.descriptors.contains_key(new),
                    "the script names a free number"
                );
                self.descriptors.insert(*new, description);
                i64::from(*new)
            }
            Op::Write { fd, bytes, by } => match self.write(*fd, bytes) {
                written if *by == Writer::Itself || written < 0 => written,
                // What comes back is the child's exit, not how much it wrote.
                _ => 0,
            },
            Op::Writev { fd, parts } => self.write(*fd, &parts.concat()),
            Op::Pwrite {
                fd, offset, bytes, ..
            } => self.pwrite(*fd, *offset, bytes),
            Op::Pwritev { fd, offset, parts } => self.pwrite(*fd, *offset, &parts.concat()),
            Op::Lseek { fd, offset, whence } => {
                let Some(&description) = self.descriptors.get(fd) else {
                    return Some(-i64::from(libc::EBADF));
                };
                let size = self.size(*fd);
                let description = &mut self.descriptions[description];
                let base = match whence {
                    Whence::Set => 0,
                    Whence::Cur => description.offset,
                    Whence::End => size,
                };
                match base.checked_add_signed(*offset) {
                    Some(to) => {
                        description.offset = to;
                        to as i64
                    }
                    None => -i64::from(libc::EINVAL),
                }
            }
            Op::Ftruncate { fd, len } => match self
                .descriptors
                .get(fd)
                .map(|&d| self.descriptions[d].clone())
            {
                Some(description) if description.writable => {
                    self.inodes[description.inode].resize(*len as usize, 0);
                    0
                }
                Some(_) => -i64::from(libc::EINVAL),
                None => -i64::from(libc::EBADF),
            },
            Op::Truncate { path, len } => match self.names.get(path) {
                Some(&inode) => {
                    self.inodes[inode].resize(*len as usize, 0);
                    0
                }
                None => -i64::from(libc::ENOENT),
            },
            Op::Rename { from, to } => match self.names.remove(from) {
                Some(inode) => {
                    self.names.insert(to.clone(), inode);
                    0
                }
                None => -i64::from(libc::ENOENT),
            },
            Op::Unlink { path } => match self.names.remove(path) {
                Some(_) => 0,
                None => -i64::from(libc::ENOENT),
            },
            Op::Sync { fd, .. } | Op::Lock { fd, .. } => match self.descriptors.contains_key(fd) {
                // A write lock takes a writable descriptor, which the model's user sees to.
                true => 0,
                false => -i64::from(libc::EBADF),
            },
            Op::Stdio { path, mode, parts } => {
                let inode = match (self.names.get(path), *mode) {
                    (Some(&inode), "w") => {
                        self.inodes[inode].clear();
                        inode
                    }
                    (Some(&inode), _) => inode,
                    (None, _) => self.create(path),
                };
                self.inodes[inode].extend(parts.concat());
                0
            }
            Op::Exec => return None,
        })
    }

    fn create(&mut self, path: &str) -> usize {
        self.inodes.push(Vec::new());
        self.names.insert(path.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    fn open(&mut self, fd: u32, path: &str, flags: &str) -> i64 {
        let has = |letter| flags.contains(letter);
        let inode = match self.names.get(path) {
            Some(_) if has('c') && has('x') => return -i64::from(libc::EEXIST),
            Some(&inode) => inode,
            None if has('c') => self.create(path),
            None => return -i64::from(libc::ENOENT),
        };
        if has('t') {
            self.inodes[inode].clear();
        }
        self.descriptions.push(Description {
            inode,
            offset: 0,
            append: has('a'),
            writable: has('w') || has('b'),
        });
        self.descriptors.insert(fd, self.descriptions.len() - 1);
        i64::from(fd)
    }

    fn write(&mut self, fd: u32, bytes: &[u8]) -> i64 {
        let Some(&number) = self.descriptors.get(&fd) else {
            return -i64::from(libc::EBADF);
        };
        let description = &mut self.descriptions[number];
        if !description.writable {
            return -i64::from(libc::EBADF);
        }
        let content = &mut self.inodes[description.inode];
        if bytes.is_empty() {
            // Not even O_APPEND moves the offset for nothing.
            return 0;
        }
        if description.append {
            description.offset = content.len() as u64;
        }
        put(content, description.offset as usize, bytes);
        description.offset += bytes.len() as u64;
        bytes.len() as i64
    }

    fn pwrite(&mut self, fd: u32, offset: u64, bytes: &[u8]) -> i64 {
        let Some(description) = self
            .descriptors
            .get(&fd)
            .map(|&number| self.descriptions[number].clone())
        else {
            return -i64::from(libc::EBADF);
        };
        if !description.writable {
            return -i64::from(libc::EBADF);
        }
        let content = &mut self.inodes[description.inode];
        // On Linux a pwrite to an O_APPEND descriptor appends, whatever its offset.
        let offset = if description.append {
            content.len()
        } else {
            offset as usize
        };
        if !bytes.is_empty() {
            put(content, offset, bytes);
        }
        bytes.len() as i64
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
