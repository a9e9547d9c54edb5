//! The GGUF format (versions 2 and 3, little-endian): metadata, tensor infos and ranges, all checked against the file.
//!
//! Must not allocate by what a file claims, map files into memory, or know what a tensor or a key is for.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use crate::opened::Opened;

mod element;
mod metadata;
mod reader;

pub use element::Element;
pub use metadata::{Array, Metadata, Value};

/// What a file may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest file, in bytes.
    pub file_bytes: u64,
    /// The longest header: metadata and tensor infos, in bytes.
    pub header_bytes: u64,
    /// The most metadata keys.
    pub keys: u64,
    /// The most tensors.
    pub tensors: u64,
    /// The longest text, in bytes.
    pub text_bytes: u64,
}

impl Default for Limits {
    /// For language models: headers up to 256 MiB (a vocabulary of a quarter million tokens takes 10).
    fn default() -> Self {
        Self {
            file_bytes: 1 << 40,
            header_bytes: 256 << 20,
            keys: 1 << 16,
            tensors: 1 << 16,
            text_bytes: 8 << 20,
        }
    }
}

/// The header of one file, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The format's version, 2 or 3.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its elements are stored.
    pub element: Element,
    /// Its dimensions, outermost first (the file lists them innermost first): a linear is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// Its bytes, from the start of the file.
    pub range: Range<u64>,
}

/// Why a file is not read. The message names the key or tensor; the file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GgufError {
    #[error("size: the file has {bytes} bytes, at most {limit} are read")]
    FileTooLarge { bytes: u64, limit: u64 },
    #[error("not a GGUF file: it begins with {0:02x?}, expected \"GGUF\"")]
    Magic([u8; 4]),
    #[error("GGUF version {0}: expected 2 or 3, little-endian")]
    Version(u32),
    #[error("header: truncated: {what} needs {needed} bytes at offset {at}, the file has {file}")]
    Truncated { what: &'static str, needed: u64, at: u64, file: u64 },
    #[error("header: more than {limit} bytes of metadata and tensor infos")]
    HeaderTooLarge { limit: u64 },
    #[error("header: {count} {what}, at most {limit} are read")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error("header: a text of {length} bytes at offset {at}, at most {limit} are read")]
    TextTooLong { length: u64, at: u64, limit: u64 },
    #[error("header: the text at offset {at} is not UTF-8")]
    TextNotUtf8 { at: u64 },
    #[error("key {key:?}: value type {got} is not one that the format knows")]
    UnknownValueType { key: String, got: u32 },
    #[error("key {key:?}: an array of arrays is not supported")]
    NestedArray { key: String },
    #[error("key {key:?}: a bool of {got}, expected 0 or 1")]
    NotABool { key: String, got: u8 },
    #[error("key {0:?} is a duplicate")]
    DuplicateKey(String),
    #[error("key {0:?} is missing")]
    MissingKey(String),
    #[error("key {key:?}: expected {expected}, got {got}")]
    WrongType { key: String, expected: &'static str, got: String },
    #[error("general.alignment: expected a power of two from 8 to 65536, got {0}")]
    Alignment(u64),
    #[error("tensor {0:?} is a duplicate")]
    DuplicateTensor(String),
    #[error("tensor {tensor:?}: {got} dimensions, expected 1 to 4")]
    Dimensions { tensor: String, got: u32 },
    #[error("tensor {tensor:?}: element type {got} is not supported; supported are {supported}")]
    UnsupportedElement { tensor: String, got: String, supported: String },
    #[error(
        "tensor {tensor:?}: shape {shape:?}: the size overflows 64 bits or rows are no whole blocks of {block}"
    )]
    Shape { tensor: String, shape: Vec<u64>, block: u64 },
    #[error("tensor {tensor:?}: offset {offset} is no multiple of the alignment {alignment}")]
    UnalignedOffset { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "tensor {tensor:?}: offset {offset} and size {size} end beyond the data of {data} bytes: truncated"
    )]
    BeyondFile { tensor: String, offset: u64, size: u64, data: u64 },
    #[error("tensor {second:?}: its bytes overlap those of tensor {first:?}")]
    Overlap { first: String, second: String },
    #[error("split.count: {0} files, expected 1: join them with gguf-split --merge")]
    Split(u32),
    #[error("reading: {0}")]
    Io(#[from] std::io::Error),
}

impl Header {
    /// Reads and checks the header of a file of `file_bytes` bytes from its start.
    ///
    /// # Errors
    /// Every way in which header and file can disagree, see [`GgufError`].
    pub fn read(reader: impl Read, file_bytes: u64, limits: &Limits) -> Result<Self, GgufError> {
        reader::read(reader, file_bytes, limits)
    }
}

/// One open file and its header.
pub type GgufFile = Opened<Header>;

impl GgufFile {
    /// Opens `path` and checks its header.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, GgufError> {
        Self::with(path, |file, bytes| Header::read(BufReader::with_capacity(1 << 16, file), bytes, limits))
    }

    /// Its keys and values.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        &self.header().metadata
    }
}

#[cfg(test)]
mod tests;
