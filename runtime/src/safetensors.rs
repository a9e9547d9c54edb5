//! The safetensors format, read strictly: the header is proved consistent with the file before a tensor is touched.
//!
//! Must not allocate by what a file claims, map files into memory, or know what the tensors are for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::opened::Opened;

mod check;
mod json;

/// What a file may ask for. The caller knows what is reasonable for a model and for an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest file, in bytes.
    pub file_bytes: u64,
    /// The longest header, in bytes.
    pub header_bytes: u64,
    /// The most tensors.
    pub tensors: usize,
}

/// The header of one file, checked: the tensors tile the data exactly, each as long as its shape and dtype say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The free-form `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its elements.
    pub dtype: TensorDtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes, from the start of the file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The element types that the format knows. Weights come as F32, F16 or BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub enum TensorDtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

/// Every dtype with the name that the format gives it and its bytes an element.
const DTYPES: [(TensorDtype, &str, u64); 15] = [
    (TensorDtype::Bool, "BOOL", 1),
    (TensorDtype::U8, "U8", 1),
    (TensorDtype::I8, "I8", 1),
    (TensorDtype::F8E5M2, "F8_E5M2", 1),
    (TensorDtype::F8E4M3, "F8_E4M3", 1),
    (TensorDtype::I16, "I16", 2),
    (TensorDtype::U16, "U16", 2),
    (TensorDtype::F16, "F16", 2),
    (TensorDtype::Bf16, "BF16", 2),
    (TensorDtype::I32, "I32", 4),
    (TensorDtype::U32, "U32", 4),
    (TensorDtype::F32, "F32", 4),
    (TensorDtype::F64, "F64", 8),
    (TensorDtype::I64, "I64", 8),
    (TensorDtype::U64, "U64", 8),
];

impl TensorDtype {
    fn named(name: &str) -> Option<Self> {
        DTYPES.iter().find(|(_, known, _)| *known == name).map(|(dtype, _, _)| *dtype)
    }

    fn entry(self) -> (&'static str, u64) {
        DTYPES.iter().find(|(dtype, _, _)| *dtype == self).map_or(("?", 1), |(_, name, size)| (*name, *size))
    }

    /// Bytes an element.
    #[must_use]
    pub fn size(self) -> u64 {
        self.entry().1
    }
}

impl fmt::Display for TensorDtype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.entry().0)
    }
}

/// Why a file is not read. The message names the tensor and both numbers; the file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SafetensorsError {
    #[error("size: the file has {bytes} bytes, at most {limit} are read")]
    FileTooLarge { bytes: u64, limit: u64 },
    #[error(
        "header: the file is empty or truncated: {bytes} bytes are too small for the 8 bytes of the header length"
    )]
    TooSmall { bytes: u64 },
    #[error("header length: {length} bytes, but only {available} bytes follow in the file")]
    HeaderBeyondFile { length: u64, available: u64 },
    #[error("header length: {length} bytes, at most {limit} are read")]
    HeaderTooLarge { length: u64, limit: u64 },
    #[error("header: not the JSON of safetensors: {0}")]
    HeaderJson(String),
    #[error("header: the tensor name {0:?} is a duplicate")]
    DuplicateName(String),
    #[error("header: more than {limit} tensors")]
    TooManyTensors { limit: usize },
    #[error("tensor {tensor:?}: dtype {dtype:?} is not one that the format knows")]
    UnknownDtype { tensor: String, dtype: String },
    #[error("tensor {tensor:?}: shape {shape:?}: the size overflows 64 bits")]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    #[error("tensor {tensor:?}: shape of {dimensions} dimensions, at most {limit} are read")]
    TooManyDimensions { tensor: String, dimensions: usize, limit: usize },
    #[error("tensor {tensor:?}: data offsets reversed: begin {begin}, end {end}")]
    OffsetsReversed { tensor: String, begin: u64, end: u64 },
    #[error(
        "tensor {tensor:?}: data offsets end at {end}, but the size of the data is {data}: truncated, or not its header"
    )]
    OffsetsBeyondFile { tensor: String, end: u64, data: u64 },
    #[error(
        "tensor {tensor:?}: shape {shape:?} of {dtype} has a size of {expected} bytes, the offsets span {got}"
    )]
    ShapeAndOffsetsDiffer { tensor: String, shape: Vec<u64>, dtype: TensorDtype, expected: u64, got: u64 },
    #[error("tensor {second:?}: its data offsets overlap those of tensor {first:?}")]
    Overlap { first: String, second: String },
    #[error(
        "tensor {tensor:?}: data offsets begin at {begin}, expected {expected}: bytes that no tensor covers"
    )]
    Hole { tensor: String, begin: u64, expected: u64 },
    #[error("size: the tensors cover {covered} bytes of data, the file has {data}: trailing bytes")]
    TrailingBytes { covered: u64, data: u64 },
    #[error("tensor {0:?}: not in the file")]
    NoSuchTensor(String),
    #[error("reading: {0}")]
    Io(#[from] std::io::Error),
}

impl Header {
    /// Reads and checks the header of a file of `file_bytes` bytes from its start. Takes no more of `reader` than the header.
    ///
    /// # Errors
    /// Every way in which header and file can disagree, see [`SafetensorsError`]. Nothing is allocated by a size that
    /// only the file claims.
    pub fn read(reader: &mut impl Read, file_bytes: u64, limits: &Limits) -> Result<Self, SafetensorsError> {
        if file_bytes > limits.file_bytes {
            return Err(SafetensorsError::FileTooLarge { bytes: file_bytes, limit: limits.file_bytes });
        }
        if file_bytes < 8 {
            return Err(SafetensorsError::TooSmall { bytes: file_bytes });
        }
        let mut length = [0; 8];
        reader.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        let available = file_bytes - 8;
        if length > available {
            return Err(SafetensorsError::HeaderBeyondFile { length, available });
        }
        if length > limits.header_bytes {
            return Err(SafetensorsError::HeaderTooLarge { length, limit: limits.header_bytes });
        }
        let mut json = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut json)?;
        if (json.len() as u64) < length {
            return Err(SafetensorsError::HeaderBeyondFile { length, available: json.len() as u64 });
        }
        let raw = json::parse(&json, limits.tensors)?;
        check::check(raw, 8 + length, available - length)
    }

    /// The same of a whole file in memory.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn parse(file: &[u8], limits: &Limits) -> Result<Self, SafetensorsError> {
        let mut reader = file;
        Self::read(&mut reader, file.len() as u64, limits)
    }
}

/// One open file and its header.
pub type SafetensorsFile = Opened<Header>;

impl SafetensorsFile {
    /// Opens `path` and checks its header.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, SafetensorsError> {
        Self::with(path, |mut file, bytes| Header::read(&mut file, bytes, limits))
    }
}

#[cfg(test)]
mod tests;
