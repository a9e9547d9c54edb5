//! From a row of logits to a token: greedy, log-probabilities, and a draw. Everything in one fixed order, the same bits on
//! every machine: no randomness is made here.
//!
//! logits `[vocabulary]`. Ties go to the lowest id. A NaN is never chosen. Passes over the whole row are written lane by
//! lane, so that the compiler makes them vectors; nothing sorts more than it must.

mod exponential;

use std::cmp::Ordering;

use exponential::exponential;

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

/// Whether every logit is a finite number.
#[must_use]
pub fn all_finite(logits: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !logits.iter().fold(false, |odd, logit| odd | (logit.to_bits() & EXPONENT == EXPONENT))
}

/// How many logits are greater than `bound`.
#[must_use]
pub fn count_above(logits: &[f32], bound: f32) -> u32 {
    logits.iter().map(|&logit| u32::from(logit > bound)).sum()
}

/// The greatest logit; NaNs are passed over.
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
    let mut powers = [0.0; CHUNK];
    let mut sum = 0.0;
    for chunk in logits.chunks(CHUNK) {
        let powers = &mut powers[..chunk.len()];
        for (power, &logit) in powers.iter_mut().zip(chunk) {
            *power = exponential(logit - greatest);
        }
        sum += lanes(powers);
    }
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
    let row = Row { logits, least: f32::NEG_INFINITY };
    let mut ids = Vec::new();
    row.likeliest(top, &mut ids, &mut Vec::new());
    let likeliest =
        ids.into_iter().map(|id| LogProbability { id, value: logits[id as usize] - all }).collect();
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
    weights: Vec<f32>,
    ids: Vec<u32>,
    of_ids: Vec<f32>,
    maxima: Vec<f32>,
}

/// Draws a token: temperature, then min-p, top-k, top-p, each over what the ones before have left, then the place of
/// `u` (in 0..1) among the cumulated probabilities of the tokens that are left. They lie in the order of their ids; with
/// top-k or top-p, likeliest first.
///
/// Without top-k and top-p nothing is sorted; with them about as many as they leave.
///
/// # Panics
/// When there are no logits.
#[must_use]
pub fn draw(logits: &[f32], how: &Draw, u: f64, scratch: &mut DrawScratch) -> u32 {
    let top = maximum(logits);
    if how.temperature <= 0.0 || how.top_k == 1 || top == f32::NEG_INFINITY {
        return argmax(logits);
    }
    // As a bound on logits, so that what it drops costs no exponential.
    let least =
        if how.min_p > 0.0 { top + how.temperature * how.min_p.min(1.0).ln() } else { f32::NEG_INFINITY };
    let row = Row { logits, least };
    let weigh = |logit: f32| exponential((logit - top) / how.temperature);
    let DrawScratch { weights, ids, of_ids, maxima } = scratch;
    if how.top_k > 0 && how.top_k < logits.len() {
        row.likeliest(how.top_k, ids, maxima);
        of_ids.clear();
        of_ids.extend(ids.iter().map(|&id| weigh(logits[id as usize])));
        let kept = reach(of_ids, how.top_p, sum(of_ids));
        return ids[place(&of_ids[..kept], u)];
    }
    weights.resize(logits.len(), 0.0);
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        // Computed for all, so that there is no branch; a NaN is not at least anything.
        let of_logit = weigh(logit);
        *weight = if logit >= least { of_logit } else { 0.0 };
    }
    if how.top_p >= 1.0 {
        return place(weights, u) as u32;
    }
    let total = sum(weights);
    let mut count = 64;
    loop {
        row.likeliest(count, ids, maxima);
        of_ids.clear();
        of_ids.extend(ids.iter().map(|&id| weights[id as usize]));
        if sum(of_ids) >= f64::from(how.top_p) * total || count >= logits.len() {
            let kept = reach(of_ids, how.top_p, total);
            return ids[place(&of_ids[..kept], u)];
        }
        count *= 8;
    }
}

/// Values that are added in `f32`; their sums are added in `f64`.
const CHUNK: usize = 256;

fn sum(weights: &[f32]) -> f64 {
    weights.chunks(CHUNK).map(lanes).sum()
}

/// The sum of a chunk: 16 sums side by side, then those in order.
fn lanes(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; 16];
    let (whole, rest) = chunk.as_chunks::<16>();
    for values in whole {
        for (lane, &x) in lanes.iter_mut().zip(values) {
            *lane += x;
        }
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(x)).sum();
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
}

/// How many of the descending `weights` it takes to reach `top_p` of `total`: at least one.
fn reach(weights: &[f32], top_p: f32, total: f64) -> usize {
    if top_p >= 1.0 {
        return weights.len();
    }
    let (mut left, mut kept) = (f64::from(top_p) * total, 0);
    while kept < weights.len() {
        left -= f64::from(weights[kept]);
        kept += 1;
        if left <= 0.0 {
            break;
        }
    }
    kept.max(1)
}

/// Where `u` of the cumulated weights falls: never on one that is 0.
fn place(weights: &[f32], u: f64) -> usize {
    let mut rest = u * sum(weights);
    let mut last = 0;
    for (chunk, first) in weights.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let of_chunk = sum(chunk);
        if of_chunk <= 0.0 {
            continue;
        }
        // Where rounding leaves `rest` beyond the end, the last one that is not 0 is it.
        last = first + within(chunk, rest);
        if rest < of_chunk {
            break;
        }
        rest -= of_chunk;
    }
    last
}

fn within(chunk: &[f32], mut rest: f64) -> usize {
    let mut last = 0;
    for (index, &weight) in chunk.iter().enumerate() {
        if weight > 0.0 {
            last = index;
            rest -= f64::from(weight);
            if rest < 0.0 {
                break;
            }
        }
    }
    last
}

/// The logits of a row that are at least a bound.
struct Row<'a> {
    logits: &'a [f32],
    least: f32,
}

impl Row<'_> {
    /// The `count` greatest logits' ids into `ids`, greatest first, of equals the lowest id first; without NaNs.
    ///
    /// The count-th greatest of the chunks' maxima has at least `count` logits at or above it: what is below is not
    /// among the wanted, and mostly little is not below.
    fn likeliest(&self, count: usize, ids: &mut Vec<u32>, maxima: &mut Vec<f32>) {
        ids.clear();
        if count == 0 {
            return;
        }
        maxima.clear();
        maxima.extend(self.logits.chunks(32).map(maximum));
        let mut bound = self.least;
        if count <= maxima.len() {
            let (_, of_maxima, _) = maxima.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
            bound = bound.max(*of_maxima);
        }
        ids.extend((0..).zip(self.logits).filter(|&(_, &logit)| logit >= bound).map(|(id, _)| id));
        if count < ids.len() {
            ids.select_nth_unstable_by(count - 1, |a, b| self.order(*a, *b));
            ids.truncate(count);
        }
        ids.sort_unstable_by(|a, b| self.order(*a, *b));
    }

    fn order(&self, a: u32, b: u32) -> Ordering {
        self.logits[b as usize].total_cmp(&self.logits[a as usize]).then(a.cmp(&b))
    }
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
