//! When what is printed: the tables once their objects are known, later the rows that changed, and once where it all
//! answers. Must not print, nor read a clock.

use std::time::{Duration, Instant};

use crate::up::table::Table;

/// A change is shown once nothing changed for so long, or after the longer time while things change.
const SETTLED: Duration = Duration::from_millis(300);
const IMPATIENT: Duration = Duration::from_secs(2);
/// So long everything that is to come is waited for: a model may take its time.
const FIRST: Duration = Duration::from_secs(10);

/// The tables of Deployments and of Adapters.
pub type Tables = [Table; 2];

/// How far the objects are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Every object is as it is asked for, or will not be before somebody changes something.
    pub settled: bool,
    /// Every Deployment, and there is one, answers.
    pub available: bool,
}

/// What was shown.
#[derive(Default)]
pub struct Screen {
    shown: Tables,
    pending: Option<Pending>,
    available_since: Option<Instant>,
    announced: bool,
}

struct Pending {
    tables: Tables,
    since: Instant,
    began: Instant,
}

impl Screen {
    /// What is to be printed of `tables` now.
    pub fn show(&mut self, tables: Tables, standing: Standing, now: Instant) -> Option<String> {
        if !differs(&tables, &self.shown) {
            (self.shown, self.pending) = (tables, None);
            return None;
        }
        let pending =
            self.pending.get_or_insert_with(|| Pending { tables: tables.clone(), since: now, began: now });
        if differs(&tables, &pending.tables) {
            pending.since = now;
        }
        pending.tables = tables;
        let is_first = self.shown.iter().all(Table::is_empty);
        let has_settled = now - pending.since >= SETTLED && (standing.settled || !is_first);
        let is_late = now - pending.began >= if is_first { FIRST } else { IMPATIENT };
        if !(has_settled || is_late) {
            return None;
        }
        let tables = self.pending.take()?.tables;
        let text = tables.iter().zip(&self.shown).map(|(table, shown)| table.news(shown));
        let text: Vec<String> = text.filter(|text| !text.is_empty()).collect();
        self.shown = tables;
        Some(text.join("\n"))
    }

    /// Whether nothing is left to be shown or announced until an object changes.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.pending.is_none() && (self.announced || self.available_since.is_none())
    }

    /// Whether it was said that it answers.
    #[must_use]
    pub const fn has_announced(&self) -> bool {
        self.announced
    }

    /// Whether it is to be said now that it answers: once, and below a table.
    pub fn announces(&mut self, standing: Standing, now: Instant) -> bool {
        if !standing.available {
            self.available_since = None;
            return false;
        }
        let since = *self.available_since.get_or_insert(now);
        let is_shown = self.pending.is_none() && !self.shown[0].is_empty();
        let is_time = standing.settled || now - since >= FIRST;
        let announces = !self.announced && is_shown && is_time;
        self.announced |= announces;
        announces
    }
}

fn differs(new: &Tables, old: &Tables) -> bool {
    new.iter().zip(old).any(|(new, old)| !new.news(old).is_empty())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use lorikeet_crds::{Adapter, AdapterSpec, Deployment, DeploymentSpec};

    use super::*;

    fn tables(adapters: &[(&str, &str)]) -> Tables {
        let mut deployment = Deployment::new("mistral", DeploymentSpec::default());
        deployment.metadata.namespace = Some("default".to_owned());
        let of = |(name, deployment): &(&str, &str)| {
            let mut one = Adapter::new(name, AdapterSpec::default());
            one.metadata.namespace = Some("default".to_owned());
            one.spec.deployment_ref.name = (*deployment).to_owned();
            one
        };
        let adapters: Vec<Adapter> = adapters.iter().map(of).collect();
        let now = Timestamp::UNIX_EPOCH;
        [Table::of([&deployment].into_iter(), false, now), Table::of(adapters.iter(), false, now)]
    }

    #[test]
    fn the_whole_table_comes_once_and_then_what_changed() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut screen = Screen::default();
        assert!(screen.is_at_rest());
        let (loading, ready) = (Standing::default(), Standing { settled: true, available: true });
        let first = [("a", "mistral"), ("b", "mistral")];
        assert_eq!(screen.show(tables(&first), loading, at(0.0)), None);
        assert_eq!(screen.show(tables(&first), loading, at(5.0)), None, "what is to come is waited for");
        assert!(!screen.announces(ready, at(5.0)), "not before the table");
        let whole = screen.show(tables(&first), ready, at(5.1)).unwrap();
        assert_eq!((whole.matches("NAME").count(), whole.matches("adapter.").count()), (2, 2), "{whole}");
        assert!(!screen.is_at_rest(), "it is not announced yet");
        assert!(screen.announces(ready, at(5.2)) && !screen.announces(ready, at(5.3)));
        assert!(screen.is_at_rest());

        assert_eq!(screen.show(tables(&first), ready, at(6.0)), None);
        let edited = [("a", "mistral"), ("b", "llama"), ("c", "mistral")];
        assert_eq!(screen.show(tables(&edited), ready, at(7.0)), None);
        assert!(!screen.is_at_rest(), "an edit waits to be shown");
        let news = screen.show(tables(&edited), ready, at(7.4)).unwrap();
        assert_eq!(news, "adapter.lorikeet.dev/b   llama\nadapter.lorikeet.dev/c   mistral\n");
        assert!(screen.is_at_rest());
        assert_eq!(screen.show(tables(&edited[..1]), ready, at(8.0)), None, "what goes is told elsewhere");
        assert_eq!(screen.show(tables(&edited), ready, at(9.0)), None);
        assert!(screen.show(tables(&edited), ready, at(9.4)).is_some(), "what comes back is news");
    }

    #[test]
    fn what_takes_long_is_shown_all_the_same() {
        let start = Instant::now();
        let late = start + FIRST;
        let mut screen = Screen::default();
        let standing = Standing { settled: false, available: true };
        assert_eq!(screen.show(tables(&[]), standing, start), None);
        assert!(!screen.announces(standing, start));
        assert!(screen.show(tables(&[]), standing, late).is_some());
        assert!(screen.announces(standing, late));
    }
}
