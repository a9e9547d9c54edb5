//! Activations and gates: `out = act(gate) * up` of a fused `gate | up`, and `x = act(x)`.
//!
//! silu(x) = x / (1 + e⁻ˣ); gelu(x) = x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the tanh form ("gelu_new" is the same).
//! x `[rows, 2 f]`, out `[rows, f]`.
#![allow(unsafe_code, reason = "vector kernels")]

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::functions::times_sigmoid;
use crate::vector::{F32x16, Kernel, map, map_with};

/// The function between two linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)`.
    Silu,
    /// GELU by tanh: `gelu_pytorch_tanh`, `gelu_new`.
    GeluTanh,
}

/// `out = act(x[:, ..f]) * x[:, f..]` for x `[rows, 2 f]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn gated(dev: &Device, activation: Activation, x: &Tensor, out: &mut Tensor) {
    let f = out.cols();
    assert_eq!((x.rows(), x.cols()), (out.rows(), 2 * f), "gated: the shapes of gate | up and output");
    dev.each_row(out, f * 4, |i, row| {
        let (gate, up) = x.row(i).split_at(f);
        row.copy_from_slice(gate);
        dev.isa().run(Gated { activation, x: row, up });
    });
}

/// `x = act(x)`.
pub fn activate(dev: &Device, activation: Activation, x: &mut Tensor) {
    let cost = x.cols() * 4;
    dev.each_row(x, cost, |_, row| dev.isa().run(Activated { activation, x: row }));
}

struct Gated<'a> {
    activation: Activation,
    x: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe {
            match self.activation {
                Activation::Silu => map_with!(V, self.x, self.up, |x, up| silu(x).mul(up)),
                Activation::GeluTanh => map_with!(V, self.x, self.up, |x, up| gelu(x).mul(up)),
            }
        }
    }
}

struct Activated<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for Activated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe {
            match self.activation {
                Activation::Silu => map!(V, self.x, |x| silu(x)),
                Activation::GeluTanh => map!(V, self.x, |x| gelu(x)),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
unsafe fn silu<V: F32x16>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { times_sigmoid(x, x) }
}

/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
unsafe fn gelu<V: F32x16>(x: V) -> V {
    /// 2 √(2/π): (1 + tanh z) / 2 is the sigmoid of 2 z.
    const TWICE: f32 = 1.595_769;
    // SAFETY: the caller's promise.
    unsafe {
        let cube = x.mul(x).mul(x);
        let z = cube.fma(V::splat(0.044_715), x).mul(V::splat(TWICE));
        times_sigmoid(x, z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, assert_close, devices};

    fn meaning(activation: Activation, x: f32) -> f64 {
        let x = f64::from(x);
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh())
            }
        }
    }

    #[test]
    fn activations_agree_with_their_formula_far_and_near() {
        let values: Vec<f32> =
            (-1000..1000).map(|i| i as f32 * 0.05).chain([0.0, 1e-20, 3e4, -3e4, 120.0]).collect();
        for dev in devices() {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let mut x = Tensor::from_slice(5, values.len() / 5, &values);
                activate(&dev, activation, &mut x);
                let expected: Vec<f64> = values.iter().map(|&x| meaning(activation, x)).collect();
                assert_close(x.as_slice(), &expected, 1e-6);
            }
        }
    }

    #[test]
    fn the_gate_multiplies_its_own_column() {
        let mut random = Random::new(10);
        for dev in devices() {
            for (rows, f) in [(0, 3), (1, 1), (3, 37), (100, 48)] {
                let x = random.tensor(rows, 2 * f);
                let mut out = Tensor::zeros(rows, f);
                gated(&dev, Activation::Silu, &x, &mut out);
                for row in 0..rows {
                    let (gate, up) = x.row(row).split_at(f);
                    let expected: Vec<f64> =
                        (0..f).map(|j| meaning(Activation::Silu, gate[j]) * f64::from(up[j])).collect();
                    assert_close(out.row(row), &expected, 1e-6);
                }
            }
        }
    }
}
