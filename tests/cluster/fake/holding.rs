//! What a scripted replica holds, and how it changes: versions, adapters, reports. No clock, no network.

use std::collections::{BTreeMap, BTreeSet};

use lorikeet_api::{
    AdapterReport, AdapterState, BaseModel, DesiredAdapter, DesiredChange, DesiredSet, Failure, ReportedSet,
    Tier, TierBytes, Version,
};

/// What every adapter takes.
const BYTES: u64 = 1 << 20;

/// A write that was not taken over: the version is not newer, or not the base of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejected;

/// One adapter, and the report that its last change made.
struct Held {
    report: AdapterReport,
    since: u64,
}

/// What one process of a replica holds. A change costs what it changes, not what is held.
pub(crate) struct Holding {
    instance: String,
    count: u64,
    version: Option<Version>,
    desired: BTreeMap<String, DesiredAdapter>,
    adapters: BTreeMap<String, Held>,
    /// Every adapter by the report of its last change.
    news: BTreeSet<(u64, String)>,
    gone: BTreeMap<String, u64>,
    pinned: BTreeSet<String>,
    draining: BTreeSet<String>,
}

impl Holding {
    /// Nothing, in a new process.
    pub(crate) fn new(instance: String) -> Self {
        Self {
            instance,
            count: 1,
            version: None,
            desired: BTreeMap::new(),
            adapters: BTreeMap::new(),
            news: BTreeSet::new(),
            gone: BTreeMap::new(),
            pinned: BTreeSet::new(),
            draining: BTreeSet::new(),
        }
    }

    /// Its process.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The count of its newest report.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// What the registry names is desired as by a set that is older than any. Returns the adapters that are to be loaded.
    pub(crate) fn preset(&mut self, adapters: Vec<DesiredAdapter>) -> Vec<DesiredAdapter> {
        self.take_over(None, adapters, Vec::new())
    }

    /// Takes over a whole set. Returns the adapters that are to be loaded.
    pub(crate) fn put(&mut self, set: DesiredSet) -> Result<Vec<DesiredAdapter>, Rejected> {
        if self.version.is_some_and(|held| set.version < held) {
            return Err(Rejected);
        }
        let names: BTreeSet<&str> = set.adapters.iter().map(|one| one.name.as_str()).collect();
        let remove = self.desired.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        Ok(self.take_over(Some(set.version), set.adapters, remove))
    }

    /// Takes over a change. Returns the adapters that are to be loaded.
    pub(crate) fn patch(&mut self, change: DesiredChange) -> Result<Vec<DesiredAdapter>, Rejected> {
        if self.version != Some(change.base) || change.version <= change.base {
            return Err(Rejected);
        }
        Ok(self.take_over(Some(change.version), change.set, change.remove))
    }

    fn take_over(
        &mut self,
        version: Option<Version>,
        set: Vec<DesiredAdapter>,
        remove: Vec<String>,
    ) -> Vec<DesiredAdapter> {
        self.version = version;
        self.count += 1;
        for name in remove {
            self.desired.remove(&name);
            self.pinned.remove(&name);
            if self.change(&name, |report| report.state = AdapterState::Draining) {
                self.draining.insert(name);
            }
        }
        let mut loads = Vec::new();
        for wanted in set {
            let before = self.desired.insert(wanted.name.clone(), wanted.clone());
            if before.as_ref() != Some(&wanted) || !self.adapters.contains_key(&wanted.name) {
                self.begin(&wanted);
                loads.push(wanted);
            }
        }
        loads
    }

    fn begin(&mut self, wanted: &DesiredAdapter) {
        let name = &wanted.name;
        self.gone.remove(name);
        self.draining.remove(name);
        if wanted.pinned {
            self.pinned.insert(name.clone());
        } else {
            self.pinned.remove(name);
        }
        if !self.adapters.contains_key(name) {
            self.adapters.insert(name.clone(), Held { report: registered(name), since: self.count });
        }
        self.change(name, |report| {
            report.source.clone_from(&wanted.source);
            report.credentials.clone_from(&wanted.credentials);
            // One that serves goes on serving its old generation while the new one loads.
            if report.digest.is_none() {
                report.state = if wanted.resident { AdapterState::Loading } else { AdapterState::Registered };
            }
        });
    }

