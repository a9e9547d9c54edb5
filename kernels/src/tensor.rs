//! Activations: f32 `[rows, cols]`, row-major. Must not know which operation made them.

use crate::aligned::Aligned;

/// An f32 matrix `[rows, cols]`, rows one after the other, that can change its number of rows without allocating.
#[derive(Clone)]
pub struct Tensor {
    data: Aligned<f32>,
    rows: usize,
    cols: usize,
}

impl Tensor {
    /// `rows * cols` zeros; pages of memory are taken when they are first written.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize) -> Tensor {
        Tensor { data: Aligned::zeros(rows * cols), rows, cols }
    }

    /// A tensor of these rows.
    ///
    /// # Panics
    /// When `data` is not `rows * cols` long.
    #[must_use]
    pub fn from_slice(rows: usize, cols: usize, data: &[f32]) -> Tensor {
        assert_eq!(data.len(), rows * cols, "a tensor [{rows}, {cols}] from {} numbers", data.len());
        let mut tensor = Tensor::zeros(rows, cols);
        tensor.data.copy_from_slice(data);
        tensor
    }

    /// Makes room for `rows` rows, so that [`Tensor::set_rows`] up to there allocates nothing.
    pub fn reserve(&mut self, rows: usize) {
        if rows > self.capacity() {
            let mut data = Aligned::zeros(rows * self.cols);
            data[..self.rows * self.cols].copy_from_slice(&self.data[..self.rows * self.cols]);
            self.data = data;
        }
    }

    /// Sets the number of rows. Rows that come back hold what they held last (zeros at first). Allocates only beyond
    /// [`Tensor::capacity`].
    pub fn set_rows(&mut self, rows: usize) {
        self.reserve(rows);
        self.rows = rows;
    }

    /// How many rows fit without allocating.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(usize::MAX)
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`, `[cols]`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Row `i`, `[cols]`.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// All rows, `[rows * cols]`.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// All rows, `[rows * cols]`.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_and_growing_within_capacity_moves_nothing() {
        let mut tensor = Tensor::zeros(4, 3);
        let place = tensor.as_slice().as_ptr();
        tensor.row_mut(3)[2] = 7.0;
        tensor.set_rows(1);
        assert_eq!(tensor.as_slice().len(), 3);
        tensor.set_rows(4);
        assert_eq!((tensor.as_slice().as_ptr(), tensor.row(3)[2]), (place, 7.0));
        tensor.set_rows(9);
        assert_eq!((tensor.rows(), tensor.row(3)[2], tensor.row(8)), (9, 7.0, &[0.0; 3][..]));
    }
}
