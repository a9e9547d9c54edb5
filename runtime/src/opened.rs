//! An open file whose header was checked: what is read later is of the file that was looked at. Must not know a format.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A file and the header of its format.
#[derive(Debug)]
pub struct Opened<H> {
    path: PathBuf,
    file: File,
    bytes: u64,
    header: H,
}

impl<H> Opened<H> {
    /// Opens `path`; `read` makes the header of the file and its length.
    ///
    /// # Errors
    /// When it cannot be opened, or `read` refuses it.
    pub fn with<E: From<io::Error>>(
        path: &Path,
        read: impl FnOnce(&File, u64) -> Result<H, E>,
    ) -> Result<Self, E> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let header = read(&file, bytes)?;
        Ok(Self { path: path.to_owned(), file, bytes, header })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &H {
        &self.header
    }

    /// Reads the bytes `range` of the file into `buffer`, which takes their length.
    ///
    /// # Errors
    /// When the file has become shorter since it was opened, or the disk fails.
    pub fn read_range(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> io::Result<()> {
        let range = range.start..range.end.min(self.bytes);
        buffer.resize(range.end.saturating_sub(range.start) as usize, 0);
        self.file.read_exact_at(buffer, range.start)
    }
}
