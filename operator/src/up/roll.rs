//! How the processes of one Deployment come to be as many as asked for, of the newest template. What `apps/v1` does with
//! `maxSurge` and `maxUnavailable`, with the same two numbers. Pure.

use lorikeet_crds::deployment::RolloutStrategy;

use crate::build::workload::surges;
use crate::fleet::Capacity;

/// A process, as far as a rollout looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Of the newest template.
    pub current: bool,
    /// Takes requests.
    pub ready: bool,
    /// Was let go and has not ended.
    pub leaving: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Start so many.
    pub start: usize,
    /// Let these go.
    pub leave: Vec<String>,
}

/// The next steps towards `wanted` processes of the newest template, in the order of `strategy`. `fits`: there is memory for
/// one more. A rollout that began with a surge keeps it: where memory has become scarce that may be the new one's own doing,
/// and the old ones would go before it is ready, if it ever is.
#[must_use]
pub fn next_steps(standing: &[Standing], wanted: usize, strategy: RolloutStrategy, fits: bool) -> Steps {
    let comes_first = fits || is_surging(standing, wanted);
    // What a replica takes of this machine is its memory, as it takes GPUs of a node.
    let surge = surges(strategy, Capacity::default(), u32::from(!comes_first));
    steps(standing, wanted, surge)
}

/// Whether one of the newest template came before an old one went.
fn is_surging(standing: &[Standing], wanted: usize) -> bool {
    let here = || standing.iter().filter(|one| !one.leaving);
    here().count() > wanted && here().any(|one| one.current) && here().any(|one| !one.current)
}

/// The next steps towards `wanted` processes of the newest template. `surge`: one more may run meanwhile, so that none
/// that is ready goes before another is; else one fewer may be ready, and none starts before its predecessor has ended.
fn steps(standing: &[Standing], wanted: usize, surge: bool) -> Steps {
    let mut here: Vec<&Standing> = standing.iter().filter(|one| !one.leaving).collect();
    // The old before the new, those that serve nobody before those that do, the youngest first.
    here.sort_by(|one, other| {
        (one.current, one.ready).cmp(&(other.current, other.ready)).then_with(|| by_age(other, one))
    });
    let old = here.iter().filter(|one| !one.current).count();
    // One that still drains holds its memory: without a surge it counts.
    let taken = if surge { here.len() } else { standing.len() };
    let most = wanted + usize::from(surge && old > 0);
    let start = most.saturating_sub(taken).min(wanted.saturating_sub(here.len() - old));

    let surplus = here.len().saturating_sub(wanted);
    let goes = |one: &&Standing| one.name.clone();
    if old == 0 || wanted == 0 {
        return Steps { start, leave: here.iter().take(surplus).map(goes).collect() };
    }
    // Without a surge an old one makes room although there is no surplus, unless one does so already.
    let makes_room = usize::from(!surge && here.len() == standing.len());
    let least = if surge { wanted } else { wanted - 1 };
    let mut ready = here.iter().filter(|one| one.ready).count();
    let mut may_go = |one: &&&Standing| {
        let may = !one.ready || ready > least;
        ready -= usize::from(may && one.ready);
        may
    };
    let leave =
        here.iter().take(old).filter(|one| may_go(one)).take(surplus.max(makes_room)).map(goes).collect();
    Steps { start, leave }
}

