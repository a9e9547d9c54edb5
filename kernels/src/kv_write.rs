//! Puts the keys and values of new rows into the cache: `keys[slot] = x[:, k_columns]`, `values[slot] = x[:, v_columns]`.
//!
//! x `[rows, cols]`, each range `kv_heads * head_dim` columns; slots `[rows]`, `block * block_size + offset`, all different.
#![allow(unsafe_code, reason = "slots of one cache are given to several tasks")]

use std::ops::Range;

use half::f16;

use crate::aligned::Number;
use crate::device::{Device, Disjoint};
use crate::kv_cache::{KvCache, Layout, POSITIONS, Pages, Store};
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, LANES};

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
    let rows = Rows { slots, x, layout, layer, k_columns, v_columns };
    match &mut cache.store {
        Store::F32(pages) => rows.write(dev, pages, |x, to| to.copy_from_slice(x)),
        Store::F16(pages) => rows.write(dev, pages, |x, to| dev.isa().run(Halve { x, to })),
    }
}

/// What all tasks of a call share.
struct Rows<'a> {
    slots: &'a [u32],
    x: &'a Tensor,
    layout: Layout,
    layer: usize,
    k_columns: Range<usize>,
    v_columns: Range<usize>,
}

impl Rows<'_> {
    /// Writes all rows; heads are cut over tasks, so that the rows of a key tile are one task's.
    fn write<T: Number>(
        &self,
        dev: &Device,
        pages: &mut Pages<T>,
        convert: impl Fn(&[f32], &mut [T]) + Sync,
    ) {
        let (keys, values) = (Disjoint::new(&mut pages.keys), Disjoint::new(&mut pages.values));
        let Layout { kv_heads, head_dim, .. } = self.layout;
        let cost = self.slots.len() * head_dim * 2;
        let chunk = dev.chunk(kv_heads, cost);
        dev.parallel(kv_heads.div_ceil(chunk), |task| {
            let mut key = vec![T::ZERO; head_dim];
            for head in task * chunk..kv_heads.min((task + 1) * chunk) {
                for (row, &slot) in self.slots.iter().enumerate() {
                    let (start, offset) = self.place(slot, head);
                    let part = |columns: &Range<usize>| {
                        let first = columns.start + head * head_dim;
                        &self.x.row(row)[first..first + head_dim]
                    };
                    convert(part(&self.k_columns), &mut key);
                    let first = start + self.layout.key(offset);
                    for (d, &x) in key.iter().enumerate() {
                        // SAFETY: the place of component `d` of this slot's key of this head, which no other task writes.
                        unsafe { *keys.at(first + d * POSITIONS) = x }
                    }
                    let first = start + offset * head_dim;
                    // SAFETY: this slot's value of this head, which no other task writes.
                    convert(part(&self.v_columns), unsafe { values.range(first..first + head_dim) });
                }
            }
        });
    }

    /// Where the head of the slot's block starts, and the position within the block.
    fn place(&self, slot: u32, head: usize) -> (usize, usize) {
        let Layout { blocks, block_size, .. } = self.layout;
        let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
        assert!(block < blocks, "kv_write: slot {slot} of {blocks} blocks of {block_size}");
        (self.layout.start(self.layer, block, head), offset)
    }
}

/// Rounds to half precision.
struct Halve<'a> {
    x: &'a [f32],
    to: &'a mut [f16],
}

impl Kernel for Halve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let len = self.x.len();
        assert_eq!(self.to.len(), len);
        let (from, to) = (self.x.as_ptr(), self.to.as_mut_ptr());
        let whole = len - len % LANES;
        // SAFETY: all places are within the two slices, which are of one length.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                V::load(from.add(i)).store_f16(to.add(i));
            }
            let mut rest = [f16::ZERO; LANES];
            V::load_first(from.add(whole), len - whole).store_f16(rest.as_mut_ptr());
            self.to[whole..].copy_from_slice(&rest[..len - whole]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::kv_cache::KvDtype;
    use crate::reference::{Random, devices};

    #[test]
    #[should_panic(expected = "slot 15 of 3 blocks of 5")]
    fn a_slot_beyond_the_cache_is_refused() {
        let mut cache = KvCache::new(1, 3, 5, 1, 2, KvDtype::F32);
        let dev = Device::new(NonZeroUsize::MIN);
        kv_write(&dev, &mut cache, 0, &[15], &Tensor::zeros(1, 4), 0..2, 2..4);
    }

    #[test]
    fn every_component_lies_where_the_layout_says_and_nothing_else_changes() {
        let mut random = Random::new(15);
        for dev in devices() {
            for dtype in [KvDtype::F32, KvDtype::F16] {
                let mut cache = KvCache::new(2, 4, 20, 3, 21, dtype);
                let x = random.tensor(2, 3 * 63);
                kv_write(&dev, &mut cache, 1, &[37, 79], &x, 0..63, 63..126);
                let (keys, values): (Vec<f32>, Vec<f32>) = match &cache.store {
                    Store::F32(pages) => (pages.keys.to_vec(), pages.values.to_vec()),
                    Store::F16(pages) => {
                        let wide = |x: &[f16]| x.iter().map(|x| x.to_f32()).collect();
                        (wide(&pages.keys), wide(&pages.values))
                    }
                };
                let rounded = |x: f32| match dtype {
                    KvDtype::F32 => x,
                    KvDtype::F16 => f16::from_f32(x).to_f32(),
                };
                for (row, (block, offset)) in [(1, 17), (3, 19)].into_iter().enumerate() {
                    for head in 0..3 {
                        let start = cache.layout.start(1, block, head);
                        for d in 0..21 {
                            let key = keys[start + 16 * 21 + d * 16 + offset - 16];
                            assert_eq!(key, rounded(x.row(row)[head * 21 + d]));
                            let value = values[start + offset * 21 + d];
                            assert_eq!(value, rounded(x.row(row)[63 + head * 21 + d]));
                        }
                    }
                }
                let written = |x: &[f32]| x.iter().filter(|&&x| x != 0.0).count();
                assert_eq!((written(&keys), written(&values)), (126, 126));
            }
        }
    }
}
