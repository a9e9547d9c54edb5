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
    let greatest = maximum(logits);
    logits.iter().position(|&logit| logit == greatest).unwrap_or(0) as u32
}

/// The greatest logit. Lane by lane, so that the compiler makes it vectors; NaNs are passed over.
fn maximum(logits: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// `log Σ e^logit`.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let greatest = maximum(logits);
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

/// What a draw needs for a while; kept, so that a draw allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct DrawScratch {
    ids: Vec<u32>,
}

/// Draws a token: temperature, then min-p, top-k, top-p, each over what the ones before have left, then the place of
/// `u` (in 0..1) among the cumulated probabilities of the tokens that are left. They lie in the order of their ids; with
/// top-k or top-p, likeliest first.
///
/// Without top-k and top-p nothing is sorted; with top-p alone only about as many as it leaves.
///
/// # Panics
/// When there are no logits.
#[must_use]
pub fn draw(logits: &[f32], how: &Draw, u: f64, scratch: &mut DrawScratch) -> u32 {
    let top = maximum(logits);
    if how.temperature <= 0.0 || how.top_k == 1 || top == f32::NEG_INFINITY {
        return argmax(logits);
    }
    let weigh = Weigh { logits, top, temperature: how.temperature };
    // As a bound on logits, so that what it drops costs no exponential. A NaN is below every bound.
    let least =
        if how.min_p > 0.0 { top + how.temperature * how.min_p.min(1.0).ln() } else { f32::NEG_INFINITY };
    let ids = &mut scratch.ids;
    ids.clear();
    ids.extend((0..logits.len() as u32).filter(|&id| logits[id as usize] >= least));
    if how.top_k > 0 && how.top_k < ids.len() {
        ids.select_nth_unstable_by(how.top_k - 1, |a, b| weigh.order(*a, *b));
        ids.truncate(how.top_k);
        ids.sort_unstable_by(|a, b| weigh.order(*a, *b));
    }
    if how.top_p < 1.0 {
        let reach = f64::from(how.top_p) * weigh.sum(ids);
        let kept = weigh.likeliest(ids, reach);
        ids.truncate(kept);
    }
    weigh.at(ids, u * weigh.sum(ids))
}

/// Unnormalized probabilities: 1 for the greatest logit.
struct Weigh<'a> {
    logits: &'a [f32],
    top: f32,
    temperature: f32,
}

impl Weigh<'_> {
    /// Below e^-40 nothing is ever drawn, so it needs no exponential.
    fn of(&self, id: u32) -> f64 {
        let power = (self.logits[id as usize] - self.top) / self.temperature;
        if power < -40.0 { 0.0 } else { f64::from(power.exp()) }
    }

    fn sum(&self, ids: &[u32]) -> f64 {
        ids.iter().map(|&id| self.of(id)).sum()
    }

    /// The id at place `rest` of the cumulated weights.
    fn at(&self, ids: &[u32], mut rest: f64) -> u32 {
        let mut last = 0;
        for &id in ids {
            let weight = self.of(id);
            if weight > 0.0 {
                last = id;
                rest -= weight;
                if rest < 0.0 {
                    break;
                }
            }
        }
        last
    }

    /// Likeliest first; of equals the lowest id first.
    fn order(&self, a: u32, b: u32) -> Ordering {
        self.logits[b as usize].total_cmp(&self.logits[a as usize]).then(a.cmp(&b))
    }

    /// Sorts the likeliest ids to the front until their weights reach `reach`. Returns how many: at least one.
    fn likeliest(&self, ids: &mut [u32], reach: f64) -> usize {
        let (mut kept, mut sum, mut part) = (0, 0.0, 64);
        while kept < ids.len() {
            let rest = &mut ids[kept..];
            let count = part.min(rest.len());
            if count < rest.len() {
                rest.select_nth_unstable_by(count - 1, |a, b| self.order(*a, *b));
            }
            rest[..count].sort_unstable_by(|a, b| self.order(*a, *b));
            for &id in &rest[..count] {
                kept += 1;
                sum += self.of(id);
                if sum >= reach {
                    return kept;
                }
            }
            part *= 4;
        }
        kept
    }
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
        assert_eq!(drawn(&[f32::NAN, 1.0, 2.0], &ALL, 0.0), 1);
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
        (0..8000).for_each(|i| count[drawn(&logits, &ALL, (f64::from(i) + 0.5) / 8000.0) as usize] += 1);
        assert_eq!(count, [1000, 2000, 5000]);
    }

    #[test]
    fn top_k_top_p_and_min_p_leave_the_likeliest() {
        let logits = [0.0_f32, 2.0_f32.ln(), 5.0_f32.ln()];
        let first = |how: Draw| drawn(&logits, &how, 0.0);
        let last = |how: Draw| drawn(&logits, &how, 0.999_999);
        assert_eq!(first(ALL), 0);
        assert_eq!(last(Draw { top_k: 2, ..ALL }), 1);
        assert_eq!(first(Draw { top_k: 2, ..ALL }), 2);
        assert_eq!(last(Draw { top_p: 0.7, ..ALL }), 1);
        assert_eq!(last(Draw { top_p: 0.6, ..ALL }), 2);
        assert_eq!(first(Draw { min_p: 0.3, ..ALL }), 1);
        assert_eq!(last(Draw { temperature: 0.0, ..ALL }), 2);
        assert_eq!(last(Draw { top_p: 0.0, ..ALL }), 2);
    }

    #[test]
    fn top_p_is_of_what_min_p_and_top_k_leave() {
        // Probabilities 1/8, 2/8, 5/8; of the last two alone 2/7 and 5/7.
        let logits = [0.0_f32, 2.0_f32.ln(), 5.0_f32.ln()];
        let last = |how: Draw| drawn(&logits, &how, 0.999_999);
        assert_eq!(last(Draw { top_p: 0.7, ..ALL }), 1);
        assert_eq!(last(Draw { top_p: 0.7, min_p: 0.3, ..ALL }), 2);
        assert_eq!(last(Draw { top_p: 0.7, top_k: 2, ..ALL }), 2);
    }

    #[test]
    fn top_p_leaves_the_same_of_a_big_vocabulary_as_a_full_sort_would() {
        let logits = Random::new(15).units(5000);
        let mut ids: Vec<u32> = (0..5000).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let all: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for top_p in [0.001_f32, 0.1, 0.5, 0.9, 0.999] {
            let mut sum = 0.0;
            let reaches = |&id: &u32| {
                sum += f64::from(logits[id as usize]).exp() / all;
                sum >= f64::from(top_p)
            };
            let kept = ids.iter().position(reaches).unwrap();
            let last = drawn(&logits, &Draw { top_p, ..ALL }, 1.0 - 1e-12);
            let place = ids.iter().position(|&id| id == last).unwrap();
            assert!(place.abs_diff(kept) <= 1, "{top_p}: {place}, not {kept}");
        }
    }

    fn drawn(logits: &[f32], how: &Draw, u: f64) -> u32 {
        draw(logits, how, u, &mut DrawScratch::default())
    }
}
