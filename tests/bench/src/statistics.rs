//! Percentiles and means of what was measured. Pure.

use serde::Serialize;

/// A distribution in six numbers, in the unit of its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Samples.
    pub(crate) count: usize,
    /// Arithmetic mean.
    pub(crate) mean: f64,
    /// Median.
    pub(crate) p50: f64,
    /// 90th percentile.
    pub(crate) p90: f64,
    /// 95th percentile.
    pub(crate) p95: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
}

impl Summary {
    /// Of `samples`, in any order; `None` when there is none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then(|| Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: percentile(&sorted, 0.50),
            p90: percentile(&sorted, 0.90),
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
        })
    }
}

/// The value below which `share` of `sorted` lies, between neighbours in proportion (numpy's default).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_what_numpy_says() {
        let summary = Summary::of((1..=100).rev().map(f64::from)).unwrap();
        assert_eq!(summary.count, 100);
        let close = |got: f64, expected: f64| (got - expected).abs() < 1e-9;
        assert!(close(summary.mean, 50.5) && close(summary.p50, 50.5), "{summary:?}");
        assert!(
            close(summary.p90, 90.1) && close(summary.p95, 95.05) && close(summary.p99, 99.01),
            "{summary:?}"
        );
    }

    #[test]
    fn one_sample_is_every_percentile_of_itself() {
        let summary = Summary::of([4.0]).unwrap();
        assert_eq!((summary.mean, summary.p50, summary.p99), (4.0, 4.0, 4.0));
    }

    #[test]
    fn no_sample_has_no_summary() {
        assert_eq!(Summary::of([]), None);
    }
}
