//! Random operations as programs do them to files of each organisation.

use crate::chance::Chance;
use crate::disk_model::{Disk, Op, Whence, Writer};
use std::fmt::Write as _;
use std::ops::Range;

/// Organisation and layout of the files that operations are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Plain records of `size` bytes.
    Fixed {
        /// Record length in bytes.
        size: usize,
    },
    /// GnuCOBOL slots.
    Relative {
        /// Longest record in bytes.
        size: usize,
    },
    /// GnuCOBOL variable sequential records.
    Variable {
        /// Longest record in bytes.
        size: usize,
        /// As `COB_VARSEQ_FORMAT`.
        varseq_format: u8,
    },
    /// Text lines.
    Lines,
    /// Blocks.
    Blocks {
        /// Block size in bytes.
        size: usize,
    },
}

impl Shape {
    /// The lines of a `[[group.file]]` that describe it.
    pub fn config(self) -> String {
        match self {
            Shape::Fixed { size } => {
                format!("organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = {size}\n")
            }
            Shape::Relative { size } => {
                format!(
                    "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = {size}\n"
                )
            }
            Shape::Variable {
                size,
                varseq_format,
            } => format!(
                "organization = \"sequential\"\nlayout = \"gnucobol\"\nrecord_size = {size}\nvarseq_format = {varseq_format}\n"
            ),
            Shape::Lines => "organization = \"stream\"\nlayout = \"newline\"\n".to_owned(),
            Shape::Blocks { size } => {
                format!("organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = {size}\n")
            }
        }
    }

    /// The unit of addressing that most operations keep to.
    fn pitch(self) -> u64 {
        match self {
            Shape::Fixed { size } | Shape::Blocks { size } => size as u64,
            Shape::Relative { size } => 8 + size as u64,
            Shape::Variable { .. } | Shape::Lines => 1,
        }
    }

    /// The on-disk bytes of one random record.
    fn record(self, chance: &mut Chance) -> Vec<u8> {
        match self {
            Shape::Fixed { size } | Shape::Blocks { size } => chance.bytes(size),
            Shape::Relative { size } => {
                let len = 1 + chance.below(size as u64);
                let mut slot = vec![0; 8];
                slot[0] = len as u8;
                slot[1] = (len >> 8) as u8;
                slot.extend(chance.bytes(len as usize));
                slot.resize(8 + size, b' ');
                slot
            }
            Shape::Variable {
                size,
                varseq_format,
            } => {
                let len = 1 + chance.below(size as u64) as usize;
                let [high, low] = [(len >> 8) as u8, len as u8];
                let mut record = match varseq_format {
                    0 => vec![high, low, 0, 0],
                    1 => vec![0, 0, high, low],
                    2 => vec![low, high, 0, 0],
                    _ => vec![high, low],
                };
                record.extend(chance.bytes(len));
                record
            }
            Shape::Lines => {
                let len = chance.below(60) as usize;
                let mut line = chance.text(len);
                if chance.percent(10) {
                    line.push(b'\r');
                }
                line.push(b'\n');
                line
            }
        }
    }
}

/// Makes `count` operations on the files `names` (in the program's working directory) and the model
/// that they lead to. The text is a script for `file_exerciser`. `outside` is a name that no rule
/// captures: files are written there and renamed into place, and the other way round.
pub fn script(
    shape: Shape,
    names: &[&str],
    outside: &str,
    count: usize,
    chance: &mut Chance,
) -> (String, Disk) {
    let operations = operations(shape, names, outside, Disk::default(), count, chance);
    let mut disk = Disk::default();
    (script_of(&operations, &mut disk), disk)
}

/// The same operations by themselves, for files that are as `disk` has them; about as many as `count`.
pub(crate) fn operations(
    shape: Shape,
    names: &[&str],
    outside: &str,
    disk: Disk,
    count: usize,
    chance: &mut Chance,
) -> Vec<Op> {
    let mut source = Source {
        shape,
        names,
        outside,
        disk,
        operations: Vec::new(),
        next_fd: 100,
    };
    for _ in 0..count {
        source.step(chance);
    }
    source.operations
}

/// The script of operations, a line each, and what they make of the disk.
pub(crate) fn script_of(operations: &[Op], disk: &mut Disk) -> String {
    let mut text = String::new();
    for op in operations {
        match disk.apply(op) {
            Some(result) => writeln!(text, "{op} = {result}"),
            None => writeln!(text, "{op}"),
        }
        .expect("writing to a string can't fail");
    }
    text
}

