//! The tensors of a model on disk, whichever format: what there is, and one stream over all of it, read once in order.
//!
//! Must not know what a tensor is for.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use lorikeet_kernels::matrix::{BlockType, Dtype};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::gguf::{Element, GgufFile};
use crate::model::load::LoadError;
use crate::safetensors::{SafetensorsFile, TensorDtype};

mod open;

pub use open::FileLimits;
pub(crate) use open::open;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain(Dtype),
    Blocks(BlockType),
}

impl Encoding {
    /// Bytes of a row of `inputs` elements.
    pub(crate) fn row_bytes(self, inputs: usize) -> usize {
        match self {
            Self::Plain(dtype) => inputs * dtype.bytes(),
            Self::Blocks(kind) => inputs / kind.block_len() * kind.block_bytes(),
        }
    }
}

/// One stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub encoding: Encoding,
    /// Outermost first.
    pub shape: Vec<usize>,
}

/// The files that hold a model's weights.
pub(crate) enum Files {
    /// Safetensors, by name, and what else belongs to the model's digest (`config.json`).
    HuggingFace {
        others: Vec<(String, Vec<u8>)>,
        shards: Vec<(String, SafetensorsFile)>,
    },
    Gguf(GgufFile),
}

impl Files {
    /// Every tensor by its name in the files.
    pub(crate) fn tensors(&self) -> Result<BTreeMap<String, Stored>, LoadError> {
        let mut all = BTreeMap::new();
        match self {
            Self::Gguf(file) => {
                for (name, info) in &file.header().tensors {
                    let stored = Stored { encoding: of_element(info.element), shape: info.shape.clone() };
                    all.insert(name.clone(), stored);
                }
            }
            Self::HuggingFace { shards, .. } => {
                for (name, info) in shards.iter().flat_map(|(_, file)| &file.header().tensors) {
                    let encoding = of_dtype(info.dtype).ok_or_else(|| LoadError::Dtype {
                        tensor: name.clone(),
                        dtype: info.dtype.to_string(),
                    })?;
                    let stored = Stored { encoding, shape: info.shape.clone() };
                    if all.insert(name.clone(), stored).is_some() {
                        return Err(LoadError::DuplicateTensor(name.clone()));
                    }
                }
            }
        }
        Ok(all)
    }

    /// The bytes of all weight files together.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.bytes(),
            Self::HuggingFace { shards, .. } => shards.iter().map(|(_, file)| file.bytes()).sum(),
        }
    }

    /// Reads every file once from start to end and hands over each tensor's bytes as they pass by. Returns the digest: a
    /// GGUF file's own, or that of a directory's files in the order of their names.
    pub(crate) fn stream(&self, sink: &mut dyn Sink) -> Result<Digest, LoadError> {
        let mut hash = Sha256::new();
        let mut buffer = Vec::new();
        match self {
            Self::Gguf(file) => {
                let tensors =
                    file.header().tensors.iter().map(|(name, info)| (name.as_str(), info.range.clone()));
                let read = |range: Range<u64>, buffer: &mut Vec<u8>| Ok(file.read_range(range, buffer)?);
                pass_by(file.bytes(), tensors.collect(), &read, &mut hash, &mut buffer, sink)?;
            }
            Self::HuggingFace { others, shards } => {
                let mut names: Vec<(&str, Option<&SafetensorsFile>, &[u8])> =
                    others.iter().map(|(name, content)| (name.as_str(), None, content.as_slice())).collect();
                names.extend(shards.iter().map(|(name, file)| (name.as_str(), Some(file), [].as_slice())));
                names.sort_by_key(|(name, ..)| *name);
                for (name, file, content) in names {
                    let bytes = file.map_or(content.len() as u64, SafetensorsFile::bytes);
                    hash.update((name.len() as u64).to_le_bytes());
                    hash.update(name.as_bytes());
                    hash.update(bytes.to_le_bytes());
                    hash.update(content);
                    let Some(file) = file else { continue };
                    let tensors =
                        file.header().tensors.iter().map(|(name, info)| (name.as_str(), info.range.clone()));
                    let read = |range: Range<u64>, buffer: &mut Vec<u8>| Ok(file.read_range(range, buffer)?);
                    pass_by(bytes, tensors.collect(), &read, &mut hash, &mut buffer, sink)?;
                }
            }
        }
        Ok(Digest::from_bytes(hash.finalize().into()))
    }
}

