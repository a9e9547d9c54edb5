//! How names come, change and go: command line, vLLM's endpoints, desired sets and changes of them. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use lorikeet_api::{DesiredAdapter, DesiredChange, DesiredSet, ErrorCode, Version};

use super::tenures::Tenures;
use super::{Entry, Ledger, Variant};
use crate::adapters::failure::LoadFailure;
use crate::adapters::name;
use crate::adapters::wanted::Desire;
use crate::source::Trust;

impl Ledger {
    /// The command line names an adapter.
    pub(crate) fn register(
        &mut self,
        name: &str,
        desire: Desire,
        now: Instant,
    ) -> Result<Arc<str>, LoadFailure> {
        self.check_name(name)?;
        if self.names.contains_key(name) {
            return Err(conflict(format!("name: {name:?} is given twice")));
        }
        self.check_limit(1)?;
        let name = self.set(name, desire.clone(), now);
        if let Some(entry) = self.names.get_mut(&name) {
            entry.command_line = Some(desire);
        }
        Ok(name)
    }

    /// The registry names an adapter: it is desired as if by a set that is older than any.
    pub(crate) fn preset(&mut self, adapter: &DesiredAdapter, now: Instant) -> Result<Arc<str>, LoadFailure> {
        self.check_name(&adapter.name)?;
        if self.names.contains_key(&*adapter.name) {
            return Err(conflict(format!("name: {:?} is given twice", adapter.name)));
        }
        self.check_limit(1)?;
        Ok(self.desire(adapter, now))
    }

    /// Whether [`Self::set`] may take `name` from a caller that loads it by hand.
    pub(crate) fn check_load(&self, name: &str, in_place: bool) -> Result<(), LoadFailure> {
        self.check_name(name)?;
        match self.knows(name) {
            true if !in_place => Err(conflict(format!("name: {name:?} is loaded already"))),
            true => Ok(()),
            false => self.check_limit(1),
        }
    }

    /// The whole desired set. The names whose loads may have to begin come back.
    pub(crate) fn apply(&mut self, set: &DesiredSet, now: Instant) -> Result<Vec<Arc<str>>, LoadFailure> {
        // An equal version is accepted again: the writer did not hear the first answer. Its content is taken anew,
        // which changes nothing where it is the same.
        if let Some(held) = self.version.filter(|held| set.version < *held) {
            return Err(stale(format!(
                "version: expected {held} or newer (epoch.sequence), got {}",
                set.version
            )));
        }
        let named = self.check_names(&set.adapters)?;
        let kept = self.names.iter().filter(|(_, entry)| entry.command_line.is_some() && !entry.draining);
        let others = kept.filter(|(name, _)| !named.contains(&***name)).count();
        if named.len() + others > self.limit {
            return Err(self.too_many(named.len() + others));
        }
        let gone: Vec<Arc<str>> = self.names().filter(|name| !named.contains(&***name)).cloned().collect();
        let mut changed: Vec<Arc<str>> = gone.iter().filter_map(|name| self.undesire(name, now)).collect();
        changed.extend(set.adapters.iter().map(|adapter| self.desire(adapter, now)));
        self.take_version(set.version);
        Ok(changed)
    }

    /// A change of the desired set. The names whose loads may have to begin come back.
    pub(crate) fn change(
        &mut self,
        change: &DesiredChange,
        now: Instant,
    ) -> Result<Vec<Arc<str>>, LoadFailure> {
        let held = self.version.unwrap_or_default();
        if change.version <= change.base {
            return Err(LoadFailure::new(
                ErrorCode::InvalidRequest,
                format!("version: expected one newer than base {}, got {}", change.base, change.version),
            ));
        }
        if held != change.base {
            return Err(stale(format!(
                "base: expected {held}, which is held (epoch.sequence), got {}",
                change.base
            )));
        }
        let named = self.check_names(&change.set)?;
        if let Some(both) = change.remove.iter().find(|name| named.contains(name.as_str())) {
            return Err(conflict(format!("name: {both:?} is both set and removed")));
        }
        let new = named.iter().filter(|name| !self.knows(name)).count();
        let gone = change.remove.iter().filter(|name| self.knows(name)).count();
        self.check_limit(new.saturating_sub(gone))?;
        let mut changed: Vec<Arc<str>> =
            change.remove.iter().filter_map(|name| self.undesire(name, now)).collect();
        changed.extend(change.set.iter().map(|adapter| self.desire(adapter, now)));
        self.take_version(change.version);
        Ok(changed)
    }

    /// The version of the newest desired set.
    pub(crate) const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Nobody may ask for `name` any more; it is forgotten with its last request, which ends in time. `false` when there is
    /// no such name.
    pub(crate) fn remove(&mut self, name: &str, now: Instant) -> bool {
        let Some((name, _)) = self.names.get_key_value(name).filter(|(_, entry)| !entry.draining) else {
            return false;
        };
        let name = Arc::clone(name);
        if let Some(entry) = self.names.get_mut(&name) {
            entry.draining = true;
            entry.desired = false;
            entry.command_line = None;
            entry.next = None;
            entry.give_notice(self.drain, now);
        }
        self.changes.drains(&name);
        self.touch(&name);
        true
    }

