//! Vectors of every instruction set against plain arithmetic.

use super::functions::{exp, tanh};
use super::*;

fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

struct Apply<'a, F>(&'a mut [f32], F);

/// A function over vectors, whatever they are.
trait Function {
    unsafe fn apply<V: F32x16>(&self, x: V) -> V;
}

impl<F: Function> Kernel for Apply<'_, F> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: as `Kernel::run`.
        unsafe { map!(V, self.0, |x| self.1.apply(x)) }
    }
}

struct Exp;
impl Function for Exp {
    #[inline(always)]
    unsafe fn apply<V: F32x16>(&self, x: V) -> V {
        // SAFETY: as `Kernel::run`.
        unsafe { exp(x) }
    }
}

struct Tanh;
impl Function for Tanh {
    #[inline(always)]
    unsafe fn apply<V: F32x16>(&self, x: V) -> V {
        // SAFETY: as `Kernel::run`.
        unsafe { tanh(x) }
    }
}

#[test]
fn the_exponential_is_good_to_two_units_in_the_last_place() {
    for isa in isas() {
        let values: Vec<f32> = (-87_000..88_000).map(|i| i as f32 * 1e-3).collect();
        let mut x = values.clone();
        isa.run(Apply(&mut x, Exp));
        for (x, value) in x.iter().zip(&values) {
            let expected = f64::from(*value).exp();
            assert!((f64::from(*x) / expected - 1.0).abs() < 2.4e-7, "{isa:?} {value}: {x}, {expected}");
        }
        let mut edges = [0.0, -0.0, -1e30, f32::NEG_INFINITY, -100.0, f32::NAN];
        isa.run(Apply(&mut edges, Exp));
        assert!(edges[..5] == [1.0, 1.0, 0.0, 0.0, 0.0] && edges[5].is_nan(), "{isa:?} {edges:?}");
    }
}

#[test]
fn the_hyperbolic_tangent_is_good_near_zero_and_far() {
    for isa in isas() {
        let values: Vec<f32> =
            (-100_000..100_000).map(|i| i as f32 * 1e-4).chain([1e-20, 50.0, -1e9]).collect();
        let mut x = values.clone();
        isa.run(Apply(&mut x, Tanh));
        for (x, value) in x.iter().zip(&values) {
            let expected = f64::from(*value).tanh();
            assert!((f64::from(*x) - expected).abs() <= 3e-7 * expected.abs(), "{isa:?} {value}: {x}");
        }
    }
}

struct Reduce<'a>(&'a [f32]);
impl Kernel for Reduce<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    unsafe fn run<V: F32x16>(self) -> (f32, f32) {
        // SAFETY: the slice has 16 numbers.
        unsafe { (V::load(self.0.as_ptr()).sum(), V::load(self.0.as_ptr()).greatest()) }
    }
}

#[test]
fn every_instruction_set_sums_lanes_in_the_same_order() {
    let x = crate::reference::Random::new(20).units(16);
    let expected = Isa::Portable.run(Reduce(&x));
    isas().into_iter().for_each(|isa| assert_eq!(isa.run(Reduce(&x)), expected, "{isa:?}"));
}

struct Widen<'a>(&'a [u16], &'a mut [f32]);
impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let (from, to) = (self.0.as_ptr(), self.1.as_mut_ptr());
        // SAFETY: 32 numbers are read and 64 written, which are there.
        unsafe {
            V::load_f16(from.cast()).store(to);
            V::load_bf16(from.cast()).store(to.add(16));
            let (even, odd) = V::load_bf16_pairs(from.cast());
            even.store(to.add(32));
            odd.store(to.add(48));
        }
    }
}

#[test]
fn sixteen_bit_numbers_are_widened_exactly() {
    let bits: Vec<u16> = (0..32).map(|i| if i % 3 == 0 { 0x3c00 + i } else { 0xb123 + 7 * i }).collect();
    for isa in isas() {
        let mut out = [0.0_f32; 64];
        isa.run(Widen(&bits, &mut out));
        for i in 0..16 {
            assert_eq!(out[i], f16::from_bits(bits[i]).to_f32());
            assert_eq!(out[16 + i], bf16::from_bits(bits[i]).to_f32());
            assert_eq!(out[32 + i], bf16::from_bits(bits[2 * i]).to_f32());
            assert_eq!(out[48 + i], bf16::from_bits(bits[2 * i + 1]).to_f32());
        }
    }
}

struct Partial<'a>(&'a [f32], &'a mut [f32], usize);
impl Kernel for Partial<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        // SAFETY: both slices are as long as the count.
        unsafe {
            V::load_first(self.0.as_ptr(), self.2).add(V::splat(1.0)).store_first(self.1.as_mut_ptr(), self.2)
        }
    }
}

#[test]
fn a_part_of_a_vector_reads_and_writes_no_further() {
    for isa in isas() {
        for count in 0..=16 {
            let from = vec![2.0; count];
            let mut to = [0.0; 17];
            isa.run(Partial(&from, &mut to, count));
            assert!(
                to.iter().enumerate().all(|(i, &x)| x == if i < count { 3.0 } else { 0.0 }),
                "{isa:?} {count}"
            );
        }
    }
}
