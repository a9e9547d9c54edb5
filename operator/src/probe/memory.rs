//! What was read of sources, and when each is to be read again. Pure: it is told the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorikeet_api::{ErrorCode, Failure};

use crate::fleet::{FleetKey, Probe};
use crate::probe::wanted::Wanted;

/// Sources that are remembered at a time; further ones wait.
const REMEMBERED: usize = 65_536;
/// Of a fleet that nobody asked about for so long everything is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// Between two rounds of forgetting.
const ROUND: Duration = Duration::from_secs(60);
/// What could not be read is tried again after so long, and twice as long each time: somebody may be putting it there. Such
/// times of many sources fall together: each brings a look at all of a fleet.
const TRIED_AGAIN: Duration = Duration::from_secs(5);
/// After so many tries that reached nobody who reads, that is told.
const UNTRIED: u32 = 2;
/// Sources of one fleet that are being read or wait for their turn; further ones are begun when one of them has been read.
const BEGUN: usize = 256;
/// So soon what is read may be known: until then nothing is said of it.
const YOUNG: Duration = Duration::from_secs(1);

/// What is remembered.
pub(super) struct Memory {
    /// What was read is read again after so long.
    fresh: Duration,
    start: Instant,
    fleets: HashMap<FleetKey, OfFleet>,
    round: Instant,
}

/// What is remembered for one fleet.
#[derive(Default)]
struct OfFleet {
    known: HashMap<Arc<Wanted>, Known>,
    /// How many of them are being read.
    running: usize,
    /// There was news since the last time that none was.
    is_news: bool,
}

struct Known {
    /// The operator may read it itself.
    is_own: bool,
    probe: Probe,
    /// Since when it is so.
    since: Instant,
    /// When it was last asked about.
    asked: Instant,
    /// Somebody reads it.
    running: bool,
    /// So many times in a row it could not be read.
    failures: u32,
    /// So many of them nobody tried it.
    untried: u32,
    /// The last time nobody was there who reads beside a replica.
    alone: bool,
    /// Why the operator itself could not read it.
    own: Option<String>,
}

/// What came of trying to read a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This is what it says, or why it cannot be read.
    Said(Probe),
    /// Nobody tried it just now, and why: nothing new is known of it.
    Untried(String),
    /// The operator could not read it itself, and why where it tried, and nobody was there who would beside a replica.
    Alone(Option<String>),
}

/// What is known of a source that was asked about.
#[derive(Debug)]
pub(super) struct Asked {
    /// What it says.
    pub probe: Probe,
    /// It is to be read now, and so many tries have failed; whoever asked does that.
    pub read: Option<(Arc<Wanted>, u32)>,
    /// After so long it is to be asked about again.
    pub again: Option<Duration>,
    /// It has only begun to be read, or waits for its turn.
    pub is_young: bool,
}

impl Memory {
    /// Of nothing, at `now`.
    pub(super) fn new(fresh: Duration, now: Instant) -> Self {
        Self { fresh, start: now, fleets: HashMap::new(), round: now }
    }

    /// What is known of `wanted` at `now`. `lacked` is what there would have to be for anybody to read it beside a replica;
    /// `is_own` says whether the operator may read it itself, and is asked once of each.
    pub(super) fn ask(
        &mut self,
        wanted: Wanted,
        is_own: impl FnOnce(&Wanted) -> bool,
        lacked: Option<String>,
        now: Instant,
    ) -> Asked {
        let is_known = |fleet: &OfFleet| fleet.known.contains_key(&wanted);
        if !self.fleets.get(&wanted.fleet).is_some_and(is_known) {
            self.forget(now);
            if self.fleets.values().map(|fleet| fleet.known.len()).sum::<usize>() >= REMEMBERED {
                let probe = Probe::Awaited(format!("room for it: {REMEMBERED} sources are being read"));
                return Asked { probe, read: None, again: Some(ROUND), is_young: false };
            }
        }
        let (beat, passed) = (TRIED_AGAIN.min(self.fresh), now.duration_since(self.start));
        let fleet = self.fleets.entry(wanted.fleet.clone()).or_default();
        let wanted = match fleet.known.get_key_value(&wanted) {
            Some((wanted, _)) => Arc::clone(wanted),
            None => Arc::new(wanted),
        };
        let new = || Known::new(is_own(&wanted), now);
        let known = fleet.known.entry(Arc::clone(&wanted)).or_insert_with(new);
        known.asked = now;
        let waits = known.waits(self.fresh, lacked.is_none(), now);
        let mut asked = Asked { probe: known.probe.clone(), read: None, again: None, is_young: false };
        let may_be_read = known.is_own || lacked.is_none();
        let is_due = !known.running && waits == Some(Duration::ZERO) && may_be_read;
        if is_due && fleet.running < BEGUN {
            asked.read = Some((Arc::clone(&wanted), known.failures));
            (known.running, known.since) = (true, now);
            fleet.running += 1;
        }
        if known.running || is_due {
            // It tells when there is news. When there is none, it is to be tried again.
            asked.again = Some(together(beat, beat, passed));
            let young = YOUNG.saturating_sub(now.duration_since(known.since));
            let is_young = !known.running || !young.is_zero();
            asked.is_young = known.failures == 0 && known.probe == Probe::Pending && is_young;
            if asked.is_young {
                asked.again = Some(if known.running { young } else { YOUNG });
            }
        } else if let Some(waits) = waits.filter(|waits| known.failures > 0 && !waits.is_zero()) {
            asked.again = Some(together(waits, beat, passed));
        }
        if let Some(lacked) = lacked
            && known.probe == Probe::Pending
            && (!known.is_own || known.failures > 0)
        {
            asked.probe = Probe::Awaited(match &known.own {
                Some(why) => format!("{lacked}; the operator itself cannot read it: {why}"),
                None => lacked,
            });
        }
        asked
    }

