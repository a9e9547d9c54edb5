//! The packed product against 64-bit sums, and every instruction set against the portable one, bit for bit.

use std::num::NonZeroUsize;

use half::f16;

use super::*;
use crate::linear::linear;
use crate::reference::{Random, devices, dot};

/// Where a block's f16 scales lie.
fn scale_places(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
    }
}

/// Blocks of the bytes that `byte` gives, with the scales that `scale` gives.
fn blocks(
    kind: BlockType,
    n: usize,
    k: usize,
    mut byte: impl FnMut() -> u8,
    mut scale: impl FnMut() -> f32,
) -> Matrix {
    let mut bytes: Vec<u8> = (0..n * k / kind.block_len() * kind.block_bytes()).map(|_| byte()).collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        for &place in scale_places(kind) {
            block[place..place + 2].copy_from_slice(&f16::from_f32(scale()).to_le_bytes());
        }
    }
    Matrix::from_blocks(kind, n, k, &bytes).unwrap()
}

fn random_blocks(random: &mut Random, kind: BlockType, n: usize, k: usize) -> Matrix {
    let mut scales = Random::new(random.bits());
    blocks(kind, n, k, || random.bits() as u8, || scales.unit())
}

fn portable() -> Device {
    Device::with_isa(NonZeroUsize::MIN, Isa::Portable).unwrap()
}

fn product(dev: &Device, x: &Tensor, parts: &[Matrix], bias: Option<&[f32]>) -> Tensor {
    let mut out = Tensor::zeros(x.rows(), parts.iter().map(Matrix::n).sum());
    out.as_mut_slice().fill(f32::NAN);
    linear(dev, x, parts, bias, &mut out);
    out
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.as_slice().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn the_product_is_that_of_the_values_within_the_rounding_of_the_inputs() {
    let mut random = Random::new(7);
    for kind in BlockType::ALL {
        for (n, k) in [(1, 256), (16, 512), (37, 768)] {
            let matrix = random_blocks(&mut random, kind, n, k);
            let x = random.tensor(3, k);
            let bias = random.units(n);
            let mut weights = vec![0.0; k];
            let parts = [matrix];
            let out = product(&portable(), &x, &parts, Some(&bias));
            for (o, bias) in bias.iter().enumerate() {
                parts[0].row(o, &mut weights);
                let size = weights.iter().map(|w| w * w).sum::<f32>().sqrt();
                for r in 0..3 {
                    let expected = dot(x.row(r), &weights) + f64::from(*bias);
                    let error = (f64::from(out.row(r)[o]) - expected).abs();
                    assert!(
                        error <= 0.02 * f64::from(size),
                        "{kind} {n}x{k} output {o}: off by {error} of {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_same_bits() {
    let mut random = Random::new(11);
    for kind in BlockType::ALL {
        for (n, k, rows) in [(1, 256, 1), (20, 768, 2), (37, 512, 13), (64, 1024, 31)] {
            let parts =
                [random_blocks(&mut random, kind, n, k), random_blocks(&mut random, BlockType::Q8_0, 7, k)];
            let x = random.tensor(rows, k);
            let expected = bits(&product(&portable(), &x, &parts, None));
            for dev in devices() {
                let got = bits(&product(&dev, &x, &parts, None));
                assert!(got == expected, "{kind} {n}x{k}, {rows} rows, {:?} x {}", dev.isa(), dev.threads());
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_any_number() {
    let mut random = Random::new(13);
    for kind in BlockType::ALL {
        let parts = [random_blocks(&mut random, kind, 48, 512)];
        let x = random.tensor(330, 512);
        for dev in devices().iter().filter(|dev| dev.isa() != Isa::Portable) {
            let all = bits(&product(dev, &x, &parts, None));
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 25] {
                let first = 330 - rows;
                let some = Tensor::from_slice(rows, 512, &x.as_slice()[first * 512..]);
                assert!(
                    bits(&product(dev, &some, &parts, None)) == all[first * 48..],
                    "{kind} {:?} {rows}",
                    dev.isa()
                );
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_saturate() {
    for kind in BlockType::ALL {
        for (fill, x) in [(0xff, 1.0), (0xff, -1.0), (0x80, 1.0), (0x80, -1.0), (0x00, 1.0)] {
            let parts = [blocks(kind, 16, 256, || fill, || 1.0)];
            let x = Tensor::from_slice(1, 256, &[x; 256]);
            let mut weights = vec![0.0; 256];
            parts[0].row(0, &mut weights);
            let sum = dot(x.row(0), &weights);
            for dev in devices() {
                let out = f64::from(product(&dev, &x, &parts, None).row(0)[0]);
                assert!(
                    (out - sum).abs() <= sum.abs() * 1e-5 + 1e-3,
                    "{kind} of {fill:x}, {:?}: {out}",
                    dev.isa()
                );
            }
        }
    }
}

#[test]
fn inputs_are_rounded_the_same_way_everywhere() {
    let mut random = Random::new(17);
    let mut x = random.tensor(5, 64);
    x.row_mut(1).fill(0.0);
    x.row_mut(2).iter_mut().for_each(|v| *v *= 1e-37);
    x.row_mut(3).iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 - 20.0) * 0.5);
    x.row_mut(4).fill(-3.0e38);
    let mut expected = Activations::default();
    expected.fill(&portable(), &x);
    for dev in devices() {
        let mut got = Activations::default();
        got.fill(&dev, &x);
        for (row, block) in (0..5).flat_map(|row| [(row, 0), (row, 1)]) {
            assert_eq!(got.block(row, block), expected.block(row, block), "{:?} {row}, {block}", dev.isa());
        }
    }
}

#[test]
fn an_infinite_input_makes_its_own_row_not_a_number_and_no_other() {
    let mut random = Random::new(19);
    let parts = [random_blocks(&mut random, BlockType::Q4_1, 16, 64)];
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut x = random.tensor(3, 64);
        x.row_mut(1)[40] = bad;
        for dev in devices() {
            let out = product(&dev, &x, &parts, None);
            assert!(out.row(1).iter().all(|v| v.is_nan()), "{:?}", dev.isa());
            assert!(out.row(0).iter().chain(out.row(2)).all(|v| v.is_finite()), "{:?}", dev.isa());
        }
    }
}
