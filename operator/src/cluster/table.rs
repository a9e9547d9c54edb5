//! What was seen of one kind: the newest object under each key, and which fleets it concerns. Pure: watches feed it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fleet::FleetKey;

/// (namespace, name) of an object.
pub type ObjectKey = (String, String);

/// One object as a watch delivered it.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    /// Whose it is.
    pub key: ObjectKey,
    /// The fleet that it concerns.
    pub fleet: Option<FleetKey>,
    /// Differs where something changed that should not wait, as a spec.
    pub urgent: u64,
    /// The object.
    pub object: T,
}

/// What a watch says.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// It is there, and this is it.
    Apply(Seen<T>),
    /// It is gone.
    Delete(ObjectKey),
    /// It is there and cannot be read: what was read of it last stays.
    Unreadable(ObjectKey),
    /// Everything is told anew from here.
    Restart,
    /// Everything was told: what was not is gone.
    Complete,
}

/// A fleet that something happened to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    /// The fleet.
    pub fleet: FleetKey,
    /// It should not wait.
    pub urgent: bool,
}

#[derive(Clone, Debug)]
struct Row<T> {
    fleet: Option<FleetKey>,
    urgent: u64,
    object: Arc<T>,
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Table<T> {
    rows: BTreeMap<ObjectKey, Row<T>>,
    by_fleet: BTreeMap<FleetKey, BTreeSet<ObjectKey>>,
    /// Those told since a restart that is not complete.
    telling: Option<BTreeMap<ObjectKey, Row<T>>>,
    complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), by_fleet: BTreeMap::new(), telling: None, complete: false }
    }
}

impl<T: PartialEq> Table<T> {
    /// Takes over what a watch says; returns the fleets for which something changed.
    pub fn take(&mut self, change: Change<T>) -> Vec<Touched> {
        match change {
            Change::Restart => {
                self.telling = Some(BTreeMap::new());
                Vec::new()
            }
            Change::Apply(seen) => {
                let row = Row { fleet: seen.fleet, urgent: seen.urgent, object: Arc::new(seen.object) };
                match &mut self.telling {
                    Some(telling) => {
                        telling.insert(seen.key, row);
                        Vec::new()
                    }
                    None => self.put(seen.key, row),
                }
            }
            Change::Unreadable(key) => {
                if let (Some(telling), Some(row)) = (&mut self.telling, self.rows.get(&key)) {
                    let row =
                        Row { fleet: row.fleet.clone(), urgent: row.urgent, object: Arc::clone(&row.object) };
                    telling.insert(key, row);
                }
                Vec::new()
            }
            Change::Delete(key) => self.remove(&key).into_iter().collect(),
            Change::Complete => {
                self.complete = true;
                let told = self.telling.take().unwrap_or_default();
                let gone: Vec<ObjectKey> =
                    self.rows.keys().filter(|key| !told.contains_key(*key)).cloned().collect();
                let mut touched: Vec<Touched> = gone.iter().filter_map(|key| self.remove(key)).collect();
                touched.extend(told.into_iter().flat_map(|(key, row)| self.put(key, row)));
                touched
            }
        }
    }

    fn put(&mut self, key: ObjectKey, row: Row<T>) -> Vec<Touched> {
        let old = self.rows.get(&key);
        if old.is_some_and(|old| old.fleet == row.fleet && old.object == row.object) {
            return Vec::new();
        }
        let urgent = old.is_none_or(|old| old.urgent != row.urgent || old.fleet != row.fleet);
        let left = old.and_then(|old| old.fleet.clone()).filter(|fleet| Some(fleet) != row.fleet.as_ref());
        if let Some(fleet) = &left {
            self.unlink(fleet, &key);
        }
        let here = row.fleet.clone();
        if let Some(fleet) = &here {
            self.by_fleet.entry(fleet.clone()).or_default().insert(key.clone());
        }
        self.rows.insert(key, row);
        left.into_iter().chain(here).map(|fleet| Touched { fleet, urgent }).collect()
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Touched> {
        if let Some(telling) = &mut self.telling {
            telling.remove(key);
        }
        let fleet = self.rows.remove(key)?.fleet?;
        self.unlink(&fleet, key);
        Some(Touched { fleet, urgent: true })
    }

    fn unlink(&mut self, fleet: &FleetKey, key: &ObjectKey) {
        if let Some(keys) = self.by_fleet.get_mut(fleet) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_fleet.remove(fleet);
            }
        }
    }
}