    /// Takes over what came of reading `wanted`. Whether that is news.
    pub(super) fn learn(&mut self, wanted: &Wanted, outcome: Outcome, now: Instant) -> bool {
        let Some(fleet) = self.fleets.get_mut(&wanted.fleet) else { return false };
        let Some(known) = fleet.known.get_mut(wanted) else { return false };
        fleet.running -= usize::from(known.running);
        let is_news = known.learn(outcome, now);
        fleet.is_news |= is_news;
        is_news
    }

    /// Whether nothing of `fleet` is being read any more, and something of that was news. Said once.
    pub(super) fn is_through(&mut self, fleet: &FleetKey) -> bool {
        let through = self.fleets.get_mut(fleet).filter(|fleet| fleet.running == 0);
        through.is_some_and(|fleet| std::mem::take(&mut fleet.is_news))
    }

    /// Whether somebody reads anything.
    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        self.fleets.values().any(|fleet| fleet.running > 0)
    }

    /// All that is wanted of `fleet` was asked about at `asked`: the rest is accepted, or gone, and is forgotten.
    pub(super) fn settle(&mut self, fleet: &FleetKey, asked: Instant) {
        let Some(of_fleet) = self.fleets.get_mut(fleet) else { return };
        of_fleet.known.retain(|_, known| known.running || known.asked == asked);
        if of_fleet.known.is_empty() {
            self.fleets.remove(fleet);
        } else if of_fleet.known.len() < of_fleet.known.capacity() / 4 {
            of_fleet.known.shrink_to_fit();
        }
    }

    fn forget(&mut self, now: Instant) {
        if now.duration_since(self.round) < ROUND {
            return;
        }
        self.round = now;
        for fleet in self.fleets.values_mut() {
            fleet.known.retain(|_, known| known.running || now.duration_since(known.asked) < FORGOTTEN);
        }
        self.fleets.retain(|_, fleet| !fleet.known.is_empty());
    }
}

impl Known {
    /// Nothing but whether the operator may read it itself.
    const fn new(is_own: bool, now: Instant) -> Self {
        Self {
            is_own,
            probe: Probe::Pending,
            since: now,
            asked: now,
            running: false,
            failures: 0,
            untried: 0,
            alone: false,
            own: None,
        }
    }

    /// Takes over what came of reading it. Whether that is news.
    fn learn(&mut self, outcome: Outcome, now: Instant) -> bool {
        (self.since, self.running) = (now, false);
        self.alone = matches!(outcome, Outcome::Alone(_));
        self.untried = if matches!(outcome, Outcome::Untried(_)) { self.untried + 1 } else { 0 };
        let is_told = matches!(&outcome, Outcome::Said(probe) if !matches!(probe, Probe::Refused(_)));
        self.failures = if is_told { 0 } else { self.failures.saturating_add(1) };
        let probe = match outcome {
            Outcome::Said(probe) => probe,
            Outcome::Untried(message) if self.probe == Probe::Pending && self.untried > UNTRIED => {
                Probe::Refused(Failure { code: ErrorCode::SourceUnavailable, message })
            }
            // Whom it waits for is told.
            Outcome::Alone(own) => {
                let is_news = own.is_some() && own != self.own || self.failures == 1;
                self.own = own.or_else(|| self.own.take());
                return self.probe == Probe::Pending && is_news;
            }
            Outcome::Untried(_) => return false,
        };
        // What was read stays true while it cannot be read again.
        let is_read = matches!(self.probe, Probe::Facts(_) | Probe::Faulty(_) | Probe::Unjudged(_));
        if self.probe == probe || is_read && !is_told {
            return false;
        }
        self.probe = probe;
        true
    }

