//! Random numbers by place: a function, not a stream, so that a sequence can begin again anywhere. Pure.

/// Number `index` of `seed`, in `[0, 1)` with 53 bits: two rounds of SplitMix64's finalizer.
pub(super) fn unit(seed: u64, index: u64) -> f64 {
    const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = mix(mix(seed.wrapping_add(WEYL)) ^ index.wrapping_add(1).wrapping_mul(WEYL));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_spread_evenly_over_seeds_and_places() {
        let mut buckets = [0_usize; 16];
        for seed in 0..400 {
            for index in 0..400 {
                buckets[(unit(seed, index) * 16.0) as usize] += 1;
            }
        }
        assert!(buckets.iter().all(|&count| count.abs_diff(10_000) < 400), "{buckets:?}");
    }

    #[test]
    fn neighbouring_places_and_seeds_have_little_in_common() {
        let pairs = |second: fn(u64) -> f64| {
            let products = (0..20_000).map(|i| (unit(i, 0) - 0.5) * (second(i) - 0.5));
            (products.sum::<f64>() / 20_000.0 * 12.0).abs()
        };
        assert!(pairs(|i| unit(i, 1)) < 0.03);
        assert!(pairs(|i| unit(i + 1, 0)) < 0.03);
    }
}
