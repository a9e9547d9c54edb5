//! Memory for numbers: zeroed lazily by the operating system, starting on a cache line.
#![allow(unsafe_code, reason = "a typed view of raw zeroed bytes")]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use half::{bf16, f16};

/// A number whose zero is all-zero bytes and for which every bit pattern is valid.
///
/// # Safety
/// Implementors are plain numbers: no padding, no invalid bit pattern, alignment at most 64.
pub(crate) unsafe trait Number: Copy + Send + Sync + 'static {
    const ZERO: Self;
}
// SAFETY: primitive numbers.
unsafe impl Number for u8 {
    const ZERO: u8 = 0;
}
// SAFETY: primitive numbers.
unsafe impl Number for i8 {
    const ZERO: i8 = 0;
}
// SAFETY: primitive numbers.
unsafe impl Number for f32 {
    const ZERO: f32 = 0.0;
}
// SAFETY: a transparent u16.
unsafe impl Number for f16 {
    const ZERO: f16 = f16::ZERO;
}
// SAFETY: a transparent u16.
unsafe impl Number for bf16 {
    const ZERO: bf16 = bf16::ZERO;
}

const LINE: usize = 64;

/// A fixed-length array of numbers that starts on a 64-byte line and is followed by another readable one, so that
/// a vector of 16 numbers may be read where only the first of them are within the array.
///
/// Its pages are not touched before they are written (the allocator's zeroed pages), which an aligned allocation would do.
pub(crate) struct Aligned<T: Number> {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    number: PhantomData<T>,
}

impl<T: Number> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Aligned<T> {
        let bytes = vec![0_u8; len * size_of::<T>() + 2 * LINE];
        let start = bytes.as_ptr().align_offset(LINE);
        Aligned { bytes, start, len, number: PhantomData }
    }

    /// Asks for the first 32 KiB to be brought near, while something else is done.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for line in self.bytes[self.start..].chunks(LINE).take(512) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint about memory of this array; every x86-64 has it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
        }
    }

    /// Bytes of memory taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl<T: Number> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        let mut copy = Aligned::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Number> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is within the spare line, so `len` numbers follow it in `bytes`; they are aligned to 64 and
        // every bit pattern of a `Number` is valid.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(self.start).cast::<T>(), self.len) }
    }
}

impl<T: Number> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the view unique.
        unsafe {
            std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().add(self.start).cast::<T>(), self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_on_a_line_and_is_zero() {
        for len in [0, 1, 15, 1000] {
            let numbers = Aligned::<f32>::zeros(len);
            assert_eq!(numbers.as_ptr() as usize % LINE, 0);
            assert!(numbers.len() == len && numbers.iter().all(|&x| x == 0.0));
        }
    }
}
