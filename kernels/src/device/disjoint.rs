//! A slice whose parts several tasks write at once. Must only be given parts that do not overlap.
#![allow(unsafe_code, reason = "tasks write disjoint parts of one output")]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that tasks of one parallel region share, each writing its own part.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a unique borrow; its users keep the parts of concurrent tasks apart.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// As long as they are used, nothing else may touch them.
    #[allow(clippy::mut_from_ref, reason = "that is its purpose")]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds of a unique borrow, and used by nothing else by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A pointer to element `at`, to be used under the rule of [`Disjoint::range`].
    ///
    /// # Safety
    /// `at` is at most the length.
    pub(crate) unsafe fn at(&self, at: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(at) }
    }
}