/// What one of several programs does to two files that all of them have open: records at places of its own in the file
/// `records`, and lines at the end of `lines`. Every record and line has the program's number, and a number of its own from
/// `serials`.
pub(crate) fn shared_operations(
    [records, lines]: [&str; 2],
    size: usize,
    (member, members): (u64, u64),
    serials: Range<u64>,
    chance: &mut Chance,
) -> Vec<Op> {
    let (to_records, to_lines) = (100, 101);
    let mut operations = Vec::new();
    let open = |fd, path: &str, flags| Op::Open {
        fd,
        path: path.to_owned(),
        flags,
    };
    operations.push(open(to_records, records, "bc"));
    operations.push(open(to_lines, lines, "wca"));
    for serial in serials {
        let tag = format!("{member} {serial:09} ");
        let offset = (chance.below(SHARED_SLOTS) * members + member) * size as u64;
        let lock = |release| Op::Lock {
            fd: to_records,
            offset,
            len: size as u64,
            release,
        };
        let is_locked = chance.percent(30);
        if is_locked {
            operations.push(lock(false));
        }
        if chance.percent(60) || is_locked {
            let mut bytes = tag.clone().into_bytes();
            bytes.extend(chance.text(size - tag.len()));
            operations.push(Op::Pwrite {
                fd: to_records,
                offset,
                bytes,
                in_thread: chance.percent(5),
            });
        }
        if chance.percent(50) {
            let mut bytes = tag.into_bytes();
            let len = chance.below(50) as usize;
            bytes.extend(chance.text(len));
            bytes.push(b'\n');
            operations.push(Op::Write {
                fd: to_lines,
                bytes,
                by: Writer::Itself,
            });
        }
        if is_locked {
            operations.push(lock(true));
        }
        match chance.below(100) {
            0..=4 => operations.push(Op::Sync {
                fd: *chance.pick(&[to_records, to_lines]),
                data_only: chance.percent(50),
            }),
            5..=8 => {
                operations.push(Op::Close { fd: to_records });
                operations.push(open(to_records, records, "b"));
            }
            _ => {}
        }
    }
    operations
}

/// How many places each program has in a shared file of records.
const SHARED_SLOTS: u64 = 40;

struct Source<'a> {
    shape: Shape,
    names: &'a [&'a str],
    outside: &'a str,
    disk: Disk,
    operations: Vec<Op>,
    next_fd: u32,
}

/// More descriptors than this are never open at once.
const DESCRIPTORS_MAX: usize = 6;
/// Files are kept below this many pitches (or, without a pitch, a few hundred times as many bytes).
const RECORDS_MAX: u64 = 60;

