//! Sixteen f32 without intrinsics: the meaning of [`F32x16`], and what machines without AVX2 run.

use half::{bf16, f16};

use crate::vector::{F32x16, LANES};

/// Sixteen f32.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Portable {
        Portable(self.0.map(f))
    }

    #[inline(always)]
    fn with(self, other: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
        let mut out = self.0;
        for (x, y) in out.iter_mut().zip(other.0) {
            *x = f(*x, y);
        }
        Portable(out)
    }

    #[inline(always)]
    fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut x = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = f(x[i], x[i + half]);
            }
        }
        x[0]
    }
}

impl F32x16 for Portable {
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 numbers are there by the caller's promise.
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut out = [0.0; LANES];
        for (i, x) in out.iter_mut().enumerate().take(count) {
            // SAFETY: `count` numbers are there by the caller's promise.
            *x = unsafe { *from.add(i) };
        }
        Portable(out)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: 16 numbers are there by the caller's promise.
        Portable(unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: 16 numbers are there by the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable(bits.map(|x| f32::from_bits(u32::from(x) << 16)))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self) {
        // SAFETY: 32 numbers are there by the caller's promise.
        let bits = unsafe { from.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        let wide = |x: u16| f32::from_bits(u32::from(x) << 16);
        (Portable(bits.map(|[even, _]| wide(even))), Portable(bits.map(|[_, odd]| wide(odd))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: there is room for 16 numbers by the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, &x) in self.0.iter().enumerate().take(count) {
            // SAFETY: there is room for `count` numbers by the caller's promise.
            unsafe { *to.add(i) = x }
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        // SAFETY: there is room for 16 numbers by the caller's promise.
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(self.0.map(f16::from_f32)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |x, y| x + y)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |x, y| x - y)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.with(other, |x, y| x * y)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.with(other, |x, y| x / y)
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        self.with(factor, |x, y| x * y).with(sum, |x, y| x + y)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.with(other, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.with(other, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    unsafe fn with_sign(self, other: Self) -> Self {
        self.with(other, f32::copysign)
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        self.map(f32::round_ties_even)
    }

    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        self.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    unsafe fn where_less(self, a: Self, b: Self, other: Self) -> Self {
        let mut out = other.0;
        for (i, out) in out.iter_mut().enumerate() {
            if a.0[i] < b.0[i] {
                *out = self.0[i];
            }
        }
        Portable(out)
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.fold(|x, y| x + y)
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        self.fold(|x, y| if x > y { x } else { y })
    }
}
