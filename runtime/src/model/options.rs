//! How a model is loaded. Filled by the command line, checked there.

use lorikeet_kernels::device::Device;
use lorikeet_kernels::kv_cache::KvDtype;
use lorikeet_kernels::matrix::BlockType;

/// How a model is loaded.
pub struct LoadOptions<'a> {
    /// What it runs on. The model owns it.
    pub device: Device,
    /// Quantize linears, embedding and head at load.
    pub quantize: Option<Quantize>,
    /// The KV cache.
    pub kv: KvOptions,
    /// The most rows of a step: buffers are made for so many.
    pub max_step_rows: usize,
    /// Told how many bytes of how many have been read.
    pub progress: &'a dyn Fn(u64, u64),
}

/// A quantization at load, of plain matrices whose rows are a multiple of 32; others stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// 8 bits and a scale per 32.
    Q8_0,
    /// 4 bits with scales and minima per 32.
    Q4K,
}

impl Quantize {
    /// The kernels' name of it.
    pub(crate) fn block_type(self) -> BlockType {
        match self {
            Self::Q8_0 => BlockType::Q8_0,
            Self::Q4K => BlockType::Q4K,
        }
    }
}

/// The KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvOptions {
    /// Blocks.
    pub blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// The width of its elements.
    pub dtype: KvChoice,
}

/// The width of the KV cache's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvChoice {
    /// f16 with quantized weights, f32 otherwise.
    Auto,
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
}

impl KvChoice {
    /// The format that it comes to.
    #[must_use]
    pub fn resolve(self, quantized: bool) -> KvDtype {
        match (self, quantized) {
            (Self::F32, _) | (Self::Auto, false) => KvDtype::F32,
            (Self::F16, _) | (Self::Auto, true) => KvDtype::F16,
        }
    }
}