impl<T> Table<T> {
    /// Whether everything was told once.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The object under `key`.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.rows.get(key).map(|row| &row.object)
    }

    /// The objects of `fleet`, ordered by key.
    pub fn of_fleet<'a>(&'a self, fleet: &FleetKey) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> {
        let keys = self.by_fleet.get(fleet).into_iter().flatten();
        keys.filter_map(|key| self.rows.get(key).map(|row| (key, &row.object)))
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.rows.keys()
    }

    /// The fleets that any object concerns.
    pub fn fleets(&self) -> impl Iterator<Item = &FleetKey> {
        self.by_fleet.keys()
    }

    /// The fleets that objects of `namespace` concern.
    pub fn fleets_of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a FleetKey> {
        self.rows
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((of, _), _)| of == namespace)
            .filter_map(|(_, row)| row.fleet.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(name: &str) -> FleetKey {
        FleetKey { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    fn key(name: &str) -> ObjectKey {
        ("ns".to_owned(), name.to_owned())
    }

    fn seen(name: &str, of: &str, urgent: u64, object: u32) -> Change<u32> {
        Change::Apply(Seen { key: key(name), fleet: Some(fleet(of)), urgent, object })
    }

    fn touched(of: &str, urgent: bool) -> Touched {
        Touched { fleet: fleet(of), urgent }
    }

    fn told(table: &mut Table<u32>, changes: Vec<Change<u32>>) -> Vec<Touched> {
        changes.into_iter().flat_map(|change| table.take(change)).collect()
    }

    #[test]
    fn an_object_that_moves_touches_the_fleet_it_left_too() {
        let mut table = Table::default();
        assert_eq!(table.take(seen("a", "x", 1, 1)), [touched("x", true)]);
        assert_eq!(table.take(seen("a", "y", 1, 1)), [touched("x", true), touched("y", true)]);
        assert_eq!(table.of_fleet(&fleet("x")).count(), 0);
        assert_eq!(table.fleets().collect::<Vec<_>>(), [&fleet("y")]);
    }

    #[test]
    fn the_same_again_touches_nothing_and_a_status_can_wait() {
        let mut table = Table::default();
        table.take(seen("a", "x", 1, 1));
        assert_eq!(table.take(seen("a", "x", 1, 1)), []);
        assert_eq!(table.take(seen("a", "x", 1, 2)), [touched("x", false)]);
        assert_eq!(table.take(seen("a", "x", 2, 3)), [touched("x", true)]);
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone() {
        let mut table = Table::default();
        let first = vec![Change::Restart, seen("a", "x", 1, 1), seen("b", "y", 1, 1), Change::Complete];
        assert_eq!(told(&mut table, first), [touched("x", true), touched("y", true)]);
        assert!(table.is_complete());
        let second = vec![Change::Restart, seen("b", "y", 1, 1)];
        assert_eq!(told(&mut table, second), []);
        assert!(table.get(&key("a")).is_some(), "until the list is complete, what was known stays");
        assert_eq!(table.take(Change::Complete), [touched("x", true)]);
        assert!(table.get(&key("a")).is_none());
    }

    #[test]
    fn an_unreadable_object_stays_as_it_was_read_last() {
        let mut table = Table::default();
        table.take(seen("a", "x", 1, 1));
        let again = vec![
            Change::Unreadable(key("a")),
            Change::Restart,
            Change::Unreadable(key("a")),
            Change::Unreadable(key("never")),
            Change::Complete,
        ];
        assert_eq!(told(&mut table, again), []);
        assert_eq!(table.get(&key("a")).map(|object| **object), Some(1));
        assert!(table.get(&key("never")).is_none());
    }

    #[test]
    fn namespaces_are_ranges() {
        let mut table = Table::default();
        for (namespace, name, of) in [("m", "z", "1"), ("n", "a", "2"), ("n", "b", "3"), ("na", "a", "4")] {
            let key = (namespace.to_owned(), name.to_owned());
            table.take(Change::Apply(Seen { key, fleet: Some(fleet(of)), urgent: 0, object: 0 }));
        }
        assert_eq!(table.fleets_of_namespace("n").collect::<Vec<_>>(), [&fleet("2"), &fleet("3")]);
    }
}
