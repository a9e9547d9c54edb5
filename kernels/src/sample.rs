//! From a row of logits to a token: greedy, log-probabilities, and a draw. Everything in one fixed order: no randomness is made here.
//!
//! logits `[vocabulary]`. Ties go to the lowest id. A NaN is never chosen.

use std::cmp::Ordering;

/// The greatest logit's id; of equals the lowest. 0 where all are NaN.
///
/// # Panics
/// When there are no logits.
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    assert!(!logits.is_empty(), "argmax of no logits");
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0 as u32
}

/// `log Σ e^logit`.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if greatest == f32::NEG_INFINITY {
        return greatest;
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - greatest).exp())).sum();
    greatest + sum.ln() as f32
}

/// A token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProbability {
    /// The token.
    pub id: u32,
    /// Of the softmax of all logits.
    pub value: f32,
}

/// The log-probability of `id`, and the `top` most likely tokens', likeliest first.
///
/// # Panics
/// When `id` is not below the vocabulary.
#[must_use]
pub fn log_probabilities(logits: &[f32], id: u32, top: usize) -> (f32, Vec<LogProbability>) {
    let all = log_sum_exp(logits);
    let likeliest = greatest(logits, top)
        .into_iter()
        .map(|id| LogProbability { id, value: logits[id as usize] - all })
        .collect();
    (logits[id as usize] - all, likeliest)
}

/// How a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// What logits are divided by. 0 is greedy.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the likeliest; 0 is all.
    pub min_p: f32,
}

/// Draws a token: temperature, then top-k, top-p and min-p, then the place of `u` (in 0..1) among the cumulated
/// probabilities of the tokens that are left, likeliest first.
///
/// # Panics
/// When there are no logits.
#[must_use]
pub fn draw(logits: &[f32], how: &Draw, u: f32) -> u32 {
    if how.temperature <= 0.0 || how.top_k == 1 {
        return argmax(logits);
    }
    let vocabulary = logits.len();
    let count = if how.top_k == 0 { vocabulary } else { how.top_k.min(vocabulary) };
    let ids = greatest(logits, count);
    let Some(&likeliest) = ids.first() else { return argmax(logits) };
    let top = logits[likeliest as usize];
    let weights: Vec<f64> =
        ids.iter().map(|&id| f64::from((logits[id as usize] - top) / how.temperature).exp()).collect();
    let kept = kept(&weights, how);
    let total: f64 = weights[..kept].iter().sum();
    let mut rest = f64::from(u) * total;
    for (&id, weight) in ids[..kept].iter().zip(&weights) {
        rest -= weight;
        if rest < 0.0 {
            return id;
        }
    }
    ids[kept - 1]
}

/// How many of the descending `weights` top-p and min-p leave: at least one.
fn kept(weights: &[f64], how: &Draw) -> usize {
    let total: f64 = weights.iter().sum();
    let mut kept = weights.len();
    if how.top_p < 1.0 {
        let mut sum = 0.0;
        let reach = f64::from(how.top_p) * total;
        kept = weights
            .iter()
            .position(|w| {
                sum += w;
                sum >= reach
            })
            .map_or(kept, |at| at + 1);
    }
    if how.min_p > 0.0 {
        let least = f64::from(how.min_p) * weights[0];
        kept = kept.min(weights.iter().position(|&w| w < least).unwrap_or(kept));
    }
    kept.max(1)
}

/// The `count` greatest logits' ids, greatest first, of equals the lowest id first; without NaNs.
fn greatest(logits: &[f32], count: usize) -> Vec<u32> {
    let order =
        |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| !logits[id as usize].is_nan()).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Random;

    const ALL: Draw = Draw { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    #[test]
    fn of_equal_logits_the_lowest_id_wins_and_a_nan_never() {
        assert_eq!(argmax(&[1.0, 3.0, f32::NAN, 3.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), 0);
        assert_eq!(draw(&[f32::NAN, 1.0, 2.0], &ALL, 0.0), 2);
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = Random::new(14).units(1000);
        let all: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let (value, top) = log_probabilities(&logits, 17, 3);
        assert!((f64::from(value) - (f64::from(logits[17]) - all)).abs() < 1e-6);
        assert_eq!(top[0].id, argmax(&logits));
        assert!(top.len() == 3 && top[0].value >= top[1].value && top[1].value >= top[2].value);
    }

    #[test]
    fn the_share_of_draws_is_the_probability() {
        let logits = [0.0_f32, 2.0_f32.ln(), 5.0_f32.ln()];
        let mut count = [0; 3];
        (0..8000).for_each(|i| count[draw(&logits, &ALL, (i as f32 + 0.5) / 8000.0) as usize] += 1);
        assert_eq!(count, [1000, 2000, 5000]);
    }

    #[test]
    fn top_k_top_p_and_min_p_leave_the_likeliest() {
        let logits = [0.0_f32, 2.0_f32.ln(), 5.0_f32.ln()];
        let last = |how: Draw| draw(&logits, &how, 0.999_999);
        assert_eq!(last(ALL), 0);
        assert_eq!(last(Draw { top_k: 2, ..ALL }), 1);
        assert_eq!(last(Draw { top_p: 0.7, ..ALL }), 1);
        assert_eq!(last(Draw { top_p: 0.6, ..ALL }), 2);
        assert_eq!(last(Draw { min_p: 0.3, ..ALL }), 1);
        assert_eq!(last(Draw { temperature: 0.0, ..ALL }), 2);
        assert_eq!(last(Draw { top_p: 0.0, ..ALL }), 2);
    }
}