/// Takes what a stream hands over.
pub(crate) trait Sink {
    /// The bytes of tensor `name`, whole.
    fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), LoadError>;
    /// So many more bytes have been read.
    fn advanced(&mut self, bytes: u64);
}

/// Bytes between tensors are read in pieces of this size.
const GAP: u64 = 1 << 20;

type Read<'a> = &'a dyn Fn(Range<u64>, &mut Vec<u8>) -> Result<(), LoadError>;

fn pass_by(
    length: u64,
    mut tensors: Vec<(&str, Range<u64>)>,
    read: Read<'_>,
    hash: &mut Sha256,
    buffer: &mut Vec<u8>,
    sink: &mut dyn Sink,
) -> Result<(), LoadError> {
    tensors.sort_by_key(|(_, range)| (range.start, range.end));
    let mut at = 0;
    let fill = |to: u64, at: &mut u64, buffer: &mut Vec<u8>, sink: &mut dyn Sink, hash: &mut Sha256| {
        while *at < to {
            let next = to.min(*at + GAP);
            read(*at..next, buffer)?;
            hash.update(&*buffer);
            sink.advanced(next - *at);
            *at = next;
        }
        Ok::<_, LoadError>(())
    };
    for (name, range) in tensors {
        fill(range.start, &mut at, buffer, sink, hash)?;
        read(range.clone(), buffer)?;
        hash.update(&*buffer);
        sink.tensor(name, buffer)?;
        sink.advanced(range.end - range.start);
        at = range.end;
        // One big tensor must not stay allocated beside the model.
        if buffer.capacity() as u64 > GAP {
            *buffer = Vec::new();
        }
    }
    fill(length, &mut at, buffer, sink, hash)
}

fn of_dtype(dtype: TensorDtype) -> Option<Encoding> {
    Some(Encoding::Plain(match dtype {
        TensorDtype::F32 => Dtype::F32,
        TensorDtype::F16 => Dtype::F16,
        TensorDtype::Bf16 => Dtype::Bf16,
        _ => return None,
    }))
}

fn of_element(element: Element) -> Encoding {
    match element {
        Element::F32 => Encoding::Plain(Dtype::F32),
        Element::F16 => Encoding::Plain(Dtype::F16),
        Element::Bf16 => Encoding::Plain(Dtype::Bf16),
        Element::Q4_0 => Encoding::Blocks(BlockType::Q4_0),
        Element::Q4_1 => Encoding::Blocks(BlockType::Q4_1),
        Element::Q5_0 => Encoding::Blocks(BlockType::Q5_0),
        Element::Q5_1 => Encoding::Blocks(BlockType::Q5_1),
        Element::Q8_0 => Encoding::Blocks(BlockType::Q8_0),
        Element::Q2K => Encoding::Blocks(BlockType::Q2K),
        Element::Q3K => Encoding::Blocks(BlockType::Q3K),
        Element::Q4K => Encoding::Blocks(BlockType::Q4K),
        Element::Q5K => Encoding::Blocks(BlockType::Q5K),
        Element::Q6K => Encoding::Blocks(BlockType::Q6K),
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(Dtype::F32) => out.write_str("f32"),
            Self::Plain(Dtype::F16) => out.write_str("f16"),
            Self::Plain(Dtype::Bf16) => out.write_str("bf16"),
            Self::Blocks(kind) => out.write_str(&kind.name().to_lowercase()),
        }
    }
}
