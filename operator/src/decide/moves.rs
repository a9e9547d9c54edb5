//! Moves: an adapter that goes from one replica to another is kept where it comes from until it has arrived, and so many at
//! a time go to one replica. So a replica that joins takes its share over bit by bit, and no request waits for a load that
//! need not be. Pure, and without memory: what has arrived is what replicas report.

use std::cmp::Reverse;

use lorikeet_api::{AdapterReport, AdapterState};

use crate::decide::place::{Measured, Place};
use crate::decide::reports::{Reports, is_resident};
use crate::decide::validate::{Spread, ValidAdapter};
use crate::fleet::{Contact, Replica};

/// What moves depend on.
pub struct Moves<'a> {
    /// What is placed.
    pub adapters: &'a [&'a ValidAdapter],
    /// What each of it takes.
    pub measured: &'a [Measured],
    /// All replicas of the fleet.
    pub replicas: &'a [Replica],
    /// What they say.
    pub reports: &'a Reports<'a>,
    /// Bytes on each of them.
    pub budget: u64,
    /// Adapters that may move to one of them at a time.
    pub at_once: usize,
}

/// An adapter that is to go to some replicas and is still on others, as indices.
struct Mover {
    /// The adapter.
    at: usize,
    /// Where it is to go, and how far each of them is.
    to: Vec<(usize, Progress)>,
    /// Where it may stay meanwhile.
    from: Vec<usize>,
}

/// How far a replica is with an adapter that it should take over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// It cannot, or does not answer: it keeps nobody waiting.
    Failed,
    /// It loads it.
    Begun,
    /// It has not begun.
    None,
}

/// Lets what moves stay where it comes from, where there is room beside what is placed there, and wait for its turn. What is
/// pinned does not wait: a replica is ready with its pinned adapters. `places` are those of all adapters, where they should be
/// in the end.
pub fn settle(places: &mut [Place], moves: &Moves<'_>) {
    let mut movers: Vec<Mover> =
        places.iter().enumerate().filter_map(|(at, place)| mover(at, place, moves)).collect();
    if movers.is_empty() {
        return;
    }
    let bytes = |at: usize| moves.measured.get(at).map_or(0, |one| one.bytes);
    let mut room = vec![moves.budget; moves.replicas.len()];
    for (at, place) in places.iter().enumerate() {
        place.replicas.iter().for_each(|index| room[*index] = room[*index].saturating_sub(bytes(at)));
    }
    movers.sort_by_key(|mover| {
        let adapter = moves.adapters[mover.at];
        (Reverse((adapter.pinned, adapter.priority)), mover.at)
    });
    for mover in &mut movers {
        let (own, wanted) = (bytes(mover.at), mover.to.len());
        mover.from.retain(|index| room[*index] >= own);
        mover.from.truncate(wanted);
        mover.from.iter().for_each(|index| room[*index] -= own);
    }
    let mut under_way = vec![0; moves.replicas.len()];
    for (index, _) in movers.iter().flat_map(|mover| &mover.to).filter(|(_, far)| *far == Progress::Begun) {
        under_way[*index] += 1;
    }
    for mover in movers {
        let place = &mut places[mover.at];
        // Only as many wait as there are others that keep it.
        let mut waits = if moves.adapters[mover.at].pinned { 0 } else { mover.from.len() };
        for (index, far) in mover.to {
            if far != Progress::None {
                continue;
            }
            if under_way[index] < moves.at_once || waits == 0 {
                under_way[index] += 1;
            } else {
                waits -= 1;
                place.replicas.retain(|one| *one != index);
            }
        }
        place.replicas.extend(mover.from);
        place.replicas.sort_unstable();
    }
}

/// Adapter `at`, where it is on other replicas than it should be, and not yet on all where it should.
fn mover(at: usize, place: &Place, moves: &Moves<'_>) -> Option<Mover> {
    let adapter = moves.adapters[at];
    // What is everywhere comes from nowhere else.
    if adapter.spread == Spread::All && place.without_room == 0 {
        return None;
    }
    let said: Vec<(usize, &AdapterReport)> = moves.reports.current(adapter).collect();
    let of =
        |index: usize| said.binary_search_by_key(&index, |(one, _)| *one).ok().map(|found| said[found].1);
    let is_placed = |index: &usize| place.replicas.binary_search(index).is_ok();
    let may_stay = |(index, report): &&(usize, &AdapterReport)| {
        is_resident(report) && !moves.replicas[*index].leaving && !is_placed(index)
    };
    let from: Vec<usize> = said.iter().filter(may_stay).map(|(index, _)| *index).collect();
    if from.is_empty() {
        return None;
    }
    let answers = |index: usize| matches!(moves.replicas[index].contact, Contact::Reported(_));
    let lacks = |index: &usize| match of(*index) {
        // Whatever it had: until it answers again somebody else does.
        _ if !answers(*index) => Some((*index, Progress::Failed)),
        Some(report) if is_resident(report) => None,
        Some(report) => Some((*index, progress(report))),
        None => Some((*index, Progress::None)),
    };
    let to: Vec<(usize, Progress)> = place.replicas.iter().filter_map(lacks).collect();
    (!to.is_empty()).then_some(Mover { at, to, from })
}

fn progress(report: &AdapterReport) -> Progress {
    match report.state {
        _ if report.error.is_some() => Progress::Failed,
        AdapterState::Failed => Progress::Failed,
        AdapterState::Loading => Progress::Begun,
        _ => Progress::None,
    }
}
