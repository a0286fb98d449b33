//! The content of a file, holes left out: files of many gigabytes that are mostly holes are cheap.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const PAGE: u64 = 4096;

/// Bytes with a size. Pages of zeros take no room, whether they are holes or were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    size: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Image {
    /// What a file holds.
    pub fn read(path: &Path) -> Result<Image> {
        let reading = || format!("reading {}", path.display());
        let file = std::fs::File::open(path).with_context(reading)?;
        let size = file.metadata().with_context(reading)?.len();
        let mut image = Image::default();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while let Some(data) = data_from(&file, at).with_context(reading)? {
            at = data.start;
            while at < data.end {
                let wanted = (data.end - at).min(buffer.len() as u64) as usize;
                let taken = file
                    .read_at(&mut buffer[..wanted], at)
                    .with_context(reading)?;
                if taken == 0 {
                    break;
                }
                image.put(at, &buffer[..taken]);
                at += taken as u64;
            }
            at = data.end;
        }
        image.set_size(size);
        Ok(image)
    }

    /// Bytes of it, with holes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes bytes at an offset; the image grows where they end behind it.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, from) = (at / PAGE, (at % PAGE) as usize);
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - from));
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| vec![0; PAGE as usize]);
            page[from..from + now.len()].copy_from_slice(now);
            if page.iter().all(|&byte| byte == 0) {
                self.pages.remove(&number);
            }
            at += now.len() as u64;
            rest = later;
        }
        self.size = self.size.max(at);
    }

    /// Cuts it, or lets it grow by zeros.
    pub fn set_size(&mut self, size: u64) {
        self.size = size;
        self.pages.retain(|number, _| number * PAGE < size);
        let (last, from) = (size / PAGE, (size % PAGE) as usize);
        if let Some(page) = self.pages.get_mut(&last) {
            page[from..].fill(0);
            if page.iter().all(|&byte| byte == 0) {
                self.pages.remove(&last);
            }
        }
    }

    /// Where two images differ. Where only the sizes do, it is what one has more.
    pub fn differences(&self, other: &Image) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let zeros = vec![0; PAGE as usize];
        let numbers: std::collections::BTreeSet<u64> = self
            .pages
            .keys()
            .chain(other.pages.keys())
            .copied()
            .collect();
        for number in numbers {
            let ours = self.pages.get(&number).unwrap_or(&zeros);
            let theirs = other.pages.get(&number).unwrap_or(&zeros);
            if ours == theirs {
                continue;
            }
            for at in (0..PAGE).filter(|&at| ours[at as usize] != theirs[at as usize]) {
                let at = number * PAGE + at;
                match found.last_mut() {
                    Some(last) if last.end == at => last.end = at + 1,
                    _ => found.push(at..at + 1),
                }
            }
        }
        if self.size != other.size {
            found.push(self.size.min(other.size)..self.size.max(other.size));
        }
        found
    }

    /// The first byte that differs, or by which one is longer.
    pub fn first_difference(&self, other: &Image) -> Option<u64> {
        self.differences(other)
            .iter()
            .map(|range| range.start)
            .min()
    }

    /// The records of a file whose records come in an order that nobody knows: all of them, sorted.
    pub fn sorted(&self, record: usize) -> Image {
        let mut bytes = vec![0; self.size as usize];
        for (number, page) in &self.pages {
            let from = (number * PAGE) as usize;
            let len = page.len().min(bytes.len() - from);
            bytes[from..from + len].copy_from_slice(&page[..len]);
        }
        let mut records: Vec<&[u8]> = bytes.chunks(record).collect();
        records.sort_unstable();
        let mut image = Image::default();
        image.put(0, &records.concat());
        image
    }
}

/// The next stretch of a file that isn't a hole.
fn data_from(file: &std::fs::File, at: u64) -> std::io::Result<Option<Range<u64>>> {
    let seek = |from: u64, whence| {
        // SAFETY: lseek touches no memory, and the descriptor is open.
        let found = unsafe {
            libc::lseek64(
                file.as_raw_fd(),
                i64::try_from(from).unwrap_or(i64::MAX),
                whence,
            )
        };
        match found {
            -1 => match std::io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
            found => Ok(Some(found.cast_unsigned())),
        }
    };
    let Some(start) = seek(at, libc::SEEK_DATA)? else {
        return Ok(None);
    };
    let end = seek(start, libc::SEEK_HOLE)?;
    Ok(end.map(|end| start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_was_put_cut_and_grown() {
        let mut image = Image::default();
        image.put(5000, b"some");
        image.put(4094, b"over a page's end");
        image.set_size(4100);
        image.set_size(10_000);
        let mut same = Image::default();
        same.put(4094, b"over a");
        assert!(image.differences(&same).iter().eq([&(4100..10_000)]));
        same.put(9_999, b"\0");
        assert_eq!(image, same);
        same.put(4095, b"V");
        assert_eq!(image.first_difference(&same), Some(4095));
    }

    #[test]
    fn holes_are_not_read() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(1 << 40)?;
        file.as_file().write_at(b"far out", (1 << 39) + 3)?;
        let image = Image::read(file.path())?;
        assert_eq!(image.size(), 1 << 40);
        let mut same = Image::default();
        same.put((1 << 39) + 3, b"far out");
        same.set_size(1 << 40);
        assert_eq!(image, same);
        Ok(())
    }

    #[test]
    fn sorting_makes_orders_equal() {
        let (mut one, mut other) = (Image::default(), Image::default());
        one.put(0, b"aabbcc");
        other.put(0, b"ccaabb");
        assert_eq!(one.sorted(2), other.sorted(2));
    }
}