    /// Changes the report of `name`, where it is held.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut AdapterReport)) -> bool {
        let Some(held) = self.adapters.get_mut(name) else { return false };
        self.count += 1;
        self.news.remove(&(held.since, name.to_owned()));
        self.news.insert((self.count, name.to_owned()));
        held.since = self.count;
        change(&mut held.report);
        true
    }

    /// The load of `wanted` has ended, well or with `failure`; nothing, when something else is desired by now.
    pub(crate) fn loaded(&mut self, wanted: &DesiredAdapter, failure: Option<Failure>) {
        if self.desired.get(&wanted.name) != Some(wanted) {
            return;
        }
        self.change(&wanted.name, |report| {
            report.error.clone_from(&failure);
            if failure.is_some() {
                // An older generation goes on serving.
                if report.digest.is_none() {
                    report.state = AdapterState::Failed;
                }
                return;
            }
            *report = AdapterReport { demand: report.demand, ..registered(&wanted.name) };
            report.source.clone_from(&wanted.source);
            if wanted.resident {
                (report.state, report.tier) = (AdapterState::Ready, Tier::Resident);
                report.digest = Some(digest(wanted));
                report.revision.clone_from(&wanted.revision);
                (report.rank, report.bytes) = (8, BYTES);
                report.target_modules = vec!["q_proj".to_owned(), "v_proj".to_owned()];
                report.base_model = Some(base_model(wanted));
            }
        });
    }

    /// The drain of what is no longer desired has ended, but for the names that it `clings` to.
    pub(crate) fn drained(&mut self, clings: &[String]) {
        let over: Vec<String> = self.draining.iter().filter(|name| !clings.contains(name)).cloned().collect();
        over.iter().for_each(|name| self.lose(name));
    }

    /// So many requests at a time are for `name`. Whether it is held.
    pub(crate) fn asked(&mut self, name: &str, demand: u32) -> bool {
        self.change(name, |report| report.demand = demand)
    }

    /// `name` is gone; what is desired, and its version, stays.
    pub(crate) fn lose(&mut self, name: &str) {
        self.draining.remove(name);
        if let Some(held) = self.adapters.remove(name) {
            self.news.remove(&(held.since, name.to_owned()));
            self.count += 1;
            self.gone.insert(name.to_owned(), self.count);
        }
    }

    /// Whether every adapter that is pinned here is loaded.
    pub(crate) fn pinned_are_ready(&self) -> bool {
        self.pinned.iter().all(|name| self.serves(name))
    }

    /// Whether `name` is served from the device.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.adapters.get(name).is_some_and(|held| {
            held.report.state == AdapterState::Ready && held.report.tier == Tier::Resident
        })
    }

    /// The report: whole, or what changed after report `after`.
    pub(crate) fn report(&self, base_ready: bool, after: Option<u64>) -> ReportedSet {
        let news: Vec<AdapterReport> = match after {
            None => self.adapters.values().map(|held| held.report.clone()).collect(),
            Some(after) => {
                let names: BTreeSet<&String> =
                    self.news.range((after + 1, String::new())..).map(|(_, name)| name).collect();
                names.into_iter().map(|name| self.adapters[name].report.clone()).collect()
            }
        };
        let gone = self.gone.iter().filter(|(_, at)| after.is_some_and(|after| **at > after));
        let used = self.adapters.len() as u64 * BYTES;
        ReportedSet {
            instance: self.instance.clone(),
            report: self.count,
            version: self.version,
            base: BaseModel {
                name: "base".to_owned(),
                digest: Some(format!("sha256:{}", "b".repeat(64))),
                revision: None,
                ready: base_ready,
            },
            draining: false,
            resident: TierBytes { used, budget: 64 << 30 },
            host: TierBytes { used: 0, budget: 64 << 30 },
            complete: after.is_none(),
            adapters: news,
            removed: gone.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// The base model that the configuration of `wanted` names: `acme/X` where its source ends with `-on-X`, else none.
fn base_model(wanted: &DesiredAdapter) -> String {
    wanted.source.rsplit_once("-on-").map_or_else(String::new, |(_, name)| format!("acme/{name}"))
}

fn registered(name: &str) -> AdapterReport {
    AdapterReport { name: name.to_owned(), ..AdapterReport::default() }
}

/// The digest of what `wanted` names: its pin, else one made of its source and revision.
pub(crate) fn digest(wanted: &DesiredAdapter) -> String {
    wanted.digest.clone().unwrap_or_else(|| {
        let text = format!("{}@{}", wanted.source, wanted.revision.as_deref().unwrap_or_default());
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("sha256:{}", format!("{hash:016x}").repeat(4))
    })
}

#[test]
fn a_scripted_replica_reports_what_changed_since_a_report_and_takes_no_older_set() {
    let wanted =
        |name: &str| DesiredAdapter { name: name.to_owned(), resident: true, ..DesiredAdapter::default() };
    let version = |sequence| Version { epoch: 1, sequence };
    let mut holding = Holding::new("p".to_owned());
    let set = DesiredSet { version: version(2), adapters: vec![wanted("a"), wanted("b")] };
    let loads = holding.put(set.clone()).expect("the first set");
    loads.iter().for_each(|one| holding.loaded(one, None));
    let seen = holding.report(true, None);
    assert!(seen.complete && seen.adapters.iter().all(|one| one.state == AdapterState::Ready), "{seen:?}");
    assert_eq!(holding.put(DesiredSet { version: version(1), ..set }).err(), Some(Rejected));
    let change = DesiredChange {
        base: version(2),
        version: version(3),
        remove: vec!["a".to_owned()],
        set: vec![wanted("c")],
    };
    assert_eq!(holding.patch(DesiredChange { base: version(1), ..change.clone() }).err(), Some(Rejected));
    let loads = holding.patch(change).expect("a change of what is held");
    assert_eq!(loads, [wanted("c")]);
    holding.drained(&[]);
    let news = holding.report(true, Some(seen.report));
    assert_eq!((news.complete, news.removed), (false, vec!["a".to_owned()]));
    assert_eq!(news.adapters.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["c"]);
}
