//! Linears with plain weights against the naive meaning, and rows alone against rows in company.

use proptest::prelude::*;

use super::*;
use crate::matrix::Dtype;
use crate::reference::{Random, assert_close, devices, dot};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

#[test]
fn parts_of_every_dtype_lie_side_by_side() {
    let mut random = Random::new(1);
    for dev in devices() {
        for (rows, k, widths) in [
            (1, 1, vec![1]),
            (3, 7, vec![16, 5]),
            (13, 33, vec![40, 17, 1]),
            (0, 4, vec![3]),
            (1, 300, vec![200]),
            (2, 521, vec![70, 35]),
            (100, 515, vec![33]),
        ] {
            for dtype in DTYPES {
                let x = random.tensor(rows, k);
                let (parts, values): (Vec<_>, Vec<_>) =
                    widths.iter().map(|&n| random.matrix(dtype, n, k)).unzip();
                let values = values.concat();
                let n = values.len() / k;
                let bias = random.units(n);
                let mut out = Tensor::zeros(rows, n);
                linear(&dev, &x, &parts, Some(&bias), &mut out);
                for row in 0..rows {
                    let expected: Vec<f64> = (0..n)
                        .map(|i| dot(x.row(row), &values[i * k..(i + 1) * k]) + f64::from(bias[i]))
                        .collect();
                    assert_close(out.row(row), &expected, 3e-6 * (1.0 + (k as f64).sqrt()));
                }
            }
        }
    }
}

#[test]
fn columns_of_a_wider_output_are_the_parts_own() {
    let mut random = Random::new(2);
    for dev in devices() {
        let x = random.tensor(4, 20);
        let parts = [random.matrix(Dtype::Bf16, 17, 20).0, random.matrix(Dtype::F32, 3, 20).0];
        let (mut both, mut first) = (Tensor::zeros(4, 20), Tensor::zeros(4, 17));
        linear(&dev, &x, &parts, None, &mut both);
        linear(&dev, &x, &parts[..1], None, &mut first);
        (0..4).for_each(|row| assert_eq!(both.row(row)[..17], *first.row(row)));
    }
}

#[test]
#[should_panic(expected = "linear: weights [3, 5] of inputs [_, 4]")]
fn inputs_of_another_length_are_a_fault() {
    let dev = Device::new(std::num::NonZeroUsize::MIN);
    let (part, _) = Random::new(3).matrix(Dtype::F32, 3, 5);
    linear(&dev, &Tensor::zeros(1, 4), &[part], None, &mut Tensor::zeros(1, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_any_company(
        rows in 1..70_usize, k in 1..600_usize, n in 1..70_usize, dtype in 0..3_usize, seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let x = random.tensor(rows, k);
        let part = [random.matrix(DTYPES[dtype], n, k).0];
        let mut first: Option<(crate::device::Isa, Tensor)> = None;
        for dev in devices() {
            let mut all = Tensor::zeros(rows, n);
            linear(&dev, &x, &part, None, &mut all);
            for row in [0, rows / 2, rows - 1] {
                let mut alone = Tensor::zeros(1, n);
                linear(&dev, &Tensor::from_slice(1, k, x.row(row)), &part, None, &mut alone);
                prop_assert_eq!(alone.as_slice(), all.row(row));
            }
            match &first {
                Some((isa, other)) if *isa == dev.isa() => prop_assert_eq!(other.as_slice(), all.as_slice()),
                Some((_, other)) => {
                    let expected: Vec<f64> = other.as_slice().iter().map(|&x| f64::from(x)).collect();
                    assert_close(all.as_slice(), &expected, 1e-4);
                    first = Some((dev.isa(), all));
                }
                None => first = Some((dev.isa(), all)),
            }
        }
    }
}