impl Source<'_> {
    fn emit(&mut self, op: &Op) -> i64 {
        self.operations.push(op.clone());
        self.disk.apply(op).unwrap_or(0)
    }

    fn fresh_fd(&mut self) -> u32 {
        self.next_fd = if self.next_fd >= 180 {
            100
        } else {
            self.next_fd + 1
        };
        while self.disk.descriptors().contains(&self.next_fd) {
            self.next_fd += 1;
        }
        self.next_fd
    }

    /// A descriptor to work with: an open one, or a new one.
    fn descriptor(&mut self, chance: &mut Chance) -> u32 {
        let open = self.disk.descriptors();
        if open.len() > DESCRIPTORS_MAX {
            self.emit(&Op::Close {
                fd: *chance.pick(&open),
            });
        }
        let open = self.disk.descriptors();
        if open.is_empty() || chance.percent(5) {
            let fd = self.fresh_fd();
            let path = (*chance.pick(self.names)).to_owned();
            let flags = *chance.pick(&["bc", "bc", "bc", "wc", "bca", "wca", "bct"]);
            if chance.percent(5) {
                self.emit(&Op::Creat { fd, path });
            } else {
                self.emit(&Op::Open { fd, path, flags });
            }
            return fd;
        }
        *chance.pick(&open)
    }

    fn step(&mut self, chance: &mut Chance) {
        match chance.below(100) {
            0..=59 => self.write_records(chance),
            60..=69 => self.write_parts(chance),
            70..=75 => self.cut(chance),
            76..=79 => {
                let fd = self.descriptor(chance);
                let new = self.fresh_fd();
                let how = *chance.pick(&["dup", "dup2", "dupfd"]);
                self.emit(&Op::Dup { fd, new, how });
            }
            80..=83 => {
                let fd = self.descriptor(chance);
                self.emit(&Op::Sync {
                    fd,
                    data_only: chance.percent(50),
                });
            }
            84..=86 => {
                let fd = self.descriptor(chance);
                let (offset, len) = (
                    chance.below(RECORDS_MAX) * self.shape.pitch(),
                    self.shape.pitch(),
                );
                self.emit(&Op::Lock {
                    fd,
                    offset,
                    len,
                    release: false,
                });
                self.write_records(chance);
                if self.disk.descriptors().contains(&fd) {
                    self.emit(&Op::Lock {
                        fd,
                        offset,
                        len,
                        release: true,
                    });
                }
            }
            87..=90 => {
                let path = (*chance.pick(self.names)).to_owned();
                let parts = [self.shape.record(chance), self.shape.record(chance)];
                let size = self.disk.file(&path).map_or(0, <[u8]>::len) as u64;
                let mode = if chance.percent(30) || size > self.bytes_max() {
                    "w"
                } else {
                    "a"
                };
                self.emit(&Op::Stdio { path, mode, parts });
            }
            91..=93 => self.replace(chance),
            94 => {
                let (from, to) = (chance.pick(self.names), chance.pick(self.names));
                self.emit(&Op::Rename {
                    from: (*from).to_owned(),
                    to: (*to).to_owned(),
                });
            }
            95 => {
                self.emit(&Op::Rename {
                    from: (*chance.pick(self.names)).to_owned(),
                    to: self.outside.to_owned(),
                });
            }
            96 => {
                self.emit(&Op::Unlink {
                    path: (*chance.pick(self.names)).to_owned(),
                });
            }
            97 => {
                self.emit(&Op::Exec);
            }
            _ => {
                let open = self.disk.descriptors();
                // Number 99 is never open.
                let fd = if open.is_empty() {
                    99
                } else {
                    *chance.pick(&open)
                };
                self.emit(&Op::Close { fd });
            }
        }
    }

    fn bytes_max(&self) -> u64 {
        if self.shape.pitch() > 1 {
            RECORDS_MAX * self.shape.pitch()
        } else {
            20_000
        }
    }

    /// Whole records: at the end, or where one may begin.
    fn write_records(&mut self, chance: &mut Chance) {
        let fd = self.descriptor(chance);
        let size = self.disk.size(fd);
        if size > self.bytes_max() {
            self.emit(&Op::Ftruncate { fd, len: 0 });
            return;
        }
        let mut bytes = self.shape.record(chance);
        if chance.percent(15) {
            for _ in 0..chance.below(4) {
                bytes.extend(self.shape.record(chance));
            }
        }
        let offset = match self.shape {
            Shape::Variable { .. } | Shape::Lines => size,
            // Mostly within what is there; sometimes behind it, which leaves a hole.
            _ => {
                let behind = chance.below(4);
                chance.below(size / self.shape.pitch() + 1 + behind) * self.shape.pitch()
            }
        };
        let at_offset = Op::Lseek {
            fd,
            offset: offset as i64,
            whence: Whence::Set,
        };
        let to_end = Op::Lseek {
            fd,
            offset: 0,
            whence: Whence::End,
        };
        let cut = match self.shape {
            // The length first, the content after it, as GnuCOBOL's run time does.
            Shape::Relative { .. } => 8,
            Shape::Variable { varseq_format, .. } => {
                if varseq_format == 3 {
                    2
                } else {
                    4
                }
            }
            _ => chance.below(bytes.len() as u64) as usize,
        };
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        let parts = [head.to_vec(), tail.to_vec()];
        match chance.below(8) {
            0..=2 => {
                self.emit(if chance.percent(50) {
                    &at_offset
                } else {
                    &to_end
                });
                for part in parts {
                    self.emit(&Op::Write {
                        fd,
                        bytes: part,
                        by: Writer::Itself,
                    });
                }
            }
            3 => {
                self.emit(&Op::Pwrite {
                    fd,
                    offset,
                    bytes,
                    in_thread: chance.percent(20),
                });
            }
            4 => {
                self.emit(&Op::Pwritev { fd, offset, parts });
            }
            5 => {
                self.emit(&at_offset);
                self.emit(&Op::Writev { fd, parts });
            }
            6 => {
                self.emit(&at_offset);
                let by = *chance.pick(&[
                    Writer::ForkedChild,
                    Writer::SpawnedChild,
                    Writer::Itself,
                    Writer::Itself,
                ]);
                self.emit(&Op::Write { fd, bytes, by });
            }
            _ => {
                self.emit(&to_end);
                self.emit(&Op::Write {
                    fd,
                    bytes,
                    by: Writer::Itself,
                });
            }
        }
    }

    /// Bytes that keep to no record: parts of one, across several, a deletion's zero length.
    fn write_parts(&mut self, chance: &mut Chance) {
        let fd = self.descriptor(chance);
        let size = self.disk.size(fd);
        let pitch = self.shape.pitch();
        match self.shape {
            Shape::Relative { .. } if chance.percent(60) => {
                let offset = chance.below(size / pitch + 1) * pitch;
                self.emit(&Op::Lseek {
                    fd,
                    offset: offset as i64,
                    whence: Whence::Set,
                });
                self.emit(&Op::Write {
                    fd,
                    bytes: vec![0; 8],
                    by: Writer::Itself,
                });
            }
            // Most damage to a file without record marks makes all that follows undecodable, and so
            // the comparison of rows weaker; content is overwritten more often than not.
            Shape::Variable { .. } if chance.percent(80) => {
                let rows = crate::decode(self.shape, &self.content(fd)).rows;
                let Some((&address, record)) =
                    rows.iter().nth(chance.below(rows.len() as u64) as usize)
                else {
                    return;
                };
                let Shape::Variable { varseq_format, .. } = self.shape else {
                    return;
                };
                let prefix = if varseq_format == 3 { 2 } else { 4 };
                let from = chance.below(record.len() as u64);
                let len = 1 + chance.below(record.len() as u64 - from);
                let bytes = chance.bytes(len as usize);
                self.emit(&Op::Pwrite {
                    fd,
                    offset: address + prefix + from,
                    bytes,
                    in_thread: false,
                });
            }
            _ => {
                let offset = chance.below(size + pitch + 3);
                let len = 1 + chance.below(2 * pitch + 40) as usize;
                let mut bytes = if self.shape == Shape::Lines {
                    chance.text(len)
                } else {
                    chance.bytes(len)
                };
                if self.shape == Shape::Lines && chance.percent(50) {
                    let at = chance.below(len as u64) as usize;
                    bytes[at] = b'\n';
                }
                if chance.percent(10) {
                    bytes.fill(0);
                }
                self.emit(&Op::Pwrite {
                    fd,
                    offset,
                    bytes,
                    in_thread: false,
                });
            }
        }
    }

    fn cut(&mut self, chance: &mut Chance) {
        let fd = self.descriptor(chance);
        let size = self.disk.size(fd);
        let pitch = self.shape.pitch();
        let len = match self.shape {
            Shape::Variable { .. } => {
                let rows = crate::decode(self.shape, &self.content(fd)).rows;
                let addresses: Vec<u64> = rows.into_keys().collect();
                if addresses.is_empty() {
                    0
                } else {
                    *chance.pick(&addresses)
                }
            }
            _ if chance.percent(25) => chance.below(size + pitch),
            _ => chance.below(size / pitch + 2) * pitch,
        };
        if chance.percent(30) {
            self.emit(&Op::Truncate {
                path: (*chance.pick(self.names)).to_owned(),
                len,
            });
        } else {
            self.emit(&Op::Ftruncate { fd, len });
        }
    }

    /// A new file is written beside and takes the name of an old one.
    fn replace(&mut self, chance: &mut Chance) {
        let fd = self.fresh_fd();
        self.emit(&Op::Open {
            fd,
            path: self.outside.to_owned(),
            flags: "wct",
        });
        for _ in 0..1 + chance.below(5) {
            let bytes = self.shape.record(chance);
            self.emit(&Op::Write {
                fd,
                bytes,
                by: Writer::Itself,
            });
        }
        if chance.percent(50) {
            self.emit(&Op::Close { fd });
        }
        self.emit(&Op::Rename {
            from: self.outside.to_owned(),
            to: (*chance.pick(self.names)).to_owned(),
        });
    }

    fn content(&self, fd: u32) -> Vec<u8> {
        self.disk.content(fd).unwrap_or_default().to_vec()
    }
}
