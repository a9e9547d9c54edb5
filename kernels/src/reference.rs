//! Naive f64 meanings and seeded data that the tests of every operation compare with. Must not share code with the kernels.

use half::{bf16, f16};

use crate::matrix::{Dtype, Matrix};
use crate::tensor::Tensor;

/// A seeded source of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    pub(crate) fn units(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }

    pub(crate) fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        Tensor::from_slice(rows, cols, &self.units(rows * cols))
    }

    /// Numbers of `dtype`, as bytes and as the f32 they stand for.
    pub(crate) fn encoded(&mut self, dtype: Dtype, len: usize) -> (Vec<u8>, Vec<f32>) {
        let bytes: Vec<u8> = (0..len).flat_map(|_| encode(dtype, self.unit())).collect();
        let values = decode(dtype, &bytes);
        (bytes, values)
    }

    /// A matrix and the f32 that it holds, row-major.
    pub(crate) fn matrix(&mut self, dtype: Dtype, n: usize, k: usize) -> (Matrix, Vec<f32>) {
        let (bytes, values) = self.encoded(dtype, n * k);
        (Matrix::from_plain(dtype, n, k, &bytes).unwrap(), values)
    }
}

/// `x` as little-endian bytes of `dtype`.
pub(crate) fn encode(dtype: Dtype, x: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => x.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// The numbers of little-endian bytes.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

/// `a · b`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Fails, with the place, where `found` is further than `tolerance * (1 + |expected|)` from `expected`.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(off <= tolerance * (1.0 + expected.abs()), "element {i}: {found}, expected {expected}");
    }
}

/// A device of every instruction set of this machine, each with one and with three threads.
pub(crate) fn devices() -> Vec<crate::device::Device> {
    use crate::device::{Device, Isa};
    let mut devices = Vec::new();
    for isa in Isa::ALL {
        for threads in [1, 3] {
            match Device::with_isa(std::num::NonZeroUsize::new(threads).unwrap(), isa) {
                Some(device) => devices.push(device),
                None => println!("skipped: this machine has no {isa:?}"),
            }
        }
    }
    devices
}
