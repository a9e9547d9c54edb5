//! Place: which replicas keep which adapters resident. Pure, and without memory: rendezvous hashing gives each adapter an
//! order of replicas of its own, and the first ones with room take it. When a replica comes or goes only its share moves.

use crate::decide::validate::{Spread, ValidAdapter};

/// Running and waiting requests of one adapter that one replica is thought to serve well; `Auto` adds a replica for each.
const DEMAND_PER_REPLICA: u32 = 8;

/// What placement knows of an adapter beside its spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that it takes on a replica; 0 until one has loaded it.
    pub bytes: u64,
    /// Requests that run on it or wait for it, over all replicas.
    pub demand: u32,
}

/// Where one adapter goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Indices into the replicas that keep it resident, ascending.
    pub replicas: Vec<usize>,
    /// On how many it should be.
    pub wanted: u32,
    /// Those of them that have no room for it.
    pub without_room: u32,
}

/// Places `adapters`, of which `measured` is known, on `replicas` (names), `budget` bytes on each: a place for each of
/// them. Pinned adapters choose first, then those of higher priority, then by key; an adapter never displaces one that
/// chose before it.
#[must_use]
pub fn place(
    adapters: &[&ValidAdapter],
    measured: &[Measured],
    replicas: &[String],
    budget: u64,
) -> Vec<Place> {
    let mut order: Vec<usize> = (0..adapters.len()).collect();
    order.sort_by(|one, other| {
        let (one, other) = (adapters[*one], adapters[*other]);
        (other.pinned, other.priority).cmp(&(one.pinned, one.priority)).then_with(|| one.key.cmp(&other.key))
    });
    let seeds: Vec<u64> = replicas.iter().map(|name| hash(name.as_bytes(), 0)).collect();
    let mut room = vec![budget; replicas.len()];
    let mut placed = vec![Place::default(); adapters.len()];
    for at in order {
        let (adapter, known) = (adapters[at], measured.get(at).copied().unwrap_or_default());
        let wanted = wanted(adapter.spread, known.demand, replicas.len());
        let place = &mut placed[at];
        place.replicas.reserve_exact(wanted);
        for index in ranking(adapter, &seeds, wanted) {
            if place.replicas.len() == wanted {
                break;
            }
            if let Some(left) = room[index].checked_sub(known.bytes) {
                room[index] = left;
                place.replicas.push(index);
            }
        }
        place.wanted = wanted as u32;
        place.without_room = (wanted - place.replicas.len()) as u32;
        place.replicas.sort_unstable();
    }
    placed
}

fn wanted(spread: Spread, demand: u32, replicas: usize) -> usize {
    match spread {
        Spread::All => replicas,
        Spread::Count(count) => replicas.min(count as usize),
        Spread::Auto => replicas.min(demand.div_ceil(DEMAND_PER_REPLICA).max(1) as usize),
    }
}

/// The demand for which `Auto` asks for that many replicas.
#[must_use]
pub const fn demand_of(replicas: u32) -> u32 {
    replicas.saturating_mul(DEMAND_PER_REPLICA)
}

/// The replicas in the adapter's own order. On all of them the order does not matter and is not computed.
fn ranking(adapter: &ValidAdapter, seeds: &[u64], wanted: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..seeds.len()).collect();
    if wanted < seeds.len() {
        let own = hash(adapter.key.1.as_bytes(), hash(adapter.key.0.as_bytes(), 1));
        order.sort_by_cached_key(|index| (std::cmp::Reverse(mix(own ^ seeds[*index])), *index));
    }
    order
}

/// FNV-1a, finished by SplitMix64's mixer: the same on every machine and in every version, which `std`'s is not.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    mix(bytes.iter().fold(start, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

const fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn adapter(name: &str, spread: Spread) -> ValidAdapter {
        ValidAdapter {
            key: ("default".to_owned(), name.to_owned()),
            served_name: name.to_owned(),
            source: format!("hf://acme/{name}"),
            credentials: None,
            digest: None,
            spread,
            pinned: false,
            priority: 0,
            bytes: 0,
        }
    }

    fn placed(
        adapters: &[ValidAdapter],
        measured: &[Measured],
        replicas: &[String],
        budget: u64,
    ) -> Vec<Place> {
        place(&adapters.iter().collect::<Vec<_>>(), measured, replicas, budget)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("x-runtime-{index}")).collect()
    }

    fn many(count: usize, spread: Spread) -> Vec<ValidAdapter> {
        (0..count).map(|index| adapter(&format!("a{index}"), spread)).collect()
    }

    fn bytes(adapters: &[ValidAdapter], bytes: u64) -> Vec<Measured> {
        vec![Measured { bytes, demand: 0 }; adapters.len()]
    }

    #[test]
    fn a_replica_that_joins_takes_its_share_and_moves_no_more() {
        let adapters = many(1000, Spread::Count(1));
        let before = placed(&adapters, &[], &names(9), u64::MAX);
        let after = placed(&adapters, &[], &names(10), u64::MAX);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        let (to_new, elsewhere): (Vec<_>, Vec<_>) = moved.partition(|(_, after)| after.replicas == [9]);
        assert!(elsewhere.is_empty());
        assert!((60..160).contains(&to_new.len()), "{}", to_new.len());
    }

    #[test]
    fn pinned_and_higher_priority_adapters_choose_first() {
        let mut adapters = many(3, Spread::All);
        adapters[1].priority = 5;
        adapters[2].pinned = true;
        let placed = placed(&adapters, &bytes(&adapters, 10), &names(1), 20);
        assert_eq!(placed[2].replicas, [0]);
        assert_eq!(placed[1].replicas, [0]);
        assert_eq!(placed[0], Place { replicas: vec![], wanted: 1, without_room: 1 });
    }

    #[test]
    fn demand_spreads_an_auto_adapter() {
        let adapters = many(1, Spread::Auto);
        for (demand, expected) in [(0, 1), (8, 1), (9, 2), (1000, 4)] {
            let measured = [Measured { bytes: 1, demand }];
            let placed = placed(&adapters, &measured, &names(4), 100);
            assert_eq!(placed[0].replicas.len(), expected, "demand {demand}");
        }
    }

    proptest! {
        #[test]
        fn no_replica_is_filled_over_its_budget(
            sizes in prop::collection::vec(0_u64..40, 0..60),
            replicas in 0_usize..8,
            budget in 0_u64..200,
            copies in 1_u32..5,
        ) {
            let adapters = many(sizes.len(), Spread::Count(copies));
            let measured: Vec<Measured> = sizes.iter().map(|bytes| Measured { bytes: *bytes, demand: 0 }).collect();
            let placed = placed(&adapters, &measured, &names(replicas), budget);
            let mut used = vec![0; replicas];
            for (place, bytes) in placed.iter().zip(&sizes) {
                let wanted = (copies as usize).min(replicas);
                prop_assert_eq!(place.wanted as usize, wanted);
                prop_assert_eq!(place.replicas.len() + place.without_room as usize, wanted);
                place.replicas.iter().for_each(|index| used[*index] += bytes);
            }
            prop_assert!(used.iter().all(|used| *used <= budget));
        }
    }
}