    /// How long it stands from `now` on before it is read again; for ever where only another source would help.
    fn waits(&self, fresh: Duration, is_somebody_there: bool, now: Instant) -> Option<Duration> {
        if self.alone && is_somebody_there {
            return Some(Duration::ZERO);
        }
        let doubled = TRIED_AGAIN.saturating_mul(1 << (self.failures.clamp(1, 5) - 1)).min(fresh);
        let stands = match &self.probe {
            Probe::Refused(failure) if failure.code == ErrorCode::InvalidRequest => return None,
            Probe::Pending | Probe::Awaited(_) if self.failures == 0 => Duration::ZERO,
            Probe::Pending | Probe::Awaited(_) | Probe::Refused(_) => doubled,
            Probe::Facts(_) | Probe::Faulty(_) | Probe::Unjudged(_) => fresh,
        };
        Some(stands.saturating_sub(now.duration_since(self.since)))
    }
}

/// `waits`, and longer up to the next multiple of `beat` since a start that was `passed` ago.
fn together(waits: Duration, beat: Duration, passed: Duration) -> Duration {
    let over = (passed + waits).as_nanos() % beat.as_nanos().max(1);
    let rest = if over == 0 { 0 } else { beat.as_nanos() - over };
    waits + Duration::from_nanos(rest as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{AdapterFacts, FleetKey};

    fn wanted(source: usize) -> Wanted {
        let (fleet, source) = (FleetKey::default(), source.to_string());
        Wanted { fleet, source, digest: None, secret: None, claim: None }
    }

    fn not_own(_: &Wanted) -> bool {
        false
    }

    fn refused(code: ErrorCode, message: &str) -> Outcome {
        Outcome::Said(Probe::Refused(Failure { code, message: message.to_owned() }))
    }

    fn untried() -> Outcome {
        Outcome::Untried("nobody".to_owned())
    }

    struct Scene {
        memory: Memory,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            Self { memory: Memory::new(Duration::from_secs(60), now), now }
        }

        fn ask(&mut self) -> Asked {
            self.memory.ask(wanted(0), not_own, None, self.now)
        }

        /// Passes the time until it is to be read again, and says so of it; how long that was.
        fn fails(&mut self, outcome: Outcome) -> u64 {
            let mut waited = 0;
            while self.ask().read.is_none() {
                self.now += Duration::from_secs(1);
                waited += 1;
            }
            self.memory.learn(&wanted(0), outcome, self.now);
            waited
        }
    }

    #[test]
    fn what_cannot_be_read_is_tried_again_ever_later_and_the_same_is_no_news() {
        let mut scene = Scene::new();
        let no = || refused(ErrorCode::SourceUnavailable, "no");
        let waits: Vec<u64> = (0..7).map(|_| scene.fails(no())).collect();
        assert_eq!(waits, [0, 5, 10, 20, 40, 60, 60]);
        assert!(scene.ask().again.is_some());
        assert!(!scene.memory.learn(&wanted(0), no(), scene.now));
        assert!(scene.memory.learn(&wanted(0), refused(ErrorCode::SourceUnavailable, "other"), scene.now));
        // Only another source would help.
        scene.memory.learn(&wanted(0), refused(ErrorCode::InvalidRequest, "odd"), scene.now);
        scene.now += Duration::from_secs(100_000);
        let asked = scene.ask();
        assert!(asked.read.is_none() && asked.again.is_none());
    }

    #[test]
    fn that_nobody_tries_is_told_when_it_lasts_and_takes_no_words_away() {
        let mut scene = Scene::new();
        for _ in 0..UNTRIED {
            scene.fails(untried());
            assert_eq!(scene.ask().probe, Probe::Pending);
        }
        scene.fails(untried());
        let Probe::Refused(failure) = scene.ask().probe else { panic!("it is told") };
        assert_eq!(failure.message, "nobody");
        scene.fails(refused(ErrorCode::SourceUnauthorized, "closed"));
        scene.fails(untried());
        let Probe::Refused(failure) = scene.ask().probe else { panic!("it stands") };
        assert_eq!(failure.message, "closed");
    }

    #[test]
    fn what_was_read_stands_while_it_cannot_be_read_again() {
        let mut scene = Scene::new();
        let facts = Probe::Facts(AdapterFacts::default());
        scene.fails(Outcome::Said(facts.clone()));
        assert_eq!(scene.fails(refused(ErrorCode::SourceUnavailable, "no")), 60);
        assert_eq!(scene.ask().probe, facts);
    }

    #[test]
    fn without_a_reader_it_waits_for_one_and_nothing_is_begun() {
        let mut scene = Scene::new();
        let asked = scene.memory.ask(wanted(0), not_own, Some("a pod".to_owned()), scene.now);
        let awaited = Probe::Awaited("a pod".to_owned());
        assert_eq!((asked.probe, asked.again), (awaited, None));
        assert!(asked.read.is_none());
        assert!(scene.ask().read.is_some_and(|(_, failures)| failures == 0));
        assert!(scene.ask().read.is_none(), "once");
    }

    #[test]
    fn what_the_operator_cannot_read_alone_waits_for_a_pod_and_is_read_as_soon_as_there_is_one() {
        let mut scene = Scene::new();
        let ask = |memory: &mut Memory, now, lacked: Option<&str>| {
            memory.ask(wanted(0), |_| true, lacked.map(str::to_owned), now)
        };
        let first = ask(&mut scene.memory, scene.now, Some("a pod"));
        assert_eq!((first.probe, first.is_young), (Probe::Pending, true));
        assert!(first.read.is_some());
        assert!(scene.memory.learn(&wanted(0), Outcome::Alone(Some("no".to_owned())), scene.now));
        let second = ask(&mut scene.memory, scene.now, Some("a pod"));
        let awaited = "a pod; the operator itself cannot read it: no".to_owned();
        assert_eq!(second.probe, Probe::Awaited(awaited));
        assert!(second.read.is_none());
        assert!(second.again.is_some(), "it is tried again, by itself alone too");
        let third = ask(&mut scene.memory, scene.now, None);
        assert!(third.read.is_some_and(|(_, failures)| failures == 1));
    }

    #[test]
    fn times_of_many_fall_together_and_memory_has_an_end() {
        let mut scene = Scene::new();
        let mut times = std::collections::BTreeSet::new();
        for source in 0..100 {
            scene.now += Duration::from_millis(30);
            let wanted = wanted(source);
            assert!(scene.memory.ask(wanted.clone(), not_own, None, scene.now).read.is_some());
            scene.memory.learn(&wanted, refused(ErrorCode::SourceUnavailable, "no"), scene.now);
            let again = scene.memory.ask(wanted, not_own, None, scene.now).again.unwrap();
            times.insert(scene.now + again);
        }
        assert!(times.len() <= 2, "{times:?}");
        for source in 100..REMEMBERED {
            let begun = scene.memory.ask(wanted(source), not_own, None, scene.now).read.is_some();
            assert_eq!(begun, source < 100 + BEGUN, "so many at once: {source}");
        }
        let full = scene.memory.ask(wanted(REMEMBERED), not_own, None, scene.now);
        assert!(matches!(full.probe, Probe::Awaited(_)) && full.again.is_some());
        // Those that nobody reads nor asks about make room.
        for source in 100..REMEMBERED {
            scene.memory.learn(&wanted(source), untried(), scene.now);
        }
        scene.now += FORGOTTEN;
        assert!(scene.memory.ask(wanted(REMEMBERED), not_own, None, scene.now).read.is_some());
    }

    #[test]
    fn what_is_wanted_no_longer_is_forgotten_unless_somebody_reads_it() {
        let mut scene = Scene::new();
        let facts = || Outcome::Said(Probe::Facts(AdapterFacts::default()));
        let ask = |scene: &mut Scene, source: usize| {
            scene.memory.ask(wanted(source), not_own, None, scene.now).read.is_some()
        };
        assert!((0..3).all(|source| ask(&mut scene, source)));
        scene.memory.learn(&wanted(0), facts(), scene.now);
        scene.memory.learn(&wanted(1), facts(), scene.now);
        scene.now += Duration::from_secs(1);
        assert!(!ask(&mut scene, 0));
        scene.memory.settle(&FleetKey::default(), scene.now);
        assert!(!ask(&mut scene, 0), "it was asked about");
        assert!(ask(&mut scene, 1), "it is read anew");
        assert!(!ask(&mut scene, 2), "it is being read");
        for source in 0..3 {
            scene.memory.learn(&wanted(source), facts(), scene.now);
        }
        scene.now += Duration::from_secs(1);
        scene.memory.settle(&FleetKey::default(), scene.now);
        assert!(scene.memory.fleets.is_empty());
        assert!(!scene.memory.learn(&wanted(0), facts(), scene.now), "of no interest any more");
    }

    #[test]
    fn that_all_was_read_is_said_once_where_any_of_it_is_news() {
        let mut scene = Scene::new();
        let facts = || Outcome::Said(Probe::Facts(AdapterFacts::default()));
        for source in 0..3 {
            scene.memory.ask(wanted(source), not_own, None, scene.now);
        }
        let (fleet, mut through) = (FleetKey::default(), Vec::new());
        for (source, outcome) in [(0, facts()), (1, untried()), (2, untried())] {
            scene.memory.learn(&wanted(source), outcome, scene.now);
            through.push(scene.memory.is_through(&fleet));
        }
        assert_eq!(through, [false, false, true]);
        assert!(!scene.memory.is_through(&fleet));
    }
}
