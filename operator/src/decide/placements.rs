//! Placements: what each replica says of one Adapter, as its status lists it. Pure. Of most Adapters of a Deployment the
//! replicas say the same: such a list is made once in a decision, and kept once by all statuses that have it.

use std::cell::RefCell;
use std::collections::HashMap;

use internment::ArcIntern;
use lorikeet_api::{AdapterState, Tier};
use lorikeet_crds::adapter::{LISTED, ReplicaPlacement};

use crate::decide::reports::{Judged, Reports, last};
use crate::decide::validate::ValidAdapter;
use crate::fleet::{Contact, Fleet, Replica};

/// The state of an Adapter on a replica that does not take what it should hold.
pub const REFUSED: &str = "Refused";

/// What is said of one that does not answer. Why is said once, by the Deployment: a text that changes, in the status of each
/// of ten thousand Adapters, would be as many writes.
const SILENT: &str = "it does not answer; see the status of its Deployment, and its log";

/// The lists of a decision.
pub struct Placements<'a> {
    replicas: &'a [Replica],
    reports: &'a Reports<'a>,
    /// Replicas are starting.
    starting: bool,
    made: RefCell<HashMap<Runs<'a>, ArcIntern<Vec<ReplicaPlacement>>>>,
}

/// What is listed of each replica, and of how many in a row.
type Runs<'a> = Vec<(Line<'a>, usize)>;

/// What is listed of one replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Line<'a> {
    /// Nothing.
    None,
    /// It does not answer any longer.
    Silent,
    /// It was never heard, and should have been.
    Unheard,
    /// It does not take what it should hold, and that is not what it has.
    Refuses,
    /// What it says.
    Says { outdated: bool, state: AdapterState, tier: Tier, error: Option<&'a str> },
}

impl<'a> Placements<'a> {
    /// None yet, of the replicas of `fleet` and what they say now.
    #[must_use]
    pub fn new(fleet: &'a Fleet, reports: &'a Reports<'a>) -> Self {
        Self { replicas: &fleet.replicas, reports, starting: fleet.is_starting(), made: RefCell::default() }
    }

    /// Replicas that are there and were never heard.
    pub fn unheard(&self) -> impl Iterator<Item = &'a str> {
        let is_unheard = |replica: &&Replica| last(&replica.contact).is_none();
        self.replicas.iter().filter(is_unheard).map(|replica| replica.name.as_str())
    }

    /// What each replica says of `adapter`: those in error first, then those where something is under way, then those that
    /// have it, then the others; of these by name.
    #[must_use]
    pub fn of(&self, adapter: &ValidAdapter) -> ArcIntern<Vec<ReplicaPlacement>> {
        let mut judged = Judged::of(adapter);
        let row = self.reports.row(&adapter.served_name);
        let mut line = |(index, replica): (usize, &Replica)| match &replica.contact {
            // One that goes may be silent.
            Contact::Unreachable { .. } if replica.leaving => Line::None,
            // One that was never heard may be starting: nothing is known to be there.
            Contact::Unreachable { last: None, .. } if self.starting => Line::None,
            Contact::Unreachable { last: None, .. } => Line::Unheard,
            Contact::Unreachable { .. } => Line::Silent,
            Contact::Pending | Contact::Loading | Contact::Reported(_) => {
                let said = row.get(index).copied().flatten();
                let outdated = said.is_none_or(|said| !judged.speaks_of_it(said));
                match said {
                    _ if outdated && replica.refusal.is_some() => Line::Refuses,
                    None => Line::None,
                    Some(said) => Line::Says {
                        outdated,
                        state: said.state,
                        tier: said.tier,
                        error: said.error.as_ref().map(|failure| failure.message.as_str()),
                    },
                }
            }
        };
        let mut lines: Runs<'a> = Vec::new();
        for line in self.replicas.iter().enumerate().map(&mut line) {
            match lines.last_mut() {
                Some((same, count)) if *same == line => *count += 1,
                _ => lines.push((line, 1)),
            }
        }
        let mut made = self.made.borrow_mut();
        if let Some(list) = made.get(&lines) {
            return list.clone();
        }
        let list = ArcIntern::new(listed(self.replicas, &lines));
        made.insert(lines, list.clone());
        list
    }
}

