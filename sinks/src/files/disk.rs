//! The only door to the mirrored files.
//!
//! Paths are those of the production host; each is walked from the root directory on, name by name, and never through a link: a
//! link of a mirrored tree leads somewhere on *that* host, not on this one. Everything that changes something is a step, so that
//! tests can end the world before, within and after each.

use crate::{Attributes, FileKind};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fallocate,
    ftruncate, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, pwrite};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// The name under which a file is made before it gets its own.
pub(super) const NEW: &[u8] = b".counterfoil-new";

/// Up to so many zeros are written; more are made a hole.
const ZEROS_WRITTEN_MAX: u64 = 64 * 1024;

/// Directories held open.
const DIRECTORIES_MAX: usize = 64;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `None`: neither a regular file nor a directory nor a link.
    pub(super) kind: Option<FileKind>,
    pub(super) inode: u64,
    pub(super) size: u64,
}

/// Is told before each change, and may end it.
pub(super) type Steps = Box<dyn FnMut(&'static str) -> io::Result<()> + Send>;

/// The mirrored files.
pub(super) struct Disk {
    root: Arc<File>,
    device: u64,
    /// Nothing keeps this process out, and it may give files away.
    pub(super) is_superuser: bool,
    directories: HashMap<Vec<u8>, Arc<File>>,
    /// Permissions that were changed to get at something, to be given back.
    loosened: Vec<(Vec<u8>, u32)>,
    /// Permissions of files that are made are left to the umask.
    pub(super) are_modes_usual: bool,
    pub(super) steps: Option<Steps>,
}

type Result<T, E = io::Error> = std::result::Result<T, E>;

/// The directory of a path, and its last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

impl Disk {
    pub(super) fn new(root: File) -> Result<Disk> {
        let device = root.metadata()?.dev();
        Ok(Disk {
            root: Arc::new(root),
            device,
            is_superuser: rustix::process::geteuid().is_root(),
            directories: HashMap::new(),
            loosened: Vec::new(),
            are_modes_usual: false,
            steps: None,
        })
    }

    pub(super) fn step(&mut self, doing: &'static str) -> Result<()> {
        self.steps.as_mut().map_or(Ok(()), |steps| steps(doing))
    }

    /// Forgets which directories are where.
    pub(super) fn forget(&mut self) {
        self.directories.clear();
    }

    /// A directory by its path without the first slash; made with those that it is in, if asked for.
    fn directory(&mut self, path: &[u8], make: bool) -> Result<Arc<File>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(known) = self.directories.get(path) {
            return Ok(Arc::clone(known));
        }
        let (parent, name) = split(path);
        let above = self.directory(parent, make)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(&*above, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                self.step("mkdir")?;
                match mkdirat(&*above, name, Mode::from_bits_truncate(0o777)) {
                    Err(Errno::ACCESS) if !self.is_superuser => {
                        self.loosen(parent)?;
                        mkdirat(&*above, name, Mode::from_bits_truncate(0o777))?;
                    }
                    made => made?,
                }
                openat(&*above, name, flags, Mode::empty())?
            }
            Err(Errno::ACCESS) if !self.is_superuser => {
                self.loosen(path)?;
                openat(&*above, name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        if self.directories.len() >= DIRECTORIES_MAX {
            self.directories.clear();
        }
        let opened = Arc::new(File::from(opened));
        self.directories.insert(path.to_vec(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Lets the owner do everything with what is at a path, until [`Disk::tighten`].
    fn loosen(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Err(Errno::ACCESS.into());
        }
        let held = self.hold(path)?;
        let found = held.look()?;
        let mode = found.st_mode & 0o7777;
        if is_link(&found) || mode & 0o700 == 0o700 {
            return Err(Errno::ACCESS.into());
        }
        self.step("chmod")?;
        held.chmod(mode | 0o700)?;
        self.loosened.push((path.to_vec(), mode));
        Ok(())
    }

    /// Gives back the permissions that were in the way.
    pub(super) fn tighten(&mut self) -> Result<()> {
        while let Some((path, mode)) = self.loosened.pop() {
            match self.hold(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                held => {
                    let held = held?;
                    // Somebody's link that is there now has none.
                    if !is_link(&held.look()?) {
                        held.chmod(mode)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gets hold of what is at a path, whatever it is, and without the right to read it: what is done to it then is done to
    /// just that, and not to what somebody puts in its place.
    fn hold(&mut self, path: &[u8]) -> Result<Held<'static>> {
        let (parent, name) = split(path);
        let above = self.directory(parent, false)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Held::Path(openat(&*above, name, flags, Mode::empty())?))
    }

    /// Does something in the directory of a path, which is made if it isn't there.
    fn within<T>(
        &mut self,
        path: &[u8],
        make: bool,
        mut act: impl FnMut(&File, &[u8]) -> Result<T, Errno>,
    ) -> Result<T> {
        let (parent, name) = split(path);
        let above = self.directory(parent, make)?;
        match act(&above, name) {
            Err(Errno::ACCESS) if !self.is_superuser => {
                self.loosen(parent)?;
                Ok(act(&above, name)?)
            }
            done => Ok(done?),
        }
    }

    /// What is at a path, if anything is. What isn't reached without going through a link isn't there.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let found = self.within(path, false, |above, name| {
            statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        match found {
            Ok(found) => Ok(Some(Found {
                kind: match FileType::from_raw_mode(found.st_mode) {
                    FileType::RegularFile => Some(FileKind::Regular),
                    FileType::Directory => Some(FileKind::Directory),
                    FileType::Symlink => Some(FileKind::Link),
                    _ => None,
                },
                inode: found.st_ino,
                size: u64::try_from(found.st_size).unwrap_or_default(),
            })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading; `None` if there is none.
    pub(super) fn read(&mut self, path: &[u8]) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = self.within(path, false, |above, name| {
            openat(above, name, flags, Mode::empty())
        });
        match opened {
            Ok(opened) => Ok(Some(File::from(opened)).filter(is_regular)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a link leads to; `None` if there is none.
    pub(super) fn read_link(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let read = self.within(path, false, |above, name| {
            rustix::fs::readlinkat(above, name, Vec::new())
        });
        match read {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for writing.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |above: &File, name: &[u8]| openat(above, name, flags, Mode::empty());
        let (parent, name) = split(path);
        let above = self.directory(parent, false)?;
        let opened: OwnedFd = match open(&above, name) {
            Err(Errno::ACCESS) if !self.is_superuser => {
                self.loosen(path.strip_prefix(b"/").unwrap_or(path))?;
                open(&above, name)?
            }
            opened => opened?,
        };
        let opened = File::from(opened);
        if !is_regular(&opened) {
            return Err(Errno::NOENT.into());
        }
        Ok(opened)
    }

    /// Makes a regular file beside its place, which it gets with [`Disk::place`].
    pub(super) fn make(&mut self, path: &[u8]) -> Result<File> {
        self.step("create")?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if self.are_modes_usual { 0o666 } else { 0o600 };
        let opened = self.within(path, true, |above, _| {
            remove_leftover(above)?;
            openat(above, NEW, flags, Mode::from_bits_truncate(mode))
        })?;
        Ok(File::from(opened))
    }

    /// Makes a link beside its place.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.step("symlink")?;
        self.within(path, true, |above, _| {
            remove_leftover(above)?;
            symlinkat(target, above, NEW)
        })
    }

    /// Gives what was made beside a place this place.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<()> {
        self.step("place")?;
        self.within(path, true, |above, name| renameat(above, NEW, above, name))
    }

    /// Makes a directory, unless it is there.
    pub(super) fn make_directory(&mut self, path: &[u8]) -> Result<()> {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.directory(path, true).map(drop)
    }

    /// Removes a file or link. A directory in its place, or nothing, means that it was done before.
    pub(super) fn unlink(&mut self, path: &[u8]) -> Result<()> {
        self.step("unlink")?;
        let done = self.within(path, false, |above, name| {
            match unlinkat(above, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) if is_directory(above, name) => Ok(()),
                done => done,
            }
        });
        done.or_else(|error| {
            if is_missing(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })
    }

    /// Removes a directory, unless there is something in it that isn't ours. Says whether it is gone.
    pub(super) fn remove_directory(&mut self, path: &[u8]) -> Result<bool> {
        self.step("rmdir")?;
        self.directories.clear();
        let done = self.within(path, false, |above, name| {
            unlinkat(above, name, AtFlags::REMOVEDIR)
        });
        match done {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(true),
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::NOTEMPTY | Errno::EXIST)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the file with this inode another name, if it has the old one still.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8], inode: u64) -> Result<()> {
        if self.find(to)?.is_some_and(|found| found.inode == inode)
            || self.find(from)?.is_none_or(|found| found.inode != inode)
        {
            return Ok(());
        }
        self.step("rename")?;
        let (from_parent, from_name) = split(from);
        let from_above = self.directory(from_parent, false)?;
        let mut moved = self.within(to, true, |above, name| {
            renameat(&*from_above, from_name, above, name)
        });
        if !self.is_superuser
            && let Err(error) = &moved
            && error.raw_os_error() == Some(Errno::ACCESS.raw_os_error())
        {
            self.loosen(from_parent)?;
            moved = self.within(to, true, |above, name| {
                renameat(&*from_above, from_name, above, name)
            });
        }
        moved
    }

    /// Writes all of some bytes.
    pub(super) fn write(&mut self, file: &File, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.step("write") {
            // Torn: as much of it as a process that is killed may have written.
            let _ = file.write_all_at(&bytes[..bytes.len() / 2], offset);
            return Err(error);
        }
        file.write_all_at(bytes, offset)
    }

    /// Makes a range zero, as far as it is in the file.
    pub(super) fn zero(&mut self, file: &File, from: u64, to: u64) -> Result<()> {
        let to = to.min(file.metadata()?.len());
        if from >= to {
            return Ok(());
        }
        self.step("zero")?;
        if to - from > ZEROS_WRITTEN_MAX {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(file, flags, from, to - from) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                done => return Ok(done?),
            }
        }
        let zeros = vec![0; ZEROS_WRITTEN_MAX as usize];
        let mut at = from;
        while at < to {
            let len = (to - at).min(ZEROS_WRITTEN_MAX) as usize;
            match pwrite(file, &zeros[..len], at) {
                Ok(written) => at += written as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Cuts a file off, or lets it grow, to this size.
    pub(super) fn resize(&mut self, file: &File, size: u64) -> Result<()> {
        if file.metadata()?.len() == size {
            return Ok(());
        }
        self.step("truncate")?;
        Ok(ftruncate(file, size)?)
    }

    /// Makes a file's content durable.
    pub(super) fn sync(&mut self, file: &File) -> Result<()> {
        self.step("fsync")?;
        Ok(rustix::fs::fdatasync(file)?)
    }

    /// Makes the names in a directory durable, if that is still there; `elsewhere`: only if it isn't on the root's file
    /// system.
    pub(super) fn sync_directory(&mut self, path: &[u8], elsewhere: bool) -> Result<()> {
        self.step("fsync")?;
        match self.directory(path, false) {
            Ok(directory) if elsewhere && self.is_on_device(&directory)? => Ok(()),
            Ok(directory) => Ok(rustix::fs::fsync(&*directory)?),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes everything on the root's file system durable.
    pub(super) fn sync_all(&mut self) -> Result<()> {
        self.step("syncfs")?;
        Ok(rustix::fs::syncfs(&*self.root)?)
    }

    /// Whether a file is on the root's file system.
    pub(super) fn is_on_device(&self, file: &File) -> Result<bool> {
        Ok(file.metadata()?.dev() == self.device)
    }

    /// Gives what is at a path the attributes that are known of it, as far as that is permitted.
    pub(super) fn set_attributes(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.step("attributes")?;
        let held = self.hold(path)?;
        self.give_attributes(&held, attributes)?;
        if attributes.mode.is_some() {
            let path = path.strip_prefix(b"/").unwrap_or(path);
            self.loosened.retain(|(loosened, _)| loosened != path);
        }
        Ok(())
    }

    /// The same of a file that is open.
    pub(super) fn set_attributes_of(&mut self, file: &File, attributes: &Attributes) -> Result<()> {
        self.step("attributes")?;
        self.give_attributes(&Held::Open(file), attributes)
    }

    fn give_attributes(&self, held: &Held<'_>, attributes: &Attributes) -> Result<()> {
        let found = held.look()?;
        let is_to_be_link = attributes.kind == Some(FileKind::Link);
        if is_link(&found) != is_to_be_link {
            return Err(if is_to_be_link {
                Errno::EXIST.into()
            } else {
                Errno::LOOP.into()
            });
        }
        let owner = attributes.uid.zip(attributes.gid);
        let mut is_owner_given = false;
        if let Some((uid, gid)) = owner.filter(|_| self.is_superuser) {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            match rustix::fs::chownat(held, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
                Ok(()) => is_owner_given = true,
                // A root that isn't quite one: in a container, or of a file system elsewhere.
                Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Behind the owner: a change of that takes set-user-id bits away. A link's permissions mean nothing.
        if let Some(mode) = attributes.mode.filter(|_| !is_to_be_link) {
            let is_own = is_owner_given || owner == Some((found.st_uid, found.st_gid));
            // Whoever runs as somebody by this file must not become somebody else.
            held.chmod(mode & if is_own { 0o7777 } else { 0o1777 })?;
        }
        if let Some(modified_ns) = attributes.modified_ns {
            let modified = Timespec {
                tv_sec: modified_ns.div_euclid(1_000_000_000),
                tv_nsec: modified_ns.rem_euclid(1_000_000_000),
            };
            let times = Timestamps {
                last_access: modified,
                last_modification: modified,
            };
            held.set_times(&times)?;
        }
        Ok(())
    }
}

/// Something that attributes are given to, by its descriptor: a name may lead elsewhere a moment later.
enum Held<'f> {
    /// It is open to read or write.
    Open(&'f File),
    /// It may be anything, a link as well.
    Path(OwnedFd),
}

impl AsFd for Held<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Open(file) => file.as_fd(),
            Held::Path(held) => held.as_fd(),
        }
    }
}

impl Held<'_> {
    fn look(&self) -> Result<Stat> {
        Ok(rustix::fs::fstat(self)?)
    }

    fn chmod(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        match self {
            Held::Open(file) => Ok(rustix::fs::fchmod(file, mode)?),
            Held::Path(_) => self.through_proc(|name| rustix::fs::chmod(name, mode)),
        }
    }

    fn set_times(&self, times: &Timestamps) -> Result<()> {
        match self {
            Held::Open(file) => Ok(rustix::fs::futimens(file, times)?),
            Held::Path(_) => {
                self.through_proc(|name| rustix::fs::utimensat(CWD, name, times, AtFlags::empty()))
            }
        }
    }

    /// What `fchmod` and `futimens` don't do to a descriptor that is open for nothing can be done by its name in `/proc`.
    fn through_proc(&self, act: impl FnOnce(&str) -> Result<(), Errno>) -> Result<()> {
        let name = format!("/proc/self/fd/{}", self.as_fd().as_raw_fd());
        act(&name).map_err(|error| match error {
            Errno::NOENT => {
                io::Error::other("there is no /proc, which permissions are set through")
            }
            error => error.into(),
        })
    }
}

fn is_link(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Symlink
}

/// Gives what was made beside its place its attributes before it gets there.
pub(super) fn beside(path: &[u8]) -> Vec<u8> {
    let (parent, _) = split(path);
    [parent, b"/", NEW].concat()
}

/// The directory that a path is in, without the first slash.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    split(path).0
}

fn remove_leftover(above: &File) -> Result<(), Errno> {
    match unlinkat(above, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_directory(above: &File, name: &[u8]) -> bool {
    statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    )
}
