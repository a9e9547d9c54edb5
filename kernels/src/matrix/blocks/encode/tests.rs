//! Quantized rows against the error that the reference quantizers have on the same values.

use std::num::NonZeroUsize;

use crate::device::Device;
use crate::matrix::{BlockError, BlockType, Dtype, Matrix, MatrixError};

fn dev() -> Device {
    Device::new(NonZeroUsize::new(2).unwrap())
}

/// Sums of four uniform numbers, about as weights are spread.
fn values(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..len).map(|_| ((0..4).map(|_| unit()).sum::<f64>() * 0.02) as f32).collect()
}

fn plain(n: usize, k: usize, values: &[f32]) -> Matrix {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Matrix::from_plain(Dtype::F32, n, k, &bytes).unwrap()
}

/// Root of the mean squared error over that of the values.
fn error(kind: BlockType, n: usize, k: usize, values: &[f32]) -> f64 {
    let quantized = plain(n, k, values).quantize(&dev(), kind).unwrap();
    let mut row = vec![0.0; k];
    let (mut off, mut all) = (0.0, 0.0);
    for (i, values) in values.chunks_exact(k).enumerate() {
        quantized.row(i, &mut row);
        off += row.iter().zip(values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        all += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }
    (off / all).sqrt()
}

#[test]
fn the_error_is_that_of_the_reference_quantizers() {
    let values = values(16 * 512);
    // llama.cpp's quantize_row_q4_K_ref on these values: 0.06867; the package gguf's Q8_0: 0.00505.
    assert!(error(BlockType::Q4K, 16, 512, &values) < 0.0695);
    assert!(error(BlockType::Q8_0, 16, 512, &values) < 0.0051);
}

#[test]
fn a_row_may_end_in_a_short_block_of_256() {
    let values = values(18 * 576);
    assert!(error(BlockType::Q4K, 18, 576, &values) < 0.0710);
}

#[test]
fn constant_and_zero_rows_come_back() {
    for value in [0.0, 0.5, -0.5] {
        for kind in [BlockType::Q4K, BlockType::Q8_0] {
            let quantized = plain(1, 256, &[value; 256]).quantize(&dev(), kind).unwrap();
            let mut row = vec![f32::NAN; 256];
            quantized.row(0, &mut row);
            assert!(row.iter().all(|v| (v - value).abs() < 1e-3), "{kind} of {value}: {}", row[0]);
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_refused_with_the_reason() {
    let mut weights = values(2 * 64);
    let refused = |values: &[f32], kind| match plain(2, values.len() / 2, values).quantize(&dev(), kind) {
        Err(MatrixError::Blocks(error)) => error,
        other => panic!("{kind}: {:?}", other.map(|matrix| matrix.n())),
    };
    assert_eq!(refused(&weights, BlockType::Q5_1), BlockError::NoEncoder { kind: BlockType::Q5_1 });
    let ragged = BlockError::Ragged { kind: BlockType::Q8_0, k: 33, block: 32 };
    assert_eq!(refused(&weights[..66], BlockType::Q8_0), ragged);
    for bad in [f32::NAN, f32::INFINITY, 1e38] {
        weights[100] = bad;
        for kind in [BlockType::Q4K, BlockType::Q8_0] {
            assert!(
                matches!(refused(&weights, kind), BlockError::NotFinite { row: 1, .. }),
                "{kind} of {bad}"
            );
        }
    }
}