/// `x-10` is younger than `x-9`.
fn by_age(one: &Standing, other: &Standing) -> std::cmp::Ordering {
    (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `C`urrent or `o`ld; `+` ready, `-` not, `!` leaving.
    fn standing(text: &str) -> Vec<Standing> {
        let of = |(index, word): (usize, &str)| Standing {
            name: format!("x-{index}"),
            current: word.starts_with('C'),
            ready: word.ends_with('+'),
            leaving: word.ends_with('!'),
        };
        text.split_whitespace().enumerate().map(of).collect()
    }

    #[test]
    fn each_situation_has_its_steps() {
        for (text, wanted, surge, start, leave) in [
            ("", 2, true, 2, vec![]),
            ("C- C-", 2, true, 0, vec![]),
            ("C+ C+", 2, true, 0, vec![]),
            // More or fewer.
            ("C+ C+ C+", 1, true, 0, vec!["x-2", "x-1"]),
            ("C+ C- C+", 2, true, 0, vec!["x-1"]),
            ("C+", 0, true, 0, vec!["x-0"]),
            ("C+", 3, false, 2, vec![]),
            // With a surge: the new one first.
            ("o+ o+", 2, true, 1, vec![]),
            ("o+ o+ C-", 2, true, 0, vec![]),
            ("o+ o+ C+", 2, true, 0, vec!["x-1"]),
            ("o+ o! C+", 2, true, 1, vec![]),
            ("o+", 1, true, 1, vec![]),
            ("o+ C+", 1, true, 0, vec!["x-0"]),
            // An old one that serves nobody goes at once, when there is another.
            ("o- C-", 1, true, 0, vec!["x-0"]),
            // Without: the old one first, and the next only when the new one is ready.
            ("o+ o+", 2, false, 0, vec!["x-1"]),
            ("o+ o!", 2, false, 0, vec![]),
            ("o+", 2, false, 1, vec![]),
            ("o+ C-", 2, false, 0, vec![]),
            ("o+ C+", 2, false, 0, vec!["x-0"]),
            ("o+", 1, false, 0, vec!["x-0"]),
        ] {
            let expected = Steps { start, leave: leave.into_iter().map(str::to_owned).collect() };
            assert_eq!(
                steps(&standing(text), wanted, surge),
                expected,
                "{text:?} to {wanted}, surge {surge}"
            );
        }
    }

    #[test]
    fn a_rollout_keeps_its_order_when_memory_becomes_scarce() {
        use RolloutStrategy::{Auto, Recreate, Surge};
        for (text, wanted, strategy, start, leave) in [
            // Nothing has begun: the old one makes room.
            ("o+", 1, Auto, 0, vec!["x-0"]),
            ("o+ o+", 2, Auto, 0, vec!["x-1"]),
            ("o+", 1, Surge, 1, vec![]),
            // The new one came first, and loads, or fails: the old ones serve until it is ready.
            ("o+ C-", 1, Auto, 0, vec![]),
            ("o+ o+ C-", 2, Auto, 0, vec![]),
            ("o+ C+", 1, Auto, 0, vec!["x-0"]),
            ("o+ o+ C+", 2, Auto, 0, vec!["x-1"]),
            // For the next one there is to be memory again.
            ("o+ o! C+", 2, Auto, 0, vec![]),
            ("o+ C+", 2, Auto, 0, vec!["x-0"]),
            // Asked for since.
            ("o+ C-", 1, Recreate, 0, vec!["x-0"]),
            // A third template: no new one is there.
            ("o+ o-", 1, Auto, 0, vec!["x-1"]),
        ] {
            let expected = Steps { start, leave: leave.into_iter().map(str::to_owned).collect() };
            let found = next_steps(&standing(text), wanted, strategy, false);
            assert_eq!(found, expected, "{text:?} to {wanted}, {strategy:?}");
        }
        assert_eq!(next_steps(&standing("o+"), 1, Auto, true).start, 1, "there is memory: the new one first");
    }

    #[test]
    fn a_rollout_with_a_surge_never_has_fewer_ready_and_ends() {
        for wanted in 1..5_usize {
            let mut all = standing(&"o+ ".repeat(wanted));
            for _ in 0..40 {
                let next = steps(&all, wanted, true);
                all.retain(|one| !next.leave.contains(&one.name));
                assert!(all.iter().filter(|one| one.ready).count() >= wanted);
                all.iter_mut().for_each(|one| one.ready = true);
                let free: Vec<usize> = (0..)
                    .filter(|index| !all.iter().any(|one| one.name == format!("x-{index}")))
                    .take(next.start)
                    .collect();
                all.extend(free.into_iter().map(|index| Standing {
                    name: format!("x-{index}"),
                    current: true,
                    ready: false,
                    leaving: false,
                }));
                assert!(all.len() <= wanted + 1);
            }
            assert!(all.len() == wanted && all.iter().all(|one| one.current && one.ready), "{all:?}");
        }
    }
}