fn listed(replicas: &[Replica], runs: &[(Line<'_>, usize)]) -> Vec<ReplicaPlacement> {
    let lines = runs.iter().flat_map(|(line, count)| std::iter::repeat_n(*line, *count));
    let mut all: Vec<ReplicaPlacement> =
        replicas.iter().zip(lines).filter_map(|(replica, line)| placement(replica, line)).collect();
    all.sort_by(|one, other| order(one).cmp(&order(other)));
    all.truncate(LISTED);
    all
}

/// What there is most to tell of comes first.
fn order(placement: &ReplicaPlacement) -> (u8, &str) {
    let class = match placement.state.as_str() {
        _ if placement.error.is_some() => 0,
        "Ready" => 2,
        "Registered" => 3,
        _ => 1,
    };
    (class, &placement.pod)
}

fn placement(replica: &Replica, line: Line<'_>) -> Option<ReplicaPlacement> {
    let pod = replica.name.clone();
    let without = |state: &str, error: Option<&str>| {
        let (pod, state, error) = (replica.name.clone(), state.to_owned(), error.map(str::to_owned));
        Some(ReplicaPlacement { pod, tier: None, state, error })
    };
    let (outdated, state, tier, error) = match (line, &replica.contact) {
        (Line::Says { outdated, state, tier, error }, _) => (outdated, state, tier, error),
        (Line::Unheard, Contact::Unreachable { error, .. }) => return without("Unreachable", Some(error)),
        (Line::Silent | Line::Unheard, _) => return without("Unreachable", Some(SILENT)),
        (Line::Refuses, _) => return without(REFUSED, replica.refusal.as_deref()),
        (Line::None, _) => return None,
    };
    let state = match state {
        _ if outdated => "Outdated",
        AdapterState::Registered => "Registered",
        AdapterState::Loading => "Loading",
        AdapterState::Ready => "Ready",
        AdapterState::Failed => "Failed",
        AdapterState::Draining => "Draining",
    };
    let tier = match tier {
        Tier::Resident => "Resident",
        Tier::Host => "Host",
        Tier::Disk => "Disk",
        Tier::Remote => "Remote",
    };
    Some(ReplicaPlacement {
        pod,
        tier: Some(tier.to_owned()),
        state: state.to_owned(),
        error: error.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More replicas than a status lists; those that there is most to tell of are the last by name.
    #[test]
    fn of_more_replicas_than_are_listed_those_are_kept_that_there_is_most_to_tell_of() {
        let says = |state, tier, error| Line::Says { outdated: false, state, tier, error };
        let runs = [
            (says(AdapterState::Registered, Tier::Remote, None), LISTED),
            (says(AdapterState::Ready, Tier::Resident, None), LISTED - 4),
            (says(AdapterState::Loading, Tier::Remote, None), 1),
            (Line::None, 1),
            (Line::Silent, 1),
            (Line::Refuses, 1),
            (says(AdapterState::Ready, Tier::Resident, Some("its source is away")), 1),
        ];
        let count: usize = runs.iter().map(|(_, count)| count).sum();
        let replica = |at: usize| Replica {
            name: format!("p{at:02}"),
            incarnation: String::new(),
            leaving: false,
            contact: Contact::Pending,
            refusal: Some("413: too many".to_owned()),
        };
        let replicas: Vec<Replica> = (0..count).map(replica).collect();
        let kept = listed(&replicas, &runs);
        assert_eq!(kept.len(), LISTED);
        let told = |at: usize| {
            let ReplicaPlacement { pod, state, error, .. } = &kept[at];
            (pod.as_str(), state.as_str(), error.as_deref())
        };
        assert_eq!(told(0), ("p30", "Unreachable", Some(SILENT)));
        assert_eq!(told(1), ("p31", REFUSED, Some("413: too many")));
        assert_eq!(told(2), ("p32", "Ready", Some("its source is away")));
        assert_eq!(told(3), ("p28", "Loading", None));
        // Of those that have it all, and none that only knows of it.
        for (at, pod) in (4..LISTED).zip(LISTED..) {
            assert_eq!(told(at), (format!("p{pod}").as_str(), "Ready", None));
        }
    }
}
