//! Paged keys and values of all layers. Must not know whose they are: blocks are given out elsewhere.
//!
//! Keys lie in tiles of 16 positions, `[layer][block][kv head][tile][head_dim][16]`, so that a query meets 16 positions at once;
//! values by position, `[layer][block][kv head][position][head_dim]`. A block's positions are padded to a multiple of 16.

use half::f16;

use crate::aligned::{Aligned, Number};

/// Positions of a key tile.
pub(crate) const POSITIONS: usize = 16;

/// The number format of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
}

/// Keys and values, by layer, block and head.
pub struct KvCache {
    pub(crate) layout: Layout,
    pub(crate) store: Store,
}

/// Where things lie in a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) layers: usize,
    pub(crate) blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// The numbers of a cache: keys and values in one format.
pub(crate) enum Store {
    F32(Pages<f32>),
    F16(Pages<f16>),
}

/// Keys and values of one format.
pub(crate) struct Pages<T: Number> {
    pub(crate) keys: Aligned<T>,
    pub(crate) values: Aligned<T>,
}

impl KvCache {
    /// A cache of zeros; memory is taken when a block is first written.
    ///
    /// # Panics
    /// When a dimension is zero.
    #[must_use]
    pub fn new(
        layers: usize,
        blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: KvDtype,
    ) -> KvCache {
        let layout = Layout { layers, blocks, block_size, kv_heads, head_dim };
        assert!(
            layers > 0 && blocks > 0 && block_size > 0 && kv_heads > 0 && head_dim > 0,
            "a cache without elements: {layout:?}"
        );
        let len = layers * blocks * kv_heads * layout.head_block();
        let store = match dtype {
            KvDtype::F32 => Store::F32(Pages { keys: Aligned::zeros(len), values: Aligned::zeros(len) }),
            KvDtype::F16 => Store::F16(Pages { keys: Aligned::zeros(len), values: Aligned::zeros(len) }),
        };
        KvCache { layout, store }
    }

    /// Positions of a block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.layout.block_size
    }

    /// Blocks of each layer.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.layout.blocks
    }

    /// The number format.
    #[must_use]
    pub fn dtype(&self) -> KvDtype {
        match self.store {
            Store::F32(_) => KvDtype::F32,
            Store::F16(_) => KvDtype::F16,
        }
    }

    /// Bytes that a full cache takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(pages) => pages.keys.bytes() + pages.values.bytes(),
            Store::F16(pages) => pages.keys.bytes() + pages.values.bytes(),
        }
    }
}

impl Layout {
    /// Positions of a block with its padding.
    pub(crate) fn padded(&self) -> usize {
        self.block_size.next_multiple_of(POSITIONS)
    }

    /// Numbers of one head of one block.
    pub(crate) fn head_block(&self) -> usize {
        self.padded() * self.head_dim
    }

    /// Where one head of one block starts, in keys and in values.
    pub(crate) fn start(&self, layer: usize, block: usize, head: usize) -> usize {
        debug_assert!(layer < self.layers && block < self.blocks && head < self.kv_heads);
        ((layer * self.blocks + block) * self.kv_heads + head) * self.head_block()
    }

    /// Where component 0 of the key of the position `offset` within a block lies, from [`Layout::start`]; the next
    /// component is [`POSITIONS`] further.
    pub(crate) fn key(&self, offset: usize) -> usize {
        offset / POSITIONS * POSITIONS * self.head_dim + offset % POSITIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_padded_to_whole_tiles_and_the_bytes_say_so() {
        let cache = KvCache::new(2, 3, 5, 1, 20, KvDtype::F16);
        assert_eq!((cache.layout.padded(), cache.layout.head_block()), (16, 320));
        assert!(cache.bytes() >= 2 * 2 * 3 * 320 * 2);
        assert_eq!((cache.block_size(), cache.blocks(), cache.dtype()), (5, 3, KvDtype::F16));
    }
}
