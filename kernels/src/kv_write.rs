//! Puts the keys and values of new rows into the cache: `keys[slot] = x[:, k_columns]`, `values[slot] = x[:, v_columns]`.
//!
//! x `[rows, cols]`, each range `kv_heads * head_dim` columns; slots `[rows]`, `block * block_size + offset`, all different.

use std::ops::Range;

use half::f16;

use crate::device::Device;
use crate::kv_cache::{KvCache, Layout, POSITIONS, Store};
use crate::tensor::Tensor;

/// Writes row `i`'s key and value to `slots[i]` of `layer`.
///
/// # Panics
/// When the shapes do not fit or a slot is beyond the cache.
pub fn kv_write(
    dev: &Device,
    cache: &mut KvCache,
    layer: usize,
    slots: &[u32],
    x: &Tensor,
    k_columns: Range<usize>,
    v_columns: Range<usize>,
) {
    let layout = cache.layout;
    let width = layout.kv_heads * layout.head_dim;
    assert!(layer < layout.layers, "kv_write: layer {layer} of {}", layout.layers);
    assert_eq!(slots.len(), x.rows(), "kv_write: one slot a row");
    assert!(k_columns.len() == width && v_columns.len() == width, "kv_write: {width} columns each");
    assert!(k_columns.end <= x.cols() && v_columns.end <= x.cols(), "kv_write: columns of {}", x.cols());
    let _ = dev;
    for (row, &slot) in slots.iter().enumerate() {
        let (key, value) = (&x.row(row)[k_columns.clone()], &x.row(row)[v_columns.clone()]);
        match &mut cache.store {
            Store::F32(pages) => {
                put(&layout, layer, slot, key, value, (&mut pages.keys, &mut pages.values), |x| x);
            }
            Store::F16(pages) => {
                put(&layout, layer, slot, key, value, (&mut pages.keys, &mut pages.values), f16::from_f32);
            }
        }
    }
}

fn put<T: Copy>(
    layout: &Layout,
    layer: usize,
    slot: u32,
    key: &[f32],
    value: &[f32],
    (keys, values): (&mut [T], &mut [T]),
    convert: impl Fn(f32) -> T,
) {
    let (block, offset) = (slot as usize / layout.block_size, slot as usize % layout.block_size);
    assert!(
        block < layout.blocks,
        "kv_write: slot {slot} of {} blocks of {}",
        layout.blocks,
        layout.block_size
    );
    let dim = layout.head_dim;
    for head in 0..layout.kv_heads {
        let start = layout.start(layer, block, head);
        let (key, value) = (&key[head * dim..(head + 1) * dim], &value[head * dim..(head + 1) * dim]);
        let first = start + layout.key(offset);
        key.iter().enumerate().for_each(|(d, &x)| keys[first + d * POSITIONS] = convert(x));
        let first = start + offset * dim;
        values[first..first + dim].iter_mut().zip(value).for_each(|(to, &x)| *to = convert(x));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::kv_cache::KvDtype;

    #[test]
    #[should_panic(expected = "slot 15 of 3 blocks of 5")]
    fn a_slot_beyond_the_cache_is_refused() {
        let mut cache = KvCache::new(1, 3, 5, 1, 2, KvDtype::F32);
        let dev = Device::new(NonZeroUsize::MIN);
        kv_write(&dev, &mut cache, 0, &[15], &Tensor::zeros(1, 4), 0..2, 2..4);
    }
}
