//! Which adapter a name may stand for at a moment: the one it has, or while a change is under way either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// An adapter's name in the suite, or `None` while the name is unknown to the replica.
pub(crate) type Meaning = Option<String>;

/// Every name's meanings, in the order in which they were possible.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<String, Vec<BTreeSet<Meaning>>>>);

/// A moment in the life of a name.
#[derive(Clone, Copy)]
pub(crate) struct Moment(usize);

impl Ledger {
    fn with<T>(&self, name: &str, read: impl FnOnce(&mut Vec<BTreeSet<Meaning>>) -> T) -> T {
        let mut names = self.0.lock().expect("no holder panics");
        read(names.entry(name.to_owned()).or_insert_with(|| vec![[None].into()]))
    }

    /// A change of `name` to `next` was asked for: from now on it may mean either.
    pub(crate) fn begin(&self, name: &str, next: &Meaning) {
        self.with(name, |meanings| {
            let mut either = meanings.last().cloned().unwrap_or_default();
            either.insert(next.clone());
            meanings.push(either);
        });
    }

    /// The change was confirmed: from now on `name` means `next` alone.
    pub(crate) fn settle(&self, name: &str, next: &Meaning) {
        self.with(name, |meanings| meanings.push([next.clone()].into()));
    }

    /// Now.
    pub(crate) fn now(&self, name: &str) -> Moment {
        self.with(name, |meanings| Moment(meanings.len() - 1))
    }

    /// What `name` may have meant since `moment`.
    pub(crate) fn since(&self, name: &str, moment: Moment) -> BTreeSet<Meaning> {
        self.with(name, |meanings| meanings[moment.0..].iter().flatten().cloned().collect())
    }
}
