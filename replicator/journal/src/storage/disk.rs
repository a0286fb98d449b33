//! A directory on a real disk.
//!
//! Files belong to their owner alone (0600, a new directory 0700). Open files are kept, a bounded number of them, so an
//! append or a read is one system call.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Storage;

/// How many files are kept open for each of reading and writing. The writer needs one, each reader one.
const OPEN_FILES_MAX: usize = 16;

/// A directory on a real disk.
#[derive(Debug)]
pub struct DiskStorage {
    path: PathBuf,
    directory: File,
    writers: OpenFiles,
    readers: OpenFiles,
}

impl DiskStorage {
    /// Opens a directory, creating it and its parents (0700) if it is not there.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<DiskStorage> {
        let path = path.into();
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
            // The new name is durable only once its parent is.
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        Self::open_existing(path)
    }

    /// Opens a directory that must be there, for example to look at another process's journal.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open_existing(path: impl Into<PathBuf>) -> io::Result<DiskStorage> {
        let path = path.into();
        let directory = File::open(&path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(DiskStorage {
            path,
            directory,
            writers: OpenFiles::default(),
            readers: OpenFiles::default(),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a plain file name",
            ));
        }
        Ok(self.path.join(name))
    }

    fn writer(&self, name: &str) -> io::Result<Arc<File>> {
        self.writers.get(name, || {
            OpenOptions::new().append(true).open(self.file(name)?)
        })
    }

    fn forget(&self, name: &str) {
        self.writers.forget(name);
        self.readers.forget(name);
    }
}

impl Storage for DiskStorage {
    fn create(&self, name: &str) -> io::Result<()> {
        let path = self.file(name)?;
        self.forget(name);
        // A new inode, since a failed sync may have left the old one's pages in a state nobody knows.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        self.writers.put(name, file);
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        (&*self.writer(name)?).write_all(bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.writer(name)?.sync_data()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.readers.get(name, || File::open(self.file(name)?))?;
        loop {
            match file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) if !buffer.is_empty() => {
                    // Another process may have put a new file in this one's place; the next read finds it.
                    self.readers.forget(name);
                    return Ok(0);
                }
                result => return result,
            }
        }
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.file(name)?)?.len())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.writer(name)?.set_len(len)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of the journal's.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.forget(name);
        fs::remove_file(self.file(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        let renamed = fs::rename(self.file(from)?, self.file(to)?);
        // A reader may have opened the old file of that name just before.
        self.forget(to);
        renamed
    }
}

/// Open files by name; the one used longest ago is closed first.
#[derive(Debug, Default)]
struct OpenFiles(Mutex<Vec<(String, Arc<File>)>>);

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, Arc<File>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        let mut files = self.lock();
        if let Some(index) = files.iter().position(|(known, _)| known == name) {
            let file = Arc::clone(&files[index].1);
            files[index..].rotate_left(1);
            return Ok(file);
        }
        // Opened under the lock: otherwise a rename in between could leave the old file here under the new name.
        let file = Arc::new(open()?);
        Self::keep(&mut files, name, Arc::clone(&file));
        Ok(file)
    }

    fn put(&self, name: &str, file: File) {
        Self::keep(&mut self.lock(), name, Arc::new(file));
    }

    fn keep(files: &mut Vec<(String, Arc<File>)>, name: &str, file: Arc<File>) {
        if files.len() >= OPEN_FILES_MAX {
            files.remove(0);
        }
        files.push((name.to_owned(), file));
    }

    fn forget(&self, name: &str) {
        self.lock().retain(|(known, _)| known != name);
    }
}
