//! Random lives of names and generations keep what the ledger promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lorikeet_api::{AdapterState, DesiredAdapter, DesiredChange, DesiredSet, ErrorCode, Version};
use proptest::prelude::*;

use super::*;
use crate::adapters::pin::Generation;
use crate::adapters::scripted::{generation, weights};
use crate::adapters::tenure::{Cause, Notice};
use crate::adapters::wanted::Placement;
use crate::source::Trust;

const BUDGET: u64 = 100;
/// Of the random lives' one second a step.
const DRAIN: Duration = Duration::from_secs(10);
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// The name is to mean the content at this path.
    Set(usize, u8, bool),
    Remove(usize),
    /// A request asks; a cold one begins a load.
    Ask(usize),
    /// The n-th load under way ends: in weights, or not.
    End(usize, bool),
    /// The n-th pin goes.
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, 0..6_u8, any::<bool>()).prop_map(|(name, path, placed)| Step::Set(name, path, placed)),
        (0..4_usize).prop_map(Step::Remove),
        (0..4_usize).prop_map(Step::Ask),
        (0..4_usize).prop_map(Step::Ask),
        (any::<usize>(), any::<bool>()).prop_map(|(nth, fine)| Step::End(nth, fine)),
        any::<usize>().prop_map(Step::Drop),
    ]
}

/// A ledger, the loads and pins that its user holds, and what its names were ever told to mean.
struct World {
    ledger: Ledger,
    loads: Vec<(String, Arc<Wanted>)>,
    /// Those that were asked for under a name, and those of loads.
    pins: Vec<(Option<String>, Pin)>,
    told: BTreeMap<String, BTreeSet<u8>>,
    now: Instant,
}

fn ledger(budget: u64) -> Ledger {
    Ledger::new("base".to_owned(), budget, 100, DRAIN, Arc::default())
}

fn desire(path: &str, placement: Placement) -> Desire {
    Desire::of_source(path, Trust::CommandLine, placement)
}

/// Sizes from small to more than the half of the budget; one that never fits.
fn size(path: u8) -> u64 {
    [10, 20, 35, 60, 100, 101][usize::from(path)]
}

fn arrival(path: &str) -> Arrival {
    let bytes = path.trim_start_matches('/').parse().map_or(10, size);
    Arrival { weights: weights(path, bytes), revision: None, took: Duration::from_millis(5) }
}

fn who(name: &str) -> Interested {
    Interested { names: vec![Arc::from(name)], adopting: Vec::new() }
}

impl World {
    fn step(&mut self, step: &Step) {
        self.now += Duration::from_secs(1);
        match *step {
            Step::Set(name, path, resident) => {
                let name = NAMES[name];
                if !self.ledger.knows(name) {
                    // What it meant before it was removed is none of its meanings any more.
                    self.told.remove(name);
                }
                self.told.entry(name.to_owned()).or_default().insert(path);
                let placement = Placement { resident, ..Placement::default() };
                self.ledger.set(name, desire(&format!("/{path}"), placement), self.now);
            }
            Step::Remove(name) => {
                let was_known = self.ledger.knows(NAMES[name]);
                assert_eq!(self.ledger.remove(NAMES[name], self.now), was_known);
                assert!(!self.ledger.knows(NAMES[name]));
            }
            Step::Ask(name) => self.ask(NAMES[name]),
            Step::End(nth, fine) if !self.loads.is_empty() => {
                let (name, wanted) = self.loads.swap_remove(nth % self.loads.len());
                self.end(&name, &wanted, fine);
            }
            Step::Drop(nth) if !self.pins.is_empty() => {
                drop(self.pins.swap_remove(nth % self.pins.len()));
            }
            Step::End(..) | Step::Drop(_) => {}
        }
        drop(self.ledger.settle());
        let all: Vec<Arc<str>> = self.ledger.names().cloned().collect();
        for (name, wanted) in self.ledger.ahead(all.iter(), self.now).loads {
            self.ledger.begins(&name, &wanted);
            self.loads.push((name.to_string(), wanted));
        }
    }

    fn ask(&mut self, name: &str) {
        match self.ledger.ask(name, self.now) {
            Ok(Asked::Held(pin)) => {
                let told = &self.told[name];
                let means = told.iter().any(|path| generation(&format!("/{path}")) == pin.generation());
                assert!(means, "{name} gave what it was never told to mean");
                self.pins.push((Some(name.to_owned()), pin));
            }
            Ok(Asked::Cold(wanted)) => {
                self.ledger.begins(name, &wanted);
                self.loads.push((name.to_owned(), wanted));
            }
            Err(NotServed::Unknown) => assert!(!self.ledger.knows(name)),
            Err(NotServed::Failed(..)) => {}
        }
    }