    /// `name` means `desire` from now on; what it serves stays until that is in memory, unless it was removed before.
    pub(crate) fn set(&mut self, name: &str, desire: Desire, now: Instant) -> Arc<str> {
        self.forget_the_removed(name, &desire);
        let known = self.names.get_key_value(name).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Arc::from(name));
        let tenures = Tenures::new(&self.bell);
        let fresh = || Entry::new(Variant::of(desire.clone()), tenures);
        let is_new = !self.names.contains_key(&name);
        let entry = self.names.entry(Arc::clone(&name)).or_insert_with(fresh);
        let changed = entry.turn_to(desire) | std::mem::take(&mut entry.draining) | is_new;
        entry.give_notice(self.drain, now);
        self.changes.drains_no_more(&name);
        if changed {
            self.touch(&name);
            self.place(&name);
        }
        name
    }

    /// A name that was removed and comes back with another meaning must not serve the old one: requests that still run
    /// hold it by their pins.
    fn forget_the_removed(&mut self, name: &str, desire: &Desire) {
        let Some((name, _)) = self.names.get_key_value(name) else { return };
        let name = Arc::clone(name);
        let Some(entry) = self.names.get_mut(&name).filter(|entry| entry.draining) else { return };
        if entry.serving.desire.wanted != desire.wanted {
            let old = std::mem::replace(&mut entry.serving, Variant::of(desire.clone()));
            self.turn(&name, old.generation(), None);
        }
    }

    fn desire(&mut self, desired: &DesiredAdapter, now: Instant) -> Arc<str> {
        let name = self.set(&desired.name, Desire::of(desired, Trust::Admin), now);
        if let Some(entry) = self.names.get_mut(&name) {
            entry.desired = true;
        }
        name
    }

    /// The desired set names it no longer: back to what the command line says, or gone.
    fn undesire(&mut self, name: &str, now: Instant) -> Option<Arc<str>> {
        let entry = self.names.get_mut(name)?;
        entry.desired = false;
        match entry.command_line.clone() {
            Some(desire) => Some(self.set(name, desire, now)),
            None => {
                self.remove(name, now);
                None
            }
        }
    }

    fn take_version(&mut self, version: Version) {
        if self.version != Some(version) {
            self.version = Some(version);
            self.changes.next();
        }
    }

    fn check_names<'a>(&self, adapters: &'a [DesiredAdapter]) -> Result<HashSet<&'a str>, LoadFailure> {
        let mut named = HashSet::with_capacity(adapters.len());
        for adapter in adapters {
            self.check_name(&adapter.name)?;
            if !named.insert(adapter.name.as_str()) {
                return Err(conflict(format!("name: {:?} is given twice", adapter.name)));
            }
        }
        Ok(named)
    }

    fn check_name(&self, name: &str) -> Result<(), LoadFailure> {
        if name == self.base {
            return Err(conflict(format!("name: {name:?} is the base model's")));
        }
        if !name::is_valid(name) {
            let shown: String = name.chars().take(80).collect();
            return Err(LoadFailure::new(
                ErrorCode::InvalidRequest,
                format!("name: expected {}, got {shown:?}", name::EXPECTED),
            ));
        }
        Ok(())
    }

    fn check_limit(&self, more: usize) -> Result<(), LoadFailure> {
        // Names that drain count: they hold memory until their requests end.
        let all = self.names.len() + more;
        if more > 0 && all > self.limit { Err(self.too_many(all)) } else { Ok(()) }
    }

    fn too_many(&self, count: usize) -> LoadFailure {
        LoadFailure::new(
            ErrorCode::TooLarge,
            format!("adapters: {count} would be registered, at most {} may", self.limit),
        )
    }
}

impl Entry {
    /// Whether anything that reports show changed.
    fn turn_to(&mut self, desire: Desire) -> bool {
        if self.serving.desire.wanted == desire.wanted {
            let same = self.serving.desire == desire && self.next.is_none();
            self.serving.desire.rewrite(&desire);
            self.next = None;
            return !same;
        }
        if self.next.as_ref().is_some_and(|next| next.desire.wanted == desire.wanted) {
            self.serving.desire.placement = desire.placement;
            self.next.iter_mut().for_each(|next| next.desire.rewrite(&desire));
            return true;
        }
        if self.serving.facts.is_none() {
            self.serving = Variant::of(desire);
            self.next = None;
        } else {
            self.serving.desire.placement = desire.placement;
            self.next = Some(Variant::of(desire));
        }
        true
    }
}

fn conflict(message: String) -> LoadFailure {
    LoadFailure::new(ErrorCode::NameConflict, message)
}

fn stale(message: String) -> LoadFailure {
    LoadFailure::new(ErrorCode::StaleVersion, message)
}
