//! How positions turn queries and keys: the frequencies of the rotary embedding, plain or scaled. Pure.

/// The rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// The first dimensions of a head that turn; the rest stays.
    pub rotary_dim: usize,
    /// How the frequencies are stretched beyond the context of pre-training.
    pub scaling: RopeScaling,
}

/// A stretch of the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies by a factor, high ones not, between them smoothly.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low` are stretched in full.
        low: f64,
        /// Wavelengths below `original_context / high` are not.
        high: f64,
        /// The context of pre-training.
        original_context: f64,
    },
    /// Each by its own factor, `rotary_dim / 2` of them: how GGUF stores Llama 3's.
    Factors(Vec<f32>),
}

impl RopeConfig {
    /// The angle a position adds, per pair of dimensions: `rotary_dim / 2` values, the fastest first.
    #[must_use]
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let plain = |pair: usize| self.theta.powf(-((2 * pair) as f64) / self.rotary_dim as f64);
        let stretched = |pair: usize| match &self.scaling {
            RopeScaling::None => plain(pair),
            RopeScaling::Linear { factor } => plain(pair) / factor,
            RopeScaling::Factors(factors) => plain(pair) / f64::from(factors[pair]),
            RopeScaling::Llama3 { factor, low, high, original_context } => {
                let frequency = plain(pair);
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original_context / high {
                    frequency
                } else if wavelength > original_context / low {
                    frequency / factor
                } else {
                    let smooth = (original_context / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        };
        (0..self.rotary_dim / 2).map(|pair| stretched(pair) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling =
        RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 64.0 };

    fn rope(scaling: RopeScaling) -> Vec<f32> {
        RopeConfig { theta: 10000.0, rotary_dim: 8, scaling }.inverse_frequencies()
    }

    #[test]
    fn plain_frequencies_fall_by_the_base() {
        let frequencies = rope(RopeScaling::None);
        for (frequency, expected) in frequencies.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((frequency - expected).abs() < 1e-9, "{frequencies:?}");
        }
    }

    #[test]
    fn llama3_keeps_the_fast_and_stretches_the_slow() {
        let (plain, scaled) = (rope(RopeScaling::None), rope(LLAMA3));
        assert_eq!(scaled[0].to_bits(), plain[0].to_bits());
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0, "between: {scaled:?}");
        assert!((scaled[3] - plain[3] / 8.0).abs() < 1e-9);
    }

    #[test]
    fn factors_divide_each_frequency() {
        let (plain, scaled) = (rope(RopeScaling::None), rope(RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0])));
        assert!((scaled[2] - plain[2] / 4.0).abs() < 1e-9);
        assert_eq!(rope(RopeScaling::Linear { factor: 2.0 })[0].to_bits(), 0.5f32.to_bits());
    }
}
