//! Shards: into how many parts the registry goes, by the bytes of what is in it, and that it does not grow beyond them. Pure.
//!
//! A ConfigMap ends at 1 MiB. The pods name the most that there may be, since another number would replace them all.

use crate::decide::validate::{Refusal, ValidAdapter};

/// The most shards.
pub const MOST: usize = 64;
/// The fewest: a change writes one shard, not all.
const FEWEST: usize = 16;
/// Bytes of a shard, with a tenth of a ConfigMap to spare.
const LIMIT: usize = 900 << 10;
/// What an adapter takes in a shard beside its texts: names of fields, numbers, punctuation.
const FIXED: usize = 160;

/// How full the shards are, were there the most of them.
#[derive(Clone, Debug)]
pub struct Shards {
    bytes: [usize; MOST],
}

impl Default for Shards {
    fn default() -> Self {
        Self { bytes: [0; MOST] }
    }
}

impl Shards {
    /// Those that `adapters` fill.
    pub fn of<'a>(adapters: impl Iterator<Item = &'a ValidAdapter>) -> Self {
        let mut shards = Self::default();
        adapters.for_each(|adapter| shards.keep(adapter));
        shards
    }

    /// Adds `adapter`.
    ///
    /// # Errors
    /// Its shard is full.
    pub fn take(&mut self, adapter: &ValidAdapter) -> Result<(), Refusal> {
        if self.bytes[shard(&adapter.served_name, MOST)] + weight(adapter) > LIMIT {
            return Err(Refusal::RegistryFull);
        }
        self.keep(adapter);
        Ok(())
    }

    /// Adds what is served already.
    pub fn keep(&mut self, adapter: &ValidAdapter) {
        self.bytes[shard(&adapter.served_name, MOST)] += weight(adapter);
    }

    /// The fewest shards of which none is too full.
    #[must_use]
    pub fn count(&self) -> usize {
        let fits = |count: usize| {
            (0..count).all(|index| self.bytes.iter().skip(index).step_by(count).sum::<usize>() <= LIMIT)
        };
        let mut count = FEWEST;
        while count < MOST && !fits(count) {
            count *= 2;
        }
        count
    }
}

/// The shard of `name` among `count`, a power of two: FNV-1a, so that an adapter stays in its shard whatever the others are.
#[must_use]
pub fn shard(name: &str, count: usize) -> usize {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // The lowest bits alone know little of the name.
    (hash ^ (hash >> 16)) as usize % count
}

/// The bytes of `adapter` in a shard, or some more.
fn weight(adapter: &ValidAdapter) -> usize {
    let texts = [
        Some(&adapter.served_name),
        Some(&adapter.source),
        adapter.credentials.as_ref(),
        adapter.digest.as_ref(),
    ];
    texts.into_iter().flatten().map(|text| written(text)).sum::<usize>() + FIXED
}

/// The bytes of `text` in JSON at most: what has to be escaped takes up to six.
fn written(text: &str) -> usize {
    let escaped = text.bytes().filter(|byte| byte.is_ascii_control() || matches!(byte, b'"' | b'\\')).count();
    text.len() + 5 * escaped
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::Reason;

    use super::*;
    use crate::decide::desired::desired_anywhere;
    use crate::decide::validate::{Spread, ValidFleet};

    fn adapter(name: &str, source: &str) -> ValidAdapter {
        ValidAdapter {
            key: ("default".to_owned(), name.to_owned()),
            served_name: name.to_owned(),
            source: source.to_owned(),
            credentials: Some("c".repeat(253)),
            digest: Some(format!("sha256:{}", "0".repeat(64))),
            spread: Spread::All,
            pinned: true,
            priority: -1_000_000,
            bytes: 0,
        }
    }

    #[test]
    fn no_adapter_is_longer_in_a_shard_than_it_is_taken_for() {
        for source in ["hf://acme/sql", "https://h/x?sig=\"\u{1}\u{7f}\"", "s3://b/\u{e4}\u{1f99c}"] {
            let one = adapter("sql", source);
            let weight = weight(&one);
            let valid = ValidFleet { adapters: vec![one], max_rank: 1024, ..ValidFleet::default() };
            let json = serde_json::to_string(&desired_anywhere(&valid)).unwrap();
            assert!(json.len() <= weight, "{} of {weight}: {json}", json.len());
        }
    }

    #[test]
    fn there_are_more_shards_where_sources_are_long_and_none_is_over_its_limit() {
        let of = |length: usize| {
            let source = format!("https://h/x?{}", "s".repeat(length));
            let all: Vec<ValidAdapter> = (0..10_000).map(|at| adapter(&format!("a{at}"), &source)).collect();
            let count = Shards::of(all.iter()).count();
            let mut bytes = vec![0; count];
            all.iter().for_each(|one| bytes[shard(&one.served_name, count)] += weight(one));
            assert!(bytes.iter().all(|bytes| *bytes <= LIMIT), "{length}: {bytes:?}");
            count
        };
        assert_eq!([of(10), of(1500), of(3000)], [16, 32, 64]);
        assert_eq!(Shards::default().count(), FEWEST);
    }

    #[test]
    fn an_adapter_that_no_shard_has_room_for_is_refused_and_what_is_there_is_kept() {
        let mut shards = Shards::default();
        let (one, long) = (adapter("sql", "hf://acme/sql"), adapter("sql", &"x".repeat(LIMIT)));
        assert_eq!(shards.take(&one), Ok(()));
        let refusal = shards.take(&long).unwrap_err();
        assert_eq!(refusal.reason(), Reason::TooLarge);
        assert!(refusal.to_string().starts_with("source: the Deployment's registry is full"), "{refusal}");
        assert_eq!(shards.take(&one), Ok(()), "there is room for another of its size");
    }
}
