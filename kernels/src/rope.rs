//! Rotary positions: each pair `(x[i], x[i + r/2])` of a head's first `r` columns turns by `position * frequency[i]`.
//!
//! x `[rows, cols]`, heads of `head_dim` columns within `columns`, positions `[rows]`, frequencies `[r / 2]`.
#![allow(unsafe_code, reason = "vector kernels")]

use std::ops::Range;
use std::sync::OnceLock;

use crate::device::Device;
use crate::tensor::Tensor;
use crate::vector::{F32x16, Kernel, LANES};

/// Positions of a page of [`RopeTable`].
const PAGE: usize = 256;
/// Pages of a table: a position beyond them is refused.
const PAGES: usize = 8192;

/// The cosines and sines of every position, computed page by page when first asked for.
pub struct RopeTable {
    inverse_frequencies: Vec<f32>,
    /// A page is `[PAGE][cos of r / 2 | sin of r / 2]`.
    pages: Box<[OnceLock<Box<[f32]>>]>,
}

/// How frequencies are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All by one factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3: low frequencies by the factor, high ones not, a ramp between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths above `original_positions / low_frequency` are scaled.
        low_frequency: f32,
        /// Wavelengths below `original_positions / high_frequency` are not.
        high_frequency: f32,
        /// The context length before scaling.
        original_positions: f32,
    },
}

impl RopeTable {
    /// A table of given frequencies (radians a position): `inverse_frequencies.len() * 2` columns of each head turn.
    #[must_use]
    pub fn new(inverse_frequencies: Vec<f32>) -> RopeTable {
        RopeTable { inverse_frequencies, pages: (0..PAGES).map(|_| OnceLock::new()).collect() }
    }

    /// The usual frequencies `theta^(-2 i / rotary_dim)`, scaled.
    #[must_use]
    pub fn with_theta(theta: f32, rotary_dim: usize, scaling: RopeScaling) -> RopeTable {
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / rotary_dim as f32);
        RopeTable::new((0..rotary_dim / 2).map(|i| scaling.apply(frequency(i))).collect())
    }

    /// The columns of a head that turn.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        self.inverse_frequencies.len() * 2
    }

    /// Cosines and sines of a position, `[rotary_dim / 2]` each.
    fn angles(&self, position: u32) -> (&[f32], &[f32]) {
        let position = position as usize;
        assert!(position < PAGE * PAGES, "rope: position {position} of at most {}", PAGE * PAGES);
        let page = self.pages[position / PAGE].get_or_init(|| self.page(position / PAGE));
        let start = position % PAGE * self.rotary_dim();
        page[start..start + self.rotary_dim()].split_at(self.inverse_frequencies.len())
    }

    fn page(&self, index: usize) -> Box<[f32]> {
        let mut page = Vec::with_capacity(PAGE * self.rotary_dim());
        for position in index * PAGE..(index + 1) * PAGE {
            // The angle is rounded to f32 first, as the models were trained.
            let angles = || self.inverse_frequencies.iter().map(|f| f64::from(position as f32 * f));
            page.extend(angles().map(|a| a.cos() as f32));
            page.extend(angles().map(|a| a.sin() as f32));
        }
        page.into_boxed_slice()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_positions } => {
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                if wavelength < original_positions / high_frequency {
                    frequency
                } else if wavelength > original_positions / low_frequency {
                    frequency / factor
                } else {
                    let smooth =
                        (original_positions / wavelength - low_frequency) / (high_frequency - low_frequency);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// Turns the heads of `head_dim` columns within `columns`, each row by its position.
///
/// # Panics
/// When the shapes do not fit.
pub fn rope(
    dev: &Device,
    table: &RopeTable,
    positions: &[u32],
    x: &mut Tensor,
    columns: Range<usize>,
    head_dim: usize,
) {
    assert_eq!(positions.len(), x.rows(), "rope: one position a row");
    assert!(columns.end <= x.cols(), "rope: columns {columns:?} of {}", x.cols());
    assert!(
        head_dim > 0 && columns.len().is_multiple_of(head_dim),
        "rope: {columns:?} in heads of {head_dim}"
    );
    assert!(table.rotary_dim() <= head_dim, "rope: {} columns of heads of {head_dim}", table.rotary_dim());
    let half = table.rotary_dim() / 2;
    dev.each_row(x, columns.len(), |i, row| {
        let (cos, sin) = table.angles(positions[i]);
        for head in row[columns.clone()].chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(half);
            dev.isa().run(Turn { low, high: &mut high[..half], cos, sin });
        }
    });
}

/// The pairs of one head.
struct Turn<'a> {
    low: &'a mut [f32],
    high: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: F32x16>(self) {
        let (low, high) = (self.low.as_mut_ptr(), self.high.as_mut_ptr());
        let (cos, sin) = (self.cos.as_ptr(), self.sin.as_ptr());
        let half = self.low.len();
        assert!(self.high.len() == half && self.cos.len() == half && self.sin.len() == half);
        let whole = half - half % LANES;
        // SAFETY: all places are within the four slices, which are of one length.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let (a, b) = (V::load(low.add(i)), V::load(high.add(i)));
                let (c, s) = (V::load(cos.add(i)), V::load(sin.add(i)));
                a.mul(c).sub(b.mul(s)).store(low.add(i));
                b.mul(c).add(a.mul(s)).store(high.add(i));
            }
            if whole < half {
                let (i, count) = (whole, half - whole);
                let (a, b) = (V::load_first(low.add(i), count), V::load_first(high.add(i), count));
                let (c, s) = (V::load_first(cos.add(i), count), V::load_first(sin.add(i), count));
                a.mul(c).sub(b.mul(s)).store_first(low.add(i), count);
                b.mul(c).add(a.mul(s)).store_first(high.add(i), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Random, assert_close, devices};

    #[test]
    fn pairs_turn_by_position_times_frequency_and_the_rest_of_the_head_stays() {
        let mut random = Random::new(11);
        let table = RopeTable::with_theta(10_000.0, 8, RopeScaling::None);
        for dev in devices() {
            let positions = [0, 3, 300, 70_000];
            let mut x = random.tensor(4, 50);
            let before = x.clone();
            rope(&dev, &table, &positions, &mut x, 5..45, 20);
            for (row, &position) in positions.iter().enumerate() {
                let then = before.row(row);
                let mut expected: Vec<f64> = then.iter().map(|&x| f64::from(x)).collect();
                for head in [5, 25] {
                    for i in 0..4 {
                        let frequency = (1.0 / 10_000_f64.powf(f64::from(i as u32) / 4.0)) as f32;
                        let angle = f64::from(position as f32 * frequency);
                        let (a, b) = (f64::from(then[head + i]), f64::from(then[head + i + 4]));
                        expected[head + i] = a * angle.cos() - b * angle.sin();
                        expected[head + i + 4] = b * angle.cos() + a * angle.sin();
                    }
                }
                // At great positions a rounding of the frequency turns by more.
                assert_close(x.row(row), &expected, if position > 1000 { 1e-2 } else { 1e-5 });
            }
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency: 1.0,
            high_frequency: 4.0,
            original_positions: 8192.0,
        };
        assert_eq!(scaling.apply(1.0), 1.0);
        assert_eq!(scaling.apply(1e-5), 1e-5 / 8.0);
        let between = scaling.apply(2.0 * std::f32::consts::PI / 4096.0);
        let smooth = 1.0 / 3.0;
        let expected = (1.0 - smooth) * 0.001_533_981 / 8.0 + smooth * 0.001_533_981;
        assert!((between - expected).abs() < 1e-9, "{between} {expected}");
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.apply(0.5), 0.125);
    }
}
