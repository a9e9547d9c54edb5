//! Statuses of a fleet that the API server refuses for good, as where somebody's admission rule is against those of a
//! namespace. They are tried again after a pause that grows, and keep no other status waiting. Pure: `now` is passed.
//!
//! Bounded by the statuses that the newest look would write: what it would not is forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cluster::failure::Failure;
use crate::cluster::table::ObjectKey;
use crate::cluster::world::OwnKind;

/// Whose status it is.
pub type Subject = (OwnKind, ObjectKey);

/// The refused statuses of one fleet.
#[derive(Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<Subject, Refused>,
    /// Refusals so far: each is later than those before.
    count: u64,
    failures: u32,
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    reason: &'static str,
    /// The refusal that was the last of it.
    at: u64,
    /// The newest look would write it.
    is_wanted: bool,
}

/// Whether a status is written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// It was not refused.
    First,
    /// It is tried again: those that were refused the longest ago go first.
    Again(u64),
    /// It waits for the end of the pause.
    Held,
}

impl Refusals {
    /// A look that begins to say what it sees wants each of these written.
    pub fn turn(&mut self, subject: &Subject, now: Instant) -> Turn {
        let is_held = self.is_held(now);
        match self.refused.get_mut(subject) {
            None => Turn::First,
            Some(one) => {
                one.is_wanted = true;
                if is_held { Turn::Held } else { Turn::Again(one.at) }
            }
        }
    }

    /// Forgets what the look did not ask [`Self::turn`] for, since the last call.
    pub fn forget_others(&mut self) {
        self.refused.retain(|_, one| std::mem::take(&mut one.is_wanted));
        self.settle();
    }

    /// What became of the writes of a look. Returns what failed, and of each whether it is worth telling: refused for good, and
    /// not before for that reason. A refusal that is new does not make those wait longer that do.
    pub fn take(
        &mut self,
        done: Vec<(Subject, Result<(), Failure>)>,
        pause: impl FnOnce(u32) -> Duration,
        now: Instant,
    ) -> Vec<(Failure, bool)> {
        let mut failed = Vec::new();
        for (subject, result) in done {
            match result {
                Ok(()) => drop(self.refused.remove(&subject)),
                Err(failure) => {
                    let is_news = failure.is_lasting() && self.refuse(subject, failure.reason());
                    failed.push((failure, is_news));
                }
            }
        }
        if failed.iter().any(|(failure, _)| failure.is_lasting()) && !self.is_held(now) {
            self.failures = self.failures.saturating_add(1);
            self.held_until = Some(now + pause(self.failures));
        }
        self.settle();
        failed
    }

    /// Whether that is news.
    fn refuse(&mut self, subject: Subject, reason: &'static str) -> bool {
        self.count += 1;
        let refused = Refused { reason, at: self.count, is_wanted: false };
        self.refused.insert(subject, refused).is_none_or(|before| before.reason != reason)
    }

    /// When to look again for those that wait. One whose pause is over is written by the look that says what it sees.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now && !self.refused.is_empty())
    }

    /// What caused it may be over.
    pub fn forgive(&mut self) {
        self.held_until = None;
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    fn settle(&mut self) {
        if self.refused.is_empty() {
            (self.failures, self.held_until) = (0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pause(failures: u32) -> Duration {
        100 * MS * failures
    }

    fn subject(name: &str) -> Subject {
        (OwnKind::Adapter, ("ns".to_owned(), name.to_owned()))
    }

    /// A look that would write these, as the controller goes on with it.
    fn turns(refusals: &mut Refusals, names: &[&str], now: Instant) -> Vec<Turn> {
        let turns = names.iter().map(|name| refusals.turn(&subject(name), now)).collect();
        refusals.forget_others();
        turns
    }

    const TAKEN: Result<(), Failure> = Ok(());

    fn refused() -> Result<(), Failure> {
        Err(Failure::Refused { what: String::new(), message: String::new() })
    }

    fn forbidden() -> Result<(), Failure> {
        Err(Failure::Forbidden { what: String::new(), message: String::new() })
    }

    fn passing() -> Result<(), Failure> {
        Err(Failure::Conflict { what: String::new() })
    }

    /// Takes what became of the writes of these; whether each that failed is news.
    fn news(refusals: &mut Refusals, done: Vec<(&str, Result<(), Failure>)>, now: Instant) -> Vec<bool> {
        let done = done.into_iter().map(|(name, result)| (subject(name), result)).collect();
        refusals.take(done, pause, now).into_iter().map(|(_, is_news)| is_news).collect()
    }

    #[test]
    fn what_is_refused_waits_for_a_pause_that_grows_and_nothing_else_does() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(turns(&mut refusals, &["a", "b"], now), [Turn::First; 2]);
        assert_eq!(news(&mut refusals, vec![("a", refused()), ("b", passing())], now), [true, false]);
        assert_eq!(refusals.due(now), Some(now + 100 * MS));
        let soon = now + 99 * MS;
        assert_eq!(turns(&mut refusals, &["a", "b"], soon), [Turn::Held, Turn::First]);
        // Another's refusal is no reason to wait longer, nor is another's success one to wait no longer.
        assert_eq!(news(&mut refusals, vec![("c", refused())], soon), [true]);
        assert_eq!(news(&mut refusals, vec![("b", TAKEN)], soon), Vec::<bool>::new());
        let then = now + 100 * MS;
        assert_eq!((refusals.due(soon), refusals.due(then)), (Some(then), None));
        assert_eq!(turns(&mut refusals, &["c", "a"], then), [Turn::Again(2), Turn::Again(1)]);
        let done = vec![("a", refused()), ("c", forbidden())];
        assert_eq!(news(&mut refusals, done, then), [false, true], "the one was told, the other was not");
        assert_eq!(refusals.due(then), Some(then + 200 * MS));
        refusals.forgive();
        assert_eq!(turns(&mut refusals, &["c", "a"], then), [Turn::Again(4), Turn::Again(3)]);
    }

    #[test]
    fn what_is_written_or_wanted_no_longer_is_forgotten_and_success_begins_anew() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        news(&mut refusals, vec![("a", refused()), ("b", refused())], now);
        assert_eq!(turns(&mut refusals, &["b"], now), [Turn::Held]);
        assert_eq!(turns(&mut refusals, &["a", "b"], now), [Turn::First, Turn::Held], "a is forgotten");
        news(&mut refusals, vec![("b", TAKEN)], now);
        assert_eq!(refusals.due(now), None);
        assert_eq!(news(&mut refusals, vec![("b", refused())], now), [true]);
        assert_eq!(refusals.due(now), Some(now + 100 * MS));
        assert_eq!(turns(&mut refusals, &[], now), []);
        assert_eq!(refusals.due(now), None);
    }
}
