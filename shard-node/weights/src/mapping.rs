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

    /// Tells the system that the pages of `range` are not needed for now. They are read from the
    /// file again if touched again, so this only ever costs time.
    #[expect(
        unsafe_code,
        reason = "madvise(DONTNEED): keeps resident memory at the size of the packed weights"
    )]
    pub fn release(&self, range: Range<usize>) -> io::Result<()> {
        let range = range.start.min(self.map.len())..range.end.min(self.map.len());
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the mapping is shared with the file and never written, so dropped pages come
        // back with the same bytes.
        unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.end - range.start)
        }
    }
}