    fn end(&mut self, name: &str, wanted: &Arc<Wanted>, fine: bool) {
        let who = who(name);
        let failure = LoadFailure::new(ErrorCode::InvalidWeights, "scripted");
        let failure = match fine {
            false => failure,
            true => match self.ledger.lands(wanted, &who, arrival(&wanted.source.to_string()), self.now) {
                Landing::Landed(pin, _) => return self.pins.push((None, pin)),
                Landing::Wait(_) => self.ledger.finds_no_room(0),
                Landing::Refused(failure) => failure,
            },
        };
        self.ledger.fails(wanted, &who.names, &failure, self.now);
    }

    fn check(&self) {
        let (used, budget) = self.ledger.host.bytes();
        assert!(used <= budget, "{used} of {budget} bytes");
        assert_eq!(used, self.ledger.host.sum_of_held(), "bytes are the sum of live generations");
        for (name, pin) in &self.pins {
            assert!(self.ledger.host.contains(pin.generation()), "{pin:?} was freed while it was held");
            let entry = name.as_ref().map(|name| self.ledger.entry(name).expect("it has a request"));
            let is_left =
                |entry: &Entry| entry.draining || entry.serving.generation() != Some(pin.generation());
            assert_eq!(pin.notice().is_some(), entry.is_some_and(is_left), "{pin:?} of {name:?}");
            assert!(pin.notice().is_none_or(|notice| notice.until <= self.now + DRAIN));
        }
        assert_eq!(self.ledger.count(), self.ledger.names().count());
        let report = self.ledger.reported(None, &|_| false);
        for adapter in report.adapters {
            let ready = adapter.state == AdapterState::Ready;
            let held = adapter.digest.map(|digest| Generation::of(digest.parse().unwrap()));
            assert!(!ready || held.is_some_and(|held| self.ledger.host.contains(held)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_life_breaks_the_budget_frees_a_held_generation_or_gives_another_tenants(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = World {
            ledger: ledger(BUDGET),
            loads: Vec::new(),
            pins: Vec::new(),
            told: BTreeMap::new(),
            now: Instant::now(),
        };
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.pins.clear();
        NAMES.iter().for_each(|name| {
            world.ledger.remove(name, world.now);
        });
        drop(world.ledger.settle());
        prop_assert_eq!(world.ledger.host.bytes().0, 0, "all memory came back");
        prop_assert!(world.ledger.reported(None, &|_| false).adapters.is_empty());
    }

    /// A reader that follows the reports knows at each moment what a complete report says.
    #[test]
    fn partial_reports_add_up_to_the_complete_one(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World {
            ledger: ledger(BUDGET),
            loads: Vec::new(),
            pins: Vec::new(),
            told: BTreeMap::new(),
            now: Instant::now(),
        };
        let (mut known, mut after) = (BTreeMap::new(), 0);
        for step in &steps {
            world.step(step);
            let partial = world.ledger.reported(Some(after), &|_| false);
            prop_assert!(!partial.complete);
            partial.removed.iter().for_each(|name| { known.remove(name); });
            for mut adapter in partial.adapters {
                adapter.running = 0;
                known.insert(adapter.name.clone(), adapter);
            }
            after = partial.report;
            let mut all = world.ledger.reported(None, &|_| false).adapters;
            all.iter_mut().for_each(|adapter| adapter.running = 0);
            prop_assert_eq!(&known.values().cloned().collect::<Vec<_>>(), &all);
        }
    }
}

fn named(name: &str, path: &str) -> DesiredAdapter {
    DesiredAdapter { name: name.to_owned(), source: path.to_owned(), ..DesiredAdapter::default() }
}

fn set(epoch: u64, sequence: u64, adapters: Vec<DesiredAdapter>) -> DesiredSet {
    DesiredSet { version: Version { epoch, sequence }, adapters }
}

fn names(ledger: &Ledger) -> Vec<&str> {
    ledger.names().map(|name| &**name).collect()
}

#[test]
fn a_set_replaces_the_last_one_and_leaves_the_command_lines_names() {
    let mut ledger = ledger(BUDGET);
    ledger.register("own", desire("/own", Placement::default()), Instant::now()).unwrap();
    ledger.apply(&set(1, 1, vec![named("a", "/a"), named("own", "/other")]), Instant::now()).unwrap();
    assert_eq!(names(&ledger), ["a", "own"]);
    assert_eq!(ledger.entry("own").unwrap().serving.desire.source(), "/other");
    ledger.apply(&set(1, 2, vec![named("b", "/b")]), Instant::now()).unwrap();
    assert_eq!(names(&ledger), ["b", "own"]);
    assert_eq!(ledger.entry("own").unwrap().serving.desire.source(), "/own");
}

#[test]
fn an_older_set_is_refused_and_an_equal_one_accepted_again() {
    let mut ledger = ledger(BUDGET);
    ledger.apply(&set(2, 1, vec![named("a", "/a")]), Instant::now()).unwrap();
    let report = ledger.report_number();
    ledger.apply(&set(2, 1, vec![named("a", "/a")]), Instant::now()).unwrap();
    assert_eq!(ledger.report_number(), report, "nothing changed");
    for (epoch, sequence) in [(1, 9), (2, 0)] {
        let refused = ledger.apply(&set(epoch, sequence, Vec::new()), Instant::now()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::StaleVersion);
    }
    assert_eq!(names(&ledger), ["a"]);
}

#[test]
fn a_change_is_taken_against_its_base_alone() {
    let mut ledger = ledger(BUDGET);
    ledger.apply(&set(1, 1, vec![named("a", "/a"), named("b", "/b")]), Instant::now()).unwrap();
    let version = |sequence| Version { epoch: 1, sequence };
    let change = |base, to, remove: &[&str]| DesiredChange {
        base: version(base),
        version: version(to),
        set: vec![named("c", "/c")],
        remove: remove.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(ledger.change(&change(0, 2, &[]), Instant::now()).unwrap_err().code, ErrorCode::StaleVersion);
    assert_eq!(
        ledger.change(&change(1, 1, &[]), Instant::now()).unwrap_err().code,
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        ledger.change(&change(1, 2, &["c"]), Instant::now()).unwrap_err().code,
        ErrorCode::NameConflict
    );
    ledger.change(&change(1, 2, &["a", "never_there"]), Instant::now()).unwrap();
    assert_eq!((names(&ledger), ledger.version()), (vec!["b", "c"], Some(version(2))));
}

#[test]
fn a_set_with_a_bad_name_is_refused_whole_and_one_with_a_bad_source_is_not() {
    let mut ledger = ledger(BUDGET);
    for name in ["", "base", "a b", "a\n", "../a", "a//b", "é", &"x".repeat(254)] {
        let refused = ledger.apply(&set(1, 1, vec![named("good", "/a"), named(name, "/a")]), Instant::now());
        assert!(refused.is_err(), "{name:?}");
        assert!(names(&ledger).is_empty());
    }
    let twice = ledger.apply(&set(1, 1, vec![named("a", "/a"), named("a", "/b")]), Instant::now());
    assert_eq!(twice.unwrap_err().code, ErrorCode::NameConflict);
    ledger.apply(&set(1, 1, vec![named("good", "/a"), named("bad", "ftp://h/x")]), Instant::now()).unwrap();
    let bad = ledger.describe("bad", ledger.entry("bad").unwrap(), &|_| false);
    assert_eq!((bad.state, bad.error.unwrap().code), (AdapterState::Failed, ErrorCode::SourceForbidden));
    assert!(matches!(ledger.ask("bad", Instant::now()), Err(NotServed::Failed(..))));
    assert!(matches!(ledger.ask("good", Instant::now()), Ok(Asked::Cold(_))));
}

#[test]
fn what_an_adapter_was_trained_on_is_told_when_it_was_loaded_and_not_before() {
    let mut ledger = ledger(BUDGET);
    let told = |ledger: &Ledger| ledger.describe("a", ledger.entry("a").unwrap(), &|_| false).base_model;
    ledger.set("a", desire("/1", Placement::default()), Instant::now());
    assert_eq!(told(&ledger), None);
    let Ok(Asked::Cold(wanted)) = ledger.ask("a", Instant::now()) else { panic!() };
    let landed = ledger.lands(&wanted, &who("a"), arrival("/1"), Instant::now());
    assert!(matches!(landed, Landing::Landed(..)));
    assert_eq!(told(&ledger).as_deref(), Some("acme/base"));
}

#[test]
fn a_name_that_drains_may_come_back_before_its_last_request_ends() {
    let mut ledger = ledger(BUDGET);
    ledger.set("a", desire("/1", Placement::default()), Instant::now());
    let Ok(Asked::Cold(wanted)) = ledger.ask("a", Instant::now()) else { panic!() };
    let Landing::Landed(held, _) = ledger.lands(&wanted, &who("a"), arrival("/1"), Instant::now()) else {
        panic!()
    };
    let Ok(Asked::Held(pin)) = ledger.ask("a", Instant::now()) else { panic!() };
    drop(held);
    ledger.remove("a", Instant::now());
    drop(ledger.settle());
    assert!(ledger.entry("a").unwrap().draining && !ledger.knows("a"));
    ledger.set("a", desire("/1", Placement::default()), Instant::now());
    drop(pin);
    drop(ledger.settle());
    assert!(matches!(ledger.ask("a", Instant::now()), Ok(Asked::Held(_))));
}

#[test]
fn a_removed_name_that_comes_back_with_another_meaning_never_serves_the_old_one() {
    let mut ledger = ledger(BUDGET);
    ledger.set("a", desire("/1", Placement::default()), Instant::now());
    let Ok(Asked::Cold(wanted)) = ledger.ask("a", Instant::now()) else { panic!() };
    let Landing::Landed(running, _) = ledger.lands(&wanted, &who("a"), arrival("/1"), Instant::now()) else {
        panic!()
    };
    ledger.remove("a", Instant::now());
    ledger.set("a", desire("/2", Placement::default()), Instant::now());
    let asked = ledger.ask("a", Instant::now());
    assert!(matches!(asked, Ok(Asked::Cold(wanted)) if wanted.source.to_string() == "/2"));
    drop(running);
    drop(ledger.settle());
    assert_eq!(ledger.host.bytes().0, 0, "the old weights went with their last request");
}

#[test]
fn more_names_than_the_limit_are_refused() {
    let mut ledger = ledger(BUDGET);
    let many: Vec<DesiredAdapter> = (0..101).map(|n| named(&format!("n{n}"), "/a")).collect();
    assert_eq!(ledger.apply(&set(1, 1, many.clone()), Instant::now()).unwrap_err().code, ErrorCode::TooLarge);
    ledger.apply(&set(1, 1, many[1..].to_vec()), Instant::now()).unwrap();
    assert_eq!(ledger.check_load("another", false).unwrap_err().code, ErrorCode::TooLarge);
}

/// Makes `name` serve what is at `path` from `now` on, and returns a request on it.
fn serves(ledger: &mut Ledger, name: &str, desire: Desire, path: &str, now: Instant) -> Pin {
    let wanted = desire.wanted.clone().unwrap();
    ledger.set(name, desire, now);
    let Landing::Landed(held, _) = ledger.lands(&wanted, &who(name), arrival(path), now) else { panic!() };
    let Ok(Asked::Held(pin)) = ledger.ask(name, now) else { panic!() };
    assert_eq!((pin.generation(), pin.notice()), (held.generation(), None));
    pin
}

/// The content at `path`, by its digest.
fn pinned_to(path: &str) -> Desire {
    let digest = Some(generation(path).digest().to_string());
    Desire::of(&DesiredAdapter { digest, ..named("", path) }, Trust::Admin)
}

#[test]
fn requests_on_what_a_swap_left_have_the_drains_time_from_when_it_took_over() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut ledger = ledger(BUDGET);
    let old = serves(&mut ledger, "a", pinned_to("/0"), "/0", start);
    let other = serves(&mut ledger, "b", pinned_to("/0"), "/0", start);
    ledger.set("a", pinned_to("/1"), start + second);
    assert_eq!(old.notice(), None, "what comes is not there yet");
    let new = serves(&mut ledger, "a", pinned_to("/1"), "/1", start + second * 2);
    assert_eq!(old.notice(), Some(Notice::new(Cause::Swapped, DRAIN, start + second * 2)));
    assert_eq!((new.notice(), other.notice()), (None, None), "another name serves the same content still");
    ledger.remove("a", start + second * 3);
    assert_eq!(old.notice().unwrap().until, start + second * 2 + DRAIN, "that time goes on");
    assert_eq!(new.notice(), Some(Notice::new(Cause::Removed, DRAIN, start + second * 3)));
    assert_eq!(ledger.describe("a", ledger.entry("a").unwrap(), &|_| false).running, 2);
    drop((old, new));
    drop(ledger.settle());
    assert!(ledger.entry("a").is_none(), "it is forgotten with its last request");
    assert_eq!(other.notice(), None);
}

#[test]
fn what_is_desired_again_while_it_drains_is_kept_with_its_requests() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut ledger = ledger(BUDGET);
    let first = serves(&mut ledger, "a", pinned_to("/0"), "/0", start);
    let second_one = serves(&mut ledger, "a", pinned_to("/1"), "/1", start);
    assert!(first.notice().is_some() && second_one.notice().is_none());
    ledger.set("a", pinned_to("/0"), start + second);
    assert_eq!(first.notice(), None, "it is desired by its digest, and comes back");
    ledger.set("a", pinned_to("/1"), start + second * 2);
    assert_eq!(first.notice(), Some(Notice::new(Cause::Swapped, DRAIN, start + second * 2)), "it does not");
    let again = serves(&mut ledger, "a", pinned_to("/0"), "/0", start + second * 3);
    assert_eq!((first.notice(), again.notice()), (None, None));
    assert_eq!(second_one.notice(), Some(Notice::new(Cause::Swapped, DRAIN, start + second * 3)));

    ledger.remove("a", start + second * 4);
    assert_eq!(first.notice().map(|notice| notice.cause), Some(Cause::Removed));
    ledger.set("a", pinned_to("/0"), start + second * 5);
    assert_eq!(first.notice(), None, "the name is back as it was");
    assert_eq!(second_one.notice().unwrap().until, start + second * 3 + DRAIN);
}
