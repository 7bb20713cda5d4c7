//! A read-only memory map of one file, the only place of this crate with `unsafe`.
//! It also gives pages back to the system once their bytes have been packed elsewhere.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

/// One file, mapped whole and read only. No page is read before it is touched.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    #[expect(
        unsafe_code,
        reason = "memory mapping: a model must not be copied into anonymous memory to be read"
    )]
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // SAFETY: the map is read only and never handed out mutably. Whoever rewrites a model file in place
        // while a node serves it breaks that node; the parsers re-check nothing that they already read.
        let map = unsafe { MmapOptions::new().map(&file)? };
        Ok(Self { file, map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The open file, for streaming reads that should not grow this process's resident memory.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Tells the system that the pages of `range` are not needed for now, and whatever else it may have mapped together
    /// with the first and last of them. They are read from the file again if touched again, so this only ever costs time.
    #[expect(
        unsafe_code,
        reason = "madvise(DONTNEED): keeps resident memory at the size of the packed weights"
    )]
    pub fn release(&self, range: Range<usize>) -> io::Result<()> {
        let range = range.start.min(self.map.len())..range.end.min(self.map.len());
        if range.is_empty() {
            return Ok(());
        }
        let range =
            range.start / TOGETHER * TOGETHER..range.end.next_multiple_of(TOGETHER).min(self.map.len());
        // SAFETY: the mapping is shared with the file and never written, so dropped pages come
        // back with the same bytes.
        unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.end - range.start)
        }
    }
}

/// A page that is touched comes with as many bytes around it as the system's cache holds in one piece, up to a huge page.
/// So a vector between two released matrices brings a megabyte of them back.
const TOGETHER: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_leave_with_their_neighbours_and_come_back_with_the_same_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..4 * TOGETHER + 100).map(|at| (at / 4096) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        assert!(mapped.bytes() == bytes);
        assert!(resident(file.path()) >= 4 * TOGETHER as u64);
        mapped.release(TOGETHER + 5000..3 * TOGETHER - 5000).unwrap();
        assert!(resident(file.path()) <= 2 * TOGETHER as u64 + 4096);
        mapped.release(0..usize::MAX).unwrap();
        assert_eq!(resident(file.path()), 0);
        assert!(mapped.bytes() == bytes);
    }

    /// Bytes of the file that this process has mapped pages of.
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
        let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}
